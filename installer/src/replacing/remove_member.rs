//! Removes the etcd member of a master that left: a checked snapshot is on this machine first, and the quorum guard has the last word.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::health::{EtcdImage, read_from_here, steady_members};
use super::{Departed, Whose};
use crate::control_plane::ClusterView;
use crate::control_plane::etcd::{Etcd, Member};
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::guard::{
    self, Machine, Reading, Refused, Situation, SnapshotState, Target,
};
use crate::control_plane::objects::Node;
use crate::control_plane::snapshot;
use crate::exit::{self, NotEligible};
use crate::joining::refusals::Refusal;
use crate::journal::Change;
use crate::step::{Place, Reversal, State, Step, View, World};

/// See the module.
pub struct RemoveMember {
    departed: Departed,
    etcd: Etcd,
    healthy: String,
    image: Option<EtcdImage>,
}

impl RemoveMember {
    /// Removes the member of `departed` from a cluster whose healthy master is called `healthy`; `image` is etcd's, by a name that this machine's runtime will know.
    pub fn new(departed: Departed, etcd: Etcd, healthy: String, image: Option<EtcdImage>) -> Self {
        Self {
            departed,
            etcd,
            healthy,
            image,
        }
    }

    /// What the guard says before anything is changed on the cluster, as if the snapshot were taken: the member is asked from this machine, too, which its step does once more
    /// just before the removal. Until then pods may have been moved and records been written, for nothing.
    pub fn refusals_from_here(&self, world: World<'_>) -> Result<Vec<Refusal>> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let members = self.etcd.members(cluster.view())?;
        let Some(target) = self.departed.member(&members) else {
            return Ok(Vec::new());
        };
        let seen_there = judged(&self.departed, &members, Reading::Failed);
        if !seen_there.is_empty() {
            return Ok(seen_there.iter().map(refusal).collect());
        }
        let from_here = self.ask_from_here(world, &members, target)?;
        let all = judged(&self.departed, &members, from_here);
        Ok(all.iter().map(refusal).collect())
    }

    fn ask_from_here(
        &self,
        world: World<'_>,
        members: &[Member],
        target: &Member,
    ) -> Result<Reading> {
        if self.departed.whose == Whose::Ours {
            return Ok(Reading::Failed);
        }
        let image = self
            .image
            .as_ref()
            .context("the pot has no image of etcd, whose etcdctl asks from here")?;
        let healthy = members
            .iter()
            .find(|member| member.name == self.healthy)
            .with_context(|| format!("etcd lists no member {}", self.healthy))?;
        read_from_here(world, &self.etcd, image, target, healthy)
    }

    /// What etcd listed. From 3.5 on it lists its members only with a quorum (<https://github.com/etcd-io/etcd/pull/11639>): a list that is not to be had is the guard's refusal then.
    fn listed(&self, view: &ClusterView, members: Result<Vec<Member>>) -> Result<Vec<Member>> {
        members.map_err(|cause| {
            if self.etcd.answers(view) {
                return cause;
            }
            NotEligible(format!(
                "nothing was removed: etcd has no quorum, and does not list its members: {cause:#}"
            ))
            .into()
        })
    }
}

/// Asks the guard, with a snapshot that was checked, and ends where it refuses.
fn judge(departed: &Departed, members: &[Member], from_here: Reading) -> Result<()> {
    let refused = judged(departed, members, from_here);
    if refused.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = refused
        .iter()
        .map(|one| format!("{one}\n{}", one.remedy()))
        .collect();
    let causes = refused
        .iter()
        .map(|one| json!({ "cause": one.to_string(), "remedy": one.remedy() }));
    Err(exit::Refused {
        words: format!("nothing was removed: {}", told.join("\n")),
        refusals: causes.collect(),
    }
    .into())
}

