//! What is true of a cluster, asked from another master: kubectl and etcdctl on m1, pods on the new node.
//!
//! Nothing here reads what the product prints. Every check waits a little for what takes time by itself, and then fails
//! with what it last saw.

mod etcd;
mod images;

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, is_ready};
use crate::eras::Version;
use crate::node::{Node, quoted};
use crate::wait;

pub use etcd::{
    etcd_answers, etcd_voters, leader, make_leader, member_of, members, own_member, votes,
};
pub use images::images_named;

/// The product has waited for all this itself, so most of it is true at once; a kubelet on a busy machine reports late.
const PATIENCE: Duration = Duration::from_mins(2);
/// The same where something is known to be wrong, and only that it is seen matters.
const IMPATIENCE: Duration = Duration::from_secs(2);
thread_local! {
    /// Which of the two holds: other labs check on threads of their own.
    static IMPATIENT: Cell<bool> = const { Cell::new(false) };
}
/// A pod whose image is there starts within seconds; name lookups and connections may be tried again meanwhile.
const POD_PATIENCE: Duration = Duration::from_mins(2);

const CONTROL_PLANE: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// Checks what is known to be wrong, without waiting for it to become right.
pub fn impatiently<T>(check: impl FnOnce() -> T) -> T {
    IMPATIENT.set(true);
    let found = check();
    IMPATIENT.set(false);
    found
}

fn patience() -> Duration {
    if IMPATIENT.get() {
        IMPATIENCE
    } else {
        PATIENCE
    }
}

/// All that must hold after `node` joined: Ready as a control-plane node, `voters` started and healthy voters in etcd, its
/// control plane running, its own API server answering, and no credential left in the cluster.
///
/// A kubelet that starts before its Node exists lists its static pods when it looks at them again, on 1.20 a minute later: what else there is to ask is better asked
/// first.
pub fn joined(cluster: &Cluster, node: &Node, voters: usize) -> Result<()> {
    control_plane_node(cluster, node)?;
    etcd_voters(cluster, node, voters)?;
    control_plane_runs(cluster, node)?;
    answers(cluster, node)?;
    images_named(cluster, node)?;
    nothing_left(cluster)?;
    ensure!(
        lock(cluster)?.is_none(),
        "the cluster's lock was not given back"
    );
    Ok(())
}

/// kubectl on m1 lists the node as Ready, with the labels of a master of that version and its own address.
pub fn control_plane_node(cluster: &Cluster, node: &Node) -> Result<()> {
    wait::until(&format!("{node} is Ready"), patience(), || {
        let nodes = cluster.kubectl_json(&["get", "nodes"])?;
        let found = nodes["items"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["metadata"]["name"] == node.name());
        Ok(match found {
            None => Some("kubectl on m1 does not list it".to_owned()),
            Some(one) if !is_ready(one) => {
                Some(format!("conditions {}", one["status"]["conditions"]))
            }
            Some(_) => None,
        })
    })?;
    let found = cluster.kubectl_json(&["get", "node", node.name()])?;
    for label in role_labels(cluster.spec().version) {
        ensure!(
            !found["metadata"]["labels"][label].is_null(),
            "{node} has no label {label}"
        );
    }
    let addresses = found["status"]["addresses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ensure!(
        addresses
            .iter()
            .any(|one| one["type"] == "InternalIP" && one["address"] == node.address()),
        "{node} has the addresses {addresses:?}, not {}",
        node.address()
    );
    Ok(())
}

/// The static pods of a control plane are Ready on the node.
pub fn control_plane_runs(cluster: &Cluster, node: &Node) -> Result<()> {
    wait::until(
        &format!("the control plane on {node} is Ready"),
        patience(),
        || {
            for name in CONTROL_PLANE {
                let name = format!("{name}-{node}");
                let pod = cluster.kubectl_json(&[
                    "-n",
                    "kube-system",
                    "get",
                    "pods",
                    "--field-selector",
                    &format!("metadata.name={name}"),
                ])?;
                let Some(pod) = pod["items"].as_array().and_then(|pods| pods.first()) else {
                    return Ok(Some(format!("there is no pod {name}")));
                };
                if pod["spec"]["nodeName"] != node.name() || !is_ready(pod) {
                    return Ok(Some(format!("pod {name} is {}", pod["status"])));
                }
            }
            Ok(None)
        },
    )
}

