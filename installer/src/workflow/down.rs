//! In a change: the machine of the master whose place is taken, looked at before anything is decided.

use std::net::IpAddr;

use anyhow::Result;

use super::master::{Master, Way};
use super::{Run, refuse};
use crate::control_plane::etcd::{Member, MemberId};
use crate::control_plane::extra_paths::ExtraPath;
use crate::control_plane::facts::ClusterFacts;
use crate::host::Host;
use crate::host::ssh::Connect;
use crate::joining::endpoint;
use crate::joining::refusals::{Past, Refusal};
use crate::joining::static_pods::{Former, Manifests, PodImage, StaticPods};
use crate::journal::{Change, Entry, Event};
use crate::replacing::down::{Down, Fate, Reach};
use crate::replacing::{Departed, Whose};
use crate::step::View;

/// Tries to reach the machine of `departed`; nothing in other ways than a change.
///
/// # Errors
/// It shall be reset, and that cannot be.
pub(super) fn look(
    run: &Run<'_>,
    options: &Master,
    connect: &Connect<'_>,
    cluster: &ClusterFacts,
    departed: &Departed,
    own: &[IpAddr],
) -> Result<Option<Down>> {
    let Way::Change {
        reset_down,
        down_host_key,
        ..
    } = &options.way
    else {
        return Ok(None);
    };
    let reach = if own.iter().any(|own| own.to_string() == departed.address) {
        // Where the address was the cluster's endpoint, it may have been given to this machine: nobody else answers there any more.
        Reach::silent(&format!(
            "{} is this machine's own address now",
            departed.address
        ))
    } else {
        run.console.say(&format!(
            "connecting to {}@{}, the machine of {}, for at most a few seconds …",
            options.target.user, departed.address, departed.name
        ));
        Reach::of(connect, departed, &options.target, down_host_key.clone())
    };
    let down = Down {
        departed: departed.clone(),
        reach,
        fate: if *reset_down { Fate::Reset } else { Fate::Left },
        certificates: cluster.config.certificates_dir.clone(),
    };
    let down = readable(down, &cluster.extra_paths);
    refuse(
        run.console,
        &refusal(&down, cluster).into_iter().collect::<Vec<_>>(),
    )?;
    Ok(Some(down))
}

/// A machine whose sshd answers, and whose disk does not, is as good as silent: what is read of it later would stop every run. `extra` is what the control plane's pods name.
fn readable(down: Down, extra: &[ExtraPath]) -> Down {
    // A connection may break once.
    match down.try_files(extra).or_else(|_| down.try_files(extra)) {
        Ok(()) => down,
        Err(cause) => Down {
            reach: Reach::unreadable(&cause),
            ..down
        },
    }
}

/// A machine that cannot be reset is no reason to stop once its master is out of the cluster: nothing would bring it nearer.
fn refusal(down: &Down, cluster: &ClusterFacts) -> Option<Refusal> {
    let departed = &down.departed;
    let (Fate::Reset, Reach::Silent(why)) = (down.fate, &down.reach) else {
        return None;
    };
    departed.is_listed(cluster).then(|| Refusal {
        cause: format!(
            "{} shall be reset, and that cannot be: it {why}",
            departed.name
        ),
        remedy: "Make it reachable, with a disk that can be read, or leave --reset-down out: the change works without that machine".to_owned(),
    })
}

/// The beginning of what the journal says when this machine took a master's place.
const TOOK: &str = "take the place of";

/// Notes that this machine takes the place of `departed`, one of whose `members` may be its own.
pub(super) fn note_taken(host: &Host<'_>, departed: &Departed, members: &[Member]) -> Result<()> {
    let member = departed.member(members);
    host.note(Change::Cluster {
        what: format!(
            "{TOOK} {} {} {}",
            departed.name,
            departed.address,
            member
                .map(|member| member.id.to_string())
                .unwrap_or_default()
        ),
    })
}

/// The master whose place this machine took last, as the journal says, if it is `down`, whichever way that is called. What was before this machine left the cluster, or before a
/// rollback that came to its end, is over.
pub(super) fn took_the_place(journal: &[Entry], down: &str) -> Option<Departed> {
    use crate::rollback::owed::WORKFLOW;
    let is_rollback = |run: &str| {
        let mut own = journal.iter().filter(|entry| entry.run == run);
        own.any(
            |entry| matches!(&entry.event, Event::Begin { workflow, .. } if workflow == WORKFLOW),
        )
    };
    let is_over = |entry: &Entry| match &entry.event {
        Event::Intent { change, .. } => matches!(change, Change::LeftCluster { .. }),
        Event::End { outcome } => outcome == "done" && is_rollback(&entry.run),
        _ => false,
    };
    let since = journal.iter().rposition(is_over).map_or(0, |at| at + 1);
    journal[since..]
        .iter()
        .rev()
        .filter_map(taken)
        .find(|whom| {
            let member = whom.get(2).and_then(|id| u64::from_str_radix(id, 16).ok());
            whom.contains(&down) || member.is_some_and(|id| MemberId(id).is(down))
        })
        .and_then(|whom| {
            let [name, address, ..] = whom[..] else {
                return None;
            };
            Some(Departed {
                name: name.to_owned(),
                address: address.to_owned(),
                whose: Whose::Another,
            })
        })
}

