//! The limits of format 1. A reader refuses what is beyond them before it allocates or writes anything.

/// The largest `manifest.json`, `SHA256SUMS` or image config, in bytes.
pub const MANIFEST: u64 = 4 << 20;

/// The largest number of blobs in a pot.
pub const BLOBS: usize = 10_000;

/// The largest blob, stored or unpacked, in bytes: the largest size that the eleven octal digits of a ustar header hold.
pub const BLOB_SIZE: u64 = (1 << 33) - 1;

/// The largest installer, in bytes. The product's own goal is 4 MB; the format leaves room.
pub const INSTALLER: u64 = 32 << 20;

/// The largest `README.txt`, in bytes.
pub const README: u64 = 64 << 10;

/// The largest armored signature, in bytes; an Ed25519 one has some 300.
pub const SIGNATURE: u64 = 4 << 10;

/// The largest zstd window, as a power of two: 32 MiB, so that reading a pot needs little memory.
pub const ZSTD_WINDOW_LOG: u32 = 25;

/// What the reference blobs of a pot may unpack to, all of them together, in bytes. A reader keeps them in memory, beside one zstd window: with both limits reached
/// it still stays below 64 MiB. The references that `kpot build` makes have some 4 MB.
pub const REFERENCES: u64 = 16 << 20;

/// The largest zstd window of a pot whose manifest says that it has large ones, as a power of two: 64 MiB.
pub const LARGE_ZSTD_WINDOW_LOG: u32 = 26;

/// What the reference blobs of such a pot may unpack to, all of them together, in bytes. With both limits reached a reader stays below 160 MiB.
pub const LARGE_REFERENCES: u64 = 84 << 20;
