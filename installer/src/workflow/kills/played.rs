//! A cluster that is only played, with the three machines that this program runs commands on: what it asks and does is answered here, and nothing else is.
//!
//! Whatever no run may ever do is written down in `wrong`, also where the program swallows the error.

#![allow(
    clippy::disallowed_methods,
    reason = "the played programs write the files of this machine"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::etcd::Etcd;
use super::files::{Files, bad, good};
use super::kubeadm::Break;
use super::kubectl::Objects;
use super::runner::Place;
use super::world::{BALANCER, SECOND};
use crate::host::command::{Cmd, Local, NO_PROGRAM, Output, Runner};
use crate::host::probe::CONTAINERD;
use crate::kubernetes::Traits;

/// What came of a command.
pub(super) enum Outcome {
    Answered(Output),
    /// This machine lost its power meanwhile.
    PowerCut,
    Unexpected,
}

/// This machine, whose files lie in a real folder.
#[derive(Clone, Debug)]
pub(super) struct Here {
    pub(super) root: PathBuf,
    pub(super) name: String,
    pub(super) address: String,
    pub(super) kubelet: bool,
}

/// The machine of a master whose place is taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Down {
    pub(super) files: Files,
    pub(super) kubelet: bool,
    pub(super) enabled: bool,
    pub(super) containers: Vec<String>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub(super) minor: u16,
    pub(super) etcd: Etcd,
    pub(super) objects: Objects,
    pub(super) healthy: Files,
    pub(super) here: Here,
    /// Nothing where it does not answer over SSH.
    pub(super) down: Option<Down>,
    /// What stops the next join, and after which phase.
    pub(super) breaks: Option<(usize, Break)>,
    pub(super) joins: usize,
    /// How many more times the API server of a new master refuses; its node is not ready until then.
    pub(super) starting: usize,
    pub(super) tokens: usize,
    pub(super) wrong: Vec<String>,
}

impl Here {
    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.place(path).exists()
    }

    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.place(path)).into_iter().flatten();
        entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    pub(super) fn put(&self, path: &str, content: &str) {
        let place = self.place(path);
        fs::create_dir_all(place.parent().expect("a file lies in a folder"))
            .expect("folders can be made");
        fs::write(place, content).expect("a file can be written");
    }

    /// Makes a file that many bytes long, which take no room.
    pub(super) fn grow(&self, path: &str, size: u64) {
        if size > 0 {
            self.put(path, "");
            let file = fs::File::options().write(true).open(self.place(path));
            file.and_then(|file| file.set_len(size))
                .expect("a file can be grown");
        }
    }

    pub(super) fn remove(&self, path: &str) {
        let place = self.place(path);
        // What is not there is fine.
        let _ = if place.is_dir() {
            fs::remove_dir_all(place)
        } else {
            fs::remove_file(place)
        };
    }
}

impl Played {
    /// What comes of a command on one of the machines.
    pub(super) fn play(&mut self, place: Place, cmd: &Cmd, input: &[u8]) -> Outcome {
        let args: Vec<&str> = cmd.args.iter().map(String::as_str).collect();
        if place == Place::Here && cmd.program == "kubeadm" && args.first() == Some(&"join") {
            return self.join(input);
        }
        let answer = match place {
            Place::Here => self.play_here(cmd, &args),
            Place::Healthy => self.play_healthy(cmd, &args, input),
            Place::Down => self.play_down(cmd, &args),
        };
        let Some(output) = answer else {
            self.wrong.push(format!("unexpected on {place:?}: {cmd}"));
            return Outcome::Unexpected;
        };
        Outcome::Answered(output)
    }

