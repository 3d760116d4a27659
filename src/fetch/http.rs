//! HTTP with limits: on time, on size, on redirects; with retries, and resumption of half-read bodies.
//!
//! What is guaranteed: no body is longer than its limit; nothing waits longer than the policy says without a byte arriving; a redirect never leads from https to
//! http; a resumed body continues the same file (`If-Range`) or starts again; 4xx answers are final, 5xx, 429 and broken connections are tried again. Every error
//! names the address that was asked. What is not: that the bytes are the right ones; the caller compares the digests.
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use backon::{BlockingRetryable as _, ExponentialBuilder};
use bundle_spec::{Hasher, Sha256};
use reqwest::blocking::{Client as Http, Response};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED,
    RANGE, WWW_AUTHENTICATE,
};
use reqwest::redirect;
use reqwest::{Method, StatusCode, Url};
use sha2::Digest as _;

use crate::mirrors::Mirrors;
use crate::pack::space;
use crate::progress::Task;
use crate::releases::Algorithm;

/// How many redirects are followed: a download page, a content network and a region, with room to spare.
const REDIRECTS: usize = 8;

/// How long and how often things are tried.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The longest wait for a connection.
    pub connect: Duration,
    /// The longest wait for the next byte.
    pub stall: Duration,
    /// How often a failed request is tried again.
    pub retries: usize,
    /// The pause before the first retry; it doubles each time, up to 16 times this.
    pub pause: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            retries: 4,
            pause: Duration::from_millis(500),
        }
    }
}

/// Tells every transfer of a run to give up, because another one has failed for good.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for the stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps, but not past a stop.
    fn sleep(&self, time: Duration) {
        let slice = Duration::from_millis(50);
        let mut left = time;
        while !left.is_zero() && !self.requested() {
            let nap = left.min(slice);
            thread::sleep(nap);
            left -= nap;
        }
    }
}

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch {url}: {problem}{}", .advice.map_or(String::new(), |advice| format!(" ({advice})")))]
pub struct FetchError {
    url: String,
    problem: String,
    advice: Option<&'static str>,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Another try may help.
    Transient,
    /// Another try gives the same.
    Final,
    /// The server wants to know who asks; its challenge.
    Unauthorized(String),
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

    /// The same with a word on what to try.
    #[must_use]
    pub fn advise(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    /// The server's challenge, where it refused because it does not know who asks.
    pub fn challenge(&self) -> Option<&str> {
        match &self.kind {
            Kind::Unauthorized(challenge) => Some(challenge),
            Kind::Transient | Kind::Final => None,
        }
    }

    fn transient(url: &Url, problem: impl Into<String>) -> Self {
        Self {
            kind: Kind::Transient,
            ..Self::refused(url, problem)
        }
    }

    fn is_transient(&self) -> bool {
        self.kind == Kind::Transient
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The publisher's address; mirrors are applied to it.
    pub url: &'a Url,
    /// The `Accept` header.
    pub accept: Option<&'a str>,
    /// A bearer token.
    pub token: Option<&'a str>,
}

impl<'a> Ask<'a> {
    /// A plain request.
    pub fn plain(url: &'a Url) -> Self {
        Self {
            url,
            accept: None,
            token: None,
        }
    }
}

/// How large a body may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    /// No more than this.
    AtMost(u64),
    /// Exactly this.
    Exactly(u64),
}

impl Size {
    const fn limit(self) -> u64 {
        match self {
            Self::AtMost(limit) | Self::Exactly(limit) => limit,
        }
    }

