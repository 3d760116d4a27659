//! Space: what will be written, whether it fits, and whether the kubelet would delete it again.
//!
//! A kubelet deletes images that no pod uses yet as soon as the file system of the images is fuller than its threshold, and evicts pods when it is almost full. Without a
//! registry to fetch them from again, that breaks a new master within seconds. So the disk after everything is written is compared with the thresholds beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use bundle_spec::manifest::Encoding;
use bundle_spec::{Manifest, Sha256};

use super::{EtcdPlace, Needs, Purpose, Standing, Verdict};
use crate::facts::{Disks, Facts, containerd, docker};
use crate::host::{HostView, Space};
use crate::runtime::Runtime;

/// Left free on every file system that is written to, for logs, journals and temporary files: 128 MiB.
const MARGIN: u64 = 128 << 20;

/// What a new etcd member writes at once: two write-ahead log segments of 64 MB, made ahead (etcd's `SegmentSizeBytes`). The cluster's data come on top.
const ETCD_START: u64 = 128 << 20;

/// The state folder of this program, where backups lie.
const STATE: &str = crate::journal::STATE_DIR;

/// Bytes that are not on this machine yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToWrite {
    /// Programs in /usr/bin.
    pub programs: u64,
    /// Programs in /usr/local.
    pub local_programs: u64,
    /// CNI plugins.
    pub plugins: u64,
    /// Images, unpacked.
    pub images: u64,
    /// The layers as they come, which containerd keeps beside what they unpack to.
    pub layers: u64,
    /// The cluster's etcd data, where a member joins.
    pub etcd: u64,
    /// What is kept of a master that goes: a snapshot, and etcd's old data where they lie on another file system.
    pub kept: u64,
}

/// A threshold of the kubelet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Percent of the file system.
    Percent(f64),
    /// Bytes.
    Bytes(u64),
}

impl Threshold {
    /// The bytes that must be available on a file system of `total` bytes.
    fn bytes(self, total: u64) -> u64 {
        match self {
            // Percentages are small and sizes far below 2^52: nothing is lost that matters here.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss
            )]
            Self::Percent(percent) => (total as f64 * percent / 100.0) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent} %"),
            Self::Bytes(bytes) => f.write_str(&megabytes(*bytes)),
        }
    }
}

impl FromStr for Threshold {
    type Err = anyhow::Error;

    /// `15%`, or a quantity of Kubernetes such as `1Gi`, `500M` or `0`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || format!("{text:?} is not a threshold of a kubelet");
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().with_context(wrong)?;
            if !(0.0..=100.0).contains(&percent) {
                bail!(wrong());
            }
            return Ok(Self::Percent(percent));
        }
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "" => 1,
            "k" => 1000,
            "M" => 1000_u64.pow(2),
            "G" => 1000_u64.pow(3),
            "T" => 1000_u64.pow(4),
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => bail!(wrong()),
        };
        let number: f64 = digits.parse().with_context(wrong)?;
        if number < 0.0 {
            bail!(wrong());
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss
        )]
        Ok(Self::Bytes((number * unit as f64) as u64))
    }
}

