//! Docker's configuration is TKE's, with the cluster's cgroup driver.
//!
//! TKE's `iptables: false` and `ip-masq: false` leave the rules of pods to kube-proxy and the pod network. A daemon.json that says the same in other words is right;
//! one that says anything else belongs to somebody and is a conflict, except where his Docker is adopted with it. One that differs in the cgroup driver alone is what
//! `init-env` wrote before there was a cluster to ask: it is made to match.

use std::sync::Arc;

use anyhow::{Context, Result};
use bundle_spec::VerifiedPot;
use serde_json::{Value, json};

use crate::facts::docker::{self, CgroupDriver, Docker};
use crate::step::{State, Step, View, World};

const PATH: &str = docker::CONFIG;

/// Docker's keys for the options of its runtime, and for registries that may speak plain HTTP.
const OPTIONS: &str = "exec-opts";
const REGISTRIES: &str = "insecure-registries";

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

    /// What it is to say, in the place of what is `found`. Registries that were allowed before stay so, unless others are named.
    fn wanted(&self, found: Option<&Value>) -> Value {
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
            config[REGISTRIES] = json!(self.insecure);
        } else if let Some(registries) = found.and_then(|found| found.get(REGISTRIES)) {
            config[REGISTRIES] = registries.clone();
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
            Docker::Adopted => return Ok(State::Satisfied),
            Docker::Unfit { reason, remedy } => return Ok(State::Conflict { reason, remedy }),
            Docker::Absent | Docker::Ours => {}
        }
        let Some(bytes) = view.host.read(PATH)? else {
            return Ok(State::Pending(format!("{PATH} is missing")));
        };
        let found = serde_json::from_slice::<Value>(&bytes);
        let wanted = self.wanted(found.as_ref().ok());
        let conflict = |what: String| State::Conflict {
            reason: format!("{PATH} is already here and {what}"),
            remedy: format!("if nothing needs it, move it away: mv {PATH} /root/"),
        };
        Ok(match found {
            Ok(found) if found == wanted => State::Satisfied,
            Ok(found) if is_of_ours(&found, &wanted) => {
                State::Pending(format!("{PATH} says {}", said(&found)))
            }
            Ok(found) => conflict(format!("differs in {}", difference(&found, &wanted))),
            Err(cause) => conflict(format!("is no JSON ({cause})")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let before = world.host.view().read(PATH)?;
        let found = before.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut text = serde_json::to_vec_pretty(&self.wanted(found.as_ref()))
            .context("cannot write Docker's configuration")?;
        text.push(b'\n');
        world.host.write_file(PATH, &text, 0o644)
    }
}

/// Whether a configuration is one of ours, for the other cgroup driver or with other registries.
fn is_of_ours(found: &Value, wanted: &Value) -> bool {
    let rest = |config: &Value| {
        let mut config = config.clone();
        if let Some(keys) = config.as_object_mut() {
            keys.remove(OPTIONS);
            keys.remove(REGISTRIES);
        }
        config
    };
    let drivers =
        ["cgroupfs", "systemd"].map(|driver| json!([format!("native.cgroupdriver={driver}")]));
    rest(found) == rest(wanted) && drivers.contains(&found[OPTIONS])
}

/// What a configuration of ours says in which it may differ.
fn said(found: &Value) -> String {
    let keys = [OPTIONS, REGISTRIES].into_iter();
    let shown = keys.filter_map(|key| Some(format!("{key} {}", found.get(key)?)));
    shown.collect::<Vec<_>>().join(", ")
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, Pot};
    use super::*;
    use crate::host::scripted::Scripted;

    fn step(insecure: &[&str]) -> DockerConfig {
        let pot = Pot::default()
            .artifact("docker", &["docker", "dockerd"])
            .verified();
        let insecure = insecure.iter().map(|name| (*name).to_owned()).collect();
        DockerConfig::new(pot, CgroupDriver::Cgroupfs, insecure)
    }

    #[test]
    fn the_configuration_is_written() {
        let machine = Machine::new();
        let (before, after) = machine
            .ensure(&step(&["10.0.0.9:5000"]), Scripted::new())
            .unwrap();
        assert!(matches!(before, State::Pending(_)));
        assert_eq!(after, State::Satisfied);
        let written: Value = serde_json::from_str(&machine.text(PATH).unwrap()).unwrap();
        assert_eq!(
            written,
            json!({
                "exec-opts": ["native.cgroupdriver=cgroupfs"], "insecure-registries": ["10.0.0.9:5000"],
                "ip-forward": true, "ip-masq": false, "iptables": false, "ipv6": false, "live-restore": true, "log-driver": "json-file",
                "log-level": "warn", "log-opts": {"max-file": "10", "max-size": "100m"}, "selinux-enabled": false
            })
        );
    }

    #[test]
    fn the_same_in_other_words_is_right() {
        let machine = Machine::new();
        machine.file(
            PATH,
            r#"{"selinux-enabled":false,"log-opts":{"max-size":"100m","max-file":"10"},"log-level":"warn","log-driver":"json-file","live-restore":true,"ipv6":false,"iptables":false,"ip-masq":false,"ip-forward":true,"exec-opts":["native.cgroupdriver=cgroupfs"]}"#,
        );
        assert_eq!(machine.check(&step(&[]), Scripted::new()), State::Satisfied);
    }

    #[test]
    fn what_was_written_before_the_cluster_was_known_is_made_to_match() {
        let machine = Machine::new();
        let pot = Pot::default()
            .artifact("docker", &["docker", "dockerd"])
            .verified();
        let early = DockerConfig::new(pot, CgroupDriver::Systemd, vec!["10.0.0.9:5000".to_owned()]);
        machine.ensure(&early, Scripted::new()).unwrap();
        let (before, after) = machine.ensure(&step(&[]), Scripted::new()).unwrap();
        assert!(
            matches!(&before, State::Pending(what) if what.contains("native.cgroupdriver=systemd")),
            "{before:?}"
        );
        assert_eq!(after, State::Satisfied);
        let written: Value = serde_json::from_str(&machine.text(PATH).unwrap()).unwrap();
        assert_eq!(
            written["exec-opts"],
            json!(["native.cgroupdriver=cgroupfs"])
        );
        assert_eq!(written["insecure-registries"], json!(["10.0.0.9:5000"]));
        let other = step(&["10.0.0.8:5000"]);
        assert!(matches!(
            machine.check(&other, Scripted::new()),
            State::Pending(_)
        ));
    }

    #[test]
    fn another_configuration_is_a_conflict_that_names_the_keys() {
        let machine = Machine::new();
        machine.file(PATH, r#"{"bip": "10.1.0.1/24", "ipv6": false}"#);
        let state = machine.check(&step(&[]), Scripted::new());
        assert!(
            matches!(&state, State::Conflict { reason, .. } if reason.ends_with("differs in bip, exec-opts, ip-forward, ip-masq, iptables, live-restore, log-driver, log-level, log-opts, selinux-enabled")),
            "{state:?}"
        );
        machine.file(PATH, "{");
        assert!(matches!(
            machine.check(&step(&[]), Scripted::new()),
            State::Conflict { .. }
        ));
    }

    #[test]
    fn an_adopted_docker_keeps_its_own() {
        let machine = Machine::new();
        machine
            .file(PATH, r#"{"bip": "10.1.0.1/24"}"#)
            .program("dockerd")
            .program("docker");
        let script = |driver: &str| {
            Scripted::new().on("docker info", 0, &format!(r#"{{"ServerVersion":"19.03.15","CgroupDriver":"{driver}","Driver":"overlay2"}}"#))
        };
        assert_eq!(
            machine.check(&step(&[]), script("cgroupfs")),
            State::Satisfied
        );
        let state = machine.check(&step(&[]), script("systemd"));
        assert!(
            matches!(state, State::Conflict { remedy, .. } if remedy.contains("native.cgroupdriver=cgroupfs"))
        );
    }

    #[test]
    fn a_folder_that_cannot_be_written_ends_the_step() {
        let machine = Machine::new();
        machine.file("/etc/docker", "a file where a folder should be");
        assert!(machine.ensure(&step(&[]), Scripted::new()).is_err());
    }
}
