//! What differs between the versions of Kubernetes, in one place: a version's traits, as data with names.
//!
//! A new minor that changes something is a new number here; one that changes nothing needs nothing. Sources: Kubernetes' own at each release tag, named with each trait.

use std::ops::Range;

use bundle_spec::KubeVersion;
pub use bundle_spec::containerds::ContainerdRelease;
use bundle_spec::containerds::containerds;

/// The kubelet's flags that are gone, each with the first minor that has it no more: a kubelet that is given one of them does not start.
///
/// Sources: pkg/kubelet/config/flags.go of 1.23.0, cmd/kubelet/app/options of 1.35.0; issue 106893, pull requests 114017 and 133779.
const GONE_FLAGS: [(u16, &str); 10] = [
    (24, "--cni-bin-dir"),
    (24, "--cni-cache-dir"),
    (24, "--cni-conf-dir"),
    (24, "--docker-endpoint"),
    (24, "--experimental-dockershim-root-directory"),
    (24, "--image-pull-progress-deadline"),
    (24, "--network-plugin"),
    (24, "--network-plugin-mtu"),
    (27, "--container-runtime"),
    (35, "--pod-infra-container-image"),
];

/// How kubeadm writes a CRI socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketForm {
    /// As a path.
    Path,
    /// With its scheme.
    Url,
}

/// What a kubelet does on cgroup v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCgroupV1 {
    /// It runs.
    Runs,
    /// It runs, unless its configuration says `failCgroupV1: true`.
    RunsUnlessForbidden,
    /// It runs only where its configuration says `failCgroupV1: false`.
    RunsIfAllowed,
}

/// How the shared certificates reach a new master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// kubeadm cannot upload them (1.13): they are fetched over SSH, file by file.
    Copied,
    /// kubeadm uploads them, but takes the key for reading them only as a flag, where every user of the machine could see it (1.14): they are decrypted here and put in
    /// place before kubeadm starts.
    DecryptedHere,
    /// kubeadm takes the key as a field of its configuration (1.15 and later, config API v1beta2).
    KeyInConfig,
}

/// How a list of extra arguments is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraArgs {
    /// An object of names and values (up to v1beta3).
    Map,
    /// A list of objects with `name` and `value` (v1beta4).
    List,
}

/// Where kubeadm's configuration of a join holds the time for discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscoveryTimeout {
    /// `discovery.timeout` (up to v1beta3).
    InDiscovery,
    /// `timeouts.discovery` (v1beta4).
    InTimeouts,
}

/// kubeadm's configuration files and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kubeadm {
    /// The newest config API that it reads; it reads the one before as well, in which a cluster may have been recorded.
    pub api: &'static str,
    /// How the shared certificates travel.
    pub certificates: Certificates,
    /// The flag of `kubeadm init phase upload-certs` that makes it upload.
    pub upload_flag: &'static str,
    /// How extra arguments are written.
    pub extra_args: ExtraArgs,
    /// Where the time for discovery stands.
    pub discovery_timeout: DiscoveryTimeout,
}

