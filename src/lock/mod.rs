//! `kpot.lock`: what every part of a pot must be, by digest and size, and what makes pots the same bytes besides: the version that was meant, kpot's own, the
//! installer's, and how blobs are compressed.
//!
//! This module holds the file's form and nothing of how it comes about (`commands/lock.rs`). `differences` compares it with what is asked for, with what servers tell, and
//! with what was fetched. JSON, in one spelling, so that a lock that says the same has the same bytes, and a change of one name is a change of its lines.

mod differences;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use bundle_spec::manifest::{Checked, RuntimeName};
use bundle_spec::{Arch, KubeVersion, Sha256};
use serde::{Deserialize, Serialize};

use crate::extra::Extra;
use crate::image_name::ImageName;
use crate::order::Style;
use crate::pack::effort::Effort;
use crate::pack::tuning::Tuning;
use crate::pack::{FetchedDownload, FetchedExtra, Layers};
use crate::plan::{Check, Download, Plan};
use crate::{fetch::registry::RemoteImage, installers};
pub use differences::{Difference, Differences};

/// The form of lock that this kpot reads and writes.
const FORM: u32 = 1;

/// The largest lock, in bytes; one for seven images has some 4,000.
const LIMIT: u64 = 4 << 20;

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Always [`FORM`].
    pub lock: u32,
    /// The version of the kpot that wrote it.
    pub kpot: String,
    /// How blobs are compressed.
    pub compression: Compression,
    /// The Kubernetes version.
    pub kubernetes: Kubernetes,
    /// What belongs to each architecture; sorted by it.
    pub targets: Vec<Target>,
}

/// What decides about the bytes of a compressed blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    /// `--compression`.
    pub effort: Effort,
    /// zstd's level.
    pub level: i32,
    /// zstd's window, as a power of two.
    pub window_log: u32,
    /// Whether layers are packed anew, or kept (`--verbatim`).
    pub layers: Layers,
    /// All the rest: zstd itself, and what it is told. Locks of earlier kpots do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
}

/// A version, and what it was asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// A version, or a marker: `stable-1.20`.
    pub wanted: String,
    /// The version that it stood for when the lock was written.
    pub version: KubeVersion,
}

/// What is pinned for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The architecture.
    pub arch: Arch,
    /// The installer that kpot carries for it.
    pub installer: Installer,
    /// The container runtime; its version is that of its artifact. Locks of earlier kpots do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeName>,
    /// Downloads and files; sorted by name.
    pub artifacts: Vec<Artifact>,
    /// Images; sorted by name.
    pub images: Vec<Image>,
}

/// An installer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installer {
    /// Their digest.
    pub digest: Sha256,
    /// Their number.
    pub size: u64,
}

/// A download, or a file that is carried besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its name in a pot: `kubeadm`, `file.notes.txt`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its publisher's address, or `file:NAME`; never a mirror's.
    pub source: String,
    /// How it is checked besides.
    pub checked: Checked,
    /// The digest of it as it comes.
    pub digest: Sha256,
    /// Its size as it comes, in bytes.
    pub size: u64,
}

/// An image for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The name that it is asked for by; with a digest where one was asked for.
    pub name: String,
    /// The digest of its manifest for this architecture, which pins all of it.
    pub digest: Sha256,
    /// The image ID.
    pub id: Sha256,
    /// The size of its config and layers as the registry has them, in bytes.
    pub size: u64,
}

impl Compression {
    /// What this kpot does when it is told so.
    pub fn of(style: Style) -> Self {
        Self {
            effort: style.effort,
            level: style.effort.level(style.layers),
            window_log: style.effort.window_log(),
            layers: style.layers,
            tuning: Some(Tuning::of(style.effort)),
        }
    }
}

impl fmt::Display for Compression {
    /// Without the tuning, which few people want to read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (level {}, window 2^{}), {}",
            self.effort, self.level, self.window_log, self.layers
        )
    }
}

impl Installer {
    /// The one that this kpot carries for `arch`.
    pub fn own(arch: Arch) -> Option<Self> {
        installers::for_arch(arch).map(|bytes| Self {
            digest: Sha256::of(bytes),
            size: bytes.len() as u64,
        })
    }
}

