//! The quorum guard: whether an etcd member may be removed, and if not, why not.
//!
//! One pure function, [`may_remove`]; it asks nobody and changes nothing. It refuses unless all five rules hold: the cluster has a quorum; it still has one without the
//! target; the target is this machine's or does not answer; nobody is joining; there is a snapshot. Every rule that does not hold is told, each with figures and a
//! remedy. Whether SSH or the kubelet of the target's machine answers plays no part: only its etcd counts.
//!
//! A quorum is more than half of the voters. A learner has no vote. A member that never started may have one, and then counts like one that does not answer.

use std::fmt;

use super::etcd::Member;

/// What the guard judges by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Every member but the target. [`Member::healthy`] has to mean: for at least 5 s.
    pub others: Vec<Member>,
    /// The member to be removed; nothing where it is gone already, and only rules 1, 4 and 5 are asked.
    pub target: Option<Target>,
    /// Whether there is a snapshot.
    pub snapshot: SnapshotState,
}

/// A member to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As etcd lists it.
    pub member: Member,
    /// Whose it is.
    pub machine: Machine,
    /// What came of a health read that this machine asked of it.
    pub from_here: Reading,
    /// What came of a health read that a healthy master asked of it.
    pub from_healthy: Reading,
}

/// Whose a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// This machine's, which the operator is about to set up anew.
    This,
    /// Another machine's.
    Other,
}

/// What came of a health read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It was answered.
    Answered,
    /// It was not, in its time.
    Failed,
}

/// Whether there is a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// It was taken in this run, lies on this machine, and was checked.
    Checked,
    /// There is none, or none that was checked.
    Missing,
}

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Rule 1: the cluster has no quorum now.
    NoQuorum {
        /// How the voters stand.
        votes: Votes,
        /// Those that do not answer.
        down: Vec<Member>,
    },
    /// Rule 2: without the target the cluster would have no quorum.
    QuorumWouldBeLost {
        /// The target.
        target: Member,
        /// How the voters would stand.
        votes: Votes,
        /// Those of them that do not answer.
        down: Vec<Member>,
    },
    /// Rule 3: the target belongs to another machine, and its etcd answers.
    Alive {
        /// The target.
        target: Member,
        /// What this machine's read brought.
        from_here: Reading,
        /// What the healthy master's read brought.
        from_healthy: Reading,
        /// The address of a member that is well and stays, where there is one.
        healthy: Option<String>,
    },
    /// Rule 4: a member other than the target has no vote yet.
    LearnerPending {
        /// That member.
        learner: Member,
    },
    /// Rule 5: there is no snapshot.
    NoSnapshot,
}

/// How many vote, and how many of them answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Votes {
    /// Members with a vote.
    pub voters: usize,
    /// Those that answer.
    pub healthy: usize,
}

impl Votes {
    /// How many have to answer.
    pub fn needed(self) -> usize {
        self.voters / 2 + 1
    }

    /// How these members stand.
    pub fn of<'m>(members: impl IntoIterator<Item = &'m Member>) -> Self {
        let voters: Vec<_> = members.into_iter().filter(|one| !one.is_learner).collect();
        Self {
            voters: voters.len(),
            healthy: voters.iter().filter(|one| one.votes()).count(),
        }
    }

    /// Whether they are a quorum.
    pub fn are_enough(self) -> bool {
        self.healthy >= self.needed()
    }
}

