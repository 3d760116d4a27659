//! Brings the files that the cluster's control-plane pods need besides kubeadm's own, before the join: without them the new apiserver cannot start.
//!
//! What is brought is what the healthy master's own pods name, files below /etc and files that a pod names one by one, and what TKE puts on its masters; up to 1 MiB each. What is each
//! master's own is never brought along with a folder around it: TKE's pods mount the whole of /etc/kubernetes, credentials, certificates and manifests included. In a change they
//! come from the master whose place is taken where its machine has them: what differs from the healthy master's is told in the plan. A file that is here already and is neither's is
//! a conflict, not something to overwrite. Other folders that pods mount (for logs, say) are made, empty.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bundle_spec::Sha256;

use crate::control_plane::ClusterView;
use crate::control_plane::facts::ExtraPath;
use crate::host::HostView;
use crate::host::remote::RemoteView;
use crate::replacing::clear::LEFT;
use crate::step::{State, Step, View, World};

/// The most files that are brought; a control plane names a handful.
const FILES: usize = 200;

/// The largest file that is brought, in bytes.
const FILE: u64 = 1 << 20;

/// Where TKE puts what its control planes are given; brought where a master has it, whether or not a pod names it.
const TKE: [&str; 6] = [
    "/etc/kubernetes/known_tokens.csv",
    "/etc/kubernetes/scheduler-policy-config.json",
    "/etc/kubernetes/audit-policy.yaml",
    "/etc/kubernetes/audit-api-client-config.yaml",
    "/etc/kubernetes/tke-authz-webhook.yaml",
    "/etc/kubernetes/pki/oidc-ca.crt",
];

/// What else in /etc/kubernetes is one machine's: what kubeadm puts aside before an upgrade, a backup of etcd included; what the runbook for a lost quorum moves away; and what TKE gave
/// kubeadm there, with a token and a certificate key.
const PUT_ASIDE: [&str; 3] = [
    "/etc/kubernetes/tmp",
    "/etc/kubernetes/stopped",
    "/etc/kubernetes/kubeadm-config.yaml",
];

/// See the module.
pub struct ExtraFiles {
    paths: Vec<ExtraPath>,
    certificates: String,
    down: Option<RemoteView>,
    own_stay: bool,
}

/// What a path is on a master.
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

impl Wanted {
    fn path(&self) -> &str {
        match self {
            Self::File { path, .. } | Self::Folder { path, .. } => path,
        }
    }
}

/// What is brought, and from which machine.
struct Choice<'m> {
    wanted: Wanted,
    from: &'m RemoteView,
    /// What the healthy master has at the same path, where that is another content.
    other: Option<Sha256>,
}

enum Difference {
    Missing(String),
    Differs(String),
}

impl ExtraFiles {
    /// Brings what stands at these paths of the healthy master, and what TKE puts there. The cluster's certificates lie in the folder `certificates`; of what is below it only
    /// files that are named one by one are brought.
    pub fn new(mut paths: Vec<ExtraPath>, certificates: &str) -> Self {
        for path in TKE {
            if !paths.iter().any(|known| known.path == path) {
                paths.push(ExtraPath {
                    path: path.to_owned(),
                    named_by: "TKE's".to_owned(),
                });
            }
        }
        Self {
            paths,
            certificates: certificates.to_owned(),
            down: None,
            own_stay: false,
        }
    }

    /// The same, from another machine where it has them.
    #[must_use]
    pub fn preferring(self, down: Option<RemoteView>) -> Self {
        Self { down, ..self }
    }

    /// The same on a machine that was a master: where its own files differ, they stay.
    #[must_use]
    pub fn keeping_own(self) -> Self {
        Self {
            own_stay: true,
            ..self
        }
    }

    fn choices<'m>(&'m self, cluster: &'m ClusterView) -> Result<Vec<Choice<'m>>> {
        let mut choices: BTreeMap<String, Choice<'m>> = BTreeMap::new();
        for from in self.down.iter().chain([cluster.machine()]) {
            for wanted in self.wanted(from)? {
                let digest = match &wanted {
                    Wanted::File { digest, .. } => Some(*digest),
                    Wanted::Folder { .. } => None,
                };
                match choices.get_mut(wanted.path()) {
                    None => {
                        let choice = Choice {
                            wanted,
                            from,
                            other: None,
                        };
                        choices.insert(choice.wanted.path().to_owned(), choice);
                    }
                    Some(first) => match &first.wanted {
                        Wanted::File { digest: taken, .. } if digest != Some(*taken) => {
                            first.other = digest;
                        }
                        _ => {}
                    },
                }
            }
        }
        Ok(choices.into_values().collect())
    }

