//! Kubernetes objects, as far as they are read here. Field names are those of the API; unknown fields are passed over.

use std::collections::BTreeMap;

use bundle_spec::KubeVersion;
use serde::Deserialize;

/// A list of objects.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
}

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Of this object and of no later one of its name.
    pub uid: String,
    /// RFC 3339.
    pub creation_timestamp: String,
    /// For optimistic locking.
    pub resource_version: String,
    /// What it belongs to.
    pub owner_references: Vec<OwnerReference>,
}

/// What an object belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OwnerReference {
    /// `Secret`, …
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A ConfigMap, or a Secret (whose values are base64).
#[derive(Clone, Debug, Deserialize)]
pub struct Data {
    /// Name and so on.
    pub metadata: Metadata,
    /// The entries.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
}

/// A Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name and so on.
    pub metadata: Metadata,
    /// What people want of it.
    pub spec: NodeSpec,
    /// What the kubelet reports.
    pub status: NodeStatus,
}

/// What people want of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Whether it is cordoned: it gets no new pods but those that bear it.
    pub unschedulable: bool,
}

/// What the kubelet reports.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// `InternalIP`, `Hostname`, …
    pub addresses: Vec<NodeAddress>,
    /// `Ready` and others.
    pub conditions: Vec<Condition>,
    /// Versions.
    pub node_info: NodeInfo,
}

/// One address of a node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// One condition of a node or a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// `Ready`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// In words.
    pub message: String,
}

/// Versions of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeInfo {
    /// Such as `docker://20.10.24`.
    pub container_runtime_version: String,
    /// Such as `v1.14.0`.
    pub kubelet_version: String,
}

impl Node {
    /// The release of its kubelet; builds of vendors carry a suffix (`v1.14.3-tke.8`), which is not told.
    pub fn release(&self) -> Option<KubeVersion> {
        let version = &self.status.node_info.kubelet_version;
        version.split(['-', '+']).next()?.parse().ok()
    }

    /// Whether its kubelet says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.status
            .conditions
            .iter()
            .any(|condition| condition.kind == "Ready" && condition.status == "True")
    }

    /// Whether it is a master, by either label.
    pub fn is_master(&self) -> bool {
        [
            "node-role.kubernetes.io/master",
            "node-role.kubernetes.io/control-plane",
        ]
        .iter()
        .any(|label| self.metadata.labels.contains_key(*label))
    }

    /// The address at which the other nodes reach it.
    pub fn internal_address(&self) -> Option<&str> {
        self.internal_addresses().next()
    }

    /// The same of either family: the kubelet takes these of its machine's addresses, unless it is told others (`--node-ip`).
    pub fn internal_addresses(&self) -> impl Iterator<Item = &str> {
        self.status
            .addresses
            .iter()
            .filter(|address| address.kind == "InternalIP")
            .map(|address| address.address.as_str())
    }

    /// Whether one of its addresses is `address`.
    pub fn has_address(&self, address: &str) -> bool {
        self.status
            .addresses
            .iter()
            .any(|own| own.address == address)
    }

    /// Whether it is where a machine with these addresses is.
    pub fn is_at_one_of(&self, addresses: &[String]) -> bool {
        self.internal_addresses()
            .any(|own| addresses.iter().any(|address| address == own))
    }
}

/// A Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Name and so on.
    pub metadata: Metadata,
    /// What it runs.
    pub spec: PodSpec,
}

/// A DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    /// Name and so on.
    pub metadata: Metadata,
    /// What it runs on every node.
    pub spec: DaemonSetSpec,
}

/// What a DaemonSet runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSetSpec {
    /// The pod.
    pub template: PodTemplate,
}

/// The pod of a DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodTemplate {
    /// What it runs.
    pub spec: PodSpec,
}

/// What a pod runs, and where it may.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it is bound to.
    pub node_name: String,
    /// Whether it has no network of its own.
    pub host_network: bool,
    /// Containers.
    pub containers: Vec<Container>,
    /// Containers that run before those.
    pub init_containers: Vec<Container>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Rules for its node.
    pub affinity: Affinity,
}

impl Pod {
    /// The part of a control plane that it is, by kubeadm's label; empty where it is none.
    pub fn component(&self) -> &str {
        let labels = &self.metadata.labels;
        labels.get("component").map_or("", String::as_str)
    }
}

impl PodSpec {
    /// The flags that its containers are started with: `--name=value`, `--name value`, or `--name` alone, which is `true`.
    pub fn flags(&self) -> Vec<(&str, &str)> {
        let mut flags = Vec::new();
        let mut words = self.arguments().peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else {
                continue;
            };
            flags.push(flag.split_once('=').unwrap_or_else(|| {
                let value = words.next_if(|next| !next.starts_with('-'));
                (flag, value.unwrap_or("true"))
            }));
        }
        flags
    }

    /// The value of the first flag of this name.
    pub fn flag(&self, name: &str) -> Option<&str> {
        let mut flags = self.flags().into_iter();
        flags.find_map(|(flag, value)| (flag == name).then_some(value))
    }

    /// What its containers are started with, word by word.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        self.containers
            .iter()
            .flat_map(|container| container.command.iter().chain(&container.args))
            .map(String::as_str)
    }
}

/// A container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its image's name.
    pub image: String,
    /// Its command line's first part.
    pub command: Vec<String>,
    /// Its command line's second part.
    pub args: Vec<String>,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Where it sees the pod's volumes.
    pub volume_mounts: Vec<VolumeMount>,
}

/// Where a container sees a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeMount {
    /// The volume's name.
    pub name: String,
    /// The path in the container.
    pub mount_path: String,
}

/// A volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// A path of the node, where it is one.
    pub host_path: Option<HostPath>,
    /// A folder that goes with its pod, where it is one.
    pub empty_dir: Option<serde_json::Value>,
}

/// A path of the node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HostPath {
    /// The path.
    pub path: String,
}

/// A taint that is tolerated.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Toleration {
    /// The taint's key; empty with `Exists` tolerates everything.
    pub key: String,
    /// `Exists` or `Equal`.
    pub operator: String,
    /// `NoSchedule`, …; empty means every one.
    pub effect: String,
}

impl Toleration {
    /// Whether it bears a taint with this key and `NoSchedule`. A taint's value is not looked at: those that are asked for here have none.
    pub fn bears(&self, key: &str) -> bool {
        let effect = self.effect.is_empty() || self.effect == "NoSchedule";
        let any = self.key.is_empty() && self.operator == "Exists";
        effect && (any || self.key == key)
    }
}

/// Rules for a pod's node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// Rules about the node's labels.
    pub node_affinity: NodeAffinity,
}

/// Rules about a node's labels.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// Those that must hold.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
}

/// Alternatives, one of which must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// The alternatives.
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// Conditions all of which must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// The conditions.
    pub match_expressions: Vec<MatchExpression>,
}

/// A condition on a label.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct MatchExpression {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    pub operator: String,
    /// For `In` and `NotIn`.
    pub values: Vec<String>,
}