/// The name, address and, where it had one, member of the master whose place this machine takes, where this line says so.
fn taken(entry: &Entry) -> Option<Vec<&str>> {
    let Event::Intent {
        change: Change::Cluster { what },
        ..
    } = &entry.event
    else {
        return None;
    };
    Some(what.strip_prefix(TOOK)?.split_whitespace().collect())
}

/// Refuses a machine that is a master already and did not take the place of `departed`, which the cluster lists: nobody would come for the one that goes. What is left to finish is this
/// machine's own work where a run of it was cut off, or where only the Node of `departed` was made anew since.
pub(super) fn no_place_taken(
    journal: &[Entry],
    cluster: &ClusterFacts,
    departed: &Departed,
) -> Result<Option<Refusal>> {
    let place = [departed.name.as_str(), departed.address.as_str()];
    let took = journal
        .iter()
        .rposition(|entry| taken(entry).is_some_and(|whom| whom.starts_with(&place)));
    let is_end =
        |entry: &Entry| matches!(&entry.event, Event::End { outcome } if outcome == "done");
    let is_ours = took.is_some_and(|at| {
        !journal[at..].iter().any(is_end) || departed.member(&cluster.members).is_none()
    });
    if is_ours {
        return Ok(None);
    }
    let (name, healthy) = (&departed.name, endpoint::healthy_address(cluster)?);
    Ok(Some(Refusal {
        cause: format!(
            "this machine is a master of the cluster already, and did not take the place of {name}: without {name} there would be one master fewer, and none instead"
        ),
        remedy: format!(
            "On the machine that is to take its place: kpot-install change-master --down {name} --healthy {healthy}\nTo have one master fewer, or where {name} is well: on its own machine, kpot-install reset --healthy {healthy}"
        ),
    }))
}

/// What the operator should know of static pods that are not copied.
pub(super) fn note_of_static_pods(
    options: &Master,
    down: Option<&Down>,
    past: Past,
    view: View<'_>,
) -> Result<Option<String>> {
    if options.copy_static_pods {
        return Ok(None);
    }
    static_pods(options, down).note(view, manifests(past))
}

/// The images of the static pods that are copied here; none where they are not to be.
pub(super) fn images_of_static_pods(
    options: &Master,
    down: Option<&Down>,
    past: Past,
    view: View<'_>,
) -> Result<Vec<PodImage>> {
    if !options.copy_static_pods {
        return Ok(Vec::new());
    }
    static_pods(options, down).images(view, manifests(past))
}

/// What becomes of the manifests that are here.
fn manifests(past: Past) -> Manifests {
    match past {
        Past::Returning | Past::Worker | Past::Interrupted => Manifests::Go,
        Past::Joined | Past::Stranger => Manifests::Stay,
    }
}

