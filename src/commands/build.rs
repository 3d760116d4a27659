//! `kpot build`
//!
//! Everything that can be refused is refused before the first byte is fetched: the recipe, the lock, the installer, the plan, the key, the place for the output. Only
//! where `--k8s` names no whole version and no lock holds it, the release server is asked for it before there is a plan; and with `--locked`, every server is asked
//! what it has now.

use std::io::Read;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bundle_spec::manifest::Checked;
use bundle_spec::{Manifest, Sha256, SigningKey};
use serde::Serialize;
use serde_json::Value;

use super::prepare::Desk;
use super::{follow, lossy, print, print_json, summary};
use crate::asked::{self, Asked, Held};
use crate::cache::Cache;
use crate::cache::shelf::Shelf;
use crate::cli::Build;
use crate::exit::usage;
use crate::fetch::{Policy, Stop};
use crate::image_name::ImageName;
use crate::lock::{Lock, Target};
use crate::order::{Order, Style};
use crate::pack::output;
use crate::pack::spool::Spool;
use crate::pack::{Depth, Voucher, Workshop, gather, memory};
use crate::plan::{ArtifactName, Check, Plan};
use crate::progress::Progress;
use crate::releases::Algorithm;
use crate::{interrupt, keys};

/// A plan is for a person who waits: a server that does not answer is asked once more and no longer.
const PLANNING: Policy = Policy {
    stall: Duration::from_secs(15),
    retries: 1,
    patience: Duration::from_secs(5),
    ..Policy::DEFAULT
};

#[derive(Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "lossy")]
    pot: &'a Path,
    size: u64,
    identity: Sha256,
    signer: Option<&'a str>,
    /// What the downloaded kubeadm says of the images.
    kubeadm: &'a Asked,
    manifest: &'a Manifest,
    parts: &'a [summary::Part],
}

pub(super) fn run(command: Build) -> anyhow::Result<()> {
    let stop = Stop::default();
    let work = stop.clone();
    interrupt::watched(&stop, move || build(command, work))
}

fn build(command: Build, stop: Stop) -> anyhow::Result<()> {
    let order = Order::read(command.wish)?;
    if command.output.is_some() && order.arches.len() > 1 {
        return Err(usage(
            "several architectures make several pots, and --output names one file",
        ));
    }
    let lock = if command.follow.no_lock {
        None
    } else {
        Lock::read(&order.lock).map_err(usage)?
    };
    if command.follow.locked && lock.is_none() {
        return Err(usage(format!(
            "there is no lock to hold to: {} (kpot lock writes it)",
            order.lock.display()
        )));
    }
    let policy = if command.plan {
        PLANNING
    } else {
        Policy::DEFAULT
    };
    // Before anybody is asked for anything.
    if let Some(output) = &command.output {
        output::folder(output)?;
    }
    let desk = Desk::new(order, policy, &command.network, stop)?;
    let signer = if command.unsigned || command.plan {
        None
    } else {
        Some(signing_key(command.sign_key, &desk.progress)?)
    };
    let (cache, shelf) = if command.plan {
        (None, Desk::shelf(command.keeping)?)
    } else {
        (desk.cache(command.keeping)?, Shelf::default())
    };
    let planned = match &lock {
        Some(lock) => follow::plans(&desk, lock, command.follow.locked)?,
        None => desk.plans(None)?,
    };
    let style = desk.order.style(lock.as_ref());
    let voucher = if command.follow.locked {
        Voucher::Publisher
    } else {
        Voucher::Lock
    };
    let mut reports = Vec::new();
    for (plan, target) in &planned.plans {
        if command.plan {
            let resolved = planned.resolved.as_ref();
            reports.extend(super::plan::run(
                plan,
                voucher.lock(target.as_ref()),
                resolved,
                &desk,
                &shelf,
                command.json,
            )?);
            continue;
        }
        let jobs = threads(&desk, style, command.jobs)?;
        let output = command
            .output
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("{}.pot", plan.name())));
        let making = Making {
            plan,
            lock: target.as_ref(),
            voucher,
            cache: cache.as_ref(),
            output: &output,
            jobs,
            style,
            serial: command.serial.or(desk.order.serial).unwrap_or(1),
            signer: signer.as_ref(),
            json: command.json,
        };
        reports.extend(making.make(&desk)?);
    }
    match reports.as_slice() {
        [] => Ok(()),
        [report] => print_json(report),
        // Several architectures are one document, too.
        reports => print_json(&reports),
    }
}

/// How many cores to compress on.
fn threads(desk: &Desk, style: Style, asked: Option<NonZeroUsize>) -> anyhow::Result<usize> {
    let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let jobs = style
        .effort
        .threads(asked, cores, memory::available())
        .map_err(anyhow::Error::msg)?;
    if asked.is_some_and(|asked| asked.get() > jobs) {
        desk.progress.line(&format!(
            "compressing on {jobs} cores: there is no memory for more"
        ));
    }
    Ok(jobs)
}

