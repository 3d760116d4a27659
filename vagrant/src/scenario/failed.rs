//! A join that fails for good, at one of its phases, is given up: by `rollback` where no etcd member can be listed yet, else by
//! `reset`. The machine is then what it was before, as after the reset of a master that joined well.
//!
//! One row of the table below is one scenario. Most joins are killed there, with kubeadm where that is at work, as when a
//! machine loses its power; one fails by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::rebirth::three_masters;
use super::rollback::Machine;
use super::{Bench, Scenario, again, join, moments};
use crate::checks;
use crate::cluster::ClusterSpec;
use crate::eras::Version;
use crate::lab::Bare;
use crate::pot;
use crate::wait;

/// Units have to stop, Docker takes its containers down one by one, and kubeadm may have been killed at its worst moment.
const UNDO_LIMIT: Duration = Duration::from_mins(10);

/// How a join comes to its end.
#[derive(Clone, Copy)]
enum Failure {
    /// It is killed at this moment.
    Killed(&'static str),
    /// kubeadm finds no image of etcd, and there is nowhere to pull it from.
    ImageGone,
}

/// How it is given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// On this machine alone.
    Rollback,
    /// With its member, if there is one.
    Reset,
    /// On this machine, after somebody took its member out on another master.
    RollbackAfterByHand,
}

/// One join that fails.
pub struct Failed {
    name: &'static str,
    about: &'static str,
    failure: Failure,
    undo: Undo,
    before: Option<Machine>,
}

/// All of them, as a table: name, what it is, how the join ends, how it is given up.
#[rustfmt::skip]
pub fn all() -> Vec<Failed> {
    let row = |name, about, failure, undo| Failed { name, about, failure, undo, before: None };
    vec![
        row("environment", "once the machine was prepared", Failure::Killed("^step cluster-lock$"), Undo::Rollback),
        row("credentials", "while its credentials were made", Failure::Killed("^intent kubeadm-join upload the$"), Undo::Rollback),
        row("image-gone", "by itself, because an image is not there", Failure::ImageGone, Undo::Reset),
        row("before-member", "with its kubeadm, before etcd knew of it", Failure::Killed("^kubeadm kubelet-start$"), Undo::Reset),
        row("member-added", "with its kubeadm, just after etcd listed its member", Failure::Killed("^kubeadm etcd$"), Undo::Reset),
        row("voting", "while it waited for its vote", Failure::Killed("^(done kubeadm-join|step voting)$"), Undo::Reset),
        row("member-removed-by-hand", "with its kubeadm; its member is taken out on another master", Failure::Killed("^kubeadm etcd$"), Undo::RollbackAfterByHand),
    ]
}

impl Scenario for Failed {
    fn name(&self) -> String {
        format!("rollback/failed-join/{}", self.name)
    }

    fn about(&self) -> String {
        format!(
            "a join failed, {}: it is given up, and the machine is what it was",
            self.about
        )
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(18)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        three_masters(version)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.backup_ready(Bare::Full)?;
        bench.backup_used();
        self.before = Some(Machine::of(&b1)?);
        moments::prepare(&b1)?;
        let command = format!(
            "join-master --healthy {} --yes",
            bench.cluster()?.m1().address()
        );
        match self.failure {
            Failure::Killed(moment) => moments::killed_at(&b1, moment, &command, join::JOIN_LIMIT),
            Failure::ImageGone => image_gone(bench, &command),
        }
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        if self.undo == Undo::RollbackAfterByHand {
            refused_while_nobody_says_it(bench)?;
            bench.remove_member(&b1)?;
            cluster.forget_node(&b1)?;
        }
        pot::install_well(&b1, &self.command(bench)?, UNDO_LIMIT).map(drop)
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        checks::gone(cluster, &b1)?;
        checks::etcd_voters(cluster, cluster.m1(), bench.masters())?;
        if self.undo == Undo::Reset {
            checks::nothing_left(cluster)?;
        }
        join::no_secret_folder(&b1)?;
        let before = self.before.as_ref().context("it was not prepared")?;
        before.ensure_same(&b1)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        // The lock of a killed run ends by itself meanwhile, which would be seen as a change.
        let cluster = bench.cluster()?;
        wait::until("the lock has expired", Duration::from_mins(2), || {
            checks::lock(cluster)
        })?;
        again::nothing_to_do(bench, &bench.b1(), &self.command(bench)?)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        // A rollback asks no cluster: what was made for the join ends there by itself, and the next scenario cannot wait.
        bench.cluster()?.revoke()?;
        bench.make_whole()
    }
}

impl Failed {
    fn command(&self, bench: &Bench) -> Result<String> {
        Ok(match self.undo {
            Undo::Rollback => "rollback --yes".to_owned(),
            Undo::Reset => format!("reset --healthy {} --yes", bench.cluster()?.m1().address()),
            Undo::RollbackAfterByHand => "rollback --the-member-is-gone --yes".to_owned(),
        })
    }
}

/// kubeadm begins without the image of etcd, and fails. The installer takes its credentials back by itself.
fn image_gone(bench: &Bench, command: &str) -> Result<()> {
    let b1 = bench.b1();
    let outcome = moments::hold_at(
        &b1,
        "^step kubeadm-join$",
        command,
        join::JOIN_LIMIT,
        || {
            let runtime = bench.runtime();
            b1.run(&format!(
                "images=$({} | grep -E '(^|/)etcd:')
                 [ -n \"$images\" ]; {} $images",
                runtime.images(),
                runtime.remove_images()
            ))
        },
    )?;
    let said = outcome.stdout + &outcome.stderr;
    ensure!(
        outcome.code == Some(1) && said.contains("kubeadm did not join this machine"),
        "without an image of etcd it ended with {:?}:\n{said}",
        outcome.code
    );
    checks::nothing_left(bench.cluster()?)
}

/// Without being told, a rollback leaves no member behind whose data is gone.
fn refused_while_nobody_says_it(bench: &Bench) -> Result<()> {
    let outcome = pot::install(&bench.b1(), "rollback --yes", UNDO_LIMIT)?;
    let said = outcome.stdout + &outcome.stderr;
    ensure!(
        outcome.code == Some(3) && said.contains("--the-member-is-gone"),
        "a rollback with a member that may be listed ended with {:?}:\n{said}",
        outcome.code
    );
    Ok(())
}
