//! What scenarios of one era work with: its cluster, its pot, and bare machines in a known state.
//!
//! Clusters and the backup machine are made when they are first wanted and kept for the next scenario that wants the same;
//! what a scenario has used up is made anew. A cluster that lacks masters gets them by plain `kubeadm join`, which takes
//! less time than a new one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::checks;
use crate::cluster::{Cluster, ClusterSpec, Runtime};
use crate::eras::{Eras, Version};
use crate::evidence;
use crate::lab::{Bare, Lab};
use crate::materials::Materials;
use crate::node::Node;
use crate::pot::Pot;
use crate::sh::{self, step};
use crate::ssh_trust;
use crate::wait;
use crate::workbench::Workbench;

/// etcd wants five seconds of health before it changes its membership, and may refuse until then.
const MEMBER_LIMIT: Duration = Duration::from_mins(1);

/// Everything that a scenario may use.
pub struct Bench {
    cache: Cache,
    lab: Lab,
    materials: Materials,
    pot: Pot,
    /// Those of other eras that a scenario wanted, by version.
    others: BTreeMap<&'static str, Pot>,
    version: Version,
    cluster: Option<(Cluster, Vec<Node>)>,
    /// The masters of the cluster that is being made, or whose making failed.
    making: Vec<Node>,
    made_in: Duration,
    /// Machines that are bare, with the pot unpacked and its signer trusted, by name.
    ready: BTreeMap<&'static str, Bare>,
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
            others: BTreeMap::new(),
            version,
            cluster: None,
            making: Vec::new(),
            made_in: Duration::ZERO,
            ready: BTreeMap::new(),
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

