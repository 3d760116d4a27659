//! Proxies of both kinds, by the variables that name them. The name of the upstream is known to the proxy alone.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::support::raw::{Raw, answer};
use super::support::upstream::Upstream;
use super::support::{Desk, code, stderr};

/// What the upstream is called behind the proxy.
const NAME: &str = "upstream.test";

/// A proxy that leads everything to one address, and speaks HTTP and SOCKS 5.
struct Proxy {
    address: String,
    /// What was asked of it, word by word.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// With a `password` (`user:password` in base64), others get a 407.
    fn to(target: &str, password: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap().to_string(),
            asked: Arc::default(),
        };
        let (asked, target) = (Arc::clone(&proxy.asked), target.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, target) = (Arc::clone(&asked), target.clone());
                thread::spawn(move || drop(serve(stream, &target, password, &asked)));
            }
        });
        proxy
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    mut client: TcpStream,
    target: &str,
    password: Option<&str>,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut first = [0; 1];
    client.peek(&mut first)?;
    if first == [5] {
        return socks(client, target, asked);
    }
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        head.push(line);
    }
    let Some(first) = head.first() else {
        return Ok(());
    };
    asked.lock().unwrap().push(first.trim().to_owned());
    let known = password.is_none_or(|password| {
        let wanted = format!("proxy-authorization: basic {password}").to_lowercase();
        head.iter().any(|line| line.trim().to_lowercase() == wanted)
    });
    if !known {
        return client.write_all(
            b"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let mut server = TcpStream::connect(target)?;
    if first.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        return both_ways(client, server);
    }
    // The server closes after each answer.
    let head = head.concat().replace(&format!("http://{NAME}/"), "/");
    server.write_all(format!("{head}\r\n").as_bytes())?;
    io::copy(&mut server, &mut client)?;
    Ok(())
}

fn socks(mut client: TcpStream, target: &str, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting)?;
    client.read_exact(&mut vec![0; usize::from(greeting[1])])?;
    client.write_all(&[5, 0])?;
    let mut request = [0; 5];
    client.read_exact(&mut request)?;
    assert_eq!(request[..4], [5, 1, 0, 3], "a name, and not an address");
    let mut name = vec![0; usize::from(request[4]) + 2];
    client.read_exact(&mut name)?;
    name.truncate(name.len() - 2);
    let name = String::from_utf8_lossy(&name).into_owned();
    asked.lock().unwrap().push(format!("SOCKS {name}"));
    client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 80])?;
    both_ways(client, TcpStream::connect(target)?)
}

fn both_ways(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut from, &mut to));
    let (mut from, mut to) = (server, client);
    io::copy(&mut from, &mut to)?;
    to.shutdown(std::net::Shutdown::Both)
}

/// `kpot build --plan` of an upstream that only has a name, with these variables.
fn plan(desk: &Desk, upstream: &Upstream, variables: &[(&str, &str)]) -> std::process::Output {
    let arguments = upstream.arguments_for("stable", "x.pot");
    let arguments: Vec<String> = arguments
        .iter()
        .map(|text| text.replace(upstream.server.address(), NAME))
        .chain(["--plan".to_owned()])
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    desk.kpot_with(&arguments, variables)
}

fn upstream() -> Upstream {
    let upstream = Upstream::new("v1.20.2");
    upstream.mark("stable", b"v1.20.2");
    upstream
}

#[test]
fn both_kinds_of_proxies_are_gone_through() {
    let (desk, upstream) = (Desk::without_key(), upstream());
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        for scheme in ["http", "socks5h"] {
            let proxy = Proxy::to(upstream.server.address(), None);
            let value = format!("{scheme}://{}", proxy.address);
            let planned = plan(&desk, &upstream, &[(variable, &value)]);
            assert_eq!(
                code(&planned),
                0,
                "{variable} {value}: {}",
                stderr(&planned)
            );
            let asked = proxy.asked();
            assert!(asked.len() > 10, "everything goes through it: {asked:?}");
            assert!(asked.iter().all(|line| line.contains(NAME)), "{asked:?}");
        }
    }
}

#[test]
fn a_proxy_gets_its_password_and_shows_it_to_nobody() {
    let (desk, upstream) = (Desk::without_key(), upstream());
    let proxy = Proxy::to(upstream.server.address(), Some("bWU6c2VjcmV0"));
    let value = format!("http://me:secret@{}", proxy.address);
    let planned = plan(&desk, &upstream, &[("HTTP_PROXY", &value)]);
    assert_eq!(code(&planned), 0, "{}", stderr(&planned));

    let value = format!("http://me:wrongsecret@{}", proxy.address);
    let refused = plan(&desk, &upstream, &[("HTTP_PROXY", &value)]);
    assert_eq!(code(&refused), 1);
    let told = stderr(&refused);
    assert!(
        told.contains("407") && told.contains("USER:PASSWORD"),
        "{told}"
    );
    assert!(!told.contains("wrongsecret"), "{told}");
}

