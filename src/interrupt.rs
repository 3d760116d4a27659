//! Ctrl-C, and a service manager that stops us: a build ends, and the next one goes on where it ended.
//!
//! The first SIGINT or SIGTERM asks the work to give up, waits a moment for it, and then ends the run without it: what a server does not send, nobody waits for. That is
//! safe at any time, because nothing is left half done under a name of its own (`cache`, `pack/output`). The second signal ends the process at once. SIGHUP keeps its
//! usual meaning, so that `nohup` works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::Interrupted;
use crate::fetch::Stop;

/// How long work that was asked to give up is waited for.
const MOMENT: Duration = Duration::from_secs(1);

/// How often signals are looked for.
const PAUSE: Duration = Duration::from_millis(50);

/// Does the work; ends without it where a signal came.
///
/// # Errors
/// What the work failed at, or [`Interrupted`].
pub fn watched(
    stop: &Stop,
    work: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let came = Arc::new(AtomicBool::new(false));
    let which = Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM] {
        let number = usize::try_from(signal).context("a signal has a number")?;
        // In this order: the first signal finds the flag unset and only sets it.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&came))
            .and_then(|_| flag::register_usize(signal, Arc::clone(&which), number))
            .and_then(|_| flag::register(signal, Arc::clone(&came)))
            .context("cannot listen to signals")?;
    }
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    let mut asked: Option<Instant> = None;
    loop {
        match result.recv_timeout(PAUSE) {
            // What is done is done, though somebody asked for its end in the last moment.
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if asked.is_none() && !came.load(Ordering::SeqCst) => return Err(error),
            Err(RecvTimeoutError::Disconnected) if asked.is_none() => {
                return Err(anyhow!("kpot's own fault, told above; please report it"));
            }
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        match asked {
            Some(since) if since.elapsed() > MOMENT => break,
            None if came.load(Ordering::SeqCst) => {
                stop.request();
                asked = Some(Instant::now());
            }
            Some(_) | None => {}
        }
    }
    Err(Interrupted {
        signal: which.load(Ordering::SeqCst),
    }
    .into())
}
