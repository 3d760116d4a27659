//! The cluster-wide lock: a Lease in kube-system, so that two machines do not change the masters of one cluster at the same time.
//!
//! It is taken before the first change on the cluster, renewed while the work goes on, and given back at the end, on failure too. It is taken over from somebody else
//! only after it expired; from ourselves (a run that was killed) at once. Every write carries the version that was read, or that the last write of this run made, so that of two
//! takers one loses.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::facts::ClusterFacts;
use super::objects::Metadata;
use super::{Cluster, ClusterView};
use crate::host::command::Output;
use crate::kubernetes::Traits;
use crate::signals::Stop;

/// The Lease's name; its namespace is kube-system.
pub const NAME: &str = "kpot";

/// How long the lock holds without being renewed.
const DURATION: Duration = Duration::from_secs(60);

/// How long before it ends this program takes it for lost: what is begun just before that still has its effect while nobody else can hold it. The removal of a member is
/// ended after 20 s. One renewal may fail, and the lock is not taken for lost yet.
const MARGIN: Duration = Duration::from_secs(25);

/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(15);

/// How soon a renewal that failed is tried again: it may have hung for most of the time that was left.
const RETRY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Deserialize)]
struct Lease {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    holder_identity: Option<String>,
    lease_duration_seconds: Option<u64>,
    renew_time: Option<String>,
}

/// The lock, while this program holds it. Dropping it gives it back.
pub struct Lock {
    run: Stop,
    own: Arc<Own>,
    stop: Option<Sender<()>>,
    renewer: Option<JoinHandle<Result<()>>>,
}

/// Who asks for the lock.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// Node name and address: a killed run of the same machine is recognised by it.
    pub identity: String,
    /// Seconds that this machine's clock is ahead of the healthy master's: times are written by the cluster's clock.
    pub clock_skew: f64,
    /// The API version of Leases in this cluster.
    pub api: &'static str,
}

/// The Lease as this run wrote it last.
struct Own {
    holder: Holder,
    /// Its version in the cluster. Whoever writes holds it: no two writes of one run meet.
    version: Mutex<String>,
}

/// Where an API server has the Lease, and what it must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The path of the Lease in its API.
    pub path: String,
    /// The revision of etcd with which this run wrote it last.
    pub revision: u64,
}

impl Holder {
    /// Somebody who asks for the lock of a cluster with `cluster`'s facts.
    pub fn new(identity: String, cluster: &ClusterFacts) -> Self {
        Self {
            identity,
            clock_skew: cluster.clock_skew,
            api: Traits::of(cluster.version).leases,
        }
    }

    fn now(&self) -> SystemTime {
        by_the_cluster(self.clock_skew)
    }
}

/// The time by the cluster's clock, of which this machine's is so many seconds ahead.
fn by_the_cluster(clock_skew: f64) -> SystemTime {
    let shift = Duration::from_secs_f64(clock_skew.abs());
    if clock_skew > 0.0 {
        SystemTime::now() - shift
    } else {
        SystemTime::now() + shift
    }
}

/// Who else holds the lock now, and for how many more seconds; nothing where it is free, expired, or our own.
pub fn held_by_other(view: &ClusterView, holder: &Holder) -> Result<Option<(String, u64)>> {
    let lease: Option<Lease> = view.find(&["lease", NAME, "--namespace", "kube-system"])?;
    Ok(lease.and_then(|lease| blocking(&lease.spec, &holder.identity, holder.now())))
}

/// Whether we hold the lock: a killed run of ours did not give it back.
pub fn is_ours(view: &ClusterView, holder: &Holder) -> Result<bool> {
    let lease: Option<Lease> = view.find(&["lease", NAME, "--namespace", "kube-system"])?;
    Ok(lease.is_some_and(|lease| lease.spec.holder_identity.as_ref() == Some(&holder.identity)))
}

/// Gives the lock back that a killed run of ours held. The caller has made sure that no run of ours is at work.
pub fn give_back(cluster: &Cluster, holder: &Holder) -> Result<()> {
    write(cluster, holder, None, Take::Keep).map(drop)
}

