//! Processes and files of the lab: the one module that starts commands and writes to the disk.
//!
//! A command's output goes into a log file below the cache, never to the terminal; where a command fails, the error
//! carries the command line, the end of its output and the log's path. Files are written beside their place and renamed
//! into it, so that a killed lab leaves the old file or the new one. It does not know what a command is for, and it
//! does not retry.
#![allow(
    clippy::disallowed_methods,
    reason = "the lab's owner of processes and files: everything else goes through here"
)]

mod apt;
mod daemon;

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

pub use apt::{apt_install, apt_installed, apt_update, let_services_start};
pub use daemon::Daemon;

/// Lines of a failed command's log that its error repeats.
const EVIDENCE_LINES: usize = 25;
/// How the names of directories begin that are being removed.
const TRASH: &str = ".trash-";
/// How often a command with a time limit is looked at.
const POLL: Duration = Duration::from_millis(25);

static STARTED: OnceLock<Instant> = OnceLock::new();
static LOGS: OnceLock<PathBuf> = OnceLock::new();

thread_local! {
    /// What this thread works on, where several things are worked on side by side.
    static LANE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Starts the clock that [`step`] prints and says where logs go: `<cache>/logs`. Called once, first of all; a later call
/// changes nothing.
pub fn init(cache: &Path) -> Result<()> {
    STARTED.get_or_init(Instant::now);
    let logs = LOGS.get_or_init(|| cache.join("logs"));
    make_dirs(logs)
}

/// Time since [`init`].
pub fn elapsed() -> Duration {
    STARTED.get_or_init(Instant::now).elapsed()
}

/// What a mutex guards, also after somebody panicked with it: that is told where it happens, and what the lab guards is whole at any time.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints one line with the elapsed time on stderr, and with what this thread works on, where [`work_on`] has told it.
pub fn say(line: impl fmt::Display) {
    LANE.with_borrow(|lane| eprintln!("[{}] {lane}{line}", clock(elapsed())));
}

/// What this thread's lines are about from now on.
pub fn work_on(what: impl fmt::Display) {
    LANE.set(format!("{what}: "));
}

/// Runs one piece of work between two lines that say what it is and how long it took. An error passes through, with
/// `what` added to it.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(format_args!("{what} …"));
    let begun = Instant::now();
    let done = work().with_context(|| what.to_owned());
    let took = begun.elapsed();
    match done {
        Ok(_) => say(format_args!("{what}: done in {}", seconds(took))),
        Err(_) => say(format_args!("{what}: FAILED after {}", seconds(took))),
    }
    done
}

/// `mm:ss`, minutes unbounded.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A command: built first, then run once. Standard input is empty unless [`Sh::stdin`] gives one.
#[derive(Debug, Clone)]
pub struct Sh {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
    log: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    limit: Option<Duration>,
}

/// What a command left behind, whatever its exit status.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code; `None` for a command that a signal ended.
    pub code: Option<i32>,
    /// Everything on standard output, with invalid UTF-8 replaced.
    pub stdout: String,
    /// Everything on standard error, with invalid UTF-8 replaced.
    pub stderr: String,
}

impl Outcome {
    /// Whether the command ended with exit status 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

impl Sh {
    /// A command by its name on PATH or by its path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            log: None,
            stdin: None,
            limit: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the command's environment, which is the lab's own otherwise.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes a variable out of the command's environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Takes over another command's changes to the environment.
    #[must_use]
    pub fn env_of(mut self, other: &Self) -> Self {
        self.env.extend(other.env.iter().cloned());
        self
    }

    /// The directory that the command runs in.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// The file that output is appended to; a relative path lies below the cache's `logs`. Default: `lab.log` there.
    #[must_use]
    pub fn log(mut self, path: impl AsRef<Path>) -> Self {
        self.log = Some(path.as_ref().to_owned());
        self
    }

    /// What the command reads from its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Ends the command (SIGKILL) after this time, which is an error of [`Sh::run`], [`Sh::output`] and
    /// [`Sh::outcome`] alike.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Runs the command with all output into its log. An exit status other than 0 is an error with the log's end.
    pub fn run(&self) -> Result<()> {
        let path = self.log_path()?;
        let mut log = append(&path)?;
        writeln!(log, "\n[{}] $ {self}", clock(elapsed()))
            .with_context(|| format!("writing {}", path.display()))?;
        let begins = log.metadata().map_or(0, |meta| meta.len());
        let stderr = log
            .try_clone()
            .with_context(|| format!("writing {}", path.display()))?;
        let mut child = self.start(Stdio::from(log), Stdio::from(stderr))?;
        let feeder = self.feed(&mut child);
        let status = self.wait(&mut child);
        drop(feeder);
        let status = status?;
        if status.success() {
            return Ok(());
        }
        Err(anyhow!(
            "`{self}` ended with {status}; the end of {}:\n{}",
            path.display(),
            tail(&path, begins)
        ))
    }

