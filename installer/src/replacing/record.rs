//! What is worth keeping of a master that leaves, kept in the cluster itself until the work is done: a ConfigMap `kpot-<node>` in kube-system.
//!
//! It is written before anything is removed, so that any run on any machine can finish what another one began, also where the first machine's disk is gone. It holds the
//! node's name and address, and its labels, annotations and taints.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Departed;
use crate::control_plane::objects::{Data, List};
use crate::control_plane::{Cluster, ClusterView};
use crate::journal::Change;
use crate::step::{Place, State, Step, View, World};

/// The label by which all records are found.
const LABEL: &str = "app.kubernetes.io/managed-by=kpot";

/// Whom a record is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name of the node.
    pub name: String,
    /// Its address.
    pub address: String,
}

/// Every record that the cluster keeps.
pub fn all(view: &ClusterView) -> Result<Vec<Record>> {
    let maps: List<Data> = view.get(&[
        "configmaps",
        "--namespace",
        "kube-system",
        "--selector",
        LABEL,
    ])?;
    let field = |map: &Data, key: &str| map.data.get(key).cloned().unwrap_or_default();
    Ok(maps
        .items
        .iter()
        .map(|map| Record {
            name: field(map, "name"),
            address: field(map, "address"),
        })
        .collect())
}

/// The Node as it was, where a record of it is kept.
pub fn kept(view: &ClusterView, departed: &Departed) -> Result<Option<Value>> {
    let map: Option<Data> = view.find(&[
        "configmap",
        &object_name(departed),
        "--namespace",
        "kube-system",
    ])?;
    let Some(map) = map else {
        return Ok(None);
    };
    let node = map.data.get("node").map_or("null", String::as_str);
    serde_json::from_str(node)
        .map(Some)
        .with_context(|| format!("the ConfigMap {} does not parse", object_name(departed)))
}

/// Drops the record: the work is done.
pub fn drop(cluster: &Cluster, departed: &Departed) -> Result<()> {
    cluster.delete(&[
        "configmap",
        &object_name(departed),
        "--namespace",
        "kube-system",
    ])
}

fn object_name(departed: &Departed) -> String {
    format!("kpot-{}", departed.name)
}

/// Keeps the record.
pub struct KeepRecord {
    departed: Departed,
}

impl KeepRecord {
    /// Keeps what is worth keeping of `departed`.
    pub fn new(departed: Departed) -> Self {
        Self { departed }
    }
}

impl Step for KeepRecord {
    fn id(&self) -> &'static str {
        "keep-record"
    }

    fn summary(&self) -> String {
        format!(
            "labels, annotations and taints of {} are kept in ConfigMap kube-system/{}",
            self.departed.name,
            object_name(&self.departed)
        )
    }

    fn place(&self) -> Place {
        Place::Cluster
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        Ok(match kept(cluster, &self.departed)? {
            Some(_) => State::Satisfied,
            None => State::Pending("before anything is removed; reversible".to_owned()),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let node: Option<Value> = cluster.view().find(&["node", &self.departed.name])?;
        let kept = node.map(|node| {
            json!({
                "labels": node["metadata"]["labels"],
                "annotations": node["metadata"]["annotations"],
                "taints": node["spec"]["taints"],
            })
        });
        let (label, value) = LABEL.split_once('=').unwrap_or((LABEL, ""));
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": object_name(&self.departed),
                "namespace": "kube-system",
                "labels": { label: value },
            },
            "data": {
                "name": self.departed.name,
                "address": self.departed.address,
                "node": json!(kept).to_string(),
            },
        });
        world.host.note(Change::Cluster {
            what: format!("make ConfigMap kube-system/{}", object_name(&self.departed)),
        })?;
        let output = cluster.apply("create", &object)?;
        ensure!(output.ok(), "cannot keep the record: {}", output.evidence());
        Ok(())
    }
}