/// Every rule of the guard that does not hold, with a snapshot or as if there were one.
fn judged(departed: &Departed, members: &[Member], from_here: Reading) -> Vec<Refused> {
    let situation = situation(departed, members, from_here);
    guard::may_remove(&situation).err().unwrap_or_default()
}

fn situation(departed: &Departed, members: &[Member], from_here: Reading) -> Situation {
    let (target, others): (Vec<_>, Vec<_>) = members
        .iter()
        .cloned()
        .partition(|member| departed.owns(member));
    let target = target.into_iter().next().map(|member| Target {
        from_here,
        from_healthy: if member.healthy {
            Reading::Answered
        } else {
            Reading::Failed
        },
        machine: match departed.whose {
            Whose::Ours => Machine::This,
            Whose::Another => Machine::Other,
        },
        member,
    });
    Situation {
        others,
        target,
        snapshot: SnapshotState::Checked,
    }
}

/// What the guard would say now, before anything is done: as if the snapshot were taken, and with what the healthy master sees. Where no member of another machine is listed
/// (any more, or because etcd is external), its Node tells whether it is well; `record` is what the cluster keeps of that Node, where its removal was begun before, by whomever.
pub fn foreseen(
    cluster: &ClusterFacts,
    departed: &Departed,
    record: Option<&Value>,
) -> Vec<Refusal> {
    let node = cluster.node(&departed.name);
    if departed.whose == Whose::Another
        && departed.member(&cluster.members).is_none()
        && node.is_some_and(|node| node.is_ready() && !is_going(cluster, node, record))
    {
        return vec![Refusal {
            cause: format!(
                "node {} is Ready, so it is not down, and no etcd member of it is there to be asked",
                departed.name
            ),
            remedy: format!(
                "Take it out from itself, there: kpot-install reset --healthy {}. Or switch it off, if nothing of it is wanted",
                cluster
                    .healthy
                    .internal_address()
                    .unwrap_or(&cluster.healthy.metadata.name)
            ),
        }];
    }
    if cluster.etcd.is_none() {
        return Vec::new();
    }
    let refused = judged(departed, &cluster.members, Reading::Failed);
    refused.iter().map(refusal).collect()
}

/// Whether a Node that is Ready is no sign that its master is well: its removal was begun. Of an etcd on the masters the member is gone by then. Of an external one nothing is, and a record is
/// written before the first removal: there only another Node than the recorded one tells that it came so far.
fn is_going(cluster: &ClusterFacts, node: &Node, record: Option<&Value>) -> bool {
    record.is_some_and(|record| {
        let recorded = record["uid"].as_str();
        cluster.etcd.is_some() || recorded.is_some_and(|uid| uid != node.metadata.uid)
    })
}

fn refusal(refused: &Refused) -> Refusal {
    Refusal {
        cause: refused.to_string(),
        remedy: refused.remedy(),
    }
}

/// Bytes of the snapshot that the removal of `departed` brings here; none where no member of it is listed.
pub fn snapshot_size(
    view: &ClusterView,
    cluster: &ClusterFacts,
    departed: &Departed,
) -> Result<u64> {
    let listed = departed.member(&cluster.members);
    let etcd = cluster.etcd.as_ref().filter(|_| listed.is_some());
    etcd.map_or(Ok(0), |etcd| Ok(etcd.status(view)?.db_size))
}

/// Refuses where the healthy master has no room for the snapshot that goes before a removal of `departed`.
///
/// # Errors
/// etcd or its disk do not tell.
pub fn no_room(
    view: &ClusterView,
    cluster: &ClusterFacts,
    departed: &Departed,
) -> Result<Option<Refusal>> {
    let listed = departed.member(&cluster.members);
    let Some(etcd) = cluster.etcd.as_ref().filter(|_| listed.is_some()) else {
        return Ok(None);
    };
    let lacking = snapshot::no_room(view, etcd)?;
    Ok(lacking.map(|cause| Refusal {
        cause,
        remedy: "Make room there, or give another healthy master with --healthy".to_owned(),
    }))
}

