//! The state of a machine's files or of a cluster, to be compared with itself later: has anything changed?

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::node::Node;

/// Differences that an error lists before it stops.
const LISTED: usize = 30;

/// Units, sysctls and processes, as lines of a name, a tab and a state. Only sysctls that somebody sets: others count
/// something.
const SYSTEM: &str = r#"
systemctl list-unit-files --no-legend --no-pager | awk '{ print "unit " $1 "\t" $2 }'
systemctl list-units --type=service,socket --plain --no-legend --no-pager | awk '{ print "state of " $1 "\t" $3 }'
for part in fs.file-max fs.inotify fs.may_detach_mounts fs.nr_open kernel.keys kernel.panic kernel.pid_max \
    net.bridge net.core.netdev_max_backlog net.core.rmem net.core.somaxconn net.core.wmem net.ipv4.ip_forward \
    net.ipv4.neigh.default net.ipv4.tcp_ vm.; do
    sysctl --all --pattern "^$part" 2>/dev/null | sed 's/ = /\t/'
done
pgrep -a -x 'containerd|dockerd|etcd|kube-.*|kubelet' | sed 's/ /\t/;s/^/process /'
"#;

/// Which of a machine's files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Everything on disk but logs, caches and the product's own state folder: what a refusal must leave alone.
    Machine,
    /// The same without any times and without the sizes of folders: what an undo must bring back.
    Undone,
    /// Everything that the product writes, its state folder included: what a second run must leave alone. Docker's and
    /// the kubelet's data live on without it.
    Written,
}

/// What was there, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// Reads type, mode, owner, size, modification time, link target of all files, and the digests of the small ones.
    pub fn of_files(node: &Node, files: Files) -> Result<Self> {
        let roots = match files {
            Files::Machine | Files::Undone => {
                "/ /var -xdev ( -path /run -o -path /tmp -o -path /proc -o -path /sys -o -path /dev -o -path /var/log \
                 -o -path /var/lib/kpot -o -path /var/cache -o -path /var/lib/systemd ) -prune -o"
            }
            Files::Written => "/etc /usr /opt /root /home /var/lib/kpot /var/spool -xdev",
        };
        let roots = roots.replace('(', "\\(").replace(')', "\\)");
        let told = match files {
            Files::Machine | Files::Written => r"-printf '%p\t%y %m %U:%G %s %T@ %l\n'",
            Files::Undone => {
                r"\( -type d -printf '%p\t%y %m %U:%G\n' -o -printf '%p\t%y %m %U:%G %s %l\n' \)"
            }
        };
        let said = node.output(&format!(
            "find {roots} {told} 2>/dev/null || true
             find {roots} -type f -size -256k -print0 2>/dev/null | xargs -0 -r sha256sum \
                 | sed -E 's/^([0-9a-f]+)  (.*)/digest of \\2\\t\\1/'"
        ))?;
        Ok(Self(pairs(&said)))
    }

    /// Reads what else a machine is made of and an undo must bring back: what units there are and which of them are active,
    /// the sysctls that a node of Kubernetes is given, and whether a part of Kubernetes runs.
    pub fn of_system(node: &Node) -> Result<Self> {
        let said = node.output(SYSTEM)?;
        Ok(Self(pairs(&said)))
    }

    /// Reads what a join could change in a cluster: Nodes, etcd members, `ConfigMaps`, Secrets, Leases, RBAC and workloads,
    /// without what changes by itself.
    pub fn of_cluster(cluster: &Cluster) -> Result<Self> {
        let mut state = BTreeMap::new();
        let kinds = "nodes,configmaps,secrets,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,\
                     daemonsets,deployments,services,certificatesigningrequests,leases.coordination.k8s.io";
        let all = cluster.kubectl_json(&["get", "--all-namespaces", kinds])?;
        for object in all["items"].as_array().into_iter().flatten() {
            let mut object = object.clone();
            if is_heartbeat(&object) {
                continue;
            }
            still(&mut object);
            let name = format!(
                "{} {}/{}",
                object["kind"].as_str().unwrap_or_default(),
                object["metadata"]["namespace"].as_str().unwrap_or_default(),
                object["metadata"]["name"].as_str().unwrap_or_default()
            );
            state.insert(name, object.to_string());
        }
        state.insert(
            "etcd members".to_owned(),
            cluster.etcdctl(&["member", "list"])?,
        );
        Ok(Self(state))
    }

    /// An error that lists what is different now.
    pub fn ensure_same(&self, now: &Self, what: &str) -> Result<()> {
        let mut differences = String::new();
        let mut count = 0;
        for name in self
            .0
            .keys()
            .chain(now.0.keys().filter(|name| !self.0.contains_key(*name)))
        {
            let (before, after) = (self.0.get(name), now.0.get(name));
            if before != after {
                count += 1;
                if count <= LISTED {
                    let show =
                        |state: Option<&String>| state.map_or("absent", String::as_str).to_owned();
                    // A String takes everything.
                    let _ = writeln!(
                        differences,
                        "  {name}\n    before: {}\n    now:    {}",
                        show(before),
                        show(after)
                    );
                }
            }
        }
        ensure!(
            count == 0,
            "{what} changed in {count} places:\n{differences}"
        );
        Ok(())
    }
}

