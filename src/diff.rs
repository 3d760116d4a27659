//! What one pot brings that another has not, from their manifests alone: a pure function.
//!
//! Artifacts are told apart by their names and compared by their versions and the unpacked bytes of their files; how they were fetched and checked is not compared.
//! Images are compared by ID, name by name; where a repository has one tag here and another one there, that is one change. Blobs are compared by their stored
//! bytes, because those are what has to be carried. Everything stands in the order of names.

use std::collections::{BTreeMap, BTreeSet};

use bundle_spec::manifest::{Artifact, Blob, Image, Runtime};
use bundle_spec::{Arch, KubeVersion, Manifest, Sha256};
use serde::Serialize;

/// How a newer pot differs from an older one.
#[derive(Debug, Serialize)]
pub struct Difference<'m> {
    /// The versions of both.
    pub versions: Versions<'m>,
    /// What was added, removed or changed: artifacts, then images, each by name.
    pub changes: Vec<Change<'m>>,
    /// The blobs of both.
    pub blobs: Blobs,
}

/// The same of both pots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Both<T> {
    /// The older one's.
    pub from: T,
    /// The newer one's.
    pub to: T,
}

/// What the pots say that they are for.
#[derive(Debug, Serialize)]
pub struct Versions<'m> {
    /// Kubernetes.
    pub kubernetes: Both<KubeVersion>,
    /// The machine.
    pub arch: Both<Arch>,
    /// The container runtime.
    pub runtime: Both<&'m Runtime>,
    /// The CNI plugins.
    pub cni: Both<&'m str>,
}

/// What happened to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Only the newer pot has it.
    Added,
    /// Only the older pot has it.
    Removed,
    /// Both have it, and not the same.
    Changed,
}

/// What it happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A download, unpacked.
    Artifact,
    /// A container image.
    Image,
}

/// Something that was added, removed or changed.
#[derive(Debug, Serialize)]
pub struct Change<'m> {
    /// What happened.
    pub change: How,
    /// To what.
    pub kind: What,
    /// The artifact's name, or the image's without its tag.
    pub name: &'m str,
    /// In the older pot.
    pub from: Option<Side<'m>>,
    /// In the newer pot.
    pub to: Option<Side<'m>>,
    /// An artifact's files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Files<'m>>,
    /// Stored bytes of its blobs that the older pot lacks.
    pub new_bytes: u64,
}

/// Something in one of the pots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Side<'m> {
    /// The artifact's version, or the image's tag.
    pub version: &'m str,
    /// The image's ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Sha256>,
}

/// What became of an artifact's files; each list in the order of names.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Files<'m> {
    /// Only the newer pot has them.
    pub added: Vec<&'m str>,
    /// Only the older pot has them.
    pub removed: Vec<&'m str>,
    /// They unpack to other bytes.
    pub changed: Vec<&'m str>,
}

/// How many blobs, and their stored bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Their number.
    pub count: usize,
    /// Their bytes as they are stored.
    pub stored: u64,
}

/// Which blobs of the pots are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Blobs {
    /// Only the newer pot has them.
    pub new: Sum,
    /// Those among the new ones that unpack to something that the older pot has, too, packed in another way.
    pub repacked: Sum,
    /// Both have them.
    pub shared: Sum,
    /// Only the older pot has them.
    pub gone: Sum,
}

/// What `newer` brings that `older` has not.
pub fn diff<'m>(older: &'m Manifest, newer: &'m Manifest) -> Difference<'m> {
    let mut changes = artifacts(older, newer);
    changes.extend(images(older, newer));
    Difference {
        versions: Versions {
            kubernetes: Both {
                from: older.kubernetes,
                to: newer.kubernetes,
            },
            arch: Both {
                from: older.arch,
                to: newer.arch,
            },
            runtime: Both {
                from: &older.runtime,
                to: &newer.runtime,
            },
            cni: Both {
                from: &older.cni,
                to: &newer.cni,
            },
        },
        changes,
        blobs: blobs(older, newer),
    }
}

fn artifacts<'m>(older: &'m Manifest, newer: &'m Manifest) -> Vec<Change<'m>> {
    let by_name = |manifest: &'m Manifest| -> BTreeMap<&'m str, &'m Artifact> {
        let named = |artifact: &'m Artifact| (artifact.name.as_str(), artifact);
        manifest.artifacts.iter().map(named).collect()
    };
    let (before, after) = (by_name(older), by_name(newer));
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    let change = |name: &&'m str| {
        let (from, to) = (before.get(name).copied(), after.get(name).copied());
        let files = files(&contents(older, from), &contents(newer, to));
        let side = |artifact: &'m Artifact| Side {
            version: &artifact.version,
            id: None,
        };
        let (from, new_bytes) = (
            from.map(side),
            to.map_or(0, |artifact| {
                new_bytes(older, newer, artifact.files.iter().map(|file| file.blob))
            }),
        );
        let to = to.map(side);
        (from != to || files != Files::default()).then(|| Change {
            change: how(from.is_some(), to.is_some()),
            kind: What::Artifact,
            name,
            from,
            to,
            files: Some(files),
            new_bytes,
        })
    };
    names.iter().filter_map(change).collect()
}

