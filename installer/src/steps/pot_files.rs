//! Files of the pot's artifacts and their places on this machine.

use std::cmp::Reverse;

use anyhow::{Context, Result};
use bundle_spec::{Sha256, VerifiedPot};

use super::readers::readers;
use crate::host::side_by_side::cores;
use crate::host::{Host, HostView, Install, Kind};

/// Permissions of programs.
const MODE: u32 = 0o755;

/// A file of an artifact, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PotFile {
    /// Its name alone.
    pub name: String,
    /// Its place on this machine.
    pub path: String,
    /// The blob that holds it.
    pub blob: Sha256,
    /// The digest of its content.
    pub digest: Sha256,
}

/// What is found where a file belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The file itself.
    Right,
    /// Nothing.
    Nothing,
    /// The file itself with other permissions.
    WrongMode(u32),
    /// Something else.
    Other,
}

/// The files of the artifact `artifact`, with their places in `dir`.
///
/// # Errors
/// Where the pot has no such artifact.
pub(crate) fn of(pot: &VerifiedPot, artifact: &str, dir: &str) -> Result<Vec<PotFile>> {
    let manifest = pot.manifest();
    let found = manifest
        .artifact(artifact)
        .with_context(|| format!("the pot {} holds no {artifact}", manifest.name))?;
    found
        .files
        .iter()
        .map(|file| {
            let blob = manifest
                .blob(&file.blob)
                .with_context(|| format!("the pot's manifest does not list {}", file.blob))?;
            Ok(PotFile {
                name: file.name.clone(),
                path: format!("{dir}/{}", file.name),
                blob: blob.digest,
                digest: blob.unpacked_digest,
            })
        })
        .collect()
}

impl PotFile {
    /// Looks at its place.
    pub fn look(&self, host: &HostView) -> Result<Found> {
        let Some(facts) = host.facts(&self.path)? else {
            return Ok(Found::Nothing);
        };
        if facts.kind != Kind::File || host.digest(&self.path)? != Some(self.digest) {
            return Ok(Found::Other);
        }
        Ok(if facts.mode == MODE {
            Found::Right
        } else {
            Found::WrongMode(facts.mode)
        })
    }

    /// What it takes to write it to its place.
    fn install<'p>(&'p self, pot: &'p VerifiedPot) -> Install<'p> {
        Install {
            path: &self.path,
            digest: self.digest,
            open: Box::new(|| {
                let content = pot.open_blob(&self.blob);
                let content =
                    content.with_context(|| format!("cannot read {} from the pot", self.name))?;
                Ok(Box::new(content))
            }),
        }
    }
}

/// Puts every file that is missing, or has the wrong permissions, in its place; files of about the same size two at a time.
pub(crate) fn install(pot: &VerifiedPot, files: &[PotFile], host: &Host<'_>) -> Result<()> {
    let mut wanted = Vec::new();
    for file in files {
        match file.look(host.view())? {
            Found::Right | Found::Other => {}
            Found::Nothing | Found::WrongMode(_) => wanted.push(file),
        }
    }
    let blob = |file: &PotFile| pot.manifest().blob(&file.blob);
    wanted.sort_by_key(|file| Reverse(blob(file).map(|blob| blob.unpacked_size)));
    let blobs = wanted.iter().filter_map(|file| blob(file));
    let lanes = cores().min(readers(pot.manifest().windows, blobs));
    let files: Vec<Install<'_>> = wanted.into_iter().map(|file| file.install(pot)).collect();
    host.install_files(&files, MODE, lanes)
}
