//! Who we are to registries that ask: what `docker login` left behind.
//!
//! Docker's configuration is read when the first registry asks, and not before: a build that needs no login does not depend on it. A login is given out for the server that
//! it is stored for, by host and port, and only over https; the one exception are servers that are one service under several names. It is never shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64ct::{Base64, Encoding as _};
use reqwest::Url;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::helper;
use crate::mirrors::{authority, service};

/// The largest configuration that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// What Docker calls Docker Hub, to its helpers too.
const HUB: &str = "https://index.docker.io/v1/";

/// What a server is shown.
#[derive(Clone)]
pub enum Login {
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        secret: Zeroizing<String>,
    },
    /// A token to get tokens with.
    Identity(Zeroizing<String>),
    /// A token for the registry itself.
    Registry(Zeroizing<String>),
}

/// The logins of a user.
#[derive(Default)]
pub struct Logins {
    /// Docker's `config.json`, which need not be there.
    file: Option<PathBuf>,
    /// What was found for each server: a helper is asked once.
    found: Mutex<HashMap<String, Result<Option<Login>, String>>>,
    /// The problems that the user was told of.
    told: Mutex<BTreeSet<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    #[serde(deserialize_with = "or_empty")]
    auths: BTreeMap<String, Option<Entry>>,
    #[serde(deserialize_with = "or_empty")]
    cred_helpers: BTreeMap<String, Option<String>>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(deserialize_with = "or_empty")]
    auth: Zeroizing<String>,
    #[serde(deserialize_with = "or_empty")]
    username: String,
    #[serde(deserialize_with = "or_empty")]
    password: Zeroizing<String>,
    #[serde(deserialize_with = "or_empty")]
    identitytoken: Zeroizing<String>,
    #[serde(deserialize_with = "or_empty")]
    registrytoken: Zeroizing<String>,
}

/// For Docker, `null` is as good as nothing.
fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(…)",
            Self::Identity(_) => "Identity(…)",
            Self::Registry(_) => "Registry(…)",
        })
    }
}

impl Logins {
    /// Those of the user who runs this: `config.json` in `DOCKER_CONFIG`, or else in `~/.docker`.
    pub fn of_user() -> Self {
        let named = |name| env::var_os(name).filter(|value| !value.is_empty());
        let folder = named("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| named("HOME").map(|home| PathBuf::from(home).join(".docker")));
        Self {
            file: folder.map(|folder| folder.join("config.json")),
            ..Self::default()
        }
    }

    /// Those in this file.
    pub fn in_file(file: &Path) -> Self {
        Self {
            file: Some(file.to_owned()),
            ..Self::default()
        }
    }

    /// The login for the server of `url`; none over plain http.
    ///
    /// # Errors
    /// A text, where Docker's configuration or a helper that it names cannot be read.
    pub(super) fn find(&self, url: &Url) -> Result<Option<Login>, String> {
        let (Some(file), Some(host), "https") = (&self.file, authority(url), url.scheme()) else {
            return Ok(None);
        };
        let host = service(&host).to_owned();
        // Held while a helper runs: a person is asked once, and not by six at the same time.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = found.get(&host) {
            return known.clone();
        }
        // A failure, too: else each of them would wait for the same helper once more.
        let login = read(file).and_then(|config| config.login(&host, file));
        found.insert(host, login.clone());
        login
    }

    /// Why [`Self::find`] found nothing for the server of `url`, where that failed.
    pub(super) fn failure(&self, url: &Url) -> Option<String> {
        let host = authority(url)?;
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(service(&host))?.as_ref().err().cloned()
    }

    /// Whether `problem` is told for the first time.
    pub(super) fn is_news(&self, problem: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(problem.to_owned())
    }
}

fn read(file: &Path) -> Result<Config, String> {
    let refused = |cause: String| format!("{} cannot be read: {cause}", file.display());
    let open = match File::open(file) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
        other => other.map_err(|cause| refused(cause.to_string()))?,
    };
    let mut text = Zeroizing::new(Vec::with_capacity(8 << 10));
    open.take(LIMIT)
        .read_to_end(&mut text)
        .map_err(|cause| refused(cause.to_string()))?;
    // The parser's message might repeat a secret.
    serde_json::from_slice(&text).map_err(|cause| {
        refused(format!(
            "it is not Docker's configuration (line {}, column {})",
            cause.line(),
            cause.column()
        ))
    })
}

