//! `kpot.lock`: the same bytes again, elsewhere and later; and whatever is another than it says, refused by name.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at and change the files that kpot made"
)]

mod support;

use std::path::Path;

use bundle_spec::Sha256;
use serde_json::Value;
use support::server::Answer;
use support::upstream::{FakeImage, Upstream, content};
use support::{Desk, code, stderr, stdout};

const ETCD: &str = "k8s.gcr.io/etcd:3.4.13-0";

/// A desk with a recipe for 1.20 with a file and an image of its own, and with a lock of it.
fn locked() -> (Desk, Upstream) {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    upstream.mark("stable-1.20", b"v1.20.2");
    upstream.push("lab/flannel", "v1", &FakeImage::new("flannel"));
    std::fs::write(desk.out().join("notes.txt"), "read me").unwrap();
    std::fs::write(desk.out().join("kpot.yaml"), recipe(&upstream, "")).unwrap();
    let made = desk.kpot(&["lock"]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    assert!(
        stdout(&made).contains("+ kubeadm (amd64): sha256:"),
        "{}",
        stdout(&made)
    );
    assert_eq!(desk.made(), ["kpot.lock", "kpot.yaml", "notes.txt"]);
    (desk, upstream)
}

fn recipe(upstream: &Upstream, image: &str) -> String {
    let address = upstream.server.address();
    format!(
        "k8s: 1.20\n{}files:\n  - path: notes.txt\nimages:\n  - {address}/lab/flannel:v1\n{image}",
        upstream.recipe()
    )
}

fn lock(desk: &Desk) -> Value {
    serde_json::from_slice(&std::fs::read(desk.out().join("kpot.lock")).unwrap()).unwrap()
}

/// Builds with `--locked`: it must be refused with all these words, and leave nothing.
fn refused(desk: &Desk, words: &[&str]) -> String {
    let before = desk.made();
    let built = desk.kpot(&["build", "--locked"]);
    let told = stderr(&built);
    assert_eq!(code(&built), 1, "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
    assert_eq!(desk.made(), before);
    told
}

/// Another kubelet, published properly.
fn another_kubelet(upstream: &Upstream, body: Vec<u8>) -> Sha256 {
    let path = upstream.program("kubelet");
    let digest = Sha256::of(&body);
    upstream.put(&format!("{path}.sha256"), digest.hex().into_bytes());
    upstream.put(&path, body);
    digest
}

#[test]
fn one_lock_makes_the_same_bytes_elsewhere_and_later() {
    let (desk, upstream) = locked();
    let one = desk.kpot(&["build", "--locked", "--jobs", "1", "-o", "one.pot"]);
    assert_eq!(code(&one), 0, "{}", stderr(&one));
    let told = stderr(&one);
    assert!(told.contains("the lock is kpot.lock"), "{told}");
    assert!(!told.contains("warning: kpot"), "{told}");

    let other = desk.path("other");
    std::fs::create_dir(&other).unwrap();
    for name in ["kpot.yaml", "kpot.lock", "notes.txt"] {
        std::fs::copy(desk.out().join(name), other.join(name)).unwrap();
    }
    // Meanwhile a newer patch came out, and tags moved.
    let asked = upstream.mark("stable-1.20", b"v1.20.9");
    let before = upstream.server.seen(&asked).len();
    upstream.push("etcd", "3.4.13-0", &FakeImage::new("another etcd"));
    upstream.push("lab/flannel", "v1", &FakeImage::new("another flannel"));
    let file = |name: &str| other.join(name).display().to_string();
    let two = desk.kpot(&[
        "build",
        "-f",
        &file("kpot.yaml"),
        "--jobs",
        "4",
        "-o",
        &file("two.pot"),
    ]);
    assert_eq!(code(&two), 0, "{}", stderr(&two));
    assert_eq!(
        upstream.server.seen(&asked).len(),
        before,
        "the version stays"
    );
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert!(read(&desk.out().join("one.pot")) == read(&other.join("two.pot")));

    // Without the lock it is another pot; the same version has to be said now.
    let free = desk.kpot(&["build", "--no-lock", "--k8s", "v1.20.2", "-o", "free.pot"]);
    assert_eq!(code(&free), 0, "{}", stderr(&free));
    assert!(read(&desk.out().join("one.pot")) != read(&desk.out().join("free.pot")));
}

#[test]
fn a_lock_says_what_everything_is_and_how_it_is_packed() {
    let (desk, upstream) = locked();
    let lock = lock(&desk);
    assert_eq!(lock["kpot"], env!("CARGO_PKG_VERSION"));
    assert!(lock["compression"]["level"].is_i64());
    assert_eq!(lock["kubernetes"]["wanted"], "stable-1.20");
    assert_eq!(lock["kubernetes"]["version"], "v1.20.2");
    let target = &lock["targets"][0];
    assert_eq!(target["arch"], "amd64");
    let artifacts = target["artifacts"].as_array().unwrap();
    let names: Vec<&str> = artifacts
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "cni-plugins",
            "docker",
            "file.notes.txt",
            "kubeadm",
            "kubectl",
            "kubelet"
        ]
    );
    assert_eq!(artifacts[5]["size"], 300_000);
    let digest = Sha256::of(&content("kubelet", 300_000));
    assert_eq!(artifacts[5]["digest"], digest.to_string());
    assert_eq!(artifacts[1]["digest"], upstream.docker().to_string());
    let images = target["images"].as_array().unwrap();
    assert_eq!(images.len(), 8);
    let etcd = images.iter().find(|it| it["name"] == ETCD).unwrap();
    let manifest = serde_json::to_vec(&FakeImage::new("etcd").manifest).unwrap();
    assert_eq!(etcd["digest"], Sha256::of(&manifest).to_string());
    // No layer was fetched for it.
    let layer = Sha256::of(&FakeImage::new("etcd").layers[1]);
    assert!(upstream.server.seen(&layer.to_string()).is_empty());
}

