//! `kpot.yaml`: written, read, put together with flags; and the files that only it can ask for.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made"
)]

mod support;

use std::os::unix::fs::PermissionsExt as _;

use bundle_spec::{Sha256, UnverifiedPot};
use serde_json::Value;
use support::server::Answer;
use support::upstream::Upstream;
use support::{Desk, code, stderr, stdout};

/// Writes `out/kpot.yaml` that asks `upstream` for `kubernetes`, and for `more`.
fn write(desk: &Desk, upstream: &Upstream, kubernetes: &str, more: &str) {
    let text = format!("k8s: {kubernetes}\n{}{more}", upstream.recipe());
    std::fs::write(desk.out().join("kpot.yaml"), text).unwrap();
}

#[test]
fn init_writes_a_recipe_that_is_built_and_replaces_none() {
    let (desk, upstream) = (Desk::without_key(), Upstream::new("v1.20.2"));
    let made = desk.kpot(&["init"]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    assert_eq!(desk.made(), ["kpot.yaml"]);
    upstream.mark("stable-1.20", b"v1.20.2");
    let mut flags = upstream.arguments("x.pot");
    // All but the version, which stands in the recipe.
    flags.drain(1..3);
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--plan", "--json"]);
    let planned = desk.kpot(&flags);
    assert_eq!(code(&planned), 0, "{}", stderr(&planned));
    let report: Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(report["name"], "kpot-v1.20.2-amd64");
    let told = stderr(&planned);
    assert!(told.contains("the recipe is kpot.yaml"), "{told}");

    let recipe = desk.out().join("kpot.yaml");
    std::fs::write(&recipe, "k8s: v1.14.0\n").unwrap();
    let refused = desk.kpot(&["init"]);
    assert_eq!(code(&refused), 2);
    assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
    assert_eq!(std::fs::read_to_string(&recipe).unwrap(), "k8s: v1.14.0\n");
    let forced = desk.kpot(&["init", "--force"]);
    assert_eq!(code(&forced), 0, "{}", stderr(&forced));
    assert!(std::fs::read_to_string(&recipe).unwrap().contains("1.20"));
    let other = desk.kpot(&["init", "other.yaml"]);
    assert_eq!(code(&other), 0, "{}", stderr(&other));
    assert_eq!(desk.made(), ["kpot.yaml", "other.yaml"]);
}

#[test]
fn a_recipe_says_what_flags_say() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let by_flags = desk.build(&upstream, "flags.pot", &["--serial", "7"]);
    assert_eq!(code(&by_flags), 0, "{}", stderr(&by_flags));
    assert!(!stderr(&by_flags).contains("recipe"));
    write(&desk, &upstream, "v1.20.2", "serial: 7\n");
    let by_recipe = desk.kpot(&["build"]);
    assert_eq!(code(&by_recipe), 0, "{}", stderr(&by_recipe));
    let read = |name: &str| std::fs::read(desk.out().join(name)).unwrap();
    assert!(read("flags.pot") == read("kpot-v1.20.2-amd64.pot"));

    // A flag wins.
    let other = desk.kpot(&["build", "--serial", "8", "-o", "other.pot"]);
    assert_eq!(code(&other), 0, "{}", stderr(&other));
    let pot = UnverifiedPot::open(&desk.out().join("other.pot")).unwrap();
    assert_eq!(pot.manifest_unverified().serial, 8);
}

#[test]
fn what_no_recipe_may_say_is_refused_with_its_place_and_nobody_is_asked() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    write(&desk, &upstream, "v1.20.2", "image: [busybox]\n");
    let line = std::fs::read_to_string(desk.out().join("kpot.yaml"))
        .unwrap()
        .lines()
        .count();
    let place = format!("kpot.yaml: line {line} column 1: unknown field `image`");
    for arguments in [&["build"][..], &["build", "--plan"], &["lock"]] {
        let refused = desk.kpot(arguments);
        assert_eq!(code(&refused), 2, "{}", stderr(&refused));
        assert!(stderr(&refused).contains(&place), "{}", stderr(&refused));
    }
    let missing = desk.kpot(&["build", "-f", "none.yaml"]);
    assert_eq!(code(&missing), 2);
    assert!(
        stderr(&missing).contains("none.yaml"),
        "{}",
        stderr(&missing)
    );
    std::fs::remove_file(desk.out().join("kpot.yaml")).unwrap();
    let nothing = desk.kpot(&["build"]);
    assert_eq!(code(&nothing), 2);
    assert!(stderr(&nothing).contains("--k8s"), "{}", stderr(&nothing));
    let two = desk.kpot(&[
        "build", "--k8s", "1.20", "--arch", "amd64", "--arch", "arm64", "-o", "x",
    ]);
    assert_eq!(code(&two), 2);
    assert!(stderr(&two).contains("--output"), "{}", stderr(&two));
    assert!(upstream.server.seen("").is_empty());
    assert!(desk.made().is_empty());
}

