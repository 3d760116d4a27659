//! etcd's members and their health, asked with the `etcdctl` in the healthy master's own etcd container.
//!
//! Member IDs are 64-bit numbers: decimal in JSON, hexadecimal in `etcdctl member remove`. They never pass through a float. "Started" in etcd's list only means that a
//! member once started; health is asked of each member with a read that needs the quorum.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::objects::{List, Pod};
use super::{Cluster, ClusterView};
use crate::host::command::{Cmd, CommandError, Output};

/// A member's ID, printed as `etcdctl member remove` wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A member, as etcd lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its ID.
    #[serde(rename = "ID")]
    pub id: MemberId,
    /// The node's name; empty until it has started once.
    #[serde(default)]
    pub name: String,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started once.
    #[serde(rename = "clientURLs", default)]
    pub client_urls: Vec<String>,
    /// Whether it is still without a vote.
    #[serde(rename = "isLearner", default)]
    pub is_learner: bool,
    /// Whether it answers a read that needs the quorum.
    #[serde(skip)]
    pub healthy: bool,
}

impl Member {
    /// Whether it listens for its peers at `address`.
    pub fn is_at(&self, address: &str) -> bool {
        self.peer_urls.iter().any(|url| host_of(url) == address)
    }

    /// Whether it counts: it has started, votes and answers.
    pub fn votes(&self) -> bool {
        !self.name.is_empty() && !self.is_learner && self.healthy
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() {
            "(never started)"
        } else {
            &self.name
        };
        write!(f, "{name} {} {}", self.id, self.peer_urls.join(","))
    }
}

/// The host in `https://HOST:PORT`, without brackets.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    host.trim_matches(|bracket| bracket == '[' || bracket == ']')
}

/// How to reach the etcd of the healthy master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    container: Container,
    /// `--cacert`, `--cert`, `--key`, as the server itself uses them.
    credentials: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Container {
    Docker(String),
    Cri(String),
}

impl Etcd {
    /// Finds the etcd container of the node `node`, whose runtime the cluster calls `runtime` (`docker://…`, `containerd://…`).
    pub fn find(view: &ClusterView, node: &str, runtime: &str) -> Result<Self> {
        let pods: List<Pod> = view.get(&[
            "pods",
            "--namespace",
            "kube-system",
            "--selector",
            "component=etcd",
        ])?;
        let pod = pods
            .items
            .iter()
            .find(|pod| pod.spec.node_name == node)
            .with_context(|| format!("no etcd pod runs on {node}"))?;
        let server = pod
            .spec
            .containers
            .first()
            .with_context(|| format!("the etcd pod of {node} has no container"))?;
        let words: Vec<&String> = server.command.iter().chain(&server.args).collect();
        let flag = |name: &str| {
            let found = words
                .iter()
                .find_map(|word| word.strip_prefix(&format!("--{name}=")));
            found
                .map(str::to_owned)
                .with_context(|| format!("the etcd of {node} runs without --{name}"))
        };
        let credentials = vec![
            format!("--cacert={}", flag("trusted-ca-file")?),
            format!("--cert={}", flag("cert-file")?),
            format!("--key={}", flag("key-file")?),
        ];
        let labels = [
            "io.kubernetes.container.name=etcd",
            "io.kubernetes.pod.namespace=kube-system",
        ];
        let (program, args): (_, Vec<String>) = if runtime.starts_with("docker://") {
            let filters = labels
                .iter()
                .flat_map(|label| ["--filter".to_owned(), format!("label={label}")]);
            (
                "docker",
                [
                    "ps".to_owned(),
                    "--quiet".to_owned(),
                    "--no-trunc".to_owned(),
                ]
                .into_iter()
                .chain(filters)
                .collect(),
            )
        } else {
            let filters = labels
                .iter()
                .flat_map(|label| ["--label".to_owned(), (*label).to_owned()]);
            (
                "crictl",
                [
                    "ps".to_owned(),
                    "--quiet".to_owned(),
                    "--no-trunc".to_owned(),
                ]
                .into_iter()
                .chain(filters)
                .collect(),
            )
        };
        let found = view.ask(&Cmd::new(program, args))?;
        ensure!(
            found.ok(),
            "cannot list the containers of {node}: {}",
            found.evidence()
        );
        let Some(id) = found.text().lines().next().map(str::to_owned) else {
            bail!("etcd does not run on {node}. See there: {program} ps -a; journalctl -u kubelet");
        };
        let container = if program == "docker" {
            Container::Docker(id)
        } else {
            Container::Cri(id)
        };
        Ok(Self {
            container,
            credentials,
        })
    }

    fn command(&self, endpoint: &str, args: &[&str]) -> Cmd {
        let fixed = ["etcdctl", "--dial-timeout=3s", "--command-timeout=8s"]
            .into_iter()
            .map(str::to_owned);
        let rest = [format!("--endpoints={endpoint}")]
            .into_iter()
            .chain(self.credentials.iter().cloned())
            .chain(args.iter().map(|&arg| arg.to_owned()));
        let (program, exec) = match &self.container {
            // etcdctl before 3.4 speaks the old API unless told.
            Container::Docker(id) => ("docker", vec!["exec", "--env", "ETCDCTL_API=3", id]),
            Container::Cri(id) => ("crictl", vec!["exec", id]),
        };
        Cmd::new(
            program,
            exec.into_iter().map(str::to_owned).chain(fixed).chain(rest),
        )
        .timeout(Duration::from_secs(20))
    }

    /// Every member, with its health.
    pub fn members(&self, view: &ClusterView) -> Result<Vec<Member>> {
        let mut members = self.listed(view)?;
        for member in &mut members {
            if let Some(url) = member.client_urls.first() {
                member.healthy = view.ask(&self.command(url, &["endpoint", "health"]))?.ok();
            }
        }
        Ok(members)
    }

    /// Every member, without asking for its health.
    pub fn listed(&self, view: &ClusterView) -> Result<Vec<Member>> {
        #[derive(Deserialize)]
        struct Answer {
            members: Vec<Member>,
        }
        let output = view.ask(&self.command(LOCAL, &["member", "list", "--write-out=json"]))?;
        ensure!(
            output.ok(),
            "etcd on {} does not list its members; it may have lost its quorum: {}",
            view.address(),
            output.evidence()
        );
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .context("etcd's member list is not understood")?;
        Ok(answer.members)
    }

    /// Removes a member. The caller has made sure that the quorum survives it.
    pub fn remove(&self, cluster: &Cluster, id: MemberId) -> Result<Output, CommandError> {
        cluster.run(&self.command(LOCAL, &["member", "remove", &id.to_string()]))
    }
}

/// Every kubeadm etcd listens here too.
const LOCAL: &str = "https://127.0.0.1:2379";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_above_what_a_float_holds_keep_every_bit() {
        let member: Member = serde_json::from_str(r#"{"ID":10501334649042878791,"name":"m1","peerURLs":["https://10.0.0.1:2380"],"clientURLs":["https://10.0.0.1:2379"]}"#).unwrap();
        assert_eq!(member.id.to_string(), "91bc3c398fb3c147");
        assert_eq!(member.id.0, 10_501_334_649_042_878_791);
    }

    #[test]
    fn a_member_is_found_by_its_whole_address() {
        let member: Member =
            serde_json::from_str(r#"{"ID":1,"peerURLs":["https://10.0.0.11:2380"]}"#).unwrap();
        assert!(member.is_at("10.0.0.11") && !member.is_at("10.0.0.1") && !member.votes());
        assert_eq!(host_of("https://[fd00::1]:2380"), "fd00::1");
    }
}
