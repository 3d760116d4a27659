//! `--mirror HOST=URL`: where things are fetched from instead of where they are published.
//!
//! A mirror stands for everything on its host, downloads and registries alike: `https://HOST/path` becomes `URL/path`. Hosts that are one service under several
//! names (k8s.gcr.io and registry.k8s.io; Docker Hub's three) share a mirror. A registry that keeps its copies of another one below a namespace of its own is named with
//! the beginning of its API: with `https://HOST/v2/PROJECT`, `/v2/path` becomes `https://HOST/v2/PROJECT/path`. Plain http is used only where a mirror's URL says so.
//! Credentials in a URL are refused: they would stand in the process list.

use std::collections::BTreeMap;
use std::str::FromStr;

use reqwest::Url;

/// One `--mirror`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    host: String,
    base: Url,
}

impl Mirror {
    /// Whether both stand for the same service, under whichever of its names.
    pub fn serves_the_same(&self, other: &Self) -> bool {
        service(&self.host) == service(&other.host)
    }
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, base) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not HOST=URL"))?;
        let named = Url::parse(&format!("https://{host}/"))
            .ok()
            .filter(|url| authority(url).as_deref() == Some(host) && url.path() == "/");
        if named.is_none() {
            return Err(format!(
                "{host:?} is not the name of a host, such as dl.k8s.io or 127.0.0.1:5000"
            ));
        }
        let base =
            Url::parse(base).map_err(|cause| format!("{base:?} is not an address: {cause}"))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(format!("{base} is neither http nor https"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err("a mirror's address must not hold a user or a password".to_owned());
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(format!("{base} must end with its path"));
        }
        Ok(Self {
            host: host.to_owned(),
            base,
        })
    }
}

/// Every mirror of a run.
#[derive(Clone, Debug, Default)]
pub struct Mirrors(BTreeMap<String, Url>);

impl Mirrors {
    /// The mirrors together.
    ///
    /// # Errors
    /// Where one host, or one service under two names, is given two addresses.
    pub fn new(mirrors: &[Mirror]) -> Result<Self, String> {
        let mut bases: BTreeMap<String, Url> = BTreeMap::new();
        for mirror in mirrors {
            let service = service(&mirror.host).to_owned();
            if let Some(other) = bases.insert(service, mirror.base.clone())
                && other != mirror.base
            {
                return Err(format!(
                    "{} is given two mirrors, {other} and {}",
                    mirror.host, mirror.base
                ));
            }
        }
        Ok(Self(bases))
    }

    /// Where `url` is fetched from.
    pub fn route(&self, url: &Url) -> Url {
        let Some(base) = authority(url).and_then(|host| self.0.get(service(&host)).cloned()) else {
            return url.clone();
        };
        let mut routed = base;
        let below = routed.path().trim_end_matches('/');
        let path = match url.path().strip_prefix("/v2/") {
            Some(path) if below == "/v2" || below.starts_with("/v2/") => format!("{below}/{path}"),
            _ => format!("{below}{}", url.path()),
        };
        routed.set_path(&path);
        routed.set_query(url.query());
        routed
    }
}

/// The root of the registry that an image name calls `registry`: where it really answers, before mirrors.
///
/// k8s.gcr.io is frozen since 2023 and holds the same images as registry.k8s.io, which the project keeps.
pub fn registry_root(registry: &str) -> Result<Url, String> {
    Url::parse(&format!("https://{}/", service(registry)))
        .map_err(|cause| format!("{registry:?} is not the name of a registry: {cause}"))
}

