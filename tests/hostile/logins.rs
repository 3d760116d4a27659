//! Where a login goes, and above all where it does not.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use bundle_spec::Arch;
use kpot::fetch::registry::Registries;
use kpot::fetch::{FetchError, Logins, Network};
use kpot::image_name::ImageName;
use kpot::mirrors::{Mirror, Mirrors};
use serde_json::json;

use super::support::certificates::{Authority, Validity};
use super::support::raw::{Raw, answer, demand_token};
use super::support::server::Seen;
use super::support::upstream::Upstream;
use super::support::{Desk, code, stderr, stdout};
use super::tls::trusting;
use super::{client, refused, task};

/// The base64 of `me:password`, as Docker and HTTP write it.
const BASIC: &str = "bWU6cGFzc3dvcmQ=";

/// A registry over TLS that wants a token from `realm` (its own `/token` where it is empty), and gives `t` to anybody and `mine` to me. It has no image: whoever comes so far
/// gets a 404.
struct Registry {
    server: Raw,
    authority: Authority,
}

impl Registry {
    fn wanting(realm: &str) -> Self {
        let authority = Authority::new();
        let tls = authority.server("127.0.0.1", Validity::Good);
        let realm = Arc::new(Mutex::new(realm.to_owned()));
        let named = Arc::clone(&realm);
        let server = Raw::secure(tls, move |request, _, wire| {
            let known = request.headers.get("authorization").map(String::as_str);
            if request.path.starts_with("/token") {
                return match (known, request.headers.get("form")) {
                    (Some(me), _) if me == format!("Basic {BASIC}") => {
                        answer(wire, "200 X", "", "{\"token\": \"mine\"}")
                    }
                    (Some(_), _) => answer(wire, "401 X", "", ""),
                    (None, Some(form)) if form.contains("refresh_token=identity") => {
                        answer(wire, "200 X", "", "{\"access_token\": \"mine\"}")
                    }
                    (None, _) => answer(wire, "200 X", "", "{\"token\": \"t\"}"),
                };
            }
            let basic = format!("Basic {BASIC}");
            match known {
                Some("Bearer mine") => answer(wire, "404 X", "", ""),
                Some(known) if known == basic => answer(wire, "404 X", "", ""),
                _ => {
                    let realm = named.lock().unwrap();
                    let challenge = match realm.as_str() {
                        "basic" => "Basic realm=\"x\"".to_owned(),
                        realm => format!("Bearer realm=\"{realm}\",service=\"s\""),
                    };
                    answer(
                        wire,
                        "401 X",
                        &format!("WWW-Authenticate: {challenge}\r\n"),
                        "",
                    )
                }
            }
        });
        {
            let mut realm = realm.lock().unwrap();
            if realm.is_empty() {
                *realm = format!("https://{}/token", server.address());
            }
        }
        Self { server, authority }
    }

    /// Asks for an image with Docker's configuration being `config`.
    fn pull(&self, config: &str) -> FetchError {
        pull(trusting(&self.authority), &self.server.address(), config)
    }

    /// Docker's configuration with a login for this registry.
    fn login(&self) -> String {
        login(&self.server.address())
    }
}

fn login(host: &str) -> String {
    json!({ "auths": { host: { "auth": BASIC } } }).to_string()
}

fn pull(network: Network, registry: &str, config: &str) -> FetchError {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(config.as_bytes()).unwrap();
    let client = client(Network {
        logins: Logins::in_file(file.path()),
        ..network
    });
    let name: ImageName = format!("{registry}/lab/x:1").parse().unwrap();
    let resolved = Registries::new(&client).resolve(&name, Arch::Amd64, &|_| Ok(()), &task());
    let error = resolved.unwrap_err();
    let told = format!("{error} {error:?}");
    for secret in [BASIC, "password", "identity", "mine"] {
        assert!(!told.contains(secret), "{told}");
    }
    error
}

