//! Every command, in the order in which a person comes to it, against real servers: Debian's nginx and docker-registry, over TLS, with certificates of a private
//! authority. What they were asked for is read in their own access logs.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at and change the files that kpot made, and run stock tools"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use bundle_spec::Sha256;
use kpot::fetch::network;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use support::certificates::Authority;
use support::pots::other_key;
use support::real::{self, Pusher, Running, fetched};
use support::upstream::{FakeImage, Upstream, content};
use support::{Desk, code, ssh, stderr, stdout};

const AMD64: &str = "kpot-v1.20.2-amd64.pot";
const ARM64: &str = "kpot-v1.20.2-arm64.pot";
const COREDNS: &str = "k8s.gcr.io/coredns:1.7.0";

/// The images of Kubernetes 1.20.2.
const IMAGES: [(&str, &str); 7] = [
    ("coredns", "1.7.0"),
    ("etcd", "3.4.13-0"),
    ("kube-apiserver", "v1.20.2"),
    ("kube-controller-manager", "v1.20.2"),
    ("kube-proxy", "v1.20.2"),
    ("kube-scheduler", "v1.20.2"),
    ("pause", "3.2"),
];

/// The servers, and somebody's desk.
struct World {
    desk: Desk,
    web: Running,
    registry: Running,
    http: Client,
    folder: tempfile::TempDir,
    upstream: Upstream,
}

