//! kubeadm's configuration for the lab's own clusters, by version.
//!
//! Written as JSON documents, which YAML readers take. It holds what plain `kubeadm init` needs on this kind of machine
//! and nothing that makes the product's work easier.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::endpoint::Endpoint;
use super::runtime::Runtime;
use super::tke;
use crate::eras::Version;
use crate::machine::Cgroup;
use crate::node::Node;
use crate::upstream::POD_SUBNET;

/// What distinguishes one cluster of the lab from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// The version of everything in it.
    pub version: Version,
    /// What stands in the place of Kubernetes' own registry in its image names.
    pub image_repository: Option<String>,
    /// Where its API servers are reached.
    #[serde(default)]
    pub endpoint: Endpoint,
    /// Who made it.
    #[serde(default)]
    pub shape: Shape,
    /// What runs its containers.
    #[serde(default)]
    pub runtime: Runtime,
}

/// In which way a cluster is set up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// As kubeadm alone does it.
    #[default]
    Plain,
    /// As TKE does it with kubeadm.
    Tke,
}

/// A registry that nobody can reach; only the names of its images count.
const OWN_REPOSITORY: &str = "registry.example.internal/k8s";

impl ClusterSpec {
    /// As kubeadm alone makes it, with nothing of its own.
    pub fn plain(version: Version) -> Self {
        Self {
            version,
            image_repository: None,
            endpoint: Endpoint::default(),
            shape: Shape::Plain,
            runtime: Runtime::Docker,
        }
    }

    /// The kind of cluster that scenarios of a version work with: from 1.20 on one whose images bear names of its own, which every new master's must bear as well.
    pub fn of(version: Version) -> Self {
        Self {
            image_repository: (version.minor >= 20).then(|| OWN_REPOSITORY.to_owned()),
            ..Self::plain(version)
        }
    }

    /// The same, as TKE makes it.
    pub fn tke(version: Version) -> Self {
        Self {
            shape: Shape::Tke,
            ..Self::of(version)
        }
    }

    /// The same with another container runtime.
    #[must_use]
    pub fn run_by(self, runtime: Runtime) -> Self {
        Self { runtime, ..self }
    }

    /// The name that an image of Kubernetes has in this cluster, where `registry` is the one that it usually comes from.
    pub fn image_name(&self, name: &str, registry: &str) -> String {
        let image = name
            .strip_prefix(registry)
            .and_then(|rest| rest.strip_prefix('/'));
        match (&self.image_repository, image) {
            (Some(repository), Some(image)) => {
                // kubeadm leaves out this folder in every repository but its own.
                let image = image.strip_prefix("coredns/").unwrap_or(image);
                format!("{repository}/{image}")
            }
            _ => name.to_owned(),
        }
    }

    /// A machine under the name that this cluster gives its node.
    pub fn known(&self, node: Node) -> Node {
        match self.shape {
            Shape::Plain => node,
            Shape::Tke => node.called_by_address(),
        }
    }

    /// The same with another endpoint.
    #[must_use]
    pub fn reached_at(self, endpoint: Endpoint) -> Self {
        Self { endpoint, ..self }
    }
}

/// The file for `kubeadm init --config` on the master at `address`; `endpoint` is the cluster's, `HOST:PORT`.
pub fn init_config(spec: &ClusterSpec, endpoint: &str, address: &str) -> String {
    let api = format!("kubeadm.k8s.io/{}", api_version(spec.version));
    let mut cluster = json!({
        "apiVersion": api,
        "kind": "ClusterConfiguration",
        "kubernetesVersion": spec.version.to_string(),
        "controlPlaneEndpoint": endpoint,
        "networking": { "podSubnet": POD_SUBNET },
    });
    if let Some(repository) = &spec.image_repository {
        cluster["imageRepository"] = json!(repository);
    }
    let mut init = json!({
        "apiVersion": api,
        "kind": "InitConfiguration",
        "localAPIEndpoint": { "advertiseAddress": address },
    });
    if spec.shape == Shape::Tke {
        tke::configure(&mut cluster, &mut init, address);
    }
    // A disk more than 85 % full makes a kubelet delete images that no pod uses yet, and a machine that runs a lab often
    // is that full.
    let mut kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "imagefs.available": "0%",
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
        },
    });
    if spec.runtime != Runtime::Docker {
        // containerd's own choice; kubeadm's would be systemd from 1.22 on.
        kubelet["cgroupDriver"] = json!("cgroupfs");
    }
    if refuses_cgroup_v1(spec.version) && Cgroup::here() == Cgroup::V1 {
        kubelet["failCgroupV1"] = json!(false);
    }
    // In a container the size of the kernel's connection table cannot be set; 0 leaves it alone.
    let proxy = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clusterCIDR": POD_SUBNET,
        "conntrack": { "maxPerCore": 0 },
    });
    documents(&[cluster, init, kubelet, proxy])
}

