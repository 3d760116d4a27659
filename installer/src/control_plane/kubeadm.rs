//! What differs between the versions of kubeadm, in one place, and kubeadm's own records in the cluster.
//!
//! Sources: kubeadm's API types and flags at each release tag; what 1.14.0 and 1.20.2 were seen to do.

use anyhow::{Context, Result};
use bundle_spec::KubeVersion;
use serde::Deserialize;

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

/// One generation of kubeadm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The first minor of Kubernetes 1 that behaves so.
    pub from_minor: u16,
    /// The newest config API that it reads.
    pub api: &'static str,
    /// How the shared certificates travel.
    pub certificates: Certificates,
    /// The flag of `kubeadm init phase upload-certs` that makes it upload.
    pub upload_flag: &'static str,
    /// How extra arguments are written.
    pub extra_args: ExtraArgs,
}

/// Oldest first.
const GENERATIONS: [Generation; 5] = [
    Generation {
        from_minor: 13,
        api: "kubeadm.k8s.io/v1beta1",
        certificates: Certificates::Copied,
        upload_flag: "",
        extra_args: ExtraArgs::Map,
    },
    Generation {
        from_minor: 14,
        api: "kubeadm.k8s.io/v1beta1",
        certificates: Certificates::DecryptedHere,
        upload_flag: "--experimental-upload-certs",
        extra_args: ExtraArgs::Map,
    },
    Generation {
        from_minor: 15,
        api: "kubeadm.k8s.io/v1beta2",
        certificates: Certificates::KeyInConfig,
        upload_flag: "--upload-certs",
        extra_args: ExtraArgs::Map,
    },
    Generation {
        from_minor: 22,
        api: "kubeadm.k8s.io/v1beta3",
        certificates: Certificates::KeyInConfig,
        upload_flag: "--upload-certs",
        extra_args: ExtraArgs::Map,
    },
    Generation {
        from_minor: 31,
        api: "kubeadm.k8s.io/v1beta4",
        certificates: Certificates::KeyInConfig,
        upload_flag: "--upload-certs",
        extra_args: ExtraArgs::List,
    },
];

impl Generation {
    /// The generation of a version; nothing for versions before 1.13.
    pub fn of(version: KubeVersion) -> Option<Self> {
        GENERATIONS
            .iter()
            .rfind(|generation| version.major == 1 && generation.from_minor <= version.minor)
            .copied()
    }
}

/// The label that kubeadm of this version gives to a master, without a value.
pub fn master_label(version: KubeVersion) -> &'static str {
    if version.minor < 20 {
        "node-role.kubernetes.io/master"
    } else {
        "node-role.kubernetes.io/control-plane"
    }
}

/// The ConfigMap in kube-system that holds the cluster's kubelet configuration.
pub fn kubelet_config_map(version: KubeVersion) -> String {
    if version.minor < 24 {
        format!("kubelet-config-{}.{}", version.major, version.minor)
    } else {
        "kubelet-config".to_owned()
    }
}

/// The CRI socket that kubeadm is given for the runtime in the pot.
pub fn docker_socket() -> &'static str {
    "/var/run/dockershim.sock"
}

/// kubeadm's `ClusterConfiguration`, as far as a join needs to know it. Field names are kubeadm's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterConfiguration {
    /// Such as `v1.14.0`.
    pub kubernetes_version: String,
    /// `HOST:PORT`, or empty.
    pub control_plane_endpoint: String,
    /// Normally `/etc/kubernetes/pki`.
    pub certificates_dir: String,
    /// Such as `k8s.gcr.io`.
    pub image_repository: String,
    /// etcd's place and overrides.
    pub etcd: EtcdSection,
    /// CoreDNS's overrides.
    pub dns: Dns,
}

/// etcd in kubeadm's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdSection {
    /// Stacked etcd.
    pub local: Option<LocalEtcd>,
    /// etcd that kubeadm does not manage.
    pub external: Option<ExternalEtcd>,
}

impl EtcdSection {
    /// The folder of a stacked etcd's data.
    pub fn data_dir(&self) -> &str {
        match &self.local {
            Some(local) if !local.data_dir.is_empty() => local.data_dir.trim_end_matches('/'),
            _ => "/var/lib/etcd",
        }
    }
}

/// Stacked etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalEtcd {
    /// Normally `/var/lib/etcd`.
    pub data_dir: String,
    /// Overrides the cluster's repository.
    pub image_repository: String,
    /// Overrides kubeadm's own tag.
    pub image_tag: String,
}

/// etcd that kubeadm does not manage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalEtcd {
    /// The client certificate, on every master.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// The CA of the servers.
    pub ca_file: String,
}

/// DNS: what it is, and an override of its image's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Dns {
    /// `CoreDNS`, or up to 1.20 `kube-dns`; empty for the former.
    #[serde(rename = "type")]
    pub kind: String,
    /// Overrides the cluster's repository.
    pub image_repository: String,
    /// Overrides kubeadm's own tag.
    pub image_tag: String,
}

impl ClusterConfiguration {
    /// Reads the `ClusterConfiguration` of the ConfigMap `kubeadm-config`; fields that are not needed here are passed over.
    pub fn parse(yaml: &str) -> Result<Self> {
        let mut config: Self =
            serde_saphyr::from_str(yaml).context("the cluster's kubeadm-config does not parse")?;
        if config.certificates_dir.is_empty() {
            "/etc/kubernetes/pki".clone_into(&mut config.certificates_dir);
        }
        Ok(config)
    }
}

