//! Docker's credential helpers: programs that keep logins, asked over standard input and output.
//!
//! `docker-credential-NAME get` reads a server's name and prints a user and a secret as JSON. Neither is ever in an argument, a variable, a file or a message.

use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::logins::Login;

/// The longest wait for a helper: it may ask a person.
const LIMIT: Duration = Duration::from_mins(2);

/// The largest answer, in bytes; tokens have one to four thousand.
const ANSWER: u64 = 256 << 10;

/// What every helper says of a server that it does not know, by the protocol.
const UNKNOWN: &str = "credentials not found in native keychain";

/// The user of a secret that is no password but a token to get tokens with.
const IDENTITY: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Zeroizing<String>,
}

/// The login that the helper called `name` keeps for `server`.
///
/// # Errors
/// A text, where there is no such helper, or it fails or does not answer.
pub(super) fn login(name: &str, server: &str) -> Result<Option<Login>, String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(word) {
        return Err(format!("{name:?} is not the name of a credential helper"));
    }
    let program = format!("docker-credential-{name}");
    let (status, answer) =
        ask(&program, server).map_err(|cause| format!("{program} get: {cause}"))?;
    if !status.success() {
        // The answer is a message then, by the protocol.
        let message = String::from_utf8_lossy(&answer);
        let message = message.trim();
        if message == UNKNOWN {
            return Ok(None);
        }
        let message: String = message.escape_debug().take(200).collect();
        return Err(format!("{program} get failed ({status}): {message}"));
    }
    // The parser's message might repeat a secret.
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| format!("{program} get did not print a login"))?;
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if answer.username == IDENTITY {
        Login::Identity(answer.secret)
    } else {
        Login::Password {
            user: answer.username,
            secret: answer.secret,
        }
    }))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the builder has no runner; what a helper gets and gives is secret and never shown"
)]
fn ask(program: &str, server: &str) -> io::Result<(ExitStatus, Zeroizing<Vec<u8>>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + LIMIT;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not want to read may answer all the same.
        let _ = stdin.write_all(server.as_bytes());
    }
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut answer = Zeroizing::new(Vec::with_capacity(8 << 10));
            let read = stdout.take(ANSWER).read_to_end(&mut answer);
            // Nobody listens any more where it took too long.
            let _ = sender.send(read.map(|_| answer));
        });
    }
    let answer = receiver
        .recv_timeout(LIMIT)
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let status = ended(&mut child, deadline);
    Ok((status?, answer?))
}

/// Waits for the end of `child`, and makes one.
fn ended(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Err(io::ErrorKind::TimedOut.into())
}
