//! Manifests and indexes as registries send them: read within limits, and reduced to digests, sizes and what decides about them.
//!
//! A registry may send anything of up to 4 MiB, several at once, and the builder has little memory: what is not needed is skipped while it is read, and no list is longer than
//! any image has it.

use std::fmt::{self, Write as _};
use std::marker::PhantomData;

use bundle_spec::{Arch, Sha256, limits};
use reqwest::Url;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::http::{FetchError, Reply};

/// The most entries of a list: layers of an image, or images of an index. Docker takes images of up to 127 layers.
const ENTRIES: usize = 1000;

/// How much of a word is shown that nobody knows, in characters.
const SHOWN: usize = 100;

/// How much is shown of why something does not parse, in bytes: it may quote what does not.
const REASON: usize = 300;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip
    Gzip,
    /// zstd
    Zstd,
}

/// What a manifest answer is.
pub(super) enum Form {
    Manifest,
    Index,
}

/// What an image's manifest names, each thing with its digest and its size in bytes.
pub(super) struct Named {
    pub(super) config: (Sha256, u64),
    /// The layers, lowest first.
    pub(super) layers: Vec<(Sha256, u64, Compression)>,
}

/// What of an index may be the image for an architecture, each with the digest of its manifest and its size in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// The first that the index lists for it.
    Listed(Sha256, u64),
    /// Those of which the index does not say what they are for; it lists none for that architecture.
    Unsaid(Vec<(Sha256, u64)>),
}

/// What an image's config promises.
#[derive(Deserialize)]
pub(super) struct Config {
    pub(super) architecture: String,
    pub(super) os: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: List<Sha256>,
}

/// What tells the manifest forms apart, whatever the server calls them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: List<Descriptor>,
}

#[derive(Deserialize)]
struct Index {
    manifests: List<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

/// What is empty is not said.
#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Entry {
    /// What it is for, where that is said.
    fn platform(&self) -> Option<&Platform> {
        let said = |it: &&Platform| !it.os.is_empty() || !it.architecture.is_empty();
        self.platform.as_ref().filter(said)
    }
}

/// A list of at most [`ENTRIES`]; a longer one is refused before the rest of it is read.
struct List<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = entries.next_element()? {
                    if list.len() == ENTRIES {
                        let problem = format!("a list in it has more than {ENTRIES} entries");
                        return Err(A::Error::custom(problem));
                    }
                    list.push(entry);
                }
                Ok(List(list))
            }
        }

        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

/// Whether `reply` is a manifest or an index.
///
/// # Errors
/// Where it is neither, or of a schema that is no longer read.
pub(super) fn shape(reply: &Reply) -> Result<Form, FetchError> {
    let refused = |problem: &str| FetchError::refused(&reply.from, problem);
    let shape: Shape = read(reply, "the manifest")?;
    match shape.schema_version {
        Some(2) => {}
        Some(1) => return Err(refused(OBSOLETE).advise(PUSH_AGAIN)),
        _ => return Err(refused(NEITHER)),
    }
    match (shape.manifests, shape.layers) {
        (Some(_), None) => Ok(Form::Index),
        (None, Some(_)) => Ok(Form::Manifest),
        _ => Err(refused(NEITHER)),
    }
}

const NEITHER: &str = "it is neither an image manifest nor an index";
const OBSOLETE: &str = "it is an image manifest of the obsolete schema 1";
const PUSH_AGAIN: &str = "push the image again with a current tool";

/// The refusal of a manifest of schema 1; nothing where `reply` is none.
pub(super) fn obsolete(reply: &Reply) -> Option<FetchError> {
    let shape: Shape = read(reply, "the manifest").ok()?;
    (shape.schema_version == Some(1))
        .then(|| FetchError::refused(&reply.from, OBSOLETE).advise(PUSH_AGAIN))
}

/// What the config of a container image is called: by Docker and by OCI; and, as Docker takes it too, by Docker before 1.11.1 and by registries that did not know better. What a config of
/// such a name really is, its content shows.
const CONFIGS: [&str; 6] = [
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];

/// What a manifest names.
///
/// # Errors
/// Where it is of no container image, or names what cannot be had or checked.
pub(super) fn named(reply: &Reply) -> Result<Named, FetchError> {
    let refused = |problem: String| FetchError::refused(&reply.from, problem);
    let manifest: Manifest = read(reply, "the manifest")?;
    let config = manifest.config;
    if !CONFIGS.contains(&config.media_type.as_str()) {
        return Err(refused(format!(
            "it is no container image but {}",
            shown(&config.media_type)
        )));
    }
    let layer = |layer: &Descriptor| {
        let compression = compression(&layer.media_type).map_err(refused)?;
        if layer.size > limits::BLOB_SIZE {
            return Err(refused(format!(
                "a layer has {} bytes, more than the limit of {}",
                layer.size,
                limits::BLOB_SIZE
            )));
        }
        Ok((sha256(&layer.digest, &reply.from)?, layer.size, compression))
    };
    Ok(Named {
        config: (sha256(&config.digest, &reply.from)?, config.size),
        layers: manifest
            .layers
            .0
            .iter()
            .map(layer)
            .collect::<Result<_, _>>()?,
    })
}