/// kubeadm's `ClusterStatus`, which versions up to 1.21 keep beside the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    api_endpoints: std::collections::BTreeMap<String, ApiEndpoint>,
}

/// A master in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ApiEndpoint {
    advertise_address: String,
}

impl ClusterStatus {
    /// The names of the masters in it, with their addresses; none where there is no such record.
    pub fn masters(yaml: Option<&String>) -> Result<Vec<(String, String)>> {
        let Some(yaml) = yaml else {
            return Ok(Vec::new());
        };
        let status: Self =
            serde_saphyr::from_str(yaml).context("the cluster's ClusterStatus does not parse")?;
        let named = |(name, endpoint): (String, ApiEndpoint)| (name, endpoint.advertise_address);
        Ok(status.api_endpoints.into_iter().map(named).collect())
    }
}

/// A `ClusterStatus` without the master `name`, as JSON, which is YAML; nothing where it does not name that master.
pub fn without_endpoint(yaml: &str, name: &str) -> Result<Option<String>> {
    let mut status: serde_json::Value =
        serde_saphyr::from_str(yaml).context("the cluster's ClusterStatus does not parse")?;
    let endpoints = status["apiEndpoints"].as_object_mut();
    Ok(endpoints
        .and_then(|endpoints| endpoints.remove(name))
        .map(|_| status.to_string()))
}

/// The kubelet's configuration, as far as a join needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletConfiguration {
    /// `cgroupfs` or `systemd`; empty where kubeadm passes it as a flag (up to 1.20).
    pub cgroup_driver: String,
    /// Whether the kubelet refuses to run on cgroup v1; where it is absent, versions from 1.35 on do.
    #[serde(rename = "failCgroupV1")]
    pub fail_cgroup_v1: Option<bool>,
    /// Percent of the image file system from which images are deleted.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Option<u8>,
    /// Signals and thresholds, such as `imagefs.available: 15%`.
    pub eviction_hard: std::collections::BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(minor: u16) -> KubeVersion {
        KubeVersion::new(1, minor, 0)
    }

    #[test]
    fn only_the_named_endpoint_is_cut_out() {
        let status = "apiEndpoints:\n  b1:\n    advertiseAddress: 10.77.0.21\n    bindPort: 6443\n  m1:\n    advertiseAddress: 10.77.0.11\n    bindPort: 6443\napiVersion: kubeadm.k8s.io/v1beta1\nkind: ClusterStatus\n";
        let kept = without_endpoint(status, "b1").unwrap().unwrap();
        assert_eq!(
            ClusterStatus::masters(Some(&kept)).unwrap(),
            [("m1".to_owned(), "10.77.0.11".to_owned())]
        );
        assert!(
            kept.contains("\"kind\":\"ClusterStatus\"") && kept.contains("\"bindPort\":6443"),
            "{kept}"
        );
        assert_eq!(without_endpoint(status, "b").unwrap(), None);
        assert_eq!(
            without_endpoint("kind: ClusterStatus\n", "b1").unwrap(),
            None
        );
    }

    #[test]
    fn every_minor_has_the_config_api_of_its_generation() {
        assert_eq!(Generation::of(version(12)), None);
        let expected = [
            (13..=14, "v1beta1"),
            (15..=21, "v1beta2"),
            (22..=30, "v1beta3"),
            (31..=36, "v1beta4"),
        ];
        for (minors, api) in expected {
            for minor in minors {
                assert_eq!(
                    Generation::of(version(minor)).unwrap().api,
                    format!("kubeadm.k8s.io/{api}"),
                    "1.{minor}"
                );
            }
        }
        assert_eq!(
            Generation::of(version(13)).unwrap().certificates,
            Certificates::Copied
        );
        assert_eq!(
            Generation::of(version(14)).unwrap().certificates,
            Certificates::DecryptedHere
        );
        assert_eq!(
            Generation::of(version(15)).unwrap().certificates,
            Certificates::KeyInConfig
        );
    }

    #[test]
    fn a_real_cluster_configuration_is_read() {
        // As kubeadm 1.14.0 wrote it, with two overrides.
        let config = ClusterConfiguration::parse(
            "apiServer:\n  extraArgs:\n    authorization-mode: Node,RBAC\n  timeoutForControlPlane: 4m0s\napiVersion: kubeadm.k8s.io/v1beta1\ncertificatesDir: /etc/kubernetes/pki\nclusterName: kubernetes\ncontrolPlaneEndpoint: 10.77.0.11:6443\ncontrollerManager: {}\ndns:\n  type: CoreDNS\netcd:\n  local:\n    dataDir: /var/lib/etcd\n    imageTag: 3.3.15-0\nimageRepository: registry.example.com/k8s\nkind: ClusterConfiguration\nkubernetesVersion: v1.14.0\nnetworking:\n  dnsDomain: cluster.local\n  podSubnet: 10.244.0.0/16\n  serviceSubnet: 10.96.0.0/12\nscheduler: {}\n",
        )
        .unwrap();
        assert_eq!(config.kubernetes_version, "v1.14.0");
        assert_eq!(config.image_repository, "registry.example.com/k8s");
        assert_eq!(config.etcd.local.unwrap().image_tag, "3.3.15-0");
        assert_eq!(config.etcd.external, None);
    }
}
