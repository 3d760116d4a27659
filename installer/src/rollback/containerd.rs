//! containerd's pods and images as they were.

use std::time::Duration;

use anyhow::Result;

use crate::control_plane::images::{familiar, qualified};
use crate::facts::{containerd, kubelet};
use crate::host::HostView;
use crate::host::command::Cmd;
use crate::host::cri::{self, SANDBOXES, STARTING, crictl, ctr};
use crate::host::grace;
use crate::host::probe::{CONTAINERD, CONTAINERD_PATH, Probe};
use crate::journal::Change;
use crate::step::{State, Step, View, World};
use crate::steps::unit;

/// A few dozen pods on a slow disk.
const REMOVAL_LIMIT: Duration = Duration::from_mins(5);

/// Whose containerd it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// It came with our runs.
    Ours,
    /// It was here before.
    Theirs,
}

/// No pods are left in containerd: all of its CRI's are Kubernetes', where it came with our runs or the kubelet was given it.
pub(super) struct RemovePods {
    pub whose: Whose,
}

/// What containerd says about its pods.
enum Answer {
    /// There is no containerd that serves a kubelet, or one that has no pod.
    None,
    Pods(usize),
    /// It does not run; its pods may.
    Silent,
}

impl RemovePods {
    fn ask(host: &HostView) -> Result<Answer> {
        if host.program("containerd").is_none() || host.program("crictl").is_none() {
            return Ok(Answer::None);
        }
        let answer = host.probe(&Probe::containerd_pods())?;
        if answer.ok() {
            return Ok(match answer.text().lines().count() {
                0 => Answer::None,
                count => Answer::Pods(count),
            });
        }
        Ok(if host.list(SANDBOXES)?.is_empty() {
            Answer::None
        } else {
            Answer::Silent
        })
    }
}

