//! What kubeadm's record of the cluster gives to a new master's pods besides what kubeadm gives to all, and where the healthy master's own pods have something else: flags that somebody
//! wrote into the manifests of every master are no flags of a new one. Everything here is pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kubeadm::ClusterConfiguration;
use super::objects::Pod;

/// The components that kubeadm's record has a section for, and the flags that kubeadm itself gives to each in some version from 1.13 to 1.36 (cmd/kubeadm/app/phases/controlplane/manifests.go).
const COMPONENTS: [(&str, &[&str]); 3] = [
    (
        "kube-apiserver",
        &[
            "advertise-address",
            "allow-privileged",
            "authorization-mode",
            "client-ca-file",
            "disable-admission-plugins",
            "enable-admission-plugins",
            "enable-bootstrap-token-auth",
            "etcd-cafile",
            "etcd-certfile",
            "etcd-keyfile",
            "etcd-servers",
            "feature-gates",
            "insecure-port",
            "kubelet-client-certificate",
            "kubelet-client-key",
            "kubelet-preferred-address-types",
            "proxy-client-cert-file",
            "proxy-client-key-file",
            "requestheader-allowed-names",
            "requestheader-client-ca-file",
            "requestheader-extra-headers-prefix",
            "requestheader-group-headers",
            "requestheader-uid-headers",
            "requestheader-username-headers",
            "secure-port",
            "service-account-issuer",
            "service-account-key-file",
            "service-account-signing-key-file",
            "service-cluster-ip-range",
            "tls-cert-file",
            "tls-private-key-file",
        ],
    ),
    (
        "kube-controller-manager",
        &[
            "address",
            "allocate-node-cidrs",
            "authentication-kubeconfig",
            "authorization-kubeconfig",
            "bind-address",
            "client-ca-file",
            "cluster-cidr",
            "cluster-name",
            "cluster-signing-cert-file",
            "cluster-signing-duration",
            "cluster-signing-key-file",
            "controllers",
            "experimental-cluster-signing-duration",
            "feature-gates",
            "kubeconfig",
            "leader-elect",
            "node-cidr-mask-size",
            "node-cidr-mask-size-ipv4",
            "node-cidr-mask-size-ipv6",
            "port",
            "requestheader-client-ca-file",
            "root-ca-file",
            "service-account-private-key-file",
            "service-cluster-ip-range",
            "use-service-account-credentials",
        ],
    ),
    (
        "kube-scheduler",
        &[
            "address",
            "authentication-kubeconfig",
            "authorization-kubeconfig",
            "bind-address",
            "feature-gates",
            "kubeconfig",
            "leader-elect",
            "port",
        ],
    ),
];

/// Without these an API server cannot read what the others encrypted, and writes in the clear.
const ENCRYPTION: [&str; 2] = [
    "encryption-provider-config",
    "experimental-encryption-provider-config",
];

/// A flag of the healthy master's that kubeadm's record lacks, or has with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecorded {
    /// Such as `kube-apiserver`.
    pub component: &'static str,
    /// Its flag, such as `--profiling=false`.
    pub flag: String,
    /// What the record has instead; nothing where it has no such flag.
    pub recorded: Option<String>,
    /// Whether data are encrypted by it.
    pub encrypts: bool,
}

impl ClusterConfiguration {
    /// A pod for each component, with nothing but what the record adds to it: flags, and volumes at their mounts.
    pub(super) fn recorded_pods(&self) -> Vec<Pod> {
        let pod = |(component, section): (&str, &Value)| {
            let flags = extra_args(section).into_iter();
            let flags = flags.map(|(name, value)| format!("--{name}={value}"));
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let volumes = section["extraVolumes"].as_array().into_iter().flatten();
            let (volumes, mounts): (Vec<Value>, Vec<Value>) = volumes
                .map(|volume| {
                    let name = text(&volume["name"]);
                    (
                        json!({ "name": name, "hostPath": { "path": text(&volume["hostPath"]) } }),
                        json!({ "name": name, "mountPath": text(&volume["mountPath"]) }),
                    )
                })
                .unzip();
            let pod = json!({
                "metadata": { "name": component, "labels": { "component": component } },
                "spec": {
                    "containers": [{ "command": flags.collect::<Vec<_>>(), "volumeMounts": mounts }],
                    "volumes": volumes,
                },
            });
            serde_json::from_value(pod).unwrap_or_default()
        };
        self.sections().into_iter().map(pod).collect()
    }

