//! Gives the new Node the labels, annotations and taints that the old one had.
//!
//! What the kubelet, kubeadm and the pod network write by themselves is theirs and stays as the new machine has it, and so does an annotation that has another value by now. Taints that the
//! cluster sets and takes away by itself (`node.kubernetes.io/…`) are not put back; a cordon is. A worker that became a master keeps the taints that kubeadm gives masters.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{Departed, record};
use crate::host::ssh::quote;
use crate::journal::Change;
use crate::kubernetes::NO_BALANCER;
use crate::step::{Place, Reversal, State, Step, View, World};

/// Labels and annotations with these beginnings are made by the machine's own kubelet, kubeadm or pod network.
const MACHINE_MADE: [&str; 12] = [
    "beta.kubernetes.io/",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.io/hostname",
    "kubeadm.alpha.kubernetes.io/",
    "node.alpha.kubernetes.io/ttl",
    "volumes.kubernetes.io/",
    "csi.volume.kubernetes.io/",
    "flannel.alpha.coreos.com/",
    "projectcalico.org/",
    "kube-router.io/",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// The same of annotations alone: people set labels that begin so.
const AGENTS: [&str; 4] = [
    "io.cilium.",
    "network.cilium.io/",
    "k8s.ovn.org/",
    "ovn.kubernetes.io/",
];

/// Taints with these beginnings come and go with the node's condition: the cluster's own, a cloud's, and those of a pod network whose agent is not there yet.
const CONDITION_TAINTS: [&str; 3] = [
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "node.cilium.io/",
];

/// See the module.
pub struct RestoreNode {
    departed: Departed,
    was: Role,
}

/// What a node was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Master,
    Worker,
}

impl RestoreNode {
    /// Restores the node of `departed`, which bears the same name.
    pub fn new(departed: Departed) -> Self {
        Self {
            departed,
            was: Role::Master,
        }
    }

    /// The same for one that was a worker, and is a master now.
    pub fn of_worker(departed: Departed) -> Self {
        Self {
            departed,
            was: Role::Worker,
        }
    }

    fn patch(&self, view: View<'_>) -> Result<Option<Value>> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let Some(kept) = record::kept(cluster, &self.departed)? else {
            return Ok(None);
        };
        let node: Option<Value> = cluster.find(&["node", &self.departed.name])?;
        Ok(node.and_then(|node| difference(&kept, &node, self.was)))
    }
}

/// What must be merged into `node` to make it what `kept` says; nothing where it is so.
fn difference(kept: &Value, node: &Value, role: Role) -> Option<Value> {
    // The record of a run that ended before the Node was deleted: what was changed on it since is somebody's will.
    if kept["uid"].is_string() && kept["uid"] == node["metadata"]["uid"] {
        return None;
    }
    let mut metadata = Map::new();
    for field in Field::ALL {
        let mut lost = json!(lost(kept, &node["metadata"][field.name()], field));
        let (is_labels, field) = (field == Field::Labels, field.name());
        // Whoever balances load over masters took it away, and kubeadm set it anew.
        let balanced = kept.is_object() && kept[field][NO_BALANCER].is_null();
        if is_labels
            && role == Role::Master
            && balanced
            && !node["metadata"][field][NO_BALANCER].is_null()
        {
            lost[NO_BALANCER] = Value::Null;
        }
        if lost != json!({}) {
            metadata.insert(field.to_owned(), lost);
        }
    }
    let mut patch = Map::new();
    if !metadata.is_empty() {
        patch.insert("metadata".to_owned(), Value::Object(metadata));
    }
    let mut spec = Map::new();
    // A worker was drained for its own change; that is no state of before.
    if role == Role::Master
        && kept["unschedulable"] == true
        && node["spec"]["unschedulable"] != true
    {
        spec.insert("unschedulable".to_owned(), json!(true));
    }
    if kept.is_object() {
        let (own, passing) = taints(&node["spec"]["taints"]);
        let (mut was, _) = taints(&kept["taints"]);
        if role == Role::Worker {
            // A master's own taint was not the worker's to have.
            for (key, taint) in &own {
                was.entry(key.clone()).or_insert_with(|| taint.clone());
            }
        }
        if own != was {
            let all: Vec<Value> = was.into_values().chain(passing.into_values()).collect();
            spec.insert("taints".to_owned(), json!(all));
        }
    }
    if !spec.is_empty() {
        patch.insert("spec".to_owned(), Value::Object(spec));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// What of a Node is restored by its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// People set them: another value is put right.
    Labels,
    /// Agents of the machine write most of them: another value is that of the new one, and stays.
    Annotations,
}

impl Field {
    const ALL: [Self; 2] = [Self::Labels, Self::Annotations];

    const fn name(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }
}

fn lost<'v>(kept: &'v Value, now: &Value, field: Field) -> BTreeMap<&'v str, &'v Value> {
    let kept = kept[field.name()].as_object().into_iter().flatten();
    let is_machines = |key: &str| {
        let agents = AGENTS.iter().filter(|_| field == Field::Annotations);
        let mut made = MACHINE_MADE.iter().chain(agents);
        made.any(|made| key.starts_with(made))
    };
    kept.filter(|(key, value)| {
        let is_lost = match now.get(key) {
            None => true,
            Some(other) => field == Field::Labels && other != *value,
        };
        is_lost && !is_machines(key)
    })
    .map(|(key, value)| (key.as_str(), value))
    .collect()
}

