//! What the programs of the machine that is played do and say.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use crate::host::command::{Cmd, Output};
use crate::steps::testing::{Machine, Units};

/// What Docker, or containerd in its place, holds.
#[derive(Default)]
pub(super) struct Docker {
    /// Names with IDs.
    pub images: BTreeMap<String, String>,
    pub containers: Vec<String>,
}

pub(super) fn runs(units: &Units, name: &str) -> bool {
    let units = units.lock().unwrap();
    units.get(name).is_some_and(|unit| unit.0 == "active")
}

/// What the machine's programs do and say; nothing where it is systemd's turn.
pub(super) fn answer(
    machine: &Machine,
    docker: &mut Docker,
    runs: &dyn Fn(&str) -> bool,
    cmd: &Cmd,
) -> Option<Output> {
    let args: Vec<&str> = cmd.args.iter().map(String::as_str).collect();
    let edit = |path: &str, edit: &dyn Fn(String) -> String| {
        machine.file(path, edit(machine.text(path).unwrap()));
    };
    let without = |word: String| {
        move |text: String| {
            text.lines()
                .filter(|line| !line.contains(&word))
                .flat_map(|line| [line, "\n"])
                .collect()
        }
    };
    let failure = Some(Output {
        status: 1,
        ..Output::default()
    });
    let text = match (cmd.program.as_str(), args.as_slice()) {
        ("systemctl", ["restart", "docker.service"]) => {
            machine
                .file("/etc/docker/key.json", "x")
                .file("/run/docker.pid", "1")
                .file("/run/docker/x", "x")
                .file("/opt/containerd/x", "x")
                .file("/var/lib/docker/overlay2/x", "x")
                .file("/sys/class/net/docker0/mtu", "1500\n");
            return None;
        }
        ("systemctl", ["restart", "containerd.service"]) => {
            fs::create_dir_all(machine.place("/etc/cni/net.d")).unwrap();
            machine
                .file("/run/containerd/containerd.sock", "")
                .file("/opt/containerd/x", "x")
                .file("/var/lib/containerd/content/x", "x");
            return None;
        }
        ("modprobe", ["--dry-run", ..]) => String::new(),
        ("modprobe", [name]) => {
            edit("/proc/modules", &|text| format!("{text}{name} 1 0\n"));
            String::new()
        }
        ("rmmod", ["ip_vs"]) => return failure,
        ("rmmod", [name]) => {
            edit("/proc/modules", &without(format!("{name} ")));
            String::new()
        }
        ("swapoff", [area]) => {
            edit("/proc/swaps", &without((*area).to_owned()));
            String::new()
        }
        ("swapon", [area]) => {
            edit("/proc/swaps", &|text| {
                format!("{text}{area} file 1 0 -2\n")
            });
            String::new()
        }
        ("umount", [path]) => {
            edit("/proc/self/mounts", &without((*path).to_owned()));
            String::new()
        }
        ("ip", ["link", "delete", name]) => {
            fs::remove_dir_all(machine.place(&format!("/sys/class/net/{name}"))).unwrap();
            String::new()
        }
        ("ctr" | "crictl" | "containerd", _) => return containerd(docker, runs, &args),
        ("docker", _) if !runs("docker.service") => return failure,
        ("docker", ["info", ..]) => {
            r#"{"ServerVersion":"18.09.9","CgroupDriver":"cgroupfs","Driver":"overlay2","LiveRestoreEnabled":true}"#.to_owned()
        }
        ("docker", ["images", ..]) => docker
            .images
            .iter()
            .map(|(name, id)| format!("{id} {name}"))
            .collect::<Vec<_>>()
            .join("\n"),
        ("docker", ["load", ..]) => {
            let id = bundle_spec::Sha256::of(b"{}").to_string();
            docker.images.insert("k8s.gcr.io/pause:3.1".to_owned(), id);
            String::new()
        }
        ("docker", ["rmi", name]) => {
            docker.images.remove(*name)?;
            String::new()
        }
        ("docker", ["ps", ..]) => docker.containers.join("\n"),
        ("docker", ["rm", ..]) => {
            docker.containers.clear();
            String::new()
        }
        _ => return None,
    };
    Some(Output {
        stdout: text.into_bytes(),
        ..Output::default()
    })
}

/// What containerd does and says through its programs.
fn containerd(holds: &mut Docker, runs: &dyn Fn(&str) -> bool, args: &[&str]) -> Option<Output> {
    if !runs("containerd.service") {
        return Some(Output {
            status: 1,
            ..Output::default()
        });
    }
    let text = match args {
        [.., "version"] => "Server:\n  Version: v2.1.4\n".to_owned(),
        [.., "plugins", "ls"] => "io.containerd.grpc.v1 cri - ok\n".to_owned(),
        ["config", "dump"] => "version = 3\n".to_owned(),
        [.., "images", "--output", "json"] => {
            let images =
                (holds.images.iter()).map(|(name, id)| json!({ "id": id, "repoTags": [name] }));
            json!({ "images": images.collect::<Vec<_>>() }).to_string()
        }
        [.., "images", "import", "-"] => {
            let id = bundle_spec::Sha256::of(b"{}").to_string();
            holds.images.insert("k8s.gcr.io/pause:3.1".to_owned(), id);
            String::new()
        }
        [.., "pods" | "ps", "--quiet"] => holds.containers.join("\n"),
        [.., "stop", "--timeout", "10", _] => String::new(),
        [.., "rmp", "--all", "--force"] => {
            holds.containers.clear();
            String::new()
        }
        _ => return None,
    };
    Some(Output {
        stdout: text.into_bytes(),
        ..Output::default()
    })
}
