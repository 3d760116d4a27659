//! The lab: a real cluster on one machine, and what kpot must do on it.

mod bench;
mod cache;
mod checks;
mod clean;
mod cli;
mod cluster;
mod demo;
mod disk;
mod eras;
mod evidence;
mod forge;
mod image;
mod lab;
mod machine;
mod materials;
mod node;
mod pool;
mod pot;
mod scenario;
mod secrets;
mod sh;
mod snapshot;
mod soak;
mod ssh_trust;
mod suite;
mod tracer;
mod upstream;
mod wait;
mod workbench;
mod writer;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(cli::Ended::Well) => ExitCode::SUCCESS,
        Ok(cli::Ended::WithFailures) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
