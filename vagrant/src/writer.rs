//! A client that writes into the cluster all the while, and keeps what it was told is written.
//!
//! It runs on m1 beside everything else and adds one key after the other to ConfigMaps, through the API servers of m1 and
//! m2 in turn: those that no scenario takes down, as a load balancer would choose them. A write counts when an API server
//! says that it is done. At the end every acknowledged key must be in etcd, read through another member. It writes about three times a
//! second, so a pause below half a second is none.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::wait;

/// Fewer acknowledged writes than these show nothing.
const FEWEST: usize = 20;
/// The first write, and the last one's end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lost keys that an error lists.
const LISTED: usize = 10;

/// Where the writer lives on m1.
const DIR: &str = "/root/lab-writer";
/// How the names of its ConfigMaps begin.
const NAME: &str = "lab-writer-";

/// A key and its value are the same but for the semicolon, by which the value is found in what etcd stores.
const SCRIPT: &str = r#"#!/bin/bash
# Writes until there is a file `stop`, and notes time and key of each acknowledged write, in milliseconds.
cd "$(dirname "$0")" || exit 1
servers=("$@")
number=0
now() { date +%s%3N; }
umask 077
field() { sed -n "s/^ *$1: //p" /etc/kubernetes/admin.conf | base64 -d; }
field certificate-authority-data >ca
field client-certificate-data >certificate
field client-key-data >key
# A connection for each request, as kubectl makes it, in a sixth of its work: it would take a fifth of a core from what it looks at.
ask() {
    local answer
    answer=$(printf '%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s' "$1" "$maps$2" "$server" "$3" "${#4}" "$4" |
        timeout 5 openssl s_client -quiet -connect "$server" -CAfile ca -verify_return_error -cert certificate -key key 2>>errors)
    [[ $answer == 'HTTP/1.1 20'[01]* ]] && return
    printf '%s\n' "${answer:0:400}" >>errors
    return 1
}
maps=/api/v1/namespaces/default/configmaps
echo "$(now) begin" >acknowledged
while [ ! -e stop ]; do
    number=$((number + 1))
    server=${servers[number % ${#servers[@]}]}
    key=$(printf 'w%06d' $number)
    map=lab-writer-$((number / 50))
    # The first key of a ConfigMap finds none to patch.
    if ask PATCH /$map application/merge-patch+json "{\"data\":{\"$key\":\"$key;\"}}" ||
        ask POST '' application/json "{\"metadata\":{\"name\":\"$map\"},\"data\":{\"$key\":\"$key;\"}}"; then
        echo "$(now) $key" >>acknowledged
    fi
    sleep 0.2
done
echo "$(now) end" >>acknowledged
"#;

/// What came of the writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Keys that were acknowledged.
    keys: BTreeSet<String>,
    /// The longest time without an acknowledged write.
    longest_pause: Duration,
}

/// Starts to write; returns after the first acknowledged write. What an earlier writer left is removed.
pub fn start(cluster: &Cluster, servers: &[&Node]) -> Result<()> {
    remove(cluster)?;
    let m1 = cluster.m1();
    m1.write(&format!("{DIR}/run"), SCRIPT, 0o755)?;
    let servers: Vec<String> = servers
        .iter()
        .map(|node| format!("{}:6443", node.address()))
        .collect();
    m1.run(&format!(
        "systemd-run --quiet --collect --unit=lab-writer --setenv=HOME=/root {DIR}/run {}",
        servers.join(" ")
    ))?;
    wait::until("the writer has written", PATIENCE, || {
        let written = m1.outcome(&format!("grep -c ' w' {DIR}/acknowledged"))?;
        Ok((!written.ok()).then(|| "no write was acknowledged".to_owned()))
    })
}

/// Stops the writer and reads every acknowledged key back from the etcd of each of these masters.
pub fn finish(cluster: &Cluster, through: &[&Node]) -> Result<Account> {
    let m1 = cluster.m1();
    m1.run(&format!("touch {DIR}/stop"))?;
    wait::until("the writer has ended", PATIENCE, || {
        let last = m1.output(&format!("tail -n 1 {DIR}/acknowledged"))?;
        Ok((!last.ends_with(" end")).then_some(last))
    })?;
    let account = Account::read(&m1.output(&format!("cat {DIR}/acknowledged"))?)?;
    ensure!(
        account.keys.len() >= FEWEST,
        "only {} writes were acknowledged: that shows nothing",
        account.keys.len()
    );
    for node in through {
        let prefix = format!("/registry/configmaps/default/{NAME}");
        let stored = cluster.etcdctl_on(node, &["get", "--prefix", &prefix])?;
        account.ensure_kept(&stored, node.name())?;
    }
    Ok(account)
}

/// Ends the writer wherever it is, and removes what it wrote.
pub fn remove(cluster: &Cluster) -> Result<()> {
    cluster.m1().run(&format!(
        "systemctl stop lab-writer 2>/dev/null || true
         rm -rf {DIR}
         kubectl=\"kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout=20s\"
         for map in $($kubectl get configmaps --output name | grep /{NAME}); do $kubectl delete $map; done"
    ))
}

impl Account {
    /// Reads lines such as `1700000000123 w000001`, of which the first and the last have words instead of keys.
    fn read(lines: &str) -> Result<Self> {
        let mut keys = BTreeSet::new();
        let mut longest_pause = Duration::ZERO;
        let mut before = None;
        for line in lines.lines() {
            let (time, word) = line
                .split_once(' ')
                .with_context(|| format!("{line:?} is no line of the writer"))?;
            let time: u64 = time.parse().with_context(|| format!("reading {line:?}"))?;
            if let Some(before) = before.replace(time) {
                let pause = Duration::from_millis(time.saturating_sub(before));
                longest_pause = longest_pause.max(pause);
            }
            if is_key(word) {
                keys.insert(word.to_owned());
            }
        }
        Ok(Self {
            keys,
            longest_pause,
        })
    }

    fn ensure_kept(&self, stored: &str, node: &str) -> Result<()> {
        let stored = values(stored);
        let lost: Vec<&str> = self
            .keys
            .iter()
            .map(String::as_str)
            .filter(|key| !stored.contains(key))
            .collect();
        ensure!(
            lost.is_empty(),
            "{} of {} acknowledged writes are lost, read through {node}: {}",
            lost.len(),
            self.keys.len(),
            lost[..lost.len().min(LISTED)].join(" ")
        );
        Ok(())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} acknowledged writes, none lost, longest pause {:.1} s",
            self.keys.len(),
            self.longest_pause.as_secs_f64()
        )
    }
}

