//! `kpot extract`: what comes out, where it goes, and what is refused.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at and damage the files that kpot made"
)]

mod support;

use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Output;

use assert_cmd::Command;
use bundle_spec::Sha256;
use serde_json::{Value, json};
use support::pots::{desk_with_pot, files, forged, json_of, key_of, other_key};
use support::upstream::{FakeImage, Upstream, content};
use support::{Desk, code, stderr, stdout};

/// `kpot extract x.pot` to `out/to`.
fn extract(desk: &Desk, more: &[&str]) -> Output {
    let signers = desk.signers().display().to_string();
    let arguments = ["extract", "x.pot", "--signers", &signers, "--to", "to"];
    desk.kpot(&[&arguments, more].concat())
}

#[test]
fn everything_is_extracted_as_it_was_served() {
    let upstream = Upstream::new("v1.20.2");
    let desk = desk_with_pot(&upstream, &[]);
    let done = extract(&desk, &[]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert!(
        stdout(&done).contains("every byte as signed by SHA256:"),
        "{}",
        stdout(&done)
    );
    let found = files(&desk.out().join("to"));
    let (images, programs): (Vec<_>, Vec<_>) = found
        .iter()
        .partition(|(name, _)| name.starts_with("images/"));
    let names: Vec<&str> = programs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "cni-plugins/bridge",
            "cni-plugins/host-local",
            "cni-plugins/loopback",
            "cni-plugins/portmap",
            "docker/containerd",
            "docker/docker",
            "docker/dockerd",
            "docker/runc",
            "kubeadm",
            "kubectl",
            "kubelet",
        ]
    );
    for (name, path) in programs {
        let file = name.rsplit('/').next().unwrap();
        let size = if name.contains('/') { 50_000 } else { 300_000 };
        assert!(
            std::fs::read(path).unwrap() == content(file, size),
            "{name}"
        );
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{name}");
    }
    assert_eq!(images.len(), 7);
    assert!(found.contains_key("images/k8s.gcr.io_kube-apiserver_v1.20.2.tar"));
}

#[test]
fn an_image_comes_out_as_docker_load_reads_it() {
    let upstream = Upstream::new("v1.20.2");
    upstream.push("library/busybox", "1.36", &FakeImage::new("busybox"));
    let hub = format!("docker.io={}", upstream.server.url());
    let desk = desk_with_pot(&upstream, &["--image", "busybox:1.36", "--mirror", &hub]);
    let done = extract(&desk, &["docker.io/library/busybox:1.36", "--json"]);
    let report = json_of(&done);
    let fake = FakeImage::new("busybox");
    let config = serde_json::to_vec(&fake.config).unwrap();
    assert_eq!(report["files"][0]["name"], "busybox:1.36");
    assert_eq!(report["files"][0]["id"], Sha256::of(&config).to_string());

    let path = desk.out().join("to/images/busybox_1.36.tar");
    let listed = Command::new("tar").arg("-tf").arg(&path).output().unwrap();
    assert_eq!(code(&listed), 0, "{}", stderr(&listed));
    let first = std::fs::read(&path).unwrap();
    let again = extract(&desk, &["busybox:1.36", "--force"]);
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    assert!(std::fs::read(&path).unwrap() == first, "the same bytes");
    let size = path.metadata().unwrap().len();
    assert_eq!(report["files"][0]["size"], size);
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    let mut members = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        members.push((name, bytes));
    }
    let diff_ids: Vec<String> = fake.config["rootfs"]["diff_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().replace("sha256:", ""))
        .collect();
    let names: Vec<String> = diff_ids.iter().map(|id| format!("{id}.tar")).collect();
    let config_name = format!("{}.json", Sha256::of(&config).hex());
    let manifest: Value = serde_json::from_slice(&members[0].1).unwrap();
    assert_eq!(
        manifest,
        json!([{ "Config": config_name, "RepoTags": ["busybox:1.36"], "Layers": names }])
    );
    assert_eq!(members[0].0, "manifest.json");
    assert_eq!(members[1], (config_name, config));
    assert_eq!(members.len(), 2 + diff_ids.len());
    let lines = members.iter().map(|(name, _)| format!("{name}\n"));
    assert_eq!(stdout(&listed), lines.collect::<String>());
    for ((name, bytes), id) in members[2..].iter().zip(&diff_ids) {
        assert_eq!(*name, format!("{id}.tar"));
        assert_eq!(Sha256::of(bytes).hex(), *id);
    }
}

