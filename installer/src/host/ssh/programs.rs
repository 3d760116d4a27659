//! Where programs are: on this machine those that make a connection, on the other one those that root runs there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, ensure};

use super::Target;
use crate::host::PROGRAM_DIRS;

/// The packages that bring ssh and ssh-keyscan.
const CLIENT: &str = "openssh-client (Debian, Ubuntu), openssh-clients (RHEL, CentOS)";

/// The package that brings setsid.
const UTIL_LINUX: &str = "util-linux";

/// Where programs lie beside the usual folders: where /usr cannot be written (Flatcar), where installers of Kubernetes put them (kubeasz), and where snaps are.
const OTHER_DIRS: [&str; 3] = ["/opt/bin", "/opt/kube/bin", "/snap/bin"];

/// Refuses where this machine lacks a program that the connection is made with; `path` is where programs are looked for.
pub(super) fn need_programs(target: &Target, path: &str) -> Result<()> {
    let mut needed = vec![("ssh", CLIENT)];
    needed.extend(target.host_key.as_ref().map(|_| ("ssh-keyscan", CLIENT)));
    needed.extend(target.password.as_ref().map(|_| ("setsid", UTIL_LINUX)));
    let is_here = |program: &str| {
        let mut places = path
            .split(':')
            .map(|folder| Path::new(folder).join(program));
        places.any(|place| {
            let metadata = fs::metadata(place);
            metadata.is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
        })
    };
    for (program, package) in needed {
        ensure!(
            is_here(program),
            "cannot connect to {} over ssh: this machine has no {program}. Install its package: {package}",
            target.host
        );
    }
    Ok(())
}

/// The search path of root's commands on another machine: the usual folders, then `own`, root's own one there, then where else programs may lie; each once. An empty entry of `own`,
/// or a relative one, means the folder in which a command happens to run, and is left out.
pub(super) fn remote_path(own: &str) -> String {
    let whole = |folder: &&str| folder.starts_with('/') && !folder.contains(char::is_control);
    let own = own.split(':').filter(whole);
    let mut folders: Vec<&str> = Vec::new();
    for folder in PROGRAM_DIRS.into_iter().chain(own).chain(OTHER_DIRS) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders.join(":")
}