/// The one name of a service that has several.
pub(crate) fn service(host: &str) -> &str {
    match host {
        "k8s.gcr.io" => "registry.k8s.io",
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// `HOST` or `HOST:PORT`, as it is written in a URL.
pub(crate) fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(list: &[&str]) -> Result<Mirrors, String> {
        let parsed: Result<Vec<Mirror>, String> = list.iter().map(|text| text.parse()).collect();
        Mirrors::new(&parsed?)
    }

    fn routed(mirrors: &Mirrors, url: &str) -> String {
        mirrors.route(&Url::parse(url).unwrap()).to_string()
    }

    #[test]
    fn a_mirror_stands_for_its_whole_host() {
        let mirrors = mirrors(&[
            "dl.k8s.io=http://127.0.0.1:18080/dl.k8s.io",
            "127.0.0.1:15000=http://127.0.0.1:15000/",
        ])
        .unwrap();
        assert_eq!(
            routed(&mirrors, "https://dl.k8s.io/release/v1.14.0/x?y=1"),
            "http://127.0.0.1:18080/dl.k8s.io/release/v1.14.0/x?y=1"
        );
        assert_eq!(
            routed(
                &mirrors,
                "https://127.0.0.1:15000/v2/lab/flannel/manifests/v1"
            ),
            "http://127.0.0.1:15000/v2/lab/flannel/manifests/v1"
        );
        let ipv6 = self::mirrors(&["[fd00::10]:5000=http://[fd00::10]:5000"]).unwrap();
        let root = registry_root("[fd00::10]:5000").unwrap();
        assert_eq!(
            routed(&ipv6, root.join("v2/lab/x/manifests/1").unwrap().as_str()),
            "http://[fd00::10]:5000/v2/lab/x/manifests/1"
        );
        assert_eq!(
            routed(&mirrors, "https://download.docker.com/x"),
            "https://download.docker.com/x"
        );
    }

    #[test]
    fn a_mirror_may_be_a_namespace_of_another_registry() {
        for (base, expected) in [
            ("/v2/hub", "/v2/hub/library/busybox/manifests/1"),
            ("/v2/hub/", "/v2/hub/library/busybox/manifests/1"),
            ("/v2", "/v2/library/busybox/manifests/1"),
            ("/hub", "/hub/v2/library/busybox/manifests/1"),
        ] {
            let mirrors = mirrors(&[&format!("docker.io=https://mirror.example{base}")]).unwrap();
            let url = registry_root("docker.io").unwrap();
            let url = url.join("v2/library/busybox/manifests/1").unwrap();
            let routed = mirrors.route(&url);
            assert_eq!(routed.path(), expected);
        }
    }

    #[test]
    fn one_mirror_serves_both_names_of_a_service() {
        for name in ["k8s.gcr.io", "registry.k8s.io"] {
            let mirrors = mirrors(&[&format!("{name}=https://mirror.example/k8s")]).unwrap();
            for registry in ["k8s.gcr.io", "registry.k8s.io"] {
                let url = registry_root(registry)
                    .unwrap()
                    .join("v2/pause/manifests/3.1")
                    .unwrap();
                assert_eq!(
                    mirrors.route(&url).as_str(),
                    "https://mirror.example/k8s/v2/pause/manifests/3.1",
                    "{name} for {registry}"
                );
            }
        }
        assert!(
            mirrors(&[
                "k8s.gcr.io=https://a.example",
                "registry.k8s.io=https://b.example"
            ])
            .is_err()
        );
        assert!(
            mirrors(&[
                "k8s.gcr.io=https://a.example",
                "registry.k8s.io=https://a.example"
            ])
            .is_ok()
        );
    }

    #[test]
    fn without_a_mirror_frozen_names_are_pulled_where_they_live() {
        assert_eq!(
            registry_root("k8s.gcr.io").unwrap().as_str(),
            "https://registry.k8s.io/"
        );
        assert_eq!(
            registry_root("docker.io").unwrap().as_str(),
            "https://registry-1.docker.io/"
        );
        assert_eq!(
            registry_root("quay.io").unwrap().as_str(),
            "https://quay.io/"
        );
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        for text in [
            "dl.k8s.io",
            "=https://x.example",
            "dl.k8s.io/path=https://x.example",
            "https://dl.k8s.io=https://x.example",
            "dl.k8s.io=ftp://x.example",
            "dl.k8s.io=x.example",
            "dl.k8s.io=https://user:secret@x.example",
            "dl.k8s.io=https://x.example/?q",
        ] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }
}
