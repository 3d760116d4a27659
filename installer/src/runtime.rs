//! The container runtimes that a node may have, and how the kubelet and kubeadm are told of them.

use std::fmt;

use bundle_spec::KubeVersion;
use bundle_spec::manifest::RuntimeName;

use crate::host::probe::{CONTAINERD, CONTAINERD_PATH};
use crate::kubernetes::{SocketForm, Traits};

/// Where the kubelet's own dockershim listens; what it stands for is Docker.
const DOCKERSHIM: &str = "/var/run/dockershim.sock";

/// The container runtime of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Docker, through the kubelet's dockershim.
    Docker,
    /// containerd, through its own CRI.
    Containerd,
}

impl Runtime {
    /// The runtime of a node by what its kubelet reports as `containerRuntimeVersion`, such as `docker://20.10.24`; nothing for another one, such as CRI-O.
    pub fn of_node(reported: &str) -> Option<Self> {
        let (name, _) = reported.split_once("://")?;
        [Self::Docker, Self::Containerd]
            .into_iter()
            .find(|runtime| runtime.name() == name)
    }

    /// What manifests, kubelets and people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
        }
    }

    /// Its name at the beginning of a sentence for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Containerd => "containerd",
        }
    }

    /// The CRI socket that the kubeadm of `version` is given (`nodeRegistration.criSocket`), from which it makes the kubelet's flags.
    pub fn cri_socket(self, version: KubeVersion) -> &'static str {
        match (self, Traits::of(version).cri_socket) {
            (Self::Docker, _) => DOCKERSHIM,
            (Self::Containerd, SocketForm::Url) => CONTAINERD,
            (Self::Containerd, SocketForm::Path) => CONTAINERD_PATH,
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<RuntimeName> for Runtime {
    fn from(name: RuntimeName) -> Self {
        match name {
            RuntimeName::Docker => Self::Docker,
            RuntimeName::Containerd => Self::Containerd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeadm_is_given_the_socket_in_the_form_that_it_has_by_default() {
        let socket = |runtime: Runtime, minor| runtime.cri_socket(KubeVersion::new(1, minor, 0));
        for minor in [14, 23] {
            assert_eq!(
                socket(Runtime::Docker, minor),
                "/var/run/dockershim.sock",
                "1.{minor}"
            );
            assert_eq!(
                socket(Runtime::Containerd, minor),
                "/run/containerd/containerd.sock",
                "1.{minor}"
            );
        }
        for minor in [24, 36] {
            assert_eq!(
                socket(Runtime::Containerd, minor),
                "unix:///run/containerd/containerd.sock",
                "1.{minor}"
            );
        }
    }

    #[test]
    fn a_node_s_runtime_is_told_by_what_its_kubelet_reports() {
        assert_eq!(Runtime::of_node("docker://20.10.24"), Some(Runtime::Docker));
        assert_eq!(
            Runtime::of_node("containerd://1.6.20~ds1"),
            Some(Runtime::Containerd)
        );
        assert_eq!(Runtime::of_node("cri-o://1.28.0"), None);
        assert_eq!(Runtime::of_node(""), None);
    }
}
