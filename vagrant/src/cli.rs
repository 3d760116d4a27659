//! The command line of `cargo lab`.

use std::fs::File;
use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cache::Cache;
use crate::cluster::{Cluster, ClusterSpec, Runtime};
use crate::eras::{Choice, Era, Eras, Tested, Version};
use crate::lab::{Bare, Lab};
use crate::machine::Cgroup;
use crate::materials::Materials;
use crate::node::Node;
use crate::scenario::{Counts, Played, WhatRuns};
use crate::sh::{self, step};
use crate::soak::Earlier;
use crate::workbench::{self, Workbench};
use crate::{bench, clean, demo, image, pool, scenario, soak, suite, upstream};

/// A real cluster on one machine, and what kpot must do on it. Run as root on Debian 12.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From nothing to a bare machine that is a master, told step by step
    Demo {
        #[command(flatten)]
        era: EraChoice,
        /// Where `kpot build` fetches from
        #[arg(long, value_enum, default_value_t = From::Lab)]
        upstream: From,
    },
    /// All tests: of the code, of the programs, and scenarios on the eras that this machine can run: the oldest wholly, of
    /// the others what vagrant/eras.json says
    Test(EraChoice),
    /// Every scenario on every era that this machine can run; goes on where an earlier run ended, and prints a table
    Soak {
        #[command(flatten)]
        era: EraChoice,
        /// Forget what passed in earlier runs
        #[arg(long)]
        afresh: bool,
    },
    /// Play some scenarios
    Scenario {
        /// A scenario or a group of them; an unknown name lists all
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        era: EraChoice,
    },
    /// Measure time, size and memory against the same work by hand, on the same bytes; a missed goal is printed
    Bench {
        /// What to measure [default: everything]
        #[arg(value_enum, value_name = "PART")]
        parts: Vec<bench::Part>,
        #[command(flatten)]
        era: EraChoice,
        /// How often each side of a comparison runs; their medians are compared
        #[arg(long, value_name = "N", default_value = "3")]
        repeat: NonZeroUsize,
    },
    /// Bring up a cluster of m1 and m2, and the bare b1, and leave them to you
    Up(EraChoice),
    /// Make the image of the nodes, so that `vagrant up` works in vagrant/
    Image,
    /// Show what of the lab is up
    Status,
    /// Remove the machines, stop what the lab started, put this machine back as it was, and tell what stays
    Clean,
    /// Build and serve what kpot downloads
    #[command(subcommand)]
    Upstream(upstream::Command),
}

#[derive(Debug, Args)]
struct EraChoice {
    /// The Kubernetes version [default: the oldest that this machine can run; `test` and `soak` take all]
    #[arg(long, value_name = "VERSION")]
    k8s: Option<Version>,
    /// The container runtime, as `containerd` or `containerd-1.6` [default: the first that vagrant/eras.json has of the version]
    #[arg(long, value_name = "NAME", requires = "k8s")]
    runtime: Option<String>,
}

/// Where `kpot build` fetches from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// The lab's own servers
    Lab,
    /// The real ones
    Internet,
}

/// How a command ended that could be run at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything held.
    Well,
    /// Something that was tested failed; it has been told.
    WithFailures,
}

/// Reads the command line and does what it says.
pub fn run() -> Result<Ended> {
    let cli = Cli::parse();
    let cache = Cache::open()?;
    sh::init(cache.root())?;
    let lab = Lab::from_env()?;
    let _alone = match &cli.command {
        Command::Status | Command::Image | Command::Upstream(_) => Vec::new(),
        // These have machines of the labs beside, too.
        Command::Test(_) | Command::Soak { .. } | Command::Clean => {
            let labs = pool::all_labs(&lab);
            let locks = labs.iter().map(|lab| alone(&cache, lab));
            locks.collect::<Result<_>>()?
        }
        _ => vec![alone(&cache, &lab)?],
    };
    match cli.command {
        Command::Demo { era, upstream } => {
            demo::run(&cache, &lab, &choose(&era)?, upstream).map(|()| Ended::Well)
        }
        Command::Test(era) => suite::run(&cache, &lab, &eras_to_test(&era)?).map(counted),
        Command::Soak { era, afresh } => {
            let earlier = if afresh {
                Earlier::Forget
            } else {
                Earlier::Count
            };
            soak::run(&cache, &lab, &eras_to_soak(&era)?, earlier).map(counted)
        }
        Command::Scenario { names, era } => {
            let scenarios: Result<Vec<_>> =
                names.iter().map(|name| scenario::named(name)).collect();
            let scenarios = scenarios?.into_iter().flatten().collect();
            // A second lab beside this one makes pots of its own, with a key of its own.
            let pots = cache.pots().join(lab.name());
            let workbench = Workbench::prepare_in(&pots, &cache, &[choose(&era)?])?;
            let mut bench = workbench.bench(&lab, 0, WhatRuns::MayServe)?;
            Ok(counted(scenario::play(&mut bench, scenarios)))
        }
        Command::Bench { parts, era, repeat } => {
            bench::run(&cache, &lab, &choose(&era)?, &parts, repeat).map(|()| Ended::Well)
        }
        Command::Up(era) => up(&cache, &lab, &choose(&era)?).map(|()| Ended::Well),
        Command::Image => {
            workbench::prepare_machine(&cache)?;
            Ok(Ended::Well)
        }
        Command::Status => {
            println!("{}", lab.status()?);
            Ok(Ended::Well)
        }
        Command::Clean => clean::run(&cache, &lab).map(|()| Ended::Well),
        Command::Upstream(command) => upstream::cli(cache.root(), &command).map(|()| Ended::Well),
    }
}

