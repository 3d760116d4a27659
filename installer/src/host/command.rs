//! Commands as values, and what may run them.
//!
//! A [`Cmd`] is a program with arguments: comparable, printable without its secrets, with a time limit. There are no shell strings here. A [`Runner`] runs it: on
//! this machine ([`Local`]), on another one ([`super::ssh::Ssh`]), or from a script in tests ([`super::scripted::Scripted`]).

#![allow(clippy::disallowed_methods, reason = "this module owns processes")]

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use super::clock::{Clock, SystemClock};

/// The largest standard output that is kept, in bytes: `kubectl get -o json` of a cluster with thousands of pods fits.
const OUTPUT_LIMIT: u64 = 64 << 20;

/// The exit status of a shell, and of `env`, for a program that is not there.
pub(crate) const NO_PROGRAM: i32 = 127;

/// Bytes that must not be printed and are overwritten when they are no longer needed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The text, for the one place that needs it; empty where the bytes are not UTF-8.
    pub fn expose_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A command to run. Nothing secret may stand in its arguments or its environment: every user of a machine can read those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmd {
    /// The program's name or path.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables set beside the inherited ones.
    pub env: Vec<(String, String)>,
    /// What it reads; nothing by default.
    pub stdin: Secret,
    /// When it is killed.
    pub timeout: Duration,
    /// How long it may print nothing while its output is handed on ([`Runner::fetch`]) before it is killed; until its time limit where that is not set.
    pub stall: Option<Duration>,
    /// Whether it goes on when this program is killed.
    pub life: Life,
}

/// Whether a command goes on when this program is killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It prints to pipes of ours, and ends at its next word after we are gone.
    Ours,
    /// It prints to this file (0600), which it keeps locked while it runs, and goes on to its end. Both its outputs are returned as its standard output.
    Own(PathBuf),
}

impl Cmd {
    /// A command with arguments and a minute of time.
    pub fn new<S: Into<String>>(
        program: impl Into<String>,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: Secret::default(),
            timeout: Duration::from_secs(60),
            stall: None,
            life: Life::Ours,
        }
    }

    /// Lets it go on to its end, printing to the file `log`, when this program is killed.
    #[must_use]
    pub fn outlive(mut self, log: impl Into<PathBuf>) -> Self {
        self.life = Life::Own(log.into());
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Gives it something to read.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = Secret::new(input);
        self
    }

    /// Changes its time limit.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Limits how long it may print nothing while its output is handed on.
    #[must_use]
    pub fn stall(mut self, limit: Duration) -> Self {
        self.stall = Some(limit);
        self
    }
}

impl fmt::Display for Cmd {
    /// As one would type it; for people, not for a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        self.args
            .iter()
            .try_for_each(|arg| write!(f, " {}", super::ssh::quote(arg)))
    }
}

