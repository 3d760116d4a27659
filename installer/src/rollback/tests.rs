//! A machine is prepared and joined by the real steps, below a temporary folder, and must be the same afterwards.

#![allow(
    clippy::disallowed_methods,
    reason = "tests make and compare the files of the machine that they look at"
)]

mod programs;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use bundle_spec::KubeVersion;
use tempfile::TempDir;

use self::programs::{Docker, answer, runs};
use super::*;
use crate::console::Format;
use crate::facts::docker::CgroupDriver;
use crate::host::scripted::Scripted;
use crate::journal::{Before, Entry};
use crate::steps::ImageWanted;
use crate::steps::testing::{Machine, Pot, Units, systemd, units};
use crate::{exit, joining, plans};

/// A machine with a systemd, a Docker and a kernel that remember.
struct Lab {
    machine: Arc<Machine>,
    state: TempDir,
    units: Units,
    docker: Arc<Mutex<Docker>>,
}

impl Lab {
    /// A machine with swap from fstab and from zram, a name in /etc/hosts, and somebody's own file where kubeadm writes.
    fn new() -> Self {
        let machine = Arc::new(Machine::new());
        machine
            .file("/proc/modules", "nf_tables 1 0 - Live 0x0\n")
            .file("/proc/sys/kernel/osrelease", "5.10.0\n")
            .file("/proc/sys/net/bridge/bridge-nf-call-iptables", "0\n")
            .file("/proc/sys/net/ipv4/ip_forward", "0\n")
            .file("/proc/sys/vm/swappiness", "9\n")
            .file("/proc/sys/vm/overcommit_memory", "0\n")
            .file(
                "/proc/swaps",
                "Filename Type Size Used Priority\n/swapfile file 1 0 -2\n",
            )
            .file("/proc/self/mounts", "/dev/vda / ext4 rw 0 0\n")
            .file_with_mode("/swapfile", "swap", 0o600)
            .file_with_mode("/etc/fstab", "/swapfile none swap sw 0 0\n", 0o664)
            .file("/etc/hosts", "127.0.0.1 localhost\n")
            .file("/etc/kubernetes/audit/policy.yaml", "mine")
            .file("/sys/class/net/eth0/mtu", "1500\n")
            .program("modprobe")
            .file("/var/lib/empty/x", "");
        Self {
            machine,
            state: tempfile::tempdir().unwrap(),
            units: units(&[("zramswap.service", "active", "enabled")]),
            docker: Arc::default(),
        }
    }

    fn host(&self) -> HostView {
        let (machine, docker, units) = (
            self.machine.clone(),
            self.docker.clone(),
            self.units.clone(),
        );
        let script = Scripted::new().with(move |cmd, _| {
            let runs = |name: &str| runs(&units, name);
            answer(&machine, &mut docker.lock().unwrap(), &runs, cmd)
        });
        self.machine.view(systemd(script, &self.units))
    }

