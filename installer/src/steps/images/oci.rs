//! The archive that `ctr images import` reads: an OCI image layout as a ustar stream, with an index that names every image.
//!
//! Layers go in as the pot has them, packed with zstd or gzip, where that is a layer's own packing and this containerd reads it; else unpacked. The manifests are made here, of
//! what the layers are in this archive; an image's ID is the digest of its config, and so the same as everywhere.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use anyhow::Result;
use bundle_spec::manifest::{Blob, Encoding};
use bundle_spec::{Sha256, VerifiedPot};
use serde_json::{Value, json};

use super::tar;
use crate::control_plane::images::qualified;

/// Media types of the OCI image specification 1.0.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// containerd's own annotation for the full name of an image in an index.
const NAME: &str = "io.containerd.image.name";

/// Several images, not yet written.
pub(super) struct OciArchive<'p> {
    reads_zstd: bool,
    /// Descriptors of manifests, one a name.
    index: Vec<Value>,
    members: Vec<Member<'p>>,
    known: BTreeSet<Sha256>,
}

/// A blob of the layout.
struct Member<'p> {
    digest: Sha256,
    content: Content<'p>,
}

enum Content<'p> {
    /// A manifest.
    Made(Vec<u8>),
    /// A blob of the pot, as it is stored.
    Stored(&'p Blob),
    /// A blob of the pot, unpacked.
    Unpacked(&'p Blob),
}

impl<'p> OciArchive<'p> {
    /// An archive for a containerd that reads layers packed with zstd, or does not.
    pub fn new(reads_zstd: bool) -> Self {
        Self {
            reads_zstd,
            index: Vec::new(),
            members: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    /// Adds an image.
    pub fn add(&mut self, config: &'p Blob, names: &[String], layers: &[&'p Blob]) -> Result<()> {
        let config = self.member(config.unpacked_digest, Content::Unpacked(config), CONFIG);
        let layers: Vec<Value> = layers.iter().map(|layer| self.layer(layer)).collect();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
        }))?;
        let digest = Sha256::of(&manifest);
        let descriptor = self.member(digest, Content::Made(manifest), MANIFEST);
        for name in names {
            let mut named = descriptor.clone();
            named["annotations"] = json!({ NAME: qualified(name) });
            self.index.push(named);
        }
        Ok(())
    }

    fn layer(&mut self, blob: &'p Blob) -> Value {
        let packing = match blob.encoding {
            Encoding::Identity => Some(""),
            Encoding::Gzip => Some("+gzip"),
            Encoding::Zstd | Encoding::ZstdFrames if self.reads_zstd => Some("+zstd"),
            // What goes on from another blob can be unpacked here alone.
            Encoding::Zstd | Encoding::ZstdFrames | Encoding::ZstdReference { .. } => None,
        };
        match packing {
            Some(packing) => {
                let kind = format!("{LAYER}{packing}");
                self.member(blob.digest, Content::Stored(blob), &kind)
            }
            None => self.member(blob.unpacked_digest, Content::Unpacked(blob), LAYER),
        }
    }

    /// Takes a blob into the layout, once, and gives its descriptor.
    fn member(&mut self, digest: Sha256, content: Content<'p>, media_type: &str) -> Value {
        let descriptor = json!({
            "mediaType": media_type,
            "digest": digest.to_string(),
            "size": content.size(),
        });
        if self.known.insert(digest) {
            self.members.push(Member { digest, content });
        }
        descriptor
    }

    /// Writes the archive; what is in it comes out of `pot`, and is checked while it streams.
    ///
    /// # Errors
    /// Where reading or writing fails.
    pub fn write(&self, out: &mut dyn Write, pot: &VerifiedPot) -> io::Result<()> {
        tar::small(out, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": self.index,
        });
        tar::small(out, "index.json", &serde_json::to_vec(&index)?)?;
        for member in &self.members {
            let name = format!("blobs/sha256/{}", member.digest.hex());
            let mut content = member.content.open(pot)?;
            tar::large(out, &name, member.content.size(), &mut content)?;
        }
        tar::end(out)
    }
}

impl Content<'_> {
    /// Its bytes in the archive.
    fn size(&self) -> u64 {
        match self {
            Self::Made(bytes) => bytes.len() as u64,
            Self::Stored(blob) => blob.size,
            Self::Unpacked(blob) => blob.unpacked_size,
        }
    }

    fn open<'r>(&'r self, pot: &'r VerifiedPot) -> io::Result<Box<dyn Read + 'r>> {
        Ok(match self {
            Self::Made(bytes) => Box::new(bytes.as_slice()),
            Self::Stored(blob) => {
                Box::new(pot.open_stored(&blob.digest).map_err(io::Error::other)?)
            }
            Self::Unpacked(blob) => {
                Box::new(pot.open_blob(&blob.digest).map_err(io::Error::other)?)
            }
        })
    }
}
