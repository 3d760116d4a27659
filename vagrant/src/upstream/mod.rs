//! Upstream in the lab: real Kubernetes of several eras, built from released modules, and the servers that publish it.
//!
//! [`ensure`] builds what the cache has not got, [`serve`] publishes it on loopback. Results are kept below the lab's
//! cache, each under a key of all that it was made of, and appear there whole or not at all: a lab that is killed
//! starts again at the last thing that was done. What the product asks of an upstream is served as the originals do it;
//! nothing here knows how the product works.

mod archives;
mod cli;
mod debian;
mod golang;
mod image;
mod images;
mod kubernetes;
mod mirror;
mod network;
mod runtimes;

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};

pub use archives::Rights;
pub use cli::{Command, cli};
pub use images::TEST_IMAGE;
pub use mirror::{Mirror, serve, stop_all};
pub use network::{FLANNEL_IMAGE, POD_SUBNET};
pub use runtimes::RuntimeFiles;

use crate::eras::{Checksum, Choice, Era, Eras, Runtime, Version};
use crate::sh;
use golang::Workshop;

/// Where an era's upstream files are.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The Kubernetes version.
    pub version: Version,
    /// The registry in the names of Kubernetes' images.
    pub registry: String,
    /// The folder with kubeadm, kubelet and kubectl; others are there as well.
    pub bin: PathBuf,
    /// All images, for `docker load`.
    pub images_archive: PathBuf,
    /// The whole names of the images in it.
    pub images: Vec<String>,
    /// The name of its container runtime in `eras.json`.
    pub runtime_name: String,
    /// The container runtime.
    pub runtime: RuntimeFiles,
    /// The archive of the CNI plugins.
    pub cni_archive: PathBuf,
    /// Its version, as `v1.7.1`.
    pub cni_version: String,
    checksums: Vec<Checksum>,
    images_key: String,
}

impl Upstream {
    /// The manifest of the pod network's `DaemonSet`.
    pub fn pod_network_manifest(&self) -> Result<String> {
        Ok(network::manifest(self.image(FLANNEL_IMAGE)?))
    }

    /// The images that a pot needs besides Kubernetes' own: the pod network's and the scenarios'.
    pub fn extra_images(&self) -> Result<[&str; 2]> {
        Ok([self.image(FLANNEL_IMAGE)?, self.image(TEST_IMAGE)?])
    }

    /// The whole name of the image that pods' sandboxes are made of.
    pub fn sandbox_image(&self) -> Result<&str> {
        self.image(&format!("{}/pause", self.registry))
    }

    /// The whole name of the image for the scenarios' pods: a busybox.
    pub fn test_image(&self) -> Result<&str> {
        self.image(TEST_IMAGE)
    }

    fn image(&self, repository: &str) -> Result<&str> {
        let found = self.images.iter().find(|name| {
            name.strip_prefix(repository)
                .is_some_and(|tag| tag.starts_with(':'))
        });
        found
            .map(String::as_str)
            .ok_or_else(|| anyhow!("{} has no image {repository}", self.version))
    }
}

/// Builds what is missing of an era with one of its container runtimes, the first if none is asked for, and says where
/// everything is.
pub fn ensure(cache: &Path, era: &Era, runtime: Option<&str>) -> Result<Upstream> {
    made_by(cache, |works| {
        let (name, runtime) = works.eras.runtime(era, runtime)?;
        works.ensure(era, name, runtime)
    })
}

/// Whether nothing is left to build of it.
pub fn is_built(cache: &Path, choice: &Choice) -> bool {
    let found = || {
        let eras = Eras::load()?;
        let era = eras.find(choice.version)?;
        let (name, runtime) = eras.runtime(era, choice.runtime.as_deref())?;
        Works::of(&eras, cache, Missing::IsAnError).ensure(era, name, runtime)
    };
    found().is_ok()
}

/// Builds a part that no era needs, if it is missing, and gives the folder of its programs.
pub fn part(cache: &Path, name: &str) -> Result<PathBuf> {
    made_by(cache, |works| {
        let programs = works.part(name)?;
        if works.missing == Missing::IsMade {
            works.tidy()?;
        }
        Ok(programs)
    })
}

