//! Go programs out of released modules: toolchains, module trees, builds.
//!
//! Everything comes through the Go module proxy, the toolchains too, and lies below the lab's cache; the user's own Go
//! caches are left alone. Modules are verified as `go` does it, by the checksum database. A build's output is the same
//! for the same inputs: paths are trimmed and nothing of the time or the machine goes in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::eras::{BuiltAs, Edit, Part, Replacements};
use crate::sh::{self, Sh};

/// What building with C needs besides the libraries themselves.
const C_TOOLS: [&str; 3] = ["gcc", "libc6-dev", "pkg-config"];

/// The toolchain of programs that no Kubernetes version restricts; also the one that fetches modules.
pub const NEWEST_GO: &str = "go1.26.8";

/// Spares the compiler what a debugger would read, of which the linker takes nothing over: 15 in 100 of its work, measured on crictl, and a quarter of the build cache.
pub const NO_DEBUGGING: &str = "-gcflags=all=-dwarf=false";

/// Where Go works: its shared downloads, and trees and build caches that are thrown away.
#[derive(Debug, Clone)]
pub struct Workshop {
    downloads: PathBuf,
    scratch: PathBuf,
}

/// A released module, as the proxy gave it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Module {
    /// Its unpacked sources; not to be changed.
    pub dir: PathBuf,
    info: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModuleInfo {
    time: String,
}

/// Whether C may take part in a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgo {
    /// No: every program is static.
    Off,
    /// Yes.
    On,
}

impl Workshop {
    /// Below the lab's cache; nothing is made yet.
    pub fn new(cache: &Path) -> Self {
        Self {
            downloads: cache.join("go"),
            scratch: cache.join("build"),
        }
    }

