//! What the lab's own masters are made of, and what `kpot build` is told: from the lab's upstream, or from the internet.
//!
//! From the internet, the masters get by curl and skopeo the very files that the pot's manifest names as its sources, so
//! that both have the same versions. That way was never run where this was written, for want of an internet.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bundle_spec::Manifest;

use crate::cache::Cache;
use crate::eras::Version;
use crate::sh::{self, Sh, step};
use crate::upstream::{Mirror, RuntimeFiles, Upstream};

/// flannel as its project publishes it.
const FLANNEL_MANIFEST: &str =
    "https://github.com/flannel-io/flannel/releases/download/v0.28.4/kube-flannel.yml";
/// For the scenarios' pods.
const BUSYBOX: &str = "docker.io/library/busybox:1.36.1";

/// Where the files for a master are on this machine.
#[derive(Debug, Clone)]
pub struct Materials {
    /// The folder with kubeadm, kubelet and kubectl.
    pub bin: PathBuf,
    /// The container runtime.
    pub runtime: RuntimeFiles,
    /// The CNI plugins' archive.
    pub cni_archive: PathBuf,
    /// Images, for `docker load` and its likes.
    pub images_archives: Vec<PathBuf>,
    /// The registry in the names of Kubernetes' images.
    pub registry: String,
    /// The whole name of the image that pods' sandboxes are made of.
    pub sandbox_image: String,
    /// The manifest of the pod network.
    pub pod_network: String,
    /// The image for the scenarios' pods: a busybox.
    pub test_image: String,
}

impl Materials {
    /// The lab's own builds.
    pub fn of_lab(upstream: &Upstream) -> Result<Self> {
        Ok(Self {
            bin: upstream.bin.clone(),
            runtime: upstream.runtime.clone(),
            cni_archive: upstream.cni_archive.clone(),
            images_archives: vec![upstream.images_archive.clone()],
            registry: upstream.registry.clone(),
            sandbox_image: upstream.sandbox_image()?.to_owned(),
            pod_network: upstream.pod_network_manifest()?,
            test_image: upstream.test_image()?.to_owned(),
        })
    }

    /// The projects' own files: those that a pot of this version was made of.
    pub fn of_internet(cache: &Cache, version: Version, pot: &Path) -> Result<Self> {
        let folder = cache.root().join("internet").join(version.to_string());
        sh::apt_install(&["curl", "skopeo"])?;
        step("fetching the masters' files from the internet", || {
            let manifest = Sh::new("tar")
                .args(["-xOf"])
                .arg(pot)
                .arg("manifest.json")
                .output()?;
            // `output` takes off the last line feed, which belongs to the canonical bytes.
            let manifest = Manifest::decode(format!("{manifest}\n").as_bytes())?;
            let get = |name: &str| -> Result<PathBuf> {
                let artifact = manifest
                    .artifact(name)
                    .with_context(|| format!("the pot holds no {name}"))?;
                let file = folder.join("bin").join(name);
                fetch(&artifact.source, &file)?;
                sh::set_mode(&file, 0o755)?;
                Ok(file)
            };
            for name in ["kubeadm", "kubelet", "kubectl"] {
                get(name)?;
            }
            let version_of = |name: &str| {
                let artifact = manifest.artifact(name);
                let artifact = artifact.with_context(|| format!("the pot holds no {name}"))?;
                anyhow::Ok(artifact.version.clone())
            };
            let runtime = if manifest.artifact("docker").is_some() {
                RuntimeFiles::Docker {
                    archive: get("docker")?,
                    version: version_of("docker")?,
                }
            } else {
                RuntimeFiles::Containerd {
                    archive: get("containerd")?,
                    version: version_of("containerd")?,
                    runc: get("runc")?,
                    runc_version: version_of("runc")?,
                    crictl: get("crictl")?,
                    crictl_version: version_of("crictl")?,
                }
            };
            let mut images_archives = Vec::new();
            for name in manifest.images.iter().flat_map(|image| &image.names) {
                images_archives.push(pull(name, &folder.join("images"))?);
            }
            let names = || manifest.images.iter().flat_map(|image| &image.names);
            let mut registry = names()
                .filter_map(|name| name.split_once("/kube-apiserver:"))
                .map(|(host, _)| host.to_owned());
            let sandbox = names().find(|name| name.contains("/pause:"));
            Ok(Self {
                bin: folder.join("bin"),
                runtime,
                cni_archive: get("cni-plugins")?,
                images_archives,
                registry: registry
                    .next_back()
                    .context("the pot holds no kube-apiserver")?,
                sandbox_image: sandbox.context("the pot holds no pause")?.clone(),
                pod_network: internet_pod_network(cache)?,
                test_image: BUSYBOX.to_owned(),
            })
        })
    }
}

