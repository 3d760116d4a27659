//! What each command does from its first look to its last word: gather, refuse, plan, ask, lock, run, tidy up, report.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bundle_spec::VerifiedPot;
use serde_json::{Value, json};

use crate::console::{Console, Format};
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::images::{PodNetwork, familiar, labels_of_master};
use crate::control_plane::kubeadm::Generation;
use crate::control_plane::lease::{self, Holder, Lock};
use crate::control_plane::{Cluster, ClusterView};
use crate::engine::{self, Plan, Steps};
use crate::exit::{NotEligible, Usage};
use crate::facts::docker::CgroupDriver;
use crate::facts::{self, Facts};
use crate::host::command::{Runner, await_outliving};
use crate::host::ssh::{Ssh, Target};
use crate::host::{Host, HostView};
use crate::joining::endpoint::{self, EndpointName};
use crate::joining::refusals::{self, Here, Past, Refusal};
use crate::joining::revoke::RevokeCredentials;
use crate::joining::{self, Joining, Standing};
use crate::journal::{Change, Event, Journal, STATE_DIR};
use crate::plans;
use crate::preflight::{self, Finding, KubeletThresholds, Needs, Purpose, Report};
use crate::signals::Stop;
use crate::step::{Step, View, World};
use crate::steps::{HostsEntry, ImageWanted};

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

/// What `init-env` is told.
pub struct InitEnv {
    /// Who makes the cgroups of containers.
    pub cgroup_driver: CgroupDriver,
    /// Registries that Docker may speak to without TLS.
    pub insecure_registries: Vec<String>,
}

/// What `join-master` is told.
pub struct JoinMaster {
    /// How to reach the healthy master.
    pub target: Target,
    /// The name of this machine's node, where it was given.
    pub node_name: Option<String>,
    /// The address of this machine's apiserver and etcd, where it was given.
    pub advertise_address: Option<IpAddr>,
    /// Registries that Docker may speak to without TLS.
    pub insecure_registries: Vec<String>,
}

/// Tells whether this machine can become a master.
pub fn preflight(run: &Run<'_>) -> Result<()> {
    let facts = facts::gather(&run.host, None)?;
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

/// The longest that a kubeadm which outlived a killed run is waited for; its own limits add up to less.
const OUTLIVING: Duration = Duration::from_secs(600);

/// A member of etcd at an address that is not this machine's would never start, and would count all the same.
fn own_address(facts: &Facts, address: &str) -> Option<Refusal> {
    let own: Vec<String> = facts
        .interfaces
        .iter()
        .map(|interface| interface.address.to_string())
        .collect();
    (!own.iter().any(|own| own == address)).then(|| Refusal {
        cause: format!(
            "{address} is not an address of this machine, which has {}",
            own.join(", ")
        ),
        remedy: "Give one of those with --advertise-address".to_owned(),
    })
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
        arch: manifest.arch,
        node_name,
        api_port: 6443,
        to_write: preflight::to_write(&run.host, manifest, &images, ETCD_ROOM)?,
        thresholds: KubeletThresholds::default(),
    })
}

/// The room that etcd's data is given on this machine, in bytes: etcd's own default quota (`--quota-backend-bytes`) is 2 GiB; what a cluster really has is seldom a quarter.
const ETCD_ROOM: u64 = 512 << 20;

/// Prepares this machine as a node.
pub fn init_env(run: &Run<'_>, options: &InitEnv) -> Result<()> {
    let manifest = run.pot.manifest();
    let facts = facts::gather(&run.host, None)?;
    let needs = needs(run, Purpose::Environment, hostname()?)?;
    let report = preflight::run(&facts, &needs);
    refuse(run, &report_refusals(&report))?;
    warn(run, &report_warnings(&report));
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
        options.cgroup_driver,
        &options.insecure_registries,
        images,
    )?;
    let view = View {
        host: &run.host,
        cluster: None,
    };
    let plan = Plan::of(&steps, view)?;
    let Some(session) = Session::begin(run, "init-env", &plan, None)? else {
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
    session.end(run, outcome, &json!({}))?;
    run.console
        .result("This machine is ready to join: ./kpot-install join-master --healthy ADDRESS")
}

