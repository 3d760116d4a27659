//! The downloaded kubeadm is asked which images it wants, and its answer is compared with what kpot's version data say.
//!
//! It is asked in a sandbox (`sandbox`). A pot that lacks an image which its own kubeadm wants is not made: the machine that needs it has no registry to ask. What the pot
//! holds besides is told.

use std::collections::BTreeSet;
use std::io::Read;

use bundle_spec::{Arch, KubeVersion};
use serde::Serialize;

use crate::image_name::ImageName;
use crate::plan::Plan;
use crate::sandbox;

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Asked {
    /// It wants what the version data say.
    Agrees,
    /// It wants something else.
    Differs {
        /// Images that it wants and the pot lacks.
        missing: Vec<String>,
        /// Images of the version data that it does not want.
        unwanted: Vec<String>,
    },
    /// It was not asked, or gave no answer.
    None {
        /// Why.
        why: String,
    },
}

/// Asks the kubeadm that `program` reads, where it can run here. `extra` are the images that were asked for by hand.
pub fn ask(plan: &Plan, extra: &[ImageName], program: &mut dyn Read) -> Asked {
    if plan.arch.uname() != std::env::consts::ARCH {
        return Asked::None {
            why: format!(
                "it is for {} and this machine is {}",
                plan.arch.uname(),
                std::env::consts::ARCH
            ),
        };
    }
    let version = plan.kubernetes.to_string();
    let arguments = ["config", "images", "list", "--kubernetes-version", &version];
    sandbox::run(program, &arguments)
        .and_then(|said| parse(&said))
        .map_or_else(
            |why| Asked::None { why },
            |wanted| compare(plan, extra, &wanted),
        )
}

/// One image a line, and nothing else.
fn parse(said: &str) -> Result<BTreeSet<String>, String> {
    let image = |line: &str| {
        let name: Result<ImageName, _> = line.parse();
        name.map(|name| name.familiar())
            .map_err(|_| format!("it said {line:?}, which is no image's name"))
    };
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let images: BTreeSet<String> = lines.map(image).collect::<Result<_, _>>()?;
    if images.is_empty() {
        return Err("it named no image".to_owned());
    }
    Ok(images)
}

fn compare(plan: &Plan, extra: &[ImageName], wanted: &BTreeSet<String>) -> Asked {
    let packed: BTreeSet<String> = plan.images.iter().map(ImageName::familiar).collect();
    let extra: BTreeSet<String> = extra.iter().map(ImageName::familiar).collect();
    let missing: Vec<String> = wanted.difference(&packed).cloned().collect();
    let unwanted: Vec<String> = packed
        .difference(wanted)
        .filter(|name| !extra.contains(*name))
        .cloned()
        .collect();
    if missing.is_empty() && unwanted.is_empty() {
        Asked::Agrees
    } else {
        Asked::Differs { missing, unwanted }
    }
}

impl Asked {
    /// Lines for the user.
    pub fn lines(&self, kubernetes: KubeVersion, arch: Arch) -> Vec<String> {
        let kubeadm = format!("kubeadm {kubernetes} for {arch}");
        match self {
            Self::Agrees => vec![format!(
                "{kubeadm} was asked and wants the images of kpot's version data"
            )],
            Self::None { why } => vec![format!(
                "{kubeadm} could not be asked which images it wants: {why}. The images are those of kpot's version data"
            )],
            Self::Differs { unwanted, .. } => {
                let unwanted = unwanted.iter().map(|name| {
                    format!(
                        "warning: {kubeadm} does not want {name}, which kpot's version data name"
                    )
                });
                unwanted.collect()
            }
        }
    }

    /// Why there is no pot, where it would lack what its kubeadm wants.
    pub fn refusal(&self, kubernetes: KubeVersion, arch: Arch, held: Held) -> Option<String> {
        let Self::Differs { missing, unwanted } = self else {
            return None;
        };
        if missing.is_empty() {
            return None;
        }
        let repository = |name: &str| name.rsplit_once(':').map(|(it, _)| it.to_owned());
        let wants: Vec<String> = missing
            .iter()
            .map(|name| {
                let same = |other: &&String| repository(other) == repository(name);
                match unwanted.iter().find(same) {
                    Some(said) => format!("{name}, where kpot's version data say {said}"),
                    None => format!("{name}, which is not among the pot's images"),
                }
            })
            .collect();
        let flags: Vec<String> = missing.iter().map(|it| format!("--image {it}")).collect();
        let flags = flags.join(" ");
        let pin = match held {
            Held::ByLock => format!(", after: kpot lock {flags}"),
            Held::ByNothing => String::new(),
        };
        Some(format!(
            "kubeadm {kubernetes} for {arch} wants {}. kubeadm fetches what is not there, which a machine without a registry cannot do, so no pot is written. \
             Add what it wants: kpot build {flags} (or images in a recipe){pin}; or take a newer kpot, whose version data may know better",
            wants.join("; and ")
        ))
    }
}

