//! Keys that others hold, an SSH agent or a FIDO token: OpenSSH's own `ssh-add` and `ssh-keygen` ask them, so whatever they can hold signs pots.
//!
//! What comes back is checked by `bundle-spec` before it gets into a pot. No passphrase, PIN or secret passes through kpot: `ssh-keygen` asks for what it needs on the
//! terminal.
#![allow(
    clippy::disallowed_methods,
    reason = "the builder has no runner; the files are this module's own, in a temporary folder"
)]

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bundle_spec::signature::{self, NAMESPACE};
use bundle_spec::{PublicKey, SigningKey};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::progress::Progress;

/// The longest wait for a program: it may ask a person, for a touch, a PIN or a yes.
const LIMIT: Duration = Duration::from_mins(2);

/// How long a program that was told to end may take for it.
const GRACE: Duration = Duration::from_secs(1);

/// The largest output that is looked at, in bytes; a thousand keys have some hundred thousand.
const OUTPUT: u64 = 1 << 20;

/// How often the end of a program is looked for.
const PAUSE: Duration = Duration::from_millis(10);

/// What is signed before a build begins, so that what does not sign is known then. No reader takes it for a pot's `SHA256SUMS`.
const TRIAL: &[u8] = b"kpot tries whether this key signs\n";

/// Whether an agent holds a key.
#[derive(Debug)]
pub enum Held {
    /// It does.
    Yes,
    /// It holds others, or none.
    No,
    /// There is no agent; with what `ssh-add` says of that.
    NoAgent(String),
}

/// Asks the agent that `SSH_AUTH_SOCK` leads to whether it holds `key`.
///
/// # Errors
/// Where `ssh-add` cannot be run.
pub fn holds(key: &PublicKey) -> anyhow::Result<Held> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let listed = run("ssh-add", &["-L"], folder.path())?;
    // 2 is ssh-add's own code for an agent that does not answer; 1 means that it holds no keys.
    if listed.status.code() == Some(2) {
        return Ok(Held::NoAgent(listed.complaint()));
    }
    // Keys of types that sign no pots do not parse.
    let mut keys = listed.said.lines().map(PublicKey::from_openssh);
    if keys.any(|held| held.is_ok_and(|held| held == *key)) {
        Ok(Held::Yes)
    } else {
        Ok(Held::No)
    }
}

/// The key `public`, whose private half `ssh-keygen -f path` finds in the agent or on a token. It is tried now, unless it is on a token: nobody is asked to touch that
/// twice.
///
/// # Errors
/// Where `ssh-keygen` cannot be run, finds another key in `path`, or does not sign.
pub fn signer(path: &Path, public: PublicKey, progress: &Progress) -> anyhow::Result<SigningKey> {
    let attempt = || format!("cannot sign with {}", path.display());
    // Of a private key on a token, this shows that ssh-keygen is there, and knows such keys.
    look(path, &public).with_context(attempt)?;
    let on_token = public.is_on_token();
    let (fingerprint, path, shown) = (public.fingerprint(), path.to_owned(), progress.clone());
    let key = SigningKey::elsewhere(public, move |message| {
        if on_token {
            shown.line(&format!(
                "touch the token that holds {fingerprint}: it is to sign the pot"
            ));
        }
        shown
            .paused(|| ask(&path, message))
            .map_err(|cause| format!("{cause:#}"))
    });
    if !on_token {
        signature::sign(&key, TRIAL).with_context(attempt)?;
    }
    Ok(key)
}

/// Whether `ssh-keygen` reads the same key from the file.
fn look(path: &Path, public: &PublicKey) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let path = absolute(path)?;
    let told = run(
        "ssh-keygen",
        &["-l", "-E", "sha256", "-f", &path],
        folder.path(),
    )?;
    if !told.status.success() {
        return Err(anyhow!("ssh-keygen cannot read it: {}", told.complaint()));
    }
    let fingerprint = public.fingerprint();
    if told.said.split(' ').any(|word| word == fingerprint) {
        Ok(())
    } else {
        Err(anyhow!(
            "ssh-keygen reads another key from it than {fingerprint}: {}; is another public key beside it?",
            told.said.trim()
        ))
    }
}

/// Lets `ssh-keygen` sign `message`. The message is a file, so that what asks for a PIN has the terminal.
fn ask(path: &Path, message: &[u8]) -> anyhow::Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let text = folder.path().join("SHA256SUMS");
    fs::write(&text, message).with_context(|| format!("cannot write {}", text.display()))?;
    let path = absolute(path)?;
    let arguments = ["-Y", "sign", "-n", NAMESPACE, "-f", &path, "SHA256SUMS"];
    let signed = run("ssh-keygen", &arguments, folder.path())?;
    if !signed.status.success() {
        return Err(anyhow!(
            "ssh-keygen -Y sign (of OpenSSH 8.1 or newer) failed, {}: {}",
            signed.status,
            signed.complaint()
        ));
    }
    let signature = folder.path().join("SHA256SUMS.sig");
    fs::read(&signature).context("ssh-keygen wrote no signature")
}

/// The path from anywhere; ssh-keygen runs in a folder of its own.
fn absolute(path: &Path) -> anyhow::Result<String> {
    let path = std::path::absolute(path).context("cannot find the current folder")?;
    path.into_os_string()
        .into_string()
        .map_err(|path| anyhow!("{} is not UTF-8", path.display()))
}

/// How a program ended.
struct Ended {
    status: ExitStatus,
    said: String,
    complaints: String,
}

impl Ended {
    /// What it complained of, in one line.
    fn complaint(&self) -> String {
        let lines: Vec<&str> = self.complaints.lines().map(str::trim).collect();
        let text = lines.join("; ");
        text.chars()
            .filter(|character| !character.is_control())
            .take(500)
            .collect()
    }
}

/// Runs one of OpenSSH's programs in `folder`, which is its own; its output goes to files there, so that nothing waits for somebody to read it.
fn run(program: &str, arguments: &[&str], folder: &Path) -> anyhow::Result<Ended> {
    let (out, err) = (folder.join(".stdout"), folder.join(".stderr"));
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .stdout(Stdio::from(File::create(&out)?))
        .stderr(Stdio::from(File::create(&err)?))
        .spawn()
        .with_context(|| {
            format!("cannot run {program}, which asks SSH agents and FIDO tokens. Install OpenSSH's client (Debian: apt-get install openssh-client; RHEL: dnf install openssh-clients)")
        })?;
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            end(&mut child)?;
            return Err(anyhow!(
                "{program} was waited for in vain, for {} seconds",
                LIMIT.as_secs()
            ));
        }
        thread::sleep(PAUSE);
    };
    Ok(Ended {
        status,
        said: text(&out)?,
        complaints: text(&err)?,
    })
}

/// Ends a program that may stand at a prompt: one that is told to end gives the terminal its echo back first.
fn end(child: &mut Child) -> anyhow::Result<()> {
    kill(
        Pid::from_raw(i32::try_from(child.id())?),
        Some(Signal::SIGTERM),
    )?;
    let deadline = Instant::now() + GRACE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
