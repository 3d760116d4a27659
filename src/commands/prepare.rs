//! What `kpot build` and `kpot lock` begin with: the order, the version that it stands for, and a plan for each architecture.

use anyhow::Context as _;
use bundle_spec::{Arch, KubeVersion};

use crate::cache::Cache;
use crate::cache::place::Place;
use crate::cache::shelf::Shelf;
use crate::cli::Keeping;
use crate::cli::network::Flags;
use crate::exit::usage;
use crate::fetch::marker::Resolved;
use crate::fetch::{Client, Policy, Stop};
use crate::installers;
use crate::lock::Target;
use crate::order::Order;
use crate::plan::{Plan, plan};
use crate::progress::Progress;
use crate::releases::Releases;
use crate::wanted::Wanted;

/// What a run works with.
pub(super) struct Desk {
    /// What is ordered.
    pub(super) order: Order,
    /// Who asks the servers.
    pub(super) client: Client,
    /// Ends all transfers when one has failed.
    pub(super) stop: Stop,
    /// Who is told.
    pub(super) progress: Progress,
    releases: Releases,
}

/// A plan for each architecture, with what a lock pins for it.
pub(super) struct Planned {
    /// The version of all of them.
    pub(super) kubernetes: KubeVersion,
    /// What the release server said where it was asked.
    pub(super) resolved: Option<Resolved>,
    /// In the order of the architectures.
    pub(super) plans: Vec<(Plan, Option<Target>)>,
}

impl Desk {
    /// Sets up what an order needs, after what can be refused without asking anybody; `stop` ends its transfers.
    ///
    /// # Errors
    /// A usage error for an architecture without an installer and a version that nobody knows; an error where TLS cannot be set up.
    pub(super) fn new(
        order: Order,
        policy: Policy,
        network: &Flags,
        stop: Stop,
    ) -> anyhow::Result<Self> {
        for arch in &order.arches {
            installer(*arch)?;
        }
        let releases = Releases::shipped().map_err(anyhow::Error::msg)?;
        order.kubernetes.check(&releases).map_err(usage)?;
        let progress = Progress::new();
        if let Some(recipe) = &order.recipe {
            progress.line(&format!("the recipe is {}", recipe.display()));
        }
        let client = Client::with(
            network.network(order.mirrors.clone(), policy)?,
            stop.clone(),
        )?;
        Ok(Self {
            order,
            client,
            stop,
            progress,
            releases,
        })
    }

    /// The cache, where one is wanted.
    ///
    /// # Errors
    /// Where its folder cannot be found or made.
    pub(super) fn cache(&self, keeping: Keeping) -> anyhow::Result<Option<Cache>> {
        if keeping.no_cache {
            return Ok(None);
        }
        let place = Place::find(keeping.cache)?;
        Ok(Some(Cache::open(place, self.stop.clone())?))
    }

    /// What lies in the cache that a build would use, for a look; nothing where none is wanted, or the user has no place for one.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn shelf(keeping: Keeping) -> anyhow::Result<Shelf> {
        match Place::find(keeping.cache) {
            Ok(place) if !keeping.no_cache => Shelf::look(&place),
            Ok(_) | Err(_) => Ok(Shelf::default()),
        }
    }

    /// Plans for every architecture, for the version that is `known`; without one, for the version that the order stands for today.
    ///
    /// # Errors
    /// A usage error where there can be no such pot, or a file to carry is not there; an error where the release server does not tell the version.
    pub(super) fn plans(&self, known: Option<KubeVersion>) -> anyhow::Result<Planned> {
        let (kubernetes, resolved) = match (known, self.order.kubernetes) {
            (Some(version), _) | (None, Wanted::Exact(version)) => (version, None),
            (None, Wanted::Newest(marker)) => {
                let task = self.progress.task(&marker.to_string(), None);
                let resolved = marker.resolve(&self.client, &task).with_context(|| {
                    format!("cannot find out which version {marker} is; a whole one, such as v1.14.0, need not be asked for")
                })?;
                self.progress.line(&format!(
                    "{marker} is {}, as {} says",
                    resolved.version, resolved.from
                ));
                (resolved.version, Some(resolved))
            }
        };
        let mut plans = Vec::new();
        for arch in &self.order.arches {
            let request = self.order.request(kubernetes, *arch);
            let plan = plan(&request, &self.releases).map_err(usage)?;
            for file in &plan.files {
                file.look()?;
            }
            plans.push((plan, None));
        }
        Ok(Planned {
            kubernetes,
            resolved,
            plans,
        })
    }
}

/// The installer that this kpot carries for `arch`.
///
/// # Errors
/// A usage error where there is none.
pub(super) fn installer(arch: Arch) -> anyhow::Result<&'static [u8]> {
    installers::for_arch(arch).ok_or_else(|| {
        usage(format!(
            "this kpot carries no installer for {arch}: the machine that it was built on had no compiler for it. Build kpot again after: {}",
            installers::advice(arch)
        ))
    })
}
