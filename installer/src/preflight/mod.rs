//! Whether this machine can become a master: rows of a table, each a pure function of the facts.
//!
//! Every row is judged, so that an operator sees all that is wrong at once. A refusal says what to do about it. Nothing here looks at the machine or changes it; what
//! kubeadm's own preflight would refuse is refused here first, before anything is changed. The one check of kubeadm's that may be ignored is in [`kernel`].

pub mod disk;
pub mod kernel;
mod rows;

use std::collections::BTreeMap;

use anyhow::Result;
use bundle_spec::manifest::Runtime;
use bundle_spec::{Arch, KubeVersion};
use serde::Serialize;

use self::disk::Threshold;
pub use self::disk::{ToWrite, to_write};
use self::rows::ROWS;
use crate::facts::Facts;

/// What the machine is checked for.
#[derive(Clone, Debug)]
pub struct Needs {
    /// What it is to become.
    pub purpose: Purpose,
    /// How it stands to the cluster.
    pub standing: Standing,
    /// The pot's Kubernetes.
    pub kubernetes: KubeVersion,
    /// The pot's container runtime.
    pub runtime: Runtime,
    /// What the cluster's kubelet configuration says of `failCgroupV1`; nothing where it says nothing, or there is no cluster, which leaves the kubelet's own default.
    pub fail_cgroup_v1: Option<bool>,
    /// The pot's architecture.
    pub arch: Arch,
    /// Who gives the cluster's nodes their CNI configuration.
    pub network: Network,
    /// The name that the node will have.
    pub node_name: String,
    /// The port of its apiserver; 6443 by default.
    pub api_port: u16,
    /// Where the cluster's etcd runs.
    pub etcd: EtcdPlace,
    /// What has still to be written.
    pub to_write: ToWrite,
    /// From when on its kubelet will delete images and evict pods.
    pub thresholds: KubeletThresholds,
}

/// What the machine is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A machine with everything in place to join.
    Environment,
    /// A master.
    Master,
}

/// Where the cluster's etcd runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdPlace {
    /// On every master, in a pod.
    Here,
    /// Wherever somebody else runs it, which may be beside the masters' pods.
    Elsewhere,
}

/// Who gives the cluster's nodes their CNI configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Pods of the cluster, or it is not known.
    Pods,
    /// People: it must be on the machine before the join.
    People,
}

/// How the machine stands to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has never been a node.
    Bare,
    /// A join of ours was interrupted here, and what it left will be cleared.
    Interrupted,
    /// It is a master of this cluster already.
    Joined,
}

/// When a kubelet begins to delete images and to evict pods.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KubeletThresholds {
    /// Percent of the image file system in use from which images are deleted; 100 is never.
    pub image_gc_high_percent: u8,
    /// Least space on the file system of images.
    pub imagefs_available: Threshold,
    /// Least space on the file system of the kubelet.
    pub nodefs_available: Threshold,
}

impl Default for KubeletThresholds {
    /// The kubelet's own: `imageGCHighThresholdPercent` 85, `imagefs.available` 15 %, `nodefs.available` 10 %.
    fn default() -> Self {
        Self {
            image_gc_high_percent: 85,
            imagefs_available: Threshold::Percent(15.0),
            nodefs_available: Threshold::Percent(10.0),
        }
    }
}

impl KubeletThresholds {
    /// The thresholds of a kubelet with this configuration: `imageGCHighThresholdPercent`, and `evictionHard`, which replaces all defaults where it is not empty.
    ///
    /// # Errors
    /// Where a threshold is neither a percentage nor a quantity.
    pub fn new(
        image_gc_high_percent: Option<u8>,
        eviction_hard: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let default = Self::default();
        let signal = |name: &str, default: Threshold| match eviction_hard.get(name) {
            Some(text) => text.parse(),
            None if eviction_hard.is_empty() => Ok(default),
            None => Ok(Threshold::Bytes(0)),
        };
        Ok(Self {
            image_gc_high_percent: image_gc_high_percent.unwrap_or(default.image_gc_high_percent),
            imagefs_available: signal("imagefs.available", default.imagefs_available)?,
            nodefs_available: signal("nodefs.available", default.nodefs_available)?,
        })
    }
}

/// What a row says about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is as it must be.
    Good,
    /// It works, with a drawback.
    Warn { reason: String, remedy: String },
    /// It does not work.
    Refuse { reason: String, remedy: String },
}

impl Verdict {
    fn refuse(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refuse {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }

    fn warn(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Warn {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

/// A row of the table.
pub(crate) struct Row {
    /// A short, stable name.
    name: &'static str,
    /// What must be so, in the words of an operator.
    what: &'static str,
    /// The judgement.
    judge: fn(&Facts, &Needs) -> Verdict,
}

/// How a row came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it must be.
    Good,
    /// With a drawback.
    Warning,
    /// This machine cannot be used as it is.
    Refused,
}

/// A judged row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The row's name.
    pub check: &'static str,
    /// What must be so.
    pub what: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// Why, where it is not good.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// All rows, judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Report {
    /// In the order of the table.
    pub findings: Vec<Finding>,
}

impl Report {
    /// What keeps this machine from being used.
    pub fn refusals(&self) -> impl Iterator<Item = &Finding> {
        self.with(Outcome::Refused)
    }

    /// What works with a drawback.
    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.with(Outcome::Warning)
    }

    /// Whether nothing keeps this machine from being used.
    pub fn is_good(&self) -> bool {
        self.refusals().next().is_none()
    }

    fn with(&self, outcome: Outcome) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.outcome == outcome)
    }
}

/// Judges every row.
pub fn run(facts: &Facts, needs: &Needs) -> Report {
    let findings = ROWS
        .iter()
        .map(|row| {
            let (outcome, reason, remedy) = match (row.judge)(facts, needs) {
                Verdict::Good => (Outcome::Good, String::new(), String::new()),
                Verdict::Warn { reason, remedy } => (Outcome::Warning, reason, remedy),
                Verdict::Refuse { reason, remedy } => (Outcome::Refused, reason, remedy),
            };
            Finding {
                check: row.name,
                what: row.what,
                outcome,
                reason,
                remedy,
            }
        })
        .collect();
    Report { findings }
}

#[cfg(test)]
pub(crate) mod tests;
