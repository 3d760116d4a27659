//! What builds keep for the next one: never believed, shared, and whole or not at all whatever ends a build.
#![allow(
    clippy::disallowed_methods,
    reason = "tests damage what kpot keeps, and kill it"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::thread;
use std::time::{Duration, Instant};

use bundle_spec::Sha256;
use serde_json::{Value, json};
use support::pots::{files, json_of};
use support::server::Answer;
use support::upstream::{FakeImage, Upstream, content};
use support::{Desk, code, stderr, stdout};

/// Between two pieces of 4 KiB: a build takes some seconds.
const SLOW: Duration = Duration::from_millis(20);

fn built(desk: &Desk, upstream: &Upstream, name: &str, more: &[&str]) -> Output {
    let built = desk.build(upstream, name, more);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    built
}

fn started(desk: &Desk, upstream: &Upstream, name: &str) -> Child {
    let arguments = upstream.arguments(name);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    desk.start(&arguments)
}

fn same(desk: &Desk, one: &str, other: &str) {
    let read = |name: &str| std::fs::read(desk.out().join(name)).unwrap();
    assert!(read(one) == read(other), "{one} and {other} differ");
}

/// Contents and partial downloads in the cache, by their paths in it.
fn kept(desk: &Desk) -> BTreeMap<String, PathBuf> {
    let mut kept = files(&desk.cache());
    kept.retain(|path, _| path.starts_with("sha256/") || path.starts_with("partial/"));
    kept
}

fn size(files: &BTreeMap<String, PathBuf>) -> u64 {
    let sizes = files.values().map(|path| path.metadata().unwrap().len());
    sizes.sum()
}

/// Bytes of programs, archives and blobs that were sent.
fn contents_sent(upstream: &Upstream) -> u64 {
    let checksums = upstream.server.sent(".sha256") + upstream.server.sent(".sha512");
    let manifests = upstream.server.sent("/manifests/");
    upstream.server.sent("") - checksums - manifests
}

fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn send(signal: &str, child: &Child) {
    let pid = child.id().to_string();
    let mut kill = std::process::Command::new("kill");
    kill.args([signal, &pid]).status().unwrap();
}

#[test]
fn a_warm_build_fetches_no_content_and_makes_the_same_pot() {
    // One publishes SHA-256, the other SHA-512.
    for version in ["v1.20.2", "v1.14.0"] {
        let (desk, upstream) = (Desk::new(), Upstream::new(version));
        let cold = built(&desk, &upstream, "cold.pot", &[]);
        assert!(stdout(&cold).contains("network"), "{}", stdout(&cold));
        upstream.server.forget();
        let warm = built(&desk, &upstream, "warm.pot", &["--json"]);
        same(&desk, "cold.pot", "warm.pot");
        let seen = upstream.server.seen("");
        let (checksums, manifests): (Vec<_>, Vec<_>) = seen
            .iter()
            .map(|seen| seen.path.as_str())
            .partition(|path| !path.contains("/manifests/"));
        assert_eq!(manifests.len(), 7, "by tag: {manifests:?}");
        assert_eq!(checksums.len(), 4, "{checksums:?}");
        assert!(checksums.iter().all(|path| path.contains(".sha")));
        assert_eq!(contents_sent(&upstream), 0);
        let parts = json_of(&warm)["parts"].clone();
        let parts = parts.as_array().unwrap();
        assert_eq!(parts.len(), 5 + 7);
        for part in parts {
            assert_eq!(part["got"], "cache", "{part}");
        }
    }
}

