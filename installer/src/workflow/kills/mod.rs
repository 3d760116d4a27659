//! Whole replacements on a cluster that is only played: killed at every one of their commands, with joins that break off, with one more master lost; and run again.
//!
//! What is true of every run: no removal costs the quorum or takes a member that is well; a master's member goes after a snapshot that was checked in the same run, and before its
//! Node; nothing goes that is not recorded; no command is run that nobody foresaw. What is true in the end, however often it was begun, is in `end.rs`.

mod ahead;
mod end;
mod etcd;
mod files;
mod kubeadm;
mod kubectl;
mod played;
mod process;
mod runner;
mod world;

use std::sync::Arc;

use serde_json::{Value, json};

use self::kubeadm::{Break, PHASES};
use self::process::{End, options};
use self::runner::{Trouble, locked};
use self::world::{Case, GONE, SECOND, Scenario, World};
use crate::host::HostView;
use crate::host::command::Local;
use crate::preflight;
use crate::workflow::{Master, Way};

const CASES: [Case; 5] = [
    Case::Wiped,
    Case::Corrupt,
    Case::Dead,
    Case::HalfDead,
    Case::Worker,
];

/// One of each era: Docker with v1beta1, Docker with v1beta2, containerd with v1beta4 and learners.
const MINORS: [u16; 3] = [14, 20, 34];

fn scenario(case: Case, minor: u16) -> Scenario {
    Scenario {
        case,
        minor,
        masters: 3,
    }
}

/// Runs to the end; tells which commands changed something.
fn finish(world: &World, told: &str) -> Vec<String> {
    let ran = world.run(None);
    assert!(matches!(ran.end, End::Done), "{told}: {ran:#?}");
    assert_eq!(world.unfinished(), Vec::<String>::new(), "{told}");
    ran.changes
}

/// Runs once more, with nothing left to do.
fn run_in_vain(world: &World, told: &str) {
    let again = world.run(None);
    assert!(
        matches!(again.end, End::Done) && again.changes.is_empty(),
        "{told}, and once more: {again:#?}"
    );
}

/// The commands of a whole run that change something.
fn whole(scenario: Scenario) -> Vec<String> {
    let world = World::new(scenario);
    let commands = finish(&world, &format!("{scenario:?}"));
    run_in_vain(&world, &format!("{scenario:?}"));
    commands
}

/// Kills a run after each of its commands that change something, and of the second minor before each as well, and runs it again. Between the two only this program itself writes, which it
/// does in the same way for all minors.
fn kill_everywhere(case: Case) {
    for minor in MINORS {
        let scenario = scenario(case, minor);
        for (at, command) in (1..).zip(whole(scenario)) {
            let before = (minor == MINORS[1]).then_some(Trouble::KilledBefore(at));
            for trouble in before.into_iter().chain([Trouble::KilledAfter(at)]) {
                let (world, told) = (
                    World::new(scenario),
                    format!("{scenario:?}, {trouble:?}: {command}"),
                );
                let ran = world.run(Some(trouble));
                assert!(matches!(ran.end, End::Killed), "{told}: {ran:#?}");
                finish(&world, &told);
            }
        }
    }
}

#[test]
fn a_killed_rebirth_on_an_empty_disk_is_finished_by_the_next_run() {
    kill_everywhere(Case::Wiped);
}

#[test]
fn a_killed_rebirth_of_a_machine_with_a_damaged_etcd_is_finished_by_the_next_run() {
    kill_everywhere(Case::Corrupt);
}

#[test]
fn a_killed_change_of_a_dead_master_is_finished_by_the_next_run() {
    kill_everywhere(Case::Dead);
}

#[test]
fn a_killed_change_of_a_half_dead_master_that_is_reset_is_finished_by_the_next_run() {
    kill_everywhere(Case::HalfDead);
}

#[test]
fn a_killed_change_to_a_worker_is_finished_by_the_next_run() {
    kill_everywhere(Case::Worker);
}

