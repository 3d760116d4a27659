//! Archives and folders made to be misread.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use bundle_spec::{Error, Sha256, UnverifiedPot, limits};

use crate::pots::{
    Entry, archive, check, entries, key, manifest_of_files, on_disk, pack, raw_frame, refusal,
    small, small_pot, unpack,
};

/// Makes the checksum of a header right again.
fn seal(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn set(entry: &mut Entry, at: usize, bytes: &[u8]) {
    entry.header[at..at + bytes.len()].copy_from_slice(bytes);
    seal(&mut entry.header);
}

/// An entry like `model` with another name and content.
fn member(model: &Entry, name: &str, content: &[u8]) -> Entry {
    let mut entry = model.clone();
    entry.header[..100].fill(0);
    set(&mut entry, 0, name.as_bytes());
    set(
        &mut entry,
        124,
        format!("{:011o}", content.len()).as_bytes(),
    );
    Entry {
        name: name.to_owned(),
        content: content.to_vec(),
        ..entry
    }
}

fn refused_as_archive(entries: &[Entry], why: &str) {
    let error = refusal(&archive(entries));
    assert!(
        matches!(&error, Error::Archive(reason) if reason.contains(why)),
        "expected {why:?}: {error:?}"
    );
}

#[test]
fn the_archive_is_put_together_as_it_was() {
    let pot = small_pot();
    assert_eq!(archive(&entries(&pot)), pot);
    let names: Vec<_> = entries(&pot).into_iter().map(|entry| entry.name).collect();
    assert_eq!(
        names[..5],
        [
            "kpot-install",
            "README.txt",
            "SHA256SUMS",
            "SHA256SUMS.sig",
            "manifest.json"
        ]
    );
    assert!(names[5..].is_sorted() && names[5..].iter().all(|name| name.starts_with("blobs/")));
}

#[test]
fn a_member_with_any_other_name_is_refused_wherever_it_stands() {
    let good = entries(&small_pot());
    let model = &good[4];
    let hex = Sha256::of(b"x").hex();
    for name in [
        "../evil".to_owned(),
        "../../etc/cron.d/evil".to_owned(),
        "/etc/passwd".to_owned(),
        "./README.txt".to_owned(),
        "readme.txt".to_owned(),
        "KPOT-INSTALL".to_owned(),
        "kpot-install/".to_owned(),
        "blobs".to_owned(),
        "blobs/sha256/../../evil".to_owned(),
        format!("./blobs/sha256/{hex}"),
        format!("blobs/sha256/{}", hex.to_uppercase()),
        "PaxHeaders/evil".to_owned(),
        "././@LongLink".to_owned(),
        "evil\n".to_owned(),
        "\u{fffd}".to_owned(),
    ] {
        for place in 0..=good.len() {
            let mut entries = good.clone();
            entries.insert(place, member(model, &name, b"x"));
            refused_as_archive(&entries, "not the name of a member");
        }
    }
}

#[test]
fn a_name_may_not_be_continued_in_the_prefix_field() {
    for index in 0..entries(&small_pot()).len() {
        let mut entries = entries(&small_pot());
        set(&mut entries[index], 345, b"/etc");
        refused_as_archive(&entries, "not the canonical one");
    }
}

#[test]
fn everything_but_a_regular_file_is_refused() {
    // Links, devices, folders, pipes, contiguous and sparse files, extension headers of PAX and GNU, and the old spelling of a regular file.
    for kind in b"123456 7SxgLKVMDXA\0" {
        for index in 0..entries(&small_pot()).len() {
            let mut entries = entries(&small_pot());
            set(&mut entries[index], 156, &[*kind]);
            refused_as_archive(&entries, "not the canonical one");
            set(&mut entries[index], 157, b"/etc/shadow");
            refused_as_archive(&entries, "not the canonical one");
        }
    }
}

#[test]
fn extension_headers_before_a_member_are_refused() {
    let good = entries(&small_pot());
    let record = b"22 path=/etc/cron.d/x\n".as_slice();
    for (kind, name, content) in [
        (b"x", "PaxHeaders/kpot-install", record),
        (b"g", "GlobalHead.0.0", record),
        (b"L", "././@LongLink", b"/etc/cron.d/x\0".as_slice()),
        (b"K", "././@LongLink", b"/etc/cron.d/x\0".as_slice()),
        (b"x", "manifest.json", b"20 size=99999999999\n".as_slice()),
    ] {
        let mut extension = member(&good[0], name, content);
        set(&mut extension, 156, kind);
        let entries = [&[extension], &good[..]].concat();
        assert!(matches!(refusal(&archive(&entries)), Error::Archive(_)));
    }
}

#[test]
fn every_other_spelling_of_a_header_is_refused() {
    let size = entries(&small_pot())[0].content.len();
    let base256 = {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&(size as u64).to_be_bytes());
        field
    };
    let spellings: [(&str, usize, Vec<u8>); 16] = [
        ("mode with set-user-ID", 100, b"0004755".to_vec()),
        ("mode", 100, b"0000700".to_vec()),
        ("owner", 108, b"0001750".to_vec()),
        ("group", 116, b"0001750".to_vec()),
        ("size in base 256", 124, base256.to_vec()),
        ("negative size", 124, vec![0xff; 12]),
        ("size with blanks", 124, format!("{size:>11o}").into_bytes()),
        (
            "size ended by a blank",
            124,
            format!("{size:011o} ").into_bytes(),
        ),
        (
            "size with a NUL before its end",
            124,
            format!("{size:010o}\0\0").into_bytes(),
        ),
        ("size that is not octal", 124, b"00000000008".to_vec()),
        ("size of twelve digits", 124, b"777777777777".to_vec()),
        ("time", 136, b"13737373737".to_vec()),
        ("magic of old GNU tar", 257, b"ustar  \0".to_vec()),
        ("no magic", 257, vec![0; 8]),
        ("owner's name", 265, b"root".to_vec()),
        ("device number", 329, b"0000001".to_vec()),
    ];
    for (what, at, bytes) in spellings {
        let mut entries = entries(&small_pot());
        set(&mut entries[0], at, &bytes);
        let error = refusal(&archive(&entries));
        assert!(matches!(error, Error::Archive(_)), "{what}: {error:?}");
    }
    let mut entries = entries(&small_pot());
    entries[0].header[148..156].copy_from_slice(b"0000000\0");
    refused_as_archive(&entries, "not the canonical one");
}

