//! The pot's size against what people carry today ([`super::bundle`]).

use anyhow::Result;

use super::report::{Row, Unit};
use super::{Desk, bundle, measure};
use crate::materials::Materials;
use crate::sh;

/// From the issue that set the goals.
const GOAL: f64 = 0.85;

pub(super) fn measure(desk: &Desk) -> Result<Vec<Row>> {
    let file = desk.folder.join("bundle.tgz");
    bundle::make(desk, &Materials::of_lab(&desk.upstream)?, &file)?;
    let theirs = measure::size(&file)?;
    sh::remove(&file)?;
    let ours = measure::size(&desk.pot.file)?;
    Ok(vec![Row {
        name: "pot / tar | gzip -6",
        figure: measure::float(ours) / measure::float(theirs),
        goal: GOAL,
        unit: Unit::Ratio,
        detail: format!(
            "{:.1} MB; {:.1} MB",
            measure::megabytes(ours),
            measure::megabytes(theirs)
        ),
    }])
}
