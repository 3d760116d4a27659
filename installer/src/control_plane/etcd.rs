//! etcd's members and their health, asked with the `etcdctl` in the healthy master's own etcd container (see [`super::containers`]).
//!
//! Member IDs are 64-bit numbers: decimal in JSON, hexadecimal in `etcdctl member remove`. They never pass through a float. "Started" in etcd's list only means that a
//! member once started; health is asked of each member with a read, which needs the quorum where the member has a vote.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::alarms::Alarm;
use super::containers::{Container, Which, listing, value};
use super::objects::{self, List, Node, Pod, PodSpec};
use super::{Cluster, ClusterView};
use crate::host::command::{Cmd, CommandError, Output};
use crate::runtime::Runtime;
use crate::signals::Stop;

/// A member's ID, printed as `etcdctl member remove` wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u64);

impl MemberId {
    /// Whether this text stands for it: hexadecimal as `etcdctl member list` prints it as a table, with or without `0x`, or decimal as it does in JSON.
    pub fn is(self, text: &str) -> bool {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u64::from_str_radix(digits, 16) == Ok(self.0) || text.parse() == Ok(self.0)
    }
}

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
    /// Whether it answers a read: that of a voter needs the quorum, and a learner serves none but of its own data.
    #[serde(skip)]
    pub healthy: bool,
}

/// The static pods of etcd.
const PODS: [&str; 5] = [
    "pods",
    "--namespace",
    "kube-system",
    "--selector",
    "component=etcd",
];

impl Member {
    /// Whether it listens for its peers at `address`.
    pub fn is_at(&self, address: &str) -> bool {
        self.peer_urls.iter().any(|url| host_of(url) == address)
    }

    /// The address at which it listens for its peers.
    pub fn address(&self) -> Option<&str> {
        self.peer_urls.first().map(|url| host_of(url))
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
    /// Where it listens for whoever is beside it.
    local: String,
    /// Whether its etcdctl speaks etcd's first API unless told.
    old: bool,
    /// `--cacert`, `--cert`, `--key`, as the server itself uses them.
    credentials: Vec<String>,
    /// Nothing where the pod mounts no folder of the node there.
    data: Option<DataFolder>,
}

/// The folder of etcd's data on the healthy master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DataFolder {
    /// Its path in the container.
    pub(super) inside: String,
    /// Its path on the node.
    pub(super) outside: String,
}

/// What an etcd says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its version.
    pub version: Version,
    /// The newest revision that it knows.
    pub revision: u64,
    /// Bytes of its database.
    pub db_size: u64,
    /// The member that leads, as far as it knows; nothing where nobody does.
    pub leader: Option<MemberId>,
}

/// etcd's version, as far as its tools differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3.
    pub major: u32,
    /// 3 and later.
    pub minor: u32,
}

