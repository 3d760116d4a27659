//! Another machine, over SSH: looking at it ([`RemoteView`]) and changing it ([`Remote`]).
//!
//! A view asks and reads, and can only run what is known to change nothing. What changes something goes through [`Remote`], which can be made only where this machine
//! may be changed, and says in this machine's journal what it is about to do there.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bundle_spec::Sha256;

use super::Host;
use super::ahead::Ahead;
use super::command::{Cmd, CommandError, Output, Runner};
use super::probe::Probe;
use crate::journal::Change;

/// How long a file may take to come here: 8 GiB at 5 MB/s.
const COPYING: Duration = Duration::from_secs(1800);

/// Another machine, for looking only.
#[derive(Clone)]
pub struct RemoteView {
    runner: Arc<dyn Runner>,
    address: String,
}

impl RemoteView {
    /// The machine that `runner` runs commands on and that people call `address`.
    pub fn new(runner: Arc<dyn Runner>, address: impl Into<String>) -> Self {
        Self {
            runner,
            address: address.into(),
        }
    }

    /// The same machine; `questions`, made by the functions of this module and of those that ask it, are asked side by side now, and each answer is given once.
    #[must_use]
    pub(crate) fn ahead(&self, questions: &[Cmd]) -> Self {
        Self {
            runner: Ahead::ask(self.runner.clone(), questions),
            address: self.address.clone(),
        }
    }

    /// Its address, as it was given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks the machine something.
    pub fn probe(&self, probe: &Probe) -> Result<Output, CommandError> {
        self.runner.run(probe.command())
    }

    /// The content of a small file; nothing where there is none.
    pub fn file(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let [is_file, content] = Self::file_questions(path);
        if !self.runner.run(&is_file)?.ok() {
            return Ok(None);
        }
        Ok(Some(self.runner.expect(&content)?.stdout))
    }

    /// What [`Self::file`] asks.
    pub(crate) fn file_questions(path: &str) -> [Cmd; 2] {
        [
            Cmd::new("test", ["-f", path]),
            Cmd::new("cat", ["--", path]),
        ]
    }

    /// Copies a file of any size into `sink`. What the sink got is whole only where this returns no error.
    pub fn copy(&self, path: &str, sink: &mut dyn Write) -> Result<()> {
        self.fetch(Cmd::new("cat", ["--", path]), sink)
    }

    /// Writes a tar of these absolute paths, all of which exist, without what is at or below `except`, into `sink`. What the sink got is whole only where this returns no error.
    pub fn archive(&self, paths: &[String], except: &str, sink: &mut dyn Write) -> Result<()> {
        let except = format!("--exclude={}", except.trim_start_matches('/'));
        let fixed = ["-C", "/", "-c", "-f", "-", "--ignore-failed-read"];
        let fixed = fixed.into_iter().chain([except.as_str(), "--"]);
        let relative = paths.iter().map(|path| path.trim_start_matches('/'));
        self.fetch(Cmd::new("tar", fixed.chain(relative)), sink)
    }

    fn fetch(&self, cmd: Cmd, sink: &mut dyn Write) -> Result<()> {
        let cmd = cmd.timeout(COPYING);
        self.runner.fetch(&cmd, sink)?.expect(&cmd)?;
        Ok(())
    }

    /// The digest of a file.
    pub fn digest(&self, path: &str) -> Result<Sha256> {
        let text = self
            .runner
            .expect(&Cmd::new("sha256sum", ["--", path]))?
            .text();
        let hex = text
            .trim_start_matches('\\')
            .split_whitespace()
            .next()
            .unwrap_or_default();
        Sha256::from_hex(hex)
            .with_context(|| format!("sha256sum on {} printed {text:?}", self.address))
    }

    /// Those of these paths that exist; a link counts where it leads somewhere.
    pub fn existing(&self, paths: &[&str]) -> Result<Vec<String>> {
        let args = ["-H"]
            .iter()
            .chain(paths)
            .chain(&["-maxdepth", "0", "-printf", "%p\n"]);
        let found = self.found(&find(args.copied()))?.text();
        Ok(found.lines().map(str::to_owned).collect())
    }

    /// The files at and below these paths, a line each with the time of the last change and the size: equal lines mean that a file was not touched.
    pub fn stamps(&self, paths: &[&str]) -> Result<BTreeSet<String>> {
        let args = ["-H"]
            .iter()
            .chain(paths)
            .chain(&["-type", "f", "-printf", "%T@ %s %p\n"]);
        let found = self.found(&find(args.copied()))?.text();
        Ok(found.lines().map(str::to_owned).collect())
    }

    /// A path and, where it is a folder, the files and folders in it; with their sizes. A link is followed where the path itself is one. Nothing where there is no such path.
    pub fn tree(&self, path: &str) -> Result<Vec<TreeEntry>> {
        self.found(&Self::tree_question(path))?
            .text()
            .lines()
            .map(|line| {
                TreeEntry::parse(line)
                    .with_context(|| format!("find on {} printed {line:?}", self.address))
            })
            .collect()
    }

