//! What a healthy master tells about its cluster, gathered once, before anything is decided.
//!
//! Gathering changes nothing and judges nothing, apart from what makes gathering impossible: no kubectl, no administrator's credentials, an apiserver that does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use bundle_spec::KubeVersion;
use serde::Deserialize;

use super::alarms::Alarm;
use super::announced::{CLUSTER_INFO, Endpoint, authority, ca_path, endpoint};
use super::bootstrap::{self, Barrier};
use super::containers::{KUBELET_FLAGS, cri_socket, cri_socket_question, kubelet_flag, listing};
use super::etcd::{Etcd, Member};
use super::extra_paths::{ExtraPath, extra_paths};
use super::kubeadm::{ClusterConfiguration, ClusterStatus, KubeletConfiguration};
use super::objects::{DaemonSet, Data, List, Node, Pod};
use super::recorded::Unrecorded;
use super::{ADMIN_CONF, ClusterView, UPLOADED_CERTS, credentials};
use crate::facts::configures_network;
use crate::host::command::Cmd;
use crate::host::remote::RemoteView;
use crate::kubernetes::{CgroupDriverRule, Traits};
use crate::runtime::Runtime;

/// See the module.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    /// The apiserver's version.
    pub version: KubeVersion,
    /// The healthy master's node.
    pub healthy: Node,
    /// Every node.
    pub nodes: Vec<Node>,
    /// kubeadm's version on the healthy master; nothing where it has none.
    pub kubeadm: Option<String>,
    /// How to ask etcd; nothing where it is external.
    pub etcd: Option<Etcd>,
    /// etcd's members with their health; empty where it is external.
    pub members: Vec<Member>,
    /// etcd's alarms; empty where it is external.
    pub alarms: Vec<Alarm>,
    /// kubeadm's configuration of the cluster.
    pub config: ClusterConfiguration,
    /// The same as it is stored.
    pub config_text: String,
    /// The masters that kubeadm's `ClusterStatus` knows, by name and address (up to 1.21): it asks the etcd of every one of them at a join.
    pub api_endpoints: Vec<(String, String)>,
    /// The kubelet's configuration of the cluster.
    pub kubelet: KubeletConfiguration,
    /// Where the cluster's apiservers are reached.
    pub endpoint: Endpoint,
    /// The port of the healthy master's own apiserver.
    pub apiserver_port: u16,
    /// The address that it advertises, for which its certificate is valid; nothing where its pod does not tell. The Node may have another one, of another network.
    pub advertised: Option<IpAddr>,
    /// The CA certificate, PEM, as the healthy master has it.
    pub ca_certificate: Vec<u8>,
    /// How many CA certificates the ConfigMap cluster-info announces.
    pub announced_cas: usize,
    /// `sha256:…` of the CA's SubjectPublicKeyInfo; equal on the healthy master and in cluster-info.
    pub ca_hash: String,
    /// `cgroupfs` or `systemd`: what a kubelet that joins this cluster gets, which its runtime must have as well.
    pub cgroup_driver: String,
    /// Such as `docker://20.10.24`.
    pub runtime: String,
    /// Where the healthy master's runtime listens, as kubeadm there is told it.
    pub cri_socket: String,
    /// The DaemonSets, for finding out what a new master must run.
    pub daemon_sets: Vec<DaemonSet>,
    /// Whether the healthy master has CNI configuration.
    pub healthy_has_cni: bool,
    /// Files that the control plane's pods need besides kubeadm's own.
    pub extra_paths: Vec<ExtraPath>,
    /// The certificates and keys that masters share, which the healthy master lacks: their paths.
    pub missing_shared: Vec<String>,
    /// The client files of an external etcd that the healthy master lacks.
    pub missing_etcd_files: Vec<String>,
    /// Seconds that this machine's clock is ahead of the healthy master's.
    pub clock_skew: f64,
    /// When the Secret `kubeadm-certs` was made (RFC 3339), where it exists.
    pub uploaded_certs: Option<String>,
    /// What keeps a machine out that knows a token and nothing else.
    pub barriers: Vec<Barrier>,
    /// Flags of the healthy master's control plane that a new master will not have.
    pub unrecorded: Vec<Unrecorded>,
}

