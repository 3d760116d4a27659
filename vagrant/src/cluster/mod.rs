//! The lab's own clusters: masters made by plain `kubeadm init` and `kubeadm join` on units of the lab's own.
//!
//! Nothing of the product takes part, so that what is said here about a cluster can contradict the product. When a
//! cluster is handed out, its pod network and its DNS work, and no bootstrap token and no uploaded certificate is left in
//! it.

mod config;
mod endpoint;
mod master;
mod runtime;
pub mod tke;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use config::{ClusterSpec, Shape};
pub use endpoint::{Endpoint, NAME};
pub use master::{carry_bundle, install_bundle, install_unlike_containerd};
pub use runtime::Runtime;

use self::endpoint::Balancer;
use crate::materials::Materials;
use crate::node::{Node, quoted};
use crate::sh::{Outcome, step};
use crate::wait;

/// `kubeadm init` takes 11 to 20 s here, `kubeadm join` 20 to 80 s; kubeadm's own limits are 4 minutes each.
const KUBEADM_LIMIT: Duration = Duration::from_mins(5);
/// How long nodes and DNS may take until they are ready.
const READY_LIMIT: Duration = Duration::from_mins(4);

/// A kubelet of 1.20 that has just started may turn etcd's pod away for good (kubernetes/kubernetes#99305), and plain kubeadm waits for it in vain: such a kubelet is started
/// again, as often as it takes. Only what the kubelet that runs now has said counts.
const ADMIT_ETCD: &str = "(for look in $(seq 80); do sleep 3; \
     run=$(systemctl show --property=InvocationID --value kubelet); \
     if [ -n \"$run\" ] && journalctl -q -o cat _SYSTEMD_INVOCATION_ID=\"$run\" | grep -q 'Failed to admit pod etcd-'; \
     then systemctl restart kubelet; fi; \
     done) >/dev/null 2>&1 & ";

/// Minor versions whose API servers have to be started again after the first join: see [`Cluster::renew_watches`]. From
/// 1.22 on they have the client of etcd 3.5.
const DEAF_API_SERVERS: RangeInclusive<u16> = 20..=21;

/// What timeout(1) ends with where it had to kill.
pub const KILLED: i32 = 137;

/// The file that the first master was made from.
const INIT_CONFIG: &str = "/root/kubeadm-init.yaml";
/// Where the first master keeps what the lab made it as.
const NOTE: &str = "/root/lab-cluster.json";

/// What a cluster was made as.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    spec: ClusterSpec,
    masters: usize,
}

/// A running cluster, asked through its first master.
#[derive(Debug, Clone)]
pub struct Cluster {
    spec: ClusterSpec,
    m1: Node,
    /// Where its API servers are reached, `HOST:PORT`.
    endpoint: String,
    _balancer: Option<Arc<Balancer>>,
}

impl Cluster {
    /// Makes a cluster of these bare machines: one by `init`, usually the first one, the others by `join`.
    pub fn make(spec: ClusterSpec, materials: &Materials, masters: &[Node]) -> Result<Self> {
        let m1 = masters
            .first()
            .context("a cluster has at least one master")?;
        let maker = spec.endpoint.maker(masters)?;
        let cluster = Self::of(spec, m1, masters)?;
        step(
            "installing a container runtime, kubelet and images on the masters by hand",
            || {
                thread::scope(|scope| {
                    let installs: Vec<_> = masters
                        .iter()
                        .map(|node| scope.spawn(|| cluster.install(node, materials)))
                        .collect();
                    installs.into_iter().try_for_each(|install| {
                        install
                            .join()
                            .map_err(|_| anyhow!("an installation panicked"))?
                    })
                })
            },
        )?;
        let credentials = step(&format!("kubeadm init on {maker}"), || cluster.init(maker))?;
        cluster.settle(maker, materials)?;
        step("applying the pod network", || {
            maker
                .sh(&kubectl(&["apply", "-f", "-"]))?
                .stdin(materials.pod_network.as_str())
                .run()
        })?;
        let others: Vec<&Node> = masters.iter().filter(|node| *node != maker).collect();
        for node in &others {
            step(&format!("kubeadm join on {node}"), || {
                cluster.join(node, &credentials)?;
                cluster.settle(node, materials)
            })?;
        }
        if !others.is_empty() && DEAF_API_SERVERS.contains(&cluster.spec.version.minor) {
            step(&format!("starting the API server on {maker} again"), || {
                cluster.renew_watches(maker)
            })?;
        }
        step("waiting for nodes, pod network and DNS", || {
            cluster.wait_ready(masters.len())
        })?;
        cluster.revoke()?;
        cluster.wait_settled()?;
        cluster.write_note(masters.len())?;
        Ok(cluster)
    }

