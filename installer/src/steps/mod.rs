//! The local steps: each ensures one state of this machine, by itself.
//!
//! None of them knows another one, the cluster or the command line; `plans` puts them in order. What somebody else put on the machine is adopted where it fits and
//! is a conflict where it does not; it is never overwritten.

mod binaries;
mod config_file;
mod containerd_config;
mod containerd_service;
mod docker_config;
mod docker_service;
mod etcd_folder;
pub(crate) mod hosts_entry;
mod images;
mod kernel_modules;
mod kubelet_service;
mod kubelet_start;
mod pot_files;
mod readers;
pub(crate) mod swap;
mod sysctls;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod unit;

pub use binaries::{CniPlugins, ContainerdBinaries, Crictl, DockerBinaries, KubernetesBinaries};
pub use containerd_config::ContainerdConfig;
pub use containerd_service::ContainerdService;
pub use docker_config::DockerConfig;
pub use docker_service::DockerService;
pub use etcd_folder::EtcdFolder;
pub use hosts_entry::HostsEntry;
pub use images::{ImageWanted, Images};
pub use kernel_modules::KernelModules;
pub(crate) use kernel_modules::MODULES;
pub use kubelet_service::KubeletService;
pub(crate) use kubelet_service::{
    EXTRA_ARGS, extra_flags, restart as restart_kubelet, stop as stop_kubelet,
};
pub use swap::SwapOff;
pub(crate) use swap::{areas as swap_areas, unescape};
pub use sysctls::Sysctls;

use crate::step::State;

/// The state of a whole from the states of its parts: what is in the way comes before what is to do, and that before what cannot be done.
fn combine(parts: impl IntoIterator<Item = State>) -> State {
    let (mut pending, mut unsettable, mut reasons, mut remedies) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        match part {
            State::Satisfied => {}
            State::Pending(why) => pending.push(why),
            State::Unsettable(why) => unsettable.push(why),
            State::Conflict { reason, remedy } => {
                reasons.push(reason);
                if !remedies.contains(&remedy) {
                    remedies.push(remedy);
                }
            }
        }
    }
    if !reasons.is_empty() {
        State::Conflict {
            reason: reasons.join("\n"),
            remedy: remedies.join("\n"),
        }
    } else if !pending.is_empty() {
        State::Pending(pending.join("; "))
    } else if !unsettable.is_empty() {
        State::Unsettable(unsettable.join("; "))
    } else {
        State::Satisfied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_is_as_bad_as_its_worst_part() {
        let pending = || State::Pending("p".to_owned());
        let unsettable = || State::Unsettable("u".to_owned());
        let conflict = |reason: &str| State::Conflict {
            reason: reason.to_owned(),
            remedy: "move it".to_owned(),
        };
        assert_eq!(combine([]), State::Satisfied);
        assert_eq!(combine([State::Satisfied, unsettable()]), unsettable());
        assert_eq!(
            combine([unsettable(), pending(), pending()]),
            State::Pending("p; p".to_owned())
        );
        assert_eq!(
            combine([conflict("a"), pending(), conflict("b")]),
            conflict("a\nb")
        );
    }
}
