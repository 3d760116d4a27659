//! The quorum guard against an oracle that was written without it: votes are counted by trying every way to lose members, on bit masks, with no formula for a quorum.
//!
//! A cluster of n voters is a mask of n bits. A set of live members has a quorum where it outvotes whoever is not in it. Every live set and every target of n = 1 to 7,
//! which are 1,538 cases, meets every outcome of the other three rules.

use std::collections::BTreeSet;

use installer::control_plane::etcd::{Member, MemberId};
use installer::control_plane::guard::{
    Machine, Reading, Refused, Situation, SnapshotState, Target, may_remove,
};

/// A member as etcd lists it.
fn member(id: u32, healthy: bool) -> Member {
    Member {
        id: MemberId(u64::from(id) + 1),
        name: format!("m{}", id + 1),
        peer_urls: vec![format!("https://10.0.0.{}:2380", id + 1)],
        client_urls: vec![format!("https://10.0.0.{}:2379", id + 1)],
        is_learner: false,
        healthy,
    }
}

fn learner(id: u32, healthy: bool) -> Member {
    Member {
        is_learner: true,
        ..member(id, healthy)
    }
}

/// One that was added and never ran: it has a vote where it is no learner.
fn never_started(id: u32) -> Member {
    Member {
        name: String::new(),
        client_urls: vec![],
        ..member(id, false)
    }
}

/// Another machine's, dead.
fn dead(member: Member) -> Target {
    Target {
        member,
        machine: Machine::Other,
        from_here: Reading::Failed,
        from_healthy: Reading::Failed,
    }
}

/// A cluster without a learner, and with a snapshot.
fn situation(others: Vec<Member>, target: Target) -> Situation {
    Situation {
        others,
        target: Some(target),
        snapshot: SnapshotState::Checked,
    }
}

/// The numbers of the rules that refuse.
fn rules(situation: &Situation) -> BTreeSet<u8> {
    let refused = may_remove(situation).err().unwrap_or_default();
    let numbers = refused.iter().map(|refused| match refused {
        Refused::NoQuorum { .. } => 1,
        Refused::QuorumWouldBeLost { .. } => 2,
        Refused::Alive { .. } => 3,
        Refused::LearnerPending { .. } => 4,
        Refused::NoSnapshot => 5,
    });
    let set: BTreeSet<u8> = numbers.collect();
    assert_eq!(set.len(), refused.len(), "no rule is told twice");
    assert!(
        may_remove(situation).is_ok() == set.is_empty(),
        "a refusal says why"
    );
    set
}

/// Whether the live ones outvote the rest, by pairing them off one against one until a side has nobody left.
fn outvotes(live: u8, voters: u8) -> bool {
    let (mut ayes, mut noes) = (live & voters, voters & !live);
    while ayes != 0 && noes != 0 {
        ayes &= ayes - 1;
        noes &= noes - 1;
    }
    ayes != 0
}

/// Every live set and every target of a cluster of up to seven.
fn cases() -> Vec<(u32, u8, u32)> {
    let mut cases = Vec::new();
    for n in 1..=7 {
        for live in 0..(1_u16 << n) {
            let live = u8::try_from(live).expect("seven bits");
            cases.extend((0..n).map(|target| (n, live, target)));
        }
    }
    cases
}

#[test]
fn there_are_1538_cases() {
    let cases = cases();
    assert_eq!(cases.len(), 1538);
    assert_eq!(cases.iter().collect::<BTreeSet<_>>().len(), 1538);
}

#[test]
fn every_live_set_and_target_meets_every_outcome_of_the_other_rules() {
    let readings = [Reading::Answered, Reading::Failed];
    let (mut tried, mut allowed) = (0, 0);
    for (n, live, target) in cases() {
        let voters = u8::MAX >> (8 - n);
        let left = voters & !(1 << target);
        let mut quorum = BTreeSet::new();
        if !outvotes(live, voters) {
            quorum.insert(1);
        }
        if !outvotes(live, left) {
            quorum.insert(2);
        }
        for machine in [Machine::This, Machine::Other] {
            for from_here in readings {
                for from_healthy in readings {
                    for pending in [false, true] {
                        for snapshot in [SnapshotState::Checked, SnapshotState::Missing] {
                            let is_live = |id: u32| live >> id & 1 == 1;
                            let mut others: Vec<Member> = (0..n)
                                .filter(|id| *id != target)
                                .map(|id| member(id, is_live(id)))
                                .collect();
                            // It answers, and must not be counted all the same.
                            others.extend(pending.then(|| learner(9, true)));
                            let situation = Situation {
                                others,
                                target: Some(Target {
                                    member: member(target, is_live(target)),
                                    machine,
                                    from_here,
                                    from_healthy,
                                }),
                                snapshot,
                            };
                            let mut expected = quorum.clone();
                            let answers = [from_here, from_healthy].contains(&Reading::Answered);
                            if answers && machine == Machine::Other {
                                expected.insert(3);
                            }
                            if pending {
                                expected.insert(4);
                            }
                            if snapshot == SnapshotState::Missing {
                                expected.insert(5);
                            }
                            assert_eq!(rules(&situation), expected, "{situation:?}");
                            tried += 1;
                            allowed += usize::from(expected.is_empty());
                        }
                    }
                }
            }
        }
    }
    assert_eq!(tried, 1538 * 2 * 4 * 2 * 2);
    assert!(allowed > 0 && allowed < tried);
}

