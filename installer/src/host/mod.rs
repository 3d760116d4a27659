//! This machine: reading it ([`HostView`]) and changing it with a journal ([`Host`]).
//!
//! Everything lies below a root that is passed in, so that tests need neither root nor mocks; commands go through a [`command::Runner`]. A file is replaced whole, synced, and
//! only after the journal holds what is needed to put the old one back. Nothing here knows Kubernetes.

#![allow(
    clippy::disallowed_methods,
    reason = "this module owns the machine's files"
)]

pub(crate) mod ahead;
pub(crate) mod carry;
pub mod clock;
pub mod command;
pub(crate) mod cri;
mod fetch;
pub(crate) mod grace;
pub mod probe;
pub mod remote;
#[cfg(test)]
pub mod scripted;
pub(crate) mod side_by_side;
pub mod ssh;
mod view;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bundle_spec::{Hasher, Sha256};
use nix::errno::Errno;

use self::command::{Cmd, Feed, Output};
use self::side_by_side::side_by_side;
pub(crate) use self::view::PROGRAM_DIRS;
pub use self::view::{Facts, HostView, Kind, Space};
use self::view::{absent, sysctl_path};
use crate::journal::{Before, Change, Journal};
use crate::signals::Stop;

/// This machine, for changing. Every change is in the journal before it is made.
pub struct Host<'a> {
    view: HostView,
    journal: &'a Journal,
    stop: Stop,
}

impl<'a> Host<'a> {
    /// Changes what `view` sees and writes it to `journal`.
    pub fn new(view: HostView, journal: &'a Journal) -> Self {
        Self {
            view,
            journal,
            stop: Stop::default(),
        }
    }

