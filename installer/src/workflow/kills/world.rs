//! The clusters and machines with which a run begins: three or five masters, of which m3 is gone, and the machine on which this program runs.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64ct::{Base64, Encoding};
use bundle_spec::KubeVersion;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::etcd::{DATA, Etcd, Member, Snapshot};
use super::files::Files;
use super::kubectl::Objects;
use super::played::{Down, Here, Played, certificate};
use crate::control_plane::kubeadm::{CERTIFICATES, ETCD_CERTIFICATES};
use crate::facts::Disks;
use crate::joining::MANIFESTS;
use crate::kubernetes::Traits;
use crate::replacing::health::KUBECONFIGS;

/// The cluster's endpoint, a load balancer.
pub(super) const BALANCER: &str = "192.0.2.10";

/// The address of m1.
pub(super) const HEALTHY: &str = "192.0.2.11";

/// The name and address of a master that may be lost as well.
pub(super) const SECOND: (&str, &str) = ("m2", "192.0.2.12");

/// Of m3, which is gone.
pub(super) const GONE: (&str, &str) = ("m3", "192.0.2.13");

/// What happened, and what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// A rebirth on an empty disk.
    Wiped,
    /// A rebirth of a machine that has everything, with a damaged etcd.
    Corrupt,
    /// A change to a new machine; the old one is silent.
    Dead,
    /// The same; the old one answers, its etcd does not, and it is reset.
    HalfDead,
    /// A change to a worker of the cluster; the old machine is silent.
    Worker,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    pub(super) case: Case,
    pub(super) minor: u16,
    pub(super) masters: u8,
}

impl Scenario {
    /// The name and address of the machine on which this program runs.
    pub(super) fn here(self) -> (&'static str, &'static str) {
        match self.case {
            Case::Wiped | Case::Corrupt => GONE,
            Case::Dead | Case::HalfDead => ("b1", "192.0.2.21"),
            Case::Worker => ("w1", "192.0.2.31"),
        }
    }

    pub(super) fn is_rebirth(self) -> bool {
        self.here() == GONE
    }

    /// The names and addresses of the masters before m3 was lost.
    pub(super) fn before(self) -> Vec<(String, String)> {
        let master = |number| (format!("m{number}"), format!("192.0.2.{}", 10 + number));
        (1..=self.masters).map(master).collect()
    }

    /// Those that there shall be in the end.
    pub(super) fn wanted(self) -> BTreeSet<(String, String)> {
        let (name, address) = self.here();
        let stay = self.before().into_iter().filter(|(name, _)| name != GONE.0);
        stay.chain([(name.to_owned(), address.to_owned())])
            .collect()
    }
}

/// A machine and a cluster, and what is played on them.
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) root: TempDir,
    pub(super) played: Arc<Mutex<Played>>,
    /// This machine's file systems, where they matter.
    pub(super) disks: Option<Disks>,
}

impl World {
    pub(super) fn new(scenario: Scenario) -> Self {
        let root = folder();
        let (name, address) = scenario.here();
        let here = Here {
            root: root.path().to_owned(),
            name: name.to_owned(),
            address: address.to_owned(),
            kubelet: false,
        };
        for (path, content) in [
            ("/proc/sys/kernel/osrelease", "4.19.0-27-amd64\n"),
            ("/proc/self/status", "Cpus_allowed_list:\t0-1\n"),
            ("/proc/meminfo", "MemTotal: 4000000 kB\n"),
        ] {
            here.put(path, content);
        }
        let mut played = Played {
            minor: scenario.minor,
            etcd: etcd(scenario),
            objects: objects(scenario),
            healthy: healthy_master(),
            here,
            down: None,
            breaks: None,
            joins: 0,
            starting: 0,
            tokens: 0,
            wrong: Vec::new(),
        };
        match scenario.case {
            Case::Wiped | Case::Dead => {}
            Case::Corrupt => damaged_master(&mut played.here),
            Case::HalfDead => played.down = Some(half_dead()),
            Case::Worker => worker(&mut played),
        }
        Self {
            scenario,
            root,
            played: Arc::new(Mutex::new(played)),
            disks: None,
        }
    }
}

/// In memory where there is such a file system: the journal is synced after every line.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    folder.expect("a temporary folder can be made")
}

/// A label that this version's kubeadm gives a master.
pub(super) fn master_label(minor: u16) -> &'static str {
    Traits::of(version(minor)).master_labels[0]
}

pub(super) fn version(minor: u16) -> KubeVersion {
    let patch = match minor {
        14 => 0,
        34 => 4,
        _ => 2,
    };
    KubeVersion::new(1, minor, patch)
}

