//! The journal's format is what other versions of this program wrote and will read: its lines are frozen here.

#![allow(
    clippy::disallowed_methods,
    reason = "tests write the state folder that they read"
)]

use std::fs;

use installer::journal::Journal;
use installer::rollback::owed::Owed;

/// What the first programs wrote.
const FIRST: &str = include_str!("fixtures/journal-1.jsonl");

/// What came with the rollback.
const SECOND: &str = include_str!("fixtures/journal-2.jsonl");

/// What came with the bridge to a healthy master.
const THIRD: &str = include_str!("fixtures/journal-3.jsonl");

fn read(text: &str) -> anyhow::Result<Vec<installer::journal::Entry>> {
    let state = tempfile::tempdir().unwrap();
    fs::write(state.path().join("journal.jsonl"), text).unwrap();
    Journal::read(state.path())
}

#[test]
fn every_line_is_read_and_written_again_as_it_was() {
    for text in [FIRST, SECOND, THIRD] {
        let again: String = read(text)
            .unwrap()
            .iter()
            .map(|entry| serde_json::to_string(entry).unwrap() + "\n")
            .collect();
        assert_eq!(again, text);
    }
}

#[test]
fn a_torn_line_is_left_out_and_one_of_a_newer_program_is_an_error() {
    let whole = FIRST.lines().count();
    let torn = format!("{FIRST}{{\"run\":\"1\",\"ti\n{SECOND}");
    assert_eq!(read(&torn).unwrap().len(), whole + SECOND.lines().count());
    let newer = format!("{FIRST}{{\"run\":\"1\",\"time\":1,\"event\":\"teleported\"}}\n");
    let error = format!("{:#}", read(&newer).unwrap_err());
    assert!(error.contains("newer"), "{error}");
}

#[test]
fn the_first_programs_journal_says_what_is_owed() {
    let owed = Owed::of(&read(FIRST).unwrap());
    assert!(owed.joined && owed.docker_is_ours());
    assert_eq!(owed.member.unwrap().address, "10.0.0.21");
    assert!(Owed::of(&read(&format!("{FIRST}{SECOND}")).unwrap()).is_empty());
}

#[test]
fn a_bridge_is_owed_until_a_rollback() {
    let owed = Owed::of(&read(THIRD).unwrap());
    assert_eq!(owed.changes.len(), 1, "{:?}", owed.changes);
    assert!(Owed::of(&read(&format!("{THIRD}{SECOND}")).unwrap()).is_empty());
}
