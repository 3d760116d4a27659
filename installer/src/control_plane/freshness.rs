//! Whether the API servers of the masters serve what is true now.
//!
//! An API server answers lists and watches out of a cache that it fills by watching etcd. After etcd was without a leader for some seconds (when a second member was
//! added to a single one, say) those watches can stand still while everything still looks healthy, with API servers of 1.20 above all: kubernetes/kubernetes#97294. Whoever
//! asks such a server sees no new Service, Node or Secret any more, and kubeadm's join through it hangs. The Lease that this program has just written tells: a server that
//! does not know it in its cache after a while is told apart from one that does.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::ClusterView;
use super::lease::Written;
use super::objects::Metadata;
use crate::host::command::Cmd;

/// How long a cache may lag behind; a healthy one does by milliseconds.
const LAG: Duration = Duration::from_secs(15);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Deserialize)]
struct Lease {
    metadata: Metadata,
}

/// Which of these API servers (name of the node, `https://HOST:PORT`) do not know the cluster's lock as this run wrote it. Servers that do not answer are not judged.
pub fn standing_still(
    view: &ClusterView,
    servers: &BTreeMap<String, String>,
    lock: &Written,
) -> Result<Vec<String>> {
    let cached = format!("{}?resourceVersion=0", lock.path);
    let clock = view.clock();
    let deadline = clock.now() + LAG;
    let mut behind: Vec<(&String, &String)> = servers.iter().collect();
    loop {
        let questions = behind
            .iter()
            .map(|(_, server)| asking(view, server, &cached));
        let questions: Vec<Cmd> = questions.collect();
        let view = &view.ahead(&questions);
        let mut still = Vec::new();
        for (name, server) in behind {
            match revision(view, server, &cached) {
                Ok(Some(known)) if known >= lock.revision => {}
                Ok(_) => still.push((name, server)),
                Err(_) => {}
            }
        }
        if still.is_empty() || clock.now() >= deadline {
            return Ok(still.into_iter().map(|(name, _)| name.clone()).collect());
        }
        behind = still;
        clock.pause(PAUSE);
    }
}

fn asking(view: &ClusterView, server: &str, path: &str) -> Cmd {
    view.kubectl(["--server", server, "get", "--raw", path])
}

/// The revision of an object as a server knows it; nothing where it knows none.
fn revision(view: &ClusterView, server: &str, path: &str) -> Result<Option<u64>> {
    let output = view.ask(&asking(view, server, path))?;
    if !output.ok() {
        if output.evidence().contains("NotFound") {
            return Ok(None);
        }
        anyhow::bail!("no answer: {}", output.evidence());
    }
    let lease: Lease = serde_json::from_slice(&output.stdout).context("a Lease is expected")?;
    lease
        .metadata
        .resource_version
        .parse()
        .map(Some)
        .context("a revision is a number")
}

/// What an operator has to know of API servers that stand still, and what to type.
pub fn told(names: &[String]) -> (String, String) {
    let list = names.join(", ");
    (
        format!(
            "the API server on {list} serves an old state of the cluster: it answers, but it has seen no change for {} s (its watches of etcd stand still)",
            LAG.as_secs()
        ),
        format!(
            "Start it again, on {list}: docker restart $(docker ps --quiet --filter name=k8s_kube-apiserver_) (with containerd: crictl stop, and the kubelet starts it)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::scripted::Scripted;

    fn lease(revision: u64) -> String {
        format!(
            r#"{{"metadata":{{"name":"kpot","namespace":"kube-system","resourceVersion":"{revision}"}}}}"#
        )
    }

    #[test]
    fn a_cache_that_catches_up_is_fresh_and_a_server_that_is_gone_is_not_judged() {
        let kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 20s";
        let path = "get --raw /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kpot";
        let (old, new) = (lease(7), lease(9));
        let script = Scripted::new()
            .once_each(
                &format!("{kubectl} --server https://10.0.0.11:6443 {path}?resourceVersion=0"),
                [(0, old.as_str()), (0, new.as_str())],
            )
            .on(
                &format!("{kubectl} --server https://10.0.0.12:6443 {path}?resourceVersion=0"),
                1,
                "dial tcp: connection refused",
            );
        let view = ClusterView::new(Arc::new(script), "10.0.0.11");
        let servers = [
            ("m1", "https://10.0.0.11:6443"),
            ("m2", "https://10.0.0.12:6443"),
        ]
        .map(|(name, server)| (name.to_owned(), server.to_owned()))
        .into();
        let lock = Written {
            path: "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kpot".to_owned(),
            revision: 9,
        };
        assert_eq!(
            standing_still(&view, &servers, &lock).unwrap(),
            Vec::<String>::new()
        );
    }
}
