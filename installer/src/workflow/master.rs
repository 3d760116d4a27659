//! Making this machine a master: a join, a rebirth under its old name and address, or in another master's place.
//!
//! All three look first, refuse what can be refused, show one plan, and change this machine before the cluster. What is done on the cluster is done under its lock, after everything
//! that refuses was asked once more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::session::Session;
use super::{
    Run, down, hostname, needs, not_eligible, refuse, refused, report_refusals, report_warnings,
    root_only, warn,
};
use crate::control_plane::etcd::{Etcd, Version};
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::freshness;
use crate::control_plane::guard::Votes;
use crate::control_plane::images::{PodNetwork, familiar, labels_of_master};
use crate::control_plane::kubeadm::Generation;
use crate::control_plane::lease::{self, Holder, Lock};
use crate::control_plane::{Cluster, ClusterView, runbook};
use crate::engine::{self, Plan, Steps};
use crate::exit::NotEligible;
use crate::facts::docker::CgroupDriver;
use crate::facts::{self, Facts};
use crate::host::Host;
use crate::host::command::{Runner, await_outliving};
use crate::host::ssh::{Ssh, Target};
use crate::joining::endpoint::{self, EndpointName};
use crate::joining::extra_files::ExtraFiles;
use crate::joining::refusals::{self, Here, Past, Refusal};
use crate::joining::revoke::RevokeCredentials;
use crate::joining::{self, Joining, Standing};
use crate::journal::{Change, Entry, Event, Journal, STATE_DIR};
use crate::plans;
use crate::preflight::{self, KubeletThresholds, Purpose};
use crate::replacing::down::Down;
use crate::replacing::{Departed, health, record, remove_member, restore};
use crate::signals::Stop;
use crate::step::{Step, View, World};
use crate::steps::{HostsEntry, ImageWanted};

/// In which way this machine becomes a master.
#[derive(Clone, Debug)]
pub enum Way {
    /// One more.
    Join,
    /// Again, under the name and address that it had.
    Rebirth {
        /// Also where it is in good health.
        force: bool,
    },
    /// In the place of another one.
    Change {
        /// That one: the name of its node, its address, or its etcd member's ID.
        down: String,
        /// Whether Kubernetes is taken off its machine afterwards.
        reset_down: bool,
        /// The fingerprint of its machine's host key, where it was given.
        down_host_key: Option<String>,
    },
}

impl Way {
    /// What the command is called.
    fn workflow(&self) -> &'static str {
        match self {
            Self::Join => "join-master",
            Self::Rebirth { .. } => "rebirth-master",
            Self::Change { .. } => "change-master",
        }
    }
}

/// What a machine that becomes a master is told.
pub struct Master {
    /// In which way.
    pub way: Way,
    /// How to reach the healthy master.
    pub target: Target,
    /// The name of this machine's node, where it was given.
    pub node_name: Option<String>,
    /// The address of this machine's apiserver and etcd, where it was given.
    pub advertise_address: Option<IpAddr>,
    /// Registries that Docker may speak to without TLS.
    pub insecure_registries: Vec<String>,
    /// Whether static pods besides kubeadm's own are copied.
    pub copy_static_pods: bool,
}

/// Everything that was looked at before anything is decided.
struct Seen {
    view: ClusterView,
    facts: Facts,
    healthy: IpAddr,
    joining: Joining,
    journal: Vec<Entry>,
    /// Whose records go.
    departed: Option<Departed>,
    /// The same with its machine, where that is another one.
    down: Option<Down>,
    /// Whether a join of this machine was cut off.
    interrupted: bool,
    past: Past,
}

