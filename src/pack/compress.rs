//! One file or layer becomes one blob: a single zstd frame, the same bytes on every machine and with any number of threads; or a layer stays as its registry has it.
//!
//! Each blob is compressed by one thread; the cores are kept busy with several blobs at once. That costs a few percent of speed against zstd's own threads where one
//! blob is much larger than all others, and gives frames that depend on nothing but their content and their reference, and memory that is known in advance.

use std::fs::File;
use std::io::{self, BufWriter, Cursor, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bundle_spec::manifest::Windows;
use bundle_spec::{Hasher, Sha256, limits};
use flate2::bufread::MultiGzDecoder;

use crate::fetch::Stop;
use crate::fetch::registry::Compression;
use crate::pack::Layers;
use crate::pack::blobs::{Packed, Packing};
use crate::pack::effort::Effort;
use crate::pack::relatives::Reference;
use crate::pack::spool::FromStart;
use crate::progress::Task;

/// The largest window that is accepted in a registry's zstd layer, as a power of two: what every decoder is to support by RFC 8878, and what the usual tools write at most.
/// A window stands in memory; the 128 MiB that zstd reads without being asked are all that the builder may use.
const FOREIGN_WINDOW_LOG: u32 = 23;

/// Streams that end within this many bytes are compressed with their length known, and so with a window no larger than they are.
pub(super) const SMALL: usize = 1 << 20;

/// What is to be packed.
#[derive(Debug)]
pub struct Source {
    /// The bytes as they came.
    pub file: File,
    /// How they are compressed.
    pub compression: Compression,
    /// What they must unpack to.
    pub unpacked: Sha256,
    /// What they are packed against.
    pub reference: Option<Arc<Reference>>,
}

/// Why something was not packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It is not what was promised.
    #[error("it unpacks to {seen} instead of {expected}")]
    Content {
        /// The digest that was promised.
        expected: Sha256,
        /// The digest that it has.
        seen: Sha256,
    },
    /// It is larger than a pot's blob may be.
    #[error("it unpacks to more than {} bytes", limits::BLOB_SIZE)]
    Size,
    /// It cannot be unpacked.
    #[error("it cannot be unpacked: {0}")]
    Unpack(#[source] io::Error),
    /// Its window is larger than what is read here; with what to try.
    #[error("it cannot be unpacked: {0} ({1})")]
    Window(#[source] io::Error, &'static str),
    /// Somebody else failed.
    #[error("given up")]
    Stopped,
    /// It cannot be written.
    #[error("it cannot be written beside the output file: {0}")]
    Write(#[source] io::Error),
}

impl PackError {
    /// The same, where a window was the reason, with what to try: `log` is the largest one that was read, as a power of two.
    fn beyond(self, log: u32) -> Self {
        match self {
            // zstd's own words; its bindings give no code.
            Self::Unpack(cause) if cause.to_string().contains("memory") => {
                Self::Window(cause, window_advice(log))
            }
            other => other,
        }
    }
}

/// What to try where a layer was compressed with a larger window than of 2^`log` bytes.
const fn window_advice(log: u32) -> &'static str {
    if log < Windows::Usual.log() {
        "it was compressed with a window of more than 8 MiB: --verbatim packs it as it is up to a window of 32 MiB, --verbatim --compression max up to one of 64 MiB; else push the image again, compressed with a smaller window"
    } else if log < Windows::Large.log() {
        "it was compressed with a window of more than 32 MiB: --verbatim --compression max packs it as it is up to a window of 64 MiB; else push the image again, compressed with a smaller window"
    } else {
        "it was compressed with a window of more than 64 MiB, which no pot may have: push the image again, compressed with a smaller window"
    }
}

/// How threads go on beside each other: as long as nobody failed, and with the right to unpack a zstd layer, which one has at a time. A decoder keeps a window in memory, and an effort's threads are counted without: one is within what is
/// left, and one for each thread would not be.
#[derive(Debug, Default)]
pub struct Turn {
    one: Mutex<()>,
    stop: Stop,
}

impl Turn {
    /// Nothing goes on once `stop` is requested: somebody failed, and waits to say so.
    pub fn until(stop: Stop) -> Self {
        Self {
            one: Mutex::default(),
            stop,
        }
    }
}

/// Packs `source` into `to`, an empty file, and gives it back with what the manifest says of it.
///
/// # Errors
/// [`PackError`]; `to` then holds nothing that is good for anything.
pub fn compress(
    source: Source,
    style: (Effort, Layers),
    to: File,
    turn: &Turn,
    task: &Task,
) -> Result<(Packed, File), PackError> {
    encode(source, style, to, turn, task).map_err(|error| error.beyond(FOREIGN_WINDOW_LOG))
}

fn encode(
    source: Source,
    (effort, layers): (Effort, Layers),
    to: File,
    turn: &Turn,
    task: &Task,
) -> Result<(Packed, File), PackError> {
    let reference = source.reference.as_deref();
    let prefix = reference.map(Reference::bytes).transpose()?;
    let mut input = unpacking(source.file, source.compression, FOREIGN_WINDOW_LOG, turn)
        .map_err(PackError::Unpack)?;
    let mut head = Vec::new();
    (&mut input)
        .take(SMALL as u64 + 1)
        .read_to_end(&mut head)
        .map_err(PackError::Unpack)?;
    let known = (head.len() <= SMALL).then_some(head.len() as u64);
    let mut input = Cursor::new(head).chain(input);

    let sink = Counted {
        inner: BufWriter::with_capacity(128 << 10, to),
        hasher: Hasher::new(),
    };
    let prefix = prefix.as_deref().map_or(&[][..], Vec::as_slice);
    let mut encoder = encoder(sink, (effort, layers), known, prefix).map_err(PackError::Write)?;
    let unpacked_size = copy(&mut input, &mut encoder, source.unpacked, turn, task)?;
    let mut sink = encoder.finish().map_err(PackError::Write)?;
    sink.flush().map_err(PackError::Write)?;
    let file = sink
        .inner
        .into_inner()
        .map_err(|cause| PackError::Write(cause.into_error()))?;
    let packed = Packed {
        size: sink.hasher.length(),
        digest: sink.hasher.finish(),
        packing: reference.map_or(Packing::Zstd, |it| Packing::Against(it.digest())),
        unpacked_digest: source.unpacked,
        unpacked_size,
    };
    Ok((packed, file))
}

/// Keeps `source`, which has these stored bytes, as it came, if a reader with these windows gets out of it what was promised.
///
/// # Errors
/// [`PackError`].
pub fn keep(
    source: Source,
    stored: Sha256,
    windows: Windows,
    turn: &Turn,
    task: &Task,
) -> Result<(Packed, File), PackError> {
    let size = source.file.metadata().map_err(PackError::Unpack)?.len();
    let file = source.file.try_clone().map_err(PackError::Unpack)?;
    let mut input = unpacking(source.file, source.compression, windows.log(), turn)
        .map_err(PackError::Unpack)?;
    let unpacked_size = copy(&mut input, &mut io::sink(), source.unpacked, turn, task)
        .map_err(|error| error.beyond(windows.log()))?;
    let packed = Packed {
        digest: stored,
        size,
        packing: match source.compression {
            Compression::None => Packing::Identity,
            Compression::Gzip => Packing::Gzip,
            Compression::Zstd => Packing::ZstdFrames,
        },
        unpacked_digest: source.unpacked,
        unpacked_size,
    };
    Ok((packed, file))
}

/// Copies all of `input`, which must have this digest, and says how much it was.
fn copy(
    input: &mut dyn Read,
    to: &mut dyn Write,
    expected: Sha256,
    turn: &Turn,
    task: &Task,
) -> Result<u64, PackError> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        if turn.stop.requested() {
            return Err(PackError::Stopped);
        }
        let count = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(PackError::Unpack(cause)),
        };
        hasher.update(&buffer[..count]);
        if hasher.length() > limits::BLOB_SIZE {
            return Err(PackError::Size);
        }
        to.write_all(&buffer[..count]).map_err(PackError::Write)?;
        task.advance(count as u64);
    }
    let size = hasher.length();
    let seen = hasher.finish();
    if seen == expected {
        Ok(size)
    } else {
        Err(PackError::Content { expected, seen })
    }
}

