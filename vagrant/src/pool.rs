//! Several labs at work on the scenarios of several eras.
//!
//! Scenarios mostly wait for Kubernetes, so several labs play side by side where there is memory for them. Upstream is
//! built era by era, in the order in which they are wanted, beside what is played already. A lab that is free begins the
//! next era that is built; where none is, it helps with the one that has most left to play.

use std::collections::VecDeque;
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::cache::Cache;
use crate::eras::Choice;
use crate::lab::Lab;
use crate::pot::{Kpot, Pot};
use crate::scenario::{self, Bench, Ending, Scenario, Scenarios, WhatRuns};
use crate::sh::{self, step};
use crate::workbench::{self, Workbench};

/// What the machines of one lab take at most, in MiB: three masters and a machine that joins, with what they cache.
const LAB_MEMORY: u64 = 5 * 1024;

/// Labs beside each other that this lab knows names and networks for.
const MOST_LABS: usize = 3;

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
    /// An era that nobody has begun.
    pub era: Duration,
    /// A scenario.
    pub scenario: Duration,
}

/// The labs that are at work at the same time, this one first: as many as there are cores and memory for.
pub fn labs(lab: &Lab) -> Result<Vec<Lab>> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    labs_for(lab, cores, memory_available()?)
}

/// Each has half a core's work, and more while a cluster is made; in memory, given in MiB, it takes [`LAB_MEMORY`].
fn labs_for(lab: &Lab, cores: usize, memory: u64) -> Result<Vec<Lab>> {
    let fit = usize::try_from(memory / LAB_MEMORY).unwrap_or(MOST_LABS);
    let mut labs = all_labs(lab)?;
    labs.truncate(fit.min(cores).max(1));
    Ok(labs)
}

