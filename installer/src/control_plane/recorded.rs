//! What kubeadm's record of the cluster gives to a new master's pods besides what kubeadm gives to all, and where the healthy master's own pods have something else: flags that somebody
//! wrote into the manifests of every master are no flags of a new one. Everything here is pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::kubeadm::ClusterConfiguration;
use super::objects::Pod;

/// The components that kubeadm's record has a section for, and the flags that kubeadm itself gives to each in some version from 1.13 to 1.36 (cmd/kubeadm/app/phases/controlplane/manifests.go
/// and phases/etcd/local.go).
const COMPONENTS: [(&str, &[&str]); 4] = [
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
    (
        "etcd",
        &[
            "advertise-client-urls",
            "cert-file",
            "client-cert-auth",
            "data-dir",
            "experimental-initial-corrupt-check",
            "experimental-watch-progress-notify-interval",
            "feature-gates",
            "initial-advertise-peer-urls",
            "initial-cluster",
            "initial-cluster-state",
            "key-file",
            "listen-client-urls",
            "listen-metrics-urls",
            "listen-peer-urls",
            "name",
            "peer-cert-file",
            "peer-client-cert-auth",
            "peer-key-file",
            "peer-trusted-ca-file",
            "snapshot-count",
            "trusted-ca-file",
            "watch-progress-notify-interval",
        ],
    ),
];

/// Without these an API server cannot read what the others encrypted, and writes in the clear. The first is the newer name of the second.
pub(crate) const ENCRYPTION: [&str; 2] = [
    "encryption-provider-config",
    "experimental-encryption-provider-config",
];

/// How many bytes etcd's database may have, and what counts where nobody says it (server/storage/quota.go).
const QUOTA: (&str, u64) = ("quota-backend-bytes", 2 << 30);

/// The authorizers that kubeadm gives to every API server.
const AUTHORIZERS: [&str; 2] = ["Node", "RBAC"];

/// A flag of the healthy master's that a new one will not have so, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecorded {
    /// Such as `kube-apiserver`.
    pub component: &'static str,
    /// The flag's name, without dashes.
    pub flag: String,
    /// What the healthy master has; nothing where it has no such flag.
    pub own: Option<String>,
    /// What a new one gets; nothing where it gets no such flag.
    pub recorded: Option<String>,
    /// What would break, so that nothing may begin.
    pub harm: Option<Harm>,
}

/// What a master breaks that differs from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Secrets that one cannot read, or are in the clear.
    Encryption,
    /// Tokens of service accounts that the other API servers do not accept.
    Tokens,
    /// An etcd member that is full while the others are not: it stops the writes of the whole cluster.
    Quota,
}

impl Harm {
    /// What would happen, in words that follow what differs.
    pub fn told(self) -> &'static str {
        match self {
            Self::Encryption => {
                "API servers that encrypt differently cannot read each other's Secrets, or write them in the clear"
            }
            Self::Tokens => {
                "the others would not accept the tokens of service accounts that the API server here signs"
            }
            Self::Quota => {
                "the member here would be full before the others, and then no member of the cluster takes writes any more"
            }
        }
    }
}

/// What a new master gets of a flag that the record does not name.
enum Usual {
    /// Nothing is known: it differs between masters, or follows from something else in the record.
    Unknown,
    /// It gets no such flag.
    Absent,
    /// It gets this.
    Is(String),
}

