//! A cluster whose images bear names of its own: the new master's must bear the same.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Scenario, join};
use crate::checks;
use crate::cluster::ClusterSpec;
use crate::eras::Version;
use crate::lab::Bare;

/// A registry that nobody can reach; only the names count.
const REPOSITORY: &str = "registry.example.internal/k8s";

/// The scenario.
#[derive(Debug)]
pub struct OwnImageRepository;

impl Scenario for OwnImageRepository {
    fn name(&self) -> String {
        "own-image-repository".to_owned()
    }

    fn about(&self) -> String {
        format!(
            "in a cluster with imageRepository {REPOSITORY} the new master's images have its names"
        )
    }

    fn budget(&self) -> Duration {
        Duration::from_mins(15)
    }

    fn wants(&self, version: Version) -> (ClusterSpec, usize) {
        (
            ClusterSpec {
                version,
                image_repository: Some(REPOSITORY.to_owned()),
            },
            // Not one: while etcd goes from one member to two, the only apiserver's requests time out, and on 1.20.2 its
            // watches were then seen stale for minutes. That belongs to kubeadm and etcd, and is not what is tried here.
            2,
        )
    }

    fn prepare(&mut self, bench: &mut Bench) -> Result<()> {
        bench.backup_ready(Bare::Full).map(drop)
    }

    fn run(&mut self, bench: &mut Bench) -> Result<()> {
        bench.backup_used();
        join::join(bench, &bench.b1())
    }

    fn check(&mut self, bench: &mut Bench) -> Result<()> {
        let (cluster, b1) = (bench.cluster()?, bench.b1());
        checks::joined(cluster, &b1, bench.masters() + 1)?;
        checks::pods_work(cluster, &b1, bench.test_image())?;
        let pods = cluster.kubectl_json(&[
            "-n",
            "kube-system",
            "get",
            "pods",
            "--field-selector",
            "spec.nodeName=b1",
        ])?;
        let mut seen = 0;
        for pod in pods["items"].as_array().into_iter().flatten() {
            for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
                // What the node was given to run; the kubelet's status has any one of an image's names.
                let image = container["image"].as_str().unwrap_or_default();
                if container["name"].as_str().is_some_and(|name| {
                    name == "etcd" || name.starts_with("kube-") && name != "kube-flannel"
                }) {
                    ensure!(
                        image.starts_with(REPOSITORY),
                        "{} on b1 runs as {image}",
                        container["name"]
                    );
                    seen += 1;
                }
            }
        }
        ensure!(seen >= 5, "only {seen} containers of Kubernetes run on b1");
        Ok(())
    }

    fn run_again(&mut self, bench: &mut Bench) -> Result<()> {
        join::nothing_to_do(bench, &bench.b1())
    }

    fn clean(&mut self, bench: &mut Bench) -> Result<()> {
        bench.remove_backup()
    }
}
