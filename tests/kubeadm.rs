//! The downloaded kubeadm is asked which images it wants, in a sandbox. Here real programs stand in its place, made by rustc for this test.
#![allow(
    clippy::disallowed_methods,
    reason = "tests make programs, and look at the files that kpot made"
)]

mod support;

use std::path::Path;

use assert_cmd::Command;
use bundle_spec::Sha256;
use support::pots::json_of;
use support::upstream::{FakeImage, Upstream};
use support::{Desk, code, stderr, stdout};

/// Every image of v1.20.2.
const IMAGES: &str = r#"
    for program in ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler"] {
        println!("k8s.gcr.io/{program}:v1.20.2");
    }
    println!("k8s.gcr.io/etcd:3.4.13-0\nk8s.gcr.io/coredns:1.7.0");
"#;

/// A static program with this `main`.
fn program(desk: &Desk, body: &str) -> Vec<u8> {
    let source = desk.path("program.rs");
    let made = desk.path("program");
    std::fs::write(&source, format!("fn main() {{ {body} }}")).unwrap();
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let compiled = Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "-Copt-level=0",
            "--target",
            &target,
            "-o",
        ])
        .args([&made, &source])
        .output()
        .expect("rustc is where cargo is");
    assert!(compiled.status.success(), "{}", stderr(&compiled));
    std::fs::read(made).unwrap()
}

/// An upstream whose kubeadm has this `main`.
fn upstream(desk: &Desk, body: &str) -> Upstream {
    let upstream = Upstream::new("v1.20.2");
    let kubeadm = program(desk, body);
    let path = upstream.program("kubeadm");
    let digest = Sha256::of(&kubeadm).hex();
    upstream.put(&format!("{path}.sha256"), digest.into_bytes());
    upstream.put(&path, kubeadm);
    upstream
}

/// What `kpot build` tells of a kubeadm with this `main`.
fn asked(body: &str, effort: &str) -> serde_json::Value {
    let desk = Desk::new();
    let upstream = upstream(&desk, body);
    let built = desk.build(&upstream, "x.pot", &["--json", "--compression", effort]);
    json_of(&built)["kubeadm"].clone()
}

#[test]
fn a_kubeadm_that_wants_what_is_packed_agrees() {
    let body = format!(
        r#"
        let asked: Vec<String> = std::env::args().skip(1).collect();
        assert_eq!(asked, ["config", "images", "list", "--kubernetes-version", "v1.20.2"]);
        eprintln!("W1121 a warning is no image");
        {IMAGES} println!("k8s.gcr.io/pause:3.2");
        "#
    );
    for effort in ["balanced", "max"] {
        let told = asked(&body, effort);
        assert_eq!(told["answer"], "agrees", "{told}");
    }
}

