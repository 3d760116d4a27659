//! Takes back what a join put into the cluster for others to read: both bootstrap tokens and the Secret kubeadm-certs. The kubelet's own copy of the token goes too: older
//! versions of kubeadm leave it in a file that nobody reads any more.
//!
//! Only our own: tokens by their description, the Secret by the journal and its age. It runs after a join, after a failed one, and in the run after a killed one.

use anyhow::{Context, Result};

use super::{Joining, REVOKED, uploaded_by_us};
use crate::control_plane::credentials;
use crate::journal::Change;
use crate::step::{Place, State, Step, View, World};

/// Where kubeadm writes the token for the kubelet's first connection.
const BOOTSTRAP: &str = "/etc/kubernetes/bootstrap-kubelet.conf";

/// See the module.
pub struct RevokeCredentials {
    joining: Joining,
}

impl RevokeCredentials {
    /// Takes back what the joins of this machine made.
    pub fn new(joining: Joining) -> Self {
        Self { joining }
    }

    fn left_over(&self, view: View<'_>) -> Result<Vec<String>> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        credentials::left_over(
            cluster,
            &self.joining.node,
            uploaded_by_us(&self.joining.state)?,
        )
    }
}

impl Step for RevokeCredentials {
    fn id(&self) -> &'static str {
        "revoke-credentials"
    }

    fn summary(&self) -> String {
        "no token and no certificates of the join are left, in the cluster or here".to_owned()
    }

    fn place(&self) -> Place {
        Place::Cluster
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let mut todo = self
            .left_over(view)?
            .iter()
            .map(|name| format!("Secret {name}"))
            .collect::<Vec<_>>();
        if view.host.exists(BOOTSTRAP)? {
            todo.push(BOOTSTRAP.to_owned());
        }
        Ok(if todo.is_empty() {
            State::Satisfied
        } else {
            State::Pending(format!("to remove: {}", todo.join(", ")))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        // What is here needs no cluster: it goes first, whether that answers or not.
        world.host.erase(BOOTSTRAP)?;
        let names = self.left_over(world.view())?;
        credentials::revoke(cluster, &names)?;
        match uploaded_by_us(&self.joining.state)? {
            Some(_) => world.host.note(Change::Cluster {
                what: REVOKED.to_owned(),
            }),
            None => Ok(()),
        }
    }
}
