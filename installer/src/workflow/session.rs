//! A run that may change this machine: shown, agreed to, alone on the machine, and with a journal from its first change to its last word.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::Terms;
use crate::console::Format;
use crate::engine::Plan;
use crate::exit::{self, NotEligible, Refused, Usage};
use crate::host::Host;
use crate::journal::{Event, Journal};
use crate::replacing::health::erase_credentials;

/// The exit status of a run that failed while at work.
const FAILED: u8 = 1;

/// How long the lock of a run that has just ended may stay: a program that this process began to start has a copy of every open file until it runs, also where we are killed meanwhile.
const ENDING: Duration = Duration::from_secs(2);

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);

/// A run that may change this machine: it alone, with a journal.
pub(super) struct Session {
    pub(super) journal: Journal,
    workflow: &'static str,
    _lock: File,
}

impl Session {
    /// Shows the plan; nothing where there is nothing to do, or where only the plan was asked for.
    pub(super) fn begin(
        terms: &Terms<'_>,
        workflow: &'static str,
        plan: &Plan,
        subject: &Value,
    ) -> Result<Option<Self>> {
        terms.console.plan(plan)?;
        let document = |outcome: &str| {
            let mut document = json!({ "workflow": workflow, "outcome": outcome, "plan": plan });
            extend(&mut document, subject);
            document
        };
        let conflicts = conflicts(plan);
        if !conflicts.is_empty() {
            terms.console.document(&document("refused"))?;
            bail!(NotEligible(format!(
                "nothing was changed; something is in the way:\n{}",
                conflicts.join("\n")
            )));
        }
        if plan.is_done() {
            terms.console.result("nothing to do")?;
            terms.console.document(&document("nothing to do"))?;
            return Ok(None);
        }
        if terms.dry_run {
            terms.console.result("dry run: nothing was changed")?;
            terms.console.document(&document("dry run"))?;
            return Ok(None);
        }
        if !terms.yes && !terms.console.confirm("Go on?")? {
            bail!(Usage(
                "nothing was changed: nobody said yes. Answer y on a terminal, or add --yes"
                    .to_owned()
            ));
        }
        Self::open(terms, workflow).map(Some)
    }

