//! Certificates that prove nothing, and private authorities.

use std::io::{Read as _, Write as _};

use kpot::fetch::http::Size;
use kpot::fetch::{Network, network as settings};

use super::support::certificates::{Authority, Validity};
use super::support::raw::{Raw, Wire, answer};
use super::support::server::Seen;
use super::{client, get, hasty, network, refused, save};

fn hello(_: &Seen, _: usize, wire: &mut dyn Wire) -> std::io::Result<()> {
    answer(wire, "200 OK", "", "hello")
}

/// A network that trusts `authority`, by a file as `--cacert` names it.
pub fn trusting(authority: &Authority) -> Network {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // Files of authorities have remarks in them.
    file.write_all(format!("# our own\n{}", authority.pem()).as_bytes())
        .unwrap();
    Network {
        authorities: settings::authorities(file.path()).unwrap(),
        ..network()
    }
}

#[test]
fn a_private_authority_is_trusted_when_it_is_named_and_not_before() {
    let authority = Authority::new();
    let server = Raw::secure(authority.server("127.0.0.1", Validity::Good), hello);
    let url = format!("https://{}/", server.address());
    assert_eq!(
        get(&client(trusting(&authority)), &url, 10).unwrap(),
        b"hello"
    );
    for stranger in [network(), trusting(&Authority::new())] {
        let client = client(stranger);
        refused(get(&client, &url, 10), &url, &["not trusted", "--cacert"]);
    }
    assert_eq!(server.seen().len(), 1, "nothing is said to a stranger");
}

#[test]
fn an_authority_that_is_shown_as_a_server_is_told_as_that() {
    let authority = Authority::named(&["127.0.0.1"]);
    let server = Raw::secure(authority.own_server(), hello);
    let url = format!("https://{}/", server.address());
    let words = ["a CA's certificate as its own", "basicConstraints"];
    refused(get(&client(trusting(&authority)), &url, 10), &url, &words);
    assert!(server.seen().is_empty());
}

#[test]
fn a_wrong_name_and_a_wrong_time_are_told_apart_and_final() {
    let authority = Authority::new();
    for (name, validity, words) in [
        (
            "other.example",
            Validity::Good,
            ["other.example", "something may answer"],
        ),
        ("127.0.0.1", Validity::Expired, ["expired", "clock"]),
        ("127.0.0.1", Validity::NotYet, ["not valid", "clock"]),
    ] {
        let server = Raw::secure(authority.server(name, validity), hello);
        let url = format!("https://{}/", server.address());
        let client = client(trusting(&authority));
        for size in [Size::AtMost(10), Size::Exactly(5)] {
            refused(save(&client, &url, size), &url, &words);
        }
        let told = get(&client, &url, 10).unwrap_err().to_string();
        assert!(!told.contains("tried"), "{told}");
        assert!(server.seen().is_empty());
    }
}

#[test]
fn what_speaks_no_tls_is_refused() {
    let server = Raw::start(hello);
    let url = format!("https://{}/", server.address());
    // Whoever waits for the end of a line in a TLS greeting may wait for long.
    refused(get(&client(hasty()), &url, 10), &url, &[]);
    // As a registry does that was set up without a certificate.
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut wire, _) = plain.accept().unwrap();
        let mut hello = [0; 5];
        wire.read_exact(&mut hello).unwrap();
        wire.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            .unwrap();
        // Until the other end hangs up: what is unread would cut the answer short.
        let _ = wire.read_to_end(&mut Vec::new());
    });
    let url = format!("https://{address}/");
    let mirror = format!("--mirror {address}=http://{address}");
    let words = ["speaks no TLS", mirror.as_str()];
    refused(get(&client(network()), &url, 10), &url, &words);
    answering.join().unwrap();
}

#[test]
fn a_handshake_that_hangs_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let words = ["nothing came for", "tried 3 times"];
    refused(get(&client(hasty()), &url, 10), &url, &words);
}

#[test]
fn a_redirect_to_plain_http_is_refused() {
    let authority = Authority::new();
    let plain = Raw::start(hello);
    let place = format!("{}/file?signature=secret", plain.url());
    let server = Raw::secure(
        authority.server("127.0.0.1", Validity::Good),
        move |_, _, wire| answer(wire, "302 X", &format!("Location: {place}\r\n"), ""),
    );
    let url = format!("https://{}/", server.address());
    let client = client(trusting(&authority));
    refused(
        get(&client, &url, 10),
        &url,
        &["from https to http://127.0.0.1"],
    );
    let told = get(&client, &url, 10).unwrap_err().to_string();
    assert!(!told.contains("secret"), "{told}");
    assert!(plain.seen().is_empty());
}

#[test]
fn a_file_without_authorities_is_refused() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"nothing here").unwrap();
    let told = settings::authorities(file.path()).unwrap_err().to_string();
    assert!(told.contains("holds no certificate"), "{told}");
    assert!(settings::authorities(std::path::Path::new("/nonexistent")).is_err());
}
