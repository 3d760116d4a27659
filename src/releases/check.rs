//! What may be wrong with the version data: order, gaps, things that stand twice, versions in a spelling that no publisher uses, pins that do not count.

use std::collections::BTreeSet;

use bundle_spec::Sha256;

use super::{Dialect, Minor, OPEN, Pin, Releases, Step};

impl Releases {
    /// # Errors
    /// A text that names the first thing that is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.notes.is_empty() || self.kubernetes.is_empty() || self.cri.is_empty() {
            return Err("the shipped version data are empty".to_owned());
        }
        for pair in self.kubernetes.windows(2) {
            if pair[0].number + 1 != pair[1].number {
                return Err(format!("no row follows minor {}", pair[0].number));
            }
        }
        once("form of the CRI", self.cri.iter().map(|it| &it.name))?;
        self.cri.iter().try_for_each(Dialect::check)?;
        for row in &self.kubernetes {
            let wrong = |problem: String| format!("minor {}: {problem}", row.number);
            row.check().map_err(wrong)?;
            if let Some(containerd) = &row.containerd {
                self.can_speak(row.number, &containerd.version)
                    .map_err(wrong)?;
            }
        }
        self.pins.iter().try_for_each(Pin::check)?;
        once(
            "pin",
            self.pins
                .iter()
                .map(|pin| format!("{} {} for {}", pin.artifact, pin.version, pin.arch)),
        )
    }
}

impl Dialect {
    fn check(&self) -> Result<(), String> {
        let kubelets = self
            .kubelet
            .last
            .is_none_or(|last| self.kubelet.first <= last);
        let (first, last) = (self.containerd.first, self.containerd.last);
        if kubelets && last.is_none_or(|last| first <= last) {
            return Ok(());
        }
        Err(format!("CRI {} ends before it begins", self.name))
    }
}

impl Minor {
    fn check(&self) -> Result<(), String> {
        if self.docker.is_none() && self.containerd.is_none() {
            return Err("there is no runtime".to_owned());
        }
        let containerd = self.containerd.as_ref();
        let versions = [
            ("Docker", self.docker.as_ref(), ""),
            ("containerd", containerd.map(|it| &it.version), ""),
            ("runc", containerd.map(|it| &it.runc), ""),
            ("crictl", containerd.map(|it| &it.crictl), "v"),
            ("the CNI plugins", Some(&self.cni), "v"),
        ];
        for (what, version, prefix) in versions {
            if version.is_some_and(|version| !spelled(version, prefix)) {
                return Err(format!("{what} has the version {version:?}"));
            }
        }
        for (what, steps) in [
            ("registry", &self.registry),
            ("etcd", &self.etcd),
            ("CoreDNS", &self.coredns),
        ] {
            check_steps(steps).map_err(|problem| format!("{what} {problem}"))?;
        }
        for pair in self.unverified.windows(2) {
            if pair[0].1 >= pair[1].0 {
                return Err("what was not seen is out of order, or stands twice".to_owned());
            }
        }
        if self
            .unverified
            .iter()
            .any(|(first, last)| first > last || *last > OPEN)
        {
            return Err("what was not seen ends before it begins".to_owned());
        }
        Ok(())
    }
}

/// Steps rise from patch 0, and each brings something else.
fn check_steps(steps: &[Step]) -> Result<(), String> {
    if steps.first().is_none_or(|step| step.from != 0) {
        return Err("has no value for patch 0".to_owned());
    }
    for pair in steps.windows(2) {
        if pair[0].from >= pair[1].from {
            return Err("has steps that do not rise".to_owned());
        }
        if pair[0].value == pair[1].value {
            return Err(format!("says {} twice", pair[0].value));
        }
    }
    Ok(())
}

impl Pin {
    fn check(&self) -> Result<(), String> {
        let wrong =
            |problem: &str| format!("the pin of {} {} {problem}", self.artifact, self.version);
        Sha256::from_hex(&self.sha256).map_err(|cause| wrong(&cause.to_string()))?;
        if self.sources.iter().collect::<BTreeSet<_>>().len() < 2 {
            return Err(wrong("has fewer than two sources"));
        }
        Ok(())
    }
}

/// Three numbers behind the prefix of its publisher.
fn spelled(version: &str, prefix: &str) -> bool {
    version.strip_prefix(prefix).is_some_and(|number| {
        let parts: Vec<&str> = number.split('.').collect();
        let plain = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
        parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && plain(part))
    })
}

