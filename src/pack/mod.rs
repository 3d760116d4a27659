//! From a plan to a pot: everything fetched, checked, compressed, written down in a manifest and written out.
//!
//! `lanes` runs the work, `compress`, `relatives` and `archive` do it, `spool` and `blobs` hold what is in between, `output` writes the file. Nothing that failed a
//! check is ever packed, and the same inputs give the same bytes: the order in which things arrive leaves no trace.

pub mod archive;
mod behind;
pub mod blobs;
pub mod compress;
pub mod contents;
pub mod draft;
pub mod effort;
pub mod extras;
pub mod lanes;
pub mod memory;
pub mod output;
mod promised;
pub mod relatives;
pub mod space;
pub mod spool;
pub mod tuning;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow, bail};
use bundle_spec::Sha256;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::cache::place::Key;
use crate::cache::{Cache, Fetcher, Obtained, Origin, Wanted};
use crate::descriptors;
use crate::extra::Place;
use crate::fetch::Stop;
use crate::fetch::http::{Ask, Client, FetchError, Size};
use crate::fetch::registry::{Compression, Paper, Registries, RemoteImage, RemoteLayer};
use crate::image_name::ImageName;
use crate::lock::Target;
use crate::plan::{Layout, Plan};
use crate::progress::{Expected, Progress, Task, bytes};
use crate::released;
use blobs::{Blobs, Packed, Packing, Way};
use compress::Turn;
pub use contents::{Contents, FetchedDownload};
use effort::Effort;
pub use extras::FetchedExtra;
use lanes::{Next, Outcome, Threads};
use relatives::{Common, Reference, Waiting};
use spool::Spool;

/// The largest download, in bytes; the largest known (kubelet 1.14) has 128 MB.
const DOWNLOAD_LIMIT: u64 = 2 << 30;

/// What everything is made with.
pub struct Workshop<'a> {
    /// What to make.
    pub plan: &'a Plan,
    /// How much of it.
    pub depth: Depth,
    /// What each part must be besides.
    pub lock: Option<&'a Target>,
    /// Whose word counts for a download that the lock pins.
    pub voucher: Voucher,
    /// Where to get it.
    pub client: &'a Client,
    /// Where to look for it first, and to keep it for the next build.
    pub cache: Option<&'a Cache>,
    /// Ends all transfers when one has failed.
    pub stop: &'a Stop,
    /// Where to keep it.
    pub spool: &'a Spool,
    /// Who is told.
    pub progress: &'a Progress,
    /// How many cores to keep busy.
    pub jobs: usize,
    /// How hard to compress.
    pub effort: Effort,
    /// What becomes of layers.
    pub layers: Layers,
}

/// Who says what a download must be that a lock pins and its publisher has a checksum of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// The lock: it was compared with the publisher's word when it was pinned.
    Lock,
    /// The publisher, who is asked again; where nothing is to be had there, the lock.
    Publisher,
}

impl Voucher {
    /// The lock, where its word counts.
    pub fn lock(self, lock: Option<&Target>) -> Option<&Target> {
        lock.filter(|_| self == Self::Lock)
    }
}

/// What becomes of the layers of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layers {
    /// They are unpacked and compressed like everything else.
    Repacked,
    /// They stay the bytes of their registry, and the manifest that names these is kept.
    Verbatim,
}

impl Layers {
    /// What `--verbatim` stands for.
    pub const fn of(verbatim: bool) -> Self {
        if verbatim {
            Self::Verbatim
        } else {
            Self::Repacked
        }
    }

    /// How hard to compress where nobody says so. Who keeps the layers as they are, most of a pot, wants it soon or exact, and gains little by working hard on the rest.
    pub const fn usual_effort(self) -> Effort {
        match self {
            Self::Repacked => Effort::Balanced,
            Self::Verbatim => Effort::Fast,
        }
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repacked => "layers packed anew",
            Self::Verbatim => "layers verbatim",
        })
    }
}

/// How much of a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What its parts are: downloads and files are fetched and checked, images found. Nothing is packed.
    Digests,
    /// A pot.
    Pot,
}

enum Fetch {
    Download(usize),
    File(usize),
    Image(ImageName),
    Layer(ImageName, RemoteLayer),
}

