//! What a pot needs, decided from the request and the version data alone: no network, no clock, no files.
//!
//! A plan names every download with its publisher's address and the way it is checked, and every image. Where something cannot be checked there is no plan.

mod runtime;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use bundle_spec::manifest::{Checked, Runtime, RuntimeName};
use bundle_spec::{Arch, KubeVersion, Sha256};

use crate::extra::{Extra, Place};
use crate::image_name::ImageName;
use crate::releases::{Algorithm, Minor, Releases};

/// The version of a download, as it stands in its address: letters, digits and `.+-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".+-".contains(&byte);
        let good = text.len() <= 64
            && text.bytes().all(plain)
            && text
                .trim_start_matches('v')
                .starts_with(|first: char| first.is_ascii_digit());
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is not a version"))
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is downloaded as a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ArtifactName {
    /// The CNI project's plugins.
    CniPlugins,
    /// containerd's archive, which has neither runc nor crictl.
    Containerd,
    /// crictl
    Crictl,
    /// Docker Engine's static archive.
    Docker,
    /// kubeadm
    Kubeadm,
    /// kubectl
    Kubectl,
    /// kubelet
    Kubelet,
    /// runc
    Runc,
}

impl ArtifactName {
    /// Every artifact, in the order of a manifest.
    pub const ALL: [Self; 8] = [
        Self::CniPlugins,
        Self::Containerd,
        Self::Crictl,
        Self::Docker,
        Self::Kubeadm,
        Self::Kubectl,
        Self::Kubelet,
        Self::Runc,
    ];

    /// The name in a manifest and in `--pin`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::CniPlugins => "cni-plugins",
            Self::Containerd => "containerd",
            Self::Crictl => "crictl",
            Self::Docker => "docker",
            Self::Kubeadm => "kubeadm",
            Self::Kubectl => "kubectl",
            Self::Kubelet => "kubelet",
            Self::Runc => "runc",
        }
    }
}

impl FromStr for ArtifactName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|known| known.text() == text);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::text).join(", ");
            format!("{text:?} is nothing that can be pinned: expected one of {names}")
        })
    }
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// What a pin is of: `docker`, for every architecture, or `docker/arm64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pinned {
    /// The download.
    pub name: ArtifactName,
    /// The architecture that it is for; nothing for all.
    pub arch: Option<Arch>,
}

impl FromStr for Pinned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, arch) = match text.split_once('/') {
            None => (text, None),
            Some((name, arch)) => (name, Some(arch)),
        };
        Ok(Self {
            name: name.parse()?,
            arch: arch.map(str::parse).transpose()?,
        })
    }
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.arch {
            None => write!(f, "{}", self.name),
            Some(arch) => write!(f, "{}/{arch}", self.name),
        }
    }
}

/// `--pin NAME=sha256:HEX`: the digest that a download must have, whatever else is published or shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Of what.
    pub of: Pinned,
    /// The digest of the download as it comes.
    pub digest: Sha256,
}

impl Pin {
    /// Whether another one that counts more stands for this one: it is for the same download, and for every architecture or this one's own.
    pub fn is_overruled_by(&self, other: &Self) -> bool {
        self.of.name == other.of.name && other.of.arch.is_none_or(|arch| self.of.arch == Some(arch))
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, digest) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not NAME=sha256:HEX"))?;
        let of = name.parse()?;
        let digest = digest.parse().map_err(|cause| format!("{cause}"))?;
        Ok(Self { of, digest })
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The Kubernetes version.
    pub kubernetes: KubeVersion,
    /// The architecture of the machine that the pot is for.
    pub arch: Arch,
    /// Images besides the control plane's.
    pub images: Vec<ImageName>,
    /// Files to carry besides.
    pub files: Vec<Extra>,
    /// Digests given by hand.
    pub pins: Vec<Pin>,
    /// The runtime, and versions instead of the defaults.
    pub choice: Choice,
}

/// What may be chosen besides the Kubernetes version; what is not takes the default that belongs to it.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The container runtime.
    pub runtime: Option<RuntimeName>,
    /// Docker's version.
    pub docker: Option<Version>,
    /// containerd's version, without a v.
    pub containerd: Option<Version>,
    /// runc's version, without a v.
    pub runc: Option<Version>,
    /// crictl's version, with a v.
    pub crictl: Option<Version>,
    /// The CNI plugins' version, with a v.
    pub cni: Option<Version>,
}

