//! Peak memory of the builder and of the installer's check, with a pot, with one several times as large, and with one of
//! five gigabytes.
//!
//! The larger pots have one more image each, of a single layer of bytes that no compressor makes smaller. These images stay
//! in the lab's registry for the next run.

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

/// How much more memory the largest pot may take than the smallest and still count as "flat": what two runs of the same
/// differ by, and some.
const FLAT: f64 = 1.1;

/// An image of so many bytes.
struct Ballast {
    name: &'static str,
    bytes: usize,
}

const BALLASTS: [Ballast; 2] = [
    Ballast {
        name: "kpot.lab/ballast:1",
        bytes: 512 << 20,
    },
    Ballast {
        name: "kpot.lab/ballast:9",
        bytes: 9 * (512 << 20),
    },
];

/// The pots, the smallest first.
const POTS: usize = 1 + BALLASTS.len();

pub(super) fn measure(desk: &Desk) -> Result<Vec<Row>> {
    for ballast in &BALLASTS {
        push_ballast(desk, ballast)?;
    }
    let build = |arguments: &[String], file: &Path| {
        build::kpot(&desk.kpot, &desk.pot, desk.version(), arguments, file)
    };
    let again = desk.folder.join("again.pot");
    let larger = BALLASTS.map(|ballast| {
        let mut arguments = desk.arguments.clone();
        arguments.extend(["--image".to_owned(), ballast.name.to_owned()]);
        (
            arguments,
            desk.folder.join(format!("{}.pot", ballast.bytes)),
        )
    });
    let mut built: [Vec<u64>; POTS] = Default::default();
    built[0].push(desk.first_build.peak);
    for round in 0..desk.repeat {
        if round > 0 {
            built[0].push(build(&desk.arguments, &again)?.peak);
        }
        for ((arguments, file), peaks) in larger.iter().zip(&mut built[1..]) {
            peaks.push(build(arguments, file)?.peak);
        }
    }
    let pots: [&Path; POTS] = [&desk.pot.file, &larger[0].1, &larger[1].1];
    let mut sizes = Vec::new();
    for pot in pots {
        sizes.push(format!("{:.0}", measure::megabytes(measure::size(pot)?)));
    }
    let sizes = format!("pots of {} MB", sizes.join(", "));
    let checked = |check: fn(&Desk, &Path) -> Result<Sample>| -> Result<[Vec<u64>; POTS]> {
        let mut peaks: [Vec<u64>; POTS] = Default::default();
        for (pot, peaks) in pots.iter().zip(&mut peaks) {
            for _ in 0..desk.repeat {
                peaks.push(check(desk, pot)?.peak);
            }
        }
        Ok(peaks)
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
    for (_, file) in &larger {
        sh::remove(file)?;
    }
    sh::remove(&again)?;
    Ok(rows.into_iter().flatten().collect())
}

/// What one program took with each pot, in KiB: the most that was ever seen, and whether the medians differ.
fn rows(name: &'static str, goal: f64, mut peaks: [Vec<u64>; POTS], sizes: &str) -> [Row; 2] {
    for peaks in &mut peaks {
        peaks.sort_unstable();
    }
    let worst = peaks.iter().flatten().max().copied().unwrap_or_default();
    let medians = peaks.each_ref().map(|peaks| peaks[peaks.len() / 2]);
    let list = |peaks: &[u64]| -> String {
        let figures: Vec<String> = peaks
            .iter()
            .map(|peak| format!("{:.1}", measure::mebibytes(*peak)))
            .collect();
        figures.join(" ")
    };
    let lists: Vec<String> = peaks.iter().map(|peaks| list(peaks)).collect();
    let detail = format!("{} MiB; {sizes}", lists.join(" MiB; "));
    [
        Row {
            name,
            figure: measure::mebibytes(worst),
            goal,
            unit: Unit::MiB,
            detail,
        },
        Row {
            name: "  largest pot / smallest pot",
            figure: measure::float(medians[POTS - 1]) / measure::float(medians[0]),
            goal: FLAT,
            unit: Unit::Ratio,
            detail: sizes.to_owned(),
        },
    ]
}

/// Puts the image into the lab's registry, unless it is there.
fn push_ballast(desk: &Desk, ballast: &Ballast) -> Result<()> {
    let reference = format!("docker://{}", desk.mirrored.image(ballast.name)?);
    let there = Sh::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false", &reference])
        .outcome()?;
    if there.ok() {
        return Ok(());
    }
    step("making and pushing an image that does not compress", || {
        let folder = desk.folder.join("ballast");
        write_ballast(&folder.join("ballast"), ballast.bytes)?;
        let import = "set -o pipefail; tar -C \"$1\" --mtime=@0 --owner=0 --group=0 -c ballast | docker import - \"$2\"";
        Sh::new("bash")
            .args(["-c", import, "import"])
            .arg(&folder)
            .arg(ballast.name)
            .run()?;
        let pushed = Sh::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .args([&format!("docker-daemon:{}", ballast.name), &reference])
            .run();
        Sh::new("docker").args(["rmi", ballast.name]).run()?;
        sh::remove(&folder)?;
        pushed
    })
}

/// Bytes without a pattern, the same ones every time.
fn write_ballast(path: &Path, bytes: usize) -> Result<()> {
    let mut file = BufWriter::new(sh::create(path)?);
    let mut state = 1_u64;
    let written = (0..bytes / 8)
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
