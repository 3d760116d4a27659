//! `kpot versions`: the version data that this kpot ships, with their sources.

use std::fmt::Write as _;

use bundle_spec::KubeVersion;
use bundle_spec::manifest::RuntimeName;
use serde::Serialize;

use super::{print, print_json};
use crate::cli::ShowVersions;
use crate::releases::{Algorithm, Patches, Pin, Range, Releases, Runtime};
use crate::table;

#[derive(Serialize)]
struct Report<'a> {
    kubernetes: Vec<Row<'a>>,
    pins: &'a [Pin],
    sources: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    first: KubeVersion,
    /// None where the row holds for every later patch.
    last: Option<KubeVersion>,
    runtime: &'a Runtime,
    cni: &'a str,
    crictl: Option<&'a str>,
    checksum: Algorithm,
    registry: &'a str,
    pause: &'a str,
    etcd: &'a str,
    coredns: &'a str,
    coredns_repository: &'a str,
    /// Patches whose tags of etcd and CoreDNS were not seen for exactly them.
    unseen: &'a [Patches],
}

pub(super) fn run(command: &ShowVersions) -> anyhow::Result<()> {
    let releases = Releases::shipped().map_err(anyhow::Error::msg)?;
    let ranges = releases.ranges();
    if command.json {
        return print_json(&Report {
            kubernetes: ranges.iter().map(row).collect(),
            pins: releases.pins(),
            sources: releases.notes(),
        });
    }
    print(&text(&releases, &ranges))
}

fn row<'a>(range: &'a Range<'a>) -> Row<'a> {
    let (minor, tags) = (range.minor, &range.tags);
    Row {
        first: range.patches.first,
        last: range.patches.last,
        runtime: &minor.runtime,
        cni: &minor.cni,
        crictl: minor.crictl.as_deref(),
        checksum: minor.checksum,
        registry: tags.registry,
        pause: &minor.pause,
        etcd: tags.etcd,
        coredns: tags.coredns,
        coredns_repository: &minor.coredns_repository,
        unseen: &range.unseen,
    }
}

fn text(releases: &Releases, ranges: &[Range<'_>]) -> String {
    let rows: Vec<Vec<String>> = ranges.iter().map(cells).collect();
    let mut text = table::layout(
        &[
            "KUBERNETES",
            "RUNTIME",
            "CNI",
            "CRICTL",
            "PAUSE",
            "ETCD",
            "COREDNS",
            "REGISTRY",
            "NOT SEEN FOR",
        ],
        &rows,
    );
    text.push_str(
        "\nA runtime or crictl without a version is not packed by this kpot; kpot build refuses a Kubernetes that needs such a runtime.\n\
         NOT SEEN FOR: patches whose exact tags of etcd and CoreDNS were not seen; kpot build warns of them.\n\
         \nDigests that kpot ships, for downloads whose publisher publishes none:\n",
    );
    // Writing to a String cannot fail.
    for pin in releases.pins() {
        let _ = writeln!(
            text,
            "{} {} for {}: sha256:{}",
            pin.artifact, pin.version, pin.arch, pin.sha256
        );
        for source in &pin.sources {
            let _ = writeln!(text, "  {source}");
        }
    }
    text.push_str("\nSources:\n");
    for note in releases.notes() {
        let _ = writeln!(text, "- {note}");
    }
    text
}

fn cells(range: &Range<'_>) -> Vec<String> {
    let (minor, tags) = (range.minor, &range.tags);
    let runtime = match minor.runtime.name {
        RuntimeName::Docker => "docker",
        RuntimeName::Containerd => "containerd",
    };
    let none = || "-".to_owned();
    let unseen: Vec<String> = range.unseen.iter().map(Patches::text).collect();
    vec![
        range.patches.text(),
        format!(
            "{runtime} {}",
            minor.runtime.version.as_deref().unwrap_or("-")
        ),
        minor.cni.clone(),
        minor.crictl.clone().unwrap_or_else(none),
        minor.pause.clone(),
        tags.etcd.to_owned(),
        tags.coredns.to_owned(),
        tags.registry.to_owned(),
        unseen.join(", "),
    ]
}
