//! Scenarios: what is tried with the product on the lab's machines.
//!
//! Each has the stages prepare, run, check, run again and clean, and each stage can fail. After a failure the state of all
//! machines is collected, and the scenario still cleans up; a failure there counts as well. A scenario that takes longer
//! than its budget has failed, whatever it found.

mod again;
mod bench;
mod broken;
mod change;
mod control;
mod damage;
mod disk_full;
mod endpoint;
mod failed;
mod identity;
mod join;
mod killed;
mod leak;
mod lean;
mod meanwhile;
mod moments;
mod rebirth;
mod refusals;
mod restored;
mod rollback;
mod sigkill;
mod ssh_cut;
mod tier;
mod tke;
mod two_installers;
mod worker;

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

pub use bench::{Bench, WhatRuns};
pub use tier::Played;

use crate::cluster::{ClusterSpec, Runtime};
use crate::eras::Version;
use crate::evidence;
use crate::sh;

/// One thing that is tried.
pub trait Scenario: Send {
    /// What `cargo lab scenario` calls it.
    fn name(&self) -> String;
    /// What it shows, in one line.
    fn about(&self) -> String;
    /// How long all its stages may take together.
    fn budget(&self) -> Duration;
    /// The cluster that it wants, with this number of masters.
    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        (ClusterSpec::of(version), 2)
    }
    /// Whether it is about clusters with this container runtime, and can work with its tools.
    fn suits(&self, _runtime: &Runtime) -> bool {
        true
    }
    /// Whether an era has what it is about.
    fn plays_on(&self, _version: Version) -> bool {
        true
    }
    /// Whether it needs machines that share no kernel, and so no clock, with each other.
    fn needs_own_kernels(&self) -> bool {
        false
    }
    /// A figure worth keeping, once it was played.
    fn told(&self) -> Option<String> {
        None
    }
    /// Makes the state that it starts from.
    fn prepare(&mut self, bench: &mut Bench) -> Result<()>;
    /// Does what is tried.
    fn run(&mut self, bench: &mut Bench) -> Result<()>;
    /// Asks the machines whether it is as it must be.
    fn check(&mut self, bench: &mut Bench) -> Result<()>;
    /// Does it once more: what must then hold is part of the stage.
    fn run_again(&mut self, bench: &mut Bench) -> Result<()>;
    /// Leaves the cluster as it was found.
    fn clean(&mut self, bench: &mut Bench) -> Result<()>;
}

/// What is played one after the other.
pub type Scenarios = Vec<Box<dyn Scenario>>;

/// All scenarios, in the order in which one cluster can serve them: those that want two masters, those that want a third,
/// and at last those that want a cluster of their own.
pub fn all() -> Scenarios {
    let mut all = boxed(refusals::joins());
    all.push(Box::new(lean::LeanHost::default()));
    all.push(Box::new(broken::BrokenInstaller));
    all.push(Box::new(join::Join));
    all.push(Box::new(sigkill::join()));
    all.extend(boxed(disk_full::all()));
    all.push(Box::new(ssh_cut::SshCut));
    all.push(Box::new(leak::Leak::default()));
    all.extend(boxed(rebirth::all()));
    all.extend(boxed(refusals::protected()));
    all.push(Box::new(rollback::AfterJoin::default()));
    all.extend(boxed(change::all()));
    all.extend(boxed(failed::all()));
    all.extend(boxed(sigkill::replacing()));
    all.extend(boxed(killed::all()));
    all.push(Box::new(two_installers::TwoInstallers::default()));
    all.push(Box::new(restored::Restored::default()));
    all.extend(boxed(control::all()));
    all.extend(boxed(endpoint::all()));
    all.extend(boxed(tke::all()));
    all
}

fn boxed<T: Scenario + 'static>(scenarios: Vec<T>) -> Scenarios {
    let boxed = |one| Box::new(one) as Box<dyn Scenario>;
    scenarios.into_iter().map(boxed).collect()
}

/// Those that belong to what is played of an era.
pub fn of(played: &Played) -> Scenarios {
    all()
        .into_iter()
        .filter(|one| tier::played(&one.name(), played))
        .collect()
}

/// The scenarios of a name, or of a group: `refusals` stands for all `refusals/…`.
pub fn named(name: &str) -> Result<Scenarios> {
    let found: Vec<_> = all()
        .into_iter()
        .filter(|one| one.name() == name || one.name().starts_with(&format!("{name}/")))
        .collect();
    if found.is_empty() {
        let known: Vec<String> = all().iter().map(|one| one.name()).collect();
        bail!(
            "there is no scenario {name:?}; there are:\n  {}",
            known.join("\n  ")
        );
    }
    Ok(found)
}

/// Budgets are those of a machine that does nothing else; other labs may play beside this one, and the code be tested.
const SHARED: u32 = 3;

/// How scenarios ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Held what they promise.
    pub passed: usize,
    /// Did not.
    pub failed: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// How one scenario ended.
#[derive(Debug)]
pub struct Ending {
    /// How long all its stages took together.
    pub took: Duration,
    /// The figure that it has to tell, where it has one.
    pub told: Option<String>,
    /// Why it failed, if it did.
    pub failure: Option<anyhow::Error>,
}

