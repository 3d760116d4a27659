//! What must be refused, and how: one clear error with cause and next command, the documented exit status, nothing changed
//! on the machine outside the product's own folder, nothing changed in the cluster, no secret left.
//!
//! One row of the tables beside this is one scenario. They share the cluster, which none of them changes, and the backup
//! machine, which only those change that come late.

mod joins;
mod protected;

use std::time::Duration;

use anyhow::{Result, bail};

use super::{Bench, Scenario, join};
use crate::cluster::{ClusterSpec, Runtime};
use crate::eras::Version;
use crate::lab::Bare;
use crate::pot::{self, POT_DIR};
use crate::sh::Outcome;
use crate::snapshot::{Files, Snapshot};
use crate::wait;

pub use joins::joins;
pub use protected::protected;

/// A refusal takes seconds; one that waits for a silent address takes what the product gives it.
const REFUSAL_LIMIT: Duration = Duration::from_mins(3);
/// One that comes under the lock makes the machine ready first, and asks a silent etcd several times.
const LATE_LIMIT: Duration = Duration::from_mins(10);
/// A node controller reports every few seconds, and a kubelet that was without its master every ten.
const SETTLED_LIMIT: Duration = Duration::from_mins(2);

type Act = fn(&mut Bench) -> Result<()>;

/// One thing that must be refused.
pub struct Refusal {
    group: &'static str,
    name: &'static str,
    about: &'static str,
    /// Masters of the cluster that it needs.
    masters: usize,
    /// The first minor version of Kubernetes that has what it is about.
    oldest_minor: u16,
    /// Whether it is about something that containers share with each other.
    own_kernels: bool,
    /// Makes it wrong.
    prepare: Act,
    /// What is typed in the unpacked pot; `M1` stands for the first master's address.
    command: &'static str,
    /// The documented exit status.
    status: i32,
    /// What the error must say, cause and remedy.
    says: &'static [&'static str],
    /// Makes it right again.
    undo: Act,
    /// Whether it comes under the product's lock, when the backup machine was made ready.
    late: bool,
    /// The cluster before it was made wrong.
    whole: Option<Snapshot>,
    /// Whether the cluster could be asked while it was wrong.
    asked: bool,
    outcome: Option<Outcome>,
}

impl Scenario for Refusal {
    fn name(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    fn about(&self) -> String {
        format!("refused: {}", self.about)
    }

    fn budget(&self) -> Duration {
        // Of three masters some are down meanwhile, and have to come back.
        Duration::from_mins(if self.masters > 2 { 10 } else { 5 })
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        let spec = ClusterSpec::of(version);
        (spec, self.masters)
    }

    fn plays_on(&self, version: Version) -> bool {
        version.minor >= self.oldest_minor
    }

    fn suits(&self, runtime: &Runtime) -> bool {
        match self.name {
            joins::OTHER_DOCKER => *runtime == Runtime::Docker,
            joins::OTHER_CONTAINERD => *runtime != Runtime::Docker,
            _ => true,
        }
    }

    fn needs_own_kernels(&self) -> bool {
        self.own_kernels
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        bench.backup_ready(Bare::Full)?;
        self.whole = Some(Snapshot::of_cluster(bench.cluster()?)?);
        (self.prepare)(bench)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.b1();
        let files = Snapshot::of_files(&b1, Files::Machine)?;
        // A cluster that cannot be asked cannot be compared; what it was is compared after it was made right again.
        let state = served(bench)
            .and_then(|_| Snapshot::of_cluster(bench.cluster()?))
            .ok();
        self.asked = state.is_some();
        if self.late {
            bench.backup_used();
        }
        self.outcome = Some(self.attempt(bench)?);
        if self.late {
            protected::unlock(bench)?;
        } else {
            files.ensure_same(&Snapshot::of_files(&b1, Files::Machine)?, "files on b1")?;
        }
        if let Some(state) = state {
            state.ensure_same(&Snapshot::of_cluster(bench.cluster()?)?, "the cluster")?;
        }
        join::no_secret_folder(&b1)
    }

    fn check(&mut self, _bench: &mut Bench) -> Result<()> {
        let Some(outcome) = &self.outcome else {
            bail!("it was not run")
        };
        pot::ensure_ended(outcome, self.status, self.says)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        // The refusal of a state that has not changed is the same; seconds matter, so one row stands for all.
        if self.name == "untrusted-signer" {
            self.outcome = Some(self.attempt(bench)?);
            return self.check(bench);
        }
        Ok(())
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        (self.undo)(bench)?;
        let Some(outcome) = &self.outcome else {
            return Ok(());
        };
        if outcome.code != Some(self.status) {
            // What was not refused may have gone through.
            bench.backup_used();
            return bench.make_whole();
        }
        match &self.whole {
            Some(whole) if !self.asked => same_again(bench, whole),
            _ => Ok(()),
        }
    }
}

impl Refusal {
    fn attempt(&self, bench: &Bench) -> Result<Outcome> {
        let command = self.command.replace("M1", bench.cluster()?.m1().address());
        bench
            .b1()
            .sh(&format!("cd {POT_DIR}; {command}"))?
            .timeout(if self.late { LATE_LIMIT } else { REFUSAL_LIMIT })
            .outcome()
    }
}

/// Whether the API server is well: one without its etcd takes more than a minute to give no answer to a large question.
fn served(bench: &Bench) -> Result<String> {
    bench
        .cluster()?
        .kubectl(&["--request-timeout=5s", "get", "--raw", "/healthz"])
}

/// The node controller needs a while to see that all nodes answer again, and to take its taints away.
fn same_again(bench: &Bench, whole: &Snapshot) -> Result<()> {
    let cluster = bench.cluster()?;
    wait::until("the cluster is what it was", SETTLED_LIMIT, || {
        let now = Snapshot::of_cluster(cluster)?;
        let same = whole.ensure_same(&now, "the cluster");
        Ok(same.err().map(|error| error.to_string()))
    })
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "a row's act may fail; this one does nothing"
)]
fn nothing(_bench: &mut Bench) -> Result<()> {
    Ok(())
}
