//! What a verified pot hands out: exactly the bytes that the manifest promises, or an error that names the blob.
//!
//! Here the signer himself lies, or the file changes after it was verified; everybody else was refused before.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use bundle_spec::manifest::{Blob, Encoding};
use bundle_spec::{BlobReader, Error, Sha256, VerifiedPot};

use crate::pots::{
    Stored, blob, check, key, manifest_of_files, on_disk, pack, raw_frame, small_pot, unpack,
};

/// A verified pot with this one blob.
pub fn pot_with(stored: &[u8], described: Blob) -> (tempfile::TempDir, VerifiedPot) {
    let blobs = Stored([(described.digest, stored.to_vec())].into());
    let manifest = manifest_of_files(vec![described]);
    let (folder, path) = on_disk(&pack(&manifest, &blobs, Some(&key())).unwrap());
    let pot = check(&path).unwrap();
    (folder, pot)
}

/// Reads to the end in pieces of `piece` bytes: what came, and how it ended.
pub fn drain(reader: &mut BlobReader<'_>, piece: usize) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; piece];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return (bytes, Ok(())),
            Ok(count) => bytes.extend(&buffer[..count]),
            Err(cause) => return (bytes, Err(cause)),
        }
    }
}

/// Asserts that the blob is refused with `why`, that fewer than all of its bytes came, and that it stays refused.
pub fn refused(stored: &[u8], described: &Blob, why: &str) {
    let (_folder, pot) = pot_with(stored, described.clone());
    for piece in [1, 7, 1 << 16] {
        let mut reader = pot.open_blob(&described.digest).unwrap();
        let (bytes, end) = drain(&mut reader, piece);
        let cause = end.expect_err(why);
        assert_eq!(cause.kind(), io::ErrorKind::InvalidData);
        let text = cause.to_string();
        assert!(
            text.contains(why) && text.contains(&described.digest.hex()),
            "{text}"
        );
        assert!(
            (bytes.len() as u64) < described.unpacked_size.max(1),
            "{why}"
        );
        assert!(drain(&mut reader, piece).1.is_err());
    }
}

/// A frame with one block that repeats a byte 2^17 times per block: a few bytes that become megabytes.
fn bomb(blocks: u32) -> Vec<u8> {
    // Window of 128 KiB, no content size (RFC 8878, 3.1.1.1.2).
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    for number in 1..=blocks {
        let header = u32::from(number == blocks) | 1 << 1 | (1 << 17) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(b'b');
    }
    frame
}

/// A raw frame with a window descriptor instead of a content size.
pub fn frame_with_window(descriptor: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = raw_frame(content);
    frame[4] = 0;
    frame[5] = descriptor;
    frame
}

#[test]
fn good_blobs_stream_whole_in_pieces_of_any_size() {
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] & 0x3f
    });
    let content: Vec<u8> = noise.take(150_001).collect();
    for (encoding, stored) in [
        (Encoding::Identity, content.clone()),
        (Encoding::Zstd, zstd::encode_all(&content[..], 3).unwrap()),
    ] {
        let described = blob(&stored, encoding, &content);
        let (_folder, pot) = pot_with(&stored, described.clone());
        for piece in [997, 1 << 20] {
            let mut reader = pot.open_blob(&described.digest).unwrap();
            assert_eq!(reader.blob(), &described);
            let (bytes, end) = drain(&mut reader, piece);
            end.unwrap();
            assert!(bytes == content, "{encoding:?} in pieces of {piece}");
        }
        let (bytes, end) = drain(&mut pot.open_stored(&described.digest).unwrap(), 997);
        end.unwrap();
        assert!(bytes == stored, "{encoding:?} as it is stored");
    }
}

#[test]
fn an_empty_blob_unpacks_to_nothing() {
    for (encoding, stored) in [
        (Encoding::Identity, Vec::new()),
        (Encoding::Zstd, raw_frame(b"")),
    ] {
        let described = blob(&stored, encoding, b"");
        let (_folder, pot) = pot_with(&stored, described.clone());
        let mut reader = pot.open_blob(&described.digest).unwrap();
        assert_eq!(reader.read(&mut []).unwrap(), 0);
        let (bytes, end) = drain(&mut reader, 16);
        end.unwrap();
        assert!(bytes.is_empty());
    }
}

#[test]
fn a_bomb_yields_no_more_than_was_signed() {
    let frame = bomb(1 << 13); // one gigabyte out of 32 kilobytes
    let signed = vec![b'b'; 5_000];
    refused(
        &frame,
        &blob(&frame, Encoding::Zstd, &signed),
        "more bytes than the manifest says",
    );
    let described = blob(&frame, Encoding::Zstd, b"");
    refused(&frame, &described, "more bytes than the manifest says");
}

#[test]
fn fewer_bytes_than_signed_are_an_error_and_not_an_end() {
    let frame = raw_frame(b"short");
    refused(
        &frame,
        &blob(&frame, Encoding::Zstd, b"shorter than this"),
        "fewer bytes than the manifest says",
    );
}

