//! The container runtime of a cluster: how it is put on a bare machine by hand, and how it is asked there afterwards, by
//! the tools that people have on such machines.

use serde::{Deserialize, Serialize};

use crate::upstream::RuntimeFiles;

/// By its address, so that a machine without /etc/crictl.yaml is asked as well.
const CRICTL: &str = "crictl --runtime-endpoint unix:///run/containerd/containerd.sock";
const CTR_IMAGES: &str = "ctr --namespace k8s.io images";

const DOCKER_CONFIG: &str = include_str!("docker.json");
const DOCKER_UNIT: &str = include_str!("docker.service");
const CONTAINERD_UNIT: &str = include_str!("containerd.service");
const CRICTL_CONFIG: &str = "runtime-endpoint: unix:///run/containerd/containerd.sock\n";

/// The path of a configuration or a unit, and what it says.
pub(super) type Setting = (&'static str, String);

/// What runs the containers of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Runtime {
    /// Docker.
    #[default]
    Docker,
    /// containerd.
    Containerd {
        /// Its version, as `2.1.4`.
        version: String,
    },
}

impl Runtime {
    /// The one that these files are of.
    pub fn of(files: &RuntimeFiles) -> Self {
        match files {
            RuntimeFiles::Docker { .. } => Self::Docker,
            RuntimeFiles::Containerd { version, .. } => Self::Containerd {
                version: version.clone(),
            },
        }
    }

    /// Configurations and units by their paths; pods' sandboxes are made of the image `sandbox`.
    pub(super) fn settings(&self, sandbox: &str) -> Vec<Setting> {
        match self {
            Self::Docker => vec![
                ("/etc/docker/daemon.json", DOCKER_CONFIG.to_owned()),
                ("/etc/systemd/system/docker.service", DOCKER_UNIT.to_owned()),
            ],
            Self::Containerd { version } => vec![
                (
                    "/etc/containerd/config.toml",
                    containerd_config(version, sandbox),
                ),
                (
                    "/etc/systemd/system/containerd.service",
                    CONTAINERD_UNIT.to_owned(),
                ),
                ("/etc/crictl.yaml", CRICTL_CONFIG.to_owned()),
            ],
        }
    }

    /// The same of a containerd that leaves its cgroups to systemd.
    pub(super) fn settings_with_systemd(&self) -> Vec<Setting> {
        let mut settings = self.settings("");
        if let (Self::Containerd { version }, Some((_, text))) = (self, settings.first_mut()) {
            *text = systemd_config(version);
        }
        settings
    }

