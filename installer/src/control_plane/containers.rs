//! The containers of a master that is asked: by which program they are listed and entered.
//!
//! Docker has one of its own. With containerd (or another CRI) it is crictl, which kubeadm demands up to 1.30 and no longer from 1.31 on; where it is missing, or too old for
//! the runtime, containerd's own ctr does the same. Nothing goes through the API server, so that all of it works without one.

use anyhow::{Context, Result, bail, ensure};
use bundle_spec::Sha256;
use serde::Deserialize;

use super::ClusterView;
use super::objects::Node;
use crate::host::command::{Cmd, CommandError, Output};
use crate::host::cri::{self, crictl, ctr};
use crate::host::probe::CONTAINERD;
use crate::host::remote::RemoteView;
use crate::runtime::Runtime;

/// Where kubeadm up to 1.33 writes on a Node where its runtime listens.
const ANNOTATION: &str = "kubeadm.alpha.kubernetes.io/cri-socket";

/// Where kubeadm from 1.34 on writes it instead (feature gate `NodeLocalCRISocket`).
pub(crate) const INSTANCE_CONFIG: &str = "/var/lib/kubelet/instance-config.yaml";

/// Where kubeadm writes the flags that it found out for the kubelet, up to 1.33 with the runtime's socket.
pub(crate) const KUBELET_FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";

/// What to type for a list of a node's containers, where its runtime is this one; where nothing is known, both.
pub fn listing(runtime: Option<Runtime>) -> &'static str {
    match runtime {
        Some(Runtime::Docker) => "docker ps -a",
        Some(Runtime::Containerd) => "crictl ps -a",
        None => "docker ps -a (with containerd: crictl ps -a)",
    }
}

/// Where the runtime of the asked master's node listens, in the form that kubeadm recorded.
///
/// # Errors
/// It is recorded nowhere, and the runtime is neither Docker nor containerd.
pub(crate) fn cri_socket(view: &ClusterView, node: &Node) -> Result<String> {
    if let Some(socket) = node.metadata.annotations.get(ANNOTATION) {
        return Ok(socket.clone());
    }
    let read = |path: &str| {
        let text = view.file(path)?;
        Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
    };
    let recorded = recorded_socket(read);
    if let Some(socket) = recorded.with_context(|| format!("on {}", view.address()))? {
        return Ok(socket);
    }
    let runtime = &node.status.node_info.container_runtime_version;
    let known = Runtime::of_node(runtime).zip(node.release());
    let usual = known.map(|(runtime, version)| runtime.cri_socket(version).to_owned());
    usual.with_context(|| {
        format!(
            "cannot tell where the runtime {runtime} of {} listens: its Node has no annotation {ANNOTATION}, and there is no {INSTANCE_CONFIG}",
            node.metadata.name
        )
    })
}

/// Where a machine's runtime listens by the files that kubeadm wrote for its kubelet; nothing where they do not say it. `read` gives the text of a file, where there is one.
pub(crate) fn recorded_socket(
    read: impl Fn(&str) -> Result<Option<String>>,
) -> Result<Option<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Instance {
        #[serde(default)]
        container_runtime_endpoint: String,
    }
    if let Some(text) = read(INSTANCE_CONFIG)? {
        let instance: Instance = serde_saphyr::from_str(&text)
            .with_context(|| format!("{INSTANCE_CONFIG} does not parse"))?;
        if !instance.container_runtime_endpoint.is_empty() {
            return Ok(Some(instance.container_runtime_endpoint));
        }
    }
    let flags = read(KUBELET_FLAGS)?.unwrap_or_default();
    Ok(value(&flags, "--container-runtime-endpoint=").map(str::to_owned))
}

/// What finding the socket asks first, where the Node does not tell it.
pub(super) fn cri_socket_question(node: &Node) -> Option<Cmd> {
    let told = node.metadata.annotations.contains_key(ANNOTATION);
    let [question, _] = RemoteView::file_questions(INSTANCE_CONFIG);
    (!told).then_some(question)
}

