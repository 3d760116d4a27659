//! The connection to the healthy master is cut at several moments of one join, and the same command is typed again each
//! time, until it goes through.
//!
//! The cut is real: the backup machine's packet filter drops everything between its SSH and that of m1, in both directions
//! and without an answer, as a broken link does. Everything else between the two goes on, so that what runs already (a
//! kubeadm, an etcd) does not stop. A cut that is mended once the connection is found dead shows that the run tidies up by
//! a new one; the others show that the next run does.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::leak::places_of;
use super::meanwhile::{self, Moment};
use super::{Bench, Scenario, join};
use crate::checks;
use crate::cluster::Cluster;
use crate::lab::Bare;
use crate::node::Node;
use crate::secrets;
use crate::snapshot::Snapshot;
use crate::wait;

/// The lock holds for a minute after it was last renewed.
const LOCK_LIMIT: Duration = Duration::from_mins(2);

/// The scenario.
#[derive(Debug, Default)]
pub struct SshCut;

/// When it is cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// While this machine is made ready, which needs no connection.
    Local,
    /// Under the lock, while the certificates are uploaded; mended as soon as the connection is dead.
    Mended,
    /// At the same moment, for good.
    Credentials,
    /// When kubeadm is about to join, which needs no SSH.
    Kubeadm,
}

impl Cut {
    fn line(self) -> &'static str {
        match self {
            Self::Local => r#""event":"step""#,
            Self::Mended | Self::Credentials => r#""what":"upload the shared certificates"#,
            Self::Kubeadm => r#""step":"kubeadm-join","change":\{"kind":"tree""#,
        }
    }
}

impl Scenario for SshCut {
    fn name(&self) -> String {
        "broken/ssh-cut".to_owned()
    }

    fn about(&self) -> String {
        "the connection to the healthy master is cut while this machine is made ready, under the lock, and while kubeadm joins; \
         the same command goes on"
            .to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(20)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        bench.backup_ready(Bare::Full)?;
        bench.backup_used();
        Ok(())
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        let m2 = bench.lab().m2();

        let before = Snapshot::of_cluster(cluster)?;
        cut(bench, Cut::Local)?;
        before.ensure_same(&Snapshot::of_cluster(cluster)?, "the cluster")?;
        mend(bench)?;

        cut(bench, Cut::Mended)?;
        checks::nothing_left(cluster).context("by a new connection")?;
        let held = checks::lock(cluster)?;
        ensure!(
            held.is_none(),
            "the lock was not given back by a new connection: {held:?}"
        );
        checks::gone(cluster, &b1)?;
        checks::etcd_voters(cluster, &m2, bench.masters())?;

        cut(bench, Cut::Credentials)?;
        let first = left_in(cluster)?;
        ensure!(
            !first.is_empty(),
            "no bootstrap token is in the cluster: the connection was cut before or after what this is about"
        );
        checks::gone(cluster, &b1)?;
        not_here(&b1, &first)?;
        mend(bench)?;

        // At once: the machine's own lock may still hold.
        cut(bench, Cut::Kubeadm)?;
        let second = left_in(cluster)?;
        ensure!(
            !second.is_empty() && first.is_disjoint(&second),
            "of the tokens of two runs that were cut only the later ones may be left; before there were {}, now {}",
            first.len(),
            second.len()
        );
        not_here(&b1, &second)?;
        checks::votes(cluster, &b1).context("kubeadm needs no SSH to come to its end")?;
        wait::until("the lock has expired", LOCK_LIMIT, || checks::lock(cluster))?;
        mend(bench)
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        join::join(bench, &bench.b1()).context("with no cut any more")?;
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        checks::pods_work(cluster, &b1, bench.test_image())?;
        checks::joined(cluster, &b1, bench.masters() + 1)?;
        join::no_secret_folder(&b1)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        join::nothing_to_do(bench, &bench.b1())
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.cluster()?.revoke()?;
        bench.remove_backup()
    }
}

/// Types the command, cuts at the moment, and looks at how the run ended.
fn cut(bench: &Bench, cut: Cut) -> Result<()> {
    let healthy = bench.cluster()?.m1().address();
    let mut act = rules("--insert", healthy);
    if matches!(cut, Cut::Mended) {
        // ssh removes its socket when it gives the connection up.
        let wait = format!(
            "while compgen -G '/run/kpot/*/cm' >/dev/null; do sleep 0.1; done; {}",
            rules("--delete", healthy)
        );
        act = format!("{act}\n{}", meanwhile::in_background(&wait));
    }
    let line = cut.line();
    let outcome = meanwhile::join_until(bench, &Moment { line, act })
        .with_context(|| format!("cut: {cut:?}"))?;
    let broke = format!("the connection to {healthy} broke while running");
    meanwhile::failed_clearly(&outcome, &[&broke]).with_context(|| format!("cut: {cut:?}"))?;
    join::no_secret_folder(&bench.b1())
}

fn mend(bench: &Bench) -> Result<()> {
    bench
        .b1()
        .run(&rules("--delete", bench.cluster()?.m1().address()))
}

/// Commands that put in or take out what drops both directions of SSH from here to there.
fn rules(verb: &str, there: &str) -> String {
    format!(
        "iptables --wait 10 {verb} OUTPUT --destination {there} --protocol tcp --dport 22 --jump DROP
         iptables --wait 10 {verb} INPUT --source {there} --protocol tcp --sport 22 --jump DROP"
    )
}

/// The secret halves of the bootstrap tokens that are in the cluster.
fn left_in(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let all = cluster.kubectl(&["-n", "kube-system", "get", "secrets", "-o", "json"])?;
    Ok(secrets::tokens(&all))
}

/// No file and no line of the system's journal on the machine has one of the secrets.
fn not_here(node: &Node, secrets: &BTreeSet<String>) -> Result<()> {
    let found = places_of(node, secrets)?;
    ensure!(
        found.is_empty(),
        "secrets of a cut join are left on {node}:\n{}",
        found.join("\n")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_taken_out() {
        let put = rules("--insert", "10.77.0.11");
        assert_eq!(
            put.replace("--insert", "--delete"),
            rules("--delete", "10.77.0.11")
        );
        assert_eq!(put.lines().count(), 2);
    }
}
