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

use crate::upstream::Rights;

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
    runtimes: BTreeMap<String, Runtime>,
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

/// What is tried: a Kubernetes version with one of its container runtimes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The version.
    pub version: Version,
    /// The runtime's name where it is not the first one of that version.
    pub runtime: Option<String>,
}

/// One Kubernetes version, and what belongs to it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Era {
    /// Its version.
    pub kubernetes: Version,
    /// The commit of its tag, as its own builds print it, where the released module or Debian's package tells it.
    pub commit: Option<String>,
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
    /// The container runtimes that it is tried with; the first one if nobody asks for another.
    runtimes: Vec<RunBy>,
    /// The registry in the names that its kubeadm expects.
    pub registry: String,
    /// The checksum files that dl.k8s.io publishes beside its binaries: `sha1`, `sha256`, `sha512`.
    pub checksums: Vec<Checksum>,
}

/// A container runtime that an era is tried with.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunBy {
    /// Its name among the runtimes.
    pub name: String,
    /// What `cargo lab test` plays of the two together.
    pub tested: Tested,
}

/// What `cargo lab test` plays of an era. A soak plays everything of all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub enum Tested {
    /// The main paths; everything of the oldest that the machine can run.
    #[serde(rename = "main paths")]
    MainPaths,
    /// Of the main paths these scenarios, for want of time.
    #[serde(rename = "only")]
    Only(Vec<String>),
    /// Nothing.
    #[serde(rename = "in soaks")]
    InSoaks,
}

/// A container runtime of a cluster: how it is put on a machine is the same for all eras.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Runtime {
    /// Debian's Docker, in the layout of Docker's static archive.
    Docker,
    /// containerd, with what kubeadm and people need beside it.
    Containerd {
        /// Where its programs come from.
        programs: Containerd,
        /// The part that is its runc.
        runc: String,
        /// The part that is crictl.
        crictl: String,
    },
}

/// Where containerd's programs come from.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Containerd {
    /// Debian's package.
    Debian,
    /// A part, whose version it has.
    Part(String),
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

/// A change to one source file. Exactly one of the kinds; a change of what is there must find something to change.
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
    /// A file is added, with these lines.
    Add {
        /// The file, from the tree's root; it must not be there.
        file: String,
        /// What it says.
        lines: Vec<String>,
        /// Why.
        because: String,
    },
}