    /// Everything that a rollback brings back.
    fn picture(&self) -> BTreeMap<String, String> {
        let root = self.machine.place("/");
        let mut picture = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                let content = if path.is_dir() {
                    folders.push(path.clone());
                    String::new()
                } else {
                    String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
                };
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                picture.insert(name, format!("{mode:o} {content}"));
            }
        }
        for (name, (active, enabled)) in &*self.units.lock().unwrap() {
            if (active.as_str(), enabled.as_str()) != ("inactive", "disabled") {
                picture.insert(name.clone(), format!("{active} {enabled}"));
            }
        }
        let docker = self.docker.lock().unwrap();
        picture.insert(
            "images".to_owned(),
            format!("{:?} {:?}", docker.images, docker.containers),
        );
        picture
    }

    fn journal(&self, workflow: &str) -> Journal {
        let journal = Journal::new(self.state.path());
        journal
            .record(Event::Begin {
                workflow: workflow.to_owned(),
                pot: "x".to_owned(),
                program: "0".to_owned(),
            })
            .unwrap();
        journal
    }

    /// `init-env`, by its own steps.
    fn prepare(&self) {
        self.prepare_with(Pot::default().artifact("docker", &["docker", "dockerd"]));
    }

    /// The same with this runtime.
    fn prepare_with(&self, runtime: Pot) {
        let pot = runtime
            .artifact("cni-plugins", &["bridge"])
            .artifact("kubeadm", &["kubeadm"])
            .artifact("kubectl", &["kubectl"])
            .artifact("kubelet", &["kubelet"])
            .image("k8s.gcr.io/pause:3.1", "{}", &[b"layer"])
            .verified();
        let images = pot
            .manifest()
            .images
            .iter()
            .map(|image| ImageWanted {
                id: image.id,
                names: image.names.clone(),
            })
            .collect();
        let steps = plans::environment(&pot, CgroupDriver::Cgroupfs, &[], images).unwrap();
        let journal = self.journal("init-env");
        let host = Host::new(self.host(), &journal);
        let world = World {
            host: &host,
            cluster: None,
        };
        engine::run(&steps, world, &journal, &Console::new(Format::Text)).unwrap();
        journal
            .record(Event::End {
                outcome: "done".to_owned(),
            })
            .unwrap();
    }

    /// What a join does here: announces, writes secrets, runs kubeadm, whose kubelet runs pods.
    fn join(&self) {
        let journal = self.journal("join-master");
        let host = Host::new(self.host(), &journal);
        let change = || Change::Join {
            node: "b1".to_owned(),
            address: "10.0.0.21".to_owned(),
        };
        journal
            .record(Event::Intent {
                step: joining::join::ID.to_owned(),
                change: change(),
            })
            .unwrap();
        host.write_file("/etc/kubernetes/tokens.csv", b"brought", 0o600)
            .unwrap();
        journal
            .record(Event::Step {
                step: joining::join::ID.to_owned(),
            })
            .unwrap();
        host.write_secret("/etc/kubernetes/pki/ca.key", b"secret", 0o600)
            .unwrap();
        footprint::announce(&host, &footprint::MASTER, &["/var/lib/etcd", "/data/etcd"]).unwrap();
        footprint::announce_unit(&host, "kubelet.service").unwrap();
        host.note(change()).unwrap();
        self.machine
            .file("/etc/kubernetes/admin.conf", "x")
            .file("/etc/kubernetes/manifests/etcd.yaml", "x")
            .file("/etc/kubernetes/pki/apiserver.key", "x")
            .file("/etc/cni/net.d/10-flannel.conflist", "x")
            .file("/opt/cni/bin/flannel", "x")
            .file("/usr/libexec/kubernetes/kubelet-plugins/x", "x")
            .file("/var/lib/kubelet/config.yaml", "x")
            .file("/var/lib/kubelet/pods/1/volumes/token/t", "x")
            .file("/var/lib/etcd/member/snap/db", "x")
            .file("/data/etcd/member/snap/db", "x")
            .file("/etc/ssl/certs/x", "")
            .file("/sys/class/net/cni0/mtu", "1450\n")
            .file("/proc/sys/vm/overcommit_memory", "1\n")
            .file(
                "/proc/self/mounts",
                "/dev/vda / ext4 rw 0 0\ntmpfs /var/lib/kubelet/pods/1/volumes/token tmpfs rw 0 0\n",
            );
        fs::remove_file(self.machine.place("/etc/ssl/certs/x")).unwrap();
        self.docker.lock().unwrap().containers = vec!["c1".to_owned(), "c2".to_owned()];
        self.units.lock().unwrap().insert(
            "kubelet.service".to_owned(),
            ("active".to_owned(), "enabled".to_owned()),
        );
        journal
            .record(Event::Done {
                step: joining::join::ID.to_owned(),
            })
            .unwrap();
    }

    fn leave(&self) {
        self.journal("reset")
            .intent(Change::LeftCluster {
                node: "b1".to_owned(),
                address: "10.0.0.21".to_owned(),
            })
            .unwrap();
    }

    fn read(&self) -> Vec<Entry> {
        Journal::read(self.state.path()).unwrap()
    }

    fn rollback(&self, member: MemberWord) -> Result<()> {
        Rollback {
            host: self.host(),
            state: self.state.path().to_owned(),
            console: &Console::new(Format::Text),
            dry_run: false,
            yes: true,
            member,
        }
        .attempt(Stop::default())
    }

    /// A rollback that is killed after `steps` of its steps; says whether there were more.
    fn killed_rollback(&self, steps: usize) -> bool {
        let undoing = Undoing::of(&Owed::of(&self.read()), self.state.path());
        let more = undoing.steps.len() > steps;
        let journal = self.journal(WORKFLOW);
        let host = Host::new(self.host(), &journal);
        let cut = Undoing {
            steps: undoing.steps.into_iter().take(steps).collect(),
            changes: undoing.changes,
        };
        cut.run(&host, &journal, &Console::new(Format::Text))
            .unwrap();
        more
    }
}

