//! What `kpot build` refuses, before it fetches and while it does: each with its cause, its exit code, and nothing left behind.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made"
)]

mod support;

use bundle_spec::Sha256;
use serde_json::json;
use support::server::Answer;
use support::upstream::{FakeImage, Upstream, content, gzip};
use support::{Desk, code, stderr};

/// Builds over an older file; the build must fail, name all of `words`, and leave the older file alone.
fn refused(upstream: &Upstream, more: &[&str], status: i32, words: &[&str]) {
    let desk = Desk::new();
    let old = desk.out().join("x.pot");
    std::fs::write(&old, "the pot of yesterday").unwrap();
    let built = desk.build(upstream, "x.pot", more);
    let told = stderr(&built);
    assert_eq!(code(&built), status, "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
    assert!(built.stdout.is_empty(), "a failure is no result");
    assert_eq!(
        std::fs::read_to_string(&old).unwrap(),
        "the pot of yesterday"
    );
    assert_eq!(desk.made(), ["x.pot"], "nothing else is left");
}

/// The same for the image `etcd`, whose manifest is `manifest`.
fn manifest_refused(manifest: &serde_json::Value, words: &[&str]) {
    let upstream = Upstream::new("v1.20.2");
    upstream.put_manifest("etcd", "3.4.13-0", &serde_json::to_vec(manifest).unwrap());
    let mut all = vec!["k8s.gcr.io/etcd:3.4.13-0", "/v2/etcd/manifests/"];
    all.extend(words);
    refused(&upstream, &[], 1, &all);
}

fn image_refused(image: &FakeImage, words: &[&str]) {
    let upstream = Upstream::new("v1.20.2");
    upstream.push("etcd", "3.4.13-0", image);
    refused(&upstream, &[], 1, words);
}

#[test]
fn without_a_key_nothing_is_fetched() {
    let (desk, upstream) = (Desk::without_key(), Upstream::new("v1.20.2"));
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 2);
    assert!(stderr(&built).contains("kpot keygen"), "{}", stderr(&built));
    assert!(upstream.server.seen("").is_empty());
    assert!(desk.made().is_empty());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let key = desk.path("config/kpot/signing_key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 1);
    assert!(stderr(&built).contains("chmod 600"), "{}", stderr(&built));
    assert!(upstream.server.seen("").is_empty());
}

#[test]
fn what_this_kpot_cannot_make_is_refused_before_anything_is_fetched() {
    let rows: [(&[&str], &str); 8] = [
        (&["--arch", "s390x"], "amd64 or arm64"),
        (
            &["--pin", "dockerd=sha256:00"],
            "nothing that can be pinned",
        ),
        (
            &["--image", "quay.io/x/y@sha256:12"],
            "not the name of an image",
        ),
        (&["--mirror", "quay.io"], "not HOST=URL"),
        (
            &["--mirror", "registry.k8s.io=https://other.example"],
            "two mirrors",
        ),
        (&["--unsigned", "--sign-key", "k"], "cannot be used with"),
        (&["--jobs", "0"], "zero"),
        (&["--output", "no/such/folder/x.pot"], "mkdir -p"),
    ];
    let upstream = Upstream::new("v1.20.2");
    for (more, word) in rows {
        let desk = Desk::new();
        let arguments = upstream.arguments("x.pot");
        // An option that is given twice is refused as such: the first one is left out.
        let doubled = ["--output"];
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if doubled.contains(&more[0]) {
            let place = arguments
                .iter()
                .position(|argument| *argument == more[0])
                .unwrap();
            arguments.drain(place..place + 2);
        }
        arguments.extend(more);
        let built = desk.kpot(&arguments);
        assert_eq!(code(&built), 2, "{more:?}: {}", stderr(&built));
        assert!(
            stderr(&built).contains(word),
            "{more:?}: {}",
            stderr(&built)
        );
        assert!(desk.made().is_empty());
    }
    let desk = Desk::new();
    for (version, word) in [
        ("v1.12.0", "1.13 to 1.36"),
        ("v1.12.0", "the nearest that it knows are 1.13 and 1.14"),
        ("v1.37.0", "the nearest that it knows are 1.36 and 1.35"),
        ("stable-1.99", "the nearest that it knows are 1.36 and 1.35"),
        ("1.14.x", "like v1.14.0"),
    ] {
        let built = desk.kpot(&["build", "--k8s", version]);
        assert_eq!(code(&built), 2, "{}", stderr(&built));
        assert!(stderr(&built).contains(word), "{}", stderr(&built));
    }
    let unpinned = desk.kpot(&["build", "--k8s", "v1.20.2", "--docker-version", "20.10.24"]);
    assert_eq!(code(&unpinned), 2);
    assert!(
        stderr(&unpinned).contains("--pin docker=sha256:HEX"),
        "{}",
        stderr(&unpinned)
    );
    assert!(upstream.server.seen("").is_empty());
}

#[test]
fn a_wrong_checksum_is_named_with_its_address() {
    let upstream = Upstream::new("v1.20.2");
    let path = upstream.program("kubelet");
    upstream.put(
        &format!("{path}.sha256"),
        Sha256::of(b"other").hex().into_bytes(),
    );
    let url = format!("{}{path}", upstream.server.url());
    refused(
        &upstream,
        &[],
        1,
        &[&url, "published", &Sha256::of(b"other").hex()],
    );
}

#[test]
fn a_wrong_sha512_is_refused_too() {
    let upstream = Upstream::new("v1.14.0");
    upstream.put(
        &format!("{}.sha512", upstream.program("kubectl")),
        "ab".repeat(64).into_bytes(),
    );
    refused(&upstream, &[], 1, &["kubectl", "SHA-512"]);
}

#[test]
fn without_a_checksum_a_download_is_not_even_tried() {
    let upstream = Upstream::new("v1.20.2");
    let path = upstream.program("kubeadm");
    upstream
        .server
        .set(&format!("{path}.sha256"), vec![Answer::Status(404)]);
    refused(
        &upstream,
        &[],
        1,
        &["kubeadm.sha256", "404", "--pin kubeadm=sha256:HEX"],
    );
    assert!(upstream.server.seen("/kubeadm").is_empty());
    // A page that says "not found" with status 200 is no checksum either.
    upstream.put(
        &format!("{path}.sha256"),
        b"<html>not found</html>".to_vec(),
    );
    refused(&upstream, &[], 1, &["kubeadm.sha256", "hex digits"]);
    upstream.put(&format!("{path}.sha256"), vec![b'a'; 5000]);
    refused(&upstream, &[], 1, &["kubeadm.sha256", "4096"]);
}

#[test]
fn another_docker_than_the_pinned_one_is_refused() {
    let upstream = Upstream::new("v1.20.2");
    let body = support::upstream::archive("docker/", &["dockerd"]);
    upstream.put(
        "/download.docker.com/linux/static/stable/x86_64/docker-20.10.24.tgz",
        body.clone(),
    );
    refused(
        &upstream,
        &[],
        1,
        &[
            "docker-20.10.24.tgz",
            &upstream.docker().to_string(),
            &Sha256::of(&body).to_string(),
        ],
    );
    // By default the shipped pin counts, and the message says how to say otherwise.
    upstream.put(
        "/download.docker.com/linux/static/stable/x86_64/docker-20.10.23.tgz",
        body.clone(),
    );
    let desk = Desk::new();
    let mut arguments = upstream.arguments("x.pot");
    for option in ["--docker-version", "--pin"] {
        let place = arguments
            .iter()
            .position(|argument| argument == option)
            .unwrap();
        arguments.drain(place..place + 2);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let built = desk.kpot(&arguments);
    assert_eq!(code(&built), 1);
    let advice = format!("--pin docker={}", Sha256::of(&body));
    assert!(stderr(&built).contains(&advice), "{}", stderr(&built));
}

#[test]
fn an_archive_with_more_than_programs_is_refused() {
    let upstream = Upstream::new("v1.20.2");
    let body = support::upstream::archive("docker/deeper/", &["dockerd"]);
    upstream.put(
        "/download.docker.com/linux/static/stable/x86_64/docker-20.10.24.tgz",
        body.clone(),
    );
    let pin = format!("docker={}", Sha256::of(&body));
    let desk = Desk::new();
    let mut arguments = upstream.arguments("x.pot");
    let place = arguments
        .iter()
        .position(|argument| argument == "--pin")
        .unwrap();
    arguments[place + 1] = pin;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let built = desk.kpot(&arguments);
    assert_eq!(code(&built), 1);
    assert!(
        stderr(&built).contains("docker/deeper/dockerd"),
        "{}",
        stderr(&built)
    );
}

#[test]
fn a_missing_image_is_named() {
    let upstream = Upstream::new("v1.20.2");
    upstream
        .server
        .set("/v2/coredns/manifests/1.7.0", vec![Answer::Status(404)]);
    refused(
        &upstream,
        &[],
        1,
        &[
            "k8s.gcr.io/coredns:1.7.0",
            "/v2/coredns/manifests/1.7.0",
            "404",
        ],
    );
    assert_eq!(
        upstream.server.seen("/v2/coredns/manifests/1.7.0").len(),
        1,
        "404 is final"
    );
}

#[test]
fn manifests_that_are_none_of_ours_are_refused() {
    let image = FakeImage::new("etcd");
    manifest_refused(
        &json!({ "schemaVersion": 1, "fsLayers": [] }),
        &["schema 1"],
    );
    manifest_refused(
        &json!({ "schemaVersion": 2 }),
        &["neither an image manifest nor an index"],
    );
    let foreign = image.index(&json!({ "os": "linux", "architecture": "arm64" }));
    manifest_refused(&foreign, &["no image for linux/amd64"]);
    let windows = image.index(&json!({ "os": "windows", "architecture": "amd64" }));
    manifest_refused(&windows, &["no image for linux/amd64"]);

    let mut chart = image.clone();
    chart.manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    manifest_refused(&chart.manifest, &["no container image", "helm"]);
    let mut layer = image.clone();
    layer.manifest["layers"][0]["mediaType"] =
        json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    manifest_refused(&layer.manifest, &["foreign layer"]);
    let mut huge = image.clone();
    huge.manifest["layers"][0]["size"] = json!(1_u64 << 40);
    manifest_refused(&huge.manifest, &["more than the limit"]);
    let mut fewer = image.clone();
    fewer.manifest["layers"].as_array_mut().unwrap().pop();
    manifest_refused(&fewer.manifest, &["1 layers and the config 2"]);
}

#[test]
fn an_index_within_an_index_is_refused() {
    let upstream = Upstream::new("v1.20.2");
    let image = FakeImage::new("etcd");
    let platform = json!({ "os": "linux", "architecture": "amd64" });
    let mut nesting = image.clone();
    nesting.manifest = image.index(&platform);
    upstream.put_manifest(
        "etcd",
        "inner",
        &serde_json::to_vec(&nesting.manifest).unwrap(),
    );
    upstream.put_manifest(
        "etcd",
        "3.4.13-0",
        &serde_json::to_vec(&nesting.index(&platform)).unwrap(),
    );
    refused(&upstream, &[], 1, &["index within an index"]);
}

#[test]
fn manifests_and_configs_are_held_to_their_digests_and_limits() {
    let upstream = Upstream::new("v1.20.2");
    let manifest = serde_json::to_vec(&FakeImage::new("etcd").manifest).unwrap();
    let path = "/v2/etcd/manifests/3.4.13-0";
    let lie = Sha256::of(b"something else").to_string();
    upstream.server.set(
        path,
        vec![Answer::With(
            "Docker-Content-Digest",
            lie.clone(),
            manifest.clone(),
        )],
    );
    refused(&upstream, &[], 1, &[path, "its digest is", &lie]);
    let mut padded = manifest;
    padded.resize((4 << 20) + 1, b' ');
    upstream.server.set(path, vec![Answer::Plain(padded)]);
    refused(&upstream, &[], 1, &[path, "more than the limit of 4194304"]);
}

#[test]
fn an_image_for_another_machine_is_refused() {
    let mut image = FakeImage::new("etcd");
    image.config["architecture"] = json!("arm64");
    image.describe();
    image_refused(&image, &["linux/arm64", "linux/amd64"]);
}

#[test]
fn a_layer_is_held_to_its_digest_and_its_diff_id() {
    let mut image = FakeImage::new("etcd");
    image.config["rootfs"]["diff_ids"][1] = json!(Sha256::of(b"another tar"));
    image.describe();
    image_refused(
        &image,
        &[
            "k8s.gcr.io/etcd:3.4.13-0",
            "unpacks to",
            &Sha256::of(b"another tar").to_string(),
        ],
    );

    let upstream = Upstream::new("v1.20.2");
    let image = FakeImage::new("etcd");
    let path = format!("/v2/etcd/blobs/{}", Sha256::of(&image.layers[1]));
    let mut other = image.layers[1].clone();
    other[100] ^= 1;
    upstream.put(&path, other);
    refused(&upstream, &[], 1, &[&path, "its digest is"]);
    upstream.put(&path, gzip(&content("longer", 900_000)));
    refused(&upstream, &[], 1, &[&path, "instead of"]);
}

#[test]
fn a_config_that_was_exchanged_is_refused() {
    let upstream = Upstream::new("v1.20.2");
    let image = FakeImage::new("etcd");
    let config = serde_json::to_vec(&image.config).unwrap();
    let path = format!("/v2/etcd/blobs/{}", Sha256::of(&config));
    upstream.put(&path, b"{}".to_vec());
    refused(&upstream, &[], 1, &[&path, "its digest is"]);
}

#[test]
fn a_server_that_stumbles_is_asked_again() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let path = upstream.program("kubelet");
    let body = content("kubelet", 300_000);
    upstream.server.set(
        &path,
        vec![
            Answer::Status(500),
            Answer::Cut(100_000, body.clone()),
            Answer::Body(body),
        ],
    );
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let told = stderr(&built);
    assert!(
        told.contains("500") && told.contains("trying again"),
        "{told}"
    );
    let asked = upstream.server.seen("/kubelet");
    assert_eq!(asked.len(), 3);
    // However much of the piece arrived before the cut is not asked for again.
    assert!(
        asked[2].headers["range"].starts_with("bytes="),
        "{:?}",
        asked[2]
    );
    assert_eq!(code(&desk.verify(&desk.out().join("x.pot"))), 0);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let built = desk.build(&upstream, "/proc/x.pot", &[]);
    assert_eq!(code(&built), 1);
    assert!(
        stderr(&built).contains("beside the output file"),
        "{}",
        stderr(&built)
    );
}

#[test]
fn verify_and_inspect_say_what_they_cannot_read() {
    let desk = Desk::new();
    // A slip of the pen, as in the table of exit codes.
    for missing in [
        desk.verify(&desk.out().join("none.pot")),
        desk.kpot(&["inspect", "none.pot"]),
    ] {
        assert_eq!(code(&missing), 2, "{}", stderr(&missing));
        assert!(
            stderr(&missing).contains("none.pot"),
            "{}",
            stderr(&missing)
        );
    }
    std::fs::write(desk.out().join("text.pot"), "this is no pot").unwrap();
    assert_eq!(code(&desk.verify(&desk.out().join("text.pot"))), 4);
    assert_ne!(code(&desk.kpot(&["inspect", "text.pot"])), 0);
    let no_signers = desk.kpot(&["verify", "text.pot", "--signers", "nowhere"]);
    assert_eq!(code(&no_signers), 1);
    assert!(
        stderr(&no_signers).contains("nowhere"),
        "{}",
        stderr(&no_signers)
    );
    assert_eq!(
        code(&desk.kpot(&["verify", "text.pot"])),
        2,
        "--signers is required"
    );
}
