//! What was fetched and packed, and the manifest of a pot with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use anyhow::{Context as _, anyhow};
use bundle_spec::manifest::{
    Artifact, ArtifactFile, Blob, Checked, Encoding, FORMAT, Image, Manifest, Windows,
};
use bundle_spec::{Sha256, limits};
use reqwest::Url;

use super::blobs::Blobs;
use super::extras::FetchedExtra;
use super::spool::Spool;
use super::{BESIDE, Layers};
use crate::cache::Origin;
use crate::fetch::registry::RemoteImage;
use crate::plan::{ArtifactName, Plan};

/// What was fetched and packed, ready for a manifest.
pub struct Contents {
    /// Downloads in the plan's order.
    pub downloads: Vec<FetchedDownload>,
    /// Files, in the plan's order.
    pub files: Vec<FetchedExtra>,
    /// Images, sorted by name.
    pub images: Vec<RemoteImage>,
    /// Where each layer came from, by its digest in the registry.
    pub origins: BTreeMap<Sha256, Origin>,
    pub(super) blobs: Blobs,
    pub(super) layers: Layers,
    pub(super) windows: Windows,
}

/// A download that was fetched, checked and taken apart.
pub struct FetchedDownload {
    /// What it is.
    pub name: ArtifactName,
    /// Its version.
    pub version: String,
    /// Its publisher's address.
    pub url: String,
    /// Where it really came from; where it was in the cache, where it would have come from.
    pub from: Url,
    /// Whether it was fetched in this run.
    pub origin: Origin,
    /// Its digest as it came.
    pub digest: Sha256,
    /// Its size as it came, in bytes.
    pub size: u64,
    /// How it was checked, in this run or when a lock pinned it.
    pub checked: Checked,
    /// Whether in this run a lock alone said what it must be.
    pub by_lock: bool,
    pub(super) files: Vec<(String, Sha256)>,
}

impl Contents {
    /// The bytes of a download that is one program, as they were checked; `None` where they are not packed on their own.
    ///
    /// # Errors
    /// Where what was packed cannot be read again.
    pub fn program(
        &self,
        name: ArtifactName,
        spool: &Spool,
    ) -> anyhow::Result<Option<Box<dyn Read + Send>>> {
        let mut downloads = self.downloads.iter();
        let Some(download) = downloads.find(|download| download.name == name) else {
            return Ok(None);
        };
        let [(_, unpacked)] = &download.files[..] else {
            return Ok(None);
        };
        let blob = self.blobs.describe(unpacked)?;
        let stored = spool.stored(&blob.digest).context(BESIDE)?;
        Ok(match blob.encoding {
            Encoding::Zstd => {
                let mut decoder = zstd::Decoder::new(stored)?;
                decoder.window_log_max(self.windows.log())?;
                Some(Box::new(decoder))
            }
            _ => None,
        })
    }

    /// The manifest of a pot with these contents.
    ///
    /// # Errors
    /// Where something is missing that the contents refer to, which `gather` does not leave behind.
    pub fn manifest(&self, plan: &Plan, serial: u64) -> anyhow::Result<Manifest> {
        let mut used = BTreeMap::new();
        let mut take = |blob: Blob| {
            let digest = blob.digest;
            // Behind two references the same bytes can be two contents.
            if used
                .insert(digest, blob.clone())
                .is_some_and(|other| other != blob)
            {
                return Err(anyhow!("the blob {digest} would have two meanings"));
            }
            Ok(digest)
        };
        let mut artifacts = Vec::new();
        for download in &self.downloads {
            let mut files = Vec::new();
            for (name, unpacked) in &download.files {
                files.push(ArtifactFile {
                    name: name.clone(),
                    blob: take(self.blobs.describe(unpacked)?)?,
                });
            }
            files.sort_by(|one, other| one.name.cmp(&other.name));
            artifacts.push(Artifact {
                name: download.name.text().to_owned(),
                version: download.version.clone(),
                source: download.url.clone(),
                download: download.digest,
                checked: download.checked,
                files,
            });
        }
        for file in &self.files {
            artifacts.push(Artifact {
                name: file.name.to_string(),
                version: file.version.clone(),
                source: file.source.clone(),
                download: file.digest,
                checked: Checked::GivenPin,
                files: vec![ArtifactFile {
                    name: file.name.file().to_owned(),
                    blob: take(self.blobs.describe(&file.digest)?)?,
                }],
            });
        }
        artifacts.sort_by(|one, other| one.name.cmp(&other.name));

        // Two names of one image are one image. Where manifests are kept, one image is what has one manifest: whoever pushes it again needs the very one that was pinned.
        let mut alike: BTreeMap<_, (BTreeSet<String>, &RemoteImage)> = BTreeMap::new();
        for image in &self.images {
            let manifest = match self.layers {
                Layers::Repacked => None,
                Layers::Verbatim => Some(image.digest),
            };
            alike
                .entry((image.id, manifest))
                .or_insert_with(|| (BTreeSet::new(), image))
                .0
                .insert(image.name.familiar());
        }
        let mut images = Vec::new();
        for ((_, manifest), (names, image)) in alike {
            let layers = image.layers.iter().map(|layer| {
                take(match self.layers {
                    Layers::Repacked => self.blobs.describe(&layer.diff_id)?,
                    Layers::Verbatim => self.blobs.describe_kept(&layer.digest)?,
                })
            });
            let layers = layers.collect::<anyhow::Result<_>>()?;
            let manifest = manifest
                .map(|digest| take(self.blobs.describe(&digest)?))
                .transpose()?;
            images.push(Image {
                names: names.into_iter().collect(),
                id: image.id,
                config: take(self.blobs.describe(&image.id)?)?,
                layers,
                manifest,
            });
        }
        images.sort_by(|one, other| one.names.cmp(&other.names));
        if used.len() > limits::BLOBS {
            return Err(anyhow!(
                "a pot holds {} blobs at most, not {}",
                limits::BLOBS,
                used.len()
            ));
        }
        Ok(Manifest {
            format: FORMAT,
            name: plan.name().to_owned(),
            serial,
            kubernetes: plan.kubernetes,
            arch: plan.arch,
            runtime: plan.runtime.clone(),
            cni: plan.cni.clone(),
            built_by: env!("CARGO_PKG_VERSION").to_owned(),
            windows: self.windows,
            artifacts,
            images,
            blobs: used.into_values().collect(),
        })
    }
}
