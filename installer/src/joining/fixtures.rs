//! A small healthy cluster of two masters, a third machine that joins it, and a pot that fits, for tests.

use std::rc::Rc;

use bundle_spec::manifest::{Runtime, RuntimeName, Windows};
use bundle_spec::{Arch, KubeVersion, Manifest};

use super::Joining;
use crate::control_plane::announced::Endpoint;
use crate::control_plane::etcd::{Member, MemberId};
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::images::{MissingImage, PodNetwork};
use crate::control_plane::kubeadm::{ClusterConfiguration, KubeletConfiguration};
use crate::control_plane::objects::Node;
use crate::runtime::Runtime as RuntimeHere;

/// A master that is Ready, with the addresses that a kubelet lists.
pub fn node(name: &str, address: &str) -> Node {
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","labels":{{"node-role.kubernetes.io/master":""}}}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}},{{"type":"Hostname","address":"{name}"}}],"conditions":[{{"type":"Ready","status":"True"}}],"nodeInfo":{{"containerRuntimeVersion":"docker://20.10.24","kubeletVersion":"v1.14.0"}}}}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

/// A member that votes.
pub fn member(id: u64, name: &str, address: &str) -> Member {
    Member {
        id: MemberId(id),
        name: name.to_owned(),
        peer_urls: vec![format!("https://{address}:2380")],
        client_urls: vec![format!("https://{address}:2379")],
        is_learner: false,
        healthy: true,
    }
}

/// The cluster.
pub fn cluster() -> ClusterFacts {
    ClusterFacts {
        version: KubeVersion::new(1, 14, 0),
        healthy: node("m1", "10.0.0.11"),
        nodes: vec![node("m1", "10.0.0.11"), node("m2", "10.0.0.12")],
        kubeadm: Some("v1.14.0".to_owned()),
        etcd: None,
        members: vec![member(1, "m1", "10.0.0.11"), member(2, "m2", "10.0.0.12")],
        alarms: vec![],
        config: ClusterConfiguration {
            certificates_dir: "/etc/kubernetes/pki".to_owned(),
            image_repository: "k8s.gcr.io".to_owned(),
            control_plane_endpoint: "10.0.0.11:6443".to_owned(),
            ..ClusterConfiguration::default()
        },
        config_text: "kind: ClusterConfiguration\n".to_owned(),
        api_endpoints: vec![("m1".to_owned(), "10.0.0.11".to_owned())],
        kubelet: KubeletConfiguration::default(),
        endpoint: Endpoint {
            host: "10.0.0.11".to_owned(),
            port: 6443,
            resolved_there: vec![],
        },
        apiserver_port: 6443,
        advertised: None,
        ca_certificate: vec![],
        announced_cas: 1,
        ca_hash: "sha256:aa".to_owned(),
        cgroup_driver: "cgroupfs".to_owned(),
        runtime: "docker://20.10.24".to_owned(),
        cri_socket: "/var/run/dockershim.sock".to_owned(),
        daemon_sets: vec![],
        healthy_has_cni: true,
        extra_paths: vec![],
        missing_shared: vec![],
        missing_etcd_files: vec![],
        clock_skew: 0.2,
        uploaded_certs: None,
        barriers: vec![],
        unrecorded: vec![],
    }
}

/// What its pod network asks of a new master.
pub fn network() -> PodNetwork {
    PodNetwork {
        given_by: vec!["kube-system/flannel".to_owned()],
        images: vec![MissingImage {
            name: "flannel:1".to_owned(),
            needed_by: "DaemonSet kube-system/flannel".to_owned(),
        }],
        others: vec![],
        always_pulled: vec![],
    }
}

/// A pot whose images have these names.
pub fn manifest(names: &[&str]) -> Manifest {
    use bundle_spec::Sha256;
    use bundle_spec::manifest::{Blob, Encoding, Image};
    let images: Vec<Image> = names
        .iter()
        .map(|name| {
            let id = Sha256::of(name.as_bytes());
            Image {
                names: vec![(*name).to_owned()],
                id,
                config: id,
                layers: vec![],
                manifest: None,
            }
        })
        .collect();
    let blob = |image: &Image| Blob {
        digest: image.id,
        size: 1,
        encoding: Encoding::Identity,
        unpacked_digest: image.id,
        unpacked_size: 1,
    };
    Manifest {
        format: 1,
        name: "pot".to_owned(),
        serial: 1,
        kubernetes: KubeVersion::new(1, 14, 0),
        arch: Arch::Amd64,
        runtime: Runtime {
            name: RuntimeName::Docker,
            version: "18.09.9".to_owned(),
        },
        cni: "v0.7.5".to_owned(),
        built_by: "0".to_owned(),
        windows: Windows::Usual,
        artifacts: vec![],
        blobs: images.iter().map(blob).collect(),
        images,
    }
}

/// A pot with everything that the cluster needs.
pub fn whole_manifest() -> Manifest {
    manifest(&[
        "flannel:1",
        "k8s.gcr.io/coredns:1",
        "k8s.gcr.io/etcd:1",
        "k8s.gcr.io/kube-apiserver:1",
        "k8s.gcr.io/kube-controller-manager:1",
        "k8s.gcr.io/kube-proxy:1",
        "k8s.gcr.io/kube-scheduler:1",
        "k8s.gcr.io/pause:1",
    ])
}

/// The third machine.
pub fn joining(cluster: Rc<ClusterFacts>) -> Joining {
    Joining {
        cluster,
        kubernetes: KubeVersion::new(1, 14, 0),
        runtime: RuntimeHere::Docker,
        node: "b1".to_owned(),
        address: "10.0.0.21".to_owned(),
        local: vec!["10.0.0.21".to_owned()],
        discovery: "10.0.0.11:6443".to_owned(),
        bridge: None,
        ignored: None,
        state: "/nowhere".into(),
    }
}
