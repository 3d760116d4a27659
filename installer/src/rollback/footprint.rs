//! What programs that this one starts write by themselves: Docker, containerd, kubeadm, the kubelet, the pods of a master and of its network.
//!
//! Before such a program starts, [`announce`] notes in the journal what is there now, so that the rest can be told apart later, however much it is. What is noted is data, here.

use anyhow::{Context, Result};

use crate::host::{Host, HostView, Kind};
use crate::journal::Change;

/// How a program shares a path with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// It takes it for itself: what is there already belongs to an earlier one of its kind, and then all of it stays.
    Alone,
    /// It writes beside what is there, which stays.
    Beside,
}

/// What a program leaves on the machine.
#[derive(Debug)]
pub(crate) struct Footprint {
    /// Files and folders.
    pub trees: &'static [(&'static str, Sharing)],
    /// Folders that it makes where they are absent, for others to fill.
    pub folders: &'static [&'static str],
    /// Network interfaces.
    pub interfaces: &'static [&'static str],
    /// Sysctls that it sets by itself.
    pub sysctls: &'static [&'static str],
}

impl Footprint {
    /// Whether a path is one of its trees or lies in one.
    fn covers(&self, path: &str) -> bool {
        self.trees.iter().any(|(tree, _)| {
            path.strip_prefix(tree)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// Where the Docker of a pot keeps images and containers.
pub(crate) const DOCKER_DATA: &str = "/var/lib/docker";

/// dockerd with the containerd that it starts. Its rules are off in our configuration (`iptables: false`).
pub(crate) const DOCKER: Footprint = Footprint {
    trees: &[
        ("/etc/docker", Sharing::Beside),
        ("/opt/containerd", Sharing::Alone),
        ("/run/containerd", Sharing::Alone),
        ("/run/docker", Sharing::Alone),
        ("/run/docker.pid", Sharing::Alone),
        ("/run/docker.sock", Sharing::Alone),
        (DOCKER_DATA, Sharing::Alone),
    ],
    folders: &[],
    interfaces: &["docker0"],
    sysctls: &[],
};

/// Where the containerd of a pot keeps images and containers.
pub(crate) const CONTAINERD_DATA: &str = crate::facts::containerd::ROOT;

/// containerd with its CRI and its shims.
pub(crate) const CONTAINERD: Footprint = Footprint {
    trees: &[
        // It makes the folder that it reads pod networks from.
        ("/etc/cni", Sharing::Beside),
        ("/etc/containerd", Sharing::Beside),
        ("/opt/containerd", Sharing::Alone),
        ("/run/containerd", Sharing::Alone),
        // The network namespaces of pods lie among those of people.
        ("/run/netns", Sharing::Beside),
        ("/run/nri", Sharing::Alone),
        (CONTAINERD_DATA, Sharing::Alone),
    ],
    folders: &[],
    interfaces: &[],
    sysctls: &[],
};

/// kubeadm, the kubelet, and the pods that come with a master: the control plane's, kube-proxy, the pod network's. etcd's data is not among them: it is where the cluster says, and
/// not Kubernetes' own where etcd is external.
pub(crate) const MASTER: Footprint = Footprint {
    trees: &[
        ("/etc/cni", Sharing::Beside),
        ("/etc/kubernetes", Sharing::Beside),
        // Pod networks bring plugins of their own.
        ("/opt/cni", Sharing::Beside),
        ("/run/calico", Sharing::Alone),
        ("/run/flannel", Sharing::Alone),
        ("/run/kubernetes", Sharing::Alone),
        // The controller manager's folder of volume plugins.
        ("/usr/libexec/kubernetes", Sharing::Beside),
        ("/var/lib/calico", Sharing::Alone),
        ("/var/lib/cni", Sharing::Beside),
        ("/var/lib/dockershim", Sharing::Alone),
        ("/var/lib/kubelet", Sharing::Beside),
    ],
    // The control plane's pods and kube-proxy's mount them, and they are made for them.
    folders: &["/etc/ssl/certs", "/lib/modules"],
    interfaces: &[
        "cni0",
        "flannel.1",
        "flannel-v6.1",
        "kube-ipvs0",
        "nodelocaldns",
        "vxlan.calico",
    ],
    sysctls: &[
        // The kubelet's (pkg/kubelet/cm, setupKernelTunables).
        "kernel.keys.root_maxbytes",
        "kernel.keys.root_maxkeys",
        "kernel.panic",
        "kernel.panic_on_oops",
        "vm.overcommit_memory",
        "vm.panic_on_oom",
        // kube-proxy's.
        "net.ipv4.conf.all.route_localnet",
        "net.netfilter.nf_conntrack_max",
        "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
        "net.netfilter.nf_conntrack_tcp_timeout_established",
    ],
};

/// The most paths that are noted of what a folder held before; a machine that is no node has a handful.
const NOTED: usize = 5000;

/// Notes what stands now where `footprint`, and at the paths of `more`, something will be written.
pub(crate) fn announce(host: &Host<'_>, footprint: &Footprint, more: &[&str]) -> Result<()> {
    let view = host.view();
    let more = more
        .iter()
        .filter(|path| !footprint.covers(path))
        .map(|path| (*path, Sharing::Beside));
    for (path, sharing) in footprint.trees.iter().copied().chain(more) {
        let before = match view.facts(path)? {
            None => {
                announce_folders(host, path)?;
                None
            }
            Some(_) => match below(view, path)? {
                Some(found) if sharing == Sharing::Beside || found.is_empty() => Some(found),
                // Somebody else's, or too much to tell from what comes.
                _ => continue,
            },
        };
        host.note(Change::Tree {
            path: path.to_owned(),
            before,
        })?;
    }
    for path in footprint.folders {
        if !view.exists(path)? {
            announce_folders(host, path)?;
            host.note(Change::Directory {
                path: (*path).to_owned(),
            })?;
        }
    }
    for name in footprint.interfaces {
        if !view.exists(&interface_path(name))? {
            host.note(Change::Interface {
                name: (*name).to_owned(),
            })?;
        }
    }
    for key in footprint.sysctls {
        if let Some(before) = view.sysctl(key)? {
            host.note(Change::Sysctl {
                key: (*key).to_owned(),
                before,
            })?;
        }
    }
    Ok(())
}

/// Where the kernel shows a network interface.
pub(crate) fn interface_path(name: &str) -> String {
    format!("/sys/class/net/{name}")
}

/// Notes the folders above a path that do not exist either and will come with it; they go where nothing else is in them.
fn announce_folders(host: &Host<'_>, path: &str) -> Result<()> {
    let mut absent = Vec::new();
    let mut below = path;
    while let Some((parent, _)) = below.rsplit_once('/')
        && !parent.is_empty()
        && !host.view().exists(parent)?
    {
        absent.push(parent);
        below = parent;
    }
    absent.into_iter().rev().try_for_each(|path| {
        host.note(Change::Directory {
            path: path.to_owned(),
        })
    })
}

/// Everything below a folder, by relative paths, sorted; nothing where that is too much.
fn below(view: &HostView, path: &str) -> Result<Option<Vec<String>>> {
    let mut found: Vec<String> = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for name in view.list(&format!("{path}/{folder}"))? {
            let relative = format!("{folder}{name}");
            let facts = view.facts(&format!("{path}/{relative}"))?;
            if facts.is_some_and(|facts| facts.kind == Kind::Directory) {
                folders.push(format!("{relative}/"));
            }
            found.push(relative);
            if found.len() > NOTED {
                return Ok(None);
            }
        }
    }
    found.sort();
    Ok(Some(found))
}

/// Notes a unit as it is before somebody else (kubeadm) starts it.
pub(crate) fn announce_unit(host: &Host<'_>, name: &str) -> Result<()> {
    let before = crate::steps::unit::look(host.view(), name)
        .with_context(|| format!("cannot note the state of {name}"))?;
    host.note(Change::Unit {
        name: name.to_owned(),
        active: before.active,
        enabled: before.enabled,
    })
}
