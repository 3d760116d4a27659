//! What refuses a join before anything is changed: one list, each with its cause and the next command. Pure.

use std::collections::BTreeSet;
use std::time::SystemTime;

use bundle_spec::manifest::RuntimeName;
use bundle_spec::{KubeVersion, Manifest};

use crate::control_plane::alarms::Alarm;
use crate::control_plane::credentials::{CLOCK_TOLERANCE, is_since};
use crate::control_plane::etcd::Member;
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::images::{self, MissingImage, PodNetwork, familiar};
use crate::control_plane::kubeadm::EDIT_RECORD;
use crate::control_plane::recorded::{Harm, Unrecorded};
use crate::joining::static_pods::PodImage;
use crate::kubernetes::{CgroupDriverRule, Traits};
use crate::replacing::{Departed, Whose};
use crate::runtime::Runtime;
use crate::steps::ImageWanted;

/// Why a join is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The cause.
    pub cause: String,
    /// The next command, or what has to be done.
    pub remedy: String,
}

impl From<&Alarm> for Refusal {
    fn from(alarm: &Alarm) -> Self {
        Self {
            cause: alarm.to_string(),
            remedy: alarm.remedy(),
        }
    }
}

/// This machine, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Here<'a> {
    /// The name of its node.
    pub node: &'a str,
    /// The address of its apiserver and etcd.
    pub address: &'a str,
    /// Every address of it: its kubelet may have taken another one for its Node.
    pub local: &'a [String],
    /// What the pot holds.
    pub manifest: &'a Manifest,
    /// The names of the images that its runtime has already.
    pub images: Vec<String>,
    /// Whether it has CNI configuration already.
    pub has_cni: bool,
    /// What the pod network asks of it.
    pub network: PodNetwork,
    /// What the static pods ask of it that are copied here.
    pub static_pods: Vec<PodImage>,
    /// How it stands in the cluster.
    pub past: Past,
    /// The master whose records will be gone before the join.
    pub departed: Option<&'a Departed>,
    /// When it began an upload of certificates that it has not revoked.
    pub uploaded: Option<SystemTime>,
}

/// What this machine has been to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// A stranger.
    Stranger,
    /// It began a join that was interrupted.
    Interrupted,
    /// It was a master, and comes back; what the cluster knows of it goes first.
    Returning,
    /// It is a worker; what the cluster knows of it goes first.
    Worker,
    /// It has joined.
    Joined,
}