/// Makes this machine one more master of a running cluster.
pub fn join_master(run: &Run<'_>, options: JoinMaster, local: Arc<dyn Runner>) -> Result<()> {
    let manifest = run.pot.manifest();
    let state = Path::new(STATE_DIR);
    root_only()?;
    run.console.say(&format!(
        "connecting to {}@{} …",
        options.target.user, options.target.host
    ));
    let address_given = options.target.host.clone();
    let ssh: Arc<dyn Runner> = Arc::new(Ssh::connect(local, options.target)?);
    let view = ClusterView::new(ssh, address_given);

    run.console
        .say("asking the cluster and looking at this machine …");
    let hostname = hostname()?;
    let cluster = Rc::new(ClusterFacts::gather(&view).map_err(not_eligible)?);
    let healthy = endpoint::healthy_address(&cluster)?;
    let facts = facts::gather(&run.host, Some(healthy))?;
    let own = options.advertise_address.or(facts.source_address);
    let address = own.context("this machine has no address that reaches the healthy master: give one with --advertise-address")?.to_string();
    // On a TKE cluster every node is called by its address.
    let node = match options.node_name {
        None if cluster.healthy.metadata.name == healthy.to_string() => address.clone(),
        None => hostname,
        Some(name) => name,
    };

    let journal = Journal::read(state)?;
    let Some(generation) = Generation::of(manifest.kubernetes) else {
        bail!(NotEligible(format!(
            "Kubernetes {} is older than what this program knows (v1.13)",
            manifest.kubernetes
        )));
    };
    let driver: CgroupDriver = cluster.cgroup_driver.parse().map_err(anyhow::Error::msg)?;
    let joining = Joining {
        discovery: socket(healthy, cluster.apiserver_port),
        cluster: cluster.clone(),
        generation,
        node,
        address,
        ignored_checks: preflight::kernel::ignored_checks(manifest.kubernetes, &facts),
        state: state.to_owned(),
    };
    let look = View {
        host: &run.host,
        cluster: Some(&view),
    };
    let interrupted = joining::was_interrupted(&journal, &joining.node, &joining.address);
    if interrupted {
        run.console.say("a join of this machine was interrupted; waiting for its kubeadm to end, should it still run …");
        let patience = if run.dry_run {
            Duration::ZERO
        } else {
            OUTLIVING
        };
        let ended = await_outliving(&joining.kubeadm_log(), patience)
            .context("cannot tell whether the interrupted kubeadm still runs")?;
        ensure!(ended, NotEligible("the kubeadm of an interrupted run is still at work on this machine; see: ps -ef | grep kubeadm".to_owned()));
    }
    let past = match joining.standing(look)? {
        Standing::Whole => Past::Joined,
        _ if interrupted => Past::Interrupted,
        _ => Past::Stranger,
    };

    let network = PodNetwork::of(
        &cluster.daemon_sets,
        &labels_of_master(&joining.node, manifest.arch),
    );
    let mut needs = needs(run, Purpose::Master, joining.node.clone())?;
    needs.standing = match past {
        Past::Stranger => preflight::Standing::Bare,
        Past::Interrupted => preflight::Standing::Interrupted,
        Past::Joined => preflight::Standing::Joined,
    };
    needs.network = match (network.given_by.is_empty(), cluster.healthy_has_cni) {
        (true, true) => preflight::Network::People,
        _ => preflight::Network::Pods,
    };
    needs.api_port = cluster.apiserver_port;
    needs.thresholds = KubeletThresholds::new(
        cluster.kubelet.image_gc_high_threshold_percent,
        &cluster.kubelet.eviction_hard,
    )?;
    let report = preflight::run(&facts, &needs);
    let mut all = report_refusals(&report);
    let here = Here {
        node: &joining.node,
        address: &joining.address,
        manifest,
        images: images_here(&facts),
        has_cni: !run.host.list("/etc/cni/net.d")?.is_empty(),
        network,
        past,
        uploaded: joining::uploaded_since(&journal),
    };
    let (judged, warnings) = refusals::judge(&cluster, &here);
    let endpoint = EndpointName::decide(
        &cluster.endpoint,
        &endpoint::resolve_here(&run.host, &cluster.endpoint)?,
        healthy,
    );
    let holder = Holder {
        identity: format!("{}/{}", joining.node, joining.address),
        clock_skew: cluster.clock_skew,
    };
    if past != Past::Joined {
        all.extend(endpoint::reach(&cluster, &endpoint));
        all.extend(endpoint::reach_members(&cluster, &joining.discovery));
        all.extend(own_address(&facts, &joining.address));
        if let Some((other, left)) = lease::held_by_other(&view, &holder)? {
            all.push(Refusal {
                cause: format!("{other} is changing the masters of this cluster right now (Lease kube-system/{})", lease::NAME),
                remedy: format!("Wait for it; its lock expires in {left} s unless renewed"),
            });
        }
    }
    let images = match judged {
        Ok(images) => images,
        Err(more) => {
            all.extend(more);
            Vec::new()
        }
    };
    refuse(run, &all)?;
    warn(run, &report_warnings(&report));
    warn(run, &warnings);

    let environment = plans::environment(&run.pot, driver, &options.insecure_registries, images)?;
    let before = plans::before_join(&endpoint);
    let join = plans::join(&joining, interrupted);
    let after = after_join(&endpoint);
    let mut plan = Plan::default();
    for steps in [&environment, &before, &join, &after] {
        plan.rows.extend(Plan::of(steps, look)?.rows);
    }
    if !joining.ignored_checks.is_empty() {
        run.console.say(&format!(
            "kubeadm's check {} only refuses kernels that it does not know ({} here); what it stands for was proved above, so kubeadm is told to pass over it",
            joining.ignored_checks.join(", "),
            facts.kernel.release
        ));
    }
    let Some(session) = Session::begin(run, "join-master", &plan, Some(&joining))? else {
        if past == Past::Joined && interrupted && !run.dry_run {
            // The join that the journal thinks interrupted came to its end without us.
            Journal::new(state).record(Event::End {
                outcome: "done".to_owned(),
            })?;
        }
        return Ok(());
    };
    let host = Host::new(run.host.clone(), &session.journal).until(Stop::listen()?);
    let changing = Cluster::new(view.clone());
    let world = World {
        host: &host,
        cluster: Some(&changing),
    };
    let outcome = (|| {
        engine::run(&environment, world, &session.journal, run.console)?;
        engine::run(&before, world, &session.journal, run.console)?;
        let recheck = || {
            let now = ClusterFacts::gather(&view)?;
            refuse(
                run,
                &refusals::judge(&now, &here).0.err().unwrap_or_default(),
            )
        };
        on_cluster(run, &session, world, &join, &joining, &holder, &recheck)?;
        engine::run(&after, world, &session.journal, run.console)
    })();
    session.end(
        run,
        outcome,
        &json!({ "node": joining.node, "address": joining.address }),
    )?;
    run.console.result(&format!(
        "{} is a master of the cluster now, at {}. Look at it: ssh {} kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes",
        joining.node,
        joining.address,
        view.address()
    ))
}