    /// A directory for a tree, empty.
    pub fn fresh_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.scratch.join(name);
        sh::remove(&dir)?;
        sh::make_dirs(&dir)?;
        Ok(dir)
    }

    /// Trees and build caches: what [`Workshop::throw_away_builds`] removes.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Removes trees and build caches; toolchains and module downloads stay.
    pub fn throw_away_builds(&self) -> Result<()> {
        sh::discard(&self.scratch)
    }

    /// Removes toolchains and module downloads.
    pub fn throw_away_downloads(&self) -> Result<()> {
        sh::discard(&self.downloads)
    }

    /// A `go` command of this toolchain, which is fetched first if need be.
    pub fn go(&self, toolchain: &str, cgo: Cgo) -> Result<Sh> {
        let root = self.toolchain(toolchain)?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            std::iter::once(root.join("bin")).chain(std::env::split_paths(&path)),
        )
        .context("putting Go on PATH")?;
        Ok(self
            .settings(Sh::new(root.join("bin/go")), cgo)
            .env("PATH", path)
            .log("go.log"))
    }

    fn settings(&self, command: Sh, cgo: Cgo) -> Sh {
        command
            .env("GOTOOLCHAIN", "local")
            .env("GOPATH", self.downloads.join("path"))
            .env("GOMODCACHE", self.downloads.join("mod"))
            .env("GOCACHE", self.scratch.join("cache"))
            // The compiler collects its garbage less often: a ninth less work, measured on the CNI plugins, and the same bytes.
            .env("GOGC", "400")
            .env("GOFLAGS", "-mod=mod -modcacherw -buildvcs=false")
            .env("GOWORK", "off")
            .env("GO111MODULE", "on")
            .env("CGO_ENABLED", if cgo == Cgo::On { "1" } else { "0" })
            .env_remove("GOROOT")
            .env_remove("GOOS")
            .env_remove("GOARCH")
    }

    /// The root of a toolchain. Toolchains are modules too (`golang.org/toolchain`), so any Go fetches any other: one
    /// on PATH where there is one, else Debian's.
    pub fn toolchain(&self, toolchain: &str) -> Result<PathBuf> {
        let version = format!("v0.0.1-{toolchain}.linux-amd64");
        let root = self
            .downloads
            .join("mod")
            .join(format!("golang.org/toolchain@{version}"));
        if sh::exists(&root.join(".ready")) {
            return Ok(root);
        }
        if !sh::on_path("go") {
            sh::apt_install(&["golang-go"])?;
        }
        let fetch = self
            .settings(Sh::new("go"), Cgo::Off)
            .args(["mod", "download"]);
        fetch
            .arg(format!("golang.org/toolchain@{version}"))
            .dir("/")
            .log("go.log")
            .run()?;
        // The proxy's archives hold no modes, and a Go that does not know toolchains leaves its programs as plain files.
        for dir in ["bin", "pkg/tool/linux_amd64"] {
            for name in sh::names_in(&root.join(dir))? {
                sh::set_mode(&root.join(dir).join(name), 0o755)?;
            }
        }
        sh::write_atomic(&root.join(".ready"), b"", 0o644)?;
        Ok(root)
    }

    /// Fetches a released module.
    pub fn download(&self, module: &str, version: &str) -> Result<Module> {
        let answer = self
            .go(NEWEST_GO, Cgo::Off)?
            .args(["mod", "download", "-json"])
            .arg(format!("{module}@{version}"))
            .dir("/")
            .output()?;
        serde_json::from_str(&answer)
            .with_context(|| format!("reading what go says of {module}@{version}"))
    }

    /// Copies a module's tree to a place where it can be changed and built as its own main module. Vendored
    /// copies and workspaces go; its sums stay, because the checksum database does not know every module.
    pub fn copy_tree(&self, module: &Module, name: &str) -> Result<PathBuf> {
        let tree = self.scratch.join(name);
        sh::remove(&tree)?;
        sh::make_dirs(&self.scratch)?;
        Sh::new("cp").arg("-r").args([&module.dir, &tree]).run()?;
        Sh::new("chmod").args(["-R", "u+w"]).arg(&tree).run()?;
        for gone in ["vendor", "go.work", "go.work.sum"] {
            sh::remove(&tree.join(gone))?;
        }
        Ok(tree)
    }

    /// Builds a part and puts its programs into `out`.
    pub fn build_part(
        &self,
        name: &str,
        part: &Part,
        replace: &Replacements,
        out: &Path,
    ) -> Result<()> {
        let mut flags = linker_flags(&part.stamp);
        let cgo = if part.c_libraries.is_empty() {
            Cgo::Off
        } else {
            let libraries = part.c_libraries.iter().map(String::as_str);
            sh::apt_install(&C_TOOLS.into_iter().chain(libraries).collect::<Vec<_>>())?;
            flags.push_str(" -extldflags=-static");
            Cgo::On
        };
        let go = self.go(&part.go, cgo)?;
        let tree = match part.built_as {
            BuiltAs::Tree => {
                let tree = self.copy_tree(&self.download(&part.module, &part.version)?, name)?;
                replace_modules(&go, &tree, replace)?;
                apply(&part.edits, &tree)?;
                tree
            }
            BuiltAs::Dependency => {
                let tree = self.fresh_dir(name)?;
                go.clone()
                    .args(["mod", "init", "lab/part"])
                    .dir(&tree)
                    .run()?;
                replace_modules(&go, &tree, replace)?;
                let wanted = format!("{}@{}", part.module, part.version);
                go.clone().args(["get", &wanted]).dir(&tree).run()?;
                tree
            }
        };
        let built = self.fresh_dir(&format!("{name}.out"))?;
        go.args(["build", "-trimpath", NO_DEBUGGING, "-ldflags", &flags])
            .args(["-tags", &part.tags.join(","), "-o"])
            .arg(format!("{}/", built.display()))
            .args(&part.packages)
            .dir(&tree)
            .run()?;
        for (gos, peoples) in &part.names {
            sh::rename(&built.join(gos), &built.join(peoples))?;
        }
        let says = Sh::new(built.join(&part.says.program))
            .args(&part.says.args)
            .outcome()?;
        if !says.stdout.contains(&part.says.text) && !says.stderr.contains(&part.says.text) {
            bail!(
                "part {name}: {} does not say \"{}\" but: {}{}",
                part.says.program,
                part.says.text,
                says.stdout,
                says.stderr
            );
        }
        sh::rename(&built, out)?;
        sh::discard(&tree)
    }
}

