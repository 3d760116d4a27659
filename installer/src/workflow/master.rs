//! Making this machine a master: a join, a rebirth under its old name and address, or in another master's place.
//!
//! All three look first, refuse what can be refused, show one plan, and change this machine before the cluster. What is done on the cluster is done under its lock, after everything
//! that refuses was asked once more.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::decide::{decide, holder, none_behind, recheck, silent_from_here, take_lock};
use super::seen::{Seen, is_etcd, look, quorum_is_lost, tell_of_lost_quorum};
use super::session::{Session, lock_state};
use super::{Run, down, root_only, warn};
use crate::control_plane::Cluster;
use crate::control_plane::freshness;
use crate::control_plane::lease;
use crate::control_plane::objects::Node;
use crate::engine::{self, Plan, Steps};
use crate::facts::docker::CgroupDriver;
use crate::host::Host;
use crate::host::command::Runner;
use crate::host::ssh::{Ssh, Target};
use crate::joining::bridge;
use crate::joining::clear::ClearInterruptedJoin;
use crate::joining::endpoint::EndpointName;
use crate::joining::extra_files::ExtraFiles;
use crate::joining::knock::knock;
use crate::joining::kubeadm_images::KubeadmImages;
use crate::joining::refusals::Past;
use crate::joining::revoke::RevokeCredentials;
use crate::joining::{self};
use crate::journal::{Change, Event, Journal};
use crate::plans;
use crate::replacing::health::{EtcdImage, erase_credentials};
use crate::replacing::{record, restore};
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
    /// Registries that the runtime may speak to without TLS.
    pub insecure_registries: Vec<String>,
    /// Whether static pods besides kubeadm's own are copied.
    pub copy_static_pods: bool,
}

/// Makes this machine a master of a running cluster.
pub fn become_master(run: &Run<'_>, options: &Master, local: &Arc<dyn Runner>) -> Result<()> {
    root_only()?;
    let connect =
        |target| -> Result<Arc<dyn Runner>> { Ok(Arc::new(Ssh::connect(local.clone(), target)?)) };
    let seen = look(run, options, &connect, &knock)?;
    let images = decide(run, &seen, &knock)?;
    let driver: CgroupDriver = seen
        .joining
        .cluster
        .cgroup_driver
        .parse()
        .map_err(anyhow::Error::msg)?;
    let etcd_image = etcd_image(&seen, &images);
    let on_cluster = cluster_steps(options, &seen, etcd_image.as_ref());
    let asked =
        (seen.past != Past::Joined).then(|| KubeadmImages::new(seen.joining.clone(), &images));
    let work = Work {
        environment: plans::environment(&run.pot, driver, &options.insecure_registries, images)?,
        before: plans::before_join(&seen.endpoint, asked),
        on_cluster,
        etcd_image,
        after: after_join(&seen.endpoint),
    };
    carry_out(run, options, &seen, &work, Stop::listen)
}

/// The steps of a run, in their order.
pub(super) struct Work {
    /// On this machine, without a cluster.
    pub(super) environment: Steps,
    /// On this machine, before the join.
    pub(super) before: Steps,
    /// Under the cluster's lock.
    pub(super) on_cluster: Steps,
    /// etcd's image, by the cluster's name for it.
    pub(super) etcd_image: Option<EtcdImage>,
    /// On this machine, after the join.
    pub(super) after: Steps,
}