/// What of the pot is not on this machine yet; `images` are the IDs of the pot's images that will be loaded, and `etcd` the size of the cluster's etcd data.
pub fn to_write(
    host: &HostView,
    manifest: &Manifest,
    images: &[Sha256],
    etcd: u64,
) -> Result<ToWrite> {
    let mut sum = ToWrite {
        etcd,
        ..ToWrite::default()
    };
    let foreign = |name: &str, own: &str| host.program(name).is_some_and(|path| path != own);
    let foreign_docker = foreign("dockerd", docker::DOCKERD);
    let foreign_containerd = foreign("containerd", containerd::PROGRAM);
    for artifact in &manifest.artifacts {
        if artifact.extra().is_some() {
            continue;
        }
        let (dir, sum) = match artifact.name.as_str() {
            "cni-plugins" => ("/opt/cni/bin", &mut sum.plugins),
            "docker" if foreign_docker => continue,
            "containerd" | "runc" if foreign_containerd => continue,
            "containerd" => (containerd::PROGRAMS, &mut sum.local_programs),
            "runc" => (containerd::RUNC_FOLDER, &mut sum.local_programs),
            _ => ("/usr/bin", &mut sum.programs),
        };
        for file in &artifact.files {
            let size = unpacked_size(manifest, &file.blob);
            // Files are put in place whole, so one that is there is not written again, whosever it is.
            if !host.exists(&format!("{dir}/{}", file.name))? {
                *sum += size;
            }
        }
    }
    let runtime = Runtime::from(manifest.runtime.name);
    let present: BTreeSet<String> = match runtime {
        Runtime::Docker => docker::images(host)?
            .unwrap_or_default()
            .into_iter()
            .map(|(id, _)| id)
            .collect(),
        Runtime::Containerd => containerd::images(host)?
            .unwrap_or_default()
            .into_iter()
            .map(|image| image.id)
            .collect(),
    };
    let mut layers = BTreeMap::new();
    for image in manifest
        .images
        .iter()
        .filter(|image| images.contains(&image.id))
    {
        if !present.contains(&image.id.to_string()) {
            for layer in &image.layers {
                layers.insert(
                    *layer,
                    (unpacked_size(manifest, layer), size(manifest, layer)),
                );
            }
        }
    }
    sum.images = layers.values().map(|(unpacked, _)| unpacked).sum();
    if runtime == Runtime::Containerd {
        sum.layers = layers.values().map(|(_, stored)| stored).sum();
    }
    Ok(sum)
}

/// Bytes of a layer as containerd is given it. What goes on from another blob is unpacked on the way there.
fn size(manifest: &Manifest, blob: &Sha256) -> u64 {
    manifest.blob(blob).map_or(0, |blob| match blob.encoding {
        Encoding::ZstdReference { .. } => blob.unpacked_size,
        _ => blob.size,
    })
}

fn unpacked_size(manifest: &Manifest, blob: &Sha256) -> u64 {
    // A decoded manifest lists every blob that it names.
    manifest.blob(blob).map_or(0, |blob| blob.unpacked_size)
}

/// The demands on one file system.
struct Demand {
    names: Vec<&'static str>,
    space: Space,
    /// While it is written.
    peak: u64,
    /// For good.
    lasting: u64,
}

/// The demands, one entry a file system.
fn demands(disks: &Disks, needs: &Needs) -> Vec<Demand> {
    let write = &needs.to_write;
    let etcd = match (needs.purpose, needs.standing) {
        _ if needs.etcd == EtcdPlace::Elsewhere => 0,
        (Purpose::Master, Standing::Bare | Standing::Interrupted) => write.etcd + ETCD_START,
        _ => 0,
    };
    let parts = [
        ("/usr/bin", disks.programs, write.programs, write.programs),
        (
            "/usr/local",
            disks.local_programs,
            write.local_programs,
            write.local_programs,
        ),
        ("/opt/cni/bin", disks.plugins, write.plugins, write.plugins),
        match needs.runtime.name.into() {
            // docker load unpacks the whole archive to a temporary folder beside the images before it registers the layers.
            Runtime::Docker => (
                images_of(needs),
                disks.images,
                2 * write.images,
                write.images,
            ),
            Runtime::Containerd => {
                let both = write.images + write.layers;
                (images_of(needs), disks.images, both, both)
            }
        },
        ("/var/lib/kubelet", disks.kubelet, 0, 0),
        ("etcd's data", disks.etcd, etcd, etcd),
        (STATE, disks.state, write.kept, write.kept),
    ];
    let mut demands: Vec<Demand> = Vec::new();
    for (name, space, peak, lasting) in parts {
        match demands
            .iter_mut()
            .find(|demand| demand.space.device == space.device)
        {
            Some(demand) => {
                demand.names.push(name);
                demand.peak += peak;
                demand.lasting += lasting;
            }
            None => demands.push(Demand {
                names: vec![name],
                space,
                peak,
                lasting,
            }),
        }
    }
    demands
}

/// What the runtime's images are called.
fn images_of(needs: &Needs) -> &'static str {
    match needs.runtime.name.into() {
        Runtime::Docker => "Docker's images",
        Runtime::Containerd => "containerd's images",
    }
}

/// Everything fits while it is written.
pub(super) fn fits(facts: &Facts, needs: &Needs) -> Verdict {
    fit(&demands(&facts.disks, needs))
}

