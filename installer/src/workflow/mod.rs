//! What each command does from its first look to its last word: gather, refuse, plan, ask, lock, run, tidy up, report.

mod decide;
mod down;
mod identity;
#[cfg(test)]
mod kills;
mod kubelet;
mod master;
mod reset;
mod seen;
mod session;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bundle_spec::{KubeVersion, VerifiedPot};
use serde_json::{Value, json};

pub use self::master::{Master, Way, become_master};
pub use self::reset::{Reset, reset};
use self::session::Session;
pub(crate) use self::session::lock_state;
use crate::console::Console;
use crate::engine::{self, Plan};
use crate::exit::{NotEligible, Refused};
use crate::facts::docker::CgroupDriver;
use crate::facts::{self, Facts};
use crate::host::command::{CommandError, await_outliving};
use crate::host::{Host, HostView};
use crate::joining::kubeadm_log;
use crate::joining::refusals::Refusal;
use crate::journal::STATE_DIR;
use crate::kubernetes::{CgroupDriverRule, Traits};
use crate::plans;
use crate::preflight::{self, Finding, KubeletThresholds, Needs, Purpose, Report};
use crate::runtime::Runtime;
use crate::signals::Stop;
use crate::step::{View, World};
use crate::steps::ImageWanted;

/// What every workflow has.
pub struct Run<'a> {
    /// The pot, verified.
    pub pot: Arc<VerifiedPot>,
    /// This machine.
    pub host: HostView,
    /// Where words go.
    pub console: &'a Console,
    /// Whether to end after the plan.
    pub dry_run: bool,
    /// Whether nobody needs to be asked.
    pub yes: bool,
}

/// On what terms something may be changed.
pub(crate) struct Terms<'a> {
    /// Where words go.
    pub console: &'a Console,
    /// Whether to end after the plan.
    pub dry_run: bool,
    /// Whether nobody needs to be asked.
    pub yes: bool,
    /// The identity of the pot, for the journal.
    pub pot: String,
    /// This machine.
    pub host: HostView,
    /// The state folder.
    pub state: PathBuf,
}

impl<'a> Run<'a> {
    /// The pot's container runtime.
    fn runtime(&self) -> Runtime {
        self.pot.manifest().runtime.name.into()
    }

    fn terms(&self) -> Terms<'a> {
        Terms {
            console: self.console,
            dry_run: self.dry_run,
            yes: self.yes,
            pot: self.pot.identity().to_string(),
            host: self.host.clone(),
            state: self.host.locate(STATE_DIR),
        }
    }
}

/// What `init-env` is told.
pub struct InitEnv {
    /// Who makes the cgroups of containers, where it was given.
    pub cgroup_driver: Option<CgroupDriver>,
    /// Registries that the runtime may speak to without TLS.
    pub insecure_registries: Vec<String>,
}

/// Tells whether this machine can become a master.
pub fn preflight(run: &Run<'_>) -> Result<()> {
    let facts = look_here(run)?;
    let needs = needs(run, Purpose::Master, hostname()?)?;
    let report = preflight::run(&facts, &needs);
    run.console.findings(&report)?;
    run.console.document(
        &json!({ "outcome": if report.is_good() { "good" } else { "refused" }, "checks": report }),
    )?;
    let refused = report.refusals().count();
    ensure!(
        refused == 0,
        NotEligible(format!(
            "this machine cannot become a master yet: {refused} of these checks refuse it"
        ))
    );
    Ok(())
}

/// What this machine is checked for, where no cluster says more.
fn needs(run: &Run<'_>, purpose: Purpose, node_name: String) -> Result<Needs> {
    let manifest = run.pot.manifest();
    let images: Vec<_> = manifest.images.iter().map(|image| image.id).collect();
    Ok(Needs {
        purpose,
        standing: preflight::Standing::Bare,
        network: preflight::Network::Pods,
        kubernetes: manifest.kubernetes,
        runtime: manifest.runtime.clone(),
        fail_cgroup_v1: None,
        arch: manifest.arch,
        node_name,
        api_port: 6443,
        etcd: preflight::EtcdPlace::Here,
        to_write: preflight::to_write(&run.host, manifest, &images, ETCD_ROOM)?,
        thresholds: KubeletThresholds::default(),
    })
}

