//! What refuses: everything is judged before the plan is shown, and once more under the cluster's lock.

use std::net::IpAddr;

use anyhow::Result;

use super::seen::{Seen, tell_of_lost_quorum};
use super::{
    Run, Untouched, down, identity, kubelet, needs, not_eligible, refuse, refused, report_refusals,
    report_warnings, warn,
};
use crate::console::Console;
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::freshness;
use crate::control_plane::guard::Votes;
use crate::control_plane::images::{PodNetwork, familiar, labels_of_master};
use crate::control_plane::lease::{self, Holder, Lock};
use crate::control_plane::{Cluster, ClusterView};
use crate::facts::{Facts, configures_network};
use crate::joining::endpoint::{self, Knock, Reached};
use crate::joining::refusals::{self, Here, Past, Refusal};
use crate::joining::{self, Joining};
use crate::preflight::{self, KubeletThresholds, Purpose};
use crate::replacing::health::EtcdImage;
use crate::replacing::own_files::OwnFiles;
use crate::replacing::remove_member::RemoveMember;
use crate::replacing::{Departed, Whose, clear, record, remove_member};
use crate::signals::Stop;
use crate::step::World;
use crate::steps::ImageWanted;

/// Refuses everything that can be refused; else the images with the cluster's names for them.
pub(super) fn decide(run: &Run<'_>, seen: &Seen, knock: &Knock<'_>) -> Result<Vec<ImageWanted>> {
    let Seen {
        joining,
        facts,
        past,
        ..
    } = seen;
    let (past, cluster, manifest) = (*past, &joining.cluster, run.pot.manifest());
    let traits = joining.traits();
    let network = PodNetwork::of(
        &cluster.daemon_sets,
        &labels_of_master(&joining.node, manifest.arch, &traits),
        traits.master_taints,
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
    if cluster.etcd.is_none() {
        needs.etcd = preflight::EtcdPlace::Elsewhere;
    }
    needs.fail_cgroup_v1 = cluster.kubelet.fail_cgroup_v1;
    needs.thresholds = KubeletThresholds::new(
        cluster.kubelet.image_gc_high_threshold_percent,
        &cluster.kubelet.eviction_hard,
    )?;
    needs.to_write.kept = kept(run, seen)?;
    let report = preflight::run(facts, &needs);
    let mut all = report_refusals(&report);
    let here = here(run, seen, network)?;
    let (judged, warnings) = refusals::judge(cluster, &here);
    all.extend(identity::other_cluster(&run.host, cluster)?);
    if let Some(departed) = leaving(seen, cluster) {
        if past == Past::Joined {
            all.extend(down::no_place_taken(&seen.journal, cluster, departed)?);
        }
        if departed.whose == Whose::Ours {
            let own = addresses(facts);
            all.extend(identity::not_ourselves(
                &run.host,
                &own,
                &facts.ports,
                cluster,
                departed,
            )?);
            all.extend(no_worker(run, seen, cluster, departed)?);
        }
        all.extend(foreseen(seen, cluster, departed)?);
        if cluster.etcd.is_some() {
            let votes = Votes::of(&cluster.members);
            if !votes.are_enough() {
                tell_of_lost_quorum(run, &seen.view, &votes.to_string());
            }
        }
    }
    if past != Past::Joined {
        if let Reached::Nobody(failures) = &seen.reached {
            all.push(endpoint::unreached(
                &seen.view,
                cluster,
                &seen.endpoint,
                &own_ips(facts),
                failures,
            ));
        }
        if seen.reached == Reached::Answers {
            all.extend(endpoint::astray(&seen.view));
        }
        all.extend(endpoint::recorded(
            &run.host,
            cluster,
            &seen.endpoint,
            &own_ips(facts),
            knock,
        )?);
        all.extend(endpoint::reach_members(cluster, &joining.discovery, knock));
        all.extend(own_address(&addresses(facts), &joining.address));
        all.extend(kubelet::refusals(&run.host, joining)?);
    }
    if past != Past::Joined || seen.departed.is_some() {
        all.extend(locked(&seen.view, &holder(seen))?);
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
    Ok(images)
}

fn here<'s>(run: &'s Run<'_>, seen: &'s Seen, network: PodNetwork) -> Result<Here<'s>> {
    Ok(Here {
        node: &seen.joining.node,
        address: &seen.joining.address,
        local: &seen.joining.local,
        manifest: run.pot.manifest(),
        images: images_here(&seen.facts),
        has_cni: (run.host.list("/etc/cni/net.d")?)
            .iter()
            .any(|name| configures_network(name))
            || OwnFiles::of(&seen.joining.cluster).has_cni_to_put_back(&run.host)?,
        network,
        static_pods: seen.static_pods.clone(),
        past: seen.past,
        departed: seen.departed.as_ref(),
        uploaded: joining::uploaded_since(&seen.journal),
    })
}

