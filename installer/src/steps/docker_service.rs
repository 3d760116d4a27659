//! Docker runs with its configuration, and starts at boot.
//!
//! dockerd starts a containerd of its own; there is no second unit, no socket unit and no group. The check asks the running Docker itself: one that still runs with an
//! older configuration is restarted (containers live on, because of live-restore). The storage driver is Docker's own choice, by the file system that it finds: one that kubeadm
//! refuses is a conflict here, before anything is done on the cluster.

use std::sync::Arc;

use anyhow::Result;
use bundle_spec::VerifiedPot;

use super::config_file::ConfigFile;
use super::{combine, unit};
use crate::facts::docker::{self, CgroupDriver, Docker, Info};
use crate::host::HostView;
use crate::preflight::kernel;
use crate::rollback::footprint;
use crate::step::{State, Step, View, World};

const NAME: &str = "docker.service";

/// See the module.
pub struct DockerService {
    pot: Arc<VerifiedPot>,
    driver: CgroupDriver,
    insecure: Vec<String>,
}

impl DockerService {
    /// A running Docker with the cluster's cgroup driver and these plain-HTTP registries: the same as its configuration has.
    pub fn new(pot: Arc<VerifiedPot>, driver: CgroupDriver, insecure: Vec<String>) -> Self {
        Self {
            pot,
            driver,
            insecure,
        }
    }

    /// What the running Docker does not have from its configuration.
    fn outdated(&self, info: &Info) -> Option<String> {
        if info.cgroup_driver != self.driver.to_string() {
            return Some(format!(
                "Docker runs with cgroup driver {}",
                info.cgroup_driver
            ));
        }
        // Off by default: the one setting that shows that our daemon.json was read at all.
        if !info.live_restore {
            return Some("Docker runs without its configuration".to_owned());
        }
        let known = |registry: &String| {
            info.registries.networks.contains(registry)
                || info
                    .registries
                    .hosts
                    .get(registry)
                    .is_some_and(|found| !found.secure)
        };
        let unknown = self.insecure.iter().find(|registry| !known(registry))?;
        Some(format!(
            "Docker does not know yet that {unknown} speaks plain HTTP"
        ))
    }

    /// What kubeadm would refuse of the running Docker, after all that comes before its join. It takes any storage driver where it is told to pass over its check.
    fn refused(&self, host: &HostView, info: &Info) -> Result<Option<State>> {
        // Whoever has joined with it was not refused.
        if host.exists("/etc/kubernetes/kubelet.conf")? {
            return Ok(None);
        }
        let (kubernetes, driver) = (self.pot.manifest().kubernetes, &info.storage_driver);
        let release = host.text("/proc/sys/kernel/osrelease")?.unwrap_or_default();
        if docker::kubeadm_takes(kubernetes, driver)
            || kernel::is_replaced(kubernetes, release.trim())
        {
            return Ok(None);
        }
        let data = footprint::DOCKER_DATA;
        Ok(Some(State::Conflict {
            reason: format!(
                "Docker found no better storage driver for {data} than {driver}, which kubeadm {kubernetes} refuses"
            ),
            remedy: format!(
                "stop it (systemctl stop docker), give {data} a file system of its own that overlay2 works on, and run this again: ext4, or xfs that was made with ftype=1 (xfs_info shows it), and no overlay"
            ),
        }))
    }
}

impl Step for DockerService {
    fn id(&self) -> &'static str {
        "docker-service"
    }

    fn summary(&self) -> String {
        "Docker runs, and starts at boot".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let host = view.host;
        match docker::standing(host, self.pot.manifest(), self.driver)? {
            Docker::Adopted => return starts_at_boot(view),
            Docker::Unfit { reason, remedy } => return Ok(State::Conflict { reason, remedy }),
            Docker::Absent | Docker::Ours => {}
        }
        let state = unit::look(host, NAME)?;
        if state.load == "masked" {
            return Ok(unit::masked(NAME));
        }
        let mut states = vec![file().state(host)?];
        states.extend(state.pending(NAME));
        if state.active == "active" {
            match docker::running(host)? {
                None => states.push(State::Pending("Docker does not answer".to_owned())),
                Some(info) => {
                    states.extend(self.outdated(&info).map(State::Pending));
                    states.extend(self.refused(host, &info)?);
                }
            }
        } else {
            states.push(State::Pending("Docker does not run".to_owned()));
        }
        Ok(combine(states))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        file().write(host)?;
        footprint::announce(host, &footprint::DOCKER, &[])?;
        unit::reload(host)?;
        unit::change(host, "enable", NAME)?;
        // Type=notify: it returns when Docker answers.
        unit::change(host, "restart", NAME)
    }
}

/// An adopted Docker is not ours to change, but one that is gone after the next reboot takes the master with it.
fn starts_at_boot(view: View<'_>) -> Result<State> {
    for name in [NAME, "docker.socket"] {
        if unit::look(view.host, name)?.enabled.starts_with("enabled") {
            return Ok(State::Satisfied);
        }
    }
    Ok(State::Conflict {
        reason: "the Docker that is already here does not start at boot".to_owned(),
        remedy: "enable it: systemctl enable docker".to_owned(),
    })
}

