//! A name of the cluster is found from this machine, by a line in /etc/hosts where nothing else knows it.

use std::borrow::Cow;
use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::host::HostView;
use crate::host::command::CommandError;
use crate::host::probe::Probe;
use crate::step::{State, Step, View, World};

/// What stands behind a line of ours.
pub(crate) const MARK: &str = "# kpot";

pub(crate) const HOSTS: &str = "/etc/hosts";

/// See the module.
pub struct HostsEntry {
    name: String,
    address: IpAddr,
    acceptable: Vec<IpAddr>,
    stage: Stage,
}

/// When the line is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// For reaching the cluster from outside.
    Join,
    /// Once this machine is a master itself. What somebody else wrote stays.
    Master,
}

impl HostsEntry {
    /// `name` leads to `address`, or already leads to one of `acceptable`.
    pub fn new(name: impl Into<String>, address: IpAddr, acceptable: Vec<IpAddr>) -> Self {
        Self {
            name: name.into(),
            address,
            acceptable,
            stage: Stage::Join,
        }
    }

    /// `name` leads to `address` as on the other masters, now that this machine is one; a line that is not ours is left as it is.
    pub fn finally(name: impl Into<String>, address: IpAddr) -> Self {
        Self {
            name: name.into(),
            address,
            acceptable: Vec::new(),
            stage: Stage::Master,
        }
    }

    fn accepts(&self, address: IpAddr) -> bool {
        address == self.address || self.acceptable.contains(&address)
    }

    /// Whether a line that leads the name to `address` goes: on a machine that was a master it may lead to itself, where no apiserver runs before it is one again.
    fn goes(&self, address: IpAddr) -> bool {
        self.stage == Stage::Join && address.is_loopback() && !self.accepts(address)
    }

    /// A line of the file without the name, where it leads that to an address that goes; nothing where no other name is left in it.
    fn without_loopback<'l>(&self, line: &'l str) -> Option<Cow<'l, str>> {
        let (entry, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
        let fields: Vec<&str> = entry.split_whitespace().collect();
        let leads = |address: &&str| address.parse().is_ok_and(|address| self.goes(address));
        if !fields.first().is_some_and(leads) || !fields[1..].contains(&self.name.as_str()) {
            return Some(line.into());
        }
        let others: Vec<&str> = fields
            .into_iter()
            .filter(|field| *field != self.name)
            .collect();
        (others.len() > 1).then(|| {
            format!("{} {comment}", others.join(" "))
                .trim_end()
                .to_owned()
                .into()
        })
    }

    fn line(&self) -> String {
        format!("{} {} {MARK}", self.address, self.name)
    }

    /// Whether a line of the file is one that we wrote for this name.
    fn is_ours(&self, line: &str) -> bool {
        let fields: Vec<&str> = line.split_whitespace().collect();
        line.trim_end().ends_with(MARK) && fields.get(1) == Some(&self.name.as_str())
    }

    /// The addresses that the file itself gives the name, with the mark of ours.
    fn entries(&self, host: &HostView) -> Result<Vec<(Option<IpAddr>, bool)>> {
        let text = host.text(HOSTS)?.unwrap_or_default();
        Ok(text
            .lines()
            .filter_map(|line| {
                let entry = line.split('#').next()?;
                let mut fields = entry.split_whitespace();
                let address = fields.next()?;
                fields
                    .any(|field| field == self.name)
                    .then(|| (address.parse().ok(), self.is_ours(line)))
            })
            .collect())
    }
}

