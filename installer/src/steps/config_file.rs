//! A configuration file with one right content.
//!
//! Files of ours begin with a line that says so. One that has it and differs was written by another version of this program, and is replaced; one that lacks it
//! belongs to somebody else, and is never touched.

use anyhow::Result;

use crate::facts::MARK;
use crate::host::{Host, HostView, Kind};
use crate::step::State;

/// Permissions of configuration: nothing secret is in it.
const MODE: u32 = 0o644;

/// A file and what must be in it.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    /// Where it lies.
    pub path: String,
    /// Its content.
    pub content: String,
}

impl ConfigFile {
    /// Whether the file is right.
    pub fn state(&self, host: &HostView) -> Result<State> {
        let path = &self.path;
        let Some(facts) = host.facts(path)? else {
            return Ok(State::Pending(format!("{path} is missing")));
        };
        let text = match facts.kind {
            Kind::File => host.read(path)?.unwrap_or_default(),
            _ => Vec::new(),
        };
        if text == self.content.as_bytes() {
            return Ok(if facts.mode == MODE {
                State::Satisfied
            } else {
                State::Pending(format!("{path} has mode {:o}, wanted {MODE:o}", facts.mode))
            });
        }
        if text.starts_with(MARK.as_bytes()) {
            return Ok(State::Pending(format!(
                "{path} is from another version of this program"
            )));
        }
        Ok(State::Conflict {
            reason: format!(
                "{path} is there with another content, and not written by this program"
            ),
            remedy: format!("look at it; if nothing needs it, move it away: mv {path} /root/"),
        })
    }

    /// Writes the file unless it is right.
    pub fn write(&self, host: &Host<'_>) -> Result<()> {
        match self.state(host.view())? {
            State::Satisfied => Ok(()),
            _ => host.write_file(&self.path, self.content.as_bytes(), MODE),
        }
    }
}