/// That not one request holds anything of the login.
fn told_nothing(seen: &[Seen]) {
    for request in seen {
        let all = format!("{request:?}");
        let words = [BASIC, "password", "identity", "mine", "authorization"];
        assert!(words.iter().all(|word| !all.contains(word)), "{all}");
    }
}

#[test]
fn a_login_gets_a_token_and_the_token_gets_in() {
    let registry = Registry::wanting("");
    refused::<()>(
        Err(registry.pull(&registry.login())),
        &registry.server.address(),
        &["404"],
    );
    let seen = registry.server.seen();
    let told: Vec<Option<&str>> = seen
        .iter()
        .map(|request| request.headers.get("authorization").map(String::as_str))
        .collect();
    let basic = format!("Basic {BASIC}");
    assert_eq!(told, [None, Some(basic.as_str()), Some("Bearer mine")]);
    let asked = &seen[1].path;
    assert!(
        asked.contains("service=s") && asked.contains("scope=repository%3Alab%2Fx%3Apull"),
        "{asked}"
    );
}

#[test]
fn a_registry_may_want_the_password_itself() {
    let registry = Registry::wanting("basic");
    refused::<()>(
        Err(registry.pull(&registry.login())),
        &registry.server.address(),
        &["404"],
    );
    let nobody = registry.pull("{}");
    refused::<()>(
        Err(nobody),
        &registry.server.address(),
        &["401", "docker login"],
    );
}

#[test]
fn a_token_that_gets_tokens_travels_in_a_form() {
    let registry = Registry::wanting("");
    let entry = json!({ "identitytoken": "identity" });
    let config = json!({ "auths": { registry.server.address(): entry } }).to_string();
    refused::<()>(
        Err(registry.pull(&config)),
        &registry.server.address(),
        &["404"],
    );
    let form = registry.server.seen()[1].clone();
    assert_eq!(
        (form.method.as_str(), form.path.as_str()),
        ("POST", "/token")
    );
    assert!(form.headers["form"].contains("grant_type=refresh_token"));
}

#[test]
fn a_form_is_redirected_nowhere() {
    let other = Raw::start(|_, _, wire| answer(wire, "200 X", "", "{\"token\": \"t\"}"));
    for status in ["301", "302", "307", "308"] {
        let place = other.url();
        let authority = Authority::new();
        let tls = authority.server("127.0.0.1", Validity::Good);
        let address = Arc::new(Mutex::new(String::new()));
        let named = Arc::clone(&address);
        let server = Raw::secure(tls, move |request, _, wire| {
            if request.method == "POST" {
                return answer(
                    wire,
                    &format!("{status} X"),
                    &format!("Location: {place}\r\n"),
                    "",
                );
            }
            let realm = format!("https://{}/token", named.lock().unwrap());
            demand_token(wire, &realm)
        });
        *address.lock().unwrap() = server.address();
        let entry = json!({ "identitytoken": "identity" });
        let config = json!({ "auths": { server.address(): entry } }).to_string();
        let error = pull(trusting(&authority), &server.address(), &config);
        refused::<()>(Err(error), &server.address(), &[status]);
    }
    assert!(other.seen().is_empty());
}

#[test]
fn a_login_is_for_no_other_server_of_tokens() {
    let other = Registry::wanting("");
    // Both the registry's login and the other server's own stay where they are.
    let realm = format!("https://{}/token", other.server.address());
    let registry = Registry::wanting(&realm);
    let network = Network {
        authorities: [&registry.authority, &other.authority]
            .into_iter()
            .flat_map(|authority| trusting(authority).authorities)
            .collect(),
        ..super::network()
    };
    let config = json!({ "auths": {
        registry.server.address(): { "auth": BASIC },
        other.server.address(): { "auth": BASIC },
    } });
    let error = pull(network, &registry.server.address(), &config.to_string());
    let words = ["401", "come from another host"];
    refused::<()>(Err(error), &registry.server.address(), &words);
    let asked = other.server.seen();
    assert_eq!(asked.len(), 1, "an anonymous token is asked for");
    told_nothing(&asked);
    let sent: Vec<_> = registry.server.seen();
    assert!(
        sent.iter().all(|it| !format!("{it:?}").contains(BASIC)),
        "{sent:?}"
    );
}

