//! Commands on another machine, through the system's own `ssh`, over one multiplexed connection.
//!
//! The system's `ssh` is used so that its configuration, agents, bastions, hardware keys and site policy work. Host keys are always checked: a host that is unknown,
//! or whose key changed, is refused. A password crosses to `ssh` through a socket in a private folder of a memory file system and to `sudo` through standard input,
//! never through an argument, a variable or a file. A user other than root works through `sudo`.

#![allow(
    clippy::disallowed_methods,
    reason = "this module owns the connection's private folder"
)]

mod password;
mod programs;

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64ct::{Base64, Base64Unpadded, Encoding};
use bundle_spec::Sha256;

pub use self::password::answer_askpass;
use self::password::serve_password;
use self::programs::{need_programs, remote_path};
use super::command::{Cmd, CommandError, Feed, Output, Runner, Secret, search_path};

/// The socket at which a connection's own `ssh` listens, in its folder.
const SOCKET: &str = "cm";

/// Seconds after its last use in which the connection ends by itself, should this program be killed. It must outlast the work on this machine (the images alone may take an
/// hour), and an operator who thinks before he says yes: a password or a key's touch would have to be given anew.
const IDLE: u32 = 7200;

/// The variable that tells this program, run by `ssh` to ask for a password, where to get it. It holds a path, not a secret.
pub const ASKPASS_VARIABLE: &str = "KPOT_ASKPASS";

/// The variable that says whose password that is: `USER@HOST`, in all forms.
const OWNERS_VARIABLE: &str = "KPOT_ASKPASS_OWNERS";

/// Where the folders of running programs lie: a memory file system on every distribution with systemd.
pub const RUN_DIR: &str = "/run/kpot";

/// The number of this process's next connection: each has a folder of its own.
static CONNECTIONS: AtomicU32 = AtomicU32::new(1);

/// ssh's own exit status for "no connection".
const NO_CONNECTION: i32 = 255;

/// What keeps the operator's own configuration of ssh from having a command run in the place of ours, or none, or from taking its input away. OpenSSH knows the first since 7.6, the
/// others since 8.7, and refuses what it does not know.
const NEWER: [&[&str]; 2] = [
    &["RemoteCommand=none"],
    &[
        "SessionType=default",
        "StdinNull=no",
        "ForkAfterAuthentication=no",
    ],
];

/// Which master the other machine is or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The healthy one, without which nothing is done: it is waited for.
    Healthy,
    /// The one that is down, and dead most of the time: it may cost ten seconds.
    Down,
}

impl Role {
    /// How long the other side's first word, and its host keys, may take.
    fn patience(self) -> u32 {
        match self {
            Self::Healthy => 10,
            Self::Down => 4,
        }
    }

    /// How long it may take until the connection stands.
    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Healthy => 45,
            Self::Down => 10,
        })
    }

    /// The option for the fingerprint of its host key.
    fn host_key_option(self) -> &'static str {
        match self {
            Self::Healthy => "--host-key",
            Self::Down => "--down-host-key",
        }
    }
}

/// How to reach the other machine.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which one it is.
    pub role: Role,
    /// Address or name.
    pub host: String,
    /// User; root needs no sudo.
    pub user: String,
    /// Port; the user's ssh configuration decides where none is given.
    pub port: Option<u16>,
    /// Private key file; ssh's own choice where none is given.
    pub identity: Option<PathBuf>,
    /// The fingerprint (`SHA256:…`) that the host's key must have; the known_hosts files decide where none is given.
    pub host_key: Option<String>,
    /// The password for ssh and sudo, where one was asked for.
    pub password: Option<Secret>,
}

/// How commands become root's on the other machine.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Elevation {
    Root,
    SudoWithoutPassword,
    SudoWithPassword(Secret),
}

/// What opens connections: [`Ssh::connect`], or in tests a machine that is only played.
pub type Connect<'a> = dyn Fn(Target) -> Result<Arc<dyn Runner>> + 'a;