    /// Puts the programs in place that wait in /root, and starts the runtime.
    pub(super) fn install(&self) -> &'static str {
        match self {
            Self::Docker => {
                "tar -xzf /root/runtime.tgz -C /usr/bin --strip-components=1 --no-same-owner
                 systemctl daemon-reload
                 systemctl enable --quiet --now docker.service"
            }
            Self::Containerd { .. } => {
                "tar -xzf /root/runtime.tgz -C /usr/local --no-same-owner
                 tar -xzf /root/crictl.tgz -C /usr/local/bin --no-same-owner; rm /root/crictl.tgz
                 install -m 0755 /root/runc /usr/local/sbin/runc; rm /root/runc
                 systemctl daemon-reload
                 systemctl enable --quiet --now containerd.service"
            }
        }
    }

    /// The same of programs that are unpacked below `runtime/`, and beside it, in the folder where the shell is.
    pub(super) fn install_unpacked(&self) -> &'static str {
        match self {
            Self::Docker => {
                "mv runtime/docker/* /usr/bin/
                 systemctl daemon-reload
                 systemctl enable --quiet --now docker.service"
            }
            Self::Containerd { .. } => {
                "mkdir -p /usr/local/bin /usr/local/sbin && mv runtime/bin/* crictl /usr/local/bin/
                 install -m 0755 runc /usr/local/sbin/runc
                 systemctl daemon-reload
                 systemctl enable --quiet --now containerd.service"
            }
        }
    }

    /// Loads the images of an archive.
    pub(super) fn load(&self) -> &'static str {
        match self {
            Self::Docker => "docker load --quiet --input",
            Self::Containerd { .. } => "ctr --namespace k8s.io images import",
        }
    }

    /// Lists the names of all images, one a line.
    pub fn images(&self) -> String {
        match self {
            Self::Docker => "docker images --format '{{.Repository}}:{{.Tag}}'".to_owned(),
            Self::Containerd { .. } => format!("{CTR_IMAGES} ls --quiet | grep -v ^sha256:"),
        }
    }

    /// Gives an image another name in the place of its own; both are words of the shell.
    pub(super) fn rename_image(&self, name: &str, other: &str) -> String {
        match self {
            Self::Docker => format!("docker tag {name} {other}; docker rmi {name}"),
            Self::Containerd { .. } => {
                format!("{CTR_IMAGES} tag {name} {other}; {CTR_IMAGES} rm {name}")
            }
        }
    }

    /// Takes images away, whatever uses them; names follow.
    pub fn remove_images(&self) -> String {
        match self {
            Self::Docker => "docker rmi --force".to_owned(),
            Self::Containerd { .. } => format!("{CRICTL} rmi"),
        }
    }

    /// Lists the IDs of the running containers that a pod calls so.
    pub fn running(&self, container: &str) -> String {
        self.list(container, "", "")
    }

    /// Lists the IDs of the running containers of all pods.
    pub fn running_of_pods(&self) -> String {
        match self {
            Self::Docker => "docker ps -q -f name=k8s_".to_owned(),
            Self::Containerd { .. } => format!("{CRICTL} ps -q"),
        }
    }

    /// Lists the IDs of those that have ended.
    pub fn ended(&self, container: &str) -> String {
        self.list(container, "-a -f status=exited", "-a --state exited")
    }

    /// Removes those that a pod calls so, running or not; their kubelet starts others.
    pub fn remove(&self, container: &str) -> String {
        let all = self.list(container, "-a", "-a");
        match self {
            Self::Docker => format!("{all} | xargs -r docker rm -f"),
            Self::Containerd { .. } => format!("{all} | xargs -r {CRICTL} rm -f"),
        }
    }

    fn list(&self, container: &str, docker: &str, crictl: &str) -> String {
        match self {
            Self::Docker => format!("docker ps -q {docker} -f name=k8s_{container}_"),
            Self::Containerd { .. } => format!("{CRICTL} ps -q {crictl} --name '^{container}$'"),
        }
    }

    /// Runs a program in a container; the program and its arguments follow.
    pub fn exec(&self, container: &str) -> String {
        let id = self.running(container);
        match self {
            Self::Docker => format!("docker exec -e ETCDCTL_API=3 $({id})"),
            // The API's third version is etcdctl's own choice in every etcd that goes with containerd.
            Self::Containerd { .. } => format!("{CRICTL} exec $({id})"),
        }
    }

    /// Starts a container again; where the runtime has no word for that, its kubelet does it.
    pub fn restart(&self, container: &str) -> String {
        let id = self.running(container);
        match self {
            Self::Docker => format!("docker restart $({id}) >/dev/null"),
            Self::Containerd { .. } => format!("{CRICTL} stop $({id}) >/dev/null"),
        }
    }

    /// Lets a container stand still.
    pub fn pause(&self, container: &str) -> String {
        let id = self.running(container);
        match self {
            Self::Docker => format!("docker pause $({id})"),
            Self::Containerd { .. } => format!("ctr --namespace k8s.io tasks pause $({id})"),
        }
    }

    /// Lets it go on.
    pub fn resume(&self, container: &str) -> String {
        let id = self.running(container);
        match self {
            Self::Docker => format!("docker unpause $({id})"),
            Self::Containerd { .. } => format!("ctr --namespace k8s.io tasks resume $({id})"),
        }
    }

    /// Where it keeps images and containers.
    pub fn data(&self) -> &'static str {
        match self {
            Self::Docker => "/var/lib/docker",
            Self::Containerd { .. } => "/var/lib/containerd",
        }
    }
}

/// All else is as containerd has it by itself: overlays, runc, cgroups without systemd.
fn containerd_config(version: &str, sandbox: &str) -> String {
    if version.starts_with("1.") {
        format!(
            "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"{sandbox}\"\n"
        )
    } else {
        format!(
            "version = 3\n\n[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n  sandbox = \"{sandbox}\"\n"
        )
    }
}

fn systemd_config(version: &str) -> String {
    let (schema, cri) = if version.starts_with("1.") {
        (2, "io.containerd.grpc.v1.cri")
    } else {
        (3, "io.containerd.cri.v1.runtime")
    };
    let runc = format!("plugins.\"{cri}\".containerd.runtimes.runc");
    format!(
        "version = {schema}\n\n[{runc}]\n  runtime_type = \"io.containerd.runc.v2\"\n[{runc}.options]\n  SystemdCgroup = true\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn containerd(version: &str) -> Runtime {
        Runtime::Containerd {
            version: version.to_owned(),
        }
    }

    #[test]
    fn containerd_is_told_of_the_sandbox_in_the_words_of_its_version() {
        let sandbox = "registry.example.internal/k8s/pause:3.9";
        let config = |version| {
            let settings = containerd(version).settings(sandbox);
            let (path, text) = settings.into_iter().next().expect("a configuration");
            assert_eq!(path, "/etc/containerd/config.toml");
            text
        };
        let (old, new) = (config("1.6.20"), config("2.1.4"));
        assert!(old.starts_with("version = 2\n") && old.contains("sandbox_image ="));
        assert!(new.starts_with("version = 3\n") && new.contains("pinned_images]\n  sandbox ="));
        assert!(old.contains(sandbox) && new.contains(sandbox));
    }

    #[test]
    fn a_container_is_found_by_the_name_in_its_pod_alone() {
        let docker = Runtime::Docker.exec("etcd");
        assert_eq!(
            docker,
            "docker exec -e ETCDCTL_API=3 $(docker ps -q  -f name=k8s_etcd_)"
        );
        let crictl = containerd("2.1.4").running("etcd");
        assert!(crictl.ends_with("--name '^etcd$'"), "{crictl}");
    }
}
