use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::control_plane::Cluster;
use crate::host::scripted::Scripted;
use crate::host::{Host, command::Runner};
use crate::journal::{Before, Change, Event, Journal};

fn healthy() -> Arc<dyn Runner> {
    let digest = Sha256::of(b"token,user,1\n").hex();
    Arc::new(
        Scripted::new()
            .on(
                "find -H /etc/kubernetes/known_tokens.csv",
                0,
                "f 600 13 /etc/kubernetes/known_tokens.csv\n",
            )
            .on("find -H /var/log/audit", 0, "d 700 4096 /var/log/audit\n")
            .on(
                "sha256sum",
                0,
                &format!("{digest}  /etc/kubernetes/known_tokens.csv\n"),
            )
            .on("test -f", 0, "")
            .on("cat", 0, "token,user,1\n")
            .on("find -H", 1, "find: x: No such file or directory"),
    )
}

/// A machine with nothing on it, beside this healthy master; its root is told, too.
fn beside(healthy: Arc<dyn Runner>, act: impl FnOnce(World<'_>, &Path)) {
    let root = tempfile::tempdir().unwrap();
    let journal = Journal::new(root.path().join("state"));
    let host = Host::new(
        HostView::new(root.path(), Arc::new(Scripted::new())),
        &journal,
    );
    let cluster = Cluster::new(ClusterView::new(healthy, "10.0.0.11"));
    let world = World {
        host: &host,
        cluster: Some(&cluster),
    };
    act(world, root.path());
}

fn nothing_here() -> HostView {
    HostView::new("/nowhere", Arc::new(Scripted::new()))
}

/// A machine that has a token file of its own and a policy that the healthy master lacks.
fn down() -> RemoteView {
    let digest = |text: &str| Sha256::of(text.as_bytes()).hex();
    let script = Scripted::new()
        .on(
            "find -H /etc/kubernetes/known_tokens.csv",
            0,
            "f 600 4 /etc/kubernetes/known_tokens.csv\n",
        )
        .on(
            "find -H /etc/kubernetes/audit-policy.yaml",
            0,
            "f 644 6 /etc/kubernetes/audit-policy.yaml\n",
        )
        .on("find -H", 1, "find: x: No such file or directory")
        .on(
            "sha256sum -- /etc/kubernetes/known_tokens.csv",
            0,
            &digest("down"),
        )
        .on("sha256sum", 0, &digest("policy"))
        .on("test -f", 0, "")
        .on("cat -- /etc/kubernetes/known_tokens.csv", 0, "down")
        .on("cat", 0, "policy");
    RemoteView::new(Arc::new(script), "10.0.0.13")
}

#[test]
fn the_master_that_is_down_is_asked_first_and_what_differs_is_told() {
    beside(healthy(), |world, _| {
        let host = world.host;
        let step = ExtraFiles::new(vec![], "/etc/kubernetes/pki").preferring(Some(down()));
        let told = step.check(world.view()).unwrap();
        assert!(
            matches!(&told, State::Pending(why) if why.contains("known_tokens.csv (TKE's), which differs from the healthy master's: that of 10.0.0.13 is taken") && why.contains("audit-policy.yaml (TKE's)")),
            "{told:?}"
        );
        step.apply(world).unwrap();
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
        let text = |path: &str| host.view().text(path).unwrap().unwrap();
        assert_eq!(text("/etc/kubernetes/known_tokens.csv"), "down");
        assert_eq!(text("/etc/kubernetes/audit-policy.yaml"), "policy");
        host.write_file("/etc/kubernetes/known_tokens.csv", b"token,user,1\n", 0o600)
            .unwrap();
        assert_eq!(
            step.check(world.view()).unwrap(),
            State::Satisfied,
            "the healthy master's is as good"
        );
        host.write_file("/etc/kubernetes/known_tokens.csv", b"ours", 0o600)
            .unwrap();
        assert!(matches!(
            step.check(world.view()).unwrap(),
            State::Conflict { .. }
        ));
        let kept = step.keeping_own();
        assert_eq!(
            kept.check(world.view()).unwrap(),
            State::Unsettable(
                "/etc/kubernetes/known_tokens.csv differs from the healthy master's; ours stays"
                    .to_owned()
            )
        );
        kept.apply(world).unwrap();
        assert_eq!(text("/etc/kubernetes/known_tokens.csv"), "ours");
    });
}

#[test]
fn missing_files_are_brought_and_different_ones_are_left_alone() {
    beside(healthy(), |world, _| {
        let host = world.host;
        let path = |path: &str| ExtraPath {
            path: path.to_owned(),
            named_by: "a volume of kube-apiserver".to_owned(),
            role: Role::Mounted,
        };
        let paths = vec![
            path("/etc/kubernetes/known_tokens.csv"),
            path("/var/log/audit"),
        ];
        let step = ExtraFiles::new(paths, "/etc/kubernetes/pki");
        assert!(
            matches!(step.check(world.view()).unwrap(), State::Pending(why) if why.contains("known_tokens.csv (a volume of kube-apiserver)") && why.contains("/var/log/audit/"))
        );
        step.apply(world).unwrap();
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
        let facts = host
            .view()
            .facts("/etc/kubernetes/known_tokens.csv")
            .unwrap()
            .unwrap();
        assert_eq!(facts.mode, 0o600);
        host.write_file("/etc/kubernetes/known_tokens.csv", b"ours", 0o600)
            .unwrap();
        assert!(matches!(
            step.check(world.view()).unwrap(),
            State::Conflict { .. }
        ));
    });
}

#[test]
fn of_the_whole_folder_what_is_each_masters_own_stays_there() {
    let tree = "d 755 4096 /etc/kubernetes\n\
                f 600 9 /etc/kubernetes/admin.conf\n\
                f 600 9 /etc/kubernetes/kubelet.conf\n\
                f 600 9 /etc/kubernetes/kubeadm-config.yaml\n\
                f 600 9 /etc/kubernetes/known_tokens.csv\n\
                f 644 9 /etc/kubernetes/admission/quota.yaml\n\
                d 755 4096 /etc/kubernetes/manifests\n\
                f 600 9 /etc/kubernetes/manifests/kube-apiserver.yaml\n\
                d 755 4096 /etc/kubernetes/pki\n\
                f 600 9 /etc/kubernetes/pki/apiserver.key\n\
                f 600 9 /etc/kubernetes/pki/webhook.crt\n\
                f 600 99999999 /etc/kubernetes/tmp/kubeadm-backup-etcd/member/snap/db\n";
    let digest = Sha256::of(b"x").hex();
    let healthy = Scripted::new()
        .on(
            "find -H /etc/kubernetes/pki/webhook.crt",
            0,
            "f 600 9 /etc/kubernetes/pki/webhook.crt\n",
        )
        .on("find -H /etc/kubernetes '('", 0, tree)
        .on("find -H", 1, "find: x: No such file or directory")
        .on("sha256sum", 0, &digest);
    let machine = RemoteView::new(Arc::new(healthy), "10.0.0.11");
    let path = |path: &str| ExtraPath {
        path: path.to_owned(),
        named_by: "a volume of kube-apiserver".to_owned(),
        role: Role::Mounted,
    };
    let paths = vec![
        path("/etc/kubernetes"),
        path("/etc/kubernetes/pki/webhook.crt"),
    ];
    let wanted = ExtraFiles::new(paths, "/etc/kubernetes/pki")
        .wanted(&machine, &nothing_here())
        .unwrap()
        .wanted;
    let paths: Vec<&str> = wanted.iter().map(Wanted::path).collect();
    assert_eq!(
        paths,
        [
            "/etc/kubernetes",
            "/etc/kubernetes/admission/quota.yaml",
            "/etc/kubernetes/known_tokens.csv",
            "/etc/kubernetes/pki/webhook.crt",
        ]
    );
}

fn named(path: &str, role: Role) -> ExtraPath {
    let named_by = match role {
        Role::Mounted => "a volume",
        Role::Read | Role::Written => "a flag",
    };
    ExtraPath {
        path: path.to_owned(),
        named_by: named_by.to_owned(),
        role,
    }
}

#[test]
fn a_log_is_each_masters_own_and_begins_empty_where_it_is_mounted_alone() {
    let log = "/var/log/audit.log";
    let healthy = Scripted::new()
        .on(
            &format!("find -H {log}"),
            0,
            &format!("f 600 99999999 {log}\n"),
        )
        .on(
            "find -H /etc/kubernetes/audit '('",
            0,
            "d 700 4096 /etc/kubernetes/audit\nf 600 99999999 /etc/kubernetes/audit/audit.log\nf 600 99999999 /etc/kubernetes/audit/audit-2026-01-02T03-04-05.678.log\n",
        )
        .on("find -H", 1, "find: x: No such file or directory");
    beside(Arc::new(healthy), |world, _| {
        let paths = vec![
            named(log, Role::Mounted),
            named(log, Role::Written),
            named("/etc/kubernetes/audit", Role::Mounted),
            named("/etc/kubernetes/audit/audit.log", Role::Written),
        ];
        let step = ExtraFiles::new(paths, "/etc/kubernetes/pki");
        let State::Pending(told) = step.check(world.view()).unwrap() else {
            panic!("nothing of it is here");
        };
        assert!(told.contains("/var/log/audit.log, empty"), "{told}");
        step.apply(world).unwrap();
        let host = world.host;
        let text = |path: &str| host.view().text(path).unwrap();
        assert_eq!(text(log).as_deref(), Some(""));
        assert_eq!(host.view().facts(log).unwrap().unwrap().mode, 0o600);
        assert!(host.view().exists("/etc/kubernetes/audit").unwrap());
        assert_eq!(text("/etc/kubernetes/audit/audit.log"), None);
        host.write_file(log, b"what this master was asked", 0o600)
            .unwrap();
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
    });
}

#[test]
fn only_what_a_log_was_before_is_one() {
    let log = "/etc/kubernetes/audit/audit.log";
    for (path, former) in [
        ("/etc/kubernetes/audit/audit.log", true),
        (
            "/etc/kubernetes/audit/audit-2026-01-02T03-04-05.678.log",
            true,
        ),
        (
            "/etc/kubernetes/audit/audit-2026-01-02T03-04-05.678.log.gz",
            true,
        ),
        ("/etc/kubernetes/audit/audit-log-policy.yaml", false),
        ("/etc/kubernetes/audit/audit-policy.log", false),
    ] {
        assert_eq!(is_output(log, path), former, "{path}");
    }
    let bare = "/etc/kubernetes/audit";
    assert!(is_output(
        bare,
        "/etc/kubernetes/audit-2026-01-02T03-04-05.678"
    ));
    assert!(!is_output(bare, "/etc/kubernetes/audit-policy.yaml"));
}

#[test]
fn of_a_folder_outside_etc_the_file_that_a_flag_names_is_brought() {
    let digest = Sha256::of(b"policy").hex();
    let healthy = Scripted::new()
        .on(
            "find -H /opt/k8s/audit '('",
            0,
            "d 755 4096 /opt/k8s/audit\n\
             f 644 6 /opt/k8s/audit/policy.yaml\n\
             f 644 99999999 /opt/k8s/audit/audit.log\n",
        )
        .on(
            "find -H /opt/k8s/audit/policy.yaml",
            0,
            "f 644 6 /opt/k8s/audit/policy.yaml\n",
        )
        .on("find -H /opt/k8s/certs", 0, "d 755 4096 /opt/k8s/certs\n")
        .on("find -H", 1, "find: x: No such file or directory")
        .on("sha256sum", 0, &digest)
        .on("test -f", 0, "")
        .on("cat -- /opt/k8s/audit/policy.yaml", 0, "policy");
    beside(Arc::new(healthy), |world, _| {
        let host = world.host;
        let paths = vec![
            named("/opt/k8s/audit", Role::Mounted),
            named("/opt/k8s/audit/policy.yaml", Role::Read),
            named("/opt/k8s/certs", Role::Read),
        ];
        let step = ExtraFiles::new(paths, "/etc/kubernetes/pki");
        assert_eq!(
            step.check(world.view()).unwrap(),
            State::Pending("to bring from 10.0.0.11: /opt/k8s/audit/ (a volume), without the file that is in it there, /opt/k8s/audit/policy.yaml (a flag)".to_owned())
        );
        step.apply(world).unwrap();
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
        let text = |path: &str| host.view().text(path).unwrap();
        assert_eq!(
            text("/opt/k8s/audit/policy.yaml").as_deref(),
            Some("policy")
        );
        assert_eq!(text("/opt/k8s/audit/audit.log"), None);
        assert!(!host.view().exists("/opt/k8s/certs").unwrap());
    });
}

#[test]
fn a_link_is_brought_as_its_file_or_told() {
    let digest = Sha256::of(b"policy").hex();
    let folder = "/etc/kubernetes/audit";
    let healthy = Scripted::new()
        .on(
            &format!("find -H {folder} '('"),
            0,
            &format!("d 755 4096 {folder}\n"),
        )
        .on(
            &format!("find -H {folder} -type l"),
            0,
            &format!("l {folder}/policy.yaml\nl {folder}/now\nl {folder}/key\nl {folder}/gone\n"),
        )
        .on(
            &format!("readlink --canonicalize-existing -- {folder}/policy.yaml"),
            0,
            "/srv/7.yaml\n",
        )
        .on(
            &format!("readlink --canonicalize-existing -- {folder}/now"),
            0,
            "/srv\n",
        )
        .on(
            &format!("readlink --canonicalize-existing -- {folder}/key"),
            0,
            "/etc/kubernetes/pki/apiserver.key\n",
        )
        .on("readlink", 1, "")
        .on("find -H /srv/7.yaml", 0, "f 644 6 /srv/7.yaml\n")
        .on("find -H /srv", 0, "d 755 4096 /srv\n")
        .on(
            "find -H /etc/kubernetes/pki/apiserver.key",
            0,
            "f 600 9 /etc/kubernetes/pki/apiserver.key\n",
        )
        .on("find -H", 1, "find: x: No such file or directory")
        .on(&format!("sha256sum -- {folder}/policy.yaml"), 0, &digest);
    let machine = RemoteView::new(Arc::new(healthy), "10.0.0.11");
    let found = ExtraFiles::new(vec![named(folder, Role::Mounted)], "/etc/kubernetes/pki")
        .wanted(&machine, &nothing_here())
        .unwrap();
    let paths: Vec<&str> = found.wanted.iter().map(Wanted::path).collect();
    assert_eq!(paths, [folder, &format!("{folder}/policy.yaml")]);
    assert_eq!(
        found.left,
        [
            format!("{folder}/now (a link to the folder /srv)"),
            format!("{folder}/key (a link to each master's own /etc/kubernetes/pki/apiserver.key)"),
            format!("{folder}/gone (a link to nothing)"),
        ]
    );
}

#[test]
fn the_distributions_own_file_is_no_conflict() {
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    let healthy = Scripted::new()
        .on(
            &format!("find -H {bundle}"),
            0,
            &format!("f 644 6 {bundle}\n"),
        )
        .on("find -H", 1, "find: x: No such file or directory")
        .on("sha256sum", 0, &Sha256::of(b"theirs").hex());
    let root = tempfile::tempdir().unwrap();
    let journal = Journal::new(root.path().join("state"));
    let host = Host::new(
        HostView::new(root.path(), Arc::new(Scripted::new())),
        &journal,
    );
    let view = ClusterView::new(Arc::new(healthy), "10.0.0.11");
    let look = View {
        host: host.view(),
        cluster: Some(&view),
    };
    let step = ExtraFiles::new(vec![named(bundle, Role::Read)], "/etc/kubernetes/pki");
    assert!(matches!(step.check(look).unwrap(), State::Pending(_)));
    host.write_file(bundle, b"ours", 0o644).unwrap();
    assert_eq!(step.check(look).unwrap(), State::Satisfied);
}

#[test]
fn a_file_that_a_power_loss_emptied_there_is_not_taken() {
    let tokens = "/etc/kubernetes/known_tokens.csv";
    let emptied = Scripted::new()
        .on(
            &format!("find -H {tokens}"),
            0,
            &format!("f 600 0 {tokens}\n"),
        )
        .on("find -H", 1, "find: x: No such file or directory")
        .on("sha256sum", 0, &Sha256::of(b"").hex());
    let down = RemoteView::new(Arc::new(emptied), "10.0.0.13");
    let view = ClusterView::new(healthy(), "10.0.0.11");
    let step = ExtraFiles::new(vec![], "/etc/kubernetes/pki").preferring(Some(down));
    let choices = step.choices(&view, &nothing_here()).unwrap();
    let from: Vec<&str> = choices
        .brought
        .iter()
        .map(|choice| choice.from.address())
        .collect();
    assert_eq!(from, ["10.0.0.11"]);
}

#[test]
fn a_file_that_a_power_loss_emptied_does_not_stay() {
    beside(healthy(), |world, root| {
        let host = world.host;
        let tokens = "/etc/kubernetes/known_tokens.csv";
        for left in [&b""[..], &[0; 13]] {
            host.write_file(tokens, left, 0o600).unwrap();
            let joins = ExtraFiles::new(vec![], "/etc/kubernetes/pki");
            assert!(
                matches!(joins.check(world.view()).unwrap(), State::Conflict { .. }),
                "people look at what a stranger has"
            );
            let comes_back = joins.keeping_own();
            let told = comes_back.check(world.view()).unwrap();
            assert!(
                matches!(&told, State::Pending(why) if why.contains(tokens) && why.contains("nothing is left")),
                "{told:?}"
            );
            comes_back.apply(world).unwrap();
            assert_eq!(comes_back.check(world.view()).unwrap(), State::Satisfied);
            let text = host.view().text(tokens).unwrap();
            assert_eq!(text.as_deref(), Some("token,user,1\n"));
        }
        let saved = Journal::read(&root.join("state")).unwrap();
        let saved = saved.iter().filter(|entry| {
            matches!(
                &entry.event,
                Event::Intent {
                    change: Change::File {
                        before: Before::File { .. },
                        ..
                    },
                    ..
                }
            )
        });
        assert_eq!(saved.count(), 3, "two of them by this step");
    });
}

/// A healthy master with files of these sizes in /etc/kubernetes, all with the content `x`.
fn with_files(sizes: &[(&str, u64)]) -> Arc<dyn Runner> {
    let file = |(name, size): &(&str, u64)| format!("f 600 {size} /etc/kubernetes/{name}\n");
    let files: String = sizes.iter().map(file).collect();
    let mut script = Scripted::new().on(
        "find -H /etc/kubernetes '('",
        0,
        &format!("d 755 4096 /etc/kubernetes\n{files}"),
    );
    for one in sizes {
        let path = format!("find -H /etc/kubernetes/{} ", one.0);
        script = script.on(&path, 0, &file(one));
    }
    let script = script
        .on("find -H", 1, "find: x: No such file or directory")
        .on("sha256sum", 0, &Sha256::of(b"x").hex())
        .on("test -f", 0, "")
        .on("cat", 0, "x");
    Arc::new(script)
}

#[test]
fn what_is_too_large_is_left_unless_it_is_named_and_not_here() {
    let healthy = with_files(&[("backup.db", 5 << 20), ("audit.yaml", 1)]);
    beside(healthy, |world, _| {
        let folder = named("/etc/kubernetes", Role::Mounted);
        let step = ExtraFiles::new(vec![folder], "/etc/kubernetes/pki");
        let told = step.check(world.view()).unwrap();
        assert!(
            matches!(&told, State::Pending(why) if why.contains("audit.yaml") && why.contains("not brought: /etc/kubernetes/backup.db (5242880 bytes")),
            "{told:?}"
        );
        step.apply(world).unwrap();
        assert!(
            !world
                .host
                .view()
                .exists("/etc/kubernetes/backup.db")
                .unwrap()
        );
    });
    let healthy = with_files(&[("policy.yaml", 5 << 20)]);
    beside(healthy, |world, _| {
        let policy = named("/etc/kubernetes/policy.yaml", Role::Read);
        let step = ExtraFiles::new(vec![policy], "/etc/kubernetes/pki");
        let told = step.check(world.view()).unwrap();
        assert!(
            matches!(&told, State::Conflict { reason, .. } if reason.contains("policy.yaml of 10.0.0.11 (a flag) has 5242880 bytes")),
            "{told:?}"
        );
        let copied = vec![b'y'; 5 << 20];
        world
            .host
            .write_file("/etc/kubernetes/policy.yaml", &copied, 0o600)
            .unwrap();
        assert_eq!(
            step.check(world.view()).unwrap(),
            State::Satisfied,
            "what was asked for was done"
        );
    });
}

#[test]
fn of_too_many_files_those_count_that_are_not_here() {
    let names: Vec<String> = (0..=FILES).map(|at| format!("old/{at}.crt")).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    beside(with_files(&files), |world, _| {
        let folder = named("/etc/kubernetes", Role::Mounted);
        let step = ExtraFiles::new(vec![folder], "/etc/kubernetes/pki");
        let told = step.check(world.view()).unwrap();
        assert!(
            matches!(&told, State::Conflict { reason, .. } if reason.contains("name 201 files that are not here")),
            "{told:?}"
        );
        for name in &names {
            world
                .host
                .write_file(&format!("/etc/kubernetes/{name}"), b"x", 0o600)
                .unwrap();
        }
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
    });
}

#[test]
fn what_is_needed_and_nowhere_to_be_had_is_no_surprise_after_the_removal() {
    let healthy = Scripted::new().on("find -H", 1, "find: x: No such file or directory");
    beside(Arc::new(healthy), |world, _| {
        let path = |flag: &str| ExtraPath {
            named_by: format!("{flag} of kube-apiserver"),
            ..named("/srv/x.yaml", Role::Read)
        };
        let check = |flag| {
            let step = ExtraFiles::new(vec![path(flag)], "/etc/kubernetes/pki");
            step.check(world.view()).unwrap()
        };
        let told = check("--audit-policy-file");
        assert!(
            matches!(&told, State::Conflict { reason, .. } if reason.contains("/srv/x.yaml (--audit-policy-file of kube-apiserver)")),
            "{told:?}"
        );
        assert_eq!(check("--flex-volume-plugin-dir"), State::Satisfied);
        world.host.write_file("/srv/x.yaml", b"x", 0o600).unwrap();
        assert_eq!(check("--audit-policy-file"), State::Satisfied);
    });
}

#[test]
fn what_lies_beside_a_file_that_a_flag_names_is_brought_with_it() {
    let healthy = Scripted::new()
        .on(
            "find -H /srv/auth '('",
            0,
            "d 755 4096 /srv/auth\nf 644 1 /srv/auth/webhook.yaml\nf 644 1 /srv/auth/ca.crt\nd 755 4096 /srv/auth/old\nf 644 1 /srv/auth/old/ca.crt\n",
        )
        .on(
            "find -H /srv/auth/webhook.yaml",
            0,
            "f 644 1 /srv/auth/webhook.yaml\n",
        )
        .on("find -H", 1, "find: x: No such file or directory")
        .on("sha256sum", 0, &Sha256::of(b"x").hex())
        .on("test -f", 0, "")
        .on("cat", 0, "x");
    beside(Arc::new(healthy), |world, _| {
        let paths = vec![
            named("/srv/auth", Role::Mounted),
            named("/srv/auth/webhook.yaml", Role::Read),
        ];
        let step = ExtraFiles::new(paths, "/etc/kubernetes/pki");
        step.apply(world).unwrap();
        let view = world.host.view();
        assert!(view.exists("/srv/auth/ca.crt").unwrap());
        assert!(!view.exists("/srv/auth/old").unwrap());
        assert_eq!(step.check(world.view()).unwrap(), State::Satisfied);
    });
}

#[test]
fn the_encryption_of_secrets_is_the_healthy_masters_and_nobody_elses() {
    const PATH: &str = "/etc/kubernetes/enc.yaml";
    let machine = |text: &'static str| {
        Scripted::new()
            .on(&format!("find -H {PATH}"), 0, &format!("f 600 3 {PATH}\n"))
            .on("find", 1, "find: x: No such file or directory")
            .on(
                "sha256sum",
                0,
                &format!("{}  {PATH}\n", Sha256::of(text.as_bytes()).hex()),
            )
            .on("test -f", 0, "")
            .on("cat", 0, text)
    };
    let extra = ExtraPath {
        path: PATH.to_owned(),
        named_by: "--encryption-provider-config of kube-apiserver".to_owned(),
        role: Role::Read,
    };
    let step = || ExtraFiles::new(vec![extra.clone()], "/etc/kubernetes/pki");
    beside(Arc::new(machine("new")), |world, _| {
        let down = RemoteView::new(Arc::new(machine("old")), "10.0.0.13");
        step().preferring(Some(down)).apply(world).unwrap();
        let brought = world.host.view().text(PATH).unwrap().unwrap();
        assert_eq!(brought, "new", "the down machine may have an old one");
        world.host.write_file(PATH, b"old", 0o600).unwrap();
        let state = step().keeping_own().check(world.view()).unwrap();
        assert!(
            matches!(&state, State::Conflict { reason, .. } if reason.contains(PATH)),
            "{state:?}"
        );
    });
}
