//! The one header that a member has in the archive.
//!
//! Format 1 fixes every byte of a header but the name, the size and the checksum over them. So a reader does not interpret headers: it takes name and size
//! out, builds the one right header for them, and compares all 512 bytes. Links, devices, folders, extension headers of PAX and GNU, base-256 numbers, owners
//! and times are refused by that comparison, without a line that knows about them.

use crate::path::Member;

/// The size of a header, and what every member is padded to, in bytes.
pub const BLOCK: usize = 512;

/// The zero blocks that end an archive, in bytes. Nothing follows: a pot is not padded to a record of ten kilobytes.
pub const END: usize = 2 * BLOCK;

const NAME: std::ops::Range<usize> = 0..100;
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// The header of `member` with `size` bytes.
///
/// # Errors
/// A sentence where `size` is above the member's limit; below it, eleven octal digits always hold it.
pub fn encode(member: &Member, size: u64) -> Result<[u8; BLOCK], String> {
    if size > member.limit() {
        return Err(format!(
            "{member} has {size} bytes, more than {}",
            member.limit()
        ));
    }
    let mut block = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(NAME.start, &member.to_string());
    put(100, &format!("{:07o}", member.mode()));
    put(108, "0000000"); // owner: root
    put(116, "0000000"); // group: root
    put(SIZE.start, &format!("{size:011o}"));
    put(136, "00000000000"); // modified: 1970-01-01T00:00:00Z
    put(CHECKSUM.start, "        "); // counted as spaces while the sum is made
    put(156, "0"); // a regular file
    put(257, "ustar");
    put(263, "00");
    put(329, "0000000"); // device numbers, as GNU tar writes them for files
    put(337, "0000000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    block[CHECKSUM].copy_from_slice(sum.as_bytes());
    Ok(block)
}

/// The member and the size of a header.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn decode(block: &[u8; BLOCK]) -> Result<(Member, u64), String> {
    let (name, size) = look(block).ok_or_else(|| "a header does not parse".to_owned())?;
    let member: Member = name
        .parse()
        .map_err(|cause: crate::path::ParseMemberError| cause.to_string())?;
    if encode(&member, size)? == *block {
        Ok((member, size))
    } else {
        Err(format!("the header of {member} is not the canonical one"))
    }
}

/// The name and the size of any ustar header with plain octal digits, canonical or not: enough to step over the members of a later format.
pub(crate) fn look(block: &[u8; BLOCK]) -> Option<(&str, u64)> {
    let name = block[NAME].split(|byte| *byte == 0).next()?;
    let name = std::str::from_utf8(name).ok()?;
    let digits = block[SIZE].strip_suffix(b"\0")?;
    let size = digits.iter().try_fold(0, |size, digit| match digit {
        b'0'..=b'7' => Some(size << 3 | u64::from(digit - b'0')),
        _ => None,
    })?;
    (&block[257..262] == b"ustar").then_some((name, size))
}

/// The zero bytes behind a member of `size` bytes, fewer than [`BLOCK`].
#[allow(
    clippy::cast_possible_truncation,
    reason = "a remainder is below BLOCK"
)]
pub const fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    (BLOCK - over) % BLOCK
}
