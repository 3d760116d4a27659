//! Keeps what this machine still has of its former life as a master, before any of it is wiped.
//!
//! Configuration, certificates and what else lies in the kubelet's folder are copied to `/var/lib/kpot/backup/<run>/files/…`, each file 0600 below folders of 0700, with a `manifest.json` that has the path, mode, owner, size and
//! digest of each; what kubeadm put aside before an upgrade is not among them. etcd's data is not copied but moved there when it is cleared: it may be large, and it is the same file system as a rule.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context, Result};
use bundle_spec::Sha256;
use serde::{Deserialize, Serialize};

use super::clear::LEFT;
use super::{ASIDE, KUBERNETES};
use crate::host::{HostView, Kind};
use crate::joining::MANIFESTS;
use crate::journal::STATE_DIR;
use crate::step::{State, Step, View, World};

/// What is kept: what kubeadm and the kubelet wrote, and what people put beside it.
const KEPT: [&str; 2] = [KUBERNETES, "/etc/cni/net.d"];

/// The kubelet's folder, which `kubeadm reset` empties.
const KUBELET: &str = "/var/lib/kubelet";

/// What is left out there, by the beginnings of names: pods and their volumes, sockets, and what the kubelet writes anew all the time.
const PASSING: [&str; 7] = [
    "pods",
    "plugin",
    "device-plugins",
    "pod-resources",
    "checkpoints",
    "cpu_manager_state",
    "memory_manager_state",
];

/// The token of a join, up to 1.16: worth nothing once the join is over.
const TOKEN: &str = "/etc/kubernetes/bootstrap-kubelet.conf";

/// The largest file that is kept of the kubelet's folder, in bytes.
const LIMIT: u64 = 16 << 20;

/// The folder of all backups.
const BACKUPS: &str = "backup";

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    digest: Sha256,
}

pub(super) type Manifest = BTreeMap<String, Entry>;

/// See the module.
pub struct BackUp {
    certificates: String,
    whose: Whose,
}

/// Whose files are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Everybody's.
    All,
    /// What kubeadm does not make or fetch: this machine may never become a master, and then it must not keep the cluster's keys.
    People,
}

/// The beginnings of the names that kubeadm's certificates and keys have.
const KUBEADMS: [&str; 5] = ["apiserver", "ca.", "etcd/", "front-proxy-", "sa."];

impl BackUp {
    /// Keeps what there is, with the cluster's folder of certificates wherever that is.
    pub fn new(certificates: String) -> Self {
        Self {
            certificates,
            whose: Whose::All,
        }
    }

    /// Of a machine on which a join was interrupted: keeps what people put beside what that join brought.
    pub fn of_people(certificates: String) -> Self {
        Self {
            certificates,
            whose: Whose::People,
        }
    }

    /// Whether a join brings this file.
    fn is_joins(&self, path: &str) -> bool {
        let certificate = path
            .strip_prefix(&self.certificates)
            .map(|name| name.trim_start_matches('/'));
        let name = path.strip_prefix("/etc/kubernetes/manifests/");
        let config = path.strip_prefix("/var/lib/kubelet/");
        certificate.is_some_and(|name| KUBEADMS.iter().any(|start| name.starts_with(start)))
            || name.is_some_and(|name| MANIFESTS.contains(&name))
            || config.is_some_and(|name| {
                matches!(
                    name,
                    "config.yaml" | "instance-config.yaml" | "kubeadm-flags.env"
                ) || name.starts_with("pki/")
            })
            || LEFT.contains(&path)
    }

    fn leftovers(&self, host: &HostView) -> Result<Manifest> {
        let mut found = Manifest::new();
        for path in KEPT.into_iter().chain([self.certificates.as_str()]) {
            files_below(host, path, &mut found)?;
        }
        found.remove(TOKEN);
        let passing = |name: &String| PASSING.iter().any(|start| name.starts_with(start));
        let mut kubelets = Manifest::new();
        for name in host.list(KUBELET)?.iter().filter(|name| !passing(name)) {
            files_below(host, &format!("{KUBELET}/{name}"), &mut kubelets)?;
        }
        kubelets.retain(|_, entry| entry.size <= LIMIT);
        found.append(&mut kubelets);
        found.retain(|path, _| self.whose == Whose::All || !self.is_joins(path));
        Ok(found)
    }