impl ClusterFacts {
    /// [`Self::config_text`] for handing back to kubeadm, ended with a line's end. Without feature gates: none of them changes what it is asked here, and where it gets its
    /// configuration from a file, it refuses those of former versions that upgrades have left there, over which a join passes.
    pub fn config_for_kubeadm(&self) -> String {
        let mut inside = false;
        let kept = self.config_text.lines().filter(|line| {
            // kubeadm writes a block, whose lines are indented.
            inside = line.starts_with("featureGates:") || (inside && line.starts_with(' '));
            !inside
        });
        kept.flat_map(|line| [line, "\n"]).collect()
    }

    /// The API servers of the masters that are Ready: names of their nodes, and `https://ADDRESS:PORT`.
    pub fn api_servers(&self) -> BTreeMap<String, String> {
        let address = |node: &Node| {
            let ip: IpAddr = node.internal_address()?.parse().ok()?;
            Some(format!(
                "https://{}",
                SocketAddr::new(ip, self.apiserver_port)
            ))
        };
        self.nodes
            .iter()
            .filter(|node| node.is_master() && node.is_ready())
            .filter_map(|node| Some((node.metadata.name.clone(), address(node)?)))
            .collect()
    }

    /// Asks everything.
    pub fn gather(view: &ClusterView) -> Result<Self> {
        let host = view.address();
        ensure!(
            view.ask(&Cmd::new("test", ["-r", ADMIN_CONF]))?.ok(),
            "{host} is not a master: it has no {ADMIN_CONF}. Give the address of a healthy master with --healthy"
        );
        let clock_skew = clock_skew(view)?;
        // Where the API server or its etcd hang, these two wait for it, and not all of the others as well.
        let view = &view.ahead(&[version_question(view), view.getting(&["nodes"])]);
        let version = server_version(view)?;
        let nodes: List<Node> = view
            .get(&["nodes"])
            .map_err(|cause| without_rights(version, cause))?;
        let view = &view.ahead(&first_questions(view, version));
        let healthy = asked_node(view, &nodes.items)?;
        ensure!(
            healthy.is_master(),
            "{host} is not a master of its cluster: node {} has no master label",
            healthy.metadata.name
        );

        let kubeadm_config: Data = view
            .get(&KUBEADM_CONFIG)
            .context("this cluster was not made with kubeadm")?;
        let config_text = kubeadm_config
            .data
            .get("ClusterConfiguration")
            .context("the ConfigMap kubeadm-config has no ClusterConfiguration")?
            .clone();
        let config = ClusterConfiguration::parse(&config_text)?;
        let view = &view.ahead(&second_questions(view, version, &config, &healthy));
        let traits = Traits::of(version);
        let status = kubeadm_config.data.get("ClusterStatus");
        let api_endpoints = ClusterStatus::masters(status.filter(|_| traits.cluster_status))?;
        let kubelet = kubelet_configuration(view, version)?;
        let runtime = healthy.status.node_info.container_runtime_version.clone();
        let cri_socket = cri_socket(view, &healthy)?;
        let stacked = config.etcd.external.is_none();
        let etcd = if stacked {
            Some(Etcd::find(view, &healthy, &cri_socket)?)
        } else {
            None
        };
        let (members, alarms) = etcd.as_ref().map_or_else(
            || Ok((Vec::new(), Vec::new())),
            |etcd| etcd.members_and_alarms(view),
        )?;

        let masters: List<Pod> = view.get(&CONTROL_PLANE)?;
        let own: Vec<&Pod> = masters
            .items
            .iter()
            .filter(|pod| pod.spec.node_name == healthy.metadata.name)
            .collect();
        let daemon_sets: List<DaemonSet> = view.get(&DAEMON_SETS)?;
        let barriers = bootstrap::barriers(
            &view.ask(&bootstrap::question(view, version))?,
            &own,
            version,
        );
        let recorded = config.recorded_pods();
        let both: Vec<&Pod> = own.iter().copied().chain(&recorded).collect();

        let (ca_certificate, ca_hash, server, announced_cas) = authority(view, &config)?;
        let endpoint = endpoint(view, &server)?;
        let kubeadm = view.ask(&kubeadm_version())?;
        let missing_shared = missing_shared(view, &config)?;
        let mut missing_etcd_files = Vec::new();
        for path in config
            .etcd
            .external
            .iter()
            .flat_map(|external| [&external.ca_file, &external.cert_file, &external.key_file])
        {
            if !path.is_empty() && !view.ask(&is_file(path))?.ok() {
                missing_etcd_files.push(path.clone());
            }
        }
        Ok(Self {
            version,
            apiserver_port: apiserver_port(&own),
            advertised: advertised(&own),
            extra_paths: extra_paths(&both, &config.certificates_dir),
            unrecorded: config.unrecorded(&own),
            daemon_sets: daemon_sets.items,
            healthy_has_cni: (view.ask(&cni_files())?.text().lines()).any(configures_network),
            cgroup_driver: cgroup_driver(view, &runtime, traits.cgroup_driver, &kubelet)?,
            kubeadm: kubeadm.ok().then(|| kubeadm.text()),
            healthy,
            nodes: nodes.items,
            etcd,
            members,
            alarms,
            config,
            config_text,
            api_endpoints,
            kubelet,
            endpoint,
            ca_certificate,
            announced_cas,
            ca_hash,
            runtime,
            cri_socket,
            missing_shared,
            missing_etcd_files,
            clock_skew,
            uploaded_certs: view.uploaded_certs()?,
            barriers,
        })
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.metadata.name == name)
    }

    /// The member of a node, by its name or its address.
    pub fn member(&self, node: &str, address: &str) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.name == node || member.is_at(address))
    }
}

