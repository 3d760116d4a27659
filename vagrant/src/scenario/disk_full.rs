//! A disk fills while the installer writes to it, after its preflight found room enough.
//!
//! The disk is a file system in memory of the size that the preflight asks for, in one of the places that are written to.
//! At a moment of the run a file takes the room, as somebody's log or dump would. The run must end with a clear error,
//! leave no half of anything, and not have touched the cluster; with the room back, the same command must make the
//! machine a master.
//!
//! One row of the table below is one scenario.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bundle_spec::{Manifest, Sha256};

use super::meanwhile::{self, Moment};
use super::{Bench, Scenario, join};
use crate::checks;
use crate::cluster::Runtime;
use crate::lab::Bare;
use crate::node::Node;
use crate::sh::Outcome;
use crate::snapshot::Snapshot;

/// Where Docker keeps images.
const DOCKERS: &str = "/var/lib/docker";

/// What the preflight wants to stay free on each disk is 128 MiB; this is a little more.
const SLACK: u64 = 160 << 20;

/// One disk that fills.
pub struct DiskFull {
    name: &'static str,
    about: &'static str,
    /// Where the small disk is mounted.
    place: &'static str,
    mode: u32,
    /// Bytes that the preflight counts for it.
    needs: fn(&Manifest) -> u64,
    /// When it fills, by a line of the journal.
    line: &'static str,
    /// Bytes that stay free.
    leaves: fn(&Manifest) -> u64,
    /// What the error must say.
    says: &'static [&'static str],
    cluster: Option<Snapshot>,
    outcome: Option<Outcome>,
}

/// All of them, as a table: name, what it is, where, what for, when it fills, how much stays free, words of the error.
#[rustfmt::skip]
pub fn all() -> Vec<DiskFull> {
    let first_step = r#""event":"step""#;
    let row = |name, about, (place, mode), needs, line, leaves, says| DiskFull {
        name, about, place, mode, needs, line, leaves, says, cluster: None, outcome: None,
    };
    vec![
        // Half of the plugins fit, and the one in the middle does not.
        row("disk-full", "the disk of /opt fills while programs are put there",
            ("/opt", 0o755), plugins as fn(&Manifest) -> u64, first_step, (|manifest| plugins(manifest) / 2) as fn(&Manifest) -> u64,
            &["/opt/cni/bin/", "No space left on device", "df -h"][..]),
        row("disk-full-journal", "the disk of the journal fills: what cannot be journaled is not done",
            ("/var/lib/kpot", 0o700), |_| 0, first_step, |_| 0,
            &["/var/lib/kpot/", "No space left on device", "df -h"]),
        // docker load unpacks everything beside the images first.
        row("disk-full-images", "Docker's disk fills while the images are loaded",
            (DOCKERS, 0o711), |manifest| 2 * layers(manifest), r#""event":"step","step":"images""#, |_| 64 << 20,
            &["docker load", "no space left on device", "df -h"]),
    ]
}

impl Scenario for DiskFull {
    fn name(&self) -> String {
        format!("broken/{}", self.name)
    }

    fn about(&self) -> String {
        format!("{}; with room again, the same command joins", self.about)
    }

