//! The version data: what belongs to each Kubernetes version from 1.13 to 1.36, and the digests that kpot ships.
//!
//! The data is `data.json`, with its sources beside it; this module reads it, and `check` says what is wrong with it. It decides nothing: `plan` does. A tag that changes
//! within a minor is a list of steps, each valid from its patch on. `ranges` turns the steps into a table for people; `cri` tells which containerd a kubelet can speak to.

mod check;
mod cri;
mod ranges;

use bundle_spec::manifest::RuntimeName;
use bundle_spec::{Arch, KubeVersion, Sha256};
use serde::{Deserialize, Serialize};

pub use cri::{Dialect, Series};
pub use ranges::{Patches, Range};

const DATA: &str = include_str!("data.json");

/// As the last patch of a range: the range has no end.
const OPEN: u16 = 999;

/// The whole table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Releases {
    /// Where the figures come from.
    notes: Vec<String>,
    /// The forms of the CRI, and who speaks which.
    cri: Vec<Dialect>,
    kubernetes: Vec<Minor>,
    pins: Vec<Pin>,
}

/// What belongs to one Kubernetes minor.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Minor {
    #[serde(rename = "minor")]
    number: u16,
    /// Docker's default version; none where the kubelet no longer speaks to Docker.
    #[serde(default)]
    pub docker: Option<String>,
    /// containerd's default version with what belongs to it; none where kpot packs no containerd.
    #[serde(default)]
    pub containerd: Option<Containerd>,
    /// The default version of the CNI plugins.
    pub cni: String,
    /// The strongest checksum that is published beside every binary of this minor.
    pub checksum: Algorithm,
    registry: Vec<Step>,
    /// The tag of the pause image.
    pub pause: String,
    etcd: Vec<Step>,
    /// The repository of `CoreDNS` below the registry.
    pub coredns_repository: String,
    coredns: Vec<Step>,
    unverified: Vec<(u16, u16)>,
}

/// containerd, and the programs that a pot carries with it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Containerd {
    /// Its default version, without a v.
    pub version: String,
    /// The default version of runc, which runs its containers; without a v.
    pub runc: String,
    /// The default version of crictl, which kubeadm and people ask it with; with a v.
    pub crictl: String,
}

/// A published checksum's algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// `.sha256`
    Sha256,
    /// `.sha512`
    Sha512,
}

/// A value that holds from one patch of a minor on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    from: u16,
    value: String,
}

/// The digest of a download whose publisher publishes none.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Of what.
    pub artifact: String,
    /// Of which version.
    pub version: String,
    /// For which architecture.
    pub arch: Arch,
    /// The digest in hex.
    pub sha256: String,
    /// Independent publications of this digest, at least two.
    pub sources: Vec<String>,
}

/// The images of one version that are not Kubernetes' own.
#[derive(Debug, PartialEq, Eq)]
pub struct Tags<'a> {
    /// The registry that this version's kubeadm names images with.
    pub registry: &'a str,
    /// The tag of etcd.
    pub etcd: &'a str,
    /// The tag of `CoreDNS`.
    pub coredns: &'a str,
    /// Whether these tags were seen for exactly this patch.
    pub verified: bool,
}

impl Releases {
    /// The table that this `kpot` ships.
    ///
    /// # Errors
    /// Where the table is broken; a test keeps that from being shipped.
    pub fn shipped() -> Result<Self, String> {
        let releases: Self = serde_json::from_str(DATA)
            .map_err(|cause| format!("the shipped version data do not parse: {cause}"))?;
        releases.check()?;
        Ok(releases)
    }

    /// Where the figures come from, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every shipped digest.
    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    /// The row of `version`'s minor.
    ///
    /// # Errors
    /// Where the table knows no such minor; the text says which ones it knows, and the nearest of them.
    pub fn minor(&self, version: KubeVersion) -> Result<&Minor, String> {
        self.row(version.major, version.minor)
            .ok_or_else(|| self.unknown(version, &version.to_string()))
    }

