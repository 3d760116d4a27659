//! The whole report of machines and clusters in good and bad health, from a script.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64ct::{Base64, Encoding};
use serde_json::json;

use super::certificates::Standing;
use super::cluster::Cluster;
use super::{PATIENCE, Report, Told, gather, table};
use crate::control_plane::ClusterView;
use crate::host::command::{Cmd, Local, Output, Runner};
use crate::host::scripted::Scripted;
use crate::journal::{Change, Event, Journal, STATE_DIR};
use crate::steps::testing::{Machine, systemd, units};

const KUBECTL: &str = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 20s";

/// A certificate that ends in `days` days.
fn certificate(days: u32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key").display().to_string();
    let days = days.to_string();
    let args = [
        "req",
        "-x509",
        "-nodes",
        "-subj",
        "/CN=x",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-days",
        &days,
        "-keyout",
        &key,
    ];
    Local.expect(&Cmd::new("openssl", args)).unwrap().text()
}

fn kubeconfig(pem: &str) -> String {
    format!(
        "apiVersion: v1\nusers:\n- name: x\n  user:\n    client-certificate-data: {}\n",
        Base64::encode_string(pem.as_bytes())
    )
}

/// A machine with everything that kubeadm puts on a master with an etcd of its own.
fn master() -> Machine {
    let machine = bare();
    let pem = certificate(365);
    for name in crate::control_plane::kubeadm::CERTIFICATES
        .iter()
        .chain(&crate::control_plane::kubeadm::ETCD_CERTIFICATES)
    {
        machine.file(&format!("/etc/kubernetes/pki/{name}"), &pem);
    }
    for name in ["admin", "controller-manager", "scheduler"] {
        machine.file(&format!("/etc/kubernetes/{name}.conf"), kubeconfig(&pem));
    }
    machine
        .file(
            "/var/lib/kubelet/pki/current.pem",
            format!("{pem}\n-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n"),
        )
        .file(
            "/etc/kubernetes/kubelet.conf",
            "users:\n- user:\n    client-certificate: /var/lib/kubelet/pki/current.pem\n",
        );
    for name in ["etcd", "kube-controller-manager", "kube-scheduler"] {
        machine.file(&format!("/etc/kubernetes/manifests/{name}.yaml"), "");
    }
    machine.file(
        "/etc/kubernetes/manifests/kube-apiserver.yaml",
        "    - --advertise-address=10.0.0.11\n    - --etcd-servers=https://127.0.0.1:2379\n    - --secure-port=6443\n",
    );
    for name in ["docker", "kubeadm", "kubectl", "kubelet"] {
        machine.program(name);
    }
    machine
}

fn bare() -> Machine {
    let machine = Machine::new();
    machine.file("/proc/sys/kernel/hostname", "m1\n");
    machine
}

/// What a master in good health answers for itself.
fn programs() -> Scripted {
    let health = "kubectl --kubeconfig /etc/kubernetes/admin.conf --server https://10.0.0.11:6443";
    let script = Scripted::new()
        .on(
            "docker info",
            0,
            r#"{"ServerVersion":"18.09.9","CgroupDriver":"cgroupfs"}"#,
        )
        .on(health, 0, "ok");
    let script = ["kubeadm", "kubectl", "kubelet"]
        .into_iter()
        .fold(script, with_version);
    systemd(script, &units(&[("kubelet.service", "active", "enabled")]))
}

fn with_version(script: Scripted, name: &str) -> Scripted {
    let program = format!("/{name}");
    script.with(move |cmd, _| {
        cmd.program.ends_with(&program).then(|| Output {
            status: 0,
            stdout: b"v1.14.0".to_vec(),
            stderr: Vec::new(),
        })
    })
}

fn node(name: &str, address: &str, ready: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","labels":{{"node-role.kubernetes.io/master":""}}}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}}],"conditions":[{{"type":"Ready","status":"{ready}"}}],"nodeInfo":{{"containerRuntimeVersion":"docker://18.09.9","kubeletVersion":"v1.14.0"}}}}}}"#
    )
}

