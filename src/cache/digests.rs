//! The digests of a file's bytes, taken while they stream.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bundle_spec::{Hasher, Sha256};
use sha2::Digest as _;

use super::place::Key;
use crate::fetch::Stop;

/// A file's digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its SHA-512 in hex, where it was asked for.
    pub sha512: Option<String>,
}

impl Digests {
    /// Reads `file` from its start to its end, wherever it stands. Its SHA-512 is taken only where `key` is one.
    ///
    /// # Errors
    /// As the system says, and where `stop` was requested.
    pub fn of(file: &File, key: &Key, stop: &Stop) -> io::Result<Self> {
        let mut sha256 = Hasher::new();
        let mut sha512 = matches!(key, Key::Sha512(_)).then(sha2::Sha512::new);
        let mut buffer = vec![0; 128 << 10];
        loop {
            if stop.requested() {
                return Err(io::Error::other("given up"));
            }
            let count = match file.read_at(&mut buffer, sha256.length()) {
                Ok(0) => break,
                Ok(count) => count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(cause),
            };
            sha256.update(&buffer[..count]);
            if let Some(sha512) = &mut sha512 {
                sha512.update(&buffer[..count]);
            }
        }
        let hex = |state: sha2::Sha512| {
            let digits = state.finalize();
            digits
                .iter()
                .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
        };
        Ok(Self {
            size: sha256.length(),
            sha256: sha256.finish(),
            sha512: sha512.map(hex),
        })
    }

    /// Whether they are those of the content with this key.
    pub fn match_key(&self, key: &Key) -> bool {
        match key {
            Key::Sha256(digest) => self.sha256 == *digest,
            Key::Sha512(digits) => self.sha512.as_ref() == Some(digits),
        }
    }

    /// The one that a key of the same kind would hold.
    pub fn shown(&self) -> String {
        match &self.sha512 {
            Some(digits) => format!("sha512:{digits}"),
            None => self.sha256.to_string(),
        }
    }
}
