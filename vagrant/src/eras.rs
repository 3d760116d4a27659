//! The lab's version data: what eras of Kubernetes it knows, and out of which released modules each is built.
//!
//! `eras.json` is compiled in and read strictly: an unknown field, or a part or set of replacements that nobody defined,
//! is an error at the start. A new era is an entry there, not code here. It says nothing about what kpot knows of
//! versions; the product has data of its own, and the lab may contradict it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

const DATA: &str = include_str!("../eras.json");

/// All of `eras.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eras {
    /// Raised by hand when the recipe's code changes what comes out of the same data: cached results of an older
    /// recipe are then not used.
    pub recipe: u32,
    replace_sets: BTreeMap<String, Replacements>,
    parts: BTreeMap<String, Part>,
    #[serde(rename = "eras")]
    all: Vec<Era>,
}

/// Module path to what replaces it: a version of the same module, or `path@version`.
pub type Replacements = BTreeMap<String, String>;

/// A Kubernetes version, as `v1.20.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// The 1 of v1.20.2.
    pub major: u16,
    /// The 20 of v1.20.2.
    pub minor: u16,
    /// The 2 of v1.20.2.
    pub patch: u16,
}

/// One Kubernetes version, and what belongs to it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Era {
    /// Its version.
    pub kubernetes: Version,
    /// The commit of its tag, as its own builds print it.
    pub commit: String,
    /// The Go toolchain that builds it, as `go1.22.12`.
    pub go: String,
    /// Hosts that its kubelet starts on.
    pub cgroups: Cgroups,
    /// Where its staging modules (`k8s.io/api` and its like) come from.
    pub staging: Staging,
    #[serde(default)]
    replace_sets: Vec<String>,
    #[serde(default)]
    replace: Replacements,
    /// Changes to its sources.
    #[serde(default)]
    pub edits: Vec<Edit>,
    /// Whether its generated `OpenAPI` definitions are in the released sources.
    pub openapi: Openapi,
    /// Its etcd.
    pub etcd: Etcd,
    /// Its `CoreDNS`.
    pub coredns: CoreDns,
    /// Its pause container.
    pub pause: Pause,
    /// The part that is its crictl: none where Docker is the runtime, because kubeadm asks only for others' tool.
    pub crictl: Option<String>,
    /// The registry in the names that its kubeadm expects.
    pub registry: String,
    /// The checksum files that dl.k8s.io publishes beside its binaries: `sha1`, `sha256`, `sha512`.
    pub checksums: Vec<Checksum>,
}

/// The cgroup versions that an era's kubelet starts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Cgroups {
    /// Before 1.19.
    #[serde(rename = "v1")]
    V1,
    /// From 1.19.
    #[serde(rename = "v1 or v2")]
    Any,
}

/// Where the staging modules come from.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Staging {
    /// Each from its own release of the same minor and patch, as v0.20.2: from 1.15 on the released tree lacks them.
    Modules,
    /// From the folders in the released tree, which has no go.mod itself.
    Folders {
        /// The Kubernetes version whose go.mod is taken.
        go_mod_of: Version,
        /// Staging modules of that go.mod that this version has not.
        without: Vec<String>,
        /// Staging modules that this version has and that go.mod has not.
        with: Vec<String>,
    },
}

/// Whether the `OpenAPI` definitions are generated first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Openapi {
    /// The released sources lack them.
    Generate,
    /// The released sources hold them.
    Released,
}

/// A change to one source file. Exactly one of the two kinds; it must find something to change.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Edit {
    /// Lines that contain a text are dropped.
    Drop {
        /// The file, from the tree's root.
        file: String,
        /// The text.
        drop_lines_with: String,
        /// Why.
        because: String,
    },
    /// A text is replaced by another.
    Change {
        /// The file, from the tree's root.
        file: String,
        /// The text.
        text: String,
        /// What stands there afterwards.
        becomes: String,
        /// Why.
        because: String,
    },
}

/// An era's etcd.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// The image tag that kubeadm expects.
    pub tag: String,
    /// What it really is, and says.
    pub version: String,
    /// The packages of server and client, built inside the Kubernetes tree.
    pub tree: Vec<String>,
}

/// An era's `CoreDNS`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CoreDns {
    /// The image that kubeadm expects, without its registry: from 1.21 on it is `coredns/coredns`.
    pub image: String,
    /// The part that is built.
    pub part: String,
}

/// An era's pause container.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// The image tag that kubeadm expects.
    pub tag: String,
    /// Its C source, from the tree's root.
    pub source: String,
}

/// A kind of checksum file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// Told apart from mistakes only.
    Sha1,
    /// From 1.16.
    Sha256,
    /// From 1.12.
    Sha512,
}

