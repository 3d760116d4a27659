//! A dead master comes back under its own name and address, and the cluster keeps every acknowledged write meanwhile.
//!
//! One row of the table below is one scenario. m3 is the one that dies, in several ways.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Scenario, again, damage, identity, join};
use crate::checks;
use crate::cluster::ClusterSpec;
use crate::eras::Version;
use crate::pot;
use crate::writer::{self, Account};

/// What a rebirth may take: a join, and before it the snapshot and what is cleared.
const REBIRTH_LIMIT: Duration = Duration::from_mins(8);

/// One way to die and come back.
pub struct Rebirth {
    name: &'static str,
    about: &'static str,
    damage: fn(&mut Bench) -> Result<()>,
    times: usize,
    /// Further words of the command.
    flags: &'static str,
    /// The ID of its member before it dies.
    member: String,
    account: Option<Account>,
}

/// What etcd has from 3.4 on; 1.14's is older.
const LEARNER: &str = "left-learner";

/// All of them, as a table: name, what it is, how it dies, how often.
#[rustfmt::skip]
pub fn all() -> Vec<Rebirth> {
    let row = |name, about, damage, times| Rebirth { name, about, damage, times, flags: "", member: String::new(), account: None };
    vec![
        row("wiped-follower", "a master whose disk is empty, its member and Node still listed", damage::wipe_follower as fn(&mut Bench) -> Result<()>, 1),
        row("wiped-leader", "the same with the member that led etcd when it lost its power", damage::wipe_leader, 1),
        row("corrupt-etcd", "a master whose etcd crashes on its data", damage::corrupt_etcd, 1),
        row("no-certificates", "a master whose certificates were deleted", damage::delete_certificates, 1),
        row("twice", "a master whose disk is empty, and empty again", damage::wipe_follower, 2),
        row("expired-certificates", "a master whose certificates have expired", damage::expire_certificates, 1),
        row("no-kubelet-config", "a master whose kubelet has neither configuration nor credentials, while its etcd lives", damage::delete_kubelet_config, 1),
        row("part-left", "a master of which only the certificates are left", damage::leave_a_part, 1),
        row("member-removed", "a master whose disk is empty, and whose member somebody has removed", damage::wipe_without_member, 1),
        row("left-member", "a master whose disk is empty, with a member that a failed join left", damage::wipe_with_unstarted_member, 1),
        row(LEARNER, "the same, and the member is a learner", damage::wipe_with_learner, 1),
        Rebirth { flags: "--force", ..row("forced", "a master in good health, made anew by force", damage::none, 1) },
    ]
}

impl Scenario for Rebirth {
    fn name(&self) -> String {
        format!("rebirth/{}", self.name)
    }

    fn about(&self) -> String {
        format!("comes back: {}", self.about)
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(if self.times > 1 { 25 } else { 15 })
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        three_masters(version)
    }

    fn plays_on(&self, version: Version) -> bool {
        self.name != LEARNER || version.minor >= 20
    }

    fn told(&self) -> Option<String> {
        self.account.as_ref().map(Account::to_string)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, m3) = (bench.cluster()?, bench.m3());
        let member = checks::own_member(cluster, &m3)?;
        self.member = member.id;
        identity::mark(cluster, &m3)?;
        writer::start(cluster, &[cluster.m1(), &bench.lab().m2()])?;
        (self.damage)(bench)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let command = format!("{} {}", command(bench)?, self.flags);
        rebirth(bench, &command)?;
        for _ in 1..self.times {
            checks::joined(bench.cluster()?, &bench.m3(), bench.masters())?;
            (self.damage)(bench)?;
            rebirth(bench, &command)?;
        }
        Ok(())
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, m2, m3) = (bench.cluster()?, bench.lab().m2(), bench.m3());
        checks::pods_work(cluster, &m3, bench.test_image())?;
        checks::joined(cluster, &m3, bench.masters())?;
        let member = checks::own_member(cluster, &m3)?;
        ensure!(member.id != self.member, "m3 is the member that it was");
        identity::kept(cluster, &m3)?;
        join::no_secret_folder(&m3)?;
        let account = writer::finish(cluster, &[&m2, &m3])?;
        self.account = Some(account);
        Ok(())
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        ensure!(self.account.is_some(), "the writer was not stopped");
        again::nothing_to_do(bench, &bench.m3(), &command(bench)?)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        writer::remove(bench.cluster()?)?;
        bench.make_whole()?;
        identity::unmark(bench.cluster()?, &bench.m3())
    }
}

/// What scenarios want in which one master dies and two keep the quorum.
pub fn three_masters(version: Version) -> (ClusterSpec, usize) {
    let spec = ClusterSpec::of(version);
    (spec, 3)
}

fn rebirth(bench: &mut Bench, command: &str) -> Result<()> {
    let m3 = bench.m3();
    bench.used(&m3);
    pot::install_well(&m3, command, REBIRTH_LIMIT).map(drop)
}

fn command(bench: &Bench) -> Result<String> {
    Ok(format!(
        "rebirth-master --healthy {} --yes",
        bench.cluster()?.m1().address()
    ))
}
