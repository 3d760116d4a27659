//! The containerd of this machine: whether there is one, whose it is, and whether it fits.
//!
//! The one that runs tells its version and whether it serves the kubelet. Its configuration is read off the disk: this program changes it only while containerd stands
//! still, and others restart it after a change of theirs.

use anyhow::{Context, Result};
use bundle_spec::{KubeVersion, Manifest};
use serde::Deserialize;

use super::docker::{CgroupDriver, numbers};
use super::whose::{Daemon, Foreign};
use super::{PLUGINS, packages};
use crate::host::HostView;
use crate::host::probe::Probe;
use crate::kubernetes::{ContainerdRelease, Traits};

/// Where the pot's containerd goes, as upstream's own unit and archive have it. Packages put theirs to /usr/bin.
pub const PROGRAMS: &str = "/usr/local/bin";

/// The pot's containerd.
pub const PROGRAM: &str = "/usr/local/bin/containerd";

/// Where the pot's runc goes, as containerd's documentation has it.
pub const RUNC_FOLDER: &str = "/usr/local/sbin";

/// containerd's configuration.
pub const CONFIG: &str = "/etc/containerd/config.toml";

/// The pot's containerd.
const DAEMON: Daemon = Daemon {
    artifact: "containerd",
    program: "containerd",
    path: PROGRAM,
    unit: "containerd.service",
    config: CONFIG,
};

/// Where containerd keeps its data, unless it says otherwise.
pub const ROOT: &str = "/var/lib/containerd";

/// What CRI's plugins are called in a configuration of version 2 (containerd 1.3 to 1.7), and of version 3 (2.x).
const CRI_V2: &str = "plugins.io.containerd.grpc.v1.cri";
const CRI_V3: (&str, &str) = (
    "plugins.io.containerd.cri.v1.runtime",
    "plugins.io.containerd.cri.v1.images.pinned_images",
);

/// The first containerd that reads layers packed with zstd (archive/compression/compression.go of 1.5.0, and not of 1.4.0).
const READS_ZSTD: ContainerdRelease = (1, 5);

/// What a running containerd says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its version, such as `2.1.4` or `1.6.20~ds1`.
    pub version: String,
    /// Whether it serves the kubelet; one that only serves Docker does not.
    pub serves_cri: bool,
    /// Its cgroup driver, where it says so.
    pub cgroup_driver: Option<CgroupDriver>,
    /// The image of its pods' sandboxes; empty where it says nothing.
    pub sandbox_image: String,
    /// Where it looks for CNI plugins; [`PLUGINS`] also by another name.
    pub cni_folders: Vec<String>,
    /// Where it keeps images and containers.
    pub root: String,
}

impl Info {
    /// Whether it reads layers packed with zstd.
    pub fn reads_zstd(&self) -> bool {
        release(&self.version) >= READS_ZSTD
    }
}

/// Whose containerd is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Containerd {
    /// Nobody's.
    Absent,
    /// The pot's: the program is the same file, and nobody else's unit starts it. It need not run.
    Ours,
    /// Somebody else's, which runs, fits, and stays as it is.
    Adopted,
    /// Somebody else's, which does not fit; or Docker in its place.
    Unfit {
        /// Why not.
        reason: String,
        /// What the operator can do.
        remedy: String,
    },
}

/// An image that containerd's CRI lists.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The image ID, `sha256:…`.
    pub id: String,
    /// Its names with a tag, in their full form.
    #[serde(default)]
    pub repo_tags: Vec<String>,
    /// Its names with the digest that a registry has it by, in their full form.
    #[serde(default)]
    pub repo_digests: Vec<String>,
}

