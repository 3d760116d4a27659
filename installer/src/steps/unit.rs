//! A systemd unit: what systemd says about it, and the commands that change it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::host::command::Cmd;
use crate::host::probe::Probe;
use crate::host::{Host, HostView};
use crate::journal::Change;
use crate::step::State;

/// The unit of containerd, ours and everybody's.
pub(crate) const CONTAINERD: &str = "containerd.service";

/// How long a unit may take to start or stop; above what the units themselves allow.
const PATIENCE: Duration = Duration::from_mins(3);

/// What systemd says about a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnitState {
    /// `LoadState`: loaded, not-found, masked, …
    pub load: String,
    /// `ActiveState`.
    pub active: String,
    /// `UnitFileState`; empty where there is no file.
    pub enabled: String,
    /// Whether the file on the disk is newer than what systemd knows.
    pub stale: bool,
}

impl UnitState {
    /// What is still to be done about the unit `name` before systemd starts it at boot, as it is on the disk.
    pub fn pending(&self, name: &str) -> impl Iterator<Item = State> {
        let to_do = [
            (self.enabled != "enabled").then(|| format!("{name} is not enabled")),
            self.stale
                .then(|| format!("systemd has not read {name} again")),
        ];
        to_do.into_iter().flatten().map(State::Pending)
    }
}

/// Asks systemd about a unit. One that does not exist is `not-found`, not an error.
pub(crate) fn look(host: &HostView, name: &str) -> Result<UnitState> {
    let answer = host
        .probe(&Probe::unit(name))
        .with_context(|| format!("cannot ask systemd about {name}"))?;
    ensure!(
        answer.ok(),
        "systemd gives no answer about {name}: {}",
        answer.evidence()
    );
    let mut state = UnitState::default();
    for (key, value) in answer
        .text()
        .lines()
        .filter_map(|line| line.split_once('='))
    {
        match key {
            "LoadState" => value.clone_into(&mut state.load),
            "ActiveState" => value.clone_into(&mut state.active),
            "UnitFileState" => value.clone_into(&mut state.enabled),
            "NeedDaemonReload" => state.stale = value == "yes",
            _ => {}
        }
    }
    Ok(state)
}

/// Makes systemd read its units again.
pub(crate) fn reload(host: &Host<'_>) -> Result<()> {
    host.run(&Cmd::new("systemctl", ["daemon-reload"]), Change::Reload)
        .map(drop)
}

/// Runs `systemctl VERB NAME`; the journal holds the unit's state before.
pub(crate) fn change(host: &Host<'_>, verb: &str, name: &str) -> Result<()> {
    let before = look(host.view(), name)?;
    let cmd = Cmd::new("systemctl", [verb, name]).timeout(PATIENCE);
    let change = Change::Unit {
        name: name.to_owned(),
        active: before.active,
        enabled: before.enabled,
    };
    host.run(&cmd, change).map(drop)
}

/// What a masked unit means for a step.
pub(crate) fn masked(name: &str) -> State {
    State::Conflict {
        reason: format!("somebody masked {name}"),
        remedy: format!("if nothing depends on that, unmask it: systemctl unmask {name}"),
    }
}
