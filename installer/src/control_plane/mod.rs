//! The cluster, by way of one healthy master: questions ([`ClusterView`]) and changes ([`Cluster`]).
//!
//! Questions go through `kubectl` and `etcdctl` on the healthy master itself, so that no client key leaves it (but for the
//! seconds in which a change asks the etcd of a master that is down from here, too). What is asked is typed here; what the answers mean for a
//! workflow is decided elsewhere.

pub mod alarms;
pub mod announced;
pub mod bootstrap;
pub mod containers;
pub mod controllers;
pub mod credentials;
pub mod etcd;
pub mod extra_paths;
pub mod facts;
pub mod freshness;
pub mod guard;
pub mod images;
pub mod kubeadm;
pub mod lease;
pub mod objects;
pub mod recorded;
pub mod runbook;
pub mod snapshot;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::objects::PodSpec;
use crate::host::ahead::Ahead;
use crate::host::clock::Clock;
use crate::host::command::{Cmd, CommandError, NO_PROGRAM, Output, Runner};
use crate::host::remote::{RemoteView, TreeEntry};

/// The administrator's credentials on every kubeadm master.
pub(crate) const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";

/// The Secret in which kubeadm hands certificates to a master that joins.
const UPLOADED_CERTS: [&str; 4] = ["secret", "kubeadm-certs", "--namespace", "kube-system"];

/// How long an object that was deleted may be held by its finalizers: whoever set them is at work on it.
const GOING: Duration = Duration::from_secs(30);

/// Where kubeadm writes what a master's own API server is told.
const APISERVER: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// The cluster, for looking only.
#[derive(Clone)]
pub struct ClusterView {
    runner: Arc<dyn Runner>,
    machine: RemoteView,
    /// The API server that is asked; where there is none, the one that the administrator's credentials name.
    server: Option<String>,
}

impl ClusterView {
    /// The cluster of the master that `runner` runs commands on and that the operator named `address`.
    pub fn new(runner: Arc<dyn Runner>, address: impl Into<String>) -> Self {
        Self {
            machine: RemoteView::new(runner.clone(), address),
            runner,
            server: None,
        }
    }

    /// The same, asking the healthy master's own API server if it answers. The administrator's credentials name the cluster's endpoint, and that may be the address of a
    /// master that is dead, or of this machine, whose API server is about to be stopped.
    #[must_use]
    pub fn by_own_server(mut self) -> Self {
        self.server = self.own_server().filter(|server| self.serves(server));
        self
    }

    /// The healthy master's own API server, `https://ADDRESS:PORT`: its certificate is always valid for the address that it advertises.
    fn own_server(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Manifest {
            spec: PodSpec,
        }
        let manifest = self.file(APISERVER).ok()??;
        let text = std::str::from_utf8(&manifest).ok()?;
        let Manifest { spec } = serde_saphyr::from_str(text).ok()?;
        let flag = |name: &str| spec.arguments().find_map(|flag| flag.strip_prefix(name));
        let address: IpAddr = flag("--advertise-address=")?.parse().ok()?;
        let port = flag("--secure-port=").map_or(Some(6443), |port| port.parse().ok())?;
        Some(format!("https://{}", SocketAddr::new(address, port)))
    }

    /// The address at which the healthy master's own API server is asked, where it is.
    fn own_server_address(&self) -> Option<String> {
        let place = self.server.as_ref()?.strip_prefix("https://")?;
        let place: SocketAddr = place.parse().ok()?;
        Some(place.ip().to_string())
    }

    /// Whether an API server (`https://HOST:PORT`) answers the healthy master within 5 s; a well one needs some milliseconds.
    pub fn serves(&self, server: &str) -> bool {
        let args = [
            "--request-timeout",
            "5s",
            "--server",
            server,
            "get",
            "--raw",
            "/healthz",
        ];
        let answer = self.ask(&self.kubectl(args));
        answer.is_ok_and(|answer| answer.text() == "ok")
    }

    /// Why the healthy master's own admin.conf, as it is, leads to no API server from there; nothing where it does. kubeadm there goes by it, where our own questions ask a server by its address.
    pub fn astray(&self) -> Option<String> {
        let as_it_is = Self {
            server: None,
            ..self.clone()
        };
        let args = ["--request-timeout", "10s", "get", "--raw", "/healthz"];
        match self.ask(&as_it_is.kubectl(args)) {
            // Whatever an API server says, it answers.
            Ok(answer) if answer.ok() || answer.evidence().contains("Error from server") => None,
            Ok(answer) => Some(answer.evidence()),
            Err(cause) => Some(format!("{cause:#}")),
        }
    }