#[test]
fn a_login_never_goes_over_plain_http() {
    for realm in ["basic".to_owned(), "https".to_owned(), "http".to_owned()] {
        let authority = Authority::new();
        let tokens = Raw::secure(
            authority.server("127.0.0.1", Validity::Good),
            |_, _, wire| answer(wire, "200 X", "", "{\"token\": \"t\"}"),
        );
        let address = Arc::new(Mutex::new(String::new()));
        let (named, secure) = (Arc::clone(&address), tokens.address());
        let server = Raw::start(move |request, _, wire| {
            if request.path.starts_with("/token") {
                return answer(wire, "200 X", "", "{\"token\": \"t\"}");
            }
            let challenge = match realm.as_str() {
                "basic" => "Basic realm=\"x\"".to_owned(),
                "https" => format!("Bearer realm=\"https://{secure}/token\""),
                _ => format!("Bearer realm=\"http://{}/token\"", named.lock().unwrap()),
            };
            answer(
                wire,
                "401 X",
                &format!("WWW-Authenticate: {challenge}\r\n"),
                "",
            )
        });
        *address.lock().unwrap() = server.address();
        let mirror: Mirror = format!("{}={}", server.address(), server.url())
            .parse()
            .unwrap();
        let network = Network {
            mirrors: Mirrors::new(&[mirror]).unwrap(),
            ..trusting(&authority)
        };
        let config = json!({ "auths": {
            server.address(): { "auth": BASIC },
            tokens.address(): { "auth": BASIC },
        } });
        let error = pull(network, &server.address(), &config.to_string());
        refused::<()>(
            Err(error),
            &server.url(),
            &["401", "over plain http it gets no login"],
        );
        for request in server.seen().iter().chain(&tokens.seen()) {
            assert!(!format!("{request:?}").contains(BASIC), "{request:?}");
        }
    }
}

#[test]
fn a_token_server_without_https_is_refused() {
    let plain = Raw::start(|_, _, wire| answer(wire, "200 X", "", "{\"token\": \"t\"}"));
    let registry = Registry::wanting(&format!("{}/token?secret", plain.url()));
    let error = registry.pull(&registry.login());
    assert!(!error.to_string().contains("secret"), "{error}");
    refused::<()>(Err(error), &registry.server.address(), &["without https"]);
    assert!(plain.seen().is_empty());
}

#[test]
fn nothing_of_a_login_follows_a_redirect_to_another_host() {
    let other = Authority::new();
    let elsewhere = Raw::secure(other.server("127.0.0.1", Validity::Good), |_, _, wire| {
        // It wants to know more, which is no business of ours.
        answer(wire, "401 X", "WWW-Authenticate: Basic realm=\"x\"\r\n", "")
    });
    let authority = Authority::new();
    let tls = authority.server("127.0.0.1", Validity::Good);
    let place = format!("https://{}/blob", elsewhere.address());
    let server = Raw::secure(tls, move |request, _, wire| {
        if request.headers.contains_key("authorization") {
            answer(wire, "307 X", &format!("Location: {place}\r\n"), "")
        } else {
            answer(wire, "401 X", "WWW-Authenticate: Basic realm=\"x\"\r\n", "")
        }
    });
    let network = Network {
        authorities: [&authority, &other]
            .into_iter()
            .flat_map(|authority| trusting(authority).authorities)
            .collect(),
        ..super::network()
    };
    let config = json!({ "auths": {
        server.address(): { "auth": BASIC },
        elsewhere.address(): { "auth": BASIC },
    } });
    let error = pull(network, &server.address(), &config.to_string());
    let words = ["where it redirects", &elsewhere.address()];
    refused::<()>(Err(error), &server.address(), &words);
    assert_eq!(elsewhere.seen().len(), 1);
    told_nothing(&elsewhere.seen());
}

