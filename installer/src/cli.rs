//! The command line. It reads and wires; it decides nothing.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::console::{Console, Format};
use crate::facts::docker::CgroupDriver;
use crate::host::HostView;
use crate::host::command::{Local, Runner};
use crate::host::ssh::{self, ASKPASS_VARIABLE, Role, Target};
use crate::journal::STATE_DIR;
use crate::rollback::{self, MemberWord, Rollback};
use crate::status::{self, Status};
use crate::trust::{self, TrustOptions};
use crate::workflow::{self, InitEnv, Master, Reset, Run, Way};

/// Makes this machine a master of a Kubernetes cluster, with what is in the pot and nothing else.
///
/// Exit status: 0 done or nothing to do, 1 failed, 2 wrong command line, 3 this host or cluster is not eligible, 4 the pot is not trusted.
#[derive(Debug, Parser)]
#[command(name = "kpot-install", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    #[command(flatten)]
    WithPot(Box<Command>),
    /// Undo what this program did on this machine, from its journal, newest first; no cluster is touched and no pot is needed
    Rollback {
        #[command(flatten)]
        changing: Changing,
        /// Undo a join although the journal does not say that its etcd member left the cluster. A member that is still listed then counts against the quorum, dead
        #[arg(long)]
        the_member_is_gone: bool,
        /// Print one JSON document on standard output
        #[arg(long)]
        json: bool,
    },
    /// Take this machine out of its cluster, if the other masters keep their quorum without it, and undo what made it a master; no pot is needed
    Reset {
        #[command(flatten)]
        changing: Changing,
        #[command(flatten)]
        ssh: SshOptions,
        /// The address of a healthy master of the cluster, another one than this, reached over SSH
        #[arg(long, value_name = "ADDR")]
        healthy: String,
        #[command(flatten)]
        own: Own,
        /// Print JSON documents on standard output: one of the cluster's part, one of what is undone here
        #[arg(long)]
        json: bool,
    },
    /// Show how this machine and its cluster stand; changes nothing, needs no pot, and ends with 0 also where something is wrong
    Status {
        #[command(flatten)]
        ssh: SshOptions,
        /// The address of a healthy master of the cluster, reached over SSH [default: the cluster is asked through this machine, where it is a master]
        #[arg(long, value_name = "ADDR")]
        healthy: Option<String>,
        /// Print one JSON document on standard output
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the pot's signature and every byte of it
    Verify(Common),
    /// Tell whether this machine can become a master; changes nothing
    Preflight(Common),
    /// Prepare this machine as a node: kernel, swap, container runtime, binaries, units, images; no cluster is touched
    InitEnv {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        changing: Changing,
        /// Who makes the cgroups of containers: cgroupfs or systemd; must be what the cluster uses (a join reads it off the cluster) [default: systemd from Kubernetes 1.22 on, as kubeadm has it]
        #[arg(long, value_name = "DRIVER")]
        cgroup_driver: Option<CgroupDriver>,
        /// A registry that Docker or containerd may speak to without TLS; may be given again
        #[arg(long, value_name = "HOST:PORT")]
        insecure_registry: Vec<String>,
    },
    /// Make this machine one more master of a running cluster
    JoinMaster(MasterOptions),
    /// Bring this machine back as the master that it was, under its old name and address, also with an empty disk
    RebirthMaster {
        #[command(flatten)]
        master: MasterOptions,
        /// Also where this machine is a master in good health
        #[arg(long)]
        force: bool,
    },
    /// Make this machine a master in the place of one that is down
    ChangeMaster {
        #[command(flatten)]
        master: MasterOptions,
        /// The master that is down: the name of its node, its address, or its etcd member's ID
        #[arg(long, value_name = "ADDR|NAME|ID")]
        down: String,
        /// Take Kubernetes off the machine of that master afterwards, over SSH as to the healthy one; everything else there stays
        #[arg(long)]
        reset_down: bool,
        /// The fingerprint of that machine's host key [default: as known_hosts has it]
        #[arg(long, value_name = "SHA256:…")]
        down_host_key: Option<String>,
    },
}