/// What is kept of a master that goes fits, where nothing else is written.
pub(crate) fn keeps(disks: &Disks, kept: u64) -> Verdict {
    fit(&[Demand {
        names: vec![STATE],
        space: disks.state,
        peak: kept,
        lasting: kept,
    }])
}

fn fit(demands: &[Demand]) -> Verdict {
    let fixed: Vec<String> = demands
        .iter()
        .filter(|demand| demand.peak > 0 && demand.space.read_only)
        .map(|demand| demand.names.join(", "))
        .collect();
    if !fixed.is_empty() {
        return Verdict::refuse(
            format!("the file system of {} is read-only", fixed.join(", ")),
            "mount it for writing: mount -o remount,rw; a system that is read-only by design has no place for these programs",
        );
    }
    let short: Vec<String> = demands
        .iter()
        .filter(|demand| demand.space.available < demand.peak + MARGIN)
        .map(|demand| {
            format!(
                "the file system of {} has {} available, and {} are needed",
                demand.names.join(", "),
                megabytes(demand.space.available),
                megabytes(demand.peak + MARGIN)
            )
        })
        .collect();
    if short.is_empty() {
        Verdict::Good
    } else {
        Verdict::refuse(
            short.join("\n"),
            "make room there, or give it a larger disk",
        )
    }
}

/// The kubelet will not delete the images that were just loaded, and not evict pods at once.
pub(super) fn survives_the_kubelet(facts: &Facts, needs: &Needs) -> Verdict {
    if needs.purpose == Purpose::Environment || needs.standing == Standing::Joined {
        return Verdict::Good;
    }
    let demands = demands(&facts.disks, needs);
    let after = |space: &Space| {
        let lasting = demands
            .iter()
            .find(|demand| demand.space.device == space.device)
            .map_or(0, |demand| demand.lasting);
        space.available.saturating_sub(lasting)
    };
    let thresholds = &needs.thresholds;
    let images = &facts.disks.images;
    let kubelet = &facts.disks.kubelet;
    let mut reasons = Vec::new();
    // As the kubelet counts: 100 less the whole percents that are available; it deletes from the threshold on.
    let used = 100
        - (after(images) * 100)
            .checked_div(images.total)
            .unwrap_or(100)
            .min(100);
    if thresholds.image_gc_high_percent < 100 && used >= u64::from(thresholds.image_gc_high_percent)
    {
        reasons.push(format!(
            "the file system of {} will be {used} % full ({} of {} available), and from {} % on the kubelet deletes images that no pod uses yet (imageGCHighThresholdPercent)",
            images_of(needs),
            megabytes(after(images)),
            megabytes(images.total),
            thresholds.image_gc_high_percent
        ));
    }
    for (signal, what, space, threshold) in [
        (
            "imagefs.available",
            images_of(needs),
            images,
            thresholds.imagefs_available,
        ),
        (
            "nodefs.available",
            "/var/lib/kubelet",
            kubelet,
            thresholds.nodefs_available,
        ),
    ] {
        if after(space) < threshold.bytes(space.total) {
            reasons.push(format!(
                "the file system of {what} will have {} of {} available, and below {threshold} the kubelet evicts pods and deletes images ({signal})",
                megabytes(after(space)),
                megabytes(space.total)
            ));
        }
    }
    if reasons.is_empty() {
        return Verdict::Good;
    }
    Verdict::refuse(
        reasons.join("\n"),
        format!(
            "make room there (at least {} more), give it a larger disk, or raise the cluster's thresholds in its kubelet configuration (imageGCHighThresholdPercent, evictionHard)",
            megabytes(shortfall(&after, images, kubelet, needs))
        ),
    )
}

/// How much more must be available for every threshold to hold.
fn shortfall(after: &dyn Fn(&Space) -> u64, images: &Space, kubelet: &Space, needs: &Needs) -> u64 {
    let thresholds = &needs.thresholds;
    let collected = match thresholds.image_gc_high_percent {
        100.. => 0,
        // One percent above, because the kubelet drops the fraction.
        percent => images.total / 100 * u64::from(101 - percent),
    };
    let for_images = collected
        .max(thresholds.imagefs_available.bytes(images.total))
        .saturating_sub(after(images));
    let for_kubelet = thresholds
        .nodefs_available
        .bytes(kubelet.total)
        .saturating_sub(after(kubelet));
    for_images.max(for_kubelet)
}

/// Bytes for people, in MB.
fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}
