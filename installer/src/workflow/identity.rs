//! Whether this machine is the master that it is about to be taken for. A wrong answer would wipe a healthy one, so everything that contradicts refuses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;

use super::hostname;

use crate::control_plane::ClusterView;
use crate::control_plane::credentials::{ca_hash, decode_base64};
use crate::control_plane::facts::ClusterFacts;
use crate::host::HostView;
use crate::joining::refusals::Refusal;
use crate::joining::{self, endpoint};
use crate::journal::Entry;
use crate::replacing::Departed;
use crate::replacing::record::{self, Record};
use crate::rollback::owed::Owed;

/// Credentials that name the CA of the cluster that this machine belongs to.
const KUBECONFIGS: [&str; 2] = ["/etc/kubernetes/kubelet.conf", "/etc/kubernetes/admin.conf"];

/// Refuses a machine whose own files name another cluster's CA.
pub(super) fn other_cluster(host: &HostView, cluster: &ClusterFacts) -> Result<Option<Refusal>> {
    let path = format!("{}/ca.crt", cluster.config.certificates_dir);
    let mut found = Vec::new();
    if let Some(certificate) = host.read(&path)? {
        found.push((path, certificate));
    }
    for path in KUBECONFIGS {
        let text = host.text(path)?.unwrap_or_default();
        let data = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("certificate-authority-data:"));
        if let Some(certificate) = data.and_then(|data| decode_base64(data.trim()).ok()) {
            found.push((path.to_owned(), certificate));
        }
    }
    // What is damaged says nothing.
    let foreign = found.iter().find_map(|(path, certificate)| {
        let hash = ca_hash(certificate).ok()?;
        (hash != cluster.ca_hash).then_some((path, hash))
    });
    Ok(foreign.map(|(path, hash)| Refusal {
        cause: format!(
            "this machine belongs to another cluster: {path} has the CA {hash}, the cluster of {} has {}",
            cluster.healthy.metadata.name, cluster.ca_hash
        ),
        remedy: "Give with --healthy a master of this machine's own cluster. If it is to leave that one, take it out there first: kpot-install reset --healthy ADDRESS, with the address of another master of that cluster. Where this cluster got a new CA while this machine was down: stop the kubelet, move /etc/kubernetes away, and run this again".to_owned(),
    }))
}

/// What the cluster calls the master at this address: by its Node, its etcd member, our own record of one that is being taken out, or kubeadm's ClusterStatus, whichever is left.
pub(super) fn known_as(
    cluster: &ClusterFacts,
    records: &[Record],
    address: &str,
) -> Option<String> {
    let mut nodes = cluster.nodes.iter();
    let node = nodes.find(|node| node.has_address(address));
    let mut members = cluster.members.iter();
    let member = members.find(|member| member.is_at(address) && !member.name.is_empty());
    let record = records.iter().find(|record| record.address == address);
    let mut entries = cluster.api_endpoints.iter();
    let entry = entries.find(|(_, place)| place == address);
    node.map(|node| &node.metadata.name)
        .or(member.map(|member| &member.name))
        .or(record.map(|record| &record.name))
        .or(entry.map(|(name, _)| name))
        .cloned()
}

/// The name of a machine that the cluster does not know: its host name; on a TKE cluster, where every node is called by its address, that.
pub(super) fn usual_name(cluster: &ClusterFacts, healthy: IpAddr, address: &str) -> Result<String> {
    let name = &cluster.healthy.metadata.name;
    let mut internal = cluster.healthy.internal_addresses();
    if *name == healthy.to_string() || internal.any(|address| address == name) {
        return Ok(address.to_owned());
    }
    hostname()
}

/// Where etcd listens for clients.
const ETCD_PORT: u16 = 2379;

/// Refuses to take this machine for `departed` where the cluster knows it by another name or address, or knows somebody else by that one; `own` are this
/// machine's addresses, `ports` those at which it listens.
pub(super) fn not_ourselves(
    host: &HostView,
    own: &[String],
    ports: &BTreeSet<u16>,
    cluster: &ClusterFacts,
    departed: &Departed,
) -> Result<Vec<Refusal>> {
    let mut all = Vec::new();
    let data = cluster.config.etcd.member_dir();
    for member in &cluster.members {
        if departed.owns(member) {
            if let Some(data) = data.as_deref().filter(|_| member.votes())
                && !host.exists(data)?
            {
                all.push(without_data(&member.to_string(), data, ports));
            }
        } else if own.iter().any(|address| member.is_at(address)) {
            all.push(elsewhere(departed, &format!("etcd member {member}")));
        }
    }
    for node in &cluster.nodes {
        if node.metadata.name != departed.name && own.iter().any(|own| node.has_address(own)) {
            all.push(elsewhere(departed, &format!("node {}", node.metadata.name)));
        }
    }
    Ok(all)
}