impl Lock {
    /// A lock of this kpot that pins nothing yet.
    pub fn new(kubernetes: Kubernetes, style: Style) -> Self {
        Self {
            lock: FORM,
            kpot: env!("CARGO_PKG_VERSION").to_owned(),
            compression: Compression::of(style),
            kubernetes,
            targets: Vec::new(),
        }
    }

    /// Reads the lock in `path`; `None` where there is none.
    ///
    /// # Errors
    /// A text with the file's name, where it cannot be read or is no lock.
    pub fn read(path: &Path) -> Result<Option<Self>, String> {
        let problem = |problem: String| format!("{}: {problem}", path.display());
        let file = match File::open(path) {
            Ok(file) => file,
            Err(cause)
                if cause.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() =>
            {
                return Ok(None);
            }
            Err(cause) => return Err(problem(cause.to_string())),
        };
        let mut bytes = Vec::new();
        file.take(LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|cause| problem(cause.to_string()))?;
        if bytes.len() as u64 > LIMIT {
            return Err(problem(format!("it is larger than {LIMIT} bytes")));
        }
        Self::decode(&bytes).map(Some).map_err(problem)
    }

    /// Reads a lock's bytes.
    ///
    /// # Errors
    /// A text that says what is wrong, with line and column where the text itself is.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Envelope {
            lock: u32,
        }
        let broken = |cause: serde_json::Error| format!("it is no lock: {cause}");
        // First, so that a later form is told apart from a broken file.
        let Envelope { lock: form } = serde_json::from_slice(bytes).map_err(broken)?;
        if form != FORM {
            return Err(format!(
                "it is a lock of form {form}, and this kpot knows form {FORM}"
            ));
        }
        let lock: Self = serde_json::from_slice(bytes).map_err(broken)?;
        lock.check()?;
        Ok(lock)
    }

    /// The lock's one spelling.
    ///
    /// # Errors
    /// Where it cannot be written as JSON, which is a fault of kpot.
    pub fn encode(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What is pinned for `arch`.
    pub fn target(&self, arch: Arch) -> Option<&Target> {
        self.targets.iter().find(|target| target.arch == arch)
    }

    /// Pins this for its architecture, in the place of what was pinned for it.
    pub fn set(&mut self, target: Target) {
        self.targets.retain(|other| other.arch != target.arch);
        self.targets.push(target);
        self.targets.sort_by_key(|target| target.arch.to_string());
    }

    /// Two people's changes of one file, put together by a tool, can pin one thing twice.
    fn check(&self) -> Result<(), String> {
        let once = |what: &str, names: Vec<String>| {
            let twice = names.windows(2).find(|pair| pair[0] >= pair[1]);
            twice.map_or(Ok(()), |pair| {
                Err(format!(
                    "it has {what} twice or out of order: {} before {}",
                    pair[0], pair[1]
                ))
            })
        };
        let arches = self.targets.iter().map(|target| target.arch.to_string());
        once("architectures", arches.collect())?;
        for target in &self.targets {
            let names = target.artifacts.iter().map(|it| it.name.clone());
            once("artifacts", names.collect())?;
            let mut names = Vec::new();
            for image in &target.images {
                names.push(familiar(&image.name)?);
            }
            once("images", names)?;
        }
        Ok(())
    }
}

fn familiar(name: &str) -> Result<String, String> {
    Ok(name.parse::<ImageName>()?.familiar())
}

impl Target {
    /// One for `arch` with this runtime that pins nothing yet.
    pub const fn new(arch: Arch, installer: Installer, runtime: Option<RuntimeName>) -> Self {
        Self {
            arch,
            installer,
            runtime,
            artifacts: Vec::new(),
            images: Vec::new(),
        }
    }

    /// What is pinned under this name.
    pub fn artifact(&self, name: &str) -> Option<&Artifact> {
        self.artifacts.iter().find(|artifact| artifact.name == name)
    }

