//! Whether something answers at a place, and not only a load balancer in front of nothing.
//!
//! A balancer of layer 4 accepts connections for backends that are all down: HAProxy closes them at once, nginx when it has given up on its backends, and others keep them open. So an answer is
//! waited for: the greeting of TLS is said, to which a server answers with its own or with an alert, whichever client certificate it will ask for later. Nothing is made of the answer.
//!
//! A balancer that has not noticed yet that one of several masters is dead sends some connections there, so one without an answer is not the last.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a connection may take to be made.
const REACH: Duration = Duration::from_secs(5);

/// How long an answer may take: an API server on a machine that swaps needs seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// How many connections may stay silent.
const SILENT: usize = 2;

/// The version of TLS 1.2 (RFC 5246, 7.4.1.2), 32 bytes that need not be random because nothing is made with them, no session, the suites of `kube-apiserver`'s and etcd's defaults, no compression.
const CLIENT: &[u8] = b"\x03\x03is somebody there to answer me? \x00\x00\x0c\xc0\x2b\xc0\x2f\xc0\x2c\xc0\x30\x00\x9c\x00\x9d\x01\x00";

/// The curves and signatures that those suites want (RFC 8422, 5.1).
const EXTENSIONS: &[u8] = b"\x00\x0a\x00\x08\x00\x06\x00\x1d\x00\x17\x00\x18\
    \x00\x0b\x00\x02\x01\x00\
    \x00\x0d\x00\x18\x00\x16\x08\x04\x04\x03\x08\x07\x08\x05\x05\x03\x08\x06\x06\x03\x04\x01\x05\x01\x06\x01\x02\x01";

/// What an etcd without TLS answers; it closes connections that begin otherwise.
const PLAIN: &[u8] = b"GET /health HTTP/1.0\r\n\r\n";

/// What came of a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Answer,
    End,
    Nothing,
}

/// Connects, up to four times, until something answers. `host` is what the server is called: a balancer may choose by that.
///
/// # Errors
/// No connection, or none that is answered: they are closed, or silent for ten seconds.
pub fn knock(address: &SocketAddr, host: &str) -> io::Result<()> {
    let hello = hello(host);
    let mut silent = 0;
    for greeting in [&hello, &hello, PLAIN, &hello] {
        match greet(address, greeting)? {
            Came::Answer => return Ok(()),
            Came::End => {}
            Came::Nothing => silent += 1,
        }
        if silent == SILENT {
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                format!(
                    "it takes the connection, and says nothing for {} s",
                    ANSWER.as_secs()
                ),
            ));
        }
    }
    Err(io::Error::new(
        ErrorKind::UnexpectedEof,
        "it takes connections and closes them without an answer, as a load balancer does whose backends are all down",
    ))
}

fn greet(address: &SocketAddr, greeting: &[u8]) -> io::Result<Came> {
    let mut stream = TcpStream::connect_timeout(address, REACH)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let said = stream
        .write_all(greeting)
        .and_then(|()| stream.read(&mut [0]));
    let cause = match said {
        Ok(0) => return Ok(Came::End),
        Ok(_) => return Ok(Came::Answer),
        Err(cause) => cause,
    };
    match cause.kind() {
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            Ok(Came::End)
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(Came::Nothing),
        _ => Err(cause),
    }
}

/// What a client of TLS 1.2 says first, to a server that is called `host`; addresses are no names (RFC 6066, 3).
fn hello(host: &str) -> Vec<u8> {
    let name = host.trim_end_matches('.');
    let mut extensions = Vec::new();
    if !name.is_empty() && name.parse::<IpAddr>().is_err() {
        let named = [&[0][..], &sized(name.as_bytes())].concat();
        extensions.extend([&[0, 0][..], &sized(&sized(&named))].concat());
    }
    extensions.extend(EXTENSIONS);
    let client = [CLIENT, &sized(&extensions)].concat();
    // Of the message's length, which has three bytes, the first is nought.
    let message = [&[1, 0][..], &sized(&client)].concat();
    [b"\x16\x03\x01", &sized(&message)[..]].concat()
}

/// Bytes behind their length in two bytes; a name of a host has 253 at most.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What is told of a server that does this with each connection, which it is also told the number of.
    fn told(serve: impl Fn(usize, TcpStream) + Send + 'static) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                serve(number, stream.unwrap());
            }
        });
        knock(&address, "api.lab").map_err(|cause| cause.to_string())
    }

    fn heard(stream: &mut TcpStream) -> [u8; 5] {
        let mut beginning = [0; 5];
        stream.read_exact(&mut beginning).unwrap();
        beginning
    }

    #[test]
    fn a_connection_alone_is_no_answer() {
        let closes = told(|_, stream| drop(stream)).unwrap_err();
        assert!(closes.contains("backends are all down"), "{closes}");
        let hears_and_closes = told(|_, mut stream| {
            heard(&mut stream);
        });
        assert!(hears_and_closes.unwrap_err().contains("without an answer"));
        let silent = told(|_, mut stream| {
            // Until the one who asks has given up.
            while stream.read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
        });
        assert!(silent.unwrap_err().contains("says nothing for 10 s"));
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let refused = knock(&address, "").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn an_alert_is_an_answer_and_so_is_that_of_a_server_without_tls() {
        told(|_, mut stream| {
            assert_eq!(&heard(&mut stream)[..3], b"\x16\x03\x01");
            stream.write_all(b"\x15\x03\x03\x00\x02\x02\x28").unwrap();
        })
        .unwrap();
        told(|_, mut stream| {
            if &heard(&mut stream) == b"GET /" {
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            }
        })
        .unwrap();
    }

    #[test]
    fn a_balancer_with_one_backend_that_is_dead_answers() {
        told(|number, mut stream| {
            if number > 0 {
                heard(&mut stream);
                stream.write_all(b"\x16").unwrap();
            }
        })
        .unwrap();
    }

    #[test]
    fn every_length_in_the_greeting_is_that_of_what_follows() {
        for (host, bytes) in [("", 0), ("10.0.0.1", 0), ("fd00::1", 0), ("api.lab.", 16)] {
            let hello = hello(host);
            let length = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
            assert_eq!(length(3), hello.len() - 5, "the record");
            assert_eq!(length(7), hello.len() - 9, "the message");
            let extensions = 9 + CLIENT.len();
            assert_eq!(length(extensions), hello.len() - extensions - 2);
            assert_eq!(length(extensions), EXTENSIONS.len() + bytes, "{host}");
            let mut at = extensions + 2;
            while at < hello.len() {
                at += 4 + length(at + 2);
            }
            assert_eq!(at, hello.len(), "each extension");
        }
        let text = hello("api.lab");
        let named = b"\x00\x00\x00\x0c\x00\x0a\x00\x00\x07api.lab";
        assert!(text.windows(named.len()).any(|part| part == named));
    }
}
