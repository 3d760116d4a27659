//! Joining as a master: who joins what, how far it is, what may refuse it, and the steps on the cluster.

pub mod admission;
pub mod bridge;
pub mod clear;
pub mod endpoint;
pub mod extra_files;
#[cfg(test)]
pub mod fixtures;
pub mod join;
pub mod knock;
pub mod kubeadm_images;
pub mod refusals;
pub mod revoke;
pub mod static_pods;
pub mod voting;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bundle_spec::KubeVersion;

use self::bridge::Bridge;
use crate::control_plane::ClusterView;
use crate::control_plane::etcd::{Etcd, Member};
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::objects::Node;
use crate::host::command::Cmd;
use crate::journal::{Change, Entry, Event};
use crate::kubernetes::Traits;
use crate::preflight::kernel::Ignored;
use crate::runtime::Runtime;
use crate::step::View;

/// What the journal calls the beginning of an upload of certificates.
const UPLOADING: &str = "upload the shared certificates (Secret kubeadm-certs)";

/// What the journal calls the end of everything that a join left in the cluster for others to read.
const REVOKED: &str = "revoke the join's credentials";

/// The files that kubeadm writes last on a master; all four stand on one that joined.
pub(crate) const MANIFESTS: [&str; 4] = [
    "etcd.yaml",
    "kube-apiserver.yaml",
    "kube-controller-manager.yaml",
    "kube-scheduler.yaml",
];

/// Who joins what.
#[derive(Clone, Debug)]
pub struct Joining {
    /// What the healthy master told.
    pub cluster: Rc<ClusterFacts>,
    /// The version of the pot's kubeadm.
    pub kubernetes: KubeVersion,
    /// The pot's runtime, which this machine has.
    pub runtime: Runtime,
    /// The name of this machine's node.
    pub node: String,
    /// The address of this machine's apiserver and etcd.
    pub address: String,
    /// Every address of this machine: its kubelet may have taken another one for its Node.
    pub local: Vec<String>,
    /// The address of the healthy master's apiserver, `HOST:PORT`.
    pub discovery: String,
    /// Who answers for the cluster's endpoint until this machine's apiserver does, where that is its own address.
    pub bridge: Option<Bridge>,
    /// Why kubeadm's check `SystemVerification` is ignored, where ours has replaced it; see the preflight.
    pub ignored: Option<Ignored>,
    /// The state folder.
    pub state: PathBuf,
}

/// How far this machine is on its way into the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing of it is there.
    Nothing,
    /// Some of it is there; says what.
    Partial(Vec<String>),
    /// kubeadm came to its end: member listed, started and promoted, node labelled, files in place.
    Whole,
}

impl Joining {
    /// The address that the kubelet is told to take for its Node: that of this machine's apiserver, where the healthy master's Node is at its apiserver's address, too. Where the API servers
    /// have a network of their own, it is the one that this machine's Node had; else nothing, and the kubelet chooses by itself as all others did.
    fn node_ip(&self) -> Option<&str> {
        let cluster = &self.cluster;
        let is_apart = cluster
            .advertised
            .is_some_and(|advertised| !cluster.healthy.is_at_one_of(&[advertised.to_string()]));
        if !is_apart {
            return Some(&self.address);
        }
        let had = cluster.node(&self.node)?.internal_address()?;
        let mut local = self.local.iter().map(String::as_str);
        local.find(|own| *own == had)
    }

    /// Whether a Node is where this machine is.
    pub(crate) fn is_at(&self, node: &Node) -> bool {
        node.has_address(&self.address) || node.is_at_one_of(&self.local)
    }

    /// Looks at this machine and asks the cluster.
    pub fn standing(&self, view: View<'_>) -> Result<Standing> {
        let (members, node, files) = self.found(view)?;
        Ok(self.judge(&members, node.as_ref(), &files))
    }

    /// The Node of this machine's name, where nothing else of it is there.
    pub fn lone_node(&self, view: View<'_>) -> Result<Option<Node>> {
        let (members, node, files) = self.found(view)?;
        let alone = files.is_empty() && self.member(&members).is_none();
        Ok(node.filter(|_| alone))
    }

