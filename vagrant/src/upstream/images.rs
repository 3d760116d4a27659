//! The images of an era: what its kubeadm expects, the pod network's, and a small one for the scenarios' pods.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::eras::Era;
use crate::sh::{self, Sh};
use crate::upstream::debian::Unpacked;
use crate::upstream::golang::Workshop;
use crate::upstream::image::{Image, Layer, Start, Tree, write_archive};
use crate::upstream::kubernetes::{COMMITTED, IMAGE_PROGRAMS};
use crate::upstream::network::FLANNEL_IMAGE;

/// The test image's name without its tag, which is busybox' version. The host is the lab's own: nobody serves it.
pub const TEST_IMAGE: &str = "kpot.lab/busybox";

const BUSYBOX: &str = "busybox-static";
/// kube-proxy and flannel call iptables and conntrack: these, and all libraries that they need.
pub const NETFILTER: [&str; 11] = [
    "conntrack",
    "iptables",
    "libc6",
    "libip4tc2",
    "libip6tc2",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
    "libxtables12",
    BUSYBOX,
];
/// Debian's choice among the two kinds of iptables, as on the lab's nodes.
const IPTABLES: &str = "xtables-nft-multi";
const IPTABLES_NAMES: [&str; 6] = [
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
    "iptables",
    "iptables-restore",
    "iptables-save",
];

/// Programs that go into images.
#[derive(Debug)]
pub struct Programs<'a> {
    /// Where the packages [`NETFILTER`] are unpacked.
    pub debian: &'a Path,
    /// What the era's Kubernetes build made.
    pub kubernetes: &'a Path,
    /// etcd and its clients: every program of these folders. Empty where they are in Kubernetes' own.
    pub etcd: &'a [PathBuf],
    /// The folder of `coredns`.
    pub coredns: &'a Path,
    /// The folder of flannel's daemon, `flannel`.
    pub flannel: &'a Path,
    /// The folder of flannel's CNI plugin, `flannel`.
    pub flannel_cni: &'a Path,
}

/// Makes `images.tar` in `out`, with the images' names, one a line, in `names` beside it.
pub fn make(
    workshop: &Workshop,
    era: &Era,
    programs: &Programs<'_>,
    flannel: &str,
    out: &Path,
) -> Result<()> {
    let dir = workshop.fresh_dir(&format!("images-{}", era.kubernetes))?;
    let created = sh::read_text(&programs.kubernetes.join(COMMITTED))?;
    let debian = Unpacked::at(programs.debian);
    let busybox = debian.file("bin/busybox")?;
    let kit = Kit {
        dir: &dir,
        created: created.trim(),
        busybox: &busybox,
    };

    let registry = &era.registry;
    let version = era.kubernetes;
    let base = netfilter_layer(&kit, &debian.root)?;
    let mut images = Vec::new();
    for program in IMAGE_PROGRAMS {
        let path = format!("usr/local/bin/{program}");
        let own = kit.layer(|tree| {
            tree.file(&path, &programs.kubernetes.join(program), 0o755)
                .folder("tmp", 0o1777);
        })?;
        let layers = if program == "kube-proxy" {
            vec![base.clone(), own]
        } else {
            vec![own]
        };
        images.push(kit.image(
            &format!("{registry}/{program}:{version}"),
            &layers,
            &Start::default(),
        )?);
    }
    images.push(kit.image(
        &format!("{registry}/etcd:{}", era.etcd.tag),
        &[etcd_layer(&kit, programs)?],
        &Start::default(),
    )?);
    let pause = kit.layer(|tree| {
        tree.file("pause", &programs.kubernetes.join("pause"), 0o755);
    })?;
    let start = Start {
        entrypoint: &["/pause"],
        command: &[],
    };
    images.push(kit.image(
        &format!("{registry}/pause:{}", era.pause.tag),
        &[pause],
        &start,
    )?);
    let coredns = kit.layer(|tree| {
        tree.file("coredns", &programs.coredns.join("coredns"), 0o755);
    })?;
    let start = Start {
        entrypoint: &["/coredns"],
        command: &[],
    };
    images.push(kit.image(
        &format!("{registry}/{}", era.coredns.image),
        &[coredns],
        &start,
    )?);
    expect_names(era, programs.kubernetes, &images)?;

    // These are of no era: made for several, they must be the same.
    let kit = Kit {
        created: "1970-01-01T00:00:00Z",
        ..kit
    };
    let own = kit.layer(|tree| {
        tree.file("opt/bin/flanneld", &programs.flannel.join("flannel"), 0o755);
        tree.file("flannel", &programs.flannel_cni.join("flannel"), 0o755);
    })?;
    let start = Start {
        entrypoint: &["/opt/bin/flanneld"],
        command: &[],
    };
    images.push(kit.image(&format!("{FLANNEL_IMAGE}:{flannel}"), &[base, own], &start)?);
    let name = format!("{TEST_IMAGE}:{}", debian.upstream_version(BUSYBOX)?);
    images.push(kit.image(
        &name,
        &[busybox_layer(&kit)?],
        &Start {
            entrypoint: &[],
            command: &["sh"],
        },
    )?);

    write_archive(&images, &out.join("images.tar"))?;
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    sh::write_atomic(
        &out.join("names"),
        (names.join("\n") + "\n").as_bytes(),
        0o644,
    )?;
    sh::remove(&dir)
}

