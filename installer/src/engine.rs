//! Runs steps: check, and where the state does not hold: journal, apply, check **again**, journal.
//!
//! The host is the truth. Resuming is running the same command again: steps whose state holds are passed over. The first step that fails ends the run; nothing after
//! it is tried. A conflict found while looking at the whole plan ends the run before anything is changed.

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::console::Console;
use crate::journal::{Event, Journal};
use crate::step::{Place, Reversal, State, Step, View, World};

/// What a row says where nothing is to be taken back.
const NOTHING: &str = "-";

/// What a row says where nothing can be taken back.
const NEVER: &str = "no";

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
    /// How what it does is taken back: `by rollback`, `by reset`, `from the backup`, `no`; `-` where there is nothing to do or to take back.
    pub reversible: &'static str,
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
        let row = |step: &dyn Step| {
            let state = step
                .check(view)
                .with_context(|| format!("cannot tell whether {}", step.summary()))?;
            let (state, why, remedy) = match state {
                State::Satisfied => ("nothing to do", String::new(), String::new()),
                State::Unsettable(why) => ("not possible here", why, String::new()),
                State::Pending(why) => ("to do", why, String::new()),
                State::Conflict { reason, remedy } => ("conflict", reason, remedy),
            };
            let reversible = match (state, step.reversal()) {
                ("nothing to do" | "not possible here", _) | (_, Reversal::Nothing) => NOTHING,
                (_, Reversal::Rollback) => "by rollback",
                (_, Reversal::Reset) => "by reset",
                (_, Reversal::Backup) => "from the backup",
                (_, Reversal::Never) => NEVER,
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
                reversible,
                why,
                remedy,
            })
        };
        Ok(Self {
            rows: steps
                .iter()
                .map(|step| row(step.as_ref()))
                .collect::<Result<_>>()?,
        })
    }

    /// The same, of steps that undo: what they do is not taken back.
    #[must_use]
    pub fn for_good(mut self) -> Self {
        for row in &mut self.rows {
            if row.reversible != NOTHING {
                row.reversible = NEVER;
            }
        }
        self
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
    run_noting(steps, world, journal, console, &|_| Ok(()))
}

