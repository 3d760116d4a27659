//! What happens without the product: a plain `kubeadm join` fails or hangs where a master has died.
//!
//! One row of the table below is one scenario. Were such a join to succeed, the lab would show a problem that is none.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::rebirth::three_masters;
use super::{Bench, Scenario, damage};
use crate::checks;
use crate::cluster::{ClusterSpec, KILLED};
use crate::eras::Version;
use crate::lab::Bare;
use crate::node::Node;
use crate::sh::Outcome;

/// A join that is to succeed takes about 15 s; 1.34 gives up after two minutes by itself.
const JOIN_LIMIT: Duration = Duration::from_secs(150);

/// The last minor version whose kubeadm was seen to ask every address in ClusterStatus, also those of the dead.
const ASKS_THE_DEAD: u16 = 14;

/// One join that must not succeed.
pub struct Control {
    name: &'static str,
    about: &'static str,
    newest_minor: u16,
    damage: fn(&mut Bench) -> Result<()>,
    /// Which machine joins.
    joins: fn(&Bench) -> Node,
    ended: Option<(Outcome, Duration)>,
}

/// All of them, as a table: name, what it is, the last minor version that does so, how m3 dies, who joins.
#[rustfmt::skip]
pub fn all() -> Vec<Control> {
    let row = |name, about, newest_minor, damage, joins| Control { name, about, newest_minor, damage, joins, ended: None };
    vec![
        row("plain-join", "a wiped master under its old name, its member and Node still listed",
            u16::MAX, damage::wipe_follower as fn(&mut Bench) -> Result<()>, Bench::m3 as fn(&Bench) -> Node),
        row("stale-cluster-status", "a new machine, after the dead master's member and Node were removed, but not its entry in ClusterStatus",
            ASKS_THE_DEAD, dead_but_in_cluster_status, Bench::b1),
    ]
}

impl Scenario for Control {
    fn name(&self) -> String {
        format!("control/{}", self.name)
    }

    fn about(&self) -> String {
        format!("without the product, fails or hangs: {}", self.about)
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(12)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        three_masters(version)
    }

    fn plays_on(&self, version: Version) -> bool {
        version.minor <= self.newest_minor
    }

    fn told(&self) -> Option<String> {
        let (outcome, took) = self.ended.as_ref()?;
        let how = match outcome.code {
            Some(KILLED) => "hung for",
            _ => "failed after",
        };
        Some(format!("kubeadm join {how} {:.0} s", took.as_secs_f64()))
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        (self.damage)(bench)?;
        let node = (self.joins)(bench);
        bench.used(&node);
        bench.cluster()?.install(&node, bench.materials())
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let cluster = bench.cluster()?;
        let credentials = cluster.admit()?;
        let begun = Instant::now();
        let outcome = cluster.try_join(&(self.joins)(bench), &credentials, JOIN_LIMIT)?;
        self.ended = Some((outcome, begun.elapsed()));
        cluster.revoke()
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let Some((outcome, _)) = &self.ended else {
            bail!("it was not run")
        };
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        ensure!(!outcome.ok(), "plain kubeadm join succeeded:\n{said}");
        ensure!(
            said.contains("etcd") && !said.contains("[ERROR"),
            "kubeadm ended before it asked the cluster's etcd:\n{said}"
        );
        let node = (self.joins)(bench);
        ensure!(
            checks::votes(bench.cluster()?, &node).is_err(),
            "{node} votes, though kubeadm join failed:\n{said}"
        );
        Ok(())
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        // The same join once everything is removed that was in the way, by hand.
        bench.make_whole()?;
        checks::joined(bench.cluster()?, &bench.m3(), bench.masters())
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.cluster()?.revoke()?;
        bench.make_whole()
    }
}

fn dead_but_in_cluster_status(bench: &mut Bench) -> Result<()> {
    bench.backup_ready(Bare::Full)?;
    damage::power_off(bench)?;
    let m3 = bench.m3();
    bench.remove_member(&m3)?;
    bench
        .cluster()?
        .kubectl(&["delete", "node", m3.name()])
        .map(drop)
}
