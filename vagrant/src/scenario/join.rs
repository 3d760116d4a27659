//! The whole line: a pot is carried to a bare machine, checked there with stock tools, and makes it a master.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Scenario, again};
use crate::checks;
use crate::lab::Bare;
use crate::node::Node;
use crate::pot;
use crate::sh::Outcome;

/// A join takes well under a minute; on a machine whose two cores also compile something it may take longer.
pub const JOIN_LIMIT: Duration = Duration::from_mins(12);

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
        let outcome = join(bench, &bench.b1())?;
        ensure!(
            !outcome.stderr.contains("kubeadm's record of the cluster"),
            "flags that kubeadm itself gave to the masters are taken for somebody else's:\n{}",
            outcome.stderr
        );
        Ok(())
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        checks::pods_work(cluster, &b1, bench.test_image())?;
        checks::joined(cluster, &b1, bench.masters() + 1)?;
        no_secret_folder(&b1)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        nothing_to_do(bench, &bench.b1())
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.remove_backup()
    }
}

/// The one command that an operator types.
pub fn join(bench: &Bench, node: &Node) -> Result<Outcome> {
    pot::install_well(node, &command(bench)?, JOIN_LIMIT)
}

/// The same command on a machine that joined.
pub fn nothing_to_do(bench: &Bench, node: &Node) -> Result<()> {
    again::nothing_to_do(bench, node, &command(bench)?)
}

fn command(bench: &Bench) -> Result<String> {
    Ok(format!(
        "join-master --healthy {} --yes",
        bench.cluster()?.m1().address()
    ))
}

/// Secrets live in a folder of /run while a join needs them, and not longer.
pub fn no_secret_folder(node: &Node) -> Result<()> {
    let left = node.output("find /run/kpot -type f 2>/dev/null || true")?;
    ensure!(left.is_empty(), "secret files are left on {node}: {left}");
    Ok(())
}