/// kubeadm's generations, oldest first, each with its first minor (cmd/kubeadm/app/apis/kubeadm and app/cmd/options of each tag).
const KUBEADM: [(u16, Kubeadm); 5] = [
    (
        13,
        Kubeadm {
            api: "kubeadm.k8s.io/v1beta1",
            certificates: Certificates::Copied,
            upload_flag: "",
            extra_args: ExtraArgs::Map,
            discovery_timeout: DiscoveryTimeout::InDiscovery,
        },
    ),
    (
        14,
        Kubeadm {
            api: "kubeadm.k8s.io/v1beta1",
            certificates: Certificates::DecryptedHere,
            upload_flag: "--experimental-upload-certs",
            extra_args: ExtraArgs::Map,
            discovery_timeout: DiscoveryTimeout::InDiscovery,
        },
    ),
    (
        15,
        Kubeadm {
            api: "kubeadm.k8s.io/v1beta2",
            certificates: Certificates::KeyInConfig,
            upload_flag: "--upload-certs",
            extra_args: ExtraArgs::Map,
            discovery_timeout: DiscoveryTimeout::InDiscovery,
        },
    ),
    (
        22,
        Kubeadm {
            api: "kubeadm.k8s.io/v1beta3",
            certificates: Certificates::KeyInConfig,
            upload_flag: "--upload-certs",
            extra_args: ExtraArgs::Map,
            discovery_timeout: DiscoveryTimeout::InDiscovery,
        },
    ),
    (
        31,
        Kubeadm {
            api: "kubeadm.k8s.io/v1beta4",
            certificates: Certificates::KeyInConfig,
            upload_flag: "--upload-certs",
            extra_args: ExtraArgs::List,
            discovery_timeout: DiscoveryTimeout::InTimeouts,
        },
    ),
];

/// The ConfigMaps in kube-system that may hold the cluster's kubelet configuration: the one that kubeadm reads first, then the one that it reads where a feature gate
/// (`UnversionedKubeletConfigMap`) is set the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubeletConfigMap {
    /// `kubelet-config-1.NN`.
    Versioned,
    /// `kubelet-config-1.NN`, or `kubelet-config`.
    VersionedFirst,
    /// `kubelet-config`, or `kubelet-config-1.NN`.
    PlainFirst,
    /// `kubelet-config`.
    Plain,
}

/// The cgroup driver of a kubelet that kubeadm sets up, where the cluster's kubelet configuration names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriverRule {
    /// Docker's own, which kubeadm asks for and sets whatever the configuration says; with another runtime the kubelet's default, cgroupfs.
    Dockers,
    /// systemd.
    Systemd,
}

/// Whether kubeadm adds etcd's member as a learner first, which has no vote until it is promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learners {
    /// It never does.
    Never,
    /// It does where the cluster's configuration switches the feature gate `EtcdLearnerMode` on.
    IfWanted,
    /// It does unless the configuration switches it off.
    UnlessUnwanted,
    /// It always does.
    Always,
}

/// What kubeadm's preflight says of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// It warns where the tool is missing.
    Wanted,
    /// It stops there.
    Demanded,
    /// It does not look.
    Unused,
}

/// Which kernel releases kubeadm's check `SystemVerification` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelReleases {
    /// Those up to 4.x: newer ones are refused for their number alone.
    EndAtFour,
    /// Those up to 5.x, and what the check stands for can be proved in another way: then it is ignored.
    EndAtFiveReplaceable,
    /// Every one from 3.10 on (system-validators 1.0.4 to 1.8); or every one, some with a warning (1.10.1 and later).
    Open,
    /// Every one from 4.19 on (1.9).
    FromFourNineteen,
}