/// An encoder that goes on from `prefix`; an empty one is none.
///
/// zstd gives other bytes where the prefix lies directly before the input in memory. It never does here: a stream's input goes through a buffer inside zstd's own workspace.
fn encoder<W: Write>(
    sink: W,
    (effort, layers): (Effort, Layers),
    known: Option<u64>,
    prefix: &[u8],
) -> io::Result<zstd::Encoder<'_, W>> {
    let mut encoder = zstd::Encoder::with_ref_prefix(sink, effort.level(layers), prefix)?;
    effort.tune(&mut encoder, !prefix.is_empty())?;
    if known.is_some() {
        encoder.set_pledged_src_size(known)?;
    }
    Ok(encoder)
}

/// What `file` unpacks to; for zstd, once it is this thread's turn and until it is dropped.
fn unpacking(
    file: File,
    compression: Compression,
    window_log: u32,
    turn: &Turn,
) -> io::Result<Unpacking<'_>> {
    let bytes = FromStart::new(file);
    let (reader, turn): (Box<dyn Read>, _) = match compression {
        Compression::None => (Box::new(bytes), None),
        // Layers may be several gzip streams one after another, as parallel compressors write them.
        Compression::Gzip => {
            let bytes = io::BufReader::with_capacity(128 << 10, bytes);
            (Box::new(MultiGzDecoder::new(bytes)), None)
        }
        Compression::Zstd => {
            let turn = turn.one.lock().unwrap_or_else(PoisonError::into_inner);
            let mut decoder = zstd::Decoder::new(bytes)?;
            decoder.window_log_max(window_log)?;
            (Box::new(decoder), Some(turn))
        }
    };
    Ok(Unpacking {
        reader,
        _turn: turn,
    })
}

