//! The pod network of the lab's clusters: flannel's `DaemonSet`, with routes between nodes instead of tunnels (host-gw).
//!
//! flannel is the real one. Its own image is not to be had, so an image of that name holds what the `DaemonSet` runs:
//! flanneld, its CNI plugin, iptables and a busybox.

/// Pods' addresses; every node gets a /24 of it. The clusters' `podSubnet` must be the same.
pub const POD_SUBNET: &str = "10.244.0.0/16";
/// The image's name without its tag, which is flannel's version.
pub const FLANNEL_IMAGE: &str = "ghcr.io/flannel-io/flannel";

const MANIFEST: &str = include_str!("flannel.yaml");

/// The manifest to apply in a cluster, with the whole name of flannel's image.
pub fn manifest(image: &str) -> String {
    MANIFEST
        .replace("@IMAGE@", image)
        .replace("@POD_SUBNET@", POD_SUBNET)
}
