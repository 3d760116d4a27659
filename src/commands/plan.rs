//! `kpot build --plan`: what a build would fetch. Nothing is written, and no key is needed.

use std::fmt::Write as _;

use bundle_spec::manifest::{Checked, Runtime};
use bundle_spec::{Arch, KubeVersion, Sha256};
use serde::Serialize;
use serde_json::Value;

use super::build::how;
use super::prepare::Desk;
use super::print;
use crate::cache::shelf::Shelf;
use crate::extra::Place;
use crate::fetch::marker::Resolved;
use crate::fetch::registry::Described;
use crate::lock::Target;
use crate::plan::{Check, Plan};
use crate::progress::bytes;
use crate::released;
use crate::survey::{Survey, survey};
use crate::table;

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    kubernetes: KubeVersion,
    /// Where a marker named the version.
    resolved: Option<Marker<'a>>,
    arch: Arch,
    runtime: &'a Runtime,
    cni: &'a str,
    downloads: Vec<Download<'a>>,
    /// What is carried besides.
    files: Vec<File<'a>>,
    images: Vec<Image<'a>>,
    /// In bytes, as far as it is known; what images share once.
    size: u64,
    /// How many of them are in the cache.
    cached: u64,
    /// How many sizes are not in `size`.
    unknown: usize,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Marker<'a> {
    marker: String,
    from: &'a str,
}

#[derive(Serialize)]
struct Download<'a> {
    name: &'static str,
    version: &'a str,
    url: &'a str,
    from: &'a str,
    checked: Checked,
    /// Whether a lock stands for its publisher.
    by_lock: bool,
    /// The publisher's checksum, where that is what counts.
    checksum: Option<&'a str>,
    /// The digest, where it is known already.
    digest: Option<Sha256>,
    size: Option<u64>,
    /// How many of its bytes are in the cache.
    cached: u64,
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct File<'a> {
    name: String,
    version: &'a str,
    from: &'a str,
    digest: Option<Sha256>,
    size: Option<u64>,
    cached: u64,
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct Image<'a> {
    name: String,
    from: &'a str,
    /// Of the manifest for the pot's architecture.
    digest: Option<Sha256>,
    size: Option<u64>,
    cached: u64,
    problem: Option<&'a str>,
}

pub(super) fn run(
    plan: &Plan,
    vouching: Option<&Target>,
    resolved: Option<&Resolved>,
    desk: &Desk,
    shelf: &Shelf,
    json: bool,
) -> anyhow::Result<Option<Value>> {
    let progress = &desk.progress;
    let survey = survey(plan, &desk.client, &desk.stop, progress)?;
    let mut report = report(plan, vouching, resolved, &survey, shelf);
    report.warnings.extend(unreleased(plan, &survey, desk));
    for warning in &report.warnings {
        progress.line(&format!("warning: {warning}"));
    }
    if json {
        return Ok(Some(serde_json::to_value(&report)?));
    }
    print(&text(&report))?;
    Ok(None)
}

/// A word on a version of which nothing is to be had, where the release server knows an older one as the newest.
fn unreleased(plan: &Plan, survey: &Survey, desk: &Desk) -> Option<String> {
    let version = plan.kubernetes.to_string();
    let programs = plan.downloads.iter().zip(&survey.downloads);
    let mut own = programs.filter(|(download, _)| download.version == version);
    if own.any(|(_, told)| told.answer.is_ok()) {
        return None;
    }
    // Nothing depends on it: where the server does not tell, the table says what is unknown.
    released::newest(plan.kubernetes, &desk.client, &desk.progress).unwrap_or(None)
}

