//! The Docker of this machine: whether there is one, whose it is, and whether it fits.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use bundle_spec::{KubeVersion, Manifest};
use serde::Deserialize;

use super::ETCD_DATA;
use super::whose::{Daemon, Foreign};
use crate::host::HostView;
use crate::host::probe::Probe;
use crate::kubernetes::Traits;
use crate::steps::unit;

/// Where the pot's dockerd goes.
pub const DOCKERD: &str = "/usr/bin/dockerd";

/// Docker's configuration.
pub const CONFIG: &str = "/etc/docker/daemon.json";

/// The pot's Docker.
const DAEMON: Daemon = Daemon {
    artifact: "docker",
    program: "dockerd",
    path: DOCKERD,
    unit: "docker.service",
    config: CONFIG,
};

/// The oldest Docker that the kubelet's dockershim speaks with: API 1.26 (its `MinimumDockerAPIVersion`), which came with Docker 1.13.1.
const OLDEST: [u32; 3] = [1, 13, 1];

/// From this version on Docker refuses clients with an API as old as the dockershim's (its own least API is 1.44).
const TOO_NEW: [u32; 3] = [29, 0, 0];

/// Storage drivers that keep images under the IDs that they have in a pot, and that are fit for production.
const STORAGE: [&str; 6] = [
    "aufs",
    "btrfs",
    "devicemapper",
    "overlay",
    "overlay2",
    "zfs",
];

/// Ubuntu's Docker as a snap. Its programs are where nobody else looks, and its socket is where everybody's is.
const SNAP: &str = "snap.docker.dockerd.service";

/// Where Docker listens, by both names of the folder.
const SOCKETS: [&str; 2] = ["/run/docker.sock", "/var/run/docker.sock"];

/// Who makes the cgroups of containers. The kubelet's and the container runtime's must be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The runtime itself; Docker's default.
    Cgroupfs,
    /// systemd.
    Systemd,
}

impl fmt::Display for CgroupDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        })
    }
}

impl FromStr for CgroupDriver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Cgroupfs, Self::Systemd]
            .into_iter()
            .find(|driver| driver.to_string() == text)
            .ok_or_else(|| format!("{text:?} is not a cgroup driver: expected cgroupfs or systemd"))
    }
}

/// What a running Docker says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Info {
    /// Its version, such as `18.09.9` or `20.10.24+dfsg1`; empty where the client found no server.
    #[serde(rename = "ServerVersion")]
    pub version: String,
    /// Its cgroup driver.
    #[serde(rename = "CgroupDriver")]
    pub cgroup_driver: String,
    /// Its storage driver.
    #[serde(rename = "Driver")]
    pub storage_driver: String,
    /// Whether containers live on while it restarts.
    #[serde(rename = "LiveRestoreEnabled")]
    pub live_restore: bool,
    /// Where it keeps images and containers.
    #[serde(rename = "DockerRootDir")]
    pub root: String,
    /// Its security options, such as `name=seccomp,profile=default`.
    #[serde(rename = "SecurityOptions")]
    pub security: Option<Vec<String>>,
    /// Its registries.
    #[serde(rename = "RegistryConfig")]
    pub registries: Registries,
}

/// The registries that a Docker knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Registries {
    /// Networks whose registries may speak plain HTTP.
    #[serde(rename = "InsecureRegistryCIDRs")]
    pub networks: Vec<String>,
    /// Single registries by name.
    #[serde(rename = "IndexConfigs")]
    pub hosts: std::collections::BTreeMap<String, Registry>,
}

/// One registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// Whether it must speak TLS with a known certificate.
    #[serde(rename = "Secure")]
    pub secure: bool,
}

/// Whose Docker is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Docker {
    /// Nobody's.
    Absent,
    /// The pot's: dockerd is the same file, and nobody else's unit starts it. It need not run.
    Ours,
    /// Somebody else's, which runs, fits, and stays as it is.
    Adopted,
    /// Somebody else's, which does not fit.
    Unfit {
        /// Why not.
        reason: String,
        /// What the operator can do.
        remedy: String,
    },
}