impl World {
    fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let below = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (web, images) = (below("web"), below("images"));
        let upstream = Upstream::new("v1.20.2");
        upstream.add_arm64();
        upstream.mark("stable-1.20", b"v1.20.2\n");
        upstream.put("/files/tool", content("tool", 70_000));
        for (path, body) in upstream.server.bodies() {
            if !path.starts_with("/v2/") {
                let file = web.join("www").join(&path[1..]);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, body).unwrap();
            }
        }
        let desk = Desk::new();
        authority.write(&desk.path("ca.pem"));
        let authorities = network::authorities(&desk.path("ca.pem")).unwrap();
        let world = Self {
            web: real::nginx(&web, Some(&authority)),
            registry: real::registry(&images, &authority, None),
            http: Client::builder()
                .tls_certs_only(authorities)
                .build()
                .unwrap(),
            desk,
            folder,
            upstream,
        };
        for (name, tag) in IMAGES {
            world.push(name, tag, name);
        }
        world.push("lab/flannel", "v1", "flannel");
        world
    }

    /// Pushes an image for both architectures behind one index, made of what `seed` stands for.
    fn push(&self, repository: &str, tag: &str, seed: &str) {
        let pusher = Pusher {
            http: &self.http,
            root: format!("https://127.0.0.1:{}/v2/{repository}", self.registry.port),
            login: |request| request,
        };
        let mut manifests = Vec::new();
        for arch in ["amd64", "arm64"] {
            let mut image = FakeImage::new(&format!("{seed}-{arch}"));
            image.config["architecture"] = json!(arch);
            image.describe();
            pusher.image(None, &image);
            let manifest = serde_json::to_vec(&image.manifest).unwrap();
            manifests.push(json!({
                "mediaType": image.manifest["mediaType"], "size": manifest.len(), "digest": Sha256::of(&manifest),
                "platform": { "os": "linux", "architecture": arch },
            }));
        }
        let index = json!({
            "schemaVersion": 2, "manifests": manifests,
            "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        });
        pusher.manifest(tag, &index);
    }

    /// What a person adds to the recipe that `kpot init` wrote.
    fn recipe(&self) -> String {
        let web = format!("https://127.0.0.1:{}", self.web.port);
        let images = format!("127.0.0.1:{}", self.registry.port);
        let hosts = ["dl.k8s.io", "download.docker.com", "github.com"];
        let mirrors = hosts.map(|host| format!("  {host}: {web}/{host}\n"));
        format!(
            "arch: [amd64, arm64]\ndocker-version: 20.10.24\ncni-version: v1.7.1\n\
             pins:\n  docker/amd64: {}\n  {}\n\
             images:\n  - {images}/lab/flannel:v1\n\
             files:\n  - path: notes.txt\n  - url: {web}/files/tool\n    digest: {}\n\
             mirrors:\n{}  k8s.gcr.io: https://{images}\n",
            self.upstream.docker(),
            Upstream::arm64_pin().replace('=', ": "),
            Sha256::of(&content("tool", 70_000)),
            mirrors.concat()
        )
    }

    /// kpot in a folder of the desk with a cache of that folder.
    fn kpot(&self, folder: &str, arguments: &[&str]) -> Output {
        self.desk
            .command(arguments)
            .current_dir(self.desk.path(folder))
            .env("XDG_CACHE_HOME", self.desk.path(&format!("{folder}-cache")))
            .output()
            .unwrap()
    }

    /// The same, which must end well; what it printed.
    fn told(&self, folder: &str, arguments: &[&str]) -> String {
        let output = self.kpot(folder, arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    }

    /// The same with the authority that signed the servers' certificates; what it printed.
    fn fetching(&self, folder: &str, arguments: &[&str]) -> String {
        let authority = self.desk.path("ca.pem").display().to_string();
        let mut all = arguments.to_vec();
        all.extend(["--cacert", &authority]);
        self.told(folder, &all)
    }

    fn json(&self, folder: &str, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.fetching(folder, arguments)).unwrap()
    }

    fn pot(&self, folder: &str, name: &str) -> Vec<u8> {
        std::fs::read(self.desk.path(folder).join(name)).unwrap()
    }

    /// What was asked for with GET until now, of the web server and of the registry.
    fn gets(&self) -> BTreeMap<String, usize> {
        let mut all = fetched(&self.folder.path().join("web/access.log"));
        all.extend(fetched(&self.registry.said));
        all
    }

    /// What was asked for besides since `before`.
    fn since(&self, before: &BTreeMap<String, usize>) -> Vec<String> {
        let new = |(path, count): &(String, usize)| before.get(path) != Some(count);
        self.gets().into_iter().filter(new).map(|it| it.0).collect()
    }
}

/// Endings of what is small and asked for in every build.
const ASIDE: [&str; 2] = [".sha256", "/stable-1.20.txt"];

/// What is content, and neither a checksum, a version marker nor a manifest.
fn is_content(path: &str) -> bool {
    let aside = ASIDE.iter().any(|ending| path.ends_with(ending));
    path.contains("/blobs/") || (!path.starts_with("/v2/") && !aside)
}

#[test]
fn every_command_works_with_real_servers() {
    let world = World::new();
    a_person_looks_around(&world);
    a_recipe_is_planned_and_locked(&world);
    two_checkouts_make_the_same_pots(&world);
    a_warm_build_fetches_no_content(&world);
    the_pots_are_what_the_servers_have(&world);
    a_tag_that_moves_is_noticed(&world);
    another_key_signs(&world);
    the_cache_is_looked_after(&world);
}

/// version, versions, schema, completions, man, init.
fn a_person_looks_around(world: &World) {
    let version: Value = serde_json::from_str(&world.told("out", &["version", "--json"])).unwrap();
    let installers = version["installers"].as_array().unwrap();
    let arches: Vec<&str> = installers
        .iter()
        .map(|it| it["arch"].as_str().unwrap())
        .collect();
    assert_eq!(arches, ["amd64", "arm64"], "{version}");
    assert!(world.told("out", &["versions"]).contains("1.20"));
    let schema: Value = serde_json::from_str(&world.told("out", &["schema"])).unwrap();
    assert_eq!(schema["type"], "object");
    assert!(
        world
            .told("out", &["completions", "bash"])
            .contains("--sign-key")
    );
    let pages = world.desk.path("pages");
    world.told("out", &["man", pages.to_str().unwrap()]);
    assert!(pages.join("kpot-build.1").is_file());

    assert!(world.told("out", &["init"]).contains("kpot.yaml"));
    let recipe = world.desk.out().join("kpot.yaml");
    let begun = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(&recipe, begun + &world.recipe()).unwrap();
    std::fs::write(world.desk.out().join("notes.txt"), "read me").unwrap();
}

/// build --plan, lock.
fn a_recipe_is_planned_and_locked(world: &World) {
    // Nobody has said yet that the private authority is to be trusted.
    let stranger = world.kpot("out", &["build", "--plan"]);
    assert_eq!(code(&stranger), 1);
    assert!(
        stderr(&stranger).contains("--cacert"),
        "{}",
        stderr(&stranger)
    );

    let plans = world.json("out", &["build", "--plan", "--json"]);
    for (plan, arch) in plans.as_array().unwrap().iter().zip(["amd64", "arm64"]) {
        assert_eq!(plan["name"], format!("kpot-v1.20.2-{arch}"));
        assert_eq!((&plan["unknown"], &plan["cached"]), (&json!(0), &json!(0)));
        let counts =
            ["downloads", "files", "images"].map(|kind| plan[kind].as_array().unwrap().len());
        assert_eq!(counts, [5, 2, 8]);
    }
    assert!(
        !world.gets().keys().any(|path| is_content(path)),
        "{:?}",
        world.gets()
    );

    let made = world.fetching("out", &["lock"]);
    assert!(made.contains("+ kubelet (arm64): sha256:"), "{made}");
    let lock = world.pot("out", "kpot.lock");
    assert!(world.fetching("out", &["lock"]).contains("is as it was"));
    assert!(world.pot("out", "kpot.lock") == lock);
    assert_eq!(world.desk.made(), ["kpot.lock", "kpot.yaml", "notes.txt"]);
}

/// build --locked, on two machines as it were.
fn two_checkouts_make_the_same_pots(world: &World) {
    let built = world.json("out", &["build", "--locked", "--jobs", "1", "--json"]);
    for (report, name) in built.as_array().unwrap().iter().zip([AMD64, ARM64]) {
        assert_eq!(report["pot"], name);
        let identity = Sha256::of(&member(&world.pot("out", name), "SHA256SUMS"));
        assert_eq!(report["identity"], identity.to_string());
    }
    let other = world.desk.path("other");
    std::fs::create_dir(&other).unwrap();
    for name in ["kpot.lock", "kpot.yaml", "notes.txt"] {
        std::fs::copy(world.desk.out().join(name), other.join(name)).unwrap();
    }
    world.fetching("other", &["build", "--jobs", "3"]);
    for name in [AMD64, ARM64] {
        assert!(world.pot("out", name) == world.pot("other", name), "{name}");
    }
}

/// build, and build --plan, with what is in the cache.
fn a_warm_build_fetches_no_content(world: &World) {
    let pot = world.pot("out", AMD64);
    // The publisher's checksum is asked for where no lock stands for it.
    for (arguments, publisher) in [(&["build"][..], false), (&["build", "--no-lock"], true)] {
        let before = world.gets();
        std::fs::remove_file(world.desk.out().join(AMD64)).unwrap();
        world.fetching("out", arguments);
        let asked = world.since(&before);
        assert!(!asked.iter().any(|path| is_content(path)), "{asked:?}");
        let checksum = asked.iter().any(|path| path.ends_with("/kubelet.sha256"));
        assert_eq!(checksum, publisher, "{arguments:?}: {asked:?}");
        assert!(world.pot("out", AMD64) == pot);
    }

    let plans = world.json("out", &["build", "--plan", "--json"]);
    for plan in plans.as_array().unwrap() {
        for item in plan["downloads"]
            .as_array()
            .unwrap()
            .iter()
            .chain(plan["images"].as_array().unwrap())
        {
            assert_eq!(item["cached"], item["size"], "{item}");
        }
    }
    let shown = world.fetching("out", &["build", "--plan"]);
    assert_eq!(
        shown.matches("  in the cache\n").count(),
        2 * (5 + 1 + 8),
        "{shown}"
    );
    let cold = world.fetching("out", &["build", "--plan", "--no-cache"]);
    assert!(!cold.contains("in the cache"), "{cold}");
}

/// verify, inspect, extract; tar, sha256sum and ssh-keygen.
fn the_pots_are_what_the_servers_have(world: &World) {
    let signers = world.desk.signers().display().to_string();
    for (name, seed) in [(AMD64, "kubelet"), (ARM64, "kubelet for arm64")] {
        let verified = world.told("out", &["verify", name, "--signers", &signers]);
        assert!(verified.contains("is good"), "{verified}");
        let to = world.desk.path(&format!("extracted-{name}"));
        world.told(
            "out",
            &[
                "extract",
                name,
                "--signers",
                &signers,
                "--to",
                to.to_str().unwrap(),
            ],
        );
        let read = |path: &str| std::fs::read(to.join(path)).unwrap();
        assert!(read("kubelet") == content(seed, 300_000));
        assert!(read("docker/dockerd") == content("dockerd", 50_000));
        assert_eq!(read("files/notes.txt"), b"read me");
        assert!(read("files/tool") == content("tool", 70_000));
        let arch = name
            .trim_start_matches("kpot-v1.20.2-")
            .trim_end_matches(".pot");
        let image = archived(&to.join("images/k8s.gcr.io_etcd_3.4.13-0.tar"));
        assert_eq!(image["architecture"], arch);
        assert_eq!(image["config"]["Cmd"], json!([format!("etcd-{arch}")]));
    }
    let shown = world.told("out", &["inspect", ARM64]);
    assert!(
        shown.contains("kubelet") && shown.contains("arm64"),
        "{shown}"
    );
    assert!(
        world
            .told("out", &["inspect", ARM64, "--tree"])
            .contains("sha256:")
    );
    let manifest: Value =
        serde_json::from_str(&world.told("out", &["inspect", ARM64, "--json"])).unwrap();
    assert_eq!(manifest["manifest"]["arch"], "arm64");

    let unpacked = world.desk.path("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let pot = world.desk.out().join(AMD64);
    ssh::run(&unpacked, "tar", &["-xf", pot.to_str().unwrap()]);
    ssh::run(
        &unpacked,
        "sha256sum",
        &["--strict", "--quiet", "-c", "SHA256SUMS"],
    );
    let read = |name: &str| std::fs::read(unpacked.join(name)).unwrap();
    let (signature, sums) = (read("SHA256SUMS.sig"), read("SHA256SUMS"));
    let theirs = ssh::verify(&unpacked, &world.desk.signers(), &signature, &sums);
    assert!(theirs.status.success(), "{theirs:?}");
}

/// build --locked, lock --update, diff.
fn a_tag_that_moves_is_noticed(world: &World) {
    let authority = world.desk.path("ca.pem").display().to_string();
    world.push("coredns", "1.7.0", "coredns-moved");
    let refused = world.kpot("out", &["build", "--locked", "--cacert", &authority]);
    assert_eq!(code(&refused), 1, "{}", stderr(&refused));
    assert!(stderr(&refused).contains(COREDNS), "{}", stderr(&refused));
    let old = world.pot("out", AMD64);
    world.fetching("out", &["build"]);
    assert!(
        world.pot("out", AMD64) == old,
        "the pinned one, by its digest"
    );

    let changed = world.fetching("out", &["lock", "--update", COREDNS]);
    let lines: Vec<&str> = changed
        .lines()
        .filter(|line| line.starts_with(['+', '-', '~']))
        .collect();
    assert!(
        !lines.is_empty() && lines.iter().all(|line| line.contains(COREDNS)),
        "{changed}"
    );
    std::fs::write(world.desk.out().join("old.pot"), &old).unwrap();
    world.fetching("out", &["build", "--locked"]);
    assert!(world.pot("out", AMD64) != old);
    let difference: Value =
        serde_json::from_str(&world.told("out", &["diff", "old.pot", AMD64, "--json"])).unwrap();
    let changes = difference["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{difference}");
    assert_eq!(changes[0]["name"], "k8s.gcr.io/coredns", "{difference}");

    // A version that the release server does not know.
    let unknown = world.kpot(
        "out",
        &[
            "build",
            "--no-lock",
            "--k8s",
            "v1.20.99",
            "--cacert",
            &authority,
        ],
    );
    assert_eq!(code(&unknown), 1);
    assert!(
        stderr(&unknown).contains("the newest of 1.20 is v1.20.2"),
        "{}",
        stderr(&unknown)
    );
}

/// sign.
fn another_key_signs(world: &World) {
    let (key, signers) = other_key(&world.desk);
    let former = world.desk.signers().display().to_string();
    let told = world.told(
        "out",
        &["sign", ARM64, "--signers", &former, "--sign-key", &key],
    );
    assert!(told.contains("no longer by"), "{told}");
    world.told("out", &["verify", ARM64, "--signers", &signers]);
    let refused = world.kpot("out", &["verify", ARM64, "--signers", &former]);
    assert_eq!(code(&refused), 4);
}

/// cache list, verify, prune.
fn the_cache_is_looked_after(world: &World) {
    let listed: Value =
        serde_json::from_str(&world.told("out", &["cache", "list", "--json"])).unwrap();
    let labels: Vec<&str> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|it| it["label"].as_str())
        .collect();
    for label in ["kubelet v1.20.2", "file.tool"] {
        assert!(labels.contains(&label), "{labels:?}");
    }
    assert!(
        world
            .told("out", &["cache", "verify"])
            .contains("0 damaged")
    );
    let pruned = world.told("out", &["cache", "prune", "--max-size", "0"]);
    assert!(pruned.contains("kept 0 B in 0 entries"), "{pruned}");
    let before = world.gets();
    world.fetching("out", &["build"]);
    // Both logs are written, so a warm build that is not in them did not ask.
    for content in ["/blobs/", "/kubelet", "/docker-20.10.24.tgz"] {
        let asked = world.since(&before);
        assert!(asked.iter().any(|it| it.contains(content)), "{asked:?}");
    }
}

/// A member of a pot, by tar.
fn member(pot: &[u8], name: &str) -> Vec<u8> {
    let mut archive = tar::Archive::new(pot);
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = entries
        .find(|it| it.path().unwrap() == Path::new(name))
        .unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
    bytes
}

/// The config of the image in an archive for `docker load`.
fn archived(path: &PathBuf) -> Value {
    let bytes = std::fs::read(path).unwrap();
    let manifest: Value = serde_json::from_slice(&member(&bytes, "manifest.json")).unwrap();
    serde_json::from_slice(&member(&bytes, manifest[0]["Config"].as_str().unwrap())).unwrap()
}
