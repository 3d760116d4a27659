//! What is worth keeping of a master that leaves, kept in the cluster itself until the work is done: a ConfigMap `kpot-<node>` in kube-system.
//!
//! It is written before anything is removed, so that any run on any machine can finish what another one began, also where the first machine's disk is gone. It holds the
//! node's name and address, its labels, annotations and taints, and whether it was cordoned.
//!
//! A record may be there already. While the Node is still the one that it was made of, the Node is right. Another Node of that name was made since: by a run that was cut off and
//! whose Node has nothing yet of what is kept, or by somebody who brought the master back in another way. What either has is kept then.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Departed;
use super::restore::passes;
use crate::control_plane::objects::{Data, List, Node};
use crate::control_plane::{Cluster, ClusterView};
use crate::journal::Change;
use crate::step::{Place, Reversal, State, Step, View, World};

/// The label by which all records are found.
const LABEL: &str = "app.kubernetes.io/managed-by=kpot";

/// Whom a record is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name of the node.
    pub name: String,
    /// The address of its apiserver and etcd.
    pub address: String,
    /// The identity of the Node that it was made of; empty where there was none.
    pub uid: String,
}

impl Record {
    /// Whether this Node is the very one that it was made of, and no later one of its name.
    pub fn is_of(&self, node: &Node) -> bool {
        let (name, uid) = (&node.metadata.name, &node.metadata.uid);
        !uid.is_empty() && (&self.name, &self.uid) == (name, uid)
    }
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
            uid: uid(&field(map, "node")),
        })
        .collect())
}

/// The identity in a record's Node; none where there was no Node, or where it is damaged.
fn uid(node: &str) -> String {
    let node: Value = serde_json::from_str(node).unwrap_or_default();
    node["uid"].as_str().unwrap_or_default().to_owned()
}

/// The Node as it was, where a record of it is kept.
pub fn kept(view: &ClusterView, departed: &Departed) -> Result<Option<Value>> {
    Ok(stored(view, departed)?.map(|(_, node)| node))
}

/// The record's revision, and the Node as it was.
fn stored(view: &ClusterView, departed: &Departed) -> Result<Option<(String, Value)>> {
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
    let node = serde_json::from_str(node)
        .with_context(|| format!("the ConfigMap {} does not parse", object_name(departed)))?;
    Ok(Some((map.metadata.resource_version, node)))
}

