//! What a bare machine needs before plain kubeadm makes it a master: a container runtime, the Kubernetes binaries, CNI
//! plugins, units and images, put there by hand.

use std::path::Path;

use anyhow::Result;

use super::config::ClusterSpec;
use super::runtime::{Runtime, Setting};
use crate::materials::Materials;
use crate::node::{Node, quoted};
use crate::upstream::RuntimeFiles;

const KUBELET_UNIT: &str = include_str!("kubelet.service");

/// Copies everything to the machine; the programs and units are then in place, the archives wait in /root.
pub(super) fn carry(node: &Node, spec: &ClusterSpec, materials: &Materials) -> Result<()> {
    configure(node, spec, materials)?;
    carry_runtime(node, materials)?;
    node.copy(&materials.cni_archive, "/root/cni.tgz")?;
    for name in ["kubeadm", "kubelet", "kubectl"] {
        node.copy(&materials.bin.join(name), &format!("/usr/bin/{name}"))?;
    }
    node.run("mkdir /root/images")?;
    for (number, archive) in materials.images_archives.iter().enumerate() {
        node.copy(archive, &format!("/root/images/{number}.tar"))?;
    }
    Ok(())
}

/// Copies one file with everything to the machine ([`install_bundle`] says how it looks); the units are then in place.
pub fn carry_bundle(
    node: &Node,
    spec: &ClusterSpec,
    materials: &Materials,
    bundle: &Path,
) -> Result<()> {
    configure(node, spec, materials)?;
    node.copy(bundle, "/root/bundle.tgz")
}

/// Writes configurations and units.
fn configure(node: &Node, spec: &ClusterSpec, materials: &Materials) -> Result<()> {
    let sandbox = spec.image_name(&materials.sandbox_image, &materials.registry);
    write_settings(node, &spec.runtime.settings(&sandbox))?;
    node.write("/etc/systemd/system/kubelet.service", KUBELET_UNIT, 0o644)?;
    // A machine that forwards packets, and sees those of its bridges, is what kubeadm's preflight asks for.
    node.write(
        "/etc/sysctl.d/kubernetes.conf",
        "net.ipv4.ip_forward = 1\nnet.bridge.bridge-nf-call-iptables = 1\n",
        0o644,
    )
}

fn write_settings(node: &Node, settings: &[Setting]) -> Result<()> {
    for (path, text) in settings {
        node.write(path, text, 0o644)?;
    }
    Ok(())
}

fn carry_runtime(node: &Node, materials: &Materials) -> Result<()> {
    node.copy(materials.runtime.archive(), "/root/runtime.tgz")?;
    if let RuntimeFiles::Containerd { runc, crictl, .. } = &materials.runtime {
        node.copy(runc, "/root/runc")?;
        node.copy(crictl, "/root/crictl.tgz")?;
    }
    Ok(())
}

/// Puts a containerd on a bare machine as an administrator would who wants cgroups made by systemd, unlike the lab's
/// clusters.
pub fn install_unlike_containerd(node: &Node, materials: &Materials) -> Result<()> {
    let runtime = Runtime::of(&materials.runtime);
    write_settings(node, &runtime.settings_with_systemd())?;
    carry_runtime(node, materials)?;
    node.run(&format!("{}; rm /root/runtime.tgz", runtime.install()))
}

/// Unpacks what [`carry`] brought, starts the container runtime and loads the images; the kubelet waits for kubeadm.
pub(super) fn install(node: &Node, spec: &ClusterSpec) -> Result<()> {
    node.run(&format!(
        "sysctl -q -p /etc/sysctl.d/kubernetes.conf
         mkdir -p /opt/cni/bin && tar -xzf /root/cni.tgz -C /opt/cni/bin --no-same-owner
         {}
         rm /root/runtime.tgz /root/cni.tgz
         chmod 0755 /usr/bin/kubeadm /usr/bin/kubelet /usr/bin/kubectl
         systemctl enable --quiet kubelet.service
         for archive in /root/images/*.tar; do {} $archive; rm $archive; done",
        spec.runtime.install(),
        spec.runtime.load(),
    ))
}

/// The same of what [`carry_bundle`] brought: an archive with kubeadm, kubelet and kubectl, the runtime's programs, the
/// plugins below `cni/`, and all images in `images.tar`.
pub fn install_bundle(node: &Node, spec: &ClusterSpec) -> Result<()> {
    node.run(&format!(
        "sysctl -q -p /etc/sysctl.d/kubernetes.conf
         mkdir /root/bundle && tar -xzf /root/bundle.tgz -C /root/bundle --no-same-owner
         cd /root/bundle
         mkdir -p /opt/cni/bin && mv cni/* /opt/cni/bin/
         {}
         mv kubeadm kubelet kubectl /usr/bin/
         systemctl enable --quiet kubelet.service
         {} images.tar
         rm -r /root/bundle /root/bundle.tgz",
        spec.runtime.install_unpacked(),
        spec.runtime.load(),
    ))
}

/// Gives Kubernetes' images the names that they have in this cluster, and takes their own away.
pub(super) fn rename_images(node: &Node, spec: &ClusterSpec, registry: &str) -> Result<()> {
    for name in node.output(&spec.runtime.images())?.lines() {
        let other = spec.image_name(name, registry);
        if name != other {
            let rename = spec.runtime.rename_image(&quoted(name), &quoted(&other));
            node.run(&rename)?;
        }
    }
    Ok(())
}
