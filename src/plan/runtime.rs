//! The runtime of a pot: which one, whether it fits, and what is downloaded for it. The one place that decides which runtimes kpot packs.

use std::collections::BTreeMap;

use bundle_spec::manifest::{Runtime, RuntimeName};
use bundle_spec::{Arch, Sha256};

use super::{
    ArtifactName, Check, Choice, Download, Layout, Request, Version, published_sha256, version_or,
};
use crate::releases::{Containerd, Minor, Releases, Series};

/// What a pot has of its runtime.
pub(super) struct Equipment {
    pub(super) runtime: Runtime,
    pub(super) downloads: Vec<Download>,
    /// Where it is an unusual one.
    pub(super) warning: Option<String>,
}

/// What a pot has of its runtime: of the one that is asked for, else of the default.
///
/// # Errors
/// A text for the user where its kubelet does not speak to it, a version of another runtime is asked for, or nothing vouches for a download.
pub(super) fn equipment(
    request: &Request,
    releases: &Releases,
    minor: &Minor,
    pins: &BTreeMap<ArtifactName, Sha256>,
) -> Result<Equipment, String> {
    let name = request.choice.runtime.unwrap_or_else(|| minor.runtime());
    let defaults = Defaults::of(name, request, minor)?;
    fitting(name, request, minor)?;
    let (version, downloads) = match defaults {
        Defaults::Docker(default) => {
            let version = version_or(request.choice.docker.as_ref(), default);
            let download = docker(&version, request.arch, releases, pins)
                .ok_or_else(|| unvouched(&version, request.arch, releases, minor))?;
            (version, vec![download])
        }
        Defaults::Containerd(defaults) => containerd(request, releases, defaults)?,
    };
    let default = defaults.version();
    let another = Series::of(default) != Series::of(&version);
    Ok(Equipment {
        warning: another.then(|| {
            format!(
                "{name} {version} is not what kpot packs for {} by default ({default})",
                request.kubernetes
            )
        }),
        runtime: Runtime { name, version },
        downloads,
    })
}

/// The default versions of a runtime that kpot packs.
#[derive(Clone, Copy)]
enum Defaults<'a> {
    Docker(&'a str),
    Containerd(&'a Containerd),
}

impl<'a> Defaults<'a> {
    fn of(name: RuntimeName, request: &Request, minor: &'a Minor) -> Result<Self, String> {
        let defaults = match name {
            RuntimeName::Docker => minor.docker.as_deref().map(Self::Docker),
            RuntimeName::Containerd => minor.containerd.as_ref().map(Self::Containerd),
        };
        defaults.ok_or_else(|| match name {
            RuntimeName::Docker => format!(
                "the kubelet of {} does not speak to Docker: its dockershim was removed with 1.24. Without --runtime docker and --docker-version (runtime and docker-version in a recipe) the pot has containerd",
                request.kubernetes
            ),
            RuntimeName::Containerd => format!(
                "kpot packs containerd from Kubernetes 1.14 on: the pot for {} has Docker, without --runtime containerd and its versions",
                request.kubernetes
            ),
        })
    }

    fn version(self) -> &'a str {
        match self {
            Self::Docker(version) => version,
            Self::Containerd(versions) => &versions.version,
        }
    }
}

/// Refuses versions of what a pot with this runtime does not have: whoever gives one expects another pot.
fn fitting(name: RuntimeName, request: &Request, minor: &Minor) -> Result<(), String> {
    use RuntimeName::{Containerd, Docker};
    let Choice {
        docker,
        containerd,
        runc,
        crictl,
        ..
    } = &request.choice;
    let flags = [
        ("docker-version", Docker, docker),
        ("containerd-version", Containerd, containerd),
        ("runc-version", Containerd, runc),
        ("crictl-version", Containerd, crictl),
    ];
    let misfit = flags
        .into_iter()
        .find(|(_, of, version)| version.is_some() && *of != name);
    let Some((flag, of, _)) = misfit else {
        return Ok(());
    };
    Defaults::of(of, request, minor)?;
    Err(format!(
        "--{flag} ({flag} in a recipe) is for a pot with {of}, and the one for {} has {name}: leave it out, or give --runtime {of}",
        request.kubernetes
    ))
}

/// Docker's archive, where a digest vouches for it.
fn docker(
    version: &str,
    arch: Arch,
    releases: &Releases,
    pins: &BTreeMap<ArtifactName, Sha256>,
) -> Option<Download> {
    let name = ArtifactName::Docker;
    let digest = pins
        .get(&name)
        .copied()
        .or_else(|| releases.pin(name.text(), version, arch))?;
    Some(Download {
        name,
        version: version.to_owned(),
        url: format!(
            "https://download.docker.com/linux/static/stable/{}/docker-{version}.tgz",
            arch.uname()
        ),
        layout: Layout::ArchiveWithFolder("docker"),
        check: Check::Shipped(digest),
    })
}