enum Pack {
    Archive(usize, File, Sha256),
    Content(String, compress::Source),
    /// With its stored digest.
    Kept(String, compress::Source, Sha256),
}

struct Gathered {
    downloads: BTreeMap<usize, FetchedDownload>,
    files: BTreeMap<usize, FetchedExtra>,
    images: Vec<RemoteImage>,
    origins: BTreeMap<Sha256, Origin>,
    blobs: Blobs,
    common: Common,
}

struct Run<'a> {
    shop: &'a Workshop<'a>,
    registries: Registries<'a>,
    gathered: Mutex<Gathered>,
    turn: Turn,
}

/// Fetches, checks and packs everything in the plan.
///
/// # Errors
/// The first thing that could not be had, was not what it should be, or could not be written.
pub fn gather(shop: &Workshop<'_>) -> anyhow::Result<Contents> {
    let run = Run {
        shop,
        registries: Registries::new(shop.client)
            .with_cache(shop.cache)
            .following(shop.lock.is_some()),
        gathered: Mutex::new(Gathered {
            downloads: BTreeMap::new(),
            files: BTreeMap::new(),
            images: Vec::new(),
            origins: BTreeMap::new(),
            blobs: Blobs::default(),
            common: Common::at(shop.effort),
        }),
        turn: Turn::until(shop.stop.clone()),
    };
    shop.progress.foresee_unknown(shop.plan.transfers() as u64);
    let images = shop.plan.images.iter().cloned().map(Fetch::Image);
    let start = images
        .chain((0..shop.plan.downloads.len()).map(Fetch::Download))
        .chain((0..shop.plan.files.len()).map(Fetch::File))
        .collect();
    let threads = Threads {
        fetch: shop.client.connections(),
        pack: shop.jobs,
    };
    lanes::run(
        start,
        threads,
        shop.stop,
        &|piece| run.fetch(piece),
        &|piece| run.pack(piece),
    )?;
    shop.progress.fetched();
    if shop.stop.requested() {
        // Nobody failed, and not everything is there.
        bail!("given up");
    }
    let gathered = run
        .gathered
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut images = gathered.images;
    images.sort_by_key(|image| image.name.familiar());
    Ok(Contents {
        downloads: gathered.downloads.into_values().collect(),
        files: gathered.files.into_values().collect(),
        images,
        origins: gathered.origins,
        blobs: gathered.blobs,
        layers: shop.layers,
        windows: shop.effort.windows(),
    })
}

