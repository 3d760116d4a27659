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
    let pots = [desk.pot.file.as_path(), &desk.folder.join("large.pot")];
    let [small, large] = pots;
    let mut with_ballast = desk.arguments.clone();
    with_ballast.extend(["--image".to_owned(), BALLAST.to_owned()]);
    let build = |arguments: &[String], file: &Path| {
        build::kpot(&desk.kpot, &desk.pot, desk.version(), arguments, file)
    };
    let again = desk.folder.join("again.pot");
    let mut built = [vec![desk.first_build.peak], Vec::new()];
    for round in 0..desk.repeat {
        if round > 0 {
            built[0].push(build(&desk.arguments, &again)?.peak);
        }
        built[1].push(build(&with_ballast, large)?.peak);
    }
    let sizes = format!(
        "pots of {:.1} and {:.1} MB",
        measure::megabytes(measure::size(small)?),
        measure::megabytes(measure::size(large)?)
    );
    let checked = |check: fn(&Desk, &Path) -> Result<Sample>| -> Result<[Vec<u64>; 2]> {
        let peaks = |pot| {
            (0..desk.repeat)
                .map(|_| Ok(check(desk, pot)?.peak))
                .collect()
        };
        let [small, large]: [Result<Vec<u64>>; 2] = pots.map(peaks);
        Ok([small?, large?])
    };
    let rows = [
        rows("kpot build, peak memory", BUILDER, built, &sizes),
        rows(
            "kpot verify, peak memory",
            BUILDER,
            checked(verify::builder)?,
            &sizes,
        ),
        rows(
            "kpot-install verify, peak memory",
            INSTALLER,
            checked(verify::installer)?,
            &sizes,
        ),
    ];
    sh::remove(large)?;
    sh::remove(&again)?;
    Ok(rows.into_iter().flatten().collect())
}

/// What one program took with the small pot and with the large one, in KiB: the most that was ever seen, and whether the
/// medians differ.
fn rows(name: &'static str, goal: f64, mut peaks: [Vec<u64>; 2], sizes: &str) -> [Row; 2] {
    for peaks in &mut peaks {
        peaks.sort_unstable();
    }
    let worst = peaks.iter().flatten().max().copied().unwrap_or_default();
    let [small, large] = peaks.each_ref().map(|peaks| peaks[peaks.len() / 2]);
    let list = |peaks: &[u64]| -> String {
        let figures: Vec<String> = peaks
            .iter()
            .map(|peak| format!("{:.1}", measure::mebibytes(*peak)))
            .collect();
        figures.join(" ")
    };
    let detail = format!("{} MiB; {} MiB; {sizes}", list(&peaks[0]), list(&peaks[1]));
    [
        Row {
            name,
            figure: measure::mebibytes(worst),
            goal,
            unit: Unit::MiB,
            detail,
        },
        Row {
            name: "  large pot / small pot",
            figure: measure::float(large) / measure::float(small),
            goal: FLAT,
            unit: Unit::Ratio,
            detail: sizes.to_owned(),
        },
    ]
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
