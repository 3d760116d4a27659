//! HTTP with limits: on time, on size, on redirects, on transfers at once; with retries, and resumption of half-read bodies.
//!
//! What is guaranteed: no body is longer than its limit; nothing waits longer than the policy says, without a byte or for one byte at a time; a redirect never leads from
//! https to http, and what identifies us goes to no other host; a resumed body continues the same file (`partial`) or starts again; 4xx answers are final, 5xx, 429 and
//! broken connections are tried again (`retry`). Every error names the address that was asked. What is not: that the bytes are the right ones; the caller compares the digests.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::time::{Instant, SystemTime};

use base64ct::{Base64, Encoding as _};
use reqwest::blocking::{Client as Http, Response};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, IF_RANGE, RANGE,
    WWW_AUTHENTICATE,
};
use reqwest::{Method, StatusCode, Url};
use zeroize::Zeroizing;

use super::error::{AGAIN, LATER, PROXY_LOGIN, causes, unanswered};
use super::hosts::{Hosts, Leave};
use super::logins::Logins;
use super::network::{Network, Redirects};
use super::pace::Pace;
use super::partial::Partial;
use super::proxies::Proxies;
use super::retry::{Policy, Retries, Stop, retry_after};
use crate::mirrors::{Mirrors, authority};
use crate::pack::space;
use crate::progress::Task;
use crate::releases::Algorithm;

pub use super::error::{CHANGED, FetchError};
pub use super::partial::Saved;

/// What to do where a disk is full or cannot be written to.
const MAKE_ROOM: &str = "make room where the cache is (kpot cache prune), or name another folder with --cache; with --no-cache it is kept beside the output file";

/// Who asks.
#[derive(Clone)]
pub enum Authorization {
    /// Somebody with this token.
    Bearer(Zeroizing<String>),
    /// A user with a password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        secret: Zeroizing<String>,
    },
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer(…)",
            Self::Basic { .. } => "Basic(…)",
        })
    }
}

impl Authorization {
    /// The header; `None` where a token holds what no header may.
    fn header(&self) -> Option<HeaderValue> {
        let text = Zeroizing::new(match self {
            Self::Bearer(token) => format!("Bearer {}", **token),
            Self::Basic { user, secret } => {
                let both = Zeroizing::new(format!("{user}:{}", **secret));
                format!("Basic {}", Base64::encode_string(both.as_bytes()))
            }
        });
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The publisher's address; mirrors are applied to it.
    pub url: &'a Url,
    /// The `Accept` header.
    pub accept: Option<&'a str>,
    /// Who asks, where the server wants to know.
    pub authorization: Option<&'a Authorization>,
}

impl<'a> Ask<'a> {
    /// A plain request.
    pub fn plain(url: &'a Url) -> Self {
        Self {
            url,
            accept: None,
            authorization: None,
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

/// The HTTP client of a run.
pub struct Client {
    http: Http,
    network: Network,
    stop: Stop,
    hosts: Hosts,
}

/// What is sent.
struct Request<'a> {
    method: Method,
    headers: HeaderMap,
    /// A form; it is for this one host, and no redirect is followed with it.
    form: Option<&'a str>,
}

impl Request<'_> {
    fn new(method: Method) -> Self {
        Self {
            method,
            headers: HeaderMap::new(),
            form: None,
        }
    }
}

impl Client {
    /// A client that fetches through `mirrors`, and is nobody in particular.
    ///
    /// # Errors
    /// As for [`Self::with`].
    pub fn new(mirrors: Mirrors, policy: Policy, stop: Stop) -> anyhow::Result<Self> {
        let network = Network {
            mirrors,
            policy,
            ..Network::default()
        };
        Self::with(network, stop)
    }

