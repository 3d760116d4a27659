//! A backup machine on which nobody installed conntrack, socat and ebtables.
//!
//! kubeadm demands conntrack from 1.18 on: there the join is refused before anything changes. Before, it only warns of what
//! is missing, and so must we; the join then works.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{Bench, Scenario, join};
use crate::checks;
use crate::lab::Bare;
use crate::pot;
use crate::sh::Outcome;
use crate::snapshot::{Files, Snapshot};

/// The first minor version of Kubernetes whose kubeadm ends without conntrack.
const CONNTRACK_DEMANDED: u16 = 18;

/// The scenario.
#[derive(Debug, Default)]
pub struct LeanHost {
    before: Option<Snapshot>,
    outcome: Option<Outcome>,
}

impl Scenario for LeanHost {
    fn name(&self) -> String {
        "lean-host".to_owned()
    }

    fn about(&self) -> String {
        "without conntrack, socat and ebtables: refused where this kubeadm demands them, warned of where it does not".to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(10)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.backup_ready(Bare::Lean)?;
        bench.backup_used();
        self.before = Some(Snapshot::of_files(&b1, Files::Machine)?);
        Ok(())
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let healthy = bench.cluster()?.m1().address();
        let command = format!("join-master --healthy {healthy} --yes");
        self.outcome = Some(pot::install(&bench.b1(), &command, join::JOIN_LIMIT)?);
        Ok(())
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (Some(before), Some(outcome)) = (&self.before, &self.outcome) else {
            bail!("it was not run")
        };
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        if is_demanded(bench) {
            ensure!(
                outcome.code == Some(3),
                "exit status {:?}, not 3:\n{said}",
                outcome.code
            );
            ensure!(
                said.contains("conntrack"),
                "the refusal does not name conntrack:\n{said}"
            );
            return before.ensure_same(
                &Snapshot::of_files(&bench.b1(), Files::Machine)?,
                "files on b1",
            );
        }
        ensure!(outcome.ok(), "exit status {:?}:\n{said}", outcome.code);
        for tool in ["conntrack", "ebtables", "socat"] {
            ensure!(
                said.contains(tool),
                "nothing warns that {tool} is missing:\n{said}"
            );
        }
        checks::joined(bench.cluster()?, &bench.b1(), bench.masters() + 1)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        if is_demanded(bench) {
            self.run(bench)?;
            return self.check(bench);
        }
        join::nothing_to_do(bench, &bench.b1())
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.remove_backup()
    }
}

fn is_demanded(bench: &Bench) -> bool {
    bench.version().minor >= CONNTRACK_DEMANDED
}
