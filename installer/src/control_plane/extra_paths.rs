//! The files and folders that the control plane's pods need of their node, besides what kubeadm and the distribution put there: read off the pods of the healthy master, and what kubeadm's record adds to those of a new one. Everything here is pure.

use std::collections::BTreeSet;

use super::kubeadm::is_certificate;
use super::objects::{Container, Pod, PodSpec};
use super::recorded::ENCRYPTION;

/// A file or folder of the healthy master that its control plane needs besides kubeadm's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtraPath {
    /// The path.
    pub path: String,
    /// What names it.
    pub named_by: String,
    /// What the pods do with it.
    pub role: Role,
}

impl ExtraPath {
    /// Whether the files in a folder are brought with it.
    pub fn is_copied(&self) -> bool {
        self.role == Role::Mounted && self.path.starts_with("/etc/")
    }

    /// Whether a flag by which data are encrypted names it.
    pub fn encrypts(&self) -> bool {
        let (flag, _) = self.named_by.split_once(' ').unwrap_or_default();
        ENCRYPTION.contains(&flag.trim_start_matches('-'))
    }
}

/// What pods do with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A flag names it for reading; it counts only where it is a file.
    Read,
    /// A pod mounts it, with all that is in it.
    Mounted,
    /// A flag names it for writing, and it lies where a pod mounts something of the node: every master has its own.
    Written,
}