/// The traits of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own with a name, and none is handed to a function as a bare bool"
)]
pub struct Traits {
    /// Whether the kubelet speaks with Docker by itself: the dockershim left in 1.24.
    pub dockershim: bool,
    /// How kubeadm writes CRI sockets: with a scheme from 1.24 on (pull request 107295); before, it takes both and has a path
    /// by default.
    pub cri_socket: SocketForm,
    /// Whether the kubelet runs on cgroup v2: from 1.19 on (pkg/kubelet/cm knows the unified hierarchy in 1.19.0, and not in 1.18.20).
    pub on_cgroup_v2: bool,
    /// What the kubelet does on cgroup v1: `failCgroupV1` is true by default from 1.35 on (pkg/kubelet/apis/config/v1beta1/defaults.go).
    pub on_cgroup_v1: OnCgroupV1,
    /// Whether kubeadm takes a Docker that stores on btrfs: from 1.23 on (system-validators 1.6.0, kubernetes pull request 106323).
    pub docker_on_btrfs: bool,
    /// The containerds that the kubelet can run with, the end excluded: the builder asks the same table.
    pub containerd: Range<ContainerdRelease>,
    /// The kubelet's flags that are gone.
    pub gone_flags: Vec<&'static str>,
    /// kubeadm's configuration files and flags.
    pub kubeadm: Kubeadm,
    /// The labels without a value that kubeadm gives a master (app/phases/markcontrolplane): both roles from 1.20 to 1.23, and from 1.21 on the one that keeps load balancers away.
    pub master_labels: &'static [&'static str],
    /// The keys of the taints that kubeadm gives a master (app/util/config/initconfiguration.go): the old one up to 1.24, the new one from 1.24 on.
    pub master_taints: &'static [&'static str],
    /// Where the cluster's kubelet configuration is (app/constants, app/features: the gate is alpha in 1.23, on in 1.24, and fixed from 1.25 on).
    pub kubelet_config_map: KubeletConfigMap,
    /// Which cgroup driver a kubelet gets (app/componentconfigs/kubelet.go): kubeadm asks Docker up to 1.21, and sets systemd where nothing is said from 1.22 on, at a join as well.
    pub cgroup_driver: CgroupDriverRule,
    /// Whether kubeadm asks every master in `ClusterStatus` for its etcd at a join: up to 1.21; later ones find the masters by their pods, and what may be left of the record
    /// means nothing to them.
    pub cluster_status: bool,
    /// Whether a new member of etcd begins as a learner (app/features: alpha in 1.27, on from 1.29, fixed from 1.32 on).
    pub learners: Learners,
    /// The API version of Leases: the final one from 1.14 on (staging/src/k8s.io/api/coordination).
    pub leases: &'static str,
    /// The flag of `kubectl drain` that gives up what pods keep in an `emptyDir`.
    pub drain_flag: &'static str,
    /// Whether kubeadm looks at a join, with the token, for a Node of the name that it is to have: from 1.18 on (kubernetes/kubernetes#81056).
    pub looks_for_node: bool,
    /// What kubeadm says of conntrack: demanded from 1.18 to 1.31, unused from 1.32 on (app/preflight).
    pub conntrack: Tool,
    /// Whether kubeadm demands memory of a master: 1.14 and 1.15 do not look, 1.20 does.
    pub demands_memory: bool,
    /// Whether the controller manager and the scheduler may listen without TLS as well: up to 1.22.
    pub insecure_ports: bool,
    /// Which kernels kubeadm's `SystemVerification` knows (1.14.0 and 1.15.0: app/util/system; from 1.17 on k8s.io/system-validators).
    pub kernel_releases: KernelReleases,
    /// What the check demands of the kernel's configuration besides what every version does.
    pub kernel_options: KernelOptions,
    /// Whether kubeadm reads more than one CA certificate in cluster-info (kubernetes/kubernetes#76500).
    pub ca_chains: bool,
}

/// The role of a master, as it was called first.
const MASTER: &str = "node-role.kubernetes.io/master";

/// The role of a master, as it is called since.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// What keeps a cloud's load balancers away from a node.
pub(crate) const NO_BALANCER: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// [`Traits::master_labels`], from which minor on.
const MASTER_LABELS: [(u16, &[&str]); 4] = [
    (0, &[MASTER]),
    (20, &[MASTER, CONTROL_PLANE]),
    (21, &[MASTER, CONTROL_PLANE, NO_BALANCER]),
    (24, &[CONTROL_PLANE, NO_BALANCER]),
];

/// [`Traits::master_taints`], from which minor on.
const MASTER_TAINTS: [(u16, &[&str]); 3] = [
    (0, &[MASTER]),
    (24, &[MASTER, CONTROL_PLANE]),
    (25, &[CONTROL_PLANE]),
];