/// The room that etcd's data is given on this machine, in bytes: etcd's own default quota (`--quota-backend-bytes`) is 2 GiB; what a cluster really has is seldom a quarter.
const ETCD_ROOM: u64 = 512 << 20;

/// Prepares this machine as a node.
pub fn init_env(run: &Run<'_>, options: &InitEnv) -> Result<()> {
    let manifest = run.pot.manifest();
    let facts = look_here(run)?;
    let needs = needs(run, Purpose::Environment, hostname()?)?;
    let report = preflight::run(&facts, &needs);
    refuse(run.console, &report_refusals(&report))?;
    warn(run.console, &report_warnings(&report));
    let images = manifest
        .images
        .iter()
        .map(|image| ImageWanted {
            id: image.id,
            names: image.names.clone(),
        })
        .collect();
    let steps = plans::environment(
        &run.pot,
        options
            .cgroup_driver
            .unwrap_or_else(|| usual_driver(manifest.kubernetes)),
        &options.insecure_registries,
        images,
    )?;
    let view = View {
        host: &run.host,
        cluster: None,
    };
    let plan = Plan::of(&steps, view)?;
    let Some(session) = Session::begin(&run.terms(), "init-env", &plan, &json!({}))? else {
        return Ok(());
    };
    let host = Host::new(run.host.clone(), &session.journal).until(Stop::listen()?);
    let outcome = engine::run(
        &steps,
        World {
            host: &host,
            cluster: None,
        },
        &session.journal,
        run.console,
    );
    session.end(&run.terms(), outcome, &json!({}))?;
    run.console
        .result("This machine is ready to join: ./kpot-install join-master --healthy ADDRESS")
}

/// What a cluster of this version has, unless somebody set it otherwise: kubeadm's own default, or before there was one, Docker's.
fn usual_driver(kubernetes: KubeVersion) -> CgroupDriver {
    match Traits::of(kubernetes).cgroup_driver {
        CgroupDriverRule::Systemd => CgroupDriver::Systemd,
        CgroupDriverRule::Dockers => CgroupDriver::Cgroupfs,
    }
}

/// This machine, where no cluster says more. A prepared one cannot be looked at by everybody.
fn look_here(run: &Run<'_>) -> Result<Facts> {
    facts::gather(&run.host, run.runtime(), None, Some(facts::ETCD_DATA))
        .or_else(|cause| root_only().and(Err(cause)))
}

pub(crate) fn root_only() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        NotEligible("this must run as root: sudo ./kpot-install …".to_owned())
    );
    Ok(())
}

/// The longest that a kubeadm which outlived a killed run is waited for; its own limits add up to less.
const OUTLIVING: Duration = Duration::from_secs(600);

/// Waits for the kubeadm of a run that was killed, which goes on to its end all the same; refuses where it is still at work after `patience`.
pub(crate) fn await_kubeadm(console: &Console, state: &Path, patience: Duration) -> Result<()> {
    let log = kubeadm_log(state);
    let look = |patience| {
        await_outliving(&log, patience)
            .context("cannot tell whether the kubeadm of an interrupted run is still at work")
    };
    let mut ended = look(Duration::ZERO)?;
    if !ended && !patience.is_zero() {
        console.say("the kubeadm of an interrupted run is still at work on this machine; waiting for its end …");
        ended = look(patience)?;
    }
    ensure!(
        ended,
        NotEligible("the kubeadm of an interrupted run is still at work on this machine: wait for it; see: ps -ef | grep kubeadm".to_owned())
    );
    Ok(())
}

