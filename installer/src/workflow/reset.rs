//! Taking this machine out of its cluster: its etcd member, if the others keep their quorum without it, its Node, and then everything on the machine that made it a master.
//!
//! It needs no pot. What this program's own runs wrote is rolled back from the journal; a master that somebody else made is backed up and cleared as `kubeadm reset` does it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::decide::{addresses, locked, own_address, take_lock};
use super::session::Session;
use super::{
    OUTLIVING, Terms, Untouched, await_kubeadm, identity, not_eligible, refuse, refused, root_only,
    warn,
};
use crate::console::Console;
use crate::control_plane::announced::Endpoint;
use crate::control_plane::etcd::Etcd;
use crate::control_plane::facts::ClusterFacts;
use crate::control_plane::lease::Holder;
use crate::control_plane::{Cluster, ClusterView, credentials};
use crate::engine::{self, Plan};
use crate::exit::Usage;
use crate::facts::{self, Facts, kubelet};
use crate::host::command::Runner;
use crate::host::ssh::{Ssh, Target};
use crate::host::{Host, HostView, Kind};
use crate::joining::refusals::Refusal;
use crate::joining::{self, MANIFESTS, endpoint};
use crate::journal::{Change, Journal, STATE_DIR};
use crate::plans;
use crate::preflight::{Verdict, disk};
use crate::replacing::{Departed, clear, record, remove_member};
use crate::rollback::owed::{Member, Owed};
use crate::rollback::{self, MemberWord, Rollback};
use crate::runtime::Runtime;
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
    /// The name of this machine's node, where it was given.
    pub node_name: Option<String>,
    /// The address of this machine's apiserver and etcd, where it was given.
    pub advertise_address: Option<IpAddr>,
}

/// Takes this machine out of its cluster.
pub fn reset(options: &Reset<'_>, local: Arc<dyn Runner>) -> Result<()> {
    root_only()?;
    let target = options.target.clone();
    let words = format!("connecting to {}@{} …", target.user, target.host);
    options.console.say(&words);
    let address_given = target.host.clone();
    let ssh: Arc<dyn Runner> = Arc::new(Ssh::connect(local, target)?);
    attempt(
        options,
        &ClusterView::new(ssh, address_given).by_own_server(),
    )
}