impl Step for RemoveMember {
    fn id(&self) -> &'static str {
        "remove-member"
    }

    fn summary(&self) -> String {
        format!(
            "etcd lists no member of the old {}; a checked snapshot is here before",
            self.departed.name
        )
    }

    fn place(&self) -> Place {
        Place::Cluster
    }

    fn reversal(&self) -> Reversal {
        Reversal::Never
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let listed = self.etcd.listed(cluster)?;
        Ok(match self.departed.member(&listed) {
            None => State::Satisfied,
            Some(member) => State::Pending(format!("{member} is listed")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        snapshot::take(world.host, cluster, &self.etcd)?;
        let view = cluster.view();
        let first = self.listed(view, self.etcd.members(view))?;
        let Some(target) = self.departed.member(&first) else {
            return Ok(());
        };
        // What refuses whatever is heard from here comes first: where another master was lost meanwhile, nobody answers here either, and that would be told as a closed port.
        judge(&self.departed, &first, Reading::Failed)?;
        // A dead member takes its time not to answer: what is known of the others must not have grown old meanwhile, so they are looked at once more after it.
        let from_here = self.ask_from_here(world, &first, target)?;
        let members = self.listed(view, steady_members(&self.etcd, view, &self.departed))?;
        let Some(target) = self.departed.member(&members).cloned() else {
            return Ok(());
        };
        judge(&self.departed, &members, from_here)?;
        world.host.stop().check()?;
        world.host.note(Change::Cluster {
            what: format!("remove etcd member {target}"),
        })?;
        self.etcd
            .remove_steadily(cluster, &target, world.host.stop())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::joining::fixtures::{cluster, member, node};

    #[test]
    fn with_an_external_etcd_a_record_excuses_no_master_that_is_well() {
        let departed = Departed {
            name: "m3".to_owned(),
            address: "10.0.0.13".to_owned(),
            whose: Whose::Another,
        };
        let mut cluster = cluster();
        let mut m3 = node("m3", "10.0.0.13");
        m3.metadata.uid = "1".to_owned();
        cluster.nodes.push(m3);
        let refused = |cluster: &ClusterFacts, record| {
            !foreseen(cluster, &departed, Option::as_ref(&record)).is_empty()
        };
        assert!(refused(&cluster, None));
        assert!(
            refused(&cluster, Some(json!({ "uid": "1" }))),
            "a run that was refused or killed left it, and removed nothing"
        );
        assert!(refused(&cluster, Some(Value::Null)), "it says of no Node");
        assert!(
            !refused(&cluster, Some(json!({ "uid": "0" }))),
            "the recorded Node is gone, and its kubelet made another one"
        );
        cluster.etcd = Some(Etcd::by_crictl("c0ffee"));
        assert!(
            !refused(&cluster, Some(json!({ "uid": "1" }))),
            "its member is gone"
        );
    }

    #[test]
    fn a_quorum_that_was_lost_meanwhile_is_told_as_that_without_a_question_from_here() {
        let departed = Departed {
            name: "m3".to_owned(),
            address: "10.0.0.13".to_owned(),
            whose: Whose::Another,
        };
        let mut members = vec![
            member(1, "m1", "10.0.0.11"),
            member(2, "m2", "10.0.0.12"),
            member(3, "m3", "10.0.0.13"),
        ];
        for member in &mut members {
            member.healthy = false;
        }
        let refused = judge(&departed, &members, Reading::Failed).unwrap_err();
        assert!(refused.is::<exit::Refused>());
        let told = refused.to_string();
        assert!(
            told.contains("nothing was removed") && told.contains("0 of 3 voting members"),
            "{told}"
        );
        for member in &mut members[..2] {
            member.healthy = true;
        }
        judge(&departed, &members, Reading::Failed).unwrap();
        let alive = judge(&departed, &members, Reading::Answered).unwrap_err();
        assert!(alive.to_string().contains("this machine"), "{alive}");
    }
}
