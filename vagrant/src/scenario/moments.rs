//! Moments of the installer's work, seen from outside: what its journal says last, and what kubeadm prints. A watcher on the
//! machine starts the installer and kills it, or holds it, at moments that a scenario names.
//!
//! A moment is `EVENT STEP`, with the first two words of what happens where that is on the cluster (`intent remove-member
//! remove etcd`), or `kubeadm PHASE` while kubeadm runs; its phase `etcd` begins when the new member was added. A run is
//! watched from its own first line on, so that what an earlier one left is no moment of it. The journal is only the clock:
//! nobody here believes what it says.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use crate::cluster::KILLED;
use crate::node::{Node, quoted};
use crate::pot::POT_DIR;
use crate::sh::Outcome;

/// How long a held installer may stay so. Its lock on the cluster ends after a minute without renewal.
const HELD_LIMIT: Duration = Duration::from_secs(45);
/// How often it is asked whether it is held.
const PAUSE: Duration = Duration::from_millis(500);

const WATCHER: &str = r#"#!/bin/bash
# watcher kill|hold POT WHERE ARGUMENTS…: runs the installer in the folder POT. Once ever for each moment that matches the
# regular expression WHERE it is killed with all its children; or once it is stopped until there is a file go-on.
here=/tmp/moments
act=$1
where=$3
cd "$2" || exit 1
shift 3
touch $here/seen
rm -f $here/held $here/go-on
journal=/var/lib/kpot/journal.jsonl
size() { stat -c %s $journal 2>/dev/null || echo 0; }
began=$(size)
in_journal() {
    [ "$(size)" -gt "$began" ] || return
    tail -n 1 $journal | sed -nE '
        s/.*"event":"([a-z-]+)".*"step":"([a-z0-9-]+)".*"what":"([A-Za-z]+ [A-Za-z]+).*/\1 \2 \3/p; t
        s/.*"event":"([a-z-]+)".*"step":"([a-z0-9-]+)".*/\1 \2/p; t
        s/.*"event":"([a-z-]+)".*/\1/p'
}
in_kubeadm() {
    pgrep -x kubeadm >/dev/null || return
    phase=$(sed -nE 's/^\[([a-z-]+)\].*/\1/p' /var/lib/kpot/kubeadm-join.log 2>/dev/null | tail -n 1)
    echo "kubeadm $phase"
}
setsid ./kpot-install "$@" >$here/said 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null; do
    for moment in "$(in_journal)" "$(in_kubeadm)"; do
        if [ -z "$moment" ] || ! [[ $moment =~ $where ]] || grep -qxF "$moment" $here/seen; then
            continue
        fi
        if [ "$act" = hold ]; then
            kill -STOP -- -$pid
            echo "$moment" >>$here/seen
            echo "$moment" >$here/held
            until [ -e $here/go-on ]; do sleep 0.1; done
            where='^$'
            kill -CONT -- -$pid
            continue
        fi
        kill -KILL -- -$pid
        # kubeadm outlives the installer; a machine that loses its power takes it along.
        case $moment in kubeadm*) pkill -KILL -x kubeadm ;; esac
        wait $pid 2>/dev/null
        echo "$moment" >>$here/seen
        echo "killed at $moment"
        exit 137
    done
    sleep 0.02
done
wait $pid
status=$?
cat $here/said
exit $status
"#;

/// Puts the watcher on a machine; it has seen nothing yet. It lives in /tmp, which no comparison of a machine's files looks at.
pub fn prepare(node: &Node) -> Result<()> {
    node.run("rm -rf /tmp/moments")?;
    node.write("/tmp/moments/watcher", WATCHER, 0o755)
}

/// One run that is killed at the first moment at which none was killed yet. Says whether it was.
pub fn kill_at(
    node: &Node,
    wanted: &str,
    arguments: &str,
    limit: Duration,
) -> Result<(Outcome, bool)> {
    let outcome = watch(node, "kill", wanted, arguments, limit)?;
    let killed = outcome.code == Some(KILLED);
    Ok((outcome, killed))
}

/// One run that is killed at a moment and must not come to its end before.
pub fn killed_at(node: &Node, wanted: &str, arguments: &str, limit: Duration) -> Result<()> {
    let (outcome, killed) = kill_at(node, wanted, arguments, limit)?;
    ensure!(
        killed,
        "`kpot-install {arguments}` on {node} was to be killed at {wanted}, and ended with {:?}:\n{}{}",
        outcome.code,
        outcome.stdout,
        outcome.stderr
    );
    Ok(())
}

