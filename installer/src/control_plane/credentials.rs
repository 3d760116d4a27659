//! What a machine needs to join as a master, made fresh and taken back: a bootstrap token, the shared certificates and the key that they are sealed with.
//!
//! Secrets come over the connection's output and go into kubeadm's input. Nothing here puts one into an argument, a variable or a file.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use anyhow::{Context, Result, ensure};
use base64ct::{Base64, Encoding};
use bundle_spec::Sha256;
use serde::Serialize;
use serde_json::{Value, json};
use x509_cert::Certificate;
use x509_cert::der::{DecodePem, Encode};

use super::objects::{Data, List, Node};
use super::{Cluster, ClusterView, UPLOADED_CERTS};
use crate::host::command::{Cmd, Output, Secret};
use crate::kubernetes::Kubeadm;

/// How long a bootstrap token lives: a join takes a minute.
const TOKEN_LIFE: &str = "15m";

/// What all masters of a cluster share, in their folder of certificates.
pub const SHARED: [&str; 6] = [
    "ca.crt",
    "ca.key",
    "sa.pub",
    "sa.key",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
];

/// The longest that the upload of certificates may take; it takes some seconds.
const UPLOAD_LIMIT: Duration = Duration::from_secs(60);

/// How kubeadm describes the token that it makes so that the Secret `kubeadm-certs` ends with it (constants.go of every version from 1.14 on).
const PROXY_DESCRIPTION: &[u8] = b"Proxy for managing TTL for the kubeadm-certs secret";

/// How the descriptions of our own tokens begin.
const OURS: &str = "kpot: ";

/// What names the Secrets of all bootstrap tokens.
const TOKENS: [&str; 5] = [
    "secrets",
    "--namespace",
    "kube-system",
    "--field-selector",
    "type=bootstrap.kubernetes.io/token",
];

/// The largest difference between two clocks with which a join is allowed, in seconds: kubeadm's certificates and tokens are valid from "now".
pub const CLOCK_TOLERANCE: u64 = 60;

/// `sha256:…` of a certificate's SubjectPublicKeyInfo, for any type of key, as `--discovery-token-ca-cert-hash` wants it.
pub fn ca_hash(pem: &[u8]) -> Result<String> {
    let mut hashes = ca_hashes(pem)?.into_iter();
    hashes.next().context("not a PEM certificate")
}

/// The same of every certificate in a file. The first one signs; others belong to its chain, or come from a change of the CA.
pub fn ca_hashes(pem: &[u8]) -> Result<Vec<String>> {
    let chain = Certificate::load_pem_chain(pem).context("not a PEM certificate")?;
    let hash = |certificate: &Certificate| {
        let key = certificate
            .tbs_certificate()
            .subject_public_key_info()
            .to_der()
            .context("its public key cannot be encoded")?;
        Ok(Sha256::of(&key).to_string())
    };
    chain.iter().map(hash).collect()
}

/// When a certificate ends to be valid.
pub fn expiry(pem: &[u8]) -> Result<SystemTime> {
    let certificate = Certificate::from_pem(pem).context("not a PEM certificate")?;
    let end = certificate.tbs_certificate().validity().not_after;
    Ok(UNIX_EPOCH + end.to_unix_duration())
}

/// Standard base64, with or without line feeds.
pub fn decode_base64(text: &str) -> Result<Vec<u8>> {
    let compact: String = text.split_ascii_whitespace().collect();
    Base64::decode_vec(&compact).map_err(|_| anyhow::anyhow!("not base64"))
}

/// The description by which the tokens of a machine's joins are found again.
pub fn description(node: &str) -> String {
    format!("{OURS}{node} joins as a master")
}

/// What kubeadm on the healthy master is told. Without the cluster's configuration it asks the internet for a version and takes the default folder of certificates, and without the name of
/// its node it takes its machine's, which may be none that Kubernetes takes (`VM_0_10_centos`).
#[derive(Clone, Copy, Debug)]
pub struct Briefing<'a> {
    /// How kubeadm of its version behaves.
    pub kubeadm: &'a Kubeadm,
    /// The cluster's own ClusterConfiguration, ended with a line's end.
    pub config_text: &'a str,
    /// The healthy master's node.
    pub node: &'a Node,
    /// Where its runtime listens.
    pub cri_socket: &'a str,
}

