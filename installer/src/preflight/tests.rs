//! Every row on a machine that is right, and on one that is wrong in one thing.

mod disks;
mod kernels;

use std::collections::BTreeSet;

use bundle_spec::manifest::RuntimeName;

use super::disk::Threshold;
use super::kernel::{Ignored, ignored_check, kubeadm_knows, system_verification_proved};
use super::*;
use crate::facts::modules::Standing as Module;
use crate::facts::{
    CgroupVersion, Cgroups, Disks, Functions, Init, Interface, Kernel, NetworkFile, TOOLS, User,
};
use crate::host::Space;

const GB: u64 = 1_000_000_000;

const V1_14: KubeVersion = KubeVersion::new(1, 14, 0);

fn space(total: u64, available: u64, device: u64) -> Space {
    Space {
        total,
        available,
        device,
        read_only: false,
    }
}

fn set<'t>(names: &[&'t str]) -> BTreeSet<&'t str> {
    names.iter().copied().collect()
}

fn owned(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A machine that can become a master.
pub(crate) fn good() -> Facts {
    let disk = space(100 * GB, 80 * GB, 1);
    Facts {
        hostname: "b1".to_owned(),
        machine_id: String::new(),
        machine: "x86_64".to_owned(),
        user: User::Root,
        init: Init::Systemd,
        kernel: Kernel {
            release: "5.10.0-8-amd64".to_owned(),
            options: Some(owned(&[
                "NAMESPACES",
                "NET_NS",
                "PID_NS",
                "IPC_NS",
                "UTS_NS",
                "CGROUPS",
                "CGROUP_CPUACCT",
                "CGROUP_DEVICE",
                "CGROUP_FREEZER",
                "CGROUP_SCHED",
                "CGROUP_BPF",
                "CGROUP_PIDS",
                "FAIR_GROUP_SCHED",
                "CPUSETS",
                "MEMCG",
                "INET",
                "EXT4_FS",
                "PROC_FS",
                "IP_NF_TARGET_REDIRECT",
                "NETFILTER_XT_MATCH_COMMENT",
            ])),
            functions: Functions {
                namespaces: owned(&["ipc", "mnt", "net", "pid", "user", "uts"]),
                modules: set(&["overlay", "xt_REDIRECT", "xt_comment"]),
            },
        },
        cgroups: Cgroups {
            version: CgroupVersion::V1,
            controllers: owned(&[
                "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids",
            ]),
        },
        cpus: 2,
        memory: 2 << 30,
        swap: vec!["/dev/sda2".to_owned()],
        interfaces: vec![Interface {
            name: "eth0".to_owned(),
            address: "10.0.0.9".parse().unwrap(),
        }],
        source_address: None,
        ports: BTreeSet::from([22]),
        tools: TOOLS.into_iter().collect(),
        leftovers: Vec::new(),
        networks: Vec::new(),
        modules: [("br_netfilter", Module::Loadable)].into(),
        running: None,
        glibc: Some((2, 36)),
        firewall: None,
        image_names: Vec::new(),
        disks: Disks {
            programs: disk,
            local_programs: disk,
            plugins: disk,
            images: disk,
            kubelet: disk,
            etcd: disk,
            state: disk,
        },
    }
}

fn runtime(name: RuntimeName, version: &str) -> Runtime {
    Runtime {
        name,
        version: version.to_owned(),
    }
}

fn needs() -> Needs {
    Needs {
        purpose: Purpose::Master,
        standing: Standing::Bare,
        network: Network::Pods,
        kubernetes: V1_14,
        runtime: runtime(RuntimeName::Docker, "18.09.9"),
        fail_cgroup_v1: None,
        arch: Arch::Amd64,
        node_name: "b1.example.com".to_owned(),
        api_port: 6443,
        etcd: EtcdPlace::Here,
        to_write: ToWrite {
            programs: GB / 4,
            plugins: GB / 20,
            images: GB,
            etcd: GB / 10,
            ..ToWrite::default()
        },
        thresholds: KubeletThresholds::default(),
    }
}

/// The rows that refuse.
fn refused(facts: &Facts, needs: &Needs) -> Vec<&'static str> {
    run(facts, needs)
        .refusals()
        .map(|finding| finding.check)
        .collect()
}

