//! kubeadm in the played cluster: what its join and its reset do to the machine and the cluster, what its checks refuse, and the credentials that it makes.
//!
//! The order in a join is that of its phases: the control plane's files, the kubelet's start, the etcd member, etcd's manifest, ClusterStatus, the label. In 1.34 the kubelet speaks with
//! its own API server (feature gate `ControlPlaneKubeletLocalMode`): it registers its Node after the member was promoted, and there is no ClusterStatus.

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64ct::{Base64, Encoding};
use serde_json::{Value, json};

use super::files::{bad, good};
use super::played::{Outcome, Played, certificate, secret_of};
use super::world::kubeconfig;
use crate::control_plane::credentials::SHARED;
use crate::control_plane::kubeadm::without_endpoint;
use crate::control_plane::kubeadm::{CERTIFICATES, ETCD_CERTIFICATES};
use crate::host::command::Output;
use crate::joining::MANIFESTS;
use crate::replacing::health::KUBECONFIGS;

/// What comes in the way of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// kubeadm fails.
    Fails,
    /// The machine loses its power.
    PowerCut,
}

/// How many phases of a join change something.
pub(super) const PHASES: usize = 6;

/// How often a new master is asked in vain: more often than a look at a master's health asks, so that a run which is killed then finds one that is not well.
const STARTING: usize = 5;

/// 32 bytes in hexadecimal: the key that sealed certificates are opened with.
const KEY: &str = "0707070707070707070707070707070707070707070707070707070707070707";

const PKI: &str = "/etc/kubernetes/pki";

impl Played {
    /// A join as far as its `breaks` let it come.
    pub(super) fn join(&mut self, input: &[u8]) -> Outcome {
        let Ok(config) = serde_json::from_slice::<Value>(input) else {
            return Outcome::Unexpected;
        };
        if let Some(why) = self.join_is_refused(&config) {
            self.wrong.push(format!("kubeadm refuses to join: {why}"));
            return Outcome::Answered(bad(&format!("[ERROR {why}]")));
        }
        if !self.all_of_etcd_answer() {
            return Outcome::Answered(bad(
                "error execution phase check-etcd: etcd cluster is not healthy",
            ));
        }
        let breaks = self.breaks.take();
        for phase in 1..=PHASES {
            if let Some((last, how)) = breaks
                && phase > last
            {
                return match how {
                    Break::Fails => Outcome::Answered(bad("error execution phase")),
                    Break::PowerCut => {
                        self.lose_power();
                        Outcome::PowerCut
                    }
                };
            }
            self.phase(phase);
        }
        self.joins += 1;
        self.starting = STARTING;
        let name = self.here.name.clone();
        self.set_ready(&name, "False");
        Outcome::Answered(good("This node has joined the cluster"))
    }

    /// What kubeadm's own checks would say of this machine and of the credentials.
    fn join_is_refused(&self, config: &Value) -> Option<String> {
        for path in [
            "/etc/kubernetes/kubelet.conf",
            "/etc/kubernetes/bootstrap-kubelet.conf",
        ] {
            if self.here.has(path) {
                return Some(format!("FileAvailable {path}"));
            }
        }
        for path in ["/etc/kubernetes/manifests", "/var/lib/etcd"] {
            if !self.here.list(path).is_empty() {
                return Some(format!("DirAvailable {path}: {:?}", self.here.list(path)));
            }
        }
        if self.etcd.alive.contains(&self.here.address) {
            return Some("Port-2379".to_owned());
        }
        if config["nodeRegistration"]["name"] != self.here.name
            || config["controlPlane"]["localAPIEndpoint"]["advertiseAddress"] != self.here.address
        {
            return Some(format!("another machine: {config}"));
        }
        let token = config["discovery"]["bootstrapToken"]["token"].as_str()?;
        let id = token.split('.').next()?;
        if self
            .objects
            .get("secret", "kube-system", &format!("bootstrap-token-{id}"))
            .is_none()
        {
            return Some("the token is unknown".to_owned());
        }
        if self.minor > 14 {
            let known = self.objects.get("secret", "kube-system", "kubeadm-certs");
            if known.is_none() || config["controlPlane"]["certificateKey"] != KEY {
                return Some("no certificates, or another key".to_owned());
            }
        } else if let Some(absent) = SHARED
            .iter()
            .find(|name| !self.here.has(&format!("{PKI}/{name}")))
        {
            return Some(format!("{absent} is not here"));
        }
        let node = self.objects.get("node", "", &self.here.name);
        node.map(|node| format!("a node of that name is there: {node}"))
    }

