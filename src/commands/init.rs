//! `kpot init`

use super::print;
use crate::cli::Init;
use crate::exit::usage;
use crate::pack::output::{self, Existing};
use crate::recipe::TEMPLATE;

pub(super) fn run(command: &Init) -> anyhow::Result<()> {
    let Init { file, force } = command;
    let existing = if *force {
        Existing::Replaced
    } else {
        Existing::Kept
    };
    if existing == Existing::Kept && file.symlink_metadata().is_ok() {
        return Err(usage(format!(
            "{} is there already and not overwritten; replace it with --force",
            file.display()
        )));
    }
    output::put(file, 0o644, existing, 0, |out| {
        Ok(out.write_all(TEMPLATE.as_bytes())?)
    })?;
    print(&format!(
        "wrote {}: look at it, then make a pot of it with kpot build -f {}\n",
        file.display(),
        file.display()
    ))
}
