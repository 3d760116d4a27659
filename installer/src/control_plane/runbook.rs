//! What to type when etcd has lost its quorum for good. This program does none of it: there is no forced removal, only a restore, and a person has to choose from what.

use super::containers::Tool;
use super::etcd::Version;

/// The runbook for a cluster that shows in this way that it has no quorum, whose etcd has this version, and whose masters' containers are listed and entered with `tool`.
pub fn lost_quorum(how: &str, etcd: Version, tool: Tool) -> String {
    let (find, exec, run) = match tool {
        Tool::Docker => (
            "docker ps -q --filter label=io.kubernetes.container.name=etcd",
            "docker exec -e ETCDCTL_API=3 $E",
            "docker run --rm -e ETCDCTL_API=3 -v /var/lib:/var/lib \"$IMAGE\"",
        ),
        Tool::Crictl => (
            "crictl ps -q --label io.kubernetes.container.name=etcd",
            "crictl exec $E{told}",
            CTR_RUN,
        ),
        Tool::Ctr => (
            // It lists containers that ended as well: only the tasks tell which of them runs.
            "ctr -n k8s.io tasks list | awk '$3 == \"RUNNING\" { print $1 }' | grep -Fx \"$(ctr -n k8s.io containers list -q 'labels.\"io.kubernetes.container.name\"==etcd')\"",
            "ctr -n k8s.io tasks exec --exec-id by-hand-$(date +%s) $E{told}",
            CTR_RUN,
        ),
    };
    // Neither gives a container's command a variable. The images of an etcd as old as that have a shell.
    let (told, env) = if etcd.speaks_the_first_api() {
        (
            " /bin/sh -c 'ETCDCTL_API=3 exec \"$@\"' sh",
            " --env ETCDCTL_API=3",
        )
    } else {
        ("", "")
    };
    let (exec, run) = (exec.replace("{told}", told), run.replace("{env}", env));
    // etcdutl 3.6 always has them; etcdctl has them from 3.5.10 and late in 3.4 (https://github.com/etcd-io/etcd/pull/16165), and never in 3.3.
    let (bump, note) = if etcd.snapshot_tool() == "etcdutl" {
        (BUMP.to_owned(), String::new())
    } else {
        let note = format!(
            "\n   If `{run} etcdctl snapshot restore --help` names --bump-revision, add:{BUMP}\n   so that no watcher takes an old revision for a new one.\n"
        );
        (String::new(), note)
    };
    include_str!("../templates/quorum-lost.txt")
        .replace("{votes}", how)
        .replace("{find}", find)
        .replace("{exec}", &exec)
        .replace("{run}", &run)
        .replace("{tool}", etcd.snapshot_tool())
        .replace("{bump}", &bump)
        .replace("{bump_note}\n", &format!("{note}\n"))
}

/// Runs a program of an image with containerd.
const CTR_RUN: &str = "ctr -n k8s.io run --rm{env} --mount type=bind,src=/var/lib,dst=/var/lib,options=rbind:rw \"$IMAGE\" restore";

/// More revisions than anybody can have seen since the snapshot. The number is that of etcd's recovery guide
/// (<https://etcd.io/docs/v3.6/op-guide/recovery/>).
const BUMP: &str = " --bump-revision=1000000000 --mark-compacted";

#[cfg(test)]
mod tests {
    use super::super::guard::Votes;
    use super::*;
    use crate::host::command::{Cmd, Local, Runner};

    fn text(minor: u32, tool: Tool) -> String {
        let votes = Votes {
            voters: 5,
            healthy: 2,
        };
        lost_quorum(&votes.to_string(), Version { major: 3, minor }, tool)
    }

