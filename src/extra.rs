//! Files that a pot carries besides what a master needs: a network's manifest, a runbook, a tool. They are content like any other, and nothing ever installs, runs or
//! applies them.
//!
//! A file is fetched from an address, and then somebody must say its digest; or it is here already, and then it is what it is. Neither the folder that it lies in nor
//! the machine is told in a pot, so that two machines make the same one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bundle_spec::Sha256;
use bundle_spec::manifest::EXTRA;
use reqwest::Url;

use crate::exit::usage;

/// The longest name, in bytes: with [`EXTRA`] before it, it is the name of an artifact.
const NAME_LIMIT: usize = 100 - EXTRA.len();

/// The longest address that a manifest holds, in bytes.
const ADDRESS_LIMIT: usize = 1024;

/// What a pot calls the version of a file that has none.
pub const UNVERSIONED: &str = "-";

/// The name of a file in a pot: letters, digits and `._+-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtraName(String);

impl ExtraName {
    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExtraName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
        let good = !text.is_empty()
            && text.len() <= NAME_LIMIT
            && text.bytes().all(plain)
            && !text.starts_with(['.', '-']);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} cannot be the name of a file in a pot: expected up to {NAME_LIMIT} letters, digits and ._+- that begin with neither a dot nor a dash"
            ))
        }
    }
}

/// The name of the artifact: `file.NAME`, which nothing that is installed is called.
impl fmt::Display for ExtraName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{EXTRA}{}", self.0))
    }
}

/// The address of a file: http or https, and nothing in it that may not stand in a pot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// It as an address to fetch from.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url =
            Url::parse(text).map_err(|cause| format!("{text:?} is not an address: {cause}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("{url} is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            // The address is not repeated: it holds a secret.
            return Err(
                "the address of a file must not hold a user or a password: it stands in the pot"
                    .to_owned(),
            );
        }
        if url.fragment().is_some() || url.as_str().len() > ADDRESS_LIMIT {
            return Err(format!(
                "{url} is not an address of at most {ADDRESS_LIMIT} bytes without a # in it"
            ));
        }
        Ok(Self(url))
    }
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine; with the digest that it must have, if somebody says so.
    Here(PathBuf, Option<Sha256>),
    /// At an address, with the digest that it must have.
    At(Address, Sha256),
}

/// A file to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Its name in the pot.
    pub name: ExtraName,
    /// Its version, or [`UNVERSIONED`].
    pub version: String,
    /// Where it is.
    pub place: Place,
}

impl Extra {
    /// What a pot and a lock say of where it is from: its address, or `file:NAME` for one that was here.
    pub fn source(&self) -> String {
        match &self.place {
            Place::Here(..) => format!("file:{}", self.name.file()),
            Place::At(address, _) => address.url().to_string(),
        }
    }

    /// The digest that it must have, where somebody said so.
    pub fn digest(&self) -> Option<Sha256> {
        match &self.place {
            Place::Here(_, digest) => *digest,
            Place::At(_, digest) => Some(*digest),
        }
    }

    /// Where it lies, as a person finds it.
    pub fn place(&self) -> String {
        match &self.place {
            Place::Here(path, _) => path.display().to_string(),
            Place::At(address, _) => address.url().to_string(),
        }
    }

    /// Looks whether a file that is to be here is: before anything is fetched.
    ///
    /// # Errors
    /// A usage error with its path.
    pub fn look(&self) -> anyhow::Result<()> {
        match &self.place {
            Place::At(..) => Ok(()),
            Place::Here(path, _) => length(path)
                .map(drop)
                .map_err(|problem| usage(format!("cannot carry {}: {problem}", self.name))),
        }
    }
}

/// The length of a regular file, in bytes.
///
/// # Errors
/// A text with its path.
pub fn length(path: &Path) -> Result<u64, String> {
    match path.metadata() {
        Ok(it) if it.is_file() => Ok(it.len()),
        Ok(_) => Err(format!("{} is not a file", path.display())),
        Err(cause) => Err(format!("{}: {cause}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_never_those_of_what_is_installed() {
        let name: ExtraName = "crictl".parse().unwrap();
        assert_eq!(name.to_string(), "file.crictl");
        assert_eq!(name.file(), "crictl");
        let longest = "n".repeat(95);
        assert!(longest.parse::<ExtraName>().is_ok());
        for text in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            ".hidden",
            "-rf",
            "a b",
            "ä",
            &format!("{longest}n"),
        ] {
            assert!(text.parse::<ExtraName>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_must_not_stand_in_a_pot_is_no_address_and_is_not_repeated() {
        for good in ["https://x.example/a/b?c=d", "http://10.0.0.1:8080/x"] {
            assert_eq!(good.parse::<Address>().unwrap().url().as_str(), good);
        }
        for text in [
            "",
            "x",
            "ftp://x.example/x",
            "file:///etc/passwd",
            "https://x.example/#x",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let long = format!("https://x.example/{}", "x".repeat(1024));
        assert!(long.parse::<Address>().is_err());
        for secret in [
            "https://me:hunter2@x.example/",
            "https://hunter2@x.example/",
        ] {
            let refused = secret.parse::<Address>().unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
}