    /// kubeadm asks every member of etcd, and up to 1.18 first the etcd of every master that ClusterStatus names. (Later ones begin with the etcd pods, of which one must answer.)
    fn all_of_etcd_answer(&self) -> bool {
        let status = self.cluster_status();
        let endpoints = status["apiEndpoints"].as_object().into_iter().flatten();
        let named = endpoints.filter_map(|(_, endpoint)| endpoint["advertiseAddress"].as_str());
        let members = &self.etcd.members;
        members
            .iter()
            .all(|member| self.etcd.answers(&member.address))
            && (self.minor > 18 || named.into_iter().all(|address| self.etcd.answers(address)))
    }

    fn phase(&mut self, phase: usize) {
        let (name, address) = (self.here.name.clone(), self.here.address.clone());
        match phase {
            1 => {
                for file in CERTIFICATES.iter().chain(&ETCD_CERTIFICATES) {
                    self.here.put(&format!("{PKI}/{file}"), certificate());
                }
                for path in KUBECONFIGS.iter().filter(|path| !path.contains("kubelet")) {
                    self.here.put(path, &kubeconfig());
                }
                for file in MANIFESTS.iter().filter(|file| **file != "etcd.yaml") {
                    self.here
                        .put(&format!("/etc/kubernetes/manifests/{file}"), "kind: Pod\n");
                }
            }
            2 => {
                self.here.put(
                    "/var/lib/kubelet/config.yaml",
                    "kind: KubeletConfiguration\n",
                );
                self.here.put(
                    "/var/lib/kubelet/kubeadm-flags.env",
                    "KUBELET_KUBEADM_ARGS=\"\"\n",
                );
                if self.minor < 17 || self.is_local() {
                    self.here
                        .put("/etc/kubernetes/bootstrap-kubelet.conf", "a token\n");
                }
                self.here.kubelet = true;
                if self.is_local() {
                    self.here.put(
                        "/var/lib/kubelet/instance-config.yaml",
                        "kind: KubeletConfiguration\n",
                    );
                } else {
                    self.register();
                }
            }
            3 => self.etcd.add(&address, self.is_local()),
            4 => {
                self.here
                    .put("/etc/kubernetes/manifests/etcd.yaml", "kind: Pod\n");
                self.here.put("/var/lib/etcd/member/snap/db", "data\n");
                self.etcd.start(&address, &name);
                for pod in super::world::pods(&name) {
                    self.objects.put("pod", pod);
                }
            }
            5 if self.is_local() => {
                self.etcd.promote(&address);
                self.register();
                self.here.remove("/etc/kubernetes/bootstrap-kubelet.conf");
            }
            5 => {
                let mut status = self.cluster_status();
                status["apiEndpoints"][name.as_str()] =
                    json!({ "advertiseAddress": address, "bindPort": 6443 });
                self.set_cluster_status(&status);
            }
            _ => {
                let label = super::world::master_label(self.minor);
                if let Some(node) = self.objects.get_mut("node", "", &name) {
                    node["metadata"]["labels"][label] = json!("");
                    node["spec"]["taints"] = json!([super::world::master_taint(self.minor)]);
                }
            }
        }
    }

    /// Whether the kubelet of a new master speaks with its own API server alone.
    fn is_local(&self) -> bool {
        self.minor > 32
    }

