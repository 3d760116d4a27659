//! Why something was not fetched, and whether another try may help.
//!
//! Every error names the address that was asked, and none repeats what may be secret: no header, no body, no query of an address that a server made up.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use reqwest::Url;
use rustls::CertificateError;

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", self.alone(), .advice.as_ref().map_or(String::new(), |advice| format!(" ({advice})")))]
pub struct FetchError {
    url: String,
    problem: String,
    advice: Option<Cow<'static, str>>,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Another try may help; the server may have said when.
    Transient(Option<Duration>),
    /// Another try gives the same.
    Final,
    /// The server has not got it.
    Missing,
    /// It came whole, and is not what it should be.
    Content,
    /// The server wants to know who asks; its challenges.
    Unauthorized(String),
    /// The server does not give it to whoever asks.
    Forbidden,
}

impl FetchError {
    /// A problem with what was fetched from `url`, which another try will not cure.
    pub fn refused(url: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self {
            url: url.to_string(),
            problem: problem.into(),
            advice: None,
            kind: Kind::Final,
        }
    }

    /// What was fetched from `url` has another digest than it should.
    pub fn wrong_content(url: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self {
            kind: Kind::Content,
            ..Self::refused(url, problem)
        }
    }

    /// Whether something came whole, and was not what it should be.
    pub fn is_wrong_content(&self) -> bool {
        self.kind == Kind::Content
    }

    /// The address, where the server says that it has no such thing.
    pub fn missing(&self) -> Option<&str> {
        (self.kind == Kind::Missing).then_some(self.url.as_str())
    }

    /// The same with a word on what to try.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The same without a word on what to try, for as long as it is tried again anyway.
    pub(super) fn alone(&self) -> String {
        format!("cannot fetch {}: {}", self.url, self.problem)
    }

    /// The server's challenges, where it refused because it does not know who asks.
    pub fn challenge(&self) -> Option<&str> {
        match &self.kind {
            Kind::Unauthorized(challenge) => Some(challenge),
            Kind::Transient(_) | Kind::Final | Kind::Missing | Kind::Content | Kind::Forbidden => {
                None
            }
        }
    }

    /// Whether somebody else may get another answer. Some servers say of what is not for everybody that there is no such thing.
    pub(super) fn is_for_others(&self) -> bool {
        match self.kind {
            Kind::Missing | Kind::Unauthorized(_) | Kind::Forbidden => true,
            Kind::Transient(_) | Kind::Final | Kind::Content => false,
        }
    }

    pub(super) fn transient(url: &Url, problem: impl Into<String>) -> Self {
        Self {
            kind: Kind::Transient(None),
            ..Self::refused(url, problem)
        }
    }

    /// Another try may help, but not before the time that the server named.
    #[must_use]
    pub(super) fn wait(mut self, time: Option<Duration>) -> Self {
        self.kind = Kind::Transient(time);
        self
    }

    #[must_use]
    pub(super) fn not_there(mut self) -> Self {
        self.kind = Kind::Missing;
        self
    }

    #[must_use]
    pub(super) fn unauthorized(mut self, challenges: String) -> Self {
        self.kind = Kind::Unauthorized(challenges);
        self
    }

    #[must_use]
    pub(super) fn forbidden(mut self) -> Self {
        self.kind = Kind::Forbidden;
        self
    }

    /// It was tried so often.
    #[must_use]
    pub(super) fn tried(mut self, times: usize) -> Self {
        if times > 1 {
            self.problem = format!("{}; tried {times} times", self.problem);
        }
        self
    }

    /// More to the problem.
    #[must_use]
    pub(super) fn and(mut self, more: &str) -> Self {
        self.problem = format!("{}; {more}", self.problem);
        self
    }

    pub(super) fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Transient(_))
    }

    /// How long the server wants to be left alone.
    pub(super) fn asked_to_wait(&self) -> Option<Duration> {
        match self.kind {
            Kind::Transient(time) => time,
            Kind::Final
            | Kind::Missing
            | Kind::Content
            | Kind::Unauthorized(_)
            | Kind::Forbidden => None,
        }
    }
}