/// Holds the lab's machines for this process: two at work on the same ones destroy each other's.
fn alone(cache: &Cache, lab: &Lab) -> Result<File> {
    let lock = cache.lock(lab.name());
    sh::lock(&lock)?.with_context(|| {
        format!(
            "another `cargo lab` is at work on the machines of {} (it has locked {}): wait for it, or end it; \
             a second lab beside it gets a name and a network of its own by KPOT_LAB_NAME and KPOT_LAB_NET",
            lab.name(),
            lock.display()
        )
    })
}

/// Ends the output with the counts.
fn counted(counts: Counts) -> Ended {
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if counts.failed == 0 {
        Ended::Well
    } else {
        Ended::WithFailures
    }
}

/// The era that is asked for, or the oldest that this machine can run, said in one line.
fn choose(choice: &EraChoice) -> Result<Choice> {
    let eras = Eras::load()?;
    let cgroup = match Cgroup::here() {
        Cgroup::V1 => "cgroup v1",
        Cgroup::V2 => "cgroup v2",
    };
    if let Some(version) = choice.k8s {
        let era = eras.find(version)?;
        ensure!(
            era.runs_here(),
            "this machine has {cgroup}, on which the kubelet of {version} does not start; \
             take another era by --k8s, or boot with systemd.unified_cgroup_hierarchy=0"
        );
        return eras.choice(version, choice.runtime.as_deref());
    }
    let version = eras
        .all()
        .iter()
        .find(|era| era.runs_here())
        .map(|era| era.kubernetes);
    let version =
        version.ok_or_else(|| anyhow::anyhow!("no era runs on this machine ({cgroup})"))?;
    sh::say(format_args!(
        "this machine has {cgroup}: taking {version} (another by --k8s)"
    ));
    eras.choice(version, None)
}

/// What `cargo lab test` plays: what is asked for wholly; otherwise the oldest era wholly, and of the others what
/// `eras.json` says.
fn eras_to_test(choice: &EraChoice) -> Result<Vec<(Choice, Played)>> {
    if choice.k8s.is_some() {
        return Ok(vec![(choose(choice)?, Played::Wholly)]);
    }
    let eras = Eras::load()?;
    let mut all = Vec::new();
    for (choice, tested) in eras_here(&eras).into_iter().flat_map(Era::choices) {
        let played = match tested {
            _ if all.is_empty() => Played::Wholly,
            Tested::InSoaks => continue,
            Tested::MainPaths => Played::MainPaths,
            Tested::Only(names) => Played::Only(names.clone()),
        };
        all.push((choice, played));
    }
    // Where time runs out, what is left is what shows the least.
    all.sort_by_key(|(_, played)| matches!(played, Played::Only(_)));
    Ok(all)
}

/// What `cargo lab soak` plays: what is asked for, else every era with every runtime.
fn eras_to_soak(choice: &EraChoice) -> Result<Vec<Choice>> {
    if choice.k8s.is_some() {
        return Ok(vec![choose(choice)?]);
    }
    let eras = Eras::load()?;
    let choices = eras_here(&eras).into_iter().flat_map(Era::choices);
    Ok(choices.map(|(choice, _)| choice).collect())
}

/// The eras that this machine can run, oldest first; the others are told.
fn eras_here(eras: &Eras) -> Vec<&Era> {
    let (here, not_here): (Vec<_>, Vec<_>) = eras.all().iter().partition(|era| era.runs_here());
    for era in not_here {
        sh::say(format_args!(
            "{} is left out: its kubelet needs cgroup v1, this machine has v2",
            era.kubernetes
        ));
    }
    here
}

fn up(cache: &Cache, lab: &Lab, choice: &Choice) -> Result<()> {
    workbench::prepare_machine(cache)?;
    let materials = Materials::of_lab(&workbench::upstream_of(cache, choice)?)?;
    let masters = [lab.m1(), lab.m2()];
    step("bringing the machines up", || {
        lab.raze()?;
        lab.up(&[&lab.m1(), &lab.m2(), &lab.b1()], Bare::Full)
    })?;
    let spec = ClusterSpec::plain(choice.version).run_by(Runtime::of(&materials.runtime));
    let cluster = Cluster::make(spec, &materials, &masters)?;
    println!("{}", cluster.kubectl(&["get", "nodes", "-o", "wide"])?);
    let names =
        [lab.m1(), lab.m2(), lab.b1()].map(|node: Node| format!("{node} {}", node.address()));
    println!(
        "\n{}: `vagrant ssh NAME` in {}",
        names.join(", "),
        image::vagrant_dir().display()
    );
    Ok(())
}
