//! `kpot build --plan`: what it shows, and what it does not fetch.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made"
)]

mod support;

use bundle_spec::Sha256;
use serde_json::{Value, json};
use support::server::Answer;
use support::upstream::{FakeImage, Upstream};
use support::{Desk, code, stderr, stdout};

/// Plans on a desk without a key: it must do, and leave no file.
fn planned(upstream: &Upstream, more: &[&str]) -> Value {
    let desk = Desk::without_key();
    let mut all = vec!["--plan", "--json"];
    all.extend(more);
    let shown = desk.build(upstream, "x.pot", &all);
    assert_eq!(code(&shown), 0, "{}", stderr(&shown));
    assert!(desk.made().is_empty(), "{:?}", desk.made());
    serde_json::from_slice(&shown.stdout).unwrap()
}

/// The size of an image's config and layers.
fn size(image: &FakeImage) -> u64 {
    let config = serde_json::to_vec(&image.config).unwrap();
    let layers: usize = image.layers.iter().map(Vec::len).sum();
    (config.len() + layers) as u64
}

#[test]
fn a_plan_tells_sizes_and_checks_and_fetches_neither_blob_nor_checksum() {
    let upstream = Upstream::new("v1.14.0");
    let report = planned(&upstream, &[]);
    assert_eq!(report["name"], "kpot-v1.14.0-amd64");
    assert_eq!(report["kubernetes"], "v1.14.0");
    assert_eq!(report["resolved"], Value::Null);
    assert_eq!(report["runtime"]["version"], "20.10.24");
    assert_eq!(report["unknown"], 0);

    let downloads = report["downloads"].as_array().unwrap();
    assert_eq!(downloads.len(), 5);
    let kubelet = &downloads[4];
    assert_eq!(kubelet["name"], "kubelet");
    assert_eq!(kubelet["size"], 300_000);
    assert_eq!(kubelet["checked"], "published-sha512");
    assert_eq!(
        kubelet["checksum"],
        "https://dl.k8s.io/release/v1.14.0/bin/linux/amd64/kubelet.sha512"
    );
    let from = format!("{}{}", upstream.server.url(), upstream.program("kubelet"));
    assert_eq!(kubelet["from"], *from);
    assert_eq!(downloads[1]["checked"], "given-pin");
    assert_eq!(downloads[1]["digest"], upstream.docker().to_string());

    let images = report["images"].as_array().unwrap();
    assert_eq!(images.len(), 7);
    let etcd = FakeImage::new("etcd");
    let manifest = serde_json::to_vec(&etcd.manifest).unwrap();
    assert_eq!(images[1]["name"], "k8s.gcr.io/etcd:3.3.10");
    assert_eq!(images[1]["size"], size(&etcd));
    assert_eq!(images[1]["digest"], Sha256::of(&manifest).to_string());

    // Seven images share one layer, which a build fetches once.
    let sum = |parts: &[Value]| {
        parts
            .iter()
            .map(|part| part["size"].as_u64().unwrap())
            .sum::<u64>()
    };
    let base = etcd.layers[0].len() as u64;
    assert_eq!(report["size"], sum(downloads) + sum(images) - 6 * base);

    let seen = upstream.server.seen("");
    assert_eq!(seen.len(), 5 + 7, "{seen:?}");
    for asked in seen {
        let expected = if asked.path.contains("/manifests/") {
            "GET"
        } else {
            "HEAD"
        };
        assert_eq!(asked.method, expected, "{}", asked.path);
    }
}

#[test]
fn a_plan_is_a_table_and_no_output_is_touched() {
    let upstream = Upstream::new("v1.20.2");
    let desk = Desk::without_key();
    std::fs::write(desk.out().join("x.pot"), "the pot of yesterday").unwrap();
    let shown = desk.build(&upstream, "x.pot", &["--plan"]);
    assert_eq!(code(&shown), 0, "{}", stderr(&shown));
    let text = stdout(&shown);
    for told in [
        "WHAT",
        "CHECKED BY",
        "kubelet",
        "300.0 kB",
        "published SHA-256",
        "--pin",
        "k8s.gcr.io/etcd:3.4.13-0",
        "digests of the manifest",
        "kpot-v1.20.2-amd64: 5 downloads and 7 images, ",
        " to fetch; what images share is fetched once",
        "nothing was written",
        &upstream.server.url(),
    ] {
        assert!(text.contains(told), "{told:?} is not in: {text}");
    }
    assert!(!text.contains("unknown"), "{text}");
    let old = std::fs::read_to_string(desk.out().join("x.pot")).unwrap();
    assert_eq!(old, "the pot of yesterday");
    assert_eq!(desk.made(), ["x.pot"]);
}