/// Everything that refuses, or the images with the names that this cluster gives them; and what an operator should know though it refuses nothing.
pub fn judge(
    cluster: &ClusterFacts,
    here: &Here<'_>,
) -> (Result<Vec<ImageWanted>, Vec<Refusal>>, Vec<String>) {
    let mut refusals = Vec::new();
    let mut refuse = |cause: String, remedy: String| refusals.push(Refusal { cause, remedy });
    let recorded = recorded_version(cluster);
    version(cluster, here, &mut refuse);
    if cluster.clock_skew.abs() > CLOCK_TOLERANCE_F {
        let side = if cluster.clock_skew > 0.0 {
            "ahead of"
        } else {
            "behind"
        };
        refuse(
            format!(
                "this machine's clock is {:.0} s {side} the healthy master's; more than {CLOCK_TOLERANCE} s make certificates and tokens invalid",
                cluster.clock_skew.abs()
            ),
            format!(
                "Set it: date --utc --set \"$(ssh {} date --utc --iso-8601=seconds)\"; then keep it right (chrony, ntpd or PTP)",
                healthy_address(cluster)
            ),
        );
    }
    if here.past != Past::Joined {
        identity(cluster, here, &mut refuse);
        cluster_status(cluster, here, &mut refuse);
        etcd(cluster, here, &mut refuse);
        cgroup_driver(cluster, here, &mut refuse);
        if cluster.announced_cas > 1 && !Traits::of(cluster.version).ca_chains {
            refuse(
                format!(
                    "the ConfigMap cluster-info has {} CA certificates, and kubeadm of this version reads one alone: a machine that joins would wait for it in vain",
                    cluster.announced_cas
                ),
                "Leave the newest one there for the length of the join: kubectl --namespace kube-public edit configmap cluster-info".to_owned(),
            );
        }
        for alarm in &cluster.alarms {
            refuse(alarm.to_string(), alarm.remedy());
        }
        for barrier in &cluster.barriers {
            refuse(barrier.cause.clone(), barrier.remedy.clone());
        }
        for flag in &cluster.unrecorded {
            if let Some(harm) = flag.harm {
                let name = &cluster.healthy.metadata.name;
                refuse(
                    format!("{}: {}", differs(flag, name), harm.told()),
                    edit_record(flag),
                );
            }
        }
    }
    if here.past != Past::Joined
        && let Some(created) = &cluster.uploaded_certs
        && !here.uploaded.is_some_and(|since| is_since(created, since))
    {
        refuse(
            format!("the Secret kubeadm-certs is there already (made at {created}): somebody else may be joining a master right now"),
            "Wait for that join to end. If nobody joins: kubectl --namespace kube-system delete secret kubeadm-certs".to_owned(),
        );
    }
    if here.past != Past::Joined && !cluster.missing_shared.is_empty() {
        refuse(
            format!(
                "the healthy master lacks what masters share: {}. A CA whose key is kept off the masters signs no new one",
                cluster.missing_shared.join(", ")
            ),
            "Put them there for the length of the join, or hand the new master its certificates by hand"
                .to_owned(),
        );
    }
    if here.past != Past::Joined && cluster.config.control_plane_endpoint.is_empty() {
        let address = healthy_address(cluster);
        refuse(
            "the cluster has no controlPlaneEndpoint: kubeadm joins no second master to such a cluster".to_owned(),
            format!(
                "Give it one, in a line of its own under ClusterConfiguration (a load balancer's address, or that of a master that stays): kubectl --namespace kube-system edit configmap kubeadm-config\n    controlPlaneEndpoint: {address}:{}",
                cluster.apiserver_port
            ),
        );
    }
    for path in &cluster.missing_etcd_files {
        refuse(
            format!(
                "the cluster's etcd is external, and its client file {path} is not on the healthy master"
            ),
            format!("Copy {path} there from another master, then run this again"),
        );
    }
    let wanted = images::name_after_cluster(
        here.manifest,
        &cluster.config,
        cluster.config.etcd.external.is_some(),
        &here.images,
    );
    let lacking = network(cluster, here, &mut refuse);
    let named = match wanted {
        Ok(wanted) => Some(wanted),
        Err(missing) => {
            // Of a pot of another version everything is missing: that is said once, by the version.
            if here.manifest.kubernetes == recorded {
                missing_images(&missing, cluster, &mut refuse);
            } else if is_a_patch_apart(cluster, here) {
                other_patch(&missing, cluster, here, &mut refuse);
            }
            None
        }
    };
    let mut warnings: Vec<String> =
        lacking.iter().map(|image| format!("{} will run here and its image {} is not in the pot: it is pulled, or fails until it can be", image.needed_by, image.name)).collect();
    warnings.extend(here.static_pods.iter().filter(|pod| pod.always_pulled).map(|pod| {
        format!("{} is pulled whenever its pod starts ({}), though it be here: without its registry the pod does not start. Set imagePullPolicy: IfNotPresent in the manifest, and a tag other than latest", pod.image.name, pod.image.needed_by)
    }));
    if here.past != Past::Joined {
        let plain = cluster.unrecorded.iter().filter(|flag| flag.harm.is_none());
        warnings.extend(plain.map(|flag| {
            let told = differs(flag, &cluster.healthy.metadata.name);
            format!("{told}. To have it otherwise: {}", edit_record(flag))
        }));
    }
    let of_both = cluster.healthy.internal_addresses();
    let families: BTreeSet<bool> = of_both.map(|address| address.contains(':')).collect();
    if here.past != Past::Joined && families.len() == 2 {
        let set = "KUBELET_EXTRA_ARGS=--node-ip";
        warnings.push(format!("nodes of this cluster have addresses of both families, and kubeadm's configuration gives a node one ({}): to give this one both, write {set}={},ADDRESS of the other family into /etc/default/kubelet (RHEL: /etc/sysconfig/kubelet) before", here.address, here.address));
    }
    if here.past == Past::Joined {
        let told = |alarm: &Alarm| format!("{alarm}. {}", alarm.remedy());
        warnings.extend(cluster.alarms.iter().map(told));
    }
    warnings.extend(here.network.always_pulled.iter().map(|image| {
        let edit = edit_command(&image.needed_by).unwrap_or_default();
        format!("{} is pulled whenever its pod starts ({}), though it be here: without its registry the pod does not start. Set imagePullPolicy: IfNotPresent ({edit})", image.name, image.needed_by)
    }));
    if is_a_patch_apart(cluster, here) {
        warnings.push(format!("the cluster runs Kubernetes {}, this pot holds {}: the control plane here will run the cluster's version, whose images are all here; the kubelet, kubeadm and kubectl are the pot's. A pot of the cluster's version is made by: {}", cluster.version, here.manifest.kubernetes, build_command(cluster)));
    }
    let gate = cluster.config.feature_gates.get("EtcdLearnerMode").copied();
    let learns = Traits::of(here.manifest.kubernetes).learners.used(gate);
    if here.past == Past::Stranger && cluster.members.len() == 1 && !learns {
        warnings.push("the cluster has one etcd member: while this machine's member starts, both are needed, and the cluster pauses for some seconds".to_owned());
    }
    match named {
        Some(wanted) if refusals.is_empty() => (Ok(wanted), warnings),
        _ => (Err(refusals), warnings),
    }
}

