//! The command line, parsed into types at the edge.

pub mod network;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use bundle_spec::Arch;
use bundle_spec::manifest::RuntimeName;
use clap::{Args, Parser, Subcommand};

use crate::image_name::ImageName;
use crate::limits::{Age, Amount};
use crate::mirrors::Mirror;
use crate::pack::effort::Effort;
use crate::plan::{Pin, Version};
use crate::wanted::Wanted;

/// Make pots: signed offline archives that bring a dead Kubernetes master back.
#[derive(Debug, Parser)]
#[command(name = "kpot", max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Download, check and pack everything that a master of one Kubernetes version needs
    Build(Box<Build>),
    /// Write a commented recipe, kpot.yaml
    Init(Init),
    /// Print the JSON schema of recipes, for editors
    Schema,
    /// Pin everything that a pot is made of by digest and size, in kpot.lock; packs nothing
    Lock(Box<Lock>),
    /// Make the key that pots are signed with
    Keygen(Keygen),
    /// Check a pot's signature and every byte of it
    Verify(Verify),
    /// Show what is in a pot, without checking it
    Inspect(Inspect),
    /// Show what one pot brings that another has not, without checking them
    Diff(Diff),
    /// Check a pot, and write programs and images out of it
    Extract(Extract),
    /// Check a pot, and put another key's signature in the place of its own
    Sign(Sign),
    /// Show the version of this kpot and of the installers inside it
    Version(ShowVersion),
    /// Show what belongs to each Kubernetes version, and from where kpot knows
    Versions(ShowVersions),
    /// Print the completions of the command line for a shell
    Completions(Completions),
    /// Write the manual pages
    Man(Man),
    /// Show, prune and check what builds have fetched and kept
    #[command(subcommand)]
    Cache(Cache),
}

/// `kpot cache`
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Cache {
    /// Show what is in the cache, what was used longest ago first
    List(CacheList),
    /// Remove what was not used for long, or so much that the rest fits into a size
    Prune(CachePrune),
    /// Hash everything in the cache
    Verify(CacheVerify),
}

