//! What this machine is: looked up once, before anything is decided.
//!
//! Gathering changes nothing and judges nothing. What it finds is plain data, so that the judgements ([`crate::preflight`]) are pure functions.

pub mod containerd;
pub mod docker;
pub mod firewall;
mod kernel;
pub(crate) mod kubeconfig;
pub(crate) mod kubelet;
pub mod modules;
mod network;
pub mod packages;
pub mod programs;
pub(crate) mod units;
mod whose;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};

use self::firewall::Firewall;
pub use self::kernel::{Functions, Kernel};
use self::modules::Standing;
pub use self::network::Interface;
use crate::host::probe::Probe;
use crate::host::{HostView, Kind, Space};
use crate::runtime::Runtime;

/// How the first line of our own files begins.
pub(crate) const MARK: &str = "# Written by kpot-install";

/// Programs of the host that kubeadm, the kubelet, kube-proxy or this program call.
pub const TOOLS: [&str; 13] = [
    "conntrack",
    "ebtables",
    "ethtool",
    "getent",
    "ip",
    "iptables",
    "mount",
    "nsenter",
    "socat",
    "ssh",
    "systemctl",
    "tc",
    "touch",
];

/// Files that a master has and a bare machine has not.
const FILES: [&str; 8] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/bootstrap-kubelet.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/scheduler.conf",
    "/etc/kubernetes/super-admin.conf",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
];

/// Folders that are empty or absent on a bare machine.
const FOLDERS: [&str; 4] = [
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki",
    "/var/lib/cni",
    "/var/lib/kubelet/pki",
];

/// Where CNI plugins are configured.
const NETWORKS: &str = "/etc/cni/net.d";

/// What a new file system of the ext family has in it.
pub(crate) const LOST_AND_FOUND: &str = "lost+found";

/// Where the pot's CNI plugins go: where pod networks put theirs, and where upstream's runtimes look.
pub const PLUGINS: &str = "/opt/cni/bin";

/// Where kubeadm puts etcd's data, unless the cluster says otherwise.
pub const ETCD_DATA: &str = "/var/lib/etcd";

/// Where Docker keeps its data, unless it says otherwise.
const DOCKER_ROOT: &str = "/var/lib/docker";

/// What this machine is.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its host name.
    pub hostname: String,
    /// `/etc/machine-id`; empty where there is none.
    pub machine_id: String,
    /// What `uname -m` prints.
    pub machine: String,
    /// Who runs this program.
    pub user: User,
    /// What runs the services.
    pub init: Init,
    /// The kernel.
    pub kernel: Kernel,
    /// The cgroup file system.
    pub cgroups: Cgroups,
    /// Processors that this process may use, which is how kubeadm counts.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Swap areas in use.
    pub swap: Vec<String>,
    /// Its addresses, loopback left out.
    pub interfaces: Vec<Interface>,
    /// The address from which this machine reaches the healthy master; nothing where it has no route there or none was asked for.
    pub source_address: Option<IpAddr>,
    /// TCP ports on which something listens.
    pub ports: BTreeSet<u16>,
    /// Those of [`TOOLS`] that are there.
    pub tools: BTreeSet<&'static str>,
    /// Files and non-empty folders of an earlier Kubernetes.
    pub leftovers: Vec<String>,
    /// What configures a pod network.
    pub networks: Vec<NetworkFile>,
    /// The kernel modules of a node.
    pub modules: BTreeMap<&'static str, Standing>,
    /// The version of the runtime that runs, whoever brought it.
    pub running: Option<String>,
    /// The first two numbers of the version of glibc; nothing where this machine has another C library, or does not tell.
    pub glibc: Option<(u32, u32)>,
    /// The firewall that is active.
    pub firewall: Option<Firewall>,
    /// The names of the images that the runtime has.
    pub image_names: Vec<String>,
    /// The space where things go.
    pub disks: Disks,
}

/// A file that CNI's library reads as the configuration of a pod network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    /// Where it lies.
    pub path: String,
    /// The package that brought it; nothing where none did, or nobody tells.
    pub package: Option<String>,
}

/// Who runs this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The superuser.
    Root,
    /// Somebody else.
    Other,
}

/// What runs the services of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// systemd, which runs now.
    Systemd,
    /// Something else.
    Other,
}

/// Which cgroup file system is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy a controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// The cgroup file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// Which one.
    pub version: CgroupVersion,
    /// Its controllers that can be used. With v2, `devices` and `freezer` are parts of the kernel and not listed.
    pub controllers: BTreeSet<String>,
}

