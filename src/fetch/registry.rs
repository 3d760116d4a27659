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
use oci_spec::image::{Arch as OciArch, Descriptor, ImageIndex, ImageManifest, Os};
use reqwest::Url;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use super::http::{Ask, Client, FetchError, Reply, Saved, Size, cannot_write};
use super::partial::Partial;
use super::tokens::Tokens;
use crate::cache::place::Key;
use crate::cache::{Cache, Wanted};
use crate::image_name::ImageName;
use crate::mirrors;
use crate::progress::Task;
use crate::releases::Algorithm;

/// What manifests this client reads. Schema 1 is not among them, but old registries send it all the same.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json";

/// An image with everything that is needed to fetch and check its layers.
#[derive(Debug)]
pub struct RemoteImage {
    /// The name that it was asked for by.
    pub name: ImageName,
    /// Where its manifest really came from.
    pub from: Url,
    /// The image ID: the digest of the config.
    pub id: Sha256,
    /// The config's bytes.
    pub config: Vec<u8>,
    /// The manifest's bytes, which name the config and the layers.
    pub manifest: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<RemoteLayer>,
}

impl RemoteImage {
    /// The digest of its manifest, which pins all of it.
    pub fn digest(&self) -> Sha256 {
        Sha256::of(&self.manifest)
    }

    /// The size of the config and the layers in bytes, as the registry has them. A descriptor claims any number at all.
    pub fn size(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.size);
        layers.fold(self.config.len() as u64, u64::saturating_add)
    }
}

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

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip
    Gzip,
    /// zstd
    Zstd,
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

/// The registries of a run.
pub struct Registries<'a> {
    client: &'a Client,
    /// Where what is known by its digest is looked for first.
    cache: Option<&'a Cache>,
    tokens: Tokens<'a>,
}

/// The part of an image's config that is checked; the rest is the runtime's business.
#[derive(Deserialize)]
struct Config {
    architecture: String,
    os: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<Sha256>,
}

