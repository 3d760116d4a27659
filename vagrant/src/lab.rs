//! The machines of one lab, brought up and taken down by Vagrant with the Vagrantfile beside this crate.
//!
//! What people would type is what the lab does: `vagrant up`, `vagrant destroy`. Two labs can live side by side, each
//! with a name, a network and a place for Vagrant's state (`KPOT_LAB_NAME`, `KPOT_LAB_NET`, `VAGRANT_DOTFILE_PATH`).

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::image::vagrant_dir;
use crate::node::Node;
use crate::sh::{self, Sh};
use crate::wait;

/// Machines in containers boot in seconds, virtual ones in a minute or two with their provisioning.
const UP_LIMIT: Duration = Duration::from_mins(15);

/// What the backup machine has from its distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    /// All that kubeadm asks for.
    Full,
    /// Neither conntrack nor socat nor ebtables.
    Lean,
    /// All, and every execve is written down, with arguments and environment.
    Traced,
}

/// Every machine that the Vagrantfile knows, with the last number of its address.
pub const MACHINES: [(&str, u8); 4] = [("m1", 11), ("m2", 12), ("m3", 13), ("b1", 21)];

/// A lab: its name and its network.
#[derive(Debug, Clone)]
pub struct Lab {
    name: String,
    /// The first three numbers of its addresses.
    net: String,
    /// Where Vagrant keeps what it knows of the machines, from the Vagrantfile's folder.
    dotfile: String,
    /// Vagrant's name for what runs the machines.
    provider: String,
}

impl Lab {
    /// The lab that the environment names, else the default one.
    pub fn from_env() -> Result<Self> {
        let name = std::env::var("KPOT_LAB_NAME").unwrap_or_else(|_| "kpot-lab".to_owned());
        let provider =
            std::env::var("VAGRANT_DEFAULT_PROVIDER").unwrap_or_else(|_| "docker".to_owned());
        // As the Vagrantfile has it by itself.
        let usual = match provider.as_str() {
            "virtualbox" => "192.168.56",
            _ => "10.77.0",
        };
        let net = std::env::var("KPOT_LAB_NET").unwrap_or_else(|_| usual.to_owned());
        if net
            .split('.')
            .filter(|part| part.parse::<u8>().is_ok())
            .count()
            != 3
            || net.split('.').count() != 3
        {
            bail!(
                "KPOT_LAB_NET is {net:?}: the first three numbers of a network are wanted, as 10.77.0"
            );
        }
        let dotfile =
            std::env::var("VAGRANT_DOTFILE_PATH").unwrap_or_else(|_| ".vagrant".to_owned());
        Ok(Self {
            name,
            net,
            dotfile,
            provider,
        })
    }

    /// The lab so many networks beside this one, for what is played at the same time; 0 is this one.
    pub fn beside(&self, steps: u8) -> Result<Self> {
        let mut numbers = self.net.split('.');
        let (first, second, third) = (numbers.next(), numbers.next(), numbers.next());
        let next = second
            .and_then(|number| number.parse::<u8>().ok()?.checked_add(steps))
            .with_context(|| format!("there are not {steps} networks beside {}", self.net))?;
        let suffix = match steps {
            0 => String::new(),
            1 => "-beside".to_owned(),
            _ => format!("-beside-{steps}"),
        };
        Ok(Self {
            name: format!("{}{suffix}", self.name),
            net: format!(
                "{}.{next}.{}",
                first.unwrap_or_default(),
                third.unwrap_or_default()
            ),
            dotfile: format!("{}{suffix}", self.dotfile.trim_end_matches('/')),
            provider: self.provider.clone(),
        })
    }

    /// Whether its machines have one kernel, and so one clock: this machine's.
    pub fn shares_kernel(&self) -> bool {
        self.provider == "docker"
    }

    /// What its machines' names begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first master.
    pub fn m1(&self) -> Node {
        self.node(MACHINES[0])
    }

    /// The second master.
    pub fn m2(&self) -> Node {
        self.node(MACHINES[1])
    }

    /// The third master, where a scenario has one.
    pub fn m3(&self) -> Node {
        self.node(MACHINES[2])
    }

    /// The backup machine.
    pub fn b1(&self) -> Node {
        self.node(MACHINES[3])
    }

    /// All machines that the Vagrantfile knows.
    pub fn all(&self) -> [Node; 4] {
        MACHINES.map(|machine| self.node(machine))
    }

