//! The installers that this `kpot` carries inside itself, one per architecture.
//!
//! They are built with it (see `build.rs`), so a `kpot` copied alone to another machine builds a complete pot.

use bundle_spec::{Arch, Sha256};

const AMD64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/installer-amd64"));

/// The installer for `arch`; `None` where this `kpot` was built without one.
pub fn for_arch(arch: Arch) -> Option<&'static [u8]> {
    match arch {
        Arch::Amd64 => Some(AMD64),
        Arch::Arm64 => None,
    }
}

/// Every installer that this `kpot` carries, with its digest.
pub fn digests() -> impl Iterator<Item = (Arch, Sha256)> {
    Arch::ALL
        .into_iter()
        .filter_map(|arch| for_arch(arch).map(|installer| (arch, Sha256::of(installer))))
}
