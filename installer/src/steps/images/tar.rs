//! Members of a ustar stream that is made while it is read.

use std::io::{self, Read, Write};

/// Bytes of a tar block.
const BLOCK: usize = 512;

/// The largest size that a ustar header can say: eleven octal digits.
const SIZE_LIMIT: u64 = (1 << 33) - 1;

/// Where the checksum stands in a header.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Writes a member whose content is at hand.
pub(super) fn small(out: &mut dyn Write, name: &str, content: &[u8]) -> io::Result<()> {
    out.write_all(&header(name, content.len() as u64)?)?;
    out.write_all(content)?;
    pad(out, content.len() as u64)
}

/// Writes a member of `size` bytes, which `content` yields: neither more nor fewer, or an error.
pub(super) fn large(
    out: &mut dyn Write,
    name: &str,
    size: u64,
    content: &mut dyn Read,
) -> io::Result<()> {
    out.write_all(&header(name, size)?)?;
    let mut buffer = vec![0; 1 << 17];
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            length => out.write_all(&buffer[..length])?,
        }
    }
    pad(out, size)
}

/// Writes the end of the stream.
pub(super) fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

/// The ustar header of a regular file.
fn header(name: &str, size: u64) -> io::Result<[u8; BLOCK]> {
    if size > SIZE_LIMIT {
        return Err(io::Error::other(format!(
            "{name} has {size} bytes, more than one file of a plain tar can have"
        )));
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    // The checksum is taken with blanks in its own place.
    put(CHECKSUM.start, &[b' '; 8]);
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    if over == 0 {
        return Ok(());
    }
    out.write_all(&[0; BLOCK][over..])
}
