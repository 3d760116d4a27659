//! From a plan to a pot: everything fetched, checked, compressed, written down in a manifest and written out.
//!
//! `lanes` runs the work, `compress`, `relatives` and `archive` do it, `spool` and `blobs` hold what is in between, `output` writes the file. Nothing that failed a
//! check is ever packed, and the same inputs give the same bytes: the order in which things arrive leaves no trace.

pub mod archive;
pub mod blobs;
pub mod compress;
pub mod lanes;
pub mod output;
pub mod relatives;
pub mod space;
pub mod spool;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow};
use bundle_spec::manifest::{Artifact, ArtifactFile, Checked, FORMAT, Image, Manifest};
use bundle_spec::{Sha256, limits};
use reqwest::Url;

use crate::fetch::http::{Ask, Client, FetchError, Saved, Size};
use crate::fetch::registry::{Compression, Registries, RemoteImage, RemoteLayer};
use crate::fetch::{Stop, checksum};
use crate::image_name::ImageName;
use crate::plan::{ArtifactName, Check, Download, Layout, Plan};
use crate::progress::{Progress, bytes};
use crate::releases::Algorithm;
use blobs::{Blobs, Packed, Packing};
use lanes::{Next, Outcome, Threads};
use relatives::Reference;
use spool::Spool;

/// Fetches at once: enough to hide the latency of a far server, few enough for any server's limits.
pub const FETCHERS: usize = 6;

/// The largest download, in bytes; the largest known (kubelet 1.14) has 128 MB.
const DOWNLOAD_LIMIT: u64 = 2 << 30;

/// What everything is made with.
pub struct Workshop<'a> {
    /// What to make.
    pub plan: &'a Plan,
    /// Where to get it.
    pub client: &'a Client,
    /// Ends all transfers when one has failed.
    pub stop: &'a Stop,
    /// Where to keep it.
    pub spool: &'a Spool,
    /// Who is told.
    pub progress: &'a Progress,
    /// How many cores to keep busy.
    pub jobs: usize,
}

/// What was fetched and packed, ready for a manifest.
pub struct Contents {
    /// Downloads in the plan's order.
    pub downloads: Vec<FetchedDownload>,
    /// Images, sorted by name.
    pub images: Vec<RemoteImage>,
    blobs: Blobs,
}

/// A download that was fetched, checked and taken apart.
pub struct FetchedDownload {
    /// What it is.
    pub name: ArtifactName,
    /// Its version.
    pub version: String,
    /// Its publisher's address.
    pub url: String,
    /// Where it really came from.
    pub from: Url,
    /// Its digest as it came.
    pub digest: Sha256,
    /// Its size as it came, in bytes.
    pub size: u64,
    /// How it was checked.
    pub checked: Checked,
    files: Vec<(String, Sha256)>,
}

enum Fetch {
    Download(usize),
    Image(ImageName),
    Layer(ImageName, RemoteLayer),
}

enum Pack {
    Archive(usize, File),
    Content(String, compress::Source),
}

#[derive(Default)]
struct Gathered {
    downloads: BTreeMap<usize, FetchedDownload>,
    images: Vec<RemoteImage>,
    blobs: Blobs,
}

struct Run<'a> {
    shop: &'a Workshop<'a>,
    registries: Registries<'a>,
    gathered: Mutex<Gathered>,
}

/// Fetches, checks and packs everything in the plan.
///
/// # Errors
/// The first thing that could not be had, was not what it should be, or could not be written.
pub fn gather(shop: &Workshop<'_>) -> anyhow::Result<Contents> {
    let run = Run {
        shop,
        registries: Registries::new(shop.client),
        gathered: Mutex::default(),
    };
    let images = shop.plan.images.iter().cloned().map(Fetch::Image);
    let start = images
        .chain((0..shop.plan.downloads.len()).map(Fetch::Download))
        .collect();
    let threads = Threads {
        fetch: FETCHERS,
        pack: shop.jobs,
    };
    lanes::run(
        start,
        threads,
        shop.stop,
        &|piece| run.fetch(piece),
        &|piece| run.pack(piece),
    )?;
    let gathered = run
        .gathered
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut images = gathered.images;
    images.sort_by_key(|image| image.name.familiar());
    Ok(Contents {
        downloads: gathered.downloads.into_values().collect(),
        images,
        blobs: gathered.blobs,
    })
}

