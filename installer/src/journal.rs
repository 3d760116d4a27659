//! The journal: what this program changed on the machine, with what is needed to undo it.
//!
//! `/var/lib/kpot/journal.jsonl` grows by one JSON line an event; a line is on the disk before the change that it announces is made. The former content of a replaced
//! file is kept below `/var/lib/kpot/backup/<run>/`, 0600. The host is the truth; the journal serves undo and people, and no step ever decides by it whether its state
//! holds. Nothing is created before the first event: a run that changes nothing writes nothing. No secret is ever written to it.

#![allow(
    clippy::disallowed_methods,
    reason = "this module owns the state folder's files"
)]

use std::cell::{Cell, RefCell};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::host::{Facts, sync_dir, write_synced};

/// The state folder on every machine.
pub const STATE_DIR: &str = "/var/lib/kpot";

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which run wrote it; equal for all lines of one run.
    pub run: String,
    /// Seconds since 1970.
    pub time: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run begins to change something.
    Begin {
        /// `join-master`, `init-env`, …
        workflow: String,
        /// The identity of the pot.
        pot: String,
        /// The version of this program.
        program: String,
    },
    /// A step begins to change something.
    Step {
        /// The step's name.
        step: String,
    },
    /// A change will be made now.
    Intent {
        /// The step that makes it.
        step: String,
        /// The change, with what undoes it.
        change: Change,
    },
    /// A step's state holds now.
    Done {
        /// The step's name.
        step: String,
    },
    /// What was before a change is so again.
    Undone {
        /// The change.
        change: Change,
    },
    /// A step failed.
    Failed {
        /// The step's name.
        step: String,
        /// The error.
        error: String,
    },
    /// The run ended.
    End {
        /// `done` or `failed`.
        outcome: String,
    },
}

/// A change to the machine or the cluster, with what undoes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Change {
    /// A file is created, replaced or removed.
    File {
        /// Its path.
        path: String,
        /// What it was before.
        before: Before,
    },
    /// A file with a secret of a join is overwritten and removed; its content is not kept.
    Erased {
        /// Its path.
        path: String,
    },
    /// A folder is created.
    Directory {
        /// Its path.
        path: String,
    },
    /// A sysctl is set.
    Sysctl {
        /// Its key.
        key: String,
        /// Its value before.
        before: String,
    },
    /// A kernel module is loaded that was not.
    Module {
        /// Its name.
        name: String,
    },
    /// A swap area is switched off.
    Swap {
        /// The device or file.
        area: String,
    },
    /// A systemd unit is enabled, started, restarted, stopped or masked.
    Unit {
        /// Its name.
        name: String,
        /// `ActiveState` before.
        active: String,
        /// `UnitFileState` before.
        enabled: String,
    },
    /// systemd reads its units again, which needs no undoing.
    Reload,
    /// An image is loaded into the container runtime or gets a name there.
    Image {
        /// The name.
        name: String,
        /// The image ID.
        id: String,
    },
    /// The same in containerd.
    ContainerdImage {
        /// The name.
        name: String,
        /// The image ID.
        id: String,
    },
    /// `kubeadm join` begins: from here on kubeadm and the kubelet write /etc/kubernetes, /var/lib/kubelet, /var/lib/etcd and /etc/cni, all of which were empty before.
    Join {
        /// The name of the node.
        node: String,
        /// The address of its apiserver and etcd.
        address: String,
    },
    /// What an interrupted join of ours left is taken away again.
    ClearJoin {
        /// The name of the node.
        node: String,
    },
    /// Something on the cluster.
    Cluster {
        /// What, in words.
        what: String,
    },
    /// The etcd member and the Node of this machine are gone from the cluster: from here on its join may be undone. Recorded after they were removed, not before.
    LeftCluster {
        /// The name of the node.
        node: String,
        /// The address of its apiserver and etcd.
        address: String,
    },
    /// Programs that the step starts (Docker, kubeadm, the kubelet, pods) will write at or below a path.
    Tree {
        /// The path.
        path: String,
        /// What is below it now, by relative paths, which stays; nothing where the path itself does not exist.
        before: Option<Vec<String>>,
    },
    /// Programs that the step starts may make a network interface that does not exist.
    Interface {
        /// Its name.
        name: String,
    },
    /// Connections to the cluster's endpoint, an address of this machine, are led to a healthy master for the length of a join.
    Bridge {
        /// The endpoint, `ADDRESS:PORT`.
        endpoint: String,
    },
    /// Something is brought back to what it was.
    Undo {
        /// What, in words.
        what: String,
    },
}

