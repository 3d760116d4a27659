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
use crate::rollback::footprint;
use crate::step::{State, Step, View, World};

/// Where containerd looks for what a registry needs: one folder a registry.
const REGISTRIES: &str = "/etc/containerd/certs.d";

/// See the module.
pub struct ContainerdConfig {
    pot: Arc<VerifiedPot>,
    driver: CgroupDriver,
    files: Vec<ConfigFile>,
}

impl ContainerdConfig {
    /// containerd with the cluster's cgroup driver; `insecure` are registries that may speak plain HTTP.
    ///
    /// # Errors
    /// Where the pot holds no image for the sandboxes of pods, or a registry is a network.
    pub fn new(pot: Arc<VerifiedPot>, driver: CgroupDriver, insecure: &[String]) -> Result<Self> {
        let manifest = pot.manifest();
        let pause = super::images::pause(manifest).with_context(|| {
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
        let content = match containerd::release(&manifest.runtime.version) {
            (2.., _) => version_3(&pause.names[0], driver),
            _ => version_2(&pause.names[0], driver),
        };
        let main = ConfigFile {
            path: CONFIG.to_owned(),
            content,
        };
        let files = [main].into_iter().chain(insecure.iter().map(registry));
        Ok(Self {
            files: files.collect(),
            pot,
            driver,
        })
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
        let states = self.files.iter().map(|file| file.state(view.host));
        Ok(combine(states.collect::<Result<Vec<_>>>()?))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        if unit::look(host.view(), unit::CONTAINERD)?.active == "active" {
            unit::change(host, "stop", unit::CONTAINERD)?;
        }
        footprint::announce(host, &footprint::CONTAINERD, &[])?;
        self.files.iter().try_for_each(|file| file.write(host))
    }
}

/// For containerd 1.3 to 1.7 (docs/cri/config.md of 1.7).
fn version_2(pause: &str, driver: CgroupDriver) -> String {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        "{MARK}; remove this line to keep changes of your own.
version = 2

[{cri}]
sandbox_image = \"{pause}\"

{}
[{cri}.registry]
config_path = \"{REGISTRIES}\"
",
        runc(cri, driver)
    )
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
