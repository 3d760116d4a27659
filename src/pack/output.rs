//! What kpot makes becomes a file: written without a name, synced, and only then put into its place. Whatever was there before stays until then.
#![allow(
    clippy::disallowed_methods,
    reason = "this module owns the output file"
)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bundle_spec::{Manifest, PotParts, Sha256, SigningKey, write_pot};

use crate::exit::usage;
use crate::fetch::Stop;
use crate::pack::behind::write_behind;
use crate::pack::draft::Draft;
use crate::pack::space;
use crate::pack::spool::{Emptied, Spool};
use crate::progress::Progress;

/// A pot that was written.
#[derive(Debug)]
pub struct Written {
    /// The digest of its `SHA256SUMS`, which names it.
    pub identity: Sha256,
    /// Its size in bytes.
    pub size: u64,
}

/// What a pot is made of besides its blobs.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The static installer.
    pub installer: &'a [u8],
    /// What the pot holds.
    pub manifest: &'a Manifest,
    /// Who signs.
    pub signer: Option<&'a SigningKey>,
}

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// The new file takes its place.
    Replaced,
    /// It stays, and the new file is not written.
    Kept,
}

/// The folder of the output file.
///
/// # Errors
/// A usage error where there is no such folder, or where what is there is no file: a device would be replaced by one.
pub fn folder(output: &Path) -> anyhow::Result<PathBuf> {
    let text = output.as_os_str().to_string_lossy();
    if text.is_empty() || text == "-" || text.ends_with('/') && !output.is_dir() {
        return Err(usage(format!("{text:?} names no file: name one")));
    }
    let folder = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if output.is_dir() {
        return Err(usage(format!(
            "{} is a folder; name a file",
            output.display()
        )));
    }
    if output.metadata().is_ok_and(|facts| !facts.is_file()) {
        return Err(usage(format!(
            "{} is no regular file; name another one",
            output.display()
        )));
    }
    if !folder.is_dir() {
        return Err(usage(format!(
            "the folder {} does not exist; make it first: mkdir -p {}",
            folder.display(),
            folder.display()
        )));
    }
    Ok(folder.to_owned())
}

/// Writes the pot to `output`, where it takes its place if `agreed`, which is asked when all of it is written, does not refuse; with what that one said.
///
/// # Errors
/// Where the disk is too small, the system refuses, `stop` is requested, or nobody agrees; `output` is then as it was.
pub fn write<T>(
    output: &Path,
    parts: &Parts<'_>,
    spool: &Spool,
    (stop, progress): (&Stop, &Progress),
    agreed: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Written, T)> {
    let Parts {
        installer,
        manifest,
        signer,
    } = *parts;
    let sizes = manifest.blobs.iter().map(|blob| blob.size);
    let total = sizes.clone().sum::<u64>() + installer.len() as u64;
    // The blobs lie on the same disk, and each is gone from there when it was written; but one of them, kubeadm's, may be read by others until the end.
    let needed = 2 * sizes.max().unwrap_or(0) + installer.len() as u64;
    let parts = PotParts {
        installer,
        readme: &readme(manifest),
        manifest,
        blobs: &Emptied(spool),
        signer,
    };
    let task = progress.task(&format!("writing {}", output.display()), Some(total));
    let write = |out: &mut dyn Write| {
        let advance = |count| {
            task.advance(count);
            !stop.requested()
        };
        Ok(write_pot(&mut Watched { out, advance }, &parts)?)
    };
    let unnamed = Unnamed::write(output, 0o644, needed, write)?;
    let told = agreed()?;
    let (identity, size) = unnamed.put(output, Existing::Replaced)?;
    Ok((Written { identity, size }, told))
}

/// A writer that tells how many bytes passed, and refuses more where it is told so.
struct Watched<'a, F> {
    out: &'a mut dyn Write,
    advance: F,
}

