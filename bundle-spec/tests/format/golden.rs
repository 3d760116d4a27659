//! The bytes of format 1 are frozen: what was a pot stays one, and the same parts give the same bytes for ever.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

use bundle_spec::{Error, Progress, Sha256, UnverifiedPot, VerifiedPot};

use crate::pots::{
    INSTALLER, REFERENCE, REFERRING, check, key, on_disk, pack, reference_pot, small, small_pot,
    trust, unpack, verbatim, with_reference,
};

/// A pot that was written when format 1 was made.
const OLD_POT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1.pot");

/// `sha256sum tests/fixtures/format-1.pot`.
const OLD_POT_DIGEST: &str = "0118524c399f3801aa292ba17eae62ec7c8cc8b7a33ff70036d84b671636e222";

/// `tar xOf tests/fixtures/format-1.pot SHA256SUMS | sha256sum`.
const OLD_POT_IDENTITY: &str = "eb01010d5f0d50d8267d69ebccd219029e228a2549a23d8c417201e611b5b42e";

/// A pot of format 1 with a blob that refers to another one.
const REFERENCE_POT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/format-1-reference.pot"
);

/// `sha256sum tests/fixtures/format-1-reference.pot`.
const REFERENCE_POT_DIGEST: &str =
    "b42e4730aec05738f4f32ebd46564c42fb29ccaeb480963f623487364fcc5d57";

/// A pot of format 1 with what a registry had, and with large windows.
const VERBATIM_POT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/format-1-verbatim.pot"
);

/// `sha256sum tests/fixtures/format-1-verbatim.pot`.
const VERBATIM_POT_DIGEST: &str =
    "70cca8b5ccf9121af2f3817f1ee36c4b3fd13f669f1e01bba211edb432007452";

fn contents(pot: &VerifiedPot) -> Vec<(Sha256, Vec<u8>)> {
    let read = |digest: &Sha256| {
        let mut bytes = Vec::new();
        pot.open_blob(digest)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        (*digest, bytes)
    };
    let blobs = &pot.manifest().blobs;
    blobs.iter().map(|blob| read(&blob.digest)).collect()
}

#[test]
fn the_same_parts_give_the_frozen_bytes() {
    let (manifest, stored) = small();
    let pot = pack(&manifest, &stored, Some(&key())).unwrap();
    assert_eq!(Sha256::of(&pot).hex(), OLD_POT_DIGEST);
    assert!(pot == small_pot());
}

#[test]
fn an_old_pot_opens_verifies_and_unpacks() {
    let bytes = fs::read(OLD_POT).unwrap();
    assert_eq!(Sha256::of(&bytes).hex(), OLD_POT_DIGEST);
    let pot = check(Path::new(OLD_POT)).unwrap();
    assert_eq!(pot.identity().hex(), OLD_POT_IDENTITY);
    assert_eq!(pot.installer(), Sha256::of(INSTALLER));
    assert_eq!(pot.manifest(), &small().0);
    assert_eq!(pot.source(), Path::new(OLD_POT));
    assert_eq!(pot.signer().fingerprint, key().fingerprint());
    assert_eq!(pot.signer().principal.as_deref(), Some("kpot"));
    let contents = contents(&pot);
    for (digest, content) in &contents {
        let blob = pot.manifest().blob(digest).unwrap();
        assert_eq!(Sha256::of(content), blob.unpacked_digest);
    }
    let file = pot.manifest().artifact("files").unwrap().files[0].blob;
    assert!(contents.contains(&(file, b"the content of a file".to_vec())));
}

#[test]
fn a_pot_with_what_a_registry_had_is_frozen_too() {
    let (manifest, stored) = verbatim();
    let packed = pack(&manifest, &stored, Some(&key())).unwrap();
    assert_eq!(Sha256::of(&packed).hex(), VERBATIM_POT_DIGEST);
    assert!(fs::read(VERBATIM_POT).unwrap() == packed);
    let pot = check(Path::new(VERBATIM_POT)).unwrap();
    assert_eq!(pot.manifest(), &manifest);
    let contents = contents(&pot);
    let image = &manifest.images[0];
    let layers = [
        b"stands for a layer".to_vec(),
        b"stands for another layer".to_vec(),
    ];
    for (digest, content) in image.layers.iter().zip(layers) {
        assert!(contents.contains(&(*digest, content)));
    }
    let paper = image.manifest.unwrap();
    assert!(contents.contains(&(paper, b"stands for the manifest".to_vec())));
}