    /// The same, for a run that ends at the next safe place when `stop` says so.
    #[must_use]
    pub fn until(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    /// Whether somebody asked this run to end.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// The same, for looking only.
    pub fn view(&self) -> &HostView {
        &self.view
    }

    /// Notes a change that is about to be made by other means than this type's own methods.
    pub fn note(&self, change: Change) -> Result<()> {
        self.journal.intent(change)
    }

    /// Puts a file (0600) among this run's backups, whole or not at all; the path is where it lies.
    pub fn keep(
        &self,
        name: &str,
        fill: &mut dyn FnMut(&mut File) -> Result<()>,
    ) -> Result<PathBuf> {
        self.journal.keep(name, fill)
    }

    /// Replaces a file by `content`, whole or not at all.
    pub fn write_file(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        self.replace(path, mode, &mut |file| {
            file.write_all(content).map_err(Into::into)
        })
    }

    /// The same for a secret, of which no copy is kept: so nothing else may be there before.
    pub fn write_secret(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        if self.view.exists(path)? {
            let same = self.view.digest(path)? == Some(Sha256::of(content));
            ensure!(
                same,
                "{path} is already here with another content: move it away, then run this again"
            );
            return Ok(());
        }
        self.journal.intent(Change::File {
            path: path.to_owned(),
            before: Before::Absent,
        })?;
        self.put(path, mode, &mut |file| {
            file.write_all(content).map_err(Into::into)
        })
    }

    /// Replaces a file by what `content` yields, whole or not at all, and only if its digest is `expected`.
    pub fn install_file(
        &self,
        path: &str,
        content: &mut dyn Read,
        expected: &Sha256,
        mode: u32,
    ) -> Result<()> {
        self.replace(path, mode, &mut |file| {
            copy_checked(content, file, expected)
        })
    }

    /// Replaces files by what they yield, whole or not at all, and only where its digest is the expected one: `lanes` files at a time. All that were begun come to their end; then
    /// the first failure is told, and the journal knows of no file that was not begun.
    pub fn install_files(&self, files: &[Install<'_>], mode: u32, lanes: usize) -> Result<()> {
        let view = &self.view;
        for some in files.chunks(lanes.max(1)) {
            for file in some {
                self.save_file(file.path)?;
                self.make_folder_of(file.path)?;
            }
            let installed = side_by_side(some, lanes, |file| {
                let mut content = (file.open)()?;
                place(view, file.path, mode, &mut |to| {
                    copy_checked(&mut *content, to, &file.digest)
                })
            });
            installed.into_iter().collect::<Result<()>>()?;
        }
        Ok(())
    }

    /// Saves a file that something is about to take away, like one that is replaced. It stays where it is.
    pub fn save_file(&self, path: &str) -> Result<()> {
        let before = self.before(path)?;
        let path = path.to_owned();
        self.journal.intent(Change::File { path, before })
    }

    /// Replaces a file by what it was before, which was saved at `saved`, with its former mode and owner.
    pub fn restore_file(
        &self,
        path: &str,
        saved: &Path,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<()> {
        let mut content =
            File::open(saved).with_context(|| format!("cannot read {}", saved.display()))?;
        self.restore(path, &mut content, mode, (uid, gid))
    }

    /// The same, of this content.
    pub fn restore(
        &self,
        path: &str,
        content: &mut dyn io::Read,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<()> {
        self.replace(path, mode, &mut |file| {
            io::copy(content, file)?;
            // Before the mode is set: a change of the owner takes the set-user-ID bit away.
            Ok(std::os::unix::fs::fchown(&*file, Some(uid), Some(gid))?)
        })
    }

    /// Makes a folder and those above it.
    pub fn make_dir(&self, path: &str, mode: u32) -> Result<()> {
        if self.view.exists(path)? {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/')
            && !parent.is_empty()
        {
            self.make_dir(parent, 0o755)?;
        }
        self.journal.intent(Change::Directory {
            path: path.to_owned(),
        })?;
        let place = self.view.locate(path);
        fs::DirBuilder::new()
            .mode(mode)
            .create(&place)
            .with_context(|| format!("cannot make the folder {path}"))?;
        // The mask of the calling shell must not decide.
        fs::set_permissions(&place, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {path}"))
    }

    /// Removes a file; it is saved first.
    pub fn remove_file(&self, path: &str) -> Result<()> {
        let before = self.before(path)?;
        if before == Before::Absent {
            return Ok(());
        }
        self.journal.intent(Change::File {
            path: path.to_owned(),
            before,
        })?;
        fs::remove_file(self.view.locate(path)).with_context(|| format!("cannot remove {path}"))
    }

    /// Overwrites and removes a file that holds a secret. Nothing is saved; a file that is not there is fine.
    pub fn erase(&self, path: &str) -> Result<()> {
        let Some(facts) = self.view.facts(path)? else {
            return Ok(());
        };
        self.journal.intent(Change::Erased {
            path: path.to_owned(),
        })?;
        let place = self.view.locate(path);
        let erased = || -> io::Result<()> {
            if facts.kind == Kind::File {
                let mut file = OpenOptions::new().write(true).open(&place)?;
                io::copy(&mut io::repeat(0).take(facts.size), &mut file)?;
                file.sync_all()?;
            }
            fs::remove_file(&place)
        };
        erased().with_context(|| format!("cannot erase {path}"))
    }

    /// Removes a file, or a folder and all that is in it; the journal holds `change` first. Nothing is saved: only for what this program's own run brought about.
    pub fn remove_tree(&self, path: &str, change: Change) -> Result<()> {
        let Some(facts) = self.view.facts(path)? else {
            return Ok(());
        };
        self.journal.intent(change)?;
        let place = self.view.locate(path);
        match facts.kind {
            Kind::Directory => fs::remove_dir_all(place),
            _ => fs::remove_file(place),
        }
        .with_context(|| format!("cannot remove {path}"))
    }

    /// Removes a folder that is empty; the journal holds `change` first.
    pub fn remove_dir(&self, path: &str, change: Change) -> Result<()> {
        self.journal.intent(change)?;
        fs::remove_dir(self.view.locate(path))
            .with_context(|| format!("cannot remove the folder {path}"))
    }

    /// Removes a file, or a folder and all that is in it; the journal holds `change` first. Nothing is saved. What is not there is fine.
    pub fn remove_path(&self, path: &str, change: Change) -> Result<()> {
        let Some(facts) = self.view.facts(path)? else {
            return Ok(());
        };
        if facts.kind == Kind::Directory {
            return self.remove_tree(path, change);
        }
        self.journal.intent(change)?;
        fs::remove_file(self.view.locate(path)).with_context(|| format!("cannot remove {path}"))
    }

    /// The name of this run, as its folder of backups has it.
    pub fn run_name(&self) -> &str {
        self.journal.run()
    }

    /// Copies a file among this run's backups. A copy is no change, so the journal does not hold it.
    pub fn keep_copy(&self, path: &str, name: &str) -> Result<PathBuf> {
        let mut source =
            File::open(self.view.locate(path)).with_context(|| format!("cannot read {path}"))?;
        self.keep(name, &mut |file| Ok(io::copy(&mut source, file).map(drop)?))
    }

    /// Moves a folder, or a file, to `to` in the state folder; the journal holds `change` first. It is copied where the state folder is on another file system. What is not there is fine.
    pub fn move_away(&self, path: &str, to: &str, change: Change) -> Result<()> {
        if !self.view.exists(path)? {
            return Ok(());
        }
        let target = self.journal.dir().join(to);
        let folder = target.parent().context("a backup has a folder")?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        self.journal.intent(change)?;
        let source = self.view.locate(path);
        match fs::rename(&source, &target) {
            Ok(()) => sync_dir(folder).with_context(|| format!("cannot sync {}", folder.display())),
            Err(cause) if cause.raw_os_error() == Some(Errno::EXDEV as i32) => self
                .carry_over(&source, &target)
                .with_context(|| format!("cannot move {path} to {}", target.display())),
            Err(cause) => {
                Err(cause).with_context(|| format!("cannot move {path} to {}", target.display()))
            }
        }
    }

    /// Sets a sysctl in the running kernel and looks whether it took.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let before = self
            .view
            .sysctl(key)?
            .with_context(|| format!("this kernel has no sysctl {key}"))?;
        self.journal.intent(Change::Sysctl {
            key: key.to_owned(),
            before,
        })?;
        let path = sysctl_path(key);
        let mut file = OpenOptions::new()
            .write(true)
            .open(self.view.locate(&path))
            .with_context(|| format!("cannot set {key}"))?;
        file.write_all(value.as_bytes())
            .with_context(|| format!("cannot set {key} to {value}"))?;
        let after = self.view.sysctl(key)?.unwrap_or_default();
        let wanted = value.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(after == wanted, "{key} was set to {wanted} and is {after}");
        Ok(())
    }

    /// Runs a command that changes this machine; the journal holds `change` first. An exit status other than 0 is an error.
    pub fn run(&self, cmd: &Cmd, change: Change) -> Result<Output> {
        self.journal.intent(change)?;
        Ok(self.view.runner.expect(cmd)?)
    }

    /// Runs a command whose exit status is an answer; the journal holds before it what [`Host::note`] was told.
    pub fn try_run(&self, cmd: &Cmd) -> Result<Output> {
        Ok(self.view.runner.run(cmd)?)
    }

    /// The same as [`Host::run`], with `look` called every `pause` while the command runs. What `look` finds wrong does not stop the command.
    pub fn run_watched(
        &self,
        cmd: &Cmd,
        change: Change,
        pause: Duration,
        look: &mut dyn FnMut(&Self) -> Result<()>,
    ) -> Result<Output> {
        self.journal.intent(change)?;
        thread::scope(|scope| {
            let runner = &self.view.runner;
            let (ended, wait) = mpsc::channel();
            let running = scope.spawn(move || {
                let outcome = runner.expect(cmd);
                // Nobody listens only where `look` panicked, and then nothing matters any more.
                let _ = ended.send(());
                outcome
            });
            let mut looked = Ok(());
            while wait.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                looked = look(self);
            }
            let outcome = running
                .join()
                .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked));
            match (outcome, looked) {
                (Ok(output), _) => Ok(output),
                (Err(failed), Ok(())) => Err(failed.into()),
                (Err(failed), Err(look)) => {
                    Err(anyhow::Error::from(failed).context(format!("{look:#}; and then")))
                }
            }
        })
    }

    /// The same command several times side by side, each with a feed of its own. All of them come to their end; then the first failure is told.
    pub fn feed(&self, cmd: &Cmd, change: Change, feeds: Vec<Box<Feed<'_>>>) -> Result<()> {
        self.journal.intent(change)?;
        let runner = &self.view.runner;
        let run = |mut feed: Box<Feed<'_>>| runner.feed(cmd, &mut *feed)?.expect(cmd);
        thread::scope(|scope| {
            let running: Vec<_> = feeds
                .into_iter()
                .map(|feed| scope.spawn(move || run(feed)))
                .collect();
            let ended: Vec<_> = running
                .into_iter()
                .map(|one| {
                    one.join()
                        .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
                })
                .collect();
            Ok(ended.into_iter().try_for_each(|one| one.map(drop))?)
        })
    }

    fn before(&self, path: &str) -> Result<Before> {
        let Some(facts) = self.view.facts(path)? else {
            return Ok(Before::Absent);
        };
        ensure!(
            facts.kind == Kind::File,
            "{path} is not a regular file ({:?}): move it out of the way",
            facts.kind
        );
        let mut file =
            File::open(self.view.locate(path)).with_context(|| format!("cannot read {path}"))?;
        self.journal.save(path, facts, &mut file)
    }

    fn replace(
        &self,
        path: &str,
        mode: u32,
        fill: &mut dyn FnMut(&mut File) -> Result<()>,
    ) -> Result<()> {
        self.save_file(path)?;
        self.put(path, mode, fill)
    }

    /// Puts a file in place, whole or not at all; the journal knows of it already.
    fn put(
        &self,
        path: &str,
        mode: u32,
        fill: &mut dyn FnMut(&mut File) -> Result<()>,
    ) -> Result<()> {
        self.make_folder_of(path)?;
        place(&self.view, path, mode, fill)
    }

    fn make_folder_of(&self, path: &str) -> Result<()> {
        match folder_of(path)? {
            "" => Ok(()),
            folder => self.make_dir(folder, 0o755),
        }
    }
}

/// A file that is to be installed.
pub struct Install<'a> {
    /// Its place.
    pub path: &'a str,
    /// The digest that its content must have.
    pub digest: Sha256,
    /// Where its content comes from.
    pub open: Open<'a>,
}

/// What yields the content of a file from its beginning.
pub type Open<'a> = Box<dyn Fn() -> Result<Box<dyn Read + 'a>> + Sync + 'a>;

/// Copies `content` into `to`, and fails where its digest is not `expected`.
fn copy_checked(content: &mut dyn Read, to: &mut File, expected: &Sha256) -> Result<()> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let length = content.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        to.write_all(&buffer[..length])?;
    }
    let seen = hasher.finish();
    ensure!(
        seen == *expected,
        "its content has digest {seen}, expected {expected}"
    );
    Ok(())
}

