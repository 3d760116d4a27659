//! Reads a pot: opened, then verified, and only then unpacked.
//!
//! [`UnverifiedPot::open`] refuses what is not a canonical pot, [`UnverifiedPot::verify`] what is not signed by a trusted key or not what was signed, and only
//! the [`VerifiedPot`] that comes out of it hands out content. The signature is checked before any blob is read. Memory stays at a few MiB whatever the pot's
//! size, and grows by the references that were needed so far ([`crate::limits::REFERENCES`]): each is unpacked once, however many blobs refer to it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use crate::blob::BlobReader;
use crate::digest::{Hasher, Sha256};
use crate::error::Error;
use crate::manifest::{Blob, Encoding, Manifest};
use crate::path::Member;
use crate::signature::{ParsedSignature, Signer, Trust};
use crate::store::{Part, Store};
use crate::sums::Sums;

/// How many bytes a thread hashes at once.
const CHUNK: usize = 1 << 20;

/// The most threads that read at once.
const THREADS: usize = 16;

/// How far hashing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done; never falls from one call to the next.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A pot whose layout is right. Nobody has vouched for it yet: what it says about itself is good for showing only.
#[derive(Debug)]
pub struct UnverifiedPot {
    store: Store,
    manifest: Manifest,
    sums: Sums,
    sums_text: Vec<u8>,
    signature: Option<ParsedSignature>,
}

/// A pot that a trusted key signed, and whose every byte was what was signed when it was verified.
#[derive(Debug)]
pub struct VerifiedPot {
    store: Store,
    manifest: Manifest,
    sums: Sums,
    identity: Sha256,
    signer: Signer,
    /// The blobs that others refer to.
    references: BTreeMap<Sha256, Reference>,
}

/// What a blob that others refer to unpacks to, from the first time that it was needed.
#[derive(Default)]
struct Reference(OnceLock<Vec<u8>>);

