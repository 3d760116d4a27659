//! The endpoint, where it is this machine's own address: for the length of the join a healthy master's API server answers for it.
//!
//! A cluster made without a load balancer has its first master's own address as its endpoint. When that master died and comes back, kubeadm asks this machine for an
//! API server that it is only about to make; and so do the other nodes' kubelets, and up to 1.19.0 their controller managers, without which no join comes to its end.
//! Rules of the packet filter lead every new connection to the endpoint, from here and from other machines, to the healthy master. Its certificate is valid for the
//! endpoint, as every master's is. Nothing is changed on any other machine.
//!
//! The rules are in the kernel's memory only, in chains of their own, and are found by those whoever made them: a run that was killed, with another healthy master.
//! They outlive this program like the kubeadm that needs them does. They go as soon as this machine's own API server answers, when the join fails, in the next run,
//! by a rollback, or with a reboot.

use std::cell::Cell;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Joining;
use crate::control_plane::controllers;
use crate::host::command::Cmd;
use crate::host::probe::Probe;
use crate::host::{Host, HostView};
use crate::journal::Change;
use crate::step::{Reversal, State, Step, View, World};

/// How our chains begin; no chain's name has more than 28 letters.
const PREFIX: &str = "KPOT-";

/// Reads the rules. kubeadm itself wants these programs' package on every node.
const SAVE: &str = "iptables-save";

/// Writes rules, table by table, each table at once or not at all.
const RESTORE: &str = "iptables-restore";

/// kube-proxy writes rules as well, and who comes second may be turned away: an old `iptables-restore` cannot wait.
const TRIES: u32 = 10;

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// The longest that this machine's own API server is waited for after kubeadm's end; it takes seconds.
const OWN_SERVER: Duration = Duration::from_mins(3);

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Who answers for the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The endpoint, an address of this machine.
    pub endpoint: SocketAddrV4,
    /// The healthy master's API server.
    pub healthy: SocketAddrV4,
}

impl Bridge {
    /// What `iptables-restore --noflush` reads. The same words as `iptables-save` prints, so that people find them again.
    fn rules(&self) -> String {
        let (own, own_port) = (self.endpoint.ip(), self.endpoint.port());
        let (to, to_port) = (self.healthy.ip(), self.healthy.port());
        let in_front = |chain: &str, which: &str, leads: &str| {
            format!("-I {chain} 1 {which} -j {PREFIX}ENDPOINT{leads}\n")
        };
        let here = format!("-d {own}/32 -p tcp -m tcp --dport {own_port}");
        let there = format!("-d {to}/32 -p tcp -m tcp --dport {to_port}");
        let back = format!("-s {to}/32 -p tcp -m tcp --sport {to_port}");
        // The healthy master must answer by way of this machine, so connections bear this machine's address there. Docker may have set the policy for what passes
        // through to DROP.
        [
            "*nat\n".to_owned(),
            format!(":{PREFIX}ENDPOINT - [0:0]\n:{PREFIX}ENDPOINT-BACK - [0:0]\n"),
            format!("-A {PREFIX}ENDPOINT -p tcp -m tcp --dport {own_port} -j DNAT --to-destination {to}:{to_port}\n"),
            format!("-A {PREFIX}ENDPOINT-BACK -j MASQUERADE\n"),
            in_front("PREROUTING", &here, ""),
            in_front("OUTPUT", &here, ""),
            in_front("POSTROUTING", &there, "-BACK"),
            "COMMIT\n*filter\n".to_owned(),
            format!(":{PREFIX}ENDPOINT - [0:0]\n-A {PREFIX}ENDPOINT -j ACCEPT\n"),
            in_front("FORWARD", &there, ""),
            in_front("FORWARD", &back, ""),
            "COMMIT\n".to_owned(),
        ]
        .concat()
    }

    /// How many rules lead into our chains.
    const JUMPS: usize = 5;

    fn stands(&self, found: &Found) -> bool {
        let target = format!("--to-destination {}", self.healthy);
        found.jumps == Self::JUMPS && found.targets.iter().any(|rule| rule.ends_with(&target))
    }
}