#[test]
fn only_what_is_named_is_extracted() {
    let upstream = Upstream::new("v1.20.2");
    let desk = desk_with_pot(&upstream, &[]);
    let report = json_of(&extract(
        &desk,
        &[
            "k8s.gcr.io/pause:3.2",
            "docker/dockerd",
            "kubelet",
            "--json",
        ],
    ));
    // In the pot's order, whatever theirs was.
    let told = report["files"].as_array().unwrap();
    let names: Vec<&str> = told
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["docker/dockerd", "kubelet", "k8s.gcr.io/pause:3.2"]);
    assert_eq!(
        told[0]["digest"],
        Sha256::of(&content("dockerd", 50_000)).to_string()
    );
    let found: Vec<String> = files(&desk.out().join("to")).into_keys().collect();
    let expected = [
        "docker/dockerd",
        "images/k8s.gcr.io_pause_3.2.tar",
        "kubelet",
    ];
    assert_eq!(found, expected);

    // One that is packed against another, out of a pot that was unpacked to a folder.
    let folder = desk.out().join("unpacked");
    let pot = std::fs::File::open(desk.out().join("x.pot")).unwrap();
    tar::Archive::new(pot).unpack(&folder).unwrap();
    let signers = desk.signers().display().to_string();
    let plugin = [
        "extract",
        "unpacked",
        "--signers",
        &signers,
        "cni-plugins/bridge",
    ];
    assert_eq!(code(&desk.kpot(&plugin)), 0);
    let bridge = std::fs::read(desk.out().join("cni-plugins/bridge")).unwrap();
    assert!(bridge == content("bridge", 50_000));

    for unknown in [
        "kubele",
        "docker/",
        "docker/kubelet",
        "pause:3.2",
        "../x",
        "",
    ] {
        let refused = extract(&desk, &[unknown, "kubectl"]);
        assert_eq!(code(&refused), 2, "{unknown}: {}", stderr(&refused));
        assert!(
            stderr(&refused).contains("kpot inspect"),
            "{}",
            stderr(&refused)
        );
    }
    assert_eq!(files(&desk.out().join("to")).len(), 3);
}

