//! A pot is opened, for showing only; or becomes trusted: its signature and every byte of it are checked, while the user sees how far that has come. Every command
//! that takes content out of a pot begins here; there is no other way to it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use bundle_spec::{Trust, UnverifiedPot, VerifiedPot};

use crate::exit::usage;
use crate::progress::Progress;

/// The largest file of trusted signers, in bytes.
const SIGNERS_LIMIT: u64 = 1 << 20;

/// The pot in `path`, for which nobody has vouched yet.
///
/// # Errors
/// A usage error where nothing is there; otherwise where it cannot be read or is no pot.
pub fn opened(path: &Path) -> anyhow::Result<UnverifiedPot> {
    refuse_nothing(path)?;
    UnverifiedPot::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// The pot in `path`, signed by one of the keys in the file `signers`, every byte checked.
///
/// # Errors
/// A usage error where nothing is there; otherwise where the file of trusted signers cannot be used, or the pot is not what one of them signed.
pub fn verified(path: &Path, signers: &Path, progress: &Progress) -> anyhow::Result<VerifiedPot> {
    let trust = read_trust(signers)?;
    refuse_nothing(path)?;
    verify(path, &trust, progress).with_context(|| format!("cannot verify {}", path.display()))
}

/// A slip of the pen is told from a pot that is not trusted.
fn refuse_nothing(path: &Path) -> anyhow::Result<()> {
    match path.symlink_metadata() {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            Err(usage(format!("there is no pot at {}", path.display())))
        }
        _ => Ok(()),
    }
}

fn verify(
    path: &Path,
    trust: &Trust,
    progress: &Progress,
) -> Result<VerifiedPot, bundle_spec::Error> {
    let task = progress.task("checking", None);
    let pot = UnverifiedPot::open(path)?;
    let seen = AtomicU64::new(0);
    pot.verify(trust, &|state| {
        let before = seen.swap(state.done, Ordering::Relaxed);
        if before == 0 {
            task.expect(state.total);
        }
        task.advance(state.done.saturating_sub(before));
    })
}

fn read_trust(path: &Path) -> anyhow::Result<Trust> {
    let attempt = || format!("cannot read the trusted signers in {}", path.display());
    let file = File::open(path).with_context(attempt)?;
    let mut text = String::new();
    let count = file
        .take(SIGNERS_LIMIT + 1)
        .read_to_string(&mut text)
        .with_context(attempt)?;
    if count as u64 > SIGNERS_LIMIT {
        bail!("{} is larger than {SIGNERS_LIMIT} bytes", path.display());
    }
    Trust::from_allowed_signers(&text, SystemTime::now()).with_context(attempt)
}
