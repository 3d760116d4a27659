//! Pots that are wrong in one way: made of a good one, for what must be refused.
//!
//! A forged pot is a well-formed one that says something else, signed or not; a damaged one is a good one with its bytes
//! changed. All are written into a folder of this machine.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bundle_spec::{BlobSource, Manifest, PotParts, Sha256, SigningKey, write_pot};

use crate::pot::Pot;
use crate::sh::{self, Sh};

/// A good pot, unpacked on this machine.
pub struct Mint {
    folder: PathBuf,
    installer: Vec<u8>,
    readme: String,
    manifest: Manifest,
    pot: PathBuf,
}

struct Unpacked(PathBuf);

impl BlobSource for Unpacked {
    fn open(&self, digest: &Sha256) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::open(
            self.0.join("blobs/sha256").join(digest.hex()),
        )?))
    }
}

impl Mint {
    /// Unpacks the pot into a folder, which is emptied first.
    pub fn new(pot: &Pot, folder: &Path) -> Result<Self> {
        sh::remove(folder)?;
        sh::make_dirs(folder)?;
        Sh::new("tar")
            .arg("-xf")
            .arg(&pot.file)
            .arg("-C")
            .arg(folder)
            .run()?;
        Ok(Self {
            installer: sh::read_bytes(&folder.join("kpot-install"))?,
            readme: sh::read_text(&folder.join("README.txt"))?,
            manifest: Manifest::decode(&sh::read_bytes(&folder.join("manifest.json"))?)?,
            folder: folder.to_owned(),
            pot: pot.file.clone(),
        })
    }

    /// A pot that says something else; signed by the key, or not at all.
    pub fn forge(
        &self,
        name: &str,
        key: Option<&SigningKey>,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<PathBuf> {
        let mut manifest = self.manifest.clone();
        change(&mut manifest);
        drop_unused_blobs(&mut manifest);
        let path = self.folder.join(name);
        let mut file = sh::create(&path)?;
        let parts = PotParts {
            installer: &self.installer,
            readme: &self.readme,
            manifest: &manifest,
            blobs: &Unpacked(self.folder.clone()),
            signer: key,
        };
        write_pot(&mut file, &parts).with_context(|| format!("writing {}", path.display()))?;
        file.flush()
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// The pot with one bit of the byte in its middle flipped: within a blob, and known to nobody but its digest.
    pub fn flipped(&self, name: &str) -> Result<PathBuf> {
        let mut bytes = sh::read_bytes(&self.pot)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.keep(name, &bytes)
    }

    /// The first half of the pot.
    pub fn truncated(&self, name: &str) -> Result<PathBuf> {
        let bytes = sh::read_bytes(&self.pot)?;
        self.keep(name, &bytes[..bytes.len() / 2])
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        ensure!(!bytes.is_empty(), "the pot {} is empty", self.pot.display());
        let path = self.folder.join(name);
        sh::write_atomic(&path, bytes, 0o644)?;
        Ok(path)
    }
}

/// A manifest that lists a blob which nothing refers to is refused when it is written.
fn drop_unused_blobs(manifest: &mut Manifest) {
    let files = manifest
        .artifacts
        .iter()
        .flat_map(|artifact| artifact.files.iter().map(|file| file.blob));
    let images = manifest
        .images
        .iter()
        .flat_map(|image| image.layers.iter().copied().chain([image.config]));
    let used: std::collections::BTreeSet<Sha256> = files.chain(images).collect();
    manifest.blobs.retain(|blob| used.contains(&blob.digest));
}
