//! What a build made, in a table: of every part what it is, which version, how large, where from, how it was checked, and whether it had to be fetched.

use std::path::Path;

use bundle_spec::Manifest;
use serde::Serialize;

use super::build::how;
use crate::cache::Origin;
use crate::pack::Contents;
use crate::pack::output::Written;
use crate::progress::bytes;
use crate::table;

/// Where the bytes of a part came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Got {
    /// All from the network.
    Fetched,
    /// All from the cache.
    Cache,
    /// Some layers from the cache, some from the network.
    Both,
    /// A file of this machine.
    Here,
}

/// A part of a pot, as it was had.
#[derive(Serialize)]
pub(super) struct Part {
    name: String,
    version: String,
    /// As it is served, in bytes.
    size: u64,
    from: String,
    #[serde(skip)]
    host: String,
    checked: &'static str,
    got: Got,
}

impl Got {
    fn of(origins: impl Iterator<Item = Origin>) -> Self {
        let (mut cache, mut network) = (false, false);
        for origin in origins {
            match origin {
                Origin::Cache => cache = true,
                Origin::Network => network = true,
            }
        }
        match (cache, network) {
            (true, true) => Self::Both,
            (true, false) => Self::Cache,
            (false, _) => Self::Fetched,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Fetched => "network",
            Self::Cache => "cache",
            Self::Both => "cache, network",
            Self::Here => "this machine",
        }
    }
}

/// The parts of a pot.
pub(super) fn parts(contents: &Contents) -> Vec<Part> {
    let downloads = contents.downloads.iter().map(|download| Part {
        name: download.name.text().to_owned(),
        version: download.version.clone(),
        size: download.size,
        from: download.from.to_string(),
        host: download.from.host_str().unwrap_or_default().to_owned(),
        checked: how(download.checked, download.by_lock),
        got: Got::of(std::iter::once(download.origin)),
    });
    let images = contents.images.iter().map(|image| {
        let layers = image.layers.iter();
        let origins = layers.filter_map(|layer| contents.origins.get(&layer.digest).copied());
        Part {
            name: image.name.familiar(),
            version: image.id.hex()[..12].to_owned(),
            size: image.layers.iter().map(|layer| layer.size).sum(),
            from: image.from.to_string(),
            host: image.from.host_str().unwrap_or_default().to_owned(),
            checked: "digests of the manifest",
            got: Got::of(origins),
        }
    });
    let files = contents.files.iter().map(|file| Part {
        name: file.name.to_string(),
        version: file.version.clone(),
        size: file.size,
        from: file.from.clone(),
        host: file.from.clone(),
        checked: "given by you",
        got: file
            .origin
            .map_or(Got::Here, |origin| Got::of(std::iter::once(origin))),
    });
    downloads.chain(files).chain(images).collect()
}

/// The table, and what to do next.
pub(super) fn text(
    output: &Path,
    parts: &[Part],
    manifest: &Manifest,
    written: &Written,
    asked: &str,
    signer: Option<&str>,
) -> String {
    let row = |part: &Part| {
        vec![
            part.name.clone(),
            part.version.clone(),
            bytes(part.size),
            part.host.clone(),
            part.checked.to_owned(),
            part.got.text().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = parts.iter().map(row).collect();
    let table = table::layout(
        &["WHAT", "VERSION", "SIZE", "FROM", "CHECKED BY", "GOT FROM"],
        &rows,
    );
    let trust = match signer {
        Some(fingerprint) => format!(
            "signed by {fingerprint}\n\
             Next, on the backup machine, in a folder of its own: tar -xf {}, then ./kpot-install preflight",
            output.file_name().unwrap_or_default().display()
        ),
        None => "NOT SIGNED: it can be inspected, and never installed".to_owned(),
    };
    format!(
        "{table}\n{asked}\n{}: {}, {} blobs, pot digest {}\n{trust}\n",
        output.display(),
        bytes(written.size),
        manifest.blobs.len(),
        written.identity
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_from_where_its_layers_are() {
        let got = |origins: &[Origin]| Got::of(origins.iter().copied());
        assert_eq!(got(&[Origin::Cache, Origin::Cache]), Got::Cache);
        assert_eq!(got(&[Origin::Cache, Origin::Network]), Got::Both);
        assert_eq!(got(&[Origin::Network]), Got::Fetched);
        assert_eq!(got(&[]), Got::Fetched);
    }
}
