//! Taking this machine out of its cluster: its etcd member, if the others keep their quorum without it, its Node, and then everything on the machine that made it a master.
//!
//! It needs no pot. What this program's own runs wrote is rolled back from the journal; a master that somebody else made is backed up and cleared as `kubeadm reset` does it.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::decide::{addresses, locked, own_address};
use super::session::Session;
use super::{Terms, Untouched, hostname, identity, not_eligible, refuse, refused, root_only};
use crate::console::Console;
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::lease::{Holder, Lock};
use crate::control_plane::{Cluster, ClusterView, credentials};
use crate::engine::{self, Plan};
use crate::exit::Usage;
use crate::facts::{self, Facts};
use crate::host::command::Runner;
use crate::host::ssh::{Ssh, Target};
use crate::host::{Host, HostView};
use crate::joining::refusals::Refusal;
use crate::joining::{self, endpoint};
use crate::journal::{Change, Journal, STATE_DIR};
use crate::plans;
use crate::replacing::{Departed, remove_member};
use crate::rollback::owed::{Member, Owed};
use crate::rollback::{self, MemberWord, Rollback};
use crate::signals::Stop;
use crate::step::{View, World};

/// What `reset` is told.
pub struct Reset<'a> {
    /// This machine.
    pub host: HostView,
    /// Where words go.
    pub console: &'a Console,
    /// Whether to end after the plan.
    pub dry_run: bool,
    /// Whether nobody needs to be asked.
    pub yes: bool,
    /// How to reach a healthy master, another one than this.
    pub target: Target,
}

/// Takes this machine out of its cluster.
pub fn reset(options: &Reset<'_>, local: Arc<dyn Runner>) -> Result<()> {
    root_only()?;
    let console = options.console;
    let terms = Terms {
        console,
        dry_run: options.dry_run,
        yes: options.yes,
        pot: "none".to_owned(),
        state: options.host.locate(STATE_DIR),
    };
    let target = options.target.clone();
    console.say(&format!("connecting to {}@{} …", target.user, target.host));
    let address_given = target.host.clone();
    let ssh: Arc<dyn Runner> = Arc::new(Ssh::connect(local, target)?);
    let view = ClusterView::new(ssh, address_given).by_own_server();
    console.say("asking the cluster and looking at this machine …");
    let cluster = ClusterFacts::gather(&view).map_err(not_eligible)?;
    let journal = Journal::read(&terms.state)?;
    let owed = Owed::of(&journal);
    let facts = facts::gather(
        &options.host,
        Some(endpoint::healthy_address(&cluster)?),
        cluster.config.etcd.data_dir(),
    )?;
    let departed = ourselves(options, &cluster, &facts, owed.member.as_ref())?;
    let holder = Holder {
        identity: format!("{}/{}", departed.name, departed.address),
        clock_skew: cluster.clock_skew,
    };
    let mut refused = refusals(&view, &cluster, &departed, &holder)?;
    refused.extend(identity::other_cluster(&options.host, &cluster)?);
    let own = addresses(&facts);
    refused.extend(own_address(&own, &departed.address));
    refused.extend(identity::not_ourselves(
        &options.host,
        &own,
        &cluster,
        &departed,
    )?);
    refuse(console, &refused)?;

    let leave = plans::depart(&cluster, &departed, None);
    // What a join of ours brought is rolled back; what another one brought is cleared.
    let clear = if owed.joined {
        Vec::new()
    } else {
        plans::clear(&cluster, departed.name.clone(), &terms.state)
    };
    let look = View {
        host: &options.host,
        cluster: Some(&view),
    };
    let mut plan = Plan::of(&leave, look)?;
    let listed = !plan.is_done();
    plan.rows.extend(Plan::of(&clear, look)?.rows);
    if plan.is_done() && owed.is_empty() {
        console.result("nothing to do")?;
        return console.document(
            &json!({ "workflow": "reset", "outcome": "nothing to do", "node": departed.name }),
        );
    }
    let mut agreed = options.yes;
    if !plan.is_done() || owed.member.is_some() {
        let subject = json!({ "node": departed.name, "address": departed.address });
        let session = if plan.is_done() && !options.dry_run {
            let question = format!(
                "{} lists nothing of {} any more. Undo here what made it a master?",
                view.address(),
                departed.name
            );
            if !options.yes && !console.confirm(&question)? {
                bail!(Usage(
                    "nothing was changed: nobody said yes. Answer y on a terminal, or add --yes"
                        .to_owned()
                ));
            }
            Some(Session::open(&terms, "reset")?)
        } else {
            Session::begin(&terms, "reset", &plan, &subject)?
        };
        let Some(session) = session else {
            return preview(options, &departed, &owed);
        };
        let host = Host::new(options.host.clone(), &session.journal).until(Stop::listen()?);
        let changing = Cluster::new(view.clone());
        let world = World {
            host: &host,
            cluster: Some(&changing),
        };
        let outcome = (|| {
            if listed {
                let lock = Lock::take(&changing, &holder, host.stop()).map_err(not_eligible)?;
                let left = engine::run(&leave, world, &session.journal, console);
                let released = lock.release();
                left.and(released)?;
            }
            // What a join that was killed left for others to read would end by itself, in minutes or hours.
            let uploaded = joining::uploaded_since(&journal);
            let left = credentials::left_over(&view, &departed.name, uploaded)?;
            credentials::revoke(&changing, &left)?;
            host.note(Change::LeftCluster {
                node: departed.name.clone(),
                address: departed.address.clone(),
            })?;
            engine::run(&clear, world, &session.journal, console)
        })();
        session.end(&terms, outcome, &subject)?;
        // The plan of the whole was agreed to.
        agreed = true;
        console.result(&format!(
            "{} is no member of the cluster any more",
            departed.name
        ))?;
    }
    if owed.is_empty() {
        return Ok(());
    }
    rollback::run(&Rollback {
        host: options.host.clone(),
        state: options.host.locate(STATE_DIR),
        console,
        dry_run: options.dry_run,
        yes: agreed,
        member: MemberWord::AsJournaled,
    })
}