/// Makes this machine a master of a running cluster.
pub fn become_master(run: &Run<'_>, options: &Master, local: Arc<dyn Runner>) -> Result<()> {
    root_only()?;
    let Some(seen) = look(run, options, local)? else {
        return Ok(());
    };
    let (endpoint, images) = decide(run, &seen)?;
    let joining = &seen.joining;
    let look = View {
        host: &run.host,
        cluster: Some(&seen.view),
    };
    let etcd_image = images
        .iter()
        .flat_map(|image| &image.names)
        .find(|name| is_etcd(name))
        .cloned();
    let driver: CgroupDriver = joining
        .cluster
        .cgroup_driver
        .parse()
        .map_err(anyhow::Error::msg)?;
    let environment = plans::environment(&run.pot, driver, &options.insecure_registries, images)?;
    let before = plans::before_join(&endpoint);
    let on_it = cluster_steps(options, &seen, etcd_image);
    let after = after_join(&endpoint);
    let mut plan = Plan::default();
    for steps in [&environment, &before, &on_it, &after] {
        plan.rows.extend(Plan::of(steps, look)?.rows);
    }
    if !joining.ignored_checks.is_empty() {
        run.console.say(&format!(
            "kubeadm's check {} only refuses kernels that it does not know ({} here); what it stands for was proved above, so kubeadm is told to pass over it",
            joining.ignored_checks.join(", "),
            seen.facts.kernel.release
        ));
    }
    let mut subject = json!({ "node": joining.node, "address": joining.address });
    if let Some(note) = down::note_of_static_pods(options, seen.down.as_ref(), seen.past, look)? {
        subject["notes"] = json!([note]);
        warn(run.console, &[note]);
    }
    let Some(session) = Session::begin(&run.terms(), options.way.workflow(), &plan, &subject)?
    else {
        if seen.past == Past::Joined && seen.interrupted && !run.dry_run {
            // The join that the journal thinks interrupted came to its end without us.
            Journal::new(&joining.state).record(Event::End {
                outcome: "done".to_owned(),
            })?;
        }
        return Ok(());
    };
    let host = Host::new(run.host.clone(), &session.journal).until(Stop::listen()?);
    let changing = Cluster::new(seen.view.clone());
    let world = World {
        host: &host,
        cluster: Some(&changing),
    };
    let mut offered = Vec::new();
    let outcome = (|| {
        engine::run(&environment, world, &session.journal, run.console)?;
        engine::run(&before, world, &session.journal, run.console)?;
        offered = offer(&seen)?;
        on_cluster(run, &session, world, &on_it, &seen)?;
        engine::run(&after, world, &session.journal, run.console)
    })();
    if outcome.is_err() && seen.departed.is_some() {
        run.console.say("what was begun is finished by running the same command again here; if this machine is lost, another one takes its place, and the old one's: change-master --down NAME");
    }
    session.end(&run.terms(), outcome, &subject)?;
    run.console.result(&format!(
        "{} is a master of the cluster now, at {}. Look at it: ssh {} kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes",
        joining.node,
        joining.address,
        seen.view.address()
    ))?;
    if !offered.is_empty() {
        run.console.result(&format!(
            "What the old master's node had, and {} may want as well:\n  {}",
            joining.node,
            offered.join("\n  ")
        ))?;
    }
    Ok(())
}

fn is_etcd(image: &str) -> bool {
    image
        .rsplit('/')
        .next()
        .is_some_and(|name| name.starts_with("etcd:"))
}

/// Commands that give this node what the node of another name had.
fn offer(seen: &Seen) -> Result<Vec<String>> {
    let Some(departed) = &seen.departed else {
        return Ok(Vec::new());
    };
    if departed.name == seen.joining.node {
        return Ok(Vec::new());
    }
    let node: Option<Value> = match record::kept(&seen.view, departed)? {
        Some(kept) => Some(kept),
        None => seen
            .view
            .find::<Value>(&["node", &departed.name])?
            .map(|node| {
                json!({
                    "labels": node["metadata"]["labels"],
                    "annotations": node["metadata"]["annotations"],
                    "taints": node["spec"]["taints"],
                })
            }),
    };
    Ok(node.map_or_else(Vec::new, |node| restore::offer(&node, &seen.joining.node)))
}

