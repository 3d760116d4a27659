//! The packet filter without the rules of kube-proxy, the kubelet and the pod network.
//!
//! `kubeadm reset` leaves them to the operator. What is ours to remove is told by its name: the chains of Kubernetes, CNI plugins and flannel, and what leads to them. All
//! other rules, policies and counters stay. Rules are memory, not disk: where this machine's tools do not answer, the step says so and a reboot settles it.

use anyhow::Result;

use crate::host::HostView;
use crate::host::command::Cmd;
use crate::host::probe::Probe;
use crate::journal::Change;
use crate::step::{State, Step, View, World};

/// The pairs of programs that read and write rules. A host may have both kinds; a pod's own iptables picks either.
const TOOLS: [(&str, &str); 6] = [
    ("iptables-save", "iptables-restore"),
    ("ip6tables-save", "ip6tables-restore"),
    ("iptables-legacy-save", "iptables-legacy-restore"),
    ("ip6tables-legacy-save", "ip6tables-legacy-restore"),
    ("iptables-nft-save", "iptables-nft-restore"),
    ("ip6tables-nft-save", "ip6tables-nft-restore"),
];

/// How the chains are called.
const CHAINS: [&str; 4] = ["KUBE-", "CNI-", "FLANNEL-", "cali-"];

/// What flannel wrote into its rules while it had no chains of its own.
const COMMENTS: [&str; 2] = ["flanneld masq", "flanneld forward"];

/// See the module.
pub(super) struct RemoveRules;

/// What one program's rules are, and without those of Kubernetes.
struct Rules {
    restore: &'static str,
    kept: String,
    dropped: usize,
}

impl RemoveRules {
    fn look(host: &HostView) -> Result<(Vec<Rules>, Vec<String>)> {
        let (mut found, mut silent) = (Vec::new(), Vec::new());
        for (save, restore) in TOOLS {
            if host.program(save).is_none() {
                continue;
            }
            let answer = host.probe(&Probe::filter_rules(save))?;
            if answer.ok() {
                let (kept, dropped) = without_kubernetes(&String::from_utf8_lossy(&answer.stdout));
                found.push(Rules {
                    restore,
                    kept,
                    dropped,
                });
            } else {
                silent.push(format!("{save}: {}", answer.evidence()));
            }
        }
        Ok((found, silent))
    }
}

impl Step for RemoveRules {
    fn id(&self) -> &'static str {
        "rules-gone"
    }

    fn summary(&self) -> String {
        "the packet filter has no rules of Kubernetes and its pod network".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let (found, silent) = Self::look(view.host)?;
        let dropped: usize = found.iter().map(|rules| rules.dropped).sum();
        Ok(match (dropped, silent.is_empty()) {
            (0, true) => State::Satisfied,
            (0, false) => State::Unsettable(format!(
                "rules may stay until the next reboot: {}",
                silent.join("; ")
            )),
            (dropped, _) => State::Pending(format!("{dropped} rules and chains are removed")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        for rules in Self::look(world.host.view())?.0 {
            if rules.dropped > 0 {
                let cmd = Cmd::new(rules.restore, ["--counters"]).stdin(rules.kept);
                let change = Change::Undo {
                    what: self.summary(),
                };
                world.host.run(&cmd, change)?;
            }
        }
        Ok(())
    }
}

/// The rules that stay, and how many lines do not.
fn without_kubernetes(rules: &str) -> (String, usize) {
    let mut kept = String::new();
    let mut dropped = 0;
    for line in rules.lines() {
        if is_kubernetes(line) {
            dropped += 1;
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    (kept, dropped)
}

fn is_kubernetes(line: &str) -> bool {
    let ours = |chain: &str| CHAINS.iter().any(|prefix| chain.starts_with(prefix));
    if let Some(chain) = line.strip_prefix(':') {
        return ours(chain);
    }
    // With counters a rule begins with `[packets:bytes]`.
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_rule = words.iter().take(2).any(|word| *word == "-A");
    let named = words
        .windows(2)
        .any(|pair| matches!(pair[0], "-A" | "-j" | "-g") && ours(pair[1]));
    is_rule && (named || COMMENTS.iter().any(|comment| line.contains(comment)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_kubernetes_go_and_all_others_stay_with_their_counters() {
        let rules = "*nat\n:PREROUTING ACCEPT [1:60]\n:KUBE-SERVICES - [0:0]\n:MINE - [0:0]\n[5:300] -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n[0:0] -A PREROUTING -p tcp -j MINE\n[0:0] -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-X\n[0:0] -A MINE -m comment --comment \"about KUBE-SERVICES\" -j RETURN\n[0:0] -A POSTROUTING -s 10.244.0.0/16 -m comment --comment \"flanneld masq\" -j MASQUERADE\nCOMMIT\n";
        let (kept, dropped) = without_kubernetes(rules);
        assert_eq!(dropped, 4);
        assert_eq!(
            kept,
            "*nat\n:PREROUTING ACCEPT [1:60]\n:MINE - [0:0]\n[0:0] -A PREROUTING -p tcp -j MINE\n[0:0] -A MINE -m comment --comment \"about KUBE-SERVICES\" -j RETURN\nCOMMIT\n"
        );
        assert_eq!(without_kubernetes(&kept), (kept.clone(), 0));
    }
}