/// What a command that ran to its end left.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Output {
    /// Its exit status; 128 and the signal's number where a signal ended it.
    pub status: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with 0.
    pub fn ok(&self) -> bool {
        self.status == 0
    }

    /// The same, or an error that carries the end of what `cmd` printed where its status is not 0.
    pub fn expect(self, cmd: &Cmd) -> Result<Self, CommandError> {
        if self.ok() {
            return Ok(self);
        }
        Err(CommandError::Status {
            command: cmd.to_string(),
            status: self.status,
            evidence: self.evidence(),
        })
    }

    /// Its standard output as text, without the line feed at the end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// The last lines of its standard error, or of its output where that is empty: what a person needs to see.
    pub fn evidence(&self) -> String {
        let bytes = if self.stderr.iter().all(u8::is_ascii_whitespace) {
            &self.stdout
        } else {
            &self.stderr
        };
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// Why a command gave no good result.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot run {command}")]
    Start {
        /// The command, as one would type it.
        command: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It ran into its time limit and was killed.
    #[error("{command} was still running after {} s and was stopped", limit.as_secs())]
    Timeout {
        /// The command, as one would type it.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// It printed nothing for too long, and was killed.
    #[error("{command} printed nothing for {} s and was stopped", limit.as_secs())]
    Stalled {
        /// The command, as one would type it.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// It exited with another status than 0.
    #[error("{command} failed with exit status {status}:\n{evidence}")]
    Status {
        /// The command, as one would type it.
        command: String,
        /// Its exit status.
        status: i32,
        /// The end of what it printed.
        evidence: String,
    },
    /// It was to run on another machine, and the connection broke.
    #[error("the connection to {host} broke while running {command}: {evidence}")]
    Remote {
        /// The other machine.
        host: String,
        /// The command, as one would type it.
        command: String,
        /// What ssh said.
        evidence: String,
    },
    /// It ran on another machine, and gave no answer within its time limit.
    #[error("{host} gave no answer to {command} within {} s", limit.as_secs())]
    Silent {
        /// The other machine.
        host: String,
        /// The command, as one would type it.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// It was to run on another machine, which has no such program.
    #[error(
        "{host} has no {program} in the folders in which programs are looked for: {evidence}\nIs it a master of the cluster? Where its {program} lies in another folder, link it there: ln -s /FOLDER/{program} /usr/local/bin/{program}"
    )]
    NoProgram {
        /// The other machine.
        host: String,
        /// The program.
        program: String,
        /// What the other machine said.
        evidence: String,
    },
    /// It read or wrote something that broke off.
    #[error("{command} could not be fed or read")]
    Pipe {
        /// The command, as one would type it.
        command: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What it printed could not be taken.
    #[error("what {command} printed could not be written")]
    Sink {
        /// The command, as one would type it.
        command: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A scripted runner was asked for something that its script does not hold.
    #[error("unexpected command: {0}")]
    Unexpected(String),
}

/// What writes a command's standard input piece by piece.
pub type Feed<'a> = dyn FnMut(&mut dyn Write) -> io::Result<()> + Send + 'a;

/// Something that runs commands.
pub trait Runner: Send + Sync {
    /// Runs `cmd` to its end; an exit status other than 0 is not an error here.
    fn run(&self, cmd: &Cmd) -> Result<Output, CommandError>;

    /// Runs `cmd` while `feed` writes its standard input; `cmd.stdin` is not used.
    fn feed(&self, cmd: &Cmd, feed: &mut Feed<'_>) -> Result<Output, CommandError>;

    /// Runs `cmd` while its standard output, of any size, goes to `sink`; none of it is kept in what is returned, and `cmd.life` is not used. An exit status other
    /// than 0 is not an error here: the caller must look at it before it believes what the sink got.
    fn fetch(&self, cmd: &Cmd, sink: &mut dyn Write) -> Result<Output, CommandError>;

    /// The clock by which one waits between two of its commands.
    fn clock(&self) -> &dyn Clock {
        &SystemClock
    }

    /// How many commands that only look may run side by side. Where somebody counts their order, or the way there is narrow, one.
    fn lanes(&self) -> usize {
        1
    }

    /// Runs `cmd`; an exit status other than 0 is an error that carries the end of what it printed.
    fn expect(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        self.run(cmd)?.expect(cmd)
    }
}

/// Runs commands on this machine. A command and its children form a process group, which is killed as one at the time limit.
#[derive(Debug, Default)]
pub struct Local;

impl Runner for Local {
    fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        let input = cmd.stdin.clone();
        self.feed(cmd, &mut |pipe| pipe.write_all(input.expose()))
    }

    fn feed(&self, cmd: &Cmd, feed: &mut Feed<'_>) -> Result<Output, CommandError> {
        let start_error = |source| CommandError::Start {
            command: cmd.to_string(),
            source,
        };
        let mut command = prepared(cmd);
        let log = match &cmd.life {
            Life::Ours => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                None
            }
            Life::Own(path) => {
                let log = locked_log(path).map_err(start_error)?;
                let copy = || log.try_clone().map_err(start_error);
                command.stdout(copy()?).stderr(copy()?);
                Some(log)
            }
        };
        let mut child = command.spawn().map_err(start_error)?;
        // What is left of the log's copies here must not keep it locked.
        drop(command);
        let Some(mut stdin) = child.stdin.take() else {
            return Err(CommandError::Pipe {
                command: cmd.to_string(),
                source: io::Error::other("a pipe is missing"),
            });
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let pipe_error = |source| CommandError::Pipe {
            command: cmd.to_string(),
            source,
        };
        let (out_sender, out) = mpsc::channel();
        let (err_sender, err) = mpsc::channel();
        // Detached on purpose: a daemon that a command leaves behind may hold the pipe open for ever.
        thread::spawn(move || out_sender.send(stdout.map_or_else(|| Ok(Vec::new()), read_capped)));
        thread::spawn(move || err_sender.send(stderr.map_or_else(|| Ok(Vec::new()), read_capped)));
        thread::scope(|scope| {
            let feeder = scope.spawn(move || {
                let fed = feed(&mut stdin);
                drop(stdin);
                fed
            });
            let status = wait(&mut child, cmd.timeout);
            let fed = feeder
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the writer of its input panicked")));
            let status = status
                .map_err(pipe_error)?
                .ok_or_else(|| CommandError::Timeout {
                    command: cmd.to_string(),
                    limit: cmd.timeout,
                })?;
            // The pipes of a finished command end at once, unless a child that it left behind holds them.
            let grace = Duration::from_secs(2);
            let stdout = out
                .recv_timeout(grace)
                .unwrap_or_else(|_| Ok(Vec::new()))
                .map_err(pipe_error)?;
            let stderr = err
                .recv_timeout(grace)
                .unwrap_or_else(|_| Ok(Vec::new()))
                .map_err(pipe_error)?;
            let stdout = match log {
                None => stdout,
                Some(log) => read_log(log).map_err(pipe_error)?,
            };
            let output = Output {
                status,
                stdout,
                stderr,
            };
            match fed {
                // Who exits well without reading everything has decided not to; who fails says more than the broken pipe does.
                Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(output),
                Err(cause) => Err(pipe_error(cause)),
                Ok(()) => Ok(output),
            }
        })
    }

    fn fetch(&self, cmd: &Cmd, sink: &mut dyn Write) -> Result<Output, CommandError> {
        super::fetch::fetch(cmd, sink)
    }
}

/// Where the kubelet's dockershim looks for Docker, and kubeadm. The operator's shell may look elsewhere.
const DOCKER_SOCKET: &str = "unix:///var/run/docker.sock";

/// What else leads Docker's client elsewhere, or to TLS.
const DOCKERS_VARIABLES: [&str; 3] = ["DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"];

/// The command, ready to start with a pipe for its input and a process group of its own.
pub(super) fn prepared(cmd: &Cmd) -> Command {
    let mut command = Command::new(&cmd.program);
    let variables = cmd.env.iter().map(|(name, value)| (name, value));
    for name in DOCKERS_VARIABLES {
        command.env_remove(name);
    }
    // The way to the cluster is a direct one, and kubeadm would write the operator's proxies into the pods of the control plane. A jump host's command may want them.
    if cmd.program != "ssh" {
        for (name, _) in std::env::vars_os() {
            if is_proxy(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
    }
    command
        .args(&cmd.args)
        .env("PATH", search_path())
        .env("DOCKER_HOST", DOCKER_SOCKET)
        .envs(variables)
        .stdin(Stdio::piped())
        .process_group(0);
    command
}

/// Whether a variable names a proxy, or what needs none, for kubeadm: by the end of its name, in letters of either size.
fn is_proxy(name: &str) -> bool {
    name.to_lowercase().ends_with("_proxy")
}

/// Where programs are found: the usual folders, then whatever the operator's shell has. A root shell by `su` has no /usr/sbin in it.
pub fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    let usual = super::PROGRAM_DIRS.join(":");
    if own.is_empty() {
        usual
    } else {
        format!("{usual}:{own}")
    }
}

/// Opens a log that a command will print to, empty, and locks it: the lock belongs to the open file, so it lasts as long as the command (or anybody else) has it open.
fn locked_log(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    log.lock()?;
    log.set_len(0)?;
    Ok(log)
}

/// Everything that was printed to the log.
fn read_log(mut log: File) -> io::Result<Vec<u8>> {
    log.seek(SeekFrom::Start(0))?;
    read_capped(log)
}

/// Waits until the command that prints to the log at `path` has ended, where one that outlived a killed program of ours still runs. Says whether it has.
pub fn await_outliving(path: &Path, limit: Duration) -> io::Result<bool> {
    let log = match OpenOptions::new().read(true).append(true).open(path) {
        Ok(log) => log,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(cause) => return Err(cause),
    };
    let deadline = Instant::now() + limit;
    loop {
        match log.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(500).min(limit)),
            Err(TryLockError::Error(cause)) => return Err(cause),
        }
    }
}

pub(super) fn read_capped(pipe: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(OUTPUT_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > OUTPUT_LIMIT {
        return Err(io::Error::other(format!(
            "it printed more than {} MiB",
            OUTPUT_LIMIT >> 20
        )));
    }
    Ok(bytes)
}

/// Waits for the end, or kills the whole process group at the limit and returns nothing.
///
/// It is told of the end, and does not look for it again and again: a join runs some hundred commands, most of them for a tenth of a second.
pub(super) fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<i32>> {
    let pid = pid_of(child)?;
    let (sender, ended) = mpsc::channel();
    // What has ended is left as it is, so that its number is nobody else's before the child is waited for below.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    thread::spawn(move || {
        while waitid(Id::Pid(pid), flags) == Err(Errno::EINTR) {}
        sender.send(())
    });
    if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) && child.try_wait()?.is_none() {
        kill(child)?;
        return Ok(None);
    }
    let status = child.wait()?;
    Ok(Some(status.code().unwrap_or_else(|| {
        128 + status.signal().unwrap_or_default()
    })))
}

fn pid_of(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id())
        .map(Pid::from_raw)
        .map_err(io::Error::other)
}