/// The values in etcd's binary form: each ends with a semicolon, which nothing else around a key does.
fn values(stored: &str) -> BTreeSet<&str> {
    stored
        .split(';')
        .filter_map(|part| part.get(part.len().checked_sub(KEY_LENGTH)?..))
        .filter(|word| is_key(word))
        .collect()
}

/// The length of `w000001`.
const KEY_LENGTH: usize = 7;

fn is_key(word: &str) -> bool {
    word.len() == KEY_LENGTH
        && word
            .strip_prefix('w')
            .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_may_be_the_last_one() {
        let account =
            Account::read("1000 begin\n1300 w000001\n1600 w000003\n9600 end").expect("lines");
        assert_eq!(account.keys.len(), 2);
        assert_eq!(account.longest_pause, Duration::from_secs(8));
        assert!(Account::read("begin").is_err());
    }

    #[test]
    fn a_lost_write_is_named() {
        let account = Account::read("1 begin\n2 w000001\n3 w000002\n4 end").expect("lines");
        let stored = "/registry/configmaps/default/lab-writer-0\nk8s\0\n\u{fffd}w000001\u{12}\u{8}w000001;\u{12}\u{14}\n\u{7}w000002\u{12}\u{8}";
        let error = account
            .ensure_kept(stored, "m2")
            .expect_err("only the key of the second is there, not its value")
            .to_string();
        assert!(
            error.contains("1 of 2") && error.contains("w000002"),
            "{error}"
        );
        account
            .ensure_kept(&format!("{stored}w000002;"), "m2")
            .expect("both");
    }
}
