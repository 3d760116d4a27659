use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use super::super::command::Local;
use super::super::scripted::Scripted;
use super::password::{is_asked, owner};
use super::*;

#[test]
fn quoting_survives_a_real_shell() {
    for hostile in [
        "",
        "plain",
        "two words",
        "it's",
        "$(id) `id` \\ \" ! *",
        "a=b",
        "-o=x",
        "line\nfeed",
        "~root",
        "ünïcode",
        ";rm -rf /",
    ] {
        let output = Local
            .run(&Cmd::new(
                "sh",
                ["-c".to_owned(), format!("printf %s {}", quote(hostile))],
            ))
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), hostile);
    }
    assert_eq!(
        quote("X=1"),
        "'X=1'",
        "an assignment must not be taken for one"
    );
}

#[test]
fn sudo_gets_its_password_on_the_first_line_of_input_and_nowhere_else() {
    let cmd = Cmd::new("kubectl", ["get", "nodes"])
        .env("A", "b")
        .stdin("body");
    let (elevated, prefix) = elevate(&cmd, &Elevation::SudoWithPassword(Secret::new("pw")));
    assert_eq!(
        elevated.to_string(),
        "sudo -k -S -p '' -- env 'A=b' kubectl get nodes"
    );
    assert_eq!(prefix.expose(), b"pw\n");
    assert_eq!(
        elevate(&cmd, &Elevation::Root),
        (cmd.clone(), Secret::default())
    );
    assert_eq!(
        elevate(&cmd, &Elevation::SudoWithoutPassword).0.to_string(),
        "sudo -n -- env 'A=b' kubectl get nodes"
    );
}

/// A connection whose local commands a script answers.
fn connected(local: Scripted, elevation: Elevation) -> Ssh {
    let target = Target {
        role: Role::Healthy,
        host: "m1".to_owned(),
        user: "ops".to_owned(),
        port: None,
        identity: None,
        host_key: None,
        password: None,
    };
    Ssh {
        local: Arc::new(local),
        target,
        folder: PathBuf::from("/nonexistent"),
        options: Vec::new(),
        elevation,
        path: remote_path(""),
    }
}

#[test]
fn a_file_is_fetched_through_sudo_byte_for_byte() {
    let bytes: Vec<u8> = (0..=255).collect();
    let printed = bytes.clone();
    let local = Scripted::new().with(move |cmd, input| {
        let line = cmd.args.last()?;
        (line.starts_with("sudo -k -S -p '' -- env 'PATH=")
            && line.ends_with(" cat -- /f")
            && input == b"pw\n")
            .then(|| Output {
                stdout: printed.clone(),
                ..Output::default()
            })
    });
    let ssh = connected(local, Elevation::SudoWithPassword(Secret::new("pw")));
    let mut sink = Vec::new();
    let output = ssh
        .fetch(&Cmd::new("cat", ["--", "/f"]), &mut sink)
        .unwrap();
    assert!(output.ok() && output.stdout.is_empty());
    assert_eq!(sink, bytes);
}

#[test]
fn a_connection_that_breaks_while_a_file_is_fetched_is_told_from_a_failed_command() {
    let broken = connected(Scripted::new().on("ssh ", 255, "closed"), Elevation::Root)
        .fetch(&Cmd::new("cat", ["/f"]), &mut Vec::new())
        .unwrap_err();
    assert!(matches!(broken, CommandError::Remote { .. }), "{broken}");
    let failed = connected(
        Scripted::new().on("ssh ", 1, "no such file"),
        Elevation::Root,
    )
    .fetch(&Cmd::new("cat", ["/f"]), &mut Vec::new())
    .unwrap();
    assert_eq!(failed.status, 1);
}

#[test]
fn what_a_command_printed_before_the_connection_broke_is_not_told() {
    let torn = |stderr: &str| {
        let output = Output {
            status: NO_CONNECTION,
            stdout: b"abcdef.0123456789abcdef".to_vec(),
            stderr: stderr.as_bytes().to_vec(),
        };
        let local = Scripted::new().with(move |_, _| Some(output.clone()));
        let token = Cmd::new("kubeadm", ["token", "create"]);
        let error = connected(local, Elevation::Root).run(&token).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        torn(""),
        "the connection to m1 broke while running kubeadm token create: it was closed, or nothing came over it any more"
    );
    assert!(torn("Connection reset").ends_with("kubeadm token create: Connection reset"));
}

