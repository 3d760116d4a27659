//! What people carry to a machine without a network today: `docker save` and the same programs, as `tar | gzip -6`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};

use super::Desk;
use crate::materials::Materials;
use crate::sh::{self, Sh};
use crate::upstream::RuntimeFiles;

/// Makes it, as `file`: the programs as they are run, those of the runtime below `runtime/`, the plugins below `cni/`, and
/// `images.tar`.
pub(super) fn make(desk: &Desk, materials: &Materials, file: &Path) -> Result<()> {
    let folder = desk.folder.join("plain");
    sh::remove(&folder)?;
    for name in ["kubeadm", "kubelet", "kubectl"] {
        sh::copy(&materials.bin.join(name), &folder.join(name))?;
    }
    for (archive, name) in [
        (materials.runtime.archive(), "runtime"),
        (materials.cni_archive.as_path(), "cni"),
    ] {
        unpack(archive, &folder.join(name))?;
    }
    if let RuntimeFiles::Containerd { runc, crictl, .. } = &materials.runtime {
        sh::copy(runc, &folder.join("runc"))?;
        unpack(crictl, &folder)?;
    }
    let images = Images::load(desk, materials)?;
    let saved = Sh::new("docker")
        .args(["save", "--output"])
        .arg(folder.join("images.tar"))
        .args(desk.images()?)
        .run();
    images.forget()?;
    saved?;
    let script = "set -o pipefail; tar -C \"$1\" -c . | gzip -6 >\"$2\"";
    Sh::new("bash")
        .args(["-c", script, "plain"])
        .arg(&folder)
        .arg(file)
        .run()?;
    sh::remove(&folder)
}

fn unpack(archive: &Path, to: &Path) -> Result<()> {
    sh::make_dirs(to)?;
    Sh::new("tar")
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(to)
        .run()
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