#[test]
fn members_come_once_and_in_their_order() {
    let good = entries(&small_pot());
    for index in 0..good.len() {
        let mut twice = good.clone();
        twice.insert(index, good[index].clone());
        refused_as_archive(&twice, "twice there or out of order");
        let mut late = good.clone();
        late.push(good[index].clone());
        refused_as_archive(&late, "twice there or out of order");
    }
    for index in 1..good.len() {
        let mut swapped = good.clone();
        swapped.swap(index - 1, index);
        refused_as_archive(&swapped, "twice there or out of order");
    }
}

#[test]
fn every_member_must_be_there() {
    let good = entries(&small_pot());
    for index in 0..good.len() {
        let mut fewer = good.clone();
        let missing = fewer.remove(index).name;
        let error = refusal(&archive(&fewer));
        if missing == "SHA256SUMS.sig" {
            assert!(matches!(error, Error::Unsigned), "{error:?}");
        } else {
            assert_eq!(
                error.to_string(),
                format!("not a pot, or a damaged one: it has no {missing}")
            );
        }
        let folder = tempfile::tempdir().unwrap();
        unpack(&small_pot(), folder.path());
        fs::remove_file(folder.path().join(missing)).unwrap();
        assert_eq!(
            check(folder.path()).unwrap_err().to_string(),
            error.to_string()
        );
    }
    refused_as_archive(&[], "it has no kpot-install");
}

#[test]
fn a_blob_that_the_manifest_does_not_list_is_refused() {
    let mut entries = entries(&small_pot());
    let name = format!("blobs/sha256/{}", "f".repeat(64));
    let extra = member(&entries[4], &name, b"x");
    entries.push(extra);
    refused_as_archive(&entries, "the manifest does not list blobs/sha256/ffff");
}