/// An era's etcd: out of the Kubernetes tree or out of parts.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// The image tag that kubeadm expects.
    pub tag: String,
    /// What it really is, and says.
    pub version: String,
    /// The packages of server and client that are built inside the Kubernetes tree, up to 3.4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tree: Vec<String>,
    /// The parts of server and clients, from 3.5 on. Their images hold no shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
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
    /// What must be otherwise where the host cannot grant `CAP_SYS_RESOURCE`; only for a tree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits_without_sys_resource: Vec<Edit>,
    /// Debian's packages with the C libraries that are linked into it; without any, it is built without C.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub c_libraries: Vec<String>,
    /// Build tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Programs that Go calls otherwise than people do: Go's name to theirs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, String>,
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
            for part in era.etcd.parts.iter().chain([&era.coredns.part]) {
                eras.part(part)
                    .with_context(|| format!("era {}", era.kubernetes))?;
            }
            ensure!(
                era.etcd.tree.is_empty() != era.etcd.parts.is_empty(),
                "era {}: etcd is built in the tree or out of parts",
                era.kubernetes
            );
            ensure!(
                !era.runtimes.is_empty(),
                "era {} has no container runtime",
                era.kubernetes
            );
            for by in &era.runtimes {
                eras.check_runtime(&by.name)
                    .with_context(|| format!("era {}", era.kubernetes))?;
            }
        }
        for (name, part) in &eras.parts {
            eras.replacements(&part.replace_sets)
                .with_context(|| format!("part {name}"))?;
            ensure!(
                part.built_as == BuiltAs::Tree
                    || (part.edits.is_empty() && part.edits_without_sys_resource.is_empty()),
                "part {name}: only the sources of a tree can be edited"
            );
        }
        Ok(eras)
    }

    fn check_runtime(&self, name: &str) -> Result<()> {
        let runtime = self
            .runtimes
            .get(name)
            .ok_or_else(|| anyhow!("vagrant/eras.json defines no runtime {name}"))?;
        if let Runtime::Containerd {
            programs,
            runc,
            crictl,
        } = runtime
        {
            self.part(runc)?;
            self.part(crictl)?;
            if let Containerd::Part(part) = programs {
                self.part(part)?;
            }
        }
        Ok(())
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

    /// A container runtime of an era and its name: the first one, or the first whose name is `asked` or begins with it
    /// and a hyphen.
    pub fn runtime(&self, era: &Era, asked: Option<&str>) -> Result<(&str, &Runtime)> {
        let fits = |by: &&RunBy| {
            asked.is_none_or(|asked| {
                by.name
                    .strip_prefix(asked)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
        };
        let found = era.runtimes.iter().find(fits);
        found
            .and_then(|by| self.runtimes.get_key_value(&by.name))
            .map(|(name, runtime)| (name.as_str(), runtime))
            .ok_or_else(|| {
                let names: Vec<&str> = era.runtimes.iter().map(|by| by.name.as_str()).collect();
                anyhow!(
                    "{} is not tried with {}, but with {}: pass one of them to --runtime",
                    era.kubernetes,
                    asked.unwrap_or("nothing"),
                    names.join(", ")
                )
            })
    }

    /// What is meant by a version and the name of a runtime, or its beginning.
    pub fn choice(&self, version: Version, runtime: Option<&str>) -> Result<Choice> {
        let era = self.find(version)?;
        let (name, _) = self.runtime(era, runtime)?;
        let (usual, _) = self.runtime(era, None)?;
        Ok(Choice {
            version,
            runtime: (name != usual).then(|| name.to_owned()),
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

impl Part {
    /// What is built on a host that can grant all capabilities, or on one that cannot grant `CAP_SYS_RESOURCE`.
    #[must_use]
    pub fn for_host(mut self, rights: Rights) -> Self {
        let more = std::mem::take(&mut self.edits_without_sys_resource);
        if rights == Rights::NoSysResource {
            self.edits.extend(more);
        }
        self
    }
}

impl Era {
    /// All that it is tried with: its runtimes, the usual one first, and what `cargo lab test` plays with each.
    pub fn choices(&self) -> impl Iterator<Item = (Choice, &Tested)> {
        self.runtimes.iter().enumerate().map(|(index, by)| {
            let choice = Choice {
                version: self.kubernetes,
                runtime: (index > 0).then(|| by.name.clone()),
            };
            (choice, &by.tested)
        })
    }

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

/// As `v1.20.2`, or `v1.20.2-containerd-1.6`: also a part of file names.
impl fmt::Display for Choice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.version)?;
        self.runtime
            .as_ref()
            .map_or(Ok(()), |runtime| write!(out, "-{runtime}"))
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
            let commit = era.commit.as_deref();
            assert!(
                commit.is_none_or(|commit| commit.len() == 40),
                "{}",
                era.kubernetes
            );
            let replaced = eras.replacements_of_era(era).expect("checked by load");
            assert_eq!(
                era.kubernetes.minor <= 25,
                replaced.len() >= 6,
                "{}",
                era.kubernetes
            );
        }
    }

    #[test]
    fn only_what_a_kubelet_speaks_to_is_tried_with_it() {
        let eras = Eras::load().expect("eras.json is part of the source");
        for era in eras.all() {
            for RunBy { name, .. } in &era.runtimes {
                let (_, runtime) = eras.runtime(era, Some(name)).expect("checked by load");
                // Dockershim is gone from 1.24 on; containerd 2 speaks only the form of CRI that kubelets know from 1.23.
                let speaks = match runtime {
                    Runtime::Docker => era.kubernetes.minor < 24,
                    Runtime::Containerd { programs, .. } => match programs {
                        Containerd::Debian => (20..36).contains(&era.kubernetes.minor),
                        Containerd::Part(_) => era.kubernetes.minor >= 23,
                    },
                };
                assert!(speaks, "{} with {name}", era.kubernetes);
            }
        }
    }

    #[test]
    fn a_runtime_is_chosen_by_its_name_or_the_beginning_of_it() {
        let eras = Eras::load().expect("eras.json is part of the source");
        let choice = |version: &str, runtime| {
            let version = version.parse().expect("well formed");
            eras.choice(version, runtime)
                .map(|choice| choice.to_string())
        };
        let chosen = |version, runtime| choice(version, runtime).expect("one of the era's");
        assert_eq!(chosen("v1.20.2", None), "v1.20.2");
        assert_eq!(chosen("v1.20.2", Some("docker")), "v1.20.2");
        assert_eq!(
            chosen("v1.20.2", Some("containerd")),
            "v1.20.2-containerd-1.6"
        );
        assert_eq!(chosen("v1.28.15", Some("containerd")), "v1.28.15");
        assert_eq!(
            chosen("v1.28.15", Some("containerd-1.6")),
            "v1.28.15-containerd-1.6"
        );
        let refused = choice("v1.34.4", Some("docker")).expect_err("not tried");
        assert!(refused.to_string().contains("--runtime"), "{refused}");
        assert!(choice("v1.20.2", Some("contain")).is_err());
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