/// Why there is no pot with a Docker that nothing vouches for, and what to give instead.
fn unvouched(version: &str, arch: Arch, releases: &Releases, minor: &Minor) -> String {
    let shipped = releases.pinned_versions(ArtifactName::Docker.text(), arch);
    let mut ways = Vec::new();
    if !shipped.is_empty() {
        let shipped = shipped.join(" or ");
        ways.push(format!(
            "a version of which it ships one, --docker-version {shipped}"
        ));
    }
    if minor.containerd.is_some() {
        ways.push("another runtime, --runtime containerd".to_owned());
    }
    ways.push("the digest that you trust, --pin docker=sha256:HEX".to_owned());
    format!(
        "Docker's publisher publishes no checksums, and this kpot ships no digest of docker {version} for {arch}. Give {}",
        ways.join("; or ")
    )
}

/// Refuses a containerd of which nothing was released under the name that later ones have: up to 1.3.4 it had a dot in it, and for arm64 there was none before 1.6
/// (containerd/containerd#5524).
fn has_an_archive(version: &str, arch: Arch) -> Result<(), String> {
    let mut numbers = version
        .split('.')
        .map(|part| part.parse().unwrap_or_default());
    let [major, minor, patch]: [u32; 3] =
        std::array::from_fn(|_| numbers.next().unwrap_or_default());
    if (major, minor, patch) < (1, 3, 5) {
        return Err(format!(
            "containerd {version} was released in another form: take 1.3.7 or later"
        ));
    }
    if arch == Arch::Arm64 && (major, minor) < (1, 6) {
        return Err(format!(
            "containerd {version} was not released for arm64: take 1.6 or later"
        ));
    }
    Ok(())
}

/// containerd, and runc and crictl, which its archive does not have.
fn containerd(
    request: &Request,
    releases: &Releases,
    defaults: &Containerd,
) -> Result<(String, Vec<Download>), String> {
    let Choice {
        containerd,
        runc,
        crictl,
        ..
    } = &request.choice;
    let version = bare("containerd", containerd.as_ref(), &defaults.version)?;
    releases
        .can_speak(request.kubernetes.minor, &version)
        .map_err(|problem| {
            format!(
                "{problem}. The default is --containerd-version {}",
                defaults.version
            )
        })?;
    has_an_archive(&version, request.arch)?;
    let runc = bare("runc", runc.as_ref(), &defaults.runc)?;
    let crictl = version_or(crictl.as_ref(), &defaults.crictl);
    if !crictl.starts_with('v') {
        return Err(format!(
            "crictl's versions start with a v: --crictl-version v{crictl}"
        ));
    }

    let Request { arch, .. } = request;
    let containerd = format!(
        "https://github.com/containerd/containerd/releases/download/v{version}/containerd-{version}-linux-{arch}.tar.gz"
    );
    let of_runc = format!("https://github.com/opencontainers/runc/releases/download/v{runc}");
    let of_crictl = format!(
        "https://github.com/kubernetes-sigs/cri-tools/releases/download/{crictl}/crictl-{crictl}-linux-{arch}.tar.gz"
    );
    let downloads = vec![
        Download {
            name: ArtifactName::Containerd,
            version: version.clone(),
            check: published_sha256(format!("{containerd}.sha256sum")),
            url: containerd,
            layout: Layout::ArchiveWithFolder("bin"),
        },
        Download {
            name: ArtifactName::Crictl,
            version: crictl,
            check: published_sha256(format!("{of_crictl}.sha256")),
            url: of_crictl,
            layout: Layout::Archive,
        },
        Download {
            name: ArtifactName::Runc,
            version: runc,
            // One list for all files of the release.
            check: published_sha256(format!("{of_runc}/runc.sha256sum")),
            url: format!("{of_runc}/runc.{arch}"),
            layout: Layout::Program,
        },
    ];
    Ok((version, downloads))
}

/// A version that is written without a v, as the files of containerd and runc are named.
fn bare(what: &str, asked: Option<&Version>, default: &str) -> Result<String, String> {
    let version = version_or(asked, default);
    match version.strip_prefix('v') {
        None => Ok(version),
        Some(number) => Err(format!(
            "{what}'s versions are given without a v: --{what}-version {number}"
        )),
    }
}
