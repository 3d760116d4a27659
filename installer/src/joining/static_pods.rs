//! Static pods beyond kubeadm's four (keepalived, kube-vip, haproxy): told of, and with `--copy-static-pods` copied here after the join.
//!
//! Only the manifests are copied, and only where none of that name is here. The first that has one gives it: in a change the machine whose place is taken, in a rebirth this machine's own
//! manifests or backups, else the healthy master. Such a manifest may hold its machine's own address or priority: that is for people to look at. Their images must be in the pot or on
//! this machine, else the copying is refused before anything is changed; what the pods mount is not brought.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::MANIFESTS;
use crate::control_plane::ClusterView;
use crate::control_plane::images::{MissingImage, familiar};
use crate::host::remote::RemoteView;
use crate::host::{HostView, Kind};
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

/// An image that a static pod needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodImage {
    /// Its name, and which pod needs it.
    pub image: MissingImage,
    /// Whether its registry is asked for it whenever the pod starts, though it is here.
    pub always_pulled: bool,
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
        let missing = self.wanted(cluster, view.host, manifests)?;
        Ok((!missing.is_empty()).then(|| {
            format!(
                "there are static pods besides kubeadm's: {}; copied with --copy-static-pods",
                self.told(&missing, cluster)
            )
        }))
    }

    /// The images of the pods that will be copied.
    pub fn images(&self, view: View<'_>, manifests: Manifests) -> Result<Vec<PodImage>> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let mut images = Vec::new();
        for (name, giver) in self.wanted(cluster, view.host, manifests)? {
            let path = format!("{FOLDER}/{name}");
            let content = self
                .content(&path, &giver, cluster, view.host)?
                .with_context(|| format!("{path} went away"))?;
            let from = self.whose(&giver, cluster);
            let needed_by = format!("{name} of {from}, by --copy-static-pods");
            images.extend(pod_images(&content, &needed_by).with_context(|| {
                format!(
                    "{name} of {from} is not understood: repair it, or leave --copy-static-pods out"
                )
            })?);
        }
        Ok(images)
    }

    /// By name: what this machine lacks or will lack, and who gives it.
    fn wanted(
        &self,
        cluster: &ClusterView,
        host: &HostView,
        manifests: Manifests,
    ) -> Result<BTreeMap<String, Giver>> {
        match manifests {
            Manifests::Stay => self.missing(cluster, host),
            Manifests::Go => self.known(cluster, host),
        }
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
            let from = self.whose(giver, cluster);
            by_giver.entry(from).or_default().push(name);
        }
        let told: Vec<String> = by_giver
            .into_iter()
            .map(|(from, names)| format!("{} of {from}", names.join(", ")))
            .collect();
        told.join("; ")
    }

    fn whose<'s>(&'s self, giver: &Giver, cluster: &'s ClusterView) -> &'s str {
        match (giver, &self.former) {
            (Giver::Here(_), _) => "this machine itself",
            (Giver::Former, Former::Machine(machine)) => machine.address(),
            _ => cluster.address(),
        }
    }

    fn content(
        &self,
        path: &str,
        giver: &Giver,
        cluster: &ClusterView,
        host: &HostView,
    ) -> Result<Option<Vec<u8>>> {
        match (giver, &self.former) {
            (Giver::Here(kept), _) => host.read(kept),
            (Giver::Former, Former::Machine(machine)) => machine.file(path),
            _ => cluster.file(path),
        }
    }
}

/// The images that a manifest names.
fn pod_images(manifest: &[u8], needed_by: &str) -> Result<Vec<PodImage>> {
    #[derive(Deserialize)]
    struct Manifest {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(default)]
        init_containers: Option<Vec<Container>>,
        containers: Vec<Container>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Container {
        image: String,
        #[serde(default)]
        image_pull_policy: Option<String>,
    }
    let text = std::str::from_utf8(manifest)?;
    let Manifest { spec } = serde_saphyr::from_str(text)?;
    let containers = spec.init_containers.into_iter().flatten();
    let containers = containers.chain(spec.containers);
    let image = |container: Container| PodImage {
        always_pulled: match container.image_pull_policy.as_deref() {
            None | Some("") => familiar(&container.image).ends_with(":latest"),
            Some(policy) => policy == "Always",
        },
        image: MissingImage {
            name: container.image,
            needed_by: needed_by.to_owned(),
        },
    };
    Ok(containers.map(image).collect())
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

/// Those of this machine, or else in its backups, of which the newest counts. A link is the file that it leads to; one that leads to no file is no manifest.
fn kept(host: &HostView) -> Result<BTreeMap<String, Giver>> {
    let backups = format!("{STATE_DIR}/backup");
    let mut kept = BTreeMap::new();
    let runs = host.list(&backups)?.into_iter();
    let folders = runs.map(|run| format!("{backups}/{run}/files{FOLDER}"));
    for folder in folders.chain([FOLDER.to_owned()]) {
        for name in host.list(&folder)?.into_iter().filter(|name| is_own(name)) {
            let path = format!("{folder}/{name}");
            let end = host.behind(&path)?;
            if end.is_some_and(|end| end.kind == Kind::File) {
                kept.insert(name, Giver::Here(path));
            }
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
                "to copy: {}; look through them for addresses of their own, and bring what they mount by hand",
                self.told(&missing, cluster)
            ))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        for (name, giver) in self.missing(cluster.view(), world.host.view())? {
            let path = format!("{FOLDER}/{name}");
            let content = self
                .content(&path, &giver, cluster.view(), world.host.view())?
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
    fn the_images_of_the_pods_that_are_copied_are_known() {
        let manifest = "apiVersion: v1\nkind: Pod\nmetadata:\n  creationTimestamp: null\n  name: vip\nspec:\n  initContainers:\n  - image: busybox\n    name: a\n  containers:\n  - image: keepalived:2\n    name: b\n    imagePullPolicy: Always\n  - {name: c, image: \"haproxy:1\", imagePullPolicy: IfNotPresent}\nstatus: {}\n";
        let images = |manifest: &str, here: bool, manifests| {
            let root = tempfile::tempdir().unwrap();
            let journal = Journal::new(root.path().join("state"));
            let host = Host::new(
                HostView::new(root.path(), Arc::new(Scripted::new())),
                &journal,
            );
            if here {
                let path = format!("{FOLDER}/vip.yaml");
                host.write_file(&path, b"ours", 0o600).unwrap();
            }
            let view = ClusterView::new(machine(&["vip.yaml"], manifest), "10.0.0.11");
            let look = View {
                host: host.view(),
                cluster: Some(&view),
            };
            StaticPods::new(Former::Nobody).images(look, manifests)
        };
        let found = images(manifest, true, Manifests::Go).unwrap();
        let found: Vec<(&str, bool)> = found
            .iter()
            .map(|pod| (pod.image.name.as_str(), pod.always_pulled))
            .collect();
        assert_eq!(
            found,
            [
                ("busybox", true),
                ("keepalived:2", true),
                ("haproxy:1", false)
            ]
        );
        assert_eq!(images(manifest, true, Manifests::Stay).unwrap(), []);
        let unclear = images("kind: Pod", false, Manifests::Stay).unwrap_err();
        assert!(
            unclear
                .to_string()
                .contains("vip.yaml of 10.0.0.11 is not understood"),
            "{unclear:#}"
        );
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
