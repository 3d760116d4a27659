//! A command that is done is typed once more: it says so, ends well, and neither the machine nor the cluster changes.

use anyhow::{Result, ensure};

use super::{Bench, join};
use crate::node::Node;
use crate::pot;
use crate::snapshot::{Files, Snapshot};

/// Types the arguments of `kpot-install` again on the machine that it changed.
pub fn nothing_to_do(bench: &Bench, node: &Node, arguments: &str) -> Result<()> {
    let cluster = bench.cluster()?;
    let files = Snapshot::of_files(node, Files::Written)?;
    let state = Snapshot::of_cluster(cluster)?;
    let outcome = pot::install_well(node, arguments, join::JOIN_LIMIT)?;
    let said = outcome.stdout + &outcome.stderr;
    ensure!(
        said.contains("nothing to do"),
        "the second run does not say that there is nothing to do:\n{said}"
    );
    files.ensure_same(
        &Snapshot::of_files(node, Files::Written)?,
        &format!("files on {node}"),
    )?;
    state.ensure_same(&Snapshot::of_cluster(cluster)?, "the cluster")
}