impl Counts {
    /// Of one scenario.
    pub fn of(ending: &Ending) -> Self {
        let failed = usize::from(ending.failure.is_some());
        Self {
            passed: 1 - failed,
            failed,
        }
    }
}

/// Plays scenarios one after the other; each failure is told with its evidence, and the next one goes on.
pub fn play(bench: &mut Bench, scenarios: Scenarios) -> Counts {
    let mut counts = Counts::default();
    for mut scenario in scenarios {
        if let Some(ending) = play_or_tell(bench, scenario.as_mut()) {
            counts += Counts::of(&ending);
        }
    }
    counts
}

/// Plays one scenario, or tells why it is left out.
pub fn play_or_tell(bench: &mut Bench, scenario: &mut dyn Scenario) -> Option<Ending> {
    if let Some(why) = left_out(scenario, bench) {
        sh::say(format_args!(
            "scenario {} {}: {why}",
            bench.version(),
            scenario.name()
        ));
        return None;
    }
    Some(play_one(bench, scenario))
}

/// Why a scenario cannot be played here, where it cannot.
fn left_out(scenario: &dyn Scenario, bench: &Bench) -> Option<&'static str> {
    if !scenario.plays_on(bench.version()) {
        return Some("this version does not have what it is about");
    }
    if !scenario.suits(&bench.runtime()) {
        return Some("it is about another container runtime than this cluster's");
    }
    (scenario.needs_own_kernels() && bench.lab().shares_kernel())
        .then_some("not played: it needs virtual machines, and this lab's machines are containers with one kernel")
}

/// Plays one scenario and tells how it ended.
fn play_one(bench: &mut Bench, scenario: &mut dyn Scenario) -> Ending {
    let name = format!("{} {}", bench.version(), scenario.name());
    sh::say(format_args!("scenario {name}: {}", scenario.about()));
    let begun = Instant::now();
    let mut times = Vec::new();
    let ended = stages(bench, scenario, &mut times);
    let took = begun.elapsed();
    // The cluster is the lab's, and the next scenario's as well.
    let own = took.saturating_sub(bench.made_in());
    let budget = scenario.budget() * SHARED;
    let ended = ended.and_then(|()| {
        if own > budget {
            bail!(
                "it took {} s, its budget is {} s",
                own.as_secs(),
                budget.as_secs()
            );
        }
        Ok(())
    });
    let told = scenario.told();
    match &ended {
        Ok(()) => sh::say(format_args!(
            "scenario {name}: passed in {:.1} s ({}){}",
            took.as_secs_f64(),
            times.join(", "),
            told.as_ref()
                .map_or(String::new(), |told| format!("; {told}"))
        )),
        Err(error) => sh::say(format_args!(
            "scenario {name}: FAILED after {:.1} s: {error:#}",
            took.as_secs_f64()
        )),
    }
    Ending {
        took,
        told,
        failure: ended.err(),
    }
}

/// Plays the stages; `times` gets what each took.
fn stages(bench: &mut Bench, scenario: &mut dyn Scenario, times: &mut Vec<String>) -> Result<()> {
    type Stage = fn(&mut dyn Scenario, &mut Bench) -> Result<()>;
    let stages: [(&str, Stage); 4] = [
        ("prepare", |scenario, bench| {
            let (spec, masters) = scenario.wants(bench.version());
            bench.cluster_of(&spec, masters)?;
            scenario.prepare(bench)
        }),
        ("run", |scenario, bench| scenario.run(bench)),
        ("check", |scenario, bench| scenario.check(bench)),
        ("run again", |scenario, bench| scenario.run_again(bench)),
    ];
    let mut ended = Ok(());
    for (what, stage) in stages {
        let begun = Instant::now();
        ended = stage(scenario, bench).map_err(|error| error.context(format!("stage {what}")));
        times.push(format!("{what} {}", begun.elapsed().as_secs()));
        if let Err(error) = &ended {
            let kept = evidence::collect(
                bench.cache(),
                &format!("{}-{}", bench.version(), scenario.name()).replace('/', "-"),
                error,
                &bench.nodes(),
            );
            match kept {
                Ok(folder) => sh::say(format_args!("evidence is in {}", folder.display())),
                Err(error) => sh::say(format_args!("no evidence could be collected: {error:#}")),
            }
            break;
        }
    }
    let begun = Instant::now();
    let cleaned = scenario.clean(bench);
    times.push(format!("clean {}", begun.elapsed().as_secs()));
    match (ended, cleaned) {
        (ended, Ok(())) => ended,
        (Ok(()), Err(error)) => {
            bench.distrust();
            Err(error.context("stage clean"))
        }
        (Err(error), Err(clean)) => {
            bench.distrust();
            Err(anyhow!("{error:#}; and cleaning up failed too: {clean:#}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_groups_are_found() {
        let names: Vec<String> = all().iter().map(|one| one.name()).collect();
        assert_eq!(
            names.iter().collect::<BTreeSet<_>>().len(),
            names.len(),
            "{names:?}"
        );
        assert!(named("refusals").expect("a group").len() > 8);
        assert_eq!(named("join").expect("one").len(), 1);
        assert!(named("jo").is_err());
    }
}
