//! Registries that send what they should not.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bundle_spec::{Arch, Sha256};
use kpot::fetch::registry::{Registries, RemoteImage};
use kpot::fetch::{Client, FetchError, Network};
use kpot::image_name::ImageName;
use kpot::mirrors::{Mirror, Mirrors};
use serde_json::{Value, json};

use super::support::raw::{Raw, Wire, answer, demand_token, dripping, head, without_end};
use super::support::server::Seen;
use super::support::upstream::{FakeImage, gzip};
use super::{HASTY, LIMIT, client, network, refused, task};

/// Everything on `server` over plain http.
fn plainly(server: &Raw) -> Network {
    let mirror: Mirror = format!("{}={}", server.address(), server.url())
        .parse()
        .unwrap();
    Network {
        mirrors: Mirrors::new(&[mirror]).unwrap(),
        ..network()
    }
}

fn name(server: &Raw) -> ImageName {
    format!("{}/lab/x:1", server.address()).parse().unwrap()
}

fn resolve(server: &Raw) -> Result<RemoteImage, FetchError> {
    let client = client(plainly(server));
    resolve_by(&client, server)
}

fn resolve_by(client: &Client, server: &Raw) -> Result<RemoteImage, FetchError> {
    let started = Instant::now();
    let resolved =
        Registries::new(client).resolve(&name(server), Arch::Amd64, &|_| Ok(()), &task());
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    resolved
}

