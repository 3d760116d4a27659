//! `manifest.json`: what a pot is and what each of its blobs means.
//!
//! A manifest that decodes is consistent: every reference names a listed blob, every blob is referenced, names are unique and sorted, sizes are within the
//! limits, and the bytes are the one canonical encoding (so the manifest, like the rest of a pot, has no free byte). It does not check the blobs themselves:
//! the reader does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::error::Error;
use crate::limits;
use crate::version::{Arch, KubeVersion};

/// The format that this crate reads and writes.
pub const FORMAT: u32 = 1;

/// How the names of artifacts begin that are carried and not installed; the rest is the name of their one file.
pub const EXTRA: &str = "file.";

/// What a pot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: u32,
    /// The pot's own name, such as `kpot-v1.14.0-amd64`.
    pub name: String,
    /// Set by the one who builds: a pot with a larger serial replaces one of the same name with a smaller serial.
    pub serial: u64,
    /// The Kubernetes version of every binary and control-plane image.
    pub kubernetes: KubeVersion,
    /// The architecture of everything in the pot, the installer included.
    pub arch: Arch,
    /// The container runtime in the pot.
    pub runtime: Runtime,
    /// The version of the CNI plugins, as in their release, such as `v0.7.5`.
    pub cni: String,
    /// The version of the `kpot` that built this pot.
    pub built_by: String,
    /// How much memory a reader needs; stands in the file where it is more than usual.
    #[serde(default, skip_serializing_if = "Windows::are_usual")]
    pub windows: Windows,
    /// Downloads, unpacked to files; sorted by name.
    pub artifacts: Vec<Artifact>,
    /// Container images; sorted by their first name.
    pub images: Vec<Image>,
    /// Every blob of the pot; sorted by digest.
    pub blobs: Vec<Blob>,
}

/// How large the zstd windows and the references of a pot may be, and so what a reader needs to unpack it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Windows {
    /// A reader stays below 64 MiB.
    #[default]
    Usual,
    /// A reader stays below 160 MiB.
    Large,
}

impl Windows {
    /// The largest window, as a power of two.
    pub const fn log(self) -> u32 {
        match self {
            Self::Usual => limits::ZSTD_WINDOW_LOG,
            Self::Large => limits::LARGE_ZSTD_WINDOW_LOG,
        }
    }

    /// What all references may unpack to, in bytes.
    pub const fn references(self) -> u64 {
        match self {
            Self::Usual => limits::REFERENCES,
            Self::Large => limits::LARGE_REFERENCES,
        }
    }

    /// serde hands out a reference.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn are_usual(&self) -> bool {
        *self == Self::Usual
    }
}

/// A container runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Which one.
    pub name: RuntimeName,
    /// Its version, such as `18.09.9`.
    pub version: String,
}

/// The container runtimes that a pot may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeName {
    /// Docker Engine's static archive, for the kubelet's dockershim (Kubernetes up to 1.23).
    Docker,
    /// containerd, with runc and crictl beside it.
    Containerd,
}

impl RuntimeName {
    /// Every runtime.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Containerd];

    /// The name in a manifest and on command lines.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
        }
    }
}

impl fmt::Display for RuntimeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for RuntimeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|known| known.text() == text);
        known.ok_or_else(|| format!("{text:?} is not a runtime: expected docker or containerd"))
    }
}

/// `docker 18.09.9`
impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// One download, unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// What it is: `docker`, `kubeadm`, `kubelet`, `kubectl`, `cni-plugins`, `crictl`, …
    pub name: String,
    /// Its version, as its publisher writes it.
    pub version: String,
    /// The publisher's address of it; a mirror's address is not recorded.
    pub source: String,
    /// The digest of the download as it came.
    pub download: Sha256,
    /// How the download was checked, when it was fetched for this pot or when the lock of this build pinned it.
    pub checked: Checked,
    /// Its files, sorted by path; a single binary is one file with the artifact's name.
    pub files: Vec<ArtifactFile>,
}

impl Artifact {
    /// The one file of an extra: something that is carried for people, and that no program uses. `None` for everything else.
    pub fn extra(&self) -> Option<&ArtifactFile> {
        self.name.strip_prefix(EXTRA)?;
        self.files.first()
    }

