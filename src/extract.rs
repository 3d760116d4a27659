//! Which contents of a pot become which files, and their bytes on the way there.
//!
//! A program lies at `ARTIFACT/FILE`, or at its artifact's name where it is all of it; an image at `images/NAME.tar`; what is carried besides at `files/NAME`. Artifacts and files have names that a manifest
//! cannot hold unless they are plain ones; of an image's name, whatever is not plain becomes `_`. So every place is below the folder that the user named.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bundle_spec::manifest::{Blob, Image};
use bundle_spec::{Manifest, VerifiedPot};

use crate::docker_archive::DockerArchive;
use crate::exit::usage;
use crate::image_name::ImageName;
use crate::pack::output::Existing;
use crate::progress::Task;

/// The folder of the images.
const IMAGES: &str = "images";

/// The folder of what is carried besides.
const FILES: &str = "files";

/// The longest part of an image's name that its file's name keeps, in bytes; file systems take 255.
const NAME_LIMIT: usize = 200;

/// Something that becomes one file.
#[derive(Debug)]
pub struct Item<'m> {
    /// What the user calls it: `kubelet`, `docker/dockerd`, `k8s.gcr.io/pause:3.2`.
    pub name: String,
    /// Where it goes, below the user's folder.
    pub place: PathBuf,
    /// What it is.
    pub content: Content<'m>,
    /// What else it is called.
    also: &'m [String],
    artifact: Option<&'m str>,
}

/// What a file is made of.
#[derive(Debug)]
pub enum Content<'m> {
    /// A program, as it came.
    Program(&'m Blob),
    /// A file that is carried besides, as it came.
    Extra(&'m Blob),
    /// An image, as `docker save` would write it.
    Image(&'m Image, DockerArchive<'m>),
}

/// What the names stand for, in the order of the manifest; everything where there are none.
///
/// # Errors
/// A usage error for a name that the pot does not hold, or where two images would become one file.
pub fn select<'m>(manifest: &'m Manifest, names: &[String]) -> anyhow::Result<Vec<Item<'m>>> {
    let mut items = everything(manifest)?;
    if !names.is_empty() {
        if let Some(unknown) = names
            .iter()
            .find(|name| !items.iter().any(|item| item.is_called(name)))
        {
            return Err(usage(format!(
                "{} holds nothing called {unknown:?}. An artifact goes by its name (kubelet), a file by ARTIFACT/FILE (docker/dockerd), an image by its name with the tag; \
                 kpot inspect lists them",
                manifest.name
            )));
        }
        items.retain(|item| names.iter().any(|name| item.is_called(name)));
    }
    let mut places = BTreeMap::new();
    for item in &items {
        if let Some(other) = places.insert(&item.place, &item.name) {
            return Err(usage(format!(
                "{other} and {} would both become {}: extract them one by one, each --to a folder of its own",
                item.name,
                item.place.display()
            )));
        }
    }
    Ok(items)
}

fn everything(manifest: &Manifest) -> anyhow::Result<Vec<Item<'_>>> {
    let unlisted = || format!("the manifest of {} lists every blob", manifest.name);
    let mut items = Vec::new();
    for artifact in &manifest.artifacts {
        let alone = artifact.files.len() == 1 && artifact.files[0].name == artifact.name;
        for file in &artifact.files {
            let blob = manifest.blob(&file.blob).with_context(unlisted)?;
            let extra = artifact.extra().is_some();
            let name = if alone || extra {
                artifact.name.clone()
            } else {
                format!("{}/{}", artifact.name, file.name)
            };
            let (place, content) = if extra {
                (Path::new(FILES).join(&file.name), Content::Extra(blob))
            } else {
                (PathBuf::from(&name), Content::Program(blob))
            };
            items.push(Item {
                place,
                name,
                content,
                also: &[],
                artifact: Some(&artifact.name),
            });
        }
    }
    for image in &manifest.images {
        // A manifest lists at least one name.
        let name = image.names.first().with_context(unlisted)?;
        let archive = DockerArchive::new(manifest, image).with_context(unlisted)?;
        items.push(Item {
            place: Path::new(IMAGES).join(file_name(name)),
            name: name.clone(),
            content: Content::Image(image, archive),
            also: &image.names,
            artifact: None,
        });
    }
    Ok(items)
}

/// A plain file name for an image's name: `k8s.gcr.io_pause_3.2.tar`.
fn file_name(image: &str) -> String {
    let plain = |(at, byte): (usize, u8)| match byte {
        b'.' | b'-' if at > 0 => char::from(byte),
        _ if byte.is_ascii_alphanumeric() => char::from(byte),
        _ => '_',
    };
    let name: String = image
        .bytes()
        .enumerate()
        .map(plain)
        .take(NAME_LIMIT)
        .collect();
    format!("{name}.tar")
}

