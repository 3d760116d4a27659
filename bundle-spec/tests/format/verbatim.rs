//! Blobs that somebody else compressed: gzip members and zstd frames as registries have them; and the windows of pots that say that they have large ones.

use std::io::Write as _;

use bundle_spec::manifest::{Blob, Encoding, Windows};
use bundle_spec::{Error, Manifest, Sha256, VerifiedPot, limits};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::blobs::{drain, frame_with_window, pot_with, refused};
use crate::pots::{
    Stored, blob, check, gzip_member, key, manifest_of_files, on_disk, pack, raw_frame,
    skippable_frame, verbatim,
};

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// 300,000 bytes that compress somewhat.
fn text() -> Vec<u8> {
    let numbers = (0_u64..).flat_map(|n| (n * n).to_string().into_bytes());
    numbers.take(300_000).collect()
}

#[test]
fn what_others_compressed_streams_whole_in_pieces_of_any_size() {
    let content = text();
    let halves = content.split_at(123_456);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let rows = [
        (Encoding::Gzip, vec![gzip(&content)]),
        (
            Encoding::Gzip,
            vec![gzip(halves.0), gzip(b""), gzip(halves.1)],
        ),
        (Encoding::ZstdFrames, vec![zstd(&content)]),
        (
            Encoding::ZstdFrames,
            vec![
                skippable_frame(b"before"),
                zstd(halves.0),
                skippable_frame(b""),
                zstd(b""),
                zstd(halves.1),
                skippable_frame(b"a table of contents"),
            ],
        ),
    ];
    for (encoding, parts) in rows {
        let stored = parts.concat();
        let described = blob(&stored, encoding, &content);
        let (_folder, pot) = pot_with(&stored, described.clone());
        for piece in [997, 1 << 20] {
            let (bytes, end) = drain(&mut pot.open_blob(&described.digest).unwrap(), piece);
            end.unwrap();
            assert!(bytes == content, "{encoding:?} in pieces of {piece}");
        }
    }
}

#[test]
fn nothing_stands_behind_what_others_compressed() {
    let content = b"content";
    let rows = [
        (Encoding::Gzip, gzip_member(content)),
        (Encoding::ZstdFrames, raw_frame(content)),
    ];
    for (encoding, good) in rows {
        for tail in [
            &b"\0"[..],
            b"tail",
            b"\x1f\x8b\x08",
            &good[..good.len() - 1],
        ] {
            let stored = [&good[..], tail].concat();
            refused(&stored, &blob(&stored, encoding, content), "");
        }
        for cut in 0..good.len() {
            refused(&good[..cut], &blob(&good[..cut], encoding, content), "");
        }
        let twice = [&good[..], &good].concat();
        let described = blob(&twice, encoding, content);
        refused(&twice, &described, "more bytes than the manifest says");
        let both = [&content[..], content, b"."].concat();
        refused(&twice, &blob(&twice, encoding, &both), "fewer bytes");
        let other = blob(&good, encoding, b"CONTENT");
        refused(&good, &other, "does not unpack to the bytes");
    }
}

#[test]
fn every_flipped_bit_of_a_gzip_member_is_noticed_or_changes_no_byte() {
    // Its time and system are nobody's business, but the stored digest covers them: the signer himself would have to lie.
    let good = gzip_member(b"content");
    for position in 0..good.len() {
        let mut flipped = good.clone();
        flipped[position] ^= 1;
        let described = blob(&flipped, Encoding::Gzip, b"content");
        let (_folder, pot) = pot_with(&flipped, described.clone());
        let (bytes, end) = drain(&mut pot.open_blob(&described.digest).unwrap(), 64);
        assert!(end.is_err() || bytes == b"content", "byte {position}");
    }
}

#[test]
fn a_gzip_bomb_yields_no_more_than_was_signed() {
    let bomb = gzip(&vec![b'b'; 64 << 20]);
    let signed = vec![b'b'; 5_000];
    let described = blob(&bomb, Encoding::Gzip, &signed);
    refused(&bomb, &described, "more bytes than the manifest says");
}

/// A pot with large windows, and one blob.
fn large(stored: &[u8], described: Blob) -> (tempfile::TempDir, VerifiedPot) {
    let blobs = Stored([(described.digest, stored.to_vec())].into());
    let mut manifest = manifest_of_files(vec![described]);
    manifest.windows = Windows::Large;
    let (folder, path) = on_disk(&pack(&manifest, &blobs, Some(&key())).unwrap());
    let pot = check(&path).unwrap();
    (folder, pot)
}

#[test]
fn large_windows_are_read_where_the_manifest_says_so() {
    let content = b"content";
    for encoding in [Encoding::Zstd, Encoding::ZstdFrames] {
        let fits = frame_with_window(16 << 3, content); // 2^26
        let described = blob(&fits, encoding, content);
        let (_folder, pot) = large(&fits, described.clone());
        let (bytes, end) = drain(&mut pot.open_blob(&described.digest).unwrap(), 64);
        end.unwrap();
        assert_eq!(bytes, content);
        refused(&fits, &described, "does not unpack");
        let beyond = frame_with_window(16 << 3 | 1, content);
        let described = blob(&beyond, encoding, content);
        let (_folder, pot) = large(&beyond, described.clone());
        let (_, end) = drain(&mut pot.open_blob(&described.digest).unwrap(), 64);
        assert!(end.is_err());
    }
}

#[test]
fn references_may_be_larger_where_the_manifest_says_so() {
    let manifest = |windows, size| {
        let mut reference = blob(b"stored", Encoding::Zstd, b"");
        reference.unpacked_size = size;
        let against = Encoding::ZstdReference {
            reference: reference.digest,
        };
        let mut manifest = manifest_of_files(vec![reference, blob(b"other", against, b"")]);
        manifest.windows = windows;
        manifest.encode()
    };
    for (windows, limit) in [
        (Windows::Usual, limits::REFERENCES),
        (Windows::Large, limits::LARGE_REFERENCES),
    ] {
        manifest(windows, limit).unwrap();
        let refused = manifest(windows, limit + 1).unwrap_err();
        assert!(refused.to_string().contains("references"), "{refused}");
    }
}

#[test]
fn what_is_usual_is_not_said_and_what_is_unknown_is_refused_with_advice() {
    let (manifest, _) = verbatim();
    let text = String::from_utf8(manifest.encode().unwrap()).unwrap();
    let edited = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        Manifest::decode(text.replace(from, to).as_bytes())
    };
    // "usual" is said by saying nothing.
    let spelled = edited("\"windows\": \"large\"", "\"windows\": \"usual\"").unwrap_err();
    assert!(spelled.to_string().contains("canonical"), "{spelled}");
    // What a later kpot may add to this format.
    for (from, to) in [
        ("\"windows\": \"large\"", "\"windows\": \"huge\""),
        ("\"encoding\": \"gzip\"", "\"encoding\": \"brotli\""),
        ("\"serial\"", "\"news\": 1,\n  \"serial\""),
    ] {
        let refused = edited(from, to).unwrap_err();
        assert!(matches!(refused, Error::Manifest(_)), "{refused:?}");
        let told = refused.to_string();
        assert!(told.contains("If a newer kpot made the pot"), "{told}");
    }
    assert_eq!(
        Manifest::decode(text.as_bytes()).unwrap().images[0].manifest,
        Some(Sha256::of(b"stands for the manifest"))
    );
}
