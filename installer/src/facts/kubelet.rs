//! Which runtime the kubelet of this machine was given, by the files that kubeadm wrote for it.

use anyhow::{Context, Result};

use crate::control_plane::containers::{INSTANCE_CONFIG, KUBELET_FLAGS, recorded_socket};
use crate::host::HostView;

/// Where its runtime listens, in the form that kubeadm recorded; nothing where it was not told, as with Docker up to 1.23.
///
/// # Errors
/// A file cannot be read or does not parse.
pub(crate) fn socket(host: &HostView) -> Result<Option<String>> {
    recorded_socket(|path| host.text(path))
        .context("cannot tell where this machine's runtime listens")
}

/// Whether it was given a containerd. A file that does not parse tells that as well.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn has_containerd(host: &HostView) -> Result<bool> {
    for path in [INSTANCE_CONFIG, KUBELET_FLAGS] {
        let text = host.text(path)?;
        if text.is_some_and(|text| text.contains("containerd.sock")) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scripted::Scripted;
    use crate::steps::testing::Machine;

    #[test]
    fn kubeadm_s_files_tell_of_the_runtime() {
        for (path, text, told, containerd) in [
            (
                KUBELET_FLAGS,
                "KUBELET_KUBEADM_ARGS=\"--container-runtime=remote --container-runtime-endpoint=/run/containerd/containerd.sock\"\n",
                Some("/run/containerd/containerd.sock"),
                true,
            ),
            (
                INSTANCE_CONFIG,
                "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\nkind: KubeletConfiguration\n",
                Some("unix:///run/containerd/containerd.sock"),
                true,
            ),
            (
                INSTANCE_CONFIG,
                "containerRuntimeEndpoint: unix:///run/cri-dockerd.sock\n",
                Some("unix:///run/cri-dockerd.sock"),
                false,
            ),
            (
                KUBELET_FLAGS,
                "KUBELET_KUBEADM_ARGS=\"--network-plugin=cni\"\n",
                None,
                false,
            ),
        ] {
            let machine = Machine::new();
            machine.file(path, text);
            let host = machine.view(Scripted::new());
            assert_eq!(socket(&host).unwrap().as_deref(), told, "{text}");
            assert_eq!(has_containerd(&host).unwrap(), containerd, "{text}");
        }
        let bare = Machine::new().view(Scripted::new());
        assert_eq!(socket(&bare).unwrap(), None);
        assert!(!has_containerd(&bare).unwrap());
    }
}
