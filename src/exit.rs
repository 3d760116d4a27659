//! Exit codes, and the one place where an error becomes text.
//!
//! 0 done, 1 failed, 2 usage, 3 this host or cluster is not eligible, 4 the pot is not trusted: the same in both binaries. The builder changes no host, so it never
//! ends with 3. A build that a signal ended ends with 128 and the signal's number, as shells have it: 130 after Ctrl-C, 143 after SIGTERM.

use std::fmt;
use std::process::ExitCode;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All that was asked for was done.
    Done,
    /// Something failed.
    Failed,
    /// What was asked for makes no sense, or this kpot cannot do it; nothing was tried.
    Usage,
    /// The pot is not trusted: unsigned, changed, or signed by somebody else.
    Untrusted,
    /// A signal with this number ended it.
    Interrupted(u8),
}

impl Status {
    /// The status that stands for `error`.
    pub fn of(error: &anyhow::Error) -> Self {
        if error.downcast_ref::<UsageError>().is_some() {
            Self::Usage
        } else if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
            Self::Interrupted(u8::try_from(interrupted.signal).unwrap_or_default())
        } else if error
            .downcast_ref::<bundle_spec::Error>()
            .is_some_and(bundle_spec::Error::is_untrusted)
        {
            Self::Untrusted
        } else {
            Self::Failed
        }
    }

    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Untrusted => 4,
            Self::Interrupted(signal) => signal.saturating_add(128),
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

/// A request that is refused before anything is done.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Somebody asked for the end of the run.
#[derive(Debug, thiserror::Error)]
#[error(
    "stopped by a signal; no pot was written but those told above. Run the same command again: what is in the cache by now is not fetched again"
)]
pub struct Interrupted {
    /// The signal's number.
    pub signal: usize,
}

/// A [`UsageError`] as an error of any kind.
pub fn usage(text: impl Into<String>) -> anyhow::Error {
    UsageError(text.into()).into()
}

/// The error with its causes, once.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Some libraries repeat their cause in their own text.
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context as _, anyhow};

    #[test]
    fn each_kind_of_error_has_its_code() {
        assert_eq!(Status::of(&anyhow!("disk full")).code(), 1);
        assert_eq!(Status::of(&usage("no such option")).code(), 2);
        let untrusted =
            anyhow::Error::from(bundle_spec::Error::Unsigned).context("cannot verify x.pot");
        assert_eq!(Status::of(&untrusted).code(), 4);
        for (signal, code) in [(2, 130), (15, 143)] {
            let interrupted = anyhow::Error::from(Interrupted { signal });
            assert_eq!(Status::of(&interrupted).code(), code);
        }
    }

    #[test]
    fn a_cause_is_printed_once() {
        let error = Err::<(), _>(anyhow!("refused"))
            .context("cannot connect: refused")
            .context("cannot fetch x")
            .unwrap_err();
        assert_eq!(message(&error), "cannot fetch x: cannot connect: refused");
    }
}
