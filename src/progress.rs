//! What the user sees while kpot works: bars on a terminal, plain lines otherwise. Everything goes to stderr; results go to stdout and are not this module's.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows the progress of a run.
pub struct Progress {
    started: Instant,
    bars: Option<MultiProgress>,
}

/// One thing that is going on.
pub struct Task {
    label: String,
    started: Instant,
    bar: Option<ProgressBar>,
    bars: Option<MultiProgress>,
    done: AtomicU64,
}

impl Progress {
    /// Bars where stderr is a terminal, else lines.
    pub fn new() -> Self {
        let bars = std::io::stderr()
            .is_terminal()
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self {
            started: Instant::now(),
            bars,
        }
    }

    /// A line for the user.
    pub fn line(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs();
        print(
            self.bars.as_ref(),
            &format!("[{:02}:{:02}] {text}", seconds / 60, seconds % 60),
        );
    }

    /// Starts to show something that goes on. `total` is its length in bytes, where it is known.
    pub fn task(&self, label: &str, total: Option<u64>) -> Task {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::no_length());
            bar.set_style(style(total.is_some()));
            bar.set_prefix(label.to_owned());
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar
        });
        Task {
            label: label.to_owned(),
            started: self.started,
            bar,
            bars: self.bars.clone(),
            done: AtomicU64::new(0),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Task {
    /// The length has become known, in bytes.
    pub fn expect(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_style(style(true));
            bar.set_length(total);
        }
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// Everything begins again.
    pub fn restart(&self) {
        self.done.store(0, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_position(0);
        }
    }

    /// Something that the user should know about this.
    pub fn note(&self, text: &str) {
        print(self.bars.as_ref(), &format!("{}: {text}", self.label));
    }

    /// It is done; `what` says so in the past tense.
    pub fn finish(self, what: &str) {
        if self.bar.is_none() {
            let seconds = self.started.elapsed().as_secs();
            print(
                None,
                &format!(
                    "[{:02}:{:02}] {what} {}",
                    seconds / 60,
                    seconds % 60,
                    self.label
                ),
            );
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A number of bytes for people: `127.9 MB`.
#[allow(
    clippy::cast_precision_loss,
    reason = "one decimal is shown, and sizes are far below 2^53"
)]
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 999.95 {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} GB")
}

fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{prefix:<42!} {bar:24} {bytes:>10} of {total_bytes:<10} {bytes_per_sec}"
    } else {
        "{prefix:<42!} {bytes:>10}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn print(bars: Option<&MultiProgress>, text: &str) {
    // Nobody is left to tell where stderr is gone.
    let _ = match bars {
        Some(bars) => bars.println(text),
        None => writeln!(std::io::stderr(), "{text}"),
    };
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_for_people() {
        let rows = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (127_937_112, "127.9 MB"),
            (999_999_999, "1.0 GB"),
            (1_500_000_000_000, "1500.0 GB"),
        ];
        for (count, text) in rows {
            assert_eq!(bytes(count), text);
        }
    }
}
