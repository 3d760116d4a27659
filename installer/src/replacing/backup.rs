//! Keeps what this machine still has of its former life as a master, before any of it is wiped.
//!
//! Configuration, certificates and what else lies in the kubelet's folder are copied to `/var/lib/kpot/backup/<run>/files/…`, each file 0600 below folders of 0700, with a `manifest.json` that has the path, mode, owner, size and
//! digest of each; what kubeadm put aside before an upgrade is not among them. Of a link the manifest has what stands in it, and a file that it leads to is copied like one that lies there; what lies in a
//! folder that it leads to is copied only where that folder is cleared. etcd's data is not copied but moved there when it is cleared: it may be large, and it is the same file system as a rule.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context, Result};
use bundle_spec::Sha256;
use serde::{Deserialize, Serialize};

use super::clear::{self, LEFT};
use super::{ASIDE, KUBERNETES};
use crate::control_plane::kubeadm::is_certificate;
use crate::host::{HostView, Kind};
use crate::joining::MANIFESTS;
use crate::journal::STATE_DIR;
use crate::step::{Reversal, State, Step, View, World};

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

/// The largest file that is kept of the kubelet's folder, or of what a link leads to, in bytes.
const LIMIT: u64 = 16 << 20;

/// The folder of all backups.
const BACKUPS: &str = "backup";

/// A file as it was, or a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Like the owner and the size, those of the file that is copied; of the link itself where none is.
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    /// Of the copy; nothing of a link that leads to no file, or to one that is too large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Sha256>,
    /// What stands in the link; nothing of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
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
        certificate.is_some_and(is_certificate)
            || name.is_some_and(|name| MANIFESTS.contains(&name))
            || config.is_some_and(|name| {
                matches!(
                    name,
                    "config.yaml" | "instance-config.yaml" | "kubeadm-flags.env"
                ) || name.starts_with("pki/")
            })
            || LEFT.contains(&path)
    }

    /// Whether a folder is emptied or removed when this machine is cleared.
    fn is_cleared(&self, path: &str) -> bool {
        KEPT.contains(&path)
            || LEFT.contains(&path)
            || clear::KUBELET.contains(&path)
            || path == self.certificates
    }

    fn leftovers(&self, host: &HostView) -> Result<Manifest> {
        let is_cleared = |path: &str| self.is_cleared(path);
        let mut found = Manifest::new();
        for path in KEPT.into_iter().chain([self.certificates.as_str()]) {
            files_below(host, path, &is_cleared, &mut found)?;
        }
        found.remove(TOKEN);
        let passing = |name: &String| PASSING.iter().any(|start| name.starts_with(start));
        let mut kubelets = Manifest::new();
        for name in host.list(KUBELET)?.iter().filter(|name| !passing(name)) {
            let path = format!("{KUBELET}/{name}");
            files_below(host, &path, &is_cleared, &mut kubelets)?;
        }
        kubelets.retain(|_, entry| entry.size <= LIMIT);
        found.append(&mut kubelets);
        // No join makes a link to a folder, and a link by itself is no secret.
        found.retain(|path, entry| {
            self.whose == Whose::All || entry.digest.is_none() || !self.is_joins(path)
        });
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
                    .is_some_and(|kept| kept.digest == entry.digest && kept.link == entry.link)
            })
        });
        Ok(left)
    }
}

