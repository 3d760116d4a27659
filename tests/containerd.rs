//! Pots with containerd: what is in them, how it is checked, and which containerd is refused.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made"
)]

mod support;

use std::io::Read as _;
use std::time::SystemTime;

use bundle_spec::{Sha256, Trust, UnverifiedPot, VerifiedPot};
use serde_json::{Value, json};
use support::pots::json_of;
use support::upstream::{Upstream, content};
use support::{Desk, code, stderr, stdout};

fn open(desk: &Desk, name: &str) -> VerifiedPot {
    let signers = std::fs::read_to_string(desk.signers()).unwrap();
    let trust = Trust::from_allowed_signers(&signers, SystemTime::now()).unwrap();
    let pot = UnverifiedPot::open(&desk.out().join(name)).unwrap();
    pot.verify(&trust, &|_| {}).unwrap()
}

#[test]
fn a_pot_has_containerd_runc_and_crictl_each_by_its_own_name() {
    for (version, arch) in [
        ("v1.34.4", "amd64"),
        ("v1.20.2", "amd64"),
        ("v1.20.2", "arm64"),
    ] {
        let upstream = Upstream::with_containerd(version);
        if arch == "arm64" {
            upstream.add_arm64();
        }
        let desk = Desk::new();
        let built = desk.build(&upstream, "x.pot", &["--arch", arch]);
        assert_eq!(code(&built), 0, "{}", stderr(&built));
        let pot = open(&desk, "x.pot");
        let manifest = pot.manifest();
        assert_eq!(
            serde_json::to_value(&manifest.runtime).unwrap(),
            json!({"name": "containerd", "version": "1.7.30"})
        );
        let names: Vec<&str> = manifest
            .artifacts
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "cni-plugins",
                "containerd",
                "crictl",
                "kubeadm",
                "kubectl",
                "kubelet",
                "runc"
            ]
        );
        for (name, its_version, source, files) in [
            (
                "containerd",
                "1.7.30",
                Upstream::containerd_archive(arch),
                &[
                    "containerd",
                    "containerd-shim-runc-v2",
                    "containerd-stress",
                    "ctr",
                ][..],
            ),
            (
                "crictl",
                "v1.30.0",
                Upstream::crictl_archive(arch),
                &["crictl"],
            ),
            ("runc", "1.3.4", Upstream::runc(arch), &["runc"]),
        ] {
            let artifact = manifest.artifact(name).unwrap();
            assert_eq!(artifact.version, its_version);
            assert_eq!(artifact.source, format!("https:/{source}"));
            assert_eq!(
                serde_json::to_value(artifact.checked).unwrap(),
                "published-sha256"
            );
            let packed: Vec<&str> = artifact.files.iter().map(|it| it.name.as_str()).collect();
            assert_eq!(packed, files);
            for file in &artifact.files {
                let mut bytes = Vec::new();
                let mut reader = pot.open_blob(&file.blob).unwrap();
                reader.read_to_end(&mut bytes).unwrap();
                let size = if name == "runc" { 70_000 } else { 50_000 };
                assert!(bytes == content(&file.name, size), "{}", file.name);
            }
        }
        let inspected = stdout(&desk.kpot(&["inspect", "x.pot"]));
        let told = format!("Kubernetes {version}, containerd 1.7.30,");
        assert!(inspected.contains(&told), "{told}: {inspected}");
        assert!(upstream.server.seen("docker-").is_empty());
    }
}

#[test]
fn pots_of_both_runtimes_lie_beside_each_other() {
    let desk = Desk::new();
    for upstream in [
        Upstream::new("v1.20.2"),
        Upstream::with_containerd("v1.20.2"),
    ] {
        let mut arguments = upstream.arguments("");
        let output = arguments.iter().position(|it| it == "--output").unwrap();
        arguments.drain(output..output + 2);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let built = desk.kpot(&arguments);
        assert_eq!(code(&built), 0, "{}", stderr(&built));
    }
    let made = desk.made();
    assert_eq!(
        made,
        [
            "kpot-v1.20.2-amd64.pot",
            "kpot-v1.20.2-containerd-amd64.pot"
        ]
    );
    for file in made {
        let pot = open(&desk, &file);
        assert_eq!(format!("{}.pot", pot.manifest().name), file);
    }
}