/// One run that is held at a moment while something else is done, and then goes on to its end.
pub fn hold_at(
    node: &Node,
    wanted: &str,
    arguments: &str,
    limit: Duration,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Outcome> {
    thread::scope(|scope| {
        let run = scope.spawn(|| watch(node, "hold", wanted, arguments, limit));
        let mut meanwhile = Some(meanwhile);
        let mut done = Ok(());
        while !run.is_finished() {
            let held = node
                .outcome("test -e /tmp/moments/held")
                .is_ok_and(|held| held.ok());
            if let Some(meanwhile) = meanwhile.take_if(|_| held) {
                let begun = Instant::now();
                done = meanwhile().and_then(|()| {
                    ensure!(
                        begun.elapsed() <= HELD_LIMIT,
                        "the installer was held for {} s: its lock has ended",
                        begun.elapsed().as_secs()
                    );
                    Ok(())
                });
                node.run("touch /tmp/moments/go-on")?;
            }
            thread::sleep(PAUSE);
        }
        let outcome = run
            .join()
            .unwrap_or_else(|_| Err(anyhow!("watching the installer panicked")))?;
        done?;
        if meanwhile.is_some() {
            bail!(
                "`kpot-install {arguments}` on {node} was to be held at {wanted}, and ended with {:?}:\n{}{}",
                outcome.code,
                outcome.stdout,
                outcome.stderr
            );
        }
        Ok(outcome)
    })
}

/// The moments at which it was killed or held, in order.
pub fn seen(node: &Node) -> Result<Vec<String>> {
    let seen = node.output("cat /tmp/moments/seen")?;
    Ok(seen.lines().map(str::to_owned).collect())
}

fn watch(
    node: &Node,
    act: &str,
    wanted: &str,
    arguments: &str,
    limit: Duration,
) -> Result<Outcome> {
    node.sh(&format!(
        "/tmp/moments/watcher {act} {POT_DIR} {} {arguments}",
        quoted(wanted)
    ))?
    .timeout(limit)
    .outcome()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sh::{self, Sh};

    /// The watcher's own functions, asked of a journal that it finds grown.
    fn moment(line: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = folder.path().join("journal");
        sh::write_atomic(&journal, format!("{line}\n").as_bytes(), 0o600).expect("written");
        let functions: Vec<&str> = WATCHER
            .lines()
            .skip_while(|line| !line.starts_with("size()"))
            .take_while(|line| !line.starts_with("in_kubeadm"))
            .filter(|line| !line.starts_with("began="))
            .collect();
        let script = format!(
            "journal={}\nbegan=0\n{}\nin_journal",
            journal.display(),
            functions.join("\n")
        );
        Sh::new("bash")
            .args(["-c", &script])
            .output()
            .expect("bash")
    }

    #[test]
    fn a_line_of_the_journal_is_a_moment() {
        for (line, expected) in [
            (
                r#"{"run":"1.2-3","time":1,"event":"begin","workflow":"join-master","pot":"sha256:00","program":"0.1.0"}"#,
                "begin",
            ),
            (
                r#"{"run":"1.2-3","time":1,"event":"step","step":"keep-record"}"#,
                "step keep-record",
            ),
            (
                r#"{"run":"1.2-3","time":1,"event":"intent","step":"remove-member","change":{"kind":"cluster","what":"remove etcd member m3 36 https://10.77.0.13:2380"}}"#,
                "intent remove-member remove etcd",
            ),
            (
                r#"{"run":"1.2-3","time":1,"event":"intent","step":"kubeadm-join","change":{"kind":"join","node":"b1","address":"10.77.0.21"}}"#,
                "intent kubeadm-join",
            ),
            (
                r#"{"run":"1.2-3","time":1,"event":"end","outcome":"done"}"#,
                "end",
            ),
        ] {
            assert_eq!(moment(line), expected);
        }
    }

    #[test]
    fn a_shell_reads_the_watcher() {
        let checked = Sh::new("bash").args(["-n"]).stdin(WATCHER).outcome();
        assert!(checked.expect("bash").ok());
    }
}