/// What the cluster calls this machine.
#[derive(Debug, Args)]
struct Own {
    /// The name of this machine's node [default: its host name; its address in a cluster whose nodes are named so; in a rebirth or a reset what the cluster calls the master at its address]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// The address of this machine's apiserver and etcd [default: the one that reaches the healthy master]
    #[arg(long, value_name = "IP")]
    advertise_address: Option<IpAddr>,
}

#[derive(Debug, Args)]
struct MasterOptions {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    changing: Changing,
    #[command(flatten)]
    ssh: SshOptions,
    /// The address of a healthy master of the cluster, reached over SSH
    #[arg(long, value_name = "ADDR")]
    healthy: String,
    #[command(flatten)]
    own: Own,
    /// A registry that Docker or containerd may speak to without TLS; may be given again
    #[arg(long, value_name = "HOST:PORT")]
    insecure_registry: Vec<String>,
    /// Copy the manifests of static pods besides kubeadm's (keepalived, kube-vip, …) after the join
    #[arg(long)]
    copy_static_pods: bool,
}

#[derive(Debug, Args)]
struct Common {
    /// The pot, or the folder that holds it, packed or unpacked [default: beside this program]
    #[arg(long, value_name = "FILE|DIR")]
    pot: Option<PathBuf>,
    /// Whose pots to trust, in OpenSSH's allowed_signers format [default: /etc/kpot/trusted_signers]
    #[arg(long, value_name = "FILE")]
    signers: Option<PathBuf>,
    /// Trust the key with this fingerprint instead
    #[arg(long, value_name = "SHA256:…", conflicts_with = "signers")]
    signer: Option<String>,
    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Changing {
    /// Show the plan and end, having changed nothing anywhere
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before changing anything
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct SshOptions {
    /// The user on the healthy master; one other than root works through sudo
    #[arg(
        long,
        requires = "healthy",
        value_name = "USER",
        default_value = "root"
    )]
    ssh_user: String,
    /// The SSH port of the healthy master
    #[arg(long, requires = "healthy", value_name = "PORT")]
    ssh_port: Option<u16>,
    /// The private key for the healthy master
    #[arg(long, requires = "healthy", value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Ask for the password of that user, for SSH and sudo (a line of standard input where that is no terminal)
    #[arg(long, requires = "healthy")]
    ask_pass: bool,
    /// The fingerprint of the healthy master's host key [default: as known_hosts has it]
    #[arg(long, requires = "healthy", value_name = "SHA256:…")]
    host_key: Option<String>,
}

/// The program.
pub fn main() -> Result<()> {
    // ssh runs this very program to ask for the password.
    if let Some(socket) = std::env::var_os(ASKPASS_VARIABLE) {
        let question = std::env::args().nth(1).unwrap_or_default();
        return ssh::answer_askpass(socket.as_ref(), &question);
    }
    let program = Cli::parse().command;
    let console = Console::new(if program.wants_json() {
        Format::Json
    } else {
        Format::Text
    });
    console.conclude(act(program, &console))
}

impl Program {
    fn wants_json(&self) -> bool {
        match self {
            Self::WithPot(command) => command.common().json,
            Self::Rollback { json, .. } | Self::Reset { json, .. } | Self::Status { json, .. } => {
                *json
            }
        }
    }
}

impl Command {
    fn common(&self) -> &Common {
        match self {
            Self::Verify(common)
            | Self::Preflight(common)
            | Self::InitEnv { common, .. }
            | Self::JoinMaster(MasterOptions { common, .. })
            | Self::RebirthMaster {
                master: MasterOptions { common, .. },
                ..
            }
            | Self::ChangeMaster {
                master: MasterOptions { common, .. },
                ..
            } => common,
        }
    }
}