fn made_by<T>(cache: &Path, work: impl Fn(&Works<'_>) -> Result<T>) -> Result<T> {
    let eras = Eras::load()?;
    let works = |missing| Works::of(&eras, cache, missing);
    // What is there can be used while another lab builds something else.
    if let Ok(found) = work(&works(Missing::IsAnError)) {
        return Ok(found);
    }
    let works = works(Missing::IsMade);
    sh::make_dirs(&works.store)?;
    let lock = sh::create(&works.store.join("lock"))?;
    lock.lock().context("waiting for another lab that builds")?;
    work(&works)
}

/// The builder's view: data, tools, and the place for results.
struct Works<'a> {
    eras: &'a Eras,
    workshop: Workshop,
    store: PathBuf,
    missing: Missing,
}

/// What to do about a result that the cache has not got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsAnError,
    IsMade,
}

/// The folders of an era's results besides Kubernetes.
struct Rest {
    runtime: RuntimeFiles,
    debian: PathBuf,
    etcd: Vec<PathBuf>,
    coredns: PathBuf,
    flannel: PathBuf,
    flannel_cni: PathBuf,
    cni: PathBuf,
}

impl<'a> Works<'a> {
    fn of(eras: &'a Eras, cache: &Path, missing: Missing) -> Self {
        Self {
            eras,
            workshop: Workshop::new(cache),
            store: cache.join("upstream"),
            missing,
        }
    }

    fn ensure(&self, era: &Era, runtime_name: &str, runtime: &Runtime) -> Result<Upstream> {
        let version = era.kubernetes;
        // Compiling keeps both cores busy; fetching, unpacking and linking the rest fill its gaps.
        let (kubernetes, rest) = thread::scope(|scope| {
            let rest = scope.spawn(|| self.rest(era, runtime));
            let kubernetes = self.kubernetes(era);
            (
                kubernetes,
                rest.join()
                    .unwrap_or_else(|_| Err(anyhow!("building the parts panicked"))),
            )
        });
        let (kubernetes, rest) = (kubernetes?, rest?);

        let flannel_version = &self.eras.part("flannel")?.version;
        let programs = [
            &kubernetes,
            &rest.coredns,
            &rest.flannel,
            &rest.flannel_cni,
            &rest.debian,
        ];
        let programs = programs.into_iter().chain(&rest.etcd);
        let names: Vec<String> = programs.map(|path| file_name(path)).collect();
        let images_key = self.key(&[
            &"images",
            &era.kubernetes,
            &era.registry,
            &era.coredns,
            &flannel_version,
            &names,
        ]);
        let images = self.made(&format!("images-{version}"), &images_key, |out| {
            let programs = images::Programs {
                kubernetes: &kubernetes,
                etcd: &rest.etcd,
                coredns: &rest.coredns,
                flannel: &rest.flannel,
                flannel_cni: &rest.flannel_cni,
                debian: &rest.debian,
            };
            sh::make_dirs(out)?;
            images::make(&self.workshop, era, &programs, flannel_version, out)
        })?;
        if self.missing == Missing::IsMade {
            self.tidy()?;
        }

        Ok(Upstream {
            version,
            registry: era.registry.clone(),
            bin: kubernetes,
            images_archive: images.join("images.tar"),
            images: sh::read_text(&images.join("names"))?
                .lines()
                .map(ToOwned::to_owned)
                .collect(),
            runtime_name: runtime_name.to_owned(),
            runtime: rest.runtime,
            cni_archive: rest.cni.join(CNI_ARCHIVE),
            cni_version: self.eras.part("cni-plugins")?.version.clone(),
            checksums: era.checksums.clone(),
            images_key,
        })
    }

    /// Everything but Kubernetes; what waits for the network rather than for a core comes first.
    fn rest(&self, era: &Era, runtime: &Runtime) -> Result<Rest> {
        let etcd = era.etcd.parts.iter().map(|part| self.part(part));
        Ok(Rest {
            debian: self.debian()?,
            runtime: self.runtime(runtime)?,
            etcd: etcd.collect::<Result<_>>()?,
            coredns: self.part(&era.coredns.part)?,
            flannel: self.part("flannel")?,
            flannel_cni: self.part("flannel-cni")?,
            cni: self.cni_archive()?,
        })
    }

