//! Every row on a machine that is right, and on one that is wrong in one thing.

use std::collections::BTreeSet;

use bundle_spec::manifest::RuntimeName;

use super::disk::Threshold;
use super::kernel::{Ignored, ignored_check, kubeadm_knows, system_verification_proved};
use super::*;
use crate::facts::modules::Standing as Module;
use crate::facts::{
    CgroupVersion, Cgroups, Disks, Functions, Init, Interface, Kernel, TOOLS, User,
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
fn kernels_that_kubeadm_does_not_know_are_accepted_where_they_prove_themselves() {
    // As the sources of 1.14.0 have it: not anchored, and up to 5.x.
    for (release, known) in [
        ("3.10.0-1160.el7.x86_64", true),
        ("3.2.0-4-amd64", false),
        ("4.19.0", true),
        ("5.10.0-8-amd64", true),
        ("6.1.0-56-amd64", false),
        ("6.18.44-fc-v657", false),
    ] {
        assert_eq!(kubeadm_knows(V1_14, release), known, "{release}");
    }
    for release in ["4.19.0", "6.18.44-fc-v657"] {
        assert!(kubeadm_knows(KubeVersion::new(1, 17, 0), release));
    }
    for (minor, release, known) in [
        (31, "3.10.0-1160.el7.x86_64", true),
        (32, "4.18.0-553.el8_10.x86_64", false),
        (33, "4.19.0-27-amd64", true),
        // Up to 4.x, wherever that stands in the release.
        (13, "4.19.0", true),
        (13, "5.10.0-8-amd64", false),
        (13, "5.14.0-427.el9.x86_64", true),
        // It only warns.
        (34, "4.18.0-553.el8_10.x86_64", true),
        (36, "5.14.0-427.el9.x86_64", true),
        (36, "6.1.0-56-amd64", true),
    ] {
        let version = KubeVersion::new(1, minor, 0);
        assert_eq!(
            kubeadm_knows(version, release),
            known,
            "{version} {release}"
        );
    }
    let mut facts = good();
    assert!(
        ignored_check(V1_14, &facts, None).is_none(),
        "a known kernel needs no exception"
    );
    facts.kernel.release = "6.1.0-56-amd64".to_owned();
    let unknown = Some(Ignored::UnknownKernel);
    assert_eq!(ignored_check(V1_14, &facts, None), unknown);
    assert!(refused(&facts, &needs()).is_empty());
    assert_eq!(
        ignored_check(KubeVersion::new(1, 20, 2), &facts, None),
        None
    );
    // Without its configuration it must be seen to work.
    facts.kernel.options = None;
    assert_eq!(ignored_check(V1_14, &facts, None), unknown);
    facts.kernel.functions.namespaces.remove("pid");
    facts.kernel.functions.modules.remove("overlay");
    assert_eq!(
        system_verification_proved(V1_14, &facts).unwrap_err(),
        "namespaces of kind pid, the overlay file system"
    );
    assert_eq!(ignored_check(V1_14, &facts, None), None);
    assert_eq!(refused(&facts, &needs()), ["kernel-features"]);
}

#[test]
fn which_options_of_cgroups_are_demanded_depends_on_kubeadm_and_on_the_cgroups() {
    let mut facts = good();
    let options = facts.kernel.options.as_mut().unwrap();
    for gone in ["CPUACCT", "DEVICE", "FREEZER"] {
        options.remove(&format!("CGROUP_{gone}"));
    }
    let mut proved = |minor: u16, cgroups: CgroupVersion| {
        facts.cgroups.version = cgroups;
        facts.cgroups.controllers = owned(&[
            "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids",
        ]);
        system_verification_proved(KubeVersion::new(1, minor, 0), &facts)
    };
    let missing = "CONFIG_CGROUP_CPUACCT, CONFIG_CGROUP_DEVICE, CONFIG_CGROUP_FREEZER";
    assert_eq!(proved(34, CgroupVersion::V2).unwrap_err(), missing);
    assert_eq!(proved(35, CgroupVersion::V1).unwrap_err(), missing);
    proved(35, CgroupVersion::V2).unwrap();
}

#[test]
fn the_check_that_refuses_cgroup_v1_is_ignored_only_where_the_cluster_allows_it() {
    let (v1_34, v1_35) = (KubeVersion::new(1, 34, 0), KubeVersion::new(1, 35, 0));
    let mut facts = good();
    facts.cgroups.version = CgroupVersion::V1;
    assert_eq!(
        ignored_check(v1_35, &facts, Some(false)),
        Some(Ignored::CgroupV1)
    );
    for said in [None, Some(true)] {
        assert_eq!(ignored_check(v1_35, &facts, said), None, "{said:?}");
    }
    assert_eq!(
        ignored_check(v1_34, &facts, Some(false)),
        None,
        "no refusal"
    );
    facts.kernel.functions.modules.remove("overlay");
    assert_eq!(
        ignored_check(v1_35, &facts, Some(false)),
        None,
        "not proved"
    );
    facts = good();
    facts.cgroups.version = CgroupVersion::V2;
    assert_eq!(ignored_check(v1_35, &facts, Some(false)), None);
}

#[test]
fn a_kernel_without_an_option_or_without_a_readable_configuration_is_refused() {
    let lacking = |facts: &mut Facts, _: &mut Needs| {
        facts.kernel.options.as_mut().unwrap().remove("MEMCG");
    };
    assert_eq!(with(lacking), ["kernel-features"]);
    assert_eq!(
        with(|facts, _| facts.kernel.options = None),
        ["kernel-features"]
    );
}

#[test]
fn cgroups_must_fit_the_kubelet() {
    let unified = |minor: u16| {
        with(|facts, needs| {
            facts.cgroups.version = CgroupVersion::V2;
            facts.cgroups.controllers = owned(&["cpu", "cpuset", "io", "memory", "pids"]);
            needs.kubernetes = KubeVersion::new(1, minor, 0);
            needs.runtime = runtime(RuntimeName::Docker, "20.10.23");
        })
    };
    assert_eq!(unified(18), ["cgroups"]);
    assert!(unified(20).is_empty());
    assert_eq!(
        with(|_, needs| needs.kubernetes = KubeVersion::new(1, 35, 0)),
        ["cgroups"]
    );
    let allowed = with(|_, needs| {
        needs.kubernetes = KubeVersion::new(1, 35, 0);
        needs.fail_cgroup_v1 = Some(false);
    });
    assert!(allowed.is_empty());
    // From 1.31 on the kubelet knows the field, and obeys it.
    for (minor, said, refused) in [
        (30, Some(true), false),
        (31, Some(true), true),
        (34, Some(true), true),
        (34, Some(false), false),
        (34, None, false),
    ] {
        let found = with(|_, needs| {
            needs.kubernetes = KubeVersion::new(1, minor, 0);
            needs.fail_cgroup_v1 = said;
        });
        let expected: &[&str] = if refused { &["cgroups"] } else { &[] };
        assert_eq!(found, expected, "1.{minor}, {said:?}");
    }
    let missing = with(|facts, _| {
        facts.cgroups.controllers.remove("memory");
    });
    assert_eq!(missing, ["kernel-features", "cgroups"]);
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
fn containerd_keeps_layers_beside_what_they_unpack_to() {
    let mut needs = needs();
    needs.runtime = runtime(RuntimeName::Containerd, "1.7.27");
    needs.to_write.layers = GB / 2;
    let needed = |available: u64| {
        let mut facts = good();
        facts.disks.images = space(100 * GB, available, 2);
        facts.disks.local_programs = space(100 * GB, GB, 3);
        run(&facts, &needs)
            .refusals()
            .find(|finding| finding.check == "disk-space")
            .map(|finding| finding.reason.clone())
    };
    assert_eq!(needed(1_500_000_000 + (128 << 20)), None);
    assert_eq!(
        needed(1_500_000_000).unwrap(),
        "the file system of containerd's images has 1500 MB available, and 1635 MB are needed"
    );
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
        facts.leftovers = vec!["/etc/cni/net.d/".to_owned()];
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn what_does_not_fit_is_refused_with_figures() {
    let (mut facts, needs) = (good(), needs());
    // Twice the images while they are loaded, on a disk of their own.
    facts.disks.images = space(10 * GB, 2 * GB, 2);
    let report = run(&facts, &needs);
    let finding = report.refusals().next().unwrap();
    assert_eq!(finding.check, "disk-space");
    assert_eq!(
        finding.reason,
        "the file system of Docker's images has 2000 MB available, and 2135 MB are needed"
    );
}

#[test]
fn a_file_system_that_nobody_can_write_to_is_told_before_anything_is_changed() {
    let mut facts = good();
    facts.disks.programs.read_only = true;
    facts.disks.programs.device = 9;
    let mut needs = needs();
    needs.to_write.programs = 1;
    assert_eq!(refused(&facts, &needs).len(), 1);
    needs.to_write.programs = 0;
    assert!(refused(&facts, &needs).is_empty(), "what is there already");
}

#[test]
fn demands_on_one_file_system_add_up() {
    let available = |available: u64| {
        with(|facts, needs| {
            let disk = space(1000 * GB, available, 1);
            facts.disks = Disks {
                programs: disk,
                local_programs: disk,
                plugins: disk,
                images: disk,
                kubelet: disk,
                etcd: disk,
                state: disk,
            };
            needs.thresholds = KubeletThresholds::new(
                Some(100),
                &[("nodefs.available".to_owned(), "0".to_owned())].into(),
            )
            .unwrap();
        })
    };
    // 250 MB programs, 50 MB plugins, 2 GB images, 100 MB etcd, 128 MiB for its log, 128 MiB margin.
    let needed = 2_400_000_000 + (256 << 20);
    assert_eq!(available(needed - 1), ["disk-space"]);
    assert!(available(needed).is_empty());
}

#[test]
fn what_is_kept_of_a_master_that_goes_has_to_fit() {
    let reason = |available: u64, kept: u64| {
        let (mut facts, mut needs) = (good(), needs());
        facts.disks.state = space(100 * GB, available, 2);
        needs.to_write.kept = kept;
        let report = run(&facts, &needs);
        let mut refusals = report.refusals();
        let found = refusals.next().map(|finding| finding.reason.clone());
        let alone = match disk::keeps(&facts.disks, kept) {
            Verdict::Refuse { reason, .. } => Some(reason),
            Verdict::Good | Verdict::Warn { .. } => None,
        };
        assert_eq!(found, alone);
        found
    };
    let margin = 128 << 20;
    assert_eq!(reason(4 * GB + margin, 4 * GB), None);
    assert_eq!(
        reason(2 * GB, 4 * GB).unwrap(),
        "the file system of /var/lib/kpot has 2000 MB available, and 4135 MB are needed"
    );
}

#[test]
fn a_disk_so_full_that_the_kubelet_would_delete_the_images_is_refused_beforehand() {
    let (mut facts, mut needs) = (good(), needs());
    let disk = |available: u64| {
        let disk = space(100 * GB, available, 1);
        Disks {
            programs: disk,
            local_programs: disk,
            plugins: disk,
            images: disk,
            kubelet: disk,
            etcd: disk,
            state: disk,
        }
    };
    facts.disks = disk(16 * GB);
    let report = run(&facts, &needs);
    let finding = report.refusals().next().unwrap();
    assert_eq!(finding.check, "disk-thresholds");
    assert!(
        finding
            .reason
            .contains("will be 86 % full (14466 MB of 100000 MB available), and from 85 %"),
        "{}",
        finding.reason
    );
    assert!(
        finding
            .reason
            .contains("below 15 % the kubelet evicts pods and deletes images (imagefs.available)")
    );
    assert!(
        finding.remedy.contains("at least 1535 MB more"),
        "{}",
        finding.remedy
    );
    // What the remedy names is enough.
    facts.disks = disk(16 * GB + 1535 * 1_000_000);
    assert!(refused(&facts, &needs).is_empty());
    // So are the cluster's own thresholds.
    facts.disks = disk(5 * GB);
    let eviction = [("imagefs.available", "1Gi"), ("memory.available", "100Mi")];
    let eviction = eviction
        .map(|(signal, value)| (signal.to_owned(), value.to_owned()))
        .into();
    needs.thresholds = KubeletThresholds::new(Some(100), &eviction).unwrap();
    assert!(refused(&facts, &needs).is_empty());
    // A master that runs is not judged again.
    needs.thresholds = KubeletThresholds::default();
    needs.standing = Standing::Joined;
    assert!(refused(&facts, &needs).is_empty());
}

#[test]
fn thresholds_are_read_as_the_kubelet_reads_them() {
    for (text, threshold) in [
        ("15%", Threshold::Percent(15.0)),
        ("0%", Threshold::Percent(0.0)),
        ("0", Threshold::Bytes(0)),
        ("500M", Threshold::Bytes(500_000_000)),
        ("1.5Gi", Threshold::Bytes(3 << 29)),
    ] {
        assert_eq!(text.parse::<Threshold>().unwrap(), threshold, "{text}");
    }
    for text in ["", "%", "101%", "-1", "1Xi", "NaN%", "inf"] {
        assert!(text.parse::<Threshold>().is_err(), "{text}");
    }
}

#[test]
fn only_what_is_not_there_is_counted() {
    use crate::host::scripted::Scripted;
    use crate::steps::testing::{Machine, Pot};
    use bundle_spec::Sha256;

    let pot = Pot::default()
        .artifact("docker", &["docker", "dockerd"])
        .artifact("kubelet", &["kubelet"])
        .artifact("cni-plugins", &["bridge"])
        // Stays in the pot.
        .artifact("file.notes.txt", &["notes.txt"])
        .image("a:1", "{\"a\":1}", &[&[1; 100], &[2; 10]])
        .image("b:1", "{\"b\":2}", &[&[1; 100], &[3; 1]])
        .verified();
    let manifest = pot.manifest();
    let images = ["{\"a\":1}", "{\"b\":2}"].map(|config| Sha256::of(config.as_bytes()));
    let machine = Machine::new();
    let bare = to_write(&machine.view(Scripted::new()), manifest, &images, 5).unwrap();
    let expected = ToWrite {
        programs: "this is dockerthis is dockerdthis is kubelet".len() as u64,
        plugins: "this is bridge".len() as u64,
        // The shared layer once.
        images: 111,
        etcd: 5,
        ..ToWrite::default()
    };
    assert_eq!(bare, expected);
    machine
        .program("docker")
        .program("kubelet")
        .file("/opt/cni/bin/bridge", "");
    let script = Scripted::new().on("docker images", 0, &format!("{} a:1\n", images[0]));
    let used = to_write(&machine.view(script), manifest, &images, 0).unwrap();
    let expected = ToWrite {
        programs: "this is dockerd".len() as u64,
        plugins: 0,
        images: 101,
        ..ToWrite::default()
    };
    assert_eq!(used, expected);
}