    /// Etcd's members, this machine's Node, and what kubeadm wrote here.
    fn found(&self, view: View<'_>) -> Result<(Vec<Member>, Option<Node>, Vec<String>)> {
        let cluster = &self.asked(view.cluster.context("this workflow has no cluster")?);
        let members = match &self.cluster.etcd {
            Some(etcd) => etcd.listed(cluster)?,
            None => Vec::new(),
        };
        let node: Option<Node> = cluster.find(&["node", &self.node])?;
        let mut files = Vec::new();
        let places = [
            "/etc/kubernetes/kubelet.conf",
            "/etc/kubernetes/bootstrap-kubelet.conf",
            "/etc/kubernetes/admin.conf",
            "/var/lib/kubelet/config.yaml",
        ];
        let places = places.map(str::to_owned).into_iter();
        for path in places.chain(self.cluster.config.etcd.member_dir()) {
            if view.host.exists(&path)? {
                files.push(path);
            }
        }
        files.extend(
            view.host
                .list("/etc/kubernetes/manifests")?
                .into_iter()
                .filter(|name| MANIFESTS.contains(&name.as_str())),
        );
        Ok((members, node, files))
    }

    /// The member at this machine's address, or of its name.
    fn member<'m>(&self, members: &'m [Member]) -> Option<&'m Member> {
        let mut members = members.iter();
        members.find(|member| member.is_at(&self.address) || member.name == self.node)
    }

    /// What [`Self::standing`] asks the cluster, and whoever waits for the join: etcd's members, and this machine's node.
    fn questions(&self, cluster: &ClusterView) -> Vec<Cmd> {
        let etcd = self.cluster.etcd.iter();
        etcd.map(Etcd::listing)
            .chain([cluster.finding(&["node", &self.node])])
            .collect()
    }

    /// `cluster` with answers to these questions.
    fn asked(&self, cluster: &ClusterView) -> ClusterView {
        cluster.ahead(&self.questions(cluster))
    }

    /// The same, for steps that look at the cluster one after another as it is at one moment: each of them asks this.
    pub fn asked_once(&self, cluster: &ClusterView) -> ClusterView {
        cluster.keeping(&self.questions(cluster))
    }

    fn judge(&self, members: &[Member], node: Option<&Node>, files: &[String]) -> Standing {
        let member = self.member(members);
        let stacked = self.cluster.etcd.is_some();
        let started = member.is_some_and(|member| {
            member.is_at(&self.address) && member.name == self.node && !member.is_learner
        });
        let labelled = node.is_some_and(|node| node.is_master() && self.is_at(node));
        let placed = MANIFESTS
            .iter()
            .filter(|name| stacked || **name != "etcd.yaml")
            .all(|name| files.iter().any(|file| file == name));
        let kubelet = files.iter().any(|file| file.ends_with("/kubelet.conf"));
        if (started || !stacked) && labelled && placed && kubelet {
            return Standing::Whole;
        }
        let mut traces: Vec<String> = files
            .iter()
            .map(|file| format!("{file} on this machine"))
            .collect();
        traces.extend(member.map(|member| format!("etcd member {member}")));
        traces.extend(node.map(|node| format!("node {}", node.metadata.name)));
        if traces.is_empty() {
            Standing::Nothing
        } else {
            Standing::Partial(traces)
        }
    }

    /// How the pot's kubeadm behaves.
    pub fn traits(&self) -> Traits {
        Traits::of(self.kubernetes)
    }

    /// Where this machine's runtime listens, as kubeadm is told it.
    pub fn cri_socket(&self) -> &'static str {
        self.runtime.cri_socket(self.kubernetes)
    }

    /// This machine's apiserver: `https://ADDRESS:PORT`.
    pub fn own_server(&self) -> String {
        let port = self.cluster.apiserver_port;
        if self.address.contains(':') {
            format!("https://[{}]:{port}", self.address)
        } else {
            format!("https://{}:{port}", self.address)
        }
    }

    /// Where kubeadm's own output goes.
    pub fn kubeadm_log(&self) -> PathBuf {
        kubeadm_log(&self.state)
    }
}

/// Where the output of kubeadm's joins goes in a state folder.
pub fn kubeadm_log(state: &Path) -> PathBuf {
    state.join("kubeadm-join.log")
}

/// Whether the journal says that a join of this machine under this name and address was begun and came to no end that it knows of. Clearing is no end: what it leaves
/// behind (a pod network's files, say) is still ours.
pub fn was_interrupted(journal: &[Entry], node: &str, address: &str) -> bool {
    is_open(journal, node, address, |event| {
        is_end_of_run(event) || matches!(event, Event::Done { step } if step == join::ID)
    })
}

/// Whether a join of this machine under this name and address was begun by a run that did not come to its end. Where kubeadm did, the new master may still be starting, and nobody
/// has waited for it.
pub fn is_settling(journal: &[Entry], node: &str, address: &str) -> bool {
    is_open(journal, node, address, is_end_of_run)
}

/// Whether the last join in the journal is that of this machine under this name and address, with no `end` behind it.
fn is_open(journal: &[Entry], node: &str, address: &str, end: impl Fn(&Event) -> bool) -> bool {
    let mut open = false;
    for entry in journal {
        match &entry.event {
            Event::Intent {
                change:
                    Change::Join {
                        node: name,
                        address: place,
                    },
                ..
            } => open = name == node && place == address,
            event if end(event) => open = false,
            _ => {}
        }
    }
    open
}

