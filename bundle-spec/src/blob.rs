//! Unpacked bytes of one blob, checked as they stream.
//!
//! The stored bytes are hashed again although the pot is verified: between verifying and reading, a file can change. The last unpacked byte is handed out only
//! after both digests and both sizes were compared, so a caller who got the promised number of bytes got the right ones, even if it never reads on to the end.
//! The reference of a blob is the caller's: whole, and checked in the same way.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder;

use crate::digest::Hasher;
use crate::error::Error;
use crate::manifest::{Blob, Encoding, Windows};
use crate::path::Member;
use crate::store::Part;

/// How many stored bytes are read at once.
const READ_SIZE: usize = 1 << 17;

/// Streams the unpacked bytes of a blob.
///
/// Every failed check is an [`io::Error`] of the kind [`io::ErrorKind::InvalidData`] with an [`Error::Content`] in it that names the blob; after one, the reader
/// stays failed. It never yields more than the signed size, and ends only after all of it. A zstd window needs up to 32 MiB of memory,
/// or 64 MiB in a pot that says so ([`Windows`]).
pub struct BlobReader<'a> {
    blob: Blob,
    bytes: Bytes<'a>,
    unpacked: Hasher,
    state: State,
}

enum Bytes<'a> {
    Stored(Stored),
    Gzip(Box<MultiGzDecoder<BufReader<Stored>>>),
    Zstd(Box<Decoder<'a, BufReader<Stored>>>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Streaming,
    Checked,
    Failed,
}

/// The stored bytes, hashed as they are read.
struct Stored {
    part: Part,
    position: u64,
    hasher: Hasher,
}

impl<'a> BlobReader<'a> {
    /// A reader of `blob`, stored in `part`. `reference` is what the blob's reference unpacks to, whole and checked; of a blob without one it is empty.
    pub(crate) fn new(
        part: Part,
        blob: Blob,
        reference: &'a [u8],
        windows: Windows,
    ) -> io::Result<Self> {
        let stored = Stored {
            part,
            position: 0,
            hasher: Hasher::new(),
        };
        let bytes = match blob.encoding {
            Encoding::Identity => Bytes::Stored(stored),
            Encoding::Gzip => {
                let buffered = BufReader::with_capacity(READ_SIZE, stored);
                Bytes::Gzip(Box::new(MultiGzDecoder::new(buffered)))
            }
            // An empty prefix is none.
            Encoding::Zstd | Encoding::ZstdFrames | Encoding::ZstdReference { .. } => {
                let buffered = BufReader::with_capacity(READ_SIZE, stored);
                let mut decoder = Decoder::with_ref_prefix(buffered, reference)?;
                if blob.encoding != Encoding::ZstdFrames {
                    decoder = decoder.single_frame();
                }
                decoder.window_log_max(windows.log())?;
                Bytes::Zstd(Box::new(decoder))
            }
        };
        Ok(Self {
            blob,
            bytes,
            unpacked: Hasher::new(),
            state: State::Streaming,
        })
    }

    /// What the manifest says about the blob.
    pub fn blob(&self) -> &Blob {
        &self.blob
    }

    fn read_more(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.blob.unpacked_size - self.unpacked.length();
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = match wanted {
            0 => 0,
            _ => self.fill(&mut buffer[..wanted])?,
        };
        self.unpacked.update(&buffer[..count]);
        if self.unpacked.length() == self.blob.unpacked_size {
            self.check_end()?;
            self.state = State::Checked;
        } else if count == 0 {
            return Err(self.wrong("it unpacks to fewer bytes than the manifest says"));
        }
        Ok(count)
    }

    /// The next unpacked bytes, unchecked.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.bytes {
            Bytes::Stored(stored) => return stored.read(buffer),
            Bytes::Gzip(decoder) => decoder.read(buffer),
            Bytes::Zstd(decoder) => decoder.read(buffer),
        };
        count.map_err(|cause| match cause.raw_os_error() {
            Some(_) => cause,
            None => self.wrong(&format!("it does not unpack: {cause}")),
        })
    }

    /// All unpacked bytes were seen: nothing may follow, in the frame or behind it, and the digests must be right.
    fn check_end(&mut self) -> io::Result<()> {
        if self.fill(&mut [0])? != 0 {
            return Err(self.wrong("it unpacks to more bytes than the manifest says"));
        }
        let stored = match &mut self.bytes {
            Bytes::Stored(stored) => stored,
            // Its end is the end of what is stored: behind a member there is another one, or nothing.
            Bytes::Gzip(decoder) => decoder.get_mut().get_mut(),
            Bytes::Zstd(decoder) => {
                if !decoder.get_mut().fill_buf()?.is_empty() {
                    return Err(self.wrong("it has bytes behind its zstd frame"));
                }
                decoder.get_mut().get_mut()
            }
        };
        if stored.hasher.clone().finish() != self.blob.digest {
            return Err(self.wrong("its stored bytes are not those that were signed"));
        }
        if self.unpacked.clone().finish() != self.blob.unpacked_digest {
            return Err(self.wrong("it does not unpack to the bytes that the manifest names"));
        }
        Ok(())
    }

    fn wrong(&self, reason: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            Error::Content {
                member: Member::Blob(self.blob.digest).to_string(),
                reason: reason.to_owned(),
            },
        )
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.state {
            State::Checked => Ok(0),
            State::Failed => Err(self.wrong("an earlier read of it failed")),
            State::Streaming if buffer.is_empty() => Ok(0),
            State::Streaming => {
                let result = self.read_more(buffer);
                if result.is_err() {
                    self.state = State::Failed;
                }
                result
            }
        }
    }
}

impl fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("blob", &self.blob.digest)
            .field("unpacked", &self.unpacked.length())
            .finish_non_exhaustive()
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.part.read_at(buffer, self.position)?;
        self.hasher.update(&buffer[..count]);
        self.position += count as u64;
        Ok(count)
    }
}