/// The same, and tells `settled` the number of every step, from 0, as soon as its state holds.
pub fn run_noting(
    steps: &[Box<dyn Step>],
    world: World<'_>,
    journal: &Journal,
    console: &Console,
    settled: &dyn Fn(usize) -> Result<()>,
) -> Result<()> {
    for (index, step) in steps.iter().enumerate() {
        world.host.stop().check()?;
        let progress = console.step(index + 1, steps.len(), &step.summary());
        match ensure(step.as_ref(), world, journal) {
            Ok(state) => {
                settled(index)?;
                progress.done(&state);
            }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::console::Format;
    use crate::host::scripted::Scripted;
    use crate::host::{Host, HostView};
    use crate::journal::Entry;

    /// How a step of these tests behaves.
    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Works,
        Fails,
        Idle,
        Blocked,
        Impossible,
    }

    struct MarkerStep {
        id: &'static str,
        way: Way,
        applied: Rc<Cell<u32>>,
    }

    impl Step for MarkerStep {
        fn id(&self) -> &'static str {
            self.id
        }

        fn summary(&self) -> String {
            format!("the file {} is there", self.id)
        }

        fn reversal(&self) -> Reversal {
            match self.id {
                "wait" => Reversal::Nothing,
                "remove" => Reversal::Never,
                _ => Reversal::Rollback,
            }
        }

        fn check(&self, view: View<'_>) -> Result<State> {
            Ok(match self.way {
                Way::Blocked => State::Conflict {
                    reason: "in the way".to_owned(),
                    remedy: "move it".to_owned(),
                },
                Way::Impossible => State::Unsettable("no such kernel".to_owned()),
                _ if view.host.exists(&format!("/{}", self.id))? => State::Satisfied,
                _ => State::Pending("not yet".to_owned()),
            })
        }

        fn apply(&self, world: World<'_>) -> Result<()> {
            self.applied.set(self.applied.get() + 1);
            match self.way {
                Way::Fails => bail!("it broke"),
                Way::Works => world.host.write_file(&format!("/{}", self.id), b"x", 0o644),
                _ => Ok(()),
            }
        }
    }

    fn steps(ways: &[(&'static str, Way)]) -> (Steps, Rc<Cell<u32>>) {
        let applied = Rc::new(Cell::new(0));
        let step = |&(id, way): &(&'static str, Way)| {
            Box::new(MarkerStep {
                id,
                way,
                applied: applied.clone(),
            }) as Box<dyn Step>
        };
        (ways.iter().map(step).collect(), applied)
    }

    fn attempt(root: &Path, steps: &Steps) -> Result<()> {
        let journal = Journal::new(root.join("state"));
        let host = Host::new(HostView::new(root, Arc::new(Scripted::new())), &journal);
        run(
            steps,
            World {
                host: &host,
                cluster: None,
            },
            &journal,
            &Console::new(Format::Text),
        )
    }

    fn events(root: &Path) -> Vec<Event> {
        Journal::read(&root.join("state"))
            .unwrap()
            .into_iter()
            .map(|Entry { event, .. }| event)
            .collect()
    }

    #[test]
    fn a_second_run_changes_nothing_and_writes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (steps, applied) =
            steps(&[("a", Way::Works), ("b", Way::Works), ("c", Way::Impossible)]);
        attempt(root.path(), &steps).unwrap();
        assert_eq!(applied.get(), 2);
        let before = events(root.path());
        attempt(root.path(), &steps).unwrap();
        assert_eq!((applied.get(), events(root.path())), (2, before));
    }

    #[test]
    fn an_intent_is_in_the_journal_before_the_end_of_its_step() {
        let root = tempfile::tempdir().unwrap();
        attempt(root.path(), &steps(&[("a", Way::Works)]).0).unwrap();
        let events = events(root.path());
        assert!(matches!(&events[0], Event::Step { step } if step == "a"));
        assert!(events.iter().any(|event| matches!(event, Event::Intent { step, change: crate::journal::Change::File { path, .. } } if step == "a" && path == "/a")));
        assert!(matches!(events.last(), Some(Event::Done { step }) if step == "a"));
    }

    #[test]
    fn a_run_that_broke_off_after_any_step_is_finished_by_the_next_one() {
        for broken in 0..4 {
            let root = tempfile::tempdir().unwrap();
            let names = ["a", "b", "c", "d"];
            let ways: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(index, name)| {
                    (
                        *name,
                        if index == broken {
                            Way::Fails
                        } else {
                            Way::Works
                        },
                    )
                })
                .collect();
            let error = attempt(root.path(), &steps(&ways).0).unwrap_err();
            assert!(format!("{error:#}").contains("it broke"), "{error:#}");
            assert!(
                matches!(events(root.path()).last(), Some(Event::Failed { step, .. }) if step == names[broken])
            );
            let (whole, applied) = steps(&names.map(|name| (name, Way::Works)));
            attempt(root.path(), &whole).unwrap();
            assert_eq!(
                applied.get() as usize,
                4 - broken,
                "only what was missing is done"
            );
        }
    }

    #[test]
    fn a_step_that_says_it_did_and_did_not_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let error = attempt(root.path(), &steps(&[("a", Way::Idle)]).0).unwrap_err();
        assert!(
            format!("{error:#}").contains("and yet: not yet"),
            "{error:#}"
        );
    }

    #[test]
    fn a_conflict_is_in_the_plan_with_its_remedy_and_is_never_applied() {
        let root = tempfile::tempdir().unwrap();
        let (steps, applied) = steps(&[("a", Way::Blocked), ("b", Way::Works)]);
        let view = HostView::new(root.path(), Arc::new(Scripted::new()));
        let plan = Plan::of(
            &steps,
            View {
                host: &view,
                cluster: None,
            },
        )
        .unwrap();
        assert_eq!(
            plan.conflicts()
                .map(|row| row.remedy.as_str())
                .collect::<Vec<_>>(),
            ["move it"]
        );
        assert!(!plan.is_done());
        assert!(attempt(root.path(), &steps).is_err());
        assert_eq!(applied.get(), 0);
        assert!(
            root.path()
                .read_dir()
                .unwrap()
                .all(|entry| entry.unwrap().file_name() == "state"),
            "planning wrote nothing"
        );
    }

    #[test]
    fn a_plan_tells_how_what_is_to_do_can_be_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let (steps, _) = steps(&[
            ("a", Way::Works),
            ("wait", Way::Works),
            ("remove", Way::Works),
            ("module", Way::Impossible),
        ]);
        let view = HostView::new(root.path(), Arc::new(Scripted::new()));
        let look = View {
            host: &view,
            cluster: None,
        };
        let column = |plan: Plan| {
            let rows = plan.rows.into_iter();
            rows.map(|row| row.reversible).collect::<Vec<_>>()
        };
        let plan = Plan::of(&steps, look).unwrap();
        assert_eq!(column(plan.clone()), ["by rollback", "-", "no", "-"]);
        assert_eq!(column(plan.for_good()), ["no", "-", "no", "-"]);
    }
}
