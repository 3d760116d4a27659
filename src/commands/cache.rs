//! `kpot cache list`, `prune` and `verify`

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bundle_spec::Sha256;
use serde::Serialize;

use super::{lossy, print, print_json};
use crate::cache::place::{Key, Place};
use crate::cache::stock::{self, Item, Limits};
use crate::cli::{Cache, CacheList, CachePrune, CacheVerify};
use crate::fetch::Stop;
use crate::progress::{Progress, bytes};
use crate::table;

/// What was not used for this long goes where nothing else is said.
const AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

#[derive(Serialize)]
struct Listed<'a> {
    #[serde(serialize_with = "lossy")]
    folder: &'a Path,
    size: u64,
    entries: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Pruned<'a> {
    #[serde(serialize_with = "lossy")]
    folder: &'a Path,
    /// In bytes.
    freed: u64,
    /// In bytes.
    kept: u64,
    removed: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    digest: String,
    partial: bool,
    size: u64,
    /// In seconds since 1970.
    used: u64,
    in_use: bool,
    label: Option<&'a str>,
}

#[derive(Serialize)]
struct Verified<'a> {
    #[serde(serialize_with = "lossy")]
    folder: &'a Path,
    good: usize,
    /// Of those that are good, in bytes.
    size: u64,
    damaged: Vec<Damaged<'a>>,
    removed: bool,
}

#[derive(Serialize)]
struct Damaged<'a> {
    digest: Sha256,
    problem: &'a str,
}

pub(super) fn run(command: &Cache) -> anyhow::Result<()> {
    match command {
        Cache::List(command) => list(command),
        Cache::Prune(command) => prune(command),
        Cache::Verify(command) => verify(command),
    }
}

fn list(command: &CacheList) -> anyhow::Result<()> {
    let place = Place::find(command.cache.clone())?;
    let items = stock::list(&place)?;
    if command.json {
        return print_json(&Listed {
            folder: place.folder(),
            size: size(&items),
            entries: items.iter().map(entry).collect(),
        });
    }
    let now = SystemTime::now();
    let row = |item: &Item| {
        vec![
            short(&item.key),
            bytes(item.size),
            ago(now, item.used),
            state(item).to_owned(),
            item.label.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    let table = table::layout(&["DIGEST", "SIZE", "USED", "STATE", "WHAT"], &rows);
    print(&format!(
        "{}{}: {} in {}\n",
        if rows.is_empty() { "" } else { &table },
        place.folder().display(),
        bytes(size(&items)),
        count(items.len())
    ))
}

fn prune(command: &CachePrune) -> anyhow::Result<()> {
    let place = Place::find(command.cache.clone())?;
    let said = command.older_than.is_some() || command.max_size.is_some();
    let age = command.older_than.map(|age| age.0);
    let limits = Limits {
        age: if said { age } else { Some(AGE) },
        size: command.max_size.map(|size| size.0),
    };
    let pruned = stock::prune(&place, limits, SystemTime::now())?;
    if command.json {
        return print_json(&Pruned {
            folder: place.folder(),
            freed: size(&pruned.removed),
            kept: size(&pruned.kept),
            removed: pruned.removed.iter().map(entry).collect(),
        });
    }
    let used = pruned.kept.iter().filter(|item| item.claimed).count();
    let used = match used {
        0 => String::new(),
        _ => format!(", {used} of them used by a running build"),
    };
    print(&format!(
        "{}: freed {} in {}; kept {} in {}{used}\n",
        place.folder().display(),
        bytes(size(&pruned.removed)),
        count(pruned.removed.len()),
        bytes(size(&pruned.kept)),
        count(pruned.kept.len()),
    ))
}

fn verify(command: &CacheVerify) -> anyhow::Result<()> {
    let place = Place::find(command.cache.clone())?;
    let progress = Progress::new();
    let task = progress.task("checking the cache", None);
    let verified = stock::verify(&place, command.remove, &Stop::default(), &|size| {
        task.advance(size);
    })?;
    drop(task);
    let damaged = verified.damaged.len();
    if command.json {
        print_json(&Verified {
            folder: place.folder(),
            good: verified.good,
            size: verified.bytes,
            damaged: verified
                .damaged
                .iter()
                .map(|(digest, problem)| Damaged {
                    digest: *digest,
                    problem,
                })
                .collect(),
            removed: command.remove,
        })?;
    } else {
        let mut text = String::new();
        for (digest, problem) in &verified.damaged {
            let what = if command.remove {
                "damaged and removed"
            } else {
                "damaged"
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{digest}: {what}: {problem}");
        }
        let _ = writeln!(
            text,
            "{}: {} in {} good, {damaged} damaged",
            place.folder().display(),
            bytes(verified.bytes),
            count(verified.good)
        );
        print(&text)?;
    }
    if damaged == 0 || command.remove {
        Ok(())
    } else {
        Err(anyhow::anyhow!(
            "{} damaged; a build that needs it fetches it anew. To remove it now: kpot cache verify --remove",
            count(damaged)
        ))
    }
}

fn entry(item: &Item) -> Entry<'_> {
    let since = item.used.duration_since(SystemTime::UNIX_EPOCH);
    Entry {
        digest: digest(&item.key),
        partial: item.partial,
        size: item.size,
        used: since.unwrap_or_default().as_secs(),
        in_use: item.claimed,
        label: item.label.as_deref(),
    }
}

fn size(items: &[Item]) -> u64 {
    items.iter().map(|item| item.size).sum()
}

fn digest(key: &Key) -> String {
    match key {
        Key::Sha256(digest) => digest.to_string(),
        Key::Sha512(digits) => format!("sha512:{digits}"),
    }
}

/// As much of it as tells two apart.
fn short(key: &Key) -> String {
    digest(key).chars().take("sha256:".len() + 16).collect()
}

fn state(item: &Item) -> &'static str {
    match (item.partial, item.claimed) {
        (false, false) => "whole",
        (false, true) => "whole, in use",
        (true, false) => "partial",
        (true, true) => "partial, in use",
    }
}

fn count(items: usize) -> String {
    if items == 1 {
        "1 entry".to_owned()
    } else {
        format!("{items} entries")
    }
}

/// How long ago, in the largest unit that fits.
fn ago(now: SystemTime, then: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    for (unit, length) in [("d", 24 * 60 * 60), ("h", 60 * 60), ("min", 60)] {
        if seconds >= length {
            return format!("{} {unit} ago", seconds / length);
        }
    }
    "just now".to_owned()
}