    /// What is pinned of a download whose publisher has a checksum: the lock can stand for it.
    pub fn stands_for(&self, download: &Download) -> Option<&Artifact> {
        match download.check {
            Check::Published { .. } => self.artifact(download.name.text()),
            Check::Shipped(_) | Check::Given(_) => None,
        }
    }

    /// What is pinned of this image, whatever digest it is asked for by.
    pub fn image(&self, name: &ImageName) -> Option<&Image> {
        let wanted = name.familiar();
        let is_it = |image: &&Image| familiar(&image.name).as_ref() == Ok(&wanted);
        self.images.iter().find(is_it)
    }

    /// Sorts what was put in.
    pub fn sort(&mut self) {
        self.artifacts.sort_by(|a, b| a.name.cmp(&b.name));
        self.images
            .sort_by_cached_key(|image| familiar(&image.name));
    }

    /// The plan that asks for each image by what is pinned of it, and for no tag.
    pub fn pin(&self, plan: &mut Plan) {
        for name in &mut plan.images {
            if let Some(image) = self.image(name) {
                *name = name.pinned(image.digest);
            }
        }
    }
}

impl Artifact {
    /// What there is to pin of a download.
    pub fn of_download(fetched: &FetchedDownload) -> Self {
        Self {
            name: fetched.name.text().to_owned(),
            version: fetched.version.clone(),
            source: fetched.url.clone(),
            checked: fetched.checked,
            digest: fetched.digest,
            size: fetched.size,
        }
    }

    /// What there is to pin of a file.
    pub fn of_extra(fetched: &FetchedExtra) -> Self {
        Self {
            name: fetched.name.to_string(),
            version: fetched.version.clone(),
            source: fetched.source.clone(),
            checked: Checked::GivenPin,
            digest: fetched.digest,
            size: fetched.size,
        }
    }

    /// Whether it was pinned of this download: the same version from the same address, checked in the same way.
    fn is_download(&self, download: &Download) -> bool {
        self.version == download.version
            && self.source == download.url
            && self.checked == download.check.checked()
            && download
                .check
                .digest()
                .is_none_or(|digest| digest == self.digest)
    }

    /// Whether it was pinned of this file.
    fn is_extra(&self, file: &Extra) -> bool {
        self.version == file.version
            && self.source == file.source()
            && self.checked == Checked::GivenPin
            && file.digest().is_none_or(|digest| digest == self.digest)
    }
}

impl Image {
    /// What there is to pin of an image that was asked for as `name`.
    pub fn of(name: &ImageName, image: &RemoteImage) -> Self {
        Self {
            name: name.whole(),
            digest: image.digest,
            id: image.id,
            size: image.size(),
        }
    }
}

/// What a lock pins of a plan, and what it does not: what is asked for otherwise by now is not pinned.
pub struct Unpinned {
    /// What is still to be pinned, as a plan of that alone.
    pub plan: Plan,
    /// What is pinned of the plan already.
    pub kept: Target,
}

impl Target {
    /// Tells apart what is pinned of `plan` and what is not; `anew` says what is to be pinned again in any case.
    pub fn unpinned(&self, plan: &Plan, anew: &dyn Fn(&str) -> bool) -> Unpinned {
        let mut kept = Self::new(self.arch, self.installer, Some(plan.runtime.name));
        let mut rest = plan.clone();
        rest.downloads.retain(|download| {
            let name = download.name.text();
            let pinned = self.artifact(name).filter(|it| it.is_download(download));
            let pinned = pinned.filter(|_| !anew(name));
            kept.artifacts.extend(pinned.cloned());
            pinned.is_none()
        });
        rest.files.retain(|file| {
            let name = file.name.to_string();
            let pinned = self.artifact(&name).filter(|it| it.is_extra(file));
            let pinned = pinned.filter(|_| !anew(&name));
            kept.artifacts.extend(pinned.cloned());
            pinned.is_none()
        });
        rest.images.retain(|name| {
            let pinned = self.image(name).filter(|it| it.name == name.whole());
            let pinned = pinned.filter(|_| !anew(&name.familiar()));
            kept.images.extend(pinned.cloned());
            pinned.is_none()
        });
        Unpinned { plan: rest, kept }
    }
}

#[cfg(test)]
mod tests;