    /// A client for this network.
    ///
    /// # Errors
    /// Where TLS cannot be set up, for want of trusted roots say, or a proxy's variable names none.
    pub fn with(network: Network, stop: Stop) -> anyhow::Result<Self> {
        Ok(Self {
            http: network.client(Redirects::Followed)?,
            hosts: Hosts::new(network.policy.per_host),
            network,
            stop,
        })
    }

    /// Where `url` is really fetched from.
    pub fn route(&self, url: &Url) -> Url {
        self.network.mirrors.route(url)
    }

    /// How many transfers there may be at once.
    pub fn connections(&self) -> usize {
        self.network.policy.connections
    }

    pub(super) fn logins(&self) -> &Logins {
        &self.network.logins
    }

    /// Fetches something small.
    ///
    /// # Errors
    /// [`FetchError`] with the address really asked.
    pub fn get(&self, ask: Ask<'_>, limit: u64, task: &Task) -> Result<Reply, FetchError> {
        self.small(ask, &|| Request::new(Method::GET), limit, task)
    }

    /// Sends a form, and fetches the small answer. What is in the form goes to this host alone.
    ///
    /// # Errors
    /// [`FetchError`] with the address really asked.
    pub(super) fn post(
        &self,
        ask: Ask<'_>,
        form: &str,
        limit: u64,
        task: &Task,
    ) -> Result<Reply, FetchError> {
        let request = || Request {
            form: Some(form),
            ..Request::new(Method::POST)
        };
        self.small(ask, &request, limit, task)
    }