/// The flag that makes a `kubeadm join` one of a control plane.
pub fn control_plane_flag(version: Version) -> &'static str {
    if version.minor < 15 {
        "--experimental-control-plane"
    } else {
        "--control-plane"
    }
}

/// The flag that makes `kubeadm init` store the certificates for other masters.
pub fn upload_certs_flag(version: Version) -> &'static str {
    if version.minor < 15 {
        "--experimental-upload-certs"
    } else {
        "--upload-certs"
    }
}

/// kubeadm's checks that this machine fails although a cluster runs on it: up to 1.17 kernels from 5.0 on are unknown to
/// it, and from 1.35 on it wants cgroup v2, whatever the kubelets are told.
pub fn ignored_checks(version: Version) -> &'static str {
    let wants_v2 = refuses_cgroup_v1(version) && Cgroup::here() == Cgroup::V1;
    if version.minor < 18 || wants_v2 {
        "--ignore-preflight-errors=SystemVerification"
    } else {
        ""
    }
}

/// Whether a kubelet does not start on cgroup v1 unless its configuration lets it.
fn refuses_cgroup_v1(version: Version) -> bool {
    version.minor >= 35
}

fn api_version(version: Version) -> &'static str {
    match version.minor {
        ..=14 => "v1beta1",
        15..=21 => "v1beta2",
        22..=30 => "v1beta3",
        31.. => "v1beta4",
    }
}

fn documents(values: &[Value]) -> String {
    values
        .iter()
        .map(|value| format!("{value:#}\n"))
        .collect::<Vec<_>>()
        .join("---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_get_the_names_that_kubeadm_makes_of_a_repository() {
        let version = "v1.34.4".parse().expect("a version");
        let (own, plain) = (ClusterSpec::of(version), ClusterSpec::plain(version));
        for (name, in_own) in [
            (
                "registry.k8s.io/pause:3.10.1",
                "registry.example.internal/k8s/pause:3.10.1",
            ),
            (
                "registry.k8s.io/coredns/coredns:v1.12.1",
                "registry.example.internal/k8s/coredns:v1.12.1",
            ),
            ("kpot.lab/busybox:1.35.0", "kpot.lab/busybox:1.35.0"),
        ] {
            assert_eq!(own.image_name(name, "registry.k8s.io"), in_own);
            assert_eq!(plain.image_name(name, "registry.k8s.io"), name);
        }
    }

    #[test]
    fn kubelets_make_their_cgroups_as_containerd_does() {
        let spec = ClusterSpec::plain("v1.34.4".parse().expect("a version"));
        let config = |spec| init_config(&spec, "10.77.0.11:6443", "10.77.0.11");
        assert!(!config(spec.clone()).contains("cgroupDriver"));
        let containerd = Runtime::Containerd {
            version: "2.1.4".to_owned(),
        };
        let text = config(spec.run_by(containerd));
        assert!(text.contains("\"cgroupDriver\": \"cgroupfs\""), "{text}");
        assert!(text.contains("kubeadm.k8s.io/v1beta4"), "{text}");
    }

    #[test]
    fn documents_are_separate_and_versioned() {
        let spec = ClusterSpec {
            image_repository: Some("registry.example.internal/k8s".to_owned()),
            ..ClusterSpec::plain("v1.14.0".parse().expect("a version"))
        };
        let text = init_config(&spec, "10.77.0.11:6443", "10.77.0.11");
        let parts: Vec<Value> = text
            .split("---\n")
            .map(|part| serde_json::from_str(part).expect("JSON"))
            .collect();
        assert_eq!(parts.len(), 4);
        assert_eq!(parts[0]["apiVersion"], "kubeadm.k8s.io/v1beta1");
        assert_eq!(parts[0]["imageRepository"], "registry.example.internal/k8s");
        let newer = ClusterSpec::plain("v1.20.2".parse().expect("a version"));
        assert!(
            init_config(&newer, "api.lab.internal:6443", "10.77.0.11")
                .contains("kubeadm.k8s.io/v1beta2")
        );
        assert!(
            !init_config(&newer, "api.lab.internal:6443", "10.77.0.11").contains("imageRepository")
        );
    }
}
