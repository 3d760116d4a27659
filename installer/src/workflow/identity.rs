//! Whether this machine is the master that it is about to be taken for. A wrong answer would wipe a healthy one, so everything that contradicts refuses.

use anyhow::Result;

use crate::control_plane::credentials::{ca_hash, decode_base64};
use crate::control_plane::facts::ClusterFacts;
use crate::host::HostView;
use crate::joining::refusals::Refusal;
use crate::replacing::Departed;

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
        remedy: "Give with --healthy a master of this machine's own cluster. If it is to leave that one, take it out there first: kpot-install reset --healthy, with a master of that cluster".to_owned(),
    }))
}

/// Refuses to take this machine for `departed` where the cluster knows it by another name or address, or knows somebody else by that one; `own` are this
/// machine's addresses.
pub(super) fn not_ourselves(
    host: &HostView,
    own: &[String],
    cluster: &ClusterFacts,
    departed: &Departed,
) -> Result<Vec<Refusal>> {
    let mut all = Vec::new();
    let data = format!("{}/member", cluster.config.etcd.data_dir());
    for member in &cluster.members {
        if departed.owns(member) {
            if member.votes() && !host.exists(&data)? {
                all.push(Refusal {
                    cause: format!(
                        "etcd member {member} is well, and this machine has no {data}: another machine has that name and address"
                    ),
                    remedy: "Look which machine answers there, and give this one an address of its own".to_owned(),
                });
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
    use crate::replacing::Whose;

    fn ours(name: &str, address: &str) -> Departed {
        Departed {
            name: name.to_owned(),
            address: address.to_owned(),
            whose: Whose::Ours,
        }
    }

    #[test]
    fn a_machine_that_the_cluster_knows_otherwise_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let host = HostView::new(root.path(), Arc::new(Scripted::new()));
        let mut cluster = fixtures::cluster();
        cluster.members.push(fixtures::member(3, "m3", "10.0.0.13"));
        cluster.nodes.push(fixtures::node("m3", "10.0.0.13"));
        let own = ["10.0.0.13", "10.1.0.13"].map(str::to_owned);
        let judged = |departed: &Departed| {
            let refusals = not_ourselves(&host, &own, &cluster, departed).unwrap();
            refusals
                .into_iter()
                .map(|refusal| refusal.cause)
                .collect::<Vec<_>>()
                .join("; ")
        };
        assert!(judged(&ours("m3", "10.1.0.13")).contains("knows this machine as etcd member m3"));
        assert!(judged(&ours("b1", "10.1.0.13")).contains("as node m3"));
        assert!(
            judged(&ours("m3", "10.0.0.13")).contains("another machine has that name"),
            "it is well, and its data is not here"
        );
        fs::create_dir_all(root.path().join("var/lib/etcd/member")).unwrap();
        assert_eq!(judged(&ours("m3", "10.0.0.13")), "");
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
