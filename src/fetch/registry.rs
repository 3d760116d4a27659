//! A small pull-only client for container registries.
//!
//! It speaks the distribution API's two forms that are in use (Docker's schema 2 and OCI) and takes nothing on trust: a manifest is compared with the digest that
//! named it (its index, or the registry's `Docker-Content-Digest` where it was asked for by tag), a config and a layer with their manifest, sizes with their
//! descriptors. Who we are to a registry is for `tokens`. Refused, with the reason: schema 1, an index within an index, layers that live elsewhere ("foreign"), anything that
//! is no Linux image for the wanted architecture.

use std::cell::Cell;
use std::fs::File;
use std::io;

use bundle_spec::{Arch, Sha256, limits};
use reqwest::Url;
use reqwest::header::HeaderMap;

use super::http::{Ask, CHANGED, Client, FetchError, Reply, Saved, Size, cannot_write};
pub use super::manifests::Compression;
use super::manifests::{self, Chosen, Form, Named};
use super::partial::Partial;
use super::tokens::Tokens;
use crate::cache::place::Key;
use crate::cache::{Cache, Wanted};
use crate::image_name::ImageName;
use crate::mirrors;
use crate::progress::Task;
use crate::releases::Algorithm;

/// How many images of an index are looked at that does not say what they are for.
const UNSAID: usize = 16;

/// What manifests this client reads. Schema 1 is not among them, but old registries send it all the same.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json";

/// An image with everything that is needed to fetch and check its layers, and nothing more: an image's papers are large where somebody wants them to be, and there are many.
#[derive(Debug)]
pub struct RemoteImage {
    /// The name that it was asked for by.
    pub name: ImageName,
    /// Where its manifest really came from.
    pub from: Url,
    /// The image ID: the digest of the config.
    pub id: Sha256,
    /// The digest of its manifest, which pins all of it.
    pub digest: Sha256,
    /// The size of the config in bytes.
    pub config: u64,
    /// The layers, lowest first.
    pub layers: Vec<RemoteLayer>,
}

impl RemoteImage {
    /// The size of the config and the layers in bytes, as the registry has them. A descriptor claims any number at all.
    pub fn size(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.size);
        layers.fold(self.config, u64::saturating_add)
    }
}

/// What an image has beside its layers, with its bytes as they were checked.
#[derive(Clone, Copy, Debug)]
pub enum Paper<'a> {
    /// The manifest, which names the config and the layers.
    Manifest(&'a [u8]),
    /// The config.
    Config(&'a [u8]),
}

/// Who may keep papers: they are handed over as they come, and nobody else has them.
pub type Keeper<'a> = &'a dyn Fn(Paper<'_>) -> anyhow::Result<()>;

/// A layer in a registry.
#[derive(Clone, Debug)]
pub struct RemoteLayer {
    /// The digest of the bytes in the registry.
    pub digest: Sha256,
    /// Their number.
    pub size: u64,
    /// How they are compressed.
    pub compression: Compression,
    /// The digest of the unpacked tar, as the image's config promises it.
    pub diff_id: Sha256,
}

/// What an image's manifest says of its size.
#[derive(Clone, Debug)]
pub struct Described {
    /// The digest of the manifest for the wanted architecture.
    pub digest: Sha256,
    /// The digest and the size in bytes of the config and of every layer, as the registry has them.
    pub blobs: Vec<(Sha256, u64)>,
}

impl Described {
    /// The image's size in bytes, as the registry has it. A descriptor claims any number at all.
    pub fn size(&self) -> u64 {
        let sizes = self.blobs.iter().map(|(_, size)| *size);
        sizes.fold(0, u64::saturating_add)
    }
}

/// Who says that an image is for an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vouches {
    /// Nobody but its config. So it is with what an index holds and does not say what it is for.
    Nobody,
    /// The index that lists it. Configs of Kubernetes' own images were wrong for years: those of etcd 3.4.13-0 and pause 3.1 say amd64 for every architecture.
    Index,
    /// The lock, which was made of an index.
    Lock,
}

/// The registries of a run.
pub struct Registries<'a> {
    client: &'a Client,
    /// Where what is known by its digest is looked for first.
    cache: Option<&'a Cache>,
    /// Who says that an image which no index lists is for an architecture.
    word: Vouches,
    tokens: Tokens<'a>,
}

