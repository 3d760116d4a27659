//! The snapshot that a change took before it removed the dead master's member is a whole cluster: restored with the real
//! tool, as the product's own runbook says it, and served by an etcd of its own, it holds what was written before the
//! change and nothing that came after.
//!
//! The runbook is the one that the installer prints where etcd has no quorum, so that is brought about first, by taking m2's
//! power as well. It is followed word by word in its step 4. Its other steps would stop the living cluster: the manifest is
//! copied to where step 3 moves it, and the etcd of step 6 runs beside the living one, on ports of its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::rebirth::three_masters;
use super::{Bench, Scenario, again, join, killed};
use crate::checks;
use crate::cluster::{ClusterSpec, Runtime};
use crate::eras::Version;
use crate::lab::Bare;
use crate::node::Node;
use crate::pot;
use crate::wait;

/// What a change may take, or its refusal by a cluster that does not answer.
const CHANGE_LIMIT: Duration = Duration::from_mins(10);
/// An etcd that starts alone leads after an election's time.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Written before the change.
const BEFORE: &str = "lab-before-the-change";
/// Written after it.
const AFTER: &str = "lab-after-the-change";
/// What either holds.
const VALUE: &str = "kept-in-the-snapshot";

/// Where the runbook takes the snapshot from, and where it restores it to.
const SNAPSHOT: &str = "/var/lib/lost-quorum.db";
const RESTORED: &str = "/var/lib/etcd-restored";

/// The restored etcd: its container, and where it answers.
const CONTAINER: &str = "lab-restored";
const CLIENT: &str = "http://127.0.0.1:12379";
const PEER: &str = "http://127.0.0.1:12380";

/// The scenario.
#[derive(Debug, Default)]
pub struct Restored {
    /// What is typed in step 4.
    step: String,
}

impl Scenario for Restored {
    fn name(&self) -> String {
        "snapshot/restored".to_owned()
    }

    fn about(&self) -> String {
        "the snapshot of a change, restored by the runbook that the installer prints, holds what was written before"
            .to_owned()
    }

    fn suits(&self, runtime: &Runtime) -> bool {
        *runtime == Runtime::Docker
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(25)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        three_masters(version)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.backup_ready(Bare::Full)?;
        forget(bench)?;
        write(bench, BEFORE)?;
        let (m2, m3) = (bench.m2(), bench.m3());
        bench.used(&m3);
        for node in [&m2, &m3] {
            bench.lab().power_off(node)?;
        }
        let refused = pot::install(&b1, &command(bench)?, CHANGE_LIMIT)?;
        let said = refused.stdout + &refused.stderr;
        ensure!(
            refused.code == Some(3),
            "without a quorum it ended with {:?}:\n{said}",
            refused.code
        );
        self.step = typed_in_step_4(&said)
            .with_context(|| format!("no runbook was understood in:\n{said}"))?;
        killed::revive(bench)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        bench.backup_used();
        let b1 = bench.b1();
        pot::install_well(&b1, &command(bench)?, CHANGE_LIMIT)?;
        write(bench, AFTER)?;
        b1.run(&format!(
            "set -- /var/lib/kpot/backup/*/etcd-snapshot.db; [ $# = 1 ]; [ -f \"$1\" ]; cp \"$1\" {SNAPSHOT}
             mkdir -p /etc/kubernetes/stopped; cp /etc/kubernetes/manifests/etcd.yaml /etc/kubernetes/stopped/"
        ))?;
        b1.run(&self.step)?;
        serve(&b1)
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        let members = etcdctl(&b1, "member list")?;
        ensure!(
            members.lines().count() == 1 && members.contains(&format!(", {b1}, ")),
            "the restored etcd is not b1 alone:\n{members}"
        );
        let before = etcdctl(&b1, &get(BEFORE))?;
        ensure!(
            before.contains(VALUE),
            "{BEFORE} is not in the restored etcd: {before:?}"
        );
        let after = etcdctl(&b1, &get(AFTER))?;
        ensure!(
            after.is_empty(),
            "{AFTER} came after the snapshot, and the restored etcd has it: this is not the snapshot"
        );
        // The living cluster has both, and never noticed.
        for name in [BEFORE, AFTER] {
            let found = cluster.etcdctl(&["get", &key(name)])?;
            ensure!(found.contains(VALUE), "the cluster has lost {name}");
        }
        checks::gone(cluster, &bench.m3())?;
        checks::joined(cluster, &b1, bench.masters())?;
        join::no_secret_folder(&b1)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.b1();
        tidy(&b1)?;
        again::nothing_to_do(bench, &b1, &command(bench)?)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        killed::revive(bench)?;
        forget(bench)?;
        bench.make_whole()
    }
}

