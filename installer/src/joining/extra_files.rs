//! Brings the files that the cluster's control-plane pods need besides kubeadm's own, before the join: without them the new apiserver cannot start.
//!
//! What is brought is what the healthy master's own pods name, files below /etc and files that a pod or a flag names one by one, and what TKE puts on its masters; up to 1 MiB each. What
//! is each master's own is never brought along with a folder around it: TKE's pods mount the whole of /etc/kubernetes, credentials, certificates and manifests included. In a change they
//! come from the master whose place is taken where its machine has them: what differs from the healthy master's is told in the plan. A file that is here already and is neither's is
//! a conflict, not something to overwrite, unless it is the distribution's. Other folders that pods mount (for logs, say) are made, without the files that no flag names; the plan counts them.
//! A link is brought as the file that it leads to; one that leads to no file, or to a master's own, is told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bundle_spec::Sha256;

use crate::control_plane::ClusterView;
use crate::control_plane::facts::{DISTRIBUTION, ExtraPath};
use crate::host::remote::{RemoteView, TreeEntry};
use crate::host::{HostView, Kind};
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
        /// How many files in it are not brought.
        without: usize,
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
    /// It is a file here, with nothing in it.
    Hollow(String),
}

/// What a machine has of what is wanted.
#[derive(Default)]
struct Found {
    wanted: Vec<Wanted>,
    /// Links that are not brought, with what they lead to.
    links: Vec<String>,
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
                    is_volume: false,
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

    /// The same on a machine that was a master: where its own files differ, they stay, unless nothing is in them.
    #[must_use]
    pub fn keeping_own(self) -> Self {
        Self {
            own_stay: true,
            ..self
        }
    }

