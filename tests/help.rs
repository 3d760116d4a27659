//! The help texts, as users see them: a change of the command line shows here. And what else is made from its definition.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made"
)]

mod support;

use support::pots::files;
use support::{Desk, code, stderr, stdout};

#[test]
fn help_is_as_agreed() {
    let desk = Desk::without_key();
    let help = |arguments: &[&str]| stdout(&desk.kpot(arguments));
    insta::assert_snapshot!("kpot", help(&["--help"]));
    for command in [
        "build",
        "init",
        "schema",
        "lock",
        "keygen",
        "verify",
        "inspect",
        "diff",
        "extract",
        "sign",
        "version",
        "versions",
        "completions",
        "man",
        "cache",
    ] {
        insta::assert_snapshot!(command, help(&[command, "--help"]));
    }
    for command in ["list", "prune", "verify"] {
        let help = help(&["cache", command, "--help"]);
        insta::assert_snapshot!(format!("cache-{command}"), help);
    }
}

#[test]
fn completions_know_every_command() {
    let desk = Desk::without_key();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let made = desk.kpot(&["completions", shell]);
        assert_eq!(code(&made), 0, "{shell}: {}", stderr(&made));
        for known in ["build", "extract", "signers"] {
            assert!(stdout(&made).contains(known), "{shell}: {known}");
        }
    }
    let script = desk.path("kpot.bash");
    std::fs::write(&script, stdout(&desk.kpot(&["completions", "bash"]))).unwrap();
    // Bash itself completes with it.
    let asked = format!(
        "source {}; COMP_WORDS=(kpot ext); COMP_CWORD=1; _kpot kpot ext kpot; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let told = assert_cmd::Command::new("bash")
        .args(["-c", &asked])
        .output()
        .unwrap();
    assert_eq!(stdout(&told), "extract\n", "{}", stderr(&told));
    assert_eq!(code(&desk.kpot(&["completions", "tcl"])), 2);
}

#[test]
fn there_is_a_page_for_every_command() {
    let desk = Desk::without_key();
    for _ in 0..2 {
        let made = desk.kpot(&["man", "man1"]);
        assert_eq!(code(&made), 0, "{}", stderr(&made));
    }
    let pages = files(&desk.out().join("man1"));
    let help = stdout(&desk.kpot(&["--help"]));
    let commands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().next().unwrap());
    let mut expected: Vec<String> = commands.map(|name| format!("kpot-{name}.1")).collect();
    expected.extend(["list", "prune", "verify"].map(|name| format!("kpot-cache-{name}.1")));
    expected.push("kpot.1".to_owned());
    expected.sort();
    assert_eq!(pages.keys().cloned().collect::<Vec<_>>(), expected);
    let page = std::fs::read_to_string(&pages["kpot-extract.1"]).unwrap();
    for told in [
        concat!(
            r#".TH kpot-extract 1 " " "kpot "#,
            env!("CARGO_PKG_VERSION"),
            "\" kpot\n"
        ),
        r"\-\-signers",
        "docker load",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(
        std::fs::read_to_string(&pages["kpot.1"])
            .unwrap()
            .contains(r"kpot\-extract(1)")
    );
}
