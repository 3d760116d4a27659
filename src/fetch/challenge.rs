//! What a server wants to know of who asks: `WWW-Authenticate`.
//!
//! One answer may carry several challenges, in one header or in many; what is not understood is passed over.

/// A challenge that a registry's client can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from there.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
    /// User and password.
    Basic,
}

impl Challenge {
    /// The challenge to answer: tokens before passwords.
    pub(super) fn choose(headers: &str) -> Option<Self> {
        let all = parse(headers)?;
        let bearer = |it: &&Self| matches!(it, Self::Bearer { .. });
        all.iter().find(bearer).or(all.first()).cloned()
    }

    fn of(scheme: &str, parameters: &mut Vec<(String, String)>) -> Option<Self> {
        let mut take = |name: &str| {
            let place = parameters.iter().position(|(key, _)| key == name)?;
            Some(parameters.swap_remove(place).1)
        };
        let challenge = if scheme.eq_ignore_ascii_case("bearer") {
            take("realm").map(|realm| Self::Bearer {
                realm,
                service: take("service"),
                scope: take("scope"),
            })
        } else {
            scheme.eq_ignore_ascii_case("basic").then_some(Self::Basic)
        };
        parameters.clear();
        challenge
    }
}

/// Every challenge that is understood; `None` where the text breaks off.
fn parse(text: &str) -> Option<Vec<Challenge>> {
    let mut found = Vec::new();
    let mut scheme = String::new();
    let mut parameters = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after = after.trim_start_matches([' ', '\t']);
        rest = if let Some(value) = after.strip_prefix('=') {
            let (value, after) = value_of(value.trim_start_matches([' ', '\t']))?;
            parameters.push((word.to_ascii_lowercase(), value));
            after
        } else {
            found.extend(Challenge::of(&scheme, &mut parameters));
            word.clone_into(&mut scheme);
            after
        };
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    found.extend(Challenge::of(&scheme, &mut parameters));
    Some(found)
}

/// A parameter's value, quoted or bare, and what follows it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[place + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read() {
        let pull = Some("repository:library/busybox:pull,push");
        let rows = [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull,push""#,
                Some(bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    pull,
                )),
            ),
            (
                r#"bearer realm="https://x.example/t""#,
                Some(bearer("https://x.example/t", None, None)),
            ),
            (
                "Bearer realm=https://x.example/t, service=s",
                Some(bearer("https://x.example/t", Some("s"), None)),
            ),
            (
                r#"Bearer service="a \"b\"" , realm = "r""#,
                Some(bearer("r", Some(r#"a "b""#), None)),
            ),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            // Several: what can be answered, tokens first.
            (
                r#"Negotiate abc==, Basic realm="x", Bearer realm="r",service="s", Digest realm="y""#,
                Some(bearer("r", Some("s"), None)),
            ),
            (
                r#"Digest realm="x", Basic realm="y""#,
                Some(Challenge::Basic),
            ),
            ("Bearer", None),
            (r#"Bearer realm="https://unfinished"#, None),
            (r#"Bearer realm="x\"#, None),
            ("Negotiate", None),
            ("=,= =", None),
            ("", None),
        ];
        for (header, expected) in rows {
            assert_eq!(Challenge::choose(header), expected, "{header}");
        }
    }
}