    /// The kubelet registers its Node, and the pod network comes.
    fn register(&mut self) {
        let (name, address) = (self.here.name.clone(), self.here.address.clone());
        self.here.put("/etc/kubernetes/kubelet.conf", &kubeconfig());
        let node = super::world::node(&name, &address, None, self.minor);
        self.objects.put("node", node);
        self.here.put("/etc/cni/net.d/10-flannel.conflist", "{}\n");
        self.here
            .put("/var/lib/cni/networks/cbr0/10.244.9.2", "pod\n");
        self.here.put("/sys/class/net/cni0/address", "00:00\n");
    }

    /// `kubeadm reset` on this machine, which may look for the cluster where it finds the means.
    pub(super) fn reset(&mut self) -> Output {
        let (name, address) = (self.here.name.clone(), self.here.address.clone());
        let manifest = self.here.has("/etc/kubernetes/manifests/etcd.yaml");
        if manifest && self.here.has("/etc/kubernetes/admin.conf") {
            if self.etcd.at(&address).is_some() {
                self.wrong
                    .push("kubeadm reset finds a member to remove".to_owned());
            }
            let status = self.cluster_status().to_string();
            if self.minor < 22
                && let Ok(Some(kept)) = without_endpoint(&status, &name)
            {
                self.set_cluster_status(&serde_json::from_str(&kept).unwrap_or_default());
            }
        }
        self.here.kubelet = false;
        self.etcd.alive.remove(&address);
        if manifest {
            self.here.remove("/var/lib/etcd/member");
        }
        for path in KUBECONFIGS {
            self.here.remove(path);
        }
        self.here.remove("/etc/kubernetes/bootstrap-kubelet.conf");
        for folder in [
            "/etc/kubernetes/manifests",
            PKI,
            "/var/lib/kubelet",
            "/etc/cni/net.d",
        ] {
            for left in self.here.list(folder) {
                self.here.remove(&format!("{folder}/{left}"));
            }
        }
        good("reset")
    }

    /// `kubeadm token create` on the healthy master.
    pub(super) fn create_token(&mut self, description: &str) -> Output {
        let id = self.put_token(description);
        good(format!("{id}.0123456789abcdef\n"))
    }

    fn put_token(&mut self, description: &str) -> String {
        self.tokens += 1;
        let id = format!("{:06}", self.tokens);
        let token = secret_of(
            &format!("bootstrap-token-{id}"),
            "bootstrap.kubernetes.io/token",
            &json!({ "description": Base64::encode_string(description.as_bytes()) }),
        );
        self.objects.put("secret", token);
        id
    }

    /// `kubeadm init phase upload-certs` there.
    pub(super) fn upload(&mut self) -> Output {
        if self
            .objects
            .get("secret", "kube-system", "kubeadm-certs")
            .is_some()
        {
            self.wrong
                .push("the Secret kubeadm-certs is written over".to_owned());
        }
        let owner = self.put_token("Proxy for managing TTL for the kubeadm-certs secret");
        let nonce = [7; 12];
        let key = Key::<Aes256Gcm>::from([7; 32]);
        let mut data = json!({});
        for name in SHARED.iter().chain(&["etcd/ca.crt", "etcd/ca.key"]) {
            let content = self
                .healthy
                .get(&format!("{PKI}/{name}"))
                .cloned()
                .unwrap_or_default();
            let sealed = Aes256Gcm::new(&key).encrypt(&Nonce::from(nonce), content.as_slice());
            let sealed = [&nonce[..], &sealed.unwrap_or_default()].concat();
            data[name.replace('/', "-").as_str()] = json!(Base64::encode_string(&sealed));
        }
        let mut certs = secret_of("kubeadm-certs", "Opaque", &data);
        certs["metadata"]["ownerReferences"] =
            json!([{ "kind": "Secret", "name": format!("bootstrap-token-{owner}") }]);
        self.objects.put("secret", certs);
        good(format!("[upload-certs] Using certificate key:\n{KEY}\n"))
    }
}