impl UnverifiedPot {
    /// Opens a `.pot` file, or a folder that one was unpacked to; other files in that folder are left alone.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Format`] for a pot of another format, and [`Error::Archive`], [`Error::Manifest`], [`Error::Content`] or
    /// [`Error::Signature`] for whatever else is not a canonical pot.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let store = Store::open(path)?;
        let manifest_text = store.required(&Member::Manifest)?.read_all()?;
        let manifest = Manifest::decode(&manifest_text)?;
        check_members(&store, &manifest)?;
        let sums_text = store.required(&Member::Sums)?.read_all()?;
        let sums = Sums::decode(&sums_text, &manifest.blobs)?;
        if sums.manifest != Sha256::of(&manifest_text) {
            return Err(changed(&Member::Manifest));
        }
        let signature = match store.part(&Member::Signature)? {
            Some(part) => Some(ParsedSignature::parse(&part.read_all()?)?),
            None => None,
        };
        Ok(Self {
            store,
            manifest,
            sums,
            sums_text,
            signature,
        })
    }

    /// What the pot says that it holds.
    pub fn manifest_unverified(&self) -> &Manifest {
        &self.manifest
    }

    /// The fingerprint of the key that the signature names, `SHA256:…`; `None` for an unsigned pot. The signature is not checked here.
    pub fn signer_fingerprint(&self) -> Option<String> {
        self.signature.as_ref().map(ParsedSignature::fingerprint)
    }

    /// The digest of `SHA256SUMS`, which the signature covers and which so stands for the whole pot.
    pub fn identity(&self) -> Sha256 {
        Sha256::of(&self.sums_text)
    }

    /// The path that was opened.
    pub fn source(&self) -> &Path {
        self.store.source()
    }

    /// Checks the signature, then every member, on all cores. `progress` is called between chunks, from any thread, one call at a time.
    ///
    /// # Errors
    /// [`Error::Unsigned`], [`Error::Signature`], [`Error::UntrustedSigner`] and [`Error::SignerRefused`] before anything is hashed; [`Error::Content`] with the
    /// member that is not what was signed; [`Error::Io`] where reading fails.
    pub fn verify(
        self,
        trust: &Trust,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<VerifiedPot, Error> {
        let signature = self.signature.as_ref().ok_or(Error::Unsigned)?;
        let signer = signature.verify(&self.sums_text, trust)?;
        self.check_digests(progress)?;
        let references = self.manifest.references().into_iter();
        Ok(VerifiedPot {
            references: references
                .map(|digest| (digest, Reference::default()))
                .collect(),
            identity: self.identity(),
            store: self.store,
            manifest: self.manifest,
            sums: self.sums,
            signer,
        })
    }

    fn check_digests(&self, progress: &(dyn Fn(Progress) + Sync)) -> Result<(), Error> {
        // The manifest was hashed when it was read.
        let fixed = [
            (Member::Installer, self.sums.installer),
            (Member::Readme, self.sums.readme),
        ];
        let mut tasks = Vec::with_capacity(fixed.len() + self.manifest.blobs.len());
        for (member, digest) in fixed {
            tasks.push((self.store.required(&member)?.size(), member, digest));
        }
        for blob in &self.manifest.blobs {
            tasks.push((blob.size, Member::Blob(blob.digest), blob.digest));
        }
        // The largest first, so that no thread begins a long one when the others are done.
        tasks.sort_by_key(|task| std::cmp::Reverse(task.0));
        let total = tasks.iter().map(|task| task.0).sum();

        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let failure = Mutex::new(None);
        let done = Mutex::new(0);
        let report = |count: u64| {
            // Under the lock, so that the figures arrive in order.
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            *done += count;
            progress(Progress { done: *done, total });
            !stop.load(Ordering::Relaxed)
        };
        let work = || {
            let mut buffer = vec![0; CHUNK];
            while !stop.load(Ordering::Relaxed)
                && let Some((size, member, digest)) =
                    tasks.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let checked = self
                    .sized_part(member, *size)
                    .and_then(|part| check_digest(&part, member, *digest, &mut buffer, &report));
                if let Err(cause) = checked {
                    stop.store(true, Ordering::Relaxed);
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert(cause);
                }
            }
        };
        // Each has a buffer, and a disk feeds no more of them.
        let threads = thread::available_parallelism()
            .map_or(1, usize::from)
            .min(THREADS);
        thread::scope(|scope| {
            for _ in 1..threads.min(tasks.len()) {
                scope.spawn(work);
            }
            work();
        });
        failure
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }

    /// The stored bytes of `member`, if they still are as many as they were when the pot was opened.
    fn sized_part(&self, member: &Member, size: u64) -> Result<Part, Error> {
        let part = self.store.required(member)?;
        if part.size() == size {
            Ok(part)
        } else {
            Err(changed(member))
        }
    }
}

impl VerifiedPot {
    /// What the pot holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Who signed it.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The digest of `SHA256SUMS`, which the signature covers and which so stands for the whole pot.
    pub fn identity(&self) -> Sha256 {
        self.identity
    }

    /// The digest of the pot's installer, so that a running installer can tell whether it is the signed one.
    pub fn installer(&self) -> Sha256 {
        self.sums.installer
    }

    /// The path that was opened.
    pub fn source(&self) -> &Path {
        self.store.source()
    }

