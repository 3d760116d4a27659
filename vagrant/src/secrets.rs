//! Learns the secrets of a join from outside, and reads traces of execve.

use std::collections::BTreeSet;

use base64ct::{Base64, Encoding as _};

/// Hex digits of a certificate key: 32 bytes.
const KEY_DIGITS: usize = 64;

/// The secret halves of the bootstrap tokens in what `kubectl get secrets --watch -o json` printed.
pub fn tokens(watched: &str) -> BTreeSet<String> {
    let field = "\"token-secret\": \"";
    let found = watched
        .split(field)
        .skip(1)
        .filter_map(|rest| rest.split('"').next());
    found
        .filter_map(|value| String::from_utf8(Base64::decode_vec(value).ok()?).ok())
        .collect()
}

/// The certificate keys that kubeadm wrote to its output, in a trace of its `write` calls.
pub fn certificate_keys(trace: &str) -> BTreeSet<String> {
    // strace writes a line feed as the two characters \n.
    let found = trace
        .split("certificate key:\\n")
        .skip(1)
        .filter_map(|rest| rest.get(..KEY_DIGITS));
    found
        .filter(|key| key.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(str::to_owned)
        .collect()
}

/// The lines of a trace that start a program.
pub fn execves(trace: &str) -> impl Iterator<Item = &str> {
    trace
        .lines()
        .filter(|line| line.contains("execve(") || line.contains("execveat("))
}

/// A text as base64.
pub fn base64(text: &str) -> String {
    Base64::encode_string(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_learned_from_what_is_seen() {
        let watched = "{\n \"data\": {\n  \"token-id\": \"YWJjZGVm\",\n  \"token-secret\": \"MDEyMzQ1Njc4OWFiY2RlZg==\"\n }\n}\n{}";
        assert_eq!(
            tokens(watched),
            BTreeSet::from(["0123456789abcdef".to_owned()])
        );
        let key = "a1".repeat(32);
        let trace = format!(
            "12 write(1, \"[upload-certs] Using certificate key:\\n{key}\\n\", 104) = 104\n\
             13 write(1, \"certificate key:\\nshort\", 9) = 9\n13 execve(\"/bin/true\", [\"true\"], [\"A=b\"]) = 0\n"
        );
        assert_eq!(certificate_keys(&trace), BTreeSet::from([key]));
        assert_eq!(execves(&trace).count(), 1);
        assert_eq!(base64("0123456789abcdef"), "MDEyMzQ1Njc4OWFiY2RlZg==");
    }
}
