//! Starts the kubelet again where it turned etcd's static pod away while kubeadm waits for that etcd.
//!
//! A kubelet that has just started may not know the size of its disk yet. etcd's pod asks for a piece of it (`ephemeral-storage`, in kubeadm's manifests of 1.20 and
//! 1.21), so such a kubelet finds no room for it, and it never looks at a static pod again that it turned away: kubernetes/kubernetes#99305. By then kubeadm has added
//! the member, so etcd waits for a voter that cannot start. A kubelet that is started again looks at every pod anew; the ones that run go on running.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::host::Host;
use crate::host::probe::Probe;
use crate::journal::now;
use crate::steps::restart_kubelet;

/// Between two looks at the kubelet's log.
pub const PAUSE: Duration = Duration::from_secs(3);

/// How often a kubelet is started again before it is left alone; once is what it took where this was seen.
const ATTEMPTS: u32 = 5;

/// See the module.
pub struct Admission {
    node: String,
    since: u64,
    left: u32,
}

impl Admission {
    /// Looks at what the kubelet of the node `node` says from now on.
    pub fn since_now(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            since: now(),
            left: ATTEMPTS,
        }
    }

    /// Looks, and starts the kubelet again where it turned etcd away.
    pub fn look(&mut self, host: &Host<'_>) -> Result<()> {
        let log = host.view().probe(&Probe::kubelet_log(self.since))?;
        if !turned_away(&log.text(), &self.node) {
            return Ok(());
        }
        ensure!(
            self.left > 0,
            "the kubelet turned etcd's pod away {ATTEMPTS} times; see: journalctl --unit kubelet | grep 'Failed to admit'"
        );
        self.left -= 1;
        restart_kubelet(host)?;
        // The next second's lines are those of the new kubelet.
        self.since = now() + 1;
        Ok(())
    }
}

/// Whether the kubelet says that it did not admit etcd's pod, in the words of 1.20 (`pod etcd-b1_kube-system(…)`) or of later ones (`pod="kube-system/etcd-b1"`).
fn turned_away(log: &str, node: &str) -> bool {
    let pods = [
        format!("etcd-{node}_kube-system("),
        format!("kube-system/etcd-{node}\""),
    ];
    log.lines().any(|line| {
        line.contains("Failed to admit pod") && pods.iter().any(|pod| line.contains(pod))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::HostView;
    use crate::host::scripted::Scripted;
    use crate::journal::Journal;

    const SAID: &str = "W1121 12:26:22.639802    1182 predicate.go:113] Failed to admit pod etcd-b1_kube-system(21886f18ce94d4a5c2f96ad540b01492) - Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: ephemeral-storage, q: 104857600), ]\n";

    #[test]
    fn only_etcd_of_this_node_counts() {
        assert!(turned_away(SAID, "b1"));
        assert!(!turned_away(SAID, "b"));
        assert!(turned_away(
            r#"W0101 predicate.go:100] "Failed to admit pod, unexpected error while attempting to recover from admission failure" pod="kube-system/etcd-b1" err="preemption""#,
            "b1"
        ));
        assert!(!turned_away(
            "Failed to admit pod web-1_default(aa) - no room",
            "b1"
        ));
        assert!(!turned_away(
            "Topology Admit Handler etcd-b1_kube-system(",
            "b1"
        ));
    }

    #[test]
    fn the_kubelet_is_started_again_each_time_and_not_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let script = Arc::new(
            Scripted::new()
                .on("journalctl --unit=kubelet", 0, SAID)
                .on(
                    "systemctl show",
                    0,
                    "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n",
                )
                .on("systemctl restart kubelet", 0, ""),
        );
        let journal = Journal::new(root.path().join("state"));
        let host = Host::new(HostView::new(root.path(), script.clone()), &journal);
        let mut admission = Admission::since_now("b1");
        for _ in 0..ATTEMPTS {
            admission.look(&host).unwrap();
        }
        let error = admission.look(&host).unwrap_err().to_string();
        assert!(error.contains("turned etcd's pod away"), "{error}");
        let restarts = script
            .asked()
            .iter()
            .filter(|cmd| cmd.starts_with("systemctl restart"))
            .count();
        assert_eq!(restarts, ATTEMPTS as usize);
    }
}
