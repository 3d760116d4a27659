//! `cargo lab test`: the tests of the code, checks of the programs as they are shipped, and scenarios on several eras: wholly
//! on the first, less on the others.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bundle_spec::Sha256;
use serde_json::Value;

use crate::cache::Cache;
use crate::disk::DiskWatch;
use crate::eras::Choice;
use crate::image::vagrant_dir;
use crate::lab::Lab;
use crate::pool::{self, Latest, Programme};
use crate::pot::{Kpot, Pot};
use crate::scenario::{self, Counts, Ending, Played, Scenarios};
use crate::sh::{self, Sh, step};
use crate::upstream;
use crate::workbench::{self, Workbench};

/// What the installer may weigh, stripped, in bytes.
const INSTALLER_LIMIT: usize = 4_000_000;

/// The release of cargo-deny that checks the dependencies.
const CARGO_DENY: &str = "0.20.2";

/// A run has an hour, without any cache on two cores; a scenario takes up to six minutes of it on slow ones, and an era's first one makes a cluster besides.
const LATEST: Latest = Latest {
    build: Duration::from_mins(22),
    whole: Duration::from_mins(40),
    era: Duration::from_mins(50),
    scenario: Duration::from_mins(53),
};

/// How much the tests of the code yield to the scenarios: they have time limits of their own, and must not starve.
const CODE_YIELDS: u8 = 5;

/// How many lines of a failed test are shown from its panic on; a comparison that fails has three.
const PANIC_LINES: usize = 6;

/// What is played, and how it went so far.
struct Tests<'a> {
    cache: &'a Cache,
    eras: &'a [(Choice, Played)],
    counts: Mutex<Counts>,
}

/// Runs everything; failures are told and counted. An error means that there was nothing to test with.
///
/// The tests of the code are played beside the first lab, in the place of all others: two labs and they are more than two cores bear. kpot is compiled before them: beside it, clippy
/// would come to build the installers that are in it, and yield to all others meanwhile.
pub fn run(cache: &Cache, lab: &Lab, eras: &[(Choice, Played)]) -> Result<Counts> {
    let disk = DiskWatch::start(cache.root())?;
    workbench::prepare_host(cache)?;
    // Every lab fetches from these servers, and any may be done first.
    let _servers = upstream::serve(cache.root(), &[])?;
    let labs = pool::labs(lab)?;
    let tests = Tests {
        cache,
        eras,
        counts: Mutex::default(),
    };
    let choices: Vec<Choice> = eras.iter().map(|(choice, _)| choice.clone()).collect();
    let failed = pool::play(cache, &labs, &choices, &tests, Some(LATEST), || {
        tests.count(test_vagrantfile());
        tests.count(test_code(cache).context("the tests of the code")?);
        Ok(())
    });
    tests.count(Counts { passed: 0, failed });
    sh::say(format_args!(
        "all of it: {} minutes, peak disk {} MB",
        sh::clock(sh::elapsed()),
        disk.peak_megabytes()
    ));
    Ok(*sh::locked(&tests.counts))
}

impl Tests<'_> {
    fn count(&self, more: Counts) {
        *sh::locked(&self.counts) += more;
    }
}

impl Programme for Tests<'_> {
    fn scenarios(&self, era: usize, workbench: &Workbench) -> Result<Scenarios> {
        self.count(test_programs(self.cache, workbench));
        let (_, played) = self.eras.get(era).context("no such era")?;
        Ok(scenario::of(played))
    }

    fn ended(&self, _: usize, _: &Pot, _: &str, ending: Ending) -> Result<()> {
        self.count(Counts::of(&ending));
        Ok(())
    }
}

