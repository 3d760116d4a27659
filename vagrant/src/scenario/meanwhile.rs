//! Something happens to a machine at a moment of the installer's own run.
//!
//! The journal is only the clock: a watcher on the machine reads it beside the running installer, and acts as soon as a line
//! appears that was not there before and matches. The installer knows nothing of it. A moment that never came is an error,
//! so that no scenario passes without what it is about.

use anyhow::{Result, ensure};

use super::{Bench, join};
use crate::node::{Node, quoted};
use crate::pot::{self, POT_DIR};
use crate::sh::Outcome;

/// The watcher's own exit status for a moment that never came; the installer's own ones are below 5.
const NEVER_CAME: i32 = 98;
/// The same for an act that failed.
const ACT_FAILED: i32 = 97;

const WATCHER: &str = r#"#!/bin/bash
# Starts the installer, and runs /root/lab-act as soon as a new line of its journal matches the pattern.
journal=/var/lib/kpot/journal.jsonl
cd "$1" || exit 1
pattern=$2
shift 2
touch /root/lab-before
[ ! -e $journal ] || cat $journal >/root/lab-before
seen=$(wc -l </root/lab-before)
./kpot-install "$@" </dev/null &
pid=$!
acted=never
while [ $acted = never ] && kill -0 $pid 2>/dev/null; do
    if tail -n +$((seen + 1)) $journal 2>/dev/null | grep -qE "$pattern"; then
        if /root/lab-act >/root/lab-act.out 2>&1 </dev/null; then acted=well; else acted=badly; fi
    fi
    sleep 0.02
done
wait $pid
status=$?
case $acted in
    never) echo "the moment never came; the installer ended with $status"; exit 98 ;;
    badly) cat /root/lab-act.out; exit 97 ;;
esac
exit $status
"#;

/// What happens, and when.
#[derive(Debug, Clone)]
pub struct Moment {
    /// What a line of the journal looks like, as an extended regular expression.
    pub line: &'static str,
    /// The bash script that then runs on the machine.
    pub act: String,
}

/// Types `join-master` on the backup machine with a moment that comes in between; gives how the installer ended.
pub fn join_until(bench: &Bench, moment: &Moment) -> Result<Outcome> {
    let b1 = bench.b1();
    install(&b1, moment)?;
    let command = format!(
        "/root/lab-watcher {POT_DIR} {} join-master --healthy {} --yes",
        quoted(moment.line),
        bench.cluster()?.m1().address()
    );
    let outcome = b1.sh(&command)?.timeout(join::JOIN_LIMIT).outcome()?;
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    ensure!(
        outcome.code != Some(NEVER_CAME),
        "no line of the journal matched {:?}:\n{said}",
        moment.line
    );
    ensure!(
        outcome.code != Some(ACT_FAILED),
        "what was to happen at {:?} failed:\n{said}",
        moment.line
    );
    Ok(outcome)
}

fn install(node: &Node, moment: &Moment) -> Result<()> {
    node.write("/root/lab-watcher", WATCHER, 0o755)?;
    let act = format!("#!/bin/bash\nset -e\n{}\n", moment.act);
    node.write("/root/lab-act", &act, 0o755)
}

/// The installer failed while at work: it ends with the documented exit status, names all of `words`, among them what to type
/// next, and did not panic.
pub fn failed_clearly(outcome: &Outcome, words: &[&str]) -> Result<()> {
    pot::ensure_ended(outcome, 1, &[])?;
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    // Progress is told on the way; what counts is what the operator reads last.
    let last = said.rsplit("kpot-install: ").next().unwrap_or_default();
    for word in words.iter().chain(&["run the same command again"]) {
        ensure!(
            last.contains(word),
            "the error does not say {word:?}:\n{said}"
        );
    }
    Ok(())
}

/// A line of an act that leaves a bash script running beside the installer, without the watcher's pipes.
pub fn in_background(script: &str) -> String {
    format!(
        "setsid bash -c {} >/dev/null 2>&1 </dev/null &",
        quoted(script)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, stderr: &str) -> Outcome {
        Outcome {
            code: Some(code),
            stdout: "1/9 here …\n".to_owned(),
            stderr: stderr.to_owned(),
        }
    }

    #[test]
    fn a_failure_must_be_told_last_with_its_cause_and_the_next_command() {
        let good = "kpot-install: cannot write /opt/x: No space\nMake room, then run the same command again";
        failed_clearly(&ended(1, good), &["/opt/x", "No space"]).expect("all is said");
        for (code, stderr) in [
            (0, good),
            (3, good),
            (1, "kpot-install: cannot write /opt/x: No space"),
            (
                1,
                "/opt/x No space\nkpot-install: run the same command again",
            ),
            (1, &format!("thread panicked\n{good}")),
        ] {
            failed_clearly(&ended(code, stderr), &["/opt/x", "No space"])
                .expect_err("something is missing");
        }
    }

    #[test]
    fn the_watcher_is_a_script_that_bash_reads() {
        for script in [WATCHER.to_owned(), in_background("echo 'a b'; sleep 1")] {
            let checked = crate::sh::Sh::new("bash")
                .args(["-n", "-c", &script])
                .output();
            checked.expect("bash -n accepts it");
        }
    }
}
