//! `kpot build`
//!
//! Everything that can be refused is refused before the first byte is fetched: the installer, the plan, the key, the place for the output. Only where `--k8s` names no
//! whole version, the release server is asked for it before there is a plan.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use bundle_spec::manifest::Checked;
use bundle_spec::{KubeVersion, Manifest, Sha256, SigningKey};
use serde::Serialize;

use super::{print, print_json};
use crate::asked::{self, Asked};
use crate::cli::Build;
use crate::exit::usage;
use crate::fetch::marker::Resolved;
use crate::fetch::{Client, Policy, Stop};
use crate::image_name::ImageName;
use crate::mirrors::Mirrors;
use crate::pack::output::{self, Written};
use crate::pack::spool::Spool;
use crate::pack::{Contents, Layers, Workshop, gather, memory};
use crate::plan::{ArtifactName, Check, Plan, Request, plan};
use crate::progress::{Progress, bytes};
use crate::releases::{Algorithm, Releases};
use crate::wanted::Wanted;
use crate::{installers, keys, table};

/// A plan is for a person who waits: a server that does not answer is asked once more and no longer.
const PLANNING: Policy = Policy {
    stall: Duration::from_secs(15),
    retries: 1,
    patience: Duration::from_secs(5),
    ..Policy::DEFAULT
};

#[derive(Serialize)]
struct Report<'a> {
    pot: &'a Path,
    size: u64,
    identity: Sha256,
    signer: Option<&'a str>,
    /// What the downloaded kubeadm says of the images.
    kubeadm: &'a Asked,
    manifest: &'a Manifest,
}

pub(super) fn run(command: Build) -> anyhow::Result<()> {
    let installer = installers::for_arch(command.arch).ok_or_else(|| {
        usage(format!(
            "this kpot carries no installer for {arch}: the machine that it was built on had no compiler for it. Build kpot again after: {}",
            installers::advice(command.arch),
            arch = command.arch
        ))
    })?;
    let mirrors = Mirrors::new(&command.mirrors).map_err(usage)?;
    let releases = Releases::shipped().map_err(anyhow::Error::msg)?;
    command.kubernetes.check(&releases).map_err(usage)?;
    let signer = if command.unsigned || command.plan {
        None
    } else {
        Some(signing_key(command.sign_key)?)
    };
    let progress = Progress::new();
    let stop = Stop::default();
    let policy = if command.plan {
        PLANNING
    } else {
        Policy::DEFAULT
    };
    let client = Client::with(command.network.network(mirrors, policy)?, stop.clone())?;
    let (kubernetes, resolved) = resolve(command.kubernetes, &client, &progress)?;
    let request = Request {
        kubernetes,
        arch: command.arch,
        images: command.images,
        pins: command.pins,
        docker_version: command.docker_version,
        cni_version: command.cni_version,
    };
    let plan = plan(&request, &releases).map_err(usage)?;
    if command.plan {
        return super::plan::run(
            &plan,
            resolved.as_ref(),
            &client,
            &stop,
            &progress,
            command.json,
        );
    }
    let output = command
        .output
        .unwrap_or_else(|| PathBuf::from(format!("{}.pot", plan.name())));
    let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let jobs = command
        .compression
        .threads(command.jobs, cores, memory::available())
        .map_err(anyhow::Error::msg)?;
    if command.jobs.is_some_and(|asked| asked.get() > jobs) {
        progress.line(&format!(
            "compressing on {jobs} cores: there is no memory for more"
        ));
    }
    let spool = Spool::new(&output::folder(&output)?);
    announce(&plan, &progress);

    let contents = gather(&Workshop {
        plan: &plan,
        client: &client,
        stop: &stop,
        spool: &spool,
        progress: &progress,
        jobs,
        effort: command.compression,
        layers: if command.verbatim {
            Layers::Verbatim
        } else {
            Layers::Repacked
        },
    })
    .with_context(|| format!("no pot was made of {}", plan.name()))?;
    let asked = ask(&plan, &request.images, &contents, &spool)?;
    for line in asked.lines(plan.kubernetes, plan.arch) {
        progress.line(&line);
    }
    let manifest = contents.manifest(&plan, command.serial)?;
    let written = output::write(&output, installer, &manifest, &spool, signer.as_ref())?;
    progress.line(&format!("wrote {}", output.display()));

    let fingerprint = signer.as_ref().map(SigningKey::fingerprint);
    if command.json {
        return print_json(&Report {
            pot: &output,
            size: written.size,
            identity: written.identity,
            signer: fingerprint.as_deref(),
            kubeadm: &asked,
            manifest: &manifest,
        });
    }
    print(&summary(
        &output,
        &contents,
        &manifest,
        &written,
        &asked.lines(plan.kubernetes, plan.arch).join("\n"),
        fingerprint.as_deref(),
    ))
}

