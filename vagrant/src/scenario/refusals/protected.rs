//! Changes of masters that must be refused because they would cost the cluster its quorum, a healthy master, or somebody
//! else's work.
//!
//! m3 is dead in most rows in the way that is cheapest: its etcd is stopped, and its kubelet lives. The cluster's own view
//! of its Nodes then stands still and can be compared.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Act, Refusal, nothing};
use crate::checks;
use crate::node::Node;
use crate::scenario::{Bench, damage};
use crate::wait;

/// Addresses for documentation (RFC 5737): nobody has them.
const NOBODY: &str = "203.0.113.13";
const LEARNER: &str = "https://203.0.113.77:2380";

/// etcd 3.4, the first with learners, came with Kubernetes 1.17.
const LEARNERS: u16 = 17;

/// etcd wants five seconds of health before it changes its membership, and may refuse until then.
const MEMBER_LIMIT: Duration = Duration::from_mins(1);

/// A kubelet looks for changed manifests at least every 20 s; then etcd starts, and takes the leader's snapshot.
const LEARNER_LIMIT: Duration = Duration::from_mins(2);

const CHANGE: &str = "./kpot-install change-master --down m3 --healthy M1 --yes";

/// All of them, as a table: name, what it is, words of the error, what is typed, how it is made and unmade.
#[rustfmt::skip]
pub fn protected() -> Vec<Refusal> {
    let row = |name: &'static str, about, says, command, prepare: Act, undo: Act| Refusal {
        group: "protected",
        name,
        about,
        masters: 3,
        oldest_minor: if name.starts_with("learner-") { LEARNERS } else { 0 },
        own_kernels: false,
        prepare,
        command,
        status: 3,
        says,
        undo,
        late: name == "still-answers-here",
        whole: None,
        asked: false,
        outcome: None,
    };
    vec![
        row("two-down", "two of three masters are down", &["quorum"][..], CHANGE, two_down, two_up),
        row("down-unknown", "nobody has the name of the master that is said to be down", &["m9"],
            "./kpot-install change-master --down m9 --healthy M1 --yes", nothing, nothing),
        row("down-disagrees", "name and address of the dead master belong to different machines", &["m3", NOBODY], CHANGE,
            |bench| {
                stop_m3(bench)?;
                move_m3(bench, NOBODY)
            },
            |bench| {
                move_m3(bench, bench.m3().address())?;
                start_m3(bench)
            }),
        row("down-is-healthy", "the master that is said to be down is the healthy one", &["m1", "healthy"],
            "./kpot-install change-master --down m1 --healthy M1 --yes", nothing, nothing),
        row("still-answers", "the etcd of the master that is said to be down answers", &["m3", "kpot-install reset"], CHANGE,
            nothing, nothing),
        row("still-answers-there", "the etcd of the master that is said to be down answers the other masters, and not this machine", &["m3", "kpot-install reset"], CHANGE,
            |bench| hide_etcd(bench, "-I", &bench.b1()), |bench| hide_etcd(bench, "-D", &bench.b1())),
        row("still-answers-here", "the etcd of the master that is said to be down answers this machine, and not the healthy master", &["m3", "answers this machine", "nothing was changed on the cluster", "kpot-install reset"], CHANGE,
            |bench| {
                // The lock of an earlier run would be a difference.
                unlock(bench)?;
                hide_etcd(bench, "-I", bench.cluster()?.m1())
            },
            |bench| {
                hide_etcd(bench, "-D", bench.cluster()?.m1())?;
                unlock(bench)
            }),
        row("learner-pending", "a learner waits for its vote", &["learner"], CHANGE,
            |bench| {
                // First: etcd takes no new member while one is silent.
                add_learner(bench)?;
                stop_m3(bench)
            },
            |bench| {
                start_m3(bench)?;
                remove_learner(bench)
            }),
        row("learner-alive", "the member of the master that is said to be down has no vote, and is well", &["m3", "kpot-install reset"], CHANGE,
            make_learner, make_voter),
        row("locked", "somebody else changes the masters right now", &["somebody", "kube-system/kpot"], CHANGE,
            |bench| {
                stop_m3(bench)?;
                lock(bench)
            },
            |bench| {
                unlock(bench)?;
                start_m3(bench)
            }),
    ]
}

fn two_down(bench: &mut Bench) -> Result<()> {
    bench.lab().power_off(&bench.lab().m2())?;
    bench.lab().power_off(&bench.m3())
}