    /// What is brought, and the links that are not.
    fn choices<'m>(&'m self, cluster: &'m ClusterView) -> Result<(Vec<Choice<'m>>, Vec<String>)> {
        let mut choices: BTreeMap<String, Choice<'m>> = BTreeMap::new();
        let mut links = Vec::new();
        for from in self.down.iter().chain([cluster.machine()]) {
            let found = self.wanted(from)?;
            links.extend(
                found
                    .links
                    .into_iter()
                    .map(|link| format!("{link} of {}", from.address())),
            );
            for wanted in found.wanted {
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
                        // A power loss may be what brought the other machine down.
                        Wanted::File { digest: taken, .. }
                            if *taken == Sha256::of(b"") && digest.is_some() =>
                        {
                            *first = Choice {
                                wanted,
                                from,
                                other: None,
                            };
                        }
                        Wanted::File { digest: taken, .. } if digest != Some(*taken) => {
                            first.other = digest;
                        }
                        _ => {}
                    },
                }
            }
        }
        Ok((choices.into_values().collect(), links))
    }

    /// Whether `path`, found below the folder `named`, is something that each master has for itself.
    fn is_masters_own(&self, named: &str, path: &str) -> bool {
        let mut own = LEFT
            .into_iter()
            .chain(PUT_ASIDE)
            .chain([self.certificates.as_str()]);
        own.any(|own| is_below(own, named) && (path == own || is_below(path, own)))
    }

    fn wanted(&self, machine: &RemoteView) -> Result<Found> {
        let mut wanted = BTreeMap::new();
        let mut without = BTreeSet::new();
        let copied: Vec<&str> = self
            .paths
            .iter()
            .filter(|extra| is_copied(extra))
            .map(|extra| extra.path.as_str())
            .collect();
        let question = |extra: &ExtraPath| RemoteView::tree_question(&extra.path);
        let mut questions: Vec<_> = self.paths.iter().map(question).collect();
        if !copied.is_empty() {
            questions.push(RemoteView::links_question(&copied));
        }
        let machine = &machine.ahead(&questions);
        let (behind, links) = self.links(machine, &copied)?;
        for extra in &self.paths {
            let linked = behind
                .iter()
                .filter(|entry| is_copied(extra) && is_below(&entry.path, &extra.path));
            for entry in machine
                .tree(&extra.path)?
                .into_iter()
                .chain(linked.cloned())
            {
                let named_by = extra.named_by.clone();
                if wanted.contains_key(&entry.path) || self.is_masters_own(&extra.path, &entry.path)
                {
                    continue;
                }
                if entry.is_folder {
                    if !extra.is_volume {
                        continue;
                    }
                    let folder = Wanted::Folder {
                        path: entry.path.clone(),
                        mode: entry.mode,
                        named_by,
                        without: 0,
                    };
                    wanted.insert(entry.path, folder);
                } else if is_copied(extra) || entry.path == extra.path {
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
                } else if extra.is_volume {
                    without.insert(entry.path);
                }
            }
        }
        // What a flag names as well is brought.
        without.retain(|path| !wanted.contains_key(path));
        for path in without {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            if let Some(Wanted::Folder { without, .. }) = wanted.get_mut(folder) {
                *without += 1;
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
        Ok(Found {
            wanted: wanted.into_values().collect(),
            links,
        })
    }

    /// Below these folders: the files that links lead to, each at the link's path; and the links that are not brought, with why.
    fn links(
        &self,
        machine: &RemoteView,
        folders: &[&str],
    ) -> Result<(Vec<TreeEntry>, Vec<String>)> {
        let (mut files, mut left) = (Vec::new(), Vec::new());
        if folders.is_empty() {
            return Ok((files, left));
        }
        let is_own = |path: &str| folders.iter().any(|named| self.is_masters_own(named, path));
        let mut links = machine.links(folders)?;
        links.retain(|link| !is_own(link));
        ensure!(
            links.len() <= FILES,
            "the control plane's pods name {} links below /etc of {}, more than {FILES}: copy them by hand, then run this again",
            links.len(),
            machine.address()
        );
        for path in links {
            match machine.behind(&path)? {
                None => left.push(format!("{path} (a link to nothing)")),
                Some(end) if end.is_folder => {
                    left.push(format!("{path} (a link to the folder {})", end.path));
                }
                // Another master's certificate under another name would be as wrong.
                Some(end) if self.is_masters_own("", &end.path) => {
                    left.push(format!("{path} (a link to each master's own {})", end.path));
                }
                Some(end) => files.push(TreeEntry { path, ..end }),
            }
        }
        Ok((files, left))
    }
}

/// Whether the files in a folder are brought with it.
fn is_copied(extra: &ExtraPath) -> bool {
    extra.is_volume && extra.path.starts_with("/etc/")
}

/// Whether a file is the distribution's by its place: where it is here, nobody needs the healthy master's.
fn is_distributions(path: &str) -> bool {
    DISTRIBUTION.iter().any(|folder| is_below(path, folder))
}

/// Whether a path lies in a folder, at any depth.
fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a file here is empty, or zeros only: what a power loss leaves of one that was just written. No API server starts with it.
fn is_hollow(host: &HostView, path: &str) -> Result<bool> {
    let Some(facts) = host.facts(path)? else {
        return Ok(false);
    };
    if facts.kind != Kind::File || facts.size > FILE {
        return Ok(false);
    }
    let content = host.read(path)?.unwrap_or_default();
    Ok(content.iter().all(|byte| *byte == 0))
}

fn differences(choices: &[Choice<'_>], host: &HostView) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    for choice in choices {
        match &choice.wanted {
            Wanted::Folder {
                path,
                named_by,
                without,
                ..
            } if !host.exists(path)? => {
                let told = match without {
                    0 => String::new(),
                    1 => ", without the file that is in it there".to_owned(),
                    count => format!(", without the {count} files that are in it there"),
                };
                found.push(Difference::Missing(format!("{path}/ ({named_by}){told}")));
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
                Some(own) if own != *digest && is_hollow(host, path)? => {
                    found.push(Difference::Hollow(path.clone()));
                }
                Some(own)
                    if own != *digest && Some(own) != choice.other && !is_distributions(path) =>
                {
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
        let (choices, links) = self.choices(cluster)?;
        for difference in differences(&choices, view.host)? {
            match difference {
                Difference::Missing(what) => missing.push(what),
                Difference::Hollow(path) if self.own_stay => missing.push(format!(
                    "{path}, of which nothing is left in the one that is here"
                )),
                Difference::Differs(path) | Difference::Hollow(path) => different.push(path),
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
        let mut notes: Vec<String> = different
            .iter()
            .map(|path| format!("{path} differs from the healthy master's; ours stays"))
            .collect();
        if !links.is_empty() {
            notes.push(format!("not brought: {}", links.join(", ")));
        }
        if missing.is_empty() {
            return Ok(if notes.is_empty() {
                State::Satisfied
            } else {
                State::Unsettable(notes.join("; "))
            });
        }
        let missing = missing.join(", ");
        let machines = machines.join(", or else from ");
        notes.insert(0, format!("to bring from {machines}: {missing}"));
        Ok(State::Pending(notes.join("; ")))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world
            .cluster
            .context("this workflow has no cluster")?
            .view();
        for choice in self.choices(cluster)?.0 {
            let from = choice.from;
            match choice.wanted {
                Wanted::Folder { path, mode, .. } => world.host.make_dir(&path, mode)?,
                // What is here stays: check has judged it.
                Wanted::File { path, .. }
                    if world.host.view().exists(&path)?
                        && !(self.own_stay && is_hollow(world.host.view(), &path)?) => {}
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
    use crate::journal::{Before, Change, Event, Journal};

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
        assert_eq!(
            kept.check(world.view()).unwrap(),
            State::Unsettable(
                "/etc/kubernetes/known_tokens.csv differs from the healthy master's; ours stays"
                    .to_owned()
            )
        );
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
            is_volume: true,
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
            is_volume: true,
        };
        let paths = vec![
            path("/etc/kubernetes"),
            path("/etc/kubernetes/pki/webhook.crt"),
        ];
        let wanted = ExtraFiles::new(paths, "/etc/kubernetes/pki")
            .wanted(&machine)
            .unwrap()
            .wanted;
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
    fn named(path: &str, is_volume: bool) -> ExtraPath {
        ExtraPath {
            path: path.to_owned(),
            named_by: if is_volume { "a volume" } else { "a flag" }.to_owned(),
            is_volume,
        }
    }

    #[test]
    fn of_a_folder_outside_etc_the_file_that_a_flag_names_is_brought() {
        let digest = Sha256::of(b"policy").hex();
        let healthy = Scripted::new()
            .on(
                "find -H /opt/k8s/audit '('",
                0,
                "d 755 4096 /opt/k8s/audit\n\
                 f 644 6 /opt/k8s/audit/policy.yaml\n\
                 f 644 99999999 /opt/k8s/audit/audit.log\n",
            )
            .on(
                "find -H /opt/k8s/audit/policy.yaml",
                0,
                "f 644 6 /opt/k8s/audit/policy.yaml\n",
            )
            .on("find -H /opt/k8s/certs", 0, "d 755 4096 /opt/k8s/certs\n")
            .on("find -H", 1, "find: x: No such file or directory")
            .on("sha256sum", 0, &digest)
            .on("test -f", 0, "")
            .on("cat -- /opt/k8s/audit/policy.yaml", 0, "policy");
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path().join("state"));
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        let cluster = Cluster::new(ClusterView::new(Arc::new(healthy), "10.0.0.11"));
        let world = World {
            host: &host,
            cluster: Some(&cluster),
        };
        let paths = vec![
            named("/opt/k8s/audit", true),
            named("/opt/k8s/audit/policy.yaml", false),
            named("/opt/k8s/certs", false),
        ];
        let step = ExtraFiles::new(paths, "/etc/kubernetes/pki");
        assert_eq!(
            step.check(world.view()).unwrap(),
            State::Pending("to bring from 10.0.0.11: /opt/k8s/audit/ (a volume), without the file that is in it there, /opt/k8s/audit/policy.yaml (a flag)".to_owned())
        );
        step.apply(world).unwrap();
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
        let text = |path: &str| host.view().text(path).unwrap();
        assert_eq!(
            text("/opt/k8s/audit/policy.yaml").as_deref(),
            Some("policy")
        );
        assert_eq!(text("/opt/k8s/audit/audit.log"), None);
        assert!(!host.view().exists("/opt/k8s/certs").unwrap());
    }

    #[test]
    fn a_link_is_brought_as_its_file_or_told() {
        let digest = Sha256::of(b"policy").hex();
        let folder = "/etc/kubernetes/audit";
        let healthy = Scripted::new()
            .on(
                &format!("find -H {folder} '('"),
                0,
                &format!("d 755 4096 {folder}\n"),
            )
            .on(
                &format!("find -H {folder} -type l"),
                0,
                &format!(
                    "l {folder}/policy.yaml\nl {folder}/now\nl {folder}/key\nl {folder}/gone\n"
                ),
            )
            .on(
                &format!("readlink --canonicalize-existing -- {folder}/policy.yaml"),
                0,
                "/srv/7.yaml\n",
            )
            .on(
                &format!("readlink --canonicalize-existing -- {folder}/now"),
                0,
                "/srv\n",
            )
            .on(
                &format!("readlink --canonicalize-existing -- {folder}/key"),
                0,
                "/etc/kubernetes/pki/apiserver.key\n",
            )
            .on("readlink", 1, "")
            .on("find -H /srv/7.yaml", 0, "f 644 6 /srv/7.yaml\n")
            .on("find -H /srv", 0, "d 755 4096 /srv\n")
            .on(
                "find -H /etc/kubernetes/pki/apiserver.key",
                0,
                "f 600 9 /etc/kubernetes/pki/apiserver.key\n",
            )
            .on("find -H", 1, "find: x: No such file or directory")
            .on(&format!("sha256sum -- {folder}/policy.yaml"), 0, &digest);
        let machine = RemoteView::new(Arc::new(healthy), "10.0.0.11");
        let found = ExtraFiles::new(vec![named(folder, true)], "/etc/kubernetes/pki")
            .wanted(&machine)
            .unwrap();
        let paths: Vec<&str> = found.wanted.iter().map(Wanted::path).collect();
        assert_eq!(paths, [folder, &format!("{folder}/policy.yaml")]);
        assert_eq!(
            found.links,
            [
                format!("{folder}/now (a link to the folder /srv)"),
                format!(
                    "{folder}/key (a link to each master's own /etc/kubernetes/pki/apiserver.key)"
                ),
                format!("{folder}/gone (a link to nothing)"),
            ]
        );
    }

    #[test]
    fn the_distributions_own_file_is_no_conflict() {
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        let healthy = Scripted::new()
            .on(
                &format!("find -H {bundle}"),
                0,
                &format!("f 644 6 {bundle}\n"),
            )
            .on("find -H", 1, "find: x: No such file or directory")
            .on("sha256sum", 0, &Sha256::of(b"theirs").hex());
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path().join("state"));
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        let view = ClusterView::new(Arc::new(healthy), "10.0.0.11");
        let look = View {
            host: host.view(),
            cluster: Some(&view),
        };
        let step = ExtraFiles::new(vec![named(bundle, false)], "/etc/kubernetes/pki");
        assert!(matches!(step.check(look).unwrap(), State::Pending(_)));
        host.write_file(bundle, b"ours", 0o644).unwrap();
        assert_eq!(step.check(look).unwrap(), State::Satisfied);
    }
    #[test]
    fn a_file_that_a_power_loss_emptied_there_is_not_taken() {
        let tokens = "/etc/kubernetes/known_tokens.csv";
        let emptied = Scripted::new()
            .on(
                &format!("find -H {tokens}"),
                0,
                &format!("f 600 0 {tokens}\n"),
            )
            .on("find -H", 1, "find: x: No such file or directory")
            .on("sha256sum", 0, &Sha256::of(b"").hex());
        let down = RemoteView::new(Arc::new(emptied), "10.0.0.13");
        let view = ClusterView::new(healthy(), "10.0.0.11");
        let step = ExtraFiles::new(vec![], "/etc/kubernetes/pki").preferring(Some(down));
        let (choices, _) = step.choices(&view).unwrap();
        let from: Vec<&str> = choices.iter().map(|choice| choice.from.address()).collect();
        assert_eq!(from, ["10.0.0.11"]);
    }

    #[test]
    fn a_file_that_a_power_loss_emptied_does_not_stay() {
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
        let tokens = "/etc/kubernetes/known_tokens.csv";
        for left in [&b""[..], &[0; 13]] {
            host.write_file(tokens, left, 0o600).unwrap();
            let joins = ExtraFiles::new(vec![], "/etc/kubernetes/pki");
            assert!(
                matches!(joins.check(world.view()).unwrap(), State::Conflict { .. }),
                "people look at what a stranger has"
            );
            let comes_back = joins.keeping_own();
            let told = comes_back.check(world.view()).unwrap();
            assert!(
                matches!(&told, State::Pending(why) if why.contains(tokens) && why.contains("nothing is left")),
                "{told:?}"
            );
            comes_back.apply(world).unwrap();
            assert_eq!(comes_back.check(world.view()).unwrap(), State::Satisfied);
            let text = host.view().text(tokens).unwrap();
            assert_eq!(text.as_deref(), Some("token,user,1\n"));
        }
        let saved = Journal::read(&root.path().join("state")).unwrap();
        let saved = saved.iter().filter(|entry| {
            matches!(
                &entry.event,
                Event::Intent {
                    change: Change::File {
                        before: Before::File { .. },
                        ..
                    },
                    ..
                }
            )
        });
        assert_eq!(saved.count(), 3, "two of them by this step");
    }
}
