//! How this machine stands: its programs, its control plane, its certificates, and what the journal says of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::Told;
use super::certificates::{self, Certificate, Expected};
use crate::control_plane::ADMIN_CONF;
use crate::control_plane::objects::Node;
use crate::facts::{containerd, docker, kubelet as kubelet_files, programs};
use crate::host::HostView;
use crate::host::probe::Probe;
use crate::joining::{self, MANIFESTS};
use crate::journal::{Change, Entry, Event, Journal, STATE_DIR};
use crate::rollback::owed::Owed;
use crate::steps::unit;

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) hostname: Told<String>,
    /// The name of its node, as far as the journal or the cluster knows it.
    pub(super) node: Option<String>,
    /// The address of its apiserver and etcd, as far as the journal or its manifest knows it.
    pub(super) address: Option<String>,
    /// Nothing where there is no container runtime.
    pub(super) runtime: Told<Option<Runtime>>,
    /// kubeadm, kubectl and the kubelet; nothing where one is not here.
    pub(super) versions: BTreeMap<&'static str, Told<Option<String>>>,
    pub(super) kubelet: Told<Unit>,
    /// Nothing where it has no manifest of one.
    pub(super) apiserver: Told<Option<Apiserver>>,
    pub(super) manifests: Told<Manifests>,
    pub(super) certificates: Told<Vec<Certificate>>,
    pub(super) journal: Told<History>,
    /// The runs whose backups are kept.
    pub(super) backups: Told<Vec<String>>,
}

/// The container runtime.
#[derive(Debug, Serialize)]
pub(super) struct Runtime {
    pub(super) name: &'static str,
    /// Nothing where it does not answer.
    pub(super) version: Option<String>,
    /// Nothing where it does not say.
    pub(super) cgroup_driver: Option<String>,
}

/// A systemd unit, in systemd's words.
#[derive(Debug, Serialize)]
pub(super) struct Unit {
    pub(super) load: String,
    pub(super) active: String,
    pub(super) enabled: String,
}

/// This machine's apiserver.
#[derive(Debug, Serialize)]
pub(super) struct Apiserver {
    /// `https://ADDRESS:PORT`.
    pub(super) server: String,
    pub(super) answers: bool,
    /// What came instead of an answer.
    pub(super) evidence: Option<String>,
}

/// The pods that the kubelet runs by itself.
#[derive(Debug, Serialize)]
pub(super) struct Manifests {
    pub(super) present: Vec<String>,
    /// Those that this master should have.
    pub(super) missing: Vec<String>,
}

/// What the journal says.
#[derive(Debug, Serialize)]
pub(super) struct History {
    /// Nothing where this program has changed nothing here.
    pub(super) last_run: Option<LastRun>,
    /// The join that was begun here and came to no end.
    pub(super) interrupted_join: Option<Place>,
    /// How many changes a rollback would undo.
    pub(super) changes_to_undo: usize,
    /// The etcd member that a join of ours may have added, and that nothing says is gone.
    pub(super) member: Option<Place>,
}

/// The newest run.
#[derive(Debug, Serialize)]
pub(super) struct LastRun {
    pub(super) workflow: String,
    /// `done` or `failed`; nothing where it was cut off, or is still at work.
    pub(super) outcome: Option<String>,
    /// When the journal last heard of it (RFC 3339).
    pub(super) at: String,
}

/// A node's name and address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) address: String,
}

/// Whether the administrator's credentials are here, so that a cluster can be asked. Where that cannot be told, asking shows it.
pub(super) fn is_administered(host: &HostView) -> bool {
    host.exists(ADMIN_CONF).unwrap_or(true)
}

