//! The kernel modules of a node are loaded, now and after a reboot.
//!
//! Only `br_netfilter` is needed without fail: kubeadm refuses a machine without its sysctls. The others serve kube-proxy, which does without `ip_vs` in its default mode
//! and without `iptable_nat` on kernels that have only nftables; where they cannot be had, or modprobe refuses them (`install ip_vs /bin/false` in its configuration), the step
//! says so and goes on.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::Result;

use super::combine;
use super::config_file::ConfigFile;
use crate::facts::MARK;
use crate::facts::modules::{self, Standing};
use crate::host::command::Cmd;
use crate::host::{Host, HostView};
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
pub struct KernelModules {
    /// What could not be loaded, once that was tried, and why.
    refused: RefCell<BTreeMap<&'static str, String>>,
}

impl KernelModules {
    /// The modules of a node.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads a module. Where a node can do without it, a refusal is remembered.
    fn load(&self, host: &Host<'_>, name: &'static str) -> Result<()> {
        let cmd = Cmd::new("modprobe", [name]);
        host.note(Change::Module {
            name: name.to_owned(),
        })?;
        let ran = host
            .try_run(&cmd)
            .and_then(|answer| Ok(answer.expect(&cmd)?));
        let why = match ran {
            Err(cause) if name == NEEDED => return Err(cause),
            Err(cause) => {
                let evidence = format!("{cause:#}");
                evidence.lines().last().unwrap_or_default().to_owned()
            }
            // What an `install` line names may do nothing, and be content with it.
            Ok(_) if name != NEEDED && !modules::standing(host.view(), name)?.is_there() => {
                "modprobe was content, and it is not loaded".to_owned()
            }
            Ok(_) => return Ok(()),
        };
        self.refused.borrow_mut().insert(name, why);
        Ok(())
    }

    /// What is loaded after a reboot: what is a module here, and is not refused. One that is named and cannot be loaded would leave systemd-modules-load failed at every boot.
    fn file(&self, standings: &[(&'static str, Standing)]) -> Option<ConfigFile> {
        let refused = self.refused.borrow();
        let names: Vec<&str> = standings
            .iter()
            .filter(|(name, standing)| match standing {
                Standing::Loaded => true,
                Standing::Loadable => !refused.contains_key(name),
                Standing::BuiltIn | Standing::Missing | Standing::NoModules => false,
            })
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
        let refused = self.refused.borrow();
        let named = |wanted: Standing| {
            let names: Vec<&str> = standings
                .iter()
                .filter(|(name, standing)| *standing == wanted && !refused.contains_key(name))
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
        let loadable = named(Standing::Loadable);
        if !loadable.is_empty() {
            states.push(State::Pending(format!("to load: {loadable}")));
        }
        let told: Vec<String> = standings
            .iter()
            .filter(|(_, standing)| *standing == Standing::Loadable)
            .filter_map(|(name, _)| Some(format!("{name} ({})", refused.get(name)?)))
            .collect();
        if !told.is_empty() {
            states.push(State::Unsettable(format!(
                "cannot be loaded here: {}",
                told.join(", ")
            )));
        }
        let missing = named(Standing::Missing);
        if !missing.is_empty() {
            states.push(State::Unsettable(format!("this kernel has no {missing}")));
        }
        let unseen = named(Standing::NoModules);
        if !unseen.is_empty() {
            states.push(State::Unsettable(format!(
                "not seen, and this kernel loads no modules: {unseen}"
            )));
        }
        if let Some(file) = self.file(&standings) {
            states.push(file.state(view.host)?);
        }
        Ok(combine(states))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let standings = look(world.host.view())?;
        for &(name, standing) in &standings {
            if standing == Standing::Loadable {
                self.load(world.host, name)?;
            }
        }
        self.file(&standings)
            .map_or(Ok(()), |file| file.write(world.host))
    }
}

fn look(host: &HostView) -> Result<Vec<(&'static str, Standing)>> {
    MODULES
        .into_iter()
        .map(|name| Ok((name, modules::standing(host, name)?)))
        .collect()
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
        let (before, after) = machine.ensure(&KernelModules::new(), script).unwrap();
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
            machine.check(&KernelModules::new(), Scripted::new()),
            State::Satisfied
        );
    }

    #[test]
    fn a_kernel_without_modules_is_told_apart() {
        let machine = Machine::new();
        machine.file(BRIDGE, "1\n").file("/proc/net/ip_vs", "");
        let state = machine.check(&KernelModules::new(), Scripted::new());
        assert!(
            matches!(&state, State::Unsettable(why) if why.ends_with("loads no modules: iptable_nat, ip_vs_rr, ip_vs_wrr, ip_vs_sh")),
            "{state:?}"
        );
    }

    #[test]
    fn without_br_netfilter_a_node_is_impossible() {
        let machine = Machine::new();
        assert!(matches!(
            machine.check(&KernelModules::new(), Scripted::new()),
            State::Conflict { .. }
        ));
        machine.file("/proc/modules", "");
        let script = modprobe(&machine, &["ip_vs"]);
        let state = machine.check(&KernelModules::new(), script);
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
            machine.check(&KernelModules::new(), script),
            State::Conflict { .. }
        ));
    }

    #[test]
    fn a_module_that_a_node_does_without_may_be_refused() {
        let machine = Machine::new();
        machine
            .file("/proc/modules", "br_netfilter 1 0 - Live 0x0\n")
            .program("modprobe");
        let script = || {
            Scripted::new()
                .on("modprobe --dry-run", 0, "")
                .on(
                    "modprobe ip_vs",
                    1,
                    "modprobe: ERROR: could not insert 'ip_vs': Operation not permitted",
                )
                // As with `install iptable_nat /bin/true`.
                .on("modprobe iptable_nat", 0, "")
        };
        let step = KernelModules::new();
        let (before, after) = machine.ensure(&step, script()).unwrap();
        assert!(matches!(before, State::Pending(_)), "{before:?}");
        assert!(
            matches!(&after, State::Unsettable(why) if why.starts_with("cannot be loaded here: iptable_nat (modprobe was content, and it is not loaded), ip_vs (modprobe: ERROR: could not insert 'ip_vs': Operation not permitted), ip_vs_rr (")),
            "{after:?}"
        );
        let file = machine.text(PATH).unwrap();
        assert_eq!(file.lines().skip(1).collect::<Vec<_>>(), ["br_netfilter"]);
        // Another run tries again, and comes to the same end.
        let again = KernelModules::new();
        let (before, after) = machine.ensure(&again, script()).unwrap();
        assert!(
            matches!(&before, State::Pending(why) if why.contains("to load: iptable_nat, ip_vs")),
            "{before:?}"
        );
        assert!(matches!(after, State::Unsettable(_)), "{after:?}");
        assert_eq!(machine.text(PATH).unwrap(), file);
    }

    #[test]
    fn a_kernel_that_is_shut_loads_nothing() {
        let machine = Machine::new();
        machine
            .file(BRIDGE, "1\n")
            .file("/proc/modules", "")
            .file("/proc/sys/kernel/modules_disabled", "1\n")
            .program("modprobe");
        let state = machine.check(&KernelModules::new(), Scripted::new());
        assert!(
            matches!(&state, State::Unsettable(why) if why.contains("loads no modules: iptable_nat, ip_vs")),
            "{state:?}"
        );
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
        let error = machine.ensure(&KernelModules::new(), script).unwrap_err();
        assert!(
            format!("{error:#}").contains("Operation not permitted"),
            "{error:#}"
        );
        assert_eq!(machine.text(PATH), None);
    }
}