/// [`Traits::kubelet_config_map`], from which minor on.
const KUBELET_CONFIG_MAPS: [(u16, KubeletConfigMap); 4] = [
    (0, KubeletConfigMap::Versioned),
    (23, KubeletConfigMap::VersionedFirst),
    (24, KubeletConfigMap::PlainFirst),
    (25, KubeletConfigMap::Plain),
];

/// [`Traits::learners`], from which minor on.
const LEARNERS: [(u16, Learners); 4] = [
    (0, Learners::Never),
    (27, Learners::IfWanted),
    (29, Learners::UnlessUnwanted),
    (32, Learners::Always),
];

/// [`Traits::conntrack`], from which minor on.
const CONNTRACK: [(u16, Tool); 3] = [(0, Tool::Wanted), (18, Tool::Demanded), (32, Tool::Unused)];

/// What kubeadm's check `SystemVerification` demands of the kernel's configuration for the controllers of cgroups, and for sharing processors: without `CONFIG_`, on cgroup v1 and on v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// On cgroup v1.
    pub on_v1: &'static [&'static str],
    /// On cgroup v2.
    pub on_v2: &'static [&'static str],
}

/// The same on either version of cgroups.
const fn on_both(options: &'static [&'static str]) -> KernelOptions {
    KernelOptions {
        on_v1: options,
        on_v2: options,
    }
}

/// What the controllers of cgroup v1 need, which for a while was demanded on v2 as well.
const CONTROLLERS_OF_V1: &[&str] = &[
    "CGROUP_CPUACCT",
    "CGROUP_DEVICE",
    "CGROUP_FREEZER",
    "CGROUP_PIDS",
    "CGROUP_SCHED",
    "FAIR_GROUP_SCHED",
];

/// [`Traits::kernel_options`], from which minor on: kubeadm's sources of 1.14 and 1.15; system-validators 1.2.0 (1.20), 1.3.0 to 1.8.0, 1.9.1 and 1.10.1 (1.32 to 1.34; 1.9.2 and 1.10.2, which
/// their last patches have, demand none of a controller), 1.12.1.
const KERNEL_OPTIONS: [(u16, KernelOptions); 4] = [
    (
        0,
        on_both(&[
            "CGROUP_CPUACCT",
            "CGROUP_DEVICE",
            "CGROUP_FREEZER",
            "CGROUP_SCHED",
        ]),
    ),
    (21, on_both(CONTROLLERS_OF_V1)),
    (
        32,
        on_both(&[
            "CGROUP_BPF",
            "CGROUP_CPUACCT",
            "CGROUP_DEVICE",
            "CGROUP_FREEZER",
            "CGROUP_PIDS",
            "CGROUP_SCHED",
            "FAIR_GROUP_SCHED",
        ]),
    ),
    (
        35,
        KernelOptions {
            on_v1: CONTROLLERS_OF_V1,
            on_v2: &[
                "CGROUP_BPF",
                "CGROUP_PIDS",
                "CGROUP_SCHED",
                "FAIR_GROUP_SCHED",
            ],
        },
    ),
];

/// [`Traits::kernel_releases`], from which minor on.
const KERNEL_RELEASES: [(u16, KernelReleases); 5] = [
    (0, KernelReleases::EndAtFour),
    (14, KernelReleases::EndAtFiveReplaceable),
    (17, KernelReleases::Open),
    (32, KernelReleases::FromFourNineteen),
    (34, KernelReleases::Open),
];

/// What stands, of steps in rising order, from the last one that `minor` reaches on; of a version before the first one, the first.
fn latest<T: Copy, const N: usize>(steps: [(u16, T); N], minor: u16) -> T {
    let reached = steps.iter().rfind(|(first, _)| *first <= minor);
    reached.unwrap_or(&steps[0]).1
}

