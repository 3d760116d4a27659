//! `kpot build --compression` and `--verbatim`: what gets into the pot, and that it comes out again.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made"
)]

mod support;

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::SystemTime;

use bundle_spec::manifest::{Encoding, Windows};
use bundle_spec::{Sha256, Trust, UnverifiedPot, VerifiedPot};
use kpot::pack::tuning::REVISION;
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

#[test]
fn verbatim_two_images_with_one_config_keep_both_manifests() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let plain = content("layer", 5_000);
    let mut image = FakeImage::new("one");
    image.layers = vec![gzip(&plain)];
    image.config["rootfs"]["diff_ids"] = json!([Sha256::of(&plain).to_string()]);
    image.describe();
    // The same image once more, pushed by another tool: other compressed bytes, and so another manifest.
    let mut twin = image.clone();
    twin.layers = vec![[gzip(&plain[..100]), gzip(&plain[100..])].concat()];
    twin.describe();
    assert_eq!(image.config, twin.config);
    upstream.push("team/one", "v1", &image);
    upstream.push("team/two", "v1", &twin);
    let name = |repository: &str| format!("{}/team/{repository}:v1", upstream.server.address());
    let (one, two) = (name("one"), name("two"));
    let arguments = ["--verbatim", "--image", &one, "--image", &two];
    let built = desk.build(&upstream, "x.pot", &arguments);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let pot = verified(&desk, "x.pot");
    for (name, served) in [(&one, &image), (&two, &twin)] {
        let mut images = pot.manifest().images.iter();
        let found = images.find(|it| it.names == [name.as_str()]).unwrap();
        let paper = stored(&pot, &found.manifest.unwrap());
        assert!(
            paper == serde_json::to_vec(&served.manifest).unwrap(),
            "{name}"
        );
        assert!(stored(&pot, &found.layers[0]) == served.layers[0]);
    }
    // And each manifest is seen below its image.
    let shown = stdout(&desk.kpot(&["inspect", "x.pot", "--tree"]));
    let blobs = pot.manifest().blobs.len();
    let told = |digest: &Sha256| shown.contains(&digest.hex()[..12]);
    let missing: Vec<&Sha256> = pot
        .manifest()
        .blobs
        .iter()
        .map(|blob| &blob.digest)
        .filter(|digest| !told(digest))
        .collect();
    assert!(
        missing.is_empty(),
        "of {blobs}, these are not in the tree: {missing:?}"
    );
    assert!(shown.contains("  manifest"), "{shown}");

    // Packed anew, they are one image.
    let built = desk.build(&upstream, "y.pot", &["--image", &one, "--image", &two]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let pot = verified(&desk, "y.pot");
    let mut images = pot.manifest().images.iter();
    assert!(images.any(|it| it.names == [one.as_str(), two.as_str()]));
}

/// The digest of what is compressed in a pot: of all its zstd frames that kpot made, and of how they refer to each other.
fn frames(pot: &VerifiedPot) -> String {
    let mut all = String::new();
    for blob in &pot.manifest().blobs {
        if matches!(
            blob.encoding,
            Encoding::Zstd | Encoding::ZstdReference { .. }
        ) {
            writeln!(all, "{} {:?}", blob.digest, blob.encoding).unwrap();
        }
    }
    assert!(!all.is_empty());
    Sha256::of(all.as_bytes()).hex()
}

#[test]
fn the_same_content_makes_the_bytes_that_it_made_before() {
    // Where this fails, kpot makes other bytes of the same content, and locks must tell: raise REVISION, unless another part of the tuning says it already (zstd's version, a
    // setting, a limit), and write down here what is made now.
    assert_eq!(REVISION, 1);
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    // One program is larger than what is compressed with its length known.
    let kubelet = content("kubelet", 3_000_000);
    let path = upstream.program("kubelet");
    let digest = Sha256::of(&kubelet).hex();
    upstream.put(&format!("{path}.sha256"), digest.into_bytes());
    upstream.put(&path, kubelet);
    let rows: [(&[&str], &str); 4] = [
        (&["--compression", "fast"], "fast"),
        (&["--compression", "balanced"], "balanced"),
        (&["--compression", "max"], "max"),
        (&["--verbatim"], "verbatim"),
    ];
    let made = rows.map(|(arguments, name)| {
        let pot = format!("{name}.pot");
        let built = desk.build(&upstream, &pot, arguments);
        assert_eq!(code(&built), 0, "{}", stderr(&built));
        (name, frames(&verified(&desk, &pot)))
    });
    let before = [
        (
            "fast",
            "2d2f37b7d737e155acb19a9731f774aec955a2382010f4496aae64f24219b238",
        ),
        (
            "balanced",
            "bb3da7dfedf56b056a8b44d12a4882af6081f7e94848ecfa706976660cc9d0dc",
        ),
        (
            "max",
            "62cc35f11ff5588931157e512d2209f68cf9e37db77f8be7f13494e252d6e32d",
        ),
        (
            "verbatim",
            "c60affd9f746e420948f195b3d603f2084d1af008a673bce5169ac874462da19",
        ),
    ];
    let before = before.map(|(name, digest)| (name, digest.to_owned()));
    assert_eq!(made, before);
}
