//! What the kubelet here will be told, by the cluster's configuration and by what people gave it on this machine, and cannot work with; and what kubeadm demands of a machine whose masters
//! are known by IPv6 addresses. kubeadm finds it out only when a member was removed, or etcd waits for this machine's already, so it is refused before.

use std::net::SocketAddr;

use anyhow::Result;

use crate::host::HostView;
use crate::joining::Joining;
use crate::joining::refusals::Refusal;
use crate::replacing::is_below;
use crate::steps::{EXTRA_ARGS, extra_flags};

/// What a kubelet sets where it is not told to protect the kernel's defaults, and else demands (pkg/util/sysctl and pkg/kubelet/cm, setupKernelTunables).
const TUNABLES: [(&str, &str); 6] = [
    ("kernel.keys.root_maxbytes", "25000000"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.panic", "10"),
    ("kernel.panic_on_oops", "1"),
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
];

/// A file in which people give the kubelet flags, and those in it with their values.
type Given = (&'static str, Vec<(String, String)>);

/// Refuses what would keep the kubelet of this machine, or its pods, from starting after the join.
pub(super) fn refusals(host: &HostView, joining: &Joining) -> Result<Vec<Refusal>> {
    let mut given = Vec::new();
    for path in EXTRA_ARGS {
        given.push((path, extra_flags(host, path)?));
    }
    let mut all = Vec::new();
    all.extend(resolver(host, joining, &given)?);
    all.extend(tunables(host, joining, &given)?);
    all.extend(flags(joining, &given));
    all.extend(files(host, joining)?);
    all.extend(cgroups(host, joining)?);
    all.extend(forwarding(host, &joining.discovery)?);
    Ok(all)
}

/// kubeadm's preflight demands it of every machine that joins by an IPv6 address (`addIPv6Checks`). It is not set here: a machine that forwards takes no default route from routers any more.
fn forwarding(host: &HostView, discovery: &str) -> Result<Option<Refusal>> {
    const KEY: &str = "net.ipv6.conf.default.forwarding";
    let is_v6 = discovery
        .parse::<SocketAddr>()
        .is_ok_and(|place| place.is_ipv6());
    if !is_v6 || host.sysctl(KEY)?.as_deref() == Some("1") {
        return Ok(None);
    }
    Ok(Some(Refusal {
        cause: format!(
            "{KEY} is not 1, and kubeadm joins no machine by an IPv6 address without it"
        ),
        remedy: format!(
            "Where this machine's routes are its own: echo {KEY}=1 >/etc/sysctl.d/90-ipv6.conf && sysctl -p /etc/sysctl.d/90-ipv6.conf. Where a router gives them, set net.ipv6.conf.DEVICE.accept_ra=2 before"
        ),
    }))
}

/// kubeadm 1.19 to 1.30 writes the resolver of the machine that began the cluster into everybody's configuration. The kubelet reads it for every pod.
fn resolver(host: &HostView, joining: &Joining, given: &[Given]) -> Result<Option<Refusal>> {
    let told = joining.cluster.kubelet.resolv_conf.as_ref();
    let path = value(given, "--resolv-conf").or(told);
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    Ok(host.read(path)?.is_none().then(|| Refusal {
        cause: format!(
            "the cluster's kubelets read {path} (resolvConf in their configuration), which is not on this machine: no pod would start here, etcd's included"
        ),
        remedy: "Where it is that of systemd-resolved: systemctl enable --now systemd-resolved. Else give all of them a file that every machine has (resolvConf: /etc/resolv.conf), on a healthy master: kubectl --namespace kube-system edit configmap; its name begins with kubelet-config".to_owned(),
    }))
}

fn tunables(host: &HostView, joining: &Joining, given: &[Given]) -> Result<Option<Refusal>> {
    let protects = match value(given, "--protect-kernel-defaults") {
        // As Go reads such a flag, which needs no value.
        Some(value) => !["false", "False", "FALSE", "f", "F", "0"].contains(&value.as_str()),
        None => joining.cluster.kubelet.protect_kernel_defaults,
    };
    if !protects {
        return Ok(None);
    }
    let (mut wrong, mut lines) = (Vec::new(), Vec::new());
    for (key, value) in TUNABLES {
        if let Some(now) = host.sysctl(key)?.filter(|now| now != value) {
            wrong.push(format!("{key} is {now}, wanted {value}"));
            lines.push(format!("{key}={value}"));
        }
    }
    Ok((!wrong.is_empty()).then(|| Refusal {
        cause: format!(
            "the cluster's kubelets do not start where the kernel is set otherwise than they want it (protectKernelDefaults): {}",
            wrong.join("; ")
        ),
        remedy: format!(
            "printf '%s\\n' {} >>/etc/sysctl.d/90-kubelet.conf && sysctl -p /etc/sysctl.d/90-kubelet.conf",
            lines.join(" ")
        ),
    }))
}

/// The kubelet ends where a file of its configuration is not there.
fn files(host: &HostView, joining: &Joining) -> Result<Option<Refusal>> {
    let (kubelet, cluster) = (&joining.cluster.kubelet, &joining.cluster);
    let mut missing = Vec::new();
    for (field, path) in [
        ("tlsCertFile", &kubelet.tls_cert_file),
        ("tlsPrivateKeyFile", &kubelet.tls_private_key_file),
        ("clientCAFile", &kubelet.authentication.x509.client_ca_file),
    ] {
        // The cluster's certificates come with the join, and what the control plane's pods read before it.
        let is_certificate = is_below(path, &cluster.config.certificates_dir);
        let is_brought = cluster.extra_paths.iter().any(|extra| extra.path == *path);
        if !path.is_empty() && !is_certificate && !is_brought && !host.exists(path)? {
            missing.push(format!("{path} ({field})"));
        }
    }
    Ok((!missing.is_empty()).then(|| Refusal {
        cause: format!(
            "the cluster's kubelets read files that are not on this machine, and none starts without them: {}",
            missing.join(", ")
        ),
        remedy: "Put them here (a certificate of this machine's own where it is one), or take them out of the configuration of all: kubectl --namespace kube-system edit configmap; its name begins with kubelet-config".to_owned(),
    }))
}

/// The kubelet ends where it shall hold a cgroup to its resources that is not there. It makes none of them.
fn cgroups(host: &HostView, joining: &Joining) -> Result<Option<Refusal>> {
    let kubelet = &joining.cluster.kubelet;
    let mut missing = Vec::new();
    for (kind, name) in [
        ("kube-reserved", &kubelet.kube_reserved_cgroup),
        ("system-reserved", &kubelet.system_reserved_cgroup),
    ] {
        let is_enforced = kubelet.enforce_node_allocatable.iter().any(|it| it == kind);
        let bare = name.trim_matches('/');
        // systemd has a cgroup within another one under a name of its own.
        if !is_enforced || bare.is_empty() || bare.contains('/') {
            continue;
        }
        let mut is_there = false;
        for root in [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/memory",
        ] {
            is_there |= host.exists(&format!("{root}/{bare}"))?
                || host.exists(&format!("{root}/{bare}.slice"))?;
        }
        if !is_there {
            missing.push(format!("{name} ({kind})"));
        }
    }
    Ok((!missing.is_empty()).then(|| Refusal {
        cause: format!(
            "the cluster's kubelets hold cgroups to their resources that are not on this machine (enforceNodeAllocatable), and none starts without them: {}",
            missing.join(", ")
        ),
        remedy: "Make them as the other masters have them, as a rule by a slice unit of systemd; see there: systemctl status -- *.slice".to_owned(),
    }))
}

/// The value that people gave the kubelet for a flag: it counts more than the configuration.
fn value<'g>(given: &'g [Given], flag: &str) -> Option<&'g String> {
    let mut flags = given.iter().flat_map(|(_, flags)| flags);
    let last = flags.rfind(|(name, _)| name == flag);
    last.map(|(_, value)| value)
}