/// Folders of the distribution's, which kubeadm mounts by itself where they exist. Their files differ from machine to machine.
pub(crate) const DISTRIBUTION: [&str; 5] = [
    "/etc/ssl/certs",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

/// The paths that the control plane's pods use and that neither kubeadm nor the distribution puts there.
pub(super) fn extra_paths(own: &[&Pod], certificates_dir: &str) -> Vec<ExtraPath> {
    /// What kubeadm writes, and what else is every machine's own.
    const COMMON: [&str; 7] = [
        "/usr/libexec/kubernetes/kubelet-plugins/volume/exec",
        "/etc/kubernetes/admin.conf",
        "/etc/kubernetes/super-admin.conf",
        "/etc/kubernetes/controller-manager.conf",
        "/etc/kubernetes/scheduler.conf",
        "/etc/kubernetes/kubelet.conf",
        "/etc/localtime",
    ];
    let mut found = BTreeSet::new();
    for pod in own {
        let component = pod.component();
        if component == "etcd" {
            continue;
        }
        for path in pod
            .spec
            .volumes
            .iter()
            .filter_map(|volume| volume.host_path.as_ref())
        {
            let path = path.path.trim_end_matches('/');
            if path != certificates_dir && !COMMON.contains(&path) && !DISTRIBUTION.contains(&path)
            {
                found.insert(ExtraPath {
                    path: path.to_owned(),
                    named_by: format!("a volume of {component}"),
                    role: Role::Mounted,
                });
            }
        }
        for container in &pod.spec.containers {
            for (flag, seen) in named_paths(container) {
                // kubeadm mounts its folder of certificates where it is: what is there travels by name, whatever the volumes are called.
                let below = seen.starts_with(certificates_dir);
                let Some(path) =
                    on_node(&pod.spec, container, seen).or_else(|| below.then(|| seen.to_owned()))
                else {
                    continue;
                };
                let role = if is_output(flag) {
                    Role::Written
                } else {
                    Role::Read
                };
                if !COMMON.contains(&path.as_str()) && !is_kubeadms(&path, certificates_dir) {
                    found.insert(ExtraPath {
                        path,
                        named_by: format!("{flag} of {component}"),
                        role,
                    });
                }
            }
        }
    }
    found.into_iter().collect()
}

/// The absolute paths in a container's command line, each with its flag. One flag may have several (`--tls-sni-cert-key=CERT,KEY:NAMES`).
fn named_paths(container: &Container) -> Vec<(&str, &str)> {
    let mut named = Vec::new();
    let mut flag = "";
    for word in container.command.iter().chain(&container.args) {
        let value = if !word.starts_with('-') {
            word
        } else if let Some((name, value)) = word.split_once('=') {
            flag = name;
            value
        } else {
            flag = word;
            continue;
        };
        let paths = value.split([',', ':']).filter(|path| path.starts_with('/'));
        named.extend(paths.map(|path| (flag, path)));
    }
    named
}

/// Where the node has what a container sees at `path`: by the mount that is nearest above it. Nothing where that is none of the node's.
fn on_node(pod: &PodSpec, container: &Container, path: &str) -> Option<String> {
    let below = |mount: &str| {
        let rest = path.strip_prefix(mount.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    };
    let mounts = container.volume_mounts.iter();
    let (name, rest) = mounts
        .filter_map(|mount| Some((&mount.name, below(&mount.mount_path)?)))
        .min_by_key(|(_, rest)| rest.len())?;
    let volume = pod.volumes.iter().find(|volume| volume.name == *name)?;
    let host = volume.host_path.as_ref()?.path.trim_end_matches('/');
    Some(format!("{host}{rest}"))
}

/// Whether a flag names what the program writes.
fn is_output(flag: &str) -> bool {
    let name = flag.trim_start_matches('-').replace('_', "-");
    name.starts_with("log-") || name.ends_with("-log-path") || name == "cert-dir"
}

/// Whether kubeadm makes this file, or hands it to every master; or it is its folder of certificates.
fn is_kubeadms(path: &str, certificates_dir: &str) -> bool {
    path.strip_prefix(certificates_dir)
        .map(|name| name.trim_start_matches('/'))
        .is_some_and(|name| name.is_empty() || is_certificate(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_put_beside_kubeadms_certificates_is_theirs_whatever_it_is_called() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"labels":{"component":"kube-apiserver"}},"spec":{"containers":[{"command":["kube-apiserver",
                "--tls-cert-file=/etc/kubernetes/pki/apiserver.crt",
                "--etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt",
                "--proxy-client-key-file=/etc/kubernetes/pki/front-proxy-client.key",
                "--service-account-key-file=/etc/kubernetes/pki/sa.pub",
                "--tls-sni-cert-key=/etc/kubernetes/pki/apiserver-sni.crt,/etc/kubernetes/pki/apiserver-sni.key",
                "--encryption-provider-config=/etc/kubernetes/pki/apiserver-encryption.yaml"]}]}}"#,
        )
        .unwrap();
        let found = extra_paths(&[&pod], "/etc/kubernetes/pki");
        let found: Vec<(&str, bool)> = found
            .iter()
            .map(|extra| (extra.path.as_str(), extra.encrypts()))
            .collect();
        assert_eq!(
            found,
            [
                ("/etc/kubernetes/pki/apiserver-encryption.yaml", true),
                ("/etc/kubernetes/pki/apiserver-sni.crt", false),
                ("/etc/kubernetes/pki/apiserver-sni.key", false),
            ]
        );
    }

    #[test]
    fn files_are_known_by_the_flags_that_name_them_wherever_they_are_mounted() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"labels":{"component":"kube-apiserver"}},"spec":{
                "containers":[{"command":["kube-apiserver",
                    "--audit-policy-file=/audit/policy.yaml",
                    "--audit-log-path=/audit/audit.log",
                    "--tls-sni-cert-key=/sni/a.crt,/sni/a.key:example.org",
                    "--token-auth-file", "/tokens.csv",
                    "--oidc-ca-file=/etc/ssl/certs/corp.pem",
                    "--profile=/in/the/image",
                    "--kubeconfig=/etc/kubernetes/scheduler.conf",
                    "--client-ca-file=/etc/kubernetes/pki/ca.crt",
                    "--tls-cert-file=/etc/kubernetes/pki/apiserver.crt",
                    "--authorization-webhook-config-file=/etc/kubernetes/pki/webhook.yaml"],
                "volumeMounts":[
                    {"name":"audit","mountPath":"/audit"},
                    {"name":"sni","mountPath":"/sni/"},
                    {"name":"tokens","mountPath":"/tokens.csv"},
                    {"name":"conf","mountPath":"/etc/kubernetes/scheduler.conf"},
                    {"name":"certs","mountPath":"/etc/ssl/certs"}]}],
                "volumes":[
                    {"name":"audit","hostPath":{"path":"/opt/k8s/audit"}},
                    {"name":"sni","hostPath":{"path":"/opt/sni/"}},
                    {"name":"tokens","hostPath":{"path":"/opt/tokens.csv"}},
                    {"name":"conf","hostPath":{"path":"/etc/kubernetes/scheduler.conf"}},
                    {"name":"certs","hostPath":{"path":"/etc/ssl/certs"}}]}}"#,
        )
        .unwrap();
        let found = extra_paths(&[&pod], "/etc/kubernetes/pki");
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|extra| (extra.path.as_str(), extra.named_by.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (
                    "/etc/kubernetes/pki/webhook.yaml",
                    "--authorization-webhook-config-file of kube-apiserver"
                ),
                (
                    "/etc/ssl/certs/corp.pem",
                    "--oidc-ca-file of kube-apiserver"
                ),
                ("/opt/k8s/audit", "a volume of kube-apiserver"),
                (
                    "/opt/k8s/audit/audit.log",
                    "--audit-log-path of kube-apiserver"
                ),
                (
                    "/opt/k8s/audit/policy.yaml",
                    "--audit-policy-file of kube-apiserver"
                ),
                ("/opt/sni", "a volume of kube-apiserver"),
                ("/opt/sni/a.crt", "--tls-sni-cert-key of kube-apiserver"),
                ("/opt/sni/a.key", "--tls-sni-cert-key of kube-apiserver"),
                ("/opt/tokens.csv", "--token-auth-file of kube-apiserver"),
                ("/opt/tokens.csv", "a volume of kube-apiserver"),
            ]
        );
    }
}
