//! Which version `--k8s` means, asked of the release server, and the table of `kpot versions`.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made"
)]

mod support;

use serde_json::Value;
use support::server::Answer;
use support::upstream::Upstream;
use support::{Desk, code, stderr, stdout};

#[test]
fn a_minor_becomes_its_latest_patch() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    upstream.mark("stable-1.20", b"v1.20.2");
    // As dl.k8s.io itself answers, which sends everybody to its content network.
    let path = upstream.mark("stable", b"");
    let other = format!("{}/cdn/stable.txt", upstream.server.url());
    upstream.server.set(&path, vec![Answer::Redirect(other)]);
    upstream.put("/cdn/stable.txt", b"v1.20.2\n".to_vec());
    for (asked, marker) in [
        ("1.20", "stable-1.20"),
        ("stable-1.20", "stable-1.20"),
        ("stable", "stable"),
    ] {
        let built = desk.build_version(&upstream, asked, "x.pot", &["--json"]);
        assert_eq!(code(&built), 0, "{}", stderr(&built));
        let report: Value = serde_json::from_slice(&built.stdout).unwrap();
        assert_eq!(report["manifest"]["kubernetes"], "v1.20.2");
        assert_eq!(report["manifest"]["name"], "kpot-v1.20.2-amd64");
        let told = stderr(&built);
        let line = format!(
            "{marker} is v1.20.2, as {}/dl.k8s.io/release/{marker}.txt says",
            upstream.server.url()
        );
        assert_eq!(told.matches(&line).count(), 1, "{line:?}: {told}");
        assert!(told.contains("kpot-v1.20.2-amd64: 5 downloads"), "{told}");
    }
    assert_eq!(code(&desk.verify(&desk.out().join("x.pot"))), 0);
}

#[test]
fn a_whole_version_is_not_asked_for() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let built = desk.build_version(&upstream, "1.20.2", "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert!(upstream.server.seen(".txt").is_empty());
}

/// Builds `stable-1.20` and `stable`, whose markers say each of these: it fails, naming all of the words, and fetches nothing else.
fn markers_refused(rows: &[(Answer, &[&str])]) {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    for marker in ["stable-1.20", "stable"] {
        let path = upstream.mark(marker, b"");
        let url = format!("{}{path}", upstream.server.url());
        for (answer, words) in rows {
            let before = upstream.server.seen("").len();
            upstream.server.set(&path, vec![answer.clone()]);
            let built = desk.build_version(&upstream, marker, "x.pot", &[]);
            let told = stderr(&built);
            assert_eq!(code(&built), 1, "{told}");
            let question = format!("which version {marker} is");
            for word in words.iter().copied().chain([url.as_str(), &question]) {
                assert!(told.contains(word), "{word:?} is not in: {told}");
            }
            let asked = &upstream.server.seen("")[before..];
            assert_eq!(asked.len(), 1, "a refusal is final: {asked:?}");
            assert_eq!(asked[0].path, path);
        }
    }
    assert!(desk.made().is_empty());
}

#[test]
fn a_marker_that_is_not_there_is_named() {
    markers_refused(&[
        (Answer::Status(404), &["404"]),
        (Answer::Status(403), &["403"]),
    ]);
}

#[test]
fn a_marker_that_holds_no_version_is_refused() {
    let says = |text: &[u8]| Answer::Plain(text.to_vec());
    let page = format!("<html>{}</html>", "x".repeat(5000));
    markers_refused(&[
        (says(b""), &["it is empty"]),
        (says(b"\xff\xfe"), &["it is not text"]),
        (says(page.as_bytes()), &["more than the limit of 4096"]),
        (
            says(b"<!DOCTYPE html><title>Log in</title>"),
            &[
                "\"<!DOCTYPE html><title>Log in</title>\" is not a released",
                "a proxy may have",
            ],
        ),
        (says(b"1.20.2"), &["\"1.20.2\" is not a released"]),
        (says(b"latest"), &["\"latest\" is not a released"]),
        (says(b"v1.20.2 v1.20.3"), &["is not a released"]),
        (
            says(b"v1.20.0-rc.1"),
            &["\"v1.20.0-rc.1\" is not a released"],
        ),
        (says(b"v1.20.2\nv1.20.3\n"), &["is not a released"]),
        (says(b"../../v1.20.2"), &["is not a released"]),
    ]);
}

