use super::super::fixtures;
use std::time::UNIX_EPOCH;

use bundle_spec::KubeVersion;
use bundle_spec::manifest::RuntimeName;

use super::*;
use crate::control_plane::bootstrap::Barrier;
use crate::control_plane::recorded::{Harm, Unrecorded};

fn stranger(manifest: &Manifest) -> Here<'_> {
    Here {
        node: "b1",
        address: "10.0.0.21",
        local: &[],
        manifest,
        images: vec![],
        has_cni: false,
        network: fixtures::network(),
        static_pods: vec![],
        past: Past::Stranger,
        departed: None,
        uploaded: None,
    }
}

fn refused(change: impl FnOnce(&mut ClusterFacts, &mut Here<'_>)) -> Vec<String> {
    let manifest = fixtures::whole_manifest();
    let mut cluster = fixtures::cluster();
    let mut here = stranger(&manifest);
    change(&mut cluster, &mut here);
    match judge(&cluster, &here).0 {
        Ok(_) => vec![],
        Err(refusals) => refusals
            .into_iter()
            .map(|refusal| format!("{} | {}", refusal.cause, refusal.remedy))
            .collect(),
    }
}

/// Refused for exactly one reason, whose text has all of these.
#[track_caller]
fn once(reasons: &[String], words: &[&str]) {
    assert_eq!(reasons.len(), 1, "{reasons:#?}");
    for word in words {
        assert!(
            reasons[0].contains(word),
            "{word:?} is not in {}",
            reasons[0]
        );
    }
}

#[test]
fn a_healthy_cluster_refuses_nothing() {
    assert!(refused(|_, _| {}).is_empty());
}

#[test]
fn who_bars_machines_with_tokens_is_told_how_to_let_them_in() {
    let bar = |cluster: &mut ClusterFacts| {
        cluster.barriers = vec![Barrier {
            cause: "nobody may read cluster-info".to_owned(),
            remedy: "kubectl create rolebinding x".to_owned(),
        }];
    };
    once(
        &refused(|cluster, _| bar(cluster)),
        &["cluster-info", "kubectl create rolebinding x"],
    );
    let joined = refused(|cluster, here| {
        bar(cluster);
        here.past = Past::Joined;
    });
    assert!(joined.is_empty(), "{joined:#?}");
}

#[test]
fn flags_that_only_the_manifests_have_are_told_and_harmful_ones_refuse() {
    let flag = |flag: &str, own: Option<&str>, recorded: Option<&str>, harm| Unrecorded {
        component: "kube-apiserver",
        flag: flag.to_owned(),
        own: own.map(str::to_owned),
        recorded: recorded.map(str::to_owned),
        harm,
    };
    let encryption = flag(
        "encryption-provider-config",
        Some("/x"),
        None,
        Some(Harm::Encryption),
    );
    once(
        &refused(|cluster, _| cluster.unrecorded = vec![encryption]),
        &[
            "m1 has --encryption-provider-config=/x",
            "gets no --encryption-provider-config",
            "into apiServer.extraArgs",
            "edit configmap kubeadm-config",
        ],
    );
    let quota = Unrecorded {
        component: "etcd",
        ..flag("quota-backend-bytes", Some("8"), None, Some(Harm::Quota))
    };
    once(
        &refused(|cluster, _| cluster.unrecorded = vec![quota]),
        &["takes writes any more", "into etcd.local.extraArgs"],
    );
    let (manifest, mut cluster) = (fixtures::whole_manifest(), fixtures::cluster());
    cluster.unrecorded = vec![
        flag("profiling", Some("false"), None, None),
        flag("v", Some("4"), Some("2"), None),
        flag("max-requests-inflight", None, Some("800"), None),
    ];
    let here = stranger(&manifest);
    let (judged, warnings) = judge(&cluster, &here);
    assert!(judged.is_ok());
    let told = |words: &[&str]| {
        let has_all = |text: &&String| words.iter().all(|word| text.contains(word));
        warnings.iter().filter(has_all).count()
    };
    assert_eq!(told(&["has --profiling=false", "gets no --profiling"]), 1);
    assert_eq!(told(&["has --v=4", "gets --v=2"]), 1);
    assert_eq!(told(&["take max-requests-inflight out of"]), 1);
}

#[test]
fn an_alarm_refuses_a_join_and_is_told_to_who_has_joined() {
    let alarm = |cluster: &mut ClusterFacts| {
        cluster.alarms = vec![Alarm {
            spared: true,
            kind: "NOSPACE".to_owned(),
            whose: "m1".to_owned(),
        }];
    };
    for past in [
        Past::Stranger,
        Past::Interrupted,
        Past::Returning,
        Past::Worker,
    ] {
        let reasons = refused(|cluster, here| {
            alarm(cluster);
            here.past = past;
        });
        once(&reasons, &["NOSPACE", "m1", "defrag", "alarm disarm"]);
    }
    let (manifest, mut cluster) = (fixtures::whole_manifest(), fixtures::cluster());
    alarm(&mut cluster);
    let here = Here {
        past: Past::Joined,
        ..stranger(&manifest)
    };
    let (judged, warnings) = judge(&cluster, &here);
    assert!(judged.is_ok(), "nothing is left to write");
    assert!(
        warnings.iter().any(|warning| warning.contains("NOSPACE")),
        "{warnings:?}"
    );
}

#[test]
fn containerd_beside_docker_masters_is_refused_where_the_kubelet_would_get_another_cgroup_driver() {
    use RuntimeName::{Containerd, Docker};
    let reasons = |runtime, dockers: &str, config_map: &str, minor, past| {
        let mut manifest = fixtures::whole_manifest();
        manifest.runtime.name = runtime;
        manifest.kubernetes = KubeVersion::new(1, minor, 0);
        let mut cluster = fixtures::cluster();
        cluster.version = manifest.kubernetes;
        cluster.cgroup_driver = dockers.to_owned();
        cluster.kubelet.cgroup_driver = config_map.to_owned();
        let here = Here {
            past,
            ..stranger(&manifest)
        };
        let mut reasons = match judge(&cluster, &here).0 {
            Ok(_) => vec![],
            Err(refusals) => refusals,
        };
        reasons.retain(|refusal| refusal.cause.contains("cgroup driver"));
        reasons
    };
    let new = Past::Stranger;
    for config_map in ["", "cgroupfs"] {
        let found = reasons(Containerd, "systemd", config_map, 14, new);
        assert_eq!(found.len(), 1, "{config_map:?}");
        assert!(found[0].cause.contains("systemd") && found[0].cause.contains("cgroupfs"));
        let command = "kpot build --k8s v1.14.0 --runtime docker";
        assert!(found[0].remedy.ends_with(command), "{}", found[0].remedy);
    }
    for (runtime, dockers, config_map, minor, past) in [
        (Docker, "systemd", "", 14, new),
        (Containerd, "cgroupfs", "", 14, new),
        (Containerd, "systemd", "systemd", 14, new),
        // From 1.22 on kubeadm goes by the ConfigMap, with Docker as well.
        (Containerd, "cgroupfs", "", 22, new),
        (Containerd, "systemd", "", 14, Past::Joined),
    ] {
        let found = reasons(runtime, dockers, config_map, minor, past);
        assert_eq!(found, [], "{runtime:?} {dockers} {config_map:?} 1.{minor}");
    }
}

#[test]
fn another_version_names_the_build() {
    once(
        &refused(|cluster, _| {
            cluster.version = KubeVersion::new(1, 34, 4);
            cluster.kubeadm = Some("v1.34.4".to_owned());
            cluster.runtime = "containerd://2.1.4".to_owned();
        }),
        &["v1.34.4", "v1.14.0", "kpot build --k8s v1.34.4"],
    );
    once(
        &refused(|cluster, _| {
            cluster.version = KubeVersion::new(1, 20, 2);
            cluster.kubeadm = Some("v1.20.2".to_owned());
            cluster.runtime = "containerd://1.6.20~ds1".to_owned();
        }),
        &["kpot build --k8s v1.20.2 --runtime containerd"],
    );
    once(
        &refused(|cluster, _| cluster.kubeadm = None),
        &["no kubeadm"],
    );
    once(
        &refused(|cluster, _| cluster.kubeadm = Some("v1.13.4".to_owned())),
        &["v1.13.4"],
    );
}

#[test]
fn a_pot_that_is_a_patch_apart_does_where_every_image_of_the_clusters_version_is_at_hand() {
    let manifest = fixtures::whole_manifest();
    let mut cluster = fixtures::cluster();
    cluster.version = KubeVersion::new(1, 14, 3);
    cluster.config.kubernetes_version = "v1.14.3".to_owned();
    let mut here = stranger(&manifest);
    let refused = judge(&cluster, &here).0.unwrap_err();
    let [refusal] = refused.as_slice() else {
        panic!("{refused:?}");
    };
    assert!(
        refusal.cause.contains("v1.14.3, this pot holds v1.14.0")
            && refusal.cause.contains("k8s.gcr.io/kube-apiserver:v1.14.3")
            && !refusal.cause.contains("pause"),
        "{refusal:?}"
    );
    assert!(refusal.remedy.ends_with("kpot build --k8s v1.14.3"));

    here.images = ["apiserver", "controller-manager", "proxy", "scheduler"]
        .map(|name| format!("k8s.gcr.io/kube-{name}:v1.14.3"))
        .to_vec();
    let (judged, warnings) = judge(&cluster, &here);
    assert!(judged.is_ok(), "{judged:?}");
    assert!(
        warnings
            .iter()
            .any(|one| one.contains("the kubelet, kubeadm and kubectl are the pot's")),
        "{warnings:?}"
    );
    here.images.pop();
    assert!(judge(&cluster, &here).0.is_err(), "one is missing");
}

#[test]
fn a_pause_of_the_cluster_is_told_where_the_new_member_votes_at_once() {
    let paused = |minor: u16, gate: Option<bool>| {
        let mut manifest = fixtures::whole_manifest();
        manifest.kubernetes = KubeVersion::new(1, minor, 0);
        let mut cluster = fixtures::cluster();
        cluster.version = manifest.kubernetes;
        cluster.kubeadm = Some(cluster.version.to_string());
        cluster.members.truncate(1);
        let gate = gate.map(|on| ("EtcdLearnerMode".to_owned(), on));
        cluster.config.feature_gates.extend(gate);
        let (judged, warnings) = judge(&cluster, &stranger(&manifest));
        assert!(judged.is_ok(), "{judged:?}");
        warnings
            .iter()
            .any(|one| one.contains("the cluster pauses"))
    };
    assert!(paused(28, None) && !paused(28, Some(true)));
    assert!(!paused(29, None) && paused(29, Some(false)) && !paused(34, None));
}

#[test]
fn a_clock_off_by_more_than_a_minute_either_way() {
    once(
        &refused(|cluster, _| cluster.clock_skew = 61.0),
        &["61 s ahead"],
    );
    once(
        &refused(|cluster, _| cluster.clock_skew = -3600.0),
        &["3600 s behind"],
    );
    assert!(refused(|cluster, _| cluster.clock_skew = -59.0).is_empty());
}

#[test]
fn a_name_or_an_address_that_is_taken() {
    once(
        &refused(|_, here| here.node = "m2")
            .into_iter()
            .filter(|reason| reason.contains("Ready"))
            .collect::<Vec<_>>(),
        &["m2", "--node-name"],
    );
    let reasons = refused(|_, here| here.address = "10.0.0.12");
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("a node at 10.0.0.12 already: m2")),
        "{reasons:#?}"
    );
}

