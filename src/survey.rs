//! How large the parts of a plan are, asked of their servers without fetching them.
//!
//! Asked are the length of each download and file (`HEAD`; of a file that is here, the system), and each image's manifest with its index: no blob, no config, no checksum file. What is read is held to the same limits
//! and checks as in a build. A server that does not tell is no failure: the size is unknown, and why is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use bundle_spec::Sha256;
use reqwest::Url;

use crate::extra::{self, Extra, Place};
use crate::fetch::http::Ask;
use crate::fetch::registry::{Described, Registries};
use crate::fetch::{Client, FetchError, Stop};
use crate::image_name::ImageName;
use crate::pack::lanes::{self, Threads};
use crate::plan::{Download, Plan};
use crate::progress::Progress;

/// What the servers told, in the plan's order.
pub struct Survey {
    /// Of each download.
    pub downloads: Vec<Told<u64>>,
    /// Of each file.
    pub files: Vec<Told<u64>>,
    /// Of each image.
    pub images: Vec<Told<Described>>,
}

/// What is known of one part.
pub struct Told<T> {
    /// Where it would really come from, after mirrors and before redirects.
    pub from: Url,
    /// What the server told, or why nothing is known.
    pub answer: Result<T, String>,
}

/// What all parts together come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// In bytes, as far as it is known; what images share is counted once, as it is fetched once.
    pub bytes: u64,
    /// How many parts are not in it.
    pub unknown: usize,
}

impl Survey {
    /// The sizes together.
    pub fn total(&self) -> Total {
        let files = self.downloads.iter().chain(&self.files);
        let files = files.map(|told| told.answer.as_ref().ok());
        let images: Vec<&Described> = self
            .images
            .iter()
            .filter_map(|told| told.answer.as_ref().ok())
            .collect();
        let blobs: BTreeSet<(Sha256, u64)> = images
            .iter()
            .flat_map(|image| image.blobs.iter().copied())
            .collect();
        let unknown = files.clone().filter(Option::is_none).count();
        Total {
            bytes: sum(files
                .flatten()
                .copied()
                .chain(blobs.iter().map(|(_, size)| *size))),
            unknown: unknown + self.images.len() - images.len(),
        }
    }
}

/// Sizes that servers claim are any numbers at all.
fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

enum Piece<'a> {
    Download(usize, &'a Download),
    File(usize, &'a Extra),
    Image(usize, &'a ImageName),
}

#[derive(Default)]
struct Answers {
    downloads: BTreeMap<usize, Told<u64>>,
    files: BTreeMap<usize, Told<u64>>,
    images: BTreeMap<usize, Told<Described>>,
}

/// Asks for every part of `plan`.
///
/// # Errors
/// Where a part has no address to ask at.
pub fn survey(
    plan: &Plan,
    client: &Client,
    stop: &Stop,
    progress: &Progress,
) -> anyhow::Result<Survey> {
    let registries = Registries::new(client);
    let answers = Mutex::new(Answers::default());
    let lock = || answers.lock().unwrap_or_else(PoisonError::into_inner);
    let downloads = plan.downloads.iter().enumerate();
    let files = plan.files.iter().enumerate();
    let images = plan.images.iter().enumerate();
    let start = downloads
        .map(|(index, download)| Piece::Download(index, download))
        .chain(files.map(|(index, file)| Piece::File(index, file)))
        .chain(images.map(|(index, name)| Piece::Image(index, name)))
        .collect();
    let threads = Threads {
        fetch: client.connections(),
        pack: 1,
    };
    let ask = |piece: Piece<'_>| {
        match piece {
            Piece::Download(index, download) => {
                let told = ask_download(download, client, progress)?;
                lock().downloads.insert(index, told);
            }
            Piece::File(index, file) => {
                let told = ask_file(file, client, progress)?;
                lock().files.insert(index, told);
            }
            Piece::Image(index, name) => {
                let task = progress.task(&name.familiar(), None);
                let from = registries.location(name)?;
                let answer = registries.describe(name, plan.arch, &task);
                let answer = answer.map_err(|error| error.to_string());
                lock().images.insert(index, Told { from, answer });
            }
        }
        Ok(Vec::new())
    };
    lanes::run(
        start,
        threads,
        stop,
        &ask,
        &|piece: Infallible| match piece {},
    )?;
    let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Survey {
        downloads: answers.downloads.into_values().collect(),
        files: answers.files.into_values().collect(),
        images: answers.images.into_values().collect(),
    })
}

fn ask_download(
    download: &Download,
    client: &Client,
    progress: &Progress,
) -> anyhow::Result<Told<u64>> {
    let url = Url::parse(&download.url).with_context(|| format!("{:?}", download.url))?;
    Ok(ask_length(&url, &download.label(), client, progress))
}

fn ask_file(file: &Extra, client: &Client, progress: &Progress) -> anyhow::Result<Told<u64>> {
    let path = match &file.place {
        Place::At(address, _) => {
            return Ok(ask_length(
                address.url(),
                &file.name.to_string(),
                client,
                progress,
            ));
        }
        Place::Here(path, _) => path,
    };
    let whole = std::path::absolute(path)
        .ok()
        .and_then(|path| Url::from_file_path(path).ok());
    Ok(Told {
        from: whole.with_context(|| format!("{} is not the path of a file", path.display()))?,
        answer: extra::length(path),
    })
}

fn ask_length(url: &Url, label: &str, client: &Client, progress: &Progress) -> Told<u64> {
    let task = progress.task(label, None);
    let from = client.route(url);
    let length = client.length(Ask::plain(url), &task);
    let answer = length
        .and_then(|length| {
            length.ok_or_else(|| FetchError::refused(&from, "the server does not tell its size"))
        })
        .map_err(|error| error.to_string());
    Told { from, answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<T>(answer: Result<T, String>) -> Told<T> {
        let from = Url::parse("https://x.example/").unwrap();
        Told { from, answer }
    }

    fn image(blobs: &[(&str, u64)]) -> Told<Described> {
        let blobs = blobs
            .iter()
            .map(|(name, size)| (Sha256::of(name.as_bytes()), *size));
        told(Ok(Described {
            digest: Sha256::of(b"manifest"),
            blobs: blobs.collect(),
        }))
    }

    #[test]
    fn what_images_share_counts_once_and_what_is_unknown_is_said() {
        let survey = Survey {
            downloads: vec![told(Ok(1000)), told(Err("404".to_owned()))],
            files: vec![told(Ok(20))],
            images: vec![
                image(&[("base", 500), ("one", 1)]),
                image(&[("base", 500), ("two", 2)]),
                told(Err("503".to_owned())),
            ],
        };
        assert_eq!(
            survey.total(),
            Total {
                bytes: 1523,
                unknown: 2
            }
        );
    }

    #[test]
    fn absurd_sizes_do_not_wrap() {
        let survey = Survey {
            downloads: vec![told(Ok(5))],
            files: Vec::new(),
            images: vec![image(&[("a", u64::MAX), ("b", u64::MAX)])],
        };
        assert_eq!(survey.total().bytes, u64::MAX);
        assert_eq!(survey.images[0].answer.as_ref().unwrap().size(), u64::MAX);
    }
}