#[test]
fn a_blob_of_another_size_than_the_manifest_says_is_refused_when_it_is_opened() {
    let mut entries = entries(&small_pot());
    let longer = [&entries[5].content[..], b"x"].concat();
    entries[5] = member(&entries[5], &entries[5].name, &longer);
    let (_folder, path) = on_disk(&archive(&entries));
    let error = UnverifiedPot::open(&path).unwrap_err();
    assert!(
        matches!(&error, Error::Content { member, reason } if *member == entries[5].name && reason.contains("instead of")),
        "{error:?}"
    );
}

#[test]
fn the_end_is_two_zero_blocks() {
    let pot = small_pot();
    for cut in [512, 1024] {
        let error = refusal(&pot[..pot.len() - cut]);
        assert!(error.to_string().contains("cut short"), "{error}");
    }
    // A reader that goes on behind one zero block, and one that stops at it, would see different pots.
    for zeros in [512, 1024] {
        let entries = entries(&pot);
        let mut split = archive(&entries[..5]);
        split.truncate(split.len() - 1024 + zeros);
        split.extend(archive(&entries[5..]));
        assert!(matches!(refusal(&split), Error::Archive(_)));
    }
}

#[test]
fn sizes_are_refused_before_they_are_allocated_or_read() {
    for (index, limit) in [
        (0, limits::INSTALLER),
        (1, limits::README),
        (2, limits::MANIFEST),
        (3, limits::SIGNATURE),
        (4, limits::MANIFEST),
    ] {
        let mut entries = entries(&small_pot());
        set(
            &mut entries[index],
            124,
            format!("{:011o}", limit + 1).as_bytes(),
        );
        refused_as_archive(&entries, &format!("more than {limit}"));
        // In a folder, a sparse file costs nothing.
        let folder = tempfile::tempdir().unwrap();
        unpack(&small_pot(), folder.path());
        let path = folder.path().join(&entries[index].name);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(limit + 1).unwrap();
        let error = check(folder.path()).unwrap_err();
        assert!(
            error.to_string().contains(&format!("more than {limit}")),
            "{error}"
        );
    }
    let mut entries = entries(&small_pot());
    set(&mut entries[5], 124, b"77777777777");
    refused_as_archive(&entries, "cut short");
}

#[test]
fn the_writer_keeps_the_limits_too() {
    let (manifest, stored) = small();
    let readme = "x".repeat(usize::try_from(limits::README).unwrap() + 1);
    let parts = bundle_spec::PotParts {
        installer: b"",
        readme: &readme,
        manifest: &manifest,
        blobs: &stored,
        signer: None,
    };
    let refused = bundle_spec::write_pot(&mut Vec::new(), &parts);
    assert!(matches!(refused, Err(Error::Archive(_))), "{refused:?}");
}