impl Machine {
    /// Looks at everything.
    pub(super) fn look(host: &HostView, now: SystemTime) -> Self {
        let journal = Journal::read(&host.locate(STATE_DIR)).map(|entries| History::of(&entries));
        let own = own_server(host).ok().flatten();
        let member = journal.as_ref().ok().and_then(|told| told.member.clone());
        let (node, journaled) = member.map(|place| (place.node, place.address)).unzip();
        let manifests = Manifests::look(host);
        let folder = own
            .as_ref()
            .map_or(certificates::FOLDER, |own| &own.certificates);
        let certificates = manifests
            .as_ref()
            .map_err(|cause| anyhow::anyhow!("{cause:#}"))
            .and_then(|manifests| {
                certificates::look(host, expected(host, manifests)?, folder, now)
            });
        Self {
            hostname: Told::of(hostname(host)),
            node,
            address: journaled.or(own.map(|own| own.address)),
            runtime: Told::of(runtime(host)),
            versions: ["kubeadm", "kubectl", "kubelet"]
                .map(|name| (name, Told::of(version(host, name))))
                .into(),
            kubelet: Told::of(kubelet(host)),
            apiserver: Told::of(apiserver(host)),
            manifests: Told::of(manifests),
            certificates: Told::of(certificates),
            journal: Told::of(journal),
            backups: Told::of(host.list(&format!("{STATE_DIR}/backup"))),
        }
    }

    /// Takes from the cluster's nodes what this machine does not know of itself.
    pub(super) fn name_by(&mut self, nodes: &[Node]) {
        let ours = |node: &&Node| match (&self.node, &self.address, self.hostname.known()) {
            (Some(name), ..) => node.metadata.name == *name,
            (_, Some(address), _) => node.has_address(address),
            (.., Some(hostname)) => node.metadata.name == hostname.to_lowercase(),
            _ => false,
        };
        let Some(node) = nodes.iter().find(ours) else {
            return;
        };
        let address = node.internal_address().map(str::to_owned);
        self.node = Some(node.metadata.name.clone());
        self.address = self.address.take().or(address);
    }
}

fn hostname(host: &HostView) -> Result<String> {
    let name = host
        .text("/proc/sys/kernel/hostname")?
        .context("this kernel names no host")?;
    Ok(name.trim().to_owned())
}

fn runtime(host: &HostView) -> Result<Option<Runtime>> {
    // A Docker may stand beside a containerd that serves the kubelet; kubeadm's files tell which one that is.
    if host.program("docker").is_some() && !kubelet_files::has_containerd(host)? {
        let info = docker::running(host)?;
        let (version, cgroup_driver) = info.map(|info| (info.version, info.cgroup_driver)).unzip();
        return Ok(Some(Runtime {
            name: "docker",
            version,
            cgroup_driver,
        }));
    }
    if host.program("containerd").is_none() {
        return Ok(None);
    }
    let info = containerd::running(host)?;
    let driver = info.as_ref().and_then(|info| info.cgroup_driver);
    Ok(Some(Runtime {
        name: "containerd",
        version: info.map(|info| info.version),
        cgroup_driver: driver.map(|driver| driver.to_string()),
    }))
}

fn version(host: &HostView, name: &str) -> Result<Option<String>> {
    let path = host.program(name);
    path.map(|path| programs::version(host, name, &path))
        .transpose()
}

fn kubelet(host: &HostView) -> Result<Unit> {
    let state = unit::look(host, "kubelet.service")?;
    Ok(Unit {
        load: state.load,
        active: state.active,
        enabled: state.enabled,
    })
}

/// Where this machine's apiserver listens, and where it finds etcd.
struct OwnServer {
    address: String,
    port: String,
    stacked: bool,
    /// The folder of the control plane's certificates.
    certificates: String,
}

/// Reads it off the apiserver's manifest; nothing where there is none.
fn own_server(host: &HostView) -> Result<Option<OwnServer>> {
    let Some(text) = host.text("/etc/kubernetes/manifests/kube-apiserver.yaml")? else {
        return Ok(None);
    };
    let words = || text.split([' ', '\n', '"', '\'']);
    let flag = |name: &str| words().find_map(|word| word.strip_prefix(name));
    let etcd = flag("--etcd-servers=").unwrap_or_default();
    // kubeadm's own file, which nobody replaces by one from elsewhere.
    let own = flag("--kubelet-client-certificate=").and_then(|file| file.rsplit_once('/'));
    Ok(Some(OwnServer {
        address: flag("--advertise-address=")
            .context("the manifest of kube-apiserver names no --advertise-address")?
            .to_owned(),
        port: flag("--secure-port=").unwrap_or("6443").to_owned(),
        stacked: etcd.contains("//127.0.0.1:") || etcd.contains("//[::1]:"),
        certificates: own
            .map_or(certificates::FOLDER, |(folder, _)| folder)
            .to_owned(),
    }))
}