    /// Whether a body of `length` bytes can be right.
    fn check(self, length: u64) -> Result<(), String> {
        match self {
            Self::AtMost(limit) if length > limit => Err(format!(
                "it has {length} bytes, more than the limit of {limit}"
            )),
            Self::Exactly(size) if length != size => {
                Err(format!("it has {length} bytes instead of {size}"))
            }
            Self::AtMost(_) | Self::Exactly(_) => Ok(()),
        }
    }
}

/// A small answer.
#[derive(Debug)]
pub struct Reply {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// Where it was really fetched from, after mirrors and before redirects.
    pub from: Url,
}

/// A file that was fetched.
#[derive(Debug)]
pub struct Saved {
    /// The file, at its end.
    pub file: File,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its SHA-512 in hex, where it was asked for.
    pub sha512: Option<String>,
}

/// The HTTP client of a run.
pub struct Client {
    http: Http,
    mirrors: Mirrors,
    policy: Policy,
    stop: Stop,
}

impl Client {
    /// A client that fetches through `mirrors`.
    ///
    /// # Errors
    /// Where TLS cannot be set up, for want of trusted roots say.
    pub fn new(mirrors: Mirrors, policy: Policy, stop: Stop) -> anyhow::Result<Self> {
        // Fails where a provider is installed already, by an earlier client of this process: the same one.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let http = Http::builder()
            .user_agent(concat!("kpot/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(policy.connect)
            // Of a blocking client this is the limit of each single wait, for the headers and for each piece of a body.
            .timeout(policy.stall)
            .redirect(redirect::Policy::custom(follow))
            .build()
            .map_err(|cause| {
                anyhow::anyhow!(
                    "cannot set up TLS: {} (is the package ca-certificates installed?)",
                    causes(&cause)
                )
            })?;
        Ok(Self {
            http,
            mirrors,
            policy,
            stop,
        })
    }

    /// Where `url` is really fetched from.
    pub fn route(&self, url: &Url) -> Url {
        self.mirrors.route(url)
    }

    /// Fetches something small.
    ///
    /// # Errors
    /// [`FetchError`] with the address really asked.
    pub fn get(&self, ask: Ask<'_>, limit: u64, task: &Task) -> Result<Reply, FetchError> {
        let from = self.mirrors.route(ask.url);
        self.retry(task, || {
            let response = self.send(Method::GET, &from, ask, HeaderMap::new())?;
            let headers = response.headers().clone();
            let mut body = Vec::new();
            response
                .take(limit + 1)
                .read_to_end(&mut body)
                .map_err(|cause| self.broken(&from, &cause))?;
            Size::AtMost(limit)
                .check(body.len() as u64)
                .map_err(|problem| FetchError::refused(&from, problem))?;
            Ok(Reply {
                headers,
                body,
                from: from.clone(),
            })
        })
    }

    /// How many bytes there are to fetch, asked without fetching them (`HEAD`); `None` where the server does not say.
    ///
    /// # Errors
    /// [`FetchError`] with the address really asked.
    pub fn length(&self, ask: Ask<'_>, task: &Task) -> Result<Option<u64>, FetchError> {
        let from = self.mirrors.route(ask.url);
        self.retry(task, || {
            let response = self.send(Method::HEAD, &from, ask, HeaderMap::new())?;
            // The header itself: what the client knows of the body is that a HEAD has none. Nothing worth fetching is empty; 0 is a server's way not to say.
            let length = response.headers().get(CONTENT_LENGTH);
            Ok(length
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .filter(|length| *length > 0))
        })
    }

    /// Fetches a file into `to`, which is empty. Its SHA-256 is always taken, its SHA-512 where `hash` says so.
    ///
    /// # Errors
    /// [`FetchError`] with the address really asked.
    pub fn save(
        &self,
        ask: Ask<'_>,
        to: File,
        size: Size,
        hash: Algorithm,
        task: &Task,
    ) -> Result<Saved, FetchError> {
        let from = self.mirrors.route(ask.url);
        let mut partial = Partial::new(to, hash);
        self.retry(task, || {
            self.continue_saving(&from, ask, size, task, &mut partial)
        })?;
        Ok(partial.finish())
    }

    fn continue_saving(
        &self,
        from: &Url,
        ask: Ask<'_>,
        size: Size,
        task: &Task,
        partial: &mut Partial,
    ) -> Result<(), FetchError> {
        let mut headers = HeaderMap::new();
        if let Some(validator) = partial.resumable() {
            headers.insert(IF_RANGE, validator);
            let range = format!("bytes={}-", partial.length());
            headers.insert(
                RANGE,
                range
                    .parse()
                    .map_err(|_| FetchError::refused(from, "no range"))?,
            );
        }
        let mut response = self.send(Method::GET, from, ask, headers)?;
        let continues = response.status() == StatusCode::PARTIAL_CONTENT
            && response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|range| range.to_str().ok())
                .is_some_and(|range| range.starts_with(&format!("bytes {}-", partial.length())));
        if !continues {
            task.restart();
            partial
                .restart()
                .map_err(|cause| cannot_write(from, &cause))?;
            if response.status() == StatusCode::PARTIAL_CONTENT {
                return Err(FetchError::transient(
                    from,
                    "the server sent another range than was asked for",
                ));
            }
        }
        partial.validator = validator(response.headers());
        if let Some(length) = response.content_length() {
            let total = partial.length() + length;
            size.check(total)
                .map_err(|problem| FetchError::refused(from, problem))?;
            space::ensure(&partial.file, length)
                .map_err(|problem| FetchError::refused(from, problem))?;
            task.expect(total);
        }
        let mut buffer = vec![0; 128 << 10];
        loop {
            if self.stop.requested() {
                return Err(FetchError::refused(from, "given up"));
            }
            let count = match response.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(self.broken(from, &cause)),
            };
            if partial.length() + count as u64 > size.limit() {
                return Err(FetchError::refused(
                    from,
                    format!("it has more than {} bytes", size.limit()),
                ));
            }
            partial
                .take(&buffer[..count])
                .map_err(|cause| cannot_write(from, &cause))?;
            task.advance(count as u64);
        }
        // A body without a stated length that ends early ends like any other.
        size.check(partial.length())
            .map_err(|problem| FetchError::transient(from, problem))
    }

