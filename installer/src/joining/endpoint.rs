//! The cluster's endpoint, seen from here.
//!
//! After discovery kubeadm goes on with the server that cluster-info names, not with the address that it was given; so that server must be found and reached from this
//! machine before anything is changed. A name that only /etc/hosts knows (TKE's api.tke.com) gets a line here too: the healthy master's address for the join. Where the
//! masters themselves point the name at 127.0.0.1, the line follows them once this machine's own apiserver is up.
//!
//! An endpoint that is this machine's own address is bridged ([`super::bridge`]). One that is dead, and somebody else's, is refused: even a join that got past it would leave
//! a kubelet that finds no apiserver.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result};

use super::bridge::Bridge;
use super::refusals::Refusal;
use crate::control_plane::announced::{Endpoint, host_and_port};
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::kubeadm::EDIT_RECORD;
use crate::control_plane::{ADMIN_CONF, ClusterView};
use crate::host::HostView;
use crate::host::probe::Probe;

/// What tries to get an answer at an address, of a server that is called so: [`super::knock::knock`], or in tests a network that is only played.
pub type Knock<'a> = dyn Fn(&SocketAddr, &str) -> io::Result<()> + Sync + 'a;

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
    ///
    /// A loopback address is right on a machine that is a master, and wrong before: an old line in /etc/hosts would lead kubeadm to an apiserver that does not run.
    pub fn decide(here: &Resolved<'_>, healthy: IpAddr) -> Self {
        let endpoint = here.endpoint;
        if let Ok(address) = endpoint.host.parse() {
            return Self::Address(address);
        }
        let there: Vec<IpAddr> = endpoint
            .resolved_there
            .iter()
            .filter_map(|text| text.parse().ok())
            // A machine often knows its own name by a loopback address: that is no word on where masters find the name.
            .filter(|address: &IpAddr| !(address.is_loopback() && here.is_healthy_name))
            .collect();
        let foreign = there.iter().copied().find(|address| !address.is_loopback());
        let looped = there.iter().copied().find(IpAddr::is_loopback);
        let outside = here
            .addresses
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
            .filter(|address| here.is_master || !address.is_loopback())
            .chain(
                outside
                    .into_iter()
                    .filter(|address| (here.answers)(*address)),
            )
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

/// What a decision about the endpoint's name is made from.
pub struct Resolved<'a> {
    /// The endpoint, with what the healthy master resolves it to.
    pub endpoint: &'a Endpoint,
    /// What this machine resolves it to.
    pub addresses: &'a [IpAddr],
    /// Whether it is the healthy master's own name.
    pub is_healthy_name: bool,
    /// Whether this machine is a master, whose own apiserver may be meant.
    pub is_master: bool,
    /// Whether something answers at an address, on the endpoint's port.
    pub answers: &'a dyn Fn(IpAddr) -> bool,
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

/// Whether the endpoint answers here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It does.
    Answers,
    /// It is this machine's own address, at which nothing answers before the join; this does meanwhile.
    Ours(Bridge),
    /// It does not; what was tried.
    Nobody(Vec<String>),
}

/// Connects to the endpoint, as kubeadm will. `own` are this machine's addresses: what answers there now is no part of the cluster any more when kubeadm asks.
pub fn reach(
    cluster: &ClusterFacts,
    name: &EndpointName,
    own: &[IpAddr],
    healthy: IpAddr,
    knock: &Knock<'_>,
) -> Reached {
    let Endpoint { host, port, .. } = &cluster.endpoint;
    let of_own = ", which is bridged for IPv4 and the apiserver's own port only";
    let Err(failures) = try_each(&name.addresses(), (host, *port), (own, of_own), knock) else {
        return Reached::Answers;
    };
    bridge(cluster, name, own, healthy).map_or(Reached::Nobody(failures), Reached::Ours)
}

/// Connects to one address after the other until one answers; else what was tried. `own` are this machine's addresses, which are not tried, and what to say of them besides.
fn try_each(
    addresses: &[IpAddr],
    (host, port): (&str, u16),
    (own, of_own): (&[IpAddr], &str),
    knock: &Knock<'_>,
) -> Result<(), Vec<String>> {
    let mut failures = Vec::new();
    for address in addresses {
        if own.contains(address) {
            failures.push(format!("{address} is this machine's own{of_own}"));
            continue;
        }
        match knock(&SocketAddr::new(*address, port), host) {
            Ok(()) => return Ok(()),
            Err(cause) => failures.push(format!("{address} port {port}: {cause}")),
        }
    }
    Err(failures)
}

