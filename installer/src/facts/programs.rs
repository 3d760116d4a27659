//! The versions of Kubernetes' own programs, asked from the programs themselves.

use anyhow::{Context, Result, ensure};

use crate::host::HostView;
use crate::host::probe::Probe;

/// The version of the program at `path`, such as `v1.14.0`; `name` is `kubeadm`, `kubectl` or `kubelet`.
///
/// # Errors
/// Where it does not run or answers something else.
pub fn version(host: &HostView, name: &str, path: &str) -> Result<String> {
    let answer = host.probe(&Probe::kubernetes_version(name, path))?;
    ensure!(answer.ok(), "{path} failed: {}", answer.evidence());
    parse(&answer.text()).with_context(|| format!("{path} names no version: {:?}", answer.text()))
}

/// The first word of the form `vN.…`: kubeadm prints nothing else, the kubelet `Kubernetes v1.14.0`, kubectl JSON with a `gitVersion`.
fn parse(text: &str) -> Option<String> {
    text.split(|letter: char| letter.is_whitespace() || letter == '"')
        .find(|word| {
            word.strip_prefix('v')
                .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        })
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_s_answer_is_read() {
        let kubectl = "{\n  \"clientVersion\": {\n    \"major\": \"1\",\n    \"gitVersion\": \"v1.14.0\",\n    \"goVersion\": \"go1.12\"\n  }\n}";
        for text in ["v1.14.0", "Kubernetes v1.14.0\n", kubectl] {
            assert_eq!(parse(text).as_deref(), Some("v1.14.0"), "{text}");
        }
        assert_eq!(parse("version unknown"), None);
    }
}