fn with(change: impl FnOnce(&mut Facts, &mut Needs)) -> Vec<&'static str> {
    let (mut facts, mut needs) = (good(), needs());
    change(&mut facts, &mut needs);
    if needs.kubernetes.minor >= 24 {
        needs.runtime = runtime(RuntimeName::Containerd, "2.1.4");
    }
    refused(&facts, &needs)
}

#[test]
fn a_good_machine_passes_every_row() {
    let report = run(&good(), &needs());
    assert!(report.is_good());
    assert_eq!(report.warnings().count(), 0);
    assert_eq!(report.findings.len(), ROWS.len());
    let names: BTreeSet<&str> = ROWS.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), ROWS.len(), "names are unique");
}

#[test]
fn each_thing_that_is_wrong_is_refused_by_its_row_alone() {
    assert_eq!(with(|facts, _| facts.user = User::Other), ["root"]);
    assert_eq!(
        with(|facts, _| facts.machine = "aarch64".to_owned()),
        ["architecture"]
    );
    assert_eq!(with(|facts, _| facts.init = Init::Other), ["systemd"]);
    assert_eq!(
        with(|facts, _| facts.kernel.release = "2.6.32-71.el6".to_owned()),
        ["kernel"]
    );
    assert_eq!(with(|facts, _| facts.cpus = 1), ["cpus"]);
    assert_eq!(
        with(|_, needs| needs.node_name = "B1_master".to_owned()),
        ["node-name"]
    );
    assert_eq!(
        with(|_, needs| needs.node_name = String::new()),
        ["node-name"]
    );
    for name in ["localhost", "localhost.localdomain"] {
        assert_eq!(
            with(|_, needs| needs.node_name = name.to_owned()),
            ["node-name"]
        );
    }
    assert_eq!(
        with(|facts, _| facts.leftovers = vec!["/etc/kubernetes/admin.conf".to_owned()]),
        ["leftovers"]
    );
    assert_eq!(
        with(|facts, _| facts.ports.extend([2379, 10251])),
        ["ports"]
    );
    assert_eq!(
        with(|facts, _| facts.modules = [("br_netfilter", Module::Missing)].into()),
        ["netfilter"]
    );
}

#[test]
fn everything_that_is_wrong_is_listed_at_once_with_remedies() {
    let (mut facts, needs) = (good(), needs());
    facts.user = User::Other;
    facts.cpus = 1;
    facts.tools.remove("iptables");
    let report = run(&facts, &needs);
    assert_eq!(refused(&facts, &needs), ["root", "tools", "cpus"]);
    assert!(
        report
            .refusals()
            .all(|finding| !finding.reason.is_empty() && !finding.remedy.is_empty())
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json[0]["outcome"], "refused");
    assert_eq!(json[1].get("reason"), None);
}

