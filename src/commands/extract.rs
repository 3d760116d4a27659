//! `kpot extract`: content of a pot for other hands than the installer's. It comes out of a verified pot, because there is no other way to it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bundle_spec::Sha256;
use serde::Serialize;

use super::{lossy, print, print_json};
use crate::cli::Extract;
use crate::extract::{Content, Item, refuse, select};
use crate::pack::output::{self, Existing};
use crate::pack::space;
use crate::progress::{Progress, bytes};
use crate::{table, trust};

#[derive(Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "lossy")]
    pot: &'a Path,
    name: &'a str,
    identity: Sha256,
    signer: &'a str,
    files: Vec<Extracted<'a>>,
}

#[derive(Serialize)]
struct Extracted<'a> {
    name: &'a str,
    #[serde(serialize_with = "lossy")]
    file: PathBuf,
    size: u64,
    /// The file's digest, of a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Sha256>,
    /// The image's ID, of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Sha256>,
}

pub(super) fn run(command: &Extract) -> anyhow::Result<()> {
    let progress = Progress::new();
    let pot = trust::verified(&command.pot, &command.signers, &progress)?;
    let existing = if command.force {
        Existing::Replaced
    } else {
        Existing::Kept
    };
    let folder = &command.to;
    let items = select(pot.manifest(), &command.names)?;
    refuse(&items, folder, existing)?;
    output::make_folder(folder)?;
    let opened = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    space::ensure(&opened, items.iter().map(Item::size).sum())
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("cannot extract to {}", folder.display()))?;

    let mut files = Vec::new();
    for item in &items {
        let file = folder.join(&item.place);
        if let Some(above) = file.parent().filter(|above| above != folder) {
            output::make_folder(above)?;
        }
        let task = progress.task(&item.name, Some(item.size()));
        let write = |out: &mut dyn std::io::Write| item.write(&pot, out, &task);
        let ((), size) = output::put(&file, item.mode(), existing, item.size(), write)?;
        task.finish(&format!("extracted ({})", bytes(size)));
        let (digest, id) = match &item.content {
            Content::Program(blob) | Content::Extra(blob) => (Some(blob.unpacked_digest), None),
            Content::Image(image, _) => (None, Some(image.id)),
        };
        files.push(Extracted {
            name: &item.name,
            file,
            size,
            digest,
            id,
        });
    }
    let report = Report {
        pot: &command.pot,
        name: &pot.manifest().name,
        identity: pot.identity(),
        signer: &pot.signer().fingerprint,
        files,
    };
    if command.json {
        return print_json(&report);
    }
    print(&text(&report))
}

fn text(report: &Report<'_>) -> String {
    let rows: Vec<Vec<String>> = report
        .files
        .iter()
        .map(|file| {
            vec![
                file.name.to_owned(),
                bytes(file.size),
                file.file.display().to_string(),
            ]
        })
        .collect();
    format!(
        "{}\nout of {}, every byte as signed by {}\n",
        table::layout(&["WHAT", "SIZE", "FILE"], &rows),
        report.name,
        report.signer
    )
}