/// In what a new master differs from the healthy one, `name`.
fn differs(flag: &Unrecorded, name: &str) -> String {
    let shown = |value: &Option<String>| {
        let shown = value
            .as_ref()
            .map(|value| format!("--{}={value}", flag.flag));
        shown.unwrap_or_else(|| format!("no --{}", flag.flag))
    };
    format!(
        "the {} of {name} has {}, and the one here gets {}, by kubeadm's record of the cluster",
        flag.component,
        shown(&flag.own),
        shown(&flag.recorded)
    )
}

/// How the record is made to say what the healthy master has.
fn edit_record(flag: &Unrecorded) -> String {
    let section = match flag.component {
        "kube-apiserver" => "apiServer",
        "kube-controller-manager" => "controllerManager",
        "kube-scheduler" => "scheduler",
        _ => "etcd.local",
    };
    let (take, from) = match flag.own {
        None => ("take", "out of"),
        Some(_) => ("write what that master has of", "into"),
    };
    let volumes = match (&flag.own, flag.harm) {
        (Some(_), Some(Harm::Encryption)) => ", and what it is mounted from into extraVolumes",
        _ => "",
    };
    format!(
        "{take} {} {from} {section}.extraArgs there{volumes}: {EDIT_RECORD}",
        flag.flag
    )
}

/// [`CLOCK_TOLERANCE`] for comparing with a measured difference.
#[allow(clippy::cast_precision_loss, reason = "60 is exact")]
const CLOCK_TOLERANCE_F: f64 = CLOCK_TOLERANCE as f64;

fn healthy_address(cluster: &ClusterFacts) -> &str {
    cluster
        .healthy
        .status
        .addresses
        .first()
        .map_or(&cluster.healthy.metadata.name, |address| &address.address)
}

fn version(cluster: &ClusterFacts, here: &Here<'_>, refuse: &mut impl FnMut(String, String)) {
    let pot = here.manifest.kubernetes;
    let fits = cluster.version == pot || is_a_patch_apart(cluster, here);
    if !fits {
        refuse(
            format!(
                "the cluster runs Kubernetes {}, this pot holds {pot}",
                cluster.version
            ),
            format!(
                "Build the pot of the cluster's version on a connected machine: {}",
                build_command(cluster)
            ),
        );
    }
    let recorded = recorded_version(cluster);
    if fits && recorded != cluster.version {
        refuse(
            format!("kubeadm's own configuration of the cluster says {recorded}, its apiserver {}: kubeadm would start another version here", cluster.version),
            "Set kubernetesVersion right on a healthy master: kubectl --namespace kube-system edit configmap kubeadm-config".to_owned(),
        );
    }
    let healthy = &cluster.healthy.metadata.name;
    match cluster.kubeadm.as_deref() {
        None => refuse(
            format!("{healthy} has no kubeadm, which makes the token and uploads the certificates"),
            format!(
                "Put kubeadm {} into /usr/bin there: it is in this pot",
                cluster.version
            ),
        ),
        Some(kubeadm) if minor_of(kubeadm) != Some(cluster.version.minor) => refuse(
            format!(
                "kubeadm on {healthy} is {kubeadm}, the cluster runs {}",
                cluster.version
            ),
            format!(
                "Put kubeadm {} into /usr/bin there: it is in this pot",
                cluster.version
            ),
        ),
        Some(_) => {}
    }
}

