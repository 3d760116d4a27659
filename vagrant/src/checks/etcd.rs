//! etcd's members and their leader, as etcdctl in m1's etcd tells of them.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::wait;

/// A transfer of the lead takes about an election's time, a second.
const LEADER_LIMIT: Duration = Duration::from_secs(30);

/// An etcd member, as etcdctl lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The ID in hex, as `member remove` takes it.
    pub id: String,
    /// Whether it ever started.
    pub started: bool,
    /// The name, empty until it started.
    pub name: String,
    /// Where other members reach it.
    pub peer_url: String,
    /// Where clients reach it.
    pub client_url: String,
    /// Whether it cannot vote yet.
    pub learner: bool,
}

/// etcdctl in m1's etcd lists exactly so many members, `node` among them, all started, voting and healthy.
pub fn etcd_voters(cluster: &Cluster, node: &Node, voters: usize) -> Result<()> {
    let members = members(cluster)?;
    ensure!(
        members.len() == voters
            && members
                .iter()
                .all(|member| member.started && !member.learner),
        "{voters} started voters wanted, etcdctl on m1 lists {members:#?}"
    );
    ensure!(
        members.iter().any(|member| member.name == node.name()),
        "{node} is not among {members:#?}"
    );
    let urls: Vec<&str> = members
        .iter()
        .map(|member| member.client_url.as_str())
        .collect();
    // A second --endpoints replaces the first one.
    cluster
        .etcdctl(&["--endpoints", &urls.join(","), "endpoint", "health"])
        .map(drop)
}

/// What etcdctl lists.
pub fn members(cluster: &Cluster) -> Result<Vec<Member>> {
    cluster
        .etcdctl(&["member", "list"])?
        .lines()
        .map(member)
        .collect()
}

/// `8e9e05c52164694d, started, m1, https://10.77.0.11:2380, https://10.77.0.11:2379, false`; the last column exists from
/// 3.4 on.
fn member(line: &str) -> Result<Member> {
    let columns: Vec<&str> = line.split(", ").collect();
    let [id, status, name, peer_url, client_url, learner @ ..] = columns.as_slice() else {
        bail!("{line:?} is not a line of etcdctl member list");
    };
    Ok(Member {
        id: (*id).to_owned(),
        started: *status == "started",
        name: (*name).to_owned(),
        peer_url: (*peer_url).to_owned(),
        client_url: (*client_url).to_owned(),
        learner: learner == ["true"],
    })
}

/// The member of a node, by its name or by its address: one that never started has no name yet.
pub fn member_of(cluster: &Cluster, node: &Node) -> Result<Option<Member>> {
    let peer = format!("//{}:", node.address());
    let members = members(cluster)?;
    Ok(members
        .into_iter()
        .find(|member| member.name == node.name() || member.peer_url.contains(&peer)))
}

/// The same, which must be there.
pub fn own_member(cluster: &Cluster, node: &Node) -> Result<Member> {
    member_of(cluster, node)?.with_context(|| format!("etcd has no member {node}"))
}

/// The member of a node has started, votes and is healthy, whatever the others are.
pub fn votes(cluster: &Cluster, node: &Node) -> Result<()> {
    let member = own_member(cluster, node)?;
    ensure!(
        member.started && !member.learner,
        "{node} does not vote: {member:#?}"
    );
    cluster
        .etcdctl(&["--endpoints", &member.client_url, "endpoint", "health"])
        .map(drop)
}

/// Whether the etcd on a node answers a health read from m1.
pub fn etcd_answers(cluster: &Cluster, node: &Node) -> bool {
    let url = format!("https://{}:2379", node.address());
    cluster
        .etcdctl(&["--endpoints", &url, "endpoint", "health"])
        .is_ok()
}

/// The member that leads.
pub fn leader(cluster: &Cluster) -> Result<Member> {
    let said = cluster.etcdctl(&["endpoint", "status", "--write-out=json"])?;
    let id = leader_id(&said)?;
    let leader = members(cluster)?.into_iter().find(|one| one.id == id);
    leader.with_context(|| format!("etcd lists no member {id}, which leads"))
}

/// Hands the lead to the member of a node, if it has not got it.
pub fn make_leader(cluster: &Cluster, node: &Node) -> Result<()> {
    let wanted = own_member(cluster, node)?;
    wait::until(&format!("{node} leads etcd"), LEADER_LIMIT, || {
        let leader = leader(cluster)?;
        if leader.id == wanted.id {
            return Ok(None);
        }
        // Only the leader can be asked.
        let moved =
            cluster.etcdctl(&["--endpoints", &leader.client_url, "move-leader", &wanted.id]);
        Ok(Some(moved.unwrap_or_else(|error| format!("{error:#}"))))
    })
}

/// The leader's ID in hex, from what one endpoint says of its status; 0 stands for nobody.
fn leader_id(status: &str) -> Result<String> {
    let status: Value =
        serde_json::from_str(status).context("reading what etcdctl endpoint status says")?;
    match status[0]["Status"]["leader"].as_u64() {
        None => bail!("etcdctl endpoint status names no leader: {status}"),
        Some(0) => bail!("etcd has no leader"),
        Some(id) => Ok(format!("{id:x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_lines_of_all_versions_are_read() {
        let old = member(
            "91bc3c398fb3c146, started, m1, https://10.77.0.11:2380, https://10.77.0.11:2379",
        )
        .expect("3.3");
        assert!(old.started && !old.learner && old.name == "m1");
        let learner = member(
            "fd422379fda50e48, started, b1, https://10.77.0.21:2380, https://10.77.0.21:2379, true",
        )
        .expect("3.4");
        assert!(learner.learner);
        let unstarted =
            member("fd422379fda50e48, unstarted, , https://10.77.0.21:2380, , false").expect("3.4");
        assert!(!unstarted.started && unstarted.name.is_empty() && unstarted.client_url.is_empty());
        assert!(member("Error: context deadline exceeded").is_err());
    }

    #[test]
    fn the_leader_keeps_all_its_64_bits() {
        let status = |leader: u64| {
            format!(r#"[{{"Endpoint":"https://127.0.0.1:2379","Status":{{"leader":{leader}}}}}]"#)
        };
        assert_eq!(
            leader_id(&status(0xfd42_2379_fda5_0e49)).expect("a leader"),
            "fd422379fda50e49"
        );
        assert!(leader_id(&status(0)).is_err());
        assert!(leader_id("[]").is_err());
    }
}
