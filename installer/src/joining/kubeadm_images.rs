//! The images that this machine's own kubeadm wants are here: it is asked itself, before anything is done on the cluster.
//!
//! A pot holds what its builder's version data say, and the builder could not always run that kubeadm. A join finds out as well, but only after the member of a dead master was
//! removed for it. kubeadm is asked as a join asks it, with the cluster's own configuration, which names a version, so that it never asks the internet for one.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;

use super::Joining;
use super::refusals::missing_images;
use crate::control_plane::images::{MissingImage, familiar};
use crate::facts;
use crate::host::probe::Probe;
use crate::step::{State, Step, View, World};
use crate::steps::ImageWanted;

/// See the module.
pub struct KubeadmImages {
    joining: Joining,
    loaded: Vec<String>,
}

impl KubeadmImages {
    /// The kubeadm that joins this machine; `images` are those that another step loads and names before.
    pub fn new(joining: Joining, images: &[ImageWanted]) -> Self {
        let names = images.iter().flat_map(|image| &image.names);
        Self {
            joining,
            loaded: names.cloned().collect(),
        }
    }

    /// The question, with what kubeadm would else find out about this machine by itself: without a default route it finds no address, with two runtimes no socket.
    fn question(&self) -> Probe {
        let joining = &self.joining;
        let init = json!({
            "apiVersion": joining.traits().kubeadm.api,
            "kind": "InitConfiguration",
            "localAPIEndpoint": { "advertiseAddress": joining.address },
            "nodeRegistration": { "name": joining.node, "criSocket": joining.cri_socket() },
        });
        let cluster = joining.cluster.config_for_kubeadm();
        Probe::kubeadm_images(&format!("{cluster}---\n{init}\n"))
    }
}