    /// What [`Self::tree`] asks.
    pub(crate) fn tree_question(path: &str) -> Cmd {
        entries(path, &[])
    }

    /// What [`Self::links`] asks.
    pub(crate) fn links_question(paths: &[&str]) -> Cmd {
        let args = ["-H"].iter().chain(paths);
        find(args.chain(&["-type", "l", "-printf", "l %p\n"]).copied())
    }

    /// The links below these paths.
    pub fn links(&self, paths: &[&str]) -> Result<Vec<String>> {
        let found = self.found(&Self::links_question(paths))?.text();
        let links = found.lines().filter_map(|line| line.strip_prefix("l "));
        Ok(links.map(str::to_owned).collect())
    }

    /// The file or folder that a link leads to in the end; nothing where it leads nowhere.
    pub fn behind(&self, link: &str) -> Result<Option<TreeEntry>> {
        let follow = Cmd::new("readlink", ["--canonicalize-existing", "--", link]);
        let place = self.runner.run(&follow)?;
        if !place.ok() {
            return Ok(None);
        }
        let place = place.text();
        let only = ["-maxdepth", "0"];
        Ok(TreeEntry::parse(
            &self.found(&entries(&place, &only))?.text(),
        ))
    }

    /// Runs `find`. A path that is not there is an answer; anything else that it complains of is an error, so that nothing is taken for absent that could not be looked at.
    fn found(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        let output = self.runner.run(cmd)?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        // What else stands there is of the login shell, about a locale as a rule.
        let own: Vec<&str> = complaints
            .lines()
            .filter(|line| line.starts_with("find: "))
            .collect();
        let is_absence = |line: &&str| line.ends_with("No such file or directory");
        if output.status == 1 && !own.is_empty() && own.iter().all(is_absence) {
            return Ok(output);
        }
        output.expect(cmd)
    }
}

fn find<'t>(args: impl IntoIterator<Item = &'t str>) -> Cmd {
    Cmd::new("find", args).env("LC_ALL", "C")
}

/// Lists files and folders in the form that [`TreeEntry`] reads, by what a find of 2010 understands; CentOS 7 has one.
fn entries(path: &str, depth: &[&str]) -> Cmd {
    const KINDS: [&str; 7] = ["(", "-type", "d", "-o", "-type", "f", ")"];
    let kinds = depth.iter().chain(&KINDS).copied();
    let args = ["-H", path].into_iter().chain(kinds);
    find(args.chain(["-printf", "%y %m %s %p\n"]))
}

/// A file or folder of another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Its path.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Whether it is a folder.
    pub is_folder: bool,
}

impl TreeEntry {
    /// Reads `TYPE MODE SIZE PATH`.
    fn parse(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        let (mode, rest) = rest.split_once(' ')?;
        let (size, path) = rest.split_once(' ')?;
        Some(Self {
            path: path.to_owned(),
            mode: u32::from_str_radix(mode, 8).ok()?,
            size: size.parse().ok()?,
            is_folder: kind == "d",
        })
    }
}

/// Another machine, for changing.
pub struct Remote<'a> {
    view: &'a RemoteView,
    host: &'a Host<'a>,
}

impl<'a> Remote<'a> {
    /// What `view` sees, for changing; the journal of `host` holds what is done.
    pub fn new(view: &'a RemoteView, host: &'a Host<'a>) -> Self {
        Self { view, host }
    }

    /// Runs a command there that changes something. An exit status other than 0 is an error.
    pub fn run(&self, cmd: &Cmd) -> Result<Output> {
        self.host.note(Change::Cluster {
            what: format!("on {}: {cmd}", self.view.address),
        })?;
        let output = self.view.runner.expect(cmd);
        output.with_context(|| format!("on {}", self.view.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scripted::Scripted;

    #[test]
    fn what_is_absent_is_told_from_what_could_not_be_looked_at() {
        let machine = |stderr: &str| {
            let script = Scripted::new().on("find", 1, stderr);
            RemoteView::new(Arc::new(script), "m3")
        };
        let absent = machine("find: '/etc/kubernetes': No such file or directory\n");
        assert!(absent.tree("/etc/kubernetes").unwrap().is_empty());
        assert!(absent.existing(&["/etc/kubernetes"]).unwrap().is_empty());
        let noisy = machine(
            "bash: warning: setlocale: LC_ALL: cannot change locale (zh_CN.UTF-8)\nfind: '/etc/kubernetes': No such file or directory\n",
        );
        assert!(noisy.tree("/etc/kubernetes").unwrap().is_empty());
        for stderr in [
            "sudo: a password is required",
            "",
            "find: '/etc/kubernetes': Input/output error\n",
        ] {
            assert!(machine(stderr).stamps(&["/etc/kubernetes"]).is_err());
        }
    }
}
