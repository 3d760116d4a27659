//! A file that has no name until it is whole, so that nothing is left of it whatever ends kpot before, SIGKILL and a power cut included.
//!
//! File systems that know no nameless files (old NFS, some FUSE ones) get a file with a name of its own, `.kpot-*.partial`, which a killed kpot leaves behind.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::linkat;
use tempfile::{Builder, NamedTempFile};

use super::output::Existing;

/// A file that is being written.
pub enum Draft {
    /// It has no name.
    Nameless(File, PathBuf),
    /// It has one that is not its own.
    Named(NamedTempFile),
}

impl Draft {
    /// An empty file on the disk of `folder`, with its final mode, as far as the umask leaves that.
    ///
    /// # Errors
    /// As the system says.
    pub fn new(folder: &Path, mode: u32) -> io::Result<Self> {
        let nameless = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .mode(mode)
            .open(folder);
        match nameless {
            // A nameless file gets its name through /proc.
            Ok(file) if open_files().is_dir() => Ok(Self::Nameless(file, folder.to_owned())),
            _ => names()
                .permissions(Permissions::from_mode(mode))
                .tempfile_in(folder)
                .map(Self::Named),
        }
    }

    /// The file.
    pub fn file(&self) -> &File {
        match self {
            Self::Nameless(file, _) => file,
            Self::Named(file) => file.as_file(),
        }
    }

    /// Puts it into its place, which is in the folder that it was made in.
    ///
    /// # Errors
    /// As the system says; [`io::ErrorKind::AlreadyExists`] where a file is there that is to be kept.
    pub fn put(self, path: &Path, existing: Existing) -> io::Result<()> {
        match (self, existing) {
            (Self::Nameless(file, _), Existing::Kept) => name(&file, path),
            (Self::Nameless(file, folder), Existing::Replaced) => match name(&file, path) {
                // A name that is taken can only be taken over by another name.
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                    let beside = names().make_in(folder, |beside| name(&file, beside))?;
                    Ok(beside.persist(path).map(drop)?)
                }
                other => other,
            },
            (Self::Named(file), Existing::Kept) => Ok(file.persist_noclobber(path).map(drop)?),
            (Self::Named(file), Existing::Replaced) => Ok(file.persist(path).map(drop)?),
        }
    }
}

fn names() -> Builder<'static, 'static> {
    let mut names = Builder::new();
    names.prefix(".kpot-").suffix(".partial");
    names
}

fn open_files() -> &'static Path {
    Path::new("/proc/self/fd")
}

fn name(file: &File, path: &Path) -> io::Result<()> {
    let open = open_files().join(file.as_raw_fd().to_string());
    let followed = AtFlags::AT_SYMLINK_FOLLOW;
    linkat(AT_FDCWD, &open, AT_FDCWD, path, followed).map_err(io::Error::from)
}
