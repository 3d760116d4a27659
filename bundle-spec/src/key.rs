//! The keys that sign pots: Ed25519, read from files, made anew, or held by somebody else (an agent, a FIDO token), who is asked for each signature.
//!
//! No private key is ever printed or copied. Nothing here asks for a passphrase: what is protected by one signs where it is unlocked already, in an agent.

use std::fmt;

use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::signature::NAMESPACE;

/// A public key of a type that signs pots: `ssh-ed25519`, or `sk-ssh-ed25519@openssh.com`, whose private half is on a FIDO token. Two are equal whatever their
/// comments say.
#[derive(Clone, Debug)]
pub struct PublicKey(ssh_key::PublicKey);

impl PublicKey {
    /// Reads the first line of `text` in OpenSSH's form: type, key, and a comment that does not matter.
    ///
    /// # Errors
    /// [`Error::Key`] where it does not parse, or is a key of another type.
    pub fn from_openssh(text: &str) -> Result<Self, Error> {
        let line = text.lines().next().unwrap_or_default().trim();
        let key = ssh_key::PublicKey::from_openssh(line).map_err(|cause| no_key(&cause))?;
        Self::of(key)
    }

    fn of(key: ssh_key::PublicKey) -> Result<Self, Error> {
        if signs(&key.algorithm()) {
            return Ok(Self(key));
        }
        Err(Error::Key(format!(
            "the signing key is of type {}, and pots are signed with ssh-ed25519 and sk-ssh-ed25519@openssh.com only; make one with: kpot keygen",
            key.algorithm()
        )))
    }

    /// OpenSSH's one-line form, without a line feed.
    ///
    /// # Errors
    /// [`Error::Key`] where it cannot be encoded.
    pub fn to_openssh(&self) -> Result<String, Error> {
        one_line(&self.0)
    }

    /// The fingerprint, `SHA256:…` as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    /// Whether each signature takes a FIDO token, and somebody who touches it.
    pub fn is_on_token(&self) -> bool {
        self.0.algorithm() == Algorithm::SkEd25519
    }

    pub(crate) fn is(&self, key: &ssh_key::PublicKey) -> bool {
        self.0.key_data() == key.key_data()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for PublicKey {}

/// What a file with a key holds.
#[derive(Debug)]
pub enum KeyFile {
    /// A private key that signs by itself.
    Private(SigningKey),
    /// A private key that is protected by a passphrase; its public half can be read.
    Protected(PublicKey),
    /// What leads to a private key on a FIDO token, and is no secret without it.
    Handle(PublicKey),
    /// A public key; the private half is elsewhere.
    Public(PublicKey),
}

impl KeyFile {
    /// Reads a key in OpenSSH's format, private or public.
    ///
    /// # Errors
    /// [`Error::Key`] where it does not parse, or is a key of a type that signs no pot.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if !text.trim_start().starts_with("-----BEGIN") {
            return PublicKey::from_openssh(text.trim_start()).map(Self::Public);
        }
        let key = PrivateKey::from_openssh(text).map_err(|cause| no_key(&cause))?;
        let public = PublicKey::of(key.public_key().clone())?;
        Ok(if key.is_encrypted() {
            Self::Protected(public)
        } else if public.is_on_token() {
            Self::Handle(public)
        } else {
            Self::Private(SigningKey::here(key))
        })
    }
}

/// A key that signs pots.
///
/// Neither printed nor copied; where its private half is here, the memory is overwritten when it is dropped.
pub struct SigningKey {
    public: PublicKey,
    half: PrivateHalf,
}

/// Where the private half is.
pub(crate) enum PrivateHalf {
    Here(Box<PrivateKey>),
    Elsewhere(Box<Ask>),
}

/// Gives an armored signature over a message.
type Ask = dyn Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync;

impl SigningKey {
    /// A new Ed25519 key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`Error::Key`] where the system has none to give.
    pub fn generate() -> Result<Self, Error> {
        let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519)
            .map_err(|cause| Error::Key(format!("cannot make a signing key: {cause}")))?;
        key.set_comment(NAMESPACE);
        Ok(Self::here(key))
    }

    /// Reads a private key in OpenSSH's format that signs by itself.
    ///
    /// # Errors
    /// [`Error::Key`] where it does not parse, is protected by a passphrase or is not such an Ed25519 key.
    pub fn from_openssh(text: &str) -> Result<Self, Error> {
        let refused = |what: &str| {
            Err(Error::Key(format!(
                "the signing key {what}; make a key of its own with: kpot keygen"
            )))
        };
        match KeyFile::parse(text)? {
            KeyFile::Private(key) => Ok(key),
            KeyFile::Protected(_) => refused("is protected by a passphrase"),
            KeyFile::Handle(_) => refused("is on a FIDO token"),
            KeyFile::Public(_) => refused("is the public half only"),
        }
    }

    /// A key whose private half is elsewhere. `ask` is given each message, and gives an SSHSIG by this key for the namespace of pots, armored; its error continues
    /// the sentence "cannot sign: …". What it gives is checked before anybody sees it.
    pub fn elsewhere(
        public: PublicKey,
        ask: impl Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            public,
            half: PrivateHalf::Elsewhere(Box::new(ask)),
        }
    }

    fn here(key: PrivateKey) -> Self {
        Self {
            public: PublicKey(key.public_key().clone()),
            half: PrivateHalf::Here(Box::new(key)),
        }
    }

    /// The private key in OpenSSH's format, unprotected: for a file that only its owner can read.
    ///
    /// # Errors
    /// [`Error::Key`] where it is not here, or cannot be encoded.
    pub fn to_openssh(&self) -> Result<Zeroizing<String>, Error> {
        match &self.half {
            PrivateHalf::Here(key) => key
                .to_openssh(LineEnding::LF)
                .map_err(|cause| Error::Key(format!("cannot encode the signing key: {cause}"))),
            PrivateHalf::Elsewhere(_) => Err(Error::Key(
                "the private half of the signing key is not here".to_owned(),
            )),
        }
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The public key in OpenSSH's one-line form, without a line feed.
    ///
    /// # Errors
    /// [`Error::Key`] where it cannot be encoded.
    pub fn public_openssh(&self) -> Result<String, Error> {
        self.public.to_openssh()
    }

    /// The fingerprint, `SHA256:…` as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.public.fingerprint()
    }

    pub(crate) fn half(&self) -> &PrivateHalf {
        &self.half
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey")
            .field(&self.fingerprint())
            .finish()
    }
}

/// Whether a key of this type may sign a pot.
pub(crate) fn signs(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Ed25519 | Algorithm::SkEd25519)
}

/// `key` in OpenSSH's one-line form.
pub(crate) fn one_line(key: &ssh_key::PublicKey) -> Result<String, Error> {
    key.to_openssh()
        .map_err(|cause| Error::Key(format!("cannot encode the public key: {cause}")))
}

fn no_key(cause: &ssh_key::Error) -> Error {
    Error::Key(format!(
        "this is not an Ed25519 key in OpenSSH's format ({cause}); make one with: kpot keygen"
    ))
}