    /// `kubectl` on the healthy master. Of two `--server` the later one holds.
    pub(crate) fn kubectl<'t>(&'t self, args: impl IntoIterator<Item = &'t str>) -> Cmd {
        let server = self.server.iter().flat_map(|server| ["--server", server]);
        let fixed = ["--kubeconfig", ADMIN_CONF, "--request-timeout", "20s"];
        Cmd::new("kubectl", fixed.into_iter().chain(server).chain(args))
            .timeout(Duration::from_secs(40))
    }

    /// The clock by which it is waited between two questions.
    pub fn clock(&self) -> &dyn Clock {
        self.runner.clock()
    }

    /// The healthy master's address, as the operator gave it.
    pub fn address(&self) -> &str {
        self.machine.address()
    }

    /// The same cluster; `questions` are asked side by side now, and each answer is given once, to the same question.
    #[must_use]
    pub(crate) fn ahead(&self, questions: &[Cmd]) -> Self {
        self.by(Ahead::ask(self.runner.clone(), questions))
    }

    /// The same; the answer to each of `questions`, which are asked now, holds whenever it is asked again. For looking at several things as they are at one moment.
    #[must_use]
    pub(crate) fn keeping(&self, questions: &[Cmd]) -> Self {
        self.by(Ahead::keep(self.runner.clone(), questions))
    }

    fn by(&self, runner: Arc<dyn Runner>) -> Self {
        Self {
            machine: RemoteView::new(runner.clone(), self.address()),
            runner,
            server: self.server.clone(),
        }
    }

    /// Does both, side by side where the connection can bear two commands at a time; else one after the other.
    pub(crate) fn both<A: Send, B: Send>(
        &self,
        one: impl FnOnce() -> A + Send,
        other: impl FnOnce() -> B,
    ) -> (A, B) {
        if self.runner.lanes() < 2 {
            return (one(), other());
        }
        thread::scope(|scope| {
            let one = scope.spawn(one);
            let other = other();
            let one = one.join().unwrap_or_else(|panic| resume_unwind(panic));
            (one, other)
        })
    }

    /// What [`Self::get`] asks.
    fn getting(&self, what: &[&str]) -> Cmd {
        self.kubectl(["get"].iter().chain(what).chain(&["-o", "json"]).copied())
    }

    /// What [`Self::find`] asks.
    pub(crate) fn finding(&self, what: &[&str]) -> Cmd {
        let options = ["--ignore-not-found", "-o", "json"];
        self.kubectl(["get"].iter().chain(what).chain(&options).copied())
    }

    /// Reads objects with `kubectl get … -o json`.
    pub fn get<T: DeserializeOwned>(&self, what: &[&str]) -> Result<T> {
        let question = self.getting(what);
        let output = self.ask(&question)?.expect(&question)?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "kubectl on {} gave JSON for {} that is not understood",
                self.address(),
                what.join(" ")
            )
        })
    }

    /// The same; nothing where there is no such object.
    pub fn find<T: DeserializeOwned>(&self, what: &[&str]) -> Result<Option<T>> {
        let question = self.finding(what);
        let output = self.ask(&question)?.expect(&question)?;
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        serde_json::from_slice(&output.stdout)
            .map(Some)
            .with_context(|| {
                format!(
                    "kubectl on {} gave JSON for {} that is not understood",
                    self.address(),
                    what.join(" ")
                )
            })
    }

    /// The healthy master's machine.
    pub fn machine(&self) -> &RemoteView {
        &self.machine
    }

    /// The content of a small file on the healthy master; nothing where there is none.
    pub fn file(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.machine.file(path)
    }

    /// Copies a file of any size from the healthy master into `sink`. What the sink got is whole only where this returns no error.
    pub fn copy(&self, path: &str, sink: &mut dyn Write) -> Result<()> {
        self.machine.copy(path, sink)
    }

    /// When the Secret `kubeadm-certs` was made (RFC 3339), where it exists.
    pub fn uploaded_certs(&self) -> Result<Option<String>> {
        let certs: Option<objects::Data> = self.find(&UPLOADED_CERTS)?;
        Ok(certs.map(|secret| secret.metadata.creation_timestamp))
    }

    /// The same as [`RemoteView::tree`], of the healthy master.
    pub fn tree(&self, path: &str) -> Result<Vec<TreeEntry>> {
        self.machine.tree(path)
    }

    /// Runs a command there that changes nothing. Private to this module and those below: what changes something goes through [`Cluster`].
    ///
    /// # Errors
    /// Also where the healthy master has no kubectl; of other programs, that is an answer.
    fn ask(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        let output = self.runner.run(cmd)?;
        if output.status == NO_PROGRAM && cmd.program == "kubectl" {
            return Err(CommandError::NoProgram {
                host: self.address().to_owned(),
                program: cmd.program.clone(),
                evidence: output.evidence(),
            });
        }
        Ok(output)
    }
}

/// The cluster, for changing.
pub struct Cluster {
    view: ClusterView,
}

impl Cluster {
    /// What `view` sees, for changing.
    pub fn new(view: ClusterView) -> Self {
        Self { view }
    }

