//! Taking a master out of the cluster's records, so that another machine, or the same one made anew, can take its place.
//!
//! The order is fixed by what can go wrong: what is worth keeping is kept in the cluster and on this machine first; then a checked snapshot, the quorum guard and the removal
//! of the etcd member, as one step; then the Node and kubeadm's own record; then this machine's left-overs. Every step finds out by itself how far a run that was cut off
//! came, on whichever machine that was. What follows is a join like any other.

pub mod backup;
pub mod clear;
pub mod departed;
pub mod down;
pub mod drain;
pub mod forget;
pub mod health;
pub mod own_files;
pub mod record;
pub mod remove_member;
pub mod reset_down;
pub mod restore;

pub use departed::{Departed, Whose};

/// kubeadm's folder.
pub(crate) const KUBERNETES: &str = "/etc/kubernetes";

/// What kubeadm puts aside in there before an upgrade, whole databases of etcd among it. Its own reset leaves that, and so it is left here, and not kept either.
pub(crate) const ASIDE: &str = "/etc/kubernetes/tmp";

/// The folder that a path lies in.
pub(crate) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether a path lies in a folder.
pub(crate) fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}
