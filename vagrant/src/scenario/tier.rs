//! When a scenario is played: `cargo lab test` has less than an hour for everything, and `cargo lab soak` plays all.
//!
//! A line of the table is a scenario, or a group of them for which no line of its own is there.

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Played {
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
    ("refusals/stale-member",     Tier::Main),
    ("lean-host",                 Tier::Whole),
    ("broken-installer",          Tier::Whole),
    ("join",                      Tier::Main),
    ("sigkill",                   Tier::Whole),
    ("leak",                      Tier::Whole),
    ("rebirth",                   Tier::Soak),
    ("rebirth/wiped-follower",    Tier::Main),
    ("rebirth/corrupt-etcd",      Tier::Whole),
    ("protected",                 Tier::Whole),
    ("protected/two-down",        Tier::Soak),
    ("rollback",                  Tier::Whole),
    ("change",                    Tier::Soak),
    ("change/dead",               Tier::Main),
    ("control",                   Tier::Soak),
    ("endpoint",                  Tier::Soak),
    ("tke",                       Tier::Soak),
];

/// Scenarios and groups for which the product has no command yet. `cargo lab scenario` plays them, nothing else does.
const AWAITED: &[&str] = &[];

/// Whether a scenario belongs to what is played of an era.
pub fn played(name: &str, played: Played) -> bool {
    let most = match played {
        Played::MainPaths => Tier::Main,
        Played::Wholly => Tier::Whole,
        Played::Everything => Tier::Soak,
    };
    !awaited(name) && tier(name) <= most
}

/// Whether the product has no command for it yet.
fn awaited(name: &str) -> bool {
    AWAITED.contains(&name) || AWAITED.contains(&group(name))
}

/// A scenario that nobody put into the table is one of a soak.
fn tier(name: &str) -> Tier {
    let line = |wanted: &str| TIERS.iter().find(|(name, _)| *name == wanted);
    line(name)
        .or_else(|| line(group(name)))
        .map_or(Tier::Soak, |(_, tier)| *tier)
}

fn group(name: &str) -> &str {
    name.split_once('/').map_or(name, |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn every_scenario_has_a_line_and_every_line_a_scenario() {
        let names: Vec<String> = scenario::all().iter().map(|one| one.name()).collect();
        for name in &names {
            assert!(
                TIERS
                    .iter()
                    .any(|(line, _)| line == name || *line == group(name)),
                "{name} has no tier"
            );
        }
        for line in TIERS.iter().map(|(line, _)| line).chain(AWAITED) {
            assert!(
                names
                    .iter()
                    .any(|name| name == line || group(name) == *line),
                "{line} is no scenario"
            );
        }
    }

    #[test]
    fn a_line_of_its_own_goes_before_that_of_the_group() {
        assert_eq!(tier("refusals/stale-member"), Tier::Main);
        assert_eq!(tier("refusals/no-quorum"), Tier::Whole);
        assert_eq!(tier("rebirth/twice"), Tier::Soak);
        assert!(played("join", Played::MainPaths));
        assert!(!played("leak", Played::MainPaths));
        assert!(played("leak", Played::Wholly));
        assert!(!played("control/plain-join", Played::Wholly));
        assert!(played("control/plain-join", Played::Everything));
    }
}
