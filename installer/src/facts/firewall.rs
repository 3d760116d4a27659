//! The firewalls that keep rules of their own: firewalld and ufw. What people write for the packet filter by hand is not looked at.

use std::ops::RangeInclusive;

use crate::host::HostView;
use crate::host::command::Output;
use crate::host::probe::Probe;

/// Which one runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Red Hat's.
    Firewalld,
    /// Ubuntu's.
    Ufw,
}

/// A firewall that is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// Which one.
    pub kind: Kind,
    /// The TCP ports that it lets in by their numbers. A zone, a service or a network may let in more.
    pub open: Vec<RangeInclusive<u16>>,
}

impl Firewall {
    /// Whether a rule names this port.
    pub fn lets_in(&self, port: u16) -> bool {
        self.open.iter().any(|ports| ports.contains(&port))
    }
}

/// The firewall that is active; nothing where there is none, or where this user may not ask it.
pub(super) fn look(host: &HostView) -> Option<Firewall> {
    // It is only told of: one that hangs, or does not start, stands in nobody's way.
    let told = |probe: &Probe| host.probe(probe).ok().filter(Output::ok);
    if host.program("firewall-cmd").is_some()
        && let Some(answer) = told(&Probe::firewalld_ports())
    {
        return Some(Firewall {
            kind: Kind::Firewalld,
            open: answer.text().split_whitespace().filter_map(ports).collect(),
        });
    }
    if host.program("ufw").is_some()
        && let Some(answer) = told(&Probe::ufw_rules())
        && answer.text().lines().any(|line| line == "Status: active")
    {
        return Some(Firewall {
            kind: Kind::Ufw,
            open: answer.text().lines().flat_map(allowed).collect(),
        });
    }
    None
}

/// `6443/tcp`, `2379-2380/tcp` or, as ufw writes a range, `2379:2380/tcp`; ufw's rules for both protocols have none.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = numbers.split_once(['-', ':']).unwrap_or((numbers, numbers));
    (protocol == "tcp").then_some(first.parse().ok()?..=last.parse().ok()?)
}

/// The ports of a line of ufw's such as `6443,10250/tcp    ALLOW       Anywhere`.
fn allowed(line: &str) -> Vec<RangeInclusive<u16>> {
    let mut words = line.split_whitespace();
    let (Some(to), true) = (words.next(), words.any(|word| word == "ALLOW")) else {
        return Vec::new();
    };
    let (numbers, protocol) = to.split_once('/').unwrap_or((to, "tcp"));
    let one = |number: &str| ports(&format!("{number}/{protocol}"));
    numbers.split(',').filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scripted::Scripted;
    use crate::steps::testing::Machine;

    fn looked(program: &str, command: &str, status: i32, answer: &str) -> Option<Firewall> {
        let machine = Machine::new();
        machine.program(program);
        look(&machine.view(Scripted::new().on(command, status, answer)))
    }

    #[test]
    fn firewalld_tells_its_ports_and_that_it_does_not_run() {
        let asked =
            |status, answer| looked("firewall-cmd", "firewall-cmd --list-ports", status, answer);
        let found = asked(0, "6443/tcp 2379-2380/tcp 8472/udp 10250/udp").unwrap();
        assert_eq!(found.kind, Kind::Firewalld);
        assert!([6443, 2379, 2380].iter().all(|port| found.lets_in(*port)));
        assert!(!found.lets_in(10250) && !found.lets_in(8472));
        assert!(asked(0, "").is_some(), "it runs, and lets in nothing");
        assert_eq!(asked(252, "FirewallD is not running"), None);
    }

    #[test]
    fn ufw_tells_its_rules_where_it_is_active() {
        let asked = |answer| looked("ufw", "ufw status", 0, answer);
        let rules = "Status: active\n\nTo                         Action      From\n--                         ------      ----\n22/tcp                     ALLOW       Anywhere\n2379:2380,6443/tcp         ALLOW       10.0.0.0/8\n10250                      ALLOW       Anywhere\n10256/tcp                  DENY        Anywhere\n22/tcp (v6)                ALLOW       Anywhere (v6)\n";
        let found = asked(rules).unwrap();
        assert_eq!(found.kind, Kind::Ufw);
        assert!(
            [22, 2379, 2380, 6443, 10250]
                .iter()
                .all(|port| found.lets_in(*port))
        );
        assert!(!found.lets_in(10256));
        assert_eq!(asked("Status: inactive\n"), None);
    }

    #[test]
    fn most_machines_have_neither() {
        assert_eq!(look(&Machine::new().view(Scripted::new())), None);
    }
}