    /// Runs the command and gives its standard output without the last newline. An exit status other than 0 is an error
    /// with the end of what it wrote to standard error.
    pub fn output(&self) -> Result<String> {
        let outcome = self.outcome()?;
        if !outcome.ok() {
            let ended = outcome
                .code
                .map_or("a signal".to_owned(), |code| format!("exit status {code}"));
            let said = if outcome.stderr.trim().is_empty() {
                &outcome.stdout
            } else {
                &outcome.stderr
            };
            bail!("`{self}` ended with {ended}:\n{}", last_lines(said));
        }
        Ok(outcome.stdout.trim_end_matches('\n').to_owned())
    }

    /// Runs the command and gives everything that it said, whatever its exit status. An error means that it could not
    /// be run, or that its time was over.
    pub fn outcome(&self) -> Result<Outcome> {
        let mut child = self.start(Stdio::piped(), Stdio::piped())?;
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        let feeder = self.feed(&mut child);
        let status = self.wait(&mut child);
        drop(feeder);
        let status = status?;
        Ok(Outcome {
            code: status.code(),
            stdout: joined(stdout),
            stderr: joined(stderr),
        })
    }

    /// Starts the command and leaves it running, with its output in its log: a server that the caller stops.
    pub fn spawn(&self) -> Result<Daemon> {
        let path = self.log_path()?;
        let mut log = append(&path)?;
        writeln!(log, "\n[{}] $ {self} &", clock(elapsed()))
            .with_context(|| format!("writing {}", path.display()))?;
        let stderr = log
            .try_clone()
            .with_context(|| format!("writing {}", path.display()))?;
        let child = self.start(Stdio::from(log), Stdio::from(stderr))?;
        Ok(Daemon {
            what: self.to_string(),
            log: path,
            child: Some(child),
        })
    }

    fn start(&self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdout(stdout).stderr(stderr);
        command.stdin(if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
            .spawn()
            .with_context(|| format!("starting `{self}`"))
    }

    /// Writes standard input beside the wait: a child that talks before it has read everything must not block us.
    fn feed(&self, child: &mut Child) -> Option<thread::JoinHandle<()>> {
        let bytes = self.stdin.clone()?;
        let mut pipe = child.stdin.take()?;
        Some(thread::spawn(move || {
            // A child may stop reading early: its exit status tells whether that mattered.
            let _ = pipe.write_all(&bytes);
        }))
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        let Some(limit) = self.limit else {
            return child
                .wait()
                .with_context(|| format!("waiting for `{self}`"));
        };
        let begun = Instant::now();
        loop {
            if let Some(status) = child
                .try_wait()
                .with_context(|| format!("waiting for `{self}`"))?
            {
                return Ok(status);
            }
            if begun.elapsed() >= limit {
                // Already ended between the two looks is as good as killed.
                let _ = child.kill();
                let _ = child.wait();
                bail!("`{self}` did not end within {}", seconds(limit));
            }
            thread::sleep(POLL);
        }
    }

    fn log_path(&self) -> Result<PathBuf> {
        let wanted = self.log.clone().unwrap_or_else(|| PathBuf::from("lab.log"));
        if wanted.is_absolute() {
            return Ok(wanted);
        }
        let logs = LOGS
            .get()
            .ok_or_else(|| anyhow!("sh::init was not called before `{self}` was run"))?;
        Ok(logs.join(wanted))
    }
}

impl fmt::Display for Sh {
    /// The command line as a shell would take it. The environment and standard input are left out: they may be long,
    /// and they may be secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&quoted(&self.program))?;
        for arg in &self.args {
            out.write_char(' ')?;
            out.write_str(&quoted(arg))?;
        }
        Ok(())
    }
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has given what it had.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn joined(reader: Option<thread::JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader
        .and_then(|handle| handle.join().ok())
        .unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn append(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        make_dirs(dir)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening the log {}", path.display()))
}

fn tail(path: &Path, from: u64) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(0).min(bytes.len());
    last_lines(&String::from_utf8_lossy(&bytes[from..]))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(EVIDENCE_LINES)..].join("\n")
}

/// Whether a program of this name is on PATH.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| {
            fs::metadata(dir.join(program))
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
    })
}