fn report<'a>(
    plan: &'a Plan,
    vouching: Option<&Target>,
    resolved: Option<&'a Resolved>,
    survey: &'a Survey,
    shelf: &Shelf,
) -> Report<'a> {
    let total = survey.total();
    let lies = |(digest, size): &&(Sha256, u64)| shelf.size(digest) == Some(*size);
    let downloads = plan.downloads.iter().zip(&survey.downloads);
    let files = plan.files.iter().zip(&survey.files);
    let images = plan.images.iter().zip(&survey.images);
    let mut report = Report {
        name: plan.name(),
        kubernetes: plan.kubernetes,
        resolved: resolved.map(|resolved| Marker {
            marker: resolved.marker.to_string(),
            from: resolved.from.as_str(),
        }),
        arch: plan.arch,
        runtime: &plan.runtime,
        cni: &plan.cni,
        downloads: downloads
            .map(|(download, told)| {
                let pinned = vouching.and_then(|lock| lock.stands_for(download));
                let digest = download.check.digest().or(pinned.map(|it| it.digest));
                Download {
                    name: download.name.text(),
                    version: &download.version,
                    url: &download.url,
                    from: told.from.as_str(),
                    checked: download.check.checked(),
                    by_lock: pinned.is_some(),
                    checksum: match &download.check {
                        Check::Published { url, .. } if pinned.is_none() => Some(url),
                        Check::Published { .. } | Check::Shipped(_) | Check::Given(_) => None,
                    },
                    digest,
                    size: told.answer.as_ref().ok().copied(),
                    cached: match (digest, &told.answer) {
                        (Some(digest), _) => shelf.size(&digest).unwrap_or(0),
                        (None, Ok(size)) if shelf.has(&download.label(), *size) => *size,
                        (None, _) => 0,
                    },
                    problem: told.answer.as_ref().err().map(String::as_str),
                }
            })
            .collect(),
        files: files
            .map(|(file, told)| File {
                name: file.name.to_string(),
                version: &file.version,
                from: told.from.as_str(),
                digest: file.digest(),
                size: told.answer.as_ref().ok().copied(),
                cached: match file.place {
                    Place::At(_, digest) => shelf.size(&digest).unwrap_or(0),
                    Place::Here(..) => 0,
                },
                problem: told.answer.as_ref().err().map(String::as_str),
            })
            .collect(),
        images: images
            .map(|(name, told)| Image {
                name: name.familiar(),
                from: told.from.as_str(),
                digest: told.answer.as_ref().ok().map(|image| image.digest),
                size: told.answer.as_ref().ok().map(Described::size),
                cached: told.answer.as_ref().map_or(0, |image| {
                    image.blobs.iter().filter(lies).map(|blob| blob.1).sum()
                }),
                problem: told.answer.as_ref().err().map(String::as_str),
            })
            .collect(),
        size: total.bytes,
        cached: 0,
        unknown: total.unknown,
        warnings: plan.warnings.clone(),
    };
    let mut blobs: Vec<_> = survey
        .images
        .iter()
        .filter_map(|told| told.answer.as_ref().ok())
        .flat_map(|image| image.blobs.iter().filter(lies))
        .collect();
    blobs.sort_unstable();
    blobs.dedup();
    let parts = report.downloads.iter().map(|it| it.cached);
    report.cached = parts
        .chain(report.files.iter().map(|it| it.cached))
        .chain(blobs.iter().map(|blob| blob.1))
        .sum();
    report
}

fn text(report: &Report<'_>) -> String {
    let size = |size: Option<u64>| size.map_or_else(|| "unknown".to_owned(), bytes);
    let mut rows = Vec::new();
    for download in &report.downloads {
        rows.push(vec![
            download.name.to_owned(),
            download.version.to_owned(),
            size(download.size),
            how(download.checked, download.by_lock).to_owned(),
            whence(download.from, download.size, download.cached),
        ]);
    }
    for file in &report.files {
        rows.push(vec![
            file.name.clone(),
            file.version.to_owned(),
            size(file.size),
            "given by you".to_owned(),
            whence(file.from, file.size, file.cached),
        ]);
    }
    for image in &report.images {
        rows.push(vec![
            image.name.clone(),
            // The tag is in the name, and a digest here would be taken for the image ID that a build shows.
            String::new(),
            size(image.size),
            "digests of the manifest".to_owned(),
            whence(image.from, image.size, image.cached),
        ]);
    }
    let mut text = table::layout(&["WHAT", "VERSION", "SIZE", "CHECKED BY", "FROM"], &rows);
    let problems = report
        .downloads
        .iter()
        .filter_map(|download| download.problem)
        .chain(report.files.iter().filter_map(|file| file.problem))
        .chain(report.images.iter().filter_map(|image| image.problem));
    for problem in problems {
        // Writing to a String cannot fail.
        let _ = write!(text, "\nunknown: {problem}");
    }
    let but = match report.unknown {
        0 => String::new(),
        1 => ", and 1 whose size is unknown".to_owned(),
        count => format!(", and {count} whose sizes are unknown"),
    };
    let cached = match report.cached {
        0 => String::new(),
        cached => format!(", {} in the cache", bytes(cached)),
    };
    let files = match report.files.len() {
        0 => String::new(),
        count => format!(", {count} to carry besides"),
    };
    let _ = writeln!(
        text,
        "\n{}: {} downloads and {} images{files}, {} to fetch{cached}{but}; what images share is fetched once\n\
         Nothing of it was fetched, and nothing was written.",
        report.name,
        report.downloads.len(),
        report.images.len(),
        bytes(report.size.saturating_sub(report.cached))
    );
    text
}

/// Where something comes from: the cache, or `from`, or some of it from each.
fn whence(from: &str, size: Option<u64>, cached: u64) -> String {
    match cached {
        0 => from.to_owned(),
        cached if size.is_none_or(|size| size == cached) => "in the cache".to_owned(),
        cached => format!("{from}, {} of it in the cache", bytes(cached)),
    }
}