    /// Whether `path`, found below the folder `named`, is something that each master has for itself.
    fn is_masters_own(&self, named: &str, path: &str) -> bool {
        let mut own = LEFT
            .into_iter()
            .chain(PUT_ASIDE)
            .chain([self.certificates.as_str()]);
        own.any(|own| is_below(own, named) && (path == own || is_below(path, own)))
    }

    fn wanted(&self, machine: &RemoteView) -> Result<Vec<Wanted>> {
        let mut wanted = BTreeMap::new();
        let question = |extra: &ExtraPath| RemoteView::tree_question(&extra.path);
        let questions: Vec<_> = self.paths.iter().map(question).collect();
        let machine = &machine.ahead(&questions);
        for extra in &self.paths {
            for entry in machine.tree(&extra.path)? {
                let named_by = extra.named_by.clone();
                if wanted.contains_key(&entry.path) || self.is_masters_own(&extra.path, &entry.path)
                {
                    continue;
                }
                if entry.is_folder {
                    let folder = Wanted::Folder {
                        path: entry.path.clone(),
                        mode: entry.mode,
                        named_by,
                    };
                    wanted.insert(entry.path, folder);
                } else if extra.path.starts_with("/etc/") || entry.path == extra.path {
                    ensure!(
                        entry.size <= FILE,
                        "{} on {} ({}) has {} bytes, more than {FILE}: copy it here by hand, then run this again",
                        entry.path,
                        machine.address(),
                        extra.named_by,
                        entry.size
                    );
                    let file = Wanted::File {
                        digest: machine.digest(&entry.path)?,
                        path: entry.path.clone(),
                        mode: entry.mode,
                        named_by,
                    };
                    wanted.insert(entry.path, file);
                }
            }
        }
        let files = wanted
            .values()
            .filter(|item| matches!(item, Wanted::File { .. }))
            .count();
        ensure!(
            files <= FILES,
            "the control plane's pods name {files} files below /etc of {}, more than {FILES}: copy them by hand, then run this again",
            machine.address()
        );
        Ok(wanted.into_values().collect())
    }
}

/// Whether a path lies in a folder, at any depth.
fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn differences(choices: &[Choice<'_>], host: &HostView) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    for choice in choices {
        match &choice.wanted {
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
                None => found.push(Difference::Missing(format!(
                    "{path} ({named_by}){}",
                    choice.told()
                ))),
                Some(own) if own != *digest && Some(own) != choice.other => {
                    found.push(Difference::Differs(path.clone()));
                }
                Some(_) => {}
            },
        }
    }
    Ok(found)
}

