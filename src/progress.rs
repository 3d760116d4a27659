//! What the user sees while kpot works: bars on a terminal, plain lines otherwise. Everything goes to stderr; results go to stdout and are not this module's.
//!
//! A bar shows bytes, rate and time left of one thing; the lowest one shows them of all that is fetched, as far as sizes are known yet. Without a terminal a line is
//! written when something is done, and every half minute while it takes long.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a line tells of something that takes long.
const TELL: Duration = Duration::from_secs(30);

/// A bar whose length is known.
const KNOWN: &str = "{prefix:<34!} {wide_bar} {decimal_bytes:>9}/{decimal_total_bytes:<9} {decimal_bytes_per_sec:>10} {eta:>4}";

/// A bar whose length is not known.
const UNKNOWN: &str = "{prefix:<34!} {decimal_bytes:>9} {decimal_bytes_per_sec:>10}";

/// Shows the progress of a run. A clone shows it in the same place.
#[derive(Clone)]
pub struct Progress {
    started: Instant,
    bars: Option<MultiProgress>,
    all: Arc<All>,
}

/// One thing that is going on.
pub struct Task {
    label: String,
    started: Instant,
    begun: Instant,
    bar: Option<ProgressBar>,
    bars: Option<MultiProgress>,
    done: AtomicU64,
    /// Its length, or 0 where it is not known.
    total: AtomicU64,
    /// When it was told of last, in milliseconds since it began.
    told: AtomicU64,
    /// Where it is one of the things that are fetched.
    all: Option<Arc<All>>,
    /// Whether its length is among the lengths of all.
    counted: AtomicBool,
}

/// All that is fetched.
#[derive(Default)]
struct All {
    bar: Mutex<Option<ProgressBar>>,
    /// Bytes that are known to be wanted.
    expected: AtomicU64,
    /// Bytes that are there.
    done: AtomicU64,
    /// Things whose size is not known yet.
    unknown: AtomicU64,
}

/// Whether the size of something is known before it is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// So many bytes, which [`Progress::foresee`] was told.
    Foreseen(u64),
    /// It is one of those that [`Progress::foresee_unknown`] was told.
    Unknown,
}

impl Progress {
    /// Bars where stderr is a terminal that can move its cursor, else lines.
    pub fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let bars = (std::io::stderr().is_terminal() && !dumb)
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self {
            started: Instant::now(),
            bars,
            all: Arc::default(),
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

    /// Does something that may talk to the user by itself; no bar is drawn meanwhile.
    pub fn paused<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.bars {
            Some(bars) => bars.suspend(work),
            None => work(),
        }
    }