/// The part of a join that changes the cluster: under its lock, and with the credentials taken back whatever happens.
///
/// `recheck` is what refuses, asked again: minutes may have passed since the plan, and only under the lock nobody else of ours can come in between.
fn on_cluster(
    run: &Run<'_>,
    session: &Session,
    world: World<'_>,
    steps: &Steps,
    joining: &Joining,
    holder: &Holder,
    recheck: &dyn Fn() -> Result<()>,
) -> Result<()> {
    if Plan::of(steps, world.view())?.is_done() {
        return Ok(());
    }
    let cluster = world.cluster.context("this workflow has no cluster")?;
    session.journal.record(Event::Step {
        step: "cluster-lock".to_owned(),
    })?;
    let lock = Lock::take(cluster, holder).map_err(not_eligible)?;
    if let Err(refused) = recheck() {
        lock.release()?;
        return Err(refused);
    }
    // From here on what appears on this machine and under its name in the cluster is this join's, and a later run may clear it.
    session.journal.record(Event::Intent {
        step: joining::join::ID.to_owned(),
        change: Change::Join {
            node: joining.node.clone(),
            address: joining.address.clone(),
        },
    })?;
    let outcome = engine::run(steps, world, &session.journal, run.console);
    if outcome.is_err() {
        let revoke = RevokeCredentials::new(joining.clone());
        if let Err(cause) = revoke.apply(world) {
            run.console.say(&format!("the join's credentials could not be taken back: {cause:#}\nThey end by themselves: the token in 15 minutes, the certificates in 2 hours"));
        }
    }
    match (outcome, lock.release()) {
        (Ok(()), released) => released,
        (failed, Ok(())) => failed,
        (failed, Err(cause)) => {
            run.console.say(&format!("{cause:#}"));
            failed
        }
    }
}

fn after_join(endpoint: &EndpointName) -> Steps {
    match endpoint {
        EndpointName::Name {
            name,
            finally: Some(address),
            ..
        } => vec![Box::new(HostsEntry::finally(name.clone(), *address))],
        _ => Vec::new(),
    }
}

