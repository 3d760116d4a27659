//! One run of this program on the played machine: the whole way of `rebirth-master` and `change-master`, from the first look to the last word. Left out is what has no cluster in
//! it: the pot's own steps, and SSH.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Result, bail};
use bundle_spec::VerifiedPot;
use serde_json::Value;

use super::etcd::Snapshot;
use super::runner::{Place, Process, Trouble, locked};
use super::world::{Case, GONE, HEALTHY, Scenario, World, version};
use crate::console::{Console, Format};
use crate::exit;
use crate::facts::{Facts, Interface};
use crate::host::HostView;
use crate::host::command::Runner;
use crate::host::ssh::{Role, Target};
use crate::kubernetes::Traits;
use crate::preflight;
use crate::signals::Stop;
use crate::steps::testing::Pot;
use crate::workflow::decide::decide;
use crate::workflow::master::{Work, carry_out, cluster_steps, etcd_image};
use crate::workflow::seen::look;
use crate::workflow::{Master, Run, Way};

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    Done,
    Refused(String),
    Failed(String),
    Killed,
}

/// A run.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) end: End,
    /// Its commands that changed something.
    pub(super) changes: Vec<String>,
}

/// What was printed.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        locked(&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl World {
    /// Runs the scenario's command once.
    pub(super) fn run(&self, trouble: Option<Trouble>) -> Ran {
        self.run_another(&options(self.scenario), trouble)
    }

    /// Runs another command once.
    pub(super) fn run_another(&self, options: &Master, trouble: Option<Trouble>) -> Ran {
        let console = Console::on(Format::Text, io::sink(), io::sink());
        self.run_on(&console, options, trouble)
    }

    /// Runs the scenario's command once, and hears what people are told.
    pub(super) fn run_in_words(&self, trouble: Option<Trouble>) -> (Ran, String) {
        let told = Printed::default();
        let console = Console::on(Format::Text, io::sink(), told.clone());
        let ran = self.run_on(&console, &options(self.scenario), trouble);
        let text = locked(&told.0).clone();
        (ran, String::from_utf8(text).expect("words are text"))
    }

    /// Runs the scenario's command once with `--json`, and reads what it printed.
    pub(super) fn run_in_json(&self, trouble: Option<Trouble>) -> (Ran, Vec<Value>) {
        let printed = Printed::default();
        let console = Console::on(Format::Json, printed.clone(), io::sink());
        let ran = self.run_on(&console, &options(self.scenario), trouble);
        let text = locked(&printed.0).clone();
        let documents = serde_json::Deserializer::from_slice(&text).into_iter();
        let documents = documents.collect::<Result<_, _>>();
        (ran, documents.expect("only JSON is printed"))
    }

    fn run_on(&self, console: &Console, options: &Master, trouble: Option<Trouble>) -> Ran {
        locked(&self.played).etcd.snapshot = Snapshot::None;
        let process = Process::new(self.played.clone(), trouble);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.play(&process, console, options)));
        let end = match outcome {
            _ if process.is_dead() => End::Killed,
            Ok(Ok(())) => End::Done,
            Ok(Err(error)) if exit::status(&error) == 3 => End::Refused(format!("{error:#}")),
            Ok(Err(error)) => End::Failed(format!("{error:#}")),
            Err(panicked) => resume_unwind(panicked),
        };
        Ran {
            end,
            changes: process.changes(),
        }
    }

    fn play(&self, process: &Arc<Process>, console: &Console, options: &Master) -> Result<()> {
        let run = Run {
            pot: pot(self.scenario.minor),
            host: HostView::new(self.root.path(), process.on(Place::Here)),
            console,
            dry_run: false,
            yes: true,
        };
        let connect = |target: Target| -> Result<Arc<dyn Runner>> {
            match target.role {
                Role::Healthy => Ok(process.on(Place::Healthy)),
                Role::Down if locked(&self.played).down.is_some() => Ok(process.on(Place::Down)),
                Role::Down => bail!("{} timed out", target.host),
            }
        };
        let knock = |address: &SocketAddr, _: &str| -> io::Result<()> {
            if locked(&self.played).listens(address) {
                return Ok(());
            }
            Err(io::ErrorKind::TimedOut.into())
        };
        let mut seen = look(&run, options, &connect, &knock)?;
        seen.facts = Facts {
            leftovers: seen.facts.leftovers,
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                address: self.scenario.here().1.parse()?,
            }],
            ..preflight::tests::good()
        };
        if let Some(disks) = self.disks {
            seen.facts.disks = disks;
        }
        let images = decide(&run, &seen, &knock)?;
        let etcd_image = etcd_image(&seen, &images);
        let work = Work {
            environment: Vec::new(),
            before: Vec::new(),
            on_cluster: cluster_steps(options, &seen, etcd_image.as_ref()),
            etcd_image,
            after: Vec::new(),
        };
        carry_out(&run, options, &seen, &work, || Ok(Stop::default()))
    }
}

/// The scenario's command.
pub(super) fn options(scenario: Scenario) -> Master {
    let (name, address) = scenario.here();
    let way = if scenario.is_rebirth() {
        Way::Rebirth { force: false }
    } else {
        Way::Change {
            down: GONE.0.to_owned(),
            reset_down: scenario.case == Case::HalfDead,
            down_host_key: None,
        }
    };
    Master {
        // A machine that comes back is told by what the cluster knows of its address.
        node_name: (!scenario.is_rebirth()).then(|| name.to_owned()),
        way,
        target: Target {
            role: Role::Healthy,
            host: HEALTHY.to_owned(),
            user: "root".to_owned(),
            port: None,
            identity: None,
            host_key: None,
            password: None,
        },
        advertise_address: address.parse().ok(),
        insecure_registries: Vec::new(),
        copy_static_pods: false,
    }
}

/// A pot of this version, made once.
fn pot(minor: u16) -> Arc<VerifiedPot> {
    static POTS: [OnceLock<Arc<VerifiedPot>>; 3] = [const { OnceLock::new() }; 3];
    let make = || {
        let version = version(minor);
        let repository = super::world::repository(minor);
        let of_it = |name: &str| format!("{repository}/{name}:{version}");
        let mut names: Vec<String> = [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
        ]
        .into_iter()
        .map(of_it)
        .collect();
        let others = ["coredns:1", "etcd:3", "pause:3"].map(|name| format!("{repository}/{name}"));
        names.extend(others);
        names.push("flannel:1".to_owned());
        let empty = if Traits::of(version).dockershim {
            Pot::of(version)
        } else {
            Pot::of(version).containerd("2.1.4")
        };
        let pot = names
            .iter()
            .fold(empty, |pot, name| pot.image(name, name, &[]));
        pot.verified()
    };
    POTS[usize::from(minor > 14) + usize::from(minor > 20)]
        .get_or_init(make)
        .clone()
}