#[test]
fn a_join_that_breaks_off_in_any_phase_is_cleared_and_made_anew() {
    for (case, minor) in CASES
        .into_iter()
        .flat_map(|case| MINORS.map(|minor| (case, minor)))
    {
        for phase in 0..PHASES {
            // What fails in the first minor loses its power in the others.
            let how = if (phase % 2 == 0) == (minor == MINORS[0]) {
                Break::Fails
            } else {
                Break::PowerCut
            };
            let told = format!("{case:?} 1.{minor}, {how:?} after phase {phase}");
            let world = World::new(scenario(case, minor));
            locked(&world.played).breaks = Some((phase, how));
            let ran = world.run(None);
            match (how, &ran.end) {
                (Break::Fails, End::Failed(why)) => {
                    assert!(why.contains("kubeadm did not join"), "{told}: {why}");
                }
                (Break::PowerCut, End::Killed) => {}
                _ => panic!("{told}: {ran:#?}"),
            }
            finish(&world, &told);
            run_in_vain(&world, &told);
        }
    }
}

/// With one more master lost, the next run comes to its end or says what is missing, and nothing that is done costs the quorum. Once that master is back, the work is finished.
fn survive_the_loss(world: &World, told: &str) {
    let ran = world.run(None);
    match &ran.end {
        End::Done => {}
        End::Refused(why) => assert!(
            why.contains("quorum") || why.contains("does not answer"),
            "{told}: {why}"
        ),
        End::Failed(_) | End::Killed => panic!("{told}: {ran:#?}"),
    }
    assert_eq!(world.wrong(), Vec::<String>::new(), "{told}");
    locked(&world.played).find_master();
    finish(world, told);
}

#[test]
fn a_half_made_member_stays_where_the_quorum_needs_it() {
    for (case, minor) in [(Case::Wiped, 20), (Case::Dead, 14), (Case::Dead, 34)] {
        for phase in 0..PHASES {
            let world = World::new(scenario(case, minor));
            locked(&world.played).breaks = Some((phase, Break::PowerCut));
            world.run(None);
            locked(&world.played).lose_master();
            survive_the_loss(
                &world,
                &format!("{case:?} 1.{minor}, power cut after phase {phase}"),
            );
        }
    }
}

/// Loses one more master at any moment, whether the run is killed there or goes on.
fn lose_a_master(masters: u8, minor: u16, cases: &[Case]) {
    for &case in cases {
        let scenario = Scenario {
            masters,
            ..scenario(case, minor)
        };
        for (at, command) in (1..).zip(whole(scenario)) {
            for trouble in [Trouble::KilledAfter(at), Trouble::MasterLost(at)] {
                // Between the guard's word and the removal nothing can be known any more; etcd itself refuses then.
                if command.contains("member remove") && trouble == Trouble::MasterLost(at) {
                    continue;
                }
                let told = format!("{scenario:?}, {trouble:?}: {command}");
                let world = World::new(scenario);
                world.run(Some(trouble));
                locked(&world.played).lose_master();
                survive_the_loss(&world, &told);
            }
        }
    }
}

#[test]
fn one_of_two_healthy_masters_lost_at_any_moment_costs_no_quorum_by_us() {
    lose_a_master(3, 14, &[Case::Corrupt, Case::Worker]);
}

#[test]
fn one_of_four_healthy_masters_lost_at_any_moment_costs_no_quorum_by_us() {
    lose_a_master(5, 20, &[Case::Wiped, Case::Dead]);
}

#[test]
fn one_of_two_or_four_healthy_masters_with_learners_lost_at_any_moment_costs_no_quorum_by_us() {
    lose_a_master(3, 34, &[Case::Corrupt, Case::Worker]);
    lose_a_master(5, 34, &[Case::Wiped, Case::Dead]);
}