#[test]
fn what_is_known_by_its_digest_is_not_asked_for_again() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let image = FakeImage::new("flannel");
    upstream.push("team/flannel", "v1", &image);
    let index = image.index(&json!({ "os": "linux", "architecture": "amd64" }));
    let index = serde_json::to_vec(&index).unwrap();
    let digest = upstream.put_manifest("team/flannel", "v1", &index);
    let tagged = format!("{}/team/flannel:v1", upstream.server.address());
    let pinned = format!("{tagged}@{digest}");
    for (image, asked) in [(&tagged, 1), (&pinned, 0)] {
        built(&desk, &upstream, "x.pot", &["--image", image]);
        upstream.server.forget();
        built(&desk, &upstream, "x.pot", &["--image", image]);
        let seen = upstream.server.seen("");
        let seen = seen.iter().filter(|seen| seen.path.contains("flannel"));
        assert_eq!(seen.count(), asked, "{image}");
    }
}

#[test]
fn what_is_damaged_is_thrown_away_said_and_fetched_anew() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    built(&desk, &upstream, "before.pot", &[]);
    let kept = kept(&desk);
    assert_eq!(
        kept.len(),
        3 + 2 + 7 + 8,
        "programs, archives, configs, layers"
    );
    let damages: [&dyn Fn(&Path); 4] = [
        &|path| {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        },
        &|path| {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(path.metadata().unwrap().len() / 2).unwrap();
        },
        &|path| std::fs::write(path, "").unwrap(),
        &|path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
        },
    ];
    for (path, damage) in kept.values().zip(damages.iter().cycle()) {
        damage(path);
    }
    let mended = built(&desk, &upstream, "after.pot", &[]);
    same(&desk, "before.pot", "after.pot");
    let told = stderr(&mended);
    let lines = told.lines().filter(|line| line.contains("damaged"));
    assert_eq!(lines.count(), kept.len(), "{told}");
    assert_eq!(upstream.server.seen("/kubelet").len(), 2);
    upstream.server.forget();
    built(&desk, &upstream, "after.pot", &[]);
    assert_eq!(contents_sent(&upstream), 0);
}

#[test]
fn two_builds_at_once_share_one_cache_and_fetch_each_content_once() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    upstream.server.throttle(Some(SLOW));
    let running = ["one.pot", "two.pot"].map(|name| started(&desk, &upstream, name));
    for child in running {
        let built = child.wait_with_output().unwrap();
        assert_eq!(code(&built), 0, "{}", stderr(&built));
    }
    same(&desk, "one.pot", "two.pot");
    for seen in upstream.server.seen("") {
        let path = seen.path;
        // Configs are small: whoever wants one asks.
        let once = path.contains("/blobs/") && upstream.server.sent(&path) > 4096;
        if once || path.ends_with("/kubelet") || path.ends_with("docker-20.10.24.tgz") {
            assert_eq!(upstream.server.seen(&path).len(), 1, "{path}");
        }
    }
}

#[test]
fn a_build_that_is_killed_anywhere_leaves_what_the_next_one_goes_on_with() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    built(&desk, &upstream, "x.pot", &["--no-cache"]);
    assert!(!desk.cache().exists());
    let whole = contents_sent(&upstream);
    let reference = desk.path("reference.pot");
    std::fs::rename(desk.out().join("x.pot"), &reference).unwrap();

    upstream.server.throttle(Some(SLOW));
    for percent in [1, 12, 30, 45, 70, 90] {
        // Of what there is, with what earlier runs have fetched.
        let before = size(&kept_or_none(&desk));
        upstream.server.forget();
        let mut child = started(&desk, &upstream, "x.pot");
        wait_until("the build fetches", || {
            before + contents_sent(&upstream) >= whole * percent / 100
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(desk.made().is_empty(), "{percent}: {:?}", desk.made());
    }
    let there = size(&kept(&desk));
    assert!(there > whole / 2, "{there} of {whole}");
    // Until the server has noticed that nobody listens to what it still sends to the killed one.
    thread::sleep(20 * SLOW);
    upstream.server.throttle(None);
    upstream.server.forget();
    built(&desk, &upstream, "x.pot", &[]);
    // To the byte: what is there is not fetched again.
    assert_eq!(contents_sent(&upstream), whole - there);
    let (one, other) = (desk.out().join("x.pot"), reference);
    assert!(std::fs::read(one).unwrap() == std::fs::read(other).unwrap());
    assert!(kept(&desk).keys().all(|path| path.starts_with("sha256/")));
}

#[test]
fn a_build_that_is_killed_while_it_packs_or_writes_leaves_no_half_pot() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let before = Instant::now();
    built(&desk, &upstream, "whole.pot", &[]);
    let takes = before.elapsed();
    for part in 1..=10 {
        let mut child = started(&desk, &upstream, "x.pot");
        thread::sleep(takes * part / 10);
        child.kill().unwrap();
        child.wait().unwrap();
        let made = desk.made();
        if made.len() > 1 {
            // It was quicker.
            same(&desk, "whole.pot", "x.pot");
            std::fs::remove_file(desk.out().join("x.pot")).unwrap();
        }
        assert_eq!(desk.made(), ["whole.pot"], "{part}: {made:?}");
    }
    upstream.server.forget();
    built(&desk, &upstream, "x.pot", &[]);
    same(&desk, "whole.pot", "x.pot");
    assert_eq!(contents_sent(&upstream), 0);
}