impl Config {
    /// As Docker looks: a server's own helper, then the store, then what stands in the file. A helper of its own without a name keeps a server from the store.
    fn login(&self, host: &str, file: &Path) -> Result<Option<Login>, String> {
        let asked = if host == service("docker.io") {
            HUB
        } else {
            host
        };
        let named = |name: &&str| !name.is_empty();
        let own = self.cred_helpers.iter().find(|(key, _)| is_for(key, host));
        if let Some((_, name)) = own {
            if let Some(name) = name.as_deref().filter(named) {
                return helper::login(name, asked);
            }
        } else if let Some(store) = self.creds_store.as_deref().filter(named)
            && let Some(login) = helper::login(store, asked)?
        {
            return Ok(Some(login));
        }
        let mut entries = self.auths.iter().filter(|(key, _)| is_for(key, host));
        entries
            .find_map(|(key, entry)| {
                let login = entry.as_ref()?.login().transpose()?;
                Some((key, login))
            })
            .map(|(key, login)| {
                login.map_err(|problem| {
                    format!("{}: the login for {key:?} {problem}", file.display())
                })
            })
            .transpose()
    }
}

impl Entry {
    fn login(&self) -> Result<Option<Login>, &'static str> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Login::Registry(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Login::Identity(self.identitytoken.clone())));
        }
        if self.auth.is_empty() {
            let there = !self.username.is_empty() && !self.password.is_empty();
            return Ok(there.then(|| Login::Password {
                user: self.username.clone(),
                secret: self.password.clone(),
            }));
        }
        let wrong = "is not the base64 of user:password; docker login writes it anew";
        let bytes = Zeroizing::new(Base64::decode_vec(self.auth.trim()).map_err(|_| wrong)?);
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong)?;
        let (user, secret) = text.split_once(':').ok_or(wrong)?;
        Ok(Some(Login::Password {
            user: user.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
        }))
    }
}

