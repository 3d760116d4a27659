//! Brings the files that the cluster's control-plane pods need besides kubeadm's own, before the join: without them the new apiserver cannot start.
//!
//! What is brought is what the healthy master's own pods name: files below /etc, and files that a pod names one by one, up to 1 MiB each. A file that is here already and differs is a conflict, not something to
//! overwrite. Other folders that pods mount (for logs, say) are made, empty.

use anyhow::{Context, Result, ensure};
use bundle_spec::Sha256;

use crate::control_plane::ClusterView;
use crate::control_plane::facts::ExtraPath;
use crate::host::HostView;
use crate::step::{State, Step, View, World};

/// The most files that are brought; a control plane names a handful.
const FILES: usize = 200;

/// The largest file that is brought, in bytes.
const FILE: u64 = 1 << 20;

/// See the module.
pub struct ExtraFiles {
    paths: Vec<ExtraPath>,
    own_stay: bool,
}

/// What a path is on the healthy master.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    File {
        path: String,
        mode: u32,
        digest: Sha256,
        named_by: String,
    },
    Folder {
        path: String,
        mode: u32,
        named_by: String,
    },
}

enum Difference {
    Missing(String),
    Differs(String),
}

impl ExtraFiles {
    /// Brings what stands at these paths of the healthy master.
    pub fn new(paths: Vec<ExtraPath>) -> Self {
        Self {
            paths,
            own_stay: false,
        }
    }

    /// The same on a machine that was a master: where its own files differ, they stay.
    #[must_use]
    pub fn keeping_own(self) -> Self {
        Self {
            own_stay: true,
            ..self
        }
    }

    fn wanted(&self, cluster: &ClusterView) -> Result<Vec<Wanted>> {
        let mut wanted = Vec::new();
        for extra in &self.paths {
            for entry in cluster.tree(&extra.path)? {
                let named_by = extra.named_by.clone();
                if entry.is_folder {
                    wanted.push(Wanted::Folder {
                        path: entry.path,
                        mode: entry.mode,
                        named_by,
                    });
                } else if extra.path.starts_with("/etc/") || entry.path == extra.path {
                    ensure!(
                        entry.size <= FILE,
                        "{} on {} ({}) has {} bytes, more than {FILE}: copy it here by hand, then run this again",
                        entry.path,
                        cluster.address(),
                        extra.named_by,
                        entry.size
                    );
                    let digest = cluster.machine().digest(&entry.path)?;
                    wanted.push(Wanted::File {
                        path: entry.path,
                        mode: entry.mode,
                        digest,
                        named_by,
                    });
                }
            }
        }
        let files = wanted
            .iter()
            .filter(|item| matches!(item, Wanted::File { .. }))
            .count();
        ensure!(
            files <= FILES,
            "the control plane's pods on {} name {files} files below /etc, more than {FILES}: copy them by hand, then run this again",
            cluster.address()
        );
        Ok(wanted)
    }
}

fn differences(wanted: &[Wanted], host: &HostView) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    for item in wanted {
        match item {
            Wanted::Folder { path, named_by, .. } if !host.exists(path)? => {
                found.push(Difference::Missing(format!("{path}/ ({named_by})")));
            }
            Wanted::Folder { .. } => {}
            Wanted::File {
                path,
                digest,
                named_by,
                ..
            } => match host.digest(path)? {
                None => found.push(Difference::Missing(format!("{path} ({named_by})"))),
                Some(own) if own != *digest => found.push(Difference::Differs(path.clone())),
                Some(_) => {}
            },
        }
    }
    Ok(found)
}

impl Step for ExtraFiles {
    fn id(&self) -> &'static str {
        "control-plane-files"
    }

    fn summary(&self) -> String {
        "files that the control plane's pods need besides kubeadm's own are here".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let (mut missing, mut different) = (Vec::new(), Vec::new());
        for difference in differences(&self.wanted(cluster)?, view.host)? {
            match difference {
                Difference::Missing(what) => missing.push(what),
                Difference::Differs(path) => different.push(path),
            }
        }
        if !different.is_empty() && !self.own_stay {
            let first = &different[0];
            return Ok(State::Conflict {
                reason: format!(
                    "files here differ from the healthy master's: {}",
                    different.join(", ")
                ),
                remedy: format!(
                    "Compare: ssh {} cat {first} | diff - {first}; then move ours away, or make both the same",
                    cluster.address()
                ),
            });
        }
        Ok(if missing.is_empty() {
            State::Satisfied
        } else {
            State::Pending(format!(
                "to bring from {}: {}",
                cluster.address(),
                missing.join(", ")
            ))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world
            .cluster
            .context("this workflow has no cluster")?
            .view();
        for item in self.wanted(cluster)? {
            match item {
                Wanted::Folder { path, mode, .. } => world.host.make_dir(&path, mode)?,
                Wanted::File {
                    path, mode, digest, ..
                } => {
                    let content = cluster
                        .file(&path)?
                        .with_context(|| format!("{path} is gone from {}", cluster.address()))?;
                    world
                        .host
                        .install_file(&path, &mut content.as_slice(), &digest, mode)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control_plane::Cluster;
    use crate::host::scripted::Scripted;
    use crate::host::{Host, command::Runner};
    use crate::journal::Journal;

    fn healthy() -> Arc<dyn Runner> {
        let digest = Sha256::of(b"token,user,1\n").hex();
        Arc::new(
            Scripted::new()
                .on(
                    "find -H /etc/kubernetes/known_tokens.csv",
                    0,
                    "f 600 13 /etc/kubernetes/known_tokens.csv\n",
                )
                .on("find -H /var/log/audit", 0, "d 700 4096 /var/log/audit\n")
                .on(
                    "sha256sum",
                    0,
                    &format!("{digest}  /etc/kubernetes/known_tokens.csv\n"),
                )
                .on("test -f", 0, "")
                .on("cat", 0, "token,user,1\n"),
        )
    }

    #[test]
    fn missing_files_are_brought_and_different_ones_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path().join("state"));
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        let cluster = Cluster::new(ClusterView::new(healthy(), "10.0.0.11"));
        let world = World {
            host: &host,
            cluster: Some(&cluster),
        };
        let path = |path: &str| ExtraPath {
            path: path.to_owned(),
            named_by: "a volume of kube-apiserver".to_owned(),
        };
        let step = ExtraFiles::new(vec![
            path("/etc/kubernetes/known_tokens.csv"),
            path("/var/log/audit"),
        ]);
        assert!(
            matches!(step.check(world.view()).unwrap(), State::Pending(why) if why.contains("known_tokens.csv (a volume of kube-apiserver)") && why.contains("/var/log/audit/"))
        );
        step.apply(world).unwrap();
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
        let facts = host
            .view()
            .facts("/etc/kubernetes/known_tokens.csv")
            .unwrap()
            .unwrap();
        assert_eq!(facts.mode, 0o600);
        host.write_file("/etc/kubernetes/known_tokens.csv", b"ours", 0o600)
            .unwrap();
        assert!(matches!(
            step.check(world.view()).unwrap(),
            State::Conflict { .. }
        ));
    }
}