/// The module that cannot be unloaded on this machine is all that a reboot has to settle; images go with Docker.
fn settled(mut picture: BTreeMap<String, String>) -> BTreeMap<String, String> {
    picture.remove("proc/modules");
    picture.remove("images");
    picture
}

#[test]
fn a_prepared_and_joined_machine_is_as_before() {
    let lab = Lab::new();
    let before = settled(lab.picture());
    lab.prepare();
    lab.join();
    lab.leave();
    lab.rollback(MemberWord::AsJournaled).unwrap();
    assert_eq!(settled(lab.picture()), before);
    assert!(lab.docker.lock().unwrap().containers.is_empty());
    assert_eq!(
        lab.machine.text("/proc/modules").unwrap(),
        "nf_tables 1 0 - Live 0x0\nip_vs 1 0\n",
        "a module that is in use stays, and is no failure"
    );
}

#[test]
fn a_machine_with_containerd_is_as_before_too() {
    let lab = Lab::new();
    let before = settled(lab.picture());
    lab.prepare_with(Pot::of(KubeVersion::new(1, 34, 4)).containerd("2.1.4"));
    let config = lab.machine.text("/etc/containerd/config.toml").unwrap();
    assert!(config.contains("sandbox = \"k8s.gcr.io/pause:3.1\""));
    assert!(lab.machine.text("/etc/crictl.yaml").is_some());
    lab.join();
    lab.leave();
    lab.rollback(MemberWord::AsJournaled).unwrap();
    assert_eq!(settled(lab.picture()), before);
    assert!(lab.docker.lock().unwrap().containers.is_empty());
}

#[test]
fn a_rollback_that_was_killed_after_any_step_is_finished_by_the_next_one() {
    let mut steps = 0;
    loop {
        let lab = Lab::new();
        let before = settled(lab.picture());
        lab.prepare();
        lab.join();
        lab.leave();
        let more = lab.killed_rollback(steps);
        lab.rollback(MemberWord::AsJournaled).unwrap();
        assert_eq!(settled(lab.picture()), before, "killed after {steps} steps");
        if !more {
            break;
        }
        steps += 1;
    }
    assert!(steps > 40, "{steps}");
}

#[test]
fn a_journal_that_lags_behind_the_machine_at_any_line_does_no_harm() {
    let lab = Lab::new();
    let before = settled(lab.picture());
    lab.prepare();
    lab.join();
    lab.leave();
    let start = lab.read().len();
    lab.rollback(MemberWord::AsJournaled).unwrap();
    let path = lab.state.path().join("journal.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    for cut in start..lines.len() {
        fs::write(&path, lines[..cut].join("\n")).unwrap();
        lab.rollback(MemberWord::AsJournaled).unwrap();
        assert_eq!(settled(lab.picture()), before, "cut before line {cut}");
    }
}

