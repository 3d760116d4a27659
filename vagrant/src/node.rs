//! One machine of the lab, reached as root over SSH from this machine.
//!
//! The same for containers and virtual machines. Host keys are not checked: the nodes' network is this machine's own, and
//! every `vagrant up` makes new ones. The key is Vagrant's well-known one.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::sh::{self, Outcome, Sh};

/// How long any single command on a node may take, unless its caller knows better.
const COMMAND_LIMIT: Duration = Duration::from_mins(5);

/// Where the sockets of shared connections lie: a path that is short enough for one.
const CONNECTIONS: &str = "/run/kpot-lab-ssh";

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    machine: &'static str,
    name: String,
    address: String,
    container: String,
}

impl Node {
    /// The machine of this name and address; `container` is what Docker calls it.
    pub fn new(name: &'static str, address: String, container: String) -> Self {
        Self {
            machine: name,
            name: name.to_owned(),
            address,
            container,
        }
    }

    /// The same machine in a cluster that calls every node by its address.
    #[must_use]
    pub fn called_by_address(self) -> Self {
        Self {
            name: self.address.clone(),
            ..self
        }
    }

    /// Its host name, and Vagrant's name for it.
    pub fn machine(&self) -> &'static str {
        self.machine
    }

    /// What Kubernetes and etcd call it: its host name in most clusters.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The name of its container, where it is one.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// A script for its shell, run by root; to be refined and then run. A command that fails ends it.
    pub fn sh(&self, script: &str) -> Result<Sh> {
        Ok(Self::ssh("ssh")?
            .arg(format!("root@{}", self.address))
            .arg(format!("set -e; {script}"))
            .log(format!("{}.log", self.container))
            .timeout(COMMAND_LIMIT))
    }

    /// Runs a script, its output into the node's log.
    pub fn run(&self, script: &str) -> Result<()> {
        self.sh(script)?.run().with_context(|| format!("on {self}"))
    }

    /// Runs a script for its standard output.
    pub fn output(&self, script: &str) -> Result<String> {
        self.sh(script)?
            .output()
            .with_context(|| format!("on {self}"))
    }

    /// Runs a script for all that it says, whatever its exit status.
    pub fn outcome(&self, script: &str) -> Result<Outcome> {
        self.sh(script)?
            .outcome()
            .with_context(|| format!("on {self}"))
    }

    /// Writes a small file there, with its mode, and the folders above it.
    pub fn write(&self, path: &str, content: &str, mode: u32) -> Result<()> {
        let path = quoted(path);
        self.sh(&format!(
            "mkdir -p \"$(dirname {path})\"; umask 077; cat >{path}; chmod {mode:o} {path}"
        ))?
        .stdin(content)
        .run()
        .with_context(|| format!("on {self}"))
    }

    /// Copies a file there.
    pub fn copy(&self, from: &Path, to: &str) -> Result<()> {
        Self::ssh("scp")?
            .arg(from)
            .arg(format!("root@{}:{to}", self.address))
            .log(format!("{}.log", self.container))
            .timeout(COMMAND_LIMIT)
            .run()
            .with_context(|| format!("on {self}"))
    }

    /// Copies a file or a whole folder from there.
    pub fn fetch(&self, from: &str, to: &Path) -> Result<()> {
        Self::ssh("scp")?
            .arg("-r")
            .arg(format!("root@{}:{from}", self.address))
            .arg(to)
            .timeout(COMMAND_LIMIT)
            .run()
            .with_context(|| format!("on {self}"))
    }

    /// Ends the connection that commands share. A machine that is taken away, or loses its power, does not end it by itself, and the next command would wait for an answer on it.
    pub fn hang_up(&self) -> Result<()> {
        // Where there is none, that is what is wanted.
        Self::ssh("ssh")?
            .args(["-O", "exit"])
            .arg(format!("root@{}", self.address))
            .outcome()
            .map(drop)
    }

    fn ssh(program: &str) -> Result<Sh> {
        sh::make_dirs(Path::new(CONNECTIONS))?;
        Ok(Sh::new(program)
            // A handshake takes more of a busy machine than most commands do, and there are thousands of them.
            .args(["-o", "ControlMaster=auto", "-o", "ControlPersist=60"])
            .args(["-o", &format!("ControlPath={CONNECTIONS}/%C")])
            .args(["-F", "none", "-i", vagrant_key()?, "-o", "LogLevel=ERROR"])
            .args([
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=10",
                "-o",
                "ServerAliveInterval=15",
            ])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ]))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.name)
    }
}

/// The private half of Vagrant's well-known key, as Vagrant unpacks it (mode 0600) when it first runs.
fn vagrant_key() -> Result<&'static str> {
    static KEY: OnceLock<Option<String>> = OnceLock::new();
    KEY.get_or_init(|| {
        let home = std::env::var("VAGRANT_HOME")
            .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.vagrant.d")))
            .ok()?;
        Some(format!("{home}/insecure_private_key"))
    })
    .as_deref()
    .ok_or_else(|| anyhow!("neither VAGRANT_HOME nor HOME is set"))
}

/// A word as a POSIX shell takes it literally.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_a_shell() {
        for word in ["plain", "two words", "it's", "$HOME `id` \"x\" \\", ""] {
            let said = Sh::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output();
            assert_eq!(said.expect("printf works"), word);
        }
    }
}
