//! The archive that `docker load` reads: a ustar stream with `manifest.json`, the images' configs and their layers.

use std::collections::BTreeSet;
use std::io::{self, Write};

use bundle_spec::{BlobReader, Sha256};
use serde::Serialize;

use super::tar;

/// A blob of the pot as a member of the archive.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// The blob.
    pub blob: Sha256,
    /// The digest of its unpacked bytes, which names the member.
    pub diff_id: Sha256,
    /// Its unpacked bytes.
    pub size: u64,
}

/// Several images, not yet written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    manifest: Vec<Entry>,
    members: Vec<(String, Layer)>,
    known: BTreeSet<Sha256>,
}

/// One image in `manifest.json`, with Docker's own field names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl Archive {
    /// Adds an image.
    pub fn add(&mut self, config: Layer, names: Vec<String>, layers: Vec<Layer>) {
        let config = self.member(config, "json");
        let layers = layers
            .into_iter()
            .map(|layer| self.member(layer, "tar"))
            .collect();
        self.manifest.push(Entry {
            config,
            repo_tags: names,
            layers,
        });
    }

    fn member(&mut self, layer: Layer, kind: &str) -> String {
        let name = format!("{}.{kind}", layer.diff_id.hex());
        if self.known.insert(layer.diff_id) {
            self.members.push((name.clone(), layer));
        }
        name
    }

    /// Writes the archive; `open` gives the unpacked bytes of a blob.
    ///
    /// # Errors
    /// Where reading or writing fails, or a layer is larger than a ustar member can be (8 GiB).
    pub fn write<'p>(
        &self,
        out: &mut dyn Write,
        open: &dyn Fn(&Sha256) -> io::Result<BlobReader<'p>>,
    ) -> io::Result<()> {
        tar::small(out, "manifest.json", &serde_json::to_vec(&self.manifest)?)?;
        for (name, layer) in &self.members {
            // The reader never yields more or fewer bytes than the signed size without an error.
            tar::large(out, name, layer.size, &mut open(&layer.blob)?)?;
        }
        tar::end(out)
    }
}
