//! `kpot-install join-master` against unpacking, `docker load` and `kubeadm join` by hand, on the lab's machines: a bare
//! b1 becomes the third master, once this way and once that way, in turns.
//!
//! Both begin with one file on the machine, and root's way to m1 open: the pot, whose signer is trusted, and what people
//! carry today ([`super::bundle`]), with units and configurations in their places. The time by hand ends when `kubeadm join`
//! returns, and leaves out making the token and the certificate key, which are there already. kpot's ends when it returns,
//! which it does after it has verified the pot, made credentials, waited until the member votes and the node is Ready, and
//! revoked them. How long the side by hand took until its node is Ready is told besides, without a goal.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Desk;
use super::bundle;
use super::measure::{self, Spread};
use super::memory;
use super::report::{Row, Unit};
use crate::checks;
use crate::cluster::{self, ClusterSpec};
use crate::lab::Bare;
use crate::materials::Materials;
use crate::scenario::{Bench, WhatRuns};
use crate::sh::{self, step};

/// From the issue that set the goals.
const GOAL: f64 = 1.1;

/// As the scenarios have it.
const JOIN_LIMIT: Duration = Duration::from_mins(7);

/// Masters before the join.
const MASTERS: usize = 2;

pub(super) fn measure(desk: &Desk) -> Result<Vec<Row>> {
    let materials = Materials::of_lab(&desk.upstream)?;
    let mut bench = Bench::new(
        desk.cache.clone(),
        desk.lab.clone(),
        materials.clone(),
        desk.pot.clone(),
        desk.version(),
        WhatRuns::MayServe,
    );
    let spec = ClusterSpec::plain(desk.version());
    bench.cluster_of(&spec, MASTERS)?;
    let bundle = desk.folder.join("bundle.tgz");
    step("making what is carried by hand", || {
        bundle::make(desk, &materials, &bundle)
    })?;
    let (mut ours, mut theirs, mut until_ready) = (Vec::new(), Vec::new(), Vec::new());
    let mut peak = 0;
    for _ in 0..desk.repeat {
        let (time, kibibytes) = step("kpot-install join-master", || {
            by_kpot(&mut bench, &desk.pot.file)
        })?;
        ours.push(time);
        peak = peak.max(kibibytes);
        let (joined, ready) = step("joining by hand", || {
            by_hand(&mut bench, &materials, &bundle)
        })?;
        theirs.push(joined);
        until_ready.push(ready);
    }
    sh::remove(&bundle)?;
    let (ours, theirs) = (Spread::of(ours)?, Spread::of(theirs)?);
    let until_ready = Spread::of(until_ready)?;
    Ok(vec![
        Row {
            name: "join-master / by hand",
            figure: ours.ratio_to(&theirs),
            goal: GOAL,
            unit: Unit::Ratio,
            detail: format!(
                "{ours}; {theirs}; by hand until Ready {until_ready}, of which join-master is {:.3}",
                ours.ratio_to(&until_ready)
            ),
        },
        Row {
            name: "join-master, peak memory",
            figure: measure::mebibytes(peak),
            goal: memory::INSTALLER,
            unit: Unit::MiB,
            detail: "kpot-install alone, without kubeadm and docker".to_owned(),
        },
    ])
}

/// The time of a join by kpot, and the installer's peak memory in KiB.
fn by_kpot(bench: &mut Bench, pot: &Path) -> Result<(Duration, u64)> {
    let b1 = bench.backup_ready(Bare::Full)?;
    bench.backup_used();
    b1.copy(pot, "/root/carried.pot")?;
    let cluster = bench.cluster()?;
    // Its own peak, which only grows, is read until it ends: what the kernel tells of an ended process includes the
    // kubeadm that it waited for.
    let script = format!(
        "mkdir /root/carried && tar -xf /root/carried.pot -C /root/carried && cd /root/carried
         ./kpot-install join-master --healthy {} --yes >/root/join.log 2>&1 & pid=$!
         while line=$(grep VmHWM /proc/$pid/status 2>/dev/null); do peak=$line; sleep 0.1; done
         wait $pid || {{ tail -n 25 /root/join.log >&2; exit 1; }}
         echo \"$peak\"",
        cluster.m1().address()
    );
    let begun = Instant::now();
    let said = b1.sh(&script)?.timeout(JOIN_LIMIT).output()?;
    let time = begun.elapsed();
    checks::joined(cluster, &b1, MASTERS + 1)?;
    let peak = said
        .split_whitespace()
        .nth(1)
        .and_then(|figure| figure.parse().ok());
    let peak = peak.with_context(|| format!("{said:?} is no line of /proc/PID/status"))?;
    bench.remove_backup()?;
    Ok((time, peak))
}

/// The time of a join by hand until kubeadm returns, and until the node is Ready.
fn by_hand(
    bench: &mut Bench,
    materials: &Materials,
    bundle: &Path,
) -> Result<(Duration, Duration)> {
    let b1 = bench.b1();
    bench.lab().renew(&b1, Bare::Full)?;
    let cluster = bench.cluster()?;
    cluster::carry_bundle(&b1, cluster.spec(), materials, bundle)?;
    let credentials = cluster.admit()?;
    let begun = Instant::now();
    cluster::install_bundle(&b1, cluster.spec())?;
    cluster.join(&b1, &credentials)?;
    let joined = begun.elapsed();
    checks::control_plane_node(cluster, &b1)?;
    let ready = begun.elapsed();
    cluster.revoke()?;
    checks::joined(cluster, &b1, MASTERS + 1)?;
    bench.remove_backup()?;
    Ok((joined, ready))
}
