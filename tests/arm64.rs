//! `--arch arm64`: the pot holds what is for that machine, and the installer in it runs there, under qemu's user-mode emulation.
//!
//! These tests need what builds and runs programs for arm64, and fail without it: on Debian `apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static`,
//! with rustup `rustup target add aarch64-unknown-linux-musl`, then build again.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made"
)]

mod support;

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use assert_cmd::Command;
use bundle_spec::{Arch, Member, Sha256, Trust, UnverifiedPot};
use support::pots::{json_of, members};
use support::upstream::{FakeImage, Upstream, content};
use support::{Desk, code, stderr, stdout};

/// A desk with `out/x.pot` for arm64.
fn desk_with_pot(upstream: &Upstream) -> Desk {
    let desk = Desk::new();
    let report = json_of(&desk.kpot(&["version", "--json"]));
    let installers = report["installers"].as_array().unwrap();
    assert!(
        installers.iter().any(|it| it["arch"] == "arm64"),
        "this kpot carries no installer for arm64, so nothing of this can be tested; its build said what it lacks: {report}"
    );
    let pin = Upstream::arm64_pin();
    let built = desk.build(upstream, "x.pot", &["--arch", "arm64", "--pin", &pin]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    desk
}

fn installer(desk: &Desk) -> (PathBuf, Vec<u8>) {
    let pot = std::fs::read(desk.out().join("x.pot")).unwrap();
    let mut members = members(&pot).into_iter();
    let (_, program) = members
        .find(|(member, _)| *member == Member::Installer)
        .unwrap();
    let path = desk.path("kpot-install");
    std::fs::write(&path, &program).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (path, program)
}

/// Runs a program for arm64 on whatever machine this is.
fn emulated(program: &Path, arguments: &[&str]) -> std::process::Output {
    Command::new("qemu-aarch64-static")
        .arg(program)
        .args(arguments)
        .output()
        .expect("qemu-aarch64-static runs: on Debian, apt-get install qemu-user-static")
}

#[test]
fn the_pot_holds_what_is_for_arm64_out_of_indexes_that_have_both() {
    let upstream = Upstream::new("v1.20.2");
    let ids = upstream.add_arm64();
    let desk = desk_with_pot(&upstream);
    let signers = std::fs::read_to_string(desk.signers()).unwrap();
    let trust = Trust::from_allowed_signers(&signers, SystemTime::now()).unwrap();
    let pot = UnverifiedPot::open(&desk.out().join("x.pot")).unwrap();
    let pot = pot.verify(&trust, &|_| {}).unwrap();
    let manifest = pot.manifest();
    assert_eq!(manifest.arch, Arch::Arm64);
    assert_eq!(manifest.name, "kpot-v1.20.2-arm64");
    for name in ["kubeadm", "kubectl", "kubelet"] {
        let artifact = manifest.artifact(name).unwrap();
        assert!(artifact.source.contains("/bin/linux/arm64/"), "{name}");
        let mut bytes = Vec::new();
        let mut reader = pot.open_blob(&artifact.files[0].blob).unwrap();
        reader.read_to_end(&mut bytes).unwrap();
        assert!(bytes == content(&format!("{name} for arm64"), 300_000));
    }
    let docker = &manifest.artifact("docker").unwrap().source;
    assert!(docker.contains("/aarch64/docker-"), "{docker}");
    let plugins = &manifest.artifact("cni-plugins").unwrap().source;
    assert!(plugins.contains("cni-plugins-linux-arm64-"), "{plugins}");
    let packed: Vec<Sha256> = manifest.images.iter().map(|image| image.id).collect();
    assert_eq!(packed.len(), ids.len());
    assert!(ids.iter().all(|id| packed.contains(id)), "{packed:?}");
    // The same indexes give a pot for amd64 as well.
    let built = desk.build(&upstream, "y.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let other = UnverifiedPot::open(&desk.out().join("y.pot")).unwrap();
    let images = &other.manifest_unverified().images;
    assert!(images.iter().all(|image| !ids.contains(&image.id)));
}

#[test]
fn the_installer_in_it_is_static_and_verifies_the_pot() {
    let upstream = Upstream::new("v1.20.2");
    upstream.add_arm64();
    let desk = desk_with_pot(&upstream);
    let (path, program) = installer(&desk);
    // ELF, 64 bits, little-endian; EM_AARCH64 is 183.
    assert_eq!(program[..6], *b"\x7fELF\x02\x01");
    assert_eq!(program[18..20], 183_u16.to_le_bytes());
    assert!(!has_interpreter(&program), "it is not static");

    let version = emulated(&path, &["--version"]);
    let expected = format!("kpot-install {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&version), expected, "{}", stderr(&version));
    let (pot, signers) = (
        desk.out().join("x.pot").display().to_string(),
        desk.signers().display().to_string(),
    );
    let verify = |pot: &str| emulated(&path, &["verify", "--pot", pot, "--signers", &signers]);
    let good = verify(&pot);
    assert_eq!(code(&good), 0, "{}", stderr(&good));
    let mut bytes = std::fs::read(&pot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(desk.path("damaged.pot"), bytes).unwrap();
    let refused = verify(&desk.path("damaged.pot").display().to_string());
    assert_eq!(code(&refused), 4, "{}", stderr(&refused));
}

/// Whether an ELF file names a program that loads it (`PT_INTERP` is 3).
fn has_interpreter(program: &[u8]) -> bool {
    let word = |at: usize| usize::from(u16::from_le_bytes([program[at], program[at + 1]]));
    let start = u64::from_le_bytes(program[32..40].try_into().unwrap());
    let (start, size, count) = (usize::try_from(start).unwrap(), word(54), word(56));
    (0..count).any(|index| word(start + index * size) == 3)
}

#[test]
fn both_installers_are_told_with_their_digests() {
    let desk = Desk::without_key();
    let report = json_of(&desk.kpot(&["version", "--json"]));
    let shown = stdout(&desk.kpot(&["version"]));
    let installers = report["installers"].as_array().unwrap();
    let archs: Vec<&str> = installers
        .iter()
        .map(|it| it["arch"].as_str().unwrap())
        .collect();
    assert_eq!(archs, ["amd64", "arm64"]);
    for installer in installers {
        let line = format!(
            "installer for {}: {}",
            installer["arch"].as_str().unwrap(),
            installer["digest"].as_str().unwrap()
        );
        assert!(shown.contains(&line), "{line}: {shown}");
        // They go over slow cables, and onto machines that have room for nothing else.
        let size = installer["size"].as_u64().unwrap();
        assert!((1_000_000..=4_000_000).contains(&size), "{installer}");
    }
}

#[test]
fn what_there_is_not_for_arm64_is_refused_by_name() {
    let upstream = Upstream::new("v1.20.2");
    upstream.add_arm64();
    // An image for amd64 alone, without an index.
    upstream.push("team/amd64", "v1", &FakeImage::new("amd64"));
    let name = format!("{}/team/amd64:v1", upstream.server.address());
    let desk = desk_with_pot(&upstream);
    let pin = Upstream::arm64_pin();
    let more = ["--arch", "arm64", "--pin", &pin, "--image", &name];
    let refused = desk.build(&upstream, "y.pot", &more);
    assert_eq!(code(&refused), 1);
    let told = stderr(&refused);
    assert!(
        told.contains("linux/amd64") && told.contains("linux/arm64"),
        "{told}"
    );
    // A version of Docker that kpot ships a digest of for amd64 alone.
    let refused = desk.kpot(&[
        "build",
        "--k8s",
        "v1.20.2",
        "--arch",
        "arm64",
        "--docker-version",
        "18.09.9",
    ]);
    assert_eq!(code(&refused), 2);
    let told = stderr(&refused);
    assert!(
        told.contains("docker 18.09.9 for arm64") && told.contains("--pin docker="),
        "{told}"
    );
}

#[test]
fn two_architectures_are_two_pots_and_one_document() {
    let upstream = Upstream::new("v1.20.2");
    upstream.add_arm64();
    let desk = Desk::new();
    let mut arguments = upstream.arguments("");
    let output = arguments.iter().position(|it| it == "--output").unwrap();
    arguments.drain(output..output + 2);
    arguments.extend(["--arch", "amd64", "--arch", "arm64", "--json"].map(str::to_owned));
    arguments.extend(["--pin".to_owned(), Upstream::arm64_pin()]);
    let arches = |more: &[&str]| {
        let all: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let run = desk.kpot(&[&all, more].concat());
        assert_eq!(code(&run), 0, "{}", stderr(&run));
        let documents = json_of(&run);
        let documents = documents.as_array().unwrap();
        let arch = |it: &serde_json::Value| match more {
            [] => it["manifest"]["arch"].clone(),
            _ => it["arch"].clone(),
        };
        documents.iter().map(arch).collect::<Vec<_>>()
    };
    assert_eq!(arches(&["--plan"]), ["amd64", "arm64"]);
    assert!(desk.made().is_empty());
    assert_eq!(arches(&[]), ["amd64", "arm64"]);
    assert_eq!(
        desk.made(),
        ["kpot-v1.20.2-amd64.pot", "kpot-v1.20.2-arm64.pot"]
    );
    for name in desk.made() {
        let verified = desk.verify(&desk.out().join(&name));
        assert_eq!(code(&verified), 0, "{name}: {}", stderr(&verified));
    }
}