    /// The unpacked bytes of the blob with this digest, checked again while they stream. Where it refers to another blob, that one is unpacked and checked first.
    ///
    /// # Errors
    /// [`Error::Manifest`] where the manifest lists no such blob, [`Error::Content`] where it or its reference vanished or has another size by now, or the reference
    /// does not unpack to what the manifest says, [`Error::Io`] where one of them cannot be opened or read.
    pub fn open_blob(&self, digest: &Sha256) -> Result<BlobReader<'_>, Error> {
        let blob = self.listed(digest)?;
        let reference = match blob.encoding.reference() {
            Some(reference) => self.reference(&reference)?,
            None => &[],
        };
        self.open(blob, reference)
    }

    /// The stored bytes of the blob with this digest, packed as they are, checked again while they stream.
    ///
    /// # Errors
    /// Those of [`Self::open_blob`], but for what unpacking brings.
    pub fn open_stored(&self, digest: &Sha256) -> Result<BlobReader<'_>, Error> {
        let blob = self.listed(digest)?;
        let as_stored = Blob {
            encoding: Encoding::Identity,
            unpacked_digest: blob.digest,
            unpacked_size: blob.size,
            ..blob.clone()
        };
        self.open(&as_stored, &[])
    }

    /// What a blob that others refer to unpacks to, whole and checked.
    fn reference(&self, digest: &Sha256) -> Result<&[u8], Error> {
        let blob = self.listed(digest)?;
        let place = self
            .references
            .get(digest)
            .ok_or_else(|| Error::manifest(format!("lets no blob refer to {digest}")))?;
        if let Some(bytes) = place.0.get() {
            return Ok(bytes);
        }
        // No more than `limits::REFERENCES`, or the manifest would not have been read.
        let mut bytes = Vec::with_capacity(usize::try_from(blob.unpacked_size).unwrap_or(0));
        self.open(blob, &[])?
            .read_to_end(&mut bytes)
            .map_err(|cause| {
                cause
                    .downcast()
                    .unwrap_or_else(|cause| unpacking(digest, cause))
            })?;
        Ok(place.0.get_or_init(|| bytes))
    }

    fn listed(&self, digest: &Sha256) -> Result<&Blob, Error> {
        self.manifest
            .blob(digest)
            .ok_or_else(|| Error::manifest(format!("lists no blob {digest}")))
    }

    fn open<'a>(&self, blob: &Blob, reference: &'a [u8]) -> Result<BlobReader<'a>, Error> {
        let member = Member::Blob(blob.digest);
        let part = self.store.required(&member)?;
        if part.size() != blob.size {
            return Err(changed(&member));
        }
        BlobReader::new(part, blob.clone(), reference, self.manifest.windows)
            .map_err(|cause| unpacking(&blob.digest, cause))
    }
}

impl fmt::Debug for Reference {
    /// Megabytes of a program are of no use to anybody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get() {
            Some(bytes) => write!(f, "{} bytes", bytes.len()),
            None => f.write_str("not needed yet"),
        }
    }
}

/// The members that are there must be those that the manifest lists, and of the sizes that it says.
fn check_members(store: &Store, manifest: &Manifest) -> Result<(), Error> {
    if let Some(listing) = store.listing() {
        for (member, _) in listing {
            if let Member::Blob(digest) = member
                && manifest.blob(digest).is_none()
            {
                return Err(Error::Archive(format!(
                    "the manifest does not list {member}"
                )));
            }
        }
    }
    for member in Member::REQUIRED {
        store.required(&member)?;
    }
    for blob in &manifest.blobs {
        let member = Member::Blob(blob.digest);
        let size = store.required(&member)?.size();
        if size != blob.size {
            return Err(Error::Content {
                member: member.to_string(),
                reason: format!("it has {size} bytes instead of {}", blob.size),
            });
        }
    }
    Ok(())
}

/// Hashes a member; ends early and without a verdict where `report` says that another one failed.
fn check_digest(
    part: &Part,
    member: &Member,
    digest: Sha256,
    buffer: &mut [u8],
    report: &dyn Fn(u64) -> bool,
) -> Result<(), Error> {
    let mut hasher = Hasher::new();
    while hasher.length() < part.size() {
        let count = part
            .read_at(buffer, hasher.length())
            .map_err(|source| part.unreadable(source))?;
        hasher.update(&buffer[..count]);
        if !report(count as u64) {
            return Ok(());
        }
    }
    if hasher.finish() == digest {
        Ok(())
    } else {
        Err(changed(member))
    }
}

fn unpacking(digest: &Sha256, source: io::Error) -> Error {
    Error::Io {
        action: "unpack",
        path: Member::Blob(*digest).to_string().into(),
        source,
    }
}

fn changed(member: &Member) -> Error {
    Error::Content {
        member: member.to_string(),
        reason: "its bytes are not those that were signed".to_owned(),
    }
}