impl Choice<'_> {
    /// Whose file it is, where the two masters' differ.
    fn told(&self) -> String {
        match self.other {
            Some(_) => format!(
                ", which differs from the healthy master's: that of {} is taken",
                self.from.address()
            ),
            None => String::new(),
        }
    }
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
        for difference in differences(&self.choices(cluster)?, view.host)? {
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
        let machines: Vec<&str> = self
            .down
            .iter()
            .chain([cluster.machine()])
            .map(RemoteView::address)
            .collect();
        Ok(if missing.is_empty() {
            State::Satisfied
        } else {
            State::Pending(format!(
                "to bring from {}: {}",
                machines.join(", or else from "),
                missing.join(", ")
            ))
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world
            .cluster
            .context("this workflow has no cluster")?
            .view();
        for choice in self.choices(cluster)? {
            let from = choice.from;
            match choice.wanted {
                Wanted::Folder { path, mode, .. } => world.host.make_dir(&path, mode)?,
                // What is here stays: check has judged it.
                Wanted::File { path, .. } if world.host.view().exists(&path)? => {}
                Wanted::File {
                    path, mode, digest, ..
                } => {
                    let content = from
                        .file(&path)?
                        .with_context(|| format!("{path} is gone from {}", from.address()))?;
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
                .on("cat", 0, "token,user,1\n")
                .on("find -H", 1, "find: x: No such file or directory"),
        )
    }

    /// A machine that has a token file of its own and a policy that the healthy master lacks.
    fn down() -> RemoteView {
        let digest = |text: &str| Sha256::of(text.as_bytes()).hex();
        let script = Scripted::new()
            .on(
                "find -H /etc/kubernetes/known_tokens.csv",
                0,
                "f 600 4 /etc/kubernetes/known_tokens.csv\n",
            )
            .on(
                "find -H /etc/kubernetes/audit-policy.yaml",
                0,
                "f 644 6 /etc/kubernetes/audit-policy.yaml\n",
            )
            .on("find -H", 1, "find: x: No such file or directory")
            .on(
                "sha256sum -- /etc/kubernetes/known_tokens.csv",
                0,
                &digest("down"),
            )
            .on("sha256sum", 0, &digest("policy"))
            .on("test -f", 0, "")
            .on("cat -- /etc/kubernetes/known_tokens.csv", 0, "down")
            .on("cat", 0, "policy");
        RemoteView::new(Arc::new(script), "10.0.0.13")
    }

    #[test]
    fn the_master_that_is_down_is_asked_first_and_what_differs_is_told() {
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
        let step = ExtraFiles::new(vec![], "/etc/kubernetes/pki").preferring(Some(down()));
        let told = step.check(world.view()).unwrap();
        assert!(
            matches!(&told, State::Pending(why) if why.contains("known_tokens.csv (TKE's), which differs from the healthy master's: that of 10.0.0.13 is taken") && why.contains("audit-policy.yaml (TKE's)")),
            "{told:?}"
        );
        step.apply(world).unwrap();
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
        let text = |path: &str| host.view().text(path).unwrap().unwrap();
        assert_eq!(text("/etc/kubernetes/known_tokens.csv"), "down");
        assert_eq!(text("/etc/kubernetes/audit-policy.yaml"), "policy");
        host.write_file("/etc/kubernetes/known_tokens.csv", b"token,user,1\n", 0o600)
            .unwrap();
        assert_eq!(
            step.check(world.view()).unwrap(),
            State::Satisfied,
            "the healthy master's is as good"
        );
        host.write_file("/etc/kubernetes/known_tokens.csv", b"ours", 0o600)
            .unwrap();
        assert!(matches!(
            step.check(world.view()).unwrap(),
            State::Conflict { .. }
        ));
        let kept = step.keeping_own();
        assert_eq!(kept.check(world.view()).unwrap(), State::Satisfied);
        kept.apply(world).unwrap();
        assert_eq!(text("/etc/kubernetes/known_tokens.csv"), "ours");
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
        let paths = vec![
            path("/etc/kubernetes/known_tokens.csv"),
            path("/var/log/audit"),
        ];
        let step = ExtraFiles::new(paths, "/etc/kubernetes/pki");
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

    #[test]
    fn of_the_whole_folder_what_is_each_masters_own_stays_there() {
        let tree = "d 755 4096 /etc/kubernetes\n\
                    f 600 9 /etc/kubernetes/admin.conf\n\
                    f 600 9 /etc/kubernetes/kubelet.conf\n\
                    f 600 9 /etc/kubernetes/kubeadm-config.yaml\n\
                    f 600 9 /etc/kubernetes/known_tokens.csv\n\
                    f 644 9 /etc/kubernetes/admission/quota.yaml\n\
                    d 755 4096 /etc/kubernetes/manifests\n\
                    f 600 9 /etc/kubernetes/manifests/kube-apiserver.yaml\n\
                    d 755 4096 /etc/kubernetes/pki\n\
                    f 600 9 /etc/kubernetes/pki/apiserver.key\n\
                    f 600 9 /etc/kubernetes/pki/webhook.crt\n\
                    f 600 99999999 /etc/kubernetes/tmp/kubeadm-backup-etcd/member/snap/db\n";
        let digest = Sha256::of(b"x").hex();
        let healthy = Scripted::new()
            .on(
                "find -H /etc/kubernetes/pki/webhook.crt",
                0,
                "f 600 9 /etc/kubernetes/pki/webhook.crt\n",
            )
            .on("find -H /etc/kubernetes '('", 0, tree)
            .on("find -H", 1, "find: x: No such file or directory")
            .on("sha256sum", 0, &digest);
        let machine = RemoteView::new(Arc::new(healthy), "10.0.0.11");
        let path = |path: &str| ExtraPath {
            path: path.to_owned(),
            named_by: "a volume of kube-apiserver".to_owned(),
        };
        let paths = vec![
            path("/etc/kubernetes"),
            path("/etc/kubernetes/pki/webhook.crt"),
        ];
        let wanted = ExtraFiles::new(paths, "/etc/kubernetes/pki")
            .wanted(&machine)
            .unwrap();
        let paths: Vec<&str> = wanted.iter().map(Wanted::path).collect();
        assert_eq!(
            paths,
            [
                "/etc/kubernetes",
                "/etc/kubernetes/admission/quota.yaml",
                "/etc/kubernetes/known_tokens.csv",
                "/etc/kubernetes/pki/webhook.crt",
            ]
        );
    }
}
