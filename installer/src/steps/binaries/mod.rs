//! The programs of the pot in their places: Docker's or containerd's, Kubernetes', the CNI plugins, crictl.
//!
//! A program that is already there is compared by digest. One of another content is adopted where it fits (the same Kubernetes version, a Docker or containerd that runs
//! with the wanted cgroup driver, any CNI plugin) and is a conflict where it does not. Nothing that is there is overwritten.

use std::sync::Arc;

use anyhow::Result;
use bundle_spec::VerifiedPot;
use bundle_spec::manifest::RuntimeName;

use super::combine;
use super::config_file::ConfigFile;
use super::pot_files::{self, Found, PotFile};
use crate::facts::containerd::{self, Containerd};
use crate::facts::docker::{self, CgroupDriver, Docker};
use crate::facts::{MARK, PLUGINS, packages, programs};
use crate::host::HostView;
use crate::host::probe::{CONTAINERD, Probe};
use crate::host::side_by_side::{cores, side_by_side};
use crate::kubernetes::ContainerdRelease;
use crate::step::{State, Step, View, World};

/// Where programs go.
const BIN: &str = "/usr/bin";

/// Docker's own programs are in place, or a Docker that fits is here already.
pub struct DockerBinaries {
    pot: Arc<VerifiedPot>,
    files: Vec<PotFile>,
    driver: CgroupDriver,
}

impl DockerBinaries {
    /// Docker from `pot`; one that is already here must use `driver`, the cluster's.
    ///
    /// # Errors
    /// Where the pot holds no Docker.
    pub fn new(pot: Arc<VerifiedPot>, driver: CgroupDriver) -> Result<Self> {
        let files = pot_files::of(&pot, "docker", BIN)?;
        Ok(Self { pot, files, driver })
    }
}

