//! Finding the pot, and trusting it: by a list of signers or by a key's fingerprint, both from outside the pot.

#![allow(
    clippy::disallowed_methods,
    reason = "reads the pot's surroundings and the list of trusted signers, before there is any state"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use bundle_spec::reader::{Progress, UnverifiedPot, VerifiedPot};
use bundle_spec::signature::Trust;

use crate::console::Console;
use crate::exit::Usage;
use crate::host::ssh::quote;

/// Where an operator says whom to trust, for every run.
pub const TRUSTED_SIGNERS: &str = "/etc/kpot/trusted_signers";

/// Whom to trust.
#[derive(Clone, Debug)]
pub struct TrustOptions {
    /// A file in OpenSSH's allowed_signers format.
    pub signers: Option<PathBuf>,
    /// A key's fingerprint, `SHA256:…`.
    pub signer: Option<String>,
}

/// The pot that the operator named, or the one beside this program.
///
/// # Errors
/// [`Usage`] where there is none, or more than one. The same holds for a folder that was named and is no unpacked pot.
pub fn find_pot(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = given {
        // A path that may not be looked at is told so when it is opened.
        if matches!(path.try_exists(), Ok(false)) {
            bail!(Usage(format!(
                "there is no pot {}: is the path right?",
                path.display()
            )));
        }
        if path.is_dir() && !path.join("manifest.json").exists() {
            return beside(&path);
        }
        return Ok(path);
    }
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let folder = own.parent().context("this program's path has no folder")?;
    beside(folder)
}

fn beside(folder: &Path) -> Result<PathBuf> {
    if folder.join("manifest.json").is_file() && folder.join("SHA256SUMS").is_file() {
        return Ok(folder.to_owned());
    }
    let mut pots = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "pot") && path.is_file() {
            pots.push(path);
        }
    }
    pots.sort();
    match pots.as_slice() {
        [pot] => Ok(pot.clone()),
        [] => bail!(Usage(format!(
            "there is no pot in {}: name it with --pot FILE, or unpack it and run the kpot-install in it",
            folder.display()
        ))),
        several => {
            let names: Vec<String> = several
                .iter()
                .map(|pot| pot.display().to_string())
                .collect();
            bail!(Usage(format!(
                "there are {} pots in {}: name one with --pot: {}",
                names.len(),
                folder.display(),
                names.join(", ")
            )))
        }
    }
}

/// Opens the pot and checks its signature and every byte of it.
pub fn open_verified(path: &Path, trust: &TrustOptions, console: &Console) -> Result<VerifiedPot> {
    let pot = match UnverifiedPot::open(path) {
        Ok(pot) => pot,
        Err(refusal) if refusal.is_untrusted() => return Err(refused(path, trust, refusal)),
        Err(cause) => {
            return Err(cause).with_context(|| format!("cannot use the pot {}", path.display()));
        }
    };
    let trusted = match (&trust.signer, &trust.signers) {
        (Some(fingerprint), _) => Trust::from_fingerprint(fingerprint)
            .map_err(|cause| Usage(format!("--signer: {cause}")))?,
        (None, Some(file)) => {
            let text = fs::read_to_string(file).map_err(|cause| {
                Usage(format!(
                    "cannot read the trusted signers in {}: {cause}",
                    file.display()
                ))
            })?;
            Trust::from_allowed_signers(&text, SystemTime::now())
                .with_context(|| format!("cannot use the trusted signers in {}", file.display()))?
        }
        (None, None) => match fs::read_to_string(TRUSTED_SIGNERS) {
            Ok(text) => Trust::from_allowed_signers(&text, SystemTime::now())
                .with_context(|| format!("cannot use the trusted signers in {TRUSTED_SIGNERS}"))?,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                Trust::from_allowed_signers("", SystemTime::now())?
            }
            Err(cause) => {
                return Err(cause).with_context(|| {
                    format!("cannot read the trusted signers in {TRUSTED_SIGNERS}")
                });
            }
        },
    };
    let shown = Mutex::new(Instant::now());
    let progress = |progress: Progress| {
        let mut last = shown
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() >= Duration::from_secs(2) {
            *last = Instant::now();
            console.say(&format!(
                "verifying: {} of {} MiB",
                progress.done >> 20,
                progress.total >> 20
            ));
        }
    };
    pot.verify(&trusted, &progress)
        .map_err(|refusal| refused(path, trust, refusal))
}

