//! What the journal says is still to be undone. Pure: it reads no machine.
//!
//! Everything since the last rollback that came to its end counts, whichever run wrote it. Of several changes of one thing the oldest says what was before; so a run that
//! was killed between an intent and its change, or repeated, makes no difference. What a rollback itself changed is not a change to undo; what it recorded as undone is
//! no longer owed, and a later change of the same thing counts anew.

use std::collections::{HashMap, HashSet};

use super::footprint::{CONTAINERD_DATA, DOCKER, DOCKER_DATA, MASTER, Sharing};
use crate::facts::containerd;
use crate::facts::docker::DOCKERD;
use crate::joining;
use crate::journal::{Before, Change, Entry, Event};
use crate::replacing::clear;

/// The workflow's name in the journal.
pub(crate) const WORKFLOW: &str = "rollback";

/// A node's name and address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name of the node.
    pub node: String,
    /// The address of its apiserver and etcd.
    pub address: String,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// The changes to undo, newest first, each with what was before.
    pub changes: Vec<Change>,
    /// Whether a join was begun, so that a kubelet may have run here.
    pub joined: bool,
    /// The member that a join of ours may have added, and that nothing says is gone.
    pub member: Option<Member>,
}

impl Owed {
    /// Reads it off the journal.
    pub fn of(journal: &[Entry]) -> Self {
        let mut reader = Reader::default();
        for entry in journal {
            reader.read(entry);
        }
        reader.finish()
    }

    /// Whether there is nothing to undo.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.joined
    }

    /// Whether Docker itself came with our runs.
    pub fn docker_is_ours(&self) -> bool {
        is_new(&self.changes, DOCKERD)
    }

    /// Whether containerd itself came with our runs.
    pub fn containerd_is_ours(&self) -> bool {
        is_new(&self.changes, containerd::PROGRAM)
    }
}

#[derive(Default)]
struct Reader<'a> {
    /// Runs that are rollbacks.
    rollbacks: HashSet<&'a str>,
    /// The step at which every run is.
    steps: HashMap<&'a str, &'a str>,
    /// Oldest first.
    changes: Vec<Change>,
    joined: bool,
    member: Option<Member>,
    /// Runs that began to clear a join.
    clearing: HashSet<&'a str>,
    /// Whether any run noted what programs write by themselves.
    has_trees: bool,
}

impl<'a> Reader<'a> {
    fn read(&mut self, entry: &'a Entry) {
        let run = entry.run.as_str();
        let is_rollback = self.rollbacks.contains(run);
        match &entry.event {
            Event::Begin { workflow, .. } if workflow == WORKFLOW => {
                self.rollbacks.insert(run);
            }
            Event::Step { step } => {
                self.steps.insert(run, step);
            }
            Event::Intent { change, .. } if !is_rollback => self.change(run, change),
            Event::Done { step } if step == joining::clear::ID && self.clearing.contains(run) => {
                self.member = None;
            }
            Event::Undone { change } => {
                let undone = key(change);
                self.changes.retain(|owed| key(owed) != undone);
                self.forget_images(change);
            }
            Event::End { outcome } if is_rollback && outcome == "done" => {
                *self = Self::default();
            }
            _ => {}
        }
    }

    fn change(&mut self, run: &'a str, change: &Change) {
        match change {
            Change::Join { node, address } => {
                // Before that step the join is only announced: no member has been added, and no kubelet of ours has run.
                if self.steps.get(run) == Some(&joining::join::ID) {
                    self.joined = true;
                    self.member = Some(Member {
                        node: node.clone(),
                        address: address.clone(),
                    });
                }
            }
            Change::ClearJoin { .. } => {
                self.clearing.insert(run);
            }
            // Whose kubelet it was, his node is gone for good: without its files it would only fail, again and again.
            Change::Unit { .. } if self.steps.get(run) == Some(&clear::ID) => {}
            Change::LeftCluster { .. } => self.member = None,
            _ => {
                self.has_trees |= matches!(change, Change::Tree { .. });
                let known = key(change);
                if known.is_some() && self.changes.iter().all(|owed| key(owed) != known) {
                    self.changes.push(change.clone());
                }
            }
        }
    }

