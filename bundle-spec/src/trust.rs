//! Who is trusted: a list of keys in OpenSSH's `allowed_signers` format, or one key's fingerprint.
//!
//! The list is read as `ssh-keygen -Y verify` reads it (ssh-keygen(1), ALLOWED SIGNERS), and more strictly: what this module does not understand is refused with
//! its line number and never skipped, so that a slip of the pen cannot widen the trust. Certificate authorities are refused. Keys of other types than
//! `ssh-ed25519` and `sk-ssh-ed25519@openssh.com` may stand in the list; no pot is signed with them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ssh_key::{Algorithm, Fingerprint, HashAlg, PublicKey};

use crate::error::Error;
use crate::key::{one_line, signs};
use crate::signature::NAMESPACE;

/// The key that signed a pot, once it is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// `SHA256:…` as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// The principals that the list gives the key; `None` where it was trusted by its fingerprint alone.
    pub principal: Option<String>,
}

/// Which keys may sign pots.
#[derive(Clone, Debug)]
pub struct Trust(Source);

#[derive(Clone, Debug)]
enum Source {
    Fingerprint(Fingerprint),
    AllowedSigners {
        entries: Vec<Entry>,
        now: SystemTime,
    },
}

/// A line of the list with a key that may sign pots.
#[derive(Clone, Debug)]
struct Entry {
    principals: String,
    options: Options,
    key: PublicKey,
}

/// What a line demands before its key counts.
#[derive(Clone, Debug, Default)]
struct Options {
    namespaces: Option<String>,
    valid_after: Option<Moment>,
    valid_before: Option<Moment>,
}

/// A time as the list writes it.
#[derive(Clone, Debug)]
struct Moment {
    at: SystemTime,
    text: String,
}

impl Trust {
    /// Trusts the keys of an `allowed_signers` file, as they are valid at `now`.
    ///
    /// # Errors
    /// [`Error::Key`] with the number of the line that cannot be used.
    pub fn from_allowed_signers(text: &str, now: SystemTime) -> Result<Self, Error> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = Entry::parse(line).map_err(|reason| {
                Error::Key(format!(
                    "line {} of the trusted signers {reason}; the format is OpenSSH's allowed_signers, one \"NAME ssh-ed25519 KEY\" a line",
                    index + 1
                ))
            })?;
            entries.extend(entry);
        }
        Ok(Self(Source::AllowedSigners { entries, now }))
    }

    /// Trusts the one key with this fingerprint, `SHA256:…` as `ssh-keygen -l` prints it.
    ///
    /// # Errors
    /// [`Error::Key`] where the text is not such a fingerprint.
    pub fn from_fingerprint(text: &str) -> Result<Self, Error> {
        let refused = || {
            Error::Key(format!(
                "{text:?} is not a key's fingerprint: expected SHA256: and 43 characters, as ssh-keygen -l prints it"
            ))
        };
        let fingerprint: Fingerprint = text.parse().map_err(|_| refused())?;
        if fingerprint.is_sha256() && fingerprint.to_string() == text {
            Ok(Self(Source::Fingerprint(fingerprint)))
        } else {
            Err(refused())
        }
    }

    /// Whether `key`, which signed, may sign pots.
    pub(crate) fn accept(&self, key: &PublicKey) -> Result<Signer, Error> {
        let fingerprint = key.fingerprint(HashAlg::Sha256);
        let accepted = |principal| Signer {
            fingerprint: fingerprint.to_string(),
            principal,
        };
        let untrusted = || {
            Ok(Error::UntrustedSigner {
                fingerprint: fingerprint.to_string(),
                public_key: one_line(key)?,
            })
        };
        match &self.0 {
            Source::Fingerprint(trusted) if *trusted == fingerprint => Ok(accepted(None)),
            Source::Fingerprint(_) => Err(untrusted()?),
            Source::AllowedSigners { entries, now } => {
                let mut refusal = None;
                for entry in entries
                    .iter()
                    .filter(|entry| entry.key.key_data() == key.key_data())
                {
                    match entry.refusal(*now) {
                        None => return Ok(accepted(Some(entry.principals.clone()))),
                        Some(reason) => refusal = refusal.or(Some(reason)),
                    }
                }
                Err(match refusal {
                    Some(reason) => Error::SignerRefused {
                        fingerprint: fingerprint.to_string(),
                        reason,
                    },
                    None => untrusted()?,
                })
            }
        }
    }
}

