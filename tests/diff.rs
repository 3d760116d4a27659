//! `kpot diff`, of pots that were built.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at and damage the files that kpot made"
)]

mod support;

use std::collections::BTreeMap;

use bundle_spec::{Sha256, UnverifiedPot};
use serde_json::{Value, json};
use support::pots::{desk_with_pot, json_of, key_of};
use support::upstream::{FakeImage, Upstream, content};
use support::{code, stderr, stdout};

#[test]
fn a_diff_tells_what_the_newer_pot_brings() {
    let (old, new) = (Upstream::new("v1.14.0"), Upstream::new("v1.20.2"));
    let desk = desk_with_pot(&old, &[]);
    let kubelet = content("another kubelet", 200_000);
    let path = new.program("kubelet");
    new.put(
        &format!("{path}.sha256"),
        Sha256::of(&kubelet).hex().into_bytes(),
    );
    new.put(&path, kubelet);
    new.push("lab/flannel", "v1", &FakeImage::new("flannel"));
    let flannel = format!("{}/lab/flannel:v1", new.server.address());
    let built = desk.build(&new, "y.pot", &["--image", &flannel, "--unsigned"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));

    let report = json_of(&desk.kpot(&["diff", "x.pot", "y.pot", "--json"]));
    assert_eq!(report["verified"], false);
    assert_eq!(report["from"]["name"], "kpot-v1.14.0-amd64");
    assert_eq!(report["from"]["signer"], key_of(&desk).fingerprint());
    assert_eq!(report["to"]["signer"], Value::Null);
    let versions = &report["versions"];
    assert_eq!(
        versions["kubernetes"],
        json!({ "from": "v1.14.0", "to": "v1.20.2" })
    );
    assert_eq!(versions["cni"]["from"], versions["cni"]["to"]);
    assert_eq!(versions["runtime"]["to"]["version"], "20.10.24");

    let changes = report["changes"].as_array().unwrap();
    let told: Vec<String> = changes
        .iter()
        .map(|change| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {}",
                text(&change["change"]),
                text(&change["name"]),
                text(&change["from"]["version"]),
                text(&change["to"]["version"])
            )
        })
        .collect();
    let flannel_repository = flannel.trim_end_matches(":v1");
    let mut images = vec![format!("added {flannel_repository} - v1")];
    for (name, from, to) in [
        ("coredns", "1.3.1", "1.7.0"),
        ("etcd", "3.3.10", "3.4.13-0"),
        ("kube-apiserver", "v1.14.0", "v1.20.2"),
        ("kube-controller-manager", "v1.14.0", "v1.20.2"),
        ("kube-proxy", "v1.14.0", "v1.20.2"),
        ("kube-scheduler", "v1.14.0", "v1.20.2"),
        ("pause", "3.1", "3.2"),
    ] {
        images.push(format!("changed k8s.gcr.io/{name} {from} {to}"));
    }
    let programs =
        ["kubeadm", "kubectl", "kubelet"].map(|name| format!("changed {name} v1.14.0 v1.20.2"));
    assert_eq!(told, [&programs[..], &images].concat());

    // Of the three programs one has other bytes; of the images, but for flannel, none has: their versions are names of the same content here.
    let changed: Vec<&str> = changes
        .iter()
        .filter(|change| change["new_bytes"] != 0)
        .map(|change| change["name"].as_str().unwrap())
        .collect();
    assert_eq!(changed, ["kubelet", flannel_repository]);
    assert_eq!(changes[2]["files"]["changed"], json!(["kubelet"]));
    assert_eq!(changes[0]["files"]["changed"], json!([]));

    // The sums, counted without the diff.
    let blobs = |name: &str| -> BTreeMap<Sha256, u64> {
        let pot = UnverifiedPot::open(&desk.out().join(name)).unwrap();
        let blobs = pot.manifest_unverified().blobs.iter();
        blobs.map(|blob| (blob.digest, blob.size)).collect()
    };
    let (before, after) = (blobs("x.pot"), blobs("y.pot"));
    let sum = |these: &BTreeMap<Sha256, u64>, those: &BTreeMap<Sha256, u64>, both: bool| {
        let mut chosen = these.clone();
        chosen.retain(|digest, _| those.contains_key(digest) == both);
        json!({ "count": chosen.len(), "stored": chosen.values().sum::<u64>() })
    };
    assert_eq!(report["blobs"]["new"], sum(&after, &before, false));
    assert_eq!(report["blobs"]["shared"], sum(&after, &before, true));
    assert_eq!(report["blobs"]["gone"], sum(&before, &after, false));
    // kubelet, flannel's config and its one layer of its own.
    assert_eq!(report["blobs"]["new"]["count"], 3);

    let shown = desk.kpot(&["diff", "x.pot", "y.pot"]);
    let text = stdout(&shown);
    for told in [
        "NOT SIGNED",
        "not verified",
        "Kubernetes   v1.14.0          v1.20.2\n",
        "1 changed",
        "new in B:  3 blobs, ",
        "only in A: 1 blob, ",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert_eq!(text, stdout(&desk.kpot(&["diff", "x.pot", "y.pot"])));
}

#[test]
fn a_pot_brings_nothing_that_it_has() {
    let desk = desk_with_pot(&Upstream::new("v1.20.2"), &[]);
    let shown = stdout(&desk.kpot(&["diff", "x.pot", "x.pot"]));
    for told in ["Both hold the same", "new in B:  0 blobs, 0 B\n"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    std::fs::write(desk.out().join("no.pot"), "no pot").unwrap();
    assert_eq!(code(&desk.kpot(&["diff", "x.pot", "no.pot"])), 4);
    let missing = desk.kpot(&["diff", "x.pot", "missing.pot"]);
    assert_eq!(code(&missing), 2, "{}", stderr(&missing));
}
