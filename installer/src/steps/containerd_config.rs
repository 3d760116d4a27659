//! containerd's configuration: the cluster's cgroup driver, the pot's runc and the pot's pause image.
//!
//! It is written only while containerd stands still, so that the one that runs always has what is on the disk; containers live on meanwhile. One that somebody else wrote
//! is a conflict, except where his containerd is adopted with it. One of ours that differs is made to match: that of another pot, or what `init-env` wrote before there was a
//! cluster to ask.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bundle_spec::VerifiedPot;

use super::config_file::ConfigFile;
use super::{combine, unit};
use crate::facts::MARK;
use crate::facts::containerd::{self, CONFIG, Containerd, RUNC_FOLDER};
use crate::facts::docker::CgroupDriver;
use crate::host::HostView;
use crate::kubernetes::ContainerdRelease;
use crate::rollback::footprint;
use crate::step::{State, Step, View, World};

/// Where containerd looks for what a registry needs: one folder a registry.
const REGISTRIES: &str = "/etc/containerd/certs.d";

/// The first containerd that looks there (docs/hosts.md). Those before pass over `config_path`, and have their registries in the one file.
const READS_FOLDERS: ContainerdRelease = (1, 5);

/// CRI's plugin in a configuration of version 2.
const CRI_V2: &str = "plugins.\"io.containerd.grpc.v1.cri\"";

/// See the module.
pub struct ContainerdConfig {
    pot: Arc<VerifiedPot>,
    driver: CgroupDriver,
    files: Vec<ConfigFile>,
    /// Whether what is allowed of registries by the one file that is there stays so.
    keeps_mirrors: bool,
}

impl ContainerdConfig {
    /// containerd with the cluster's cgroup driver; `insecure` are registries that may speak plain HTTP.
    ///
    /// # Errors
    /// Where the pot holds no image for the sandboxes of pods, or a registry is a network.
    pub fn new(pot: Arc<VerifiedPot>, driver: CgroupDriver, insecure: &[String]) -> Result<Self> {
        let manifest = pot.manifest();
        let (_, pause) = super::images::pause(manifest).with_context(|| {
            format!(
                "the pot {} holds no image pause, without which containerd starts no pod",
                manifest.name
            )
        })?;
        let network = insecure.iter().find(|name| name.contains('/'));
        ensure!(
            network.is_none(),
            "--insecure-registry {} is no HOST:PORT: containerd knows single registries, not networks",
            network.map_or("", String::as_str)
        );
        let registry = |name: &String| ConfigFile {
            path: format!("{REGISTRIES}/{name}/hosts.toml"),
            content: plain_http(name),
        };
        let release = containerd::release(&manifest.runtime.version);
        let reads_folders = release >= READS_FOLDERS;
        let content = match release {
            (2.., _) => version_3(pause, driver),
            _ if reads_folders => version_2(pause, driver) + &folders(),
            _ => version_2(pause, driver) + &mirrors(insecure),
        };
        let main = ConfigFile {
            path: CONFIG.to_owned(),
            content,
        };
        let in_folders = insecure.iter().filter(|_| reads_folders);
        let files = [main].into_iter().chain(in_folders.map(registry));
        Ok(Self {
            files: files.collect(),
            pot,
            driver,
            keeps_mirrors: !reads_folders && insecure.is_empty(),
        })
    }

    /// What is to be written. Registries that were allowed before stay so, unless others are named: those with a folder by themselves, those in the one file here.
    fn files(&self, host: &HostView) -> Result<Vec<ConfigFile>> {
        let mut files = self.files.clone();
        if self.keeps_mirrors {
            let found = host.text(CONFIG)?.unwrap_or_default();
            let ours = found.starts_with(MARK);
            let start = found.find(&format!("\n[{CRI_V2}.registry.mirrors."));
            if let (true, Some(start), Some(main)) = (ours, start, files.first_mut()) {
                main.content.push_str(&found[start..]);
            }
        }
        Ok(files)
    }
}

impl Step for ContainerdConfig {
    fn id(&self) -> &'static str {
        "containerd-config"
    }

    fn summary(&self) -> String {
        format!(
            "containerd is configured, with cgroup driver {}",
            self.driver
        )
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        match containerd::standing(view.host, self.pot.manifest(), self.driver)? {
            Containerd::Adopted => return Ok(State::Satisfied),
            Containerd::Unfit { reason, remedy } => return Ok(State::Conflict { reason, remedy }),
            Containerd::Absent | Containerd::Ours => {}
        }
        let files = self.files(view.host)?;
        let states = files.iter().map(|file| file.state(view.host));
        Ok(combine(states.collect::<Result<Vec<_>>>()?))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        if unit::look(host.view(), unit::CONTAINERD)?.active == "active" {
            unit::change(host, "stop", unit::CONTAINERD)?;
        }
        footprint::announce(host, &footprint::CONTAINERD, &[])?;
        let files = self.files(host.view())?;
        files.iter().try_for_each(|file| file.write(host))
    }
}

