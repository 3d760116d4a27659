//! Several labs at work on the scenarios of several eras.
//!
//! Scenarios mostly wait for Kubernetes, so several labs play side by side where there are cores and memory for them. Upstream is
//! built era by era, in the order in which they are wanted, beside what is played already. A lab that is free begins the
//! next era that is built; where none is, it helps with the one that has most left to play.

use std::collections::VecDeque;
use std::fmt::Display;
use std::num::NonZero;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::cache::Cache;
use crate::eras::Choice;
use crate::lab::Lab;
use crate::pot::{Kpot, Pot};
use crate::scenario::{self, Bench, Ending, Scenario, Scenarios, WhatRuns};
use crate::sh::{self, locked, step};
use crate::workbench::{self, Workbench};
use crate::{image, upstream};

/// What the machines of one lab take at most, in MiB: three masters and a machine that joins, with what they cache.
const LAB_MEMORY: u64 = 5 * 1024;

/// Labs beside each other that this lab knows names and networks for.
const MOST_LABS: u8 = 3;

/// What is still played of an era that is begun late: it shows most.
const LATE: &str = "join";

/// A second lab begins to help with an era where the budgets of what is left come to this: it makes a cluster of its own first.
const WORTH_A_CLUSTER: Duration = Duration::from_mins(12);

/// What is played, and what becomes of it.
pub trait Programme: Sync {
    /// What to play of an era, now that its pot is there.
    fn scenarios(&self, era: usize, workbench: &Workbench) -> Result<Scenarios>;
    /// Takes down how a scenario ended.
    fn ended(&self, era: usize, pot: &Pot, scenario: &str, ending: Ending) -> Result<()>;
}

/// When nothing is begun any more.
#[derive(Debug, Clone, Copy)]
pub struct Latest {
    /// The building of an era's upstream: it takes half an hour where others are at work.
    pub build: Duration,
    /// An era, with all that is to be played of it; one that is begun later is played with [`LATE`] alone.
    pub whole: Duration,
    /// An era that nobody has begun.
    pub era: Duration,
    /// A scenario.
    pub scenario: Duration,
}

/// The labs that are at work at the same time, this one first: as many as there are cores and memory for. What ran in any of them goes first.
pub fn labs(lab: &Lab) -> Result<Vec<Lab>> {
    raze(lab)?;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    Ok(labs_for(lab, cores, memory_available()?))
}

/// Takes down every lab that may have been at work beside this one, and this one.
pub fn raze(lab: &Lab) -> Result<()> {
    all_labs(lab).iter().try_for_each(Lab::raze)
}

/// Every lab that may be at work beside this one, and this one: those in networks that there are.
pub fn all_labs(lab: &Lab) -> Vec<Lab> {
    (0..MOST_LABS)
        .filter_map(|at| lab.beside(at).ok())
        .collect()
}

/// Each has half a core's work, and more while a cluster is made; in memory, given in MiB, it takes [`LAB_MEMORY`]. Virtual machines take more of both, and are one lab.
fn labs_for(lab: &Lab, cores: usize, memory: u64) -> Vec<Lab> {
    let fit = usize::try_from(memory / LAB_MEMORY).unwrap_or(usize::MAX);
    let most = if lab.shares_kernel() {
        fit.min(cores).max(1)
    } else {
        1
    };
    let mut labs = all_labs(lab);
    labs.truncate(most);
    labs
}

/// MiB that can be used without swapping.
fn memory_available() -> Result<u64> {
    let table = sh::read_text(Path::new("/proc/meminfo"))?;
    let kibibytes = table.lines().find_map(|line| {
        line.strip_prefix("MemAvailable:")?
            .split_whitespace()
            .next()
    });
    let kibibytes = kibibytes.context("/proc/meminfo tells no MemAvailable")?;
    Ok(kibibytes.parse::<u64>().context("reading /proc/meminfo")? / 1024)
}

