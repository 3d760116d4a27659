//! Blobs that refer to another blob: what a manifest may say of them, and what is handed out when one of the two is not what it should be.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bundle_spec::manifest::{Blob, Encoding};
use bundle_spec::{Error, Manifest, Sha256, VerifiedPot, limits};
use zstd::stream::raw::CParameter;

use crate::blobs::drain;
use crate::pots::{
    REFERENCE, REFERRING, Stored, blob, check, copying_frame, key, manifest_of_files, on_disk,
    pack, raw_frame, unpack, with_reference,
};

/// A verified pot that is unpacked in a folder, with its blobs' files in the order of `contents`: stored bytes, encoding, unpacked bytes.
fn pot_of(
    contents: &[(Vec<u8>, Encoding, &[u8])],
) -> (tempfile::TempDir, Vec<PathBuf>, VerifiedPot) {
    let blobs: Vec<Blob> = contents
        .iter()
        .map(|(stored, encoding, unpacked)| blob(stored, *encoding, unpacked))
        .collect();
    let stored = contents
        .iter()
        .map(|(stored, ..)| (Sha256::of(stored), stored.clone()));
    let stored = Stored(stored.collect());
    let paths = blobs.iter().map(|blob| blob.digest.hex());
    let paths: Vec<String> = paths.collect();
    let pot = pack(&manifest_of_files(blobs), &stored, Some(&key())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    unpack(&pot, folder.path());
    let verified = check(folder.path()).unwrap();
    let blob_folder = folder.path().join("blobs/sha256");
    let paths = paths.iter().map(|hex| blob_folder.join(hex)).collect();
    (folder, paths, verified)
}

/// A pot with a reference and one blob that refers to it.
fn pair(
    reference: (&[u8], Encoding, &[u8]),
    referring: (&[u8], &[u8]),
) -> (tempfile::TempDir, Vec<PathBuf>, VerifiedPot) {
    let (stored, encoding, unpacked) = reference;
    let against = Encoding::ZstdReference {
        reference: Sha256::of(stored),
    };
    pot_of(&[
        (stored.to_vec(), encoding, unpacked),
        (referring.0.to_vec(), against, referring.1),
    ])
}

/// What the blob unpacks to.
fn read(pot: &VerifiedPot, digest: &Sha256, piece: usize) -> Result<Vec<u8>, Error> {
    let mut reader = pot.open_blob(digest)?;
    let (bytes, end) = drain(&mut reader, piece);
    end.map_err(|cause| {
        let promised = reader.blob().unpacked_size;
        assert!(
            (bytes.len() as u64) < promised,
            "all {promised} bytes came of what is refused"
        );
        assert!(drain(&mut reader, piece).1.is_err(), "it stays refused");
        cause.downcast().expect("an error of this crate")
    })?;
    Ok(bytes)
}

/// Asserts that the blob is refused because of the blob `named`.
fn refused(pot: &VerifiedPot, digest: &Sha256, named: &Sha256, why: &str) {
    for piece in [1, 7, 1 << 16] {
        let error = read(pot, digest, piece).expect_err(why);
        assert!(
            matches!(&error, Error::Content { member, reason } if member.ends_with(&named.hex()) && reason.contains(why)),
            "expected {why:?} of {named}: {error:?}"
        );
    }
}

/// A frame as the builder makes it.
fn compressed(content: &[u8], prefix: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), 3, prefix).unwrap();
    encoder
        .set_parameter(CParameter::WindowLog(window_log))
        .unwrap();
    io::copy(&mut &content[..], &mut encoder).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress, the same ones for the same seed.
fn noise(mut seed: u32, size: usize) -> Vec<u8> {
    let next = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    });
    next.take(size).collect()
}

fn digest_of(path: &Path) -> Sha256 {
    Sha256::from_hex(path.file_name().unwrap().to_str().unwrap()).unwrap()
}

