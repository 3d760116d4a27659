//! Signatures over `SHA256SUMS`: SSHSIG with Ed25519, as `ssh-keygen -Y sign -n kpot` makes them and `ssh-keygen -Y verify -n kpot` checks them. Those of a FIDO
//! token (OpenSSH's PROTOCOL.u2f) say that somebody touched it; one that does not say so is refused, as sshd refuses it.
//!
//! A signature has one encoding: the armor is written again and compared, so no byte of it is free. Who is trusted is [`Trust`]'s to say.

use crate::manifest::visible;
use ssh_key::{Algorithm, HashAlg, LineEnding, PublicKey, SshSig};

use crate::error::Error;
use crate::key::{PrivateHalf, SigningKey, signs};
pub use crate::trust::{Signer, Trust};

/// The namespace of a pot's signature: a signature that the same key made for a mail or a git commit is none for a pot.
pub const NAMESPACE: &str = "kpot";

/// The bit of a token's flags that says that somebody was there and touched it (PROTOCOL.u2f).
const PRESENT: u8 = 1;

/// The bytes of an Ed25519 signature; a token's has its flags and its counter behind them.
const ED25519_BYTES: usize = 64;

/// Signs `message`: an armored SSHSIG in its canonical form. The same message always gets the same signature by a key of type `ssh-ed25519`, and another one each
/// time by a key on a FIDO token, which counts its signatures.
///
/// # Errors
/// [`Error::Key`] where the key refuses to sign, or whoever holds it gives something else than its signature over `message`.
pub fn sign(key: &SigningKey, message: &[u8]) -> Result<String, Error> {
    match key.half() {
        PrivateHalf::Here(private) => private
            .sign(NAMESPACE, HashAlg::Sha512, message)
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .map_err(|cause| Error::Key(format!("cannot sign: {cause}"))),
        PrivateHalf::Elsewhere(ask) => {
            let answer =
                ask(message).map_err(|reason| Error::Key(format!("cannot sign: {reason}")))?;
            canonical(&answer, key, message).map_err(|reason| {
                Error::Key(format!(
                    "what was given as the signature of {} is none for a pot: {reason}",
                    key.fingerprint()
                ))
            })
        }
    }
}

/// The signature in `answer`, in its canonical form, if it is one by `key` over `message`.
fn canonical(answer: &[u8], key: &SigningKey, message: &[u8]) -> Result<String, Error> {
    let armored = SshSig::from_pem(answer)
        .and_then(|signature| signature.to_pem(LineEnding::LF))
        .map_err(|cause| Error::Signature(format!("it does not parse as an SSHSIG: {cause}")))?;
    let parsed = ParsedSignature::parse(armored.as_bytes())?;
    if !key.public().is(&parsed.key) {
        return Err(Error::Signature(format!(
            "it was made by {}",
            parsed.fingerprint()
        )));
    }
    parsed.check(message)?;
    Ok(armored)
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
            Error::Signature(format!(
                "it does not parse as an SSHSIG: {}",
                visible(&cause)
            ))
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
        if !signs(&key.algorithm()) || signature.algorithm() != key.algorithm() {
            return Err(Error::Signature(format!(
                "it was made by a key of type {}, and only ssh-ed25519 and sk-ssh-ed25519@openssh.com are accepted",
                key.algorithm()
            )));
        }
        let flags = signature.signature_bytes().get(ED25519_BYTES);
        if key.algorithm() == Algorithm::SkEd25519 && flags.is_none_or(|it| it & PRESENT == 0) {
            return Err(refused(
                "its FIDO token does not say that somebody touched it",
            ));
        }
        Ok(Self { signature, key })
    }

    /// The fingerprint of the key that claims to have signed.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    pub fn verify(&self, message: &[u8], trust: &Trust) -> Result<Signer, Error> {
        // Validity before trust: what is then said about the key is said about the one that really signed.
        self.check(message)?;
        trust.accept(&self.key)
    }

    fn check(&self, message: &[u8]) -> Result<(), Error> {
        self.key
            .verify(NAMESPACE, message, &self.signature)
            .map_err(|_| Error::Signature("SHA256SUMS is not what was signed".to_owned()))
    }
}
