//! Where the stored bytes of a pot's members are: at offsets of one file, or in files beside each other.
//!
//! A store knows names, places and sizes, and nothing about what is right: the reader compares them with the manifest. Opening an archive walks its headers and
//! steps over the contents, so it costs one read per member. Nothing is ever unpacked, followed or written here.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;

use crate::error::Error;
use crate::header;
use crate::limits;
use crate::manifest;
use crate::path::{BLOB_FOLDER, Member};

/// A pot's members on disk.
#[derive(Debug)]
pub struct Store {
    source: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Archive {
        file: Arc<File>,
        slots: BTreeMap<Member, Slot>,
    },
    Directory,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    offset: u64,
    size: u64,
}

/// The stored bytes of one member.
#[derive(Debug)]
pub struct Part {
    file: Arc<File>,
    path: PathBuf,
    offset: u64,
    size: u64,
}

impl Store {
    /// Opens an archive, or a folder with a pot's members.
    pub fn open(source: &Path) -> Result<Self, Error> {
        let unreadable = |source_error| Error::Io {
            action: "open",
            path: source.to_owned(),
            source: source_error,
        };
        // Not blocking: a pipe in the place of a pot is refused below, and not waited for.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(source)
            .map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let place = if metadata.is_dir() {
            Place::Directory
        } else if metadata.is_file() {
            let slots = walk(&file, source, metadata.len())?;
            Place::Archive {
                file: Arc::new(file),
                slots,
            }
        } else {
            return Err(Error::Archive(format!(
                "{} is neither a file nor a folder",
                source.display()
            )));
        };
        Ok(Self {
            source: source.to_owned(),
            place,
        })
    }

    /// The path that was opened.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The stored bytes of `member`, or `None` where there is no such member. Its size is within the member's limit.
    pub fn part(&self, member: &Member) -> Result<Option<Part>, Error> {
        match &self.place {
            Place::Archive { file, slots } => Ok(slots.get(member).map(|slot| Part {
                file: Arc::clone(file),
                path: self.source.clone(),
                offset: slot.offset,
                size: slot.size,
            })),
            Place::Directory => open_beside(&self.source, member),
        }
    }

    /// The stored bytes of `member`, which must be there.
    pub fn required(&self, member: &Member) -> Result<Part, Error> {
        self.part(member)?
            .ok_or_else(|| Error::Archive(format!("it has no {member}")))
    }

    /// The members that an archive holds; `None` for a folder, in which other files may stand about.
    pub fn listing(&self) -> Option<impl Iterator<Item = (&Member, u64)>> {
        match &self.place {
            Place::Archive { slots, .. } => {
                Some(slots.iter().map(|(member, slot)| (member, slot.size)))
            }
            Place::Directory => None,
        }
    }
}

impl Part {
    /// Stored bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads at `position` of the member: fills `buffer`, or as much of it as the member has bytes left, and returns how many.
    pub fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let left = self.size.saturating_sub(position);
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        self.file
            .read_exact_at(&mut buffer[..length], self.offset + position)?;
        Ok(length)
    }

    /// All of a small member.
    pub fn read_all(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
        self.read_at(&mut bytes, 0)
            .map_err(|source| self.unreadable(source))?;
        Ok(bytes)
    }

    /// The error for a failed read of this member.
    pub fn unreadable(&self, source: io::Error) -> Error {
        Error::Io {
            action: "read",
            path: self.path.clone(),
            source,
        }
    }
}

/// Walks the headers of an archive of `length` bytes and refuses whatever is not canonical.
fn walk(file: &File, source: &Path, length: u64) -> Result<BTreeMap<Member, Slot>, Error> {
    let canonical = walk_canonical(file, source, length);
    match canonical {
        Err(Error::Archive(_)) => match later_format(file, length) {
            Some(format) => Err(Error::Format(format)),
            None => canonical,
        },
        _ => canonical,
    }
}