impl<F: FnMut(u64) -> bool> Write for Watched<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        if (self.advance)(count as u64) {
            Ok(count)
        } else {
            Err(io::Error::other("given up"))
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a file of `needed` bytes, as far as that is known, with what `write` gives to it; returns what `write` returned and the file's size.
///
/// # Errors
/// Where the disk is too small, the system refuses, `write` fails, or a file is there that is to be kept; what was there is then as it was.
pub fn put<T>(
    path: &Path,
    mode: u32,
    existing: Existing,
    needed: u64,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>,
) -> anyhow::Result<(T, u64)> {
    Unnamed::write(path, mode, needed, write)?.put(path, existing)
}

/// A file that is written and on the disk, and has no name yet.
struct Unnamed<T> {
    draft: Draft,
    folder: PathBuf,
    told: T,
}

impl<T> Unnamed<T> {
    /// Writes it with what `write` gives to it.
    fn write(
        path: &Path,
        mode: u32,
        needed: u64,
        write: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>,
    ) -> anyhow::Result<Self> {
        let attempt = || cannot_write(path);
        let folder = folder(path)?;
        let draft = Draft::new(&folder, mode).with_context(attempt)?;
        space::ensure(draft.file(), needed)
            .map_err(anyhow::Error::msg)
            .with_context(attempt)?;
        let told = write_behind(draft.file(), write).with_context(attempt)?;
        Ok(Self {
            draft,
            folder,
            told,
        })
    }

    /// Puts it into its place; returns what `write` returned, and its size.
    fn put(self, path: &Path, existing: Existing) -> anyhow::Result<(T, u64)> {
        let attempt = || cannot_write(path);
        let size = self.draft.file().metadata().with_context(attempt)?.len();
        self.draft.put(path, existing).with_context(attempt)?;
        sync_folder(&self.folder).with_context(attempt)?;
        Ok((self.told, size))
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// Makes a folder, and those above it, for its owner only.
///
/// # Errors
/// As the system says.
pub fn make_private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Makes a folder, and those above it, with the user's own permissions; one that is there is left as it is.
///
/// # Errors
/// As the system says.
pub fn make_folder(path: &Path) -> anyhow::Result<()> {
    let attempt = || format!("cannot make the folder {}", path.display());
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .create(path)
        .with_context(attempt)?;
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => sync_folder(above).with_context(attempt),
        _ => Ok(()),
    }
}

/// Takes a small file away that this run has just made.
///
/// # Errors
/// As the system says.
pub fn remove(path: &Path) -> std::io::Result<()> {
    fs::remove_file(path)
}

/// A rename is lost with the power unless its folder is synced. Some file systems (VirtualBox's shared folders, CIFS of old) sync none, and some folders may be written to and not read: what
/// was done is done then.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(cause)
            if [
                io::ErrorKind::InvalidInput,
                io::ErrorKind::Unsupported,
                io::ErrorKind::PermissionDenied,
            ]
            .contains(&cause.kind()) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The lines that somebody needs who finds a pot and knows nothing of kpot.
fn readme(manifest: &Manifest) -> String {
    format!(
        "{name}: a Kubernetes {kubernetes} master for an offline {arch} machine, made by kpot {kpot}.
1. Check it with stock tools: ssh-keygen -Y verify -n kpot -f TRUSTED_SIGNERS -I kpot -s SHA256SUMS.sig < SHA256SUMS && sha256sum -c SHA256SUMS
2. Trust its signer on the backup machine: put the signer's line (from `kpot keygen`) into /etc/kpot/trusted_signers
3. Look first, nothing is changed: ./kpot-install preflight
4. Make this machine a master, ADDR being a healthy one: ./kpot-install join-master --healthy ADDR
",
        name = manifest.name,
        kubernetes = manifest.kubernetes,
        arch = manifest.arch,
        kpot = manifest.built_by,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_a_regular_file_in_a_folder_is_written() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for (output, word) in [
            (PathBuf::new(), "names no file"),
            (PathBuf::from("-"), "names no file"),
            (path("absent/"), "names no file"),
            (path("absent/x.pot"), "does not exist"),
            (path(""), "is a folder"),
            (path("pipe"), "is no regular file"),
            (PathBuf::from("/dev/null"), "is no regular file"),
        ] {
            let refused = folder(&output).unwrap_err().to_string();
            assert!(refused.contains(word), "{}: {refused}", output.display());
        }
        assert_eq!(folder(&path("x.pot")).unwrap(), place.path());
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_kept_or_replaced_as_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let write = |out: &mut dyn Write| {
            fs::write(&path, "somebody else's")?;
            out.write_all(b"ours").map_err(Into::into)
        };
        assert!(put(&path, 0o600, Existing::Kept, 0, write).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
        assert_eq!(names(folder.path()), ["x"]);
        assert_eq!(
            put(&path, 0o600, Existing::Replaced, 0, write).unwrap(),
            ((), 4)
        );
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "before").unwrap();
        let write = |out: &mut dyn Write| {
            out.write_all(b"half")?;
            Err::<(), _>(anyhow::anyhow!("no more"))
        };
        let refused = put(&path, 0o644, Existing::Replaced, 0, write).unwrap_err();
        assert!(format!("{refused:#}").ends_with("no more"), "{refused:#}");
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(names(folder.path()), ["x"]);
    }
}