    /// Whether the table has a row for `1.minor`.
    ///
    /// # Errors
    /// Where it has none, as for [`Self::minor`].
    pub fn knows(&self, minor: u16) -> Result<(), String> {
        self.row(1, minor)
            .map(drop)
            .ok_or_else(|| self.unknown(KubeVersion::new(1, minor, 0), &format!("1.{minor}")))
    }

    fn row(&self, major: u16, minor: u16) -> Option<&Minor> {
        self.kubernetes
            .iter()
            .find(|row| major == 1 && row.number == minor)
    }

    fn unknown(&self, version: KubeVersion, spelled: &str) -> String {
        let first = self.kubernetes.first().map_or(0, |row| row.number);
        let last = self.kubernetes.last().map_or(0, |row| row.number);
        // Every 0.x is before all of 1.x, and every 2.x behind.
        let place = match version.major {
            0 => 0,
            1 => version.minor,
            _ => u16::MAX,
        };
        let mut near: Vec<u16> = self.kubernetes.iter().map(|row| row.number).collect();
        near.sort_by_key(|minor| minor.abs_diff(place));
        let near: Vec<String> = near
            .iter()
            .take(2)
            .map(|minor| format!("1.{minor}"))
            .collect();
        format!(
            "this kpot knows Kubernetes 1.{first} to 1.{last}, not {spelled}; the nearest that it knows are {}",
            near.join(" and ")
        )
    }

    /// The shipped digest of an artifact.
    pub fn pin(&self, artifact: &str, version: &str, arch: Arch) -> Option<Sha256> {
        self.pins
            .iter()
            .find(|pin| pin.artifact == artifact && pin.version == version && pin.arch == arch)
            .and_then(|pin| Sha256::from_hex(&pin.sha256).ok())
    }

    /// The versions of `artifact` for `arch` that have a shipped digest.
    pub fn pinned_versions(&self, artifact: &str, arch: Arch) -> Vec<&str> {
        self.pins
            .iter()
            .filter(|pin| pin.artifact == artifact && pin.arch == arch)
            .map(|pin| pin.version.as_str())
            .collect()
    }
}

impl Minor {
    /// The runtime of a pot for which none is asked for: what its kubelet speaks to out of the box.
    pub const fn runtime(&self) -> RuntimeName {
        match self.docker {
            Some(_) => RuntimeName::Docker,
            None => RuntimeName::Containerd,
        }
    }

    /// That runtime's default version. The table's check has seen that every row has one.
    pub fn runtime_version(&self) -> &str {
        let containerd = self.containerd.as_ref().map(|it| &it.version);
        self.docker
            .as_ref()
            .or(containerd)
            .map_or("", String::as_str)
    }

    /// The tags of patch `patch`.
    pub fn tags(&self, patch: u16) -> Tags<'_> {
        Tags {
            registry: at(&self.registry, patch),
            etcd: at(&self.etcd, patch),
            coredns: at(&self.coredns, patch),
            verified: !self
                .unverified
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&patch)),
        }
    }
}