impl Briefing<'_> {
    /// Runs kubeadm there with these words; `more` is part of its InitConfiguration, too.
    fn run(&self, cluster: &Cluster, words: &[&str], more: &Value) -> Result<Output> {
        let mut init = json!({
            "apiVersion": self.kubeadm.api,
            "kind": "InitConfiguration",
            "localAPIEndpoint": { "advertiseAddress": self.node.internal_address().unwrap_or_default() },
            "nodeRegistration": { "name": self.node.metadata.name, "criSocket": self.cri_socket },
        });
        if let (Some(init), Some(more)) = (init.as_object_mut(), more.as_object()) {
            init.extend(more.clone());
        }
        let config = format!("{}---\n{init}\n", self.config_text);
        // The input of a command over ssh may be a socket, which cannot be opened by name; a pipe can.
        let args = ["-c", "cat | \"$@\"", "sh", "kubeadm"].into_iter();
        let args = args
            .chain(words.iter().copied())
            .chain(["--config", "/dev/stdin"]);
        Ok(cluster.run(&Cmd::new("sh", args).stdin(config).timeout(UPLOAD_LIMIT))?)
    }
}

/// Makes a bootstrap token for the join of `node`.
pub fn create_token(cluster: &Cluster, briefing: Briefing<'_>, node: &str) -> Result<Secret> {
    let words = ["token", "create", "--kubeconfig", super::ADMIN_CONF];
    let token =
        json!({ "bootstrapTokens": [{ "ttl": TOKEN_LIFE, "description": description(node) }] });
    let output = briefing
        .run(cluster, &words, &token)
        .context("cannot make a bootstrap token")?;
    let text = output.text();
    let token = text
        .split_whitespace()
        .find(|word| is_token(word))
        .context("kubeadm printed no bootstrap token")?;
    Ok(Secret::new(token))
}

fn is_token(word: &str) -> bool {
    let good = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    word.split_once('.')
        .is_some_and(|(id, secret)| good(id, 6) && good(secret, 16))
}

/// Uploads the healthy master's shared certificates, sealed, into the Secret `kubeadm-certs`, and returns the key (64 hex digits).
pub fn upload_certs(cluster: &Cluster, briefing: Briefing<'_>) -> Result<Secret> {
    let flag = briefing.kubeadm.upload_flag;
    let output = briefing
        .run(
            cluster,
            &["init", "phase", "upload-certs", flag],
            &json!({}),
        )
        .context("cannot upload the shared certificates")?;
    let text = output.text();
    let key = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| line.len() == 64 && line.bytes().all(|byte| byte.is_ascii_hexdigit()));
    Ok(Secret::new(
        key.context("kubeadm printed no certificate key")?,
    ))
}

/// Fetches the sealed certificates and opens them: names below the folder of certificates (`ca.crt`, `etcd/ca.key`, …) and contents.
pub fn fetch_certs(view: &ClusterView, key: &Secret) -> Result<BTreeMap<String, Secret>> {
    let secret: Data = view.get(&UPLOADED_CERTS)?;
    let mut files = BTreeMap::new();
    for (name, sealed) in secret.data {
        // kubeadm stores nothing for a file that the healthy master lacks.
        if sealed.is_empty() {
            continue;
        }
        let place = certificate_place(&name).with_context(|| {
            format!("the Secret kubeadm-certs holds {name}, which no kubeadm is known to put there")
        })?;
        let content = unseal(&decode_base64(&sealed)?, key)
            .with_context(|| format!("cannot open {name} of the Secret kubeadm-certs"))?;
        files.insert(place, content);
    }
    for needed in SHARED {
        ensure!(
            files.contains_key(needed),
            "the Secret kubeadm-certs lacks {needed}: a cluster with an external CA must hand its certificates out by hand"
        );
    }
    Ok(files)
}

/// kubeadm writes `etcd/ca.crt` as `etcd-ca.crt`: a key of a Secret has no slash. External etcd's client files have names of their own.
fn certificate_place(name: &str) -> Option<String> {
    match name {
        shared if SHARED.contains(&shared) => Some(shared.to_owned()),
        "etcd-ca.crt" | "etcd-ca.key" => Some(name.replacen('-', "/", 1)),
        "external-etcd-ca.crt" | "external-etcd.crt" | "external-etcd.key" => Some(name.to_owned()),
        _ => None,
    }
}