/// What the running Docker says; nothing where none runs.
pub fn running(host: &HostView) -> Result<Option<Info>> {
    if host.program("docker").is_none() {
        return Ok(None);
    }
    let answer = host.probe(&Probe::docker_info())?;
    if !answer.ok() {
        return Ok(None);
    }
    let info: Info = serde_json::from_slice(&answer.stdout)
        .context("the answer of docker info cannot be read")?;
    // Without a server the client answers well, but with empty fields.
    Ok((!info.version.is_empty()).then_some(info))
}

/// The running Docker's images: IDs and names, of which one without has `<none>`; nothing where no Docker answers.
pub fn images(host: &HostView) -> Result<Option<Vec<(String, String)>>> {
    if host.program("docker").is_none() {
        return Ok(None);
    }
    let answer = host.probe(&Probe::docker_images())?;
    if !answer.ok() {
        return Ok(None);
    }
    let text = answer.text();
    let images = text.lines().filter_map(|line| line.split_once(' '));
    let owned = |(id, name): (&str, &str)| (id.to_owned(), name.to_owned());
    Ok(Some(images.map(owned).collect()))
}

/// The names of the running Docker's images by digests, of which one without has `<none>`; none where no Docker answers.
pub fn digests(host: &HostView) -> Result<Vec<String>> {
    if host.program("docker").is_none() {
        return Ok(Vec::new());
    }
    let answer = host.probe(&Probe::docker_digests())?;
    let text = answer.text();
    let names = text.lines().filter(|_| answer.ok());
    Ok(names.map(str::to_owned).collect())
}

/// Looks whose Docker is here. Where `manifest` has no Docker, none is the pot's.
pub fn standing(host: &HostView, manifest: &Manifest, driver: CgroupDriver) -> Result<Docker> {
    let Some(path) = host.program("dockerd") else {
        return elsewhere(host);
    };
    let Some(Foreign { whose, remove }) = DAEMON.foreign(host, &path, manifest)? else {
        return Ok(Docker::Ours);
    };
    let Some(info) = running(host)? else {
        return Ok(Docker::Unfit {
            reason: format!("another Docker is installed and does not answer: {whose}"),
            remedy: format!(
                "start it, so that it can be looked at: systemctl enable --now docker\nor {remove}"
            ),
        });
    };
    let problem = match misfit(&info, driver) {
        None => confined(host, &info)?,
        problem => problem,
    };
    Ok(match problem {
        None => Docker::Adopted,
        Some((reason, remedy)) => Docker::Unfit {
            reason: format!("another Docker is installed and {reason}: {whose}"),
            remedy: format!("{remedy}\nor {remove}"),
        },
    })
}

/// A Docker whose program is in none of the usual folders, if there is one: the pot's would take its socket over.
fn elsewhere(host: &HostView) -> Result<Docker> {
    if host.exists(&format!("/etc/systemd/system/{SNAP}"))? {
        let snap = unit::look(host, SNAP)?;
        if snap.active == "active" || snap.enabled == "enabled" {
            return Ok(Docker::Unfit {
                reason: format!(
                    "another Docker is installed, as a snap ({SNAP}), and the pot's would take its socket over"
                ),
                remedy: "if nothing needs it, remove it (snap remove docker) or switch it off (snap disable docker), and run this again".to_owned(),
            });
        }
    }
    let list = host
        .text("/proc/net/unix")
        .ok()
        .flatten()
        .unwrap_or_default();
    for socket in SOCKETS {
        // The list is that of the network that this process is in: the socket must be on this machine as well.
        if list.lines().any(|line| listens(line, socket)) && host.exists(socket)? {
            return Ok(Docker::Unfit {
                reason: format!(
                    "something listens at {socket}, and there is no dockerd in the usual folders: the pot's would take the socket over"
                ),
                remedy: format!(
                    "see what it is: ss --listening --processes --unix src {socket}\nIf nothing needs it, stop it for good (where systemd itself listens: systemctl disable --now docker.socket), and run this again"
                ),
            });
        }
    }
    Ok(Docker::Absent)
}

