//! An image as the archive that `docker save` writes and `docker load` reads: `manifest.json`, the image's config and its layers.
//!
//! The same image always gives the same bytes. Members are named by the digests of what they hold, so no name of a pot becomes one.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use bundle_spec::Manifest;
use bundle_spec::manifest::{Blob, Image};
use serde::Serialize;
use tar::{Builder, Header};

/// An image of a pot, not written yet.
#[derive(Debug)]
pub struct DockerArchive<'m> {
    names: &'m [String],
    config: &'m Blob,
    layers: Vec<&'m Blob>,
}

/// The one entry of `manifest.json`, with Docker's own field names.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'m> {
    config: String,
    repo_tags: &'m [String],
    layers: Vec<String>,
}

impl<'m> DockerArchive<'m> {
    /// The archive of `image`; `None` where the manifest does not list all of its blobs, which a manifest that was read never does.
    pub fn new(manifest: &'m Manifest, image: &'m Image) -> Option<Self> {
        let layers = image.layers.iter().map(|layer| manifest.blob(layer));
        Some(Self {
            names: &image.names,
            config: manifest.blob(&image.config)?,
            layers: layers.collect::<Option<_>>()?,
        })
    }

    /// The bytes of the config and the layers; headers and padding come to some kilobytes more.
    pub fn size(&self) -> u64 {
        self.members().map(|(_, blob)| blob.unpacked_size).sum()
    }

    /// Writes the archive; `open` gives the unpacked bytes of a blob.
    ///
    /// # Errors
    /// Where reading or writing fails.
    pub fn write<R: Read>(
        &self,
        out: &mut dyn Write,
        open: impl Fn(&Blob) -> io::Result<R>,
    ) -> io::Result<()> {
        let manifest = serde_json::to_vec(&[Entry {
            config: config_name(self.config),
            repo_tags: self.names,
            layers: self.layers.iter().copied().map(layer_name).collect(),
        }])?;
        let mut builder = Builder::new(out);
        let length = manifest.len() as u64;
        append(&mut builder, "manifest.json", length, &manifest[..])?;
        for (name, blob) in self.members() {
            append(&mut builder, &name, blob.unpacked_size, open(blob)?)?;
        }
        builder.into_inner()?.flush()
    }

    /// The config and the layers, each once: images do hold the same empty layer several times.
    fn members(&self) -> impl Iterator<Item = (String, &'m Blob)> {
        let mut known = BTreeSet::new();
        let layers = self.layers.iter().map(|layer| (layer_name(layer), *layer));
        std::iter::once((config_name(self.config), self.config))
            .chain(layers)
            .filter(move |(name, _)| known.insert(name.clone()))
    }
}

fn config_name(blob: &Blob) -> String {
    format!("{}.json", blob.unpacked_digest.hex())
}

fn layer_name(blob: &Blob) -> String {
    format!("{}.tar", blob.unpacked_digest.hex())
}

fn append(
    builder: &mut Builder<&mut dyn Write>,
    name: &str,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, name, content)
}
