//! What was fetched once, kept for the next build: by its digest, shared between builds, and believed by none.
//!
//! What is guaranteed: a content is handed out only after all of its bytes were hashed in this very run; one that is damaged is thrown away, said in a line, and fetched
//! anew. A content lies in its place whole or not at all, whatever ends a build, and several builds may work with one cache: they fetch a content once, the others wait
//! for it. A download that breaks off, SIGKILL included, stays as a partial file, and the next run goes on where it ended; whatever that run gets besides is hashed with it.
//! What a running build uses is claimed, so that `prune` leaves it alone. Nothing depends on the cache: without it the same pot is made.
//!
//! Only contents whose digest is known before they are fetched are kept, so none is ever out of date. What was published under a name (checksum files, manifests by
//! tag, version markers) is asked for in every run.

mod digests;
mod files;
pub mod place;
pub mod shelf;
pub mod stock;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use bundle_spec::Sha256;

use crate::fetch::http::Saved;
use crate::fetch::{FetchError, Stop};
use crate::progress::{Task, bytes};
use digests::Digests;
use files::Hold;
use place::{Key, Place};

/// How long another build may be without a byte before a content that it fetches is fetched here as well, unless a test is less patient.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often another build's download is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// The cache, as a build uses it.
pub struct Cache {
    place: Place,
    stop: Stop,
    patience: Duration,
    /// Where the claims lie.
    run: PathBuf,
    /// What this build uses, a key in each line. Locked as long as the build runs.
    claims: Mutex<File>,
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The digest that it must have.
    pub key: &'a Key,
    /// Its size in bytes, where it is known.
    pub size: Option<u64>,
    /// What people call it.
    pub label: &'a str,
}

/// Where something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// It was in the cache.
    Cache,
    /// The network, all of it or what a partial download lacked.
    Network,
}

/// A content that has the digest that was wanted.
#[derive(Debug)]
pub struct Obtained {
    /// Its bytes.
    pub file: File,
    /// Their number.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: Sha256,
    /// Where they came from.
    pub origin: Origin,
}

/// Downloads a content into the file that it asks for, which may hold the content's beginning, and compares the digest.
pub type Fetcher<'a> = &'a dyn Fn(&dyn Fn() -> io::Result<File>) -> Result<Saved, FetchError>;

/// A partial file.
enum Partial {
    /// Ours to go on with.
    Ours(File),
    /// Another build is at it, and is so far.
    Others(u64),
}

impl Cache {
    /// The cache in `place` for a build that ends when `stop` is requested.
    ///
    /// # Errors
    /// Where its folder cannot be made, written to or locked.
    pub fn open(place: Place, stop: Stop) -> anyhow::Result<Self> {
        let attempt = || {
            format!(
                "cannot use the cache {}; name another folder with --cache, or build with --no-cache",
                place.folder().display()
            )
        };
        files::make(&place).with_context(attempt)?;
        // Alone with the cache: a file of claims that nobody has locked is a dead build's, and removed, by the next build too.
        let meeting = files::hold(&place, Hold::Alone)?;
        stock::claims(&place).with_context(attempt)?;
        let (claims, run) = tempfile::Builder::new()
            .prefix("run-")
            .tempfile_in(place.join("runs"))
            .and_then(|file| Ok(file.keep()?))
            .with_context(attempt)?;
        claims
            .try_lock()
            .map_err(io::Error::from)
            .with_context(attempt)?;
        drop(meeting);
        Ok(Self {
            place,
            stop,
            patience: PATIENCE,
            run,
            claims: Mutex::new(claims),
        })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.place.folder()
    }

    /// The content that is wanted: out of the cache if it is there and good, else downloaded into it.
    ///
    /// # Errors
    /// Where it cannot be had, or the cache cannot be written to.
    pub fn obtain(
        &self,
        wanted: Wanted<'_>,
        task: &Task,
        download: Fetcher<'_>,
    ) -> anyhow::Result<Obtained> {
        self.claim(wanted.key)?;
        let mut waiting: Option<(u64, Instant)> = None;
        loop {
            if let Some(found) = self.find(wanted, task)? {
                return Ok(found);
            }
            let length = match self.begin(wanted.key)? {
                Partial::Ours(partial) => {
                    // It may have come to its end, in another build, after the look above.
                    if let Some(found) = self.find(wanted, task)? {
                        files::remove(&self.place.partial(wanted.key))?;
                        return Ok(found);
                    }
                    return self.fetch(wanted, &partial, task, download);
                }
                Partial::Others(length) => length,
            };
            match waiting {
                Some((before, since)) if before == length => {
                    if since.elapsed() > self.patience {
                        return self.fetch_apart(wanted, task, download);
                    }
                }
                before => {
                    if before.is_none() {
                        task.note("another kpot is fetching it; waiting for that one");
                    }
                    waiting = Some((length, Instant::now()));
                }
            }
            if self.stop.requested() {
                bail!("given up");
            }
            thread::sleep(PAUSE);
        }
    }

