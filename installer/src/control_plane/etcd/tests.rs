use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::host::scripted::Scripted;
use crate::joining::fixtures::member;

const M2: &str = r#"{"ID":2,"name":"m2","peerURLs":["https://10.0.0.12:2380"]}"#;

#[test]
fn without_an_api_server_the_manifest_tells_how_etcd_is_asked() {
    let read = |manifest: Option<&str>| {
        let there = i32::from(manifest.is_none());
        let script = Scripted::new()
            .on("docker ps", 0, "c0ffee\n")
            .on("test -f /etc/kubernetes/manifests/etcd.yaml", there, "")
            .on("cat", 0, manifest.unwrap_or_default());
        let view = ClusterView::new(Arc::new(script), "10.0.0.11");
        Etcd::without_api(&view).unwrap()
    };
    let usual = read(None);
    let paths: Vec<&str> = usual.credential_paths().collect();
    let pki =
        ["ca.crt", "server.crt", "server.key"].map(|it| format!("/etc/kubernetes/pki/etcd/{it}"));
    assert_eq!(
        (paths, usual.old),
        (pki.iter().map(String::as_str).collect(), false)
    );
    let told = read(Some(
        "spec:\n  containers:\n  - command:\n    - etcd\n    - --peer-cert-file=/x/peer.crt\n    - --cert-file=/x/server.crt\n    - --key-file=/x/server.key\n    \
         - --peer-trusted-ca-file=/x/peer-ca.crt\n    - --trusted-ca-file=/x/ca.crt\n    image: k8s.gcr.io/etcd:3.3.10\n    imagePullPolicy: IfNotPresent\n",
    ));
    let paths: Vec<&str> = told.credential_paths().collect();
    assert_eq!(
        (paths, told.old),
        (vec!["/x/ca.crt", "/x/server.crt", "/x/server.key"], true)
    );
}

fn etcd() -> Etcd {
    Etcd::by_crictl("c0ffee")
}

/// Removes m2 where etcd lists `listed`, one after the other, and answers a removal by `answers`; tells what came of it and how often a removal was tried.
fn removal<'t>(
    listed: impl IntoIterator<Item = &'t str>,
    answers: impl IntoIterator<Item = (i32, &'t str)>,
    limit: Duration,
) -> (Result<(), String>, usize) {
    let judged = member(2, "m2", "10.0.0.12");
    removal_of(&judged, &Stop::default(), listed, answers, limit)
}

