//! `kpot version`

use bundle_spec::{Arch, Sha256, manifest};
use serde::Serialize;

use super::{print, print_json};
use crate::cli::ShowVersion;
use crate::installers;

#[derive(Serialize)]
struct Report {
    kpot: &'static str,
    format: u32,
    installers: Vec<Installer>,
}

#[derive(Serialize)]
struct Installer {
    arch: Arch,
    digest: Sha256,
    size: usize,
}

pub(super) fn run(command: &ShowVersion) -> anyhow::Result<()> {
    let report = Report {
        kpot: env!("CARGO_PKG_VERSION"),
        format: manifest::FORMAT,
        installers: installers::digests()
            .map(|(arch, digest)| Installer {
                arch,
                digest,
                size: installers::for_arch(arch).map_or(0, <[u8]>::len),
            })
            .collect(),
    };
    if command.json {
        return print_json(&report);
    }
    let installers = report
        .installers
        .iter()
        .map(|installer| {
            let Installer { arch, digest, size } = installer;
            format!("installer for {arch}: {digest} ({size} bytes)\n")
        })
        .collect::<Vec<_>>()
        .concat();
    let missing = Arch::ALL
        .into_iter()
        .filter(|arch| installers::for_arch(*arch).is_none())
        .map(|arch| {
            format!(
                "installer for {arch}: none, so no pots for {arch}. To have one, build kpot again after: {}\n",
                installers::advice(arch)
            )
        })
        .collect::<Vec<_>>()
        .concat();
    print(&format!(
        "kpot {}, pots of format {}\n{installers}{missing}",
        report.kpot, report.format
    ))
}
