//! Addresses and ports of this machine.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use anyhow::{Context, Result};

use crate::host::HostView;

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The network interface.
    pub name: String,
    /// One of its addresses.
    pub address: IpAddr,
}

/// Every address of this machine, loopback left out.
pub(super) fn interfaces() -> Result<Vec<Interface>> {
    let list = nix::ifaddrs::getifaddrs().context("cannot list the addresses of this machine")?;
    Ok(list
        .filter_map(|entry| {
            let address = entry.address?;
            let address = address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            (!address.is_loopback()).then_some(Interface {
                name: entry.interface_name,
                address,
            })
        })
        .collect())
}

/// The address that this machine's packets to `target` carry; nothing where it has no route. Connecting a datagram socket only asks the routing table: nothing is
/// sent.
pub(super) fn source_address(target: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((target, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// The TCP ports on which something listens, on whatever address.
pub(super) fn listening(host: &HostView) -> Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = host.text(path)?.unwrap_or_default();
        ports.extend(table.lines().skip(1).filter_map(port_of_listener));
    }
    Ok(ports)
}

/// The port of a line `sl local_address rem_address st …` whose state is 0A, LISTEN.
fn port_of_listener(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let (_, port) = local.rsplit_once(':')?;
    (state == "0A").then(|| u16::from_str_radix(port, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_count() {
        let line = |state: &str| {
            format!(
                "   0: 00000000:192B 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 19 1"
            )
        };
        assert_eq!(port_of_listener(&line("0A")), Some(6443));
        assert_eq!(port_of_listener(&line("01")), None);
        assert_eq!(port_of_listener(""), None);
    }

    #[test]
    fn the_way_to_this_machine_itself_is_known() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(source_address(here), Some(here));
    }
}
