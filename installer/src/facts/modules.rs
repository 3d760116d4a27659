//! Kernel modules: whether one is there, could be loaded, or cannot.
//!
//! Built in counts as there. A built-in module without parameters has no folder in /sys/module, and a kernel without module support has no list of what is built in,
//! so what a module does is taken as evidence as well.

use anyhow::Result;

use crate::host::HostView;
use crate::host::probe::Probe;

/// Whether the running kernel has a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Loaded as a module.
    Loaded,
    /// Built in, or its work is done by another part of this kernel.
    BuiltIn,
    /// Not loaded, but modprobe finds it.
    Loadable,
    /// Not there: this kernel has no such module on this machine.
    Missing,
    /// Not seen, and this kernel (or the container that we are in) loads no modules.
    NoModules,
}

impl Standing {
    /// Whether it works now.
    pub fn is_there(self) -> bool {
        matches!(self, Self::Loaded | Self::BuiltIn)
    }
}

/// Files that exist only where the module works.
const EVIDENCE: [(&str, &str); 3] = [
    // Before Linux 3.18 it was a part of the module bridge.
    (
        "br_netfilter",
        "/proc/sys/net/bridge/bridge-nf-call-iptables",
    ),
    ("ip_vs", "/proc/net/ip_vs"),
    ("overlay", "/sys/module/overlay"),
];

/// Looks for the module `name`, written with underscores.
pub fn standing(host: &HostView, name: &str) -> Result<Standing> {
    let loaded = host.text("/proc/modules")?;
    if let Some(list) = &loaded
        && list
            .lines()
            .any(|line| line.split_whitespace().next() == Some(name))
    {
        return Ok(Standing::Loaded);
    }
    let evidence = EVIDENCE
        .iter()
        .filter(|(module, _)| *module == name)
        .map(|(_, path)| *path);
    for path in evidence.chain([format!("/sys/module/{name}").as_str()]) {
        if host.exists(path)? {
            return Ok(Standing::BuiltIn);
        }
    }
    if is_listed_as_built_in(host, name)? {
        return Ok(Standing::BuiltIn);
    }
    // Once it is set, nothing takes it back before the next boot.
    let shut = host.sysctl("kernel.modules_disabled")?.as_deref() == Some("1");
    if shut || loaded.is_none() || host.program("modprobe").is_none() {
        return Ok(Standing::NoModules);
    }
    Ok(if host.probe(&Probe::module(name))?.ok() {
        Standing::Loadable
    } else {
        Standing::Missing
    })
}

fn is_listed_as_built_in(host: &HostView, name: &str) -> Result<bool> {
    let Some(release) = host.text("/proc/sys/kernel/osrelease")? else {
        return Ok(false);
    };
    let list = host.text(&format!("/lib/modules/{}/modules.builtin", release.trim()))?;
    Ok(list.unwrap_or_default().lines().any(|line| {
        line.rsplit('/')
            .next()
            .and_then(|file| file.strip_suffix(".ko"))
            .is_some_and(|module| module.replace('-', "_") == name)
    }))
}
