//! A runner for tests: it answers what its script holds, remembers what it was asked, and fails on anything else.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Mutex;

use super::command::{Cmd, CommandError, Feed, Output, Runner};

type Answer = Box<dyn FnMut(&Cmd, &[u8]) -> Option<Output> + Send>;

/// See the module.
#[derive(Default)]
pub struct Scripted {
    answers: Mutex<Vec<Answer>>,
    asked: Mutex<Vec<String>>,
}

impl Scripted {
    /// A runner without a script.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers every command whose text begins with `prefix` by this status and output.
    #[must_use]
    pub fn on(self, prefix: &str, status: i32, stdout: &str) -> Self {
        self.once_each(prefix, [(status, stdout)])
    }

    /// Answers commands whose text begins with `prefix` by these, one after the other; the last one stays.
    #[must_use]
    pub fn once_each<'t>(
        self,
        prefix: &str,
        answers: impl IntoIterator<Item = (i32, &'t str)>,
    ) -> Self {
        let prefix = prefix.to_owned();
        let mut answers: VecDeque<(i32, String)> = answers
            .into_iter()
            .map(|(status, text)| (status, text.to_owned()))
            .collect();
        self.with(move |cmd, _| {
            if !cmd.to_string().starts_with(&prefix) {
                return None;
            }
            let (status, text) = if answers.len() > 1 {
                answers.pop_front()?
            } else {
                answers.front()?.clone()
            };
            let (stdout, stderr) = if status == 0 {
                (text, String::new())
            } else {
                (String::new(), text)
            };
            Some(Output {
                status,
                stdout: stdout.into_bytes(),
                stderr: stderr.into_bytes(),
            })
        })
    }

    /// Answers by a function of the command and what it was given to read; nothing means that it is another command's turn.
    #[must_use]
    pub fn with(self, answer: impl FnMut(&Cmd, &[u8]) -> Option<Output> + Send + 'static) -> Self {
        self.answers
            .lock()
            .expect("no test panics while it holds this lock")
            .push(Box::new(answer));
        self
    }

    /// Every command so far, as text, oldest first.
    pub fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .expect("no test panics while it holds this lock")
            .clone()
    }
}

impl Runner for Scripted {
    fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        let input = cmd.stdin.clone();
        self.feed(cmd, &mut |pipe| pipe.write_all(input.expose()))
    }

    fn feed(&self, cmd: &Cmd, feed: &mut Feed<'_>) -> Result<Output, CommandError> {
        let text = cmd.to_string();
        self.asked
            .lock()
            .expect("no test panics while it holds this lock")
            .push(text.clone());
        let mut input = Vec::new();
        feed(&mut input).map_err(|source| CommandError::Pipe {
            command: text.clone(),
            source,
        })?;
        let mut answers = self
            .answers
            .lock()
            .expect("no test panics while it holds this lock");
        answers
            .iter_mut()
            .find_map(|answer| answer(cmd, &input))
            .ok_or(CommandError::Unexpected(text))
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
}