/// Puts a file in its folder, which is there, whole or not at all.
fn place(
    view: &HostView,
    path: &str,
    mode: u32,
    fill: &mut dyn FnMut(&mut File) -> Result<()>,
) -> Result<()> {
    let target = view.locate(path);
    // The same name at every try: what a kill leaves behind, the next run takes away.
    let fresh = view.locate(&unfinished(path));
    let written =
        write_synced(&fresh, mode, fill).and_then(|()| match fs::rename(&fresh, &target) {
            // A file that is a mount point of its own (a container's /etc/hosts) cannot be replaced, only rewritten.
            Err(cause) if cause.raw_os_error() == Some(Errno::EBUSY as i32) => {
                let mut rewritten = OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(&target)?;
                io::copy(&mut File::open(&fresh)?, &mut rewritten)?;
                rewritten.sync_all()?;
                Ok(fs::remove_file(&fresh)?)
            }
            renamed => Ok(renamed?),
        });
    if let Err(cause) = written {
        // Nothing half-written stays behind; if even that fails, the next run removes it.
        let _ = fs::remove_file(&fresh);
        return Err(cause).with_context(|| format!("cannot write {path}"));
    }
    sync_dir(&view.locate(folder_of(path)?))
        .with_context(|| format!("cannot sync the folder of {path}"))
}

fn folder_of(path: &str) -> Result<&str> {
    let parts = path.rsplit_once('/');
    let (folder, _) = parts.with_context(|| format!("{path} is not an absolute path"))?;
    Ok(folder)
}

/// Where a file is written before it takes its place.
pub(crate) fn unfinished(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or_default();
    format!("{folder}/.{name}.kpot-new")
}

/// Writes a new file with exactly this mode and brings it to the disk.
pub(crate) fn write_synced(
    path: &Path,
    mode: u32,
    fill: &mut dyn FnMut(&mut File) -> Result<()>,
) -> Result<()> {
    match fs::remove_file(path) {
        Err(cause) if !absent(&cause) => return Err(cause.into()),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode & 0o700)
        .open(path)?;
    fill(&mut file)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file.sync_all()?)
}

/// Brings a folder's entries to the disk.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
