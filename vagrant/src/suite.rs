//! `cargo lab test`: the tests of the code, checks of the programs as they are shipped, and scenarios on several eras: wholly
//! on the first, less on the others.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bundle_spec::Sha256;
use serde_json::Value;

use crate::cache::Cache;
use crate::disk::DiskWatch;
use crate::eras::Choice;
use crate::image::vagrant_dir;
use crate::lab::Lab;
use crate::pot::{Kpot, Pot};
use crate::scenario::{self, Counts, Played, WhatRuns};
use crate::sh::{self, Sh, step};
use crate::upstream;
use crate::workbench::{self, Workbench};

/// What the installer may weigh, stripped, in bytes.
const INSTALLER_LIMIT: usize = 4_000_000;

/// The release of cargo-deny that checks the dependencies.
const CARGO_DENY: &str = "0.20.2";

/// No era is begun later than this after the start: a run has 90 minutes on any machine, and an era that must be built first takes half an hour where others are at work.
const LATEST_BEGIN: Duration = Duration::from_mins(55);

/// Nor a scenario later than this: some take ten minutes, and on a slow machine more.
const LATEST_SCENARIO: Duration = Duration::from_mins(65);

/// What the machines of one lab take at most, in MiB: three masters and a machine that joins, with what they cache.
const LAB_MEMORY: u64 = 5 * 1024;

/// Eras, and what is played of each, one after the other on the machines of one lab.
struct Lane<'a> {
    lab: Lab,
    eras: &'a [(Choice, Played)],
}

/// Runs everything; failures are told and counted. An error means that there was nothing to test with.
///
/// Two labs play side by side where there is memory for both, and the tests of the code take what they leave of the
/// processor: scenarios mostly wait for Kubernetes.
pub fn run(cache: &Cache, lab: &Lab, eras: &[(Choice, Played)]) -> Result<Counts> {
    let disk = DiskWatch::start(cache.root())?;
    workbench::prepare_machine(cache)?;
    // Both labs fetch from these servers, and either may be done first.
    let _servers = upstream::serve(cache.root(), &[])?;
    let lanes = lanes(lab, eras, memory_available()?)?;
    let counts = thread::scope(|scope| {
        let mut parts: Vec<_> = lanes
            .iter()
            .map(|lane| scope.spawn(|| play(cache, lane)))
            .collect();
        parts.push(scope.spawn(|| test_code(cache)));
        let mut counts = test_vagrantfile();
        // All of them end before an error does.
        let ended: Vec<_> = parts
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        for part in ended {
            counts += part.unwrap_or_else(|_| Err(anyhow!("a part of the tests panicked")))?;
        }
        anyhow::Ok(counts)
    })?;
    sh::say(format_args!(
        "all of it: {} minutes, peak disk {} MB",
        sh::clock(sh::elapsed()),
        disk.peak_megabytes()
    ));
    Ok(counts)
}

/// The first era, which is tried wholly, takes about as long as the others together.
fn lanes<'a>(lab: &Lab, eras: &'a [(Choice, Played)], memory: u64) -> Result<Vec<Lane<'a>>> {
    let lane = |lab, eras| Lane { lab, eras };
    if eras.len() < 2 || memory < 2 * LAB_MEMORY {
        return Ok(vec![lane(lab.clone(), eras)]);
    }
    let (first, others) = eras.split_at(1);
    Ok(vec![lane(lab.clone(), first), lane(lab.beside()?, others)])
}

/// MiB that can be used without swapping.
fn memory_available() -> Result<u64> {
    let table = sh::read_text(Path::new("/proc/meminfo"))?;
    let kibibytes = table.lines().find_map(|line| {
        line.strip_prefix("MemAvailable:")?
            .split_whitespace()
            .next()
    });
    let kibibytes = kibibytes.context("/proc/meminfo tells no MemAvailable")?;
    Ok(kibibytes.parse::<u64>().context("reading /proc/meminfo")? / 1024)
}

