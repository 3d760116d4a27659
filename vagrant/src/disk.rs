//! How much of the disk a run of the lab takes at most.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use crate::sh::Sh;

/// Builds grow by some hundred megabytes in this time, which is all that can be missed.
const PAUSE: Duration = Duration::from_secs(2);

/// Looks at the used space of a file system until it is asked for the peak.
pub struct DiskWatch {
    before: u64,
    peak: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DiskWatch {
    /// Begins to look at the file system that holds this path.
    pub fn start(path: &Path) -> Result<Self> {
        let before = used(path)?;
        let peak = Arc::new(AtomicU64::new(before));
        let over = Arc::new(AtomicBool::new(false));
        let (path, seen, end): (PathBuf, _, _) =
            (path.to_owned(), Arc::clone(&peak), Arc::clone(&over));
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                if let Ok(now) = used(&path) {
                    seen.fetch_max(now, Ordering::Relaxed);
                }
                thread::park_timeout(PAUSE);
            }
        });
        Ok(Self {
            before,
            peak,
            over,
            thread: Some(thread),
        })
    }

    /// Megabytes that were used at most beyond those at the start.
    pub fn peak_megabytes(&self) -> u64 {
        self.peak
            .load(Ordering::Relaxed)
            .saturating_sub(self.before)
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot panic; and if it did, only the figure would be missing.
            let _ = thread.join();
        }
    }
}

/// Used megabytes (10^6 bytes).
fn used(path: &Path) -> Result<u64> {
    let said = Sh::new("df")
        .args(["--output=used", "--block-size=MB"])
        .arg(path)
        .output()?;
    let figure: String = said
        .lines()
        .last()
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    Ok(figure.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn df_gives_a_figure() {
        assert!(used(Path::new("/")).expect("df knows the root") > 0);
        let watch = DiskWatch::start(Path::new("/")).expect("it starts");
        assert!(watch.peak_megabytes() < 1_000_000);
    }
}
