//! Builds the static installers that `kpot` carries inside itself, and tells `src/installers.rs` where they lie.
//!
//! They are built by a cargo of their own, in a target directory of its own (the outer one is locked while this runs), with none of the outer build's flags: the same
//! sources give the same installer whether `kpot` itself is built for debugging, for release or by clippy, so all of these share that directory. `KPOT_INSTALLER_AMD64=FILE` and `KPOT_INSTALLER_ARM64=FILE`
//! embed installers that are already there, for packagers who build them elsewhere.
//!
//! The one for amd64 is always there. The one for arm64 is left out, with a warning, where this machine has no compiler for it; `kpot version` tells.
#![allow(
    clippy::disallowed_methods,
    reason = "a build script runs cargo and reads what it built"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A machine that an installer runs on, and what it takes to build one.
struct Machine {
    /// The name of the embedded file.
    arch: &'static str,
    /// The variable that names an installer which is already there.
    given: &'static str,
    /// Rust's target.
    target: &'static str,
    /// The target in the names of variables.
    variable: &'static str,
    /// The compiler for zstd's C code.
    compiler: &'static str,
    /// Where Debian has it.
    packages: &'static str,
}

const AMD64: Machine = Machine {
    arch: "amd64",
    given: "KPOT_INSTALLER_AMD64",
    target: "x86_64-unknown-linux-musl",
    variable: "x86_64_unknown_linux_musl",
    compiler: "musl-gcc",
    packages: "musl-tools",
};

const ARM64: Machine = Machine {
    arch: "arm64",
    given: "KPOT_INSTALLER_ARM64",
    target: "aarch64-unknown-linux-musl",
    variable: "aarch64_unknown_linux_musl",
    compiler: "aarch64-linux-gnu-gcc",
    packages: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
};

/// Rust's own linker: a compiler would link with the C library of its system, and does not fold functions.
const LINKER: &str = "rust-lld";

/// Rust's own musl; functions of the same code once; relocations packed, which its musl unpacks; and no tables for unwinding. Together 15 in 100 of the size.
///
/// The path is one from the root of the workspace, where cargo runs the compiler of its members, so that the flags are the same in every checkout.
const LINKING: &str = "-Clink-self-contained=yes -Clink-arg=--icf=all -Clink-arg=--pack-dyn-relocs=relr -Clink-arg=-Tinstaller/no-unwinding.ld";

/// Variables of the outer build that would change the installers, or where they land.
const OUTER: [&str; 9] = [
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_INCREMENTAL",
];

