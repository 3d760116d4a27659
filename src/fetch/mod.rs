//! Getting things from the network, and believing none of it.
//!
//! `http` moves bytes: with time limits, size limits, retries and resumption. `checksum` reads what publishers publish beside their downloads. `registry` pulls images.
//! `marker` asks which version is the newest.
//! Everything is hashed while it streams; nothing here decompresses or interprets what it has not checked.

pub mod checksum;
pub mod http;
pub mod marker;
pub mod registry;

pub use http::{Client, FetchError, Policy, Stop};