/// Whether a line `Num RefCount Protocol Flags Type St Inode Path` of /proc/net/unix is that of a socket at `path` that takes connections (`__SO_ACCEPTCON`).
fn listens(line: &str, path: &str) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    matches!(fields.as_slice(), [_, _, _, "00010000", _, _, _, place] if *place == path)
}

/// Whether kubeadm's own check takes a Docker with this storage driver, as it says `unsupported graph driver` of others (1.14: app/util/system; from 1.17 on system-validators).
pub fn kubeadm_takes(kubernetes: KubeVersion, storage_driver: &str) -> bool {
    STORAGE.contains(&storage_driver)
        && (storage_driver != "btrfs" || Traits::of(kubernetes).docker_on_btrfs)
}

/// Why a Docker cannot be used, and what would change that.
fn misfit(info: &Info, driver: CgroupDriver) -> Option<(String, String)> {
    let version = numbers(&info.version);
    if version < OLDEST || version >= TOO_NEW {
        return Some((
            format!("its version {} does not go with the kubelet", info.version),
            "install one between 1.13.1 and 28".to_owned(),
        ));
    }
    if info.cgroup_driver != driver.to_string() {
        return Some((
            format!(
                "its cgroup driver is {}, and {driver} is wanted",
                info.cgroup_driver
            ),
            format!(
                "set \"exec-opts\": [\"native.cgroupdriver={driver}\"] in /etc/docker/daemon.json and restart it: systemctl restart docker"
            ),
        ));
    }
    let own_users = ["name=userns", "name=rootless"];
    let mut options = info.security.iter().flatten();
    if options.any(|option| own_users.iter().any(|name| option.starts_with(name))) {
        return Some((
            "it gives containers users of their own (userns-remap, or rootless), and no pod of the control plane starts in such a one".to_owned(),
            "take \"userns-remap\" out of /etc/docker/daemon.json and restart it: systemctl restart docker".to_owned(),
        ));
    }
    if !STORAGE.contains(&info.storage_driver.as_str()) {
        return Some((
            format!("its storage driver is {}", info.storage_driver),
            "set \"storage-driver\": \"overlay2\" in /etc/docker/daemon.json and restart it: systemctl restart docker".to_owned(),
        ));
    }
    None
}

/// The labels that SELinux's policies let containers write.
const FOR_CONTAINERS: [&str; 2] = ["container_file_t", "svirt_sandbox_file_t"];

/// Why a Docker that confines containers by SELinux cannot be used. kubeadm gives its pods no label, so that etcd and the API server may not read and write what they mount of this machine: the
/// member would be added, and never start (kubernetes/kubeadm#279). Where the policy was told of etcd's folder, somebody has seen to that.
fn confined(host: &HostView, info: &Info) -> Result<Option<(String, String)>> {
    let mut options = info.security.iter().flatten();
    // Docker before 1.14 leaves the `name=` out.
    let labels = options.any(|option| option.trim_start_matches("name=").starts_with("selinux"));
    let enforced = host.text("/sys/fs/selinux/enforce")?.unwrap_or_default();
    if !labels || enforced.trim() != "1" {
        return Ok(None);
    }
    let label = match host.program("matchpathcon") {
        Some(_) => host.probe(&Probe::selinux_label(ETCD_DATA))?.text(),
        None => String::new(),
    };
    if FOR_CONTAINERS.iter().any(|kind| label.contains(kind)) {
        return Ok(None);
    }
    Ok(Some((
        "it confines containers by SELinux, which is enforced here: etcd could not write its folder".to_owned(),
        "make SELinux permissive, as kubeadm's documentation asks (setenforce 0; SELINUX=permissive in /etc/selinux/config), or take selinux-enabled out of /etc/sysconfig/docker or /etc/docker/daemon.json and restart it: systemctl restart docker".to_owned(),
    )))
}