    /// What runs the containers of its clusters.
    pub fn runtime(&self) -> Runtime {
        Runtime::of(&self.materials.runtime)
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

    /// The pot of another era with its usual runtime, built when it is first wanted.
    pub fn pot_of(&mut self, version: &'static str) -> Result<Pot> {
        if let Some(pot) = self.others.get(version) {
            return Ok(pot.clone());
        }
        let begun = Instant::now();
        let choice = Eras::load()?.choice(version.parse()?, None)?;
        // Another lab may be at work with that era's own pot.
        let folder = self.cache.pots().join(format!("for-{}", self.lab.name()));
        let workbench = Workbench::prepare_in(&folder, &self.cache, std::slice::from_ref(&choice))?;
        let mut pots = workbench.pots().map(|(_, pot)| pot.clone());
        let pot = pots.next().with_context(|| format!("no pot of {choice}"))?;
        self.others.insert(version, pot.clone());
        self.made_in += begun.elapsed();
        Ok(pot)
    }

    /// The backup machine.
    pub fn b1(&self) -> Node {
        self.known(self.lab.b1())
    }

    /// The second master: the one that lives with the first.
    pub fn m2(&self) -> Node {
        self.known(self.lab.m2())
    }

    /// The third master: the one that dies in scenarios.
    pub fn m3(&self) -> Node {
        self.known(self.lab.m3())
    }

    /// A machine under the name that the cluster gives it.
    fn known(&self, node: Node) -> Node {
        match &self.cluster {
            Some((cluster, _)) => cluster.spec().known(node),
            None => node,
        }
    }

    /// What masters are made of by hand.
    pub fn materials(&self) -> &Materials {
        &self.materials
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

    /// The machines that are in use, the first master first, also where they are no cluster yet.
    pub fn nodes(&self) -> Vec<Node> {
        let mut nodes = match &self.cluster {
            Some((_, masters)) => masters.clone(),
            None => self.making.clone(),
        };
        nodes.push(self.b1());
        nodes
    }

    /// What making the wanted cluster, and pots of other eras, took since the last time that a cluster was wanted.
    pub fn made_in(&self) -> Duration {
        self.made_in
    }

    /// Makes the wanted cluster, with the container runtime that is tried, unless it is the one that is up.
    pub fn cluster_of(&mut self, spec: &ClusterSpec, masters: usize) -> Result<()> {
        let begun = Instant::now();
        let made = self.have_cluster(spec, masters);
        self.made_in = begun.elapsed();
        made
    }

    fn have_cluster(&mut self, spec: &ClusterSpec, masters: usize) -> Result<()> {
        let spec = &spec.clone().run_by(self.runtime());
        if self
            .cluster
            .as_ref()
            .is_some_and(|(is, nodes)| is.spec() == spec && nodes.len() == masters)
        {
            return Ok(());
        }
        let nodes: Vec<Node> = [self.lab.m1(), self.lab.m2(), self.lab.m3()]
            .into_iter()
            .take(masters)
            .map(|node| spec.known(node))
            .collect();
        if let Some((is, has)) = &self.cluster
            && is.spec() == spec
            && has.len() < masters
        {
            return self.grow(&nodes);
        }
        if std::mem::replace(&mut self.what_runs, WhatRuns::Stranger) == WhatRuns::MayServe
            && let Some(cluster) = Cluster::found(spec.clone(), &nodes)
        {
            sh::say("taking the cluster that runs");
            self.cluster = Some((cluster, nodes));
            return Ok(());
        }
        let cluster = match self.make(spec, &nodes) {
            Ok(cluster) => cluster,
            // Nothing of the product has run: it is plain kubeadm that failed, and it gets one more chance.
            Err(error) => {
                let kept = evidence::collect(&self.cache, "making-a-cluster", &error, &nodes)?;
                sh::say(format_args!(
                    "no cluster came of it, so it is made once more: {error:#}; evidence is in {}",
                    kept.display()
                ));
                self.make(spec, &nodes)?
            }
        };
        self.cluster = Some((cluster, nodes));
        Ok(())
    }

    fn make(&mut self, spec: &ClusterSpec, nodes: &[Node]) -> Result<Cluster> {
        self.distrust();
        self.making = nodes.to_vec();
        step("bringing the masters up", || {
            self.lab
                .destroy(&[&self.lab.m1(), &self.lab.m2(), &self.lab.m3()])?;
            self.lab.up(&nodes.iter().collect::<Vec<_>>(), Bare::Full)
        })?;
        Cluster::make(spec.clone(), &self.materials, nodes)
    }

    /// Adds the masters of these that the cluster has not got yet.
    fn grow(&mut self, nodes: &[Node]) -> Result<()> {
        for node in &nodes[self.masters()..] {
            self.make_anew(node, self.masters() + 1)?;
            if let Some((_, masters)) = &mut self.cluster {
                masters.push(node.clone());
            }
        }
        Ok(())
    }

    /// A bare backup machine with the pot unpacked, checked with stock tools, its signer trusted, and root's way to m1.
    pub fn backup_ready(&mut self, bare: Bare) -> Result<Node> {
        let b1 = self.b1();
        self.pot_on(&b1, bare)?;
        Ok(b1)
    }

    /// The same for any machine: whatever it was, it is bare now. What the cluster remembers of it stays.
    pub fn pot_on(&mut self, node: &Node, bare: Bare) -> Result<()> {
        if self.ready.get(node.machine()) != Some(&bare) {
            step(
                &format!("a bare {node} ({bare:?}), and the pot on it"),
                || {
                    self.lab.renew(node, bare)?;
                    self.carry_pot(node)
                },
            )?;
            self.ready.insert(node.machine(), bare);
        }
        ssh_trust::grant(node, self.cluster()?.m1(), "root")
    }

    /// The pot unpacked and trusted on a machine that stays what it is, and root's way to m1.
    pub fn pot_beside(&self, node: &Node) -> Result<()> {
        self.carry_pot(node)?;
        ssh_trust::grant(node, self.cluster()?.m1(), "root")
    }

    fn carry_pot(&self, node: &Node) -> Result<()> {
        self.pot.deliver(node)?;
        self.pot.check_with_stock_tools(node)?;
        self.pot.trust(node)
    }

    /// A machine is no longer what [`Bench::pot_on`] made.
    pub fn used(&mut self, node: &Node) {
        self.ready.remove(node.machine());
    }

    /// The backup machine is no longer what [`Bench::backup_ready`] made.
    pub fn backup_used(&mut self) {
        self.used(&self.b1());
    }

    /// Takes the backup machine out of the cluster and the world.
    pub fn remove_backup(&mut self) -> Result<()> {
        self.remove(&self.b1())
    }

    /// Makes the cluster what it was made as: nobody else in it, and every master healthy. A master that is not is made
    /// anew and joins by plain kubeadm. m1 must be healthy, and etcd must have its quorum.
    pub fn make_whole(&mut self) -> Result<()> {
        if !self.ready.contains_key(self.b1().machine()) {
            self.remove_backup()?;
        }
        let (cluster, masters) = self.cluster.clone().context("no cluster is up")?;
        for node in &masters[1..] {
            if let Err(error) = checks::healthy_master(&cluster, node) {
                sh::say(format_args!("{node} is no healthy master: {error:#}"));
                self.make_anew(node, masters.len())?;
            }
        }
        checks::etcd_voters(&cluster, cluster.m1(), masters.len())
    }

    fn make_anew(&mut self, node: &Node, masters: usize) -> Result<()> {
        step(&format!("{node} anew, a master by plain kubeadm"), || {
            self.bare_anew(node)?;
            self.cluster()?.add(node, &self.materials, masters)
        })
    }

    /// Takes a machine out of the cluster, and gives it an empty disk.
    pub fn bare_anew(&mut self, node: &Node) -> Result<()> {
        self.remove(node)?;
        self.lab.up(&[node], Bare::Full)
    }

    /// Takes a machine out of the cluster and the world.
    fn remove(&mut self, node: &Node) -> Result<()> {
        self.used(node);
        self.remove_member(node)?;
        self.cluster()?.forget_node(node)?;
        self.lab.destroy(&[node])
    }

    /// Adds a member for peers at this address, that nothing has started; `flags` are those of `etcdctl member add`.
    pub fn add_member(&self, name: &str, peer: &str, flags: &[&str]) -> Result<()> {
        let cluster = self.cluster()?;
        let url = format!("--peer-urls={peer}");
        let add = [&["member", "add", name, &url], flags].concat();
        wait::until(
            &format!("etcd takes the member {name}"),
            MEMBER_LIMIT,
            || {
                // A try that took too long may have come through.
                let mut members = checks::members(cluster)?.into_iter();
                if members.any(|member| member.peer_url == peer) {
                    return Ok(None);
                }
                let added = cluster.etcdctl(&add);
                Ok(added.err().map(|error| format!("{error:#}")))
            },
        )
    }

    /// Takes a machine's member out of etcd, if it has one.
    pub fn remove_member(&self, node: &Node) -> Result<()> {
        let cluster = self.cluster()?;
        let what = format!("etcd lets {node} go");
        wait::until(&what, MEMBER_LIMIT, || {
            let Some(member) = checks::member_of(cluster, node)? else {
                return Ok(None);
            };
            let removed = cluster.etcdctl(&["member", "remove", &member.id]);
            Ok(Some(removed.unwrap_or_else(|error| format!("{error:#}"))))
        })
    }

    /// Nothing that is up is believed in any more: the next scenario gets new machines.
    pub fn distrust(&mut self) {
        self.cluster = None;
        self.ready.clear();
    }

    /// A folder of this machine for a scenario's own pots and keys.
    pub fn folder(&self, scenario: &str) -> PathBuf {
        self.cache
            .pots()
            .join(format!("{}-{}-{scenario}", self.lab.name(), self.version))
    }
}
