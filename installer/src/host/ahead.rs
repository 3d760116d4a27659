//! Questions that are asked side by side before they are needed, so that one need not wait for the answer to another.
//!
//! Over a connection each question costs mostly waiting, and whoever gathers facts asks dozens. The code that gathers stays a plain sequence: what it will ask
//! for certain is asked ahead, and each answer is given out once, in the place of the same question; or as often as it is asked for, where one look is all that is wanted. A question that was not asked ahead is asked as ever.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use super::clock::Clock;
use super::command::{Cmd, CommandError, Feed, Output, Runner};
use super::side_by_side::side_by_side;

/// A runner that has some answers already.
pub(crate) struct Ahead {
    inner: Arc<dyn Runner>,
    /// Given once each.
    answers: Mutex<Vec<(Cmd, Result<Output, CommandError>)>>,
    /// Given whenever they are asked for.
    kept: Vec<(Cmd, Output)>,
}

impl Ahead {
    /// Asks `questions`, which must not change anything, as many at a time as `inner` can bear; returns when all are answered. Nothing is asked ahead where that is one.
    pub fn ask(inner: Arc<dyn Runner>, questions: &[Cmd]) -> Arc<dyn Runner> {
        match answered(inner.as_ref(), questions) {
            None => inner,
            Some(answers) => Arc::new(Self {
                inner,
                answers: Mutex::new(answers),
                kept: Vec::new(),
            }),
        }
    }

    /// The same, where each answer holds as often as it is asked for: for as long as nothing changes, and nobody waits for a change. What could not be asked is asked again.
    pub fn keep(inner: Arc<dyn Runner>, questions: &[Cmd]) -> Arc<dyn Runner> {
        match answered(inner.as_ref(), questions) {
            None => inner,
            Some(answers) => {
                let answered = answers.into_iter();
                let kept = answered.filter_map(|(asked, answer)| Some((asked, answer.ok()?)));
                Arc::new(Self {
                    inner,
                    answers: Mutex::default(),
                    kept: kept.collect(),
                })
            }
        }
    }
}

/// What was asked, and the answers; nothing where one question is asked at a time.
fn answered(
    inner: &dyn Runner,
    questions: &[Cmd],
) -> Option<Vec<(Cmd, Result<Output, CommandError>)>> {
    let lanes = inner.lanes().min(questions.len());
    (lanes > 1).then(|| side_by_side(questions, lanes, |cmd| (cmd.clone(), inner.run(cmd))))
}

impl Runner for Ahead {
    fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        if let Some((_, kept)) = self.kept.iter().find(|(asked, _)| asked == cmd) {
            return Ok(kept.clone());
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = answers.iter().position(|(asked, _)| asked == cmd);
        let known = known.map(|at| answers.swap_remove(at).1);
        drop(answers);
        known.unwrap_or_else(|| self.inner.run(cmd))
    }

    fn feed(&self, cmd: &Cmd, feed: &mut Feed<'_>) -> Result<Output, CommandError> {
        self.inner.feed(cmd, feed)
    }

    fn fetch(&self, cmd: &Cmd, sink: &mut dyn Write) -> Result<Output, CommandError> {
        self.inner.fetch(cmd, sink)
    }

    fn clock(&self) -> &dyn Clock {
        self.inner.clock()
    }

    fn lanes(&self) -> usize {
        self.inner.lanes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::time::Duration;

    use super::*;

    /// Answers each question with its number among all; the first two only once both are under way.
    #[derive(Default)]
    struct Counting {
        lanes: usize,
        asked: Mutex<usize>,
        both: Condvar,
    }

    impl Runner for Counting {
        fn run(&self, _: &Cmd) -> Result<Output, CommandError> {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            let number = *asked;
            self.both.notify_all();
            if self.lanes > 1 && number < 3 {
                let met = self
                    .both
                    .wait_timeout_while(asked, Duration::from_secs(20), |asked| *asked < 2);
                assert!(!met.unwrap().1.timed_out(), "the other one never came");
            }
            Ok(Output {
                stdout: number.to_string().into_bytes(),
                ..Output::default()
            })
        }

        fn feed(&self, cmd: &Cmd, _: &mut Feed<'_>) -> Result<Output, CommandError> {
            self.run(cmd)
        }

        fn fetch(&self, cmd: &Cmd, _: &mut dyn Write) -> Result<Output, CommandError> {
            self.run(cmd)
        }

        fn lanes(&self) -> usize {
            self.lanes
        }
    }

    fn question(name: &str) -> Cmd {
        Cmd::new("cat", [name])
    }

    #[test]
    fn questions_go_side_by_side_and_each_answer_is_given_once() {
        let runner = Arc::new(Counting {
            lanes: 4,
            ..Counting::default()
        });
        let names = ["a", "b", "a"];
        let ahead = Ahead::ask(runner.clone(), &names.map(question));
        assert_eq!(*runner.asked.lock().unwrap(), 3);
        let answer = |name: &str| -> usize {
            let output = ahead.run(&question(name)).unwrap();
            output.text().parse().unwrap()
        };
        let mut given = names.map(answer);
        given.sort_unstable();
        assert_eq!(given, [1, 2, 3], "asked ahead");
        assert_eq!(
            [answer("a"), answer("c")],
            [4, 5],
            "a later question wants a later answer"
        );
    }

    #[test]
    fn a_kept_answer_holds_as_often_as_it_is_asked_for() {
        let runner = Arc::new(Counting {
            lanes: 4,
            ..Counting::default()
        });
        let kept = Ahead::keep(runner.clone(), &["a", "b"].map(question));
        let answer = |name: &str| kept.run(&question(name)).unwrap().text();
        let (a, b) = (answer("a"), answer("b"));
        assert_ne!(a, b);
        assert_eq!([answer("a"), answer("b"), answer("a")], [&*a, &b, &a]);
        assert_eq!(
            [answer("c"), answer("c")],
            ["3", "4"],
            "what is not kept is asked"
        );
    }

    #[test]
    fn where_only_one_is_borne_at_a_time_nothing_is_asked_ahead() {
        let runner = Arc::new(Counting {
            lanes: 1,
            ..Counting::default()
        });
        let questions = [question("a"), question("b")];
        let ahead = Ahead::ask(runner.clone(), &questions);
        let kept = Ahead::keep(runner.clone(), &questions);
        assert_eq!(*runner.asked.lock().unwrap(), 0);
        assert_eq!(ahead.run(&question("b")).unwrap().text(), "1");
        assert_eq!(kept.run(&question("b")).unwrap().text(), "2");
    }
}
