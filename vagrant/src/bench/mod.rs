//! `cargo lab bench`: what kpot costs, as ratios to the same work done by hand with stock tools, in one run on the same
//! bytes.
//!
//! The two sides of a comparison take turns, and their medians are compared. A goal that is missed is printed as missed
//! and is no failure of the command; a measurement that cannot be made is. Nothing here makes the machine quiet: the load
//! average is printed before every part, so that the reader can judge the times.

mod build;
mod bundle;
mod join;
mod measure;
mod memory;
mod report;
mod size;
mod verify;
mod zarf;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bundle_spec::Manifest;
use clap::ValueEnum;

use crate::cache::Cache;
use crate::eras::{Choice, Version};
use crate::lab::Lab;
use crate::materials;
use crate::pot::{Kpot, Pot};
use crate::sh::{self, Sh, step};
use crate::upstream::{self, Mirror, Upstream};
use crate::workbench;
use measure::Sample;
use report::Row;

/// Debian packages with the tools of the side that works by hand, and GNU time.
const PACKAGES: &[&str] = &["curl", "gzip", "skopeo", "tar", "time", "zstd"];

/// Threads of both sides: those of the goal's `zstd -T2`.
const THREADS: &str = "2";

/// From this load on, another program has a core of its own, or nearly so.
const BUSY: f64 = 0.7;

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// `kpot build` against curl, skopeo, gunzip, tar, zstd and sha256sum
    Build,
    /// The pot's size against `tar | gzip -6`
    Size,
    /// `kpot verify` and `kpot-install verify` against `sha256sum -c`
    Verify,
    /// Peak memory, and whether it grows with the pot
    Memory,
    /// `kpot build` against `zarf package create`: time and size
    Zarf,
    /// The pot's size at `--compression max` against `zarf package create`; takes ten minutes or more, and is measured only where it is named
    ZarfMax,
    /// `kpot-install join-master` against unpacking, `docker load` and `kubeadm join` by hand, on the lab's machines
    Join,
}

/// What is measured where nothing is named: everything but what takes as long as all the rest.
const ALL: [Part; 6] = [
    Part::Build,
    Part::Size,
    Part::Verify,
    Part::Memory,
    Part::Zarf,
    Part::Join,
];

/// What all parts work with.
struct Desk<'a> {
    cache: &'a Cache,
    lab: &'a Lab,
    folder: PathBuf,
    repeat: usize,
    kpot: Kpot,
    upstream: Upstream,
    arguments: Vec<String>,
    mirrored: Mirrored,
    pot: Pot,
    manifest: Manifest,
    first_build: Sample,
    _mirror: Mirror,
}

/// Measures these parts (all but zarf-max, where none is named) and prints a line for every figure.
pub fn run(
    cache: &Cache,
    lab: &Lab,
    choice: &Choice,
    parts: &[Part],
    repeat: NonZeroUsize,
) -> Result<()> {
    let parts = if parts.is_empty() { &ALL } else { parts };
    let desk = Desk::prepare(cache, lab, choice, repeat.get())?;
    println!(
        "{choice}; medians of {repeat}; a pot of {:.1} MB",
        measure::megabytes(measure::size(&desk.pot.file)?)
    );
    let mut broken = 0;
    for part in parts {
        tell_load()?;
        let measured = match part {
            Part::Build => step("measuring the build", || build::measure(&desk)),
            Part::Size => step("measuring the size", || size::measure(&desk)),
            Part::Verify => step("measuring verification", || verify::measure(&desk)),
            Part::Memory => step("measuring memory", || memory::measure(&desk)),
            Part::Zarf => step("measuring against zarf", || zarf::measure(&desk)),
            Part::ZarfMax => step("measuring max against zarf", || zarf::measure_max(&desk)),
            Part::Join => step("measuring the join", || join::measure(&desk)),
        };
        match measured {
            Ok(rows) => rows.iter().for_each(|row: &Row| println!("{row}")),
            Err(error) => {
                broken += 1;
                sh::say(format_args!("{error:#}"));
            }
        }
    }
    sh::remove(&desk.folder)?;
    if broken > 0 {
        bail!("{broken} of {} measurements could not be made", parts.len());
    }
    Ok(())
}

fn tell_load() -> Result<()> {
    let text = sh::read_text(Path::new("/proc/loadavg"))?;
    let load: f64 = text
        .split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .context("reading /proc/loadavg")?;
    println!("load average of the last minute: {load:.2}");
    if load > BUSY {
        sh::say(format_args!(
            "WARNING: something else works on this machine, or has until now; times are of a busy machine"
        ));
    }
    Ok(())
}

