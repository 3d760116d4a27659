//! `kpot verify`

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use bundle_spec::{Sha256, Trust, UnverifiedPot, VerifiedPot};
use serde::Serialize;

use super::{print, print_json};
use crate::cli::Verify;
use crate::progress::Progress;

/// The largest file of trusted signers, in bytes.
const SIGNERS_LIMIT: u64 = 1 << 20;

#[derive(Serialize)]
struct Report<'a> {
    pot: &'a Path,
    name: &'a str,
    identity: Sha256,
    signer: &'a str,
    principal: Option<&'a str>,
}

pub(super) fn run(command: &Verify) -> anyhow::Result<()> {
    let trust = read_trust(&command.signers)?;
    let pot = verify(&command.pot, &trust)
        .with_context(|| format!("cannot verify {}", command.pot.display()))?;
    let signer = pot.signer();
    let report = Report {
        pot: &command.pot,
        name: &pot.manifest().name,
        identity: pot.identity(),
        signer: &signer.fingerprint,
        principal: signer.principal.as_deref(),
    };
    if command.json {
        return print_json(&report);
    }
    let principal = report
        .principal
        .map_or(String::new(), |name| format!(" ({name})"));
    print(&format!(
        "{} is good: {}, every byte as signed by {}{principal}\npot digest: {}\n",
        command.pot.display(),
        report.name,
        report.signer,
        report.identity
    ))
}

fn verify(path: &Path, trust: &Trust) -> Result<VerifiedPot, bundle_spec::Error> {
    let progress = Progress::new();
    let task = progress.task("checking", None);
    let pot = UnverifiedPot::open(path)?;
    let seen = std::sync::atomic::AtomicU64::new(0);
    pot.verify(trust, &|state| {
        let before = seen.swap(state.done, std::sync::atomic::Ordering::Relaxed);
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