/// Writes a file with this mode beside its place and renames it into it, on disk before the name is.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = directory_of(path)?;
    make_dirs(dir)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(dir)
        .with_context(|| format!("making a file in {}", dir.display()))?;
    file.write_all(bytes)
        .and_then(|()| {
            file.as_file()
                .set_permissions(fs::Permissions::from_mode(mode))
        })
        .and_then(|()| file.as_file().sync_all())
        .with_context(|| format!("writing {}", path.display()))?;
    file.persist(path)
        .map_err(|err| err.error)
        .with_context(|| format!("renaming into {}", path.display()))?;
    Ok(())
}

fn directory_of(path: &Path) -> Result<&Path> {
    path.parent()
        .ok_or_else(|| anyhow!("{} has no directory", path.display()))
}

/// Gives a finished file or directory its final name, in one rename on one file system.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        make_dirs(dir)?;
    }
    fs::rename(from, to).with_context(|| format!("renaming {} to {}", from.display(), to.display()))
}

/// Copies a file with its mode; the copy appears whole or not at all.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let dir = directory_of(to)?;
    make_dirs(dir)?;
    let whole = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(dir)
        .with_context(|| format!("making a file in {}", dir.display()))?;
    fs::copy(from, whole.path())
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    whole
        .persist(to)
        .map_err(|err| err.error)
        .with_context(|| format!("renaming into {}", to.display()))?;
    Ok(())
}

/// Makes a second name for a file's bytes, in place of an older file of that name; several may do so at once.
pub fn hard_link(from: &Path, to: &Path) -> Result<()> {
    let dir = directory_of(to)?;
    make_dirs(dir)?;
    let beside = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(dir)
        .with_context(|| format!("making a directory in {}", dir.display()))?;
    let new = beside.path().join("link");
    fs::hard_link(from, &new)
        .and_then(|()| fs::rename(&new, to))
        .with_context(|| format!("linking {} to {}", from.display(), to.display()))
}

/// A text file's content.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// A file's content.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// A file opened for reading.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

/// A new, empty file opened for writing; what was there before is gone.
pub fn create(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        make_dirs(dir)?;
    }
    File::create(path).with_context(|| format!("making {}", path.display()))
}

/// Makes a symbolic link, in place of an older file or link of that name.
pub fn symlink(target: &Path, link: &Path) -> Result<()> {
    if let Some(dir) = link.parent() {
        make_dirs(dir)?;
    }
    remove(link)?;
    std::os::unix::fs::symlink(target, link)
        .with_context(|| format!("linking {} to {}", link.display(), target.display()))
}

/// Whether two names are of the same bytes on disk.
pub fn same_file(one: &Path, other: &Path) -> bool {
    let id = |path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    id(one).is_some_and(|one| id(other) == Some(one))
}

/// Whether something of this name is there, a dangling link included.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Makes a directory and those above it.
pub fn make_dirs(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making the directory {}", path.display()))
}

/// Locks a file, which is made where it is missing, until the value is dropped or this process ends; `None` where another
/// process has locked it.
pub fn lock(path: &Path) -> Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

/// Sets the permission bits of a file.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("setting the mode of {}", path.display()))
}

/// The names in a directory, sorted.
pub fn names_in(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in
        fs::read_dir(dir).with_context(|| format!("reading the directory {}", dir.display()))?
    {
        let entry = entry.with_context(|| format!("reading the directory {}", dir.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Takes a directory out of the way at once and removes it in the background: a build's tree has so many files that
/// waiting for it takes as long as compiling some of them. What a killed lab leaves of it goes with the next one.
pub fn discard(dir: &Path) -> Result<()> {
    if !exists(dir) {
        return Ok(());
    }
    let above = directory_of(dir)?;
    let trash = tempfile::Builder::new()
        .prefix(TRASH)
        .tempdir_in(above)
        .with_context(|| format!("making a directory in {}", above.display()))?
        .keep();
    rename(dir, &trash.join("trash"))?;
    let trashes: Vec<PathBuf> = names_in(above)?
        .iter()
        .filter(|name| name.starts_with(TRASH))
        .map(|name| above.join(name))
        .collect();
    Sh::new("rm")
        .args(["-rf", "--"])
        .args(trashes)
        .spawn()?
        .detach();
    Ok(())
}

/// Removes a file, a link or a whole directory. What is not there is removed already.
pub fn remove(path: &Path) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let gone = if meta.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match gone {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_had_once_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lab.lock");
        let held = lock(&path).expect("a lock");
        assert!(held.is_some());
        assert!(lock(&path).expect("a look").is_none(), "it was had twice");
        drop(held);
        // A program that another test starts at this moment has a copy of every open file until it runs.
        let had = (0..2000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            lock(&path).expect("a lock").is_some()
        });
        assert!(had);
    }
}
