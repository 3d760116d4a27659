//! Where things lie between their download and the pot: nameless files on the output file's disk.
//!
//! They have no names, so nothing is left of them whatever ends the build, SIGKILL and a power cut included. They are not in memory (whose use is the same for every
//! size of pot) and not in /tmp (which may be memory). While the pot is written, each is gone when it was read: the disk need not hold everything twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bundle_spec::{BlobSource, Sha256};

/// The nameless files of a build.
pub struct Spool {
    folder: PathBuf,
    blobs: Mutex<HashMap<Sha256, Arc<File>>>,
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
        self.lock().insert(digest, Arc::new(file));
    }

    /// The stored bytes of the blob with this digest.
    ///
    /// # Errors
    /// Where there is no such blob.
    pub fn stored(&self, digest: &Sha256) -> io::Result<FromStart> {
        FromStart::shared(self.lock().get(digest).cloned())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Sha256, Arc<File>>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobSource for Spool {
    fn open(&self, digest: &Sha256) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(self.stored(digest)?))
    }
}

/// The blobs of a spool, each of which is handed out once, and gone when it was read.
pub struct Emptied<'a>(pub &'a Spool);

impl BlobSource for Emptied<'_> {
    fn open(&self, digest: &Sha256) -> io::Result<Box<dyn Read>> {
        let file = self.0.lock().remove(digest);
        Ok(Box::new(FromStart::shared(file)?))
    }
}

/// Reads a shared file from its start, whatever its own position is.
pub struct FromStart {
    file: Arc<File>,
    position: u64,
}

impl FromStart {
    /// A reader of `file`.
    pub fn new(file: File) -> Self {
        Self {
            file: Arc::new(file),
            position: 0,
        }
    }

    fn shared(file: Option<Arc<File>>) -> io::Result<Self> {
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { file, position: 0 })
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
    fn a_blob_is_handed_out_once_where_the_spool_is_emptied() {
        let spool = Spool::new(&std::env::temp_dir());
        let digest = Sha256::of(b"blob");
        let mut file = spool.file().unwrap();
        file.write_all(b"blob").unwrap();
        spool.keep(digest, file);
        let emptied = Emptied(&spool);
        for source in [&spool as &dyn BlobSource, &spool, &emptied] {
            let mut bytes = Vec::new();
            let mut reader = source.open(&digest).unwrap();
            reader.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, b"blob");
        }
        for source in [&spool as &dyn BlobSource, &emptied] {
            let again = source.open(&digest).err().unwrap();
            assert_eq!(again.kind(), io::ErrorKind::NotFound);
        }
    }
}
