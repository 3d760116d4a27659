//! No secret of a join leaks: not the bootstrap tokens', not the certificate key, not the operator's password.
//!
//! Every execve of the backup machine is written down by a tracer that is there from systemd on; on the healthy master one
//! is attached to systemd and sshd and follows all that the product starts there. The real secrets of the run are learned
//! from outside: tokens by watching the cluster's Secrets, the certificate key from what kubeadm prints on the master.
//! Then traces, journals and all files of both machines are searched for them. At the end secrets are planted in each kind
//! of place, and each must be found.
//!
//! Token IDs are no secrets. etcd's data is left out: a bootstrap token is an object in it until it is revoked, and etcd
//! keeps its history.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bench, Scenario, join};
use crate::checks;
use crate::lab::Bare;
use crate::node::Node;
use crate::pot::{self, POT_DIR};
use crate::secrets;
use crate::sh::{self, Daemon};
use crate::ssh_trust;
use crate::tracer::{self, Tracer};

/// The password of the user `opspw` in the node image.
const PASSWORD: &str = "lab-operator";
/// Where a traced machine writes its execves.
const TRACE: &str = "/var/log/lab-execve";

/// The scenario.
#[derive(Debug, Default)]
pub struct Leak {
    secrets: BTreeSet<String>,
}

impl Scenario for Leak {
    fn name(&self) -> String {
        "leak".to_owned()
    }

    fn about(&self) -> String {
        "the secrets of a join are in no argument, environment, file or journal of either machine"
            .to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(15)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.backup_ready(Bare::Traced)?;
        bench.backup_used();
        sh::remove(&bench.folder("leak"))?;
        sh::make_dirs(&bench.folder("leak"))?;
        // With a password, for SSH and for sudo: root's way in is closed, and opspw has no key there.
        ssh_trust::revoke(&b1, bench.cluster()?.m1())
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let (m1, b1) = (bench.cluster()?.m1(), bench.b1());
        let watched = bench.folder("leak").join("secrets.json");
        let trace = bench.folder("leak").join("m1-execve");
        let mut watch = watch_secrets(m1, &watched)?;
        let tracer = Tracer::attach(m1, &trace)?;
        let command = format!(
            "./kpot-install join-master --healthy {} --ssh-user opspw --ask-pass --yes",
            m1.address()
        );
        let ended = b1
            .sh(&format!("cd {POT_DIR}; {command}"))?
            .stdin(format!("{PASSWORD}\n"))
            .timeout(join::JOIN_LIMIT)
            .outcome();
        tracer.detach()?;
        watch.stop();
        let ended = ended?;
        ensure!(
            ended.ok(),
            "{command} ended with {:?}:\n{}{}",
            ended.code,
            ended.stdout,
            ended.stderr
        );
        self.secrets = secrets::tokens(&sh::read_text(&watched)?);
        ensure!(
            !self.secrets.is_empty(),
            "no bootstrap token was seen in the cluster while b1 joined"
        );
        let keys = secrets::certificate_keys(&tracer::read(&trace)?);
        ensure!(
            !keys.is_empty(),
            "no certificate key was seen in what kubeadm prints on m1"
        );
        sh::say(format_args!(
            "looking for {} token secrets, {} certificate keys and a password",
            self.secrets.len(),
            keys.len()
        ));
        self.secrets.extend(keys);
        self.secrets.insert(PASSWORD.to_owned());
        Ok(())
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        checks::joined(cluster, &b1, bench.masters() + 1)?;
        join::no_secret_folder(&b1)?;
        let found = self.search(bench, "m1-execve")?;
        ensure!(
            found.is_empty(),
            "secrets of this join were found:\n{}",
            found.join("\n")
        );
        Ok(())
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        let (m1, b1) = (bench.cluster()?.m1(), bench.b1());
        ssh_trust::grant(&b1, m1, "root")?;
        let again = pot::install_well(
            &b1,
            &format!("join-master --healthy {} --yes", m1.address()),
            join::JOIN_LIMIT,
        )?;
        let said = again.stdout + &again.stderr;
        ensure!(
            said.contains("nothing to do"),
            "the second run did something:\n{said}"
        );
        let found = self.search(bench, "m1-execve")?;
        ensure!(
            found.is_empty(),
            "secrets were found after the second run:\n{}",
            found.join("\n")
        );
        self.planted_leaks_are_found(bench)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        sh::remove(&bench.folder("leak"))?;
        bench.cluster()?.m1().run("rm -f /root/planted")?;
        bench.remove_backup()
    }
}