#[test]
fn a_build_that_waits_takes_over_from_one_that_is_killed() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let body = content("kubelet", 300_000);
    let stalled = vec![Answer::Stall(100_000, body.clone()), Answer::Body(body)];
    upstream.server.set(&upstream.program("kubelet"), stalled);
    let mut first = started(&desk, &upstream, "one.pot");
    wait_until("the first one fetches", || {
        upstream.server.sent("/kubelet") > 100_000
    });
    let second = started(&desk, &upstream, "two.pot");
    wait_until("the second one is there", || {
        upstream.server.seen("/kubelet.sha256").len() == 2
    });
    thread::sleep(Duration::from_millis(500));
    assert_eq!(upstream.server.seen("/kubelet").len(), 1, "it waits");
    first.kill().unwrap();
    first.wait().unwrap();
    let second = second.wait_with_output().unwrap();
    assert_eq!(code(&second), 0, "{}", stderr(&second));
    let asked = upstream.server.seen("/kubelet");
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].headers["range"], "bytes=100000-");
    assert_eq!(desk.made(), ["two.pot"]);
    assert_eq!(code(&desk.verify(&desk.out().join("two.pot"))), 0);
}

fn kept_or_none(desk: &Desk) -> BTreeMap<String, PathBuf> {
    if desk.cache().exists() {
        kept(desk)
    } else {
        BTreeMap::new()
    }
}

#[test]
fn a_signal_ends_a_build_soon_and_the_next_one_goes_on() {
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
        let path = upstream.program("kubelet");
        let body = content("kubelet", 300_000);
        let stalled = Answer::Stall(100_000, body.clone());
        upstream.server.set(&path, vec![stalled]);
        let child = started(&desk, &upstream, "x.pot");
        let partial = desk
            .cache()
            .join(format!("partial/sha256-{}", Sha256::of(&body).hex()));
        wait_until("the download has begun", || {
            partial.metadata().is_ok_and(|it| it.len() == 100_000)
        });
        let asked = Instant::now();
        send(signal, &child);
        let ended = child.wait_with_output().unwrap();
        // The server stays silent for 20 s.
        assert!(asked.elapsed() < Duration::from_secs(10));
        assert_eq!(code(&ended), status, "{}", stderr(&ended));
        let told = stderr(&ended);
        assert!(told.contains("Run the same command again"), "{told}");
        assert!(ended.stdout.is_empty());
        assert!(desk.made().is_empty(), "{:?}", desk.made());

        upstream.server.set(&path, vec![Answer::Body(body)]);
        upstream.server.forget();
        let built = built(&desk, &upstream, "x.pot", &[]);
        assert_eq!(upstream.server.sent("/kubelet"), 200_000 + 64);
        assert!(stderr(&built).contains("going on after the 100.0 kB"));
        assert_eq!(code(&desk.verify(&desk.out().join("x.pot"))), 0);
    }
}

