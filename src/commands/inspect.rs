//! `kpot inspect`: what a pot says about itself. Nothing of it is checked, and the output says so.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bundle_spec::manifest::{Blob, Windows};
use bundle_spec::{Manifest, Sha256};
use serde::Serialize;

use super::{print, print_json, signed};
use crate::cli::Inspect;
use crate::progress::bytes;
use crate::uses::{self, Uses};
use crate::{table, trust};

#[derive(Serialize)]
struct Report<'a> {
    verified: bool,
    signer: Option<&'a str>,
    identity: Sha256,
    manifest: &'a Manifest,
    /// Blobs that more than one file or image uses.
    shared: Vec<Shared<'a>>,
}

#[derive(Serialize)]
struct Shared<'a> {
    blob: Sha256,
    users: &'a [String],
}

pub(super) fn run(command: &Inspect) -> anyhow::Result<()> {
    let pot = trust::opened(&command.pot)?;
    let signer = pot.signer_fingerprint();
    let manifest = pot.manifest_unverified();
    let uses = Uses::of(manifest);
    let shared = uses.shared();
    let report = Report {
        verified: false,
        signer: signer.as_deref(),
        identity: pot.identity(),
        manifest,
        shared: shared
            .map(|(blob, users)| Shared { blob: *blob, users })
            .collect(),
    };
    if command.json {
        return print_json(&report);
    }
    let text = text(&report);
    if command.tree {
        return print(&format!("{text}\n{}", tree(manifest, &uses)));
    }
    print(&text)
}

/// Every blob below what uses it.
fn tree(manifest: &Manifest, uses: &Uses) -> String {
    let mut rows = Vec::new();
    let head = |text: String| {
        vec![
            text,
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ]
    };
    let blob = |what: &str, own: &str, digest: Sha256| {
        let mut row = vec![format!("  {what}"), digest.hex()[..12].to_owned()];
        row.extend(sizes(manifest, &[digest]));
        let mut notes = Vec::new();
        let reference = refers_to(manifest, &[digest]);
        if !reference.is_empty() {
            notes.push(format!("refers to {reference}"));
        }
        let others: Vec<&str> = uses.others(&digest, own).collect();
        if !others.is_empty() {
            notes.push(format!("also in {}", others.join(", ")));
        }
        row.push(notes.join("; "));
        row
    };
    for artifact in &manifest.artifacts {
        rows.push(head(format!("{} {}", artifact.name, artifact.version)));
        for file in &artifact.files {
            let own = uses::file_label(&artifact.name, &file.name);
            rows.push(blob(&file.name, &own, file.blob));
        }
    }
    for image in &manifest.images {
        let own = uses::image_label(&image.names);
        rows.push(head(image.names.join(" ")));
        rows.push(blob("config", own, image.config));
        rows.extend(image.manifest.map(|it| blob("manifest", own, it)));
        rows.extend(image.layers.iter().map(|layer| blob("layer", own, *layer)));
    }
    table::layout(&["CONTENT", "BLOB", "STORED", "UNPACKED", ""], &rows)
}

