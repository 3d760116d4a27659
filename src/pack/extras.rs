//! Files that are carried besides: fetched from their address, or copied from this machine, and hashed while that is done. What is packed is the copy, so a file that is
//! changed meanwhile is packed as it was hashed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use bundle_spec::{Hasher, Sha256, limits};
use reqwest::Url;

use crate::cache::Origin;
use crate::extra::{self, ExtraName};
use crate::fetch::http::{Ask, Client, FetchError, Saved, Size};
use crate::progress::Task;
use crate::releases::Algorithm;

/// A file that was fetched and checked.
pub struct FetchedExtra {
    /// Its name.
    pub name: ExtraName,
    /// Its version.
    pub version: String,
    /// What a pot says of where it is from.
    pub source: String,
    /// Where it really came from.
    pub from: String,
    /// Its digest.
    pub digest: Sha256,
    /// Its size in bytes.
    pub size: u64,
    /// Where it was had from; nothing where it is a file of this machine.
    pub origin: Option<Origin>,
}

/// Downloads a file of somebody's from its address into `to`, which may hold its beginning.
///
/// # Errors
/// Where it is not to be had, is too large, or is not what somebody said it is.
pub fn download(
    name: &ExtraName,
    (url, expected): (&Url, Sha256),
    client: &Client,
    to: File,
    task: &Task,
) -> Result<Saved, FetchError> {
    let size = Size::AtMost(limits::BLOB_SIZE);
    let saved = client.save(Ask::plain(url), to, size, Algorithm::Sha256, task)?;
    if saved.sha256 == expected {
        return Ok(saved);
    }
    let problem = format!(
        "its digest is {}, and the recipe says {expected} for {name}",
        saved.sha256
    );
    Err(FetchError::wrong_content(client.route(url), problem)
        .advise("look at what is there now; where it is meant, the recipe is to say its digest"))
}

/// Copies a file of this machine into `to`, which is empty, and tells its digest and size.
///
/// # Errors
/// Where it cannot be read, is too large, or is not what somebody said it is.
pub fn read(
    name: &ExtraName,
    (path, expected): (&Path, Option<Sha256>),
    to: File,
    task: &Task,
) -> anyhow::Result<(Sha256, u64, File)> {
    let (digest, size, file) = copy(path, to, task)
        .with_context(|| format!("cannot carry {name} ({})", path.display()))?;
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        bail!(
            "cannot carry {name} ({}): its digest is {digest}, and the recipe says {expected}",
            path.display()
        );
    }
    Ok((digest, size, file))
}

fn copy(path: &Path, mut to: File, task: &Task) -> anyhow::Result<(Sha256, u64, File)> {
    // A pipe in the place of a file would be waited for.
    let length = extra::length(path).map_err(anyhow::Error::msg)?;
    task.expect(length);
    let mut from = File::open(path)?.take(limits::BLOB_SIZE + 1);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(cause.into()),
        };
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count])
            .context("no room beside the output file")?;
        task.advance(count as u64);
    }
    let size = hasher.length();
    if size > limits::BLOB_SIZE {
        bail!("it is larger than {} bytes", limits::BLOB_SIZE);
    }
    Ok((hasher.finish(), size, to))
}