/// How the lock stands, whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Standing {
    /// Nobody holds it.
    Free,
    /// Somebody holds it.
    Held {
        /// Node name and address.
        holder: String,
        /// Seconds until it expires, unless renewed.
        seconds_left: u64,
    },
    /// Somebody neither gave it back nor renewed it: that run was killed, or lost the cluster.
    Expired {
        /// Node name and address.
        holder: String,
    },
}

/// Looks at the lock, by a clock that is `clock_skew` seconds ahead of the cluster's.
pub fn standing(view: &ClusterView, clock_skew: f64) -> Result<Standing> {
    let lease: Option<Lease> = view.find(&["lease", NAME, "--namespace", "kube-system"])?;
    let now = by_the_cluster(clock_skew);
    Ok(lease.map_or(Standing::Free, |lease| judged(lease.spec, now)))
}

fn judged(spec: Spec, now: SystemTime) -> Standing {
    if let Some((holder, seconds_left)) = blocking(&spec, "", now) {
        return Standing::Held {
            holder,
            seconds_left,
        };
    }
    match spec.holder_identity {
        Some(holder) if !holder.is_empty() => Standing::Expired { holder },
        _ => Standing::Free,
    }
}

/// Who else than `own` holds the lock at this time of the cluster's, and for how many more seconds.
fn blocking(spec: &Spec, own: &str, now: SystemTime) -> Option<(String, u64)> {
    let other = spec
        .holder_identity
        .as_ref()
        .filter(|other| !other.is_empty() && *other != own)?;
    let renewed = humantime::parse_rfc3339(spec.renew_time.as_deref()?).ok()?;
    let expiry =
        renewed + Duration::from_secs(spec.lease_duration_seconds.unwrap_or(DURATION.as_secs()));
    // Expired exactly where the difference is negative.
    let left = expiry.duration_since(now).ok()?;
    Some((other.clone(), left.as_secs() + 1))
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Somebody else holds it (named, with the time that is left), or took it at the same moment.
    ///
    /// A run whose lock was not renewed in time, because the renewal failed or hangs, is ended by `run`.
    pub fn take(cluster: &Cluster, holder: &Holder, run: &Stop) -> Result<Self> {
        let version = held(run, || {
            write(cluster, holder, Some(&holder.identity), Take::Acquire)
        })?;
        let own = Arc::new(Own {
            holder: holder.clone(),
            version: Mutex::new(version),
        });
        let (stop, stopped) = mpsc::channel();
        let (renewing, renewed) = (Cluster::new(cluster.view().clone()), Arc::clone(&own));
        let watched = run.clone();
        let renewer = thread::spawn(move || {
            let mut pause = RENEWAL;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
                let outcome = held(&watched, || renewed.renew(&renewing));
                pause = if outcome.is_ok() { RENEWAL } else { RETRY };
            }
            renewed.write(&renewing, None)
        });
        Ok(Self {
            run: run.clone(),
            own,
            stop: Some(stop),
            renewer: Some(renewer),
        })
    }

    /// Renews the lock now, so that the Lease is as young as this moment. Where that fails it is tried once more: an etcd whose members have just changed may look for a leader.
    pub fn renew(&self, cluster: &Cluster) -> Result<()> {
        let renew = || held(&self.run, || self.own.renew(cluster));
        renew().or_else(|_| renew())
    }

    /// The Lease as it was last written.
    pub fn written(&self) -> Result<Written> {
        let revision = self.own.version().parse();
        Ok(Written {
            path: format!(
                "/apis/{}/namespaces/kube-system/leases/{NAME}",
                self.own.holder.api
            ),
            revision: revision.context("a revision is a number")?,
        })
    }

    /// Gives the lock back.
    pub fn release(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        let Some(renewer) = self.renewer.take() else {
            return Ok(());
        };
        let ended = renewer.join();
        self.run.lock_is_given_back();
        ended
            .unwrap_or_else(|_| bail!("the renewal of the cluster's lock panicked"))
            .context("cannot give back the cluster's lock; it expires by itself in a minute")
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Where nobody asked for the result, another error is on its way to the operator; the lock expires by itself.
        let _ = self.end();
    }
}

