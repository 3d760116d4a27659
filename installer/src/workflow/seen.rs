//! Everything that is looked at before anything is decided: the healthy master, its cluster, this machine, and how far an earlier run came.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::master::{Master, Way};
use super::{OUTLIVING, Run, Untouched, await_kubeadm, down, identity, not_eligible, refused};
use crate::control_plane::containers::Tool;
use crate::control_plane::etcd::{Etcd, Version};
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::guard::Votes;
use crate::control_plane::{ClusterView, runbook};
use crate::exit::NotEligible;
use crate::facts::{self, Facts};
use crate::host::ssh::Connect;
use crate::joining::endpoint::{self, EndpointName, Knock, Reached, Resolved};
use crate::joining::refusals::Past;
use crate::joining::static_pods::PodImage;
use crate::joining::{self, Joining, Standing};
use crate::journal::{Entry, Journal, STATE_DIR};
use crate::kubernetes::Traits;
use crate::preflight::kernel::ignored_check;
use crate::replacing::down::Down;
use crate::replacing::record::{self, Record};
use crate::replacing::{Departed, health};
use crate::rollback::owed::Owed;
use crate::step::View;

/// Everything that was looked at before anything is decided.
pub(super) struct Seen {
    pub view: ClusterView,
    pub facts: Facts,
    pub joining: Joining,
    pub endpoint: EndpointName,
    pub reached: Reached,
    pub journal: Vec<Entry>,
    /// Whose records go.
    pub departed: Option<Departed>,
    /// The same with its machine, where that is another one.
    pub down: Option<Down>,
    /// Whether a join of this machine was cut off.
    pub interrupted: bool,
    /// Whether it came to its end all the same, and no run of ours has since.
    pub settling: bool,
    pub past: Past,
    /// Whether the cluster keeps a record of this machine's own node: that of a worker whose place a master takes.
    pub recorded: bool,
    /// The images of the static pods that are copied here.
    pub static_pods: Vec<PodImage>,
}

/// Looks at this machine and asks the cluster.
pub(super) fn look(
    run: &Run<'_>,
    options: &Master,
    connect: &Connect<'_>,
    knock: &Knock<'_>,
) -> Result<Seen> {
    let manifest = run.pot.manifest();
    let target = options.target.clone();
    run.console
        .say(&format!("connecting to {}@{} …", target.user, target.host));
    let address_given = target.host.clone();
    let view = ClusterView::new(connect(target)?, address_given).by_own_server();

    run.console
        .say("asking the cluster and looking at this machine …");
    let cluster =
        ClusterFacts::gather(&view).map_err(|cause| match quorum_is_lost(&view, None) {
            None => not_eligible(cause),
            Some(how) => {
                tell_of_lost_quorum(run, &view, &how);
                not_eligible(cause.context(format!("etcd has no quorum: {how}")))
            }
        })?;
    let cluster = Rc::new(cluster);
    let healthy = endpoint::healthy_address(&cluster)?;
    let facts = facts::gather(
        &run.host,
        run.runtime(),
        Some(healthy),
        cluster.config.etcd.data_dir(),
    )?;
    let own = options.advertise_address.or(facts.source_address);
    let address = own.context("this machine has no address that reaches the healthy master: give one with --advertise-address")?.to_string();
    let records = match &options.way {
        Way::Join => Vec::new(),
        Way::Rebirth { .. } | Way::Change { .. } => record::all(&view)?,
    };
    let node = node_name(options, &cluster, &records, healthy, &address)?;
    let own_addresses: Vec<IpAddr> = facts.interfaces.iter().map(|one| one.address).collect();
    let state = run.host.locate(STATE_DIR);
    let journal = Journal::read(&state)?;
    ensure!(
        Traits::know(manifest.kubernetes),
        NotEligible(format!(
            "Kubernetes {} is older than what this program knows (v1.13)",
            manifest.kubernetes
        ))
    );
    let mut joining = Joining {
        discovery: socket(healthy, cluster.apiserver_port),
        bridge: None,
        cluster: cluster.clone(),
        kubernetes: manifest.kubernetes,
        runtime: manifest.runtime.name.into(),
        node,
        address,
        ignored: ignored_check(manifest.kubernetes, &facts, cluster.kubelet.fail_cgroup_v1),
        state,
    };
    let here = View {
        host: &run.host,
        cluster: Some(&view),
    };
    let interrupted = joining::was_interrupted(&journal, &joining.node, &joining.address);
    if interrupted {
        let patience = if run.dry_run {
            Duration::ZERO
        } else {
            OUTLIVING
        };
        await_kubeadm(run.console, &joining.state, patience)?;
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
            let once = down::took_the_place(&journal, which);
            // A member's ID says nothing once the member is gone; the journal knows whose it was.
            let named = once.as_ref().map_or(which.as_str(), |gone| &gone.name);
            let took = once
                .as_ref()
                .filter(|gone| standing == Standing::Whole && !gone.is_listed(&cluster));
            match took {
                // The record goes last: while it is kept, the work is not done.
                Some(gone) => (*reset_down
                    || records.iter().any(|record| record.name == gone.name))
                .then(|| Ok(gone.clone())),
                None => Some(Departed::named(
                    &cluster,
                    &records,
                    named,
                    (&joining.node, &joining.address),
                )),
            }
        }
    };
    let departed = departed
        .transpose()
        .map_err(|refusal| refused(run.console, Untouched::Everything, &[refusal]))?;
    let down = match &departed {
        Some(departed) => down::look(run, options, connect, &cluster, departed, &own_addresses)?,
        None => None,
    };
    let whole = standing == Standing::Whole;
    let settling = whole && joining::is_settling(&journal, &joining.node, &joining.address);
    let ailments = match &options.way {
        // Its pods may still be starting, which is no illness: a master that is on its way is waited for, like after any join, and not taken out again.
        Way::Rebirth { .. } if settling => health::file_ailments(&joining, here)?,
        Way::Rebirth { .. } => health::ailments(&joining, &standing, here)?,
        Way::Join | Way::Change { .. } => Vec::new(),
    };
    let past = match &options.way {
        Way::Rebirth { force } if whole && ailments.is_empty() && !force => Past::Joined,
        Way::Rebirth { .. } => Past::Returning,
        Way::Join | Way::Change { .. } if whole => Past::Joined,
        // A worker stays one until kubeadm's join began, also for a run that comes after one that was cut off before.
        Way::Change { .. }
            if is_worker(&cluster, &joining) && Owed::of(&journal).member.is_none() =>
        {
            Past::Worker
        }
        _ if interrupted => Past::Interrupted,
        Way::Join | Way::Change { .. } => Past::Stranger,
    };
    if past == Past::Joined && settling && matches!(options.way, Way::Rebirth { .. }) {
        run.console.say("an interrupted run of ours made this machine a master already: it is waited for, and not made anew. Should it never get well, --force makes it anew");
    }
    if past == Past::Returning && whole && !ailments.is_empty() {
        run.console.say(&format!(
            "this machine is a master of the cluster, and not in good health: {}",
            ailments.join("; ")
        ));
    }
    let found = endpoint::resolve_here(&run.host, &cluster.endpoint)?;
    let endpoint = EndpointName::decide(
        &Resolved {
            endpoint: &cluster.endpoint,
            addresses: &found,
            is_healthy_name: cluster.endpoint.host == cluster.healthy.metadata.name,
            is_master: past == Past::Joined,
            answers: &|address| knock(&SocketAddr::new(address, cluster.endpoint.port)).is_ok(),
        },
        healthy,
    );
    let reached = if past == Past::Joined {
        Reached::Answers
    } else {
        endpoint::reach(&cluster, &endpoint, &own_addresses, healthy, knock)
    };
    joining.bridge = match &reached {
        Reached::Ours(bridge) => Some(*bridge),
        // A run that was killed after kubeadm's end may have left one.
        Reached::Answers if past == Past::Joined => {
            endpoint::bridge(&cluster, &endpoint, &own_addresses, healthy)
        }
        Reached::Answers | Reached::Nobody(_) => None,
    };
    let recorded = records
        .iter()
        .any(|record| record.name == joining.node && record.address == joining.address);
    let static_pods =
        down::images_of_static_pods(options, down.as_ref(), past, here).map_err(not_eligible)?;
    Ok(Seen {
        view,
        facts,
        joining,
        endpoint,
        reached,
        journal,
        departed,
        down,
        interrupted,
        settling,
        past,
        recorded,
        static_pods,
    })
}