/// Every lab that may have been at work beside this one, and this one.
pub fn all_labs(lab: &Lab) -> Result<Vec<Lab>> {
    let number = |at: usize| u8::try_from(at).context("too many labs");
    (0..MOST_LABS).map(|at| lab.beside(number(at)?)).collect()
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

/// Plays all of it. Failures of scenarios are the programme's matter; an error means that something could not be played.
pub fn play(
    cache: &Cache,
    labs: &[Lab],
    eras: &[Choice],
    programme: &dyn Programme,
    latest: Option<Latest>,
) -> Result<()> {
    let pool = Pool {
        cache,
        eras,
        programme,
        latest,
        state: Mutex::new(eras.iter().map(|_| Share::default()).collect()),
        changed: Condvar::new(),
        opening: Mutex::new(()),
    };
    thread::scope(|scope| {
        let pool = &pool;
        let mut parts = vec![
            scope.spawn(|| pool.build()),
            scope.spawn(|| {
                let _alone = pool.opening.lock().unwrap_or_else(PoisonError::into_inner);
                workbench::prepare_nodes(cache)
            }),
            // Downloads and links leave a core free here and there.
            scope.spawn(|| {
                step("compiling kpot with the installer inside", Kpot::compile).map(drop)
            }),
        ];
        let labs = labs.iter().zip(1..);
        parts.extend(labs.map(|(lab, number)| scope.spawn(move || pool.work(lab, number))));
        let mut ended = Ok(());
        for part in parts {
            let part = part.join();
            let part = part.unwrap_or_else(|_| Err(anyhow!("a lab panicked")));
            ended = ended.and(part);
        }
        ended
    })
}

struct Pool<'a> {
    cache: &'a Cache,
    eras: &'a [Choice],
    programme: &'a dyn Programme,
    latest: Option<Latest>,
    state: Mutex<Vec<Share>>,
    changed: Condvar,
    /// Held while machines are prepared or a pot is built: one build has use for both cores.
    opening: Mutex<()>,
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

impl Pool<'_> {
    /// Builds every era's upstream, in their order, each in a process of its own.
    fn build(&self) -> Result<()> {
        let mut ended = Ok(());
        for (index, choice) in self.eras.iter().enumerate() {
            let late = self.latest.is_some_and(|latest| sh::elapsed() > latest.era);
            if late {
                break;
            }
            let built = workbench::build_upstream(choice, index > 0);
            let stage = if built.is_ok() {
                Stage::Built
            } else {
                Stage::Open
            };
            self.state()[index].stage = stage;
            self.changed.notify_all();
            ended = ended.and(built);
        }
        // What is late is told by the labs, which wait for it.
        self.changed.notify_all();
        ended
    }

    /// Plays on one lab as long as there is something for it.
    fn work(&self, lab: &Lab, number: usize) -> Result<()> {
        let mut at: Option<(usize, Bench)> = None;
        while let Some(era) = self.next(at.as_ref().map(|(era, _)| *era)) {
            let (_, bench) = match at.take() {
                Some((is, bench)) if is == era => at.insert((is, bench)),
                _ => {
                    let choice = &self.eras[era];
                    match number {
                        1 => sh::work_on(choice),
                        _ => sh::work_on(format_args!("{choice} ({number})")),
                    }
                    let workbench = self.open(era)?;
                    // A cluster that nobody needs any more takes from those that are at work.
                    lab.raze()?;
                    at.insert((era, workbench.bench(lab, 0, WhatRuns::Stranger)?))
                }
            };
            self.play_next(era, bench)?;
        }
        lab.raze()
    }

    /// The era that a lab works on next, which was at work on `at`. Waits where something may still come.
    fn next(&self, at: Option<usize>) -> Option<usize> {
        let mut shares = self.state();
        if let Some(at) = at {
            shares[at].labs -= 1;
        }
        let era = loop {
            self.give_up_what_is_late(&mut shares);
            if let Some(era) = choose(&shares, at) {
                break era;
            }
            let coming = |share: &Share| matches!(share.stage, Stage::Wanted | Stage::Opening);
            if !shares.iter().any(coming) {
                return None;
            }
            shares = self
                .changed
                .wait(shares)
                .unwrap_or_else(PoisonError::into_inner);
        };
        shares[era].labs += 1;
        if shares[era].stage == Stage::Built {
            shares[era].stage = Stage::Opening;
        }
        Some(era)
    }

    fn give_up_what_is_late(&self, shares: &mut [Share]) {
        let Some(latest) = self.latest.filter(|latest| sh::elapsed() > latest.era) else {
            return;
        };
        for (share, choice) in shares.iter_mut().zip(self.eras) {
            if !matches!(share.stage, Stage::Wanted | Stage::Built) {
                continue;
            }
            share.stage = Stage::Open;
            let runtime = choice.runtime.as_deref();
            let runtime = runtime.map_or_else(String::new, |name| format!(" --runtime {name}"));
            sh::say(format_args!(
                "{choice}: NOT PLAYED: {} minutes are over, and it might not end in time; `cargo lab test --k8s {}{runtime}` plays it",
                sh::clock(latest.era),
                choice.version
            ));
        }
    }

    /// What an era's scenarios work with; made by the first lab that comes.
    fn open(&self, era: usize) -> Result<Arc<Workbench>> {
        if let Some(workbench) = &self.state()[era].workbench {
            return Ok(Arc::clone(workbench));
        }
        let opened = self.workbench(era);
        let mut shares = self.state();
        shares[era].stage = Stage::Open;
        self.changed.notify_all();
        let (workbench, scenarios) = opened?;
        shares[era].left = scenarios.into();
        shares[era].workbench = Some(Arc::clone(&workbench));
        Ok(workbench)
    }

    fn workbench(&self, era: usize) -> Result<(Arc<Workbench>, Scenarios)> {
        let workbench = {
            let _alone = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            Workbench::prepare(self.cache, std::slice::from_ref(&self.eras[era]))?
        };
        let scenarios = self.programme.scenarios(era, &workbench)?;
        Ok((Arc::new(workbench), scenarios))
    }

    /// Plays one scenario of an era, if one is left.
    fn play_next(&self, era: usize, bench: &mut Bench) -> Result<()> {
        let Some(mut scenario) = self.state()[era].left.pop_front() else {
            return Ok(());
        };
        if self
            .latest
            .is_some_and(|latest| sh::elapsed() > latest.scenario)
        {
            sh::say(format_args!(
                "scenario {} {}: NOT PLAYED: it might not end in time",
                bench.version(),
                scenario.name()
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

    fn state(&self) -> MutexGuard<'_, Vec<Share>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next era of a lab that was at work on `at` and has left it: its own, if nobody else would go on with that or nothing
/// new is there; else one that nobody has begun; else the one with most left, if that is worth a cluster more.
fn choose(shares: &[Share], at: Option<usize>) -> Option<usize> {
    let new = shares.iter().position(|share| share.stage == Stage::Built);
    let own = at.filter(|at| !shares[*at].left.is_empty());
    match (own, new) {
        (Some(own), None) => return Some(own),
        (Some(own), Some(_)) if shares[own].labs == 0 => return Some(own),
        (_, Some(new)) => return Some(new),
        (None, None) => {}
    }
    let with_budgets = shares.iter().map(Share::budget).enumerate();
    let (era, most) = with_budgets.max_by_key(|(_, budget)| *budget)?;
    (most >= WORTH_A_CLUSTER).then_some(era)
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
        assert_eq!(choose(&shares(0, Stage::Built), Some(0)), Some(0));
        assert_eq!(choose(&shares(1, Stage::Built), Some(0)), Some(1));
        assert_eq!(choose(&shares(1, Stage::Wanted), Some(0)), Some(0));
        assert_eq!(choose(&shares(1, Stage::Built), None), Some(1));
    }

    #[test]
    fn a_free_lab_helps_where_most_is_left_if_it_is_worth_a_cluster() {
        let shares = [
            share(Stage::Open, 1, "join"),
            share(Stage::Open, 1, "rebirth"),
            share(Stage::Wanted, 0, ""),
        ];
        assert_eq!(choose(&shares, Some(2)), Some(1));
        assert_eq!(choose(&shares[..1], None), None);
        assert_eq!(choose(&[], None), None);
    }

    #[test]
    fn there_are_as_many_labs_as_cores_and_memory_allow_and_at_least_one() {
        let lab = Lab::from_env().expect("a lab");
        let names = |cores, memory| -> Vec<String> {
            let labs = labs_for(&lab, cores, memory).expect("there are networks beside");
            labs.iter().map(|lab| lab.name().to_owned()).collect()
        };
        assert_eq!(names(8, LAB_MEMORY - 1), [lab.name()]);
        assert_eq!(names(1, 3 * LAB_MEMORY), [lab.name()]);
        assert_eq!(names(8, 2 * LAB_MEMORY).len(), 2);
        assert_eq!(names(2, 4 * LAB_MEMORY).len(), 2);
        let all = names(64, 100 * LAB_MEMORY);
        assert_eq!(all.len(), MOST_LABS);
        assert!(all[1] != all[2] && all[0] != all[1]);
    }
}
