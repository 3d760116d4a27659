//! The kernel modules of a node are loaded, now and after a reboot.
//!
//! Only `br_netfilter` is needed without fail: kubeadm refuses a machine without its sysctls. The others serve kube-proxy, which does without `ip_vs` in its default mode
//! and without `iptable_nat` on kernels that have only nftables; where they cannot be had, the step says so and goes on.

use anyhow::Result;

use super::combine;
use super::config_file::ConfigFile;
use crate::facts::MARK;
use crate::facts::modules::{self, Standing};
use crate::host::HostView;
use crate::host::command::Cmd;
use crate::journal::Change;
use crate::step::{State, Step, View, World};

/// The modules of a node as TKE loads them.
pub(crate) const MODULES: [&str; 6] = [
    "br_netfilter",
    "iptable_nat",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_sh",
];

/// The one that a node cannot do without.
const NEEDED: &str = "br_netfilter";

const PATH: &str = "/etc/modules-load.d/kpot.conf";

/// See the module.
#[derive(Debug, Default)]
pub struct KernelModules;

impl KernelModules {
    /// The modules of a node.
    pub fn new() -> Self {
        Self
    }
}

impl Step for KernelModules {
    fn id(&self) -> &'static str {
        "kernel-modules"
    }

    fn summary(&self) -> String {
        "kernel modules are loaded, now and after a reboot".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let standings = look(view.host)?;
        let named = |wanted: &[Standing]| {
            let names: Vec<&str> = standings
                .iter()
                .filter(|(_, standing)| wanted.contains(standing))
                .map(|(name, _)| *name)
                .collect();
            names.join(", ")
        };
        let mut states = Vec::new();
        let lacking = standings.iter().find(|(name, standing)| {
            *name == NEEDED && matches!(standing, Standing::Missing | Standing::NoModules)
        });
        if let Some((name, standing)) = lacking {
            states.push(State::Conflict {
                reason: match standing {
                    Standing::Missing => format!("this kernel has no module {name}, without which kubeadm refuses the machine"),
                    _ => format!("{name} is not in this kernel, which loads no modules here; without it kubeadm refuses the machine"),
                },
                remedy: format!(
                    "install the modules of the running kernel (uname -r), or boot a kernel that has {name}; in a container, load it on the container's host: modprobe {name}"
                ),
            });
        }
        let loadable = named(&[Standing::Loadable]);
        if !loadable.is_empty() {
            states.push(State::Pending(format!("to load: {loadable}")));
        }
        let missing = named(&[Standing::Missing]);
        if !missing.is_empty() {
            states.push(State::Unsettable(format!("this kernel has no {missing}")));
        }
        let unseen = named(&[Standing::NoModules]);
        if !unseen.is_empty() {
            states.push(State::Unsettable(format!(
                "not seen, and this kernel loads no modules: {unseen}"
            )));
        }
        if let Some(file) = file(&standings) {
            states.push(file.state(view.host)?);
        }
        Ok(combine(states))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let standings = look(world.host.view())?;
        for (name, standing) in &standings {
            if *standing == Standing::Loadable {
                let cmd = Cmd::new("modprobe", [*name]);
                let change = Change::Module {
                    name: (*name).to_owned(),
                };
                world.host.run(&cmd, change)?;
            }
        }
        file(&standings).map_or(Ok(()), |file| file.write(world.host))
    }
}

fn look(host: &HostView) -> Result<Vec<(&'static str, Standing)>> {
    MODULES
        .into_iter()
        .map(|name| Ok((name, modules::standing(host, name)?)))
        .collect()
}

