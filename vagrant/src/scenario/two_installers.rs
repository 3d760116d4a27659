//! Two people at two machines at once: b1 is to take the place of m3, and m3, whose disk is empty, is to come back. Each asks
//! another healthy master. One of them gets the cluster's lock and does its work; the other is refused and has changed
//! nothing in the cluster.
//!
//! Both machines are prepared before (`init-env`), so that both come to the lock within seconds, and not with a join between
//! them.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::rebirth::three_masters;
use super::{Bench, Scenario, again, damage, join};
use crate::checks;
use crate::cluster::ClusterSpec;
use crate::eras::Version;
use crate::lab::Bare;
use crate::node::Node;
use crate::pot;
use crate::sh::{self, Outcome};
use crate::ssh_trust;
use crate::writer::{self, Account};

/// The one that is refused ends within a minute or so; the other one joins.
const LIMIT: Duration = Duration::from_mins(10);

/// The scenario.
#[derive(Default)]
pub struct TwoInstallers {
    /// Who won, with its command.
    winner: Option<(Node, String)>,
    loser: Option<(Node, Outcome)>,
    account: Option<Account>,
}

impl Scenario for TwoInstallers {
    fn name(&self) -> String {
        "two-installers".to_owned()
    }

    fn about(&self) -> String {
        "a change on one machine and a rebirth on another, at once, through two healthy masters: one is done, the other refused"
            .to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(20)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        three_masters(version)
    }

    fn told(&self) -> Option<String> {
        let ((winner, _), account) = (self.winner.as_ref()?, self.account.as_ref()?);
        Some(format!("{winner} had the lock; {account}"))
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.backup_ready(Bare::Full)?;
        bench.backup_used();
        let cluster = bench.cluster()?;
        writer::start(cluster, &[cluster.m1(), &bench.m2()])?;
        damage::wipe_follower(bench)?;
        let m3 = bench.m3();
        bench.used(&m3);
        ssh_trust::grant(&m3, &bench.m2(), "root")?;
        for node in [&b1, &m3] {
            pot::install_well(node, "init-env --yes", LIMIT)?;
        }
        Ok(())
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let runs = [
            (
                bench.b1(),
                format!(
                    "change-master --down m3 --healthy {} --yes",
                    bench.cluster()?.m1().address()
                ),
            ),
            (
                bench.m3(),
                format!("rebirth-master --healthy {} --yes", bench.m2().address()),
            ),
        ];
        let ended: Vec<Outcome> = thread::scope(|scope| {
            let started = runs
                .each_ref()
                .map(|(node, command)| scope.spawn(|| pot::install(node, command, LIMIT)));
            started
                .into_iter()
                .map(|run| {
                    run.join()
                        .unwrap_or_else(|_| Err(anyhow!("a run panicked")))
                })
                .collect::<Result<_>>()
        })?;
        for ((node, command), outcome) in runs.into_iter().zip(ended) {
            sh::say(format_args!("{node} ended with {:?}", outcome.code));
            if outcome.ok() {
                let other = self.winner.replace((node, command));
                ensure!(other.is_none(), "both runs did their work");
            } else {
                self.loser = Some((node, outcome));
            }
        }
        Ok(())
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (Some((winner, _)), Some((loser, outcome))) = (&self.winner, &self.loser) else {
            bail!(
                "not one of the two was done and the other refused: {:#?}",
                self.loser
            )
        };
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        ensure!(
            outcome.code == Some(3),
            "{loser} ended with {:?}, not 3:\n{said}",
            outcome.code
        );
        // Of two that ask at the same moment, the one whose write comes second is not told by whom.
        let named = said.contains(&format!("{winner}/{}", winner.address()))
            && said.contains("kube-system/kpot");
        ensure!(
            named || said.contains("cannot take the cluster's lock"),
            "the refusal on {loser} says nothing of {winner} and its lock:\n{said}"
        );
        untouched(loser)?;
        let cluster = bench.cluster()?;
        checks::joined(cluster, winner, bench.masters())?;
        // b1 never was a master, and m3 is none any more where b1 has its place.
        checks::gone(cluster, loser)?;
        checks::nothing_kept(cluster)?;
        checks::pods_work(cluster, winner, bench.test_image())?;
        for node in [winner, loser] {
            join::no_secret_folder(node)?;
        }
        self.account = Some(writer::finish(cluster, &[&bench.m2(), winner])?);
        Ok(())
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        let (winner, command) = self.winner.as_ref().context("nobody won")?;
        again::nothing_to_do(bench, winner, command)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        writer::remove(bench.cluster()?)?;
        bench.make_whole()
    }
}

/// A machine on which no join began: no credentials, no manifests, no data of etcd, and in its own journal nothing on the
/// cluster.
fn untouched(node: &Node) -> Result<()> {
    let found = node.output(
        "find /etc/kubernetes /var/lib/etcd -type f 2>/dev/null || true
         grep -E '\"kind\":\"(cluster|join|left-cluster)\"' /var/lib/kpot/journal.jsonl || true",
    )?;
    ensure!(found.is_empty(), "the run on {node} left:\n{found}");
    Ok(())
}