/// What will be fetched and packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    name: String,
    /// The Kubernetes version.
    pub kubernetes: KubeVersion,
    /// The architecture.
    pub arch: Arch,
    /// The container runtime in the pot.
    pub runtime: Runtime,
    /// The version of the CNI plugins.
    pub cni: String,
    /// Files to download, in the order of the manifest.
    pub downloads: Vec<Download>,
    /// Files to carry besides, sorted by name.
    pub files: Vec<Extra>,
    /// Images to pull, each once, sorted by name.
    pub images: Vec<ImageName>,
    /// What the user should know and decide about.
    pub warnings: Vec<String>,
}

/// One file to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// What it is.
    pub name: ArtifactName,
    /// Its version.
    pub version: String,
    /// Its publisher's address.
    pub url: String,
    /// Whether it is a program or an archive of programs.
    pub layout: Layout,
    /// How it is checked.
    pub check: Check,
}

impl Download {
    /// What people, and the cache, call it: `kubelet v1.20.2`.
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// What a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One program.
    Program,
    /// A `.tgz` with programs directly in it.
    Archive,
    /// A `.tgz` with programs directly in one folder of this name.
    ArchiveWithFolder(&'static str),
}

/// How a download is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Against the checksum that its publisher serves at this address.
    Published {
        /// Its algorithm.
        algorithm: Algorithm,
        /// Its address.
        url: String,
    },
    /// Against kpot's version data.
    Shipped(Sha256),
    /// Against a digest given by hand.
    Given(Sha256),
}

impl Check {
    /// The digest that it must have, where that is known already.
    pub const fn digest(&self) -> Option<Sha256> {
        match self {
            Self::Published { .. } => None,
            Self::Shipped(digest) | Self::Given(digest) => Some(*digest),
        }
    }

    /// What a manifest says of a download that was checked so.
    pub const fn checked(&self) -> Checked {
        match self {
            Self::Published {
                algorithm: Algorithm::Sha256,
                ..
            } => Checked::PublishedSha256,
            Self::Published {
                algorithm: Algorithm::Sha512,
                ..
            } => Checked::PublishedSha512,
            Self::Shipped(_) => Checked::ShippedPin,
            Self::Given(_) => Checked::GivenPin,
        }
    }
}

impl Plan {
    /// The pot's own name, the same for every build of these versions. It says the runtime where that is not the version's default: neither pot is a newer one of the other.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many downloads, images and files come over the network. A file of this machine does not.
    pub fn transfers(&self) -> usize {
        let remote = self.files.iter();
        let remote = remote.filter(|file| matches!(file.place, Place::At(..)));
        self.downloads.len() + self.images.len() + remote.count()
    }
}

/// Plans a pot.
///
/// # Errors
/// A text for the user where there can be no such pot: an unknown version, a runtime that its kubelet does not speak to, a version of what is not packed, a download that
/// nothing vouches for, a pin or an image given twice with different meanings.
pub fn plan(request: &Request, releases: &Releases) -> Result<Plan, String> {
    let minor = releases.minor(request.kubernetes)?;
    let pins = pins_by_name(&request.pins, request.arch)?;
    let equipment = runtime::equipment(request, releases, minor, &pins)?;
    let cni = version_or(request.choice.cni.as_ref(), &minor.cni);

    let mut downloads = equipment.downloads;
    downloads.push(cni_download(&cni, request.arch)?);
    for name in [
        ArtifactName::Kubeadm,
        ArtifactName::Kubectl,
        ArtifactName::Kubelet,
    ] {
        downloads.push(kubernetes_download(name, request, minor));
    }
    downloads.sort_by_key(|download| download.name);
    for download in &mut downloads {
        if let Some(digest) = pins.get(&download.name) {
            download.check = Check::Given(*digest);
        }
    }

    let (images, mut warnings) = images(request, minor)?;
    warnings.extend(equipment.warning);
    let Request {
        kubernetes, arch, ..
    } = request;
    let runtime = equipment.runtime.name;
    let name = if runtime == minor.runtime() {
        format!("kpot-{kubernetes}-{arch}")
    } else {
        format!("kpot-{kubernetes}-{runtime}-{arch}")
    };
    Ok(Plan {
        name,
        kubernetes: request.kubernetes,
        arch: request.arch,
        runtime: equipment.runtime,
        cni,
        downloads,
        files: files(request)?,
        images,
        warnings,
    })
}

fn version_or(asked: Option<&Version>, default: &str) -> String {
    asked.map_or_else(|| default.to_owned(), Version::to_string)
}

/// The pins that hold for an architecture: its own go before those for all.
fn pins_by_name(pins: &[Pin], arch: Arch) -> Result<BTreeMap<ArtifactName, Sha256>, String> {
    let mut all = BTreeMap::new();
    for pin in pins {
        if all
            .insert(pin.of, pin.digest)
            .is_some_and(|other| other != pin.digest)
        {
            return Err(format!("{} is pinned to two digests", pin.of));
        }
    }
    // In the order of the map those for all come first.
    let held = all
        .iter()
        .filter(|(of, _)| of.arch.is_none_or(|its| its == arch));
    Ok(held.map(|(of, digest)| (of.name, *digest)).collect())
}

