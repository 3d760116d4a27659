//! What scenarios of one era work with: its cluster, its pot, and the backup machine in a known state.
//!
//! Clusters and the backup machine are made when they are first wanted and kept for the next scenario that wants the same;
//! what a scenario has used up is made anew.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::checks;
use crate::cluster::{Cluster, ClusterSpec};
use crate::eras::Version;
use crate::lab::{Bare, Lab};
use crate::materials::Materials;
use crate::node::Node;
use crate::pot::Pot;
use crate::sh::{self, step};
use crate::ssh_trust;
use crate::wait;

/// etcd wants five seconds of health before it changes its membership, and may refuse until then.
const MEMBER_REMOVE_LIMIT: Duration = Duration::from_mins(1);

/// Everything that a scenario may use.
pub struct Bench {
    cache: Cache,
    lab: Lab,
    materials: Materials,
    pot: Pot,
    version: Version,
    cluster: Option<(Cluster, Vec<Node>)>,
    backup: Backup,
    what_runs: WhatRuns,
}

/// What to do with machines that ran before this lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhatRuns {
    /// A cluster of the right kind among them is taken.
    MayServe,
    /// They go.
    Stranger,
}

/// What is known of the backup machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backup {
    /// It may be anything, or nothing.
    Unknown,
    /// Bare, with the pot unpacked, its signer trusted, and the way to m1 open.
    Ready(Bare),
}

impl Bench {
    /// A bench with nothing up yet.
    pub fn new(
        cache: Cache,
        lab: Lab,
        materials: Materials,
        pot: Pot,
        version: Version,
        what_runs: WhatRuns,
    ) -> Self {
        Self {
            cache,
            lab,
            materials,
            pot,
            version,
            cluster: None,
            backup: Backup::Unknown,
            what_runs,
        }
    }

    /// Where the lab keeps things.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The era's Kubernetes version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The machines.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The image for pods: a busybox that is in the pot.
    pub fn test_image(&self) -> &str {
        &self.materials.test_image
    }

    /// The era's pot.
    pub fn pot(&self) -> &Pot {
        &self.pot
    }

    /// The backup machine.
    pub fn b1(&self) -> Node {
        self.lab.b1()
    }

    /// The cluster that the running scenario asked for.
    pub fn cluster(&self) -> Result<&Cluster> {
        self.cluster
            .as_ref()
            .map(|(cluster, _)| cluster)
            .context("no cluster is up")
    }

    /// Number of masters that the cluster was made of.
    pub fn masters(&self) -> usize {
        self.cluster
            .as_ref()
            .map_or(0, |(_, masters)| masters.len())
    }

    /// The machines that are in use, the first master first.
    pub fn nodes(&self) -> Vec<Node> {
        let mut nodes = self
            .cluster
            .as_ref()
            .map(|(_, masters)| masters.clone())
            .unwrap_or_default();
        nodes.push(self.b1());
        nodes
    }

    /// Makes the wanted cluster, unless it is the one that is up.
    pub fn cluster_of(&mut self, spec: ClusterSpec, masters: usize) -> Result<()> {
        if self
            .cluster
            .as_ref()
            .is_some_and(|(is, nodes)| *is.spec() == spec && nodes.len() == masters)
        {
            return Ok(());
        }
        let nodes: Vec<Node> = [self.lab.m1(), self.lab.m2(), self.lab.m3()]
            .into_iter()
            .take(masters)
            .collect();
        if std::mem::replace(&mut self.what_runs, WhatRuns::Stranger) == WhatRuns::MayServe
            && let Some(cluster) = Cluster::found(spec.clone(), &nodes)
        {
            sh::say("taking the cluster that runs");
            self.cluster = Some((cluster, nodes));
            return Ok(());
        }
        self.distrust();
        step("bringing the masters up", || {
            self.lab
                .destroy(&[&self.lab.m1(), &self.lab.m2(), &self.lab.m3()])?;
            self.lab.up(&nodes.iter().collect::<Vec<_>>(), Bare::Full)
        })?;
        let cluster = Cluster::make(spec, &self.materials, &nodes)?;
        self.cluster = Some((cluster, nodes));
        Ok(())
    }

    /// A bare backup machine with the pot unpacked, checked with stock tools, its signer trusted, and root's way to m1.
    pub fn backup_ready(&mut self, bare: Bare) -> Result<Node> {
        let b1 = self.b1();
        if self.backup != Backup::Ready(bare) {
            step(&format!("a bare b1 ({bare:?}), and the pot on it"), || {
                self.lab.renew(&b1, bare)?;
                self.pot.deliver(&b1)?;
                self.pot.check_with_stock_tools(&b1)?;
                self.pot.trust(&b1)
            })?;
            self.backup = Backup::Ready(bare);
        }
        ssh_trust::grant(&b1, self.cluster()?.m1(), "root")?;
        Ok(b1)
    }

    /// The backup machine is no longer what [`Bench::backup_ready`] made.
    pub fn backup_used(&mut self) {
        self.backup = Backup::Unknown;
    }

    /// Takes the backup machine out of the cluster and the world.
    pub fn remove_backup(&mut self) -> Result<()> {
        self.backup_used();
        let b1 = self.b1();
        let cluster = self.cluster()?;
        wait::until("etcd lets b1 go", MEMBER_REMOVE_LIMIT, || {
            // By address as well: a member that never started has no name yet.
            let theirs = |member: &checks::Member| {
                member.name == b1.name() || member.peer_url.contains(b1.address())
            };
            let Some(member) = checks::members(cluster)?.into_iter().find(theirs) else {
                return Ok(None);
            };
            Ok(Some(
                match cluster.etcdctl(&["member", "remove", &member.id]) {
                    Ok(said) => said,
                    Err(error) => format!("{error:#}"),
                },
            ))
        })?;
        cluster.forget_node(&b1)?;
        self.lab.destroy(&[&b1])
    }

    /// Nothing that is up is believed in any more: the next scenario gets new machines.
    pub fn distrust(&mut self) {
        self.cluster = None;
        self.backup_used();
    }

    /// A folder of this machine for a scenario's own pots and keys.
    pub fn folder(&self, scenario: &str) -> PathBuf {
        self.cache
            .pots()
            .join(format!("{}-{scenario}", self.version))
    }
}
