//! The images of the pot are in Docker, with the names that the cluster uses.
//!
//! Images that are there already, by their ID, are not loaded again; they only get the names that they lack. All missing ones go into one `docker load`, which reads an
//! archive that is made while it reads: no layer is ever held in memory or written to a file of ours, and a layer that several images share is sent once. Docker
//! checks every layer against the image's config, and the config is checked against the ID.

mod archive;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bundle_spec::{Sha256, VerifiedPot};

use self::archive::{Archive, Layer};
use crate::control_plane::images::familiar;
use crate::host::HostView;
use crate::host::command::Cmd;
use crate::host::probe::Probe;
use crate::journal::Change;
use crate::step::{State, Step, View, World};

/// A gigabyte of images on a slow disk, many times over.
const LOAD_LIMIT: Duration = Duration::from_hours(1);

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
    wanted: Vec<ImageWanted>,
}

/// What Docker has of the wanted images.
#[derive(Debug, Default)]
struct Missing<'a> {
    /// Images that are not there.
    images: Vec<&'a ImageWanted>,
    /// Names that an image which is there does not have.
    names: Vec<(&'a str, Sha256)>,
    /// Names that another image has.
    taken: Vec<(&'a str, String)>,
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
        Ok(Self { pot, wanted })
    }

    fn missing(&self, host: &HostView) -> Result<Missing<'_>> {
        let present = present(host)?;
        let mut missing = Missing::default();
        for image in &self.wanted {
            let id = image.id.to_string();
            let is_there = present.iter().any(|(found, _)| *found == id);
            for name in &image.names {
                let listed = familiar(name);
                let holder = present
                    .iter()
                    .find(|(_, names)| names.contains(&listed))
                    .map(|(holder, _)| holder);
                match holder {
                    Some(holder) if *holder == id => {}
                    Some(holder) => missing.taken.push((name, holder.clone())),
                    None if is_there => missing.names.push((name, image.id)),
                    None => {}
                }
            }
            if !is_there {
                missing.images.push(image);
            }
        }
        Ok(missing)
    }

    fn archive(&self, images: &[&ImageWanted]) -> Result<Archive> {
        let manifest = self.pot.manifest();
        let mut archive = Archive::default();
        for wanted in images {
            let image = manifest
                .images
                .iter()
                .find(|image| image.id == wanted.id)
                .context("the manifest lists every wanted image")?;
            let blob = |digest: &Sha256| {
                manifest
                    .blob(digest)
                    .with_context(|| format!("the pot's manifest does not list {digest}"))
            };
            let layer = |digest: &Sha256| {
                let blob = blob(digest)?;
                Ok(Layer {
                    blob: blob.digest,
                    diff_id: blob.unpacked_digest,
                    size: blob.unpacked_size,
                })
            };
            let layers = image.layers.iter().map(layer).collect::<Result<_>>()?;
            let config = blob(&image.config)?;
            archive.add(
                Layer {
                    blob: config.digest,
                    diff_id: config.unpacked_digest,
                    size: config.unpacked_size,
                },
                wanted.names.clone(),
                layers,
            );
        }
        Ok(archive)
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
            let lines = |line: &dyn Fn(&(&str, String)) -> String| {
                missing
                    .taken
                    .iter()
                    .map(line)
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            return Ok(State::Conflict {
                reason: lines(&|(name, holder)| {
                    format!("Docker has another image with the name {name} than the pot: {holder}")
                }),
                remedy: lines(&|(name, _)| {
                    format!("take the name away from it: docker rmi {name}")
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
            let unnamed: Vec<&str> = missing.names.iter().map(|(name, _)| *name).collect();
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
            let archive = self.archive(&missing.images)?;
            let mut changes: Vec<Change> = missing
                .images
                .iter()
                .flat_map(|image| {
                    image.names.iter().map(|name| Change::Image {
                        name: name.clone(),
                        id: image.id.to_string(),
                    })
                })
                .collect();
            // The one command makes all of them; it takes the last, the others are noted first.
            let last = changes.pop().context("an image to load has a name")?;
            for change in changes {
                host.note(change)?;
            }
            let cmd = Cmd::new("docker", ["load", "--quiet"]).timeout(LOAD_LIMIT);
            host.feed(&cmd, last, &mut |pipe| {
                archive.write(pipe, &|blob| {
                    self.pot.open_blob(blob).map_err(io::Error::other)
                })
            })?;
        }
        for (name, id) in missing.names {
            let id = id.to_string();
            let cmd = Cmd::new("docker", ["tag", &id, name]);
            let change = Change::Image {
                name: name.to_owned(),
                id,
            };
            host.run(&cmd, change)?;
        }
        Ok(())
    }
}

/// The images that Docker has: IDs with names as Docker lists them. None where there is no Docker that answers yet.
fn present(host: &HostView) -> Result<BTreeMap<String, Vec<String>>> {
    let mut images: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if host.program("docker").is_none() {
        return Ok(images);
    }
    let answer = host.probe(&Probe::docker_images())?;
    // An answer other than well means that Docker does not run, and then nothing can be said; the step before this one starts it.
    if answer.ok() {
        for line in answer.text().lines() {
            if let Some((id, name)) = line.split_once(' ') {
                images
                    .entry(id.to_owned())
                    .or_default()
                    .push(name.to_owned());
            }
        }
    }
    Ok(images)
}

#[cfg(test)]
mod tests;
