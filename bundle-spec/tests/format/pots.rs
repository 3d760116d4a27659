//! Small pots made by hand: every byte of them is known without a compressor, so that they can be frozen.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::SystemTime;

use bundle_spec::manifest::{
    Artifact, ArtifactFile, Blob, Checked, Encoding, FORMAT, Image, Runtime, RuntimeName, Windows,
};
use bundle_spec::{
    Arch, BlobSource, Error, KubeVersion, Manifest, PotParts, Sha256, SigningKey, Trust,
    UnverifiedPot, VerifiedPot, write_pot,
};

/// The private key of the tests; nobody trusts it.
pub const KEY: &str = include_str!("../fixtures/test_key");

pub const INSTALLER: &[u8] = b"#!/bin/sh\necho 'this stands for the installer'\n";
pub const README: &str = "A pot for tests.\n";

/// Blobs in memory, by the digest of their stored bytes.
#[derive(Clone, Default)]
pub struct Stored(pub BTreeMap<Sha256, Vec<u8>>);

impl BlobSource for Stored {
    fn open(&self, digest: &Sha256) -> io::Result<Box<dyn Read>> {
        let bytes = self.0.get(digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(bytes.clone())))
    }
}

pub fn key() -> SigningKey {
    SigningKey::from_openssh(KEY).expect("the fixture is a key")
}

/// Trusts the key of the tests. Made once, like the small pot: a signature takes long where nothing is optimised.
pub fn trust() -> &'static Trust {
    static TRUST: LazyLock<Trust> = LazyLock::new(|| {
        let line = format!("kpot {}\n", key().public_openssh().unwrap());
        Trust::from_allowed_signers(&line, SystemTime::now()).unwrap()
    });
    &TRUST
}

/// A zstd frame with `content` in one raw block (RFC 8878, section 3.1.1): one segment, one byte of content size, no checksum.
pub fn raw_frame(content: &[u8]) -> Vec<u8> {
    let size = u8::try_from(content.len()).expect("small content");
    let block = 1 | u32::from(size) << 3;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, size];
    frame.extend(&block.to_le_bytes()[..3]);
    frame.extend(content);
    frame
}

/// A zstd frame with one compressed block (RFC 8878, section 3.1.1.3) of a single sequence: `before`, then `length` bytes from `distance` bytes back, which may lie
/// in a prefix, then `after`. Up to 15 bytes before, 31 literals in all, lengths from 3 to 34 and distances up to 252: as far as one byte goes in each field.
pub fn copying_frame(before: &[u8], distance: u8, length: u8, after: &[u8]) -> Vec<u8> {
    let literals = [before, after].concat();
    let size = |bytes: &[u8]| u8::try_from(bytes.len()).expect("small content");
    // Offsets count from four; the three below repeat earlier ones.
    let offset = distance + 3;
    let mut block = vec![size(&literals) << 3];
    block.extend(&literals);
    // One sequence, each of its three codes given as a single byte.
    block.extend([1, 0b01_01_01_00]);
    block.extend([
        size(before),
        u8::try_from(offset.ilog2()).unwrap(),
        length - 3,
    ]);
    // The bits of the offset below its highest one; that one doubles as the mark that ends the bits.
    block.push(offset);
    let header = 1 | 2 << 1 | u32::from(size(&block)) << 3;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, size(&literals) + length];
    frame.extend(&header.to_le_bytes()[..3]);
    frame.extend(block);
    frame
}

/// A blob that keeps what it says.
pub fn blob(stored: &[u8], encoding: Encoding, unpacked: &[u8]) -> Blob {
    Blob {
        digest: Sha256::of(stored),
        size: stored.len() as u64,
        encoding,
        unpacked_digest: Sha256::of(unpacked),
        unpacked_size: unpacked.len() as u64,
    }
}

