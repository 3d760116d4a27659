//! Takes away what this machine still has of a node: containers, kubeadm's and the kubelet's files, etcd's data. All of it is in a backup by then, and out of the cluster's records.
//!
//! kubeadm's own reset must not look for the cluster or for an etcd member to remove: its etcd manifest and its credentials go first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::host::HostView;
use crate::host::command::{Cmd, await_outliving};
use crate::joining::kubeadm_log;
use crate::journal::Change;
use crate::step::{State, Step, View, World};
use crate::steps::stop_kubelet;

/// What a node leaves, besides etcd's data.
const LEFT: [&str; 8] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/super-admin.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/bootstrap-kubelet.conf",
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki",
];

/// The kubelet's configuration, of which kubeadm writes a new one.
const KUBELET: [&str; 3] = [
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/pki",
];

/// etcd's data.
const ETCD: &str = "/var/lib/etcd/member";

/// kubeadm reset stops containers one by one; a node with a hundred of them takes minutes.
const RESET: Duration = Duration::from_mins(5);

/// See the module.
pub struct ClearNode {
    node: String,
    log: PathBuf,
}

impl ClearNode {
    /// Clears this machine, whose node is or was called `node` and whose state folder is `state`.
    pub fn new(node: String, state: &Path) -> Self {
        Self {
            node,
            log: kubeadm_log(state),
        }
    }
}

fn left(host: &HostView) -> Result<Vec<&'static str>> {
    let mut left = Vec::new();
    for path in LEFT.into_iter().chain(KUBELET).chain([ETCD]) {
        // kubeadm reset leaves these folders, empty.
        let empty_folder = path.ends_with("manifests") || path.ends_with("pki");
        if host.exists(path)? && !(empty_folder && host.list(path)?.is_empty()) {
            left.push(path);
        }
    }
    Ok(left)
}

impl Step for ClearNode {
    fn id(&self) -> &'static str {
        "clear-this-machine"
    }

    fn summary(&self) -> String {
        "nothing of the old node is left on this machine".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let left = left(view.host)?;
        Ok(if left.is_empty() {
            State::Satisfied
        } else {
            State::Pending(format!("still here: {}", left.join(", ")))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        let change = || Change::ClearJoin {
            node: self.node.clone(),
        };
        let ended = await_outliving(&self.log, RESET)
            .context("cannot tell whether an earlier kubeadm still runs")?;
        ensure!(
            ended,
            "a kubeadm of an earlier run is still at work on this machine; see: ps -ef | grep kubeadm"
        );
        stop_kubelet(host)?;
        for path in LEFT.into_iter().chain(KUBELET) {
            host.remove_path(path, change())?;
        }
        host.run(
            &Cmd::new("kubeadm", ["reset", "--force"]).timeout(RESET),
            change(),
        )?;
        let kept = format!("backup/{}/etcd-member", host.run_name());
        host.move_away(ETCD, &kept, change())?;
        // kubeadm reset makes some of them anew, empty.
        for path in LEFT.into_iter().chain(KUBELET) {
            host.remove_path(path, change())?;
        }
        Ok(())
    }
}