/// AES-256-GCM with the nonce in front, as kubeadm's `EncryptBytes` writes it.
fn unseal(sealed: &[u8], key: &Secret) -> Result<Secret> {
    /// Bytes of a GCM nonce.
    const NONCE: usize = 12;
    let key = Secret::new(
        decode_hex(key.expose_str()).context("the certificate key is not hexadecimal")?,
    );
    let key = Key::<Aes256Gcm>::try_from(key.expose())
        .map_err(|_| anyhow::anyhow!("the certificate key has not 32 bytes"))?;
    let (nonce, body) = sealed.split_at_checked(NONCE).context("it is too short")?;
    let nonce = Nonce::try_from(nonce).map_err(|_| anyhow::anyhow!("it is too short"))?;
    let content = Aes256Gcm::new(&key)
        .decrypt(&nonce, body)
        .map_err(|_| anyhow::anyhow!("it is not sealed with this key"))?;
    Ok(Secret::new(content))
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        })
        .collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| {
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    })
}

/// What joins have left in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOver {
    /// The names of the Secrets of this machine's joins.
    pub ours: Vec<String>,
    /// When the Secret `kubeadm-certs` was made (RFC 3339), where it is somebody else's.
    pub others_certs: Option<String>,
}

/// The credentials of a machine's joins that are still in the cluster. It began its last upload of certificates at `uploaded`.
pub fn left_over(view: &ClusterView, node: &str, uploaded: Option<SystemTime>) -> Result<LeftOver> {
    let view = &view.ahead(&[view.getting(&TOKENS), view.finding(&UPLOADED_CERTS)]);
    let tokens: List<Data> = view.get(&TOKENS)?;
    let certs: Option<Data> = view.find(&UPLOADED_CERTS)?;
    let is_ours = |made: &Data| {
        uploaded.is_some_and(|since| is_since(&made.metadata.creation_timestamp, since))
    };
    let own_certs = certs.as_ref().filter(|certs| is_ours(certs));
    let others_certs = certs.as_ref().filter(|certs| !is_ours(certs));
    // A Secret of somebody else keeps its token.
    let owners = others_certs
        .iter()
        .flat_map(|certs| &certs.metadata.owner_references);
    let foreign: Vec<&str> = owners.map(|owner| owner.name.as_str()).collect();
    let ours = |token: &&Data| {
        let text = token
            .data
            .get("description")
            .and_then(|text| decode_base64(text).ok())
            .unwrap_or_default();
        let proxy = text == PROXY_DESCRIPTION
            && is_ours(token)
            && !foreign.contains(&token.metadata.name.as_str());
        text == description(node).as_bytes() || proxy
    };
    let names = tokens.items.iter().filter(ours).chain(own_certs);
    Ok(LeftOver {
        ours: names.map(|own| own.metadata.name.clone()).collect(),
        others_certs: others_certs.map(|certs| certs.metadata.creation_timestamp.clone()),
    })
}

/// A Secret that some machine's join needs, or needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JoinSecret {
    /// The Secret's name.
    pub name: String,
    /// When it was made (RFC 3339).
    pub made: String,
    /// What it is for, in its maker's words.
    pub purpose: String,
}

/// The Secret `kubeadm-certs`, whoever made it, and the tokens of our joins, of whichever machine.
pub fn of_all_joins(view: &ClusterView) -> Result<Vec<JoinSecret>> {
    let certs: Option<Data> = view.find(&UPLOADED_CERTS)?;
    let tokens: List<Data> = view.get(&TOKENS)?;
    let token = |token: Data| {
        let text = token.data.get("description")?;
        let purpose = String::from_utf8(decode_base64(text).ok()?).ok()?;
        purpose.starts_with(OURS).then_some(JoinSecret {
            name: token.metadata.name,
            made: token.metadata.creation_timestamp,
            purpose,
        })
    };
    let certs = certs.map(|certs| JoinSecret {
        name: certs.metadata.name,
        made: certs.metadata.creation_timestamp,
        purpose: "the shared certificates, sealed, for a join".to_owned(),
    });
    Ok(certs
        .into_iter()
        .chain(tokens.items.into_iter().filter_map(token))
        .collect())
}

/// Whether something made at `created` (RFC 3339, the cluster's clock) may be the result of what we began at `since` (our clock): not before it, and not so long after
/// it that the command must have ended.
pub fn is_since(created: &str, since: SystemTime) -> bool {
    let tolerance = Duration::from_secs(CLOCK_TOLERANCE);
    humantime::parse_rfc3339(created).is_ok_and(|created| {
        created + tolerance >= since && created <= since + UPLOAD_LIMIT + tolerance
    })
}

