//! The signing key: where it lies, how it is read and made, and who holds it where it is not in the file.
//!
//! The key is never printed and its file is its owner's alone: a private key that others may read is refused, as ssh refuses it.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use bundle_spec::{KeyFile, PublicKey, SigningKey};
use zeroize::Zeroizing;

use crate::agent::{self, Held};
use crate::exit::usage;
use crate::pack::output::{self, Existing};
use crate::progress::Progress;

/// The principal that stands for kpot's signers in a file of trusted signers.
pub const PRINCIPAL: &str = "kpot";

/// The largest key file, in bytes; an Ed25519 key has some 400.
const LIMIT: u64 = 64 << 10;

/// The place where `kpot keygen` puts the key and `kpot build` looks for it: `$XDG_CONFIG_HOME/kpot/signing_key`, below `~/.config` by default.
///
/// # Errors
/// Where there is neither `XDG_CONFIG_HOME` nor `HOME`.
pub fn default_path() -> anyhow::Result<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("kpot").join("signing_key"))
        .ok_or_else(|| usage("neither XDG_CONFIG_HOME nor HOME is set: name the key file"))
}

/// The signing key that `path` names: the private key in it; the agent's key, where it holds a public key, or a private one behind a passphrase; or the one on a FIDO
/// token that it leads to. A public key that the agent does not hold stands for the private key beside it, as with `ssh-keygen`.
///
/// # Errors
/// Where the file cannot be read, others may read its private key, it is no key that can sign, or nobody is there who signs with it.
pub fn load(path: &Path, progress: &Progress) -> anyhow::Result<SigningKey> {
    match read(path)? {
        KeyFile::Private(key) => Ok(key),
        KeyFile::Handle(public) => agent::signer(path, public, progress),
        KeyFile::Protected(public) => match agent::holds(&public)? {
            Held::Yes => agent::signer(path, public, progress),
            elsewhere => Err(unheld(path, &public, &elsewhere, path)
                .context("kpot asks for no passphrase; an agent does, once")),
        },
        KeyFile::Public(public) => {
            let held = agent::holds(&public)?;
            if matches!(held, Held::Yes) {
                return agent::signer(path, public, progress);
            }
            let private = private_path(path);
            match read_if_there(path, &private)? {
                Some(KeyFile::Private(key)) if *key.public() == public => Ok(key),
                Some(KeyFile::Handle(handle)) if handle == public => {
                    agent::signer(&private, public, progress)
                }
                _ => Err(unheld(path, &public, &held, &private)),
            }
        }
    }
}

/// Nobody signs with `public`; its private half may lie in `private`.
fn unheld(path: &Path, public: &PublicKey, held: &Held, private: &Path) -> anyhow::Error {
    let (why, first) = match held {
        Held::NoAgent(complaint) => (
            format!("no SSH agent answers ({complaint})"),
            "eval \"$(ssh-agent)\" && ",
        ),
        Held::Yes | Held::No => ("the SSH agent does not hold it".to_owned(), ""),
    };
    anyhow!(
        "cannot sign with {}, {}: {why}. Type: {first}ssh-add {}",
        path.display(),
        public.fingerprint(),
        private.display()
    )
}

/// The private key beside the public one in `path`, where its name ends as one of a public key.
fn read_if_there(path: &Path, private: &Path) -> anyhow::Result<Option<KeyFile>> {
    if path == private || private.symlink_metadata().is_err() {
        return Ok(None);
    }
    read(private).map(Some)
}

/// `X` for `X.pub`.
fn private_path(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|ending| ending == "pub") {
        path.with_extension("")
    } else {
        path.to_owned()
    }
}

fn read(path: &Path) -> anyhow::Result<KeyFile> {
    let attempt = || format!("cannot read the signing key {}", path.display());
    let file = File::open(path).with_context(attempt)?;
    let mode = file.metadata().with_context(attempt)?.mode();
    let mut text = Zeroizing::new(String::new());
    file.take(LIMIT)
        .read_to_string(&mut text)
        .with_context(attempt)?;
    let key = KeyFile::parse(&text).with_context(attempt)?;
    if mode & 0o077 != 0 && !matches!(key, KeyFile::Public(_)) {
        return Err(anyhow!(
            "others may read the signing key {path} (mode {mode:o}); if nobody has, type: chmod 600 {path}",
            path = path.display(),
            mode = mode & 0o7777
        ));
    }
    Ok(key)
}

/// Makes a key in `path`, and its public half in `path.pub`; both must be new.
///
/// # Errors
/// Where one of them is there already, or the system refuses.
pub fn generate(path: &Path) -> anyhow::Result<SigningKey> {
    let public = public_path(path);
    for existing in [path, &public] {
        if existing.symlink_metadata().is_ok() {
            return Err(usage(format!(
                "{} is there already and is not overwritten: pots signed with a lost key can never be replaced. Choose another file with -o",
                existing.display()
            )));
        }
    }
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        output::make_private_folder(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let key = SigningKey::generate()?;
    let text = key.to_openssh()?;
    let write = |path: &Path, text: &str, mode| {
        output::put(path, mode, Existing::Kept, text.len() as u64, |out| {
            Ok(out.write_all(text.as_bytes())?)
        })
    };
    write(path, &text, 0o600)?;
    let line = format!("{}\n", key.public_openssh()?);
    if let Err(cause) = write(&public, &line, 0o644) {
        // Half a pair is worse than none.
        let _ = output::remove(path);
        return Err(cause);
    }
    Ok(key)
}

/// The line for a file of trusted signers that trusts `key` for pots, and for nothing else.
///
/// # Errors
/// Where the public key cannot be encoded.
pub fn trusted_signers_line(key: &SigningKey) -> anyhow::Result<String> {
    Ok(format!(
        "{PRINCIPAL} namespaces=\"kpot\" {}",
        key.public_openssh()?
    ))
}

/// `FILE.pub`, as ssh-keygen names it.
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}