#[test]
fn a_pot_with_a_reference_is_frozen_too() {
    assert_eq!(Sha256::of(&reference_pot()).hex(), REFERENCE_POT_DIGEST);
    let bytes = fs::read(REFERENCE_POT).unwrap();
    assert_eq!(Sha256::of(&bytes).hex(), REFERENCE_POT_DIGEST);
    let pot = check(Path::new(REFERENCE_POT)).unwrap();
    assert_eq!(pot.manifest(), &with_reference().0);
    let files = &pot.manifest().artifact("files").unwrap().files;
    let contents = contents(&pot);
    assert_eq!(contents.len(), 2);
    assert!(contents.contains(&(files[0].blob, REFERENCE.to_vec())));
    assert!(contents.contains(&(files[1].blob, REFERRING.to_vec())));
}

#[test]
fn an_unpacked_pot_is_the_same_pot_and_other_files_beside_it_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    unpack(&small_pot(), folder.path());
    fs::write(folder.path().join("notes"), "mine").unwrap();
    fs::write(folder.path().join("blobs/sha256/notes"), "mine").unwrap();
    let unpacked = check(folder.path()).unwrap();
    let (_folder, path) = on_disk(&small_pot());
    let packed = check(&path).unwrap();
    assert_eq!(unpacked.identity(), packed.identity());
    assert_eq!(unpacked.manifest(), packed.manifest());
    assert_eq!(contents(&unpacked), contents(&packed));
}

#[test]
fn an_unsigned_pot_can_be_looked_at_and_never_verifies() {
    let (manifest, stored) = small();
    let (_folder, path) = on_disk(&pack(&manifest, &stored, None).unwrap());
    let pot = UnverifiedPot::open(&path).unwrap();
    assert_eq!(pot.signer_fingerprint(), None);
    assert_eq!(pot.manifest_unverified(), &manifest);
    let refused = pot.verify(trust(), &|_| {});
    assert!(matches!(refused, Err(Error::Unsigned)), "{refused:?}");
}

#[test]
fn an_unverified_pot_names_its_signer_and_its_identity() {
    let (_folder, path) = on_disk(&small_pot());
    let pot = UnverifiedPot::open(&path).unwrap();
    assert_eq!(pot.signer_fingerprint(), Some(key().fingerprint()));
    assert_eq!(pot.identity().hex(), OLD_POT_IDENTITY);
}

#[test]
fn progress_rises_to_the_total() {
    let (_folder, path) = on_disk(&small_pot());
    let seen = Mutex::new(Vec::new());
    let pot = UnverifiedPot::open(&path).unwrap();
    pot.verify(trust(), &|progress| seen.lock().unwrap().push(progress))
        .unwrap();
    let seen: Vec<Progress> = seen.into_inner().unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.done));
    let last = seen.last().unwrap();
    assert_eq!(last.done, last.total);
    assert!(last.total > INSTALLER.len() as u64);
}

#[test]
fn the_writer_refuses_blobs_that_are_not_what_the_manifest_says() {
    let (manifest, stored) = small();
    let victim = manifest.artifacts[0].files[0].blob;
    let original = &stored.0[&victim];
    let mut flipped = original.clone();
    flipped[7] ^= 1;
    let mut longer = original.clone();
    longer.push(0);
    for (wrong, why) in [
        (flipped, "its digest is"),
        (longer, "more than"),
        (original[1..].to_vec(), "instead of"),
        (Vec::new(), "instead of"),
    ] {
        let mut stored = stored.clone();
        stored.0.insert(victim, wrong);
        let refused = pack(&manifest, &stored, Some(&key()));
        assert!(
            matches!(&refused, Err(Error::Content { member, reason }) if member.ends_with(&victim.hex()) && reason.contains(why)),
            "{refused:?}"
        );
    }
    let mut stored = stored.clone();
    stored.0.remove(&victim);
    let refused = pack(&manifest, &stored, Some(&key()));
    assert!(
        matches!(refused, Err(Error::Io { action: "read", .. })),
        "{refused:?}"
    );
}