impl Step for KubeadmImages {
    fn id(&self) -> &'static str {
        "kubeadm-images"
    }

    fn summary(&self) -> String {
        "every image that kubeadm itself asks for is here".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let (host, cluster) = (view.host, &self.joining.cluster);
        if cluster.config.kubernetes_version.is_empty() {
            return Ok(State::Unsettable(
                "kubeadm cannot be asked: the cluster's configuration names no version".to_owned(),
            ));
        }
        if host.program("kubeadm").is_none() {
            return Ok(State::Pending(
                "it is asked as soon as it is here".to_owned(),
            ));
        }
        let answer = host.probe(&self.question())?;
        let text = answer.text();
        // Beside the names there may be warnings, which are sentences.
        let mut wanted = text
            .lines()
            .map(str::trim)
            .filter(|line| line.contains(':') && !line.contains(char::is_whitespace))
            .peekable();
        if !answer.ok() || wanted.peek().is_none() {
            return Ok(State::Conflict {
                reason: format!(
                    "kubeadm does not tell which images it wants with the cluster's configuration: {}",
                    answer.evidence()
                ),
                remedy: "mend what it complains about on a healthy master: kubectl --namespace kube-system edit configmap kubeadm-config".to_owned(),
            });
        }
        let here = facts::image_names(host, self.joining.runtime)?;
        let names = self.loaded.iter().chain(&here);
        let present: BTreeSet<String> = names.map(|name| familiar(name)).collect();
        let missing: Vec<MissingImage> = wanted
            .filter(|name| !present.contains(&familiar(name)))
            .map(|name| MissingImage {
                name: name.to_owned(),
                needed_by: format!(
                    "kubeadm {}, which was asked on this machine",
                    self.joining.kubernetes
                ),
            })
            .collect();
        let mut state = State::Satisfied;
        missing_images(&missing, cluster, &mut |reason, remedy| {
            state = State::Conflict { reason, remedy };
        });
        Ok(state)
    }

    /// The steps before it bring everything that it waits for.
    fn apply(&self, _: World<'_>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::{Arc, Mutex};

    use bundle_spec::Sha256;

    use super::super::fixtures;
    use super::*;
    use crate::host::command::Output;
    use crate::host::scripted::Scripted;
    use crate::steps::testing::Machine;

    const LIST: &str =
        "[config] WARNING: Ignored YAML document\nk8s.gcr.io/etcd:3.3.10\nk8s.gcr.io/pause:3.1\n";

    fn step(loaded: &[&str]) -> KubeadmImages {
        let mut cluster = fixtures::cluster();
        cluster.config.kubernetes_version = "v1.14.0".to_owned();
        cluster.config_text =
            "apiVersion: kubeadm.k8s.io/v1beta1\nkind: ClusterConfiguration\nkubernetesVersion: v1.14.0\n".to_owned();
        let images = [ImageWanted {
            id: Sha256::of(b"x"),
            names: loaded.iter().map(|name| (*name).to_owned()).collect(),
        }];
        KubeadmImages::new(fixtures::joining(Rc::new(cluster)), &images)
    }

    fn script(status: i32, said: &str) -> Scripted {
        Scripted::new().on(
            "kubeadm config images list --config /dev/stdin",
            status,
            said,
        )
    }

    #[test]
    fn what_kubeadm_wants_and_nobody_has_is_a_conflict_with_the_pot_that_holds_it() {
        let machine = Machine::new();
        machine.program("kubeadm");
        let whole = step(&["k8s.gcr.io/etcd:3.3.10", "k8s.gcr.io/pause:3.1"]);
        assert_eq!(machine.check(&whole, script(0, LIST)), State::Satisfied);
        let other = step(&["k8s.gcr.io/etcd:3.3.9", "k8s.gcr.io/pause:3.1"]);
        let State::Conflict { reason, remedy } = machine.check(&other, script(0, LIST)) else {
            panic!("etcd's image of kubeadm's own tag is not here");
        };
        assert!(
            reason.ends_with("nor on this machine: k8s.gcr.io/etcd:3.3.10 (for kubeadm v1.14.0, which was asked on this machine)"),
            "{reason}"
        );
        assert!(
            remedy.ends_with("kpot build --k8s v1.14.0 --image k8s.gcr.io/etcd:3.3.10"),
            "{remedy}"
        );
        // Somebody may have brought it.
        machine.program("docker");
        let held = script(0, LIST).on("docker images", 0, "sha256:1 k8s.gcr.io/etcd:3.3.10");
        assert_eq!(machine.check(&other, held), State::Satisfied);
    }

    #[test]
    fn kubeadm_is_asked_with_the_cluster_s_configuration_once_it_is_here() {
        let machine = Machine::new();
        let state = machine.check(&step(&[]), Scripted::new());
        assert!(matches!(state, State::Pending(_)));
        machine.program("kubeadm");
        let read = Arc::new(Mutex::new(Vec::new()));
        let kept = read.clone();
        let listens = Scripted::new().with(move |_, input| {
            kept.lock().unwrap().extend_from_slice(input);
            Some(Output::default())
        });
        machine.check(&step(&[]), listens);
        let read = String::from_utf8(read.lock().unwrap().clone()).unwrap();
        let (cluster, init) = read.split_once("\n---\n").unwrap();
        assert!(cluster.ends_with("kubernetesVersion: v1.14.0"), "{cluster}");
        let init: serde_json::Value = serde_json::from_str(init).unwrap();
        assert_eq!(init["kind"], "InitConfiguration");
        assert_eq!(init["localAPIEndpoint"]["advertiseAddress"], "10.0.0.21");
        assert_eq!(
            init["nodeRegistration"]["criSocket"],
            "/var/run/dockershim.sock"
        );
    }

    #[test]
    fn a_kubeadm_that_gives_no_answer_is_a_conflict_with_its_own_words() {
        let machine = Machine::new();
        machine.program("kubeadm");
        let state = machine.check(&step(&[]), script(1, "uses an old API spec"));
        assert!(
            matches!(&state, State::Conflict { reason, .. } if reason.contains("old API spec")),
            "{state:?}"
        );
        let state = machine.check(&step(&[]), script(0, ""));
        assert!(matches!(state, State::Conflict { .. }), "it names none");
        let mut silent = step(&[]);
        let cluster = Rc::make_mut(&mut silent.joining.cluster);
        cluster.config.kubernetes_version = String::new();
        let state = machine.check(&silent, Scripted::new());
        assert!(
            matches!(state, State::Unsettable(_)),
            "it would ask the internet"
        );
    }
}
