//! `kpot build --compression` and `--verbatim`: what gets into the pot, and that it comes out again.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made"
)]

mod support;

use std::io::Read as _;
use std::time::SystemTime;

use bundle_spec::manifest::{Encoding, Windows};
use bundle_spec::{Sha256, Trust, UnverifiedPot, VerifiedPot};
use serde_json::json;
use support::pots::desk_with_pot;
use support::upstream::{FakeImage, Upstream, content, gzip};
use support::{Desk, code, stderr, stdout};

const ZSTD_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn verified(desk: &Desk, name: &str) -> VerifiedPot {
    let signers = std::fs::read_to_string(desk.signers()).unwrap();
    let trust = Trust::from_allowed_signers(&signers, SystemTime::now()).unwrap();
    let pot = UnverifiedPot::open(&desk.out().join(name)).unwrap();
    pot.verify(&trust, &|_| {}).unwrap()
}

fn unpacked(pot: &VerifiedPot, digest: &Sha256) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = pot.open_blob(digest).unwrap();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The bytes of a blob as they are stored.
fn stored(pot: &VerifiedPot, digest: &Sha256) -> Vec<u8> {
    let bytes = std::fs::read(pot.source()).unwrap();
    let members = support::pots::members(&bytes);
    let found = members
        .into_iter()
        .find(|(member, _)| member.to_string() == format!("blobs/sha256/{}", digest.hex()));
    found.unwrap().1
}

#[test]
fn every_effort_gives_the_same_content_in_its_own_size_and_the_same_bytes_with_any_jobs() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let mut sizes = Vec::new();
    for effort in ["fast", "balanced", "max"] {
        for jobs in ["1", "2"] {
            let name = format!("{effort}-{jobs}.pot");
            let built = desk.build(&upstream, &name, &["--compression", effort, "--jobs", jobs]);
            assert_eq!(code(&built), 0, "{}", stderr(&built));
        }
        let read =
            |jobs: u8| std::fs::read(desk.out().join(format!("{effort}-{jobs}.pot"))).unwrap();
        assert!(read(1) == read(2), "{effort} differs with the jobs");
        let pot = verified(&desk, &format!("{effort}-1.pot"));
        let manifest = pot.manifest();
        let windows = if effort == "max" {
            Windows::Large
        } else {
            Windows::Usual
        };
        assert_eq!(manifest.windows, windows, "{effort}");
        for name in ["kubeadm", "kubectl", "kubelet"] {
            let blob = manifest.artifact(name).unwrap().files[0].blob;
            assert!(unpacked(&pot, &blob) == content(name, 300_000), "{name}");
        }
        sizes.push(manifest.blobs.iter().map(|blob| blob.size).sum::<u64>());
    }
    assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
    // What is not said is balanced.
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let read = |name: &str| std::fs::read(desk.out().join(name)).unwrap();
    assert!(read("x.pot") == read("balanced-1.pot"));
}

#[test]
fn at_max_the_rest_is_packed_against_kubeadm_and_inspect_says_so() {
    let upstream = Upstream::new("v1.20.2");
    let desk = desk_with_pot(&upstream, &["--compression", "max"]);
    let pot = verified(&desk, "x.pot");
    let manifest = pot.manifest();
    let blob = |name: &str| {
        let file = &manifest.artifact(name).unwrap().files[0];
        manifest.blob(&file.blob).unwrap()
    };
    let kubeadm = blob("kubeadm");
    assert_eq!(kubeadm.encoding, Encoding::Zstd);
    for name in ["kubectl", "kubelet"] {
        let reference = blob(name).encoding.reference();
        assert_eq!(reference, Some(kubeadm.digest), "{name}");
    }
    for image in &manifest.images {
        for layer in &image.layers {
            let layer = manifest.blob(layer).unwrap();
            assert_eq!(layer.encoding.reference(), Some(kubeadm.digest));
            let mut digest = bundle_spec::Hasher::new();
            digest.update(&unpacked(&pot, &layer.digest));
            assert_eq!(digest.finish(), layer.unpacked_digest);
        }
    }
    let shown = stdout(&desk.kpot(&["inspect", "x.pot"]));
    assert!(shown.contains("large windows"), "{shown}");
}