/// For containerd 1.3 to 1.7 (docs/cri/config.md of 1.7), without its registries.
fn version_2(pause: &str, driver: CgroupDriver) -> String {
    format!(
        "{MARK}; remove this line to keep changes of your own.
version = 2

[{CRI_V2}]
sandbox_image = \"{pause}\"

{}",
        runc(CRI_V2, driver)
    )
}

/// The registries of a file of version 2: they have folders.
fn folders() -> String {
    format!("\n[{CRI_V2}.registry]\nconfig_path = \"{REGISTRIES}\"\n")
}

/// The registries of a file of version 2 for a containerd that knows no folders (docs/registry.md of its plugin CRI 1.4): these speak plain HTTP.
fn mirrors(insecure: &[String]) -> String {
    let mirror = |name: &String| {
        format!("\n[{CRI_V2}.registry.mirrors.\"{name}\"]\nendpoint = [\"http://{name}\"]\n")
    };
    insecure.iter().map(mirror).collect()
}

/// For containerd 2.x (docs/cri/config.md of 2.1).
fn version_3(pause: &str, driver: CgroupDriver) -> String {
    let images = "plugins.\"io.containerd.cri.v1.images\"";
    format!(
        "{MARK}; remove this line to keep changes of your own.
version = 3

[{images}.pinned_images]
sandbox = \"{pause}\"

[{images}.registry]
config_path = \"{REGISTRIES}\"

{}",
        runc("plugins.\"io.containerd.cri.v1.runtime\"", driver)
    )
}

/// The runtime of containers below the plugin `cri`: the pot's runc, whatever else is called so on this machine.
fn runc(cri: &str, driver: CgroupDriver) -> String {
    let systemd = driver == CgroupDriver::Systemd;
    format!(
        "[{cri}.containerd.runtimes.runc]
runtime_type = \"io.containerd.runc.v2\"

[{cri}.containerd.runtimes.runc.options]
BinaryName = \"{RUNC_FOLDER}/runc\"
SystemdCgroup = {systemd}
"
    )
}

