//! What was packed so far, by its unpacked digest.
//!
//! A content can be wanted in two ways: as it is, and as what differs from a reference. Which way gets into the pot is decided by a rule and not by what arrived first.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use anyhow::anyhow;
use bundle_spec::Sha256;
use bundle_spec::manifest::{Blob, Encoding};

/// How a content was packed. The earlier variant is the better one where there are two: it can be unpacked with less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// As it is.
    Identity,
    /// As a zstd frame of its own.
    Zstd,
    /// As a zstd frame behind the content with this unpacked digest.
    Against(Sha256),
    /// As gzip members that somebody else made.
    Gzip,
    /// As zstd frames that somebody else made.
    ZstdFrames,
}

/// In which way a content is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// On its own.
    Alone,
    /// Against the content with this digest.
    Against(Sha256),
    /// Against the one reference of all that has none of its own.
    Common,
    /// With these stored bytes, as its registry has it.
    AsStored(Sha256),
}

/// A content that was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The digest of its stored bytes.
    pub digest: Sha256,
    /// Stored bytes.
    pub size: u64,
    /// How it was packed.
    pub packing: Packing,
    /// The digest of its unpacked bytes.
    pub unpacked_digest: Sha256,
    /// Unpacked bytes.
    pub unpacked_size: u64,
}

/// The blobs of a pot that is being made.
#[derive(Default)]
pub struct Blobs {
    /// Unpacked digests that are packed or on their way, and in which way.
    taken: HashSet<(Sha256, Way)>,
    packed: HashMap<Sha256, Packed>,
    /// What stays as it was stored elsewhere, by its stored digest: one content may be stored in several ways.
    kept: HashMap<Sha256, Packed>,
}

impl Blobs {
    /// Whether the caller is the first who wants to pack this content in this way, and so the one who does it.
    pub fn take(&mut self, unpacked: Sha256, way: Way) -> bool {
        self.taken.insert((unpacked, way))
    }

    /// How many contents are packed or on their way.
    pub fn count(&self) -> usize {
        self.taken.len()
    }

    /// Adds a content that stays as it was stored elsewhere.
    pub fn keep(&mut self, packed: Packed) {
        self.kept.insert(packed.digest, packed);
    }

    /// Adds a content; the better way stays of one that is there already.
    pub fn add(&mut self, packed: Packed) {
        let rank = |packed: &Packed| (packed.packing, packed.digest);
        match self.packed.entry(packed.unpacked_digest) {
            Entry::Vacant(place) => {
                place.insert(packed);
            }
            Entry::Occupied(mut place) if rank(&packed) < rank(place.get()) => {
                place.insert(packed);
            }
            Entry::Occupied(_) => {}
        }
    }

    /// What the manifest says of a content.
    ///
    /// # Errors
    /// Where it, or its reference, was not packed.
    pub fn describe(&self, unpacked: &Sha256) -> anyhow::Result<Blob> {
        self.blob(self.find(unpacked)?)
    }

    /// What the manifest says of a content that stays as it was stored elsewhere.
    ///
    /// # Errors
    /// Where there is none with these stored bytes.
    pub fn describe_kept(&self, stored: &Sha256) -> anyhow::Result<Blob> {
        let kept = self.kept.get(stored);
        self.blob(kept.ok_or_else(|| anyhow!("the blob {stored} was not kept"))?)
    }

    fn blob(&self, packed: &Packed) -> anyhow::Result<Blob> {
        Ok(Blob {
            digest: packed.digest,
            size: packed.size,
            encoding: match packed.packing {
                Packing::Identity => Encoding::Identity,
                Packing::Zstd => Encoding::Zstd,
                Packing::Gzip => Encoding::Gzip,
                Packing::ZstdFrames => Encoding::ZstdFrames,
                Packing::Against(reference) => Encoding::ZstdReference {
                    reference: self.find(&reference)?.digest,
                },
            },
            unpacked_digest: packed.unpacked_digest,
            unpacked_size: packed.unpacked_size,
        })
    }

    fn find(&self, unpacked: &Sha256) -> anyhow::Result<&Packed> {
        self.packed
            .get(unpacked)
            .ok_or_else(|| anyhow!("the content {unpacked} was not packed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(content: &[u8], packing: Packing, stored: &[u8]) -> Packed {
        Packed {
            digest: Sha256::of(stored),
            size: stored.len() as u64,
            packing,
            unpacked_digest: Sha256::of(content),
            unpacked_size: content.len() as u64,
        }
    }

    #[test]
    fn the_better_way_to_pack_a_content_wins_whichever_came_first() {
        let content = b"a program";
        let id = Sha256::of(content);
        let ways = [
            packed(content, Packing::Identity, content),
            packed(content, Packing::Zstd, b"zstd"),
            packed(content, Packing::Against(Sha256::of(b"r")), b"from r"),
            packed(content, Packing::Against(Sha256::of(b"s")), b"from s"),
        ];
        for (index, better) in ways.iter().enumerate() {
            for worse in &ways[index + 1..] {
                let described = [[better, worse], [worse, better]].map(|order| {
                    let mut blobs = Blobs::default();
                    for reference in [b"r", b"s"] {
                        blobs.add(packed(reference, Packing::Zstd, &[reference[0], b'z']));
                    }
                    for way in order {
                        blobs.add(*way);
                    }
                    blobs.describe(&id).unwrap()
                });
                assert_eq!(described[0], described[1]);
                if !matches!(better.packing, Packing::Against(_)) {
                    assert_eq!(described[0].digest, better.digest);
                }
            }
        }
    }

    #[test]
    fn a_reference_is_named_by_its_stored_digest_and_must_be_there() {
        let mut blobs = Blobs::default();
        let reference = packed(b"reference", Packing::Zstd, b"stored");
        let other = packed(
            b"other",
            Packing::Against(reference.unpacked_digest),
            b"less",
        );
        blobs.add(other);
        assert!(blobs.describe(&other.unpacked_digest).is_err());
        blobs.add(reference);
        assert_eq!(
            blobs.describe(&other.unpacked_digest).unwrap().encoding,
            Encoding::ZstdReference {
                reference: reference.digest
            }
        );
    }

    #[test]
    fn a_content_that_stays_as_it_was_stored_does_so_in_each_way_that_it_has() {
        let content = b"a layer";
        let id = Sha256::of(content);
        let mut blobs = Blobs::default();
        let ways = [
            packed(content, Packing::Gzip, b"gzip"),
            packed(content, Packing::Gzip, b"gzip, otherwise"),
            packed(content, Packing::ZstdFrames, b"zstd"),
        ];
        blobs.add(packed(content, Packing::Zstd, b"our own"));
        for way in ways {
            blobs.keep(way);
        }
        for way in ways {
            assert_eq!(blobs.describe_kept(&way.digest).unwrap().digest, way.digest);
        }
        assert_eq!(blobs.describe(&id).unwrap().encoding, Encoding::Zstd);
        assert!(blobs.describe_kept(&id).is_err());
    }

    #[test]
    fn each_way_to_pack_a_content_is_taken_once() {
        let mut blobs = Blobs::default();
        let (content, reference) = (Sha256::of(b"content"), Sha256::of(b"reference"));
        for way in [
            Way::Alone,
            Way::Against(reference),
            Way::Common,
            Way::AsStored(reference),
        ] {
            assert!(blobs.take(content, way));
            assert!(!blobs.take(content, way));
        }
        assert_eq!(blobs.count(), 4);
    }
}
