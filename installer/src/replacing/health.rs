//! Health, asked twice: what ails this machine as a master, and whether the etcd of a master that is to go still answers.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::Departed;
use crate::control_plane::credentials::{SHARED, expiry};
use crate::control_plane::etcd::{Etcd, Member, has_answered, health_of};
use crate::control_plane::guard::Reading;
use crate::control_plane::images::qualified;
use crate::control_plane::kubeadm::{CERTIFICATES, ETCD_CERTIFICATES};
use crate::control_plane::{ADMIN_CONF, Cluster, ClusterView};
use crate::facts::kubeconfig::{ClientCertificate, client_certificate, ends};
use crate::host::command::{Cmd, NO_PROGRAM, Output};
use crate::host::cri::ctr;
use crate::host::probe::CONTAINERD_PATH;
use crate::host::{Host, HostView};
use crate::joining::voting::Voting;
use crate::joining::{Joining, Standing};
use crate::journal::Change;
use crate::runtime::Runtime;
use crate::step::{View, World};

/// The credentials of the control plane's parts.
pub(crate) const KUBECONFIGS: [&str; 4] = [
    ADMIN_CONF,
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    KUBELET_CONF,
];

/// The kubelet's own credentials.
const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";

/// The kubelet's certificate, which it renews by itself.
const KUBELET_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// What kubeadm tells the kubelet, which does not start without it.
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";

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
    let (host, now) = (view.host, SystemTime::now());
    let folder = &joining.cluster.config.certificates_dir;
    let etcd: &[&str] = if joining.cluster.etcd.is_some() {
        &ETCD_CERTIFICATES
    } else {
        &[]
    };
    let mut found = Vec::new();
    for name in SHARED.iter().chain(&CERTIFICATES).chain(etcd) {
        let path = format!("{folder}/{name}");
        match host.read(&path)? {
            // A CA whose key is kept off the masters is no illness.
            None if joining.cluster.missing_shared.contains(&path) => {}
            None => found.push(format!("{path} is gone")),
            Some(content) if path.strip_suffix(".crt").is_some() => match expiry(&content) {
                Err(_) => found.push(format!("{path} is no certificate")),
                Ok(end) => found.extend(expired(&path, end, now)),
            },
            Some(_) => {}
        }
    }
    for path in KUBECONFIGS {
        found.extend(kubeconfig_ailment(host, path, now)?);
    }
    if host
        .read(KUBELET_CONFIG)?
        .is_none_or(|text| text.is_empty())
    {
        found.push(format!("{KUBELET_CONFIG} is gone, or empty"));
    }
    Ok(found)
}

/// What ails the credentials in a kubeconfig; no word where they are no certificate.
fn kubeconfig_ailment(host: &HostView, path: &str, now: SystemTime) -> Result<Option<String>> {
    Ok(match client_certificate(host, path) {
        Ok(ClientCertificate::NoFile) => Some(format!("{path} is gone")),
        // People use it, no part of the control plane does: kubeadm makes another one without any removal.
        _ if path == ADMIN_CONF => None,
        Ok(ClientCertificate::Another) => None,
        Ok(ClientCertificate::Ends(_)) if path == KUBELET_CONF && has_renewed(host, now)? => None,
        Ok(ClientCertificate::Ends(end)) => expired(path, end, now),
        Err(cause) => Some(format!("{path}: {cause:#}")),
    })
}

/// Whether the kubelet has a certificate that it renewed by itself. On a first master that kubeadm made before 1.17, its credentials name the one of its first year for ever.
fn has_renewed(host: &HostView, now: SystemTime) -> Result<bool> {
    let renewed = host.read(KUBELET_CERTIFICATE)?;
    Ok(renewed.is_some_and(|pem| ends(&pem).is_ok_and(|end| end > now)))
}

fn expired(path: &str, end: SystemTime, now: SystemTime) -> Option<String> {
    let when = humantime::format_rfc3339_seconds(end);
    (end <= now).then(|| format!("{path} expired at {when}"))
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
    image: &EtcdImage,
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
    erase_credentials(world.host)?;
    Ok(if read? {
        Reading::Answered
    } else {
        Reading::Failed
    })
}

/// Erases what lies of these credentials on this machine, also what a run left that was killed before it could: whole or half-written files, each even where another one stays.
pub fn erase_credentials(host: &Host<'_>) -> Result<()> {
    let mut erased = Ok(());
    for name in host.view().list(CREDENTIALS)? {
        erased = erased.and(host.erase(&format!("{CREDENTIALS}/{name}")));
    }
    erased
}

