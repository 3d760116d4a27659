//! The kubelet's unit is in place, with kubeadm's drop-in, and enabled.
//!
//! It is not started here: kubeadm starts it when it has written the kubelet's configuration, and until then a kubelet could only fail and be restarted.
//! Somebody else's unit stays as it is where it starts the kubelet with kubeadm's files, as that of a machine does which has been a node before. Flags that people gave the
//! kubelet of an earlier Kubernetes, and that this one does not know any more, are a conflict: it would not start. So is a
//! drop-in that leaves kubeadm's flags out.

use std::collections::BTreeMap;

use anyhow::Result;
use bundle_spec::KubeVersion;

use super::config_file::ConfigFile;
use super::{combine, kubelet_start, unit};
use crate::facts::units::{ADMINISTRATOR, PACKAGED};
use crate::host::{Host, HostView, Kind};
use crate::kubernetes::Traits;
use crate::step::{State, Step, View, World};

const NAME: &str = "kubelet.service";

/// Where people give the kubelet flags of their own: where Debian's packages have it, and where the RPM packages have it.
pub(crate) const EXTRA_ARGS: [&str; 2] = ["/etc/default/kubelet", "/etc/sysconfig/kubelet"];

/// Where units lie that last until the next boot; systemd reads them after the administrator's.
const UNTIL_BOOT: &str = "/run/systemd/system";

/// kubeadm's drop-in.
const DROP_IN: &str = "10-kubeadm.conf";

/// The kubelet's own folder, and kubeadm's mode for it.
const DIR: (&str, u32) = ("/var/lib/kubelet", 0o700);

/// See the module.
#[derive(Debug)]
pub struct KubeletService {
    gone_flags: Vec<&'static str>,
}

impl KubeletService {
    /// The unit of the kubelet of this version.
    pub fn new(version: KubeVersion) -> Self {
        Self {
            gone_flags: Traits::of(version).gone_flags,
        }
    }

    /// What people gave the kubelet, and what it does not know any more.
    fn flags(&self, host: &HostView) -> Result<Vec<State>> {
        let mut states = Vec::new();
        for path in EXTRA_ARGS {
            let given = extra_flags(host, path)?;
            let is_given = |flag: &&&str| given.iter().any(|(name, _)| name == **flag);
            let gone = self.gone_flags.iter().filter(is_given);
            states.extend(gone.map(|flag| State::Conflict {
                reason: format!("{path} gives the kubelet {flag}, which it does not know any more: it would not start"),
                remedy: format!("take {flag} out of {path}"),
            }));
        }
        Ok(states)
    }
}

impl Step for KubeletService {
    fn id(&self) -> &'static str {
        "kubelet-service"
    }

    fn summary(&self) -> String {
        "the kubelet starts at boot, as kubeadm expects it to".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let state = unit::look(view.host, NAME)?;
        if state.load == "masked" {
            return Ok(unit::masked(NAME));
        }
        let (_, mut states) = unit_files(view.host)?;
        states.extend(overriding(view.host)?);
        states.extend(self.flags(view.host)?);
        if !view.host.exists(DIR.0)? {
            states.push(State::Pending(format!("{} is missing", DIR.0)));
        }
        states.extend(state.pending(NAME));
        Ok(combine(states))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        host.make_dir(DIR.0, DIR.1)?;
        for file in unit_files(host.view())?.0 {
            file.write(host)?;
        }
        unit::reload(host)?;
        unit::change(host, "enable", NAME)
    }
}

/// The flags in one of [`EXTRA_ARGS`], in their order, each with its value; one without has an empty one.
pub(crate) fn extra_flags(host: &HostView, path: &str) -> Result<Vec<(String, String)>> {
    let text = host.text(path)?.unwrap_or_default();
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().starts_with('#')) {
        // What stands before the first flag is the variable's name; a word that follows one without a value is that.
        let start = line.find("--").unwrap_or(line.len());
        let mut open = false;
        for word in line[start..].split([' ', '\t', '"', '\'']) {
            match (word.strip_prefix("--"), open) {
                (Some(_), _) => {
                    let (flag, value) = word.split_once('=').unwrap_or((word, ""));
                    open = !word.contains('=');
                    flags.push((flag.to_owned(), value.to_owned()));
                }
                (None, true) if !word.is_empty() => {
                    if let Some((_, value)) = flags.last_mut() {
                        word.clone_into(value);
                    }
                    open = false;
                }
                (None, _) => {}
            }
        }
    }
    Ok(flags)
}

/// Starts the kubelet again; the pods go on running.
pub(crate) fn restart(host: &Host<'_>) -> Result<()> {
    unit::change(host, "restart", NAME)
}

/// Stops the kubelet, where there is one; the pods go on running.
pub(crate) fn stop(host: &Host<'_>) -> Result<()> {
    if unit::look(host.view(), NAME)?.load == "not-found" {
        return Ok(());
    }
    unit::change(host, "stop", NAME)
}

