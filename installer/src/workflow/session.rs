//! A run that may change this machine: shown, agreed to, alone on the machine, and with a journal from its first change to its last word.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Terms;
use crate::console::Format;
use crate::engine::Plan;
use crate::exit::{NotEligible, Usage};
use crate::journal::{Event, Journal, STATE_DIR};

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
        let conflicts: Vec<String> = plan
            .conflicts()
            .map(|row| format!("{}: {}\n{}", row.step, row.why, row.remedy))
            .collect();
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
        let lock = lock_state(Path::new(STATE_DIR))?;
        let journal = Journal::new(STATE_DIR);
        journal.record(Event::Begin {
            workflow: workflow.to_owned(),
            pot: terms.pot.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        Ok(Self {
            journal,
            workflow,
            _lock: lock,
        })
    }

    /// Writes the end into the journal and the JSON document.
    pub(super) fn end(&self, terms: &Terms<'_>, outcome: Result<()>, more: &Value) -> Result<()> {
        let word = if outcome.is_ok() { "done" } else { "failed" };
        let recorded = self.journal.record(Event::End {
            outcome: word.to_owned(),
        });
        if terms.console.format() == Format::Json {
            let mut document = json!({ "workflow": self.workflow, "outcome": word, "steps": terms.console.steps(), "seconds": terms.console.elapsed().as_secs_f64() });
            extend(&mut document, more);
            if let Err(cause) = &outcome {
                document["error"] = json!(format!("{cause:#}"));
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
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another kpot-install is at work on this machine: wait for it ({} is locked)",
            path.display()
        ),
        Err(TryLockError::Error(cause)) => {
            Err(cause).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