fn place_credentials(host: &Host<'_>, cluster: &Cluster, etcd: &Etcd) -> Result<()> {
    host.make_dir(CREDENTIALS, 0o700)?;
    // A try of this very run may have failed half way.
    erase_credentials(host)?;
    for (name, path) in Etcd::CREDENTIAL_FILES.iter().zip(etcd.credential_paths()) {
        let content = cluster
            .view()
            .file(path)?
            .with_context(|| format!("{} has no {path}", cluster.view().address()))?;
        let place = format!("{CREDENTIALS}/{name}");
        host.write_secret(&place, &content, 0o600)?;
    }
    Ok(())
}

/// etcd's image on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdImage {
    /// The runtime that has it.
    pub runtime: Runtime,
    /// Its name there.
    pub name: String,
}

impl EtcdImage {
    /// An `etcdctl` of the image that sees the credentials in `/kpot`; `about` is the member that is asked.
    fn etcdctl(&self, about: &Member, words: &[&str]) -> Cmd {
        let (program, fixed): (_, Vec<String>) = match self.runtime {
            Runtime::Docker => {
                let mount = format!("{CREDENTIALS}:/kpot:ro");
                let api = "--env=ETCDCTL_API=3";
                let fixed = ["run", "--rm", "--network=host", api, "--volume", &mount];
                let entry = ["--entrypoint=etcdctl", &self.name];
                (
                    "docker",
                    fixed.into_iter().chain(entry).map(str::to_owned).collect(),
                )
            }
            Runtime::Containerd => {
                let mount = format!("type=bind,src={CREDENTIALS},dst=/kpot,options=rbind:ro");
                // One that a killed run left must not be in the way.
                let name = format!("kpot-{}-{}", std::process::id(), about.id);
                let api = "--env=ETCDCTL_API=3";
                let fixed = ["run", "--rm", "--net-host", api, "--mount", &mount];
                // ctr finds an image by its full name alone.
                let command = [&qualified(&self.name), name.as_str(), "etcdctl"];
                (
                    "ctr",
                    ctr(CONTAINERD_PATH, &[&fixed[..], &command].concat()),
                )
            }
        };
        let words = words.iter().map(|&word| word.to_owned());
        Cmd::new(program, fixed.into_iter().chain(words)).timeout(Duration::from_secs(40))
    }

    /// Whether what came back is the runtime's own failure, so that nobody was asked: Docker has statuses for it, and ctr its name before every error of its own.
    fn failed(&self, output: &Output) -> bool {
        match self.runtime {
            Runtime::Docker => (125..=127).contains(&output.status),
            Runtime::Containerd => {
                let told = String::from_utf8_lossy(&output.stderr);
                output.status == NO_PROGRAM || told.lines().any(|line| line.starts_with("ctr: "))
            }
        }
    }
}

