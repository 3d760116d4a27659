//! Version markers: the release server's small files that name its newest versions, `stable.txt` and one `stable-1.NN.txt` for each minor.
//!
//! A marker holds one version and nothing else, with or without a line end. It is fetched like everything from that host: over https, unless a mirror's address says
//! http. Whatever else comes (a proxy's page, a pre-release, a version of another minor) is refused, never interpreted. A marker only chooses a version; what is then
//! downloaded is checked as if the version had been given by hand.

use std::fmt;

use bundle_spec::KubeVersion;
use reqwest::Url;

use super::http::{Ask, Client, FetchError};
use crate::progress::Task;

/// The largest marker that is read, in bytes. A version has at most 18; the rest is for a message about what came instead.
const LIMIT: u64 = 4 << 10;

/// One of the markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// The newest version of all.
    Stable,
    /// The newest patch of this minor.
    StableOf(u16),
}

/// What a marker said.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Which one.
    pub marker: Marker,
    /// The version that it names.
    pub version: KubeVersion,
    /// Where it was really fetched from.
    pub from: Url,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stable => f.write_str("stable"),
            Self::StableOf(minor) => write!(f, "stable-1.{minor}"),
        }
    }
}

impl Marker {
    /// Asks the release server.
    ///
    /// # Errors
    /// [`FetchError`] with the address where there is no such marker, or where it is none.
    pub fn resolve(self, client: &Client, task: &Task) -> Result<Resolved, FetchError> {
        let address = format!("https://dl.k8s.io/release/{self}.txt");
        let url = Url::parse(&address)
            .map_err(|cause| FetchError::refused(&address, cause.to_string()))?;
        let reply = client.get(Ask::plain(&url), LIMIT, task)?;
        let version = self.read(&reply.body).map_err(|problem| {
            FetchError::refused(&reply.from, problem).advise(
                "it must hold one version alone; a proxy may have answered with a page of its own",
            )
        })?;
        Ok(Resolved {
            marker: self,
            version,
            from: reply.from,
        })
    }

    /// The version in the marker `text`.
    fn read(self, text: &[u8]) -> Result<KubeVersion, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it is not text".to_owned())?;
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            return Err("it is empty".to_owned());
        }
        let version: KubeVersion = line.parse().map_err(|cause| format!("{cause}"))?;
        match self {
            Self::StableOf(minor) if (version.major, version.minor) != (1, minor) => {
                Err(format!("it names {version}, which is no 1.{minor}"))
            }
            Self::Stable | Self::StableOf(_) => Ok(version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_is_read_with_and_without_a_line_end() {
        for text in ["v1.20.15", "v1.20.15\n", "v1.20.15\r\n"] {
            for marker in [Marker::Stable, Marker::StableOf(20)] {
                assert_eq!(
                    marker.read(text.as_bytes()),
                    Ok(KubeVersion::new(1, 20, 15)),
                    "{text:?}"
                );
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let rows: [(&[u8], &str); 11] = [
            (b"", "empty"),
            (b"\n", "empty"),
            (b"\xff\xfe", "not text"),
            (b"1.20.15", "not a released"),
            (b"v1.20", "not a released"),
            (b"v1.20.0-rc.1", "not a released"),
            (b"v1.20.15\n\n", "not a released"),
            (b" v1.20.15", "not a released"),
            (b"v1.20.15 v1.20.14", "not a released"),
            (b"<html>\x1b[2J302 Found</html>", r"\u{1b}[2J302 Found"),
            (b"v1.20.99999", "not a released"),
        ];
        for (text, word) in rows {
            let refused = Marker::Stable.read(text).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn a_minors_marker_names_that_minor() {
        for text in ["v1.21.3", "v2.20.0", "v1.2.0"] {
            let refused = Marker::StableOf(20).read(text.as_bytes()).unwrap_err();
            assert!(refused.contains("no 1.20"), "{refused}");
        }
    }
}
