//! This machine, for looking only: its files below a root, and commands that are known to read.

#![allow(
    clippy::disallowed_methods,
    reason = "this module reads the machine's files"
)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bundle_spec::{Hasher, Sha256};
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::clock::Clock;
use super::command::{CommandError, Output, Runner};
use super::probe::Probe;

/// The largest file that is read whole, in bytes; configuration is never larger.
const READ_LIMIT: u64 = 16 << 20;

/// Where programs are looked for, whatever PATH the operator's shell has.
pub(crate) const PROGRAM_DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link, which is not followed.
    Symlink,
    /// Anything else.
    Other,
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, such as 0o644.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// The identity of the file system that it lies on.
    pub device: u64,
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that an unprivileged process may still use, as `df` shows them.
    pub available: u64,
    /// The file system's identity: equal for two paths on the same one.
    pub device: u64,
    /// Whether nothing can be written there, by whomever.
    pub read_only: bool,
}

/// This machine, for looking only.
#[derive(Clone)]
pub struct HostView {
    root: PathBuf,
    pub(super) runner: Arc<dyn Runner>,
}

impl HostView {
    /// The machine whose files lie below `root` and whose commands `runner` runs.
    pub fn new(root: impl Into<PathBuf>, runner: Arc<dyn Runner>) -> Self {
        Self {
            root: root.into(),
            runner,
        }
    }

    /// The clock by which it is waited between two looks.
    pub fn clock(&self) -> &dyn Clock {
        self.runner.clock()
    }

    /// The real place of an absolute path of the machine.
    pub fn locate(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The content of a file of at most 16 MiB; nothing where there is none.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let file = match File::open(self.locate(path)) {
            Ok(file) => file,
            Err(cause) if absent(&cause) => return Ok(None),
            Err(cause) => return Err(cause).with_context(|| format!("cannot read {path}")),
        };
        let mut bytes = Vec::new();
        file.take(READ_LIMIT + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {path}"))?;
        ensure!(
            bytes.len() as u64 <= READ_LIMIT,
            "{path} is larger than {} MiB, which no file of its kind is",
            READ_LIMIT >> 20
        );
        Ok(Some(bytes))
    }

    /// The text of a file; nothing where there is none.
    pub fn text(&self, path: &str) -> Result<Option<String>> {
        Ok(self
            .read(path)?
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// What a path is, without following a link; nothing where it does not exist.
    pub fn facts(&self, path: &str) -> Result<Option<Facts>> {
        known(fs::symlink_metadata(self.locate(path)), path)
    }

    /// What a path is in the end: of a link, what it leads to; nothing where that does not exist.
    pub fn behind(&self, path: &str) -> Result<Option<Facts>> {
        match fs::metadata(self.locate(path)) {
            // A link that leads back to itself.
            Err(cause) if cause.raw_os_error() == Some(Errno::ELOOP as i32) => Ok(None),
            metadata => known(metadata, path),
        }
    }

    /// What stands in a symbolic link; nothing where the path is none.
    pub fn link(&self, path: &str) -> Result<Option<String>> {
        match fs::read_link(self.locate(path)) {
            Ok(text) => Ok(Some(text.to_string_lossy().into_owned())),
            Err(cause) if absent(&cause) || cause.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(cause) => Err(cause).with_context(|| format!("cannot look at {path}")),
        }
    }

    /// Whether a path exists.
    pub fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.facts(path)?.is_some())
    }

    /// The digest of a file's content; nothing where there is none.
    pub fn digest(&self, path: &str) -> Result<Option<Sha256>> {
        let mut file = match File::open(self.locate(path)) {
            Ok(file) => file,
            Err(cause) if absent(&cause) => return Ok(None),
            Err(cause) => return Err(cause).with_context(|| format!("cannot read {path}")),
        };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file
                .read(&mut buffer)
                .with_context(|| format!("cannot read {path}"))?
            {
                0 => return Ok(Some(hasher.finish())),
                length => hasher.update(&buffer[..length]),
            }
        }
    }

