//! Takes what belongs to Kubernetes off the machine of a master whose place is taken: the kubelet, its pods, and what kubeadm, the kubelet, etcd and the pod network wrote.
//!
//! Everything else stays: Docker with its images and other containers, and every other file. kubeadm's own reset is not run there: up to 1.16 it empties all of /etc/cni/net.d, and
//! it may look for the cluster. Nothing is done where the cluster lists the machine's etcd member or its Node, or where the machine has another cluster's CA. Interfaces and
//! packet-filter rules of the pod network stay until the next reboot.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::down::{Down, Reach};
use super::{ASIDE, KUBERNETES, is_below};
use crate::control_plane::ClusterView;
use crate::control_plane::etcd::Etcd;
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::objects::{List, Node};
use crate::host::command::{Cmd, Output};
use crate::host::cri::{self, SANDBOXES, crictl, ctr};
use crate::host::grace;
use crate::host::probe::{CONTAINERD, CONTAINERD_PATH, Containers, Probe};
use crate::host::remote::{Remote, RemoteView, TreeEntry};
use crate::step::{Place, Reversal, State, Step, View, World};
use crate::steps::unescape;

/// Where pod networks put their configuration.
const NETWORKS: &str = "/etc/cni/net.d";

/// The kubelet's folder; what people put there, profiles of seccomp for one, stays.
const KUBELET: &str = "/var/lib/kubelet";

/// What goes besides, whole, and the certificates and etcd's data, which lie where kubeadm's configuration says. Most is the kubelet's own, by the names in its sources (`pkg/kubelet/config/defaults.go` and `pkg/kubelet/cm`).
const MADE: [&str; 19] = [
    "/var/lib/cni",
    "/var/lib/dockershim",
    "/var/run/kubernetes",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/instance-config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/pki",
    "/var/lib/kubelet/pods",
    "/var/lib/kubelet/plugins",
    "/var/lib/kubelet/plugins_registry",
    "/var/lib/kubelet/plugin-containers",
    "/var/lib/kubelet/pod-resources",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet/checkpoints",
    "/var/lib/kubelet/cpu_manager_state",
    "/var/lib/kubelet/memory_manager_state",
    "/var/lib/kubelet/dra_manager_state",
    "/var/lib/kubelet/allocated_pods_state",
    "/var/lib/kubelet/actuated_pods_state",
];

/// Words in the names of files that pod networks write; other files there (podman's, say) are somebody else's.
const POD_NETWORKS: [&str; 13] = [
    "antrea",
    "calico",
    "canal",
    "cilium",
    "flannel",
    "galaxy",
    "kindnet",
    "kube-ovn",
    "kube-router",
    "kuberouter",
    "multus",
    "tke-",
    "weave",
];

/// How long the removal of a hundred containers, or of the data of their pods, may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// See the module.
pub struct ResetDown {
    down: Down,
    etcd: Option<Etcd>,
    ca: String,
    /// What lies where the cluster's configuration says: the certificates, where they are not in kubeadm's folder, and etcd's data, where etcd is the master's own.
    places: Vec<String>,
}

/// What is left of Kubernetes on a machine.
#[derive(Debug, Default)]
struct Left {
    kubelet_runs: bool,
    kubelet_starts: bool,
    docker: Vec<String>,
    containerd: Vec<String>,
    /// What containerd runs for a kubelet where crictl cannot tell of pods.
    tasks: Vec<String>,
    files: usize,
    made: Vec<String>,
    networks: Vec<String>,
}

impl ResetDown {
    /// Resets the machine of `down`, a master of `cluster` before.
    pub fn new(down: Down, cluster: &ClusterFacts) -> Self {
        let certificates = down.certificates_elsewhere().map(str::to_owned);
        let data = cluster.config.etcd.member_dir();
        Self {
            etcd: cluster.etcd.clone(),
            ca: format!("{}/ca.crt", cluster.config.certificates_dir),
            places: certificates.into_iter().chain(data).collect(),
            down,
        }
    }

