//! The time between two looks: how long something was waited for, and waiting itself.
//!
//! Whoever asks the cluster twice waits by the clock of the runner that asks, so that a wait of minutes can be played through in a moment.

use std::thread;
use std::time::{Duration, Instant};

/// A clock to wait by.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Instant;

    /// Lets this much time pass.
    fn pause(&self, length: Duration);
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn pause(&self, length: Duration) {
        thread::sleep(length);
    }
}