/// The file systems on which things go.
#[derive(Clone, Copy, Debug)]
pub struct Disks {
    /// `/usr/bin`.
    pub programs: Space,
    /// `/usr/local`.
    pub local_programs: Space,
    /// [`PLUGINS`].
    pub plugins: Space,
    /// The runtime's images.
    pub images: Space,
    /// The kubelet's folder, which the kubelet calls nodefs.
    pub kubelet: Space,
    /// etcd's data.
    pub etcd: Space,
    /// The state folder of this program.
    pub state: Space,
}

/// Whether CNI's library reads a file of this name as configuration; packages put others beside it.
pub fn configures_network(name: &str) -> bool {
    let (_, kind) = name.rsplit_once('.').unwrap_or_default();
    ["conf", "conflist", "json"].contains(&kind)
}

/// Looks at this machine, which has or will have this runtime; `healthy` is the address of the healthy master that it will talk to, and `etcd` the folder that the cluster has for the data of its masters' own
/// etcd; nothing where etcd is external.
pub fn gather(
    host: &HostView,
    runtime: Runtime,
    healthy: Option<IpAddr>,
    etcd: Option<&str>,
) -> Result<Facts> {
    let line = |path: &str| -> Result<String> {
        Ok(host.text(path)?.unwrap_or_default().trim().to_owned())
    };
    let (running, usual) = match runtime {
        Runtime::Docker => {
            let info = docker::running(host)?;
            (info.map(|info| (info.version, info.root)), DOCKER_ROOT)
        }
        Runtime::Containerd => {
            let info = containerd::running(host)?;
            (info.map(|info| (info.version, info.root)), containerd::ROOT)
        }
    };
    let (running, root) = running.unzip();
    let images = root.filter(|root| root.starts_with('/'));
    let disks = Disks {
        programs: host.space("/usr/bin")?,
        local_programs: host.space("/usr/local")?,
        plugins: host.space(PLUGINS)?,
        images: host.space(images.as_deref().unwrap_or(usual))?,
        kubelet: host.space("/var/lib/kubelet")?,
        etcd: host.space(etcd.unwrap_or(ETCD_DATA))?,
        state: host.space(crate::journal::STATE_DIR)?,
    };
    let mut standings = BTreeMap::new();
    for name in crate::steps::MODULES {
        standings.insert(name, modules::standing(host, name)?);
    }
    Ok(Facts {
        hostname: line("/proc/sys/kernel/hostname")?,
        machine_id: line("/etc/machine-id")?,
        machine: kernel::machine()?,
        user: if nix::unistd::geteuid().is_root() {
            User::Root
        } else {
            User::Other
        },
        init: if host.exists("/run/systemd/system")? {
            Init::Systemd
        } else {
            Init::Other
        },
        kernel: kernel::look(host)?,
        cgroups: cgroups(host)?,
        cpus: cpus(host)?,
        memory: memory(host)?,
        swap: crate::steps::swap_areas(host)?,
        interfaces: network::interfaces()?,
        source_address: healthy.and_then(network::source_address),
        ports: network::listening(host)?,
        tools: TOOLS
            .into_iter()
            .filter(|name| host.program(name).is_some())
            .collect(),
        leftovers: leftovers(host, etcd)?,
        networks: networks(host)?,
        modules: standings,
        running,
        glibc: glibc(host),
        firewall: firewall::look(host),
        image_names: image_names(host, runtime)?,
        disks,
    })
}

/// The names of the images that the runtime has, with a tag or with the digest that a registry has them by; none where it does not answer.
pub fn image_names(host: &HostView, runtime: Runtime) -> Result<Vec<String>> {
    Ok(match runtime {
        Runtime::Docker => docker::images(host)?
            .unwrap_or_default()
            .into_iter()
            .map(|(_, name)| name)
            .chain(docker::digests(host)?)
            .filter(|name| !name.contains("<none>"))
            .collect(),
        Runtime::Containerd => containerd::images(host)?
            .unwrap_or_default()
            .into_iter()
            .flat_map(|image| image.repo_tags.into_iter().chain(image.repo_digests))
            .collect(),
    })
}

