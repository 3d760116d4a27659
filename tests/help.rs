//! The help texts, as users see them: a change of the command line shows here.

mod support;

use support::{Desk, stdout};

#[test]
fn help_is_as_agreed() {
    let desk = Desk::without_key();
    let help = |arguments: &[&str]| stdout(&desk.kpot(arguments));
    insta::assert_snapshot!("kpot", help(&["--help"]));
    for command in [
        "build", "keygen", "verify", "inspect", "diff", "extract", "sign", "version", "versions",
    ] {
        insta::assert_snapshot!(command, help(&[command, "--help"]));
    }
}
