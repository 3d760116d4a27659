//! Units, containers and images as they were.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::control_plane::images::familiar;
use crate::host::HostView;
use crate::host::command::Cmd;
use crate::host::grace;
use crate::host::probe::{Containers, Probe};
use crate::journal::Change;
use crate::step::{State, Step, View, World};
use crate::steps::unit::{self, UnitState};

/// A few dozen containers on a slow disk.
const REMOVAL_LIMIT: Duration = Duration::from_mins(5);

const KUBELET: &str = "kubelet.service";
const DOCKER: &str = "docker.service";

/// Where Docker keeps one folder a container.
const CONTAINERS: &str = "/var/lib/docker/containers";

/// A unit runs and starts at boot as it did.
pub(super) struct RestoreUnit {
    pub name: String,
    pub active: String,
    pub enabled: String,
}

impl RestoreUnit {
    /// The commands that are missing, in order.
    fn verbs(&self, now: &UnitState) -> Vec<&'static str> {
        let mut verbs = Vec::new();
        if is_running(&now.active) && !is_running(&self.active) {
            verbs.push("stop");
        }
        if is_masked(&now.enabled) && !is_masked(&self.enabled) {
            verbs.push("unmask");
        }
        match (self.enabled.as_str(), now.enabled.as_str()) {
            ("enabled", "enabled") => {}
            ("enabled", _) => verbs.push("enable"),
            (_, "enabled") => verbs.push("disable"),
            (before, now) if is_masked(before) && !is_masked(now) => verbs.push("mask"),
            _ => {}
        }
        if is_running(&self.active) && !is_running(&now.active) {
            verbs.push("start");
        }
        verbs
    }
}

/// "activating" is also what a kubelet is that waits for kubeadm and is started again and again.
fn is_running(active: &str) -> bool {
    matches!(active, "active" | "activating" | "reloading")
}

fn is_masked(enabled: &str) -> bool {
    enabled.starts_with("masked")
}