impl Step for HostsEntry {
    fn id(&self) -> &'static str {
        match self.stage {
            Stage::Join => "hosts-entry",
            Stage::Master => "hosts-entry-final",
        }
    }

    fn summary(&self) -> String {
        format!("{} leads to {}", self.name, self.address)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let entries = self.entries(view.host)?;
        if self.stage == Stage::Master && entries.iter().any(|(_, ours)| !ours) {
            return Ok(State::Satisfied);
        }
        for (address, ours) in entries {
            if !ours && !address.is_some_and(|address| self.accepts(address) || self.goes(address))
            {
                let shown = address.map_or_else(
                    || "an unreadable address".to_owned(),
                    |address| address.to_string(),
                );
                return Ok(State::Conflict {
                    reason: format!(
                        "{HOSTS} says that {} is {shown}, and the cluster is reached at {}",
                        self.name, self.address
                    ),
                    remedy: format!("correct or remove that line of {HOSTS}"),
                });
            }
        }
        let found = resolve(view.host, &self.name)?;
        Ok(match found.first() {
            Some(address) if self.accepts(*address) => State::Satisfied,
            Some(address) => State::Pending(format!("{} leads to {address}", self.name)),
            None => State::Pending(format!("{} is not known here", self.name)),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let view = world.host.view();
        let before = view.text(HOSTS)?.unwrap_or_default();
        let kept = before
            .lines()
            .filter(|line| !self.is_ours(line))
            .filter_map(|line| self.without_loopback(line));
        let mut text: String = kept.flat_map(|line| [line, "\n".into()]).collect();
        text.push_str(&self.line());
        text.push('\n');
        let mode = view.facts(HOSTS)?.map_or(0o644, |facts| facts.mode);
        world.host.write_file(HOSTS, text.as_bytes(), mode)
    }
}

/// The addresses of a name as this machine's programs find them, the preferred one first; none where the name is not known.
fn resolve(host: &HostView, name: &str) -> Result<Vec<IpAddr>> {
    // Any other status than 0 is "not found": files and DNS were asked, and a DNS that does not answer, in its time or at all, finds nothing either.
    let answer = match host.probe(&Probe::addresses(name)) {
        Err(CommandError::Timeout { .. }) => return Ok(Vec::new()),
        answer => answer.with_context(|| format!("cannot ask for the addresses of {name}"))?,
    };
    Ok(answer
        .text()
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::super::testing::Machine;
    use super::*;
    use crate::host::command::{Cmd, Feed, Output, Runner};
    use crate::host::scripted::Scripted;

    /// A resolver whose servers are silent until its time is up.
    struct Silent;

    impl Runner for Silent {
        fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
            let patience = ("RES_OPTIONS".to_owned(), "timeout:3 attempts:1".to_owned());
            assert!(cmd.env.contains(&patience), "{cmd:?}");
            Err(CommandError::Timeout {
                command: cmd.to_string(),
                limit: cmd.timeout,
            })
        }

        fn feed(&self, cmd: &Cmd, _: &mut Feed<'_>) -> Result<Output, CommandError> {
            self.run(cmd)
        }

        fn fetch(&self, cmd: &Cmd, _: &mut dyn Write) -> Result<Output, CommandError> {
            self.run(cmd)
        }
    }

    fn step() -> HostsEntry {
        HostsEntry::new(
            "api.tke.com",
            "10.0.0.3".parse().unwrap(),
            vec!["10.0.0.4".parse().unwrap()],
        )
    }

    /// A resolver that finds nothing at first, and then this address.
    fn later(address: &str) -> Scripted {
        Scripted::new().once_each(
            "getent ahosts api.tke.com",
            [
                (2, ""),
                (0, format!("{address}        STREAM api.tke.com\n").as_str()),
            ],
        )
    }

    #[test]
    fn an_unknown_name_gets_a_line() {
        let machine = Machine::new();
        machine.file_with_mode(
            HOSTS,
            "127.0.0.1 localhost\n10.9.9.9 api.tke.com # kpot\n",
            0o640,
        );
        let (before, after) = machine.ensure(&step(), later("10.0.0.3")).unwrap();
        assert_eq!(
            before,
            State::Pending("api.tke.com is not known here".to_owned())
        );
        assert_eq!(after, State::Satisfied);
        assert_eq!(
            machine.text(HOSTS).unwrap(),
            "127.0.0.1 localhost\n10.0.0.3 api.tke.com # kpot\n"
        );
        assert_eq!(machine.mode(HOSTS), 0o640);
    }

    #[test]
    fn a_name_that_leads_to_the_cluster_is_left_alone() {
        let machine = Machine::new();
        machine.file(HOSTS, "10.0.0.4 api.tke.com\n");
        let script = Scripted::new().on("getent", 0, "10.0.0.4 STREAM api.tke.com");
        assert_eq!(machine.check(&step(), script), State::Satisfied);
    }

    #[test]
    fn somebody_else_s_line_is_a_conflict() {
        let machine = Machine::new();
        machine.file(HOSTS, "10.7.7.7 other api.tke.com # by hand\n");
        let state = machine.check(&step(), Scripted::new());
        assert!(matches!(state, State::Conflict { reason, .. } if reason.contains("10.7.7.7")));
    }

    #[test]
    fn a_line_that_leads_to_this_machine_goes_until_it_is_a_master() {
        let machine = Machine::new();
        machine.file(
            HOSTS,
            "127.0.0.1 localhost api.tke.com # TKE\n127.0.0.1 api.tke.com\n::1 localhost\n",
        );
        let script = Scripted::new().once_each(
            "getent ahosts api.tke.com",
            [
                (0, "127.0.0.1 STREAM api.tke.com"),
                (0, "10.0.0.3 STREAM api.tke.com"),
            ],
        );
        let (before, after) = machine.ensure(&step(), script).unwrap();
        assert_eq!(
            before,
            State::Pending("api.tke.com leads to 127.0.0.1".to_owned())
        );
        assert_eq!(after, State::Satisfied);
        assert_eq!(
            machine.text(HOSTS).unwrap(),
            "127.0.0.1 localhost # TKE\n::1 localhost\n10.0.0.3 api.tke.com # kpot\n"
        );
    }

    #[test]
    fn a_master_leads_the_name_to_its_final_address_and_leaves_other_lines() {
        let machine = Machine::new();
        machine.file(HOSTS, "10.0.0.3 api.tke.com # kpot\n");
        let step = HostsEntry::finally("api.tke.com", "127.0.0.1".parse().unwrap());
        let script = Scripted::new().once_each(
            "getent",
            [
                (0, "10.0.0.3 STREAM api.tke.com"),
                (0, "127.0.0.1 STREAM api.tke.com"),
            ],
        );
        let (before, after) = machine.ensure(&step, script).unwrap();
        assert_eq!(
            before,
            State::Pending("api.tke.com leads to 10.0.0.3".to_owned())
        );
        assert_eq!(after, State::Satisfied);
        assert_eq!(
            machine.text(HOSTS).unwrap(),
            "127.0.0.1 api.tke.com # kpot\n"
        );
        machine.file(HOSTS, "10.0.0.8 api.tke.com\n");
        assert_eq!(machine.check(&step, Scripted::new()), State::Satisfied);
    }

    #[test]
    fn a_resolver_whose_servers_are_silent_finds_nothing() {
        let machine = Machine::new();
        machine.file(HOSTS, "127.0.0.1 localhost\n");
        let host = HostView::new(machine.place("/"), Arc::new(Silent));
        let state = step().check(View {
            host: &host,
            cluster: None,
        });
        assert_eq!(
            state.unwrap(),
            State::Pending("api.tke.com is not known here".to_owned())
        );
    }

    #[test]
    fn a_resolver_that_cannot_be_asked_is_an_error() {
        let machine = Machine::new();
        machine.file(HOSTS, "");
        let error = machine.ensure(&step(), Scripted::new()).unwrap_err();
        assert!(error.to_string().contains("cannot ask for the addresses"));
        assert_eq!(machine.text(HOSTS).unwrap(), "");
    }
}