impl Entry {
    /// Reads one line; `None` where its key is of a type that never signs a pot. An error continues the sentence "line 7 …".
    fn parse(line: &str) -> Result<Option<Self>, String> {
        let (principals, rest) = split_principals(line)?;
        let (options, key) = if starts_with_key(rest) {
            (Options::default(), rest)
        } else {
            let (options, rest) = split_options(rest)?;
            (Options::parse(options)?, rest)
        };
        if !starts_with_key(key) {
            return Err("has no public key where one is expected".to_owned());
        }
        // Blanks between them count as one, as for OpenSSH; what follows is a comment.
        let mut words = key.split([' ', '\t']).filter(|word| !word.is_empty());
        let kind = words.next().unwrap_or_default();
        let data = words.next().unwrap_or_default();
        if !Algorithm::new(kind).is_ok_and(|kind| signs(&kind)) {
            return Ok(None);
        }
        let key = PublicKey::from_openssh(&format!("{kind} {data}"))
            .map_err(|cause| format!("has a public key that does not parse: {cause}"))?;
        Ok(Some(Self {
            principals: principals.to_owned(),
            options,
            key,
        }))
    }

    /// Why the line does not accept its key for a pot at `now`; continues the sentence "the pot is signed by …, which …".
    fn refusal(&self, now: SystemTime) -> Option<String> {
        let options = &self.options;
        if let Some(namespaces) = &options.namespaces
            && !matches_list(NAMESPACE, namespaces)
        {
            return Some(format!(
                "is trusted here for the namespaces {namespaces:?} only, not for {NAMESPACE:?}"
            ));
        }
        if let Some(after) = options.valid_after.as_ref().filter(|after| now < after.at) {
            return Some(format!("is trusted here from {} on only", after.text));
        }
        let before = options.valid_before.as_ref();
        // The last second itself still counts, as with OpenSSH.
        let expired = before.filter(|before| now >= before.at + Duration::from_secs(1));
        expired.map(|before| format!("was trusted here until {} only", before.text))
    }
}

impl Options {
    /// Reads the comma-separated options of a line.
    fn parse(mut text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        loop {
            let name_end = text.find(['=', ',']).unwrap_or(text.len());
            let name = text[..name_end].to_ascii_lowercase();
            let mut value = None;
            let mut rest = &text[name_end..];
            if let Some(quoted) = rest.strip_prefix("=\"") {
                // A value with an escaped quote is none of a namespace, nor of a time.
                let end = quoted
                    .find('"')
                    .ok_or("has an option with a quote that does not end")?;
                value = Some(&quoted[..end]);
                rest = &quoted[end + 1..];
            }
            let place = match (name.as_str(), value) {
                ("cert-authority", _) => {
                    return Err(
                        "names a certificate authority, and pots are signed by keys only"
                            .to_owned(),
                    );
                }
                ("namespaces", Some(value)) => {
                    options.namespaces.replace(value.to_owned()).map(|_| ())
                }
                ("valid-after", Some(value)) => options
                    .valid_after
                    .replace(Moment::parse(value)?)
                    .map(|_| ()),
                ("valid-before", Some(value)) => options
                    .valid_before
                    .replace(Moment::parse(value)?)
                    .map(|_| ()),
                _ => {
                    return Err(format!(
                        "has the option {name:?}, which is unknown or lacks its value in double quotes"
                    ));
                }
            };
            if place.is_some() {
                return Err(format!("has the option {name} twice"));
            }
            if rest.is_empty() {
                break;
            }
            text = rest
                .strip_prefix(',')
                .ok_or("has options that are not separated by commas")?;
        }
        match (&options.valid_after, &options.valid_before) {
            (Some(after), Some(before)) if after.at >= before.at => {
                Err("is valid from a time that is not before its end".to_owned())
            }
            _ => Ok(options),
        }
    }
}

