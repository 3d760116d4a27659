//! A checked snapshot from a scripted healthy master, and every way in which it can fail to be one.

#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that were written"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bundle_spec::Sha256;
use tempfile::TempDir;

use super::*;
use crate::host::HostView;
use crate::host::command::Output;
use crate::host::scripted::Scripted;
use crate::journal::Journal;

/// Two pages and their checksum, as `etcdctl snapshot save` writes them.
fn whole() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..8192_u32).map(|at| at.to_le_bytes()[0]).collect();
    bytes.extend_from_slice(Sha256::of(&bytes).as_bytes());
    bytes
}

/// What comes of the bytes when they arrive in pieces of this length.
fn sealed(bytes: &[u8], piece: usize) -> Result<u64, Unsealed> {
    let mut out = Vec::new();
    let mut sealed = Sealed::new(&mut out);
    for piece in bytes.chunks(piece) {
        sealed.write_all(piece).unwrap();
    }
    let size = sealed.finish();
    assert_eq!(out, bytes, "everything is handed on");
    size
}

#[test]
fn a_whole_snapshot_is_good_however_it_arrives() {
    for piece in [1, 7, 31, 32, 33, 512, 8191, 8192, 8193, 8224, 9000] {
        assert_eq!(sealed(&whole(), piece), Ok(8224), "pieces of {piece}");
    }
}

#[test]
fn a_flipped_byte_anywhere_is_found() {
    for at in (0..8224).step_by(61).chain(8192..8224) {
        let mut bytes = whole();
        bytes[at] ^= 1;
        assert_eq!(sealed(&bytes, 1000), Err(Unsealed::Broken), "byte {at}");
    }
}

#[test]
fn a_snapshot_that_was_cut_off_is_found() {
    let bytes = whole();
    for length in (0..8224).step_by(16) {
        let expected = match length {
            0..=32 => Unsealed::Short(length as u64),
            // Cut where a checksum could be.
            _ if (length - 32) % 512 == 0 => Unsealed::Broken,
            _ => Unsealed::NoSeal(length as u64),
        };
        assert_eq!(sealed(&bytes[..length], 1000), Err(expected), "{length}");
    }
}

#[test]
fn a_database_without_a_checksum_is_no_snapshot() {
    assert_eq!(
        sealed(&whole()[..8192], 1000),
        Err(Unsealed::NoSeal(8192)),
        "as in member/snap/db"
    );
    let only_a_checksum = *Sha256::of(b"").as_bytes();
    assert_eq!(sealed(&only_a_checksum, 8), Err(Unsealed::Short(32)));
}

/// A healthy master whose etcd gives snapshots, and what is asked of it.
struct Master {
    /// What it prints of the file.
    bytes: Vec<u8>,
    /// Its size there.
    size: usize,
    /// Exit status of `snapshot save`.
    saving: i32,
    /// What `snapshot status` prints of its revision; nothing where it fails.
    revision: Option<u64>,
    /// The server's version.
    version: &'static str,
    /// Free 4 KiB blocks.
    free: u64,
    /// Exit status of the removal at the end.
    sweeping: i32,
}

impl Default for Master {
    fn default() -> Self {
        Self {
            bytes: whole(),
            size: 8224,
            saving: 0,
            revision: Some(4711),
            version: "3.3.10",
            free: 1 << 20,
            sweeping: 0,
        }
    }
}

/// What came of it.
struct Outcome {
    taken: Result<Snapshot, String>,
    asked: Vec<String>,
    state: TempDir,
}

impl Outcome {
    /// How often a command was run whose text holds `part`.
    fn count(&self, part: &str) -> usize {
        self.asked.iter().filter(|cmd| cmd.contains(part)).count()
    }

