//! `cargo lab upstream …`: builds and serves upstream by itself, for people who try kpot by hand.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::{Upstream, ensure, serve, stop_all};
use crate::eras::{Eras, Version};
use crate::sh::say;

/// What to do with upstream.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build what the cache has not got, and show where it is
    Build {
        /// The Kubernetes version; all that this host can run if none is given
        #[arg(long)]
        k8s: Option<Version>,
        /// The container runtime, as `containerd`; the first of the version if none is given
        #[arg(long, requires = "k8s")]
        runtime: Option<String>,
    },
    /// Build, then serve it on loopback until `cargo lab upstream stop`
    Serve {
        /// The Kubernetes version; all that this host can run if none is given
        #[arg(long)]
        k8s: Option<Version>,
        /// The container runtime, as `containerd`; the first of the version if none is given
        #[arg(long, requires = "k8s")]
        runtime: Option<String>,
    },
    /// Stop the servers
    Stop,
}

/// Runs one of the commands. Results on standard output: what to pass to `kpot build`.
pub fn cli(cache: &Path, command: &Command) -> Result<()> {
    match command {
        Command::Build { k8s, runtime } => {
            for upstream in built(cache, *k8s, runtime.as_deref())? {
                show(&upstream)?;
            }
        }
        Command::Serve { k8s, runtime } => {
            let upstreams = built(cache, *k8s, runtime.as_deref())?;
            let mirror = serve(cache, &upstreams.iter().collect::<Vec<_>>())?;
            for upstream in &upstreams {
                show(upstream)?;
            }
            println!("{}", mirror.kpot_arguments().join(" "));
            mirror.leave_running();
            say("serving until `cargo lab upstream stop`");
        }
        Command::Stop => stop_all(cache)?,
    }
    Ok(())
}

fn built(cache: &Path, only: Option<Version>, runtime: Option<&str>) -> Result<Vec<Upstream>> {
    let eras = Eras::load()?;
    match only {
        Some(version) => Ok(vec![ensure(cache, eras.find(version)?, runtime)?]),
        None => eras
            .all()
            .iter()
            .filter(|era| era.runs_here())
            .map(|era| ensure(cache, era, None))
            .collect(),
    }
}

fn show(upstream: &Upstream) -> Result<()> {
    let images = upstream
        .extra_images()
        .context("reading the names of the images")?;
    println!("Kubernetes {}", upstream.version);
    println!("  programs  {}", upstream.bin.display());
    println!("  images    {}", upstream.images_archive.display());
    println!("  runtime   {}", upstream.runtime_name);
    println!(
        "  kpot build --k8s {} {} --cni-version {} --image {} --image {}",
        upstream.version,
        upstream.runtime.kpot_arguments()?.join(" "),
        upstream.cni_version,
        images[0],
        images[1]
    );
    Ok(())
}