/// Static pods besides kubeadm's own: from the machine whose place is taken, or from this one in its former life, or else from the healthy master.
pub(super) fn static_pods(options: &Master, down: Option<&Down>) -> StaticPods {
    StaticPods::new(match (&options.way, down) {
        (Way::Rebirth { .. }, _) => Former::Ourselves,
        (
            _,
            Some(Down {
                reach: Reach::Answers(machine),
                ..
            }),
        ) => Former::Machine(machine.clone()),
        _ => Former::Nobody,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control_plane::extra_paths::Role;
    use crate::host::HostView;
    use crate::host::command::Output;
    use crate::host::remote::RemoteView;
    use crate::host::scripted::Scripted;
    use crate::joining::fixtures::{cluster, member, node};
    use crate::journal::Journal;

    fn silent(fate: Fate) -> Down {
        Down {
            departed: Departed {
                name: "m3".to_owned(),
                address: "10.0.0.13".to_owned(),
                whose: Whose::Another,
            },
            reach: Reach::silent("timed out"),
            fate,
            certificates: "/etc/kubernetes/pki".to_owned(),
        }
    }

    #[test]
    fn a_reset_of_a_silent_machine_is_refused_while_the_cluster_lists_it() {
        let mut listed = cluster();
        listed.nodes.push(node("m3", "10.0.0.13"));
        let refused = refusal(&silent(Fate::Reset), &listed).unwrap();
        assert!(refused.cause.contains("timed out") && refused.remedy.contains("--reset-down"));
        assert_eq!(refusal(&silent(Fate::Left), &listed), None);
        assert_eq!(
            refusal(&silent(Fate::Reset), &cluster()),
            None,
            "it is gone, and an earlier run may have begun"
        );
    }

    /// m3, which answers by this script, and is to be left as it is.
    fn answering(script: Scripted) -> Down {
        Down {
            reach: Reach::Answers(RemoteView::new(Arc::new(script), "10.0.0.13")),
            ..silent(Fate::Left)
        }
    }

    /// A folder that a pod mounts, and a file that it writes.
    fn extra() -> [ExtraPath; 2] {
        [
            ("/etc/audit", Role::Mounted),
            ("/var/log/audit.log", Role::Written),
        ]
        .map(|(path, role)| ExtraPath {
            path: path.to_owned(),
            named_by: "kube-apiserver".to_owned(),
            role,
        })
    }

    /// What is backed up of m3, and what it has in the folder that a pod mounts.
    fn listed() -> Scripted {
        let kept = "1 9 /etc/kubernetes/admin.conf\n1 1048577 /etc/kubernetes/large\n";
        let links = "l /etc/audit/link.yaml\n";
        Scripted::new()
            .on("find -H /etc/kubernetes", 0, kept)
            .on("find -H /etc/audit -type f", 0, "1 9 /etc/audit/a.yaml\n")
            .on("find -H /etc/audit -type l", 0, links)
            .on(
                "find -H /etc/audit/link.yaml",
                0,
                "1 9 /etc/audit/link.yaml\n",
            )
    }

    #[test]
    fn a_machine_whose_disk_fails_is_as_good_as_silent() {
        let failed = "find: '/etc/kubernetes/pki': Input/output error\n";
        let mut known = cluster();
        known.nodes.push(node("m3", "10.0.0.13"));
        for script in [
            Scripted::new().on("find", 1, failed),
            Scripted::new()
                .on("find -H /etc/audit", 1, failed)
                .on("find", 0, ""),
            listed().on(
                "xargs",
                123,
                "sha256sum: /etc/audit/a.yaml: Input/output error\n",
            ),
        ] {
            let down = readable(answering(script), &extra());
            let Reach::Silent(why) = &down.reach else {
                panic!("its files cannot be read");
            };
            assert!(
                why.contains("files cannot be read") && why.contains("Input/output error"),
                "{why}"
            );
            assert_eq!(refusal(&down, &known), None, "a dead machine stops nothing");
            let reset = Down {
                fate: Fate::Reset,
                ..down
            };
            let refused = refusal(&reset, &known).unwrap();
            assert!(refused.cause.contains("Input/output error"), "{refused:?}");
            assert!(refused.remedy.contains("leave --reset-down out"));
        }
    }

    #[test]
    fn a_machine_that_can_be_read_is_asked_for_all_that_a_change_reads() {
        let script = listed().with(|cmd, names| {
            let read = b"/etc/audit/a.yaml\0/etc/audit/link.yaml\0/etc/kubernetes/admin.conf\0";
            (cmd.program == "xargs" && names == read).then(Output::default)
        });
        let down = readable(answering(script), &extra());
        assert!(matches!(down.reach, Reach::Answers(_)));
        let none = Scripted::new().on("find -H /etc/kubernetes", 0, "");
        let down = readable(answering(none), &[]);
        assert!(matches!(down.reach, Reach::Answers(_)), "nothing is left");
    }

    #[test]
    fn whose_place_was_taken_is_known_by_name_address_and_member() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path());
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        let departed = silent(Fate::Left).departed;
        note_taken(&host, &departed, &[member(0x1f, "m3", "10.0.0.13")]).unwrap();
        let entries = Journal::read(root.path()).unwrap();
        for down in ["m3", "10.0.0.13", "1f"] {
            assert_eq!(took_the_place(&entries, down), Some(departed.clone()));
        }
        assert_eq!(took_the_place(&entries, "m2"), None);
    }

    #[test]
    fn a_master_finishes_its_own_change_and_begins_no_other() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path());
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        let departed = silent(Fate::Left).departed;
        let mut listed = cluster();
        listed.nodes.push(node("m3", "10.0.0.13"));
        listed.members.push(member(0x1f, "m3", "10.0.0.13"));
        let judged = |cluster: &ClusterFacts| {
            let entries = Journal::read(root.path()).unwrap();
            no_place_taken(&entries, cluster, &departed).unwrap()
        };
        let refused = judged(&listed).unwrap();
        assert!(
            refused.cause.contains("a master of the cluster already")
                && refused
                    .remedy
                    .contains("change-master --down m3 --healthy 10.0.0.11")
                && refused.remedy.contains("kpot-install reset"),
            "{refused:?}"
        );
        note_taken(&host, &departed, &listed.members).unwrap();
        assert_eq!(judged(&listed), None, "it was cut off");
        let outcome = "done".to_owned();
        journal.record(Event::End { outcome }).unwrap();
        assert!(judged(&listed).is_some(), "m3 is a master again since");
        listed.members.pop();
        assert_eq!(judged(&listed), None, "its kubelet was switched on again");
    }
}
