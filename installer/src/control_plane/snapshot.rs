//! A snapshot of the healthy master's etcd, brought to this machine and checked.
//!
//! It counts only when it lies here, on the disk, as long as it was there; the SHA-256 at its end is that of everything before it; and its revision is not below the one
//! that etcd had before. It is never held in memory. On the healthy master it exists for a while, in etcd's data folder, the one place that both etcd's container and the
//! node see; it is removed from there in the end, on failure too, and what a killed run left goes at the beginning of the next. The caller holds the cluster's lock:
//! two machines would remove each other's.
//!
//! The file is copied before its status is asked: etcdctl before 3.3.16 opens it for writing to look at it, and may change it
//! (<https://github.com/etcd-io/etcd/pull/11157>).

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bundle_spec::Hasher;
use serde::Deserialize;

use super::etcd::{DataFolder, Etcd, Status, Version};
use super::{Cluster, ClusterView};
use crate::host::Host;
use crate::host::command::Cmd;
use crate::journal::{Change, now};

/// Its name among a run's backups.
const NAME: &str = "etcd-snapshot.db";

/// How long etcd may take to write it: 8 GiB, the largest database that etcd advises, on a slow disk.
const SAVING: Duration = Duration::from_secs(1200);

/// How long a look at it may take; etcdctl reads every page.
const LOOKING: Duration = Duration::from_secs(600);

/// What stays free on etcd's disk beside the snapshot, in bytes, and as much again as the database has: a full disk stops etcd.
const RESERVE: u64 = 256 << 20;

/// A snapshot that lies on this machine and was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where.
    pub path: PathBuf,
    /// Its revision.
    pub revision: u64,
    /// etcd's CRC of its keys and values; `snapshot status` prints it in hexadecimal.
    pub hash: u32,
    /// Bytes of the file.
    pub size: u64,
    /// Keys in all its revisions.
    pub total_keys: u64,
}

/// Takes a snapshot of the healthy master's etcd.
///
/// # Errors
/// Not enough room there; etcd gives none; it is damaged, cut off, or older than what etcd had before; it cannot be written here or removed there.
pub fn take(host: &Host<'_>, cluster: &Cluster, etcd: &Etcd) -> Result<Snapshot> {
    let view = cluster.view();
    let (before, data) = (etcd.status(view)?, etcd.data()?);
    if let Some(lacking) = lacking_room(view, &data.outside, before.db_size)? {
        bail!("{lacking}. Make room there first");
    }
    let name = format!("kpot-{}.db", now());
    host.note(Change::Cluster {
        what: format!(
            "take an etcd snapshot on {}, for a while in {}/{name}",
            view.address(),
            data.outside
        ),
    })?;
    sweep(cluster, data)?;
    let taken = save(host, cluster, etcd, &name, before);
    match (taken, sweep(cluster, data)) {
        (Ok(snapshot), swept) => swept.map(|()| snapshot),
        (Err(cause), Ok(())) => Err(cause),
        (Err(cause), Err(_)) => Err(anyhow!(
            "{cause:#}\nA copy may be left on {}: rm {}/kpot-*.db*",
            view.address(),
            data.outside
        )),
    }
}

/// Why no snapshot can be taken now: it would fill etcd's disk on the healthy master.
///
/// # Errors
/// etcd or its disk do not tell.
pub fn no_room(view: &ClusterView, etcd: &Etcd) -> Result<Option<String>> {
    lacking_room(view, &etcd.data()?.outside, etcd.status(view)?.db_size)
}

fn lacking_room(view: &ClusterView, folder: &str, db_size: u64) -> Result<Option<String>> {
    let output = view.ask(&Cmd::new(
        "stat",
        ["--file-system", "--format", "%a %S", "--", folder],
    ))?;
    let text = output.text();
    let free = text
        .split_once(' ')
        .and_then(|(blocks, size)| {
            let (blocks, size): (u64, u64) = (blocks.parse().ok()?, size.parse().ok()?);
            blocks.checked_mul(size)
        })
        .with_context(|| {
            format!(
                "cannot tell the room in {folder} on {}: {}",
                view.address(),
                output.evidence()
            )
        })?;
    let needed = db_size.saturating_mul(2).saturating_add(RESERVE);
    Ok((free < needed).then(|| {
        format!(
            "{folder} on {} has {} MiB free, and {} MiB are needed to take a snapshot without filling etcd's disk",
            view.address(),
            free >> 20,
            needed.div_ceil(1 << 20)
        )
    }))
}

/// Removes every snapshot of this program from etcd's data folder, and what etcdctl has only begun.
fn sweep(cluster: &Cluster, data: &DataFolder) -> Result<()> {
    let args = [
        "-H",
        data.outside.as_str(),
        "-mindepth",
        "1",
        "-maxdepth",
        "1",
        "-type",
        "f",
        "-name",
        "kpot-*.db*",
        "-delete",
    ];
    cluster.run(&Cmd::new("find", args)).with_context(|| {
        format!(
            "cannot remove this program's snapshots from {} on {}",
            data.outside,
            cluster.view().address()
        )
    })?;
    Ok(())
}