    /// Makes one more master of a bare machine by plain `kubeadm join`; the cluster then has so many of them.
    pub fn add(&self, node: &Node, materials: &Materials, masters: usize) -> Result<()> {
        self.install(node, materials)?;
        let credentials = self.admit()?;
        self.join(node, &credentials)?;
        self.settle(node, materials)?;
        self.revoke()?;
        self.wait_ready(masters)?;
        self.wait_settled()?;
        self.write_note(masters)
    }

    /// The cluster that an earlier lab made of these machines, if it is whole: the same kind, as many masters, all Ready,
    /// and nobody else in it.
    pub fn found(spec: ClusterSpec, masters: &[Node]) -> Option<Self> {
        let cluster = Self::of(spec, masters.first()?, masters).ok()?;
        let note = cluster.m1.output(&format!("cat {NOTE}")).ok()?;
        (serde_json::from_str::<Note>(&note).ok()? == cluster.note(masters.len())).then_some(())?;
        let nodes = cluster.kubectl_json(&["get", "nodes"]).ok()?;
        let nodes = nodes["items"].as_array()?;
        let members = cluster.etcdctl(&["member", "list"]).ok()?.lines().count();
        (nodes.len() == masters.len() && nodes.iter().all(is_ready) && members == masters.len())
            .then_some(cluster)
    }

    fn of(spec: ClusterSpec, m1: &Node, masters: &[Node]) -> Result<Self> {
        Ok(Self {
            endpoint: spec.endpoint.place(masters)?,
            _balancer: spec.endpoint.serve(m1)?,
            spec,
            m1: m1.clone(),
        })
    }

    fn note(&self, masters: usize) -> Note {
        Note {
            spec: self.spec.clone(),
            masters,
        }
    }

    fn write_note(&self, masters: usize) -> Result<()> {
        let note = serde_json::to_string(&self.note(masters))?;
        self.m1.write(NOTE, &note, 0o600)
    }

    /// What it is.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// Its first master.
    pub fn m1(&self) -> &Node {
        &self.m1
    }

