//! Files and folders as they were.
//!
//! What is replaced is kept in the backup like at every other change. What is removed is kept too where it is a small file that everybody may read; programs are not,
//! because the pot has them, and secrets are overwritten. Nothing is removed through a mount: what is mounted below a folder is unmounted first, and where something
//! stays mounted, nothing is removed.

#![allow(
    clippy::disallowed_methods,
    reason = "reads the copies in the state folder, which this module's journal owns"
)]

use std::cell::Cell;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use bundle_spec::{Hasher, Sha256};

use crate::host::command::Cmd;
use crate::host::{Host, HostView, Kind, unfinished};
use crate::journal::{Before, Change};
use crate::step::{State, Step, View, World};
use crate::steps::hosts_entry::{self, HOSTS};
use crate::steps::swap::{self, FSTAB};
use crate::steps::unescape;

/// The largest file of which a copy is kept when it is removed, in bytes.
const KEPT: u64 = 1 << 20;

/// A file is as it was.
pub(super) struct RestoreFile {
    pub path: String,
    pub before: Before,
    /// The state folder.
    pub state: PathBuf,
}

impl RestoreFile {
    fn undo(&self) -> Change {
        Change::Undo {
            what: self.summary(),
        }
    }

    fn pending(&self, host: &HostView) -> Result<State> {
        let path = &self.path;
        let now = host.facts(path)?;
        if let Some(facts) = now
            && facts.kind != Kind::File
        {
            return Ok(State::Unsettable(format!(
                "{path} is no regular file any more; what somebody put there stays"
            )));
        }
        Ok(match (&self.before, now) {
            (Before::Absent, None) => State::Satisfied,
            (Before::Absent, Some(_)) => State::Pending("it is removed".to_owned()),
            (Before::File { saved, .. }, _) if !self.state.join(saved).is_file() => {
                let place = self.state.join(saved).display().to_string();
                State::Conflict {
                    reason: format!("the former content of {path} is gone: there is no {place}"),
                    remedy: format!("put what {path} is to hold there: cp FILE {place}"),
                }
            }
            (Before::File { .. }, None) => State::Pending("it is put back".to_owned()),
            (
                Before::File {
                    saved,
                    mode,
                    uid,
                    gid,
                },
                Some(facts),
            ) => {
                let merged = self.merged(host, saved)?;
                let wanted = match &merged {
                    Some(text) => Sha256::of(text.as_bytes()),
                    None => self.digest_of_copy(saved)?,
                };
                let same = (facts.mode, facts.uid, facts.gid) == (*mode, *uid, *gid)
                    && host.digest(path)? == Some(wanted);
                match merged {
                    _ if same => State::Satisfied,
                    Some(_) => State::Pending(
                        "our lines go, and those that were there come back; what people wrote since stays"
                            .to_owned(),
                    ),
                    None => State::Pending("its former content is put back".to_owned()),
                }
            }
        })
    }

    /// What a file is to hold in which many write, and we a line or two: without ours, with what people wrote since. Nothing of a file that is ours alone, or that nobody else touched.
    fn merged(&self, host: &HostView, saved: &str) -> Result<Option<String>> {
        let lines = match self.path.as_str() {
            FSTAB => fstab_without_ours,
            HOSTS => hosts_without_ours,
            _ => return Ok(None),
        };
        let place = self.state.join(saved);
        let read = std::fs::read(&place);
        let before = read.with_context(|| format!("cannot read {}", place.display()))?;
        let now = host.read(&self.path)?.unwrap_or_default();
        // What is no text that can be taken apart is put back whole.
        let (Ok(before), Ok(now)) = (str::from_utf8(&before), str::from_utf8(&now)) else {
            return Ok(None);
        };
        let merged = lines(before, now);
        Ok((merged != before).then_some(merged))
    }

    fn digest_of_copy(&self, saved: &str) -> Result<Sha256> {
        let place = self.state.join(saved);
        let read = || -> std::io::Result<Sha256> {
            use std::io::Read;
            let mut file = File::open(&place)?;
            let mut hasher = Hasher::new();
            let mut buffer = vec![0; 1 << 16];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.finish()),
                    length => hasher.update(&buffer[..length]),
                }
            }
        };
        read().with_context(|| format!("cannot read {}", place.display()))
    }
}

