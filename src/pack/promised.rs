//! What a download must be, before the first byte of it has come.

use bundle_spec::Sha256;
use reqwest::Url;

use crate::cache::place::Key;
use crate::fetch::http::{FetchError, Saved};
use crate::plan::Download;
use crate::releases::Algorithm;

/// What a download must be.
pub(super) enum Promised {
    Published(Algorithm, String),
    Shipped(Sha256),
    Given(Sha256),
}

impl Promised {
    /// What the cache knows it by.
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Published(Algorithm::Sha512, digits) => Key::Sha512(digits.clone()),
            Self::Published(Algorithm::Sha256, digits) => {
                // checksum::parse let nothing else through.
                Key::Sha256(Sha256::from_hex(digits).expect("64 hex digits"))
            }
            Self::Shipped(digest) | Self::Given(digest) => Key::Sha256(*digest),
        }
    }

    /// The algorithm that it is compared by.
    pub(super) const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Published(algorithm, _) => *algorithm,
            Self::Shipped(_) | Self::Given(_) => Algorithm::Sha256,
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
        };
        let Some(problem) = problem else {
            return Ok(());
        };
        let error = FetchError::wrong_content(from, problem);
        Err(match self {
            Self::Published(..) => {
                error.advise("a mirror or a proxy may have changed it; try again without")
            }
            Self::Shipped(_) | Self::Given(_) => error,
        })
    }
}