/// Kills a command and its children.
pub(super) fn kill(child: &mut Child) -> io::Result<()> {
    // Already gone is as good as killed.
    let _ = killpg(pid_of(child)?, Signal::SIGKILL);
    child.wait().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_status_and_evidence_are_kept() {
        let output = Local
            .run(&Cmd::new("sh", ["-c", "cat; echo oops >&2; exit 3"]).stdin("in"))
            .unwrap();
        assert_eq!(
            (
                output.status,
                output.text().as_str(),
                output.evidence().as_str()
            ),
            (3, "in", "oops")
        );
        let error = Local
            .expect(&Cmd::new("sh", ["-c", "echo why >&2; exit 3"]))
            .unwrap_err();
        assert!(error.to_string().contains("exit status 3:\nwhy"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let error = Local
            .run(&Cmd::new("sh", ["-c", "sleep 600 & wait"]).timeout(Duration::from_millis(100)))
            .unwrap_err();
        assert!(matches!(error, CommandError::Timeout { .. }), "{error}");
    }

    #[test]
    fn a_daemon_that_keeps_the_pipes_does_not_hold_us() {
        let begun = Instant::now();
        let output = Local
            .run(&Cmd::new("sh", ["-c", "sleep 30 & exit 0"]))
            .unwrap();
        assert!(output.ok() && begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_command_that_outlives_us_prints_to_its_log_and_keeps_it_locked() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let output = Local
            .run(&Cmd::new("sh", ["-c", "echo out; echo err >&2; exit 2"]).outlive(&log))
            .unwrap();
        assert_eq!((output.status, output.text().as_str()), (2, "out\nerr"));
        // A program that another test starts at this moment has a copy of every open file until it runs.
        let moment = Duration::from_secs(20);
        assert!(await_outliving(&log, moment).unwrap());
        let held = locked_log(&log).unwrap();
        assert!(
            !await_outliving(&log, Duration::ZERO).unwrap(),
            "somebody still has it open"
        );
        drop(held);
        assert!(await_outliving(&log, moment).unwrap());
        assert!(await_outliving(&folder.path().join("none"), Duration::ZERO).unwrap());
    }

    #[test]
    fn no_proxy_of_the_operator_comes_between_us_and_the_cluster() {
        for name in ["HTTPS_PROXY", "http_proxy", "No_Proxy", "ALL_PROXY"] {
            assert!(is_proxy(name), "{name}");
        }
        assert!(!is_proxy("PROXY_HOST") && !is_proxy("PATH"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let cmd = Cmd::new("kubeadm", ["join"]).stdin("hunter2");
        assert!(!format!("{cmd:?} {cmd}").contains("hunter2"));
    }
}