    /// kubectl's standard output, asked on the first master.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.m1.output(&self.kubectl_line(args))
    }

    /// Where the endpoint is somewhere else, and may be dead on purpose, m1's own API server is asked.
    fn kubectl_line(&self, args: &[&str]) -> String {
        if self.spec.endpoint == Endpoint::FirstMaster {
            return kubectl(args);
        }
        let own = format!("--server=https://{}:6443", self.m1.address());
        kubectl(&[&[own.as_str()], args].concat())
    }

    /// What kubectl prints as JSON.
    pub fn kubectl_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("reading what kubectl {} says", args.join(" ")))
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.m1
            .sh(&self.kubectl_line(&["apply", "-f", "-"]))?
            .stdin(manifest)
            .run()
    }

    /// etcdctl's standard output, asked in the etcd of the first master with its own certificates.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        self.etcdctl_on(&self.m1, args)
    }

    /// The same, asked in the etcd of any master.
    pub fn etcdctl_on(&self, node: &Node, args: &[&str]) -> Result<String> {
        let args: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
        node.output(&format!(
            "{} etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt \
             --cert /etc/kubernetes/pki/etcd/server.crt --key /etc/kubernetes/pki/etcd/server.key {}",
            self.spec.runtime.exec("etcd"),
            args.join(" ")
        ))
    }

    /// Removes what Kubernetes remembers of a master whose etcd member is gone: the Node, and up to 1.21 its entry in
    /// `ClusterStatus`.
    pub fn forget_node(&self, node: &Node) -> Result<()> {
        self.kubectl(&["delete", "node", node.name(), "--ignore-not-found"])?;
        let mut config =
            self.kubectl_json(&["-n", "kube-system", "get", "configmap", "kubeadm-config"])?;
        if let Some(status) = config["data"]["ClusterStatus"].as_str() {
            let kept = without_endpoint(status, node.name());
            config["data"]["ClusterStatus"] = Value::String(kept);
            self.m1
                .sh(&self.kubectl_line(&["replace", "-f", "-"]))?
                .stdin(config.to_string())
                .run()?;
        }
        Ok(())
    }

    /// What one more master needs for [`Cluster::join`]; [`Cluster::revoke`] takes it back.
    pub fn admit(&self) -> Result<JoinCredentials> {
        let command = self
            .m1
            .output("kubeadm token create --print-join-command")?;
        let said = self.m1.output(&format!(
            "kubeadm init phase upload-certs --config {INIT_CONFIG} {}",
            config::upload_certs_flag(self.spec.version)
        ))?;
        let key = said.lines().last().unwrap_or_default();
        JoinCredentials::read(&format!("{command} --certificate-key {key}"))
            .context("reading the join command that kubeadm token create prints")
    }

    /// Puts on a bare machine what plain kubeadm needs there, under the names that this cluster gives its images.
    pub fn install(&self, node: &Node, materials: &Materials) -> Result<()> {
        self.spec.endpoint.tell(node, &self.m1)?;
        master::carry(node, &self.spec, materials)?;
        master::install(node, &self.spec)?;
        if self.spec.shape == Shape::Tke {
            let is_first = node.address() == self.m1.address();
            // The first one has nobody else to ask.
            let endpoint = if is_first {
                "127.0.0.1"
            } else {
                self.m1.address()
            };
            tke::equip(node, endpoint)?;
        }
        master::rename_images(node, &self.spec, &materials.registry)
    }

    /// What a cluster's maker gives a machine that has become a master.
    fn settle(&self, node: &Node, materials: &Materials) -> Result<()> {
        if self.spec.shape == Shape::Plain {
            return Ok(());
        }
        tke::settle(node, &materials.test_image)?;
        let label = format!("{}={}", tke::ADDRESS_LABEL, node.address());
        self.kubectl(&["label", "--overwrite", "node", node.name(), &label])
            .map(drop)
    }

    fn init(&self, maker: &Node) -> Result<JoinCredentials> {
        // What is done on m1 later needs its own one.
        for node in [&self.m1, maker] {
            let config = config::init_config(&self.spec, &self.endpoint, node.address());
            node.write(INIT_CONFIG, &config, 0o600)?;
        }
        let said = maker
            .sh(&format!(
                "kubeadm init --config {INIT_CONFIG} {} {}",
                config::upload_certs_flag(self.spec.version),
                config::ignored_checks(self.spec.version)
            ))?
            .timeout(KUBEADM_LIMIT)
            .output()?;
        JoinCredentials::read(&said).context("reading the join command that kubeadm init prints")
    }

    /// Plain `kubeadm join` of a machine that is ready for it, as a master.
    pub fn join(&self, node: &Node, credentials: &JoinCredentials) -> Result<()> {
        node.sh(&format!(
            "{ADMIT_ETCD} {}",
            self.join_command(node, credentials)
        ))?
        .timeout(KUBEADM_LIMIT)
        .run()
    }

    /// The same, killed on the machine after a time (exit status [`KILLED`]); how it ended is for the caller to judge.
    pub fn try_join(
        &self,
        node: &Node,
        credentials: &JoinCredentials,
        limit: Duration,
    ) -> Result<Outcome> {
        node.sh(&format!(
            "timeout --signal=KILL {} {}",
            limit.as_secs(),
            self.join_command(node, credentials)
        ))?
        .timeout(KUBEADM_LIMIT)
        .outcome()
    }

    /// Makes a worker of a machine that is ready for it, by plain `kubeadm join`.
    pub fn join_worker(&self, node: &Node, credentials: &JoinCredentials) -> Result<()> {
        node.sh(&self.worker_command(node, credentials))?
            .timeout(KUBEADM_LIMIT)
            .run()
    }

    fn worker_command(&self, node: &Node, credentials: &JoinCredentials) -> String {
        let name = match self.spec.shape {
            Shape::Plain => String::new(),
            Shape::Tke => tke::join_flag(node),
        };
        format!(
            "kubeadm join {} --token {} --discovery-token-ca-cert-hash {} {} {name}",
            self.endpoint,
            credentials.token,
            credentials.ca_hash,
            config::ignored_checks(self.spec.version)
        )
    }

    fn join_command(&self, node: &Node, credentials: &JoinCredentials) -> String {
        format!(
            "{} {} --certificate-key {}",
            self.worker_command(node, credentials),
            config::control_plane_flag(self.spec.version),
            credentials.certificate_key,
        )
    }

    fn wait_ready(&self, masters: usize) -> Result<()> {
        wait::until("every node is Ready", READY_LIMIT, || {
            let nodes = self.kubectl_json(&["get", "nodes"])?;
            let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
            let ready = nodes.iter().filter(|node| is_ready(node)).count();
            Ok((nodes.len() != masters || ready != masters)
                .then(|| format!("{ready} of {} nodes Ready, {masters} wanted", nodes.len())))
        })?;
        wait::until("CoreDNS is available", READY_LIMIT, || {
            let status = self.kubectl_json(&[
                "-n",
                "kube-system",
                "get",
                "deployment",
                "coredns",
            ])?["status"]
                .clone();
            let available = status["availableReplicas"].as_u64().unwrap_or(0);
            let wanted = status["replicas"].as_u64().unwrap_or(0);
            Ok((wanted == 0 || available != wanted)
                .then(|| format!("{available} of {wanted} replicas")))
        })
    }

    /// While etcd goes from one member to two it has no leader for some seconds. Watches through an API server of 1.20 that were open then may never hear of anything
    /// again until they end by themselves minutes later (kubernetes/kubernetes#97294): DNS and kube-proxy on m1 did not see new Services. People start that API server
    /// again, and so does the lab.
    pub fn renew_watches(&self, node: &Node) -> Result<()> {
        node.run(&self.spec.runtime.restart("kube-apiserver"))?;
        wait::until(
            &format!("the API server on {node} answers"),
            READY_LIMIT,
            || {
                let server = format!("--server=https://{}:6443", node.address());
                let health = self.kubectl(&[&server, "get", "--raw", "/healthz"]);
                Ok(health.err().map(|error| format!("{error:#}")))
            },
        )
    }

    /// Waits until nothing of the making is still on its way: taints that go when a node is ready, and signatures by tokens that are revoked.
    fn wait_settled(&self) -> Result<()> {
        wait::until("the cluster has settled", READY_LIMIT, || {
            let nodes = self.kubectl(&[
                "get",
                "nodes",
                "-o",
                "jsonpath={.items[*].spec.taints[*].key}",
            ])?;
            if nodes.contains("node.kubernetes.io/") {
                return Ok(Some(format!("taints: {nodes}")));
            }
            // A kubelet that started before its API server lists its static pods late.
            let listed = self.kubectl(&[
                "-n",
                "kube-system",
                "get",
                "pods",
                "-l",
                "component=etcd",
                "-o",
                "name",
            ])?;
            let (pods, members) = (
                listed.lines().count(),
                self.etcdctl(&["member", "list"])?.lines().count(),
            );
            if pods < members {
                return Ok(Some(format!("{pods} etcd pods of {members} are listed")));
            }
            let info =
                self.kubectl_json(&["-n", "kube-public", "get", "configmap", "cluster-info"])?;
            let signed = info["data"]
                .as_object()
                .is_some_and(|data| data.keys().any(|key| key.starts_with("jws-")));
            Ok(signed.then(|| "cluster-info is still signed with a token".to_owned()))
        })
    }

    /// Takes back what the joins needed: the product has to bring its own.
    pub fn revoke(&self) -> Result<()> {
        self.kubectl(&[
            "-n",
            "kube-system",
            "delete",
            "secret",
            "--ignore-not-found",
            "kubeadm-certs",
        ])?;
        self.kubectl(&[
            "-n",
            "kube-system",
            "delete",
            "secret",
            "--field-selector",
            "type=bootstrap.kubernetes.io/token",
        ])?;
        Ok(())
    }
}