    /// Refuses where the cluster still lists the machine, or it belongs to another one.
    fn may_reset(&self, cluster: &ClusterView, machine: &RemoteView) -> Result<()> {
        let departed = &self.down.departed;
        let members = match &self.etcd {
            Some(etcd) => etcd.listed(cluster)?,
            None => Vec::new(),
        };
        if let Some(member) = members
            .iter()
            .find(|member| member.is_at(&departed.address) || member.name == departed.name)
        {
            bail!(
                "{} is not reset: etcd still lists {member}. Take it out first, on that machine: kpot-install reset --healthy {}",
                departed.name,
                cluster.address()
            );
        }
        let nodes: List<Node> = cluster.get(&["nodes"])?;
        if let Some(node) = nodes
            .items
            .iter()
            .find(|node| node.metadata.name == departed.name || node.has_address(&departed.address))
        {
            bail!(
                "{} is not reset: the cluster lists the node {} at {}",
                departed.name,
                node.metadata.name,
                departed.address
            );
        }
        let (theirs, ours) = (machine.file(&self.ca)?, cluster.file(&self.ca)?);
        ensure!(
            theirs.is_none() || theirs == ours,
            "{} is not reset: {} on {} is not this cluster's, so another cluster's node answers at that address",
            departed.name,
            self.ca,
            departed.address
        );
        Ok(())
    }
}