    /// A small content, where it is in the cache and has no more than `limit` bytes.
    ///
    /// # Errors
    /// Where the cache cannot be used.
    pub fn read(
        &self,
        wanted: Wanted<'_>,
        limit: u64,
        task: &Task,
    ) -> anyhow::Result<Option<Vec<u8>>> {
        self.claim(wanted.key)?;
        let Some(found) = self.find(wanted, task)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        let mut file = found.file;
        file.rewind()?;
        file.take(limit).read_to_end(&mut content)?;
        // Hashed as what was read: between the two readings it may have become another, and it may be larger.
        let same = Sha256::of(&content) == found.sha256;
        Ok(same.then_some(content))
    }

    /// Keeps a small content that was fetched and checked; leaves it where another build is just doing so.
    ///
    /// # Errors
    /// Where the cache cannot be written to.
    pub fn write(&self, wanted: Wanted<'_>, content: &[u8]) -> anyhow::Result<()> {
        let Partial::Ours(mut partial) = self.begin(wanted.key)? else {
            return Ok(());
        };
        let written = partial
            .set_len(0)
            .and_then(|()| partial.rewind())
            .and_then(|()| partial.write_all(content));
        written.with_context(|| self.cannot_write())?;
        self.commit(wanted, &partial, Sha256::of(content))
    }

    /// Says that this build uses a content, before it is looked for.
    fn claim(&self, key: &Key) -> anyhow::Result<()> {
        // Not while somebody prunes: either that one sees the claim, or we see what is left.
        let _meeting = files::hold(&self.place, Hold::Shared)?;
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(claims, "{}", key.file_name()).with_context(|| self.cannot_write())
    }

    /// The content in the cache, if it is there and good. A damaged one is thrown away.
    fn find(&self, wanted: Wanted<'_>, task: &Task) -> anyhow::Result<Option<Obtained>> {
        let digest = match wanted.key {
            Key::Sha256(digest) => *digest,
            Key::Sha512(digits) => match stock::target(&self.place.link(digits)) {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let path = self.place.content(&digest);
        let problem = match files::open(&path) {
            Ok(None) => return Ok(None),
            Ok(Some(file)) => match Digests::of(&file, wanted.key, &self.stop) {
                Ok(seen) if seen.match_key(wanted.key) => {
                    // Prune takes what was not used for the longest time; where the time cannot be set, it takes this one too early.
                    let _ = file.set_modified(SystemTime::now());
                    return Ok(Some(Obtained {
                        file,
                        size: seen.size,
                        sha256: seen.sha256,
                        origin: Origin::Cache,
                    }));
                }
                Ok(seen) => format!("its digest is {}", seen.shown()),
                Err(_) if self.stop.requested() => bail!("given up"),
                Err(cause) => cause.to_string(),
            },
            Err(cause) => cause.to_string(),
        };
        task.note(&format!(
            "what the cache has of it is damaged ({problem}) and thrown away; it is fetched anew"
        ));
        files::remove(&path).with_context(|| {
            format!(
                "cannot throw {} away; remove it, or build with --no-cache",
                path.display()
            )
        })?;
        Ok(None)
    }

    /// The partial file of a content, unless another build has it.
    fn begin(&self, key: &Key) -> anyhow::Result<Partial> {
        let path = self.place.partial(key);
        let attempt = || format!("cannot use {}", path.display());
        loop {
            let file = files::open_or_make(&path).with_context(attempt)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Ok(Partial::Others(
                        file.metadata().with_context(attempt)?.len(),
                    ));
                }
                Err(std::fs::TryLockError::Error(cause)) => {
                    return Err(cause).with_context(attempt);
                }
            }
            // Between the two, another build may have finished it, and prune may have removed it.
            if files::lies_at(&file, &path).with_context(attempt)? {
                return Ok(Partial::Ours(file));
            }
        }
    }

