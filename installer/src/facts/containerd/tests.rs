//! The containerds that a machine may have, by what they print.

use super::*;
use crate::host::scripted::Scripted;
use crate::steps::testing::{Machine, Pot};

/// Lines of what Debian's containerd 1.6.20 prints for `containerd config dump`.
const DUMP_V2: &str = r#"disabled_plugins = []
root = "/var/lib/containerd"
version = 2

[plugins]

  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.k8s.io/pause:3.6"
    systemd_cgroup = false

    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/opt/cni/bin"
      conf_dir = "/etc/cni/net.d"

    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      snapshotter = "overlayfs"

      [plugins."io.containerd.grpc.v1.cri".containerd.default_runtime]
        runtime_type = ""

        [plugins."io.containerd.grpc.v1.cri".containerd.default_runtime.options]

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]

        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
          runtime_type = "io.containerd.runc.v2"

          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            BinaryName = ""
            SystemdCgroup = SYSTEMD
"#;

/// The same of 2.1.
const DUMP_V3: &str = r"version = 3
root = '/data/containerd'
state = '/run/containerd'

[plugins]
  [plugins.'io.containerd.cri.v1.images']
    snapshotter = 'overlayfs'

    [plugins.'io.containerd.cri.v1.images'.pinned_images]
      sandbox = 'registry.k8s.io/pause:3.10'

  [plugins.'io.containerd.cri.v1.runtime']
    [plugins.'io.containerd.cri.v1.runtime'.containerd]
      default_runtime_name = 'runc'

      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes]
        [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
          runtime_type = 'io.containerd.runc.v2'

          [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
            SystemdCgroup = true

    [plugins.'io.containerd.cri.v1.runtime'.cni]
      bin_dir = ''
      bin_dirs = ['/opt/cni/bin', '/usr/lib/cni/']
      conf_dir = '/etc/cni/net.d'
";

const PLUGINS: &str =
    "TYPE                                  ID                       PLATFORMS      STATUS    
io.containerd.snapshotter.v1          overlayfs                linux/amd64    ok        
io.containerd.grpc.v1                 cri                      linux/amd64    ok        
";

/// Answers for a containerd of this version that serves the kubelet and has `SystemdCgroup` so.
pub(crate) fn answering(script: Scripted, version: &str, systemd: &str) -> Scripted {
    let socket = "ctr --address /run/containerd/containerd.sock";
    script
        .on(
            &format!("{socket} version"),
            0,
            &format!("Client:\n  Version:  {version}\n  Revision: x\n\nServer:\n  Version:  {version}\n  Revision: x\n  UUID: y\n"),
        )
        .on(&format!("{socket} plugins ls"), 0, PLUGINS)
        .on(
            "containerd config dump",
            0,
            &DUMP_V2.replace("SYSTEMD", systemd),
        )
}

fn pot(minor: u16) -> std::sync::Arc<bundle_spec::VerifiedPot> {
    Pot::of(KubeVersion::new(1, minor, 0))
        .containerd("2.1.4")
        .verified()
}

fn look(machine: &Machine, minor: u16, script: Scripted) -> Containerd {
    let pot = pot(minor);
    standing(&machine.view(script), pot.manifest(), CgroupDriver::Systemd).unwrap()
}

#[test]
fn a_containerd_is_its_unit_s_not_its_program_s() {
    let machine = Machine::new();
    assert_eq!(look(&machine, 34, Scripted::new()), Containerd::Absent);
    machine
        .file_with_mode(PROGRAM, "this is containerd", 0o755)
        .program("ctr");
    assert_eq!(look(&machine, 34, Scripted::new()), Containerd::Ours);
    let unit = "/usr/local/lib/systemd/system/containerd.service";
    machine.file(unit, "[Service]\nExecStart=/usr/local/bin/containerd\n");
    let runs = answering(Scripted::new(), "2.1.4", "true");
    assert!(matches!(look(&machine, 34, runs), Containerd::Adopted));
    let silent = Scripted::new().on("ctr", 1, "connection refused");
    assert!(
        matches!(look(&machine, 34, silent), Containerd::Unfit { reason, remedy } if reason.contains(unit) && remedy.contains("systemctl enable --now containerd"))
    );
}

#[test]
fn version_service_and_cgroup_driver_decide() {
    let machine = Machine::new();
    machine.program("containerd").program("ctr");
    let unfit = |minor, script| match look(&machine, minor, script) {
        Containerd::Unfit { reason, remedy } => Some(format!("{reason}\n{remedy}")),
        _ => None,
    };
    let debian = |driver: &str| answering(Scripted::new(), "1.6.20~ds1", driver);
    assert_eq!(unfit(34, debian("true")), None);
    assert!(
        unfit(34, debian("false"))
            .unwrap()
            .contains("SystemdCgroup = true")
    );
    let newer = answering(Scripted::new(), "2.1.4", "true");
    assert!(
        unfit(22, newer)
            .unwrap()
            .contains("does not go with the kubelet v1.22.0")
    );
    let for_docker = answering(
        Scripted::new().on(
            "ctr --address /run/containerd/containerd.sock plugins",
            0,
            &PLUGINS.replace("    ok        \nio.containerd.grpc.v1", "    ok\nother"),
        ),
        "1.6.20",
        "true",
    );
    assert!(
        unfit(34, for_docker)
            .unwrap()
            .contains("does not serve the kubelet")
    );
}

#[test]
fn a_containerd_that_would_not_find_the_pot_s_plugins_is_no_good() {
    let machine = Machine::new();
    machine.program("containerd").program("ctr");
    // As the config.toml of Debian's 1.6.20 has it.
    let debian = || {
        let dump = DUMP_V2.replace("SYSTEMD", "true");
        let dump = dump.replace("/opt/cni/bin", "/usr/lib/cni");
        let first = Scripted::new().on("containerd config dump", 0, &dump);
        answering(first, "1.6.20~ds1", "true")
    };
    let Containerd::Unfit { reason, remedy } = look(&machine, 34, debian()) else {
        panic!("no pod would get a network");
    };
    assert!(
        reason.contains("looks for CNI plugins in /usr/lib/cni"),
        "{reason}"
    );
    assert!(
        remedy.contains("set bin_dir = \"/opt/cni/bin\" in /etc/containerd/config.toml")
            && remedy.contains("[plugins.\"io.containerd.grpc.v1.cri\".cni]")
            && remedy.contains("systemctl restart containerd"),
        "{remedy}"
    );
    // Where somebody linked the one folder to the other, both are found.
    machine
        .file("/usr/lib/cni/bridge", "")
        .file("/opt/cni/x", "");
    std::os::unix::fs::symlink(machine.place("/usr/lib/cni"), machine.place("/opt/cni/bin"))
        .unwrap();
    assert_eq!(look(&machine, 34, debian()), Containerd::Adopted);
}

#[test]
fn docker_is_in_the_way_of_a_containerd_of_ours_alone() {
    let machine = Machine::new();
    machine.program("dockerd");
    for (minor, kept) in [(34, false), (23, true)] {
        let found = look(&machine, minor, Scripted::new());
        assert!(
            matches!(&found, Containerd::Unfit { reason, remedy } if reason.contains("has Docker") && remedy.contains("--runtime docker") == kept),
            "{found:?}"
        );
    }
    machine.program("containerd").program("ctr");
    let its_own = Scripted::new().on("ctr", 1, "no such file or directory");
    assert!(
        matches!(look(&machine, 34, its_own), Containerd::Unfit { reason, .. } if reason.contains("has Docker"))
    );
    let runs = answering(Scripted::new(), "1.7.27", "true");
    assert!(matches!(look(&machine, 34, runs), Containerd::Adopted));
}

#[test]
fn both_forms_of_the_configuration_are_read() {
    let older = DUMP_V2.replace("SYSTEMD", "false");
    assert_eq!(cgroup_driver(&older), Some(CgroupDriver::Cgroupfs));
    assert_eq!(sandbox_image(&older), Some("registry.k8s.io/pause:3.6"));
    assert_eq!(value(&older, "", "root"), Some(ROOT));
    assert_eq!(cgroup_driver(DUMP_V3), Some(CgroupDriver::Systemd));
    assert_eq!(sandbox_image(DUMP_V3), Some("registry.k8s.io/pause:3.10"));
    assert_eq!(value(DUMP_V3, "", "root"), Some("/data/containerd"));
    assert_eq!((cgroup_driver(""), sandbox_image("")), (None, None));
    let folders = |config| plugin_folders(config).collect::<Vec<_>>();
    assert_eq!(folders(&older), ["/opt/cni/bin"]);
    assert_eq!(folders(DUMP_V3), ["/opt/cni/bin", "/usr/lib/cni"]);
    assert_eq!(folders(""), Vec::<&str>::new());
}

#[test]
fn only_a_containerd_that_reads_zstd_is_given_it() {
    for (version, reads) in [
        ("v1.4.13", false),
        ("1.5.0", true),
        ("1.6.20~ds1", true),
        ("v2.1.4", true),
    ] {
        let info = Info {
            version: version.to_owned(),
            serves_cri: true,
            cgroup_driver: None,
            sandbox_image: String::new(),
            cni_folders: Vec::new(),
            root: ROOT.to_owned(),
        };
        assert_eq!(info.reads_zstd(), reads, "{version}");
    }
}
