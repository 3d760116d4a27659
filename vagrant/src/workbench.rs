//! What every use of the lab needs before the first scenario: this machine, the node image, upstream of some eras and its
//! servers, the product compiled, and a pot of each era. As much of it as can be is done at the same time.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cache::Cache;
use crate::eras::{Choice, Eras};
use crate::lab::Lab;
use crate::materials::{Materials, lab_arguments};
use crate::pot::{Kpot, Pot};
use crate::scenario::{Bench, WhatRuns};
use crate::sh::{self, Sh, step};
use crate::upstream::{self, Mirror, Upstream};
use crate::{image, machine};

/// The toolchain that compiles everything, as rustup reads it.
const TOOLCHAIN: &str = include_str!("../../rust-toolchain.toml");

/// Debian packages that the lab itself uses, and the tests of the code; upstream's builds and servers install theirs.
const PACKAGES: &[&str] = &[
    "debootstrap",
    "docker-registry",
    "docker.io",
    "file",
    "gcc-aarch64-linux-gnu",
    "iproute2",
    "iptables",
    "libc-bin",
    "libc6-dev-arm64-cross",
    "musl-tools",
    "nginx",
    "openssh-client",
    "openssl",
    "qemu-user-static",
    "ruby",
    "skopeo",
    "strace",
    "util-linux",
    "vagrant",
    "vagrant-libvirt",
];

/// Prepares this machine, and makes the node image.
pub fn prepare_machine(cache: &Cache) -> Result<()> {
    prepare_host(cache)?;
    image::ensure(cache)
}

/// Installs what the lab needs and what compiling kpot does, and starts Docker.
pub fn prepare_host(cache: &Cache) -> Result<()> {
    let user = Sh::new("id").arg("-u").output()?;
    ensure!(
        user == "0",
        "the lab runs as root: it installs packages, starts Docker and makes machines"
    );
    let release = sh::read_text(Path::new("/etc/os-release")).context("is this Debian?")?;
    ensure!(
        release
            .lines()
            .any(|line| line == "VERSION_CODENAME=bookworm"),
        "the lab is made for Debian 12 (bookworm): its Vagrant, Docker and servers are Debian's"
    );
    sh::apt_install(PACKAGES)?;
    install_rust_targets()?;
    machine::prepare(cache)
}

/// What compiles the installers: rustup may be told not to install by itself what the toolchain's file names.
fn install_rust_targets() -> Result<()> {
    if !sh::on_path("rustup") {
        return Ok(());
    }
    let rustup = |what: [&str; 2], key| {
        Sh::new("rustup")
            .args(what)
            .args(listed(key))
            .dir(image::vagrant_dir())
            .log("cargo.log")
            .run()
    };
    rustup(["target", "add"], "targets")?;
    rustup(["component", "add"], "components")
}

/// The words of a list in the toolchain's file.
fn listed(key: &str) -> impl Iterator<Item = &'static str> {
    let line = TOOLCHAIN.lines().find(|line| line.starts_with(key));
    line.unwrap_or_default().split('"').skip(1).step_by(2)
}

/// All of it, for some eras. The servers run as long as this value lives.
pub struct Workbench {
    cache: Cache,
    kpot: Kpot,
    eras: Vec<Prepared>,
    _mirror: Mirror,
}

/// What is ready for one era.
struct Prepared {
    choice: Choice,
    materials: Materials,
    arguments: Vec<String>,
    pot: Pot,
}

impl Workbench {
    /// Makes everything that is missing.
    pub fn prepare(cache: &Cache, choices: &[Choice]) -> Result<Self> {
        Self::prepare_in(&cache.pots(), cache, choices)
    }

