//! A web server of a few lines that can do what servers should not.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What is answered to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The bytes, or the part that `Range` asks for.
    Body(Vec<u8>),
    /// The bytes with a header besides.
    With(&'static str, String, Vec<u8>),
    /// The bytes without `ETag`, and without regard for `Range`.
    Plain(Vec<u8>),
    /// So many of the bytes, then the connection is closed.
    Cut(usize, Vec<u8>),
    /// So many of the bytes, then nothing for a long time.
    Stall(usize, Vec<u8>),
    /// An empty answer with this status.
    Status(u16),
    /// A 302 to there.
    Redirect(String),
    /// A 401 with this challenge, unless the request carries this token; then the bytes.
    Locked {
        challenge: String,
        token: String,
        body: Vec<u8>,
    },
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, Vec<Answer>>,
    seen: Vec<Seen>,
    /// Bytes of bodies that were sent, by path.
    sent: HashMap<String, u64>,
    /// Between two pieces of a body.
    pause: Option<Duration>,
}

/// A throttled body is sent in pieces of so many bytes.
const PIECE: usize = 4 << 10;

/// A running server; it ends with the test's process.
#[derive(Clone)]
pub struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            state: Arc::default(),
        };
        let serving = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                // A client that goes away in the middle is part of the tests.
                thread::spawn(move || drop(serving.serve(&stream)));
            }
        });
        server
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on `path` is answered by these, one after another; the last one stays.
    pub fn set(&self, path: &str, answers: Vec<Answer>) {
        self.state
            .lock()
            .unwrap()
            .answers
            .insert(path.to_owned(), answers);
    }

    /// The bodies of this kind of answer, by their paths.
    pub fn bodies(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.state.lock().unwrap();
        let body = |(path, answers): (&String, &Vec<Answer>)| match answers.last() {
            Some(Answer::Body(body)) => Some((path.clone(), body.clone())),
            _ => None,
        };
        state.answers.iter().filter_map(body).collect()
    }

    /// The requests for paths that end so.
    pub fn seen(&self, ending: &str) -> Vec<Seen> {
        let state = self.state.lock().unwrap();
        state
            .seen
            .iter()
            .filter(|seen| seen.path.ends_with(ending))
            .cloned()
            .collect()
    }

    /// Forgets what was asked and sent until now.
    pub fn forget(&self) {
        let mut state = self.state.lock().unwrap();
        state.seen.clear();
        state.sent.clear();
    }

    /// Bytes of bodies that were sent for paths in which `part` stands.
    pub fn sent(&self, part: &str) -> u64 {
        let state = self.state.lock().unwrap();
        let sent = state.sent.iter().filter(|(path, _)| path.contains(part));
        sent.map(|(_, count)| count).sum()
    }

    /// From now on bodies come piece by piece, with a pause between them.
    pub fn throttle(&self, pause: Option<Duration>) {
        self.state.lock().unwrap().pause = pause;
    }

    fn deliver(&self, mut stream: &TcpStream, path: &str, body: &[u8]) -> std::io::Result<()> {
        let mut rest = body;
        while !rest.is_empty() {
            let pause = self.state.lock().unwrap().pause;
            let size = pause.map_or(rest.len(), |_| rest.len().min(PIECE));
            stream.write_all(&rest[..size])?;
            let mut state = self.state.lock().unwrap();
            *state.sent.entry(path.to_owned()).or_default() += size as u64;
            drop(state);
            rest = &rest[size..];
            if let Some(pause) = pause.filter(|_| !rest.is_empty()) {
                thread::sleep(pause);
            }
        }
        Ok(())
    }

    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or("/").to_owned();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let headers = headers(&mut reader)?;
        let answer = {
            let mut state = self.state.lock().unwrap();
            state.seen.push(Seen {
                method: method.clone(),
                path: target,
                headers: headers.clone(),
            });
            match state.answers.get_mut(&path) {
                Some(answers) if answers.len() > 1 => answers.remove(0),
                Some(answers) => answers[0].clone(),
                None => Answer::Status(404),
            }
        };
        let deliver = |body: &[u8]| self.deliver(stream, &path, body);
        reply(stream, &deliver, &method, &answer, &headers)
    }
}

fn reply(
    mut stream: &TcpStream,
    deliver: &dyn Fn(&[u8]) -> std::io::Result<()>,
    method: &str,
    answer: &Answer,
    headers: &HashMap<String, String>,
) -> std::io::Result<()> {
    let mut send = |status: u16, more: &str, length: usize, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n"
        );
        stream.write_all(head.as_bytes())?;
        if method != "HEAD" {
            deliver(body)?;
        }
        stream.flush()
    };
    match answer {
        Answer::Body(body) => {
            let tag = etag(body);
            let more = format!("ETag: {tag}\r\n");
            let start = headers
                .get("range")
                .filter(|_| {
                    headers
                        .get("if-range")
                        .is_none_or(|expected| *expected == tag)
                })
                .and_then(|range| {
                    range
                        .strip_prefix("bytes=")?
                        .strip_suffix('-')?
                        .parse()
                        .ok()
                });
            match start {
                Some(start) if start < body.len() => {
                    let range = format!(
                        "{more}Content-Range: bytes {start}-{}/{}\r\n",
                        body.len() - 1,
                        body.len()
                    );
                    send(206, &range, body.len() - start, &body[start..])
                }
                Some(_) => send(416, "", 0, b""),
                None => send(200, &more, body.len(), body),
            }
        }
        Answer::With(name, value, body) => {
            send(200, &format!("{name}: {value}\r\n"), body.len(), body)
        }
        Answer::Plain(body) => send(200, "", body.len(), body),
        Answer::Cut(count, body) => {
            let more = format!("ETag: {}\r\n", etag(body));
            send(200, &more, body.len(), &body[..*count])
        }
        Answer::Stall(count, body) => {
            let more = format!("ETag: {}\r\n", etag(body));
            send(200, &more, body.len(), &body[..*count])?;
            thread::sleep(Duration::from_secs(20));
            Ok(())
        }
        Answer::Status(status) => send(*status, "", 0, b""),
        Answer::Redirect(to) => send(302, &format!("Location: {to}\r\n"), 0, b""),
        Answer::Locked {
            challenge,
            token,
            body,
        } => {
            let key = format!("Bearer {token}");
            if headers.get("authorization") == Some(&key) {
                send(200, "", body.len(), body)
            } else {
                send(401, &format!("WWW-Authenticate: {challenge}\r\n"), 0, b"")
            }
        }
    }
}

/// Of the beginning alone: hashing everything takes long without optimisation, and clients wait.
fn etag(body: &[u8]) -> String {
    let beginning = &body[..body.len().min(1000)];
    format!("\"{}\"", &bundle_spec::Sha256::of(beginning).hex()[..16])
}

/// The headers of a request, their names in lower case, and the empty line behind them.
pub(super) fn headers(reader: &mut impl BufRead) -> std::io::Result<HashMap<String, String>> {
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        match header.trim().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => return Ok(headers),
        };
    }
}