    fn node(&self, (name, number): (&'static str, u8)) -> Node {
        Node::new(
            name,
            format!("{}.{number}", self.net),
            format!("{}-{name}", self.name),
        )
    }

    /// Brings machines up; those that run stay as they are.
    pub fn up(&self, nodes: &[&Node], bare: Bare) -> Result<()> {
        if self.provider == "docker" {
            for node in nodes {
                self.remove_stranger(node)?;
            }
        }
        let names: Vec<&str> = nodes.iter().map(|node| node.machine()).collect();
        alone(&self.vagrant(bare).arg("up").args(&names).timeout(UP_LIMIT))?;
        for node in nodes {
            node.hang_up()?;
            wait::until(
                &format!("systemd on {node} is up"),
                Duration::from_mins(1),
                || {
                    let state = node.outcome("systemctl is-system-running || true")?;
                    let state = state.stdout.trim();
                    Ok((state != "running").then(|| format!("{state:?}")))
                },
            )?;
        }
        Ok(())
    }

    /// Takes machines down, with everything on them.
    pub fn destroy(&self, nodes: &[&Node]) -> Result<()> {
        if self.provider != "docker" {
            return self.vagrant_destroy(nodes);
        }
        nodes.iter().try_for_each(|node| {
            node.hang_up()?;
            // Vagrant makes a container anew that is not there any more, and takes eight seconds to remove one.
            remove_container(node)
        })
    }

    fn vagrant_destroy(&self, nodes: &[&Node]) -> Result<()> {
        nodes.iter().try_for_each(|node| node.hang_up())?;
        let names: Vec<&str> = nodes.iter().map(|node| node.machine()).collect();
        let destroy = self.vagrant(Bare::Full).args(["destroy", "--force"]);
        alone(&destroy.args(&names))
    }

    /// A new machine in place of an old one.
    pub fn renew(&self, node: &Node, bare: Bare) -> Result<()> {
        self.destroy(&[node])?;
        self.up(&[node], bare)
    }

    /// Takes the power away from a machine: nothing on it ends in order, and its disk stays.
    pub fn power_off(&self, node: &Node) -> Result<()> {
        node.hang_up()?;
        if self.provider == "docker" {
            // Vagrant would let systemd stop every service first.
            return Sh::new("docker").args(["kill", node.container()]).run();
        }
        alone(
            &self
                .vagrant(Bare::Full)
                .args(["halt", "--force", node.machine()]),
        )
    }

    /// Starts a machine that has no power. It answers SSH then; what runs on it may still be starting.
    pub fn power_on(&self, node: &Node) -> Result<()> {
        alone(
            &self
                .vagrant(Bare::Full)
                .args(["up", node.machine()])
                .timeout(UP_LIMIT),
        )
    }

    /// Takes everything of this lab out of Docker: machines, also those of another checkout, and the network.
    pub fn raze(&self) -> Result<()> {
        let nodes = self.all();
        let docker = self.provider == "docker";
        if docker {
            for node in &nodes {
                // Nobody needs what systemd and a dozen containers would do to end in order. One that does not run is none to kill.
                Sh::new("docker")
                    .args(["kill", node.container()])
                    .outcome()?;
            }
        }
        self.vagrant_destroy(&nodes.iter().collect::<Vec<_>>())?;
        if !docker {
            return Ok(());
        }
        for node in &nodes {
            self.remove_stranger(node)?;
        }
        if docker_has("network", &self.name) {
            Sh::new("docker")
                .args(["network", "rm", &self.name])
                .run()?;
        }
        Ok(())
    }

    /// Vagrant's own table of the machines.
    pub fn status(&self) -> Result<String> {
        self.vagrant(Bare::Full).arg("status").output()
    }

    /// A container of this name that Vagrant does not know comes from another checkout, or from one whose `.vagrant` was
    /// deleted; it would be in the way.
    fn remove_stranger(&self, node: &Node) -> Result<()> {
        let id = Sh::new("docker")
            .args([
                "container",
                "inspect",
                "--format",
                "{{.Id}}",
                node.container(),
            ])
            .outcome()?;
        if !id.ok() {
            return Ok(());
        }
        let known = vagrant_dir()
            .join(&self.dotfile)
            .join("machines")
            .join(node.machine())
            .join("docker/id");
        if known.exists() && sh::read_text(&known)?.trim() == id.stdout.trim() {
            return Ok(());
        }
        sh::say(format_args!(
            "removing the container {}: this checkout did not make it",
            node.container()
        ));
        remove_container(node)
    }

    fn vagrant(&self, bare: Bare) -> Sh {
        let vagrant = Sh::new("vagrant")
            .dir(vagrant_dir())
            .env("KPOT_LAB_NAME", &self.name)
            .env("KPOT_LAB_NET", &self.net)
            .env("VAGRANT_DOTFILE_PATH", &self.dotfile)
            .env("VAGRANT_DEFAULT_PROVIDER", &self.provider)
            .log("vagrant.log");
        match bare {
            Bare::Full => vagrant.env_remove("KPOT_LAB_BARE"),
            Bare::Lean => vagrant.env("KPOT_LAB_BARE", "lean"),
            Bare::Traced => vagrant.env("KPOT_LAB_BARE", "traced"),
        }
    }
}

/// One Vagrant at a time, whichever lab it is of: it looks for used ports in every container, and fails over one that another Vagrant is just making.
fn alone(vagrant: &Sh) -> Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = sh::locked(&ONE);
    vagrant.run()
}

/// Removes a machine's container with its disk, running or not; one that is not there is fine.
fn remove_container(node: &Node) -> Result<()> {
    Sh::new("docker")
        .args(["rm", "--force", "--volumes", node.container()])
        .run()
}

fn docker_has(kind: &str, name: &str) -> bool {
    Sh::new("docker")
        .args([kind, "inspect", name])
        .outcome()
        .is_ok_and(|outcome| outcome.ok())
}
