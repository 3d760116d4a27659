//! The `kpot` binary: parses the command line, runs one command, prints one error.

use std::process::ExitCode;

use clap::Parser as _;
use kpot::cli::Cli;
use kpot::{commands, exit};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match commands::run(cli) {
        Ok(()) => exit::Status::Done.into(),
        Err(error) => {
            eprintln!("kpot: {}", exit::message(&error));
            exit::Status::of(&error).into()
        }
    }
}
