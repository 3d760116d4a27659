//! What a download must be, before the first byte of it has come.

use anyhow::{Context as _, anyhow};
use bundle_spec::Sha256;
use reqwest::Url;

use super::{Run, Voucher};
use crate::cache::place::Key;
use crate::fetch::checksum;
use crate::fetch::http::{Ask, CHANGED, FetchError, Saved};
use crate::lock::{Artifact, Target};
use crate::plan::{Check, Download};
use crate::progress::Task;
use crate::releases::Algorithm;

/// What a download must be.
pub(super) enum Promised<'a> {
    Published(Algorithm, String),
    Shipped(Sha256),
    Given(Sha256),
    /// What this lock pins of it.
    Locked(&'a Target, &'a Artifact),
}

impl Run<'_> {
    /// What a download must be: by its publisher's word, by kpot's, by the user's, or by that of the lock.
    ///
    /// # Errors
    /// Where nobody says.
    pub(super) fn promised(
        &self,
        download: &Download,
        task: &Task,
    ) -> anyhow::Result<Promised<'_>> {
        let (algorithm, url) = match &download.check {
            Check::Published { algorithm, url } => (*algorithm, url),
            Check::Shipped(digest) => return Ok(Promised::Shipped(*digest)),
            Check::Given(digest) => return Ok(Promised::Given(*digest)),
        };
        let shop = self.shop;
        // The plan was compared with the lock: what it pins under this name is this version from there, checked so.
        let pinned = shop.lock.and_then(|lock| {
            let artifact = lock.stands_for(download)?;
            Some(Promised::Locked(lock, artifact))
        });
        let pinned = match (pinned, shop.voucher) {
            (Some(pinned), Voucher::Lock) => return Ok(pinned),
            (pinned, _) => pinned,
        };
        let error = match self.published(download, algorithm, url, task) {
            Ok(digits) => return Ok(Promised::Published(algorithm, digits)),
            Err(error) => error,
        };
        match (pinned, error.downcast_ref::<FetchError>()) {
            (Some(pinned), Some(absent)) if !shop.stop.requested() => {
                shop.progress.line(&format!(
                    "warning: the lock alone says what {} {} must be: its publisher's checksum is not to be had: {absent}",
                    download.name, download.version
                ));
                Ok(pinned)
            }
            _ => Err(error),
        }
    }

    fn published(
        &self,
        download: &Download,
        algorithm: Algorithm,
        url: &str,
        task: &Task,
    ) -> anyhow::Result<String> {
        let url = Url::parse(url).with_context(|| format!("{url:?}"))?;
        let reply = self
            .shop
            .client
            .get(Ask::plain(&url), checksum::LIMIT, task)
            .with_context(|| {
                let name = download.name;
                format!(
                    "there is no checksum for {name}, so it is not downloaded; if you know its digest, give it with --pin {name}=sha256:HEX"
                )
            })?;
        let file = download.url.rsplit('/').next().unwrap_or_default();
        checksum::parse(&reply.body, file, algorithm)
            .map_err(|problem| anyhow!("the checksum file {} {problem}", reply.from))
    }
}

impl Promised<'_> {
    /// Whether a lock says it, and its publisher was not asked or did not answer.
    pub(super) const fn by_lock(&self) -> bool {
        matches!(self, Self::Locked(..))
    }

    /// What the cache knows it by.
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Published(Algorithm::Sha512, digits) => Key::Sha512(digits.clone()),
            Self::Published(Algorithm::Sha256, digits) => {
                // checksum::parse let nothing else through.
                Key::Sha256(Sha256::from_hex(digits).expect("64 hex digits"))
            }
            Self::Shipped(digest) | Self::Given(digest) => Key::Sha256(*digest),
            Self::Locked(_, artifact) => Key::Sha256(artifact.digest),
        }
    }

    /// Its size in bytes, where that is known.
    pub(super) const fn size(&self) -> Option<u64> {
        match self {
            Self::Published(..) | Self::Shipped(_) | Self::Given(_) => None,
            Self::Locked(_, artifact) => Some(artifact.size),
        }
    }

    /// The algorithm that it is compared by.
    pub(super) const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Published(algorithm, _) => *algorithm,
            Self::Shipped(_) | Self::Given(_) | Self::Locked(..) => Algorithm::Sha256,
        }
    }

    /// Compares it with what came.
    pub(super) fn compare(
        &self,
        download: &Download,
        from: &Url,
        saved: &Saved,
    ) -> Result<(), FetchError> {
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
            Self::Locked(lock, artifact) => {
                let told = lock.of_fetched(&artifact.name, from.as_str(), sha256, saved.size);
                told.err().map(|difference| difference.to_string())
            }
        };
        let Some(problem) = problem else {
            return Ok(());
        };
        let error = FetchError::wrong_content(from, problem);
        Err(match self {
            Self::Published(..) => error.advise(CHANGED),
            Self::Shipped(_) | Self::Given(_) | Self::Locked(..) => error,
        })
    }
}
