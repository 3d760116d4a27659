//! The programs of a pot on bare and on used machines.

use super::super::testing::{Machine, Pot};
use super::*;
use crate::host::scripted::Scripted;
use crate::journal::Change;

fn pot() -> Arc<VerifiedPot> {
    Pot::default()
        .artifact("docker", &["containerd", "docker", "dockerd", "runc"])
        .artifact("kubeadm", &["kubeadm"])
        .artifact("kubectl", &["kubectl"])
        .artifact("kubelet", &["kubelet"])
        .artifact("cni-plugins", &["bridge", "host-local"])
        .artifact("crictl", &["crictl"])
        .verified()
}

fn docker() -> DockerBinaries {
    DockerBinaries::new(pot(), CgroupDriver::Systemd).unwrap()
}

fn reason(state: State) -> String {
    match state {
        State::Conflict { reason, .. } => reason,
        other => panic!("{other:?} is no conflict"),
    }
}

#[test]
fn a_bare_machine_gets_every_program() {
    let machine = Machine::new();
    let steps: [Box<dyn Step>; 4] = [
        Box::new(docker()),
        Box::new(KubernetesBinaries::new(pot()).unwrap()),
        Box::new(CniPlugins::new(pot()).unwrap()),
        Box::new(Crictl::new(pot()).unwrap().unwrap()),
    ];
    for step in steps {
        let (before, after) = machine.ensure(step.as_ref(), Scripted::new()).unwrap();
        assert!(matches!(before, State::Pending(_)), "{}", step.id());
        assert_eq!(after, State::Satisfied, "{}", step.id());
    }
    for path in [
        "/usr/bin/runc",
        "/usr/bin/kubelet",
        "/usr/bin/crictl",
        "/opt/cni/bin/bridge",
    ] {
        let name = path.rsplit('/').next().unwrap();
        assert_eq!(machine.text(path).unwrap(), format!("this is {name}"));
        assert_eq!(machine.mode(path), 0o755);
    }
}

#[test]
fn the_journal_knows_of_no_file_that_was_not_begun() {
    let machine = Machine::new();
    // A folder is no place for a program, and the largest one comes first.
    machine.file("/usr/bin/.containerd.kpot-new/in-the-way", "");
    assert!(machine.ensure(&docker(), Scripted::new()).is_err());
    let files = machine.journal().into_iter();
    let files = files.filter(|change| matches!(change, Change::File { .. }));
    assert!((1..=2).contains(&files.count()));
    assert_eq!(machine.text("/usr/bin/runc"), None);
}

#[test]
fn what_is_there_is_not_written_again() {
    let machine = Machine::new();
    machine.ensure(&docker(), Scripted::new()).unwrap();
    assert_eq!(machine.check(&docker(), Scripted::new()), State::Satisfied);
    let journal = machine.journal().len();
    machine.ensure(&docker(), Scripted::new()).unwrap();
    assert_eq!(machine.journal().len(), journal);
    // One that is gone, and one that cannot be run, come back.
    machine.file("/usr/bin/runc", "this is runc");
    let (before, after) = machine.ensure(&docker(), Scripted::new()).unwrap();
    assert_eq!(
        before,
        State::Pending("/usr/bin/runc has mode 644".to_owned())
    );
    assert_eq!(after, State::Satisfied);
}

#[test]
fn a_docker_that_fits_is_adopted_untouched() {
    let machine = Machine::new();
    machine.program("docker").program("dockerd");
    let info = r#"{"ServerVersion":"20.10.24+dfsg1","CgroupDriver":"systemd","Driver":"overlay2"}"#;
    let script = Scripted::new().on("docker info", 0, info);
    assert_eq!(machine.check(&docker(), script), State::Satisfied);
}

#[test]
fn a_docker_that_does_not_fit_is_a_conflict_with_its_package() {
    let machine = Machine::new();
    machine
        .program("docker")
        .program("dockerd")
        .program("dpkg-query");
    let owner = || {
        Scripted::new().on(
            "dpkg-query --search /usr/bin/dockerd",
            0,
            "docker-ce: /usr/bin/dockerd",
        )
    };
    let info = r#"{"ServerVersion":"20.10.24","CgroupDriver":"cgroupfs","Driver":"overlay2"}"#;
    let state = machine.check(&docker(), owner().on("docker info", 0, info));
    assert_eq!(
        reason(state),
        "another Docker is installed and its cgroup driver is cgroupfs, and systemd is wanted: /usr/bin/dockerd of package docker-ce"
    );
    let state = machine.check(&docker(), owner().on("docker info", 1, "Cannot connect"));
    assert!(reason(state).contains("does not answer"));
}