#[test]
fn a_marker_of_another_minor_is_refused() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let path = upstream.mark("stable-1.19", b"v1.20.2");
    let built = desk.build_version(&upstream, "1.19", "x.pot", &[]);
    let told = stderr(&built);
    assert_eq!(code(&built), 1, "{told}");
    assert!(told.contains("v1.20.2, which is no 1.19"), "{told}");
    assert_eq!(
        upstream.server.seen("").len(),
        1,
        "{path} alone was asked for"
    );
}

#[test]
fn a_newest_version_that_nobody_knows_yet_is_refused_with_the_nearest() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    upstream.mark("stable", b"v1.99.1");
    let built = desk.build_version(&upstream, "stable", "x.pot", &[]);
    let told = stderr(&built);
    assert_eq!(code(&built), 2, "{told}");
    assert!(told.contains("stable is v1.99.1"), "{told}");
    assert!(
        told.contains("not v1.99.1; the nearest that it knows are 1.36 and 1.35"),
        "{told}"
    );
}

#[test]
fn a_minor_without_a_row_is_not_even_asked_for() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    upstream.mark("stable-1.12", b"v1.12.10");
    let built = desk.build_version(&upstream, "1.12", "x.pot", &[]);
    assert_eq!(code(&built), 2);
    assert!(
        stderr(&built).contains("not 1.12; the nearest that it knows are 1.13 and 1.14"),
        "{}",
        stderr(&built)
    );
    assert!(upstream.server.seen("").is_empty());
}

#[test]
fn a_release_server_that_stumbles_is_asked_again() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let path = upstream.mark("stable-1.20", b"");
    upstream.server.set(
        &path,
        vec![Answer::Status(503), Answer::Plain(b"v1.20.2".to_vec())],
    );
    let built = desk.build_version(&upstream, "1.20", "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert_eq!(upstream.server.seen(&path).len(), 2);
}

