//! Drains this machine where it is a worker of the cluster, before it becomes a master: its pods move to other nodes first.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::control_plane::objects::{List, Pod};
use crate::journal::Change;
use crate::step::{Place, State, Step, View, World};

/// How long pods may take to end, as the cluster's users set their own grace and disruption budgets.
const PATIENCE: Duration = Duration::from_mins(5);

/// See the module.
pub struct Drain {
    node: String,
    minor: u16,
}

impl Drain {
    /// Drains `node` of a cluster of Kubernetes 1.`minor`.
    pub fn new(node: String, minor: u16) -> Self {
        Self { node, minor }
    }
}

impl Step for Drain {
    fn id(&self) -> &'static str {
        "drain"
    }

    fn summary(&self) -> String {
        format!(
            "no pods but those of DaemonSets run on the worker {}",
            self.node
        )
    }

    fn place(&self) -> Place {
        Place::Cluster
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let selector = format!("spec.nodeName={}", self.node);
        let pods: List<Pod> =
            cluster.get(&["pods", "--all-namespaces", "--field-selector", &selector])?;
        let stay = |pod: &&Pod| {
            pod.metadata
                .owner_references
                .iter()
                .any(|owner| owner.kind == "DaemonSet" || owner.kind == "Node")
                || pod
                    .metadata
                    .annotations
                    .contains_key("kubernetes.io/config.mirror")
        };
        let count = pods.items.iter().filter(|pod| !stay(pod)).count();
        Ok(if count == 0 {
            State::Satisfied
        } else {
            State::Pending(format!("{count} pods move to other nodes"))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        world.host.note(Change::Cluster {
            what: format!("drain node {}", self.node),
        })?;
        let local = if self.minor < 20 {
            "--delete-local-data"
        } else {
            "--delete-emptydir-data"
        };
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let args = [
            // It is made of many requests, and has a limit of its own.
            "--request-timeout",
            "0",
            "drain",
            &self.node,
            "--ignore-daemonsets",
            "--force",
            local,
            &timeout,
        ];
        let drained = cluster.run(&cluster.view().kubectl(args).timeout(PATIENCE * 2))?;
        ensure!(drained.ok(), "cannot drain it: {}", drained.evidence());
        Ok(())
    }
}