/// Who answers for the endpoint where it is an address of this machine and a port at which its apiserver will listen. With IPv4 only: what the packet filter does there
/// for IPv6 depends on more than this program sets.
pub fn bridge(
    cluster: &ClusterFacts,
    name: &EndpointName,
    own: &[IpAddr],
    healthy: IpAddr,
) -> Option<Bridge> {
    let port = cluster.apiserver_port;
    let IpAddr::V4(healthy) = healthy else {
        return None;
    };
    let mut addresses = name.addresses().into_iter();
    let ours = addresses.find_map(|address| match address {
        IpAddr::V4(v4) if own.contains(&address) => Some(v4),
        _ => None,
    })?;
    (cluster.endpoint.port == port).then(|| Bridge {
        endpoint: SocketAddrV4::new(ours, port),
        healthy: SocketAddrV4::new(healthy, port),
    })
}

/// What to say of an endpoint at which nobody answers here: whether it answers the healthy master tells a firewall from an endpoint that is dead.
pub fn unreached(
    view: &ClusterView,
    cluster: &ClusterFacts,
    name: &EndpointName,
    own: &[IpAddr],
    failures: &[String],
) -> Refusal {
    let Endpoint { host, port, .. } = &cluster.endpoint;
    let (place, tried) = (cluster.endpoint.place(), failures.join("; "));
    if port != &cluster.apiserver_port
        && let Some(address) = name
            .addresses()
            .iter()
            .find(|address| own.contains(address))
    {
        return Refusal {
            cause: format!("the cluster's endpoint {place} is an address of this machine ({address}) at the moment, and its port is not the apiserver's: kubeadm would ask this machine before anything answers here"),
            remedy: "Let the address move to a master that is well first, and run this again: as a rule systemctl stop keepalived, or move its manifest out of /etc/kubernetes/manifests".to_owned(),
        };
    }
    if view.serves(&format!("https://{place}")) {
        return Refusal {
            cause: format!("the cluster's endpoint {place} is not reached from here ({tried}), and it answers {}", view.address()),
            remedy: "kubeadm goes on with that endpoint (server in the ConfigMap cluster-info in kube-public): open the way to it, in the firewall between".to_owned(),
        };
    }
    let cause = format!(
        "the cluster's endpoint {place} answers nobody, neither this machine ({tried}) nor {}: as a rule it was the dead master's own address. As long as it is dead, the kubelets find no apiserver either",
        view.address()
    );
    let healthy = view.address();
    let remedy = match name {
        EndpointName::Address(address) => format!(
            "Bring it back, in one of these ways, and run this again:\n\
             - if the machine with that address comes back: there, kpot-install rebirth-master --healthy {healthy}, which answers for the endpoint while it joins\n\
             - if it is gone for good and stays off: give its address to this machine beside its own, ip address add {address}/32 dev DEVICE, and write it into the network configuration, so \
             that it outlasts a reboot. This program answers for it while it joins, and this machine's apiserver afterwards\n\
             - give it to a load balancer; all masters' certificates are valid for it"
        ),
        EndpointName::Known(_) | EndpointName::Name { .. } => format!(
            "Point the name {host} at a master that is well, wherever its address stands: in DNS, or in /etc/hosts of every node (port {port}); then run this again. If the machine that it leads to \
             comes back: there, kpot-install rebirth-master --healthy {healthy}"
        ),
    };
    Refusal { cause, remedy }
}

/// Refuses where kubeadm on the healthy master, which makes the token and hands the certificates over, would find no API server by its admin.conf: what it resolves, and what a load
/// balancer does for a master behind it, may differ from here.
pub fn astray(view: &ClusterView) -> Option<Refusal> {
    let why = view.astray()?;
    let healthy = view.address();
    Some(Refusal {
        cause: format!(
            "{healthy} does not reach the cluster's endpoint by its own {ADMIN_CONF}, by which kubeadm there makes a token: {why}"
        ),
        remedy: format!(
            "See there: kubectl --kubeconfig {ADMIN_CONF} get --raw /healthz; grep server: {ADMIN_CONF}. What that leads to (DNS, /etc/hosts, a load balancer that lets no backend of its own in) must answer {healthy}, too"
        ),
    })
}

