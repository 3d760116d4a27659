//! `SHA256SUMS`: the one text that the signature covers, in the form that `sha256sum -c` reads.
//!
//! One line for each member but itself and its signature, in the order of the archive. The text has one spelling: a reader takes three digests out, writes the
//! text again with the blobs of the manifest, and compares.

use std::fmt::Write as _;

use crate::digest::Sha256;
use crate::error::Error;
use crate::manifest::Blob;
use crate::path::Member;

/// The digests of the members that no manifest lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    /// Of `kpot-install`.
    pub installer: Sha256,
    /// Of `README.txt`.
    pub readme: Sha256,
    /// Of `manifest.json`.
    pub manifest: Sha256,
}

impl Sums {
    /// The text for these members and `blobs`.
    pub fn encode(&self, blobs: &[Blob]) -> String {
        let fixed = [
            (self.installer, Member::Installer),
            (self.readme, Member::Readme),
            (self.manifest, Member::Manifest),
        ];
        let blobs = blobs
            .iter()
            .map(|blob| (blob.digest, Member::Blob(blob.digest)));
        fixed
            .into_iter()
            .chain(blobs)
            .fold(String::new(), |mut text, (digest, member)| {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{}  {member}", digest.hex());
                text
            })
    }

    /// Reads the text that belongs to `blobs`.
    ///
    /// # Errors
    /// [`Error::Content`] where it is any other text.
    pub fn decode(text: &[u8], blobs: &[Blob]) -> Result<Self, Error> {
        let refused = || Error::Content {
            member: Member::Sums.to_string(),
            reason: "it does not list exactly the members of this pot".to_owned(),
        };
        let mut digests = text.split(|byte| *byte == b'\n').map(|line| {
            let hex = line.get(..64).and_then(|hex| std::str::from_utf8(hex).ok());
            hex.and_then(|hex| Sha256::from_hex(hex).ok())
                .ok_or_else(refused)
        });
        let mut next = || digests.next().ok_or_else(refused)?;
        let sums = Self {
            installer: next()?,
            readme: next()?,
            manifest: next()?,
        };
        if sums.encode(blobs).as_bytes() == text {
            Ok(sums)
        } else {
            Err(refused())
        }
    }
}