/// The value of a flag that kubeadm found out for the kubelet of the asked master; `flag` ends with `=`.
pub(crate) fn kubelet_flag(view: &ClusterView, flag: &str) -> Result<Option<String>> {
    let flags = view.file(KUBELET_FLAGS)?.unwrap_or_default();
    let flags = String::from_utf8_lossy(&flags);
    Ok(value(&flags, flag).map(str::to_owned))
}

/// The value of a flag in the file of a kubelet's flags, or in the manifest of a static pod; `flag` ends with `=`.
pub(super) fn value<'t>(flags: &'t str, flag: &str) -> Option<&'t str> {
    flags
        .split([' ', '"', '\n'])
        .find_map(|word| word.strip_prefix(flag))
}

/// The program that lists and enters containers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Program {
    Docker,
    /// crictl, and where the runtime listens.
    Crictl(String),
    /// containerd's own, and where it listens, without a scheme.
    Ctr(String),
}

/// The program by which a person lists and enters containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Docker's own.
    Docker,
    /// That of any other runtime.
    Crictl,
    /// containerd's own, where there is no crictl that can speak to it.
    Ctr,
}

impl Tool {
    /// The one that knows of a container of etcd on the asked master, running or not; else the usual one of `runtime`.
    pub fn for_etcd(view: &ClusterView, runtime: Runtime) -> Self {
        match Container::anywhere(view, Which::All) {
            Ok(Some(found)) => match found.program {
                Program::Docker => Self::Docker,
                Program::Crictl(_) => Self::Crictl,
                Program::Ctr(_) => Self::Ctr,
            },
            Ok(None) | Err(_) => match runtime {
                Runtime::Docker => Self::Docker,
                Runtime::Containerd => Self::Crictl,
            },
        }
    }
}

/// Which containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that run.
    Running,
    /// Those that ended as well.
    All,
}

/// A container of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    program: Program,
    id: String,
}

impl Container {
    /// The container that runs etcd on the asked master, whose Node is `node`.
    ///
    /// # Errors
    /// The runtime does not list its containers; none of them is a running etcd.
    pub(super) fn of_etcd(view: &ClusterView, node: &Node, socket: &str) -> Result<Self> {
        let name = &node.metadata.name;
        let runtime = Runtime::of_node(&node.status.node_info.container_runtime_version);
        let mut failures = Vec::new();
        for program in Program::of(runtime, socket) {
            let output = program.list(view, Which::Running)?;
            if output.ok() {
                let Some(id) = program.first(view, &output)? else {
                    bail!(
                        "etcd does not run on {name}. See there: {}; journalctl -u kubelet",
                        listing(runtime)
                    );
                };
                return Ok(Self { program, id });
            }
            // A crictl of old may not speak to the containerd that runs; ctr then does.
            failures.push(format!("{}: {}", program.name(), output.evidence()));
        }
        bail!(
            "cannot list the containers of {name}. See there: systemctl status {}\n{}",
            runtime.map_or("crio", Runtime::name),
            failures.join("\n")
        )
    }

    /// A container of etcd on the asked master whose runtime is not known, in whichever has one; nothing where none has.
    pub(super) fn anywhere(view: &ClusterView, which: Which) -> Result<Option<Self>> {
        for program in Program::all() {
            let output = program.list(view, which)?;
            if !output.ok() {
                continue;
            }
            let found = match which {
                Which::Running => program.first(view, &output)?,
                Which::All => output.text().lines().next().map(str::to_owned),
            };
            if let Some(id) = found {
                return Ok(Some(Self { program, id }));
            }
        }
        Ok(None)
    }

    /// A container that crictl enters.
    #[cfg(test)]
    pub(super) fn by_crictl(id: &str) -> Self {
        Self {
            program: Program::Crictl(CONTAINERD.to_owned()),
            id: id.to_owned(),
        }
    }

