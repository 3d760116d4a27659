//! The report as people read it: one fact a line, `!` before what needs a look. Pure.

use super::certificates::{Certificate, Standing};
use super::cluster::{Cluster, EtcdStanding, Master, MemberRow, Named, Role};
use super::machine::{History, Machine, Place};
use super::{Report, Told};
use crate::control_plane::lease;

/// The table.
pub(super) fn text(report: &Report) -> String {
    let mut table = Table::default();
    table.machine(&report.machine);
    match &report.cluster {
        None => table.heading(
            "the cluster was not asked: this machine is no master. Name a healthy one: kpot-install status --healthy ADDRESS",
        ),
        Some(Told::CannotTell { cannot_tell }) => {
            table.heading("the cluster");
            table.unknown("all of it", cannot_tell);
        }
        Some(Told::Known(cluster)) => table.cluster(cluster),
    }
    table.lines.join("\n")
}

/// Width of the names of the facts.
const WIDTH: usize = 12;

#[derive(Default)]
struct Table {
    lines: Vec<String>,
}

/// Whether a fact needs a look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Fine,
    Look,
}

impl Mark {
    fn look_if(bad: bool) -> Self {
        if bad { Self::Look } else { Self::Fine }
    }
}

impl Table {
    fn heading(&mut self, text: &str) {
        if !self.lines.is_empty() {
            self.lines.push(String::new());
        }
        self.lines.push(text.to_owned());
    }

    fn line(&mut self, mark: Mark, label: &str, text: &str) {
        let sign = if mark == Mark::Look { '!' } else { ' ' };
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        self.lines.push(format!("{sign} {label:WIDTH$}  {first}"));
        for more in lines {
            self.lines.push(format!("  {:WIDTH$}    {more}", ""));
        }
    }

    fn unknown(&mut self, label: &str, cause: &str) {
        self.line(Mark::Look, label, &format!("cannot tell: {cause}"));
    }

    /// One line for what was found, or for why it was not.
    fn told<T>(&mut self, label: &str, told: &Told<T>, line: impl FnOnce(&T) -> (Mark, String)) {
        match told {
            Told::CannotTell { cannot_tell } => self.unknown(label, cannot_tell),
            Told::Known(value) => {
                let (mark, text) = line(value);
                self.line(mark, label, &text);
            }
        }
    }

