//! The files of a machine that is only played, and the few programs that look at them or remove them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bundle_spec::Sha256;

use crate::host::command::{Cmd, Output};

/// Regular files by path; a folder is there where something lies in it, or where it was made.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<String, Vec<u8>>,
    folders: BTreeSet<String>,
}

/// What a command printed that went well.
pub(super) fn good(text: impl Into<Vec<u8>>) -> Output {
    Output {
        stdout: text.into(),
        ..Output::default()
    }
}

/// What a command said that failed.
pub(super) fn bad(text: &str) -> Output {
    Output {
        status: 1,
        stderr: text.as_bytes().to_vec(),
        ..Output::default()
    }
}

impl Files {
    pub(super) fn put(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        let mut below = path;
        while let Some((folder, _)) = below.rsplit_once('/')
            && !folder.is_empty()
        {
            self.folders.insert(folder.to_owned());
            below = folder;
        }
        self.files.insert(path.to_owned(), content.into());
    }

    pub(super) fn get(&self, path: &str) -> Option<&Vec<u8>> {
        self.files.get(path)
    }

    /// The files at and below a path.
    pub(super) fn below(&self, path: &str) -> Vec<String> {
        let is_below = |file: &&String| is_at_or_below(file, path);
        self.files.keys().filter(is_below).cloned().collect()
    }

    fn exists(&self, path: &str) -> bool {
        self.files.contains_key(path) || self.folders.contains(path)
    }

    fn remove(&mut self, path: &str) {
        self.files.retain(|file, _| !is_at_or_below(file, path));
        self.folders.retain(|file| !is_at_or_below(file, path));
    }

    /// What these programs would answer; nothing to any other command.
    pub(super) fn play(&mut self, cmd: &Cmd) -> Option<Output> {
        let args: Vec<&str> = cmd.args.iter().map(String::as_str).collect();
        Some(match (cmd.program.as_str(), args.as_slice()) {
            ("test", ["-f" | "-r", path]) => match self.files.get(*path) {
                Some(_) => good(""),
                None => bad(""),
            },
            ("cat", ["--", path]) => good(self.files.get(*path)?.clone()),
            ("sha256sum", ["--", path]) => {
                let digest = Sha256::of(self.files.get(*path)?).to_string();
                let hex = digest.trim_start_matches("sha256:");
                good(format!("{hex}  {path}\n"))
            }
            // What it reads is thrown away.
            ("xargs", ["--null", "sha256sum", "--"]) => good(""),
            ("ls", ["-A", path]) => good(self.below(path).join("\n")),
            ("rm", ["-r", "-f", "--one-file-system", "--", paths @ ..]) => {
                for path in paths {
                    self.remove(path);
                }
                good("")
            }
            ("tar", ["-C", "/", "-c", ..]) => good("a tar\n"),
            ("find", ["-H", folder, .., "-name", "kpot-*.db*", "-delete"]) => {
                let start = format!("{folder}/kpot-");
                self.files.retain(|path, _| !path.starts_with(&start));
                good("")
            }
            ("find", ["-H", path, "-xdev", .., "-delete"]) => {
                self.remove(path);
                self.folders.insert((*path).to_owned());
                good("")
            }
            ("find", ["-H", rest @ ..]) => self.find(rest)?,
            // No machine that is played has links.
            ("find", [path, .., "-type", "l", "-printf", _]) if path.starts_with('/') => good(""),
            _ => return None,
        })
    }

    fn find(&self, args: &[&str]) -> Option<Output> {
        let paths: Vec<&str> = args
            .iter()
            .copied()
            .take_while(|arg| arg.starts_with('/'))
            .collect();
        let format = *args.last()?;
        let mut found = Output::default();
        let (mut text, mut complaints) = (String::new(), String::new());
        for path in paths {
            if !self.exists(path) {
                found.status = 1;
                let _ = writeln!(complaints, "find: '{path}': No such file or directory");
                continue;
            }
            let folders = self
                .folders
                .iter()
                .filter(|folder| is_at_or_below(folder, path));
            let files = self
                .files
                .iter()
                .filter(|(file, _)| is_at_or_below(file, path));
            match format {
                "%p\n" => {
                    let _ = writeln!(text, "{path}");
                }
                // No machine that is played has links.
                "l %p\n" => {}
                "%T@ %s %p\n" => {
                    files.for_each(|(file, content)| {
                        let _ = writeln!(text, "1 {} {file}", content.len());
                    });
                }
                "%y %m %s %p\n" => {
                    folders.for_each(|folder| {
                        let _ = writeln!(text, "d 755 4096 {folder}");
                    });
                    files.for_each(|(file, content)| {
                        let _ = writeln!(text, "f 600 {} {file}", content.len());
                    });
                }
                _ => return None,
            }
        }
        found.stdout = text.into_bytes();
        found.stderr = complaints.into_bytes();
        Some(found)
    }
}

fn is_at_or_below(file: &str, path: &str) -> bool {
    file.strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
