//! The variables that name proxies: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in large or in small letters.
//!
//! They are read here and not by the HTTP client. It passes over what it cannot read, which would be a direct connection where a proxy was wanted: what is no proxy is
//! refused. It would also pass over ports and stars in `NO_PROXY`, and over every proxy where `REQUEST_METHOD` is set. Values are never shown, because they may hold a password.

use std::env;
use std::net::IpAddr;

use http::Uri;
use reqwest::Url;

const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// The proxies of a user.
#[derive(Default)]
pub(super) struct Proxies {
    https: Option<Named>,
    http: Option<Named>,
    /// For what has none of its own.
    all: Option<Named>,
    exceptions: Vec<Exception>,
}

/// A proxy, and the variable that names it.
type Named = (&'static str, Url);

/// An entry of `NO_PROXY`.
struct Exception {
    place: Place,
    /// Nothing for every port.
    port: Option<u16>,
}

/// What is reached without a proxy.
enum Place {
    /// Everything.
    Anywhere,
    /// The addresses that begin with so many bits of this one.
    Network(IpAddr, u32),
    /// A name, and the names below it.
    Domain(String),
}

impl Proxies {
    /// Those of the user who runs this.
    ///
    /// # Errors
    /// A text that names the variable whose value is no proxy's address, or must not count.
    pub(super) fn of_user() -> Result<Self, String> {
        // What is no text is the address of no proxy, and is refused as such.
        Self::read(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        // The first that is set counts, also where it is empty.
        let first = |names: [&'static str; 2]| {
            let set = names
                .into_iter()
                .find_map(|name| get(name).map(|it| (name, it)));
            set.filter(|(_, value)| !value.is_empty())
        };
        let named = |names| {
            let Some((name, value)) = first(names) else {
                return Ok(None);
            };
            if name == "HTTP_PROXY" && get("REQUEST_METHOD").is_some() {
                return Err(REQUESTED.to_owned());
            }
            match address(&value) {
                Some(address) => Ok(Some((name, address))),
                None => Err(format!(
                    "{name} is not the address of a proxy, such as http://proxy.example:3128 or socks5h://127.0.0.1:1080"
                )),
            }
        };
        let exceptions = first(["NO_PROXY", "no_proxy"]);
        Ok(Self {
            https: named(["HTTPS_PROXY", "https_proxy"])?,
            http: named(["HTTP_PROXY", "http_proxy"])?,
            all: named(["ALL_PROXY", "all_proxy"])?,
            exceptions: exceptions
                .map(|(_, list)| list.split(',').filter_map(Exception::read).collect())
                .unwrap_or_default(),
        })
    }

    /// The variables that name them.
    pub(super) fn variables(&self) -> Vec<&'static str> {
        let all = [&self.https, &self.http, &self.all];
        all.into_iter().flatten().map(|(name, _)| *name).collect()
    }

    /// The proxy that `url` is reached through, if it is through one.
    pub(super) fn before(&self, url: &Url) -> Option<&Url> {
        let own = match url.scheme() {
            "https" => &self.https,
            _ => &self.http,
        };
        let (_, proxy) = own.as_ref().or(self.all.as_ref())?;
        let host = bare(url.host_str()?).to_ascii_lowercase();
        let port = url.port_or_known_default();
        let excepted = self.exceptions.iter().any(|it| it.is_for(&host, port));
        (!excepted).then_some(proxy)
    }
}

/// Under a web server whoever sends a request sets `HTTP_PROXY`, by the header `Proxy` (<https://httpoxy.org>).
const REQUESTED: &str = "HTTP_PROXY is set, and so is REQUEST_METHOD, as by a web server, which sets HTTP_PROXY to what a stranger sends. Name the proxy with http_proxy instead of HTTP_PROXY, or take \
    REQUEST_METHOD out of the environment";

impl Exception {
    /// `*`, an address, a network such as `10.0.0.0/8`, or a name: `x.example`, `.x.example` and `*.x.example` are the same. Each may end with a port; around an IPv6 address
    /// with one there are brackets.
    fn read(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry.is_empty() {
            return None;
        }
        if let Some((address, bits)) = network(&entry) {
            return Some(Self {
                place: Place::Network(address, bits),
                port: None,
            });
        }
        let with_port = entry
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = match with_port {
            Some((host, port)) => (host, Some(port)),
            None => (entry.as_str(), None),
        };
        let place = match network(bare(host)) {
            Some((address, bits)) => Place::Network(address, bits),
            None if host == "*" => Place::Anywhere,
            None => {
                let domain = host.strip_prefix('*').unwrap_or(host);
                Place::Domain(domain.trim_start_matches('.').to_owned())
            }
        };
        Some(Self { place, port })
    }

    fn is_for(&self, host: &str, port: Option<u16>) -> bool {
        if self.port.is_some() && self.port != port {
            return false;
        }
        match (&self.place, host.parse::<IpAddr>().ok()) {
            (Place::Anywhere, _) => true,
            (Place::Network(network, bits), Some(address)) => {
                common(*network, address).is_some_and(|common| common >= *bits)
            }
            (Place::Domain(domain), None) => host
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
            (Place::Network(..), None) | (Place::Domain(_), Some(_)) => false,
        }
    }
}

/// A host without the brackets around an IPv6 address.
fn bare(host: &str) -> &str {
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    inner.unwrap_or(host)
}

/// An address with the number of its bits that count: `10.0.0.0/8`, or all of them.
fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(all);
    (bits <= all).then_some((address, bits))
}

