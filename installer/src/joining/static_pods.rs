//! Static pods beyond kubeadm's four (keepalived, kube-vip, haproxy): told of, and with `--copy-static-pods` copied here after the join.
//!
//! Only the manifests are copied, and only where none of that name is here. The first that has one gives it: in a change the machine whose place is taken, in a rebirth this machine's own
//! manifests or backups, else the healthy master. Such a manifest may hold its machine's own address or priority: that is for people to look at. Images, and what the pods mount,
//! are not brought.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::MANIFESTS;
use crate::control_plane::ClusterView;
use crate::host::HostView;
use crate::host::remote::RemoteView;
use crate::journal::STATE_DIR;
use crate::step::{State, Step, View, World};

/// Where the kubelet looks for them.
const FOLDER: &str = "/etc/kubernetes/manifests";

/// The largest manifest that is copied, in bytes.
const LIMIT: u64 = 1 << 20;

/// kubeadm's mode for manifests.
const MODE: u32 = 0o600;

/// Who else than the healthy master may have had them.
#[derive(Clone)]
pub enum Former {
    /// Nobody.
    Nobody,
    /// This machine.
    Ourselves,
    /// Another machine.
    Machine(RemoteView),
}

/// What becomes of the manifests that are on this machine before the join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manifests {
    /// They stay.
    Stay,
    /// They are backed up and removed.
    Go,
}

/// Copies the manifests; see the module.
#[derive(Clone)]
pub struct StaticPods {
    former: Former,
}

/// Who gives a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Giver {
    Healthy,
    Former,
    /// This machine, at this path.
    Here(String),
}

impl StaticPods {
    /// Copies those of `former`, else those of the healthy master.
    pub fn new(former: Former) -> Self {
        Self { former }
    }

    /// What the plan says where they are not to be copied; nothing where there are none that this machine lacks, or will.
    pub fn note(&self, view: View<'_>, manifests: Manifests) -> Result<Option<String>> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let missing = match manifests {
            Manifests::Stay => self.missing(cluster, view.host)?,
            Manifests::Go => self.known(cluster, view.host)?,
        };
        Ok((!missing.is_empty()).then(|| {
            format!(
                "there are static pods besides kubeadm's: {}; copied with --copy-static-pods",
                self.told(&missing, cluster)
            )
        }))
    }

    /// By name: what this machine lacks, and who gives it.
    fn missing(&self, cluster: &ClusterView, host: &HostView) -> Result<BTreeMap<String, Giver>> {
        let mut missing = BTreeMap::new();
        for (name, giver) in self.known(cluster, host)? {
            if !host.exists(&format!("{FOLDER}/{name}"))? {
                missing.insert(name, giver);
            }
        }
        Ok(missing)
    }

    /// By name: all that a machine has, and who gives it.
    fn known(&self, cluster: &ClusterView, host: &HostView) -> Result<BTreeMap<String, Giver>> {
        let mut found = BTreeMap::new();
        for name in manifests(cluster.machine())? {
            found.insert(name, Giver::Healthy);
        }
        match &self.former {
            Former::Nobody => {}
            Former::Ourselves => found.extend(kept(host)?),
            Former::Machine(machine) => {
                for name in manifests(machine)? {
                    found.insert(name, Giver::Former);
                }
            }
        }
        Ok(found)
    }

    fn told(&self, missing: &BTreeMap<String, Giver>, cluster: &ClusterView) -> String {
        let mut by_giver: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, giver) in missing {
            let from = match (giver, &self.former) {
                (Giver::Here(_), _) => "this machine itself",
                (Giver::Former, Former::Machine(machine)) => machine.address(),
                _ => cluster.address(),
            };
            by_giver.entry(from).or_default().push(name);
        }
        let told: Vec<String> = by_giver
            .into_iter()
            .map(|(from, names)| format!("{} of {from}", names.join(", ")))
            .collect();
        told.join("; ")
    }

    fn content(&self, path: &str, giver: &Giver, world: World<'_>) -> Result<Option<Vec<u8>>> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        match (giver, &self.former) {
            (Giver::Here(kept), _) => world.host.view().read(kept),
            (Giver::Former, Former::Machine(machine)) => machine.file(path),
            _ => cluster.view().file(path),
        }
    }
}

/// Whether kubeadm does not make it, and the kubelet reads it.
fn is_own(name: &str) -> bool {
    let read = [".yaml", ".yml", ".json"]
        .iter()
        .any(|ending| name.ends_with(ending));
    read && !name.starts_with('.') && !name.contains('/') && !MANIFESTS.contains(&name)
}