fn apiserver(host: &HostView) -> Result<Option<Apiserver>> {
    let Some(own) = own_server(host)? else {
        return Ok(None);
    };
    if !host.exists(ADMIN_CONF)? {
        bail!("there is no {ADMIN_CONF} to ask it with");
    }
    let server = if own.address.contains(':') {
        format!("https://[{}]:{}", own.address, own.port)
    } else {
        format!("https://{}:{}", own.address, own.port)
    };
    let health = host.probe(&Probe::apiserver_health(&server))?;
    let answers = health.ok() && health.text() == "ok";
    Ok(Some(Apiserver {
        server,
        answers,
        evidence: (!answers).then(|| health.evidence()),
    }))
}

impl Manifests {
    fn look(host: &HostView) -> Result<Self> {
        let present = host.list("/etc/kubernetes/manifests")?;
        let has = |name: &str| present.iter().any(|file| file == name);
        // Where the apiserver's manifest cannot be read, that is told in its own place.
        let stacked = match own_server(host) {
            Ok(Some(own)) => own.stacked,
            _ => has("etcd.yaml"),
        };
        let is_master = MANIFESTS.iter().any(|name| has(name)) || host.exists(ADMIN_CONF)?;
        let missing = MANIFESTS
            .into_iter()
            .filter(|name| is_master && !has(name) && (stacked || *name != "etcd.yaml"))
            .map(str::to_owned)
            .collect();
        Ok(Self { present, missing })
    }
}

fn expected(host: &HostView, manifests: &Manifests) -> Result<Expected> {
    let is_master = host.exists(ADMIN_CONF)?
        || MANIFESTS
            .iter()
            .any(|name| manifests.present.iter().any(|file| file == name));
    let has_etcd = [&manifests.present, &manifests.missing]
        .into_iter()
        .flatten()
        .any(|name| name == "etcd.yaml");
    Ok(match (is_master, has_etcd) {
        (false, _) => Expected::None,
        (true, false) => Expected::WithoutEtcd,
        (true, true) => Expected::WithEtcd,
    })
}

impl History {
    fn of(journal: &[Entry]) -> Self {
        let join = journal.iter().rev().find_map(|entry| match &entry.event {
            Event::Intent {
                change: Change::Join { node, address },
                ..
            } => Some(Place {
                node: node.clone(),
                address: address.clone(),
            }),
            _ => None,
        });
        let owed = Owed::of(journal);
        Self {
            last_run: LastRun::of(journal),
            interrupted_join: join
                .filter(|join| joining::was_interrupted(journal, &join.node, &join.address)),
            changes_to_undo: owed.changes.len(),
            member: owed.member.map(|member| Place {
                node: member.node,
                address: member.address,
            }),
        }
    }
}

impl LastRun {
    fn of(journal: &[Entry]) -> Option<Self> {
        let last = journal.last()?;
        let events = || {
            journal
                .iter()
                .filter(|entry| entry.run == last.run)
                .map(|entry| &entry.event)
        };
        let workflow = events().find_map(|event| match event {
            Event::Begin { workflow, .. } => Some(workflow.clone()),
            _ => None,
        });
        let outcome = events().find_map(|event| match event {
            Event::End { outcome } => Some(outcome.clone()),
            _ => None,
        });
        let at = UNIX_EPOCH + Duration::from_secs(last.time);
        Some(Self {
            workflow: workflow.unwrap_or_else(|| "a run without a beginning".to_owned()),
            outcome,
            at: humantime::format_rfc3339_seconds(at).to_string(),
        })
    }
}