impl Moment {
    /// Reads `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS` with the `Z` that says UTC.
    ///
    /// OpenSSH takes a time without `Z` as one of the machine's own zone. A list that means something else on every machine, and that a static program without
    /// the zone's rules cannot read, is refused.
    fn parse(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "has the time {text:?}: expected YYYYMMDDZ or YYYYMMDDHHMM[SS]Z, in UTC and with the Z"
            )
        };
        let digits = text.strip_suffix(['Z', 'z']).ok_or_else(refused)?;
        if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(refused());
        }
        let number = |from: usize, to: usize| -> u64 {
            // Only digits here, and at most four of them.
            digits
                .get(from..to)
                .and_then(|digits| digits.parse().ok())
                .unwrap_or(0)
        };
        let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
        let (hour, minute, second) = (number(8, 10), number(10, 12), number(12, 14));
        let days = days_since_1970(year, month, day).ok_or_else(refused)?;
        if hour > 23 || minute > 59 || second > 59 {
            return Err(refused());
        }
        let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
        Ok(Self {
            at: UNIX_EPOCH + Duration::from_secs(seconds),
            text: text.to_owned(),
        })
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, if there is such a date and it is not earlier.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let length = |month: u64| match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if year < 1970 || !(1..=12).contains(&month) || !(1..=length(month)).contains(&day) {
        return None;
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    let months: u64 = (1..month).map(length).sum();
    Some(years + months + day - 1)
}

/// Splits the principals, in double quotes or not, off the front of a line.
fn split_principals(line: &str) -> Result<(&str, &str), String> {
    let (principals, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted
            .split_once('"')
            .ok_or("has a name with a quote that does not end")?,
        None => line.split_at(line.find([' ', '\t']).unwrap_or(line.len())),
    };
    let key = rest.trim_start_matches([' ', '\t']);
    if principals.is_empty() || key.len() == rest.len() {
        return Err("lacks the signer's name before the public key".to_owned());
    }
    Ok((principals, key))
}

/// Splits the options, which hold blanks only between double quotes, off the front of `text`.
fn split_options(text: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    let end = text.find(|character| {
        quoted ^= character == '"';
        !quoted && matches!(character, ' ' | '\t')
    });
    let (options, rest) = text.split_at(end.ok_or("has no public key where one is expected")?);
    Ok((options, rest.trim_start_matches([' ', '\t'])))
}

/// Whether `text` begins with the name of a type of public keys, as sshd(8) lists them.
fn starts_with_key(text: &str) -> bool {
    let kind = text.split([' ', '\t']).next().unwrap_or_default();
    matches!(
        kind,
        "ssh-ed25519"
            | "ssh-rsa"
            | "ssh-dss"
            | "ecdsa-sha2-nistp256"
            | "ecdsa-sha2-nistp384"
            | "ecdsa-sha2-nistp521"
            | "sk-ssh-ed25519@openssh.com"
            | "sk-ecdsa-sha2-nistp256@openssh.com"
    )
}

/// Whether a comma-separated list of patterns with `*`, `?` and a leading `!` matches `text`, as OpenSSH's pattern lists do: one negated match refuses.
fn matches_list(text: &str, patterns: &str) -> bool {
    let mut matched = false;
    for pattern in patterns.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(text.as_bytes(), pattern.as_bytes()) => return false,
            Some(_) => {}
            None => matched |= matches(text.as_bytes(), pattern.as_bytes()),
        }
    }
    matched
}

fn matches(text: &[u8], pattern: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', pattern)), _) if matches(text, pattern) => true,
        (Some((b'*', _)), Some((_, text))) => matches(text, pattern),
        (Some((b'?', pattern)), Some((_, text))) => matches(text, pattern),
        (Some((expected, pattern)), Some((seen, text))) => {
            expected == seen && matches(text, pattern)
        }
        _ => false,
    }
}
