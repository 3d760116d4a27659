//! Which master leaves: found by name, address or member ID, and believed only if everything that the cluster records about it agrees. Pure.

use std::collections::BTreeSet;

use super::record::Record;
use crate::control_plane::etcd::Member;
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::objects::Node;
use crate::joining::refusals::Refusal;

/// Whose records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This machine's, which comes back under its own name and address.
    Ours,
    /// Another machine's, whose place this one takes.
    Another,
}

/// A master whose records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The name of its node, and of its etcd member once that had started.
    pub name: String,
    /// The address of its apiserver and etcd.
    pub address: String,
    /// Whose they are.
    pub whose: Whose,
}

impl Departed {
    /// Whether this etcd member is its own: at its address, and called like it or not yet called anything. A member that has only one of both is nobody's to remove.
    pub fn owns(&self, member: &Member) -> bool {
        member.is_at(&self.address) && (member.name.is_empty() || member.name == self.name)
    }

    /// The member that is its own.
    pub fn member<'m>(&self, members: &'m [Member]) -> Option<&'m Member> {
        members.iter().find(|member| self.owns(member))
    }

    /// Whether the cluster still has a record of it: an etcd member, a Node, or an entry in kubeadm's ClusterStatus.
    pub fn is_listed(&self, cluster: &ClusterFacts) -> bool {
        self.member(&cluster.members).is_some()
            || cluster.node(&self.name).is_some()
            || cluster
                .api_endpoints
                .iter()
                .any(|(name, _)| *name == self.name)
    }

    /// This machine, which has the addresses `local`, under the name and address that it had: refused where the cluster knows another machine by either.
    pub fn ourselves(
        cluster: &ClusterFacts,
        records: &[Record],
        name: &str,
        address: &str,
        local: &[String],
    ) -> Result<Self, Refusal> {
        let departed = Self {
            name: name.to_owned(),
            address: address.to_owned(),
            whose: Whose::Ours,
        };
        departed.agreed(cluster, records, local).map_err(|refusal| {
            let own = cluster.members.iter().filter(|member| member.name == name);
            let mut places = own.filter_map(Member::address);
            match places.find(|place| local.iter().any(|own| own == place)) {
                Some(place) if place != address => Refusal {
                    remedy: format!(
                        "If this machine is the master at {place}, which is an address of its own as well, say so: --advertise-address {place}. {}",
                        refusal.remedy
                    ),
                    ..refusal
                },
                _ => refusal,
            }
        })?;
        if name == cluster.healthy.metadata.name {
            return Err(Refusal {
                cause: format!(
                    "--healthy names this machine itself: {name} is the master that was asked"
                ),
                remedy: "Give the address of another, healthy master".to_owned(),
            });
        }
        Ok(departed)
    }

    /// The master that the operator calls `down`, by node name, address or member ID (as `etcdctl member list` prints it, in either of its ways).
    pub fn named(
        cluster: &ClusterFacts,
        records: &[Record],
        down: &str,
        own: (&str, &str),
    ) -> Result<Self, Refusal> {
        let mut found = found(cluster, records, down).into_iter();
        let (Some((name, address)), None) = (found.next(), found.next()) else {
            return Err(unclear(cluster, down));
        };
        if name.is_empty() {
            let unstarted = cluster
                .members
                .iter()
                .filter(|member| member.name.is_empty() && member.is_at(&address));
            let ids: Vec<String> = unstarted.map(|member| member.id.to_string()).collect();
            return Err(Refusal {
                cause: format!(
                    "{down} is an etcd member at {address} that never started, and the cluster knows no node there"
                ),
                remedy: format!(
                    "It was left by a join that failed. Take it out on a healthy master, after a snapshot: etcdctl member remove {}",
                    ids.join(" ")
                ),
            });
        }
        if name == cluster.healthy.metadata.name {
            return Err(Refusal {
                cause: format!("--down and --healthy are the same master: {name} at {address}"),
                remedy: "Give with --healthy the address of a master that stays".to_owned(),
            });
        }
        if name == own.0 || address == own.1 {
            return Err(Refusal {
                cause: format!("{name} at {address} is this machine itself"),
                remedy: "A master that comes back under its own name and address needs a rebirth: kpot-install rebirth-master --healthy ADDRESS".to_owned(),
            });
        }
        let departed = Self {
            name,
            address,
            whose: Whose::Another,
        };
        departed.agreed(cluster, records, &[])?;
        Ok(departed)
    }

    /// Whether the cluster itself knows a master, or a member of etcd, that the operator may call `down`, other than the machine of the node `own`.
    pub fn is_known(cluster: &ClusterFacts, down: &str, own: &str) -> bool {
        let found = found(cluster, &[], down);
        found.iter().any(|(name, _)| name != own)
    }

    /// What is to be told of a master whose Node has other addresses alone.
    pub fn note(&self, cluster: &ClusterFacts) -> Option<String> {
        let node = cluster.node(&self.name)?;
        let others: Vec<&str> = node.internal_addresses().collect();
        (!others.is_empty() && !node.has_address(&self.address)).then(|| {
            format!(
                "{} is the master at {}, as etcd and its API server know it; its node has another address of its machine: {}",
                self.name,
                self.address,
                others.join(", ")
            )
        })
    }

    /// Refuses where the Node, etcd and kubeadm's ClusterStatus do not agree that this name is at this address.
    fn agreed(
        &self,
        cluster: &ClusterFacts,
        records: &[Record],
        local: &[String],
    ) -> Result<(), Refusal> {
        let mut against = Vec::new();
        for node in &cluster.nodes {
            let (named, placed) = (
                node.metadata.name == self.name,
                node.has_address(&self.address),
            );
            if named != placed && !(named && self.has_other(cluster, node, records, local)) {
                let addresses: Vec<&str> = node
                    .status
                    .addresses
                    .iter()
                    .map(|address| address.address.as_str())
                    .collect();
                against.push(format!(
                    "node {} has {}",
                    node.metadata.name,
                    addresses.join(", ")
                ));
            }
        }
        for member in &cluster.members {
            let (named, placed) = (member.name == self.name, member.is_at(&self.address));
            if named != placed && !(placed && member.name.is_empty()) {
                against.push(format!("etcd lists {member}"));
            }
        }
        for (name, address) in &cluster.api_endpoints {
            if (*name == self.name) != (*address == self.address) {
                against.push(format!("kubeadm's ClusterStatus has {name} at {address}"));
            }
        }
        if against.is_empty() {
            return Ok(());
        }
        Err(Refusal {
            cause: format!(
                "the cluster's records do not agree that {} is at {}: {}",
                self.name,
                self.address,
                against.join("; ")
            ),
            remedy: "Nothing is removed on such ground. Look at: kubectl get nodes -o wide; etcdctl member list; kubectl --namespace kube-system get configmap kubeadm-config -o yaml".to_owned(),
        })
    }

    /// Whether the Node of its name, which is not at its address, only has another one of its machine's: a kubelet that is not told (`--node-ip`) takes the one that the default route goes
    /// by, whatever `kubeadm init --apiserver-advertise-address` said. Something else has to place the name at the address, and nobody else may be where the Node is. Where nothing else is
    /// left, a Node that is at `local`, the addresses of this machine, is this machine's.
    fn has_other(
        &self,
        cluster: &ClusterFacts,
        node: &Node,
        records: &[Record],
        local: &[String],
    ) -> bool {
        let (name, address) = (&self.name, &self.address);
        let mut members = cluster.members.iter();
        let mut entries = cluster.api_endpoints.iter();
        let mut recorded = records.iter();
        let is_placed = members.any(|member| member.name == *name && member.is_at(address))
            || entries.any(|(known, place)| known == name && place == address)
            || recorded.any(|record| record.is_of(node) && record.address == *address);
        let is_local = |own: &str| local.iter().any(|address| address == own);
        let mut recorded = records.iter();
        let is_here = node.internal_addresses().all(is_local)
            && recorded.all(|record| record.name != *name || record.address == *address);
        let is_elsewhere = node.internal_addresses().next().is_some();
        let mut others = node.internal_addresses();
        // Somebody may have given a dead master's name to a worker since. That of this machine has no label before kubeadm gives it one, and where somebody deleted it and the kubelet made it
        // anew.
        is_elsewhere
            && (is_here || (is_placed && node.is_master()))
            && !others.any(|own| self.is_taken(cluster, own))
    }

    /// Whether somebody of another name is at `address`.
    fn is_taken(&self, cluster: &ClusterFacts, address: &str) -> bool {
        let name = &self.name;
        let mut nodes = cluster.nodes.iter();
        let mut members = cluster.members.iter();
        let mut entries = cluster.api_endpoints.iter();
        nodes.any(|node| node.metadata.name != *name && node.has_address(address))
            || members.any(|member| member.name != *name && member.is_at(address))
            || entries.any(|(known, place)| known != name && place == address)
    }
}

