//! Takes away what this machine still has of a node: containers, kubeadm's and the kubelet's files, etcd's data. All of it is in a backup by then, and out of the cluster's records.
//!
//! What people put into folders that kubeadm's reset empties is put back after it.
//!
//! kubeadm's own reset must not look for the cluster or for an etcd member to remove: its etcd manifest and its credentials go first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::own_files::OwnFiles;
use crate::control_plane::facts::ClusterFacts;
use crate::facts::Disks;
use crate::host::carry::UNFINISHED;
use crate::host::command::{Cmd, await_outliving};
use crate::host::{Host, HostView};
use crate::joining::kubeadm_log;
use crate::journal::{Change, STATE_DIR};
use crate::rollback::footprint::{MASTER, interface_path};
use crate::step::{Reversal, State, Step, View, World};
use crate::steps::stop_kubelet;

/// The step's name, by which the journal knows what a reset took.
pub(crate) const ID: &str = "clear-this-machine";

/// What a node leaves, besides etcd's data.
pub(crate) const LEFT: [&str; 7] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/super-admin.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/bootstrap-kubelet.conf",
    "/etc/kubernetes/manifests",
];

/// The kubelet's configuration, of which kubeadm writes a new one.
pub(super) const KUBELET: [&str; 4] = [
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/instance-config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/pki",
];

/// What the pod network remembers of the old node's range of addresses: a bridge that keeps it would keep every pod of the new node from starting.
const POD_NETWORK: [&str; 2] = ["/run/flannel", "/var/lib/cni"];

/// kubeadm reset stops containers one by one; a node with a hundred of them takes minutes.
const RESET: Duration = Duration::from_mins(5);

/// See the module.
pub struct ClearNode {
    node: String,
    log: PathBuf,
    certificates: String,
    etcd: Option<String>,
    own: OwnFiles,
    socket: Option<String>,
}

impl ClearNode {
    /// Clears this machine, whose node is or was called `node` and whose state folder is `state`, of this cluster. `socket` is where its runtime listens; kubeadm looks for it
    /// where that is not known.
    pub fn new(node: String, state: &Path, cluster: &ClusterFacts, socket: Option<String>) -> Self {
        Self {
            node,
            socket,
            log: kubeadm_log(state),
            certificates: cluster.config.certificates_dir.clone(),
            etcd: cluster.config.etcd.data_dir().map(str::to_owned),
            own: OwnFiles::of(cluster),
        }
    }

    /// What is removed for good, after it was backed up.
    fn removed(&self) -> impl Iterator<Item = &str> {
        LEFT.into_iter()
            .chain(KUBELET)
            .chain([self.certificates.as_str()])
    }

    fn left(&self, host: &HostView) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for path in self.removed().chain(POD_NETWORK) {
            // kubeadm reset leaves these folders, empty.
            let empty_folder =
                path.ends_with("manifests") || path.ends_with("pki") || path == self.certificates;
            if host.exists(path)? && !(empty_folder && host.list(path)?.is_empty()) {
                left.push(path.to_owned());
            }
        }
        left.extend(self.left_of_etcd(host)?);
        for name in MASTER.interfaces {
            if host.exists(&interface_path(name))? {
                left.push(format!("interface {name}"));
            }
        }
        Ok(left)
    }

    /// What lies in the folder of etcd's data: kubeadm joins no machine where anything does, be it a snapshot that somebody forgot or an empty `lost+found`.
    fn left_of_etcd(&self, host: &HostView) -> Result<Vec<String>> {
        let Some(folder) = &self.etcd else {
            return Ok(Vec::new());
        };
        let names = host.list(folder)?.into_iter();
        Ok(names.map(|name| format!("{folder}/{name}")).collect())
    }
}

/// Bytes that clearing this machine copies into its state folder: etcd's old data, where a file system of its own has them. What a killed run left of such a copy makes room for it.
pub(crate) fn copied(host: &HostView, disks: &Disks, cluster: &ClusterFacts) -> Result<u64> {
    let data = (cluster.config.etcd.data_dir()).filter(|_| disks.etcd.device != disks.state.device);
    let Some(data) = data else {
        return Ok(0);
    };
    // Where the folder is a link, what lies in it counts.
    let mut old = 0;
    for name in host.list(data)? {
        old += host.size(&format!("{data}/{name}"))?;
    }
    let left = host.size(&format!("{STATE_DIR}/{UNFINISHED}"))?;
    Ok(old.saturating_sub(left))
}

