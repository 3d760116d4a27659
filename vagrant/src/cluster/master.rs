//! What a bare machine needs before plain kubeadm makes it a master: Docker, the Kubernetes binaries, CNI plugins, units
//! and images, put there by hand.

use anyhow::Result;

use crate::materials::Materials;
use crate::node::{Node, quoted};

const DOCKER_CONFIG: &str = include_str!("docker.json");
const DOCKER_UNIT: &str = include_str!("docker.service");
const KUBELET_UNIT: &str = include_str!("kubelet.service");

/// Copies everything to the machine; the programs and units are then in place, the archives wait in /root.
pub fn carry(node: &Node, materials: &Materials) -> Result<()> {
    node.copy(&materials.docker_archive, "/root/docker.tgz")?;
    node.copy(&materials.cni_archive, "/root/cni.tgz")?;
    for name in ["kubeadm", "kubelet", "kubectl"] {
        node.copy(&materials.bin.join(name), &format!("/usr/bin/{name}"))?;
    }
    node.write("/etc/docker/daemon.json", DOCKER_CONFIG, 0o644)?;
    node.write("/etc/systemd/system/docker.service", DOCKER_UNIT, 0o644)?;
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

/// Unpacks what [`carry`] brought, starts Docker and loads the images; the kubelet waits for kubeadm.
pub fn install(node: &Node) -> Result<()> {
    node.run(
        "sysctl -q -p /etc/sysctl.d/kubernetes.conf
         tar -xzf /root/docker.tgz -C /usr/bin --strip-components=1 --no-same-owner
         mkdir -p /opt/cni/bin && tar -xzf /root/cni.tgz -C /opt/cni/bin --no-same-owner
         rm /root/docker.tgz /root/cni.tgz
         chmod 0755 /usr/bin/kubeadm /usr/bin/kubelet /usr/bin/kubectl
         systemctl daemon-reload
         systemctl enable --quiet --now docker.service
         systemctl enable --quiet kubelet.service
         for archive in /root/images/*.tar; do docker load --quiet --input $archive; rm $archive; done",
    )
}

/// Gives Kubernetes' images the names of another repository, and takes their own away.
pub(super) fn rename_images(node: &Node, from: &str, to: &str) -> Result<()> {
    let names = node.output("docker images --format '{{.Repository}}:{{.Tag}}'")?;
    for name in names.lines() {
        if let Some(image) = name
            .strip_prefix(from)
            .and_then(|rest| rest.strip_prefix('/'))
        {
            let (name, other) = (quoted(name), quoted(&format!("{to}/{image}")));
            node.run(&format!("docker tag {name} {other}; docker rmi {name}"))?;
        }
    }
    Ok(())
}