impl Run<'_> {
    fn fetch(&self, piece: Fetch) -> Outcome<Fetch, Pack> {
        let outcome = match piece {
            Fetch::Download(index) => self.download(index),
            Fetch::File(index) => self.file(index),
            Fetch::Image(name) => self.image(&name),
            Fetch::Layer(name, layer) => self.layer(&name, &layer),
        };
        outcome.map_err(|error| {
            let shop = self.shop;
            // Now, while transfers go on: once an error is told, nobody is asked any more.
            match released::doubt(shop.plan.kubernetes, &error, shop.client, shop.progress) {
                Some(doubt) => error.context(doubt),
                None => error,
            }
        })
    }

    fn pack(&self, piece: Pack) -> Outcome<Fetch, Pack> {
        match piece {
            Pack::Archive(index, file, digest) => self.unpack(index, file, digest),
            Pack::Content(label, source) => self.compress(&label, source),
            Pack::Kept(label, source, stored) => self.keep(&label, source, stored),
        }
    }

    fn download(&self, index: usize) -> Outcome<Fetch, Pack> {
        let download = &self.shop.plan.downloads[index];
        let label = download.label();
        let url = Url::parse(&download.url).with_context(|| format!("{:?}", download.url))?;
        let task = self.shop.progress.transfer(&label, Expected::Unknown);
        // What it must be first: without that nothing is downloaded.
        let promised = self.promised(download, &task)?;
        let from = self.shop.client.route(&url);
        let key = promised.key();
        let wanted = Wanted {
            key: &key,
            size: promised.size(),
            label: &label,
        };
        let obtained = self.obtain(wanted, &task, &|new_file| {
            let file = new_file().map_err(|cause| no_file(&url, &cause))?;
            let size = Size::AtMost(DOWNLOAD_LIMIT);
            let algorithm = promised.algorithm();
            let saved = self
                .shop
                .client
                .save(Ask::plain(&url), file, size, algorithm, &task)?;
            promised.compare(download, &from, &saved)?;
            Ok(saved)
        })?;
        if let Some(lock) = self.shop.lock {
            lock.of_fetched(
                download.name.text(),
                from.as_str(),
                obtained.sha256,
                obtained.size,
            )?;
        }
        task.finish(&how(&obtained));

        let name = download.name;
        let mut gathered = self.lock();
        let program = (name.text().to_owned(), obtained.sha256);
        gathered.downloads.insert(
            index,
            FetchedDownload {
                name,
                version: download.version.clone(),
                url: download.url.clone(),
                from,
                origin: obtained.origin,
                digest: obtained.sha256,
                size: obtained.size,
                checked: download.check.checked(),
                by_lock: promised.by_lock(),
                files: match download.layout {
                    Layout::Program => vec![program],
                    Layout::Archive | Layout::ArchiveWithFolder(_) => Vec::new(),
                },
            },
        );
        if self.shop.depth == Depth::Digests {
            return Ok(Vec::new());
        }
        Ok(match download.layout {
            Layout::Program => {
                let Obtained {
                    file, size, sha256, ..
                } = obtained;
                if name == relatives::COMMON {
                    let common = &mut gathered.common;
                    let freed = common.arrived(&file, size, sha256).context(BESIDE)?;
                    let mut following: Vec<_> = freed.into_iter().map(ready).collect();
                    // It stands on its own, whoever refers to it.
                    if gathered.blobs.take(sha256, Way::Alone) {
                        following.push(ready(piece(label, file, size, sha256)));
                    }
                    following
                } else {
                    let piece = piece(label, file, size, sha256);
                    gathered.pack(self.way(), piece).into_iter().collect()
                }
            }
            // Taken apart before anything is compressed: it leads to more work.
            Layout::Archive | Layout::ArchiveWithFolder(_) => {
                let archive = Pack::Archive(index, obtained.file, obtained.sha256);
                vec![Next::Pack(u64::MAX, archive)]
            }
        })
    }

    fn file(&self, index: usize) -> Outcome<Fetch, Pack> {
        let shop = self.shop;
        let extra = &shop.plan.files[index];
        let name = extra.name.to_string();
        let (from, origin, digest, size, file) = match &extra.place {
            Place::At(address, expected) => {
                let task = shop.progress.transfer(&name, Expected::Unknown);
                let key = Key::Sha256(*expected);
                let wanted = Wanted {
                    key: &key,
                    size: None,
                    label: &name,
                };
                let url = address.url();
                let obtained = self.obtain(wanted, &task, &|new_file| {
                    let to = new_file().map_err(|cause| no_file(url, &cause))?;
                    extras::download(&extra.name, (url, *expected), shop.client, to, &task)
                })?;
                task.finish(&how(&obtained));
                let from = shop.client.route(url).to_string();
                let Obtained {
                    file, size, sha256, ..
                } = obtained;
                (from, Some(obtained.origin), sha256, size, file)
            }
            Place::Here(path, expected) => {
                let task = shop.progress.task(&name, None);
                let to = shop.spool.file().context(BESIDE)?;
                let (digest, size, file) = extras::read(&extra.name, (path, *expected), to, &task)?;
                task.finish(&format!("read and checked ({})", bytes(size)));
                (path.display().to_string(), None, digest, size, file)
            }
        };
        if let Some(lock) = shop.lock {
            lock.of_fetched(&name, &from, digest, size)?;
        }
        let fetched = FetchedExtra {
            name: extra.name.clone(),
            version: extra.version.clone(),
            source: extra.source(),
            from,
            digest,
            size,
            origin,
        };
        let mut gathered = self.lock();
        gathered.files.insert(index, fetched);
        if shop.depth == Depth::Digests {
            return Ok(Vec::new());
        }
        let piece = piece(name, file, size, digest);
        Ok(gathered.pack(Way::Alone, piece).into_iter().collect())
    }

    /// A content with the digest that is wanted: out of the cache where there is one, else downloaded into a nameless file.
    fn obtain(
        &self,
        wanted: Wanted<'_>,
        task: &Task,
        download: Fetcher<'_>,
    ) -> anyhow::Result<Obtained> {
        let obtained = match self.shop.cache {
            Some(cache) => cache.obtain(wanted, task, download)?,
            None => download(&|| self.shop.spool.file())?.into(),
        };
        if obtained.origin == Origin::Cache {
            task.skip(obtained.size);
        }
        Ok(obtained)
    }

    fn unpack(&self, index: usize, file: File, digest: Sha256) -> Outcome<Fetch, Pack> {
        let download = &self.shop.plan.downloads[index];
        let programs = archive::unpack(file, digest, download.layout.folder(), self.shop.spool)
            .map_err(|problem| anyhow!("the archive {} {problem}", download.url))?;
        let reference = relatives::reference(download.name, &programs, self.shop.effort);
        let reference = reference.context(BESIDE)?.map(Arc::new);
        let mut gathered = self.lock();
        let mut following = Vec::new();
        let mut files = Vec::new();
        for program in programs {
            let label = format!("{} of {}", program.name, download.name);
            files.push((program.name, program.digest));
            let mut piece = piece(label, program.file, program.size, program.digest);
            // The reference itself, under whatever names, stands on its own.
            let way = match reference.as_deref().map(Reference::digest) {
                None => self.way(),
                Some(own) if own == program.digest => Way::Alone,
                Some(own) => {
                    piece.2.reference.clone_from(&reference);
                    Way::Against(own)
                }
            };
            following.extend(gathered.pack(way, piece));
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
            .resolve(
                name,
                self.shop.plan.arch,
                &|paper| self.keep_paper(paper),
                &task,
            )
            .with_context(|| format!("cannot pull the image {name}"))?;
        if let Some(lock) = self.shop.lock {
            lock.of_image(&image)?;
        }
        let size: u64 = image.layers.iter().map(|layer| layer.size).sum();
        task.finish(&format!(
            "found ({} in {} layers)",
            bytes(size),
            image.layers.len()
        ));
        if self.shop.depth == Depth::Digests {
            self.lock().images.push(image);
            return Ok(Vec::new());
        }
        let mut gathered = self.lock();
        let layers: Vec<&RemoteLayer> = image
            .layers
            .iter()
            .filter(|layer| {
                let way = match self.shop.layers {
                    Layers::Repacked => self.way(),
                    Layers::Verbatim => Way::AsStored(layer.digest),
                };
                gathered.blobs.take(layer.diff_id, way)
            })
            .collect();
        // Now, before any of them is fetched; and each image has papers.
        let parts = gathered.blobs.count() + 2 * (gathered.images.len() + 1);
        descriptors::suffice(parts, self.shop.client.connections() + self.shop.jobs)?;
        let sizes = layers.iter().map(|layer| layer.size);
        self.shop
            .progress
            .foresee(sizes.fold(0, u64::saturating_add));
        let following = layers
            .into_iter()
            .map(|layer| Next::Fetch(Fetch::Layer(name.clone(), layer.clone())))
            .collect();
        gathered.images.push(image);
        Ok(following)
    }

    fn layer(&self, name: &ImageName, layer: &RemoteLayer) -> Outcome<Fetch, Pack> {
        let short = &layer.digest.hex()[..12];
        let label = format!("layer {short} of {name}");
        let expected = Expected::Foreseen(layer.size);
        let task = self.shop.progress.transfer(&label, expected);
        let key = Key::Sha256(layer.digest);
        let wanted = Wanted {
            key: &key,
            size: Some(layer.size),
            label: &format!("layer of {name}"),
        };
        let obtained = self
            .obtain(wanted, &task, &|new_file| {
                self.registries.save_layer(name, layer, new_file, &task)
            })
            .with_context(|| format!("cannot pull the image {name}"))?;
        task.finish(&how(&obtained));
        self.lock().origins.insert(layer.digest, obtained.origin);
        // Compressed layers unpack to two or three times their size: enough to order them among programs.
        let weight = match layer.compression {
            Compression::None => obtained.size,
            Compression::Gzip | Compression::Zstd => obtained.size.saturating_mul(3),
        };
        let source = compress::Source {
            file: obtained.file,
            compression: layer.compression,
            unpacked: layer.diff_id,
            reference: None,
        };
        // Where it came from, for whoever must be told that it is bad.
        let from = self.registries.layer_location(name, layer)?;
        let label = format!("{label}, fetched from {from}");
        Ok(match self.shop.layers {
            Layers::Verbatim => {
                vec![Next::Pack(weight, Pack::Kept(label, source, layer.digest))]
            }
            Layers::Repacked => {
                let piece = (weight, label, source);
                let piece = self.lock().common.behind(piece);
                piece.map(ready).into_iter().collect()
            }
        })
    }

    /// In which way content is wanted that has no reference of its own.
    const fn way(&self) -> Way {
        match self.shop.effort {
            Effort::Fast | Effort::Balanced => Way::Alone,
            Effort::Max => Way::Common,
        }
    }

    /// Keeps what belongs into a pot of an image's papers, as they are: they are small, and looked at by people.
    fn keep_paper(&self, paper: Paper<'_>) -> anyhow::Result<()> {
        match (self.shop.depth, paper, self.shop.layers) {
            (Depth::Digests, ..) | (Depth::Pot, Paper::Manifest(_), Layers::Repacked) => Ok(()),
            (Depth::Pot, Paper::Manifest(content), Layers::Verbatim)
            | (Depth::Pot, Paper::Config(content), _) => self.store(content),
        }
    }

    /// Keeps a small content as it is.
    fn store(&self, content: &[u8]) -> anyhow::Result<()> {
        let digest = Sha256::of(content);
        let mut file = self.shop.spool.file().context(BESIDE)?;
        file.write_all(content).context(BESIDE)?;
        self.shop.spool.keep(digest, file);
        let size = content.len() as u64;
        self.lock().blobs.add(Packed {
            digest,
            size,
            packing: Packing::Identity,
            unpacked_digest: digest,
            unpacked_size: size,
        });
        Ok(())
    }

    fn keep(&self, label: &str, source: compress::Source, stored: Sha256) -> Outcome<Fetch, Pack> {
        let task = self.shop.progress.task(&format!("checking {label}"), None);
        let windows = self.shop.effort.windows();
        let (packed, file) = compress::keep(source, stored, windows, &self.turn, &task)
            .with_context(|| format!("cannot keep {label} as its registry has it"))?;
        self.shop.spool.keep(packed.digest, file);
        self.lock().blobs.keep(packed);
        Ok(Vec::new())
    }

    fn compress(&self, label: &str, source: compress::Source) -> Outcome<Fetch, Pack> {
        // What is still compressed does not tell how large it is.
        let total = match source.compression {
            Compression::None => source.file.metadata().ok().map(|it| it.len()),
            Compression::Gzip | Compression::Zstd => None,
        };
        let task = self.shop.progress.task(&format!("packing {label}"), total);
        let to = self.shop.spool.file().context(BESIDE)?;
        let style = (self.shop.effort, self.shop.layers);
        let (packed, file) = compress::compress(source, style, to, &self.turn, &task)
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

impl Gathered {
    /// What there is to do now that `piece` is wanted in this way: once for all who want it.
    fn pack(&mut self, way: Way, piece: Waiting) -> Option<Next<Fetch, Pack>> {
        if !self.blobs.take(piece.2.unpacked, way) {
            return None;
        }
        match way {
            Way::Common => self.common.behind(piece).map(ready),
            Way::Alone | Way::Against(_) | Way::AsStored(_) => Some(ready(piece)),
        }
    }
}

fn piece(label: String, file: File, size: u64, unpacked: Sha256) -> Waiting {
    let source = compress::Source {
        file,
        compression: Compression::None,
        unpacked,
        reference: None,
    };
    (size, label, source)
}

fn ready((weight, label, source): Waiting) -> Next<Fetch, Pack> {
    Next::Pack(weight, Pack::Content(label, source))
}

/// What was done to have something, in the past tense.
fn how(obtained: &Obtained) -> String {
    let size = bytes(obtained.size);
    match obtained.origin {
        Origin::Cache => format!("found in the cache and checked ({size})"),
        Origin::Network => format!("fetched and checked ({size})"),
    }
}

fn no_file(url: &Url, cause: &io::Error) -> FetchError {
    FetchError::refused(url, format!("cannot make a file for it: {cause}"))
}
