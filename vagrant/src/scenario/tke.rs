//! The three ways to become a master, in a cluster as TKE makes it: nodes are called by their addresses, the endpoint is a
//! name in /etc/hosts, and the control plane's pods are given files that kubeadm knows nothing of, with the whole of
//! /etc/kubernetes mounted.
//!
//! One row of the table below is one scenario. What the files are for is tried on the new master's own API server, asked
//! from m1: a token that only known_tokens.csv knows opens it, and it writes the audit log that the policy asks for.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Bench, Scenario, again, damage, identity, join};
use crate::checks;
use crate::cluster::tke::{
    ADDRESS_LABEL, AUDIT_LOG, ENDPOINT, FILES, KUBEADM_CONFIG, NEWEST_MINOR, STATIC_POD, TOKEN,
};
use crate::cluster::{Cluster, ClusterSpec, is_ready};
use crate::eras::Version;
use crate::lab::Bare;
use crate::node::{Node, quoted};
use crate::pot;
use crate::wait;

/// A join, and what may come before it: a snapshot, a removal, a dead machine that is asked.
const LIMIT: Duration = Duration::from_mins(12);
/// A static pod without volumes starts within seconds of its manifest, and is listed within a minute.
const POD_PATIENCE: Duration = Duration::from_mins(2);

/// What kubeadm makes for each master by itself, and what must never be another one's.
const OWN: [&str; 4] = [
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/pki/apiserver.crt",
    "/etc/kubernetes/pki/etcd/peer.key",
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
];

/// Where m1 keeps a way in by [`TOKEN`].
const TOKEN_CONF: &str = "/root/lab-token.conf";
/// Where the kernel has a machine's name.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
/// What is made so that the audit log speaks of it.
const AUDITED: &str = "lab-audited";

type Act = fn(&mut Bench) -> Result<()>;

/// One way to become a master of such a cluster.
pub struct Tke {
    name: &'static str,
    about: &'static str,
    prepare: Act,
    node: fn(&Bench) -> Node,
    /// What is typed; `M1` and `M3` stand for addresses.
    command: &'static str,
    /// Masters that the cluster has more than before.
    more: usize,
    /// Whether the machine has the files already that pods are given, and the line for the endpoint that leads to itself.
    has_files: bool,
    /// What it says in the end; `B1` stands for an address.
    says: &'static str,
    /// What is true besides.
    afterwards: Act,
    said: String,
}

/// All of them, as a table: name, what it is, what is done before, on which machine what is typed, more masters, what it says, what is checked besides.
#[rustfmt::skip]
pub fn all() -> Vec<Tke> {
    let row = |name, about, prepare: Act, node: fn(&Bench) -> Node, command, more, says, afterwards: Act| {
        Tke { name, about, prepare, node, command, more, has_files: false, says, afterwards, said: String::new() }
    };
    let own_disk = row("rebirth-own-disk", "a master comes back on its own disk, without its certificates", without_certificates, Bench::m3,
        "rebirth-master --healthy M1", 0, "", is_itself);
    vec![
        row("join", "a machine joins", |bench| bench.backup_ready(Bare::Full).map(drop), Bench::b1,
            "join-master --healthy M1", 1, "", |_| Ok(())),
        row("rebirth", "a wiped master comes back", wiped, Bench::m3,
            "rebirth-master --healthy M1", 0, "", is_itself),
        Tke { has_files: true, ..own_disk },
        row("change", "a dead master is replaced", dead, Bench::b1,
            "change-master --down M3 --healthy M1", 0, "'platform.tkestack.io/machine-ip=B1'", |bench| checks::gone(bench.cluster()?, &bench.m3())),
    ]
}

impl Scenario for Tke {
    fn name(&self) -> String {
        format!("tke/{}", self.name)
    }

    fn about(&self) -> String {
        format!("in a cluster as TKE makes it, {}", self.about)
    }

    fn budget(&self) -> Duration {
        // The first of them may have to wait for the cluster.
        Duration::from_mins(25)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        (ClusterSpec::tke(version), 3)
    }