fn act(program: Program, console: &Console) -> Result<()> {
    let command = match program {
        Program::WithPot(command) => *command,
        Program::Rollback {
            changing,
            the_member_is_gone,
            ..
        } => {
            return rollback::run(&Rollback {
                host: HostView::new("/", Arc::new(Local)),
                state: STATE_DIR.into(),
                console,
                dry_run: changing.dry_run,
                yes: changing.yes,
                member: if the_member_is_gone {
                    MemberWord::SaidToBeGone
                } else {
                    MemberWord::AsJournaled
                },
            });
        }
        Program::Reset {
            changing,
            ssh,
            healthy,
            own,
            ..
        } => {
            let local = Arc::new(Local);
            return workflow::reset(
                &Reset {
                    host: HostView::new("/", local.clone()),
                    console,
                    dry_run: changing.dry_run,
                    yes: changing.yes,
                    target: target(ssh, healthy)?,
                    node_name: own.node_name,
                    advertise_address: own.advertise_address,
                },
                local,
            );
        }
        Program::Status { ssh, healthy, .. } => {
            let local = Arc::new(Local);
            return status::run(
                &Status {
                    host: HostView::new("/", local.clone()),
                    console,
                    target: healthy.map(|healthy| target(ssh, healthy)).transpose()?,
                },
                local,
            );
        }
    };
    let common = command.common();
    let path = trust::find_pot(common.pot.clone())?;
    let trusted = TrustOptions {
        signers: common.signers.clone(),
        signer: common.signer.clone(),
    };
    let pot = Arc::new(trust::open_verified(&path, &trusted, console)?);
    let signer = pot.signer();
    let local = Arc::new(Local);
    let mut run = Run {
        pot: pot.clone(),
        host: HostView::new("/", local.clone()),
        console,
        dry_run: false,
        yes: false,
    };
    match command {
        Command::Verify(_) => {
            let manifest = pot.manifest();
            console.result(&format!(
                "{}: whole, and signed by {}{}\n{}: Kubernetes {}, {}",
                path.display(),
                signer.fingerprint,
                signer
                    .principal
                    .as_deref()
                    .map(|name| format!(" ({name})"))
                    .unwrap_or_default(),
                manifest.name,
                manifest.kubernetes,
                manifest.arch
            ))?;
            console.document(&json!({
                "pot": path.display().to_string(),
                "identity": pot.identity(),
                "signer": signer.fingerprint,
                "principal": signer.principal,
                "name": manifest.name,
                "kubernetes": manifest.kubernetes,
                "arch": manifest.arch,
            }))
        }
        Command::Preflight(_) => workflow::preflight(&run),
        Command::InitEnv {
            changing,
            cgroup_driver,
            insecure_registry,
            ..
        } => {
            (run.dry_run, run.yes) = (changing.dry_run, changing.yes);
            workflow::init_env(
                &run,
                &InitEnv {
                    cgroup_driver,
                    insecure_registries: insecure_registry,
                },
            )
        }
        Command::JoinMaster(master) => become_master(&mut run, master, Way::Join, local),
        Command::RebirthMaster { master, force } => {
            become_master(&mut run, master, Way::Rebirth { force }, local)
        }
        Command::ChangeMaster {
            master,
            down,
            reset_down,
            down_host_key,
        } => {
            let way = Way::Change {
                down,
                reset_down,
                down_host_key,
            };
            become_master(&mut run, master, way, local)
        }
    }
}

fn become_master(
    run: &mut Run<'_>,
    options: MasterOptions,
    way: Way,
    local: Arc<Local>,
) -> Result<()> {
    let MasterOptions {
        changing,
        ssh,
        healthy,
        own,
        insecure_registry,
        copy_static_pods,
        ..
    } = options;
    (run.dry_run, run.yes) = (changing.dry_run, changing.yes);
    let target = target(ssh, healthy)?;
    let local: Arc<dyn Runner> = local;
    workflow::become_master(
        run,
        &Master {
            way,
            target,
            node_name: own.node_name,
            advertise_address: own.advertise_address,
            insecure_registries: insecure_registry,
            copy_static_pods,
        },
        &local,
    )
}

/// How to reach the healthy master; asks for the password where one is wanted.
fn target(ssh: SshOptions, healthy: String) -> Result<Target> {
    let password = if ssh.ask_pass {
        Some(crate::password::ask(&format!(
            "Password of {}@{healthy}",
            ssh.ssh_user
        ))?)
    } else {
        None
    };
    Ok(Target {
        role: Role::Healthy,
        host: healthy,
        user: ssh.ssh_user,
        port: ssh.ssh_port,
        identity: ssh.identity,
        host_key: ssh.host_key,
        password,
    })
}