fn text(report: &Report<'_>) -> String {
    let manifest = report.manifest;
    let signed = signed(report.signer);
    let stored: u64 = manifest.blobs.iter().map(|blob| blob.size).sum();
    let unpacked: u64 = manifest.blobs.iter().map(|blob| blob.unpacked_size).sum();
    let mut text = format!(
        "{} (format {}, serial {}, built by kpot {})\n{signed}\npot digest: {}\n\
         Kubernetes {}, {}, CNI plugins {}, for linux/{}\n\
         {} blobs, {} stored, {} unpacked\n{}{}\n",
        manifest.name,
        manifest.format,
        manifest.serial,
        manifest.built_by,
        report.identity,
        manifest.kubernetes,
        manifest.runtime,
        manifest.cni,
        manifest.arch,
        manifest.blobs.len(),
        bytes(stored),
        bytes(unpacked),
        referring(manifest),
        peculiar(manifest)
    );
    // A column that is empty all the way down, its head included, is not seen.
    let against = if manifest.references().is_empty() {
        ""
    } else {
        "REFERS TO"
    };
    let mut rows = Vec::new();
    for artifact in &manifest.artifacts {
        for file in &artifact.files {
            let mut row = vec![
                format!("{} {}", artifact.name, artifact.version),
                file.name.clone(),
            ];
            row.extend(sizes(manifest, &[file.blob]));
            row.push(refers_to(manifest, &[file.blob]));
            rows.push(row);
        }
    }
    text.push_str(&table::layout(
        &["ARTIFACT", "FILE", "STORED", "UNPACKED", against],
        &rows,
    ));
    let mut rows = Vec::new();
    for image in &manifest.images {
        let papers = [image.config].into_iter().chain(image.manifest);
        let parts: Vec<Sha256> = image.layers.iter().copied().chain(papers).collect();
        let mut row = vec![image.names.join(" "), image.id.hex()[..12].to_owned()];
        row.extend(sizes(manifest, &parts));
        let shared: Vec<Sha256> = parts
            .iter()
            .copied()
            .filter(|part| report.shared.iter().any(|shared| shared.blob == *part))
            .collect();
        row.push(sizes(manifest, &shared)[0].clone());
        row.push(refers_to(manifest, &parts));
        rows.push(row);
    }
    text.push('\n');
    text.push_str(&table::layout(
        &["IMAGE", "ID", "STORED", "UNPACKED", "SHARED", against],
        &rows,
    ));
    text
}

/// A line about the blobs that need another one to be unpacked, if there are any.
fn referring(manifest: &Manifest) -> String {
    let (count, stored, unpacked) = manifest
        .blobs
        .iter()
        .filter(|blob| blob.encoding.reference().is_some())
        .fold((0, 0, 0), |(count, stored, unpacked), blob| {
            (count + 1, stored + blob.size, unpacked + blob.unpacked_size)
        });
    if count == 0 {
        return String::new();
    }
    let references: Vec<Sha256> = manifest.references().into_iter().collect();
    let [kept, spread] = sizes(manifest, &references);
    format!(
        "references: {} ({kept} stored, {spread} unpacked), to which {count} blobs refer ({} stored, {} unpacked)\n",
        references.len(),
        bytes(stored),
        bytes(unpacked)
    )
}

/// Lines about what not every pot has: large windows, and layers that nobody compressed anew.
fn peculiar(manifest: &Manifest) -> String {
    let mut text = String::new();
    if manifest.windows == Windows::Large {
        text.push_str("large windows: reading takes up to 160 MiB of memory instead of 64 MiB\n");
    }
    let kept = manifest.images.iter().filter(|it| it.manifest.is_some());
    let kept = kept.count();
    if kept > 0 {
        let _ = writeln!(
            text,
            "layers of {kept} images are as their registries have them"
        );
    }
    text
}

/// The names of what the blobs refer to: files of artifacts, or digests where the reference is none.
fn refers_to(manifest: &Manifest, digests: &[Sha256]) -> String {
    let references: BTreeSet<Sha256> = digests
        .iter()
        .filter_map(|digest| manifest.blob(digest)?.encoding.reference())
        .collect();
    let name = |reference: &Sha256| {
        manifest
            .artifacts
            .iter()
            .flat_map(|artifact| &artifact.files)
            .find(|file| file.blob == *reference)
            .map_or_else(
                || reference.hex()[..12].to_owned(),
                |file| file.name.clone(),
            )
    };
    references.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn sizes(manifest: &Manifest, digests: &[Sha256]) -> [String; 2] {
    let blobs: Vec<&Blob> = digests
        .iter()
        .filter_map(|digest| manifest.blob(digest))
        .collect();
    [
        bytes(blobs.iter().map(|blob| blob.size).sum()),
        bytes(blobs.iter().map(|blob| blob.unpacked_size).sum()),
    ]
}
