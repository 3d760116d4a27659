//! Images on a Docker that remembers what it was given.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bundle_spec::KubeVersion;
use serde_json::{Value, json};

use super::super::testing::{Machine, Packed, Pot};
use super::*;
use crate::control_plane::images::familiar;
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

/// A containerd that lists, imports and tags; what it was given to import is kept in `archive`.
fn containerd(store: &Store, archive: &Arc<Mutex<Vec<u8>>>) -> Scripted {
    let (store, archive) = (Arc::clone(store), Arc::clone(archive));
    let script = containerd::tests::answering(Scripted::new(), "1.6.20~ds1", "true");
    script.with(move |cmd, input| {
        let mut store = store.lock().unwrap();
        let args: Vec<&str> = cmd.args.iter().map(String::as_str).collect();
        let mut stdout = String::new();
        match args.as_slice() {
            [.., "images", "--output", "json"] => {
                let mut images: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                for (id, name) in store.iter() {
                    images.entry(id).or_default().push(name);
                }
                let listed = images
                    .into_iter()
                    .map(|(id, names)| json!({ "id": id, "repoTags": names, "pinned": false }));
                stdout = json!({ "images": listed.collect::<Vec<_>>() }).to_string();
            }
            [.., "k8s.io", "images", "tag", id, name] => {
                store.push(((*id).to_owned(), (*name).to_owned()));
            }
            [.., "k8s.io", "images", "import", "-"] => {
                input.clone_into(&mut archive.lock().unwrap());
                let members = members(input);
                for (name, manifest) in named_manifests(&members) {
                    let id = manifest["config"]["digest"].as_str()?.to_owned();
                    store.push((id, name));
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

/// The images of an OCI layout, by the names in its index; every descriptor is held against what it names.
fn named_manifests(members: &BTreeMap<String, Vec<u8>>) -> Vec<(String, Value)> {
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = &members[&digest.replace("sha256:", "blobs/sha256/")];
        assert_eq!(Sha256::of(bytes).to_string(), digest);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    };
    assert_eq!(read(&members["oci-layout"])["imageLayoutVersion"], "1.0.0");
    let index = read(&members["index.json"]);
    let manifests = index["manifests"].as_array().unwrap().iter();
    manifests
        .map(|descriptor| {
            let manifest = read(blob(descriptor));
            assert_eq!(descriptor["mediaType"], manifest["mediaType"]);
            blob(&manifest["config"]);
            for layer in manifest["layers"].as_array().unwrap() {
                blob(layer);
            }
            let name = &descriptor["annotations"]["io.containerd.image.name"];
            (name.as_str().unwrap().to_owned(), manifest)
        })
        .collect()
}

type Described = Vec<(String, Vec<String>, Vec<String>)>;

/// The members of an archive, read by the rules of ustar.
fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
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
    members
}

/// The members of an archive for Docker, and its manifest.
fn unpack(archive: &[u8]) -> (BTreeMap<String, Vec<u8>>, Described) {
    let members = members(archive);
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

/// A layer with one file.
fn layer(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    tar::small(&mut bytes, name, name.as_bytes()).unwrap();
    tar::end(&mut bytes).unwrap();
    bytes
}

/// An image whose layers are stored in every way, and a pause image; with the config of the former.
fn pot_with_containerd() -> (Arc<VerifiedPot>, String) {
    let layers = ["plain", "packed", "after"].map(layer);
    let config = |layers: &[Vec<u8>]| {
        let ids = layers.iter().map(|layer| Sha256::of(layer).to_string());
        let ids: Vec<String> = ids.collect();
        json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": ids } }).to_string()
    };
    let (tool, pause) = (config(&layers), config(&layers[..1]));
    let [plain, packed, after] = &layers;
    let pot = Pot::of(KubeVersion::new(1, 34, 4))
        .containerd("2.1.4")
        .packed_image(
            "acme/tool:1",
            &tool,
            &[
                Packed::Plain(plain),
                Packed::Zstd(packed),
                Packed::After {
                    reference: plain,
                    content: after,
                },
            ],
        )
        .image("registry.k8s.io/pause:3.10.1", &pause, &[plain])
        .verified();
    (pot, tool)
}

fn all_images(pot: Arc<VerifiedPot>) -> Images {
    let wanted = pot.manifest().images.iter().map(|image| ImageWanted {
        id: image.id,
        names: image.names.clone(),
    });
    let wanted = wanted.collect();
    Images::new(pot, wanted).unwrap()
}

/// A machine on which somebody else's containerd runs.
fn machine_with_containerd() -> Machine {
    let machine = Machine::new();
    machine
        .program("containerd")
        .program("ctr")
        .program("crictl");
    machine
}

#[test]
fn containerd_gets_layers_as_they_are_stored_where_that_is_their_own_packing() {
    let (pot, tool) = pot_with_containerd();
    let machine = machine_with_containerd();
    let (store, archive) = (Store::default(), Arc::default());
    let (before, after) = machine
        .ensure(&all_images(pot), containerd(&store, &archive))
        .unwrap();
    assert_eq!(
        before,
        State::Pending("to load: acme/tool:1 and 1 more".to_owned())
    );
    assert_eq!(after, State::Satisfied);
    let members = members(&archive.lock().unwrap());
    let images = named_manifests(&members);
    let names: Vec<&str> = images.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "docker.io/acme/tool:1",
            "registry.k8s.io/pause:3.10.1",
            "registry.k8s.io/pause:3.6"
        ],
        "full names, and that of the sandboxes of this containerd"
    );
    let (_, manifest) = &images[0];
    assert_eq!(manifest["config"]["digest"], id(&tool).to_string());
    let types: Vec<&str> = (manifest["layers"].as_array().unwrap().iter())
        .map(|layer| layer["mediaType"].as_str().unwrap())
        .collect();
    let layer_type = "application/vnd.oci.image.layer.v1.tar";
    assert_eq!(
        types,
        [layer_type, &format!("{layer_type}+zstd"), layer_type]
    );
    assert_eq!(
        manifest["layers"][2]["digest"],
        Sha256::of(&layer("after")).to_string(),
        "unpacked, since it goes on from another blob"
    );
    assert_eq!(members.len(), 2 + 2 + 2 + 3, "the shared layer once");
    let named = machine
        .journal()
        .into_iter()
        .filter(|change| matches!(change, Change::ContainerdImage { .. }))
        .count();
    assert_eq!(named, 3);
}

#[test]
fn a_containerd_that_reads_no_zstd_gets_it_unpacked() {
    let (pot, tool) = pot_with_containerd();
    let step = all_images(pot.clone());
    let wanted = ImageWanted {
        id: id(&tool),
        names: vec!["acme/tool:1".to_owned()],
    };
    let mut bytes = Vec::new();
    let archive = step.oci_archive(&[wanted], false).unwrap();
    archive.write(&mut bytes, &pot).unwrap();
    let (_, manifest) = named_manifests(&members(&bytes)).remove(0);
    assert_eq!(
        manifest["layers"][1],
        json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Sha256::of(&layer("packed")).to_string(), "size": layer("packed").len() })
    );
}

#[test]
fn an_image_in_containerd_only_gets_its_name_and_a_taken_one_is_a_conflict() {
    let (pot, tool) = pot_with_containerd();
    let machine = machine_with_containerd();
    let pause = pot.manifest().images[1].id.to_string();
    let named = |name: &str| (id(&tool).to_string(), name.to_owned());
    let sandbox = (pause.clone(), "registry.k8s.io/pause:3.6".to_owned());
    let pinned = (pause, "registry.k8s.io/pause:3.10.1".to_owned());
    let store: Store = Arc::new(Mutex::new(vec![
        named("reg.example/tool:1"),
        sandbox.clone(),
        pinned.clone(),
    ]));
    let archive = Arc::default();
    let (before, after) = machine
        .ensure(&all_images(pot.clone()), containerd(&store, &archive))
        .unwrap();
    assert_eq!(before, State::Pending("to name: acme/tool:1".to_owned()));
    assert_eq!(after, State::Satisfied);
    assert!(archive.lock().unwrap().is_empty(), "nothing was loaded");
    assert!(
        store
            .lock()
            .unwrap()
            .contains(&named("docker.io/acme/tool:1"))
    );
    let other = ("sha256:0".to_owned(), "docker.io/acme/tool:1".to_owned());
    let store: Store = Arc::new(Mutex::new(vec![other, sandbox, pinned]));
    let state = machine.check(&all_images(pot), containerd(&store, &archive));
    assert!(
        matches!(&state, State::Conflict { remedy, .. } if remedy.ends_with("ctr -n k8s.io images rm docker.io/acme/tool:1")),
        "{state:?}"
    );
}

#[test]
fn sandboxes_run_in_the_newest_pause_of_kubernetes_own() {
    let chosen = |names: &[&str]| {
        let pot = names
            .iter()
            .fold(Pot::default(), |pot, name| pot.image(name, name, &[]));
        let pot = pot.verified();
        let (image, name) = pause(pot.manifest())?;
        assert_eq!(image.id, id(name));
        Some(name.to_owned())
    };
    let cases: [(&[&str], &str); 4] = [
        (
            &[
                "gcr.io/x/pause:1",
                "registry.k8s.io/pause:3.10",
                "registry.k8s.io/pause:3.6",
                "registry.k8s.io/pause:3.9",
            ],
            "registry.k8s.io/pause:3.10",
        ),
        (
            &["registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10.1"],
            "registry.k8s.io/pause:3.10.1",
        ),
        (
            &["k8s.gcr.io/pause:3.2", "k8s.gcr.io/pause:latest"],
            "k8s.gcr.io/pause:3.2",
        ),
        (&["acme/tool:1", "acme/pause:3.9"], "acme/pause:3.9"),
    ];
    for (names, wanted) in cases {
        assert_eq!(chosen(names).as_deref(), Some(wanted));
    }
    assert_eq!(chosen(&["acme/pauses:1"]), None);
}