fn main() {
    for path in [
        "build.rs",
        "installer",
        "bundle-spec",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["PATH", AMD64.given, ARM64.given] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(message) = embed(&[(&AMD64, Lacking::Refused), (&ARM64, Lacking::LeftOut)]) {
        println!("cargo::error={message}");
    }
}

/// What becomes of an installer that this machine has no tools for.
#[derive(Clone, Copy)]
enum Lacking {
    Refused,
    LeftOut,
}

/// Puts the installers where `src/installers.rs` looks for them: by name below `OUT_DIR`, so that a target directory may be moved or copied. An empty file is none.
fn embed(machines: &[(&Machine, Lacking)]) -> Result<(), String> {
    let mut embedded = Vec::new();
    let mut wanted = Vec::new();
    for (machine, lacking) in machines {
        match (given(machine)?, tools(machine), lacking) {
            (Some(installer), ..) => embedded.push((*machine, installer)),
            (None, Ok(compiler), _) => wanted.push((*machine, compiler)),
            (None, Err(missing), Lacking::Refused) => {
                return Err(format!(
                    "{missing}, and the static installer needs it. {}",
                    advice(machine)
                ));
            }
            (None, Err(missing), Lacking::LeftOut) => {
                println!(
                    "cargo::warning=this kpot will carry no installer for {}, and build no pots for it: {missing}. {}",
                    machine.arch,
                    advice(machine)
                );
                let place = place(machine)?;
                fs::write(&place, b"")
                    .map_err(|cause| format!("cannot write {}: {cause}", place.display()))?;
            }
        }
    }
    if !wanted.is_empty() {
        embedded.extend(build(&wanted)?);
    }
    embedded.into_iter().try_for_each(|(machine, installer)| {
        let place = place(machine)?;
        fs::copy(&installer, &place).map(drop).map_err(|cause| {
            format!(
                "cannot copy {} to {}: {cause}",
                installer.display(),
                place.display()
            )
        })
    })
}

/// Where the installer for a machine is embedded from.
fn place(machine: &Machine) -> Result<PathBuf, String> {
    Ok(Path::new(&variable("OUT_DIR")?).join(format!("installer-{}", machine.arch)))
}

/// The installer that somebody else has built, where one is named.
fn given(machine: &Machine) -> Result<Option<PathBuf>, String> {
    let Some(given) = env::var_os(machine.given).map(PathBuf::from) else {
        return Ok(None);
    };
    println!("cargo::rerun-if-changed={}", given.display());
    let found = given.canonicalize().map_err(|cause| {
        format!(
            "{} names {}, which cannot be read: {cause}",
            machine.given,
            given.display()
        )
    })?;
    Ok(Some(found))
}

fn advice(machine: &Machine) -> String {
    format!(
        "On Debian type: apt-get install {}; with rustup: rustup target add {}",
        machine.packages, machine.target
    )
}

/// The C compiler, if that and Rust's library for the target are here; otherwise what is missing.
fn tools(machine: &Machine) -> Result<String, String> {
    let compiler = match env::var(format!("CC_{}", machine.variable)) {
        Ok(compiler) => compiler,
        Err(_) if on_path(machine.compiler) => machine.compiler.to_owned(),
        Err(_) => return Err(format!("{} is not on PATH", machine.compiler)),
    };
    let output = Command::new(variable("RUSTC")?)
        .args(["--print", "target-libdir", "--target", machine.target])
        .output()
        .map_err(|cause| format!("cannot run rustc: {cause}"))?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Path::new(&folder).is_dir() {
        Ok(compiler)
    } else {
        Err(format!("Rust's library for {} is not here", machine.target))
    }
}

fn on_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Builds the installers for these machines with these compilers, side by side: each ends with a minute on one core.
fn build<'a>(wanted: &[(&'a Machine, String)]) -> Result<Vec<(&'a Machine, PathBuf)>, String> {
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    // TARGET/PROFILE/build/PACKAGE/out: whoever else builds below TARGET finds what is built here, and waits for it.
    let target_dir = out_dir.ancestors().nth(4).unwrap_or(&out_dir);
    let target_dir = target_dir.join("installers");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args([
            "build",
            "--locked",
            "--profile",
            "installer",
            "--package",
            "installer",
            "--target-dir",
        ])
        .arg(&target_dir)
        .current_dir(variable("CARGO_MANIFEST_DIR")?);
    for name in OUTER {
        cargo.env_remove(name);
    }
    let profile_overrides = env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("CARGO_PROFILE_"));
    for name in profile_overrides {
        cargo.env_remove(name);
    }
    for (machine, compiler) in wanted {
        cargo.args(["--target", machine.target]);
        cargo.env(format!("CC_{}", machine.variable), compiler);
        let name = machine.variable.to_ascii_uppercase();
        cargo.env(format!("CARGO_TARGET_{name}_LINKER"), LINKER);
        cargo.env(format!("CARGO_TARGET_{name}_RUSTFLAGS"), LINKING);
    }
    let output = cargo
        .output()
        .map_err(|cause| format!("cannot run cargo for the installers: {cause}"))?;
    if !output.status.success() {
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo::warning={line}");
        }
        let targets: Vec<&str> = wanted.iter().map(|(machine, _)| machine.target).collect();
        return Err(format!(
            "the installer does not build for {} (its own messages stand above)",
            targets.join(" and ")
        ));
    }
    let built = |machine: &'a Machine| {
        let folder = target_dir.join(machine.target).join("installer");
        (machine, folder.join("kpot-install"))
    };
    Ok(wanted.iter().map(|(machine, _)| built(machine)).collect())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|cause| format!("cargo did not set {name}: {cause}"))
}
