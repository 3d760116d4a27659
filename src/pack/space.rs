//! Room on the disk, asked for before it is needed.

use std::fs::File;

use nix::sys::statvfs::fstatvfs;

use crate::progress::bytes;

/// Refuses where the file system that holds `file` has less than `needed` bytes left for this user.
///
/// # Errors
/// A text with both figures.
pub fn ensure(file: &File, needed: u64) -> Result<(), String> {
    let Ok(figures) = fstatvfs(file) else {
        // A file system that cannot say is written to until it refuses.
        return Ok(());
    };
    let free = figures
        .blocks_available()
        .saturating_mul(figures.fragment_size());
    if free < needed {
        Err(format!(
            "it needs {} on a disk that has {} left",
            bytes(needed),
            bytes(free)
        ))
    } else {
        Ok(())
    }
}
