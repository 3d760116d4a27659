//! Whether a body comes fast enough. A server that sends one byte a second never stalls, and never ends.

use std::time::Duration;

use super::retry::Policy;

/// The pace of one body, judged once per window.
pub(super) struct Pace {
    window: Duration,
    /// What a window must bring, in bytes.
    least: u64,
    waited: Duration,
    got: u64,
}

impl Pace {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            window: policy.stall,
            least: policy.rate.saturating_mul(policy.stall.as_secs().max(1)),
            waited: Duration::ZERO,
            got: 0,
        }
    }

    /// So many bytes came after so long a wait. Only waiting counts: what this side does with the bytes is not the server's fault.
    ///
    /// # Errors
    /// A text, where a window brought too little.
    pub(super) fn took(&mut self, waited: Duration, bytes: u64) -> Result<(), String> {
        self.waited += waited;
        self.got += bytes;
        if self.waited < self.window {
            return Ok(());
        }
        if self.got < self.least {
            return Err(format!(
                "only {} bytes came in {:.0?}, and fewer than {} are not waited for",
                self.got, self.waited, self.least
            ));
        }
        (self.waited, self.got) = (Duration::ZERO, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        Pace::new(&Policy {
            stall: 10 * SECOND,
            rate: 100,
            ..Policy::DEFAULT
        })
    }

    #[test]
    fn one_byte_a_second_is_given_up_after_one_window() {
        let mut pace = pace();
        for _ in 0..9 {
            pace.took(SECOND, 1).unwrap();
        }
        let slow = pace.took(SECOND, 1).unwrap_err();
        assert!(
            slow.contains("only 10 bytes") && slow.contains("1000"),
            "{slow}"
        );
    }

    #[test]
    fn a_slow_line_is_put_up_with_and_every_window_counts() {
        let mut pace = pace();
        for _ in 0..100 {
            pace.took(SECOND, 100).unwrap();
        }
        // Once fast is not always fast.
        pace.took(Duration::ZERO, 1 << 30).unwrap();
        pace.took(10 * SECOND, 0).unwrap();
        assert!(pace.took(10 * SECOND, 999).is_err());
    }
}