/// A manifest with one artifact whose files are `blobs`, named `file-0`, `file-1`, …
pub fn manifest_of_files(mut blobs: Vec<Blob>) -> Manifest {
    let file = |(index, blob): (usize, &Blob)| ArtifactFile {
        name: format!("file-{index}"),
        blob: blob.digest,
    };
    let files = blobs.iter().enumerate().map(file).collect();
    blobs.sort_by_key(|blob| blob.digest);
    Manifest {
        format: FORMAT,
        name: "kpot-test".to_owned(),
        serial: 1,
        kubernetes: KubeVersion::new(1, 14, 0),
        arch: Arch::Amd64,
        runtime: Runtime {
            name: RuntimeName::Docker,
            version: "18.09.9".to_owned(),
        },
        cni: "v0.7.5".to_owned(),
        built_by: "0.1.0".to_owned(),
        windows: Windows::Usual,
        artifacts: vec![Artifact {
            name: "files".to_owned(),
            version: "1".to_owned(),
            source: "https://example.com/files".to_owned(),
            download: Sha256::of(b"as it came"),
            checked: Checked::GivenPin,
            files,
        }],
        images: Vec::new(),
        blobs,
    }
}

/// What the small pot holds: two files, one of them empty, and an image with one layer; zstd and identity.
pub fn small() -> (Manifest, Stored) {
    let frame = raw_frame(b"the content of a file");
    let layer = raw_frame(b"stands for a layer");
    let config = b"{}";
    let mut manifest = manifest_of_files(vec![
        blob(&frame, Encoding::Zstd, b"the content of a file"),
        blob(b"", Encoding::Identity, b""),
    ]);
    manifest.images.push(Image {
        names: vec!["k8s.gcr.io/pause:3.1".to_owned()],
        id: Sha256::of(config),
        config: Sha256::of(config),
        layers: vec![Sha256::of(&layer)],
        manifest: None,
    });
    manifest.blobs.extend([
        blob(config, Encoding::Identity, config),
        blob(&layer, Encoding::Zstd, b"stands for a layer"),
    ]);
    manifest.blobs.sort_by_key(|blob| blob.digest);
    let stored =
        [frame, layer, Vec::new(), config.to_vec()].map(|bytes| (Sha256::of(&bytes), bytes));
    (manifest, Stored(stored.into()))
}

/// What the reference in [`with_reference`] unpacks to.
pub const REFERENCE: &[u8] = b"the content of a file";

/// What the blob unpacks to that refers to it.
pub const REFERRING: &[u8] = b"more than the content of a file, and no less";

/// A small pot's content with two files: the second refers to the first.
pub fn with_reference() -> (Manifest, Stored) {
    let frame = raw_frame(REFERENCE);
    let reference = Sha256::of(&frame);
    let referring = copying_frame(b"more than ", 31, 21, b", and no less");
    let manifest = manifest_of_files(vec![
        blob(&frame, Encoding::Zstd, REFERENCE),
        blob(&referring, Encoding::ZstdReference { reference }, REFERRING),
    ]);
    let stored = [frame, referring].map(|bytes| (Sha256::of(&bytes), bytes));
    (manifest, Stored(stored.into()))
}

/// That pot, signed.
pub fn reference_pot() -> Vec<u8> {
    let (manifest, stored) = with_reference();
    pack(&manifest, &stored, Some(&key())).unwrap()
}

/// A gzip member (RFC 1952) with `content` in one stored block.
pub fn gzip_member(content: &[u8]) -> Vec<u8> {
    let size = u16::try_from(content.len()).expect("small content");
    let mut sum = flate2::Crc::new();
    sum.update(content);
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    member.extend(size.to_le_bytes());
    member.extend((!size).to_le_bytes());
    member.extend(content);
    member.extend(sum.sum().to_le_bytes());
    member.extend(u32::from(size).to_le_bytes());
    member
}

/// A zstd frame that holds nothing and is skipped (RFC 8878, section 3.1.2).
pub fn skippable_frame(content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(content.len()).expect("small content");
    [&[0x50, 0x2a, 0x4d, 0x18][..], &size.to_le_bytes(), content].concat()
}

