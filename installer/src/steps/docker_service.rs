//! Docker runs with its configuration, and starts at boot.
//!
//! dockerd starts a containerd of its own; there is no second unit, no socket unit and no group. The check asks the running Docker itself: one that still runs with an
//! older configuration is restarted (containers live on, because of live-restore).

use std::sync::Arc;

use anyhow::Result;
use bundle_spec::VerifiedPot;

use super::config_file::ConfigFile;
use super::{combine, unit};
use crate::facts::docker::{self, CgroupDriver, Docker, Info};
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
            Docker::Adopted(_) => return starts_at_boot(view),
            Docker::Unfit { reason, remedy } => return Ok(State::Conflict { reason, remedy }),
            Docker::Absent | Docker::Ours => {}
        }
        let state = unit::look(host, NAME)?;
        if state.load == "masked" {
            return Ok(unit::masked(NAME));
        }
        let mut states = vec![file().state(host)?];
        if state.enabled != "enabled" {
            states.push(State::Pending(format!("{NAME} is not enabled")));
        }
        if state.stale {
            states.push(State::Pending(format!("systemd has not read {NAME} again")));
        }
        if state.active == "active" {
            match docker::running(host)? {
                None => states.push(State::Pending("Docker does not answer".to_owned())),
                Some(info) => states.extend(self.outdated(&info).map(State::Pending)),
            }
        } else {
            states.push(State::Pending("Docker does not run".to_owned()));
        }
        Ok(combine(states))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        file().write(host)?;
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
        path: "/etc/systemd/system/docker.service",
        content: include_str!("../templates/docker.service").to_owned(),
    }
}