/// What the running containerd says; nothing where none runs.
pub fn running(host: &HostView) -> Result<Option<Info>> {
    if host.program("containerd").is_none() || host.program("ctr").is_none() {
        return Ok(None);
    }
    let answer = host.probe(&Probe::containerd_server())?;
    let text = answer.text();
    let Some(version) = server_version(&text).filter(|_| answer.ok()) else {
        return Ok(None);
    };
    let plugins = host.probe(&Probe::containerd_plugins())?;
    let dump = host.probe(&Probe::containerd_config())?;
    let config = if dump.ok() {
        dump.text()
    } else {
        String::new()
    };
    let ours = host.resolved(PLUGINS)?;
    let mut cni_folders = Vec::new();
    for folder in plugin_folders(&config) {
        // Some link one of the two usual places to the other.
        let same = ours.is_some() && host.resolved(folder)? == ours;
        cni_folders.push(if same { PLUGINS } else { folder }.to_owned());
    }
    Ok(Some(Info {
        version: version.to_owned(),
        serves_cri: plugins.ok() && serves_cri(&plugins.text()),
        cgroup_driver: cgroup_driver(&config),
        sandbox_image: sandbox_image(&config).unwrap_or_default().to_owned(),
        cni_folders,
        root: value(&config, "", "root").unwrap_or(ROOT).to_owned(),
    }))
}

/// The images that containerd's CRI lists; nothing where it does not answer, or there is no crictl to ask it.
pub fn images(host: &HostView) -> Result<Option<Vec<Listed>>> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        images: Vec<Listed>,
    }
    if host.program("containerd").is_none() || host.program("crictl").is_none() {
        return Ok(None);
    }
    let answer = host.probe(&Probe::containerd_images())?;
    if !answer.ok() {
        return Ok(None);
    }
    let list: List = serde_json::from_slice(&answer.stdout)
        .context("the answer of crictl images cannot be read")?;
    Ok(Some(list.images))
}

/// Looks whose containerd is here. Where `manifest` has none, none is the pot's.
pub fn standing(host: &HostView, manifest: &Manifest, driver: CgroupDriver) -> Result<Containerd> {
    let Some(path) = host.program("containerd") else {
        return beside_docker(host, manifest.kubernetes, Containerd::Absent);
    };
    let Some(Foreign { whose, remove }) = DAEMON.foreign(host, &path, manifest)? else {
        return beside_docker(host, manifest.kubernetes, Containerd::Ours);
    };
    let Some(info) = running(host)? else {
        let silent = Containerd::Unfit {
            reason: format!("another containerd is installed and does not answer: {whose}"),
            remedy: format!(
                "start it, so that it can be looked at: systemctl enable --now containerd\nor {remove}"
            ),
        };
        // It may be Docker's own, which dockerd starts in its own way.
        return beside_docker(host, manifest.kubernetes, silent);
    };
    Ok(match misfit(&info, driver, manifest.kubernetes) {
        None => Containerd::Adopted,
        Some((reason, remedy)) => Containerd::Unfit {
            reason: format!("another containerd is installed and {reason}: {whose}"),
            remedy: format!("{remedy}\nor {remove}"),
        },
    })
}

/// A Docker stays where somebody made its containerd serve the kubelet as well. Else it is in the way: with two runtimes nobody could tell whose the disk and the groups are.
fn beside_docker(
    host: &HostView,
    version: KubeVersion,
    standing: Containerd,
) -> Result<Containerd> {
    let Some(path) = host.program("dockerd") else {
        return Ok(standing);
    };
    let remove = match packages::owner(host, &path)? {
        Some(package) => format!("remove it ({package})"),
        None => format!(
            "take it away (./kpot-install rollback, where this program brought it; else systemctl disable --now docker; mv {path} /root/)"
        ),
    };
    let keep = if Traits::of(version).dockershim {
        format!(
            "\nIf it is to stay, use a pot with Docker: kpot build --k8s {version} --runtime docker"
        )
    } else {
        String::new()
    };
    Ok(Containerd::Unfit {
        reason: format!("this machine has Docker ({path}), and the pot's runtime is containerd"),
        remedy: format!("if nothing needs Docker, {remove}, and run this again{keep}"),
    })
}