impl Step for ResetDown {
    fn id(&self) -> &'static str {
        "reset-down"
    }

    fn summary(&self) -> String {
        format!(
            "nothing of Kubernetes is left on the machine of {}",
            self.down.departed.name
        )
    }

    fn place(&self) -> Place {
        Place::Cluster
    }

    fn reversal(&self) -> Reversal {
        Reversal::Backup
    }

    fn check(&self, _view: View<'_>) -> Result<State> {
        Ok(match &self.down.reach {
            Reach::Answers(machine) => match Left::on(machine, &self.places)?.to_string() {
                left if left.is_empty() => State::Satisfied,
                left => State::Pending(format!("on {}: {left}", machine.address())),
            },
            Reach::Silent(why) => State::Unsettable(format!(
                "{} left the cluster, and its machine is not reset: it {why}",
                self.down.departed.name
            )),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let machine = self
            .down
            .reach
            .machine()
            .context("a machine that does not answer cannot be reset")?;
        self.may_reset(cluster.view(), machine)?;
        let remote = Remote::new(machine, world.host);
        let left = Left::on(machine, &self.places)?;
        let certificates = self.down.certificates_elsewhere();
        let wiped: Vec<&str> = [KUBERNETES].into_iter().chain(certificates).collect();
        let files = Down::stamps(machine, &wiped)?;
        ensure!(
            self.down.is_kept(world.host.view(), &files)? || files.is_empty(),
            "{} is not reset: none of this machine's backups holds its files as they are now. Run the same command again",
            self.down.departed.name
        );
        left.stop_kubelet(&remote)?;
        // What it began while it was being stopped is seen now.
        Left::on(machine, &self.places)?.remove_pods(&remote)?;
        unmount(machine, &remote)?;
        remove_files(machine, &remote, &self.places)
    }
}

impl Left {
    /// `places` go besides what every node has.
    fn on(machine: &RemoteView, places: &[String]) -> Result<Self> {
        let unit = machine.probe(&Probe::unit("kubelet.service"))?.text();
        let is = |line: &str| unit.lines().any(|one| one == line);
        let found = is("LoadState=loaded") || is("LoadState=masked");
        let files = machine.tree(KUBERNETES)?;
        let networks = machine.tree(NETWORKS)?.into_iter().map(|entry| entry.path);
        let goes = |entry: &TreeEntry| !entry.is_folder && !is_below(&entry.path, ASIDE);
        let made: Vec<&str> = (places.iter().map(String::as_str)).chain(MADE).collect();
        let (containerd, tasks) = of_containerd(machine)?;
        Ok(Self {
            // A kubelet without its configuration is "activating" for ever.
            kubelet_runs: found && !is("ActiveState=inactive") && !is("ActiveState=failed"),
            kubelet_starts: is("UnitFileState=enabled"),
            docker: of_docker(machine)?,
            containerd,
            tasks,
            files: files.iter().filter(|entry| goes(entry)).count(),
            made: machine.existing(&made)?,
            networks: networks.filter(|path| is_pod_network(path)).collect(),
        })
    }

    fn stop_kubelet(&self, remote: &Remote<'_>) -> Result<()> {
        if self.kubelet_starts {
            remote.run(&Cmd::new("systemctl", ["disable", "kubelet.service"]))?;
        }
        if self.kubelet_runs {
            let stop = Cmd::new("systemctl", ["stop", "kubelet.service"]);
            remote.run(&stop.timeout(PATIENCE))?;
        }
        Ok(())
    }

    fn remove_pods(&self, remote: &Remote<'_>) -> Result<()> {
        // What does not end when it is asked to is removed all the same.
        if !self.docker.is_empty() {
            remote.run(&grace::docker(&self.docker)).ok();
            let fixed = ["rm", "--force", "--volumes"].map(str::to_owned);
            let args = fixed.into_iter().chain(self.docker.iter().cloned());
            remote.run(&Cmd::new("docker", args).timeout(PATIENCE))?;
        }
        if !self.tasks.is_empty() {
            for id in &self.tasks {
                remote.run(&grace::ctr_task(id)).ok();
            }
            remote.pause(grace::PAUSE);
            let by_ctr = |verb: &[&str], ids: &[String]| {
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                let args = ctr(CONTAINERD_PATH, &[verb, &ids].concat());
                Cmd::new("ctr", args).timeout(PATIENCE)
            };
            // containerd's CRI takes away by itself what has ended, also while this is at work; what is left then is seen when the step is checked.
            let still = lines(&remote.view().probe(&Probe::containerd_tasks())?);
            if !still.is_empty() {
                remote
                    .run(&by_ctr(&["tasks", "delete", "--force"], &still))
                    .ok();
            }
            remote.run(&by_ctr(&["containers", "delete"], &self.tasks))?;
        }
        if !self.containerd.is_empty() {
            let running = remote.view().probe(&Probe::containerd_containers())?;
            if let Some(stop) = grace::crictl(&running) {
                remote.run(&stop).ok();
            }
            for verb in ["stopp", "rmp"] {
                let ids = self.containerd.iter().map(String::as_str);
                let words = std::iter::once(verb).chain(ids);
                let cmd = crictl(CONTAINERD, cri::STOPPING, words);
                remote.run(&cmd.timeout(PATIENCE))?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Left {
    /// Empty where nothing is left.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut left = Vec::new();
        if self.kubelet_runs {
            left.push("the kubelet runs".to_owned());
        }
        if self.kubelet_starts {
            left.push("the kubelet starts at boot".to_owned());
        }
        match self.docker.len() + self.containerd.len() + self.tasks.len() {
            0 => {}
            count => left.push(format!("{count} containers of pods")),
        }
        if self.files > 0 {
            left.push(format!("{} files below {KUBERNETES}", self.files));
        }
        left.extend(self.made.iter().chain(&self.networks).cloned());
        f.write_str(&left.join(", "))
    }
}

/// The IDs of the containers that a kubelet had Docker make; nothing where the machine has no Docker, or it does not run: then none of its containers does.
fn of_docker(machine: &RemoteView) -> Result<Vec<String>> {
    let output = machine.probe(&Probe::docker_containers(Containers::Pods))?;
    Ok(if output.ok() {
        lines(&output)
    } else {
        Vec::new()
    })
}

/// The IDs of containerd's pods; or, where crictl is not there (kubeadm from 1.31 on does not want it) or fails, of what containerd runs for a kubelet.
fn of_containerd(machine: &RemoteView) -> Result<(Vec<String>, Vec<String>)> {
    let pods = machine.probe(&Probe::containerd_pods())?;
    if pods.ok() {
        return Ok((lines(&pods), Vec::new()));
    }
    let tasks = machine.probe(&Probe::containerd_tasks())?;
    if tasks.ok() {
        return Ok((Vec::new(), lines(&tasks)));
    }
    // What containerd started runs on without it (KillMode=process).
    let pods_run = (machine.tree(SANDBOXES)?.iter()).any(|entry| entry.path != SANDBOXES);
    ensure!(
        !pods_run,
        "containerd on {} does not answer, and pods that it started run there still. Start it there (systemctl start containerd), or switch that machine off; then run this again\ncrictl: {}\nctr: {}",
        machine.address(),
        pods.evidence(),
        tasks.evidence()
    );
    Ok((Vec::new(), Vec::new()))
}

fn lines(output: &Output) -> Vec<String> {
    output.text().lines().map(str::to_owned).collect()
}

fn is_pod_network(path: &str) -> bool {
    path.strip_prefix(NETWORKS)
        .is_some_and(|name| POD_NETWORKS.iter().any(|word| name.contains(word)))
}

/// Unmounts what pods had mounted, the innermost first.
fn unmount(machine: &RemoteView, remote: &Remote<'_>) -> Result<()> {
    let mounts = machine.file("/proc/mounts")?.unwrap_or_default();
    let mounts = String::from_utf8_lossy(&mounts);
    let below = |path: &String| path.starts_with(&format!("{KUBELET}/"));
    let mut paths: Vec<String> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1).map(unescape))
        .filter(below)
        .collect();
    paths.sort();
    for path in paths.iter().rev() {
        remote.run(&Cmd::new("umount", ["--", path]))?;
    }
    Ok(())
}

/// Removes the files. What is mounted somewhere below all the same is not entered.
fn remove_files(machine: &RemoteView, remote: &Remote<'_>, places: &[String]) -> Result<()> {
    let left = Left::on(machine, places)?;
    if !machine.existing(&[KUBERNETES])?.is_empty() {
        let inside = format!("{ASIDE}/*");
        let args = ["-H", KUBERNETES, "-xdev", "-mindepth", "1"];
        let but = ["!", "-path", ASIDE, "!", "-path", &inside, "-delete"];
        remote.run(&Cmd::new("find", args.into_iter().chain(but)))?;
    }
    let paths: Vec<String> = left.made.into_iter().chain(left.networks).collect();
    if !paths.is_empty() {
        let fixed = ["-r", "-f", "--one-file-system", "--"].map(str::to_owned);
        let args = fixed.into_iter().chain(paths);
        remote.run(&Cmd::new("rm", args).timeout(PATIENCE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use super::super::down::tests::{m3, with_world};
    use super::*;
    use crate::control_plane::kubeadm::LocalEtcd;
    use crate::host::scripted::Scripted;
    use crate::joining::fixtures;

    const KEPT: &str = "/var/lib/kpot/backup/1/down-m3.tar.list";
    const LIST: &[u8] = b"1 1 /etc/kubernetes/admin.conf\n";

    /// A machine with a kubelet, a pod, a mount and files, all of which commands take away.
    fn machine() -> (Arc<Scripted>, Arc<Mutex<BTreeSet<String>>>) {
        let all = [
            "kubelet",
            "enabled",
            "c0ffee",
            "/etc/kubernetes/admin.conf",
            "/etc/cni/net.d/10-flannel.conflist",
            "/etc/cni/net.d/87-podman.conflist",
            "/var/lib/etcd/member",
            "/var/lib/kubelet/pods",
            "/var/lib/kubelet/pods/1/volumes/a b",
            "/opt/data",
        ];
        let things = Arc::new(Mutex::new(BTreeSet::from(all.map(str::to_owned))));
        let state = things.clone();
        let script = Scripted::new().with(move |cmd, _| {
            let mut things = state.lock().unwrap();
            let args: Vec<&str> = cmd.args.iter().map(String::as_str).collect();
            let has = |thing: &str| things.contains(thing);
            let below = |folder: &str| -> String {
                let inside = things.iter().filter(|path| path.starts_with(folder));
                inside.map(|path| ["f 600 1 ", path, "\n"].concat()).collect()
            };
            let text = match (cmd.program.as_str(), args.as_slice()) {
                ("systemctl", ["show", ..]) => format!(
                    "LoadState=loaded\nActiveState={}\nUnitFileState={}\n",
                    if has("kubelet") { "activating" } else { "inactive" },
                    if has("enabled") { "enabled" } else { "disabled" }
                ),
                ("systemctl", ["stop", _]) => {
                    things.remove("kubelet");
                    String::new()
                }
                ("systemctl", ["disable", _]) => {
                    things.remove("enabled");
                    String::new()
                }
                ("docker", ["ps", ..]) => {
                    if has("c0ffee") { "c0ffee\n" } else { "" }.to_owned()
                }
                ("docker", ["stop", "--time", "10", id]) => {
                    assert!(!has("kubelet"), "it would start the pod anew");
                    things.insert(format!("{id} was asked"));
                    String::new()
                }
                ("docker", ["rm", "--force", "--volumes", id]) => {
                    assert!(things.remove(&format!("{id} was asked")), "to end by itself");
                    things.remove(*id);
                    String::new()
                }
                ("crictl" | "ctr", _) => return Some(failed()),
                ("find", ["-H", "/etc/kubernetes", "-xdev", ..]) => {
                    things.retain(|path| !path.starts_with("/etc/kubernetes/"));
                    String::new()
                }
                ("find", ["-H", "/etc/kubernetes", "-type", ..]) => {
                    below("/etc/kubernetes/").replace("f 600 1", "1 1")
                }
                ("find", ["-H", folder, "(", ..]) => below(&format!("{folder}/")),
                ("find", ["-H", paths @ .., "-maxdepth", "0", "-printf", _]) => paths
                    .iter()
                    .filter(|path| has(path) || **path == KUBERNETES)
                    .map(|path| [path, "\n"].concat())
                    .collect(),
                ("umount", ["--", path]) => {
                    things.remove(*path);
                    String::new()
                }
                ("rm", ["-r", "-f", "--one-file-system", "--", paths @ ..]) => {
                    assert!(!has("/var/lib/kubelet/pods/1/volumes/a b"), "unmounted first");
                    things.retain(|path| !paths.contains(&path.as_str()));
                    String::new()
                }
                ("test", ["-f", path]) => {
                    if *path != "/proc/mounts" {
                        return Some(failed());
                    }
                    String::new()
                }
                ("cat", ["--", "/proc/mounts"]) => "proc /proc proc rw 0 0\ntmpfs /var/lib/kubelet/pods/1/volumes/a\\040b tmpfs rw 0 0\n".to_owned(),
                _ => return None,
            };
            Some(Output {
                stdout: text.into_bytes(),
                ..Output::default()
            })
        });
        (Arc::new(script), things)
    }

    fn failed() -> Output {
        Output {
            status: 1,
            ..Output::default()
        }
    }

    fn cluster(nodes: &str) -> Scripted {
        Scripted::new()
            .on("kubectl", 0, &format!(r#"{{"items":[{nodes}]}}"#))
            .on("test -f", 1, "")
    }

    #[test]
    fn only_what_belongs_to_kubernetes_goes_and_then_nothing_is_left_to_do() {
        let (script, things) = machine();
        let step = ResetDown::new(m3(script), &fixtures::cluster());
        with_world(cluster(""), |world| {
            world.host.write_file(KEPT, LIST, 0o600).unwrap();
            let told = step.check(world.view()).unwrap();
            assert!(
                matches!(&told, State::Pending(why) if why.contains("the kubelet runs") && why.contains("1 containers") && why.contains("1 files below /etc/kubernetes") && !why.contains("podman")),
                "{told:?}"
            );
            step.apply(world).unwrap();
            assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
        });
        let left: Vec<String> = things.lock().unwrap().iter().cloned().collect();
        assert_eq!(left, ["/etc/cni/net.d/87-podman.conflist", "/opt/data"]);
    }

    /// What m3's containerd is found to run.
    fn containerd_of(script: Scripted) -> Result<(Vec<String>, Vec<String>), String> {
        let machine = RemoteView::new(Arc::new(script), "10.0.0.13");
        of_containerd(&machine).map_err(|cause| cause.to_string())
    }

    #[test]
    fn a_containerd_that_is_slow_or_down_is_not_one_that_runs_nothing() {
        let slow = || Scripted::new().on("crictl", 1, "context deadline exceeded");
        let tasks = slow().on("ctr", 0, "c0ffee\n");
        let (pods, tasks) = containerd_of(tasks).unwrap();
        assert!(pods.is_empty());
        assert_eq!(tasks, ["c0ffee"]);
        let down = || slow().on("ctr", 1, "cannot dial");
        let pod = format!("d 755 40 {SANDBOXES}\nd 755 40 {SANDBOXES}/c0ffee\n");
        let refused = containerd_of(down().on("find", 0, &pod)).unwrap_err();
        for word in ["10.0.0.13", "systemctl start containerd", "cannot dial"] {
            assert!(refused.contains(word), "{refused}");
        }
        let folder = format!("d 755 40 {SANDBOXES}\n");
        for left in [folder.as_str(), ""] {
            let (pods, tasks) = containerd_of(down().on("find", 0, left)).unwrap();
            assert!(pods.is_empty() && tasks.is_empty(), "{left}");
        }
    }

    #[test]
    fn etcds_data_goes_where_the_cluster_has_it() {
        let (script, things) = machine();
        things
            .lock()
            .unwrap()
            .insert("/data/etcd/member".to_owned());
        let mut facts = fixtures::cluster();
        facts.config.etcd.local = Some(LocalEtcd {
            data_dir: "/data/etcd/".to_owned(),
            ..LocalEtcd::default()
        });
        let step = ResetDown::new(m3(script), &facts);
        with_world(cluster(""), |world| {
            world.host.write_file(KEPT, LIST, 0o600).unwrap();
            step.apply(world).unwrap();
        });
        let left = things.lock().unwrap();
        assert!(!left.contains("/data/etcd/member"), "{left:?}");
        assert!(left.contains("/var/lib/etcd/member"), "{left:?}");
    }

    #[test]
    fn a_reset_that_broke_off_after_any_command_is_finished_by_the_next_one() {
        let (script, _) = machine();
        let whole = ResetDown::new(m3(script.clone()), &fixtures::cluster());
        with_world(cluster(""), |world| {
            world.host.write_file(KEPT, LIST, 0o600).unwrap();
            whole.apply(world).unwrap();
        });
        let commands = script.asked().len();
        for broken in 0..commands {
            let (script, _) = machine();
            let mut count = 0;
            let forward = script.clone();
            let breaking = Scripted::new().with(move |cmd, _| {
                use crate::host::command::Runner as _;
                count += 1;
                (count <= broken).then(|| forward.run(cmd).unwrap())
            });
            with_world(cluster(""), |world| {
                world.host.write_file(KEPT, LIST, 0o600).unwrap();
                let first = ResetDown::new(m3(Arc::new(breaking)), &fixtures::cluster());
                assert!(first.apply(world).is_err(), "after {broken}");
                let second = ResetDown::new(m3(script), &fixtures::cluster());
                second.apply(world).unwrap();
                assert_eq!(second.check(world.view()).unwrap(), State::Satisfied);
            });
        }
    }

    #[test]
    fn a_machine_that_the_cluster_lists_or_that_is_not_backed_up_is_left_alone() {
        let node = |name: &str, address: &str| {
            format!(
                r#"{{"metadata":{{"name":"{name}"}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}}],"nodeInfo":{{"containerRuntimeVersion":"","kubeletVersion":""}}}}}}"#
            )
        };
        for (nodes, why) in [
            (node("m3", "10.0.0.99"), "lists the node m3"),
            (node("w9", "10.0.0.13"), "lists the node w9"),
            (String::new(), "backups"),
        ] {
            let (script, things) = machine();
            let before = things.lock().unwrap().clone();
            with_world(cluster(&nodes), |world| {
                let step = ResetDown::new(m3(script), &fixtures::cluster());
                let refused = step.apply(world).unwrap_err().to_string();
                assert!(refused.contains(why), "{refused}");
            });
            assert_eq!(*things.lock().unwrap(), before);
        }
    }

    #[test]
    fn a_machine_whose_member_is_listed_is_left_alone() {
        let mut facts = fixtures::cluster();
        let mut seen = Scripted::new().on("docker ps", 0, "e7cd\n");
        let view = ClusterView::new(Arc::new(seen), "10.0.0.11");
        facts.etcd = Some(Etcd::without_api(&view).unwrap());
        seen = Scripted::new().on(
            "docker exec",
            0,
            r#"{"members":[{"ID":31,"name":"","peerURLs":["https://10.0.0.13:2380"]}]}"#,
        );
        let (script, things) = machine();
        let before = things.lock().unwrap().clone();
        with_world(seen, |world| {
            let step = ResetDown::new(m3(script), &facts);
            let refused = step.apply(world).unwrap_err().to_string();
            assert!(refused.contains("etcd still lists"), "{refused}");
        });
        assert_eq!(*things.lock().unwrap(), before);
    }

    #[test]
    fn the_machine_of_another_cluster_is_left_alone() {
        let script = Scripted::new().on("test -f", 0, "").on("cat", 0, "theirs");
        let seen = Scripted::new()
            .on("kubectl", 0, r#"{"items":[]}"#)
            .on("test -f", 0, "")
            .on("cat", 0, "ours");
        with_world(seen, |world| {
            let step = ResetDown::new(m3(Arc::new(script)), &fixtures::cluster());
            let refused = step.apply(world).unwrap_err().to_string();
            assert!(refused.contains("another cluster"), "{refused}");
        });
    }
}
