//! Brings the files that the cluster's control-plane pods need besides kubeadm's own, before the join: without them the new apiserver cannot start.
//!
//! What is brought is what the healthy master's own pods and kubeadm's record of the cluster name, files below /etc, files that a pod or a flag names one by one and what lies beside them, and what TKE puts on its masters; up to 1 MiB each. What
//! is each master's own is never brought along with a folder around it: TKE's pods mount the whole of /etc/kubernetes, credentials, certificates and manifests included. In a change they
//! come from the master whose place is taken where its machine has them: what differs from the healthy master's is told in the plan. A file that is here already and is neither's is
//! a conflict, not something to overwrite, unless it is the distribution's. Other folders that pods mount (for logs, say) are made, without the files that no flag names; the plan counts them.
//! What a flag names for writing is never brought: a file that a pod mounts for that alone begins empty.
//! A link is brought as the file that it leads to; one that leads to no file, or to a master's own, is told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use bundle_spec::Sha256;

use crate::control_plane::ClusterView;
use crate::control_plane::extra_paths::{DISTRIBUTION, ExtraPath, Role};
use crate::control_plane::kubeadm::EDIT_RECORD;
use crate::host::remote::{RemoteView, TreeEntry};
use crate::host::{HostView, Kind};
use crate::replacing::clear::LEFT;
use crate::replacing::{ASIDE, folder_of, is_below};
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
        /// Whether it only lies beside one that a flag names: another one here is as good.
        beside: bool,
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

