//! How much of a pot is unpacked at once.

use bundle_spec::manifest::{Blob, Encoding, Windows};

/// Blobs that are unpacked at once at most. A reader has a window in memory, of 8 MiB as the builder makes it: two of them are within what this program may use.
const MOST: usize = 2;

/// How many of these blobs of a pot with such windows may be unpacked at once. One, where the pot's windows are large, or one of the blobs brings a window of another program's or goes on
/// from a blob that is in memory as well: those take more than one reader may.
pub(super) fn readers<'b>(windows: Windows, mut blobs: impl Iterator<Item = &'b Blob>) -> usize {
    let is_costly = |blob: &Blob| match blob.encoding {
        Encoding::ZstdFrames | Encoding::ZstdReference { .. } => true,
        Encoding::Identity | Encoding::Gzip | Encoding::Zstd => false,
    };
    if windows == Windows::Large || blobs.any(is_costly) {
        1
    } else {
        MOST
    }
}
