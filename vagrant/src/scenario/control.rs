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
use crate::sh::Outcome;

/// A join that is to succeed takes about 15 s; 1.34 gives up after two minutes by itself.
const JOIN_LIMIT: Duration = Duration::from_secs(150);

/// The last minor version whose kubeadm was seen to fail over an address of the dead in ClusterStatus.
const ASKS_THE_DEAD: u16 = 14;

/// How often a machine tries to join over the entry of a dead master. kubeadm 1.14 checks every member's certificate against
/// the first address of a map in Go, whose order is chance: three of four times the one whose name sorts first, which is the
/// dead b1. That none of so many tries meets it is one case in 256.
const CHANCES: usize = 4;

/// One join that must not succeed.
pub struct Control {
    name: &'static str,
    about: &'static str,
    newest_minor: u16,
    damage: fn(&mut Bench) -> Result<()>,
    /// Leaves m3 as it is to join.
    joiner: fn(&mut Bench) -> Result<()>,
    /// How often it may get through before it fails.
    tries: usize,
    /// How each try ended.
    ended: Vec<(Outcome, Duration)>,
}

/// All of them, as a table: name, what it is, the last minor version that does so, what died, how m3 becomes what joins, and
/// how often it may try.
#[rustfmt::skip]
pub fn all() -> Vec<Control> {
    type Stage = fn(&mut Bench) -> Result<()>;
    let row = |name, about, newest_minor, damage: Stage, joiner: Stage, tries| {
        Control { name, about, newest_minor, damage, joiner, tries, ended: Vec::new() }
    };
    vec![
        row("plain-join", "a wiped master under its old name, its member and Node still listed",
            u16::MAX, damage::wipe_follower, |_| Ok(()), 1),
        row("stale-cluster-status", "a new machine, after the dead master's member and Node were removed, but not its entry in ClusterStatus",
            ASKS_THE_DEAD, dead_but_in_cluster_status, |bench| bench.bare_anew(&bench.m3()), CHANCES),
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
        let (outcome, took) = self.ended.last()?;
        let how = match outcome.code {
            Some(KILLED) => "hung for",
            _ => "failed after",
        };
        let before = match self.ended.len() - 1 {
            0 => String::new(),
            through => format!(", after {through} that got through by chance"),
        };
        Some(format!(
            "kubeadm join {how} {:.0} s{before}",
            took.as_secs_f64()
        ))
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        (self.damage)(bench)?;
        self.ready(bench)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        loop {
            let (outcome, took) = try_to_join(bench)?;
            let failed = !outcome.ok();
            self.ended.push((outcome, took));
            if failed || self.ended.len() == self.tries {
                return Ok(());
            }
            self.ready(bench)?;
        }
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let Some((outcome, _)) = self.ended.last() else {
            bail!("it was not run")
        };
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        ensure!(
            !outcome.ok(),
            "plain kubeadm join succeeded {} times of {}:\n{said}",
            self.ended.len(),
            self.tries
        );
        ensure!(
            said.contains("etcd") && !said.contains("[ERROR"),
            "kubeadm ended before it asked the cluster's etcd:\n{said}"
        );
        let node = bench.m3();
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

impl Control {
    /// m3 has what plain kubeadm needs, and is in nobody's way but the dead.
    fn ready(&self, bench: &mut Bench) -> Result<()> {
        (self.joiner)(bench)?;
        let m3 = bench.m3();
        bench.used(&m3);
        bench.cluster()?.install(&m3, bench.materials())
    }
}

fn try_to_join(bench: &Bench) -> Result<(Outcome, Duration)> {
    let cluster = bench.cluster()?;
    let credentials = cluster.admit()?;
    let begun = Instant::now();
    let outcome = cluster.try_join(&bench.m3(), &credentials, JOIN_LIMIT)?;
    cluster.revoke()?;
    Ok((outcome, begun.elapsed()))
}

/// b1 becomes a fourth master by plain kubeadm, and dies; everything of it is removed by hand but its entry.
fn dead_but_in_cluster_status(bench: &mut Bench) -> Result<()> {
    let b1 = bench.backup_ready(Bare::Full)?;
    bench.backup_used();
    let cluster = bench.cluster()?;
    cluster.add(&b1, bench.materials(), bench.masters() + 1)?;
    bench.lab().power_off(&b1)?;
    damage::silent(cluster, &b1)?;
    bench.remove_member(&b1)?;
    cluster.kubectl(&["delete", "node", b1.name()]).map(drop)
}
