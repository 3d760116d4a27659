//! A machine that joined is taken out of the cluster again, and is what it was before: its files, units, sysctls and
//! processes.
//!
//! Left out are logs, caches, systemd's own state, the product's folder /var/lib/kpot, and times. A bare machine has no
//! container runtime, so images and volumes are files like all others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::rebirth::three_masters;
use super::{Bench, Scenario, again, join};
use crate::checks;
use crate::cluster::ClusterSpec;
use crate::eras::Version;
use crate::lab::Bare;
use crate::node::Node;
use crate::pot;
use crate::snapshot::{Files, Snapshot};

/// The member goes within seconds; units have to stop, and Docker takes its containers down one by one.
const RESET_LIMIT: Duration = Duration::from_mins(7);

/// The scenario.
#[derive(Debug, Default)]
pub struct AfterJoin {
    before: Option<Machine>,
}

/// What is compared.
#[derive(Debug)]
pub(super) struct Machine {
    files: Snapshot,
    system: Snapshot,
}

impl Machine {
    pub(super) fn of(node: &Node) -> Result<Self> {
        Ok(Self {
            files: Snapshot::of_files(node, Files::Undone)?,
            system: Snapshot::of_system(node)?,
        })
    }

    /// The machine is again what it was.
    pub(super) fn ensure_same(&self, node: &Node) -> Result<()> {
        let now = Self::of(node)?;
        self.files
            .ensure_same(&now.files, &format!("files on {node}"))?;
        self.system.ensure_same(
            &now.system,
            &format!("units, sysctls and processes of {node}"),
        )
    }
}

impl Scenario for AfterJoin {
    fn name(&self) -> String {
        "rollback/after-join".to_owned()
    }

    fn about(&self) -> String {
        "a machine that joined is reset, and is what it was before; its member and Node are gone"
            .to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(15)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        three_masters(version)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.backup_ready(Bare::Full)?;
        bench.backup_used();
        self.before = Some(Machine::of(&b1)?);
        join::join(bench, &b1)?;
        checks::joined(bench.cluster()?, &b1, bench.masters() + 1)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.b1();
        refused_while_it_is_a_member(bench, &b1)?;
        pot::install_well(&b1, &command(bench)?, RESET_LIMIT).map(drop)
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        checks::gone(cluster, &b1)?;
        checks::etcd_voters(cluster, cluster.m1(), bench.masters())?;
        checks::nothing_left(cluster)?;
        join::no_secret_folder(&b1)?;
        let before = self.before.as_ref().context("it was not prepared")?;
        before.ensure_same(&b1)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        again::nothing_to_do(bench, &bench.b1(), &command(bench)?)?;
        again::nothing_to_do(bench, &bench.b1(), "rollback --yes")
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.make_whole()
    }
}

/// A rollback alone would leave a dead voter behind.
fn refused_while_it_is_a_member(bench: &Bench, node: &Node) -> Result<()> {
    let outcome = pot::install(node, "rollback --yes", RESET_LIMIT)?;
    let said = outcome.stdout + &outcome.stderr;
    ensure!(
        outcome.code == Some(3) && said.contains("kpot-install reset"),
        "a rollback of a voter ended with {:?} and said:\n{said}",
        outcome.code
    );
    checks::healthy_master(bench.cluster()?, node)
}

fn command(bench: &Bench) -> Result<String> {
    Ok(format!(
        "reset --healthy {} --yes",
        bench.cluster()?.m1().address()
    ))
}