    fn finish(mut self) -> Owed {
        if !self.has_trees {
            self.assume_trees();
        }
        for data in self.changes.clone() {
            self.forget_images(&data);
        }
        self.changes.reverse();
        Owed {
            changes: self.changes,
            joined: self.joined,
            member: self.member,
        }
    }

    /// Images go with the data of a runtime that came with our runs.
    fn forget_images(&mut self, data: &Change) {
        match data {
            Change::Tree { path, .. } if path == DOCKER_DATA => {
                (self.changes).retain(|change| !matches!(change, Change::Image { .. }));
            }
            Change::Tree { path, .. } if path == CONTAINERD_DATA => {
                (self.changes).retain(|change| !matches!(change, Change::ContainerdImage { .. }));
            }
            _ => {}
        }
    }

    /// Journals of the first programs do not say what was there before Docker and kubeadm wrote. Those programs refused machines with anything in these places, and they
    /// installed Docker only where there was none.
    fn assume_trees(&mut self) {
        let unit = self.changes.iter().position(
            |change| matches!(change, Change::Unit { name, .. } if name == "docker.service"),
        );
        if let Some(place) = unit
            && is_new(&self.changes, DOCKERD)
        {
            // Older than its start, so that they go after its stop.
            let trees = DOCKER
                .trees
                .iter()
                .filter(|(_, sharing)| *sharing == Sharing::Alone)
                .map(|(path, _)| tree(path, None))
                .chain([tree("/etc/docker/key.json", None)])
                .chain(DOCKER.interfaces.iter().map(|name| interface(name)));
            self.changes.splice(place..place, trees);
        }
        if self.joined {
            self.changes
                .extend(ASSUMED_FOLDERS.map(|path| Change::Directory {
                    path: path.to_owned(),
                }));
            self.changes
                .extend(ASSUMED_FILES.iter().map(|path| tree(path, None)));
            self.changes.extend(
                ASSUMED_EMPTY
                    .iter()
                    .map(|path| tree(path, Some(Vec::new()))),
            );
            self.changes
                .extend(MASTER.interfaces.iter().map(|name| interface(name)));
        }
    }
}

/// What did not exist before a join of the first programs.
const ASSUMED_FILES: [&str; 7] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/bootstrap-kubelet.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/scheduler.conf",
    "/etc/kubernetes/super-admin.conf",
    "/var/lib/dockershim",
];

/// Folders that go where nothing is left in them.
const ASSUMED_FOLDERS: [&str; 5] = [
    "/etc/cni",
    "/etc/cni/net.d",
    "/etc/kubernetes",
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki",
];

/// What was empty before a join of the first programs.
const ASSUMED_EMPTY: [&str; 6] = [
    "/etc/cni/net.d",
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki",
    "/var/lib/cni",
    "/var/lib/etcd",
    "/var/lib/kubelet",
];

fn tree(path: &str, before: Option<Vec<String>>) -> Change {
    Change::Tree {
        path: path.to_owned(),
        before,
    }
}

fn interface(name: &str) -> Change {
    Change::Interface {
        name: name.to_owned(),
    }
}

/// Whether the file came with our runs.
fn is_new(changes: &[Change], file: &str) -> bool {
    changes.iter().any(
        |change| matches!(change, Change::File { path, before: Before::Absent } if path == file),
    )
}