    fn sections(&self) -> [(&'static str, &Value); 3] {
        let sections = [&self.api_server, &self.controller_manager, &self.scheduler];
        std::array::from_fn(|at| (COMPONENTS[at].0, sections[at]))
    }

    /// The flags of the healthy master's `own` pods that a new master will not have.
    pub(super) fn unrecorded(&self, own: &[&Pod]) -> Vec<Unrecorded> {
        let mut found = Vec::new();
        for ((component, section), (_, usual)) in self.sections().into_iter().zip(COMPONENTS) {
            let recorded = extra_args(section);
            let Some(pod) = own.iter().find(|pod| pod.component() == component) else {
                continue;
            };
            for (name, value) in pod.spec.flags() {
                let known = recorded.get(name);
                // kubeadm adds what it cannot do without.
                let same =
                    known.is_some_and(|known| known == value || name == "authorization-mode");
                if same || (known.is_none() && usual.contains(&name)) {
                    continue;
                }
                found.push(Unrecorded {
                    component,
                    flag: format!("--{name}={value}"),
                    recorded: known.cloned(),
                    encrypts: known.is_none() && ENCRYPTION.contains(&name),
                });
            }
        }
        found
    }
}

/// The extra arguments of a section: a map up to v1beta3, a list from v1beta4 on. Of one that is there twice the last one counts.
fn extra_args(section: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match &section["extraArgs"] {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        Value::Array(list) => list
            .iter()
            .filter_map(|one| Some((one["name"].as_str()?.to_owned(), text(&one["value"]))))
            .collect(),
        _ => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::extra_paths::extra_paths;

    fn pod(component: &str, flags: &[&str]) -> Pod {
        let json = json!({
            "metadata": { "labels": { "component": component } },
            "spec": { "containers": [{ "command": ([&[component], flags].concat()) }] },
        });
        serde_json::from_value(json).unwrap()
    }

    const MAP: &str = "apiServer:\n  extraArgs:\n    audit-policy-file: /audit/policy.yaml\n    profiling: false\n  extraVolumes:\n  - hostPath: /srv/audit\n    mountPath: /audit\n    name: audit\n    pathType: Directory\n";
    const LIST: &str = "apiServer:\n  extraArgs:\n  - name: audit-policy-file\n    value: /audit/policy.yaml\n  - name: profiling\n    value: \"false\"\n  extraVolumes:\n  - hostPath: /srv/audit\n    mountPath: /audit\n    name: audit\nscheduler: {}\n";

    #[test]
    fn what_the_record_alone_names_is_found_in_both_forms() {
        for yaml in [MAP, LIST] {
            let config = ClusterConfiguration::parse(yaml).unwrap();
            let pods = config.recorded_pods();
            let pods: Vec<&Pod> = pods.iter().collect();
            let found = extra_paths(&pods, "/etc/kubernetes/pki");
            let paths: Vec<&str> = found.iter().map(|extra| extra.path.as_str()).collect();
            assert_eq!(paths, ["/srv/audit", "/srv/audit/policy.yaml"], "{yaml}");
        }
        let nothing = ClusterConfiguration::parse("kind: ClusterConfiguration\n").unwrap();
        let pods = nothing.recorded_pods();
        let pods: Vec<&Pod> = pods.iter().collect();
        assert_eq!(extra_paths(&pods, "/etc/kubernetes/pki"), []);
    }

    #[test]
    fn flags_that_only_the_manifests_have_are_told() {
        let api_server = [
            "--advertise-address=10.0.0.11",
            "--audit-policy-file=/audit/policy.yaml",
            "--profiling=true",
            "--encryption-provider-config",
            "/etc/kubernetes/enc.yaml",
        ];
        let pods = [
            pod("kube-apiserver", &api_server),
            pod("kube-scheduler", &["--leader-elect=true", "--v=4"]),
            pod("etcd", &["--name=m1"]),
        ];
        let own: Vec<&Pod> = pods.iter().collect();
        for yaml in [MAP, LIST] {
            let config = ClusterConfiguration::parse(yaml).unwrap();
            let found = config.unrecorded(&own);
            let told: Vec<_> = found
                .iter()
                .map(|one| (one.flag.as_str(), one.recorded.as_deref(), one.encrypts))
                .collect();
            assert_eq!(
                told,
                [
                    ("--profiling=true", Some("false"), false),
                    (
                        "--encryption-provider-config=/etc/kubernetes/enc.yaml",
                        None,
                        true
                    ),
                    ("--v=4", None, false),
                ],
                "{yaml}"
            );
        }
    }
}
