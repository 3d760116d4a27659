//! What differs between the versions of Kubernetes, in one place: a version's traits, as data with names.
//!
//! A new minor that changes something is a new number here; one that changes nothing needs nothing. Sources: Kubernetes' own at each release tag, named with each trait.

use std::ops::Range;

use bundle_spec::KubeVersion;

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
    /// It runs only where its configuration says `failCgroupV1: false`.
    RunsIfAllowed,
}

/// The major and minor number of a containerd.
pub type ContainerdRelease = (u32, u32);

/// The traits of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The containerds that the kubelet can speak with, the end excluded. Up to 1.22 it only knows CRI v1alpha2, which containerd 2.0 no longer serves; from 1.26 on it only
    /// knows CRI v1, which containerd serves from 1.6 on; from 1.35 on nobody tells it which image the sandboxes run in, and containerd itself must keep it, as 1.7 does. Before 1.3
    /// there is no configuration of version 2.
    pub containerd: Range<ContainerdRelease>,
    /// The kubelet's flags that are gone.
    pub gone_flags: Vec<&'static str>,
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
            } else {
                OnCgroupV1::Runs
            },
            containerd: Range {
                start: if since(35) {
                    (1, 7)
                } else if since(26) {
                    (1, 6)
                } else {
                    (1, 3)
                },
                end: if since(23) { (3, 0) } else { (2, 0) },
            },
            gone_flags: GONE_FLAGS
                .iter()
                .filter(|(first, _)| since(*first))
                .map(|(_, flag)| *flag)
                .collect(),
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
        assert_eq!(traits(34).on_cgroup_v1, OnCgroupV1::Runs);
        assert_eq!(traits(35).on_cgroup_v1, OnCgroupV1::RunsIfAllowed);
        assert!(traits(23).gone_flags.is_empty());
        assert!(!traits(26).gone_flags.contains(&"--container-runtime"));
        assert_eq!(traits(36).gone_flags.len(), GONE_FLAGS.len());
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
