//! The cache's files: how they are made, locked, put in their place and taken away.
//!
//! Locks are the kernel's (`flock`), so a process that ends, in whatever way, holds none.
#![allow(
    clippy::disallowed_methods,
    reason = "this module owns the files of the cache"
)]

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::fcntl::OFlag;

use super::place::{FOLDERS, Place};
use crate::pack::output::sync_folder;

/// How long another kpot may hold the cache's lock. It does so for moments only.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a lock is asked for.
const PAUSE: Duration = Duration::from_millis(20);

/// What backup programs look for; see <https://bford.info/cachedir/>.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is kpot's cache. What lies in it can be fetched again.\n";

/// Who may hold a lock beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Others who hold it in the same way.
    Shared,
    /// Nobody.
    Alone,
}

/// Makes the cache's folders, for their owner only: an image may be nobody else's business.
///
/// # Errors
/// As the system says.
pub fn make(place: &Place) -> io::Result<()> {
    for folder in FOLDERS {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(place.join(folder))?;
    }
    let tag = place.join("CACHEDIR.TAG");
    if !tag.exists() {
        // Written in one go, and nothing depends on it.
        fs::write(tag, TAG)?;
    }
    Ok(())
}

/// Holds the cache's lock until the file is dropped.
///
/// # Errors
/// Where the system refuses, or somebody holds it for longer than a minute.
pub fn hold(place: &Place, how: Hold) -> anyhow::Result<File> {
    let path = place.join("lock");
    let attempt = || {
        format!(
            "cannot lock the cache {}; name another folder with --cache",
            place.folder().display()
        )
    };
    let file = open_or_make(&path).with_context(attempt)?;
    let started = Instant::now();
    loop {
        let asked = match how {
            Hold::Shared => file.try_lock_shared(),
            Hold::Alone => file.try_lock(),
        };
        match asked {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(cause)) => return Err(cause).with_context(attempt),
            Err(TryLockError::WouldBlock) if started.elapsed() > PATIENCE => bail!(
                "another kpot has held {} for a minute; end it, or name another folder with --cache",
                path.display()
            ),
            Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
        }
    }
}

/// Opens a file for reading and writing, its content as it is; makes it where it is missing. Links are not followed.
///
/// # Errors
/// As the system says.
pub fn open_or_make(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

/// Opens a file to add to its end; makes it where it is missing.
///
/// # Errors
/// As the system says.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

/// Opens a regular file for reading; `None` where there is none.
///
/// # Errors
/// As the system says.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    regular(path, OpenOptions::new().read(true))
}

/// The same of one that is to be locked: NFS locks nothing alone that was opened for reading only.
///
/// # Errors
/// As the system says.
pub fn open_to_lock(path: &Path) -> io::Result<Option<File>> {
    regular(path, OpenOptions::new().read(true).write(true))
}

/// Whether a folder is there.
///
/// # Errors
/// Where that cannot be told.
pub fn is_there(folder: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(folder) {
        Ok(facts) => Ok(facts.is_dir()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

fn regular(path: &Path, options: &mut OpenOptions) -> io::Result<Option<File>> {
    let opened = options
        // Not to wait for a writer, should it be a pipe.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path);
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("it is no regular file")),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Whether `file` is what lies at `path`, and not what lay there before.
///
/// # Errors
/// As the system says.
pub fn lies_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match path.symlink_metadata() {
        Ok(there) => Ok((own.dev(), own.ino()) == (there.dev(), there.ino())),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// Reads a small file; no file is an empty one, and what is beyond the limit is left out.
///
/// # Errors
/// As the system says.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(file) = open(path)? {
        file.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Puts a file whose bytes are on the disk into its place, for good.
///
/// # Errors
/// As the system says.
pub fn put(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Replaces a small file.
///
/// # Errors
/// As the system says.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text)?;
    File::open(&beside)?.sync_all()?;
    put(&beside, path)
}

/// Links `path` to `target`, whatever it led to before.
///
/// # Errors
/// As the system says.
pub fn link(path: &Path, target: &Path) -> io::Result<()> {
    match std::os::unix::fs::symlink(target, path) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
            remove(path)?;
            std::os::unix::fs::symlink(target, path)
        }
        other => other,
    }
}

/// Takes a file away; one that is gone already is as good.
///
/// # Errors
/// As the system says.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_put_elsewhere_no_longer_lies_at_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let file = open_or_make(&one).unwrap();
        assert!(lies_at(&file, &one).unwrap());
        put(&one, &other).unwrap();
        assert!(!lies_at(&file, &one).unwrap());
        drop(open_or_make(&one).unwrap());
        assert!(!lies_at(&file, &one).unwrap());
        assert!(lies_at(&file, &other).unwrap());
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        assert!(open(&link).unwrap().is_none());
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        assert!(open(&link).is_err());
        assert!(open(folder.path()).is_err());
    }
}
