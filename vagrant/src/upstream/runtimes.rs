//! The container runtimes of the eras: what their upstreams publish, and where it is in the cache.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::archives::{self, Rights};
use super::{Works, file_name, image};
use crate::eras::{Containerd, Runtime};
use crate::sh;

/// A runtime's files, as its upstream publishes them.
#[derive(Debug, Clone)]
pub enum RuntimeFiles {
    /// Docker.
    Docker {
        /// Its static archive.
        archive: PathBuf,
        /// Its version, as `20.10.24`.
        version: String,
    },
    /// containerd, and what goes with it.
    Containerd {
        /// Its archive, with the programs below `bin/`.
        archive: PathBuf,
        /// Its version, as `2.1.4`.
        version: String,
        /// runc, a program.
        runc: PathBuf,
        /// Its version, as `1.3.0`.
        runc_version: String,
        /// crictl's archive.
        crictl: PathBuf,
        /// Its version, as `v1.30.0`.
        crictl_version: String,
    },
}

const CONTAINERD_ARCHIVE: &str = "containerd.tar.gz";
const CRICTL_ARCHIVE: &str = "crictl.tar.gz";

impl RuntimeFiles {
    /// The archive with the runtime itself.
    pub fn archive(&self) -> &Path {
        match self {
            Self::Docker { archive, .. } | Self::Containerd { archive, .. } => archive,
        }
    }

    /// What `kpot build` is told about it. Docker publishes no digest of its archive, so that it has to be given.
    pub fn kpot_arguments(&self) -> Result<Vec<String>> {
        let words: Vec<(&str, String)> = match self {
            Self::Docker { archive, version } => vec![
                ("--docker-version", version.clone()),
                (
                    "--pin",
                    format!("docker=sha256:{}", image::sha256_of(archive)?),
                ),
            ],
            Self::Containerd {
                version,
                runc_version,
                crictl_version,
                ..
            } => vec![
                ("--runtime", "containerd".to_owned()),
                ("--containerd-version", version.clone()),
                ("--runc-version", runc_version.clone()),
                ("--crictl-version", crictl_version.clone()),
            ],
        };
        Ok(words
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect())
    }
}

impl Works<'_> {
    /// Makes what is missing of a runtime.
    pub(super) fn runtime(&self, runtime: &Runtime) -> Result<RuntimeFiles> {
        match runtime {
            Runtime::Docker => self.docker(Rights::of_this_host()?),
            Runtime::Containerd {
                programs,
                runc,
                crictl,
            } => {
                let (archive, version) = match programs {
                    Containerd::Debian => self.debians_containerd()?,
                    Containerd::Part(part) => self.containerd(part)?,
                };
                Ok(RuntimeFiles::Containerd {
                    archive,
                    version,
                    runc: self.part(runc)?.join("runc"),
                    runc_version: self.plain_version(runc)?,
                    crictl: self.crictl(crictl)?,
                    crictl_version: self.eras.part(crictl)?.version.clone(),
                })
            }
        }
    }

    fn docker(&self, rights: Rights) -> Result<RuntimeFiles> {
        let key = self.key(&[&"docker", &format!("{rights:?}"), &archives::RUNC_WRAPPER]);
        let made = self.made("docker", &key, |out| {
            sh::make_dirs(out)?;
            archives::docker(&self.workshop, rights, out)
        })?;
        Ok(RuntimeFiles::Docker {
            archive: made.join("docker.tgz"),
            version: sh::read_text(&made.join("version"))?,
        })
    }

    fn debians_containerd(&self) -> Result<(PathBuf, String)> {
        let key = self.key(&[&CONTAINERD_ARCHIVE, &"debian"]);
        let made = self.made("containerd-debian", &key, |out| {
            sh::make_dirs(out)?;
            archives::debians_containerd(&self.workshop, CONTAINERD_ARCHIVE, out)
        })?;
        let version = sh::read_text(&made.join("version"))?;
        Ok((made.join(CONTAINERD_ARCHIVE), version))
    }

    fn containerd(&self, part: &str) -> Result<(PathBuf, String)> {
        let programs = self.part(part)?;
        let key = self.key(&[&CONTAINERD_ARCHIVE, &file_name(&programs)]);
        let made = self.made(&format!("{part}-archive"), &key, |out| {
            sh::make_dirs(out)?;
            archives::programs(&programs, "bin/", CONTAINERD_ARCHIVE, out)
        })?;
        Ok((made.join(CONTAINERD_ARCHIVE), self.plain_version(part)?))
    }

    fn crictl(&self, part: &str) -> Result<PathBuf> {
        let programs = self.part(part)?;
        let key = self.key(&[&CRICTL_ARCHIVE, &file_name(&programs)]);
        let made = self.made("crictl-archive", &key, |out| {
            sh::make_dirs(out)?;
            archives::programs(&programs, "", CRICTL_ARCHIVE, out)
        })?;
        Ok(made.join(CRICTL_ARCHIVE))
    }

    /// A part's version as containerd and runc write theirs: 2.1.4 of v2.1.4.
    fn plain_version(&self, part: &str) -> Result<String> {
        let version = &self.eras.part(part)?.version;
        Ok(version.trim_start_matches('v').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kpot_is_told_the_versions_of_what_is_served() {
        let containerd = RuntimeFiles::Containerd {
            archive: PathBuf::new(),
            version: "2.1.4".to_owned(),
            runc: PathBuf::new(),
            runc_version: "1.3.0".to_owned(),
            crictl: PathBuf::new(),
            crictl_version: "v1.30.0".to_owned(),
        };
        let said = |files: &RuntimeFiles| files.kpot_arguments().expect("arguments").join(" ");
        assert_eq!(
            said(&containerd),
            "--runtime containerd --containerd-version 2.1.4 --runc-version 1.3.0 --crictl-version v1.30.0"
        );
        let archive = tempfile::NamedTempFile::new().expect("a temporary file");
        let docker = RuntimeFiles::Docker {
            archive: archive.path().to_owned(),
            version: "20.10.24".to_owned(),
        };
        let of_nothing = image::sha256(b"");
        assert_eq!(
            said(&docker),
            format!("--docker-version 20.10.24 --pin docker=sha256:{of_nothing}")
        );
    }
}
