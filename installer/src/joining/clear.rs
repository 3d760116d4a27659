//! Takes away what an interrupted join of ours left: an etcd member, a Node, and kubeadm's files here.
//!
//! It runs only where this machine's own journal says that it began that join, so the machine was empty of Kubernetes before. What people put into the same folders is backed up (keys that the join brought are not), and put
//! back where nobody else brings it. The etcd member goes first, by ID, name and address, and only if the others keep their quorum.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Joining, Standing};
use crate::host::command::{Cmd, await_outliving};
use crate::journal::Change;
use crate::replacing::backup::BackUp;
use crate::replacing::clear::clear_pod_network;
use crate::replacing::own_files::OwnFiles;
use crate::step::{Place, Reversal, State, Step, View, World};

/// The step's name, by which the journal knows that a join was cleared.
pub const ID: &str = "clear-interrupted-join";

/// The longest that a kubeadm of a killed run is waited for: kubeadm itself gives up on every phase in less.
const OUTLIVING: Duration = Duration::from_secs(600);

/// See the module.
pub struct ClearInterruptedJoin {
    joining: Joining,
    ours: bool,
    own: OwnFiles,
}

impl ClearInterruptedJoin {
    /// `ours` says that the journal knows of a join of this machine that was interrupted.
    pub fn new(joining: Joining, ours: bool) -> Self {
        Self {
            own: OwnFiles::of(&joining.cluster),
            joining,
            ours,
        }
    }

    fn remove_member(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let Some(etcd) = &self.joining.cluster.etcd else {
            return Ok(());
        };
        let members = etcd.members(cluster.view())?;
        let Some(own) = members
            .iter()
            .find(|member| member.is_at(&self.joining.address))
        else {
            return Ok(());
        };
        ensure!(
            own.name.is_empty() || own.name == self.joining.node,
            "the etcd member at {} is called {}, not {}: it is not the one that this machine's join added. Take it out from the machine that it belongs to",
            self.joining.address,
            own.name,
            self.joining.node
        );
        let voters = members.iter().filter(|member| !member.is_learner).count();
        let others = members
            .iter()
            .filter(|member| member.id != own.id && member.votes())
            .count();
        let left = voters - usize::from(!own.is_learner);
        ensure!(
            others > left / 2,
            "only {others} of the {left} other etcd members answer: without {own} they would have no quorum. Bring them back first, then run this again"
        );
        world.host.note(Change::Cluster {
            what: format!("remove etcd member {own}"),
        })?;
        etcd.remove_steadily(cluster, own, world.host.stop())
    }

    /// What to do about what no join of ours left.
    fn remedy(&self, view: View<'_>) -> Result<String> {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        let (node, healthy) = (&self.joining.node, cluster.address());
        let Some(lone) = self.joining.lone_node(view)? else {
            return Ok(format!(
                "If it was a master of this cluster under this name and address, it needs a rebirth, not a join: kpot-install rebirth-master --healthy {healthy}\nIf these are left-overs, take them out of the cluster and off this machine first: kpot-install reset --healthy {healthy}"
            ));
        };
        let is_here = self.joining.is_at(&lone);
        Ok(if lone.is_ready() {
            "Two machines must not have one name: give this one another with --node-name".to_owned()
        } else if lone.is_master() && is_here {
            format!(
                "If this machine was that master, it needs a rebirth, not a join: kpot-install rebirth-master --healthy {healthy}\nIf another machine is, give this one a name and an address of its own: --node-name and --advertise-address"
            )
        } else {
            format!(
                "If it is this machine's, of a join that failed or from before it was installed anew, delete it on {healthy}, then run this again: kubectl --kubeconfig /etc/kubernetes/admin.conf delete node {node}\nIf another machine is called so, give this one another name: --node-name"
            )
        })
    }
}