    fn send(
        &self,
        method: Method,
        from: &Url,
        ask: Ask<'_>,
        headers: HeaderMap,
    ) -> Result<Response, FetchError> {
        let mut request = self.http.request(method, from.clone()).headers(headers);
        if let Some(accept) = ask.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(token) = ask.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = request.send().map_err(|cause| {
            if cause.is_redirect() || cause.is_builder() {
                FetchError::refused(from, causes(&cause))
            } else if cause.is_timeout() {
                FetchError::transient(from, self.silence())
            } else {
                FetchError::transient(from, causes(&cause))
            }
        })?;
        let status = response.status();
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        let answer = format!("the server answered {status}");
        Err(match status {
            StatusCode::UNAUTHORIZED => FetchError {
                kind: Kind::Unauthorized(
                    response
                        .headers()
                        .get(WWW_AUTHENTICATE)
                        .and_then(|value| value.to_str().ok())
                        .unwrap_or_default()
                        .to_owned(),
                ),
                ..FetchError::refused(from, answer)
            }
            .advise("kpot fetches without a login; use --mirror with a server that needs none"),
            StatusCode::FORBIDDEN => FetchError::refused(from, answer).advise(
                "it may exist and not be for everybody; use --mirror with a server that has it",
            ),
            StatusCode::NOT_FOUND | StatusCode::GONE => FetchError::refused(from, answer).advise(
                "check the version or the name, and that a mirror has the publisher's layout",
            ),
            // The file has become shorter than what we have of it: start again.
            StatusCode::RANGE_NOT_SATISFIABLE
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS => FetchError::transient(from, answer),
            status if status.is_server_error() => FetchError::transient(from, answer)
                .advise("the server's own trouble; try again later or use --mirror"),
            _ => FetchError::refused(from, answer),
        })
    }

    fn retry<T>(
        &self,
        task: &Task,
        attempt: impl FnMut() -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let stop = self.stop.clone();
        attempt
            .retry(
                ExponentialBuilder::default()
                    .with_min_delay(self.policy.pause)
                    .with_max_delay(self.policy.pause * 16)
                    .with_max_times(self.policy.retries)
                    .with_jitter(),
            )
            .sleep(move |time| stop.sleep(time))
            .when(|error| error.is_transient() && !self.stop.requested())
            .notify(|error, pause| {
                task.note(&format!(
                    "{error}; trying again in {:.1} s",
                    pause.as_secs_f32()
                ));
            })
            .call()
    }

