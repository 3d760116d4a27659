//! Names whose addresses do not answer, or are not found at once.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kpot::fetch::Network;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, socket,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::support::raw::{Raw, answer};
use super::{HASTY, client, get, network, refused};

/// Fails so often, then knows these addresses for every name.
struct Names {
    failures: AtomicUsize,
    addresses: Vec<SocketAddr>,
}

impl Resolve for Names {
    fn resolve(&self, _: Name) -> Resolving {
        let left = self.failures.load(Ordering::Relaxed);
        self.failures
            .store(left.saturating_sub(1), Ordering::Relaxed);
        let found = if left > 0 {
            Err("Temporary failure in name resolution".into())
        } else {
            Ok(Box::new(self.addresses.clone().into_iter()) as Addrs)
        };
        Box::pin(std::future::ready(found))
    }
}

fn resolving(failures: usize, addresses: &[SocketAddr]) -> Network {
    Network {
        resolver: Some(Arc::new(Names {
            failures: AtomicUsize::new(failures),
            addresses: addresses.to_vec(),
        })),
        ..network()
    }
}

fn hello() -> Raw {
    Raw::start(|_, _, wire| answer(wire, "200 OK", "", "hello"))
}

#[test]
fn a_name_that_is_not_found_once_is_asked_for_again() {
    let server = hello();
    let address = server.address().parse().unwrap();
    let url = format!("http://kpot.test:{}/", server.port());
    assert_eq!(
        get(&client(resolving(1, &[address])), &url, 10).unwrap(),
        b"hello"
    );
    let never = client(resolving(9, &[address]));
    refused(
        get(&never, &url, 10),
        &url,
        &["name resolution", "tried 3 times"],
    );
}

#[test]
fn a_name_that_nobody_knows_is_told() {
    let url = "http://kpot-test.invalid/";
    refused(
        get(&client(network()), url, 10),
        url,
        &["dns error", "tried 3 times"],
    );
}

/// A port of ::1 where connections hang: a socket whose queue is full, so that the kernel answers nothing.
fn hanging(port: u16) -> Option<(std::os::fd::OwnedFd, Vec<TcpStream>)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let queue = socket(AddressFamily::Inet6, SockType::Stream, flags, None).ok()?;
    let address = std::net::SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0);
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&queue),
        &SockaddrIn6::from(address),
    )
    .ok()?;
    listen(&queue, Backlog::new(1).unwrap()).ok()?;
    let mut waiting = Vec::new();
    for _ in 0..16 {
        match TcpStream::connect_timeout(&address.into(), Duration::from_millis(200)) {
            Ok(stream) => waiting.push(stream),
            Err(_) => return Some((queue, waiting)),
        }
    }
    None
}

#[test]
fn an_address_that_hangs_does_not_hide_one_that_answers() {
    let server = hello();
    // Skipped it would seem to hold.
    let _hanging = hanging(server.port()).expect(
        "connections to [::1] cannot be made to hang here: this test needs a machine with IPv6, if only to itself (sysctl net.ipv6.conf.lo.disable_ipv6=0)",
    );
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), server.port());
    let v4 = server.address().parse().unwrap();
    let url = format!("http://kpot.test:{}/", server.port());
    let started = Instant::now();
    assert_eq!(
        get(&client(resolving(0, &[v6, v4])), &url, 10).unwrap(),
        b"hello"
    );
    let (took, limit) = (started.elapsed(), network().policy.connect);
    assert!(took < limit, "{took:?}: it waited for the one that hangs");
    let alone = client(Network {
        policy: HASTY,
        ..resolving(0, &[v6])
    });
    refused(get(&alone, &url, 10), &url, &["tried 3 times"]);
}

#[test]
fn a_port_where_nobody_listens_is_told() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    refused(
        get(&client(network()), &url, 10),
        &url,
        &["refused", "tried 3 times"],
    );
}