/// Flags that people gave the kubelet come last on its command line, and count.
fn flags(joining: &Joining, given: &[Given]) -> Vec<Refusal> {
    // /var/run is a link.
    let bare = |value: &str| {
        let path = value.trim_start_matches("unix://");
        path.strip_prefix("/var")
            .filter(|rest| rest.starts_with("/run/"))
            .unwrap_or(path)
            .to_owned()
    };
    let socket = bare(joining.cri_socket());
    let wanted = [
        ("--cgroup-driver", joining.cluster.cgroup_driver.clone()),
        ("--hostname-override", joining.node.clone()),
        ("--container-runtime-endpoint", socket),
    ];
    let mut all = Vec::new();
    for (path, flags) in given {
        for (flag, value) in &wanted {
            let last = flags.iter().rfind(|(name, _)| name == flag);
            // The kubelet makes its own name small.
            let fits = |other: &str| {
                let other = bare(other);
                other == *value
                    || (*flag == "--hostname-override" && other.to_lowercase() == *value)
            };
            let Some((_, other)) = last.filter(|(_, other)| !fits(other)) else {
                continue;
            };
            all.push(Refusal {
                cause: format!(
                    "{path} gives the kubelet {flag}={other}, and here it must be {value}: it would not become the cluster's node {}",
                    joining.node
                ),
                remedy: format!("Take {flag} out of {path}: kubeadm gives it what is right"),
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::host::scripted::Scripted;
    use crate::joining::fixtures;
    use crate::steps::testing::Machine;

    fn refused(machine: &Machine, change: impl FnOnce(&mut Joining)) -> String {
        let mut joining = fixtures::joining(Rc::new(fixtures::cluster()));
        change(&mut joining);
        let all = refusals(&machine.view(Scripted::new()), &joining).unwrap();
        let texts = all
            .iter()
            .map(|one| format!("{}\n{}\n", one.cause, one.remedy));
        texts.collect()
    }

    fn kubelet(joining: &mut Joining) -> &mut crate::control_plane::kubeadm::KubeletConfiguration {
        &mut Rc::get_mut(&mut joining.cluster).unwrap().kubelet
    }

    #[test]
    fn a_resolver_that_is_not_here_refuses() {
        let machine = Machine::new();
        let path = "/run/systemd/resolve/resolv.conf";
        let told = |machine: &Machine, path: &str| {
            refused(machine, |joining| {
                kubelet(joining).resolv_conf = Some(path.to_owned());
            })
        };
        assert!(told(&machine, path).contains("systemctl enable --now systemd-resolved"));
        assert_eq!(told(&machine, ""), "");
        let flagged = Machine::new();
        flagged
            .file("/etc/resolv.conf", "nameserver 10.0.0.2\n")
            .file(
                "/etc/default/kubelet",
                "KUBELET_EXTRA_ARGS=--resolv-conf=/etc/resolv.conf\n",
            );
        assert_eq!(told(&flagged, path), "", "the flag counts");
        machine.file(path, "nameserver 10.0.0.2\n");
        assert_eq!(told(&machine, path), "");
        assert_eq!(refused(&Machine::new(), |_| {}), "");
    }

    #[test]
    fn a_kernel_that_a_protecting_kubelet_does_not_bear_refuses_with_what_sets_it() {
        let machine = Machine::new();
        machine
            .file("/proc/sys/kernel/panic", "0\n")
            .file("/proc/sys/vm/panic_on_oom", "0\n");
        let told = refused(&machine, |joining| {
            kubelet(joining).protect_kernel_defaults = true;
        });
        assert!(told.contains("kernel.panic is 0, wanted 10"), "{told}");
        assert!(told.contains("printf '%s\\n' kernel.panic=10 >>"), "{told}");
        machine.file(
            "/etc/default/kubelet",
            "KUBELET_EXTRA_ARGS=\"--v=2 --protect-kernel-defaults\"\nHTTP_PROXY=x\n",
        );
        assert!(refused(&machine, |_| {}).contains("kernel.panic"));
        machine.file(
            "/etc/default/kubelet",
            "KUBELET_EXTRA_ARGS=--protect-kernel-defaults=false\n",
        );
        let overruled = refused(&machine, |joining| {
            kubelet(joining).protect_kernel_defaults = true;
        });
        assert_eq!(overruled, "");
        assert_eq!(refused(&machine, |_| {}), "");
    }

    #[test]
    fn what_the_kubelets_configuration_names_must_be_here() {
        let machine = Machine::new();
        let told = |machine: &Machine| {
            refused(machine, |joining| {
                let kubelet = kubelet(joining);
                kubelet.tls_cert_file = "/etc/kubelet/tls.crt".to_owned();
                let authentication = &mut kubelet.authentication;
                authentication.x509.client_ca_file = "/etc/kubernetes/pki/ca.crt".to_owned();
            })
        };
        assert!(told(&machine).contains("/etc/kubelet/tls.crt (tlsCertFile)"));
        assert!(!told(&machine).contains("ca.crt"), "the join brings it");
        machine.file("/etc/kubelet/tls.crt", "a certificate");
        assert_eq!(told(&machine), "");
        let held = |machine: &Machine, cgroup: &str, enforced: &str| {
            refused(machine, |joining| {
                let kubelet = kubelet(joining);
                kubelet.kube_reserved_cgroup = cgroup.to_owned();
                kubelet.enforce_node_allocatable = vec!["pods".to_owned(), enforced.to_owned()];
            })
        };
        assert!(
            held(&machine, "/kube.slice", "kube-reserved").contains("/kube.slice (kube-reserved)")
        );
        assert_eq!(held(&machine, "/kube.slice", "system-reserved"), "");
        assert_eq!(held(&machine, "", "kube-reserved"), "");
        machine.file("/sys/fs/cgroup/memory/kube.slice/tasks", "");
        assert_eq!(held(&machine, "/kube.slice", "kube-reserved"), "");
        assert_eq!(held(&machine, "/kube", "kube-reserved"), "");
    }

    #[test]
    fn a_machine_that_joins_by_ipv6_forwards_it() {
        let machine = Machine::new();
        machine.file("/proc/sys/net/ipv6/conf/default/forwarding", "0\n");
        let told = |machine: &Machine, place: &str| {
            refused(machine, |joining| place.clone_into(&mut joining.discovery))
        };
        assert!(told(&machine, "[fd00::11]:6443").contains("default.forwarding=1"));
        assert_eq!(told(&machine, "10.0.0.11:6443"), "");
        machine.file("/proc/sys/net/ipv6/conf/default/forwarding", "1\n");
        assert_eq!(told(&machine, "[fd00::11]:6443"), "");
    }

    #[test]
    fn flags_of_an_earlier_life_refuse_where_they_would_count() {
        let machine = Machine::new();
        machine
            .file(
                "/etc/sysconfig/kubelet",
                "# --cgroup-driver=no\nKUBELET_EXTRA_ARGS=\"--cgroup-driver systemd --v=2\"\n",
            )
            .file(
                "/etc/default/kubelet",
                "KUBELET_EXTRA_ARGS='--hostname-override=old --cgroup-driver=cgroupfs'\n",
            );
        let told = refused(&machine, |_| {});
        assert!(
            told.contains("sysconfig/kubelet gives the kubelet --cgroup-driver=systemd"),
            "{told}"
        );
        assert!(
            told.contains("default/kubelet gives the kubelet --hostname-override=old"),
            "{told}"
        );
        assert_eq!(told.matches("gives the kubelet").count(), 2, "{told}");
        let fits = Machine::new();
        fits.file(
            "/etc/default/kubelet",
            "KUBELET_EXTRA_ARGS='--container-runtime-endpoint=unix:///run/dockershim.sock --hostname-override=B1'\n",
        );
        assert_eq!(refused(&fits, |_| {}), "");
    }
}