/// The unpacked bytes of a file. The decoder goes before the turn does.
struct Unpacking<'a> {
    reader: Box<dyn Read>,
    _turn: Option<MutexGuard<'a, ()>>,
}

impl Read for Unpacking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// A writer that hashes what passes.
struct Counted<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn pack(
        bytes: &[u8],
        compression: Compression,
        unpacked: Sha256,
    ) -> Result<(Packed, Vec<u8>), PackError> {
        let source = Source {
            file: file(bytes),
            compression,
            unpacked,
            reference: None,
        };
        packed(source)
    }

    fn packed(source: Source) -> Result<(Packed, Vec<u8>), PackError> {
        let task = Progress::new().task("test", None);
        let (packed, file) = compress(
            source,
            (Effort::Balanced, Layers::Repacked),
            file(b""),
            &Turn::default(),
            &task,
        )?;
        let mut stored = Vec::new();
        FromStart::new(file).read_to_end(&mut stored).unwrap();
        Ok((packed, stored))
    }

    /// Text that is neither random nor trivial, `size` bytes.
    fn text(size: usize) -> Vec<u8> {
        (0_u64..)
            .flat_map(|n| (n * n).to_string().into_bytes())
            .take(size)
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_same_content_gives_the_same_blob_however_it_came() {
        for size in [0, 1, SMALL, SMALL + 1] {
            let plain = text(size);
            let id = Sha256::of(&plain);
            let (blob, stored) = pack(&plain, Compression::None, id).unwrap();
            assert_eq!(blob.digest, Sha256::of(&stored));
            assert_eq!(
                (blob.size, blob.unpacked_size),
                (stored.len() as u64, size as u64)
            );
            assert_eq!(blob.unpacked_digest, id);
            assert_eq!(zstd::decode_all(&stored[..]).unwrap(), plain);
            let (half, rest) = plain.split_at(size / 2);
            let members = [gzip(half), gzip(rest)].concat();
            let foreign = zstd::encode_all(&plain[..], 1).unwrap();
            for (bytes, compression) in [
                (gzip(&plain), Compression::Gzip),
                (members, Compression::Gzip),
                (foreign, Compression::Zstd),
            ] {
                assert_eq!(
                    pack(&bytes, compression, id).unwrap().1,
                    stored,
                    "{size} {compression:?}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_unpack_to_its_promise_is_refused() {
        let plain = text(1000);
        let promised = Sha256::of(b"something else");
        assert!(matches!(
            pack(&gzip(&plain), Compression::Gzip, promised),
            Err(PackError::Content { expected, .. }) if expected == promised
        ));
        let id = Sha256::of(&plain);
        let packed = gzip(&plain);
        let cut = &packed[..packed.len() - 4];
        let trailing = [&packed[..], b"more"].concat();
        for broken in [cut, &trailing[..], &plain[..]] {
            assert!(matches!(
                pack(broken, Compression::Gzip, id),
                Err(PackError::Unpack(_))
            ));
        }
    }

    #[test]
    fn one_zstd_layer_is_unpacked_at_a_time_and_others_beside_it() {
        let turn = Turn::default();
        let free = || turn.one.try_lock().is_ok();
        let plain = text(1000);
        let foreign = zstd::encode_all(&plain[..], 1).unwrap();
        for (bytes, compression) in [
            (&plain[..], Compression::None),
            (&gzip(&plain), Compression::Gzip),
        ] {
            let _unpacking =
                unpacking(file(bytes), compression, FOREIGN_WINDOW_LOG, &turn).unwrap();
            assert!(free(), "{compression:?}");
        }
        let log = FOREIGN_WINDOW_LOG;
        let mut one = unpacking(file(&foreign), Compression::Zstd, log, &turn).unwrap();
        let mut back = Vec::new();
        one.read_to_end(&mut back).unwrap();
        assert!(back == plain);
        assert!(!free(), "its window is in memory");
        drop(one);
        assert!(free());
        // A failure gives the turn back, too.
        let source = Source {
            file: file(&foreign),
            compression: Compression::Zstd,
            unpacked: Sha256::of(b"something else"),
            reference: None,
        };
        let task = Progress::new().task("test", None);
        let stored = Sha256::of(&foreign);
        assert!(keep(source, stored, Windows::Usual, &turn, &task).is_err());
        assert!(free());
    }

    /// A frame with a window of 2^`log` bytes (RFC 8878, 3.1.1.1.2), and what it unpacks to.
    fn frame(log: u8) -> (Vec<u8>, Vec<u8>) {
        let plain = text(1000);
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3];
        let header = 1 | u32::try_from(plain.len()).unwrap() << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(&plain);
        (frame, plain)
    }

    #[test]
    fn the_advice_for_a_wide_window_is_one_that_helps() {
        const ANEW: Option<Windows> = None;
        let way = |log: u8, windows: Option<Windows>| {
            let (frame, plain) = frame(log);
            let source = Source {
                file: file(&frame),
                compression: Compression::Zstd,
                unpacked: Sha256::of(&plain),
                reference: None,
            };
            let (turn, task) = (Turn::default(), Progress::new().task("test", None));
            let style = (Effort::Balanced, Layers::Repacked);
            let packed = match windows {
                None => compress(source, style, file(b""), &turn, &task),
                Some(windows) => keep(source, Sha256::of(&frame), windows, &turn, &task),
            };
            packed.map(drop).map_err(|error| error.to_string())
        };
        let (usual, large) = (Some(Windows::Usual), Some(Windows::Large));
        for (log, good) in [
            (23, &[ANEW, usual, large][..]),
            (25, &[usual, large]),
            (26, &[large]),
            (27, &[]),
        ] {
            for windows in [ANEW, usual, large] {
                let told = way(log, windows);
                assert_eq!(told.is_ok(), good.contains(&windows), "{log}: {told:?}");
            }
        }
        let told = [ANEW, usual, large].map(|windows| way(27, windows).unwrap_err());
        assert!(told[0].contains("--verbatim packs it as it is up to a window of 32 MiB"));
        for told in &told[..2] {
            assert!(
                told.contains("--verbatim --compression max") && told.contains("64 MiB"),
                "{told}"
            );
        }
        assert!(!told[2].contains("--verbatim"), "{}", told[2]);
        assert!(told.iter().all(|told| told.contains("smaller window")));
    }

    #[test]
    fn what_is_packed_against_a_reference_is_what_differs_and_needs_it_again() {
        let shared = text(3 * SMALL);
        let content = [b"begin", &shared[SMALL / 3..], b"end"].concat();
        for (prefix, content) in [
            (&shared[..], &content[..]),
            (&shared, &content[..1000]),
            (&shared, b""),
            (b"", b"x"),
            (b"", b""),
        ] {
            let unpacked = Sha256::of(content);
            let source = |reference| Source {
                file: file(content),
                compression: Compression::None,
                unpacked,
                reference,
            };
            let size = prefix.len() as u64;
            let reference = Reference::new(file(prefix), size, Sha256::of(prefix));
            let reference = Arc::new(reference);
            let (blob, stored) = packed(source(Some(Arc::clone(&reference)))).unwrap();
            assert_eq!(blob.packing, Packing::Against(Sha256::of(prefix)));
            assert_eq!(blob.digest, Sha256::of(&stored));
            assert_eq!(blob.unpacked_size, content.len() as u64);
            let mut decoder = zstd::Decoder::with_ref_prefix(&stored[..], prefix).unwrap();
            let mut back = Vec::new();
            decoder.read_to_end(&mut back).unwrap();
            assert!(back == content);
            let again = packed(source(Some(reference))).unwrap().1;
            assert!(again == stored, "the same bytes every time");
            let (_, alone) = packed(source(None)).unwrap();
            assert!(content.len() < 1000 || stored.len() < alone.len() / 10);
        }
    }
}
