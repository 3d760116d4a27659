//! The password of the user on the other machine: given to `ssh` when it asks for that one, through a socket in a private folder.
//!
//! `ssh` runs this program to ask. What asks for another machine's password, or for something else, gets none.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};

use super::OWNERS_VARIABLE;
use crate::host::command::Secret;

/// Hands the password to whoever connects to a socket in a folder that only root can enter.
pub(super) fn serve_password(socket: &Path, password: Secret) -> Result<UnixListener> {
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen at {}", socket.display()))?;
    let server = listener
        .try_clone()
        .context("cannot share the password's socket")?;
    thread::spawn(move || {
        for stream in server.incoming() {
            let Ok(mut stream) = stream else { return };
            // An asker that went away needs no answer.
            let _ = stream.write_all(password.expose());
        }
    });
    Ok(listener)
}

/// Answers `ssh` when it runs this program to ask for a password: prints what the socket gives, if the question is for a password or a passphrase.
pub fn answer_askpass(socket: &Path, question: &str) -> Result<()> {
    ensure!(
        question.contains("assword") || question.contains("assphrase"),
        "not a question for a password: {question}"
    );
    let owners = std::env::var(OWNERS_VARIABLE).unwrap_or_default();
    ensure!(
        owner(question).is_none_or(|asking| owners.split(' ').any(|own| is_asked(own, asking))),
        "another machine asks than the one that the password is for: {question}"
    );
    let mut answer = Vec::new();
    UnixStream::connect(socket)
        .context("cannot reach the program that knows the password")?
        .take(4096)
        .read_to_end(&mut answer)?;
    let answer = Secret::new(answer);
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(answer.expose())
        .and_then(|()| stdout.write_all(b"\n"))
        .context("cannot hand over the password")
}

/// Whether a question of `asking` is for the password of `own`. ssh shows the first 30 letters of a user's name.
pub(super) fn is_asked(own: &str, asking: &str) -> bool {
    let short = |text: &str| {
        let (user, host) = text.rsplit_once('@').unwrap_or(("", text));
        let user: String = user.chars().take(30).collect();
        format!("{user}@{host}").to_lowercase()
    };
    short(own) == short(asking)
}

/// Who asks for a password, where ssh says so: `USER@HOST's password: `, or `(USER@HOST) Password: `. On the way through a jump host that one may ask as well, and must not get it.
pub(super) fn owner(question: &str) -> Option<&str> {
    let asked = question.split_once("'s password").map(|(owner, _)| owner);
    let in_brackets = || {
        question
            .strip_prefix('(')?
            .split_once(')')
            .map(|(owner, _)| owner)
    };
    asked.or_else(in_brackets).map(str::trim)
}