#[test]
fn what_changed_upstream_is_refused_with_what_was_expected_and_seen() {
    let (desk, upstream) = locked();
    let old = Sha256::of(&content("kubelet", 300_000)).to_string();
    // Right size, other bytes, and a checksum that fits them.
    let new = another_kubelet(&upstream, content("another", 300_000)).to_string();
    let path = upstream.program("kubelet");
    refused(
        &desk,
        &[
            "kubelet, from ",
            &path,
            &old,
            &new,
            "not as locked",
            "kpot lock --update kubelet",
        ],
    );
    // A lock binds without the flag, too; in the cache is still what it pins.
    let plain = desk.kpot(&["build", "--no-cache", "-o", "x.pot"]);
    assert_eq!(code(&plain), 1);
    assert!(stderr(&plain).contains(&new), "{}", stderr(&plain));

    // Another size is seen before anything is fetched.
    another_kubelet(&upstream, content("another", 299_999));
    let before = upstream.server.seen("/blobs/").len();
    refused(
        &desk,
        &[
            "kubelet v1.20.2, from ",
            "(300000 bytes), seen 299999 bytes",
        ],
    );
    assert_eq!(upstream.server.seen("/blobs/").len(), before);
    another_kubelet(&upstream, content("kubelet", 300_000));

    // A tag that moved, and one that is gone, at once.
    let moved = FakeImage::new("another etcd");
    upstream.push("etcd", "3.4.13-0", &moved);
    let new = Sha256::of(&serde_json::to_vec(&moved.manifest).unwrap()).to_string();
    let old =
        Sha256::of(&serde_json::to_vec(&FakeImage::new("etcd").manifest).unwrap()).to_string();
    let flannel = "/v2/lab/flannel/manifests/v1";
    upstream.server.set(flannel, vec![Answer::Status(404)]);
    refused(
        &desk,
        &[
            "the image k8s.gcr.io/etcd:3.4.13-0, from ",
            &old,
            &new,
            "lab/flannel:v1, from ",
            "seen nothing: ",
            "404",
        ],
    );
    std::fs::write(desk.out().join("notes.txt"), "read on").unwrap();
    let plain = desk.kpot(&["build", "-o", "x.pot"]);
    assert_eq!(code(&plain), 1);
    let told = stderr(&plain);
    assert!(told.contains("file.notes.txt, from notes.txt"), "{told}");
    assert_eq!(desk.made(), ["kpot.lock", "kpot.yaml", "notes.txt"]);
}

