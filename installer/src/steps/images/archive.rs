//! The archive that `docker load` reads: a ustar stream with `manifest.json`, the images' configs and their layers.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use bundle_spec::{BlobReader, Sha256};
use serde::Serialize;

/// Bytes of a tar block.
const BLOCK: usize = 512;

/// The largest size that a ustar header can say: eleven octal digits.
const SIZE_LIMIT: u64 = (1 << 33) - 1;

/// Where the checksum stands in a header.
const CHECKSUM: std::ops::Range<usize> = 148..156;

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
        let manifest = serde_json::to_vec(&self.manifest)?;
        out.write_all(&header("manifest.json", manifest.len() as u64)?)?;
        out.write_all(&manifest)?;
        pad(out, manifest.len() as u64)?;
        let mut buffer = vec![0; 1 << 17];
        for (name, layer) in &self.members {
            out.write_all(&header(name, layer.size)?)?;
            let mut content = open(&layer.blob)?;
            // The reader never yields more or fewer bytes than the signed size without an error.
            loop {
                match content.read(&mut buffer)? {
                    0 => break,
                    length => out.write_all(&buffer[..length])?,
                }
            }
            pad(out, layer.size)?;
        }
        out.write_all(&[0; 2 * BLOCK])?;
        out.flush()
    }
}

/// The ustar header of a regular file.
fn header(name: &str, size: u64) -> io::Result<[u8; BLOCK]> {
    if size > SIZE_LIMIT {
        return Err(io::Error::other(format!(
            "{name} has {size} bytes, more than docker load takes in one file of a plain tar"
        )));
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    // The checksum is taken with blanks in its own place.
    put(CHECKSUM.start, &[b' '; 8]);
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    if over == 0 {
        return Ok(());
    }
    out.write_all(&[0; BLOCK][over..])
}