fn two_up(bench: &mut Bench) -> Result<()> {
    let nodes = [bench.lab().m2(), bench.m3()];
    for node in &nodes {
        bench.lab().power_on(node)?;
    }
    let cluster = bench.cluster()?;
    nodes
        .iter()
        .try_for_each(|node| damage::healthy_again(cluster, node))
}

fn stop_m3(bench: &Bench) -> Result<()> {
    damage::stop_etcd(bench.cluster()?, &bench.m3())
}

fn start_m3(bench: &Bench) -> Result<()> {
    damage::start_etcd(bench.cluster()?, &bench.m3())
}

/// m3 drops what another machine asks its etcd, from `-I` until `-D`.
fn hide_etcd(bench: &Bench, verb: &str, from: &Node) -> Result<()> {
    bench.m3().run(&format!(
        "iptables -w {verb} INPUT -s {} -p tcp --dport 2379 -j DROP",
        from.address()
    ))
}

/// Tells etcd that the member m3 is at another address.
fn move_m3(bench: &Bench, address: &str) -> Result<()> {
    let cluster = bench.cluster()?;
    let member = checks::own_member(cluster, &bench.m3())?;
    let peer = format!("--peer-urls=https://{address}:2380");
    cluster
        .etcdctl(&["member", "update", &member.id, &peer])
        .map(drop)
}

/// m3's etcd begins anew as a learner: it answers, and what it may answer is not what a voter is asked.
fn make_learner(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    let cluster = bench.cluster()?;
    if checks::leader(cluster)?.name == m3.name() {
        checks::make_leader(cluster, cluster.m1())?;
    }
    stop_m3(bench)?;
    bench.remove_member(&m3)?;
    m3.run("rm -rf /var/lib/etcd/member")?;
    let peer = format!("https://{}:2380", m3.address());
    bench.add_member(m3.name(), &peer, &["--learner"])?;
    // What kubeadm wrote for a join says who else is a member, and that the cluster exists.
    m3.run("mv /root/etcd.yaml /etc/kubernetes/manifests/etcd.yaml")?;
    wait::until("the learner answers", LEARNER_LIMIT, || {
        let asked = cluster.etcdctl_on(&m3, &["get", "--consistency=s", "health"]);
        Ok(asked.err().map(|error| format!("{error:#}")))
    })
}

fn make_voter(bench: &mut Bench) -> Result<()> {
    let (cluster, m3) = (bench.cluster()?, bench.m3());
    let member = checks::own_member(cluster, &m3)?;
    // etcd promotes only who has caught up.
    wait::until("the learner has its vote", LEARNER_LIMIT, || {
        if checks::member_of(cluster, &m3)?.is_some_and(|member| !member.learner) {
            return Ok(None);
        }
        let promoted = cluster.etcdctl(&["member", "promote", &member.id]);
        Ok(promoted.err().map(|error| format!("{error:#}")))
    })?;
    // Its kubelet may have given up an etcd that was no voter, and waits before it tries again.
    m3.run("systemctl restart kubelet")?;
    damage::healthy_again(cluster, &m3)
}

fn add_learner(bench: &Bench) -> Result<()> {
    bench.add_member("lab-learner", LEARNER, &["--learner"])
}

fn remove_learner(bench: &Bench) -> Result<()> {
    let cluster = bench.cluster()?;
    wait::until("etcd lets the learner go", MEMBER_LIMIT, || {
        let members = checks::members(cluster)?;
        let Some(learner) = members
            .into_iter()
            .find(|member| member.peer_url == LEARNER)
        else {
            return Ok(None);
        };
        let removed = cluster.etcdctl(&["member", "remove", &learner.id]);
        Ok(Some(removed.unwrap_or_else(|error| format!("{error:#}"))))
    })
}

/// Takes the product's lock for an hour, in the name of somebody who is not there.
fn lock(bench: &Bench) -> Result<()> {
    let cluster = bench.cluster()?;
    unlock(bench)?;
    let now = cluster
        .m1()
        .output("date --utc +%Y-%m-%dT%H:%M:%S.000000Z")?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": "kpot", "namespace": "kube-system" },
        "spec": {
            "holderIdentity": "somebody 203.0.113.9",
            "leaseDurationSeconds": 3600,
            "acquireTime": now,
            "renewTime": now,
        },
    });
    cluster.apply(&lease.to_string())
}

pub(super) fn unlock(bench: &Bench) -> Result<()> {
    let lease = ["-n", "kube-system", "delete", "--ignore-not-found"];
    bench
        .cluster()?
        .kubectl(&[&lease[..], &["leases.coordination.k8s.io", "kpot"]].concat())
        .map(drop)
}