    /// Every file among the backups.
    fn backups(&self) -> Vec<String> {
        let mut names = Vec::new();
        let Ok(runs) = fs::read_dir(self.state.path().join("backup")) else {
            return names;
        };
        for run in runs.flatten() {
            for file in fs::read_dir(run.path()).unwrap().flatten() {
                names.push(file.file_name().into_string().unwrap());
            }
        }
        names
    }
}

const ETCD: &str = "docker exec --env 'ETCDCTL_API=3' c0ffee ";

impl Master {
    fn take(self) -> Outcome {
        let status = format!(
            r#"[{{"Endpoint":"e","Status":{{"header":{{"revision":4700}},"version":"{}","dbSize":8192}}}}]"#,
            self.version
        );
        let tool = if self.version.starts_with("3.6") {
            "etcdutl"
        } else {
            "etcdctl"
        };
        let looked = self.revision.map(|revision| {
            format!(r#"{{"hash":1542059939,"revision":{revision},"totalKey":9,"totalSize":8192}}"#)
        });
        let (bytes, free) = (self.bytes, format!("{} 4096", self.free));
        let pods = r#"{"items":[{"metadata":{"name":"etcd-m1"},"spec":{"nodeName":"m1","containers":[{"command":["etcd","--data-dir=/data","--trusted-ca-file=ca","--cert-file=c","--key-file=k"],"volumeMounts":[{"name":"d","mountPath":"/data"}]}],"volumes":[{"name":"d","hostPath":{"path":"/var/lib/etcd"}}]}}]}"#;
        let flags = "--endpoints=https://127.0.0.1:2379 --cacert=ca --cert=c --key=k";
        let runner = Scripted::new()
            .on("kubectl ", 0, pods)
            .on("docker ps ", 0, "c0ffee")
            .on(&format!("{ETCD}etcdctl --dial-timeout=3s --command-timeout=8s {flags} endpoint status --write-out=json"), 0, &status)
            .on("stat --file-system --format '%a %S' -- /var/lib/etcd", 0, &free)
            .once_each(
                "find -H /var/lib/etcd -mindepth 1 -maxdepth 1 -type f -name 'kpot-*.db*' -delete",
                [(0, ""), (self.sweeping, "no connection")],
            )
            .on(&format!("{ETCD}etcdctl --dial-timeout=3s --command-timeout=1200s {flags} snapshot save /data/kpot-"), self.saving, "etcd says no")
            .on("find -H /var/lib/etcd/kpot-", 0, &format!("f 600 {} /var/lib/etcd/kpot-1.db", self.size))
            .with(move |cmd, _| {
                cmd.to_string().starts_with("cat -- /var/lib/etcd/kpot-").then(|| Output {
                    stdout: bytes.clone(),
                    ..Output::default()
                })
            })
            .on(
                &format!("{ETCD}{tool} --write-out=json snapshot status /data/kpot-"),
                i32::from(looked.is_none()),
                looked.as_deref().unwrap_or("integrity check failed"),
            );
        let runner = Arc::new(runner);
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::new(state.path());
        let host = Host::new(
            HostView::new("/nonexistent", Arc::new(Scripted::new())),
            &journal,
        );
        let cluster = Cluster::new(ClusterView::new(runner.clone(), "10.0.0.11"));
        let node = crate::joining::fixtures::node("m1", "10.0.0.11");
        let etcd = Etcd::find(cluster.view(), &node, "/var/run/dockershim.sock").unwrap();
        let taken = take(&host, &cluster, &etcd).map_err(|cause| format!("{cause:#}"));
        Outcome {
            taken,
            asked: runner.asked(),
            state,
        }
    }
}

#[test]
fn a_snapshot_comes_here_and_is_removed_there() {
    let outcome = Master::default().take();
    let snapshot = outcome.taken.as_ref().unwrap();
    assert_eq!(fs::read(&snapshot.path).unwrap(), whole());
    let mode = fs::metadata(&snapshot.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let run = snapshot.path.strip_prefix(outcome.state.path()).unwrap();
    assert!(run.starts_with("backup") && run.ends_with(NAME), "{run:?}");
    let expected = Snapshot {
        path: snapshot.path.clone(),
        revision: 4711,
        hash: 1_542_059_939,
        size: 8224,
        total_keys: 9,
    };
    assert_eq!(*snapshot, expected);
    assert_eq!(outcome.count("-delete"), 2, "before and after");
    assert!(outcome.asked.last().unwrap().contains("-delete"));
    let journal =
        fs::read_to_string(Path::new(outcome.state.path()).join("journal.jsonl")).unwrap();
    assert!(journal.contains("take an etcd snapshot on 10.0.0.11"));
}

#[test]
fn the_status_is_asked_of_the_program_that_has_it_and_after_the_copy() {
    for (version, tool) in [("3.5.15", "etcdctl"), ("3.6.4", "etcdutl")] {
        let outcome = Master {
            version,
            ..Master::default()
        }
        .take();
        assert!(outcome.taken.is_ok());
        let at = |part: &str| outcome.asked.iter().position(|cmd| cmd.contains(part));
        let looked = at(&format!("{tool} --write-out=json snapshot status")).unwrap();
        assert!(at("cat -- ").unwrap() < looked, "an old etcdctl changes it");
    }
}

#[test]
fn what_is_not_whole_is_not_kept_and_is_removed_there_all_the_same() {
    let mut flipped = whole();
    flipped[100] ^= 1;
    let good = Master::default;
    let cases = [
        (
            Master {
                bytes: flipped,
                ..good()
            },
            "damaged",
        ),
        (
            Master {
                bytes: whole()[..4096].to_vec(),
                ..good()
            },
            "cut off",
        ),
        (
            Master {
                bytes: Vec::new(),
                ..good()
            },
            "empty",
        ),
        (
            Master {
                size: 8256,
                ..good()
            },
            "8224 bytes here and 8256",
        ),
        (
            Master {
                saving: 1,
                ..good()
            },
            "etcd says no",
        ),
        (
            Master {
                revision: None,
                ..good()
            },
            "integrity check failed",
        ),
        (
            Master {
                revision: Some(4699),
                ..good()
            },
            "4700 before",
        ),
    ];
    for (master, message) in cases {
        let outcome = master.take();
        let error = outcome.taken.as_ref().unwrap_err();
        assert!(error.contains(message), "{error}");
        assert_eq!(outcome.backups(), [""; 0], "{message}");
        assert!(outcome.asked.last().unwrap().contains("-delete"));
    }
    let equal = Master {
        revision: Some(4700),
        ..good()
    };
    assert!(equal.take().taken.is_ok(), "nothing was written meanwhile");
}

#[test]
fn a_snapshot_that_would_fill_etcds_disk_is_not_begun() {
    let outcome = Master {
        free: 65539,
        ..Master::default()
    }
    .take();
    let error = outcome.taken.as_ref().unwrap_err();
    assert!(error.contains("256 MiB free, and 257 MiB"), "{error}");
    assert_eq!(outcome.count("snapshot save") + outcome.count("-delete"), 0);
    let enough = Master {
        free: 65540,
        ..Master::default()
    };
    assert!(enough.take().taken.is_ok());
}

#[test]
fn a_copy_that_stays_behind_is_an_error_that_says_where() {
    let good = Master {
        sweeping: 1,
        ..Master::default()
    }
    .take();
    let error = good.taken.as_ref().unwrap_err();
    assert!(
        error.contains("cannot remove") && error.contains("/var/lib/etcd"),
        "{error}"
    );
    assert_eq!(good.backups(), [NAME], "it is good, and stays");
    let bad = Master {
        sweeping: 1,
        saving: 1,
        ..Master::default()
    };
    let error = bad.take().taken.unwrap_err();
    assert!(
        error.contains("etcd says no") && error.contains("rm /var/lib/etcd/kpot-*.db*"),
        "{error}"
    );
}
