//! `--k8s`: the Kubernetes version that is wanted, as an exact one or as the newest of a kind.
//!
//! `v1.14.0` and `1.14.0` are that version. `1.14` and `stable-1.14` are the newest patch of 1.14, and `stable` is the newest version of all: what they are today, the
//! release server tells (`fetch::marker`). Pre-releases are never wanted.

use std::fmt;
use std::str::FromStr;

use bundle_spec::KubeVersion;

use crate::fetch::marker::Marker;
use crate::releases::Releases;

/// The version that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This one.
    Exact(KubeVersion),
    /// The one that a marker names.
    Newest(Marker),
}

impl Wanted {
    /// What can be told before the release server is asked.
    ///
    /// # Errors
    /// A text that names the nearest known ones, where the version data know no such minor.
    pub fn check(&self, releases: &Releases) -> Result<(), String> {
        match self {
            Self::Exact(version) => releases.minor(*version).map(drop),
            Self::Newest(Marker::StableOf(minor)) => releases.knows(*minor),
            Self::Newest(Marker::Stable) => Ok(()),
        }
    }
}

/// As it is asked for; the same for every spelling of the same.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(version) => version.fmt(f),
            Self::Newest(marker) => marker.fmt(f),
        }
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "stable" {
            return Ok(Self::Newest(Marker::Stable));
        }
        let number = text.strip_prefix('v').unwrap_or(text);
        if let Ok(version) = format!("v{number}").parse() {
            return Ok(Self::Exact(version));
        }
        text.strip_prefix("stable-")
            .or(Some(number))
            .and_then(minor)
            .map(|minor| Self::Newest(Marker::StableOf(minor)))
            .ok_or_else(|| {
                format!("{text:?} is not a Kubernetes version: expected one like v1.14.0, 1.14 or stable-1.14 (its latest patch), or stable")
            })
    }
}

/// The 14 of `1.14`. `1.014` parses as numbers, too: the one spelling is the one that is printed.
fn minor(text: &str) -> Option<u16> {
    let minor: u16 = text.strip_prefix("1.")?.parse().ok()?;
    (format!("1.{minor}") == text).then_some(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_people_write_them() {
        let exact = Wanted::Exact(KubeVersion::new(1, 14, 0));
        let newest = Wanted::Newest(Marker::StableOf(14));
        for (text, wanted) in [
            ("v1.14.0", exact),
            ("1.14.0", exact),
            ("1.14", newest),
            ("v1.14", newest),
            ("stable-1.14", newest),
            ("stable", Wanted::Newest(Marker::Stable)),
        ] {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "v",
            "vv1.14.0",
            "1",
            "1.",
            "1.014",
            "1.+14",
            "2.14",
            "1.14.x",
            "1.14.0-rc.1",
            "1.14.0.1",
            "1.99999",
            "latest",
            "Stable",
            "stable-",
            "stable-v1.14",
            "stable-1.14.0",
            "stable.txt",
            "../1.14",
        ] {
            let refused = text.parse::<Wanted>().unwrap_err();
            assert!(refused.contains("v1.14.0"), "{refused}");
        }
    }

    #[test]
    fn a_minor_that_nobody_knows_is_refused_without_asking() {
        let releases = Releases::shipped().unwrap();
        for (text, nearest) in [
            (
                "1.12",
                "not 1.12; the nearest that it knows are 1.13 and 1.14",
            ),
            (
                "1.12.10",
                "not v1.12.10; the nearest that it knows are 1.13 and 1.14",
            ),
            (
                "stable-1.99",
                "not 1.99; the nearest that it knows are 1.36 and 1.35",
            ),
            (
                "v2.0.0",
                "not v2.0.0; the nearest that it knows are 1.36 and 1.35",
            ),
            (
                "v0.20.0",
                "not v0.20.0; the nearest that it knows are 1.13 and 1.14",
            ),
        ] {
            let refused = text
                .parse::<Wanted>()
                .unwrap()
                .check(&releases)
                .unwrap_err();
            assert!(refused.contains(nearest), "{refused}");
        }
        for text in ["v1.13.0", "1.36", "stable"] {
            assert_eq!(text.parse::<Wanted>().unwrap().check(&releases), Ok(()));
        }
    }
}