    /// The same, for looking only.
    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    /// Makes an object, or puts it in the place of the one whose `resourceVersion` it bears. It goes through standard input; the answer is the object as it is then, and so none with a
    /// secret in it may be given.
    pub(crate) fn put(&self, object: &Value) -> Result<Output, CommandError> {
        let is_new = object["metadata"]["resourceVersion"].is_null();
        let verb = if is_new { "create" } else { "replace" };
        self.view.runner.run(
            &self
                .view
                .kubectl([verb, "-f", "-", "-o", "json"])
                .stdin(object.to_string()),
        )
    }

    /// Sets an annotation (`key=value`), or takes it away (`key-`).
    pub fn annotate(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        annotation: &str,
    ) -> Result<()> {
        let args = [
            "annotate",
            kind,
            name,
            "--namespace",
            namespace,
            "--overwrite",
            annotation,
        ];
        self.view.runner.expect(&self.view.kubectl(args))?;
        Ok(())
    }

    /// Deletes an object; one that is gone already is fine. One that finalizers hold is only marked: kubectl alone would wait for it, until it is killed.
    pub fn delete(&self, what: &[&str]) -> Result<()> {
        let options = ["--ignore-not-found", "--wait=false"];
        self.view.runner.expect(
            &self
                .view
                .kubectl(["delete"].iter().chain(what).chain(&options).copied()),
        )?;
        Ok(())
    }

    /// The same by these `flags`, and waits until the object is gone.
    ///
    /// # Errors
    /// Its finalizers, which are named, still hold it after [`GOING`].
    pub fn delete_wholly(&self, what: &[&str], flags: &[&str]) -> Result<()> {
        self.delete(&[what, flags].concat())?;
        let clock = self.view.clock();
        let deadline = clock.now() + GOING;
        loop {
            let left: Option<Value> = self.view.find(what)?;
            let left = left.unwrap_or_default();
            // One that is not marked was made anew since: a kubelet that still runs does that.
            if left["metadata"]["deletionTimestamp"].is_null() {
                return Ok(());
            }
            ensure!(
                clock.now() < deadline,
                "{what} is marked as deleted, and its finalizers hold it: {}. Who set them has to take them away; where nobody does any more, type on {}:\n  kubectl --kubeconfig {ADMIN_CONF} patch {what} --type=merge --patch '{{\"metadata\":{{\"finalizers\":null}}}}'\nThen run the same command again",
                left["metadata"]["finalizers"],
                self.view.address(),
                what = what.join(" ")
            );
            clock.pause(Duration::from_secs(1));
        }
    }

    /// Runs a command on the healthy master that changes something.
    pub(crate) fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        self.view.runner.expect(cmd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scripted::Scripted;

    const KUBECTL: &str = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 20s";
    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  creationTimestamp: null\n  name: kube-apiserver\nspec:\n  containers:\n  - command:\n    - kube-apiserver\n    - --advertise-address=10.0.0.11\n    - --secure-port=7443\n    image: k8s.gcr.io/kube-apiserver:v1.14.0\n    name: kube-apiserver\n  hostNetwork: true\nstatus: {}\n";

    fn master(answer: (i32, &str)) -> Scripted {
        Scripted::new()
            .on(&format!("test -f {APISERVER}"), 0, "")
            .on(&format!("cat -- {APISERVER}"), 0, MANIFEST)
            .on(
                &format!(
                    "{KUBECTL} --request-timeout 5s --server https://10.0.0.11:7443 get --raw /healthz"
                ),
                answer.0,
                answer.1,
            )
    }

    #[test]
    fn the_healthy_masters_own_server_is_asked_whatever_its_credentials_name() {
        let script = master((0, "ok")).on(
            &format!("{KUBECTL} --server https://10.0.0.11:7443 get node m1"),
            0,
            "{}",
        );
        let view = ClusterView::new(Arc::new(script), "m1.lab").by_own_server();
        let found: Option<objects::Node> = view.find(&["node", "m1"]).unwrap();
        assert!(found.is_some());
    }

    #[test]
    fn credentials_lead_astray_where_no_api_server_answers_them() {
        let told = |status: i32, said: &str| {
            let as_it_is = format!("{KUBECTL} --request-timeout 10s get --raw /healthz");
            let script = master((0, "ok")).on(&as_it_is, status, said);
            let view = ClusterView::new(Arc::new(script), "m1.lab").by_own_server();
            view.astray()
        };
        assert_eq!(told(0, "ok"), None);
        assert_eq!(told(1, "Error from server (Forbidden): no"), None);
        let lost = told(1, "Unable to connect to the server: no route to host").unwrap();
        assert!(lost.contains("no route to host"), "{lost}");
    }

    #[test]
    fn where_it_does_not_answer_the_credentials_decide() {
        let script =
            master((1, "connection refused")).on(&format!("{KUBECTL} get node m1"), 0, "{}");
        let view = ClusterView::new(Arc::new(script), "m1.lab").by_own_server();
        let found: Option<objects::Node> = view.find(&["node", "m1"]).unwrap();
        assert!(found.is_some());
        let view = ClusterView::new(Arc::new(Scripted::new().on("test -f", 1, "")), "m1.lab");
        assert_eq!(view.by_own_server().server, None, "no such manifest");
    }
}