#[test]
fn what_the_lock_lacks_or_says_otherwise_is_refused_and_nobody_is_asked() {
    let (desk, upstream) = locked();
    let good = std::fs::read_to_string(desk.out().join("kpot.lock")).unwrap();
    let before = upstream.server.seen("").len();
    let edited = |change: &dyn Fn(&mut Value)| {
        let mut lock: Value = serde_json::from_str(&good).unwrap();
        change(&mut lock);
        let text = serde_json::to_string_pretty(&lock).unwrap();
        std::fs::write(desk.out().join("kpot.lock"), text).unwrap();
    };
    edited(&|lock| {
        lock["targets"][0]["artifacts"]
            .as_array_mut()
            .unwrap()
            .remove(3);
    });
    refused(
        &desk,
        &[
            "kubeadm, from https://dl.k8s.io",
            " is not as locked: expected nothing, seen v1.20.2 from https://dl.k8s.io",
        ],
    );
    edited(&|lock| {
        lock["targets"][0]["images"]
            .as_array_mut()
            .unwrap()
            .remove(2);
    });
    refused(&desk, &["the image ", ", from ", "expected nothing, seen "]);
    edited(&|lock| lock["targets"] = Value::Array(Vec::new()));
    refused(&desk, &["everything for amd64", "expected nothing"]);
    edited(&|lock| lock["kpot"] = "0.0.1".into());
    refused(&desk, &["kpot itself", "expected 0.0.1, seen "]);
    edited(&|lock| lock["compression"]["level"] = 1.into());
    refused(&desk, &["the compression", "expected balanced (level 1,"]);
    edited(&|lock| lock["compression"]["tuning"]["zstd"] = "1.0.0".into());
    refused(&desk, &["the tuning of the compression", "zstd 1.0.0, "]);
    edited(&|lock| lock["targets"][0]["installer"]["size"] = 1.into());
    refused(&desk, &["the installer for amd64", "(1 bytes)"]);
    edited(&|lock| lock["kubernetes"]["wanted"] = "stable-1.19".into());
    refused(
        &desk,
        &[
            "the Kubernetes version",
            "expected stable-1.19, seen stable-1.20",
        ],
    );

    std::fs::write(desk.out().join("kpot.lock"), &good).unwrap();
    let other = desk.kpot(&["build", "--locked", "--compression", "fast", "--verbatim"]);
    let told = stderr(&other);
    assert_eq!(code(&other), 1, "{told}");
    assert!(told.contains("seen fast (level "), "{told}");
    assert!(told.contains("layers verbatim"), "{told}");

    // What is asked for besides, in the recipe or by a flag, and what nobody asks for any more.
    std::fs::write(desk.out().join("kpot.lock"), &good).unwrap();
    let built = desk.kpot(&[
        "build",
        "--locked",
        "--image",
        "busybox:1.36",
        "--cni-version",
        "v1.7.0",
    ]);
    let told = stderr(&built);
    assert_eq!(code(&built), 1, "{told}");
    assert!(
        told.contains("the image busybox:1.36, from docker.io, is not as locked: expected nothing"),
        "{told}"
    );
    assert!(
        told.contains("cni-plugins, from https://github.com/")
            && told.contains(" is not as locked: expected v1.7.1 from "),
        "{told}"
    );
    let less = recipe(&upstream, "").replace("files:\n  - path: notes.txt\n", "");
    std::fs::write(desk.out().join("kpot.yaml"), less).unwrap();
    refused(
        &desk,
        &["file.notes.txt, from file:notes.txt,", "seen nothing"],
    );
    assert_eq!(upstream.server.seen("").len(), before);

    // A file that is no lock, with the place.
    for (text, word) in [
        ("{\n  \"lock\": 1,\n  \"unknown\": 2\n}\n", "line 3 column"),
        ("{\"lock\": 2}", "form 2"),
        ("", "no lock"),
    ] {
        std::fs::write(desk.out().join("kpot.lock"), text).unwrap();
        for arguments in [&["build"][..], &["lock"]] {
            let refused = desk.kpot(arguments);
            assert_eq!(code(&refused), 2, "{}", stderr(&refused));
            assert!(stderr(&refused).contains(word), "{}", stderr(&refused));
            assert!(
                stderr(&refused).contains("kpot.lock"),
                "{}",
                stderr(&refused)
            );
        }
    }
    std::fs::remove_file(desk.out().join("kpot.lock")).unwrap();
    let none = desk.kpot(&["build", "--locked"]);
    assert_eq!(code(&none), 2, "{}", stderr(&none));
}