/// The regular files and the links at and below a path, but for what kubeadm put aside. A link to a folder is followed where `is_followed` says so of its path.
pub(super) fn files_below(
    host: &HostView,
    path: &str,
    is_followed: &dyn Fn(&str) -> bool,
    found: &mut Manifest,
) -> Result<()> {
    if path == ASIDE {
        return Ok(());
    }
    let Some(own) = host.facts(path)? else {
        return Ok(());
    };
    let link = host.link(path)?;
    let end = match link {
        Some(_) => host.behind(path)?,
        None => Some(own),
    };
    let (facts, digest) = match end {
        Some(end) if end.kind == Kind::Directory => {
            if link.is_none() || is_followed(path) {
                for name in host.list(path)? {
                    files_below(host, &format!("{path}/{name}"), is_followed, found)?;
                }
            }
            (own, None)
        }
        Some(end) if end.kind == Kind::File && (link.is_none() || end.size <= LIMIT) => {
            let digest = host
                .digest(path)?
                .with_context(|| format!("{path} went away"))?;
            (end, Some(digest))
        }
        _ => (own, None),
    };
    // A folder has no entry of its own; sockets and devices hold nothing.
    if digest.is_some() || link.is_some() {
        found.insert(
            path.to_owned(),
            Entry {
                mode: facts.mode,
                uid: facts.uid,
                gid: facts.gid,
                size: facts.size,
                digest,
                link,
            },
        );
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

    fn reversal(&self) -> Reversal {
        Reversal::Nothing
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
        let copied = missing.iter().filter(|(_, entry)| entry.digest.is_some());
        for (path, _) in copied {
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
    use std::fs::File;
    use std::os::unix::fs::symlink;
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

    #[test]
    fn what_links_lead_to_is_kept_with_what_stands_in_them() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path().join("var/lib/kpot"));
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        for path in [
            "/data/kubernetes/admin.conf",
            "/data/manifests/etcd.yaml",
            "/data/pki/ca.key",
            "/etc/cni/net.d/10-bridge.conf",
            "/opt/addons/dns.yaml",
            "/opt/keepalived/pod.yaml",
        ] {
            host.write_file(path, b"content", 0o640).unwrap();
        }
        let large = File::create(root.path().join("opt/large")).unwrap();
        large.set_len(LIMIT + 1).unwrap();
        for (link, text) in [
            ("etc/kubernetes", "../data/kubernetes"),
            ("data/kubernetes/addons", "../../opt/addons"),
            ("data/kubernetes/large", "../../opt/large"),
            ("data/kubernetes/manifests", "../manifests"),
            ("data/kubernetes/pki", "../pki"),
            ("data/manifests/gone.yaml", "nothing"),
            ("data/manifests/round.yaml", "round.yaml"),
            ("data/manifests/vip.yaml", "../../opt/keepalived/pod.yaml"),
        ] {
            symlink(text, root.path().join(link)).unwrap();
        }
        let world = World {
            host: &host,
            cluster: None,
        };
        let step = BackUp::new("/etc/kubernetes/pki".to_owned());
        step.apply(world).unwrap();
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
        let backups = kept(host.view()).unwrap();
        let told: Vec<(&str, bool, Option<&str>)> = backups[0]
            .iter()
            .map(|(path, entry)| {
                let link = entry.link.as_deref();
                (path.as_str(), entry.digest.is_some(), link)
            })
            .collect();
        let vip = "/etc/kubernetes/manifests/vip.yaml";
        assert_eq!(
            told,
            [
                ("/etc/cni/net.d/10-bridge.conf", true, None),
                ("/etc/kubernetes", false, Some("../data/kubernetes")),
                ("/etc/kubernetes/addons", false, Some("../../opt/addons")),
                ("/etc/kubernetes/admin.conf", true, None),
                ("/etc/kubernetes/large", false, Some("../../opt/large")),
                ("/etc/kubernetes/manifests", false, Some("../manifests")),
                ("/etc/kubernetes/manifests/etcd.yaml", true, None),
                (
                    "/etc/kubernetes/manifests/gone.yaml",
                    false,
                    Some("nothing")
                ),
                (
                    "/etc/kubernetes/manifests/round.yaml",
                    false,
                    Some("round.yaml")
                ),
                (vip, true, Some("../../opt/keepalived/pod.yaml")),
                ("/etc/kubernetes/pki", false, Some("../pki")),
                ("/etc/kubernetes/pki/ca.key", true, None),
            ]
        );
        let copy = format!("{STATE_DIR}/backup/{}/files{vip}", host.run_name());
        assert_eq!(host.view().text(&copy).unwrap().unwrap(), "content");
        assert_eq!(backups[0][vip].mode, 0o640, "of the file, not of the link");

        let people = BackUp::of_people("/etc/kubernetes/pki".to_owned());
        let people = people.leftovers(host.view()).unwrap();
        for path in ["/etc/kubernetes/manifests", vip] {
            assert!(people.contains_key(path), "{path}");
        }
        for path in ["/etc/kubernetes/pki/ca.key", "/etc/kubernetes/admin.conf"] {
            assert!(!people.contains_key(path), "{path}");
        }

        host.write_file("/opt/keepalived/pod.yaml", b"another", 0o640)
            .unwrap();
        assert!(
            matches!(step.check(world.view()).unwrap(), State::Pending(what) if what.starts_with("1 files"))
        );
    }

    #[test]
    fn a_manifest_of_before_links_were_kept_is_still_read() {
        let digest = Sha256::of(b"content");
        let text = format!(
            r#"{{"/etc/kubernetes/admin.conf":{{"mode":384,"uid":0,"gid":0,"size":7,"digest":"{digest}"}}}}"#
        );
        let manifest: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&manifest).unwrap(), text);
    }
}