    fn plays_on(&self, version: Version) -> bool {
        version.minor <= NEWEST_MINOR
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        (self.prepare)(bench)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let m1 = bench.cluster()?.m1().clone();
        // As the machines of a cloud are called, and no node may be: nothing must take the one for the other. Debian's own
        // `hostname` sets no such name.
        let own = m1.output(&format!("cat {HOSTNAME}; echo VM_0_11_lab >{HOSTNAME}"))?;
        let played = self.play(bench);
        m1.run(&format!("echo {} >{HOSTNAME}", quoted(&own)))?;
        played
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, node) = (bench.cluster()?, (self.node)(bench));
        ensure!(
            node.name() == node.address(),
            "the lab itself calls {node} otherwise"
        );
        let says = self.says.replace("B1", node.address());
        ensure!(
            self.said.contains(&says),
            "its end does not say {says:?}:\n{}",
            self.said
        );
        checks::joined(cluster, &node, bench.masters() + self.more)?;
        checks::nothing_kept(cluster)?;
        files_are_the_clusters(cluster, &node)?;
        pods_are_told(cluster, &node)?;
        tokens_are_known(cluster, &node)?;
        makers_are_written_down(cluster, &node)?;
        static_pod_runs(cluster, &node)?;
        let endpoint = node.output(&format!("getent hosts {ENDPOINT}"))?;
        ensure!(
            endpoint.starts_with("127.0.0.1 "),
            "{ENDPOINT} on {node} is {endpoint:?}, and every other master is its own endpoint"
        );
        checks::pods_work(cluster, &node, bench.test_image())?;
        join::no_secret_folder(&node)?;
        (self.afterwards)(bench)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        again::nothing_to_do(bench, &(self.node)(bench), &self.whole_command(bench)?)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        let cluster = bench.cluster()?;
        cluster.m1().run(&format!("rm -f {TOKEN_CONF}"))?;
        cluster.kubectl(&["delete", "configmap", AUDITED, "--ignore-not-found"])?;
        bench.make_whole()?;
        identity::unmark(bench.cluster()?, &bench.m3())
    }
}

impl Tke {
    fn play(&mut self, bench: &mut Bench) -> Result<()> {
        let node = (self.node)(bench);
        bench.used(&node);
        let command = self.command(bench)?;
        let shown = pot::install_well(&node, &format!("{command} --dry-run"), LIMIT)?;
        let shown = shown.stdout + &shown.stderr;
        let manifest = format!("{STATIC_POD}.yaml");
        let missing = [manifest.as_str(), "--copy-static-pods", FILES[0]];
        for words in missing {
            ensure!(
                self.has_files || shown.contains(words),
                "the plan does not say {words:?}:\n{shown}"
            );
        }
        let done = pot::install_well(&node, &self.whole_command(bench)?, LIMIT)?;
        self.said = done.stdout + &done.stderr;
        Ok(())
    }

    fn command(&self, bench: &Bench) -> Result<String> {
        let m1 = bench.cluster()?.m1().address().to_owned();
        let command = self.command.replace("M1", &m1);
        Ok(command.replace("M3", bench.m3().address()))
    }

    fn whole_command(&self, bench: &Bench) -> Result<String> {
        Ok(format!("{} --copy-static-pods --yes", self.command(bench)?))
    }
}

fn wiped(bench: &mut Bench) -> Result<()> {
    identity::mark(bench.cluster()?, &bench.m3())?;
    damage::wipe_follower(bench)
}

fn without_certificates(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    identity::mark(bench.cluster()?, &m3)?;
    let line = m3.output(&format!("grep {} /etc/hosts", quoted(ENDPOINT)))?;
    ensure!(
        line.starts_with("127.0.0.1"),
        "{ENDPOINT} on {m3} does not lead to itself: {line}"
    );
    damage::delete_certificates(bench)
}

fn dead(bench: &mut Bench) -> Result<()> {
    bench.backup_ready(Bare::Full)?;
    damage::power_off(bench)
}

/// The Node has what people gave it, and TKE's own label, which no kubelet brings here.
fn is_itself(bench: &mut Bench) -> Result<()> {
    let (cluster, m3) = (bench.cluster()?, bench.m3());
    identity::kept(cluster, &m3)?;
    let node = cluster.kubectl_json(&["get", "node", m3.name()])?;
    let labels = &node["metadata"]["labels"];
    ensure!(
        labels[ADDRESS_LABEL] == m3.address(),
        "{m3} has lost TKE's label: {labels}"
    );
    Ok(())
}