    fn play_healthy(&mut self, cmd: &Cmd, args: &[&str], input: &[u8]) -> Option<Output> {
        Some(match (cmd.program.as_str(), args) {
            ("date", _) => {
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed().ok()?;
                good(format!("{:.6}", now.as_secs_f64()))
            }
            ("hostname", []) => good("m1\n"),
            ("docker", ["info", "--format", "{{.CgroupDriver}}"]) if self.has_docker() => {
                good("cgroupfs\n")
            }
            ("docker", ["ps", "--quiet", "--no-trunc", ..]) if self.has_docker() => {
                good("c0ffee\n")
            }
            ("docker", ["exec", "--env", "ETCDCTL_API=3", "c0ffee", words @ ..])
                if self.has_docker() =>
            {
                return self.etcdctl(words);
            }
            (
                "crictl",
                [
                    "--runtime-endpoint",
                    CONTAINERD,
                    "--image-endpoint",
                    CONTAINERD,
                    "--timeout",
                    _,
                    "ps",
                    ..,
                ],
            ) if !self.has_docker() => good("c0ffee\n"),
            (
                "crictl",
                [
                    "--runtime-endpoint",
                    CONTAINERD,
                    "--image-endpoint",
                    CONTAINERD,
                    "--timeout",
                    _,
                    "exec",
                    "c0ffee",
                    words @ ..,
                ],
            ) if !self.has_docker() => {
                return self.etcdctl(words);
            }
            ("docker" | "crictl" | "ctr", _) => absent(&cmd.program),
            ("kubeadm", ["version", "--output", "short"]) => {
                good(super::world::version(self.minor).to_string())
            }
            ("sh", ["-c", "cat | \"$@\"", "sh", "kubeadm", "token", "create", ..]) => {
                let config = String::from_utf8_lossy(input);
                let init = config.rsplit("---\n").next()?;
                let init: serde_json::Value = serde_json::from_str(init).ok()?;
                self.create_token(init["bootstrapTokens"][0]["description"].as_str()?)
            }
            (
                "sh",
                [
                    "-c",
                    "cat | \"$@\"",
                    "sh",
                    "kubeadm",
                    "init",
                    "phase",
                    "upload-certs",
                    ..,
                ],
            ) => self.upload(),
            ("stat", ["--file-system", ..]) => good("1048576 4096\n"),
            ("kubectl", ["--kubeconfig", "/etc/kubernetes/admin.conf", rest @ ..]) => {
                return self.kubectl(rest, input);
            }
            _ => return self.healthy.play(cmd),
        })
    }

    fn has_docker(&self) -> bool {
        Traits::of(super::world::version(self.minor)).dockershim
    }

    /// etcd's own programs in its container: from 3.6 on snapshot files are etcdutl's.
    fn etcdctl(&mut self, words: &[&str]) -> Option<Output> {
        let (tool, words) = words.split_first()?;
        let endpoint = words
            .iter()
            .find_map(|word| word.strip_prefix("--endpoints="));
        let endpoint = endpoint.map_or("127.0.0.1", host_of);
        let words: Vec<&str> = words
            .iter()
            .copied()
            .filter(|word| !word.starts_with("--") || word.starts_with("--consistency="))
            .collect();
        let files = self.minor > 33 && words.starts_with(&["snapshot", "status"]);
        if *tool != if files { "etcdutl" } else { "etcdctl" } {
            return None;
        }
        self.etcd
            .play(&mut self.healthy, super::world::HEALTHY, endpoint, &words)
    }

    fn kubectl(&mut self, args: &[&str], input: &[u8]) -> Option<Output> {
        if args.contains(&"version") {
            let version = super::world::version(self.minor).to_string();
            return Some(good(
                json!({ "serverVersion": { "gitVersion": version } }).to_string(),
            ));
        }
        if !self.etcd.has_quorum() {
            return Some(bad("Error from server: etcdserver: request timed out"));
        }
        if let Some(at) = args.iter().rposition(|arg| *arg == "--server")
            && !self.etcd.alive.contains(host_of(args.get(at + 1)?))
        {
            return Some(bad("The connection to the server was refused"));
        }
        if args.ends_with(&["get", "--raw", "/healthz"]) {
            return Some(good("ok"));
        }
        if let Some(at) = args.iter().position(|arg| *arg == "delete")
            && args.get(at + 1) == Some(&"node")
        {
            self.judge_deletion(args.get(at + 2)?);
        }
        self.objects.play(args, input)
    }