/// Whether a member answers a read, asked from this machine.
fn ask(host: &Host<'_>, image: &EtcdImage, member: &Member) -> Result<bool> {
    let Some(url) = member.client_urls.first() else {
        return Ok(false);
    };
    let [ca, certificate, key] = Etcd::CREDENTIAL_FILES.map(|name| format!("/kpot/{name}"));
    let whom = [
        "--dial-timeout=3s",
        "--command-timeout=8s",
        &format!("--endpoints={url}"),
        &format!("--cacert={ca}"),
        &format!("--cert={certificate}"),
        &format!("--key={key}"),
    ];
    let cmd = image.etcdctl(member, &[&whom[..], health_of(member)].concat());
    host.note(Change::Cluster {
        what: format!("ask {member} for its health"),
    })?;
    let output = host.try_run(&cmd)?;
    ensure!(
        !image.failed(&output),
        "cannot ask etcd from here: {}",
        output.evidence()
    );
    Ok(has_answered(&output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joining::fixtures::member;

    const IMAGE: &str = "registry.k8s.io/etcd:3.6.5-0";

    fn asked(runtime: Runtime, image: &str) -> String {
        let name = image.to_owned();
        let words = ["a", "b", "c", "d", "e", "f"];
        let cmd = EtcdImage { runtime, name }.etcdctl(&member(31, "m3", "10.0.0.13"), &words);
        cmd.to_string()
    }

    #[test]
    fn each_runtime_runs_the_etcdctl_of_the_image_with_the_credentials_in_it() {
        assert_eq!(
            asked(Runtime::Docker, IMAGE),
            "docker run --rm --network=host --env=ETCDCTL_API=3 --volume /run/kpot/etcd-client:/kpot:ro --entrypoint=etcdctl registry.k8s.io/etcd:3.6.5-0 a b c d e f"
        );
        assert_eq!(
            asked(Runtime::Containerd, IMAGE),
            format!(
                "ctr --address /run/containerd/containerd.sock --namespace k8s.io run --rm --net-host --env=ETCDCTL_API=3 --mount 'type=bind,src=/run/kpot/etcd-client,dst=/kpot,options=rbind:ro' registry.k8s.io/etcd:3.6.5-0 kpot-{}-1f etcdctl a b c d e f",
                std::process::id()
            )
        );
    }

    #[test]
    fn containerd_is_asked_for_an_image_by_the_name_under_which_it_was_imported() {
        for (name, full) in [
            ("etcd:3.6.5-0", "docker.io/library/etcd:3.6.5-0"),
            ("mirror/etcd:3.6.5-0", "docker.io/mirror/etcd:3.6.5-0"),
        ] {
            let command = asked(Runtime::Containerd, name);
            assert!(command.contains(&format!(" {full} kpot-")), "{command}");
            let command = asked(Runtime::Docker, name);
            assert!(command.contains(&format!(" {name} a b")), "{command}");
        }
    }

    #[test]
    fn a_runtime_s_own_failure_is_no_answer_of_etcd() {
        let output = |status, stderr: &str| Output {
            status,
            stderr: stderr.as_bytes().to_vec(),
            ..Output::default()
        };
        let image = |runtime| EtcdImage {
            runtime,
            name: "etcd:1".to_owned(),
        };
        let unhealthy = "{\"level\":\"warn\",\"error\":\"rpc error: code = DeadlineExceeded\"}\nError: context deadline exceeded\n";
        assert!(!image(Runtime::Docker).failed(&output(1, unhealthy)));
        assert!(image(Runtime::Docker).failed(&output(125, "Unable to find image")));
        assert!(!image(Runtime::Containerd).failed(&output(1, unhealthy)));
        let absent = "ctr: image \"etcd:1\": not found\n";
        assert!(image(Runtime::Containerd).failed(&output(1, absent)));
        assert!(image(Runtime::Containerd).failed(&output(127, "ctr: not found")));
    }

    #[test]
    fn credentials_that_are_no_good_any_more_ail_their_master() {
        use crate::host::command::Runner as _;
        use base64ct::{Base64, Encoding};
        let certificate = |days: &str| {
            let folder = tempfile::tempdir().unwrap();
            let key = folder.path().join("key").display().to_string();
            let fixed =
                "req -x509 -nodes -subj /CN=x -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days";
            let words = fixed.split(' ').chain([days, "-keyout", key.as_str()]);
            crate::host::command::Local
                .expect(&Cmd::new("openssl", words))
                .unwrap()
                .text()
        };
        let (valid, over) = (certificate("365"), certificate("1"));
        // A day later than now.
        let now = SystemTime::now() + Duration::from_secs(2 * 86_400);
        let with = |pem: &str| {
            let data = Base64::encode_string(pem.as_bytes());
            format!(
                "current-context: b\ncontexts:\n- name: b\n  context: {{user: own}}\nusers:\n- name: other\n  user: {{token: x}}\n- name: own\n  user: {{client-certificate-data: {data}}}\n"
            )
        };
        let ails = |path: &str, content: Option<String>, renewed: Option<&str>| {
            let machine = crate::steps::testing::Machine::new();
            if let Some(content) = content {
                machine.file(path, content);
            }
            if let Some(renewed) = renewed {
                machine.file(KUBELET_CERTIFICATE, renewed);
            }
            let view = machine.view(crate::host::scripted::Scripted::new());
            kubeconfig_ailment(&view, path, now).unwrap()
        };
        let scheduler = "/etc/kubernetes/scheduler.conf";
        assert_eq!(ails(scheduler, Some(with(&valid)), None), None);
        for (content, word) in [
            (None, "is gone"),
            (Some(with(&over)), "expired at"),
            (Some("half a fi".to_owned()), "does not parse"),
        ] {
            let told = ails(scheduler, content.clone(), None).unwrap();
            assert!(told.contains(word), "{told}");
            let admin = ails(ADMIN_CONF, content.clone(), None);
            assert_eq!(admin.is_some(), content.is_none(), "{admin:?}");
        }
        let token = "users:\n- name: x\n  user: {token: y}\n".to_owned();
        assert_eq!(ails(scheduler, Some(token), None), None);
        assert_eq!(
            ails(KUBELET_CONF, Some(with(&over)), Some(&valid)),
            None,
            "it has renewed its own"
        );
        assert!(ails(KUBELET_CONF, Some(with(&over)), Some(&over)).is_some());
        assert!(ails(KUBELET_CONF, Some(with(&over)), None).is_some());
    }
}