/// `kpot cache list`
#[derive(Debug, Args)]
pub struct CacheList {
    /// The folder of the cache [default: kpot in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `kpot cache prune`
#[derive(Debug, Args)]
#[command(after_help = "\
Partial downloads count like everything else. What a running build uses is never removed, and neither is what kpot did not put there.
Exit codes: 0 done, 1 failed, 2 usage.")]
pub struct CachePrune {
    /// Remove what no build has used for this time: 12h, 30d, 2w [default: 30d, if nothing else is
    /// said]
    #[arg(long, value_name = "TIME")]
    pub older_than: Option<Age>,
    /// Remove what was used longest ago, until the rest has no more than this: 500MB, 2GB, 0
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<Amount>,
    /// The folder of the cache [default: kpot in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `kpot cache verify`
#[derive(Debug, Args)]
#[command(after_help = "\
No build trusts the cache: one that needs something damaged throws it away and fetches it anew. Partial downloads are checked when they are complete, and not here.
Exit codes: 0 all is good, or what is damaged was removed, 1 something is damaged, or failed, 2 usage.")]
pub struct CacheVerify {
    /// Remove what is damaged
    #[arg(long)]
    pub remove: bool,
    /// The folder of the cache [default: kpot in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `kpot build`
#[derive(Debug, Args)]
#[command(after_help = "\
A kpot.lock beside the recipe (in this folder where there is no recipe) is followed: what it pins is all that gets into the pot. See kpot lock.
Exit codes: 0 done, 1 failed, 2 usage, 130 after Ctrl-C, 143 after SIGTERM. A build that fails or is stopped leaves the output file as it was, and what it fetched in the cache; the same command goes on from there.")]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line, and none depends on another"
)]
pub struct Build {
    /// What the pot is made of
    #[command(flatten)]
    pub wish: Wish,
    /// What becomes of a lock
    #[command(flatten)]
    pub follow: Follow,
    /// How the network is reached.
    #[command(flatten)]
    pub network: network::Flags,
    /// The key that signs the pot, instead of the one that `kpot keygen` made: a file with an Ed25519 private
    /// key, or with a public key (X.pub) whose private half an SSH agent or a FIDO token holds
    #[arg(long, value_name = "KEY", conflicts_with = "unsigned")]
    pub sign_key: Option<PathBuf>,
    /// Do not sign: such a pot can be inspected, and never installed
    #[arg(long)]
    pub unsigned: bool,
    /// A pot of the same name with a larger serial replaces this one [default: 1]
    #[arg(long, value_name = "N")]
    pub serial: Option<u64>,
    /// How many cores to compress on, as far as the memory allows: kpot keeps within 128 MiB, at
    /// --compression max within 768 MiB. The pot is the same with any number [default: all]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// The file to write [default: kpot-VERSION-ARCH.pot, or kpot-VERSION-RUNTIME-ARCH.pot with another
    /// runtime than the version's default]; of a build for one architecture
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What is kept for the next build, and where
    #[command(flatten)]
    pub keeping: Keeping,
    /// Show what would be fetched, from where, how it is checked and how large it is, and what is in
    /// the cache already; write nothing. No key is needed. Asked for are only: the version, where --k8s does not name it
    /// whole; the size of each download (HEAD); the manifest of each image, with its index, and a
    /// token where its registry wants one. A size that a server does not tell is unknown
    #[arg(long)]
    pub plan: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Where what is fetched is kept for the next build.
#[derive(Debug, Args)]
pub struct Keeping {
    /// The folder in which what is fetched is kept for the next build, which hashes it anew
    /// [default: kpot in the user's cache folder]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub cache: Option<PathBuf>,
    /// Look into no cache, and keep nothing
    #[arg(long)]
    pub no_cache: bool,
}

/// How closely a build follows the lock.
#[derive(Clone, Copy, Debug, Args)]
pub struct Follow {
    /// Hold to kpot.lock strictly: there must be one, and any difference is refused, in what is asked for, in what the
    /// servers have now, and in this kpot itself
    #[arg(long, conflicts_with = "no_lock")]
    pub locked: bool,
    /// Leave kpot.lock alone, and take what the servers have now
    #[arg(long)]
    pub no_lock: bool,
}

/// What a pot is made of, for every command that plans one.
#[derive(Debug, Default, Args)]
pub struct Wish {
    /// The recipe: a file with what the flags below say, and more (kpot init writes one). A flag wins over it, and a
    /// list of flags is added to its list [default: ./kpot.yaml, where there is one]
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// The Kubernetes version: v1.14.0, or 1.14 (or stable-1.14) for its latest patch, or stable
    /// for the latest of all, as the release server tells
    #[arg(long = "k8s", value_name = "VERSION")]
    pub kubernetes: Option<Wanted>,
    /// The architecture of the machine that the pot is for [default: amd64]; may be repeated, for a pot each
    #[arg(long = "arch", value_name = "ARCH")]
    pub arches: Vec<Arch>,
    /// An image that the cluster needs besides its control plane, its pod network's for example; may be repeated
    #[arg(long = "image", value_name = "REF")]
    pub images: Vec<ImageName>,
    /// Fetch everything on HOST from URL instead: downloads and images alike; may be repeated
    #[arg(long = "mirror", value_name = "HOST=URL")]
    pub mirrors: Vec<Mirror>,
    /// The digest that a download must have, before any published one; NAME/ARCH (docker/arm64) is for that architecture
    /// alone; may be repeated
    #[arg(long = "pin", value_name = "NAME[/ARCH]=sha256:HEX")]
    pub pins: Vec<Pin>,
    /// The container runtime: docker up to Kubernetes 1.23, containerd from 1.14 on [default: docker
    /// as far as it goes, then containerd]
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<RuntimeName>,
    /// Docker's version, instead of the default for this Kubernetes; of a pot with Docker
    #[arg(long, value_name = "VERSION")]
    pub docker_version: Option<Version>,
    /// containerd's version, such as 1.7.30, instead of the default for this Kubernetes; of a pot
    /// with containerd
    #[arg(long, value_name = "VERSION")]
    pub containerd_version: Option<Version>,
    /// runc's version, such as 1.3.4, instead of the default; of a pot with containerd
    #[arg(long, value_name = "VERSION")]
    pub runc_version: Option<Version>,
    /// crictl's version, such as v1.30.0, instead of the default; of a pot with containerd
    #[arg(long, value_name = "VERSION")]
    pub crictl_version: Option<Version>,
    /// The CNI plugins' version, instead of the default for this Kubernetes
    #[arg(long, value_name = "VERSION")]
    pub cni_version: Option<Version>,
    /// How hard to compress: fast, balanced, or max, which takes minutes, and up to 160 MiB of memory
    /// instead of 64 MiB where the pot is installed [default: what the lock says, or balanced, or fast
    /// with --verbatim]
    #[arg(long, value_name = "EFFORT", hide_possible_values = true)]
    pub compression: Option<Effort>,
    /// Keep the layers of images as their registry has them, and the manifests that name them, so
    /// that they can be pushed again with the same digests
    #[arg(long)]
    pub verbatim: bool,
}

/// `kpot lock`
#[derive(Debug, Args)]
#[command(after_help = "\
The lock is kpot.lock beside kpot.yaml (NAME.lock beside NAME.yaml). What it pins stays pinned; what it lacks is fetched, checked and added; what nobody asks for any more is left out. \
kpot build follows a lock that is there.
Exit codes: 0 done, 1 failed, 2 usage. A failure leaves the lock as it was.")]
pub struct Lock {
    /// What the pot is made of
    #[command(flatten)]
    pub wish: Wish,
    /// Pin NAME anew, and nothing else: an artifact (kubeadm, file.notes.txt), an image with its tag, or `kubernetes`
    /// for the version that --k8s stands for today, with all that belongs to it; may be repeated
    #[arg(long = "update", value_name = "NAME")]
    pub updates: Vec<String>,
    /// What is kept for the build that follows, and where
    #[command(flatten)]
    pub keeping: Keeping,
    /// How the network is reached.
    #[command(flatten)]
    pub network: network::Flags,
}

/// `kpot init`
#[derive(Debug, Args)]
pub struct Init {
    /// The file to write
    #[arg(value_name = "FILE", default_value = "kpot.yaml")]
    pub file: PathBuf,
    /// Replace a file that is there already
    #[arg(long)]
    pub force: bool,
}

/// `kpot keygen`
#[derive(Debug, Args)]
pub struct Keygen {
    /// The file for the private key; the public key goes to FILE.pub [default:
    /// `kpot/signing_key` in the user's configuration folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `kpot verify`
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the pot is good, 1 failed, 2 usage, 4 the pot is not trusted."
)]
pub struct Verify {
    /// A .pot file, or the folder that one was unpacked to
    #[arg(value_name = "POT")]
    pub pot: PathBuf,
    /// Who is trusted: a file in the format of OpenSSH's allowed signers
    #[arg(long, value_name = "FILE")]
    pub signers: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `kpot inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// A .pot file, or the folder that one was unpacked to
    #[arg(value_name = "POT")]
    pub pot: PathBuf,
    /// Show every blob below what it is a part of, and what else it is a part of
    #[arg(long, conflicts_with = "json")]
    pub tree: bool,
    /// Print the manifest, the signer, and which blobs are shared, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `kpot diff`
#[derive(Debug, Args)]
#[command(after_help = "\
Blobs are compared by their stored bytes. An item's new bytes are those of the blobs that A lacks; a blob of two items counts in both, and in the sums below the table once.
Exit codes: 0 done, whether they differ or not, 1 failed, 2 usage, 4 one of them is no good pot.")]
pub struct Diff {
    /// The older pot: a .pot file, or the folder that one was unpacked to
    #[arg(value_name = "A")]
    pub older: PathBuf,
    /// The newer pot
    #[arg(value_name = "B")]
    pub newer: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `kpot extract`
#[derive(Debug, Args)]
#[command(after_help = "\
A program becomes DIR/kubelet or DIR/docker/dockerd, an image DIR/images/k8s.gcr.io_pause_3.2.tar, which `docker load -i` reads, a file that is carried besides DIR/files/NAME. Each file is written whole or not at all.
Exit codes: 0 done, 1 failed, 2 usage, 4 the pot is not trusted.")]
pub struct Extract {
    /// A .pot file, or the folder that one was unpacked to
    #[arg(value_name = "POT")]
    pub pot: PathBuf,
    /// What to write: kubelet, docker, docker/dockerd, k8s.gcr.io/pause:3.2 [default: everything]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Who is trusted: a file in the format of OpenSSH's allowed signers
    #[arg(long, value_name = "FILE")]
    pub signers: PathBuf,
    /// The folder to write to; it is made where it is missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub to: PathBuf,
    /// Replace files that are there already
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `kpot sign`
#[derive(Debug, Args)]
#[command(after_help = "\
Nobody signs what was not checked: the pot must be signed by somebody in FILE. Every byte but the signature stays as it is, and so does the pot's digest.
Exit codes: 0 done, 1 failed, 2 usage, 4 the pot is not trusted. A failure leaves the output file as it was.")]
pub struct Sign {
    /// A .pot file
    #[arg(value_name = "POT")]
    pub pot: PathBuf,
    /// Who is trusted to have signed it: a file in the format of OpenSSH's allowed signers
    #[arg(long, value_name = "FILE")]
    pub signers: PathBuf,
    /// The key that signs the pot, instead of the one that `kpot keygen` made: a file with an Ed25519 private
    /// key, or with a public key (X.pub) whose private half an SSH agent or a FIDO token holds
    #[arg(long, value_name = "KEY")]
    pub sign_key: Option<PathBuf>,
    /// The file to write [default: POT itself]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `kpot completions`
#[derive(Debug, Args)]
#[command(after_help = "For example: kpot completions bash > /etc/bash_completion.d/kpot")]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `kpot man`
#[derive(Debug, Args)]
#[command(after_help = "For example: kpot man /usr/local/share/man/man1, and then: man kpot-build")]
pub struct Man {
    /// The folder to write to; it is made where it is missing. Pages that are there already are replaced
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// `kpot version`
#[derive(Debug, Args)]
pub struct ShowVersion {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `kpot versions`
#[derive(Debug, Args)]
pub struct ShowVersions {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}