/// Looks at this machine and asks the cluster; nothing where it is a master in good health already and that was all that was wanted.
fn look(run: &Run<'_>, options: &Master, local: Arc<dyn Runner>) -> Result<Option<Seen>> {
    let manifest = run.pot.manifest();
    let target = options.target.clone();
    run.console
        .say(&format!("connecting to {}@{} …", target.user, target.host));
    let address_given = target.host.clone();
    let ssh: Arc<dyn Runner> = Arc::new(Ssh::connect(local.clone(), target)?);
    let view = ClusterView::new(ssh, address_given);

    run.console
        .say("asking the cluster and looking at this machine …");
    let cluster = ClusterFacts::gather(&view).map_err(|cause| match &options.way {
        Way::Join => not_eligible(cause),
        Way::Rebirth { .. } | Way::Change { .. } => match quorum_is_lost(&view) {
            None => not_eligible(cause),
            Some(how) => {
                tell_of_lost_quorum(run, &how);
                not_eligible(cause.context(format!("etcd has no quorum: {how}")))
            }
        },
    })?;
    let cluster = Rc::new(cluster);
    let healthy = endpoint::healthy_address(&cluster)?;
    let facts = facts::gather(&run.host, Some(healthy))?;
    let own = options.advertise_address.or(facts.source_address);
    let address = own.context("this machine has no address that reaches the healthy master: give one with --advertise-address")?.to_string();
    let node = node_name(options, &cluster, healthy, &address)?;
    let journal = Journal::read(Path::new(STATE_DIR))?;
    let Some(generation) = Generation::of(manifest.kubernetes) else {
        bail!(NotEligible(format!(
            "Kubernetes {} is older than what this program knows (v1.13)",
            manifest.kubernetes
        )));
    };
    let joining = Joining {
        discovery: socket(healthy, cluster.apiserver_port),
        cluster: cluster.clone(),
        generation,
        node,
        address,
        ignored_checks: preflight::kernel::ignored_checks(manifest.kubernetes, &facts),
        state: STATE_DIR.into(),
    };
    let here = View {
        host: &run.host,
        cluster: Some(&view),
    };
    let interrupted = joining::was_interrupted(&journal, &joining.node, &joining.address);
    if interrupted {
        await_interrupted(run, &joining)?;
    }
    let standing = joining.standing(here)?;
    let departed = match &options.way {
        Way::Join => None,
        Way::Rebirth { .. } => Some(Departed::ourselves(
            &cluster,
            &joining.node,
            &joining.address,
        )),
        Way::Change {
            down: which,
            reset_down,
            ..
        } => {
            let records = record::all(&view)?;
            let took = down::took_the_place(&journal, which)
                .filter(|gone| standing == Standing::Whole && !gone.is_listed(&cluster));
            match took {
                // The record goes last: while it is kept, the work is not done.
                Some(gone) => (*reset_down
                    || records.iter().any(|record| record.name == gone.name))
                .then_some(Ok(gone)),
                None => Some(Departed::named(
                    &cluster,
                    &records,
                    which,
                    (&joining.node, &joining.address),
                )),
            }
        }
    };
    let departed = departed
        .transpose()
        .map_err(|refusal| refused(run.console, Untouched::Everything, &[refusal]))?;
    let down = match &departed {
        Some(departed) => down::look(run, options, local, &cluster, departed)?,
        None => None,
    };
    let ailments = match &options.way {
        Way::Rebirth { .. } => health::ailments(&joining, &standing, here)?,
        Way::Join | Way::Change { .. } => Vec::new(),
    };
    let whole = standing == Standing::Whole;
    let past = match &options.way {
        Way::Rebirth { force } if whole && ailments.is_empty() && !force => Past::Joined,
        Way::Rebirth { .. } => Past::Returning,
        Way::Join | Way::Change { .. } if whole => Past::Joined,
        _ if interrupted => Past::Interrupted,
        Way::Change { .. } if is_worker(&cluster, &joining) => Past::Worker,
        Way::Join | Way::Change { .. } => Past::Stranger,
    };
    if past == Past::Returning && whole && !ailments.is_empty() {
        run.console.say(&format!(
            "this machine is a master of the cluster, and not in good health: {}",
            ailments.join("; ")
        ));
    }
    Ok(Some(Seen {
        view,
        facts,
        healthy,
        joining,
        journal,
        departed,
        down,
        interrupted,
        past,
    }))
}

/// How many times, and how long apart, an etcd that just starts again (its liveness probe needs the quorum, too) is asked.
const LOOKS: (u32, Duration) = (3, Duration::from_secs(5));

/// Where no API server answers: whether that is because etcd has no quorum, and how that shows.
fn quorum_is_lost(view: &ClusterView) -> Option<String> {
    for look in 1..=LOOKS.0 {
        if let Ok(etcd) = Etcd::without_api(view) {
            if etcd.answers(view) {
                return None;
            }
            if let Ok(members) = etcd.members(view) {
                return Some(Votes::of(&members).to_string());
            }
            if look == LOOKS.0 {
                let address = view.address();
                return Some(format!(
                    "the etcd on {address} runs and answers no read that needs it"
                ));
            }
        }
        thread::sleep(LOOKS.1);
    }
    None
}

/// Prints what to type where etcd has lost its quorum.
fn tell_of_lost_quorum(run: &Run<'_>, how: &str) {
    let manifest = run.pot.manifest();
    let images = manifest.images.iter().flat_map(|image| &image.names);
    let tag = images
        .filter(|name| is_etcd(name))
        .find_map(|name| Version::parse(name.rsplit_once(':')?.1));
    // Of two tools the one that every version but the newest has.
    let version = tag.unwrap_or(Version { major: 3, minor: 5 });
    run.console
        .say(&runbook::lost_quorum(how, version, manifest.runtime.name));
}