fn cgroups(host: &HostView) -> Result<Cgroups> {
    if let Some(list) = host.text("/sys/fs/cgroup/cgroup.controllers")? {
        return Ok(Cgroups {
            version: CgroupVersion::V2,
            controllers: list.split_whitespace().map(str::to_owned).collect(),
        });
    }
    // Lines of name, hierarchy, number of groups, enabled.
    let list = host.text("/proc/cgroups")?.unwrap_or_default();
    let enabled = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [name, _, _, "1"] => Some((*name).to_owned()),
            _ => None,
        }
    };
    Ok(Cgroups {
        version: CgroupVersion::V1,
        controllers: list.lines().filter_map(enabled).collect(),
    })
}

fn glibc(host: &HostView) -> Option<(u32, u32)> {
    host.program("getconf")?;
    let answer = host.probe(&Probe::c_library()).ok()?;
    let text = answer.text();
    let version = text.strip_prefix("glibc ").filter(|_| answer.ok());
    version.map(containerd::release)
}

/// Processors in the affinity mask, as Go's `runtime.NumCPU` counts them.
fn cpus(host: &HostView) -> Result<usize> {
    let status = host.text("/proc/self/status")?.unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(count_of_list)
        .context("cannot read the number of processors from /proc/self/status")
}

/// How many numbers a list such as `0-3,8` names.
fn count_of_list(text: &str) -> Option<usize> {
    text.trim().split(',').try_fold(0, |sum, part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (low.parse::<usize>().ok()?, high.parse::<usize>().ok()?);
        Some(sum + (high + 1).checked_sub(low)?)
    })
}

fn memory(host: &HostView) -> Result<u64> {
    let text = host.text("/proc/meminfo")?.unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kilobytes| kilobytes << 10)
        .context("cannot read the size of the memory from /proc/meminfo")
}

fn leftovers(host: &HostView, etcd: Option<&str>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in FILES {
        if host.exists(path)? {
            found.push(path.to_owned());
        }
    }
    for path in FOLDERS.into_iter().chain(etcd) {
        for name in host.list(path)? {
            if !is_of_a_new_disk(host, path, &name)? {
                found.push(format!("{path}/"));
                break;
            }
        }
    }
    Ok(found)
}

/// Whether `name` in the folder `path` is what a new file system has that was mounted there: an empty `lost+found`.
pub(crate) fn is_of_a_new_disk(host: &HostView, path: &str, name: &str) -> Result<bool> {
    if name != LOST_AND_FOUND {
        return Ok(false);
    }
    let place = format!("{path}/{name}");
    let kind = host.facts(&place)?.map(|facts| facts.kind);
    Ok(kind == Some(Kind::Directory) && host.list(&place)?.is_empty())
}

