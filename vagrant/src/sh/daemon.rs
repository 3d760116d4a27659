//! A process that is left running.

use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{POLL, Sh, tail};

/// What a server gets to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// A server that this lab started. Stopped when dropped.
#[derive(Debug)]
pub struct Daemon {
    pub(super) what: String,
    pub(super) log: PathBuf,
    pub(super) child: Option<Child>,
}

impl Daemon {
    /// Its process ID.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// An error with the end of its log, if it has ended by itself.
    pub fn still_runs(&mut self) -> Result<()> {
        let Some(child) = self.child.as_mut() else {
            return Ok(());
        };
        match child
            .try_wait()
            .with_context(|| format!("looking at `{}`", self.what))?
        {
            None => Ok(()),
            Some(status) => bail!(
                "`{}` ended with {status}; the end of {}:\n{}",
                self.what,
                self.log.display(),
                tail(&self.log, 0)
            ),
        }
    }

    /// Lets it run on after this lab has ended.
    pub fn detach(mut self) {
        self.child = None;
    }

    /// Asks it to end (SIGTERM), makes it (SIGKILL) after five seconds, and waits.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // It may have ended already; the calls then only tell so.
        let _ = Sh::new("kill").arg(child.id().to_string()).outcome();
        let begun = Instant::now();
        while begun.elapsed() < GRACE {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(POLL);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}