    fn check_extra(&self) -> Result<(), Error> {
        match (self.name.strip_prefix(EXTRA), &self.files[..]) {
            (None, _) => Ok(()),
            (Some(name), [file]) if file.name == name => Ok(()),
            (Some(name), _) => Err(Error::manifest(format!(
                "lists other files for {} than the one called {name}",
                self.name
            ))),
        }
    }
}

/// How a download was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checked {
    /// Against the `.sha256` file that its publisher serves beside it.
    PublishedSha256,
    /// Against the `.sha512` file that its publisher serves beside it.
    PublishedSha512,
    /// Against a digest in kpot's version data, with its sources named there.
    ShippedPin,
    /// Against a digest that the builder was given (`--pin`); or the builder was given the file itself.
    GivenPin,
}

/// A file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFile {
    /// The file's name alone, without any folder: `dockerd`, `bridge`, `kubelet`.
    pub name: String,
    /// The blob with its content, by the digest of the stored bytes.
    pub blob: Sha256,
}

/// A container image for the pot's architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Names with a tag and without a digest, such as `k8s.gcr.io/pause:3.1`; sorted, at least one.
    pub names: Vec<String>,
    /// The image ID: the digest of its unpacked config.
    pub id: Sha256,
    /// The blob with the image's config JSON.
    pub config: Sha256,
    /// The blobs with the layers, lowest first; each unpacks to an uncompressed tar whose digest is the config's `diff_id` at the same place.
    pub layers: Vec<Sha256>,
    /// The blob with the image's manifest for this architecture, as its registry has it; only where the layers are the registry's own bytes, which it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Sha256>,
}

/// A member `blobs/sha256/<hex>`.
///
/// Fields that it does not know are refused here too, by writing the manifest again: serde cannot do that for a type with a flattened field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// The digest of the stored bytes, which names the member.
    pub digest: Sha256,
    /// Stored bytes.
    pub size: u64,
    /// How the stored bytes become the unpacked ones: the field `encoding`, followed by what that encoding needs besides.
    #[serde(flatten)]
    pub encoding: Encoding,
    /// The digest of the unpacked bytes.
    pub unpacked_digest: Sha256,
    /// Unpacked bytes.
    pub unpacked_size: u64,
}

/// How a blob is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "encoding", rename_all = "kebab-case")]
pub enum Encoding {
    /// As it is.
    Identity,
    /// One zstd frame with a window of at most [`Windows::log`].
    Zstd,
    /// One or more gzip members, as a registry has them.
    Gzip,
    /// One or more zstd frames with such windows, and skippable frames among them, as a registry has them.
    ZstdFrames,
    /// Such a frame, which goes on from the unpacked bytes of another blob: zstd's prefix, also known as `--patch-from`.
    ZstdReference {
        /// The other blob, by the digest of its stored bytes. It refers to none itself.
        reference: Sha256,
    },
}

impl Encoding {
    /// The blob without which this one cannot be unpacked.
    pub const fn reference(self) -> Option<Sha256> {
        match self {
            Self::Identity | Self::Zstd | Self::Gzip | Self::ZstdFrames => None,
            Self::ZstdReference { reference } => Some(reference),
        }
    }
}

