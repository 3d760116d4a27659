//! `kpot lock`
//!
//! Downloads and files are fetched and hashed, because what is pinned is what was seen and checked; of images, the manifest and the config are enough, which pin
//! their layers by digest. Nothing is packed; what was fetched stays in the cache for the build that follows.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::prepare::{Desk, Planned};
use super::print;
use crate::cache::Cache;
use crate::cli;
use crate::exit::usage;
use crate::fetch::{Policy, Stop};
use crate::image_name::ImageName;
use crate::interrupt;
use crate::lock::{Artifact, Image, Installer, Kubernetes, Lock, Target, Unpinned};
use crate::order::Order;
use crate::pack::output::{self, Existing};
use crate::pack::spool::Spool;
use crate::pack::{Depth, Voucher, Workshop, gather};
use crate::plan::Plan;

/// The name in `--update` for the version that is meant, and all that belongs to it.
const KUBERNETES: &str = "kubernetes";

pub(super) fn run(command: cli::Lock) -> anyhow::Result<()> {
    let stop = Stop::default();
    let work = stop.clone();
    interrupt::watched(&stop, move || lock(command, work))
}

fn lock(command: cli::Lock, stop: Stop) -> anyhow::Result<()> {
    let order = Order::read(command.wish)?;
    let before = Lock::read(&order.lock).map_err(usage)?;
    if before.is_none() && !command.updates.is_empty() {
        return Err(usage(format!(
            "there is nothing to update: {} is not there (kpot lock writes it)",
            order.lock.display()
        )));
    }
    let folder = output::folder(&order.lock)?;
    let desk = Desk::new(order, Policy::DEFAULT, &command.network, stop)?;
    let cache = desk.cache(command.keeping)?;
    let pinning = Pinning {
        desk: &desk,
        cache: cache.as_ref(),
        folder: &folder,
    };
    let wanted = desk.order.kubernetes.to_string();
    let whole = command.updates.iter().all(|name| name == KUBERNETES);
    let meant = command.updates.is_empty();
    let known = before
        .as_ref()
        .filter(|lock| lock.stands_for(&wanted) && (meant || !whole));
    let lock = if whole {
        let planned = desk.plans(known.map(|lock| lock.kubernetes.version))?;
        afresh(&pinning, before.as_ref(), &planned)?
    } else {
        let Some(lock) = known else {
            return Err(usage(format!(
                "{} is of another version than {wanted}: pin all that belongs to it with kpot lock",
                desk.order.lock.display()
            )));
        };
        let planned = desk.plans(Some(lock.kubernetes.version))?;
        updated(&pinning, lock, &planned, &command.updates)?
    };
    let path = &desk.order.lock;
    let text = lock.encode()?;
    if before.as_ref() == Some(&lock) {
        return print(&format!("{} is as it was\n", path.display()));
    }
    output::put(path, 0o644, Existing::Replaced, 0, |out| {
        Ok(out.write_all(text.as_bytes())?)
    })?;
    print(&format!(
        "{}wrote {}\n",
        changes(before.as_ref(), &lock),
        path.display()
    ))
}

/// What it takes to pin something.
struct Pinning<'a> {
    desk: &'a Desk,
    cache: Option<&'a Cache>,
    /// Where contents are put that are only looked at.
    folder: &'a Path,
}

/// A lock of what is asked for, in which stays what was pinned of the same.
fn afresh(pinning: &Pinning<'_>, before: Option<&Lock>, planned: &Planned) -> anyhow::Result<Lock> {
    let kubernetes = Kubernetes {
        wanted: pinning.desk.order.kubernetes.to_string(),
        version: planned.kubernetes,
    };
    let mut lock = Lock::new(kubernetes, pinning.desk.order.style(before));
    for (plan, _) in &planned.plans {
        let installer = Installer::own(plan.arch)
            .with_context(|| format!("this kpot carries no installer for {}", plan.arch))?;
        let empty = Target::new(plan.arch, installer, Some(plan.runtime.name));
        let old = before.and_then(|lock| lock.target(plan.arch));
        let Unpinned { plan, mut kept } = old.unwrap_or(&empty).unpinned(plan, &|_| false);
        kept.installer = installer;
        pin(pinning, &plan, &mut kept)?;
        lock.set(kept);
    }
    Ok(lock)
}