/// A machine that is master no more has left nothing in the cluster: no member, no Node, and up to 1.21 no entry in
/// `ClusterStatus`.
pub fn gone(cluster: &Cluster, node: &Node) -> Result<()> {
    let member = member_of(cluster, node)?;
    ensure!(member.is_none(), "etcd still lists {node}: {member:#?}");
    let nodes = cluster.kubectl_json(&["get", "nodes"])?;
    ensure!(
        nodes["items"]
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one["metadata"]["name"] != node.name())),
        "kubectl on m1 still lists the Node {node}"
    );
    let config =
        cluster.kubectl_json(&["-n", "kube-system", "get", "configmap", "kubeadm-config"])?;
    let status = config["data"]["ClusterStatus"].as_str().unwrap_or_default();
    ensure!(
        !status.contains(node.address()),
        "ClusterStatus still has {node}:\n{status}"
    );
    Ok(())
}

/// A master as it was made: its member votes, it is Ready, and its API server answers.
pub fn healthy_master(cluster: &Cluster, node: &Node) -> Result<()> {
    votes(cluster, node)?;
    control_plane_node(cluster, node)?;
    answers(cluster, node)
}

/// The node's own API server answers m1, by the cluster's CA.
pub fn answers(cluster: &Cluster, node: &Node) -> Result<()> {
    let server = format!("https://{}:6443", node.address());
    let said = cluster.kubectl(&["--server", &server, "get", "--raw", "/healthz"])?;
    ensure!(
        said == "ok",
        "the API server on {node} says {said:?} of its health"
    );
    Ok(())
}

/// Neither a bootstrap token nor the certificates for a join are left in the cluster.
pub fn nothing_left(cluster: &Cluster) -> Result<()> {
    let secrets = cluster.kubectl_json(&["-n", "kube-system", "get", "secrets"])?;
    for secret in secrets["items"].as_array().into_iter().flatten() {
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        ensure!(
            secret["type"] != "bootstrap.kubernetes.io/token",
            "the bootstrap token in Secret {name} is left"
        );
        ensure!(name != "kubeadm-certs", "the Secret kubeadm-certs is left");
    }
    Ok(())
}

/// What the product keeps in the cluster only while it works is gone: the record of a master that leaves, and its snapshots
/// beside etcd's data.
pub fn nothing_kept(cluster: &Cluster) -> Result<()> {
    let records = cluster.kubectl(&[
        "-n",
        "kube-system",
        "get",
        "configmaps",
        "-l",
        "app.kubernetes.io/managed-by=kpot",
        "-o",
        "name",
    ])?;
    ensure!(records.is_empty(), "a record is left: {records}");
    let snapshots = cluster
        .m1()
        .output("find /var/lib/etcd -maxdepth 1 -name 'kpot-*'")?;
    ensure!(
        snapshots.is_empty(),
        "a snapshot is left on m1: {snapshots}"
    );
    Ok(())
}

/// Who holds the product's lock on the cluster, and for how many seconds more; `None` where nobody does, or did not renew
/// it in time.
pub fn lock(cluster: &Cluster) -> Result<Option<String>> {
    let leases =
        cluster.kubectl_json(&["-n", "kube-system", "get", "leases.coordination.k8s.io"])?;
    for lease in leases["items"].as_array().into_iter().flatten() {
        let name = lease["metadata"]["name"].as_str().unwrap_or_default();
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        if !name.contains("kpot") || holder.is_empty() {
            continue;
        }
        let renewed = lease["spec"]["renewTime"].as_str().unwrap_or_default();
        let lasts = lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(0);
        let age: i64 = cluster
            .m1()
            .output(&format!(
                "echo $(($(date +%s) - $(date -d {} +%s)))",
                quoted(renewed)
            ))?
            .parse()
            .context("reading the age of the lock")?;
        if age <= lasts {
            return Ok(Some(format!(
                "{holder} holds {name} for {} s more",
                lasts - age
            )));
        }
    }
    Ok(None)
}