    /// The lines that are typed.
    fn typed(text: &str) -> String {
        let lines = text.lines().filter(|line| line.starts_with("       "));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_program_and_its_flags_are_those_of_the_version() {
        for minor in 3..=5 {
            let text = text(minor, Tool::Docker);
            assert!(text.contains("etcdctl snapshot restore") && !text.contains("etcdutl"));
            assert!(!typed(&text).contains("--bump-revision"));
            assert!(text.contains("names --bump-revision"));
        }
        let text = text(6, Tool::Crictl);
        assert!(text.contains("etcdutl snapshot restore") && !text.contains("docker"));
        assert!(typed(&text).contains("--bump-revision=1000000000 --mark-compacted"));
    }

    #[test]
    fn an_etcdctl_of_old_is_told_its_api_by_every_tool() {
        for tool in [Tool::Docker, Tool::Crictl, Tool::Ctr] {
            let lines = typed(&text(3, tool));
            let asks = lines.lines().filter(|line| line.contains(" etcdctl "));
            for line in asks {
                assert!(line.contains("ETCDCTL_API=3"), "{line}");
            }
        }
        assert!(!text(4, Tool::Ctr).contains("ETCDCTL_API"));
    }

    #[test]
    fn without_crictl_ctr_finds_the_etcd_that_runs() {
        let text = text(6, Tool::Ctr);
        assert!(!text.contains("crictl") && !text.contains("docker"));
        let lines = typed(&text);
        let find = lines.lines().find(|line| line.contains("E=$(")).unwrap();
        let found = |containers: &str| {
            let script = format!(
                r#"ctr() {{ case "$*" in
                    *"tasks list") printf 'TASK PID STATUS\n0ld 0 STOPPED\nc0ffee 4711 RUNNING\npause1 4650 RUNNING\n' ;;
                    *"containers list -q labels."*) printf '{containers}' ;;
                esac; }}
                {find}
                echo "$E""#
            );
            Local.expect(&Cmd::new("sh", ["-s"]).stdin(script)).unwrap()
        };
        assert_eq!(found("0ld\\nc0ffee\\n").text(), "c0ffee");
        assert_eq!(found("0ld\\n").text(), "");
        assert_eq!(found("").text(), "");
    }

    #[test]
    fn it_says_how_the_members_stand() {
        let text = text(4, Tool::Docker);
        assert!(text.contains("2 of 5 voting members answer, 3 have to"));
    }

    #[test]
    fn a_shell_reads_every_line_and_nothing_is_left_to_fill_in() {
        for tool in [Tool::Docker, Tool::Crictl, Tool::Ctr] {
            for minor in [3, 6] {
                let text = text(minor, tool);
                for name in [
                    "votes",
                    "find",
                    "exec",
                    "told",
                    "run",
                    "env",
                    "tool",
                    "bump",
                    "bump_note",
                ] {
                    assert!(!text.contains(&format!("{{{name}}}")), "{name}");
                }
                Local
                    .expect(&Cmd::new("sh", ["-n"]).stdin(typed(&text)))
                    .unwrap();
            }
        }
    }

    #[test]
    fn name_and_address_are_read_off_a_real_manifest() {
        let manifest = tempfile::NamedTempFile::new().unwrap();
        let path = manifest.path().display().to_string();
        let content = "    - etcd\n    - --initial-advertise-peer-urls=https://10.0.0.11:2380\n    - --initial-cluster=m1=https://10.0.0.11:2380\n    - --name=m1\n    - --peer-cert-file=/x\n    image: k8s.gcr.io/etcd:3.3.10\n    imagePullPolicy: IfNotPresent\n    name: etcd\n";
        let text = typed(&text(3, Tool::Docker));
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| {
                ["IMAGE=", "flag()", "NAME="]
                    .iter()
                    .any(|start| line.trim_start().starts_with(start))
            })
            .collect();
        let script = format!(
            "cat > {path} <<'END'\n{content}END\n{}\necho \"$IMAGE $NAME $PEER\"",
            lines
                .join("\n")
                .replace("/etc/kubernetes/stopped/etcd.yaml", &path)
        );
        let output = Local.expect(&Cmd::new("sh", ["-s"]).stdin(script)).unwrap();
        assert_eq!(
            output.text(),
            "k8s.gcr.io/etcd:3.3.10 m1 https://10.0.0.11:2380"
        );
    }
}