#[test]
fn a_login_that_is_refused_is_told() {
    let registry = Registry::wanting("");
    // `me:wrong`
    let entry = json!({ "auth": "bWU6d3Jvbmc=" });
    let config = json!({ "auths": { registry.server.address(): entry } }).to_string();
    let words = ["401", "refuses the login"];
    refused::<()>(
        Err(registry.pull(&config)),
        &registry.server.address(),
        &words,
    );
    assert_eq!(
        registry.server.seen().len(),
        2,
        "nobody goes on without one"
    );
}

#[test]
fn a_configuration_that_cannot_be_read_is_an_error_when_it_is_needed() {
    let registry = Registry::wanting("");
    let words = ["wants a login", "not Docker's configuration"];
    refused::<()>(Err(registry.pull("{")), &registry.server.address(), &words);
}

/// `docker-credential-lab`, which keeps one login, and writes down what it was asked.
const HELPER: &str = r#"#!/bin/sh
read -r server
echo "$1 $server $*" >> "$0.asked"
case $server in
    127.0.0.1:*) printf '{"ServerURL":"%s","Username":"me","Secret":"password"}' "$server" ;;
    *) printf 'credentials not found in native keychain'; exit 1 ;;
esac
"#;

#[test]
fn a_helper_is_asked_by_its_protocol_for_the_server_that_wants_a_login() {
    use std::os::unix::fs::PermissionsExt as _;

    let registry = Registry::wanting("");
    let address = registry.server.address();
    let image = format!("{address}/lab/x:1");
    for config in [
        json!({ "credHelpers": { &address: "lab" } }),
        json!({ "credsStore": "lab", "auths": { &address: {} } }),
    ] {
        let (desk, upstream) = (Desk::without_key(), Upstream::new("v1.20.2"));
        let bin = desk.path("bin");
        for folder in [&bin, &desk.path("docker")] {
            std::fs::create_dir(folder).unwrap();
        }
        let helper = bin.join("docker-credential-lab");
        std::fs::write(&helper, HELPER).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(desk.path("docker/config.json"), config.to_string()).unwrap();
        let authority = desk.path("authority.pem");
        registry.authority.write(&authority);

        let authority = authority.display().to_string();
        let arguments = upstream.arguments("x.pot");
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(["--plan", "--cacert", &authority, "--image", &image]);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let before = registry.server.seen().len();
        let planned = desk.kpot_with(&arguments, &[("PATH", &path)]);
        // A plan goes on without the size of an image that is not there.
        assert_eq!(code(&planned), 0, "{}", stderr(&planned));
        let told = [stdout(&planned), stderr(&planned)].concat();
        assert!(told.contains("404") && !told.contains("password"), "{told}");
        let last = registry.server.seen().pop().unwrap();
        assert_eq!(last.headers["authorization"], "Bearer mine");
        assert_eq!(registry.server.seen().len(), before + 3);
        let asked = std::fs::read_to_string(bin.join("docker-credential-lab.asked")).unwrap();
        assert_eq!(
            asked,
            format!("get {address} get\n"),
            "once, and with nothing else in its arguments"
        );
    }
}

#[test]
fn a_helper_that_fails_is_told() {
    let registry = Registry::wanting("");
    let config = json!({ "credsStore": "kpot-test-none" }).to_string();
    let words = ["wants a login", "docker-credential-kpot-test-none get"];
    refused::<()>(
        Err(registry.pull(&config)),
        &registry.server.address(),
        &words,
    );
}