#[test]
fn a_connection_outlasts_the_work_on_this_machine_and_a_long_thought() {
    let persists = |password: Option<Secret>| {
        let local = Arc::new(Scripted::new().with(|_, _| Some(Output::default())));
        let mut ssh = connected(Scripted::new(), Elevation::Root);
        let folder = tempfile::tempdir().unwrap();
        ssh.folder = folder.path().to_owned();
        ssh.local = local.clone();
        ssh.target.password = password;
        ssh.open().unwrap();
        let asked = local.asked();
        let mut opened = asked
            .iter()
            .filter_map(|cmd| cmd.split_once("ControlPersist="));
        let (_, seconds) = opened.next().unwrap();
        let digits = seconds.split(|letter: char| !letter.is_ascii_digit());
        digits.map(str::parse::<u32>).next().unwrap().unwrap()
    };
    for password in [None, Some(Secret::new("pw"))] {
        assert!(persists(password) > 3600);
    }
}

#[test]
fn a_machine_on_the_way_is_told_from_the_one_whose_password_it_is() {
    for (question, asking) in [
        ("root@10.0.0.11's password: ", Some("root@10.0.0.11")),
        ("(ops@bastion) Password: ", Some("ops@bastion")),
        ("Password: ", None),
        ("Enter passphrase for key '/root/.ssh/id': ", None),
    ] {
        assert_eq!(owner(question), asking, "{question}");
    }
    let told = "hostname 10.0.0.11\nport 22\nhostkeyalias first\n";
    let ssh = connected(Scripted::new().on("ssh -G", 0, told), Elevation::Root);
    assert_eq!(ssh.owners(), "ops@m1 ops@10.0.0.11 ops@first");
    let old = connected(Scripted::new().on("ssh -G", 255, ""), Elevation::Root);
    assert_eq!(old.owners(), "ops@m1");
    let long = "somebody.with.a.long.name@corp.example";
    assert!(is_asked(
        &format!("{long}@m1"),
        &format!("{}@M1", &long[..30])
    ));
    assert!(!is_asked("root@10.0.0.11", "root@bastion"));
}

#[test]
fn a_password_is_served_to_askpass_only_for_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let _server = serve_password(&socket, Secret::new("pw")).unwrap();
    let mut answer = String::new();
    UnixStream::connect(&socket)
        .unwrap()
        .read_to_string(&mut answer)
        .unwrap();
    assert_eq!(answer, "pw");
    assert!(
        answer_askpass(
            &socket,
            "Are you sure you want to continue connecting (yes/no)?"
        )
        .is_err()
    );
}

#[test]
fn folders_of_dead_programs_are_removed() {
    let parent = tempfile::tempdir().unwrap();
    let dead = ["4294967295", "4294967295-2"].map(|name| parent.path().join(name));
    for folder in &dead {
        fs::create_dir(folder).unwrap();
    }
    fs::write(dead[0].join(SOCKET), "").unwrap();
    let local = Scripted::new().on("ssh", 0, "");
    let own = private_folder(parent.path(), &local).unwrap();
    let socket = dead[0].join(SOCKET);
    assert_eq!(
        local.asked(),
        [format!("ssh -S {} -O exit the-other-end", socket.display())]
    );
    assert!(own.exists() && dead.iter().all(|folder| !folder.exists()));
    assert_ne!(
        private_folder(parent.path(), &local).unwrap(),
        own,
        "a second connection leaves the first one's folder alone"
    );
    assert!(own.exists());
}

#[test]
fn a_machine_that_is_down_costs_little_patience_and_has_an_option_of_its_own() {
    let mut ssh = connected(Scripted::new(), Elevation::Root);
    ssh.target.role = Role::Down;
    assert!(ssh.options().unwrap().contains(&"ConnectTimeout=4".into()));
    let unknown = Output {
        status: 255,
        stderr: b"Host key verification failed.".to_vec(),
        ..Output::default()
    };
    let told = ssh.explain(&unknown).to_string();
    assert!(told.contains("--down-host-key SHA256:"), "{told}");
}

#[test]
fn programs_are_looked_for_where_root_there_has_them_too() {
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(
        remote_path(""),
        format!("{usual}:/opt/bin:/opt/kube/bin:/snap/bin")
    );
    assert_eq!(
        remote_path("/opt/bin:bin::.:/usr/bin:/srv/k8s:~/bin:/a\nb:"),
        format!("{usual}:/opt/bin:/srv/k8s:/opt/kube/bin:/snap/bin"),
        "what is relative is no folder of root's"
    );

    let local = Scripted::new().with(|cmd, _| {
        let line = cmd.args.last()?;
        let stdout = if line == "sudo -n -- printenv PATH" {
            b"/sbin:/srv/it's here\n".to_vec()
        } else {
            line.clone().into_bytes()
        };
        Some(Output {
            stdout,
            ..Output::default()
        })
    });
    let mut ssh = connected(local, Elevation::SudoWithoutPassword);
    ssh.path = ssh.path().unwrap();
    let line = ssh.run(&Cmd::new("kubectl", ["version"])).unwrap().text();
    assert_eq!(
        line,
        format!(
            "sudo -n -- env 'PATH={usual}:/srv/it'\\''s here:/opt/bin:/opt/kube/bin:/snap/bin' kubectl version"
        )
    );

    let mute = connected(Scripted::new().on("ssh ", 1, "no PATH"), Elevation::Root);
    assert_eq!(mute.path().unwrap(), remote_path(""));
}