    fn debian(&self) -> Result<PathBuf> {
        let key = self.key(&[&images::NETFILTER]);
        self.made("debian", &key, |out| {
            debian::unpack(&images::NETFILTER, out).map(drop)
        })
    }

    fn kubernetes(&self, era: &Era) -> Result<PathBuf> {
        let replace = self.eras.replacements_of_era(era)?;
        let key = self.key(&[
            &"kubernetes",
            &era.kubernetes,
            &era.commit,
            &era.go,
            &era.staging,
            &replace,
            &era.edits,
            &era.openapi,
            &era.etcd,
            &era.pause,
        ]);
        self.made(&format!("kubernetes-{}", era.kubernetes), &key, |out| {
            sh::apt_install(&["gcc", "libc6-dev"])?;
            kubernetes::build(&self.workshop, era, &replace, out)
        })
    }

    fn part(&self, name: &str) -> Result<PathBuf> {
        let part = self.eras.part(name)?.clone();
        let part = &part.for_host(Rights::of_this_host()?);
        let replace = self.eras.replacements_of_part(part)?;
        let key = self.key(&[&"part", &part, &replace]);
        self.made(name, &key, |out| {
            self.workshop.build_part(name, part, &replace, out)
        })
    }

    fn cni_archive(&self) -> Result<PathBuf> {
        let programs = self.part("cni-plugins")?;
        let key = self.key(&[&CNI_ARCHIVE, &file_name(&programs)]);
        self.made("cni-archive", &key, |out| {
            sh::make_dirs(out)?;
            archives::programs(&programs, "", CNI_ARCHIVE, out)
        })
    }

    /// The result of this name and key, made now if it is not there: beside its place, then renamed into it. Results of
    /// the same name under other keys are of an older recipe, and go.
    fn made(
        &self,
        name: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let place = self.store.join(format!("{name}-{key}"));
        if sh::exists(&place) {
            return Ok(place);
        }
        ensure!(
            self.missing == Missing::IsMade,
            "{} is not there",
            place.display()
        );
        sh::step(&format!("making {name}"), || {
            let part = self.store.join(format!("{name}-{key}.part"));
            sh::remove(&part)?;
            make(&part)?;
            sh::rename(&part, &place)
        })?;
        for other in sh::names_in(&self.store)? {
            let old = other
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('-'));
            if old.is_some_and(|old| is_key(old.trim_end_matches(".part")) && old != key) {
                sh::remove(&self.store.join(other))?;
            }
        }
        Ok(place)
    }

    /// A short digest of everything that a result is made of, the recipe's own revision included.
    fn key(&self, inputs: &[&dyn Input]) -> String {
        let mut text = format!("recipe {}\n", self.eras.recipe);
        for input in inputs {
            text.push_str(&input.text());
            text.push('\n');
        }
        image::sha256(text.as_bytes())[..KEY_LENGTH].to_owned()
    }

    /// Removes trees and build caches, and the downloads as well once every era that this host can run is built.
    fn tidy(&self) -> Result<()> {
        if !sh::exists(self.workshop.scratch()) {
            return Ok(());
        }
        self.workshop.throw_away_builds()?;
        let built = sh::names_in(&self.store)?;
        let all = self
            .eras
            .all()
            .iter()
            .filter(|era| era.runs_here())
            .all(|era| {
                let name = format!("images-{}-", era.kubernetes);
                built
                    .iter()
                    .any(|built| built.strip_prefix(&name).is_some_and(is_key))
            });
        if all {
            self.workshop.throw_away_downloads()?;
        }
        Ok(())
    }
}

const CNI_ARCHIVE: &str = "cni-plugins.tgz";
const KEY_LENGTH: usize = 16;

fn is_key(text: &str) -> bool {
    text.len() == KEY_LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Something that a result depends on.
trait Input {
    fn text(&self) -> String;
}

impl<T: serde::Serialize> Input for T {
    fn text(&self) -> String {
        // Strings and plain structures cannot fail to become JSON; if one did, a changed debug text still tells it apart.
        serde_json::to_string(self).unwrap_or_else(|err| err.to_string())
    }
}
