//! `kpot.yaml`: what a pot is made of, as a file that people keep beside their other configuration.
//!
//! Each field is called as the flag that it stands for, in the plural where it is a list, and is read into the same type. What does not parse is refused with line and
//! column, a field that nobody knows among it. What the fields mean together with flags is decided in `order`.

mod template;
mod text;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use bundle_spec::manifest::RuntimeName;
use bundle_spec::{Arch, Sha256};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::extra::{Address, Extra, ExtraName, Place, UNVERSIONED};
use crate::image_name::ImageName;
use crate::pack::effort::Effort;
use crate::plan::{Pinned, Version};
use crate::wanted::Wanted;
pub use template::TEMPLATE;
pub use text::{MirrorTable, Text};

/// The largest recipe, in bytes.
const LIMIT: u64 = 1 << 20;

/// What the parser calls things, and what people do.
const PARSERS_WORDS: [(&str, &str); 4] = [
    (
        "expected sequence start",
        "expected a list: a line with a dash for each item",
    ),
    ("expected mapping start", "expected fields: NAME: VALUE"),
    ("expected string scalar", "expected a text"),
    ("invalid u64", "expected a whole number"),
];

/// What a pot is made of.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[schemars(title = "kpot.yaml")]
pub struct Recipe {
    /// The Kubernetes version: v1.14.0, or "1.14" (or stable-1.14) for its latest patch, or stable for the latest of all.
    #[schemars(schema_with = "text::kubernetes")]
    pub k8s: Option<Text<Wanted>>,
    /// The architectures of the machines that pots are made for, one pot for each. Without it: amd64.
    #[schemars(schema_with = "text::architectures")]
    pub arch: Option<Vec<Text<Arch>>>,
    /// Images that the cluster needs besides its control plane, its pod network's for example.
    #[schemars(schema_with = "text::images")]
    pub images: Option<Vec<Text<ImageName>>>,
    /// Files to carry besides, for people: manifests, runbooks, tools. Nothing installs, runs or applies them.
    #[schemars(with = "Option<Vec<Fields>>")]
    pub files: Option<Vec<Entry>>,
    /// HOST: URL. Everything on HOST is fetched from URL instead, downloads and images alike.
    #[schemars(schema_with = "text::mirrors")]
    pub mirrors: Option<MirrorTable>,
    /// NAME: DIGEST. The digest that a download must have, before any published one.
    #[schemars(schema_with = "text::pins")]
    pub pins: Option<BTreeMap<Text<Pinned>, Text<Sha256>>>,
    /// The container runtime: docker up to Kubernetes 1.23, containerd from 1.14 on. Without it: docker as far as it goes, then containerd.
    #[schemars(schema_with = "text::runtime")]
    pub runtime: Option<Text<RuntimeName>>,
    /// Docker's version, instead of the default for this Kubernetes; of a pot with Docker.
    #[schemars(schema_with = "text::version")]
    pub docker_version: Option<Text<Version>>,
    /// containerd's version, instead of the default for this Kubernetes; of a pot with containerd.
    #[schemars(schema_with = "text::version")]
    pub containerd_version: Option<Text<Version>>,
    /// runc's version, instead of the default; of a pot with containerd.
    #[schemars(schema_with = "text::version")]
    pub runc_version: Option<Text<Version>>,
    /// crictl's version, instead of the default; of a pot with containerd.
    #[schemars(schema_with = "text::version")]
    pub crictl_version: Option<Text<Version>>,
    /// The CNI plugins' version, instead of the default for this Kubernetes.
    #[schemars(schema_with = "text::version")]
    pub cni_version: Option<Text<Version>>,
    /// How hard to compress. Without it: balanced, and fast with `verbatim`.
    pub compression: Option<Effort>,
    /// Whether layers of images stay as their registry has them, with the manifests that name them.
    pub verbatim: Option<bool>,
    /// A pot of the same name with a larger serial replaces one with a smaller serial. Without it: 1.
    pub serial: Option<u64>,
}

/// A file to carry: `path`, or `url` with `digest`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Entry(Extra);