impl Version {
    /// Reads `3.4.13` or `3.4.13-0`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        Some(Self {
            major: parts.next()?.parse().ok()?,
            minor: parts.next()?.parse().ok()?,
        })
    }

    /// The program beside etcd that looks at snapshot files and restores them: from 3.6 on, etcdctl only takes them.
    pub fn snapshot_tool(self) -> &'static str {
        if self < (Self { major: 3, minor: 6 }) {
            "etcdctl"
        } else {
            "etcdutl"
        }
    }

    /// Whether etcdctl speaks etcd's first API unless `ETCDCTL_API=3` tells it otherwise: before 3.4. From 3.6 on the variable means nothing.
    pub fn speaks_the_first_api(self) -> bool {
        self < (Self { major: 3, minor: 4 })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The manifest of etcd's static pod, where kubeadm writes it: a line for each word of the command.
const MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";

impl Etcd {
    /// The etcd of the healthy master where no API server answers that could tell of it: as its manifest says, and where that cannot be read, as kubeadm makes it.
    pub fn without_api(view: &ClusterView) -> Result<Self> {
        let container = Container::anywhere(view, Which::Running)?.with_context(|| {
            format!(
                "no etcd container runs on {}, neither in Docker nor in containerd",
                view.address()
            )
        })?;
        let manifest = view.file(MANIFEST).ok().flatten().unwrap_or_default();
        let manifest = String::from_utf8_lossy(&manifest);
        let file = |flag: &str, usual: &str| {
            value(&manifest, flag).map_or_else(
                || format!("/etc/kubernetes/pki/etcd/{usual}"),
                str::to_owned,
            )
        };
        let mut lines = manifest.lines().map(str::trim);
        let image = lines.find_map(|line| line.strip_prefix("image:"));
        let tag = image.and_then(|image| image.rsplit_once(':'));
        let listens = value(&manifest, "--listen-client-urls=");
        Ok(Self {
            container,
            local: loopback(listens.unwrap_or_default()),
            old: tag
                .and_then(|(_, tag)| Version::parse(tag))
                .is_some_and(Version::speaks_the_first_api),
            credentials: vec![
                format!("--cacert={}", file("--trusted-ca-file=", "ca.crt")),
                format!("--cert={}", file("--cert-file=", "server.crt")),
                format!("--key={}", file("--key-file=", "server.key")),
            ],
            data: None,
        })
    }

    /// An etcd that crictl enters.
    #[cfg(test)]
    pub(crate) fn by_crictl(id: &str) -> Self {
        Self {
            container: Container::by_crictl(id),
            local: loopback(""),
            old: false,
            credentials: vec![],
            data: None,
        }
    }

    /// Whether the healthy master has a container of etcd, running or not: one that waits for its quorum is started again and again.
    pub fn is_there(view: &ClusterView) -> bool {
        Container::anywhere(view, Which::All).is_ok_and(|found| found.is_some())
    }

    /// Finds the etcd container of `node`, the asked master's, whose runtime listens at `socket`.
    pub fn find(view: &ClusterView, node: &Node, socket: &str) -> Result<Self> {
        let name = &node.metadata.name;
        let runtime = Runtime::of_node(&node.status.node_info.container_runtime_version);
        let pod = Self::pod(view, name, runtime)?;
        let server = pod
            .spec
            .containers
            .first()
            .with_context(|| format!("the etcd pod of {name} has no container"))?;
        let words: Vec<&String> = server.command.iter().chain(&server.args).collect();
        let flag = |flag: &str| {
            let found = words
                .iter()
                .find_map(|word| word.strip_prefix(&format!("--{flag}=")));
            found
                .map(str::to_owned)
                .with_context(|| format!("the etcd of {name} runs without --{flag}"))
        };
        let credentials = vec![
            format!("--cacert={}", flag("trusted-ca-file")?),
            format!("--cert={}", flag("cert-file")?),
            format!("--key={}", flag("key-file")?),
        ];
        let tag = server.image.rsplit_once(':').map_or("", |(_, tag)| tag);
        Ok(Self {
            container: Container::of_etcd(view, node, socket)?,
            local: loopback(&flag("listen-client-urls").unwrap_or_default()),
            old: Version::parse(tag).is_some_and(Version::speaks_the_first_api),
            credentials,
            data: data_folder(&pod.spec, server),
        })
    }

    /// What finding it asks first.
    pub(super) fn pods_question(view: &ClusterView) -> Cmd {
        view.getting(&PODS)
    }

    /// etcd's static pod on the node `node`. A kubelet that started before its API server lists the pods of that start only some time later: that is waited for.
    fn pod(view: &ClusterView, node: &str, runtime: Option<Runtime>) -> Result<Pod> {
        let clock = view.clock();
        let deadline = clock.now() + LISTING;
        loop {
            let pods: List<Pod> = view.get(&PODS)?;
            let found = pods
                .items
                .into_iter()
                .find(|pod| pod.spec.node_name == node);
            if let Some(pod) = found {
                return Ok(pod);
            }
            ensure!(
                clock.now() < deadline,
                "no etcd pod runs on {node}. See there: {}; journalctl -u kubelet",
                listing(runtime)
            );
            clock.pause(LISTING / 12);
        }
    }

    fn command(&self, endpoint: &str, args: &[&str]) -> Cmd {
        self.command_within(Duration::from_secs(8), endpoint, args)
    }

    /// An `etcdctl` that gives up after `limit`.
    pub(super) fn command_within(&self, limit: Duration, endpoint: &str, args: &[&str]) -> Cmd {
        let fixed = [
            "etcdctl".to_owned(),
            "--dial-timeout=3s".to_owned(),
            format!("--command-timeout={}s", limit.as_secs()),
            format!("--endpoints={endpoint}"),
        ];
        let words = fixed
            .into_iter()
            .chain(self.credentials.iter().cloned())
            .chain(args.iter().map(|&arg| arg.to_owned()));
        self.exec(words).timeout(limit + Duration::from_secs(12))
    }

    /// The same, at its own address for whoever is beside it.
    pub(super) fn local_within(&self, limit: Duration, args: &[&str]) -> Cmd {
        self.command_within(limit, &self.local, args)
    }

    /// A command in etcd's container, which may have no shell.
    pub(super) fn exec(&self, words: impl IntoIterator<Item = String>) -> Cmd {
        self.container.exec(self.old, words)
    }

    /// The folder of etcd's data.
    pub(super) fn data(&self) -> Result<&DataFolder> {
        self.data
            .as_ref()
            .context("the etcd pod keeps its data in no folder of its node: it is not kubeadm's")
    }

    /// What the healthy master's own etcd says of itself. It answers this without a quorum too.
    pub fn status(&self, view: &ClusterView) -> Result<Status> {
        let output =
            view.ask(&self.command(&self.local, &["endpoint", "status", "--write-out=json"]))?;
        ensure!(
            output.ok(),
            "etcd on {} does not tell its status: {}",
            view.address(),
            output.evidence()
        );
        Status::parse(&output.stdout)
            .with_context(|| format!("etcd's status on {} is not understood", view.address()))
    }

    /// What the files of [`Etcd::credential_paths`] are called where they are copied to.
    pub const CREDENTIAL_FILES: [&str; 3] = ["ca.crt", "client.crt", "client.key"];

    /// The CA certificate, certificate and key that clients use on the healthy master.
    pub fn credential_paths(&self) -> impl Iterator<Item = &str> {
        self.credentials
            .iter()
            .filter_map(|flag| flag.split_once('='))
            .map(|(_, path)| path)
    }

    /// Whether the healthy master's own etcd answers a read that needs the quorum.
    pub fn answers(&self, view: &ClusterView) -> bool {
        let health = view.ask(&self.command(&self.local, &VOTER_HEALTH));
        health.is_ok_and(|output| has_answered(&output))
    }

    /// Every member, with its health.
    pub fn members(&self, view: &ClusterView) -> Result<Vec<Member>> {
        let members = self.listed(view)?;
        let view = view.ahead(&self.health_of_all(&members));
        self.with_health(&view, members)
    }

    /// The same, and the alarms that are raised.
    pub fn members_and_alarms(&self, view: &ClusterView) -> Result<(Vec<Member>, Vec<Alarm>)> {
        let members = self.listed(view)?;
        let mut questions = self.health_of_all(&members);
        questions.push(self.alarm_list());
        let view = view.ahead(&questions);
        let members = self.with_health(&view, members)?;
        let alarms = self.alarms(&view, &members)?;
        Ok((members, alarms))
    }

    fn with_health(&self, view: &ClusterView, mut members: Vec<Member>) -> Result<Vec<Member>> {
        for member in &mut members {
            if let Some(question) = self.health(member) {
                member.healthy = has_answered(&view.ask(&question)?);
            }
        }
        Ok(members)
    }

    fn health_of_all(&self, members: &[Member]) -> Vec<Cmd> {
        let questions = members.iter().filter_map(|member| self.health(member));
        questions.collect()
    }

    /// Asks a member for its health; nothing of one that never started.
    fn health(&self, member: &Member) -> Option<Cmd> {
        Some(self.command(member.client_urls.first()?, health_of(member)))
    }

    /// The alarms that are raised for any of `members`. etcd tells them only with a quorum.
    pub fn alarms(&self, view: &ClusterView, members: &[Member]) -> Result<Vec<Alarm>> {
        let output = view.ask(&self.alarm_list())?;
        ensure!(
            output.ok(),
            "etcd on {} does not tell its alarms; it may have lost its quorum: {}",
            view.address(),
            output.evidence()
        );
        Ok(Alarm::parse(&output.text(), members))
    }

    fn alarm_list(&self) -> Cmd {
        self.command(&self.local, &["alarm", "list"])
    }

    /// What [`Self::listed`] asks.
    pub fn listing(&self) -> Cmd {
        self.command(&self.local, &["member", "list", "--write-out=json"])
    }

    /// Every member, without asking for its health.
    pub fn listed(&self, view: &ClusterView) -> Result<Vec<Member>> {
        #[derive(Deserialize)]
        struct Answer {
            members: Vec<Member>,
        }
        let output = view.ask(&self.listing())?;
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

    /// Removes `member`. etcd wants 5 s of steady health before it accepts a change of its members: its refusal is taken for a passing one for half a minute. Just
    /// before each try the member must still be listed with this ID, name and peer addresses, and without a vote if it had none, and `stop` must let the run go on: the caller has made sure
    /// that the quorum survives the going of just this member. One that is gone already is fine.
    pub fn remove_steadily(&self, cluster: &Cluster, member: &Member, stop: &Stop) -> Result<()> {
        let patience = (RECONFIGURATION, Duration::from_secs(2));
        self.remove_within(cluster, member, stop, patience)
    }

    fn remove_within(
        &self,
        cluster: &Cluster,
        member: &Member,
        stop: &Stop,
        (limit, pause): (Duration, Duration),
    ) -> Result<()> {
        let clock = cluster.view().clock();
        let deadline = clock.now() + limit;
        loop {
            let listed = self.listed(cluster.view())?;
            let Some(found) = listed.iter().find(|found| found.id == member.id) else {
                return not_replaced(&listed, member);
            };
            ensure!(
                found.name == member.name && found.peer_urls == member.peer_urls,
                "etcd member {member} is now {found}: somebody else changes the members. Nothing was removed; run this again"
            );
            ensure!(
                found.is_learner == member.is_learner,
                "etcd member {member} had no vote, and has one now: its join goes on. Nothing was removed; run this again"
            );
            stop.check()?;
            let Err(cause) = self.remove(cluster, member.id) else {
                return Ok(());
            };
            ensure!(
                cause.to_string().contains("unhealthy") && clock.now() < deadline,
                "cannot remove etcd member {member}: {cause}"
            );
            clock.pause(pause);
        }
    }

    fn remove(&self, cluster: &Cluster, id: MemberId) -> Result<Output, CommandError> {
        cluster.run(&self.command(&self.local, &["member", "remove", &id.to_string()]))
    }
}

/// What a member is asked for its health: a read that needs the quorum, of a key that nobody has. It is what `etcdctl endpoint health` asks through 3.4; from 3.5 on, that
/// fails for every member as soon as an alarm is raised for one.
const VOTER_HEALTH: [&str; 3] = ["get", "--consistency=l", "health"];

/// The same for a learner. etcd lets it serve its status and reads of its own data, and refuses every other question, however well it is (3.4 to 3.6, `isRPCSupportedForLearner`).
const LEARNER_HEALTH: [&str; 3] = ["get", "--consistency=s", "health"];

/// What `etcdctl` asks a member for its health.
pub(crate) fn health_of(member: &Member) -> &'static [&'static str; 3] {
    if member.is_learner {
        &LEARNER_HEALTH
    } else {
        &VOTER_HEALTH
    }
}

/// Whether a member answered [`health_of`] it. Where etcd has users and ours may not read, its refusal came by the quorum all the same.
pub(crate) fn has_answered(output: &Output) -> bool {
    let refused = "etcdserver: permission denied";
    output.ok() || String::from_utf8_lossy(&output.stderr).contains(refused)
}

/// A member that is gone is what was wanted, unless another one took its name or its address.
fn not_replaced(listed: &[Member], gone: &Member) -> Result<()> {
    let same = |other: &&Member| {
        (!gone.name.is_empty() && other.name == gone.name)
            || other
                .peer_urls
                .iter()
                .any(|url| gone.peer_urls.contains(url))
    };
    if let Some(other) = listed.iter().find(same) {
        bail!(
            "etcd member {gone} is gone, and {other} is there in its place: somebody else changes the members. Nothing was removed; run this again"
        );
    }
    Ok(())
}

impl Status {
    /// Reads what `etcdctl endpoint status --write-out=json` prints of one endpoint, in 3.3 and later.
    fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Endpoint {
            #[serde(rename = "Status")]
            status: Answer,
        }
        #[derive(Deserialize)]
        struct Answer {
            header: Header,
            version: String,
            #[serde(rename = "dbSize")]
            db_size: u64,
            #[serde(default)]
            leader: Option<MemberId>,
        }
        #[derive(Deserialize)]
        struct Header {
            revision: u64,
        }
        let [Endpoint { status }] = serde_json::from_slice(json)?;
        let version = Version::parse(&status.version)
            .with_context(|| format!("{:?} is no version", status.version))?;
        Ok(Self {
            version,
            revision: status.header.revision,
            db_size: status.db_size,
            // Zero is etcd's word for nobody.
            leader: status.leader.filter(|leader| leader.0 != 0),
        })
    }
}

