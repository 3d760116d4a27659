//! Clusters whose API servers are not reached at the first master's address: at a name in /etc/hosts, at a load balancer, and at the address of the very master that died.
//!
//! One row of the table below is one scenario.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Scenario, again, damage, identity, join};
use crate::checks;
use crate::cluster::{ClusterSpec, Endpoint, NAME};
use crate::eras::Version;
use crate::lab::Bare;
use crate::node::Node;
use crate::pot;
use crate::wait;

/// A rebirth or a change. Up to 1.19.0 a dead endpoint takes the controller managers along, and the kubelets start them again after up to five minutes.
const LIMIT: Duration = Duration::from_mins(18);

/// Whoever lost its connection to the endpoint tries again within seconds.
const SETTLED: Duration = Duration::from_mins(3);

type Act = fn(&mut Bench) -> Result<()>;

/// One cluster, and what a master does in it.
pub struct AtEndpoint {
    name: &'static str,
    about: &'static str,
    endpoint: Endpoint,
    masters: usize,
    prepare: Act,
    /// Before the command that is to succeed.
    first: Act,
    /// The machine that becomes a master.
    who: fn(&Bench) -> Node,
    /// What is typed there, without the healthy master.
    command: &'static str,
    check: Act,
    clean: Act,
    /// What of m1 must stay as it is.
    healthy_before: Option<String>,
}

/// All of them, as a table: name, what it is, endpoint and masters, what is made wrong, what comes first, who types what, what is checked besides, how it is left.
#[rustfmt::skip]
pub fn all() -> Vec<AtEndpoint> {
    let row = |name, about, endpoint, masters, acts: [Act; 4], who, command| {
        let [prepare, first, check, clean] = acts;
        AtEndpoint { name, about, endpoint, masters, prepare, first, who, command, check, clean, healthy_before: None }
    };
    vec![
        row("name", "a bare machine joins a cluster that is reached at a name in /etc/hosts", Endpoint::Name, 2,
            [a_bare_backup, nothing, name_is_known, remove_backup], b1 as fn(&Bench) -> Node, "join-master"),
        row("load-balancer", "a master whose disk is empty comes back behind a load balancer", Endpoint::Balancer, 3,
            [damage::wipe_follower, nothing, nothing, make_whole], m3, "rebirth-master"),
        row("dead-master", "the master at whose address the cluster is reached comes back with an empty disk", Endpoint::ThirdMaster, 3,
            [dies_with_the_endpoint, the_plan_tells, endpoint_answers, whole_or_gone], m3, "rebirth-master"),
        row("moved-address", "another machine takes its place, and is given its address", Endpoint::ThirdMaster, 3,
            [dies_for_good, address_moves, moved_endpoint_answers, gone], b1, "change-master --down m3"),
    ]
}

impl Scenario for AtEndpoint {
    fn name(&self) -> String {
        format!("endpoint/{}", self.name)
    }

    fn about(&self) -> String {
        self.about.to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(30)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        let spec = ClusterSpec::of(version).reached_at(self.endpoint);
        (spec, self.masters)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        (self.prepare)(bench)?;
        self.healthy_before = Some(configuration(bench)?);
        Ok(())
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        (self.first)(bench)?;
        let node = (self.who)(bench);
        bench.used(&node);
        pot::install_well(&node, &self.command(bench)?, LIMIT).map(drop)
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let node = (self.who)(bench);
        let cluster = bench.cluster()?;
        let masters = bench.masters() + usize::from(self.command == "join-master");
        checks::pods_work(cluster, &node, bench.test_image())?;
        checks::joined(cluster, &node, masters)?;
        join::no_secret_folder(&node)?;
        (self.check)(bench)?;
        // What leads elsewhere is gone, wherever somebody might have put it.
        for node in [node, bench.lab().m1(), bench.lab().m2()] {
            let rules = node.output("iptables-save | grep KPOT || true")?;
            ensure!(rules.is_empty(), "rules are left on {node}:\n{rules}");
        }
        let now = Some(configuration(bench)?);
        ensure!(
            now == self.healthy_before,
            "the configuration of m1 was {:?} and is {now:?}",
            self.healthy_before
        );
        Ok(())
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        again::nothing_to_do(bench, &(self.who)(bench), &self.command(bench)?)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        (self.clean)(bench)
    }
}

impl AtEndpoint {
    fn command(&self, bench: &Bench) -> Result<String> {
        typed(bench, self.command, "--yes")
    }
}

fn typed(bench: &Bench, command: &str, flag: &str) -> Result<String> {
    let m1 = bench.cluster()?.m1().address();
    Ok(format!("{command} --healthy {m1} {flag}"))
}

fn b1(bench: &Bench) -> Node {
    bench.b1()
}

fn m3(bench: &Bench) -> Node {
    bench.m3()
}

/// The digests of what makes m1 a master, and finds others for it.
fn configuration(bench: &Bench) -> Result<String> {
    bench
        .cluster()?
        .m1()
        .output("find /etc/kubernetes /etc/hosts -type f | sort | xargs sha256sum")
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "a row's act may fail; this one does nothing"
)]
fn nothing(_bench: &mut Bench) -> Result<()> {
    Ok(())
}

