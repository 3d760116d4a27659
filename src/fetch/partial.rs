//! A file that is being fetched, maybe in several answers.
//!
//! A second answer continues the first one only if both are surely of the same file: it starts at the byte that was asked for, and carries the same validator. Whatever is
//! in doubt begins again from the first byte. That the bytes are the right ones is still for the caller to say, by their digest; who knows it before may bring a beginning
//! of an earlier run, which is hashed with the rest and needs no validator.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::time::Duration;

use bundle_spec::{Hasher, Sha256};
use reqwest::header::{CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED};
use sha2::Digest as _;

use crate::releases::Algorithm;

/// A file that was fetched.
#[derive(Debug)]
pub struct Saved {
    /// The file, at its end.
    pub file: File,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its SHA-512 in hex, where it was asked for.
    pub sha512: Option<String>,
}

/// A file that is being fetched, with the digests of what is there.
pub(super) struct Partial {
    pub(super) file: File,
    sha256: Hasher,
    sha512: Option<sha2::Sha512>,
    /// What `If-Range` compares, from the answer that the bytes so far came with.
    validator: Option<HeaderValue>,
    /// Whether its beginning was there before: the caller vouches for it.
    taken_up: bool,
}

impl Partial {
    /// Goes on after what `file` holds, whose digest the caller will compare.
    pub(super) fn take_up(file: File, hash: Algorithm) -> io::Result<Self> {
        let mut partial = Self::new(file, hash);
        partial.file.rewind()?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = match partial.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(cause),
            };
            partial.hash(&buffer[..count]);
            partial.taken_up = true;
        }
        Ok(partial)
    }

    /// Nothing yet, in `file`, which is empty.
    pub(super) fn new(file: File, hash: Algorithm) -> Self {
        Self {
            file,
            sha256: Hasher::new(),
            sha512: (hash == Algorithm::Sha512).then(sha2::Sha512::new),
            validator: None,
            taken_up: false,
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.sha256.length()
    }

    /// Whether what is there can be continued.
    pub(super) fn is_resumable(&self) -> bool {
        self.length() > 0 && (self.validator.is_some() || self.taken_up)
    }

    /// What to send as `If-Range`.
    pub(super) fn validator(&self) -> Option<HeaderValue> {
        self.validator.clone()
    }

    /// Forgets what is there.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.sha256 = Hasher::new();
        self.sha512 = self.sha512.as_ref().map(|_| sha2::Sha512::new());
        self.validator = None;
        self.taken_up = false;
        Ok(())
    }

    /// The first bytes are about to come, with these headers.
    pub(super) fn begins_with(&mut self, headers: &HeaderMap) {
        self.validator = validator(headers);
    }

    /// Where the part ends that a 206 with these headers brings, and how long the whole is; or why it does not continue what is there.
    pub(super) fn continues_with(&self, headers: &HeaderMap) -> Result<ContentRange, &'static str> {
        let range = ContentRange::of(headers).filter(|range| range.start == self.length());
        let range = range.ok_or("the server sent another range than was asked for")?;
        let same = match headers.get(ETAG) {
            // Nothing is known of the answer that it began with, and its digest will tell.
            _ if self.validator.is_none() => self.taken_up,
            // A date in If-Range, and a tag now: the tag says nothing about the earlier answer.
            Some(tag) if self.validator_is_tag() => Some(tag) == self.validator.as_ref(),
            _ => headers.get(LAST_MODIFIED).is_none_or(|date| {
                self.validator_is_tag() || Some(date) == self.validator.as_ref()
            }),
        };
        if same {
            Ok(range)
        } else {
            Err("the file changed on the server while it was fetched")
        }
    }

    fn validator_is_tag(&self) -> bool {
        let validator = self.validator.as_ref();
        validator.is_some_and(|it| it.as_bytes().starts_with(b"\""))
    }

    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash(bytes);
        Ok(())
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    pub(super) fn finish(self) -> Saved {
        let hex = |state: sha2::Sha512| {
            let digits = state.finalize();
            digits
                .iter()
                .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
        };
        Saved {
            file: self.file,
            size: self.sha256.length(),
            sha256: self.sha256.finish(),
            sha512: self.sha512.map(hex),
        }
    }
}

/// `Content-Range: bytes START-LAST/TOTAL`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    start: u64,
    /// One more than the last byte.
    pub(super) end: u64,
    /// The length of the whole, where the server tells.
    pub(super) total: Option<u64>,
}

impl ContentRange {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let (start, last): (u64, u64) = (start.parse().ok()?, last.parse().ok()?);
        let end = last.checked_add(1).filter(|_| start <= last)?;
        let total = match total {
            "*" => None,
            total => Some(total.parse().ok().filter(|total| end <= *total)?),
        };
        Some(Self { start, end, total })
    }
}