impl Step for RestoreFile {
    fn id(&self) -> &'static str {
        "undo-file"
    }

    fn summary(&self) -> String {
        match self.before {
            Before::Absent => format!("{} is not there, as before", self.path),
            Before::File { .. } => format!("{} is as it was before", self.path),
        }
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(match self.pending(view.host)? {
            State::Satisfied if view.host.exists(&unfinished(&self.path))? => State::Pending(
                format!("{} is left of a killed run", unfinished(&self.path)),
            ),
            state => state,
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let (host, path) = (world.host, &self.path);
        host.remove_tree(&unfinished(path), self.undo())?;
        match (&self.before, host.view().facts(path)?) {
            (Before::Absent, None) => Ok(()),
            (Before::Absent, Some(facts)) if facts.mode & 0o004 == 0 => host.erase(path),
            (Before::Absent, Some(facts)) if facts.size <= KEPT => host.remove_file(path),
            (Before::Absent, Some(_)) => host.remove_tree(path, self.undo()),
            (
                Before::File {
                    saved,
                    mode,
                    uid,
                    gid,
                },
                _,
            ) => match self.merged(host.view(), saved)? {
                Some(text) => host.restore(path, &mut text.as_bytes(), *mode, (*uid, *gid)),
                None => host.restore_file(path, &self.state.join(saved), *mode, (*uid, *gid)),
            },
        }
    }
}

/// The table of file systems with the lines that the swap step took out.
fn fstab_without_ours(_: &str, now: &str) -> String {
    let lines = now.split_inclusive('\n');
    lines
        .map(|line| line.strip_prefix(swap::MARK).unwrap_or(line))
        .collect()
}

/// The hosts that are known now, without our line; and what it cost lines that lead to this machine itself, which had the name of the endpoint beside others.
fn hosts_without_ours(before: &str, now: &str) -> String {
    let words = |line: &str| -> Vec<String> {
        let entry = line.split('#').next().unwrap_or_default();
        entry.split_whitespace().map(str::to_owned).collect()
    };
    let is_loopback = |line: &str| line.starts_with("127.") || line.starts_with("::1");
    let mut lines: Vec<&str> = now.lines().collect();
    lines.retain(|line| !line.trim_end().ends_with(hosts_entry::MARK));
    let gone = |lines: &[&str], line: &str| !lines.contains(&line);
    for (at, line) in before.lines().enumerate() {
        if !is_loopback(line) || !gone(&lines, line) {
            continue;
        }
        let all = words(line);
        let shortened = lines.iter().position(|left| {
            let left = words(left);
            left.first() == all.first() && left.iter().all(|word| all.contains(word))
        });
        match shortened {
            Some(place) => lines[place] = line,
            None => lines.insert(at.min(lines.len()), line),
        }
    }
    let mut text = lines.join("\n");
    // As it ended before, where nothing was added to its end.
    if !text.is_empty()
        && (before.ends_with('\n') || lines.last() != before.lines().last().as_ref())
    {
        text.push('\n');
    }
    text
}

/// A folder that was made is gone, unless something else lies in it.
pub(super) struct RemoveFolder {
    path: String,
    tried: Cell<bool>,
}

impl RemoveFolder {
    pub fn new(path: String) -> Self {
        Self {
            path,
            tried: Cell::new(false),
        }
    }
}

impl Step for RemoveFolder {
    fn id(&self) -> &'static str {
        "undo-folder"
    }

    fn summary(&self) -> String {
        format!("the folder {} is not there, as before", self.path)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let path = &self.path;
        Ok(match view.host.facts(path)?.map(|facts| facts.kind) {
            None => State::Satisfied,
            Some(Kind::Directory) if self.tried.get() => {
                let left = view.host.list(path)?;
                State::Unsettable(format!(
                    "what somebody else put there stays: {}",
                    left.join(", ")
                ))
            }
            Some(Kind::Directory) => {
                State::Pending("it is removed where nothing else is in it".to_owned())
            }
            Some(_) => State::Unsettable(format!(
                "{path} is no folder any more; what somebody put there stays"
            )),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let path = &self.path;
        if world.host.view().list(path)?.is_empty() {
            let what = self.summary();
            world.host.remove_dir(path, Change::Undo { what })?;
        }
        self.tried.set(true);
        Ok(())
    }
}

/// What programs wrote below a path is gone; what was there before stays.
pub(super) struct CleanTree {
    pub path: String,
    pub before: Option<Vec<String>>,
}

impl CleanTree {
    fn undo(&self) -> Change {
        Change::Undo {
            what: self.summary(),
        }
    }

    /// The topmost paths that were not there before.
    fn grown(&self, host: &HostView) -> Result<Vec<String>> {
        let path = &self.path;
        let Some(before) = &self.before else {
            return Ok(if host.exists(path)? {
                vec![path.clone()]
            } else {
                Vec::new()
            });
        };
        let mut grown = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for name in host.list(&format!("{path}/{folder}"))? {
                let relative = format!("{folder}{name}");
                let full = format!("{path}/{relative}");
                if !before.contains(&relative) {
                    grown.push(full);
                } else if host
                    .facts(&full)?
                    .is_some_and(|facts| facts.kind == Kind::Directory)
                {
                    folders.push(format!("{relative}/"));
                }
            }
        }
        Ok(grown)
    }
}

impl Step for CleanTree {
    fn id(&self) -> &'static str {
        "undo-tree"
    }

    fn summary(&self) -> String {
        match &self.before {
            None => format!("{} is not there, as before", self.path),
            Some(before) if before.is_empty() => format!("{} is empty, as before", self.path),
            Some(_) => format!("{} holds what it held before", self.path),
        }
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let grown = self.grown(view.host)?;
        Ok(match grown.as_slice() {
            [] => State::Satisfied,
            [one] => State::Pending(format!("removed for good: {one}")),
            [first, rest @ ..] => {
                State::Pending(format!("removed for good: {first} and {} more", rest.len()))
            }
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        for path in self.grown(host.view())? {
            unmount_at_and_below(host, &path, &self.undo())?;
            let device = host.view().facts(&path)?.map(|facts| facts.device);
            refuse_other_devices(host.view(), &path, device)?;
            host.remove_tree(&path, self.undo())?;
        }
        Ok(())
    }
}

fn unmount_at_and_below(host: &Host<'_>, path: &str, change: &Change) -> Result<()> {
    let Some(real) = host.view().resolved(path)? else {
        return Ok(());
    };
    // Mounts are listed in the order in which they were made, so what lies on top comes last.
    for mount in mounts(host.view(), &real)?.into_iter().rev() {
        host.run(&Cmd::new("umount", [mount.as_str()]), change.clone())?;
    }
    if let Some(left) = mounts(host.view(), &real)?.first() {
        bail!(
            "something is still mounted at {left}, so nothing of {path} was removed: unmount it, then run this again"
        );
    }
    Ok(())
}

fn mounts(host: &HostView, path: &str) -> Result<Vec<String>> {
    let below = format!("{path}/");
    Ok(host
        .text("/proc/self/mounts")?
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(unescape)
        .filter(|mount| mount == path || mount.starts_with(&below))
        .collect())
}

/// The second look, at the file systems themselves: what the list of mounts does not show must not be removed either.
fn refuse_other_devices(host: &HostView, path: &str, device: Option<u64>) -> Result<()> {
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let Some(facts) = host.facts(&folder)? else {
            continue;
        };
        ensure!(
            Some(facts.device) == device,
            "{folder} lies on another file system than {path}, so nothing of it was removed: unmount it, then run this again"
        );
        if facts.kind == Kind::Directory {
            let names = host.list(&folder)?;
            folders.extend(names.iter().map(|name| format!("{folder}/{name}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_since_stays_in_a_file_of_everybody() {
        let before = "UUID=1 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\n";
        let ours = format!(
            "UUID=1 / ext4 defaults 0 1\n{}/dev/sda2 none swap sw 0 0\n",
            swap::MARK
        );
        assert_eq!(fstab_without_ours(before, &ours), before);
        let disk = "UUID=2 /data ext4 defaults 0 2\n";
        assert_eq!(
            fstab_without_ours(before, &format!("{ours}{disk}")),
            format!("{before}{disk}")
        );
        let before = "127.0.0.1 localhost api.tke.com";
        let ours = "127.0.0.1 localhost\n10.0.0.3 api.tke.com # kpot\n";
        assert_eq!(hosts_without_ours(before, ours), before);
        assert_eq!(
            hosts_without_ours(before, &format!("{ours}10.0.0.9 store\n")),
            format!("{before}\n10.0.0.9 store\n")
        );
        let before = "127.0.0.1 api.tke.com\n10.0.0.5 store\n10.0.0.7 old\n";
        let now = "10.0.0.6 store\n127.0.1.1 me\n10.0.0.3 api.tke.com # kpot\n";
        assert_eq!(
            hosts_without_ours(before, now),
            "127.0.0.1 api.tke.com\n10.0.0.6 store\n127.0.1.1 me\n",
            "what people corrected, took out and added stays so"
        );
    }
}
