//! How the cluster stands, asked through one master: its etcd and the quorum, its masters, and what runs that were cut off left in it.
//!
//! Where the apiserver does not answer, only etcd is asked, past it: without a quorum that is the very thing to see.

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::Told;
use crate::control_plane::ClusterView;
use crate::control_plane::announced;
use crate::control_plane::containers::cri_socket;
use crate::control_plane::credentials::{self, JoinSecret};
use crate::control_plane::etcd::{Etcd, Member, MemberId};
use crate::control_plane::facts;
use crate::control_plane::guard::Votes;
use crate::control_plane::kubeadm::{ClusterConfiguration, ClusterStatus};
use crate::control_plane::lease;
use crate::control_plane::objects::{Data, List, Node};
use crate::replacing::record;

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Cluster {
    /// Through whom it was asked.
    pub(super) asked: String,
    /// The apiserver's.
    pub(super) version: Told<String>,
    /// `https://HOST:PORT`.
    pub(super) endpoint: Told<String>,
    pub(super) masters: Told<Vec<Master>>,
    pub(super) etcd: Told<EtcdStanding>,
    pub(super) lock: Told<lease::Standing>,
    /// Masters whose replacement began and came to no end.
    pub(super) unfinished: Told<Vec<Named>>,
    /// Masters in kubeadm's ClusterStatus that are no nodes: a join of kubeadm up to 1.21 fails at them.
    pub(super) without_node: Told<Vec<Named>>,
    /// What a join needs while it is at work, and nobody after it.
    pub(super) join_secrets: Told<Vec<JoinSecret>>,
    /// Every node, for finding out which of them this machine is.
    #[serde(skip)]
    pub(super) nodes: Vec<Node>,
}

/// A master's node.
#[derive(Debug, Serialize)]
pub(super) struct Master {
    pub(super) name: String,
    pub(super) address: Option<String>,
    pub(super) ready: bool,
    /// Such as `v1.14.0`.
    pub(super) kubelet: String,
}

/// A master's name and address.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) address: String,
}

/// etcd, as far as kubeadm runs it.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum EtcdStanding {
    /// kubeadm does not run it.
    External,
    /// It runs on the masters.
    Stacked {
        members: Told<Vec<MemberRow>>,
        /// Nothing where the members are not known.
        quorum: Option<Quorum>,
        /// Those that are raised: etcd takes no writes.
        alarms: Told<Vec<String>>,
        /// The database of the master that was asked.
        database: Told<Database>,
    },
}

/// A member of etcd.
#[derive(Debug, Serialize)]
pub(super) struct MemberRow {
    /// Hexadecimal, as etcdctl wants it.
    pub(super) id: String,
    /// Empty until it has started once.
    pub(super) name: String,
    /// Where its peers reach it.
    pub(super) address: Option<String>,
    pub(super) role: Role,
    /// A read; that of a voter needs the quorum.
    pub(super) answers: bool,
    /// Whether the others follow it.
    pub(super) leads: bool,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    /// It counts, and answers or not.
    Voter,
    /// It has no vote yet.
    Learner,
    /// It counts, and has never run.
    Unstarted,
}

/// How many vote, and how many of them answer.
#[derive(Debug, Serialize)]
pub(super) struct Quorum {
    pub(super) voters: usize,
    pub(super) answering: usize,
    pub(super) needed: usize,
    #[serde(skip)]
    pub(super) votes: Votes,
}

/// What an etcd says of its data.
#[derive(Debug, Serialize)]
pub(super) struct Database {
    pub(super) version: String,
    pub(super) bytes: u64,
    pub(super) revision: u64,
}

impl Cluster {
    /// Asks everything.
    pub(super) fn ask(view: &ClusterView) -> Self {
        let version = facts::server_version(view);
        let questions = Questions {
            view,
            answered: version.is_ok(),
        };
        let nodes = questions.ask(|view| Ok(view.get::<List<Node>>(&["nodes"])?.items));
        let config = questions.ask(kubeadm_config);
        Self {
            asked: view.address().to_owned(),
            version: Told::of(version.map(|version| version.to_string())),
            endpoint: questions.tell(announced::announced_server),
            etcd: Told::of(etcd(view, nodes.as_deref().ok(), config.as_ref().ok())),
            lock: questions.tell(|view| lease::standing(view, facts::clock_skew(view)?)),
            unfinished: questions.tell(unfinished),
            without_node: Told::of(without_node(&nodes, &config)),
            join_secrets: questions.tell(credentials::of_all_joins),
            masters: Told::of(match &nodes {
                Ok(nodes) => Ok(masters(nodes)),
                Err(cause) => Err(repeated(cause)),
            }),
            nodes: nodes.unwrap_or_default(),
        }
    }
}

