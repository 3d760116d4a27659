//! What is another than the lock says: named, with where it is from, what was expected and what was seen.
//!
//! Four looks, each at what is known by then: the way of making (`own`), the order (`of_order`, `of_plan`), the servers before anything is fetched (`of_survey`), and
//! what was fetched (`of_fetched`, `of_image`).

use std::collections::BTreeSet;
use std::fmt;

use bundle_spec::manifest::Checked;
use bundle_spec::{Arch, Sha256};

use super::{Artifact, Compression, Image, Installer, Lock, Target};
use crate::fetch::registry::{Described, RemoteImage};
use crate::image_name::ImageName;
use crate::order::Style;
use crate::plan::Plan;
use crate::survey::Survey;

/// One thing that is another than the lock says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Difference {
    what: String,
    from: Option<String>,
    expected: String,
    seen: String,
    /// What `kpot lock --update` calls it, where that helps.
    name: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            from,
            expected,
            seen,
            name,
        } = self;
        match from {
            Some(from) => write!(f, "{what}, from {from},")?,
            None => write!(f, "{what}")?,
        }
        write!(f, " is not as locked: expected {expected}, seen {seen}")?;
        match name {
            Some(name) => write!(f, " (if that is right: kpot lock --update {name})"),
            None => Ok(()),
        }
    }
}

/// All that is another than the lock says.
#[derive(Debug, Default)]
pub struct Differences(pub Vec<Difference>);

impl Differences {
    /// Adds all others.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// Adds one where the two texts are not the same.
    fn text(&mut self, what: impl Into<String>, expected: &str, seen: &str) {
        if expected != seen {
            self.0.push(Difference {
                what: what.into(),
                from: None,
                expected: expected.to_owned(),
                seen: seen.to_owned(),
                name: None,
            });
        }
    }
}

const NOTHING: &str = "nothing";

const fn word(checked: Checked) -> &'static str {
    match checked {
        Checked::PublishedSha256 => "published SHA-256",
        Checked::PublishedSha512 => "published SHA-512",
        Checked::ShippedPin => "kpot's own pin",
        Checked::GivenPin => "given by the user",
    }
}

fn pinned(digest: Sha256, size: u64) -> String {
    format!("{digest} ({size} bytes)")
}

impl Lock {
    /// What is another in the way of making pots for these architectures.
    pub fn own(&self, arches: &[Arch], style: Style) -> Differences {
        let mut all = Differences::default();
        all.text("kpot itself", &self.kpot, env!("CARGO_PKG_VERSION"));
        let compression = Compression::of(style);
        all.text(
            "the compression",
            &self.compression.to_string(),
            &compression.to_string(),
        );
        // Each effort has its own, and a lock from before there was one to record says nothing of it.
        if let (Some(locked), Some(own)) = (&self.compression.tuning, &compression.tuning)
            && self.compression.effort == compression.effort
        {
            all.text(
                "the tuning of the compression",
                &locked.to_string(),
                &own.to_string(),
            );
        }
        for arch in arches {
            let (Some(target), Some(own)) = (self.target(*arch), Installer::own(*arch)) else {
                continue;
            };
            all.text(
                format!("the installer for {arch} in kpot"),
                &pinned(target.installer.digest, target.installer.size),
                &pinned(own.digest, own.size),
            );
        }
        all
    }

    /// What is another in the order: the version that is wanted, and an architecture that is not pinned.
    pub fn of_order(&self, wanted: &str, arches: &[Arch]) -> Differences {
        let mut all = Differences::default();
        if !self.stands_for(wanted) {
            all.text("the Kubernetes version", &self.kubernetes.wanted, wanted);
        }
        for arch in arches {
            if self.target(*arch).is_none() {
                all.text(
                    format!("everything for {arch}"),
                    NOTHING,
                    "that it is asked for",
                );
            }
        }
        all
    }

    /// Whether what is wanted is what was wanted, or the very version that was found.
    pub fn stands_for(&self, wanted: &str) -> bool {
        self.kubernetes.wanted == wanted || self.kubernetes.version.to_string() == wanted
    }
}