/// The thing that a change changes; nothing where there is nothing to undo on this machine.
fn key(change: &Change) -> Option<(&'static str, &str)> {
    match change {
        Change::File { path, .. } => Some(("file", path)),
        Change::Directory { path } => Some(("directory", path)),
        Change::Tree { path, .. } => Some(("tree", path)),
        Change::Interface { name } => Some(("interface", name)),
        Change::Sysctl { key, .. } => Some(("sysctl", key)),
        Change::Module { name } => Some(("module", name)),
        Change::Swap { area } => Some(("swap", area)),
        Change::Unit { name, .. } => Some(("unit", name)),
        Change::Reload => Some(("reload", "")),
        Change::Image { name, .. } => Some(("image", name)),
        Change::ContainerdImage { name, .. } => Some(("containerd image", name)),
        Change::Bridge { endpoint } => Some(("bridge", endpoint)),
        Change::Erased { .. }
        | Change::Join { .. }
        | Change::ClearJoin { .. }
        | Change::Cluster { .. }
        | Change::LeftCluster { .. }
        | Change::Undo { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(run: &str, events: Vec<Event>) -> Vec<Entry> {
        let entry = |event| Entry {
            run: run.to_owned(),
            time: 1,
            event,
        };
        events.into_iter().map(entry).collect()
    }

    fn intent(change: Change) -> Event {
        Event::Intent {
            step: "x".to_owned(),
            change,
        }
    }

    fn step(step: &str) -> Event {
        Event::Step {
            step: step.to_owned(),
        }
    }

    fn done(step: &str) -> Event {
        Event::Done {
            step: step.to_owned(),
        }
    }

    fn join() -> Event {
        intent(Change::Join {
            node: "b1".to_owned(),
            address: "10.0.0.21".to_owned(),
        })
    }

    fn hosts(before: Before) -> Change {
        Change::File {
            path: "/etc/hosts".to_owned(),
            before,
        }
    }

    fn saved(name: &str) -> Before {
        Before::File {
            saved: name.to_owned(),
            mode: 0o644,
            uid: 0,
            gid: 0,
        }
    }

    #[test]
    fn the_kubelet_of_a_node_that_was_cleared_is_not_started_again() {
        let kubelet = |active: &str| Change::Unit {
            name: "kubelet.service".to_owned(),
            active: active.to_owned(),
            enabled: "enabled".to_owned(),
        };
        let cleared = [step(clear::ID), intent(kubelet("active")), done(clear::ID)];
        let mut journal = entries("1", cleared.into());
        assert_eq!(Owed::of(&journal).changes, []);
        // A join that follows finds it as it was left.
        let joined = [step(joining::join::ID), intent(kubelet("inactive"))];
        journal.extend(entries("1", joined.into()));
        assert_eq!(Owed::of(&journal).changes, [kubelet("inactive")]);
    }

    #[test]
    fn a_member_may_be_listed_from_the_start_of_kubeadm_until_something_says_that_it_is_gone() {
        let mut journal = entries("1", vec![join()]);
        assert_eq!(Owed::of(&journal).member, None, "only announced");
        assert!(!Owed::of(&journal).joined, "no kubelet of ours has run");
        journal.extend(entries("1", vec![step(joining::join::ID), join()]));
        assert!(Owed::of(&journal).member.is_some());
        journal.extend(entries("2", vec![join(), step(joining::clear::ID)]));
        let clear = intent(Change::ClearJoin {
            node: "b1".to_owned(),
        });
        journal.extend(entries("2", vec![clear]));
        assert!(Owed::of(&journal).member.is_some(), "not cleared yet");
        let mut cleared = journal.clone();
        cleared.extend(entries("2", vec![done(joining::clear::ID)]));
        assert_eq!(Owed::of(&cleared).member, None);
        cleared.extend(entries("2", vec![step(joining::join::ID), join()]));
        assert!(Owed::of(&cleared).member.is_some(), "and joined again");
        let left = Change::LeftCluster {
            node: "b1".to_owned(),
            address: "10.0.0.21".to_owned(),
        };
        cleared.extend(entries("3", vec![intent(left)]));
        assert_eq!(Owed::of(&cleared).member, None);
    }

    #[test]
    fn the_oldest_change_of_a_thing_says_what_was_before_until_it_was_undone() {
        let mut journal = entries(
            "1",
            vec![
                intent(hosts(Before::Absent)),
                intent(hosts(saved("of ours"))),
            ],
        );
        assert_eq!(Owed::of(&journal).changes, [hosts(Before::Absent)]);
        let begin = Event::Begin {
            workflow: WORKFLOW.to_owned(),
            pot: "none".to_owned(),
            program: "0".to_owned(),
        };
        let undone = Event::Undone {
            change: hosts(Before::Absent),
        };
        journal.extend(entries(
            "2",
            vec![begin, intent(hosts(saved("by rollback"))), undone],
        ));
        assert!(Owed::of(&journal).is_empty());
        journal.extend(entries("3", vec![intent(hosts(saved("of somebody")))]));
        assert_eq!(Owed::of(&journal).changes, [hosts(saved("of somebody"))]);
    }
}
