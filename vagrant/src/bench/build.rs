//! `kpot build` against the same work by hand: the same files and images from the same servers, unpacked, packed with the
//! same compression, and summed; and against itself with everything in its cache.
//!
//! The other side checks no published checksum, signs nothing, and fetches one thing after another, as a plain script
//! does.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::measure::{self, Sample, Spread};
use super::report::{Row, Unit};
use super::{Desk, THREADS};
use crate::eras::Version;
use crate::pot::{Kpot, Pot};
use crate::sh::{self, Sh};

/// The issue that set the goals wants kpot to be no slower.
const GOAL: f64 = 1.0;

/// What is in the cache is hashed anew, but not fetched: that must be worth it.
const WARM_GOAL: f64 = 1.0;

const BY_HAND: &str = include_str!("by_hand.sh");

pub(super) fn measure(desk: &Desk) -> Result<Vec<Row>> {
    let folder = desk.folder.join("by-hand");
    let file = desk.folder.join("again.pot");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..desk.repeat {
        let (version, arguments) = (desk.version(), &desk.arguments);
        ours.push(kpot(&desk.kpot, &desk.pot, version, arguments, &file)?.time);
        prepare(desk, &folder)?;
        let script = Sh::new("bash").args(["-c", BY_HAND, "by-hand"]);
        theirs.push(measure::time(script.arg(&folder).arg(THREADS))?);
    }
    let (pot, archive) = (
        measure::size(&file)?,
        measure::size(&folder.join("pot.tar.zst"))?,
    );
    sh::remove(&folder)?;
    let warm = Spread::of(warm(desk, &file)?)?;
    sh::remove(&file)?;
    let (ours, theirs) = (Spread::of(ours)?, Spread::of(theirs)?);
    Ok(vec![
        Row {
            name: "kpot build / by hand",
            figure: ours.ratio_to(&theirs),
            goal: GOAL,
            unit: Unit::Ratio,
            detail: format!(
                "{ours} for {:.1} MB; {theirs} for {:.1} MB",
                measure::megabytes(pot),
                measure::megabytes(archive)
            ),
        },
        Row {
            name: "kpot build, warm / cold",
            figure: warm.ratio_to(&ours),
            goal: WARM_GOAL,
            unit: Unit::Ratio,
            detail: format!("{warm}; {ours}"),
        },
    ])
}

/// Builds with everything in the cache, after one build that filled it.
fn warm(desk: &Desk, file: &Path) -> Result<Vec<Duration>> {
    let cache = desk.folder.join("kpot-cache");
    let cache_dir = cache.display().to_string();
    let keeping = ["--cache", &cache_dir];
    let build = || {
        let version = desk.version();
        with(
            &desk.kpot,
            &desk.pot,
            version,
            &keeping,
            &desk.arguments,
            file,
        )
    };
    build()?;
    let times = (0..desk.repeat).map(|_| Ok(build()?.time)).collect();
    sh::remove(&cache)?;
    times
}

/// One run of `kpot build` that fetches everything.
pub(super) fn kpot(
    kpot: &Kpot,
    pot: &Pot,
    version: Version,
    arguments: &[String],
    file: &Path,
) -> Result<Sample> {
    with(kpot, pot, version, &["--no-cache"], arguments, file)
}

/// One run of `kpot build` with these flags about its cache.
fn with(
    kpot: &Kpot,
    pot: &Pot,
    version: Version,
    keeping: &[&str],
    arguments: &[String],
    file: &Path,
) -> Result<Sample> {
    let note = file.with_extension("peak");
    measure::sample(&note, kpot.path(), |command| {
        command
            .args(["build", "--jobs", THREADS])
            .args(keeping)
            .args(["--k8s", &version.to_string()])
            .args(arguments)
            .arg("--sign-key")
            .arg(&pot.key)
            .arg("-o")
            .arg(file)
    })
}

/// An empty folder with the lists of what the script fetches: what the pot was made of.
fn prepare(desk: &Desk, folder: &Path) -> Result<()> {
    sh::remove(folder)?;
    sh::make_dirs(folder)?;
    let mut downloads = String::new();
    for artifact in &desk.manifest.artifacts {
        let url = desk.mirrored.download(&artifact.source)?;
        // A program comes as it is, everything else as an archive.
        let archive = [".tgz", ".tar.gz"]
            .iter()
            .any(|end| artifact.source.ends_with(end));
        let suffix = if archive { ".tgz" } else { "" };
        downloads.push_str(&[&artifact.name, suffix, " ", &url, "\n"].concat());
    }
    let mut images = String::new();
    for name in desk.images()? {
        images.push_str(&desk.mirrored.image(name)?);
        images.push('\n');
    }
    sh::write_atomic(&folder.join("downloads"), downloads.as_bytes(), 0o644)?;
    sh::write_atomic(&folder.join("images"), images.as_bytes(), 0o644)
}
