//! The table.
//!
//! Which tools, ports, processors and memory kubeadm demands is read off its sources: cmd/kubeadm/app/preflight/checks.go of 1.14.0, 1.15.0 and 1.20.2; conntrack since
//! 1.18 (kubernetes pull request 85857) and until 1.31 (126953).

use bundle_spec::KubeVersion;

use super::{EtcdPlace, Needs, Network, Purpose, Row, Standing, Verdict, disk, kernel};
use crate::facts::containerd::release;
use crate::facts::firewall::Kind;
use crate::facts::modules;
use crate::facts::{CgroupVersion, Facts, Init, NetworkFile, User};
use crate::kubernetes::{ContainerdRelease, KernelReleases, Tool, Traits};
use crate::runtime::Runtime;

/// kubeadm's `ControlPlaneNumCPU`.
const CPUS: usize = 2;

/// kubeadm's `ControlPlaneMem`, in MiB.
const MEMORY: u64 = 1700;

/// Every check, in the order in which an operator reads them.
pub(super) const ROWS: [Row; 19] = [
    Row {
        name: "root",
        what: "this program runs as root",
        judge: root,
    },
    Row {
        name: "architecture",
        what: "this machine has the pot's architecture",
        judge: architecture,
    },
    Row {
        name: "runtime",
        what: "the kubelet can use the pot's container runtime",
        judge: runtime,
    },
    Row {
        name: "systemd",
        what: "systemd runs the services",
        judge: systemd,
    },
    Row {
        name: "kernel",
        what: "the kernel is Linux 3.10 or later",
        judge: kernel_release,
    },
    Row {
        name: "kernel-features",
        what: "kubeadm's own check of the kernel passes, or what it stands for is proved",
        judge: kernel_features,
    },
    Row {
        name: "cgroups",
        what: "the kubelet can use this machine's cgroups",
        judge: cgroups,
    },
    Row {
        name: "netfilter",
        what: "bridged packets can be filtered",
        judge: netfilter,
    },
    Row {
        name: "tools",
        what: "the programs that kubeadm demands are installed",
        judge: tools,
    },
    Row {
        name: "optional-tools",
        what: "the programs that kubeadm asks for are installed",
        judge: optional_tools,
    },
    Row {
        name: "ssh",
        what: "there is an SSH client to reach the healthy master with",
        judge: ssh,
    },
    Row {
        name: "cpus",
        what: "there are at least 2 processors",
        judge: cpus,
    },
    Row {
        name: "memory",
        what: "there are at least 1700 MiB of memory",
        judge: memory,
    },
    Row {
        name: "node-name",
        what: "the node's name is a valid one",
        judge: node_name,
    },
    Row {
        name: "leftovers",
        what: "nothing of another Kubernetes is left here",
        judge: leftovers,
    },
    Row {
        name: "ports",
        what: "the ports of a master are free",
        judge: ports,
    },
    Row {
        name: "firewall",
        what: "the other masters reach the ports of this one",
        judge: firewall,
    },
    Row {
        name: "disk-space",
        what: "everything fits on the disks",
        judge: disk::fits,
    },
    Row {
        name: "disk-thresholds",
        what: "the kubelet will keep the images that are loaded",
        judge: disk::survives_the_kubelet,
    },
];

fn root(facts: &Facts, _: &Needs) -> Verdict {
    match facts.user {
        User::Root => Verdict::Good,
        User::Other => Verdict::refuse(
            "it runs as another user",
            "run it as root: sudo ./kpot-install …",
        ),
    }
}

fn architecture(facts: &Facts, needs: &Needs) -> Verdict {
    if facts.machine == needs.arch.uname() {
        return Verdict::Good;
    }
    Verdict::refuse(
        format!(
            "the pot is for {} ({}), this machine is {}",
            needs.arch,
            needs.arch.uname(),
            facts.machine
        ),
        "build a pot for it on the connected side: kpot build --arch …",
    )
}

/// The first containerd whose programs are built on Ubuntu 22.04 (pull request 11685; the notes in releases/v2.1.0.toml, while those of 2.0 still name 20.04).
const BUILT_ANEW: ContainerdRelease = (2, 1);