#[test]
fn a_manifest_says_what_refers_to_what_in_one_spelling() {
    let (manifest, _) = with_reference();
    let text = String::from_utf8(manifest.encode().unwrap()).unwrap();
    let reference = manifest.references().pop_first().unwrap();
    let said =
        format!("\"encoding\": \"zstd-reference\",\n      \"reference\": \"{reference}\",\n");
    assert_eq!(text.matches(&said).count(), 1, "{text}");
    assert_eq!(text.matches("\"reference\"").count(), 1, "{text}");
    let other = |from: &str, to: &str| {
        let other = text.replacen(from, to, 1);
        assert_ne!(other, text, "{from}");
        let refused = Manifest::decode(other.as_bytes());
        assert!(
            matches!(refused, Err(Error::Manifest(_))),
            "{other}: {refused:?}"
        );
    };
    let field = format!("      \"reference\": \"{reference}\",\n");
    // Without its field, or with the field twice, elsewhere, empty, or beside another encoding.
    other(&field, "");
    other(&field, &format!("{field}{field}"));
    other(&field, "      \"reference\": null,\n");
    other(
        &said,
        &format!(
            "{}{}",
            field.trim_start(),
            "      \"encoding\": \"zstd-reference\",\n"
        ),
    );
    other("\"zstd-reference\"", "\"zstd\"");
    other("\"zstd-reference\"", "\"identity\"");
    other(
        "\"encoding\": \"zstd\",\n",
        &format!("\"encoding\": \"zstd\",\n{field}"),
    );
    other(
        "\"encoding\": \"zstd\",\n",
        "\"encoding\": \"zstd\",\n      \"reference\": null,\n",
    );
    other("\"zstd-reference\"", "\"zstdreference\"");
    other("\"zstd-reference\"", "\"ZstdReference\"");
    other(
        "\"unpacked_size\"",
        "\"unknown\": 1,\n      \"unpacked_size\"",
    );
}

#[test]
fn references_that_lead_nowhere_or_on_are_refused() {
    let reject = |what: &str, why: &str, spoil: &dyn Fn(&mut [Blob; 3])| {
        let reference = Sha256::of(b"stored 0");
        let mut blobs = [
            blob(b"stored 0", Encoding::Zstd, b"unpacked 0"),
            blob(b"stored 1", Encoding::Zstd, b"unpacked 1"),
            blob(
                b"stored 2",
                Encoding::ZstdReference { reference },
                b"unpacked 2",
            ),
        ];
        manifest_of_files(blobs.to_vec()).encode().unwrap();
        spoil(&mut blobs);
        let manifest = manifest_of_files(blobs.to_vec());
        let mut bytes = serde_json::to_vec_pretty(&manifest).unwrap();
        bytes.push(b'\n');
        for refused in [manifest.encode().err(), Manifest::decode(&bytes).err()] {
            assert!(
                matches!(&refused, Some(Error::Manifest(text)) if text.contains(why)),
                "{what}: {refused:?}"
            );
        }
    };
    let refer = |blob: &mut Blob, reference: Sha256| {
        blob.encoding = Encoding::ZstdReference { reference };
    };
    reject("no listed blob", "does not list", &|it| {
        refer(&mut it[2], Sha256::of(b"stray"));
    });
    reject("an unpacked digest", "does not list", &|it| {
        let unpacked = it[0].unpacked_digest;
        refer(&mut it[2], unpacked);
    });
    reject("itself", "to itself", &|it| {
        let own = it[2].digest;
        refer(&mut it[2], own);
    });
    reject("a chain", "itself refers to another", &|it| {
        let second = it[2].digest;
        refer(&mut it[1], second);
    });
    reject("two that refer to each other", "itself refers", &|it| {
        let (one, other) = (it[1].digest, it[2].digest);
        refer(&mut it[1], other);
        refer(&mut it[2], one);
    });
    reject("a large reference", "more than 16777216", &|it| {
        it[0].unpacked_size = limits::REFERENCES + 1;
    });
    reject("a reference as large as can be", "more than", &|it| {
        it[0].unpacked_size = limits::BLOB_SIZE;
    });
}

#[test]
fn references_are_limited_together_and_counted_once() {
    let manifest = |sizes: [u64; 2]| {
        let mut blobs = Vec::new();
        for (index, size) in sizes.into_iter().enumerate() {
            let stored = [b'r', u8::try_from(index).unwrap()];
            let mut reference = blob(&stored, Encoding::Zstd, b"a reference");
            reference.unpacked_size = size;
            let against = Encoding::ZstdReference {
                reference: reference.digest,
            };
            blobs.push(reference);
            for number in 0..3 {
                let stored = [b's', u8::try_from(index).unwrap(), number];
                blobs.push(blob(&stored, against, &stored));
            }
        }
        manifest_of_files(blobs)
    };
    let half = limits::REFERENCES / 2;
    assert_eq!(manifest([half, half]).references().len(), 2);
    manifest([half, half]).encode().unwrap();
    manifest([limits::REFERENCES, 0]).encode().unwrap();
    for sizes in [[half, half + 1], [limits::REFERENCES, 1]] {
        let refused = manifest(sizes).encode();
        assert!(
            matches!(&refused, Err(Error::Manifest(text)) if text.contains("16777217 bytes")),
            "{refused:?}"
        );
    }
}