/// A dry run shows what the rollback would undo, too.
fn preview(options: &Reset<'_>, departed: &Departed, owed: &Owed) -> Result<()> {
    if owed.is_empty() {
        return Ok(());
    }
    options.console.say(&format!(
        "and then, with {} out of the cluster, this is undone:",
        departed.name
    ));
    rollback::run(&Rollback {
        host: options.host.clone(),
        state: options.host.locate(STATE_DIR),
        console: options.console,
        dry_run: true,
        yes: false,
        member: MemberWord::SaidToBeGone,
    })
}

/// This machine as the cluster knows it.
fn ourselves(
    options: &Reset<'_>,
    cluster: &ClusterFacts,
    facts: &Facts,
    member: Option<&Member>,
) -> Result<Departed> {
    let (name, address) = if let Some(Member { node, address }) = member {
        (node.clone(), address.clone())
    } else {
        let address = facts
            .source_address
            .context("this machine has no address that reaches the healthy master")?
            .to_string();
        let node = cluster
            .nodes
            .iter()
            .find(|node| node.has_address(&address))
            .map(|node| node.metadata.name.clone());
        (node.map_or_else(hostname, Ok)?, address)
    };
    Departed::ourselves(cluster, &name, &address)
        .map_err(|refusal| refused(options.console, Untouched::Everything, &[refusal]))
}

fn refusals(
    view: &ClusterView,
    cluster: &ClusterFacts,
    departed: &Departed,
    holder: &Holder,
) -> Result<Vec<Refusal>> {
    let mut all = Vec::new();
    if departed.member(&cluster.members).is_some() {
        all.extend(remove_member::foreseen(cluster, departed, false));
    }
    if cluster.endpoint.host == departed.address {
        all.push(Refusal {
            cause: format!(
                "the cluster's endpoint {}:{} is this machine's own address: without it no node would find the cluster",
                cluster.endpoint.host, cluster.endpoint.port
            ),
            remedy: "Give that address to another master, or to a load balancer before them, first".to_owned(),
        });
    }
    all.extend(locked(view, holder)?);
    Ok(all)
}