/// The least glibc with which those start. Their notes say 2.35, that of Ubuntu 22.04; but what an older one lacks ends with `GLIBC_2.34` (as Rocky Linux 8 says of 2.3.4 in
/// kubekey's issue 3244, and Ubuntu 20.04 of 1.6.7, built alike, in issue 7255), and that is what Red Hat's family has in its ninth release.
const GLIBC: (u32, u32) = (2, 34);

fn runtime(facts: &Facts, needs: &Needs) -> Verdict {
    let (version, runtime) = (needs.kubernetes, &needs.runtime);
    let traits = Traits::of(version);
    let fitting = traits.containerd;
    let rebuild = format!("build another pot on the connected side: kpot build --k8s {version}");
    match Runtime::from(runtime.name) {
        Runtime::Docker if !traits.dockershim => Verdict::refuse(
            format!(
                "the kubelet {version} does not speak with Docker, which is the runtime in the pot"
            ),
            rebuild,
        ),
        Runtime::Containerd if !fitting.contains(&release(&runtime.version)) => Verdict::refuse(
            format!(
                "the kubelet {version} does not speak with containerd {}, which is in the pot",
                runtime.version
            ),
            format!(
                "{rebuild} --runtime containerd --containerd-version, with one from {}.{} on and before {}.{}",
                fitting.start.0, fitting.start.1, fitting.end.0, fitting.end.1
            ),
        ),
        // What runs is adopted, or is in the way of a step that says so.
        Runtime::Containerd
            if facts.running.is_none() && release(&runtime.version) >= BUILT_ANEW =>
        {
            match facts.glibc {
                Some(glibc) if glibc < GLIBC => Verdict::refuse(
                    format!(
                        "containerd {}, which is in the pot, does not start with a glibc before {}.{}, and this machine has {}.{}",
                        runtime.version, GLIBC.0, GLIBC.1, glibc.0, glibc.1
                    ),
                    format!("{rebuild} --runtime containerd --containerd-version, with a 1.7"),
                ),
                _ => Verdict::Good,
            }
        }
        Runtime::Docker | Runtime::Containerd => Verdict::Good,
    }
}

fn systemd(facts: &Facts, _: &Needs) -> Verdict {
    match facts.init {
        Init::Systemd => Verdict::Good,
        Init::Other => Verdict::refuse(
            "/run/systemd/system does not exist, so systemd does not run here",
            "use a machine that systemd has booted",
        ),
    }
}

fn kernel_release(facts: &Facts, _: &Needs) -> Verdict {
    let release = &facts.kernel.release;
    match kernel::release_numbers(release) {
        Some(numbers) if numbers >= (3, 10) => Verdict::Good,
        _ => Verdict::refuse(
            format!("the kernel is {release}"),
            "boot a kernel of version 3.10 or later",
        ),
    }
}

fn kernel_features(facts: &Facts, needs: &Needs) -> Verdict {
    let release = &facts.kernel.release;
    if let Err(missing) = kernel::system_verification_proved(needs.kubernetes, facts) {
        return Verdict::refuse(
            format!("the kernel {release} lacks {missing}"),
            "boot a kernel that has them; in a container, load the modules on its host",
        );
    }
    let version = needs.kubernetes;
    if !kernel::kubeadm_knows(version, release)
        && kernel::ignored_check(version, facts, None).is_none()
    {
        return Verdict::refuse(
            format!("kubeadm {version} does not know the kernel release {release}"),
            match Traits::of(version).kernel_releases {
                KernelReleases::EndAtFour | KernelReleases::EndAtFiveReplaceable => {
                    "boot an older kernel"
                }
                KernelReleases::Open | KernelReleases::FromFourNineteen => {
                    "boot a newer kernel, such as 6.1"
                }
            },
        );
    }
    let reads_config = kernel::kubeadm_knows(version, release);
    if reads_config && facts.kernel.options.is_none() {
        return Verdict::refuse(
            format!(
                "kubeadm reads the kernel's configuration and will not find it: there is neither /proc/config.gz nor /boot/config-{release}"
            ),
            format!("put the configuration of the running kernel to /boot/config-{release}"),
        );
    }
    Verdict::Good
}

