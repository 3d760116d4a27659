//! What is ordered: the recipe and the flags put together.
//!
//! The rules: of what there is one of, the flag wins. Architectures of flags take the place of the recipe's. Images, mirrors and pins of flags are added to the
//! recipe's; for the same image, the same service or the same download the flag wins. Files stand in the recipe alone. Nothing here asks the network.

use std::path::{Path, PathBuf};

use bundle_spec::{Arch, KubeVersion};

use crate::cli::Wish;
use crate::exit::usage;
use crate::extra::Extra;
use crate::image_name::ImageName;
use crate::lock::Lock;
use crate::mirrors::{Mirror, Mirrors};
use crate::pack::Layers;
use crate::pack::effort::Effort;
use crate::plan::{Choice, Pin, Request, Version};
use crate::recipe::{Entry, Recipe, Text};
use crate::wanted::Wanted;

/// The recipe that is read where none is named.
pub const RECIPE: &str = "kpot.yaml";

/// The lock's file where there is no recipe.
const LOCK: &str = "kpot.lock";

/// How content is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// How hard to compress.
    pub effort: Effort,
    /// What becomes of layers.
    pub layers: Layers,
}

/// What is ordered.
#[derive(Debug)]
pub struct Order {
    /// The recipe that was read.
    pub recipe: Option<PathBuf>,
    /// Where the lock is, or would be.
    pub lock: PathBuf,
    /// The Kubernetes version.
    pub kubernetes: Wanted,
    /// The architectures: at least one, each once.
    pub arches: Vec<Arch>,
    /// The recipe's serial.
    pub serial: Option<u64>,
    /// Where things are fetched from.
    pub mirrors: Mirrors,
    images: Vec<ImageName>,
    files: Vec<Extra>,
    pins: Vec<Pin>,
    choice: Choice,
    effort: Option<Effort>,
    layers: Option<Layers>,
}

impl Order {
    /// Reads the recipe that `wish` names, or the one in this folder where there is one, and puts both together.
    ///
    /// # Errors
    /// A usage error: a recipe that is not there or does not parse, no version, two mirrors for one service.
    pub fn read(wish: Wish) -> anyhow::Result<Self> {
        let path = match &wish.recipe {
            Some(path) => Some(path.clone()),
            // A link that leads nowhere is a recipe that cannot be read, not one that is not there.
            None => Path::new(RECIPE)
                .symlink_metadata()
                .is_ok()
                .then(|| Path::new(RECIPE).to_owned()),
        };
        let recipe = match &path {
            Some(path) => Recipe::read(path).map_err(usage)?,
            None => Recipe::default(),
        };
        Self::new(wish, recipe, path).map_err(usage)
    }

    fn new(wish: Wish, recipe: Recipe, path: Option<PathBuf>) -> Result<Self, String> {
        let folder = path.as_deref().and_then(Path::parent);
        let folder = folder.unwrap_or(Path::new("")).to_owned();
        let kubernetes = wish.kubernetes.or(recipe.k8s.map(Text::read)).ok_or_else(|| {
            let recipe = path.as_deref().unwrap_or(Path::new(RECIPE)).display();
            format!("for which Kubernetes? Say it with --k8s VERSION, or as k8s: VERSION in {recipe} (kpot init writes one)")
        })?;
        let mut arches = wish.arches;
        if arches.is_empty() {
            arches = values(recipe.arch);
        }
        if arches.is_empty() {
            arches.push(Arch::Amd64);
        }
        if let Some(twice) = (1..arches.len()).find(|at| arches[..*at].contains(&arches[*at])) {
            return Err(format!(
                "the architecture {} is asked for twice",
                arches[twice]
            ));
        }
        let mirrors = recipe.mirrors.map(|table| table.0).unwrap_or_default();
        let pins = recipe.pins.unwrap_or_default().into_iter();
        let pins = pins.map(|(name, digest)| Pin {
            of: name.read(),
            digest: digest.read(),
        });
        Ok(Self {
            lock: path.as_deref().map_or_else(|| PathBuf::from(LOCK), lock_of),
            recipe: path,
            kubernetes,
            arches,
            serial: recipe.serial,
            mirrors: Mirrors::new(&added(mirrors, wish.mirrors, Mirror::serves_the_same))?,
            images: added(values(recipe.images), wish.images, |one, other| {
                one.familiar() == other.familiar()
            }),
            files: recipe
                .files
                .unwrap_or_default()
                .into_iter()
                .map(|entry: Entry| entry.file(&folder))
                .collect(),
            pins: added(pins.collect(), wish.pins, Pin::is_overruled_by),
            choice: Choice {
                runtime: wish.runtime.or(recipe.runtime.map(Text::read)),
                docker: either(wish.docker_version, recipe.docker_version),
                containerd: either(wish.containerd_version, recipe.containerd_version),
                runc: either(wish.runc_version, recipe.runc_version),
                crictl: either(wish.crictl_version, recipe.crictl_version),
                cni: either(wish.cni_version, recipe.cni_version),
            },
            effort: wish.compression.or(recipe.compression),
            layers: wish
                .verbatim
                .then_some(Layers::Verbatim)
                .or(recipe.verbatim.map(Layers::of)),
        })
    }