    fn small<'a>(
        &self,
        ask: Ask<'_>,
        request: &dyn Fn() -> Request<'a>,
        limit: u64,
        task: &Task,
    ) -> Result<Reply, FetchError> {
        let from = self.route(ask.url);
        self.retry(task, || {
            let _leave = self.enter(&from)?;
            let response = self.send(request(), &from, ask)?;
            let headers = response.headers().clone();
            let body = self.read(response, &from, limit)?;
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
        let from = self.route(ask.url);
        self.retry(task, || {
            let _leave = self.enter(&from)?;
            let response = self.send(Request::new(Method::HEAD), &from, ask)?;
            // The header itself: what the client knows of the body is that a HEAD has none. Nothing worth fetching is empty; 0 is a server's way not to say.
            let length = response.headers().get(CONTENT_LENGTH);
            Ok(length
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .filter(|length| *length > 0))
        })
    }

    /// Fetches a file into `to`. Its SHA-256 is always taken, its SHA-512 where `hash` says so. What `to` holds already is taken for the file's beginning, and only the
    /// rest is asked for: the caller knows the digest, and begins anew where it comes out wrong.
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
        let mut partial = Partial::take_up(to, hash)
            .map_err(|cause| cannot_write(&self.route(ask.url), &cause))?;
        self.fill(ask, size, task, &mut partial)?;
        Ok(partial.finish())
    }

    /// Goes on fetching a file until it is whole. After a failure `partial` keeps what can be continued.
    pub(super) fn fill(
        &self,
        ask: Ask<'_>,
        size: Size,
        task: &Task,
        partial: &mut Partial,
    ) -> Result<(), FetchError> {
        let from = self.route(ask.url);
        task.restart();
        task.resume(partial.length());
        let mut retries = Retries::new(&self.network.policy, &self.stop, task);
        while let Err(error) = self.continue_filling(&from, ask, size, task, partial) {
            retries.wait(error, partial.length())?;
        }
        Ok(())
    }

    fn continue_filling(
        &self,
        from: &Url,
        ask: Ask<'_>,
        size: Size,
        task: &Task,
        partial: &mut Partial,
    ) -> Result<(), FetchError> {
        if matches!(size, Size::Exactly(size) if size > 0 && size == partial.length()) {
            // Only the end of the last answer was missing.
            return Ok(());
        }
        let _leave = self.enter(from)?;
        let mut request = Request::new(Method::GET);
        if partial.is_resumable() {
            let range = format!("bytes={}-", partial.length());
            let range = range
                .parse()
                .map_err(|_| FetchError::refused(from, "no range"))?;
            request.headers.insert(RANGE, range);
            if let Some(validator) = partial.validator() {
                request.headers.insert(IF_RANGE, validator);
            }
        }
        let mut response = self.send(request, from, ask)?;
        let begin_again = |partial: &mut Partial| {
            task.restart();
            partial
                .restart()
                .map_err(|cause| cannot_write(from, &cause))
        };
        let refused = |problem| FetchError::refused(from, problem);
        // Where this answer must end, and how long the whole is.
        let (end, total) = match response.status() {
            StatusCode::PARTIAL_CONTENT => match partial.continues_with(response.headers()) {
                Ok(range) => (Some(range.end), range.total),
                Err(problem) => {
                    begin_again(partial)?;
                    return Err(FetchError::transient(from, problem));
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE => {
                begin_again(partial)?;
                return Err(FetchError::transient(
                    from,
                    "the file became shorter on the server while it was fetched",
                ));
            }
            _ => {
                if partial.length() > 0 {
                    begin_again(partial)?;
                }
                partial.begins_with(response.headers());
                (response.content_length(), response.content_length())
            }
        };
        if let Some(total) = total {
            size.check(total).map_err(refused)?;
            space::ensure(&partial.file, total - partial.length())
                .map_err(|problem| refused(problem).advise(MAKE_ROOM))?;
            task.expect(total);
        }
        let mut buffer = vec![0; 128 << 10];
        let mut pace = Pace::new(&self.network.policy);
        loop {
            let count = self.piece(&mut response, &mut buffer, &mut pace, from)?;
            if count == 0 {
                break;
            }
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
        let length = partial.length();
        if end.is_some_and(|end| length != end) {
            begin_again(partial)?;
            let problem = "the server sent another part than it said";
            return Err(FetchError::transient(from, problem));
        }
        if total.is_some_and(|total| length < total) {
            return Err(FetchError::transient(from, "the server sent only a part"));
        }
        // A body without a stated length that ends early ends like any other.
        size.check(length)
            .map_err(|problem| FetchError::transient(from, problem))
    }

    fn send(&self, request: Request<'_>, from: &Url, ask: Ask<'_>) -> Result<Response, FetchError> {
        let ranged = request.headers.contains_key(RANGE);
        let mut headers = request.headers;
        if let Some(accept) = ask.accept.and_then(|accept| accept.parse().ok()) {
            headers.insert(ACCEPT, accept);
        }
        if let Some(authorization) = ask.authorization {
            let header = authorization.header().ok_or_else(|| {
                FetchError::refused(from, "the token for it holds what no header may")
            })?;
            headers.insert(AUTHORIZATION, header);
        }
        let answer = match request.form {
            None => self
                .http
                .request(request.method, from.clone())
                .headers(headers)
                .send(),
            Some(form) => {
                let once = self.network.client(Redirects::Refused);
                let once = once.map_err(|cause| FetchError::refused(from, format!("{cause:#}")))?;
                once.request(request.method, from.clone())
                    .headers(headers)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.to_owned())
                    .send()
            }
        };
        let response = answer.map_err(|cause| {
            let error = unanswered(from, &cause, self.silence());
            if cause.is_connect() {
                through_proxies(error)
            } else {
                error
            }
        })?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if ranged => {
                Ok(response)
            }
            _ => Err(refusal(from, &response)),
        }
    }

    /// A whole body of `limit` bytes at most.
    fn read(&self, mut response: Response, from: &Url, limit: u64) -> Result<Vec<u8>, FetchError> {
        let beyond = |problem| FetchError::refused(from, problem);
        if let Some(length) = response.content_length() {
            Size::AtMost(limit).check(length).map_err(beyond)?;
        }
        let mut pace = Pace::new(&self.network.policy);
        let (mut body, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
        loop {
            let count = self.piece(&mut response, &mut buffer, &mut pace, from)?;
            if count == 0 {
                return Ok(body);
            }
            if (body.len() + count) as u64 > limit {
                return Err(beyond(format!(
                    "it has more than the limit of {limit} bytes"
                )));
            }
            body.extend_from_slice(&buffer[..count]);
        }
    }

    /// The next piece of a body; 0 bytes are its end.
    fn piece(
        &self,
        response: &mut Response,
        buffer: &mut [u8],
        pace: &mut Pace,
        from: &Url,
    ) -> Result<usize, FetchError> {
        loop {
            if self.stop.requested() {
                return Err(given_up(from));
            }
            let started = Instant::now();
            match response.read(buffer) {
                Ok(0) => return Ok(0),
                Ok(count) => {
                    pace.took(started.elapsed(), count as u64)
                        .map_err(|problem| FetchError::transient(from, problem).advise(AGAIN))?;
                    return Ok(count);
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.broken(from, &cause)),
            }
        }
    }

    fn retry<T>(
        &self,
        task: &Task,
        attempt: impl Fn() -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let mut retries = Retries::new(&self.network.policy, &self.stop, task);
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(error) => retries.wait(error, 0)?,
            }
        }
    }

    /// Leave to speak with the host of `from`.
    fn enter(&self, from: &Url) -> Result<Leave<'_>, FetchError> {
        self.hosts
            .enter(from, &self.stop)
            .ok_or_else(|| given_up(from))
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
        .advise(AGAIN)
    }

