//! A step ensures one state, and can tell without changing anything whether that state holds.
//!
//! The size of a step is the unit of failure. Steps get their inputs when they are made; there is no shared bag. `check` sees a [`View`], which cannot write: that a
//! dry run changes nothing is a matter of types.

use crate::control_plane::{Cluster, ClusterView};
use crate::host::{Host, HostView};

/// What can be looked at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// This machine.
    pub host: &'a HostView,
    /// The cluster, seen from a healthy master, in workflows that have one.
    pub cluster: Option<&'a ClusterView>,
}

/// What can be changed.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// This machine, with a journal of what is done to it.
    pub host: &'a Host<'a>,
    /// The cluster, by way of a healthy master, in workflows that have one.
    pub cluster: Option<&'a Cluster>,
}

impl World<'_> {
    /// The same, for looking only.
    pub fn view(&self) -> View<'_> {
        View {
            host: self.host.view(),
            cluster: self.cluster.map(Cluster::view),
        }
    }
}

/// Whether a step's state holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    Satisfied,
    /// It does not hold, it cannot be brought about on this machine, and the workflow does not need it; says why. (A kernel without loadable modules, a sysctl
    /// that does not exist in a container.)
    Unsettable(String),
    /// It does not hold yet; says what is missing.
    Pending(String),
    /// Something is in the way that this program must not change by itself.
    Conflict {
        /// What is in the way.
        reason: String,
        /// What the operator can do about it.
        remedy: String,
    },
}

/// Where a step does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine only.
    Here,
    /// On the cluster.
    Cluster,
}

/// How an operator takes back what a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reversal {
    /// `kpot-install rollback` undoes it.
    Rollback,
    /// `kpot-install reset` takes it out of the cluster again, and undoes the rest.
    Reset,
    /// By hand, with what the backup holds.
    Backup,
    /// There is nothing to take back: it waits, copies, or ends what this run itself began.
    Nothing,
    /// Not at all.
    Never,
}

/// One state to ensure.
pub trait Step {
    /// A short, stable name: `kernel-modules`.
    fn id(&self) -> &'static str;

    /// What it ensures, in the words of an operator, without a full stop: "kernel modules are loaded now and after a reboot".
    fn summary(&self) -> String;

    /// Where it works.
    fn place(&self) -> Place {
        Place::Here
    }

    /// How what it does is taken back.
    fn reversal(&self) -> Reversal {
        Reversal::Rollback
    }

    /// Looks whether the state holds. An error means that it could not be told.
    fn check(&self, view: View<'_>) -> anyhow::Result<State>;

    /// Brings the state about. Called only after `check` said that it is pending; must itself cope with being half done before.
    fn apply(&self, world: World<'_>) -> anyhow::Result<()>;
}