/// The files that say how the kubelet starts, where that is ours to say, and their states. Somebody else's are adopted where they start it in the way that kubeadm expects, and are a
/// conflict where they do not.
fn unit_files(host: &HostView) -> Result<(Vec<ConfigFile>, Vec<State>)> {
    let files = files(host)?;
    let states = files.iter().map(|file| file.state(host));
    let states = states.collect::<Result<Vec<_>>>()?;
    let foreign = states.iter().find_map(|state| match state {
        State::Conflict { reason, remedy } => Some((reason, remedy)),
        _ => None,
    });
    let Some((reason, remedy)) = foreign else {
        return Ok((files, states));
    };
    let lacking = kubelet_start::lacking(host, NAME)?;
    if lacking.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let unfit = State::Conflict {
        reason: format!(
            "{reason}; kubeadm could not start the kubelet with it, which lacks {}",
            lacking.join(", ")
        ),
        remedy: remedy.clone(),
    };
    Ok((Vec::new(), vec![unfit]))
}

/// Whether what systemd reads after kubeadm's drop-in starts the kubelet in a way of its own: without what kubeadm finds out for it, it would not come up. One that keeps the variable of that is its
/// author's matter.
fn overriding(host: &HostView) -> Result<Option<State>> {
    // Of files with one name systemd reads the first; in the order of their names, wherever they lie.
    let mut read = BTreeMap::new();
    for dir in [ADMINISTRATOR, UNTIL_BOOT].into_iter().chain(PACKAGED) {
        let folder = format!("{dir}/{NAME}.d");
        for name in host.list(&folder)? {
            if name.as_str() > DROP_IN && name.strip_suffix(".conf").is_some() {
                let path = format!("{folder}/{name}");
                read.entry(name).or_insert(path);
            }
        }
    }
    let mut last = None;
    for path in read.into_values() {
        // One that leads to /dev/null takes away those of its name behind it.
        let text = match host.behind(&path)?.map(|facts| facts.kind) {
            Some(Kind::File) => host.text(&path)?.unwrap_or_default(),
            _ => String::new(),
        };
        // A line that ends with a backslash goes on in the next one.
        let text = text.replace("\\\n", " ");
        let starts = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("ExecStart="));
        for start in starts.filter(|start| !start.is_empty()) {
            last = Some((path.clone(), start.to_owned()));
        }
    }
    let variable = kubelet_start::FOUND_OUT.1;
    let other = last.filter(|(_, start)| !start.contains(variable));
    Ok(other.map(|(path, start)| State::Conflict {
        reason: format!(
            "{path} starts the kubelet in another way ({start}), without ${variable}, and systemd reads it after kubeadm's drop-in"
        ),
        remedy: format!("look at it; if nothing needs it, move it away: mv {path} /root/"),
    }))
}