/// What of an index may be the image for Linux on `arch`.
///
/// # Errors
/// Where nothing is.
pub(super) fn choose(reply: &Reply, arch: Arch) -> Result<Chosen, FetchError> {
    let index: Index = read(reply, "the index")?;
    let variant = match arch {
        Arch::Amd64 => "v1",
        Arch::Arm64 => "v8",
    };
    let fits = |entry: &&Entry| {
        entry.platform().is_some_and(|platform| {
            let own = platform.variant.as_deref();
            platform.os == "linux"
                && platform.architecture == arch.go()
                && own.is_none_or(|own| own.is_empty() || own == variant)
        })
    };
    // A digest is one before it becomes part of an address.
    let digest = |entry: &Entry| sha256(&entry.digest, &reply.from);
    let entries = &index.manifests.0;
    if let Some(listed) = entries.iter().find(fits) {
        return Ok(Chosen::Listed(digest(listed)?, listed.size));
    }
    let mut unsaid = Vec::new();
    for entry in entries.iter().filter(|entry| entry.platform().is_none()) {
        unsaid.push((digest(entry)?, entry.size));
    }
    if unsaid.is_empty() {
        return Err(none_for(&reply.from, arch));
    }
    Ok(Chosen::Unsaid(unsaid))
}

/// The refusal of an index from there that has no image for `arch`.
pub(super) fn none_for(index: &Url, arch: Arch) -> FetchError {
    FetchError::refused(index, format!("the index has no image for linux/{arch}"))
}

/// An image's config.
///
/// # Errors
/// Where it is none.
pub(super) fn config(reply: &Reply) -> Result<Config, FetchError> {
    read(reply, "the image's config")
}

impl Config {
    /// Whether the image is for Linux on `arch`, by its own word.
    pub(super) fn is_for(&self, arch: Arch) -> bool {
        self.os == "linux" && self.architecture == arch.go()
    }

    /// The digests of the unpacked layers, lowest first; none where what it lists are no layers.
    pub(super) fn diff_ids(self) -> Vec<Sha256> {
        match self.rootfs.kind.as_str() {
            "layers" => self.rootfs.diff_ids.0,
            _ => Vec::new(),
        }
    }
}

fn read<'r, T: Deserialize<'r>>(reply: &'r Reply, what: &str) -> Result<T, FetchError> {
    serde_json::from_slice(&reply.body).map_err(|cause| {
        let mut reason = Beginning(String::new());
        // It ends with an error where there is more than is kept.
        let place = match write!(reason, "{cause}") {
            Ok(()) => String::new(),
            Err(fmt::Error) => format!("… at line {} column {}", cause.line(), cause.column()),
        };
        FetchError::refused(
            &reply.from,
            format!("{what} does not parse: {}{place}", reason.0),
        )
    })
}

/// The beginning of a text that may be as long as a server likes.
struct Beginning(String);