/// A control plane's manifest, which no worker has.
const APISERVER: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// Refuses to bring `departed`, this machine, back as a master where it is a worker: a rebirth would delete its Node under its pods. A master is known by whatever is left of one: its label,
/// its etcd member, its entry in ClusterStatus, its record, its API server here, or a join of ours that kubeadm began.
pub(super) fn no_worker(
    host: &HostView,
    view: &ClusterView,
    journal: &[Entry],
    cluster: &ClusterFacts,
    departed: &Departed,
) -> Result<Option<Refusal>> {
    let (name, address) = (&departed.name, &departed.address);
    let mut nodes = cluster.nodes.iter();
    let Some(node) = nodes.find(|node| node.metadata.name == *name || node.has_address(address))
    else {
        return Ok(None);
    };
    let mut endpoints = cluster.api_endpoints.iter();
    // The Node of a join that was cut off has no label yet.
    let half_joined = joining::is_settling(journal, name, address)
        && Owed::of(journal)
            .member
            .is_some_and(|member| member.node == *name);
    if node.is_master()
        || cluster.member(name, address).is_some()
        || endpoints.any(|(known, place)| known == name || place == address)
        || half_joined
        || host.exists(APISERVER)?
        || record::kept(view, departed)?.is_some()
    {
        return Ok(None);
    }
    let healthy = endpoint::healthy_address(cluster)?;
    Ok(Some(Refusal {
        cause: format!(
            "this machine is the worker {} of the cluster, and nothing says that it was a master: a rebirth would delete its node under its pods",
            node.metadata.name
        ),
        remedy: format!(
            "To let it take the place of a master that is down, for which it is drained first: kpot-install change-master --down NAME --healthy {healthy}\nTo make it one more master: drain it, take it out of the cluster here (kpot-install reset --healthy {healthy}), then kpot-install join-master --healthy {healthy}"
        ),
    }))
}

/// A member that answers, and whose data is not here. An etcd goes on in memory where its data is deleted under it, and counts until it stops.
fn without_data(member: &str, data: &str, ports: &BTreeSet<u16>) -> Refusal {
    if ports.contains(&ETCD_PORT) {
        return Refusal {
            cause: format!(
                "etcd member {member} answers, {data} is not on this machine, and something listens at port {ETCD_PORT} here: as it seems this machine's own etcd, whose data was deleted while it runs"
            ),
            remedy: format!(
                "Where enough of the other members answer without it, let it stop, and run this again: mv /etc/kubernetes/manifests/etcd.yaml /root/; its container has ended where nothing listens any more: ss -ltn 'sport = :{ETCD_PORT}'"
            ),
        };
    }
    Refusal {
        cause: format!(
            "etcd member {member} is well, and this machine has no {data}: another machine has that name and address"
        ),
        remedy: "Look which machine answers there, and give this one an address of its own"
            .to_owned(),
    }
}

