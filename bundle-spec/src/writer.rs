//! Writes a pot.
//!
//! Nothing is buffered but the small members: blobs stream through, and are hashed and counted again on the way, so that what the manifest promises is what the
//! pot holds. The same parts give the same bytes. The writer does not unpack blobs; that they unpack to what the manifest says is their maker's word.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::digest::{Hasher, Sha256};
use crate::error::Error;
use crate::header;
use crate::key::SigningKey;
use crate::manifest::{Blob, Manifest};
use crate::path::Member;
use crate::signature;
use crate::sums::Sums;

/// What goes into a pot.
pub struct PotParts<'a> {
    /// The static installer, for the architecture of the manifest.
    pub installer: &'a [u8],
    /// The text of `README.txt`.
    pub readme: &'a str,
    /// What the pot holds.
    pub manifest: &'a Manifest,
    /// Where the bytes of the manifest's blobs come from.
    pub blobs: &'a dyn BlobSource,
    /// Who signs; a pot without a signature can be inspected, and never installed.
    pub signer: Option<&'a SigningKey>,
}

/// Hands out the stored bytes of blobs.
pub trait BlobSource {
    /// The stored bytes of the blob with this digest, from their beginning.
    ///
    /// # Errors
    /// Where they cannot be had; the writer then fails and names the blob.
    fn open(&self, digest: &Sha256) -> io::Result<Box<dyn Read>>;
}

/// Writes the pot to `out`, which then is neither flushed nor synced, and returns the pot's identity: the digest of its `SHA256SUMS`.
///
/// # Errors
/// [`Error::Manifest`] for a manifest that is not consistent, [`Error::Archive`] for a member beyond the limits, [`Error::Content`] for a blob whose bytes are
/// not those that the manifest promises, [`Error::Key`] where signing fails, [`Error::Io`] where reading or writing does.
pub fn write_pot(out: &mut dyn Write, parts: &PotParts<'_>) -> Result<Sha256, Error> {
    let manifest = parts.manifest.encode()?;
    let sums = Sums {
        installer: Sha256::of(parts.installer),
        readme: Sha256::of(parts.readme.as_bytes()),
        manifest: Sha256::of(&manifest),
    };
    let sums = sums.encode(&parts.manifest.blobs);
    let signature = parts
        .signer
        .map(|key| signature::sign(key, sums.as_bytes()))
        .transpose()?;

    write_member(out, &Member::Installer, parts.installer)?;
    write_member(out, &Member::Readme, parts.readme.as_bytes())?;
    write_member(out, &Member::Sums, sums.as_bytes())?;
    if let Some(signature) = &signature {
        write_member(out, &Member::Signature, signature.as_bytes())?;
    }
    write_member(out, &Member::Manifest, &manifest)?;
    let mut buffer = vec![0; 1 << 17];
    for blob in &parts.manifest.blobs {
        write_blob(out, blob, parts.blobs, &mut buffer)?;
    }
    put(out, &[0; header::END])?;
    Ok(Sha256::of(sums.as_bytes()))
}

fn write_member(out: &mut dyn Write, member: &Member, bytes: &[u8]) -> Result<(), Error> {
    let size = bytes.len() as u64;
    put(out, &header::encode(member, size).map_err(Error::Archive)?)?;
    put(out, bytes)?;
    put(out, &[0; header::BLOCK][..header::padding(size)])
}

fn write_blob(
    out: &mut dyn Write,
    blob: &Blob,
    source: &dyn BlobSource,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let member = Member::Blob(blob.digest);
    let changed = |reason: String| Error::Content {
        member: member.to_string(),
        reason,
    };
    let unreadable = |source| Error::Io {
        action: "read",
        path: PathBuf::from(member.to_string()),
        source,
    };
    put(
        out,
        &header::encode(&member, blob.size).map_err(Error::Archive)?,
    )?;
    let mut stored = source.open(&blob.digest).map_err(unreadable)?;
    let mut hasher = Hasher::new();
    loop {
        let count = match stored.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(unreadable(cause)),
        };
        hasher.update(&buffer[..count]);
        if hasher.length() > blob.size {
            return Err(changed(format!("it has more than {} bytes", blob.size)));
        }
        put(out, &buffer[..count])?;
    }
    if hasher.length() != blob.size {
        return Err(changed(format!(
            "it has {} bytes instead of {}",
            hasher.length(),
            blob.size
        )));
    }
    let digest = hasher.finish();
    if digest != blob.digest {
        return Err(changed(format!("its digest is {digest}")));
    }
    put(out, &[0; header::BLOCK][..header::padding(blob.size)])
}

fn put(out: &mut dyn Write, bytes: &[u8]) -> Result<(), Error> {
    out.write_all(bytes).map_err(|source| Error::Io {
        action: "write",
        path: PathBuf::from("the pot"),
        source,
    })
}