impl Own {
    fn version(&self) -> MutexGuard<'_, String> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the Lease anew, for its holder.
    fn renew(&self, cluster: &Cluster) -> Result<()> {
        self.write(cluster, Some(&self.holder.identity))
    }

    /// Writes the Lease anew: at once where nobody else has written it since.
    fn write(&self, cluster: &Cluster, identity: Option<&str>) -> Result<()> {
        let mut version = self.version();
        let object = lease(&self.holder, identity, Some(&version));
        let output = cluster.put(&object)?;
        *version = if output.ok() {
            version_of(&output)?
        } else {
            ensure!(output.evidence().contains(CONFLICT), refused(&output));
            write(cluster, &self.holder, identity, Take::Keep)?
        };
        Ok(())
    }
}

/// Writes the Lease, and tells `run` how long it holds then: from before it was written, however long that took.
fn held<T>(run: &Stop, write: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let written = write()?;
    run.lock_is_held_until(begun + DURATION.saturating_sub(MARGIN));
    Ok(written)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    Acquire,
    Keep,
}

/// Reads the Lease, writes it for `identity` if nobody else holds it, and returns its version.
fn write(cluster: &Cluster, holder: &Holder, identity: Option<&str>, take: Take) -> Result<String> {
    let known: Option<Lease> =
        cluster
            .view()
            .find(&["lease", NAME, "--namespace", "kube-system"])?;
    if let Some((other, left)) = known
        .as_ref()
        .and_then(|known| blocking(&known.spec, &holder.identity, holder.now()))
    {
        bail!(
            "{other} is changing the masters of this cluster right now (Lease kube-system/{NAME}). Wait for it; its lock expires in {left} s unless renewed"
        );
    }
    if take == Take::Keep {
        let own = known
            .as_ref()
            .is_some_and(|known| known.spec.holder_identity.as_deref() == Some(&holder.identity));
        ensure!(own, "the cluster's lock is no longer ours");
    }
    let version = known
        .as_ref()
        .map(|known| known.metadata.resource_version.as_str());
    let output = cluster.put(&lease(holder, identity, version))?;
    ensure!(output.ok(), refused(&output));
    version_of(&output)
}

/// The Lease for `identity`, now; `version` is that of the one in whose place it comes.
fn lease(holder: &Holder, identity: Option<&str>, version: Option<&str>) -> Value {
    let now = humantime::format_rfc3339_micros(holder.now()).to_string();
    let mut object = json!({
        "apiVersion": holder.api,
        "kind": "Lease",
        "metadata": { "name": NAME, "namespace": "kube-system" },
        "spec": { "leaseDurationSeconds": DURATION.as_secs(), "renewTime": now, "acquireTime": now },
    });
    if let Some(identity) = identity {
        object["spec"]["holderIdentity"] = json!(identity);
    }
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = json!(version);
    }
    object
}

/// The version that an object has by the answer to a write.
fn version_of(written: &Output) -> Result<String> {
    let lease: Lease = serde_json::from_slice(&written.stdout).context("a Lease is expected")?;
    Ok(lease.metadata.resource_version)
}

/// What an API server says of a version that is no longer the newest.
const CONFLICT: &str = "(Conflict)";

fn refused(output: &Output) -> String {
    format!(
        "cannot take the cluster's lock: {}\nAnother machine may have taken it at the same moment: run this again",
        output.evidence()
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::scripted::Scripted;

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
        let lock = Lock::take(&cluster, &me, &run).unwrap();
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
            humantime::format_rfc3339_micros(SystemTime::now() - Duration::from_secs(age))
                .to_string();
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
    fn overtaken(
        holder: &'static str,
        writes: [Option<&str>; 2],
    ) -> ([Result<()>; 2], Vec<String>) {
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
}