/// The lock that was there, in which only `names` are pinned anew. One that nobody asks for any more goes.
fn updated(
    pinning: &Pinning<'_>,
    before: &Lock,
    planned: &Planned,
    names: &[String],
) -> anyhow::Result<Lock> {
    if names.iter().any(|name| name == KUBERNETES) {
        return Err(usage(format!(
            "{KUBERNETES} brings all that belongs to it: update it alone"
        )));
    }
    let names: BTreeSet<String> = names.iter().map(|name| called(name)).collect();
    let mut found = BTreeSet::new();
    let mut lock = before.clone();
    for (plan, _) in &planned.plans {
        let Some(old) = before.target(plan.arch) else {
            continue;
        };
        let is_named = |name: &str| names.contains(name);
        let mut rest = plan.clone();
        rest.downloads.retain(|it| is_named(it.name.text()));
        rest.files.retain(|it| is_named(&it.name.to_string()));
        rest.images.retain(|it| is_named(&it.familiar()));
        found.extend(named(&rest));
        let mut target = old.clone();
        let mut keep = |name: &str| {
            let name = called(name);
            let named = names.contains(&name);
            if named {
                found.insert(name);
            }
            !named
        };
        target.artifacts.retain(|it| keep(&it.name));
        target.images.retain(|it| keep(&it.name));
        pin(pinning, &rest, &mut target)?;
        lock.set(target);
    }
    if let Some(unknown) = names.difference(&found).next() {
        let known: BTreeSet<String> = planned
            .plans
            .iter()
            .flat_map(|(plan, _)| named(plan))
            .collect();
        let known: Vec<String> = known.into_iter().collect();
        return Err(usage(format!(
            "nothing is called {unknown}: expected {KUBERNETES} or one of {}",
            known.join(", ")
        )));
    }
    Ok(lock)
}

/// What a name of the command line or of a lock stands for: an image without its digest, everything else itself.
fn called(name: &str) -> String {
    let image: Option<ImageName> = name
        .contains([':', '/'])
        .then(|| name.parse().ok())
        .flatten();
    image.map_or_else(|| name.to_owned(), |image| image.familiar())
}

/// The names of all parts of a plan.
fn named(plan: &Plan) -> Vec<String> {
    let downloads = plan.downloads.iter().map(|it| it.name.text().to_owned());
    let files = plan.files.iter().map(|it| it.name.to_string());
    let images = plan.images.iter().map(ImageName::familiar);
    downloads.chain(files).chain(images).collect()
}

/// Adds to `target` what everything in `plan` is today.
fn pin(pinning: &Pinning<'_>, plan: &Plan, target: &mut Target) -> anyhow::Result<()> {
    let desk = pinning.desk;
    let contents = gather(&Workshop {
        plan,
        depth: Depth::Digests,
        lock: None,
        voucher: Voucher::Publisher,
        client: &desk.client,
        cache: pinning.cache,
        stop: &desk.stop,
        spool: &Spool::new(pinning.folder),
        progress: &desk.progress,
        jobs: 1,
        effort: desk.order.style(None).effort,
        layers: desk.order.style(None).layers,
    })
    .with_context(|| format!("no lock was made of {}", plan.name()))?;
    let downloads = contents.downloads.iter().map(Artifact::of_download);
    let files = contents.files.iter().map(Artifact::of_extra);
    target.artifacts.extend(downloads.chain(files));
    for image in &contents.images {
        target.images.push(Image::of(&image.name, image));
    }
    target.sort();
    Ok(())
}

