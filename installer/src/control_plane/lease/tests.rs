use std::io::Write;
use std::sync::Arc;

use super::*;
use crate::host::clock::Clock;
use crate::host::command::{Cmd, CommandError, Feed, Runner};
use crate::host::scripted::Scripted;

/// For a lock of which nothing is to be told.
fn untold(words: &str) {
    panic!("nobody is to wait here: {words}");
}

#[test]
fn a_run_ends_before_its_lock_does_whatever_the_renewal_does_meanwhile() {
    let script = Scripted::new().with(|_, _| {
        let lease =
            r#"{"metadata":{"resourceVersion":"7"},"spec":{"holderIdentity":"b1/10.0.0.21"}}"#;
        Some(Output {
            stdout: lease.into(),
            ..Output::default()
        })
    });
    let cluster = Cluster::new(ClusterView::new(Arc::new(script), "10.0.0.11"));
    let me = me();
    let (run, before) = (Stop::default(), Instant::now());
    let lock = Lock::take(&cluster, &me, &run, &untold).unwrap();
    let after = Instant::now();
    let ends = DURATION.saturating_sub(MARGIN);
    assert!(
        run.check_at(before + ends.saturating_sub(Duration::from_secs(1)))
            .is_ok()
    );
    // No renewal came back since, with an error or without.
    let lost = run.check_at(after + ends).unwrap_err();
    assert!(lost.to_string().contains("could not be renewed"), "{lost}");
    lock.renew(&cluster).unwrap();
    assert!(run.check().is_ok());
    lock.release().unwrap();
    assert!(
        run.check_at(after + Duration::from_secs(3600)).is_ok(),
        "what follows needs no lock"
    );
}

fn spec(holder: &str, age: u64) -> Spec {
    let renewed =
        humantime::format_rfc3339_micros(SystemTime::now() - Duration::from_secs(age)).to_string();
    Spec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(60),
        renew_time: Some(renewed),
    }
}

/// A Lease that `holder` holds, as an API server tells it.
fn told(version: &str, holder: &str) -> String {
    let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    json!({
        "metadata": { "resourceVersion": version },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": 60, "renewTime": now },
    })
    .to_string()
}

/// What comes of two writes by us, who know the Lease as version 7 and whose first one meets another version, where `holder` holds it; and the versions that we wrote in the place of.
fn overtaken(holder: &'static str, writes: [Option<&str>; 2]) -> ([Result<()>; 2], Vec<String>) {
    let replaced = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&replaced);
    let script = Scripted::new().with(move |cmd, input| {
        if !cmd.to_string().contains(" replace ") {
            return Some(Output {
                stdout: told("8", holder).into(),
                ..Output::default()
            });
        }
        let object: Value = serde_json::from_slice(input).unwrap();
        let version = object["metadata"]["resourceVersion"].as_str().unwrap();
        let mut replaced = replaced.lock().unwrap();
        replaced.push(version.to_owned());
        Some(if version == "7" {
            Output {
                status: 1,
                stderr: b"Error from server (Conflict): the object has been modified".into(),
                ..Output::default()
            }
        } else {
            Output {
                stdout: told(&(replaced.len() + 7).to_string(), "b1/10.0.0.21").into(),
                ..Output::default()
            }
        })
    });
    let cluster = Cluster::new(ClusterView::new(Arc::new(script), "10.0.0.11"));
    let own = Own {
        holder: me(),
        version: Mutex::new("7".to_owned()),
    };
    let outcomes = writes.map(|identity| own.write(&cluster, identity));
    let seen = seen.lock().unwrap().clone();
    (outcomes, seen)
}

#[test]
fn a_write_whose_answer_was_lost_is_found_and_one_of_somebody_else_is_respected() {
    let writes = [Some("b1/10.0.0.21"), None];
    let (outcomes, versions) = overtaken("b1/10.0.0.21", writes);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(
        versions,
        ["7", "8", "9"],
        "the read one, then the written one"
    );
    for (holder, word) in [
        ("b2/10.0.0.22", "b2/10.0.0.22 is changing"),
        ("", "no longer ours"),
    ] {
        let (outcomes, versions) = overtaken(holder, writes);
        for outcome in outcomes {
            let told = outcome.unwrap_err().to_string();
            assert!(told.contains(word), "{holder}: {told}");
        }
        assert_eq!(versions, ["7", "7"], "nothing of theirs is replaced");
    }
}

