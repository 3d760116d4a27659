//! `kpot completions`

use clap::CommandFactory as _;

use super::print;
use crate::cli::{Cli, Completions};

pub(super) fn run(command: &Completions) -> anyhow::Result<()> {
    // Into memory first: the generator panics where its output cannot be written, a closed pipe for example.
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut Cli::command(), "kpot", &mut script);
    print(&String::from_utf8(script)?)
}