/// A machine on the other end of a connection. Dropping it closes the connection and removes its private folder.
pub struct Ssh {
    local: Arc<dyn Runner>,
    target: Target,
    folder: PathBuf,
    options: Vec<String>,
    elevation: Elevation,
    /// Where root's commands are looked for there.
    path: String,
}

impl Ssh {
    /// Opens the connection and finds out how to be root there.
    ///
    /// # Errors
    /// Each with its cause and the next command: no ssh here, unreachable, host key unknown or changed, authentication refused, no root there.
    pub fn connect(local: Arc<dyn Runner>, target: Target) -> Result<Self> {
        need_programs(&target, &search_path())?;
        let folder = private_folder(Path::new(RUN_DIR), local.as_ref())?;
        let mut ssh = Self {
            local,
            target,
            folder,
            options: Vec::new(),
            elevation: Elevation::Root,
            path: String::new(),
        };
        ssh.options = ssh.options()?;
        ssh.open()?;
        ssh.elevation = ssh.elevation()?;
        ssh.path = ssh.path()?;
        Ok(ssh)
    }

    /// The address or name of the other machine.
    pub fn host(&self) -> &str {
        &self.target.host
    }

    fn options(&self) -> Result<Vec<String>> {
        let mut options: Vec<String> = vec![
            "-T".to_owned(),
            "-S".to_owned(),
            self.folder.join(SOCKET).display().to_string(),
        ];
        let mut set = |option: String| options.extend(["-o".to_owned(), option]);
        for fixed in [
            // The one that is opened for all commands is; no command takes its place where it ended.
            "ControlMaster=no",
            "StrictHostKeyChecking=yes",
            "UpdateHostKeys=no",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
            "ForwardAgent=no",
            "ForwardX11=no",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "LogLevel=ERROR",
        ] {
            set(fixed.to_owned());
        }
        set(format!("ConnectTimeout={}", self.target.role.patience()));
        if self.target.password.is_none() {
            set("BatchMode=yes".to_owned());
        } else {
            set("BatchMode=no".to_owned());
            set("NumberOfPasswordPrompts=1".to_owned());
        }
        if let Some(port) = self.target.port {
            set(format!("Port={port}"));
        }
        if let Some(identity) = &self.target.identity {
            set(identity_option(identity)?);
            set("IdentitiesOnly=yes".to_owned());
        }
        if let Some(fingerprint) = &self.target.host_key {
            let known = self.pinned_known_hosts(fingerprint)?;
            set(format!("UserKnownHostsFile={}", known.display()));
            set("GlobalKnownHostsFile=/dev/null".to_owned());
        }
        for newer in NEWER {
            // With IgnoreUnknown nobody had to be asked, but the one of the operator's configuration would count no more.
            if self.judge_options(newer).is_ok_and(|judged| judged.ok()) {
                for option in newer {
                    set((*option).to_owned());
                }
            }
        }
        Ok(options)
    }

    /// Writes a known_hosts file that holds the one key of this host whose fingerprint the operator gave.
    fn pinned_known_hosts(&self, fingerprint: &str) -> Result<PathBuf> {
        let patience = self.target.role.patience().to_string();
        let (host, port) = self.place()?;
        let args = ["-T", &patience, "-p", &port, &host];
        let scan = self.local.run(&Cmd::new("ssh-keyscan", args))?;
        let mut seen = Vec::new();
        for line in scan.text().lines().filter(|line| !line.starts_with('#')) {
            let Some((_, kind_and_key)) = line.split_once(' ') else {
                continue;
            };
            let text = kind_and_key.split_whitespace().nth(1);
            let Some(key) = text.and_then(|text| Base64::decode_vec(text).ok()) else {
                continue;
            };
            let found = format!(
                "SHA256:{}",
                Base64Unpadded::encode_string(Sha256::of(&key).as_bytes())
            );
            if found == *fingerprint {
                let path = self.folder.join("known_hosts");
                // This file is for one host, by whatever name ssh looks it up.
                fs::write(&path, format!("* {kind_and_key}\n"))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                return Ok(path);
            }
            seen.push(found);
        }
        ensure!(
            !seen.is_empty(),
            "{host} answers no ssh on port {port}: is it up, and is the address right? Where it is reached by way of another host (ProxyJump), its key cannot be asked for: put the key into known_hosts, and leave {} out",
            self.target.role.host_key_option()
        );
        bail!(
            "the host key of {} is not {fingerprint}, but one of {}.\nEither the fingerprint was read wrongly, or something else answers at that address. On the machine itself, compare: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
            self.target.host,
            seen.join(", ")
        )
    }