    fn broken(&self, from: &Url, cause: &io::Error) -> FetchError {
        let http = cause
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<reqwest::Error>());
        match http {
            Some(http) if http.is_timeout() => FetchError::transient(from, self.silence()),
            Some(http) => {
                FetchError::transient(from, format!("the transfer broke off: {}", causes(http)))
            }
            None => FetchError::transient(from, format!("the transfer broke off: {cause}")),
        }
    }

    fn silence(&self) -> String {
        format!("nothing came for {:.0?}", self.policy.stall)
    }
}

/// A file that is being fetched, with the digests of what is there.
struct Partial {
    file: File,
    sha256: Hasher,
    sha512: Option<sha2::Sha512>,
    /// What `If-Range` compares, from the answer that the bytes so far came with.
    validator: Option<reqwest::header::HeaderValue>,
}

impl Partial {
    fn new(file: File, hash: Algorithm) -> Self {
        Self {
            file,
            sha256: Hasher::new(),
            sha512: (hash == Algorithm::Sha512).then(sha2::Sha512::new),
            validator: None,
        }
    }

    fn length(&self) -> u64 {
        self.sha256.length()
    }

    fn resumable(&self) -> Option<reqwest::header::HeaderValue> {
        self.validator.clone().filter(|_| self.length() > 0)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.sha256 = Hasher::new();
        self.sha512 = self.sha512.as_ref().map(|_| sha2::Sha512::new());
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        Ok(())
    }

    fn finish(self) -> Saved {
        let hex = |state: sha2::Sha512| {
            let digits = state.finalize();
            digits
                .iter()
                .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
        };
        Saved {
            file: self.file,
            size: self.sha256.length(),
            sha256: self.sha256.finish(),
            sha512: self.sha512.map(hex),
        }
    }
}

/// A weak `ETag` says only that two bodies mean the same, not that they are the same bytes.
fn validator(headers: &HeaderMap) -> Option<reqwest::header::HeaderValue> {
    headers
        .get(ETAG)
        .filter(|tag| !tag.as_bytes().starts_with(b"W/"))
        .or_else(|| headers.get(LAST_MODIFIED))
        .cloned()
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    match may_follow(attempt.previous(), attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(refusal) => attempt.error(refusal),
    }
}

/// Whether the way through `previous` may go on to `next`.
fn may_follow(previous: &[Url], next: &Url) -> Result<(), String> {
    let secure = |url: &Url| url.scheme() == "https";
    if previous.iter().any(secure) && !secure(next) {
        Err(format!("it redirects from https to {next}"))
    } else if previous.len() > REDIRECTS {
        Err(format!("it redirects more than {REDIRECTS} times"))
    } else {
        Ok(())
    }
}

fn cannot_write(from: &Url, cause: &io::Error) -> FetchError {
    FetchError::refused(from, format!("cannot write it down: {cause}"))
        .advise("what is fetched is kept beside the output file until the pot is written")
}

/// An HTTP error's causes without its own text, which repeats the address.
fn causes(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut source = std::error::Error::source(error);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_never_leave_https_and_end() {
        let url = |text: &str| Url::parse(text).unwrap();
        let (secure, plain) = (url("https://a.example/"), url("http://a.example/"));
        assert!(may_follow(std::slice::from_ref(&secure), &url("https://b.example/")).is_ok());
        assert!(may_follow(std::slice::from_ref(&plain), &secure).is_ok());
        assert!(may_follow(std::slice::from_ref(&plain), &plain).is_ok());
        let refused = may_follow(&[plain.clone(), secure], &plain).unwrap_err();
        assert!(refused.contains("from https to http://"), "{refused}");
        assert!(may_follow(&vec![plain.clone(); REDIRECTS + 1], &plain).is_err());
    }

    #[test]
    fn only_strong_validators_resume() {
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, "W/\"x\"".parse().unwrap());
        assert_eq!(validator(&headers), None);
        headers.insert(
            LAST_MODIFIED,
            "Sat, 21 Nov 2026 08:00:00 GMT".parse().unwrap(),
        );
        assert_eq!(
            validator(&headers).unwrap(),
            "Sat, 21 Nov 2026 08:00:00 GMT"
        );
        headers.insert(ETAG, "\"x\"".parse().unwrap());
        assert_eq!(validator(&headers).unwrap(), "\"x\"");
    }
}
