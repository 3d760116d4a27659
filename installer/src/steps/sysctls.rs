//! The sysctls of a node have TKE's values, now and after a reboot.
//!
//! Every value is read back and compared field by field. Keys that this kernel or this container's network namespace does not have, or holds read-only, are named and
//! passed over, except the two that kubeadm refuses to go on without; so are those that look as if they could be set, and are refused when it is tried (AppArmor, LXC). The file
//! holds every value: systemd-sysctl passes over keys that do not exist, and a key may appear later, with its module. What other files say of the same keys after ours is told: it holds after the next reboot, or after the next `sysctl --system` or `sysctl -p`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use super::combine;
use super::config_file::ConfigFile;
use crate::facts::MARK;
use crate::facts::modules;
use crate::host::{Host, HostView};
use crate::journal::Change;
use crate::step::{State, Step, View, World};

/// Behind `99-sysctl.conf`, by which Debian and Red Hat read /etc/sysctl.conf at boot.
const NAME: &str = "99-zz-kpot.conf";

/// Where systemd and `sysctl --system` look for files like ours, the first one first: of two with one name the first counts.
const FOLDERS: [&str; 5] = [
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
    "/lib/sysctl.d",
];

/// What `sysctl --system` reads last of all, and `sysctl -p` alone.
const LAST: &str = "/etc/sysctl.conf";

/// What depends on a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// kubeadm's own preflight demands it.
    Needed,
    /// A node works without it.
    Wanted,
    /// kube-proxy sets it from its own configuration when it starts, so ours holds until then, and another value later is right.
    UntilKubeProxy,
}

/// TKE's values.
const VALUES: [(&str, &str, Weight); 22] = {
    use Weight::{Needed, UntilKubeProxy, Wanted};
    [
        ("fs.inotify.max_user_watches", "1048576", Wanted),
        // Only the kernels of RHEL 7 have it.
        ("fs.may_detach_mounts", "1", Wanted),
        ("kernel.sem", "250 32000 32 1024", Wanted),
        ("net.bridge.bridge-nf-call-ip6tables", "1", Wanted),
        ("net.bridge.bridge-nf-call-iptables", "1", Needed),
        ("net.core.netdev_max_backlog", "20000", Wanted),
        ("net.core.rmem_default", "262144", Wanted),
        ("net.core.rmem_max", "16777216", Wanted),
        ("net.core.somaxconn", "2048", Wanted),
        ("net.core.wmem_default", "262144", Wanted),
        ("net.core.wmem_max", "16777216", Wanted),
        ("net.ipv4.ip_forward", "1", Needed),
        ("net.ipv4.tcp_fin_timeout", "15", Wanted),
        ("net.ipv4.tcp_max_orphans", "131072", Wanted),
        ("net.ipv4.tcp_max_syn_backlog", "16384", Wanted),
        ("net.ipv4.tcp_mem", "786432 2097152 3145728", Wanted),
        ("net.ipv4.tcp_tw_reuse", "1", Wanted),
        ("net.netfilter.nf_conntrack_max", "524288", UntilKubeProxy),
        ("vm.dirty_background_ratio", "5", Wanted),
        ("vm.dirty_ratio", "10", Wanted),
        ("vm.max_map_count", "262144", Wanted),
        ("vm.swappiness", "0", Wanted),
    ]
};

/// How a key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Right,
    Different(String),
    ReadOnly(String),
    Absent,
    /// Absent until the module `br_netfilter` is loaded, which can be done.
    WithModule,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Sysctls {
    /// What could not be set, once that was tried, and why.
    refused: RefCell<BTreeMap<&'static str, String>>,
}

