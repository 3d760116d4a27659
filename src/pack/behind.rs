//! A file is written, and brought to the disk, while what comes next is still being made.
//!
//! Hashing what goes into a file, handing it to the system and waiting for the disk take about the same time each: one after the other they would be three times the time, at the very end of a
//! build, where there is nothing else to do.

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

/// Bytes that are handed over at once.
const CHUNK: usize = 1 << 20;

/// Chunks in memory at most: one is filled, one is written, and the others wait.
const CHUNKS: usize = 5;

/// After so many bytes the disk is waited for, while the chunks fill.
const STRIDE: usize = 32 << 20;

/// Gives `work` a writer, whose bytes go into `file` on a thread of their own; returns what `work` returned once all of them are on the disk.
///
/// # Errors
/// What the system says of the file; else what `work` fails with.
pub fn write_behind<T>(
    file: &File,
    work: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (full, filled) = mpsc::sync_channel(CHUNKS - 2);
    let (emptied, empty) = mpsc::channel();
    thread::scope(|scope| {
        let writer = scope.spawn(move || drain(file, &filled, &emptied));
        let mut chunks = Chunks {
            current: Vec::with_capacity(CHUNK),
            made: 1,
            full,
            empty,
        };
        let outcome = work(&mut chunks).and_then(|told| {
            chunks.flush()?;
            Ok(told)
        });
        drop(chunks);
        // Where the file cannot be written, that is why `work` failed.
        writer
            .join()
            .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))?;
        outcome
    })
}

/// Writes chunks as they come, and hands them back.
fn drain(mut file: &File, filled: &Receiver<Vec<u8>>, emptied: &Sender<Vec<u8>>) -> io::Result<()> {
    let mut unsynced = 0;
    for mut chunk in filled {
        file.write_all(&chunk)?;
        unsynced += chunk.len();
        if unsynced >= STRIDE {
            file.sync_data()?;
            unsynced = 0;
        }
        chunk.clear();
        // Nobody wants it back where nothing more is to be written.
        let _ = emptied.send(chunk);
    }
    file.sync_all()
}

/// The writer's end.
struct Chunks {
    current: Vec<u8>,
    made: usize,
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

impl Chunks {
    fn hand_over(&mut self) -> io::Result<()> {
        let next = if self.made < CHUNKS {
            self.made += 1;
            Vec::with_capacity(CHUNK)
        } else {
            self.empty.recv().map_err(|_| ended())?
        };
        let full = mem::replace(&mut self.current, next);
        self.full.send(full).map_err(|_| ended())
    }
}

/// The thread that writes ends early only where it fails, and says itself why.
fn ended() -> io::Error {
    io::Error::other("the file cannot be written")
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.len() == CHUNK {
            self.hand_over()?;
        }
        let count = bytes.len().min(CHUNK - self.current.len());
        self.current.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.current.is_empty() {
            return Ok(());
        }
        self.hand_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::spool::FromStart;
    use std::io::Read as _;

    #[test]
    fn all_bytes_arrive_in_their_order_however_they_come() {
        for (total, piece) in [
            (0, 1),
            (1, 1),
            (CHUNK, CHUNK),
            (CHUNK + 1, 4096),
            (9 * CHUNK + 7, 3 * CHUNK + 1),
            (40 * CHUNK, 100_003),
        ] {
            let bytes: Vec<u8> = (0_u8..=250).cycle().take(total).collect();
            let file = tempfile::tempfile().unwrap();
            let told = write_behind(&file, |out| {
                for piece in bytes.chunks(piece) {
                    out.write_all(piece)?;
                }
                Ok("told")
            });
            assert_eq!(told.unwrap(), "told");
            let mut seen = Vec::new();
            FromStart::new(file).read_to_end(&mut seen).unwrap();
            assert!(seen == bytes, "{total} bytes by {piece}");
        }
    }

    #[test]
    fn what_the_system_says_of_the_file_is_what_is_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let chunk = vec![0; CHUNK];
        let told = write_behind(&full, |out| {
            for _ in 0..100 {
                out.write_all(&chunk)?;
            }
            Ok(())
        });
        let told = told.unwrap_err();
        let told = told.downcast_ref::<io::Error>().unwrap();
        assert_eq!(told.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn what_fails_for_a_reason_of_its_own_says_so() {
        let file = tempfile::tempfile().unwrap();
        let told = write_behind(&file, |out| {
            out.write_all(b"half")?;
            Err::<(), _>(anyhow::anyhow!("no more"))
        });
        assert_eq!(told.unwrap_err().to_string(), "no more");
    }
}
