//! The manifest has one encoding, and one that decodes is consistent.

use bundle_spec::manifest::{
    Artifact, ArtifactFile, Blob, Checked, Encoding, Image, Runtime, RuntimeName, Windows,
};
use bundle_spec::{Arch, Error, KubeVersion, Manifest, Sha256};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::{
    Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use proptest::sample::Index;

use crate::pots::small;

fn digests() -> impl Strategy<Value = Sha256> {
    any::<[u8; 8]>().prop_map(|seed| Sha256::of(&seed))
}

fn blobs() -> impl Strategy<Value = Vec<Blob>> {
    let one = (0..3, digests(), 0..=(1_u64 << 33) - 1, 0..=4_u64 << 20);
    btree_map(digests(), one, 1..8).prop_map(|blobs| {
        let first = blobs.keys().next().copied();
        let blob = |(digest, (kind, other, size, unpacked))| {
            let encoding = match (kind, first) {
                (0, _) => Encoding::Identity,
                (1, Some(reference)) if reference != digest => {
                    Encoding::ZstdReference { reference }
                }
                _ => Encoding::Zstd,
            };
            let same = encoding == Encoding::Identity;
            Blob {
                digest,
                size: if same { unpacked } else { size },
                encoding,
                unpacked_digest: if same { digest } else { other },
                unpacked_size: unpacked,
            }
        };
        blobs.into_iter().map(blob).collect()
    })
}

fn checked() -> impl Strategy<Value = Checked> {
    prop_oneof![
        Just(Checked::PublishedSha256),
        Just(Checked::PublishedSha512),
        Just(Checked::ShippedPin),
        Just(Checked::GivenPin),
    ]
}

/// A consistent manifest: a first artifact refers to every blob, the others and the images to some.
fn manifests() -> impl Strategy<Value = Manifest> {
    let names = "[A-Za-z0-9_][A-Za-z0-9._+-]{0,20}";
    let texts = "[!-~]{1,30}";
    let artifacts = btree_map(
        names,
        (
            texts,
            texts,
            digests(),
            checked(),
            btree_map(names, any::<Index>(), 1..4),
        ),
        0..4,
    );
    let images = vec((any::<Index>(), vec(any::<Index>(), 0..4)), 0..4);
    let image_names = btree_set(
        "[a-z0-9.]{1,9}(:[0-9]{4})?/[a-z/]{0,9}[a-z]:[a-z0-9.]{1,9}",
        8..9,
    );
    let head = (
        names,
        any::<u64>(),
        any::<(u16, u16, u16)>(),
        any::<(bool, bool)>(),
        texts,
        texts,
    );
    (blobs(), head, artifacts, images, image_names).prop_map(
        |(
            blobs,
            (name, serial, version, (arm, large), text, cni),
            artifacts,
            images,
            image_names,
        )| {
            let pick = |index: &Index| index.get(&blobs).digest;
            let mut artifacts: Vec<Artifact> = artifacts
                .into_iter()
                .map(
                    |(name, (version, source, download, checked, files))| Artifact {
                        name,
                        version,
                        source,
                        download,
                        checked,
                        files: files
                            .into_iter()
                            .map(|(name, index)| ArtifactFile {
                                name,
                                blob: pick(&index),
                            })
                            .collect(),
                    },
                )
                .collect();
            let all = blobs.iter().enumerate();
            artifacts.retain(|artifact| artifact.name != "0all");
            artifacts.push(Artifact {
                name: "0all".to_owned(),
                version: "1".to_owned(),
                source: "-".to_owned(),
                download: Sha256::of(b""),
                checked: Checked::GivenPin,
                files: all
                    .map(|(index, blob)| ArtifactFile {
                        name: format!("f{index}"),
                        blob: blob.digest,
                    })
                    .collect(),
            });
            artifacts.sort_by(|one, other| one.name.cmp(&other.name));
            let mut names = image_names.into_iter();
            let images = images
                .iter()
                .map(|(config, layers)| Image {
                    names: names.by_ref().take(2).collect(),
                    id: config.get(&blobs).unpacked_digest,
                    config: pick(config),
                    layers: layers.iter().map(pick).collect(),
                    manifest: None,
                })
                .collect();
            Manifest {
                format: 1,
                name,
                serial,
                kubernetes: KubeVersion::new(version.0, version.1, version.2),
                arch: if arm { Arch::Arm64 } else { Arch::Amd64 },
                runtime: Runtime {
                    name: if arm {
                        RuntimeName::Containerd
                    } else {
                        RuntimeName::Docker
                    },
                    version: text.clone(),
                },
                cni,
                built_by: text,
                windows: if large {
                    Windows::Large
                } else {
                    Windows::Usual
                },
                artifacts,
                images,
                blobs,
            }
        },
    )
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_encoded_decodes_to_the_same(manifest in manifests()) {
        let bytes = manifest.encode().unwrap();
        prop_assert_eq!(&Manifest::decode(&bytes).unwrap(), &manifest);
    }

    #[test]
    fn what_decodes_has_no_other_spelling(
        manifest in manifests(),
        place in any::<Index>(),
        byte in any::<u8>(),
        insert in any::<bool>(),
    ) {
        let mut bytes = manifest.encode().unwrap();
        let place = place.index(bytes.len());
        if insert {
            bytes.insert(place, byte);
        } else {
            bytes[place] = byte;
        }
        if let Ok(manifest) = Manifest::decode(&bytes) {
            prop_assert!(manifest.encode().unwrap() == bytes);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::decode(&bytes).is_err());
    }
}

#[test]
fn other_spellings_of_the_same_json_are_refused() {
    let text = String::from_utf8(small().0.encode().unwrap()).unwrap();
    for other in [
        text.trim_end().to_owned(),
        format!("{text}\n"),
        format!("\u{feff}{text}"),
        text.replace("  ", " "),
        text.replace('\n', "\r\n"),
        text.replace("\"serial\": 1", "\"serial\": 1.0"),
        text.replace("\"serial\": 1", "\"serial\": 1,\n  \"serial\": 1"),
        text.replace("\"serial\": 1", "\"serial\": 1,\n  \"unknown\": 1"),
        text.replace("kpot-test", "kpot\\u002dtest"),
        text.replace("  \"cni\": \"v0.7.5\",\n", ""),
        text.replace("\"amd64\"", "\"AMD64\""),
        text.replace("sha256:", "SHA256:"),
    ] {
        assert_ne!(other, text);
        let refused = Manifest::decode(other.as_bytes());
        assert!(
            matches!(refused, Err(Error::Manifest(_))),
            "{other}: {refused:?}"
        );
    }
}

#[test]
fn inconsistent_manifests_are_neither_written_nor_read() {
    let reject = |what: &str, spoil: &dyn Fn(&mut Manifest)| {
        let (mut manifest, _) = small();
        spoil(&mut manifest);
        assert!(
            matches!(manifest.encode(), Err(Error::Manifest(_))),
            "{what}"
        );
        // The bytes that a careless writer would make of it.
        let mut bytes = serde_json::to_vec_pretty(&manifest).unwrap();
        bytes.push(b'\n');
        assert!(
            matches!(Manifest::decode(&bytes), Err(Error::Manifest(_))),
            "{what}"
        );
    };
    let stray = Sha256::of(b"stray");
    reject("a file of no listed blob", &|it| {
        it.artifacts[0].files[0].blob = stray;
    });
    reject("a layer of no listed blob", &|it| {
        it.images[0].layers[0] = stray;
    });
    reject("a config of no listed blob", &|it| {
        it.images[0].config = stray;
    });
    reject("a manifest of an image of no listed blob", &|it| {
        it.images[0].manifest = Some(stray);
    });
    reject("a manifest of an image that is packed", &|it| {
        it.images[0].manifest = Some(it.images[0].layers[0]);
    });
    reject("a blob that nothing refers to", &|it| {
        it.images[0].layers.clear();
    });
    reject("blobs out of order", &|it| it.blobs.swap(0, 1));
    reject("a blob twice", &|it| {
        it.blobs.insert(0, it.blobs[0].clone());
    });
    reject("an artifact twice", &|it| {
        it.artifacts.push(it.artifacts[0].clone());
    });
    reject("an artifact without files", &|it| {
        let mut empty = it.artifacts[0].clone();
        empty.name = "other".to_owned();
        empty.files.clear();
        it.artifacts.push(empty);
    });
    reject("files out of order", &|it| it.artifacts[0].files.swap(0, 1));
    reject("an image twice", &|it| it.images.push(it.images[0].clone()));
    reject("a name for two images", &|it| {
        let mut other = it.images[0].clone();
        other.names.push("z:1".to_owned());
        it.images.push(other);
    });
    reject("an image without a name", &|it| it.images[0].names.clear());
    reject("an ID that is not the config's", &|it| {
        it.images[0].id = stray;
    });
    reject("an identity blob with two digests", &|it| {
        let blob = it
            .blobs
            .iter_mut()
            .find(|blob| blob.encoding == Encoding::Identity);
        blob.unwrap().unpacked_digest = stray;
    });
    reject("an identity blob with two sizes", &|it| {
        let blob = it
            .blobs
            .iter_mut()
            .find(|blob| blob.encoding == Encoding::Identity);
        blob.unwrap().unpacked_size += 1;
    });
    reject("a blob beyond the limit", &|it| it.blobs[0].size = 1 << 33);
    reject("a bomb beyond the limit", &|it| {
        let blob = it
            .blobs
            .iter_mut()
            .find(|blob| blob.encoding == Encoding::Zstd);
        blob.unwrap().unpacked_size = 1 << 33;
    });
    for name in [
        "", ".", "..", "../x", "/x", "a/b", ".hidden", "-rf", "a b", "a\0", "ä",
    ] {
        reject(name, &|it| it.artifacts[0].files[1].name = name.to_owned());
        reject(name, &|it| it.artifacts[0].name = name.to_owned());
        reject(name, &|it| it.name = name.to_owned());
    }
    reject("a name of 101 bytes", &|it| it.name = "n".repeat(101));
    for name in [
        "pause",
        "host:5000/pause",
        "pause:",
        ":3.1",
        "host/:3.1",
        "a:b:c",
        "pause:3.1@sha256:00",
    ] {
        reject(name, &|it| it.images[0].names[0] = name.to_owned());
    }
    for text in ["", "two words", "line\n", "\u{1b}[2J", "v1\u{202e}"] {
        reject(text, &|it| it.cni = text.to_owned());
        reject(text, &|it| it.artifacts[0].source = text.to_owned());
        reject(text, &|it| it.images[0].names[0] = text.to_owned());
    }
}

#[test]
fn the_format_is_looked_at_before_the_rest() {
    let later = Manifest::decode(b"{\"format\": 2, \"all\": [\"else\", \"is new\"]}");
    assert!(matches!(later, Err(Error::Format(2))), "{later:?}");
    for none in ["{}", "{\"format\": \"1\"}", "[]", "", "{\"format\": -1}"] {
        let refused = Manifest::decode(none.as_bytes());
        assert!(
            matches!(refused, Err(Error::Manifest(_))),
            "{none}: {refused:?}"
        );
    }
}

#[test]
fn an_extra_is_one_file_called_as_its_name_says() {
    let with = |name: &str, files: &[&str]| {
        let (mut manifest, _) = small();
        let file = &manifest.artifacts[0].files[0];
        let artifact = Artifact {
            name: name.to_owned(),
            files: files
                .iter()
                .map(|name| ArtifactFile {
                    name: (*name).to_owned(),
                    ..file.clone()
                })
                .collect(),
            ..manifest.artifacts[0].clone()
        };
        manifest.artifacts.push(artifact);
        manifest.artifacts.sort_by(|a, b| a.name.cmp(&b.name));
        manifest
    };
    let good = with("file.crictl", &["crictl"]);
    let read = Manifest::decode(&good.encode().unwrap()).unwrap();
    assert_eq!(read, good);
    let extra = read.artifact("file.crictl").unwrap().extra().unwrap();
    assert_eq!(extra.name, "crictl");
    // Whoever looks for the program does not find the extra.
    assert!(read.artifact("crictl").is_none());
    for (name, files) in [
        ("file.x", &["y"][..]),
        ("file.x", &["file.x"]),
        ("file.x", &["x", "y"]),
        ("file.", &["x"]),
    ] {
        let refused = with(name, files).encode().unwrap_err().to_string();
        assert!(refused.contains(&format!("for {name} than")), "{refused}");
    }
    for name in ["file", "files.x", "afile.x"] {
        let manifest = with(name, &["y", "z"]);
        manifest.encode().unwrap();
        assert!(manifest.artifact(name).unwrap().extra().is_none());
    }
}