impl Module {
    /// When its version was committed, as `2021-01-13T13:19:01Z`.
    pub fn committed(&self) -> Result<String> {
        let info: ModuleInfo = serde_json::from_str(&sh::read_text(&self.info)?)
            .with_context(|| format!("reading {}", self.info.display()))?;
        Ok(info.time)
    }
}

/// Linker flags that strip a program and set these string variables.
pub fn linker_flags(stamp: &BTreeMap<String, String>) -> String {
    let mut flags = "-s -w -buildid=".to_owned();
    for (variable, value) in stamp {
        flags.push_str(" -X ");
        flags.push_str(variable);
        flags.push('=');
        flags.push_str(value);
    }
    flags
}

/// Writes replacements into a tree's go.mod.
pub fn replace_modules(go: &Sh, tree: &Path, replace: &Replacements) -> Result<()> {
    if replace.is_empty() {
        return Ok(());
    }
    let arguments = replace.iter().map(|(module, by)| {
        if by.contains('@') {
            format!("-replace={module}={by}")
        } else {
            format!("-replace={module}={module}@{by}")
        }
    });
    go.clone()
        .args(["mod", "edit"])
        .args(arguments)
        .dir(tree)
        .run()
}

/// Changes sources. An edit that finds nothing to change is an error: the sources are not those that it was made for.
pub fn apply(edits: &[Edit], tree: &Path) -> Result<()> {
    for edit in edits {
        let (Edit::Drop { file, .. } | Edit::Change { file, .. } | Edit::Add { file, .. }) = edit;
        let path = tree.join(file);
        let before = match edit {
            Edit::Add { .. } => {
                ensure!(!path.exists(), "{file} is there already: {edit:?}");
                String::new()
            }
            Edit::Drop { .. } | Edit::Change { .. } => sh::read_text(&path)?,
        };
        let after = match edit {
            Edit::Drop {
                drop_lines_with, ..
            } => before
                .split_inclusive('\n')
                .filter(|line| !line.contains(drop_lines_with.as_str()))
                .collect(),
            Edit::Change { text, becomes, .. } => before.replace(text, becomes),
            Edit::Add { lines, .. } => lines.iter().flat_map(|line| [line, "\n"]).collect(),
        };
        ensure!(before != after, "{file} holds nothing to change: {edit:?}");
        sh::write_atomic(&path, after.as_bytes(), 0o644)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(json: &str) -> Edit {
        serde_json::from_str(json).expect("an edit")
    }

    #[test]
    fn edits_change_what_they_name_and_nothing_else() {
        let tree = tempfile::tempdir().expect("a temporary directory");
        let file = tree.path().join("main.go");
        sh::write_atomic(&file, b"import (\n\ta\n\tb\n)\nf(1, 2)\n", 0o644).expect("writable");
        let edits = [
            edit(r#"{ "file": "main.go", "drop_lines_with": "\tb", "because": "it is gone" }"#),
            edit(
                r#"{ "file": "main.go", "text": ", 2)", "becomes": ")", "because": "one argument less" }"#,
            ),
        ];
        apply(&edits, tree.path()).expect("both find something");
        assert_eq!(
            sh::read_text(&file).expect("readable"),
            "import (\n\ta\n)\nf(1)\n"
        );
        let again = apply(&edits, tree.path())
            .expect_err("nothing is left to change")
            .to_string();
        assert!(again.contains("main.go holds nothing to change"), "{again}");

        let added = [edit(
            r#"{ "file": "more.go", "lines": ["package main", "// more"], "because": "it is wanted" }"#,
        )];
        apply(&added, tree.path()).expect("the file is new");
        assert_eq!(
            sh::read_text(&tree.path().join("more.go")).expect("readable"),
            "package main\n// more\n"
        );
        let again = apply(&added, tree.path()).expect_err("the file is there");
        assert!(again.to_string().contains("more.go is there already"));
    }

    #[test]
    fn stamps_are_linker_flags_in_a_fixed_order() {
        let stamp = BTreeMap::from([
            ("b.Version".to_owned(), "2".to_owned()),
            ("a.Version".to_owned(), "1".to_owned()),
        ]);
        assert_eq!(
            linker_flags(&stamp),
            "-s -w -buildid= -X a.Version=1 -X b.Version=2"
        );
    }
}