impl<'a> Registries<'a> {
    /// Registries that are reached through `client`.
    pub fn new(client: &'a Client) -> Self {
        Self {
            client,
            cache: None,
            word: Vouches::Nobody,
            tokens: Tokens::new(client),
        }
    }

    /// The same with a cache for manifests and configs that are known by their digests.
    #[must_use]
    pub fn with_cache(mut self, cache: Option<&'a Cache>) -> Self {
        self.cache = cache;
        self
    }

    /// The same, where `locked`, with images that a lock names by the digests of their manifests: it was made of what their indexes listed.
    #[must_use]
    pub fn following(mut self, locked: bool) -> Self {
        if locked {
            self.word = Vouches::Lock;
        }
        self
    }

    /// Finds the image called `name` for `arch`, its layers and what they unpack to; `keeper` gets its papers.
    ///
    /// # Errors
    /// [`FetchError`] with the address where it was not to be had or not what it should be, or the keeper failed.
    pub fn resolve(
        &self,
        name: &ImageName,
        arch: Arch,
        keeper: Keeper<'_>,
        task: &Task,
    ) -> Result<RemoteImage, FetchError> {
        let (reply, voucher) = self.manifest(name, arch, task)?;
        let named = manifests::named(&reply)?;
        keeper(Paper::Manifest(&reply.body))
            .map_err(|cause| FetchError::refused(&reply.from, format!("{cause:#}")))?;
        let (from, digest) = (reply.from.clone(), Sha256::of(&reply.body));
        drop(reply);
        self.image(name, (arch, voucher), named, (from, digest), keeper, task)
    }

    /// What the manifest of the image called `name` says of its size. Its config is not fetched, unless it lies in an index that does not say what it is for: whether an image
    /// that has no index is for `arch` is not known.
    ///
    /// # Errors
    /// As for [`Self::resolve`].
    pub fn describe(
        &self,
        name: &ImageName,
        arch: Arch,
        task: &Task,
    ) -> Result<Described, FetchError> {
        let (reply, _) = self.manifest(name, arch, task)?;
        let Named { config, layers } = manifests::named(&reply)?;
        let layers = layers.iter().map(|(digest, size, _)| (*digest, *size));
        Ok(Described {
            digest: Sha256::of(&reply.body),
            blobs: [config].into_iter().chain(layers).collect(),
        })
    }

    /// Where the manifest of the image called `name` is really fetched from.
    ///
    /// # Errors
    /// [`FetchError`] where its registry has no address.
    pub fn location(&self, name: &ImageName) -> Result<Url, FetchError> {
        Ok(self
            .client
            .route(&address(name, "manifests", &name.reference())?))
    }

    /// Where a layer of the image called `name` is really fetched from.
    ///
    /// # Errors
    /// As for [`Self::location`].
    pub fn layer_location(&self, name: &ImageName, layer: &RemoteLayer) -> Result<Url, FetchError> {
        let url = address(name, "blobs", &layer.digest.to_string())?;
        Ok(self.client.route(&url))
    }

