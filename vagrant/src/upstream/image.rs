//! Container images made by hand, without a container runtime: layers, configurations, and the archive that
//! `docker load` reads.
//!
//! The same content gives the same bytes, hence the same image IDs, on any machine: members are sorted, owned by root
//! and dated to the epoch. Layers that several images share are stored once.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bundle_spec::Hasher;
use serde_json::json;

use crate::sh;

/// What is in a layer, or in another archive: paths without a leading slash, each with its content.
#[derive(Debug, Default, Clone)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Folder(u32),
    File { source: PathBuf, mode: u32 },
    Bytes { bytes: Vec<u8>, mode: u32 },
    Link(String),
}

/// One layer: an uncompressed tar in a file.
#[derive(Debug, Clone)]
pub struct Layer {
    /// SHA-256 of the tar, in hex.
    diff_id: String,
    file: PathBuf,
}

/// An image, ready to be packed.
#[derive(Debug)]
pub struct Image {
    /// Its whole name, as `k8s.gcr.io/pause:3.2`.
    pub name: String,
    id: String,
    config: Vec<u8>,
    layers: Vec<Layer>,
}

/// How a container of an image starts.
#[derive(Debug, Default)]
pub struct Start<'a> {
    /// The program and its fixed arguments.
    pub entrypoint: &'a [&'a str],
    /// Arguments that a pod may replace.
    pub command: &'a [&'a str],
}

impl Tree {
    /// Adds a folder with this mode; folders above a file need not be added.
    pub fn folder(&mut self, path: &str, mode: u32) -> &mut Self {
        self.entries.insert(path.to_owned(), Entry::Folder(mode));
        self
    }

    /// Adds a copy of a file of this machine.
    pub fn file(&mut self, path: &str, source: &Path, mode: u32) -> &mut Self {
        self.entries.insert(
            path.to_owned(),
            Entry::File {
                source: source.to_owned(),
                mode,
            },
        );
        self
    }

    /// Adds a file with these bytes.
    pub fn bytes(&mut self, path: &str, bytes: &[u8], mode: u32) -> &mut Self {
        self.entries.insert(
            path.to_owned(),
            Entry::Bytes {
                bytes: bytes.to_owned(),
                mode,
            },
        );
        self
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.entries
            .insert(path.to_owned(), Entry::Link(target.to_owned()));
        self
    }

    /// Adds everything below a folder of this machine that `wanted` takes, asked with each path below it. Modes and
    /// links are kept, owners are not.
    pub fn copy_of(&mut self, root: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<&mut Self> {
        self.copy_below(root, "", wanted)?;
        Ok(self)
    }

    fn copy_below(
        &mut self,
        root: &Path,
        below: &str,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<()> {
        for name in sh::names_in(&root.join(below))? {
            let path = if below.is_empty() {
                name
            } else {
                format!("{below}/{name}")
            };
            if !wanted(&path) {
                continue;
            }
            let source = root.join(&path);
            let meta = fs::symlink_metadata(&source)
                .with_context(|| format!("reading {}", source.display()))?;
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                self.folder(&path, mode);
                self.copy_below(root, &path, wanted)?;
            } else if meta.is_symlink() {
                let target = fs::read_link(&source)
                    .with_context(|| format!("reading {}", source.display()))?;
                self.link(&path, &target.to_string_lossy());
            } else {
                self.file(&path, &source, mode);
            }
        }
        Ok(())
    }

    /// Writes it as a tar. Folders above the entries are added where `folders` says so.
    pub fn write_tar(&self, out: impl Write, folders: Folders) -> Result<()> {
        let mut entries = self.entries.clone();
        if folders == Folders::All {
            for path in self.entries.keys() {
                for (slash, _) in path.match_indices('/') {
                    entries
                        .entry(path[..slash].to_owned())
                        .or_insert(Entry::Folder(0o755));
                }
            }
        }
        let mut tar = tar::Builder::new(out);
        for (path, entry) in &entries {
            add(&mut tar, path, entry).with_context(|| format!("packing {path}"))?;
        }
        tar.into_inner()
            .and_then(|mut out| out.flush())
            .context("packing")
    }

    /// Writes it as a layer into a directory, under a name of its own content.
    pub fn into_layer(self, dir: &Path) -> Result<Layer> {
        let part = dir.join("layer.part");
        let mut out = Hashing::new(BufWriter::new(sh::create(&part)?));
        self.write_tar(&mut out, Folders::All)?;
        let diff_id = out.finish();
        let file = dir.join(format!("{diff_id}.tar"));
        sh::rename(&part, &file)?;
        Ok(Layer { diff_id, file })
    }
}

/// Whether a tar has entries for the folders above its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folders {
    /// Each once, before what is in it.
    All,
    /// None but those that were added.
    Given,
}