/// A Node's taints by key and effect: those that somebody set, and those that come and go by themselves.
fn taints(taints: &Value) -> (BTreeMap<String, Value>, BTreeMap<String, Value>) {
    let all = taints.as_array().into_iter().flatten();
    all.map(|taint| {
        let key = format!("{} {}", taint["key"], taint["effect"]);
        (key, taint.clone())
    })
    .partition(|(_, taint)| !passes(taint))
}

/// Whether a taint comes and goes by itself.
pub(super) fn passes(taint: &Value) -> bool {
    taint["key"]
        .as_str()
        .is_some_and(|key| CONDITION_TAINTS.iter().any(|made| key.starts_with(made)))
}

/// What an operator may want to give the node of another name: kubectl commands, one a line. What held the old machine's address (TKE's label machine-ip does) is offered with the
/// new one's: `addresses` are both.
pub fn offer(kept: &Value, node: &str, addresses: (&str, &str)) -> Vec<String> {
    let here = |value: &str| {
        let (old, new) = addresses;
        if value == old { new } else { value }.to_owned()
    };
    let mut commands = Vec::new();
    let nothing = json!({});
    for (field, verb) in [(Field::Labels, "label"), (Field::Annotations, "annotate")] {
        let all: Vec<String> = lost(kept, &nothing, field)
            .into_iter()
            .filter(|(key, _)| !key.starts_with("node-role.kubernetes.io/"))
            .map(|(key, value)| {
                quote(&format!(
                    "{key}={}",
                    here(value.as_str().unwrap_or_default())
                ))
            })
            .collect();
        if !all.is_empty() {
            commands.push(format!("kubectl {verb} node {node} {}", all.join(" ")));
        }
    }
    let (own, _) = taints(&kept["taints"]);
    for taint in own.values() {
        let key = taint["key"].as_str().unwrap_or_default();
        if !key.starts_with("node-role.kubernetes.io/") {
            let taint = format!(
                "{key}={}:{}",
                taint["value"].as_str().unwrap_or_default(),
                taint["effect"].as_str().unwrap_or_default()
            );
            commands.push(format!("kubectl taint node {node} {}", quote(&taint)));
        }
    }
    if kept["unschedulable"] == true {
        commands.push(format!("kubectl cordon {node}"));
    }
    commands
}

