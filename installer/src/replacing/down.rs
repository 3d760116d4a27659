//! The machine of the master whose place this one takes: whether it answers over SSH, and its files, which are backed up here before anything is removed.
//!
//! The backup is a tar in this run's backups, `down-<name>.tar` (0600), of what kubeadm, the kubelet and people put on a node. etcd's data is not in it: a snapshot of the
//! healthy master is taken instead. A list beside it, `down-<name>.tar.list`, has the time and size of each file: a backup counts as long as nothing was changed since. A machine that does not answer stops nothing; the plan says so.

use std::collections::BTreeSet;
use std::io::Write as _;

use anyhow::{Context, Result};

use super::{ASIDE, Departed, KUBERNETES, is_below};
use crate::host::HostView;
use crate::host::remote::RemoteView;
use crate::host::ssh::{Connect, Role, Target};
use crate::journal::STATE_DIR;
use crate::step::{State, Step, View, World};

/// What is backed up, and the folder of certificates, wherever that is.
const KEPT: [&str; 6] = [
    KUBERNETES,
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/instance-config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/pki",
    "/etc/cni/net.d",
];

/// A master whose place is taken, and its machine.
#[derive(Clone)]
pub struct Down {
    /// Whose records go.
    pub departed: Departed,
    /// Whether its machine answers.
    pub reach: Reach,
    /// What becomes of the machine.
    pub fate: Fate,
    /// The cluster's folder of certificates.
    pub certificates: String,
}

/// Whether a machine answers over SSH.
#[derive(Clone)]
pub enum Reach {
    /// It does.
    Answers(RemoteView),
    /// It does not, or lets nobody in; says why.
    Silent(String),
}

/// What becomes of the machine of a master whose place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Left,
    /// What belongs to Kubernetes is taken off it.
    Reset,
}

impl Reach {
    /// Tries to connect to the machine of `departed` in the same way as to the healthy master, `target`; a dead machine costs at most ten seconds.
    pub fn of(
        connect: &Connect<'_>,
        departed: &Departed,
        target: &Target,
        host_key: Option<String>,
    ) -> Self {
        let target = Target {
            role: Role::Down,
            host: departed.address.clone(),
            host_key,
            ..target.clone()
        };
        match connect(target) {
            Ok(ssh) => Self::Answers(RemoteView::new(ssh, &departed.address)),
            Err(cause) => Self::Silent(format!("{cause:#}")),
        }
    }

    /// The machine, where it answers.
    pub fn machine(&self) -> Option<&RemoteView> {
        match self {
            Self::Answers(machine) => Some(machine),
            Self::Silent(_) => None,
        }
    }
}

impl Down {
    /// The folder of certificates, where it is not in kubeadm's.
    pub(super) fn certificates_elsewhere(&self) -> Option<&str> {
        let folder = self.certificates.as_str();
        (!folder.is_empty() && !is_below(folder, KUBERNETES)).then_some(folder)
    }

    /// What is backed up.
    fn kept(&self) -> Vec<&str> {
        KEPT.into_iter()
            .chain(self.certificates_elsewhere())
            .collect()
    }

    /// What tells whether a file at or below these paths was touched, a line a file.
    pub(super) fn stamps(machine: &RemoteView, paths: &[&str]) -> Result<BTreeSet<String>> {
        let mut stamps = machine.stamps(paths)?;
        // Time, size, path.
        let is_aside = |stamp: &String| {
            let path = stamp.splitn(3, ' ').nth(2);
            path.is_some_and(|path| is_below(path, ASIDE))
        };
        stamps.retain(|stamp| !is_aside(stamp));
        Ok(stamps)
    }

