//! What can be wrong with a pot.

use std::io;
use std::path::PathBuf;

/// Why a pot was refused, or could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The pot is of another format.
    #[error("the pot has format {0}, this program reads format {FORMAT}: use the program that came with the pot", FORMAT = crate::manifest::FORMAT)]
    Format(u32),
    /// `manifest.json` is not canonical or not consistent.
    #[error("manifest.json {0}")]
    Manifest(String),
    /// The archive is not a canonical pot.
    #[error("not a pot, or a damaged one: {0}")]
    Archive(String),
    /// A member's bytes are not the signed ones.
    #[error("{member} is damaged or was changed: {reason}")]
    Content {
        /// The member's name.
        member: String,
        /// What differs.
        reason: String,
    },
    /// The pot carries no signature.
    #[error("the pot is not signed; an unsigned pot cannot be installed")]
    Unsigned,
    /// The signature does not verify, or its armor is not canonical.
    #[error("the signature is not valid: {0}")]
    Signature(String),
    /// The signature is good, but by a key that is not trusted here.
    #[error("the pot is signed by {fingerprint}, which is not trusted here")]
    UntrustedSigner {
        /// The key's fingerprint, `SHA256:…` as `ssh-keygen -l` prints it.
        fingerprint: String,
        /// The public key in OpenSSH's one-line form, for the command that would trust it.
        public_key: String,
    },
    /// The signature is good, and the list of trusted keys holds its key with a condition that does not hold: expired, not valid yet, other namespaces.
    #[error("the pot is signed by {fingerprint}, which {reason}")]
    SignerRefused {
        /// The key's fingerprint, `SHA256:…` as `ssh-keygen -l` prints it.
        fingerprint: String,
        /// Which condition; continues the sentence.
        reason: String,
    },
    /// A key or a list of trusted keys cannot be used.
    #[error("{0}")]
    Key(String),
}

impl Error {
    /// A complaint about `manifest.json`; `what` continues the sentence "manifest.json …".
    pub(crate) fn manifest(what: String) -> Self {
        Self::Manifest(what)
    }

    /// Whether the refusal is one of trust (exit code 4): everything that is not the operating system's, or a key file's, own failure.
    pub fn is_untrusted(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Key(_))
    }
}
