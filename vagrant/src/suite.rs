//! `cargo lab test`: the tests of the code, checks of the programs as they are shipped, and all scenarios on every era.

use anyhow::{Result, ensure};

use crate::cache::Cache;
use crate::eras::Version;
use crate::image::vagrant_dir;
use crate::lab::Lab;
use crate::scenario::{self, Counts};
use crate::sh::{self, Sh};
use crate::workbench::Workbench;

/// Runs everything; failures are told and counted.
pub fn run(cache: &Cache, lab: &Lab, versions: &[Version]) -> Result<Counts> {
    let mut counts = Counts::default();
    let workbench = Workbench::prepare(cache, versions)?;
    for index in 0..versions.len() {
        let mut bench = workbench.bench(lab, index)?;
        counts += scenario::play(&mut bench, scenario::all());
    }
    lab.raze()?;
    Ok(counts)
}