#[test]
fn a_file_of_another_package_is_never_overwritten() {
    let machine = Machine::new();
    machine.program("runc").program("rpm");
    let script = || {
        Scripted::new().on(
            "rpm --query --file /usr/bin/runc",
            0,
            "runc-1.1.4-1.el8.x86_64",
        )
    };
    let state = machine.check(&docker(), script());
    assert_eq!(
        reason(state),
        "/usr/bin/runc is already here and is not the pot's (package runc-1.1.4-1.el8.x86_64 put it there)"
    );
    let before = machine.dump()[&machine.place("/usr/bin/runc")].clone();
    machine.ensure(&docker(), script()).unwrap();
    assert_eq!(machine.dump()[&machine.place("/usr/bin/runc")], before);
}

#[test]
fn kubernetes_of_the_same_version_is_adopted_and_of_another_is_a_conflict() {
    let machine = Machine::new();
    let step = KubernetesBinaries::new(pot()).unwrap();
    for name in ["kubeadm", "kubectl", "kubelet"] {
        machine.program(name);
    }
    let script = |kubelet: &str| {
        Scripted::new()
            .on("/usr/bin/kubeadm version", 0, "v1.14.0")
            .on(
                "/usr/bin/kubectl version",
                0,
                r#"{"clientVersion":{"gitVersion":"v1.14.0"}}"#,
            )
            .on("/usr/bin/kubelet --version", 0, kubelet)
    };
    assert_eq!(
        machine.check(&step, script("Kubernetes v1.14.0")),
        State::Satisfied
    );
    let state = machine.check(&step, script("Kubernetes v1.13.5"));
    assert_eq!(
        reason(state),
        "/usr/bin/kubelet is already here and is v1.13.5, not v1.14.0 (no package owns it)"
    );
}

#[test]
fn a_program_that_hides_ours_is_a_conflict() {
    let machine = Machine::new();
    let step = KubernetesBinaries::new(pot()).unwrap();
    machine.file_with_mode("/usr/local/bin/kubeadm", "another", 0o755);
    let script = Scripted::new().on("/usr/local/bin/kubeadm version", 0, "v1.20.2");
    assert!(reason(machine.check(&step, script)).starts_with("/usr/local/bin/kubeadm"));
}

#[test]
fn plugins_of_a_pod_network_stay() {
    let machine = Machine::new();
    let step = CniPlugins::new(pot()).unwrap();
    machine.file_with_mode("/opt/cni/bin/bridge", "from the pod network", 0o755);
    let (_, after) = machine.ensure(&step, Scripted::new()).unwrap();
    assert_eq!(after, State::Satisfied);
    assert_eq!(
        machine.text("/opt/cni/bin/bridge").unwrap(),
        "from the pod network"
    );
}

#[test]
fn a_full_or_broken_disk_ends_the_step() {
    let machine = Machine::new();
    machine.file("/opt/cni", "a file where a folder should be");
    let step = CniPlugins::new(pot()).unwrap();
    assert!(machine.ensure(&step, Scripted::new()).is_err());
}

#[test]
fn a_pot_without_an_artifact_is_refused_when_the_step_is_made() {
    let pot = Pot::default().artifact("kubeadm", &["kubeadm"]).verified();
    assert!(Crictl::new(Arc::clone(&pot)).unwrap().is_none());
    let error = CniPlugins::new(Arc::clone(&pot)).err().unwrap();
    assert_eq!(error.to_string(), "the pot kpot-test holds no cni-plugins");
    assert!(KubernetesBinaries::new(Arc::clone(&pot)).is_err());
    assert!(DockerBinaries::new(pot, CgroupDriver::Cgroupfs).is_err());
}

fn pot_with_containerd() -> Arc<VerifiedPot> {
    Pot::of(bundle_spec::KubeVersion::new(1, 34, 4))
        .containerd("2.1.4")
        .verified()
}