/// Takes away the interfaces and the notes of the pod network, which follow the range of addresses of the node that is gone. The next one's may be another.
pub(crate) fn clear_pod_network(host: &Host<'_>, change: &dyn Fn() -> Change) -> Result<()> {
    for name in MASTER.interfaces {
        if host.view().exists(&interface_path(name))? {
            host.run(&Cmd::new("ip", ["link", "delete", name]), change())?;
        }
    }
    for path in POD_NETWORK {
        host.remove_path(path, change())?;
    }
    Ok(())
}

impl Step for ClearNode {
    fn id(&self) -> &'static str {
        ID
    }

    fn summary(&self) -> String {
        "nothing of the old node is left on this machine".to_owned()
    }

    fn reversal(&self) -> Reversal {
        Reversal::Backup
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let left = self.left(view.host)?;
        let taken = self.own.to_put_back(view.host)?;
        let mut told = Vec::new();
        if !left.is_empty() {
            told.push(format!("still here: {}", left.join(", ")));
        }
        if !taken.is_empty() {
            told.push(format!("to be put back: {}", taken.join(", ")));
        }
        Ok(if told.is_empty() {
            State::Satisfied
        } else {
            State::Pending(told.join("; "))
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
        // A disk of etcd's that outlived its system: there is nothing to reset but the data, and no kubeadm to do it.
        let is_data_alone = host.view().program("kubeadm").is_none()
            && !host.view().exists("/etc/kubernetes/manifests")?
            && !host.view().exists("/var/lib/kubelet/config.yaml")?;
        stop_kubelet(host)?;
        self.own.save(host)?;
        // The kubelet's files stay until kubeadm has done its part: they tell a run that is repeated where the runtime listens.
        for path in self.removed().filter(|path| !KUBELET.contains(path)) {
            host.remove_path(path, change())?;
        }
        // Where more than one runtime listens, kubeadm from 1.24 on does not choose.
        let socket = self
            .socket
            .iter()
            .flat_map(|path| ["--cri-socket", path.as_str()]);
        let args = ["reset", "--force"].into_iter().chain(socket);
        let reset = host.run(&Cmd::new("kubeadm", args).timeout(RESET), change());
        if !is_data_alone {
            reset?;
        }
        clear_pod_network(host, &change)?;
        for path in self.left_of_etcd(host.view())? {
            let name = path.rsplit('/').next().unwrap_or_default();
            if name == "lost+found" && host.view().list(&path)?.is_empty() {
                // fsck makes it anew where it needs it.
                host.remove_path(&path, change())?;
                continue;
            }
            // A folder of its own: what is called like a snapshot must not take the place of ours.
            let kept = format!("backup/{}/etcd-data/{name}", host.run_name());
            host.move_away(&path, &kept, change())?;
        }
        // kubeadm reset makes some of them anew, empty.
        for path in self.removed() {
            host.remove_path(path, change())?;
        }
        self.own.put_back(host)
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "tests make the files of the machine that they look at"
)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use super::*;
    use crate::control_plane::kubeadm::ExternalEtcd;
    use crate::control_plane::{Cluster, ClusterView};
    use crate::host::scripted::Scripted;
    use crate::joining::fixtures::cluster;
    use crate::joining::static_pods::{Former, Manifests, StaticPods};
    use crate::journal::{Event, Journal};
    use crate::replacing::backup::BackUp;

    fn back_up() -> BackUp {
        BackUp::new("/etc/kubernetes/pki".to_owned())
    }

    /// A machine that was a master, with its state folder where it is in real life.
    fn former_master() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("etc/kubernetes/admin.conf", "secret"),
            ("etc/kubernetes/known_tokens.csv", "somebody's"),
            ("etc/kubernetes/manifests/etcd.yaml", "kind: Pod"),
            ("etc/kubernetes/pki/ca.key", "key"),
            ("var/lib/etcd/member/snap/db", "keys"),
            ("var/lib/etcd/etcd-snapshot.db", "somebody's"),
            ("var/lib/etcd/snapshot.db", "somebody's"),
            ("var/lib/cni/networks/cbr0/10.244.2.2", "pod"),
            ("etc/cni/net.d/10-bridge.conf", "by hand"),
            ("var/lib/kubelet/config.yaml", "kind: KubeletConfiguration"),
            ("var/lib/kubelet/config.json", "login"),
            ("var/lib/kubelet/notes.txt", "somebody's"),
            ("var/lib/kubelet/pods/1/volumes/data", "a pod's"),
            ("sys/class/net/cni0/address", "00:00"),
        ] {
            let place = root.path().join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, content).unwrap();
        }
        fs::create_dir(root.path().join("var/lib/etcd/lost+found")).unwrap();
        root
    }

    fn script(root: &Path) -> Scripted {
        let interface = root.join("sys/class/net/cni0");
        let emptied = ["etc/cni/net.d", "var/lib/kubelet"].map(|folder| root.join(folder));
        let kubelets = root.join("var/lib/kubelet/config.yaml");
        Scripted::new()
            .on(
                "systemctl show",
                0,
                "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n",
            )
            .on("systemctl stop kubelet.service", 0, "")
            .with(move |cmd, _| {
                (cmd.to_string()
                    == "kubeadm reset --force --cri-socket unix:///run/containerd/containerd.sock")
                    .then(|| {
                        assert!(kubelets.exists(), "a run that is repeated reads the socket");
                        for folder in &emptied {
                            fs::remove_dir_all(folder).unwrap();
                        }
                        crate::host::command::Output::default()
                    })
            })
            .with(move |cmd, _| {
                (cmd.to_string() == "ip link delete cni0").then(|| {
                    fs::remove_dir_all(&interface).unwrap();
                    crate::host::command::Output {
                        status: 0,
                        stdout: vec![],
                        stderr: vec![],
                    }
                })
            })
    }

    fn ensure(step: &dyn Step, root: &Path, runner: Arc<Scripted>) -> (State, State) {
        let journal = Journal::new(root.join("var/lib/kpot"));
        let host = Host::new(HostView::new(root, runner), &journal);
        let world = World {
            host: &host,
            cluster: None,
        };
        let before = step.check(world.view()).unwrap();
        let id = step.id().to_owned();
        journal.record(Event::Step { step: id }).unwrap();
        step.apply(world).unwrap();
        (before, step.check(world.view()).unwrap())
    }

    #[test]
    fn the_data_of_an_external_etcd_beside_it_are_not_the_nodes() {
        let root = former_master();
        let mut cluster = cluster();
        cluster.config.etcd.external = Some(ExternalEtcd::default());
        let step = ClearNode::new(
            "m3".to_owned(),
            &root.path().join("var/lib/kpot"),
            &cluster,
            Some("unix:///run/containerd/containerd.sock".to_owned()),
        );
        let (_, after) = ensure(&step, root.path(), Arc::new(script(root.path())));
        assert_eq!(after, State::Satisfied);
        assert!(root.path().join("var/lib/etcd/member/snap/db").exists());
        assert!(!root.path().join("etc/kubernetes/admin.conf").exists());
    }

    #[test]
    fn what_is_wiped_is_kept_first_and_what_is_nobodys_stays() {
        let root = former_master();
        let (before, after) = ensure(&back_up(), root.path(), Arc::new(Scripted::new()));
        assert!(matches!(before, State::Pending(_)));
        assert_eq!(after, State::Satisfied);
        let runs = fs::read_dir(root.path().join("var/lib/kpot/backup")).unwrap();
        let files = runs.map(|run| run.unwrap().path().join("files/var/lib/kubelet"));
        let files: Vec<_> = files.collect();
        assert!(files[0].join("notes.txt").exists() && !files[0].join("pods").exists());
        fs::write(root.path().join("etc/kubernetes/admin.conf"), "another").unwrap();
        let changed = HostView::new(root.path(), Arc::new(Scripted::new()));
        let again = back_up().check(View {
            host: &changed,
            cluster: None,
        });
        assert!(matches!(again.unwrap(), State::Pending(what) if what.starts_with("1 files")));

        let runner = Arc::new(script(root.path()));
        let step = ClearNode::new(
            "m3".to_owned(),
            &root.path().join("var/lib/kpot"),
            &cluster(),
            Some("unix:///run/containerd/containerd.sock".to_owned()),
        );
        let (before, after) = ensure(&step, root.path(), runner.clone());
        assert!(matches!(before, State::Pending(why) if why.contains("interface cni0")));
        assert_eq!(after, State::Satisfied);
        let asked = runner.asked();
        let at = |what: &str| asked.iter().position(|cmd| cmd.starts_with(what)).unwrap();
        assert!(
            at("systemctl stop") < at("kubeadm reset") && at("kubeadm reset") < at("ip link"),
            "{asked:?}"
        );
        assert!(
            root.path().join("etc/kubernetes/known_tokens.csv").exists(),
            "kubeadm did not write it"
        );
        let text = |path: &str| fs::read_to_string(root.path().join(path)).unwrap_or_default();
        assert_eq!(text("etc/cni/net.d/10-bridge.conf"), "by hand");
        assert_eq!(text("var/lib/kubelet/config.json"), "login");
        for (name, content) in [("member/snap/db", "keys"), ("snapshot.db", "somebody's")] {
            let backups = fs::read_dir(root.path().join("var/lib/kpot/backup")).unwrap();
            let data = backups
                .filter_map(Result::ok)
                .map(|run| run.path().join("etcd-data").join(name))
                .find(|path| path.exists());
            assert_eq!(fs::read_to_string(data.unwrap()).unwrap(), content);
        }
        let etcds = fs::read_dir(root.path().join("var/lib/etcd")).unwrap();
        assert_eq!(etcds.count(), 0, "kubeadm demands that it is empty");
    }

    #[test]
    fn what_is_wiped_behind_links_is_kept_and_a_static_pod_that_was_one_comes_back() {
        let root = former_master();
        let at = |path: &str| root.path().join(path);
        for folder in ["data", "opt"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::rename(at("etc/kubernetes"), at("data/kubernetes")).unwrap();
        symlink("../data/kubernetes", at("etc/kubernetes")).unwrap();
        fs::write(at("opt/pod.yaml"), "kind: Pod").unwrap();
        for (name, text) in [
            ("vip.yaml", "../../../opt/pod.yaml"),
            ("gone.yaml", "nothing"),
        ] {
            symlink(text, at("data/kubernetes/manifests").join(name)).unwrap();
        }
        ensure(&back_up(), root.path(), Arc::new(Scripted::new()));
        let step = ClearNode::new(
            "m3".to_owned(),
            &at("var/lib/kpot"),
            &cluster(),
            Some("unix:///run/containerd/containerd.sock".to_owned()),
        );
        let (_, after) = ensure(&step, root.path(), Arc::new(script(root.path())));
        assert_eq!(after, State::Satisfied);
        assert!(!at("data/kubernetes/admin.conf").exists() && at("opt/pod.yaml").exists());
        let kept = fs::read_dir(at("var/lib/kpot/backup"))
            .unwrap()
            .map(|run| run.unwrap().path().join("files/etc/kubernetes"))
            .find(|files| files.exists())
            .unwrap();
        let secret = fs::read_to_string(kept.join("admin.conf")).unwrap();
        assert_eq!(secret, "secret");
        assert!(kept.join("pki/ca.key").exists());

        let journal = Journal::new(at("var/lib/kpot"));
        let view = HostView::new(root.path(), Arc::new(Scripted::new()));
        let host = Host::new(view, &journal);
        // The healthy master has none.
        let healthy = Arc::new(Scripted::new().on("find -H", 0, ""));
        let healthy = Cluster::new(ClusterView::new(healthy, "10.0.0.11"));
        let world = World {
            host: &host,
            cluster: Some(&healthy),
        };
        let pods = StaticPods::new(Former::Ourselves);
        let told = pods.note(world.view(), Manifests::Go).unwrap().unwrap();
        assert!(
            told.contains("vip.yaml of this machine itself") && !told.contains("gone.yaml"),
            "{told}"
        );
        pods.apply(world).unwrap();
        let pod = fs::read_to_string(at("data/kubernetes/manifests/vip.yaml")).unwrap();
        assert_eq!(pod, "kind: Pod");
    }

    #[test]
    fn data_that_outlived_their_system_need_no_kubeadm() {
        for (more, goes) in [
            (None, true),
            (Some("etc/kubernetes/manifests/etcd.yaml"), false),
        ] {
            let root = tempfile::tempdir().unwrap();
            for path in Some("var/lib/etcd/member/snap/db").into_iter().chain(more) {
                let place = root.path().join(path);
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                fs::write(place, "keys").unwrap();
            }
            let absent = Scripted::new()
                .on("systemctl show", 0, "LoadState=not-found\n")
                .on("kubeadm reset", 127, "");
            let journal = Journal::new(root.path().join("var/lib/kpot"));
            let host = Host::new(HostView::new(root.path(), Arc::new(absent)), &journal);
            let world = World {
                host: &host,
                cluster: None,
            };
            let step = ClearNode::new("m3".to_owned(), Path::new("/nowhere"), &cluster(), None);
            journal
                .record(Event::Step {
                    step: ID.to_owned(),
                })
                .unwrap();
            assert_eq!(step.apply(world).is_ok(), goes, "{more:?}");
            assert_eq!(root.path().join("var/lib/etcd/member").exists(), !goes);
        }
    }

    #[test]
    fn a_bare_machine_has_nothing_to_clear() {
        let root = tempfile::tempdir().unwrap();
        let host = HostView::new(root.path(), Arc::new(Scripted::new()));
        let view = View {
            host: &host,
            cluster: None,
        };
        let step = ClearNode::new("m3".to_owned(), Path::new("/nowhere"), &cluster(), None);
        assert_eq!(step.check(view).unwrap(), State::Satisfied);
        assert_eq!(back_up().check(view).unwrap(), State::Satisfied);
    }
}
