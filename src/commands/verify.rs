//! `kpot verify`

use std::path::Path;

use bundle_spec::Sha256;
use serde::Serialize;

use super::{lossy, print, print_json};
use crate::cli::Verify;
use crate::progress::Progress;
use crate::trust;

#[derive(Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "lossy")]
    pot: &'a Path,
    name: &'a str,
    identity: Sha256,
    signer: &'a str,
    principal: Option<&'a str>,
}

pub(super) fn run(command: &Verify) -> anyhow::Result<()> {
    let pot = trust::verified(&command.pot, &command.signers, &Progress::new())?;
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