#[test]
fn verbatim_layers_are_the_registrys_bytes_with_its_manifest() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    // One image with every kind of layer that registries have.
    let plain = [
        content("one", 5_000),
        content("two", 6_000),
        content("three", 7_000),
    ];
    let mut image = FakeImage::new("mixed");
    image.layers = vec![
        [gzip(&plain[0][..100]), gzip(&plain[0][100..])].concat(),
        zstd::encode_all(&plain[1][..], 3).unwrap(),
        plain[2].clone(),
    ];
    let ids: Vec<String> = plain.iter().map(|it| Sha256::of(it).to_string()).collect();
    image.config["rootfs"]["diff_ids"] = json!(ids);
    image.describe();
    image.manifest["layers"][1]["mediaType"] = json!(ZSTD_LAYER);
    image.manifest["layers"][2]["mediaType"] = json!(PLAIN_LAYER);
    upstream.push("team/mixed", "v1", &image);
    // The same content as the image's first layer, compressed otherwise.
    let mut twin = image.clone();
    twin.layers[0] = gzip(&plain[0]);
    twin.describe();
    twin.manifest["layers"][1]["mediaType"] = json!(ZSTD_LAYER);
    twin.manifest["layers"][2]["mediaType"] = json!(PLAIN_LAYER);
    twin.config["config"] = json!({ "Cmd": ["twin"] });
    let config = serde_json::to_vec(&twin.config).unwrap();
    twin.manifest["config"]["digest"] = json!(Sha256::of(&config));
    twin.manifest["config"]["size"] = json!(config.len());
    upstream.push("team/twin", "v1", &twin);

    let name = |repository: &str| format!("{}/team/{repository}:v1", upstream.server.address());
    let (mixed_name, twin_name) = (name("mixed"), name("twin"));
    for effort in ["balanced", "max"] {
        let arguments = [
            "--verbatim",
            "--compression",
            effort,
            "--image",
            &mixed_name,
            "--image",
            &twin_name,
        ];
        let built = desk.build(&upstream, "x.pot", &arguments);
        assert_eq!(code(&built), 0, "{}", stderr(&built));
        assert_eq!(code(&desk.verify(&desk.out().join("x.pot"))), 0);
        let pot = verified(&desk, "x.pot");
        let manifest = pot.manifest();
        let find = |name: &str| {
            let mut images = manifest.images.iter();
            images.find(|image| image.names == [name]).unwrap()
        };
        for (name, served) in [(&mixed_name, &image), (&twin_name, &twin)] {
            let found = find(name);
            let digests: Vec<Sha256> = served.layers.iter().map(|it| Sha256::of(it)).collect();
            assert_eq!(found.layers, digests);
            let encodings: Vec<Encoding> = found
                .layers
                .iter()
                .map(|layer| manifest.blob(layer).unwrap().encoding)
                .collect();
            let expected = [Encoding::Gzip, Encoding::ZstdFrames, Encoding::Identity];
            assert_eq!(encodings, expected);
            for (layer, (bytes, plain)) in found.layers.iter().zip(served.layers.iter().zip(&plain))
            {
                assert!(stored(&pot, layer) == *bytes);
                assert!(unpacked(&pot, layer) == *plain);
            }
            // Whoever pushes them again has all that the digest of the image stands on.
            let paper = stored(&pot, &found.manifest.unwrap());
            assert!(paper == serde_json::to_vec(&served.manifest).unwrap());
        }
        assert!(manifest.images.iter().all(|image| image.manifest.is_some()));
        // docker load gets unpacked layers by their diff_ids.
        let to = desk.path(effort).display().to_string();
        let signers = desk.signers().display().to_string();
        let extracted = desk.kpot(&[
            "extract",
            "x.pot",
            &mixed_name,
            "--signers",
            &signers,
            "--to",
            &to,
        ]);
        assert_eq!(code(&extracted), 0, "{}", stderr(&extracted));
        let folder = std::fs::read_dir(format!("{to}/images")).unwrap();
        let archive = folder.map(|entry| entry.unwrap().path()).next().unwrap();
        let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
        let mut found = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if let Some(hex) = name.strip_suffix(".tar") {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                assert_eq!(Sha256::of(&bytes).hex(), hex);
                found += 1;
            }
        }
        assert_eq!(found, 3);
    }
    let shown = stdout(&desk.kpot(&["inspect", "x.pot"]));
    assert!(shown.contains("as their registries have them"), "{shown}");
}

#[test]
fn a_verbatim_layer_that_a_reader_could_not_unpack_is_refused() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let plain = content("wide", 5_000);
    let mut image = FakeImage::new("wide");
    // A frame that asks for a window of 2^27 (RFC 8878, 3.1.1.1.2).
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3];
    let header = 1 | u32::try_from(plain.len()).unwrap() << 3;
    frame.extend(&header.to_le_bytes()[..3]);
    frame.extend(&plain);
    image.layers = vec![frame];
    image.config["rootfs"]["diff_ids"] = json!([Sha256::of(&plain).to_string()]);
    image.describe();
    image.manifest["layers"][0]["mediaType"] = json!(ZSTD_LAYER);
    upstream.push("team/wide", "v1", &image);
    let name = format!("{}/team/wide:v1", upstream.server.address());
    let refused = desk.build(&upstream, "x.pot", &["--verbatim", "--image", &name]);
    assert_eq!(code(&refused), 1);
    assert!(
        stderr(&refused).contains("as its registry has it"),
        "{}",
        stderr(&refused)
    );
    // To repack it, the builder would need that window itself, and has no more than 128 MiB for everything.
    let refused = desk.build(&upstream, "x.pot", &["--image", &name]);
    assert_eq!(code(&refused), 1);
    assert!(
        stderr(&refused).contains("it cannot be unpacked")
            && stderr(&refused).contains("--verbatim"),
        "{}",
        stderr(&refused)
    );
}