impl Step for RestoreUnit {
    fn id(&self) -> &'static str {
        "undo-unit"
    }

    fn summary(&self) -> String {
        let enabled = match self.enabled.as_str() {
            "" => "without a unit file",
            enabled => enabled,
        };
        format!("{} is {} and {enabled}, as before", self.name, self.active)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let verbs = self.verbs(&unit::look(view.host, &self.name)?);
        Ok(if verbs.is_empty() {
            State::Satisfied
        } else {
            State::Pending(format!("systemctl {} {}", verbs.join(", "), self.name))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        for verb in self.verbs(&unit::look(world.host.view(), &self.name)?) {
            unit::change(world.host, verb, &self.name)?;
        }
        Ok(())
    }
}

/// systemd knows the units as they are on the disk now.
#[derive(Default)]
pub(super) struct Reload {
    /// Nobody can ask systemd whether it still remembers a unit whose file is gone; so it is told once a run.
    told: Cell<bool>,
}

impl Step for Reload {
    fn id(&self) -> &'static str {
        "undo-reload"
    }

    fn summary(&self) -> String {
        "systemd knows the units as they are now".to_owned()
    }

    fn check(&self, _: View<'_>) -> Result<State> {
        Ok(if self.told.get() {
            State::Satisfied
        } else {
            State::Pending("systemctl daemon-reload".to_owned())
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        unit::reload(world.host)?;
        self.told.set(true);
        Ok(())
    }
}

/// The kubelet does not bring pods back while they are taken away.
pub(super) struct StopKubelet;

impl Step for StopKubelet {
    fn id(&self) -> &'static str {
        "kubelet-stopped"
    }

    fn summary(&self) -> String {
        "the kubelet does not run while its pods are taken away".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(if is_running(&unit::look(view.host, KUBELET)?.active) {
            State::Pending("systemctl stop kubelet.service".to_owned())
        } else {
            State::Satisfied
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        unit::change(world.host, "stop", KUBELET)
    }
}

/// No containers of the kubelet's pods are left; none at all where Docker itself came with us.
pub(super) struct RemoveContainers {
    pub of: Containers,
}

/// What Docker says about its containers.
enum Answer {
    /// There is no Docker, or one that never had a container.
    None,
    Ids(Vec<String>),
    /// It does not run; its containers may.
    Silent,
}

impl RemoveContainers {
    fn ask(&self, host: &HostView) -> Result<Answer> {
        if host.program("docker").is_none() {
            return Ok(Answer::None);
        }
        let answer = host.probe(&Probe::docker_containers(self.of))?;
        if answer.ok() {
            let ids = answer.text().lines().map(str::to_owned).collect();
            return Ok(Answer::Ids(ids));
        }
        Ok(if host.list(CONTAINERS)?.is_empty() {
            Answer::None
        } else {
            Answer::Silent
        })
    }
}

impl Step for RemoveContainers {
    fn id(&self) -> &'static str {
        "containers-gone"
    }

    fn summary(&self) -> String {
        match self.of {
            Containers::All => "Docker, which came with the pot, has no containers",
            Containers::Pods => "Docker has no containers of Kubernetes' pods",
        }
        .to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(match self.ask(view.host)? {
            Answer::None => State::Satisfied,
            Answer::Ids(ids) if ids.is_empty() => State::Satisfied,
            Answer::Ids(ids) => State::Pending(format!("removed for good: {}", ids.len())),
            Answer::Silent if self.of == Containers::All => State::Pending(
                "Docker does not answer; it is started, so that its containers can be removed"
                    .to_owned(),
            ),
            Answer::Silent => State::Conflict {
                reason: "Docker does not answer, so its containers cannot be told".to_owned(),
                remedy: "start it: systemctl start docker".to_owned(),
            },
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        if let Answer::Silent = self.ask(host.view())? {
            unit::change(host, "restart", DOCKER)?;
        }
        let Answer::Ids(ids) = self.ask(host.view())? else {
            return Ok(());
        };
        if ids.is_empty() {
            return Ok(());
        }
        let change = || Change::Undo {
            what: self.summary(),
        };
        // What does not end when it is asked to is removed all the same.
        host.run(&grace::docker(&ids), change()).ok();
        let fixed = ["rm", "--force", "--volumes"].map(str::to_owned);
        let cmd = Cmd::new("docker", fixed.into_iter().chain(ids)).timeout(REMOVAL_LIMIT);
        host.run(&cmd, change()).map(drop)
    }
}

/// A name that an image was given is gone, and the image with its last name.
pub(super) struct UnnameImage {
    pub name: String,
    pub id: String,
}

impl Step for UnnameImage {
    fn id(&self) -> &'static str {
        "undo-image"
    }

    fn summary(&self) -> String {
        format!("Docker has no image {}, as before", self.name)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let host = view.host;
        if host.program("docker").is_none() {
            return Ok(State::Satisfied);
        }
        let answer = host.probe(&Probe::docker_images())?;
        if !answer.ok() {
            return Ok(State::Conflict {
                reason: format!("Docker does not answer, so {} stays in it", self.name),
                remedy: "start it: systemctl start docker".to_owned(),
            });
        }
        let listed = familiar(&self.name);
        let holder = answer
            .text()
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(_, name)| *name == listed)
            .map(|(id, _)| id.to_owned());
        Ok(match holder {
            None => State::Satisfied,
            Some(id) if id == self.id => State::Pending("docker rmi".to_owned()),
            Some(id) => State::Unsettable(format!("somebody gave the name to another image: {id}")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        ensure!(
            !self.name.is_empty(),
            "an image without a name cannot be told from others"
        );
        let cmd = Cmd::new("docker", ["rmi", self.name.as_str()]).timeout(REMOVAL_LIMIT);
        let change = Change::Undo {
            what: self.summary(),
        };
        world.host.run(&cmd, change).map(drop)
    }
}