/// Questions to the apiserver, none of which is asked where it did not answer the first one.
struct Questions<'a> {
    view: &'a ClusterView,
    answered: bool,
}

impl Questions<'_> {
    fn ask<T>(&self, question: impl FnOnce(&ClusterView) -> Result<T>) -> Result<T> {
        if !self.answered {
            bail!("the apiserver does not answer");
        }
        question(self.view)
    }

    fn tell<T>(&self, question: impl FnOnce(&ClusterView) -> Result<T>) -> Told<T> {
        Told::of(self.ask(question))
    }
}

/// An error that has two places.
fn repeated(cause: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{cause:#}")
}

fn kubeadm_config(view: &ClusterView) -> Result<Data> {
    view.get(&["configmap", "kubeadm-config", "--namespace", "kube-system"])
}

fn masters(nodes: &[Node]) -> Vec<Master> {
    let row = |node: &Node| Master {
        name: node.metadata.name.clone(),
        address: node.internal_address().map(str::to_owned),
        ready: node.is_ready(),
        kubelet: node.status.node_info.kubelet_version.clone(),
    };
    nodes
        .iter()
        .filter(|node| node.is_master())
        .map(row)
        .collect()
}

fn etcd(view: &ClusterView, nodes: Option<&[Node]>, config: Option<&Data>) -> Result<EtcdStanding> {
    let text = config.and_then(|config| config.data.get("ClusterConfiguration"));
    let parsed = text
        .map(|text| ClusterConfiguration::parse(text))
        .transpose()?;
    if parsed.is_some_and(|config| config.etcd.external.is_some()) {
        return Ok(EtcdStanding::External);
    }
    let etcd = match nodes {
        Some(nodes) => {
            let node = facts::asked_node(view, nodes)?;
            let socket = cri_socket(view, &node)?;
            Etcd::find(view, &node, &socket)?
        }
        None => Etcd::without_api(view)?,
    };
    let status = etcd.status(view);
    let leader = status.as_ref().ok().and_then(|status| status.leader);
    let members = etcd.members(view);
    let listed = members.as_deref().unwrap_or_default();
    let alarms = etcd.alarms(view, listed);
    Ok(EtcdStanding::Stacked {
        alarms: Told::of(alarms.map(|alarms| alarms.iter().map(ToString::to_string).collect())),
        quorum: members.as_ref().ok().map(|members| Quorum::of(members)),
        members: Told::of(members.map(|members| {
            let row = |member| MemberRow::of(member, leader);
            members.into_iter().map(row).collect()
        })),
        database: Told::of(status.map(|status| Database {
            version: status.version.to_string(),
            bytes: status.db_size,
            revision: status.revision,
        })),
    })
}

impl MemberRow {
    fn of(member: Member, leader: Option<MemberId>) -> Self {
        let role = match (member.is_learner, member.name.is_empty()) {
            (true, _) => Role::Learner,
            (false, true) => Role::Unstarted,
            (false, false) => Role::Voter,
        };
        Self {
            id: member.id.to_string(),
            address: member.address().map(str::to_owned),
            role,
            answers: member.healthy,
            leads: leader == Some(member.id),
            name: member.name,
        }
    }
}

impl Quorum {
    fn of(members: &[Member]) -> Self {
        let votes = Votes::of(members);
        Self {
            voters: votes.voters,
            answering: votes.healthy,
            needed: votes.needed(),
            votes,
        }
    }
}

fn unfinished(view: &ClusterView) -> Result<Vec<Named>> {
    let named = |record: record::Record| Named {
        name: record.name,
        address: record.address,
    };
    Ok(record::all(view)?.into_iter().map(named).collect())
}

fn without_node(nodes: &Result<Vec<Node>>, config: &Result<Data>) -> Result<Vec<Named>> {
    let nodes = nodes.as_ref().map_err(repeated)?;
    let config = config
        .as_ref()
        .map_err(repeated)
        .context("cannot read kubeadm's records")?;
    let recorded = ClusterStatus::masters(config.data.get("ClusterStatus"))?;
    Ok(recorded
        .into_iter()
        .filter(|(name, _)| nodes.iter().all(|node| node.metadata.name != *name))
        .map(|(name, address)| Named { name, address })
        .collect())
}