impl Run<'_> {
    fn fetch(&self, piece: Fetch) -> Outcome<Fetch, Pack> {
        match piece {
            Fetch::Download(index) => self.download(index),
            Fetch::Image(name) => self.image(&name),
            Fetch::Layer(name, layer) => self.layer(&name, &layer),
        }
    }

    fn pack(&self, piece: Pack) -> Outcome<Fetch, Pack> {
        match piece {
            Pack::Archive(index, file) => self.unpack(index, file),
            Pack::Content(label, source) => self.compress(&label, source),
        }
    }

    fn download(&self, index: usize) -> Outcome<Fetch, Pack> {
        let download = &self.shop.plan.downloads[index];
        let label = format!("{} {}", download.name, download.version);
        let url = Url::parse(&download.url).with_context(|| format!("{:?}", download.url))?;
        let task = self.shop.progress.task(&label, None);
        // The checksum first: without one nothing is downloaded.
        let promised = match &download.check {
            Check::Published { algorithm, url } => {
                let digits = self.published(download, *algorithm, url, &task)?;
                Promised::Published(*algorithm, digits)
            }
            Check::Shipped(digest) => Promised::Shipped(*digest),
            Check::Given(digest) => Promised::Given(*digest),
        };
        let file = self.shop.spool.file().context(BESIDE)?;
        let size = Size::AtMost(DOWNLOAD_LIMIT);
        let saved =
            self.shop
                .client
                .save(Ask::plain(&url), file, size, promised.algorithm(), &task)?;
        let from = self.shop.client.route(&url);
        promised.compare(download, &from, &saved)?;
        task.finish(&format!("fetched and checked ({})", bytes(saved.size)));

        let name = download.name;
        let mut gathered = self.lock();
        let program = (name.text().to_owned(), saved.sha256);
        gathered.downloads.insert(
            index,
            FetchedDownload {
                name,
                version: download.version.clone(),
                url: download.url.clone(),
                from,
                digest: saved.sha256,
                size: saved.size,
                checked: download.check.checked(),
                files: match download.layout {
                    Layout::Program => vec![program],
                    Layout::Archive | Layout::ArchiveWithFolder(_) => Vec::new(),
                },
            },
        );
        Ok(match download.layout {
            Layout::Program => gathered
                .blobs
                .take(saved.sha256, None)
                .then(|| content(label, saved.file, saved.size, saved.sha256, None))
                .into_iter()
                .collect(),
            // Taken apart before anything is compressed: it leads to more work.
            Layout::Archive | Layout::ArchiveWithFolder(_) => {
                vec![Next::Pack(u64::MAX, Pack::Archive(index, saved.file))]
            }
        })
    }

    fn published(
        &self,
        download: &Download,
        algorithm: Algorithm,
        url: &str,
        task: &crate::progress::Task,
    ) -> anyhow::Result<String> {
        let url = Url::parse(url).with_context(|| format!("{url:?}"))?;
        let reply = self
            .shop
            .client
            .get(Ask::plain(&url), checksum::LIMIT, task)
            .with_context(|| {
                format!(
                    "there is no checksum for {name}, so it is not downloaded; if you know its digest, give it with --pin {name}=sha256:HEX",
                    name = download.name
                )
            })?;
        let file = download.url.rsplit('/').next().unwrap_or_default();
        checksum::parse(&reply.body, file, algorithm)
            .map_err(|problem| anyhow!("the checksum file {} {problem}", reply.from))
    }

    fn unpack(&self, index: usize, file: File) -> Outcome<Fetch, Pack> {
        let download = &self.shop.plan.downloads[index];
        let programs = archive::unpack(file, download.layout.folder(), self.shop.spool)
            .map_err(|problem| anyhow!("the archive {} {problem}", download.url))?;
        let reference = relatives::reference(download.name, &programs).context(BESIDE)?;
        let reference = reference.map(Arc::new);
        let mut gathered = self.lock();
        let mut following = Vec::new();
        let mut files = Vec::new();
        for program in programs {
            let label = format!("{} of {}", program.name, download.name);
            files.push((program.name, program.digest));
            // The reference itself, under whatever names, stands on its own.
            let against = reference
                .clone()
                .filter(|reference| reference.digest() != program.digest);
            let wanted = against.as_deref().map(Reference::digest);
            if gathered.blobs.take(program.digest, wanted) {
                following.push(content(
                    label,
                    program.file,
                    program.size,
                    program.digest,
                    against,
                ));
            }
        }
        if let Some(fetched) = gathered.downloads.get_mut(&index) {
            fetched.files = files;
        }
        Ok(following)
    }

    fn image(&self, name: &ImageName) -> Outcome<Fetch, Pack> {
        let task = self.shop.progress.task(&name.familiar(), None);
        let image = self
            .registries
            .resolve(name, self.shop.plan.arch, &task)
            .with_context(|| format!("cannot pull the image {name}"))?;
        let size: u64 = image.layers.iter().map(|layer| layer.size).sum();
        task.finish(&format!(
            "found ({} in {} layers)",
            bytes(size),
            image.layers.len()
        ));
        let mut config = self.shop.spool.file().context(BESIDE)?;
        config.write_all(&image.config).context(BESIDE)?;
        self.shop.spool.keep(image.id, config);

        let mut gathered = self.lock();
        let size = image.config.len() as u64;
        // Small, and looked at by people: stored as it is.
        gathered.blobs.add(Packed {
            digest: image.id,
            size,
            packing: Packing::Identity,
            unpacked_digest: image.id,
            unpacked_size: size,
        });
        let following = image
            .layers
            .iter()
            .filter(|layer| gathered.blobs.take(layer.diff_id, None))
            .map(|layer| Next::Fetch(Fetch::Layer(name.clone(), layer.clone())))
            .collect();
        gathered.images.push(image);
        Ok(following)
    }

    fn layer(&self, name: &ImageName, layer: &RemoteLayer) -> Outcome<Fetch, Pack> {
        let short = &layer.digest.hex()[..12];
        let label = format!("layer {short} of {name}");
        let task = self.shop.progress.task(&label, Some(layer.size));
        let saved = self
            .registries
            .save_layer(name, layer, &|| self.shop.spool.file(), &task)
            .with_context(|| format!("cannot pull the image {name}"))?;
        task.finish(&format!("fetched and checked ({})", bytes(saved.size)));
        // Compressed layers unpack to two or three times their size: enough to order them among programs.
        let weight = match layer.compression {
            Compression::None => saved.size,
            Compression::Gzip | Compression::Zstd => saved.size.saturating_mul(3),
        };
        let source = compress::Source {
            file: saved.file,
            compression: layer.compression,
            unpacked: layer.diff_id,
            reference: None,
        };
        Ok(vec![Next::Pack(weight, Pack::Content(label, source))])
    }

    fn compress(&self, label: &str, source: compress::Source) -> Outcome<Fetch, Pack> {
        let task = self.shop.progress.task(&format!("packing {label}"), None);
        let to = self.shop.spool.file().context(BESIDE)?;
        let (packed, file) = compress::compress(source, to, &task)
            .with_context(|| format!("cannot pack {label}"))?;
        self.shop.spool.keep(packed.digest, file);
        self.lock().blobs.add(packed);
        Ok(Vec::new())
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const BESIDE: &str = "cannot keep files beside the output file";

fn content(
    label: String,
    file: File,
    size: u64,
    unpacked: Sha256,
    reference: Option<Arc<Reference>>,
) -> Next<Fetch, Pack> {
    let source = compress::Source {
        file,
        compression: Compression::None,
        unpacked,
        reference,
    };
    Next::Pack(size, Pack::Content(label, source))
}

/// What a download must be.
enum Promised {
    Published(Algorithm, String),
    Shipped(Sha256),
    Given(Sha256),
}

impl Promised {
    const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Published(algorithm, _) => *algorithm,
            Self::Shipped(_) | Self::Given(_) => Algorithm::Sha256,
        }
    }

    fn compare(&self, download: &Download, from: &Url, saved: &Saved) -> Result<(), FetchError> {
        let sha256 = saved.sha256;
        let name = download.name;
        let problem = match self {
            Self::Published(Algorithm::Sha512, digits) => (saved.sha512.as_ref() != Some(digits))
                .then(|| {
                    format!(
                        "its SHA-512 is {} and the published one {digits}",
                        saved.sha512.as_deref().unwrap_or("unknown")
                    )
                }),
            Self::Published(Algorithm::Sha256, digits) => (sha256.hex() != *digits)
                .then(|| format!("its SHA-256 is {} and the published one {digits}", sha256.hex())),
            Self::Shipped(digest) => (sha256 != *digest).then(|| {
                format!(
                    "its digest is {sha256}, and kpot's version data say {digest} for {name} {}. \
                     If this server serves another build that you trust, give: --pin {name}={sha256}",
                    download.version
                )
            }),
            Self::Given(digest) => (sha256 != *digest)
                .then(|| format!("its digest is {sha256}, and --pin {name} says {digest}")),
        };
        problem.map_or(Ok(()), |problem| Err(FetchError::refused(from, problem)))
    }
}

