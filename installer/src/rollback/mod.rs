//! `rollback`: undoes from the journal, newest first, what our runs wrote on this machine, and what Docker, kubeadm, the kubelet and the pods wrote because of it.
//!
//! Afterwards the machine is as it was before the first run that was not rolled back yet, except for what [`LEFT_ALONE`] lists. It touches no cluster: not even `kubeadm reset`
//! is run, which removes etcd members where it can; what that does on the machine is done here. Where a join of ours may have added an etcd member, it refuses until the journal
//! says that the member is gone. It needs no pot.
//!
//! Every change is a step that looks first, so a rollback that was killed is finished by the next one. What is undone is recorded one by one; the end of a rollback closes the
//! books, and later runs count anew.

mod containerd;
mod files;
pub(crate) mod footprint;
mod kernel;
pub mod owed;
mod rules;
mod services;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use self::containerd::{RemovePods, Whose};
use self::files::{CleanTree, RemoveFolder, RestoreFile};
use self::kernel::{DeleteInterface, RestoreSysctl, SwapOn, UnloadModule};
use self::owed::{Member, Owed, WORKFLOW};
use self::rules::RemoveRules;
use self::services::{Reload, RemoveContainers, RestoreUnit, StopKubelet, UnnameImage};
use crate::console::Console;
use crate::engine::{self, Plan};
use crate::exit::{NotEligible, Usage};
use crate::host::probe::Containers;
use crate::host::{Host, HostView};
use crate::joining::bridge::BridgeGone;
use crate::journal::{Change, Event, Journal};
use crate::replacing::health::erase_credentials;
use crate::signals::Stop;
use crate::step::{Step, View, World};
use crate::workflow::{await_kubeadm, lock_state, root_only};

/// What a rollback leaves as it is, and why. docs/operations.md holds the same list.
pub const LEFT_ALONE: [(&str, &str); 9] = [
    (
        "/var/lib/kpot",
        "the journal, the former content of files, and the words of kubeadm: what tells what happened here",
    ),
    ("/var/log", "logs, those of pods and containers included"),
    (
        "/var/lib/systemd",
        "systemd's own state; so are the symbolic links of generated units below /run/systemd",
    ),
    (
        "/proc/modules",
        "modules that something uses by now, and those that ours brought with them, until the next reboot",
    ),
    (
        "/proc/net",
        "connections, ipsets, IPVS services and routes that no interface carried, until the next reboot",
    ),
    (
        "/run/xtables.lock",
        "the packet filter's lock, empty, until the next reboot",
    ),
    (
        "/sys/fs/cgroup",
        "empty groups of pods, until the next reboot",
    ),
    (
        "lost+found",
        "an empty one that the file system of etcd's folder came with and kubeadm does not bear; fsck and mklost+found make it anew",
    ),
    (
        "/etc/kpot",
        "whose pots this machine trusts: you put it there",
    ),
];

/// What is known of the etcd member that a join added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberWord {
    /// What the journal says.
    AsJournaled,
    /// The operator says that it is gone.
    SaidToBeGone,
}

/// What `rollback` is told.
pub struct Rollback<'a> {
    /// This machine.
    pub host: HostView,
    /// The state folder.
    pub state: PathBuf,
    /// Where words go.
    pub console: &'a Console,
    /// Whether to end after the plan.
    pub dry_run: bool,
    /// Whether nobody needs to be asked.
    pub yes: bool,
    /// What is known of the member.
    pub member: MemberWord,
}

/// Brings this machine back to what it was.
pub fn run(rollback: &Rollback<'_>) -> Result<()> {
    root_only()?;
    rollback.attempt(Stop::listen()?)
}