/// The files that are ours to write: none of them where a package brought its own, which kubeadm's packages do in another folder.
fn files(host: &HostView) -> Result<Vec<ConfigFile>> {
    let packaged = |name: &str| -> Result<bool> {
        for dir in PACKAGED {
            if host.exists(&format!("{dir}/{name}"))? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut files = Vec::new();
    if !packaged(NAME)? {
        files.push(ConfigFile {
            path: "/etc/systemd/system/kubelet.service".to_owned(),
            content: include_str!("../templates/kubelet.service").to_owned(),
        });
    }
    if !packaged(&format!("{NAME}.d/{DROP_IN}"))? {
        let drop_in = ConfigFile {
            path: format!("{ADMINISTRATOR}/{NAME}.d/{DROP_IN}"),
            content: include_str!("../templates/10-kubeadm.conf").to_owned(),
        };
        // The packages up to 1.27 put theirs at the same place as ours.
        if crate::facts::packages::owner(host, &drop_in.path)?.is_none() {
            files.push(drop_in);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, systemd, units};
    use super::*;
    use crate::host::scripted::Scripted;

    const UNIT: &str = "/etc/systemd/system/kubelet.service";

    const OURS: &str = "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf";

    fn step() -> KubeletService {
        KubeletService::new(KubeVersion::new(1, 14, 0))
    }

    #[test]
    fn flags_that_the_kubelet_does_not_know_any_more_are_conflicts() {
        let machine = Machine::new();
        machine.file(
            "/etc/default/kubelet",
            "# --container-runtime=docker\nKUBELET_EXTRA_ARGS=\"--network-plugin=cni --pod-infra-container-image=x:1 --v=2\"\n",
        );
        let state = |minor| {
            let step = KubeletService::new(KubeVersion::new(1, minor, 0));
            machine.check(&step, systemd(Scripted::new(), &units(&[])))
        };
        assert!(matches!(state(23), State::Pending(_)));
        let gone = |minor| match state(minor) {
            State::Conflict { remedy, .. } => remedy,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            gone(34),
            "take --network-plugin out of /etc/default/kubelet"
        );
        assert_eq!(
            gone(35),
            "take --network-plugin out of /etc/default/kubelet\ntake --pod-infra-container-image out of /etc/default/kubelet"
        );
    }

    #[test]
    fn the_unit_is_written_and_enabled_but_not_started() {
        let machine = Machine::new();
        let known = units(&[]);
        let script = systemd(Scripted::new(), &known);
        let (before, after) = machine.ensure(&step(), script).unwrap();
        assert!(matches!(before, State::Pending(_)));
        assert_eq!(after, State::Satisfied);
        assert!(
            machine
                .text(UNIT)
                .unwrap()
                .contains("\nExecStart=/usr/bin/kubelet\nRestart=always\n")
        );
        assert!(
            machine
                .text(OURS)
                .unwrap()
                .contains("EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env")
        );
        assert_eq!(machine.mode("/var/lib/kubelet"), 0o700);
        assert_eq!(
            known.lock().unwrap()["kubelet.service"],
            ("inactive".to_owned(), "enabled".to_owned())
        );
    }

    #[test]
    fn a_package_s_own_unit_is_only_enabled() {
        let machine = Machine::new();
        machine
            .program("dpkg-query")
            .file("/lib/systemd/system/kubelet.service", "packaged")
            .file(OURS, "packaged");
        let script = || {
            let owner = format!("kubeadm: {OURS}\n");
            Scripted::new().on("dpkg-query --search", 0, &owner)
        };
        let known = units(&[("kubelet.service", "inactive", "disabled")]);
        let (_, after) = machine.ensure(&step(), systemd(script(), &known)).unwrap();
        assert_eq!(after, State::Satisfied);
        assert_eq!(
            (machine.text(UNIT), machine.text(OURS).as_deref()),
            (None, Some("packaged"))
        );
    }

    #[test]
    fn a_unit_that_starts_the_kubelet_as_kubeadm_expects_is_left_alone() {
        let machine = Machine::new();
        machine.file(UNIT, "[Service]\n");
        let known = units(&[("kubelet.service", "active", "disabled")]);
        let script = Scripted::new().on(
            "systemctl show --property=ExecStart",
            0,
            kubelet_start::STOCK,
        );
        let (before, after) = machine.ensure(&step(), systemd(script, &known)).unwrap();
        assert!(matches!(before, State::Pending(why) if why.contains("not enabled")));
        assert_eq!(after, State::Satisfied);
        assert_eq!(
            (machine.text(UNIT).as_deref(), machine.text(OURS)),
            (Some("[Service]\n"), None)
        );
    }

    #[test]
    fn somebody_else_s_unit_and_a_mask_are_conflicts() {
        let machine = Machine::new();
        machine.file(UNIT, "[Service]\n");
        let script = systemd(Scripted::new(), &units(&[]));
        let state = machine.check(&step(), script);
        assert!(
            matches!(&state, State::Conflict { reason, .. } if reason.contains("lacks /usr/bin/kubelet")),
            "{state:?}"
        );
        let masked = units(&[("kubelet.service", "inactive", "masked")]);
        let state = Machine::new().check(&step(), systemd(Scripted::new(), &masked));
        assert!(
            matches!(state, State::Conflict { remedy, .. } if remedy.contains("systemctl unmask kubelet.service"))
        );
    }

    #[test]
    fn a_drop_in_that_starts_the_kubelet_in_another_way_is_a_conflict() {
        let folder = "/etc/systemd/system/kubelet.service.d";
        let state = |path: &str, text: &str| {
            let machine = Machine::new();
            machine.file(path, text);
            machine.check(&step(), systemd(Scripted::new(), &units(&[])))
        };
        let own = "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --address=127.0.0.1\n";
        for path in [
            format!("{folder}/20-etcd-service-manager.conf"),
            "/usr/lib/systemd/system/kubelet.service.d/kubelet.conf".to_owned(),
        ] {
            let told = state(&path, own);
            assert!(
                matches!(&told, State::Conflict { reason, remedy } if reason.contains("--address=127.0.0.1") && remedy.contains(&path)),
                "{told:?}"
            );
        }
        let kept =
            "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet \\\n  $KUBELET_KUBEADM_ARGS --v=4\n";
        for (name, text) in [
            ("20-verbose.conf", kept),
            ("20-limits.conf", "[Service]\nLimitNOFILE=65536\n"),
            ("00-early.conf", own),
            ("20-off.conf.bak", own),
        ] {
            let told = state(&format!("{folder}/{name}"), text);
            assert!(matches!(told, State::Pending(_)), "{name}: {told:?}");
        }
        // Of one name systemd reads that of the administrator, and of all the last one counts.
        let machine = Machine::new();
        machine
            .file("/usr/lib/systemd/system/kubelet.service.d/20-own.conf", own)
            .file(&format!("{folder}/20-own.conf"), "")
            .file(&format!("{folder}/30-own.conf"), own)
            .file(&format!("{folder}/40-kept.conf"), kept);
        let told = machine.check(&step(), systemd(Scripted::new(), &units(&[])));
        assert!(matches!(told, State::Pending(_)), "{told:?}");
    }

    #[test]
    fn a_systemd_that_refuses_ends_the_step() {
        let machine = Machine::new();
        let script = Scripted::new().on("systemctl daemon-reload", 1, "Access denied");
        let script = systemd(script, &units(&[]));
        let error = machine.ensure(&step(), script).unwrap_err();
        assert!(format!("{error:#}").contains("Access denied"));
    }
}