    /// The address and port that ssh's own configuration makes of what was given.
    fn place(&self) -> Result<(String, String)> {
        let text = self.configuration()?;
        let of = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.find_map(|(name, value)| (name == key).then(|| value.to_owned()))
        };
        Ok((
            of("hostname").unwrap_or_else(|| self.target.host.clone()),
            of("port").unwrap_or_else(|| "22".to_owned()),
        ))
    }

    /// What ssh's own configuration makes of what was given: lines of `key value`.
    fn configuration(&self) -> Result<String> {
        let told = self.judge_options(&[])?;
        ensure!(
            told.ok(),
            "ssh cannot use its configuration: {}",
            told.evidence()
        );
        Ok(told.text())
    }

    /// What ssh makes of these options and of its configuration, connecting to nobody; its exit status is 0 where it knows them all.
    fn judge_options(&self, options: &[&str]) -> Result<Output, CommandError> {
        let mut args = vec!["-G".to_owned()];
        for option in options {
            args.extend(["-o".to_owned(), (*option).to_owned()]);
        }
        if let Some(port) = self.target.port {
            args.extend(["-p".to_owned(), port.to_string()]);
        }
        args.push(self.destination());
        self.local.run(&Cmd::new("ssh", args))
    }

    /// Whose password it is, in the forms in which ssh asks for it.
    fn owners(&self) -> String {
        let mut hosts = vec![self.target.host.clone()];
        // An ssh that cannot tell (before 6.8) asks for what was typed.
        if let Ok(text) = self.configuration() {
            let names = text.lines().filter_map(|line| line.split_once(' '));
            let named = names.filter(|(key, _)| ["hostname", "hostkeyalias"].contains(key));
            hosts.extend(named.map(|(_, value)| value.to_owned()));
        }
        let user = &self.target.user;
        let owners: Vec<String> = hosts.iter().map(|host| format!("{user}@{host}")).collect();
        owners.join(" ")
    }

    fn destination(&self) -> String {
        format!("{}@{}", self.target.user, self.target.host)
    }

    fn open(&self) -> Result<()> {
        // They come first: of what is given twice the first counts, and behind an option SessionType ssh takes no -N.
        let mut args: Vec<String> = ["-M", "-f", "-N"].map(str::to_owned).into();
        args.extend(self.options.iter().cloned());
        args.extend(["-o".to_owned(), format!("ControlPersist={IDLE}")]);
        args.push(self.destination());
        let mut cmd = Cmd::new("ssh", args).timeout(self.target.role.limit());
        let _server = match &self.target.password {
            None => None,
            Some(password) => {
                let socket = self.folder.join("askpass");
                let own = std::env::current_exe().context("cannot find this program's own path")?;
                // A session without a terminal and DISPLAY make ssh before 8.4 ask through the program; later ones obey the other variable.
                // A shell between: who leads a process group cannot leave its session, and setsid would go on without waiting. Before util-linux 2.24 it cannot be told to wait.
                let shell = ["-c", "setsid \"$@\"; exit $?", "sh", "ssh"].map(str::to_owned);
                cmd = Cmd::new("sh", shell.into_iter().chain(cmd.args))
                    .timeout(self.target.role.limit())
                    .env("SSH_ASKPASS", own.display().to_string())
                    .env("SSH_ASKPASS_REQUIRE", "force")
                    .env("DISPLAY", ":0")
                    .env(ASKPASS_VARIABLE, socket.display().to_string())
                    .env(OWNERS_VARIABLE, self.owners());
                Some(serve_password(&socket, password.clone())?)
            }
        };
        let output = self.local.run(&cmd)?;
        if output.ok() {
            Ok(())
        } else {
            Err(self.explain(&output))
        }
    }

    /// What ssh's own words mean for the operator.
    fn explain(&self, output: &Output) -> anyhow::Error {
        let (whole, end) = (String::from_utf8_lossy(&output.stderr), output.evidence());
        let evidence: &str = &whole;
        let (host, option) = (&self.target.host, self.target.role.host_key_option());
        let port = self
            .target
            .port
            .map(|port| format!("-p {port} "))
            .unwrap_or_default();
        let advice = if evidence.contains("REMOTE HOST IDENTIFICATION HAS CHANGED")
            || evidence.contains("has changed and you have requested strict checking")
        {
            format!(
                "The host key of {host} is not the one that is known here: the machine was reinstalled, or something else answers at that address.\nCompare on the machine itself (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then give that fingerprint with {option} SHA256:…"
            )
        } else if evidence.contains("Host key verification failed")
            || evidence.contains("host key is known")
        {
            format!(
                "The host key of {host} is not known here. Read its fingerprint on the machine itself (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) and give it with {option} SHA256:…,\nor add the key to known_hosts: ssh-keyscan {port}{host} >> ~/.ssh/known_hosts, and compare: ssh-keygen -lf ~/.ssh/known_hosts"
            )
        } else if evidence.contains("Permission denied")
            || evidence.contains("Too many authentication failures")
        {
            format!(
                "{host} refused to let {} in. Give a key with --identity FILE, another user with --ssh-user USER, or a password with --ask-pass",
                self.target.user
            )
        } else if evidence.contains("timed out")
            || evidence.contains("No route")
            || evidence.contains("refused")
            || evidence.contains("unreachable")
        {
            format!(
                "{host} cannot be reached. Is it up, and is the address right? Try: ssh {port}{} true",
                self.destination()
            )
        } else if evidence.contains("resolve") {
            format!("The name {host} has no address here: give an address")
        } else {
            format!("Try by hand: ssh {port}{} true", self.destination())
        };
        anyhow::anyhow!("cannot connect to {host} over ssh: {end}\n{advice}")
    }

    fn elevation(&self) -> Result<Elevation> {
        let id = self.run_as_is(&Cmd::new("id", ["-u"]))?;
        ensure!(
            id.ok(),
            "{} lets {} in, but runs no commands: {}",
            self.target.host,
            self.target.user,
            id.evidence()
        );
        if id.text() == "0" {
            return Ok(Elevation::Root);
        }
        let user = &self.target.user;
        ensure!(
            id.text().bytes().all(|byte| byte.is_ascii_digit()),
            "the login shell of {user} on {} prints more than it is asked for: {:?}\nKeep its start-up files (~/.bashrc) silent for shells that are not interactive",
            self.target.host,
            id.text()
        );
        let sudo = self.run_as_is(&Cmd::new("sudo", ["-n", "--", "true"]))?;
        if sudo.ok() {
            return Ok(Elevation::SudoWithoutPassword);
        }
        ensure!(
            !sudo.evidence().contains("must have a tty"),
            "sudo on {} wants a terminal: {}\nAllow {user} to do without, in sudoers: Defaults:{user} !requiretty",
            self.target.host,
            sudo.evidence()
        );
        let Some(password) = &self.target.password else {
            bail!(
                "{user} is not root on {}, and sudo does not make it root without a password: {}\nGive it with --ask-pass, connect as root (--ssh-user root), or allow: {user} ALL=(root) NOPASSWD: ALL",
                self.target.host,
                sudo.evidence()
            );
        };
        let elevation = Elevation::SudoWithPassword(password.clone());
        let (cmd, prefix) = elevate(&Cmd::new("true", [""; 0]), &elevation);
        let output = self.local.feed(&self.remote(&cmd), &mut |pipe| {
            pipe.write_all(prefix.expose())
        })?;
        ensure!(
            output.ok(),
            "{user} may not become root on {} with that password: {}\nGive the right one with --ask-pass, connect as root (--ssh-user root), or allow: {user} ALL=(root) NOPASSWD: ALL",
            self.target.host,
            output.evidence()
        );
        Ok(elevation)
    }

    /// Where root's commands are looked for: see [`remote_path`].
    fn path(&self) -> Result<String> {
        let (cmd, prefix) = elevate(&Cmd::new("printenv", ["PATH"]), &self.elevation);
        let told = self.local.feed(&self.remote(&cmd), &mut |pipe| {
            pipe.write_all(prefix.expose())
        })?;
        // Who tells none has the usual folders.
        let own = if told.ok() {
            told.text()
        } else {
            String::new()
        };
        Ok(remote_path(&own))
    }

    fn run_as_is(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        self.local.run(&self.remote(cmd))
    }

    /// The command as root's on the other machine, and what has to go before its input.
    fn as_root(&self, cmd: &Cmd) -> (Cmd, Secret) {
        // sudo's own search path, or that of a shell without a login, may lack what root needs.
        let found = cmd.clone().env("PATH", self.path.clone());
        elevate(&found, &self.elevation)
    }

    /// Tells a broken connection from a command that failed.
    fn judged(
        &self,
        cmd: &Cmd,
        output: Result<Output, CommandError>,
    ) -> Result<Output, CommandError> {
        let (host, command) = (self.target.host.clone(), cmd.to_string());
        match output {
            Ok(output) if output.status == NO_CONNECTION => Err(CommandError::Remote {
                host,
                command,
                evidence: why_broken(&output),
            }),
            Err(CommandError::Timeout { limit, .. } | CommandError::Stalled { limit, .. }) => {
                Err(CommandError::Silent {
                    host,
                    command,
                    limit,
                })
            }
            Err(CommandError::Pipe { source, .. }) => Err(CommandError::Remote {
                host,
                command,
                evidence: source.to_string(),
            }),
            other => other,
        }
    }

    /// The local command that runs `cmd` there.
    fn remote(&self, cmd: &Cmd) -> Cmd {
        let mut words = Vec::new();
        if !cmd.env.is_empty() {
            words.push("env".to_owned());
            words.extend(
                cmd.env
                    .iter()
                    .map(|(name, value)| format!("{name}={value}")),
            );
        }
        words.push(cmd.program.clone());
        words.extend(cmd.args.iter().cloned());
        let line = words
            .iter()
            .map(|word| quote(word))
            .collect::<Vec<_>>()
            .join(" ");
        let mut args = self.options.clone();
        args.extend([self.destination(), "--".to_owned(), line]);
        Cmd {
            program: "ssh".to_owned(),
            args,
            env: Vec::new(),
            ..cmd.clone()
        }
    }
}

