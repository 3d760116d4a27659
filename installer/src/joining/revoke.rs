//! Takes back what a join put into the cluster for others to read: both bootstrap tokens and the Secret kubeadm-certs. The kubelet's own copy of the token goes too: older
//! versions of kubeadm leave it in a file that nobody reads any more.
//!
//! Only our own: tokens by their description, the Secret by the journal and its age. It runs after a join, after a failed one, and in the run after a killed one.

use anyhow::{Context, Result};

use super::{Joining, REVOKED, uploaded_by_us};
use crate::control_plane::credentials;
use crate::journal::Change;
use crate::step::{Place, Reversal, State, Step, View, World};

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
        let uploaded = uploaded_by_us(&self.joining.state)?;
        Ok(credentials::left_over(cluster, &self.joining.node, uploaded)?.ours)
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

    fn reversal(&self) -> Reversal {
        Reversal::Nothing
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
        // What is here needs no cluster, and the cluster's part no room on this machine's disk: neither waits for the other.
        let erased = world.host.erase(BOOTSTRAP);
        let names = self.left_over(world.view())?;
        credentials::revoke(cluster, &names)?;
        erased?;
        match uploaded_by_us(&self.joining.state)? {
            Some(_) => world.host.note(Change::Cluster {
                what: REVOKED.to_owned(),
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::rc::Rc;
    use std::sync::Arc;

    use super::super::fixtures;
    use super::*;
    use crate::control_plane::{Cluster, ClusterView};
    use crate::host::Host;
    use crate::host::command::Output;
    use crate::host::scripted::Scripted;
    use crate::journal::Journal;
    use crate::steps::testing::Machine;

    /// A cluster that still has the token of a join of b1.
    fn with_token() -> Scripted {
        // "kpot: b1 joins as a master".
        let token = r#"{"items":[{"metadata":{"name":"bootstrap-token-abcdef"},"data":{"description":"a3BvdDogYjEgam9pbnMgYXMgYSBtYXN0ZXI="}}]}"#;
        Scripted::new().with(move |cmd, _| {
            let text = cmd.to_string();
            let stdout = match () {
                () if text.contains(" get secrets ") => token,
                () if text.contains(" get secret kubeadm-certs ") => "",
                () if text.contains(" delete secret bootstrap-token-abcdef ") => "deleted",
                () => return None,
            };
            Some(Output {
                stdout: stdout.as_bytes().to_vec(),
                ..Output::default()
            })
        })
    }

    #[test]
    fn a_full_disk_here_keeps_no_token_in_the_cluster() {
        let machine = Machine::new();
        machine.file(BOOTSTRAP, "a token");
        let state = tempfile::tempdir().unwrap();
        symlink("/dev/full", state.path().join("journal.jsonl")).unwrap();
        let journal = Journal::new(state.path());
        let host = Host::new(machine.view(Scripted::new()), &journal);
        let runner = Arc::new(with_token());
        let cluster = Cluster::new(ClusterView::new(runner.clone(), "10.0.0.11"));
        let world = World {
            host: &host,
            cluster: Some(&cluster),
        };
        let revoke = RevokeCredentials::new(fixtures::joining(Rc::new(fixtures::cluster())));
        let error = revoke.apply(world).unwrap_err();
        assert!(format!("{error:#}").contains("No space left"), "{error:#}");
        let asked = runner.asked();
        assert!(
            asked
                .iter()
                .any(|text| text.contains(" delete secret bootstrap-token-abcdef ")),
            "{asked:?}"
        );
    }
}