impl Sysctls {
    /// The sysctls of a node.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Step for Sysctls {
    fn id(&self) -> &'static str {
        "sysctls"
    }

    fn summary(&self) -> String {
        "sysctls are set, now and after a reboot".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let file = file().state(view.host)?;
        let written = file == State::Satisfied;
        let mut states = vec![file];
        let (mut pending, mut absent, mut fixed) = (Vec::new(), Vec::new(), Vec::new());
        let refused = self.refused.borrow();
        for (key, value, weight) in VALUES {
            let standing = look(view.host, key, value)?;
            match (standing, weight) {
                (Standing::Right, _) => {}
                (Standing::Different(_), Weight::UntilKubeProxy) if written => {}
                (Standing::Different(now), _) => match refused.get(key) {
                    Some(why) => states.push(State::Unsettable(why.clone())),
                    None => pending.push(format!("{key} is {now}, wanted {value}")),
                },
                (Standing::WithModule, _) => pending.push(format!("{key} comes with br_netfilter")),
                (Standing::Absent, Weight::Needed) => {
                    states.push(needed(key, "does not exist here"));
                }
                (Standing::ReadOnly(now), Weight::Needed) => {
                    states.push(needed(key, &format!("is {now} and cannot be changed here")));
                }
                (Standing::Absent, _) => absent.push(key),
                (Standing::ReadOnly(_), _) => fixed.push(key),
            }
        }
        if !pending.is_empty() {
            states.push(State::Pending(pending.join(", ")));
        }
        states.extend(set_otherwise(view.host)?);
        for (keys, why) in [
            (absent, "does not exist here"),
            (fixed, "is read-only here"),
        ] {
            if !keys.is_empty() {
                states.push(State::Unsettable(format!("{why}: {}", keys.join(", "))));
            }
        }
        Ok(combine(states))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        for (key, value, weight) in VALUES {
            if let Standing::Different(_) = look(world.host.view(), key, value)? {
                note_sibling(world.host, key)?;
                match (world.host.set_sysctl(key, value), weight) {
                    (Ok(()), _) => {}
                    (Err(cause), Weight::Needed) => return Err(cause),
                    (Err(cause), Weight::Wanted | Weight::UntilKubeProxy) => {
                        let why = format!("{cause:#}");
                        self.refused.borrow_mut().insert(key, why);
                    }
                }
            }
        }
        // Last: as long as it is missing, a run that was cut off sets every value again.
        file().write(world.host)
    }
}

/// Notes the sysctl that the kernel sets to 0 when this one is set: of a ratio and a number of bytes only one holds.
fn note_sibling(host: &Host<'_>, key: &str) -> Result<()> {
    let sibling = match key {
        "vm.dirty_background_ratio" => "vm.dirty_background_bytes",
        "vm.dirty_ratio" => "vm.dirty_bytes",
        _ => return Ok(()),
    };
    let Some(before) = host.view().sysctl(sibling)? else {
        return Ok(());
    };
    host.note(Change::Sysctl {
        key: sibling.to_owned(),
        before,
    })
}

fn look(host: &HostView, key: &str, value: &str) -> Result<Standing> {
    let Some(now) = host.sysctl(key)? else {
        let bridge = key.starts_with("net.bridge.")
            && modules::standing(host, "br_netfilter")? == modules::Standing::Loadable;
        return Ok(if bridge {
            Standing::WithModule
        } else {
            Standing::Absent
        });
    };
    Ok(if now == value {
        Standing::Right
    } else if host.sysctl_is_writable(key)? {
        Standing::Different(now)
    } else {
        Standing::ReadOnly(now)
    })
}

/// What files that are read after ours set to other values.
fn set_otherwise(host: &HostView) -> Result<Vec<State>> {
    let mut later = BTreeMap::new();
    for folder in FOLDERS {
        for name in host.list(folder)? {
            let kind = name.rsplit_once('.').map(|(_, kind)| kind);
            if kind == Some("conf") && name.as_str() > NAME {
                let path = format!("{folder}/{name}");
                later.entry(name).or_insert(path);
            }
        }
    }
    let mut states = Vec::new();
    for path in later.into_values().chain([LAST.to_owned()]) {
        let text = host.text(&path)?.unwrap_or_default();
        let set: BTreeMap<String, String> = text.lines().filter_map(assignment).collect();
        for (key, value, weight) in VALUES {
            let Some(other) = set.get(key).filter(|other| *other != value) else {
                continue;
            };
            let told = format!("{path}, which is read after ours, sets {key} to {other}");
            match weight {
                Weight::Needed if path != LAST => states.push(State::Conflict {
                    reason: format!("{told}, and no pod has a network without {value}"),
                    remedy: format!("set it to {value} there, or take the line out of {path}"),
                }),
                Weight::Needed | Weight::Wanted => states.push(State::Unsettable(format!(
                    "{told} (wanted {value}) when it is read next: take the line out of it"
                ))),
                Weight::UntilKubeProxy => {}
            }
        }
    }
    Ok(states)
}