    /// What no backup holds yet.
    fn missing(&self, host: &HostView) -> Result<Manifest> {
        let backups = kept(host)?;
        let mut left = self.leftovers(host)?;
        left.retain(|path, entry| {
            !backups.iter().any(|backup| {
                backup
                    .get(path)
                    .is_some_and(|kept| kept.digest == entry.digest)
            })
        });
        Ok(left)
    }
}

/// The regular files at and below a path, but for what kubeadm put aside; links are left alone, they hold nothing.
pub(super) fn files_below(host: &HostView, path: &str, found: &mut Manifest) -> Result<()> {
    if path == ASIDE {
        return Ok(());
    }
    let Some(facts) = host.facts(path)? else {
        return Ok(());
    };
    match facts.kind {
        Kind::Directory => {
            for name in host.list(path)? {
                files_below(host, &format!("{path}/{name}"), found)?;
            }
        }
        Kind::File => {
            let digest = host
                .digest(path)?
                .with_context(|| format!("{path} went away"))?;
            found.insert(
                path.to_owned(),
                Entry {
                    mode: facts.mode,
                    uid: facts.uid,
                    gid: facts.gid,
                    size: facts.size,
                    digest,
                },
            );
        }
        Kind::Symlink | Kind::Other => {}
    }
    Ok(())
}

/// What the backups hold already.
fn kept(host: &HostView) -> Result<Vec<Manifest>> {
    let folder = format!("{STATE_DIR}/{BACKUPS}");
    let mut manifests = Vec::new();
    if !host.exists(&folder)? {
        return Ok(manifests);
    }
    for run in host.list(&folder)? {
        if let Some(text) = host.text(&format!("{folder}/{run}/manifest.json"))? {
            // One that a power cut tore apart is not a backup.
            manifests.extend(serde_json::from_str::<Manifest>(&text));
        }
    }
    Ok(manifests)
}

impl Step for BackUp {
    fn id(&self) -> &'static str {
        "backup"
    }

    fn summary(&self) -> String {
        format!(
            "what this machine has of an earlier life as a node is kept in {STATE_DIR}/{BACKUPS}"
        )
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let missing = self.missing(view.host)?;
        Ok(if missing.is_empty() {
            State::Satisfied
        } else {
            let bytes: u64 = missing.values().map(|entry| entry.size).sum();
            State::Pending(format!(
                "{} files, {} KiB",
                missing.len(),
                bytes.div_ceil(1024)
            ))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let missing = self.missing(world.host.view())?;
        for path in missing.keys() {
            world.host.keep_copy(path, &format!("files{path}"))?;
        }
        // Last: a backup without it is none.
        let manifest = serde_json::to_vec_pretty(&missing).context("cannot write a manifest")?;
        world
            .host
            .keep("manifest.json", &mut |file| Ok(file.write_all(&manifest)?))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::Host;
    use crate::host::scripted::Scripted;
    use crate::journal::Journal;

    #[test]
    fn of_an_interrupted_join_only_what_people_put_there_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path().join("state"));
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        let joins = [
            "/etc/kubernetes/admin.conf",
            "/etc/kubernetes/bootstrap-kubelet.conf",
            "/etc/kubernetes/manifests/etcd.yaml",
            "/etc/kubernetes/pki/ca.key",
            "/etc/kubernetes/pki/etcd/ca.key",
            "/etc/kubernetes/pki/front-proxy-ca.key",
            "/var/lib/kubelet/config.yaml",
            "/var/lib/kubelet/instance-config.yaml",
            "/var/lib/kubelet/pki/kubelet.key",
        ];
        let peoples = [
            "/etc/cni/net.d/10-bridge.conf",
            "/etc/kubernetes/manifests/keepalived.yaml",
            "/etc/kubernetes/pki/webhook.crt",
            "/var/lib/kubelet/config.json",
        ];
        let passing = ["/var/lib/kubelet/pods/1/etc-hosts"];
        for path in joins.iter().chain(&peoples).chain(&passing) {
            host.write_file(path, b"content", 0o600).unwrap();
        }
        let certificates = || "/etc/kubernetes/pki".to_owned();
        let found = BackUp::of_people(certificates()).leftovers(host.view());
        let found: Vec<String> = found.unwrap().into_keys().collect();
        assert_eq!(found, peoples);
        let all = BackUp::new(certificates()).leftovers(host.view()).unwrap();
        assert_eq!(
            all.len(),
            joins.len() + peoples.len() - 1,
            "all but a join's token"
        );
    }
}
