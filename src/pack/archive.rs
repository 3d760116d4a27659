//! Archives of programs, taken apart while kpot still runs without privileges, so that the installer, which runs as root, needs to read no archive.
//!
//! Taken are regular files that somebody may execute; papers beside them are left out. Everything that is neither a file nor the one folder (links, devices, folders
//! in folders, absolute and parent names) is refused: no publisher of ours has a reason for it. An archive that lies in the cache could change after it was checked, so
//! it is hashed once more while it is read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Component, Path};

use bundle_spec::{Hasher, Sha256, limits};
use flate2::bufread::MultiGzDecoder;
use tar::{Archive, EntryType};

use crate::pack::spool::{FromStart, Spool};
use crate::plan::Layout;

/// The largest number of entries; Docker's archive has 8 to 10, the CNI plugins' some 20.
const ENTRIES: usize = 200;

/// A program out of an archive.
#[derive(Debug)]
pub struct Program {
    /// Its name, without a folder.
    pub name: String,
    /// Its bytes.
    pub file: File,
    /// Their digest.
    pub digest: Sha256,
    /// Their number.
    pub size: u64,
}

/// Takes the archive in `file`, which has this digest, apart.
///
/// # Errors
/// A text that continues "the archive …".
pub fn unpack(
    file: File,
    digest: Sha256,
    folder: Option<&str>,
    spool: &Spool,
) -> Result<Vec<Program>, String> {
    let mut bytes = Hashed {
        inner: FromStart::new(file),
        hasher: Hasher::new(),
    };
    let programs = programs(&mut bytes, folder, spool)?;
    io::copy(&mut bytes, &mut io::sink()).map_err(|cause| unreadable(&cause))?;
    let seen = bytes.hasher.finish();
    if seen != digest {
        return Err(format!(
            "became another while it was read: its digest is {seen} instead of {digest}"
        ));
    }
    Ok(programs)
}

fn unreadable(cause: &io::Error) -> String {
    format!("cannot be read: {cause}")
}

/// A reader that hashes what passes.
struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: io::Read> io::Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn programs(
    bytes: impl io::Read,
    folder: Option<&str>,
    spool: &Spool,
) -> Result<Vec<Program>, String> {
    let decoder = MultiGzDecoder::new(io::BufReader::new(bytes));
    let mut archive = Archive::new(decoder.take(limits::BLOB_SIZE));
    let mut programs = Vec::new();
    let mut names = BTreeSet::new();
    for (count, entry) in archive
        .entries()
        .map_err(|cause| unreadable(&cause))?
        .enumerate()
    {
        let mut entry = entry.map_err(|cause| unreadable(&cause))?;
        if count == ENTRIES {
            return Err(format!("has more than {ENTRIES} entries"));
        }
        let path = entry
            .path()
            .map_err(|cause| unreadable(&cause))?
            .into_owned();
        let shown = path.display().to_string();
        match entry.header().entry_type() {
            EntryType::Directory => {
                if !is_folder(&path, folder) {
                    return Err(format!("has a folder where none belongs: {shown:?}"));
                }
                continue;
            }
            EntryType::Regular => {}
            other => {
                return Err(format!(
                    "holds {shown:?}, which is no regular file ({other:?})"
                ));
            }
        }
        let name = name(&path, folder)
            .ok_or_else(|| format!("holds a file where none belongs: {shown:?}"))?;
        if !names.insert(name.clone()) {
            return Err(format!("holds {name:?} twice"));
        }
        let mode = entry.header().mode().map_err(|cause| unreadable(&cause))?;
        if mode & 0o111 == 0 {
            continue;
        }
        let mut to = spool
            .file()
            .map_err(|cause| format!("cannot be unpacked beside the output file: {cause}"))?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = entry
                .read(&mut buffer)
                .map_err(|cause| unreadable(&cause))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            to.write_all(&buffer[..count])
                .map_err(|cause| format!("cannot be unpacked beside the output file: {cause}"))?;
        }
        programs.push(Program {
            name,
            file: to,
            size: hasher.length(),
            digest: hasher.finish(),
        });
    }
    if programs.is_empty() {
        return Err("holds no program".to_owned());
    }
    Ok(programs)
}