#[test]
fn a_stale_member_names_the_rebirth_unless_it_is_our_own_half_join() {
    let stale = |cluster: &mut ClusterFacts| {
        let mut member = fixtures::member(3, "b1", "10.0.0.21");
        member.healthy = false;
        cluster.members.push(member);
    };
    once(
        &refused(|cluster, _| stale(cluster)),
        &["b1 3 ", "kpot-install rebirth-master --healthy"],
    );
    assert!(
        refused(|cluster, here| {
            stale(cluster);
            here.past = Past::Interrupted;
        })
        .is_empty()
    );
}

#[test]
fn a_member_that_is_down_or_has_no_vote() {
    once(
        &refused(|cluster, _| cluster.members[1].healthy = false),
        &["m2 2", "1 of 2 do, 2 are needed", "change-master --down m2"],
    );
    once(
        &refused(|cluster, _| cluster.members[1].is_learner = true),
        &["without a vote", "etcdctl member remove 2"],
    );
}

#[test]
fn a_node_at_another_address_of_a_machine_that_began_to_join_is_its_own() {
    let manifest = fixtures::whole_manifest();
    let local = ["10.0.0.21", "192.168.1.21"].map(str::to_owned);
    let refusals = |address, past| {
        let mut cluster = fixtures::cluster();
        cluster.nodes.push(fixtures::node("b1", address));
        let here = Here {
            past,
            local: &local,
            ..stranger(&manifest)
        };
        judge(&cluster, &here).0.err().unwrap_or_default().len()
    };
    assert_eq!(refusals("192.168.1.21", Past::Interrupted), 0);
    assert_eq!(refusals("192.168.1.21", Past::Stranger), 1);
    assert_eq!(
        refusals("192.168.1.22", Past::Interrupted),
        1,
        "another machine of its name"
    );
}