fn command(bench: &Bench) -> Result<String> {
    let healthy = bench.cluster()?.m1().address();
    Ok(format!("change-master --down m3 --healthy {healthy} --yes"))
}

/// Writes a `ConfigMap` through the API server.
fn write(bench: &Bench, name: &str) -> Result<()> {
    let value = format!("--from-literal=value={VALUE}");
    bench
        .cluster()?
        .kubectl(&["create", "configmap", name, &value])
        .map(drop)
}

fn forget(bench: &Bench) -> Result<()> {
    bench
        .cluster()?
        .kubectl(&["delete", "configmap", BEFORE, AFTER, "--ignore-not-found"])
        .map(drop)
}

/// Where the API server keeps a `ConfigMap` of the default namespace.
fn key(name: &str) -> String {
    format!("/registry/configmaps/default/{name}")
}

fn get(name: &str) -> String {
    format!("get {} --print-value-only", key(name))
}

/// The commands of the runbook's step 4: its deeply indented lines, but for those that are said to be needed only with some
/// versions of the tool.
fn typed_in_step_4(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("\n4. Restore")?;
    let (step, _) = rest.split_once("\n5. ")?;
    let typed: Vec<&str> = step
        .lines()
        .filter(|line| line.starts_with("       "))
        .collect();
    let step = typed.join("\n");
    (step.contains(SNAPSHOT) && step.contains(RESTORED)).then_some(step)
}

/// Starts one etcd on the restored folder, with the image and the name that the cluster's own has.
fn serve(node: &Node) -> Result<()> {
    node.run(&format!(
        "manifest=/etc/kubernetes/stopped/etcd.yaml
         image=$(awk '$1 == \"image:\" {{ print $2 }}' $manifest)
         peer=$(grep -o -- '--initial-advertise-peer-urls=.*' $manifest | cut -d= -f2-)
         docker run --detach --name {CONTAINER} --network host --volume {RESTORED}:{RESTORED} --entrypoint etcd $image \
             --name {node} --data-dir {RESTORED} --initial-cluster {node}=$peer --initial-advertise-peer-urls $peer \
             --listen-peer-urls {PEER} --listen-client-urls {CLIENT} --advertise-client-urls {CLIENT}"
    ))?;
    wait::until("the restored etcd answers", START_LIMIT, || {
        let health = etcdctl(node, "endpoint health");
        Ok(health.err().map(|error| format!("{error:#}")))
    })
}

fn etcdctl(node: &Node, arguments: &str) -> Result<String> {
    node.output(&format!(
        "docker exec -e ETCDCTL_API=3 {CONTAINER} etcdctl --endpoints {CLIENT} {arguments}"
    ))
}

fn tidy(node: &Node) -> Result<()> {
    node.run(&format!(
        "docker rm --force {CONTAINER}; rm -rf {RESTORED} {SNAPSHOT} /etc/kubernetes/stopped"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the installer prints, with its places filled in.
    const RUNBOOK: &str = include_str!("../../../installer/src/templates/quorum-lost.txt");

    #[test]
    fn step_4_is_found_in_the_runbook_and_nothing_of_the_others() {
        let said = format!("connecting …\n{RUNBOOK}\nkpot-install: refused");
        let step = typed_in_step_4(&said).expect("step 4");
        assert!(step.contains("snapshot restore") && step.contains("IMAGE=$(awk"));
        assert!(!step.contains("mv ") && !step.contains("snapshot save"));
        assert_eq!(typed_in_step_4("kpot-install: refused"), None);
    }
}