/// Gives an error the number of a refusal; one that is only about the connection says nothing about this machine or the cluster, and keeps its own.
fn not_eligible(cause: anyhow::Error) -> anyhow::Error {
    let broke = |cause: &(dyn std::error::Error + 'static)| {
        matches!(
            cause.downcast_ref::<CommandError>(),
            Some(CommandError::Remote { .. })
        )
    };
    if cause.chain().any(broke) {
        return cause;
    }
    NotEligible(format!("{cause:#}")).into()
}

fn report_refusals(report: &Report) -> Vec<Refusal> {
    let refusal = |finding: &Finding| Refusal {
        cause: finding.reason.clone(),
        remedy: finding.remedy.clone(),
    };
    report.refusals().map(refusal).collect()
}

fn report_warnings(report: &Report) -> Vec<String> {
    report
        .warnings()
        .map(|finding| format!("{}. {}", finding.reason, finding.remedy))
        .collect()
}

fn hostname() -> Result<String> {
    let name = nix::unistd::gethostname().context("this machine has no name")?;
    Ok(name.to_string_lossy().to_lowercase())
}

fn warn(console: &Console, warnings: &[String]) {
    for warning in warnings {
        console.note(warning);
    }
}

/// How far a run had come when it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Untouched {
    /// Nothing was changed anywhere.
    Everything,
    /// This machine was made ready; the cluster was not changed but for its lock.
    Cluster,
}

/// Ends the run with every refusal at once, before anything was changed.
fn refuse(console: &Console, refusals: &[Refusal]) -> Result<()> {
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refused(console, Untouched::Everything, refusals))
    }
}

/// The error that every refusal at once is. Before a run is at work this is its end, and its JSON document is printed here; else the end of its session prints it.
fn refused(console: &Console, untouched: Untouched, refusals: &[Refusal]) -> anyhow::Error {
    let causes: Vec<Value> = refusals
        .iter()
        .map(|refusal| json!({ "cause": refusal.cause, "remedy": refusal.remedy }))
        .collect();
    let list: Vec<String> = refusals
        .iter()
        .map(|refusal| {
            format!(
                "- {}\n  {}",
                refusal.cause,
                refusal.remedy.replace('\n', "\n  ")
            )
        })
        .collect();
    let list = list.join("\n");
    match untouched {
        Untouched::Everything => {
            let document = json!({ "outcome": "refused", "refusals": causes });
            if let Err(cause) = console.document(&document) {
                return cause;
            }
            NotEligible(format!("refused; nothing was changed:\n{list}")).into()
        }
        Untouched::Cluster => Refused {
            words: format!(
                "refused; this machine was made ready, and nothing was changed on the cluster:\n{list}"
            ),
            refusals: json!(causes),
        }
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    #[test]
    fn without_a_cluster_the_cgroups_are_made_as_kubeadm_of_the_version_has_it() {
        let usual = |minor| usual_driver(KubeVersion::new(1, minor, 0));
        assert_eq!(usual(21), CgroupDriver::Cgroupfs);
        assert_eq!(usual(22), CgroupDriver::Systemd);
    }

    #[test]
    fn a_connection_that_broke_is_a_failure_and_no_refusal() {
        let broke = CommandError::Remote {
            host: "m1".to_owned(),
            command: "kubectl get nodes".to_owned(),
            evidence: "timed out".to_owned(),
        };
        let told = |cause: anyhow::Error| exit::status(&not_eligible(cause.context("outer")));
        assert_eq!(told(broke.into()), 1);
        let silent = CommandError::Silent {
            host: "m1".to_owned(),
            command: "kubectl get nodes".to_owned(),
            limit: std::time::Duration::from_secs(40),
        };
        assert_eq!(told(silent.into()), 3);
        assert_eq!(told(anyhow::anyhow!("not a master")), 3);
    }
}