#[test]
fn a_pot_without_an_image_that_its_kubeadm_wants_is_not_made() {
    let desk = Desk::new();
    let body = format!(r#"{IMAGES} println!("k8s.gcr.io/pause:3.3");"#);
    let upstream = upstream(&desk, &body);
    let refused = desk.build(&upstream, "x.pot", &[]);
    let told = stderr(&refused);
    assert_eq!(code(&refused), 1, "{told}");
    for word in [
        "kubeadm v1.20.2 for amd64 wants k8s.gcr.io/pause:3.3",
        "kpot's version data say k8s.gcr.io/pause:3.2",
        "kpot build --image k8s.gcr.io/pause:3.3",
        "a newer kpot",
    ] {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
    assert!(desk.made().is_empty(), "{:?}", desk.made());

    // With it, the pot has that tag alone: nobody has to guess which one is meant.
    upstream.push("pause", "3.3", &FakeImage::new("pause 3.3"));
    let image = ["--json", "--image", "k8s.gcr.io/pause:3.3"];
    let built = desk.build(&upstream, "x.pot", &image);
    let report = json_of(&built);
    assert_eq!(report["kubeadm"]["answer"], "agrees");
    let told = stderr(&built);
    let instead = "the pot has k8s.gcr.io/pause:3.3 instead of k8s.gcr.io/pause:3.2";
    assert!(told.contains(instead), "{told}");
    let manifest = report["manifest"].to_string();
    assert!(manifest.contains("k8s.gcr.io/pause:3.3"), "{manifest}");
    assert!(!manifest.contains("k8s.gcr.io/pause:3.2"), "{manifest}");
    assert_eq!(code(&desk.verify(&desk.out().join("x.pot"))), 0);
}

#[test]
fn what_a_pot_holds_and_its_kubeadm_does_not_want_is_told_and_no_more() {
    let desk = Desk::new();
    let upstream = upstream(&desk, IMAGES);
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    for told in [stdout(&built), stderr(&built)] {
        assert!(
            told.contains("does not want k8s.gcr.io/pause:3.2"),
            "{told}"
        );
    }
}

#[test]
fn under_a_lock_what_kubeadm_wants_is_to_be_pinned_first() {
    let desk = Desk::new();
    let body = format!(r#"{IMAGES} println!("k8s.gcr.io/pause:3.3");"#);
    let upstream = upstream(&desk, &body);
    upstream.push("pause", "3.3", &FakeImage::new("pause 3.3"));
    let mut arguments = upstream.arguments("x.pot");
    arguments[0] = "lock".to_owned();
    arguments.drain(3..5);
    let lock: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let image = ["--image", "k8s.gcr.io/pause:3.3"];
    assert_eq!(code(&desk.kpot(&lock)), 0);
    for more in [&[][..], &["--locked"]] {
        let refused = desk.build(&upstream, "x.pot", more);
        let told = stderr(&refused);
        assert_eq!(code(&refused), 1, "{told}");
        let advice = "kpot lock --image k8s.gcr.io/pause:3.3";
        assert!(told.contains(advice), "{told}");
        assert_eq!(desk.made(), ["kpot.lock"]);
    }
    assert_eq!(code(&desk.kpot(&[&lock[..], &image].concat())), 0);
    let built = desk.build(&upstream, "x.pot", &[&image[..], &["--locked"]].concat());
    assert_eq!(code(&built), 0, "{}", stderr(&built));
}

#[test]
fn in_the_sandbox_there_is_no_network_no_file_and_nothing_to_write_to() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = format!(
        r#"
        use std::net::{{TcpStream, UdpSocket}};
        assert!(TcpStream::connect("{address}").is_err(), "the host's loopback");
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert!(udp.send_to(b"x", "192.0.2.1:53").is_err(), "the network");
        let mut files: Vec<String> = std::fs::read_dir("/").unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ["proc", "program"]);
        assert_eq!(std::fs::read_dir("/proc").unwrap().count(), 1);
        for path in ["/x", "/proc/x", "/program", "/etc/passwd", "/../etc/passwd"] {{
            assert!(std::fs::write(path, "x").is_err(), "{{path}}");
            assert!(path == "/program" || std::fs::read(path).is_err(), "{{path}}");
        }}
        assert!(std::env::vars().next().is_none(), "the environment");
        {IMAGES} println!("k8s.gcr.io/pause:3.2");
        "#
    );
    let told = asked(&body, "balanced");
    assert_eq!(told["answer"], "agrees", "{told}");
}

#[test]
fn a_kubeadm_that_does_not_answer_well_is_told_and_ends_nothing() {
    let rows = [
        ("std::process::exit(3)", "it ended with 3"),
        ("std::process::abort()", "signal 6"),
        (
            r#"eprintln!("broken\nhere"); std::process::exit(1)"#,
            "here",
        ),
        (r#"println!("this is no image")"#, "no image's name"),
        ("", "named no image"),
        (r#"loop { println!("k8s.gcr.io/pause:3.2") }"#, "bytes"),
        (
            r#"eprintln!("broken\nTo see the stack trace of this error execute with --v=5 or higher"); std::process::exit(1)"#,
            "it ended with 1: broken",
        ),
        ("loop {}", "within 20 s"),
    ];
    for (body, why) in rows {
        let told = asked(body, "balanced");
        assert_eq!(told["answer"], "none", "{body}: {told}");
        let said = told["why"].as_str().unwrap();
        // The limit of its processor time may be there first.
        let by_signal = why == "within 20 s" && said.starts_with("signal ");
        assert!(said.contains(why) || by_signal, "{body}: {said}");
    }
}

#[test]
fn what_is_no_program_is_told() {
    // The upstream's own kubeadm is text.
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let built = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let told = stdout(&built);
    assert!(
        told.contains("could not be asked which images it wants"),
        "{told}"
    );
    assert!(Path::new(&desk.out().join("x.pot")).is_file());
}
