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
use super::command::{Cmd, CommandError, NO_PROGRAM, Output, Runner};
use super::probe::Probe;
use crate::journal::Change;

/// How long a file may take to come here: 8 GiB at 5 MB/s.
const COPYING: Duration = Duration::from_secs(1800);

/// How long a backup may stand still on its way here. The disk that it comes from may be a failing one, and the cluster's lock is held meanwhile.
const STALLED: Duration = Duration::from_secs(60);

/// What `xargs` exits with where the program that it ran failed.
const PROGRAM_FAILED: i32 = 123;

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

    /// Writes a tar of these absolute paths, all of which exist, without what is at or below those of `except`, into `sink`. A link is in it as a link, also where the path itself is one. What the sink got is
    /// whole only where this returns no error.
    ///
    /// # Errors
    /// It fails, nothing comes for a minute, or half an hour is over.
    pub fn archive(&self, paths: &[String], except: &[String], sink: &mut dyn Write) -> Result<()> {
        let relative = |path: &String| path.trim_start_matches('/').to_owned();
        let fixed = ["-C", "/", "-c", "-f", "-", "--ignore-failed-read"].map(str::to_owned);
        let args = fixed
            .into_iter()
            .chain(
                except
                    .iter()
                    .map(|path| format!("--exclude={}", relative(path))),
            )
            .chain(["--".to_owned()])
            .chain(paths.iter().map(relative));
        self.fetch(Cmd::new("tar", args).stall(STALLED), sink)
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

    /// Those of these paths that are links themselves.
    pub fn linked(&self, paths: &[&str]) -> Result<Vec<String>> {
        let links = ["-maxdepth", "0", "-type", "l", "-printf", "%p\n"];
        let args = paths.iter().chain(&links);
        let found = self.found(&find(args.copied()))?.text();
        Ok(found.lines().map(str::to_owned).collect())
    }

    /// The files at and below these paths, a line each with the time of the last change and the size: equal lines mean that a file was not touched.
    pub fn stamps(&self, paths: &[&str]) -> Result<BTreeSet<String>> {
        self.stamped(paths, &[])
    }

    /// The same of the files that these links lead to, by the links' paths.
    pub fn stamps_behind(&self, links: &[&str]) -> Result<BTreeSet<String>> {
        self.stamped(links, &["-maxdepth", "0"])
    }

    fn stamped(&self, paths: &[&str], depth: &[&str]) -> Result<BTreeSet<String>> {
        let args = ["-H"].iter().chain(paths).chain(depth);
        let args = args.chain(&["-type", "f", "-printf", "%T@ %s %p\n"]);
        let found = self.found(&find(args.copied()))?.text();
        Ok(found.lines().map(str::to_owned).collect())
    }

    /// Reads these files to their ends; nothing of them comes here. One that is gone by now is fine.
    ///
    /// # Errors
    /// One of them cannot be read, or not all of them within a minute. A machine without the programs for it is not asked.
    pub fn read_through(&self, files: &[&str]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let names: String = files.iter().flat_map(|file| [*file, "\0"]).collect();
        let cmd = Cmd::new("xargs", ["--null", "sha256sum", "--"])
            .env("LC_ALL", "C")
            .stdin(names);
        let output = self.runner.run(&cmd)?;
        let is_untold = output.status == NO_PROGRAM;
        if !is_untold && (output.status != PROGRAM_FAILED || !lacks_only(&output, "sha256sum")) {
            output.expect(&cmd)?;
        }
        Ok(())
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
        if output.status == 1 && lacks_only(&output, "find") {
            return Ok(output);
        }
        output.expect(cmd)
    }
}

/// Whether a program complained, and of nothing but paths that are not there.
fn lacks_only(output: &Output, program: &str) -> bool {
    let complaints = String::from_utf8_lossy(&output.stderr);
    let start = format!("{program}: ");
    // What else stands there is of the login shell, about a locale as a rule.
    let own: Vec<&str> = complaints
        .lines()
        .filter(|line| line.starts_with(&start))
        .collect();
    let is_absence = |line: &&str| line.ends_with("No such file or directory");
    !own.is_empty() && own.iter().all(is_absence)
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

    /// That machine, for looking.
    pub fn view(&self) -> &RemoteView {
        self.view
    }

    /// Waits.
    pub fn pause(&self, length: Duration) {
        self.host.view().clock().pause(length);
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

    #[test]
    fn a_file_that_is_gone_is_told_from_one_that_cannot_be_read() {
        let machine = |status, stderr: &str| {
            let script = Scripted::new().on("xargs --null sha256sum --", status, stderr);
            RemoteView::new(Arc::new(script), "m3")
        };
        let gone = "sha256sum: /a: No such file or directory\n";
        let broken = "sha256sum: /b: Input/output error\n";
        machine(0, "").read_through(&["/a", "/b"]).unwrap();
        machine(123, gone).read_through(&["/a", "/b"]).unwrap();
        machine(127, "").read_through(&["/a"]).unwrap();
        for (status, stderr) in [(123, [gone, broken].concat()), (124, gone.to_owned())] {
            let machine = machine(status, &stderr);
            assert!(machine.read_through(&["/a", "/b"]).is_err(), "{stderr}");
        }
        let nothing = RemoteView::new(Arc::new(Scripted::new()), "m3");
        nothing.read_through(&[]).unwrap();
    }

    #[test]
    fn a_backup_may_not_stand_still_for_long() {
        let script = Scripted::new().with(|cmd, _| {
            let is_limited = cmd.stall == Some(STALLED) && cmd.timeout == COPYING;
            (cmd.program == "tar" && is_limited).then(Output::default)
        });
        let machine = RemoteView::new(Arc::new(script), "m3");
        let paths = ["/etc/kubernetes".to_owned()];
        machine.archive(&paths, &[], &mut Vec::new()).unwrap();
    }
}
