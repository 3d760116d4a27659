//! Manifests made by hand, compared.

use super::*;
use bundle_spec::manifest::{ArtifactFile, Checked, Encoding, FORMAT, RuntimeName, Windows};

/// A pot of images, by name and content, and of one artifact's files, by name, content and the bytes as which the content is stored.
fn pot(images: &[(&str, &str)], files: &[(&str, &str, &str)]) -> Manifest {
    let mut blobs = BTreeMap::new();
    let mut blob = |stored: &str, content: &str| {
        let (digest, unpacked) = (
            Sha256::of(stored.as_bytes()),
            Sha256::of(content.as_bytes()),
        );
        blobs.insert(
            digest,
            Blob {
                digest,
                size: stored.len() as u64,
                encoding: if stored == content {
                    Encoding::Identity
                } else {
                    Encoding::Zstd
                },
                unpacked_digest: unpacked,
                unpacked_size: content.len() as u64,
            },
        );
        digest
    };
    let image = |(name, content): &(&str, &str)| {
        let config = blob(content, content);
        Image {
            names: vec![(*name).to_owned()],
            id: config,
            config,
            layers: Vec::new(),
            manifest: None,
        }
    };
    let images = images.iter().map(image).collect();
    let file = |(name, content, stored): &(&str, &str, &str)| ArtifactFile {
        name: (*name).to_owned(),
        blob: blob(stored, content),
    };
    let files: Vec<_> = files.iter().map(file).collect();
    let artifact = Artifact {
        name: "docker".to_owned(),
        version: "1".to_owned(),
        source: "https://example.org".to_owned(),
        download: Sha256::of(b""),
        checked: Checked::ShippedPin,
        files,
    };
    let artifacts = [artifact].into_iter();
    let manifest = Manifest {
        format: FORMAT,
        name: "pot".to_owned(),
        serial: 1,
        kubernetes: KubeVersion::new(1, 20, 2),
        arch: Arch::Amd64,
        runtime: Runtime {
            name: RuntimeName::Docker,
            version: "1".to_owned(),
        },
        cni: "v1".to_owned(),
        built_by: "0".to_owned(),
        windows: Windows::Usual,
        artifacts: artifacts
            .filter(|artifact| !artifact.files.is_empty())
            .collect(),
        images,
        blobs: blobs.into_values().collect(),
    };
    // What cannot be in a pot proves nothing.
    manifest.encode().unwrap();
    manifest
}

/// The changes as words: how, name, versions.
fn told(older: &Manifest, newer: &Manifest) -> Vec<String> {
    let version = |side: Option<Side<'_>>| side.map_or("-", |side| side.version).to_owned();
    diff(older, newer)
        .changes
        .iter()
        .map(|it| {
            let (from, to) = (version(it.from), version(it.to));
            format!("{:?} {} {from} {to} +{}", it.change, it.name, it.new_bytes)
        })
        .collect()
}

#[test]
fn a_tag_in_the_place_of_another_is_one_change_and_several_are_not_guessed_at() {
    let older = pot(
        &[("a:1", "one"), ("b:5000/x:1", "two"), ("c:1", "three")],
        &[],
    );
    let newer = pot(
        &[
            ("a:2", "longer"),
            ("b:5000/x:1", "two"),
            ("c:2", "4"),
            ("c:3", "55"),
        ],
        &[],
    );
    assert_eq!(
        told(&older, &newer),
        [
            "Changed a 1 2 +6",
            "Removed c 1 - +0",
            "Added c - 2 +1",
            "Added c - 3 +2"
        ]
    );
    assert!(told(&newer, &newer).is_empty());
}

#[test]
fn a_tag_that_was_moved_to_another_image_is_a_change() {
    let (older, newer) = (pot(&[("a:1", "one")], &[]), pot(&[("a:1", "other")], &[]));
    assert_eq!(told(&older, &newer), ["Changed a 1 1 +5"]);
    let difference = diff(&older, &newer);
    let (from, to) = (difference.changes[0].from, difference.changes[0].to);
    assert_ne!(from.unwrap().id, to.unwrap().id);
}

#[test]
fn files_are_compared_unpacked_and_blobs_as_they_are_stored() {
    let older = pot(
        &[],
        &[("a", "A", "A"), ("b", "BBBB", "zst"), ("c", "C", "C")],
    );
    let newer = pot(
        &[],
        &[("a", "A", "A"), ("b", "BBBB", "zs"), ("d", "DD", "DD")],
    );
    let difference = diff(&older, &newer);
    assert_eq!(told(&older, &newer), ["Changed docker 1 1 +4"]);
    let files = Files {
        added: vec!["d"],
        removed: vec!["c"],
        changed: Vec::new(),
    };
    assert_eq!(difference.changes[0].files, Some(files));
    let sum = |count, stored| Sum { count, stored };
    let blobs = Blobs {
        new: sum(2, 4),
        repacked: sum(1, 2),
        shared: sum(1, 1),
        gone: sum(2, 4),
    };
    assert_eq!(difference.blobs, blobs);

    // The same files in other packing are no change of the artifact.
    let repacked = pot(
        &[],
        &[("a", "A", "A"), ("b", "BBBB", "zs"), ("c", "C", "C")],
    );
    assert!(told(&older, &repacked).is_empty());
    assert_eq!(diff(&older, &repacked).blobs.new, sum(1, 2));
}

#[test]
fn an_artifact_that_only_one_pot_has_is_added_or_removed() {
    let (without, with) = (pot(&[], &[]), pot(&[], &[("a", "AAA", "AAA")]));
    assert_eq!(told(&without, &with), ["Added docker - 1 +3"]);
    assert_eq!(told(&with, &without), ["Removed docker 1 - +0"]);
}