/// Whether a Node says that it is Ready.
pub fn is_ready(node: &Value) -> bool {
    node["status"]["conditions"].as_array().is_some_and(|all| {
        all.iter()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
    })
}

/// An API server without etcd would let every question wait for a minute.
fn kubectl(args: &[&str]) -> String {
    let args: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
    format!(
        "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout=20s {}",
        args.join(" ")
    )
}

/// `ClusterStatus` without the endpoint of a node: its key and the deeper lines below it.
fn without_endpoint(status: &str, node: &str) -> String {
    let key = format!("  {node}:");
    let mut inside = false;
    let mut kept = String::new();
    for line in status.lines() {
        inside = line == key || (inside && line.starts_with("   "));
        if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// What kubeadm prints for the next master. They are the lab's own and revoked before the product comes.
#[derive(Debug)]
pub struct JoinCredentials {
    token: String,
    ca_hash: String,
    certificate_key: String,
}

impl JoinCredentials {
    fn read(output: &str) -> Result<Self> {
        let words: Vec<&str> = output.split_whitespace().collect();
        let after = |flag: &str| {
            let at = words.iter().position(|word| *word == flag);
            at.and_then(|at| words.get(at + 1))
                .map(|value| (*value).to_owned())
                .ok_or_else(|| anyhow!("no {flag} in it"))
        };
        Ok(Self {
            token: after("--token")?,
            ca_hash: after("--discovery-token-ca-cert-hash")?,
            certificate_key: after("--certificate-key")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_endpoint_is_cut_out() {
        let status = "apiEndpoints:\n  b1:\n    advertiseAddress: 10.77.0.21\n    bindPort: 6443\n  m1:\n    \
                      advertiseAddress: 10.77.0.11\n    bindPort: 6443\nkind: ClusterStatus\n";
        assert_eq!(
            without_endpoint(status, "b1"),
            "apiEndpoints:\n  m1:\n    advertiseAddress: 10.77.0.11\n    bindPort: 6443\nkind: ClusterStatus\n"
        );
        assert_eq!(without_endpoint(status, "b"), status);
    }

    #[test]
    fn the_join_command_is_found_in_what_init_prints() {
        let said = "You can now join any number of the control-plane node running:\n\n  kubeadm join 10.77.0.11:6443 \
                    --token abcdef.0123456789abcdef \\\n    --discovery-token-ca-cert-hash sha256:aa \\\n    \
                    --experimental-control-plane --certificate-key bb\n\nThen you can join any number of worker nodes";
        let read = JoinCredentials::read(said).expect("all are there");
        assert_eq!(
            (
                read.token.as_str(),
                read.ca_hash.as_str(),
                read.certificate_key.as_str()
            ),
            ("abcdef.0123456789abcdef", "sha256:aa", "bb")
        );
        assert!(JoinCredentials::read("error execution phase preflight").is_err());
    }
}