fn play(cache: &Cache, lane: &Lane<'_>) -> Result<Counts> {
    let mut counts = Counts::default();
    for (index, (choice, played)) in lane.eras.iter().enumerate() {
        sh::work_on(choice);
        if index > 0 && sh::elapsed() > LATEST_BEGIN {
            let runtime = choice.runtime.as_deref();
            let runtime = runtime.map_or_else(String::new, |name| format!(" --runtime {name}"));
            sh::say(format_args!(
                "NOT PLAYED: {} minutes are over, and it might not end in time; `cargo lab test --k8s {}{runtime}` plays it",
                sh::clock(sh::elapsed()),
                choice.version
            ));
            continue;
        }
        let workbench = Workbench::prepare(cache, std::slice::from_ref(choice))?;
        counts += test_programs(cache, &workbench);
        let mut bench = workbench.bench(&lane.lab, 0, WhatRuns::Stranger)?;
        // The next era's Kubernetes is built from what this one's scenarios leave of the processor.
        counts += thread::scope(|scope| {
            let next = lane.eras.get(index + 1);
            let next = next.map(|(choice, _)| scope.spawn(move || build_ahead(choice)));
            let scenarios = scenario::of(played);
            let counts = scenario::play(&mut bench, scenarios, Some(LATEST_SCENARIO));
            // A cluster that nobody needs any more takes from a build that is waited for.
            lane.lab.raze()?;
            match next.map(thread::ScopedJoinHandle::join) {
                None | Some(Ok(Ok(()))) => Ok(counts),
                Some(Ok(Err(failed))) => Err(failed),
                Some(Err(_)) => Err(anyhow!("the build of the next era panicked")),
            }
        })?;
    }
    Ok(counts)
}

/// Builds what is missing of upstream in a process of its own that yields to the scenarios as the tests of the code do: a lane may come to wait for it.
fn build_ahead(choice: &Choice) -> Result<()> {
    let own = env::current_exe().context("cannot find this program's own path")?;
    step(
        &format!("upstream of {choice}, beside the scenarios"),
        || {
            nicely("5", own.as_os_str())
                .args(["upstream", "build", "--k8s", &choice.version.to_string()])
                .args(choice.runtime.iter().flat_map(|name| ["--runtime", name]))
                .log("upstream.log")
                .run()
        },
    )
}

fn test_code(cache: &Cache) -> Result<Counts> {
    let cargo = || nicely("5", &cargo()).dir(vagrant_dir()).log("cargo.log");
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

/// A program that yields to the scenarios, by this much. The tests of the code have time limits of their own, and must not starve.
fn nicely(by: &str, program: &OsStr) -> Sh {
    Sh::new("nice").args(["-n", by]).arg(program)
}

/// Checks what is depended on by deny.toml. Not the advisories: they are fetched from the internet, which a machine of the lab need not have.
fn deny(cache: &Cache) -> Result<()> {
    let program = cache.tools().join("bin/cargo-deny");
    if !program.is_file() {
        let root = cache.tools();
        step("building cargo-deny", || {
            nicely("19", &cargo())
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

fn failures_in(output: &str) -> String {
    output
        .lines()
        .filter(|line| line.contains("FAILED") || line.contains("panicked at"))
        .collect::<Vec<_>>()
        .join("\n")
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
    fn the_first_era_has_machines_of_its_own_where_memory_allows() {
        let lab = Lab::from_env().expect("a lab");
        let eras = ["v1.14.0", "v1.20.2", "v1.34.4"].map(|version| {
            let version = version.parse().expect("a version");
            let choice = Choice {
                version,
                runtime: None,
            };
            (choice, Played::MainPaths)
        });
        let sizes = |eras, memory| -> Vec<usize> {
            let lanes = lanes(&lab, eras, memory).expect("there is a network beside");
            lanes.iter().map(|lane| lane.eras.len()).collect()
        };
        assert_eq!(sizes(&eras, 2 * LAB_MEMORY), [1, 2]);
        assert_eq!(sizes(&eras, 2 * LAB_MEMORY - 1), [3]);
        assert_eq!(sizes(&eras[..1], 10 * LAB_MEMORY), [1]);
        let beside = lab.beside().expect("there is a network beside");
        assert_ne!(lab.m1().address(), beside.m1().address());
        assert_ne!(lab.m1().container(), beside.m1().container());
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
