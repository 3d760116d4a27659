//! What lies in the cache, at a glance: for a plan, which changes nothing. Nothing is locked, hashed, claimed or written, so it may be gone, or found to be damaged, by
//! the time that a build looks for it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use bundle_spec::Sha256;

use super::place::Place;
use super::stock;

/// What lies in the cache.
#[derive(Debug, Default)]
pub struct Shelf {
    sizes: BTreeMap<Sha256, u64>,
    called: BTreeMap<String, BTreeSet<u64>>,
}

impl Shelf {
    /// Looks at the cache; where none is, nothing lies in it.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn look(place: &Place) -> anyhow::Result<Self> {
        let attempt = || format!("cannot read the cache {}", place.folder().display());
        let mut shelf = Self::default();
        for (digest, path) in place.contents().with_context(attempt)? {
            // Pruned meanwhile.
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            shelf.sizes.insert(digest, metadata.len());
        }
        for (digest, name) in stock::names(place).with_context(attempt)? {
            if let Some(size) = shelf.sizes.get(&digest) {
                shelf.called.entry(name).or_default().insert(*size);
            }
        }
        Ok(shelf)
    }

    /// The size of a content in bytes, if it is there.
    pub fn size(&self, digest: &Sha256) -> Option<u64> {
        self.sizes.get(digest).copied()
    }

    /// Whether something came under this name and has so many bytes: as much as can be said of what only its publisher's checksum vouches for, which is not asked for here.
    pub fn has(&self, name: &str, size: u64) -> bool {
        self.called
            .get(name)
            .is_some_and(|sizes| sizes.contains(&size))
    }
}