/// kubeadm's own record of the cluster.
const KUBEADM_CONFIG: [&str; 4] = ["configmap", "kubeadm-config", "--namespace", "kube-system"];

/// The masters' static pods.
const CONTROL_PLANE: [&str; 5] = [
    "pods",
    "--namespace",
    "kube-system",
    "--selector",
    "tier=control-plane",
];

/// The DaemonSets of everybody.
const DAEMON_SETS: [&str; 2] = ["daemonsets", "--all-namespaces"];

fn hostname() -> Cmd {
    Cmd::new("hostname", [""; 0])
}

fn kubeadm_version() -> Cmd {
    Cmd::new("kubeadm", ["version", "--output", "short"])
}

fn cni_files() -> Cmd {
    Cmd::new("ls", ["-A", "/etc/cni/net.d"])
}

fn docker_driver() -> Cmd {
    Cmd::new("docker", ["info", "--format", "{{.CgroupDriver}}"])
}

fn kubelet_configuration_object(name: &str) -> [&str; 4] {
    ["configmap", name, "--namespace", "kube-system"]
}

/// What is asked of every cluster.
fn first_questions(view: &ClusterView, version: KubeVersion) -> Vec<Cmd> {
    let mut questions = vec![
        view.getting(&KUBEADM_CONFIG),
        view.getting(&CLUSTER_INFO),
        view.getting(&CONTROL_PLANE),
        view.getting(&DAEMON_SETS),
        view.finding(&UPLOADED_CERTS),
        bootstrap::question(view, version),
        hostname(),
        kubeadm_version(),
        cni_files(),
    ];
    questions.extend(RemoteView::file_questions(KUBELET_FLAGS));
    questions
}

/// What is asked once the version, kubeadm's configuration and the healthy master's Node are known.
fn second_questions(
    view: &ClusterView,
    version: KubeVersion,
    config: &ClusterConfiguration,
    healthy: &Node,
) -> Vec<Cmd> {
    let mut questions = vec![RemoteView::tree_question(&config.certificates_dir)];
    let runtime = &healthy.status.node_info.container_runtime_version;
    if is_dockers(runtime, Traits::of(version).cgroup_driver) {
        questions.push(docker_driver());
    }
    questions.extend(cri_socket_question(healthy));
    // The likeliest one alone: a second one is asked for where the first is missing.
    let maps = Traits::kubelet_config_maps(version).into_iter().take(1);
    questions.extend(maps.map(|name| view.finding(&kubelet_configuration_object(&name))));
    if config.etcd.external.is_none() {
        questions.push(Etcd::pods_question(view));
    }
    questions.extend(RemoteView::file_questions(&ca_path(config)));
    questions
}

