//! Who we are to a registry: nobody, a login, or the holder of a token that one of both was given.
//!
//! A registry is asked without a login first, and told more only when it wants to know. A login goes to the registry that it is stored for, or to the server of tokens that
//! is known to be that registry's; both over https. Whatever else a registry names gets an anonymous request: anybody can answer 401 and name any server. Where no login can
//! be looked up, a token is asked for anonymously, too: most images are for everybody.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use reqwest::Url;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::challenge::Challenge;
use super::error::FetchError;
use super::http::{Ask, Authorization, Client, Reply};
use super::logins::Login;
use super::network::shown;
use crate::image_name::ImageName;
use crate::mirrors::{authority, registry_root};
use crate::progress::Task;

/// The largest token answer, in bytes; tokens have one to four thousand.
const LIMIT: u64 = 256 << 10;

/// Registries whose tokens come from another host of the same people.
const TOKEN_SERVERS: [(&str, &str); 2] = [
    ("registry-1.docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
];

/// What registries gave us in this run.
pub(super) struct Tokens<'a> {
    client: &'a Client,
    /// By registry and repository.
    known: Mutex<HashMap<(String, String), Authorization>>,
}

#[derive(Deserialize)]
struct TokenReply {
    token: Option<Zeroizing<String>>,
    access_token: Option<Zeroizing<String>>,
}