#[test]
fn a_second_rollback_has_nothing_to_do_and_writes_nothing() {
    let lab = Lab::new();
    lab.prepare();
    lab.rollback(MemberWord::AsJournaled).unwrap();
    let lines = lab.read();
    assert!(Owed::of(&lines).is_empty());
    lab.rollback(MemberWord::AsJournaled).unwrap();
    assert_eq!(lab.read(), lines);
}

#[test]
fn a_later_run_is_undone_by_a_later_rollback_to_what_was_between() {
    let lab = Lab::new();
    lab.prepare();
    lab.rollback(MemberWord::AsJournaled).unwrap();
    lab.machine.file("/etc/hosts", "10.0.0.1 new\n");
    let between = settled(lab.picture());
    let journal = lab.journal("join-master");
    let host = Host::new(lab.host(), &journal);
    host.write_file(
        "/etc/hosts",
        b"10.0.0.1 new\n10.0.0.3 api.tke.com # kpot\n",
        0o644,
    )
    .unwrap();
    lab.prepare();
    lab.rollback(MemberWord::AsJournaled).unwrap();
    assert_eq!(settled(lab.picture()), between);
}

#[test]
fn a_dry_run_changes_nothing_and_writes_nothing() {
    let lab = Lab::new();
    lab.prepare();
    let (picture, journal) = (lab.picture(), lab.read());
    Rollback {
        host: lab.host(),
        state: lab.state.path().to_owned(),
        console: &Console::new(Format::Text),
        dry_run: true,
        yes: true,
        member: MemberWord::AsJournaled,
    }
    .attempt(Stop::default())
    .unwrap();
    assert_eq!((lab.picture(), lab.read()), (picture, journal));
}

#[test]
fn a_member_that_may_be_listed_is_refused_unless_the_operator_says_that_it_is_gone() {
    let lab = Lab::new();
    lab.prepare();
    lab.join();
    let (picture, journal) = (lab.picture(), lab.read());
    let error = lab.rollback(MemberWord::AsJournaled).unwrap_err();
    assert_eq!(exit::status(&error), 3);
    assert!(
        error
            .to_string()
            .contains("./kpot-install reset --healthy ADDRESS\n"),
        "{error}"
    );
    assert_eq!((lab.picture(), lab.read()), (picture, journal));
    lab.rollback(MemberWord::SaidToBeGone).unwrap();
    assert!(Owed::of(&lab.read()).is_empty());
}

#[test]
fn an_adopted_docker_keeps_its_own_images_and_containers() {
    let lab = Lab::new();
    lab.machine.program("docker").program("dockerd");
    lab.units.lock().unwrap().insert(
        "docker.service".to_owned(),
        ("active".to_owned(), "enabled".to_owned()),
    );
    let id = bundle_spec::Sha256::of(b"{}").to_string();
    lab.docker.lock().unwrap().images = [("mine:1".to_owned(), id)].into();
    let before = lab.picture();
    let journal = lab.journal("init-env");
    journal
        .intent(Change::Image {
            name: "k8s.gcr.io/pause:3.1".to_owned(),
            id: bundle_spec::Sha256::of(b"{}").to_string(),
        })
        .unwrap();
    let id = bundle_spec::Sha256::of(b"{}").to_string();
    lab.docker
        .lock()
        .unwrap()
        .images
        .insert("k8s.gcr.io/pause:3.1".to_owned(), id);
    lab.rollback(MemberWord::AsJournaled).unwrap();
    assert_eq!(lab.picture(), before);
}

