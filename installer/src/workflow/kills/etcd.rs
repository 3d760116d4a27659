//! The etcd of the played cluster: its members, whether they answer, and its snapshots.

use std::collections::BTreeSet;

use bundle_spec::Sha256;
use serde_json::json;

use super::files::{Files, bad, good};
use crate::control_plane::etcd::Version;
use crate::host::command::Output;

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: u64,
    /// Empty until it has started.
    pub(super) name: String,
    pub(super) address: String,
    /// Whether it has no vote yet.
    pub(super) learner: bool,
}

/// Where etcd keeps its data, on the node and in its container.
pub(super) const DATA: &str = "/var/lib/etcd";

/// How far this process came with the snapshot that a removal needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Snapshot {
    None,
    Saved,
    Checked,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Etcd {
    pub(super) members: Vec<Member>,
    /// The addresses at which the member's own etcd runs.
    pub(super) alive: BTreeSet<String>,
    pub(super) snapshot: Snapshot,
    pub(super) next: u64,
    pub(super) version: &'static str,
    /// The IDs of the members that were removed, in order.
    pub(super) removed: Vec<u64>,
    pub(super) wrong: Vec<String>,
    /// Bytes of its database, as its status tells.
    pub(super) database: u64,
    /// The addresses of members that answer this machine, and no other.
    pub(super) hidden: BTreeSet<String>,
    /// What `etcdctl alarm list` prints.
    pub(super) alarms: String,
    /// The address of the machine that this program runs on.
    pub(super) here: String,
    /// The addresses of members that no removal may cost.
    pub(super) precious: BTreeSet<String>,
    /// The address of the member that goes only by the rule.
    pub(super) departed: String,
}

impl Etcd {
    /// Whether a member has started and answers, were there a quorum.
    fn is_up(&self, member: &Member) -> bool {
        !member.name.is_empty() && self.alive.contains(&member.address)
    }

    fn is_before(&self, major: u32, minor: u32) -> bool {
        Version::parse(self.version).is_some_and(|version| version < Version { major, minor })
    }

    pub(super) fn has_quorum(&self) -> bool {
        self.is_quorum(&self.members)
    }

    fn is_quorum(&self, members: &[Member]) -> bool {
        let voters = || members.iter().filter(|member| !member.learner);
        let up = voters().filter(|member| self.is_up(member)).count();
        2 * up > voters().count()
    }

    pub(super) fn at(&self, address: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.address == address)
    }

    /// Whether the member at this address answers a read that needs the quorum.
    pub(super) fn answers(&self, address: &str) -> bool {
        let at = self.at(address);
        self.has_quorum() && at.is_some_and(|member| self.is_up(member) && !member.learner)
    }

    /// What the member at this address answers to `etcdctl get`: a learner serves reads of its own data alone.
    pub(super) fn read(&self, address: &str, consistency: &str) -> Output {
        let up = self.at(address).filter(|member| self.is_up(member));
        match up {
            Some(_) if consistency == "--consistency=s" || self.answers(address) => good(""),
            Some(member) if member.learner => {
                bad("Error: etcdserver: rpc not supported for learner")
            }
            _ => bad("Error: context deadline exceeded"),
        }
    }

    /// kubeadm adds a member that has not started; a learner has no vote until it is promoted.
    pub(super) fn add(&mut self, address: &str, learner: bool) {
        let stale = self
            .at(address)
            .map(|stale| format!("a member is added beside {stale:?}"));
        self.wrong.extend(stale);
        self.next += 1;
        self.members.push(Member {
            id: 0xfff0_0000_0000_0000 + self.next,
            name: String::new(),
            address: address.to_owned(),
            learner,
        });
    }

    pub(super) fn promote(&mut self, address: &str) {
        for member in &mut self.members {
            member.learner &= member.address != address;
        }
    }

    pub(super) fn start(&mut self, address: &str, name: &str) {
        for member in &mut self.members {
            if member.address == address {
                name.clone_into(&mut member.name);
                self.alive.insert(address.to_owned());
            }
        }
    }

    /// What `etcdctl` answers on the master at `healthy`, whose files are `files`; `endpoint` is the address that it is to ask.
    pub(super) fn play(
        &mut self,
        files: &mut Files,
        healthy: &str,
        endpoint: &str,
        words: &[&str],
    ) -> Option<Output> {
        let endpoint = match endpoint {
            "127.0.0.1" => healthy,
            other => other,
        };
        Some(match words {
            // From 3.5 on it lists them only with a quorum.
            ["member", "list"] if self.has_quorum() || self.is_before(3, 5) => good(self.list()),
            ["get", _, "health"] if self.hidden.contains(endpoint) => bad("Error: context deadline exceeded"),
            ["get", consistency, "health"] => self.read(endpoint, consistency),
            ["alarm", "list"] if self.has_quorum() => good(self.alarms.clone()),
            ["member" | "alarm", "list"] => bad("Error: context deadline exceeded"),
            ["endpoint", "status"] => good(
                json!([{
                    "Endpoint": endpoint,
                    "Status": { "header": { "revision": 4700 }, "version": self.version, "dbSize": self.database, "leader": 1 },
                }])
                .to_string(),
            ),
            ["snapshot", "save", path] => {
                let mut bytes = vec![7; 512];
                bytes.extend_from_slice(Sha256::of(&bytes).as_bytes());
                files.put(path, bytes);
                self.snapshot = Snapshot::Saved;
                good("")
            }
            ["snapshot", "status", path] => {
                files.get(path)?;
                if self.snapshot == Snapshot::Saved {
                    self.snapshot = Snapshot::Checked;
                }
                good(r#"{"hash":7,"revision":4711,"totalKey":9,"totalSize":512}"#)
            }
            ["member", "remove", id] => self.remove(u64::from_str_radix(id, 16).ok()?),
            _ => return None,
        })
    }

    fn list(&self) -> String {
        let member = |member: &Member| {
            let clients = match member.name.as_str() {
                "" => Vec::new(),
                _ => vec![format!("https://{}:2379", member.address)],
            };
            let mut told = json!({
                "ID": member.id,
                "name": member.name,
                "peerURLs": [format!("https://{}:2380", member.address)],
                "clientURLs": clients,
            });
            // etcd says it of learners alone.
            if member.learner {
                told["isLearner"] = json!(true);
            }
            told
        };
        let members: Vec<_> = self.members.iter().map(member).collect();
        json!({ "members": members }).to_string()
    }

    fn remove(&mut self, id: u64) -> Output {
        let Some(place) = self.members.iter().position(|member| member.id == id) else {
            self.wrong
                .push(format!("{id:x} is removed, which is no member"));
            return bad("Error: member not found");
        };
        if !self.has_quorum() {
            self.wrong
                .push(format!("the removal of {id:x} is tried without a quorum"));
            return bad("Error: context deadline exceeded");
        }
        let mut left = self.members.clone();
        let gone = left.remove(place);
        if !self.is_quorum(&left) {
            self.wrong
                .push(format!("the removal of {gone:?} costs the quorum"));
        }
        if self.precious.contains(&gone.address) || (gone.address != self.here && self.is_up(&gone))
        {
            self.wrong.push(format!("{gone:?} is well, and is removed"));
        }
        if gone.address == self.departed && self.snapshot != Snapshot::Checked {
            self.wrong
                .push(format!("{gone:?} is removed without a checked snapshot"));
        }
        self.snapshot = Snapshot::None;
        self.alive.remove(&gone.address);
        self.members = left;
        self.removed.push(id);
        good("")
    }
}