    /// Whether one of this machine's backups holds the files that these lines stand for, untouched since.
    pub(super) fn is_kept(&self, host: &HostView, stamps: &BTreeSet<String>) -> Result<bool> {
        let backups = format!("{STATE_DIR}/backup");
        for run in host.list(&backups)? {
            // It is written after the tar: where it is, that is whole.
            let list = host.text(&format!("{backups}/{run}/{}", self.list()))?;
            let Some(list) = list else { continue };
            let kept: BTreeSet<&str> = list.lines().collect();
            if stamps.iter().all(|stamp| kept.contains(stamp.as_str())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The name of the list of what is in the backup.
    fn list(&self) -> String {
        format!("{}.list", self.archive())
    }

    /// The name of the backup. etcd lets a member be called anything, and what holds a slash is no file's name.
    fn archive(&self) -> String {
        format!("down-{}.tar", self.departed.name.replace('/', "_"))
    }
}

/// Backs the files of a master that is down up; see the module.
pub struct BackUpDown {
    down: Down,
}

impl BackUpDown {
    /// Backs the files of `down` up.
    pub fn new(down: Down) -> Self {
        Self { down }
    }
}

impl Step for BackUpDown {
    fn id(&self) -> &'static str {
        "backup-down"
    }

    fn summary(&self) -> String {
        format!(
            "the Kubernetes files of {} are kept in {STATE_DIR}/backup on this machine",
            self.down.departed.name
        )
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let name = &self.down.departed.name;
        let machine = match &self.down.reach {
            Reach::Answers(machine) => machine,
            Reach::Silent(why) => {
                return Ok(State::Unsettable(format!(
                    "{name} does not answer over SSH: {why}\nIts files come from the healthy master"
                )));
            }
        };
        let stamps = Down::stamps(machine, &self.down.kept())?;
        Ok(
            if stamps.is_empty() || self.down.is_kept(view.host, &stamps)? {
                State::Satisfied
            } else {
                State::Pending(format!(
                    "{} files of {}; not etcd's data",
                    stamps.len(),
                    machine.address()
                ))
            },
        )
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = self
            .down
            .reach
            .machine()
            .context("a machine that does not answer cannot be backed up")?;
        let kept = self.down.kept();
        let (stamps, found) = (Down::stamps(machine, &kept)?, machine.existing(&kept)?);
        world.host.keep(&self.down.archive(), &mut |file| {
            machine.archive(&found, ASIDE, file)
        })?;
        world.host.keep(&self.down.list(), &mut |file| {
            Ok(stamps
                .iter()
                .try_for_each(|stamp| writeln!(file, "{stamp}"))?)
        })?;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control_plane::Cluster;
    use crate::host::Host;
    use crate::host::scripted::Scripted;
    use crate::journal::Journal;
    use crate::replacing::Whose;

    /// m3, which a script answers for.
    pub(crate) fn m3(script: Arc<Scripted>) -> Down {
        Down {
            departed: Departed {
                name: "m3".to_owned(),
                address: "10.0.0.13".to_owned(),
                whose: Whose::Another,
            },
            reach: Reach::Answers(RemoteView::new(script, "10.0.0.13")),
            fate: Fate::Reset,
            certificates: "/etc/kubernetes/pki".to_owned(),
        }
    }

    /// Calls `test` with an empty machine and a cluster that a script answers for.
    pub(crate) fn with_world(cluster: Scripted, test: impl FnOnce(World<'_>)) {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path().join("var/lib/kpot"));
        let host = Host::new(
            HostView::new(root.path(), Arc::new(Scripted::new())),
            &journal,
        );
        let cluster = Cluster::new(crate::control_plane::ClusterView::new(
            Arc::new(cluster),
            "10.0.0.11",
        ));
        test(World {
            host: &host,
            cluster: Some(&cluster),
        });
    }

    const FOUND: &str = "/etc/kubernetes\n/var/lib/kubelet/pki\n";

    /// A machine with one file, changed at these times.
    fn stamped<'t>(times: impl IntoIterator<Item = &'t str>) -> Scripted {
        let times = times.into_iter().map(|time| (0, time));
        let find = format!("find -H {} -type", KEPT.join(" "));
        Scripted::new()
            .once_each(&find, times)
            .on("find -H", 0, FOUND)
    }

    #[test]
    fn what_the_machine_has_is_streamed_into_a_private_file_once() {
        let script = stamped(["1 9 /f", "1 9 /f", "1 9 /f", "2 9 /f"]).on(
            "tar -C / -c -f - --ignore-failed-read --exclude=etc/kubernetes/tmp -- etc/kubernetes var/lib/kubelet/pki",
            0,
            "tar",
        );
        let step = BackUpDown::new(m3(Arc::new(script)));
        with_world(Scripted::new(), |world| {
            assert!(
                matches!(step.check(world.view()).unwrap(), State::Pending(why) if why.starts_with("1 files of 10.0.0.13"))
            );
            step.apply(world).unwrap();
            assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
            let path = format!("{STATE_DIR}/backup/{}/down-m3.tar", world.host.run_name());
            let host = world.host.view();
            assert_eq!(host.text(&path).unwrap().unwrap(), "tar");
            assert_eq!(host.facts(&path).unwrap().unwrap().mode, 0o600);
            assert!(
                matches!(step.check(world.view()).unwrap(), State::Pending(_)),
                "the file was changed since"
            );
        });
    }

    #[test]
    fn whatever_of_the_kubelet_s_configuration_is_wiped_is_kept_before() {
        for path in crate::replacing::clear::KUBELET {
            assert!(KEPT.contains(&path), "{path}");
        }
    }

    #[test]
    fn a_stream_that_broke_off_is_no_backup() {
        let script = stamped(["1 9 /f"]).on("tar", 2, "broken");
        let step = BackUpDown::new(m3(Arc::new(script)));
        with_world(Scripted::new(), |world| {
            assert!(step.apply(world).is_err());
            assert!(matches!(
                step.check(world.view()).unwrap(),
                State::Pending(_)
            ));
        });
    }

    #[test]
    fn a_silent_machine_stops_nothing_and_the_plan_says_why() {
        let mut down = m3(Arc::new(Scripted::new()));
        down.reach = Reach::Silent("no route".to_owned());
        with_world(Scripted::new(), |world| {
            let state = BackUpDown::new(down).check(world.view()).unwrap();
            assert!(
                matches!(&state, State::Unsettable(why) if why.contains("m3 does not answer over SSH: no route") && why.contains("healthy master")),
                "{state:?}"
            );
        });
    }
}
