//! Questions to this machine that change nothing.
//!
//! A [`Probe`] can only be made by the functions below, each of which builds a command that is known to read and not to write. That is what lets
//! [`super::HostView`] run commands without becoming able to change something.

use std::time::Duration;

use super::command::Cmd;
use super::cri::{self, crictl};

/// Where containerd's CRI listens.
pub(crate) const CONTAINERD: &str = "unix:///run/containerd/containerd.sock";

/// The same, for programs that take no URL.
pub(crate) const CONTAINERD_PATH: &str = CONTAINERD.split_at("unix://".len()).1;

/// A command that only reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe(Cmd);

/// Whose containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containers {
    /// Everybody's.
    All,
    /// Those of the kubelet's pods.
    Pods,
}

impl Probe {
    /// The command behind it.
    pub fn command(&self) -> &Cmd {
        &self.0
    }

    /// A systemd unit: `LoadState`, `ActiveState`, `UnitFileState`, `FragmentPath` and `NeedDaemonReload`, as `key=value` lines.
    pub fn unit(name: &str) -> Self {
        Self(Cmd::new(
            "systemctl",
            [
                "show",
                "--property=LoadState,ActiveState,UnitFileState,FragmentPath,NeedDaemonReload",
                name,
            ],
        ))
    }

    /// How systemd starts a unit, with all of its drop-ins: `ExecStart`, `Environment` and `EnvironmentFiles`, as `key=value` lines.
    pub fn unit_start(name: &str) -> Self {
        let properties = "--property=ExecStart,Environment,EnvironmentFiles";
        Self(Cmd::new("systemctl", ["show", properties, name]))
    }

    /// The running Docker's `docker info` as JSON.
    pub fn docker_info() -> Self {
        Self(
            Cmd::new("docker", ["info", "--format", "{{json .}}"]).timeout(Duration::from_secs(20)),
        )
    }

    /// The version of the containerd that runs, beside that of its client: lines `Version: …` below `Client:` and `Server:`.
    pub fn containerd_server() -> Self {
        Self::ctr(&["version"])
    }

    /// The plugins of the containerd that runs: lines of type, name, platforms and status.
    pub fn containerd_plugins() -> Self {
        Self::ctr(&["plugins", "ls"])
    }

    fn ctr(words: &[&str]) -> Self {
        let args = ["--address", CONTAINERD_PATH];
        Self(Cmd::new("ctr", [&args, words].concat()).timeout(Duration::from_secs(20)))
    }

    /// The configuration of containerd as it is on the disk, with all defaults, in TOML.
    pub fn containerd_config() -> Self {
        Self(Cmd::new("containerd", ["config", "dump"]).timeout(Duration::from_secs(20)))
    }

    /// The images of containerd's CRI as JSON, with IDs and names.
    pub fn containerd_images() -> Self {
        let question = ["images", "--output", "json"];
        Self(crictl(CONTAINERD, cri::QUESTION, question))
    }

    /// The version of the crictl that is found first: `crictl version v1.24.2`, without asking a runtime.
    pub fn crictl_version() -> Self {
        Self(Cmd::new("crictl", ["--version"]).timeout(cri::QUESTION))
    }

    /// The IDs and names of Docker's images: lines of `sha256:… repository:tag`.
    pub fn docker_images() -> Self {
        Self(Cmd::new(
            "docker",
            [
                "images",
                "--no-trunc",
                "--all",
                "--format",
                "{{.ID}} {{.Repository}}:{{.Tag}}",
            ],
        ))
    }

    /// The names of Docker's images by the digests that registries have them by: lines of `repository@sha256:…`.
    pub fn docker_digests() -> Self {
        let format = "{{.Repository}}@{{.Digest}}";
        Self(Cmd::new(
            "docker",
            ["images", "--digests", "--format", format],
        ))
    }

    /// The IDs of Docker's containers, running or not: all, or those of the kubelet's pods, by the label that each of them bears. Other people's may have any name.
    pub fn docker_containers(of: Containers) -> Self {
        let mut args = vec!["ps", "--all", "--quiet", "--no-trunc"];
        if of == Containers::Pods {
            args.extend(["--filter", "label=io.kubernetes.pod.namespace"]);
        }
        Self(Cmd::new("docker", args))
    }

    /// The IDs of the pods of containerd's CRI, running or not; a containerd that only serves Docker has no CRI and gives an error.
    pub fn containerd_pods() -> Self {
        Self(crictl(CONTAINERD, cri::QUESTION, ["pods", "--quiet"]))
    }

    /// The IDs of the containers in containerd's pods that run.
    pub fn containerd_containers() -> Self {
        Self(crictl(CONTAINERD, cri::QUESTION, ["ps", "--quiet"]))
    }

    /// The IDs of what containerd runs in the namespace of its CRI; where there is none, nothing.
    pub fn containerd_tasks() -> Self {
        let args = cri::ctr(CONTAINERD_PATH, &["tasks", "list", "--quiet"]);
        Self(Cmd::new("ctr", args))
    }