impl Layout {
    /// The folder that an archive's programs lie in.
    pub const fn folder(self) -> Option<&'static str> {
        match self {
            Self::Program | Self::Archive => None,
            Self::ArchiveWithFolder(folder) => Some(folder),
        }
    }
}

fn is_folder(path: &Path, folder: Option<&str>) -> bool {
    let mut components = path.components().filter(|part| *part != Component::CurDir);
    match components.next() {
        None => true,
        Some(Component::Normal(name)) => {
            folder.is_some_and(|folder| name == folder) && components.next().is_none()
        }
        Some(_) => false,
    }
}

/// The name of a file directly in the folder, if it is one that a manifest may hold.
fn name(path: &Path, folder: Option<&str>) -> Option<String> {
    let mut components = path.components().filter(|part| *part != Component::CurDir);
    if let Some(folder) = folder
        && components.next() != Some(Component::Normal(folder.as_ref()))
    {
        return None;
    }
    let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else {
        return None;
    };
    let name = name.to_str()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    (name.bytes().all(plain) && !name.starts_with(['.', '-'])).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek as _;

    /// Path, kind and mode of an entry.
    type Row = (&'static str, EntryType, u32);

    fn archive(entries: &[Row]) -> File {
        let encoder = flate2::write::GzEncoder::new(
            tempfile::tempfile().unwrap(),
            flate2::Compression::fast(),
        );
        let mut builder = tar::Builder::new(encoder);
        for (path, kind, mode) in entries {
            let content: &[u8] = if *kind == EntryType::Regular {
                b"program"
            } else {
                b""
            };
            let mut header = tar::Header::new_ustar();
            // Written raw: the builder itself refuses some of these names.
            header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        let mut file = builder.into_inner().unwrap().finish().unwrap();
        file.rewind().unwrap();
        file
    }

    fn names(entries: &[Row], folder: Option<&str>) -> Result<Vec<String>, String> {
        let spool = Spool::new(&std::env::temp_dir());
        let file = archive(entries);
        let mut bytes = Vec::new();
        FromStart::new(file.try_clone().unwrap())
            .read_to_end(&mut bytes)
            .unwrap();
        let other = unpack(file.try_clone().unwrap(), Sha256::of(b""), folder, &spool);
        assert!(other.is_err(), "another digest");
        let programs = unpack(file, Sha256::of(&bytes), folder, &spool)?;
        for program in &programs {
            assert_eq!((program.size, program.digest), (7, Sha256::of(b"program")));
        }
        Ok(programs.into_iter().map(|program| program.name).collect())
    }

    const FILE: EntryType = EntryType::Regular;
    const DIR: EntryType = EntryType::Directory;

    #[test]
    fn programs_are_taken_and_papers_left() {
        let plugins = [
            ("./", DIR, 0o755),
            ("./bridge", FILE, 0o755),
            ("LICENSE", FILE, 0o644),
            ("host-local", FILE, 0o755),
        ];
        assert_eq!(names(&plugins, None).unwrap(), ["bridge", "host-local"]);
        let docker = [("docker/", DIR, 0o755), ("docker/dockerd", FILE, 0o755)];
        assert_eq!(names(&docker, Some("docker")).unwrap(), ["dockerd"]);
    }

    #[test]
    fn whatever_else_an_archive_may_hold_is_refused() {
        let rows: [(&[Row], Option<&str>); 11] = [
            (&[("a", EntryType::Symlink, 0o755)], None),
            (&[("a", EntryType::Link, 0o755)], None),
            (&[("a", EntryType::Char, 0o755)], None),
            (&[("/bin/a", FILE, 0o755)], None),
            (&[("../a", FILE, 0o755)], None),
            (&[("b/a", FILE, 0o755)], None),
            (&[("b/", DIR, 0o755), ("a", FILE, 0o755)], None),
            (&[("dockerd", FILE, 0o755)], Some("docker")),
            (&[("docker/x/a", FILE, 0o755)], Some("docker")),
            (&[("a", FILE, 0o755), ("./a", FILE, 0o755)], None),
            (&[("README", FILE, 0o644)], None),
        ];
        for (entries, folder) in rows {
            assert!(names(entries, folder).is_err(), "{:?}", entries[0].0);
        }
        assert!(names(&[(".hidden", FILE, 0o755)], None).is_err());
    }
}
