//! Asks for a password without showing it.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, Result, ensure};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::host::command::Secret;

/// Reads one line from standard input: without echo from a terminal, as it is from a pipe.
pub fn ask(question: &str) -> Result<Secret> {
    let stdin = io::stdin();
    let mut line = Zeroizing::new(String::new());
    if stdin.is_terminal() {
        write!(io::stderr().lock(), "{question}: ").context("cannot ask for the password")?;
        let before = tcgetattr(&stdin).context("cannot ask the terminal about its settings")?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).context("cannot silence the terminal")?;
        let read = stdin.lock().read_line(&mut line);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &before).context("cannot restore the terminal")?;
        // The operator's own line feed was not shown.
        let _ = writeln!(io::stderr().lock());
        read.context("cannot read the password")?;
    } else {
        stdin
            .lock()
            .read_line(&mut line)
            .context("cannot read the password from standard input")?;
    }
    let password = line.trim_end_matches(['\r', '\n']);
    ensure!(!password.is_empty(), "no password was given");
    Ok(Secret::new(password))
}