/// Why a containerd cannot be used, and what would change that.
fn misfit(info: &Info, driver: CgroupDriver, kubernetes: KubeVersion) -> Option<(String, String)> {
    let fitting = Traits::of(kubernetes).containerd;
    let ((first, of_first), (end, of_end)) = (fitting.start, fitting.end);
    if !fitting.contains(&release(&info.version)) {
        return Some((
            format!(
                "its version {} does not go with the kubelet {kubernetes}",
                info.version
            ),
            format!("install one from {first}.{of_first} on and before {end}.{of_end}"),
        ));
    }
    if !info.serves_cri {
        return Some((
            "it does not serve the kubelet".to_owned(),
            format!(
                "take \"cri\" out of disabled_plugins in {CONFIG} and restart it: systemctl restart containerd"
            ),
        ));
    }
    if info.cgroup_driver != Some(driver) {
        let own = info
            .cgroup_driver
            .map_or("not told".to_owned(), |own| own.to_string());
        return Some((
            format!("its cgroup driver is {own}, and {driver} is wanted"),
            format!(
                "set SystemdCgroup = {} in {CONFIG}, among the options of its default runtime, and restart it: systemctl restart containerd",
                driver == CgroupDriver::Systemd
            ),
        ));
    }
    // Debian's own configuration has it so: every pod would wait for a network whose plugin is not found.
    if !info.cni_folders.iter().any(|folder| folder == PLUGINS) {
        let told = match info.cni_folders.as_slice() {
            [] => "at no place that it tells".to_owned(),
            folders => format!("in {}", folders.join(", ")),
        };
        return Some((
            format!(
                "it looks for CNI plugins {told}, while those of pod networks and of the pot go to {PLUGINS}"
            ),
            // 2.x reads files of both versions.
            format!(
                "set bin_dir = \"{PLUGINS}\" in {CONFIG}, in the table [plugins.\"io.containerd.grpc.v1.cri\".cni] (in a file of version 3: [plugins.\"io.containerd.cri.v1.runtime\".cni], and from 2.1 on bin_dirs = [\"{PLUGINS}\"]), and restart it: systemctl restart containerd"
            ),
        ));
    }
    None
}

/// The first two numbers of a version, of which upstream's own builds say `v2.1.4`.
pub fn release(version: &str) -> ContainerdRelease {
    let [major, minor, _] = numbers(version.trim_start_matches('v'));
    (major, minor)
}

fn server_version(text: &str) -> Option<&str> {
    let (_, server) = text.split_once("Server:")?;
    let line = server
        .lines()
        .find_map(|line| line.trim().strip_prefix("Version:"))?;
    Some(line.trim()).filter(|version| !version.is_empty())
}

fn serves_cri(plugins: &str) -> bool {
    plugins.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words.as_slice(), ["io.containerd.grpc.v1", "cri", .., "ok"])
    })
}

fn cgroup_driver(config: &str) -> Option<CgroupDriver> {
    let (cri, containerd) = [CRI_V3.0, CRI_V2].into_iter().find_map(|cri| {
        let table = format!("{cri}.containerd");
        value(config, &table, "default_runtime_name").map(|_| (cri, table))
    })?;
    let runtime = value(config, &containerd, "default_runtime_name")?;
    let options = format!("{cri}.containerd.runtimes.{runtime}.options");
    // runc's option is false where it is not there.
    Some(match value(config, &options, "SystemdCgroup") {
        Some("true") => CgroupDriver::Systemd,
        _ => CgroupDriver::Cgroupfs,
    })
}

fn sandbox_image(config: &str) -> Option<&str> {
    value(config, CRI_V3.1, "sandbox").or_else(|| value(config, CRI_V2, "sandbox_image"))
}

/// The folders of CNI plugins: one up to 2.0, a list from 2.1 on, which prints an empty one as well.
fn plugin_folders(config: &str) -> impl Iterator<Item = &str> {
    [CRI_V3.0, CRI_V2]
        .into_iter()
        .flat_map(|cri| ["bin_dir", "bin_dirs"].map(|key| (format!("{cri}.cni"), key)))
        .filter_map(|(table, key)| value(config, &table, key))
        .flat_map(|folders| folders.split(['[', ']', ',', '"', '\'', ' ']))
        .filter(|folder| !folder.is_empty())
        .map(|folder| folder.trim_end_matches('/'))
}

/// The value of a key in a table of TOML as containerd prints it: a table begins with its header, and a key has a line of its own. Quotes are left out.
fn value<'t>(toml: &'t str, table: &str, key: &str) -> Option<&'t str> {
    let mut current = String::new();
    for line in toml.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            current = header.trim_end_matches(']').replace(['"', '\''], "");
        } else if current == table
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            return Some(value.trim().trim_matches(['"', '\'']));
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests;
