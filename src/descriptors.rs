//! How many files this process may have open. A build has one for each blob until its pot is written, because what has no name leaves nothing behind; what a shell
//! allows by default, often 1,024, is too few for a pot of many images.

use anyhow::ensure;
use bundle_spec::limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a build has open besides blobs and what its threads have: standard streams, the cache, the key, the network's own.
const BASE: u64 = 64;

/// What a thread has open at once: what it reads, what it writes, a reference, a connection.
const THREAD: u64 = 4;

/// As many as the largest pot takes, in powers of two: some programs that kpot starts go through all that they may have.
const ENOUGH: u64 = (limits::BLOBS as u64).next_power_of_two();

/// Raises the limit as far as this process may. Where the system refuses, it stays as it was, and [`suffice`] tells what is too much.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Some(soft) = raised(soft, hard)
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}

fn raised(soft: u64, hard: u64) -> Option<u64> {
    let most = hard.min(ENOUGH);
    (soft < most).then_some(most)
}

/// Whether so many blobs can be open beside so many threads.
///
/// # Errors
/// Where they cannot, with what to type.
pub fn suffice(blobs: usize, threads: usize) -> anyhow::Result<()> {
    // Where the system does not tell, it tells when there are too many.
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    within(blobs, threads, soft)
}

fn within(blobs: usize, threads: usize, soft: u64) -> anyhow::Result<()> {
    let needed = BASE + THREAD * threads as u64 + blobs as u64;
    let enough = needed.next_power_of_two();
    ensure!(
        needed <= soft,
        "the pot has {blobs} parts by now, each an open file until it is written, and this process may have {soft} files open in all. \
         Allow it {enough} or more, and run the same command again: ulimit -n {enough} (as root where the shell refuses), LimitNOFILE={enough} in a systemd unit, --ulimit nofile={enough} for a container"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_a_pot_may_need_and_never_lowered() {
        for (soft, hard, expected) in [
            (1024, 4096, Some(4096)),
            (1024, 1 << 30, Some(ENOUGH)),
            (1024, u64::MAX, Some(ENOUGH)),
            (1024, 1024, None),
            (1 << 20, 1 << 20, None),
            (1 << 20, u64::MAX, None),
        ] {
            assert_eq!(raised(soft, hard), expected, "{soft} of {hard}");
        }
        assert!(ENOUGH > limits::BLOBS as u64 + BASE + THREAD * 64);
    }

    #[test]
    fn too_many_parts_are_told_with_the_limit_that_would_do() {
        assert!(within(900, 8, 1024).is_ok());
        let told = within(1000, 8, 1024).unwrap_err().to_string();
        assert!(told.contains("1000 parts"), "{told}");
        assert!(told.contains("ulimit -n 2048"), "{told}");
    }
}
