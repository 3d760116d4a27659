//! What people gave a Node besides what kubeadm gives it: a label, an annotation, a taint and a cordon, which must outlive
//! the machine's death.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::wait;

const KEY: &str = "lab.kpot.example/kept";
const VALUE: &str = "of-old";

/// The taint of a cordon.
const CORDON: &str = "node.kubernetes.io/unschedulable";

/// The node controller takes its own taints away some seconds after a node is Ready.
const PATIENCE: Duration = Duration::from_mins(1);

/// Marks a Node.
pub fn mark(cluster: &Cluster, node: &Node) -> Result<()> {
    let mark = format!("{KEY}={VALUE}");
    cluster.kubectl(&["label", "--overwrite", "node", node.name(), &mark])?;
    cluster.kubectl(&["annotate", "--overwrite", "node", node.name(), &mark])?;
    cluster.kubectl(&["cordon", node.name()])?;
    let taint = format!("{mark}:NoSchedule");
    cluster
        .kubectl(&["taint", "--overwrite", "node", node.name(), &taint])
        .map(drop)
}

/// The marks are still there, and no taint says any more that the node does not answer.
pub fn kept(cluster: &Cluster, node: &Node) -> Result<()> {
    wait::until(
        &format!("{node} is free of the node controller's taints"),
        PATIENCE,
        || {
            let taints = taints(cluster, node)?;
            let controllers = |taint: &&Value| {
                taint["key"]
                    .as_str()
                    .is_some_and(|key| key.starts_with("node.kubernetes.io/") && key != CORDON)
            };
            Ok(taints.iter().find(controllers).map(Value::to_string))
        },
    )?;
    let now = cluster.kubectl_json(&["get", "node", node.name()])?;
    ensure!(
        now["spec"]["unschedulable"] == true,
        "{node} is no longer cordoned"
    );
    let metadata = &now["metadata"];
    for place in ["labels", "annotations"] {
        ensure!(
            metadata[place][KEY] == VALUE,
            "{node} has lost {KEY} among its {place}: {}",
            metadata[place]
        );
    }
    let taints = taints(cluster, node)?;
    ensure!(
        taints.iter().any(is_ours),
        "{node} has lost the taint {KEY}: {taints:?}"
    );
    Ok(())
}

/// Takes the marks off, as far as they are there.
pub fn unmark(cluster: &Cluster, node: &Node) -> Result<()> {
    let none = format!("{KEY}-");
    cluster.kubectl(&["label", "node", node.name(), &none])?;
    cluster.kubectl(&["annotate", "node", node.name(), &none])?;
    cluster.kubectl(&["uncordon", node.name()])?;
    if taints(cluster, node)?.iter().any(is_ours) {
        cluster.kubectl(&["taint", "node", node.name(), &none])?;
    }
    Ok(())
}

fn is_ours(taint: &Value) -> bool {
    taint["key"] == KEY && taint["value"] == VALUE && taint["effect"] == "NoSchedule"
}

fn taints(cluster: &Cluster, node: &Node) -> Result<Vec<Value>> {
    let node = cluster.kubectl_json(&["get", "node", node.name()])?;
    Ok(node["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default())
}