/// What is to be kept of a Node, given what is kept already.
fn worth_keeping(kept: Option<&Value>, node: Option<&Value>) -> Value {
    let Some(node) = node else {
        return kept.cloned().unwrap_or(Value::Null);
    };
    // A master that has just died gets taints of that in these very seconds.
    let mut taints = node["spec"]["taints"].clone();
    if let Some(taints) = taints.as_array_mut() {
        taints.retain(|taint| !passes(taint));
    }
    let fresh = json!({
        "uid": node["metadata"]["uid"],
        "labels": node["metadata"]["labels"],
        "annotations": node["metadata"]["annotations"],
        "taints": if taints == json!([]) { Value::Null } else { taints },
        "unschedulable": node["spec"]["unschedulable"],
    });
    let Some(kept) = kept.filter(|kept| kept.is_object() && kept["uid"] != fresh["uid"]) else {
        return fresh;
    };
    let mut both = kept.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in fresh[field].as_object().into_iter().flatten() {
            both[field][key] = value.clone();
        }
    }
    let same = |one: &Value, other: &Value| {
        (&one["key"], &one["effect"]) == (&other["key"], &other["effect"])
    };
    let mut taints = kept["taints"].as_array().cloned().unwrap_or_default();
    for taint in fresh["taints"].as_array().into_iter().flatten() {
        // kubeadm gives every new master its role's; whether this one is to have it, the record knows.
        let role = taint["key"]
            .as_str()
            .is_some_and(|key| key.starts_with("node-role.kubernetes.io/"));
        if !role && !taints.iter().any(|known| same(known, taint)) {
            taints.push(taint.clone());
        }
    }
    if !taints.is_empty() {
        both["taints"] = json!(taints);
    }
    both
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

    fn reversal(&self) -> Reversal {
        Reversal::Nothing
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let Some(kept) = kept(cluster, &self.departed)? else {
            return Ok(State::Pending("before anything is removed".to_owned()));
        };
        let node: Option<Value> = cluster.find(&["node", &self.departed.name])?;
        let wanted = worth_keeping(Some(&kept), node.as_ref());
        // Some controllers write their annotations all the time: they are kept, but are no reason to write again.
        let same = ["labels", "taints"]
            .iter()
            .all(|field| kept[*field] == wanted[*field]);
        Ok(if same {
            State::Satisfied
        } else {
            State::Pending(
                "one of an earlier time is there, and the node has changed since".to_owned(),
            )
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let node: Option<Value> = cluster.view().find(&["node", &self.departed.name])?;
        let (revision, kept) = stored(cluster.view(), &self.departed)?.unzip();
        let kept = worth_keeping(kept.as_ref(), node.as_ref());
        let (label, value) = LABEL.split_once('=').unwrap_or((LABEL, ""));
        let mut object = json!({
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
                "node": kept.to_string(),
            },
        });
        world.host.note(Change::Cluster {
            what: format!("make ConfigMap kube-system/{}", object_name(&self.departed)),
        })?;
        if let Some(revision) = revision {
            object["metadata"]["resourceVersion"] = json!(revision);
        }
        let output = cluster.put(&object)?;
        ensure!(output.ok(), "cannot keep the record: {}", output.evidence());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, labels: &Value, taints: &Value) -> Value {
        json!({ "metadata": { "uid": uid, "labels": labels }, "spec": { "taints": taints } })
    }

    #[test]
    fn a_record_knows_of_which_node_it_was_made() {
        let record = |node: &str| Record {
            name: "m3".to_owned(),
            address: "10.0.0.13".to_owned(),
            uid: uid(node),
        };
        let mut own = Node::default();
        own.metadata.name = "m3".to_owned();
        own.metadata.uid = "1".to_owned();
        let kept = worth_keeping(None, Some(&node("1", &json!({}), &Value::Null))).to_string();
        assert!(record(&kept).is_of(&own));
        for other in ["null", "torn", r#"{"uid":"2"}"#] {
            assert!(!record(other).is_of(&own), "{other}");
        }
        own.metadata.uid.clear();
        assert!(!record("null").is_of(&own), "nothing tells");
    }

    const ROLE: &str = "node-role.kubernetes.io/master";

    fn taint(key: &str) -> Value {
        json!({ "key": key, "effect": "NoSchedule" })
    }

    #[test]
    fn while_the_node_is_the_same_it_is_right() {
        let first = node("1", &json!({ "rack": "a", "old": "yes" }), &Value::Null);
        let kept = worth_keeping(None, Some(&first));
        assert_eq!(kept["labels"]["rack"], "a");
        let now = node("1", &json!({ "rack": "b" }), &json!([taint("mine")]));
        let kept = worth_keeping(Some(&kept), Some(&now));
        assert_eq!(
            (&kept["labels"], &kept["taints"]),
            (&json!({ "rack": "b" }), &json!([taint("mine")]))
        );
        assert_eq!(worth_keeping(Some(&kept), None), kept, "the Node is gone");
    }

    #[test]
    fn what_tells_of_a_dead_machine_is_nothing_to_keep() {
        let dying = [
            Value::Null,
            json!([taint("node.kubernetes.io/unreachable")]),
            json!([taint("mine"), taint("node.kubernetes.io/unreachable")]),
        ];
        let kept = dying.map(|taints| worth_keeping(None, Some(&node("1", &json!({}), &taints))));
        assert_eq!(kept[0], kept[1]);
        assert_eq!(kept[2]["taints"], json!([taint("mine")]));
    }

    #[test]
    fn of_a_node_that_was_made_since_nothing_is_lost_either() {
        let first = node("1", &json!({ "rack": "a", "disk": "ssd" }), &Value::Null);
        let kept = worth_keeping(None, Some(&first));
        let since = node(
            "2",
            &json!({ "rack": "b", "new": "yes" }),
            &json!([taint(ROLE), taint("mine")]),
        );
        let both = worth_keeping(Some(&kept), Some(&since));
        assert_eq!(
            both["labels"],
            json!({ "rack": "b", "disk": "ssd", "new": "yes" })
        );
        assert_eq!(
            both["taints"],
            json!([taint("mine")]),
            "somebody let pods run on this master"
        );
        assert_eq!(
            worth_keeping(Some(&both), Some(&since)),
            both,
            "once is enough"
        );
    }

    #[test]
    fn a_node_that_was_never_listed_leaves_nothing() {
        assert_eq!(worth_keeping(None, None), Value::Null);
        let since = node("2", &json!({ "rack": "b" }), &Value::Null);
        assert_eq!(
            worth_keeping(Some(&Value::Null), Some(&since))["labels"],
            json!({ "rack": "b" })
        );
    }
}