/// What the lock says otherwise than before, a line each.
fn changes(before: Option<&Lock>, after: &Lock) -> String {
    let (old, new) = (before.map(rows).unwrap_or_default(), rows(after));
    let mut told = String::new();
    for (sign, list) in [("-", old.difference(&new)), ("+", new.difference(&old))] {
        for (name, what) in list {
            // Writing to a String cannot fail.
            let _ = writeln!(told, "{sign} {name}: {what}");
        }
    }
    told
}

/// All that a lock says, each thing with its name.
fn rows(lock: &Lock) -> BTreeSet<(String, String)> {
    let Lock {
        lock: _,
        kpot,
        compression,
        kubernetes,
        targets,
    } = lock;
    let meant = format!("{} is {}", kubernetes.wanted, kubernetes.version);
    let mut rows = BTreeSet::from([
        ("kpot".to_owned(), kpot.clone()),
        ("compression".to_owned(), compression.to_string()),
        (KUBERNETES.to_owned(), meant),
    ]);
    if let Some(tuning) = &compression.tuning {
        rows.insert(("tuning".to_owned(), tuning.to_string()));
    }
    for target in targets {
        let Target {
            arch,
            installer,
            runtime,
            artifacts,
            images,
        } = target;
        let named = |name: &str| format!("{name} ({arch})");
        let installer = format!("{} ({} bytes)", installer.digest, installer.size);
        rows.insert((named("installer"), installer));
        if let Some(runtime) = runtime {
            rows.insert((named("runtime"), runtime.text().to_owned()));
        }
        rows.extend(artifacts.iter().map(|it| {
            let what = format!("{} {}", it.digest, it.version);
            (named(&it.name), what)
        }));
        let images = images.iter();
        rows.extend(images.map(|it| (named(&called(&it.name)), it.digest.to_string())));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Style;
    use crate::pack::Layers;
    use crate::pack::effort::Effort;
    use bundle_spec::manifest::RuntimeName;
    use bundle_spec::{Arch, KubeVersion, Sha256};

    fn lock() -> Lock {
        let kubernetes = Kubernetes {
            wanted: "stable-1.20".to_owned(),
            version: KubeVersion::new(1, 20, 2),
        };
        let style = Style {
            effort: Effort::Balanced,
            layers: Layers::Repacked,
        };
        let installer = Installer {
            digest: Sha256::of(b"installer"),
            size: 9,
        };
        let mut lock = Lock::new(kubernetes, style);
        lock.set(Target::new(Arch::Amd64, installer, None));
        lock
    }

    /// A change of a lock, and the words that tell it.
    type Row<'a> = (&'a dyn Fn(&mut Lock), &'a [&'a str]);

    #[test]
    fn a_change_of_the_head_is_told_too() {
        let before = lock();
        assert_eq!(changes(Some(&before), &before), "");
        let rows: [Row<'_>; 6] = [
            (
                &|it| it.kpot = "9.9.9".to_owned(),
                &["- kpot: ", "+ kpot: 9.9.9"],
            ),
            (
                &|it| it.kubernetes.version = KubeVersion::new(1, 20, 3),
                &[
                    "- kubernetes: stable-1.20 is v1.20.2",
                    "+ kubernetes: stable-1.20 is v1.20.3",
                ],
            ),
            (
                &|it| it.compression.level = 1,
                &["+ compression: balanced (level 1,"],
            ),
            (&|it| it.compression.tuning = None, &["- tuning: revision "]),
            (
                &|it| it.targets[0].installer.size = 8,
                &["- installer (amd64): ", "(8 bytes)"],
            ),
            (
                &|it| it.targets[0].runtime = Some(RuntimeName::Docker),
                &["+ runtime (amd64): docker"],
            ),
        ];
        for (change, words) in rows {
            let mut after = before.clone();
            change(&mut after);
            let told = changes(Some(&before), &after);
            for word in words {
                assert!(told.contains(word), "{word:?} is not in: {told}");
            }
        }
    }
}