/// Refuses where kubeadm's record of the cluster has another endpoint than cluster-info, and it is not reached from here: kubeadm writes the one of the record into this machine's admin.conf,
/// and goes on with it once the kubelet runs.
///
/// # Errors
/// This machine's resolver cannot be asked.
pub fn recorded(
    host: &HostView,
    cluster: &ClusterFacts,
    name: &EndpointName,
    own: &[IpAddr],
    knock: &Knock<'_>,
) -> Result<Option<Refusal>> {
    let announced = &cluster.endpoint;
    let Some(recorded) = recorded_endpoint(cluster) else {
        return Ok(None);
    };
    let is_same_host = recorded.host.eq_ignore_ascii_case(&announced.host);
    if is_same_host && recorded.port == announced.port {
        return Ok(None);
    }
    let addresses = match recorded.host.parse() {
        Ok(address) => vec![address],
        Err(_) if is_same_host => name.addresses(),
        Err(_) => resolve_here(host, &recorded)?,
    };
    let place = (recorded.host.as_str(), recorded.port);
    let Err(mut tried) = try_each(&addresses, place, (own, ""), knock) else {
        return Ok(None);
    };
    if tried.is_empty() {
        tried.push("this machine does not resolve the name".to_owned());
    }
    Ok(Some(Refusal {
        cause: format!(
            "kubeadm's record of the cluster has another endpoint ({}, controlPlaneEndpoint) than the ConfigMap cluster-info ({}), and it is not reached from here: {}. kubeadm writes that one into this machine's {ADMIN_CONF} and goes on with it",
            recorded.place(),
            announced.place(),
            tried.join("; ")
        ),
        remedy: format!(
            "Make both the same, and one that answers here: controlPlaneEndpoint by {EDIT_RECORD}; server by kubectl --namespace kube-public edit configmap cluster-info"
        ),
    }))
}

/// The endpoint in kubeadm's record; nothing where it has none, or one that is not understood. Without a port it is that of the API servers, as kubeadm takes it.
fn recorded_endpoint(cluster: &ClusterFacts) -> Option<Endpoint> {
    let text = cluster.config.control_plane_endpoint.as_str();
    let (host, port) = host_and_port(text, cluster.apiserver_port)?;
    (!host.is_empty()).then(|| Endpoint {
        host,
        port,
        resolved_there: Vec::new(),
    })
}

/// Connects to what a join needs besides the endpoint: the healthy master's apiserver, and the ports for clients and peers of every etcd member that answers. A port that a firewall drops
/// would else be found out after the member was added.
pub fn reach_members(cluster: &ClusterFacts, discovery: &str, knock: &Knock<'_>) -> Vec<Refusal> {
    let mut wanted: Vec<(String, String)> = vec![(
        discovery.to_owned(),
        "the healthy master's apiserver".to_owned(),
    )];
    // A member that does not answer the cluster itself is refused as such, with a better remedy than a firewall's.
    for member in cluster.members.iter().filter(|member| member.votes()) {
        for url in member.client_urls.iter().chain(&member.peer_urls) {
            wanted.push((place_in(url), format!("etcd of {}", member.name)));
        }
    }
    wanted.sort();
    wanted.dedup();
    let mut all = silent(&wanted, knock);
    let external = cluster.config.etcd.external.iter();
    let external: Vec<(String, String)> = external
        .flat_map(|external| &external.endpoints)
        .map(|url| (place_in(url), "the external etcd".to_owned()))
        .filter(|(place, _)| place.parse::<SocketAddr>().is_ok())
        .collect();
    let lost = silent(&external, knock);
    // An API server makes do with one that answers, and one that is down may be known.
    if lost.len() == external.len() {
        all.extend(lost);
    }
    all
}