impl Traits {
    /// The traits of a version.
    pub fn of(version: KubeVersion) -> Self {
        let since = |minor: u16| version.minor >= minor;
        Self {
            dockershim: !since(24),
            cri_socket: if since(24) {
                SocketForm::Url
            } else {
                SocketForm::Path
            },
            on_cgroup_v2: since(19),
            on_cgroup_v1: if since(35) {
                OnCgroupV1::RunsIfAllowed
            } else if since(31) {
                OnCgroupV1::RunsUnlessForbidden
            } else {
                OnCgroupV1::Runs
            },
            docker_on_btrfs: since(23),
            containerd: containerds(version.minor),
            gone_flags: GONE_FLAGS
                .iter()
                .filter(|(first, _)| since(*first))
                .map(|(_, flag)| *flag)
                .collect(),
            kubeadm: latest(KUBEADM, version.minor),
            master_labels: latest(MASTER_LABELS, version.minor),
            master_taints: latest(MASTER_TAINTS, version.minor),
            kubelet_config_map: latest(KUBELET_CONFIG_MAPS, version.minor),
            cgroup_driver: if since(22) {
                CgroupDriverRule::Systemd
            } else {
                CgroupDriverRule::Dockers
            },
            cluster_status: !since(22),
            learners: latest(LEARNERS, version.minor),
            leases: if since(14) {
                "coordination.k8s.io/v1"
            } else {
                "coordination.k8s.io/v1beta1"
            },
            drain_flag: if since(20) {
                "--delete-emptydir-data"
            } else {
                "--delete-local-data"
            },
            looks_for_node: since(18),
            conntrack: latest(CONNTRACK, version.minor),
            demands_memory: since(20),
            insecure_ports: !since(23),
            kernel_releases: latest(KERNEL_RELEASES, version.minor),
            kernel_options: latest(KERNEL_OPTIONS, version.minor),
            ca_chains: since(15),
        }
    }

    /// Whether versions like this one are known at all: from 1.13 on.
    pub fn know(version: KubeVersion) -> bool {
        version.major == 1 && version.minor >= KUBEADM[0].0
    }

    /// The names of the ConfigMaps in kube-system that may hold the kubelet configuration of a cluster of this version, the likeliest first.
    pub fn kubelet_config_maps(version: KubeVersion) -> Vec<String> {
        let plain = || "kubelet-config".to_owned();
        let versioned = || format!("kubelet-config-{}.{}", version.major, version.minor);
        match Self::of(version).kubelet_config_map {
            KubeletConfigMap::Versioned => vec![versioned()],
            KubeletConfigMap::VersionedFirst => vec![versioned(), plain()],
            KubeletConfigMap::PlainFirst => vec![plain(), versioned()],
            KubeletConfigMap::Plain => vec![plain()],
        }
    }
}

impl OnCgroupV1 {
    /// Whether it refuses to run there, by what its configuration says of `failCgroupV1`.
    pub fn fails(self, said: Option<bool>) -> bool {
        match self {
            Self::Runs => false,
            Self::RunsUnlessForbidden => said == Some(true),
            Self::RunsIfAllowed => said != Some(false),
        }
    }
}