/// What becomes of everything that is wanted.
struct Choices<'m> {
    brought: Vec<Choice<'m>>,
    /// What is not brought, and needs not be.
    left: Vec<String>,
    /// What somebody has to copy by hand.
    by_hand: Vec<String>,
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
    /// What is not brought, and needs not be: links, with what they lead to, and large files that only lie in a folder.
    left: Vec<String>,
    /// What somebody has to copy by hand.
    by_hand: Vec<String>,
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

    /// What is brought, and what is not.
    fn choices<'m>(&'m self, cluster: &'m ClusterView, host: &HostView) -> Result<Choices<'m>> {
        let mut choices: BTreeMap<String, Choice<'m>> = BTreeMap::new();
        let (mut left, mut by_hand) = (Vec::new(), Vec::new());
        let down = self.down.iter().map(|down| (down, true));
        for (from, is_down) in down.chain([(cluster.machine(), false)]) {
            let mut found = self.wanted(from, host)?;
            if is_down {
                found
                    .wanted
                    .retain(|wanted| !self.is_for_all(wanted.path()));
            }
            let of_it = |what: String| format!("{what} of {}", from.address());
            left.extend(found.left.into_iter().map(of_it));
            by_hand.extend(found.by_hand);
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
        Ok(Choices {
            brought: choices.into_values().collect(),
            left,
            by_hand,
        })
    }

    /// Whether a file must be the same on all masters now: keys may have been changed while a machine was away, and one with the old ones neither reads the others' Secrets nor writes
    /// what they can read.
    fn is_for_all(&self, path: &str) -> bool {
        let mut paths = self.paths.iter();
        paths.any(|extra| extra.path == path && extra.encrypts())
    }

    /// Whether `path`, found below the folder `named`, is something that each master has for itself.
    fn is_masters_own(&self, named: &str, path: &str) -> bool {
        let mut own = LEFT
            .into_iter()
            .chain(PUT_ASIDE)
            .chain([self.certificates.as_str()]);
        own.any(|own| is_below(own, named) && (path == own || is_below(path, own)))
    }

    fn wanted(&self, machine: &RemoteView, host: &HostView) -> Result<Found> {
        let mut found = Found::default();
        let mut wanted = BTreeMap::new();
        let mut files: BTreeMap<String, Candidate> = BTreeMap::new();
        let mut without = BTreeSet::new();
        let copied: Vec<&str> = self
            .paths
            .iter()
            .filter(|extra| extra.is_copied())
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
        let behind = self.links(machine, &copied, &mut found.left)?;
        let (outputs, inputs): (Vec<&ExtraPath>, Vec<&ExtraPath>) =
            (self.paths.iter()).partition(|extra| extra.role == Role::Written);
        let read = inputs.iter().filter(|extra| extra.role == Role::Read);
        let beside: BTreeSet<&str> = read
            .filter(|extra| !TKE.contains(&extra.path.as_str()))
            .map(|extra| folder_of(&extra.path))
            .filter(|folder| !is_volatile(folder))
            .collect();
        for extra in inputs {
            let linked = behind
                .iter()
                .filter(|entry| extra.is_copied() && is_below(&entry.path, &extra.path));
            for entry in machine
                .tree(&extra.path)?
                .into_iter()
                .chain(linked.cloned())
            {
                let named_by = extra.named_by.clone();
                let named = entry.path == extra.path;
                if let Some(file) = files.get_mut(&entry.path) {
                    if named && !file.named {
                        file.named = true;
                        file.named_by = named_by;
                    }
                    file.beside &= !named && !extra.is_copied();
                    continue;
                }
                if wanted.contains_key(&entry.path) || self.is_masters_own(&extra.path, &entry.path)
                {
                    continue;
                }
                if entry.is_folder {
                    if extra.role != Role::Mounted || !(named || extra.is_copied()) {
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
                    if named {
                        let output = Wanted::Output {
                            path: entry.path.clone(),
                            mode: entry.mode,
                            named_by,
                        };
                        wanted.insert(entry.path, output);
                    }
                } else if named
                    || extra.is_copied()
                    || (entry.size <= FILE && beside.contains(folder_of(&entry.path)))
                {
                    let file = Candidate {
                        mode: entry.mode,
                        size: entry.size,
                        named_by,
                        named,
                        beside: !named && !extra.is_copied(),
                    };
                    files.insert(entry.path, file);
                } else if extra.role == Role::Mounted {
                    without.insert((entry.path, extra.path.clone()));
                }
            }
        }
        // What a flag names as well is brought.
        without.retain(|(path, _)| !wanted.contains_key(path) && !files.contains_key(path));
        for (_, folder) in without {
            if let Some(Wanted::Folder { without, .. }) = wanted.get_mut(&folder) {
                *without += 1;
            }
        }
        for (path, file) in few(files, machine, host, &mut found)? {
            let digest = machine.digest(&path)?;
            let file = Wanted::File {
                path: path.clone(),
                mode: file.mode,
                digest,
                named_by: file.named_by,
                beside: file.beside,
            };
            wanted.insert(path, file);
        }
        found.wanted = wanted.into_values().collect();
        Ok(found)
    }

    /// Below these folders: the files that links lead to, each at the link's path. Links that are not brought go to `left`, with why.
    fn links(
        &self,
        machine: &RemoteView,
        folders: &[&str],
        left: &mut Vec<String>,
    ) -> Result<Vec<TreeEntry>> {
        let mut files = Vec::new();
        if folders.is_empty() {
            return Ok(files);
        }
        let is_own = |path: &str| folders.iter().any(|named| self.is_masters_own(named, path));
        let mut links = machine.links(folders)?;
        links.retain(|link| !is_own(link));
        if links.len() > FILES {
            left.push(format!(
                "{} links below {}, more than {FILES}",
                links.len(),
                folders.join(", ")
            ));
            return Ok(files);
        }
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
        Ok(files)
    }

    /// Files that a flag names for reading and that neither another machine nor this one has: a pod that reads them does not start.
    fn lost(&self, choices: &[Choice<'_>], host: &HostView) -> Result<Vec<String>> {
        let mut lost = Vec::new();
        for extra in self.paths.iter().filter(|extra| is_needed(extra)) {
            let is_chosen = choices
                .iter()
                .any(|choice| choice.wanted.path() == extra.path);
            if !is_chosen && !host.exists(&extra.path)? {
                lost.push(format!("{} ({})", extra.path, extra.named_by));
            }
        }
        Ok(lost)
    }
}

/// A file that may be brought.
struct Candidate {
    mode: u32,
    size: u64,
    named_by: String,
    /// Whether a flag or a volume names the file itself, and not a folder around it.
    named: bool,
    /// Whether it only lies beside one that a flag names.
    beside: bool,
}

/// Those of `files` of `machine` that are brought. What is too large or too much for that and is here already is passed over; what else is named by itself is for people to copy, and the
/// rest is left.
fn few(
    files: BTreeMap<String, Candidate>,
    machine: &RemoteView,
    host: &HostView,
    found: &mut Found,
) -> Result<BTreeMap<String, Candidate>> {
    let too_many = files.len() > FILES;
    let mut brought = BTreeMap::new();
    for (path, file) in files {
        let large = file.size > FILE;
        if (large || (too_many && !file.named)) && is_here(host, &path, file.size)? {
            continue;
        }
        if too_many && file.beside {
            found.left.push(path);
        } else if !large {
            brought.insert(path, file);
        } else if file.named {
            found.by_hand.push(format!(
                "{path} of {} ({}) has {} bytes, more than {FILE}",
                machine.address(),
                file.named_by,
                file.size
            ));
        } else {
            let what = format!("{path} ({} bytes, more than {FILE})", file.size);
            found.left.push(what);
        }
    }
    if brought.len() > FILES {
        found.by_hand.push(format!(
            "the control plane's pods of {} name {} files that are not here, more than {FILES}; the first is {}",
            machine.address(),
            brought.len(),
            brought.keys().next().map_or("", String::as_str)
        ));
        brought.clear();
    }
    Ok(brought)
}

/// Whether there is a file of this size here. Its content is not compared: it is too much to be read there.
fn is_here(host: &HostView, path: &str, size: u64) -> Result<bool> {
    let facts = host.facts(path)?;
    Ok(facts.is_some_and(|facts| facts.kind == Kind::File && facts.size == size))
}

/// Whether what lies in a folder is written all the time, and each machine's own.
fn is_volatile(folder: &str) -> bool {
    let volatile = ["/var/log", "/run", "/var/run", "/tmp"];
    (volatile.iter()).any(|one| folder == *one || is_below(folder, one))
}

/// Whether a pod does not start without this file: by the names that flags for such files have.
fn is_needed(extra: &ExtraPath) -> bool {
    let flag = extra.named_by.split(' ').next().unwrap_or_default();
    extra.role == Role::Read && (flag.ends_with("file") || flag.ends_with("-config"))
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
                beside,
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
                    if own != *digest
                        && Some(own) != choice.other
                        && !*beside
                        && !is_distributions(path) =>
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
        let (mut missing, mut different, mut clashing) = (Vec::new(), Vec::new(), Vec::new());
        let Choices {
            brought,
            left,
            by_hand,
        } = self.choices(cluster, view.host)?;
        if !by_hand.is_empty() {
            return Ok(State::Conflict {
                reason: format!("not brought: {}", by_hand.join("; ")),
                remedy: "Copy it here by hand, to the same place and for root alone, then run this again".to_owned(),
            });
        }
        let lost = self.lost(&brought, view.host)?;
        if !lost.is_empty() {
            return Ok(State::Conflict {
                reason: format!(
                    "kubeadm's record of the cluster, or its pods, name what neither {} nor this machine has: {}. What reads it does not start",
                    cluster.address(),
                    lost.join(", ")
                ),
                remedy: format!("Put it here, or take the flag out of the record: {EDIT_RECORD}"),
            });
        }
        for difference in differences(&brought, view.host)? {
            match difference {
                Difference::Missing(what) => missing.push(what),
                Difference::Hollow(path) if self.own_stay => missing.push(format!(
                    "{path}, of which nothing is left in the one that is here"
                )),
                Difference::Differs(path) | Difference::Hollow(path)
                    if !self.own_stay || self.is_for_all(&path) =>
                {
                    clashing.push(path);
                }
                Difference::Differs(path) | Difference::Hollow(path) => different.push(path),
            }
        }
        if let Some(first) = clashing.first() {
            return Ok(State::Conflict {
                reason: format!(
                    "files here differ from the healthy master's: {}",
                    clashing.join(", ")
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
        if !left.is_empty() {
            notes.push(format!("not brought: {}", left.join(", ")));
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
        for choice in self.choices(cluster, world.host.view())?.brought {
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