/// The name of this machine's node: what was given; else, for a machine that comes back, what the cluster calls the master at its address; else its own name.
fn node_name(
    options: &Master,
    cluster: &ClusterFacts,
    healthy: IpAddr,
    address: &str,
) -> Result<String> {
    if let Some(name) = &options.node_name {
        return Ok(name.clone());
    }
    if let Way::Rebirth { .. } = options.way {
        let node = cluster
            .nodes
            .iter()
            .find(|node| node.has_address(address))
            .map(|node| node.metadata.name.clone());
        let member = || {
            cluster
                .members
                .iter()
                .find(|member| member.is_at(address) && !member.name.is_empty())
                .map(|member| member.name.clone())
        };
        if let Some(name) = node.or_else(member) {
            return Ok(name);
        }
    }
    // On a TKE cluster every node is called by its address.
    if cluster.healthy.metadata.name == healthy.to_string() {
        return Ok(address.to_owned());
    }
    hostname()
}

fn is_worker(cluster: &ClusterFacts, joining: &Joining) -> bool {
    cluster
        .node(&joining.node)
        .is_some_and(|node| !node.is_master() && node.has_address(&joining.address))
}

fn await_interrupted(run: &Run<'_>, joining: &Joining) -> Result<()> {
    run.console.say("a join of this machine was interrupted; waiting for its kubeadm to end, should it still run …");
    let patience = if run.dry_run {
        Duration::ZERO
    } else {
        OUTLIVING
    };
    let ended = await_outliving(&joining.kubeadm_log(), patience)
        .context("cannot tell whether the interrupted kubeadm still runs")?;
    ensure!(
        ended,
        NotEligible("the kubeadm of an interrupted run is still at work on this machine; see: ps -ef | grep kubeadm".to_owned())
    );
    Ok(())
}

