//! Health, asked twice: what ails this machine as a master, and whether the etcd of a master that is to go still answers.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::Departed;
use crate::control_plane::credentials::{SHARED, expiry};
use crate::control_plane::etcd::{Etcd, Member};
use crate::control_plane::guard::Reading;
use crate::control_plane::{Cluster, ClusterView};
use crate::host::Host;
use crate::host::command::Cmd;
use crate::joining::voting::Voting;
use crate::joining::{Joining, Standing};
use crate::journal::Change;
use crate::step::{View, World};

/// What every kubeadm master has in its folder of certificates.
pub(crate) const CERTIFICATES: [&str; 12] = [
    "ca.crt",
    "ca.key",
    "sa.key",
    "sa.pub",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "apiserver.crt",
    "apiserver.key",
    "apiserver-kubelet-client.crt",
    "apiserver-kubelet-client.key",
    "front-proxy-client.crt",
    "front-proxy-client.key",
];

/// The same, where etcd runs on the masters.
pub(crate) const ETCD_CERTIFICATES: [&str; 8] = [
    "apiserver-etcd-client.crt",
    "apiserver-etcd-client.key",
    "etcd/ca.crt",
    "etcd/ca.key",
    "etcd/server.crt",
    "etcd/server.key",
    "etcd/peer.crt",
    "etcd/peer.key",
];

/// The credentials of the control plane's parts.
pub(crate) const KUBECONFIGS: [&str; 4] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    "/etc/kubernetes/kubelet.conf",
];

/// A moment of bad health is no illness: only what two looks see counts.
const SECOND_LOOK: Duration = Duration::from_secs(6);

/// Everything that keeps this machine from being a master in good health; nothing where it is one.
pub fn ailments(joining: &Joining, standing: &Standing, view: View<'_>) -> Result<Vec<String>> {
    if let Standing::Partial(_) | Standing::Nothing = standing {
        return Ok(vec!["it is no whole master".to_owned()]);
    }
    let mut found = file_ailments(joining, view)?;
    let voting = Voting::new(joining.clone());
    let mut missing = voting.missing(view)?;
    if !missing.is_empty() {
        let cluster = view.cluster.context("this workflow has no cluster")?;
        cluster.clock().pause(SECOND_LOOK);
        missing = voting.missing(view)?;
    }
    found.extend(missing);
    Ok(found)
}

/// The same of its files alone, which no waiting mends.
pub fn file_ailments(joining: &Joining, view: View<'_>) -> Result<Vec<String>> {
    let folder = &joining.cluster.config.certificates_dir;
    let etcd: &[&str] = if joining.cluster.etcd.is_some() {
        &ETCD_CERTIFICATES
    } else {
        &[]
    };
    let certificates = SHARED
        .iter()
        .chain(&CERTIFICATES)
        .chain(etcd)
        .map(|name| format!("{folder}/{name}"));
    let mut found = Vec::new();
    for path in certificates.chain(KUBECONFIGS.map(str::to_owned)) {
        let Some(content) = view.host.read(&path)? else {
            // A CA whose key is kept off the masters is no illness.
            if !joining.cluster.missing_shared.contains(&path) {
                found.push(format!("{path} is gone"));
            }
            continue;
        };
        if path.strip_suffix(".crt").is_some() {
            match expiry(&content) {
                Err(_) => found.push(format!("{path} is no certificate")),
                Ok(end) if end <= SystemTime::now() => {
                    found.push(format!(
                        "{path} expired at {}",
                        humantime::format_rfc3339_seconds(end)
                    ));
                }
                Ok(_) => {}
            }
        }
    }
    Ok(found)
}

/// Every member with its health, of two looks at least 5 s apart: one that stays counts as healthy only if it was so both times, which is what etcd itself wants before it
/// changes its members; the one that is to go counts as dead only if it was so both times.
pub fn steady_members(etcd: &Etcd, view: &ClusterView, departed: &Departed) -> Result<Vec<Member>> {
    let first = etcd.members(view)?;
    view.clock().pause(SECOND_LOOK);
    let mut second = etcd.members(view)?;
    for member in &mut second {
        let before = first
            .iter()
            .any(|before| before.id == member.id && before.healthy);
        if departed.owns(member) {
            member.healthy |= before;
        } else {
            member.healthy &= before;
        }
    }
    Ok(second)
}

/// Where the healthy master's etcd client credentials lie here while a question is asked: memory, never a disk.
const CREDENTIALS: &str = "/run/kpot/etcd-client";

/// Asks the etcd of `target` for its health from this machine, with the `etcdctl` of the pot's own etcd image and the healthy master's client credentials, which are erased at once. That
/// asking works at all is shown by asking the healthy master's etcd in the same way.
pub fn read_from_here(
    world: World<'_>,
    etcd: &Etcd,
    image: &str,
    target: &Member,
    healthy: &Member,
) -> Result<Reading> {
    let cluster = world.cluster.context("this workflow has no cluster")?;
    let placed = place_credentials(world.host, cluster, etcd);
    let read = placed.and_then(|()| {
        let ask = |member: &Member| ask(world.host, image, member);
        ensure!(
            ask(healthy)?,
            "this machine cannot ask etcd: {healthy}, which answers the healthy master, does not answer here. Are the ports 2379 and 2380 open?"
        );
        ask(target)
    });
    for name in Etcd::CREDENTIAL_FILES {
        world.host.erase(&format!("{CREDENTIALS}/{name}"))?;
    }
    Ok(if read? {
        Reading::Answered
    } else {
        Reading::Failed
    })
}

fn place_credentials(host: &Host<'_>, cluster: &Cluster, etcd: &Etcd) -> Result<()> {
    host.make_dir(CREDENTIALS, 0o700)?;
    for (name, path) in Etcd::CREDENTIAL_FILES.iter().zip(etcd.credential_paths()) {
        let content = cluster
            .view()
            .file(path)?
            .with_context(|| format!("{} has no {path}", cluster.view().address()))?;
        let place = format!("{CREDENTIALS}/{name}");
        // A run that was killed may have left another one.
        host.erase(&place)?;
        host.write_secret(&place, &content, 0o600)?;
    }
    Ok(())
}

/// Whether a member answers a read that needs the quorum.
fn ask(host: &Host<'_>, image: &str, member: &Member) -> Result<bool> {
    let Some(url) = member.client_urls.first() else {
        return Ok(false);
    };
    let [ca, certificate, key] = Etcd::CREDENTIAL_FILES.map(|name| format!("/kpot/{name}"));
    let mount = format!("{CREDENTIALS}:/kpot:ro");
    let args = [
        "run",
        "--rm",
        "--network=host",
        "--env=ETCDCTL_API=3",
        "--volume",
        &mount,
        "--entrypoint=etcdctl",
        image,
        "--dial-timeout=3s",
        "--command-timeout=8s",
        &format!("--endpoints={url}"),
        &format!("--cacert={ca}"),
        &format!("--cert={certificate}"),
        &format!("--key={key}"),
        "endpoint",
        "health",
    ];
    let cmd = Cmd::new("docker", args).timeout(Duration::from_secs(40));
    host.note(Change::Cluster {
        what: format!("ask {member} for its health"),
    })?;
    let output = host.try_run(&cmd)?;
    // docker's own statuses: the question was not asked.
    ensure!(
        !(125..=127).contains(&output.status),
        "cannot ask etcd from here: {}",
        output.evidence()
    );
    Ok(output.ok())
}
