//! Hostile and broken networks, played on real sockets. Every case ends within its time limit: in an error that names the address, or well where another try is right.
#![allow(clippy::disallowed_methods, reason = "tests own their temporary files")]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod bombs;
mod cuts;
mod heads;
mod images;
mod limits;
mod logins;
mod names;
mod proxies;
mod real;
mod tls;

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::time::{Duration, Instant};

use bundle_spec::Sha256;
use kpot::fetch::http::{Ask, Saved, Size};
use kpot::fetch::{Client, FetchError, Network, Policy, Stop};
use kpot::progress::{Progress, Task};
use kpot::releases::Algorithm;
use reqwest::Url;

/// Few and quick retries, and limits that only what really hangs comes to: on a busy machine a handshake takes a second, and a retry that nobody expects is one request too many.
const POLICY: Policy = Policy {
    rate: 1000,
    retries: 2,
    pause: Duration::from_millis(5),
    patience: Duration::from_millis(1500),
    ..Policy::DEFAULT
};

/// For servers that do hang: limits short enough to wait for all of them.
const HASTY: Policy = Policy {
    connect: Duration::from_secs(2),
    stall: Duration::from_secs(2),
    ..POLICY
};

/// What everything that hangs must end within: every try at its limit, and a slow machine besides.
const LIMIT: Duration = Duration::from_secs(40);

fn task() -> Task {
    Progress::new().task("file", None)
}

fn network() -> Network {
    Network {
        policy: POLICY,
        ..Network::default()
    }
}

/// For a server that hangs.
fn hasty() -> Network {
    Network {
        policy: HASTY,
        ..Network::default()
    }
}

fn client(network: Network) -> Client {
    Client::with(network, Stop::default()).unwrap()
}

fn save(client: &Client, url: &str, size: Size) -> Result<Saved, FetchError> {
    let started = Instant::now();
    let file: File = tempfile::tempfile().unwrap();
    let url = Url::parse(url).unwrap();
    let saved = client.save(Ask::plain(&url), file, size, Algorithm::Sha256, &task());
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    saved
}

fn get(client: &Client, url: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
    let started = Instant::now();
    let url = Url::parse(url).unwrap();
    let reply = client.get(Ask::plain(&url), limit, &task());
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    reply.map(|reply| reply.body)
}

/// That it was fetched, and is `body`.
fn is(saved: Result<Saved, FetchError>, body: &[u8]) {
    let mut saved = saved.unwrap();
    let mut bytes = Vec::new();
    saved.file.rewind().unwrap();
    saved.file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == body, "the bytes differ");
    let expected = (body.len() as u64, Sha256::of(body));
    assert_eq!((saved.size, saved.sha256), expected);
}

/// That it was refused, in these words, and with the address.
fn refused<T>(result: Result<T, FetchError>, url: &str, words: &[&str]) {
    let Err(error) = result else {
        panic!("it was not refused: {words:?}");
    };
    let told = error.to_string();
    for word in [url].iter().chain(words) {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
}