/// What a file was before it was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "kebab-case")]
pub enum Before {
    /// It did not exist.
    Absent,
    /// A regular file, whose content is kept.
    File {
        /// Where, below the state folder.
        saved: String,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// The journal of one run.
pub struct Journal {
    dir: PathBuf,
    run: String,
    file: RefCell<Option<File>>,
    step: RefCell<String>,
    saved: Cell<u32>,
}

impl Journal {
    /// A journal in the state folder `dir`; nothing is created yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        // To the nanosecond: two runs of one name would overwrite each other's backups.
        let since = since_1970();
        let run = format!(
            "{}.{:09}-{}",
            since.as_secs(),
            since.subsec_nanos(),
            std::process::id()
        );
        Self {
            dir: dir.into(),
            run,
            file: RefCell::new(None),
            step: RefCell::default(),
            saved: Cell::new(0),
        }
    }

    /// The state folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of this run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Writes an event and brings it to the disk.
    pub fn record(&self, event: Event) -> Result<()> {
        if let Event::Step { step } = &event {
            step.clone_into(&mut self.step.borrow_mut());
        }
        let entry = Entry {
            run: self.run.clone(),
            time: now(),
            event,
        };
        let mut line = serde_json::to_vec(&entry).context("cannot write a line of the journal")?;
        line.push(b'\n');
        let path = self.dir.join("journal.jsonl");
        let mut slot = self.file.borrow_mut();
        let file = if let Some(file) = slot.as_mut() {
            file
        } else {
            make_private_dir(&self.dir)?;
            let mut file = OpenOptions::new()
                .append(true)
                .read(true)
                .create(true)
                .mode(0o600)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            end_torn_line(&path, &mut file)?;
            sync_dir(&self.dir).with_context(|| format!("cannot sync {}", self.dir.display()))?;
            slot.insert(file)
        };
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        if written.is_err() {
            // A full disk may have taken half of the line: opened anew, the file gets an end to it before the next one.
            *slot = None;
        }
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Announces a change by the step that runs.
    pub fn intent(&self, change: Change) -> Result<()> {
        let step = self.step.borrow().clone();
        self.record(Event::Intent { step, change })
    }

    /// Keeps the content of a file that is about to be changed.
    pub fn save(&self, path: &str, facts: Facts, content: &mut dyn Read) -> Result<Before> {
        let number = self.saved.get();
        self.saved.set(number + 1);
        let name = path.rsplit('/').next().unwrap_or_default();
        let saved = format!("backup/{}/{number:04}-{name}", self.run);
        let place = self.dir.join(&saved);
        let folder = place.parent().context("a backup has a folder")?;
        make_private_dir(&self.dir)?;
        make_private_dir(folder)?;
        write_synced(&place, 0o600, &mut |file| {
            Ok(std::io::copy(content, file).map(drop)?)
        })
        .with_context(|| format!("cannot save {path} to {}", place.display()))?;
        sync_dir(folder).with_context(|| format!("cannot sync {}", folder.display()))?;
        Ok(Before::File {
            saved,
            mode: facts.mode,
            uid: facts.uid,
            gid: facts.gid,
        })
    }

    /// Puts a file (0600) beside this run's backups, whole or not at all, and brings it to the disk; `name` may have folders in it. The path is where it lies.
    pub fn keep(
        &self,
        name: &str,
        fill: &mut dyn FnMut(&mut File) -> Result<()>,
    ) -> Result<PathBuf> {
        let backups = self.dir.join("backup");
        let folder = backups.join(&self.run);
        make_private_dir(&self.dir)?;
        make_private_dir(&folder)?;
        let path = folder.join(name);
        let own = path.parent().context("a backup has a folder")?.to_owned();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&own)
            .with_context(|| format!("cannot make the folder {}", own.display()))?;
        let last = name.rsplit('/').next().unwrap_or(name);
        let fresh = own.join(format!(".{last}.kpot-new"));
        let written = write_synced(&fresh, 0o600, fill)
            .and_then(|()| Ok(fs::rename(&fresh, &path)?))
            .with_context(|| format!("cannot write {}", path.display()));
        if let Err(cause) = written {
            // Nothing half-written stays behind; the first error says more than a second one would.
            let _ = fs::remove_file(&fresh);
            return Err(cause);
        }
        for folder in [&own, &folder, &backups, &self.dir] {
            sync_dir(folder).with_context(|| format!("cannot sync {}", folder.display()))?;
        }
        Ok(path)
    }

    /// Every line of the journal in `dir`, oldest first; none where there is no journal. A line that a power cut tore apart is left out.
    ///
    /// # Errors
    /// Where a whole line says something that this program does not know: a newer one wrote it, and leaving it out would hide a change.
    pub fn read(dir: &Path) -> Result<Vec<Entry>> {
        let path = dir.join("journal.jsonl");
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => {
                return Err(cause).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(entry) => entries.push(entry),
                Err(_) if serde_json::from_str::<IgnoredAny>(line).is_err() => {}
                Err(cause) => {
                    return Err(cause).with_context(|| {
                        format!(
                            "cannot read line {} of {}: use the kpot-install that wrote it, or a newer one",
                            index + 1,
                            path.display()
                        )
                    });
                }
            }
        }
        Ok(entries)
    }
}

/// A line that a power cut tore apart must not swallow the next one.
fn end_torn_line(path: &Path, file: &mut File) -> Result<()> {
    use std::io::{Seek, SeekFrom};
    let torn = || -> std::io::Result<bool> {
        if file.seek(SeekFrom::End(0))? == 0 {
            return Ok(false);
        }
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last != *b"\n")
    }()
    .with_context(|| format!("cannot read {}", path.display()))?;
    if torn {
        file.write_all(b"\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn make_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    since_1970().as_secs()
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use anyhow::bail;

    use super::*;

    #[test]
    fn a_line_that_a_full_disk_refused_does_not_spoil_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let journal = Journal::new(folder.path());
        let done = |step: &str| Event::Done {
            step: step.to_owned(),
        };
        let error = journal.record(done("a")).unwrap_err();
        assert!(
            format!("{error:#}").contains("journal.jsonl: No space left on device"),
            "{error:#}"
        );
        // What the disk took of a line before it was full.
        fs::remove_file(&path).unwrap();
        fs::write(&path, br#"{"run":"1","ti"#).unwrap();
        journal.record(done("b")).unwrap();
        let events: Vec<Event> = Journal::read(folder.path())
            .unwrap()
            .into_iter()
            .map(|entry| entry.event)
            .collect();
        assert_eq!(events, [done("b")]);
    }

    #[test]
    fn a_kept_file_is_private_and_whole_or_the_former_one() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("state"));
        let path = journal
            .keep("copy", &mut |file| Ok(file.write_all(b"first")?))
            .unwrap();
        journal
            .keep("copy", &mut |file| {
                file.write_all(b"half")?;
                bail!("broke off")
            })
            .unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing half-written is left");
    }
}
