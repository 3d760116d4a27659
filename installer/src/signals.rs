//! An operator's Ctrl-C, a terminal that goes away, a service manager that stops us: asked for politely, this program ends at the next safe place.
//!
//! The first signal sets a flag, which the engine looks at between two steps and every wait looks at between two looks: the run then ends like a failed one, with its
//! credentials revoked and its lock given back. The second signal ends the program at once. Commands run in process groups of their own and do not get the signal.
//!
//! In the same way a run ends whose cluster-wide lock was not renewed in time: whoever looks sees it by the clock, also while a renewal still hangs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether somebody asked this program to end, or it must.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    /// Until when the cluster's lock is ours for certain; nothing while none is held.
    held: Arc<Mutex<Option<Instant>>>,
}

impl Stop {
    /// Listens to SIGINT, SIGTERM and SIGHUP from now on.
    pub fn listen() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag unset and only sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, stop.asked.clone())
                .context("cannot listen to signals")?;
            flag::register(signal, stop.asked.clone()).context("cannot listen to signals")?;
        }
        Ok(stop)
    }

    /// Ends the run at the first safe place after `end`, unless the cluster's lock is renewed before.
    pub fn lock_is_held_until(&self, end: Instant) {
        *self.held() = Some(end);
    }

    /// Says that the cluster's lock is not needed any more.
    pub fn lock_is_given_back(&self) {
        *self.held() = None;
    }

    fn held(&self) -> MutexGuard<'_, Option<Instant>> {
        self.held
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Fails where somebody asked, or the lock is lost.
    pub fn check(&self) -> Result<()> {
        self.check_at(Instant::now())
    }

    /// The same, as it will be at another moment.
    pub(crate) fn check_at(&self, now: Instant) -> Result<()> {
        ensure!(
            self.held().is_none_or(|end| now < end),
            "the cluster's lock could not be renewed in time, and somebody else may hold it soon; run the same command again to go on"
        );
        ensure!(
            !self.asked.load(Ordering::Relaxed),
            "stopped by a signal; run the same command again to go on"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_asked_until_the_flag_is_set() {
        let stop = Stop::default();
        assert!(stop.check().is_ok());
        stop.asked.store(true, Ordering::Relaxed);
        assert!(
            stop.check()
                .unwrap_err()
                .to_string()
                .contains("run the same command again")
        );
    }
}
