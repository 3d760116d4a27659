#![allow(
    clippy::disallowed_methods,
    reason = "tests make files as somebody else would"
)]

use super::*;
use crate::progress::Progress;
use std::cell::Cell;

const CONTENT: &[u8] = b"some content that is fetched";

struct Desk {
    folder: tempfile::TempDir,
    task: Task,
    downloads: Cell<usize>,
}

impl Desk {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            task: Progress::new().task("x", None),
            downloads: Cell::new(0),
        }
    }

    fn place(&self) -> Place {
        Place::find(Some(self.folder.path().to_owned())).unwrap()
    }

    fn cache(&self) -> Cache {
        Cache::open(self.place(), Stop::default()).unwrap()
    }

    /// Writes `CONTENT` into the file, whatever was there.
    fn download(&self, file: File) -> Saved {
        self.downloads.set(self.downloads.get() + 1);
        let mut file = file;
        file.set_len(0).unwrap();
        file.rewind().unwrap();
        file.write_all(CONTENT).unwrap();
        Saved {
            file,
            size: CONTENT.len() as u64,
            sha256: Sha256::of(CONTENT),
            sha512: None,
        }
    }

    fn obtain(&self, cache: &Cache) -> anyhow::Result<Obtained> {
        let key = key();
        cache.obtain(wanted(&key), &self.task, &|file| {
            Ok(self.download(file().unwrap()))
        })
    }

    fn partial(&self) -> PathBuf {
        self.place().partial(&key())
    }
}

fn key() -> Key {
    Key::Sha256(Sha256::of(CONTENT))
}

fn wanted(key: &Key) -> Wanted<'_> {
    Wanted {
        key,
        size: Some(CONTENT.len() as u64),
        label: "x",
    }
}

#[test]
fn what_was_fetched_is_found_and_is_the_same_file() {
    let desk = Desk::new();
    let cache = desk.cache();
    for (origin, downloads) in [(Origin::Network, 1), (Origin::Cache, 1)] {
        let obtained = desk.obtain(&cache).unwrap();
        assert_eq!((obtained.origin, desk.downloads.get()), (origin, downloads));
        let path = desk.place().content(&Sha256::of(CONTENT));
        // Not a copy: the cache costs no disk beside what is packed.
        assert!(files::lies_at(&obtained.file, &path).unwrap());
        assert!(!desk.partial().exists());
    }
}

#[test]
fn what_another_build_fetches_is_waited_for() {
    let desk = Desk::new();
    let (cache, other) = (desk.cache(), desk.cache());
    let Partial::Ours(partial) = other.begin(&key()).unwrap() else {
        panic!("nobody else is there");
    };
    let obtained = thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(PAUSE * 3);
            let mut file = partial.try_clone().unwrap();
            file.write_all(CONTENT).unwrap();
            let digest = Sha256::of(CONTENT);
            other.commit(wanted(&key()), &partial, digest).unwrap();
        });
        desk.obtain(&cache).unwrap()
    });
    assert_eq!((obtained.origin, desk.downloads.get()), (Origin::Cache, 0));
}

#[test]
fn what_a_dead_build_has_begun_is_taken_over() {
    let desk = Desk::new();
    let cache = desk.cache();
    let Partial::Ours(partial) = desk.cache().begin(&key()).unwrap() else {
        panic!("nobody else is there");
    };
    // The kernel lets go of a dead process's locks.
    drop(partial);
    assert_eq!(desk.obtain(&cache).unwrap().origin, Origin::Network);
    assert_eq!(desk.obtain(&cache).unwrap().origin, Origin::Cache);
}

#[test]
fn a_build_that_does_not_come_on_is_not_waited_for_for_ever() {
    let desk = Desk::new();
    let mut cache = desk.cache();
    cache.patience = PAUSE;
    let other = desk.cache();
    let Partial::Ours(_partial) = other.begin(&key()).unwrap() else {
        panic!("nobody else is there");
    };
    let obtained = desk.obtain(&cache).unwrap();
    assert_eq!(
        (obtained.origin, desk.downloads.get()),
        (Origin::Network, 1)
    );
    assert!(desk.partial().exists(), "it is the other build's");
    assert!(desk.place().contents().unwrap().is_empty());
}

