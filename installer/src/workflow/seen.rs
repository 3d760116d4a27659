//! Everything that is looked at before anything is decided: the healthy master, its cluster, this machine, and how far an earlier run came.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::decide::addresses;
use super::master::{Master, Way};
use super::{
    OUTLIVING, Run, Untouched, await_kubeadm, down, identity, not_eligible, refused, warn,
};
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
        local: addresses(&facts),
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
            &records,
            &joining.node,
            &joining.address,
            &joining.local,
        )),
        Way::Change {
            down: which,
            reset_down,
            ..
        } => {
            let once = once_taken(&cluster, &journal, which, &joining.node);
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
    let note = departed
        .as_ref()
        .and_then(|departed| departed.note(&cluster));
    warn(run.console, note.as_slice());
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
            answers: &|address| {
                let place = SocketAddr::new(address, cluster.endpoint.port);
                knock(&place, &cluster.endpoint.host).is_ok()
            },
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

/// The master whose place this machine took, as its journal says, where the cluster itself knows nobody any more that the operator may call `down`: a member's ID says nothing once the
/// member is gone. A name or an address that somebody else has by now is his; `own` is this machine's node.
fn once_taken(
    cluster: &ClusterFacts,
    journal: &[Entry],
    down: &str,
    own: &str,
) -> Option<Departed> {
    if Departed::is_known(cluster, down, own) {
        return None;
    }
    down::took_the_place(journal, down)
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
        .is_some_and(|node| !node.is_master() && joining.is_at(node))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joining::fixtures::{self, member, node};
    use crate::journal::{Change, Event};
    use crate::rollback::owed::WORKFLOW;

    #[test]
    fn a_worker_is_known_by_any_of_this_machines_addresses() {
        let worker = |address: &str| {
            let mut cluster = fixtures::cluster();
            let mut b1 = node("b1", address);
            b1.metadata.labels.clear();
            cluster.nodes.push(b1);
            let mut joining = fixtures::joining(std::rc::Rc::new(cluster.clone()));
            joining.local = vec!["10.0.0.21".to_owned(), "192.168.1.21".to_owned()];
            is_worker(&cluster, &joining)
        };
        assert!(worker("10.0.0.21") && worker("192.168.1.21"));
        assert!(!worker("192.168.1.22"), "another machine of that name");
    }

    /// A journal's lines, each with the run that wrote it.
    fn journal(events: &[(&str, Event)]) -> Vec<Entry> {
        let entry = |(run, event): &(&str, Event)| Entry {
            run: (*run).to_owned(),
            time: 1,
            event: event.clone(),
        };
        events.iter().map(entry).collect()
    }

    fn intent(change: Change) -> Event {
        Event::Intent {
            step: "join".to_owned(),
            change,
        }
    }

    fn took(whom: &str) -> Event {
        intent(Change::Cluster {
            what: format!("take the place of {whom}"),
        })
    }

    fn begin(workflow: &str) -> Event {
        Event::Begin {
            workflow: workflow.to_owned(),
            pot: "none".to_owned(),
            program: "0".to_owned(),
        }
    }

    fn end(outcome: &str) -> Event {
        Event::End {
            outcome: outcome.to_owned(),
        }
    }

    fn name(journal: &[Entry], down: &str) -> Option<String> {
        once_taken(&fixtures::cluster(), journal, down, "b1").map(|gone| gone.name)
    }

    #[test]
    fn the_newest_master_whose_place_was_taken_is_meant() {
        let twice = journal(&[
            ("1", took("m3 10.0.0.13 1f")),
            ("1", end("done")),
            ("2", took("m5 10.0.0.13 2f")),
            ("2", end("failed")),
        ]);
        assert_eq!(name(&twice, "10.0.0.13").as_deref(), Some("m5"));
        assert_eq!(name(&twice, "1f").as_deref(), Some("m3"));
        assert_eq!(name(&twice, "m4"), None);
    }

    #[test]
    fn what_was_before_this_machine_left_the_cluster_or_was_rolled_back_is_over() {
        let left = || {
            intent(Change::LeftCluster {
                node: "b1".to_owned(),
                address: "10.0.0.21".to_owned(),
            })
        };
        let before = ("1", took("m3 10.0.0.13 1f"));
        let after = ("3", took("m3 10.0.0.13 3f"));
        for over in [
            vec![("2", left())],
            vec![("2", begin(WORKFLOW)), ("2", end("done"))],
        ] {
            let over = [vec![before.clone()], over].concat();
            for down in ["m3", "10.0.0.13", "1f"] {
                assert_eq!(name(&journal(&over), down), None, "{down}");
            }
            let again = [over, vec![after.clone()]].concat();
            assert_eq!(name(&journal(&again), "3f").as_deref(), Some("m3"));
            assert_eq!(name(&journal(&again), "1f"), None);
        }
        for goes_on in [
            vec![("2", begin("change-master")), ("2", end("done"))],
            vec![("2", begin(WORKFLOW)), ("2", end("failed"))],
        ] {
            let goes_on = [vec![before.clone()], goes_on].concat();
            assert_eq!(name(&journal(&goes_on), "1f").as_deref(), Some("m3"));
        }
    }

    #[test]
    fn whom_the_cluster_itself_knows_by_that_word_is_meant_first() {
        let journal = journal(&[("1", took("m3 10.0.0.13 1f"))]);
        let once = |cluster: &ClusterFacts, down: &str| {
            once_taken(cluster, &journal, down, "b1").map(|gone| gone.name)
        };
        let mut since = fixtures::cluster();
        since.nodes.push(node("m5", "10.0.0.13"));
        since.members.push(member(0x5f, "m5", "10.0.0.13"));
        assert_eq!(once(&since, "10.0.0.13"), None);
        let named = Departed::named(&since, &[], "10.0.0.13", ("b1", "10.0.0.21"));
        assert_eq!(named.map(|departed| departed.name), Ok("m5".to_owned()));
        assert_eq!(once(&since, "m3").as_deref(), Some("m3"));
        assert_eq!(once(&since, "1f").as_deref(), Some("m3"));
        // This machine has got the address of the one whose place it takes, beside its own.
        let mut ours = fixtures::cluster();
        let mut node = node("b1", "10.0.0.21");
        let mut second = node.status.addresses[0].clone();
        second.address = "10.0.0.13".to_owned();
        node.status.addresses.push(second);
        ours.nodes.push(node);
        assert_eq!(once(&ours, "10.0.0.13").as_deref(), Some("m3"));
    }
}
