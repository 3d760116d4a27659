//! The lab against an installer that is known to be broken: it must be caught.
//!
//! The installer in the pot is replaced by one that prepares the machine, says what the real one says, ends with exit
//! status 0, and never joins. The stages of the scenario `join` are played with it. Besides, each single check is shown
//! something wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::join::Join;
use super::{Bench, Scenario, identity};
use crate::checks;
use crate::lab::Bare;
use crate::pot::POT_DIR;

const BROKEN: &str = "#!/bin/sh
echo 'this machine is a master of the cluster; nothing to do'
";

/// The scenario.
#[derive(Debug)]
pub struct BrokenInstaller;

impl Scenario for BrokenInstaller {
    fn name(&self) -> String {
        "broken-installer".to_owned()
    }

    fn about(&self) -> String {
        "an installer that only says that it joined is caught, and so is each thing that a join may leave".to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(10)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.backup_ready(Bare::Full)?;
        bench.backup_used();
        b1.write(&format!("{POT_DIR}/kpot-install"), BROKEN, 0o755)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        Join.run(bench)
            .context("the broken installer was made to end well")
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let checked = checks::impatiently(|| Join.check(bench));
        caught("a machine that never joined", &checked)?;
        let (cluster, b1, m2) = (bench.cluster()?, bench.b1(), bench.lab().m2());
        // What is right on m2 shows that these checks fail for the reason given, not always.
        checks::control_plane_node(cluster, &m2)?;
        checks::etcd_voters(cluster, &m2, bench.masters())?;
        checks::answers(cluster, &m2)?;
        checks::healthy_master(cluster, &m2)?;
        checks::gone(cluster, &b1)?;
        checks::nothing_left(cluster)?;
        caught(
            "a voter too few",
            &checks::etcd_voters(cluster, &m2, bench.masters() + 1),
        )?;
        caught(
            "an etcd without b1",
            &checks::etcd_voters(cluster, &b1, bench.masters()),
        )?;
        caught("a voter that is not there", &checks::votes(cluster, &b1))?;
        caught("a master that is not gone", &checks::gone(cluster, &m2))?;
        caught("a Node without the marks", &identity::kept(cluster, &m2))?;
        caught(
            "an API server that is not there",
            &checks::answers(cluster, &b1),
        )?;
        cluster.m1().run(
            "kubeadm --kubeconfig /etc/kubernetes/admin.conf token create --ttl 10m >/dev/null",
        )?;
        caught("a bootstrap token", &checks::nothing_left(cluster))?;
        cluster.revoke()?;
        cluster.kubectl(&[
            "-n",
            "kube-system",
            "create",
            "secret",
            "generic",
            "kubeadm-certs",
            "--from-literal=a=b",
        ])?;
        caught(
            "the certificates for a join",
            &checks::nothing_left(cluster),
        )?;
        cluster.revoke()
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        // It says "nothing to do" and changes nothing: only the checks from outside can tell.
        Join.run_again(bench)
            .context("saying that there is nothing to do is all that the broken installer can")?;
        caught(
            "a machine that never joined",
            &checks::etcd_voters(bench.cluster()?, &bench.b1(), bench.masters() + 1),
        )
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.cluster()?.revoke()?;
        bench.remove_backup()
    }
}

fn caught(what: &str, checked: &Result<()>) -> Result<()> {
    ensure!(checked.is_err(), "the lab's checks did not catch {what}");
    Ok(())
}
