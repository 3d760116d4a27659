//! What a bare machine needs before plain kubeadm makes it a master: a container runtime, the Kubernetes binaries, CNI
//! plugins, units and images, put there by hand.

use anyhow::Result;

use super::config::ClusterSpec;
use super::runtime::{Runtime, Setting};
use crate::materials::Materials;
use crate::node::{Node, quoted};
use crate::upstream::RuntimeFiles;

const KUBELET_UNIT: &str = include_str!("kubelet.service");

/// Copies everything to the machine; the programs and units are then in place, the archives wait in /root.
pub fn carry(node: &Node, spec: &ClusterSpec, materials: &Materials) -> Result<()> {
    let sandbox = spec.image_name(&materials.sandbox_image, &materials.registry);
    carry_runtime(node, materials, &spec.runtime.settings(&sandbox))?;
    node.copy(&materials.cni_archive, "/root/cni.tgz")?;
    for name in ["kubeadm", "kubelet", "kubectl"] {
        node.copy(&materials.bin.join(name), &format!("/usr/bin/{name}"))?;
    }
    node.write("/etc/systemd/system/kubelet.service", KUBELET_UNIT, 0o644)?;
    // A machine that forwards packets, and sees those of its bridges, is what kubeadm's preflight asks for.
    node.write(
        "/etc/sysctl.d/kubernetes.conf",
        "net.ipv4.ip_forward = 1\nnet.bridge.bridge-nf-call-iptables = 1\n",
        0o644,
    )?;
    node.run("mkdir /root/images")?;
    for (number, archive) in materials.images_archives.iter().enumerate() {
        node.copy(archive, &format!("/root/images/{number}.tar"))?;
    }
    Ok(())
}

fn carry_runtime(node: &Node, materials: &Materials, settings: &[Setting]) -> Result<()> {
    node.copy(materials.runtime.archive(), "/root/runtime.tgz")?;
    if let RuntimeFiles::Containerd { runc, crictl, .. } = &materials.runtime {
        node.copy(runc, "/root/runc")?;
        node.copy(crictl, "/root/crictl.tgz")?;
    }
    for (path, text) in settings {
        node.write(path, text, 0o644)?;
    }
    Ok(())
}

/// Puts a containerd on a bare machine as an administrator would who wants cgroups made by systemd, unlike the lab's
/// clusters.
pub fn install_unlike_containerd(node: &Node, materials: &Materials) -> Result<()> {
    let runtime = Runtime::of(&materials.runtime);
    carry_runtime(node, materials, &runtime.settings_with_systemd())?;
    node.run(&format!("{}; rm /root/runtime.tgz", runtime.install()))
}

/// Unpacks what [`carry`] brought, starts the container runtime and loads the images; the kubelet waits for kubeadm.
pub fn install(node: &Node, spec: &ClusterSpec) -> Result<()> {
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
