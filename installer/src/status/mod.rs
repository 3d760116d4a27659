//! `status`: how this machine, and the cluster that it belongs to, stand.
//!
//! It looks and changes nothing: it has views only, takes no lock and writes no journal. (The SSH connection to a healthy master has its sockets below /run/kpot, as always.)
//! Every part is gathered by itself: one that fails says why, and the others still show. It judges nothing beyond what it marks with `!`, and bad news is no failure of it.

mod certificates;
mod cluster;
mod machine;
mod table;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use serde::Serialize;
use serde_json::json;

use self::cluster::Cluster;
use self::machine::Machine;
use crate::console::Console;
use crate::control_plane::ClusterView;
use crate::host::HostView;
use crate::host::command::{Cmd, CommandError, Feed, Output, Runner};
use crate::host::ssh::{Ssh, Target};

/// How long one question to the cluster may take where nobody asked for the cluster by `--healthy`; an etcd member that is down takes 8 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// What `status` is told.
pub struct Status<'a> {
    /// This machine.
    pub host: HostView,
    /// Where words go.
    pub console: &'a Console,
    /// How to reach a healthy master; where there is none, the cluster is asked through this machine, if it is a master.
    pub target: Option<Target>,
}

/// What was found, or why it was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Told<T> {
    /// It was found.
    Known(T),
    /// It was not.
    CannotTell {
        /// Why.
        cannot_tell: String,
    },
}

impl<T> Told<T> {
    fn of(result: Result<T>) -> Self {
        result.map_or_else(
            |cause| Self::CannotTell {
                cannot_tell: format!("{cause:#}"),
            },
            Self::Known,
        )
    }

    fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::CannotTell { .. } => None,
        }
    }
}

/// Everything.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    /// Nothing where no cluster could be asked.
    cluster: Option<Told<Cluster>>,
}

/// Looks and tells.
///
/// # Errors
/// Where the healthy master that was named cannot be reached; what is known of this machine is told before.
pub fn run(options: &Status<'_>, local: Arc<dyn Runner>) -> Result<()> {
    let (cluster, unreached) = match &options.target {
        None if machine::is_administered(&options.host) => {
            let view = ClusterView::new(Arc::new(Impatient(local)), "this machine");
            let view = view.by_own_server();
            (Some(Told::Known(Cluster::ask(&view))), None)
        }
        None => (None, None),
        Some(target) => match connect(options.console, local, target) {
            Ok(view) => (Some(Told::Known(Cluster::ask(&view))), None),
            Err(cause) => {
                let host = &target.host;
                let unreached = anyhow!("the cluster was not looked at: {host} is not reached");
                (Some(Told::of(Err(cause))), Some(unreached))
            }
        },
    };
    let report = gather(&options.host, cluster, SystemTime::now());
    options.console.result(&table::text(&report))?;
    options.console.document(&json!(report))?;
    unreached.map_or(Ok(()), Err)
}

fn gather(host: &HostView, cluster: Option<Told<Cluster>>, now: SystemTime) -> Report {
    let mut machine = Machine::look(host, now);
    if let Some(Told::Known(cluster)) = &cluster {
        machine.name_by(&cluster.nodes);
    }
    Report { machine, cluster }
}

fn connect(console: &Console, local: Arc<dyn Runner>, target: &Target) -> Result<ClusterView> {
    console.say(&format!("connecting to {}@{} …", target.user, target.host));
    let ssh: Arc<dyn Runner> = Arc::new(Ssh::connect(local, target.clone())?);
    Ok(ClusterView::new(ssh, target.host.clone()).by_own_server())
}

/// Runs commands, and waits for none of them longer than [`PATIENCE`].
struct Impatient(Arc<dyn Runner>);

impl Impatient {
    fn shortened(cmd: &Cmd) -> Cmd {
        cmd.clone().timeout(cmd.timeout.min(PATIENCE))
    }
}

impl Runner for Impatient {
    fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        self.0.run(&Self::shortened(cmd))
    }

    fn feed(&self, cmd: &Cmd, feed: &mut Feed<'_>) -> Result<Output, CommandError> {
        self.0.feed(&Self::shortened(cmd), feed)
    }

    fn fetch(&self, cmd: &Cmd, sink: &mut dyn Write) -> Result<Output, CommandError> {
        self.0.fetch(&Self::shortened(cmd), sink)
    }
}