/// The names and addresses of whatever may be called `down`. A member that never started has no name, unless something else is known of its address.
fn found(cluster: &ClusterFacts, records: &[Record], down: &str) -> BTreeSet<(String, String)> {
    let known = known(cluster, records);
    let of_node = cluster.nodes.iter().find(|node| node.has_address(down));
    let mut found: BTreeSet<(String, String)> = known
        .iter()
        .filter(|(name, address)| {
            down == name
                || down == address
                || of_node.is_some_and(|node| node.metadata.name == *name)
        })
        .cloned()
        .collect();
    for member in &cluster.members {
        if member.id.is(down) || down == member.name || member.is_at(down) {
            let address = member.address().unwrap_or_default();
            let theirs = known.iter().find(|(_, place)| place == address);
            found.insert(match theirs {
                Some(theirs) if member.name.is_empty() => theirs.clone(),
                _ => (member.name.clone(), address.to_owned()),
            });
        }
    }
    found
}

/// The masters that the cluster's Nodes, kubeadm's ClusterStatus and our own records name, with their addresses. kubeadm labels a Node last: one at the address of a member that never started
/// is that of a join that was cut off.
fn known(cluster: &ClusterFacts, records: &[Record]) -> BTreeSet<(String, String)> {
    let half_joined = |node: &Node| {
        let mut members = cluster.members.iter();
        members.any(|member| {
            member.name.is_empty() && node.internal_address().is_some_and(|own| member.is_at(own))
        })
    };
    let nodes = cluster
        .nodes
        .iter()
        .filter(|node| node.is_master() || half_joined(node));
    let nodes = nodes.filter_map(|node| {
        let name = &node.metadata.name;
        Some((name.clone(), place(cluster, records, node)?.to_owned()))
    });
    let records = records
        .iter()
        .map(|record| (record.name.clone(), record.address.clone()));
    nodes
        .chain(cluster.api_endpoints.iter().cloned())
        .chain(records)
        .collect()
}

