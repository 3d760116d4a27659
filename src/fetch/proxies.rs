//! The variables that name proxies: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in large or in small letters.
//!
//! The HTTP client obeys them, and passes over what it cannot read: that would be a direct connection where a proxy was wanted. So they are read here first, and what
//! is no proxy is refused. Their values are never shown, because they may hold a password.

use http::Uri;

/// The variables as the HTTP client looks for them: the first of each row that is set counts.
const VARIABLES: [[&str; 2]; 3] = [
    ["HTTPS_PROXY", "https_proxy"],
    ["HTTP_PROXY", "http_proxy"],
    ["ALL_PROXY", "all_proxy"],
];

const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// The variables that name a proxy.
///
/// # Errors
/// A text that names the variable whose value is no proxy's address.
pub(super) fn named(get: impl Fn(&str) -> Option<String>) -> Result<Vec<&'static str>, String> {
    let mut named = Vec::new();
    for row in VARIABLES {
        let set = row.iter().find_map(|name| get(name).map(|it| (*name, it)));
        let Some((name, value)) = set.filter(|(_, value)| !value.is_empty()) else {
            continue;
        };
        if !is_proxy(&value) {
            return Err(format!(
                "{name} is not the address of a proxy, such as http://proxy.example:3128 or socks5h://127.0.0.1:1080"
            ));
        }
        named.push(name);
    }
    Ok(named)
}

/// Whether no proxy is to be used at all (`NO_PROXY=*`). The HTTP client would take the star for names only, and not for addresses.
pub(super) fn unwanted(get: impl Fn(&str) -> Option<String>) -> bool {
    let value = get("NO_PROXY").or_else(|| get("no_proxy"));
    value.is_some_and(|value| value.split(',').any(|entry| entry.trim() == "*"))
}

/// As the HTTP client parses it, which passes over what it does not understand: a blank, say, or a letter of a password that stands for itself and not as `%XX`. Without a scheme it is an
/// HTTP proxy.
fn is_proxy(value: &str) -> bool {
    value.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme_str().is_none_or(|name| SCHEMES.contains(&name))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri
                .authority()
                .is_some_and(|place| has_port(place.as_str()))
            && matches!(uri.path(), "" | "/")
    })
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