#[test]
fn a_master_whose_records_go_is_in_nobodys_way() {
    let manifest = fixtures::whole_manifest();
    let mut cluster = fixtures::cluster();
    let mut dead = fixtures::member(3, "m3", "10.0.0.13");
    dead.healthy = false;
    cluster.members.push(dead);
    cluster
        .api_endpoints
        .push(("m3".to_owned(), "10.0.0.13".to_owned()));
    let departed = Departed {
        name: "m3".to_owned(),
        address: "10.0.0.13".to_owned(),
        whose: Whose::Another,
    };
    let mut here = stranger(&manifest);
    assert_eq!(judge(&cluster, &here).0.unwrap_err().len(), 2);
    here.departed = Some(&departed);
    assert!(judge(&cluster, &here).0.is_ok());
    cluster.members[1].healthy = false;
    assert_eq!(
        judge(&cluster, &here).0.unwrap_err().len(),
        1,
        "another one that is down still is"
    );
}

#[test]
fn a_second_member_that_is_down_goes_by_commands_that_can_be_typed() {
    let manifest = fixtures::whole_manifest();
    let departed = Departed {
        name: "m3".to_owned(),
        address: "10.0.0.13".to_owned(),
        whose: Whose::Another,
    };
    let mut here = stranger(&manifest);
    here.departed = Some(&departed);
    let mut cluster = fixtures::cluster();
    let mut unstarted = fixtures::member(0x1f, "", "10.0.0.29");
    unstarted.healthy = false;
    cluster.members.push(unstarted);
    let remedy = |cluster: &ClusterFacts| {
        let refusals = judge(cluster, &here).0.unwrap_err();
        assert_eq!(refusals.len(), 1, "{refusals:#?}");
        refusals[0].remedy.clone()
    };
    let told = remedy(&cluster);
    assert!(told.ends_with("`etcdctl member remove 1f`"), "{told}");
    let mut node = fixtures::node("b9", "10.0.0.29");
    node.metadata.labels.clear();
    cluster.nodes.push(node);
    let told = remedy(&cluster);
    assert!(
        told.ends_with("change-master --down b9 --healthy 10.0.0.11"),
        "{told}"
    );
    let mut gone = fixtures::member(3, "m3", "10.0.0.13");
    gone.healthy = false;
    cluster.members.push(gone);
    let told = remedy(&cluster);
    assert!(
        told.ends_with("`etcdctl member remove 1f` and `kubectl delete node b9`"),
        "{told}"
    );
    cluster.members.truncate(2);
    cluster.members[1].healthy = false;
    let told = remedy(&cluster);
    assert!(
        told.starts_with("Bring that member back first")
            && told.ends_with("`kubectl delete node m2`"),
        "{told}"
    );
}