#[test]
fn a_second_signal_ends_a_build_at_once() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let stalled = Answer::Stall(100_000, content("kubelet", 300_000));
    upstream
        .server
        .set(&upstream.program("kubelet"), vec![stalled]);
    // After one signal alone the stalled server is waited for, for a second. A busy machine has three tries to be quicker.
    let quick = (0..3).any(|_| {
        upstream.server.forget();
        let mut child = started(&desk, &upstream, "x.pot");
        wait_until("the download has begun", || {
            !upstream.server.seen("/kubelet").is_empty()
        });
        send("-INT", &child);
        send("-INT", &child);
        let second = Instant::now();
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), Some(130));
        assert!(desk.made().is_empty(), "{:?}", desk.made());
        second.elapsed() < Duration::from_millis(800)
    });
    assert!(quick);
}

#[test]
fn a_download_that_fails_is_taken_up_by_the_next_build() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let layer = FakeImage::new("etcd").layers[1].clone();
    let path = format!("/v2/etcd/blobs/{}", Sha256::of(&layer));
    let cut = vec![Answer::Cut(20_000, layer.clone()), Answer::Status(404)];
    upstream.server.set(&path, cut);
    let failed = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&failed), 1, "{}", stderr(&failed));
    upstream.server.set(&path, vec![Answer::Body(layer)]);
    upstream.server.forget();
    built(&desk, &upstream, "x.pot", &[]);
    let asked = upstream.server.seen(&path);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].headers["range"], "bytes=20000-");
}

type Beginning = fn(&[u8]) -> Vec<u8>;

#[test]
fn a_beginning_that_does_not_fit_is_fetched_anew() {
    let reference = (Desk::new(), Upstream::new("v1.20.2"));
    built(&reference.0, &reference.1, "x.pot", &["--unsigned"]);
    let reference = std::fs::read(reference.0.out().join("x.pot")).unwrap();
    let layer = FakeImage::new("etcd").layers[1].clone();
    let kubelet = content("kubelet", 300_000);
    let bodies = [layer, kubelet];
    let beginnings: [Beginning; 4] = [
        |_| vec![b'x'; 10_000],
        |body| body[..body.len() - 1].to_vec(),
        <[u8]>::to_vec,
        |body| [body, b"more"].concat(),
    ];
    for begun in beginnings {
        let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
        std::fs::create_dir_all(desk.cache().join("partial")).unwrap();
        for body in &bodies {
            let name = format!("partial/sha256-{}", Sha256::of(body).hex());
            std::fs::write(desk.cache().join(name), begun(body)).unwrap();
        }
        built(&desk, &upstream, "x.pot", &["--unsigned"]);
        assert!(std::fs::read(desk.out().join("x.pot")).unwrap() == reference);
    }
}

#[test]
fn wrong_bytes_do_not_stay_in_the_cache() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let path = upstream.program("kubelet");
    upstream.put(&path, content("something else", 300_000));
    let refused = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&refused), 1);
    assert!(stderr(&refused).contains("the published one"));
    let wrong = Sha256::of(&content("something else", 300_000));
    for (name, path) in kept(&desk) {
        let bytes = std::fs::read(path).unwrap();
        assert_ne!(Sha256::of(&bytes), wrong, "{name}");
    }
    upstream.put(&path, content("kubelet", 300_000));
    upstream.server.forget();
    built(&desk, &upstream, "x.pot", &[]);
    assert!(
        !upstream.server.seen("/kubelet")[0]
            .headers
            .contains_key("range")
    );
}