fn add<W: Write>(tar: &mut tar::Builder<W>, path: &str, entry: &Entry) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    match entry {
        Entry::Folder(mode) => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            tar.append_data(&mut header, format!("{path}/"), io::empty())?;
        }
        Entry::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, path, target)?;
        }
        Entry::Bytes { bytes, mode } => {
            header.set_mode(*mode);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, bytes.as_slice())?;
        }
        Entry::File { source, mode } => {
            let file = sh::open(source)?;
            let size = file
                .metadata()
                .with_context(|| format!("reading {}", source.display()))?
                .len();
            header.set_mode(*mode);
            header.set_size(size);
            tar.append_data(&mut header, path, BufReader::new(file).take(size))?;
        }
    }
    Ok(())
}

impl Image {
    /// An image of these layers, lowest first. `created` is a time as `2021-01-13T13:19:01Z`.
    pub fn new(name: &str, layers: &[Layer], start: &Start<'_>, created: &str) -> Result<Self> {
        ensure!(!layers.is_empty(), "image {name} has no layer");
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|layer| format!("sha256:{}", layer.diff_id))
            .collect();
        let history: Vec<_> = layers
            .iter()
            .map(|_| json!({ "created": created, "created_by": "kpot lab" }))
            .collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": start.entrypoint,
                "Cmd": start.command,
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        });
        let config = serde_json::to_vec(&config).context("writing an image's configuration")?;
        Ok(Self {
            name: name.to_owned(),
            id: sha256(&config),
            config,
            layers: layers.to_vec(),
        })
    }
}

/// Packs images into one file for `docker load`, in the order given.
pub fn write_archive(images: &[Image], out: &Path) -> Result<()> {
    let mut archive = Tree::default();
    let mut manifest = Vec::new();
    for image in images {
        let config = format!("{}.json", image.id);
        let layers: Vec<String> = image
            .layers
            .iter()
            .map(|layer| format!("{}.tar", layer.diff_id))
            .collect();
        for (layer, name) in image.layers.iter().zip(&layers) {
            archive.file(name, &layer.file, 0o644);
        }
        archive.bytes(&config, &image.config, 0o644);
        manifest.push(json!({ "Config": config, "RepoTags": [image.name], "Layers": layers }));
    }
    archive.bytes(
        "manifest.json",
        &serde_json::to_vec(&manifest).context("writing manifest.json")?,
        0o644,
    );
    let part = out.with_extension("part");
    let file = sh::create(&part)?;
    archive.write_tar(BufWriter::new(file), Folders::Given)?;
    sh::rename(&part, out)
}

/// SHA-256 of a file, in hex.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut hash = Hashing::new(io::sink());
    io::copy(&mut sh::open(path)?, &mut hash)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(hash.finish())
}

/// SHA-256 of some bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.finish().hex()
}

/// Passes bytes on and hashes them.
struct Hashing<W> {
    out: W,
    hash: Hasher,
}

impl<W: Write> Hashing<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            hash: Hasher::new(),
        }
    }

    fn finish(self) -> String {
        self.hash.finish().hex()
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Packs a tree as a gzipped tar, with nothing of the time or the machine in it.
pub fn write_tgz(tree: &Tree, folders: Folders, out: &Path) -> Result<()> {
    let part = out.with_extension("part");
    let file = sh::create(&part)?;
    // No name and no time in the header: what `gzip -n` does.
    let mut gzip = flate2::GzBuilder::new()
        .mtime(0)
        .write(BufWriter::new(file), flate2::Compression::new(6));
    tree.write_tar(&mut gzip, folders)?;
    gzip.finish()
        .and_then(|mut file| file.flush())
        .with_context(|| format!("writing {}", part.display()))?;
    sh::rename(&part, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(tree: &Tree, folders: Folders) -> Vec<u8> {
        let mut bytes = Vec::new();
        tree.write_tar(&mut bytes, folders)
            .expect("memory takes everything");
        bytes
    }

    #[test]
    fn order_of_adding_does_not_matter_and_folders_come_first() {
        let mut one = Tree::default();
        one.bytes("usr/bin/b", b"bee", 0o755).link("usr/bin/a", "b");
        let mut other = Tree::default();
        other
            .link("usr/bin/a", "b")
            .bytes("usr/bin/b", b"bee", 0o755);
        let bytes = tar_of(&one, Folders::All);
        assert_eq!(bytes, tar_of(&other, Folders::All));

        let mut archive = tar::Archive::new(bytes.as_slice());
        let paths: Vec<String> = archive
            .entries()
            .expect("a tar")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .path()
                    .expect("a path")
                    .display()
                    .to_string()
            })
            .collect();
        assert_eq!(paths, ["usr/", "usr/bin/", "usr/bin/a", "usr/bin/b"]);
    }

    #[test]
    fn an_image_is_named_by_its_content() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let layer = |text: &[u8]| {
            let mut tree = Tree::default();
            tree.bytes("pause", text, 0o755);
            tree.into_layer(dir.path()).expect("a layer")
        };
        let image = |text| {
            Image::new(
                "lab/x:1",
                &[layer(text)],
                &Start::default(),
                "2021-01-13T13:19:01Z",
            )
            .expect("an image")
        };
        assert_eq!(image(b"one").id, image(b"one").id);
        assert_ne!(image(b"one").id, image(b"two").id);
    }
}