fn etcd(scenario: Scenario) -> Etcd {
    let masters = scenario.before();
    let (others, address) = (
        masters.iter().filter(|(name, _)| name != GONE.0),
        scenario.here().1,
    );
    let alive: BTreeSet<String> = others.map(|(_, address)| address.clone()).collect();
    // Larger than a float can hold.
    let id = |place: usize| 0xb64d_1f2e_3a4b_5c01 + place as u64;
    let member = |(place, (name, address)): (usize, &(String, String))| Member {
        id: id(place),
        name: name.clone(),
        address: address.clone(),
        learner: false,
    };
    Etcd {
        members: masters.iter().enumerate().map(member).collect(),
        precious: alive.clone(),
        alive,
        snapshot: Snapshot::None,
        next: 0,
        version: match scenario.minor {
            14 => "3.3.10",
            34 => "3.6.5",
            _ => "3.4.13",
        },
        removed: Vec::new(),
        wrong: Vec::new(),
        database: 512,
        hidden: BTreeSet::new(),
        alarms: String::new(),
        here: address.to_owned(),
        departed: GONE.1.to_owned(),
    }
}

fn objects(scenario: Scenario) -> Objects {
    let mut objects = Objects::default();
    let (minor, version) = (scenario.minor, version(scenario.minor));
    let traits = Traits::of(version);
    let (api, repository) = (traits.kubeadm.api, repository(minor));
    let config = format!(
        "apiVersion: {api}\nkind: ClusterConfiguration\nkubernetesVersion: {version}\ncontrolPlaneEndpoint: {BALANCER}:6443\ncertificatesDir: /etc/kubernetes/pki\nimageRepository: {repository}\netcd:\n  local:\n    dataDir: {DATA}\n"
    );
    let mut status = json!({ "apiEndpoints": {} });
    for (name, address) in scenario.before() {
        status["apiEndpoints"][name.as_str()] =
            json!({ "advertiseAddress": address, "bindPort": 6443 });
        let mut node = node(&name, &address, Some(master_label(minor)), minor);
        if name == GONE.0 {
            node["metadata"]["labels"]["rack"] = json!("7");
            node["metadata"]["annotations"]["owner"] = json!("ops");
            node["spec"]["taints"] = taints(minor);
            let ready = if scenario.case == Case::Corrupt {
                "True"
            } else {
                "Unknown"
            };
            node["status"]["conditions"][0]["status"] = json!(ready);
        }
        objects.put("node", node);
        for pod in pods(&name) {
            objects.put("pod", pod);
        }
    }
    let kubelet_config = Traits::kubelet_config_maps(version).remove(0);
    let mut records = json!({ "ClusterConfiguration": config });
    if traits.cluster_status {
        records["ClusterStatus"] = json!(status.to_string());
    }
    let ca = Base64::encode_string(certificate().as_bytes());
    let info = format!(
        "clusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: https://{BALANCER}:6443\n"
    );
    for (name, namespace, data) in [
        ("kubeadm-config", "kube-system", records),
        (
            kubelet_config.as_str(),
            "kube-system",
            json!({ "kubelet": "kind: KubeletConfiguration\n" }),
        ),
        ("cluster-info", "kube-public", json!({ "kubeconfig": info })),
    ] {
        let metadata = json!({ "name": name, "namespace": namespace });
        objects.put(
            "configmap",
            json!({ "kind": "ConfigMap", "metadata": metadata, "data": data }),
        );
    }
    let everywhere = json!([{ "operator": "Exists" }]);
    for (name, image) in [
        ("flannel", "flannel:1".to_owned()),
        ("kube-proxy", format!("{repository}/kube-proxy:{version}")),
    ] {
        let mut pod = json!({ "containers": [{ "image": image }], "tolerations": everywhere });
        if name == "flannel" {
            pod["volumes"] = json!([{ "name": "cni", "hostPath": { "path": "/etc/cni/net.d" } }]);
        }
        let metadata = json!({ "name": name, "namespace": "kube-system" });
        objects.put(
            "daemonset",
            json!({ "metadata": metadata, "spec": { "template": { "spec": pod } } }),
        );
    }
    objects
}

/// The taints that m3 has, one of them by people.
pub(super) fn taints(minor: u16) -> Value {
    json!([
        { "key": "dedicated", "value": "db", "effect": "NoSchedule" },
        master_taint(minor),
    ])
}

/// The taint that this version's kubeadm gives a master.
pub(super) fn master_taint(minor: u16) -> Value {
    json!({ "key": Traits::of(version(minor)).master_taints[0], "effect": "NoSchedule" })
}

/// Where this version's images come from.
pub(super) fn repository(minor: u16) -> &'static str {
    if minor < 25 {
        "k8s.gcr.io"
    } else {
        "registry.k8s.io"
    }
}