#[test]
fn the_cache_is_listed_verified_and_pruned() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.14.0"));
    let empty = json_of(&desk.kpot(&["cache", "list", "--json"]));
    assert_eq!(empty["entries"], json!([]));
    assert!(!desk.cache().exists(), "looking makes nothing");

    built(&desk, &upstream, "x.pot", &[]);
    let listed = json_of(&desk.kpot(&["cache", "list", "--json"]));
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries.len(), kept(&desk).len());
    assert_eq!(listed["size"], size(&kept(&desk)));
    let kubelet = Sha256::of(&content("kubelet", 300_000));
    let entry = entries
        .iter()
        .find(|entry| entry["digest"] == kubelet.to_string())
        .unwrap();
    assert_eq!(entry["label"], "kubelet v1.14.0");
    assert_eq!(
        (&entry["partial"], &entry["in_use"]),
        (&json!(false), &json!(false))
    );
    let shown = stdout(&desk.kpot(&["cache", "list"]));
    for told in [
        "kubelet v1.14.0",
        "300.0 kB",
        "just now",
        "config of k8s.gcr.io/etcd:3.3.10",
    ] {
        assert!(shown.contains(told), "{told}: {shown}");
    }

    let verified = desk.kpot(&["cache", "verify"]);
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));
    assert!(stdout(&verified).contains("0 damaged"));
    let path = desk.cache().join("sha256").join(kubelet.hex());
    std::fs::write(&path, "damaged").unwrap();
    let verified = desk.kpot(&["cache", "verify"]);
    assert_eq!(code(&verified), 1);
    assert!(stdout(&verified).contains(&kubelet.to_string()));
    assert!(stderr(&verified).contains("kpot cache verify --remove"));
    assert_eq!(code(&desk.kpot(&["cache", "verify", "--remove"])), 0);
    assert!(!path.exists());
    assert_eq!(code(&desk.kpot(&["cache", "verify"])), 0);

    // Neither what is young, nor what somebody else put there.
    let foreign = desk.cache().join("sha256/notes.txt");
    std::fs::write(&foreign, "mine").unwrap();
    let before = size(&kept(&desk)) - 4;
    let pruned = json_of(&desk.kpot(&["cache", "prune", "--json"]));
    assert_eq!(
        (&pruned["freed"], &pruned["kept"]),
        (&json!(0), &json!(before))
    );
    let half = before / 2;
    let fits = format!("{half}");
    let pruned = json_of(&desk.kpot(&["cache", "prune", "--max-size", &fits, "--json"]));
    assert!(pruned["kept"].as_u64().unwrap() <= half, "{pruned}");
    assert!(pruned["freed"].as_u64().unwrap() >= half, "{pruned}");
    let pruned = desk.kpot(&["cache", "prune", "--older-than", "0s"]);
    assert!(
        stdout(&pruned).contains("kept 0 B in 0 entries"),
        "{}",
        stdout(&pruned)
    );
    assert_eq!(kept(&desk).len(), 1);
    assert!(foreign.exists());
    // The link from a SHA-512 led to what is gone.
    assert!(
        files(&desk.cache())
            .keys()
            .all(|path| !path.starts_with("sha512/"))
    );
    for wrong in [["--older-than", "soon"], ["--max-size", "little"]] {
        assert_eq!(code(&desk.kpot(&["cache", "prune", wrong[0], wrong[1]])), 2);
    }
}

