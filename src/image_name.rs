//! Names of container images, read as Docker reads them.
//!
//! `busybox` is `docker.io/library/busybox:latest`. A pot names images by tag, because that is what a pod asks for; a digest beside the tag is kept and checked, a
//! digest alone is refused. The name stored in a pot is the familiar one that `docker images` prints (see docs/decisions/image-names.md).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use bundle_spec::Sha256;
use oci_spec::distribution::Reference;

/// Docker Hub's name in image names.
const HUB: &str = "docker.io";

/// A fully read image name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageName {
    registry: String,
    repository: String,
    tag: String,
    digest: Option<Sha256>,
}

impl ImageName {
    /// `HOST[:PORT]` of the registry, as in the name (not where it is reached).
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository below the registry, `library/` included.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What a registry is asked for: the digest where one was given, else the tag.
    pub fn reference(&self) -> String {
        self.digest
            .map_or_else(|| self.tag.clone(), |digest| digest.to_string())
    }

    /// The digest that the image's manifest must have.
    pub fn digest(&self) -> Option<Sha256> {
        self.digest
    }

    /// The same image, asked for by the digest of its manifest.
    #[must_use]
    pub fn pinned(&self, digest: Sha256) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The name with all that was asked for: the digest too, where there is one.
    pub fn whole(&self) -> String {
        match self.digest {
            Some(digest) => format!("{self}@{digest}"),
            None => self.familiar(),
        }
    }

    /// The name as `docker images` prints it: without Docker Hub's `docker.io/` and `library/`, with the tag.
    pub fn familiar(&self) -> String {
        let repository = &self.repository;
        let tag = &self.tag;
        if self.registry == HUB {
            let short = repository.strip_prefix("library/").unwrap_or(repository);
            format!("{short}:{tag}")
        } else {
            format!("{}/{repository}:{tag}", self.registry)
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())
    }
}

impl FromStr for ImageName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The crate's grammar has no IPv6 addresses, and Docker's has: another registry stands for one.
        let ipv6 = ipv6(text);
        let reference = match ipv6 {
            Some((_, rest)) => format!("localhost/{rest}").parse::<Reference>(),
            None => text.parse::<Reference>(),
        };
        let reference =
            reference.map_err(|cause| format!("{text:?} is not the name of an image: {cause}"))?;
        // Docker allows capitals in tags only.
        if reference.repository().chars().any(char::is_uppercase) {
            return Err(format!(
                "{text:?} is not the name of an image: repositories are lower-case"
            ));
        }
        let Some(tag) = reference.tag() else {
            return Err(format!(
                "{text:?} names an image by its digest alone, and pods ask for images by tag: write NAME:TAG or NAME:TAG@sha256:…"
            ));
        };
        let digest = reference
            .digest()
            .map(|digest| {
                digest
                    .parse()
                    .map_err(|cause| format!("{text:?} cannot be checked: {cause}"))
            })
            .transpose()?;
        Ok(Self {
            registry: ipv6
                .map_or(reference.registry(), |(registry, _)| registry)
                .to_owned(),
            repository: reference.repository().to_owned(),
            tag: tag.to_owned(),
            digest,
        })
    }
}

/// The registry of a name that begins with `[ADDRESS]/` or `[ADDRESS]:PORT/`, and what follows it.
fn ipv6(text: &str) -> Option<(&str, &str)> {
    let (registry, rest) = text.split_once('/')?;
    let (address, port) = registry.strip_prefix('[')?.split_once(']')?;
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let good = address.parse::<Ipv6Addr>().is_ok()
        && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    good.then_some((registry, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let rows = [
            ("busybox", "docker.io", "library/busybox", "busybox:latest"),
            (
                "busybox:1.36",
                "docker.io",
                "library/busybox",
                "busybox:1.36",
            ),
            (
                "docker.io/library/busybox:1.36",
                "docker.io",
                "library/busybox",
                "busybox:1.36",
            ),
            (
                "calico/node:v3.8.2",
                "docker.io",
                "calico/node",
                "calico/node:v3.8.2",
            ),
            (
                "quay.io/coreos/flannel:v0.11.0",
                "quay.io",
                "coreos/flannel",
                "quay.io/coreos/flannel:v0.11.0",
            ),
            (
                "127.0.0.1:15000/lab/flannel:v1",
                "127.0.0.1:15000",
                "lab/flannel",
                "127.0.0.1:15000/lab/flannel:v1",
            ),
            ("localhost/x", "localhost", "x", "localhost/x:latest"),
            (
                "[fd00::10]:5000/team/x:1",
                "[fd00::10]:5000",
                "team/x",
                "[fd00::10]:5000/team/x:1",
            ),
            ("[::1]/x", "[::1]", "x", "[::1]/x:latest"),
        ];
        for (text, registry, repository, familiar) in rows {
            let name: ImageName = text.parse().unwrap();
            assert_eq!(name.registry(), registry, "{text}");
            assert_eq!(name.repository(), repository, "{text}");
            assert_eq!(name.familiar(), familiar, "{text}");
        }
    }

    #[test]
    fn a_digest_needs_a_tag_beside_it() {
        let digest = Sha256::of(b"manifest");
        let pinned: ImageName = format!("quay.io/x/y:v1@{digest}").parse().unwrap();
        assert_eq!(pinned.familiar(), "quay.io/x/y:v1");
        assert_eq!(pinned.reference(), digest.to_string());
        let ipv6: ImageName = format!("[fd00::10]:5000/x/y:v1@{digest}").parse().unwrap();
        assert_eq!(ipv6.whole(), format!("[fd00::10]:5000/x/y:v1@{digest}"));
        let refused = format!("quay.io/x/y@{digest}")
            .parse::<ImageName>()
            .unwrap_err();
        assert!(refused.contains("NAME:TAG"), "{refused}");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "UPPER/case",
            "a b",
            "x:",
            "https://quay.io/x/y:1",
            "x@sha256:12",
            "[fd00::10]:5000",
            "[fd00::10]:5000/",
            "[fd00::10]:5000/UPPER/case:1",
            "[fd00::10]:/x:1",
            "[fd00::10]5000/x:1",
            "[fd00::10]:+5000/x:1",
            "[fd00::1g]:5000/x:1",
            "[fd00::10/x:1",
            "[10.0.0.1]:5000/x:1",
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
    }
}