#[test]
fn files_are_carried_and_written_out_and_never_programs() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let addon = b"apiVersion: v1\nkind: ConfigMap\n";
    let tool = support::upstream::content("tool", 70_000);
    std::fs::create_dir(desk.out().join("manifests")).unwrap();
    std::fs::write(desk.out().join("manifests/addon.yml"), addon).unwrap();
    upstream.put("/tools/v2/crictl", tool.clone());
    let url = format!("{}/tools/v2/crictl", upstream.server.url());
    let more = format!(
        "files:\n  - path: manifests/addon.yml\n  - url: {url}\n    digest: {}\n    version: v2\n",
        Sha256::of(&tool)
    );
    write(&desk, &upstream, "v1.20.2", &more);
    let planned = desk.kpot(&["build", "--plan", "--json"]);
    assert_eq!(code(&planned), 0, "{}", stderr(&planned));
    let report: Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(report["files"][0]["name"], "file.addon.yml");
    assert_eq!(report["files"][0]["size"], addon.len());
    assert_eq!(report["files"][1]["from"], url);
    assert_eq!(report["files"][1]["size"], tool.len());
    assert_eq!(desk.made(), ["kpot.yaml", "manifests"]);

    let built = desk.kpot(&["build", "-o", "x.pot"]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert!(
        stdout(&built).contains("file.addon.yml"),
        "{}",
        stdout(&built)
    );
    let pot = desk.out().join("x.pot");
    let verified = desk.verify(&pot);
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));

    let opened = UnverifiedPot::open(&pot).unwrap();
    let manifest = opened.manifest_unverified();
    let found: Vec<(&str, &str, &str)> = manifest
        .artifacts
        .iter()
        .filter(|it| it.extra().is_some())
        .map(|it| (it.name.as_str(), it.version.as_str(), it.source.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("file.addon.yml", "-", "file:addon.yml"),
            ("file.crictl", "v2", url.as_str())
        ]
    );
    assert!(manifest.artifact("crictl").is_none());

    upstream.server.forget();
    let again = desk.kpot(&["build", "-o", "y.pot", "--json"]);
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    assert_eq!(upstream.server.sent("/tools/"), 0, "it is in the cache");
    let report: Value = serde_json::from_slice(&again.stdout).unwrap();
    let parts = report["parts"].as_array().unwrap().iter();
    let got: Vec<(&Value, &Value)> = parts
        .filter(|part| part["name"].as_str().unwrap().starts_with("file."))
        .map(|part| (&part["name"], &part["got"]))
        .collect();
    assert_eq!(
        got,
        [
            (&"file.addon.yml".into(), &"here".into()),
            (&"file.crictl".into(), &"cache".into())
        ]
    );

    let signers = desk.signers().display().to_string();
    let out = desk.kpot(&[
        "extract",
        "x.pot",
        "file.addon.yml",
        "file.crictl",
        "--signers",
        &signers,
        "--to",
        "to",
    ]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    for (name, content) in [("addon.yml", &addon[..]), ("crictl", &tool)] {
        let path = desk.out().join("to/files").join(name);
        assert!(std::fs::read(&path).unwrap() == content, "{name}");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{name}");
    }

    // The installer that travels in the pot takes it, too.
    let unpacked = desk.path("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let tar = assert_cmd::Command::new("tar")
        .args(["-xf", &pot.display().to_string()])
        .current_dir(&unpacked)
        .output()
        .unwrap();
    assert_eq!(code(&tar), 0, "{}", stderr(&tar));
    let verified = assert_cmd::Command::new(unpacked.join("kpot-install"))
        .args(["verify", "--signers", &signers])
        .current_dir(&unpacked)
        .output()
        .unwrap();
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));
}

#[test]
fn a_file_that_is_not_what_was_said_is_refused_by_name() {
    let (desk, upstream) = (Desk::new(), Upstream::new("v1.20.2"));
    let right = Sha256::of(b"right");
    std::fs::write(desk.out().join("notes.txt"), "wrong").unwrap();
    upstream
        .server
        .set("/notes.txt", vec![Answer::Body(b"wrong".to_vec())]);
    let url = format!("{}/notes.txt", upstream.server.url());
    for (file, words) in [
        (
            format!("path: notes.txt\n    digest: {right}"),
            vec!["notes.txt", "the recipe says"],
        ),
        (
            format!("url: {url}\n    digest: {right}"),
            vec![&url, "the recipe says"],
        ),
    ] {
        write(
            &desk,
            &upstream,
            "v1.20.2",
            &format!("files:\n  - {file}\n"),
        );
        let refused = desk.kpot(&["build", "-o", "x.pot"]);
        let told = stderr(&refused);
        assert_eq!(code(&refused), 1, "{told}");
        for word in words.into_iter().chain(["file.notes.txt"]) {
            assert!(told.contains(word), "{word}: {told}");
        }
    }
    let before = upstream.server.seen("").len();
    for (files, word) in [
        ("  - path: gone.txt\n", "gone.txt"),
        ("  - path: /dev\n    name: x\n", "is not a file"),
        (
            "  - path: notes.txt\n  - name: notes.txt\n    path: kpot.yaml\n",
            "two files are called file.notes.txt",
        ),
    ] {
        write(&desk, &upstream, "v1.20.2", &format!("files:\n{files}"));
        let refused = desk.kpot(&["build", "-o", "x.pot"]);
        assert_eq!(code(&refused), 2, "{}", stderr(&refused));
        assert!(stderr(&refused).contains(word), "{}", stderr(&refused));
    }
    assert_eq!(upstream.server.seen("").len(), before);
    assert_eq!(desk.made(), ["kpot.yaml", "notes.txt"]);
}

#[test]
fn the_schema_is_printed() {
    let shown = Desk::without_key().kpot(&["schema"]);
    assert_eq!(code(&shown), 0, "{}", stderr(&shown));
    let schema: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(schema["type"], "object");
    assert_eq!(schema["additionalProperties"], false);
    for field in [
        "k8s",
        "images",
        "files",
        "mirrors",
        "pins",
        "docker-version",
    ] {
        assert!(
            schema["properties"][field]["description"].is_string(),
            "{field}"
        );
    }
}