    /// Downloads the content, going on with what `partial` holds.
    fn fetch(
        &self,
        wanted: Wanted<'_>,
        partial: &File,
        task: &Task,
        download: Fetcher<'_>,
    ) -> anyhow::Result<Obtained> {
        let path = self.place.partial(wanted.key);
        let mut begun = partial
            .metadata()
            .with_context(|| self.cannot_write())?
            .len();
        let may_be_whole = begun > 0 && wanted.size.is_none_or(|size| size <= begun);
        if may_be_whole {
            let seen = Digests::of(partial, wanted.key, &self.stop)
                .with_context(|| format!("cannot read {}", path.display()))?;
            if seen.match_key(wanted.key) {
                self.commit(wanted, partial, seen.sha256)?;
                return Ok(Obtained {
                    file: partial.try_clone()?,
                    size: seen.size,
                    sha256: seen.sha256,
                    origin: Origin::Cache,
                });
            }
            if wanted.size.is_some() {
                partial.set_len(0).with_context(|| self.cannot_write())?;
                begun = 0;
            }
        }
        if begun > 0 {
            task.note(&format!(
                "going on after the {} that an earlier run fetched",
                bytes(begun)
            ));
        }
        let mut outcome = download(&|| partial.try_clone());
        if begun > 0 && outcome.as_ref().is_err_and(FetchError::is_wrong_content) {
            task.note("what an earlier run fetched does not fit; fetching all of it");
            partial.set_len(0).with_context(|| self.cannot_write())?;
            task.restart();
            outcome = download(&|| partial.try_clone());
        }
        match outcome {
            Ok(saved) => {
                self.commit(wanted, partial, saved.sha256)?;
                Ok(saved.into())
            }
            Err(error) => {
                let empty = partial.metadata().is_ok_and(|metadata| metadata.len() == 0);
                if empty || error.is_wrong_content() {
                    // What is left is found by prune.
                    let _ = files::remove(&path);
                }
                Err(error.into())
            }
        }
    }

    /// Downloads the content for this build alone, because another one does not come on with it.
    fn fetch_apart(
        &self,
        wanted: Wanted<'_>,
        task: &Task,
        download: Fetcher<'_>,
    ) -> anyhow::Result<Obtained> {
        task.note(&format!(
            "another kpot has fetched nothing of it for {} s; fetching it here as well",
            self.patience.as_secs()
        ));
        let folder = self.place.join("partial");
        let saved = download(&|| tempfile::tempfile_in(&folder))
            .with_context(|| format!("{} is not put into the cache", wanted.label))?;
        Ok(saved.into())
    }

    /// Makes a content out of its partial file, which is ours and was checked.
    fn commit(&self, wanted: Wanted<'_>, partial: &File, digest: Sha256) -> anyhow::Result<()> {
        partial.sync_all().with_context(|| self.cannot_write())?;
        // Not while somebody prunes, and takes away links that lead nowhere.
        let meeting = files::hold(&self.place, Hold::Shared)?;
        // The link first: whatever ends a build before the content is in its place, the partial file is still there, and a link that leads nowhere is none.
        if let Key::Sha512(digits) = wanted.key {
            let target = Path::new("../sha256").join(digest.hex());
            files::link(&self.place.link(digits), &target).with_context(|| self.cannot_write())?;
        }
        let (from, to) = (self.place.partial(wanted.key), self.place.content(&digest));
        files::put(&from, &to).with_context(|| self.cannot_write())?;
        drop(meeting);
        stock::remember(&self.place, &digest, wanted.label).with_context(|| self.cannot_write())?;
        // From now on it is a content, which nobody locks. That of a clone ends with the last of them.
        partial.unlock().with_context(|| self.cannot_write())
    }

    fn cannot_write(&self) -> String {
        format!(
            "cannot write to the cache {}; make room on its disk (kpot cache prune), name another folder with --cache, or build with --no-cache",
            self.place.folder().display()
        )
    }
}

impl Drop for Cache {
    /// Takes the claims back; where that fails, prune finds that nobody holds them.
    fn drop(&mut self) {
        let _ = files::remove(&self.run);
    }
}

impl From<Saved> for Obtained {
    fn from(saved: Saved) -> Self {
        Self {
            file: saved.file,
            size: saved.size,
            sha256: saved.sha256,
            origin: Origin::Network,
        }
    }
}

#[cfg(test)]
mod tests;