/// Bytes that are kept here of the master that leaves, and of what this machine was.
fn kept(run: &Run<'_>, seen: &Seen) -> Result<u64> {
    let cluster = &seen.joining.cluster;
    let snapshot = match leaving(seen, cluster) {
        Some(departed) => remove_member::snapshot_size(&seen.view, cluster, departed)?,
        None => 0,
    };
    Ok(snapshot
        + match seen.past {
            Past::Returning | Past::Worker => clear::copied(&run.host, &seen.facts.disks, cluster)?,
            Past::Stranger | Past::Interrupted | Past::Joined => 0,
        })
}

/// Refuses while somebody else holds the cluster's lock.
pub(super) fn locked(view: &ClusterView, holder: &Holder) -> Result<Option<Refusal>> {
    let held = lease::held_by_other(view, holder)?;
    Ok(held.map(|(other, left)| Refusal {
        cause: format!(
            "{other} is changing the masters of this cluster right now (Lease kube-system/{})",
            lease::NAME
        ),
        remedy: format!("Wait for it; its lock expires in {left} s unless renewed"),
    }))
}

/// Takes the cluster's lock, after a wait that is told where somebody else's looks expired; refuses where somebody else holds it.
pub(super) fn take_lock(
    console: &Console,
    cluster: &Cluster,
    holder: &Holder,
    run: &Stop,
) -> Result<Lock> {
    let lock = Lock::take(cluster, holder, run, &|words| console.say(words));
    // Whoever was asked to end while it waited was not refused.
    lock.map_err(|cause| run.check().err().unwrap_or_else(|| not_eligible(cause)))
}

pub(super) fn holder(seen: &Seen) -> Holder {
    let identity = format!("{}/{}", seen.joining.node, seen.joining.address);
    Holder::new(identity, &seen.joining.cluster)
}

pub(super) fn recheck(run: &Run<'_>, seen: &Seen) -> Result<()> {
    let now = ClusterFacts::gather(&seen.view)?;
    let manifest = run.pot.manifest();
    let traits = seen.joining.traits();
    let network = PodNetwork::of(
        &now.daemon_sets,
        &labels_of_master(&seen.joining.node, manifest.arch, &traits),
        traits.master_taints,
    );
    let mut all = refusals::judge(&now, &here(run, seen, network)?)
        .0
        .err()
        .unwrap_or_default();
    if let Some(departed) = leaving(seen, &now) {
        if seen.past == Past::Joined {
            all.extend(down::no_place_taken(&seen.journal, &now, departed)?);
        }
        all.extend(foreseen(seen, &now, departed)?);
        if departed.whose == Whose::Ours {
            all.extend(no_worker(run, seen, &now, departed)?);
        }
        let kept = record::kept(&seen.view, departed)?;
        if departed.whose == Whose::Another && !departed.is_listed(&now) && kept.is_none() {
            let healthy = seen.view.address();
            all.push(Refusal {
                cause: format!(
                    "somebody else took the place of {} meanwhile, or took it out of the cluster",
                    departed.name
                ),
                remedy: format!(
                    "Look at the cluster: kpot-install status --healthy {healthy}. If one more master is wanted: kpot-install join-master --healthy {healthy}"
                ),
            });
        }
    }
    if all.is_empty() {
        return Ok(());
    }
    Err(refused(run.console, Untouched::Cluster, &all))
}

