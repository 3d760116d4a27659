//! The installer is killed with SIGKILL at one moment of its work after the other and started again each time, until it is
//! done; a client writes into the cluster all the while and must lose nothing.
//!
//! One value below is one scenario. Where the plan is dangerous, kubeadm is killed as well, at the moment at
//! which etcd lists a new member that never came to its end.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{Bench, Scenario, again, damage, identity, join, moments};
use crate::checks;
use crate::cluster::ClusterSpec;
use crate::eras::Version;
use crate::lab::Bare;
use crate::node::Node;
use crate::sh;
use crate::wait;
use crate::writer::{self, Account};

/// More starts than there are moments to kill at mean that it does not get on.
const MOST_STARTS: usize = 100;

/// Every moment that the journal knows, but failures: those must be seen.
const EVERYWHERE: &str = "^(begin|step|intent|done|end)( |$)";

/// The steps on the cluster and those that wipe; what only prepares a machine is the same as in a join.
const ON_THE_CLUSTER: &str = "^(step|intent|done) (cluster-lock|keep-record|backup|backup-down|remove-member|forget-node|\
    clear-this-machine|clear-interrupted-join|control-plane-files|kubeadm-join|voting|revoke-credentials|restore-node|\
    drop-record)( |$)|^end$|^kubeadm etcd$";

type Act = fn(&mut Bench) -> Result<()>;

/// One plan that is interrupted everywhere.
pub struct Sigkill {
    name: &'static str,
    about: &'static str,
    /// Masters of the cluster that it wants.
    masters: usize,
    /// On which machine.
    node: fn(&Bench) -> Node,
    prepare: Act,
    command: fn(&Bench) -> Result<String>,
    /// At which moments.
    wanted: &'static str,
    /// Fewer kills would mean that the watcher watches something else.
    fewest: usize,
    /// The steps, and phases of kubeadm, that no run can pass over: in each of them it was killed.
    phases: &'static [&'static str],
    /// Masters that the cluster has more than before.
    more: usize,
    /// What is true besides.
    afterwards: Act,
    clean: Act,
    kills: Vec<String>,
    account: Option<Account>,
}

/// A join, the plan that the others end with.
pub fn join() -> Sigkill {
    Sigkill {
        name: "sigkill",
        about: "killed at every moment that its journal knows and started again, the installer converges",
        masters: 2,
        node: Bench::b1,
        prepare: |bench| bench.backup_ready(Bare::Full).map(drop),
        command: |bench| Ok(format!("join-master --healthy {} --yes", m1(bench)?)),
        wanted: EVERYWHERE,
        fewest: 12,
        phases: &["kubeadm-join", "revoke-credentials"],
        more: 1,
        afterwards: |_| Ok(()),
        clean: Bench::remove_backup,
        kills: Vec::new(),
        account: None,
    }
}

/// The plans that take a master out first.
pub fn replacing() -> Vec<Sigkill> {
    vec![
        Sigkill {
            name: "sigkill/rebirth",
            about: "a wiped master comes back, killed in every phase on the cluster, once with its kubeadm half way",
            masters: 3,
            node: Bench::m3,
            prepare: |bench| {
                identity::mark(bench.cluster()?, &bench.m3())?;
                damage::wipe_follower(bench)
            },
            command: |bench| Ok(format!("rebirth-master --healthy {} --yes", m1(bench)?)),
            wanted: ON_THE_CLUSTER,
            fewest: 15,
            phases: &[
                "cluster-lock",
                "keep-record",
                "remove-member",
                "forget-node",
                "kubeadm-join",
                "etcd",
                "backup",
                "clear-this-machine",
                "revoke-credentials",
                "restore-node",
                "drop-record",
            ],
            more: 0,
            afterwards: |bench| identity::kept(bench.cluster()?, &bench.m3()),
            clean: |bench| {
                bench.make_whole()?;
                identity::unmark(bench.cluster()?, &bench.m3())
            },
            kills: Vec::new(),
            account: None,
        },
        Sigkill {
            name: "sigkill/change",
            about: "a dead master is replaced, killed in every phase on the cluster, once with its kubeadm half way",
            masters: 3,
            node: Bench::b1,
            prepare: |bench| {
                bench.backup_ready(Bare::Full)?;
                damage::power_off(bench)
            },
            command: |bench| {
                Ok(format!(
                    "change-master --down m3 --healthy {} --yes",
                    m1(bench)?
                ))
            },
            wanted: ON_THE_CLUSTER,
            fewest: 15,
            phases: &[
                "cluster-lock",
                "keep-record",
                "remove-member",
                "forget-node",
                "kubeadm-join",
                "etcd",
                "clear-interrupted-join",
                "revoke-credentials",
                "drop-record",
            ],
            more: 0,
            afterwards: |bench| checks::gone(bench.cluster()?, &bench.m3()),
            clean: Bench::make_whole,
            kills: Vec::new(),
            account: None,
        },
    ]
}

