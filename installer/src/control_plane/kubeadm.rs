//! kubeadm's own records in the cluster, in every config API from v1beta1 to v1beta4.
//!
//! What is read here is written alike in all of them; what is not (extra arguments, times) is passed over.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::facts::ETCD_DATA;

/// What an operator types to change kubeadm's record of the cluster.
pub(crate) const EDIT_RECORD: &str =
    "kubectl --namespace kube-system edit configmap kubeadm-config";

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
    /// What the API server's pods get besides, as it is stored: its form differs between versions.
    pub api_server: Value,
    /// The same of the controller manager's.
    pub controller_manager: Value,
    /// The same of the scheduler's.
    pub scheduler: Value,
    /// The networks, and the domain of Services, as they are stored.
    pub networking: Value,
    /// kubeadm's feature gates, where the cluster sets any.
    pub feature_gates: BTreeMap<String, bool>,
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
    /// The folder of a stacked etcd's data; nothing where etcd is external: whatever lies on a master then is not Kubernetes' own, even if that etcd runs beside it.
    pub fn data_dir(&self) -> Option<&str> {
        match (&self.external, &self.local) {
            (Some(_), _) => None,
            (None, Some(local)) if !local.data_dir.is_empty() => {
                Some(local.data_dir.trim_end_matches('/'))
            }
            (None, _) => Some(ETCD_DATA),
        }
    }

    /// The folder in there that a member makes.
    pub fn member_dir(&self) -> Option<String> {
        self.data_dir().map(|data| format!("{data}/member"))
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
    /// The flags that etcd gets besides, as they are stored: their form differs between versions.
    pub extra_args: Value,
}

/// etcd that kubeadm does not manage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalEtcd {
    /// Where it answers: `https://HOST:2379`.
    pub endpoints: Vec<String>,
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
        let certificates_dir = config.certificates_dir.trim_end_matches('/');
        config.certificates_dir = match certificates_dir {
            "" => "/etc/kubernetes/pki",
            given => given,
        }
        .to_owned();
        Ok(config)
    }
}

/// What every kubeadm master has in its folder of certificates.
pub(crate) const CERTIFICATES: [&str; 12] = [
    "ca.crt",
    "ca.key",
    "sa.key",
    "sa.pub",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "apiserver.crt",
    "apiserver.key",
    "apiserver-kubelet-client.crt",
    "apiserver-kubelet-client.key",
    "front-proxy-client.crt",
    "front-proxy-client.key",
];

/// The same, where etcd runs on the masters.
pub(crate) const ETCD_CERTIFICATES: [&str; 10] = [
    "apiserver-etcd-client.crt",
    "apiserver-etcd-client.key",
    "etcd/ca.crt",
    "etcd/ca.key",
    "etcd/server.crt",
    "etcd/server.key",
    "etcd/peer.crt",
    "etcd/peer.key",
    "etcd/healthcheck-client.crt",
    "etcd/healthcheck-client.key",
];

/// Whether a file in the folder of certificates is one that kubeadm makes, or hands to every master, by its name. People put files of their own beside them.
pub(crate) fn is_certificate(name: &str) -> bool {
    CERTIFICATES
        .iter()
        .chain(&ETCD_CERTIFICATES)
        .any(|known| *known == name)
}

/// kubeadm's `ClusterStatus`, which versions up to 1.21 keep beside the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    api_endpoints: BTreeMap<String, ApiEndpoint>,
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
    let mut status: Value =
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
    /// `cgroupfs` or `systemd`; empty where kubeadm decides at each join (see [`crate::kubernetes::CgroupDriverRule`]).
    pub cgroup_driver: String,
    /// Whether the kubelet refuses to run on cgroup v1; where it is absent, versions from 1.35 on do.
    #[serde(rename = "failCgroupV1")]
    pub fail_cgroup_v1: Option<bool>,
    /// Percent of the image file system from which images are deleted.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Option<u8>,
    /// Signals and thresholds, such as `imagefs.available: 15%`.
    pub eviction_hard: BTreeMap<String, String>,
    /// The file that the DNS configuration of pods is made from; empty is none.
    pub resolv_conf: Option<String>,
    /// Whether the kubelet demands sysctls that it else sets.
    pub protect_kernel_defaults: bool,
    /// What is held to its reserved resources: `pods`, `kube-reserved`, `system-reserved`.
    pub enforce_node_allocatable: Vec<String>,
    /// The cgroup of `kube-reserved`.
    pub kube_reserved_cgroup: String,
    /// The cgroup of `system-reserved`.
    pub system_reserved_cgroup: String,
    /// The certificate that the kubelet serves with, where it makes none by itself.
    pub tls_cert_file: String,
    /// Its key.
    pub tls_private_key_file: String,
    /// Who may ask it.
    pub authentication: KubeletAuthentication,
}

/// Who may ask a kubelet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletAuthentication {
    /// By certificates.
    pub x509: KubeletX509,
}

/// By which CA's certificates a kubelet lets in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletX509 {
    /// The file with the CA.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn every_config_api_is_read() {
        // As kubeadm 1.34.4 marshals v1beta4 (cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go), with an override and extra arguments.
        let newest = ClusterConfiguration::parse(
            "apiServer:\n  extraArgs:\n  - name: audit-log-path\n    value: /var/log/audit.log\n  - name: authorization-mode\n    value: Node,RBAC\napiVersion: kubeadm.k8s.io/v1beta4\ncaCertificateValidityPeriod: 87600h0m0s\ncertificateValidityPeriod: 8760h0m0s\ncertificatesDir: /etc/kubernetes/pki\nclusterName: kubernetes\ncontrolPlaneEndpoint: 10.77.0.10:6443\ncontrollerManager:\n  extraArgs:\n  - name: node-cidr-mask-size\n    value: \"24\"\ndns:\n  imageRepository: registry.example.com/dns\nencryptionAlgorithm: RSA-2048\netcd:\n  local:\n    dataDir: /var/lib/etcd\n    extraArgs:\n    - name: quota-backend-bytes\n      value: \"8589934592\"\n    imageTag: 3.6.5-0\nimageRepository: registry.k8s.io\nkind: ClusterConfiguration\nkubernetesVersion: v1.34.4\nnetworking:\n  dnsDomain: cluster.local\n  podSubnet: 10.244.0.0/16\n  serviceSubnet: 10.96.0.0/12\nproxy: {}\nscheduler: {}\n",
        )
        .unwrap();
        assert_eq!(newest.kubernetes_version, "v1.34.4");
        let slashed = ClusterConfiguration::parse("certificatesDir: /data/pki/\n").unwrap();
        assert_eq!(slashed.certificates_dir, "/data/pki");
        assert_eq!(newest.dns.kind, "");
        assert_eq!(newest.dns.image_repository, "registry.example.com/dns");
        assert_eq!(newest.etcd.data_dir(), Some("/var/lib/etcd"));
        assert_eq!(newest.etcd.local.unwrap().image_tag, "3.6.5-0");
        let gated = ClusterConfiguration::parse(
            "apiVersion: kubeadm.k8s.io/v1beta3\nfeatureGates:\n  EtcdLearnerMode: true\nkind: ClusterConfiguration\n",
        )
        .unwrap();
        assert_eq!(gated.feature_gates.get("EtcdLearnerMode"), Some(&true));
        assert_eq!(gated.certificates_dir, "/etc/kubernetes/pki");
    }
}