impl Rollback<'_> {
    fn attempt(&self, stop: Stop) -> Result<()> {
        let journal = Journal::read(&self.state)?;
        let owed = Owed::of(&journal);
        self.refuse_member(owed.member.as_ref())?;
        await_kubeadm(self.console, &self.state, Duration::ZERO)?;
        let undoing = Undoing::of(&owed, &self.state);
        let view = View {
            host: &self.host,
            cluster: None,
        };
        let plan = Plan::of(&undoing.steps, view)?.for_good();
        self.show(&plan)?;
        if plan.is_done() && !owed.is_empty() && !self.dry_run {
            // All of it is undone already, by hand or by a rollback that was killed at its very end; it must not be undone again once somebody else uses the same paths.
            let session = self.begin(journal.len())?;
            return session.close(Ok(()));
        }
        if plan.is_done() {
            return Ok(());
        }
        if self.dry_run {
            self.console.result("dry run: nothing was changed")?;
            return self.document("dry run", &json!({ "plan": plan }));
        }
        if !self.yes && !self.console.confirm("Undo all of this?")? {
            bail!(Usage(
                "nothing was changed: nobody said yes. Answer y on a terminal, or add --yes"
                    .to_owned()
            ));
        }
        let session = self.begin(journal.len())?;
        let host = Host::new(self.host.clone(), &session.journal).until(stop);
        let outcome = undoing.run(&host, &session.journal, self.console);
        let word = if outcome.is_ok() { "done" } else { "failed" };
        let error = outcome.as_ref().err().map(|cause| format!("{cause:#}"));
        let closed = session.close(outcome);
        self.document(
            word,
            &json!({
                "steps": self.console.steps(),
                "seconds": self.console.elapsed().as_secs_f64(),
                "error": error,
            }),
        )?;
        closed?;
        self.console
            .result("This machine is as it was before, except for what a rollback leaves alone:")?;
        for (path, why) in LEFT_ALONE {
            self.console.result(&format!("  {path}: {why}"))?;
        }
        Ok(())
    }

    /// A member that is still listed counts against the cluster's quorum from the moment on in which its data is gone.
    fn refuse_member(&self, member: Option<&Member>) -> Result<()> {
        let Some(Member { node, address }) = member else {
            return Ok(());
        };
        if self.member == MemberWord::SaidToBeGone {
            self.console.say(&format!(
                "note: you say that the etcd member of {node} at {address} is gone; the journal does not know"
            ));
            return Ok(());
        }
        let cause = format!(
            "a join of this machine may have added an etcd member ({node} at {address}), and nothing in the journal says that it is gone"
        );
        let remedy = "Take it out of the cluster first, with the address of a healthy master: ./kpot-install reset --healthy ADDRESS\nIf it was taken out from another master, say so: ./kpot-install rollback --the-member-is-gone";
        self.document(
            "refused",
            &json!({ "refusals": [{ "cause": cause, "remedy": remedy }] }),
        )?;
        bail!(NotEligible(format!(
            "refused; nothing was changed: {cause}\n{remedy}"
        )))
    }

    /// Shows the plan, and refuses what is in the way.
    fn show(&self, plan: &Plan) -> Result<()> {
        if plan.is_done() {
            self.console.result("nothing to do")?;
            return self.document("nothing to do", &json!({ "plan": plan }));
        }
        self.console.plan(plan)?;
        self.console.result("Files that are replaced are kept below /var/lib/kpot/backup; what is \"removed for good\" cannot be brought back.")?;
        let conflicts: Vec<String> = plan
            .conflicts()
            .map(|row| format!("{}: {}\n{}", row.step, row.why, row.remedy))
            .collect();
        if conflicts.is_empty() {
            return Ok(());
        }
        self.document("refused", &json!({ "plan": plan }))?;
        bail!(NotEligible(format!(
            "nothing was changed; something is in the way:\n{}",
            conflicts.join("\n")
        )))
    }

    /// Takes this machine's lock and opens the books; `seen` is how long the journal was when it was read.
    fn begin(&self, seen: usize) -> Result<Session> {
        let lock = lock_state(&self.state)?;
        ensure!(
            Journal::read(&self.state)?.len() == seen,
            "another kpot-install changed this machine meanwhile; look at the plan again: run this again"
        );
        let journal = Journal::new(&self.state);
        journal.record(Event::Begin {
            workflow: WORKFLOW.to_owned(),
            pot: "none".to_owned(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        // Else they would stay, where it is given up what asked with them.
        erase_credentials(&Host::new(self.host.clone(), &journal))?;
        Ok(Session {
            journal,
            _lock: lock,
        })
    }

    fn document(&self, outcome: &str, more: &Value) -> Result<()> {
        let left: Vec<Value> = LEFT_ALONE
            .iter()
            .map(|(path, why)| json!({ "path": path, "why": why }))
            .collect();
        let mut document = json!({ "workflow": WORKFLOW, "outcome": outcome, "left_alone": left });
        if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
            document.extend(more.clone());
        }
        self.console.document(&document)
    }
}

/// A rollback that may change this machine: it alone, with a journal.
struct Session {
    journal: Journal,
    _lock: std::fs::File,
}

impl Session {
    /// Writes the end into the journal; after a good one nothing is owed any more.
    fn close(self, outcome: Result<()>) -> Result<()> {
        let word = if outcome.is_ok() { "done" } else { "failed" };
        let recorded = self.journal.record(Event::End {
            outcome: word.to_owned(),
        });
        outcome.and(recorded)
    }
}

/// The steps of a rollback, each with the change that it undoes.
struct Undoing {
    steps: engine::Steps,
    /// Nothing for the steps that only clear the way.
    changes: Vec<Option<Change>>,
}

impl Undoing {
    fn of(owed: &Owed, state: &Path) -> Self {
        let mut undoing = Self {
            steps: Vec::new(),
            changes: Vec::new(),
        };
        let mut clear = |step: Box<dyn Step>| {
            undoing.steps.push(step);
            undoing.changes.push(None);
        };
        if owed.joined {
            clear(Box::new(StopKubelet));
        }
        if owed.docker_is_ours() {
            clear(Box::new(RemoveContainers {
                of: Containers::All,
            }));
        } else if owed.joined {
            clear(Box::new(RemoveContainers {
                of: Containers::Pods,
            }));
        }
        if owed.containerd_is_ours() {
            clear(Box::new(RemovePods { whose: Whose::Ours }));
        } else if owed.joined {
            clear(Box::new(RemovePods {
                whose: Whose::Theirs,
            }));
        }
        if owed.joined {
            clear(Box::new(RemoveRules));
        }
        for change in in_order(&owed.changes) {
            if let Some(step) = step_for(change, state) {
                undoing.steps.push(step);
                undoing.changes.push(Some(change.clone()));
            }
        }
        undoing
    }

    fn run(&self, host: &Host<'_>, journal: &Journal, console: &Console) -> Result<()> {
        let world = World {
            host,
            cluster: None,
        };
        engine::run_noting(
            &self.steps,
            world,
            journal,
            console,
            &|index| match &self.changes[index] {
                Some(change) => journal.record(Event::Undone {
                    change: change.clone(),
                }),
                None => Ok(()),
            },
        )
    }
}

/// Newest first, with two exceptions: systemd reads its units again when the last file that it reads is as it was, and folders go last, the deepest first, because a folder
/// is journaled after the file that it was made for.
fn in_order(changes: &[Change]) -> Vec<&Change> {
    let is_read_by_systemd = |change: &&Change| matches!(change, Change::File { path, .. } if path.starts_with("/etc/systemd/") || path == "/etc/fstab");
    let mut ordered: Vec<&Change> = changes
        .iter()
        .filter(|change| !matches!(change, Change::Reload | Change::Directory { .. }))
        .collect();
    if let Some(reload) = changes.iter().find(|change| **change == Change::Reload) {
        let place = ordered
            .iter()
            .rposition(is_read_by_systemd)
            .map_or(0, |last| last + 1);
        ordered.insert(place, reload);
    }
    let mut folders: Vec<(&str, &Change)> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Directory { path } => Some((path.as_str(), change)),
            _ => None,
        })
        .collect();
    folders.sort_by(|(one, _), (other, _)| other.cmp(one));
    ordered.extend(folders.into_iter().map(|(_, change)| change));
    ordered
}