/// What there is of ours among the rules.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// What takes it away, for `iptables-restore --noflush`; empty where there is nothing.
    removal: String,
    /// How many rules lead into our chains.
    jumps: usize,
    /// The rules in our chains.
    targets: Vec<String>,
    /// The endpoints that are led elsewhere: address and port.
    endpoints: Vec<(String, String)>,
}

impl Found {
    /// Reads it off what `iptables-save` prints.
    fn parse(saved: &str) -> Self {
        let mut found = Self::default();
        let (mut table, mut jumps, mut chains) = ("", Vec::new(), Vec::new());
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split_whitespace().next().unwrap_or_default();
                chains.extend(name.starts_with(PREFIX).then_some(name));
            } else if line == "COMMIT" {
                found.jumps += jumps.len();
                if !chains.is_empty() {
                    found.remove(table, &jumps, &chains);
                }
                (jumps, chains) = (Vec::new(), Vec::new());
            } else if let Some(rule) = without_counters(line).strip_prefix("-A ") {
                if rule.starts_with(PREFIX) {
                    found.targets.push(rule.to_owned());
                } else if word_after(rule, "-j").is_some_and(|to| to.starts_with(PREFIX)) {
                    jumps.push(rule);
                    let place = word_after(rule, "-d").zip(word_after(rule, "--dport"));
                    if let Some((address, port)) = place.filter(|_| rule.starts_with("PREROUTING "))
                    {
                        let address = address.trim_end_matches("/32");
                        found.endpoints.push((address.to_owned(), port.to_owned()));
                    }
                }
            }
        }
        found
    }

    fn remove(&mut self, table: &str, jumps: &[&str], chains: &[&str]) {
        let mut lines = vec![format!("*{table}")];
        // A chain can go only when nothing leads to it and nothing is in it.
        for (verb, what) in [("-D", jumps), ("-F", chains), ("-X", chains)] {
            lines.extend(what.iter().map(|one| format!("{verb} {one}")));
        }
        lines.push("COMMIT\n".to_owned());
        self.removal += &lines.join("\n");
    }

    /// What is there now; an error where that cannot be told.
    fn look(host: &HostView) -> Result<Self> {
        if host.program(SAVE).is_none() {
            return Ok(Self::default());
        }
        let cmd = Probe::filter_rules(SAVE);
        let answer = host.probe(&cmd)?.expect(cmd.command())?;
        Ok(Self::parse(&String::from_utf8_lossy(&answer.stdout)))
    }
}

/// A rule without the `[packets:bytes]` in front of it.
fn without_counters(line: &str) -> &str {
    match line.split_once("] ") {
        Some((counters, rule)) if counters.starts_with('[') => rule,
        _ => line,
    }
}

fn word_after<'r>(rule: &'r str, flag: &str) -> Option<&'r str> {
    let mut words = rule.split_whitespace();
    words.find(|word| *word == flag)?;
    words.next()
}

/// Takes the rules away, whoever made them, and cuts the connections that they led elsewhere: whoever had one connects anew, to whoever is there now.
pub fn remove(host: &Host<'_>) -> Result<()> {
    let endpoints = Found::look(host.view())?.endpoints;
    let change = Change::Undo {
        what: "the cluster's endpoint leads to this machine itself".to_owned(),
    };
    write(host, &change, &|found| found.removal)?;
    if host.view().program("conntrack").is_none() {
        // Those connections go on by way of this machine until somebody closes them.
        return Ok(());
    }
    for (address, port) in endpoints {
        let args = [
            "--delete",
            "--proto",
            "tcp",
            "--orig-dst",
            &address,
            "--orig-port-dst",
            &port,
        ];
        // Its exit status says whether there were any.
        host.try_run(&Cmd::new("conntrack", args))?;
    }
    Ok(())
}

/// Writes the rules that `make` makes of what is there; nothing where it makes none.
fn write(host: &Host<'_>, change: &Change, make: &dyn Fn(Found) -> String) -> Result<()> {
    let mut tries = 1;
    loop {
        let input = make(Found::look(host.view())?);
        if input.is_empty() {
            return Ok(());
        }
        let cmd = Cmd::new(RESTORE, ["--noflush"]).stdin(input);
        match host.run(&cmd, change.clone()) {
            Ok(_) => return Ok(()),
            Err(cause) if tries == TRIES => return Err(cause),
            Err(_) => host.view().clock().pause(AGAIN),
        }
        tries += 1;
    }
}