/// Plays all of it; all labs but the first begin after kpot is compiled and `before` is done, which keep a core busy as they do. Failures of scenarios are the programme's matter; what
/// else fails is told, and counted here.
pub fn play(
    cache: &Cache,
    labs: &[Lab],
    eras: &[Choice],
    programme: &dyn Programme,
    latest: Option<Latest>,
    before: impl FnOnce() -> Result<()>,
) -> usize {
    let pool = Pool {
        cache,
        eras,
        programme,
        latest,
        shares: Mutex::new(eras.iter().map(|_| Share::default()).collect()),
        changed: Condvar::new(),
        opening: Mutex::new(()),
        failures: AtomicUsize::new(0),
    };
    thread::scope(|scope| {
        let pool = &pool;
        scope.spawn(|| pool.build());
        scope.spawn(|| {
            pool.guarded("the node image", || {
                let _alone = locked(&pool.opening);
                image::ensure(cache)
            });
        });
        let work = move |lab: &Lab, number| pool.guarded(lab.name(), || pool.work(lab, number));
        let (first, others) = labs.split_first().unzip();
        if let Some(lab) = first {
            scope.spawn(move || work(lab, 1));
        }
        pool.guarded("kpot", || {
            step("compiling kpot with the installer inside", Kpot::compile).map(drop)
        });
        pool.guarded("what comes before the other labs", before);
        for (lab, number) in others.into_iter().flatten().zip(2..) {
            scope.spawn(move || work(lab, number));
        }
    });
    pool.failures.into_inner()
}

struct Pool<'a> {
    cache: &'a Cache,
    eras: &'a [Choice],
    programme: &'a dyn Programme,
    latest: Option<Latest>,
    shares: Mutex<Vec<Share>>,
    changed: Condvar,
    /// Held while the node image is made or a pot is built: one build has use for both cores.
    opening: Mutex<()>,
    failures: AtomicUsize,
}

/// How far an era is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Its upstream is not there yet.
    #[default]
    Wanted,
    /// It is, and nobody has begun.
    Built,
    /// Its pot is being built.
    Opening,
    /// What is left of it is known.
    Open,
}

/// An era, and who is at work on it.
#[derive(Default)]
struct Share {
    stage: Stage,
    labs: usize,
    left: VecDeque<Box<dyn Scenario>>,
    workbench: Option<Arc<Workbench>>,
}

impl Share {
    /// The budgets of what is left.
    fn budget(&self) -> Duration {
        self.left.iter().map(|scenario| scenario.budget()).sum()
    }
}

/// What a lab does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// A scenario of this era.
    Play(usize),
    /// Nothing yet.
    Wait,
    /// Nothing any more.
    End,
}

