//! The `kpot` binary: parses the command line, runs one command, prints one error. Or becomes a program in a sandbox.

use std::process::ExitCode;

use clap::Parser as _;
use kpot::cli::Cli;
use kpot::{commands, descriptors, exit, sandbox};

fn main() -> ExitCode {
    if let Some(arguments) = sandbox::inside(std::env::args_os()) {
        return sandbox::enter(&arguments).into();
    }
    let cli = Cli::parse();
    descriptors::raise();
    match commands::run(cli) {
        Ok(()) => exit::Status::Done.into(),
        Err(error) => {
            eprintln!("kpot: {}", exit::message(&error));
            exit::Status::of(&error).into()
        }
    }
}
