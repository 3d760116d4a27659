//! One module per command: it wires, and decides nothing.

mod build;
mod cache;
mod completions;
mod diff;
mod extract;
mod follow;
mod init;
mod inspect;
mod keygen;
mod lock;
mod man;
mod plan;
mod prepare;
mod schema;
mod sign;
mod summary;
mod verify;
mod version;
mod versions;

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Serialize, Serializer};

use crate::cli::{Cli, Command};

/// Runs the command.
///
/// # Errors
/// Whatever it failed at; see [`crate::exit::Status::of`].
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Build(build) => build::run(*build),
        Command::Init(init) => init::run(&init),
        Command::Schema => schema::run(),
        Command::Lock(lock) => lock::run(*lock),
        Command::Keygen(keygen) => keygen::run(&keygen),
        Command::Verify(verify) => verify::run(&verify),
        Command::Inspect(inspect) => inspect::run(&inspect),
        Command::Diff(diff) => diff::run(&diff),
        Command::Extract(extract) => extract::run(&extract),
        Command::Sign(sign) => sign::run(&sign),
        Command::Version(version) => version::run(&version),
        Command::Versions(versions) => versions::run(&versions),
        Command::Completions(completions) => completions::run(&completions),
        Command::Man(man) => man::run(&man),
        Command::Cache(cache) => cache::run(&cache),
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

/// A path in a JSON document, as it is shown to people: a report on work that is done does not fail for a path that is no text.
fn lossy<P: AsRef<Path>, S: Serializer>(path: &P, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.as_ref().display())
}

/// What the signature of a pot says that nobody has checked; `signer` is the fingerprint that it names.
fn signed(signer: Option<&str>) -> String {
    match signer {
        Some(fingerprint) => {
            format!("signed by {fingerprint}, not verified (kpot verify does that)")
        }
        None => "NOT SIGNED: it cannot be installed".to_owned(),
    }
}