/// A server of tokens, as a challenge names it.
struct TokenServer {
    realm: Url,
    service: Option<String>,
    scope: String,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
        }
    }

    /// Asks as who we are known there, and again where the registry wants to know better. Tokens live for minutes: one that has just been given and is refused is the
    /// end, unless bytes came by it, `so_far` in all.
    pub(super) fn with<T>(
        &self,
        name: &ImageName,
        task: &Task,
        so_far: &Cell<u64>,
        mut request: impl FnMut(Option<&Authorization>) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let key = (name.registry().to_owned(), name.repository().to_owned());
        let root =
            registry_root(name.registry()).map_err(|problem| FetchError::refused(name, problem))?;
        let registry = self.client.route(&root);
        let known = self.lock().get(&key).cloned();
        let mut result = request(known.as_ref());
        let mut given_at = None;
        loop {
            let refused = match result {
                Ok(done) => return Ok(done),
                Err(error) if error.challenge().is_some() => error,
                Err(error) => return Err(self.as_nobody(&registry, error)),
            };
            if given_at.is_some_and(|before| so_far.get() <= before) {
                return Err(self.explain(&registry, refused));
            }
            let Some(authorization) = self.answer(&registry, name, &refused, task)? else {
                return Err(self.explain(&registry, refused));
            };
            given_at = Some(so_far.get());
            result = request(Some(&authorization));
            self.lock().insert(key.clone(), authorization);
        }
    }

    /// What to say to the challenges, where there is something.
    fn answer(
        &self,
        registry: &Url,
        name: &ImageName,
        refused: &FetchError,
        task: &Task,
    ) -> Result<Option<Authorization>, FetchError> {
        let challenge = refused.challenge().and_then(Challenge::choose);
        let (realm, service, scope) = match challenge {
            None => return Ok(None),
            Some(Challenge::Basic) => {
                let login = self.login(registry)?;
                return Ok(login.and_then(|login| match login {
                    Login::Password { user, secret } => Some(Authorization::Basic { user, secret }),
                    Login::Registry(token) => Some(Authorization::Bearer(token)),
                    Login::Identity(_) => None,
                }));
            }
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => (realm, service, scope),
        };
        let realm = self.realm(registry, &realm)?;
        let login = if is_token_server(registry, &self.client.route(&realm)) {
            self.login_if_any(registry, task)
        } else {
            None
        };
        let server = TokenServer {
            realm,
            service,
            scope: scope.unwrap_or_else(|| pull(registry, name)),
        };
        self.token(&server, login, task)
            .map(Some)
            .map_err(|error| self.as_nobody(registry, error))
    }

    /// The address that hands out tokens. Who answers over plain http does not name it either.
    fn realm(&self, registry: &Url, text: &str) -> Result<Url, FetchError> {
        let refused = |problem: String| FetchError::refused(registry, problem);
        let realm = Url::parse(text)
            .map_err(|cause| refused(format!("it names no address for tokens: {cause}")))?;
        let routed = self.client.route(&realm);
        if !matches!(routed.scheme(), "http" | "https")
            || !realm.username().is_empty()
            || realm.password().is_some()
        {
            return Err(refused("it names no address for tokens".to_owned()));
        }
        if registry.scheme() == "https" && routed.scheme() != "https" {
            return Err(refused(format!(
                "it hands out tokens without https, at {}",
                shown(&realm)
            )));
        }
        Ok(realm)
    }

    fn token(
        &self,
        server: &TokenServer,
        login: Option<Login>,
        task: &Task,
    ) -> Result<Authorization, FetchError> {
        let authorization = match login {
            None => None,
            Some(Login::Registry(token)) => return Ok(Authorization::Bearer(token)),
            Some(Login::Password { user, secret }) => Some(Authorization::Basic { user, secret }),
            Some(Login::Identity(token)) => {
                let form = server.form(&token);
                let ask = Ask::plain(&server.realm);
                let reply = self.client.post(ask, &form, LIMIT, task);
                return read(&reply.map_err(login_refused)?);
            }
        };
        let url = server.query();
        let ask = Ask {
            authorization: authorization.as_ref(),
            ..Ask::plain(&url)
        };
        let reply = self.client.get(ask, LIMIT, task);
        read(&match authorization {
            Some(_) => reply.map_err(login_refused)?,
            None => reply?,
        })
    }

    fn login(&self, registry: &Url) -> Result<Option<Login>, FetchError> {
        self.client.logins().find(registry).map_err(|problem| {
            FetchError::refused(registry, format!("it wants a login; {problem}"))
        })
    }

    /// The same for whoever may do without: why none can be looked up is told once.
    fn login_if_any(&self, registry: &Url, task: &Task) -> Option<Login> {
        let logins = self.client.logins();
        logins.find(registry).unwrap_or_else(|problem| {
            if logins.is_news(&problem) {
                task.note(&format!(
                    "warning: no login could be looked up: {problem}; going on without one"
                ));
            }
            None
        })
    }

    /// A refusal of what was asked for without a login, with why none could be looked up, where that is so.
    fn as_nobody(&self, registry: &Url, error: FetchError) -> FetchError {
        match self.client.logins().failure(registry) {
            Some(problem) if error.is_for_others() => error.and(&format!(
                "it was asked without a login, because none could be looked up: {problem}"
            )),
            _ => error,
        }
    }

    /// Why no login helped.
    fn explain(&self, registry: &Url, refused: FetchError) -> FetchError {
        if registry.scheme() != "https" {
            return refused.and("over plain http it gets no login");
        }
        match self.login(registry) {
            Err(problem) => problem,
            Ok(None) => refused,
            Ok(Some(_)) => {
                let challenge = refused.challenge().and_then(Challenge::choose);
                let sent = match challenge {
                    Some(Challenge::Bearer { realm, .. }) => Url::parse(&realm)
                        .is_ok_and(|realm| is_token_server(registry, &self.client.route(&realm))),
                    Some(Challenge::Basic) | None => true,
                };
                refused.and(if sent {
                    "the login that docker login stored for it did not help"
                } else {
                    "its tokens come from another host, which does not get the login that docker login stored for it"
                })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Authorization>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenServer {
    fn query(&self) -> Url {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &self.scope);
        }
        url
    }

    /// The form of OAuth 2 for a token that gets tokens.
    fn form(&self, token: &str) -> Zeroizing<String> {
        let mut url = self.realm.clone();
        url.set_query(None);
        url.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", "kpot")
            .append_pair("service", self.service.as_deref().unwrap_or_default())
            .append_pair("scope", &self.scope)
            .append_pair("refresh_token", token);
        Zeroizing::new(url.query().unwrap_or_default().to_owned())
    }
}

/// What is asked for where the registry does not say: to pull from the repository, as the server calls it that is really asked. A mirror may keep its copies below a
/// namespace of its own, which is then the end of its address.
fn pull(registry: &Url, name: &ImageName) -> String {
    let namespace = registry.path().strip_prefix("/v2/").unwrap_or_default();
    format!("repository:{namespace}{}:pull", name.repository())
}

/// Whether the login for `registry` may be shown at `realm`.
fn is_token_server(registry: &Url, realm: &Url) -> bool {
    let hosts = (authority(registry), authority(realm));
    let (Some(registry_host), Some(realm_host)) = hosts else {
        return false;
    };
    registry.scheme() == "https"
        && realm.scheme() == "https"
        && (registry_host == realm_host
            || TOKEN_SERVERS.contains(&(registry_host.as_str(), realm_host.as_str())))
}

fn login_refused(error: FetchError) -> FetchError {
    if error.challenge().is_some() {
        error.and("it refuses the login that docker login stored")
    } else {
        error
    }
}

fn read(reply: &Reply) -> Result<Authorization, FetchError> {
    let none = || FetchError::refused(shown(&reply.from), "it did not answer with a token");
    // The body may hold a token: it is not repeated.
    let parsed: TokenReply = serde_json::from_slice(&reply.body).map_err(|_| none())?;
    let mut tokens = parsed.token.into_iter().chain(parsed.access_token);
    tokens
        .find(|token| !token.is_empty())
        .map(Authorization::Bearer)
        .ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_the_field_that_has_one() {
        let token = |body: &str| {
            let reply = Reply {
                headers: reqwest::header::HeaderMap::new(),
                body: body.as_bytes().to_vec(),
                from: Url::parse("https://auth.example/token").unwrap(),
            };
            match read(&reply) {
                Ok(Authorization::Bearer(token)) => token.to_string(),
                Ok(_) => panic!("another authorization"),
                Err(error) => error.to_string(),
            }
        };
        assert_eq!(token(r#"{"token":"a","access_token":"b"}"#), "a");
        assert_eq!(token(r#"{"token":"","access_token":"b"}"#), "b");
        assert_eq!(token(r#"{"token":null,"access_token":"b"}"#), "b");
        assert!(token(r#"{"token":""}"#).contains("did not answer with a token"));
    }

    #[test]
    fn a_login_goes_to_its_own_registry_or_to_that_ones_known_server() {
        let rows = [
            ("https://quay.io/", "https://quay.io/v2/auth", true),
            ("https://quay.io/", "https://quay.io:443/v2/auth", true),
            ("https://quay.io/", "http://quay.io/v2/auth", false),
            ("http://quay.io/", "https://quay.io/v2/auth", false),
            ("https://quay.io/", "https://quay.io:444/v2/auth", false),
            ("https://quay.io/", "https://auth.quay.io/", false),
            ("https://quay.io/", "https://auth.docker.io/token", false),
            (
                "https://registry-1.docker.io/",
                "https://auth.docker.io/token",
                true,
            ),
            (
                "https://auth.docker.io/",
                "https://registry-1.docker.io/",
                false,
            ),
            (
                "https://registry.gitlab.com/",
                "https://gitlab.com/jwt/auth",
                true,
            ),
        ];
        for (registry, realm, expected) in rows {
            let [registry_url, realm_url] = [registry, realm].map(|text| Url::parse(text).unwrap());
            assert_eq!(
                is_token_server(&registry_url, &realm_url),
                expected,
                "{registry} {realm}"
            );
        }
    }
}