#[test]
fn other_bytes_than_signed_are_refused_before_the_last_of_them() {
    let frame = raw_frame(b"these bytes");
    refused(
        &frame,
        &blob(&frame, Encoding::Zstd, b"those bytes"),
        "does not unpack to the bytes that the manifest names",
    );
}

#[test]
fn the_window_is_limited() {
    let content = b"content";
    let fits = frame_with_window(15 << 3, content); // 2^25
    let described = blob(&fits, Encoding::Zstd, content);
    let (_folder, pot) = pot_with(&fits, described.clone());
    let (bytes, end) = drain(&mut pot.open_blob(&described.digest).unwrap(), 64);
    end.unwrap();
    assert_eq!(bytes, content);
    for descriptor in [15 << 3 | 1, 16 << 3, 17 << 3, 21 << 3, 0xff] {
        let frame = frame_with_window(descriptor, content);
        refused(
            &frame,
            &blob(&frame, Encoding::Zstd, content),
            "does not unpack",
        );
    }
}

#[test]
fn a_blob_is_one_frame_and_nothing_else() {
    let content = b"content";
    let frame = raw_frame(content);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"...".as_slice()].concat();
    for tail in [&frame[..], &raw_frame(b"")[..], &skippable, b"\0", b"tail"] {
        let stored = [&frame[..], tail].concat();
        refused(
            &stored,
            &blob(&stored, Encoding::Zstd, content),
            "bytes behind its zstd frame",
        );
        // Nor may the second frame's content count.
        let both = [content.as_slice(), content].concat();
        refused(
            &stored,
            &blob(&stored, Encoding::Zstd, &both),
            "fewer bytes",
        );
    }
    let before = [&skippable[..], &frame].concat();
    let described = blob(&before, Encoding::Zstd, content);
    refused(&before, &described, "fewer bytes");
    for cut in 0..frame.len() {
        let described = blob(&frame[..cut], Encoding::Zstd, content);
        refused(&frame[..cut], &described, "");
    }
    for wrong in [b"no frame at all".as_slice(), b"\x1f\x8b\x08\0\0\0\0\0\0\0"] {
        refused(
            wrong,
            &blob(wrong, Encoding::Zstd, content),
            "does not unpack",
        );
    }
    // A frame that asks for a dictionary.
    let mut dictionary = frame.clone();
    dictionary[4] |= 1;
    dictionary.insert(5, 42);
    let described = blob(&dictionary, Encoding::Zstd, content);
    refused(&dictionary, &described, "does not unpack");
}

#[test]
fn a_change_after_verifying_is_noticed_before_the_last_byte() {
    for (encoding, stored) in [
        (Encoding::Identity, b"some content".to_vec()),
        (Encoding::Zstd, raw_frame(b"some content")),
    ] {
        let described = blob(&stored, encoding, b"some content");
        let (folder, pot) = pot_with(&stored, described.clone());
        let path = folder.path().join("test.pot");
        let length = path.metadata().unwrap().len();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // The last byte of the content, whose padding and the end follow it.
        let position = length - 1024 - 512 + stored.len() as u64 - 1;
        file.write_all_at(b"T", position).unwrap();
        let mut content = [0; 12];
        let cause = pot
            .open_blob(&described.digest)
            .unwrap()
            .read_exact(&mut content)
            .unwrap_err();
        assert!(
            cause.to_string().contains("not those that were signed"),
            "{cause}"
        );
        file.set_len(position).unwrap();
        let mut reader = pot.open_blob(&described.digest).unwrap();
        let cause = reader.read_exact(&mut content).unwrap_err();
        assert_ne!(cause.kind(), io::ErrorKind::Interrupted);
    }
}

#[test]
fn a_blob_that_vanished_or_is_unknown_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    unpack(&small_pot(), folder.path());
    let pot = check(folder.path()).unwrap();
    let unknown = pot.open_blob(&Sha256::of(b"unknown"));
    assert!(matches!(unknown, Err(Error::Manifest(_))), "{unknown:?}");
    let digest = pot.manifest().blobs[0].digest;
    let path = folder.path().join("blobs/sha256").join(digest.hex());
    let file = OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len(path.metadata().unwrap().len() + 1).unwrap();
    let grown = pot.open_blob(&digest);
    assert!(matches!(grown, Err(Error::Content { .. })), "{grown:?}");
    std::fs::remove_file(&path).unwrap();
    let vanished = pot.open_blob(&digest);
    assert!(matches!(vanished, Err(Error::Archive(_))), "{vanished:?}");
}

#[test]
fn pots_and_readers_cross_threads() {
    fn sendable<T: Send>() {}
    fn shareable<T: Send + Sync>() {}
    sendable::<BlobReader>();
    shareable::<VerifiedPot>();
}
