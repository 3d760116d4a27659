//! A dead master is replaced by the bare backup machine, and the cluster keeps every acknowledged write meanwhile.
//!
//! One row of the table below is one scenario. m3 is the one that dies; afterwards nothing in the cluster remembers it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::rebirth::three_masters;
use super::{Bench, Scenario, again, damage, join, worker};
use crate::checks;
use crate::cluster::{Cluster, ClusterSpec};
use crate::eras::Version;
use crate::lab::Bare;
use crate::node::Node;
use crate::pot;
use crate::wait;
use crate::writer::{self, Account};

/// What a change may take: a join, and before it the snapshot and the removal; the silence of a dead machine costs time.
const CHANGE_LIMIT: Duration = Duration::from_mins(10);

/// An address that a static pod of m3 holds for the cluster, as keepalived and kube-vip do; one for documentation, which nobody else has.
const HELD: &str = "203.0.113.50";

/// How long a kubelet may take to start a static pod.
const POD_LIMIT: Duration = Duration::from_mins(2);

/// Files on m3 that have nothing to do with Kubernetes.
const UNRELATED: [&str; 3] = [
    "/etc/lab-unrelated.conf",
    "/opt/lab-unrelated/data",
    "/var/lib/lab-unrelated/data",
];

type Act = fn(&mut Bench) -> Result<()>;
type Called = fn(&Cluster, &Node) -> Result<String>;

/// One way to die and be replaced.
pub struct Change {
    name: &'static str,
    about: &'static str,
    damage: Act,
    /// How the operator calls the dead machine.
    down: Called,
    /// That, once the machine is there.
    called: String,
    /// Further words of the command.
    flags: &'static str,
    /// What is true of the dead machine afterwards.
    afterwards: Act,
    account: Option<Account>,
}

/// All of them, as a table: name, what it is, how m3 dies, what it is called, further flags, what is checked besides.
#[rustfmt::skip]
pub fn all() -> Vec<Change> {
    let row = |name, about, damage, down, flags, afterwards| Change { name, about, damage, down, called: String::new(), flags, afterwards, account: None };
    vec![
        row("dead", "a master without power, by its name", damage::power_off as Act, by_name as Called, "", nothing as Act),
        row("dead-by-address", "a master without power, by its address", damage::power_off, by_address, "", nothing),
        row("dead-by-member-id", "a master without power, by the ID of its member", damage::power_off, by_member_id, "", nothing),
        row("dead-elsewhere", "a master without power, whose Node has another address than its etcd", damage::power_off_elsewhere, by_address, "", nothing),
        row("half-dead", "a master whose SSH answers and whose etcd does not", damage::half_dead, by_name, "", nothing),
        row("reset-down", "the same, and it is reset afterwards", half_dead_with_more, by_name, "--reset-down", is_reset),
        row("onto-worker", "a master without power, by a machine that is a worker of the cluster", worker::joins_before_m3_dies, by_name, "", worker::its_pods_run),
    ]
}

impl Scenario for Change {
    fn name(&self) -> String {
        format!("change/{}", self.name)
    }

    fn about(&self) -> String {
        format!("is replaced: {}", self.about)
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(18)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        three_masters(version)
    }

    fn told(&self) -> Option<String> {
        self.account.as_ref().map(Account::to_string)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        bench.backup_ready(Bare::Full)?;
        let cluster = bench.cluster()?;
        self.called = (self.down)(cluster, &bench.m3())?;
        writer::start(cluster, &[cluster.m1(), &bench.lab().m2()])?;
        (self.damage)(bench)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        bench.backup_used();
        pot::install_well(&bench.b1(), &self.command(bench)?, CHANGE_LIMIT).map(drop)
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, m2, b1) = (bench.cluster()?, bench.lab().m2(), bench.b1());
        checks::gone(cluster, &bench.m3())?;
        checks::pods_work(cluster, &b1, bench.test_image())?;
        checks::joined(cluster, &b1, bench.masters())?;
        join::no_secret_folder(&b1)?;
        self.account = Some(writer::finish(cluster, &[&m2, &b1])?);
        (self.afterwards)(bench)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        again::nothing_to_do(bench, &bench.b1(), &self.command(bench)?)?;
        checks::gone(bench.cluster()?, &bench.m3())
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        writer::remove(bench.cluster()?)?;
        bench.make_whole()
    }
}

impl Change {
    fn command(&self, bench: &Bench) -> Result<String> {
        Ok(format!(
            "change-master --down {} --healthy {} {} --yes",
            self.called,
            bench.cluster()?.m1().address(),
            self.flags
        ))
    }
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "a row's way to call a machine may fail; this one cannot"
)]
fn by_name(_cluster: &Cluster, node: &Node) -> Result<String> {
    Ok(node.name().to_owned())
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "a row's way to call a machine may fail; this one cannot"
)]
fn by_address(_cluster: &Cluster, node: &Node) -> Result<String> {
    Ok(node.address().to_owned())
}

fn by_member_id(cluster: &Cluster, node: &Node) -> Result<String> {
    Ok(checks::own_member(cluster, node)?.id)
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "a row's act may fail; this one does nothing"
)]
fn nothing(_bench: &mut Bench) -> Result<()> {
    Ok(())
}

fn half_dead_with_more(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    for file in UNRELATED {
        m3.write(file, file, 0o640)?;
    }
    hold_address(&m3, bench.test_image())?;
    damage::half_dead(bench)
}

/// A static pod that gives the node an address, and takes it away again where it is asked to end.
fn hold_address(node: &Node, image: &str) -> Result<()> {
    let script = format!(
        "ip address add {HELD}/32 dev lo
         trap 'ip address delete {HELD}/32 dev lo; exit' TERM
         while :; do sleep 1 & wait; done"
    );
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "lab-vip", "namespace": "kube-system" },
        "spec": {
            "hostNetwork": true,
            "containers": [{
                "name": "lab-vip",
                "image": image,
                "imagePullPolicy": "Never",
                "securityContext": { "capabilities": { "add": ["NET_ADMIN"] } },
                "command": ["sh", "-c", script],
            }],
        },
    });
    let manifest = "/etc/kubernetes/manifests/lab-vip.yaml";
    node.write(manifest, &format!("{pod:#}\n"), 0o600)?;
    wait::until(&format!("{node} holds {HELD}"), POD_LIMIT, || {
        let held = held_address(node)?;
        Ok(held.is_empty().then(|| "it does not".to_owned()))
    })
}

/// The line of the held address, where the node has it.
fn held_address(node: &Node) -> Result<String> {
    node.output(&format!("ip -oneline address show to {HELD}"))
}

/// Nothing of Kubernetes runs or is configured on m3 any more, what is not Kubernetes' is untouched, and the address that a pod held there is free.
fn is_reset(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    let left = m3.output(&format!(
        "{} 2>/dev/null || true
         pgrep -x -a 'kubelet|etcd|kube-apiserver' || true
         find /etc/kubernetes /var/lib/etcd -type f 2>/dev/null || true",
        bench.runtime().running_of_pods()
    ))?;
    ensure!(left.is_empty(), "this is left of Kubernetes on m3:\n{left}");
    let held = held_address(&m3)?;
    ensure!(
        held.is_empty(),
        "m3 still holds an address of the cluster: {held}"
    );
    for file in UNRELATED {
        let found = m3.output(&format!("stat -c %a {file}; cat {file}"))?;
        ensure!(
            found == format!("640\n{file}"),
            "{file} on m3 is not what it was: {found:?}"
        );
    }
    Ok(())
}