#[test]
fn our_own_master_and_our_own_interrupted_join_are_no_leftovers() {
    for standing in [Standing::Joined, Standing::Interrupted] {
        let found = with(|facts, needs| {
            facts.leftovers = vec!["/etc/kubernetes/admin.conf".to_owned()];
            facts.ports.extend([6443, 2379, 10250]);
            needs.standing = standing;
        });
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn tools_are_those_that_kubeadm_of_the_version_demands() {
    let without = |tool: &'static str, minor: u16| {
        with(|facts, needs| {
            facts.tools.remove(tool);
            needs.kubernetes = KubeVersion::new(1, minor, 0);
        })
    };
    for (tool, minor, refused) in [
        ("conntrack", 14, false),
        ("conntrack", 17, false),
        ("conntrack", 18, true),
        ("conntrack", 31, true),
        ("conntrack", 32, false),
        ("socat", 14, false),
        ("ebtables", 20, false),
        ("nsenter", 14, true),
        ("ip", 34, true),
    ] {
        assert_eq!(
            !without(tool, minor).is_empty(),
            refused,
            "{tool} 1.{minor}"
        );
    }
    let mut facts = good();
    facts
        .tools
        .retain(|tool| !["conntrack", "socat", "ebtables"].contains(tool));
    let report = run(&facts, &needs());
    let warning = report.warnings().next().unwrap();
    assert!(
        warning
            .reason
            .starts_with("not installed: ebtables, socat, conntrack"),
        "{}",
        warning.reason
    );
}

#[test]
fn the_pot_s_runtime_must_be_one_that_the_kubelet_speaks_with() {
    let refusal = |minor: u16, name: RuntimeName, version: &str| {
        let mut needs = needs();
        needs.kubernetes = KubeVersion::new(1, minor, 0);
        needs.runtime = runtime(name, version);
        let report = run(&good(), &needs);
        let mut refusals = report.refusals();
        refusals
            .find(|finding| finding.check == "runtime")
            .map(|finding| finding.remedy.clone())
    };
    assert_eq!(refusal(23, RuntimeName::Docker, "20.10.24"), None);
    assert_eq!(
        refusal(24, RuntimeName::Docker, "20.10.24").unwrap(),
        "build another pot on the connected side: kpot build --k8s v1.24.0"
    );
    assert_eq!(refusal(34, RuntimeName::Containerd, "2.1.4"), None);
    assert!(refusal(26, RuntimeName::Containerd, "1.5.18").is_some());
    assert!(
        refusal(22, RuntimeName::Containerd, "2.1.4")
            .unwrap()
            .ends_with("--containerd-version, with one from 1.3 on and before 2.0")
    );
}

#[test]
fn a_runtime_of_the_pot_that_would_not_start_here_is_refused() {
    let refusal = |change: &dyn Fn(&mut Facts, &mut Needs)| {
        let (mut facts, mut needs) = (good(), needs());
        change(&mut facts, &mut needs);
        let report = run(&facts, &needs);
        let told = report.refusals().next();
        told.map(|finding| format!("{}: {}. {}", finding.check, finding.reason, finding.remedy))
    };
    let unified = |minor: u16, name: RuntimeName, version: &str, running: Option<&str>| {
        refusal(&|facts, needs| {
            facts.cgroups.version = CgroupVersion::V2;
            facts.running = running.map(str::to_owned);
            needs.kubernetes = KubeVersion::new(1, minor, 0);
            needs.runtime = runtime(name, version);
        })
    };
    let (docker, containerd) = (RuntimeName::Docker, RuntimeName::Containerd);
    let told = unified(19, docker, "19.03.15", None).unwrap();
    assert!(
        told.starts_with("cgroups: Docker 19.03.15, which is in the pot, runs no containers")
            && told.contains("kpot build --k8s v1.19.0 --docker-version 20.10.23; or boot with"),
        "{told}"
    );
    assert_eq!(unified(19, docker, "20.10.23", None), None);
    assert_eq!(
        unified(19, docker, "19.03.15", Some("20.10.24+dfsg1")),
        None
    );
    assert!(unified(19, containerd, "1.3.10", None).is_some());
    assert_eq!(unified(19, containerd, "1.4.0", None), None);
    let linked = |version: &str, glibc, running: Option<&str>| {
        refusal(&|facts, needs| {
            facts.glibc = glibc;
            facts.running = running.map(str::to_owned);
            needs.kubernetes = KubeVersion::new(1, 34, 4);
            needs.runtime = runtime(containerd, version);
        })
    };
    let told = linked("2.1.6", Some((2, 31)), None).unwrap();
    assert!(
        told.starts_with("runtime: containerd 2.1.6, which is in the pot, does not start with a glibc before 2.34, and this machine has 2.31.")
            && told.ends_with("kpot build --k8s v1.34.4 --runtime containerd --containerd-version, with a 1.7"),
        "{told}"
    );
    assert_eq!(linked("2.1.6", Some((2, 34)), None), None);
    assert_eq!(linked("2.1.6", None, None), None, "nobody knows");
    assert_eq!(linked("1.7.30", Some((2, 17)), None), None);
    assert_eq!(linked("2.1.6", Some((2, 31)), Some("1.6.20~ds1")), None);
}

#[test]
fn a_firewall_that_may_keep_the_masters_apart_is_told_of_with_what_opens_it() {
    use crate::facts::firewall::{Firewall, Kind};
    let told = |kind, open: &[u16], purpose| {
        let (mut facts, mut needs) = (good(), needs());
        let open = open.iter().map(|port| *port..=*port).collect();
        facts.firewall = Some(Firewall { kind, open });
        needs.purpose = purpose;
        let report = run(&facts, &needs);
        assert!(report.is_good());
        let warning = report.warnings().next();
        warning.map(|finding| format!("{} {}", finding.reason, finding.remedy))
    };
    let said = told(Kind::Firewalld, &[10250], Purpose::Master).unwrap();
    assert!(
        said.contains("names the TCP ports 6443, 2379, 2380:")
            && said.contains("firewall-cmd --permanent --add-port=6443/tcp --add-port=2379/tcp --add-port=2380/tcp && firewall-cmd --reload"),
        "{said}"
    );
    let said = told(Kind::Ufw, &[], Purpose::Master).unwrap();
    assert!(
        said.contains("ufw allow proto tcp to any port 6443,2379,2380,10250."),
        "{said}"
    );
    let all = [6443, 2379, 2380, 10250];
    assert_eq!(told(Kind::Ufw, &all, Purpose::Master), None);
    assert_eq!(told(Kind::Ufw, &[], Purpose::Environment), None);
}

#[test]
fn little_memory_is_refused_where_kubeadm_refuses_it() {
    let small = |minor: u16| {
        with(|facts, needs| {
            facts.memory = 1600 << 20;
            needs.kubernetes = KubeVersion::new(1, minor, 0);
        })
    };
    assert!(small(14).is_empty());
    assert_eq!(small(20), ["memory"]);
}

#[test]
fn an_environment_needs_less_than_a_master() {
    let found = with(|facts, needs| {
        needs.purpose = Purpose::Environment;
        facts.cpus = 1;
        facts.ports.insert(6443);
        facts.leftovers = vec!["/var/lib/etcd/".to_owned()];
        facts.networks = vec![network("10-flannel.conflist", None)];
    });
    assert!(found.is_empty(), "{found:?}");
}

fn network(name: &str, package: Option<&str>) -> NetworkFile {
    NetworkFile {
        path: format!("/etc/cni/net.d/{name}"),
        package: package.map(str::to_owned),
    }
}

#[test]
fn a_network_s_file_is_refused_by_name_with_what_is_done_about_it() {
    let refusal = |leftovers: &[&str], people: Network| {
        let (mut facts, mut needs) = (good(), needs());
        facts.leftovers = leftovers.iter().map(|path| (*path).to_owned()).collect();
        facts.networks = vec![
            network("10-own.conf", None),
            network("87-podman-bridge.conflist", Some("podman")),
        ];
        needs.network = people;
        let report = run(&facts, &needs);
        let told = report.refusals().next();
        told.map(|finding| (finding.reason.clone(), finding.remedy.clone()))
    };
    let (reason, remedy) = refusal(&[], Network::Pods).unwrap();
    assert_eq!(
        reason,
        "found: /etc/cni/net.d/10-own.conf, /etc/cni/net.d/87-podman-bridge.conflist"
    );
    assert!(
        remedy.contains("mv /etc/cni/net.d/10-own.conf /root/")
            && remedy.contains("87-podman-bridge.conflist is of package podman: remove that"),
        "{remedy}"
    );
    assert!(!remedy.contains("kubeadm reset"), "{remedy}");
    let (_, remedy) = refusal(&["/etc/kubernetes/admin.conf"], Network::Pods).unwrap();
    assert!(
        remedy.contains("kubeadm reset") && remedy.contains("package podman"),
        "{remedy}"
    );
    assert_eq!(refusal(&[], Network::People), None);
}

#[test]
fn a_machine_without_an_ssh_client_is_told_so() {
    let (mut facts, needs) = (good(), needs());
    facts.tools.remove("ssh");
    let report = run(&facts, &needs);
    assert!(report.is_good());
    let warnings: Vec<&Finding> = report.warnings().collect();
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].check == "ssh" && warnings[0].remedy.contains("openssh-client"),
        "{warnings:?}"
    );
}