#[test]
fn an_https_address_is_reached_through_a_tunnel() {
    let desk = Desk::without_key();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let proxy = Proxy::to(&closed, Some("bWU6c2VjcmV0"));
    for (value, words) in [
        (
            format!("http://{}", proxy.address),
            ["USER:PASSWORD", "cannot fetch https://dl.k8s.io"],
        ),
        // Nobody behind it.
        (
            format!("http://{closed}"),
            ["HTTPS_PROXY", "cannot fetch https://dl.k8s.io"],
        ),
    ] {
        let arguments = ["build", "--k8s", "stable", "--plan"];
        let refused = desk.kpot_with(&arguments, &[("HTTPS_PROXY", &value)]);
        assert_eq!(code(&refused), 1);
        let told = stderr(&refused);
        for word in words {
            assert!(told.contains(word), "{word:?} is not in: {told}");
        }
    }
    assert_eq!(
        proxy.asked(),
        ["CONNECT dl.k8s.io:443 HTTP/1.1"],
        "another try gives the same"
    );
}

#[test]
fn a_proxy_that_opens_no_way_is_told_as_that() {
    let desk = Desk::without_key();
    let proxy = Raw::start(|_, _, wire| answer(wire, "403 Forbidden", "", "not that host"));
    let value = format!("http://{}", proxy.address());
    let arguments = ["build", "--k8s", "stable", "--plan"];
    let refused = desk.kpot_with(&arguments, &[("HTTPS_PROXY", &value)]);
    assert_eq!(code(&refused), 1);
    let told = stderr(&refused);
    for word in [
        "cannot fetch https://dl.k8s.io",
        "opens no way there",
        "who runs the proxy",
    ] {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
}

#[test]
fn no_proxy_names_what_is_reached_without_one() {
    let (desk, upstream) = (Desk::without_key(), upstream());
    let proxy = Proxy::to(upstream.server.address(), None);
    let value = format!("http://{}", proxy.address);
    let arguments = upstream.arguments_for("stable", "x.pot");
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.push("--plan");
    // With the port, too.
    let whole = upstream.server.address();
    for names in ["127.0.0.1", "other.example, 127.0.0.0/8", "*", whole] {
        let planned = desk.kpot_with(&arguments, &[("HTTP_PROXY", &value), ("NO_PROXY", names)]);
        assert_eq!(code(&planned), 0, "{}", stderr(&planned));
    }
    assert!(proxy.asked().is_empty());
    // A name that is not in it is asked for at the proxy alone.
    let planned = plan(
        &desk,
        &upstream,
        &[("HTTP_PROXY", &value), ("NO_PROXY", "127.0.0.1")],
    );
    assert_eq!(code(&planned), 0, "{}", stderr(&planned));
}

#[test]
fn under_a_web_server_only_what_no_request_can_set_counts() {
    let (desk, upstream) = (Desk::without_key(), upstream());
    let proxy = Proxy::to(upstream.server.address(), None);
    let value = format!("http://{}", proxy.address);
    let method = ("REQUEST_METHOD", "GET");
    let refused = plan(&desk, &upstream, &[("HTTP_PROXY", &value), method]);
    assert_eq!(code(&refused), 2);
    let told = stderr(&refused);
    assert!(
        told.contains("REQUEST_METHOD") && told.contains("http_proxy"),
        "{told}"
    );
    assert!(proxy.asked().is_empty());
    let planned = plan(&desk, &upstream, &[("http_proxy", &value), method]);
    assert_eq!(code(&planned), 0, "{}", stderr(&planned));
    assert!(!proxy.asked().is_empty());
}

#[test]
fn a_variable_that_names_no_proxy_is_refused_and_not_shown() {
    let desk = Desk::without_key();
    for value in ["ftp://me:secret@127.0.0.1", "http://proxy:secret"] {
        let arguments = ["build", "--k8s", "stable", "--plan"];
        let refused = desk.kpot_with(&arguments, &[("https_proxy", value)]);
        assert_eq!(code(&refused), 2);
        let told = stderr(&refused);
        assert!(
            told.contains("https_proxy") && !told.contains("secret"),
            "{told}"
        );
    }
}
