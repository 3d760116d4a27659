//! Waiting for something to become true, with a limit and with the last reason why it was not.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often is asked. Short against what is waited for, long against what asking costs.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks until the answer is `Ok(None)`; `Ok(Some(reason))` says why not yet. An error ends the wait at once.
pub fn until(
    what: &str,
    limit: Duration,
    mut not_yet: impl FnMut() -> Result<Option<String>>,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let Some(reason) = not_yet()? else {
            return Ok(());
        };
        if begun.elapsed() >= limit {
            bail!(
                "{what}: not within {} s; last seen: {reason}",
                limit.as_secs()
            );
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_told() {
        let mut asked = 0;
        let error = until("the moon is full", Duration::ZERO, || {
            asked += 1;
            Ok(Some(format!("phase {asked}")))
        })
        .expect_err("it never is");
        assert_eq!(
            error.to_string(),
            "the moon is full: not within 0 s; last seen: phase 1"
        );
        until("nothing", Duration::ZERO, || Ok(None)).expect("true at once");
    }
}
