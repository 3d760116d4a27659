//! Getting things from the network, and believing none of it.
//!
//! `http` moves bytes, over what `network` says: through mirrors and proxies (`proxies`), to servers whose certificates are trusted. Its limits and retries are in `retry`,
//! `pace` and `hosts`, half a file in `partial`, what can go wrong in `error`. `registry` pulls images, of what `manifests` reads, as whoever `logins` (with `helper`) and `tokens` (with
//! `challenge`) say. `checksum` reads what publishers publish beside their downloads. `marker` asks which version is the newest.
//! Everything is hashed while it streams; nothing here decompresses or interprets what it has not checked.

mod challenge;
pub mod checksum;
mod error;
mod helper;
mod hosts;
pub mod http;
pub mod logins;
mod manifests;
pub mod marker;
pub mod network;
mod pace;
mod partial;
mod proxies;
pub mod registry;
mod retry;
mod tokens;

pub use error::FetchError;
pub use http::Client;
pub use logins::Logins;
pub use network::Network;
pub use retry::{Policy, Stop};
