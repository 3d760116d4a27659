//! Files that are carried besides: fetched from their address, or copied from this machine, and hashed while that is done. What is packed is the copy, so a file that is
//! changed meanwhile is packed as it was hashed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use bundle_spec::{Hasher, Sha256, limits};

use crate::extra::{self, Extra, ExtraName, Place};
use crate::fetch::http::{Ask, Client, FetchError, Size};
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
}

/// Fetches `extra` into `to`, which is empty.
///
/// # Errors
/// Where it is not to be had, is too large, or is not what somebody said it is.
pub fn fetch(
    extra: &Extra,
    client: &Client,
    to: File,
    task: &Task,
) -> anyhow::Result<(FetchedExtra, File)> {
    let (from, digest, size, file) = match &extra.place {
        Place::At(address, expected) => {
            let from = client.route(address.url());
            let size = Size::AtMost(limits::BLOB_SIZE);
            let ask = Ask::plain(address.url());
            let saved = client.save(ask, to, size, Algorithm::Sha256, task)?;
            if saved.sha256 != *expected {
                let problem = format!(
                    "its digest is {}, and the recipe says {expected} for {}",
                    saved.sha256, extra.name
                );
                return Err(FetchError::refused(&from, problem).into());
            }
            (from.to_string(), saved.sha256, saved.size, saved.file)
        }
        Place::Here(path, expected) => {
            let (digest, size, file) = copy(path, to, task)
                .with_context(|| format!("cannot carry {} ({})", extra.name, path.display()))?;
            if let Some(expected) = expected
                && digest != *expected
            {
                bail!(
                    "cannot carry {} ({}): its digest is {digest}, and the recipe says {expected}",
                    extra.name,
                    path.display()
                );
            }
            (path.display().to_string(), digest, size, file)
        }
    };
    let fetched = FetchedExtra {
        name: extra.name.clone(),
        version: extra.version.clone(),
        source: extra.source(),
        from,
        digest,
        size,
    };
    Ok((fetched, file))
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
