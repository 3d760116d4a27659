//! `kpot sign`: another signature, the same pot.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at and damage the files that kpot made"
)]

mod support;

use std::os::unix::fs::symlink;
use std::time::SystemTime;

use bundle_spec::{Member, Trust, UnverifiedPot, VerifiedPot, header};
use kpot::countersign::countersign;
use kpot::exit::Status;
use kpot::extract::select;
use kpot::pack::output::{self, Existing};
use kpot::progress::Progress;
use support::pots::{desk_with_pot, json_of, key_of, members, other_key};
use support::upstream::Upstream;
use support::{code, stderr, stdout};

#[test]
fn a_pot_is_signed_anew_and_keeps_every_other_byte() {
    let desk = desk_with_pot(&Upstream::new("v1.20.2"), &[]);
    let (key, other_signers) = other_key(&desk);
    let signers = desk.signers().display().to_string();
    let pot = desk.out().join("x.pot");
    let original = std::fs::read(&pot).unwrap();
    let report = json_of(&desk.kpot(&[
        "sign",
        "x.pot",
        "--signers",
        &signers,
        "--sign-key",
        &key,
        "-o",
        "y.pot",
        "--json",
    ]));
    assert_eq!(report["former_signer"], key_of(&desk).fingerprint());
    assert_eq!(std::fs::read(&pot).unwrap(), original, "x.pot is as it was");
    let signed = std::fs::read(desk.out().join("y.pot")).unwrap();
    let rest = |bytes: &[u8]| {
        let mut members = members(bytes);
        members.retain(|(member, _)| *member != Member::Signature);
        members
    };
    assert!(rest(&signed) == rest(&original));
    assert_eq!(signed.len(), original.len());

    // The new signature is the only one that counts.
    let verified = desk.kpot(&["verify", "y.pot", "--signers", &other_signers]);
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));
    assert_eq!(code(&desk.verify(&desk.out().join("y.pot"))), 4);

    // Back to the first key, in its own place and through a link: the first file again.
    symlink("y.pot", desk.out().join("link.pot")).unwrap();
    let back = desk.kpot(&["sign", "link.pot", "--signers", &other_signers]);
    assert_eq!(code(&back), 0, "{}", stderr(&back));
    assert!(stdout(&back).contains("no longer by"), "{}", stdout(&back));
    assert!(std::fs::read(desk.out().join("y.pot")).unwrap() == original);
    let link = desk.out().join("link.pot");
    assert!(link.symlink_metadata().unwrap().is_symlink());
    let same = desk.kpot(&["sign", "y.pot", "--signers", &signers]);
    assert!(stdout(&same).contains(", as before"), "{}", stdout(&same));
    assert!(std::fs::read(desk.out().join("y.pot")).unwrap() == original);
}

#[test]
fn nobody_signs_what_was_not_checked() {
    let upstream = Upstream::new("v1.20.2");
    let desk = desk_with_pot(&upstream, &[]);
    let (key, other_signers) = other_key(&desk);
    let signers = desk.signers().display().to_string();
    let sign = |pot: &str, signers: &str| {
        desk.kpot(&[
            "sign",
            pot,
            "--signers",
            signers,
            "--sign-key",
            &key,
            "-o",
            "y.pot",
        ])
    };
    assert_eq!(code(&sign("x.pot", &other_signers)), 4, "not trusted");
    let mut bytes = std::fs::read(desk.out().join("x.pot")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(desk.out().join("damaged.pot"), bytes).unwrap();
    assert_eq!(code(&sign("damaged.pot", &signers)), 4, "damaged");
    let built = desk.build(&upstream, "unsigned.pot", &["--unsigned"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert_eq!(code(&sign("unsigned.pot", &signers)), 4, "unsigned");
    let pot = std::fs::File::open(desk.out().join("x.pot")).unwrap();
    tar::Archive::new(pot)
        .unpack(desk.out().join("unpacked"))
        .unwrap();
    let folder = sign("unpacked", &signers);
    assert_eq!(code(&folder), 2, "{}", stderr(&folder));
    let missing = sign("missing.pot", &signers);
    assert_eq!(code(&missing), 2, "{}", stderr(&missing));
    let made = ["damaged.pot", "unpacked", "unsigned.pot", "x.pot"];
    assert_eq!(desk.made(), made);
}

#[test]
fn what_changes_after_it_was_verified_is_neither_signed_nor_extracted() {
    let desk = desk_with_pot(&Upstream::new("v1.20.2"), &[]);
    let (path, key) = (desk.out().join("x.pot"), key_of(&desk));
    let good = std::fs::read(&path).unwrap();
    let signers = std::fs::read_to_string(desk.signers()).unwrap();
    let trust = Trust::from_allowed_signers(&signers, SystemTime::now()).unwrap();
    let wanted = ["kubelet".to_owned()];
    let target = desk.out().join("new");
    let program = |pot: &VerifiedPot| {
        let items = select(pot.manifest(), &wanted).unwrap();
        let task = Progress::new().task("kubelet", None);
        let write = |out: &mut dyn std::io::Write| items[0].write(pot, out, &task);
        output::put(&target, 0o755, Existing::Kept, 0, write).map(drop)
    };
    // A byte in the middle of each kind of member.
    let (mut at, mut places) = (0, Vec::new());
    for (member, content) in members(&good) {
        let middle = at + header::BLOCK + content.len() / 2;
        let size = content.len() as u64;
        at += header::BLOCK + content.len() + header::padding(size);
        // The manifest that counts is the one that was verified; the old signature is what goes.
        if !matches!(member, Member::Manifest | Member::Sums | Member::Signature) {
            places.push((member, middle));
        }
    }
    for (member, place) in places {
        std::fs::write(&path, &good).unwrap();
        let pot = UnverifiedPot::open(&path).unwrap();
        let pot = pot.verify(&trust, &|_| {}).unwrap();
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        // In the same file, so that whoever holds it open sees it.
        std::fs::write(&path, bytes).unwrap();
        let refused = countersign(&pot, &key, &target).unwrap_err();
        assert_eq!(Status::of(&refused).code(), 4, "{member}: {refused:#}");
        assert!(
            format!("{refused:#}").contains(&member.to_string()),
            "{refused:#}"
        );
        let blob = &pot.manifest().artifact("kubelet").unwrap().files[0].blob;
        if member == Member::Blob(*blob) {
            let refused = program(&pot).unwrap_err();
            assert_eq!(Status::of(&refused).code(), 4, "{refused:#}");
        }
        assert_eq!(desk.made(), ["x.pot"], "{member}");
    }
    std::fs::write(&path, &good).unwrap();
    let pot = UnverifiedPot::open(&path).unwrap();
    let pot = pot.verify(&trust, &|_| {}).unwrap();
    program(&pot).unwrap();
    countersign(&pot, &key, &target).unwrap();
    assert!(std::fs::read(&target).unwrap() == good);
}