fn walk_canonical(
    file: &File,
    source: &Path,
    length: u64,
) -> Result<BTreeMap<Member, Slot>, Error> {
    let refused = |what: String| Error::Archive(what);
    let read = |buffer: &mut [u8], position: u64| {
        file.read_exact_at(buffer, position)
            .map_err(|cause| match cause.kind() {
                io::ErrorKind::UnexpectedEof => refused("it is cut short".to_owned()),
                _ => Error::Io {
                    action: "read",
                    path: source.to_owned(),
                    source: cause,
                },
            })
    };
    let mut slots = BTreeMap::new();
    let mut position = 0;
    loop {
        let mut block = [0; header::BLOCK];
        read(&mut block, position)?;
        position += header::BLOCK as u64;
        if block == [0; header::BLOCK] {
            break;
        }
        let (member, size) = header::decode(&block).map_err(refused)?;
        if slots
            .last_key_value()
            .is_some_and(|(last, _)| *last >= member)
        {
            return Err(refused(format!("{member} is twice there or out of order")));
        }
        if slots.len() >= Member::REQUIRED.len() + 1 + limits::BLOBS {
            return Err(refused(format!("it has more than {} blobs", limits::BLOBS)));
        }
        slots.insert(
            member,
            Slot {
                offset: position,
                size,
            },
        );
        position += size;
        let padding = &mut block[..header::padding(size)];
        read(padding, position)?;
        position += padding.len() as u64;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(refused(format!("the padding behind {member} is not zero")));
        }
    }
    let mut block = [0; header::BLOCK];
    read(&mut block, position)?;
    position += header::BLOCK as u64;
    if block != [0; header::BLOCK] || position != length {
        return Err(refused(
            "it does not end with two zero blocks and nothing behind them".to_owned(),
        ));
    }
    match Member::REQUIRED
        .iter()
        .find(|member| !slots.contains_key(*member))
    {
        Some(missing) => Err(refused(format!("it has no {missing}"))),
        None => Ok(slots),
    }
}

/// The format number in the `manifest.json` of an archive that is no pot of format 1, if it names another format: whatever else later formats change, they keep
/// that member in a plain tar, so that an older program can say what it met instead of "damaged".
fn later_format(file: &File, length: u64) -> Option<u32> {
    let mut position = 0;
    for _ in 0..limits::BLOBS {
        let mut block = [0; header::BLOCK];
        file.read_exact_at(&mut block, position).ok()?;
        let (name, size) = header::look(&block)?;
        position += header::BLOCK as u64;
        if name == Member::Manifest.to_string() {
            let within = size <= limits::MANIFEST && size <= length;
            let mut bytes = vec![0; usize::try_from(size).ok().filter(|_| within)?];
            file.read_exact_at(&mut bytes, position).ok()?;
            return manifest::format_number(&bytes)
                .ok()
                .filter(|format| *format != manifest::FORMAT);
        }
        position += size + header::padding(size) as u64;
    }
    None
}

/// Opens `member` as a plain file below `folder`. Links are not followed, and nothing but a regular file is read.
fn open_beside(folder: &Path, member: &Member) -> Result<Option<Part>, Error> {
    let path = folder.join(member.to_string());
    let unreadable = |source| Error::Io {
        action: "open",
        path: path.clone(),
        source,
    };
    if matches!(member, Member::Blob(_)) {
        for above in Path::new(BLOB_FOLDER).ancestors() {
            let above = folder.join(above);
            let real = above == folder || fs::symlink_metadata(&above).is_ok_and(|it| it.is_dir());
            if !real {
                return Err(Error::Archive(format!(
                    "{} is not a folder",
                    above.display()
                )));
            }
        }
    }
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
        .open(&path);
    let file = match opened {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        // What Linux answers to O_NOFOLLOW on a symbolic link.
        Err(cause) if cause.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
            return Err(Error::Archive(format!("{} is a link", path.display())));
        }
        Err(cause) => return Err(unreadable(cause)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Error::Archive(format!(
            "{} is not a regular file",
            path.display()
        )));
    }
    let size = metadata.size();
    if size > member.limit() {
        return Err(Error::Archive(format!(
            "{member} has {size} bytes, more than {}",
            member.limit()
        )));
    }
    Ok(Some(Part {
        file: Arc::new(file),
        path,
        offset: 0,
        size,
    }))
}
