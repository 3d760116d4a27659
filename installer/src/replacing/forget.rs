//! Takes a master's Node, its control-plane pods and its entry in kubeadm's ClusterStatus out of the cluster.
//!
//! Up to 1.21 kubeadm asks the etcd of every master in ClusterStatus at a join and fails at one that is gone; from 1.19 on it asks those that etcd's mirror pods name. etcd itself is
//! not touched here: its member is gone by now.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Departed;
use crate::control_plane::kubeadm::without_endpoint;
use crate::control_plane::objects::Node;
use crate::control_plane::{Cluster, ClusterView};
use crate::journal::Change;
use crate::step::{Place, Reversal, State, Step, View, World};

/// The static pods of a kubeadm master.
const PODS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// How often a ConfigMap that somebody else writes at the same moment is tried again.
const ATTEMPTS: u32 = 5;

/// See the module.
pub struct ForgetNode {
    departed: Departed,
}

impl ForgetNode {
    /// Takes `departed` out.
    pub fn new(departed: Departed) -> Self {
        Self { departed }
    }

    fn left(&self, cluster: &ClusterView) -> Result<Vec<String>> {
        let name = &self.departed.name;
        let mut left = Vec::new();
        if cluster.find::<Node>(&["node", name])?.is_some() {
            left.push(format!("node {name}"));
        }
        if self.cluster_status(cluster)?.is_some() {
            left.push("its entry in kubeadm's ClusterStatus".to_owned());
        }
        Ok(left)
    }

    /// The ConfigMap kubeadm-config without the entry; nothing where it has none.
    fn cluster_status(&self, cluster: &ClusterView) -> Result<Option<Value>> {
        let mut config: Value =
            cluster.get(&["configmap", "kubeadm-config", "--namespace", "kube-system"])?;
        let Some(status) = config["data"]["ClusterStatus"].as_str() else {
            return Ok(None);
        };
        let Some(kept) = without_endpoint(status, &self.departed.name)? else {
            return Ok(None);
        };
        config["data"]["ClusterStatus"] = Value::String(kept);
        Ok(Some(config))
    }

    fn cut_cluster_status(&self, cluster: &Cluster) -> Result<()> {
        for attempt in 1.. {
            let Some(config) = self.cluster_status(cluster.view())? else {
                return Ok(());
            };
            // It carries the version that was read, so nobody's change in between is lost.
            let output = cluster.put(&config)?;
            if output.ok() {
                return Ok(());
            }
            ensure!(
                attempt < ATTEMPTS,
                "cannot cut {} out of kubeadm's ClusterStatus: {}",
                self.departed.name,
                output.evidence()
            );
            cluster.view().clock().pause(Duration::from_secs(1));
        }
        Ok(())
    }
}

impl Step for ForgetNode {
    fn id(&self) -> &'static str {
        "forget-node"
    }

    fn summary(&self) -> String {
        format!(
            "the cluster lists no node and no kubeadm endpoint of the old {}",
            self.departed.name
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
        let left = self.left(cluster)?;
        Ok(if left.is_empty() {
            State::Satisfied
        } else {
            State::Pending(format!("still there: {}", left.join(", ")))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let name = &self.departed.name;
        world.host.note(Change::Cluster {
            what: format!(
                "delete node {name}, its control-plane pods and its endpoint in ClusterStatus"
            ),
        })?;
        cluster.delete_wholly(&["node", name], &[])?;
        for pod in PODS.map(|pod| format!("{pod}-{name}")) {
            // A kubelet that no longer answers would keep them "Terminating" for ever.
            cluster.delete_wholly(
                &["pod", &pod, "--namespace", "kube-system"],
                &["--grace-period=0", "--force"],
            )?;
        }
        self.cut_cluster_status(cluster)
    }
}
