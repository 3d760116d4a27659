//! `kpot inspect`: what a pot says about itself. Nothing of it is checked, and the output says so.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bundle_spec::manifest::{Blob, Windows};
use bundle_spec::{Manifest, Sha256};
use serde::Serialize;

use super::{print, print_json, runtime, signed};
use crate::cli::Inspect;
use crate::progress::bytes;
use crate::{table, trust};

#[derive(Serialize)]
struct Report<'a> {
    verified: bool,
    signer: Option<&'a str>,
    identity: Sha256,
    manifest: &'a Manifest,
}

pub(super) fn run(command: &Inspect) -> anyhow::Result<()> {
    let pot = trust::opened(&command.pot)?;
    let signer = pot.signer_fingerprint();
    let report = Report {
        verified: false,
        signer: signer.as_deref(),
        identity: pot.identity(),
        manifest: pot.manifest_unverified(),
    };
    if command.json {
        return print_json(&report);
    }
    print(&text(&report))
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
        runtime(&manifest.runtime),
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
        let parts: Vec<Sha256> = image.layers.iter().copied().chain([image.config]).collect();
        let mut row = vec![image.names.join(" "), image.id.hex()[..12].to_owned()];
        row.extend(sizes(manifest, &parts));
        row.push(refers_to(manifest, &parts));
        rows.push(row);
    }
    text.push('\n');
    text.push_str(&table::layout(
        &["IMAGE", "ID", "STORED", "UNPACKED", against],
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