#[test]
fn a_plan_names_them_with_the_addresses_of_their_checksums() {
    let upstream = Upstream::new("v1.34.4");
    let desk = Desk::without_key();
    let shown = desk.build(&upstream, "x.pot", &["--plan", "--json"]);
    assert_eq!(code(&shown), 0, "{}", stderr(&shown));
    let report: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(report["runtime"]["name"], "containerd");
    assert_eq!(report["unknown"], 0);
    let base = "https://github.com/";
    let checksums: Vec<&str> = report["downloads"].as_array().unwrap()[1..]
        .iter()
        .filter_map(|it| it["checksum"].as_str())
        .filter_map(|it| it.strip_prefix(base))
        .collect();
    assert_eq!(
        checksums,
        [
            "containerd/containerd/releases/download/v1.7.30/containerd-1.7.30-linux-amd64.tar.gz.sha256sum",
            "kubernetes-sigs/cri-tools/releases/download/v1.30.0/crictl-v1.30.0-linux-amd64.tar.gz.sha256",
            "opencontainers/runc/releases/download/v1.3.4/runc.sha256sum",
        ]
    );
}

#[test]
fn a_recipe_says_the_same_and_a_difference_of_two_pots_tells_the_runtime() {
    let upstream = Upstream::with_containerd("v1.20.2");
    let desk = Desk::new();
    std::fs::write(
        desk.out().join("kpot.yaml"),
        format!("k8s: v1.20.2\n{}", upstream.recipe()),
    )
    .unwrap();
    let built = desk.kpot(&["build", "-o", "new.pot"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    std::fs::remove_file(desk.out().join("kpot.yaml")).unwrap();
    let with_docker = Upstream::new("v1.20.2");
    let built = desk.build(&with_docker, "old.pot", &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let report = json_of(&desk.kpot(&["diff", "old.pot", "new.pot", "--json"]));
    let text = stdout(&desk.kpot(&["diff", "old.pot", "new.pot"]));
    for told in ["docker 20.10.24", "containerd 1.7.30", "runc", "crictl"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(report.to_string().contains("containerd"), "{report}");
}

#[test]
fn a_runc_that_its_list_does_not_vouch_for_is_refused_unless_it_is_pinned() {
    let upstream = Upstream::with_containerd("v1.20.2");
    let desk = Desk::new();
    upstream.put(
        &Upstream::runc_list(),
        Upstream::signed_list(b"another runc"),
    );
    let refused = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&refused), 1);
    let told = stderr(&refused);
    assert!(told.contains(&Upstream::runc("amd64")), "{told}");
    assert!(told.contains(&Sha256::of(b"another runc").hex()), "{told}");

    let list = b"0000  runc.amd64\n".to_vec();
    upstream.put(&Upstream::runc_list(), list);
    let refused = desk.build(&upstream, "x.pot", &[]);
    assert_eq!(code(&refused), 1);
    let told = stderr(&refused);
    assert!(told.contains("runc.sha256sum has a line"), "{told}");
    assert!(desk.made().is_empty());

    let pin = format!("runc={}", Sha256::of(&content("runc", 70_000)));
    let built = desk.build(&upstream, "x.pot", &["--pin", &pin]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let pot = open(&desk, "x.pot");
    let runc = pot.manifest().artifact("runc").unwrap();
    assert_eq!(serde_json::to_value(runc.checked).unwrap(), "given-pin");
}

#[test]
fn a_lock_holds_a_build_to_its_runtime() {
    let upstream = Upstream::with_containerd("v1.20.2");
    let desk = Desk::new();
    let recipe = format!("k8s: v1.20.2\n{}", upstream.recipe());
    std::fs::write(desk.out().join("kpot.yaml"), &recipe).unwrap();
    let made = desk.kpot(&["lock"]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let path = desk.out().join("kpot.lock");
    let lock: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let target = &lock["targets"][0];
    assert_eq!(target["runtime"], "containerd");
    for (place, name) in [(1, "containerd"), (2, "crictl"), (6, "runc")] {
        assert_eq!(target["artifacts"][place]["name"], name);
    }
    for name in ["one.pot", "two.pot"] {
        let built = desk.kpot(&["build", "--locked", "-o", name]);
        assert_eq!(code(&built), 0, "{}", stderr(&built));
    }
    let bytes = |name: &str| std::fs::read(desk.out().join(name)).unwrap();
    assert!(bytes("one.pot") == bytes("two.pot"));

    // With Docker it is another pot, and that is told before anybody is asked.
    let with_docker = Upstream::new("v1.20.2");
    let recipe = format!("k8s: v1.20.2\n{}", with_docker.recipe());
    std::fs::write(desk.out().join("kpot.yaml"), recipe).unwrap();
    let refused = desk.kpot(&["build", "-o", "three.pot"]);
    assert_eq!(code(&refused), 1);
    let told = stderr(&refused);
    for word in [
        "the runtime is not as locked: expected containerd, seen docker",
        "docker, from https://download.docker.com/",
        "is not as locked: expected nothing, seen 20.10.24 from https://download.docker.com/",
        "runc, from https://github.com/opencontainers/runc/",
    ] {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
    assert!(with_docker.server.seen("").is_empty());
}

#[test]
fn what_cannot_work_is_refused_before_anybody_is_asked() {
    let desk = Desk::new();
    for (arguments, words) in [
        (
            &["v1.34.4", "--runtime", "docker"][..],
            &["v1.34.4", "dockershim was removed with 1.24", "containerd"][..],
        ),
        (
            &["v1.24.0", "--docker-version", "20.10.24"],
            &["dockershim was removed with 1.24"],
        ),
        (
            &["v1.13.0", "--runtime", "containerd"],
            &["from Kubernetes 1.14 on"],
        ),
        (
            &["v1.20.2", "--containerd-version", "1.7.30"],
            &["--containerd-version", "has docker", "--runtime containerd"],
        ),
        (
            &["v1.20.2", "--runtime", "docker", "--runc-version", "1.3.4"],
            &["--runc-version", "--runtime containerd"],
        ),
        (
            &["v1.20.2", "--crictl-version", "v1.30.0"],
            &["--crictl-version"],
        ),
        (
            &[
                "v1.20.2",
                "--runtime",
                "containerd",
                "--docker-version",
                "20.10.24",
            ],
            &["--docker-version", "--runtime docker"],
        ),
        (
            &[
                "v1.22.0",
                "--runtime",
                "containerd",
                "--containerd-version",
                "2.1.4",
            ],
            &[
                "the kubelet of 1.22 cannot speak to containerd 2.1.4",
                "v1alpha2",
                "--containerd-version 1.7.30",
            ],
        ),
        (
            &["v1.28.0", "--containerd-version", "1.5.18"],
            &[
                "cannot speak to containerd 1.5.18",
                "CRI v1, which containerd 1.6 and later",
            ],
        ),
        (
            &["v1.28.0", "--containerd-version", "v1.7.30"],
            &["without a v: --containerd-version 1.7.30"],
        ),
        (
            &["v1.28.0", "--runc-version", "v1.3.4"],
            &["without a v: --runc-version 1.3.4"],
        ),
        (
            &["v1.28.0", "--crictl-version", "1.30.0"],
            &["--crictl-version v1.30.0"],
        ),
        (
            &["v1.28.0", "--containerd-version", "1"],
            &["no version of containerd, such as"],
        ),
        (
            &["v1.28.0", "--runtime", "cri-o"],
            &["docker or containerd"],
        ),
    ] {
        let refused = desk.kpot(&[&["build", "--k8s"], arguments].concat());
        let told = stderr(&refused);
        assert_eq!(code(&refused), 2, "{arguments:?}: {told}");
        for word in words {
            assert!(
                told.contains(word),
                "{arguments:?}: {word:?} is not in: {told}"
            );
        }
    }
    assert!(desk.made().is_empty());
}