fn elsewhere(departed: &Departed, what: &str) -> Refusal {
    Refusal {
        cause: format!(
            "the cluster knows this machine as {what}, and not as {} at {}",
            departed.name, departed.address
        ),
        remedy: "Say who it is: --node-name and --advertise-address, as the cluster has them"
            .to_owned(),
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "tests make the files of the machine that they look at"
)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::host::scripted::Scripted;
    use crate::joining::fixtures;
    use crate::journal::{Change, Event, Journal};
    use crate::replacing::Whose;

    fn ours(name: &str, address: &str) -> Departed {
        Departed {
            name: name.to_owned(),
            address: address.to_owned(),
            whose: Whose::Ours,
        }
    }

    #[test]
    fn a_stranger_is_called_by_its_address_only_where_all_are() {
        let usual = |name: &str, internal: &str, healthy: &str| {
            let mut cluster = fixtures::cluster();
            cluster.healthy = fixtures::node(name, internal);
            usual_name(&cluster, healthy.parse().unwrap(), "10.0.0.21").unwrap()
        };
        let own = hostname().unwrap();
        assert_eq!(usual("m1", "10.0.0.11", "10.0.0.11"), own);
        assert_eq!(usual("10.0.0.11", "10.0.0.11", "10.0.0.11"), "10.0.0.21");
        assert_eq!(
            usual("10.0.0.11", "10.0.0.11", "192.168.7.11"),
            "10.0.0.21",
            "its API server may advertise another address"
        );
    }

    #[test]
    fn a_machine_that_the_cluster_knows_otherwise_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let host = HostView::new(root.path(), Arc::new(Scripted::new()));
        let mut cluster = fixtures::cluster();
        cluster.members.push(fixtures::member(3, "m3", "10.0.0.13"));
        cluster.nodes.push(fixtures::node("m3", "10.0.0.13"));
        let own = ["10.0.0.13", "10.1.0.13"].map(str::to_owned);
        let judged_with = |ports: &[u16], departed: &Departed| {
            let ports = ports.iter().copied().collect();
            let refusals = not_ourselves(&host, &own, &ports, &cluster, departed).unwrap();
            refusals
                .into_iter()
                .map(|refusal| refusal.cause)
                .collect::<Vec<_>>()
                .join("; ")
        };
        let judged = |departed: &Departed| judged_with(&[22, 6443], departed);
        assert!(judged(&ours("m3", "10.1.0.13")).contains("knows this machine as etcd member m3"));
        assert!(judged(&ours("b1", "10.1.0.13")).contains("as node m3"));
        assert!(
            judged(&ours("m3", "10.0.0.13")).contains("another machine has that name"),
            "it is well, and its data is not here"
        );
        let deleted = judged_with(&[2379], &ours("m3", "10.0.0.13"));
        assert!(
            deleted.contains("deleted while it runs") && !deleted.contains("another machine"),
            "{deleted}"
        );
        fs::create_dir_all(root.path().join("var/lib/etcd/member")).unwrap();
        assert_eq!(judged(&ours("m3", "10.0.0.13")), "");
    }

    #[test]
    fn a_worker_is_no_master_that_comes_back_and_whatever_is_left_of_a_master_is_one() {
        let root = tempfile::tempdir().unwrap();
        let host = HostView::new(root.path(), Arc::new(Scripted::new()));
        let journal = Journal::new(root.path().join("journal"));
        let mut worker = fixtures::cluster();
        let mut node = fixtures::node("w1", "10.0.0.31");
        node.metadata.labels.clear();
        worker.nodes.push(node);
        let departed = ours("w1", "10.0.0.31");
        let judged = |cluster: &ClusterFacts, record: &str| {
            let script = Scripted::new().on("kubectl", 0, record);
            let view = ClusterView::new(Arc::new(script), "10.0.0.11");
            let entries = Journal::read(journal.dir()).unwrap();
            no_worker(&host, &view, &entries, cluster, &departed).unwrap()
        };
        let refused = judged(&worker, "").unwrap();
        assert!(refused.cause.contains("the worker w1"), "{refused:?}");
        assert!(
            refused.remedy.contains("change-master --down") && refused.remedy.contains("reset"),
            "{refused:?}"
        );

        assert_eq!(judged(&fixtures::cluster(), ""), None, "its Node is gone");
        let mut labelled = worker.clone();
        labelled.nodes[2] = fixtures::node("w1", "10.0.0.31");
        assert_eq!(judged(&labelled, ""), None);
        let mut member = worker.clone();
        member.members.push(fixtures::member(3, "w1", "10.0.0.31"));
        assert_eq!(judged(&member, ""), None, "its labels vanished");
        let mut status = worker.clone();
        let entry = ("w1".to_owned(), "10.0.0.31".to_owned());
        status.api_endpoints.push(entry);
        assert_eq!(judged(&status, ""), None);
        let record = r#"{"metadata":{"name":"kpot-w1"},"data":{"node":"null"}}"#;
        assert_eq!(judged(&worker, record), None, "a rebirth was begun");

        let join = || Change::Join {
            node: "w1".to_owned(),
            address: "10.0.0.31".to_owned(),
        };
        journal.intent(join()).unwrap();
        assert!(
            judged(&worker, "").is_some(),
            "announced only: a change that did not begin to drain it"
        );
        let step = joining::join::ID.to_owned();
        journal.record(Event::Step { step }).unwrap();
        journal.intent(join()).unwrap();
        assert_eq!(judged(&worker, ""), None, "kubeadm made that Node");
        let outcome = "done".to_owned();
        journal.record(Event::End { outcome }).unwrap();
        assert!(judged(&worker, "").is_some(), "that is long ago");

        let manifests = root.path().join("etc/kubernetes/manifests");
        fs::create_dir_all(&manifests).unwrap();
        fs::write(manifests.join("kube-apiserver.yaml"), "").unwrap();
        assert_eq!(judged(&worker, ""), None, "an API server runs here");
    }

    #[test]
    fn damaged_files_name_no_cluster() {
        let root = tempfile::tempdir().unwrap();
        let host = HostView::new(root.path(), Arc::new(Scripted::new()));
        let cluster = fixtures::cluster();
        assert_eq!(other_cluster(&host, &cluster).unwrap(), None);
        fs::create_dir_all(root.path().join("etc/kubernetes/pki")).unwrap();
        fs::write(root.path().join("etc/kubernetes/pki/ca.crt"), "torn").unwrap();
        assert_eq!(other_cluster(&host, &cluster).unwrap(), None);
    }
}