fn me() -> Holder {
    Holder {
        identity: "b1/10.0.0.21".to_owned(),
        clock_skew: 0.0,
        api: "coordination.k8s.io/v1",
    }
}

#[test]
fn a_lock_blocks_others_until_it_expires_and_never_its_own_machine() {
    let blocking = |spec| blocking(&spec, "b1/10.0.0.21", SystemTime::now());
    assert!(
        blocking(spec("b2/10.0.0.22", 5))
            .is_some_and(|(other, left)| other == "b2/10.0.0.22" && (50..=56).contains(&left))
    );
    assert_eq!(blocking(spec("b2/10.0.0.22", 61)), None);
    assert_eq!(blocking(spec("b1/10.0.0.21", 5)), None);
    assert_eq!(
        blocking(Spec {
            holder_identity: None,
            ..spec("", 0)
        }),
        None
    );
}

#[test]
fn a_lock_is_free_held_or_expired_for_somebody_who_only_looks() {
    let now = SystemTime::now();
    assert!(matches!(
        judged(spec("b2/10.0.0.22", 5), now),
        Standing::Held {
            seconds_left: 50..=56,
            ..
        }
    ));
    assert_eq!(
        judged(spec("b2/10.0.0.22", 61), now),
        Standing::Expired {
            holder: "b2/10.0.0.22".to_owned()
        }
    );
    assert_eq!(judged(spec("", 0), now), Standing::Free);
    assert_eq!(judged(Spec::default(), now), Standing::Free);
}

/// A healthy master at which time passes only where somebody waits.
struct Patient {
    script: Scripted,
    began: Instant,
    passed: Mutex<Duration>,
}

impl Clock for Patient {
    fn now(&self) -> Instant {
        self.began + *self.passed.lock().unwrap()
    }

    fn pause(&self, length: Duration) {
        *self.passed.lock().unwrap() += length;
    }
}

impl Runner for Patient {
    fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        self.script.run(cmd)
    }

    fn feed(&self, cmd: &Cmd, feed: &mut Feed<'_>) -> Result<Output, CommandError> {
        self.script.feed(cmd, feed)
    }

    fn fetch(&self, cmd: &Cmd, sink: &mut dyn Write) -> Result<Output, CommandError> {
        self.script.fetch(cmd, sink)
    }

    fn clock(&self) -> &dyn Clock {
        self
    }
}

/// How a lock was taken, or not.
struct Taken {
    /// Why not.
    outcome: Result<()>,
    /// How long was waited.
    waited: Duration,
    /// What the operator was told.
    told: Vec<String>,
    /// The versions in whose place was written.
    replaced: Vec<String>,
}

/// Takes the lock where `leases` are seen one after the other, the last one from then on, each with its version.
fn taking(leases: &[(&str, Spec)]) -> Taken {
    let texts: Vec<String> = leases
        .iter()
        .map(|(version, spec)| {
            json!({
                "metadata": { "resourceVersion": version },
                "spec": {
                    "holderIdentity": spec.holder_identity,
                    "leaseDurationSeconds": spec.lease_duration_seconds,
                    "renewTime": spec.renew_time,
                },
            })
            .to_string()
        })
        .collect();
    let replaced = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&replaced);
    let mut looks = 0;
    let script = Scripted::new().with(move |cmd, input| {
        if cmd.to_string().contains(" get ") {
            let text = &texts[looks.min(texts.len() - 1)];
            looks += 1;
            return Some(Output {
                stdout: text.clone().into(),
                ..Output::default()
            });
        }
        let object: Value = serde_json::from_slice(input).unwrap();
        let version = object["metadata"]["resourceVersion"].as_str().unwrap();
        // The last write gives the lock back.
        if object["spec"]["holderIdentity"].is_string() {
            seen.lock().unwrap().push(version.to_owned());
        }
        Some(Output {
            stdout: told("99", "b1/10.0.0.21").into(),
            ..Output::default()
        })
    });
    let master = Arc::new(Patient {
        script,
        began: Instant::now(),
        passed: Mutex::default(),
    });
    let cluster = Cluster::new(ClusterView::new(master.clone(), "10.0.0.11"));
    let words = Mutex::new(Vec::new());
    let tell = |text: &str| words.lock().unwrap().push(text.to_owned());
    let outcome = Lock::take(&cluster, &me(), &Stop::default(), &tell).and_then(Lock::release);
    let replaced = replaced.lock().unwrap().clone();
    let waited = *master.passed.lock().unwrap();
    Taken {
        outcome,
        waited,
        told: words.into_inner().unwrap(),
        replaced,
    }
}