    /// A Node goes only after its member, only after it was recorded, and only where it is this machine's or that of the master that leaves.
    fn judge_deletion(&mut self, name: &str) {
        let Some(node) = self.objects.get("node", "", name) else {
            return;
        };
        let address = node["status"]["addresses"][0]["address"]
            .as_str()
            .unwrap_or_default();
        if let Some(member) = self.etcd.at(address) {
            self.wrong
                .push(format!("node {name} goes before {member:?}"));
        }
        let departs = address == self.etcd.departed;
        if !departs && address != self.here.address {
            self.wrong
                .push(format!("node {name} is nobody's to delete"));
        }
        let record = format!("kpot-{name}");
        if departs
            && self
                .objects
                .get("configmap", "kube-system", &record)
                .is_none()
        {
            self.wrong
                .push(format!("node {name} goes without a record"));
        }
    }

    fn play_here(&mut self, cmd: &Cmd, args: &[&str]) -> Option<Output> {
        Some(match (cmd.program.as_str(), args) {
            ("systemctl", ["show", _, "kubelet.service"]) => unit(self.here.kubelet, true),
            ("systemctl", ["stop", "kubelet.service"]) => {
                self.here.kubelet = false;
                good("")
            }
            ("kubeadm", ["reset", "--force", ..]) => self.reset(),
            ("ip", ["link", "delete", name]) => {
                self.here.remove(&format!("/sys/class/net/{name}"));
                good("")
            }
            ("docker", ["run", "--rm", .., "get", consistency, "health"])
            | (
                "ctr",
                [
                    "--address",
                    _,
                    "--namespace",
                    "k8s.io",
                    "run",
                    "--rm",
                    ..,
                    "get",
                    consistency,
                    "health",
                ],
            ) => {
                if (cmd.program == "docker") != self.has_docker() {
                    return None;
                }
                if self.here.list("/run/kpot/etcd-client").len() != 3 {
                    self.wrong
                        .push("etcd is asked from here without credentials".to_owned());
                }
                let endpoint = args
                    .iter()
                    .find_map(|arg| arg.strip_prefix("--endpoints="))?;
                self.etcd.read(host_of(endpoint), consistency)
            }
            ("kubectl", [.., "get", "--raw", "/healthz"]) => {
                if self.starting > 0 {
                    self.starting -= 1;
                    if self.starting == 0 {
                        let name = self.here.name.clone();
                        self.set_ready(&name, "True");
                    }
                    return Some(bad("The connection to the server was refused"));
                }
                let stands = self.here.kubelet
                    && self.here.has("/etc/kubernetes/admin.conf")
                    && self
                        .here
                        .has("/etc/kubernetes/manifests/kube-apiserver.yaml");
                if stands && self.etcd.answers(&self.here.address) {
                    good("ok")
                } else {
                    bad("The connection to the server was refused")
                }
            }
            ("journalctl", _) => good(""),
            _ => return None,
        })
    }

    fn play_down(&mut self, cmd: &Cmd, args: &[&str]) -> Option<Output> {
        let has_docker = self.has_docker();
        let down = self.down.as_mut()?;
        Some(match (cmd.program.as_str(), args) {
            ("systemctl", ["show", _, "kubelet.service"]) => unit(down.kubelet, down.enabled),
            ("systemctl", ["disable", "kubelet.service"]) => {
                down.enabled = false;
                good("")
            }
            ("systemctl", ["stop", "kubelet.service"]) => {
                down.kubelet = false;
                good("")
            }
            ("docker", ["ps", ..]) if has_docker => good(down.containers.join("\n")),
            ("docker", ["stop", "--time", ..]) if has_docker => good(""),
            ("docker", ["rm", "--force", "--volumes", ..]) if has_docker => {
                down.containers.clear();
                good("")
            }
            ("crictl", [.., "pods", "--quiet"]) if !has_docker => good(down.containers.join("\n")),
            ("crictl", [.., "ps", "--quiet"]) if !has_docker => good("1\n2\n"),
            ("crictl", [.., "stop", "--timeout", "10", _, _] | [.., "stopp", _, _])
                if !has_docker =>
            {
                good("")
            }
            ("crictl", [.., "rmp", _, _]) if !has_docker => {
                down.containers.clear();
                good("")
            }
            ("docker" | "crictl" | "ctr", _) => absent(&cmd.program),
            _ => return down.files.play(cmd),
        })
    }

