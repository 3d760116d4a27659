//! containerd runs with its configuration, serves the kubelet, and starts at boot.

use std::sync::Arc;

use anyhow::{Result, bail};
use bundle_spec::VerifiedPot;

use super::config_file::ConfigFile;
use super::{combine, unit};
use crate::facts::containerd::{self, Containerd};
use crate::facts::docker::CgroupDriver;
use crate::host::HostView;
use crate::host::cri::STARTING;
use crate::host::probe::Probe;
use crate::rollback::footprint;
use crate::step::{State, Step, View, World};

const NAME: &str = unit::CONTAINERD;

/// See the module.
pub struct ContainerdService {
    pot: Arc<VerifiedPot>,
    driver: CgroupDriver,
}

impl ContainerdService {
    /// A running containerd with the cluster's cgroup driver: the same as its configuration has.
    pub fn new(pot: Arc<VerifiedPot>, driver: CgroupDriver) -> Self {
        Self { pot, driver }
    }

    fn file(&self) -> ConfigFile {
        let mut content = include_str!("../templates/containerd.service").to_owned();
        // Upstream's unit of 1.x has it, that of 2.x leaves the limit to systemd.
        if containerd::release(&self.pot.manifest().runtime.version) < (2, 0) {
            content = content.replace("LimitCORE=", "LimitNOFILE=infinity\nLimitCORE=");
        }
        ConfigFile {
            path: "/etc/systemd/system/containerd.service".to_owned(),
            content,
        }
    }
}

impl Step for ContainerdService {
    fn id(&self) -> &'static str {
        "containerd-service"
    }

    fn summary(&self) -> String {
        "containerd runs, serves the kubelet, and starts at boot".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let host = view.host;
        let standing = containerd::standing(host, self.pot.manifest(), self.driver)?;
        if let Containerd::Unfit { reason, remedy } = standing {
            return Ok(State::Conflict { reason, remedy });
        }
        let state = unit::look(host, NAME)?;
        if let Containerd::Adopted = standing {
            return Ok(starts_at_boot(&state.enabled));
        }
        if state.load == "masked" {
            return Ok(unit::masked(NAME));
        }
        let mut states = vec![self.file().state(host)?];
        states.extend(state.pending(NAME));
        if state.active != "active" {
            states.push(State::Pending("containerd does not run".to_owned()));
        } else if !answers(host)? {
            states.push(State::Pending(
                "containerd does not serve the kubelet".to_owned(),
            ));
        }
        Ok(combine(states))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        self.file().write(host)?;
        footprint::announce(host, &footprint::CONTAINERD, &[])?;
        unit::reload(host)?;
        unit::change(host, "enable", NAME)?;
        unit::change(host, "restart", NAME)?;
        for _ in 0..STARTING.0 {
            if answers(host.view())? {
                return Ok(());
            }
            host.view().clock().pause(STARTING.1);
        }
        bail!(
            "containerd runs, but its CRI gave none of {} answers. See: journalctl -u containerd",
            STARTING.0
        )
    }
}

/// Whether the CRI answers the kubelet's kind of question.
fn answers(host: &HostView) -> Result<bool> {
    Ok(host.program("crictl").is_some() && host.probe(&Probe::containerd_pods())?.ok())
}

/// An adopted containerd is not ours to change, but one that is gone after the next reboot takes the master with it.
fn starts_at_boot(enabled: &str) -> State {
    if enabled.starts_with("enabled") {
        return State::Satisfied;
    }
    State::Conflict {
        reason: "the containerd that is already here does not start at boot".to_owned(),
        remedy: "enable it: systemctl enable containerd".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bundle_spec::KubeVersion;

    use super::super::testing::{Machine, Pot, Units, systemd, units};
    use super::*;
    use crate::host::scripted::Scripted;

    const UNIT: &str = "/etc/systemd/system/containerd.service";

    fn step(version: &str) -> ContainerdService {
        let pot = Pot::of(KubeVersion::new(1, 34, 4))
            .containerd(version)
            .verified();
        ContainerdService::new(pot, CgroupDriver::Systemd)
    }

    /// A machine with the pot's programs in place.
    fn machine() -> Machine {
        let machine = Machine::new();
        machine
            .file_with_mode(containerd::PROGRAM, "this is containerd", 0o755)
            .program("crictl");
        machine
    }

    fn script(known: &Units, answers: &[(i32, &str)]) -> Scripted {
        let pods = "crictl --runtime-endpoint unix:///run/containerd/containerd.sock --image-endpoint unix:///run/containerd/containerd.sock --timeout 20s pods";
        let answers: Vec<(i32, &str)> = answers.to_vec();
        systemd(Scripted::new().once_each(pods, answers), known)
    }

    #[test]
    fn containerd_is_started_and_its_cri_awaited() {
        let machine = machine();
        let known = units(&[]);
        let (before, after) = machine
            .ensure(&step("2.1.4"), script(&known, &[(1, "not yet"), (0, "")]))
            .unwrap();
        assert!(matches!(before, State::Pending(why) if why.contains("does not run")));
        assert_eq!(after, State::Satisfied);
        assert_eq!(
            known.lock().unwrap()[NAME],
            ("active".to_owned(), "enabled".to_owned())
        );
        let unit = machine.text(UNIT).unwrap();
        for line in [
            "Type=notify",
            "Delegate=yes",
            "KillMode=process",
            "OOMScoreAdjust=-999",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line}");
        }
        assert!(!unit.contains("LimitNOFILE"), "{unit}");
    }

    #[test]
    fn the_unit_of_the_first_generation_has_its_limit_of_files() {
        let unit = step("1.7.27").file().content;
        assert!(
            unit.lines().any(|line| line == "LimitNOFILE=infinity"),
            "{unit}"
        );
    }

    #[test]
    fn a_containerd_that_only_runs_is_started_again() {
        let machine = machine();
        let known = units(&[]);
        machine
            .ensure(&step("2.1.4"), script(&known, &[(0, "")]))
            .unwrap();
        let state = machine.check(&step("2.1.4"), script(&known, &[(1, "unknown service")]));
        assert_eq!(
            state,
            State::Pending("containerd does not serve the kubelet".to_owned())
        );
    }

    #[test]
    fn an_adopted_containerd_must_start_at_boot() {
        let machine = Machine::new();
        machine.program("containerd").program("ctr");
        let script = |enabled: &str| {
            let known = units(&[(NAME, "active", enabled)]);
            systemd(
                containerd::tests::answering(Scripted::new(), "1.6.20~ds1", "true"),
                &known,
            )
        };
        assert_eq!(
            machine.check(&step("2.1.4"), script("enabled")),
            State::Satisfied
        );
        let state = machine.check(&step("2.1.4"), script("disabled"));
        assert!(
            matches!(state, State::Conflict { remedy, .. } if remedy == "enable it: systemctl enable containerd")
        );
    }

    #[test]
    fn a_masked_unit_is_a_conflict() {
        let known = units(&[(NAME, "inactive", "masked")]);
        let state = machine().check(&step("2.1.4"), systemd(Scripted::new(), &known));
        assert!(matches!(state, State::Conflict { .. }));
    }
}
