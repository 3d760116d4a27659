//! `kpot sign`

use std::path::Path;

use anyhow::Context as _;
use bundle_spec::Sha256;
use serde::Serialize;

use super::build::signing_key;
use super::{lossy, print, print_json};
use crate::cli::Sign;
use crate::countersign::countersign;
use crate::pack::output;
use crate::progress::Progress;
use crate::trust;

#[derive(Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "lossy")]
    pot: &'a Path,
    size: u64,
    identity: Sha256,
    former_signer: &'a str,
    signer: String,
}

pub(super) fn run(command: &Sign) -> anyhow::Result<()> {
    let progress = Progress::new();
    let key = signing_key(command.sign_key.clone(), &progress)?;
    if let Some(output) = &command.output {
        output::folder(output)?;
    }
    let pot = trust::verified(&command.pot, &command.signers, &progress)?;
    let output = match &command.output {
        Some(output) => output.clone(),
        // Where POT is a link, what it leads to is replaced, and not the link.
        None => command
            .pot
            .canonicalize()
            .with_context(|| format!("cannot find {}", command.pot.display()))?,
    };
    let written = countersign(&pot, &key, &output)?;
    let report = Report {
        pot: &output,
        size: written.size,
        identity: written.identity,
        former_signer: &pot.signer().fingerprint,
        signer: key.fingerprint(),
    };
    if command.json {
        return print_json(&report);
    }
    let former = if report.signer == report.former_signer {
        "as before".to_owned()
    } else {
        format!("and no longer by {}", report.former_signer)
    };
    print(&format!(
        "{}: signed by {}, {former}\npot digest, as before: {}\n",
        output.display(),
        report.signer,
        report.identity
    ))
}