/// Refuses everything that can be refused; else how the endpoint is reached, and the images with the cluster's names for them.
fn decide(run: &Run<'_>, seen: &Seen) -> Result<(EndpointName, Vec<ImageWanted>)> {
    let Seen {
        joining,
        facts,
        past,
        departed,
        ..
    } = seen;
    let (past, cluster, manifest) = (*past, &joining.cluster, run.pot.manifest());
    let network = PodNetwork::of(
        &cluster.daemon_sets,
        &labels_of_master(&joining.node, manifest.arch),
    );
    let mut needs = needs(run, Purpose::Master, joining.node.clone())?;
    needs.standing = match past {
        Past::Stranger => preflight::Standing::Bare,
        Past::Interrupted | Past::Returning | Past::Worker => preflight::Standing::Interrupted,
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
    let report = preflight::run(facts, &needs);
    let mut all = report_refusals(&report);
    let here = here(run, seen, network)?;
    let (judged, warnings) = refusals::judge(cluster, &here);
    let endpoint = EndpointName::decide(
        &cluster.endpoint,
        &endpoint::resolve_here(&run.host, &cluster.endpoint)?,
        seen.healthy,
    );
    if let Some(departed) = departed.as_ref().filter(|_| past != Past::Joined) {
        all.extend(remove_member::foreseen(cluster, departed));
        if cluster.etcd.is_some() {
            let votes = Votes::of(&cluster.members);
            if !votes.are_enough() {
                tell_of_lost_quorum(run, &votes.to_string());
            }
        }
    }
    if past != Past::Joined {
        all.extend(endpoint::reach(cluster, &endpoint));
        all.extend(endpoint::reach_members(cluster, &joining.discovery));
        all.extend(own_address(facts, &joining.address));
    }
    if past != Past::Joined || departed.is_some() {
        let holder = holder(seen);
        if let Some((other, left)) = lease::held_by_other(&seen.view, &holder)? {
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
    refuse(run.console, &all)?;
    warn(run.console, &report_warnings(&report));
    warn(run.console, &warnings);
    Ok((endpoint, images))
}

fn here<'s>(run: &'s Run<'_>, seen: &'s Seen, network: PodNetwork) -> Result<Here<'s>> {
    Ok(Here {
        node: &seen.joining.node,
        address: &seen.joining.address,
        manifest: run.pot.manifest(),
        images: images_here(&seen.facts),
        has_cni: !run.host.list("/etc/cni/net.d")?.is_empty(),
        network,
        past: seen.past,
        departed: seen.departed.as_ref(),
        uploaded: joining::uploaded_since(&seen.journal),
    })
}

fn holder(seen: &Seen) -> Holder {
    Holder {
        identity: format!("{}/{}", seen.joining.node, seen.joining.address),
        clock_skew: seen.joining.cluster.clock_skew,
    }
}

/// What is done under the cluster's lock.
fn cluster_steps(options: &Master, seen: &Seen, etcd_image: Option<String>) -> Steps {
    let joining = &seen.joining;
    let pods = options
        .copy_static_pods
        .then(|| down::static_pods(options, seen.down.as_ref()));
    let mut files = ExtraFiles::new(joining.cluster.extra_paths.clone());
    if let Some(departed) = seen.departed.as_ref().filter(|_| seen.down.is_none()) {
        return if seen.past == Past::Joined {
            plans::finish_rebirth(joining, Some(departed), pods)
        } else {
            plans::rebirth(joining, departed, etcd_image, files, pods)
        };
    }
    if matches!(options.way, Way::Change { .. })
        && matches!(seen.past, Past::Joined | Past::Interrupted)
    {
        // What an earlier run brought from a machine that may be silent or empty by now.
        files = files.keeping_own();
    }
    let machine = seen.down.as_ref().and_then(|down| down.reach.machine());
    let files = files.preferring(machine.cloned());
    let join = plans::join(joining, seen.interrupted, files, pods);
    match &seen.down {
        None => join,
        Some(down) if seen.past == Past::Joined && !down.departed.is_listed(&joining.cluster) => {
            plans::finish_change(joining, down, join)
        }
        Some(down) => plans::change(joining, down, seen.past == Past::Worker, etcd_image, join),
    }
}

/// The part of a join that changes the cluster: under its lock, and with the credentials taken back whatever happens.
///
/// What refuses is asked again: minutes may have passed since the plan, and only under the lock nobody else of ours can come in between.
fn on_cluster(
    run: &Run<'_>,
    session: &Session,
    world: World<'_>,
    steps: &Steps,
    seen: &Seen,
) -> Result<()> {
    let joining = &seen.joining;
    if Plan::of(steps, world.view())?.is_done() {
        return Ok(());
    }
    let cluster = world.cluster.context("this workflow has no cluster")?;
    session.journal.record(Event::Step {
        step: "cluster-lock".to_owned(),
    })?;
    let holder = holder(seen);
    let lock = Lock::take(cluster, &holder).map_err(not_eligible)?;
    let mut servers = joining.cluster.api_servers();
    let refused =
        recheck(run, seen).and_then(|()| all_fresh(run, cluster.view(), joining, &servers));
    if let Err(refused) = refused {
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
    if let Some(departed) = seen
        .departed
        .as_ref()
        .filter(|departed| departed.name != joining.node)
    {
        down::note_taken(world.host, departed, &joining.cluster.members)?;
    }
    let outcome = engine::run(steps, world, &session.journal, run.console);
    if outcome.is_err() {
        let revoke = RevokeCredentials::new(joining.clone());
        if let Err(cause) = revoke.apply(world) {
            run.console.say(&format!("the join's credentials could not be taken back: {cause:#}\nThey end by themselves: the token in 15 minutes, the certificates in 2 hours"));
        }
    }
    if outcome.is_ok() {
        servers.insert(joining.node.clone(), joining.own_server());
        lock.renew(cluster, &holder)?;
        let behind = freshness::standing_still(cluster.view(), &servers)?;
        if !behind.is_empty() {
            let (cause, remedy) = freshness::told(&behind);
            warn(run.console, &[format!("{cause}. {remedy}")]);
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

fn recheck(run: &Run<'_>, seen: &Seen) -> Result<()> {
    let now = ClusterFacts::gather(&seen.view)?;
    let manifest = run.pot.manifest();
    let network = PodNetwork::of(
        &now.daemon_sets,
        &labels_of_master(&seen.joining.node, manifest.arch),
    );
    let mut all = refusals::judge(&now, &here(run, seen, network)?)
        .0
        .err()
        .unwrap_or_default();
    if let Some(departed) = &seen.departed {
        all.extend(remove_member::foreseen(&now, departed));
    }
    if all.is_empty() {
        return Ok(());
    }
    Err(refused(run.console, Untouched::Cluster, &all))
}

/// Refuses a join through an API server that stands still; of others that do, it only tells.
fn all_fresh(
    run: &Run<'_>,
    view: &ClusterView,
    joining: &Joining,
    servers: &BTreeMap<String, String>,
) -> Result<()> {
    let behind = freshness::standing_still(view, servers)?;
    if behind.is_empty() {
        return Ok(());
    }
    let (cause, remedy) = freshness::told(&behind);
    if behind.contains(&joining.cluster.healthy.metadata.name) {
        return Err(refused(
            run.console,
            Untouched::Cluster,
            &[Refusal { cause, remedy }],
        ));
    }
    warn(run.console, &[format!("{cause}. {remedy}")]);
    Ok(())
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