/// How a machine comes to have the cgroups of old.
const BOOT_WITH_V1: &str =
    "boot with cgroup v1: add systemd.unified_cgroup_hierarchy=0 to the kernel's command line";

/// The first release of each runtime that runs containers on cgroup v2 (their release notes: Docker 20.10, containerd 1.4).
fn first_on_cgroup_v2(runtime: Runtime) -> ContainerdRelease {
    match runtime {
        Runtime::Docker => (20, 10),
        Runtime::Containerd => (1, 4),
    }
}

fn cgroups(facts: &Facts, needs: &Needs) -> Verdict {
    let traits = Traits::of(needs.kubernetes);
    let unified = facts.cgroups.version == CgroupVersion::V2;
    if unified && !traits.on_cgroup_v2 {
        return Verdict::refuse(
            format!(
                "the kubelet {} does not start on cgroup v2",
                needs.kubernetes
            ),
            BOOT_WITH_V1,
        );
    }
    let (runtime, version) = (Runtime::from(needs.runtime.name), &needs.runtime.version);
    if unified && facts.running.is_none() && release(version) < first_on_cgroup_v2(runtime) {
        let newer = match runtime {
            Runtime::Docker => "--docker-version 20.10.23",
            Runtime::Containerd => "--runtime containerd --containerd-version 1.7.30",
        };
        return Verdict::refuse(
            format!(
                "{} {version}, which is in the pot, runs no containers on cgroup v2",
                runtime.title()
            ),
            format!(
                "build another pot on the connected side: kpot build --k8s {} {newer}; or {BOOT_WITH_V1}",
                needs.kubernetes
            ),
        );
    }
    if !unified && traits.on_cgroup_v1.fails(needs.fail_cgroup_v1) {
        let why = match needs.fail_cgroup_v1 {
            Some(_) => "the cluster's configuration says failCgroupV1: true",
            None => "unless its configuration says failCgroupV1: false",
        };
        return Verdict::refuse(
            format!("the kubelet {} refuses cgroup v1, {why}", needs.kubernetes),
            "boot with cgroup v2: add systemd.unified_cgroup_hierarchy=1 to the kernel's command line; or allow v1 in the whole cluster: kubectl --namespace kube-system edit configmap kubelet-config (failCgroupV1: false, below kubelet)",
        );
    }
    let missing = kernel::missing_controllers(facts);
    if missing.is_empty() {
        return Verdict::Good;
    }
    Verdict::refuse(
        format!("cgroup controllers are missing: {}", missing.join(", ")),
        format!(
            "enable them on the kernel's command line: cgroup_enable={}",
            missing.join(",")
        ),
    )
}

fn netfilter(facts: &Facts, _: &Needs) -> Verdict {
    use modules::Standing;
    let bridge = facts.modules.get("br_netfilter").copied();
    match bridge {
        Some(Standing::Loaded | Standing::BuiltIn | Standing::Loadable) => Verdict::Good,
        _ => Verdict::refuse(
            "this kernel has no br_netfilter, without which kubeadm refuses the machine",
            "install the modules of the running kernel (uname -r); in a container, load it on the container's host: modprobe br_netfilter",
        ),
    }
}

/// The package of a tool, in the words of Debian and of Red Hat.
fn package(tool: &str) -> &'static str {
    match tool {
        "conntrack" => "conntrack, or conntrack-tools",
        "crictl" => "cri-tools",
        "ebtables" => "ebtables",
        "ethtool" => "ethtool",
        "getent" => "libc-bin, or glibc-common",
        "ip" | "tc" => "iproute2, or iproute",
        "iptables" => "iptables",
        "mount" => "mount, or util-linux",
        "nsenter" => "util-linux",
        "socat" => "socat",
        "ssh" => "openssh-client, or openssh-clients",
        "systemctl" => "systemd",
        _ => "coreutils",
    }
}