/// A small pot's content with an image as its registry has it: a gzip layer, a zstd one, and the manifest; and with large windows.
pub fn verbatim() -> (Manifest, Stored) {
    let file = raw_frame(b"the content of a file");
    let gzip = [gzip_member(b"stands for "), gzip_member(b"a layer")].concat();
    let frames = [
        raw_frame(b"stands for "),
        raw_frame(b"another layer"),
        skippable_frame(b"a table of contents"),
    ]
    .concat();
    let (config, paper) = (b"{}", b"stands for the manifest");
    let mut manifest =
        manifest_of_files(vec![blob(&file, Encoding::Zstd, b"the content of a file")]);
    manifest.windows = Windows::Large;
    manifest.images.push(Image {
        names: vec!["k8s.gcr.io/pause:3.1".to_owned()],
        id: Sha256::of(config),
        config: Sha256::of(config),
        layers: vec![Sha256::of(&gzip), Sha256::of(&frames)],
        manifest: Some(Sha256::of(paper)),
    });
    manifest.blobs.extend([
        blob(config, Encoding::Identity, config),
        blob(paper, Encoding::Identity, paper),
        blob(&gzip, Encoding::Gzip, b"stands for a layer"),
        blob(&frames, Encoding::ZstdFrames, b"stands for another layer"),
    ]);
    manifest.blobs.sort_by_key(|blob| blob.digest);
    let stored = [file, gzip, frames, config.to_vec(), paper.to_vec()];
    let stored = stored.map(|bytes| (Sha256::of(&bytes), bytes));
    (manifest, Stored(stored.into()))
}

/// The bytes of a pot.
pub fn pack(
    manifest: &Manifest,
    stored: &Stored,
    signer: Option<&SigningKey>,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let parts = PotParts {
        installer: INSTALLER,
        readme: README,
        manifest,
        blobs: stored,
        signer,
    };
    let identity = write_pot(&mut bytes, &parts)?;
    assert_ne!(identity, Sha256::of(&bytes));
    Ok(bytes)
}

/// The small pot, signed.
pub fn small_pot() -> Vec<u8> {
    static POT: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let (manifest, stored) = small();
        pack(&manifest, &stored, Some(&key())).unwrap()
    });
    POT.clone()
}

/// A member of an archive: its name, its header, and its content without padding.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub header: [u8; 512],
    pub content: Vec<u8>,
}

/// Takes an archive apart, by a few lines that know nothing of the code under test.
pub fn entries(mut pot: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    while pot[0] != 0 {
        let header: [u8; 512] = pot[..512].try_into().unwrap();
        let text = |range: std::ops::Range<usize>| {
            let field = &header[range];
            let end = field.iter().position(|byte| *byte == 0);
            String::from_utf8(field[..end.unwrap_or(field.len())].to_vec()).unwrap()
        };
        let size = usize::from_str_radix(&text(124..136), 8).unwrap();
        entries.push(Entry {
            name: text(0..100),
            header,
            content: pot[512..512 + size].to_vec(),
        });
        pot = &pot[512 + size.next_multiple_of(512)..];
    }
    entries
}

/// Puts an archive together, with its end.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(entry.header);
        bytes.extend(&entry.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// Unpacks a pot into `folder` without any tar.
pub fn unpack(pot: &[u8], folder: &Path) {
    for entry in entries(pot) {
        let path = folder.join(&entry.name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, entry.content).unwrap();
    }
}

/// Writes `pot` to a file of its own; the folder goes with the first of the pair.
pub fn on_disk(pot: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.pot");
    fs::write(&path, pot).unwrap();
    (folder, path)
}

/// Opens and verifies with the key of the tests.
pub fn check(path: &Path) -> Result<VerifiedPot, Error> {
    UnverifiedPot::open(path)?.verify(trust(), &|_| {})
}

/// The refusal of a pot with these bytes.
pub fn refusal(pot: &[u8]) -> Error {
    let (_folder, path) = on_disk(pot);
    let error = check(&path).expect_err("this pot must be refused");
    assert!(error.is_untrusted(), "{error:?}");
    error
}