#[test]
fn the_operator_s_own_configuration_keeps_no_command_from_running() {
    let options = |status_of_newest: i32| {
        let local = Scripted::new()
            .on("ssh -G -o 'RemoteCommand=none' ops@m1", 0, "")
            .on("ssh -G -o 'SessionType=default' ", status_of_newest, "");
        connected(local, Elevation::Root).options().unwrap()
    };
    let has = |options: &[String], option: &str| options.iter().any(|one| one == option);
    let (new, old) = (options(0), options(255));
    for option in ["ControlMaster=no", "RemoteCommand=none"] {
        assert!(has(&new, option) && has(&old, option), "{option}");
    }
    for option in [
        "SessionType=default",
        "StdinNull=no",
        "ForkAfterAuthentication=no",
    ] {
        assert!(has(&new, option) && !has(&old, option), "{option}");
    }

    let local = Arc::new(Scripted::new().with(|_, _| Some(Output::default())));
    let mut ssh = connected(Scripted::new(), Elevation::Root);
    ssh.local = local.clone();
    ssh.options = ssh.options().unwrap();
    ssh.open().unwrap();
    let opened = local.asked().pop().unwrap();
    assert!(opened.starts_with("ssh -M -f -N -T -S "), "{opened}");
}

#[test]
fn a_key_is_named_as_ssh_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let place = folder.path().join(name);
        fs::write(&place, "").unwrap();
        place
    };
    let folder = folder.path().display();
    assert_eq!(
        identity_option(&key("key of 100%h #1")).unwrap(),
        format!("IdentityFile=\"{folder}/key of 100%%h #1\"")
    );
    for hostile in ["a\"b", "a\\b", "a${HOME}b", "a\nb"] {
        let refused = identity_option(&key(hostile)).unwrap_err().to_string();
        assert!(refused.contains("by another path"), "{refused}");
    }
    let none = identity_option(Path::new("/nonexistent/key")).unwrap_err();
    assert!(none.to_string().contains("no private key"), "{none}");
}

#[test]
fn a_machine_without_an_ssh_client_is_told_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("/nonexistent:{}", folder.path().display());
    let mut target = connected(Scripted::new(), Elevation::Root).target.clone();
    let lacks = |target: &Target, what: &str| {
        let told = need_programs(target, &path).unwrap_err().to_string();
        assert!(told.contains(what), "{told}");
    };
    let put = |name: &str, mode: u32| {
        let place = folder.path().join(name);
        fs::write(&place, "").unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
    };
    put("ssh", 0o644);
    lacks(&target, "no ssh. Install its package: openssh-client (");
    put("ssh", 0o755);
    need_programs(&target, &path).unwrap();
    target.host_key = Some("SHA256:x".to_owned());
    lacks(&target, "openssh-clients (RHEL, CentOS)");
    put("ssh-keyscan", 0o755);
    target.password = Some(Secret::new("pw"));
    lacks(&target, "no setsid. Install its package: util-linux");
}

#[test]
fn a_pinned_key_is_asked_for_where_ssh_s_own_configuration_leads() {
    let key = Base64::encode_string(b"a key");
    let pinned = format!(
        "SHA256:{}",
        Base64Unpadded::encode_string(Sha256::of(b"a key").as_bytes())
    );
    let local = Scripted::new()
        .on(
            "ssh -G ops@m1",
            0,
            "user ops\nhostname 10.0.0.11\nport 2222\n",
        )
        .on(
            "ssh-keyscan -T 10 -p 2222 10.0.0.11",
            0,
            &format!("# 10.0.0.11:2222 SSH-2.0\n[10.0.0.11]:2222 ssh-ed25519 {key}\n"),
        );
    let folder = tempfile::tempdir().unwrap();
    let mut ssh = connected(local, Elevation::Root);
    ssh.folder = folder.path().to_owned();
    let known = fs::read_to_string(ssh.pinned_known_hosts(&pinned).unwrap()).unwrap();
    assert_eq!(known, format!("* ssh-ed25519 {key}\n"));
    let other = ssh
        .pinned_known_hosts("SHA256:other")
        .unwrap_err()
        .to_string();
    assert!(other.contains(&format!("but one of {pinned}")), "{other}");
}