/// The same, of m2 as it was judged, as long as `stop` lets it.
fn removal_of<'t>(
    judged: &Member,
    stop: &Stop,
    listed: impl IntoIterator<Item = &'t str>,
    answers: impl IntoIterator<Item = (i32, &'t str)>,
    limit: Duration,
) -> (Result<(), String>, usize) {
    let exec = "crictl --runtime-endpoint unix:///run/containerd/containerd.sock --image-endpoint unix:///run/containerd/containerd.sock --timeout 20s exec c0ffee etcdctl --dial-timeout=3s --command-timeout=8s --endpoints=https://127.0.0.1:2379";
    let lists: Vec<String> = listed
        .into_iter()
        .map(|members| format!(r#"{{"members":[{members}]}}"#))
        .collect();
    let runner = Arc::new(
        Scripted::new()
            .once_each(
                &format!("{exec} member list"),
                lists.iter().map(|list| (0, list.as_str())),
            )
            .once_each(&format!("{exec} member remove 2"), answers),
    );
    let cluster = Cluster::new(ClusterView::new(runner.clone(), "10.0.0.11"));
    let removed = etcd().remove_within(&cluster, judged, stop, (limit, Duration::ZERO));
    let asked = runner.asked();
    let tries = asked.iter().filter(|cmd| cmd.contains(" remove ")).count();
    (removed.map_err(|cause| cause.to_string()), tries)
}

const UNHEALTHY: (i32, &str) = (1, "Error: etcdserver: unhealthy cluster");

#[test]
fn a_member_is_well_by_a_read_and_alarms_are_asked_by_themselves() {
    let at = |address: &str| {
        format!(
            "crictl --runtime-endpoint unix:///run/containerd/containerd.sock --image-endpoint unix:///run/containerd/containerd.sock --timeout 20s exec c0ffee etcdctl --dial-timeout=3s --command-timeout=8s --endpoints=https://{address}:2379"
        )
    };
    let with_clients = |id: u64, name: &str, address: &str| {
        format!(
            r#"{{"ID":{id},"name":"{name}","peerURLs":["https://{address}:2380"],"clientURLs":["https://{address}:2379"]}}"#
        )
    };
    let listed = [
        with_clients(1, "m1", "10.0.0.11"),
        with_clients(2, "m2", "10.0.0.12"),
        with_clients(3, "m3", "10.0.0.13"),
        r#"{"ID":4,"name":"","peerURLs":["https://10.0.0.14:2380"]}"#.to_owned(),
        with_clients(5, "m5", "10.0.0.15").replace('}', r#","isLearner":true}"#),
    ];
    let list = format!(r#"{{"members":[{}]}}"#, listed.join(","));
    let read = |address: &str| format!("{} get --consistency=l health", at(address));
    let runner = Scripted::new()
        .on(&format!("{} member list", at("127.0.0.1")), 0, &list)
        .on(&read("10.0.0.11"), 0, "")
        .on(&read("10.0.0.12"), 1, "Error: context deadline exceeded")
        .on(
            &read("10.0.0.13"),
            1,
            "Error: etcdserver: permission denied",
        )
        .on(
            &format!("{} get --consistency=s health", at("10.0.0.15")),
            0,
            "",
        )
        .on(
            &format!("{} alarm list", at("127.0.0.1")),
            0,
            "memberID:1 alarm:NOSPACE \n",
        );
    let view = ClusterView::new(Arc::new(runner), "10.0.0.11");
    let (members, alarms) = etcd().members_and_alarms(&view).unwrap();
    let healthy: Vec<bool> = members.iter().map(|member| member.healthy).collect();
    assert_eq!(healthy, [true, false, true, false, true]);
    assert_eq!(alarms.len(), 1);
    assert!(alarms[0].to_string().contains("alarm NOSPACE for m1"));
}

#[test]
fn a_removal_that_etcd_puts_off_is_tried_again() {
    let (removed, tries) = removal([M2], [UNHEALTHY, (0, "")], Duration::from_secs(9));
    assert_eq!((removed, tries), (Ok(()), 2));
}

#[test]
fn a_removal_is_not_tried_for_ever_nor_after_another_refusal() {
    let (removed, tries) = removal([M2], [UNHEALTHY], Duration::ZERO);
    assert!(removed.unwrap_err().contains("unhealthy") && tries == 1);
    let (removed, tries) = removal([M2], [(1, "permission denied")], Duration::from_secs(9));
    assert!(removed.unwrap_err().contains("denied") && tries == 1);
}

#[test]
fn a_removal_is_not_tried_once_the_clusters_lock_is_lost() {
    let stop = Stop::default();
    stop.lock_is_held_until(Instant::now());
    let judged = member(2, "m2", "10.0.0.12");
    let limit = Duration::from_secs(9);
    let (removed, tries) = removal_of(&judged, &stop, [M2], [(0, "")], limit);
    assert!(removed.unwrap_err().contains("lock") && tries == 0);
}

#[test]
fn a_member_that_is_gone_already_is_fine() {
    let other = r#"{"ID":3,"name":"m3","peerURLs":["https://10.0.0.13:2380"]}"#;
    assert_eq!(removal([other], [(0, "")], Duration::ZERO), (Ok(()), 0));
    let (removed, tries) = removal([M2, other], [UNHEALTHY], Duration::from_secs(9));
    assert_eq!((removed, tries), (Ok(()), 1), "it went between two tries");
}

#[test]
fn nothing_is_removed_where_id_name_and_address_do_not_all_agree() {
    for changed in [
        r#"{"ID":2,"name":"m9","peerURLs":["https://10.0.0.12:2380"]}"#,
        r#"{"ID":2,"name":"m2","peerURLs":["https://10.0.0.19:2380"]}"#,
        r#"{"ID":9,"name":"m2","peerURLs":["https://10.0.0.19:2380"]}"#,
        r#"{"ID":9,"name":"","peerURLs":["https://10.0.0.12:2380"]}"#,
    ] {
        let (removed, tries) = removal([changed], [(0, "")], Duration::ZERO);
        assert!(removed.unwrap_err().contains("Nothing was removed"));
        assert_eq!(tries, 0, "{changed}");
        let (_, tries) = removal([M2, changed], [UNHEALTHY, (0, "")], Duration::from_secs(9));
        assert_eq!(tries, 1, "it changed between two tries: {changed}");
    }
}

#[test]
fn a_learner_that_got_its_vote_is_not_removed_as_one() {
    let learner = r#"{"ID":2,"name":"m2","peerURLs":["https://10.0.0.12:2380"],"isLearner":true}"#;
    let judged = Member {
        is_learner: true,
        ..member(2, "m2", "10.0.0.12")
    };
    let remove = |listed: &[&'static str], answers: &[(i32, &'static str)]| {
        let (listed, answers) = (listed.iter().copied(), answers.iter().copied());
        let limit = Duration::from_secs(9);
        removal_of(&judged, &Stop::default(), listed, answers, limit)
    };
    assert_eq!(remove(&[learner], &[(0, "")]), (Ok(()), 1));
    let (removed, tries) = remove(&[M2], &[(0, "")]);
    assert!(removed.unwrap_err().contains("has one now") && tries == 0);
    let (removed, tries) = remove(&[learner, M2], &[UNHEALTHY, (0, "")]);
    assert!(removed.is_err() && tries == 1, "promoted between two tries");
}

#[test]
fn a_status_is_read_as_etcd_prints_it() {
    // Printed by etcdctl 3.4.23.
    let json = br#"[{"Endpoint":"http://127.0.0.1:2379","Status":{"header":{"cluster_id":15875391935852295136,"member_id":7383792418829112008,"revision":6,"raft_term":2},"version":"3.4.23","dbSize":20480,"leader":7383792418829112008,"raftIndex":9,"raftTerm":2,"raftAppliedIndex":9,"dbSizeInUse":20480}}]"#;
    let status = Status::parse(json).unwrap();
    assert_eq!((status.revision, status.db_size), (6, 20480));
    assert_eq!(status.version.to_string(), "3.4");
    assert_eq!(status.leader, Some(MemberId(7_383_792_418_829_112_008)));
    let leaderless =
        br#"[{"Status":{"header":{"revision":6},"version":"3.4.23","dbSize":1,"leader":0}}]"#;
    assert_eq!(Status::parse(leaderless).unwrap().leader, None);
    assert!(Status::parse(b"[]").is_err());
}

#[test]
fn snapshot_files_are_for_etcdutl_from_3_6_on() {
    let tool = |text| Version::parse(text).map(Version::snapshot_tool);
    assert_eq!(tool("3.3.10"), Some("etcdctl"));
    assert_eq!(tool("3.5.15-0"), Some("etcdctl"));
    assert_eq!(tool("3.6.4"), Some("etcdutl"));
    assert_eq!(tool("3.10.0"), Some("etcdutl"));
    assert_eq!(tool("three"), None);
}

#[test]
fn the_data_folder_is_where_the_node_keeps_it() {
    let place = |flag: &str, mount: &str, path: &str| {
        let pod: PodSpec = serde_json::from_str(&format!(
            r#"{{"containers":[{{"command":["etcd"{flag}],"volumeMounts":[{{"name":"data","mountPath":"{mount}"}}]}}],"volumes":[{{"name":"data","hostPath":{{"path":"{path}"}}}}]}}"#
        ))
        .unwrap();
        data_folder(&pod, &pod.containers[0]).map(|data| (data.inside, data.outside))
    };
    let pair = |inside: &str, outside: &str| Some((inside.to_owned(), outside.to_owned()));
    let flag = r#","--data-dir=/data/etcd""#;
    assert_eq!(
        place("", "/var/lib/etcd", "/var/lib/etcd"),
        pair("/var/lib/etcd", "/var/lib/etcd")
    );
    assert_eq!(
        place(flag, "/data", "/ssd"),
        pair("/data/etcd", "/ssd/etcd")
    );
    assert_eq!(place(flag, "/dat", "/ssd"), None, "not a folder above it");
}

#[test]
fn ids_above_what_a_float_holds_keep_every_bit() {
    let member: Member = serde_json::from_str(r#"{"ID":10501334649042878791,"name":"m1","peerURLs":["https://10.0.0.1:2380"],"clientURLs":["https://10.0.0.1:2379"]}"#).unwrap();
    assert_eq!(member.id.to_string(), "91bc3c398fb3c147");
    assert_eq!(member.id.0, 10_501_334_649_042_878_791);
}

#[test]
fn a_member_is_found_by_its_whole_address() {
    let member: Member =
        serde_json::from_str(r#"{"ID":1,"peerURLs":["https://10.0.0.11:2380"]}"#).unwrap();
    assert!(member.is_at("10.0.0.11") && !member.is_at("10.0.0.1") && !member.votes());
    assert_eq!(host_of("https://[fd00::1]:2380"), "fd00::1");
}
