//! Where the API servers of a cluster are reached: what kubeadm calls the control plane's endpoint.
//!
//! The load balancer is a real one: Debian's haproxy on this machine, at its own address in the lab's network. It runs as
//! long as somebody works with the cluster, on a configuration of the lab's own.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::lab::MACHINES;
use crate::node::Node;
use crate::sh::{self, Daemon, Sh};

/// The name that only /etc/hosts knows.
pub const NAME: &str = "api.lab.internal";

/// Where an API server, and whoever stands for one, listens.
const PORT: u16 = 6443;

/// haproxy starts at once.
const START_LIMIT: Duration = Duration::from_secs(15);

/// What a cluster has as its endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// The first master's own address.
    #[default]
    FirstMaster,
    /// A name in the masters' /etc/hosts, which leads to the first one.
    Name,
    /// A load balancer's address.
    Balancer,
    /// The own address of the third master, the one that dies in scenarios.
    ThirdMaster,
}

impl Endpoint {
    /// `HOST:PORT`, in a cluster of these masters.
    pub fn place(self, masters: &[Node]) -> Result<String> {
        let first = masters.first().context("a cluster has a master")?;
        let host = match self {
            Self::FirstMaster => first.address().to_owned(),
            Self::Name => NAME.to_owned(),
            Self::Balancer => gateway(first),
            Self::ThirdMaster => self.maker(masters)?.address().to_owned(),
        };
        Ok(format!("{host}:{PORT}"))
    }

    /// The master that `kubeadm init` makes: it waits for an answer at the endpoint, so it must be the one behind it.
    pub fn maker(self, masters: &[Node]) -> Result<&Node> {
        match self {
            Self::ThirdMaster => masters.get(2).context("there is no third master"),
            Self::FirstMaster | Self::Name | Self::Balancer => masters.first().context("none"),
        }
    }

    /// Lets a machine that the lab makes a master by hand know the endpoint's name.
    pub fn tell(self, node: &Node, first: &Node) -> Result<()> {
        if self != Self::Name {
            return Ok(());
        }
        node.run(&format!(
            "grep -qw {NAME} /etc/hosts || echo '{} {NAME}' >>/etc/hosts",
            first.address()
        ))
    }

    /// Starts what else it needs.
    pub fn serve(self, first: &Node) -> Result<Option<Arc<Balancer>>> {
        match self {
            Self::Balancer => Balancer::start(first).map(Arc::new).map(Some),
            Self::FirstMaster | Self::Name | Self::ThirdMaster => Ok(None),
        }
    }
}

/// A load balancer in front of all API servers of the lab. It ends when this is dropped.
#[derive(Debug)]
pub struct Balancer {
    _daemon: Daemon,
}

impl Balancer {
    fn start(first: &Node) -> Result<Self> {
        sh::apt_install(&["haproxy"])?;
        let config = PathBuf::from(format!("/run/{}-haproxy.cfg", first.container()));
        end_stranger(&config)?;
        let place = format!("{}:{PORT}", gateway(first));
        sh::write_atomic(&config, configuration(&place).as_bytes(), 0o600)?;
        let mut daemon = Sh::new("haproxy")
            .args(["-db", "-f"])
            .arg(&config)
            .log("haproxy.log")
            .spawn()?;
        let address: SocketAddr = place.parse().context("reading its address")?;
        let begun = Instant::now();
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            daemon.still_runs()?;
            ensure!(
                begun.elapsed() < START_LIMIT,
                "haproxy does not answer on {place}"
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { _daemon: daemon })
    }
}

/// Ends the load balancer of a lab that was killed: in the foreground haproxy writes no pid file.
fn end_stranger(config: &Path) -> Result<()> {
    for pid in running_with(config)? {
        Sh::new("kill").arg(pid.to_string()).run()?;
    }
    let begun = Instant::now();
    while !running_with(config)?.is_empty() {
        ensure!(
            begun.elapsed() < START_LIMIT,
            "the haproxy of an earlier lab does not end"
        );
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Processes of haproxy with this configuration.
fn running_with(config: &Path) -> Result<Vec<u32>> {
    let marker = config.to_string_lossy();
    let is_ours = |pid: &u32| {
        // Processes end while we look.
        let line = sh::read_text(Path::new(&format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        let mut words = line.split('\0');
        words
            .next()
            .is_some_and(|program| program.ends_with("haproxy"))
            && words.any(|word| word == marker)
    };
    let names = sh::names_in(Path::new("/proc"))?;
    let pids = names.iter().filter_map(|name| name.parse().ok());
    Ok(pids.filter(is_ours).collect())
}

/// Every machine of the lab may be a master; only those whose API server is well get connections.
fn configuration(place: &str) -> String {
    let net = place.rsplit_once('.').map_or("", |(net, _)| net);
    let servers = MACHINES.map(|(name, number)| {
        format!(
            "    server {name} {net}.{number}:{PORT} check check-ssl verify none inter 1s fall 2 rise 1 on-marked-down shutdown-sessions\n"
        )
    });
    format!(
        "global\n    maxconn 1000\n\
         defaults\n    mode tcp\n    timeout connect 3s\n    timeout client 10m\n    timeout server 10m\n\
         frontend api\n    bind {place}\n    default_backend masters\n\
         backend masters\n    option httpchk GET /healthz\n    http-check expect status 200\n{}",
        servers.concat()
    )
}

/// This machine's own address in the network of a node.
fn gateway(node: &Node) -> String {
    let net = node.address().rsplit_once('.').map_or("", |(net, _)| net);
    format!("{net}.1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;

    #[test]
    fn the_endpoint_is_where_the_maker_answers() {
        let lab = Lab::from_env().expect("a lab");
        let masters = [lab.m1(), lab.m2(), lab.m3()];
        let place = |endpoint: Endpoint| endpoint.place(&masters).expect("a place");
        let of = |node: &Node| format!("{}:6443", node.address());
        assert_eq!(place(Endpoint::FirstMaster), of(&masters[0]));
        assert_eq!(place(Endpoint::ThirdMaster), of(&masters[2]));
        assert_eq!(place(Endpoint::Name), "api.lab.internal:6443");
        assert!(place(Endpoint::Balancer).ends_with(".1:6443"));
        let maker = Endpoint::ThirdMaster.maker(&masters).expect("a maker");
        assert_eq!(maker.name(), "m3");
        assert!(Endpoint::ThirdMaster.maker(&masters[..2]).is_err());
    }

    #[test]
    fn the_balancer_knows_every_machine() {
        let text = configuration("10.78.0.1:6443");
        assert!(text.contains("bind 10.78.0.1:6443\n"));
        assert!(text.contains("server m3 10.78.0.13:6443 "));
        assert_eq!(text.matches(" check-ssl ").count(), 4);
    }
}