    /// The same with the pots in a folder of their own: building one takes the place of an older one and of its key.
    pub fn prepare_in(pots: &Path, cache: &Cache, choices: &[Choice]) -> Result<Self> {
        prepare_machine(cache)?;
        let (kpot, upstreams) = thread::scope(|scope| {
            // Downloads and links leave a core free here and there, which is what compiling kpot takes.
            let kpot =
                scope.spawn(|| step("compiling kpot with the installer inside", Kpot::compile));
            let upstreams: Result<Vec<Upstream>> = choices
                .iter()
                .map(|choice| upstream_of(cache, choice))
                .collect();
            (
                kpot.join()
                    .unwrap_or_else(|_| Err(anyhow!("compiling kpot panicked"))),
                upstreams,
            )
        });
        let (kpot, upstreams) = (kpot?, upstreams?);
        let mirror = step("serving upstream on loopback", || {
            upstream::serve(cache.root(), &upstreams.iter().collect::<Vec<_>>())
        })?;
        let mut eras = Vec::new();
        for (choice, upstream) in choices.iter().zip(upstreams) {
            let arguments = lab_arguments(&upstream, &mirror)?;
            let pot = step(&format!("kpot build for {choice}"), || {
                kpot.build(pots, choice, &arguments)
            })?;
            eras.push(Prepared {
                choice: choice.clone(),
                materials: Materials::of_lab(&upstream)?,
                arguments,
                pot,
            });
        }
        Ok(Self {
            cache: cache.clone(),
            kpot,
            eras,
            _mirror: mirror,
        })
    }

    /// A bench for one of the eras, in the order in which they were given.
    pub fn bench(&self, lab: &Lab, index: usize, what_runs: WhatRuns) -> Result<Bench> {
        let era = self
            .eras
            .get(index)
            .context("no such era on the workbench")?;
        Ok(Bench::new(
            self.cache.clone(),
            lab.clone(),
            era.materials.clone(),
            era.pot.clone(),
            era.choice.version,
            what_runs,
        ))
    }

    /// The builder.
    pub fn kpot(&self) -> &Kpot {
        &self.kpot
    }

    /// The pot of every era.
    pub fn pots(&self) -> impl Iterator<Item = (&Choice, &Pot)> {
        self.eras.iter().map(|era| (&era.choice, &era.pot))
    }

    /// Another file with the pot of an era, built again with the same key.
    pub fn build_again(&self, choice: &Choice) -> Result<PathBuf> {
        let era = self
            .eras
            .iter()
            .find(|era| era.choice == *choice)
            .context("no such era on the workbench")?;
        let file = self.cache.pots().join(format!("{choice}-again.pot"));
        self.kpot
            .build_with(&era.pot.key, choice.version, &era.arguments, &file)?;
        Ok(file)
    }
}

/// The lab's own builds of one era, made now if they are missing.
pub fn upstream_of(cache: &Cache, choice: &Choice) -> Result<Upstream> {
    let eras = Eras::load()?;
    step(&format!("upstream of {choice}"), || {
        let era = eras.find(choice.version)?;
        upstream::ensure(cache.root(), era, choice.runtime.as_deref())
    })
}

/// Builds what is missing of an era's upstream, in a process of its own; `beside` scenarios it yields to them.
pub fn build_upstream(choice: &Choice, beside: bool) -> Result<()> {
    let own = env::current_exe().context("cannot find this program's own path")?;
    let what = format!("upstream of {choice}");
    step(&what, || {
        nicely(if beside { YIELDING } else { 0 }, own.as_os_str())
            .args(["upstream", "build", "--k8s", &choice.version.to_string()])
            .args(choice.runtime.iter().flat_map(|name| ["--runtime", name]))
            .log("upstream.log")
            .run()
    })
}

/// How much building yields to scenarios.
const YIELDING: u8 = 15;

/// A program that yields to the scenarios, by this much of 19.
pub fn nicely(by: u8, program: &OsStr) -> Sh {
    Sh::new("nice").args(["-n", &by.to_string()]).arg(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_installers_targets_are_read_from_the_toolchain_s_file() {
        let targets: Vec<&str> = listed("targets").collect();
        assert_eq!(
            targets,
            ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"]
        );
        assert!(listed("components").any(|name| name == "clippy"));
        assert_eq!(listed("nothing").count(), 0);
    }
}