/// The refusal of a pot, with what can be done about it.
fn refused(path: &Path, trust: &TrustOptions, refusal: bundle_spec::Error) -> anyhow::Error {
    let (folder, list) = match &trust.signers {
        Some(file) => (String::new(), quote(&file.to_string_lossy())),
        None => (
            "install -d -m 755 /etc/kpot && ".to_owned(),
            TRUSTED_SIGNERS.to_owned(),
        ),
    };
    let advice = match &refusal {
        bundle_spec::Error::UntrustedSigner {
            fingerprint,
            public_key,
        } => format!(
            "Compare that fingerprint with the one that the pot's builder gave you on another way. If it is the same, trust it:\n  {folder}printf '\\n%s\\n' 'kpot namespaces=\"kpot\" {public_key}' >> {list}\nor for this run only: --signer {fingerprint}"
        ),
        bundle_spec::Error::SignerRefused { fingerprint, .. } => format!(
            "{list} has that key on a condition. See whether this machine's clock is right (date --utc). If it is, ask the pot's builder whether the key still holds: if it does, put the line that you are given in the place of the old one in {list}, or for this run only: --signer {fingerprint}; if not, have the pot signed with a new key (kpot sign)"
        ),
        bundle_spec::Error::Unsigned => {
            "Build it again with a key (kpot keygen, then kpot build)".to_owned()
        }
        bundle_spec::Error::Format(_) => {
            "Check it with ssh-keygen and sha256sum as its README.txt says, then use the kpot-install that is in it".to_owned()
        }
        _ => "Do not use this pot: fetch it again from where it was built".to_owned(),
    };
    anyhow::Error::new(refusal).context(format!(
        "the pot {} is refused.\n{advice}\nReason",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pot_beside_the_program_is_found_and_none_or_two_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let usage = |result: Result<PathBuf>| result.unwrap_err().is::<Usage>();
        assert!(usage(beside(folder.path())));
        fs::write(folder.path().join("a.pot"), "").unwrap();
        assert_eq!(beside(folder.path()).unwrap(), folder.path().join("a.pot"));
        fs::write(folder.path().join("b.pot"), "").unwrap();
        assert!(usage(beside(folder.path())));
        for name in ["manifest.json", "SHA256SUMS"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(
            beside(folder.path()).unwrap(),
            folder.path(),
            "an unpacked pot comes first"
        );
    }

    #[test]
    fn a_path_where_nothing_is_was_typed_wrongly() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            find_pot(Some(folder.path().join("none.pot")))
                .unwrap_err()
                .is::<Usage>()
        );
    }

    #[test]
    fn a_folder_that_was_named_is_an_unpacked_pot_or_holds_one_pot() {
        let folder = tempfile::tempdir().unwrap();
        let found = || find_pot(Some(folder.path().to_owned()));
        let usage = || {
            let error = found().unwrap_err();
            assert!(error.is::<Usage>(), "{error:#}");
            error.to_string()
        };
        fs::write(folder.path().join("notes"), "").unwrap();
        assert!(usage().starts_with("there is no pot in "));
        fs::write(folder.path().join("a.pot"), "").unwrap();
        assert_eq!(found().unwrap(), folder.path().join("a.pot"));
        fs::write(folder.path().join("b.pot"), "").unwrap();
        let several = usage();
        assert!(
            several.contains("/a.pot, ") && several.ends_with("/b.pot"),
            "{several}"
        );
        // What says that it is an unpacked pot is taken for one, and refused as one.
        fs::write(folder.path().join("manifest.json"), "").unwrap();
        assert_eq!(found().unwrap(), folder.path());
    }

    #[test]
    fn a_signer_who_is_not_trusted_is_told_with_the_list_that_was_asked() {
        let told = |signers: Option<&str>, refusal| {
            let trust = TrustOptions {
                signers: signers.map(PathBuf::from),
                signer: None,
            };
            format!("{:#}", refused(Path::new("a.pot"), &trust, refusal))
        };
        let stranger = || bundle_spec::Error::UntrustedSigner {
            fingerprint: "SHA256:x".to_owned(),
            public_key: "ssh-ed25519 AAAA".to_owned(),
        };
        let usual = told(None, stranger());
        assert!(usual.contains("  install -d -m 755 /etc/kpot && printf '\\n%s\\n' 'kpot namespaces=\"kpot\" ssh-ed25519 AAAA' >> /etc/kpot/trusted_signers\n"), "{usual}");
        let given = told(Some("/root/our signers"), stranger());
        assert!(
            given.contains("\n  printf") && given.contains(" >> '/root/our signers'\n"),
            "{given}"
        );
        let expired = told(
            Some("/root/signers"),
            bundle_spec::Error::SignerRefused {
                fingerprint: "SHA256:x".to_owned(),
                reason: "was trusted until 2020".to_owned(),
            },
        );
        assert!(
            expired.contains("date --utc")
                && expired.contains("the old one in /root/signers")
                && !expired.contains("fetch it again"),
            "{expired}"
        );
    }

    #[test]
    fn what_is_no_pot_is_not_trusted_and_the_next_command_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let nobody = TrustOptions {
            signers: None,
            signer: None,
        };
        let told = |path: &Path| {
            let console = Console::new(crate::console::Format::Text);
            let error = open_verified(path, &nobody, &console).unwrap_err();
            (crate::exit::status(&error), format!("{error:#}"))
        };
        let (status, said) = told(folder.path());
        assert!(status == 4 && said.contains("fetch it again"), "{said}");
        fs::write(folder.path().join("manifest.json"), r#"{"format": 2}"#).unwrap();
        let (status, said) = told(folder.path());
        assert!(
            status == 4 && said.contains("has format 2") && said.contains("README.txt"),
            "{said}"
        );
    }
}