    /// The path without symbolic links in it; nothing where there is no such path.
    pub fn resolved(&self, path: &str) -> Result<Option<String>> {
        let real = |place: &Path| match fs::canonicalize(place) {
            Ok(place) => Ok(Some(place)),
            Err(cause) if absent(&cause) => Ok(None),
            Err(cause) => Err(cause).with_context(|| format!("cannot look at {}", place.display())),
        };
        let (Some(root), Some(place)) = (real(&self.root)?, real(&self.locate(path))?) else {
            return Ok(None);
        };
        Ok(place
            .strip_prefix(root)
            .ok()
            .map(|path| format!("/{}", path.display())))
    }

    /// The names in a folder, sorted; none where there is no such folder.
    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        let entries = match fs::read_dir(self.locate(path)) {
            Ok(entries) => entries,
            Err(cause) if absent(&cause) => return Ok(Vec::new()),
            Err(cause) => return Err(cause).with_context(|| format!("cannot list {path}")),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(
                entry
                    .with_context(|| format!("cannot list {path}"))?
                    .file_name()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        names.sort();
        Ok(names)
    }

    /// Bytes of a file, or of all files in a folder and those below it; none where there is nothing.
    pub fn size(&self, path: &str) -> Result<u64> {
        match self.facts(path)? {
            None => Ok(0),
            Some(facts) if facts.kind != Kind::Directory => Ok(facts.size),
            Some(_) => (self.list(path)?.iter()).try_fold(0, |sum, name| {
                Ok(sum + self.size(&format!("{path}/{name}"))?)
            }),
        }
    }

    /// The space of the file system that holds `path`, or that would hold it.
    pub fn space(&self, path: &str) -> Result<Space> {
        let mut place = self.locate(path);
        while !place.exists() && place.pop() {}
        let metadata =
            fs::metadata(&place).with_context(|| format!("cannot look at {}", place.display()))?;
        let answer = statvfs(&place)
            .with_context(|| format!("cannot ask for the free space of {}", place.display()))?;
        let unit = answer.fragment_size();
        Ok(Space {
            total: answer.blocks() * unit,
            available: answer.blocks_available() * unit,
            device: metadata.dev(),
            read_only: answer.flags().contains(FsFlags::ST_RDONLY),
        })
    }

    /// The path of a program; nothing where this machine has none of that name.
    pub fn program(&self, name: &str) -> Option<String> {
        PROGRAM_DIRS
            .iter()
            .map(|dir| format!("{dir}/{name}"))
            .find(|path| {
                let metadata = fs::metadata(self.locate(path));
                metadata.is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
            })
    }

    /// The value of a sysctl, with single spaces; nothing where this kernel or container has no such key.
    pub fn sysctl(&self, key: &str) -> Result<Option<String>> {
        Ok(self
            .text(&sysctl_path(key))?
            .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")))
    }

    /// Whether a sysctl can be set here: containers see many that they cannot change.
    pub fn sysctl_is_writable(&self, key: &str) -> Result<bool> {
        let path = sysctl_path(key);
        match nix::unistd::access(&self.locate(&path), nix::unistd::AccessFlags::W_OK) {
            Ok(()) => Ok(true),
            Err(Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ENOENT) => Ok(false),
            Err(cause) => Err(cause).with_context(|| format!("cannot look at {path}")),
        }
    }

    /// Asks the machine something.
    pub fn probe(&self, probe: &Probe) -> Result<Output, CommandError> {
        self.runner.run(probe.command())
    }
}

/// What the system says of a path; nothing where there is no such path.
fn known(metadata: io::Result<fs::Metadata>, path: &str) -> Result<Option<Facts>> {
    let metadata = match metadata {
        Ok(metadata) => metadata,
        Err(cause) if absent(&cause) => return Ok(None),
        Err(cause) => return Err(cause).with_context(|| format!("cannot look at {path}")),
    };
    let kind = match metadata.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Symlink,
        _ => Kind::Other,
    };
    Ok(Some(Facts {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.size(),
        device: metadata.dev(),
    }))
}

pub(super) fn absent(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(super) fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}
