//! `kpot diff`: what two pots say about themselves, compared. Nothing of it is checked, and the output says so.

use std::path::Path;

use bundle_spec::{Sha256, UnverifiedPot};
use serde::Serialize;

use super::{lossy, print, print_json, signed};
use crate::cli::Diff;
use crate::diff::{Change, Difference, Files, How, Side, Sum, diff};
use crate::progress::bytes;
use crate::{table, trust};

#[derive(Serialize)]
struct Report<'a> {
    verified: bool,
    from: Source<'a>,
    to: Source<'a>,
    #[serde(flatten)]
    difference: Difference<'a>,
}

#[derive(Serialize)]
struct Source<'a> {
    #[serde(serialize_with = "lossy")]
    pot: &'a Path,
    name: &'a str,
    serial: u64,
    built_by: &'a str,
    identity: Sha256,
    signer: Option<String>,
}

pub(super) fn run(command: &Diff) -> anyhow::Result<()> {
    let (older, newer) = (
        trust::opened(&command.older)?,
        trust::opened(&command.newer)?,
    );
    let report = Report {
        verified: false,
        from: source(&command.older, &older),
        to: source(&command.newer, &newer),
        difference: diff(older.manifest_unverified(), newer.manifest_unverified()),
    };
    if command.json {
        return print_json(&report);
    }
    print(&text(&report))
}

fn source<'a>(path: &'a Path, pot: &'a UnverifiedPot) -> Source<'a> {
    let manifest = pot.manifest_unverified();
    Source {
        pot: path,
        name: &manifest.name,
        serial: manifest.serial,
        built_by: &manifest.built_by,
        identity: pot.identity(),
        signer: pot.signer_fingerprint(),
    }
}

fn text(report: &Report<'_>) -> String {
    let Difference {
        versions,
        changes,
        blobs,
    } = &report.difference;
    let heads = [("A", &report.from), ("B", &report.to)].map(|(letter, pot)| {
        format!(
            "{letter}: {} (serial {}, built by kpot {}) in {}\n   {}\n   pot digest: {}\n",
            pot.name,
            pot.serial,
            pot.built_by,
            pot.pot.display(),
            signed(pot.signer.as_deref()),
            pot.identity
        )
    });
    let row = |what: &str, from: String, to: String| vec![what.to_owned(), from, to];
    let rows = [
        row(
            "Kubernetes",
            versions.kubernetes.from.to_string(),
            versions.kubernetes.to.to_string(),
        ),
        row(
            "runtime",
            versions.runtime.from.to_string(),
            versions.runtime.to.to_string(),
        ),
        row(
            "CNI plugins",
            versions.cni.from.to_owned(),
            versions.cni.to.to_owned(),
        ),
        row(
            "machine",
            format!("linux/{}", versions.arch.from),
            format!("linux/{}", versions.arch.to),
        ),
    ];
    let changes = if changes.is_empty() {
        "Both hold the same artifacts and images.\n".to_owned()
    } else {
        let rows: Vec<Vec<String>> = changes.iter().map(change).collect();
        let header = ["CHANGE", "WHAT", "A", "B", "FILES", "NEW BYTES"];
        table::layout(&header, &rows)
    };
    let repacked = match blobs.repacked.count {
        0 => String::new(),
        _ => format!(
            ", of which A has {}, packed in another way",
            sum(blobs.repacked)
        ),
    };
    format!(
        "{}\n{}\n{changes}\nnew in B:  {}{repacked}\nshared:    {}\nonly in A: {}\n",
        heads.concat(),
        table::layout(&["", "A", "B"], &rows),
        sum(blobs.new),
        sum(blobs.shared),
        sum(blobs.gone)
    )
}

fn change(change: &Change<'_>) -> Vec<String> {
    let how = match change.change {
        How::Added => "added",
        How::Removed => "removed",
        How::Changed => "changed",
    };
    // The same tag says nothing where the image behind it is another one.
    let moved = match (change.from, change.to) {
        (Some(from), Some(to)) => from.version == to.version,
        _ => false,
    };
    let cell = |side: Option<Side<'_>>| match side {
        None => "-".to_owned(),
        Some(Side {
            version,
            id: Some(id),
        }) if moved => format!("{version} ({})", &id.hex()[..12]),
        Some(Side { version, .. }) => version.to_owned(),
    };
    vec![
        how.to_owned(),
        change.name.to_owned(),
        cell(change.from),
        cell(change.to),
        change.files.as_ref().map(files).unwrap_or_default(),
        bytes(change.new_bytes),
    ]
}

fn files(files: &Files<'_>) -> String {
    let Files {
        added,
        removed,
        changed,
    } = files;
    [(changed, "changed"), (added, "added"), (removed, "removed")]
        .iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, how)| format!("{} {how}", names.len()))
        .collect::<Vec<_>>()
        .join(", ")
}

fn sum(sum: Sum) -> String {
    let blobs = if sum.count == 1 { "blob" } else { "blobs" };
    format!("{} {blobs}, {}", sum.count, bytes(sum.stored))
}
