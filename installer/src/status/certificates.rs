//! How long the certificates of this machine are still valid: those in kubeadm's folders, and the client certificates of the kubeconfigs.
//!
//! Of a file with several certificates the one counts that ends first. No key is read for its content; a file that holds one beside its certificate is only searched for the
//! latter.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::control_plane::kubeadm::{CERTIFICATES, ETCD_CERTIFICATES};
use crate::facts::kubeconfig::{self, ClientCertificate, ends};
use crate::host::HostView;
use crate::replacing::health::KUBECONFIGS;

/// kubeadm's folder, unless the cluster has another.
pub(super) const FOLDER: &str = "/etc/kubernetes/pki";

/// Fewer days than this are worth a word: kubeadm's certificates last a year, and a renewal needs a quiet hour.
const SOON: i64 = 30;

/// A certificate of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Certificate {
    /// The file that holds it.
    pub(super) path: String,
    /// How it stands.
    #[serde(flatten)]
    pub(super) standing: Standing,
}

/// How a certificate stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum Standing {
    /// It is valid for a while.
    Good(End),
    /// It ends in less than 30 days.
    EndsSoon(End),
    /// It has ended.
    Expired(End),
    /// A master has it, and this one has not.
    Missing,
    /// There is something else in its place.
    Unreadable {
        /// What is wrong.
        cannot_tell: String,
    },
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct End {
    /// RFC 3339.
    pub(super) ends: String,
    /// Whole days until then; negative where it is past.
    pub(super) days_left: i64,
}

/// What certificates are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// None: this is no master.
    None,
    /// A master's, whose etcd is elsewhere.
    WithoutEtcd,
    /// A master's, with an etcd of its own.
    WithEtcd,
}

/// Every certificate that is here, those of the control plane in `folder`, and those that should be.
pub(super) fn look(
    host: &HostView,
    expected: Expected,
    folder: &str,
    now: SystemTime,
) -> Result<Vec<Certificate>> {
    let mut paths = BTreeSet::new();
    for folder in [folder.to_owned(), format!("{folder}/etcd")] {
        let names = host.list(&folder)?.into_iter();
        paths.extend(names.map(|name| format!("{folder}/{name}")));
    }
    let wanted: &[&[&str]] = match expected {
        Expected::None => &[],
        Expected::WithoutEtcd => &[&CERTIFICATES],
        Expected::WithEtcd => &[&CERTIFICATES, &ETCD_CERTIFICATES],
    };
    paths.extend(
        wanted
            .iter()
            .copied()
            .flatten()
            .map(|name| format!("{folder}/{name}")),
    );
    let mut found = Vec::new();
    for path in paths
        .into_iter()
        .filter(|path| path.strip_suffix(".crt").is_some())
    {
        let read = host.read(&path);
        let standing = judge(
            read.and_then(|pem| pem.map(|pem| ends(&pem)).transpose()),
            now,
        );
        found.push(Certificate { path, standing });
    }
    let mut configs: BTreeSet<String> = host
        .list("/etc/kubernetes")?
        .into_iter()
        // What a join was begun with holds a token, no certificate.
        .filter(|name| name.strip_suffix(".conf").is_some() && name != "bootstrap-kubelet.conf")
        .map(|name| format!("/etc/kubernetes/{name}"))
        .collect();
    if expected != Expected::None {
        configs.extend(KUBECONFIGS.map(str::to_owned));
    }
    for path in configs {
        let standing = judge(client_certificate(host, &path), now);
        found.push(Certificate { path, standing });
    }
    Ok(found)
}

/// When the client certificate of a kubeconfig ends; nothing where there is no such file.
fn client_certificate(host: &HostView, path: &str) -> Result<Option<SystemTime>> {
    match kubeconfig::client_certificate(host, path)? {
        ClientCertificate::NoFile => Ok(None),
        ClientCertificate::Ends(end) => Ok(Some(end)),
        ClientCertificate::Another => bail!("it has no client certificate"),
    }
}

fn judge(end: Result<Option<SystemTime>>, now: SystemTime) -> Standing {
    let end = match end {
        Ok(Some(end)) => end,
        Ok(None) => return Standing::Missing,
        Err(cause) => {
            return Standing::Unreadable {
                cannot_tell: format!("{cause:#}"),
            };
        }
    };
    let days = |time: Duration| i64::try_from(time.as_secs() / 86400).unwrap_or(i64::MAX);
    let days_left = match end.duration_since(now) {
        Ok(left) => days(left),
        Err(past) => -days(past.duration()),
    };
    let told = End {
        ends: humantime::format_rfc3339_seconds(end).to_string(),
        days_left,
    };
    if end <= now {
        Standing::Expired(told)
    } else if days_left < SOON {
        Standing::EndsSoon(told)
    } else {
        Standing::Good(told)
    }
}
