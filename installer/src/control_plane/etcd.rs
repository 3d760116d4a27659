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
use super::containers::{Container, Which, listing};
use super::objects::{self, List, Node, Pod, PodSpec};
use super::{Cluster, ClusterView};
use crate::host::command::{Cmd, CommandError, Output};
use crate::runtime::Runtime;
use crate::signals::Stop;

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

impl Etcd {
    /// The etcd container of the healthy master where no API server answers that could tell of it: as kubeadm makes it.
    pub fn without_api(view: &ClusterView) -> Result<Self> {
        let container = Container::anywhere(view, Which::Running)?.with_context(|| {
            format!(
                "no etcd container runs on {}, neither in Docker nor in containerd",
                view.address()
            )
        })?;
        let pki = "/etc/kubernetes/pki/etcd";
        Ok(Self {
            container,
            // Docker tells it; with containerd and without an API server nothing tells of an etcd as old as that.
            old: false,
            credentials: vec![
                format!("--cacert={pki}/ca.crt"),
                format!("--cert={pki}/server.crt"),
                format!("--key={pki}/server.key"),
            ],
            data: None,
        })
    }

    /// An etcd that crictl enters.
    #[cfg(test)]
    pub(crate) fn by_crictl(id: &str) -> Self {
        Self {
            container: Container::by_crictl(id),
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
        let output = view.ask(&self.command(LOCAL, &["endpoint", "status", "--write-out=json"]))?;
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
        let health = view.ask(&self.command(LOCAL, &VOTER_HEALTH));
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
        self.command(LOCAL, &["alarm", "list"])
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
        cluster.run(&self.command(LOCAL, &["member", "remove", &id.to_string()]))
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

/// Every kubeadm etcd listens here too.
pub(super) const LOCAL: &str = "https://127.0.0.1:2379";

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::host::scripted::Scripted;
    use crate::joining::fixtures::member;

    const M2: &str = r#"{"ID":2,"name":"m2","peerURLs":["https://10.0.0.12:2380"]}"#;

    fn etcd() -> Etcd {
        Etcd::by_crictl("c0ffee")
    }

    /// Removes m2 where etcd lists `listed`, one after the other, and answers a removal by `answers`; tells what came of it and how often a removal was tried.
    fn removal<'t>(
        listed: impl IntoIterator<Item = &'t str>,
        answers: impl IntoIterator<Item = (i32, &'t str)>,
        limit: Duration,
    ) -> (Result<(), String>, usize) {
        let judged = member(2, "m2", "10.0.0.12");
        removal_of(&judged, &Stop::default(), listed, answers, limit)
    }

    /// The same, of m2 as it was judged, as long as `stop` lets it.
    fn removal_of<'t>(
        judged: &Member,
        stop: &Stop,
        listed: impl IntoIterator<Item = &'t str>,
        answers: impl IntoIterator<Item = (i32, &'t str)>,
        limit: Duration,
    ) -> (Result<(), String>, usize) {
        let exec = "crictl --runtime-endpoint unix:///run/containerd/containerd.sock --timeout 20s exec c0ffee etcdctl --dial-timeout=3s --command-timeout=8s --endpoints=https://127.0.0.1:2379";
        let lists: Vec<String> = listed
            .into_iter()
            .map(|members| format!(r#"{{"members":[{members}]}}"#))
            .collect();
        let runner = Arc::new(
            Scripted::new()
                .once_each(
                    &format!("{exec} member list"),
                    lists.iter().map(|list| (0, list.as_str())),
                )
                .once_each(&format!("{exec} member remove 2"), answers),
        );
        let cluster = Cluster::new(ClusterView::new(runner.clone(), "10.0.0.11"));
        let removed = etcd().remove_within(&cluster, judged, stop, (limit, Duration::ZERO));
        let asked = runner.asked();
        let tries = asked.iter().filter(|cmd| cmd.contains(" remove ")).count();
        (removed.map_err(|cause| cause.to_string()), tries)
    }

    const UNHEALTHY: (i32, &str) = (1, "Error: etcdserver: unhealthy cluster");

    #[test]
    fn a_member_is_well_by_a_read_and_alarms_are_asked_by_themselves() {
        let at = |address: &str| {
            format!(
                "crictl --runtime-endpoint unix:///run/containerd/containerd.sock --timeout 20s exec c0ffee etcdctl --dial-timeout=3s --command-timeout=8s --endpoints=https://{address}:2379"
            )
        };
        let with_clients = |id: u64, name: &str, address: &str| {
            format!(
                r#"{{"ID":{id},"name":"{name}","peerURLs":["https://{address}:2380"],"clientURLs":["https://{address}:2379"]}}"#
            )
        };
        let listed = [
            with_clients(1, "m1", "10.0.0.11"),
            with_clients(2, "m2", "10.0.0.12"),
            with_clients(3, "m3", "10.0.0.13"),
            r#"{"ID":4,"name":"","peerURLs":["https://10.0.0.14:2380"]}"#.to_owned(),
            with_clients(5, "m5", "10.0.0.15").replace('}', r#","isLearner":true}"#),
        ];
        let list = format!(r#"{{"members":[{}]}}"#, listed.join(","));
        let read = |address: &str| format!("{} get --consistency=l health", at(address));
        let runner = Scripted::new()
            .on(&format!("{} member list", at("127.0.0.1")), 0, &list)
            .on(&read("10.0.0.11"), 0, "")
            .on(&read("10.0.0.12"), 1, "Error: context deadline exceeded")
            .on(
                &read("10.0.0.13"),
                1,
                "Error: etcdserver: permission denied",
            )
            .on(
                &format!("{} get --consistency=s health", at("10.0.0.15")),
                0,
                "",
            )
            .on(
                &format!("{} alarm list", at("127.0.0.1")),
                0,
                "memberID:1 alarm:NOSPACE \n",
            );
        let view = ClusterView::new(Arc::new(runner), "10.0.0.11");
        let (members, alarms) = etcd().members_and_alarms(&view).unwrap();
        let healthy: Vec<bool> = members.iter().map(|member| member.healthy).collect();
        assert_eq!(healthy, [true, false, true, false, true]);
        assert_eq!(alarms.len(), 1);
        assert!(alarms[0].to_string().contains("alarm NOSPACE for m1"));
    }

    #[test]
    fn a_removal_that_etcd_puts_off_is_tried_again() {
        let (removed, tries) = removal([M2], [UNHEALTHY, (0, "")], Duration::from_secs(9));
        assert_eq!((removed, tries), (Ok(()), 2));
    }

    #[test]
    fn a_removal_is_not_tried_for_ever_nor_after_another_refusal() {
        let (removed, tries) = removal([M2], [UNHEALTHY], Duration::ZERO);
        assert!(removed.unwrap_err().contains("unhealthy") && tries == 1);
        let (removed, tries) = removal([M2], [(1, "permission denied")], Duration::from_secs(9));
        assert!(removed.unwrap_err().contains("denied") && tries == 1);
    }

    #[test]
    fn a_removal_is_not_tried_once_the_clusters_lock_is_lost() {
        let stop = Stop::default();
        stop.lock_is_held_until(Instant::now());
        let judged = member(2, "m2", "10.0.0.12");
        let limit = Duration::from_secs(9);
        let (removed, tries) = removal_of(&judged, &stop, [M2], [(0, "")], limit);
        assert!(removed.unwrap_err().contains("lock") && tries == 0);
    }

    #[test]
    fn a_member_that_is_gone_already_is_fine() {
        let other = r#"{"ID":3,"name":"m3","peerURLs":["https://10.0.0.13:2380"]}"#;
        assert_eq!(removal([other], [(0, "")], Duration::ZERO), (Ok(()), 0));
        let (removed, tries) = removal([M2, other], [UNHEALTHY], Duration::from_secs(9));
        assert_eq!((removed, tries), (Ok(()), 1), "it went between two tries");
    }

    #[test]
    fn nothing_is_removed_where_id_name_and_address_do_not_all_agree() {
        for changed in [
            r#"{"ID":2,"name":"m9","peerURLs":["https://10.0.0.12:2380"]}"#,
            r#"{"ID":2,"name":"m2","peerURLs":["https://10.0.0.19:2380"]}"#,
            r#"{"ID":9,"name":"m2","peerURLs":["https://10.0.0.19:2380"]}"#,
            r#"{"ID":9,"name":"","peerURLs":["https://10.0.0.12:2380"]}"#,
        ] {
            let (removed, tries) = removal([changed], [(0, "")], Duration::ZERO);
            assert!(removed.unwrap_err().contains("Nothing was removed"));
            assert_eq!(tries, 0, "{changed}");
            let (_, tries) = removal([M2, changed], [UNHEALTHY, (0, "")], Duration::from_secs(9));
            assert_eq!(tries, 1, "it changed between two tries: {changed}");
        }
    }

    #[test]
    fn a_learner_that_got_its_vote_is_not_removed_as_one() {
        let learner =
            r#"{"ID":2,"name":"m2","peerURLs":["https://10.0.0.12:2380"],"isLearner":true}"#;
        let judged = Member {
            is_learner: true,
            ..member(2, "m2", "10.0.0.12")
        };
        let remove = |listed: &[&'static str], answers: &[(i32, &'static str)]| {
            let (listed, answers) = (listed.iter().copied(), answers.iter().copied());
            let limit = Duration::from_secs(9);
            removal_of(&judged, &Stop::default(), listed, answers, limit)
        };
        assert_eq!(remove(&[learner], &[(0, "")]), (Ok(()), 1));
        let (removed, tries) = remove(&[M2], &[(0, "")]);
        assert!(removed.unwrap_err().contains("has one now") && tries == 0);
        let (removed, tries) = remove(&[learner, M2], &[UNHEALTHY, (0, "")]);
        assert!(removed.is_err() && tries == 1, "promoted between two tries");
    }

    #[test]
    fn a_status_is_read_as_etcd_prints_it() {
        // Printed by etcdctl 3.4.23.
        let json = br#"[{"Endpoint":"http://127.0.0.1:2379","Status":{"header":{"cluster_id":15875391935852295136,"member_id":7383792418829112008,"revision":6,"raft_term":2},"version":"3.4.23","dbSize":20480,"leader":7383792418829112008,"raftIndex":9,"raftTerm":2,"raftAppliedIndex":9,"dbSizeInUse":20480}}]"#;
        let status = Status::parse(json).unwrap();
        assert_eq!((status.revision, status.db_size), (6, 20480));
        assert_eq!(status.version.to_string(), "3.4");
        assert_eq!(status.leader, Some(MemberId(7_383_792_418_829_112_008)));
        let leaderless =
            br#"[{"Status":{"header":{"revision":6},"version":"3.4.23","dbSize":1,"leader":0}}]"#;
        assert_eq!(Status::parse(leaderless).unwrap().leader, None);
        assert!(Status::parse(b"[]").is_err());
    }

    #[test]
    fn snapshot_files_are_for_etcdutl_from_3_6_on() {
        let tool = |text| Version::parse(text).map(Version::snapshot_tool);
        assert_eq!(tool("3.3.10"), Some("etcdctl"));
        assert_eq!(tool("3.5.15-0"), Some("etcdctl"));
        assert_eq!(tool("3.6.4"), Some("etcdutl"));
        assert_eq!(tool("3.10.0"), Some("etcdutl"));
        assert_eq!(tool("three"), None);
    }

    #[test]
    fn the_data_folder_is_where_the_node_keeps_it() {
        let place = |flag: &str, mount: &str, path: &str| {
            let pod: PodSpec = serde_json::from_str(&format!(
                r#"{{"containers":[{{"command":["etcd"{flag}],"volumeMounts":[{{"name":"data","mountPath":"{mount}"}}]}}],"volumes":[{{"name":"data","hostPath":{{"path":"{path}"}}}}]}}"#
            ))
            .unwrap();
            data_folder(&pod, &pod.containers[0]).map(|data| (data.inside, data.outside))
        };
        let pair = |inside: &str, outside: &str| Some((inside.to_owned(), outside.to_owned()));
        let flag = r#","--data-dir=/data/etcd""#;
        assert_eq!(
            place("", "/var/lib/etcd", "/var/lib/etcd"),
            pair("/var/lib/etcd", "/var/lib/etcd")
        );
        assert_eq!(
            place(flag, "/data", "/ssd"),
            pair("/data/etcd", "/ssd/etcd")
        );
        assert_eq!(place(flag, "/dat", "/ssd"), None, "not a folder above it");
    }

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
