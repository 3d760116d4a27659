//! Signatures over `SHA256SUMS`: SSHSIG with Ed25519, as `ssh-keygen -Y sign -n kpot` makes them and `ssh-keygen -Y verify -n kpot` checks them.
//!
//! A signature has one encoding: the armor is written again and compared, so no byte of it is free. Who is trusted is [`Trust`]'s to say.

use std::fmt;

use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};
use zeroize::Zeroizing;

use crate::error::Error;
pub use crate::trust::{Signer, Trust};

/// The namespace of a pot's signature: a signature that the same key made for a mail or a git commit is none for a pot.
pub const NAMESPACE: &str = "kpot";

/// A private key that signs pots.
///
/// Neither printed nor copied; its memory is overwritten when it is dropped.
pub struct SigningKey(PrivateKey);

impl SigningKey {
    /// A new Ed25519 key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`Error::Key`] where the system has none to give.
    pub fn generate() -> Result<Self, Error> {
        let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519)
            .map_err(|cause| Error::Key(format!("cannot make a signing key: {cause}")))?;
        key.set_comment(NAMESPACE);
        Ok(Self(key))
    }

    /// Reads a private key in OpenSSH's format.
    ///
    /// # Errors
    /// [`Error::Key`] where it does not parse, is protected by a passphrase or is not an Ed25519 key.
    pub fn from_openssh(text: &str) -> Result<Self, Error> {
        let key = PrivateKey::from_openssh(text).map_err(|cause| {
            Error::Key(format!(
                "this is not an Ed25519 private key in OpenSSH's format ({cause}); make one with: kpot keygen"
            ))
        })?;
        if key.is_encrypted() {
            return Err(Error::Key(
                "the signing key is protected by a passphrase, which kpot does not ask for; make a key of its own with: kpot keygen".to_owned(),
            ));
        }
        if key.algorithm() != Algorithm::Ed25519 {
            return Err(Error::Key(format!(
                "the signing key is of type {}, and pots are signed with ssh-ed25519 only; make one with: kpot keygen",
                key.algorithm()
            )));
        }
        Ok(Self(key))
    }

    /// The private key in OpenSSH's format, unprotected: for a file that only its owner can read.
    ///
    /// # Errors
    /// [`Error::Key`] where it cannot be encoded.
    pub fn to_openssh(&self) -> Result<Zeroizing<String>, Error> {
        self.0
            .to_openssh(LineEnding::LF)
            .map_err(|cause| Error::Key(format!("cannot encode the signing key: {cause}")))
    }

    /// The public key in OpenSSH's one-line form, without a line feed.
    ///
    /// # Errors
    /// [`Error::Key`] where it cannot be encoded.
    pub fn public_openssh(&self) -> Result<String, Error> {
        one_line(self.0.public_key())
    }

    /// The fingerprint, `SHA256:…` as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey")
            .field(&self.fingerprint())
            .finish()
    }
}

/// Signs `message`: an armored SSHSIG in its canonical form. The same key and message always give the same signature.
///
/// # Errors
/// [`Error::Key`] where the key refuses to sign.
pub fn sign(key: &SigningKey, message: &[u8]) -> Result<String, Error> {
    let cannot = |cause: ssh_key::Error| Error::Key(format!("cannot sign: {cause}"));
    key.0
        .sign(NAMESPACE, HashAlg::Sha512, message)
        .and_then(|signature| signature.to_pem(LineEnding::LF))
        .map_err(cannot)
}

/// Checks an armored signature over `message`, and that its key is trusted.
///
/// # Errors
/// [`Error::Signature`] where it is not a valid signature of a pot in canonical form, [`Error::UntrustedSigner`] and [`Error::SignerRefused`] where it is one
/// by a key that `trust` does not accept.
pub fn verify(message: &[u8], armored: &[u8], trust: &Trust) -> Result<Signer, Error> {
    ParsedSignature::parse(armored)?.verify(message, trust)
}

/// A signature that is in canonical form, and not checked yet.
#[derive(Debug)]
pub(crate) struct ParsedSignature {
    signature: SshSig,
    key: PublicKey,
}

impl ParsedSignature {
    pub fn parse(armored: &[u8]) -> Result<Self, Error> {
        let refused = |reason: &str| Error::Signature(reason.to_owned());
        let signature = SshSig::from_pem(armored).map_err(|cause| {
            Error::Signature(format!("it does not parse as an SSHSIG: {cause}"))
        })?;
        let canonical = signature
            .to_pem(LineEnding::LF)
            .map_err(|cause| Error::Signature(format!("it cannot be written again: {cause}")))?;
        if canonical.as_bytes() != armored {
            return Err(refused("it is not in the canonical encoding"));
        }
        if signature.version() != SshSig::VERSION || !signature.reserved().is_empty() {
            return Err(refused("it is of another version of SSHSIG"));
        }
        if signature.namespace() != NAMESPACE {
            return Err(Error::Signature(format!(
                "it was made for the namespace {:?}, not for {NAMESPACE:?}",
                signature.namespace()
            )));
        }
        if signature.hash_alg() != HashAlg::Sha512 {
            return Err(refused("it does not hash with sha512"));
        }
        let key = PublicKey::from(signature.public_key().clone());
        if signature.algorithm() != Algorithm::Ed25519 || key.algorithm() != Algorithm::Ed25519 {
            return Err(Error::Signature(format!(
                "it was made by a key of type {}, and only ssh-ed25519 is accepted",
                key.algorithm()
            )));
        }
        Ok(Self { signature, key })
    }

    /// The fingerprint of the key that claims to have signed.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    pub fn verify(&self, message: &[u8], trust: &Trust) -> Result<Signer, Error> {
        // Validity before trust: what is then said about the key is said about the one that really signed.
        self.key
            .verify(NAMESPACE, message, &self.signature)
            .map_err(|_| Error::Signature("SHA256SUMS is not what was signed".to_owned()))?;
        trust.accept(&self.key)
    }
}

/// `key` in OpenSSH's one-line form.
pub(crate) fn one_line(key: &PublicKey) -> Result<String, Error> {
    key.to_openssh()
        .map_err(|cause| Error::Key(format!("cannot encode the public key: {cause}")))
}