    /// Begins without a plan to show.
    pub(super) fn open(terms: &Terms<'_>, workflow: &'static str) -> Result<Self> {
        let lock = lock_state(&terms.state)?;
        let journal = Journal::new(&terms.state);
        journal.record(Event::Begin {
            workflow: workflow.to_owned(),
            pot: terms.pot.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        // A run that was killed while it asked etcd from here could not; whatever this one does, it may never come to that step.
        erase_credentials(&Host::new(terms.host.clone(), &journal))?;
        Ok(Self {
            journal,
            workflow,
            _lock: lock,
        })
    }

    /// Writes the end into the journal and the JSON document.
    pub(super) fn end(&self, terms: &Terms<'_>, outcome: Result<()>, more: &Value) -> Result<()> {
        let outcome = outcome.map_err(with_next);
        let word = if outcome.is_ok() { "done" } else { "failed" };
        let recorded = self.journal.record(Event::End {
            outcome: word.to_owned(),
        });
        if terms.console.format() == Format::Json {
            let refused = outcome
                .as_ref()
                .err()
                .and_then(anyhow::Error::downcast_ref::<Refused>);
            let word = outcome.as_ref().err().map_or(word, exit::outcome);
            let mut document = json!({ "workflow": self.workflow, "outcome": word, "steps": terms.console.steps(), "seconds": terms.console.elapsed().as_secs_f64() });
            extend(&mut document, more);
            if let Err(cause) = &outcome {
                document["error"] = json!(format!("{cause:#}"));
            }
            if let Some(refused) = refused {
                document["refusals"] = refused.refusals.clone();
            }
            terms.console.document(&document)?;
        }
        outcome?;
        terms.console.say(&format!(
            "{} done in {:.0} s",
            self.workflow,
            terms.console.elapsed().as_secs_f64()
        ));
        recorded
    }
}

/// What is in the way, each cause once: one Docker that does not fit is in the way of three steps.
fn conflicts(plan: &Plan) -> Vec<String> {
    let mut found: Vec<(Vec<&str>, &str, &str)> = Vec::new();
    for row in plan.conflicts() {
        let known = found
            .iter_mut()
            .find(|(_, why, remedy)| *why == row.why && *remedy == row.remedy);
        match known {
            Some((steps, ..)) => steps.push(row.step),
            None => found.push((vec![row.step], &row.why, &row.remedy)),
        }
    }
    found
        .into_iter()
        .map(|(steps, why, remedy)| format!("{}: {why}\n{remedy}", steps.join(", ")))
        .collect()
}

/// A failure with what to type next as its last words, unless it says so itself.
fn with_next(cause: anyhow::Error) -> anyhow::Error {
    let said = format!("{cause:#}");
    let says_so = ["run this again", "run the same command again"];
    // A refusal has its own remedy, and its own exit status.
    if exit::status(&cause) != FAILED || says_so.iter().any(|words| said.contains(words)) {
        return cause;
    }
    // As the system says it, and Docker, kubeadm and cp after it.
    let next = if said.to_lowercase().contains("no space left on device") {
        "Make room (df -h shows which file system is full), then run the same command again"
    } else {
        "When the cause is mended, run the same command again"
    };
    anyhow!("{said}\n{next}: it goes on where this run ended")
}

fn extend(document: &mut Value, more: &Value) {
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
}

/// One program at a time on this machine. The lock is the kernel's: it ends with the process, however that ends.
pub(crate) fn lock_state(state: &Path) -> Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("cannot make the folder {}", state.display()))?;
    let path = state.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let deadline = Instant::now() + ENDING;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => bail!(
                "another kpot-install is at work on this machine: wait for it ({} is locked)",
                path.display()
            ),
            Err(TryLockError::Error(cause)) => {
                return Err(cause).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::console::Console;
    use crate::engine::Row;
    use crate::host::scripted::Scripted;
    use crate::journal::STATE_DIR;
    use crate::steps::testing::Machine;

    const KEY: &str = "/run/kpot/etcd-client/client.key";

    fn open(machine: &Machine) -> Result<Session> {
        let console = Console::on(Format::Text, io::sink(), io::sink());
        let host = machine.view(Scripted::new());
        let terms = Terms {
            console: &console,
            dry_run: false,
            yes: true,
            pot: "none".to_owned(),
            state: host.locate(STATE_DIR),
            host,
        };
        Session::open(&terms, "reset")
    }

    #[test]
    fn a_killed_run_leaves_no_key_of_another_master_to_any_later_one() {
        let machine = Machine::new();
        let unfinished = "/run/kpot/etcd-client/.client.key.kpot-new";
        for path in [KEY, unfinished] {
            machine.file(path, "a key");
        }
        open(&machine).unwrap();
        assert_eq!((machine.text(KEY), machine.text(unfinished)), (None, None));
    }

    #[test]
    fn one_file_that_cannot_be_erased_saves_no_other_one() {
        let machine = Machine::new();
        machine
            .file(KEY, "a key")
            .file("/run/kpot/etcd-client/ca.crt/no-file", "");
        let told = open(&machine).err().map(|cause| format!("{cause:#}"));
        assert!(
            told.as_ref()
                .is_some_and(|told| told.contains("cannot erase /run/kpot/etcd-client/ca.crt")),
            "{told:?}"
        );
        assert_eq!(machine.text(KEY), None);
    }

    #[test]
    fn one_cause_is_told_once_however_many_steps_it_is_in_the_way_of() {
        let row = |step, why: &str| Row {
            step,
            place: "here",
            what: String::new(),
            state: "conflict",
            reversible: "no",
            why: why.to_owned(),
            remedy: "move it".to_owned(),
        };
        let plan = Plan {
            rows: vec![
                row("docker-binaries", "another Docker"),
                row("docker-config", "another Docker"),
                row("images", "another image"),
            ],
        };
        assert_eq!(
            conflicts(&plan),
            [
                "docker-binaries, docker-config: another Docker\nmove it",
                "images: another image\nmove it"
            ]
        );
    }

    #[test]
    fn a_run_at_work_keeps_others_out_and_one_that_ends_only_for_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock_state(folder.path()).unwrap();
        let refused = lock_state(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("another kpot-install"), "{refused}");
        let ending = thread::spawn(move || {
            thread::sleep(LOOK * 3);
            drop(held);
        });
        lock_state(folder.path()).unwrap();
        ending.join().unwrap();
    }

    #[test]
    fn a_failure_ends_with_what_to_type_next() {
        let full = std::io::Error::from_raw_os_error(28);
        let full = with_next(anyhow::Error::new(full).context("cannot write /opt/cni/bin/bridge"));
        let told = format!("{full:#}");
        assert!(
            told.starts_with("cannot write /opt/cni/bin/bridge: No space left on device"),
            "{told}"
        );
        assert!(
            told.contains("df -h") && told.ends_with("it goes on where this run ended"),
            "{told}"
        );
        let other = format!("{:#}", with_next(anyhow!("it broke").context("outer")));
        assert!(
            other.starts_with(
                "outer: it broke\nWhen the cause is mended, run the same command again"
            ),
            "{other}"
        );
    }

    #[test]
    fn who_says_what_to_do_has_the_last_word() {
        let stopped = "stopped by a signal; run the same command again to go on";
        assert_eq!(format!("{:#}", with_next(anyhow!(stopped))), stopped);
        let refused = with_next(NotEligible("no quorum".to_owned()).into());
        assert_eq!(format!("{refused:#}"), "no quorum");
        assert_eq!(exit::status(&refused), 3);
    }
}