/// How many times, and how long apart, an etcd that just starts again (its liveness probe needs the quorum, too) is asked.
const LOOKS: (u32, Duration) = (3, Duration::from_secs(5));

/// Where no API server answers, or something failed: whether that is because etcd has no quorum, and how that shows. `known` is the etcd that was asked before.
pub(super) fn quorum_is_lost(view: &ClusterView, known: Option<&Etcd>) -> Option<String> {
    if known.is_some_and(|etcd| etcd.answers(view)) || !Etcd::is_there(view) {
        return None;
    }
    for look in 1..=LOOKS.0 {
        if let Ok(etcd) = Etcd::without_api(view) {
            if etcd.answers(view) {
                return None;
            }
            if let Ok(members) = etcd.members(view) {
                let votes = Votes::of(&members);
                // One that is cut off may know of others that are a quorum without it.
                return (!votes.are_enough()).then(|| votes.to_string());
            }
            if look == LOOKS.0 {
                let address = view.address();
                return Some(format!(
                    "the etcd on {address} runs and answers no read that needs it"
                ));
            }
        }
        view.clock().pause(LOOKS.1);
    }
    None
}

/// Prints what to type where etcd has lost its quorum, by the programs that the healthy master has.
pub(super) fn tell_of_lost_quorum(run: &Run<'_>, view: &ClusterView, how: &str) {
    let manifest = run.pot.manifest();
    let images = manifest.images.iter().flat_map(|image| &image.names);
    let tag = images
        .filter(|name| is_etcd(name))
        .find_map(|name| Version::parse(name.rsplit_once(':')?.1));
    // Of two tools the one that every version but the newest has.
    let version = tag.unwrap_or(Version { major: 3, minor: 5 });
    let tool = Tool::for_etcd(view, run.runtime());
    run.console.say(&runbook::lost_quorum(how, version, tool));
}

/// The name of this machine's node: what was given; else, for a machine that comes back, what the cluster calls the master at its address; else its own name.
fn node_name(
    options: &Master,
    cluster: &ClusterFacts,
    records: &[Record],
    healthy: IpAddr,
    address: &str,
) -> Result<String> {
    if let Some(name) = &options.node_name {
        return Ok(name.clone());
    }
    if let Way::Rebirth { .. } = options.way
        && let Some(name) = identity::known_as(cluster, records, address)
    {
        return Ok(name);
    }
    identity::usual_name(cluster, healthy, address)
}

fn is_worker(cluster: &ClusterFacts, joining: &Joining) -> bool {
    cluster
        .node(&joining.node)
        .is_some_and(|node| !node.is_master() && node.has_address(&joining.address))
}

pub(super) fn is_etcd(image: &str) -> bool {
    image
        .rsplit('/')
        .next()
        .is_some_and(|name| name.starts_with("etcd:"))
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}
