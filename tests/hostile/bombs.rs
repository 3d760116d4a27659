//! Layers that unpack to far more than they are, and papers as large as they may be: the builder's memory does not grow with them.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bundle_spec::Sha256;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::support::Desk;
use super::support::server::Answer;
use super::support::upstream::{FakeImage, Upstream};

/// What the bombs unpack to, in bytes: much more than the builder may use.
const UNPACKED: usize = 160 << 20;

/// What the builder may use at its peak, in KiB.
const MEMORY: u64 = 128 << 10;

/// A build's exit code, what it told, and its peak in KiB.
struct Ended {
    code: i32,
    told: String,
    peak: u64,
}

/// `kpot build` with its memory watched until it ends.
fn watched(desk: &Desk, upstream: &Upstream, more: &[&str]) -> Ended {
    let started = Instant::now();
    let told = desk.path("told");
    let arguments = upstream.arguments("x.pot");
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--jobs", "2"]);
    arguments.extend(more);
    let mut command = desk.command(&arguments);
    command
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&told).unwrap());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        if let Ok(text) = std::fs::read_to_string(&status)
            && let Some(line) = text.lines().find(|line| line.starts_with("VmHWM:"))
        {
            peak = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status.code().unwrap();
        }
        assert!(
            started.elapsed() < Duration::from_mins(5),
            "it does not end"
        );
        std::thread::sleep(Duration::from_millis(10));
    };
    Ended {
        code,
        told: std::fs::read_to_string(told).unwrap(),
        peak,
    }
}

fn zeros(mut to: impl std::io::Write) {
    let piece = vec![0; 1 << 20];
    for _ in 0..UNPACKED / piece.len() {
        to.write_all(&piece).unwrap();
    }
}

/// An image whose one layer is `layer`, of this type; its config promises something else.
fn image(kind: &str, layer: Vec<u8>) -> FakeImage {
    let mut image = FakeImage::new("etcd");
    image.layers = vec![layer];
    image.config["rootfs"]["diff_ids"] = json!([Sha256::of(b"a small tar")]);
    image.describe();
    image.manifest["layers"][0]["mediaType"] = json!(kind);
    image
}

#[test]
fn bombs_are_refused_in_little_memory() {
    // As many members as it takes: one after another they are one stream.
    let mut member = GzEncoder::new(Vec::new(), Compression::best());
    member.write_all(&vec![0; 1 << 20]).unwrap();
    let gzip = member.finish().unwrap().repeat(UNPACKED >> 20);
    let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
    zeros(&mut zstd);
    let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
    // Who unpacks this must keep 128 MiB.
    wide.window_log(27).unwrap();
    zeros(&mut wide);
    let bombs = [
        (
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            gzip,
            "unpacks to",
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+zstd",
            zstd.finish().unwrap(),
            "unpacks to",
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+zstd",
            wide.finish().unwrap(),
            "too much memory",
        ),
    ];
    for (kind, layer, word) in bombs {
        let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
        assert!(layer.len() < UNPACKED / 500);
        let digest = Sha256::of(&layer);
        upstream.push("etcd", "3.4.13-0", &image(kind, layer));
        let ended = watched(&desk, &upstream, &[]);
        assert_eq!(ended.code, 1, "{}", ended.told);
        let url = format!("{}/v2/etcd/blobs/{digest}", upstream.server.url());
        for word in [word, "k8s.gcr.io/etcd:3.4.13-0", &url] {
            assert!(
                ended.told.contains(word),
                "{word:?} is not in: {}",
                ended.told
            );
        }
        assert!(
            ended.peak > 0 && ended.peak < MEMORY,
            "{kind}: {} KiB",
            ended.peak
        );
        assert!(desk.made().is_empty(), "there is no pot: {:?}", desk.made());
    }
}

#[test]
fn bodies_without_end_are_refused_in_little_memory() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    // All six transfers at once bring more than they may.
    for name in ["etcd", "coredns", "pause", "kube-proxy"] {
        for tag in ["3.4.13-0", "1.7.0", "3.2", "v1.20.2"] {
            let path = format!("/v2/{name}/manifests/{tag}");
            upstream
                .server
                .set(&path, vec![Answer::Plain(vec![b' '; 64 << 20])]);
        }
    }
    let ended = watched(&desk, &upstream, &[]);
    assert_eq!(ended.code, 1, "{}", ended.told);
    assert!(ended.told.contains("limit of 4194304"), "{}", ended.told);
    assert!(ended.peak < MEMORY, "{} KiB", ended.peak);
    assert!(desk.made().is_empty());
}

/// As large as a manifest or a config may be, but for what belongs into it besides, in bytes.
const LARGE: usize = (4 << 20) - (64 << 10);

#[test]
fn lists_of_many_entries_are_refused_in_little_memory() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let image = FakeImage::new("etcd");
    let config = image.manifest["config"].clone();
    let entry = image.manifest["layers"][0].clone();
    let entries = vec![entry.clone(); LARGE / entry.to_string().len()];
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": entries });
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    let [manifest, index] = [manifest, index].map(|it| serde_json::to_vec(&it).unwrap());
    let images = [
        ("etcd", "3.4.13-0"),
        ("coredns", "1.7.0"),
        ("pause", "3.2"),
        ("kube-apiserver", "v1.20.2"),
        ("kube-controller-manager", "v1.20.2"),
        ("kube-proxy", "v1.20.2"),
        ("kube-scheduler", "v1.20.2"),
    ];
    for (at, (name, tag)) in images.into_iter().enumerate() {
        let sent = if at % 2 == 0 { &manifest } else { &index };
        upstream.put_manifest(name, tag, sent);
    }
    let ended = watched(&desk, &upstream, &[]);
    assert_eq!(ended.code, 1, "{}", ended.told);
    let told = "more than 1000 entries";
    assert!(ended.told.contains(told), "{}", ended.told);
    assert!(ended.peak > 0 && ended.peak < MEMORY, "{} KiB", ended.peak);
    assert!(desk.made().is_empty());
}

#[test]
fn many_images_with_large_papers_are_packed_in_little_memory() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let mut arguments = vec!["--verbatim".to_owned()];
    for n in 0..16 {
        let mut image = FakeImage::new(&format!("large {n}"));
        image.config["more"] = json!("x".repeat(LARGE));
        image.describe();
        image.manifest["annotations"] = json!({ "more": "x".repeat(LARGE) });
        let name = format!("team/large-{n}");
        upstream.push(&name, "v1", &image);
        arguments.extend([
            "--image".to_owned(),
            format!("{}/{name}:v1", upstream.server.address()),
        ]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = watched(&desk, &upstream, &arguments);
    assert_eq!(ended.code, 0, "{}", ended.told);
    assert!(ended.peak > 0 && ended.peak < MEMORY, "{} KiB", ended.peak);
}
