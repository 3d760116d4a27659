//! From `kpot keygen` to a pot that is verified, and back to a pot that is refused; what is done when things are as they should be.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at and damage the files that kpot made"
)]

mod support;

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;

use bundle_spec::{Sha256, Trust, UnverifiedPot};
use serde_json::json;
use support::server::Answer;
use support::upstream::{FakeImage, Upstream, content};
use support::{Desk, code, stderr, stdout};

#[test]
fn a_pot_is_built_verified_inspected_and_refused_when_damaged() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let summary = stdout(&built);
    for told in [
        "kubelet",
        "20.10.24",
        "--pin",
        "k8s.gcr.io/etcd:3.4.13-0",
        "pot digest: sha256:",
        "signed by SHA256:",
        "tar -xf x.pot",
    ] {
        let told = told.replace("pot digest: ", "pot digest ");
        assert!(summary.contains(&told), "{told}: {summary}");
    }
    assert_eq!(desk.made(), ["x.pot"]);

    let pot = desk.out().join("x.pot");
    let mode = std::fs::metadata(&pot).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let verified = desk.verify(&pot);
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));
    assert!(
        stdout(&verified).contains("is good"),
        "{}",
        stdout(&verified)
    );

    let inspected = stdout(&desk.kpot(&["inspect", "x.pot"]));
    for told in [
        "not verified",
        "signed by SHA256:",
        "host-local",
        "references: 1 (",
        "to which 2 blobs refer (",
        "REFERS TO",
        "k8s.gcr.io/pause:3.2",
        "Kubernetes v1.20.2, docker 20.10.24",
    ] {
        assert!(inspected.contains(told), "{told}: {inspected}");
    }

    // Every image of the tests has a layer that is the same in all of them.
    let tree = stdout(&desk.kpot(&["inspect", "x.pot", "--tree"]));
    let mut layers = tree.lines().filter(|line| line.starts_with("  layer "));
    assert!(
        layers.any(|line| line.contains("also in k8s.gcr.io/") && line.contains("/pause:3.2")),
        "{tree}"
    );
    assert!(tree.contains("refers to loopback"), "{tree}");
    let report = support::pots::json_of(&desk.kpot(&["inspect", "x.pot", "--json"]));
    let shared = report["shared"].as_array().unwrap();
    let base = shared
        .iter()
        .find(|one| one["users"].as_array().unwrap().len() == 7)
        .unwrap();
    let layers = report["manifest"]["images"][0]["layers"].to_string();
    assert!(layers.contains(base["blob"].as_str().unwrap()));

    let good = std::fs::read(&pot).unwrap();
    for place in [good.len() / 3, good.len() / 2] {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        let damaged = desk.out().join("damaged.pot");
        std::fs::write(&damaged, bytes).unwrap();
        let refused = desk.verify(&damaged);
        assert_eq!(code(&refused), 4, "byte {place}: {}", stderr(&refused));
    }
    std::fs::write(desk.out().join("cut.pot"), &good[..good.len() - 512]).unwrap();
    assert_eq!(code(&desk.verify(&desk.out().join("cut.pot"))), 4);
}

