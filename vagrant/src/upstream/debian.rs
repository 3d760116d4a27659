//! Debian packages as a source of files: fetched and unpacked beside the system, not installed into it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sh::{self, Sh};

/// Files of some packages.
#[derive(Debug)]
pub struct Unpacked {
    debs: PathBuf,
    /// The folder that they were unpacked into, with Debian's paths below it.
    pub root: PathBuf,
}

/// Fetches these packages in the version that apt would install, and unpacks them below `dir`.
pub fn unpack(packages: &[&str], dir: &Path) -> Result<Unpacked> {
    let unpacked = Unpacked::at(dir);
    sh::make_dirs(&unpacked.debs)?;
    sh::make_dirs(&unpacked.root)?;
    let fetch = || {
        let apt = Sh::new("apt-get").args(["download", "-q"]).args(packages);
        apt.dir(&unpacked.debs).log("apt.log").run()
    };
    // A fresh machine has no lists of packages yet, and old lists name files that are gone.
    fetch().or_else(|_| {
        sh::apt_update()?;
        fetch()
    })?;
    for deb in sh::names_in(&unpacked.debs)? {
        Sh::new("dpkg-deb")
            .arg("-x")
            .arg(unpacked.debs.join(deb))
            .arg(&unpacked.root)
            .run()?;
    }
    Ok(unpacked)
}

impl Unpacked {
    /// What [`unpack`] put below `dir`.
    pub fn at(dir: &Path) -> Self {
        Self {
            debs: dir.join("debs"),
            root: dir.join("root"),
        }
    }

    /// The upstream part of a package's version: 20.10.24 of 20.10.24+dfsg1-1+deb12u1.
    pub fn upstream_version(&self, package: &str) -> Result<String> {
        let prefix = format!("{package}_");
        let deb = sh::names_in(&self.debs)?
            .into_iter()
            .find(|name| name.starts_with(&prefix))
            .with_context(|| format!("{package} was not fetched"))?;
        let version = Sh::new("dpkg-deb")
            .arg("-f")
            .arg(self.debs.join(deb))
            .arg("Version")
            .output()?;
        Ok(upstream_part(&version).to_owned())
    }

    /// A file by Debian's path, without its leading slash.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        let file = self.root.join(path);
        file.canonicalize()
            .with_context(|| format!("Debian's packages hold no /{path}"))
    }
}

fn upstream_part(version: &str) -> &str {
    let version = version
        .split_once(':')
        .map_or(version, |(_epoch, rest)| rest);
    &version[..version.find(['+', '-', '~']).unwrap_or(version.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_upstream_part_of_a_version_stays() {
        for (whole, part) in [
            ("20.10.24+dfsg1-1+deb12u1+b6", "20.10.24"),
            ("1:1.35.0-4+deb12u1+b1", "1.35.0"),
            ("1.6.20~ds1-1+deb12u3", "1.6.20"),
            ("3.2", "3.2"),
        ] {
            assert_eq!(upstream_part(whole), part);
        }
    }
}