/// Whether pot and cluster differ in nothing but the last number of their version.
fn is_a_patch_apart(cluster: &ClusterFacts, here: &Here<'_>) -> bool {
    let (pot, theirs) = (here.manifest.kubernetes, cluster.version);
    pot != theirs && (pot.major, pot.minor) == (theirs.major, theirs.minor)
}

/// A pot whose version is a patch apart does only where every image of the cluster's own version is at hand.
fn other_patch(
    missing: &[MissingImage],
    cluster: &ClusterFacts,
    here: &Here<'_>,
    refuse: &mut impl FnMut(String, String),
) {
    let names: Vec<&str> = missing.iter().map(|image| image.name.as_str()).collect();
    refuse(
        format!(
            "the cluster runs Kubernetes {}, this pot holds {}, and what the cluster's version needs is neither in the pot nor on this machine: {}",
            cluster.version,
            here.manifest.kubernetes,
            names.join(", ")
        ),
        format!(
            "Build the pot of the cluster's version on a connected machine: {}",
            build_command(cluster)
        ),
    );
}

/// What builds the pot for a new master of this cluster: with the runtime that its masters have, where the cluster's version goes with it and does not take it anyway.
fn build_command(cluster: &ClusterFacts) -> String {
    let version = cluster.version;
    let dockershim = Traits::of(version).dockershim;
    let theirs = Runtime::of_node(&cluster.runtime);
    let flag = if dockershim && theirs == Some(Runtime::Containerd) {
        " --runtime containerd"
    } else {
        ""
    };
    format!("kpot build --k8s {version}{flag}")
}

/// kubeadm up to 1.21 gives a kubelet the cgroup driver of its own machine's Docker, but with containerd what the ConfigMap says (nothing: cgroupfs), while containerd is set up
/// with the driver of the healthy master: where the two differ no pod starts, and etcd waits for a member that never runs.
fn cgroup_driver(cluster: &ClusterFacts, here: &Here<'_>, refuse: &mut impl FnMut(String, String)) {
    let rule = Traits::of(cluster.version).cgroup_driver;
    let mixed = here.manifest.runtime.name == RuntimeName::Containerd
        && Runtime::of_node(&cluster.runtime) == Some(Runtime::Docker);
    let kubelets = match cluster.kubelet.cgroup_driver.as_str() {
        "" => "cgroupfs",
        set => set,
    };
    if rule != CgroupDriverRule::Dockers || !mixed || kubelets == cluster.cgroup_driver {
        return;
    }
    refuse(
        format!(
            "this pot holds containerd, the healthy master runs Docker with the cgroup driver {}, and the cluster's kubelet ConfigMap says {kubelets}: no pod would start here",
            cluster.cgroup_driver
        ),
        format!(
            "Build the pot with the runtime of the other masters on a connected machine: {} --runtime docker",
            build_command(cluster)
        ),
    );
}

/// The release that kubeadm's configuration records, which kubeadm starts; the apiserver's own where it records none that is understood.
fn recorded_version(cluster: &ClusterFacts) -> KubeVersion {
    let recorded = &cluster.config.kubernetes_version;
    recorded
        .split(['-', '+'])
        .next()
        .and_then(|release| release.parse().ok())
        .unwrap_or(cluster.version)
}

fn minor_of(version: &str) -> Option<u16> {
    version.strip_prefix("v1.")?.split('.').next()?.parse().ok()
}

/// kubeadm up to 1.21 asks every master in ClusterStatus for its etcd: one that is gone makes the join fail half way.
fn cluster_status(
    cluster: &ClusterFacts,
    here: &Here<'_>,
    refuse: &mut impl FnMut(String, String),
) {
    for (name, address) in &cluster.api_endpoints {
        let departs = here.departed.is_some_and(|departed| departed.name == *name);
        if name != here.node && !departs && cluster.node(name).is_none() {
            refuse(
                format!(
                    "kubeadm's ClusterStatus still names the master {name} ({address}), which is no node of the cluster any more: kubeadm would ask its etcd and fail"
                ),
                format!(
                    "Let this machine take its place: kpot-install change-master --down {name} --healthy {}\nOr cut its entry under apiEndpoints out on a healthy master: kubectl --namespace kube-system edit configmap kubeadm-config (entry {name})",
                    healthy_address(cluster)
                ),
            );
        }
    }
}

