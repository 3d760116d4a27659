//! The workflows: what each ensures, in order. This is the table of contents of the program.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bundle_spec::VerifiedPot;

use crate::control_plane::facts::ClusterFacts;
use crate::engine::Steps;
use crate::facts::docker::CgroupDriver;
use crate::joining::Joining;
use crate::joining::bridge::{LowerBridge, RaiseBridge};
use crate::joining::clear::ClearInterruptedJoin;
use crate::joining::endpoint::EndpointName;
use crate::joining::extra_files::ExtraFiles;
use crate::joining::join::KubeadmJoin;
use crate::joining::kubeadm_images::KubeadmImages;
use crate::joining::revoke::RevokeCredentials;
use crate::joining::static_pods::StaticPods;
use crate::joining::voting::Voting;
use crate::replacing::backup::BackUp;
use crate::replacing::clear::ClearNode;
use crate::replacing::down::{BackUpDown, Down, Fate};
use crate::replacing::drain::Drain;
use crate::replacing::forget::ForgetNode;
use crate::replacing::health::EtcdImage;
use crate::replacing::record::KeepRecord;
use crate::replacing::remove_member::RemoveMember;
use crate::replacing::reset_down::ResetDown;
use crate::replacing::restore::{DropRecord, RestoreNode};
use crate::replacing::{Departed, Whose};
use crate::runtime::Runtime;
use crate::step::Step;
use crate::steps::{
    CniPlugins, ContainerdBinaries, ContainerdConfig, ContainerdService, Crictl, DockerBinaries,
    DockerConfig, DockerService, EtcdFolder, HostsEntry, ImageWanted, Images, KernelModules,
    KubeletService, KubernetesBinaries, SwapOff, Sysctls,
};

/// What a node needs before it can join anything; nothing here touches a cluster.
pub fn environment(
    pot: &Arc<VerifiedPot>,
    driver: CgroupDriver,
    insecure: &[String],
    images: Vec<ImageWanted>,
) -> Result<Steps> {
    let mut steps: Steps = vec![
        Box::new(KernelModules::new()),
        Box::new(Sysctls::new()),
        Box::new(SwapOff::new()),
    ];
    steps.extend(runtime(pot, driver, insecure)?);
    let kubernetes = pot.manifest().kubernetes;
    let rest: [Box<dyn Step>; 4] = [
        Box::new(CniPlugins::new(pot.clone())?),
        Box::new(KubernetesBinaries::new(pot.clone())?),
        Box::new(KubeletService::new(kubernetes)),
        Box::new(Images::new(pot.clone(), images)?),
    ];
    steps.extend(rest);
    Ok(steps)
}

/// The pot's container runtime, with the tool that kubeadm and this program ask it with.
fn runtime(pot: &Arc<VerifiedPot>, driver: CgroupDriver, insecure: &[String]) -> Result<Steps> {
    let crictl = Crictl::new(pot.clone())?.map(|step| Box::new(step) as Box<dyn Step>);
    let mut steps: Steps = Vec::new();
    match pot.manifest().runtime.name.into() {
        Runtime::Docker => {
            let insecure = || insecure.to_vec();
            steps.push(Box::new(DockerBinaries::new(pot.clone(), driver)?));
            steps.push(Box::new(DockerConfig::new(pot.clone(), driver, insecure())));
            steps.push(Box::new(DockerService::new(
                pot.clone(),
                driver,
                insecure(),
            )));
            steps.extend(crictl);
        }
        Runtime::Containerd => {
            steps.push(Box::new(ContainerdBinaries::new(pot.clone(), driver)?));
            // Before containerd starts: crictl shows when it serves the kubelet.
            steps.extend(crictl);
            let config = ContainerdConfig::new(pot.clone(), driver, insecure)?;
            steps.push(Box::new(config));
            steps.push(Box::new(ContainerdService::new(pot.clone(), driver)));
        }
    }
    Ok(steps)
}

/// What has to be right on this machine before the join, and is known only from the cluster; `images` where the join is still to come.
pub fn before_join(endpoint: &EndpointName, images: Option<KubeadmImages>) -> Steps {
    let mut steps: Steps = Vec::new();
    steps.extend(images.map(|step| Box::new(step) as Box<dyn Step>));
    if let EndpointName::Name {
        name,
        bridge,
        acceptable,
        ..
    } = endpoint
    {
        steps.push(Box::new(HostsEntry::new(
            name.clone(),
            *bridge,
            acceptable.clone(),
        )));
    }
    steps
}

/// What comes before everything that is done on the cluster, where its endpoint is this machine's own address; [`settle`] has its end.
pub fn raise_bridge(joining: &Joining) -> Steps {
    let raise = |bridge| Box::new(RaiseBridge::new(bridge)) as Box<dyn Step>;
    joining.bridge.into_iter().map(raise).collect()
}

