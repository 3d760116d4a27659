//! The signing key: where it lies, how it is read and made.
//!
//! The key is never printed and its file is its owner's alone: a key file that others may read is refused, as ssh refuses it.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use bundle_spec::SigningKey;
use zeroize::Zeroizing;

use crate::exit::usage;
use crate::pack::output;

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

/// Reads a signing key.
///
/// # Errors
/// Where it cannot be read, others may read it, or it is no key that can sign.
pub fn load(path: &Path) -> anyhow::Result<SigningKey> {
    let attempt = || format!("cannot read the signing key {}", path.display());
    let file = File::open(path).with_context(attempt)?;
    let metadata = file.metadata().with_context(attempt)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(anyhow!(
            "others may read the signing key {path} (mode {mode:o}); if nobody has, type: chmod 600 {path}",
            path = path.display(),
            mode = metadata.mode() & 0o7777
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LIMIT)
        .read_to_string(&mut text)
        .with_context(attempt)?;
    SigningKey::from_openssh(&text).with_context(attempt)
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
    output::write_new(path, &text, 0o600)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let line = format!("{}\n", key.public_openssh()?);
    if let Err(cause) = output::write_new(&public, &line, 0o644) {
        // Half a pair is worse than none.
        let _ = output::remove(path);
        return Err(cause).with_context(|| format!("cannot write {}", public.display()));
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
