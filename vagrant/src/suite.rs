//! `cargo lab test`: the tests of the code, checks of the programs as they are shipped, and scenarios on several eras: wholly
//! on the first, less on the others.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use bundle_spec::Sha256;
use serde_json::Value;

use crate::cache::Cache;
use crate::eras::Choice;
use crate::image::vagrant_dir;
use crate::lab::Lab;
use crate::pot::{Kpot, Pot};
use crate::scenario::{self, Counts, Played, WhatRuns};
use crate::sh::{self, Sh, step};
use crate::workbench::Workbench;

/// What the installer may weigh, stripped, in bytes.
const INSTALLER_LIMIT: usize = 4_000_000;

/// The release of cargo-deny that checks the dependencies.
const CARGO_DENY: &str = "0.20.2";

/// Runs everything; failures are told and counted. An error means that there was nothing to test with.
///
/// The tests of the code take what the scenarios leave of the processor: those mostly wait for Kubernetes.
pub fn run(cache: &Cache, lab: &Lab, eras: &[(Choice, Played)]) -> Result<Counts> {
    thread::scope(|scope| {
        let code = scope.spawn(|| test_code(cache));
        let played = play(cache, lab, eras);
        let code = code
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the tests of the code panicked")));
        let (mut counts, code) = (played?, code?);
        counts += code;
        Ok(counts)
    })
}

fn play(cache: &Cache, lab: &Lab, eras: &[(Choice, Played)]) -> Result<Counts> {
    let mut counts = Counts::default();
    for (index, (choice, played)) in eras.iter().enumerate() {
        let workbench = Workbench::prepare(cache, std::slice::from_ref(choice))?;
        if index == 0 {
            counts += test_vagrantfile();
        }
        counts += test_programs(cache, &workbench);
        let mut bench = workbench.bench(lab, 0, WhatRuns::Stranger)?;
        // The next era's Kubernetes is built from what this one's scenarios leave of the processor.
        counts += thread::scope(|scope| {
            let next = eras.get(index + 1);
            let next = next.map(|(choice, _)| scope.spawn(move || build_ahead(choice)));
            let counts = scenario::play(&mut bench, scenario::of(played));
            match next.map(thread::ScopedJoinHandle::join) {
                None | Some(Ok(Ok(()))) => Ok(counts),
                Some(Ok(Err(failed))) => Err(failed),
                Some(Err(_)) => Err(anyhow!("the build of the next era panicked")),
            }
        })?;
    }
    lab.raze()?;
    Ok(counts)
}

/// Builds what is missing of upstream in a process of its own that yields to everything else.
fn build_ahead(choice: &Choice) -> Result<()> {
    let own = env::current_exe().context("cannot find this program's own path")?;
    step(
        &format!("upstream of {choice}, beside the scenarios"),
        || {
            nicely("19", own.as_os_str())
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
    for (version, pot) in workbench.pots() {
        count(
            &mut counts,
            &format!("the installer in the pot of {version} is static and small"),
            || installer_is_static(cache, pot),
        );
        count(
            &mut counts,
            &format!("kpot alone says which installer is in the pot of {version}"),
            || kpot_stands_alone(cache, workbench.kpot(), pot),
        );
        count(
            &mut counts,
            &format!("the pot of {version} built again is the same, byte for byte"),
            || {
                let again = workbench.build_again(*version)?;
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

fn installer_is_static(cache: &Cache, pot: &Pot) -> Result<()> {
    let installer = unpacked_installer(cache, pot)?;
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
fn kpot_stands_alone(cache: &Cache, kpot: &Kpot, pot: &Pot) -> Result<()> {
    let folder = cache.pots().join("alone");
    let copy = folder.join("kpot");
    sh::copy(kpot.path(), &copy)?;
    let said = Sh::new(&copy)
        .args(["version", "--json"])
        .dir(&folder)
        .env_remove("PATH")
        .env_remove("HOME")
        .output()?;
    let said: Value = serde_json::from_str(&said).context("reading kpot version --json")?;
    let packed = Sha256::of(&sh::read_bytes(&unpacked_installer(cache, pot)?)?);
    ensure!(
        said.to_string().contains(&packed.hex()),
        "it says {said}, the pot holds the installer {packed}"
    );
    sh::remove(&folder)
}

fn unpacked_installer(cache: &Cache, pot: &Pot) -> Result<std::path::PathBuf> {
    let folder = cache.pots().join("unpacked");
    sh::remove(&folder)?;
    sh::make_dirs(&folder)?;
    Sh::new("tar")
        .arg("-xf")
        .arg(&pot.file)
        .arg("-C")
        .arg(&folder)
        .arg("kpot-install")
        .run()?;
    Ok(folder.join(Path::new("kpot-install")))
}

#[cfg(test)]
mod tests {
    use super::*;

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
