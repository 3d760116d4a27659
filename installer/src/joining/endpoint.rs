//! The cluster's endpoint, seen from here.
//!
//! After discovery kubeadm goes on with the server that cluster-info names, not with the address that it was given; so that server must be found and reached from this
//! machine before anything is changed. A name that only /etc/hosts knows (TKE's api.tke.com) gets a line here too: the healthy master's address for the join. Where the
//! masters themselves point the name at 127.0.0.1, the line follows them once this machine's own apiserver is up.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use super::refusals::Refusal;
use crate::control_plane::facts::{ClusterFacts, Endpoint};
use crate::host::HostView;
use crate::host::probe::Probe;

/// How long a connection may take to be made.
const REACH: Duration = Duration::from_secs(5);

/// How the cluster's endpoint is found from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointName {
    /// It is an address.
    Address(IpAddr),
    /// It is a name that this machine resolves by itself, to these addresses.
    Known(Vec<IpAddr>),
    /// It is a name that needs a line in /etc/hosts.
    Name {
        /// The name.
        name: String,
        /// The address for the join.
        bridge: IpAddr,
        /// Addresses that are as good: what the masters themselves use.
        acceptable: Vec<IpAddr>,
        /// The address once this machine is a master, where it is another one.
        finally: Option<IpAddr>,
    },
}

impl EndpointName {
    /// Decides it, from what the endpoint is, what this machine resolves its name to, and what the healthy master does.
    pub fn decide(endpoint: &Endpoint, resolved_here: &[IpAddr], healthy: IpAddr) -> Self {
        if let Ok(address) = endpoint.host.parse() {
            return Self::Address(address);
        }
        let there: Vec<IpAddr> = endpoint
            .resolved_there
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let foreign = there.iter().copied().find(|address| !address.is_loopback());
        let looped = there.iter().copied().find(IpAddr::is_loopback);
        let outside = resolved_here
            .iter()
            .copied()
            .filter(|address| !address.is_loopback())
            .collect::<Vec<_>>();
        // DNS, or a line that somebody wrote: it need not be ours.
        if !outside.is_empty() && looped.is_none() {
            return Self::Known(outside);
        }
        let bridge = foreign.unwrap_or(healthy);
        let acceptable = there
            .into_iter()
            .chain(outside)
            .filter(|address| *address != bridge)
            .collect();
        Self::Name {
            name: endpoint.host.clone(),
            bridge,
            acceptable,
            finally: looped,
        }
    }

    /// The addresses that are used for the join.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Address(address) => vec![*address],
            Self::Known(addresses) => addresses.clone(),
            Self::Name { bridge, .. } => vec![*bridge],
        }
    }
}