    /// How content is packed: as is said, else as in the lock.
    pub fn style(&self, lock: Option<&Lock>) -> Style {
        let locked = lock.map(|lock| &lock.compression);
        let effort = self.effort.or(locked.map(|it| it.effort));
        let layers = self.layers.or(locked.map(|it| it.layers));
        let layers = layers.unwrap_or(Layers::Repacked);
        Style {
            effort: effort.unwrap_or(layers.usual_effort()),
            layers,
        }
    }

    /// The images that are asked for besides the control plane's.
    pub fn images(&self) -> &[ImageName] {
        &self.images
    }

    /// What is asked for, for `arch`, once the version is known.
    pub fn request(&self, kubernetes: KubeVersion, arch: Arch) -> Request {
        Request {
            kubernetes,
            arch,
            images: self.images.clone(),
            files: self.files.clone(),
            pins: self.pins.clone(),
            choice: self.choice.clone(),
        }
    }
}

/// Where the lock of a recipe lies: beside it, and called as it, with `.lock` in the place of `.yaml` or `.yml`. Another dot is a part of the name: `prod-1.28` and `prod-1.34`
/// are two recipes.
fn lock_of(recipe: &Path) -> PathBuf {
    let yaml = recipe
        .extension()
        .is_some_and(|ending| ending == "yaml" || ending == "yml");
    if yaml {
        return recipe.with_extension("lock");
    }
    let mut whole = recipe.as_os_str().to_owned();
    whole.push(".lock");
    PathBuf::from(whole)
}

fn either(flag: Option<Version>, recipe: Option<Text<Version>>) -> Option<Version> {
    flag.or(recipe.map(Text::read))
}

fn values<T>(list: Option<Vec<Text<T>>>) -> Vec<T> {
    let list = list.unwrap_or_default();
    list.into_iter().map(Text::read).collect()
}