impl ClusterConfiguration {
    /// A pod for each component, with nothing but what the record adds to it: flags, and volumes at their mounts.
    pub(super) fn recorded_pods(&self) -> Vec<Pod> {
        let pod = |(component, section): (&str, &Value)| {
            let flags = extra_args(&section["extraArgs"]).into_iter();
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

    /// The sections of those that have volumes besides, too.
    fn sections(&self) -> [(&'static str, &Value); 3] {
        let sections = [&self.api_server, &self.controller_manager, &self.scheduler];
        std::array::from_fn(|at| (COMPONENTS[at].0, sections[at]))
    }

    /// The extra arguments of each component, as they are stored.
    fn all_extra_args(&self) -> [&Value; 4] {
        let etcd = self.etcd.local.as_ref();
        let [api_server, controller_manager, scheduler] =
            self.sections().map(|(_, section)| &section["extraArgs"]);
        let etcd = etcd.map_or(&Value::Null, |etcd| &etcd.extra_args);
        [api_server, controller_manager, scheduler, etcd]
    }

    /// The flags that the healthy master's `own` pods have and a new master's will not have so, and those that only the new one will have.
    pub(super) fn unrecorded(&self, own: &[&Pod]) -> Vec<Unrecorded> {
        let mut found = Vec::new();
        for ((component, usual), extra) in COMPONENTS.into_iter().zip(self.all_extra_args()) {
            let recorded = extra_args(extra);
            let Some(pod) = own.iter().find(|pod| pod.component() == component) else {
                continue;
            };
            let flags = pod.spec.flags();
            let has = |name: &str| flags.iter().any(|(flag, _)| *flag == name);
            for (at, (name, value)) in flags.iter().enumerate() {
                if flags[..at].iter().any(|(earlier, _)| earlier == name) {
                    continue;
                }
                let known = recorded.get(*name).or_else(|| recorded.get(renamed(name)?));
                let given = match known {
                    Some(known) => Some(known.clone()),
                    None if !usual.contains(name) => None,
                    None => match self.usual(component, name) {
                        Usual::Unknown => continue,
                        Usual::Absent => None,
                        Usual::Is(usual) => Some(usual),
                    },
                };
                if given
                    .as_ref()
                    .is_some_and(|given| is_same(name, value, given))
                {
                    continue;
                }
                found.push(Unrecorded {
                    component,
                    flag: (*name).to_owned(),
                    own: Some((*value).to_owned()),
                    harm: harm(name, Some(value), given.as_deref()),
                    recorded: given,
                });
            }
            // A pod that is started by something else than its program shows no flags at all.
            let shown = recorded.iter().filter(|_| !flags.is_empty());
            let only = shown.filter(|(name, _)| !has(name) && !renamed(name).is_some_and(has));
            found.extend(only.map(|(name, value)| Unrecorded {
                component,
                flag: name.clone(),
                own: None,
                recorded: Some(value.clone()),
                harm: harm(name, None, Some(value)),
            }));
        }
        found
    }

    /// What kubeadm gives to a new master of a flag of its own.
    fn usual(&self, component: &str, name: &str) -> Usual {
        match (component, name) {
            ("kube-apiserver", "authorization-mode") => Usual::Is(AUTHORIZERS.join(",")),
            ("kube-apiserver", "enable-admission-plugins") => {
                Usual::Is("NodeRestriction".to_owned())
            }
            ("kube-apiserver", "service-account-issuer") => Usual::Is(format!(
                "https://kubernetes.default.svc.{}",
                self.dns_domain()
            )),
            ("kube-apiserver", "service-account-signing-key-file") => {
                Usual::Is(format!("{}/sa.key", self.certificates_dir))
            }
            ("kube-controller-manager", "controllers") => {
                Usual::Is("*,bootstrapsigner,tokencleaner".to_owned())
            }
            // kubeadm gives etcd gates of its own, and the others such where the record has any.
            ("etcd", "feature-gates") => Usual::Unknown,
            (_, "feature-gates") if self.feature_gates.is_empty() => Usual::Absent,
            _ => Usual::Unknown,
        }
    }

    fn dns_domain(&self) -> &str {
        self.networking["dnsDomain"]
            .as_str()
            .filter(|domain| !domain.is_empty())
            .unwrap_or("cluster.local")
    }
}

/// The other name of a flag that has two.
fn renamed(name: &str) -> Option<&'static str> {
    let at = ENCRYPTION.iter().position(|known| *known == name)?;
    Some(ENCRYPTION[1 - at])
}

/// Whether two values of a flag mean the same to a master that kubeadm makes.
fn is_same(name: &str, own: &str, given: &str) -> bool {
    let set = |list: &str| -> BTreeSet<String> {
        let parts = list.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    match name {
        // kubeadm adds those that it cannot do without.
        "authorization-mode" => {
            let with_usual = |list: &str| {
                let usual = AUTHORIZERS.map(str::to_owned);
                set(list).into_iter().chain(usual).collect::<BTreeSet<_>>()
            };
            with_usual(own) == with_usual(given)
        }
        "enable-admission-plugins" | "disable-admission-plugins" | "feature-gates" => {
            set(own) == set(given)
        }
        _ => own == given,
    }
}

/// What would break where a new master has the one and the healthy master has the other.
fn harm(name: &str, own: Option<&str>, given: Option<&str>) -> Option<Harm> {
    match name {
        _ if ENCRYPTION.contains(&name) => Some(Harm::Encryption),
        "service-account-issuer" | "service-account-signing-key-file" if own.is_some() => {
            Some(Harm::Tokens)
        }
        _ if name == QUOTA.0 => {
            let bytes = |value: Option<&str>| match value.map_or(Ok(0), str::parse) {
                Ok(0) | Err(_) => QUOTA.1,
                Ok(bytes) => bytes,
            };
            (bytes(given) < bytes(own)).then_some(Harm::Quota)
        }
        _ => None,
    }
}

/// Extra arguments: a map up to v1beta3, a list from v1beta4 on. Of one that is there twice the last one counts.
fn extra_args(stored: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match stored {
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
            pod("etcd", &["--name=m1", "--snapshot-count=10000"]),
        ];
        let own: Vec<&Pod> = pods.iter().collect();
        for yaml in [MAP, LIST] {
            let config = ClusterConfiguration::parse(yaml).unwrap();
            let found = config.unrecorded(&own);
            let told: Vec<_> = found
                .iter()
                .map(|one| {
                    let values = (one.own.as_deref(), one.recorded.as_deref());
                    (one.flag.as_str(), values, one.harm)
                })
                .collect();
            assert_eq!(
                told,
                [
                    ("profiling", (Some("true"), Some("false")), None),
                    (
                        "encryption-provider-config",
                        (Some("/etc/kubernetes/enc.yaml"), None),
                        Some(Harm::Encryption)
                    ),
                    ("v", (Some("4"), None), None),
                ],
                "{yaml}"
            );
        }
    }

    /// What differs of one component, started with `flags`, from a record with these lines.
    fn differing(component: &str, flags: &[&str], record: &str) -> Vec<(String, Option<Harm>)> {
        let pods = [pod(component, flags)];
        let own: Vec<&Pod> = pods.iter().collect();
        let config = ClusterConfiguration::parse(record).unwrap();
        let found = config.unrecorded(&own).into_iter();
        found.map(|one| (one.flag, one.harm)).collect()
    }

    #[test]
    fn encryption_differs_in_either_direction_and_under_either_name() {
        let recorded = "apiServer: {extraArgs: {encryption-provider-config: /enc/v1.yaml}}\n";
        let told = |flags: &[&str]| differing("kube-apiserver", flags, recorded);
        let harm = Some(Harm::Encryption);
        let older = "--experimental-encryption-provider-config=/enc/v1.yaml";
        assert_eq!(told(&["--encryption-provider-config=/enc/v1.yaml"]), []);
        assert_eq!(told(&[older]), []);
        let key = || "encryption-provider-config".to_owned();
        assert_eq!(
            told(&["--encryption-provider-config=/enc/v2.yaml"]),
            [(key(), harm)]
        );
        assert_eq!(told(&["--secure-port=6443"]), [(key(), harm)]);
        // Nothing is known of a pod that is started through a shell.
        assert_eq!(told(&["-c", "exec kube-apiserver"]), []);
    }

    #[test]
    fn what_kubeadm_gives_by_itself_is_compared_where_it_is_known() {
        let told = |flags: &[&str], record: &str| differing("kube-apiserver", flags, record);
        let usual = [
            "--advertise-address=10.0.0.11",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc.corp.example",
            "--service-account-signing-key-file=/srv/pki/sa.key",
        ];
        let record = "certificatesDir: /srv/pki/\nnetworking: {dnsDomain: corp.example}\n";
        assert_eq!(told(&usual, record), []);
        let edited = [
            "--authorization-mode=Node,RBAC,Webhook",
            "--enable-admission-plugins=NodeRestriction,PodSecurityPolicy",
            "--service-account-issuer=https://oidc.example",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--feature-gates=EphemeralContainers=true",
        ];
        assert_eq!(
            told(&edited, "kind: ClusterConfiguration\n"),
            [
                ("authorization-mode".to_owned(), None),
                ("enable-admission-plugins".to_owned(), None),
                ("service-account-issuer".to_owned(), Some(Harm::Tokens)),
                ("feature-gates".to_owned(), None),
            ]
        );
        let recorded = "apiServer: {extraArgs: {authorization-mode: 'Webhook', enable-admission-plugins: 'PodSecurityPolicy,NodeRestriction', service-account-issuer: 'https://oidc.example', feature-gates: EphemeralContainers=true}}\n";
        assert_eq!(told(&edited, recorded), []);
    }

    #[test]
    fn a_member_with_less_room_than_the_others_would_stop_the_cluster() {
        let told = |flags: &[&str], record: &str| differing("etcd", flags, record);
        let quota = || "quota-backend-bytes".to_owned();
        let large = ["--name=m1", "--quota-backend-bytes=8589934592"];
        let gate = ["--name=m1", "--feature-gates=InitialCorruptCheck=true"];
        assert_eq!(told(&gate, "etcd: {local: {dataDir: /var/lib/etcd}}\n"), []);
        let small = ["--name=m1", "--quota-backend-bytes=1073741824"];
        let map = "etcd: {local: {dataDir: /var/lib/etcd, extraArgs: {quota-backend-bytes: '8589934592'}}}\n";
        let list =
            "etcd: {local: {extraArgs: [{name: quota-backend-bytes, value: '8589934592'}]}}\n";
        let nothing = "etcd: {local: {dataDir: /var/lib/etcd}}\n";
        for recorded in [map, list] {
            assert_eq!(told(&large, recorded), [], "{recorded}");
            assert_eq!(told(&["--name=m1"], recorded), [(quota(), None)]);
        }
        assert_eq!(told(&large, nothing), [(quota(), Some(Harm::Quota))]);
        assert_eq!(told(&small, nothing), [(quota(), None)]);
        assert_eq!(
            told(&["--heartbeat-interval=500"], nothing),
            [("heartbeat-interval".to_owned(), None)]
        );
    }
}
