//! A server that says exactly the bytes that a test gives it, at the pace that it gives them, over TLS where it is told so.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::server::{Seen, headers};

/// A connection, plain or not.
pub trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

/// What is done with a request; the number says how many there were before for the same path.
type Script = dyn Fn(&Seen, usize, &mut dyn Wire) -> io::Result<()> + Send + Sync;

/// A running server; it ends with the test's process.
#[derive(Clone)]
pub struct Raw {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Raw {
    /// A server on any port of 127.0.0.1.
    pub fn start(
        script: impl Fn(&Seen, usize, &mut dyn Wire) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), None, script)
    }

    /// The same over TLS.
    pub fn secure(
        tls: rustls::ServerConfig,
        script: impl Fn(&Seen, usize, &mut dyn Wire) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, Some(Arc::new(tls)), script)
    }

    /// A server on this socket.
    pub fn on(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        script: impl Fn(&Seen, usize, &mut dyn Wire) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let (serving, script): (Self, Arc<Script>) = (server.clone(), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serving, script, tls) = (serving.clone(), Arc::clone(&script), tls.clone());
                // A client that goes away in the middle is part of the tests.
                thread::spawn(move || drop(serving.serve(stream, tls, &*script)));
            }
        });
        server
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn serve(
        &self,
        stream: TcpStream,
        tls: Option<Arc<rustls::ServerConfig>>,
        script: &Script,
    ) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut wire: Box<dyn Wire> = match tls {
            None => Box::new(stream),
            Some(tls) => {
                let connection = rustls::ServerConnection::new(tls).map_err(io::Error::other)?;
                Box::new(rustls::StreamOwned::new(connection, stream))
            }
        };
        let Some(request) = read_head(&mut *wire)? else {
            return Ok(());
        };
        let before = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(request.clone());
            let same = seen.iter().filter(|other| other.path == request.path);
            same.count() - 1
        };
        script(&request, before, &mut *wire)?;
        wire.flush()
    }
}

/// The head of a request, and its form where it has one (as the header `form`).
fn read_head(wire: &mut dyn Wire) -> io::Result<Option<Seen>> {
    let mut reader = BufReader::new(wire);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut headers = headers(&mut reader)?;
    if let Some(length) = headers.get("content-length") {
        let mut form = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut form)?;
        headers.insert("form".to_owned(), String::from_utf8(form).unwrap());
    }
    Ok(Some(Seen {
        method: method.to_owned(),
        path: path.to_owned(),
        headers,
    }))
}

/// An answer with these headers (each with its line end) and this body.
pub fn answer(
    wire: &mut dyn Wire,
    status: &str,
    headers: &str,
    body: impl AsRef<[u8]>,
) -> io::Result<()> {
    let body = body.as_ref();
    let length = body.len();
    write!(
        wire,
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    )?;
    wire.write_all(body)?;
    wire.flush()
}

/// An answer to whoever has no token of the server at `realm`.
pub fn demand_token(wire: &mut dyn Wire, realm: &str) -> io::Result<()> {
    let header = format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n");
    answer(wire, "401 X", &header, "")
}

/// Only the head of an answer whose body comes in another way.
pub fn head(wire: &mut dyn Wire, status: &str, headers: &str) -> io::Result<()> {
    write!(
        wire,
        "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n"
    )?;
    wire.flush()
}

/// These bytes again and again, until the client has had enough.
pub fn without_end(wire: &mut dyn Wire, bytes: &[u8]) -> io::Result<()> {
    loop {
        wire.write_all(bytes)?;
    }
}

/// These bytes one by one.
pub fn dripping(wire: &mut dyn Wire, bytes: &[u8], pause: Duration) -> io::Result<()> {
    for byte in bytes {
        wire.write_all(&[*byte])?;
        wire.flush()?;
        thread::sleep(pause);
    }
    Ok(())
}

/// A 206 or a 200, as a good server answers: with a tag, and the range that is asked for if the tag is the same.
pub fn ranged(wire: &mut dyn Wire, request: &Seen, tag: &str, body: &[u8]) -> io::Result<()> {
    match start(request).filter(|_| request.headers.get("if-range").is_none_or(|it| it == tag)) {
        Some(start) if start >= body.len() => answer(wire, "416 X", "", ""),
        Some(start) => answer(
            wire,
            "206 X",
            &format!(
                "ETag: {tag}\r\nContent-Range: bytes {start}-{}/{}\r\n",
                body.len() - 1,
                body.len()
            ),
            &body[start..],
        ),
        None => answer(wire, "200 X", &format!("ETag: {tag}\r\n"), body),
    }
}

/// The first byte of the range that is asked for.
pub fn start(request: &Seen) -> Option<usize> {
    let range = request.headers.get("range")?;
    range
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}
