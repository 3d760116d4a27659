//! What a person, or a script, sees.
//!
//! Results go to standard output, everything else to standard error. With `--json` standard output carries one JSON document and nothing else. On a terminal the
//! running step is rewritten in place; elsewhere every step is one plain line.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::engine::Plan;
use crate::exit;
use crate::preflight::{Outcome, Report};
use crate::step::State;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tables and sentences.
    Text,
    /// One JSON document.
    Json,
}

/// The head of a plan's column.
const REVERSIBLE: &str = "reversible";

/// Where words go.
type Sink = Mutex<Box<dyn Write + Send>>;

/// A word that was cut off by a panic is no reason to keep the next one back.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
pub struct Console {
    format: Format,
    results: Sink,
    words: Sink,
    terminal: bool,
    began: Instant,
    /// How every step ended, for the JSON result.
    steps: Mutex<Vec<serde_json::Value>>,
    /// What the operator should know, for the next JSON document.
    notes: Mutex<Vec<String>>,
    /// The plan, which with `--json` only who is asked about it sees.
    plan: Mutex<Vec<String>>,
    /// Whether a JSON document was printed.
    documented: AtomicBool,
}

impl Console {
    /// A console on this process's own streams.
    pub fn new(format: Format) -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            ..Self::on(format, io::stdout(), io::stderr())
        }
    }

    /// A console that is no terminal: `results` go one way, all other `words` another.
    pub fn on(
        format: Format,
        results: impl Write + Send + 'static,
        words: impl Write + Send + 'static,
    ) -> Self {
        Self {
            format,
            results: Mutex::new(Box::new(results)),
            words: Mutex::new(Box::new(words)),
            terminal: false,
            began: Instant::now(),
            steps: Mutex::default(),
            notes: Mutex::default(),
            plan: Mutex::default(),
            documented: AtomicBool::new(false),
        }
    }

    /// How results are printed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Says something to the operator.
    pub fn say(&self, text: &str) {
        // Nobody can be told that standard error is closed.
        let _ = writeln!(unpoisoned(&self.words), "{text}");
    }

    /// Tells the operator something that refuses nothing; with `--json` the next document has it, too, under `notes`.
    pub fn note(&self, text: &str) {
        self.say(&format!("note: {text}"));
        unpoisoned(&self.notes).push(text.to_owned());
    }

    /// Prints a result as a person reads it; nothing with `--json`.
    pub fn result(&self, text: &str) -> Result<()> {
        if self.format == Format::Json {
            return Ok(());
        }
        writeln!(unpoisoned(&self.results), "{text}").context("cannot write to standard output")
    }

    /// Prints the one JSON document; nothing without `--json`.
    pub fn document(&self, value: &serde_json::Value) -> Result<()> {
        if self.format == Format::Text {
            return Ok(());
        }
        self.documented.store(true, Ordering::Relaxed);
        let mut value = value.clone();
        let notes: Vec<String> = unpoisoned(&self.notes).drain(..).collect();
        if !notes.is_empty() {
            value["notes"] = json!(notes);
        }
        writeln!(unpoisoned(&self.results), "{value:#}").context("cannot write to standard output")
    }

    /// More is to come that has a document of its own.
    pub fn goes_on(&self) {
        self.documented.store(false, Ordering::Relaxed);
    }

    /// The end of the program: with `--json` a failure that no document tells of gets one, so that a script always finds one.
    pub fn conclude(&self, outcome: Result<()>) -> Result<()> {
        if let Err(cause) = &outcome
            && !self.documented.load(Ordering::Relaxed)
        {
            let word = exit::outcome(cause);
            let document = json!({ "outcome": word, "error": format!("{cause:#}") });
            if let Err(unwritten) = self.document(&document) {
                // The failure itself matters more.
                self.say(&format!("{unwritten:#}"));
            }
        }
        outcome
    }

    /// How every step of this run ended, for the JSON document.
    pub fn steps(&self) -> Vec<serde_json::Value> {
        unpoisoned(&self.steps).clone()
    }

    /// Asks whether to go on; `no` is the answer of everybody who is not there.
    pub fn confirm(&self, question: &str) -> Result<bool> {
        if !io::stdin().is_terminal() {
            return Ok(false);
        }
        for line in unpoisoned(&self.plan).drain(..) {
            self.say(&line);
        }
        write!(unpoisoned(&self.words), "{question} [y/N] ").context("cannot ask")?;
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .context("cannot read the answer")?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// Shows that a step begins.
    pub fn step(&self, number: usize, of: usize, what: &str) -> Progress<'_> {
        let line = format!("[{number}/{of}] {what}");
        if self.terminal {
            let _ = write!(unpoisoned(&self.words), "{line} …");
        }
        Progress {
            console: self,
            line,
            what: what.to_owned(),
            began: Instant::now(),
        }
    }

    /// Time since the start of the program.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The checks of the preflight as a table.
    pub fn findings(&self, report: &Report) -> Result<()> {
        for finding in &report.findings {
            let outcome = match finding.outcome {
                Outcome::Good => "good",
                Outcome::Warning => "warning",
                Outcome::Refused => "REFUSED",
            };
            self.result(&format!("{outcome:7}  {}", finding.what))?;
            for more in [&finding.reason, &finding.remedy]
                .into_iter()
                .filter(|text| !text.is_empty())
                .flat_map(|text| text.lines())
            {
                self.result(&format!("{:7}    {more}", ""))?;
            }
        }
        Ok(())
    }

    /// The plan as a table.
    pub fn plan(&self, plan: &Plan) -> Result<()> {
        let width = |column: fn(&crate::engine::Row) -> usize| {
            plan.rows.iter().map(column).max().unwrap_or_default()
        };
        let (steps, states) = (width(|row| row.step.len()), width(|row| row.state.len()));
        let reversals = width(|row| row.reversible.len()).max(REVERSIBLE.len());
        let line = |[place, step, state, reversible]: [&str; 4], what: &str| {
            format!("{place:7}  {step:steps$}  {state:states$}  {reversible:reversals$}  {what}")
        };
        let mut lines = Vec::new();
        if !plan.rows.is_empty() {
            lines.push(line(["where", "step", "state", REVERSIBLE], "what"));
        }
        for row in &plan.rows {
            lines.push(line(
                [row.place, row.step, row.state, row.reversible],
                &row.what,
            ));
            let more = [&row.why, &row.remedy].into_iter();
            let more = more.flat_map(|text| text.lines());
            lines.extend(more.map(|more| line([""; 4], &format!("  {more}"))));
        }
        if self.format == Format::Json {
            *unpoisoned(&self.plan) = lines;
            return Ok(());
        }
        lines.iter().try_for_each(|line| self.result(line))
    }
}

/// A step that runs.
pub struct Progress<'a> {
    console: &'a Console,
    line: String,
    what: String,
    began: Instant,
}

impl Progress<'_> {
    /// The step's state holds.
    pub fn done(self, state: &State) {
        let seconds = self.began.elapsed().as_secs_f64();
        let end = match state {
            State::Satisfied => "already so".to_owned(),
            State::Unsettable(why) => format!("not possible here: {why}"),
            _ => format!("done, {seconds:.1} s"),
        };
        self.finish(&end);
    }

    /// The step failed; the reason is printed by whoever ends the program.
    pub fn failed(self) {
        self.finish("FAILED");
    }

    fn finish(self, end: &str) {
        let restart = if self.console.terminal {
            "\r\x1b[K"
        } else {
            ""
        };
        self.console.say(&format!("{restart}{}: {end}", self.line));
        let seconds = self.began.elapsed().as_secs_f64();
        self.console
            .steps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(serde_json::json!({ "step": self.what, "outcome": end, "seconds": seconds }));
    }
}
