//! Peak memory of the builder and of the installer's check, with a pot and with one several times as large.
//!
//! The larger pot has one more image, of bytes that no compressor makes smaller. It stays in the lab's registry for the
//! next run.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};

use super::measure::{self, Sample};
use super::report::{Row, Unit};
use super::{Desk, build, verify};
use crate::sh::{self, Sh, step};

/// From the issue that set the goals, in MiB.
const BUILDER: f64 = 128.0;
/// As [`BUILDER`], of the installer.
pub(super) const INSTALLER: f64 = 64.0;

/// How much more memory a pot of more than three times the size may take and still count as "flat": what two runs of
/// the same differ by, and some.
const FLAT: f64 = 1.1;

const BALLAST: &str = "kpot.lab/ballast:1";
const BALLAST_BYTES: usize = 512 << 20;

pub(super) fn measure(desk: &Desk) -> Result<Vec<Row>> {
    let image = desk.mirrored.image(BALLAST)?;
    push_ballast(desk, &image)?;
    let large = desk.folder.join("large.pot");
    let mut arguments = desk.arguments.clone();
    arguments.extend(["--image".to_owned(), BALLAST.to_owned()]);
    let built = build::kpot(&desk.kpot, &desk.pot, desk.version(), &arguments, &large)?;
    let small = &desk.pot.file;
    let sizes = format!(
        "pots of {:.1} and {:.1} MB",
        measure::megabytes(measure::size(small)?),
        measure::megabytes(measure::size(&large)?)
    );
    let mut rows = Vec::new();
    let mut add = |names: [&'static str; 2], goal, small: Sample, large: Sample| {
        let worst = small.peak.max(large.peak);
        rows.push(Row {
            name: names[0],
            figure: measure::mebibytes(worst),
            goal,
            unit: Unit::MiB,
            detail: format!(
                "{:.1} and {:.1} MiB; {sizes}",
                measure::mebibytes(small.peak),
                measure::mebibytes(large.peak)
            ),
        });
        rows.push(Row {
            name: names[1],
            figure: measure::float(large.peak) / measure::float(small.peak),
            goal: FLAT,
            unit: Unit::Ratio,
            detail: sizes.clone(),
        });
    };
    add(
        ["kpot build, peak memory", "  large pot / small pot"],
        BUILDER,
        desk.first_build,
        built,
    );
    add(
        ["kpot verify, peak memory", "  large pot / small pot"],
        BUILDER,
        verify::builder(desk, small)?,
        verify::builder(desk, &large)?,
    );
    add(
        [
            "kpot-install verify, peak memory",
            "  large pot / small pot",
        ],
        INSTALLER,
        verify::installer(desk, small)?,
        verify::installer(desk, &large)?,
    );
    sh::remove(&large)?;
    Ok(rows)
}

/// Puts the image into the lab's registry, unless it is there.
fn push_ballast(desk: &Desk, image: &str) -> Result<()> {
    let reference = format!("docker://{image}");
    let there = Sh::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false", &reference])
        .outcome()?;
    if there.ok() {
        return Ok(());
    }
    step("making and pushing an image that does not compress", || {
        let folder = desk.folder.join("ballast");
        write_ballast(&folder.join("ballast"))?;
        let import = "set -o pipefail; tar -C \"$1\" --mtime=@0 --owner=0 --group=0 -c ballast | docker import - \"$2\"";
        Sh::new("bash")
            .args(["-c", import, "import"])
            .arg(&folder)
            .arg(BALLAST)
            .run()?;
        let pushed = Sh::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .args([&format!("docker-daemon:{BALLAST}"), &reference])
            .run();
        Sh::new("docker").args(["rmi", BALLAST]).run()?;
        sh::remove(&folder)?;
        pushed
    })
}

/// Bytes without a pattern, the same ones every time.
fn write_ballast(path: &Path) -> Result<()> {
    let mut file = BufWriter::new(sh::create(path)?);
    let mut state = 1_u64;
    let written = (0..BALLAST_BYTES / 8)
        .try_for_each(|_| file.write_all(&scrambled(&mut state).to_le_bytes()))
        .and_then(|()| file.flush());
    written.with_context(|| format!("writing {}", path.display()))
}

/// The next number of the generator `SplitMix64`.
fn scrambled(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