/// The recipe's list without those that a flag stands for, and the flags. What is said twice in one place stays twice: whoever reads the list refuses it.
fn added<T>(recipe: Vec<T>, flags: Vec<T>, same: impl Fn(&T, &T) -> bool) -> Vec<T> {
    let mut all = recipe;
    all.retain(|own| !flags.iter().any(|flag| same(own, flag)));
    all.extend(flags);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle_spec::Sha256;
    use bundle_spec::manifest::RuntimeName;
    use reqwest::Url;

    fn order(wish: Wish, recipe: &str) -> Result<Order, String> {
        let path = Path::new("made/of.yaml").to_owned();
        Order::new(wish, Recipe::parse(recipe).unwrap(), Some(path))
    }

    fn wish() -> Wish {
        Wish {
            kubernetes: Some("v1.20.2".parse().unwrap()),
            ..Wish::default()
        }
    }

    #[test]
    fn of_what_there_is_one_of_the_flag_wins() {
        let recipe = "k8s: 1.19\narch: [amd64, arm64]\nruntime: docker\ndocker-version: 1.0\ncni-version: v2.0\nserial: 3\n";
        let order = order(Wish::default(), recipe).unwrap();
        assert_eq!(order.choice.runtime, Some(RuntimeName::Docker));
        assert_eq!(order.kubernetes, "1.19".parse().unwrap());
        assert_eq!(order.arches, [Arch::Amd64, Arch::Arm64]);
        assert_eq!(order.serial, Some(3));
        let request = order.request(KubeVersion::new(1, 19, 1), Arch::Arm64);
        assert_eq!(request.choice.docker.unwrap().to_string(), "1.0");
        assert_eq!(request.choice.cni.unwrap().to_string(), "v2.0");

        let flags = Wish {
            arches: vec![Arch::Arm64],
            runtime: Some(RuntimeName::Containerd),
            docker_version: Some("3.0".parse().unwrap()),
            ..wish()
        };
        let order = self::order(flags, recipe).unwrap();
        assert_eq!(order.choice.runtime, Some(RuntimeName::Containerd));
        assert_eq!(order.kubernetes, "v1.20.2".parse().unwrap());
        assert_eq!(order.arches, [Arch::Arm64]);
        let request = order.request(KubeVersion::new(1, 20, 2), Arch::Arm64);
        assert_eq!(request.choice.docker.unwrap().to_string(), "3.0");
        assert_eq!(request.choice.cni.unwrap().to_string(), "v2.0");
    }

    #[test]
    fn lists_are_added_and_for_the_same_thing_the_flag_wins() {
        let digest = Sha256::of(b"manifest");
        let (one, other) = (Sha256::of(b"one"), Sha256::of(b"other"));
        let recipe = format!(
            "images: [a.example/x:1, \"a.example/y:1@{digest}\"]\n\
             mirrors: {{k8s.gcr.io: \"https://recipe.example/\", dl.k8s.io: \"https://recipe.example/dl\"}}\n\
             pins: {{docker: \"{one}\", docker/amd64: \"{one}\", kubeadm: \"{one}\"}}\n"
        );
        let flags = Wish {
            images: vec![
                "a.example/y:1".parse().unwrap(),
                "a.example/z:1".parse().unwrap(),
            ],
            // Another name of the same service.
            mirrors: vec!["registry.k8s.io=https://flag.example/".parse().unwrap()],
            pins: vec![format!("docker={other}").parse().unwrap()],
            ..wish()
        };
        let order = order(flags, &recipe).unwrap();
        let request = order.request(KubeVersion::new(1, 20, 2), Arch::Amd64);
        let images: Vec<String> = request.images.iter().map(ImageName::whole).collect();
        assert_eq!(images, ["a.example/x:1", "a.example/y:1", "a.example/z:1"]);
        let pins: Vec<(&str, Sha256)> = request
            .pins
            .iter()
            .map(|pin| (pin.of.name.text(), pin.digest))
            .collect();
        assert_eq!(pins, [("kubeadm", one), ("docker", other)]);
        for (url, routed) in [
            ("https://registry.k8s.io/v2/", "https://flag.example/v2/"),
            ("https://dl.k8s.io/x", "https://recipe.example/dl/x"),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(order.mirrors.route(&url).as_str(), routed);
        }
    }

    #[test]
    fn what_is_not_said_of_packing_is_as_in_the_lock() {
        let style = |effort, layers| Style { effort, layers };
        let (max, fast) = (
            style(Effort::Max, Layers::Verbatim),
            style(Effort::Fast, Layers::Repacked),
        );
        let kubernetes = crate::lock::Kubernetes {
            wanted: "v1.20.2".to_owned(),
            version: KubeVersion::new(1, 20, 2),
        };
        let lock = Lock::new(kubernetes, max);
        let recipe = "compression: fast\nverbatim: false\n";
        let silent = order(wish(), "").unwrap();
        assert_eq!(silent.style(Some(&lock)), max);
        let usual = style(Effort::Balanced, Layers::Repacked);
        assert_eq!(silent.style(None), usual);
        let verbatim = order(wish(), "verbatim: true\n").unwrap();
        assert_eq!(verbatim.style(None), style(Effort::Fast, Layers::Verbatim));
        let said = order(wish(), recipe).unwrap();
        assert_eq!(said.style(Some(&lock)), fast);
        let flags = Wish {
            compression: Some(Effort::Max),
            verbatim: true,
            ..wish()
        };
        assert_eq!(order(flags, recipe).unwrap().style(None), max);
    }

    #[test]
    fn paths_are_seen_from_the_recipe_and_the_lock_lies_beside_it() {
        let order = order(wish(), "files: [{path: sub/a.txt}, {path: /b.txt}]\n").unwrap();
        let request = order.request(KubeVersion::new(1, 20, 2), Arch::Amd64);
        let places: Vec<String> = request.files.iter().map(Extra::place).collect();
        assert_eq!(places, ["made/sub/a.txt", "/b.txt"]);
        assert_eq!(order.lock, Path::new("made/of.lock"));
        for (recipe, lock) in [
            ("kpot.yaml", "kpot.lock"),
            ("sub/kpot.yml", "sub/kpot.lock"),
            ("prod-1.28", "prod-1.28.lock"),
            ("prod-1.34", "prod-1.34.lock"),
            ("prod-1.34.yaml", "prod-1.34.lock"),
            ("recipe", "recipe.lock"),
            (".yaml", ".yaml.lock"),
        ] {
            assert_eq!(lock_of(Path::new(recipe)), Path::new(lock), "{recipe}");
        }
        let alone = Order::new(wish(), Recipe::default(), None).unwrap();
        assert_eq!(alone.lock, Path::new("kpot.lock"));
        assert_eq!(alone.arches, [Arch::Amd64]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = order(Wish::default(), "").unwrap_err();
        assert!(refused.contains("--k8s"), "{refused}");
        assert!(refused.contains("made/of.yaml"), "{refused}");
        let refused = order(wish(), "arch: [amd64, arm64, amd64]\n").unwrap_err();
        assert!(refused.contains("amd64 is asked for twice"), "{refused}");
        let twice = "mirrors: {k8s.gcr.io: \"https://a.example/\", registry.k8s.io: \"https://b.example/\"}\n";
        let refused = order(wish(), twice).unwrap_err();
        assert!(refused.contains("two mirrors"), "{refused}");
    }
}