impl Step for RestoreNode {
    fn id(&self) -> &'static str {
        "restore-node"
    }

    fn summary(&self) -> String {
        format!(
            "node {} has the labels, annotations, taints and cordon that it had",
            self.departed.name
        )
    }

    fn place(&self) -> Place {
        Place::Cluster
    }

    fn reversal(&self) -> Reversal {
        Reversal::Reset
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(match self.patch(view)? {
            None => State::Satisfied,
            Some(patch) => State::Pending(format!("to be put back: {patch}")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let Some(patch) = self.patch(world.view())? else {
            return Ok(());
        };
        world.host.note(Change::Cluster {
            what: format!("patch node {}: {patch}", self.departed.name),
        })?;
        let (name, patch) = (&self.departed.name, patch.to_string());
        let args = ["patch", "node", name, "--type=merge", "--patch", &patch];
        cluster.run(&cluster.view().kubectl(args))?;
        Ok(())
    }
}

/// Drops the record of a master whose place is taken.
pub struct DropRecord {
    departed: Departed,
}

impl DropRecord {
    /// Drops the record of `departed`.
    pub fn new(departed: Departed) -> Self {
        Self { departed }
    }
}

impl Step for DropRecord {
    fn id(&self) -> &'static str {
        "drop-record"
    }

    fn summary(&self) -> String {
        format!(
            "the record of the old {} is no longer kept",
            self.departed.name
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
        Ok(match record::kept(cluster, &self.departed)? {
            None => State::Satisfied,
            Some(_) => State::Pending("all of it is done".to_owned()),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        world.host.note(Change::Cluster {
            what: format!("drop the record of {}", self.departed.name),
        })?;
        record::drop(cluster, &self.departed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_set_comes_back_and_what_machines_make_stays() {
        let kept = json!({
            "labels": { "rack": "7", "kubernetes.io/hostname": "old", "node-role.kubernetes.io/master": "" },
            "annotations": { "owner": "ops", "flannel.alpha.coreos.com/public-ip": "10.0.0.13" },
            "taints": [
                { "key": "dedicated", "value": "db", "effect": "NoSchedule" },
                { "key": "node.kubernetes.io/unreachable", "effect": "NoExecute" },
            ],
        });
        let mut node = json!({
            "metadata": { "labels": { "kubernetes.io/hostname": "m3", "node-role.kubernetes.io/master": "" }, "annotations": {} },
            "spec": { "taints": [
                { "key": "node-role.kubernetes.io/master", "effect": "NoSchedule" },
                { "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" },
            ] },
        });
        let patch = difference(&kept, &node, Role::Master).expect("much is lost");
        for (recorded, lives, restored) in [("1", "1", false), ("1", "2", true)] {
            let (mut kept, mut node) = (kept.clone(), node.clone());
            kept["uid"] = json!(recorded);
            node["metadata"]["uid"] = json!(lives);
            let patch = difference(&kept, &node, Role::Master);
            assert_eq!(
                patch.is_some(),
                restored,
                "a Node that was never deleted lost nothing"
            );
        }
        let of_worker = difference(&kept, &node, Role::Worker).expect("much is lost");
        assert_eq!(of_worker["metadata"], patch["metadata"]);
        let keys = of_worker["spec"]["taints"].as_array().unwrap().iter();
        let keys: Vec<&str> = keys.map(|taint| taint["key"].as_str().unwrap()).collect();
        assert_eq!(
            keys,
            [
                "dedicated",
                "node-role.kubernetes.io/master",
                "node.kubernetes.io/not-ready"
            ],
            "a worker that became a master keeps the taint of masters"
        );
        assert_eq!(
            patch["metadata"],
            json!({ "labels": { "rack": "7" }, "annotations": { "owner": "ops" } })
        );
        let keys: Vec<&str> = patch["spec"]["taints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|taint| taint["key"].as_str().unwrap())
            .collect();
        assert_eq!(
            keys,
            ["dedicated", "node.kubernetes.io/not-ready"],
            "a master whose own taint was taken away stays without it"
        );
        node["metadata"]["labels"]["rack"] = json!("7");
        node["metadata"]["annotations"]["owner"] = json!("ops");
        node["spec"]["taints"] = patch["spec"]["taints"].clone();
        assert_eq!(difference(&kept, &node, Role::Master), None);
        node["spec"]["taints"] = of_worker["spec"]["taints"].clone();
        assert_eq!(difference(&kept, &node, Role::Worker), None);
    }

    #[test]
    fn a_master_that_left_no_node_leaves_nothing_to_restore() {
        assert_eq!(
            difference(
                &Value::Null,
                &json!({ "spec": { "taints": [{ "key": "a" }] } }),
                Role::Master
            ),
            None
        );
    }

    #[test]
    fn what_an_agent_wrote_here_and_what_people_took_away_stays_so() {
        let kept = json!({
            "labels": { "rack": "7" },
            "annotations": { "agent.example/chassis": "the dead one's", "owner": "ops" },
            "taints": [{ "key": "node.cilium.io/agent-not-ready", "effect": "NoSchedule" }],
            "unschedulable": true,
        });
        let mut node = json!({
            "metadata": {
                "labels": { "rack": "8", (NO_BALANCER): "" },
                "annotations": { "agent.example/chassis": "this one's" },
            },
            "spec": {},
        });
        let patch = difference(&kept, &node, Role::Master).unwrap();
        assert_eq!(
            patch,
            json!({
                "metadata": {
                    "labels": { "rack": "7", (NO_BALANCER): null },
                    "annotations": { "owner": "ops" },
                },
                "spec": { "unschedulable": true },
            })
        );
        let worker = difference(&kept, &node, Role::Worker).unwrap();
        assert_eq!(worker["metadata"]["labels"], json!({ "rack": "7" }));
        assert_eq!(worker.get("spec"), None, "it was drained for its change");
        node["metadata"]["labels"] = json!({ "rack": "7" });
        node["metadata"]["annotations"]["owner"] = json!("ops");
        node["spec"]["unschedulable"] = json!(true);
        assert_eq!(difference(&kept, &node, Role::Master), None);
    }

    #[test]
    fn what_is_offered_is_nothing_but_words_for_a_shell() {
        let kept = json!({
            "annotations": { "rack": "Bob's", "x": "x'; reboot; '" },
            "unschedulable": true,
        });
        assert_eq!(
            offer(&kept, "b1", ("10.0.0.13", "10.0.0.21")),
            [
                r"kubectl annotate node b1 'rack=Bob'\''s' 'x=x'\''; reboot; '\'''",
                "kubectl cordon b1"
            ]
        );
    }

    #[test]
    fn another_name_is_offered_the_commands() {
        let kept = json!({ "labels": { "rack": "7", "platform.tkestack.io/machine-ip": "10.0.0.13" }, "taints": [{ "key": "dedicated", "value": "db", "effect": "NoSchedule" }] });
        assert_eq!(
            offer(&kept, "b1", ("10.0.0.13", "10.0.0.21")),
            [
                "kubectl label node b1 'platform.tkestack.io/machine-ip=10.0.0.21' 'rack=7'",
                "kubectl taint node b1 'dedicated=db:NoSchedule'"
            ]
        );
    }
}
