//! Moves a folder, or a file, to another file system: copied whole, brought to the disk, and only then removed where it was.
//!
//! The copy grows under one name in the state folder: what a failure leaves there goes at once, and what a kill leaves there goes with the next try. A full disk so costs nothing
//! but the time.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::command::Cmd;
use super::{Host, absent, sync_dir};

/// Where a copy grows, in the state folder.
pub(crate) const UNFINISHED: &str = "moving";

/// How long a copy may take: 8 GiB, the largest database that etcd advises, from and to slow disks.
const COPYING: Duration = Duration::from_mins(30);

impl Host<'_> {
    /// Moves `source` to `target`, a path in the state folder whose folder is there.
    pub(super) fn carry_over(&self, source: &Path, target: &Path) -> Result<()> {
        let fresh = self.journal.dir().join(UNFINISHED);
        let copied = discard(&fresh)
            .map_err(Into::into)
            .and_then(|()| self.copy(source, &fresh, target));
        if copied.is_err() {
            // The failure itself matters more; what is left all the same, the next try takes away.
            let _ = discard(&fresh);
        }
        copied?;
        discard(source).with_context(|| format!("cannot remove {}", source.display()))
    }

    fn copy(&self, source: &Path, fresh: &Path, target: &Path) -> Result<()> {
        let paths = [source, fresh].map(Path::to_string_lossy);
        let words = ["--archive".into(), "--".into()].into_iter().chain(paths);
        let copy = Cmd::new("cp", words).timeout(COPYING);
        self.view.runner.expect(&copy)?;
        sync_tree(fresh).context("cannot bring the copy to the disk")?;
        fs::rename(fresh, target)?;
        let folder = target.parent().context("a backup has a folder")?;
        Ok(sync_dir(folder)?)
    }
}

fn discard(tree: &Path) -> io::Result<()> {
    let is_folder = fs::symlink_metadata(tree).is_ok_and(|facts| facts.is_dir());
    let gone = if is_folder {
        fs::remove_dir_all(tree)
    } else {
        fs::remove_file(tree)
    };
    match gone {
        Err(cause) if !absent(&cause) => Err(cause),
        _ => Ok(()),
    }
}

/// Brings the files of a folder, and those below it, to the disk.
fn sync_tree(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_tree(&entry?.path())?;
        }
    }
    if kind.is_dir() || kind.is_file() {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::host::HostView;
    use crate::host::command::{Local, Output, Runner};
    use crate::host::scripted::Scripted;
    use crate::journal::Journal;

    /// Moves a folder with one file on a machine below `root`, whose commands `runner` runs.
    fn carry(root: &Path, runner: Arc<dyn Runner>) -> Result<()> {
        let [source, target] = places(root);
        let journal = Journal::new(root.join("state"));
        let host = Host::new(HostView::new(root, runner), &journal);
        host.carry_over(&source, &target)
    }

    fn places(root: &Path) -> [PathBuf; 2] {
        ["etcd/member", "state/backup/etcd-member"].map(|path| root.join(path))
    }

    /// A folder to be moved, and what a killed run left of its copy.
    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["etcd/member/snap", "state/backup", "state/moving"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("etcd/member/snap/db"), "keys").unwrap();
        fs::write(root.path().join("state/moving/half"), "ke").unwrap();
        root
    }

    #[test]
    fn a_folder_is_moved_whole_and_what_a_kill_left_of_a_copy_goes() {
        let root = machine();
        carry(root.path(), Arc::new(Local)).unwrap();
        let [source, target] = places(root.path());
        assert_eq!(fs::read(target.join("snap/db")).unwrap(), b"keys");
        assert!(!source.exists() && !target.join("half").exists());
        assert!(!root.path().join("state/moving").exists());
    }

    #[test]
    fn a_file_is_moved_like_a_folder() {
        let root = machine();
        let [source, target] = places(root.path());
        fs::remove_dir_all(&source).unwrap();
        fs::write(&source, "a snapshot").unwrap();
        carry(root.path(), Arc::new(Local)).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"a snapshot");
        assert!(!source.exists());
    }

    #[test]
    fn a_disk_that_is_full_keeps_no_part_of_a_copy_and_takes_nothing_away() {
        let root = machine();
        let part = root.path().join("state/moving");
        let full = Scripted::new().with(move |cmd, _| {
            (cmd.program == "cp").then(|| {
                fs::create_dir(&part).unwrap();
                fs::write(part.join("db"), "ke").unwrap();
                Output {
                    status: 1,
                    stderr: b"cp: error writing: No space left on device".to_vec(),
                    ..Output::default()
                }
            })
        });
        let failed = carry(root.path(), Arc::new(full)).unwrap_err();
        assert!(
            format!("{failed:#}").contains("No space left"),
            "{failed:#}"
        );
        let [source, target] = places(root.path());
        assert_eq!(fs::read(source.join("snap/db")).unwrap(), b"keys");
        assert!(!target.exists() && !root.path().join("state/moving").exists());
    }
}