#[test]
fn reports_name_paths_that_are_no_text_as_well_as_they_can() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let odd = |name: &[u8]| OsString::from_vec([&b"\xff"[..], name].concat());
    let json = |arguments: &[&str], paths: &[OsString]| {
        let run = desk.command(arguments).args(paths).output().unwrap();
        assert_eq!(code(&run), 0, "{arguments:?}: {}", stderr(&run));
        serde_json::from_slice::<serde_json::Value>(&run.stdout).unwrap()
    };
    let mut arguments = upstream.arguments("");
    let output = arguments.iter().position(|it| it == "--output").unwrap();
    arguments.drain(output..output + 2);
    arguments.extend(["--json", "--output"].map(str::to_owned));
    let build: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let pot = odd(b".pot");
    let shown = "\u{fffd}.pot";
    assert_eq!(json(&build, std::slice::from_ref(&pot))["pot"], shown);

    let signers = desk.signers().display().to_string();
    let with_signers = |command| [command, "--json", "--signers", signers.as_str()];
    let verified = json(&with_signers("verify"), std::slice::from_ref(&pot));
    assert_eq!(verified["pot"], shown);
    let signed = json(
        &with_signers("sign"),
        &[pot.clone(), "--output".into(), odd(b".signed")],
    );
    assert_eq!(signed["pot"], "\u{fffd}.signed");
    let extracted = json(
        &with_signers("extract"),
        &[pot.clone(), "kubelet".into(), "--to".into(), odd(b"")],
    );
    assert_eq!(extracted["pot"], shown);
    assert_eq!(extracted["files"][0]["file"], "\u{fffd}/kubelet");
    let compared = json(&["diff", "--json"], &[pot.clone(), pot]);
    assert_eq!(compared["from"]["pot"], shown);
    let cache = ["--cache".into(), odd(b"cache")];
    for command in ["list", "prune", "verify"] {
        let told = json(&["cache", command, "--json"], &cache);
        assert_eq!(told["folder"], "\u{fffd}cache", "{command}");
    }
}

#[test]
fn the_manifest_says_what_was_fetched_and_how_it_was_checked() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.14.0"));
    let built = desk.build(&upstream, "x.pot", &["--serial", "7", "--json"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let report: serde_json::Value = serde_json::from_slice(&built.stdout).unwrap();
    let manifest = &report["manifest"];
    assert_eq!(manifest["name"], "kpot-v1.14.0-amd64");
    assert_eq!(manifest["serial"], 7);
    let kubelet = &manifest["artifacts"][4];
    assert_eq!(kubelet["name"], "kubelet");
    assert_eq!(kubelet["checked"], "published-sha512");
    assert_eq!(
        kubelet["source"],
        "https://dl.k8s.io/release/v1.14.0/bin/linux/amd64/kubelet"
    );
    let docker = &manifest["artifacts"][1];
    assert_eq!(docker["checked"], "given-pin");
    assert_eq!(docker["download"], upstream.docker().to_string());
    assert_eq!(docker["files"].as_array().unwrap().len(), 4);
    // Seven images share their lowest layer, which is stored once and fetched once.
    let images = manifest["images"].as_array().unwrap();
    assert_eq!(images.len(), 7);
    assert!(
        images
            .iter()
            .all(|image| image["layers"][0] == images[0]["layers"][0])
    );
    let base = Sha256::of(&FakeImage::new("x").layers[0]);
    assert_eq!(upstream.server.seen(&base.to_string()).len(), 1);
}

#[test]
fn the_same_inputs_give_the_same_bytes_with_any_number_of_threads() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    for (name, jobs) in [("one.pot", "1"), ("two.pot", "4")] {
        let built = desk.build(&upstream, name, &["--jobs", jobs]);
        assert_eq!(code(&built), 0, "{}", stderr(&built));
    }
    let read = |name: &str| std::fs::read(desk.out().join(name)).unwrap();
    assert!(read("one.pot") == read("two.pot"), "the two pots differ");
    // Those included whose bytes depend on another content.
    let pot = UnverifiedPot::open(&desk.out().join("one.pot")).unwrap();
    assert!(!pot.manifest_unverified().references().is_empty());
}