/// Something that is built out of one released Go module and used by several eras.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The module's path.
    pub module: String,
    /// The module's version.
    pub version: String,
    /// The Go toolchain that builds it, as `go1.22.12`.
    pub go: String,
    /// How the module is built.
    #[serde(rename = "as")]
    pub built_as: BuiltAs,
    #[serde(default)]
    replace_sets: Vec<String>,
    /// Changes to its sources; only for a tree.
    #[serde(default)]
    pub edits: Vec<Edit>,
    /// The packages, as `go build` takes them.
    pub packages: Vec<String>,
    /// Variables set by the linker.
    #[serde(default)]
    pub stamp: BTreeMap<String, String>,
    /// What one of the programs must say of itself before the result is kept.
    pub says: Says,
}

/// How a module is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BuiltAs {
    /// From a copy of its released tree, as its own main module.
    Tree,
    /// Out of a throw-away module that requires it.
    Dependency,
}

/// A program's own word about its version.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Says {
    /// The program's name among the results.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What must be in its output.
    pub text: String,
}

impl Eras {
    /// Reads the data that is compiled in.
    pub fn load() -> Result<Self> {
        let eras: Self = serde_json::from_str(DATA).context("reading vagrant/eras.json")?;
        for era in &eras.all {
            eras.replacements(&era.replace_sets)
                .with_context(|| format!("era {}", era.kubernetes))?;
            for part in era.crictl.iter().chain([&era.coredns.part]) {
                eras.part(part)
                    .with_context(|| format!("era {}", era.kubernetes))?;
            }
        }
        for (name, part) in &eras.parts {
            eras.replacements(&part.replace_sets)
                .with_context(|| format!("part {name}"))?;
            ensure!(
                part.built_as == BuiltAs::Tree || part.edits.is_empty(),
                "part {name}: only the sources of a tree can be edited"
            );
        }
        Ok(eras)
    }

    /// All eras, oldest first.
    pub fn all(&self) -> &[Era] {
        &self.all
    }

    /// The era of a Kubernetes version, as `v1.20.2`.
    pub fn find(&self, version: Version) -> Result<&Era> {
        self.all
            .iter()
            .find(|era| era.kubernetes == version)
            .ok_or_else(|| {
                let known: Vec<String> = self
                    .all
                    .iter()
                    .map(|era| era.kubernetes.to_string())
                    .collect();
                anyhow!(
                    "the lab has no era {version}; it has {}: pass one of them to --k8s",
                    known.join(", ")
                )
            })
    }

    /// A part by its name.
    pub fn part(&self, name: &str) -> Result<&Part> {
        self.parts
            .get(name)
            .ok_or_else(|| anyhow!("vagrant/eras.json defines no part {name}"))
    }

    /// Everything that an era's go.mod replaces besides its staging modules.
    pub fn replacements_of_era(&self, era: &Era) -> Result<Replacements> {
        let mut all = self.replacements(&era.replace_sets)?;
        all.extend(era.replace.clone());
        Ok(all)
    }

    /// Everything that a part's go.mod replaces.
    pub fn replacements_of_part(&self, part: &Part) -> Result<Replacements> {
        self.replacements(&part.replace_sets)
    }

    fn replacements(&self, sets: &[String]) -> Result<Replacements> {
        let mut all = Replacements::new();
        for name in sets {
            let set = self.replace_sets.get(name).ok_or_else(|| {
                anyhow!("vagrant/eras.json defines no set of replacements \"{name}\"")
            })?;
            all.extend(set.clone());
        }
        Ok(all)
    }
}

impl Era {
    /// Whether this host can run it in containers, which have the host's cgroups.
    pub fn runs_here(&self) -> bool {
        // A unified hierarchy has this file at its root; cgroup v1 has a folder per controller there.
        self.cgroups == Cgroups::Any || !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Option<Vec<u16>> = text
            .strip_prefix('v')
            .and_then(|rest| rest.split('.').map(|part| part.parse().ok()).collect());
        match numbers.as_deref() {
            Some(&[major, minor, patch]) => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => bail!("\"{text}\" is no Kubernetes version; it looks like v1.20.2"),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_complete() {
        let eras = Eras::load().expect("eras.json is part of the source");
        assert!(eras.all().is_sorted_by_key(|era| era.kubernetes));
        for era in eras.all() {
            assert_eq!(era.commit.len(), 40, "{}", era.kubernetes);
            assert!(
                eras.replacements_of_era(era)
                    .expect("checked by load")
                    .len()
                    >= 6
            );
        }
    }

    #[test]
    fn an_unknown_version_names_the_known_ones() {
        let eras = Eras::load().expect("eras.json is part of the source");
        let version = "v1.3.0".parse().expect("well formed");
        let error = eras.find(version).expect_err("not an era").to_string();
        assert!(
            error.contains("v1.14.0") && error.contains("--k8s"),
            "{error}"
        );
        for wrong in ["1.20.2", "v1.20", "v1.20.2-rc.1", "v1.20.2.1", ""] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
    }
}