/// What is loaded after a reboot: what is a module here. One that is named and does not exist would leave systemd-modules-load failed at every boot.
fn file(standings: &[(&str, Standing)]) -> Option<ConfigFile> {
    let names: Vec<&str> = standings
        .iter()
        .filter(|(_, standing)| matches!(standing, Standing::Loaded | Standing::Loadable))
        .map(|(name, _)| *name)
        .collect();
    (!names.is_empty()).then(|| ConfigFile {
        path: PATH.to_owned(),
        content: format!(
            "{MARK}: kernel modules of a Kubernetes node.\n{}\n",
            names.join("\n")
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Machine;
    use super::*;
    use crate::host::scripted::Scripted;

    const BRIDGE: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

    /// A modprobe that loads what `names` lists, and lists it in the machine's /proc/modules.
    fn modprobe(machine: &Machine, names: &'static [&'static str]) -> Scripted {
        machine.program("modprobe");
        let list = machine.place("/proc/modules");
        Scripted::new().with(move |cmd, _| {
            let name = cmd.args.last()?;
            let found = cmd.program == "modprobe" && names.contains(&name.as_str());
            if found && cmd.args.len() == 1 {
                use std::io::Write;
                let mut file = std::fs::OpenOptions::new().append(true).open(&list).ok()?;
                writeln!(file, "{name} 16384 0 - Live 0x0").ok()?;
            }
            Some(crate::host::command::Output {
                status: i32::from(!found),
                ..Default::default()
            })
        })
    }

    #[test]
    fn what_can_be_loaded_is_loaded_and_named_for_the_next_boot() {
        let machine = Machine::new();
        machine.file("/proc/modules", "ip_vs 1 0 - Live 0x0\n");
        let script = modprobe(
            &machine,
            &[
                "br_netfilter",
                "iptable_nat",
                "ip_vs_rr",
                "ip_vs_wrr",
                "ip_vs_sh",
            ],
        );
        let (before, after) = machine.ensure(&KernelModules, script).unwrap();
        assert!(
            matches!(before, State::Pending(why) if why.starts_with("to load: br_netfilter, iptable_nat"))
        );
        assert_eq!(after, State::Satisfied);
        let file = machine.text(PATH).unwrap();
        assert!(file.starts_with(MARK), "{file}");
        assert_eq!(file.lines().skip(1).collect::<Vec<_>>(), MODULES);
        let loaded = machine
            .journal()
            .into_iter()
            .filter(|change| matches!(change, Change::Module { .. }))
            .count();
        assert_eq!(loaded, 5, "ip_vs was loaded before");
    }

    #[test]
    fn built_in_counts_and_needs_no_file() {
        let machine = Machine::new();
        machine.file("/proc/sys/kernel/osrelease", "5.4.0\n").file(
            "/lib/modules/5.4.0/modules.builtin",
            "kernel/net/netfilter/ipvs/ip_vs.ko\nkernel/a/ip_vs_rr.ko\nkernel/a/ip_vs_wrr.ko\nkernel/a/ip_vs_sh.ko\nkernel/a/iptable-nat.ko\nkernel/a/br_netfilter.ko\n",
        );
        assert_eq!(
            machine.check(&KernelModules, Scripted::new()),
            State::Satisfied
        );
    }

    #[test]
    fn a_kernel_without_modules_is_told_apart() {
        let machine = Machine::new();
        machine.file(BRIDGE, "1\n").file("/proc/net/ip_vs", "");
        let state = machine.check(&KernelModules, Scripted::new());
        assert!(
            matches!(&state, State::Unsettable(why) if why.ends_with("loads no modules: iptable_nat, ip_vs_rr, ip_vs_wrr, ip_vs_sh")),
            "{state:?}"
        );
    }

    #[test]
    fn without_br_netfilter_a_node_is_impossible() {
        let machine = Machine::new();
        assert!(matches!(
            machine.check(&KernelModules, Scripted::new()),
            State::Conflict { .. }
        ));
        machine.file("/proc/modules", "");
        let script = modprobe(&machine, &["ip_vs"]);
        let state = machine.check(&KernelModules, script);
        assert!(
            matches!(state, State::Conflict { reason, .. } if reason.contains("no module br_netfilter"))
        );
    }

    #[test]
    fn somebody_else_s_file_stays() {
        let machine = Machine::new();
        machine
            .file("/proc/modules", "br_netfilter 1 0 - Live 0x0\n")
            .file(PATH, "dm_crypt\n");
        let script = modprobe(&machine, &[]);
        assert!(matches!(
            machine.check(&KernelModules, script),
            State::Conflict { .. }
        ));
    }

    #[test]
    fn a_modprobe_that_fails_ends_the_step() {
        let machine = Machine::new();
        machine.file("/proc/modules", "").program("modprobe");
        let script = Scripted::new().on("modprobe --dry-run", 0, "").on(
            "modprobe",
            1,
            "modprobe: ERROR: could not insert 'br_netfilter': Operation not permitted",
        );
        let error = machine.ensure(&KernelModules, script).unwrap_err();
        assert!(
            format!("{error:#}").contains("Operation not permitted"),
            "{error:#}"
        );
        assert_eq!(machine.text(PATH), None);
    }
}