#[test]
fn plugins_are_packed_against_one_of_them_and_unpack_to_what_was_served() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let signers = std::fs::read_to_string(desk.signers()).unwrap();
    let trust = Trust::from_allowed_signers(&signers, SystemTime::now()).unwrap();
    let pot = UnverifiedPot::open(&desk.out().join("x.pot")).unwrap();
    let pot = pot.verify(&trust, &|_| {}).unwrap();
    let manifest = pot.manifest();
    let plugins = &manifest.artifact("cni-plugins").unwrap().files;
    let referring: Vec<_> = plugins
        .iter()
        .map(|file| (file.name.as_str(), manifest.blob(&file.blob).unwrap()))
        .map(|(name, blob)| (name, blob.encoding.reference()))
        .collect();
    // All are equally large, so their names decide which one is in the middle. In this upstream host-local has the same content as Docker's containerd, which needs it
    // without a reference; so it has none, whichever of the two archives came first.
    let loopback = Some(plugins[2].blob);
    assert_eq!(
        referring,
        [
            ("bridge", loopback),
            ("host-local", None),
            ("loopback", None),
            ("portmap", loopback)
        ]
    );
    assert_eq!(content("host-local", 9), content("containerd", 9));
    for artifact in &manifest.artifacts {
        let size = if artifact.files.len() == 1 {
            300_000
        } else {
            50_000
        };
        for file in &artifact.files {
            let mut bytes = Vec::new();
            let mut reader = pot.open_blob(&file.blob).unwrap();
            reader.read_to_end(&mut bytes).unwrap();
            assert!(bytes == content(&file.name, size), "{}", file.name);
            let refers = reader.blob().encoding.reference().is_some();
            assert!(!refers || artifact.name == "cni-plugins", "{}", file.name);
        }
    }
}

#[test]
fn an_unsigned_pot_is_never_trusted() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let built = desk.build(&upstream, "x.pot", &["--unsigned"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert!(stdout(&built).contains("NOT SIGNED"));
    assert!(stdout(&desk.kpot(&["inspect", "x.pot"])).contains("NOT SIGNED"));
    let refused = desk.verify(&desk.out().join("x.pot"));
    assert_eq!(code(&refused), 4);
    assert!(
        stderr(&refused).contains("not signed"),
        "{}",
        stderr(&refused)
    );
}

#[test]
fn somebody_elses_signature_is_refused_by_name() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let other = desk.path("other_key").display().to_string();
    assert_eq!(code(&desk.kpot(&["keygen", "-o", &other])), 0);
    let built = desk.build(&upstream, "x.pot", &["--sign-key", &other]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let refused = desk.verify(&desk.out().join("x.pot"));
    assert_eq!(code(&refused), 4);
    assert!(stderr(&refused).contains("SHA256:"), "{}", stderr(&refused));
}

#[test]
fn extra_images_are_packed_under_their_familiar_names() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let image = FakeImage::new("flannel");
    upstream.push("lab/flannel", "v1", &image);
    upstream.push("library/busybox", "1.36", &FakeImage::new("busybox"));
    let address = upstream.server.address().to_owned();
    let (flannel, hub) = (
        format!("{address}/lab/flannel:v1"),
        format!("docker.io={}", upstream.server.url()),
    );
    let built = desk.build(
        &upstream,
        "x.pot",
        &[
            "--image",
            &flannel,
            "--image",
            "busybox:1.36",
            "--mirror",
            &hub,
        ],
    );
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let pot = UnverifiedPot::open(&desk.out().join("x.pot")).unwrap();
    let manifest = pot.manifest_unverified();
    let find = |name: &str| manifest.images.iter().find(|image| image.names == [name]);
    assert!(find("busybox:1.36").is_some());
    let id = Sha256::of(&serde_json::to_vec(&image.config).unwrap());
    assert_eq!(find(&flannel).unwrap().id, id);
}

#[test]
fn two_names_of_one_image_are_one_image() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    upstream.push("mirrored/pause", "v3", &FakeImage::new("pause"));
    let twin = format!("{}/mirrored/pause:v3", upstream.server.address());
    let built = desk.build(&upstream, "x.pot", &["--image", &twin]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let pot = UnverifiedPot::open(&desk.out().join("x.pot")).unwrap();
    let images = &pot.manifest_unverified().images;
    assert_eq!(images.len(), 7);
    assert!(
        images
            .iter()
            .any(|image| image.names == [twin.clone(), "k8s.gcr.io/pause:3.2".to_owned()])
    );
}

