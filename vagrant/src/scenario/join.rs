//! The whole line: a pot is carried to a bare machine, checked there with stock tools, and makes it a master.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Scenario};
use crate::checks;
use crate::lab::Bare;
use crate::node::Node;
use crate::pot;
use crate::snapshot::{Files, Snapshot};

/// A join takes well under a minute; on a machine whose two cores also compile something it may take longer.
pub const JOIN_LIMIT: Duration = Duration::from_mins(7);

/// The scenario.
#[derive(Debug)]
pub struct Join;

impl Scenario for Join {
    fn name(&self) -> String {
        "join".to_owned()
    }

    fn about(&self) -> String {
        "a bare machine becomes a master, its pods work, and doing it again does nothing".to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(10)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        bench.backup_ready(Bare::Full).map(drop)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        bench.backup_used();
        join(bench, &bench.b1()).map(drop)
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        checks::joined(cluster, &b1, bench.masters() + 1)?;
        checks::pods_work(cluster, &b1, bench.test_image())?;
        no_secret_folder(&b1)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        nothing_to_do(bench, &bench.b1())
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.remove_backup()
    }
}

/// The one command that an operator types; gives what it said.
pub fn join(bench: &Bench, b1: &Node) -> Result<String> {
    let healthy = bench.cluster()?.m1().address();
    let outcome = pot::install_well(
        b1,
        &format!("join-master --healthy {healthy} --yes"),
        JOIN_LIMIT,
    )?;
    Ok(outcome.stdout + &outcome.stderr)
}

/// The same command on a machine that joined: it says so, ends well, and neither the machine nor the cluster changes.
pub fn nothing_to_do(bench: &Bench, b1: &Node) -> Result<()> {
    let cluster = bench.cluster()?;
    let files = Snapshot::of_files(b1, Files::Written)?;
    let state = Snapshot::of_cluster(cluster)?;
    let said = join(bench, b1)?;
    ensure!(
        said.contains("nothing to do"),
        "the second run does not say that there is nothing to do:\n{said}"
    );
    files.ensure_same(&Snapshot::of_files(b1, Files::Written)?, "files on b1")?;
    state.ensure_same(&Snapshot::of_cluster(cluster)?, "the cluster")
}

/// Secrets live in a folder of /run while a join needs them, and not longer.
pub fn no_secret_folder(node: &Node) -> Result<()> {
    let left = node.output("find /run/kpot -type f 2>/dev/null || true")?;
    ensure!(left.is_empty(), "secret files are left on {node}: {left}");
    Ok(())
}