/// What it means that the administrator may look at nothing: from 1.29 on admin.conf has no rights but those of one binding, which `kubeadm init` makes.
fn without_rights(version: KubeVersion, cause: anyhow::Error) -> anyhow::Error {
    if version.minor < 29 || !format!("{cause:#}").contains("(Forbidden)") {
        return cause;
    }
    cause.context(format!(
        "{ADMIN_CONF} has no rights: the ClusterRoleBinding kubeadm:cluster-admins is missing or changed. Make it anew on the master that has super-admin.conf, by default the first one: kubectl --kubeconfig /etc/kubernetes/super-admin.conf create clusterrolebinding kubeadm:cluster-admins --clusterrole=cluster-admin --group=kubeadm:cluster-admins"
    ))
}

/// The node of the machine that is asked.
pub(crate) fn asked_node(view: &ClusterView, nodes: &[Node]) -> Result<Node> {
    let host = view.address();
    let hostname = view.ask(&hostname())?.text();
    let name = kubelet_flag(view, "--hostname-override=")?;
    let name = name.unwrap_or_else(|| hostname.to_lowercase());
    let named = nodes.iter().find(|node| node.metadata.name == name);
    let placed = || nodes.iter().find(|node| node.has_address(host));
    // The kubelet may be told another name where this program does not look, and the address that was given may be one of another network.
    let serving = || {
        let address = view.own_server_address()?;
        nodes.iter().find(|node| node.has_address(&address))
    };
    named
        .or_else(placed)
        .or_else(serving)
        .cloned()
        .with_context(|| format!("{host} (called {name}) is not a node of the cluster that its own {ADMIN_CONF} names"))
}

/// Half a round trip is taken off; what is left is the difference of the clocks.
pub(crate) fn clock_skew(view: &ClusterView) -> Result<f64> {
    let seconds = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|time| time.as_secs_f64())
            .unwrap_or_default()
    };
    let before = seconds();
    let output = view.ask(&Cmd::new("date", ["+%s.%N"]).timeout(Duration::from_secs(15)))?;
    let after = seconds();
    let there: f64 = output.text().parse().with_context(|| {
        format!(
            "{} does not tell the time: {}",
            view.address(),
            output.evidence()
        )
    })?;
    Ok(f64::midpoint(before, after) - there)
}

/// Which of the certificates and keys that masters share are not on the healthy master.
fn missing_shared(view: &ClusterView, config: &ClusterConfiguration) -> Result<Vec<String>> {
    let folder = &config.certificates_dir;
    let present: BTreeSet<String> = view
        .tree(folder)?
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    let stacked: &[&str] = if config.etcd.external.is_none() {
        &["etcd/ca.crt", "etcd/ca.key"]
    } else {
        &[]
    };
    let mut missing = Vec::new();
    for name in credentials::SHARED.iter().chain(stacked) {
        let path = format!("{folder}/{name}");
        // A link to a file is as good.
        if !present.contains(&path) && !view.ask(&is_file(&path))?.ok() {
            missing.push(path);
        }
    }
    Ok(missing)
}

fn is_file(path: &str) -> Cmd {
    Cmd::new("test", ["-f", path])
}

fn version_question(view: &ClusterView) -> Cmd {
    view.kubectl(["version", "-o", "json"])
}

/// The apiserver's version; an error where it does not answer.
pub(crate) fn server_version(view: &ClusterView) -> Result<KubeVersion> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        server_version: Option<Version>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    let output = view.ask(&version_question(view))?;
    let versions: Option<Versions> = serde_json::from_slice(&output.stdout).ok();
    let Some(server) = versions.and_then(|versions| versions.server_version) else {
        bail!(
            "kubectl on {} gets no answer from its apiserver: {}\nSee there: kubectl --kubeconfig {ADMIN_CONF} get nodes; {}; journalctl -u kubelet",
            view.address(),
            output.evidence(),
            listing(None)
        );
    };
    // Builds of vendors carry a suffix (v1.14.3-tke.8): the release that they are built from decides.
    let release = server
        .git_version
        .split(['-', '+'])
        .next()
        .unwrap_or_default();
    release.parse().with_context(|| {
        format!(
            "the cluster's version {} is not understood",
            server.git_version
        )
    })
}

