//! A pot gets the signature of another key, and keeps every other byte.
//!
//! What is signed is what was verified: the parts are read once more from the file, put together anew, and the digest that they come to must be the verified pot's
//! before the key is used. The blobs, which stream, are hashed again on their way by the writer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use bundle_spec::sums::Sums;
use bundle_spec::{
    BlobSource, Member, PotParts, Sha256, SigningKey, VerifiedPot, header, write_pot,
};

use crate::exit::usage;
use crate::pack::output::{self, Existing, Written};

/// Writes `pot` to `output` with a signature of `key`.
///
/// # Errors
/// A usage error where the pot was unpacked to a folder; otherwise where the file has changed since it was verified, or cannot be read or written. `output` is then
/// as it was.
pub fn countersign(pot: &VerifiedPot, key: &SigningKey, output: &Path) -> anyhow::Result<Written> {
    let source = pot.source();
    if source.is_dir() {
        return Err(usage(format!(
            "{} is a folder that a pot was unpacked to; sign the .pot file",
            source.display()
        )));
    }
    let archive =
        Archive::open(source).with_context(|| format!("cannot read {} again", source.display()))?;
    let changed = |member: Member| {
        anyhow::Error::from(bundle_spec::Error::Content {
            member: member.to_string(),
            reason: "it is another one than when the pot was verified; nothing was signed"
                .to_owned(),
        })
    };
    let read = |member| {
        let bytes = archive.read_all(&member)?;
        bytes.ok_or_else(|| changed(member))
    };
    let (installer, readme) = (read(Member::Installer)?, read(Member::Readme)?);
    // The format allows any bytes, the writer takes text.
    let readme = String::from_utf8(readme).map_err(|_| {
        anyhow!(
            "the README.txt of {} is not UTF-8, so no kpot wrote it; build the pot anew",
            source.display()
        )
    })?;
    let manifest = pot.manifest();
    let sums = Sums {
        installer: Sha256::of(&installer),
        readme: Sha256::of(readme.as_bytes()),
        manifest: Sha256::of(&manifest.encode()?),
    };
    if Sha256::of(sums.encode(&manifest.blobs).as_bytes()) != pot.identity() {
        let installer = sums.installer != pot.installer();
        let member = if installer {
            Member::Installer
        } else {
            Member::Readme
        };
        return Err(changed(member));
    }
    let parts = PotParts {
        installer: &installer,
        readme: &readme,
        manifest,
        blobs: &archive,
        signer: Some(key),
    };
    let needed = archive.file.metadata().map_or(0, |metadata| metadata.len());
    let write = |out: &mut dyn io::Write| Ok(write_pot(out, &parts)?);
    let (identity, size) = output::put(output, 0o644, Existing::Replaced, needed, write)?;
    Ok(Written { identity, size })
}

/// The stored bytes of a pot's members in its file.
struct Archive {
    file: Arc<File>,
    places: BTreeMap<Member, Place>,
}

#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    size: u64,
}

impl Archive {
    /// Walks the headers; that they are those of the verified pot, the digests show.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path)?;
        let mut places = BTreeMap::new();
        let mut offset = 0;
        loop {
            let mut block = [0; header::BLOCK];
            file.read_exact_at(&mut block, offset)?;
            if block == [0; header::BLOCK] {
                break;
            }
            let (member, size) = header::decode(&block).map_err(bundle_spec::Error::Archive)?;
            offset += header::BLOCK as u64;
            places.insert(member, Place { offset, size });
            offset += size + header::padding(size) as u64;
        }
        Ok(Self {
            file: Arc::new(file),
            places,
        })
    }

    /// All of a small member, if it is there.
    fn read_all(&self, member: &Member) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(mut stored) = self.stored(member) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        stored
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {member}"))?;
        Ok(Some(bytes))
    }

    fn stored(&self, member: &Member) -> Option<Stored> {
        self.places.get(member).map(|place| Stored {
            file: Arc::clone(&self.file),
            rest: *place,
        })
    }
}

impl BlobSource for Archive {
    fn open(&self, digest: &Sha256) -> io::Result<Box<dyn Read>> {
        match self.stored(&Member::Blob(*digest)) {
            Some(stored) => Ok(Box::new(stored)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// A member that is being read.
struct Stored {
    file: Arc<File>,
    rest: Place,
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.rest.size).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..length], self.rest.offset)?;
        self.rest.offset += count as u64;
        self.rest.size -= count as u64;
        Ok(count)
    }
}