/// What holds a build to its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A lock, which pins every image.
    ByLock,
    /// Nothing: what is asked for is taken.
    ByNothing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Choice, Request, plan};
    use crate::releases::Releases;

    fn planned(extra: &[ImageName]) -> Plan {
        let request = Request {
            kubernetes: KubeVersion::new(1, 20, 2),
            arch: Arch::Amd64,
            images: extra.to_vec(),
            files: Vec::new(),
            pins: Vec::new(),
            choice: Choice::default(),
        };
        plan(&request, &Releases::shipped().unwrap()).unwrap()
    }

    #[test]
    fn the_answer_is_compared_with_what_is_packed() {
        let extra = ["quay.io/x/y:1".parse().unwrap()];
        let plan = planned(&extra);
        let own = planned(&[]).images;
        let own: BTreeSet<String> = own.iter().map(ImageName::familiar).collect();
        assert_eq!(compare(&plan, &extra, &own), Asked::Agrees);
        let mut other = own.clone();
        other.remove("k8s.gcr.io/pause:3.2");
        other.insert("k8s.gcr.io/pause:9".to_owned());
        let differs = Asked::Differs {
            missing: vec!["k8s.gcr.io/pause:9".to_owned()],
            unwanted: vec!["k8s.gcr.io/pause:3.2".to_owned()],
        };
        assert_eq!(compare(&plan, &extra, &other), differs);
        let lines = differs.lines(plan.kubernetes, plan.arch).join("\n");
        assert!(
            lines.contains("does not want k8s.gcr.io/pause:3.2"),
            "{lines}"
        );
        // What was given by hand makes up for it, in the place of the other tag.
        let extra = ["k8s.gcr.io/pause:9".parse().unwrap()];
        assert_eq!(compare(&planned(&extra), &extra, &other), Asked::Agrees);
        let both = ["k8s.gcr.io/pause:9", "k8s.gcr.io/pause:3.2"].map(|it| it.parse().unwrap());
        other.insert("k8s.gcr.io/pause:3.2".to_owned());
        assert_eq!(compare(&planned(&both), &both, &other), Asked::Agrees);
    }

    #[test]
    fn what_is_missing_is_refused_with_both_words_and_what_is_too_much_is_not() {
        let version = KubeVersion::new(1, 20, 2);
        let differs = |missing: &[&str], unwanted: &[&str]| Asked::Differs {
            missing: missing.iter().map(|&it| it.to_owned()).collect(),
            unwanted: unwanted.iter().map(|&it| it.to_owned()).collect(),
        };
        let refusal = |asked: Asked, held| asked.refusal(version, Arch::Amd64, held);
        let lacking = || {
            differs(
                &["k8s.gcr.io/etcd:2", "k8s.gcr.io/x:1"],
                &["k8s.gcr.io/etcd:1", "k8s.gcr.io/pause:1"],
            )
        };
        let told = refusal(lacking(), Held::ByNothing).unwrap();
        for word in [
            "kubeadm v1.20.2 for amd64 wants k8s.gcr.io/etcd:2, where kpot's version data say k8s.gcr.io/etcd:1",
            "k8s.gcr.io/x:1, which is not among the pot's images",
            "kpot build --image k8s.gcr.io/etcd:2 --image k8s.gcr.io/x:1",
            "a newer kpot",
        ] {
            assert!(told.contains(word), "{word:?} is not in: {told}");
        }
        assert!(!told.contains("kpot lock"), "{told}");
        let told = refusal(lacking(), Held::ByLock).unwrap();
        assert!(
            told.contains("kpot lock --image k8s.gcr.io/etcd:2"),
            "{told}"
        );
        for fine in [
            Asked::Agrees,
            Asked::None {
                why: "x".to_owned(),
            },
            differs(&[], &["k8s.gcr.io/pause:1"]),
        ] {
            assert_eq!(refusal(fine, Held::ByNothing), None);
        }
    }

    #[test]
    fn anything_but_names_is_no_answer() {
        let list = "k8s.gcr.io/pause:3.2\nk8s.gcr.io/coredns:1.7.0\n";
        assert_eq!(parse(list).unwrap().len(), 2);
        for odd in [
            "",
            "\n",
            "no image here\n",
            "k8s.gcr.io/pause:3.2\n\u{1b}[2J\n",
        ] {
            assert!(parse(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_kubeadm_for_another_machine_is_not_run() {
        let mut plan = planned(&[]);
        plan.arch = match std::env::consts::ARCH {
            "aarch64" => Arch::Amd64,
            _ => Arch::Arm64,
        };
        let asked = ask(&plan, &[], &mut io_that_must_not_be_read());
        assert!(matches!(asked, Asked::None { why } if why.contains("this machine is")));
    }

    fn io_that_must_not_be_read() -> impl Read {
        struct Never;
        impl Read for Never {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                panic!("it is read");
            }
        }
        Never
    }
}