impl fmt::Write for Beginning {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = part.floor_char_boundary(REASON - self.0.len());
        self.0.push_str(&part[..end]);
        if end < part.len() {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

fn compression(media_type: &str) -> Result<Compression, String> {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.oci.image.layer.v1.tar+gzip" => Ok(Compression::Gzip),
        "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.oci.image.layer.v1.tar" => Ok(Compression::None),
        "application/vnd.docker.image.rootfs.diff.tar.zstd"
        | "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(Compression::Zstd),
        other if other.contains("foreign") || other.contains("nondistributable") => Err(
            "it has a foreign layer, which is not in the registry and may not be passed on"
                .to_owned(),
        ),
        other => Err(format!(
            "it has a layer of the unknown type {}",
            shown(other)
        )),
    }
}

fn sha256(digest: &str, url: &Url) -> Result<Sha256, FetchError> {
    digest
        .parse()
        .map_err(|cause| FetchError::refused(url, format!("a digest in it is none: {cause}")))
}

/// The beginning of a word that a server made up, without what would do something to a terminal.
pub(super) fn shown(word: &str) -> String {
    let beginning: String = word.chars().take(SHOWN).collect();
    beginning.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderMap;
    use serde_json::{Value, json};

    fn reply(value: &Value) -> Reply {
        Reply {
            headers: HeaderMap::new(),
            body: serde_json::to_vec(value).unwrap(),
            from: Url::parse("https://registry.example/v2/x/manifests/1").unwrap(),
        }
    }

    #[test]
    fn an_error_quotes_no_more_of_an_answer_than_a_person_reads() {
        let reply = reply(&json!({ "schemaVersion": "\u{1f980}".repeat(1 << 20) }));
        let said = shape(&reply).err().unwrap().to_string();
        assert!(
            said.contains("does not parse: invalid type: string"),
            "{said}"
        );
        assert!(said.contains("… at line 1 column "), "{said}");
        assert!(said.len() < 1000, "{}", said.len());
    }

    fn manifest(layers: usize) -> Value {
        let digest = Sha256::of(b"x").to_string();
        let layer = json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 1,
            "annotations": { "more": [1, 2, { "than": "needed" }] },
        });
        json!({
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2,
            },
            "layers": vec![layer; layers],
        })
    }

    #[test]
    fn lists_are_read_up_to_their_limit_and_refused_beyond() {
        let most = named(&reply(&manifest(ENTRIES))).unwrap();
        assert_eq!(most.layers.len(), ENTRIES);
        assert_eq!(most.config, (Sha256::of(b"x"), 2));
        let entry = json!({
            "digest": Sha256::of(b"x").to_string(), "size": 3,
            "platform": { "os": "linux", "architecture": "amd64" },
        });
        let index = |entries| reply(&json!({ "manifests": vec![entry.clone(); entries] }));
        let chosen = choose(&index(ENTRIES), Arch::Amd64).unwrap();
        assert_eq!(chosen, Chosen::Listed(Sha256::of(b"x"), 3));
        let config_of = |ids| {
            let ids = vec![Sha256::of(b"x").to_string(); ids];
            reply(&json!({
                "os": "linux", "architecture": "amd64",
                "rootfs": { "type": "layers", "diff_ids": ids },
            }))
        };
        let ids = config(&config_of(ENTRIES)).unwrap().diff_ids();
        assert_eq!(ids.len(), ENTRIES);
        for told in [
            named(&reply(&manifest(ENTRIES + 1))).map(drop),
            choose(&index(ENTRIES + 1), Arch::Amd64).map(drop),
            config(&config_of(ENTRIES + 1)).map(drop),
        ] {
            let told = told.unwrap_err().to_string();
            assert!(told.contains("more than 1000 entries"), "{told}");
        }
    }

    #[test]
    fn an_index_need_not_say_what_everything_in_it_is_for() {
        let digest = |name: &str| Sha256::of(name.as_bytes());
        let entry = |name: &str, platform: Value| json!({ "digest": digest(name).to_string(), "size": 3, "platform": platform });
        let amd64 =
            |variant: Value| json!({ "os": "linux", "architecture": "amd64", "variant": variant });
        let (unsaid, empty) = (entry("a", Value::Null), entry("b", json!({})));
        let blank = entry("c", json!({ "os": "", "architecture": "" }));
        let other = entry("d", json!({ "os": "linux", "architecture": "s390x" }));
        let listed = entry("e", amd64(json!("")));
        let odd = entry("f", amd64(json!("v3")));
        let chosen = |entries: &[&Value]| {
            let reply = reply(&json!({ "manifests": entries }));
            choose(&reply, Arch::Amd64).map_err(|error| error.to_string())
        };
        // An empty variant is none, and what is listed goes before what is not said.
        assert_eq!(
            chosen(&[&unsaid, &odd, &listed]),
            Ok(Chosen::Listed(digest("e"), 3))
        );
        assert_eq!(
            chosen(&[&other, &unsaid, &empty, &odd, &blank]),
            Ok(Chosen::Unsaid(
                ["a", "b", "c"].map(|name| (digest(name), 3)).to_vec()
            ))
        );
        let told = chosen(&[&other, &odd]).unwrap_err();
        assert!(told.contains("no image for linux/amd64"), "{told}");
    }

    #[test]
    fn words_that_a_server_made_up_are_shown_short_and_harmless() {
        let mut odd = manifest(1);
        odd["config"]["mediaType"] = json!("\u{1b}[2J".repeat(10_000));
        let told = named(&reply(&odd)).map(drop).unwrap_err().to_string();
        assert!(told.contains("no container image"), "{told}");
        assert!(told.len() < 1000 && !told.contains('\u{1b}'), "{told}");
    }

    #[test]
    fn old_and_careless_names_of_configs_are_taken_and_others_content_is_not() {
        let told = |kind: Option<&str>| {
            let mut one = manifest(1);
            let config = one["config"].as_object_mut().unwrap();
            match kind {
                Some(kind) => config.insert("mediaType".to_owned(), json!(kind)),
                None => config.remove("mediaType"),
            };
            named(&reply(&one))
                .map(drop)
                .map_err(|error| error.to_string())
        };
        for kind in [
            Some("application/octet-stream"),
            Some("text/html"),
            Some("application/json"),
            Some(""),
            None,
        ] {
            assert_eq!(told(kind), Ok(()), "{kind:?}");
        }
        for kind in [
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.oci.empty.v1+json",
        ] {
            assert!(
                told(Some(kind)).unwrap_err().contains("no container image"),
                "{kind}"
            );
        }
        let gateway = reply(&json!({ "error": "please log in" }));
        let said = shape(&gateway).err().unwrap().to_string();
        assert!(
            said.contains("neither an image manifest nor an index"),
            "{said}"
        );
    }

    #[test]
    fn layers_are_taken_by_their_type() {
        assert_eq!(
            compression("application/vnd.oci.image.layer.v1.tar+zstd"),
            Ok(Compression::Zstd)
        );
        assert!(
            compression("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
                .unwrap_err()
                .contains("foreign")
        );
        assert!(
            compression("application/vnd.oci.image.layer.nondistributable.v1.tar")
                .unwrap_err()
                .contains("foreign")
        );
        assert!(compression("application/x-tar").is_err());
    }
}