fn missing_tools(facts: &Facts, wanted: &[&'static str]) -> Option<(String, String)> {
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|tool| !facts.tools.contains(tool))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let packages: Vec<String> = missing
        .iter()
        .map(|tool| format!("{tool} (package {})", package(tool)))
        .collect();
    Some((
        missing.join(", "),
        format!("install {}", packages.join(", ")),
    ))
}

/// The programs without which kubeadm of this version, or this program, stops. crictl is not among them: where kubeadm demands it (without Docker, up to 1.30), the pot
/// brings it.
fn demanded(version: KubeVersion) -> Vec<&'static str> {
    let mut tools = vec!["getent", "ip", "iptables", "mount", "nsenter", "systemctl"];
    if Traits::of(version).conntrack == Tool::Demanded {
        tools.push("conntrack");
    }
    tools
}

fn tools(facts: &Facts, needs: &Needs) -> Verdict {
    match missing_tools(facts, &demanded(needs.kubernetes)) {
        None => Verdict::Good,
        Some((missing, remedy)) => Verdict::refuse(
            format!("kubeadm {} stops without: {missing}", needs.kubernetes),
            remedy,
        ),
    }
}

fn optional_tools(facts: &Facts, needs: &Needs) -> Verdict {
    let mut wanted = vec!["ebtables", "ethtool", "socat", "tc", "touch"];
    if Traits::of(needs.kubernetes).conntrack == Tool::Wanted {
        wanted.push("conntrack");
    }
    match missing_tools(facts, &wanted) {
        None => Verdict::Good,
        Some((missing, remedy)) => Verdict::warn(
            format!(
                "not installed: {missing} (kubectl port-forward needs socat; the others are for odd networks)"
            ),
            remedy,
        ),
    }
}

/// Only a warning: a machine is prepared without a cluster, and whatever reaches for one says so at once.
fn ssh(facts: &Facts, _: &Needs) -> Verdict {
    match missing_tools(facts, &["ssh"]) {
        None => Verdict::Good,
        Some((_, remedy)) => Verdict::warn(
            "there is no ssh, without which no healthy master can be reached and no join begins",
            remedy,
        ),
    }
}

fn cpus(facts: &Facts, needs: &Needs) -> Verdict {
    if facts.cpus >= CPUS || needs.purpose == Purpose::Environment {
        return Verdict::Good;
    }
    Verdict::refuse(
        format!("there are {}", facts.cpus),
        "give this machine more processors",
    )
}

fn memory(facts: &Facts, needs: &Needs) -> Verdict {
    let have = facts.memory >> 20;
    if have >= MEMORY {
        return Verdict::Good;
    }
    let reason = format!("there are {have} MiB");
    let remedy = "give this machine more memory";
    if needs.purpose == Purpose::Master && Traits::of(needs.kubernetes).demands_memory {
        Verdict::refuse(reason, remedy)
    } else {
        Verdict::warn(reason, remedy)
    }
}

fn node_name(_: &Facts, needs: &Needs) -> Verdict {
    let name = &needs.node_name;
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        !bytes.is_empty()
            && bytes.len() <= 63
            && bytes.iter().all(inner)
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
    };
    if name == "localhost" || name.starts_with("localhost.") {
        return Verdict::refuse(
            format!("{name} is what every machine calls itself, and no name for a node"),
            "give it another one with --node-name, or name this machine: hostnamectl set-hostname NAME",
        );
    }
    if name.len() <= 253 && name.split('.').all(label) {
        return Verdict::Good;
    }
    Verdict::refuse(
        format!(
            "{name:?} is not a name that Kubernetes takes: lower-case letters, digits, - and . only"
        ),
        "give it another one with --node-name",
    )
}