impl Step for DockerBinaries {
    fn id(&self) -> &'static str {
        "docker-binaries"
    }

    fn summary(&self) -> String {
        format!(
            "Docker {} is installed",
            self.pot.manifest().runtime.version
        )
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        match docker::standing(view.host, self.pot.manifest(), self.driver)? {
            Docker::Adopted => return Ok(State::Satisfied),
            Docker::Unfit { reason, remedy } => return Ok(State::Conflict { reason, remedy }),
            Docker::Absent | Docker::Ours => {}
        }
        // dockerd starts the first one in PATH.
        if let Some(path) = view.host.program("containerd")
            && path != format!("{BIN}/containerd")
        {
            let what = "would be started by the pot's Docker in the place of its own";
            return conflict(view.host, &path, what);
        }
        state_of(view.host, &self.files, |file| {
            conflict(view.host, &file.path, "is not the pot's")
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        pot_files::install(&self.pot, &self.files, world.host)
    }
}

/// containerd's own programs and runc are in place, or a containerd that fits is here already.
pub struct ContainerdBinaries {
    pot: Arc<VerifiedPot>,
    files: Vec<PotFile>,
    driver: CgroupDriver,
}

impl ContainerdBinaries {
    /// containerd and runc from `pot`; a containerd that is already here must use `driver`, the cluster's.
    ///
    /// # Errors
    /// Where the pot lacks one of them.
    pub fn new(pot: Arc<VerifiedPot>, driver: CgroupDriver) -> Result<Self> {
        let mut files = pot_files::of(&pot, "containerd", containerd::PROGRAMS)?;
        files.extend(pot_files::of(&pot, "runc", containerd::RUNC_FOLDER)?);
        Ok(Self { pot, files, driver })
    }
}

impl Step for ContainerdBinaries {
    fn id(&self) -> &'static str {
        "containerd-binaries"
    }

    fn summary(&self) -> String {
        format!(
            "containerd {} is installed",
            self.pot.manifest().runtime.version
        )
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        match containerd::standing(view.host, self.pot.manifest(), self.driver)? {
            Containerd::Adopted => return Ok(State::Satisfied),
            Containerd::Unfit { reason, remedy } => return Ok(State::Conflict { reason, remedy }),
            Containerd::Absent | Containerd::Ours => {}
        }
        state_of(view.host, &self.files, |file| {
            conflict(view.host, &file.path, "is not the pot's")
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        pot_files::install(&self.pot, &self.files, world.host)
    }
}

/// kubeadm, kubelet and kubectl of the pot's version are in place.
pub struct KubernetesBinaries {
    pot: Arc<VerifiedPot>,
    files: Vec<PotFile>,
}

impl KubernetesBinaries {
    /// The binaries of `pot`.
    ///
    /// # Errors
    /// Where the pot lacks one of them.
    pub fn new(pot: Arc<VerifiedPot>) -> Result<Self> {
        let mut files = Vec::new();
        for name in ["kubeadm", "kubectl", "kubelet"] {
            files.extend(pot_files::of(&pot, name, BIN)?);
        }
        Ok(Self { pot, files })
    }

    fn judge(&self, host: &HostView, name: &str, path: &str) -> Result<State> {
        let wanted = self.pot.manifest().kubernetes.to_string();
        match programs::version(host, name, path) {
            Ok(version) if version == wanted => Ok(State::Satisfied),
            Ok(version) => conflict(host, path, &format!("is {version}, not {wanted}")),
            Err(cause) => conflict(
                host,
                path,
                &format!("does not tell its version ({cause:#})"),
            ),
        }
    }
}

impl Step for KubernetesBinaries {
    fn id(&self) -> &'static str {
        "kubernetes-binaries"
    }

    fn summary(&self) -> String {
        format!(
            "kubeadm, kubelet and kubectl {} are installed",
            self.pot.manifest().kubernetes
        )
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let mut states = vec![state_of(view.host, &self.files, |file| {
            self.judge(view.host, &file.name, &file.path)
        })?];
        // One in another folder that comes first in PATH would be the one that kubeadm and people run.
        for file in &self.files {
            match view.host.program(&file.name) {
                Some(path) if path != file.path => {
                    states.push(self.judge(view.host, &file.name, &path)?);
                }
                _ => {}
            }
        }
        Ok(combine(states))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        pot_files::install(&self.pot, &self.files, world.host)
    }
}

/// The CNI plugins are in place.
///
/// A plugin that is already there stays, of whatever version: pod networks bring plugins of their own into the same folder, under the same names.
pub struct CniPlugins {
    pot: Arc<VerifiedPot>,
    files: Vec<PotFile>,
}

impl CniPlugins {
    /// The plugins of `pot`.
    ///
    /// # Errors
    /// Where the pot holds none.
    pub fn new(pot: Arc<VerifiedPot>) -> Result<Self> {
        let files = pot_files::of(&pot, "cni-plugins", PLUGINS)?;
        Ok(Self { pot, files })
    }
}

impl Step for CniPlugins {
    fn id(&self) -> &'static str {
        "cni-plugins"
    }

    fn summary(&self) -> String {
        format!("CNI plugins {} are installed", self.pot.manifest().cni)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        state_of(view.host, &self.files, |_| Ok(State::Satisfied))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        pot_files::install(&self.pot, &self.files, world.host)
    }
}

/// The first crictl that speaks CRI v1; 1.23 and older ones speak v1alpha2 alone (cri-tools issues 883 and 1069).
const SPEAKS_V1: ContainerdRelease = (1, 24);

/// The first containerd that speaks nothing but CRI v1.
const V1_ALONE: ContainerdRelease = (2, 0);

/// crictl is in place, where kubeadm or this program needs it, speaks to containerd, and knows where that listens.
pub struct Crictl {
    pot: Arc<VerifiedPot>,
    files: Vec<PotFile>,
    config: Option<ConfigFile>,
}

impl Crictl {
    /// crictl of `pot`; nothing where the pot has none because its Kubernetes does not need it.
    ///
    /// # Errors
    /// Where the pot's crictl cannot be found in it.
    pub fn new(pot: Arc<VerifiedPot>) -> Result<Option<Self>> {
        if pot.manifest().artifact("crictl").is_none() {
            return Ok(None);
        }
        let files = pot_files::of(&pot, "crictl", BIN)?;
        let config = match pot.manifest().runtime.name {
            RuntimeName::Docker => None,
            RuntimeName::Containerd => Some(ConfigFile {
                path: "/etc/crictl.yaml".to_owned(),
                content: format!(
                    "{MARK}; remove this line to keep changes of your own.\nruntime-endpoint: {CONTAINERD}\nimage-endpoint: {CONTAINERD}\n"
                ),
            }),
        };
        Ok(Some(Self { pot, files, config }))
    }