fn identity(cluster: &ClusterFacts, here: &Here<'_>, refuse: &mut impl FnMut(String, String)) {
    if let Some(node) = cluster.node(here.node) {
        let mine = here.past != Past::Stranger
            && (node.has_address(here.address) || node.is_at_one_of(here.local));
        if node.is_ready() && !mine {
            refuse(
                format!(
                    "a node called {} is in the cluster already, and it is Ready",
                    here.node
                ),
                "Two machines must not have one name: give this one another with --node-name"
                    .to_owned(),
            );
        }
    }
    let others = cluster
        .nodes
        .iter()
        .filter(|node| node.metadata.name != here.node && node.has_address(here.address));
    for other in others {
        refuse(
            format!("the cluster has a node at {} already: {}", here.address, other.metadata.name),
            "If this machine was that node, keep its name with --node-name; else give this machine an address of its own, or choose one with --advertise-address".to_owned(),
        );
    }
}

fn etcd(cluster: &ClusterFacts, here: &Here<'_>, refuse: &mut impl FnMut(String, String)) {
    let stale: Vec<_> = cluster
        .members
        .iter()
        .filter(|member| member.name == here.node || member.is_at(here.address))
        .collect();
    if here.past == Past::Stranger {
        for member in &stale {
            refuse(
                format!(
                    "etcd still lists a stale member with this machine's name or address: {member}"
                ),
                format!(
                    "If this machine was that master, what it needs is a rebirth, not a join: kpot-install rebirth-master --healthy {}",
                    healthy_address(cluster)
                ),
            );
        }
    }
    for member in cluster
        .members
        .iter()
        .filter(|member| !stale.contains(member))
        .filter(|member| !here.departed.is_some_and(|departed| departed.owns(member)))
    {
        if member.is_learner {
            refuse(
                format!(
                    "etcd has a member without a vote (a learner): {member}. Another join is going on, or one failed"
                ),
                format!(
                    "Wait for that join. If nobody joins, finish it on its machine, with the command that began it; or, if that machine is gone for good, take the member out on a healthy master, after a snapshot: etcdctl member remove {}",
                    member.id
                ),
            );
        } else if !member.votes() {
            let down: Vec<_> = cluster
                .members
                .iter()
                .filter(|member| !member.votes())
                .collect();
            let quorum = cluster.members.len() / 2 + 1;
            let up = cluster.members.len() - down.len();
            refuse(
                format!(
                    "etcd member {member} does not answer ({up} of {} do, {quorum} are needed): adding one more now would put the quorum at risk",
                    cluster.members.len()
                ),
                if let Some(departed) = here.departed {
                    second_down(cluster, member, departed)
                } else {
                    format!(
                        "Bring that member back first; or, if its machine is gone for good and a quorum of the others answers, let this machine take its place: kpot-install change-master --down {} --healthy {}",
                        if member.name.is_empty() {
                            member.id.to_string()
                        } else {
                            member.name.clone()
                        },
                        healthy_address(cluster)
                    )
                },
            );
        }
    }
}

/// What to do about a member that is down besides that of `departed`. One that never started has no name, but may have a Node.
fn second_down(cluster: &ClusterFacts, member: &Member, departed: &Departed) -> String {
    let node = cluster.nodes.iter().find(|node| {
        let at = |address: &str| member.is_at(address);
        node.metadata.name == member.name || node.internal_address().is_some_and(at)
    });
    let name = node.map_or(&member.name, |node| &node.metadata.name);
    let back = if member.name.is_empty() {
        "It is of a join that did not come to its end: finish that one there, with the command that began it"
    } else {
        "Bring that member back first"
    };
    let removed = departed.member(&cluster.members).is_none();
    if member.name.is_empty() && node.is_some() && removed && departed.whose == Whose::Another {
        return format!(
            "{back}; or, if its machine is gone for good, let this machine take its place instead: kpot-install change-master --down {name} --healthy {}",
            healthy_address(cluster)
        );
    }
    let forget = if name.is_empty() {
        String::new()
    } else {
        format!(" and `kubectl delete node {name}`")
    };
    let healthy = healthy_address(cluster);
    format!(
        "{back}. If its machine runs and only its disk is lost, `kpot-install reset --healthy {healthy}` there takes the member out, by the same guard and after a snapshot, and it joins anew when this machine is done. If it is gone for good as well, and a quorum of the others answers, take it out by hand on a healthy master, after a snapshot: `etcdctl member remove {}`{forget}",
        member.id
    )
}