fn test_code(cache: &Cache) -> Result<Counts> {
    let cargo = || {
        workbench::nicely(CODE_YIELDS, &cargo())
            .dir(vagrant_dir())
            .log("cargo.log")
    };
    let mut counts = Counts::default();
    count(&mut counts, "cargo fmt", || {
        cargo().args(["fmt", "--all", "--check"]).run()
    });
    count(&mut counts, "cargo clippy", || {
        let clippy = cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "--deny",
            "warnings",
        ]);
        clippy.run()
    });
    count(&mut counts, "cargo deny", || deny(cache));
    let tests = step("cargo test", || {
        cargo()
            .args(["test", "--workspace", "--locked", "--no-fail-fast"])
            .outcome()
    })?;
    let tested = cargo_counts(&tests.stdout);
    if !tests.ok() {
        sh::say(format_args!(
            "cargo test FAILED:\n{}\n{}",
            failures_in(&tests.stdout),
            last_lines(&tests.stderr)
        ));
        // Where even compiling fails there is no count at all.
        counts.failed += usize::from(tested.failed == 0);
    }
    sh::say(format_args!(
        "cargo test: {} passed, {} failed",
        tested.passed, tested.failed
    ));
    counts += tested;
    Ok(counts)
}

fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Checks what is depended on by deny.toml. Not the advisories: they are fetched from the internet, which a machine of the lab need not have.
fn deny(cache: &Cache) -> Result<()> {
    let program = cache.tools().join("bin/cargo-deny");
    if !program.is_file() {
        let root = cache.tools();
        step("building cargo-deny", || {
            workbench::nicely(19, &cargo())
                // Not optimised: it is used for two seconds, and optimising it takes minutes.
                .args(["install", "--quiet", "--debug", "--locked", "cargo-deny"])
                .args(["--version", CARGO_DENY, "--root"])
                .arg(&root)
                .log("cargo.log")
                .run()
        })?;
    }
    Sh::new(&program)
        .dir(vagrant_dir())
        .args(["check", "bans", "licenses", "sources"])
        .log("cargo.log")
        .run()
}

/// Adds up the lines that end each test program's output.
fn cargo_counts(output: &str) -> Counts {
    let mut counts = Counts::default();
    for line in output
        .lines()
        .filter(|line| line.starts_with("test result:"))
    {
        let number_before = |word: &str| -> usize {
            let words: Vec<&str> = line.split([' ', ';']).collect();
            let at = words.iter().position(|one| *one == word);
            at.and_then(|at| at.checked_sub(1))
                .and_then(|at| words[at].parse().ok())
                .unwrap_or(0)
        };
        counts.passed += number_before("passed");
        counts.failed += number_before("failed");
    }
    counts
}