    /// The image's manifest for `arch`, behind an index or not, compared with every digest that is known of it.
    fn manifest(
        &self,
        name: &ImageName,
        arch: Arch,
        task: &Task,
    ) -> Result<(Reply, Vouches), FetchError> {
        let url = address(name, "manifests", &name.reference())?;
        let reply = match name.digest() {
            Some(digest) => self.ask_known(name, &url, digest, "manifest", task)?,
            None => self.ask(name, &url, limits::MANIFEST, task)?,
        };
        let announced = reply.headers.get("Docker-Content-Digest").map(|value| {
            let digest = value.to_str().unwrap_or_default().parse::<Sha256>();
            digest.map_err(|cause| {
                FetchError::refused(
                    &reply.from,
                    format!("the digest that it announces: {cause}"),
                )
            })
        });
        let announced = announced.transpose()?;
        for expected in [name.digest(), announced].into_iter().flatten() {
            // The digest of a manifest of schema 1 is that of its content without the signatures in it.
            compare(&reply, expected)
                .map_err(|other| manifests::obsolete(&reply).unwrap_or(other))?;
        }
        if matches!(manifests::shape(&reply)?, Form::Manifest) {
            return Ok((reply, self.word));
        }
        let chosen = manifests::choose(&reply, arch)?;
        let index = reply.from.clone();
        drop(reply);
        let entries = match chosen {
            Chosen::Listed(digest, size) => {
                let listed = self.manifest_by_digest(name, digest, size, task)?;
                return Ok((listed, Vouches::Index));
            }
            Chosen::Unsaid(entries) => entries,
        };
        for (digest, size) in entries.into_iter().take(UNSAID) {
            let unsaid = self.manifest_by_digest(name, digest, size, task)?;
            // Beside images there may be what was signed or listed of them.
            let Ok(Named { config, .. }) = manifests::named(&unsaid) else {
                continue;
            };
            let config = self.config(name, config.0, task)?;
            if manifests::config(&config).is_ok_and(|config| config.is_for(arch)) {
                return Ok((unsaid, Vouches::Nobody));
            }
        }
        Err(manifests::none_for(&index, arch))
    }

    /// Fetches a layer of the image called `name` into a file from `new_file`, and compares its digest.
    ///
    /// # Errors
    /// [`FetchError`] with the address.
    pub fn save_layer(
        &self,
        name: &ImageName,
        layer: &RemoteLayer,
        new_file: &dyn Fn() -> io::Result<File>,
        task: &Task,
    ) -> Result<Saved, FetchError> {
        let url = address(name, "blobs", &layer.digest.to_string())?;
        let from = self.client.route(&url);
        let file = new_file().map_err(|cause| {
            FetchError::refused(
                &from,
                format!("cannot make a temporary file for it: {cause}"),
            )
        })?;
        // Tokens live for minutes: a layer that takes longer goes on with another one where it was.
        let mut partial = Partial::take_up(file, Algorithm::Sha256)
            .map_err(|cause| cannot_write(&from, &cause))?;
        let so_far = Cell::new(partial.length());
        self.tokens.with(name, task, &so_far, |authorization| {
            let ask = Ask {
                authorization,
                ..Ask::plain(&url)
            };
            let size = Size::Exactly(layer.size);
            let filled = self.client.fill(ask, size, task, &mut partial);
            so_far.set(partial.length());
            filled
        })?;
        let saved = partial.finish();
        if saved.sha256 == layer.digest {
            Ok(saved)
        } else {
            Err(FetchError::wrong_content(
                &from,
                format!("its digest is {} instead of {}", saved.sha256, layer.digest),
            )
            .advise("a mirror or a proxy may have changed it; try again without"))
        }
    }

    /// The manifest that an index lists with this digest and this size.
    fn manifest_by_digest(
        &self,
        name: &ImageName,
        digest: Sha256,
        size: u64,
        task: &Task,
    ) -> Result<Reply, FetchError> {
        let url = address(name, "manifests", &digest.to_string())?;
        let reply = self.ask_known(name, &url, digest, "manifest", task)?;
        if reply.body.len() as u64 != size {
            return Err(FetchError::refused(
                &reply.from,
                format!("it has {} bytes instead of {size}", reply.body.len()),
            ));
        }
        match manifests::shape(&reply)? {
            Form::Manifest => Ok(reply),
            Form::Index => Err(FetchError::refused(
                &reply.from,
                "it is an index within an index",
            )),
        }
    }

    /// The config with the digest `id` of the image called `name`.
    fn config(&self, name: &ImageName, id: Sha256, task: &Task) -> Result<Reply, FetchError> {
        let url = address(name, "blobs", &id.to_string())?;
        self.ask_known(name, &url, id, "config", task)
    }

