//! Kubernetes versions and machine architectures as types.
//!
//! Only released versions parse: `v1.14.0`, never `1.14`, `v1.14.0-beta.1` or `v01.14.0`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A released Kubernetes version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KubeVersion {
    /// 1 for every version there is.
    pub major: u16,
    /// 14 in v1.14.0.
    pub minor: u16,
    /// 0 in v1.14.0.
    pub patch: u16,
}

/// Why a text is not a released version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a released Kubernetes version: expected a form like v1.14.0")]
pub struct ParseVersionError(String);

impl KubeVersion {
    /// A version from its numbers.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }
}

impl fmt::Display for KubeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for KubeVersion {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseVersionError(text.chars().take(80).collect());
        let mut numbers = text
            .strip_prefix('v')
            .ok_or_else(refused)?
            .split('.')
            .map(str::parse::<u16>);
        let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) = (
            numbers.next(),
            numbers.next(),
            numbers.next(),
            numbers.next(),
        ) else {
            return Err(refused());
        };
        let version = Self {
            major,
            minor,
            patch,
        };
        // `+1` and `01` parse as numbers: the one spelling is the one that is printed.
        if version.to_string() == text {
            Ok(version)
        } else {
            Err(refused())
        }
    }
}

impl Serialize for KubeVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KubeVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A machine architecture, by Go's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86-64; `uname -m` says `x86_64`.
    Amd64,
    /// 64-bit ARM; `uname -m` says `aarch64`.
    Arm64,
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Go's name, as in image indexes and download addresses.
    pub const fn go(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The kernel's name, as `uname -m` prints it and Docker's download addresses spell it.
    pub const fn uname(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.go())
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|arch| arch.go() == text)
            .ok_or_else(|| format!("{text:?} is not an architecture: expected amd64 or arm64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_one_spelling() {
        assert_eq!("v1.14.0".parse(), Ok(KubeVersion::new(1, 14, 0)));
        for text in [
            "1.14.0",
            "v1.14",
            "v1.14.0.0",
            "v01.14.0",
            "v1.+14.0",
            "v1.14.0-beta.1",
            "v1.14.99999",
            "",
        ] {
            assert!(text.parse::<KubeVersion>().is_err(), "{text}");
        }
        assert!(KubeVersion::new(1, 9, 11) < KubeVersion::new(1, 10, 0));
    }
}