/// Where etcd's data lies on its node.
fn data_folder(pod: &PodSpec, server: &objects::Container) -> Option<DataFolder> {
    let words = || server.command.iter().chain(&server.args);
    let inside = words()
        .find_map(|word| word.strip_prefix("--data-dir="))
        .unwrap_or(DATA_DIR);
    let mount = server
        .volume_mounts
        .iter()
        .filter(|mount| Path::new(inside).starts_with(&mount.mount_path))
        .max_by_key(|mount| mount.mount_path.len())?;
    let volume = pod
        .volumes
        .iter()
        .find(|volume| volume.name == mount.name)?;
    let below = Path::new(inside).strip_prefix(&mount.mount_path).ok()?;
    let whole = Path::new(&volume.host_path.as_ref()?.path).join(below);
    // Without the slash that a join with nothing leaves.
    let outside: PathBuf = whole.components().collect();
    Some(DataFolder {
        inside: inside.trim_end_matches('/').to_owned(),
        outside: outside.to_str()?.to_owned(),
    })
}

/// How long a kubelet may take to list the static pods of a master that has just started; 1.14.0 was seen to take most of a minute.
const LISTING: Duration = Duration::from_secs(60);

/// kubeadm's choice.
const DATA_DIR: &str = "/var/lib/etcd";

/// How long etcd's refusal of an unsteady cluster is taken for a passing one.
const RECONFIGURATION: Duration = Duration::from_secs(30);

/// Of the addresses at which an etcd listens for clients, the one that kubeadm gives it for whoever is beside it: IPv6's where the master is known by such an address.
fn loopback(urls: &str) -> String {
    let is_local = |url: &&str| url.contains("//127.0.0.1:") || url.contains("//[::1]:");
    let url = urls.split(',').find(is_local);
    url.unwrap_or("https://127.0.0.1:2379").to_owned()
}

#[cfg(test)]
mod tests;
