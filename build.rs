//! Builds the static installer that `kpot` carries inside itself, and tells `src/installers.rs` where it lies.
//!
//! The installer is built by a cargo of its own, in a target directory of its own (the outer one is locked while this runs), with none of the outer build's
//! flags: the same sources give the same installer whether `kpot` itself is built for debugging, for release or by clippy. `KPOT_INSTALLER_AMD64=FILE` embeds an
//! installer that is already there, for packagers who build it elsewhere.
#![allow(
    clippy::disallowed_methods,
    reason = "a build script runs cargo and reads what it built"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-musl";
const GIVEN: &str = "KPOT_INSTALLER_AMD64";

/// Variables of the outer build that would change the installer, or where it lands.
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
    println!("cargo::rerun-if-env-changed={GIVEN}");
    for path in [
        "build.rs",
        "installer",
        "bundle-spec",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let installer = match env::var_os(GIVEN) {
        Some(given) => {
            let given = PathBuf::from(given);
            println!("cargo::rerun-if-changed={}", given.display());
            given.canonicalize().map_err(|cause| {
                format!(
                    "{GIVEN} names {}, which cannot be read: {cause}",
                    given.display()
                )
            })
        }
        None => build(),
    };
    if let Err(message) = installer.and_then(|path| embed(&path)) {
        println!("cargo::error={message}");
    }
}

/// Puts the installer where `src/installers.rs` looks for it: by name below `OUT_DIR`, so that a target directory may be moved or copied.
fn embed(installer: &Path) -> Result<(), String> {
    let place = Path::new(&variable("OUT_DIR")?).join("installer-amd64");
    fs::copy(installer, &place).map(drop).map_err(|cause| {
        format!(
            "cannot copy {} to {}: {cause}",
            installer.display(),
            place.display()
        )
    })
}

fn build() -> Result<PathBuf, String> {
    let target_dir = Path::new(&variable("OUT_DIR")?).join("installer");
    let compiler = match env::var("CC_x86_64_unknown_linux_musl") {
        Ok(compiler) => compiler,
        Err(_) => find_musl_gcc()?,
    };
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args([
            "build",
            "--locked",
            "--profile",
            "installer",
            "--package",
            "installer",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .current_dir(variable("CARGO_MANIFEST_DIR")?)
        .env("CC_x86_64_unknown_linux_musl", compiler);
    for name in OUTER {
        cargo.env_remove(name);
    }
    let profile_overrides = env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("CARGO_PROFILE_"));
    for name in profile_overrides {
        cargo.env_remove(name);
    }
    let output = cargo
        .output()
        .map_err(|cause| format!("cannot run cargo for the installer: {cause}"))?;
    if !output.status.success() {
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo::warning={line}");
        }
        return Err(format!(
            "the installer does not build for {TARGET} (its own messages stand above). If the target is missing, type: rustup target add {TARGET}"
        ));
    }
    Ok(target_dir
        .join(TARGET)
        .join("installer")
        .join("kpot-install"))
}

/// zstd's C code needs a compiler that knows musl's headers.
fn find_musl_gcc() -> Result<String, String> {
    let name = "musl-gcc";
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "{name} is not on PATH, and the static installer needs it. On Debian type: apt-get install musl-tools"
        ))
    }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|cause| format!("cargo did not set {name}: {cause}"))
}