/// Whether a key of Docker's configuration stands for `host`: `HOST`, `HOST:PORT`, or an address of its API as old Dockers wrote it.
fn is_for(key: &str, host: &str) -> bool {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let Ok(url) = Url::parse(&format!("https://{bare}")) else {
        return false;
    };
    let whole = matches!(url.path().trim_end_matches('/'), "" | "/v1" | "/v2");
    whole && authority(&url).is_some_and(|named| service(&named) == host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const PASSWORD: &str = "pass:word";

    fn logins(config: &str) -> (tempfile::NamedTempFile, Logins) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        let logins = Logins::in_file(file.path());
        (file, logins)
    }

    fn find(config: &str, url: &str) -> Result<Option<String>, String> {
        let (_file, logins) = logins(config);
        let found = logins.find(&Url::parse(url).unwrap())?;
        Ok(found.map(|login| match login {
            Login::Password { user, secret } => format!("{user} {}", *secret),
            Login::Identity(token) => format!("identity {}", *token),
            Login::Registry(token) => format!("registry {}", *token),
        }))
    }

    fn auths(key: &str) -> String {
        let auth = Base64::encode_string(format!("me:{PASSWORD}").as_bytes());
        format!(r#"{{"auths": {{"{key}": {{"auth": "{auth}"}}}}, "HttpHeaders": {{}}}}"#)
    }

    #[test]
    fn a_login_is_for_its_own_host_and_port_over_https() {
        let rows = [
            ("quay.io", "https://quay.io/v2/", true),
            ("quay.io", "https://quay.io:443/v2/", true),
            ("https://quay.io/v2/", "https://quay.io/v2/", true),
            ("QUAY.io", "https://quay.io/v2/", true),
            ("quay.io:5000", "https://quay.io:5000/", true),
            ("[::1]:5000", "https://[::1]:5000/", true),
            ("quay.io", "http://quay.io/v2/", false),
            ("http://quay.io", "http://quay.io/v2/", false),
            ("quay.io", "https://quay.io:5000/", false),
            ("quay.io:5000", "https://quay.io/", false),
            ("quay.io", "https://a.quay.io/", false),
            ("quay.io", "https://quay.io.example/", false),
            ("quay.io/team", "https://quay.io/", false),
            ("quay.io@evil.example", "https://quay.io/", false),
            // Docker Hub under each of its names, and nobody else.
            (HUB, "https://registry-1.docker.io/v2/", true),
            ("docker.io", "https://registry-1.docker.io/v2/", true),
            (HUB, "https://quay.io/v2/", false),
        ];
        for (key, url, expected) in rows {
            let found = find(&auths(key), url).unwrap();
            assert_eq!(found.is_some(), expected, "{key} for {url}");
            // Only the first colon parts user and password.
            assert!(found.is_none_or(|login| login == format!("me {PASSWORD}")));
        }
    }

    #[test]
    fn every_form_of_a_login_is_read() {
        let rows = [
            (r#"{"auths": {"q.io": {}}}"#, None),
            (r#"{"auths": {"q.io": {"auth": ""}}}"#, None),
            (
                r#"{"auths": {"q.io": {"username": "u", "password": "p"}}}"#,
                Some("u p"),
            ),
            (
                r#"{"auths": {"q.io": {"auth": "dTo=", "identitytoken": "t"}}}"#,
                Some("identity t"),
            ),
            (
                r#"{"auths": {"q.io": {"registrytoken": "t"}}}"#,
                Some("registry t"),
            ),
            ("{}", None),
            // What is null is not there.
            (
                r#"{"auths": null, "credHelpers": null, "credsStore": null}"#,
                None,
            ),
            (r#"{"auths": {"q.io": null}}"#, None),
            (
                r#"{"auths": {"q.io": {"auth": null, "username": "u", "password": "p"}}}"#,
                Some("u p"),
            ),
            // No helper for this one, whatever the others have.
            (
                r#"{"auths": {"q.io": {"username": "u", "password": "p"}}, "credHelpers": {"q.io": ""}, "credsStore": "kpot-test-none"}"#,
                Some("u p"),
            ),
        ];
        for (config, expected) in rows {
            let found = find(config, "https://q.io/").unwrap();
            assert_eq!(found.as_deref(), expected, "{config}");
        }
    }

    #[test]
    fn a_configuration_that_is_broken_is_named_and_its_secrets_are_not() {
        for (config, word) in [
            (r#"{"auths": {"q.io": {"auth": "secret"}}}"#, "base64"),
            (
                r#"{"auths": {"q.io": {"auth": "c2VjcmV0"}}}"#,
                "user:password",
            ),
            (r#"{"auths": "secret"}"#, "line 1"),
            ("secret", "line 1"),
            (r#"{"credsStore": "../secret"}"#, "not the name of"),
            (
                r#"{"credsStore": "kpot-test-none"}"#,
                "docker-credential-kpot-test-none",
            ),
            (r#"{"credHelpers": {"q.io": "a b"}}"#, "not the name of"),
        ] {
            let refused = find(config, "https://q.io/").unwrap_err();
            assert!(refused.contains(word), "{refused}");
            assert!(
                word.contains("name") || !refused.contains("\"secret"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_failure_is_remembered_for_its_server_and_told_once() {
        let (_file, logins) = logins("secret");
        let urls = ["https://q.io/", "https://other.io/"].map(|url| Url::parse(url).unwrap());
        assert_eq!(logins.failure(&urls[0]), None, "nobody has asked");
        let problem = logins.find(&urls[0]).unwrap_err();
        assert_eq!(logins.failure(&urls[0]), Some(problem.clone()));
        assert_eq!(logins.failure(&urls[1]), None);
        assert!(logins.is_news(&problem));
        assert!(!logins.is_news(&problem));
    }

    #[test]
    fn without_a_configuration_nobody_is_known() {
        let url = Url::parse("https://q.io/").unwrap();
        assert!(Logins::default().find(&url).unwrap().is_none());
        let missing = Logins::in_file(Path::new("/nonexistent/config.json"));
        assert!(missing.find(&url).unwrap().is_none());
    }
}
