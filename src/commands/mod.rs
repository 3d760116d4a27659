//! One module per command: it wires, and decides nothing.

mod build;
mod inspect;
mod keygen;
mod plan;
mod verify;
mod version;
mod versions;

use std::io::Write as _;

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::{Cli, Command};

/// Runs the command.
///
/// # Errors
/// Whatever it failed at; see [`crate::exit::Status::of`].
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Build(build) => build::run(*build),
        Command::Keygen(keygen) => keygen::run(&keygen),
        Command::Verify(verify) => verify::run(&verify),
        Command::Inspect(inspect) => inspect::run(&inspect),
        Command::Version(version) => version::run(&version),
        Command::Versions(versions) => versions::run(&versions),
    }
}

/// Writes a result to stdout.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
}

/// Writes a result to stdout as JSON.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    print(&format!("{text}\n"))
}
