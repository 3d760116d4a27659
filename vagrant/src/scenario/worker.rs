//! The backup machine as a worker of the cluster, as a console that adds machines makes it: with somebody's pods on it.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Bench, damage};
use crate::node::Node;
use crate::wait;

/// What runs on the worker, and must run elsewhere or again afterwards.
const DEPLOYMENT: &str = "lab-moves";
/// How long it may take until a pod runs where it is wanted.
const RUNS_LIMIT: Duration = Duration::from_mins(3);

/// b1 becomes a worker by plain `kubeadm join`, a pod of a Deployment runs there, and then m3 loses its power.
pub(super) fn joins_before_m3_dies(bench: &mut Bench) -> Result<()> {
    let b1 = bench.b1();
    bench.backup_used();
    let cluster = bench.cluster()?;
    cluster.install(&b1, bench.materials())?;
    let credentials = cluster.admit()?;
    cluster.join_worker(&b1, &credentials)?;
    cluster.revoke()?;
    cluster.apply(&deployment(bench.test_image(), &b1))?;
    wait::until("a pod runs on the worker", RUNS_LIMIT, || {
        let place = pods(bench, "{.items[*].spec.nodeName} {.items[*].status.phase}")?;
        Ok((place != format!("{} Running", b1.name())).then_some(place))
    })?;
    damage::power_off(bench)
}

/// What ran on the worker was moved away or runs again, and the machine takes new pods.
pub(super) fn its_pods_run(bench: &mut Bench) -> Result<()> {
    wait::until("the worker's pod runs", RUNS_LIMIT, || {
        let phase = pods(bench, "{.items[*].status.phase}")?;
        Ok((phase != "Running").then_some(phase))
    })?;
    let cluster = bench.cluster()?;
    let cordoned = "jsonpath={.spec.unschedulable}";
    let cordoned = cluster.kubectl(&["get", "node", bench.b1().name(), "-o", cordoned])?;
    anyhow::ensure!(cordoned.is_empty(), "b1 is still cordoned: {cordoned}");
    cluster
        .kubectl(&["delete", "deployment", DEPLOYMENT, "--wait=false"])
        .map(drop)
}

fn pods(bench: &Bench, wanted: &str) -> Result<String> {
    let (label, path) = (format!("app={DEPLOYMENT}"), format!("jsonpath={wanted}"));
    bench
        .cluster()?
        .kubectl(&["get", "pods", "-l", &label, "-o", &path])
}

/// One pod that may run on masters as well, and rather runs on `node`.
fn deployment(image: &str, node: &Node) -> String {
    let labels = json!({ "app": DEPLOYMENT });
    let rather = json!({
        "weight": 100,
        "preference": { "matchExpressions": [
            { "key": "kubernetes.io/hostname", "operator": "In", "values": [node.name()] },
        ] },
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": DEPLOYMENT },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "affinity": { "nodeAffinity": {
                        "preferredDuringSchedulingIgnoredDuringExecution": [rather],
                    } },
                    "tolerations": [{ "operator": "Exists", "effect": "NoSchedule" }],
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "sleeps",
                        "image": image,
                        "imagePullPolicy": "Never",
                        "command": ["sleep", "100000"],
                    }],
                },
            },
        },
    })
    .to_string()
}
