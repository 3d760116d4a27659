//! Debian packages: installed where they are missing, without starting their services.
//!
//! Never removes or upgrades one. Which ones it installed is noted in the cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow};

use super::{LOGS, Sh, read_text, step, write_atomic};

/// apt refuses a second instance of itself; the lab's threads wait for each other here.
static APT: Mutex<()> = Mutex::new(());

/// Installs Debian packages; those that are installed already are left alone, so that a second call costs
/// milliseconds. Services of the packages are not started (a policy-rc.d for the time of the installation forbids it).
pub fn apt_install(packages: &[&str]) -> Result<()> {
    let _alone = APT
        .lock()
        .map_err(|_| anyhow!("another installation by apt went wrong before this one"))?;
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|name| !is_installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    // Before they are there: a lab that is killed meanwhile must not forget them.
    note(&missing)?;
    step(&format!("apt install {}", missing.join(" ")), || {
        let _quiet = ServicesStayOff::new()?;
        let install = || {
            Sh::new("apt-get")
                .args([
                    "-o",
                    "DPkg::Lock::Timeout=300",
                    "install",
                    "-y",
                    "-q",
                    "--no-install-recommends",
                ])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .log("apt.log")
                .run()
        };
        install().or_else(|_| {
            apt_update()?;
            install()
        })
    })
}

/// The packages that labs with this cache installed and that are still here, without what came with them.
pub fn apt_installed() -> Result<Vec<String>> {
    let here = noted()?.into_iter().filter(|name| is_installed(name));
    Ok(here.collect())
}

fn note(packages: &[&str]) -> Result<()> {
    let mut all = noted()?;
    all.extend(packages.iter().map(|name| (*name).to_owned()));
    let text: String = all.into_iter().map(|name| name + "\n").collect();
    write_atomic(&list()?, text.as_bytes(), 0o644)
}

fn noted() -> Result<BTreeSet<String>> {
    let list = list()?;
    if !list.exists() {
        return Ok(BTreeSet::new());
    }
    Ok(read_text(&list)?.lines().map(str::to_owned).collect())
}

/// Beside the logs, in the cache.
fn list() -> Result<PathBuf> {
    let logs = LOGS.get().context("sh::init was not called")?;
    Ok(logs.with_file_name("packages"))
}

/// Fetches apt's lists of packages anew: a fresh machine has none, and old ones name files that are gone.
pub fn apt_update() -> Result<()> {
    Sh::new("apt-get")
        .args(["-o", "DPkg::Lock::Timeout=300", "update", "-q"])
        .log("apt.log")
        .run()
}

fn is_installed(package: &str) -> bool {
    Sh::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .outcome()
        .is_ok_and(|outcome| outcome.ok() && outcome.stdout == "installed")
}

/// The policy that keeps Debian from starting what it installs, for as long as this value lives. One that was there
/// before is left alone.
struct ServicesStayOff {
    ours: Option<PathBuf>,
}

/// Where Debian looks for it.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Ours: 101 is "action forbidden by policy", from invoke-rc.d(8).
const STAY_OFF: &str =
    "#!/bin/sh\n# kpot's lab: services stay off while it installs packages.\nexit 101\n";

impl ServicesStayOff {
    fn new() -> Result<Self> {
        let policy = PathBuf::from(POLICY);
        if policy.exists() && !is_left(&policy) {
            return Ok(Self { ours: None });
        }
        write_atomic(&policy, STAY_OFF.as_bytes(), 0o755)?;
        Ok(Self { ours: Some(policy) })
    }
}

/// Whether a lab that was killed while it installed left its policy.
fn is_left(policy: &Path) -> bool {
    super::read_text(policy).is_ok_and(|text| text == STAY_OFF)
}

/// Takes the policy away that a killed lab left.
pub fn let_services_start() -> Result<()> {
    let policy = Path::new(POLICY);
    if is_left(policy) {
        super::remove(policy)?;
    }
    Ok(())
}

impl Drop for ServicesStayOff {
    fn drop(&mut self) {
        if let Some(policy) = &self.ours {
            // Whoever took it away before us did what we wanted.
            let _ = super::remove(policy);
        }
    }
}