impl Pool<'_> {
    /// Does a part of the work; how it fails is told and counted, a panic, too: nobody may wait for what will not come.
    fn guarded(&self, what: &str, part: impl FnOnce() -> Result<()>) {
        let ended = panic::catch_unwind(AssertUnwindSafe(part));
        if let Err(error) = ended.unwrap_or_else(|_| Err(anyhow!("it panicked"))) {
            self.failed(what, &error);
        }
    }

    fn failed(&self, what: impl Display, error: &anyhow::Error) {
        sh::say(format_args!("{what}: FAILED: {error:#}"));
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it is too late for something.
    fn is_past(&self, limit: impl FnOnce(Latest) -> Duration) -> bool {
        self.latest
            .is_some_and(|latest| sh::elapsed() > limit(latest))
    }

    /// Builds every era's upstream, in their order, each in a process of its own.
    fn build(&self) {
        for (index, choice) in self.eras.iter().enumerate() {
            let late = index > 0 && self.is_past(|latest| latest.build);
            if late && !upstream::is_built(self.cache.root(), choice) {
                self.change(index, |share| not_played(share, choice));
                continue;
            }
            let mut built = false;
            self.guarded(&format!("upstream of {choice}"), || {
                workbench::build_upstream(choice, index > 0)?;
                built = true;
                Ok(())
            });
            let stage = if built { Stage::Built } else { Stage::Open };
            self.change(index, |share| share.stage = stage);
        }
    }

    /// Plays on one lab as long as there is something for it.
    fn work(&self, lab: &Lab, number: usize) -> Result<()> {
        let mut at: Option<(usize, Bench)> = None;
        loop {
            let now = at.as_ref().map(|(era, _)| *era);
            let turn = self.turn(now);
            if let (Turn::Play(era), Some((is, bench))) = (turn, &mut at)
                && era == *is
            {
                self.play_next(era, bench)?;
                continue;
            }
            // A cluster that nobody needs any more takes from those that are at work.
            if at.take().is_some() {
                lab.raze()?;
            }
            match turn {
                Turn::Play(era) => {
                    let choice = &self.eras[era];
                    match number {
                        1 => sh::work_on(choice),
                        _ => sh::work_on(format_args!("{choice} ({number})")),
                    }
                    at = self.open(era, lab).map(|bench| (era, bench));
                }
                Turn::Wait => self.wait(),
                Turn::End => return Ok(()),
            }
        }
    }

    /// What a lab does next that is at work on an era, or on none.
    fn turn(&self, at: Option<usize>) -> Turn {
        let mut shares = locked(&self.shares);
        if let Some(at) = at {
            shares[at].labs -= 1;
        }
        let late = self.is_past(|latest| latest.era);
        // The first era is what a run is about, however slow the machine.
        for (share, choice) in shares.iter_mut().zip(self.eras).skip(1) {
            if late && share.stage == Stage::Built {
                not_played(share, choice);
            }
        }
        let turn = choose(&shares, at);
        if let Turn::Play(era) = turn {
            shares[era].labs += 1;
            if shares[era].stage == Stage::Built {
                shares[era].stage = Stage::Opening;
            }
        }
        turn
    }

    /// Waits until a lab that has nothing to do may have something, or never again.
    fn wait(&self) {
        let shares = locked(&self.shares);
        let waits = |shares: &mut Vec<Share>| choose(shares, None) == Turn::Wait;
        drop(self.changed.wait_while(shares, waits));
    }

    fn change(&self, era: usize, change: impl FnOnce(&mut Share)) {
        change(&mut locked(&self.shares)[era]);
        self.changed.notify_all();
    }

    /// What an era's scenarios work with on a lab; none where that could not be made, which is told.
    fn open(&self, era: usize, lab: &Lab) -> Option<Bench> {
        let known = locked(&self.shares)[era].workbench.clone();
        let workbench = known.or_else(|| {
            let mut opened = None;
            self.guarded(&self.eras[era].to_string(), || {
                opened = Some(self.workbench(era)?);
                Ok(())
            });
            let (workbench, scenarios) = opened.unzip();
            // At once: whoever saw it open and empty would take it for played.
            self.change(era, |share| {
                share.stage = Stage::Open;
                share.left = scenarios.unwrap_or_default().into();
                share.workbench.clone_from(&workbench);
            });
            workbench
        });
        let bench = workbench.and_then(|workbench| {
            let bench = workbench.bench(lab, 0, WhatRuns::Stranger);
            bench
                .inspect_err(|error| self.failed(&self.eras[era], error))
                .ok()
        });
        if bench.is_none() {
            self.change(era, |share| share.labs -= 1);
        }
        bench
    }

    fn workbench(&self, era: usize) -> Result<Opened> {
        let workbench = {
            let _alone = locked(&self.opening);
            Workbench::prepare(self.cache, std::slice::from_ref(&self.eras[era]))?
        };
        let mut scenarios = self.programme.scenarios(era, &workbench)?;
        // The first era is what a run is about, however slow the machine.
        if era > 0 && self.is_past(|latest| latest.whole) {
            sh::say(format_args!(
                "{}: {} minutes are over, so {LATE} is all that is played of it",
                self.eras[era],
                sh::clock(sh::elapsed())
            ));
            scenarios.retain(|scenario| scenario.name() == LATE);
        }
        Ok((Arc::new(workbench), scenarios))
    }

    /// Plays one scenario of an era, if one is left.
    fn play_next(&self, era: usize, bench: &mut Bench) -> Result<()> {
        let Some(mut scenario) = locked(&self.shares)[era].left.pop_front() else {
            return Ok(());
        };
        if self.is_past(|latest| latest.scenario) {
            sh::say(format_args!(
                "scenario {} {}: NOT PLAYED: {} minutes are over, and it might not end in time",
                bench.version(),
                scenario.name(),
                sh::clock(sh::elapsed())
            ));
            return Ok(());
        }
        match scenario::play_or_tell(bench, scenario.as_mut()) {
            None => Ok(()),
            Some(ending) => {
                let name = scenario.name();
                self.programme.ended(era, bench.pot(), &name, ending)
            }
        }
    }
}

/// What is known of an era once its pot is built.
type Opened = (Arc<Workbench>, Scenarios);