#[test]
fn a_machine_that_was_half_emptied_is_emptied_by_the_next_run() {
    for (case, minor) in [(Case::Corrupt, 14), (Case::Worker, 20)] {
        let scenario = scenario(case, minor);
        let commands = whole(scenario);
        let stop = commands
            .iter()
            .position(|cmd| cmd == "systemctl stop kubelet.service");
        let at = stop.expect("the kubelet is stopped first") + 1;
        let removed = [
            "/etc/kubernetes/admin.conf",
            "/etc/kubernetes/controller-manager.conf",
            "/etc/kubernetes/scheduler.conf",
            "/etc/kubernetes/kubelet.conf",
            "/etc/kubernetes/manifests",
            "/var/lib/kubelet/config.yaml",
            "/var/lib/kubelet/kubeadm-flags.env",
            "/etc/kubernetes/pki/ca.crt",
            "/etc/kubernetes/pki",
        ];
        for count in 0..=removed.len() {
            let world = World::new(scenario);
            world.run(Some(Trouble::KilledAfter(at)));
            for path in &removed[..count] {
                locked(&world.played).here.remove(path);
            }
            finish(&world, &format!("{scenario:?}, {count} removed"));
        }
    }
}

#[test]
fn a_worker_is_not_brought_back_as_a_master() {
    let world = World::new(scenario(Case::Worker, 20));
    for force in [false, true] {
        let rebirth = Master {
            way: Way::Rebirth { force },
            node_name: None,
            ..options(world.scenario)
        };
        let ran = world.run_another(&rebirth, None);
        assert!(
            matches!(&ran.end, End::Refused(why) if why.contains("the worker w1") && why.contains("change-master --down")),
            "{ran:#?}"
        );
        assert_eq!(ran.changes, Vec::<String>::new());
    }
}

/// The one document of a run.
#[track_caller]
fn only(documents: &[Value]) -> &Value {
    assert_eq!(documents.len(), 1, "{documents:#?}");
    &documents[0]
}