#[test]
fn a_lock_that_looks_expired_is_taken_over_once_nobody_renewed_it_for_as_long_as_it_lasts() {
    let untimed = Spec {
        renew_time: None,
        ..spec("b2/10.0.0.22", 0)
    };
    let (young, old) = (spec("b2/10.0.0.22", 61), spec("b2/10.0.0.22", 600));
    for left in [young, old, untimed] {
        let taken = taking(&[("7", left)]);
        taken.outcome.unwrap();
        assert_eq!(taken.waited, DURATION);
        assert_eq!(taken.replaced, ["7"]);
        assert_eq!(taken.told.len(), 1);
        assert!(
            taken.told[0].contains("b2/10.0.0.22's") && taken.told[0].contains("for 60 s"),
            "{:?}",
            taken.told
        );
    }
    let short = Spec {
        lease_duration_seconds: Some(20),
        ..spec("b2/10.0.0.22", 61)
    };
    assert_eq!(taking(&[("7", short)]).waited, Duration::from_secs(20));
}

#[test]
fn a_holder_by_another_masters_clock_keeps_its_lock() {
    let (before, after) = (spec("b2/10.0.0.22", 90), spec("b2/10.0.0.22", 75));
    // Renewed, replaced by somebody else's, given back, and touched by somebody who left its times as they were.
    for changed in [
        ("8", after),
        ("8", spec("b3/10.0.0.23", 90)),
        ("8", spec("", 90)),
        ("8", before.clone()),
    ] {
        let taken = taking(&[("7", before.clone()), ("7", before.clone()), changed]);
        let told = taken.outcome.unwrap_err().to_string();
        assert!(
            told.contains("b2/10.0.0.22 is changing the masters"),
            "{told}"
        );
        assert_eq!(taken.waited, LOOK * 2);
        assert_eq!(taken.replaced, [""; 0], "nothing of theirs is replaced");
    }
}

#[test]
fn nobody_waits_for_what_is_free_ours_live_or_expired_long_ago() {
    let long_ago = DURATION + SKEW + Duration::from_secs(5);
    for spec in [
        spec("b2/10.0.0.22", long_ago.as_secs()),
        spec("b1/10.0.0.21", 5),
        spec("b1/10.0.0.21", 90),
        spec("", 90),
        Spec::default(),
    ] {
        let taken = taking(&[("7", spec)]);
        taken.outcome.unwrap();
        assert_eq!(taken.waited, Duration::ZERO);
        assert_eq!(taken.replaced, ["7"]);
        assert_eq!(taken.told, [""; 0]);
    }
    let live = taking(&[("7", spec("b2/10.0.0.22", 5))]);
    assert!(live.outcome.is_err());
    assert_eq!(live.waited, Duration::ZERO);
    assert_eq!(live.replaced, [""; 0]);
}

#[test]
fn expiry_is_told_by_the_clusters_clock() {
    assert!(
        blocking(&spec("other", 20), "me", by_the_cluster(50.0)).is_some(),
        "a clock that is ahead must not expire a lock early"
    );
    assert_eq!(
        blocking(&spec("other", 30), "me", by_the_cluster(-40.0)),
        None
    );
}