/// A registry with these answers by path, below `/v2/lab/x/`.
fn registry(bodies: &[(&str, Vec<u8>)]) -> Raw {
    let bodies: HashMap<String, Vec<u8>> = bodies
        .iter()
        .map(|(path, body)| (format!("/v2/lab/x/{path}"), body.clone()))
        .collect();
    Raw::start(move |request, _, wire| match bodies.get(&request.path) {
        Some(body) => answer(wire, "200 OK", "", body),
        None => answer(wire, "404 Not Found", "", ""),
    })
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// The manifest that comes for the tag is refused.
fn manifest_refused(manifest: &Value, words: &[&str]) {
    let server = registry(&[("manifests/1", bytes(manifest))]);
    let url = format!("{}/v2/lab/x/", server.url());
    refused(resolve(&server), &url, words);
}

#[test]
fn a_manifest_without_end_is_cut_at_its_limit() {
    for start in ["", "{\"schemaVersion\": 2, \"layers\": ["] {
        let server = Raw::start(move |_, _, wire| {
            head(wire, "200 OK", "")?;
            wire.write_all(start.as_bytes())?;
            without_end(wire, b"                                ")
        });
        let url = format!("{}/v2/lab/x/manifests/1", server.url());
        refused(resolve(&server), &url, &["limit of 4194304"]);
    }
}

#[test]
fn a_manifest_byte_by_byte_is_given_up() {
    let server = Raw::start(|_, _, wire| {
        head(wire, "200 OK", "")?;
        dripping(wire, &[b' '; 4096], Duration::from_millis(100))
    });
    let hasty = client(Network {
        policy: HASTY,
        ..plainly(&server)
    });
    let resolved = resolve_by(&hasty, &server);
    refused(resolved, &server.url(), &["fewer than 2000"]);
}

#[test]
fn an_index_in_an_index_and_one_in_itself_are_refused() {
    let image = FakeImage::new("etcd");
    let platform = json!({ "os": "linux", "architecture": "amd64" });
    let inner = image.index(&platform);
    let outer = FakeImage {
        manifest: inner.clone(),
        ..image.clone()
    }
    .index(&platform);
    let digest = Sha256::of(&bytes(&inner));
    let server = registry(&[
        ("manifests/1", bytes(&outer)),
        (&format!("manifests/{digest}"), bytes(&inner)),
    ]);
    let url = format!("{}/v2/lab/x/manifests/{digest}", server.url());
    refused(resolve(&server), &url, &["index within an index"]);
    assert_eq!(server.seen().len(), 2, "it goes no deeper");

    // An index cannot hold its own digest: a registry that sends it in its own place is found out by that.
    let server = registry(&[
        ("manifests/1", bytes(&inner)),
        (
            &format!("manifests/{}", Sha256::of(&bytes(&image.manifest))),
            bytes(&inner),
        ),
    ]);
    refused(resolve(&server), &server.url(), &["instead of"]);
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn digests_that_nobody_knows_are_refused_wherever_they_stand() {
    let image = FakeImage::new("etcd");
    for digest in [
        format!("sha999:{}", "ab".repeat(32)),
        format!("md5:{}", "ab".repeat(16)),
        format!("sha512:{}", "ab".repeat(64)),
        "sha256:abcd".to_owned(),
        "../../etc/passwd".to_owned(),
        String::new(),
    ] {
        let mut layer = image.clone();
        layer.manifest["layers"][0]["digest"] = json!(digest);
        let config = bytes(&image.config);
        let server = registry(&[
            ("manifests/1", bytes(&layer.manifest)),
            (&format!("blobs/{}", Sha256::of(&config)), config),
        ]);
        refused(resolve(&server), &server.url(), &["digest"]);
        let mut config = image.clone();
        config.manifest["config"]["digest"] = json!(digest);
        manifest_refused(&config.manifest, &["digest"]);
        let mut index = image.index(&json!({ "os": "linux", "architecture": "amd64" }));
        index["manifests"][1]["digest"] = json!(digest);
        manifest_refused(&index, &["digest"]);
    }
}

#[test]
fn a_digest_that_is_announced_must_be_one_that_can_be_compared() {
    let manifest = bytes(&FakeImage::new("etcd").manifest);
    for announced in [
        format!("sha999:{}", "ab".repeat(32)),
        "none".to_owned(),
        Sha256::of(b"something else").to_string(),
    ] {
        let served = manifest.clone();
        let header = format!("Docker-Content-Digest: {announced}\r\n");
        let server = Raw::start(move |_, _, wire| answer(wire, "200 OK", &header, &served));
        refused(resolve(&server), &server.url(), &[&announced, "digest"]);
        assert_eq!(server.seen().len(), 1);
    }
}

/// As docker/distribution sends it: the digest is that of the manifest without its signatures.
#[test]
fn a_signed_manifest_of_schema_1_is_told_as_one() {
    let signed = bytes(&json!({ "schemaVersion": 1, "fsLayers": [], "signatures": [{}] }));
    let header = format!("Docker-Content-Digest: {}\r\n", Sha256::of(b"without"));
    let server = Raw::start(move |_, _, wire| answer(wire, "200 OK", &header, &signed));
    let words = ["schema 1", "push the image again"];
    refused(resolve(&server), &server.url(), &words);
}

/// As those of etcd, CoreDNS and pause were for years.
#[test]
fn a_config_of_another_architecture_is_no_word_against_its_index() {
    let mut image = FakeImage::new("etcd");
    image.config["architecture"] = json!("arm64");
    image.describe();
    let (manifest, config) = (bytes(&image.manifest), bytes(&image.config));
    let papers = |tag: &Value| {
        registry(&[
            ("manifests/1", bytes(tag)),
            (
                &format!("manifests/{}", Sha256::of(&manifest)),
                manifest.clone(),
            ),
            (&format!("blobs/{}", Sha256::of(&config)), config.clone()),
        ])
    };
    let index = image.index(&json!({ "os": "linux", "architecture": "amd64" }));
    let found = resolve(&papers(&index)).unwrap();
    assert_eq!(found.id, Sha256::of(&config));
    let server = papers(&image.manifest);
    refused(
        resolve(&server),
        &server.url(),
        &["linux/arm64", "linux/amd64"],
    );
}

#[test]
fn where_an_index_does_not_say_what_its_images_are_for_their_configs_do() {
    let mut other = FakeImage::new("other");
    other.config["architecture"] = json!("arm64");
    other.describe();
    let image = FakeImage::new("etcd");
    let listed = |image: &FakeImage| {
        let manifest = bytes(&image.manifest);
        json!({ "digest": Sha256::of(&manifest), "size": manifest.len() })
    };
    let holding = |images: &[&FakeImage]| {
        let entries: Vec<Value> = images.iter().map(|image| listed(image)).collect();
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        let mut papers = vec![("manifests/1".to_owned(), bytes(&index))];
        for image in images {
            let (manifest, config) = (bytes(&image.manifest), bytes(&image.config));
            papers.push((format!("manifests/{}", Sha256::of(&manifest)), manifest));
            papers.push((format!("blobs/{}", Sha256::of(&config)), config));
        }
        let papers: Vec<(&str, Vec<u8>)> = papers
            .iter()
            .map(|(path, body)| (path.as_str(), body.clone()))
            .collect();
        registry(&papers)
    };
    let found = resolve(&holding(&[&other, &image])).unwrap();
    assert_eq!(found.id, Sha256::of(&bytes(&image.config)));
    let server = holding(&[&other]);
    let words = ["the index has no image for linux/amd64"];
    refused(resolve(&server), &server.url(), &words);
}

#[test]
fn forms_that_are_none_of_ours_are_refused() {
    manifest_refused(
        &json!({ "schemaVersion": 1, "fsLayers": [], "history": [] }),
        &["schema 1", "push the image again"],
    );
    manifest_refused(&json!([]), &["does not parse"]);
    manifest_refused(
        &json!({ "schemaVersion": 2, "manifests": [], "layers": [] }),
        &["neither"],
    );
    let image = FakeImage::new("etcd");
    for kind in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    ] {
        let config = bytes(&image.config);
        let mut foreign = image.clone();
        foreign.manifest["layers"][0]["mediaType"] = json!(kind);
        foreign.manifest["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
        let server = registry(&[
            ("manifests/1", bytes(&foreign.manifest)),
            (&format!("blobs/{}", Sha256::of(&config)), config),
        ]);
        refused(resolve(&server), &server.url(), &["foreign layer"]);
    }
    let server = registry(&[("manifests/1", b"{\"schemaVersion\": 2".repeat(100_000))]);
    refused(resolve(&server), &server.url(), &["does not parse"]);
    let deep = [
        &b"{\"schemaVersion\":2,\"layers\":"[..],
        &b"[".repeat(1_000_000),
    ]
    .concat();
    let server = registry(&[("manifests/1", deep)]);
    refused(resolve(&server), &server.url(), &["does not parse"]);
}

#[test]
fn both_forms_of_manifests_and_indexes_are_read() {
    let config_type = [
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
    ];
    for config_type in config_type {
        let mut image = FakeImage::new("etcd");
        image.manifest["config"]["mediaType"] = json!(config_type);
        if config_type.contains("oci") {
            // OCI need not say what it is.
            image.manifest.as_object_mut().unwrap().remove("mediaType");
            image.manifest["layers"][0]["mediaType"] =
                json!("application/vnd.oci.image.layer.v1.tar+gzip");
        }
        let (config, manifest) = (bytes(&image.config), bytes(&image.manifest));
        let index = image.index(&json!({ "os": "linux", "architecture": "amd64" }));
        let server = registry(&[
            ("manifests/1", bytes(&index)),
            (
                &format!("manifests/{}", Sha256::of(&manifest)),
                manifest.clone(),
            ),
            (&format!("blobs/{}", Sha256::of(&config)), config.clone()),
        ]);
        assert_eq!(resolve(&server).unwrap().id, Sha256::of(&config));
        let accepted = &server.seen()[0].headers["accept"];
        assert!(accepted.contains("vnd.oci.image.index") && accepted.contains("manifest.list.v2"));
    }
}

/// A registry with an image, whose layers are answered by `layer`.
fn with_layer(
    image: &FakeImage,
    layer: impl Fn(&Seen, usize, &mut dyn Wire) -> io::Result<()> + Send + Sync + 'static,
) -> Raw {
    let (config, manifest) = (bytes(&image.config), bytes(&image.manifest));
    let config_path = format!("/v2/lab/x/blobs/{}", Sha256::of(&config));
    Raw::start(move |request, before, wire| {
        if request.path.contains("/manifests/") {
            answer(wire, "200 OK", "", &manifest)
        } else if request.path == config_path {
            answer(wire, "200 OK", "", &config)
        } else {
            layer(request, before, wire)
        }
    })
}

fn layer_refused(server: &Raw, words: &[&str]) {
    let client = client(plainly(server));
    let image = resolve_by(&client, server).unwrap();
    let digest = image.layers[0].digest;
    let started = Instant::now();
    let saved = Registries::new(&client).save_layer(
        &name(server),
        &image.layers[0],
        &tempfile::tempfile,
        &task(),
    );
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    refused(
        saved,
        &format!("{}/v2/lab/x/blobs/{digest}", server.url()),
        words,
    );
}

#[test]
fn a_layer_is_held_to_its_size_and_its_digest() {
    let image = FakeImage::new("etcd");
    let right = image.layers[0].clone();
    let (longer, shorter) = ([&right[..], b"x"].concat(), right[1..].to_vec());
    let mut other = right.clone();
    other[500] ^= 1;
    for (body, words) in [
        (longer.clone(), "bytes instead of"),
        (shorter, "bytes instead of"),
        (other, "its digest is"),
    ] {
        let server = with_layer(&image, move |_, _, wire| answer(wire, "200 X", "", &body));
        layer_refused(&server, &[words]);
        assert_eq!(server.seen().len(), 3, "another try gives the same");
    }
    let server = with_layer(&image, move |_, _, wire| {
        head(wire, "200 X", "")?;
        wire.write_all(&longer)
    });
    layer_refused(&server, &["more than"]);
}

#[test]
fn a_layer_goes_on_with_another_token_whenever_its_own_has_ended() {
    let image = FakeImage::new("etcd");
    let layer = image.layers[0].clone();
    let (config, manifest) = (bytes(&image.config), bytes(&image.manifest));
    let address = Arc::new(Mutex::new(String::new()));
    let named = Arc::clone(&address);
    let (half, most) = (layer.len() / 2, layer.len() * 3 / 4);
    let served = layer.clone();
    let server = Raw::start(move |request, before, wire| {
        let range = request.headers.get("range").map(String::as_str);
        let known = request.headers.get("authorization").map(String::as_str);
        if request.path.starts_with("/token") {
            return answer(wire, "200 X", "", format!("{{\"token\": \"t{before}\"}}"));
        }
        let challenge = format!(
            "WWW-Authenticate: Bearer realm=\"{}/token\",service=\"s\"\r\n",
            named.lock().unwrap()
        );
        match known {
            Some("Bearer t0") if request.path.contains("/manifests/") => {
                answer(wire, "200 X", "", &manifest)
            }
            Some("Bearer t0")
                if before == 0 && request.path.ends_with(&Sha256::of(&config).hex()) =>
            {
                answer(wire, "200 X", "", &config)
            }
            Some("Bearer t0") if before == 0 => {
                let length = served.len();
                head(
                    wire,
                    "200 X",
                    &format!("ETag: \"x\"\r\nContent-Length: {length}\r\n"),
                )?;
                wire.write_all(&served[..half])
            }
            Some("Bearer t1") if range == Some(&format!("bytes={half}-")) => {
                let (length, last) = (served.len(), served.len() - 1);
                let range = format!("Content-Range: bytes {half}-{last}/{length}\r\n");
                let rest = format!("Content-Length: {}\r\n", length - half);
                head(wire, "206 X", &format!("ETag: \"x\"\r\n{range}{rest}"))?;
                wire.write_all(&served[half..most])
            }
            Some("Bearer t2") => super::support::raw::ranged(wire, request, "\"x\"", &served),
            // Nobody, or somebody whose token has ended.
            _ => answer(wire, "401 X", &challenge, ""),
        }
    });
    *address.lock().unwrap() = server.url();
    let client = client(plainly(&server));
    let registries = Registries::new(&client);
    let image = registries
        .resolve(&name(&server), Arch::Amd64, &|_| Ok(()), &task())
        .unwrap();
    let saved = registries
        .save_layer(
            &name(&server),
            &image.layers[0],
            &tempfile::tempfile,
            &task(),
        )
        .unwrap();
    assert_eq!(saved.sha256, Sha256::of(&layer));
    let seen = server.seen();
    let last = seen.last().unwrap();
    assert_eq!(
        last.headers["range"],
        format!("bytes={most}-"),
        "it did not begin again"
    );
    assert_eq!(last.headers["authorization"], "Bearer t2");
}

#[test]
fn a_token_that_brings_nothing_is_not_followed_by_another() {
    let address = Arc::new(Mutex::new(String::new()));
    let named = Arc::clone(&address);
    let server = Raw::start(move |request, before, wire| {
        if request.path.starts_with("/token") {
            return answer(wire, "200 X", "", format!("{{\"token\": \"t{before}\"}}"));
        }
        let challenge = format!(
            "WWW-Authenticate: Bearer realm=\"{}/token\",service=\"s\"\r\n",
            named.lock().unwrap()
        );
        answer(wire, "401 X", &challenge, "")
    });
    *address.lock().unwrap() = server.url();
    let client = client(plainly(&server));
    let refused =
        Registries::new(&client).resolve(&name(&server), Arch::Amd64, &|_| Ok(()), &task());
    assert!(refused.unwrap_err().to_string().contains("401"));
    let seen = server.seen();
    let tokens = seen.iter().filter(|seen| seen.path.starts_with("/token"));
    assert_eq!(tokens.count(), 1);
}

/// A registry that wants a token for everything, whose token server answers `body`, and that no token satisfies.
fn wants_a_token(body: String) -> Raw {
    let address = Arc::new(Mutex::new(String::new()));
    let named = Arc::clone(&address);
    let server = Raw::start(move |request, _, wire| {
        if request.path.starts_with("/token") {
            return answer(wire, "200 X", "", &body);
        }
        let realm = format!("{}/token", named.lock().unwrap());
        demand_token(wire, &realm)
    });
    *address.lock().unwrap() = server.url();
    server
}

#[test]
fn four_hundred_and_one_for_ever_is_an_end() {
    let server = wants_a_token("{\"token\": \"worthless\"}".to_owned());
    refused(resolve(&server), &server.url(), &["401", "docker login"]);
    assert_eq!(
        server.seen().len(),
        3,
        "asked, got a token, asked once more"
    );
}

#[test]
fn answers_of_token_servers_are_held_to_their_limits() {
    for (body, words) in [
        (
            "{\"token\": \"a\\r\\nX-Injected: 1\"}".to_owned(),
            "what no header may",
        ),
        ("{}".to_owned(), "did not answer with a token"),
        (
            "{\"token\": \"\"}".to_owned(),
            "did not answer with a token",
        ),
        (
            "<html>log in here</html>".to_owned(),
            "did not answer with a token",
        ),
        ("x".repeat(300 << 10), "limit of 262144"),
    ] {
        let server = wants_a_token(body);
        refused(resolve(&server), &server.url(), &[words]);
    }
    for realm in [
        "file:///etc/passwd",
        "not an address",
        "http://user:secret@127.0.0.1/",
    ] {
        let server = Raw::start(move |_, _, wire| demand_token(wire, realm));
        let error = resolve(&server).unwrap_err().to_string();
        assert!(error.contains("names no address for tokens"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_layer_that_unpacks_to_something_else_is_refused_in_the_end() {
    // The whole way is in tests/refusals.rs; here only that the promise comes from the config, and not from the layer.
    let mut image = FakeImage::new("etcd");
    image.layers[0] = gzip(b"another tar");
    image.describe();
    let server = with_layer(&image, |_, _, wire| answer(wire, "404 X", "", ""));
    let resolved = resolve(&server).unwrap();
    assert_ne!(resolved.layers[0].diff_id, Sha256::of(b"another tar"));
}