    /// One line for each of what was found, in columns; `none` where there is nothing.
    fn each<T, const N: usize>(
        &mut self,
        label: &str,
        told: &Told<Vec<T>>,
        none: &str,
        line: impl Fn(&T) -> (Mark, [String; N]),
    ) {
        let values = match told {
            Told::CannotTell { cannot_tell } => return self.unknown(label, cannot_tell),
            Told::Known(values) if values.is_empty() => return self.line(Mark::Fine, label, none),
            Told::Known(values) => values,
        };
        let rows: Vec<_> = values.iter().map(line).collect();
        let mut widths = [0; N];
        for (_, cells) in &rows {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = cell.chars().count().max(*width);
            }
        }
        for (index, (mark, cells)) in rows.into_iter().enumerate() {
            let padded = cells.iter().zip(widths);
            let text: Vec<String> = padded
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            let label = if index == 0 { label } else { "" };
            self.line(mark, label, text.join("  ").trim_end());
        }
    }

    fn machine(&mut self, machine: &Machine) {
        self.heading("this machine");
        self.told("host name", &machine.hostname, |name| {
            (Mark::Fine, name.clone())
        });
        let node = machine.node.clone().unwrap_or_else(|| {
            let hostname = machine.hostname.known().map_or("", String::as_str);
            format!("not known; by its host name {}", hostname.to_lowercase())
        });
        self.line(Mark::Fine, "node", &node);
        let address = machine.address.as_deref().unwrap_or("not known");
        self.line(Mark::Fine, "address", address);
        self.told("runtime", &machine.runtime, |runtime| match runtime {
            None => (Mark::Fine, "none".to_owned()),
            Some(runtime) => {
                let version = runtime.version.as_deref();
                let mut text = format!(
                    "{} {}",
                    runtime.name,
                    version.unwrap_or("is installed and does not answer")
                );
                if let Some(driver) = &runtime.cgroup_driver {
                    text = format!("{text}, cgroup driver {driver}");
                }
                (Mark::look_if(version.is_none()), text)
            }
        });
        for (name, version) in &machine.versions {
            self.told(name, version, |version| {
                let text = version.as_deref().unwrap_or("not installed");
                (Mark::Fine, text.to_owned())
            });
        }
        let is_node = machine.node.is_some()
            || machine
                .manifests
                .known()
                .is_some_and(|manifests| !manifests.present.is_empty());
        self.told("kubelet unit", &machine.kubelet, |unit| {
            if unit.load == "not-found" {
                return (Mark::look_if(is_node), "not installed".to_owned());
            }
            let runs = unit.active == "active";
            let text = [&unit.active, &unit.enabled].map(String::as_str).join(", ");
            (Mark::look_if(is_node && !runs), text)
        });
        self.told(
            "apiserver",
            &machine.apiserver,
            |apiserver| match apiserver {
                None => (Mark::Fine, "none".to_owned()),
                Some(apiserver) if apiserver.answers => {
                    (Mark::Fine, format!("{} answers", apiserver.server))
                }
                Some(apiserver) => {
                    let evidence = apiserver.evidence.as_deref().unwrap_or_default();
                    let text = format!("{} DOES NOT ANSWER: {evidence}", apiserver.server);
                    (Mark::Look, text)
                }
            },
        );
        self.told("manifests", &machine.manifests, |manifests| {
            let names = |files: &[String]| {
                let plain = |file: &String| file.trim_end_matches(".yaml").to_owned();
                files.iter().map(plain).collect::<Vec<_>>().join(", ")
            };
            let mut text = names(&manifests.present);
            if text.is_empty() {
                "none".clone_into(&mut text);
            }
            if !manifests.missing.is_empty() {
                text = format!("{text}; MISSING: {}", names(&manifests.missing));
            }
            (Mark::look_if(!manifests.missing.is_empty()), text)
        });
        self.certificates(&machine.certificates);
        match &machine.journal {
            Told::CannotTell { cannot_tell } => self.unknown("journal", cannot_tell),
            Told::Known(history) => self.history(history),
        }
        self.told("backups", &machine.backups, |runs| {
            let text = match runs.len() {
                0 => "none".to_owned(),
                count => format!("of {count} runs, below /var/lib/kpot/backup"),
            };
            (Mark::Fine, text)
        });
    }

    fn certificates(&mut self, certificates: &Told<Vec<Certificate>>) {
        self.each("certificates", certificates, "none", |one| {
            let (mark, text) = match &one.standing {
                Standing::Good(end) => (Mark::Fine, format!("{} days left", end.days_left)),
                Standing::EndsSoon(end) => {
                    (Mark::Look, format!("ONLY {} days left", end.days_left))
                }
                Standing::Expired(end) => (Mark::Look, format!("EXPIRED at {}", end.ends)),
                Standing::Missing => (Mark::Look, "MISSING".to_owned()),
                Standing::Unreadable { cannot_tell } => {
                    (Mark::Look, format!("cannot tell: {cannot_tell}"))
                }
            };
            (mark, [one.path.clone(), text])
        });
    }

    fn history(&mut self, history: &History) {
        let Some(last) = &history.last_run else {
            return self.line(Mark::Fine, "last run", "none");
        };
        let outcome = last
            .outcome
            .as_deref()
            .unwrap_or("cut off, or still at work");
        self.line(
            Mark::look_if(last.outcome.as_deref() != Some("done")),
            "last run",
            &format!("{}: {outcome}, {}", last.workflow, last.at),
        );
        if let Some(Place { node, address }) = &history.interrupted_join {
            self.line(
                Mark::Look,
                "join",
                &format!(
                    "that of {node} at {address} came to no end: run the same command again, or kpot-install rollback"
                ),
            );
        }
        let changes = match history.changes_to_undo {
            0 => "nothing to undo".to_owned(),
            count => format!("would undo {count} changes"),
        };
        let member = history.member.as_ref().map_or_else(String::new, |member| {
            format!(
                "; etcd may list {} at {}, so reset comes first",
                member.node, member.address
            )
        });
        self.line(Mark::Fine, "rollback", &format!("{changes}{member}"));
    }

    fn cluster(&mut self, cluster: &Cluster) {
        self.heading(&format!("the cluster, asked through {}", cluster.asked));
        let fine = |text: &String| (Mark::Fine, text.clone());
        self.told("version", &cluster.version, fine);
        if cluster.version.known().is_none() {
            // What hangs on the apiserver would only say the same again.
            self.line(
                Mark::Look,
                "",
                "Ask through another master: kpot-install status --healthy ADDRESS",
            );
            return self.etcd(&cluster.etcd);
        }
        self.told("endpoint", &cluster.endpoint, fine);
        self.each("masters", &cluster.masters, "none", master);
        self.etcd(&cluster.etcd);
        self.told("lock", &cluster.lock, |lock| match lock {
            lease::Standing::Free => (Mark::Fine, "free".to_owned()),
            lease::Standing::Held {
                holder,
                seconds_left,
            } => (
                Mark::Look,
                format!("held by {holder}, expires in {seconds_left} s unless renewed"),
            ),
            lease::Standing::Expired { holder } => (
                Mark::Look,
                format!("left by {holder}, expired: that run was cut off"),
            ),
        });
        self.each("changes", &cluster.unfinished, "none is unfinished", |of| {
            let Named { name, address } = of;
            let text = format!("a change of {name} at {address} is unfinished");
            (Mark::Look, [text])
        });
        let none = "names no master that is no node";
        self.each("kubeadm", &cluster.without_node, none, |of| {
            let Named { name, address } = of;
            let text = format!("ClusterStatus names {name} at {address}, which is no node");
            (Mark::Look, [text])
        });
        self.each("join secrets", &cluster.join_secrets, "none", |secret| {
            let cells = [
                format!("kube-system/{}", secret.name),
                format!("of {}", secret.made),
                secret.purpose.clone(),
            ];
            (Mark::Look, cells)
        });
    }

    fn etcd(&mut self, etcd: &Told<EtcdStanding>) {
        match etcd {
            Told::CannotTell { cannot_tell } => self.unknown("etcd", cannot_tell),
            Told::Known(EtcdStanding::External) => {
                self.line(Mark::Fine, "etcd", "external: kubeadm does not run it");
            }
            Told::Known(EtcdStanding::Stacked {
                members,
                quorum,
                alarms,
                database,
            }) => {
                self.each("etcd", members, "no members", member);
                if let Some(quorum) = quorum {
                    let mark = Mark::look_if(!quorum.votes.are_enough());
                    self.line(mark, "quorum", &quorum.votes.to_string());
                }
                self.each("alarms", alarms, "none", |alarm| {
                    (Mark::Look, [alarm.clone()])
                });
                self.told("database", database, |database| {
                    // To a tenth of a MiB, in whole numbers.
                    let tenths = (database.bytes * 10) >> 20;
                    (
                        Mark::Fine,
                        format!(
                            "{}.{} MiB at revision {}, etcd {}",
                            tenths / 10,
                            tenths % 10,
                            database.revision,
                            database.version
                        ),
                    )
                });
            }
        }
    }
}

fn master(master: &Master) -> (Mark, [String; 4]) {
    let ready = if master.ready { "Ready" } else { "NOT READY" };
    let cells = [
        &master.name,
        master.address.as_deref().unwrap_or("no address"),
        ready,
        &master.kubelet,
    ];
    (Mark::look_if(!master.ready), cells.map(str::to_owned))
}

fn member(member: &MemberRow) -> (Mark, [String; 5]) {
    let name = if member.name.is_empty() {
        "(never started)"
    } else {
        &member.name
    };
    let role = match member.role {
        Role::Voter if member.leads => "voter, leads",
        Role::Voter => "voter",
        Role::Learner => "learner, no vote yet",
        Role::Unstarted => "counts as a voter",
    };
    let answers = if member.answers {
        "answers"
    } else {
        "DOES NOT ANSWER"
    };
    let cells = [
        name,
        &member.id,
        member.address.as_deref().unwrap_or("no address"),
        role,
        answers,
    ];
    (
        Mark::look_if(!member.answers || member.role != Role::Voter),
        cells.map(str::to_owned),
    )
}
