//! What the cluster announces of itself in the ConfigMap cluster-info: the endpoint that kubeadm goes on with after discovery, and the CA by which a machine that joins trusts it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::kubeadm::ClusterConfiguration;
use super::objects::Data;
use super::{ClusterView, credentials};
use crate::host::command::{CommandError, Output};
use crate::host::probe::Probe;

/// What kubeadm's discovery is answered from.
pub(super) const CLUSTER_INFO: [&str; 4] =
    ["configmap", "cluster-info", "--namespace", "kube-public"];

/// The address that kubeadm goes on with after discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The addresses that the healthy master's own resolver has for the name; empty where it is an address.
    pub resolved_there: Vec<String>,
}

impl Endpoint {
    /// `HOST:PORT`.
    pub fn place(&self) -> String {
        match self.host.parse() {
            Ok(address) => SocketAddr::new(address, self.port).to_string(),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Where the cluster's CA lies on the healthy master.
pub(super) fn ca_path(config: &ClusterConfiguration) -> String {
    format!("{}/ca.crt", config.certificates_dir)
}

/// A cluster as cluster-info announces it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Announced {
    certificate_authority_data: String,
    server: String,
}

fn announced(view: &ClusterView) -> Result<Announced> {
    #[derive(Deserialize)]
    struct KubeConfig {
        clusters: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        cluster: Announced,
    }
    let info: Data = view.get(&CLUSTER_INFO)?;
    let text = info
        .data
        .get("kubeconfig")
        .context("the ConfigMap cluster-info has no kubeconfig")?;
    let kubeconfig: KubeConfig =
        serde_saphyr::from_str(text).context("the ConfigMap cluster-info does not parse")?;
    let first = kubeconfig.clusters.into_iter().next();
    Ok(first
        .context("the ConfigMap cluster-info names no cluster")?
        .cluster)
}

/// Where the cluster's apiservers are reached, as it announces it: `https://HOST:PORT`.
pub(crate) fn announced_server(view: &ClusterView) -> Result<String> {
    Ok(announced(view)?.server)
}

/// The CA certificate, its key's hash, and the server in cluster-info. The CA is read on both sides and must be the same one.
pub(super) fn authority(
    view: &ClusterView,
    config: &ClusterConfiguration,
) -> Result<(Vec<u8>, String, String, usize)> {
    let path = ca_path(config);
    let certificate = view
        .file(&path)?
        .with_context(|| format!("{} has no CA certificate at {path}", view.address()))?;
    let hash = credentials::ca_hash(&certificate)
        .with_context(|| format!("cannot read {path} of {}", view.address()))?;
    let server = announced(view)?;
    let there = credentials::decode_base64(&server.certificate_authority_data)
        .context("the CA certificate in cluster-info is not base64")?;
    let there =
        credentials::ca_hashes(&there).context("cannot read the CA certificate in cluster-info")?;
    ensure!(
        there.contains(&hash),
        "the CA in cluster-info ({}) is not the one on {} ({hash}): a machine that joins could not trust the cluster. Repair the ConfigMap cluster-info in kube-public first",
        there.join(", "),
        view.address()
    );
    Ok((certificate, hash, server.server, there.len()))
}

/// Where kubeadm goes on after discovery, and what the healthy master's resolver has for it.
pub(super) fn endpoint(view: &ClusterView, server: &str) -> Result<Endpoint> {
    let unclear = || format!("the server in cluster-info is not understood: {server}");
    let rest = server
        .strip_prefix("https://")
        .with_context(unclear)?
        .trim_end_matches('/');
    let (host, port) = host_and_port(rest, 443).with_context(unclear)?;
    let mut resolved_there = BTreeSet::new();
    if host.parse::<IpAddr>().is_err() {
        let output = match view.machine().probe(&Probe::addresses(&host)) {
            // A DNS that does not answer finds nothing either.
            Err(CommandError::Silent { .. } | CommandError::Timeout { .. }) => Output::default(),
            answer => answer?,
        };
        resolved_there = output
            .text()
            .lines()
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect();
    }
    Ok(Endpoint {
        host,
        port,
        resolved_there: resolved_there.into_iter().collect(),
    })
}

/// The host, without brackets, and the port of `HOST`, `HOST:PORT`, an IPv6 address or `[ADDRESS]:PORT`; `usual` is the port where none is given. Nothing where what is given is no port.
pub(crate) fn host_and_port(place: &str, usual: u16) -> Option<(String, u16)> {
    let bare = |host: &str| host.trim_matches(['[', ']']).to_owned();
    match place.rsplit_once(':') {
        Some((host, port)) if bare(place).parse::<IpAddr>().is_err() => {
            Some((bare(host), port.parse().ok()?))
        }
        _ => Some((bare(place), usual)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_host_with_or_without_a_port() {
        for (place, host, port) in [
            ("lb.example", "lb.example", 443),
            ("lb.example:6443", "lb.example", 6443),
            ("10.0.0.9", "10.0.0.9", 443),
            ("[fd00::9]", "fd00::9", 443),
            ("fd00::9", "fd00::9", 443),
            ("[fd00::9]:6443", "fd00::9", 6443),
        ] {
            assert_eq!(host_and_port(place, 443), Some((host.to_owned(), port)));
        }
        for place in ["lb.example:", "lb.example:x", "lb.example:70000"] {
            assert_eq!(host_and_port(place, 443), None, "{place}");
        }
    }
}
