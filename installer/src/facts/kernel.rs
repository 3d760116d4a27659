//! The kernel: its release, its configuration where it can be read, and what it can be seen to do.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::modules::{self, Standing};
use crate::host::HostView;
use crate::host::probe::Probe;

/// The kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` prints.
    pub release: String,
    /// The options that are `y` or `m` in its configuration, without `CONFIG_`; nothing where the configuration is not on this machine.
    pub options: Option<BTreeSet<String>>,
    /// What it can be seen to do.
    pub functions: Functions,
}

/// What a kernel can be seen to do, without its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    /// Kinds of namespaces, as in `/proc/self/ns`.
    pub namespaces: BTreeSet<String>,
    /// What of the overlay file system and of netfilter is there, or can be loaded: names of modules.
    pub modules: BTreeSet<&'static str>,
}

/// Modules that containers and kube-proxy need, and where a working one of them is listed.
const MODULES: [(&str, &str, &str); 3] = [
    ("overlay", "/proc/filesystems", "overlay"),
    ("xt_REDIRECT", "/proc/net/ip_tables_targets", "REDIRECT"),
    ("xt_comment", "/proc/net/ip_tables_matches", "comment"),
];

pub(super) fn look(host: &HostView) -> Result<Kernel> {
    let release = host
        .text("/proc/sys/kernel/osrelease")?
        .context("there is no /proc/sys/kernel/osrelease: is /proc mounted?")?
        .trim()
        .to_owned();
    let mut functions = Functions {
        namespaces: host.list("/proc/self/ns")?.into_iter().collect(),
        modules: BTreeSet::new(),
    };
    for (module, list, name) in MODULES {
        let listed = host.text(list)?.unwrap_or_default();
        let there = listed.split_whitespace().any(|word| word == name)
            || matches!(
                modules::standing(host, module)?,
                Standing::Loaded | Standing::BuiltIn | Standing::Loadable
            );
        if there {
            functions.modules.insert(module);
        }
    }
    let options = config(host, &release)?.map(|text| enabled(&text));
    Ok(Kernel {
        release,
        options,
        functions,
    })
}

/// The machine's architecture, as the kernel calls it.
pub(super) fn machine() -> Result<String> {
    let names = nix::sys::utsname::uname().context("cannot ask the kernel for its name")?;
    Ok(names.machine().to_string_lossy().into_owned())
}

/// The text of the kernel's configuration, from the places where kubeadm looks (its system validators, 1.14 to 1.20), in its order.
fn config(host: &HostView, release: &str) -> Result<Option<String>> {
    if host.exists("/proc/config.gz")? && host.program("gzip").is_some() {
        let answer = host.probe(&Probe::kernel_config())?;
        if answer.ok() {
            return Ok(Some(answer.text()));
        }
    }
    let places = [
        format!("/boot/config-{release}"),
        format!("/usr/src/linux-{release}/.config"),
        "/usr/src/linux/.config".to_owned(),
        format!("/usr/lib/modules/{release}/config"),
        format!("/usr/lib/ostree-boot/config-{release}"),
        format!("/usr/lib/kernel/config-{release}"),
        format!("/usr/src/linux-headers-{release}/.config"),
        format!("/lib/modules/{release}/build/.config"),
    ];
    for place in places {
        if let Some(text) = host.text(&place)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn enabled(config: &str) -> BTreeSet<String> {
    config
        .lines()
        .filter_map(|line| {
            let (name, value) = line.trim().strip_prefix("CONFIG_")?.split_once('=')?;
            matches!(value, "y" | "m").then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_and_module_count_as_enabled() {
        let options = enabled(
            "#\nCONFIG_MEMCG=y\nCONFIG_EXT4_FS=m\n# CONFIG_AUFS_FS is not set\nCONFIG_HZ=250\n",
        );
        assert_eq!(
            options.into_iter().collect::<Vec<_>>(),
            ["EXT4_FS", "MEMCG"]
        );
    }
}