/// The names of a machine's own manifests.
fn manifests(machine: &RemoteView) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in machine.tree(FOLDER)? {
        let name = entry.path.strip_prefix(FOLDER).unwrap_or_default();
        let name = name.trim_start_matches('/');
        if entry.is_folder || !is_own(name) {
            continue;
        }
        ensure!(
            entry.size <= LIMIT,
            "{} on {} has {} bytes, which no manifest has",
            entry.path,
            machine.address(),
            entry.size
        );
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Those of this machine, or else in its backups, of which the newest counts.
fn kept(host: &HostView) -> Result<BTreeMap<String, Giver>> {
    let backups = format!("{STATE_DIR}/backup");
    let mut kept = BTreeMap::new();
    let runs = host.list(&backups)?.into_iter();
    let folders = runs.map(|run| format!("{backups}/{run}/files{FOLDER}"));
    for folder in folders.chain([FOLDER.to_owned()]) {
        for name in host.list(&folder)?.into_iter().filter(|name| is_own(name)) {
            let path = format!("{folder}/{name}");
            kept.insert(name, Giver::Here(path));
        }
    }
    Ok(kept)
}

impl Step for StaticPods {
    fn id(&self) -> &'static str {
        "static-pods"
    }

    fn summary(&self) -> String {
        "static pods besides kubeadm's own are here".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let missing = self.missing(cluster, view.host)?;
        Ok(if missing.is_empty() {
            State::Satisfied
        } else {
            State::Pending(format!(
                "to copy: {}; look through them for addresses of their own, and bring their images and what they mount by hand",
                self.told(&missing, cluster)
            ))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        for (name, giver) in self.missing(cluster.view(), world.host.view())? {
            let path = format!("{FOLDER}/{name}");
            let content = self
                .content(&path, &giver, world)?
                .with_context(|| format!("{path} went away"))?;
            world.host.write_file(&path, &content, MODE)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control_plane::Cluster;
    use crate::host::Host;
    use crate::host::scripted::Scripted;
    use crate::journal::Journal;

    fn machine(names: &[&str], content: &str) -> Arc<Scripted> {
        let lines: String = names
            .iter()
            .map(|name| ["f 600 7 ", FOLDER, "/", name, "\n"].concat())
            .collect();
        Arc::new(
            Scripted::new()
                .on("find -H", 0, &format!("d 755 4096 {FOLDER}\n{lines}"))
                .on("test -f", 0, "")
                .on("cat", 0, content),
        )
    }

    fn with_world(names: &[&str], test: impl FnOnce(World<'_>)) {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path().join("state"));
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        let view = ClusterView::new(machine(names, "healthy"), "10.0.0.11");
        let cluster = Cluster::new(view);
        test(World {
            host: &host,
            cluster: Some(&cluster),
        });
    }

    fn text(world: World<'_>, name: &str) -> Option<String> {
        let path = format!("{FOLDER}/{name}");
        world.host.view().text(&path).unwrap()
    }

    #[test]
    fn what_kubeadm_does_not_make_is_told_and_copied_once() {
        with_world(
            &["etcd.yaml", "keepalived.yaml", ".hidden.yaml", "note.txt"],
            |world| {
                let step = StaticPods::new(Former::Nobody);
                assert_eq!(
                    step.note(world.view(), Manifests::Stay).unwrap().unwrap(),
                    "there are static pods besides kubeadm's: keepalived.yaml of 10.0.0.11; copied with --copy-static-pods"
                );
                step.apply(world).unwrap();
                assert_eq!(text(world, "keepalived.yaml").unwrap(), "healthy");
                assert_eq!(text(world, "etcd.yaml"), None);
                assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
                assert_eq!(step.note(world.view(), Manifests::Stay).unwrap(), None);
            },
        );
    }

    #[test]
    fn a_master_that_had_one_gives_its_own() {
        with_world(&["keepalived.yaml", "kube-vip.yaml"], |world| {
            let down = machine(&["keepalived.yaml", "haproxy.yaml"], "down");
            let step = StaticPods::new(Former::Machine(RemoteView::new(down, "10.0.0.13")));
            let State::Pending(why) = step.check(world.view()).unwrap() else {
                panic!("three are missing");
            };
            assert!(
                why.contains(
                    "kube-vip.yaml of 10.0.0.11; haproxy.yaml, keepalived.yaml of 10.0.0.13"
                ),
                "{why}"
            );
            step.apply(world).unwrap();
            assert_eq!(text(world, "keepalived.yaml").unwrap(), "down");
            assert_eq!(text(world, "kube-vip.yaml").unwrap(), "healthy");
        });
    }

    #[test]
    fn a_machine_that_comes_back_takes_its_own_from_the_newest_backup() {
        with_world(&["keepalived.yaml"], |world| {
            for (run, content) in [("1", "older"), ("2", "newer")] {
                let path = format!("{STATE_DIR}/backup/{run}/files{FOLDER}/keepalived.yaml");
                world
                    .host
                    .write_file(&path, content.as_bytes(), 0o600)
                    .unwrap();
            }
            let step = StaticPods::new(Former::Ourselves);
            step.apply(world).unwrap();
            assert_eq!(text(world, "keepalived.yaml").unwrap(), "newer");
            assert_eq!(step.note(world.view(), Manifests::Stay).unwrap(), None);
            let told = step.note(world.view(), Manifests::Go).unwrap().unwrap();
            assert!(told.contains("keepalived.yaml of this machine itself"));
        });
    }

    #[test]
    fn a_manifest_that_is_here_stays() {
        with_world(&["keepalived.yaml"], |world| {
            let path = format!("{FOLDER}/keepalived.yaml");
            world.host.write_file(&path, b"ours", 0o600).unwrap();
            let step = StaticPods::new(Former::Nobody);
            assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
        });
    }
}
