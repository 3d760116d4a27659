//! The machine of the master whose place this one takes: whether it answers over SSH, and its files, which are backed up here before anything is removed.
//!
//! The backup is a tar in this run's backups, `down-<name>.tar` (0600), of what kubeadm, the kubelet and people put on a node. etcd's data is not in it: a snapshot of the
//! healthy master is taken instead. A list beside it, `down-<name>.tar.list`, has the time and size of each file: a backup counts as long as nothing was changed since. A machine that does not answer, or cannot read its own files, stops nothing; the plan says so.

use std::collections::BTreeSet;
use std::io::Write as _;

use anyhow::{Context, Result};

use super::{ASIDE, Departed, KUBERNETES, folder_of, is_below};
use crate::control_plane::extra_paths::{self, ExtraPath};
use crate::host::HostView;
use crate::host::remote::RemoteView;
use crate::host::ssh::{Connect, Role, Target};
use crate::journal::STATE_DIR;
use crate::step::{Reversal, State, Step, View, World};

/// What is backed up, and the folder of certificates, wherever that is.
const KEPT: [&str; 6] = [
    KUBERNETES,
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/instance-config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/pki",
    "/etc/cni/net.d",
];

/// The largest file that is read to try a disk, in bytes; no larger one is brought from it by itself.
const TRIED: u64 = 1 << 20;

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
    /// It does not, or lets nobody in, or is as good as silent: says so, and why, in words that follow its name.
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
            Err(cause) => Self::silent(&format!("{cause:#}")),
        }
    }

    /// A machine that does not answer, for this reason.
    pub fn silent(why: &str) -> Self {
        Self::Silent(format!("does not answer over SSH: {why}"))
    }

    /// A machine that answers, and whose disk does not.
    pub fn unreadable(cause: &anyhow::Error) -> Self {
        Self::Silent(format!(
            "answers over SSH, but its files cannot be read: {cause:#}"
        ))
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

    /// Reads what a change reads of the machine: what is backed up, and what stands at the `extra` paths. Files above 1 MiB are only looked at. A machine that does not answer is not asked.
    ///
    /// # Errors
    /// Something cannot be read, or one of the questions, five at most, is not answered within a minute.
    pub fn try_files(&self, extra: &[ExtraPath]) -> Result<()> {
        let Some(machine) = self.reach.machine() else {
            return Ok(());
        };
        let mut stamps = Self::stamps(machine, &self.kept())?;
        let named = paths(extra, |one| one.role != extra_paths::Role::Written);
        // Without a path, find would look through the folder in which it is run.
        if !named.is_empty() {
            let mut found = Self::stamps(machine, &named)?;
            let is_brought = |path: &str| extra.iter().any(|one| may_bring(one, path));
            found.retain(|stamp| file_of(stamp).is_some_and(|(_, path)| is_brought(path)));
            stamps.append(&mut found);
        }
        let whole = paths(extra, ExtraPath::is_copied);
        if !whole.is_empty() {
            let links = machine.links(&whole)?;
            let links: Vec<&str> = links.iter().map(String::as_str).collect();
            if !links.is_empty() {
                stamps.append(&mut machine.stamps_behind(&links)?);
            }
        }
        let files: Vec<&str> = stamps
            .iter()
            .filter_map(|stamp| file_of(stamp))
            .filter(|(size, _)| *size <= TRIED)
            .map(|(_, path)| path)
            .collect();
        machine.read_through(&files)
    }

    /// What tells whether a file at or below these paths was touched, a line a file.
    pub(super) fn stamps(machine: &RemoteView, paths: &[&str]) -> Result<BTreeSet<String>> {
        let mut stamps = machine.stamps(paths)?;
        let is_aside =
            |stamp: &String| file_of(stamp).is_some_and(|(_, path)| is_below(path, ASIDE));
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

fn paths(extra: &[ExtraPath], are_meant: fn(&ExtraPath) -> bool) -> Vec<&str> {
    let meant = extra.iter().filter(|one| are_meant(one));
    meant.map(|one| one.path.as_str()).collect()
}

/// Whether a file may be brought for the sake of this path: it is named, lies in a folder that is brought, or beside a file that a flag names.
fn may_bring(extra: &ExtraPath, path: &str) -> bool {
    match extra.role {
        extra_paths::Role::Read => folder_of(path) == folder_of(&extra.path),
        extra_paths::Role::Mounted => {
            path == extra.path || (extra.is_copied() && is_below(path, &extra.path))
        }
        extra_paths::Role::Written => false,
    }
}

/// The size and the path of a file, of the line that has its time, size and path.
fn file_of(stamp: &str) -> Option<(u64, &str)> {
    let (_, rest) = stamp.split_once(' ')?;
    let (size, path) = rest.split_once(' ')?;
    Some((size.parse().ok()?, path))
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

    fn reversal(&self) -> Reversal {
        Reversal::Nothing
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let name = &self.down.departed.name;
        let machine = match &self.down.reach {
            Reach::Answers(machine) => machine,
            Reach::Silent(why) => {
                return Ok(State::Unsettable(format!(
                    "{name} {why}\nIts files come from the healthy master"
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
        let (stamps, mut found) = (Down::stamps(machine, &kept)?, machine.existing(&kept)?);
        let mut except = vec![ASIDE.to_owned()];
        // Their files are among the stamps, and a reset takes them away.
        for link in machine.linked(&kept)? {
            let Some(end) = machine.behind(&link)? else {
                continue;
            };
            if link == KUBERNETES {
                except.push(ASIDE.replacen(KUBERNETES, &end.path, 1));
            }
            found.push(end.path);
        }
        let copied = world.host.keep(&self.down.archive(), &mut |file| {
            machine.archive(&found, &except, file)
        });
        copied.with_context(|| {
            format!(
                "the files of {} could not be copied here. Where its disk fails, switch that machine off, then run the same command again, without --reset-down: the change works without it",
                self.down.departed.name
            )
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
            .on("find /etc", 0, "")
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
    fn what_lies_behind_a_link_is_in_the_backup_too() {
        let stamps = format!("find -H {} -type", KEPT.join(" "));
        let script = Scripted::new()
            .on(&stamps, 0, "1 9 /etc/kubernetes/admin.conf\n")
            .on("find -H /data/k", 0, "d 755 4096 /data/k\n")
            .on("find -H", 0, "/etc/kubernetes\n")
            .on("find /etc", 0, "/etc/kubernetes\n")
            .on("readlink --canonicalize-existing -- /etc/kubernetes", 0, "/data/k\n")
            .on(
                "tar -C / -c -f - --ignore-failed-read --exclude=etc/kubernetes/tmp --exclude=data/k/tmp -- etc/kubernetes data/k",
                0,
                "tar",
            );
        let step = BackUpDown::new(m3(Arc::new(script)));
        with_world(Scripted::new(), |world| {
            step.apply(world).unwrap();
            assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
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
        let broken = anyhow::anyhow!("Input/output error");
        for (reach, told) in [
            (
                Reach::silent("no route"),
                "m3 does not answer over SSH: no route",
            ),
            (
                Reach::unreadable(&broken),
                "m3 answers over SSH, but its files cannot be read: Input/output error",
            ),
        ] {
            let mut down = m3(Arc::new(Scripted::new()));
            down.reach = reach;
            with_world(Scripted::new(), |world| {
                let state = BackUpDown::new(down).check(world.view()).unwrap();
                assert!(
                    matches!(&state, State::Unsettable(why) if why.contains(told) && why.contains("healthy master")),
                    "{state:?}"
                );
            });
        }
    }
}