/// Lets etcd write the file, copies it here, and looks at it.
fn save(
    host: &Host<'_>,
    cluster: &Cluster,
    etcd: &Etcd,
    name: &str,
    before: Status,
) -> Result<Snapshot> {
    let (view, data) = (cluster.view(), etcd.data()?);
    let inside = format!("{}/{name}", data.inside);
    let outside = format!("{}/{name}", data.outside);
    cluster
        .run(&etcd.local_within(SAVING, &["snapshot", "save", &inside]))
        .with_context(|| format!("etcd on {} gives no snapshot", view.address()))?;
    let listed = view.tree(&outside)?;
    let [file] = listed.as_slice() else {
        bail!(
            "etcd on {} says that it took a snapshot, and {outside} is not there",
            view.address()
        );
    };
    let mut status = None;
    let path = host.keep(NAME, &mut |copy| {
        let mut sealed = Sealed::new(copy);
        view.copy(&outside, &mut sealed)?;
        let size = sealed.finish()?;
        ensure!(
            size == file.size,
            "the snapshot has {size} bytes here and {} on {}",
            file.size,
            view.address()
        );
        let seen = etcd.look(cluster, before.version, &inside)?;
        ensure!(
            seen.revision >= before.revision,
            "the snapshot ends at revision {}, and etcd was at {} before: it is not a whole one",
            seen.revision,
            before.revision
        );
        status = Some(seen);
        Ok(())
    })?;
    let status = status.context("a snapshot was kept without a look at it")?;
    Ok(Snapshot {
        path,
        revision: status.revision,
        hash: status.hash,
        size: file.size,
        total_keys: status.total_keys,
    })
}

/// What `snapshot status --write-out=json` prints, in 3.3 and later.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileStatus {
    hash: u32,
    revision: u64,
    #[serde(rename = "totalKey")]
    total_keys: u64,
}

impl Etcd {
    /// Looks at a snapshot file in the container, where the program for it is. Its `totalSize` is passed over: an old etcdctl tells it after it changed the file.
    fn look(&self, cluster: &Cluster, version: Version, inside: &str) -> Result<FileStatus> {
        let words = [
            version.snapshot_tool(),
            "--write-out=json",
            "snapshot",
            "status",
            inside,
        ];
        let cmd = self.exec(words.map(str::to_owned)).timeout(LOOKING);
        let output = cluster.run(&cmd).context("etcd's snapshot is damaged")?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{cmd} printed {:?}", output.text()))
    }
}

/// Why a file is not a whole snapshot of etcd.
///
/// etcdctl before 3.4.8 was seen to leave the checksum out (<https://github.com/etcd-io/etcd/pull/11896>); the next try may bring it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unsealed {
    #[error("the snapshot has {0} bytes: it is empty or was cut off")]
    Short(u64),
    #[error(
        "the snapshot has {0} bytes, which leaves no room for a checksum behind whole pages: it was cut off, or etcdctl left the checksum out. Run this again"
    )]
    NoSeal(u64),
    #[error(
        "the snapshot's checksum is not that of its content: it was damaged on its way or on a disk"
    )]
    Broken,
}

/// Hands a snapshot on and checks it by its last 32 bytes, the SHA-256 of everything before them.
struct Sealed<W> {
    inner: W,
    hasher: Hasher,
    /// The last bytes so far, at most 32: they may be the checksum.
    tail: Vec<u8>,
}

/// Bytes of a SHA-256.
const SEAL: usize = 32;

/// The database before the checksum is whole pages, and no page is smaller than this. etcd itself tells by it whether there is a checksum.
const PAGE: u64 = 512;

impl<W: Write> Sealed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::new(),
            tail: Vec::with_capacity(2 * SEAL),
        }
    }

    /// The length of the whole file, where the checksum is right.
    fn finish(self) -> Result<u64, Unsealed> {
        let content = self.hasher.length();
        let size = content + self.tail.len() as u64;
        if content == 0 {
            return Err(Unsealed::Short(size));
        }
        if !content.is_multiple_of(PAGE) {
            return Err(Unsealed::NoSeal(size));
        }
        if self.hasher.finish().as_bytes().as_slice() != self.tail {
            return Err(Unsealed::Broken);
        }
        Ok(size)
    }

    /// Takes what is certainly not the checksum into the digest.
    fn pass(&mut self, bytes: &[u8]) {
        let settled = (self.tail.len() + bytes.len()).saturating_sub(SEAL);
        let old = settled.min(self.tail.len());
        let new = settled - old;
        self.hasher.update(&self.tail[..old]);
        self.tail.drain(..old);
        self.hasher.update(&bytes[..new]);
        self.tail.extend_from_slice(&bytes[new..]);
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.pass(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
