//! The folder of etcd's data has no `lost+found`.
//!
//! A new file system that is mounted there brings an empty one, and kubeadm joins no machine where anything lies in that folder. It goes where it is empty and alone: whatever else is there is
//! somebody's, and refused by the preflight. A rollback does not bring it back; fsck makes it anew where it needs it, and so does mklost+found.

use anyhow::Result;

use crate::facts::{LOST_AND_FOUND, is_of_a_new_disk};
use crate::host::HostView;
use crate::journal::Change;
use crate::step::{Reversal, State, Step, View, World};

/// See the module.
#[derive(Debug)]
pub struct EtcdFolder {
    path: String,
}

impl EtcdFolder {
    /// The folder where the cluster has the data of its masters' own etcd.
    pub fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The `lost+found` that is to go. One beside a member's data is in nobody's way.
    fn lost_and_found(&self, host: &HostView) -> Result<Option<String>> {
        let path = &self.path;
        let alone = host.list(path)? == [LOST_AND_FOUND];
        let goes = alone && is_of_a_new_disk(host, path, LOST_AND_FOUND)?;
        Ok(goes.then(|| format!("{path}/{LOST_AND_FOUND}")))
    }
}

impl Step for EtcdFolder {
    fn id(&self) -> &'static str {
        "etcd-folder"
    }

    fn summary(&self) -> String {
        format!("no empty {LOST_AND_FOUND} is in {}", self.path)
    }

    fn reversal(&self) -> Reversal {
        Reversal::Never
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(match self.lost_and_found(view.host)? {
            None => State::Satisfied,
            Some(path) => State::Pending(format!("kubeadm would stop at {path}")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let Some(path) = self.lost_and_found(world.host.view())? else {
            return Ok(());
        };
        // Nothing brings it back, so nothing is noted to be undone.
        let what = format!("remove the empty folder {path}");
        world.host.remove_dir(&path, Change::Undo { what })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Machine;
    use super::*;
    use crate::host::scripted::Scripted;

    const DATA: &str = "/var/lib/etcd";

    /// A machine with a folder in etcd's.
    fn machine(folder: &str) -> Machine {
        let machine = Machine::new();
        let place = machine.place(&format!("{DATA}/{folder}"));
        #[allow(clippy::disallowed_methods, reason = "the test's own folder")]
        std::fs::create_dir_all(place).unwrap();
        machine
    }

    fn check(machine: &Machine) -> State {
        machine.check(&EtcdFolder::new(DATA), Scripted::new())
    }

    #[test]
    fn what_a_new_file_system_brings_is_removed() {
        let machine = machine(LOST_AND_FOUND);
        let (before, after) = machine
            .ensure(&EtcdFolder::new(DATA), Scripted::new())
            .unwrap();
        assert_eq!(
            before,
            State::Pending("kubeadm would stop at /var/lib/etcd/lost+found".to_owned())
        );
        assert_eq!(after, State::Satisfied);
        assert!(!machine.place("/var/lib/etcd/lost+found").exists());
        assert!(machine.place(DATA).is_dir());
        assert_eq!(machine.journal().len(), 1);
    }

    #[test]
    fn what_holds_something_or_lies_beside_something_stays() {
        assert_eq!(check(&Machine::new()), State::Satisfied);
        assert_eq!(check(&machine("member")), State::Satisfied);
        let beside = machine(LOST_AND_FOUND);
        beside.file("/var/lib/etcd/member/snap/db", "keys");
        assert_eq!(check(&beside), State::Satisfied);
        assert_eq!(check(&machine("lost+found/#12")), State::Satisfied);
        let file = Machine::new();
        file.file("/var/lib/etcd/lost+found", "no folder");
        assert_eq!(check(&file), State::Satisfied);
    }

    #[test]
    fn a_link_stays() {
        let machine = machine("");
        let (elsewhere, link) = (tempfile::tempdir().unwrap(), "/var/lib/etcd/lost+found");
        std::os::unix::fs::symlink(elsewhere.path(), machine.place(link)).unwrap();
        assert_eq!(check(&machine), State::Satisfied);
    }
}