/// What went wrong before there was an answer. A certificate that is not believed now is not believed in a second either.
pub(super) fn unanswered(from: &Url, error: &reqwest::Error, silence: String) -> FetchError {
    if let Some(rustls::Error::InvalidCertificate(certificate)) = tls_error(error) {
        return FetchError::refused(
            from,
            format!("its certificate is not trusted: {certificate}"),
        )
        .advise(remedy(certificate));
    }
    if tls_error(error).is_some_and(speaks_no_tls) && causes(error).contains("tunnel") {
        return FetchError::refused(from, "the proxy speaks no TLS").advise(PLAIN_PROXY);
    }
    if tls_error(error).is_some_and(speaks_no_tls) {
        let place = from.host_str().unwrap_or_default();
        let port = from.port().map(|port| format!(":{port}"));
        let place = format!("{place}{}", port.unwrap_or_default());
        return FetchError::refused(from, "what answers there speaks no TLS").advise(format!(
            "if that server is meant to speak plain http: --mirror {place}=http://{place}"
        ));
    }
    let causes = causes(error);
    if error.is_redirect() || error.is_builder() {
        FetchError::refused(from, causes)
    } else if causes.contains("proxy authorization required") {
        FetchError::refused(from, causes).advise(PROXY_LOGIN)
    } else if causes.contains("tunnel") && causes.contains("unsuccessful") {
        FetchError::transient(from, "the proxy opens no way there").advise(PROXY_RULES)
    } else if error.is_timeout() {
        FetchError::transient(from, silence).advise(WAY)
    } else {
        FetchError::transient(from, causes).advise(WAY)
    }
}

/// What to try where nobody answers.
const WAY: &str = "look at the name, and at this machine's way to it: behind a proxy, HTTPS_PROXY names the proxy, and --mirror HOST=URL takes another server";

/// What to try where what comes is not what was promised.
pub const CHANGED: &str = "a mirror or a proxy may have changed it; try again without";

/// What to try where a server is asked for too much.
pub(super) const LATER: &str = "try again later: what came is in the cache. Registries let those fetch more who did docker login; --mirror HOST=URL takes another server";

/// What to try where a transfer does not get to its end.
pub(super) const AGAIN: &str =
    "the same command goes on from what is in the cache; --mirror HOST=URL takes another server";

/// What to try where a proxy was named with https:// and is none that speaks it.
const PLAIN_PROXY: &str = "most proxies are spoken to in plain http, whatever goes through them: name it with http:// in its variable";

/// What to try where a proxy answers and leads nowhere.
const PROXY_RULES: &str = "its rules may not allow that host, or it does not reach it itself: ask who runs the proxy; NO_PROXY names what is asked without it, and --mirror HOST=URL takes another server";

/// What to try where a proxy wants to know who asks.
pub(super) const PROXY_LOGIN: &str = "give the proxy's user and password in its variable: http://USER:PASSWORD@PROXY (Basic; one that takes nothing but NTLM or Kerberos needs a proxy of your own before it)";

fn remedy(certificate: &CertificateError) -> &'static str {
    match certificate {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "compare this machine's clock; if it is right, the server's certificate must be renewed"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "use the name that the certificate is for; something may answer in the server's place"
        }
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the server shows a CA's certificate as its own, which says that it may sign others: make it one of a server (openssl req -x509 … -addext basicConstraints=critical,CA:FALSE), and give that with --cacert FILE"
        }
        _ => "if a private CA made it, give that CA's certificate with --cacert FILE",
    }
}

/// Whether the first bytes of an answer were none of TLS.
fn speaks_no_tls(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)
    )
}

/// What TLS has to say of it.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        // The `source` of an I/O error is that of the error inside, not that error itself.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// An HTTP error's causes without its own text, which repeats the address.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut source = Error::source(error);
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    texts.dedup();
    if texts.is_empty() {
        error.to_string()
    } else {
        texts.join(": ")
    }
}