/// What is done on the cluster, under its lock; `clear` takes away what an interrupted join left, or refuses what is nobody's. A worker needs none: it is cleared as a node, before.
pub fn join(
    joining: &Joining,
    clear: Option<ClearInterruptedJoin>,
    files: ExtraFiles,
    pods: Option<StaticPods>,
) -> Steps {
    let mut steps: Steps = Vec::new();
    if let Some(clear) = clear {
        steps.push(Box::new(clear));
    }
    if let Some(path) = joining.cluster.config.etcd.data_dir() {
        steps.push(Box::new(EtcdFolder::new(path)));
    }
    steps.push(Box::new(files));
    steps.push(Box::new(KubeadmJoin::new(joining.clone())));
    steps.extend(settle(joining, pods));
    steps
}

/// What follows every join of kubeadm's.
fn settle(joining: &Joining, pods: Option<StaticPods>) -> Steps {
    let mut steps: Steps = Vec::new();
    if joining.bridge.is_some() {
        // What follows asks this machine's own apiserver, and would else be answered by another one.
        steps.push(Box::new(LowerBridge::new(joining)));
    }
    steps.push(Box::new(Voting::new(joining.clone())));
    steps.push(Box::new(RevokeCredentials::new(joining.clone())));
    if let Some(pods) = pods {
        steps.push(Box::new(pods));
    }
    steps
}

/// What is done on the cluster, under its lock, for a machine that comes back under its old name and address.
pub fn rebirth(
    joining: &Joining,
    departed: &Departed,
    etcd_image: Option<EtcdImage>,
    files: ExtraFiles,
    pods: Option<StaticPods>,
) -> Steps {
    let mut steps: Steps = vec![
        Box::new(KeepRecord::new(departed.clone())),
        Box::new(back_up(&joining.cluster)),
    ];
    steps.extend(depart(&joining.cluster, departed, etcd_image));
    steps.push(Box::new(ClearNode::new(
        joining.node.clone(),
        &joining.state,
        &joining.cluster,
        Some(joining.cri_socket().to_owned()),
    )));
    steps.push(Box::new(files.keeping_own()));
    steps.push(Box::new(KubeadmJoin::new(joining.clone())));
    steps.extend(finish_rebirth(joining, departed, pods));
    steps
}

/// What is left of a rebirth once the machine is a master again.
pub fn finish_rebirth(joining: &Joining, departed: &Departed, pods: Option<StaticPods>) -> Steps {
    let mut steps = settle(joining, pods);
    steps.push(Box::new(RestoreNode::new(departed.clone())));
    steps.push(Box::new(DropRecord::new(departed.clone())));
    steps
}

/// What is done on the cluster, under its lock, for a machine that takes the place of `down`; `join` is its own join.
pub fn change(
    joining: &Joining,
    down: &Down,
    worker: bool,
    etcd_image: Option<EtcdImage>,
    join: Steps,
) -> Steps {
    let departed = &down.departed;
    let mut steps: Steps = vec![
        Box::new(KeepRecord::new(departed.clone())),
        Box::new(BackUpDown::new(down.clone())),
    ];
    if worker {
        steps.push(Box::new(KeepRecord::new(ourselves(joining))));
        // It may fail at a disruption budget, and can be taken back: before what cannot.
        steps.push(Box::new(Drain::new(
            joining.node.clone(),
            joining.cluster.version,
        )));
        steps.push(Box::new(back_up(&joining.cluster)));
    }
    steps.extend(depart(&joining.cluster, departed, etcd_image));
    if worker {
        steps.push(Box::new(ForgetNode::new(ourselves(joining))));
        steps.push(Box::new(ClearNode::new(
            joining.node.clone(),
            &joining.state,
            &joining.cluster,
            Some(joining.cri_socket().to_owned()),
        )));
    }
    steps.extend(join);
    steps.extend(leave(joining, down));
    steps
}

/// This machine, as the cluster knows it.
fn ourselves(joining: &Joining) -> Departed {
    Departed {
        name: joining.node.clone(),
        address: joining.address.clone(),
        whose: Whose::Ours,
    }
}

/// What follows the join of a machine that was a worker: its node gets what it had.
pub fn restore_worker(joining: &Joining) -> Steps {
    let own = ourselves(joining);
    vec![
        Box::new(RestoreNode::of_worker(own.clone())),
        Box::new(DropRecord::new(own)),
    ]
}

/// What is left of a change once the machine is a master; `join` is its own join.
pub fn finish_change(joining: &Joining, down: &Down, join: Steps) -> Steps {
    let mut steps = join;
    if down.fate == Fate::Reset {
        steps.push(Box::new(BackUpDown::new(down.clone())));
    }
    steps.extend(leave(joining, down));
    steps
}

