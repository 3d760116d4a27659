//! `kpot man`: a page for kpot and one for each of its commands, from the same definitions as `--help`.

use clap::CommandFactory as _;
use clap_mangen::Man as Page;

use super::print;
use crate::cli::{Cli, Man};
use crate::pack::output::{self, Existing};

pub(super) fn run(command: &Man) -> anyhow::Result<()> {
    output::make_folder(&command.folder)?;
    let mut kpot = Cli::command();
    // Gives each command its full name, kpot-build.
    kpot.build();
    let mut told = Vec::new();
    let commands = kpot.get_subcommands();
    let pages =
        commands.flat_map(|command| std::iter::once(command).chain(command.get_subcommands()));
    for described in std::iter::once(&kpot).chain(pages) {
        // The day of a build would make two builds differ. An empty date would be left out, and what follows be read as one.
        let page = Page::new(described.clone())
            .date(" ")
            .source(concat!("kpot ", env!("CARGO_PKG_VERSION")))
            .manual("kpot");
        let file = command.folder.join(page.get_filename());
        let write = |out: &mut dyn std::io::Write| Ok(page.render(&mut &mut *out)?);
        output::put(&file, 0o644, Existing::Replaced, 0, write)?;
        told.push(format!("{}\n", file.display()));
    }
    print(&told.concat())
}