impl Contents {
    /// The manifest of a pot with these contents.
    ///
    /// # Errors
    /// Where something is missing that the contents refer to, which `gather` does not leave behind.
    pub fn manifest(&self, plan: &Plan, serial: u64) -> anyhow::Result<Manifest> {
        let mut used = BTreeMap::new();
        let mut take = |unpacked: &Sha256| {
            let blob = self.blobs.describe(unpacked)?;
            let digest = blob.digest;
            // Behind two references the same bytes can be two contents.
            if used
                .insert(digest, blob.clone())
                .is_some_and(|other| other != blob)
            {
                return Err(anyhow!("the blob {digest} would have two meanings"));
            }
            Ok(digest)
        };
        let mut artifacts = Vec::new();
        for download in &self.downloads {
            let mut files = Vec::new();
            for (name, unpacked) in &download.files {
                files.push(ArtifactFile {
                    name: name.clone(),
                    blob: take(unpacked)?,
                });
            }
            files.sort_by(|one, other| one.name.cmp(&other.name));
            artifacts.push(Artifact {
                name: download.name.text().to_owned(),
                version: download.version.clone(),
                source: download.url.clone(),
                download: download.digest,
                checked: download.checked,
                files,
            });
        }
        artifacts.sort_by(|one, other| one.name.cmp(&other.name));

        // Two names of one image are one image.
        let mut by_id: BTreeMap<Sha256, (BTreeSet<String>, &RemoteImage)> = BTreeMap::new();
        for image in &self.images {
            by_id
                .entry(image.id)
                .or_insert_with(|| (BTreeSet::new(), image))
                .0
                .insert(image.name.familiar());
        }
        let mut images = Vec::new();
        for (names, image) in by_id.into_values() {
            let layers = image.layers.iter().map(|layer| take(&layer.diff_id));
            let layers = layers.collect::<anyhow::Result<_>>()?;
            images.push(Image {
                names: names.into_iter().collect(),
                id: image.id,
                config: take(&image.id)?,
                layers,
            });
        }
        images.sort_by(|one, other| one.names.cmp(&other.names));
        if used.len() > limits::BLOBS {
            return Err(anyhow!(
                "a pot holds {} blobs at most, not {}",
                limits::BLOBS,
                used.len()
            ));
        }
        Ok(Manifest {
            format: FORMAT,
            name: plan.name(),
            serial,
            kubernetes: plan.kubernetes,
            arch: plan.arch,
            runtime: plan.runtime.clone(),
            cni: plan.cni.clone(),
            built_by: env!("CARGO_PKG_VERSION").to_owned(),
            artifacts,
            images,
            blobs: used.into_values().collect(),
        })
    }
}
