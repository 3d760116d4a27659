//! What every use of the lab needs before the first scenario: this machine, the node image, upstream of some eras and its
//! servers, the product compiled, and a pot of each era. As much of it as can be is done at the same time.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cache::Cache;
use crate::eras::{Eras, Version};
use crate::lab::Lab;
use crate::materials::{Materials, lab_arguments};
use crate::pot::{Kpot, Pot};
use crate::scenario::Bench;
use crate::sh::{self, step};
use crate::upstream::{self, Mirror, Upstream};
use crate::{image, machine};

/// Debian packages that the lab itself uses; upstream's builds and servers install theirs.
const PACKAGES: &[&str] = &[
    "debootstrap",
    "docker.io",
    "file",
    "iproute2",
    "iptables",
    "libc-bin",
    "musl-tools",
    "openssh-client",
    "ruby",
    "strace",
    "util-linux",
    "vagrant",
];

/// Installs what the lab needs, starts Docker, and makes the node image.
pub fn prepare_machine(cache: &Cache) -> Result<()> {
    let user = sh::Sh::new("id").arg("-u").output()?;
    ensure!(user == "0", "the lab runs as root: it installs packages, starts Docker and makes machines");
    let release = sh::read_text(std::path::Path::new("/etc/os-release")).context("is this Debian?")?;
    ensure!(
        release.lines().any(|line| line == "VERSION_CODENAME=bookworm"),
        "the lab is made for Debian 12 (bookworm): its Vagrant, Docker and servers are Debian's"
    );
    sh::apt_install(PACKAGES)?;
    machine::prepare(cache)?;
    image::ensure(cache)
}

/// All of it, for some eras.
pub struct Workbench {
    cache: Cache,
    kpot: Kpot,
    eras: Vec<(Version, Materials, Pot)>,
    mirror: Mirror,
}

impl Workbench {
    /// Makes everything that is missing.
    pub fn prepare(cache: &Cache, versions: &[Version]) -> Result<Self> {
        prepare_machine(cache)?;
        let (kpot, upstreams) = thread::scope(|scope| {
            // Downloads and links leave a core free here and there, which is what compiling kpot takes.
            let kpot = scope.spawn(|| step("compiling kpot with the installer inside", Kpot::compile));
            let upstreams: Result<Vec<Upstream>> = versions.iter().map(|version| upstream_of(cache, *version)).collect();
            (kpot.join().unwrap_or_else(|_| Err(anyhow!("compiling kpot panicked"))), upstreams)
        });
        let (kpot, upstreams) = (kpot?, upstreams?);
        let mirror = step("serving upstream on loopback", || {
            upstream::serve(cache.root(), &upstreams.iter().collect::<Vec<_>>())
        })?;
        let mut eras = Vec::new();
        for upstream in upstreams {
            let version = upstream.version;
            let pot = step(&format!("kpot build --k8s {version}"), || {
                kpot.build(cache, version, &lab_arguments(&upstream, &mirror)?)
            })?;
            eras.push((version, Materials::of_lab(&upstream)?, pot));
        }
        Ok(Self { cache: cache.clone(), kpot, eras, mirror })
    }

    /// A bench for one of the eras, in the order in which they were given.
    pub fn bench(&self, lab: &Lab, index: usize) -> Result<Bench> {
        let (version, materials, pot) = self.eras.get(index).context("no such era on the workbench")?;
        Ok(Bench::new(self.cache.clone(), lab.clone(), materials.clone(), self.kpot.clone(), pot.clone(), *version))
    }

    /// The servers.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The builder.
    pub fn kpot(&self) -> &Kpot {
        &self.kpot
    }

    /// The pots.
    pub fn pots(&self) -> impl Iterator<Item = &Pot> {
        self.eras.iter().map(|(_, _, pot)| pot)
    }
}

/// The lab's own builds of one era, made now if they are missing.
pub fn upstream_of(cache: &Cache, version: Version) -> Result<Upstream> {
    let eras = Eras::load()?;
    step(&format!("upstream of {version}"), || upstream::ensure(cache.root(), eras.find(version)?))
}
