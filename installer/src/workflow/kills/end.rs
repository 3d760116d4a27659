//! What a replacement that came to its end has to have brought about, and what none may do.

use std::collections::BTreeSet;

use serde_json::Value;

use super::played::{Here, Played};
use super::runner::locked;
use super::world::{Case, World, taints};
use crate::joining::was_interrupted;
use crate::journal::{Journal, STATE_DIR};

impl World {
    /// What was done wrong at any time, whether or not it came to an end.
    pub(super) fn wrong(&self) -> Vec<String> {
        let played = locked(&self.played);
        let mut wrong = [played.wrong.as_slice(), &played.etcd.wrong].concat();
        let mut removed = played.etcd.removed.clone();
        removed.sort_unstable();
        if removed.windows(2).any(|pair| pair[0] == pair[1]) {
            wrong.push(format!("a member was removed twice: {removed:x?}"));
        }
        wrong
    }

    /// What is not as it shall be in the end, and what was done wrong on the way.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let mut wrong = self.wrong();
        let played = locked(&self.played);
        let mut expect = |what: &str, is_so: bool| {
            if !is_so {
                wrong.push(what.to_owned());
            }
        };
        let wanted = self.scenario.wanted();
        let members = &played.etcd.members;
        let member = |member: &super::etcd::Member| (member.name.clone(), member.address.clone());
        expect(
            "each master has its one member",
            members.len() == wanted.len(),
        );
        expect(
            "and no other",
            members.iter().map(member).collect::<BTreeSet<_>>() == wanted,
        );
        expect(
            "every member answers",
            members
                .iter()
                .all(|member| played.etcd.answers(&member.address)),
        );
        expect("one join came to its end", played.joins == 1);
        let names: BTreeSet<String> = wanted.into_iter().map(|(name, _)| name).collect();
        expect(
            "the cluster lists these nodes",
            played
                .objects
                .names("node")
                .into_iter()
                .collect::<BTreeSet<_>>()
                == names,
        );
        let status = played.cluster_status();
        let endpoints = status["apiEndpoints"].as_object().into_iter().flatten();
        expect(
            "ClusterStatus has these masters",
            played.minor > 21
                || endpoints
                    .map(|(name, _)| name.clone())
                    .collect::<BTreeSet<_>>()
                    == names,
        );
        expect(
            "no Secret is left",
            played.objects.names("secret").is_empty(),
        );
        let records = played.objects.names("configmap");
        expect(
            "no record is left",
            !records.iter().any(|name| name.starts_with("kpot-")),
        );
        let lease = played.objects.get("lease", "kube-system", "kpot");
        expect(
            "the lock was given back",
            lease.is_some_and(|lease| lease["spec"]["holderIdentity"].is_null()),
        );
        expect(
            "the new node is a master as the old one was",
            self.node_is_right(&played),
        );
        let here = &played.here;
        expect(
            "the kubelet's token is gone",
            !here.has("/etc/kubernetes/bootstrap-kubelet.conf"),
        );
        expect(
            "etcd's credentials are gone",
            here.list("/run/kpot/etcd-client").is_empty(),
        );
        expect(
            "the control plane's files are here",
            here.has("/etc/kubernetes/known_tokens.csv"),
        );
        expect(
            "a login that people gave the kubelet is here",
            here.has("/var/lib/kubelet/config.json")
                || !matches!(self.scenario.case, Case::Corrupt | Case::Worker),
        );
        expect("nothing half-written is left", !has_scraps(here));
        expect(
            "the down machine is as it shall be",
            self.down_is_right(&played),
        );
        let journal = Journal::read(&self.root.path().join(STATE_DIR.trim_start_matches('/')));
        expect(
            "the journal knows of no interrupted join",
            journal.is_ok_and(|journal| !was_interrupted(&journal, &here.name, &here.address)),
        );
        wrong
    }

    fn node_is_right(&self, played: &Played) -> bool {
        let label = super::world::master_label(played.minor);
        let Some(node) = played.objects.get("node", "", &played.here.name) else {
            return false;
        };
        let metadata = &node["metadata"];
        let own = |taints: &Value| -> BTreeSet<String> {
            taints
                .as_array()
                .into_iter()
                .flatten()
                .map(Value::to_string)
                .collect()
        };
        let restored = metadata["labels"]["rack"] == "7"
            && metadata["annotations"]["owner"] == "ops"
            && own(&node["spec"]["taints"]) == own(&taints(played.minor));
        let own_back = metadata["labels"]["disk"] == "ssd"
            && own(&node["spec"]["taints"]) == own(&taints(played.minor));
        metadata["labels"][label] == ""
            && match self.scenario.case {
                Case::Wiped | Case::Corrupt => restored,
                Case::Worker => own_back,
                Case::Dead | Case::HalfDead => true,
            }
    }

    fn down_is_right(&self, played: &Played) -> bool {
        let Some(down) = &played.down else {
            return self.scenario.case != Case::HalfDead;
        };
        !down.kubelet
            && !down.enabled
            && down.containers.is_empty()
            && down.files.below("/etc/kubernetes").is_empty()
            && down.files.below("/var/lib/etcd/member").is_empty()
            && down.files.get("/opt/data").is_some()
    }
}

/// Whether a file lies somewhere that was to be moved to its place.
fn has_scraps(here: &Here) -> bool {
    [
        "/etc/kubernetes",
        "/etc/kubernetes/pki",
        "/etc/kubernetes/pki/etcd",
    ]
    .iter()
    .flat_map(|folder| here.list(folder))
    .any(|name| name.contains("kpot-new"))
}