    /// A command in the container, which may have no shell. `old` says that its etcdctl speaks etcd's first API unless told: those before 3.4 do.
    pub(super) fn exec(&self, old: bool, words: impl IntoIterator<Item = String>) -> Cmd {
        let words: Vec<String> = words.into_iter().collect();
        // crictl and ctr give a container no variables. The images of those versions have a shell: their own liveness probe uses it.
        let told = ["/bin/sh", "-c", "ETCDCTL_API=3 exec \"$@\"", "sh"].map(str::to_owned);
        let told = told.into_iter().filter(|_| old).chain(words.clone());
        match &self.program {
            Program::Docker => {
                let exec = ["exec", "--env", "ETCDCTL_API=3", &self.id].map(str::to_owned);
                Cmd::new("docker", exec.into_iter().chain(words))
            }
            Program::Crictl(socket) => {
                let exec = ["exec", &self.id].map(str::to_owned);
                crictl(socket, cri::QUESTION, exec.into_iter().chain(told))
            }
            Program::Ctr(address) => {
                // Two commands at a time must not have one name; the same question has the same one.
                let digest = Sha256::of(words.join(" ").as_bytes()).to_string();
                let short = digest.trim_start_matches("sha256:").get(..16);
                let name = format!("kpot-{}-{}", std::process::id(), short.unwrap_or_default());
                let exec = ["tasks", "exec", "--exec-id", &name, &self.id];
                Cmd::new("ctr", ctr(address, &exec).into_iter().chain(told))
            }
        }
    }
}