fn cni_download(version: &str, arch: Arch) -> Result<Download, String> {
    let number = version.strip_prefix('v').ok_or_else(|| {
        format!("the CNI plugins' versions start with a v: --cni-version v{version}")
    })?;
    // Up to 0.7 the archive's name does not say "linux": there was no other system.
    let system = if number.starts_with("0.6.") || number.starts_with("0.7.") {
        ""
    } else {
        "linux-"
    };
    let url = format!(
        "https://github.com/containernetworking/plugins/releases/download/{version}/cni-plugins-{system}{arch}-{version}.tgz"
    );
    Ok(Download {
        name: ArtifactName::CniPlugins,
        version: version.to_owned(),
        check: published_sha256(format!("{url}.sha256")),
        url,
        layout: Layout::Archive,
    })
}

const fn published_sha256(url: String) -> Check {
    Check::Published {
        algorithm: Algorithm::Sha256,
        url,
    }
}

fn kubernetes_download(name: ArtifactName, request: &Request, minor: &Minor) -> Download {
    let url = format!(
        "https://dl.k8s.io/release/{}/bin/linux/{}/{name}",
        request.kubernetes, request.arch
    );
    let ending = match minor.checksum {
        Algorithm::Sha256 => "sha256",
        Algorithm::Sha512 => "sha512",
    };
    Download {
        name,
        version: request.kubernetes.to_string(),
        check: Check::Published {
            algorithm: minor.checksum,
            url: format!("{url}.{ending}"),
        },
        url,
        layout: Layout::Program,
    }
}

/// The files to carry besides; each name once.
fn files(request: &Request) -> Result<Vec<Extra>, String> {
    let mut files = BTreeMap::new();
    for file in &request.files {
        if files.insert(file.name.clone(), file.clone()).is_some() {
            return Err(format!(
                "two files are called {}: give one of them another name",
                file.name
            ));
        }
    }
    Ok(files.into_values().collect())
}

/// The control plane's images under the names that this version's kubeadm asks for, and the ones given besides. Where one of those is another tag of etcd, CoreDNS or pause, it takes
/// the place of the tag in the version data: whoever gives it knows better, and an installer would not know which of two is meant. The others are of the very version.
fn images(request: &Request, minor: &Minor) -> Result<(Vec<ImageName>, Vec<String>), String> {
    let version = request.kubernetes;
    let tags = minor.tags(version.patch);
    let mut warnings = Vec::new();
    if !tags.verified {
        warnings.push(format!(
            "the tags of etcd ({}) and CoreDNS ({}) were not seen for exactly {version}; compare with: kubeadm config images list --kubernetes-version {version}",
            tags.etcd, tags.coredns
        ));
    }
    let own = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
    ]
    .map(|program| format!("{program}:{version}"));
    let others = [
        format!("pause:{}", minor.pause),
        format!("etcd:{}", tags.etcd),
        format!("{}:{}", minor.coredns_repository, tags.coredns),
    ];
    let of_registry = |name: &String| format!("{}/{name}", tags.registry).parse::<ImageName>();
    let mut images: BTreeSet<ImageName> = request.images.iter().cloned().collect();
    // One that was given with its digest is that image, and no second one.
    let is_given = |image: &ImageName| {
        let mut given = request.images.iter();
        given.any(|it| it.familiar() == image.familiar())
    };
    for name in &own {
        let image = of_registry(name)?;
        if !is_given(&image) {
            images.insert(image);
        }
    }
    for name in &others {
        let image = of_registry(name)?;
        let repository = (image.registry(), image.repository());
        let given = request.images.iter();
        let given = given.filter(|it| (it.registry(), it.repository()) == repository);
        let given: Vec<String> = given.map(ImageName::familiar).collect();
        if given.is_empty() {
            images.insert(image);
        } else if !is_given(&image) {
            warnings.push(format!(
                "the pot has {} instead of {image}, which kpot's version data name; to have both, give --image for each",
                given.join(" and ")
            ));
        }
    }
    let images: Vec<ImageName> = images.into_iter().collect();
    let mut names = BTreeSet::new();
    if let Some(twice) = images.iter().find(|image| !names.insert(image.familiar())) {
        return Err(format!(
            "the image {twice} is asked for twice, with and without a digest"
        ));
    }
    Ok((images, warnings))
}

#[cfg(test)]
mod tests;
