//! The installer is killed with SIGKILL wherever its journal grows, again and again, and started again each time, until it
//! is done.
//!
//! The journal is only the clock by which the lab kills: a watcher on the machine ends the whole process group as soon as
//! the last line is of a kind and a step at which it has not killed yet.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{Bench, Scenario, join};
use crate::checks;
use crate::lab::Bare;
use crate::pot::POT_DIR;
use crate::sh;
use crate::wait;

/// More starts than there are moments to kill at mean that it does not get on.
const MOST_STARTS: usize = 100;
/// Fewer kills would mean that the watcher watches something else.
const FEWEST_KILLS: usize = 12;

const WATCHER: &str = r#"#!/bin/bash
# Starts the installer and kills it, with all its children, at the first moment that is not in /root/killed-at.
cd "$1" || exit 1
shift
touch /root/killed-at
setsid ./kpot-install "$@" >/root/sigkill.out 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null; do
    moment=$(tail -n 1 /var/lib/kpot/journal.jsonl 2>/dev/null |
        sed -nE 's/.*"event":"([a-z-]+)".*/\1/p; ')
    step=$(tail -n 1 /var/lib/kpot/journal.jsonl 2>/dev/null | sed -nE 's/.*"step":"([a-z0-9-]+)".*/\1/p')
    if [ -n "$moment" ] && ! grep -qxF "$moment $step" /root/killed-at; then
        kill -KILL -- -$pid
        wait $pid 2>/dev/null
        echo "$moment $step" >>/root/killed-at
        echo "killed at $moment $step"
        exit 137
    fi
    sleep 0.02
done
wait $pid
status=$?
cat /root/sigkill.out
exit $status
"#;

/// The scenario.
#[derive(Debug, Default)]
pub struct Sigkill {
    kills: usize,
}

impl Scenario for Sigkill {
    fn name(&self) -> String {
        "sigkill".to_owned()
    }

    fn about(&self) -> String {
        "killed at every moment that its journal knows and started again, the installer converges"
            .to_owned()
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(20)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.backup_ready(Bare::Full)?;
        bench.backup_used();
        b1.write("/root/kill-watcher", WATCHER, 0o755)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.b1();
        let healthy = bench.cluster()?.m1().address().to_owned();
        let command = format!("/root/kill-watcher {POT_DIR} join-master --healthy {healthy} --yes");
        for _ in 0..MOST_STARTS {
            let outcome = b1.sh(&command)?.timeout(join::JOIN_LIMIT).outcome()?;
            match outcome.code {
                Some(0) => {
                    sh::say(format_args!(
                        "{} kills later the installer is done",
                        self.kills
                    ));
                    return Ok(());
                }
                Some(137) => self.kills += 1,
                code => bail!(
                    "started again after {} kills the installer ended with {code:?}:\n{}{}",
                    self.kills,
                    outcome.stdout,
                    outcome.stderr
                ),
            }
        }
        bail!("not done after {MOST_STARTS} starts")
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        ensure!(
            self.kills >= FEWEST_KILLS,
            "only {} kills: the watcher does not see the journal",
            self.kills
        );
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        // The last one may have been killed between its last change and giving the lock back, and the one after it had
        // nothing to do.
        wait::until("the lock has expired", Duration::from_mins(2), || {
            checks::lock(cluster)
        })?;
        checks::joined(cluster, &b1, bench.masters() + 1)?;
        checks::pods_work(cluster, &b1, bench.test_image())?;
        join::no_secret_folder(&b1)
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        join::nothing_to_do(bench, &bench.b1())
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.remove_backup()
    }
}