/// Gives up an era for want of time.
fn not_played(share: &mut Share, choice: &Choice) {
    share.stage = Stage::Open;
    let runtime = choice.runtime.as_deref();
    let runtime = runtime.map_or_else(String::new, |name| format!(" --runtime {name}"));
    sh::say(format_args!(
        "{choice}: NOT PLAYED: {} minutes are over, and it might not end in time; `cargo lab test --k8s {}{runtime}` plays it",
        sh::clock(sh::elapsed()),
        choice.version
    ));
}

/// What a lab does next that was at work on `at` and has left it: its own era, if nobody else would go on with that or nothing new is there; else one that nobody has begun; else the one
/// with most left, if that is worth a cluster more.
fn choose(shares: &[Share], at: Option<usize>) -> Turn {
    let new = shares.iter().position(|share| share.stage == Stage::Built);
    let own = at.filter(|at| !shares[*at].left.is_empty());
    match (own, new) {
        (Some(own), None) => return Turn::Play(own),
        (Some(own), Some(_)) if shares[own].labs == 0 => return Turn::Play(own),
        (_, Some(new)) => return Turn::Play(new),
        (None, None) => {}
    }
    let with_budgets = shares.iter().map(Share::budget).enumerate();
    let most = with_budgets.max_by_key(|(_, budget)| *budget);
    if let Some((era, _)) = most.filter(|(_, budget)| *budget >= WORTH_A_CLUSTER) {
        return Turn::Play(era);
    }
    let coming = |share: &Share| matches!(share.stage, Stage::Wanted | Stage::Opening);
    if shares.iter().any(coming) {
        Turn::Wait
    } else {
        Turn::End
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(stage: Stage, labs: usize, scenarios: &str) -> Share {
        let left = match scenarios {
            "" => VecDeque::new(),
            name => scenario::named(name).expect("a scenario").into(),
        };
        Share {
            stage,
            labs,
            left,
            workbench: None,
        }
    }

    #[test]
    fn a_lab_goes_on_with_its_own_era_unless_another_does_and_a_new_one_waits() {
        let shares = |others, new| [share(Stage::Open, others, "refusals"), share(new, 0, "")];
        assert_eq!(choose(&shares(0, Stage::Built), Some(0)), Turn::Play(0));
        assert_eq!(choose(&shares(1, Stage::Built), Some(0)), Turn::Play(1));
        assert_eq!(choose(&shares(1, Stage::Wanted), Some(0)), Turn::Play(0));
        assert_eq!(choose(&shares(1, Stage::Built), None), Turn::Play(1));
    }

    #[test]
    fn a_free_lab_helps_where_most_is_left_if_it_is_worth_a_cluster() {
        let shares = [
            share(Stage::Open, 1, "join"),
            share(Stage::Open, 1, "rebirth"),
            share(Stage::Wanted, 0, ""),
        ];
        assert_eq!(choose(&shares, Some(2)), Turn::Play(1));
    }

    #[test]
    fn a_lab_waits_for_what_may_still_come_and_for_nothing_else() {
        let little = share(Stage::Open, 1, "join");
        for (stage, turn) in [
            (Stage::Wanted, Turn::Wait),
            (Stage::Opening, Turn::Wait),
            (Stage::Open, Turn::End),
        ] {
            let shares = [share(Stage::Open, 1, "join"), share(stage, 0, "")];
            assert_eq!(choose(&shares, None), turn, "{stage:?}");
        }
        assert_eq!(choose(&[little], None), Turn::End);
        assert_eq!(choose(&[], None), Turn::End);
    }

    #[test]
    fn there_are_as_many_labs_as_cores_and_memory_allow_and_at_least_one() {
        let lab = Lab::from_env().expect("a lab");
        let names = |cores, memory| -> Vec<String> {
            let labs = labs_for(&lab, cores, memory);
            labs.iter().map(|lab| lab.name().to_owned()).collect()
        };
        assert_eq!(names(8, LAB_MEMORY - 1), [lab.name()]);
        assert_eq!(names(1, 3 * LAB_MEMORY), [lab.name()]);
        assert_eq!(names(8, 2 * LAB_MEMORY).len(), 2);
        assert_eq!(names(2, 4 * LAB_MEMORY).len(), 2);
        let all = names(64, 100 * LAB_MEMORY);
        assert_eq!(all.len(), usize::from(MOST_LABS));
        assert!(all[1] != all[2] && all[0] != all[1]);
    }
}