/// Key and value of a line such as `net.ipv4.ip_forward = 1`, `-net/ipv4/ip_forward=1`, with single spaces.
fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let key = key.trim().trim_start_matches('-').replace('/', ".");
    let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
    Some((key, value))
}

fn needed(key: &str, why: &str) -> State {
    State::Conflict {
        reason: format!("the sysctl {key} {why}, and kubeadm goes no further without it"),
        remedy: format!(
            "in a container, set it on the container's host: sysctl -w {key}=1; on a machine, see what keeps it: sysctl -w {key}=1"
        ),
    }
}

fn file() -> ConfigFile {
    let mut content = format!("{MARK}: sysctls of a Kubernetes node.\n");
    for (key, value, _) in VALUES {
        // Unquoted: quotes would become a part of the value.
        let _ = writeln!(content, "{key} = {value}");
    }
    ConfigFile {
        path: format!("{}/{NAME}", FOLDERS[0]),
        content,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Machine;
    use super::*;
    use crate::host::scripted::Scripted;

    const PATH: &str = "/etc/sysctl.d/99-zz-kpot.conf";

    fn path(key: &str) -> String {
        format!("/proc/sys/{}", key.replace('.', "/"))
    }

    /// A kernel that has every key, with values shorter than ours: a plain file keeps what is behind the bytes that are written.
    fn kernel() -> Machine {
        let machine = Machine::new();
        for (key, _, _) in VALUES {
            machine.file(&path(key), "7");
        }
        machine
    }

    #[test]
    fn every_value_is_set_read_back_and_written_down() {
        let machine = kernel();
        let (before, after) = machine.ensure(&Sysctls::new(), Scripted::new()).unwrap();
        assert!(matches!(before, State::Pending(_)));
        assert_eq!(after, State::Satisfied);
        let file = machine.text(PATH).unwrap();
        for (key, value, _) in VALUES {
            assert_eq!(machine.text(&path(key)).unwrap(), value, "{key}");
            assert!(file.contains(&format!("\n{key} = {value}\n")), "{key}");
        }
        let sets = machine
            .journal()
            .into_iter()
            .filter(|change| matches!(change, Change::Sysctl { before, .. } if before == "7"))
            .count();
        assert_eq!(sets, VALUES.len());
    }

    #[test]
    fn keys_are_written_in_plain_letters() {
        // One of the originals' bugs: a ligature in a key, which no kernel knows.
        for (key, value, _) in VALUES {
            assert!(key.is_ascii() && value.is_ascii(), "{key}");
        }
    }

    #[test]
    fn values_are_compared_field_by_field() {
        let machine = kernel();
        machine.ensure(&Sysctls::new(), Scripted::new()).unwrap();
        machine.file(&path("kernel.sem"), "250\t32000\t32\t1024\n");
        assert_eq!(
            machine.check(&Sysctls::new(), Scripted::new()),
            State::Satisfied
        );
        machine.file(&path("kernel.sem"), "250\t32000\t32\t1025\n");
        assert!(matches!(
            machine.check(&Sysctls::new(), Scripted::new()),
            State::Pending(_)
        ));
    }

    #[test]
    fn what_a_container_cannot_set_is_named_and_passed_over() {
        let machine = kernel();
        machine.ensure(&Sysctls::new(), Scripted::new()).unwrap();
        let absent = machine.place(&path("net.core.netdev_max_backlog"));
        let fixed = machine.place(&path("net.core.rmem_max"));
        for place in [&absent, &fixed] {
            #[allow(clippy::disallowed_methods, reason = "the test's own file")]
            std::fs::remove_file(place).unwrap();
        }
        // A sysctl that not even root can write.
        std::os::unix::fs::symlink("/proc/sys/kernel/osrelease", fixed).unwrap();
        assert_eq!(
            machine.check(&Sysctls::new(), Scripted::new()),
            State::Unsettable(
                "does not exist here: net.core.netdev_max_backlog; is read-only here: net.core.rmem_max".to_owned()
            )
        );
    }

    #[test]
    fn what_kubeadm_demands_is_not_passed_over() {
        let machine = kernel();
        machine.ensure(&Sysctls::new(), Scripted::new()).unwrap();
        let bridge = machine.place(&path("net.bridge.bridge-nf-call-iptables"));
        #[allow(clippy::disallowed_methods, reason = "the test's own file")]
        std::fs::remove_file(bridge).unwrap();
        assert!(matches!(
            machine.check(&Sysctls::new(), Scripted::new()),
            State::Conflict { .. }
        ));
        // Where the module that brings it can be loaded, it will be there in time.
        machine.file("/proc/modules", "").program("modprobe");
        let script = Scripted::new().on("modprobe --dry-run", 0, "");
        assert!(matches!(
            machine.check(&Sysctls::new(), script),
            State::Pending(_)
        ));
    }

    #[test]
    fn kube_proxy_may_have_its_own_limit_of_connections() {
        let machine = kernel();
        machine.ensure(&Sysctls::new(), Scripted::new()).unwrap();
        machine.file(&path("net.netfilter.nf_conntrack_max"), "131072\n");
        assert_eq!(
            machine.check(&Sysctls::new(), Scripted::new()),
            State::Satisfied
        );
    }

    #[test]
    fn a_value_that_does_not_take_ends_the_step() {
        let machine = kernel();
        machine.file(&path("net.ipv4.ip_forward"), "0 and more");
        let error = machine
            .ensure(&Sysctls::new(), Scripted::new())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("net.ipv4.ip_forward was set to 1 and is"),
            "{error:#}"
        );
        assert_eq!(machine.text(PATH), None);
    }

    #[test]
    fn what_a_node_does_without_may_be_refused_when_it_is_set() {
        let machine = kernel();
        // One that does not take what is written, and one that can be opened and refuses it.
        machine.file(&path("vm.swappiness"), "60 and more");
        let strict = machine.place(&path("net.core.rmem_max"));
        #[allow(clippy::disallowed_methods, reason = "the test's own file")]
        std::fs::remove_file(&strict).unwrap();
        std::os::unix::fs::symlink("/proc/self/oom_score_adj", strict).unwrap();
        let step = Sysctls::new();
        let (before, after) = machine.ensure(&step, Scripted::new()).unwrap();
        assert!(matches!(before, State::Pending(_)), "{before:?}");
        assert!(
            matches!(&after, State::Unsettable(why) if why.contains("vm.swappiness was set to 0 and is") && why.contains("cannot set net.core.rmem_max to 16777216: ")),
            "{after:?}"
        );
        assert_eq!(
            machine.text(&path("net.ipv4.ip_forward")).unwrap(),
            "1",
            "the others are set all the same"
        );
        assert!(machine.text(PATH).is_some());
    }

    #[test]
    fn what_is_read_after_ours_and_says_otherwise_is_told() {
        let machine = kernel();
        machine.ensure(&Sysctls::new(), Scripted::new()).unwrap();
        let state = || machine.check(&Sysctls::new(), Scripted::new());
        // Read before ours, or of another mind in nothing.
        machine
            .file("/etc/sysctl.d/99-sysctl.conf", "net.ipv4.ip_forward=0\n")
            .file(
                "/usr/lib/sysctl.d/zz-same.conf",
                "# vm.swappiness=1\nvm.swappiness = 0\nkernel.sem=250\t32000 32 1024\n",
            )
            .file(
                "/usr/lib/sysctl.d/zz-masked.conf",
                "net.ipv4.ip_forward=0\n",
            )
            .file("/etc/sysctl.d/zz-masked.conf", "")
            .file(
                "/etc/sysctl.conf",
                "net.netfilter.nf_conntrack_max = 65536\n",
            );
        assert_eq!(state(), State::Satisfied);
        machine.file("/etc/sysctl.conf", "vm.swappiness=10\nvm.swappiness = 60\n");
        assert_eq!(
            state(),
            State::Unsettable("/etc/sysctl.conf, which is read after ours, sets vm.swappiness to 60 (wanted 0) when it is read next: take the line out of it".to_owned())
        );
        machine.file("/run/sysctl.d/zz-router.conf", "-net/ipv4/ip_forward = 0\n");
        assert!(
            matches!(&state(), State::Conflict { reason, remedy } if reason.starts_with("/run/sysctl.d/zz-router.conf, which is read after ours, sets net.ipv4.ip_forward to 0") && remedy.contains("set it to 1 there"))
        );
    }

    #[test]
    fn somebody_else_s_file_stays() {
        let machine = kernel();
        machine.file(PATH, "vm.swappiness = 60\n");
        assert!(matches!(
            machine.check(&Sysctls::new(), Scripted::new()),
            State::Conflict { .. }
        ));
    }
}
