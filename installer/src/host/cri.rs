//! crictl and ctr, as this program runs them.

use std::time::Duration;

use super::command::Cmd;

/// How long crictl waits for the answer to a question.
pub(crate) const QUESTION: Duration = Duration::from_secs(20);

/// How long crictl waits for a pod to stop.
pub(crate) const STOPPING: Duration = Duration::from_mins(1);

/// How often, and how long apart, a containerd that has just started is asked: its CRI answers some seconds after systemd was told that it is ready.
pub(crate) const STARTING: (u32, Duration) = (120, Duration::from_millis(250));

/// Where containerd's CRI keeps one folder a pod that runs. A containerd that serves Docker alone has no such folder.
pub(crate) const SANDBOXES: &str = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes";

/// crictl against the runtime that listens at `socket`, for images as well, whatever /etc/crictl.yaml and the operator's shell say. The runtime has `limit` for each answer: by itself crictl
/// gives up after 2 s, so that a busy containerd would look like one that runs nothing.
pub(crate) fn crictl<S: AsRef<str>>(
    socket: &str,
    limit: Duration,
    words: impl IntoIterator<Item = S>,
) -> Cmd {
    let limit = format!("{}s", limit.as_secs());
    let fixed = [
        "--runtime-endpoint",
        socket,
        "--image-endpoint",
        socket,
        "--timeout",
        &limit,
    ]
    .map(str::to_owned);
    let words = words.into_iter().map(|word| word.as_ref().to_owned());
    Cmd::new("crictl", fixed.into_iter().chain(words))
}

/// What ctr is told of containerd's CRI, and then this.
pub(crate) fn ctr(address: &str, words: &[&str]) -> Vec<String> {
    let fixed = ["--address", address, "--namespace", "k8s.io"];
    fixed
        .iter()
        .chain(words)
        .map(|&word| word.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::probe::{CONTAINERD, Probe};
    use super::*;

    #[test]
    fn crictl_is_never_left_to_its_own_two_seconds() {
        assert_eq!(
            crictl("unix:///a.sock", STOPPING, ["stopp", "c0ffee"]).to_string(),
            "crictl --runtime-endpoint unix:///a.sock --image-endpoint unix:///a.sock --timeout 60s stopp c0ffee"
        );
        for probe in [Probe::containerd_pods(), Probe::containerd_images()] {
            let text = probe.command().to_string();
            let start = format!(
                "crictl --runtime-endpoint {CONTAINERD} --image-endpoint {CONTAINERD} --timeout 20s "
            );
            assert!(text.starts_with(&start), "{text}");
            assert!(probe.command().timeout > QUESTION, "crictl ends by itself");
        }
    }
}