#[test]
fn a_referring_blob_streams_whole_in_pieces_of_any_size() {
    let reference = noise(1, 300_000);
    let content = [&b"begin"[..], &reference[1000..], &noise(2, 9000), b"end"].concat();
    let frame = compressed(&content, &reference, 20);
    assert!(frame.len() < 12_000, "the reference was used");
    for (stored, encoding) in [
        (reference.clone(), Encoding::Identity),
        (zstd::encode_all(&reference[..], 1).unwrap(), Encoding::Zstd),
    ] {
        let (_folder, paths, pot) = pair((&stored, encoding, &reference), (&frame, &content));
        for piece in [997, 1 << 20] {
            let digest = digest_of(&paths[1]);
            assert!(read(&pot, &digest, piece).unwrap() == content);
            let digest = digest_of(&paths[0]);
            assert!(read(&pot, &digest, piece).unwrap() == reference);
        }
    }
}

#[test]
fn a_reference_is_bytes_whatever_they_look_like() {
    // An empty one, one byte, and what a decoder that was given a dictionary would take for a broken one.
    let magic = [&[0x37, 0xa4, 0x30, 0xec, 1, 2, 3, 4][..], REFERENCE].concat();
    for reference in [&b""[..], b"x", &magic] {
        let content = [reference, reference, b"and more"].concat();
        let frame = compressed(&content, reference, 20);
        let (_folder, paths, pot) = pair(
            (reference, Encoding::Identity, reference),
            (&frame, &content),
        );
        assert_eq!(read(&pot, &digest_of(&paths[1]), 3).unwrap(), content);
    }
}

#[test]
fn every_flipped_byte_of_either_blob_is_noticed_after_verifying() {
    let frames = [
        raw_frame(REFERENCE),
        copying_frame(b"more than ", 31, 21, b", and no less"),
    ];
    for victim in [0, 1] {
        for position in 0..frames[victim].len() {
            let (_folder, paths, pot) = pair(
                (&frames[0], Encoding::Zstd, REFERENCE),
                (&frames[1], REFERRING),
            );
            let digest = digest_of(&paths[1]);
            for flip in [0x01, 0x80] {
                let mut flipped = frames[victim].clone();
                flipped[position] ^= flip;
                fs::write(&paths[victim], &flipped).unwrap();
                // The one that was changed is named, not the one that was asked for.
                refused(&pot, &digest, &digest_of(&paths[victim]), "");
            }
            fs::write(&paths[victim], &frames[victim]).unwrap();
            assert_eq!(read(&pot, &digest, 5).unwrap(), REFERRING, "it is back");
        }
    }
}

#[test]
fn a_reference_is_unpacked_once() {
    let frame = copying_frame(b"more than ", 31, 21, b", and no less");
    let (_folder, paths, pot) = pair(
        (&raw_frame(REFERENCE), Encoding::Zstd, REFERENCE),
        (&frame, REFERRING),
    );
    let digest = digest_of(&paths[1]);
    assert_eq!(read(&pot, &digest, 64).unwrap(), REFERRING);
    // What was checked is in memory; the file is asked for no more.
    fs::remove_file(&paths[0]).unwrap();
    assert_eq!(read(&pot, &digest, 64).unwrap(), REFERRING);
    assert!(read(&pot, &digest_of(&paths[0]), 64).is_err());
}

#[test]
fn a_reference_that_vanished_or_changed_its_size_is_an_error() {
    let frames = [
        raw_frame(REFERENCE),
        copying_frame(b"more than ", 31, 21, b", and no less"),
    ];
    let (_folder, paths, pot) = pair(
        (&frames[0], Encoding::Zstd, REFERENCE),
        (&frames[1], REFERRING),
    );
    let digest = digest_of(&paths[1]);
    for length in 0..frames[0].len() {
        fs::write(&paths[0], &frames[0][..length]).unwrap();
        let error = pot.open_blob(&digest).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Content { .. }), "{error:?}");
    }
    fs::remove_file(&paths[0]).unwrap();
    let error = pot.open_blob(&digest).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Archive(_)), "{error:?}");
}

