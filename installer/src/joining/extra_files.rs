//! Brings the files that the cluster's control-plane pods need besides kubeadm's own, before the join: without them the new apiserver cannot start.
//!
//! What is brought is what the healthy master's own pods name, files below /etc and files that a pod or a flag names one by one, and what TKE puts on its masters; up to 1 MiB each. What
//! is each master's own is never brought along with a folder around it: TKE's pods mount the whole of /etc/kubernetes, credentials, certificates and manifests included. In a change they
//! come from the master whose place is taken where its machine has them: what differs from the healthy master's is told in the plan. A file that is here already and is neither's is
//! a conflict, not something to overwrite, unless it is the distribution's. Other folders that pods mount (for logs, say) are made, without the files that no flag names; the plan counts them.
//! What a flag names for writing is never brought: a file that a pod mounts for that alone begins empty.
//! A link is brought as the file that it leads to; one that leads to no file, or to a master's own, is told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bundle_spec::Sha256;

use crate::control_plane::ClusterView;
use crate::control_plane::extra_paths::{DISTRIBUTION, ExtraPath, Role};
use crate::host::remote::{RemoteView, TreeEntry};
use crate::host::{HostView, Kind};
use crate::replacing::clear::LEFT;
use crate::replacing::{ASIDE, is_below};
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
    ASIDE,
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
    /// A file that a pod mounts by itself to write it: each master has its own, which begins empty. A runtime would make a folder of one that is not there.
    Output {
        path: String,
        mode: u32,
        named_by: String,
    },
}

impl Wanted {
    fn path(&self) -> &str {
        match self {
            Self::File { path, .. } | Self::Folder { path, .. } | Self::Output { path, .. } => path,
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
                    role: Role::Read,
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
                    Wanted::Folder { .. } | Wanted::Output { .. } => None,
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
        let looked_at = |extra: &&ExtraPath| extra.role != Role::Written;
        let question = |extra: &ExtraPath| RemoteView::tree_question(&extra.path);
        let mut questions: Vec<_> = (self.paths.iter().filter(looked_at))
            .map(question)
            .collect();
        if !copied.is_empty() {
            questions.push(RemoteView::links_question(&copied));
        }
        let machine = &machine.ahead(&questions);
        let (behind, links) = self.links(machine, &copied)?;
        let (outputs, inputs): (Vec<&ExtraPath>, Vec<&ExtraPath>) =
            (self.paths.iter()).partition(|extra| extra.role == Role::Written);
        for extra in inputs {
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
                    if extra.role != Role::Mounted {
                        continue;
                    }
                    let folder = Wanted::Folder {
                        path: entry.path.clone(),
                        mode: entry.mode,
                        named_by,
                        without: 0,
                    };
                    wanted.insert(entry.path, folder);
                } else if outputs
                    .iter()
                    .any(|output| is_output(&output.path, &entry.path))
                {
                    if entry.path == extra.path {
                        let output = Wanted::Output {
                            path: entry.path.clone(),
                            mode: entry.mode,
                            named_by,
                        };
                        wanted.insert(entry.path, output);
                    }
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
                } else if extra.role == Role::Mounted {
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
    extra.role == Role::Mounted && extra.path.starts_with("/etc/")
}

/// Whether a file is what a pod writes to `output`, or what was there before: `audit.log` becomes `audit-2020-01-02T03-04-05.678.log` (lumberjack, which the API server rotates with).
fn is_output(output: &str, path: &str) -> bool {
    let (stem, end) = match output.rsplit_once('.') {
        Some((stem, end)) if !end.contains('/') => (stem, format!(".{end}")),
        _ => (output, String::new()),
    };
    let rest = path.strip_suffix(".gz").unwrap_or(path);
    let stamp = rest
        .strip_prefix(stem)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(&end));
    let former = stamp.is_some_and(|stamp| {
        let letters = |letter: char| letter.is_ascii_digit() || "-T.".contains(letter);
        stamp.starts_with(|first: char| first.is_ascii_digit()) && stamp.chars().all(letters)
    });
    path == output || former
}

/// Whether a file is the distribution's by its place: where it is here, nobody needs the healthy master's.
fn is_distributions(path: &str) -> bool {
    DISTRIBUTION.iter().any(|folder| is_below(path, folder))
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
            Wanted::Output { path, named_by, .. } if !host.exists(path)? => {
                found.push(Difference::Missing(format!("{path}, empty ({named_by})")));
            }
            Wanted::Folder { .. } | Wanted::Output { .. } => {}
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
                Wanted::Output { path, .. } if world.host.view().exists(&path)? => {}
                Wanted::Output { path, mode, .. } => world.host.write_file(&path, b"", mode)?,
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
mod tests;