impl Manifest {
    /// The canonical bytes: JSON, fields in the order of the types above, two spaces of indent, a line feed at the end.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|cause| Error::manifest(format!("cannot be written: {cause}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a manifest and checks all that this module promises.
    ///
    /// # Errors
    /// [`Error::Format`] for another format number, [`Error::Manifest`] for everything else that is not canonical or not consistent.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        // The format is looked at first, so that a pot of a later format is told apart from a broken one.
        let format = format_number(bytes)?;
        if format != FORMAT {
            return Err(Error::Format(format));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|cause| unknown(&cause))?;
        if manifest.encode()? != bytes {
            return Err(Error::manifest(
                "is not in the canonical encoding".to_owned(),
            ));
        }
        Ok(manifest)
    }

    /// The blob that `digest` names.
    pub fn blob(&self, digest: &Sha256) -> Option<&Blob> {
        self.blobs
            .binary_search_by(|blob| blob.digest.cmp(digest))
            .ok()
            .map(|index| &self.blobs[index])
    }

    /// The blobs that others refer to.
    pub fn references(&self) -> BTreeSet<Sha256> {
        self.blobs
            .iter()
            .filter_map(|blob| blob.encoding.reference())
            .collect()
    }

    /// The artifact called `name`.
    pub fn artifact(&self, name: &str) -> Option<&Artifact> {
        self.artifacts.iter().find(|artifact| artifact.name == name)
    }

    fn check(&self) -> Result<(), Error> {
        let ensure = |good: bool, what: &dyn Fn() -> String| {
            if good {
                Ok(())
            } else {
                Err(Error::manifest(what()))
            }
        };
        ensure(self.format == FORMAT, &|| {
            format!("has format {}", self.format)
        })?;
        plain_name("pot", &self.name)?;
        for text in [&self.runtime.version, &self.cni, &self.built_by] {
            printable("a version", text)?;
        }
        ensure(self.blobs.len() <= limits::BLOBS, &|| {
            format!(
                "lists {} blobs, more than {}",
                self.blobs.len(),
                limits::BLOBS
            )
        })?;
        ascending("blobs", self.blobs.iter().map(|blob| &blob.digest))?;
        for blob in &self.blobs {
            let within = blob.size <= limits::BLOB_SIZE && blob.unpacked_size <= limits::BLOB_SIZE;
            ensure(within, &|| {
                format!(
                    "says that blob {} is larger than {} bytes",
                    blob.digest,
                    limits::BLOB_SIZE
                )
            })?;
            if blob.encoding == Encoding::Identity {
                let same = blob.digest == blob.unpacked_digest && blob.size == blob.unpacked_size;
                ensure(same, &|| {
                    format!(
                        "says that blob {} is stored as it is, with two digests or sizes",
                        blob.digest
                    )
                })?;
            }
        }
        let known: BTreeMap<Sha256, &Blob> =
            self.blobs.iter().map(|blob| (blob.digest, blob)).collect();
        self.check_references(&known)?;
        let mut used = BTreeSet::new();
        let mut take = |owner: &str, digest: &Sha256| match known.get(digest) {
            Some(blob) => {
                used.insert(*digest);
                Ok(*blob)
            }
            None => Err(Error::manifest(format!(
                "names blob {digest} in {owner} but does not list it"
            ))),
        };

        ascending(
            "artifacts",
            self.artifacts.iter().map(|artifact| &artifact.name),
        )?;
        for artifact in &self.artifacts {
            plain_name("artifact", &artifact.name)?;
            printable("a version", &artifact.version)?;
            printable("a source", &artifact.source)?;
            ensure(!artifact.files.is_empty(), &|| {
                format!("lists no file for {}", artifact.name)
            })?;
            ascending("files", artifact.files.iter().map(|file| &file.name))?;
            artifact.check_extra()?;
            for file in &artifact.files {
                plain_name("file", &file.name)?;
                take(&artifact.name, &file.blob)?;
            }
        }

        ascending("images", self.images.iter().map(|image| &image.names))?;
        let mut names = BTreeSet::new();
        for image in &self.images {
            ensure(!image.names.is_empty(), &|| {
                format!("lists no name for image {}", image.id)
            })?;
            ascending("image names", image.names.iter())?;
            for name in &image.names {
                image_name(name)?;
                ensure(names.insert(name), &|| {
                    format!("gives the name {name} to two images")
                })?;
            }
            let owner = &image.names[0];
            let config = take(owner, &image.config)?;
            ensure(config.unpacked_digest == image.id, &|| {
                format!("gives {owner} an ID that is not the digest of its config")
            })?;
            ensure(config.unpacked_size <= limits::MANIFEST, &|| {
                format!(
                    "gives {owner} a config larger than {} bytes",
                    limits::MANIFEST
                )
            })?;
            for layer in &image.layers {
                take(owner, layer)?;
            }
            if let Some(manifest) = &image.manifest {
                let blob = take(owner, manifest)?;
                let plain = blob.encoding == Encoding::Identity && blob.size <= limits::MANIFEST;
                ensure(plain, &|| {
                    format!(
                        "gives {owner} a manifest that is packed, or larger than {} bytes",
                        limits::MANIFEST
                    )
                })?;
            }
        }
        match self.blobs.iter().find(|blob| !used.contains(&blob.digest)) {
            Some(blob) => Err(Error::manifest(format!(
                "lists blob {} that nothing refers to",
                blob.digest
            ))),
            None => Ok(()),
        }
    }

    /// No chains, so unpacking a blob takes two frames at most; and what readers keep of it fits into memory.
    fn check_references(&self, known: &BTreeMap<Sha256, &Blob>) -> Result<(), Error> {
        for blob in &self.blobs {
            let Some(reference) = blob.encoding.reference() else {
                continue;
            };
            let target = known.get(&reference).ok_or_else(|| {
                Error::manifest(format!(
                    "lets blob {} refer to blob {reference}, which it does not list",
                    blob.digest
                ))
            })?;
            if reference == blob.digest {
                return Err(Error::manifest(format!(
                    "lets blob {reference} refer to itself"
                )));
            }
            if target.encoding.reference().is_some() {
                return Err(Error::manifest(format!(
                    "lets blob {} refer to blob {reference}, which itself refers to another",
                    blob.digest
                )));
            }
        }
        let mut unpacked = 0;
        for reference in self.references() {
            // Each size is within its own limit, so no sum of them overflows.
            unpacked += known.get(&reference).map_or(0, |blob| blob.unpacked_size);
        }
        let limit = self.windows.references();
        if unpacked > limit {
            return Err(Error::manifest(format!(
                "has references that unpack to {unpacked} bytes, more than {limit}"
            )));
        }
        Ok(())
    }
}

