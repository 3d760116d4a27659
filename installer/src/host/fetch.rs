//! A command on this machine whose output is handed on while it runs.
//!
//! A few pieces of the output are in memory at a time, whatever its size. It counts as ended when every process that holds the pipe has closed it; until the time limit
//! that is waited for, and then the command is killed and the output is not whole; earlier where the command may not stall so long. What the sink refuses ends the command at once.

use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use super::command::{Cmd, CommandError, Output, kill, prepared, read_capped, wait};

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// Pieces that may wait for a slow sink.
const WAITING: usize = 4;

/// Runs `cmd` on this machine; see [`super::command::Runner::fetch`].
pub(super) fn fetch(cmd: &Cmd, sink: &mut dyn Write) -> Result<Output, CommandError> {
    let deadline = Instant::now() + cmd.timeout;
    let pipe_error = |source| CommandError::Pipe {
        command: cmd.to_string(),
        source,
    };
    let mut child = prepared(cmd)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| CommandError::Start {
            command: cmd.to_string(),
            source,
        })?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(pipe_error(io::Error::other("a pipe is missing")));
    };
    let input = cmd.stdin.clone();
    let (sender, pieces) = mpsc::sync_channel(WAITING);
    let (err_sender, err) = mpsc::channel();
    // Detached on purpose: a daemon that the command leaves behind may hold a pipe open for ever. Who exits without reading its input has decided not to.
    thread::spawn(move || stdin.write_all(input.expose()));
    thread::spawn(move || read_pieces(stdout, &sender));
    thread::spawn(move || err_sender.send(read_capped(stderr)));

    let late = || CommandError::Timeout {
        command: cmd.to_string(),
        limit: cmd.timeout,
    };
    if let Err(stopped) = hand_on(&pieces, sink, deadline, cmd.stall) {
        kill(&mut child).map_err(pipe_error)?;
        return Err(match stopped {
            Stopped::Late => late(),
            Stopped::Stalled(limit) => CommandError::Stalled {
                command: cmd.to_string(),
                limit,
            },
            Stopped::Source(source) => pipe_error(source),
            Stopped::Sink(source) => CommandError::Sink {
                command: cmd.to_string(),
                source,
            },
        });
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let status = wait(&mut child, left)
        .map_err(pipe_error)?
        .ok_or_else(late)?;
    let stderr = err
        .recv_timeout(Duration::from_secs(2))
        .unwrap_or_else(|_| Ok(Vec::new()))
        .map_err(pipe_error)?;
    Ok(Output {
        status,
        stdout: Vec::new(),
        stderr,
    })
}

/// Why the output is not whole.
enum Stopped {
    Late,
    Stalled(Duration),
    Source(io::Error),
    Sink(io::Error),
}

/// Hands pieces on until there are no more, or none comes for as long as `stall`.
fn hand_on(
    pieces: &Receiver<io::Result<Vec<u8>>>,
    sink: &mut dyn Write,
    deadline: Instant,
    stall: Option<Duration>,
) -> Result<(), Stopped> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Stopped::Late);
        }
        let patience = stall.map_or(left, |stall| stall.min(left));
        match pieces.recv_timeout(patience) {
            Ok(Ok(piece)) => sink.write_all(&piece).map_err(Stopped::Sink)?,
            Ok(Err(cause)) => return Err(Stopped::Source(cause)),
            Err(RecvTimeoutError::Timeout) if patience < left => {
                return Err(Stopped::Stalled(patience));
            }
            Err(RecvTimeoutError::Timeout) => return Err(Stopped::Late),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Reads until the end, an error, or nobody takes the pieces any more.
fn read_pieces(mut pipe: impl Read, pieces: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = vec![0; PIECE];
        let read = match pipe.read(&mut piece) {
            Ok(0) => return,
            Ok(length) => {
                piece.truncate(length);
                Ok(piece)
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => Err(cause),
        };
        let failed = read.is_err();
        if pieces.send(read).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::{Local, Runner};
    use super::*;

    fn sh(script: &str) -> Cmd {
        Cmd::new("sh", ["-c", script])
    }

    #[test]
    fn an_output_larger_than_what_is_ever_kept_goes_through_whole() {
        struct Count(u64);
        impl Write for Count {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                assert!(bytes.len() <= PIECE && bytes.iter().all(|&byte| byte == 0));
                self.0 += bytes.len() as u64;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut count = Count(0);
        let output = Local
            .fetch(&sh("head -c 100000001 /dev/zero"), &mut count)
            .unwrap();
        assert!(output.ok() && output.stdout.is_empty());
        assert_eq!(count.0, 100_000_001);
    }

    #[test]
    fn input_status_and_evidence_are_kept() {
        let mut sink = Vec::new();
        let output = Local
            .fetch(&sh("cat; echo oops >&2; exit 3").stdin("in"), &mut sink)
            .unwrap();
        assert_eq!(
            (output.status, output.evidence().as_str(), sink.as_slice()),
            (3, "oops", b"in".as_slice())
        );
    }

    #[test]
    fn a_sink_that_refuses_ends_the_command() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = Local.fetch(&sh("cat /dev/zero"), &mut Full).unwrap_err();
        assert!(matches!(error, CommandError::Sink { .. }), "{error}");
    }

    #[test]
    fn an_output_that_stalls_is_an_error_long_before_its_time_is_over() {
        let begun = Instant::now();
        let stalled = sh("echo begun; sleep 600").stall(Duration::from_millis(100));
        let error = Local.fetch(&stalled, &mut io::sink()).unwrap_err();
        assert!(matches!(error, CommandError::Stalled { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
        let whole = sh("echo begun; echo ended").stall(Duration::from_secs(20));
        let mut sink = Vec::new();
        assert!(Local.fetch(&whole, &mut sink).unwrap().ok());
        assert_eq!(sink, b"begun\nended\n");
    }

    #[test]
    fn an_output_that_does_not_end_in_time_is_an_error() {
        for script in [
            "cat /dev/zero",
            "echo begun; sleep 600",
            "sleep 600 & exit 0",
        ] {
            let cmd = sh(script).timeout(Duration::from_millis(100));
            let error = Local.fetch(&cmd, &mut io::sink()).unwrap_err();
            assert!(
                matches!(error, CommandError::Timeout { .. }),
                "{script}: {error}"
            );
        }
    }
}