fn networks(host: &HostView) -> Result<Vec<NetworkFile>> {
    let names = host.list(NETWORKS)?.into_iter();
    let files = names.filter(|name| configures_network(name)).map(|name| {
        let path = format!("{NETWORKS}/{name}");
        // It is only told of: a list of packages that cannot be asked stands in nobody's way.
        let package = packages::owner(host, &path).ok().flatten();
        NetworkFile { path, package }
    });
    Ok(files.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::host::scripted::Scripted;
    use crate::steps::testing::Machine;

    /// A machine with what a kernel always shows.
    fn bare() -> Machine {
        let machine = Machine::new();
        machine
            .file("/proc/sys/kernel/hostname", "b1\n")
            .file("/proc/sys/kernel/osrelease", "4.19.0\n")
            .file("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3\n")
            .file(
                "/proc/meminfo",
                "MemTotal:        2048000 kB\nMemFree: 1 kB\n",
            )
            .file("/proc/swaps", "Filename Type\n/dev/sda2 partition 1 0 -2\n")
            .file(
                "/proc/cgroups",
                "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t2\t1\nmemory\t0\t1\t0\n",
            );
        machine
    }

    #[test]
    fn a_bare_machine_is_described() {
        let machine = bare();
        machine.program("ip").file("/run/systemd/system/x", "");
        machine.file("/boot/config-4.19.0", "CONFIG_MEMCG=y\n");
        let facts = gather(
            &machine.view(Scripted::new()),
            Runtime::Docker,
            None,
            Some(ETCD_DATA),
        )
        .unwrap();
        assert_eq!(
            (facts.hostname.as_str(), facts.cpus, facts.memory),
            ("b1", 4, 2_048_000 << 10)
        );
        assert_eq!(facts.swap, ["/dev/sda2"]);
        assert_eq!(facts.init, Init::Systemd);
        assert_eq!(facts.tools, BTreeSet::from(["ip"]));
        assert_eq!(facts.cgroups.version, CgroupVersion::V1);
        assert_eq!(
            facts.cgroups.controllers,
            BTreeSet::from(["cpu".to_owned()])
        );
        assert_eq!(
            facts.kernel.options,
            Some(BTreeSet::from(["MEMCG".to_owned()]))
        );
        assert_eq!(facts.modules["br_netfilter"], Standing::NoModules);
        assert!(
            facts.leftovers.is_empty() && facts.ports.is_empty() && facts.image_names.is_empty()
        );
        assert!(facts.networks.is_empty());
        assert_eq!(facts.source_address, None);
        assert_eq!((&facts.running, facts.glibc), (&None, None));
        assert_eq!(facts.firewall, None);
        assert!(facts.disks.images.total > 0);
    }

    #[test]
    fn a_used_machine_is_described() {
        let machine = bare();
        machine
            .file("/etc/kubernetes/admin.conf", "")
            .file("/var/lib/etcd/member/x", "")
            .file("/etc/cni/net.d/.kubernetes-cni-keep", "")
            .file("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
            .file(
                "/proc/net/tcp6",
                "  sl  local_address\n   0: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1 1\n",
            )
            .program("docker")
            .program("getconf");
        let script = Scripted::new()
            .on("getconf GNU_LIBC_VERSION", 0, "glibc 2.31\n")
            .on(
                "docker info",
                0,
                r#"{"ServerVersion":"18.09.9","CgroupDriver":"cgroupfs","DockerRootDir":"/data"}"#,
            )
            .on(
                "docker images --no-trunc",
                0,
                "sha256:1 busybox:1\nsha256:2 <none>:<none>",
            )
            .on(
                "docker images --digests",
                0,
                "busybox@<none>\nquay.io/cilium/cilium@sha256:3\n",
            );
        let facts = gather(
            &machine.view(script),
            Runtime::Docker,
            Some("127.0.0.1".parse().unwrap()),
            Some(ETCD_DATA),
        )
        .unwrap();
        assert_eq!(
            facts.leftovers,
            ["/etc/kubernetes/admin.conf", "/var/lib/etcd/"]
        );
        assert_eq!(facts.cgroups.version, CgroupVersion::V2);
        assert_eq!(facts.ports, BTreeSet::from([6443]));
        assert_eq!(
            facts.image_names,
            ["busybox:1", "quay.io/cilium/cilium@sha256:3"]
        );
        assert_eq!(facts.running.as_deref(), Some("18.09.9"));
        assert_eq!(facts.glibc, Some((2, 31)));
        assert_eq!(facts.source_address, Some("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_new_disk_for_etcd_is_no_earlier_kubernetes() {
        let machine = bare();
        let left = || leftovers(&machine.view(Scripted::new()), Some(ETCD_DATA)).unwrap();
        let lost = machine.place("/var/lib/etcd/lost+found");
        #[allow(clippy::disallowed_methods, reason = "the test's own folder")]
        std::fs::create_dir_all(lost).unwrap();
        assert!(left().is_empty());
        machine.file("/var/lib/etcd/lost+found/#12", "somebody's");
        assert_eq!(left(), ["/var/lib/etcd/"]);
        let machine = bare();
        machine.file("/var/lib/etcd/lost+found", "no folder");
        let left = leftovers(&machine.view(Scripted::new()), Some(ETCD_DATA)).unwrap();
        assert_eq!(left, ["/var/lib/etcd/"]);
    }

    #[test]
    fn what_configures_a_pod_network_is_told_by_its_package() {
        let machine = bare();
        let podman = "/etc/cni/net.d/87-podman-bridge.conflist";
        machine
            .file(podman, "{}")
            .file("/etc/cni/net.d/10-own.conf", "{}")
            .file("/etc/cni/net.d/README", "")
            .program("rpm");
        let script = Scripted::new()
            .on(
                &format!("rpm --query --file {podman}"),
                0,
                "podman-3.4.4-1\n",
            )
            .on("rpm", 1, "no package owns it");
        let file = |path: &str, package: Option<&str>| NetworkFile {
            path: path.to_owned(),
            package: package.map(str::to_owned),
        };
        assert_eq!(
            networks(&machine.view(script)).unwrap(),
            [
                file("/etc/cni/net.d/10-own.conf", None),
                file(podman, Some("podman-3.4.4-1")),
            ]
        );
    }

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!(count_of_list("\t0-1"), Some(2));
        assert_eq!(count_of_list("0,2-3,7"), Some(4));
        assert_eq!(count_of_list("3-1"), None);
        assert_eq!(count_of_list(""), None);
    }
}