    fn suits(&self, runtime: &Runtime) -> bool {
        self.place != DOCKERS || *runtime == Runtime::Docker
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(12)
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.backup_ready(Bare::Full)?;
        bench.backup_used();
        let size = (self.needs)(&bench.pot().manifest()?) + SLACK;
        b1.run(&format!(
            "mkdir -p {0}; mount -t tmpfs -o size={size},mode={1:o} lab-small-disk {0}",
            self.place, self.mode
        ))?;
        self.cluster = Some(Snapshot::of_cluster(bench.cluster()?)?);
        Ok(())
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        let moment = Moment {
            line: self.line,
            act: format!(
                "free=$(df --output=avail --block-size=1 {0} | tail -n 1)
                 fallocate --length $((free - {1})) {0}/lab-filler",
                self.place,
                (self.leaves)(&bench.pot().manifest()?)
            ),
        };
        self.outcome = Some(meanwhile::join_until(bench, &moment)?);
        Ok(())
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (Some(before), Some(outcome)) = (&self.cluster, &self.outcome) else {
            bail!("it was not run")
        };
        meanwhile::failed_clearly(outcome, self.says)?;
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        before.ensure_same(&Snapshot::of_cluster(cluster)?, "the cluster")?;
        checks::nothing_left(cluster)?;
        join::no_secret_folder(&b1)?;
        let manifest = bench.pot().manifest()?;
        let there = whole_or_absent(&b1, &manifest)?;
        if self.place == DOCKERS {
            return some_image_lacks(&b1, &manifest);
        }
        let wanted = places(&manifest).len();
        ensure!(
            there < wanted,
            "all {wanted} programs are there: the disk did not fill in the middle of the run"
        );
        if self.place == "/opt" {
            let plugins = b1.output("ls /opt/cni/bin | wc -l")?;
            ensure!(
                plugins.trim() != "0",
                "no plugin is there: the disk was full before the first one"
            );
        }
        Ok(())
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        let b1 = bench.b1();
        b1.run(&format!("rm {}/lab-filler", self.place))?;
        join::join(bench, &b1)?;
        let cluster = bench.cluster()?;
        checks::pods_work(cluster, &b1, bench.test_image())?;
        checks::joined(cluster, &b1, bench.masters() + 1)?;
        let manifest = bench.pot().manifest()?;
        ensure!(
            whole_or_absent(&b1, &manifest)? == places(&manifest).len(),
            "the machine joined without all programs of the pot"
        );
        join::no_secret_folder(&b1)?;
        join::nothing_to_do(bench, &b1)
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.remove_backup()
    }
}

/// Docker has not got every image of the pot.
fn some_image_lacks(node: &Node, manifest: &Manifest) -> Result<()> {
    let there = node.output("docker image ls --quiet --no-trunc")?;
    ensure!(
        manifest
            .images
            .iter()
            .any(|image| !there.contains(&image.id.to_string())),
        "all images are there: the disk did not fill while they were loaded"
    );
    Ok(())
}

/// Bytes of the CNI plugins.
fn plugins(manifest: &Manifest) -> u64 {
    let files = manifest
        .artifacts
        .iter()
        .filter(|artifact| artifact.name == "cni-plugins")
        .flat_map(|artifact| &artifact.files);
    files
        .filter_map(|file| manifest.blob(&file.blob))
        .map(|blob| blob.unpacked_size)
        .sum()
}

/// Bytes of the images' layers, each counted once.
fn layers(manifest: &Manifest) -> u64 {
    let layers: BTreeMap<Sha256, u64> = manifest
        .images
        .iter()
        .flat_map(|image| &image.layers)
        .filter_map(|digest| Some((*digest, manifest.blob(digest)?.unpacked_size)))
        .collect();
    layers.values().sum()
}

/// Where the pot's programs belong, and their digests in hex.
fn places(manifest: &Manifest) -> BTreeMap<String, String> {
    let mut places = BTreeMap::new();
    for artifact in &manifest.artifacts {
        let folder = match artifact.name.as_str() {
            "cni-plugins" => "/opt/cni/bin",
            "containerd" => "/usr/local/bin",
            "runc" => "/usr/local/sbin",
            _ => "/usr/bin",
        };
        for file in &artifact.files {
            if let Some(blob) = manifest.blob(&file.blob) {
                let path = format!("{folder}/{}", file.name);
                places.insert(path, blob.unpacked_digest.hex());
            }
        }
    }
    places
}

/// Every program of the pot is on the machine as a whole or not at all, and nothing unfinished lies beside them; gives how
/// many are there.
fn whole_or_absent(node: &Node, manifest: &Manifest) -> Result<usize> {
    let unfinished = node.output(
        "find /etc /opt /usr /var/lib -name '.*.kpot-new' -not -path '/var/lib/kpot/*' 2>/dev/null || true",
    )?;
    ensure!(
        unfinished.is_empty(),
        "unfinished files are left on {node}:\n{unfinished}"
    );
    let places = places(manifest);
    let paths: Vec<&str> = places.keys().map(String::as_str).collect();
    let sums = node.output(&format!(
        "sha256sum {} 2>/dev/null || true",
        paths.join(" ")
    ))?;
    let mut there = 0;
    for line in sums.lines() {
        let (digest, path) = line
            .split_once("  ")
            .with_context(|| format!("{line:?} is not a line of sha256sum"))?;
        ensure!(
            places.get(path).is_some_and(|wanted| wanted == digest),
            "{path} on {node} is not the pot's: a part of it, or something else"
        );
        there += 1;
    }
    Ok(there)
}