/// Which of these places do not answer from here; one that is no address is not tried.
fn silent(wanted: &[(String, String)], knock: &Knock<'_>) -> Vec<Refusal> {
    let attempt = |(place, what): &(String, String)| {
        let address: SocketAddr = place.parse().ok()?;
        let cause = knock(&address, "").err()?;
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

/// `HOST:PORT` of a URL.
fn place_in(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/').to_owned()
}

/// The healthy master's own address in the cluster: the one that its API server advertises.
pub fn healthy_address(cluster: &ClusterFacts) -> Result<IpAddr> {
    if let Some(advertised) = cluster.advertised {
        return Ok(advertised);
    }
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
    use std::sync::Arc;

    use super::super::fixtures;
    use super::*;
    use crate::host::scripted::Scripted;
    use crate::steps::testing::Machine;

    #[test]
    fn an_endpoint_of_the_record_alone_must_be_reached_too() {
        let machine = Machine::new();
        let host = machine.view(Scripted::new().with(|cmd, _| {
            let resolved = match cmd.to_string() {
                text if text.contains("lb.example") => "10.0.0.9 STREAM lb.example\n",
                _ => "",
            };
            Some(crate::host::command::Output {
                status: i32::from(resolved.is_empty()) * 2,
                stdout: resolved.as_bytes().to_vec(),
                ..Default::default()
            })
        }));
        let own: Vec<IpAddr> = vec!["10.0.0.21".parse().unwrap()];
        let name = EndpointName::Address("10.0.0.11".parse().unwrap());
        let asked = |text: &str, answers: &[&str]| {
            let mut cluster = fixtures::cluster();
            cluster.config.control_plane_endpoint = text.to_owned();
            let answers: Vec<SocketAddr> =
                answers.iter().map(|place| place.parse().unwrap()).collect();
            let knock = |place: &SocketAddr, _: &str| {
                let is_there = answers.contains(place);
                is_there
                    .then_some(())
                    .ok_or_else(|| io::Error::other("no route"))
            };
            let refusal = recorded(&host, &cluster, &name, &own, &knock).unwrap();
            refusal.map(|refusal| refusal.cause)
        };
        for same in ["10.0.0.11:6443", "10.0.0.11", ""] {
            assert_eq!(asked(same, &[]), None, "{same}");
        }
        assert_eq!(asked("lb.example", &["10.0.0.9:6443"]), None);
        assert_eq!(asked("[fd00::9]:8443", &["[fd00::9]:8443"]), None);
        assert_eq!(asked("fd00::9", &["[fd00::9]:6443"]), None);
        for (text, word) in [
            ("lb.example:443", "10.0.0.9 port 443: no route"),
            ("unknown.example", "does not resolve"),
            ("10.0.0.13:6443", "no route"),
            ("10.0.0.21:6443", "this machine's own"),
        ] {
            let told = asked(text, &["10.0.0.21:6443", "10.0.0.9:6443"]).expect(text);
            assert!(told.contains(word), "{told}");
        }
    }

    #[test]
    fn the_healthy_master_is_where_its_api_server_says_and_else_where_its_node_is() {
        let mut cluster = fixtures::cluster();
        assert_eq!(healthy_address(&cluster).unwrap(), ip("10.0.0.11"));
        cluster.advertised = Some(ip("192.168.7.11"));
        assert_eq!(healthy_address(&cluster).unwrap(), ip("192.168.7.11"));
    }

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

    /// What a stranger decides, whom everything answers.
    fn decide(endpoint: &Endpoint, here: &[IpAddr], healthy: IpAddr) -> EndpointName {
        let resolved = Resolved {
            endpoint,
            addresses: here,
            is_healthy_name: false,
            is_master: false,
            answers: &|_| true,
        };
        EndpointName::decide(&resolved, healthy)
    }

    #[test]
    fn an_address_is_used_as_it_is() {
        let name = decide(&endpoint("10.0.0.100", &[]), &[], ip("10.0.0.11"));
        assert_eq!(name.addresses(), [ip("10.0.0.100")]);
    }

    fn of(endpoint: Endpoint) -> ClusterFacts {
        ClusterFacts {
            endpoint,
            ..fixtures::cluster()
        }
    }

    fn nobody(_: &SocketAddr, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::TimedOut.into())
    }

    #[test]
    fn an_endpoint_that_is_this_machines_own_address_is_bridged() {
        let own = [ip("10.0.0.99"), ip("10.0.0.13")];
        let healthy = ip("10.0.0.11");
        let cluster = of(endpoint("10.0.0.13", &[]));
        let name = decide(&cluster.endpoint, &[], healthy);
        let Reached::Ours(bridge) = reach(&cluster, &name, &own, healthy, &nobody) else {
            panic!("it is ours")
        };
        assert_eq!(bridge.endpoint.to_string(), "10.0.0.13:6443");
        assert_eq!(bridge.healthy.to_string(), "10.0.0.11:6443");
        let named = of(endpoint("api.lab", &["10.0.0.13"]));
        let name = decide(&named.endpoint, &[], healthy);
        assert!(
            matches!(
                reach(&named, &name, &own, healthy, &nobody),
                Reached::Ours(_)
            ),
            "by its name, too"
        );
        let balancer = of(Endpoint {
            port: 8443,
            ..endpoint("10.0.0.13", &[])
        });
        let name = decide(&balancer.endpoint, &[], healthy);
        assert!(
            matches!(
                reach(&balancer, &name, &own, healthy, &nobody),
                Reached::Nobody(_)
            ),
            "no apiserver will listen there"
        );
    }

    #[test]
    fn a_dead_endpoint_is_told_from_a_closed_firewall() {
        let cluster = of(endpoint("10.0.0.13", &[]));
        let name = EndpointName::Address(ip("10.0.0.13"));
        let said = |answer: (i32, &str)| {
            let asked = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 20s --request-timeout 5s --server https://10.0.0.13:6443 get --raw /healthz";
            let view = ClusterView::new(
                Arc::new(Scripted::new().on(asked, answer.0, answer.1)),
                "10.0.0.11",
            );
            unreached(&view, &cluster, &name, &[], &["timed out".to_owned()])
        };
        assert!(said((0, "ok")).remedy.contains("firewall"));
        let dead = said((1, "no route to host"));
        assert!(dead.cause.contains("answers nobody") && dead.cause.contains("timed out"));
        assert!(dead.remedy.contains("ip address add 10.0.0.13/32"));
    }

    #[test]
    fn a_name_in_dns_needs_no_line() {
        let name = decide(
            &endpoint("k8s.corp", &["10.0.0.100"]),
            &[ip("10.0.0.100")],
            ip("10.0.0.11"),
        );
        assert_eq!(name, EndpointName::Known(vec![ip("10.0.0.100")]));
    }

    #[test]
    fn a_name_that_only_the_masters_know_gets_their_address() {
        let name = decide(&endpoint("k8s.lab", &["10.0.0.100"]), &[], ip("10.0.0.11"));
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
        let (tke, own, healthy) = (
            endpoint("api.tke.com", &["127.0.0.1"]),
            ip("127.0.0.1"),
            ip("10.0.0.11"),
        );
        let expected = |acceptable: &[IpAddr]| EndpointName::Name {
            name: "api.tke.com".to_owned(),
            bridge: healthy,
            acceptable: acceptable.to_vec(),
            finally: Some(own),
        };
        assert_eq!(decide(&tke, &[], healthy), expected(&[]));
        let old_line = decide(&tke, &[own], healthy);
        assert_eq!(old_line, expected(&[]), "no apiserver runs here any more");
        let (alive, dead) = (ip("10.0.0.12"), ip("10.0.0.13"));
        for (is_master, acceptable) in [(false, &[alive][..]), (true, &[own, alive])] {
            let resolved = Resolved {
                endpoint: &tke,
                addresses: &[own, alive, dead],
                is_healthy_name: false,
                is_master,
                answers: &|address| address == alive,
            };
            let decided = EndpointName::decide(&resolved, healthy);
            assert_eq!(decided, expected(acceptable));
        }
    }

    #[test]
    fn what_the_healthy_master_calls_itself_is_no_word_for_others() {
        let named = endpoint("m1", &["127.0.1.1"]);
        let decide = |addresses: &[IpAddr]| {
            let resolved = Resolved {
                endpoint: &named,
                addresses,
                is_healthy_name: true,
                is_master: false,
                answers: &|_| true,
            };
            EndpointName::decide(&resolved, ip("10.0.0.11"))
        };
        assert_eq!(
            decide(&[ip("10.0.0.11")]),
            EndpointName::Known(vec![ip("10.0.0.11")])
        );
        assert_eq!(
            decide(&[]),
            EndpointName::Name {
                name: "m1".to_owned(),
                bridge: ip("10.0.0.11"),
                acceptable: vec![],
                finally: None
            }
        );
    }
}
