//! The pot, format 1: what it is, how it is read, written and signed.
//!
//! This crate knows no network, no processes and no command line. `docs/pot-format.md` is the norm; the code follows it.

pub mod digest;
pub mod error;
pub mod limits;
pub mod manifest;
pub mod version;

pub use digest::{Hasher, Sha256};
pub use error::Error;
pub use manifest::Manifest;
pub use version::{Arch, KubeVersion};