/// Shows the plan, and does what is to do; `listen` listens to signals from the first change on.
pub(super) fn carry_out(
    run: &Run<'_>,
    options: &Master,
    seen: &Seen,
    work: &Work,
    listen: fn() -> Result<Stop>,
) -> Result<()> {
    let joining = &seen.joining;
    let at_once = joining.asked_once(&seen.view);
    let look = View {
        host: &run.host,
        cluster: Some(&at_once),
    };
    let mut plan = Plan::of(&work.environment, look)?;
    plan.rows.extend(Plan::of(&work.before, look)?.rows);
    let on_the_cluster = Plan::of(&work.on_cluster, look)?;
    let cluster_is_done = on_the_cluster.is_done();
    plan.rows.extend(on_the_cluster.rows);
    plan.rows.extend(Plan::of(&work.after, look)?.rows);
    if let Some(ignored) = joining.ignored {
        run.console.say(&ignored.told(&seen.facts.kernel.release));
    }
    let mut subject = json!({ "node": joining.node, "address": joining.address });
    if let Some(note) = down::note_of_static_pods(options, seen.down.as_ref(), seen.past, look)? {
        warn(run.console, &[note]);
    }
    let Some(session) = Session::begin(&run.terms(), options.way.workflow(), &plan, &subject)?
    else {
        if !run.dry_run {
            end_killed(seen)?;
        }
        return Ok(());
    };
    let host = Host::new(run.host.clone(), &session.journal).until(listen()?);
    let changing = Cluster::new(seen.view.clone());
    let world = World {
        host: &host,
        cluster: Some(&changing),
    };
    let (mut offered, mut kept) = (Vec::new(), None);
    let outcome = (|| {
        engine::run(&work.environment, world, &session.journal, run.console)?;
        engine::run(&work.before, world, &session.journal, run.console)?;
        offered = offer(seen)?;
        if !cluster_is_done {
            kept = keep_offered(&host, seen, &offered)?;
            on_cluster(run, &session, world, work, seen)?;
        }
        engine::run(&work.after, world, &session.journal, run.console)
    })();
    if outcome.is_err()
        && let Some(etcd) = &joining.cluster.etcd
        && let Some(how) = quorum_is_lost(&seen.view, Some(etcd))
    {
        tell_of_lost_quorum(run, &seen.view, &how);
    }
    if outcome.is_err() && seen.departed.is_some() {
        run.console.say("what was begun is finished by running the same command again here; if this machine is lost, another one takes its place, and the old one's: change-master --down NAME");
    }
    if outcome.is_err() && seen.past == Past::Worker && cordoned(seen) != Some(false) {
        let node = &joining.node;
        run.console.say(&format!("the worker {node} may be cordoned, as a node is that is drained: no new pod comes to it. Where it is to stay a worker, on a master: kubectl uncordon {node}"));
    }
    if outcome.is_err()
        && let Some(kept) = kept
    {
        run.console.say(&format!(
            "what the old master's node had, and {} may want as well, is kept as commands in {}",
            joining.node,
            kept.display()
        ));
    }
    if !offered.is_empty() {
        subject["offered"] = json!(offered);
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

/// Says the last words of a run that was killed when everything was done: the lock is given back, and the journal knows that the join came to its end.
fn end_killed(seen: &Seen) -> Result<()> {
    let (joining, holder) = (&seen.joining, holder(seen));
    let joined = seen.past == Past::Joined && (seen.interrupted || seen.settling);
    let held = lease::is_ours(&seen.view, &holder)?;
    if !joined && !held {
        return Ok(());
    }
    let _alone = lock_state(&joining.state)?;
    if held {
        lease::give_back(&Cluster::new(seen.view.clone()), &holder)?;
    }
    if joined {
        Journal::new(&joining.state).record(Event::End {
            outcome: "done".to_owned(),
        })?;
    }
    Ok(())
}

/// Whether this machine's node is cordoned, as a drained one is; nothing where the cluster does not tell.
fn cordoned(seen: &Seen) -> Option<bool> {
    let node: Option<Node> = seen.view.find(&["node", &seen.joining.node]).ok()?;
    Some(node.is_some_and(|node| node.spec.unschedulable))
}

/// etcd's image, by the cluster's name for it.
pub(super) fn etcd_image(seen: &Seen, images: &[ImageWanted]) -> Option<EtcdImage> {
    let mut names = images.iter().flat_map(|image| &image.names);
    let name = names.find(|name| is_etcd(name))?;
    Some(EtcdImage {
        runtime: seen.joining.runtime,
        name: name.clone(),
    })
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
    Ok(node.map_or_else(Vec::new, |node| {
        let addresses = (departed.address.as_str(), seen.joining.address.as_str());
        restore::offer(&node, &seen.joining.node, addresses)
    }))
}

/// Keeps what is offered among this run's backups, and says where: with the record the cluster forgets it, and what comes after that may fail.
fn keep_offered(host: &Host<'_>, seen: &Seen, offered: &[String]) -> Result<Option<PathBuf>> {
    let Some(departed) = seen.departed.as_ref().filter(|_| !offered.is_empty()) else {
        return Ok(None);
    };
    // etcd lets a member be called anything, and what holds a slash is no file's name.
    let name = format!("offered-{}.sh", departed.name.replace('/', "_"));
    let path = host.keep(&name, &mut |file| {
        Ok(offered
            .iter()
            .try_for_each(|command| writeln!(file, "{command}"))?)
    })?;
    Ok(Some(path))
}

/// What is done under the cluster's lock.
pub(super) fn cluster_steps(
    options: &Master,
    seen: &Seen,
    etcd_image: Option<&EtcdImage>,
) -> Steps {
    let mut steps = match seen.past {
        Past::Joined => Steps::new(),
        Past::Stranger | Past::Interrupted | Past::Returning | Past::Worker => {
            plans::raise_bridge(&seen.joining)
        }
    };
    steps.extend(bridged(options, seen, etcd_image.cloned()));
    steps
}

/// The same, but for the bridge that may come first.
fn bridged(options: &Master, seen: &Seen, etcd_image: Option<EtcdImage>) -> Steps {
    let joining = &seen.joining;
    let pods = options
        .copy_static_pods
        .then(|| down::static_pods(options, seen.down.as_ref()));
    let mut files = ExtraFiles::new(
        joining.cluster.extra_paths.clone(),
        &joining.cluster.config.certificates_dir,
    );
    if let Some(departed) = seen.departed.as_ref().filter(|_| seen.down.is_none()) {
        return if seen.past == Past::Joined {
            plans::finish_rebirth(joining, departed, pods)
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
    // What a worker has is no reason to refuse it: it goes with the worker's node.
    let clear = (seen.past != Past::Worker)
        .then(|| ClearInterruptedJoin::new(joining.clone(), seen.interrupted));
    let mut join = plans::join(joining, clear, files, pods);
    if seen.past == Past::Worker || seen.recorded {
        join.extend(plans::restore_worker(joining));
    }
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
    work: &Work,
    seen: &Seen,
) -> Result<()> {
    let joining = &seen.joining;
    let cluster = world.cluster.context("this workflow has no cluster")?;
    session.journal.record(Event::Step {
        step: "cluster-lock".to_owned(),
    })?;
    let holder = holder(seen);
    let lock = take_lock(run.console, cluster, &holder, world.host.stop())?;
    let mut servers = joining.cluster.api_servers();
    let refused = recheck(run, seen)
        .and_then(|()| {
            let behind = freshness::standing_still(cluster.view(), &servers, &lock.written()?)?;
            none_behind(run, joining, &behind)
        })
        .and_then(|()| silent_from_here(run, world, seen, work.etcd_image.as_ref()));
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
    let outcome = engine::run(&work.on_cluster, world, &session.journal, run.console);
    if outcome.is_err() {
        let revoke = RevokeCredentials::new(joining.clone());
        if let Err(cause) = revoke.apply(world) {
            run.console.say(&format!("the join's credentials could not be taken back: {cause:#}\nThey end by themselves: the token in 15 minutes, the certificates in 2 hours"));
        }
        if let Err(cause) = erase_credentials(world.host) {
            run.console.say(&format!("the healthy master's etcd client key may still be on this machine: {cause:#}\nRunning the same command again erases it, and so does a reboot"));
        }
        if joining.bridge.is_some()
            && let Err(cause) = bridge::remove(world.host)
        {
            run.console.say(&format!("the packet filter still leads the cluster's endpoint to another master: {cause:#}\nRunning the same command again ends that, and so do a rollback and a reboot"));
        }
    }
    if outcome.is_ok() {
        servers.insert(joining.node.clone(), joining.own_server());
        lock.renew(cluster)?;
        let behind = freshness::standing_still(cluster.view(), &servers, &lock.written()?)?;
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