fn member(id: u64, name: &str, address: &str) -> String {
    let clients = if name.is_empty() {
        String::new()
    } else {
        format!(r#""https://{address}:2379""#)
    };
    format!(
        r#"{{"ID":{id},"name":"{name}","peerURLs":["https://{address}:2380"],"clientURLs":[{clients}]}}"#
    )
}

const ETCDCTL: &str =
    "docker exec --env 'ETCDCTL_API=3' c0ffee etcdctl --dial-timeout=3s --command-timeout=8s";

const STATUS: &str = r#"[{"Status":{"header":{"member_id":1,"revision":1234},"version":"3.3.10","dbSize":2097152,"leader":1}}]"#;

/// An etcd that lists these members, of whom those at `alive` answer.
fn etcd(script: Scripted, members: &[String], alive: &[&str]) -> Scripted {
    let list = format!(r#"{{"members":[{}]}}"#, members.join(","));
    let at = |address: &str| format!("{ETCDCTL} --endpoints=https://{address}:2379");
    let pki = "--cacert=/etc/kubernetes/pki/etcd/ca.crt --cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key";
    let script = script
        .on("docker ps", 0, "c0ffee")
        .on(&format!("{} {pki} member list", at("127.0.0.1")), 0, &list)
        .on(
            &format!("{} {pki} endpoint status", at("127.0.0.1")),
            0,
            STATUS,
        )
        .on(&format!("{} {pki} alarm list", at("127.0.0.1")), 0, "");
    alive
        .iter()
        .fold(script, |script, address| {
            script.on(
                &format!("{} {pki} get --consistency=l health", at(address)),
                0,
                "",
            )
        })
        .on(ETCDCTL, 1, "context deadline exceeded")
}

/// A cluster whose apiserver answers; `objects` are what it has beyond that.
fn api(nodes: &[String], objects: &[(&str, String)]) -> Scripted {
    let get = |what: &str| format!("{KUBECTL} get {what}");
    let none = r#"{"items":[]}"#;
    let script = objects
        .iter()
        .fold(Scripted::new(), |script, (what, json)| {
            script.on(&get(what), 0, json)
        });
    let cluster_info = json!({"metadata":{},"data":{"kubeconfig":"clusters:\n- cluster:\n    certificate-authority-data: AA==\n    server: https://10.0.0.10:6443\n"}});
    let config = json!({"metadata":{},"data":{
        "ClusterConfiguration":"kubernetesVersion: v1.14.0\netcd:\n  local:\n    dataDir: /var/lib/etcd\n",
        "ClusterStatus":"apiEndpoints:\n  m1:\n    advertiseAddress: 10.0.0.11\n  m2:\n    advertiseAddress: 10.0.0.12\n  m9:\n    advertiseAddress: 10.0.0.19\n",
    }});
    let pod = json!({"items":[{"metadata":{"name":"etcd-m1"},"spec":{"nodeName":"m1","containers":[{"command":["etcd","--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt","--cert-file=/etc/kubernetes/pki/etcd/server.crt","--key-file=/etc/kubernetes/pki/etcd/server.key"]}]}}]});
    script
        .on(
            &format!("{KUBECTL} version"),
            0,
            r#"{"serverVersion":{"gitVersion":"v1.14.0"}}"#,
        )
        .on(
            &get("nodes"),
            0,
            &format!(r#"{{"items":[{}]}}"#, nodes.join(",")),
        )
        .on(&get("configmap cluster-info"), 0, &cluster_info.to_string())
        .on(&get("configmap kubeadm-config"), 0, &config.to_string())
        .on(&get("configmaps"), 0, none)
        .on(&get("secrets"), 0, none)
        .on(&get("secret "), 0, "")
        .on(&get("lease"), 0, "")
        .on(&get("pods"), 0, &pod.to_string())
        .on("hostname", 0, "m1")
        .on("test", 1, "")
        .with(|cmd, _| {
            (cmd.program == "date").then(|| Output {
                status: 0,
                stdout: seconds().to_string().into_bytes(),
                stderr: Vec::new(),
            })
        })
}

fn seconds() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

fn ask(script: Scripted) -> Told<Cluster> {
    let view = ClusterView::new(Arc::new(script), "10.0.0.11");
    Told::Known(Cluster::ask(&view))
}

fn alarms(report: &Report) -> Vec<String> {
    let table = table::text(report);
    let marked = table.lines().filter(|line| line.starts_with('!'));
    marked.map(str::to_owned).collect()
}

fn two_masters() -> (Vec<String>, Vec<String>) {
    (
        vec![
            node("m1", "10.0.0.11", "True"),
            node("m2", "10.0.0.12", "True"),
        ],
        vec![member(1, "m1", "10.0.0.11"), member(2, "m2", "10.0.0.12")],
    )
}

#[test]
fn a_master_in_good_health_shows_everything_and_alarms_nobody() {
    let machine = master();
    let before = machine.dump();
    let (mut nodes, members) = two_masters();
    nodes.push(node("m9", "10.0.0.19", "True"));
    let cluster = ask(etcd(
        api(&nodes, &[]),
        &members,
        &["10.0.0.11", "10.0.0.12"],
    ));
    let report = gather(&machine.view(programs()), Some(cluster), SystemTime::now());
    assert_eq!(alarms(&report), Vec::<String>::new());
    let table = table::text(&report);
    for shown in [
        "node          m1",
        "address       10.0.0.11",
        "docker 18.09.9, cgroup driver cgroupfs",
        "kubelet unit  active, enabled",
        "https://10.0.0.11:6443 answers",
        "manifests     etcd, kube-apiserver, kube-controller-manager, kube-scheduler",
        "/etc/kubernetes/kubelet.conf                      364 days left",
        "last run      none",
        "version       v1.14.0",
        "endpoint      https://10.0.0.10:6443",
        "m1  1  10.0.0.11  voter, leads  answers",
        "2 of 2 voting members answer, 2 have to",
        "2.0 MiB at revision 1234, etcd 3.3",
        "lock          free",
        "none is unfinished",
    ] {
        assert!(table.contains(shown), "{shown}\n{table}");
    }
    assert_eq!(machine.dump(), before, "it only looks");
}

#[test]
fn what_is_wrong_in_the_cluster_is_marked() {
    let renewed = |age| {
        let time = SystemTime::now() - Duration::from_secs(age);
        json!({"metadata":{},"spec":{"holderIdentity":"b1/10.0.0.21","leaseDurationSeconds":60,"renewTime":humantime::format_rfc3339_micros(time).to_string()}})
    };
    let secret = |name: &str, description: &str| json!({"metadata":{"name":name,"creationTimestamp":"2026-01-01T12:00:00Z"},"data":{"description":Base64::encode_string(description.as_bytes())}});
    let record = json!({"items":[{"metadata":{},"data":{"name":"m3","address":"10.0.0.13"}}]});
    let tokens = json!({"items":[
        secret("bootstrap-token-aaaaaa", "kpot: b1 joins as a master"),
        secret("bootstrap-token-bbbbbb", "somebody else's"),
    ]});
    let (mut nodes, mut members) = two_masters();
    nodes[1] = node("m2", "10.0.0.12", "Unknown");
    members.push(member(3, "", "10.0.0.13"));
    let objects = |age| {
        [
            ("lease", renewed(age).to_string()),
            ("configmaps", record.to_string()),
            ("secrets", tokens.to_string()),
            (
                "secret kubeadm-certs",
                secret("kubeadm-certs", "").to_string(),
            ),
        ]
    };
    let report = |age| {
        let script = etcd(api(&nodes, &objects(age)), &members, &["10.0.0.11"]);
        gather(
            &master().view(programs()),
            Some(ask(script)),
            SystemTime::now(),
        )
    };
    let alarms_of = |age| alarms(&report(age)).join("\n");
    let held = alarms_of(5);
    for shown in [
        "m2  10.0.0.12  NOT READY",
        "m2               2  10.0.0.12  voter              DOES NOT ANSWER",
        "(never started)  3  10.0.0.13  counts as a voter  DOES NOT ANSWER",
        "1 of 3 voting members answer, 2 have to",
        "held by b1/10.0.0.21, expires in 5",
        "a change of m3 at 10.0.0.13 is unfinished",
        "ClusterStatus names m9 at 10.0.0.19, which is no node",
        "kube-system/kubeadm-certs           of 2026-01-01T12:00:00Z",
        "kube-system/bootstrap-token-aaaaaa  of",
    ] {
        assert!(held.contains(shown), "{shown}\n{held}");
    }
    assert!(!held.contains("bbbbbb"), "{held}");
    assert!(alarms_of(90).contains("left by b1/10.0.0.21, expired"));
}

#[test]
fn a_master_that_is_half_broken_shows_what_can_be_told() {
    let machine = master();
    std::fs::File::create(machine.place("/etc/kubernetes/pki/apiserver.crt")).unwrap();
    machine
        .file("/etc/kubernetes/pki/etcd/peer.crt", certificate(10))
        .file("/etc/kubernetes/scheduler.conf", "users: []\n");
    std::os::unix::fs::symlink("nowhere", machine.place("/etc/kubernetes/pki/old.crt")).unwrap();
    let journal = Journal::new(machine.place(STATE_DIR));
    let begin = Event::Begin {
        workflow: "join-master".to_owned(),
        pot: "x".to_owned(),
        program: "0".to_owned(),
    };
    journal.record(begin).unwrap();
    let step = crate::joining::join::ID.to_owned();
    journal.record(Event::Step { step }).unwrap();
    let join = Change::Join {
        node: "b1".to_owned(),
        address: "10.0.0.21".to_owned(),
    };
    journal.intent(join).unwrap();
    // Neither Docker, nor systemd, nor the apiserver gives an answer.
    let script = Scripted::new().on("docker info", 1, "Cannot connect").on(
        "kubectl",
        1,
        "connection refused",
    );
    let cluster = ask(Scripted::new()
        .on(KUBECTL, 1, "connection refused")
        .on("docker ps", 0, "c0ffee")
        .on(ETCDCTL, 1, "context deadline exceeded"));
    let report = gather(&machine.view(script), Some(cluster), SystemTime::now());
    let table = table::text(&report);
    for shown in [
        "node          b1",
        "docker is installed and does not answer",
        "kubelet unit  cannot tell: cannot ask systemd about kubelet.service",
        "https://10.0.0.11:6443 DOES NOT ANSWER: connection refused",
        "apiserver.crt                 cannot tell: it holds no certificate",
        "pki/etcd/peer.crt                 ONLY 9 days left",
        "pki/old.crt                       MISSING",
        "scheduler.conf                    cannot tell: it names no user",
        "join-master: cut off, or still at work",
        "that of b1 at 10.0.0.21 came to no end",
        "etcd may list b1 at 10.0.0.21",
        "gets no answer from its apiserver: connection refused",
        "kpot-install status --healthy ADDRESS",
        "does not list its members; it may have lost its quorum",
    ] {
        assert!(table.contains(shown), "{shown}\n{table}");
    }
    let late = SystemTime::now() + Duration::from_secs(86400 * 400);
    let report = gather(&machine.view(Scripted::new()), None, late);
    let all = report.machine.certificates.known().unwrap();
    let ca = all.iter().find(|one| one.path.ends_with("pki/ca.crt"));
    assert!(
        matches!(&ca.unwrap().standing, Standing::Expired(end) if end.days_left == -35),
        "{ca:?}"
    );
}

#[test]
fn a_machine_with_nothing_on_it_alarms_nobody_and_names_the_way_to_the_cluster() {
    let machine = bare();
    let script = systemd(Scripted::new(), &units(&[]));
    let report = gather(&machine.view(script), None, SystemTime::now());
    assert_eq!(alarms(&report), Vec::<String>::new());
    let table = table::text(&report);
    assert!(table.contains("kpot-install status --healthy ADDRESS"));
    assert!(table.contains("certificates  none") && table.contains("kubelet unit  not installed"));
}

#[test]
fn a_script_reads_values_where_they_are_known_and_causes_where_they_are_not() {
    let (nodes, members) = two_masters();
    let script = etcd(api(&nodes, &[]), &members, &["10.0.0.11"]);
    let report = gather(
        &bare().view(Scripted::new()),
        Some(ask(script)),
        SystemTime::now(),
    );
    let json = json!(report);
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(
        keys(&json["machine"]),
        [
            "address",
            "apiserver",
            "backups",
            "certificates",
            "hostname",
            "journal",
            "kubelet",
            "manifests",
            "node",
            "runtime",
            "versions"
        ]
    );
    assert_eq!(
        keys(&json["cluster"]),
        [
            "asked",
            "endpoint",
            "etcd",
            "join_secrets",
            "lock",
            "masters",
            "unfinished",
            "version",
            "without_node"
        ]
    );
    assert!(json["machine"]["kubelet"]["cannot_tell"].is_string());
    assert_eq!(json["machine"]["journal"]["last_run"], json!(null));
    assert_eq!(json["machine"]["versions"]["kubelet"], json!(null));
    assert_eq!(
        json["cluster"]["etcd"],
        json!({
            "kind": "stacked",
            "members": [
                { "id": "1", "name": "m1", "address": "10.0.0.11", "role": "voter", "answers": true, "leads": true },
                { "id": "2", "name": "m2", "address": "10.0.0.12", "role": "voter", "answers": false, "leads": false },
            ],
            "quorum": { "voters": 2, "answering": 1, "needed": 2 },
            "alarms": [],
            "database": { "version": "3.3", "bytes": 2_097_152, "revision": 1234 },
        })
    );
    assert_eq!(json["cluster"]["lock"], json!({ "state": "free" }));
    assert_eq!(
        json["cluster"]["without_node"],
        json!([{ "name": "m9", "address": "10.0.0.19" }])
    );
    let certificate = super::certificates::Certificate {
        path: "/x.crt".to_owned(),
        standing: Standing::Missing,
    };
    assert_eq!(
        json!(certificate),
        json!({ "path": "/x.crt", "state": "missing" })
    );
}

#[test]
fn nobody_who_did_not_name_a_master_waits_long_for_one() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let limits = Arc::clone(&seen);
    let script = Scripted::new().with(move |cmd, _| {
        limits.lock().unwrap().push(cmd.timeout);
        Some(Output::default())
    });
    let impatient = super::Impatient(Arc::new(script));
    let limit = Duration::from_secs(1);
    impatient.run(&Cmd::new("x", [""; 0])).unwrap();
    impatient
        .run(&Cmd::new("x", [""; 0]).timeout(limit))
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), [PATIENCE, limit]);
}
