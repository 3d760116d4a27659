//! Drains this machine where it is a worker of the cluster, before it becomes a master: its pods move to other nodes first.
//!
//! Pods that bear the taint of a cordoned node may be scheduled to it again as soon as they are evicted, for ever. They were asked to go once, and go with the node.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bundle_spec::KubeVersion;

use crate::control_plane::objects::{List, Node, Pod};
use crate::journal::Change;
use crate::kubernetes::Traits;
use crate::step::{Place, Reversal, State, Step, View, World};

/// How long pods may take to end, as the cluster's users set their own grace and disruption budgets.
const PATIENCE: Duration = Duration::from_mins(5);

/// The taint of a node that was cordoned.
const CORDONED: &str = "node.kubernetes.io/unschedulable";

/// See the module.
pub struct Drain {
    node: String,
    kubernetes: KubeVersion,
}

impl Drain {
    /// Drains `node` of a cluster of this version.
    pub fn new(node: String, kubernetes: KubeVersion) -> Self {
        Self { node, kubernetes }
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

    fn reversal(&self) -> Reversal {
        Reversal::Never
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
        let moving: Vec<&Pod> = pods.items.iter().filter(|pod| !stay(pod)).collect();
        let may_return = |pod: &&Pod| {
            let tolerations = &pod.spec.tolerations;
            tolerations.iter().any(|one| one.bears(CORDONED))
        };
        let drained = moving.is_empty()
            || moving.iter().all(may_return)
                && cluster
                    .find::<Node>(&["node", &self.node])?
                    .is_some_and(|node| node.spec.unschedulable);
        Ok(if drained {
            State::Satisfied
        } else {
            State::Pending(told(&moving))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        world.host.note(Change::Cluster {
            what: format!("drain node {}", self.node),
        })?;
        let local = Traits::of(self.kubernetes).drain_flag;
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

/// What becomes of pods that are drained.
fn told(moving: &[&Pod]) -> String {
    let (moved, gone): (Vec<&Pod>, Vec<&Pod>) =
        (moving.iter().copied()).partition(|pod| !pod.metadata.owner_references.is_empty());
    let mut told = Vec::new();
    match moved.len() {
        0 => {}
        1 => told.push("1 pod moves to another node".to_owned()),
        count => told.push(format!("{count} pods move to other nodes")),
    }
    if !gone.is_empty() {
        let name = |pod: &&Pod| format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
        let names: Vec<String> = gone.iter().map(name).collect();
        told.push(format!(
            "deleted for good, because nothing makes them anew: {}",
            names.join(", ")
        ));
    }
    let mut volumes = moving.iter().flat_map(|pod| &pod.spec.volumes);
    if volumes.any(|volume| volume.empty_dir.is_some()) {
        told.push("what they keep in emptyDir volumes is lost".to_owned());
    }
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control_plane::ClusterView;
    use crate::host::scripted::Scripted;
    use crate::steps::testing::Machine;

    fn state(pods: &str, cordoned: bool) -> State {
        let node = format!(
            r#"{{"metadata":{{"name":"b1"}},"spec":{{"unschedulable":{cordoned}}},"status":{{}}}}"#
        );
        let pods = format!(r#"{{"items":[{pods}]}}"#);
        let script = Scripted::new().with(move |cmd, _| {
            let text = cmd.to_string();
            let stdout = match () {
                () if text.contains(" get pods ") => &pods,
                () if text.contains(" get node b1 ") => &node,
                () => return None,
            };
            Some(crate::host::command::Output {
                stdout: stdout.clone().into_bytes(),
                ..Default::default()
            })
        });
        let cluster = ClusterView::new(Arc::new(script), "10.0.0.11");
        let host = Machine::new().view(Scripted::new());
        let view = View {
            host: &host,
            cluster: Some(&cluster),
        };
        Drain::new("b1".to_owned(), KubeVersion::new(1, 14, 0))
            .check(view)
            .unwrap()
    }

    #[test]
    fn a_pod_that_may_always_come_back_is_asked_to_go_once() {
        let daemon = r#"{"metadata":{"name":"d","ownerReferences":[{"kind":"DaemonSet","name":"d"}]},"spec":{"containers":[]}}"#;
        let plain = r#"{"metadata":{"name":"p","namespace":"default"},"spec":{"containers":[]}}"#;
        let bold = r#"{"metadata":{"name":"b","namespace":"default"},"spec":{"containers":[],"tolerations":[{"operator":"Exists","effect":"NoSchedule"}]}}"#;
        assert_eq!(state(daemon, false), State::Satisfied);
        assert!(matches!(state(plain, true), State::Pending(_)));
        assert!(matches!(state(bold, false), State::Pending(_)));
        assert_eq!(state(&format!("{daemon},{bold}"), true), State::Satisfied);
        let both = state(&format!("{plain},{bold}"), true);
        assert_eq!(
            both,
            State::Pending(
                "deleted for good, because nothing makes them anew: default/p, default/b"
                    .to_owned()
            )
        );
        let owned = r#"{"metadata":{"name":"o","namespace":"default","ownerReferences":[{"kind":"ReplicaSet","name":"r"}]},"spec":{"containers":[],"volumes":[{"name":"v","emptyDir":{}}]}}"#;
        let told = "2 pods move to other nodes; what they keep in emptyDir volumes is lost";
        let both = state(&format!("{owned},{owned}"), true);
        assert_eq!(both, State::Pending(told.to_owned()));
    }
}