impl Program {
    /// The programs that may list the containers of a runtime, the best one first.
    fn of(runtime: Option<Runtime>, socket: &str) -> Vec<Self> {
        match runtime {
            Some(Runtime::Docker) => vec![Self::Docker],
            Some(Runtime::Containerd) => {
                let address = socket.strip_prefix("unix://").unwrap_or(socket);
                vec![
                    Self::Crictl(socket.to_owned()),
                    Self::Ctr(address.to_owned()),
                ]
            }
            None => vec![Self::Crictl(socket.to_owned())],
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Crictl(_) => "crictl",
            Self::Ctr(_) => "ctr",
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        [Runtime::Docker, Runtime::Containerd]
            .into_iter()
            .flat_map(|runtime| Self::of(Some(runtime), CONTAINERD))
    }

    /// Lists the IDs of etcd's containers, one a line, the newest first; of ctr those that ended as well.
    fn list(&self, view: &ClusterView, which: Which) -> Result<Output, CommandError> {
        const LABELS: [&str; 2] = [
            "io.kubernetes.container.name=etcd",
            "io.kubernetes.pod.namespace=kube-system",
        ];
        let all = (which == Which::All).then_some("--all");
        let quiet = ["ps", "--quiet", "--no-trunc"];
        let cmd = match self {
            Self::Docker => {
                let labels = LABELS.map(|label| format!("label={label}"));
                let labels = labels.iter().flat_map(|label| ["--filter", label]);
                Cmd::new("docker", quiet.into_iter().chain(labels).chain(all))
            }
            Self::Crictl(socket) => {
                let labels = LABELS.into_iter().flat_map(|label| ["--label", label]);
                let words = quiet.into_iter().chain(labels).chain(all);
                crictl(socket, cri::QUESTION, words)
            }
            Self::Ctr(address) => {
                let terms = LABELS.map(|label| {
                    let (key, value) = label.split_once('=').unwrap_or((label, ""));
                    format!("labels.{key:?}=={value}")
                });
                let filter = terms.join(",");
                Cmd::new(
                    "ctr",
                    ctr(address, &["containers", "list", "--quiet", &filter]),
                )
            }
        };
        view.ask(&cmd)
    }

    /// The first of the containers of a list that runs.
    fn first(&self, view: &ClusterView, list: &Output) -> Result<Option<String>> {
        let text = list.text();
        let Self::Ctr(address) = self else {
            return Ok(text.lines().next().map(str::to_owned));
        };
        let tasks = view.ask(&Cmd::new("ctr", ctr(address, &["tasks", "list"])))?;
        ensure!(
            tasks.ok(),
            "ctr on {} lists no tasks: {}",
            view.address(),
            tasks.evidence()
        );
        let tasks = tasks.text();
        let runs = |id: &&str| {
            tasks.lines().any(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                columns.first() == Some(id) && columns.last() == Some(&"RUNNING")
            })
        };
        Ok(text.lines().find(runs).map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::command::NO_PROGRAM;
    use crate::host::scripted::Scripted;

    const NO_FILE: &str = "test -f /var/lib/kubelet/";

    fn node(annotations: &str, runtime: &str) -> Node {
        let json = format!(
            r#"{{"metadata":{{"name":"m1","annotations":{{{annotations}}}}},"status":{{"nodeInfo":{{"containerRuntimeVersion":"{runtime}","kubeletVersion":"v1.34.4"}}}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn view(script: Scripted) -> ClusterView {
        ClusterView::new(Arc::new(script), "10.0.0.11")
    }

    #[test]
    fn the_socket_is_where_this_kubeadm_recorded_it() {
        let socket = |script, node: &Node| {
            cri_socket(&view(script), node).map_err(|cause| cause.to_string())
        };
        // Up to 1.33 the Node tells; nothing else is asked.
        let told = node(
            r#""kubeadm.alpha.kubernetes.io/cri-socket":"unix:///run/containerd/containerd.sock""#,
            "containerd://1.7.27",
        );
        assert_eq!(
            socket(Scripted::new(), &told).unwrap(),
            "unix:///run/containerd/containerd.sock"
        );
        // From 1.34 on the file that kubeadm writes for the kubelet (app/phases/kubelet/config.go).
        let untold = node("", "containerd://2.1.4");
        let instance = "apiVersion: kubelet.config.k8s.io/v1beta1\nauthentication:\n  anonymous: {}\n  webhook:\n    cacheTTL: 0s\n  x509: {}\ncontainerRuntimeEndpoint: unix:///opt/own.sock\nkind: KubeletConfiguration\n";
        let script = Scripted::new()
            .on("test -f /var/lib/kubelet/instance-config.yaml", 0, "")
            .on("cat -- /var/lib/kubelet/instance-config.yaml", 0, instance);
        assert_eq!(socket(script, &untold).unwrap(), "unix:///opt/own.sock");
        let script = Scripted::new()
            .on("test -f /var/lib/kubelet/instance-config.yaml", 1, "")
            .on("test -f /var/lib/kubelet/kubeadm-flags.env", 0, "")
            .on(
                "cat -- /var/lib/kubelet/kubeadm-flags.env",
                0,
                "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///var/run/crio/crio.sock --node-ip=10.0.0.11\"\n",
            );
        assert_eq!(
            socket(script, &node("", "cri-o://1.28.0")).unwrap(),
            "unix:///var/run/crio/crio.sock"
        );
        let none = || Scripted::new().on(NO_FILE, 1, "");
        assert_eq!(
            socket(none(), &untold).unwrap(),
            "unix:///run/containerd/containerd.sock"
        );
        let unknown = socket(none(), &node("", "cri-o://1.28.0")).unwrap_err();
        assert!(unknown.contains("cri-o://1.28.0"), "{unknown}");
    }

    const CRICTL: &str = "crictl --runtime-endpoint unix:///run/containerd/containerd.sock --image-endpoint unix:///run/containerd/containerd.sock --timeout 20s ps --quiet --no-trunc --label 'io.kubernetes.container.name=etcd' --label 'io.kubernetes.pod.namespace=kube-system'";
    const CTR: &str = "ctr --address /run/containerd/containerd.sock --namespace k8s.io";
    const TASKS: &str = "TASK      PID     STATUS    \n\
        0ld       0       STOPPED\n\
        c0ffee    4711    RUNNING\n\
        pause1    4650    RUNNING\n";

    fn words() -> Vec<String> {
        ["etcdctl", "member", "list"].map(str::to_owned).to_vec()
    }

    fn of_etcd(script: Scripted) -> Result<Container, String> {
        let node = node("", "containerd://2.1.4");
        Container::of_etcd(&view(script), &node, CONTAINERD).map_err(|cause| cause.to_string())
    }

    #[test]
    fn with_containerd_crictl_enters_etcd_s_container() {
        let found = of_etcd(Scripted::new().on(CRICTL, 0, "c0ffee\n")).unwrap();
        assert_eq!(
            found.exec(false, words()).to_string(),
            "crictl --runtime-endpoint unix:///run/containerd/containerd.sock --image-endpoint unix:///run/containerd/containerd.sock --timeout 20s exec c0ffee etcdctl member list"
        );
        let old = found.exec(true, words()).to_string();
        assert!(
            old.contains("exec c0ffee /bin/sh -c 'ETCDCTL_API=3 exec \"$@\"' sh etcdctl"),
            "{old}"
        );
        let none = of_etcd(Scripted::new().on(CRICTL, 0, "")).unwrap_err();
        assert!(none.contains("etcd does not run on m1") && none.contains("crictl ps -a"));
    }

    #[test]
    fn without_crictl_ctr_enters_the_one_that_runs() {
        ctr_enters(NO_PROGRAM, "sh: 1: crictl: not found");
    }

    #[test]
    fn where_crictl_is_too_old_for_the_runtime_ctr_enters_the_one_that_runs() {
        ctr_enters(1, "unknown service runtime.v1alpha2.RuntimeService");
    }

    /// `status` and `why` are crictl's.
    fn ctr_enters(status: i32, why: &str) {
        let script = Scripted::new()
            .on(CRICTL, status, why)
            .on(
                &format!("{CTR} containers list --quiet"),
                0,
                "0ld\nc0ffee\n",
            )
            .on(&format!("{CTR} tasks list"), 0, TASKS);
        let found = of_etcd(script).unwrap();
        let (list, other) = (found.exec(false, words()), vec!["etcdctl".to_owned()]);
        let text = list.to_string();
        assert!(
            text.starts_with(&format!("{CTR} tasks exec --exec-id kpot-")),
            "{text}"
        );
        assert!(text.ends_with(" c0ffee etcdctl member list"), "{text}");
        assert_eq!(
            list,
            found.exec(false, words()),
            "one question, one command"
        );
        assert_ne!(list.args[7], found.exec(false, other).args[7]);
    }

    #[test]
    fn a_runtime_that_does_not_answer_is_not_taken_for_one_without_etcd() {
        let script = Scripted::new()
            .on(CRICTL, 1, "connection refused")
            .on(CTR, 1, "cannot dial");
        let refused = of_etcd(script).unwrap_err();
        assert!(
            refused.contains("crictl: connection refused") && refused.contains("ctr: cannot dial"),
            "{refused}"
        );
        assert!(refused.contains("systemctl status containerd"), "{refused}");
    }

    #[test]
    fn without_an_api_server_every_runtime_is_asked() {
        let nowhere = || {
            Scripted::new()
                .on("docker ps", NO_PROGRAM, "docker: not found")
                .on("ctr ", NO_PROGRAM, "ctr: not found")
        };
        let there = nowhere().on(&format!("{CRICTL} --all"), 0, "c0ffee\n");
        let found = Container::anywhere(&view(there), Which::All).unwrap();
        assert_eq!(found.unwrap().id, "c0ffee");
        let without_crictl = || {
            Scripted::new()
                .on("docker ps", NO_PROGRAM, "docker: not found")
                .on("crictl", NO_PROGRAM, "crictl: not found")
        };
        let there = without_crictl().on("ctr ", 0, "c0ffee\n");
        let tool = |script| Tool::for_etcd(&view(script), Runtime::Containerd);
        assert_eq!(tool(there), Tool::Ctr);
        assert_eq!(tool(nowhere().on(CRICTL, 0, "c0ffee\n")), Tool::Crictl);
        let nothing = without_crictl().on("ctr ", 0, "");
        assert_eq!(tool(nothing), Tool::Crictl, "the runtime's usual one");
        let gone = nowhere().on("crictl", NO_PROGRAM, "crictl: not found");
        assert_eq!(
            Container::anywhere(&view(gone), Which::Running).unwrap(),
            None
        );
    }
}
