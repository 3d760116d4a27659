//! How the network is reached: mirrors, limits, trusted authorities, proxies, logins; and the HTTP client made of them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use reqwest::blocking::Client as Http;
use reqwest::dns::{Name, Resolve, Resolving};
use reqwest::{Certificate, Proxy, Url, redirect};

use super::error::causes;
use super::logins::Logins;
use super::proxies::Proxies;
use super::retry::Policy;
use crate::exit::usage;
use crate::mirrors::Mirrors;

/// The largest file of authorities, in bytes; a system's whole bundle has some 220 KB.
const AUTHORITIES_LIMIT: u64 = 4 << 20;

/// How many redirects are followed: a download page, a content network and a region, with room to spare.
const REDIRECTS: usize = 8;

/// What a client is made of.
#[derive(Default)]
pub struct Network {
    /// What is fetched from elsewhere.
    pub mirrors: Mirrors,
    /// How long, how often, how much at once.
    pub policy: Policy,
    /// Authorities that are trusted besides the system's.
    pub authorities: Vec<Certificate>,
    /// Who we are to registries that ask.
    pub logins: Logins,
    /// Who finds the addresses of names, instead of the system.
    pub resolver: Option<Arc<dyn Resolve>>,
}

/// Whether redirects are followed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Redirects {
    /// By the rules of [`may_follow`].
    Followed,
    /// Not at all: what is sent is for that one host.
    Refused,
}

/// Reads certificates of authorities (PEM) from `path`.
///
/// # Errors
/// Where the file cannot be read, or holds none.
pub fn authorities(path: &Path) -> anyhow::Result<Vec<Certificate>> {
    let attempt = || format!("cannot read the authorities in {}", path.display());
    let mut bytes = Vec::new();
    File::open(path)
        .with_context(attempt)?
        .take(AUTHORITIES_LIMIT + 1)
        .read_to_end(&mut bytes)
        .with_context(attempt)?;
    if bytes.len() as u64 > AUTHORITIES_LIMIT {
        return Err(anyhow!("it has more than {AUTHORITIES_LIMIT} bytes").context(attempt()));
    }
    let certificates = Certificate::from_pem_bundle(&bytes).with_context(attempt)?;
    if certificates.is_empty() {
        return Err(usage(format!(
            "{} holds no certificate: expected PEM, with -----BEGIN CERTIFICATE-----",
            path.display()
        )));
    }
    Ok(certificates)
}

impl Network {
    /// An HTTP client for this network.
    ///
    /// # Errors
    /// Where TLS cannot be set up, for want of trusted authorities say, or a proxy's variable names none.
    pub(super) fn client(&self, redirects: Redirects) -> anyhow::Result<Http> {
        let proxies = Proxies::of_user().map_err(usage)?;
        // Fails where a provider is installed already, by an earlier client of this process: the same one.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Http::builder()
            .user_agent(concat!("kpot/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.policy.connect)
            // Of a blocking client this is the limit of each single wait, for the headers and for each piece of a body.
            .timeout(self.policy.stall)
            // The address of a redirected download may be a secret for a while.
            .referer(false)
            .proxy(Proxy::custom(move |url| proxies.before(url).cloned()))
            .redirect(match redirects {
                Redirects::Followed => redirect::Policy::custom(follow),
                Redirects::Refused => redirect::Policy::none(),
            })
            .tls_certs_merge(self.authorities.iter().cloned());
        if let Some(resolver) = &self.resolver {
            builder = builder.dns_resolver(Arc::new(Given(Arc::clone(resolver))));
        }
        builder.build().map_err(|cause| {
            anyhow!(
                "cannot set up TLS: {} (is the package ca-certificates installed, and every certificate given with --cacert an authority's?)",
                causes(&cause)
            )
        })
    }
}

struct Given(Arc<dyn Resolve>);

impl Resolve for Given {
    fn resolve(&self, name: Name) -> Resolving {
        self.0.resolve(name)
    }
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
        Err(format!("it redirects from https to {}", shown(next)))
    } else if previous.len() > REDIRECTS {
        let place = if previous.contains(next) {
            ", in a loop"
        } else {
            ""
        };
        Err(format!("it redirects more than {REDIRECTS} times{place}"))
    } else {
        Ok(())
    }
}

/// An address that a server made up, without what may be secret in it.
pub(super) fn shown(url: &Url) -> String {
    let host = crate::mirrors::authority(url).unwrap_or_default();
    format!("{}://{host}{}", url.scheme(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_never_leave_https_and_end() {
        let url = |text: &str| Url::parse(text).unwrap();
        let (secure, plain) = (url("https://a.example/"), url("http://a.example/?secret"));
        assert!(may_follow(std::slice::from_ref(&secure), &url("https://b.example/")).is_ok());
        assert!(may_follow(std::slice::from_ref(&plain), &secure).is_ok());
        assert!(may_follow(std::slice::from_ref(&plain), &plain).is_ok());
        let refused = may_follow(&[plain.clone(), secure], &plain).unwrap_err();
        assert!(
            refused.contains("from https to http://a.example/"),
            "{refused}"
        );
        assert!(!refused.contains("secret"), "{refused}");
        let refused = may_follow(&vec![plain.clone(); REDIRECTS + 1], &plain).unwrap_err();
        assert!(
            refused.contains("more than 8 times, in a loop"),
            "{refused}"
        );
        let refused = may_follow(&vec![plain; REDIRECTS + 1], &url("http://b.example/"));
        assert!(!refused.unwrap_err().contains("loop"));
    }
}
