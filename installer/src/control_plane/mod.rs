//! The cluster, by way of one healthy master: questions ([`ClusterView`]) and changes ([`Cluster`]).

use std::sync::Arc;

use crate::host::command::Runner;

/// The cluster, for looking only.
pub struct ClusterView {
    runner: Arc<dyn Runner>,
}

/// The cluster, for changing.
pub struct Cluster {
    view: ClusterView,
}

impl Cluster {
    /// The same, for looking only.
    pub fn view(&self) -> &ClusterView {
        &self.view
    }
}