#[test]
fn a_build_fetches_what_was_planned() {
    let upstream = Upstream::new("v1.20.2");
    let report = planned(&upstream, &[]);
    let desk = Desk::new();
    let built = desk.build(&upstream, "x.pot", &["--json"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let built: Value = serde_json::from_slice(&built.stdout).unwrap();
    let artifacts = built["manifest"]["artifacts"].as_array().unwrap();
    for (planned, made) in report["downloads"]
        .as_array()
        .unwrap()
        .iter()
        .zip(artifacts)
    {
        for (field, own) in [
            ("name", "name"),
            ("version", "version"),
            ("url", "source"),
            ("checked", "checked"),
        ] {
            assert_eq!(planned[field], made[own], "{field}");
        }
    }
    let names = |images: &Value, field: &str| {
        let images = images.as_array().unwrap();
        images
            .iter()
            .map(|image| image[field].clone())
            .collect::<Vec<_>>()
    };
    let made: Vec<Value> = names(&built["manifest"]["images"], "names")
        .into_iter()
        .map(|names| names[0].clone())
        .collect();
    assert_eq!(names(&report["images"], "name"), made);
}

#[test]
fn what_a_server_does_not_tell_is_unknown_and_said() {
    let upstream = Upstream::new("v1.20.2");
    let kubelet = upstream.program("kubelet");
    upstream.server.set(&kubelet, vec![Answer::Status(405)]);
    let kubeadm = upstream.program("kubeadm");
    upstream
        .server
        .set(&kubeadm, vec![Answer::Plain(Vec::new())]);
    let coredns = "/v2/coredns/manifests/1.7.0";
    upstream.server.set(coredns, vec![Answer::Status(404)]);
    let report = planned(&upstream, &[]);
    assert_eq!(report["unknown"], 3);
    for (part, word) in [
        (
            &report["downloads"][4],
            format!("{kubelet}: the server answered 405"),
        ),
        (
            &report["downloads"][2],
            format!("{kubeadm}: the server does not tell its size"),
        ),
        (
            &report["images"][0],
            format!("{coredns}: the server answered 404"),
        ),
    ] {
        assert_eq!(part["size"], Value::Null, "{part}");
        let problem = part["problem"].as_str().unwrap();
        assert!(problem.contains(&word), "{word:?} is not in: {problem}");
    }
    let shown = Desk::without_key().build(&upstream, "x.pot", &["--plan"]);
    assert_eq!(code(&shown), 0, "{}", stderr(&shown));
    let text = stdout(&shown);
    assert!(text.contains("and 3 whose sizes are unknown"), "{text}");
    assert!(text.contains(coredns), "{text}");
}

#[test]
fn what_a_build_would_refuse_in_a_manifest_is_said_in_the_plan() {
    let upstream = Upstream::new("v1.20.2");
    let mut foreign = FakeImage::new("etcd");
    foreign.manifest["layers"][0]["mediaType"] =
        json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let manifest = serde_json::to_vec(&foreign.manifest).unwrap();
    upstream.put_manifest("etcd", "3.4.13-0", &manifest);
    let report = planned(&upstream, &[]);
    let problem = report["images"][1]["problem"].as_str().unwrap();
    assert!(problem.contains("foreign layer"), "{problem}");
}

#[test]
fn an_image_behind_an_index_has_the_size_of_its_own_manifest() {
    let upstream = Upstream::new("v1.20.2");
    let image = FakeImage::new("flannel");
    let platform = json!({ "os": "linux", "architecture": "amd64" });
    let inner = serde_json::to_vec(&image.manifest).unwrap();
    upstream.put_manifest("lab/flannel", "inner", &inner);
    let index = serde_json::to_vec(&image.index(&platform)).unwrap();
    upstream.put_manifest("lab/flannel", "v1", &index);
    let name = format!("{}/lab/flannel:v1", upstream.server.address());
    let report = planned(&upstream, &["--image", &name]);
    let images = report["images"].as_array().unwrap();
    let found = images.iter().find(|image| image["name"] == *name).unwrap();
    assert_eq!(found["size"], size(&image), "{found}");
    assert_eq!(found["digest"], Sha256::of(&inner).to_string());
    assert!(
        upstream
            .server
            .seen("")
            .iter()
            .all(|seen| !seen.path.contains("/blobs/"))
    );
}

#[test]
fn a_plan_says_which_version_it_is_for() {
    let upstream = Upstream::new("v1.20.2");
    let path = upstream.mark("stable-1.20", b"v1.20.2\n");
    let desk = Desk::without_key();
    let shown = desk.build_version(&upstream, "1.20", "x.pot", &["--plan", "--json"]);
    assert_eq!(code(&shown), 0, "{}", stderr(&shown));
    let report: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(report["kubernetes"], "v1.20.2");
    assert_eq!(report["resolved"]["marker"], "stable-1.20");
    assert_eq!(
        report["resolved"]["from"],
        format!("{}{path}", upstream.server.url())
    );
}

#[test]
fn what_cannot_be_built_cannot_be_planned() {
    let upstream = Upstream::new("v1.20.2");
    let desk = Desk::without_key();
    for (version, word) in [("v1.37.0", "1.36 and 1.35"), ("v1.12.0", "1.13 and 1.14")] {
        let shown = desk.build_version(&upstream, version, "x.pot", &["--plan"]);
        assert_eq!(code(&shown), 2, "{}", stderr(&shown));
        assert!(stderr(&shown).contains(word), "{}", stderr(&shown));
    }
    assert!(upstream.server.seen("").is_empty());
}

#[test]
fn a_plan_tells_what_is_in_the_cache_and_what_is_left_to_fetch() {
    let upstream = Upstream::new("v1.20.2");
    let desk = Desk::new();
    let plan = |more: &[&str]| {
        let mut all = vec!["--plan", "--json"];
        all.extend(more);
        let shown = desk.build(&upstream, "x.pot", &all);
        assert_eq!(code(&shown), 0, "{}", stderr(&shown));
        serde_json::from_slice::<Value>(&shown.stdout).unwrap()
    };
    let before = plan(&[]);
    assert_eq!(before["cached"], 0);
    assert!(!desk.cache().exists(), "a plan makes no cache");
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));

    let after = plan(&[]);
    assert_eq!(after["size"], before["size"]);
    assert_eq!(after["cached"], after["size"]);
    for kind in ["downloads", "images"] {
        for item in after[kind].as_array().unwrap() {
            assert_eq!(item["cached"], item["size"], "{item}");
        }
    }
    let shown = stdout(&desk.build(&upstream, "x.pot", &["--plan"]));
    assert_eq!(shown.matches("  in the cache\n").count(), 5 + 7, "{shown}");
    assert!(shown.contains("7 images, 0 B to fetch, "), "{shown}");
    assert_eq!(plan(&["--no-cache"])["cached"], 0);

    // A program of another size is another program, whatever it is called.
    let kubelet = upstream.program("kubelet");
    upstream.put(&kubelet, vec![7; 299_999]);
    // And of etcd's two blobs, the layer that all images share is still there.
    let etcd = FakeImage::new("etcd");
    let config = serde_json::to_vec(&etcd.config).unwrap();
    let content = desk.cache().join("sha256").join(Sha256::of(&config).hex());
    std::fs::remove_file(content).unwrap();
    let changed = plan(&[]);
    assert_eq!(changed["downloads"][4]["name"], "kubelet");
    assert_eq!(changed["downloads"][4]["cached"], 0);
    assert_eq!(
        changed["images"][1]["cached"],
        etcd.layers.iter().map(Vec::len).sum::<usize>()
    );
    let left = changed["size"].as_u64().unwrap() - changed["cached"].as_u64().unwrap();
    assert_eq!(left, 299_999 + config.len() as u64);
    let shown = stdout(&desk.build(&upstream, "x.pot", &["--plan"]));
    let some = shown
        .lines()
        .find(|line| line.contains("of it in the cache"));
    assert!(some.is_some_and(|line| line.contains("/etcd:")), "{shown}");
    assert_eq!(shown.matches("  in the cache\n").count(), 4 + 6, "{shown}");
}
