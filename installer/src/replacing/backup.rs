//! Keeps what this machine still has of its former life as a master, before any of it is wiped.
//!
//! Configuration and certificates are copied to `/var/lib/kpot/backup/<run>/files/…`, each file 0600 below folders of 0700, with a `manifest.json` that has the path, mode, owner, size and
//! digest of each. etcd's data is not copied but moved there when it is cleared: it may be large, and it is the same file system as a rule.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context, Result};
use bundle_spec::Sha256;
use serde::{Deserialize, Serialize};

use crate::host::{HostView, Kind};
use crate::journal::STATE_DIR;
use crate::step::{State, Step, View, World};

/// What is kept: what kubeadm and the kubelet wrote, and what people put beside it.
const KEPT: [&str; 5] = [
    "/etc/kubernetes",
    "/etc/cni/net.d",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/pki",
];

/// The folder of all backups.
const BACKUPS: &str = "backup";

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    digest: Sha256,
}

type Manifest = BTreeMap<String, Entry>;

/// See the module.
pub struct BackUp {
    certificates: String,
}

impl BackUp {
    /// Keeps what there is, with the cluster's folder of certificates wherever that is.
    pub fn new(certificates: String) -> Self {
        Self { certificates }
    }

    fn leftovers(&self, host: &HostView) -> Result<Manifest> {
        let mut found = Manifest::new();
        for path in KEPT.into_iter().chain([self.certificates.as_str()]) {
            files_below(host, path, &mut found)?;
        }
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

/// The regular files at and below a path; links are left alone, they hold nothing.
fn files_below(host: &HostView, path: &str, found: &mut Manifest) -> Result<()> {
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
