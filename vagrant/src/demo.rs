//! `cargo lab demo`: from nothing to a bare machine that is a master, with what an operator types shown on the way.

use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::cache::Cache;
use crate::checks;
use crate::cli::From;
use crate::cluster::{Cluster, ClusterSpec, Runtime};
use crate::disk::DiskWatch;
use crate::eras::{Choice, Version};
use crate::image;
use crate::lab::{Bare, Lab};
use crate::materials::{self, Materials};
use crate::node::Node;
use crate::pot::{self, Kpot, Pot};
use crate::sh::{self, say, step};
use crate::ssh_trust;
use crate::upstream;
use crate::workbench;

/// What a first run on two cores is meant to take, and may take.
const COLD: (Duration, Duration) = (Duration::from_mins(15), Duration::from_mins(25));
/// What a run with a full cache may take.
const WARM: Duration = Duration::from_mins(3);
/// What a run may add to the disk at most, in megabytes.
const DISK_LIMIT: u64 = 30_000;
/// The join itself; its own waits are shorter.
const JOIN_LIMIT: Duration = Duration::from_mins(7);

/// Plays the demonstration and leaves the cluster up.
pub fn run(cache: &Cache, lab: &Lab, choice: &Choice, from: From) -> Result<()> {
    let version = choice.version;
    let disk = DiskWatch::start(cache.root())?;
    workbench::prepare_host(cache)?;
    let (m1, m2, b1) = (lab.m1(), lab.m2(), lab.b1());
    let (cluster, materials) = thread::scope(|scope| {
        let machines = scope.spawn(|| {
            image::ensure(cache)?;
            step("vagrant up m1 m2", || {
                lab.raze()?;
                lab.up(&[&m1, &m2], Bare::Full)
            })
        });
        let kpot = scope.spawn(|| step("compiling kpot with its installer inside", Kpot::compile));
        let masters = [m1.clone(), m2.clone()];
        match from {
            From::Lab => {
                let upstream = workbench::upstream_of(cache, choice)?;
                let mirror = step("serving upstream on loopback", || {
                    upstream::serve(cache.root(), &[&upstream])
                })?;
                let materials = Materials::of_lab(&upstream)?;
                let arguments = materials::lab_arguments(&upstream, &mirror)?;
                // Machines, pot and cluster mostly wait: for Vagrant, for the disk, for Kubernetes. The cluster does not wait for kpot.
                let pot = scope.spawn(move || build(&ended(kpot)?, cache, choice, &arguments));
                ended(machines)?;
                let carried = scope.spawn(|| {
                    backup_up(lab, &b1)?;
                    carry(&ended(pot)?, &b1)
                });
                let cluster = make_cluster(version, &materials, &masters)?;
                ended(carried)?;
                anyhow::Ok((cluster, materials))
            }
            From::Internet => {
                let arguments = materials::internet_arguments(cache)?;
                let pot = build(&ended(kpot)?, cache, choice, &arguments)?;
                let materials = Materials::of_internet(cache, version, &pot.file)?;
                ended(machines)?;
                backup_up(lab, &b1)?;
                carry(&pot, &b1)?;
                let cluster = make_cluster(version, &materials, &masters)?;
                Ok((cluster, materials))
            }
        }
    })?;
    ssh_trust::grant(&b1, &m1, "root")?;
    step(
        &format!(
            "b1: ./kpot-install join-master --healthy {} --yes",
            m1.address()
        ),
        || {
            pot::install_well(
                &b1,
                &format!("join-master --healthy {} --yes", m1.address()),
                JOIN_LIMIT,
            )
        },
    )?;
    step(
        "asking m1 whether it is true, and running a pod on b1",
        || {
            checks::pods_work(&cluster, &b1, &materials.test_image)?;
            checks::joined(&cluster, &b1, 3)
        },
    )?;
    println!(
        "m1# kubectl get nodes -o wide\n{}\n",
        cluster.kubectl(&["get", "nodes", "-o", "wide"])?
    );
    println!(
        "m1# etcdctl member list\n{}\n",
        cluster.etcdctl(&["member", "list"])?
    );
    let took = sh::elapsed();
    println!(
        "{version}: {} minutes (first run: goal {}, limit {}; later runs: limit {}); peak disk {:.1} GB (limit {} GB)",
        sh::clock(took),
        sh::clock(COLD.0),
        sh::clock(COLD.1),
        sh::clock(WARM),
        gigabytes(disk.peak_megabytes()),
        DISK_LIMIT / 1000
    );
    say("the cluster stays up: `vagrant ssh m1` in vagrant/; `cargo lab clean` removes it");
    Ok(())
}

/// What a thread came to.
fn ended<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a part of the demonstration panicked")))
}

fn carry(pot: &Pot, b1: &Node) -> Result<()> {
    step(
        "carrying the pot to b1, checking it there with ssh-keygen and sha256sum, trusting its signer",
        || {
            pot.deliver(b1)?;
            pot.check_with_stock_tools(b1)?;
            pot.trust(b1)
        },
    )
}

fn backup_up(lab: &Lab, b1: &Node) -> Result<()> {
    step("vagrant up b1", || lab.up(&[b1], Bare::Full))
}

fn build(kpot: &Kpot, cache: &Cache, choice: &Choice, arguments: &[String]) -> Result<Pot> {
    step(&format!("kpot build for {choice}"), || {
        kpot.build(&cache.pots(), choice, arguments)
    })
}

fn make_cluster(version: Version, materials: &Materials, masters: &[Node]) -> Result<Cluster> {
    let spec = ClusterSpec::plain(version).run_by(Runtime::of(&materials.runtime));
    Cluster::make(spec, materials, masters)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a disk has fewer megabytes than a f64 can count"
)]
fn gigabytes(megabytes: u64) -> f64 {
    megabytes as f64 / 1000.0
}
