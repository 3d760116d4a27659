//! A pot of more parts than a process may have files open by default.
#![allow(
    clippy::disallowed_methods,
    reason = "tests start kpot below limits of their own"
)]

mod support;

use std::process::{Command, Output};

use bundle_spec::Sha256;
use serde_json::json;
use support::upstream::{FakeImage, Upstream, gzip};
use support::{Desk, code, stderr};

/// How many layers the image has: more than either limit below.
const LAYERS: usize = 300;

/// An upstream with an image of so many layers, and its name.
fn upstream() -> (Upstream, String) {
    let upstream = Upstream::new("v1.20.2");
    let mut image = FakeImage::new("many");
    let plain: Vec<String> = (0..LAYERS).map(|n| format!("layer {n}")).collect();
    let ids = plain.iter().map(|it| Sha256::of(it.as_bytes()).to_string());
    image.config["rootfs"]["diff_ids"] = json!(ids.collect::<Vec<_>>());
    image.layers = plain.iter().map(|it| gzip(it.as_bytes())).collect();
    image.describe();
    upstream.push("team/many", "v1", &image);
    let name = format!("{}/team/many:v1", upstream.server.address());
    (upstream, name)
}

/// `kpot build` as a process that may have so many files open, and may raise that so far.
fn built(desk: &Desk, (upstream, image): &(Upstream, String), soft: &str, hard: &str) -> Output {
    let arguments = upstream.arguments("x.pot");
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--jobs", "2", "--image", image]);
    let kpot = desk.command(&arguments);
    let mut shell = Command::new("sh");
    let script = "ulimit -S -n $0 && ulimit -H -n $1 && shift && exec \"$@\"";
    shell.args(["-c", script, soft, hard]);
    shell.arg(kpot.get_program()).args(kpot.get_args());
    for (name, value) in kpot.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.current_dir(desk.out());
    shell.output().unwrap()
}

#[test]
fn a_limit_that_may_be_raised_is_no_limit() {
    let (desk, upstream) = (Desk::new(), upstream());
    let built = built(&desk, &upstream, "128", "1024");
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert_eq!(code(&desk.verify(&desk.out().join("x.pot"))), 0);
}

#[test]
fn a_limit_that_may_not_is_told_with_what_would_do_before_the_layers_are_fetched() {
    let (desk, upstream) = (Desk::new(), upstream());
    let refused = built(&desk, &upstream, "128", "256");
    let told = stderr(&refused);
    assert_eq!(code(&refused), 1, "{told}");
    for word in ["256 files open", "ulimit -n 512", "LimitNOFILE=512"] {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
    let layer = Sha256::of(&gzip(b"layer 299")).to_string();
    assert!(upstream.0.server.seen(&layer).is_empty());
    assert!(desk.made().is_empty(), "{:?}", desk.made());
}