/// At which of its machine's addresses a Node is a master: it may itself have one of either family, or another one alone. Its member is there, or its API server; or was when it was recorded.
fn place<'c>(cluster: &'c ClusterFacts, records: &'c [Record], node: &'c Node) -> Option<&'c str> {
    let name = &node.metadata.name;
    let mut members = cluster.members.iter();
    let member = members.find(|member| member.name == *name);
    let mut entries = cluster.api_endpoints.iter();
    let entry = entries.find(|(known, _)| known == name);
    let mut recorded = records.iter();
    let record = recorded.find(|record| record.is_of(node));
    member
        .and_then(Member::address)
        .or(entry.map(|(_, address)| address.as_str()))
        .or(record.map(|record| record.address.as_str()))
        .or(node.internal_address())
}

fn unclear(cluster: &ClusterFacts, down: &str) -> Refusal {
    let masters: Vec<String> = cluster
        .nodes
        .iter()
        .filter(|node| node.is_master())
        .map(|node| node.metadata.name.clone())
        .chain(
            cluster
                .members
                .iter()
                .map(|member| format!("etcd {member}")),
        )
        .collect();
    Refusal {
        cause: format!("the cluster has no master, or more than one, that is {down}"),
        remedy: format!(
            "Give the name of its node, its address, or its etcd member's ID. Known here: {}",
            masters.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joining::fixtures::{self, cluster, member, node};

    fn three() -> ClusterFacts {
        let mut three = cluster();
        three.nodes.push(node("m3", "10.0.0.13"));
        let mut dead = member(0x1f, "m3", "10.0.0.13");
        dead.healthy = false;
        three.members.push(dead);
        three
            .api_endpoints
            .push(("m3".to_owned(), "10.0.0.13".to_owned()));
        three
    }

    fn find(cluster: &ClusterFacts, down: &str) -> Result<Departed, Refusal> {
        Departed::named(cluster, &[], down, ("b1", "10.0.0.21"))
    }

    fn ourselves(cluster: &ClusterFacts, name: &str, address: &str) -> Result<Departed, Refusal> {
        Departed::ourselves(cluster, &[], name, address, &[])
    }

    #[test]
    fn name_address_and_member_id_name_the_same_master() {
        // As a dual-stack kubelet lists them; etcd has one of them.
        let mut two_families = three();
        let own = &mut two_families.nodes.last_mut().unwrap().status.addresses;
        let mut other = own[0].clone();
        other.address = "fd00::13".to_owned();
        own.insert(0, other);
        for (cluster, down) in [
            (&three(), "m3"),
            (&three(), "10.0.0.13"),
            (&three(), "1f"),
            (&three(), "1F"),
            (&three(), "0x1f"),
            (&three(), "31"),
            (&two_families, "m3"),
            (&two_families, "10.0.0.13"),
            (&two_families, "fd00::13"),
            (&two_families, "1f"),
        ] {
            let found = find(cluster, down).expect(down);
            assert_eq!(
                (found.name.as_str(), found.address.as_str()),
                ("m3", "10.0.0.13")
            );
        }
    }

    #[test]
    fn what_is_left_of_it_is_enough() {
        let mut only_member = three();
        only_member.nodes.pop();
        only_member.api_endpoints.clear();
        let found = find(&only_member, "10.0.0.13").unwrap();
        assert_eq!(found.name, "m3");
        assert!(found.is_listed(&only_member) && found.is_listed(&three()));
        assert!(!found.is_listed(&cluster()));
        let mut only_status = three();
        only_status.nodes.pop();
        only_status.members.pop();
        assert_eq!(find(&only_status, "m3").unwrap().address, "10.0.0.13");
        let mut nothing = only_status;
        nothing.api_endpoints.clear();
        let record = Record {
            name: "m3".to_owned(),
            address: "10.0.0.13".to_owned(),
            uid: String::new(),
        };
        assert!(Departed::named(&nothing, &[record], "m3", ("b1", "10.0.0.21")).is_ok());
        assert!(
            find(&nothing, "m3")
                .unwrap_err()
                .remedy
                .contains("etcd m1 1")
        );
    }

    #[test]
    fn the_healthy_master_this_machine_and_workers_are_no_targets() {
        assert!(
            find(&three(), "m1")
                .unwrap_err()
                .cause
                .contains("same master")
        );
        let own = Departed::named(&three(), &[], "m3", ("m3", "10.0.0.13")).unwrap_err();
        assert!(own.remedy.contains("rebirth-master"));
        let mut worker = three();
        let mut node = node("w1", "10.0.0.31");
        node.metadata.labels.clear();
        worker.nodes.push(node);
        assert!(
            find(&worker, "w1")
                .unwrap_err()
                .cause
                .contains("has no master")
        );
    }

    #[test]
    fn records_that_disagree_stop_everything() {
        let mut moved = three();
        moved.members[2].peer_urls = vec!["https://10.0.0.99:2380".to_owned()];
        let refused = find(&moved, "m3").unwrap_err();
        assert!(
            refused.cause.contains("10.0.0.99") || refused.cause.contains("more than one"),
            "{refused:?}"
        );
        let mut renamed = three();
        renamed.members[2].name = "m4".to_owned();
        assert!(
            find(&renamed, "10.0.0.13").is_err(),
            "two names at one address"
        );
        assert!(ourselves(&moved, "m3", "10.0.0.13").is_err());
        assert!(ourselves(&three(), "m3", "10.0.0.12").is_err());
        assert!(ourselves(&three(), "m3", "10.0.0.13").is_ok());
        assert!(
            ourselves(&three(), "m9", "10.0.0.99").is_ok(),
            "all records of it are gone"
        );
    }

    /// Three masters, as where `kubeadm init --apiserver-advertise-address` alone was told which address to take: the kubelet of m3 takes another one.
    fn beside() -> ClusterFacts {
        let mut beside = three();
        *beside.nodes.last_mut().unwrap() = node("m3", "192.168.1.13");
        beside
    }

    #[test]
    fn a_node_that_has_another_address_of_its_machine_is_the_master_s_all_the_same() {
        let mut without_status = beside();
        without_status.api_endpoints.clear();
        let mut without_etcd = beside();
        without_etcd.members.clear();
        for cluster in [&beside(), &without_status, &without_etcd] {
            for down in ["m3", "10.0.0.13", "192.168.1.13"] {
                let found = find(cluster, down).expect(down);
                assert_eq!(
                    (found.name.as_str(), found.address.as_str()),
                    ("m3", "10.0.0.13")
                );
                let note = found.note(cluster).unwrap();
                assert!(
                    note.contains("10.0.0.13") && note.contains("192.168.1.13"),
                    "{note}"
                );
            }
            assert!(ourselves(cluster, "m3", "10.0.0.13").is_ok());
            assert!(ourselves(cluster, "m3", "192.168.1.13").is_err());
        }
        let mut worker = beside();
        worker.nodes.last_mut().unwrap().metadata.labels.clear();
        assert!(find(&worker, "m3").is_err(), "it is not the one that died");
        assert_eq!(find(&three(), "m3").unwrap().note(&three()), None);
        assert!(find(&without_status, "1f").is_ok());
        let local = ["10.0.0.13", "192.168.1.13"].map(str::to_owned);
        let refused =
            Departed::ourselves(&beside(), &[], "m3", "192.168.1.13", &local).unwrap_err();
        assert!(
            refused.remedy.contains("--advertise-address 10.0.0.13"),
            "{refused:?}"
        );
    }

    #[test]
    fn what_was_begun_with_such_a_master_is_finished() {
        // Its member is gone already, and kubeadm keeps no ClusterStatus from 1.22 on.
        let mut begun = beside();
        begun.members.pop();
        begun.api_endpoints.clear();
        begun.nodes.last_mut().unwrap().metadata.uid = "u1".to_owned();
        let record = |address: &str, uid: &str| Record {
            name: "m3".to_owned(),
            address: address.to_owned(),
            uid: uid.to_owned(),
        };
        let named = |record: Record, down: &str| {
            Departed::named(&begun, &[record], down, ("b1", "10.0.0.21"))
        };
        for down in ["m3", "10.0.0.13", "192.168.1.13"] {
            let found = named(record("10.0.0.13", "u1"), down).expect(down);
            assert_eq!(found.address, "10.0.0.13");
            for uid in ["", "u0"] {
                assert!(
                    named(record("10.0.0.13", uid), down).is_err(),
                    "a record of another Node: {down}"
                );
            }
        }
        let here = |records: &[Record], local: &[&str]| {
            let local: Vec<String> = local.iter().map(|&own| own.to_owned()).collect();
            Departed::ourselves(&begun, records, "m3", "10.0.0.13", &local)
        };
        let both = ["10.0.0.13", "192.168.1.13"];
        assert!(here(&[], &both).is_ok());
        assert!(here(&[record("10.0.0.13", "u0")], &both).is_ok());
        assert!(here(&[record("10.0.0.99", "u0")], &both).is_err());
        assert!(
            here(&[], &both[..1]).is_err(),
            "it may be another machine's"
        );
        let mut unlabelled = begun.clone();
        let node = unlabelled.nodes.iter_mut();
        let node = node
            .filter(|node| node.metadata.name == "m3")
            .last()
            .unwrap();
        node.metadata.labels.clear();
        let of_this_machine = |local: &[&str]| {
            let local: Vec<String> = local.iter().map(|&own| own.to_owned()).collect();
            Departed::ourselves(&unlabelled, &[], "m3", "10.0.0.13", &local)
        };
        assert!(of_this_machine(&both).is_ok(), "kubeadm labels it last");
        assert!(of_this_machine(&both[..1]).is_err());
    }

    /// Who is at an address, or nobody.
    type Placed = Option<(&'static str, &'static str)>;

    /// Whether m3 may be taken for the master at 10.0.0.13, in other words: whatever has the name or the address has both; but the Node of that name may be at another address, `own`, where
    /// a member or an entry has both and nobody else is there.
    fn oracle(own: &str, other: Placed, member: Placed, entry: Placed) -> bool {
        let us = ("m3", "10.0.0.13");
        let strangers = [other, member, entry];
        let is_odd = |(name, address): (&str, &str)| (name == us.0) != (address == us.1);
        let is_unstarted = |one: (&str, &str)| one.0.is_empty() && one.1 == us.1;
        if strangers
            .into_iter()
            .flatten()
            .any(|one| is_odd(one) && !is_unstarted(one))
        {
            return false;
        }
        own == us.1
            || ([member, entry].contains(&Some(us))
                && !strangers.into_iter().flatten().any(|one| one.1 == own))
    }

    #[test]
    fn one_other_address_of_a_node_is_all_that_may_differ() {
        let addresses = ["10.0.0.13", "192.168.1.13", "10.0.0.99"];
        let placed = |names: &[&'static str]| -> Vec<Placed> {
            let all = names
                .iter()
                .flat_map(|&name| addresses.map(|address| Some((name, address))));
            all.chain([None]).collect()
        };
        let mut accepted = 0;
        for own in addresses {
            for other in placed(&["m4"]) {
                for member in placed(&["m3", "m4", ""]) {
                    for entry in placed(&["m3", "m4"]) {
                        let mut cluster = cluster();
                        cluster.nodes.push(node("m3", own));
                        cluster.nodes.extend(other.map(|(name, at)| node(name, at)));
                        let member_of = |(name, at)| fixtures::member(0x1f, name, at);
                        cluster.members.extend(member.map(member_of));
                        let entry_of = |(name, at): (&str, &str)| (name.to_owned(), at.to_owned());
                        cluster.api_endpoints.extend(entry.map(entry_of));
                        let wanted = oracle(own, other, member, entry);
                        let judged = ourselves(&cluster, "m3", "10.0.0.13").is_ok();
                        let told = format!("{own} {other:?} {member:?} {entry:?}");
                        assert_eq!(judged, wanted, "{told}");
                        accepted += usize::from(judged);
                        // Whom it finds by whichever word, all that is known agrees on.
                        for down in ["m3", own] {
                            if let Ok(found) = find(&cluster, down)
                                && (found.name.as_str(), found.address.as_str())
                                    == ("m3", "10.0.0.13")
                            {
                                assert!(wanted, "{down}: {told}");
                            }
                        }
                    }
                }
            }
        }
        assert!(accepted > 20, "{accepted}");
    }

    #[test]
    fn a_member_that_never_started_is_its_own_by_address() {
        let mut half = three();
        half.members[2].name.clear();
        half.members[2].client_urls.clear();
        let found = find(&half, "m3").unwrap();
        assert!(found.member(&half.members).is_some());
        assert_eq!(find(&half, "1f").unwrap(), found, "by its address");
        half.nodes.pop();
        half.api_endpoints.clear();
        assert!(
            find(&half, "1f")
                .unwrap_err()
                .cause
                .contains("never started")
        );
    }

    #[test]
    fn a_join_that_was_cut_off_is_found_by_the_node_that_has_no_label_yet() {
        let mut half = cluster();
        let mut node = node("b9", "10.0.0.29");
        node.metadata.labels.clear();
        half.nodes.push(node);
        assert!(find(&half, "b9").is_err(), "a worker");
        let mut member = member(0x1f, "", "10.0.0.29");
        member.client_urls.clear();
        half.members.push(member);
        for down in ["b9", "10.0.0.29", "1f"] {
            let found = find(&half, down).expect(down);
            assert_eq!(
                (found.name.as_str(), found.address.as_str()),
                ("b9", "10.0.0.29")
            );
            assert!(found.member(&half.members).is_some());
        }
        half.nodes.pop();
        let refused = find(&half, "10.0.0.29").unwrap_err();
        assert!(
            refused.remedy.ends_with("etcdctl member remove 1f"),
            "{refused:?}"
        );
    }
}