fn kubelet_configuration(view: &ClusterView, version: KubeVersion) -> Result<KubeletConfiguration> {
    let names = Traits::kubelet_config_maps(version);
    for name in &names {
        let map: Option<Data> = view.find(&kubelet_configuration_object(name))?;
        let Some(map) = map else {
            continue;
        };
        let text = map
            .data
            .get("kubelet")
            .with_context(|| format!("the ConfigMap {name} has no kubelet configuration"))?;
        return serde_saphyr::from_str(text)
            .with_context(|| format!("the ConfigMap {name} does not parse"));
    }
    bail!(
        "the cluster has no ConfigMap {}, without which no kubelet can join",
        names.join(" or ")
    )
}

/// Whether kubeadm takes the cgroup driver from Docker.
fn is_dockers(runtime: &str, rule: CgroupDriverRule) -> bool {
    rule == CgroupDriverRule::Dockers && Runtime::of_node(runtime) == Some(Runtime::Docker)
}

/// The cgroup driver that kubeadm gives to a kubelet that joins.
fn cgroup_driver(
    view: &ClusterView,
    runtime: &str,
    rule: CgroupDriverRule,
    kubelet: &KubeletConfiguration,
) -> Result<String> {
    if !is_dockers(runtime, rule) {
        let unset = match rule {
            CgroupDriverRule::Dockers => "cgroupfs",
            CgroupDriverRule::Systemd => "systemd",
        };
        return Ok(match kubelet.cgroup_driver.as_str() {
            "" => unset,
            set => set,
        }
        .to_owned());
    }
    let output = view.ask(&docker_driver())?;
    let driver = output.text();
    ensure!(
        matches!(driver.as_str(), "cgroupfs" | "systemd"),
        "Docker on {} does not tell its cgroup driver: {}",
        view.address(),
        output.evidence()
    );
    Ok(driver)
}

/// The address that the API server among these pods advertises.
fn advertised(own: &[&Pod]) -> Option<IpAddr> {
    let mut pods = own.iter();
    pods.find_map(|pod| pod.spec.flag("advertise-address")?.parse().ok())
}

