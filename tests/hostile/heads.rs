//! What comes before a body: statuses, headers, redirects.

use std::time::{Duration, Instant};

use kpot::fetch::http::Size;

use super::support::raw::{Raw, answer, dripping, head, without_end};
use super::{client, get, hasty, network, refused, save};

#[test]
fn a_header_without_end_is_given_up() {
    let endless = Raw::start(|_, _, wire| {
        wire.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
        without_end(wire, &[b'a'; 4096])
    });
    let many = Raw::start(|_, _, wire| {
        wire.write_all(b"HTTP/1.1 200 OK\r\n")?;
        without_end(wire, b"X: y\r\n")
    });
    let slow = Raw::start(|_, _, wire| {
        dripping(
            wire,
            &b"HTTP/1.1 200 OK\r\nX: y".repeat(20),
            Duration::from_millis(100),
        )
    });
    let informational = Raw::start(|_, _, wire| {
        loop {
            wire.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")?;
            wire.flush()?;
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    for server in [endless, many, slow, informational] {
        refused(
            get(&client(hasty()), &server.url(), 100),
            &server.url(),
            &["tried 3 times"],
        );
        assert_eq!(server.seen().len(), 3);
    }
}

#[test]
fn what_is_no_http_is_told() {
    let server = Raw::start(|_, _, wire| wire.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"));
    refused(
        get(&client(network()), &server.url(), 100),
        &server.url(),
        &["tried 3 times"],
    );
    let silent = Raw::start(|_, _, _| Ok(()));
    refused(
        get(&client(network()), &silent.url(), 100),
        &silent.url(),
        &["tried 3 times"],
    );
}

#[test]
fn retry_after_is_obeyed_as_seconds_and_as_a_date() {
    for (header, least) in [
        ("Retry-After: 1\r\n".to_owned(), 1000),
        // The server's clock is right for the server, whatever this machine's says.
        (
            "Date: Sat, 21 Nov 2020 08:00:00 GMT\r\nRetry-After: Sat, 21 Nov 2020 08:00:01 GMT\r\n"
                .to_owned(),
            1000,
        ),
        // Longer than anybody waits: up to the limit.
        ("Retry-After: 86400\r\n".to_owned(), 1500),
        (
            "Retry-After: Fri, 21 Nov 2098 08:00:01 GMT\r\n".to_owned(),
            1500,
        ),
    ] {
        for status in ["429 Too Many Requests", "503 Service Unavailable"] {
            let header = header.clone();
            let server = Raw::start(move |_, before, wire| match before {
                0 => answer(wire, status, &header, ""),
                _ => answer(wire, "200 OK", "", "done"),
            });
            let started = Instant::now();
            assert_eq!(
                get(&client(network()), &server.url(), 100).unwrap(),
                b"done"
            );
            let took = started.elapsed();
            assert!(took >= Duration::from_millis(least), "{took:?}");
            assert!(took < Duration::from_secs(6), "{took:?}");
        }
    }
}

#[test]
fn a_server_that_never_wants_us_is_told_with_what_it_asked() {
    let server = Raw::start(|_, _, wire| answer(wire, "429 X", "Retry-After: 3600\r\n", ""));
    refused(
        get(&client(network()), &server.url(), 100),
        &server.url(),
        &["429", "tried 3 times", "wait 3600 s"],
    );
}

#[test]
fn trouble_that_passes_is_no_failure() {
    let server = Raw::start(|_, before, wire| match before {
        0 => answer(wire, "500 X", "", "<html>"),
        1 => answer(wire, "503 X", "", "<html>"),
        _ => answer(wire, "200 X", "", "done"),
    });
    assert_eq!(
        get(&client(network()), &server.url(), 100).unwrap(),
        b"done"
    );
}

#[test]
fn redirects_in_a_loop_end() {
    let server = Raw::start(|request, _, wire| {
        let next = if request.path == "/a" { "/b" } else { "/a" };
        answer(wire, "302 Found", &format!("Location: {next}\r\n"), "")
    });
    let url = format!("{}/a", server.url());
    refused(
        save(&client(network()), &url, Size::AtMost(9)),
        &url,
        &["8 times", "in a loop"],
    );
    assert_eq!(server.seen().len(), 9, "another try gives the same");
}

#[test]
fn redirects_to_what_is_no_web_address_are_refused() {
    for place in ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "//"] {
        let server = Raw::start(move |_, _, wire| {
            head(
                wire,
                "302 X",
                &format!("Location: {place}\r\nContent-Length: 0\r\n"),
            )
        });
        let fetched = save(&client(network()), &server.url(), Size::AtMost(9));
        refused(fetched, &server.url(), &[]);
    }
}

#[test]
fn where_it_was_redirected_to_is_named_without_its_secrets() {
    let other = Raw::start(|_, _, wire| answer(wire, "404 Not Found", "", ""));
    let place = format!("{}/blob?signature=secret", other.url());
    let server =
        Raw::start(move |_, _, wire| answer(wire, "307 X", &format!("Location: {place}\r\n"), ""));
    let error = get(&client(network()), &server.url(), 9)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&other.address()) && error.contains("404"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
    assert!(!other.seen()[0].headers.contains_key("referer"));
}
