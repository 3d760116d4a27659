//! The cluster-wide lock: a Lease in kube-system, so that two machines do not change the masters of one cluster at the same time.
//!
//! It is taken before the first change on the cluster, renewed while the work goes on, and given back at the end, on failure too. It is taken over from somebody else
//! only after it expired; from ourselves (a run that was killed) at once. Every write carries the version that was read, or that the last write of this run made, so that of two
//! takers one loses.
//!
//! Somebody else's times are written by the clock of another master, and masters may differ: a lock that looks expired is watched for as long as it lasts, by the time that passes
//! here, and taken over where nobody renewed it meanwhile. One that expired longer ago than clocks differ is taken over at once.

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

/// How long ago a lock has to be expired that nobody needs to watch. Each run measures its own master's clock and is refused at a minute's difference; nobody compares the clocks of two masters,
/// but etcd complains of a second between its members. What is longer ago than this was left by a run that is dead.
const SKEW: Duration = Duration::from_secs(600);

/// Between two looks at a lock that is watched.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Lease {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
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

/// Who else holds the lock now, and for how many more seconds; nothing where it is free, our own, or expired by the cluster's clock ([`Lock::take`] may have to watch such a one).
pub fn held_by_other(view: &ClusterView, holder: &Holder) -> Result<Option<(String, u64)>> {
    let lease = find(view)?;
    Ok(lease.and_then(|lease| blocking(&lease.spec, &holder.identity, holder.now())))
}

/// Whether we hold the lock: a killed run of ours did not give it back.
pub fn is_ours(view: &ClusterView, holder: &Holder) -> Result<bool> {
    let lease = find(view)?;
    Ok(lease.is_some_and(|lease| lease.spec.holder_identity.as_ref() == Some(&holder.identity)))
}

/// Gives the lock back that a killed run of ours held. The caller has made sure that no run of ours is at work.
pub fn give_back(cluster: &Cluster, holder: &Holder) -> Result<()> {
    rewrite(cluster, holder, None).map(drop)
}

fn find(view: &ClusterView) -> Result<Option<Lease>> {
    view.find(&["lease", NAME, "--namespace", "kube-system"])
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
    let lease = find(view)?;
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

impl Spec {
    /// Who else than `own` is named as the holder, whether the lock is expired or not.
    fn other(&self, own: &str) -> Option<&str> {
        self.holder_identity
            .as_deref()
            .filter(|other| !other.is_empty() && *other != own)
    }

    /// How long the lock holds without being renewed.
    fn duration(&self) -> Duration {
        self.lease_duration_seconds
            .map_or(DURATION, Duration::from_secs)
    }

    /// When the lock ends, by the clock of whoever renewed it last; nothing where that is not told.
    fn expiry(&self) -> Option<SystemTime> {
        let renewed = humantime::parse_rfc3339(self.renew_time.as_deref()?).ok()?;
        Some(renewed + self.duration())
    }
}

/// Who else than `own` holds the lock at this time of the cluster's, and for how many more seconds.
fn blocking(spec: &Spec, own: &str, now: SystemTime) -> Option<(String, u64)> {
    let other = spec.other(own)?;
    // Expired exactly where the difference is negative.
    let left = spec.expiry()?.duration_since(now).ok()?;
    Some((other.to_owned(), left.as_secs() + 1))
}

/// Who else than `own` may hold the lock all the same, though it is expired at this time of the cluster's: by another clock it may not be.
fn doubtful<'s>(spec: &'s Spec, own: &str, now: SystemTime) -> Option<&'s str> {
    let other = spec.other(own)?;
    let long_over = spec.expiry().is_some_and(|end| end + SKEW < now);
    (!long_over).then_some(other)
}

impl Lock {
    /// Takes the lock. Somebody else's that may only look expired is watched before, for a minute as a rule, which `tell` says to the operator.
    ///
    /// # Errors
    /// Somebody else holds it (named, with the time that is left), renewed it while it was watched, or took it at the same moment; or `run` was asked to end meanwhile.
    ///
    /// A run whose lock was not renewed in time, because the renewal failed or hangs, is ended by `run`.
    pub fn take(
        cluster: &Cluster,
        holder: &Holder,
        run: &Stop,
        tell: &dyn Fn(&str),
    ) -> Result<Self> {
        let known = takeable(cluster.view(), holder, run, tell)?;
        let version = held(run, || {
            put(cluster, holder, Some(&holder.identity), known.as_deref())
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
            rewrite(cluster, &self.holder, identity)?
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

/// The version of the Lease that may be replaced: one that is free, our own, or left by somebody whose run is dead; nothing where there is no Lease.
fn takeable(
    view: &ClusterView,
    holder: &Holder,
    run: &Stop,
    tell: &dyn Fn(&str),
) -> Result<Option<String>> {
    let Some(lease) = unheld(view, holder)? else {
        return Ok(None);
    };
    if let Some(other) = doubtful(&lease.spec, &holder.identity, holder.now()) {
        tell(&format!(
            "the cluster's lock is {other}'s and looks expired (Lease kube-system/{NAME}). The clocks of two masters may differ: it is watched for {} s, and taken over unless it is renewed …",
            lease.spec.duration().as_secs()
        ));
        watch(view, &lease, other, run)?;
    }
    Ok(Some(lease.metadata.resource_version))
}

/// Looks at somebody else's lock for as long as it lasts.
///
/// # Errors
/// It was written meanwhile: `other` is at work, or was until a moment ago.
fn watch(view: &ClusterView, lease: &Lease, other: &str, run: &Stop) -> Result<()> {
    let clock = view.clock();
    let end = clock.now() + lease.spec.duration();
    while clock.now() < end {
        run.check()?;
        clock.pause(LOOK);
        ensure!(
            find(view)?.as_ref() == Some(lease),
            "{other} is changing the masters of this cluster right now: its lock (Lease kube-system/{NAME}) changed while it was watched, though it looked expired by the healthy master's clock. Wait for it; and see whether the masters' clocks agree: date --utc"
        );
    }
    Ok(())
}

/// The Lease, where there is one.
///
/// # Errors
/// Somebody else holds it by the cluster's clock.
fn unheld(view: &ClusterView, holder: &Holder) -> Result<Option<Lease>> {
    let known = find(view)?;
    if let Some((other, left)) = known
        .as_ref()
        .and_then(|known| blocking(&known.spec, &holder.identity, holder.now()))
    {
        bail!(
            "{other} is changing the masters of this cluster right now (Lease kube-system/{NAME}). Wait for it; its lock expires in {left} s unless renewed"
        );
    }
    Ok(known)
}

/// Reads the Lease, writes it for `identity` if it is ours, and returns its version.
fn rewrite(cluster: &Cluster, holder: &Holder, identity: Option<&str>) -> Result<String> {
    let own = unheld(cluster.view(), holder)?
        .filter(|known| known.spec.holder_identity.as_deref() == Some(&holder.identity))
        .context("the cluster's lock is no longer ours")?;
    let version = &own.metadata.resource_version;
    put(cluster, holder, identity, Some(version))
}

/// Writes the Lease for `identity` in the place of the one of this `version`, or as the first one, and returns its version.
fn put(
    cluster: &Cluster,
    holder: &Holder,
    identity: Option<&str>,
    version: Option<&str>,
) -> Result<String> {
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
mod tests;