/// The same, by way of the healthy master.
fn attempt(options: &Reset<'_>, view: &ClusterView) -> Result<()> {
    let console = options.console;
    let terms = Terms {
        console,
        dry_run: options.dry_run,
        yes: options.yes,
        pot: "none".to_owned(),
        host: options.host.clone(),
        state: options.host.locate(STATE_DIR),
    };
    let patience = if options.dry_run {
        Duration::ZERO
    } else {
        OUTLIVING
    };
    // It may add a member of etcd, and write here, to its very end: what is seen before is not what it leaves.
    await_kubeadm(console, &terms.state, patience)?;
    console.say("asking the cluster and looking at this machine …");
    let cluster = ClusterFacts::gather(view).map_err(not_eligible)?;
    let journal = Journal::read(&terms.state)?;
    let owed = Owed::of(&journal);
    let facts = facts::gather(
        &options.host,
        Runtime::of_node(&cluster.runtime).unwrap_or(Runtime::Docker),
        Some(endpoint::healthy_address(&cluster)?),
        cluster.config.etcd.data_dir(),
    )?;
    let departed = ourselves(options, view, &cluster, &facts, owed.member.as_ref())?;
    warn(console, departed.note(&cluster).as_slice());
    let holder = Holder::new(format!("{}/{}", departed.name, departed.address), &cluster);
    let mut refused = refusals(view, &cluster, &departed, &holder)?;
    let snapshot = remove_member::snapshot_size(view, &cluster, &departed)?;
    // What a join of ours brought is rolled back where it is.
    let old_data = if owed.joined {
        0
    } else {
        clear::copied(&options.host, &facts.disks, &cluster)?
    };
    let kept = snapshot + old_data;
    if kept > 0
        && let Verdict::Refuse { reason, remedy } = disk::keeps(&facts.disks, kept)
    {
        refused.push(Refusal {
            cause: reason,
            remedy,
        });
    }
    refused.extend(identity::other_cluster(&options.host, &cluster)?);
    let own = addresses(&facts);
    let resolved_here = endpoint::resolve_here(&options.host, &cluster.endpoint)?;
    let mover = mover(&options.host)?;
    let holds = Holds::of(&cluster.endpoint, &resolved_here, &own, &departed.address);
    match holds.judge(&cluster.endpoint, mover.as_deref()) {
        Ok(note) => warn(console, note.as_slice()),
        Err(refusal) => refused.push(refusal),
    }
    refused.extend(own_address(&own, &departed.address));
    refused.extend(identity::not_ourselves(
        &options.host,
        &own,
        &facts.ports,
        &cluster,
        &departed,
    )?);
    refuse(console, &refused)?;

    let leave = plans::depart(&cluster, &departed, None);
    // What a join of ours brought is rolled back; what another one brought is cleared.
    let clear = if owed.joined {
        Vec::new()
    } else {
        let socket = kubelet::socket(&options.host)?;
        plans::clear(&cluster, departed.name.clone(), &terms.state, socket)
    };
    let look = View {
        host: &options.host,
        cluster: Some(view),
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
            // Another run may have come, and been killed, while somebody thought about the plan.
            await_kubeadm(console, &terms.state, Duration::ZERO)?;
            if listed {
                let lock = take_lock(console, &changing, &holder, host.stop())?;
                let left = engine::run(&leave, world, &session.journal, console);
                let released = lock.release();
                left.and(released)?;
            }
            // What a join that was killed left for others to read would end by itself, in minutes or hours.
            let uploaded = joining::uploaded_since(&journal);
            let left = credentials::left_over(view, &departed.name, uploaded)?;
            credentials::revoke(&changing, &left.ours)?;
            note_left(&host, view, cluster.etcd.as_ref(), &departed)?;
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
    console.goes_on();
    rollback::run(&Rollback {
        host: options.host.clone(),
        state: options.host.locate(STATE_DIR),
        console,
        dry_run: options.dry_run,
        yes: agreed,
        member: MemberWord::AsJournaled,
    })
}

/// Notes that this machine left, by which a rollback may take etcd's data: only where etcd itself lists nothing at its address, or of its name, any more.
fn note_left(
    host: &Host<'_>,
    view: &ClusterView,
    etcd: Option<&Etcd>,
    departed: &Departed,
) -> Result<()> {
    let listed = etcd.map_or_else(|| Ok(Vec::new()), |etcd| etcd.listed(view))?;
    let own = listed
        .iter()
        .find(|member| member.is_at(&departed.address) || member.name == departed.name);
    if let Some(own) = own {
        bail!(
            "etcd lists {own}, which has this machine's address or name: it came after the plan was made, or was not removed. Nothing was undone on this machine. See whether a kubeadm is at work here (ps -ef | grep kubeadm); when it has ended, run the same command again"
        );
    }
    host.note(Change::LeftCluster {
        node: departed.name.clone(),
        address: departed.address.clone(),
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
    options.console.goes_on();
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
    view: &ClusterView,
    cluster: &ClusterFacts,
    facts: &Facts,
    member: Option<&Member>,
) -> Result<Departed> {
    let (known_name, known_address) = member.map(|own| (&own.node, &own.address)).unzip();
    let given = options.advertise_address.map(|address| address.to_string());
    let address = match given.or_else(|| known_address.cloned()) {
        Some(address) => address,
        None => facts
            .source_address
            .context("this machine has no address that reaches the healthy master: give one with --advertise-address")?
            .to_string(),
    };
    let records = record::all(view)?;
    let name = match options.node_name.as_ref().or(known_name) {
        Some(name) => name.clone(),
        None => match identity::known_as(cluster, &records, &address) {
            Some(name) => name,
            None => identity::usual_name(cluster, endpoint::healthy_address(cluster)?, &address)?,
        },
    };
    Departed::ourselves(cluster, &records, &name, &address, &addresses(facts))
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
        all.extend(remove_member::foreseen(cluster, departed, None));
        all.extend(remove_member::no_room(view, cluster, departed)?);
    }
    if departed.is_listed(cluster) {
        all.extend(cluster.alarms.iter().map(Refusal::from));
    }
    all.extend(locked(view, holder)?);
    Ok(all)
}

/// What of the cluster's endpoint is at this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// Nothing.
    Nothing,
    /// One of the addresses that its name has, or its name as only this machine resolves it.
    Part,
    /// All of it, by an address beside the one that the machine has as a master.
    Second,
    /// All of it, by the address that the machine has as a master.
    First,
}

impl Holds {
    /// `own` are all addresses of this machine, `first` is the one that it has as a master. A name that leads the masters to the loopback leads each to itself, and nobody here.
    fn of(endpoint: &Endpoint, here: &[IpAddr], own: &[String], first: &str) -> Self {
        let here: Vec<String> = here
            .iter()
            .filter(|address| !address.is_loopback())
            .map(IpAddr::to_string)
            .collect();
        let is_loopback = |text: &&String| {
            text.parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
        };
        let (looped, there): (Vec<&String>, Vec<&String>) =
            endpoint.resolved_there.iter().partition(is_loopback);
        let ours = |address: &String| address == first || own.contains(address);
        // What the healthy master finds is what the other nodes find; a name that only this machine resolves says less.
        let leads: Vec<&String> = if endpoint.host.parse::<IpAddr>().is_ok() {
            vec![&endpoint.host]
        } else if there.is_empty() && looped.is_empty() {
            here.iter().collect()
        } else {
            there
        };
        if leads.is_empty() || !leads.iter().all(|address| ours(address)) {
            let part = leads.into_iter().chain(&here).any(ours);
            return if part { Self::Part } else { Self::Nothing };
        }
        if leads.iter().any(|address| *address == first) {
            Self::First
        } else {
            Self::Second
        }
    }

    /// Refuses to take the endpoint away, or says what is to be known of it; `mover` moves addresses between the masters.
    fn judge(self, endpoint: &Endpoint, mover: Option<&str>) -> Result<Option<String>, Refusal> {
        let place = endpoint.place();
        match (self, mover) {
            (Self::Nothing, _) => Ok(None),
            (Self::Part, _) => Ok(Some(format!(
                "the cluster's endpoint {place} leads to this machine, too. Take its address out of DNS and of /etc/hosts wherever it stands there"
            ))),
            (Self::Second, Some(mover)) => Ok(Some(format!(
                "the cluster's endpoint {place} is at this machine now. {mover} is here, so it should move to another master by itself: look afterwards whether it did"
            ))),
            (Self::First | Self::Second, _) => Err(Refusal {
                cause: format!(
                    "the cluster's endpoint {place} is this machine's own address: without it no node would find the cluster"
                ),
                remedy: "Give that address to another master, or to a load balancer before them, first (where a service such as keepalived holds it here: stop that here). Where it is a name, point it \
                         at another master: in DNS, or in /etc/hosts of every node".to_owned(),
            }),
        }
    }
}

/// Programs that give an address to another machine when this one no longer serves.
const MOVERS: [&str; 3] = ["keepalived", "kube-vip", "haproxy"];

/// The static pod of this machine that does, where one is told by its manifest's name or content: its path.
fn mover(host: &HostView) -> Result<Option<String>> {
    const FOLDER: &str = "/etc/kubernetes/manifests";
    for name in host.list(FOLDER)? {
        let path = format!("{FOLDER}/{name}");
        let Some(facts) = host.facts(&path)? else {
            continue;
        };
        if facts.kind == Kind::Directory || MANIFESTS.contains(&name.as_str()) {
            continue;
        }
        let text = host.text(&path)?.unwrap_or_default();
        if MOVERS
            .iter()
            .any(|mover| name.contains(mover) || text.contains(mover))
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "tests make the files of the machine that they look at"
)]
mod tests {
    use std::fs;
    use std::io;

    use super::*;
    use crate::console::Format;
    use crate::exit;
    use crate::host::scripted::Scripted;
    use crate::host::ssh::Role;
    use crate::joining::kubeadm_log;
    use crate::replacing::Whose;

    #[test]
    fn nothing_is_looked_at_while_a_kubeadm_of_a_killed_run_is_at_work() {
        let root = tempfile::tempdir().unwrap();
        let host = HostView::new(root.path(), Arc::new(Scripted::new()));
        let log = kubeadm_log(&host.locate(STATE_DIR));
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        let at_work = fs::File::create(&log).unwrap();
        at_work.lock().unwrap();
        let console = Console::on(Format::Text, io::sink(), io::sink());
        let options = Reset {
            host,
            console: &console,
            dry_run: true,
            yes: true,
            target: Target {
                role: Role::Healthy,
                host: "10.0.0.11".to_owned(),
                user: "root".to_owned(),
                port: None,
                identity: None,
                host_key: None,
                password: None,
            },
            node_name: None,
            advertise_address: None,
        };
        let healthy = Arc::new(Scripted::new());
        let view = ClusterView::new(healthy.clone(), "10.0.0.11");
        let refused = attempt(&options, &view).unwrap_err();
        assert_eq!(exit::status(&refused), 3);
        assert!(refused.to_string().contains("still at work"), "{refused}");
        assert_eq!(healthy.asked(), Vec::<String>::new());
        // Dropping it alone would not do: a program that another test starts at this moment has a copy of it.
        at_work.unlock().unwrap();
        attempt(&options, &view).unwrap_err();
        assert!(!healthy.asked().is_empty(), "then the cluster is asked");
    }

    #[test]
    fn the_journal_says_that_this_machine_left_only_when_etcd_lists_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path());
        let here = HostView::new(folder.path(), Arc::new(Scripted::new()));
        let host = Host::new(here, &journal);
        let departed = Departed {
            name: "b1".to_owned(),
            address: "10.0.0.21".to_owned(),
            whose: Whose::Ours,
        };
        let etcd = Etcd::by_crictl("c0ffee");
        let m1 = r#"{"ID":1,"name":"m1","peerURLs":["https://10.0.0.11:2380"]}"#;
        let note = |others: &str| {
            let members = format!(r#"{{"members":[{m1}{others}]}}"#);
            let view = ClusterView::new(
                Arc::new(Scripted::new().on("crictl", 0, &members)),
                "10.0.0.11",
            );
            note_left(&host, &view, Some(&etcd), &departed)
        };
        for listed in [
            r#",{"ID":2,"peerURLs":["https://10.0.0.21:2380"]}"#,
            r#",{"ID":2,"name":"b1","peerURLs":["https://10.0.0.22:2380"]}"#,
        ] {
            let told = note(listed).unwrap_err().to_string();
            assert!(
                told.contains("Nothing was undone") && told.contains("10.0.0.2"),
                "{told}"
            );
        }
        assert_eq!(Journal::read(folder.path()).unwrap(), []);
        note("").unwrap();
        assert_eq!(Journal::read(folder.path()).unwrap().len(), 1);
    }

    fn endpoint(host: &str, there: &[&str]) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            port: 6443,
            resolved_there: there.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    fn holds(host: &str, there: &[&str], here: &[&str]) -> Holds {
        let own = ["10.0.0.13", "10.0.0.100"].map(str::to_owned);
        let here: Vec<IpAddr> = here.iter().map(|text| text.parse().unwrap()).collect();
        Holds::of(&endpoint(host, there), &here, &own, "10.0.0.13")
    }

    #[test]
    fn the_endpoint_is_seen_here_by_any_address_and_by_name() {
        assert_eq!(holds("10.0.0.13", &[], &[]), Holds::First);
        assert_eq!(holds("10.0.0.100", &[], &[]), Holds::Second);
        assert_eq!(holds("10.0.0.99", &[], &[]), Holds::Nothing);
        let name = |there: &[&str], here: &[&str]| holds("api", there, here);
        assert_eq!(name(&["10.0.0.13"], &[]), Holds::First);
        assert_eq!(name(&["10.0.0.100"], &["10.0.0.100"]), Holds::Second);
        assert_eq!(name(&[], &["10.0.0.13"]), Holds::First);
        assert_eq!(
            name(&["10.0.0.11", "10.0.0.13"], &[]),
            Holds::Part,
            "the others stay"
        );
        assert_eq!(
            name(&["127.0.0.1"], &["127.0.0.1"]),
            Holds::Nothing,
            "each master is its own"
        );
        assert_eq!(name(&["127.0.0.1"], &["10.0.0.13"]), Holds::Part);
        assert_eq!(name(&["10.0.0.11"], &["10.0.0.13"]), Holds::Part);
        assert_eq!(name(&["10.0.0.99"], &["10.0.0.99"]), Holds::Nothing);
    }

    #[test]
    fn only_an_address_that_moves_by_itself_may_go_with_this_machine() {
        let at = endpoint("10.0.0.100", &[]);
        let refused = Holds::Second.judge(&at, None).unwrap_err();
        assert!(
            refused.cause.contains("10.0.0.100:6443") && refused.remedy.contains("another master"),
            "{refused:?}"
        );
        assert!(Holds::First.judge(&at, Some("x")).is_err());
        let note = Holds::Second.judge(&at, Some("x")).unwrap().unwrap();
        assert!(note.contains("move to another master"), "{note}");
        assert!(Holds::Part.judge(&at, None).unwrap().is_some());
        assert_eq!(Holds::Nothing.judge(&at, None), Ok(None));
    }

    #[test]
    fn what_moves_an_address_is_found_by_the_name_or_content_of_its_manifest() {
        let root = tempfile::tempdir().unwrap();
        let host = HostView::new(root.path(), Arc::new(Scripted::new()));
        assert_eq!(mover(&host).unwrap(), None);
        let folder = root.path().join("etc/kubernetes/manifests");
        fs::create_dir_all(folder.join("old")).unwrap();
        fs::write(folder.join("kube-apiserver.yaml"), "# behind haproxy\n").unwrap();
        assert_eq!(mover(&host).unwrap(), None);
        fs::write(folder.join("vip.yaml"), "image: plndr/kube-vip:0.3\n").unwrap();
        let found = mover(&host).unwrap().unwrap();
        assert_eq!(found, "/etc/kubernetes/manifests/vip.yaml");
    }
}