fn apiserver_port(own: &[&Pod]) -> u16 {
    own.iter()
        .flat_map(|pod| pod.spec.arguments())
        .find_map(|arg| {
            arg.strip_prefix("--secure-port=")?
                .parse()
                .ok()
                .filter(|port| *port > 0 && *port != 10257 && *port != 10259)
        })
        .unwrap_or(6443)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::command::Output;
    use crate::host::scripted::Scripted;

    #[test]
    fn the_cgroup_driver_is_that_of_the_kubelet_that_will_join() {
        let driver = |minor: u16, runtime: &str, told: &str| {
            let rule = Traits::of(KubeVersion::new(1, minor, 0)).cgroup_driver;
            let kubelet = KubeletConfiguration {
                cgroup_driver: told.to_owned(),
                ..KubeletConfiguration::default()
            };
            // Docker is asked only where the script is reached.
            let script = Scripted::new().on("docker info", 0, "cgroupfs\n");
            let view = ClusterView::new(Arc::new(script), "10.0.0.11");
            cgroup_driver(&view, runtime, rule, &kubelet).unwrap()
        };
        assert_eq!(driver(20, "docker://20.10.24", "systemd"), "cgroupfs");
        assert_eq!(driver(20, "containerd://1.6.20", ""), "cgroupfs");
        assert_eq!(driver(20, "containerd://1.6.20", "systemd"), "systemd");
        assert_eq!(driver(22, "docker://20.10.24", ""), "systemd");
        assert_eq!(driver(23, "docker://20.10.24", "cgroupfs"), "cgroupfs");
        assert_eq!(driver(34, "containerd://2.1.4", ""), "systemd");
    }

    #[test]
    fn kubeadm_gets_the_configuration_without_feature_gates() {
        let mut cluster = crate::joining::fixtures::cluster();
        cluster.config_text = "apiVersion: v1\nfeatureGates:\n  EtcdLearnerMode: true\n  IPv6DualStack: true\nkind: ClusterConfiguration\ndns:\n  type: CoreDNS".to_owned();
        assert_eq!(
            cluster.config_for_kubeadm(),
            "apiVersion: v1\nkind: ClusterConfiguration\ndns:\n  type: CoreDNS\n"
        );
        cluster.config_text = "featureGates: {}\nkind: ClusterConfiguration\n".to_owned();
        assert_eq!(cluster.config_for_kubeadm(), "kind: ClusterConfiguration\n");
    }

    #[test]
    fn the_kubelet_s_configuration_is_read_where_a_gate_put_it() {
        let get =
            "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 20s get configmap";
        // As kubeadm 1.34 stores it: its own choices, and the kubelet's zero values.
        let map = r#"{"metadata":{"name":"kubelet-config"},"data":{"kubelet":"apiVersion: kubelet.config.k8s.io/v1beta1\nauthentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 0s\n    enabled: true\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n  mode: Webhook\n  webhook:\n    cacheAuthorizedTTL: 0s\n    cacheUnauthorizedTTL: 0s\ncgroupDriver: systemd\nclusterDNS:\n- 10.96.0.10\nclusterDomain: cluster.local\ncontainerRuntimeEndpoint: \"\"\ncpuManagerReconcilePeriod: 0s\ncrashLoopBackOff: {}\nevictionPressureTransitionPeriod: 0s\nfailCgroupV1: false\nkind: KubeletConfiguration\nlogging:\n  flushFrequency: 0\n  options:\n    json:\n      infoBufferSize: \"0\"\n    text:\n      infoBufferSize: \"0\"\n  verbosity: 0\nmemorySwap: {}\nrotateCertificates: true\nstaticPodPath: /etc/kubernetes/manifests\n"}}"#;
        let view = ClusterView::new(
            Arc::new(
                Scripted::new()
                    .on(&format!("{get} kubelet-config-1.23 "), 0, "")
                    .on(&format!("{get} kubelet-config "), 0, map),
            ),
            "10.0.0.11",
        );
        for minor in [23, 34] {
            let read = kubelet_configuration(&view, KubeVersion::new(1, minor, 4)).unwrap();
            assert_eq!(read.cgroup_driver, "systemd");
            assert_eq!(read.fail_cgroup_v1, Some(false));
        }
        let none = ClusterView::new(Arc::new(Scripted::new().on(get, 0, "")), "10.0.0.11");
        let missing = kubelet_configuration(&none, KubeVersion::new(1, 24, 0)).unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("kubelet-config or kubelet-config-1.24"),
            "{missing}"
        );
    }

    #[test]
    fn an_administrator_without_rights_is_told_which_binding_is_missing() {
        let told = |minor, words: &str| {
            let cause = without_rights(KubeVersion::new(1, minor, 0), anyhow::anyhow!("{words}"));
            format!("{cause:#}")
        };
        let forbidden = "Error from server (Forbidden): nodes is forbidden: User \"kubernetes-admin\" cannot list resource \"nodes\"";
        let said = told(29, forbidden);
        assert!(
            said.contains("super-admin.conf create clusterrolebinding kubeadm:cluster-admins")
                && said.ends_with(forbidden),
            "{said}"
        );
        assert_eq!(told(28, forbidden), forbidden);
        assert_eq!(told(34, "connection refused"), "connection refused");
    }

    #[test]
    fn the_clocks_are_compared_by_the_masters_own_answer() {
        // How far this machine's clock is said to be ahead of a master whose `date` prints what `told` makes of the time here.
        let measured = |told: fn(f64) -> String| {
            let script = Scripted::new().with(move |cmd, _| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
                (cmd.program == "date").then(|| Output {
                    stdout: told(now.as_secs_f64()).into_bytes(),
                    ..Output::default()
                })
            });
            clock_skew(&ClusterView::new(Arc::new(script), "10.0.0.11"))
        };
        let near = |skew: Result<f64>, wanted: f64| (skew.unwrap() - wanted).abs() < 10.0;
        assert!(near(measured(|now| format!("{now:.9}\n")), 0.0));
        assert!(near(measured(|now| format!("{:.9}\n", now - 90.0)), 90.0));
        assert!(near(
            measured(|now| format!("{:.9}\n", now + 3600.0)),
            -3600.0
        ));
        let unclear = measured(|_| "now".to_owned()).unwrap_err();
        assert!(format!("{unclear:#}").contains("10.0.0.11 does not tell the time"));
    }
}