#[test]
fn what_is_allowed_leaves_a_cluster_that_a_new_member_cannot_stop() {
    for (n, live, target) in cases() {
        let others: Vec<Member> = (0..n)
            .filter(|id| *id != target)
            .map(|id| member(id, live >> id & 1 == 1))
            .collect();
        let answering = others.iter().filter(|other| other.healthy).count();
        let target = dead(member(target, live >> target & 1 == 1));
        if may_remove(&situation(others.clone(), target)).is_ok() {
            assert!(
                2 * answering > others.len(),
                "{answering} of {}",
                others.len()
            );
        }
    }
}

#[test]
fn a_learner_that_is_removed_changes_no_quorum() {
    for n in 1..=7 {
        for live in 0..(1_u16 << n) {
            let live = u8::try_from(live).expect("seven bits");
            for healthy in [false, true] {
                let others = (0..n).map(|id| member(id, live >> id & 1 == 1)).collect();
                let target = dead(learner(9, healthy));
                let expected = if outvotes(live, u8::MAX >> (8 - n)) {
                    BTreeSet::new()
                } else {
                    BTreeSet::from([1])
                };
                assert_eq!(rules(&situation(others, target)), expected, "{n} {live:b}");
            }
        }
    }
}

#[test]
fn the_target_is_not_the_learner_that_is_in_the_way() {
    let masters = || vec![member(0, true), member(1, true)];
    let own = situation(masters(), dead(learner(2, false)));
    assert_eq!(rules(&own), BTreeSet::new());
    let mut others = masters();
    others.push(learner(3, false));
    let with_another = situation(others, dead(learner(2, false)));
    assert_eq!(rules(&with_another), BTreeSet::from([4]));
}

#[test]
fn a_voter_that_never_started_counts_as_one_that_does_not_answer() {
    let with = |others: Vec<Member>, target| rules(&situation(others, dead(target)));
    let none = BTreeSet::new();
    // kubeadm added it, and its etcd never came up: two of three stand, and two of two are left.
    assert_eq!(
        with(vec![member(0, true), member(1, true)], never_started(2)),
        none
    );
    // A cluster of one that a half join made one of two has no quorum any more.
    assert_eq!(
        with(vec![member(0, true)], never_started(1)),
        BTreeSet::from([1])
    );
    // It is another one: of the two that would be left, it does not answer.
    assert_eq!(
        with(vec![member(0, true), never_started(1)], member(2, true)),
        BTreeSet::from([2])
    );
    // A health that was claimed for it does not make it one.
    let claimed = Member {
        healthy: true,
        ..never_started(1)
    };
    assert_eq!(
        with(vec![member(0, true), claimed], member(2, true)),
        BTreeSet::from([2])
    );
}

#[test]
fn a_target_that_is_gone_already_asks_for_the_other_rules_only() {
    let gone = |healthy: [bool; 3], snapshot| Situation {
        others: (0..3).zip(healthy).map(|(id, up)| member(id, up)).collect(),
        target: None,
        snapshot,
    };
    let checked = SnapshotState::Checked;
    assert_eq!(rules(&gone([true, true, false], checked)), BTreeSet::new());
    assert_eq!(
        rules(&gone([true, false, false], checked)),
        BTreeSet::from([1])
    );
    assert_eq!(
        rules(&gone([true; 3], SnapshotState::Missing)),
        BTreeSet::from([5])
    );
}

/// What is told, and what to do about it.
fn told(situation: &Situation) -> Vec<(String, String)> {
    let refused = may_remove(situation).expect_err("it is refused");
    refused
        .iter()
        .map(|refused| (refused.to_string(), refused.remedy()))
        .collect()
}

#[test]
fn a_refusal_tells_figures_and_a_remedy() {
    let three = |second, third| vec![member(0, true), member(1, second), member(2, third)];
    let lost = told(&situation(three(false, false), dead(member(3, false))));
    assert_eq!(lost.len(), 2);
    assert_eq!(
        lost[0].0,
        "etcd has no quorum: 1 of 4 voting members answer, 3 have to"
    );
    assert!(lost[0].1.contains("m2 2 https://10.0.0.2:2380; m3 3 "));
    assert!(lost[0].1.contains("runbook for a lost quorum"));
    assert_eq!(
        lost[1].0,
        "without m4 4 https://10.0.0.4:2380 etcd would have no quorum: 1 of 3 voting members answer, 2 have to"
    );
    assert!(lost[1].1.contains("m2 2 ") && !lost[1].1.contains("m4"));

    let alone = told(&situation(vec![], dead(member(0, true))));
    assert!(alone[0].0.contains("the only etcd member that votes"));
    assert!(alone[0].1.contains("another master join first"));

    let mut target = dead(member(2, true));
    target.from_healthy = Reading::Answered;
    let alive = told(&situation(vec![member(0, true), member(1, true)], target));
    assert!(alive[0].0.contains("m3 3 ") && alive[0].0.ends_with("it answers the healthy master"));
    assert!(
        alive[0]
            .1
            .ends_with("Run there: kpot-install reset --healthy 10.0.0.1")
    );

    let mut others = three(true, true);
    others.push(learner(12, false));
    let mut pending = situation(others, dead(member(3, false)));
    pending.snapshot = SnapshotState::Missing;
    let pending = told(&pending);
    assert!(pending[0].0.contains("m13 d ") && pending[0].1.ends_with("etcdctl member remove d"));
    assert!(pending[1].0.contains("no etcd snapshot"));
}
