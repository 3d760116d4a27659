//! Images on a Docker that remembers what it was given.

use std::sync::Mutex;

use super::super::testing::{Machine, Pot};
use super::*;
use crate::host::command::Output;
use crate::host::scripted::Scripted;

const BASE: &[u8] = &[7; 1000];

/// Two images that share a layer.
fn pot() -> Arc<VerifiedPot> {
    Pot::default()
        .image(
            "k8s.gcr.io/kube-apiserver:v1.14.0",
            "{\"a\":1}",
            &[BASE, b"apiserver"],
        )
        .image(
            "k8s.gcr.io/kube-scheduler:v1.14.0",
            "{\"b\":2}",
            &[BASE, b"scheduler"],
        )
        .verified()
}

fn id(config: &str) -> Sha256 {
    Sha256::of(config.as_bytes())
}

fn step(pot: Arc<VerifiedPot>) -> Images {
    let image = |config: &str, names: &[&str]| ImageWanted {
        id: id(config),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let wanted = vec![
        image(
            "{\"a\":1}",
            &["registry.example.com/k8s/kube-apiserver:v1.14.0"],
        ),
        image(
            "{\"b\":2}",
            &[
                "docker.io/library/kube-scheduler:v1.14.0",
                "k8s.gcr.io/kube-scheduler:v1.14.0",
            ],
        ),
    ];
    Images::new(pot, wanted).unwrap()
}

/// Docker's images: IDs and names.
type Store = Arc<Mutex<Vec<(String, String)>>>;

/// A Docker that lists, loads and tags; what it was given to load is kept in `archive`.
fn docker(store: &Store, archive: &Arc<Mutex<Vec<u8>>>) -> Scripted {
    let (store, archive) = (Arc::clone(store), Arc::clone(archive));
    Scripted::new().with(move |cmd, input| {
        let mut store = store.lock().unwrap();
        let args: Vec<&str> = cmd.args.iter().map(String::as_str).collect();
        let mut stdout = String::new();
        match args.as_slice() {
            ["images", ..] => {
                let lines: Vec<String> = store
                    .iter()
                    .map(|(id, name)| format!("{id} {name}"))
                    .collect();
                stdout = lines.join("\n");
            }
            ["tag", id, name] => store.push(((*id).to_owned(), familiar(name))),
            ["load", "--quiet"] => {
                input.clone_into(&mut archive.lock().unwrap());
                for (config, names, _) in unpack(input).1 {
                    let id = format!("sha256:{}", config.strip_suffix(".json")?);
                    store.extend(names.iter().map(|name| (id.clone(), familiar(name))));
                }
            }
            _ => return None,
        }
        Some(Output {
            stdout: stdout.into_bytes(),
            ..Output::default()
        })
    })
}

type Described = Vec<(String, Vec<String>, Vec<String>)>;

/// The members of an archive, read by the rules of ustar, and its manifest.
fn unpack(archive: &[u8]) -> (BTreeMap<String, Vec<u8>>, Described) {
    let text = |bytes: &[u8]| {
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len());
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    };
    let octal = |bytes: &[u8]| usize::from_str_radix(text(bytes).trim(), 8).unwrap();
    let mut members = BTreeMap::new();
    let mut rest = archive;
    while rest[0] != 0 {
        let (header, after) = rest.split_at(512);
        let mut blank = header.to_vec();
        blank[148..156].fill(b' ');
        assert_eq!(
            octal(&header[148..156]),
            blank.iter().map(|byte| usize::from(*byte)).sum::<usize>()
        );
        assert_eq!(&header[257..265], b"ustar\x0000");
        let size = octal(&header[124..136]);
        let name = text(&header[..100]);
        assert!(
            members.insert(name, after[..size].to_vec()).is_none(),
            "a member is there twice"
        );
        rest = &after[size.div_ceil(512) * 512..];
    }
    assert_eq!(
        rest, [0; 1024],
        "an archive ends with two empty blocks and nothing else"
    );
    let manifest: serde_json::Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
    let strings = |value: &serde_json::Value| {
        let list = value.as_array().unwrap();
        list.iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let described = manifest.as_array().unwrap().iter().map(|image| {
        (
            image["Config"].as_str().unwrap().to_owned(),
            strings(&image["RepoTags"]),
            strings(&image["Layers"]),
        )
    });
    let described = described.collect();
    (members, described)
}

#[test]
fn missing_images_are_loaded_in_one_archive_and_get_all_their_names() {
    let machine = Machine::new();
    machine.program("docker");
    let (store, archive) = (Store::default(), Arc::default());
    let (before, after) = machine
        .ensure(&step(pot()), docker(&store, &archive))
        .unwrap();
    assert_eq!(
        before,
        State::Pending(
            "to load: registry.example.com/k8s/kube-apiserver:v1.14.0 and 1 more".to_owned()
        )
    );
    assert_eq!(after, State::Satisfied);
    let (members, described) = unpack(&archive.lock().unwrap());
    assert_eq!(
        members.len(),
        1 + 2 + 3,
        "the manifest, two configs, and the shared layer once"
    );
    for (_, _, layers) in &described {
        assert_eq!(members[&layers[0]], BASE);
    }
    assert_eq!(members[&described[1].2[1]], b"scheduler");
    let named = machine
        .journal()
        .into_iter()
        .filter(|change| matches!(change, Change::Image { .. }))
        .count();
    assert_eq!(named, 3);
}

#[test]
fn an_image_that_is_there_only_gets_its_name() {
    let machine = Machine::new();
    machine.program("docker");
    let apiserver = id("{\"a\":1}").to_string();
    let scheduler = id("{\"b\":2}").to_string();
    let store: Store = Arc::new(Mutex::new(vec![
        (apiserver, "<none>:<none>".to_owned()),
        (scheduler.clone(), "kube-scheduler:v1.14.0".to_owned()),
        (scheduler, "k8s.gcr.io/kube-scheduler:v1.14.0".to_owned()),
    ]));
    let archive = Arc::default();
    let (before, after) = machine
        .ensure(&step(pot()), docker(&store, &archive))
        .unwrap();
    assert_eq!(
        before,
        State::Pending("to name: registry.example.com/k8s/kube-apiserver:v1.14.0".to_owned())
    );
    assert_eq!(after, State::Satisfied);
    assert!(archive.lock().unwrap().is_empty(), "nothing was loaded");
}

#[test]
fn a_name_of_another_image_is_a_conflict() {
    let machine = Machine::new();
    machine.program("docker");
    let other = Sha256::of(b"other").to_string();
    let store: Store = Arc::new(Mutex::new(vec![(
        other,
        "k8s.gcr.io/kube-scheduler:v1.14.0".to_owned(),
    )]));
    let state = machine.check(&step(pot()), docker(&store, &Arc::default()));
    assert!(
        matches!(&state, State::Conflict { remedy, .. } if remedy.ends_with("docker rmi k8s.gcr.io/kube-scheduler:v1.14.0")),
        "{state:?}"
    );
}

#[test]
fn before_docker_is_there_everything_is_to_do() {
    let state = Machine::new().check(&step(pot()), Scripted::new());
    assert!(matches!(state, State::Pending(_)));
}

#[test]
fn a_load_that_fails_ends_the_step() {
    let machine = Machine::new();
    machine.program("docker");
    let script =
        Scripted::new()
            .on("docker images", 0, "")
            .on("docker load", 1, "no space left on device");
    let error = machine.ensure(&step(pot()), script).unwrap_err();
    assert!(format!("{error:#}").contains("no space left on device"));
}

#[test]
fn an_image_that_the_pot_lacks_is_refused_when_the_step_is_made() {
    let wanted = ImageWanted {
        id: id("{}"),
        names: vec!["a:1".to_owned()],
    };
    let error = Images::new(pot(), vec![wanted]).err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with("the pot kpot-test holds no image sha256:44136fa3"),
        "{error}"
    );
}