    /// The packet filter's rules with their counters; `program` is one of the `iptables-save` kind, which only reads.
    pub fn filter_rules(program: &str) -> Self {
        Self(Cmd::new(program, ["--counters"]))
    }

    /// The TCP and UDP ports that firewalld's default zone lets in by their numbers; an error where it does not run.
    pub fn firewalld_ports() -> Self {
        Self(Cmd::new("firewall-cmd", ["--list-ports"]))
    }

    /// ufw's rules, after a line that says whether it is active.
    pub fn ufw_rules() -> Self {
        Self(Cmd::new("ufw", ["status"]))
    }

    /// The version of the C library that this machine's own programs use, such as `glibc 2.31`.
    pub fn c_library() -> Self {
        Self(Cmd::new("getconf", ["GNU_LIBC_VERSION"]))
    }

    /// The addresses of a name, as this machine's own resolver (files, then DNS) gives them. Each server of DNS is asked once, for a second, where the C library asks it twice, for five.
    pub fn addresses(name: &str) -> Self {
        Self(
            Cmd::new("getent", ["ahosts", name])
                .env("RES_OPTIONS", "timeout:3 attempts:1")
                .timeout(Duration::from_secs(15)),
        )
    }

    /// Which package owns a file, where the machine has dpkg.
    pub fn dpkg_owner(path: &str) -> Self {
        Self(Cmd::new("dpkg-query", ["--search", path]))
    }

    /// Which package owns a file, where the machine has rpm.
    pub fn rpm_owner(path: &str) -> Self {
        Self(Cmd::new("rpm", ["--query", "--file", path]))
    }

    /// Whether the running kernel has a module, loaded, built in or on the disk, with what it needs.
    pub fn module(name: &str) -> Self {
        Self(Cmd::new("modprobe", ["--dry-run", "--quiet", name]))
    }

    /// The label that SELinux's policy has for a path.
    pub fn selinux_label(path: &str) -> Self {
        Self(Cmd::new("matchpathcon", ["-n", path]))
    }

    /// The unit files that may bring swap back: lines of `name state [preset]`. Swap units of every origin, and the services that set up zram or swap files, whose packages all name them so
    /// (zramswap, zram-config, zram-swap, zramd, dphys-swapfile, systemd-swap, swapspace). zram-generator makes swap units.
    pub fn swap_units() -> Self {
        let args = [
            "list-unit-files",
            "--no-legend",
            "--no-pager",
            "*.swap",
            "*zram*.service",
            "*swap*.service",
        ];
        Self(Cmd::new("systemctl", args))
    }

    /// The version of kubeadm, kubectl or the kubelet at `path`, in each one's own form.
    pub fn kubernetes_version(name: &str, path: &str) -> Self {
        let args: &[&str] = match name {
            "kubeadm" => &["version", "--output", "short"],
            "kubectl" => &["version", "--client", "--output", "json"],
            _ => &["--version"],
        };
        Self(Cmd::new(path, args.iter().copied()))
    }

    /// The images that kubeadm would make a master of, one a line. With a configuration that names a version it asks nobody.
    pub fn kubeadm_images(config: &str) -> Self {
        let args = ["config", "images", "list", "--config", "/dev/stdin"];
        Self(
            Cmd::new("kubeadm", args)
                .stdin(config)
                .timeout(Duration::from_secs(30)),
        )
    }

    /// The running kernel's configuration, where it carries one in itself.
    pub fn kernel_config() -> Self {
        Self(Cmd::new(
            "gzip",
            ["--decompress", "--stdout", "/proc/config.gz"],
        ))
    }

    /// What the kubelet said since `since`, in seconds since 1970.
    pub fn kubelet_log(since: u64) -> Self {
        let since = format!("--since=@{since}");
        Self(
            Cmd::new(
                "journalctl",
                ["--unit=kubelet", "--no-pager", "--output=cat", &since],
            )
            .timeout(Duration::from_secs(20)),
        )
    }

    /// This node's apiserver's health, asked with the administrator's own credentials on this machine. `server` is `https://ADDRESS:PORT`.
    pub fn apiserver_health(server: &str) -> Self {
        Self::health(&["--server", server])
    }

    /// The health of the apiserver on this machine itself, wherever its address leads to meanwhile. Its certificate is not valid for the loopback, so it is not looked at: what is sent
    /// proves who asks, and hands nothing out.
    pub fn apiserver_on_loopback(port: u16) -> Self {
        let server = format!("https://127.0.0.1:{port}");
        Self::health(&["--server", &server, "--insecure-skip-tls-verify"])
    }

    fn health(which: &[&str]) -> Self {
        let credentials = ["--kubeconfig", "/etc/kubernetes/admin.conf"];
        let question = ["--request-timeout", "5s", "get", "--raw", "/healthz"];
        let args = [&credentials[..], which, &question].concat();
        Self(Cmd::new("kubectl", args).timeout(Duration::from_secs(15)))
    }
}
