//! Whether a unit that somebody else wrote starts the kubelet as kubeadm expects: with the configuration, kubeconfigs and flags that kubeadm writes.
//!
//! systemd itself is asked, so all drop-ins count, in the order that it reads them. What more the unit has is not judged: it is its author's.

use anyhow::{Result, ensure};

use crate::host::HostView;
use crate::host::probe::Probe;

/// The program; the pot's kubelet is put there.
const PROGRAM: &str = "/usr/bin/kubelet";

/// The files that kubeadm writes, each by the flag that names it.
const FLAGS: [(&str, &str); 3] = [
    (
        "--bootstrap-kubeconfig",
        "/etc/kubernetes/bootstrap-kubelet.conf",
    ),
    ("--kubeconfig", "/etc/kubernetes/kubelet.conf"),
    ("--config", "/var/lib/kubelet/config.yaml"),
];

/// The flags that kubeadm finds out (cgroup driver, pause image, …), and the variable that they are in.
pub(super) const FOUND_OUT: (&str, &str) =
    ("/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS");

/// What the unit's command lacks of what kubeadm expects; empty where the kubelet can start with what kubeadm writes.
///
/// # Errors
/// Where systemd cannot be asked.
pub(super) fn lacking(host: &HostView, unit: &str) -> Result<Vec<String>> {
    let answer = host.probe(&Probe::unit_start(unit))?;
    ensure!(
        answer.ok(),
        "systemd does not tell how it starts {unit}: {}",
        answer.evidence()
    );
    Ok(lacks(&answer.text()))
}

fn lacks(told: &str) -> Vec<String> {
    let values = |key: &str| -> Vec<&str> {
        let value = |line| str::strip_prefix(line, key)?.strip_prefix('=');
        told.lines().filter_map(value).collect()
    };
    let start = values("ExecStart").join("\n");
    let path = start.split_once("path=").map(|(_, rest)| rest);
    let command = start
        .split_once("argv[]=")
        .and_then(|(_, rest)| rest.split_once(" ; "))
        .map_or("", |(argv, _)| argv);
    let uses = |variable: &str| {
        let braced = format!("${{{variable}}}");
        command
            .split([' ', '='])
            .any(|word| word.strip_prefix('$') == Some(variable) || word == braced)
    };
    let environment = values("Environment").join(" ");
    let used: Vec<&str> = variables(&environment)
        .into_iter()
        .filter(|(name, _)| uses(name))
        .map(|(_, value)| value)
        .collect();
    let has = |flag: &str, file: &str| {
        let given = |text: &str| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let joined = format!("{flag}={file}");
            words.contains(&joined.as_str()) || words.windows(2).any(|pair| pair == [flag, file])
        };
        given(command) || used.iter().any(|text| given(text))
    };
    let mut lacking = Vec::new();
    if path.and_then(|path| path.split(' ').next()) != Some(PROGRAM) {
        lacking.push(PROGRAM.to_owned());
    }
    for (flag, file) in FLAGS {
        if !has(flag, file) {
            lacking.push(format!("{flag}={file}"));
        }
    }
    let (file, variable) = FOUND_OUT;
    let reads = values("EnvironmentFiles")
        .iter()
        .any(|value| value.split_whitespace().any(|word| word == file));
    if !reads || !uses(variable) {
        lacking.push(format!("${variable} of {file}"));
    }
    lacking
}

/// The variables of an `Environment=` value as systemd prints it: `NAME=value "OTHER=several words"`.
fn variables(text: &str) -> Vec<(&str, &str)> {
    let mut rest = text.trim_start();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (word, more) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        found.extend(word.split_once('='));
        rest = more.trim_start();
    }
    found
}

/// What systemd tells of the unit of kubeadm's packages, with its drop-in.
#[cfg(test)]
pub(super) const STOCK: &str = "ExecStart={ path=/usr/bin/kubelet ; argv[]=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
Environment=\"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf\" KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml
EnvironmentFiles=/var/lib/kubelet/kubeadm-flags.env (ignore_errors=yes)
EnvironmentFiles=/etc/default/kubelet (ignore_errors=yes)
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_count_in_the_command_and_in_the_variables_that_it_uses() {
        assert_eq!(lacks(STOCK), Vec::<String>::new());
        let plain = "ExecStart={ path=/usr/bin/kubelet ; argv[]=/usr/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig /etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml ${KUBELET_KUBEADM_ARGS} ; ignore_errors=no ; pid=1 }\nEnvironment=\nEnvironmentFiles=/var/lib/kubelet/kubeadm-flags.env (ignore_errors=yes)\n";
        assert_eq!(lacks(plain), Vec::<String>::new());
    }

    #[test]
    fn what_is_lacking_is_named() {
        for (from, to, lacking) in [
            (
                "path=/usr/bin/kubelet",
                "path=/opt/kubelet",
                "/usr/bin/kubelet",
            ),
            (
                " $KUBELET_CONFIG_ARGS",
                "",
                "--config=/var/lib/kubelet/config.yaml",
            ),
            (
                "--kubeconfig=/etc/kubernetes/kubelet.conf",
                "--kubeconfig=/etc/kubernetes/other.conf",
                "--kubeconfig=/etc/kubernetes/kubelet.conf",
            ),
            (
                "EnvironmentFiles=/var/lib/kubelet/kubeadm-flags.env (ignore_errors=yes)\n",
                "",
                "$KUBELET_KUBEADM_ARGS of /var/lib/kubelet/kubeadm-flags.env",
            ),
            (
                " $KUBELET_KUBEADM_ARGS",
                "",
                "$KUBELET_KUBEADM_ARGS of /var/lib/kubelet/kubeadm-flags.env",
            ),
        ] {
            assert!(STOCK.contains(from), "{from}");
            assert_eq!(lacks(&STOCK.replacen(from, to, 1)), [lacking], "{from}");
        }
        assert_eq!(lacks("ExecStart=\n").len(), 5, "a unit without a command");
    }
}