#[test]
fn the_table_says_what_belongs_to_each_kubernetes_and_from_where_that_is_known() {
    let desk = Desk::without_key();
    let shown = desk.kpot(&["versions", "--json"]);
    assert_eq!(code(&shown), 0, "{}", stderr(&shown));
    let report: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let rows = report["kubernetes"].as_array().unwrap();
    for minor in 13..=36 {
        let first = format!("v1.{minor}.0");
        assert!(rows.iter().any(|row| row["first"] == *first), "{first}");
    }
    let row = |first: &str| rows.iter().find(|row| row["first"] == *first).unwrap();
    let old = row("v1.22.0");
    assert_eq!(old["last"], "v1.22.16");
    assert_eq!(old["registry"], "k8s.gcr.io");
    let new = row("v1.22.17");
    assert_eq!(new["last"], Value::Null);
    assert_eq!(new["registry"], "registry.k8s.io");
    assert_eq!(new["coredns_repository"], "coredns/coredns");
    assert_eq!(new["runtime"]["name"], "docker");
    assert_eq!(row("v1.14.0")["checksum"], "sha512");
    assert_eq!(new["docker"], "20.10.23");
    let both = &row("v1.14.0")["containerd"];
    for program in ["version", "runc", "crictl"] {
        assert!(both[program].is_string(), "{program}: {both}");
    }
    assert_eq!(row("v1.13.0")["containerd"], Value::Null);
    let later = row("v1.24.0");
    assert_eq!(later["docker"], Value::Null);
    assert_eq!(later["runtime"]["name"], "containerd");
    assert_eq!(later["runtime"]["version"], later["containerd"]["version"]);
    assert_eq!(row("v1.28.8")["unseen"][0]["first"], "v1.28.12");
    assert_eq!(row("v1.28.8")["unseen"][0]["last"], "v1.28.13");
    let pins = report["pins"].as_array().unwrap();
    assert!(
        pins.iter()
            .all(|pin| pin["sources"].as_array().unwrap().len() >= 2)
    );
    let sources = report["sources"].as_array().unwrap();
    assert!(!sources.is_empty());

    // The table for people says no less.
    let text = stdout(&desk.kpot(&["versions"]));
    for row in rows {
        for field in ["pause", "etcd", "coredns", "registry", "cni"] {
            let value = row[field].as_str().unwrap();
            assert!(text.contains(value), "{field} {value}: {text}");
        }
    }
    for pin in pins {
        assert!(text.contains(pin["sha256"].as_str().unwrap()));
        for source in pin["sources"].as_array().unwrap() {
            assert!(text.contains(source.as_str().unwrap()), "{source}");
        }
    }
    for source in sources {
        assert!(text.contains(source.as_str().unwrap()), "{source}");
    }
    for told in [
        "1.22.0 to 1.22.16",
        "1.22.17 on",
        "DEFAULT",
        "20.10.23",
        "containerd  -",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn a_patch_that_was_never_released_names_the_newest() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let marker = upstream.mark("stable-1.20", b"v1.20.15\n");
    let told = format!(
        "v1.20.99 was not released: the newest of 1.20 is v1.20.15, as {}{marker} says; --k8s v1.20.15 takes that one",
        upstream.server.url()
    );
    let built = desk.build_version(&upstream, "v1.20.99", "x.pot", &[]);
    assert_eq!(code(&built), 1, "{}", stderr(&built));
    assert!(stderr(&built).contains(&told), "{}", stderr(&built));
    assert!(stderr(&built).contains("404"), "{}", stderr(&built));
    assert!(desk.made().is_empty());
    let mut lock = upstream.arguments_for("v1.20.99", "x.pot");
    lock[0] = "lock".to_owned();
    lock.drain(3..5);
    let lock: Vec<&str> = lock.iter().map(String::as_str).collect();
    let locked = desk.kpot(&lock);
    assert_eq!(code(&locked), 1, "{}", stderr(&locked));
    assert!(stderr(&locked).contains(&told), "{}", stderr(&locked));
    assert!(desk.made().is_empty());
    // A plan stands, and says the same once.
    let planned = desk.build_version(&upstream, "v1.20.99", "x.pot", &["--plan"]);
    assert_eq!(code(&planned), 0, "{}", stderr(&planned));
    let line = format!("warning: {told}");
    assert_eq!(
        stderr(&planned).matches(&line).count(),
        1,
        "{}",
        stderr(&planned)
    );

    // Where the release server does not say, neither does kpot.
    upstream.server.set(&marker, vec![Answer::Status(404)]);
    let built = desk.build_version(&upstream, "v1.20.99", "x.pot", &[]);
    let asked = "is v1.20.99 a release? --k8s 1.20 takes the latest of its patches";
    assert!(stderr(&built).contains(asked), "{}", stderr(&built));

    // A release that a mirror lacks is not called unreleased, and other things that are missing are not the version's fault.
    upstream.mark("stable-1.20", b"v1.20.15\n");
    let built = desk.build_version(&upstream, "v1.20.14", "x.pot", &[]);
    assert_eq!(code(&built), 1, "{}", stderr(&built));
    assert!(!stderr(&built).contains("released"), "{}", stderr(&built));
    let before = upstream.server.seen(&marker).len();
    let built = desk.build(&upstream, "x.pot", &["--image", "quay.io/x/y:1"]);
    assert_eq!(code(&built), 1, "{}", stderr(&built));
    assert_eq!(upstream.server.seen(&marker).len(), before);
}