fn pairs(lines: &str) -> BTreeMap<String, String> {
    lines
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, state)| (name.to_owned(), state.to_owned()))
        .collect()
}

/// Objects whose whole purpose is to be renewed by Kubernetes itself.
fn is_heartbeat(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    object["kind"] == "Lease"
        && (metadata["namespace"] == "kube-node-lease"
            || ["kube-scheduler", "kube-controller-manager"].contains(&name)
            // Every API server has one of its own from 1.26 on.
            || metadata["labels"]["apiserver.kubernetes.io/identity"] == "kube-apiserver")
}

/// Takes out of an object what changes without anybody's doing.
fn still(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for name in ["resourceVersion", "managedFields", "generation"] {
            metadata.remove(name);
        }
        if let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.remove("control-plane.alpha.kubernetes.io/leader");
            // Empty or absent makes no difference.
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn snapshot(lines: &str) -> Snapshot {
        Snapshot(pairs(lines))
    }

    #[test]
    fn every_kind_of_change_is_seen() {
        let before = snapshot("/etc/a\tf 644\n/etc/b\tf 644\n");
        before.ensure_same(&before, "b1").expect("the same");
        for (now, place) in [
            ("/etc/a\tf 600\n/etc/b\tf 644\n", "/etc/a"),
            ("/etc/b\tf 644\n", "/etc/a"),
            ("/etc/a\tf 644\n/etc/b\tf 644\n/etc/c\tf 644\n", "/etc/c"),
        ] {
            let error = before
                .ensure_same(&snapshot(now), "b1")
                .expect_err("changed")
                .to_string();
            assert!(
                error.contains(place) && error.contains("1 places"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_moves_by_itself_is_left_out() {
        let mut object = json!({
            "kind": "ConfigMap",
            "metadata": {
                "name": "x", "resourceVersion": "7",
                "annotations": { "control-plane.alpha.kubernetes.io/leader": "m1" },
            },
            "data": { "kept": "yes" },
            "status": {},
        });
        still(&mut object);
        assert_eq!(
            object,
            json!({ "kind": "ConfigMap", "metadata": { "name": "x" }, "data": { "kept": "yes" } })
        );
        assert!(is_heartbeat(
            &json!({ "kind": "Lease", "metadata": { "name": "m1", "namespace": "kube-node-lease" } })
        ));
        assert!(is_heartbeat(&json!({ "kind": "Lease", "metadata": {
            "name": "apiserver-x", "namespace": "kube-system",
            "labels": { "apiserver.kubernetes.io/identity": "kube-apiserver" },
        } })));
        assert!(!is_heartbeat(
            &json!({ "kind": "Lease", "metadata": { "name": "kpot", "namespace": "kube-system" } })
        ));
    }
}