impl Target {
    /// What is another in the plan: asked for and not pinned, pinned of something else, or pinned and not asked for.
    pub fn of_plan(&self, plan: &Plan) -> Differences {
        let rest = self.unpinned(plan, &|_| false).plan;
        let mut all = Differences::default();
        if let Some(runtime) = self.runtime {
            all.text("the runtime", runtime.text(), plan.runtime.name.text());
        }
        // What is not pinned is a difference even if these words do not tell it.
        let mut differs = |what: String, from: &str, expected: String, seen: String| {
            all.0.push(Difference {
                what,
                from: Some(from.to_owned()),
                expected,
                seen,
                name: None,
            });
        };
        let said = |version: &str, source: &str, checked, digest: Option<Sha256>| {
            let digest = digest.map_or_else(|| "no digest yet".to_owned(), |it| it.to_string());
            format!("{version} from {source} ({}, {digest})", word(checked))
        };
        let expected = |name: &str| {
            self.artifact(name).map_or_else(
                || NOTHING.to_owned(),
                |it: &Artifact| said(&it.version, &it.source, it.checked, Some(it.digest)),
            )
        };
        for it in &rest.downloads {
            let seen = said(&it.version, &it.url, it.check.checked(), it.check.digest());
            let name = it.name.text();
            differs(name.to_owned(), &it.url, expected(name), seen);
        }
        for it in &rest.files {
            let name = it.name.to_string();
            let seen = said(&it.version, &it.source(), Checked::GivenPin, it.digest());
            let expected = expected(&name);
            differs(name, &it.source(), expected, seen);
        }
        for name in &rest.images {
            let expected = self.image(name).map_or(NOTHING, |image| &image.name);
            differs(
                format!("the image {name}"),
                name.registry(),
                expected.to_owned(),
                name.whole(),
            );
        }
        let files = plan.files.iter().map(|file| file.name.to_string());
        let asked: BTreeSet<String> = plan
            .downloads
            .iter()
            .map(|download| download.name.text().to_owned())
            .chain(files)
            .chain(plan.images.iter().map(ImageName::familiar))
            .collect();
        for it in &self.artifacts {
            if !asked.contains(&it.name) {
                differs(
                    it.name.clone(),
                    &it.source,
                    pinned(it.digest, it.size),
                    NOTHING.to_owned(),
                );
            }
        }
        for it in &self.images {
            // A lock whose images have other names than images have is not read.
            let Ok(name) = it.name.parse::<ImageName>() else {
                continue;
            };
            if !asked.contains(&name.familiar()) {
                differs(
                    format!("the image {}", name.familiar()),
                    name.registry(),
                    pinned(it.digest, it.size),
                    NOTHING.to_owned(),
                );
            }
        }
        all
    }

    /// What is another on the servers, as far as they tell without handing it out; `plan` is the one that was asked about.
    pub fn of_survey(&self, plan: &Plan, survey: &Survey) -> Differences {
        let mut all = Differences::default();
        let mut size = |name: String, told: &crate::survey::Told<u64>| {
            let Some(it) = self.artifact(&name) else {
                return;
            };
            // A size that is not told will be seen.
            if let Ok(seen) = told.answer
                && seen != it.size
            {
                all.0.push(Difference {
                    what: format!("{name} {}", it.version),
                    from: Some(told.from.to_string()),
                    expected: pinned(it.digest, it.size),
                    seen: format!("{seen} bytes"),
                    name: Some(name),
                });
            }
        };
        for (download, told) in plan.downloads.iter().zip(&survey.downloads) {
            size(download.name.text().to_owned(), told);
        }
        for (file, told) in plan.files.iter().zip(&survey.files) {
            size(file.name.to_string(), told);
        }
        for (name, told) in plan.images.iter().zip(&survey.images) {
            let Some(image) = self.image(name) else {
                continue;
            };
            let seen = match &told.answer {
                Ok(seen) if (seen.digest, seen.size()) == (image.digest, image.size) => continue,
                Ok(seen) => pinned(seen.digest, Described::size(seen)),
                Err(problem) => format!("nothing: {problem}"),
            };
            all.0.push(Difference {
                what: format!("the image {name}"),
                from: Some(told.from.to_string()),
                expected: pinned(image.digest, image.size),
                seen,
                name: Some(name.familiar()),
            });
        }
        all
    }

    /// Compares what was fetched.
    ///
    /// # Errors
    /// The difference.
    pub fn of_fetched(
        &self,
        name: &str,
        from: &str,
        digest: Sha256,
        size: u64,
    ) -> Result<(), Difference> {
        let pin = self.artifact(name).map(|it| (it.digest, it.size));
        if pin == Some((digest, size)) {
            return Ok(());
        }
        Err(Difference {
            what: name.to_owned(),
            from: Some(from.to_owned()),
            expected: pin.map_or_else(|| NOTHING.to_owned(), |(digest, size)| pinned(digest, size)),
            seen: pinned(digest, size),
            name: Some(name.to_owned()),
        })
    }

    /// Compares an image that was found.
    ///
    /// # Errors
    /// The difference.
    pub fn of_image(&self, image: &RemoteImage) -> Result<(), Difference> {
        let said = |digest, id, size| format!("{} with the ID {id}", pinned(digest, size));
        let seen = said(image.digest, image.id, image.size());
        let expected = self.image(&image.name).map_or_else(
            || NOTHING.to_owned(),
            |it: &Image| said(it.digest, it.id, it.size),
        );
        if seen == expected {
            return Ok(());
        }
        Err(Difference {
            what: format!("the image {}", image.name),
            from: Some(image.from.to_string()),
            expected,
            seen,
            name: Some(image.name.familiar()),
        })
    }
}