impl<'a> Desk<'a> {
    /// Makes what all parts need, the pot included, and unpacks the pot.
    fn prepare(cache: &'a Cache, lab: &'a Lab, choice: &Choice, repeat: usize) -> Result<Self> {
        let version = choice.version;
        workbench::prepare_machine(cache)?;
        sh::apt_install(PACKAGES)?;
        let kpot = step("compiling kpot with the installer inside", Kpot::compile)?;
        let upstream = workbench::upstream_of(cache, choice)?;
        let mirror = step("serving upstream on loopback", || {
            upstream::serve(cache.root(), &[&upstream])
        })?;
        let arguments = materials::lab_arguments(&upstream, &mirror)?;
        // Of its own: scenarios that run beside this have theirs in the folder above.
        let folder = cache.pots().join("bench");
        sh::remove(&folder)?;
        let (key, public_key) = kpot.keygen(&folder, "key")?;
        let file = folder.join("small.pot");
        let pot = Pot {
            file,
            key,
            public_key,
        };
        sh::write_atomic(
            &folder.join("signers"),
            pot.signers_line().as_bytes(),
            0o644,
        )?;
        let unpacked = folder.join("pot");
        let first_build = step(&format!("kpot build --k8s {version}"), || {
            let sample = build::kpot(&kpot, &pot, version, &arguments, &pot.file)?;
            sh::make_dirs(&unpacked)?;
            Sh::new("tar")
                .arg("-xf")
                .arg(&pot.file)
                .arg("-C")
                .arg(&unpacked)
                .run()?;
            Ok(sample)
        })?;
        Ok(Self {
            cache,
            lab,
            repeat,
            kpot,
            mirrored: Mirrored::of(&arguments)?,
            manifest: Manifest::decode(&sh::read_bytes(&unpacked.join("manifest.json"))?)?,
            folder,
            upstream,
            arguments,
            pot,
            first_build,
            _mirror: mirror,
        })
    }

    fn version(&self) -> Version {
        self.upstream.version
    }

    /// The unpacked pot.
    fn unpacked(&self) -> PathBuf {
        self.folder.join("pot")
    }

    /// Who is trusted: the signer of this run's pots.
    fn signers(&self) -> PathBuf {
        self.folder.join("signers")
    }

    /// One name of every image in the pot.
    fn images(&self) -> Result<Vec<&str>> {
        let names = self.manifest.images.iter().map(|image| image.names.first());
        names
            .map(|name| name.map(String::as_str).context("an image without a name"))
            .collect()
    }
}

/// Which server stands for which host, read off the arguments of `kpot build`.
struct Mirrored(BTreeMap<String, String>);

impl Mirrored {
    fn of(arguments: &[String]) -> Result<Self> {
        let pairs = arguments
            .iter()
            .filter_map(|argument| argument.split_once('='));
        let urls: BTreeMap<String, String> = pairs
            .filter(|(_, url)| url.starts_with("http://"))
            .map(|(host, url)| (host.to_owned(), url.to_owned()))
            .collect();
        ensure!(!urls.is_empty(), "no host has a mirror");
        Ok(Self(urls))
    }

    /// The mirror's address of what a publisher has at this one.
    fn download(&self, source: &str) -> Result<String> {
        let address = source.strip_prefix("https://").unwrap_or(source);
        let (url, rest) = self.split(address)?;
        Ok(format!("{url}/{rest}"))
    }

    /// The mirror's name for an image, as skopeo takes it after `docker://`.
    fn image(&self, name: &str) -> Result<String> {
        let (url, rest) = self.split(name)?;
        Ok(format!("{}/{rest}", url.trim_start_matches("http://")))
    }

    fn split<'a>(&'a self, address: &'a str) -> Result<(&'a str, &'a str)> {
        let (host, rest) = address
            .split_once('/')
            .with_context(|| format!("{address} names no host"))?;
        let url = self
            .0
            .get(host)
            .with_context(|| format!("the lab has no mirror of {host}"))?;
        Ok((url, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_mirrors() {
        let arguments = [
            "--mirror",
            "dl.k8s.io=http://127.0.0.1:1/dl.k8s.io",
            "k8s.gcr.io=http://127.0.0.1:2",
            "docker=sha256:aa",
        ];
        let mirrored = Mirrored::of(&arguments.map(str::to_owned)).expect("two mirrors");
        assert_eq!(
            mirrored
                .download("https://dl.k8s.io/release/x")
                .expect("a mirror"),
            "http://127.0.0.1:1/dl.k8s.io/release/x"
        );
        assert_eq!(
            mirrored.image("k8s.gcr.io/pause:3.1").expect("a mirror"),
            "127.0.0.1:2/pause:3.1"
        );
        assert!(mirrored.image("docker/pause:3.1").is_err());
        assert!(Mirrored::of(&[]).is_err());
    }
}
