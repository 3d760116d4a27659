//! Asks for a password without showing it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::host::command::Secret;

/// Reads one line from standard input: without echo from a terminal, as it is from a pipe.
pub fn ask(question: &str) -> Result<Secret> {
    let stdin = io::stdin();
    let line = if stdin.is_terminal() {
        write!(io::stderr().lock(), "{question}: ").context("cannot ask for the password")?;
        let line = read_silently(&stdin, &mut stdin.lock());
        // The operator's own line feed was not shown.
        let _ = writeln!(io::stderr().lock());
        line?
    } else {
        let mut line = Zeroizing::new(String::new());
        stdin
            .lock()
            .read_line(&mut line)
            .context("cannot read the password from standard input")?;
        line
    };
    let password = line.trim_end_matches(['\r', '\n']);
    ensure!(!password.is_empty(), "no password was given");
    Ok(Secret::new(password))
}

/// Reads a line from a terminal that shows nothing meanwhile, and shows again what is typed whatever comes of it. Ctrl-C ends the line and gives none: as a signal it would end this
/// program, and leave the operator a shell that shows nothing.
fn read_silently(terminal: &impl AsFd, input: &mut impl BufRead) -> Result<Zeroizing<String>> {
    let before = tcgetattr(terminal).context("cannot ask the terminal about its settings")?;
    let interrupt = before.control_chars[SpecialCharacterIndices::VINTR as usize];
    let mut silent = before.clone();
    silent
        .local_flags
        .remove(LocalFlags::ECHO | LocalFlags::ISIG);
    silent.control_chars[SpecialCharacterIndices::VEOL as usize] = interrupt;
    tcsetattr(terminal, SetArg::TCSAFLUSH, &silent).context("cannot silence the terminal")?;
    // One read of a terminal gives one line, whatever ends it.
    let read = input.fill_buf().map(|bytes| Zeroizing::new(bytes.to_vec()));
    tcsetattr(terminal, SetArg::TCSAFLUSH, &before).context("cannot restore the terminal")?;
    let line = read.context("cannot read the password")?;
    input.consume(line.len());
    ensure!(line.last() != Some(&interrupt), "no password was given");
    let text = std::str::from_utf8(&line).context("the password is no text in UTF-8")?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::thread;

    use nix::pty::openpty;

    use super::*;

    /// What comes of typing this, and whether the terminal shows again what is typed.
    fn typed(keys: &[u8]) -> (Result<String, String>, bool) {
        let pty = openpty(None, None).unwrap();
        let (mut keyboard, terminal) = (File::from(pty.master), File::from(pty.slave));
        let shown = || {
            let flags = tcgetattr(&terminal).unwrap().local_flags;
            flags.contains(LocalFlags::ECHO | LocalFlags::ISIG)
        };
        assert!(shown());
        let line = thread::scope(|scope| {
            let mut input = io::BufReader::new(&terminal);
            scope.spawn(|| {
                // What is typed before the terminal is silent would be thrown away.
                while shown() {
                    thread::yield_now();
                }
                keyboard.write_all(keys).unwrap();
            });
            read_silently(&terminal, &mut input)
        });
        let line = line.map(|line| line.to_string());
        (line.map_err(|cause| cause.to_string()), shown())
    }

    #[test]
    fn the_terminal_shows_again_what_is_typed_after_a_password_and_after_ctrl_c() {
        assert_eq!(
            typed(b"open sesame\n"),
            (Ok("open sesame\n".to_owned()), true)
        );
        let nothing = Err("no password was given".to_owned());
        assert_eq!(typed(b"open ses\x03"), (nothing, true));
    }
}