/// The first three numbers of a version; 0 for what is not there.
pub(super) fn numbers(version: &str) -> [u32; 3] {
    let mut parts = version
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|part| part.parse().unwrap_or_default());
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::MARK;
    use crate::host::scripted::Scripted;
    use crate::steps::testing::{Machine, Pot, systemd, units};

    fn info(version: &str, cgroup: &str, storage: &str) -> Info {
        Info {
            version: version.to_owned(),
            cgroup_driver: cgroup.to_owned(),
            storage_driver: storage.to_owned(),
            ..Info::default()
        }
    }

    #[test]
    fn a_docker_is_its_unit_s_not_its_program_s() {
        let pot = Pot::default()
            .artifact("docker", &["docker", "dockerd"])
            .verified();
        let machine = Machine::new();
        machine
            .file_with_mode(DOCKERD, "this is dockerd", 0o755)
            .program("docker");
        let runs = r#"{"ServerVersion":"19.03.15","CgroupDriver":"cgroupfs","Driver":"overlay2"}"#;
        let standing = |answer: &str| {
            let status = i32::from(answer.is_empty());
            let script = Scripted::new().on("docker info", status, answer);
            super::standing(
                &machine.view(script),
                pot.manifest(),
                CgroupDriver::Cgroupfs,
            )
            .unwrap()
        };
        assert_eq!(standing(""), Docker::Ours, "no unit yet");
        let unit = "/etc/systemd/system/docker.service";
        machine.file(unit, format!("{MARK}; …\n[Service]\n"));
        assert_eq!(standing(runs), Docker::Ours);
        machine.file(unit, "[Service]\nExecStart=/usr/bin/dockerd\n");
        assert!(matches!(standing(runs), Docker::Adopted));
        let stopped = standing("");
        assert!(
            matches!(&stopped, Docker::Unfit { reason, remedy } if reason.contains(unit) && remedy.contains("systemctl enable --now docker")),
            "{stopped:?}"
        );
        let other = standing(&runs.replace("cgroupfs", "systemd"));
        assert!(
            matches!(&other, Docker::Unfit { remedy, .. } if remedy.contains("native.cgroupdriver=cgroupfs")),
            "{other:?}"
        );
    }

    #[test]
    fn a_docker_in_no_usual_folder_is_seen_before_its_socket_is_taken() {
        let pot = Pot::default()
            .artifact("docker", &["docker", "dockerd"])
            .verified();
        let standing = |machine: &Machine, script: Scripted| {
            super::standing(
                &machine.view(script),
                pot.manifest(),
                CgroupDriver::Cgroupfs,
            )
            .unwrap()
        };
        let machine = Machine::new();
        assert_eq!(standing(&machine, Scripted::new()), Docker::Absent);
        machine.file(&format!("/etc/systemd/system/{SNAP}"), "[Service]\n");
        let snap = |active, enabled| {
            let known = units(&[(SNAP, active, enabled)]);
            standing(&machine, systemd(Scripted::new(), &known))
        };
        for (active, enabled) in [("active", "enabled"), ("active", ""), ("failed", "enabled")] {
            let found = snap(active, enabled);
            assert!(
                matches!(&found, Docker::Unfit { remedy, .. } if remedy.contains("snap remove docker")),
                "{found:?}"
            );
        }
        assert_eq!(snap("inactive", "disabled"), Docker::Absent);
        let machine = Machine::new();
        let list = |flags: &str, path: &str| {
            format!(
                "Num       RefCount Protocol Flags    Type St Inode Path\n0000000000000000: 00000003 00000000 00000000 0001 03 17\n0000000000000000: 00000002 00000000 {flags} 0001 01 18 {path}\n"
            )
        };
        let unix = |text: String| {
            machine.file("/proc/net/unix", text);
            standing(&machine, Scripted::new())
        };
        assert_eq!(
            unix(list("00010000", "/run/docker.sock")),
            Docker::Absent,
            "of another machine that shares its network"
        );
        machine
            .file("/run/docker.sock", "")
            .file("/var/run/docker.sock", "");
        for socket in SOCKETS {
            let found = unix(list("00010000", socket));
            assert!(
                matches!(&found, Docker::Unfit { reason, .. } if reason.contains(socket)),
                "{found:?}"
            );
        }
        assert_eq!(unix(list("00000000", "/run/docker.sock")), Docker::Absent);
        assert_eq!(unix(list("00010000", "/run/other.sock")), Docker::Absent);
    }

    #[test]
    fn kubeadm_takes_the_storage_drivers_that_its_version_lists() {
        let takes = |minor, driver| kubeadm_takes(KubeVersion::new(1, minor, 0), driver);
        for driver in ["overlay2", "devicemapper", "zfs"] {
            assert!(takes(14, driver) && takes(23, driver), "{driver}");
        }
        for driver in ["vfs", "fuse-overlayfs", "overlayfs"] {
            assert!(!takes(14, driver) && !takes(23, driver), "{driver}");
        }
        assert!(!takes(22, "btrfs") && takes(23, "btrfs"));
    }

    #[test]
    fn a_docker_that_confines_by_selinux_keeps_etcd_from_its_folder() {
        let judged = |option: &str, enforced: &str, label: Option<&str>| {
            let machine = Machine::new();
            machine.file("/sys/fs/selinux/enforce", enforced);
            if label.is_some() {
                machine.program("matchpathcon");
            }
            let script = Scripted::new().on(
                "matchpathcon -n /var/lib/etcd",
                0,
                label.unwrap_or_default(),
            );
            let mut info = info("1.13.1", "systemd", "overlay2");
            info.security = Some(vec!["seccomp".to_owned(), option.to_owned()]);
            confined(&machine.view(script), &info).unwrap().is_some()
        };
        let usual = Some("system_u:object_r:var_lib_t:s0");
        for option in ["selinux", "name=selinux"] {
            assert!(judged(option, "1", usual) && judged(option, "1\n", None));
            assert!(!judged(option, "0", usual), "permissive");
            assert!(!judged(
                option,
                "1",
                Some("system_u:object_r:container_file_t:s0")
            ));
        }
        assert!(!judged("name=apparmor", "1", usual));
    }

    #[test]
    fn version_cgroup_driver_and_storage_driver_decide() {
        let fits = |info: &Info| misfit(info, CgroupDriver::Cgroupfs).is_none();
        for version in ["1.13.1", "18.09.9", "20.10.24+dfsg1", "28.5.1"] {
            assert!(fits(&info(version, "cgroupfs", "overlay2")), "{version}");
        }
        for version in ["1.12.6", "29.0.0", "dev"] {
            assert!(!fits(&info(version, "cgroupfs", "overlay2")), "{version}");
        }
        assert!(!fits(&info("20.10.24", "systemd", "overlay2")));
        assert!(!fits(&info("20.10.24", "cgroupfs", "vfs")));
        let mut remapped = info("20.10.24", "cgroupfs", "overlay2");
        remapped.security = Some(vec![
            "name=seccomp,profile=default".to_owned(),
            "name=userns".to_owned(),
        ]);
        assert!(!fits(&remapped));
        remapped.security = Some(vec!["name=apparmor".to_owned()]);
        assert!(fits(&remapped));
        // The image store of containerd gives images other IDs.
        assert!(!fits(&info("20.10.24", "cgroupfs", "overlayfs")));
    }
}
