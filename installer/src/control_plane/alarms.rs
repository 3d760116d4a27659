//! etcd's alarms. While one is raised, etcd answers reads and takes no writes: no lock, no Node and no join would come into the cluster, however well its members are.
//!
//! They say nothing of a member's health, and are asked by themselves: `etcdctl endpoint health` takes them for bad health of everybody from etcd 3.5 on
//! (<https://github.com/etcd-io/etcd/pull/12150>), and passes over them before.

use std::fmt;

use super::etcd::{Member, MemberId};
use super::guard::Votes;

/// An alarm that is raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// `NOSPACE`, `CORRUPT`, or one that a later etcd has.
    pub kind: String,
    /// The member that it is raised for, as etcd lists it.
    pub whose: String,
    /// Whether the others are a quorum without that member.
    pub spared: bool,
}

impl Alarm {
    /// Reads what `etcdctl alarm list` prints, in 3.3 and later: a line such as `memberID:8630161756594109333 alarm:NOSPACE` for each. etcd does not always know whose data
    /// are corrupt, and names no member then.
    pub(super) fn parse(text: &str, members: &[Member]) -> Vec<Self> {
        let alarm = |line: &str| {
            let field = |name: &str| {
                line.split_whitespace()
                    .find_map(|word| word.strip_prefix(name))
            };
            let id = field("memberID:").and_then(|id| id.parse().ok().map(MemberId));
            let member = members.iter().find(|member| Some(member.id) == id);
            Self {
                // A line that is not understood is an alarm all the same.
                kind: field("alarm:").unwrap_or(line).to_owned(),
                whose: match (member, id) {
                    (Some(member), _) => member.to_string(),
                    (None, Some(id)) => id.to_string(),
                    (None, None) => "a member that it does not name".to_owned(),
                },
                spared: member.is_some_and(|member| {
                    let mut votes = Votes::of(members);
                    votes.healthy -= usize::from(member.votes());
                    votes.are_enough()
                }),
            }
        };
        let lines = text.lines().map(str::trim);
        lines.filter(|line| !line.is_empty()).map(alarm).collect()
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self.kind.as_str() {
            "NOSPACE" => "With etcdctl in etcd's container, on a healthy master: endpoint status --write-out=json (it tells the revision), then compact REVISION; then, on every master that is well, one after the other, defrag; then, once, alarm disarm. Where it is full of what is needed, give every etcd a larger --quota-backend-bytes first, and write it under etcd.local.extraArgs into the ConfigMap kubeadm-config, by which later masters get it",
            "CORRUPT" if !self.spared => "Stop no member: the others are too few without that one. With all of them running, and with etcdctl in etcd's container on a healthy master: alarm disarm; then, where a master is down, bring it back (rebirth-master) or replace it (change-master); then, on the one whose data are corrupt, with the address of another master: kpot-install reset --healthy ADDRESS; then make it anew: kpot-install join-master --healthy ADDRESS. Where etcd does not name it: endpoint hashkv --cluster tells whose hash is not that of the others",
            "CORRUPT" => "Stop that member's etcd, on its master: mv /etc/kubernetes/manifests/etcd.yaml /root/. Then, with etcdctl in etcd's container on a healthy one: alarm disarm. Then make that master anew, there, with the address of a healthy one: kpot-install rebirth-master --healthy ADDRESS. Where etcd does not name it: endpoint hashkv --cluster tells whose hash is not that of the others",
            _ => "Find its cause in etcd's log, end it, then, with etcdctl in etcd's container on a healthy master: alarm disarm",
        }
        .to_owned()
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, whose, .. } = self;
        let why = match kind.as_str() {
            "NOSPACE" => ": its database has reached its quota, and etcd takes no writes",
            "CORRUPT" => ": its data are not those of the other members, and etcd takes no writes",
            _ => "",
        };
        write!(f, "etcd has raised the alarm {kind} for {whose}{why}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joining::fixtures::member;

    #[test]
    fn alarms_are_read_as_etcd_prints_them_and_name_their_member() {
        let members = [member(8_630_161_756_594_109_333, "m1", "10.0.0.11")];
        let read = |text: &str| -> Vec<(String, String)> {
            let alarms = Alarm::parse(text, &members);
            alarms
                .into_iter()
                .map(|alarm| (alarm.kind, alarm.whose))
                .collect()
        };
        // The only member, and one of three that are well, of two, and beside one that is down.
        let at = |id: u64, healthy: bool| Member {
            healthy,
            ..member(id, &format!("m{id}"), &format!("10.0.0.{id}"))
        };
        for (members, spared) in [
            (vec![at(1, true)], false),
            (vec![at(1, true), at(2, true), at(3, true)], true),
            (vec![at(1, true), at(2, true)], false),
            (vec![at(1, true), at(2, true), at(3, false)], false),
        ] {
            let alarms = Alarm::parse("memberID:1 alarm:CORRUPT", &members);
            assert_eq!(alarms[0].spared, spared, "{members:?}");
            assert_eq!(alarms[0].remedy().starts_with("Stop no member"), !spared);
        }
        assert!(!Alarm::parse("alarm:CORRUPT", &members)[0].spared);
        assert_eq!(read(""), []);
        assert_eq!(read("\n"), []);
        let pair = |kind: &str, whose: &str| (kind.to_owned(), whose.to_owned());
        assert_eq!(
            read("memberID:8630161756594109333 alarm:NOSPACE \nmemberID:31 alarm:CORRUPT \n"),
            [
                pair("NOSPACE", "m1 77c47e649ff3fb95 https://10.0.0.11:2380"),
                pair("CORRUPT", "1f"),
            ]
        );
        assert_eq!(
            read("alarm:CORRUPT"),
            [pair("CORRUPT", "a member that it does not name")]
        );
        assert_eq!(
            read("something else"),
            [pair("something else", "a member that it does not name")]
        );
    }
}
