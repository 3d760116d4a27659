//! `kpot-install`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    installer::exit::code(installer::cli::main())
}
