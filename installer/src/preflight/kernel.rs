//! What kubeadm's check `SystemVerification` says about kernels, and what it stands for.
//!
//! Up to 1.16 kubeadm's list of kernel releases ends at 5.x (of 1.13, at 4.x) and is searched for anywhere in the release, so that newer kernels are refused for their number alone.
//! From 1.35 on it refuses cgroup v1, also where the cluster's kubelets are told to bear it (`failCgroupV1: false`). There, and only there, the check is ignored, after what it would have looked at has been looked at here: the kernel's configuration by the same list, or, where the
//! configuration cannot be read, what the kernel can be seen to do; and the cgroup controllers. (kubeadm's sources 1.14.0 and 1.15.0, cmd/kubeadm/app/util/system; from
//! 1.17 on k8s.io/system-validators; its 1.12.1, of 1.36, looks at the kubelet's version alone for cgroup v1, and says
//! that the check must be skipped by hand then.)

use bundle_spec::KubeVersion;

use crate::facts::{CgroupVersion, Facts};
use crate::kubernetes::{KernelReleases, OnCgroupV1, Traits};

/// The name of kubeadm's check, as `--ignore-preflight-errors` takes it.
pub const SYSTEM_VERIFICATION: &str = "SystemVerification";

/// The options that every kubeadm's check demands, besides those of [`Traits::kernel_options`]; alternatives stand in one entry.
const OPTIONS: [&[&str]; 13] = [
    &["NAMESPACES"],
    &["NET_NS"],
    &["PID_NS"],
    &["IPC_NS"],
    &["UTS_NS"],
    &["CGROUPS"],
    &["CPUSETS"],
    &["MEMCG"],
    &["INET"],
    &["EXT4_FS"],
    &["PROC_FS"],
    &["NETFILTER_XT_TARGET_REDIRECT", "IP_NF_TARGET_REDIRECT"],
    &["NETFILTER_XT_MATCH_COMMENT"],
];

/// Whether kubeadm of this version knows a kernel release.
pub fn kubeadm_knows(version: KubeVersion, release: &str) -> bool {
    let is = |known: fn((u32, u32)) -> bool| release_numbers(release).is_some_and(known);
    match Traits::of(version).kernel_releases {
        KernelReleases::EndAtFour | KernelReleases::EndAtFiveReplaceable => {}
        KernelReleases::Open => return is(|numbers| numbers >= (3, 10)),
        KernelReleases::FromFourNineteen => return is(|numbers| numbers >= (4, 19)),
    }
    let three = release.match_indices("3.").any(|(at, _)| {
        let rest = &release.as_bytes()[at + 2..];
        matches!(rest, [b'1'..=b'9', b'0'..=b'9', ..])
    });
    let five = Traits::of(version).kernel_releases == KernelReleases::EndAtFiveReplaceable;
    three || release.contains("4.") || (five && release.contains("5."))
}

/// Whether kubeadm of this version refuses a kernel for its number alone, so that its check is ignored, where ours comes in its place.
pub fn is_replaced(version: KubeVersion, release: &str) -> bool {
    Traits::of(version).kernel_releases == KernelReleases::EndAtFiveReplaceable
        && !kubeadm_knows(version, release)
}

/// Why a check of kubeadm is ignored, though what it stands for holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// kubeadm does not know the kernel's number.
    UnknownKernel,
    /// The kubelet is told to bear cgroup v1, and kubeadm does not ask it.
    CgroupV1,
}

impl Ignored {
    /// What an operator should know of it; `release` is the kernel's.
    pub fn told(self, release: &str) -> String {
        let only = match self {
            Self::UnknownKernel => {
                format!("only refuses kernels that it does not know ({release} here)")
            }
            Self::CgroupV1 => {
                "refuses cgroup v1, which the cluster's kubelet configuration allows (failCgroupV1: false)"
                    .to_owned()
            }
        };
        format!(
            "kubeadm's check {SYSTEM_VERIFICATION} {only}; what else it stands for was proved above, so kubeadm is told to pass over it"
        )
    }
}

/// Why kubeadm's [`SYSTEM_VERIFICATION`] must be ignored on this machine: nothing, or one of the two reasons, and only where [`system_verification_proved`] holds. `fail_cgroup_v1` is
/// what the cluster's kubelet configuration says.
pub fn ignored_check(
    version: KubeVersion,
    facts: &Facts,
    fail_cgroup_v1: Option<bool>,
) -> Option<Ignored> {
    let traits = Traits::of(version);
    let unknown = is_replaced(version, &facts.kernel.release);
    let borne = traits.on_cgroup_v1 == OnCgroupV1::RunsIfAllowed
        && facts.cgroups.version == CgroupVersion::V1
        && fail_cgroup_v1 == Some(false);
    let why = if unknown {
        Ignored::UnknownKernel
    } else if borne {
        Ignored::CgroupV1
    } else {
        return None;
    };
    system_verification_proved(version, facts)
        .is_ok()
        .then_some(why)
}

/// Whether this kernel has what kubeadm's check stands for: namespaces, cgroup controllers, the overlay file system, netfilter.
///
/// # Errors
/// What is missing, in words.
pub fn system_verification_proved(version: KubeVersion, facts: &Facts) -> Result<(), String> {
    let mut missing: Vec<String> = missing_controllers(facts)
        .into_iter()
        .map(|name| format!("cgroup controller {name}"))
        .collect();
    let demanded = Traits::of(version).kernel_options;
    let demanded = match facts.cgroups.version {
        CgroupVersion::V1 => demanded.on_v1,
        CgroupVersion::V2 => demanded.on_v2,
    };
    let seen = &facts.kernel.functions;
    if let Some(options) = &facts.kernel.options {
        missing.extend(
            OPTIONS
                .iter()
                .filter(|names| !names.iter().any(|name| options.contains(*name)))
                .map(|names| names[0])
                .chain(
                    demanded
                        .iter()
                        .copied()
                        .filter(|name| !options.contains(*name)),
                )
                .map(|name| format!("CONFIG_{name}")),
        );
    } else {
        missing.extend(
            ["ipc", "mnt", "net", "pid", "uts"]
                .into_iter()
                .filter(|kind| !seen.namespaces.contains(*kind))
                .map(|kind| format!("namespaces of kind {kind}")),
        );
        missing.extend(
            ["xt_REDIRECT", "xt_comment"]
                .into_iter()
                .filter(|module| !seen.modules.contains(module))
                .map(|module| format!("netfilter's {module}")),
        );
    }
    if !seen.modules.contains("overlay") {
        missing.push("the overlay file system".to_owned());
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(missing.join(", "))
    }
}

/// The cgroup controllers that kubeadm (system-validators 1.0.4 and later) and the kubelet need and this machine lacks.
pub(super) fn missing_controllers(facts: &Facts) -> Vec<&'static str> {
    let needed: &[&'static str] = match facts.cgroups.version {
        CgroupVersion::V1 => &[
            "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids",
        ],
        CgroupVersion::V2 => &["cpu", "cpuset", "memory", "pids"],
    };
    needed
        .iter()
        .copied()
        .filter(|name| !facts.cgroups.controllers.contains(*name))
        .collect()
}

/// The first two numbers of a kernel release.
pub(super) fn release_numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
