//! The images of the pot are in the container runtime, with the names that the cluster uses.
//!
//! Images that are there already, by their ID, are not loaded again; they only get the names that they lack. All missing ones go into one `docker load` or `ctr images
//! import`, or into two side by side, which read an archive that is made while they read: no layer is ever held in memory or written to a file of ours, and a layer that
//! several images share is sent once. The runtime checks every layer against the image's config, and the config is checked against the ID.

mod archive;
mod oci;
mod parts;
mod store;
mod tar;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bundle_spec::manifest::{Blob, Image};
use bundle_spec::{Manifest, Sha256, VerifiedPot};

use self::archive::{Archive, Layer};
use self::oci::OciArchive;
use crate::facts::containerd;
use crate::host::command::Feed;
use crate::host::side_by_side::cores;
use crate::host::{Host, HostView};
use crate::journal::Change;
use crate::runtime::Runtime;
use crate::step::{State, Step, View, World};

/// How often, and how long apart, containerd's CRI is asked whether it knows an image that was just imported: it is told by an event.
const LOOKS: (u32, Duration) = (120, Duration::from_millis(250));

/// An image and the names that it must have here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageWanted {
    /// The image ID, which the pot's manifest lists.
    pub id: Sha256,
    /// Names with a tag.
    pub names: Vec<String>,
}

/// See the module.
pub struct Images {
    pot: Arc<VerifiedPot>,
    runtime: Runtime,
    wanted: Vec<ImageWanted>,
}

/// What the runtime has of the wanted images.
#[derive(Debug, Default)]
struct Missing {
    /// Images that are not there.
    images: Vec<ImageWanted>,
    /// Names that an image which is there does not have.
    names: Vec<(String, Sha256)>,
    /// Names that another image has.
    taken: Vec<(String, String)>,
}

/// What the image of sandboxes is called among Kubernetes' own, by the registries of all times.
const PAUSE: [&str; 2] = ["k8s.gcr.io/pause:", "registry.k8s.io/pause:"];

/// The image of a pot in which the sandboxes of pods run, and its name: of Kubernetes' own the newest, which is the one that the pot's kubeadm asks for unless somebody added a newer one; where
/// there is none of those, the first of others. The kubelet keeps no other one from being deleted as unused.
pub(super) fn pause(manifest: &Manifest) -> Option<(&Image, &str)> {
    let named = || {
        let images = manifest.images.iter();
        images.flat_map(|image| image.names.iter().map(move |name| (image, name.as_str())))
    };
    let tag = |name: &str| {
        let own = PAUSE.iter().find_map(|own| name.strip_prefix(*own));
        own.and_then(numbers)
    };
    let newest = named()
        .filter_map(|(image, name)| Some((tag(name)?, image, name)))
        .max_by(|(one, ..), (other, ..)| one.cmp(other))
        .map(|(_, image, name)| (image, name));
    newest.or_else(|| {
        named().find(|(_, name)| {
            let last = name.rsplit('/').next();
            last.is_some_and(|last| last.starts_with("pause:"))
        })
    })
}

/// The numbers of a tag such as `3.10.1`; nothing of a tag that has anything else in it.
fn numbers(tag: &str) -> Option<Vec<u32>> {
    tag.split('.').map(|part| part.parse().ok()).collect()
}

impl Images {
    /// Images of `pot`, each with the names that the cluster uses for it.
    ///
    /// # Errors
    /// Where the pot does not hold one of them.
    pub fn new(pot: Arc<VerifiedPot>, wanted: Vec<ImageWanted>) -> Result<Self> {
        for image in &wanted {
            let held = pot.manifest().images.iter().any(|held| held.id == image.id);
            ensure!(
                held,
                "the pot {} holds no image {} ({})",
                pot.manifest().name,
                image.id,
                image.names.join(", ")
            );
        }
        let runtime = pot.manifest().runtime.name.into();
        Ok(Self {
            pot,
            runtime,
            wanted,
        })
    }

    /// The name that somebody else's containerd has for the image of its sandboxes, where nobody bears it: the pot's own stands for it, because there is nowhere to pull it from.
    fn sandbox(&self, host: &HostView, present: &store::Present) -> Result<Option<ImageWanted>> {
        if self.runtime == Runtime::Docker {
            return Ok(None);
        }
        let name = containerd::running(host)?.map(|info| info.sandbox_image);
        let unheld = |name: &String| !name.is_empty() && store::holder(present, name).is_none();
        Ok(name.filter(unheld).and_then(|name| {
            let (image, _) = pause(self.pot.manifest())?;
            Some(ImageWanted {
                id: image.id,
                names: vec![name],
            })
        }))
    }

    fn missing(&self, host: &HostView) -> Result<Missing> {
        let present = store::present(host, self.runtime)?;
        let mut wanted = self.wanted.clone();
        if let Some(sandbox) = self.sandbox(host, &present)? {
            match wanted.iter_mut().find(|image| image.id == sandbox.id) {
                Some(image) => image.names.extend(
                    sandbox
                        .names
                        .into_iter()
                        .filter(|name| !image.names.contains(name))
                        .collect::<Vec<_>>(),
                ),
                None => wanted.push(sandbox),
            }
        }
        let mut missing = Missing::default();
        for image in wanted {
            let id = image.id.to_string();
            let is_there = present.contains_key(&id);
            for name in &image.names {
                match store::holder(&present, name) {
                    Some(holder) if holder == id => {}
                    Some(holder) => missing.taken.push((name.clone(), holder.to_owned())),
                    None if is_there => missing.names.push((name.clone(), image.id)),
                    None => {}
                }
            }
            if !is_there {
                missing.images.push(image);
            }
        }
        Ok(missing)
    }