impl Runner for Ssh {
    fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        let input = cmd.stdin.clone();
        self.feed(cmd, &mut |pipe| pipe.write_all(input.expose()))
    }

    fn feed(&self, cmd: &Cmd, feed: &mut Feed<'_>) -> Result<Output, CommandError> {
        let (elevated, prefix) = self.as_root(cmd);
        let output = self.local.feed(&self.remote(&elevated), &mut |pipe| {
            pipe.write_all(prefix.expose())?;
            feed(pipe)
        });
        self.judged(cmd, output)
    }

    fn fetch(&self, cmd: &Cmd, sink: &mut dyn Write) -> Result<Output, CommandError> {
        let (elevated, prefix) = self.as_root(cmd);
        let mut input = Vec::with_capacity(prefix.expose().len() + cmd.stdin.expose().len());
        input.extend_from_slice(prefix.expose());
        input.extend_from_slice(cmd.stdin.expose());
        let output = self.local.fetch(&self.remote(&elevated).stdin(input), sink);
        self.judged(cmd, output)
    }

    /// A server allows a connection ten sessions by default, a hardened one four. Where it refuses one more, ssh connects anew, which a password cannot be given for.
    fn lanes(&self) -> usize {
        if self.target.password.is_none() { 4 } else { 1 }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let mut args = self.options.clone();
        args.extend(["-O".to_owned(), "exit".to_owned(), self.destination()]);
        // Whatever stays behind ends by itself (ControlPersist) and is removed by the next run.
        let _ = self
            .local
            .run(&Cmd::new("ssh", args).timeout(Duration::from_secs(5)));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The option that names a private key. In quotes, for its blanks, and with each % twice, as ssh reads it. (`-i` looks for the file before it takes two for one.)
///
/// # Errors
/// There is no such file; its path has a sign that some ssh since 7.4 takes for something else, whatever stands before it.
fn identity_option(identity: &Path) -> Result<String> {
    ensure!(
        identity.is_file(),
        "there is no private key {}",
        identity.display()
    );
    // A relative one might be a word of ssh's own, such as none.
    let place = path::absolute(identity)
        .with_context(|| format!("cannot tell where {} lies", identity.display()))?;
    let plain = |place: &&str| {
        !place.contains(['"', '\\']) && !place.contains("${") && !place.contains(char::is_control)
    };
    let place = place.to_str().filter(plain).with_context(|| {
        format!(
            "ssh takes no private key whose path has a double quote, a backslash, ${{ or a control character in it, or is not UTF-8: {}. Give it by another path: ln -s KEY /root/key-of-kpot",
            identity.display()
        )
    })?;
    Ok(format!("IdentityFile=\"{}\"", place.replace('%', "%%")))
}

/// The command as root, and what has to go before its input.
fn elevate(cmd: &Cmd, elevation: &Elevation) -> (Cmd, Secret) {
    let sudo: &[&str] = match elevation {
        Elevation::Root => return (cmd.clone(), Secret::default()),
        Elevation::SudoWithoutPassword => &["-n", "--"],
        // -k: without it a remembered password would leave the line in the command's own input.
        Elevation::SudoWithPassword(_) => &["-k", "-S", "-p", "", "--"],
    };
    let mut args: Vec<String> = sudo.iter().map(|&word| word.to_owned()).collect();
    if !cmd.env.is_empty() {
        args.push("env".to_owned());
        args.extend(
            cmd.env
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
    }
    args.push(cmd.program.clone());
    args.extend(cmd.args.iter().cloned());
    let mut prefix = Vec::new();
    if let Elevation::SudoWithPassword(password) = elevation {
        prefix.extend_from_slice(password.expose());
        prefix.push(b'\n');
    }
    (
        Cmd {
            program: "sudo".to_owned(),
            args,
            env: Vec::new(),
            ..cmd.clone()
        },
        Secret::new(prefix),
    )
}

/// What ssh said of a connection that broke. Never what the command printed there before: that may be a token or a key.
fn why_broken(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    if said.trim().is_empty() {
        "it was closed, or nothing came over it any more".to_owned()
    } else {
        output.evidence()
    }
}

/// A folder for one connection of this process alone, below `parent`; those of processes that no longer run are removed, and their connections with them.
fn private_folder(parent: &Path, local: &dyn Runner) -> Result<PathBuf> {
    let fail = || format!("cannot make a private folder below {}", parent.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .with_context(fail)?;
    for entry in fs::read_dir(parent).with_context(fail)?.flatten() {
        let name = entry.file_name();
        if name
            .to_str()
            .and_then(|name| name.split('-').next()?.parse::<u32>().ok())
            .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        {
            let socket = entry.path().join(SOCKET);
            if socket.exists() {
                let socket = socket.display().to_string();
                let args = ["-S", &socket, "-O", "exit", "the-other-end"];
                // One that does not listen any more has ended.
                let _ = local.run(&Cmd::new("ssh", args).timeout(Duration::from_secs(5)));
            }
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let folder = parent.join(format!("{}-{number}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(fail)?;
    }
    DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .with_context(fail)?;
    Ok(folder)
}

/// Quotes one argument for a POSIX shell. The only place where that is done.
pub fn quote(arg: &str) -> String {
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || b"_-./:@%+,".contains(&byte)
            || (byte == b'=' && arg.starts_with('-'))
    };
    if !arg.is_empty() && arg.bytes().all(plain) {
        arg.to_owned()
    } else {
        format!("'{}'", arg.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