/// What this machine's own resolver has for the endpoint's name; nothing where it is an address or unknown.
pub fn resolve_here(host: &HostView, endpoint: &Endpoint) -> Result<Vec<IpAddr>> {
    if endpoint.host.parse::<IpAddr>().is_ok() {
        return Ok(Vec::new());
    }
    // A resolver that is cut off from its servers takes long to say so, and means the same as one that does not know the name.
    let Ok(output) = host.probe(&Probe::addresses(&endpoint.host)) else {
        return Ok(Vec::new());
    };
    let mut found: Vec<IpAddr> = output
        .text()
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Connects to the endpoint, as kubeadm will.
pub fn reach(cluster: &ClusterFacts, name: &EndpointName) -> Option<Refusal> {
    let endpoint = &cluster.endpoint;
    let mut failures = Vec::new();
    for address in name.addresses() {
        match TcpStream::connect_timeout(&SocketAddr::new(address, endpoint.port), REACH) {
            Ok(_) => return None,
            Err(cause) => failures.push(format!("{address} port {}: {cause}", endpoint.port)),
        }
    }
    Some(Refusal {
        cause: format!("the cluster's endpoint {}:{} is not reached from here ({})", endpoint.host, endpoint.port, failures.join("; ")),
        remedy: "kubeadm goes on with that endpoint (server in the ConfigMap cluster-info in kube-public). Open the way to it; if it was the dead master's own address, give that address to a healthy master for the length of the join, or point the endpoint's name at one".to_owned(),
    })
}

/// Connects to what a join needs besides the endpoint: the healthy master's apiserver, and the ports for clients and peers of every etcd member that answers. A port that a firewall drops
/// would else be found out after the member was added.
pub fn reach_members(cluster: &ClusterFacts, discovery: &str) -> Vec<Refusal> {
    let mut wanted: Vec<(String, String)> = vec![(
        discovery.to_owned(),
        "the healthy master's apiserver".to_owned(),
    )];
    // A member that does not answer the cluster itself is refused as such, with a better remedy than a firewall's.
    for member in cluster.members.iter().filter(|member| member.votes()) {
        for url in member.client_urls.iter().chain(&member.peer_urls) {
            let place = url
                .split_once("://")
                .map_or(url.as_str(), |(_, rest)| rest)
                .trim_end_matches('/');
            wanted.push((place.to_owned(), format!("etcd of {}", member.name)));
        }
    }
    wanted.sort();
    wanted.dedup();
    let attempt = |(place, what): &(String, String)| {
        let address: SocketAddr = place.parse().ok()?;
        let cause = TcpStream::connect_timeout(&address, REACH).err()?;
        Some(Refusal {
            cause: format!("{place} ({what}) is not reached from here: {cause}"),
            remedy: "Masters need each other's ports 6443, 2379 and 2380 open, both ways: open them in the firewall between".to_owned(),
        })
    };
    std::thread::scope(|scope| {
        let attempts: Vec<_> = wanted
            .iter()
            .map(|place| scope.spawn(move || attempt(place)))
            .collect();
        attempts
            .into_iter()
            .filter_map(|attempt| attempt.join().ok().flatten())
            .collect()
    })
}

/// The healthy master's own address in the cluster.
pub fn healthy_address(cluster: &ClusterFacts) -> Result<IpAddr> {
    let addresses = &cluster.healthy.status.addresses;
    let internal = addresses
        .iter()
        .find(|address| address.kind == "InternalIP");
    let name = &cluster.healthy.metadata.name;
    internal
        .with_context(|| format!("node {name} has no InternalIP"))?
        .address
        .parse()
        .with_context(|| format!("the address of node {name} is not understood"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn endpoint(host: &str, there: &[&str]) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            port: 6443,
            resolved_there: there.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    #[test]
    fn an_address_is_used_as_it_is() {
        let name = EndpointName::decide(&endpoint("10.0.0.100", &[]), &[], ip("10.0.0.11"));
        assert_eq!(name.addresses(), [ip("10.0.0.100")]);
    }

    #[test]
    fn a_name_in_dns_needs_no_line() {
        let name = EndpointName::decide(
            &endpoint("k8s.corp", &["10.0.0.100"]),
            &[ip("10.0.0.100")],
            ip("10.0.0.11"),
        );
        assert_eq!(name, EndpointName::Known(vec![ip("10.0.0.100")]));
    }

    #[test]
    fn a_name_that_only_the_masters_know_gets_their_address() {
        let name =
            EndpointName::decide(&endpoint("k8s.lab", &["10.0.0.100"]), &[], ip("10.0.0.11"));
        assert_eq!(
            name,
            EndpointName::Name {
                name: "k8s.lab".to_owned(),
                bridge: ip("10.0.0.100"),
                acceptable: vec![],
                finally: None
            }
        );
    }

    #[test]
    fn a_name_that_every_master_points_at_itself_leads_to_the_healthy_one_first() {
        let decided = EndpointName::decide(
            &endpoint("api.tke.com", &["127.0.0.1"]),
            &[],
            ip("10.0.0.11"),
        );
        let expected = EndpointName::Name {
            name: "api.tke.com".to_owned(),
            bridge: ip("10.0.0.11"),
            acceptable: vec![ip("127.0.0.1")],
            finally: Some(ip("127.0.0.1")),
        };
        assert_eq!(decided, expected);
        let again = EndpointName::decide(
            &endpoint("api.tke.com", &["127.0.0.1"]),
            &[ip("127.0.0.1")],
            ip("10.0.0.11"),
        );
        assert_eq!(again, expected, "the same once this machine has joined");
    }
}