    fn image(&self, id: &Sha256) -> Result<&Image> {
        let mut images = self.pot.manifest().images.iter();
        images
            .find(|image| image.id == *id)
            .context("the manifest lists every wanted image")
    }

    fn blob(&self, digest: &Sha256) -> Result<&Blob> {
        let blob = self.pot.manifest().blob(digest);
        blob.with_context(|| format!("the pot's manifest does not list {digest}"))
    }

    fn docker_archive(&self, images: &[ImageWanted]) -> Result<Archive> {
        let mut archive = Archive::default();
        let layer = |digest: &Sha256| {
            let blob = self.blob(digest)?;
            Ok(Layer {
                blob: blob.digest,
                diff_id: blob.unpacked_digest,
                size: blob.unpacked_size,
            })
        };
        for wanted in images {
            let image = self.image(&wanted.id)?;
            let layers = image.layers.iter().map(layer).collect::<Result<_>>()?;
            archive.add(layer(&image.config)?, wanted.names.clone(), layers);
        }
        Ok(archive)
    }

    fn oci_archive(&self, images: &[ImageWanted], reads_zstd: bool) -> Result<OciArchive<'_>> {
        let mut archive = OciArchive::new(reads_zstd);
        for wanted in images {
            let image = self.image(&wanted.id)?;
            let layers = image.layers.iter().map(|digest| self.blob(digest));
            let layers: Vec<&Blob> = layers.collect::<Result<_>>()?;
            archive.add(self.blob(&image.config)?, &wanted.names, &layers)?;
        }
        Ok(archive)
    }

    fn load(&self, host: &Host<'_>, images: &[ImageWanted]) -> Result<()> {
        let mut changes: Vec<Change> = Vec::new();
        for image in images {
            let names = image.names.iter();
            changes.extend(names.map(|name| store::change(self.runtime, name, &image.id)));
        }
        // The one command makes all of them; it takes the last, the others are noted first.
        let last = changes.pop().context("an image to load has a name")?;
        for change in changes {
            host.note(change)?;
        }
        let cmd = store::load(self.runtime);
        // A runtime unpacks and hashes one image after the other, on one core.
        let parts = parts::side_by_side(self.pot.manifest(), images, cores());
        match self.runtime {
            Runtime::Docker => {
                let archives = parts.iter().map(|part| self.docker_archive(part));
                let archives = archives.collect::<Result<Vec<_>>>()?;
                let feeds = archives.iter().map(|archive| {
                    let open = |blob: &Sha256| self.pot.open_blob(blob).map_err(io::Error::other);
                    Box::new(move |pipe: &mut dyn io::Write| archive.write(pipe, &open))
                        as Box<Feed<'_>>
                });
                host.feed(&cmd, last, feeds.collect())
            }
            Runtime::Containerd => {
                let info = containerd::running(host.view())?;
                let reads_zstd = info.is_some_and(|info| info.reads_zstd());
                let archives = parts.iter().map(|part| self.oci_archive(part, reads_zstd));
                let archives = archives.collect::<Result<Vec<_>>>()?;
                let feeds = archives.iter().map(|archive| {
                    Box::new(|pipe: &mut dyn io::Write| archive.write(pipe, &self.pot))
                        as Box<Feed<'_>>
                });
                host.feed(&cmd, last, feeds.collect())?;
                self.await_images(host)
            }
        }
    }

    fn await_images(&self, host: &Host<'_>) -> Result<()> {
        for _ in 0..LOOKS.0 {
            if self.missing(host.view())?.images.is_empty() {
                return Ok(());
            }
            host.view().clock().pause(LOOKS.1);
        }
        bail!(
            "containerd took the images, but its CRI has not known all of them for {} s. See: crictl images; journalctl -u containerd",
            (LOOKS.1 * LOOKS.0).as_secs()
        )
    }
}

impl Step for Images {
    fn id(&self) -> &'static str {
        "images"
    }

    fn summary(&self) -> String {
        format!("{} images are loaded and named", self.wanted.len())
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let missing = self.missing(view.host)?;
        if !missing.taken.is_empty() {
            let lines = |line: &dyn Fn(&(String, String)) -> String| {
                missing
                    .taken
                    .iter()
                    .map(line)
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            return Ok(State::Conflict {
                reason: lines(&|(name, holder)| {
                    format!(
                        "{} has another image with the name {name} than the pot: {holder}",
                        self.runtime.title()
                    )
                }),
                remedy: lines(&|(name, _)| {
                    format!(
                        "take the name away from it: {}",
                        store::unname(self.runtime, name)
                    )
                }),
            });
        }
        let names = |images: &[&str]| match images {
            [] => String::new(),
            [one] => (*one).to_owned(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        };
        let mut todo = Vec::new();
        if !missing.images.is_empty() {
            let firsts: Vec<&str> = missing
                .images
                .iter()
                .filter_map(|image| image.names.first().map(String::as_str))
                .collect();
            todo.push(format!("to load: {}", names(&firsts)));
        }
        if !missing.names.is_empty() {
            let unnamed: Vec<&str> = missing
                .names
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            todo.push(format!("to name: {}", names(&unnamed)));
        }
        Ok(if todo.is_empty() {
            State::Satisfied
        } else {
            State::Pending(todo.join("; "))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        let missing = self.missing(host.view())?;
        if !missing.images.is_empty() {
            self.load(host, &missing.images)?;
        }
        for (name, id) in missing.names {
            let cmd = store::name(self.runtime, &id, &name);
            host.run(&cmd, store::change(self.runtime, &name, &id))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