/// What tells the manifest forms apart, whatever the server calls them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl<'a> Registries<'a> {
    /// Registries that are reached through `client`.
    pub fn new(client: &'a Client) -> Self {
        Self {
            client,
            cache: None,
            tokens: Tokens::new(client),
        }
    }

    /// The same with a cache for manifests and configs that are known by their digests.
    #[must_use]
    pub fn with_cache(mut self, cache: Option<&'a Cache>) -> Self {
        self.cache = cache;
        self
    }

    /// Finds the image called `name` for `arch`: its config and where its layers are.
    ///
    /// # Errors
    /// [`FetchError`] with the address where it was not to be had or not what it should be.
    pub fn resolve(
        &self,
        name: &ImageName,
        arch: Arch,
        task: &Task,
    ) -> Result<RemoteImage, FetchError> {
        let reply = self.manifest(name, arch, task)?;
        self.image(name, arch, &reply, task)
    }

    /// What the manifest of the image called `name` says of its size. Its config is not fetched: whether an image that has no index is for `arch` is not known.
    ///
    /// # Errors
    /// As for [`Self::resolve`].
    pub fn describe(
        &self,
        name: &ImageName,
        arch: Arch,
        task: &Task,
    ) -> Result<Described, FetchError> {
        let reply = self.manifest(name, arch, task)?;
        let manifest = image_manifest(&reply)?;
        let config = sha256(manifest.config(), &reply.from)?;
        let layers = layers(&reply, &manifest)?;
        Ok(Described {
            digest: Sha256::of(&reply.body),
            blobs: [(config, manifest.config().size())]
                .into_iter()
                .chain(layers.iter().map(|(digest, size, _)| (*digest, *size)))
                .collect(),
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
    fn manifest(&self, name: &ImageName, arch: Arch, task: &Task) -> Result<Reply, FetchError> {
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
            compare(&reply, expected)?;
        }
        if matches!(shape(&reply)?, Form::Manifest) {
            return Ok(reply);
        }
        let chosen = choose(&reply, arch)?;
        // A digest is one before it becomes part of an address.
        let digest = sha256(&chosen, &reply.from)?;
        let inner = self.manifest_by_digest(name, digest, chosen.size(), task)?;
        match shape(&inner)? {
            Form::Manifest => Ok(inner),
            Form::Index => Err(FetchError::refused(
                &inner.from,
                "it is an index within an index",
            )),
        }
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
        Ok(reply)
    }

    fn image(
        &self,
        name: &ImageName,
        arch: Arch,
        reply: &Reply,
        task: &Task,
    ) -> Result<RemoteImage, FetchError> {
        let refused = |problem: String| FetchError::refused(&reply.from, problem);
        let manifest = image_manifest(reply)?;
        let id = sha256(manifest.config(), &reply.from)?;
        let config_url = address(name, "blobs", &id.to_string())?;
        let config = self.ask_known(name, &config_url, id, "config", task)?;
        let parsed: Config = serde_json::from_slice(&config.body).map_err(|cause| {
            FetchError::refused(
                &config.from,
                format!("the image's config does not parse: {cause}"),
            )
        })?;
        if parsed.os != "linux" || parsed.architecture != arch.go() {
            return Err(refused(format!(
                "the image is for {}/{}, and the pot for linux/{arch}",
                parsed.os, parsed.architecture
            )));
        }
        let layers = layers(reply, &manifest)?;
        let diff_ids = parsed.rootfs.diff_ids;
        if parsed.rootfs.kind != "layers" || diff_ids.len() != layers.len() {
            return Err(refused(format!(
                "the manifest lists {} layers and the config {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        let layers = layers
            .into_iter()
            .zip(diff_ids)
            .map(|((digest, size, compression), diff_id)| RemoteLayer {
                digest,
                size,
                compression,
                diff_id,
            })
            .collect();
        Ok(RemoteImage {
            name: name.clone(),
            from: reply.from.clone(),
            id,
            config: config.body,
            manifest: reply.body.clone(),
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

/// What a manifest answer is.
enum Form {
    Manifest,
    Index,
}

fn address(name: &ImageName, what: &str, reference: &str) -> Result<Url, FetchError> {
    let path = format!("v2/{}/{what}/{reference}", name.repository());
    mirrors::registry_root(name.registry())
        .and_then(|root| root.join(&path).map_err(|cause| cause.to_string()))
        .map_err(|problem| FetchError::refused(name, problem))
}

fn shape(reply: &Reply) -> Result<Form, FetchError> {
    let refused = |problem: &str| FetchError::refused(&reply.from, problem);
    let shape: Shape = serde_json::from_slice(&reply.body)
        .map_err(|cause| refused(&format!("the manifest does not parse: {cause}")))?;
    if shape.schema_version != Some(2) {
        return Err(refused("it is an image manifest of the obsolete schema 1")
            .advise("push the image again with a current tool"));
    }
    match (shape.manifests, shape.layers) {
        (Some(_), None) => Ok(Form::Index),
        (None, Some(_)) => Ok(Form::Manifest),
        _ => Err(refused("it is neither an image manifest nor an index")),
    }
}

fn image_manifest(reply: &Reply) -> Result<ImageManifest, FetchError> {
    let refused = |problem: String| FetchError::refused(&reply.from, problem);
    let manifest: ImageManifest = serde_json::from_slice(&reply.body)
        .map_err(|cause| refused(format!("the manifest does not parse: {cause}")))?;
    let config_type = manifest.config().media_type().to_string();
    let known = [
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
    ];
    if known.contains(&config_type.as_str()) {
        Ok(manifest)
    } else {
        Err(refused(format!(
            "it is no container image but {config_type}"
        )))
    }
}

/// Digest, size and compression of every layer, lowest first.
fn layers(
    reply: &Reply,
    manifest: &ImageManifest,
) -> Result<Vec<(Sha256, u64, Compression)>, FetchError> {
    let refused = |problem: String| FetchError::refused(&reply.from, problem);
    let layer = |descriptor: &Descriptor| {
        let compression = compression(descriptor.media_type().as_ref()).map_err(refused)?;
        if descriptor.size() > limits::BLOB_SIZE {
            return Err(refused(format!(
                "a layer has {} bytes, more than the limit of {}",
                descriptor.size(),
                limits::BLOB_SIZE
            )));
        }
        Ok((
            sha256(descriptor, &reply.from)?,
            descriptor.size(),
            compression,
        ))
    };
    manifest.layers().iter().map(layer).collect()
}

/// The first entry of an index for Linux on `arch`.
fn choose(reply: &Reply, arch: Arch) -> Result<Descriptor, FetchError> {
    let refused = |problem: String| FetchError::refused(&reply.from, problem);
    let index: ImageIndex = serde_json::from_slice(&reply.body)
        .map_err(|cause| refused(format!("the index does not parse: {cause}")))?;
    let (wanted, variant) = match arch {
        Arch::Amd64 => (OciArch::Amd64, "v1"),
        Arch::Arm64 => (OciArch::ARM64, "v8"),
    };
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform().as_ref().is_some_and(|platform| {
            *platform.os() == Os::Linux
                && *platform.architecture() == wanted
                && platform
                    .variant()
                    .as_deref()
                    .is_none_or(|own| own == variant)
        })
    };
    index
        .manifests()
        .iter()
        .find(fits)
        .cloned()
        .ok_or_else(|| refused(format!("the index has no image for linux/{arch}")))
}

fn compression(media_type: &str) -> Result<Compression, String> {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.oci.image.layer.v1.tar+gzip" => Ok(Compression::Gzip),
        "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.oci.image.layer.v1.tar" => Ok(Compression::None),
        "application/vnd.docker.image.rootfs.diff.tar.zstd"
        | "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(Compression::Zstd),
        other if other.contains("foreign") || other.contains("nondistributable") => Err(
            "it has a foreign layer, which is not in the registry and may not be passed on"
                .to_owned(),
        ),
        other => Err(format!("it has a layer of the unknown type {other}")),
    }
}

fn sha256(descriptor: &Descriptor, url: &Url) -> Result<Sha256, FetchError> {
    descriptor
        .digest()
        .as_ref()
        .parse()
        .map_err(|cause| FetchError::refused(url, format!("{cause}")))
}

fn compare(reply: &Reply, expected: Sha256) -> Result<(), FetchError> {
    let seen = Sha256::of(&reply.body);
    if seen == expected {
        Ok(())
    } else {
        Err(FetchError::refused(
            &reply.from,
            format!("its digest is {seen} instead of {expected}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_taken_by_their_type() {
        assert_eq!(
            compression("application/vnd.oci.image.layer.v1.tar+zstd"),
            Ok(Compression::Zstd)
        );
        assert!(
            compression("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
                .unwrap_err()
                .contains("foreign")
        );
        assert!(
            compression("application/vnd.oci.image.layer.nondistributable.v1.tar")
                .unwrap_err()
                .contains("foreign")
        );
        assert!(compression("application/x-tar").is_err());
    }
}