/// A registry that wants a token for everything, gives `t` to anybody who comes without a login, and answers with this status then; where it is named so, the server of tokens
/// answers with it.
fn for_everybody(status: &'static str, at: &'static str) -> (Authority, Raw) {
    let authority = Authority::new();
    let tls = authority.server("127.0.0.1", Validity::Good);
    let address = Arc::new(Mutex::new(String::new()));
    let named = Arc::clone(&address);
    let server = Raw::secure(tls, move |request, _, wire| {
        let known = request.headers.get("authorization").map(String::as_str);
        let tokens = request.path.starts_with("/token");
        match known {
            None if tokens && at != "tokens" => answer(wire, "200 X", "", "{\"token\": \"t\"}"),
            None if !tokens => {
                let realm = format!("https://{}/token", named.lock().unwrap());
                demand_token(wire, &realm)
            }
            _ => answer(wire, status, "", ""),
        }
    });
    *address.lock().unwrap() = server.address();
    (authority, server)
}

#[test]
fn what_is_for_everybody_needs_no_login_that_could_be_looked_up() {
    // Whoever comes so far gets a 404, as above; or is told that it is not for everybody.
    for (status, at, requests) in [
        ("404 X", "registry", 3),
        ("403 X", "registry", 3),
        ("403 X", "tokens", 2),
        ("401 X", "tokens", 2),
    ] {
        for (helper, word) in [
            (
                json!({ "credsStore": "kpot-test-none" }).to_string(),
                "docker-credential-kpot-test-none get",
            ),
            ("{".to_owned(), "not Docker's configuration"),
        ] {
            let (authority, server) = for_everybody(status, at);
            let error = pull(trusting(&authority), &server.address(), &helper);
            let words = [&status[..3], "without a login", word];
            refused::<()>(Err(error), &server.address(), &words);
            let seen = server.seen();
            assert_eq!(seen.len(), requests, "{seen:?}");
            let told: Vec<Option<&str>> = seen
                .iter()
                .map(|request| request.headers.get("authorization").map(String::as_str))
                .collect();
            let expected = [None, None, Some("Bearer t")];
            assert_eq!(told, expected[..requests]);
        }
    }
}

#[test]
fn a_helper_that_fails_is_warned_of_once() {
    let (authority, server) = for_everybody("404 X", "registry");
    let (desk, upstream) = (Desk::without_key(), Upstream::new("v1.20.2"));
    std::fs::create_dir(desk.path("docker")).unwrap();
    let config = json!({ "credsStore": "kpot-test-none" }).to_string();
    std::fs::write(desk.path("docker/config.json"), config).unwrap();
    let certificate = desk.path("authority.pem");
    authority.write(&certificate);

    let certificate = certificate.display().to_string();
    let images = ["x", "y"].map(|name| format!("{}/lab/{name}:1", server.address()));
    let arguments = upstream.arguments("x.pot");
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--plan", "--cacert", &certificate]);
    arguments.extend(images.iter().flat_map(|image| ["--image", image.as_str()]));
    let planned = desk.kpot(&arguments);
    assert_eq!(code(&planned), 0, "{}", stderr(&planned));
    let told = stderr(&planned);
    let warning = "docker-credential-kpot-test-none get";
    let warnings = told
        .lines()
        .filter(|line| line.contains("warning: ") && line.contains("going on without one"));
    let warnings: Vec<&str> = warnings.collect();
    assert_eq!(warnings.len(), 1, "{told}");
    assert!(warnings[0].contains(warning), "{told}");
}

#[test]
fn a_mirror_below_a_namespace_is_asked_for_what_is_there() {
    for (base, repository) in [("/v2/hub", "hub%2Flab%2Fx"), ("", "lab%2Fx")] {
        let registry = Registry::wanting("");
        let mirror: Mirror = format!("docker.io=https://{}{base}", registry.server.address())
            .parse()
            .unwrap();
        let network = Network {
            mirrors: Mirrors::new(&[mirror]).unwrap(),
            ..trusting(&registry.authority)
        };
        let error = pull(network, "docker.io", "{}");
        refused::<()>(Err(error), &registry.server.address(), &["401"]);
        let asked = &registry.server.seen()[1].path;
        let scope = format!("scope=repository%3A{repository}%3Apull");
        assert!(asked.contains(&scope), "{asked}");
    }
}