/// A run that may change this machine: it alone, with a journal.
struct Session {
    journal: Journal,
    workflow: &'static str,
    _lock: File,
}

impl Session {
    /// Shows the plan; nothing where there is nothing to do, or where only the plan was asked for.
    fn begin(
        run: &Run<'_>,
        workflow: &'static str,
        plan: &Plan,
        joining: Option<&Joining>,
    ) -> Result<Option<Self>> {
        run.console.plan(plan)?;
        let document = |outcome: &str| {
            let mut document = json!({ "workflow": workflow, "outcome": outcome, "plan": plan });
            if let Some(joining) = joining {
                document["node"] = json!(joining.node);
                document["address"] = json!(joining.address);
            }
            document
        };
        let conflicts: Vec<String> = plan
            .conflicts()
            .map(|row| format!("{}: {}\n{}", row.step, row.why, row.remedy))
            .collect();
        if !conflicts.is_empty() {
            run.console.document(&document("refused"))?;
            bail!(NotEligible(format!(
                "nothing was changed; something is in the way:\n{}",
                conflicts.join("\n")
            )));
        }
        if plan.is_done() {
            run.console.result("nothing to do")?;
            run.console.document(&document("nothing to do"))?;
            return Ok(None);
        }
        if run.dry_run {
            run.console.result("dry run: nothing was changed")?;
            run.console.document(&document("dry run"))?;
            return Ok(None);
        }
        if !run.yes && !run.console.confirm("Go on?")? {
            bail!(Usage(
                "nothing was changed: nobody said yes. Answer y on a terminal, or add --yes"
                    .to_owned()
            ));
        }
        let lock = lock_state(Path::new(STATE_DIR))?;
        let journal = Journal::new(STATE_DIR);
        journal.record(Event::Begin {
            workflow: workflow.to_owned(),
            pot: run.pot.identity().to_string(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        Ok(Some(Self {
            journal,
            workflow,
            _lock: lock,
        }))
    }

    /// Writes the end into the journal and the JSON document.
    fn end(&self, run: &Run<'_>, outcome: Result<()>, more: &Value) -> Result<()> {
        let word = if outcome.is_ok() { "done" } else { "failed" };
        let recorded = self.journal.record(Event::End {
            outcome: word.to_owned(),
        });
        if run.console.format() == Format::Json {
            let mut document = json!({ "workflow": self.workflow, "outcome": word, "steps": run.console.steps(), "seconds": run.console.elapsed().as_secs_f64() });
            if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
                document.extend(more.clone());
            }
            if let Err(cause) = &outcome {
                document["error"] = json!(format!("{cause:#}"));
            }
            run.console.document(&document)?;
        }
        outcome?;
        run.console.say(&format!(
            "{} done in {:.0} s",
            self.workflow,
            run.console.elapsed().as_secs_f64()
        ));
        recorded
    }
}

/// One program at a time on this machine. The lock is the kernel's: it ends with the process, however that ends.
pub(crate) fn lock_state(state: &Path) -> Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("cannot make the folder {}", state.display()))?;
    let path = state.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another kpot-install is at work on this machine: wait for it ({} is locked)",
            path.display()
        ),
        Err(TryLockError::Error(cause)) => {
            Err(cause).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

pub(crate) fn root_only() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        NotEligible("this must run as root: sudo ./kpot-install …".to_owned())
    );
    Ok(())
}

/// Gives an error the number of a refusal.
#[allow(
    clippy::needless_pass_by_value,
    reason = "it is what map_err hands over"
)]
fn not_eligible(cause: anyhow::Error) -> anyhow::Error {
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

fn images_here(facts: &Facts) -> Vec<String> {
    facts
        .image_names
        .iter()
        .map(|name| familiar(name))
        .collect()
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn warn(run: &Run<'_>, warnings: &[String]) {
    for warning in warnings {
        run.console.say(&format!("note: {warning}"));
    }
}

/// Ends the run with every refusal at once.
fn refuse(run: &Run<'_>, refusals: &[Refusal]) -> Result<()> {
    if refusals.is_empty() {
        return Ok(());
    }
    let causes: Vec<Value> = refusals
        .iter()
        .map(|refusal| json!({ "cause": refusal.cause, "remedy": refusal.remedy }))
        .collect();
    run.console
        .document(&json!({ "outcome": "refused", "refusals": causes }))?;
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
    bail!(NotEligible(format!(
        "refused; nothing was changed:\n{}",
        list.join("\n")
    )))
}
