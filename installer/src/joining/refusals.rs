//! What refuses a join before anything is changed: one list, each with its cause and the next command. Pure.

use std::collections::BTreeSet;
use std::time::SystemTime;

use bundle_spec::{KubeVersion, Manifest};

use crate::control_plane::credentials::{CLOCK_TOLERANCE, is_since};
use crate::control_plane::etcd::Member;
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::images::{self, MissingImage, PodNetwork, familiar};
use crate::joining::static_pods::PodImage;
use crate::replacing::{Departed, Whose};
use crate::steps::ImageWanted;

/// Why a join is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The cause.
    pub cause: String,
    /// The next command, or what has to be done.
    pub remedy: String,
}

/// This machine, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Here<'a> {
    /// The name of its node.
    pub node: &'a str,
    /// The address of its apiserver and etcd.
    pub address: &'a str,
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
    );
    let lacking = network(cluster, here, &mut refuse);
    let named = match wanted {
        Ok(wanted) => Some(wanted),
        Err(missing) => {
            // Of a pot of another version everything is missing: that is said once, by the version.
            if here.manifest.kubernetes == recorded_version(cluster) {
                missing_images(&missing, cluster, &mut refuse);
            }
            None
        }
    };
    let mut warnings: Vec<String> =
        lacking.iter().map(|image| format!("{} will run here and its image {} is not in the pot: it is pulled, or fails until it can be", image.needed_by, image.name)).collect();
    warnings.extend(here.static_pods.iter().filter(|pod| pod.always_pulled).map(|pod| {
        format!("{} is pulled whenever its pod starts ({}), though it be here: without its registry the pod does not start. Set imagePullPolicy: IfNotPresent in the manifest, and a tag other than latest", pod.image.name, pod.image.needed_by)
    }));
    if here.past == Past::Stranger && cluster.members.len() == 1 {
        warnings.push("the cluster has one etcd member: while this machine's member starts, both are needed, and the cluster pauses for some seconds".to_owned());
    }
    match named {
        Some(wanted) if refusals.is_empty() => (Ok(wanted), warnings),
        _ => (Err(refusals), warnings),
    }
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
    if cluster.version != pot {
        refuse(
            format!(
                "the cluster runs Kubernetes {}, this pot holds {pot}",
                cluster.version
            ),
            format!(
                "Build the pot of the cluster's version on a connected machine: kpot build --k8s {}",
                cluster.version
            ),
        );
    }
    let recorded = recorded_version(cluster);
    if cluster.version == pot && recorded != pot {
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
        let mine = here.past != Past::Stranger && node.has_address(here.address);
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
                format!("etcd has a member without a vote: {member}. Another join is going on, or one failed"),
                "Wait for that join. If nobody joins, remove it on a healthy master: etcdctl member remove, with that ID".to_owned(),
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
    format!(
        "{back}. If its machine is gone for good as well, and a quorum of the others answers, take it out by hand on a healthy master, after a snapshot: `etcdctl member remove {}`{forget}",
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
    if let Ok(wanted) = images::name_after_cluster(here.manifest, &cluster.config, true) {
        present.extend(
            wanted
                .iter()
                .flat_map(|image| &image.names)
                .map(|name| familiar(name)),
        );
    }
    let absent = |image: &&MissingImage| !present.contains(&familiar(&image.name));
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

/// `docker load` brings no digest of a registry along, so a pot with the same image would not help.
fn named_by_digest(missing: &[MissingImage], refuse: &mut impl FnMut(String, String)) {
    for image in missing {
        let named = match image.needed_by.strip_prefix("DaemonSet ") {
            None => "Name it by its tag alone there".to_owned(),
            Some(set) => {
                let (namespace, name) = set.split_once('/').unwrap_or(("default", set));
                format!(
                    "Name it by its tag alone (kubectl --namespace {namespace} edit daemonset {name})"
                )
            }
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

fn missing_images(
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
            "Build the pot with it: kpot build --k8s {}{}",
            cluster.version,
            flags.into_iter().collect::<String>()
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use std::time::UNIX_EPOCH;

    use bundle_spec::KubeVersion;

    use super::*;

    fn stranger(manifest: &Manifest) -> Here<'_> {
        Here {
            node: "b1",
            address: "10.0.0.21",
            manifest,
            images: vec![],
            has_cni: false,
            network: fixtures::network(),
            static_pods: vec![],
            past: Past::Stranger,
            departed: None,
            uploaded: None,
        }
    }

    fn refused(change: impl FnOnce(&mut ClusterFacts, &mut Here<'_>)) -> Vec<String> {
        let manifest = fixtures::whole_manifest();
        let mut cluster = fixtures::cluster();
        let mut here = stranger(&manifest);
        change(&mut cluster, &mut here);
        match judge(&cluster, &here).0 {
            Ok(_) => vec![],
            Err(refusals) => refusals
                .into_iter()
                .map(|refusal| format!("{} | {}", refusal.cause, refusal.remedy))
                .collect(),
        }
    }

    /// Refused for exactly one reason, whose text has all of these.
    #[track_caller]
    fn once(reasons: &[String], words: &[&str]) {
        assert_eq!(reasons.len(), 1, "{reasons:#?}");
        for word in words {
            assert!(
                reasons[0].contains(word),
                "{word:?} is not in {}",
                reasons[0]
            );
        }
    }

    #[test]
    fn a_healthy_cluster_refuses_nothing() {
        assert!(refused(|_, _| {}).is_empty());
    }

    #[test]
    fn another_version_names_the_build() {
        once(
            &refused(|cluster, _| cluster.version = KubeVersion::new(1, 14, 1)),
            &["v1.14.1", "v1.14.0", "kpot build --k8s v1.14.1"],
        );
        once(
            &refused(|cluster, _| cluster.kubeadm = None),
            &["no kubeadm"],
        );
        once(
            &refused(|cluster, _| cluster.kubeadm = Some("v1.13.4".to_owned())),
            &["v1.13.4"],
        );
    }

    #[test]
    fn a_clock_off_by_more_than_a_minute_either_way() {
        once(
            &refused(|cluster, _| cluster.clock_skew = 61.0),
            &["61 s ahead"],
        );
        once(
            &refused(|cluster, _| cluster.clock_skew = -3600.0),
            &["3600 s behind"],
        );
        assert!(refused(|cluster, _| cluster.clock_skew = -59.0).is_empty());
    }

    #[test]
    fn a_name_or_an_address_that_is_taken() {
        once(
            &refused(|_, here| here.node = "m2")
                .into_iter()
                .filter(|reason| reason.contains("Ready"))
                .collect::<Vec<_>>(),
            &["m2", "--node-name"],
        );
        let reasons = refused(|_, here| here.address = "10.0.0.12");
        assert!(
            reasons
                .iter()
                .any(|reason| reason.contains("a node at 10.0.0.12 already: m2")),
            "{reasons:#?}"
        );
    }

    #[test]
    fn a_stale_member_names_the_rebirth_unless_it_is_our_own_half_join() {
        let stale = |cluster: &mut ClusterFacts| {
            let mut member = fixtures::member(3, "b1", "10.0.0.21");
            member.healthy = false;
            cluster.members.push(member);
        };
        once(
            &refused(|cluster, _| stale(cluster)),
            &["b1 3 ", "kpot-install rebirth-master --healthy"],
        );
        assert!(
            refused(|cluster, here| {
                stale(cluster);
                here.past = Past::Interrupted;
            })
            .is_empty()
        );
    }

    #[test]
    fn a_member_that_is_down_or_has_no_vote() {
        once(
            &refused(|cluster, _| cluster.members[1].healthy = false),
            &["m2 2", "1 of 2 do, 2 are needed", "change-master --down m2"],
        );
        once(
            &refused(|cluster, _| cluster.members[1].is_learner = true),
            &["without a vote"],
        );
    }

    #[test]
    fn a_master_whose_records_go_is_in_nobodys_way() {
        let manifest = fixtures::whole_manifest();
        let mut cluster = fixtures::cluster();
        let mut dead = fixtures::member(3, "m3", "10.0.0.13");
        dead.healthy = false;
        cluster.members.push(dead);
        cluster
            .api_endpoints
            .push(("m3".to_owned(), "10.0.0.13".to_owned()));
        let departed = Departed {
            name: "m3".to_owned(),
            address: "10.0.0.13".to_owned(),
            whose: Whose::Another,
        };
        let mut here = stranger(&manifest);
        assert_eq!(judge(&cluster, &here).0.unwrap_err().len(), 2);
        here.departed = Some(&departed);
        assert!(judge(&cluster, &here).0.is_ok());
        cluster.members[1].healthy = false;
        assert_eq!(
            judge(&cluster, &here).0.unwrap_err().len(),
            1,
            "another one that is down still is"
        );
    }

    #[test]
    fn a_second_member_that_is_down_goes_by_commands_that_can_be_typed() {
        let manifest = fixtures::whole_manifest();
        let departed = Departed {
            name: "m3".to_owned(),
            address: "10.0.0.13".to_owned(),
            whose: Whose::Another,
        };
        let mut here = stranger(&manifest);
        here.departed = Some(&departed);
        let mut cluster = fixtures::cluster();
        let mut unstarted = fixtures::member(0x1f, "", "10.0.0.29");
        unstarted.healthy = false;
        cluster.members.push(unstarted);
        let remedy = |cluster: &ClusterFacts| {
            let refusals = judge(cluster, &here).0.unwrap_err();
            assert_eq!(refusals.len(), 1, "{refusals:#?}");
            refusals[0].remedy.clone()
        };
        let told = remedy(&cluster);
        assert!(told.ends_with("`etcdctl member remove 1f`"), "{told}");
        let mut node = fixtures::node("b9", "10.0.0.29");
        node.metadata.labels.clear();
        cluster.nodes.push(node);
        let told = remedy(&cluster);
        assert!(
            told.ends_with("change-master --down b9 --healthy 10.0.0.11"),
            "{told}"
        );
        let mut gone = fixtures::member(3, "m3", "10.0.0.13");
        gone.healthy = false;
        cluster.members.push(gone);
        let told = remedy(&cluster);
        assert!(
            told.ends_with("`etcdctl member remove 1f` and `kubectl delete node b9`"),
            "{told}"
        );
        cluster.members.truncate(2);
        cluster.members[1].healthy = false;
        let told = remedy(&cluster);
        assert!(
            told.starts_with("Bring that member back first")
                && told.ends_with("`kubectl delete node m2`"),
            "{told}"
        );
    }

    #[test]
    fn certificates_that_somebody_else_uploaded() {
        let created = "2026-01-01T12:00:00Z";
        once(
            &refused(|cluster, _| cluster.uploaded_certs = Some(created.to_owned())),
            &["kubeadm-certs", created],
        );
        let since = humantime::parse_rfc3339(created).unwrap();
        assert!(
            refused(|cluster, here| {
                cluster.uploaded_certs = Some(created.to_owned());
                here.uploaded = Some(since);
            })
            .is_empty(),
            "our own of a killed run"
        );
        let later = since + std::time::Duration::from_secs(3600);
        assert_eq!(
            refused(|cluster, here| {
                cluster.uploaded_certs = Some(created.to_owned());
                here.uploaded = Some(later);
            })
            .len(),
            1
        );
        assert!(later > UNIX_EPOCH);
    }

    #[test]
    fn images_that_nobody_has() {
        once(
            &refused(|_, here| here.network.images[0].name = "calico:3".to_owned()),
            &[
                "calico:3",
                "--image calico:3",
                "DaemonSet kube-system/flannel",
            ],
        );
        assert!(
            refused(|_, here| {
                here.network.images[0].name = "docker.io/library/calico:3".to_owned();
                here.images = vec!["calico:3".to_owned()];
            })
            .is_empty(),
            "on this machine already"
        );
        once(
            &refused(|cluster, _| {
                cluster.config.etcd.local = Some(crate::control_plane::kubeadm::LocalEtcd {
                    image_tag: "9".to_owned(),
                    ..Default::default()
                });
            }),
            &["k8s.gcr.io/etcd:9"],
        );
        let pinned = format!("calico:3@sha256:{}", "a".repeat(64));
        once(
            &refused(|_, here| here.network.images[0].name.clone_from(&pinned)),
            &["digest", &pinned, "edit daemonset flannel"],
        );
        assert!(
            refused(|_, here| {
                here.network.images[0].name.clone_from(&pinned);
                here.past = Past::Joined;
            })
            .is_empty(),
            "it runs here already"
        );
        let others = MissingImage {
            name: "logs:1".to_owned(),
            needed_by: "DaemonSet x/logs".to_owned(),
        };
        assert!(
            refused(|_, here| here.network.others.push(others)).is_empty(),
            "a warning, not a refusal"
        );
    }

    #[test]
    fn a_cluster_that_kubeadm_joins_no_second_master_to() {
        once(
            &refused(|cluster, _| cluster.config.control_plane_endpoint.clear()),
            &[
                "controlPlaneEndpoint",
                "edit configmap kubeadm-config",
                "10.0.0.11:6443",
            ],
        );
    }

    #[test]
    fn images_of_static_pods_that_are_copied() {
        let pod = |always_pulled| PodImage {
            image: MissingImage {
                name: "keepalived:2".to_owned(),
                needed_by: "keepalived.yaml of 10.0.0.11, by --copy-static-pods".to_owned(),
            },
            always_pulled,
        };
        once(
            &refused(|_, here| here.static_pods = vec![pod(false)]),
            &["keepalived.yaml of 10.0.0.11", "--image keepalived:2"],
        );
        let manifest = fixtures::whole_manifest();
        let mut here = stranger(&manifest);
        here.static_pods = vec![pod(true)];
        here.images = vec!["keepalived:2".to_owned()];
        let (judged, warnings) = judge(&fixtures::cluster(), &here);
        assert!(judged.is_ok());
        assert!(
            warnings
                .iter()
                .any(|told| told.contains("keepalived:2 is pulled whenever")),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_network_that_was_made_by_hand() {
        once(
            &refused(|_, here| here.network = PodNetwork::default()),
            &["by hand", "/etc/cni/net.d"],
        );
        assert!(
            refused(|_, here| {
                here.network = PodNetwork::default();
                here.has_cni = true;
            })
            .is_empty(),
            "the operator did what the refusal asked for"
        );
    }

    #[test]
    fn a_dead_master_in_cluster_status_and_a_recorded_version_that_is_wrong() {
        once(
            &refused(|cluster, _| {
                cluster
                    .api_endpoints
                    .push(("m9".to_owned(), "10.0.0.19".to_owned()));
            }),
            &["m9", "ClusterStatus", "apiEndpoints"],
        );
        assert!(
            refused(|cluster, _| cluster
                .api_endpoints
                .push(("b1".to_owned(), "10.0.0.21".to_owned())))
            .is_empty(),
            "our own entry is written over"
        );
        once(
            &refused(|cluster, _| cluster.config.kubernetes_version = "v1.13.4".to_owned()),
            &["v1.13.4", "kubernetesVersion"],
        );
    }

    #[test]
    fn external_etcd_without_its_client_files() {
        once(
            &refused(|cluster, _| {
                cluster.missing_etcd_files = vec!["/etc/etcd/client.key".to_owned()];
            }),
            &["/etc/etcd/client.key"],
        );
    }

    #[test]
    fn who_has_joined_is_not_refused_for_being_there() {
        assert!(
            refused(|cluster, here| {
                cluster.nodes.push(fixtures::node("b1", "10.0.0.21"));
                cluster.members.push(fixtures::member(3, "b1", "10.0.0.21"));
                here.past = Past::Joined;
            })
            .is_empty()
        );
    }
}
