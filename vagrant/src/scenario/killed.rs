//! A healthy master loses its power while another, dead one is being replaced: the cluster has no quorum then. The installer
//! ends with words that say so and has made nothing worse; once the master has its power back, the same command converges.
//!
//! One row of the table below is one scenario. The installer is held at its moment until m2 is silent, so nothing here is
//! left to chance. m3 is dead from the beginning; m1 alone remains.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::rebirth::three_masters;
use super::{Bench, Scenario, again, damage, join, moments};
use crate::checks;
use crate::cluster::ClusterSpec;
use crate::eras::Version;
use crate::lab::Bare;
use crate::node::Node;
use crate::pot;
use crate::sh::Outcome;
use crate::wait;
use crate::writer::{self, Account};

/// Every question to a cluster without quorum ends only by its time limit, and many are asked.
const ENDING_LIMIT: Duration = Duration::from_mins(8);
/// What a change may take; it looks for the dead machine as well.
const CHANGE_LIMIT: Duration = Duration::from_mins(10);
/// A machine without power is silent at once; its address is asked in vain for some seconds.
const SILENT_LIMIT: Duration = Duration::from_secs(30);

/// What is at work when m2 dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// b1 takes m3's place.
    Change,
    /// m3 comes back on an empty disk.
    Rebirth,
}

/// What became of the dead master's member before the quorum was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    Listed,
    Removed,
}

/// One moment at which m2 dies.
pub struct Killed {
    plan: Plan,
    name: &'static str,
    about: &'static str,
    /// When, as the watcher knows it.
    moment: &'static str,
    /// How m3's member stands then, and must stand at the end of the run.
    member: Member,
    /// The exit status of a run that ends there.
    status: i32,
    /// What it must say.
    says: &'static [&'static str],
    /// The ID of m3's member.
    id: String,
    outcome: Option<Outcome>,
    account: Option<Account>,
}

/// All of them, as a table: name, what it is, when m2 dies, m3's member by then, exit status, words.
#[rustfmt::skip]
pub fn all() -> Vec<Killed> {
    let row = |plan, name, about, moment, member, status, says| {
        Killed { plan, name, about, moment, member, status, says, id: String::new(), outcome: None, account: None }
    };
    let before = (3, &["nothing was removed", "etcd has no quorum", "etcd has lost its quorum"][..]);
    let after = (1, &["running the same command again", "has lost its quorum", "can be started again with its"][..]);
    [(Plan::Change, "before-removal", "after-removal"), (Plan::Rebirth, "rebirth-before-removal", "rebirth-after-removal")].into_iter().flat_map(|(plan, earlier, later)| [
        row(plan, earlier, "before the dead master's member is removed, which must then stay", "^intent remove-member take an$", Member::Listed, before.0, before.1),
        row(plan, later, "after the dead master's member was removed: two are left, and one of them dies", "^(done remove-member|step forget-node)$", Member::Removed, after.0, after.1),
    ]).collect()
}

impl Scenario for Killed {
    fn name(&self) -> String {
        format!("killed/second-master/{}", self.name)
    }

    fn about(&self) -> String {
        let plan = match self.plan {
            Plan::Change => "change",
            Plan::Rebirth => "rebirth",
        };
        format!("a second master dies in a {plan}: {}", self.about)
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(30)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        three_masters(version)
    }

    fn told(&self) -> Option<String> {
        self.account.as_ref().map(Account::to_string)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        if self.plan == Plan::Change {
            bench.backup_ready(Bare::Full)?;
        }
        let (cluster, m3) = (bench.cluster()?, bench.m3());
        let member = checks::own_member(cluster, &m3)?;
        self.id = member.id;
        writer::start(cluster, &[cluster.m1(), &bench.m2()])?;
        match self.plan {
            Plan::Change => damage::power_off(bench),
            Plan::Rebirth => damage::wipe_follower(bench),
        }
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let (machine, m2) = (self.machine(bench), bench.m2());
        bench.used(&machine);
        moments::prepare(&machine)?;
        let (cluster, lab) = (bench.cluster()?, bench.lab());
        let command = self.command(bench)?;
        let outcome = moments::hold_at(&machine, self.moment, &command, ENDING_LIMIT, || {
            lab.power_off(&m2)?;
            wait::until("etcd on m2 is silent", SILENT_LIMIT, || {
                let answers = checks::etcd_answers(cluster, &m2);
                Ok(answers.then(|| "it answers".to_owned()))
            })
        })?;
        self.outcome = Some(outcome);
        Ok(())
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let outcome = self.outcome.as_ref().context("it was not run")?;
        pot::ensure_ended(outcome, self.status, self.says)?;
        let machine = self.machine(bench);
        join::no_secret_folder(&machine)?;
        revive(bench)?;
        let cluster = bench.cluster()?;
        // A removal that was only proposed is made up for when the quorum is back: this is asked after that.
        let listed = checks::members(cluster)?
            .iter()
            .any(|member| member.id == self.id);
        let expected = self.member == Member::Listed;
        ensure!(
            listed == expected,
            "the member of m3 ({}) is listed: {listed}, and not as it was left",
            self.id
        );
        let member = checks::member_of(cluster, &machine)?;
        ensure!(
            member.is_none_or(|member| member.id == self.id),
            "etcd lists a new member {machine}"
        );
        Ok(())
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        let (machine, m2) = (self.machine(bench), bench.m2());
        pot::install_well(&machine, &self.command(bench)?, CHANGE_LIMIT)?;
        let cluster = bench.cluster()?;
        if self.plan == Plan::Change {
            checks::gone(cluster, &bench.m3())?;
        }
        checks::joined(cluster, &machine, bench.masters())?;
        checks::nothing_kept(cluster)?;
        checks::pods_work(cluster, &machine, bench.test_image())?;
        self.account = Some(writer::finish(cluster, &[&m2, &machine])?);
        again::nothing_to_do(bench, &machine, &self.command(bench)?)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        revive(bench)?;
        writer::remove(bench.cluster()?)?;
        bench.make_whole()
    }
}

/// m2 has its power back, and the cluster its quorum. A 1.20 API server whose etcd had no leader for a while may stand still
/// for minutes afterwards; people start it again, and so does the lab.
pub(super) fn revive(bench: &Bench) -> Result<()> {
    let (cluster, m2) = (bench.cluster()?, bench.m2());
    if m2.outcome("true").is_ok_and(|alive| alive.ok()) {
        return Ok(());
    }
    bench.lab().power_on(&m2)?;
    damage::healthy_again(cluster, &m2)?;
    if bench.version().minor < 20 {
        return Ok(());
    }
    for node in [cluster.m1(), &m2] {
        cluster.renew_watches(node)?;
    }
    damage::healthy_again(cluster, &m2)
}

impl Killed {
    /// The one that becomes a master.
    fn machine(&self, bench: &Bench) -> Node {
        match self.plan {
            Plan::Change => bench.b1(),
            Plan::Rebirth => bench.m3(),
        }
    }

    fn command(&self, bench: &Bench) -> Result<String> {
        let healthy = bench.cluster()?.m1().address();
        let what = match self.plan {
            Plan::Change => "change-master --down m3",
            Plan::Rebirth => "rebirth-master",
        };
        Ok(format!("{what} --healthy {healthy} --yes"))
    }
}
