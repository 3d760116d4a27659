//! The installers that this `kpot` carries inside itself, one per architecture.
//!
//! They are built with it (see `build.rs`), so a `kpot` copied alone to another machine builds a complete pot. The one for arm64 is not there where the machine that
//! built this `kpot` had no compiler for it.

use bundle_spec::{Arch, Sha256};

const AMD64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/installer-amd64"));

/// An empty file where there is none.
const ARM64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/installer-arm64"));

/// What to type, on Debian and with rustup, so that a `kpot` that is built then carries an installer for `arch`.
pub const fn advice(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "apt-get install musl-tools; rustup target add x86_64-unknown-linux-musl",
        Arch::Arm64 => {
            "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross; rustup target add aarch64-unknown-linux-musl"
        }
    }
}

/// The installer for `arch`; `None` where this `kpot` was built without one.
pub fn for_arch(arch: Arch) -> Option<&'static [u8]> {
    let installer = match arch {
        Arch::Amd64 => AMD64,
        Arch::Arm64 => ARM64,
    };
    (!installer.is_empty()).then_some(installer)
}

/// Every installer that this `kpot` carries, with its digest.
pub fn digests() -> impl Iterator<Item = (Arch, Sha256)> {
    Arch::ALL
        .into_iter()
        .filter_map(|arch| for_arch(arch).map(|installer| (arch, Sha256::of(installer))))
}