#[test]
fn what_the_old_node_had_is_in_the_one_document_and_outlives_the_record() {
    let world = World::new(scenario(Case::Dead, 20));
    let commands = whole(world.scenario);
    let dropped = commands
        .iter()
        .position(|cmd| cmd.contains("delete configmap kpot-m3"));
    let dropped = dropped.expect("the record goes in the end") + 1;
    let (ran, documents) = world.run_in_json(None);
    assert!(matches!(ran.end, End::Done), "{ran:#?}");
    let document = only(&documents);
    assert_eq!(document["outcome"], "done");
    let offered: Vec<&str> = document["offered"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(offered[0], "kubectl label node b1 'rack=7'");

    let world = World::new(world.scenario);
    world.run(Some(Trouble::KilledAfter(dropped)));
    let here = locked(&world.played).here.clone();
    let runs = here.list("/var/lib/kpot/backup");
    let kept = |run: &String| {
        let path = format!("/var/lib/kpot/backup/{run}/offered-m3.sh");
        HostView::new(world.root.path(), Arc::new(Local)).text(&path)
    };
    let kept: Vec<String> = runs.iter().filter_map(|run| kept(run).unwrap()).collect();
    assert_eq!(kept, [offered.join("\n") + "\n"]);
}

#[test]
fn a_refusal_under_the_lock_is_in_the_one_document() {
    let world = World::new(Scenario {
        masters: 5,
        ..scenario(Case::Dead, 20)
    });
    let (ran, documents) = world.run_in_json(Some(Trouble::MasterLost(1)));
    assert!(
        matches!(&ran.end, End::Refused(why) if why.contains("nothing was changed on the cluster")),
        "{ran:#?}"
    );
    let document = only(&documents);
    assert_eq!(document["outcome"], "refused");
    let cause = document["refusals"][0]["cause"].as_str();
    assert!(
        cause.is_some_and(|cause| cause.contains("m2")),
        "{document:#}"
    );
    assert!(document["error"].is_string() && document["steps"].is_array());
}

#[test]
fn an_alarm_is_refused_by_its_name_and_costs_nobody_a_quorum() {
    for (kind, remedy) in [("NOSPACE", "compact REVISION"), ("CORRUPT", "hashkv")] {
        for case in [Case::Dead, Case::Wiped] {
            let world = World::new(scenario(case, 34));
            let id = locked(&world.played).etcd.members[0].id;
            locked(&world.played).etcd.alarms = format!("memberID:{id} alarm:{kind} \n");
            let (ran, told) = world.run_in_words(None);
            assert!(
                matches!(&ran.end, End::Refused(why) if why.contains(&format!("alarm {kind} for m1"))
                    && why.contains("alarm disarm") && why.contains(remedy) && !why.contains("quorum")),
                "{ran:#?}"
            );
            assert!(!told.contains("quorum"), "{told}");
            assert_eq!(ran.changes, Vec::<String>::new());
            locked(&world.played).etcd.alarms.clear();
            finish(&world, "the alarm is disarmed");
        }
    }
}

#[test]
fn a_learner_that_lives_is_not_taken_for_dead() {
    for minor in [20, 34] {
        let world = World::new(scenario(Case::Dead, minor));
        {
            let etcd = &mut locked(&world.played).etcd;
            etcd.members[2].learner = true;
            etcd.alive.insert(GONE.1.to_owned());
        }
        let ran = world.run(None);
        assert!(
            matches!(&ran.end, End::Refused(why) if why.contains("m3") && why.contains("it is alive") && why.contains("kpot-install reset")),
            "{ran:#?}"
        );
        assert_eq!(ran.changes, Vec::<String>::new());
        locked(&world.played).etcd.alive.remove(GONE.1);
        finish(&world, "a learner that is dead goes");
    }
}

#[test]
fn a_member_that_answers_this_machine_alone_is_heard_before_anything_is_changed() {
    for (case, minor) in [(Case::Worker, 20), (Case::Dead, 34)] {
        let world = World::new(scenario(case, minor));
        {
            let etcd = &mut locked(&world.played).etcd;
            etcd.alive.insert(GONE.1.to_owned());
            etcd.hidden.insert(GONE.1.to_owned());
        }
        let (ran, told) = world.run_in_words(None);
        assert!(
            matches!(&ran.end, End::Refused(why) if why.contains("nothing was changed on the cluster")
                && why.contains("it answers this machine") && why.contains("kpot-install reset")),
            "{ran:#?}"
        );
        let changed = |part: &str| ran.changes.iter().any(|cmd| cmd.contains(part));
        assert!(changed("get --consistency=l health"), "it was asked");
        for part in ["drain", "snapshot save", "member remove"] {
            assert!(!changed(part), "{part} in {:#?}", ran.changes);
        }
        let record = format!("kpot-{}", GONE.0);
        let played = locked(&world.played);
        assert!(!played.objects.names("configmap").contains(&record));
        drop(played);
        assert!(!told.contains("uncordon"), "{told}");
        assert_eq!(world.wrong(), Vec::<String>::new());
        locked(&world.played).etcd.alive.remove(GONE.1);
        finish(&world, "and now it is dead");
    }
}

#[test]
fn who_was_drained_for_nothing_is_told_how_to_stay_a_worker() {
    let scenario = scenario(Case::Worker, 20);
    let commands = whole(scenario);
    let saved = commands
        .iter()
        .position(|cmd| cmd.contains("snapshot save"));
    let at = saved.expect("a snapshot is taken") + 1;
    for trouble in [Trouble::MasterLost(1), Trouble::MasterLost(at)] {
        let world = World::new(scenario);
        let (ran, told) = world.run_in_words(Some(trouble));
        assert!(!matches!(ran.end, End::Done), "{ran:#?}");
        let drained = ran.changes.iter().any(|cmd| cmd.contains(" drain "));
        assert_eq!(drained, trouble == Trouble::MasterLost(at));
        if drained {
            assert!(told.contains("kubectl uncordon w1"), "{told}");
        }
    }
}

#[test]
fn room_for_what_is_kept_is_asked_before_a_member_goes() {
    const GB: u64 = 1 << 30;
    let refused = |case: Case, old: u64, database: u64, own_disk: bool| {
        let mut world = World::new(scenario(case, 20));
        let mut disks = preflight::tests::good().disks;
        disks.state.device = 20;
        disks.state.available = 2 * GB;
        disks.etcd.device = if own_disk { 21 } else { 20 };
        disks.etcd.available = 2 * GB;
        world.disks = Some(disks);
        locked(&world.played).etcd.database = database;
        locked(&world.played)
            .here
            .grow("/var/lib/etcd/member/snap/db", old);
        let ran = world.run(None);
        match ran.end {
            End::Refused(why) => {
                assert!(why.contains("/var/lib/kpot"), "{why}");
                assert_eq!(ran.changes, Vec::<String>::new());
                true
            }
            End::Done => false,
            End::Failed(_) | End::Killed => panic!("{ran:#?}"),
        }
    };
    assert!(refused(Case::Corrupt, 4 * GB, 512, true));
    assert!(!refused(Case::Corrupt, 4 * GB, 512, false), "it is renamed");
    assert!(refused(Case::Corrupt, GB, GB, true), "both together");
    assert!(refused(Case::Wiped, 0, 3 * GB, true), "the snapshot alone");
    assert!(!refused(Case::Wiped, 0, GB, true));
}

#[test]
fn a_master_takes_no_other_ones_place() {
    let world = World::new(scenario(Case::Dead, 14));
    finish(&world, "b1 takes the place of m3");
    locked(&world.played).lose_master();
    let change = Master {
        way: Way::Change {
            down: SECOND.0.to_owned(),
            reset_down: false,
            down_host_key: None,
        },
        ..options(world.scenario)
    };
    let ran = world.run_another(&change, None);
    assert!(
        matches!(&ran.end, End::Refused(why) if why.contains("did not take the place of m2")),
        "{ran:#?}"
    );
    assert_eq!(ran.changes, Vec::<String>::new());
}

#[test]
fn a_master_without_its_label_comes_back() {
    let world = World::new(scenario(Case::Wiped, 20));
    if let Some(node) = locked(&world.played).objects.get_mut("node", "", GONE.0) {
        let label = world::master_label(20);
        node["metadata"]["labels"]
            .as_object_mut()
            .map(|labels| labels.remove(label));
    }
    finish(&world, "its member is still listed");
}

#[test]
fn a_node_that_its_finalizers_hold_is_told_with_what_lets_go_of_it() {
    let world = World::new(scenario(Case::Dead, 20));
    if let Some(node) = locked(&world.played).objects.get_mut("node", "", GONE.0) {
        node["metadata"]["finalizers"] = json!(["example.com/guard"]);
    }
    let ran = world.run(None);
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    let typed = format!(
        "kubectl --kubeconfig /etc/kubernetes/admin.conf patch node m3 --type=merge --patch '{patch}'"
    );
    assert!(
        matches!(&ran.end, End::Failed(why) if why.contains("example.com/guard") && why.contains(&typed)),
        "{ran:#?}"
    );
    let words = ["patch", "node", GONE.0, "--type=merge", "--patch", patch];
    locked(&world.played).objects.play(&words, &[]);
    finish(&world, "its finalizers are gone");
}

#[test]
fn dangerous_acts_have_their_order() {
    for (case, minor) in CASES
        .into_iter()
        .flat_map(|case| MINORS.map(|minor| (case, minor)))
    {
        let commands = whole(scenario(case, minor));
        let at = |part: &str| {
            let found: Vec<usize> = (0..commands.len())
                .filter(|at| commands[*at].contains(part))
                .collect();
            assert_eq!(found.len(), 1, "{case:?}: {part} in {commands:#?}");
            found[0]
        };
        let mut order = vec![
            at("snapshot save"),
            at("member remove"),
            at("delete node m3"),
        ];
        order.extend((case == Case::Worker).then(|| at("delete node w1")));
        if matches!(case, Case::Corrupt | Case::Worker) {
            order.extend([
                at("systemctl stop kubelet"),
                at("kubeadm reset"),
                at("ip link delete"),
            ]);
        }
        order.extend([
            at("kubeadm token create"),
            at("upload-certs"),
            at("kubeadm join"),
        ]);
        order.extend((case == Case::HalfDead).then(|| at("find -H /etc/kubernetes -xdev")));
        order.extend(
            scenario(case, minor)
                .is_rebirth()
                .then(|| at("patch node m3")),
        );
        order.push(at("delete configmap kpot-m3"));
        assert!(order.is_sorted(), "{case:?}: {order:?} in {commands:#?}");
    }
}
