//! `kpot build` against `zarf package create`, of the same files and images, from the same servers.
//!
//! zarf is the nearest peer: it makes one compressed archive of files and images for places without a network. Its package
//! holds images as the registry has them, as a pot does with `--verbatim`; it is not signed here, and its list of parts
//! (SBOM) is left out, which a pot does not have either. Both sides begin with an empty cache, in every run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::Desk;
use super::build;
use super::measure::{self, Sample, Spread};
use super::report::{Row, Unit};
use crate::sh;
use crate::upstream;

/// The goals, from the issue that set them: time and size as parts of zarf's.
const VERBATIM_TIME: f64 = 0.7;
const FAST_TIME: f64 = 1.3;
const FAST_SIZE: f64 = 0.90;
const BALANCED_SIZE: f64 = 0.85;
/// As near to this as blobs that are read one by one allow.
const MAX_SIZE: f64 = 0.70;

/// How a pot is made smaller, and how often that is timed.
struct Style {
    arguments: &'static [&'static str],
    time: Option<(&'static str, f64)>,
    size: Option<(&'static str, f64)>,
}

const STYLES: [Style; 3] = [
    Style {
        arguments: &["--verbatim"],
        time: Some(("kpot build --verbatim / zarf", VERBATIM_TIME)),
        size: None,
    },
    Style {
        arguments: &["--compression", "fast"],
        time: Some(("kpot build, fast / zarf", FAST_TIME)),
        size: Some(("pot, fast / zarf's package", FAST_SIZE)),
    },
    Style {
        arguments: &["--compression", "balanced"],
        time: None,
        size: Some(("pot, balanced / zarf's package", BALANCED_SIZE)),
    },
];

const MAX: [Style; 1] = [Style {
    arguments: &["--compression", "max"],
    time: None,
    size: Some(("pot, max / zarf's package", MAX_SIZE)),
}];

pub(super) fn measure(desk: &Desk) -> Result<Vec<Row>> {
    compare(desk, &STYLES)
}

/// The same at the highest compression alone, which takes many times as long as all the rest.
pub(super) fn measure_max(desk: &Desk) -> Result<Vec<Row>> {
    compare(desk, &MAX)
}

fn compare<const N: usize>(desk: &Desk, styles: &[Style; N]) -> Result<Vec<Row>> {
    let program = upstream::part(desk.cache.root(), "zarf")?.join("zarf");
    let folder = desk.folder.join("zarf");
    sh::make_dirs(&folder)?;
    sh::write_atomic(&folder.join("zarf.yaml"), recipe(desk)?.as_bytes(), 0o644)?;
    let file = desk.folder.join("styled.pot");
    let (mut theirs, mut package) = (Vec::new(), 0);
    let mut ours: [(Vec<_>, u64, u64); N] = std::array::from_fn(|_| Default::default());
    let is_timed = styles.iter().any(|style| style.time.is_some());
    for round in 0..if is_timed { desk.repeat } else { 1 } {
        let (sample, size) = zarf(&program, &folder)?;
        theirs.push(sample.time);
        package = size;
        for (style, (times, size, peak)) in styles.iter().zip(&mut ours) {
            // What is not timed is the same in every round.
            if round > 0 && style.time.is_none() {
                continue;
            }
            let more = style.arguments.iter().map(|&one| one.to_owned());
            let arguments: Vec<String> = desk.arguments.iter().cloned().chain(more).collect();
            let sample = build::kpot(&desk.kpot, &desk.pot, desk.version(), &arguments, &file)?;
            times.push(sample.time);
            *size = measure::size(&file)?;
            *peak = sample.peak.max(*peak);
        }
    }
    sh::remove(&file)?;
    sh::remove(&folder)?;
    let theirs = Spread::of(theirs)?;
    let mut rows = Vec::new();
    for (style, (times, size, peak)) in styles.iter().zip(ours) {
        let times = Spread::of(times)?;
        let sizes = format!(
            "{:.1} MB; {:.1} MB",
            measure::megabytes(size),
            measure::megabytes(package)
        );
        if let Some((name, goal)) = style.time {
            rows.push(Row {
                name,
                figure: times.ratio_to(&theirs),
                goal,
                unit: Unit::Ratio,
                detail: format!("{times}; {theirs}; {sizes}"),
            });
        }
        if let Some((name, goal)) = style.size {
            rows.push(Row {
                name,
                figure: measure::float(size) / measure::float(package),
                goal,
                unit: Unit::Ratio,
                detail: format!("{sizes}; {times}, peak {:.1} MiB", measure::mebibytes(peak)),
            });
        }
    }
    Ok(rows)
}

/// One package, and its size in bytes.
fn zarf(program: &Path, folder: &Path) -> Result<(Sample, u64)> {
    let out = folder.join("out");
    for leftover in [&out, &folder.join("cache"), &folder.join("tmp")] {
        sh::remove(leftover)?;
        sh::make_dirs(leftover)?;
    }
    let sample = measure::sample(&folder.join("peak"), program, |command| {
        command
            .args([
                "package",
                "create",
                "--confirm",
                "--no-progress",
                "--no-color",
            ])
            .args(["--skip-sbom", "--plain-http", "--architecture", "amd64"])
            .arg("--zarf-cache")
            .arg(folder.join("cache"))
            .arg("--tmpdir")
            .arg(folder.join("tmp"))
            .arg("--output")
            .arg(&out)
            .arg(folder)
            .dir(folder)
    })?;
    let names = sh::names_in(&out)?;
    let name = names.first().context("zarf made no package")?;
    Ok((sample, measure::size(&out.join(name))?))
}

/// What zarf is to pack: the files and images of the pot, at the addresses that the pot's came from.
fn recipe(desk: &Desk) -> Result<String> {
    let mut text = "kind: ZarfPackageConfig\nmetadata:\n  name: bench\ncomponents:\n  - name: all\n    required: true\n    files:\n".to_owned();
    for artifact in &desk.manifest.artifacts {
        let url = desk.mirrored.download(&artifact.source)?;
        let _ = writeln!(
            text,
            "      - source: {url}\n        target: /opt/bench/{}",
            artifact.name
        );
    }
    text.push_str("    images:\n");
    for name in desk.images()? {
        let _ = writeln!(text, "      - {}", desk.mirrored.image(name)?);
    }
    Ok(text)
}