/// The healthy master answers for the endpoint, and a controller manager is at work.
pub struct RaiseBridge {
    bridge: Bridge,
    /// Rules of a run that was killed may be half of them, or lead to another master: each run makes its own.
    raised: Cell<bool>,
    pause: Duration,
}

impl RaiseBridge {
    /// Lets the healthy master answer for the endpoint.
    pub fn new(bridge: Bridge) -> Self {
        Self {
            bridge,
            raised: Cell::new(false),
            pause: controllers::PAUSE,
        }
    }
}

impl Step for RaiseBridge {
    fn id(&self) -> &'static str {
        "endpoint-bridge"
    }

    fn summary(&self) -> String {
        format!(
            "until this machine's API server answers, {} answers for the cluster's endpoint {}",
            self.bridge.healthy, self.bridge.endpoint
        )
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(
            if self.raised.get() && self.bridge.stands(&Found::look(view.host)?) {
                State::Satisfied
            } else {
                State::Pending("the endpoint is this machine's own address; the packet filter leads connections to it elsewhere meanwhile, also those of other machines".to_owned())
            },
        )
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let host = world.host;
        for program in [SAVE, RESTORE] {
            ensure!(
                host.view().program(program).is_some(),
                "this machine has no {program}: install the package iptables"
            );
        }
        let forwarding = host.view().sysctl("net.ipv4.ip_forward")?;
        ensure!(
            forwarding.as_deref() == Some("1"),
            "net.ipv4.ip_forward is not 1: what other machines send to the endpoint would end here"
        );
        let change = Change::Bridge {
            endpoint: self.bridge.endpoint.to_string(),
        };
        write(host, &change, &|found| found.removal + &self.bridge.rules())?;
        self.raised.set(true);
        controllers::await_leader(
            cluster.view(),
            host.stop(),
            controllers::PATIENCE,
            self.pause,
        )
    }
}

/// This machine's own API server answers for the endpoint.
pub struct LowerBridge {
    port: u16,
}

impl LowerBridge {
    /// Ends what [`RaiseBridge`] began, here or in a run that was killed.
    pub fn new(joining: &Joining) -> Self {
        Self {
            port: joining.cluster.apiserver_port,
        }
    }
}

impl Step for LowerBridge {
    fn id(&self) -> &'static str {
        "endpoint-bridge-gone"
    }

    fn summary(&self) -> String {
        "the cluster's endpoint leads to this machine's own API server".to_owned()
    }

    fn reversal(&self) -> Reversal {
        Reversal::Nothing
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        gone(view.host)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let clock = world.host.view().clock();
        let deadline = clock.now() + OWN_SERVER;
        // One that listens elsewhere than on the loopback, or does not come up, is told of by the next step.
        while clock.now() < deadline {
            let answer = world
                .host
                .view()
                .probe(&Probe::apiserver_on_loopback(self.port));
            if answer.is_ok_and(|answer| answer.text() == "ok") {
                break;
            }
            world.host.stop().check()?;
            clock.pause(PAUSE);
        }
        remove(world.host)
    }
}

/// Nothing is led elsewhere any more.
pub(crate) struct BridgeGone;

impl Step for BridgeGone {
    fn id(&self) -> &'static str {
        "undo-endpoint-bridge"
    }

    fn summary(&self) -> String {
        "the packet filter leads the cluster's endpoint nowhere else".to_owned()
    }

    fn reversal(&self) -> Reversal {
        Reversal::Never
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        gone(view.host).or_else(|cause| {
            Ok(State::Unsettable(format!(
                "rules may stay until the next reboot: {cause:#}"
            )))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        remove(world.host)
    }
}

fn gone(host: &HostView) -> Result<State> {
    Ok(if Found::look(host)?.removal.is_empty() {
        State::Satisfied
    } else {
        State::Pending("the rules that lead it elsewhere go".to_owned())
    })
}

#[cfg(test)]
mod tests;