fn once<T: Ord + std::fmt::Display + Clone>(
    what: &str,
    items: impl Iterator<Item = T>,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for item in items {
        if !seen.insert(item.clone()) {
            return Err(format!("the {what} {item} stands twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::DATA;
    use super::*;
    use serde_json::{Value, json};

    /// What is wrong with the shipped data after `change`.
    fn broken(change: impl FnOnce(&mut Value)) -> String {
        let mut data: Value = serde_json::from_str(DATA).unwrap();
        change(&mut data);
        let releases: Releases = serde_json::from_value(data).unwrap();
        releases.check().unwrap_err()
    }

    fn first(data: &mut Value) -> &mut Value {
        &mut data["kubernetes"][0]
    }

    #[test]
    fn a_gap_and_a_row_out_of_order_are_found() {
        let rows = |data: &mut Value| data["kubernetes"].as_array_mut().unwrap().len();
        let told = broken(|data| drop(data["kubernetes"].as_array_mut().unwrap().remove(3)));
        assert!(told.contains("no row follows minor 15"), "{told}");
        let told = broken(|data| {
            let last = rows(data) - 1;
            data["kubernetes"].as_array_mut().unwrap().swap(0, last);
        });
        assert!(told.contains("no row follows"), "{told}");
        let told = broken(|data| {
            let twice = data["kubernetes"][2].clone();
            data["kubernetes"].as_array_mut().unwrap().insert(2, twice);
        });
        assert!(told.contains("no row follows minor 15"), "{told}");
    }

    #[test]
    fn what_stands_twice_is_found() {
        for list in ["pins", "cri"] {
            let told = broken(|data| {
                let twice = data[list][0].clone();
                data[list].as_array_mut().unwrap().push(twice);
            });
            assert!(told.contains("twice"), "{list}: {told}");
        }
        let told = broken(|data| {
            let source = data["pins"][0]["sources"][0].clone();
            data["pins"][0]["sources"] = json!([source, source]);
        });
        assert!(told.contains("fewer than two sources"), "{told}");
    }

    #[test]
    fn versions_that_no_publisher_spells_so_are_found() {
        for (field, value) in [
            ("docker", json!("v18.09.9")),
            ("docker", json!("18.09")),
            ("cni", json!("0.7.5")),
            (
                "containerd",
                json!({"version": "v1.7.30", "runc": "1.3.4", "crictl": "v1.30.0"}),
            ),
            (
                "containerd",
                json!({"version": "1.7.30", "runc": "v1.3.4", "crictl": "v1.30.0"}),
            ),
            (
                "containerd",
                json!({"version": "1.7.30", "runc": "1.3.4", "crictl": "1.30.0"}),
            ),
        ] {
            let told = broken(|data| first(data)[field] = value.clone());
            assert!(
                told.starts_with("minor 13: ") && told.contains("version"),
                "{value}: {told}"
            );
        }
    }

    #[test]
    fn a_default_containerd_that_its_kubelet_cannot_speak_to_is_found() {
        let told = broken(|data| {
            first(data)["containerd"] =
                json!({"version": "2.1.4", "runc": "1.3.4", "crictl": "v1.30.0"});
        });
        assert!(told.contains("cannot speak to containerd 2.1.4"), "{told}");
        let told = broken(|data| drop(first(data).as_object_mut().unwrap().remove("docker")));
        assert!(told.contains("minor 13: there is no runtime"), "{told}");
    }

    #[test]
    fn steps_and_spans_out_of_order_are_found() {
        for (value, word) in [
            (json!([]), "patch 0"),
            (json!([{"from": 1, "value": "a"}]), "patch 0"),
            (
                json!([{"from": 0, "value": "a"}, {"from": 0, "value": "b"}]),
                "rise",
            ),
            (
                json!([{"from": 0, "value": "a"}, {"from": 2, "value": "a"}]),
                "twice",
            ),
        ] {
            for field in ["registry", "etcd", "coredns"] {
                let told = broken(|data| first(data)[field] = value.clone());
                assert!(told.contains(word), "{field} {value}: {told}");
            }
        }
        for value in [
            json!([[5, 4]]),
            json!([[1, 3], [3, 4]]),
            json!([[5, 6], [1, 2]]),
        ] {
            let told = broken(|data| first(data)["unverified"] = value.clone());
            assert!(told.contains("not seen"), "{value}: {told}");
        }
        let told = broken(|data| data["cri"][0]["containerd"]["last"] = json!("1.0"));
        assert!(told.contains("ends before it begins"), "{told}");
    }
}