/// A registry that may speak plain HTTP, or TLS with a certificate that nobody knows (docs/hosts.md of containerd).
fn plain_http(registry: &str) -> String {
    format!(
        "{MARK}; remove this line to keep changes of your own.
server = \"https://{registry}\"

[host.\"https://{registry}\"]
capabilities = [\"pull\", \"resolve\"]
skip_verify = true

[host.\"http://{registry}\"]
capabilities = [\"pull\", \"resolve\"]
"
    )
}

#[cfg(test)]
mod tests {
    use bundle_spec::KubeVersion;

    use super::super::testing::{Machine, Pot, systemd, units};
    use super::*;
    use crate::host::scripted::Scripted;
    use crate::journal::Change;

    fn step(version: &str, driver: CgroupDriver, insecure: &[&str]) -> ContainerdConfig {
        let pot = Pot::of(KubeVersion::new(1, 34, 4))
            .containerd(version)
            .image("registry.k8s.io/pause:3.10.1", "{}", &[b"pause"])
            .verified();
        let insecure: Vec<String> = insecure.iter().map(|name| (*name).to_owned()).collect();
        ContainerdConfig::new(pot, driver, &insecure).unwrap()
    }

    fn stopped() -> Scripted {
        systemd(Scripted::new(), &units(&[]))
    }

    #[test]
    fn the_configuration_is_of_the_version_that_its_containerd_reads() {
        let machine = Machine::new();
        let written = |version: &str| {
            let step = step(version, CgroupDriver::Systemd, &[]);
            let (before, after) = machine.ensure(&step, stopped()).unwrap();
            assert!(matches!(before, State::Pending(_)), "{version}");
            assert_eq!(after, State::Satisfied, "{version}");
            machine.text(CONFIG).unwrap()
        };
        assert_eq!(
            written("2.1.4"),
            "# Written by kpot-install; remove this line to keep changes of your own.
version = 3

[plugins.\"io.containerd.cri.v1.images\".pinned_images]
sandbox = \"registry.k8s.io/pause:3.10.1\"

[plugins.\"io.containerd.cri.v1.images\".registry]
config_path = \"/etc/containerd/certs.d\"

[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc]
runtime_type = \"io.containerd.runc.v2\"

[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc.options]
BinaryName = \"/usr/local/sbin/runc\"
SystemdCgroup = true
"
        );
        let older = written("1.7.27");
        for line in [
            "version = 2",
            "[plugins.\"io.containerd.grpc.v1.cri\"]",
            "sandbox_image = \"registry.k8s.io/pause:3.10.1\"",
            "SystemdCgroup = true",
            "config_path = \"/etc/containerd/certs.d\"",
        ] {
            assert!(older.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn containerd_stands_still_while_its_configuration_changes() {
        let machine = Machine::new();
        let early = step("2.1.4", CgroupDriver::Cgroupfs, &[]);
        machine.ensure(&early, stopped()).unwrap();
        let known = units(&[("containerd.service", "active", "enabled")]);
        let late = step("2.1.4", CgroupDriver::Systemd, &["10.0.0.9:5000"]);
        let (before, after) = machine
            .ensure(&late, systemd(Scripted::new(), &known))
            .unwrap();
        assert!(matches!(before, State::Pending(_)));
        assert_eq!(after, State::Satisfied);
        assert_eq!(
            known.lock().unwrap()["containerd.service"],
            ("inactive".to_owned(), "enabled".to_owned())
        );
        let registry = machine.text("/etc/containerd/certs.d/10.0.0.9:5000/hosts.toml");
        assert!(
            registry
                .unwrap()
                .contains("[host.\"http://10.0.0.9:5000\"]")
        );
        let noted = |path: &str| {
            let is = |change: &Change| matches!(change, Change::Tree { path: noted, .. } if noted == path);
            machine.journal().iter().any(is)
        };
        assert!(noted("/etc/containerd") && noted("/var/lib/containerd"));
    }

    #[test]
    fn a_containerd_that_knows_no_folders_has_its_registries_in_the_one_file() {
        let machine = Machine::new();
        let ensured = |insecure: &[&str]| {
            let step = step("1.4.13", CgroupDriver::Systemd, insecure);
            let (_, after) = machine.ensure(&step, stopped()).unwrap();
            assert_eq!(after, State::Satisfied);
            machine.text(CONFIG).unwrap()
        };
        let plain = ensured(&[]);
        assert!(!plain.contains(".registry"), "{plain}");
        let mirrors = "
[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"10.0.0.9:5000\"]
endpoint = [\"http://10.0.0.9:5000\"]

[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"store\"]
endpoint = [\"http://store\"]
";
        let both = format!("{plain}{mirrors}");
        assert_eq!(ensured(&["10.0.0.9:5000", "store"]), both);
        assert_eq!(ensured(&[]), both, "what was allowed before stays so");
        let other = ensured(&["other:5000"]);
        assert!(
            other.contains("http://other:5000") && !other.contains("store"),
            "{other}"
        );
        let folder = "/etc/containerd/certs.d/10.0.0.9:5000/hosts.toml";
        assert_eq!(machine.text(folder), None);
        let newer = step("1.5.0", CgroupDriver::Systemd, &["10.0.0.9:5000"]);
        machine.ensure(&newer, stopped()).unwrap();
        assert!(machine.text(folder).is_some());
        let text = machine.text(CONFIG).unwrap();
        assert!(
            text.contains("config_path = ") && !text.contains("mirrors"),
            "{text}"
        );
    }

    #[test]
    fn somebody_else_s_configuration_is_never_overwritten() {
        let machine = Machine::new();
        machine.file(CONFIG, "version = 2\n");
        let step = step("2.1.4", CgroupDriver::Systemd, &[]);
        let state = machine.check(&step, stopped());
        assert!(
            matches!(&state, State::Conflict { remedy, .. } if remedy.contains("mv /etc/containerd/config.toml /root/")),
            "{state:?}"
        );
    }

    #[test]
    fn a_network_of_registries_is_refused() {
        let pot = Pot::default()
            .containerd("2.1.4")
            .image("registry.k8s.io/pause:3.10.1", "{}", &[b"pause"])
            .verified();
        let insecure = ["10.0.0.0/8".to_owned()];
        let error = ContainerdConfig::new(pot, CgroupDriver::Systemd, &insecure).err();
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("10.0.0.0/8 is no HOST:PORT")
        );
    }

    #[test]
    fn a_pot_without_a_pause_image_is_no_pot_for_containerd() {
        let pot = Pot::default().containerd("2.1.4").verified();
        let error = ContainerdConfig::new(pot, CgroupDriver::Systemd, &[]).err();
        assert!(error.unwrap().to_string().contains("holds no image pause"));
    }
}
