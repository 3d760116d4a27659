//! The kernel modules of a node are loaded, now and after a reboot.
//!
//! Only br_netfilter is needed without fail: kubeadm refuses a machine without its sysctls. The others serve kube-proxy, which does without ip_vs in its default mode
//! and without iptable_nat on kernels that have only nftables; where they cannot be had, the step says so and goes on.

use std::time::Duration;

use anyhow::Result;

use super::combine;
use super::config_file::{ConfigFile, MARK};
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
                let cmd = Cmd::new("modprobe", [*name]).timeout(Duration::from_secs(60));
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
        path: PATH,
        content: format!(
            "{MARK}: kernel modules of a Kubernetes node.\n{}\n",
            names.join("\n")
        ),
    })
}