/// The files of an artifact and what they unpack to.
fn contents<'m>(
    manifest: &'m Manifest,
    artifact: Option<&'m Artifact>,
) -> BTreeMap<&'m str, Option<Sha256>> {
    let files = artifact.map_or(&[][..], |artifact| &artifact.files);
    files
        .iter()
        .map(|file| {
            let blob = manifest.blob(&file.blob);
            (file.name.as_str(), blob.map(|blob| blob.unpacked_digest))
        })
        .collect()
}

fn files<'m>(
    before: &BTreeMap<&'m str, Option<Sha256>>,
    after: &BTreeMap<&'m str, Option<Sha256>>,
) -> Files<'m> {
    let only = |these: &BTreeMap<&'m str, _>, those: &BTreeMap<&'m str, _>| {
        these
            .keys()
            .filter(|name| !those.contains_key(*name))
            .copied()
            .collect()
    };
    Files {
        added: only(after, before),
        removed: only(before, after),
        changed: after
            .iter()
            .filter(|(name, content)| before.get(*name).is_some_and(|old| old != *content))
            .map(|(name, _)| *name)
            .collect(),
    }
}

/// The images of a pot: repository, tag, image.
type Tags<'m> = BTreeMap<&'m str, BTreeMap<&'m str, &'m Image>>;

fn images<'m>(older: &'m Manifest, newer: &'m Manifest) -> Vec<Change<'m>> {
    let (before, after) = (tags(older), tags(newer));
    let repositories: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    let none = BTreeMap::new();
    let mut changes = Vec::new();
    for repository in repositories {
        let (before, after) = (
            before.get(repository).unwrap_or(&none),
            after.get(repository).unwrap_or(&none),
        );
        let mut change = |from: Option<Side<'m>>, to: Option<(&'m str, &'m Image)>| {
            changes.push(Change {
                change: how(from.is_some(), to.is_some()),
                kind: What::Image,
                name: repository,
                from,
                to: to.map(|(tag, image)| side(tag, image)),
                files: None,
                new_bytes: to.map_or(0, |(_, image)| {
                    let papers = [&image.config].into_iter().chain(&image.manifest);
                    let parts = image.layers.iter().chain(papers);
                    new_bytes(older, newer, parts.copied())
                }),
            });
        };
        let only = |these: &BTreeMap<&'m str, &'m Image>, those: &BTreeMap<&'m str, &'m Image>| {
            these
                .iter()
                .filter(|(tag, _)| !those.contains_key(*tag))
                .map(|(tag, image)| (*tag, *image))
                .collect::<Vec<_>>()
        };
        let (removed, added) = (only(before, after), only(after, before));
        for (tag, image) in after {
            if let Some(old) = before.get(tag).filter(|old| old.id != image.id) {
                change(Some(side(tag, old)), Some((tag, image)));
            }
        }
        if let ([(tag, image)], [to]) = (&removed[..], &added[..]) {
            change(Some(side(tag, image)), Some(*to));
            continue;
        }
        for (tag, image) in removed {
            change(Some(side(tag, image)), None);
        }
        for to in added {
            change(None, Some(to));
        }
    }
    changes
}

fn tags(manifest: &Manifest) -> Tags<'_> {
    let mut tags = Tags::new();
    for image in &manifest.images {
        // Every name in a manifest ends in a tag.
        for (repository, tag) in image.names.iter().filter_map(|name| name.rsplit_once(':')) {
            tags.entry(repository).or_default().insert(tag, image);
        }
    }
    tags
}

fn side<'m>(tag: &'m str, image: &Image) -> Side<'m> {
    Side {
        version: tag,
        id: Some(image.id),
    }
}

const fn how(before: bool, after: bool) -> How {
    match (before, after) {
        (false, _) => How::Added,
        (true, false) => How::Removed,
        (true, true) => How::Changed,
    }
}

fn blobs(older: &Manifest, newer: &Manifest) -> Blobs {
    let contents: BTreeSet<Sha256> = older
        .blobs
        .iter()
        .map(|blob| blob.unpacked_digest)
        .collect();
    let mut blobs = Blobs::default();
    for blob in &newer.blobs {
        if older.blob(&blob.digest).is_some() {
            blobs.shared.add(blob);
            continue;
        }
        blobs.new.add(blob);
        if contents.contains(&blob.unpacked_digest) {
            blobs.repacked.add(blob);
        }
    }
    for blob in &older.blobs {
        if newer.blob(&blob.digest).is_none() {
            blobs.gone.add(blob);
        }
    }
    blobs
}

/// The stored bytes of those of `parts`, each counted once, that only `newer` has.
fn new_bytes(older: &Manifest, newer: &Manifest, parts: impl Iterator<Item = Sha256>) -> u64 {
    let parts: BTreeSet<Sha256> = parts.collect();
    parts
        .iter()
        .filter(|digest| older.blob(digest).is_none())
        .filter_map(|digest| newer.blob(digest))
        .map(|blob| blob.size)
        .sum()
}

impl Sum {
    fn add(&mut self, blob: &Blob) {
        self.count += 1;
        self.stored += blob.size;
    }
}

#[cfg(test)]
mod tests;