    /// Whether the crictl that this program and kubeadm find first speaks to the containerd that is here, or comes. Docker is not asked through it.
    fn speaks(&self, host: &HostView) -> Result<State> {
        let runtime = &self.pot.manifest().runtime;
        let path = match host.program("crictl") {
            Some(path) if runtime.name == RuntimeName::Containerd => path,
            _ => return Ok(State::Satisfied),
        };
        let digest = host.digest(&path)?;
        if self.files.iter().any(|file| Some(file.digest) == digest) {
            return Ok(State::Satisfied);
        }
        let running = containerd::running(host)?.map(|info| info.version);
        let containerd = running.as_ref().unwrap_or(&runtime.version);
        if containerd::release(containerd) < V1_ALONE {
            return Ok(State::Satisfied);
        }
        let answer = host.probe(&Probe::crictl_version())?;
        let text = answer.text();
        let told = text.split_whitespace().next_back().unwrap_or_default();
        if answer.ok() && containerd::release(told) >= SPEAKS_V1 {
            return Ok(State::Satisfied);
        }
        conflict(
            host,
            &path,
            &format!(
                "is {}, which does not speak to containerd {containerd} as every crictl from 1.24 on does, and is found before any other",
                if told.is_empty() {
                    "of no version that it tells"
                } else {
                    told
                }
            ),
        )
    }

    /// Its configuration, where that is ours to write: people who have one of their own get what they ask for.
    fn own_config(&self, host: &HostView) -> Result<Option<(&ConfigFile, State)>> {
        let Some(config) = &self.config else {
            return Ok(None);
        };
        Ok(match config.state(host)? {
            State::Conflict { .. } => None,
            state => Some((config, state)),
        })
    }
}

impl Step for Crictl {
    fn id(&self) -> &'static str {
        "crictl"
    }

    fn summary(&self) -> String {
        "crictl is installed".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let program = state_of(view.host, &self.files, |_| Ok(State::Satisfied))?;
        let config = self.own_config(view.host)?.map(|(_, state)| state);
        let parts = [program, self.speaks(view.host)?];
        Ok(combine(parts.into_iter().chain(config)))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        pot_files::install(&self.pot, &self.files, world.host)?;
        match self.own_config(world.host.view())? {
            Some((config, _)) => config.write(world.host),
            None => Ok(()),
        }
    }
}

/// The state of all files; `other` judges what is there in place of one of them.
fn state_of(
    host: &HostView,
    files: &[PotFile],
    other: impl Fn(&PotFile) -> Result<State>,
) -> Result<State> {
    let mut missing = Vec::new();
    let mut states = Vec::new();
    let looks = side_by_side(files, cores(), |file| file.look(host));
    for (file, found) in files.iter().zip(looks) {
        match found? {
            Found::Right => {}
            Found::Nothing => missing.push(file.path.as_str()),
            Found::WrongMode(mode) => {
                states.push(State::Pending(format!("{} has mode {mode:o}", file.path)));
            }
            Found::Other => states.push(other(file)?),
        }
    }
    if !missing.is_empty() {
        states.push(State::Pending(match missing.as_slice() {
            [one] => format!("{one} is missing"),
            [first, rest @ ..] => format!("{first} and {} more are missing", rest.len()),
            [] => String::new(),
        }));
    }
    Ok(combine(states))
}

fn conflict(host: &HostView, path: &str, what: &str) -> Result<State> {
    let (whose, remedy) = match packages::owner(host, path)? {
        Some(package) => (
            format!("package {package} put it there"),
            format!(
                "remove the package if nothing needs it ({package}), or use a pot that goes with it"
            ),
        ),
        None => (
            "no package owns it".to_owned(),
            format!("if nothing needs it, move it away: mv {path} /root/"),
        ),
    };
    Ok(State::Conflict {
        reason: format!("{path} is already here and {what} ({whose})"),
        remedy,
    })
}

#[cfg(test)]
mod tests;
