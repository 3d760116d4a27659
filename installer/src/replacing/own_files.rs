//! What people put where `kubeadm reset` empties whole folders, and nobody but they would bring it again: a registry's login and seccomp profiles of the kubelet, and the CNI configuration
//! where no DaemonSet gives it (kubeadm up to 1.16 empties /etc/cni/net.d, too).
//!
//! Before a reset each such file is saved like one that is replaced; after it, what is gone is put back. What a killed run still owes, the journal knows.

use std::collections::BTreeMap;

use anyhow::Result;

use super::backup::files_below;
use super::clear;
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::images::PodNetwork;
use crate::host::{Host, HostView, Kind};
use crate::joining::clear as interrupted;
use crate::journal::{Before, Change, Event, Journal, STATE_DIR};
use crate::kubernetes::Traits;

/// People's files in the kubelet's folder.
const KUBELET: [&str; 3] = [
    "/var/lib/kubelet/config.json",
    "/var/lib/kubelet/.dockercfg",
    "/var/lib/kubelet/seccomp",
];

/// The CNI configuration.
const CNI: &str = "/etc/cni/net.d";

/// The largest file that is put back, in bytes; larger ones are in the backup.
const LIMIT: u64 = 1 << 20;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct OwnFiles {
    cni: bool,
}

impl OwnFiles {
    /// People's files on a node of this cluster.
    pub fn of(cluster: &ClusterFacts) -> Self {
        // Without labels every DaemonSet counts that may run on a master.
        let taints = Traits::of(cluster.version).master_taints;
        let network = PodNetwork::of(&cluster.daemon_sets, &BTreeMap::new(), taints);
        Self {
            cni: network.given_by.is_empty() && cluster.healthy_has_cni,
        }
    }

    fn folders(self) -> impl Iterator<Item = &'static str> {
        KUBELET.into_iter().chain(self.cni.then_some(CNI))
    }

    fn covers(self, path: &str) -> bool {
        self.folders().any(|folder| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Saves them; they stay where they are.
    pub(crate) fn save(self, host: &Host<'_>) -> Result<()> {
        let mut found = BTreeMap::new();
        for folder in self.folders() {
            // A reset empties it, also where it is a link to a folder.
            files_below(host.view(), folder, &|path| path == folder, &mut found)?;
        }
        for path in found.into_keys() {
            let Some(facts) = host.view().facts(&path)? else {
                continue;
            };
            if facts.kind == Kind::File && facts.size <= LIMIT {
                host.save_file(&path)?;
            }
        }
        Ok(())
    }

    /// What was saved, is gone, and was not put back yet.
    fn owed(self, host: &HostView) -> Result<BTreeMap<String, Before>> {
        let is_ours = |step: &str| step == clear::ID || step == interrupted::ID;
        let mut owed = BTreeMap::new();
        for entry in Journal::read(&host.locate(STATE_DIR))? {
            match entry.event {
                Event::Intent {
                    step,
                    change: Change::File { path, before },
                } if self.covers(&path) => {
                    // Whoever touched it later knew what he did.
                    if is_ours(&step) && before != Before::Absent {
                        owed.insert(path, before);
                    } else {
                        owed.remove(&path);
                    }
                }
                Event::Done { step } if is_ours(&step) => owed.clear(),
                _ => {}
            }
        }
        let mut gone = BTreeMap::new();
        for (path, before) in owed {
            if !host.exists(&path)? {
                gone.insert(path, before);
            }
        }
        Ok(gone)
    }

    /// The paths of what a run still owes.
    pub(crate) fn to_put_back(self, host: &HostView) -> Result<Vec<String>> {
        Ok(self.owed(host)?.into_keys().collect())
    }

    /// Whether CNI configuration is among that.
    pub(crate) fn has_cni_to_put_back(self, host: &HostView) -> Result<bool> {
        Ok(self.owed(host)?.keys().any(|path| path.starts_with(CNI)))
    }

    /// Puts back what is gone.
    pub(crate) fn put_back(self, host: &Host<'_>) -> Result<()> {
        for (path, before) in self.owed(host.view())? {
            if let Before::File {
                saved,
                mode,
                uid,
                gid,
            } = before
            {
                let saved = host.view().locate(STATE_DIR).join(saved);
                host.restore_file(&path, &saved, mode, (uid, gid))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::scripted::Scripted;
    use crate::joining::fixtures::cluster;

    #[test]
    fn what_a_reset_took_is_owed_until_it_is_put_back() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path().join("var/lib/kpot"));
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        let record = |event| journal.record(event).unwrap();
        let own = OwnFiles::of(&cluster());
        let paths = [
            "/etc/cni/net.d/10-bridge.conf",
            "/var/lib/kubelet/config.json",
            "/var/lib/kubelet/seccomp/audit.json",
        ];
        for path in paths {
            host.write_file(path, b"people's", 0o640).unwrap();
        }
        host.write_file("/var/lib/kubelet/config.yaml", b"kubeadm's", 0o644)
            .unwrap();
        record(Event::Step {
            step: clear::ID.to_owned(),
        });
        own.save(&host).unwrap();
        assert!(own.to_put_back(host.view()).unwrap().is_empty());
        for path in ["/etc/cni", "/var/lib/kubelet"] {
            let change = Change::ClearJoin {
                node: "m3".to_owned(),
            };
            host.remove_tree(path, change).unwrap();
        }
        assert_eq!(own.to_put_back(host.view()).unwrap(), paths);
        assert!(own.has_cni_to_put_back(host.view()).unwrap());
        own.put_back(&host).unwrap();
        for path in paths {
            let facts = host.view().facts(path).unwrap().unwrap();
            assert_eq!((facts.mode, facts.size), (0o640, 8), "{path}");
        }
        assert!(!host.view().exists("/var/lib/kubelet/config.yaml").unwrap());
        record(Event::Done {
            step: clear::ID.to_owned(),
        });
        host.remove_tree("/etc/cni", Change::Reload).unwrap();
        assert!(
            own.to_put_back(host.view()).unwrap().is_empty(),
            "whoever took it away later meant it"
        );
    }

    #[test]
    fn cni_configuration_that_a_daemon_set_gives_is_nobodys() {
        let mut cluster = cluster();
        assert!(OwnFiles::of(&cluster).covers("/etc/cni/net.d/10.conf"));
        cluster.daemon_sets = vec![
            serde_json::from_str(
                r#"{"metadata":{"name":"flannel"},"spec":{"template":{"spec":{"tolerations":[{"operator":"Exists"}],"volumes":[{"name":"c","hostPath":{"path":"/etc/cni/net.d"}}]}}}}"#,
            )
            .unwrap(),
        ];
        let own = OwnFiles::of(&cluster);
        assert!(!own.covers("/etc/cni/net.d/10.conf"));
        assert!(own.covers("/var/lib/kubelet/config.json"));
        assert!(!own.covers("/var/lib/kubelet/config.json.bak"));
    }
}
