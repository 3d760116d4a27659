//! The names that a member of a pot can have, as a type.
//!
//! A name is parsed once, at the edge, into one of six kinds; whatever does not parse is refused there. So nothing behind this module ever joins an untrusted
//! string to a path: there is no `..`, no absolute name, no second spelling and no case twin that it could hold.

use std::fmt;
use std::str::FromStr;

use crate::digest::Sha256;
use crate::limits;

/// The folder of the blobs, as it stands in a member's name.
pub const BLOB_FOLDER: &str = "blobs/sha256";

/// A member of a pot. The order of the variants, and of the digests within the last, is the order of the members in a pot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// `kpot-install`: the static installer for the pot's architecture.
    Installer,
    /// `README.txt`: the lines that a stranger needs.
    Readme,
    /// `SHA256SUMS`: the digest of every member but itself and its signature.
    Sums,
    /// `SHA256SUMS.sig`: the signature over `SHA256SUMS`; the only member that may be absent.
    Signature,
    /// `manifest.json`: see [`crate::manifest`].
    Manifest,
    /// `blobs/sha256/<hex>`: a blob, named by the digest of its stored bytes.
    Blob(Sha256),
}

/// Why a text is not the name of a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a member")]
pub struct ParseMemberError(String);

impl Member {
    /// The members that every pot has, in their order.
    pub const REQUIRED: [Self; 4] = [Self::Installer, Self::Readme, Self::Sums, Self::Manifest];

    /// The largest size of this member, in bytes.
    pub const fn limit(&self) -> u64 {
        match self {
            Self::Installer => limits::INSTALLER,
            Self::Readme => limits::README,
            Self::Sums | Self::Manifest => limits::MANIFEST,
            Self::Signature => limits::SIGNATURE,
            Self::Blob(_) => limits::BLOB_SIZE,
        }
    }

    /// The permission bits of this member in the archive: only the installer can be run.
    pub const fn mode(&self) -> u32 {
        match self {
            Self::Installer => 0o755,
            Self::Readme | Self::Sums | Self::Signature | Self::Manifest | Self::Blob(_) => 0o644,
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installer => f.write_str("kpot-install"),
            Self::Readme => f.write_str("README.txt"),
            Self::Sums => f.write_str("SHA256SUMS"),
            Self::Signature => f.write_str("SHA256SUMS.sig"),
            Self::Manifest => f.write_str("manifest.json"),
            Self::Blob(digest) => write!(f, "{BLOB_FOLDER}/{}", digest.hex()),
        }
    }
}

impl FromStr for Member {
    type Err = ParseMemberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "kpot-install" => Self::Installer,
            "README.txt" => Self::Readme,
            "SHA256SUMS" => Self::Sums,
            "SHA256SUMS.sig" => Self::Signature,
            "manifest.json" => Self::Manifest,
            _ => {
                let hex = text
                    .strip_prefix(BLOB_FOLDER)
                    .and_then(|rest| rest.strip_prefix('/'));
                let digest = hex.and_then(|hex| Sha256::from_hex(hex).ok());
                Self::Blob(
                    digest.ok_or_else(|| ParseMemberError(text.chars().take(120).collect()))?,
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_parses_back_from_its_name_and_the_kinds_stand_in_the_order_of_a_pot() {
        let members = [
            Member::Installer,
            Member::Readme,
            Member::Sums,
            Member::Signature,
            Member::Manifest,
            Member::Blob(Sha256::of(b"2")),
        ];
        for member in members {
            assert_eq!(member.to_string().parse(), Ok(member));
        }
        assert!(members.is_sorted());
    }

    #[test]
    fn no_other_name_parses() {
        let hex = Sha256::of(b"").hex();
        for name in [
            String::new(),
            "/kpot-install".to_owned(),
            "./kpot-install".to_owned(),
            "KPOT-INSTALL".to_owned(),
            "readme.txt".to_owned(),
            "../SHA256SUMS".to_owned(),
            "blobs".to_owned(),
            "blobs/sha256/".to_owned(),
            format!("/blobs/sha256/{hex}"),
            format!("./blobs/sha256/{hex}"),
            format!("blobs//sha256/{hex}"),
            format!("blobs/sha256/../{hex}"),
            format!("blobs/sha256/{hex}/"),
            format!("blobs/sha256/{}", hex.to_uppercase()),
            format!("blobs/SHA256/{hex}"),
            format!("blobs/sha256{hex}"),
        ] {
            assert!(name.parse::<Member>().is_err(), "{name}");
        }
    }
}