/// A file to carry: `path`, or `url` with `digest`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "Entry",
    extend("oneOf" = [{ "required": ["path"] }, { "required": ["url", "digest"] }])
)]
struct Fields {
    /// Its name in the pot. Without it: the last part of its path or address.
    #[serde(default)]
    #[schemars(schema_with = "text::file_name")]
    name: Option<Text<ExtraName>>,
    /// Where it lies on the machine that builds, seen from the recipe's folder.
    #[serde(default)]
    #[schemars(schema_with = "text::path")]
    path: Option<String>,
    /// Where it is fetched from.
    #[serde(default)]
    #[schemars(schema_with = "text::address")]
    url: Option<Text<Address>>,
    /// The digest that it must have; a file from an address needs one.
    #[serde(default)]
    #[schemars(schema_with = "text::digest")]
    digest: Option<Text<Sha256>>,
    /// Its version, for people.
    #[serde(default)]
    #[schemars(schema_with = "text::version")]
    version: Option<Text<Version>>,
}

impl TryFrom<Fields> for Entry {
    type Error = String;

    fn try_from(fields: Fields) -> Result<Self, String> {
        let digest = fields.digest.map(Text::read);
        let (place, last) = match (fields.path, fields.url.map(Text::read), digest) {
            (Some(path), None, digest) => {
                let last = Path::new(&path).file_name().and_then(|name| name.to_str());
                let last = last.unwrap_or_default().to_owned();
                (Place::Here(path.into(), digest), last)
            }
            (None, Some(url), Some(digest)) => {
                let last = url.url().path().rsplit('/').next().unwrap_or_default();
                let last = last.to_owned();
                (Place::At(url, digest), last)
            }
            (None, Some(_), None) => {
                return Err(
                    "a file from an address needs its digest, because nothing else vouches for it: digest: sha256:HEX"
                        .to_owned(),
                );
            }
            (Some(_), Some(_), _) | (None, None, _) => {
                return Err("a file has either a path or a url".to_owned());
            }
        };
        let name = match fields.name {
            Some(name) => name.read(),
            None => last
                .parse()
                .map_err(|problem| format!("{problem}; give it one with name:"))?,
        };
        let version = fields.version.map(|version| version.read().to_string());
        Ok(Self(Extra {
            name,
            version: version.unwrap_or_else(|| UNVERSIONED.to_owned()),
            place,
        }))
    }
}

impl Entry {
    /// The file, with its path seen from where kpot runs: `folder` is the recipe's.
    pub fn file(self, folder: &Path) -> Extra {
        let mut file = self.0;
        if let Place::Here(path, _) = &mut file.place {
            *path = folder.join(&*path);
        }
        file
    }
}

impl Recipe {
    /// Reads the recipe in `path`.
    ///
    /// # Errors
    /// A text with the file's name, and with line and column where its content is to blame.
    pub fn read(path: &Path) -> Result<Self, String> {
        let problem = |problem: String| format!("{}: {problem}", path.display());
        let file = File::open(path).map_err(|cause| problem(cause.to_string()))?;
        let mut text = String::new();
        let length = file
            .take(LIMIT + 1)
            .read_to_string(&mut text)
            .map_err(|cause| problem(cause.to_string()))?;
        if length as u64 > LIMIT {
            return Err(problem(format!("it is larger than {LIMIT} bytes")));
        }
        Self::parse(&text).map_err(problem)
    }

    /// Reads the text of a recipe.
    ///
    /// # Errors
    /// A text that begins with line and column.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|cause: serde_saphyr::Error| {
            // The lines that follow show the place in the file, under a name that is not the file's.
            let told = cause.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            let first = told.lines().next().unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first);
            let plain = |text: String, (theirs, ours): &(&str, &str)| text.replace(theirs, ours);
            PARSERS_WORDS.iter().fold(first.to_owned(), plain)
        })
    }

    /// The JSON schema of a recipe, by which editors complete and check it.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Self)
    }
}

#[cfg(test)]
mod tests;