impl Learners {
    /// Whether a new member is a learner first, by what the cluster's configuration says of `EtcdLearnerMode`.
    pub fn used(self, gate: Option<bool>) -> bool {
        match self {
            Self::Never => false,
            Self::IfWanted => gate == Some(true),
            Self::UnlessUnwanted => gate != Some(false),
            Self::Always => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(minor: u16) -> Traits {
        Traits::of(KubeVersion::new(1, minor, 0))
    }

    #[test]
    fn traits_change_with_the_minor_that_brought_them() {
        assert!(!traits(18).on_cgroup_v2 && traits(19).on_cgroup_v2);
        assert!(traits(23).dockershim && !traits(24).dockershim);
        assert_eq!(traits(30).on_cgroup_v1, OnCgroupV1::Runs);
        assert_eq!(traits(31).on_cgroup_v1, OnCgroupV1::RunsUnlessForbidden);
        assert_eq!(traits(34).on_cgroup_v1, OnCgroupV1::RunsUnlessForbidden);
        assert_eq!(traits(35).on_cgroup_v1, OnCgroupV1::RunsIfAllowed);
        assert!(traits(23).gone_flags.is_empty());
        assert!(!traits(26).gone_flags.contains(&"--container-runtime"));
        assert_eq!(traits(36).gone_flags.len(), GONE_FLAGS.len());
    }

    #[test]
    fn every_minor_has_the_config_api_of_its_generation() {
        assert!(
            !Traits::know(KubeVersion::new(1, 12, 9)) && Traits::know(KubeVersion::new(1, 13, 0))
        );
        let expected = [
            (13..=14, "v1beta1"),
            (15..=21, "v1beta2"),
            (22..=30, "v1beta3"),
            (31..=36, "v1beta4"),
        ];
        for (minors, api) in expected {
            for minor in minors {
                let generation = traits(minor).kubeadm;
                assert_eq!(generation.api, format!("kubeadm.k8s.io/{api}"), "1.{minor}");
                let lists = generation.extra_args == ExtraArgs::List;
                let moved = generation.discovery_timeout == DiscoveryTimeout::InTimeouts;
                assert_eq!((lists, moved), (minor >= 31, minor >= 31), "1.{minor}");
            }
        }
        let certificates = |minor| traits(minor).kubeadm.certificates;
        assert_eq!(certificates(13), Certificates::Copied);
        assert_eq!(certificates(14), Certificates::DecryptedHere);
        assert_eq!(certificates(15), Certificates::KeyInConfig);
    }

    #[test]
    fn a_master_is_marked_as_its_version_s_kubeadm_marks_it() {
        let marks = |minor| (traits(minor).master_labels, traits(minor).master_taints);
        assert_eq!(marks(19), (&[MASTER][..], &[MASTER][..]));
        assert_eq!(marks(20), (&[MASTER, CONTROL_PLANE][..], &[MASTER][..]));
        assert!(marks(23).0.contains(&MASTER) && marks(23).1 == [MASTER]);
        assert_eq!(marks(24).0, [CONTROL_PLANE, NO_BALANCER]);
        assert_eq!(marks(24).1, [MASTER, CONTROL_PLANE]);
        assert_eq!(marks(36).1, [CONTROL_PLANE]);
    }

    #[test]
    fn the_kubelet_s_configuration_is_looked_for_where_kubeadm_may_have_put_it() {
        let maps = |minor| Traits::kubelet_config_maps(KubeVersion::new(1, minor, 2));
        assert_eq!(maps(22), ["kubelet-config-1.22"]);
        assert_eq!(maps(23), ["kubelet-config-1.23", "kubelet-config"]);
        assert_eq!(maps(24), ["kubelet-config", "kubelet-config-1.24"]);
        assert_eq!(maps(25), ["kubelet-config"]);
    }

    #[test]
    fn a_new_member_learns_first_where_its_version_and_the_cluster_s_gate_say_so() {
        let learns = |minor, gate| traits(minor).learners.used(gate);
        assert!(!learns(26, Some(true)));
        assert!(!learns(28, None) && learns(28, Some(true)));
        assert!(learns(29, None) && !learns(31, Some(false)));
        assert!(
            learns(34, None) && learns(34, Some(false)),
            "the gate is gone"
        );
    }

    #[test]
    fn a_kubelet_goes_with_the_containerds_that_serve_its_cri() {
        let goes = |minor, release| traits(minor).containerd.contains(&release);
        assert!(goes(22, (1, 5)) && !goes(22, (2, 1)));
        assert!(goes(23, (2, 1)) && goes(25, (1, 5)));
        assert!(goes(34, (1, 6)) && goes(34, (2, 1)) && !goes(34, (1, 5)));
        assert!(goes(35, (1, 7)) && !goes(35, (1, 6)));
    }
}
