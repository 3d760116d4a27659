//! What lies in the cache, and what of it is to go: for `kpot cache` and for people.
//!
//! Only what is recognised as the cache's own is listed or removed, and nothing that a running build has claimed or is writing to. A content's name is what it was
//! called when it came; nothing depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::TryLockError;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bundle_spec::Sha256;

use super::digests::Digests;
use super::files::{self, Hold};
use super::place::{Key, Place};
use crate::fetch::Stop;

/// The largest file of names, or of one build's claims, that is read, in bytes.
const TEXT_LIMIT: u64 = 16 << 20;

/// Something in the cache.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its digest: its own, or the one that it is to have.
    pub key: Key,
    /// Whether it is only the beginning.
    pub partial: bool,
    /// Its size in bytes.
    pub size: u64,
    /// When it was used last.
    pub used: SystemTime,
    /// Whether a build that is running has claimed it.
    pub claimed: bool,
    /// What it was called when it came.
    pub label: Option<String>,
    path: PathBuf,
}

/// What is to stay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// What was not used for this time goes.
    pub age: Option<Duration>,
    /// What was used longest ago goes until all of it has no more bytes than these.
    pub size: Option<u64>,
}

/// What went.
#[derive(Debug, Default)]
pub struct Pruned {
    /// These.
    pub removed: Vec<Item>,
    /// These stayed.
    pub kept: Vec<Item>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// How many contents are good.
    pub good: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The others, each with what is wrong.
    pub damaged: Vec<(Sha256, String)>,
}

/// Everything in the cache, what was used longest ago first.
///
/// # Errors
/// Where it cannot be read or locked.
pub fn list(place: &Place) -> anyhow::Result<Vec<Item>> {
    if !is_there(place)? {
        return Ok(Vec::new());
    }
    let _meeting = files::hold(place, Hold::Alone)?;
    items(place).with_context(|| cannot_read(place))
}

/// Whether there is a cache; one that may not be looked at is none that is empty.
fn is_there(place: &Place) -> anyhow::Result<bool> {
    files::is_there(&place.join("sha256")).with_context(|| cannot_read(place))
}

/// Removes what the limits do not let stay, and what dead builds left behind.
///
/// # Errors
/// Where the cache cannot be read, locked or written to; what was removed until then is gone.
pub fn prune(place: &Place, limits: Limits, now: SystemTime) -> anyhow::Result<Pruned> {
    if !is_there(place)? {
        return Ok(Pruned::default());
    }
    let _meeting = files::hold(place, Hold::Alone)?;
    let items = items(place).with_context(|| cannot_read(place))?;
    let mut total: u64 = items.iter().map(|item| item.size).sum();
    let mut pruned = Pruned::default();
    for item in items {
        // A clock that was set back leaves times in the future: used just now.
        let age = now.duration_since(item.used).unwrap_or_default();
        let goes = limits.age.is_some_and(|limit| age >= limit)
            || limits.size.is_some_and(|limit| total > limit);
        if goes && !item.claimed && remove(&item)? {
            total -= item.size;
            pruned.removed.push(item);
        } else {
            pruned.kept.push(item);
        }
    }
    tidy(place, &pruned.kept)
        .with_context(|| format!("cannot tidy {}", place.folder().display()))?;
    Ok(pruned)
}

