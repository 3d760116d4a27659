//! No byte of a pot is free: of a small one every single byte is changed, and every length tried.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use bundle_spec::{Error, Progress, UnverifiedPot};

use crate::pots::{check, entries, on_disk, reference_pot, refusal, small_pot, trust, unpack};

/// The lowest bit, and the highest: the one that text never has.
const FLIPS: [u8; 2] = [0x01, 0x80];

/// Changes the bytes of `file` in `range` one after the other and asserts that `pot` is refused each time.
fn flip_every_byte(pot: &Path, file: &Path, range: std::ops::Range<usize>) {
    let good = fs::read(file).unwrap();
    let handle = OpenOptions::new().write(true).open(file).unwrap();
    for position in range {
        for flip in FLIPS {
            let put = |byte: u8| handle.write_all_at(&[byte], position as u64).unwrap();
            put(good[position] ^ flip);
            let error = check(pot).expect_err(&format!(
                "{}: byte {position} xor {flip:#x} was not noticed",
                file.display()
            ));
            assert!(error.is_untrusted(), "byte {position}: {error:?}");
            put(good[position]);
        }
    }
    check(pot).expect("all bytes are back");
}

#[test]
fn every_flipped_byte_of_a_file_is_refused() {
    for pot in [small_pot(), reference_pot()] {
        let parts = thread::available_parallelism().map_or(2, usize::from);
        let share = pot.len().div_ceil(parts);
        thread::scope(|scope| {
            for part in 0..parts {
                let pot = &pot;
                scope.spawn(move || {
                    let (_folder, path) = on_disk(pot);
                    let range = part * share..pot.len().min((part + 1) * share);
                    flip_every_byte(&path, &path, range);
                });
            }
        });
    }
}

#[test]
fn every_flipped_byte_of_an_unpacked_pot_is_refused() {
    for pot in [small_pot(), reference_pot()] {
        let folder = tempfile::tempdir().unwrap();
        unpack(&pot, folder.path());
        for entry in entries(&pot) {
            let file = folder.path().join(&entry.name);
            flip_every_byte(folder.path(), &file, 0..entry.content.len());
        }
    }
}

#[test]
fn a_flipped_blob_is_named() {
    let pot = small_pot();
    let blob = entries(&pot).remove(5);
    let start = pot
        .windows(blob.content.len())
        .position(|bytes| bytes == blob.content);
    let (_folder, path) = on_disk(&pot);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[blob.content[0] ^ 1], start.unwrap() as u64)
        .unwrap();
    let error = check(&path).unwrap_err();
    assert!(
        matches!(&error, Error::Content { member, .. } if *member == blob.name),
        "{error:?}"
    );
}

#[test]
fn every_truncation_of_a_file_is_refused() {
    for pot in [small_pot(), reference_pot()] {
        let (_folder, path) = on_disk(&pot);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for length in (0..pot.len()).rev() {
            file.set_len(length as u64).unwrap();
            let error = check(&path).expect_err("a shorter pot is none");
            assert!(matches!(error, Error::Archive(_)), "{length}: {error:?}");
        }
    }
}

#[test]
fn every_truncation_and_extension_of_an_unpacked_member_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pot = small_pot();
    unpack(&pot, folder.path());
    for entry in entries(&pot) {
        let path = folder.path().join(&entry.name);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let refused = || {
            let error = check(folder.path()).expect_err(&entry.name);
            assert!(error.is_untrusted(), "{}: {error:?}", entry.name);
        };
        for length in (0..entry.content.len()).rev() {
            file.set_len(length as u64).unwrap();
            refused();
        }
        fs::write(&path, [&entry.content[..], b"\0"].concat()).unwrap();
        refused();
        fs::remove_file(&path).unwrap();
        refused();
        fs::write(&path, &entry.content).unwrap();
    }
    check(folder.path()).expect("all members are back");
}

#[test]
fn nothing_may_follow_the_end() {
    let pot = small_pot();
    for extra in [
        vec![0],
        vec![0; 512],
        vec![0; 1024],
        // What GNU tar would add to fill its record.
        vec![0; pot.len().next_multiple_of(10_240) - pot.len()],
        b"x".to_vec(),
        pot.clone(),
    ] {
        let error = refusal(&[&pot[..], &extra].concat());
        assert!(error.to_string().contains("does not end"), "{error}");
    }
}

#[test]
fn a_member_that_grows_or_shrinks_after_opening_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pot = small_pot();
    unpack(&pot, folder.path());
    let blob = entries(&pot).remove(5);
    let path = folder.path().join(&blob.name);
    for length in [0, blob.content.len() as u64 + 4096] {
        fs::write(&path, &blob.content).unwrap();
        let opened = UnverifiedPot::open(folder.path()).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(length).unwrap();
        // Not even hashed: progress would pass the total.
        let within = |progress: Progress| assert!(progress.done <= progress.total);
        let error = opened.verify(trust(), &within).unwrap_err();
        assert!(
            matches!(&error, Error::Content { member, .. } if *member == blob.name),
            "{error:?}"
        );
    }
}