#[test]
fn what_a_running_build_uses_is_not_pruned_and_what_a_dead_one_left_is() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    built(&desk, &upstream, "before.pot", &[]);
    // Of an older build, and wanted by nobody now.
    let old = Sha256::of(b"old");
    std::fs::write(desk.cache().join("sha256").join(old.hex()), "old").unwrap();
    let path = upstream.program("kubelet");
    let kubelet = content("kubelet", 300_000);
    let digest = Sha256::of(&kubelet).hex();
    std::fs::remove_file(desk.cache().join("sha256").join(&digest)).unwrap();
    let stalled = vec![
        Answer::Stall(100_000, kubelet.clone()),
        Answer::Body(kubelet),
    ];
    upstream.server.set(&path, stalled);
    let mut child = started(&desk, &upstream, "x.pot");
    let all_claimed = || {
        let listed = json_of(&desk.kpot(&["cache", "list", "--json"]));
        let entries: Vec<Value> = listed["entries"].as_array().unwrap().clone();
        let used = entries.iter().filter(|entry| entry["in_use"] == true);
        used.count() == entries.len() - 1
    };
    wait_until("everything is claimed", all_claimed);
    let pruned = desk.kpot(&["cache", "prune", "--max-size", "0"]);
    assert_eq!(code(&pruned), 0, "{}", stderr(&pruned));
    let told = stdout(&pruned);
    assert!(told.contains("freed 3 B in 1 entry"), "{told}");
    assert!(told.contains("used by a running build"), "{told}");
    child.kill().unwrap();
    child.wait().unwrap();

    let runs = || files(&desk.cache().join("runs")).len();
    assert_eq!(runs(), 1, "of the killed build");
    built(&desk, &upstream, "x.pot", &[]);
    same(&desk, "before.pot", "x.pot");
    let asked = upstream.server.seen("/kubelet");
    assert_eq!(asked.last().unwrap().headers["range"], "bytes=100000-");
    json_of(&desk.kpot(&["cache", "prune", "--max-size", "0", "--json"]));
    assert_eq!((runs(), kept(&desk).len()), (0, 0));
}

#[test]
fn another_cache_or_none_is_used_where_it_is_said() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let other = desk.path("other").display().to_string();
    built(&desk, &upstream, "x.pot", &["--cache", &other]);
    assert!(!desk.cache().exists());
    let listed = json_of(&desk.kpot(&["cache", "list", "--cache", &other, "--json"]));
    assert!(listed["size"].as_u64().unwrap() > 1_000_000);
    let both = desk.build(&upstream, "x.pot", &["--cache", &other, "--no-cache"]);
    assert_eq!(code(&both), 2);
    let refused = desk.build(&upstream, "y.pot", &["--cache", "/proc/kpot"]);
    assert_eq!(code(&refused), 1);
    for told in ["/proc/kpot", "--no-cache"] {
        assert!(stderr(&refused).contains(told), "{}", stderr(&refused));
    }
    assert_eq!(desk.made(), ["x.pot"]);
}

#[test]
fn on_a_terminal_bars_tell_bytes_rate_and_time_of_each_and_of_all() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    upstream.server.throttle(Some(Duration::from_millis(40)));
    let command: Vec<String> = [env!("CARGO_BIN_EXE_kpot").to_owned()]
        .into_iter()
        .chain(upstream.arguments("x.pot"))
        .collect();
    // util-linux' own: a real terminal, 120 columns wide.
    let shown = std::process::Command::new("script")
        .args([
            "-qec",
            &format!("stty cols 120; {}", command.join(" ")),
            "/dev/null",
        ])
        .current_dir(desk.out())
        .env("XDG_CONFIG_HOME", desk.path("config"))
        .env("XDG_CACHE_HOME", desk.path("cache"))
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = stdout(&shown);
    assert_eq!(code(&shown), 0, "{text}");
    for told in [
        "kubelet v1.20.2",
        "in all",
        "unknown size",
        " MB",
        "kB/s",
        "pot digest",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn a_full_disk_is_told_with_what_to_do() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let small = desk.path("small");
    std::fs::create_dir(&small).unwrap();
    // A file system of its own with room for some of it, which ends with the process.
    let build: Vec<String> = [env!("CARGO_BIN_EXE_kpot").to_owned()]
        .into_iter()
        .chain(upstream.arguments("x.pot"))
        .chain(["--cache".to_owned(), small.display().to_string()])
        .collect();
    let script = format!(
        "mount -t tmpfs -o size=700k tmpfs {} && exec {}",
        small.display(),
        build.join(" ")
    );
    let failed = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(desk.out())
        .env("XDG_CONFIG_HOME", desk.path("config"))
        .output()
        .unwrap();
    let told = stderr(&failed);
    assert_eq!(code(&failed), 1, "{told}");
    for word in [
        "kpot cache prune",
        "--cache",
        "--no-cache",
        &upstream.server.url(),
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(desk.made().is_empty(), "{:?}", desk.made());
}
