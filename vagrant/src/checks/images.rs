//! Whether the images of a new master bear the names that its cluster gives them.

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::node::Node;

/// What Kubernetes' own containers on `node` were told to run has the cluster's image repository in its name.
pub fn images_named(cluster: &Cluster, node: &Node) -> Result<()> {
    let Some(repository) = &cluster.spec().image_repository else {
        return Ok(());
    };
    let on_it = format!("spec.nodeName={}", node.name());
    let pods = cluster.kubectl_json(&[
        "-n",
        "kube-system",
        "get",
        "pods",
        "--field-selector",
        &on_it,
    ])?;
    let mut seen = 0;
    for pod in pods["items"].as_array().into_iter().flatten() {
        for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
            // What the node was given to run; the kubelet's status has any one of an image's names.
            let image = container["image"].as_str().unwrap_or_default();
            let name = container["name"].as_str().unwrap_or_default();
            if name == "etcd" || (name.starts_with("kube-") && name != "kube-flannel") {
                ensure!(
                    image.starts_with(repository.as_str()),
                    "{name} on {node} runs as {image}"
                );
                seen += 1;
            }
        }
    }
    ensure!(
        seen >= 5,
        "only {seen} containers of Kubernetes run on {node}"
    );
    Ok(())
}
