//! A recipe's values: each is one text, read by the same code as the flag's, and described for editors.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use bundle_spec::Arch;
use bundle_spec::manifest::RuntimeName;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::mirrors::Mirror;
use crate::plan::{ArtifactName, Pinned};

/// A value that is written as text. The text is taken as it stands: `1.20` is no number that has lost its zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<T>(T);

impl<T> Text<T> {
    /// The value.
    pub fn read(self) -> T {
        self.0
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// `HOST: URL`, in the order of the file.
#[derive(Debug)]
pub struct MirrorTable(pub Vec<Mirror>);

impl<'de> Deserialize<'de> for MirrorTable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Rows(PhantomData))
    }
}

struct Rows(PhantomData<MirrorTable>);

impl<'de> Visitor<'de> for Rows {
    type Value = MirrorTable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HOST: URL")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut rows: A) -> Result<MirrorTable, A::Error> {
        let mut mirrors = Vec::new();
        while let Some(host) = rows.next_key::<String>()? {
            mirrors.push(rows.next_value_seed(Row(host))?);
        }
        Ok(MirrorTable(mirrors))
    }
}

/// Reads the URL beside its host, so that an error stands where the URL does.
struct Row(String);

impl<'de> DeserializeSeed<'de> for Row {
    type Value = Mirror;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Mirror, D::Error> {
        let url = String::deserialize(from)?;
        format!("{}={url}", self.0)
            .parse()
            .map_err(D::Error::custom)
    }
}

const DIGEST: &str = "^sha256:[0-9a-f]{64}$";

pub fn kubernetes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        // Without quotes 1.20 is a number to an editor; kpot reads its digits.
        "type": ["string", "number", "null"],
        "pattern": r"^(v?1\.[0-9]+(\.[0-9]+)?|stable(-1\.[0-9]+)?)$",
        "examples": ["v1.20.2", "1.20", "stable-1.20", "stable"],
    })
}

pub fn architectures(_: &mut SchemaGenerator) -> Schema {
    let known = Arch::ALL.map(|arch| arch.to_string());
    json_schema!({
        "type": ["array", "null"],
        "items": { "type": "string", "enum": known },
        "uniqueItems": true,
    })
}

pub fn images(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["array", "null"],
        "items": { "type": "string", "minLength": 1 },
        "examples": [["ghcr.io/flannel-io/flannel:v0.28.4"]],
    })
}

pub fn mirrors(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "additionalProperties": { "type": "string", "pattern": "^https?://" },
        "examples": [{ "registry.k8s.io": "https://mirror.example/k8s" }],
    })
}

pub fn pins(_: &mut SchemaGenerator) -> Schema {
    let digest = json!({ "type": "string", "pattern": DIGEST });
    let arches = [None, Some(Arch::Amd64), Some(Arch::Arm64)];
    let known: Map<String, Value> = ArtifactName::ALL
        .into_iter()
        .flat_map(|name| arches.map(|arch| Pinned { name, arch }))
        .map(|of| (of.to_string(), digest.clone()))
        .collect();
    json_schema!({
        "type": ["object", "null"],
        "properties": known,
        "additionalProperties": false,
    })
}

pub fn runtime(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "enum": RuntimeName::ALL.map(|name| Some(name.text())).into_iter().chain([None]).collect::<Vec<_>>(),
    })
}

pub fn version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "number", "null"],
        "pattern": "^v*[0-9][A-Za-z0-9.+-]*$",
    })
}

pub fn digest(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "pattern": DIGEST })
}

pub fn file_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "pattern": "^[A-Za-z0-9_+][A-Za-z0-9._+-]*$" })
}

pub fn path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "minLength": 1 })
}

pub fn address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "pattern": "^https?://" })
}
