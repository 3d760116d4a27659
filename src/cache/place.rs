//! Where things lie in the cache's folder, and what is recognised there as kpot's own.
//!
//! `sha256/HEX` is a content by its digest, `sha512/HEX` a link to the content that has this SHA-512, `partial/ALGORITHM-HEX` a download that did not come to its end,
//! `runs/NAME` what a build uses, `names` what contents were called when they came, and `lock` what prune and builds meet at. Whatever else lies there was put there
//! by somebody else; it is neither read nor removed.

use std::env;
use std::fs::{DirEntry, ReadDir};
use std::io;
use std::path::{Path, PathBuf};

use bundle_spec::Sha256;

use crate::exit::usage;

/// The digest that a content must have, known before it is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Its SHA-256.
    Sha256(Sha256),
    /// Its SHA-512, 128 lower-case hex digits.
    Sha512(String),
}

impl Key {
    /// `sha256-HEX` or `sha512-HEX`: the name of a partial download, and the text of a claim.
    pub fn file_name(&self) -> String {
        match self {
            Self::Sha256(digest) => format!("sha256-{}", digest.hex()),
            Self::Sha512(digits) => format!("sha512-{digits}"),
        }
    }

    /// The key with this [`Self::file_name`].
    pub fn from_file_name(name: &str) -> Option<Self> {
        let (algorithm, digits) = name.split_once('-')?;
        match algorithm {
            "sha256" => Sha256::from_hex(digits).ok().map(Self::Sha256),
            "sha512" => is_sha512(digits).then(|| Self::Sha512(digits.to_owned())),
            _ => None,
        }
    }
}

fn is_sha512(digits: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    digits.len() == 128 && digits.bytes().all(hex)
}

/// The cache's folder.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

/// The folders in it.
pub const FOLDERS: [&str; 4] = ["sha256", "sha512", "partial", "runs"];

impl Place {
    /// The folder `given`, or the user's own: `$XDG_CACHE_HOME/kpot`, below `~/.cache` by default.
    ///
    /// # Errors
    /// A usage error where there is neither `XDG_CACHE_HOME` nor `HOME`.
    pub fn find(given: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(given) = given {
            return Ok(Self(given));
        }
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|caches| Self(caches.join("kpot")))
            .ok_or_else(|| {
                usage(
                    "neither XDG_CACHE_HOME nor HOME is set: name the cache's folder with --cache",
                )
            })
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// What lies there under this name.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where the content with this digest lies.
    pub fn content(&self, digest: &Sha256) -> PathBuf {
        self.0.join("sha256").join(digest.hex())
    }

    /// Where the link to the content with this SHA-512 lies.
    pub fn link(&self, digits: &str) -> PathBuf {
        self.0.join("sha512").join(digits)
    }

    /// Where the beginning of the content with this key lies.
    pub fn partial(&self, key: &Key) -> PathBuf {
        self.0.join("partial").join(key.file_name())
    }

    /// Every content.
    ///
    /// # Errors
    /// As the system says; no folder is an empty one.
    pub fn contents(&self) -> io::Result<Vec<(Sha256, PathBuf)>> {
        self.listed("sha256", |name| Sha256::from_hex(name).ok())
    }

    /// Every link.
    ///
    /// # Errors
    /// As for [`Self::contents`].
    pub fn links(&self) -> io::Result<Vec<(String, PathBuf)>> {
        self.listed("sha512", |name| is_sha512(name).then(|| name.to_owned()))
    }

    /// Every partial download.
    ///
    /// # Errors
    /// As for [`Self::contents`].
    pub fn partials(&self) -> io::Result<Vec<(Key, PathBuf)>> {
        self.listed("partial", Key::from_file_name)
    }

    /// Every file in which a build, running or dead, says what it uses.
    ///
    /// # Errors
    /// As for [`Self::contents`].
    pub fn runs(&self) -> io::Result<Vec<(String, PathBuf)>> {
        self.listed("runs", |name| {
            name.starts_with("run-").then(|| name.to_owned())
        })
    }

    /// What in a folder has a name that `recognise` knows, sorted.
    fn listed<T: Ord>(
        &self,
        folder: &str,
        recognise: impl Fn(&str) -> Option<T>,
    ) -> io::Result<Vec<(T, PathBuf)>> {
        let entries: ReadDir = match self.0.join(folder).read_dir() {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry: DirEntry = entry?;
            if let Some(known) = entry.file_name().to_str().and_then(&recognise) {
                found.push((known, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_are_recognised() {
        let digest = Sha256::of(b"x");
        let keys = [Key::Sha256(digest), Key::Sha512("0a".repeat(64))];
        for key in keys {
            assert_eq!(Key::from_file_name(&key.file_name()), Some(key));
        }
        for name in [
            String::new(),
            "sha256-".to_owned(),
            digest.hex(),
            format!("sha256-{}", digest.hex().to_uppercase()),
            format!("sha512-{}", digest.hex()),
            format!("md5-{}", digest.hex()),
            format!("sha256-{}.bak", digest.hex()),
        ] {
            assert_eq!(Key::from_file_name(&name), None, "{name}");
        }
    }
}