/// The end of a change: what becomes of the other machine, and of its record.
fn leave(joining: &Joining, down: &Down) -> Steps {
    let mut steps: Steps = Vec::new();
    if down.fate == Fate::Reset {
        steps.push(Box::new(ResetDown::new(down.clone(), &joining.cluster)));
    }
    steps.push(Box::new(DropRecord::new(down.departed.clone())));
    steps
}

/// Takes a master out of the cluster's records: the part that cannot be undone.
pub fn depart(cluster: &ClusterFacts, departed: &Departed, etcd_image: Option<EtcdImage>) -> Steps {
    let mut steps: Steps = Vec::new();
    if let Some(etcd) = &cluster.etcd {
        steps.push(Box::new(RemoveMember::new(
            departed.clone(),
            etcd.clone(),
            cluster.healthy.metadata.name.clone(),
            etcd_image,
        )));
    }
    steps.push(Box::new(ForgetNode::new(departed.clone())));
    steps
}

/// Takes what is left of a node off a machine that this program did not make one. `socket` is where the runtime of its kubelet listens, as far as that is known.
pub fn clear(cluster: &ClusterFacts, node: String, state: &Path, socket: Option<String>) -> Steps {
    vec![
        Box::new(back_up(cluster)),
        Box::new(ClearNode::new(node, state, cluster, socket)),
    ]
}

fn back_up(cluster: &ClusterFacts) -> BackUp {
    BackUp::new(cluster.config.certificates_dir.clone())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::control_plane::kubeadm::ExternalEtcd;
    use crate::joining::bridge::Bridge;
    use crate::joining::fixtures;
    use crate::joining::static_pods::Former;
    use crate::replacing::down::Reach;

    fn ids(steps: &Steps) -> Vec<&'static str> {
        steps.iter().map(|step| step.id()).collect()
    }

    #[test]
    fn a_bridge_stands_from_before_the_first_change_until_the_join_is_judged() {
        let mut joining = fixtures::joining(Rc::new(fixtures::cluster()));
        assert!(raise_bridge(&joining).is_empty());
        joining.bridge = Some(Bridge {
            endpoint: "10.0.0.21:6443".parse().unwrap(),
            healthy: "10.0.0.11:6443".parse().unwrap(),
        });
        assert_eq!(ids(&raise_bridge(&joining)), ["endpoint-bridge"]);
        let departed = Departed {
            name: "b1".to_owned(),
            address: "10.0.0.21".to_owned(),
            whose: Whose::Ours,
        };
        let files = ExtraFiles::new(vec![], "/etc/kubernetes/pki");
        let whole = rebirth(&joining, &departed, None, files, None);
        let whole = ids(&whole);
        let at = |id: &str| whole.iter().position(|one| *one == id).unwrap();
        assert_eq!(at("endpoint-bridge-gone"), at("kubeadm-join") + 1);
        assert_eq!(at("voting"), at("kubeadm-join") + 2);
        let rest = finish_rebirth(&joining, &departed, None);
        assert_eq!(ids(&rest)[0], "endpoint-bridge-gone", "after a kill");
    }

    #[test]
    fn a_join_finds_the_folder_of_etcd_s_data_empty() {
        let mut cluster = fixtures::cluster();
        let whole = |cluster| {
            let joining = fixtures::joining(Rc::new(cluster));
            let files = ExtraFiles::new(vec![], "/etc/kubernetes/pki");
            ids(&join(&joining, None, files, None))
        };
        assert_eq!(
            whole(cluster.clone())[..3],
            ["etcd-folder", "control-plane-files", "kubeadm-join"]
        );
        cluster.config.etcd.external = Some(ExternalEtcd::default());
        assert_eq!(whole(cluster)[0], "control-plane-files");
    }

    #[test]
    fn the_other_machine_is_backed_up_first_and_reset_last() {
        let joining = fixtures::joining(Rc::new(fixtures::cluster()));
        let down = Down {
            departed: Departed {
                name: "m3".to_owned(),
                address: "10.0.0.13".to_owned(),
                whose: Whose::Another,
            },
            reach: Reach::Silent(String::new()),
            fate: Fate::Reset,
            certificates: "/etc/kubernetes/pki".to_owned(),
        };
        let own = || {
            let pods = StaticPods::new(Former::Nobody);
            join(
                &joining,
                None,
                ExtraFiles::new(vec![], "/etc/kubernetes/pki"),
                Some(pods),
            )
        };
        let whole = change(&joining, &down, false, None, own());
        let whole = ids(&whole);
        assert_eq!(whole[..3], ["keep-record", "backup-down", "forget-node"]);
        assert_eq!(
            whole[whole.len() - 3..],
            ["static-pods", "reset-down", "drop-record"]
        );
        let rest = finish_change(&joining, &down, own());
        let rest = ids(&rest);
        assert!(
            !rest.contains(&"keep-record"),
            "its record is gone for good"
        );
        assert_eq!(
            rest[rest.len() - 3..],
            ["backup-down", "reset-down", "drop-record"]
        );
    }
}
