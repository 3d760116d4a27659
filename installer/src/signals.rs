//! An operator's Ctrl-C, a terminal that goes away, a service manager that stops us: asked for politely, this program ends at the next safe place.
//!
//! The first signal sets a flag, which the engine looks at between two steps and every wait looks at between two looks: the run then ends like a failed one, with its
//! credentials revoked and its lock given back. The second signal ends the program at once. Commands run in process groups of their own and do not get the signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether somebody asked this program to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>, Arc<AtomicBool>);

impl Stop {
    /// Listens to SIGINT, SIGTERM and SIGHUP from now on.
    pub fn listen() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag unset and only sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, stop.0.clone())
                .context("cannot listen to signals")?;
            flag::register(signal, stop.0.clone()).context("cannot listen to signals")?;
        }
        Ok(stop)
    }

    /// Ends the run at the next safe place because the cluster's lock is lost.
    pub fn lock_is_lost(&self) {
        self.1.store(true, Ordering::Relaxed);
    }

    /// Fails where somebody asked, or the lock is lost.
    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.1.load(Ordering::Relaxed),
            "the cluster's lock could not be renewed for a minute, and somebody else may hold it now; run the same command again to go on"
        );
        ensure!(
            !self.0.load(Ordering::Relaxed),
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
        stop.0.store(true, Ordering::Relaxed);
        assert!(
            stop.check()
                .unwrap_err()
                .to_string()
                .contains("run the same command again")
        );
    }
}