/// Asks the kubeadm that was packed which images it wants.
fn ask(
    plan: &Plan,
    extra: &[ImageName],
    contents: &Contents,
    spool: &Spool,
) -> anyhow::Result<Asked> {
    Ok(match contents.program(ArtifactName::Kubeadm, spool)? {
        Some(mut program) => asked::ask(plan, extra, &mut program),
        None => Asked::None {
            why: "it is not packed as a program of its own".to_owned(),
        },
    })
}

/// The version that is wanted, and what the release server said where it was asked for it.
fn resolve(
    wanted: Wanted,
    client: &Client,
    progress: &Progress,
) -> anyhow::Result<(KubeVersion, Option<Resolved>)> {
    let marker = match wanted {
        Wanted::Exact(version) => return Ok((version, None)),
        Wanted::Newest(marker) => marker,
    };
    let task = progress.task(&marker.to_string(), None);
    let resolved = marker.resolve(client, &task).with_context(|| {
        format!("cannot find out which version {marker} is; a whole one, such as v1.14.0, need not be asked for")
    })?;
    progress.line(&format!(
        "{marker} is {}, as {} says",
        resolved.version, resolved.from
    ));
    Ok((resolved.version, Some(resolved)))
}

/// The key that signs: the given one, or the one that `kpot keygen` made.
pub(super) fn signing_key(given: Option<PathBuf>) -> anyhow::Result<SigningKey> {
    if let Some(path) = given {
        return keys::load(&path);
    }
    let path = keys::default_path()?;
    if path.symlink_metadata().is_err() {
        return Err(usage(format!(
            "a pot is always signed, and there is no key in {}. Make one first: kpot keygen",
            path.display()
        )));
    }
    keys::load(&path)
}

fn announce(plan: &Plan, progress: &Progress) {
    progress.line(&format!(
        "{}: {} downloads and {} images",
        plan.name(),
        plan.downloads.len(),
        plan.images.len()
    ));
    for download in &plan.downloads {
        let check = match &download.check {
            Check::Published {
                algorithm: Algorithm::Sha256,
                ..
            } => "published SHA-256",
            Check::Published {
                algorithm: Algorithm::Sha512,
                ..
            } => "published SHA-512",
            Check::Shipped(_) => "digest shipped with kpot",
            Check::Given(_) => "digest given with --pin",
        };
        progress.line(&format!(
            "  {} {}, by its {check}",
            download.name, download.version
        ));
    }
    for image in &plan.images {
        progress.line(&format!("  {image}"));
    }
    for warning in &plan.warnings {
        progress.line(&format!("warning: {warning}"));
    }
}

fn summary(
    output: &Path,
    contents: &Contents,
    manifest: &Manifest,
    written: &Written,
    asked: &str,
    signer: Option<&str>,
) -> String {
    let mut rows = Vec::new();
    for download in &contents.downloads {
        rows.push(vec![
            download.name.text().to_owned(),
            download.version.clone(),
            bytes(download.size),
            download.from.host_str().unwrap_or_default().to_owned(),
            how(download.checked).to_owned(),
        ]);
    }
    for image in &contents.images {
        rows.push(vec![
            image.name.familiar(),
            image.id.hex()[..12].to_owned(),
            bytes(image.layers.iter().map(|layer| layer.size).sum()),
            image.from.host_str().unwrap_or_default().to_owned(),
            "digests of the manifest".to_owned(),
        ]);
    }
    let table = table::layout(&["WHAT", "VERSION", "SIZE", "FROM", "CHECKED BY"], &rows);
    let trust = match signer {
        Some(fingerprint) => format!(
            "signed by {fingerprint}\n\
             Next, on the backup machine, in a folder of its own: tar -xf {}, then ./kpot-install preflight",
            output.file_name().unwrap_or_default().display()
        ),
        None => "NOT SIGNED: it can be inspected, and never installed".to_owned(),
    };
    format!(
        "{table}\n{asked}\n{}: {}, {} blobs, pot digest {}\n{trust}\n",
        output.display(),
        bytes(written.size),
        manifest.blobs.len(),
        written.identity
    )
}

/// How a download is checked, in a table's words.
pub(super) const fn how(checked: Checked) -> &'static str {
    match checked {
        Checked::PublishedSha256 => "published SHA-256",
        Checked::PublishedSha512 => "published SHA-512",
        Checked::ShippedPin => "kpot's own pin",
        Checked::GivenPin => "--pin",
    }
}