#[test]
fn certificates_that_somebody_else_uploaded() {
    let created = "2026-01-01T12:00:00Z";
    once(
        &refused(|cluster, _| cluster.uploaded_certs = Some(created.to_owned())),
        &["kubeadm-certs", created],
    );
    let since = humantime::parse_rfc3339(created).unwrap();
    assert!(
        refused(|cluster, here| {
            cluster.uploaded_certs = Some(created.to_owned());
            here.uploaded = Some(since);
        })
        .is_empty(),
        "our own of a killed run"
    );
    let later = since + std::time::Duration::from_secs(3600);
    assert_eq!(
        refused(|cluster, here| {
            cluster.uploaded_certs = Some(created.to_owned());
            here.uploaded = Some(later);
        })
        .len(),
        1
    );
    assert!(later > UNIX_EPOCH);
}

#[test]
fn images_that_nobody_has() {
    once(
        &refused(|_, here| here.network.images[0].name = "calico:3".to_owned()),
        &[
            "calico:3",
            "--image calico:3",
            "DaemonSet kube-system/flannel",
        ],
    );
    assert!(
        refused(|_, here| {
            here.network.images[0].name = "docker.io/library/calico:3".to_owned();
            here.images = vec!["calico:3".to_owned()];
        })
        .is_empty(),
        "on this machine already"
    );
    once(
        &refused(|cluster, _| {
            cluster.config.etcd.local = Some(crate::control_plane::kubeadm::LocalEtcd {
                image_tag: "9".to_owned(),
                ..Default::default()
            });
        }),
        &["k8s.gcr.io/etcd:9"],
    );
    let pinned = format!("calico:3@sha256:{}", "a".repeat(64));
    once(
        &refused(|_, here| here.network.images[0].name.clone_from(&pinned)),
        &["digest", &pinned, "edit daemonset flannel"],
    );
    assert!(
        refused(|_, here| {
            here.network.images[0].name.clone_from(&pinned);
            here.past = Past::Joined;
        })
        .is_empty(),
        "it runs here already"
    );
    let listed = format!("docker.io/library/calico@sha256:{}", "a".repeat(64));
    assert!(
        refused(|_, here| {
            here.network.images[0].name.clone_from(&pinned);
            here.images.push(listed.clone());
        })
        .is_empty(),
        "the runtime has it by its digest"
    );
    let others = MissingImage {
        name: "logs:1".to_owned(),
        needed_by: "DaemonSet x/logs".to_owned(),
    };
    assert!(
        refused(|_, here| here.network.others.push(others)).is_empty(),
        "a warning, not a refusal"
    );
}