fn containerd_binaries() -> ContainerdBinaries {
    ContainerdBinaries::new(pot_with_containerd(), CgroupDriver::Systemd).unwrap()
}

#[test]
fn containerd_goes_where_upstream_has_it_and_crictl_knows_where_it_listens() {
    let machine = Machine::new();
    let crictl = Crictl::new(pot_with_containerd()).unwrap().unwrap();
    let steps: [&dyn Step; 2] = [&containerd_binaries(), &crictl];
    for step in steps {
        let (before, after) = machine.ensure(step, Scripted::new()).unwrap();
        assert!(matches!(before, State::Pending(_)), "{}", step.id());
        assert_eq!(after, State::Satisfied, "{}", step.id());
    }
    for path in [
        "/usr/local/bin/containerd",
        "/usr/local/bin/containerd-shim-runc-v2",
        "/usr/local/bin/ctr",
        "/usr/local/sbin/runc",
        "/usr/bin/crictl",
    ] {
        assert_eq!(machine.mode(path), 0o755, "{path}");
    }
    let endpoint = "runtime-endpoint: unix:///run/containerd/containerd.sock";
    let config = machine.text("/etc/crictl.yaml").unwrap();
    assert!(config.lines().any(|line| line == endpoint), "{config}");
    machine.file("/etc/crictl.yaml", "timeout: 60\n");
    assert_eq!(
        machine.check(&crictl, Scripted::new()),
        State::Satisfied,
        "people's own"
    );
}

#[test]
fn a_crictl_that_speaks_to_no_containerd_of_2_is_a_conflict_wherever_it_comes_first() {
    let step = |containerd: &str| {
        let pot = Pot::of(bundle_spec::KubeVersion::new(1, 34, 4)).containerd(containerd);
        Crictl::new(pot.verified()).unwrap().unwrap()
    };
    let script = |version: &str| Scripted::new().on("crictl --version", 0, version);
    let machine = Machine::new();
    machine.ensure(&step("2.1.4"), Scripted::new()).unwrap();
    assert_eq!(
        machine.check(&step("2.1.4"), Scripted::new()),
        State::Satisfied,
        "the pot's own"
    );
    machine.file_with_mode("/usr/local/bin/crictl", "another", 0o755);
    let state = machine.check(&step("2.1.4"), script("crictl version v1.19.0\n"));
    assert_eq!(
        reason(state),
        "/usr/local/bin/crictl is already here and is v1.19.0, which does not speak to containerd 2.1.4 as every crictl from 1.24 on does, and is found before any other (no package owns it)"
    );
    let untold = machine.check(&step("2.1.4"), script(""));
    assert!(reason(untold).contains("is of no version that it tells"));
    for version in ["crictl version v1.24.2", "crictl version 1.34.0"] {
        let state = machine.check(&step("2.1.4"), script(version));
        assert_eq!(state, State::Satisfied, "{version}");
    }
    // 1.x speaks as they do; one that is adopted counts more than the pot's.
    assert_eq!(
        machine.check(&step("1.7.30"), Scripted::new()),
        State::Satisfied
    );
    machine.program("containerd").program("ctr");
    let adopted = containerd::tests::answering(script("crictl version v1.19.0"), "2.1.4", "true");
    assert!(reason(machine.check(&step("1.7.30"), adopted)).contains("containerd 2.1.4"));
}

#[test]
fn a_containerd_that_fits_is_adopted_untouched() {
    let machine = Machine::new();
    machine.program("containerd").program("ctr");
    let before = machine.dump();
    let script = || containerd::tests::answering(Scripted::new(), "1.6.20~ds1", "true");
    assert_eq!(
        machine.check(&containerd_binaries(), script()),
        State::Satisfied
    );
    assert_eq!(machine.dump(), before);
}

#[test]
fn a_containerd_that_dockerd_would_start_instead_of_its_own_is_a_conflict() {
    let machine = Machine::new();
    machine.file_with_mode("/usr/local/bin/containerd", "another one", 0o755);
    let reason = reason(machine.check(&docker(), Scripted::new()));
    assert!(
        reason.contains("/usr/local/bin/containerd is already here and would be started"),
        "{reason}"
    );
}
