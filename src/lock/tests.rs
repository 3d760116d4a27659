use super::*;
use bundle_spec::manifest::{Checked, RuntimeName};

fn installer() -> Installer {
    Installer {
        digest: Sha256::of(b"installer"),
        size: 9,
    }
}

fn artifact(name: &str) -> Artifact {
    Artifact {
        name: name.to_owned(),
        version: "v1".to_owned(),
        source: format!("https://x.example/{name}"),
        checked: Checked::PublishedSha256,
        digest: Sha256::of(name.as_bytes()),
        size: name.len() as u64,
    }
}

fn image(name: &str) -> Image {
    Image {
        name: name.to_owned(),
        digest: Sha256::of(name.as_bytes()),
        id: Sha256::of(b"config"),
        size: 5,
    }
}

fn lock() -> Lock {
    let kubernetes = Kubernetes {
        wanted: "stable-1.20".to_owned(),
        version: KubeVersion::new(1, 20, 2),
    };
    let style = Style {
        effort: Effort::Balanced,
        layers: Layers::Verbatim,
    };
    let mut lock = Lock::new(kubernetes, style);
    let mut target = Target::new(Arch::Arm64, installer(), Some(RuntimeName::Docker));
    target.artifacts = vec![artifact("kubelet"), artifact("docker")];
    target.images = vec![image("b.example/x:1"), image("a.example/x:1")];
    target.sort();
    lock.set(target);
    lock.set(Target::new(Arch::Amd64, installer(), None));
    lock
}

#[test]
fn a_lock_is_read_as_it_was_written_and_has_one_spelling() {
    let lock = lock();
    let text = lock.encode().unwrap();
    let read = Lock::decode(text.as_bytes()).unwrap();
    assert_eq!(read, lock);
    assert_eq!(read.encode().unwrap(), text);
    assert!(text.ends_with("}\n"));
    let arches: Vec<Arch> = lock.targets.iter().map(|it| it.arch).collect();
    assert_eq!(arches, [Arch::Amd64, Arch::Arm64]);
    assert_eq!(lock.targets[1].artifacts[0].name, "docker");
    assert_eq!(lock.targets[1].images[0].name, "a.example/x:1");
    // The target without a runtime is spelled as all were before there was a choice.
    assert_eq!(text.matches("\"runtime\"").count(), 1);
    assert_eq!(read.targets[0].runtime, None);
}

#[test]
fn another_tuning_at_the_same_level_is_a_difference_and_none_that_is_told_is_not() {
    let style = Style {
        effort: Effort::Balanced,
        layers: Layers::Verbatim,
    };
    let told = |change: &dyn Fn(&mut Tuning), style| {
        let mut lock = lock();
        change(lock.compression.tuning.as_mut().unwrap());
        let own = lock.own(&[], style);
        own.0.iter().map(Difference::to_string).collect::<Vec<_>>()
    };
    assert!(told(&|_| {}, style).is_empty());
    let changes: [&dyn Fn(&mut Tuning); 5] = [
        &|it| it.revision += 1,
        &|it| it.zstd = "1.0.0".to_owned(),
        &|it| it.referring[0] = "WindowLog(20)".to_owned(),
        &|it| it.small -= 1,
        &|it| it.common_reference += 1,
    ];
    for change in changes {
        let told = told(change, style);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0]
                .starts_with("the tuning of the compression is not as locked: expected revision "),
            "{told:?}"
        );
    }
    // Another effort has another tuning, which goes without saying.
    let fast = Style {
        effort: Effort::Fast,
        ..style
    };
    assert_eq!(told(&|_| {}, fast).len(), 1);

    // A lock from before there was one reads, is spelled as it was, and says nothing of it.
    let mut old = lock();
    old.compression.tuning = None;
    let text = old.encode().unwrap();
    assert!(!text.contains("tuning"), "{text}");
    let read = Lock::decode(text.as_bytes()).unwrap();
    assert_eq!(read, old);
    assert!(read.own(&[], style).0.is_empty());
}

#[test]
fn what_pins_one_thing_twice_is_no_lock() {
    let refused = |spoil: &dyn Fn(&mut Lock)| {
        let mut lock = lock();
        spoil(&mut lock);
        Lock::decode(lock.encode().unwrap().as_bytes()).unwrap_err()
    };
    let twice = refused(&|it| it.targets[1].artifacts.push(artifact("kubelet")));
    assert!(twice.contains("kubelet before kubelet"), "{twice}");
    let twice = refused(&|it| {
        // The same image, once with a digest.
        let name = format!("b.example/x:1@{}", Sha256::of(b"x"));
        it.targets[1].images.push(image(&name));
    });
    assert!(twice.contains("images twice"), "{twice}");
    let twice = refused(&|it| it.targets.push(it.targets[0].clone()));
    assert!(twice.contains("architectures twice"), "{twice}");
    let named = refused(&|it| it.targets[1].images[0].name = "NO/name".to_owned());
    assert!(named.contains("NO/name"), "{named}");
}

#[test]
fn what_is_no_lock_is_told_with_its_place() {
    let text = lock().encode().unwrap();
    for (bad, word) in [
        (text.replace("\"kpot\"", "\"unknown\""), "line 3"),
        (text.replace("\"lock\": 1", "\"lock\": 2"), "form 2"),
        (text.replace("\"level\": ", "\"level\": x"), "line 6"),
        (text.replace("sha256:", "md5:"), "line "),
        (String::new(), "no lock"),
    ] {
        let refused = Lock::decode(bad.as_bytes()).unwrap_err();
        assert!(refused.contains(word), "{refused}");
    }
}

#[test]
fn a_version_stands_for_itself_and_for_what_it_was_asked_for_by() {
    let lock = lock();
    for (wanted, same) in [
        ("stable-1.20", true),
        ("v1.20.2", true),
        ("v1.20.3", false),
        ("stable", false),
    ] {
        assert_eq!(lock.stands_for(wanted), same, "{wanted}");
        let differences = lock.of_order(wanted, &[Arch::Amd64]);
        assert_eq!(differences.0.is_empty(), same, "{wanted}");
    }
}