#[test]
fn an_index_is_resolved_to_the_pots_architecture() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let image = FakeImage::new("etcd");
    let index = image.index(&json!({ "os": "linux", "architecture": "amd64" }));
    upstream.put_manifest(
        "etcd",
        "by-digest",
        &serde_json::to_vec(&image.manifest).unwrap(),
    );
    let digest = upstream.put_manifest("etcd", "3.4.13-0", &serde_json::to_vec(&index).unwrap());
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    // By tag and digest: the same, checked against the digest.
    upstream.put_manifest(
        "x/etcd",
        "v1",
        &serde_json::to_vec(&image.manifest).unwrap(),
    );
    upstream.push("x/etcd", "v1", &image);
    let pinned = format!("{}/x/etcd:v1@{digest}", upstream.server.address());
    let refused = desk.build(&upstream, "y.pot", &["--image", &pinned]);
    assert_eq!(code(&refused), 1);
    assert!(stderr(&refused).contains("404"), "{}", stderr(&refused));
}

#[test]
fn anonymous_tokens_are_fetched_as_registries_demand_them() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let image = FakeImage::new("locked");
    upstream.push("team/locked", "v1", &image);
    let challenge = format!(
        r#"Bearer realm="{}/token",service="lab""#,
        upstream.server.url()
    );
    let locked = |body: Vec<u8>| {
        vec![Answer::Locked {
            challenge: challenge.clone(),
            token: "t0".to_owned(),
            body,
        }]
    };
    let server = &upstream.server;
    server.set("/token", vec![Answer::Body(br#"{"token":"t0"}"#.to_vec())]);
    let manifest = serde_json::to_vec(&image.manifest).unwrap();
    server.set("/v2/team/locked/manifests/v1", locked(manifest));
    let own = &image.layers[1];
    server.set(
        &format!("/v2/team/locked/blobs/{}", Sha256::of(own)),
        locked(own.clone()),
    );
    let name = format!("{}/team/locked:v1", server.address());
    let built = desk.build(&upstream, "x.pot", &["--image", &name]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let asked = server.seen("");
    let token = asked
        .iter()
        .find(|seen| seen.path.starts_with("/token"))
        .unwrap();
    assert!(token.path.contains("service=lab"), "{}", token.path);
    assert!(
        token
            .path
            .contains("scope=repository%3Ateam%2Flocked%3Apull"),
        "{}",
        token.path
    );

    server.set(
        "/v2/team/locked/manifests/v1",
        vec![Answer::Locked {
            challenge: "Basic realm=\"x\"".to_owned(),
            token: "t0".to_owned(),
            body: Vec::new(),
        }],
    );
    let refused = desk.build(&upstream, "y.pot", &["--image", &name]);
    assert_eq!(code(&refused), 1);
    assert!(
        stderr(&refused).contains("docker login"),
        "{}",
        stderr(&refused)
    );
}

#[test]
fn keygen_makes_a_pair_once() {
    let desk = Desk::without_key();
    let made = desk.kpot(&["keygen"]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let told = stdout(&made);
    assert!(told.contains("fingerprint: SHA256:"), "{told}");
    let private = desk.path("config/kpot/signing_key");
    let permissions =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(permissions(&private), 0o600);
    assert_eq!(
        permissions(&desk.path("config/kpot/signing_key.pub")),
        0o644
    );
    assert_eq!(permissions(&desk.path("config/kpot")), 0o700);
    let text = std::fs::read_to_string(&private).unwrap();
    assert!(
        !told.contains(text.lines().nth(1).unwrap()),
        "the private key is not printed"
    );
    let again = desk.kpot(&["keygen"]);
    assert_eq!(code(&again), 2);
    assert!(
        stderr(&again).contains("not overwritten"),
        "{}",
        stderr(&again)
    );
    assert_eq!(std::fs::read_to_string(&private).unwrap(), text);
}

#[test]
fn version_names_the_installer_inside() {
    let desk = Desk::without_key();
    let shown = desk.kpot(&["version", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(report["kpot"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["installers"][0]["arch"], "amd64");
    let digest = report["installers"][0]["digest"].as_str().unwrap();
    assert!(stdout(&desk.kpot(&["version"])).contains(digest));
}
