//! How long and how often things are tried, and when not any more.
//!
//! A failure that another try may cure is tried again after a pause that doubles each time, or that the server named (`Retry-After`), within a limit. A transfer that came
//! a good deal further has its tries anew: a long download over a bad line ends, and so does one that never moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

use super::error::FetchError;
use crate::progress::Task;

/// A transfer that came this much further than ever before, in bytes, has its tries anew.
const HEADWAY: u64 = 1 << 20;

/// How long, how often and how much at once things are tried.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The longest wait for a connection.
    pub connect: Duration,
    /// The longest wait for an answer, and for the next byte of it.
    pub stall: Duration,
    /// The slowest transfer that is put up with, in bytes per second, measured over each `stall`.
    pub rate: u64,
    /// How often a failed request is tried again.
    pub retries: usize,
    /// The pause before the first retry; it doubles each time, up to 16 times this.
    pub pause: Duration,
    /// The longest pause that a server may ask for (`Retry-After`).
    pub patience: Duration,
    /// Transfers at once.
    pub connections: usize,
    /// Transfers at once from one host.
    pub per_host: usize,
}

impl Policy {
    /// What is used where nothing else is said.
    pub const DEFAULT: Self = Self {
        connect: Duration::from_secs(10),
        stall: Duration::from_secs(30),
        rate: 1 << 10,
        retries: 4,
        pause: Duration::from_millis(500),
        patience: Duration::from_mins(1),
        // Enough to hide the latency of a far server, few enough for any server's limits.
        connections: 6,
        per_host: 4,
    };
}

impl Default for Policy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Tells every transfer of a run to give up, because another one has failed for good.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for the stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps, but not past a stop.
    fn sleep(&self, time: Duration) {
        let slice = Duration::from_millis(50);
        let mut left = time;
        while !left.is_zero() && !self.requested() {
            let nap = left.min(slice);
            thread::sleep(nap);
            left -= nap;
        }
    }
}

/// The tries of one request.
pub(super) struct Retries<'a> {
    policy: &'a Policy,
    stop: &'a Stop,
    task: &'a Task,
    pauses: ExponentialBackoff,
    tries: usize,
    /// The furthest that the transfer came when its tries began anew.
    mark: u64,
}

impl<'a> Retries<'a> {
    pub(super) fn new(policy: &'a Policy, stop: &'a Stop, task: &'a Task) -> Self {
        Self {
            policy,
            stop,
            task,
            pauses: pauses(policy),
            tries: 0,
            mark: 0,
        }
    }

    /// Waits for the next try after `error`, with `reached` bytes there.
    ///
    /// # Errors
    /// `error`, where there is no next try.
    pub(super) fn wait(&mut self, error: FetchError, reached: u64) -> Result<(), FetchError> {
        if !error.is_transient() || self.stop.requested() {
            return Err(error);
        }
        if reached >= self.mark.saturating_add(HEADWAY) {
            self.mark = reached;
            self.tries = 0;
            self.pauses = pauses(self.policy);
        }
        self.tries += 1;
        let asked = error.asked_to_wait();
        let Some(pause) = self.pauses.next() else {
            let error = error.tried(self.tries);
            return Err(match asked {
                Some(asked) => error.and(&format!("it asks to wait {} s", asked.as_secs())),
                None => error,
            });
        };
        let pause = pause.max(asked.unwrap_or_default().min(self.policy.patience));
        let said = asked.map_or(String::new(), |asked| {
            format!("; the server asks to wait {} s", asked.as_secs())
        });
        let alone = error.alone();
        self.task.note(&format!(
            "{alone}{said}; trying again in {:.1} s",
            pause.as_secs_f32()
        ));
        self.stop.sleep(pause);
        if self.stop.requested() {
            return Err(error);
        }
        Ok(())
    }
}

fn pauses(policy: &Policy) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(policy.pause)
        .with_max_delay(policy.pause * 16)
        .with_max_times(policy.retries)
        .with_jitter()
        .build()
}

/// How long the server wants to be left alone: seconds, or a date. A date is compared with the server's own clock where it tells it: this machine's may be wrong.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let value = text(RETRY_AFTER)?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than fit are as good as for ever.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = text(DATE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or(now);
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use reqwest::Url;

    fn failure() -> FetchError {
        FetchError::transient(&Url::parse("https://x.example/").unwrap(), "broken")
    }

    #[test]
    fn tries_end_unless_the_transfer_moves() {
        let policy = Policy {
            retries: 2,
            pause: Duration::ZERO,
            ..Policy::DEFAULT
        };
        let (stop, task) = (Stop::default(), Progress::new().task("x", None));
        let mut retries = Retries::new(&policy, &stop, &task);
        // Just short of headway, then far enough, then back at the start: that is none.
        for reached in [HEADWAY - 1, 0, HEADWAY, 2 * HEADWAY - 1] {
            assert!(retries.wait(failure(), reached).is_ok(), "{reached}");
        }
        let given_up = retries.wait(failure(), 0).unwrap_err().to_string();
        assert!(given_up.contains("tried 3 times"), "{given_up}");
    }

    #[test]
    fn a_final_failure_and_a_stop_are_not_waited_for() {
        let policy = Policy {
            pause: Duration::from_mins(1),
            ..Policy::DEFAULT
        };
        let (stop, task) = (Stop::default(), Progress::new().task("x", None));
        let mut retries = Retries::new(&policy, &stop, &task);
        assert!(retries.wait(FetchError::refused("x", "y"), 0).is_err());
        stop.request();
        assert!(retries.wait(failure(), 0).is_err());
    }

    #[test]
    fn what_the_server_asks_for_is_read_as_seconds_or_as_a_date() {
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 08:00:00 GMT").unwrap();
        let rows = [
            ("120", None, Some(120)),
            ("0", None, Some(0)),
            (" 7 ", None, Some(7)),
            ("99999999999999999999999", None, Some(u64::MAX)),
            ("Sat, 21 Nov 2026 08:00:30 GMT", None, Some(30)),
            ("Saturday, 21-Nov-26 08:00:30 GMT", None, Some(30)),
            ("Sat Nov 21 08:00:30 2026", None, Some(30)),
            ("Sat, 21 Nov 2026 07:00:00 GMT", None, Some(0)),
            // The server's clock is an hour ahead.
            (
                "Sat, 21 Nov 2026 09:00:05 GMT",
                Some("Sat, 21 Nov 2026 09:00:00 GMT"),
                Some(5),
            ),
            ("-5", None, None),
            ("1.5", None, None),
            ("soon", None, None),
            ("", None, None),
        ];
        for (value, date, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            if let Some(date) = date {
                headers.insert(DATE, date.parse().unwrap());
            }
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{value:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