#[test]
fn nothing_is_removed_below_what_stays_mounted() {
    let lab = Lab::new();
    let journal = lab.journal("join-master");
    journal
        .intent(Change::Tree {
            path: "/var/lib/kubelet".to_owned(),
            before: None,
        })
        .unwrap();
    lab.machine
        .file("/var/lib/kubelet/pods/1/data/precious", "x")
        .file(
            "/proc/self/mounts",
            "/dev/vda / ext4 rw 0 0\n/dev/vdb /var/lib/kubelet/pods/1/data ext4 rw 0 0\n",
        );
    let machine = lab.machine.clone();
    let script = Scripted::new().on("umount", 32, "target is busy");
    let error = Rollback {
        host: machine.view(script),
        state: lab.state.path().to_owned(),
        console: &Console::new(Format::Text),
        dry_run: false,
        yes: true,
        member: MemberWord::AsJournaled,
    }
    .attempt(Stop::default())
    .unwrap_err();
    assert!(format!("{error:#}").contains("target is busy"), "{error:#}");
    assert!(
        machine
            .text("/var/lib/kubelet/pods/1/data/precious")
            .is_some()
    );
}

#[test]
fn a_former_file_whose_copy_is_gone_is_a_conflict_with_its_remedy() {
    let lab = Lab::new();
    lab.journal("init-env")
        .intent(Change::File {
            path: "/etc/hosts".to_owned(),
            before: Before::File {
                saved: "backup/1/0000-hosts".to_owned(),
                mode: 0o644,
                uid: 0,
                gid: 0,
            },
        })
        .unwrap();
    let error = lab.rollback(MemberWord::AsJournaled).unwrap_err();
    assert_eq!(exit::status(&error), 3);
    assert!(error.to_string().contains("0000-hosts"), "{error}");
}

#[test]
fn a_journal_of_the_first_programs_is_undone_by_what_they_demanded() {
    let lab = Lab::new();
    let before = settled(lab.picture());
    lab.prepare();
    lab.join();
    let path = lab.state.path().join("journal.jsonl");
    let old: String = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .filter(|line| {
            !line.contains(r#""kind":"tree""#) && !line.contains(r#""kind":"interface""#)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(&path, old).unwrap();
    lab.leave();
    lab.rollback(MemberWord::AsJournaled).unwrap();
    let after = settled(lab.picture());
    let left: Vec<&String> = after
        .keys()
        .filter(|key| !before.contains_key(*key))
        .collect();
    assert!(
        left.iter()
            .all(|path| ["data", "opt", "usr/libexec", "var/lib/etcd"]
                .iter()
                .any(|root| path.starts_with(root))),
        "{left:?}"
    );
    assert!(before.keys().all(|key| after.contains_key(key)));
}

#[test]
fn what_is_left_alone_stands_in_the_runbook() {
    let page = include_str!("../../../docs/operations.md");
    for (path, why) in LEFT_ALONE {
        assert!(page.contains(&format!("| `{path}` | {why} |")), "{path}");
    }
}

#[test]
fn a_secret_is_never_written_over_another_file() {
    let lab = Lab::new();
    let journal = lab.journal("join-master");
    let host = Host::new(lab.host(), &journal);
    let path = "/etc/etcd/client.key";
    lab.machine.file(path, "theirs");
    let before = lab.read();
    assert!(host.write_secret(path, b"ours", 0o600).is_err());
    host.write_secret(path, b"theirs", 0o600).unwrap();
    assert_eq!(lab.read(), before, "nothing to undo");
    assert_eq!(lab.machine.text(path).unwrap(), "theirs");
}

#[test]
fn modes_and_half_written_files_are_put_right_too() {
    let lab = Lab::new();
    let before = lab.picture();
    let journal = lab.journal("init-env");
    let host = Host::new(lab.host(), &journal);
    host.write_file("/etc/fstab", b"/swapfile none swap sw 0 0\n", 0o600)
        .unwrap();
    host.write_file("/etc/new.conf", b"x", 0o644).unwrap();
    lab.machine.file("/etc/.new.conf.kpot-new", "half");
    lab.rollback(MemberWord::AsJournaled).unwrap();
    assert_eq!(lab.picture(), before);
}