#[test]
fn what_is_there_is_kept_unless_force_is_given() {
    let upstream = Upstream::new("v1.20.2");
    let desk = desk_with_pot(&upstream, &[]);
    let (to, outside) = (desk.out().join("to"), desk.path("outside"));
    std::fs::create_dir(&to).unwrap();
    std::fs::write(&outside, "mine").unwrap();
    std::fs::write(to.join("kubelet"), "mine").unwrap();
    symlink(&outside, to.join("kubeadm")).unwrap();
    let refused = extract(&desk, &[]);
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
    assert_eq!(files(&to).len(), 2);
    assert_eq!(std::fs::read(to.join("kubelet")).unwrap(), b"mine");

    let done = extract(&desk, &["--force", "kubelet", "kubeadm"]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    for name in ["kubelet", "kubeadm"] {
        let path = to.join(name);
        assert!(path.symlink_metadata().unwrap().is_file(), "{name}");
        assert!(std::fs::read(path).unwrap() == content(name, 300_000));
    }
    // The link went, not what it led to.
    assert_eq!(std::fs::read(&outside).unwrap(), b"mine");

    // A folder that leads elsewhere, and a folder in the place of a file, are in the way of force, too.
    std::fs::create_dir(desk.path("elsewhere")).unwrap();
    symlink(desk.path("elsewhere"), to.join("docker")).unwrap();
    std::fs::create_dir(to.join("kubectl")).unwrap();
    let refused = extract(&desk, &["--force"]);
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    for told in ["to/docker is not a folder", "to/kubectl is a folder"] {
        assert!(stderr(&refused).contains(told), "{}", stderr(&refused));
    }
    assert!(files(&desk.path("elsewhere")).is_empty());
    assert_eq!(files(&to).len(), 3, "two programs and the link");
}

#[test]
fn nothing_comes_out_of_a_pot_that_is_not_trusted() {
    let upstream = Upstream::new("v1.20.2");
    let desk = desk_with_pot(&upstream, &["--unsigned"]);
    let unsigned = extract(&desk, &[]);
    assert_eq!(code(&unsigned), 4);
    assert!(
        stderr(&unsigned).contains("not signed"),
        "{}",
        stderr(&unsigned)
    );

    let (other, _) = other_key(&desk);
    let built = desk.build(&upstream, "x.pot", &["--sign-key", &other]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let foreign = extract(&desk, &["kubelet"]);
    assert_eq!(code(&foreign), 4);
    assert!(
        stderr(&foreign).contains("not trusted"),
        "{}",
        stderr(&foreign)
    );

    assert_eq!(code(&desk.build(&upstream, "x.pot", &[])), 0);
    let pot = desk.out().join("x.pot");
    let mut bytes = std::fs::read(&pot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pot, bytes).unwrap();
    let damaged = extract(&desk, &["kubelet"]);
    assert_eq!(code(&damaged), 4, "{}", stderr(&damaged));
    assert_eq!(desk.made(), ["x.pot"], "not even a folder was made");
}

#[test]
fn no_name_leads_out_of_the_folder_not_even_a_signed_one() {
    let upstream = Upstream::new("v1.20.2");
    let desk = desk_with_pot(&upstream, &[]);
    let (pot, key) = (desk.out().join("x.pot"), key_of(&desk));
    let good = std::fs::read(&pot).unwrap();
    for (name, hostile) in [
        (r#""name": "cni-plugins""#, r#""name": "../evil""#),
        (r#""name": "cni-plugins""#, r#""name": "/evil""#),
        (r#""name": "bridge""#, r#""name": "..""#),
        (r#""name": "bridge""#, r#""name": "a/../../evil""#),
    ] {
        let bytes = forged(&good, &key, |text| text.replacen(name, hostile, 1));
        std::fs::write(&pot, bytes).unwrap();
        let refused = extract(&desk, &[]);
        assert_eq!(code(&refused), 4, "{hostile}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("name"), "{}", stderr(&refused));
        assert_eq!(desk.made(), ["x.pot"], "{hostile}");
    }

    // An image may be called whatever a registry's path allows, and more.
    let bytes = forged(&good, &key, |text| {
        text.replacen("k8s.gcr.io/coredns:1.7.0", "../../../evil:1", 1)
    });
    std::fs::write(&pot, bytes).unwrap();
    let done = extract(&desk, &["../../../evil:1"]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert_eq!(desk.made(), ["to", "x.pot"]);
    let found: Vec<String> = files(&desk.out().join("to")).into_keys().collect();
    assert_eq!(found, ["images/_._.._.._evil_1.tar"]);

    // Two that would be one file are not made one.
    std::fs::write(
        &pot,
        forged(&good, &key, |text| {
            let text = text.replacen("k8s.gcr.io/coredns:1.7.0", "a.io/b/c:1", 1);
            text.replacen("k8s.gcr.io/etcd:3.4.13-0", "a.io/b_c:1", 1)
        }),
    )
    .unwrap();
    let refused = extract(&desk, &["--force"]);
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("one by one"),
        "{}",
        stderr(&refused)
    );
    let done = extract(&desk, &["a.io/b_c:1"]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
}