/// Hashes every content; removes those that are damaged where it is told so. Partial downloads are not looked at: nobody has vouched for them yet.
///
/// # Errors
/// Where the cache cannot be read or locked, a damaged content cannot be removed, or `stop` was requested.
pub fn verify(
    place: &Place,
    remove_damaged: bool,
    stop: &Stop,
    tell: &dyn Fn(u64),
) -> anyhow::Result<Verified> {
    let mut verified = Verified::default();
    for (digest, path) in place.contents().with_context(|| cannot_read(place))? {
        let file = match files::open(&path) {
            // Pruned meanwhile.
            Ok(None) => continue,
            Ok(Some(file)) => file,
            // A build throws it away as well: whose it is makes no difference to who may write to the folder.
            Err(cause) => {
                if remove_damaged {
                    let _meeting = files::hold(place, Hold::Alone)?;
                    files::remove(&path)
                        .with_context(|| format!("cannot remove {}", path.display()))?;
                }
                verified.damaged.push((digest, cause.to_string()));
                continue;
            }
        };
        let problem = match Digests::of(&file, &Key::Sha256(digest), stop) {
            Ok(seen) if seen.sha256 == digest => {
                verified.good += 1;
                verified.bytes += seen.size;
                tell(seen.size);
                continue;
            }
            Ok(seen) => format!("its digest is {}", seen.sha256),
            Err(cause) if stop.requested() => return Err(cause.into()),
            Err(cause) => cause.to_string(),
        };
        if remove_damaged {
            let _meeting = files::hold(place, Hold::Alone)?;
            // Not a good one that has come into its place since.
            if files::lies_at(&file, &path)? {
                files::remove(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        verified.damaged.push((digest, problem));
    }
    Ok(verified)
}

/// The content that a link leads to.
pub(super) fn target(link: &Path) -> Option<Sha256> {
    let target = link.read_link().ok()?;
    let name = target.strip_prefix("../sha256").ok()?.to_str()?;
    Sha256::from_hex(name).ok()
}

/// Writes down what a content is called.
pub(super) fn remember(place: &Place, digest: &Sha256, label: &str) -> io::Result<()> {
    let plain: String = label.chars().filter(|it| !it.is_control()).collect();
    // One write, so that the lines of two builds do not mix.
    let line = format!("{} {plain}\n", digest.hex());
    files::open_to_append(&place.join("names"))?.write_all(line.as_bytes())
}

fn items(place: &Place) -> io::Result<Vec<Item>> {
    let claims = claims(place)?;
    let mut names = names(place)?;
    let mut items = Vec::new();
    for (digest, path) in place.contents()? {
        let metadata = path.symlink_metadata()?;
        items.push(Item {
            key: Key::Sha256(digest),
            partial: false,
            size: metadata.len(),
            used: metadata.modified()?,
            claimed: claims.contains(&Key::Sha256(digest)),
            label: names.remove(&digest),
            path,
        });
    }
    for (key, path) in place.partials()? {
        // One that comes to its end just now is no longer there.
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        items.push(Item {
            partial: true,
            size: metadata.len(),
            used: metadata.modified()?,
            claimed: claims.contains(&key),
            label: None,
            key,
            path,
        });
    }
    items.sort_by(|one, other| (one.used, &one.key).cmp(&(other.used, &other.key)));
    Ok(items)
}

/// The keys that running builds have claimed. The caller holds the lock alone: a file of claims that nobody has locked is a dead build's, and removed.
pub(super) fn claims(place: &Place) -> io::Result<BTreeSet<Key>> {
    let mut claimed = BTreeSet::new();
    for (_, path) in place.runs()? {
        let Some(file) = files::open(&path)? else {
            continue;
        };
        match file.try_lock_shared() {
            Ok(()) => files::remove(&path)?,
            Err(TryLockError::WouldBlock) => {
                let text = files::read(&path, TEXT_LIMIT)?;
                let text = String::from_utf8_lossy(&text);
                claimed.extend(text.lines().filter_map(Key::from_file_name));
            }
            Err(TryLockError::Error(cause)) => return Err(cause),
        }
    }
    for (digits, path) in place.links()? {
        if claimed.contains(&Key::Sha512(digits)) {
            claimed.extend(target(&path).map(Key::Sha256));
        }
    }
    Ok(claimed)
}

/// What contents were called when they came, by their digests.
pub(super) fn names(place: &Place) -> io::Result<BTreeMap<Sha256, String>> {
    let text = files::read(&place.join("names"), TEXT_LIMIT)?;
    let text = String::from_utf8_lossy(&text);
    let pair = |line: &str| {
        let (digest, label) = line.split_once(' ')?;
        // Whoever wrote it: it is shown on a terminal.
        let plain = label.chars().filter(|it| !it.is_control()).take(300);
        Some((Sha256::from_hex(digest).ok()?, plain.collect()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// Whether it could be removed; what a build is writing to cannot.
fn remove(item: &Item) -> anyhow::Result<bool> {
    let attempt = || format!("cannot remove {}", item.path.display());
    if item.partial {
        let Some(file) = files::open_to_lock(&item.path).with_context(attempt)? else {
            return Ok(true);
        };
        match file.try_lock() {
            Ok(()) => files::remove(&item.path).with_context(attempt)?,
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(cause)) => return Err(cause).with_context(attempt),
        }
    } else {
        files::remove(&item.path).with_context(attempt)?;
    }
    Ok(true)
}

/// Takes away links that lead nowhere, and names of what is gone.
fn tidy(place: &Place, kept: &[Item]) -> io::Result<()> {
    for (_, path) in place.links()? {
        if !path.exists() {
            files::remove(&path)?;
        }
    }
    let mut text = String::new();
    for item in kept {
        if let (Key::Sha256(digest), Some(label)) = (&item.key, &item.label) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {label}", digest.hex());
        }
    }
    files::replace(&place.join("names"), &text)
}

fn cannot_read(place: &Place) -> String {
    format!("cannot read the cache {}", place.folder().display())
}
