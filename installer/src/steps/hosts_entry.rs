//! A name of the cluster is found from this machine, by a line in /etc/hosts where nothing else knows it.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::host::HostView;
use crate::host::probe::Probe;
use crate::step::{State, Step, View, World};

/// What stands behind a line of ours.
const MARK: &str = "# kpot";

const HOSTS: &str = "/etc/hosts";

/// See the module.
pub struct HostsEntry {
    name: String,
    address: IpAddr,
    acceptable: Vec<IpAddr>,
}

impl HostsEntry {
    /// `name` leads to `address`, or already leads to one of `acceptable`.
    pub fn new(name: impl Into<String>, address: IpAddr, acceptable: Vec<IpAddr>) -> Self {
        Self {
            name: name.into(),
            address,
            acceptable,
        }
    }

    fn accepts(&self, address: IpAddr) -> bool {
        address == self.address || self.acceptable.contains(&address)
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
        "hosts-entry"
    }

    fn summary(&self) -> String {
        format!("{} leads to {}", self.name, self.address)
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        for (address, ours) in self.entries(view.host)? {
            if !ours && !address.is_some_and(|address| self.accepts(address)) {
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
        let mut text: String = view
            .text(HOSTS)?
            .unwrap_or_default()
            .lines()
            .filter(|line| !self.is_ours(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        text.push_str(&self.line());
        text.push('\n');
        let mode = view.facts(HOSTS)?.map_or(0o644, |facts| facts.mode);
        world.host.write_file(HOSTS, text.as_bytes(), mode)
    }
}

/// The addresses of a name as this machine's programs find them, the preferred one first; none where the name is not known.
fn resolve(host: &HostView, name: &str) -> Result<Vec<IpAddr>> {
    // Any other status than 0 is "not found": files and DNS were asked, and a DNS that does not answer finds nothing either.
    let answer = host
        .probe(&Probe::addresses(name))
        .with_context(|| format!("cannot ask for the addresses of {name}"))?;
    Ok(answer
        .text()
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect())
}