#[test]
fn a_cluster_that_kubeadm_joins_no_second_master_to() {
    once(
        &refused(|cluster, _| cluster.config.control_plane_endpoint.clear()),
        &[
            "controlPlaneEndpoint",
            "edit configmap kubeadm-config",
            "10.0.0.11:6443",
        ],
    );
}

#[test]
fn images_of_static_pods_that_are_copied() {
    let pod = |always_pulled| PodImage {
        image: MissingImage {
            name: "keepalived:2".to_owned(),
            needed_by: "keepalived.yaml of 10.0.0.11, by --copy-static-pods".to_owned(),
        },
        always_pulled,
    };
    once(
        &refused(|_, here| here.static_pods = vec![pod(false)]),
        &["keepalived.yaml of 10.0.0.11", "--image keepalived:2"],
    );
    let manifest = fixtures::whole_manifest();
    let mut here = stranger(&manifest);
    here.static_pods = vec![pod(true)];
    here.images = vec!["keepalived:2".to_owned()];
    let (judged, warnings) = judge(&fixtures::cluster(), &here);
    assert!(judged.is_ok());
    assert!(
        warnings
            .iter()
            .any(|told| told.contains("keepalived:2 is pulled whenever")),
        "{warnings:?}"
    );
}

#[test]
fn an_image_that_is_pulled_whenever_its_daemon_set_starts_is_told() {
    let manifest = fixtures::whole_manifest();
    let mut here = stranger(&manifest);
    here.network.always_pulled = here.network.images.clone();
    let (judged, warnings) = judge(&fixtures::cluster(), &here);
    assert!(judged.is_ok());
    assert!(
        warnings
            .iter()
            .any(|told| told.contains("flannel:1 is pulled whenever")
                && told.contains("kubectl --namespace kube-system edit daemonset flannel")),
        "{warnings:?}"
    );
}

#[test]
fn a_network_that_was_made_by_hand() {
    once(
        &refused(|_, here| here.network = PodNetwork::default()),
        &["by hand", "/etc/cni/net.d"],
    );
    assert!(
        refused(|_, here| {
            here.network = PodNetwork::default();
            here.has_cni = true;
        })
        .is_empty(),
        "the operator did what the refusal asked for"
    );
}

#[test]
fn a_dead_master_in_cluster_status_and_a_recorded_version_that_is_wrong() {
    once(
        &refused(|cluster, _| {
            cluster
                .api_endpoints
                .push(("m9".to_owned(), "10.0.0.19".to_owned()));
        }),
        &["m9", "ClusterStatus", "apiEndpoints"],
    );
    assert!(
        refused(|cluster, _| cluster
            .api_endpoints
            .push(("b1".to_owned(), "10.0.0.21".to_owned())))
        .is_empty(),
        "our own entry is written over"
    );
    once(
        &refused(|cluster, _| cluster.config.kubernetes_version = "v1.13.4".to_owned()),
        &["v1.13.4", "kubernetesVersion"],
    );
}

#[test]
fn external_etcd_without_its_client_files() {
    once(
        &refused(|cluster, _| {
            cluster.missing_etcd_files = vec!["/etc/etcd/client.key".to_owned()];
        }),
        &["/etc/etcd/client.key"],
    );
}

#[test]
fn who_has_joined_is_not_refused_for_being_there() {
    assert!(
        refused(|cluster, here| {
            cluster.nodes.push(fixtures::node("b1", "10.0.0.21"));
            cluster.members.push(fixtures::member(3, "b1", "10.0.0.21"));
            here.past = Past::Joined;
        })
        .is_empty()
    );
}
