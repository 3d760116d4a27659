//! Runs steps: check, and where the state does not hold: journal, apply, check **again**, journal.
//!
//! The host is the truth. Resuming is running the same command again: steps whose state holds are passed over. The first step that fails ends the run; nothing after
//! it is tried. A conflict found while looking at the whole plan ends the run before anything is changed.

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::console::Console;
use crate::journal::{Event, Journal};
use crate::step::{Place, State, Step, View, World};

/// Every step of a workflow, in order.
pub type Steps = Vec<Box<dyn Step>>;

/// One row of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The step's name.
    pub step: &'static str,
    /// Where it works.
    pub place: &'static str,
    /// What it ensures.
    pub what: String,
    /// `nothing to do`, `not possible here`, `to do` or `conflict`.
    pub state: &'static str,
    /// Why, where there is more to say.
    pub why: String,
    /// What the operator can do about a conflict.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// A plan: what every step would do now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Plan {
    /// One row a step.
    pub rows: Vec<Row>,
}

impl Plan {
    /// Asks every step; changes nothing.
    pub fn of(steps: &[Box<dyn Step>], view: View<'_>) -> Result<Self> {
        let row = |step: &Box<dyn Step>| {
            let state = step
                .check(view)
                .with_context(|| format!("cannot tell whether {}", step.summary()))?;
            let (state, why, remedy) = match state {
                State::Satisfied => ("nothing to do", String::new(), String::new()),
                State::Unsettable(why) => ("not possible here", why, String::new()),
                State::Pending(why) => ("to do", why, String::new()),
                State::Conflict { reason, remedy } => ("conflict", reason, remedy),
            };
            let place = match step.place() {
                Place::Here => "here",
                Place::Cluster => "cluster",
            };
            Ok(Row {
                step: step.id(),
                place,
                what: step.summary(),
                state,
                why,
                remedy,
            })
        };
        Ok(Self {
            rows: steps.iter().map(row).collect::<Result<_>>()?,
        })
    }

    /// The rows whose state must be changed by somebody else first.
    pub fn conflicts(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.state == "conflict")
    }

    /// Whether there is anything to do.
    pub fn is_done(&self) -> bool {
        self.rows
            .iter()
            .all(|row| matches!(row.state, "nothing to do" | "not possible here"))
    }
}

/// Brings about the state of every step, in order.
pub fn run(
    steps: &[Box<dyn Step>],
    world: World<'_>,
    journal: &Journal,
    console: &Console,
) -> Result<()> {
    for (index, step) in steps.iter().enumerate() {
        let progress = console.step(index + 1, steps.len(), &step.summary());
        match ensure(step.as_ref(), world, journal) {
            Ok(state) => progress.done(&state),
            Err(cause) => {
                progress.failed();
                // The failure itself matters more than a journal that cannot be written (a full disk is a likely cause of both).
                let _ = journal.record(Event::Failed {
                    step: step.id().to_owned(),
                    error: format!("{cause:#}"),
                });
                return Err(cause.context(format!(
                    "step {} failed: {}",
                    step.id(),
                    step.summary()
                )));
            }
        }
    }
    Ok(())
}

fn ensure(step: &dyn Step, world: World<'_>, journal: &Journal) -> Result<State> {
    let before = step.check(world.view())?;
    let reason = match before {
        State::Satisfied | State::Unsettable(_) => return Ok(before),
        State::Conflict { reason, remedy } => bail!("{reason}\n{remedy}"),
        State::Pending(reason) => reason,
    };
    journal.record(Event::Step {
        step: step.id().to_owned(),
    })?;
    step.apply(world)?;
    match step.check(world.view())? {
        State::Satisfied | State::Unsettable(_) => journal.record(Event::Done {
            step: step.id().to_owned(),
        })?,
        State::Pending(still) => bail!("it was done, and yet: {still}"),
        State::Conflict { reason, remedy } => bail!("it was done, and now: {reason}\n{remedy}"),
    }
    Ok(State::Pending(reason))
}