#[test]
fn a_stop_ends_the_waiting() {
    let desk = Desk::new();
    let stop = Stop::default();
    let cache = Cache::open(desk.place(), stop.clone()).unwrap();
    let other = desk.cache();
    let Partial::Ours(_partial) = other.begin(&key()).unwrap() else {
        panic!("nobody else is there");
    };
    stop.request();
    assert!(desk.obtain(&cache).is_err());
}

#[test]
fn what_did_not_get_from_its_link_into_its_place_is_not_fetched_again() {
    let desk = Desk::new();
    let cache = desk.cache();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(CONTENT).unwrap();
    let any = Key::Sha512("0".repeat(128));
    let digits = Digests::of(&file, &any, &Stop::default()).unwrap().sha512;
    let digits = digits.unwrap();
    let key = Key::Sha512(digits.clone());
    let wanted = Wanted {
        size: None,
        ..wanted(&key)
    };
    let obtain = || {
        cache.obtain(wanted, &desk.task, &|file| {
            Ok(desk.download(file().unwrap()))
        })
    };
    // As if it was killed there: what lies in the content's place lets nothing in.
    let content = desk.place().content(&Sha256::of(CONTENT));
    std::fs::create_dir(&content).unwrap();
    assert!(obtain().is_err());
    let target = stock::target(&desk.place().link(&digits));
    assert_eq!(target, Some(Sha256::of(CONTENT)), "the link comes first");
    std::fs::remove_dir(&content).unwrap();
    for _ in 0..2 {
        assert_eq!(obtain().unwrap().origin, Origin::Cache);
    }
    assert_eq!(desk.downloads.get(), 1);
}

#[test]
fn claims_end_with_their_build_and_those_of_a_dead_one_are_removed() {
    let desk = Desk::new();
    let place = desk.place();
    let cache = desk.cache();
    drop(desk.obtain(&cache).unwrap());
    let claimed = || stock::list(&place).unwrap()[0].claimed;
    assert!(claimed());
    let all = stock::Limits {
        age: Some(Duration::ZERO),
        size: Some(0),
    };
    let pruned = stock::prune(&place, all, SystemTime::now()).unwrap();
    assert_eq!((pruned.removed.len(), pruned.kept.len()), (0, 1));
    drop(cache);
    assert!(place.runs().unwrap().is_empty());
    assert!(!claimed());
    let dead = place.join("runs/run-dead");
    std::fs::write(&dead, format!("{}\n", key().file_name())).unwrap();
    let cache = desk.cache();
    assert!(!dead.exists());
    drop(cache);
    let pruned = stock::prune(&place, all, SystemTime::now()).unwrap();
    assert_eq!((pruned.removed.len(), pruned.kept.len()), (1, 0));
}

#[test]
fn prune_takes_what_was_used_longest_ago() {
    let desk = Desk::new();
    let place = desk.place();
    drop(desk.cache());
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 60 * 60);
    for age in 0..4_u32 {
        let content = vec![b'x'; 100 + age as usize];
        let path = place.content(&Sha256::of(&content));
        std::fs::write(&path, content).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        // The first of them is of tomorrow: a clock was set back.
        file.set_modified(now + day - day * age).unwrap();
    }
    let sizes =
        |items: &[stock::Item]| -> Vec<u64> { items.iter().map(|item| item.size).collect() };
    let prune = |age: Option<u32>, size| {
        let age = age.map(|days| day * days);
        stock::prune(&place, stock::Limits { age, size }, now).unwrap()
    };
    assert_eq!(sizes(&prune(None, None).kept), [103, 102, 101, 100]);
    assert_eq!(sizes(&prune(Some(2), None).removed), [103]);
    assert_eq!(sizes(&prune(None, Some(300)).removed), [102]);
    assert_eq!(sizes(&prune(None, Some(201)).removed), [0; 0]);
    assert_eq!(sizes(&prune(Some(0), None).removed), [101, 100]);
}
