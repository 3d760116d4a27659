//! `kpot versions`: the version data that this kpot ships, with their sources.

use std::fmt::Write as _;

use bundle_spec::KubeVersion;
use bundle_spec::manifest::Runtime;
use serde::Serialize;

use super::{print, print_json};
use crate::cli::ShowVersions;
use crate::releases::{Algorithm, Containerd, Patches, Pin, Range, Releases};
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
    /// The default one.
    runtime: Runtime,
    /// Its default version, where there are pots with it.
    docker: Option<&'a str>,
    /// Its default versions, where there are pots with it.
    containerd: Option<&'a Containerd>,
    cni: &'a str,
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
        runtime: Runtime {
            name: minor.runtime(),
            version: minor.runtime_version().to_owned(),
        },
        docker: minor.docker.as_deref(),
        containerd: minor.containerd.as_ref(),
        cni: &minor.cni,
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
            "DEFAULT",
            "DOCKER",
            "CONTAINERD",
            "RUNC",
            "CRICTL",
            "CNI",
            "PAUSE",
            "ETCD",
            "COREDNS",
            "REGISTRY",
            "NOT SEEN FOR",
        ],
        &rows,
    );
    text.push_str(
        "\nDEFAULT: the runtime of a pot for which no --runtime is given. A runtime without a version is refused for this Kubernetes.\n\
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
    let or_none = |version: Option<&String>| version.map_or("-", String::as_str).to_owned();
    let containerd = minor.containerd.as_ref();
    let unseen: Vec<String> = range.unseen.iter().map(Patches::text).collect();
    vec![
        range.patches.text(),
        minor.runtime().to_string(),
        or_none(minor.docker.as_ref()),
        or_none(containerd.map(|it| &it.version)),
        or_none(containerd.map(|it| &it.runc)),
        or_none(containerd.map(|it| &it.crictl)),
        minor.cni.clone(),
        minor.pause.clone(),
        tags.etcd.to_owned(),
        tags.coredns.to_owned(),
        tags.registry.to_owned(),
        unseen.join(", "),
    ]
}
