//! The pot, format 1: what it is, how it is read, written and signed.
//!
//! This crate knows no network, no processes and no command line. `docs/pot-format.md` is the norm; the code follows it.

pub mod containerds;
pub mod digest;
pub mod error;
pub mod header;
pub mod key;
pub mod limits;
pub mod manifest;
pub mod path;
pub mod reader;
pub mod signature;
pub mod sums;
pub mod version;
pub mod writer;

mod blob;
mod store;
mod trust;

pub use blob::BlobReader;
pub use digest::{Hasher, Sha256};
pub use error::Error;
pub use key::{KeyFile, PublicKey, SigningKey};
pub use manifest::Manifest;
pub use path::Member;
pub use reader::{Progress, UnverifiedPot, VerifiedPot};
pub use signature::{Signer, Trust};
pub use version::{Arch, KubeVersion};
pub use writer::{BlobSource, PotParts, write_pot};
