//! When a scenario is played: `cargo lab test` has an hour for everything, and `cargo lab soak` plays all.
//!
//! A line of the table is a scenario, or a group of them: the longest line that a name begins with counts.

/// How often a scenario is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// In every era.
    Main,
    /// In the era that is tried wholly.
    Whole,
    /// Only in a soak.
    Soak,
}

/// How much of an era is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Played {
    /// Of its main paths these scenarios or groups of them.
    Only(Vec<String>),
    /// Its main paths.
    MainPaths,
    /// All but what takes long and shows little more.
    Wholly,
    /// Everything.
    Everything,
}

#[rustfmt::skip]
const TIERS: &[(&str, Tier)] = &[
    ("refusals",                  Tier::Whole),
    ("refusals/untrusted-signer", Tier::Main),
    ("refusals/other-version",    Tier::Main),
    ("refusals/older-pot",        Tier::Main),
    ("refusals/docker-pot",       Tier::Main),
    ("refusals/stale-member",     Tier::Main),
    ("refusals/containerd-cgroup-driver", Tier::Main),
    ("lean-host",                 Tier::Whole),
    ("broken-installer",          Tier::Whole),
    ("join",                      Tier::Main),
    ("sigkill",                   Tier::Whole),
    ("sigkill/rebirth",           Tier::Soak),
    ("sigkill/change",            Tier::Soak),
    ("broken",                    Tier::Soak),
    ("leak",                      Tier::Whole),
    ("rebirth",                   Tier::Soak),
    ("rebirth/wiped-follower",    Tier::Main),
    ("protected",                 Tier::Whole),
    ("protected/two-down",        Tier::Soak),
    ("protected/learner-alive",   Tier::Soak),
    ("protected/still-answers-here", Tier::Soak),
    ("rollback",                  Tier::Whole),
    ("rollback/failed-join",      Tier::Soak),
    ("change",                    Tier::Soak),
    ("change/dead",               Tier::Main),
    ("killed",                    Tier::Soak),
    ("two-installers",            Tier::Soak),
    ("snapshot",                  Tier::Soak),
    ("control",                   Tier::Soak),
    ("endpoint",                  Tier::Soak),
    ("tke",                       Tier::Soak),
];

/// Whether a scenario belongs to what is played of an era.
pub fn played(name: &str, played: &Played) -> bool {
    let most = match played {
        Played::Only(lines) => {
            return tier(name) <= Tier::Main && lines.iter().any(|line| covers(line, name));
        }
        Played::MainPaths => Tier::Main,
        Played::Wholly => Tier::Whole,
        Played::Everything => Tier::Soak,
    };
    tier(name) <= most
}

/// A scenario that nobody put into the table is one of a soak.
fn tier(name: &str) -> Tier {
    TIERS
        .iter()
        .filter(|(line, _)| covers(line, name))
        .max_by_key(|(line, _)| line.len())
        .map_or(Tier::Soak, |(_, tier)| *tier)
}

/// Whether a line is of this scenario, or of a group that it belongs to.
fn covers(line: &str, name: &str) -> bool {
    name.strip_prefix(line)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eras::{Eras, Tested};
    use crate::scenario;

    #[test]
    fn every_scenario_has_a_line_and_every_line_a_scenario() {
        let names: Vec<String> = scenario::all().iter().map(|one| one.name()).collect();
        for name in &names {
            assert!(
                TIERS.iter().any(|(line, _)| covers(line, name)),
                "{name} has no tier"
            );
        }
        for line in TIERS.iter().map(|(line, _)| line) {
            assert!(
                names.iter().any(|name| covers(line, name)),
                "{line} is no scenario"
            );
        }
    }

    #[test]
    fn a_line_of_its_own_goes_before_that_of_the_group() {
        assert_eq!(tier("refusals/stale-member"), Tier::Main);
        assert_eq!(tier("refusals/no-quorum"), Tier::Whole);
        assert_eq!(tier("rebirth/twice"), Tier::Soak);
        assert_eq!(tier("sigkill"), Tier::Whole);
        assert_eq!(tier("sigkill/change"), Tier::Soak);
        assert_eq!(tier("rollback/after-join"), Tier::Whole);
        assert_eq!(tier("rollback/failed-join/voting"), Tier::Soak);
        assert_eq!(tier("joiner"), Tier::Soak, "no line is of it");
        assert!(played("join", &Played::MainPaths));
        assert!(!played("leak", &Played::MainPaths));
        assert!(played("leak", &Played::Wholly));
        assert!(!played("control/plain-join", &Played::Wholly));
        assert!(played("control/plain-join", &Played::Everything));
    }

    #[test]
    fn what_an_era_is_tried_with_alone_is_a_main_path() {
        let only = |line: &str| Played::Only(vec![line.to_owned()]);
        assert!(played("join", &only("join")));
        assert!(!played("change/dead", &only("join")));
        assert!(played("rebirth/wiped-follower", &only("rebirth")));
        assert!(!played("rebirth/twice", &only("rebirth")));
        for era in Eras::load().expect("eras.json is part of the source").all() {
            for (choice, tested) in era.choices() {
                let Tested::Only(lines) = tested else {
                    continue;
                };
                for line in lines {
                    let played = Played::Only(vec![line.clone()]);
                    assert!(
                        !scenario::of(&played).is_empty(),
                        "{line} plays nothing of {choice}"
                    );
                }
            }
        }
    }
}
