//! Masters as TKE makes them (pkg/platform/provider/baremetal of tkestack/tke), with plain kubeadm all the same.
//!
//! A node is called by its address and bears it in a label as well; the endpoint is a name that only /etc/hosts knows, and
//! every master is its own endpoint; the control plane's pods see the whole of /etc/kubernetes and are given files there
//! that kubeadm does not make. Two things are the lab's: TKE sends audit events to a server of its own, here they go into a
//! file; and its keepalived, whose image is not to be had, is a busybox that sleeps under that name.

use anyhow::Result;
use serde_json::{Value, json};

use crate::node::{Node, quoted};

/// The name of the endpoint.
pub const ENDPOINT: &str = "api.tke.com";
/// The label that holds a node's address.
pub const ADDRESS_LABEL: &str = "platform.tkestack.io/machine-ip";
/// The static pod besides kubeadm's, and its manifest's name.
pub const STATIC_POD: &str = "keepalived";
/// Where the API servers write down who made a `ConfigMap`: a file that is mounted alone, as Kubernetes' own pages had it for years.
pub const AUDIT_LOG: &str = "/var/log/kubernetes-audit.log";
/// The word that known_tokens.csv lets in as an administrator: the lab's own, good for nothing else.
pub const TOKEN: &str = "lab-token-that-only-a-file-knows";
/// The last minor version whose scheduler reads a policy from a file, which TKE gives it.
pub const NEWEST_MINOR: u16 = 22;

/// What the pods are given besides kubeadm's own files.
pub const FILES: [&str; 3] = [
    "/etc/kubernetes/known_tokens.csv",
    "/etc/kubernetes/audit-policy.yaml",
    "/etc/kubernetes/scheduler-policy-config.json",
];

/// Where TKE leaves what it gave kubeadm, with that machine's address and secrets in it.
pub const KUBEADM_CONFIG: &str = "/etc/kubernetes/kubeadm-config.yaml";

/// Only what the lab asks for: a busy API server's whole log would be large.
const AUDIT_POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  verbs: ["create"]
  resources:
  - group: ""
    resources: ["configmaps"]
- level: None
"#;

/// The scheduler's defaults, but for the way to them.
const SCHEDULER_POLICY: &str = r#"{ "apiVersion": "v1", "kind": "Policy" }
"#;

/// Makes kubeadm's configuration for `init` one of TKE's.
pub(super) fn configure(cluster: &mut Value, init: &mut Value, address: &str) {
    let [tokens, audit, policy] = FILES;
    // The whole folder, certificates and credentials included: that is how TKE does it.
    let folder = json!({ "name": "vol-dir-0", "hostPath": "/etc/kubernetes", "mountPath": "/etc/kubernetes" });
    let log = json!({
        "name": "audit-log",
        "hostPath": AUDIT_LOG,
        "mountPath": AUDIT_LOG,
        "pathType": "FileOrCreate",
    });
    cluster["controlPlaneEndpoint"] = json!(format!("{ENDPOINT}:6443"));
    cluster["apiServer"] = json!({
        "extraArgs": { "token-auth-file": tokens, "audit-policy-file": audit, "audit-log-path": AUDIT_LOG },
        "extraVolumes": [folder, log],
    });
    cluster["controllerManager"] = json!({ "extraVolumes": [folder] });
    cluster["scheduler"] = json!({
        "extraArgs": { "use-legacy-policy-config": "true", "policy-config-file": policy },
        "extraVolumes": [folder],
    });
    init["nodeRegistration"] = json!({ "name": address });
}

/// What has to be on a master before its API server and scheduler can start, and a way to the endpoint by `address`.
pub(super) fn equip(node: &Node, address: &str) -> Result<()> {
    let tokens = format!("{TOKEN},admin,admin,system:masters\n");
    let contents = [
        (tokens.as_str(), 0o600),
        (AUDIT_POLICY, 0o644),
        (SCHEDULER_POLICY, 0o644),
    ];
    for (path, (content, mode)) in FILES.iter().zip(contents) {
        node.write(path, content, mode)?;
    }
    let left = format!("# what kubeadm was given on {node}\n");
    node.write(KUBEADM_CONFIG, &left, 0o600)?;
    point(node, address)
}

/// Lets the endpoint's name lead to an address. A container's /etc/hosts is a mount: it can be written, not replaced.
pub(super) fn point(node: &Node, address: &str) -> Result<()> {
    node.run(&format!(
        "{{ grep -v ' {ENDPOINT}$' /etc/hosts || true; echo '{address} {ENDPOINT}'; }} >/root/hosts
         cat /root/hosts >/etc/hosts; rm /root/hosts"
    ))
}

/// What TKE adds once a machine is a master: it is its own endpoint, and it gets its static pod.
pub(super) fn settle(node: &Node, image: &str) -> Result<()> {
    point(node, "127.0.0.1")?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": STATIC_POD, "namespace": "kube-system" },
        "spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": STATIC_POD,
                "image": image,
                "imagePullPolicy": "Never",
                "command": ["sh", "-c", "exec sleep 1000000"],
            }],
        },
    });
    node.write(
        &format!("/etc/kubernetes/manifests/{STATIC_POD}.yaml"),
        &format!("{pod:#}\n"),
        0o600,
    )
}

/// The flag that gives a node its name.
pub(super) fn join_flag(node: &Node) -> String {
    format!("--node-name {}", quoted(node.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_are_given_every_file_by_name() {
        let (mut cluster, mut init) = (json!({}), json!({}));
        configure(&mut cluster, &mut init, "10.77.0.11");
        for file in FILES {
            assert!(cluster.to_string().contains(file), "{file}");
        }
        assert_eq!(cluster["controlPlaneEndpoint"], "api.tke.com:6443");
        assert_eq!(init["nodeRegistration"]["name"], "10.77.0.11");
    }
}
