//! Asking containers to end before they are removed by force.
//!
//! `docker rm --force`, and every way to remove a pod of containerd's, kill at once. A pod that holds an address for the cluster (keepalived, kube-vip) then leaves it on the machine, where
//! nothing answers at it any more while another master holds it too.

use std::time::Duration;

use super::command::{Cmd, Output};
use super::cri;
use super::probe::{CONTAINERD, CONTAINERD_PATH};

/// How long a container has to end by itself, in seconds: as long as Docker gives.
const SECONDS: &str = "10";

/// How long all of them have. crictl stops one after the other, and what has not ended by then is killed.
const ALL: Duration = Duration::from_mins(1);

/// How long what was told to end by [`ctr_task`] has for it: keepalived takes one second.
pub(crate) const PAUSE: Duration = Duration::from_secs(3);

/// Asks these containers of Docker's to end, side by side.
pub(crate) fn docker(ids: &[String]) -> Cmd {
    let fixed = ["stop", "--time", SECONDS].map(str::to_owned);
    Cmd::new("docker", fixed.into_iter().chain(ids.iter().cloned())).timeout(ALL)
}

/// Asks the containers that crictl lists to end; nothing where it lists none.
pub(crate) fn crictl(listed: &Output) -> Option<Cmd> {
    let text = listed.text();
    let mut ids = text.lines().peekable();
    ids.peek()?;
    let words = ["stop", "--timeout", SECONDS].into_iter().chain(ids);
    Some(cri::crictl(CONTAINERD, cri::STOPPING, words).timeout(ALL))
}

/// Asks one of containerd's tasks to end, and does not wait for it.
pub(crate) fn ctr_task(id: &str) -> Cmd {
    let kill = ["tasks", "kill", "--signal", "SIGTERM", id];
    Cmd::new("ctr", cri::ctr(CONTAINERD_PATH, &kill))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_asked_and_none_where_there_is_none() {
        let listed = |text: &str| Output {
            stdout: text.as_bytes().to_vec(),
            ..Output::default()
        };
        assert_eq!(
            docker(&["a".to_owned(), "b".to_owned()]).to_string(),
            "docker stop --time 10 a b"
        );
        let asked = crictl(&listed("a\nb\n")).unwrap().to_string();
        assert!(asked.ends_with(" stop --timeout 10 a b"), "{asked}");
        assert!(crictl(&listed("")).is_none());
        let told = ctr_task("a").to_string();
        assert!(
            told.ends_with("--namespace k8s.io tasks kill --signal SIGTERM a"),
            "{told}"
        );
    }
}