/// How many bits both begin with; nothing where they are of two families.
fn common(one: IpAddr, other: IpAddr) -> Option<u32> {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            Some((one.to_bits() ^ other.to_bits()).leading_zeros())
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            Some((one.to_bits() ^ other.to_bits()).leading_zeros())
        }
        _ => None,
    }
}

/// A proxy's address; none where the HTTP client would not understand it: a blank, say, or a letter of a password that stands for itself and not as `%XX`. Without a scheme it is
/// an HTTP proxy.
fn address(value: &str) -> Option<Url> {
    let understood = value.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme_str().is_none_or(|name| SCHEMES.contains(&name))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri
                .authority()
                .is_some_and(|place| has_port(place.as_str()))
            && matches!(uri.path(), "" | "/")
    });
    if !understood {
        return None;
    }
    let whole = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    let mut url = Url::parse(&whole).ok()?;
    // Everybody's port of SOCKS; the HTTP client would take that of http.
    if url.scheme().starts_with("socks") && url.port().is_none() {
        url.set_port(Some(1080)).ok()?;
    }
    Some(url)
}

/// Whether what stands behind the last colon is a port, if anything does.
fn has_port(authority: &str) -> bool {
    let place = authority.rsplit('@').next().unwrap_or_default();
    match place.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(get: impl Fn(&str) -> Option<String>) -> Result<Vec<&'static str>, String> {
        Proxies::read(get).map(|proxies| proxies.variables())
    }

    /// Whether `url` is reached through a proxy, with `exceptions` in `variable`.
    fn proxied(variable: &str, exceptions: &str, url: &str) -> bool {
        let proxies = Proxies::read(|name| match name {
            "ALL_PROXY" => Some("http://proxy.example:3128".to_owned()),
            name if name == variable => Some(exceptions.to_owned()),
            _ => None,
        });
        let url = Url::parse(url).unwrap();
        proxies.unwrap().before(&url).is_some()
    }

    #[test]
    fn each_scheme_has_its_proxy_and_else_the_one_of_all() {
        let proxies = Proxies::read(|name| {
            Some(match name {
                "https_proxy" => "secure.example:1".to_owned(),
                "ALL_PROXY" => "socks5h://all.example".to_owned(),
                _ => return None,
            })
        });
        let proxies = proxies.unwrap_or_default();
        for (url, expected) in [
            ("https://x.example/", "http://secure.example:1/"),
            ("http://x.example/", "socks5h://all.example:1080"),
        ] {
            let proxy = proxies.before(&Url::parse(url).unwrap());
            assert_eq!(proxy.map(Url::as_str), Some(expected), "{url}");
        }
        let url = Url::parse("https://x.example/").unwrap();
        assert_eq!(Proxies::default().before(&url), None);
    }

    #[test]
    fn exceptions_are_names_addresses_and_networks_with_and_without_a_port() {
        let rows = [
            ("registry.corp", "https://registry.corp/", true),
            ("registry.corp", "https://a.registry.corp:5000/", true),
            ("registry.corp", "https://notregistry.corp/", false),
            ("Registry.Corp", "https://registry.corp/", true),
            (".corp", "https://registry.corp/", true),
            ("*.corp", "https://a.registry.corp/", true),
            ("*.corp", "https://registry.corporate/", false),
            // The port is its scheme's where the address names none.
            ("registry.corp:5000", "https://registry.corp:5000/", true),
            ("registry.corp:5000", "https://registry.corp/", false),
            ("registry.corp:443", "https://registry.corp/", true),
            ("registry.corp:443", "http://registry.corp/", false),
            ("*.corp:5000", "https://registry.corp:5000/", true),
            ("10.1.2.3", "http://10.1.2.3:8080/", true),
            ("10.1.2.3:8080", "http://10.1.2.3:8080/", true),
            ("10.1.2.3:8080", "http://10.1.2.3/", false),
            ("10.0.0.0/8", "http://10.1.2.3/", true),
            ("10.0.0.0/8", "http://11.1.2.3/", false),
            ("0.0.0.0/0", "http://11.1.2.3/", true),
            ("2.3", "http://10.1.2.3/", false),
            ("fd00::10", "http://[fd00::10]:5000/", true),
            ("[fd00::10]", "http://[fd00::10]:5000/", true),
            ("[fd00::10]:5000", "http://[fd00::10]:5000/", true),
            ("[fd00::10]:5000", "http://[fd00::10]/", false),
            ("fd00::/8", "http://[fd00::10]/", true),
            ("fd00::/8", "http://[fe00::10]/", false),
            ("::/0", "http://[fd00::10]/", true),
            ("::/0", "http://10.1.2.3/", false),
            ("other.example, 10.0.0.0/8 ,", "http://10.1.2.3/", true),
            ("*", "http://10.1.2.3/", true),
            ("*", "https://registry.corp/", true),
            ("", "https://registry.corp/", false),
            (" , ", "https://registry.corp/", false),
        ];
        for (exceptions, url, direct) in rows {
            for variable in ["NO_PROXY", "no_proxy"] {
                assert_eq!(
                    proxied(variable, exceptions, url),
                    !direct,
                    "{variable}={exceptions} for {url}"
                );
            }
        }
    }

    #[test]
    fn what_a_stranger_may_have_set_is_refused() {
        let with = |variable: &'static str| {
            named(move |name| match name {
                "REQUEST_METHOD" => Some("GET".to_owned()),
                name if name == variable => Some("http://secret.example".to_owned()),
                _ => None,
            })
        };
        let refused = with("HTTP_PROXY").unwrap_err();
        assert!(refused.contains("REQUEST_METHOD"), "{refused}");
        assert!(!refused.contains("secret"), "{refused}");
        // A header makes none of these.
        for variable in ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
            assert_eq!(with(variable), Ok(vec![variable]));
        }
    }

    #[test]
    fn proxies_of_every_kind_are_taken() {
        for value in [
            "http://proxy.example:3128",
            "https://proxy.example",
            "http://user:secret@10.0.0.1:3128/",
            "proxy.example:3128",
            "socks5://127.0.0.1:1080",
            "socks5h://[::1]:1080",
            "socks4a://proxy",
        ] {
            assert_eq!(
                named(|name| (name == "https_proxy").then(|| value.to_owned())),
                Ok(vec!["https_proxy"]),
                "{value}"
            );
        }
        assert_eq!(named(|_| None), Ok(Vec::new()));
        assert_eq!(named(|_| Some(String::new())), Ok(Vec::new()));
        let emptied = |name: &str| match name {
            "HTTPS_PROXY" => Some(String::new()),
            "https_proxy" => Some("http://proxy".to_owned()),
            _ => None,
        };
        assert_eq!(
            named(emptied),
            Ok(Vec::new()),
            "the first that is set counts"
        );
    }

    #[test]
    fn anything_else_is_refused_and_not_shown() {
        for value in [
            "ftp://user:secret@proxy",
            "http://",
            "socks6://secret",
            "http://proxy:secret",
            "http://proxy/secret",
            "://secret",
            // The client understands none of these, and would go without a proxy.
            "http://secret:3128 ",
            "secret:3128/",
            "http://me:secret^word@proxy:3128",
            "http://me:secret word@proxy:3128",
        ] {
            let refused =
                named(|name| (name == "ALL_PROXY").then(|| value.to_owned())).unwrap_err();
            assert!(refused.contains("ALL_PROXY"), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