/// A Node that is Ready, as its kubelet registers it, or with a master's label.
pub(super) fn node(name: &str, address: &str, label: Option<&str>, minor: u16) -> Value {
    let mut labels = json!({ "kubernetes.io/hostname": name });
    let runtime = if Traits::of(version(minor)).dockershim {
        "docker://18.9.9"
    } else {
        "containerd://2.1.4"
    };
    if let Some(label) = label {
        labels[label] = json!("");
    }
    json!({
        "metadata": { "name": name, "labels": labels, "annotations": {} },
        "spec": {},
        "status": {
            "addresses": [{ "type": "InternalIP", "address": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
            "nodeInfo": { "containerRuntimeVersion": runtime, "kubeletVersion": version(minor).to_string() },
        },
    })
}

/// The static pods of a master.
pub(super) fn pods(node: &str) -> Vec<Value> {
    let pod = |file: &&str| {
        let component = file.trim_end_matches(".yaml");
        let flags: &[&str] = match component {
            "kube-apiserver" => &["--enable-bootstrap-token-auth=true"],
            "kube-controller-manager" => &["--controllers=*,bootstrapsigner,tokencleaner"],
            _ => &[],
        };
        let mut pod = json!({
            "metadata": {
                "name": format!("{component}-{node}"),
                "namespace": "kube-system",
                "labels": { "component": component, "tier": "control-plane" },
            },
            "spec": { "nodeName": node, "containers": [{ "command": ([&[component], flags].concat()) }] },
        });
        if component == "etcd" {
            pod["spec"]["containers"][0] = json!({
                "command": ["etcd", format!("--data-dir={DATA}"), "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
                    "--cert-file=/etc/kubernetes/pki/etcd/server.crt", "--key-file=/etc/kubernetes/pki/etcd/server.key"],
                "volumeMounts": [{ "name": "data", "mountPath": DATA }],
            });
            pod["spec"]["volumes"] = json!([{ "name": "data", "hostPath": { "path": DATA } }]);
        }
        pod
    };
    MANIFESTS.iter().map(pod).collect()
}

/// What a master has, and a file that TKE put there.
fn master_files() -> Files {
    let mut files = Files::default();
    for name in CERTIFICATES.iter().chain(&ETCD_CERTIFICATES) {
        files.put(&format!("/etc/kubernetes/pki/{name}"), certificate());
    }
    for name in MANIFESTS {
        files.put(&format!("/etc/kubernetes/manifests/{name}"), "kind: Pod\n");
    }
    for path in KUBECONFIGS {
        files.put(path, kubeconfig());
    }
    for path in [
        "/etc/kubernetes/known_tokens.csv",
        "/var/lib/kubelet/config.yaml",
        "/var/lib/kubelet/kubeadm-flags.env",
        "/etc/cni/net.d/10-flannel.conflist",
        "/var/lib/etcd/member/snap/db",
    ] {
        files.put(path, "of a master\n");
    }
    files
}

/// Credentials that are good for a year.
pub(super) fn kubeconfig() -> String {
    let certificate = Base64::encode_string(certificate().as_bytes());
    format!("users:\n- user:\n    client-certificate-data: {certificate}\n")
}

/// m1, whose manifest tells where its own API server listens.
fn healthy_master() -> Files {
    let mut files = master_files();
    let manifest = json!({
        "kind": "Pod",
        "spec": { "containers": [{ "command": ["kube-apiserver", format!("--advertise-address={HEALTHY}"), "--secure-port=6443"] }] },
    });
    files.put(
        "/etc/kubernetes/manifests/kube-apiserver.yaml",
        manifest.to_string(),
    );
    files
}

/// A machine that was a master, with a file of its own content, and whose etcd does not start.
fn damaged_master(here: &mut Here) {
    let files = master_files();
    for path in files.below("/") {
        let content = files.get(&path).cloned().unwrap_or_default();
        here.put(&path, &String::from_utf8_lossy(&content));
    }
    here.put("/etc/kubernetes/known_tokens.csv", "its own\n");
    here.put("/var/lib/kubelet/config.json", "a login\n");
    here.put("/sys/class/net/cni0/address", "00:00\n");
    here.put("/var/lib/cni/networks/cbr0/10.244.2.2", "a pod\n");
    here.kubelet = true;
}

fn half_dead() -> Down {
    let mut files = master_files();
    files.put("/opt/data", "somebody's\n");
    Down {
        files,
        kubelet: true,
        enabled: true,
        containers: vec!["e7cd".to_owned(), "a9b8".to_owned()],
    }
}

/// A worker of the cluster, on which pods run.
fn worker(played: &mut Played) {
    let (name, address) = (played.here.name.clone(), played.here.address.clone());
    let mut own = node(&name, &address, None, played.minor);
    own["metadata"]["labels"]["disk"] = json!("ssd");
    own["spec"]["taints"] = json!([taints(played.minor)[0]]);
    played.objects.put("node", own);
    for (pod, owner) in [("web-1", "ReplicaSet"), ("flannel-x", "DaemonSet")] {
        played.objects.put(
            "pod",
            json!({
                "metadata": { "name": pod, "namespace": "default", "ownerReferences": [{ "kind": owner, "name": "x" }] },
                "spec": { "nodeName": name },
            }),
        );
    }
    let here = &mut played.here;
    here.put("/etc/kubernetes/pki/ca.crt", certificate());
    for path in [
        "/etc/kubernetes/kubelet.conf",
        "/var/lib/kubelet/config.json",
        "/var/lib/kubelet/config.yaml",
        "/var/lib/kubelet/kubeadm-flags.env",
        "/etc/cni/net.d/10-flannel.conflist",
        "/var/lib/cni/networks/cbr0/10.244.5.2",
        "/sys/class/net/cni0/address",
    ] {
        here.put(path, "of a worker\n");
    }
    here.kubelet = true;
}