/// Deletes Secrets by name.
pub fn revoke(cluster: &Cluster, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let mut what = vec!["secret"];
    what.extend(names.iter().map(String::as_str));
    what.extend(["--namespace", "kube-system"]);
    cluster.delete(&what).with_context(|| {
        format!(
            "cannot revoke {}; they end by themselves in at most 2 hours",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::command::{Local, Runner};

    #[test]
    fn the_hash_is_openssls_for_rsa_and_for_ec() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for kind in [
            &["rsa:2048"][..],
            &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        ] {
            let mut args = vec![
                "req",
                "-x509",
                "-nodes",
                "-subj",
                "/CN=kubernetes",
                "-newkey",
            ];
            args.extend(kind);
            let (key, certificate, public, der) =
                (path("key"), path("crt"), path("pub"), path("der"));
            args.extend(["-keyout", &key, "-out", &certificate]);
            Local.expect(&Cmd::new("openssl", args)).unwrap();
            Local
                .expect(&Cmd::new(
                    "openssl",
                    [
                        "x509",
                        "-in",
                        &certificate,
                        "-noout",
                        "-pubkey",
                        "-out",
                        &public,
                    ],
                ))
                .unwrap();
            let text = Local
                .expect(&Cmd::new(
                    "openssl",
                    ["x509", "-in", &certificate, "-noout", "-pubkey"],
                ))
                .unwrap();
            Local
                .expect(
                    &Cmd::new(
                        "openssl",
                        ["pkey", "-pubin", "-outform", "der", "-out", &der],
                    )
                    .stdin(text.stdout),
                )
                .unwrap();
            let sum = Local.expect(&Cmd::new("sha256sum", [&der])).unwrap().text();
            let pem = Local
                .expect(&Cmd::new("cat", [&certificate]))
                .unwrap()
                .stdout;
            assert_eq!(
                ca_hash(&pem).unwrap(),
                format!("sha256:{}", sum.split(' ').next().unwrap())
            );
        }
        assert!(ca_hash(b"nonsense").is_err());
    }

    #[test]
    fn sealed_certificates_open_with_their_key_and_no_other() {
        let (key, other) = ("00".repeat(31) + "01", "00".repeat(32));
        let cipher =
            Aes256Gcm::new(&Key::<Aes256Gcm>::try_from(&decode_hex(&key).unwrap()[..]).unwrap());
        let nonce = [7; 12];
        let mut sealed = nonce.to_vec();
        sealed.extend(cipher.encrypt(&Nonce::from(nonce), &b"PEM"[..]).unwrap());
        assert_eq!(
            unseal(&sealed, &Secret::new(key.clone())).unwrap().expose(),
            b"PEM"
        );
        assert!(unseal(&sealed, &Secret::new(other)).is_err());
        assert!(unseal(&sealed[..8], &Secret::new(key)).is_err());
    }

    #[test]
    fn names_in_the_secret_become_places_and_nothing_else_does() {
        assert_eq!(
            certificate_place("etcd-ca.key").as_deref(),
            Some("etcd/ca.key")
        );
        assert_eq!(
            certificate_place("front-proxy-ca.crt").as_deref(),
            Some("front-proxy-ca.crt")
        );
        assert_eq!(
            certificate_place("../../../root/.ssh/authorized_keys"),
            None
        );
    }

    #[test]
    fn tokens_are_told_from_other_words() {
        assert!(is_token("abcdef.0123456789abcdef"));
        assert!(
            !is_token("abcdef.0123456789abcde")
                && !is_token("kubeadm.k8s.io")
                && !is_token("ABCDEF.0123456789abcdef")
        );
    }

    #[test]
    fn what_was_there_before_us_is_not_ours() {
        let began = humantime::parse_rfc3339("2026-01-01T12:00:00Z").unwrap();
        assert!(
            is_since("2026-01-01T11:59:10Z", began),
            "within the clocks' tolerance"
        );
        assert!(!is_since("2026-01-01T11:58:00Z", began));
        assert!(
            is_since("2026-01-01T12:01:30Z", began),
            "an upload takes its time"
        );
        assert!(
            !is_since("2026-01-01T12:30:00Z", began),
            "long after the upload must have ended, it is somebody else's"
        );
    }
}
