//! Checking a pot against `sha256sum -c` in the unpacked one, everything in the page cache.

use std::path::Path;

use anyhow::Result;

use super::Desk;
use super::measure::{self, Sample, Spread};
use super::report::{Row, Unit};
use crate::sh::Sh;

/// From the issue that set the goals: hardware SHA on all cores.
const GOAL: f64 = 0.25;

/// A run takes a fraction of a second: many are cheap, and needed.
const RUNS: usize = 11;

pub(super) fn measure(desk: &Desk) -> Result<Vec<Row>> {
    let sums = || {
        let check = Sh::new("sha256sum").args(["--check", "--strict", "--quiet", "SHA256SUMS"]);
        measure::time(check.dir(desk.unpacked()))
    };
    // The first round fills the page cache and does not count.
    builder(desk, &desk.pot.file)?;
    installer(desk, &desk.pot.file)?;
    sums()?;
    let (mut by_builder, mut by_installer, mut by_sums) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        by_builder.push(builder(desk, &desk.pot.file)?.time);
        by_installer.push(installer(desk, &desk.pot.file)?.time);
        by_sums.push(sums()?);
    }
    let by_sums = Spread::of(by_sums)?;
    let row = |name, ours: &Spread| Row {
        name,
        figure: ours.ratio_to(&by_sums),
        goal: GOAL,
        unit: Unit::Ratio,
        detail: format!("{ours}; {by_sums}; {RUNS} runs"),
    };
    Ok(vec![
        row("kpot verify / sha256sum -c", &Spread::of(by_builder)?),
        row(
            "kpot-install verify / sha256sum -c",
            &Spread::of(by_installer)?,
        ),
    ])
}

/// One run of `kpot verify`.
pub(super) fn builder(desk: &Desk, pot: &Path) -> Result<Sample> {
    measure::sample(&desk.folder.join("peak"), desk.kpot.path(), |command| {
        let command = command.arg("verify").arg(pot);
        command.arg("--signers").arg(desk.signers())
    })
}

/// One run of `kpot-install verify`.
pub(super) fn installer(desk: &Desk, pot: &Path) -> Result<Sample> {
    let program = desk.unpacked().join("kpot-install");
    measure::sample(&desk.folder.join("peak"), &program, |command| {
        let command = command.args(["verify", "--pot"]).arg(pot);
        command.arg("--signers").arg(desk.signers())
    })
}