impl Step for RemovePods {
    fn id(&self) -> &'static str {
        "pods-gone"
    }

    fn summary(&self) -> String {
        "containerd has no pods of Kubernetes".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        // Beside a Docker that served the kubelet, the pods are somebody else's.
        if self.whose == Whose::Theirs && !kubelet::has_containerd(view.host)? {
            return Ok(State::Satisfied);
        }
        Ok(match (Self::ask(view.host)?, self.whose) {
            (Answer::None, _) => State::Satisfied,
            (Answer::Pods(count), _) => State::Pending(format!("removed for good: {count}")),
            (Answer::Silent, Whose::Ours) => State::Pending(
                "containerd does not answer; it is started, so that its pods can be removed"
                    .to_owned(),
            ),
            (Answer::Silent, Whose::Theirs) => State::Conflict {
                reason: "containerd does not answer, so its pods cannot be told".to_owned(),
                remedy: "start it: systemctl start containerd".to_owned(),
            },
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        if let Answer::Silent = Self::ask(host.view())? {
            unit::change(host, "restart", unit::CONTAINERD)?;
        }
        for _ in 0..STARTING.0 {
            match Self::ask(host.view())? {
                Answer::Silent => host.view().clock().pause(STARTING.1),
                Answer::None => return Ok(()),
                Answer::Pods(_) => break,
            }
        }
        let change = || Change::Undo {
            what: self.summary(),
        };
        let running = host.view().probe(&Probe::containerd_containers())?;
        if let Some(stop) = grace::crictl(&running) {
            // What does not end when it is asked to is removed all the same.
            host.run(&stop, change()).ok();
        }
        let words = ["rmp", "--all", "--force"];
        let cmd = crictl(CONTAINERD, cri::STOPPING, words).timeout(REMOVAL_LIMIT);
        host.run(&cmd, change()).map(drop)
    }
}

/// A name that an image was given is gone, and the image with its last name.
pub(super) struct UnnameImage {
    pub name: String,
    pub id: String,
}

impl UnnameImage {
    /// The image with the name, where there is one, and the names that it has besides.
    fn holder(&self, host: &HostView) -> Result<Option<(String, usize)>> {
        let listed = familiar(&self.name);
        let images = containerd::images(host)?.unwrap_or_default();
        let bears = |image: &containerd::Listed| {
            (image.repo_tags.iter()).any(|name| familiar(name) == listed)
        };
        let image = images.into_iter().find(bears);
        Ok(image.map(|image| (image.id, image.repo_tags.len() - 1)))
    }
}

impl Step for UnnameImage {
    fn id(&self) -> &'static str {
        "undo-image"
    }

    fn summary(&self) -> String {
        format!("containerd has no image {}, as before", self.name)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let host = view.host;
        if host.program("containerd").is_none() || host.program("crictl").is_none() {
            return Ok(State::Satisfied);
        }
        if containerd::images(host)?.is_none() {
            return Ok(State::Conflict {
                reason: format!("containerd does not answer, so {} stays in it", self.name),
                remedy: "start it: systemctl start containerd".to_owned(),
            });
        }
        Ok(match self.holder(host)? {
            None => State::Satisfied,
            Some((id, _)) if id == self.id => State::Pending("the name is removed".to_owned()),
            Some((id, _)) => {
                State::Unsettable(format!("somebody gave the name to another image: {id}"))
            }
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let Some((id, others)) = self.holder(world.host.view())? else {
            return Ok(());
        };
        let mut args = ctr(CONTAINERD_PATH, &["images", "rm", &qualified(&self.name)]);
        // The CRI keeps the ID as one more name, with which the image would stay.
        if others == 0 {
            args.push(id);
        }
        let cmd = Cmd::new("ctr", args).timeout(REMOVAL_LIMIT);
        let change = Change::Undo {
            what: self.summary(),
        };
        world.host.run(&cmd, change).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::containers::KUBELET_FLAGS;
    use crate::host::scripted::Scripted;
    use crate::steps::testing::{Machine, systemd, units};

    const SERVED_BY_CONTAINERD: &str = "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock\"\n";

    const PODS_QUESTION: &str = "crictl --runtime-endpoint unix:///run/containerd/containerd.sock --image-endpoint unix:///run/containerd/containerd.sock --timeout 20s pods";

    fn question(limit: &str, words: &str) -> String {
        format!(
            "crictl --runtime-endpoint {CONTAINERD} --image-endpoint {CONTAINERD} --timeout {limit} {words}"
        )
    }

    fn machine() -> Machine {
        let machine = Machine::new();
        machine
            .program("containerd")
            .program("crictl")
            .program("ctr");
        machine.file(KUBELET_FLAGS, SERVED_BY_CONTAINERD);
        machine
    }

    #[test]
    fn pods_of_a_containerd_that_no_kubelet_was_given_are_left_alone() {
        let step = |whose| RemovePods { whose };
        let machine = machine();
        let script = || Scripted::new().on(PODS_QUESTION, 0, "a\nb");
        let removed = State::Pending("removed for good: 2".to_owned());
        assert_eq!(machine.check(&step(Whose::Theirs), script()), removed);
        let dockers = "KUBELET_KUBEADM_ARGS=\"--network-plugin=cni\"\n";
        machine.file(KUBELET_FLAGS, dockers);
        let state = machine.check(&step(Whose::Theirs), script());
        assert_eq!(state, State::Satisfied);
        assert_eq!(machine.check(&step(Whose::Ours), script()), removed);
    }

    #[test]
    fn pods_are_removed_by_the_runtime_that_runs_them() {
        let step = RemovePods {
            whose: Whose::Theirs,
        };
        let script = Scripted::new()
            .once_each(
                PODS_QUESTION,
                [(0, "a\nb"), (0, "a\nb"), (0, "a\nb"), (0, "")],
            )
            .on(&question("20s", "ps --quiet"), 0, "c\nd")
            // One that does not end in time is no reason to stop.
            .on(
                &question("60s", "stop --timeout 10 c d"),
                1,
                "DeadlineExceeded",
            )
            .on(&question("60s", "rmp --all --force"), 0, "");
        let (before, after) = machine().ensure(&step, script).unwrap();
        assert_eq!(before, State::Pending("removed for good: 2".to_owned()));
        assert_eq!(after, State::Satisfied);
        assert_eq!(
            Machine::new().check(&step, Scripted::new()),
            State::Satisfied,
            "without containerd"
        );
        let for_docker = Scripted::new().on(PODS_QUESTION, 1, "unknown service");
        assert_eq!(machine().check(&step, for_docker), State::Satisfied);
    }

    #[test]
    fn a_containerd_that_stands_still_while_its_pods_run_is_started_where_it_is_ours() {
        let machine = machine();
        machine.file(&format!("{SANDBOXES}/c0ffee/shm"), "");
        let silent = || Scripted::new().on(PODS_QUESTION, 1, "connection refused");
        let theirs = RemovePods {
            whose: Whose::Theirs,
        };
        assert!(matches!(
            machine.check(&theirs, silent()),
            State::Conflict { remedy, .. } if remedy.contains("systemctl start containerd")
        ));
        let ours = RemovePods { whose: Whose::Ours };
        assert!(matches!(machine.check(&ours, silent()), State::Pending(_)));
        let known = units(&[(unit::CONTAINERD, "inactive", "enabled")]);
        let script = systemd(
            Scripted::new().once_each(PODS_QUESTION, [(1, "refused"), (1, "refused"), (0, "")]),
            &known,
        );
        let (_, after) = machine.ensure(&ours, script).unwrap();
        assert_eq!(after, State::Satisfied);
        assert_eq!(known.lock().unwrap()[unit::CONTAINERD].0, "active");
    }

    #[test]
    fn the_last_name_goes_with_the_image_and_another_image_keeps_it() {
        let machine = machine();
        let step = UnnameImage {
            name: "busybox:1".to_owned(),
            id: "sha256:1".to_owned(),
        };
        let list = |id: &str, names: &str| {
            format!(r#"{{"images":[{{"id":"{id}","repoTags":[{names}]}}]}}"#)
        };
        let run = |before: &str, removal: &str| {
            let script = Scripted::new()
                .once_each(
                    "crictl --runtime-endpoint unix:///run/containerd/containerd.sock --image-endpoint unix:///run/containerd/containerd.sock --timeout 20s images",
                    [(0, before), (0, before), (0, before), (0, r#"{"images":[]}"#)],
                )
                .on(&format!("ctr --address /run/containerd/containerd.sock --namespace k8s.io images rm docker.io/library/busybox:1{removal}"), 0, "");
            machine.ensure(&step, script).unwrap().1
        };
        let alone = list("sha256:1", "\"docker.io/library/busybox:1\"");
        assert_eq!(run(&alone, " sha256:1"), State::Satisfied);
        let two = list("sha256:1", "\"a/b:1\",\"docker.io/library/busybox:1\"");
        assert_eq!(run(&two, ""), State::Satisfied);
        let other = list("sha256:2", "\"docker.io/library/busybox:1\"");
        let script = Scripted::new().on("crictl", 0, &other);
        assert!(matches!(machine.check(&step, script), State::Unsettable(_)));
    }
}