/// One pot that is to be made.
struct Making<'a> {
    plan: &'a Plan,
    lock: Option<&'a Target>,
    voucher: Voucher,
    cache: Option<&'a Cache>,
    output: &'a Path,
    jobs: usize,
    style: Style,
    serial: u64,
    signer: Option<&'a SigningKey>,
    json: bool,
}

impl Making<'_> {
    /// Makes it; gives the report, where that is to be JSON.
    fn make(&self, desk: &Desk) -> anyhow::Result<Option<Value>> {
        let Self { plan, output, .. } = self;
        let progress = &desk.progress;
        let installer = super::prepare::installer(plan.arch)?;
        let spool = Spool::new(&output::folder(output)?);
        announce(plan, self.voucher.lock(self.lock), progress);
        let contents = gather(&Workshop {
            plan,
            depth: Depth::Pot,
            lock: self.lock,
            voucher: self.voucher,
            client: &desk.client,
            cache: self.cache,
            stop: &desk.stop,
            spool: &spool,
            progress,
            jobs: self.jobs,
            effort: self.style.effort,
            layers: self.style.layers,
        })
        .with_context(|| format!("no pot was made of {}", plan.name()))?;
        let manifest = contents.manifest(plan, self.serial)?;
        let kubeadm = contents.program(ArtifactName::Kubeadm, &spool)?;
        let parts = output::Parts {
            installer,
            manifest: &manifest,
            signer: self.signer,
        };
        let (written, asked) = thread::scope(|scope| {
            let asking = scope.spawn(|| ask(plan, desk.order.images(), kubeadm));
            // A pot without an image that its kubeadm wants is of no use where there is no registry: it gets no name.
            let agreed = || {
                let asked = asking
                    .join()
                    .unwrap_or_else(|panicked| resume_unwind(panicked));
                for line in asked.lines(plan.kubernetes, plan.arch) {
                    progress.line(&line);
                }
                let held = self.lock.map_or(Held::ByNothing, |_| Held::ByLock);
                match asked.refusal(plan.kubernetes, plan.arch, held) {
                    Some(refusal) => bail!("{refusal}"),
                    None => Ok(asked),
                }
            };
            output::write(output, &parts, &spool, (&desk.stop, progress), agreed)
        })?;
        progress.line(&format!("wrote {}", output.display()));

        let parts = summary::parts(&contents);
        let fingerprint = self.signer.map(SigningKey::fingerprint);
        if self.json {
            let report = Report {
                pot: output,
                size: written.size,
                identity: written.identity,
                signer: fingerprint.as_deref(),
                kubeadm: &asked,
                manifest: &manifest,
                parts: &parts,
            };
            return Ok(Some(serde_json::to_value(&report)?));
        }
        print(&summary::text(
            output,
            &parts,
            &manifest,
            &written,
            &asked.lines(plan.kubernetes, plan.arch).join("\n"),
            fingerprint.as_deref(),
        ))?;
        Ok(None)
    }
}

/// Asks the kubeadm that was packed which images it wants.
fn ask(plan: &Plan, extra: &[ImageName], kubeadm: Option<Box<dyn Read + Send>>) -> Asked {
    match kubeadm {
        Some(mut program) => asked::ask(plan, extra, &mut program),
        None => Asked::None {
            why: "it is not packed as a program of its own".to_owned(),
        },
    }
}

/// The key that signs: the given one, or the one that `kpot keygen` made.
pub(super) fn signing_key(
    given: Option<PathBuf>,
    progress: &Progress,
) -> anyhow::Result<SigningKey> {
    if let Some(path) = given {
        return keys::load(&path, progress);
    }
    let path = keys::default_path()?;
    if path.symlink_metadata().is_err() {
        return Err(usage(format!(
            "a pot is always signed, and there is no key in {}. Make one first: kpot keygen",
            path.display()
        )));
    }
    keys::load(&path, progress)
}

fn announce(plan: &Plan, vouching: Option<&Target>, progress: &Progress) {
    let files = match plan.files.len() {
        0 => String::new(),
        count => format!(", {count} to carry besides"),
    };
    progress.line(&format!(
        "{}: {} downloads and {} images{files}",
        plan.name(),
        plan.downloads.len(),
        plan.images.len()
    ));
    for download in &plan.downloads {
        let check = match &download.check {
            Check::Published { .. }
                if vouching
                    .and_then(|lock| lock.stands_for(download))
                    .is_some() =>
            {
                "digest in the lock"
            }
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
    for file in &plan.files {
        progress.line(&format!("  {}, {}", file.name, file.place()));
    }
    for image in &plan.images {
        progress.line(&format!("  {image}"));
    }
    for warning in &plan.warnings {
        progress.line(&format!("warning: {warning}"));
    }
}

/// How a download is checked, in a table's words; `by_lock` where a lock stands for its publisher.
pub(super) const fn how(checked: Checked, by_lock: bool) -> &'static str {
    match checked {
        Checked::PublishedSha256 | Checked::PublishedSha512 if by_lock => "the lock",
        Checked::PublishedSha256 => "published SHA-256",
        Checked::PublishedSha512 => "published SHA-512",
        Checked::ShippedPin => "kpot's own pin",
        Checked::GivenPin => "--pin",
    }
}