/// What undoes a change; nothing where there is nothing to undo on this machine.
fn step_for(change: &Change, state: &Path) -> Option<Box<dyn Step>> {
    Some(match change.clone() {
        Change::File { path, before } => Box::new(RestoreFile {
            path,
            before,
            state: state.to_owned(),
        }),
        Change::Directory { path } => Box::new(RemoveFolder::new(path)),
        Change::Tree { path, before } => Box::new(CleanTree { path, before }),
        Change::Interface { name } => Box::new(DeleteInterface { name }),
        Change::Sysctl { key, before } => Box::new(RestoreSysctl { key, before }),
        Change::Module { name } => Box::new(UnloadModule::new(name)),
        Change::Swap { area } => Box::new(SwapOn { area }),
        Change::Unit {
            name,
            active,
            enabled,
        } => Box::new(RestoreUnit {
            name,
            active,
            enabled,
        }),
        Change::Reload => Box::new(Reload::default()),
        Change::Image { name, id } => Box::new(UnnameImage { name, id }),
        Change::ContainerdImage { name, id } => Box::new(containerd::UnnameImage { name, id }),
        Change::Bridge { .. } => Box::new(BridgeGone),
        Change::Erased { .. }
        | Change::Join { .. }
        | Change::ClearJoin { .. }
        | Change::Cluster { .. }
        | Change::LeftCluster { .. }
        | Change::Undo { .. } => return None,
    })
}