impl Scenario for Sigkill {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn about(&self) -> String {
        self.about.to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(if self.masters > 2 { 45 } else { 20 })
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        (ClusterSpec::of(version), self.masters)
    }

    fn told(&self) -> Option<String> {
        let account = self.account.as_ref()?;
        Some(format!("{} kills; {account}", self.kills.len()))
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let cluster = bench.cluster()?;
        writer::start(cluster, &[cluster.m1(), &bench.m2()])?;
        (self.prepare)(bench)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let node = (self.node)(bench);
        bench.used(&node);
        let command = (self.command)(bench)?;
        moments::prepare(&node)?;
        for started in 0..MOST_STARTS {
            let (outcome, killed) =
                moments::kill_at(&node, self.wanted, &command, join::JOIN_LIMIT)?;
            if killed {
                continue;
            }
            self.kills = moments::seen(&node)?;
            if outcome.ok() {
                sh::say(format_args!(
                    "{started} kills later the installer is done: {}",
                    self.kills.join(", ")
                ));
                return Ok(());
            }
            bail!(
                "started again after {started} kills, the last at {:?}, the installer ended with {:?}:\n{}{}",
                self.kills.last(),
                outcome.code,
                outcome.stdout,
                outcome.stderr
            );
        }
        bail!("not done after {MOST_STARTS} starts")
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        ensure!(
            self.kills.len() >= self.fewest,
            "only {} kills: the watcher does not see the journal",
            self.kills.len()
        );
        for phase in self.phases {
            ensure!(
                self.kills.iter().any(|kill| was_in(kill, phase)),
                "it was never killed in {phase}, but at {:?}",
                self.kills
            );
        }
        let (cluster, node) = (bench.cluster()?, (self.node)(bench));
        // The last one may have been killed between its last change and giving the lock back, and the one after it had
        // nothing to do.
        wait::until("the lock has expired", Duration::from_mins(2), || {
            checks::lock(cluster)
        })?;
        checks::joined(cluster, &node, bench.masters() + self.more)?;
        checks::nothing_kept(cluster)?;
        checks::pods_work(cluster, &node, bench.test_image())?;
        join::no_secret_folder(&node)?;
        self.account = Some(writer::finish(cluster, &[&bench.m2(), &node])?);
        (self.afterwards)(bench)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        ensure!(self.account.is_some(), "the writer was not stopped");
        let node = (self.node)(bench);
        again::nothing_to_do(bench, &node, &(self.command)(bench)?)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        writer::remove(bench.cluster()?)?;
        (self.clean)(bench)
    }
}

fn m1(bench: &Bench) -> Result<&str> {
    Ok(bench.cluster()?.m1().address())
}

/// Whether a moment belongs to a step, or to a phase of kubeadm.
fn was_in(moment: &str, phase: &str) -> bool {
    moment.split(' ').nth(1) == Some(phase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_belongs_to_one_step() {
        assert!(was_in("intent remove-member remove etcd", "remove-member"));
        assert!(was_in("kubeadm etcd", "etcd"));
        assert!(!was_in("step backup-down", "backup"));
        assert!(!was_in("end", "end"));
    }
}
