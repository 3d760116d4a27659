//! A process of this program that meets with trouble at one of its commands.
//!
//! The kill is an unwinding that nobody between here and the test catches: no line of the program runs any more, and what it held in memory is gone. Whatever its other threads
//! still try is unwound as well.

use std::io::Write;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::played::{Outcome, Played};
use crate::host::clock::Clock;
use crate::host::command::{Cmd, CommandError, Feed, Output, Runner};

/// What happens at the command of this number, from 1, that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The process is killed before it.
    KilledBefore(usize),
    /// The process is killed after it did its work, and nobody sees its answer.
    KilledAfter(usize),
    /// The master m2 is lost before it; the process goes on.
    MasterLost(usize),
}

/// On which machine a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Here,
    Healthy,
    Down,
}

/// What the test finds where a process was killed.
pub(super) struct Killed;

/// A process; see the module.
pub(super) struct Process {
    played: Arc<Mutex<Played>>,
    trouble: Option<Trouble>,
    /// Its commands that changed something.
    changes: Mutex<Vec<String>>,
    dead: AtomicBool,
    clock: Hands,
}

impl Process {
    pub(super) fn new(played: Arc<Mutex<Played>>, trouble: Option<Trouble>) -> Arc<Self> {
        Arc::new(Self {
            played,
            trouble,
            changes: Mutex::default(),
            dead: AtomicBool::new(false),
            clock: Hands {
                began: Instant::now(),
                passed: Mutex::default(),
            },
        })
    }

    /// What runs this process's commands on a machine.
    pub(super) fn on(self: &Arc<Self>, place: Place) -> Arc<dyn Runner> {
        Arc::new(Machine {
            process: self.clone(),
            place,
        })
    }

    /// Its commands that changed something.
    pub(super) fn changes(&self) -> Vec<String> {
        locked(&self.changes).clone()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn die(&self) -> ! {
        self.dead.store(true, Ordering::SeqCst);
        resume_unwind(Box::new(Killed))
    }

    /// The number of a command among those that change something; such a command is remembered.
    fn number(&self, cmd: &Cmd) -> usize {
        let mut all = locked(&self.changes);
        if changes(cmd) {
            all.push(cmd.to_string());
        }
        all.len()
    }

    fn play(&self, place: Place, cmd: &Cmd, input: &[u8]) -> Result<Output, CommandError> {
        if self.is_dead() {
            self.die();
        }
        let trouble = self.trouble.filter(|_| changes(cmd));
        let number = self.number(cmd);
        match trouble {
            Some(Trouble::KilledBefore(at)) if at == number => self.die(),
            Some(Trouble::MasterLost(at)) if at == number => locked(&self.played).lose_master(),
            _ => {}
        }
        let outcome = locked(&self.played).play(place, cmd, input);
        if trouble == Some(Trouble::KilledAfter(number)) {
            self.die();
        }
        match outcome {
            Outcome::Answered(output) => Ok(output),
            Outcome::PowerCut => self.die(),
            Outcome::Unexpected => Err(CommandError::Unexpected(cmd.to_string())),
        }
    }
}

pub(super) fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared
        .lock()
        .expect("nothing panics while it holds this lock")
}

/// Whether a command changes anything.
fn changes(cmd: &Cmd) -> bool {
    let has = |word: &str| cmd.args.iter().any(|arg| arg == word);
    match cmd.program.as_str() {
        // A review of rights is answered and kept nowhere.
        "kubectl" if has("--validate=false") => false,
        "kubectl" => ["create", "replace", "delete", "patch", "drain", "annotate"]
            .into_iter()
            .any(has),
        "docker" | "crictl" | "ctr" => ["run", "rm", "remove", "save", "stop", "stopp", "rmp"]
            .into_iter()
            .any(has),
        "kubeadm" => !has("version"),
        "systemctl" => !has("show"),
        "find" => has("-delete"),
        "sh" | "ip" | "rm" | "umount" => true,
        _ => false,
    }
}

struct Machine {
    process: Arc<Process>,
    place: Place,
}

impl Runner for Machine {
    fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        self.process.play(self.place, cmd, cmd.stdin.expose())
    }

    fn feed(&self, cmd: &Cmd, feed: &mut Feed<'_>) -> Result<Output, CommandError> {
        let mut input = Vec::new();
        feed(&mut input).map_err(|source| CommandError::Pipe {
            command: cmd.to_string(),
            source,
        })?;
        self.process.play(self.place, cmd, &input)
    }

    fn fetch(&self, cmd: &Cmd, sink: &mut dyn Write) -> Result<Output, CommandError> {
        let output = self.run(cmd)?;
        sink.write_all(&output.stdout)
            .map_err(|source| CommandError::Sink {
                command: cmd.to_string(),
                source,
            })?;
        Ok(Output {
            stdout: Vec::new(),
            ..output
        })
    }

    fn clock(&self) -> &dyn Clock {
        &self.process.clock
    }
}

/// A clock whose hands are moved.
struct Hands {
    began: Instant,
    passed: Mutex<Duration>,
}

impl Clock for Hands {
    fn now(&self) -> Instant {
        self.began + *locked(&self.passed)
    }

    fn pause(&self, length: Duration) {
        *locked(&self.passed) += length;
    }
}