fn is_end_of_run(event: &Event) -> bool {
    matches!(event, Event::End { outcome } if outcome == "done")
}

/// When this machine began an upload of certificates that it has not revoked since.
pub fn uploaded_since(journal: &[Entry]) -> Option<SystemTime> {
    let mut since = None;
    for entry in journal {
        if let Event::Intent {
            change: Change::Cluster { what },
            ..
        } = &entry.event
        {
            match what.as_str() {
                UPLOADING => since = Some(UNIX_EPOCH + Duration::from_secs(entry.time)),
                REVOKED => since = None,
                _ => {}
            }
        }
    }
    since
}

/// The same, read from the state folder.
fn uploaded_by_us(state: &Path) -> Result<Option<SystemTime>> {
    Ok(uploaded_since(&crate::journal::Journal::read(state)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: u64, event: Event) -> Entry {
        Entry {
            run: "1".to_owned(),
            time,
            event,
        }
    }

    fn cluster(time: u64, what: &str) -> Entry {
        entry(
            time,
            Event::Intent {
                step: "join".to_owned(),
                change: Change::Cluster {
                    what: what.to_owned(),
                },
            },
        )
    }

    #[test]
    fn a_master_whose_node_has_another_address_of_this_machine_is_whole() {
        let mut joining = fixtures::joining(Rc::new(fixtures::cluster()));
        joining.local.push("192.168.1.21".to_owned());
        let members = [fixtures::member(3, "b1", "10.0.0.21")];
        let files = MANIFESTS
            .into_iter()
            .chain(["/etc/kubernetes/kubelet.conf"]);
        let files: Vec<String> = files.map(str::to_owned).collect();
        let judged = |name, address| {
            let node = fixtures::node(name, address);
            joining.judge(&members, Some(&node), &files)
        };
        assert_eq!(judged("b1", "10.0.0.21"), Standing::Whole);
        assert_eq!(judged("b1", "192.168.1.21"), Standing::Whole);
        assert!(
            matches!(judged("b1", "192.168.1.22"), Standing::Partial(_)),
            "another machine's"
        );
    }

    #[test]
    fn an_interrupted_join_is_remembered_until_one_came_to_its_end() {
        let join = Change::Join {
            node: "b1".to_owned(),
            address: "10.0.0.21".to_owned(),
        };
        let mut journal = vec![entry(
            1,
            Event::Intent {
                step: "join".to_owned(),
                change: join,
            },
        )];
        assert!(was_interrupted(&journal, "b1", "10.0.0.21"));
        assert!(
            !was_interrupted(&journal, "b2", "10.0.0.21"),
            "another machine's traces are not ours to clear"
        );
        journal.push(entry(
            2,
            Event::Done {
                step: clear::ID.to_owned(),
            },
        ));
        assert!(
            was_interrupted(&journal, "b1", "10.0.0.21"),
            "cleared, but not joined yet"
        );
        journal.push(entry(
            3,
            Event::Done {
                step: join::ID.to_owned(),
            },
        ));
        assert!(!was_interrupted(&journal, "b1", "10.0.0.21"));
    }

    #[test]
    fn a_join_settles_until_a_run_came_to_its_end() {
        let join = Change::Join {
            node: "m3".to_owned(),
            address: "10.0.0.13".to_owned(),
        };
        let mut journal = vec![
            entry(
                1,
                Event::Intent {
                    step: "kubeadm-join".to_owned(),
                    change: join,
                },
            ),
            entry(
                2,
                Event::Done {
                    step: join::ID.to_owned(),
                },
            ),
        ];
        assert!(
            is_settling(&journal, "m3", "10.0.0.13"),
            "the run was killed while it waited"
        );
        assert!(!is_settling(&journal, "m2", "10.0.0.12"));
        journal.push(entry(
            3,
            Event::End {
                outcome: "failed".to_owned(),
            },
        ));
        assert!(is_settling(&journal, "m3", "10.0.0.13"));
        journal.push(entry(
            4,
            Event::End {
                outcome: "done".to_owned(),
            },
        ));
        assert!(!is_settling(&journal, "m3", "10.0.0.13"));
    }

    #[test]
    fn an_upload_is_ours_until_it_was_revoked() {
        let mut journal = vec![cluster(7, UPLOADING)];
        assert_eq!(
            uploaded_since(&journal),
            Some(UNIX_EPOCH + Duration::from_secs(7))
        );
        journal.push(cluster(8, REVOKED));
        assert_eq!(uploaded_since(&journal), None);
    }
}