#[test]
fn a_later_format_is_told_apart_whatever_else_it_changes() {
    let good = entries(&small_pot());
    let text = String::from_utf8(good[4].content.clone()).unwrap();
    let later = |format: &str| {
        let text = text.replace("\"format\": 1", format);
        member(&good[4], "manifest.json", text.as_bytes())
    };
    let same_layout = |entry: Entry| {
        let mut entries = good.clone();
        entries[4] = entry;
        archive(&entries)
    };
    let other_layout = |entry: Entry| {
        let mut entries = vec![member(&good[1], "something/new", b"x"), entry];
        entries.extend(good[5..].iter().rev().cloned());
        let mut bytes = archive(&entries);
        bytes.extend(b"a trailer");
        bytes
    };
    for pot in [
        same_layout(later("\"format\": 2")),
        other_layout(later("\"new\": [], \"format\": 2")),
    ] {
        let error = refusal(&pot);
        assert!(matches!(error, Error::Format(2)), "{error:?}");
        assert!(error.to_string().contains("has format 2"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    unpack(&small_pot(), folder.path());
    fs::write(folder.path().join("manifest.json"), "{\"format\": 7}").unwrap();
    fs::remove_file(folder.path().join("SHA256SUMS")).unwrap();
    assert!(matches!(check(folder.path()), Err(Error::Format(7))));
    // Format 1 in another layout is no later format.
    assert!(matches!(
        refusal(&other_layout(good[4].clone())),
        Error::Archive(_)
    ));
}

#[test]
fn the_signature_covers_the_sums_and_the_sums_the_manifest() {
    let (mut manifest, stored) = small();
    let signed = entries(&small_pot());
    manifest.serial = 2;
    let other = entries(&pack(&manifest, &stored, Some(&key())).unwrap());
    // The other manifest alone.
    let mut mixed = signed.clone();
    mixed[4] = other[4].clone();
    let error = refusal(&archive(&mixed));
    assert!(matches!(&error, Error::Content { member, .. } if member == "manifest.json"));
    // With its sums, but the first signature.
    mixed[2] = other[2].clone();
    let error = refusal(&archive(&mixed));
    assert!(matches!(error, Error::Signature(_)), "{error:?}");
    // Sums that list more, less, or in another order than there is.
    let text = String::from_utf8(signed[2].content.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let reversed: Vec<&str> = lines.iter().rev().copied().collect();
    for sums in [
        text.replace("  ", " *"),
        text.replace('\n', "\r\n"),
        text.trim_end().to_owned(),
        format!("{text}\n"),
        format!("{text}{}  extra\n", Sha256::of(b"").hex()),
        lines[1..].join("\n"),
        reversed.join("\n"),
        String::new(),
    ] {
        let mut mixed = signed.clone();
        mixed[2] = member(&signed[2], "SHA256SUMS", sums.as_bytes());
        let error = refusal(&archive(&mixed));
        assert!(matches!(&error, Error::Content { member, .. } if member == "SHA256SUMS"));
    }
}

#[test]
fn a_folder_is_read_without_following_links_and_without_waiting_for_pipes() {
    for entry in entries(&small_pot()) {
        let folder = tempfile::tempdir().unwrap();
        unpack(&small_pot(), folder.path());
        let path = folder.path().join(&entry.name);
        let aside = folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        let refused = |why: &str| {
            let error = UnverifiedPot::open(folder.path()).unwrap_err();
            assert!(
                matches!(&error, Error::Archive(reason) if reason.contains(why)),
                "{}: {error:?}",
                entry.name
            );
        };
        symlink(&aside, &path).unwrap();
        refused("is a link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused("is not a regular file");
        fs::remove_dir(&path).unwrap();
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        refused("is not a regular file");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        check(folder.path()).unwrap();
    }
    for above in ["blobs", "blobs/sha256"] {
        let folder = tempfile::tempdir().unwrap();
        unpack(&small_pot(), folder.path());
        let path = folder.path().join(above);
        let aside = folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        let error = UnverifiedPot::open(folder.path()).unwrap_err();
        assert!(matches!(&error, Error::Archive(why) if why.contains("is not a folder")));
    }
}

#[test]
fn what_is_no_pot_at_all_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let absent = UnverifiedPot::open(&folder.path().join("absent")).unwrap_err();
    assert!(matches!(&absent, Error::Io { action: "open", .. }) && !absent.is_untrusted());
    let empty = UnverifiedPot::open(folder.path()).unwrap_err();
    assert_eq!(
        empty.to_string(),
        "not a pot, or a damaged one: it has no manifest.json"
    );
    let device = UnverifiedPot::open(Path::new("/dev/zero")).unwrap_err();
    assert!(
        device.to_string().contains("neither a file nor a folder"),
        "{device}"
    );
    for bytes in [
        b"".as_slice(),
        b"PK\x03\x04",
        &[0; 512],
        &[0xff; 4096],
        &raw_frame(b"x"),
    ] {
        assert!(matches!(refusal(bytes), Error::Archive(_)));
    }
}

#[test]
fn a_pot_without_blobs_is_a_pot_and_one_with_too_many_is_not_written() {
    let mut manifest = manifest_of_files(Vec::new());
    manifest.artifacts.clear();
    let stored = crate::pots::Stored::default();
    let (_folder, path) = on_disk(&pack(&manifest, &stored, Some(&key())).unwrap());
    check(&path).unwrap();
    let many = (0..=limits::BLOBS).map(|number| {
        let bytes = number.to_le_bytes();
        crate::pots::blob(&bytes, bundle_spec::manifest::Encoding::Identity, &bytes)
    });
    let refused = pack(&manifest_of_files(many.collect()), &stored, None);
    assert!(matches!(refused, Err(Error::Manifest(_))), "{refused:?}");
}