/// The files that the pods are given are those of m1, and what is each master's own is not.
fn files_are_the_clusters(cluster: &Cluster, node: &Node) -> Result<()> {
    let digests =
        |machine: &Node, files: &[&str]| machine.output(&format!("sha256sum {}", files.join(" ")));
    let (here, there) = (digests(node, &FILES)?, digests(cluster.m1(), &FILES)?);
    ensure!(
        here == there,
        "{node} has other files than m1:\n{here}\n{there}"
    );
    let mode = node.output(&format!("stat -c %a {}", FILES[0]))?;
    ensure!(mode == "600", "{} on {node} has the mode {mode}", FILES[0]);
    let (here, there) = (digests(node, &OWN)?, digests(cluster.m1(), &OWN)?);
    for (here, there) in here.lines().zip(there.lines()) {
        ensure!(here != there, "{node} has m1's own file: {here}");
    }
    let others = format!("test -e {KUBEADM_CONFIG} && ! grep -q ' {node}$' {KUBEADM_CONFIG}");
    ensure!(
        !node.outcome(&others)?.ok(),
        "{KUBEADM_CONFIG} of another master is on {node}"
    );
    Ok(())
}

/// kubectl lists the pods of the new master with the arguments that name the files.
fn pods_are_told(cluster: &Cluster, node: &Node) -> Result<()> {
    let [tokens, audit, policy] = FILES;
    for (component, argument) in [
        ("kube-apiserver", format!("--token-auth-file={tokens}")),
        ("kube-apiserver", format!("--audit-policy-file={audit}")),
        ("kube-scheduler", format!("--policy-config-file={policy}")),
    ] {
        let name = format!("{component}-{node}");
        let pod = cluster.kubectl_json(&["-n", "kube-system", "get", "pod", &name])?;
        let command = &pod["spec"]["containers"][0]["command"];
        ensure!(
            command
                .as_array()
                .is_some_and(|words| words.iter().any(|word| *word == argument)),
            "{name} runs without {argument}: {command}"
        );
    }
    Ok(())
}

/// The new master's API server lets an administrator in whom only known_tokens.csv knows.
fn tokens_are_known(cluster: &Cluster, node: &Node) -> Result<()> {
    let conf = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
        "users": [{ "name": "lab", "user": { "token": TOKEN } }],
        "clusters": [{
            "name": "lab",
            "cluster": {
                "server": format!("https://{}:6443", node.address()),
                "certificate-authority": "/etc/kubernetes/pki/ca.crt",
            },
        }],
    });
    cluster.m1().write(TOKEN_CONF, &conf.to_string(), 0o600)?;
    let said = cluster.m1().output(&format!(
        "kubectl --kubeconfig {TOKEN_CONF} --request-timeout=20s auth can-i delete nodes --all-namespaces"
    ))?;
    ensure!(
        said.lines().any(|line| line == "yes"),
        "the API server on {node} answers the token of known_tokens.csv with {said:?}"
    );
    Ok(())
}

/// The new master's API server keeps the audit log that the policy asks for.
fn makers_are_written_down(cluster: &Cluster, node: &Node) -> Result<()> {
    cluster.kubectl(&["delete", "configmap", AUDITED, "--ignore-not-found"])?;
    let server = format!("https://{}:6443", node.address());
    cluster.kubectl(&["--server", &server, "create", "configmap", AUDITED])?;
    let line = format!(
        "grep -c {} {AUDIT_LOG}",
        quoted(&format!("\"name\":\"{AUDITED}\""))
    );
    wait::until(
        &format!("the API server on {node} has written down who made {AUDITED}"),
        Duration::from_secs(20),
        || {
            let found = node.outcome(&line)?;
            Ok((!found.ok()).then(|| format!("{AUDIT_LOG} does not name it: {}", found.stderr)))
        },
    )
}

/// The copied manifest is a pod that runs.
fn static_pod_runs(cluster: &Cluster, node: &Node) -> Result<()> {
    let name = format!("{STATIC_POD}-{node}");
    wait::until(&format!("{name} is Ready"), POD_PATIENCE, || {
        let field = format!("metadata.name={name}");
        let pods = cluster.kubectl_json(&[
            "-n",
            "kube-system",
            "get",
            "pods",
            "--field-selector",
            &field,
        ])?;
        let pod = pods["items"].as_array().and_then(|pods| pods.first());
        Ok(match pod {
            Some(pod) if is_ready(pod) && pod["spec"]["nodeName"] == node.name() => None,
            Some(pod) => Some(pod["status"].to_string()),
            None => Some("there is no such pod".to_owned()),
        })
    })
}
