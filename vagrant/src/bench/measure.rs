//! Taking time and memory of commands.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::sh::{self, Sh};

/// No command here takes longer, even on a machine with other work.
const LIMIT: Duration = Duration::from_mins(30);

/// One run of a program.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// From its start to its end.
    pub time: Duration,
    /// The most memory that it had resident, in KiB.
    pub peak: u64,
}

/// Runs a command, which must end well, and takes its time. What others have left to be written to the disk is written
/// first: it would be this one's burden, and whose turn comes after whom would count.
pub fn time(command: Sh) -> Result<Duration> {
    Sh::new("sync").timeout(LIMIT).run()?;
    let command = command.log("bench.log").timeout(LIMIT);
    let begun = Instant::now();
    command.run()?;
    Ok(begun.elapsed())
}

/// Runs a program, which must end well and start no other, and takes its time and its peak memory. GNU time starts it: a
/// program that the lab started itself would begin with the lab's own peak. The note is a file for GNU time.
pub fn sample(note: &Path, program: &Path, arguments: impl FnOnce(Sh) -> Sh) -> Result<Sample> {
    sh::remove(note)?;
    let gnu_time = Sh::new("/usr/bin/time")
        .args(["--format=%M", "--output"])
        .arg(note);
    let time = time(arguments(gnu_time.arg(program)))?;
    let peak = sh::read_text(note)?;
    let peak = peak
        .trim()
        .parse()
        .with_context(|| format!("{peak:?} is not what GNU time was to write"))?;
    Ok(Sample { time, peak })
}

/// Several runs of the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// At least one time is wanted.
    pub fn of(mut times: Vec<Duration>) -> Result<Self> {
        times.sort_unstable();
        times.first().context("nothing was measured")?;
        Ok(Self(times))
    }

    /// The one in the middle; of an even number, the mean of the two.
    pub fn median(&self) -> Duration {
        let half = self.0.len() / 2;
        if self.0.len() % 2 == 1 {
            self.0[half]
        } else {
            (self.0[half - 1] + self.0[half]) / 2
        }
    }

    /// This median as a part of another one.
    pub fn ratio_to(&self, other: &Self) -> f64 {
        self.median().as_secs_f64() / other.median().as_secs_f64()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.0[0].as_secs_f64();
        let most = self.0[self.0.len() - 1].as_secs_f64();
        write!(
            out,
            "{:.2} s ({least:.2} to {most:.2})",
            self.median().as_secs_f64()
        )
    }
}

/// A file's size in bytes.
pub fn size(file: &Path) -> Result<u64> {
    let meta = sh::open(file)?.metadata();
    Ok(meta
        .with_context(|| format!("asking for the size of {}", file.display()))?
        .len())
}

/// Bytes as megabytes (10^6).
pub fn megabytes(bytes: u64) -> f64 {
    float(bytes) / 1e6
}

/// KiB as MiB.
pub fn mebibytes(kibibytes: u64) -> f64 {
    float(kibibytes) / 1024.0
}

/// For ratios: bytes of files and memory are far below what a f64 counts exactly.
#[allow(clippy::cast_precision_loss, reason = "sizes are below 2^53")]
pub fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = |seconds: &[u64]| {
            Spread::of(seconds.iter().map(|n| Duration::from_secs(*n)).collect()).expect("times")
        };
        assert_eq!(spread(&[9, 1, 2]).median(), Duration::from_secs(2));
        assert_eq!(spread(&[9, 1, 2, 3]).median(), Duration::from_millis(2500));
        assert_eq!(spread(&[3, 1]).to_string(), "2.00 s (1.00 to 3.00)");
        assert!((spread(&[1]).ratio_to(&spread(&[4])) - 0.25).abs() < 1e-9);
        assert!(Spread::of(Vec::new()).is_err());
    }
}