impl Step for ClearInterruptedJoin {
    fn id(&self) -> &'static str {
        ID
    }

    fn summary(&self) -> String {
        "nothing of an interrupted join is left".to_owned()
    }

    fn place(&self) -> Place {
        Place::Cluster
    }

    fn reversal(&self) -> Reversal {
        Reversal::Nothing
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let traces = match self.joining.standing(view)? {
            Standing::Partial(traces) => traces.join(", "),
            Standing::Nothing if self.ours => {
                let taken = self.own.to_put_back(view.host)?;
                return Ok(if taken.is_empty() {
                    State::Satisfied
                } else {
                    State::Pending(format!("to be put back: {}", taken.join(", ")))
                });
            }
            Standing::Nothing | Standing::Whole => return Ok(State::Satisfied),
        };
        if self.ours {
            return Ok(State::Pending(format!(
                "a join of this machine was interrupted; it left {traces}"
            )));
        }
        Ok(State::Conflict {
            reason: format!(
                "this machine, or its place in the cluster, is already in use: {traces}"
            ),
            remedy: self.remedy(view)?,
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let ended = await_outliving(&self.joining.kubeadm_log(), OUTLIVING)
            .context("cannot tell whether the interrupted kubeadm still runs")?;
        ensure!(
            ended,
            "the kubeadm of the interrupted run is still at work after {} s; see: ps -ef | grep kubeadm",
            OUTLIVING.as_secs()
        );
        match self.joining.standing(world.view())? {
            Standing::Whole => return Ok(()),
            Standing::Nothing => return self.own.put_back(world.host),
            Standing::Partial(_) => {}
        }
        let node = &self.joining.node;
        let config = &self.joining.cluster.config;
        let people = BackUp::of_people(config.certificates_dir.clone());
        if people.check(world.view())? != State::Satisfied {
            people.apply(world)?;
        }
        self.own.save(world.host)?;
        world.host.note(Change::ClearJoin { node: node.clone() })?;
        self.remove_member(world)?;
        // Where more than one runtime listens, kubeadm from 1.24 on does not choose.
        let socket = ["--cri-socket", self.joining.cri_socket()];
        let args = ["reset", "--force"].into_iter().chain(socket);
        let reset = Cmd::new("kubeadm", args).timeout(Duration::from_secs(240));
        world
            .host
            .run(&reset, Change::ClearJoin { node: node.clone() })?;
        clear_pod_network(world.host, &|| Change::ClearJoin { node: node.clone() })?;
        // kubeadm leaves etcd's data where it finds no manifest of it.
        let data = config.etcd.member_dir();
        let others = [
            config.certificates_dir.as_str(),
            "/etc/kubernetes/manifests",
        ];
        for left in data.as_deref().into_iter().chain(others) {
            world
                .host
                .remove_tree(left, Change::ClearJoin { node: node.clone() })?;
        }
        cluster.delete_wholly(&["node", node], &[])?;
        self.own.put_back(world.host)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::control_plane::ClusterView;
    use crate::host::scripted::Scripted;
    use crate::joining::fixtures;
    use crate::steps::testing::Machine;

    const LABEL: &str = r#""node-role.kubernetes.io/master":"""#;

    /// What is to be done on this machine about a Node of its name.
    fn remedy(machine: &Machine, labels: &str, ready: &str, address: &str) -> String {
        let node = format!(
            r#"{{"metadata":{{"name":"b1","labels":{{{labels}}}}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}}],"conditions":[{{"type":"Ready","status":"{ready}"}}]}}}}"#
        );
        let healthy = Scripted::new().on("kubectl", 0, &node);
        let view = ClusterView::new(Arc::new(healthy), "10.0.0.11");
        let host = machine.view(Scripted::new());
        let joining = fixtures::joining(Rc::new(fixtures::cluster()));
        let looked = ClearInterruptedJoin::new(joining, false).check(View {
            host: &host,
            cluster: Some(&view),
        });
        match looked.unwrap() {
            State::Conflict { remedy, .. } => remedy,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_to_be_done_about_a_lone_node_works_on_a_bare_machine() {
        let bare = Machine::new();
        let own = "10.0.0.21";
        let delete = "delete it on 10.0.0.11, then run this again: kubectl --kubeconfig /etc/kubernetes/admin.conf delete node b1\n";
        let worker = remedy(&bare, "", "Unknown", own);
        assert!(worker.contains(delete), "{worker}");
        let master = remedy(&bare, LABEL, "Unknown", own);
        assert!(
            master.contains("kpot-install rebirth-master --healthy 10.0.0.11\n")
                && !master.contains("delete"),
            "{master}"
        );
        let moved = remedy(&bare, LABEL, "Unknown", "10.0.0.77");
        assert!(
            moved.contains(delete),
            "no rebirth takes it for that one: {moved}"
        );
        let another = remedy(&bare, "", "True", own);
        assert!(another.contains("must not have one name"), "{another}");
    }

    #[test]
    fn left_overs_here_are_taken_away_by_a_reset() {
        let machine = Machine::new();
        machine.file("/etc/kubernetes/kubelet.conf", "");
        let told = remedy(&machine, "", "Unknown", "10.0.0.21");
        assert!(
            told.ends_with("kpot-install reset --healthy 10.0.0.11"),
            "{told}"
        );
    }
}