fn a_bare_backup(bench: &mut Bench) -> Result<()> {
    bench.backup_ready(Bare::Full)?;
    let known = bench.b1().outcome(&format!("getent hosts {NAME}"))?;
    ensure!(!known.ok(), "b1 knows the name already: {}", known.stdout);
    Ok(())
}

/// The new master's own programs find the name, by a line that says whose it is.
fn name_is_known(bench: &mut Bench) -> Result<()> {
    let (b1, m1) = (bench.b1(), bench.lab().m1());
    let line = b1.output(&format!("grep -w {NAME} /etc/hosts"))?;
    ensure!(
        line == format!("{} {NAME} # kpot", m1.address()),
        "the line on b1 is {line:?}"
    );
    answers_at_the_endpoint(bench, &b1)
}

fn remove_backup(bench: &mut Bench) -> Result<()> {
    bench.remove_backup()
}

fn make_whole(bench: &mut Bench) -> Result<()> {
    bench.make_whole()
}

/// m3 loses its disk, and nobody answers at the endpoint any more.
fn dies_with_the_endpoint(bench: &mut Bench) -> Result<()> {
    identity::mark(bench.cluster()?, &bench.m3())?;
    damage::wipe_follower(bench)?;
    is_dead(bench)
}

/// m3 loses its power for good.
fn dies_for_good(bench: &mut Bench) -> Result<()> {
    bench.backup_ready(Bare::Full)?;
    damage::power_off(bench)?;
    is_dead(bench)
}

fn is_dead(bench: &Bench) -> Result<()> {
    let asked = ask_at_the_endpoint(&bench.lab().m1())?;
    ensure!(
        asked.is_some(),
        "the endpoint answers m1: what is to be shown is not there"
    );
    Ok(())
}

/// A dry run shows what is done about the endpoint.
fn the_plan_tells(bench: &mut Bench) -> Result<()> {
    let plan = typed(bench, "rebirth-master", "--dry-run")?;
    let said = pot::install_well(&bench.m3(), &plan, LIMIT)?.stdout;
    ensure!(
        said.contains("endpoint-bridge") && said.contains(bench.m3().address()),
        "the plan does not tell of the endpoint:\n{said}"
    );
    Ok(())
}

/// Without the address it is refused, with what to type; that is typed.
fn address_moves(bench: &mut Bench) -> Result<()> {
    let (b1, m3) = (bench.b1(), bench.m3());
    let outcome = pot::install(
        &b1,
        &typed(bench, "change-master --down m3", "--yes")?,
        LIMIT,
    )?;
    let remedy = format!("ip address add {}/32 dev", m3.address());
    ensure!(
        outcome.code == Some(3) && outcome.stderr.contains(&remedy),
        "it ended with {:?} and does not say {remedy:?}:\n{}",
        outcome.code,
        outcome.stderr
    );
    b1.run(&format!(
        "{remedy} \"$(ip -o route get {} | sed 's/.* dev \\([^ ]*\\).*/\\1/')\"",
        bench.lab().m1().address()
    ))
}

fn endpoint_answers(bench: &mut Bench) -> Result<()> {
    identity::kept(bench.cluster()?, &bench.m3())?;
    for node in [bench.lab().m1(), bench.lab().m2(), bench.m3()] {
        answers_at_the_endpoint(bench, &node)?;
    }
    Ok(())
}

fn moved_endpoint_answers(bench: &mut Bench) -> Result<()> {
    checks::gone(bench.cluster()?, &bench.m3())?;
    for node in [bench.lab().m1(), bench.lab().m2(), bench.b1()] {
        answers_at_the_endpoint(bench, &node)?;
    }
    Ok(())
}

/// kubectl on a master, and its kubelet, find an API server at the cluster's endpoint again.
fn answers_at_the_endpoint(bench: &Bench, node: &Node) -> Result<()> {
    wait::until(&format!("the endpoint answers {node}"), SETTLED, || {
        ask_at_the_endpoint(node)
    })?;
    checks::control_plane_node(bench.cluster()?, node)
}

/// What kubectl complains of on a master whose administrator's credentials name the endpoint.
fn ask_at_the_endpoint(node: &Node) -> Result<Option<String>> {
    let asked = node.outcome(
        "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout=10s get --raw /healthz",
    )?;
    Ok((!asked.ok()).then_some(asked.stderr))
}

/// A cluster without its endpoint cannot be mended by plain kubeadm: the next scenario then gets a new one.
fn whole_or_gone(bench: &mut Bench) -> Result<()> {
    let (cluster, m3) = (bench.cluster()?, bench.m3());
    if checks::healthy_master(cluster, &m3).is_err() {
        bench.distrust();
        return Ok(());
    }
    identity::unmark(cluster, &m3)
}

/// The backup machine goes first: it has an address of m3.
fn gone(bench: &mut Bench) -> Result<()> {
    let b1 = bench.b1();
    bench.lab().destroy(&[&b1])?;
    bench.distrust();
    Ok(())
}
