//! Whether something answers at a place, and not only a load balancer in front of nothing.
//!
//! A balancer of layer 4 accepts connections for backends that are all down: HAProxy closes them at once, nginx when it has given up on its backends, and others keep them open. So an answer is
//! waited for: the greeting of TLS is said, to which a server answers with its own or with an alert, whichever client certificate it will ask for later. Nothing is made of the answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a connection may take to be made.
const REACH: Duration = Duration::from_secs(5);

/// How long an answer may take: an API server on a machine that swaps needs seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// What a client of TLS 1.2 says first (RFC 5246, 7.4.1.2), in one record: its version, 32 bytes that need not be random because nothing is made with them, no session, the suites of
/// `kube-apiserver`'s and etcd's defaults, no compression, and the curves and signatures that those suites want (RFC 8422, 5.1).
const HELLO: &[u8] = b"\x16\x03\x01\x00\x67\
    \x01\x00\x00\x63\
    \x03\x03\
    is somebody there to answer me? \
    \x00\
    \x00\x0c\xc0\x2b\xc0\x2f\xc0\x2c\xc0\x30\x00\x9c\x00\x9d\
    \x01\x00\
    \x00\x2e\
    \x00\x0a\x00\x08\x00\x06\x00\x1d\x00\x17\x00\x18\
    \x00\x0b\x00\x02\x01\x00\
    \x00\x0d\x00\x18\x00\x16\x08\x04\x04\x03\x08\x07\x08\x05\x05\x03\x08\x06\x06\x03\x04\x01\x05\x01\x06\x01\x02\x01";

/// Connects, and waits until something answers.
///
/// # Errors
/// No connection, or one that nobody answers: it is closed, or silent for ten seconds.
pub fn knock(address: &SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(address, REACH)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let answer = stream
        .write_all(HELLO)
        .and_then(|()| stream.read(&mut [0]))
        .and_then(|bytes| match bytes {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        });
    answer.map_err(|cause| {
        let why = match cause.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!(
                "it takes the connection, and says nothing for {} s",
                ANSWER.as_secs()
            ),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                "it takes the connection and closes it without an answer, as a load balancer does whose backends are all down"
                    .to_owned()
            }
            _ => return cause,
        };
        io::Error::new(cause.kind(), why)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What is told of a server that does this with a connection.
    fn told(serve: impl FnOnce(TcpStream) + Send + 'static) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve(listener.accept().unwrap().0));
        let told = knock(&address).map_err(|cause| cause.to_string());
        server.join().unwrap();
        told
    }

    #[test]
    fn a_connection_alone_is_no_answer() {
        let closes = told(drop).unwrap_err();
        assert!(closes.contains("backends are all down"), "{closes}");
        let reads_and_closes = told(|mut stream| {
            stream.read_exact(&mut [0; 5]).unwrap();
        })
        .unwrap_err();
        assert!(
            reads_and_closes.contains("without an answer"),
            "{reads_and_closes}"
        );
        let silent = told(|mut stream| {
            stream.read_exact(&mut [0; HELLO.len()]).unwrap();
            // Until the one who asks has given up.
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        })
        .unwrap_err();
        assert!(silent.contains("says nothing for 10 s"), "{silent}");
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert_eq!(
            knock(&free).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
    }

    #[test]
    fn an_alert_is_an_answer() {
        told(|mut stream| {
            stream.read_exact(&mut [0; HELLO.len()]).unwrap();
            stream.write_all(b"\x15\x03\x03\x00\x02\x02\x28").unwrap();
        })
        .unwrap();
    }

    #[test]
    fn every_length_in_the_greeting_is_that_of_what_follows() {
        let length = |at: usize| usize::from(u16::from_be_bytes([HELLO[at], HELLO[at + 1]]));
        assert_eq!(length(3), HELLO.len() - 5, "the record");
        assert_eq!(length(7), HELLO.len() - 9, "the message");
        let suites = 5 + 4 + 2 + 32 + 1;
        let extensions = suites + 2 + length(suites) + 2;
        assert_eq!(
            length(extensions),
            HELLO.len() - extensions - 2,
            "the extensions"
        );
        let mut at = extensions + 2;
        while at < HELLO.len() {
            at += 4 + length(at + 2);
        }
        assert_eq!(at, HELLO.len(), "each of them");
    }
}