/// The format that a manifest names, of whatever format the rest of it is.
pub(crate) fn format_number(bytes: &[u8]) -> Result<u32, Error> {
    #[derive(Deserialize)]
    struct Envelope {
        format: u32,
    }
    serde_json::from_slice(bytes)
        .map(|envelope: Envelope| envelope.format)
        .map_err(|cause| broken(&cause))
}

fn broken(cause: &serde_json::Error) -> Error {
    Error::manifest(format!("does not parse: {}", visible(cause)))
}

/// Format 1 gained fields and encodings: what is JSON and not understood may be of a newer kpot.
fn unknown(cause: &serde_json::Error) -> Error {
    if cause.is_data() {
        Error::manifest(format!(
            "is not what this program knows: {}. If a newer kpot made the pot, use that one, or the installer that came with the pot",
            visible(cause)
        ))
    } else {
        broken(cause)
    }
}

/// An error's text, in which the pot's own words may stand, without anything that a terminal obeys.
pub(crate) fn visible(cause: &dyn std::error::Error) -> String {
    let text = cause.to_string();
    let shown = |letter: char| {
        if letter.is_control() {
            letter.escape_default().collect()
        } else {
            String::from(letter)
        }
    };
    text.chars().map(shown).collect()
}

fn ascending<T: Ord>(what: &str, items: impl Iterator<Item = T>) -> Result<(), Error> {
    let mut previous = None;
    for item in items {
        if previous.is_some_and(|previous| previous >= item) {
            return Err(Error::manifest(format!("has {what} out of order or twice")));
        }
        previous = Some(item);
    }
    Ok(())
}

/// A name that may become the name of a file: letters, digits and `._+-`, not starting with a dot or a dash, at most 100 bytes.
fn plain_name(what: &str, name: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    let good = !name.is_empty()
        && name.len() <= 100
        && name.bytes().all(allowed)
        && !name.starts_with(['.', '-']);
    if good {
        Ok(())
    } else {
        Err(Error::manifest(format!(
            "has a {what} with the name {name:?}"
        )))
    }
}

/// A name that `docker tag` could give: it ends in a tag, and no digest pins it.
fn image_name(name: &str) -> Result<(), Error> {
    printable("an image name", name)?;
    let last = name.rsplit('/').next().unwrap_or_default();
    let tagged = last
        .split_once(':')
        .is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty() && !tag.contains(':'));
    if tagged && !name.contains('@') {
        Ok(())
    } else {
        Err(Error::manifest(format!(
            "has an image name without a tag: {name:?}"
        )))
    }
}

fn printable(what: &str, text: &str) -> Result<(), Error> {
    let good =
        !text.is_empty() && text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if good {
        Ok(())
    } else {
        Err(Error::manifest(format!(
            "has {what} that is empty, too long or not printable: {text:?}"
        )))
    }
}