/// Refuses where the etcd of another master, which is to leave, answers this machine. It can be asked only with etcd's image here and under the lock, and is the last that is asked
/// before anything is changed on the cluster.
pub(super) fn silent_from_here(
    run: &Run<'_>,
    world: World<'_>,
    seen: &Seen,
    image: Option<&EtcdImage>,
) -> Result<()> {
    let cluster = &seen.joining.cluster;
    let another = leaving(seen, cluster).filter(|departed| departed.whose == Whose::Another);
    let (Some(departed), Some(etcd)) = (another, &cluster.etcd) else {
        return Ok(());
    };
    let healthy = cluster.healthy.metadata.name.clone();
    let removal = RemoveMember::new(departed.clone(), etcd.clone(), healthy, image.cloned());
    let refusals = removal.refusals_from_here(world)?;
    if refusals.is_empty() {
        return Ok(());
    }
    Err(refused(run.console, Untouched::Cluster, &refusals))
}

/// Refuses a join through an API server that stands still, if it is among those `behind`; of others that do, it only tells.
pub(super) fn none_behind(run: &Run<'_>, joining: &Joining, behind: &[String]) -> Result<()> {
    if behind.is_empty() {
        return Ok(());
    }
    let (cause, remedy) = freshness::told(behind);
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

/// A member of etcd at an address that is not this machine's would never start, and would count all the same.
pub(super) fn own_address(own: &[String], address: &str) -> Option<Refusal> {
    (!own.iter().any(|own| own == address)).then(|| Refusal {
        cause: format!(
            "{address} is not an address of this machine, which has {}",
            own.join(", ")
        ),
        remedy: "Give one of those with --advertise-address".to_owned(),
    })
}

/// This machine's own addresses.
pub(super) fn addresses(facts: &Facts) -> Vec<String> {
    own_ips(facts).iter().map(IpAddr::to_string).collect()
}

fn own_ips(facts: &Facts) -> Vec<IpAddr> {
    facts.interfaces.iter().map(|one| one.address).collect()
}

/// Whom this run may still take out of the cluster. Who has joined takes nobody out any more, but for another master that is listed all the same.
fn leaving<'s>(seen: &'s Seen, cluster: &ClusterFacts) -> Option<&'s Departed> {
    seen.departed.as_ref().filter(|departed| {
        seen.past != Past::Joined
            || (departed.whose == Whose::Another && departed.is_listed(cluster))
    })
}

/// What would refuse the removal of `departed` now.
fn foreseen(seen: &Seen, cluster: &ClusterFacts, departed: &Departed) -> Result<Vec<Refusal>> {
    let record = record::kept(&seen.view, departed)?;
    let mut cluster = cluster.clone();
    // A learner that this machine's own interrupted join left is nobody else's join. It has no vote, and is cleared before the next one; a removal that is still to come goes before that.
    if seen.interrupted && departed.member(&cluster.members).is_none() {
        let own = &seen.joining.address;
        (cluster.members).retain(|member| !(member.is_learner && member.is_at(own)));
    }
    let mut all = remove_member::foreseen(&cluster, departed, record.as_ref());
    all.extend(remove_member::no_room(&seen.view, &cluster, departed)?);
    Ok(all)
}

fn no_worker(
    run: &Run<'_>,
    seen: &Seen,
    cluster: &ClusterFacts,
    departed: &Departed,
) -> Result<Option<Refusal>> {
    identity::no_worker(&run.host, &seen.view, &seen.journal, cluster, departed)
}

fn images_here(facts: &Facts) -> Vec<String> {
    facts
        .image_names
        .iter()
        .map(|name| familiar(name))
        .collect()
}
