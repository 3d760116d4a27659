//! Docker's configuration is TKE's, with the cluster's cgroup driver.
//!
//! TKE's `iptables: false` and `ip-masq: false` leave the rules of pods to kube-proxy and the pod network. A daemon.json that says the same in other words is right;
//! one that says anything else belongs to somebody and is a conflict, except where his Docker is adopted with it.

use std::sync::Arc;

use anyhow::{Context, Result};
use bundle_spec::VerifiedPot;
use serde_json::{Value, json};

use crate::facts::docker::{self, CgroupDriver, Docker};
use crate::step::{State, Step, View, World};

const PATH: &str = "/etc/docker/daemon.json";

/// See the module.
pub struct DockerConfig {
    pot: Arc<VerifiedPot>,
    driver: CgroupDriver,
    insecure: Vec<String>,
}

impl DockerConfig {
    /// Docker with the cluster's cgroup driver; `insecure` are registries that may speak plain HTTP.
    pub fn new(pot: Arc<VerifiedPot>, driver: CgroupDriver, insecure: Vec<String>) -> Self {
        Self {
            pot,
            driver,
            insecure,
        }
    }

    fn wanted(&self) -> Value {
        let mut config = json!({
            "exec-opts": [format!("native.cgroupdriver={}", self.driver)],
            "ip-forward": true,
            "ip-masq": false,
            "iptables": false,
            "ipv6": false,
            "live-restore": true,
            "log-driver": "json-file",
            "log-level": "warn",
            "log-opts": { "max-file": "10", "max-size": "100m" },
            "selinux-enabled": false,
        });
        if !self.insecure.is_empty() {
            config["insecure-registries"] = json!(self.insecure);
        }
        config
    }
}

impl Step for DockerConfig {
    fn id(&self) -> &'static str {
        "docker-config"
    }

    fn summary(&self) -> String {
        format!("Docker is configured, with cgroup driver {}", self.driver)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        match docker::standing(view.host, self.pot.manifest(), self.driver)? {
            Docker::Adopted(_) => return Ok(State::Satisfied),
            Docker::Unfit { reason, remedy } => return Ok(State::Conflict { reason, remedy }),
            Docker::Absent | Docker::Ours => {}
        }
        let Some(bytes) = view.host.read(PATH)? else {
            return Ok(State::Pending(format!("{PATH} is missing")));
        };
        let wanted = self.wanted();
        let conflict = |what: String| State::Conflict {
            reason: format!("{PATH} is already here and {what}"),
            remedy: format!("if nothing needs it, move it away: mv {PATH} /root/"),
        };
        Ok(match serde_json::from_slice::<Value>(&bytes) {
            Ok(found) if found == wanted => State::Satisfied,
            Ok(found) => conflict(format!("differs in {}", difference(&found, &wanted))),
            Err(cause) => conflict(format!("is no JSON ({cause})")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.wanted())
            .context("cannot write Docker's configuration")?;
        text.push(b'\n');
        world.host.write_file(PATH, &text, 0o644)
    }
}

/// The keys in which two configurations differ.
fn difference(found: &Value, wanted: &Value) -> String {
    let (Value::Object(found), Value::Object(wanted)) = (found, wanted) else {
        return "its form".to_owned();
    };
    let mut keys: Vec<&str> = found
        .keys()
        .chain(wanted.keys())
        .filter(|key| found.get(*key) != wanted.get(*key))
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys.join(", ")
}