    /// The image that a manifest with this digest from there names.
    fn image(
        &self,
        name: &ImageName,
        (arch, voucher): (Arch, Vouches),
        named: Named,
        (from, digest): (Url, Sha256),
        keeper: Keeper<'_>,
        task: &Task,
    ) -> Result<RemoteImage, FetchError> {
        let refused = |problem: String| FetchError::refused(&from, problem);
        let (id, _) = named.config;
        let reply = self.config(name, id, task)?;
        let config = manifests::config(&reply)?;
        let other = config.architecture != arch.go();
        if config.os != "linux" || (other && voucher == Vouches::Nobody) {
            return Err(refused(format!(
                "the image is for {}/{}, and the pot for linux/{arch}",
                manifests::shown(&config.os),
                manifests::shown(&config.architecture)
            )));
        }
        if other {
            task.note(&format!(
                "its config says {}, and its index lists it for {arch}: that counts, as for Docker and containerd",
                manifests::shown(&config.architecture)
            ));
        }
        let listed = named.layers.len();
        let diff_ids = config.diff_ids();
        if diff_ids.len() != listed {
            let problem = format!(
                "the manifest lists {listed} layers and the config {}",
                diff_ids.len()
            );
            return Err(refused(problem));
        }
        keeper(Paper::Config(&reply.body))
            .map_err(|cause| FetchError::refused(&reply.from, format!("{cause:#}")))?;
        let layers = named.layers.into_iter().zip(diff_ids);
        let layers = layers
            .map(|((digest, size, compression), diff_id)| RemoteLayer {
                digest,
                size,
                compression,
                diff_id,
            })
            .collect();
        Ok(RemoteImage {
            name: name.clone(),
            from,
            id,
            digest,
            config: reply.body.len() as u64,
            layers,
        })
    }

    /// Something small whose digest is known: out of the cache, or asked for, compared and kept there. It is called `what`.
    fn ask_known(
        &self,
        name: &ImageName,
        url: &Url,
        digest: Sha256,
        what: &str,
        task: &Task,
    ) -> Result<Reply, FetchError> {
        let key = Key::Sha256(digest);
        let label = format!("{what} of {name}");
        let wanted = Wanted {
            key: &key,
            size: None,
            label: &label,
        };
        let refused = |cause: anyhow::Error| FetchError::refused(url, format!("{cause:#}"));
        if let Some(cache) = self.cache
            && let Some(body) = cache
                .read(wanted, limits::MANIFEST, task)
                .map_err(refused)?
        {
            return Ok(Reply {
                headers: HeaderMap::new(),
                body,
                from: self.client.route(url),
            });
        }
        let reply = self.ask(name, url, limits::MANIFEST, task)?;
        compare(&reply, digest)?;
        if let Some(cache) = self.cache {
            cache.write(wanted, &reply.body).map_err(refused)?;
        }
        Ok(reply)
    }

    fn ask(
        &self,
        name: &ImageName,
        url: &Url,
        limit: u64,
        task: &Task,
    ) -> Result<Reply, FetchError> {
        self.tokens
            .with(name, task, &Cell::new(0), |authorization| {
                let ask = Ask {
                    accept: Some(ACCEPT),
                    authorization,
                    ..Ask::plain(url)
                };
                self.client.get(ask, limit, task)
            })
    }
}

fn address(name: &ImageName, what: &str, reference: &str) -> Result<Url, FetchError> {
    let path = format!("v2/{}/{what}/{reference}", name.repository());
    mirrors::registry_root(name.registry())
        .and_then(|root| root.join(&path).map_err(|cause| cause.to_string()))
        .map_err(|problem| FetchError::refused(name, problem))
}

fn compare(reply: &Reply, expected: Sha256) -> Result<(), FetchError> {
    let seen = Sha256::of(&reply.body);
    if seen == expected {
        Ok(())
    } else {
        Err(FetchError::refused(
            &reply.from,
            format!("its digest is {seen} instead of {expected}"),
        )
        .advise(CHANGED))
    }
}