/// What tells two versions of a file apart for sure. A weak `ETag` says only that two bodies mean the same; a date, only when it is older than the answer, since a file can
/// change twice in a second.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    if let Some(tag) = headers
        .get(ETAG)
        .filter(|tag| tag.as_bytes().starts_with(b"\""))
    {
        return Some(tag.clone());
    }
    let time = |name| {
        let text = headers.get(name)?.to_str().ok()?;
        httpdate::parse_http_date(text).ok()
    };
    let age = time(DATE)?.duration_since(time(LAST_MODIFIED)?).ok()?;
    (age >= Duration::from_secs(1))
        .then(|| headers.get(LAST_MODIFIED).cloned())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderName;

    const CHANGED: &str = "Sat, 21 Nov 2026 08:00:00 GMT";

    fn headers(list: &[(HeaderName, &str)]) -> HeaderMap {
        let parsed = list
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()));
        parsed.collect()
    }

    #[test]
    fn only_strong_validators_resume() {
        type Row<'a> = (&'a [(HeaderName, &'a str)], Option<&'a str>);
        let answered = (DATE, "Sat, 21 Nov 2026 08:00:01 GMT");
        let rows: [Row<'_>; 7] = [
            (&[(ETAG, "\"x\"")], Some("\"x\"")),
            (&[(ETAG, "\"x\""), (LAST_MODIFIED, CHANGED)], Some("\"x\"")),
            (&[(ETAG, "W/\"x\"")], None),
            (
                &[
                    (ETAG, "W/\"x\""),
                    (LAST_MODIFIED, CHANGED),
                    answered.clone(),
                ],
                Some(CHANGED),
            ),
            (&[(LAST_MODIFIED, CHANGED)], None),
            (&[(LAST_MODIFIED, CHANGED), (DATE, CHANGED)], None),
            (&[], None),
        ];
        for (list, expected) in rows {
            let found = validator(&headers(list));
            assert_eq!(
                found.as_ref().map(|it| it.to_str().unwrap()),
                expected,
                "{list:?}"
            );
        }
    }

    #[test]
    fn ranges_are_read_strictly() {
        let range = |text| ContentRange::of(&headers(&[(CONTENT_RANGE, text)]));
        assert_eq!(
            range("bytes 5-9/10"),
            Some(ContentRange {
                start: 5,
                end: 10,
                total: Some(10)
            })
        );
        assert_eq!(
            range("bytes 5-9/*"),
            Some(ContentRange {
                start: 5,
                end: 10,
                total: None
            })
        );
        for text in [
            "bytes 9-5/10",
            "bytes 5-9/9",
            "bytes 5-/10",
            "bytes */10",
            "bytes 5-9",
            "lines 5-9/10",
            "bytes 0-18446744073709551615/*",
            "",
        ] {
            assert_eq!(range(text), None, "{text}");
        }
    }

    #[test]
    fn a_beginning_that_was_there_is_hashed_and_continues_whatever_the_tag() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"12345").unwrap();
        let mut partial = Partial::take_up(file, Algorithm::Sha512).unwrap();
        assert!(partial.is_resumable() && partial.validator().is_none());
        let range = (CONTENT_RANGE, "bytes 5-9/10");
        for more in [(ETAG, "\"one\""), (LAST_MODIFIED, CHANGED)] {
            let headers = headers(&[range.clone(), more]);
            assert!(partial.continues_with(&headers).is_ok());
        }
        let other = headers(&[(CONTENT_RANGE, "bytes 4-9/10")]);
        assert!(partial.continues_with(&other).is_err());
        partial.take(b"67890").unwrap();
        let saved = partial.finish();
        assert_eq!((saved.size, saved.sha256), (10, Sha256::of(b"1234567890")));
        let empty = Partial::take_up(tempfile::tempfile().unwrap(), Algorithm::Sha256);
        assert!(!empty.unwrap().is_resumable());
    }

    #[test]
    fn what_is_of_another_file_does_not_continue() {
        let mut partial = Partial::new(tempfile::tempfile().unwrap(), Algorithm::Sha256);
        partial.begins_with(&headers(&[(ETAG, "\"one\"")]));
        partial.take(b"12345").unwrap();
        let range = (CONTENT_RANGE, "bytes 5-9/10");
        let with = |more: &[(HeaderName, &str)]| {
            partial.continues_with(&headers(&[std::slice::from_ref(&range), more].concat()))
        };
        assert!(with(&[(ETAG, "\"one\"")]).is_ok());
        assert!(with(&[]).is_ok());
        assert!(with(&[(ETAG, "\"two\"")]).unwrap_err().contains("changed"));
        let other = headers(&[(CONTENT_RANGE, "bytes 4-9/10"), (ETAG, "\"one\"")]);
        assert!(
            partial
                .continues_with(&other)
                .unwrap_err()
                .contains("another range")
        );
    }
}
