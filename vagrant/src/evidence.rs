//! What is kept when something fails: the state of every machine and of the cluster, in a folder whose path is printed.
//!
//! It takes what it can get; a machine that does not answer costs a minute and leaves the error in the place of the answer.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::node::Node;
use crate::sh;

/// How long one question may take.
const LIMIT: Duration = Duration::from_mins(1);

/// File name and script of what every machine is asked.
const QUESTIONS: &[(&str, &str)] = &[
    ("kubelet.log", "journalctl --no-pager -u kubelet -n 3000"),
    ("runtime.log", "journalctl --no-pager -u docker -u containerd -n 1000"),
    ("system.txt", "uptime; df -h; free -m; ip address; ip route; systemctl --no-pager --failed; ps auxf"),
    (
        "containers.txt",
        "if command -v docker >/dev/null; then docker ps -a; docker images
         else export CONTAINER_RUNTIME_ENDPOINT=unix:///run/containerd/containerd.sock; crictl ps -a; crictl images; fi",
    ),
    // The kubelet's links to the runtime's logs, whichever it is.
    (
        "control-plane.log",
        "for log in $(ls /var/log/containers/*.log | grep -E '/(etcd|kube|coredns)'); do
             echo \"== $log\"; tail -n 200 \"$log\"; done",
    ),
    ("kpot-journal.jsonl", "cat /var/lib/kpot/journal.jsonl"),
    ("kubeadm-join.log", "cat /var/lib/kpot/kubeadm-join.log"),
    ("files.txt", "ls -laR /etc/kubernetes /etc/cni /opt/cni /var/lib/kpot /run/kpot /etc/docker /etc/containerd 2>&1 || true"),
    ("writer.txt", "tail -n 500 /root/lab-writer/acknowledged /root/lab-writer/errors 2>&1 || true"),
    ("moments.txt", "cat /tmp/moments/seen /tmp/moments/said 2>&1 || true"),
    ("hosts.txt", "cat /etc/hosts /etc/resolv.conf"),
    ("rules.txt", "iptables-save"),
];

/// File name and kubectl arguments of what a master is asked.
const CLUSTER_QUESTIONS: &[(&str, &str)] = &[
    ("all.txt", "get all --all-namespaces -o wide"),
    ("nodes.yaml", "get nodes -o yaml"),
    (
        "events.txt",
        "get events --all-namespaces --sort-by=.lastTimestamp",
    ),
    ("pods.txt", "describe pods --all-namespaces"),
    ("configmaps.yaml", "-n kube-system get configmaps -o yaml"),
];

/// Collects from these machines; the first one is asked about the cluster. Gives the folder.
pub fn collect(
    cache: &Cache,
    what: &str,
    error: &anyhow::Error,
    nodes: &[Node],
) -> Result<PathBuf> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("this machine's clock is before 1970")?;
    let folder = cache.evidence().join(format!("{}-{what}", now.as_secs()));
    sh::write_atomic(
        &folder.join("error.txt"),
        format!("{error:?}\n").as_bytes(),
        0o600,
    )?;
    for node in nodes {
        // A machine that is dead on purpose is asked once.
        if !node.outcome("true").is_ok_and(|outcome| outcome.ok()) {
            keep(&folder, node, "dead.txt", "true")?;
            continue;
        }
        for (file, script) in QUESTIONS {
            keep(&folder, node, file, script)?;
        }
    }
    if let Some(m1) = nodes.first() {
        for (file, args) in CLUSTER_QUESTIONS {
            keep(
                &folder,
                m1,
                &format!("cluster-{file}"),
                &format!("kubectl --kubeconfig /etc/kubernetes/admin.conf {args}"),
            )?;
        }
    }
    Ok(folder)
}

fn keep(folder: &std::path::Path, node: &Node, file: &str, script: &str) -> Result<()> {
    let said = match node.sh(script)?.timeout(LIMIT).outcome() {
        Ok(outcome) => outcome.stdout + &outcome.stderr,
        Err(error) => format!("{error:#}\n"),
    };
    // Not for everybody: a journal may show what a failing product should not have written.
    sh::write_atomic(
        &folder.join(node.machine()).join(file),
        said.as_bytes(),
        0o600,
    )
}