/// Refuses, before anything is written, what stands in the way of `items` below `folder`.
///
/// # Errors
/// A usage error that names all of it: files that are to be kept, folders in the place of files, and whatever is no folder in the place of one.
pub fn refuse(items: &[Item<'_>], folder: &Path, existing: Existing) -> anyhow::Result<()> {
    let (mut kept, mut odd) = (Vec::new(), Vec::new());
    for item in items {
        let place = folder.join(&item.place);
        let above = place.parent().filter(|above| *above != folder);
        // A link is not followed out of the user's folder, whoever made it.
        if let Some(above) = above
            && fs::symlink_metadata(above).is_ok_and(|it| !it.is_dir())
        {
            odd.push(format!("{} is not a folder", above.display()));
        } else if let Ok(it) = fs::symlink_metadata(&place) {
            if it.is_dir() {
                odd.push(format!("{} is a folder", place.display()));
            } else if existing == Existing::Kept {
                kept.push(place.display().to_string());
            }
        }
    }
    odd.dedup();
    if !odd.is_empty() {
        return Err(usage(format!(
            "{}: choose another folder with --to",
            odd.join(", ")
        )));
    }
    if !kept.is_empty() {
        return Err(usage(format!(
            "{} there already and not overwritten; choose another folder with --to, or replace with --force",
            match &kept[..] {
                [one] => format!("{one} is"),
                [first, rest @ ..] => format!("{first} and {} more files are", rest.len()),
                [] => String::new(),
            }
        )));
    }
    Ok(())
}

impl Item<'_> {
    fn is_called(&self, name: &str) -> bool {
        // Docker's long and short names of one image are the same; a name with a colon is an image's.
        let familiar = || {
            let image: Option<ImageName> = name.contains(':').then(|| name.parse().ok()).flatten();
            image.is_some_and(|image| self.also.contains(&image.familiar()))
        };
        self.name == name
            || self.artifact.is_some_and(|artifact| artifact == name)
            || self.also.iter().any(|other| other == name)
            || familiar()
    }

    /// The bytes of the file; an image's has some kilobytes more.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Program(blob) | Content::Extra(blob) => blob.unpacked_size,
            Content::Image(_, archive) => archive.size(),
        }
    }

    /// The permission bits of the file: what a pot carries as an artifact's files are programs, unless they are extras.
    pub const fn mode(&self) -> u32 {
        match self.content {
            Content::Program(_) => 0o755,
            Content::Image(..) | Content::Extra(_) => 0o644,
        }
    }

    /// Writes the item to `out` as it is unpacked and checked.
    ///
    /// # Errors
    /// Where a byte is not what was signed, or reading or writing fails; what was written until then is worth nothing.
    pub fn write(&self, pot: &VerifiedPot, out: &mut dyn Write, task: &Task) -> anyhow::Result<()> {
        let open = |blob: &Blob| {
            let content = pot.open_blob(&blob.digest).map_err(io::Error::other)?;
            Ok(Counted { content, task })
        };
        match &self.content {
            Content::Program(blob) | Content::Extra(blob) => {
                open(blob).and_then(|mut content| io::copy(&mut content, out).map(drop))
            }
            Content::Image(_, archive) => archive.write(out, open),
        }
        .map_err(|cause| match cause.downcast::<bundle_spec::Error>() {
            // What is wrong with the pot decides about the exit code.
            Ok(cause) => cause.into(),
            Err(cause) => cause.into(),
        })
    }
}

/// Tells the user about every byte that is read.
struct Counted<'t, R> {
    content: R,
    task: &'t Task,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.task.advance(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Component;

    #[test]
    fn an_images_name_becomes_one_plain_file_name() {
        let rows = [
            ("k8s.gcr.io/pause:3.2", "k8s.gcr.io_pause_3.2.tar"),
            ("10.0.0.1:5000/a_b/c:v1", "10.0.0.1_5000_a_b_c_v1.tar"),
            ("[fd00::10]:5000/x:1", "_fd00__10__5000_x_1.tar"),
            ("../../etc/cron.d/x:1", "_._.._etc_cron.d_x_1.tar"),
            ("/etc/passwd:x", "_etc_passwd_x.tar"),
            ("-rf:x", "_rf_x.tar"),
            ("$(reboot):`x`", "__reboot___x_.tar"),
        ];
        for (name, file) in rows {
            assert_eq!(file_name(name), file);
        }
        let long = format!("{}:x", "../".repeat(300));
        let file = file_name(&long);
        assert!(file.len() <= 255);
        let parts: Vec<_> = Path::new(&file).components().collect();
        assert!(matches!(parts[..], [Component::Normal(_)]), "{file}");
    }
}