/// The arguments of `kpot build` that make it take everything from the lab's servers.
pub fn lab_arguments(upstream: &Upstream, mirror: &Mirror) -> Result<Vec<String>> {
    let mut args = mirror.kpot_arguments();
    for image in upstream.extra_images()? {
        args.extend(["--image".to_owned(), image.to_owned()]);
    }
    args.extend(["--cni-version".to_owned(), upstream.cni_version.clone()]);
    args.extend(upstream.runtime.kpot_arguments()?);
    Ok(args)
}

/// The arguments of `kpot build` when it fetches from the internet: only the images that a cluster needs besides.
pub fn internet_arguments(cache: &Cache) -> Result<Vec<String>> {
    let manifest = internet_pod_network(cache)?;
    let images = images_in(&manifest);
    ensure!(!images.is_empty(), "{FLANNEL_MANIFEST} names no image");
    Ok(images
        .into_iter()
        .chain([BUSYBOX.to_owned()])
        .flat_map(|image| ["--image".to_owned(), image])
        .collect())
}

/// flannel's own manifest, moved into kube-system: up to 1.16 only pods of that namespace may have the system's priority.
fn internet_pod_network(cache: &Cache) -> Result<String> {
    let file = cache.root().join("internet/kube-flannel.yml");
    fetch(FLANNEL_MANIFEST, &file)?;
    Ok(sh::read_text(&file)?.replace("namespace: kube-flannel", "namespace: kube-system"))
}

fn images_in(manifest: &str) -> Vec<String> {
    let mut images: Vec<String> = manifest
        .lines()
        .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("image:"))
        .map(|image| image.trim().trim_matches('"').to_owned())
        .collect();
    images.sort();
    images.dedup();
    images
}

fn fetch(url: &str, file: &Path) -> Result<()> {
    if sh::exists(file) {
        return Ok(());
    }
    let part = file.with_extension("part");
    if let Some(dir) = file.parent() {
        sh::make_dirs(dir)?;
    }
    Sh::new("curl")
        .args([
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--output",
        ])
        .arg(&part)
        .arg(url)
        .run()?;
    sh::rename(&part, file)
}

/// An image as an archive for `docker load`. k8s.gcr.io is frozen; registry.k8s.io has all that it had.
fn pull(name: &str, dir: &Path) -> Result<PathBuf> {
    let file = dir.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    if sh::exists(&file) {
        return Ok(file);
    }
    sh::make_dirs(dir)?;
    let part = file.with_extension("part");
    sh::remove(&part)?;
    let from = name
        .strip_prefix("k8s.gcr.io/")
        .map_or(name.to_owned(), |rest| format!("registry.k8s.io/{rest}"));
    Sh::new("skopeo")
        .args(["copy", "--quiet", &format!("docker://{from}")])
        .arg(format!("docker-archive:{}:{name}", part.display()))
        .run()?;
    sh::rename(&part, &file)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_in_a_manifest() {
        let manifest = "      initContainers:\n      - image: ghcr.io/a/plugin:v1\n        name: x\n      containers:\n      \
                        - name: y\n        image: \"ghcr.io/a/flannel:v2\"\n        image: ghcr.io/a/plugin:v1\n";
        assert_eq!(
            images_in(manifest),
            ["ghcr.io/a/flannel:v2", "ghcr.io/a/plugin:v1"]
        );
    }
}