/// Whether the target may be removed now.
///
/// # Errors
/// Every rule that does not hold, in their order.
pub fn may_remove(situation: &Situation) -> Result<(), Vec<Refused>> {
    let Situation {
        others,
        target,
        snapshot,
    } = situation;
    let mut refused = Vec::new();
    let all = || {
        others
            .iter()
            .chain(target.iter().map(|target| &target.member))
    };
    let votes = Votes::of(all());
    if !votes.are_enough() {
        refused.push(Refused::NoQuorum {
            votes,
            down: down(all()),
        });
    }
    if let Some(target) = target {
        let left = Votes::of(others);
        // A learner's going changes no quorum, and rule 1 has judged that one.
        if !target.member.is_learner && !left.are_enough() {
            refused.push(Refused::QuorumWouldBeLost {
                target: target.member.clone(),
                votes: left,
                down: down(others),
            });
        }
        let dead = (target.from_here, target.from_healthy) == (Reading::Failed, Reading::Failed);
        if target.machine == Machine::Other && !dead {
            let healthy = others.iter().find(|other| other.votes());
            refused.push(Refused::Alive {
                target: target.member.clone(),
                from_here: target.from_here,
                from_healthy: target.from_healthy,
                healthy: healthy.and_then(Member::address).map(str::to_owned),
            });
        }
    }
    refused.extend(
        others
            .iter()
            .find(|other| other.is_learner)
            .cloned()
            .map(|learner| Refused::LearnerPending { learner }),
    );
    if *snapshot == SnapshotState::Missing {
        refused.push(Refused::NoSnapshot);
    }
    if refused.is_empty() {
        Ok(())
    } else {
        Err(refused)
    }
}

/// Voters that do not answer.
fn down<'m>(members: impl IntoIterator<Item = &'m Member>) -> Vec<Member> {
    members
        .into_iter()
        .filter(|member| !member.is_learner && !member.votes())
        .cloned()
        .collect()
}

impl Refused {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoQuorum { down, .. } => format!(
                "Bring back one of: {}. Its etcd, with its data, is what is needed: see there, journalctl -u kubelet.\nIf too many are gone for good, nothing can be removed any more, and the cluster has to be restored from a survivor's snapshot: follow the runbook for a lost quorum",
                list(down)
            ),
            Self::QuorumWouldBeLost { votes, .. } if votes.voters == 0 => {
                "The only voting member cannot be replaced by removing it. Let another master join first, or restore from a snapshot: follow the runbook for a lost quorum"
                    .to_owned()
            }
            Self::QuorumWouldBeLost { down, .. } => {
                format!("Bring back one of these first, then run this again: {}", list(down))
            }
            Self::Alive { healthy, .. } => format!(
                "A member that answers is taken out by its own machine. Run there: kpot-install reset --healthy {}",
                healthy.as_deref().unwrap_or("ADDRESS")
            ),
            Self::LearnerPending { learner } => format!(
                "Wait for that join to end, then run this again. If nobody is joining, one failed and left it; on a healthy master: etcdctl member remove {}",
                learner.id
            ),
            Self::NoSnapshot => {
                "Mend what kept the snapshot from being taken and checked (room on the healthy master's etcd disk and in /var/lib/kpot, the connection), then run this again"
                    .to_owned()
            }
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoQuorum { votes, .. } => {
                write!(f, "etcd has no quorum: {votes}")
            }
            Self::QuorumWouldBeLost { target, votes, .. } if votes.voters == 0 => {
                write!(
                    f,
                    "{target} is the only etcd member that votes: without it there is no cluster"
                )
            }
            Self::QuorumWouldBeLost { target, votes, .. } => {
                write!(f, "without {target} etcd would have no quorum: {votes}")
            }
            Self::Alive {
                target,
                from_here,
                from_healthy,
                ..
            } => {
                let who = match (from_here, from_healthy) {
                    (Reading::Answered, Reading::Answered) => {
                        "both this machine and the healthy master"
                    }
                    (Reading::Answered, Reading::Failed) => "this machine",
                    (Reading::Failed, _) => "the healthy master",
                };
                write!(
                    f,
                    "etcd member {target} is to be removed, and it is alive: it answers {who}"
                )
            }
            Self::LearnerPending { learner } => {
                write!(
                    f,
                    "etcd member {learner} is a learner, which has no vote yet: a join is going on, or one failed"
                )
            }
            Self::NoSnapshot => f.write_str(
                "there is no etcd snapshot on this machine that was taken now and checked",
            ),
        }
    }
}

impl fmt::Display for Votes {
    /// In figures: what is, and what is needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} voting members answer, {} have to",
            self.healthy,
            self.voters,
            self.needed()
        )
    }
}

fn list(members: &[Member]) -> String {
    members
        .iter()
        .map(Member::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