/// What failed, and what each panic said: a failure that does not come again can only be understood by that.
fn failures_in(output: &str) -> String {
    let mut said = 0;
    let told = |line: &&str| {
        if line.contains("panicked at") {
            said = PANIC_LINES;
        }
        let tells = said > 0 || line.contains("FAILED");
        said = said.saturating_sub(1);
        tells
    };
    output.lines().filter(told).collect::<Vec<_>>().join("\n")
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn test_vagrantfile() -> Counts {
    let mut counts = Counts::default();
    for provider in ["docker", "libvirt"] {
        count(
            &mut counts,
            &format!("vagrant validate with {provider}"),
            || validate(Some(provider)),
        );
    }
    // VirtualBox's own program is not in Debian; without it only the file itself can be judged.
    let virtualbox = sh::on_path("VBoxManage").then_some("virtualbox");
    count(
        &mut counts,
        "vagrant validate with virtualbox's part",
        || validate(virtualbox),
    );
    counts
}

fn test_programs(cache: &Cache, workbench: &Workbench) -> Counts {
    let mut counts = Counts::default();
    for (choice, pot) in workbench.pots() {
        let folder = cache.pots().join(format!("{choice}-programs"));
        count(
            &mut counts,
            &format!("the installer in the pot of {choice} is static and small"),
            || installer_is_static(&folder, pot),
        );
        count(
            &mut counts,
            &format!("kpot alone says which installer is in the pot of {choice}"),
            || kpot_stands_alone(&folder, workbench.kpot(), pot),
        );
        count(
            &mut counts,
            &format!("the pot of {choice} built again is the same, byte for byte"),
            || {
                let again = workbench.build_again(choice)?;
                ensure!(
                    sh::read_bytes(&pot.file)? == sh::read_bytes(&again)?,
                    "{} and {} differ",
                    pot.file.display(),
                    again.display()
                );
                sh::remove(&again)
            },
        );
    }
    counts
}

fn count(counts: &mut Counts, what: &str, test: impl FnOnce() -> Result<()>) {
    match test() {
        Ok(()) => {
            counts.passed += 1;
            sh::say(format_args!("{what}: passed"));
        }
        Err(error) => {
            counts.failed += 1;
            sh::say(format_args!("{what}: FAILED: {error:#}"));
        }
    }
}

fn validate(provider: Option<&str>) -> Result<()> {
    let vagrant = Sh::new("vagrant")
        .dir(vagrant_dir())
        .log("vagrant.log")
        .arg("validate");
    match provider {
        Some(provider) => vagrant.env("VAGRANT_DEFAULT_PROVIDER", provider).run(),
        None => vagrant.arg("--ignore-provider").run(),
    }
}

fn installer_is_static(folder: &Path, pot: &Pot) -> Result<()> {
    let installer = unpacked_installer(folder, pot)?;
    let size = sh::read_bytes(&installer)?.len();
    ensure!(
        size <= INSTALLER_LIMIT,
        "it has {size} bytes, more than {INSTALLER_LIMIT}"
    );
    let kind = Sh::new("file").arg("--brief").arg(&installer).output()?;
    ensure!(
        kind.contains("static") && kind.contains(", stripped"),
        "file(1) calls it {kind:?}"
    );
    // ldd ends with 1 for a plain static program and with 0 for a static-pie one.
    let ldd = Sh::new("ldd").arg(&installer).outcome()?;
    let said = ldd.stdout + &ldd.stderr;
    ensure!(
        said.contains("statically linked") || said.contains("not a dynamic executable"),
        "ldd(1) says {said:?}"
    );
    Ok(())
}

/// A kpot copied alone, without PATH and far from its build, knows the installer that it packs.
fn kpot_stands_alone(folder: &Path, kpot: &Kpot, pot: &Pot) -> Result<()> {
    let packed = Sha256::of(&sh::read_bytes(&unpacked_installer(folder, pot)?)?);
    let copy = folder.join("kpot");
    sh::copy(kpot.path(), &copy)?;
    let said = Sh::new(&copy)
        .args(["version", "--json"])
        .dir(folder)
        .env_remove("PATH")
        .env_remove("HOME")
        .output()?;
    let said: Value = serde_json::from_str(&said).context("reading kpot version --json")?;
    ensure!(
        said.to_string().contains(&packed.hex()),
        "it says {said}, the pot holds the installer {packed}"
    );
    sh::remove(folder)
}

fn unpacked_installer(folder: &Path, pot: &Pot) -> Result<PathBuf> {
    sh::remove(folder)?;
    sh::make_dirs(folder)?;
    Sh::new("tar")
        .arg("-xf")
        .arg(&pot.file)
        .arg("-C")
        .arg(folder)
        .arg("kpot-install")
        .run()?;
    Ok(folder.join("kpot-install"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_test_said_is_told() {
        let output = "running 2 tests\ntest one ... ok\ntest other ... FAILED\n\nfailures:\n\n---- other stdout ----\nthread 'other' panicked at \
                      tests/x.rs:1:5:\nassertion `left == right` failed\n  left: [1]\n right: [1, 1]\nstack\nbacktrace\nmore\n\nfailures:\n    other\n";
        let told = failures_in(output);
        assert!(
            told.starts_with("test other ... FAILED\nthread 'other' panicked at")
                && told.contains("right: [1, 1]"),
            "{told}"
        );
        assert!(
            !told.contains("more") && !told.contains("test one"),
            "{told}"
        );
    }

    #[test]
    fn counts_of_all_programs_are_added() {
        let output = "running 3 tests\n\
                      test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\n\
                      test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(
            cargo_counts(output),
            Counts {
                passed: 13,
                failed: 2
            }
        );
        assert_eq!(cargo_counts("error: could not compile"), Counts::default());
    }
}
