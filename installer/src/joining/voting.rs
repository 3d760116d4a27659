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
use crate::step::{Place, Reversal, State, Step, View, World};

/// The longest wait. TKE waits five minutes for a node to become ready; the DaemonSet controller may need as long to come to itself, and a reminder then.
const LIMIT: Duration = Duration::from_secs(480);

/// How often the DaemonSets of the pod network are reminded of a node for which they have made no pod.
const REMINDER: Duration = Duration::from_secs(60);

/// Between the first two looks, and the longest pause: a member that is well is so within a second or two, and one that is not is not asked all the time.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

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
        let cluster = &joining.asked(view.cluster.context("this workflow has no cluster")?);
        let mut missing = Vec::new();
        let server = joining.own_server();
        let health = view.host.probe(&Probe::apiserver_health(&server));
        let well = health.is_ok_and(|output| output.text() == "ok");
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
                // The apiserver is well only if the etcd beside it is.
                Some(member) if !member.votes() && well => missing.push(format!(
                    "etcd member {member} is well here and does not answer {}: does a firewall keep the TCP ports 2379 and 2380 shut? See here: firewall-cmd --list-all; ufw status; iptables -S",
                    cluster.address()
                )),
                Some(member) if !member.votes() => {
                    missing.push(format!("etcd member {member} does not answer yet"));
                }
                Some(_) => {}
            }
        }
        if !well {
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

    fn reversal(&self) -> Reversal {
        Reversal::Nothing
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
        let mut pause = PAUSES.0;
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
            clock.pause(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::control_plane::ClusterView;
    use crate::control_plane::etcd::Etcd;
    use crate::host::command::Output;
    use crate::host::scripted::Scripted;
    use crate::joining::fixtures;
    use crate::steps::testing::Machine;

    /// What is missing of b1, whose etcd does not answer m1 and whose apiserver answers here so.
    fn missing(here: &str) -> String {
        const PODS: &str = r#"{"items":[{"metadata":{"name":"etcd-m1"},"spec":{"nodeName":"m1","containers":[{"command":["etcd","--trusted-ca-file=ca","--cert-file=c","--key-file=k"]}]}}]}"#;
        const MEMBERS: &str = r#"{"members":[{"ID":1,"name":"m1","peerURLs":["https://10.0.0.11:2380"],"clientURLs":["https://10.0.0.11:2379"]},{"ID":3,"name":"b1","peerURLs":["https://10.0.0.21:2380"],"clientURLs":["https://10.0.0.21:2379"]}]}"#;
        let runner = Scripted::new().with(|cmd, _| {
            let text = cmd.to_string();
            let has = |part: &str| text.contains(part);
            let (status, answer) = if has("member list") {
                (0, MEMBERS)
            } else if has("get --consistency=l health") {
                (i32::from(has("10.0.0.21")), "")
            } else if has("get pods") {
                (0, PODS)
            } else if has("docker ps") {
                (0, "c0ffee")
            } else {
                (0, "")
            };
            Some(Output {
                status,
                stdout: answer.as_bytes().to_vec(),
                ..Output::default()
            })
        });
        let cluster = ClusterView::new(Arc::new(runner), "10.0.0.11");
        let mut facts = fixtures::cluster();
        let healthy = facts.healthy.clone();
        facts.etcd = Some(Etcd::find(&cluster, &healthy, "/var/run/dockershim.sock").unwrap());
        let voting = Voting::new(fixtures::joining(Rc::new(facts)));
        let host = Machine::new().view(Scripted::new().on("kubectl", 0, here));
        let view = View {
            host: &host,
            cluster: Some(&cluster),
        };
        voting.missing(view).unwrap().join("\n")
    }

    #[test]
    fn a_member_that_is_well_here_and_silent_there_is_told_with_the_firewall() {
        let told = missing("ok");
        assert!(
            told.contains("b1 3 https://10.0.0.21:2380 is well here and does not answer 10.0.0.11: does a firewall keep the TCP ports 2379 and 2380 shut?")
                && told.contains("firewall-cmd --list-all"),
            "{told}"
        );
        let told = missing("");
        assert!(
            told.contains(
                "does not answer yet\nthe apiserver at https://10.0.0.21:6443 does not answer yet"
            ) && !told.contains("firewall"),
            "{told}"
        );
    }
}
