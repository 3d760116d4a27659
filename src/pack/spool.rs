//! Where things lie between their download and the pot: nameless files on the output file's disk.
//!
//! They have no names, so nothing is left of them whatever ends the build, SIGKILL and a power cut included. They are not in memory (whose use is the same for every
//! size of pot) and not in /tmp (which may be memory). A blob is handed out once, and its file is gone when it was read: while the pot is written, the disk need not hold
//! everything twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bundle_spec::{BlobSource, Sha256};

/// The nameless files of a build.
pub struct Spool {
    folder: PathBuf,
    blobs: Mutex<HashMap<Sha256, File>>,
}

impl Spool {
    /// A spool in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            blobs: Mutex::default(),
        }
    }

    /// A new empty file.
    ///
    /// # Errors
    /// As the system says.
    pub fn file(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.folder)
    }

    /// Keeps `file` as the blob with this digest.
    pub fn keep(&self, digest: Sha256, file: File) {
        self.lock().insert(digest, file);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Sha256, File>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobSource for Spool {
    fn open(&self, digest: &Sha256) -> io::Result<Box<dyn Read>> {
        match self.lock().remove(digest) {
            Some(file) => Ok(Box::new(FromStart::new(file))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Reads a shared file from its start, whatever its own position is.
pub struct FromStart {
    file: File,
    position: u64,
}

impl FromStart {
    /// A reader of `file`.
    pub fn new(file: File) -> Self {
        Self { file, position: 0 }
    }
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_blob_is_handed_out_once() {
        let spool = Spool::new(&std::env::temp_dir());
        let digest = Sha256::of(b"blob");
        let mut file = spool.file().unwrap();
        file.write_all(b"blob").unwrap();
        spool.keep(digest, file);
        let mut bytes = Vec::new();
        let mut reader = spool.open(&digest).unwrap();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"blob");
        let again = spool.open(&digest).err().unwrap();
        assert_eq!(again.kind(), io::ErrorKind::NotFound);
    }
}