fn leftovers(facts: &Facts, needs: &Needs) -> Verdict {
    let networks: &[NetworkFile] = match needs.network {
        Network::Pods => &facts.networks,
        Network::People => &[],
    };
    let paths = networks.iter().map(|network| &network.path);
    let left: Vec<&str> = (facts.leftovers.iter().chain(paths))
        .map(String::as_str)
        .collect();
    if left.is_empty() || needs.standing != Standing::Bare {
        return Verdict::Good;
    }
    let reason = format!("found: {}", left.join(", "));
    match needs.purpose {
        Purpose::Master => {
            let reset = "if this machine may forget the cluster that they belong to: kubeadm reset, then remove what is left of them";
            let reset = (!facts.leftovers.is_empty()).then(|| reset.to_owned());
            let remedies: Vec<String> = reset
                .into_iter()
                .chain(networks.iter().map(without_network))
                .collect();
            Verdict::refuse(reason, remedies.join("\n"))
        }
        Purpose::Environment => {
            Verdict::warn(reason, "a join will be refused as long as they are there")
        }
    }
}

/// How to be rid of a file that configures a network: pods would get that one, until the cluster's own comes.
fn without_network(network: &NetworkFile) -> String {
    let NetworkFile { path, package } = network;
    match package {
        Some(package) => format!(
            "{path} is of package {package}: remove that if nothing needs it; or move the file away, without which its own containers may have no network: mv {path} /root/"
        ),
        None => format!("if nothing needs {path}, move it away: mv {path} /root/"),
    }
}

/// The ports of a master's own etcd.
fn etcd_ports(needs: &Needs) -> &'static [u16] {
    match needs.etcd {
        EtcdPlace::Here => &[2379, 2380],
        EtcdPlace::Elsewhere => &[],
    }
}

/// The ports of a master: its apiserver, etcd, kubelet, kube-proxy, and the controller manager and scheduler, which up to 1.22 can have two each.
fn ports_of(needs: &Needs) -> Vec<u16> {
    let mut ports = vec![needs.api_port];
    ports.extend(etcd_ports(needs));
    ports.extend([10248, 10249, 10250, 10256, 10257, 10259]);
    if Traits::of(needs.kubernetes).insecure_ports {
        ports.extend([10251, 10252]);
    }
    ports
}

fn ports(facts: &Facts, needs: &Needs) -> Verdict {
    if needs.standing != Standing::Bare || needs.purpose == Purpose::Environment {
        return Verdict::Good;
    }
    let taken: Vec<String> = ports_of(needs)
        .into_iter()
        .filter(|port| facts.ports.contains(port))
        .map(|port| port.to_string())
        .collect();
    if taken.is_empty() {
        return Verdict::Good;
    }
    Verdict::refuse(
        format!("something listens on {}", taken.join(", ")),
        "see what it is, and stop it: ss -ltnp",
    )
}

/// Only a warning: a zone, a service or a rule for the masters' network may let in what no rule names by its number.
fn firewall(facts: &Facts, needs: &Needs) -> Verdict {
    let Some(firewall) = &facts.firewall else {
        return Verdict::Good;
    };
    let (api, kubelet) = ([needs.api_port], [10250]);
    let shut: Vec<String> = (api.iter().chain(etcd_ports(needs)).chain(&kubelet))
        .filter(|port| !firewall.lets_in(**port))
        .map(ToString::to_string)
        .collect();
    if shut.is_empty() || needs.purpose == Purpose::Environment {
        return Verdict::Good;
    }
    let (name, open) = match firewall.kind {
        Kind::Firewalld => {
            let ports: Vec<String> = shut
                .iter()
                .map(|port| format!(" --add-port={port}/tcp"))
                .collect();
            let ports = ports.concat();
            (
                "firewalld",
                format!("firewall-cmd --permanent{ports} && firewall-cmd --reload"),
            )
        }
        Kind::Ufw => (
            "ufw",
            format!("ufw allow proto tcp to any port {}", shut.join(",")),
        ),
    };
    Verdict::warn(
        format!(
            "{name} is active, and none of its rules names the TCP ports {}: where the other masters cannot reach them, the new member of etcd counts and does not answer",
            shut.join(", ")
        ),
        format!(
            "Unless another rule lets the masters in: {open}. The pod network has ports of its own (flannel: 8472/udp)"
        ),
    )
}