    /// Starts to show something that goes on. `total` is its length in bytes, where it is known.
    pub fn task(&self, label: &str, total: Option<u64>) -> Task {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = ProgressBar::no_length();
            // The one of all stays the lowest.
            let bar = match self.all.lock().as_ref() {
                Some(lowest) => bars.insert_before(lowest, bar),
                None => bars.add(bar),
            };
            bar.set_style(style(if total.is_some() { KNOWN } else { UNKNOWN }));
            bar.set_prefix(label.to_owned());
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar
        });
        Task {
            label: label.to_owned(),
            started: self.started,
            begun: Instant::now(),
            bar,
            bars: self.bars.clone(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(total.unwrap_or(0)),
            told: AtomicU64::new(0),
            all: None,
            counted: AtomicBool::new(false),
        }
    }

    /// Starts to show something that is fetched, as one of all that are.
    pub fn transfer(&self, label: &str, expected: Expected) -> Task {
        let (total, counted) = match expected {
            Expected::Foreseen(total) => (Some(total), true),
            Expected::Unknown => (None, false),
        };
        let mut task = self.task(label, total);
        task.all = Some(Arc::clone(&self.all));
        task.counted = AtomicBool::new(counted);
        task
    }

    /// So many things will be fetched whose sizes are not known yet.
    pub fn foresee_unknown(&self, count: u64) {
        if let Some(bars) = &self.bars {
            self.all.lock().get_or_insert_with(|| {
                let bar = bars.add(ProgressBar::no_length());
                bar.set_style(style(KNOWN));
                // Moves on where nothing comes, too: the rate falls, and it takes longer.
                bar.enable_steady_tick(Duration::from_millis(500));
                bar
            });
        }
        self.all.unknown.fetch_add(count, Ordering::Relaxed);
        self.all.show();
    }

    /// One of them has turned out to be things of so many bytes together.
    pub fn foresee(&self, bytes: u64) {
        self.all.expected.fetch_add(bytes, Ordering::Relaxed);
        self.all.unknown.fetch_sub(1, Ordering::Relaxed);
        self.all.show();
    }

    /// Nothing more will be fetched.
    pub fn fetched(&self) {
        if let Some(bar) = self.all.lock().take() {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl All {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self) {
        if let Some(bar) = self.lock().as_ref() {
            bar.set_length(self.expected.load(Ordering::Relaxed));
            bar.set_position(self.done.load(Ordering::Relaxed));
            bar.set_prefix(match self.unknown.load(Ordering::Relaxed) {
                0 => "in all".to_owned(),
                1 => "in all (and 1 of unknown size)".to_owned(),
                count => format!("in all (and {count} of unknown size)"),
            });
        }
    }
}

impl Task {
    /// The length has become known, in bytes.
    pub fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_style(style(KNOWN));
            bar.set_length(total);
        }
        if let Some(all) = &self.all
            && !self.counted.swap(true, Ordering::Relaxed)
        {
            all.expected.fetch_add(total, Ordering::Relaxed);
            all.unknown.fetch_sub(1, Ordering::Relaxed);
            all.show();
        }
    }

    /// So many bytes are there from before. They count as done, and not for the rate.
    pub fn resume(&self, bytes: u64) {
        if bytes > 0 {
            self.advance(bytes);
            if let Some(bar) = &self.bar {
                bar.reset_eta();
            }
            if let Some(all) = self.all.as_ref().map(|all| all.lock())
                && let Some(bar) = all.as_ref()
            {
                bar.reset_eta();
            }
        }
    }

    /// It need not be fetched: it is here, with so many bytes.
    pub fn skip(&self, bytes: u64) {
        self.expect(bytes);
        self.resume(bytes);
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(all) = &self.all {
            all.done.fetch_add(bytes, Ordering::Relaxed);
            all.show();
        }
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None => self.tell(done),
        }
    }

    /// Everything begins again.
    pub fn restart(&self) {
        let done = self.done.swap(0, Ordering::Relaxed);
        if let Some(all) = &self.all {
            all.done.fetch_sub(done, Ordering::Relaxed);
            all.show();
        }
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
            self.say(&format!("{what} {}", self.label));
        }
    }

    /// Tells how far it is, where nothing was told for long.
    fn tell(&self, done: u64) {
        let elapsed = self.begun.elapsed();
        let now = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let last = self.told.load(Ordering::Relaxed);
        let due = u128::from(now.saturating_sub(last)) >= TELL.as_millis();
        if due
            && self
                .told
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let total = self.total.load(Ordering::Relaxed);
            self.say(&format!(
                "{}: {}",
                self.label,
                standing(done, total, elapsed)
            ));
        }
    }

    fn say(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs();
        print(
            None,
            &format!("[{:02}:{:02}] {text}", seconds / 60, seconds % 60),
        );
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How far something is: bytes, rate, and the time left where its length is known.
fn standing(done: u64, total: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs().max(1);
    let rate = done / seconds;
    let so_far = bytes(done);
    if total < done || rate == 0 {
        return format!("{so_far}, {}/s", bytes(rate));
    }
    let left = (total - done) / rate;
    format!(
        "{so_far} of {}, {}/s, {}:{:02} left",
        bytes(total),
        bytes(rate),
        left / 60,
        left % 60
    )
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

fn style(template: &str) -> ProgressStyle {
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
    use super::*;

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

    #[test]
    fn how_far_something_is_is_told_with_what_is_known() {
        let told = |done, total| standing(done, total, Duration::from_secs(30));
        assert_eq!(
            told(30_000_000, 120_000_000),
            "30.0 MB of 120.0 MB, 1.0 MB/s, 1:30 left"
        );
        assert_eq!(told(30_000_000, 0), "30.0 MB, 1.0 MB/s");
        assert_eq!(told(0, 100), "0 B, 0 B/s");
    }

    #[test]
    fn all_is_the_sum_of_what_is_fetched() {
        let progress = Progress::new();
        let figures = || {
            let all = &progress.all;
            [&all.expected, &all.done, &all.unknown].map(|it| it.load(Ordering::Relaxed))
        };
        progress.foresee_unknown(3);
        progress.foresee(1000);
        assert_eq!(figures(), [1000, 0, 2]);
        let layer = progress.transfer("layer", Expected::Foreseen(1000));
        layer.expect(1000);
        layer.advance(400);
        assert_eq!(figures(), [1000, 400, 2]);
        layer.restart();
        assert_eq!(figures(), [1000, 0, 2]);
        let program = progress.transfer("program", Expected::Unknown);
        program.expect(500);
        program.resume(100);
        program.expect(500);
        assert_eq!(figures(), [1500, 100, 1]);
        progress.transfer("cached", Expected::Unknown).skip(7);
        assert_eq!(figures(), [1507, 107, 0]);
        // What is no transfer does not count.
        progress.task("packing", Some(9)).advance(9);
        assert_eq!(figures(), [1507, 107, 0]);
    }
}
