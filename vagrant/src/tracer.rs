//! A tracer on a machine of the lab that runs already: attached from here to its systemd and sshd, it follows whatever
//! they start.
//!
//! Containers only: it needs the processes of the machine to be processes of this one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::sh::{self, Daemon, Sh};
use crate::wait;

/// How long attaching and detaching may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A running tracer; its file grows until it is stopped.
pub struct Tracer {
    strace: Daemon,
    pid: u32,
}

impl Tracer {
    /// Attaches; returns when nothing more can escape. The file gets every execve with arguments and environment, and
    /// every write, in which the certificate key is looked for.
    pub fn attach(node: &Node, file: &Path) -> Result<Self> {
        let init = Sh::new("docker")
            .args(["inspect", "--format", "{{.State.Pid}}", node.container()])
            .output()?;
        let sshd = Sh::new("pgrep")
            .args(["--ns", &init, "--nslist", "pid", "--exact", "sshd"])
            .output()?;
        let mut strace =
            Sh::new("strace").args(["-f", "-qq", "-v", "-s", "65536", "-e", "signal=none"]);
        strace = strace
            .args(["-e", "trace=execve,execveat,write", "-o"])
            .arg(file);
        let traced: Vec<&str> = std::iter::once(init.as_str()).chain(sshd.lines()).collect();
        for pid in &traced {
            strace = strace.args(["-p", pid]);
        }
        let mut strace = strace.log("strace.log").spawn()?;
        let pid = strace.pid().context("strace has no process ID")?;
        wait::until("strace is attached", LIMIT, || {
            strace.still_runs()?;
            let free = traced
                .iter()
                .find(|pid| !is_traced_by(pid, &pid_text(strace.pid())));
            Ok(free.map(|pid| format!("process {pid} is not traced yet")))
        })?;
        Ok(Self { strace, pid })
    }

    /// Detaches and completes the file.
    pub fn detach(mut self) -> Result<()> {
        Sh::new("kill")
            .args(["-INT", &self.pid.to_string()])
            .run()?;
        wait::until("strace has detached", LIMIT, || {
            Ok(self
                .strace
                .still_runs()
                .is_ok()
                .then(|| format!("process {} runs", self.pid)))
        })?;
        self.strace.stop();
        Ok(())
    }
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| pid.to_string())
}

fn is_traced_by(pid: &str, tracer: &str) -> bool {
    // A process that has ended meanwhile starts nothing any more.
    let Ok(status) = sh::read_text(&PathBuf::from(format!("/proc/{pid}/status"))) else {
        return true;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))
        .is_some_and(|value| value.trim() == tracer)
}

/// Reads a finished trace; an empty one means that nothing was traced.
pub fn read(file: &Path) -> Result<String> {
    let text = sh::read_text(file)?;
    ensure!(
        text.contains("execve("),
        "the trace {} holds no execve: nothing was looked at",
        file.display()
    );
    Ok(text)
}
