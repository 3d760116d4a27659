//! Sysctls, modules, swap and network interfaces as they were.
//!
//! A module that something uses by now, and a swap area that is gone, are named and passed over: a reboot settles the first, and the second is somebody else's doing.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::Result;

use super::footprint::interface_path;
use crate::facts::modules::{self, Standing};
use crate::host::command::Cmd;
use crate::journal::Change;
use crate::step::{State, Step, View, World};
use crate::steps::swap_areas;

/// A large swap area on a slow disk is read once.
const SWAPON_LIMIT: Duration = Duration::from_mins(5);

/// A sysctl has its former value.
pub(super) struct RestoreSysctl {
    pub key: String,
    pub before: String,
}

impl Step for RestoreSysctl {
    fn id(&self) -> &'static str {
        "undo-sysctl"
    }

    fn summary(&self) -> String {
        format!("{} is {}, as before", self.key, self.before)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(match view.host.sysctl(&self.key)? {
            // It went with its module.
            None => State::Satisfied,
            Some(now) if now == self.before => State::Satisfied,
            Some(now) if !view.host.sysctl_is_writable(&self.key)? => {
                State::Unsettable(format!("it is {now} and cannot be changed here"))
            }
            Some(now) => State::Pending(format!("it is {now}")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        world.host.set_sysctl(&self.key, &self.before)
    }
}

/// A module that was loaded is gone, if nothing uses it.
pub(super) struct UnloadModule {
    name: String,
    /// Why it cannot be unloaded, once that was tried.
    refused: RefCell<Option<String>>,
}

impl UnloadModule {
    pub fn new(name: String) -> Self {
        Self {
            name,
            refused: RefCell::default(),
        }
    }
}

impl Step for UnloadModule {
    fn id(&self) -> &'static str {
        "undo-module"
    }

    fn summary(&self) -> String {
        format!("the kernel module {} is not loaded, as before", self.name)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        if modules::standing(view.host, &self.name)? != Standing::Loaded {
            return Ok(State::Satisfied);
        }
        Ok(match &*self.refused.borrow() {
            Some(why) => State::Unsettable(format!("it stays until the next reboot: {why}")),
            None => State::Pending("it is unloaded if nothing uses it".to_owned()),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        // Not modprobe: that would unload what it needs as well, which may have been loaded before.
        let cmd = Cmd::new("rmmod", [self.name.as_str()]);
        let change = Change::Undo {
            what: self.summary(),
        };
        if let Err(cause) = world.host.run(&cmd, change) {
            let evidence = format!("{cause:#}");
            let last = evidence.lines().last().unwrap_or_default().to_owned();
            *self.refused.borrow_mut() = Some(last);
        }
        Ok(())
    }
}

/// A swap area is in use again.
pub(super) struct SwapOn {
    pub area: String,
}

impl Step for SwapOn {
    fn id(&self) -> &'static str {
        "undo-swap"
    }

    fn summary(&self) -> String {
        format!("{} is in use as swap, as before", self.area)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(if swap_areas(view.host)?.contains(&self.area) {
            State::Satisfied
        } else if view.host.exists(&self.area)? {
            State::Pending("it is off".to_owned())
        } else {
            State::Unsettable(format!("there is no {} any more", self.area))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cmd = Cmd::new("swapon", [self.area.as_str()]).timeout(SWAPON_LIMIT);
        let change = Change::Undo {
            what: self.summary(),
        };
        world.host.run(&cmd, change).map(drop)
    }
}

/// A network interface that programs made is gone.
pub(super) struct DeleteInterface {
    pub name: String,
}

impl Step for DeleteInterface {
    fn id(&self) -> &'static str {
        "undo-interface"
    }

    fn summary(&self) -> String {
        format!("there is no network interface {}, as before", self.name)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(if view.host.exists(&interface_path(&self.name))? {
            State::Pending("it is deleted, with its routes".to_owned())
        } else {
            State::Satisfied
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cmd = Cmd::new("ip", ["link", "delete", self.name.as_str()]);
        let change = Change::Undo {
            what: self.summary(),
        };
        world.host.run(&cmd, change).map(drop)
    }
}