    fn silence(&self) -> String {
        format!("nothing came for {:.0?}", self.network.policy.stall)
    }
}

/// What an answer means that is not the thing itself.
fn refusal(from: &Url, response: &Response) -> FetchError {
    let (status, headers) = (response.status(), response.headers());
    // Where it redirects may be another host, whose name helps; the rest of that address may be a secret for a while.
    let elsewhere = authority(response.url()).filter(|host| authority(from).as_ref() != Some(host));
    let answer = match &elsewhere {
        Some(host) => format!("{host}, where it redirects, answered {status}"),
        None => format!("the server answered {status}"),
    };
    let refused = FetchError::refused(from, answer);
    match status {
        // What another host wants to know is no business of ours.
        StatusCode::UNAUTHORIZED if elsewhere.is_none() => {
            let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
            let challenges: Vec<&str> = challenges.filter_map(|it| it.to_str().ok()).collect();
            refused.unauthorized(challenges.join(", ")).advise(
                "if it is not for everybody: docker login, for images; or use --mirror with a server that has it",
            )
        }
        StatusCode::FORBIDDEN => refused.forbidden().advise(
            "it may exist and not be for everybody: docker login, for images; or use --mirror with a server that has it",
        ),
        StatusCode::NOT_FOUND | StatusCode::GONE => refused
            .not_there()
            .advise("check the version or the name, and that a mirror has the publisher's layout"),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => refused.advise(PROXY_LOGIN),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            refused
                .wait(retry_after(headers, SystemTime::now()))
                .advise(LATER)
        }
        status if status.is_server_error() => refused
            .wait(retry_after(headers, SystemTime::now()))
            .advise("the server's own trouble; try again later or use --mirror"),
        _ => refused,
    }
}

fn given_up(from: &Url) -> FetchError {
    FetchError::refused(from, "given up")
}

/// A connection that fails may be the proxy's, which the message would not name.
fn through_proxies(error: FetchError) -> FetchError {
    let variables = Proxies::of_user().map(|proxies| proxies.variables());
    match variables {
        Ok(variables) if !variables.is_empty() => {
            error.and(&format!("a proxy is set by {}", variables.join(", ")))
        }
        _ => error,
    }
}

pub(super) fn cannot_write(from: &Url, cause: &io::Error) -> FetchError {
    FetchError::refused(from, format!("cannot write it down: {cause}")).advise(MAKE_ROOM)
}
