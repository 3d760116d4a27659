//! Which items of a pot use which of its blobs: programs, files, and the configs, layers and kept manifests of images.

use std::collections::BTreeMap;

use bundle_spec::{Manifest, Sha256};

/// The users of every blob, in the order of the manifest.
pub struct Uses(BTreeMap<Sha256, Vec<String>>);

impl Uses {
    /// Reads them off a manifest.
    pub fn of(manifest: &Manifest) -> Self {
        let mut uses = Self(BTreeMap::new());
        for artifact in &manifest.artifacts {
            for file in &artifact.files {
                uses.add(file.blob, &file_label(&artifact.name, &file.name));
            }
        }
        for image in &manifest.images {
            let label = image_label(&image.names);
            let papers = [&image.config].into_iter().chain(&image.manifest);
            for digest in image.layers.iter().chain(papers) {
                uses.add(*digest, label);
            }
        }
        uses
    }

    fn add(&mut self, digest: Sha256, user: &str) {
        let users = self.0.entry(digest).or_default();
        if !users.iter().any(|known| known == user) {
            users.push(user.to_owned());
        }
    }

    /// Who else uses a blob that `own` uses.
    pub fn others<'a>(&'a self, digest: &Sha256, own: &'a str) -> impl Iterator<Item = &'a str> {
        let users = self.0.get(digest).into_iter().flatten();
        users.map(String::as_str).filter(move |user| *user != own)
    }

    /// The blobs that have more than one user, with all of these.
    pub fn shared(&self) -> impl Iterator<Item = (&Sha256, &[String])> {
        let users = self
            .0
            .iter()
            .map(|(digest, users)| (digest, users.as_slice()));
        users.filter(|(_, users)| users.len() > 1)
    }
}

/// What a file of an artifact is called among the users of blobs.
pub fn file_label(artifact: &str, file: &str) -> String {
    if artifact == file {
        file.to_owned()
    } else {
        format!("{artifact}/{file}")
    }
}

/// What an image is called among the users of blobs.
pub fn image_label(names: &[String]) -> &str {
    names.first().map_or("", String::as_str)
}