#[test]
fn sizes_and_ids_in_the_lock_count_too() {
    let (desk, _upstream) = locked();
    let good = std::fs::read_to_string(desk.out().join("kpot.lock")).unwrap();
    let mut lock: Value = serde_json::from_str(&good).unwrap();
    let images = lock["targets"][0]["images"].as_array_mut().unwrap();
    let etcd = images.iter_mut().find(|it| it["name"] == ETCD).unwrap();
    etcd["id"] = Sha256::of(b"other").to_string().into();
    std::fs::write(desk.out().join("kpot.lock"), lock.to_string()).unwrap();
    refused(&desk, &[ETCD, &Sha256::of(b"other").to_string()]);
}

#[test]
fn another_kpot_is_told_and_may_build() {
    let (desk, _upstream) = locked();
    let path = desk.out().join("kpot.lock");
    let text = std::fs::read_to_string(&path).unwrap();
    let own = format!("\"kpot\": \"{}\"", env!("CARGO_PKG_VERSION"));
    std::fs::write(&path, text.replace(&own, "\"kpot\": \"0.0.1\"")).unwrap();
    let built = desk.kpot(&["build", "-o", "x.pot"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert!(
        stderr(&built).contains("warning: kpot itself"),
        "{}",
        stderr(&built)
    );
}

#[test]
fn an_update_of_one_name_changes_that_one() {
    let (desk, upstream) = locked();
    let before = lock(&desk);
    let moved = FakeImage::new("another etcd");
    upstream.push("etcd", "3.4.13-0", &moved);
    upstream.push("pause", "3.2", &FakeImage::new("another pause"));
    another_kubelet(&upstream, content("another", 300_000));
    let asked = upstream.server.seen("").len();
    let updated = desk.kpot(&["lock", "--update", ETCD]);
    assert_eq!(code(&updated), 0, "{}", stderr(&updated));
    let told = stdout(&updated);
    assert_eq!(told.lines().count(), 3, "{told}");
    let paths = &upstream.server.seen("")[asked..];
    assert!(
        paths.iter().all(|seen| seen.path.contains("/v2/etcd/")),
        "{paths:?}"
    );

    let mut after = lock(&desk);
    let position = |lock: &Value| {
        let images = lock["targets"][0]["images"].as_array().unwrap();
        images.iter().position(|it| it["name"] == ETCD).unwrap()
    };
    let (old, new) = (position(&before), position(&after));
    assert_eq!(old, new);
    let etcd = &after["targets"][0]["images"][new];
    let manifest = serde_json::to_vec(&moved.manifest).unwrap();
    assert_eq!(etcd["digest"], Sha256::of(&manifest).to_string());
    after["targets"][0]["images"][new] = before["targets"][0]["images"][old].clone();
    assert_eq!(after, before);

    // The others are as they were, so what changed upstream is still refused.
    let told = refused(&desk, &["pause"]);
    assert!(!told.contains("etcd"), "{told}");
    let two = desk.kpot(&[
        "lock",
        "--update",
        "k8s.gcr.io/pause:3.2",
        "--update",
        "kubelet",
    ]);
    assert_eq!(code(&two), 0, "{}", stderr(&two));
    let built = desk.kpot(&["build", "--locked", "-o", "x.pot"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));

    let text = std::fs::read(desk.out().join("kpot.lock")).unwrap();
    let unknown = desk.kpot(&["lock", "--update", "kubeletd"]);
    assert_eq!(code(&unknown), 2);
    for word in [
        "kubeletd",
        "kubeadm, ",
        ETCD,
        "file.notes.txt",
        "kubernetes",
    ] {
        assert!(stderr(&unknown).contains(word), "{}", stderr(&unknown));
    }
    // One that fails leaves the lock as it was.
    upstream.put(
        &format!("{}.sha256", upstream.program("kubeadm")),
        vec![b'0'; 64],
    );
    let failed = desk.kpot(&["lock", "--update", "kubeadm"]);
    assert_eq!(code(&failed), 1, "{}", stderr(&failed));
    assert!(std::fs::read(desk.out().join("kpot.lock")).unwrap() == text);
}

#[test]
fn locking_again_adds_and_removes_and_moves_nothing_that_is_pinned() {
    let (desk, upstream) = locked();
    let before = lock(&desk);
    let asked = upstream.server.seen("").len();
    let again = desk.kpot(&["lock"]);
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    assert!(stdout(&again).contains("as it was"), "{}", stdout(&again));
    assert_eq!(upstream.server.seen("").len(), asked, "nobody is asked");

    upstream.push("etcd", "3.4.13-0", &FakeImage::new("another etcd"));
    upstream.push("lab/more", "v1", &FakeImage::new("more"));
    let more = format!("  - {}/lab/more:v1\n", upstream.server.address());
    let text = recipe(&upstream, &more).replace("files:\n  - path: notes.txt\n", "");
    std::fs::write(desk.out().join("kpot.yaml"), text).unwrap();
    let synced = desk.kpot(&["lock"]);
    assert_eq!(code(&synced), 0, "{}", stderr(&synced));
    let told = stdout(&synced);
    assert!(told.contains("- file.notes.txt (amd64): "), "{told}");
    assert!(told.contains("/lab/more:v1 (amd64): sha256:"), "{told}");
    assert_eq!(told.lines().count(), 3, "{told}");
    let after = lock(&desk);
    let etcd = |lock: &Value| {
        let images = lock["targets"][0]["images"].as_array().unwrap();
        images
            .iter()
            .find(|it| it["name"] == ETCD)
            .cloned()
            .unwrap()
    };
    assert_eq!(etcd(&before), etcd(&after));
    let built = desk.kpot(&["build", "-o", "x.pot"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
}

#[test]
fn a_version_stays_what_it_was_until_it_is_updated() {
    let (desk, upstream) = locked();
    let path = upstream.mark("stable-1.20", b"v1.20.2");
    let asked = upstream.server.seen(&path).len();
    // The very version is the same as what it was asked for by.
    let exact = desk.kpot(&["build", "--locked", "--k8s", "v1.20.2", "--plan"]);
    assert_eq!(code(&exact), 0, "{}", stderr(&exact));
    assert_eq!(upstream.server.seen(&path).len(), asked);
    let updated = desk.kpot(&["lock", "--update", "kubernetes"]);
    assert_eq!(code(&updated), 0, "{}", stderr(&updated));
    assert_eq!(upstream.server.seen(&path).len(), asked + 1);
    upstream.mark("stable-1.20", b"v1.20.3");
    let newer = desk.kpot(&["lock", "--update", "kubernetes"]);
    // This upstream has no v1.20.3: what counts is that it was asked for.
    assert_eq!(code(&newer), 1, "{}", stderr(&newer));
    assert!(stderr(&newer).contains("v1.20.3"), "{}", stderr(&newer));
    let other = desk.kpot(&["lock", "--k8s", "1.19", "--update", "kubelet"]);
    assert_eq!(code(&other), 2, "{}", stderr(&other));
    assert_eq!(lock(&desk)["kubernetes"]["version"], "v1.20.2");
}

#[test]
fn flags_alone_have_a_lock_too() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let mut arguments = upstream.arguments("x.pot");
    arguments[0] = "lock".to_owned();
    arguments.drain(3..5);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let none = desk.kpot(&[&arguments[..], &["--update", "kubelet"]].concat());
    assert_eq!(code(&none), 2, "{}", stderr(&none));
    let made = desk.kpot(&arguments);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    assert_eq!(desk.made(), ["kpot.lock"]);
    let built = desk.build(&upstream, "x.pot", &["--locked"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert_eq!(lock(&desk)["kubernetes"]["wanted"], "v1.20.2");
}

#[test]
fn what_a_lock_pins_needs_no_publishers_checksum_any_more() {
    let (desk, upstream) = locked();
    let filled = desk.kpot(&["build", "-o", "one.pot"]);
    assert_eq!(code(&filled), 0, "{}", stderr(&filled));
    let programs = ["kubeadm", "kubectl", "kubelet"];
    let paths = programs.map(|name| format!("{}.sha256", upstream.program(name)));
    for path in &paths {
        upstream.server.set(path, vec![Answer::Status(404)]);
    }
    upstream.server.forget();
    let built = desk.kpot(&["build", "-o", "two.pot"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert!(
        upstream.server.seen(".sha256").is_empty(),
        "nobody is asked"
    );
    // And nothing says that they were.
    let (said, table) = (stderr(&built), stdout(&built));
    assert!(
        said.contains("kubelet v1.20.2, by its digest in the lock"),
        "{said}"
    );
    let planned = desk.kpot(&["build", "--plan", "--json"]);
    let plan: Value = serde_json::from_slice(&planned.stdout).unwrap();
    let downloads = plan["downloads"].as_array().unwrap();
    for download in downloads {
        let published = download["checked"]
            .as_str()
            .unwrap()
            .starts_with("published");
        assert_eq!(download["by_lock"], published, "{download}");
        assert!(
            download["digest"].is_string() && download["checksum"].is_null(),
            "{download}"
        );
    }
    let vouched = downloads.iter().filter(|it| it["by_lock"] == true).count();
    assert!(vouched >= programs.len(), "{downloads:?}");
    assert_eq!(table.matches("  the lock  ").count(), vouched, "{table}");
    assert!(!(said + &table).contains("published"), "{table}");
    // Who wants to know is told what is missing, and has the same pot.
    let strict = desk.kpot(&["build", "--locked", "-o", "three.pot"]);
    let told = stderr(&strict);
    assert_eq!(code(&strict), 0, "{told}");
    for (name, path) in programs.iter().zip(&paths) {
        let word = format!("warning: the lock alone says what {name} v1.20.2 must be");
        assert!(told.contains(&word) && told.contains(path), "{told}");
    }
    let read = |name: &str| std::fs::read(desk.out().join(name)).unwrap();
    assert!(read("one.pot") == read("two.pot") && read("one.pot") == read("three.pot"));

    // A publisher who says something else is not missing, and without a lock there is nothing else to go by.
    upstream.put(&paths[0], vec![b'0'; 64]);
    let strict = desk.kpot(&["build", "--locked", "-o", "four.pot"]);
    assert_eq!(code(&strict), 1, "{}", stderr(&strict));
    assert!(stderr(&strict).contains("the published one 000"));
    upstream.server.set(&paths[0], vec![Answer::Status(404)]);
    let free = desk.kpot(&["build", "--no-lock", "-o", "five.pot"]);
    assert_eq!(code(&free), 1, "{}", stderr(&free));
    assert!(stderr(&free).contains("there is no checksum for kube"));
}

#[test]
fn what_a_lock_was_made_of_is_there_for_the_build() {
    let contents = |upstream: &Upstream| upstream.server.sent("/release/");
    let (desk, upstream) = locked();
    assert!(contents(&upstream) > 0, "it was fetched to be pinned");
    upstream.server.forget();
    let built = desk.kpot(&["build", "--no-cache"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let needed = contents(&upstream);
    upstream.server.forget();
    let built = desk.kpot(&["build", "-o", "again.pot"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let asked = contents(&upstream);
    assert!(needed > 0 && asked == 0, "{asked} bytes were sent");
    std::fs::remove_file(desk.out().join("kpot.lock")).unwrap();
    upstream.server.forget();
    let relocked = desk.kpot(&["lock"]);
    assert_eq!(code(&relocked), 0, "{}", stderr(&relocked));
    let (marker, checksums) = ("v1.20.2".len() as u64, 3 * 64);
    assert_eq!(
        contents(&upstream),
        checksums + marker,
        "nothing that is known by its digest"
    );
    std::fs::remove_file(desk.out().join("kpot.lock")).unwrap();
    upstream.server.forget();
    let uncached = desk.kpot(&["lock", "--no-cache"]);
    assert_eq!(code(&uncached), 0, "{}", stderr(&uncached));
    assert!(contents(&upstream) >= needed, "nothing was looked up");
}