    /// The master m2 is lost, with its etcd.
    pub(super) fn lose_master(&mut self) {
        self.etcd.alive.remove(SECOND.1);
        self.set_ready(SECOND.0, "Unknown");
    }

    /// It comes back.
    pub(super) fn find_master(&mut self) {
        self.etcd.alive.insert(SECOND.1.to_owned());
        self.set_ready(SECOND.0, "True");
    }

    /// Whether somebody listens at an address of the cluster.
    pub(super) fn listens(&self, address: &SocketAddr) -> bool {
        let (host, alive) = (address.ip().to_string(), &self.etcd.alive);
        match address.port() {
            6443 if host == BALANCER => !alive.is_empty(),
            6443 | 2379 | 2380 => alive.contains(&host),
            _ => false,
        }
    }

    pub(super) fn set_ready(&mut self, node: &str, status: &str) {
        if let Some(node) = self.objects.get_mut("node", "", node) {
            node["status"]["conditions"][0]["status"] = json!(status);
        }
    }

    /// This machine's power goes and comes back: what ran, and is to run, runs again.
    pub(super) fn lose_power(&mut self) {
        let started = self.here.has("/etc/kubernetes/kubelet.conf");
        self.here.kubelet = started;
    }

    /// kubeadm's ClusterStatus.
    pub(super) fn cluster_status(&self) -> Value {
        let config = self
            .objects
            .get("configmap", "kube-system", "kubeadm-config");
        let text = config.and_then(|config| config["data"]["ClusterStatus"].as_str());
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    pub(super) fn set_cluster_status(&mut self, status: &Value) {
        let config = self
            .objects
            .get("configmap", "kube-system", "kubeadm-config");
        let mut config = config.cloned().unwrap_or_default();
        config["data"]["ClusterStatus"] = json!(status.to_string());
        self.objects.put("configmap", config);
    }
}

/// A program that the machine has not.
fn absent(program: &str) -> Output {
    Output {
        status: NO_PROGRAM,
        ..bad(&format!("sh: 1: {program}: not found"))
    }
}

fn unit(active: bool, enabled: bool) -> Output {
    let (active, enabled) = (
        if active { "active" } else { "inactive" },
        if enabled { "enabled" } else { "disabled" },
    );
    good(format!(
        "LoadState=loaded\nActiveState={active}\nUnitFileState={enabled}\nFragmentPath=\nNeedDaemonReload=no\n"
    ))
}

/// The host in `https://HOST:PORT`.
fn host_of(url: &str) -> &str {
    let rest = url.trim_start_matches("https://");
    rest.rsplit_once(':').map_or(rest, |(host, _)| host)
}

/// A Secret in kube-system.
pub(super) fn secret_of(name: &str, kind: &str, data: &Value) -> Value {
    json!({ "metadata": { "name": name, "namespace": "kube-system" }, "type": kind, "data": data })
}

/// One certificate for everything, with a CA's name and a year to live.
pub(super) fn certificate() -> &'static str {
    static PEM: OnceLock<String> = OnceLock::new();
    PEM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let key = folder.path().join("key").display().to_string();
        let fixed = "req -x509 -nodes -subj /CN=kubernetes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 365 -keyout";
        let args = fixed.split(' ').chain([key.as_str()]);
        let output = Local.expect(&Cmd::new("openssl", args)).expect("openssl makes a certificate");
        output.text() + "\n"
    })
}
