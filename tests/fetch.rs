//! How downloads survive bad servers, with limits short enough for a test.

mod support;

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::time::{Duration, Instant};

use bundle_spec::Sha256;
use kpot::fetch::http::{Ask, Saved, Size};
use kpot::fetch::{Client, FetchError, Policy, Stop};
use kpot::mirrors::Mirrors;
use kpot::progress::Progress;
use kpot::releases::Algorithm;
use reqwest::Url;
use support::server::{Answer, Server};
use support::upstream::content;

/// Quick retries; a server that answers is waited for as long as outside of tests, because a busy machine may be slow itself.
const POLICY: Policy = Policy {
    retries: 3,
    pause: Duration::from_millis(10),
    ..Policy::DEFAULT
};

/// For servers that stall.
const HASTY: Policy = Policy {
    stall: Duration::from_secs(2),
    ..POLICY
};

fn save(server: &Server, size: Size) -> Result<Saved, FetchError> {
    save_by(POLICY, server, size)
}

fn save_by(policy: Policy, server: &Server, size: Size) -> Result<Saved, FetchError> {
    let client = Client::new(Mirrors::default(), policy, Stop::default()).unwrap();
    let url = Url::parse(&server.url()).unwrap().join("file").unwrap();
    let task = Progress::new().task("file", None);
    let file: File = tempfile::tempfile().unwrap();
    client.save(Ask::plain(&url), file, size, Algorithm::Sha256, &task)
}

fn saved(server: &Server, body: &[u8]) {
    saved_by(POLICY, server, body);
}

fn saved_by(policy: Policy, server: &Server, body: &[u8]) {
    let mut saved = save_by(policy, server, Size::Exactly(body.len() as u64)).unwrap();
    let mut bytes = Vec::new();
    saved.file.rewind().unwrap();
    saved.file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == body, "the bytes differ");
    assert_eq!(
        (saved.size, saved.sha256),
        (body.len() as u64, Sha256::of(body))
    );
}

fn server(answers: Vec<Answer>) -> Server {
    let server = Server::start();
    server.set("/file", answers);
    server
}

#[test]
fn a_cut_download_goes_on_where_it_was() {
    let body = content("file", 3_000_000);
    let server = server(vec![
        Answer::Cut(1_000_000, body.clone()),
        Answer::Body(body.clone()),
    ]);
    saved(&server, &body);
    let asked = server.seen("/file");
    assert_eq!(asked.len(), 2);
    assert!(asked[1].headers.contains_key("range") && asked[1].headers.contains_key("if-range"));
}

#[test]
fn a_stalled_download_is_taken_up_again() {
    let body = content("file", 3_000_000);
    let server = server(vec![
        Answer::Stall(1_000_000, body.clone()),
        Answer::Body(body.clone()),
    ]);
    let started = Instant::now();
    saved_by(HASTY, &server, &body);
    // The server would have gone on after 20 s.
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "it waited for the server"
    );
    assert!(server.seen("/file")[1].headers.contains_key("range"));
}

#[test]
fn a_server_that_stalls_for_ever_is_given_up_and_named() {
    let body = content("file", 100_000);
    let server = server(vec![Answer::Stall(0, body)]);
    let refused = save_by(HASTY, &server, Size::AtMost(1 << 20))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(&server.url()) && refused.contains("nothing came for"),
        "{refused}"
    );
    assert_eq!(server.seen("/file").len(), 4, "three retries");
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_from_its_start() {
    let (old, new) = (content("old", 1_000_000), content("new", 1_000_000));
    let server = server(vec![Answer::Cut(500_000, old), Answer::Body(new.clone())]);
    saved(&server, &new);
}

#[test]
fn a_server_without_ranges_is_asked_for_the_whole_again() {
    let body = content("file", 1_000_000);
    let server = server(vec![
        Answer::Cut(500_000, body.clone()),
        Answer::Plain(body.clone()),
    ]);
    saved(&server, &body);
}

#[test]
fn trouble_of_the_server_is_retried_and_refusals_are_final() {
    for (status, times) in [
        (500, 4),
        (503, 4),
        (429, 4),
        (404, 1),
        (403, 1),
        (401, 1),
        (410, 1),
        (400, 1),
    ] {
        let server = server(vec![Answer::Status(status)]);
        let refused = save(&server, Size::AtMost(100)).unwrap_err().to_string();
        assert!(refused.contains(&status.to_string()), "{refused}");
        assert!(
            refused.contains(&format!("{}/file", server.url())),
            "{refused}"
        );
        assert_eq!(server.seen("/file").len(), times, "{status}");
    }
}

#[test]
fn a_body_beyond_its_limit_is_not_read() {
    let body = content("file", 100_000);
    let server = server(vec![Answer::Body(body)]);
    let refused = save(&server, Size::AtMost(99_999)).unwrap_err().to_string();
    assert!(
        refused.contains("more than the limit of 99999"),
        "{refused}"
    );
    let refused = save(&server, Size::Exactly(99_999))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("100000 bytes instead of 99999"),
        "{refused}"
    );
    assert_eq!(server.seen("/file").len(), 2, "trying again gives the same");
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let body = content("file", 1000);
    let server = server(vec![Answer::Redirect("/elsewhere".to_owned())]);
    server.set("/elsewhere", vec![Answer::Body(body.clone())]);
    saved(&server, &body);
    server.set("/elsewhere", vec![Answer::Redirect("/file".to_owned())]);
    let refused = save(&server, Size::AtMost(1000)).unwrap_err().to_string();
    assert!(refused.contains("redirects more than"), "{refused}");
}

#[test]
fn a_stop_ends_the_retries() {
    let server = server(vec![Answer::Status(500)]);
    let stop = Stop::default();
    let policy = Policy {
        pause: Duration::from_mins(1),
        ..POLICY
    };
    let client = Client::new(Mirrors::default(), policy, stop.clone()).unwrap();
    let url = Url::parse(&server.url()).unwrap().join("file").unwrap();
    let task = Progress::new().task("file", None);
    let started = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        stop.request();
    });
    assert!(client.get(Ask::plain(&url), 100, &task).is_err());
    assert!(started.elapsed() < Duration::from_secs(10));
}
