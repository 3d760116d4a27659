//! Pots to work on, taken apart and put together again by hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use bundle_spec::{Member, Sha256, SigningKey, header, signature};
use serde_json::Value;

use super::upstream::Upstream;
use super::{Desk, code, stderr, stdout};

/// A desk with `out/x.pot`, built of what the upstream has.
pub fn desk_with_pot(upstream: &Upstream, more: &[&str]) -> Desk {
    let desk = Desk::new();
    let built = desk.build(upstream, "x.pot", more);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    desk
}

pub fn json_of(output: &Output) -> Value {
    assert_eq!(code(output), 0, "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The files below `folder`, by their paths from there.
pub fn files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.symlink_metadata().unwrap().is_dir() {
            let below = files(&path).into_iter();
            found.extend(below.map(|(below, path)| (format!("{name}/{below}"), path)));
        } else {
            found.insert(name, path);
        }
    }
    found
}

/// The key that the desk's signers trust.
pub fn key_of(desk: &Desk) -> SigningKey {
    let text = std::fs::read_to_string(desk.path("config/kpot/signing_key")).unwrap();
    SigningKey::from_openssh(&text).unwrap()
}

/// A second key: its file, and the file of signers that trusts it alone.
pub fn other_key(desk: &Desk) -> (String, String) {
    let key = desk.path("other_key").display().to_string();
    let made = stdout(&desk.kpot(&["keygen", "-o", &key]));
    let line = made
        .lines()
        .find(|line| line.starts_with("kpot namespaces="))
        .unwrap();
    let signers = desk.path("other_signers");
    std::fs::write(&signers, format!("{line}\n")).unwrap();
    (key, signers.display().to_string())
}

/// The members of a pot in their order.
pub fn members(pot: &[u8]) -> Vec<(Member, Vec<u8>)> {
    let mut members = Vec::new();
    let mut rest = pot;
    while rest[..header::BLOCK] != [0; header::BLOCK] {
        let (member, size) = header::decode(rest[..header::BLOCK].try_into().unwrap()).unwrap();
        let end = header::BLOCK + usize::try_from(size).unwrap();
        members.push((member, rest[header::BLOCK..end].to_vec()));
        rest = &rest[end + header::padding(size)..];
    }
    members
}

/// The pot with another manifest, the sums and the signature made to fit: what somebody can do who has a trusted key and means harm.
pub fn forged(pot: &[u8], key: &SigningKey, edit: impl Fn(String) -> String) -> Vec<u8> {
    let mut members = members(pot);
    let index = |wanted: Member| {
        let mut all = members.iter();
        all.position(|(member, _)| *member == wanted).unwrap()
    };
    let (sums, signed, manifest) = (
        index(Member::Sums),
        index(Member::Signature),
        index(Member::Manifest),
    );
    let before = String::from_utf8(members[manifest].1.clone()).unwrap();
    let after = edit(before.clone());
    assert_ne!(before, after, "the edit found nothing");
    let text = String::from_utf8(members[sums].1.clone()).unwrap();
    let text = text.replace(
        &Sha256::of(before.as_bytes()).hex(),
        &Sha256::of(after.as_bytes()).hex(),
    );
    members[manifest].1 = after.into_bytes();
    members[signed].1 = signature::sign(key, text.as_bytes()).unwrap().into_bytes();
    members[sums].1 = text.into_bytes();
    let mut bytes = Vec::new();
    for (member, content) in members {
        let size = content.len() as u64;
        bytes.extend(header::encode(&member, size).unwrap());
        bytes.extend(content);
        bytes.resize(bytes.len() + header::padding(size), 0);
    }
    bytes.resize(bytes.len() + header::END, 0);
    bytes
}
