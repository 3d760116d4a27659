//! The workflows: what each ensures, in order. This is the table of contents of the program.

use std::sync::Arc;

use anyhow::Result;
use bundle_spec::VerifiedPot;

use crate::engine::Steps;
use crate::facts::docker::CgroupDriver;
use crate::joining::Joining;
use crate::joining::clear::ClearInterruptedJoin;
use crate::joining::endpoint::EndpointName;
use crate::joining::extra_files::ExtraFiles;
use crate::joining::join::KubeadmJoin;
use crate::joining::revoke::RevokeCredentials;
use crate::joining::voting::Voting;
use crate::steps::{
    CniPlugins, Crictl, DockerBinaries, DockerConfig, DockerService, HostsEntry, ImageWanted,
    Images, KernelModules, KubeletService, KubernetesBinaries, SwapOff, Sysctls,
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
        Box::new(DockerBinaries::new(pot.clone(), driver)?),
        Box::new(DockerConfig::new(pot.clone(), driver, insecure.to_vec())),
        Box::new(DockerService::new(pot.clone(), driver, insecure.to_vec())),
        Box::new(CniPlugins::new(pot.clone())?),
        Box::new(KubernetesBinaries::new(pot.clone())?),
    ];
    if let Some(crictl) = Crictl::new(pot.clone())? {
        steps.push(Box::new(crictl));
    }
    steps.push(Box::new(KubeletService::new()));
    steps.push(Box::new(Images::new(pot.clone(), images)?));
    Ok(steps)
}

/// What has to be right on this machine before the join, and is known only from the cluster.
pub fn before_join(endpoint: &EndpointName) -> Steps {
    let mut steps: Steps = Vec::new();
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

/// What is done on the cluster, under its lock.
pub fn join(joining: &Joining, interrupted: bool) -> Steps {
    vec![
        Box::new(ClearInterruptedJoin::new(joining.clone(), interrupted)),
        Box::new(ExtraFiles::new(joining.cluster.extra_paths.clone())),
        Box::new(KubeadmJoin::new(joining.clone())),
        Box::new(Voting::new(joining.clone())),
        Box::new(RevokeCredentials::new(joining.clone())),
    ]
}