/// The lab's names must be those that this kubeadm asks for.
fn expect_names(era: &Era, kubernetes: &Path, images: &[Image]) -> Result<()> {
    let version = era.kubernetes.to_string();
    let listed = Sh::new(kubernetes.join("kubeadm"))
        .args(["config", "images", "list", "--kubernetes-version", &version])
        .output()
        .context("asking kubeadm for the images that it wants")?;
    let mut wanted: Vec<&str> = listed.lines().collect();
    let mut made: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    wanted.sort_unstable();
    made.sort_unstable();
    if wanted != made {
        bail!(
            "kubeadm {version} wants the images {wanted:?}, and vagrant/eras.json makes {made:?}"
        );
    }
    Ok(())
}

struct Kit<'a> {
    dir: &'a Path,
    created: &'a str,
    busybox: &'a PathBuf,
}

impl Kit<'_> {
    fn layer(&self, fill: impl FnOnce(&mut Tree)) -> Result<Layer> {
        let mut tree = Tree::default();
        fill(&mut tree);
        tree.into_layer(self.dir)
    }

    fn image(&self, name: &str, layers: &[Layer], start: &Start<'_>) -> Result<Image> {
        Image::new(name, layers, start, self.created)
    }
}

/// etcd and its clients. From 3.5 on the image that kubeadm takes has no shell and nothing else.
fn etcd_layer(kit: &Kit<'_>, programs: &Programs<'_>) -> Result<Layer> {
    let mut tree = Tree::default();
    let mut add = |program: &str, from: &Path| {
        tree.file(&format!("usr/local/bin/{program}"), from, 0o755);
    };
    for folder in programs.etcd {
        for program in sh::names_in(folder)? {
            add(&program, &folder.join(&program));
        }
    }
    if programs.etcd.is_empty() {
        for program in ["etcd", "etcdctl"] {
            add(program, &programs.kubernetes.join(program));
        }
        // The liveness probe of kubeadm up to 1.16 is a shell's line.
        tree.file("bin/sh", kit.busybox, 0o755)
            .folder("tmp", 0o1777);
    }
    tree.into_layer(kit.dir)
}

/// iptables, conntrack, a shell and `cp`, out of Debian's packages. As small as the base of today's kube-proxy.
fn netfilter_layer(kit: &Kit<'_>, debian: &Path) -> Result<Layer> {
    let mut tree = Tree::default();
    tree.copy_of(debian, &|path| {
        !path.starts_with("usr/share")
            && !path.ends_with("/gconv")
            && !path.starts_with("usr/lib/ifupdown")
    })?;
    for name in IPTABLES_NAMES {
        tree.link(&format!("usr/sbin/{name}"), IPTABLES);
    }
    for applet in ["cat", "cp", "ip", "ls", "sh", "sleep"] {
        tree.link(&format!("bin/{applet}"), "busybox");
    }
    tree.bytes("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644);
    tree.folder("tmp", 0o1777).folder("run", 0o755);
    tree.into_layer(kit.dir)
}

/// A busybox under all its names.
fn busybox_layer(kit: &Kit<'_>) -> Result<Layer> {
    let mut tree = Tree::default();
    tree.file("bin/busybox", kit.busybox, 0o755);
    for applet in Sh::new(kit.busybox)
        .arg("--list")
        .output()?
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        tree.link(&format!("bin/{applet}"), "busybox");
    }
    tree.bytes("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644);
    tree.folder("tmp", 0o1777).folder("root", 0o700);
    tree.into_layer(kit.dir)
}