#[test]
fn a_wrong_reference_is_noticed_by_the_digest_of_what_comes_out() {
    // The signer himself names another blob of the same length.
    let other = b"the content of a lion";
    assert_eq!(other.len(), REFERENCE.len());
    let frame = copying_frame(b"more than ", 31, 21, b", and no less");
    let (_folder, paths, pot) = pair((other, Encoding::Identity, other), (&frame, REFERRING));
    let digest = digest_of(&paths[1]);
    let why = "does not unpack to the bytes that the manifest names";
    refused(&pot, &digest, &digest, why);
    // And a reference that does not unpack to what he says.
    let lie = raw_frame(other);
    let (_folder, paths, pot) = pair((&lie, Encoding::Zstd, REFERENCE), (&frame, REFERRING));
    refused(&pot, &digest, &digest_of(&paths[0]), why);
}

#[test]
fn a_frame_that_reaches_beyond_its_reference_does_not_unpack() {
    for (prefix, distance) in [(&b""[..], 31), (&REFERENCE[1..], 31), (REFERENCE, 32)] {
        let frame = copying_frame(b"more than ", distance, 21, b", and no less");
        let (_folder, paths, pot) = pair((prefix, Encoding::Identity, prefix), (&frame, REFERRING));
        let digest = digest_of(&paths[1]);
        refused(&pot, &digest, &digest, "does not unpack");
    }
    // Nor does one without the reference that it needs.
    let frame = copying_frame(b"more than ", 31, 21, b", and no less");
    let (_folder, paths, pot) = pot_of(&[(frame, Encoding::Zstd, REFERRING)]);
    let digest = digest_of(&paths[0]);
    refused(&pot, &digest, &digest, "does not unpack");
}

#[test]
fn a_referring_frame_keeps_the_rules_of_every_frame() {
    let frame = copying_frame(b"more than ", 31, 21, b", and no less");
    let judge = |frame: &[u8], unpacked: &[u8], why: &str| {
        let reference = (REFERENCE, Encoding::Identity, REFERENCE);
        let (_folder, paths, pot) = pair(reference, (frame, unpacked));
        let digest = digest_of(&paths[1]);
        refused(&pot, &digest, &digest, why);
    };
    for cut in 0..frame.len() {
        judge(&frame[..cut], REFERRING, "");
    }
    judge(
        &[&frame[..], b"\0"].concat(),
        REFERRING,
        "bytes behind its zstd frame",
    );
    judge(
        &[&frame[..], &raw_frame(b"x")].concat(),
        REFERRING,
        "bytes behind its zstd frame",
    );
    judge(
        &frame,
        &REFERRING[..REFERRING.len() - 1],
        "more bytes than the manifest says",
    );
    judge(
        &frame,
        &[REFERRING, b"."].concat(),
        "fewer bytes than the manifest says",
    );
    // One that asks for a dictionary by number.
    let mut dictionary = frame.clone();
    dictionary[4] |= 1;
    dictionary.insert(5, 42);
    judge(&dictionary, REFERRING, "does not unpack");
    // A window descriptor in the place of the content's size: 2^25 is taken, the next larger one is not.
    let mut window = frame.clone();
    window[4] = 0;
    window[5] = 15 << 3;
    let reference = (REFERENCE, Encoding::Identity, REFERENCE);
    let (_folder, paths, pot) = pair(reference, (&window, REFERRING));
    assert_eq!(read(&pot, &digest_of(&paths[1]), 7).unwrap(), REFERRING);
    window[5] |= 1;
    judge(&window, REFERRING, "does not unpack");
}

#[test]
fn a_pot_with_references_reads_the_same_from_its_file() {
    let (manifest, stored) = with_reference();
    let (_folder, path) = on_disk(&pack(&manifest, &stored, Some(&key())).unwrap());
    let pot = check(&path).unwrap();
    let referring = manifest.artifacts[0].files[1].blob;
    assert_eq!(read(&pot, &referring, 4).unwrap(), REFERRING);
}