fn file() -> ConfigFile {
    ConfigFile {
        path: "/etc/systemd/system/docker.service".to_owned(),
        content: include_str!("../templates/docker.service").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::testing::{Machine, Pot, Units, systemd, units};
    use super::*;
    use crate::host::command::Output;
    use crate::host::scripted::Scripted;

    const UNIT: &str = "/etc/systemd/system/docker.service";

    fn step(insecure: &[&str]) -> DockerService {
        let pot = Pot::default()
            .artifact("docker", &["docker", "dockerd"])
            .verified();
        let insecure = insecure.iter().map(|name| (*name).to_owned()).collect();
        DockerService::new(pot, CgroupDriver::Cgroupfs, insecure)
    }

    /// A machine with the pot's Docker in place.
    fn machine() -> Machine {
        let machine = Machine::new();
        machine
            .file_with_mode("/usr/bin/dockerd", "this is dockerd", 0o755)
            .file_with_mode("/usr/bin/docker", "this is docker", 0o755);
        machine
    }

    fn info(driver: &str) -> String {
        format!(
            r#"{{"ServerVersion":"18.09.9","CgroupDriver":"{driver}","Driver":"overlay2","LiveRestoreEnabled":true,
                "RegistryConfig":{{"InsecureRegistryCIDRs":["127.0.0.0/8"],"IndexConfigs":{{"docker.io":{{"Secure":true}},"10.0.0.9:5000":{{"Secure":false}}}}}}}}"#
        )
    }

    /// A Docker that answers `old` until it is restarted, and then `new`.
    fn docker(script: Scripted, known: &Units, old: &str, new: &str) -> Scripted {
        let restarted = std::sync::Arc::new(Mutex::new(false));
        let seen = std::sync::Arc::clone(&restarted);
        let (old, new) = (old.to_owned(), new.to_owned());
        let script = script
            .with(move |cmd, _| {
                if cmd.args.first().is_some_and(|verb| verb == "restart") {
                    *seen.lock().unwrap() = true;
                }
                None
            })
            .with(move |cmd, _| {
                let text = if *restarted.lock().unwrap() {
                    &new
                } else {
                    &old
                };
                (cmd.program == "docker").then(|| Output {
                    stdout: text.clone().into_bytes(),
                    ..Output::default()
                })
            });
        systemd(script, known)
    }

    #[test]
    fn docker_is_started_and_enabled() {
        let machine = machine();
        let known = units(&[]);
        let script = docker(Scripted::new(), &known, "", &info("cgroupfs"));
        let (before, after) = machine.ensure(&step(&["10.0.0.9:5000"]), script).unwrap();
        assert!(matches!(before, State::Pending(why) if why.contains("Docker does not run")));
        assert_eq!(after, State::Satisfied);
        assert_eq!(
            known.lock().unwrap()[NAME],
            ("active".to_owned(), "enabled".to_owned())
        );
        let unit = machine.text(UNIT).unwrap();
        for line in [
            "Type=notify",
            "LimitNOFILE=1048576",
            "Delegate=yes",
            "KillMode=process",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn a_docker_that_runs_with_an_older_configuration_is_restarted() {
        let machine = machine();
        machine.file(UNIT, include_str!("../templates/docker.service"));
        let known = units(&[(NAME, "active", "enabled")]);
        let script = docker(Scripted::new(), &known, &info("systemd"), &info("cgroupfs"));
        let (before, after) = machine.ensure(&step(&[]), script).unwrap();
        assert_eq!(
            before,
            State::Pending("Docker runs with cgroup driver systemd".to_owned())
        );
        assert_eq!(after, State::Satisfied);
        let script = docker(Scripted::new(), &known, &info("cgroupfs"), "");
        let state = machine.check(&step(&["other:5000"]), script);
        assert!(matches!(state, State::Pending(why) if why.contains("other:5000")));
    }

    #[test]
    fn a_storage_driver_that_kubeadm_refuses_ends_the_step() {
        let release = "/proc/sys/kernel/osrelease";
        let started = |kernel: &str, driver: &str| {
            let machine = machine();
            machine.file(release, kernel);
            let answer = info("cgroupfs").replace("overlay2", driver);
            let script = docker(Scripted::new(), &units(&[]), "", &answer);
            let (before, after) = machine.ensure(&step(&[]), script).unwrap();
            assert!(matches!(before, State::Pending(_)), "{before:?}");
            after
        };
        for driver in ["overlay2", "devicemapper"] {
            assert_eq!(started("5.10.0-8-amd64\n", driver), State::Satisfied);
        }
        for driver in ["vfs", "fuse-overlayfs", "btrfs"] {
            let state = started("5.10.0-8-amd64\n", driver);
            assert!(
                matches!(&state, State::Conflict { reason, remedy } if reason.contains(driver) && remedy.contains("ftype=1")),
                "{state:?}"
            );
        }
        // kubeadm 1.14 does not know this kernel, and is told to pass over its check.
        assert_eq!(started("6.1.0-56-amd64\n", "vfs"), State::Satisfied);
    }

    #[test]
    fn an_adopted_docker_must_start_at_boot() {
        let machine = Machine::new();
        machine.program("dockerd").program("docker");
        let script = |enabled: &str| {
            let known = units(&[(NAME, "active", enabled)]);
            docker(Scripted::new(), &known, &info("cgroupfs"), "")
        };
        assert_eq!(
            machine.check(&step(&[]), script("enabled")),
            State::Satisfied
        );
        let state = machine.check(&step(&[]), script("disabled"));
        assert!(
            matches!(state, State::Conflict { remedy, .. } if remedy == "enable it: systemctl enable docker")
        );
    }

    #[test]
    fn a_masked_unit_is_a_conflict() {
        let known = units(&[(NAME, "inactive", "masked")]);
        let state = machine().check(&step(&[]), systemd(Scripted::new(), &known));
        assert!(matches!(state, State::Conflict { .. }));
    }

    #[test]
    fn a_docker_that_does_not_start_ends_the_step() {
        let machine = machine();
        let script = Scripted::new().on("systemctl restart", 1, "Job for docker.service failed");
        let error = machine
            .ensure(&step(&[]), systemd(script, &units(&[])))
            .unwrap_err();
        assert!(format!("{error:#}").contains("Job for docker.service failed"));
    }
}
