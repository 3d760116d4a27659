//! The cluster, by way of one healthy master: questions ([`ClusterView`]) and changes ([`Cluster`]).
//!
//! Questions go through `kubectl` and `etcdctl` on the healthy master itself, so that no client key leaves it (but for the
//! seconds in which a change asks the etcd of a master that is down from here, too). What is asked is typed here; what the answers mean for a
//! workflow is decided elsewhere.

pub mod credentials;
pub mod etcd;
pub mod facts;
pub mod freshness;
pub mod guard;
pub mod images;
pub mod kubeadm;
pub mod lease;
pub mod objects;
pub mod runbook;
pub mod snapshot;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::host::command::{Cmd, CommandError, Output, Runner};
use crate::host::remote::{RemoteView, TreeEntry};

/// The administrator's credentials on every kubeadm master.
const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";

/// The cluster, for looking only.
#[derive(Clone)]
pub struct ClusterView {
    runner: Arc<dyn Runner>,
    machine: RemoteView,
}

impl ClusterView {
    /// The cluster of the master that `runner` runs commands on and that the operator named `address`.
    pub fn new(runner: Arc<dyn Runner>, address: impl Into<String>) -> Self {
        Self {
            machine: RemoteView::new(runner.clone(), address),
            runner,
        }
    }

    /// The healthy master's address, as the operator gave it.
    pub fn address(&self) -> &str {
        self.machine.address()
    }

    /// Reads objects with `kubectl get … -o json`.
    pub fn get<T: DeserializeOwned>(&self, what: &[&str]) -> Result<T> {
        let output = self.runner.expect(&kubectl(
            ["get"].iter().chain(what).chain(&["-o", "json"]).copied(),
        ))?;
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
        let output = self.runner.expect(&kubectl(
            ["get"]
                .iter()
                .chain(what)
                .chain(&["--ignore-not-found", "-o", "json"])
                .copied(),
        ))?;
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
        let certs: Option<objects::Data> =
            self.find(&["secret", "kubeadm-certs", "--namespace", "kube-system"])?;
        Ok(certs.map(|secret| secret.metadata.creation_timestamp))
    }

    /// The same as [`RemoteView::tree`], of the healthy master.
    pub fn tree(&self, path: &str) -> Result<Vec<TreeEntry>> {
        self.machine.tree(path)
    }

    /// Runs a command there that changes nothing. Private to this module and those below: what changes something goes through [`Cluster`].
    fn ask(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        self.runner.run(cmd)
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

    /// Gives `kubectl VERB -f -` an object to read. Objects may hold secrets: they go through standard input.
    pub(crate) fn apply(
        &self,
        verb: &str,
        object: &serde_json::Value,
    ) -> Result<Output, CommandError> {
        self.view
            .runner
            .run(&kubectl([verb, "-f", "-"]).stdin(object.to_string()))
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
        self.view.runner.expect(&kubectl(args))?;
        Ok(())
    }

    /// Deletes an object; one that is gone already is fine.
    pub fn delete(&self, what: &[&str]) -> Result<()> {
        self.view.runner.expect(&kubectl(
            ["delete"]
                .iter()
                .chain(what)
                .chain(&["--ignore-not-found"])
                .copied(),
        ))?;
        Ok(())
    }

    /// Runs a command on the healthy master that changes something.
    pub(crate) fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        self.view.runner.expect(cmd)
    }
}

fn kubectl<'t>(args: impl IntoIterator<Item = &'t str>) -> Cmd {
    let fixed = ["--kubeconfig", ADMIN_CONF, "--request-timeout", "20s"];
    Cmd::new("kubectl", fixed.into_iter().chain(args)).timeout(Duration::from_secs(40))
}
