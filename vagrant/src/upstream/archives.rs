//! The archives that upstreams publish beside Kubernetes: Docker's static one, containerd's, the CNI plugins, crictl.
//!
//! Their layout is the originals'; their bytes depend on their content alone.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::sh::{self, Sh};
use crate::upstream::debian;
use crate::upstream::golang::{Cgo, NEWEST_GO, Workshop};
use crate::upstream::image::{Folders, Tree, write_tgz};

/// What Docker's archive holds, and where Debian's packages have it.
const DOCKER_FILES: [(&str, &str); 9] = [
    ("containerd", "usr/bin/containerd"),
    ("containerd-shim", "usr/bin/containerd-shim"),
    ("containerd-shim-runc-v2", "usr/bin/containerd-shim-runc-v2"),
    ("ctr", "usr/bin/ctr"),
    ("docker", "usr/bin/docker"),
    ("docker-init", "usr/bin/tini-static"),
    ("docker-proxy", "usr/sbin/docker-proxy"),
    ("dockerd", "usr/sbin/dockerd"),
    ("runc", "usr/sbin/runc"),
];
const DOCKER_PACKAGES: [&str; 4] = ["containerd", "docker.io", "runc", "tini"];

/// What containerd's archive holds of Debian's package.
const CONTAINERD_FILES: [&str; 5] = [
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "ctr",
];

/// The source of the runc that stands before the real one where `CAP_SYS_RESOURCE` is missing.
pub const RUNC_WRAPPER: &str = include_str!("runc-wrapper/main.go");
/// `CAP_SYS_RESOURCE`'s bit in a capability mask: capability(7).
const SYS_RESOURCE_BIT: u32 = 24;

/// Whether the lab's nodes may have all capabilities of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// All of them.
    Whole,
    /// `CAP_SYS_RESOURCE` cannot be granted on this host.
    NoSysResource,
}

impl Rights {
    /// What this host can grant: its own bounding set.
    pub fn of_this_host() -> Result<Self> {
        let status = sh::read_text(Path::new("/proc/self/status"))?;
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .context("/proc/self/status shows no capability bounding set")?;
        Ok(if mask >> SYS_RESOURCE_BIT & 1 == 1 {
            Self::Whole
        } else {
            Self::NoSysResource
        })
    }
}

/// Makes `docker.tgz` in `out`, with `version` beside it: Debian's Docker in the layout of Docker's static archive.
/// Without the right to grant `CAP_SYS_RESOURCE` its runc is the lab's, with the real one beside it as `runc.real`.
pub fn docker(workshop: &Workshop, rights: Rights, out: &Path) -> Result<()> {
    let debian = debian::unpack(&DOCKER_PACKAGES, &workshop.fresh_dir("docker")?)?;
    let mut archive = Tree::default();
    for (name, path) in DOCKER_FILES {
        archive.file(&format!("docker/{name}"), &debian.file(path)?, 0o755);
    }
    if rights == Rights::NoSysResource {
        archive.file("docker/runc.real", &debian.file("usr/sbin/runc")?, 0o755);
        archive.file("docker/runc", &runc_wrapper(workshop)?, 0o755);
    }
    write_tgz(&archive, Folders::All, &out.join("docker.tgz"))?;
    sh::write_atomic(
        &out.join("version"),
        debian.upstream_version("docker.io")?.as_bytes(),
        0o644,
    )
}

/// Makes `archive` in `out`, with `version` beside it: Debian's containerd in the layout of containerd's own archive.
pub fn debians_containerd(workshop: &Workshop, archive: &str, out: &Path) -> Result<()> {
    let debian = debian::unpack(&["containerd"], &workshop.fresh_dir("containerd")?)?;
    let mut tree = Tree::default();
    for name in CONTAINERD_FILES {
        tree.file(
            &format!("bin/{name}"),
            &debian.file(&format!("usr/bin/{name}"))?,
            0o755,
        );
    }
    write_tgz(&tree, Folders::All, &out.join(archive))?;
    let version = debian.upstream_version("containerd")?;
    sh::write_atomic(&out.join("version"), version.as_bytes(), 0o644)
}

fn runc_wrapper(workshop: &Workshop) -> Result<std::path::PathBuf> {
    let dir = workshop.fresh_dir("runc-wrapper")?;
    sh::write_atomic(&dir.join("main.go"), RUNC_WRAPPER.as_bytes(), 0o644)?;
    let go = workshop.go(NEWEST_GO, Cgo::Off)?.dir(&dir);
    go.clone().args(["mod", "init", "lab/runc"]).run()?;
    go.args([
        "build",
        "-trimpath",
        "-ldflags",
        "-s -w -buildid=",
        "-o",
        "runc",
        ".",
    ])
    .run()?;
    Ok(dir.join("runc"))
}

/// Packs all programs of a folder, side by side or below another one (`bin/`), as `archive` in `out`.
pub fn programs(from: &Path, below: &str, archive: &str, out: &Path) -> Result<()> {
    let names = sh::names_in(from)?;
    ensure!(!names.is_empty(), "{} holds no programs", from.display());
    let mut tree = Tree::default();
    for name in names {
        tree.file(&format!("{below}{name}"), &from.join(&name), 0o755);
    }
    let folders = if below.is_empty() {
        Folders::Given
    } else {
        Folders::All
    };
    write_tgz(&tree, folders, &out.join(archive))
}

/// The digest of a file as this sum program of coreutils (`sha1sum`, `sha256sum`, `sha512sum`) prints it, in hex.
pub fn sum(program: &str, file: &Path) -> Result<String> {
    let said = Sh::new(program).arg("--").arg(file).output()?;
    let digest = said.trim_start_matches('\\').split_whitespace().next();
    digest
        .map(ToOwned::to_owned)
        .with_context(|| format!("{program} printed no digest of {}", file.display()))
}

#[cfg(test)]
mod tests {
    /// Docker's own archive is static; the lab's comes from Debian, whose dockerd and runc are linked with libraries of
    /// these packages (and those that they depend on).
    #[test]
    fn nodes_have_the_libraries_of_debians_docker() {
        let packages = include_str!("../../node/packages");
        for library in ["libdevmapper1.02.1", "libseccomp2", "libsystemd0"] {
            assert!(
                packages
                    .split_whitespace()
                    .any(|package| package == library),
                "{library}"
            );
        }
    }
}