/// Refuses what the pod network needs and this machine has not; returns what a join can do without.
fn network<'h>(
    cluster: &ClusterFacts,
    here: &'h Here<'_>,
    refuse: &mut impl FnMut(String, String),
) -> Vec<&'h MissingImage> {
    let pot = here.manifest.images.iter().flat_map(|image| &image.names);
    let mut present: BTreeSet<String> =
        pot.chain(&here.images).map(|name| familiar(name)).collect();
    // What the control plane's own images are called in this cluster is known when they are named after it.
    if let Ok(wanted) =
        images::name_after_cluster(here.manifest, &cluster.config, true, &here.images)
    {
        present.extend(
            wanted
                .iter()
                .flat_map(|image| &image.names)
                .map(|name| familiar(name)),
        );
    }
    // A pot brings no digest of a registry along.
    let here_by_digest = |name: &str| here.images.iter().any(|image| familiar(image) == name);
    let absent = |image: &&MissingImage| match images::by_digest(&image.name) {
        Some(name) => !here_by_digest(&name),
        None => !present.contains(&familiar(&image.name)),
    };
    let pods = here.static_pods.iter().map(|pod| &pod.image);
    let missing = here
        .network
        .images
        .iter()
        .chain(pods)
        .filter(absent)
        .cloned();
    let (by_digest, by_tag): (Vec<_>, Vec<_>) = missing.partition(|image| image.name.contains('@'));
    missing_images(&by_tag, cluster, refuse);
    // A node that is one already has got it from somewhere, and Docker does not list it by that name.
    if here.past != Past::Joined {
        named_by_digest(&by_digest, refuse);
    }
    if here.network.given_by.is_empty()
        && cluster.healthy_has_cni
        && !here.has_cni
        && here.past != Past::Joined
    {
        refuse(
            "no DaemonSet gives this cluster's nodes their CNI configuration: the files in /etc/cni/net.d of the healthy master were put there by hand".to_owned(),
            format!("Put this node's own there the same way, with its pod network's range, before the join; see: ssh {} ls /etc/cni/net.d", healthy_address(cluster)),
        );
    }
    here.network.others.iter().filter(absent).collect()
}

/// The command that edits a DaemonSet; nothing of what is none.
fn edit_command(needed_by: &str) -> Option<String> {
    let set = needed_by.strip_prefix("DaemonSet ")?;
    let (namespace, name) = set.split_once('/').unwrap_or(("default", set));
    Some(format!(
        "kubectl --namespace {namespace} edit daemonset {name}"
    ))
}

/// `docker load` brings no digest of a registry along, so a pot with the same image would not help.
fn named_by_digest(missing: &[MissingImage], refuse: &mut impl FnMut(String, String)) {
    for image in missing {
        let named = match edit_command(&image.needed_by) {
            None => "Name it by its tag alone there".to_owned(),
            Some(edit) => format!("Name it by its tag alone ({edit})"),
        };
        refuse(
            format!(
                "{} names its image by the digest of a registry, which this machine can only get from there: {}",
                image.needed_by, image.name
            ),
            format!("{named}, and build the pot with it: kpot build --image NAME:TAG"),
        );
    }
}

/// Refuses images that are nowhere, all at once, with the pot that would hold them.
pub(super) fn missing_images(
    missing: &[MissingImage],
    cluster: &ClusterFacts,
    refuse: &mut impl FnMut(String, String),
) {
    if missing.is_empty() {
        return;
    }
    let list = missing
        .iter()
        .map(|image| format!("{} (for {})", image.name, image.needed_by))
        .collect::<BTreeSet<_>>();
    let flags = missing
        .iter()
        .map(|image| format!(" --image {}", image.name))
        .collect::<BTreeSet<_>>();
    let count = if list.len() == 1 {
        "an image that is"
    } else {
        "images that are"
    };
    refuse(
        format!(
            "this node would need {count} neither in the pot nor on this machine: {}",
            list.into_iter().collect::<Vec<_>>().join(", ")
        ),
        format!(
            "Build the pot with it: {}{}",
            build_command(cluster),
            flags.into_iter().collect::<String>()
        ),
    );
}

#[cfg(test)]
mod tests;
