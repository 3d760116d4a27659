//! Waits until the new master counts: its etcd member votes, its apiserver answers, its node is ready.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Joining;
use crate::control_plane::containers::listing;
use crate::control_plane::images::PodNetwork;
use crate::control_plane::objects::{List, Node, Pod};
use crate::host::probe::Probe;
use crate::journal::Change;
use crate::step::{Place, State, Step, View, World};

/// The longest wait. TKE waits five minutes for a node to become ready; the DaemonSet controller may need as long to come to itself, and a reminder then.
const LIMIT: Duration = Duration::from_secs(480);

/// How often the DaemonSets of the pod network are reminded of a node for which they have made no pod.
const REMINDER: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// See the module.
pub struct Voting {
    joining: Joining,
}

impl Voting {
    /// Waits for this machine.
    pub fn new(joining: Joining) -> Self {
        Self { joining }
    }

    /// What is still missing; empty when nothing is.
    pub(crate) fn missing(&self, view: View<'_>) -> Result<Vec<String>> {
        let joining = &self.joining;
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let mut missing = Vec::new();
        if let Some(etcd) = &joining.cluster.etcd {
            match etcd
                .members(cluster)?
                .iter()
                .find(|member| member.is_at(&joining.address))
            {
                None => missing.push(format!("etcd lists no member at {}", joining.address)),
                Some(member) if member.is_learner => {
                    missing.push(format!("etcd member {member} has no vote yet"));
                }
                Some(member) if !member.votes() => {
                    missing.push(format!("etcd member {member} does not answer yet"));
                }
                Some(_) => {}
            }
        }
        let server = joining.own_server();
        let health = view.host.probe(&Probe::apiserver_health(&server));
        if !health.is_ok_and(|output| output.text() == "ok") {
            missing.push(format!("the apiserver at {server} does not answer yet"));
        }
        match cluster.find::<Node>(&["node", &joining.node])? {
            None => missing.push(format!("the cluster lists no node {}", joining.node)),
            Some(node) if !node.is_master() => {
                missing.push(format!("node {} is not labelled as a master", joining.node));
            }
            Some(node) if !node.is_ready() => {
                let why = node
                    .status
                    .conditions
                    .iter()
                    .find(|condition| condition.kind == "Ready")
                    .map_or("", |condition| &condition.message);
                missing.push(format!("node {} is not ready: {why}", joining.node));
            }
            Some(_) => {}
        }
        Ok(missing)
    }

    /// Touches the DaemonSets that give nodes their CNI configuration and have no pod for this node: an annotation that comes and goes makes their controller look again. Where a node
    /// of this name was deleted a moment before, the controller may wait five minutes for a deletion that it missed, and does not look by itself after that: seen with 1.14.0 after
    /// joins that were cut off and cleared.
    fn remind(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let everywhere = BTreeMap::new();
        let (sets, traits) = (&self.joining.cluster.daemon_sets, self.joining.traits());
        let network = PodNetwork::of(sets, &everywhere, traits.master_taints);
        let here = format!("spec.nodeName={}", self.joining.node);
        for (namespace, name) in network
            .given_by
            .iter()
            .filter_map(|set| set.split_once('/'))
        {
            let pods: List<Pod> = cluster.view().get(&[
                "pods",
                "--namespace",
                namespace,
                "--field-selector",
                &here,
            ])?;
            let is_its = |pod: &Pod| {
                let owners = &pod.metadata.owner_references;
                owners
                    .iter()
                    .any(|owner| owner.kind == "DaemonSet" && owner.name == name)
            };
            if pods.items.iter().any(is_its) {
                continue;
            }
            world.host.note(Change::Cluster {
                what: format!(
                    "remind DaemonSet {namespace}/{name} of {}",
                    self.joining.node
                ),
            })?;
            for annotation in ["kpot-reminder=look", "kpot-reminder-"] {
                cluster.annotate("daemonset", namespace, name, annotation)?;
            }
        }
        Ok(())
    }
}

impl Step for Voting {
    fn id(&self) -> &'static str {
        "voting"
    }

    fn summary(&self) -> String {
        "the etcd member votes, the apiserver answers, the node is ready".to_owned()
    }

    fn place(&self) -> Place {
        Place::Cluster
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let missing = self.missing(view)?;
        Ok(if missing.is_empty() {
            State::Satisfied
        } else {
            State::Pending(missing.join("; "))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let clock = cluster.view().clock();
        let deadline = clock.now() + LIMIT;
        let mut reminder = clock.now() + REMINDER;
        loop {
            // A moment without an answer is part of a new member's start: only the last look counts.
            let missing = match self.missing(world.view()) {
                Ok(missing) if missing.is_empty() => return Ok(()),
                Ok(missing) => missing.join("; "),
                Err(cause) => format!("{cause:#}"),
            };
            world.host.stop().check()?;
            if clock.now() >= deadline {
                bail!(
                    "after {} s: {missing}\nSee here: journalctl -u kubelet; {}. The machine has joined: when the cause is mended, run this again",
                    LIMIT.as_secs(),
                    listing(Some(self.joining.runtime))
                );
            }
            if clock.now() >= reminder {
                // What cannot be reminded now can be in a minute.
                let _ = self.remind(world);
                reminder = clock.now() + REMINDER;
            }
            clock.pause(PAUSE);
        }
    }
}