/// A pod on the node resolves kubernetes.default and reaches a Service whose pod is on m1: its image was in the pot, the
/// pod network, kube-proxy and DNS work there.
pub fn pods_work(cluster: &Cluster, node: &Node, image: &str) -> Result<()> {
    remove_pods(cluster)?;
    let items = [
        web_pod(cluster.m1(), image),
        web_service(),
        client_pod(node, image),
    ];
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())?;
    let client = || cluster.kubectl_json(&["get", "pod", "lab-client"]);
    let ended = wait::until(
        &format!("the pod on {node} has ended well"),
        POD_PATIENCE,
        || {
            let status = client()?["status"].clone();
            Ok(match status["phase"].as_str() {
                Some("Succeeded") => None,
                _ => Some(status.to_string()),
            })
        },
    );
    // What the pod says comes through the kubelet of the new node: its serving side works too.
    let said = cluster.kubectl(&["logs", "lab-client"]);
    ended.with_context(|| format!("the pod says: {said:?}"))?;
    let said = said?;
    ensure!(
        said.contains("lab-web answers"),
        "the pod reached no Service: {said}"
    );
    ensure!(
        said.contains("10.96.0.1"),
        "the pod did not resolve kubernetes.default: {said}"
    );
    let pod = client()?;
    ensure!(
        pod["spec"]["nodeName"] == node.name(),
        "the pod ran on {}",
        pod["spec"]["nodeName"]
    );
    remove_pods(cluster)
}

fn remove_pods(cluster: &Cluster) -> Result<()> {
    cluster
        .kubectl(&[
            "delete",
            "pod/lab-web",
            "pod/lab-client",
            "service/lab-web",
            "--ignore-not-found",
            "--grace-period=0",
            "--force",
        ])
        .map(drop)
}

fn web_pod(node: &Node, image: &str) -> Value {
    let script = "mkdir -p /tmp/www; echo lab-web answers >/tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
    let mut pod = pod("lab-web", node, image, script);
    pod["metadata"]["labels"] = json!({ "app": "lab-web" });
    pod
}

fn web_service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "lab-web" },
        "spec": { "selector": { "app": "lab-web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    })
}

fn client_pod(node: &Node, image: &str) -> Value {
    // DNS and the Service's rules follow within seconds, so each is asked again for a while. nslookup and nc, because
    // Debian's static busybox crashes in wget, where it would load parts of glibc.
    let script = r#"patiently() { for try in $(seq 40); do "$@" && return; sleep 1; done; exit 1; }
        ask() { printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 "$1" 80 | grep answers; }
        patiently nslookup kubernetes.default.svc.cluster.local
        patiently nslookup lab-web.default.svc.cluster.local >/tmp/web
        address=$(sed -n 's/^Address: *\([0-9.]*\)$/\1/p' /tmp/web | tail -n 1)
        patiently ask "$address""#;
    let mut pod = pod("lab-client", node, image, script);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod
}

fn pod(name: &str, node: &Node, image: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            // Set by hand: no scheduler that could choose another node.
            "nodeName": node.name(),
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{
                "name": "main",
                "image": image,
                "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
            }],
        },
    })
}

fn role_labels(version: Version) -> &'static [&'static str] {
    match version.minor {
        ..=19 => &["node-role.kubernetes.io/master"],
        20..=23 => &[
            "node-role.kubernetes.io/master",
            "node-role.kubernetes.io/control-plane",
        ],
        24.. => &["node-role.kubernetes.io/control-plane"],
    }
}