/// Writes down every Secret of the cluster that comes, from now on.
fn watch_secrets(m1: &Node, file: &std::path::Path) -> Result<Daemon> {
    m1.sh("kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system get secrets --watch-only -o json")?.log(file).spawn()
}

impl Leak {
    /// Every place where a secret of this run is, without telling the secret.
    fn search(&self, bench: &Bench, master_trace: &str) -> Result<Vec<String>> {
        let (m1, b1) = (bench.cluster()?.m1(), bench.b1());
        let backup_trace = bench.folder("leak").join("b1-execve");
        sh::remove(&backup_trace)?;
        b1.fetch(TRACE, &backup_trace)?;
        let mut found = Vec::new();
        for (node, file) in [
            (m1, bench.folder("leak").join(master_trace)),
            (&b1, backup_trace),
        ] {
            let trace = tracer::read(&file)?;
            let calls = secrets::execves(&trace)
                .filter(|call| forms(&self.secrets).any(|form| call.contains(&form)));
            found.extend(calls.map(|call| format!("{node}: in the call {}", self.masked(call))));
        }
        for node in [m1, &b1] {
            found.extend(places_of(node, &self.secrets)?);
        }
        Ok(found)
    }

    fn planted_leaks_are_found(&self, bench: &Bench) -> Result<()> {
        let (m1, b1) = (bench.cluster()?.m1(), bench.b1());
        let secret = self
            .secrets
            .iter()
            .find(|secret| *secret != PASSWORD)
            .context("no secret is known")?;
        let tracer = Tracer::attach(m1, &bench.folder("leak").join("m1-planted"))?;
        let plants = [
            (
                m1,
                "/bin/echo planted-argument $(cat) >/dev/null",
                "m1: in the call",
                "planted-argument",
            ),
            (m1, "cat >/root/planted", "m1: in the file", "/root/planted"),
            (
                &b1,
                "PLANTED=$(cat); export PLANTED; /bin/true",
                "b1: in the call",
                "PLANTED=",
            ),
            (
                &b1,
                "base64 --wrap=0 >/var/tmp/planted",
                "b1: in the file",
                "/var/tmp/planted",
            ),
            (
                &b1,
                "systemd-cat --identifier=planted",
                "b1: in",
                "of the journal",
            ),
        ];
        let planted: Result<()> = plants
            .iter()
            .try_for_each(|(node, script, ..)| node.sh(script)?.stdin(secret.as_str()).run());
        tracer.detach()?;
        planted?;
        let found = self.search(bench, "m1-planted")?;
        for (_, script, where_, what) in plants {
            ensure!(
                found
                    .iter()
                    .any(|line| line.starts_with(where_) && line.contains(what)),
                "a secret planted by `{script}` was not found; found:\n{}",
                found.join("\n")
            );
        }
        Ok(())
    }

    fn masked(&self, text: &str) -> String {
        forms(&self.secrets).fold(text.to_owned(), |text, form| {
            text.replace(&form, "<secret>")
        })
    }
}

/// Every file of a machine, and its system's journal, that has one of the secrets, without telling which.
pub(super) fn places_of(node: &Node, secrets: &BTreeSet<String>) -> Result<Vec<String>> {
    // The patterns go through standard input: as arguments they would stand in the traces themselves.
    let patterns: String = forms(secrets).map(|form| form + "\n").collect();
    let files = node
        .sh("grep -rlaF -f - --exclude-dir=proc --exclude-dir=sys --exclude-dir=etcd --exclude=lab-execve / 2>/dev/null || true")?
        .stdin(patterns.as_str())
        .output()?;
    let lines = node
        .sh("journalctl --no-pager -q -o export >/run/lab-journal; grep -caF -f - /run/lab-journal || true; rm /run/lab-journal")?
        .stdin(patterns.as_str())
        .output()?;
    let mut found: Vec<String> = files
        .lines()
        .map(|file| format!("{node}: in the file {file}"))
        .collect();
    if lines.trim() != "0" {
        found.push(format!("{node}: in {} lines of the journal", lines.trim()));
    }
    Ok(found)
}

/// Every secret as it is, and as base64.
fn forms(secrets: &BTreeSet<String>) -> impl Iterator<Item = String> {
    secrets
        .iter()
        .flat_map(|secret| [secret.clone(), secrets::base64(secret)])
}
