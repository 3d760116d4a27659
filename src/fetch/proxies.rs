//! The variables that name proxies: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in large or in small letters.
//!
//! The HTTP client obeys them, and passes over what it cannot read: that would be a direct connection where a proxy was wanted. So they are read here first, and what
//! is no proxy is refused. Their values are never shown, because they may hold a password.

use reqwest::Url;

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
        let set = row.iter().find_map(|name| {
            get(name)
                .filter(|value| !value.is_empty())
                .map(|it| (*name, it))
        });
        let Some((name, value)) = set else {
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

/// Without a scheme it is an HTTP proxy.
fn is_proxy(value: &str) -> bool {
    let with_scheme = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    Url::parse(&with_scheme).is_ok_and(|url| {
        SCHEMES.contains(&url.scheme())
            && url.host_str().is_some_and(|host| !host.is_empty())
            && matches!(url.path(), "" | "/")
    })
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
        ] {
            let refused =
                named(|name| (name == "ALL_PROXY").then(|| value.to_owned())).unwrap_err();
            assert!(refused.contains("ALL_PROXY"), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