/// The value that holds for `patch`. The table's check has seen that the first step starts at patch 0, so there is one.
fn at(steps: &[Step], patch: u16) -> &str {
    steps
        .iter()
        .rev()
        .find(|step| step.from <= patch)
        .map_or("", |step| &step.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_table_is_sound_and_spans_1_13_to_1_36() {
        let releases = Releases::shipped().unwrap();
        for minor in 13..=36 {
            releases.minor(KubeVersion::new(1, minor, 0)).unwrap();
        }
        for version in [
            KubeVersion::new(1, 12, 0),
            KubeVersion::new(1, 37, 0),
            KubeVersion::new(2, 14, 0),
        ] {
            let refused = releases.minor(version).unwrap_err();
            assert!(refused.contains("1.13 to 1.36"), "{refused}");
        }
    }

    #[test]
    fn tags_change_at_their_patch() {
        let releases = Releases::shipped().unwrap();
        let rows = [
            ("v1.14.0", "k8s.gcr.io", "3.3.10", "1.3.1", true),
            ("v1.19.0", "k8s.gcr.io", "3.4.9-1", "1.7.0", true),
            ("v1.19.1", "k8s.gcr.io", "3.4.13-0", "1.7.0", true),
            ("v1.20.2", "k8s.gcr.io", "3.4.13-0", "1.7.0", true),
            ("v1.22.16", "k8s.gcr.io", "3.5.0-0", "v1.8.4", true),
            ("v1.22.17", "registry.k8s.io", "3.5.6-0", "v1.8.4", true),
            ("v1.23.14", "k8s.gcr.io", "3.5.5-0", "v1.8.6", true),
            ("v1.23.15", "registry.k8s.io", "3.5.6-0", "v1.8.6", true),
            ("v1.26.15", "registry.k8s.io", "3.5.10-0", "v1.9.3", true),
            ("v1.27.16", "registry.k8s.io", "3.5.12-0", "v1.10.1", true),
            ("v1.28.13", "registry.k8s.io", "3.5.12-0", "v1.10.1", false),
            ("v1.28.14", "registry.k8s.io", "3.5.15-0", "v1.10.1", true),
            ("v1.28.15", "registry.k8s.io", "3.5.15-0", "v1.10.1", true),
            ("v1.29.8", "registry.k8s.io", "3.5.12-0", "v1.11.1", false),
            ("v1.29.9", "registry.k8s.io", "3.5.15-0", "v1.11.1", true),
            ("v1.30.3", "registry.k8s.io", "3.5.12-0", "v1.11.1", true),
            ("v1.30.4", "registry.k8s.io", "3.5.12-0", "v1.11.1", true),
            ("v1.30.5", "registry.k8s.io", "3.5.15-0", "v1.11.3", true),
            ("v1.31.1", "registry.k8s.io", "3.5.15-0", "v1.11.3", true),
            ("v1.31.14", "registry.k8s.io", "3.5.24-0", "v1.11.3", true),
            ("v1.32.1", "registry.k8s.io", "3.5.16-0", "v1.11.3", true),
            ("v1.32.9", "registry.k8s.io", "3.5.16-0", "v1.11.3", true),
            ("v1.32.10", "registry.k8s.io", "3.5.24-0", "v1.11.3", false),
            ("v1.32.11", "registry.k8s.io", "3.5.24-0", "v1.11.3", true),
            ("v1.33.5", "registry.k8s.io", "3.5.21-0", "v1.12.0", true),
            ("v1.33.6", "registry.k8s.io", "3.5.24-0", "v1.12.0", false),
            ("v1.33.7", "registry.k8s.io", "3.5.24-0", "v1.12.0", true),
            ("v1.34.1", "registry.k8s.io", "3.6.4-0", "v1.12.1", true),
            ("v1.34.2", "registry.k8s.io", "3.6.5-0", "v1.12.1", true),
            ("v1.34.3", "registry.k8s.io", "3.6.5-0", "v1.12.1", true),
            ("v1.34.4", "registry.k8s.io", "3.6.5-0", "v1.12.1", true),
            ("v1.36.3", "registry.k8s.io", "3.6.8-0", "v1.14.2", true),
        ];
        for (text, registry, etcd, coredns, verified) in rows {
            let version: KubeVersion = text.parse().unwrap();
            let expected = Tags {
                registry,
                etcd,
                coredns,
                verified,
            };
            assert_eq!(
                releases.minor(version).unwrap().tags(version.patch),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn every_default_docker_has_a_pin_but_one_for_arm64() {
        let releases = Releases::shipped().unwrap();
        let versions = releases
            .kubernetes
            .iter()
            .filter_map(|row| row.docker.as_deref());
        for version in versions {
            for arch in Arch::ALL {
                let pinned = releases.pin("docker", version, arch).is_some();
                // Of this one a single publication is known.
                let lacking = (version, arch) == ("18.09.9", Arch::Arm64);
                assert_eq!(pinned, !lacking, "{version} for {arch}");
            }
        }
    }
}
