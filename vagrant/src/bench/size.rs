//! The pot's size against what people carry today: `docker save` and the same programs, as `tar | gzip -6`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::Desk;
use super::measure;
use super::report::{Row, Unit};
use crate::materials::Materials;
use crate::sh::{self, Sh};
use crate::upstream::RuntimeFiles;

/// From the issue that set the goals.
const GOAL: f64 = 0.85;

pub(super) fn measure(desk: &Desk) -> Result<Vec<Row>> {
    let materials = Materials::of_lab(&desk.upstream)?;
    let folder = desk.folder.join("plain");
    sh::remove(&folder)?;
    for name in ["kubeadm", "kubelet", "kubectl"] {
        sh::copy(&materials.bin.join(name), &folder.join(name))?;
    }
    for (archive, name) in [
        (materials.runtime.archive(), "runtime"),
        (materials.cni_archive.as_path(), "cni"),
    ] {
        let to = folder.join(name);
        sh::make_dirs(&to)?;
        Sh::new("tar")
            .arg("-xzf")
            .arg(archive)
            .arg("-C")
            .arg(to)
            .run()?;
    }
    if let RuntimeFiles::Containerd { runc, crictl, .. } = &materials.runtime {
        sh::copy(runc, &folder.join("runc"))?;
        Sh::new("tar")
            .arg("-xzf")
            .arg(crictl)
            .arg("-C")
            .arg(&folder)
            .run()?;
    }
    let images = Images::load(desk, &materials)?;
    let saved = Sh::new("docker")
        .args(["save", "--output"])
        .arg(folder.join("images.tar"))
        .args(desk.images()?)
        .run();
    images.forget()?;
    saved?;
    let script = "set -o pipefail; tar -C \"$1\" -c . | gzip -6 | wc -c";
    let bytes = Sh::new("bash")
        .args(["-c", script, "plain"])
        .arg(&folder)
        .output()?;
    sh::remove(&folder)?;
    let theirs: u64 = bytes
        .trim()
        .parse()
        .context("reading what `wc -c` counted")?;
    let ours = measure::size(&desk.pot.file)?;
    Ok(vec![Row {
        name: "pot / tar | gzip -6",
        figure: measure::float(ours) / measure::float(theirs),
        goal: GOAL,
        unit: Unit::Ratio,
        detail: format!(
            "{:.1} MB; {:.1} MB",
            measure::megabytes(ours),
            measure::megabytes(theirs)
        ),
    }])
}

/// The pot's images in this machine's Docker.
struct Images {
    /// Names that were not there before.
    ours: Vec<String>,
}

impl Images {
    /// Loads them. An image of another content under one of their names is somebody's, and is not touched.
    fn load(desk: &Desk, materials: &Materials) -> Result<Self> {
        let before = list()?;
        let mut ours = Vec::new();
        for image in &desk.manifest.images {
            let id = image.id.to_string();
            for name in &image.names {
                match before.get(name) {
                    None => ours.push(name.clone()),
                    Some(there) => ensure!(
                        *there == id,
                        "this machine's Docker has another image {name}; remove it by `docker rmi {name}`"
                    ),
                }
            }
        }
        for archive in &materials.images_archives {
            Sh::new("docker")
                .args(["load", "--quiet", "--input"])
                .arg(archive)
                .run()?;
        }
        Ok(Self { ours })
    }

    fn forget(&self) -> Result<()> {
        if self.ours.is_empty() {
            return Ok(());
        }
        Sh::new("docker").arg("rmi").args(&self.ours).run()
    }
}

/// Names and IDs of this machine's images.
fn list() -> Result<BTreeMap<String, String>> {
    let format = "{{.Repository}}:{{.Tag}} {{.ID}}";
    let said = Sh::new("docker")
        .args(["image", "ls", "--no-trunc", "--format", format])
        .output()?;
    let pairs = said.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, id)| (name.to_owned(), id.to_owned()))
        .collect())
}
