//! Which images a new master needs, by the names that the cluster uses.
//!
//! kubeadm takes its repository and the overrides of etcd and DNS from the cluster's own configuration, so an image of the pot gets the name that the cluster gives it.
//! The pod network is the cluster's: what its DaemonSets run must be in the pot or on this machine already. Everything here is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bundle_spec::manifest::Image;
use bundle_spec::{Manifest, Sha256};

use super::kubeadm::ClusterConfiguration;
use super::objects::{DaemonSet, PodSpec};
use crate::kubernetes::Traits;
use crate::steps::ImageWanted;

/// Where a CNI plugin's configuration lies on a node.
const CNI_CONFIG: &str = "/etc/cni";

/// The images that kubeadm and the kubelet need on a master, by their names without repository. kubeadm's preflight wants those of DNS on every master, too, whether or not
/// DNS will run there.
const CORE: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "pause",
    "etcd",
];

/// DNS, as kubeadm has it by default, and as it had it before.
const CORE_DNS: &[&str] = &["coredns"];
const KUBE_DNS: &[&str] = &[
    "k8s-dns-kube-dns",
    "k8s-dns-sidecar",
    "k8s-dns-dnsmasq-nanny",
];

/// A name that the cluster uses and the pot does not satisfy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingImage {
    /// The name.
    pub name: String,
    /// What needs it.
    pub needed_by: String,
}

/// Gives the pot's images the cluster's names. `here` are the names of the images that this machine has already.
///
/// # Errors
/// The names of the control plane that no image of the pot, and none of this machine, can stand for.
pub fn name_after_cluster(
    manifest: &Manifest,
    config: &ClusterConfiguration,
    external_etcd: bool,
    here: &[String],
) -> Result<Vec<ImageWanted>, Vec<MissingImage>> {
    let mut wanted: BTreeMap<Sha256, BTreeSet<String>> = BTreeMap::new();
    for image in &manifest.images {
        wanted
            .entry(image.id)
            .or_default()
            .extend(image.names.iter().cloned());
    }
    let is_here = |name: &str| here.iter().any(|one| familiar(one) == familiar(name));
    let mut missing = Vec::new();
    let dns = if config.dns.kind == "kube-dns" {
        KUBE_DNS
    } else {
        CORE_DNS
    };
    for &component in CORE.iter().chain(dns) {
        if external_etcd && component == "etcd" {
            continue;
        }
        let name = match core_name(manifest, config, component) {
            Ok(Some((image, name))) => {
                wanted.entry(image.id).or_default().insert(name);
                continue;
            }
            Ok(None) => component.to_owned(),
            Err(name) if is_here(&name) => continue,
            Err(name) => name,
        };
        missing.push(MissingImage {
            name,
            needed_by: "kubeadm on every master of this cluster".to_owned(),
        });
    }
    if missing.is_empty() {
        Ok(wanted
            .into_iter()
            .map(|(id, names)| ImageWanted {
                id,
                names: names.into_iter().collect(),
            })
            .collect())
    } else {
        Err(missing)
    }
}

/// The image of the pot for a component and the cluster's name for it; the name alone where the pot lacks that tag; nothing where it lacks the component.
fn core_name<'m>(
    manifest: &'m Manifest,
    config: &ClusterConfiguration,
    component: &str,
) -> Result<Option<(&'m Image, String)>, String> {
    let local = config.etcd.local.clone().unwrap_or_default();
    let (repository, tag) = match component {
        "etcd" => (&local.image_repository, &local.image_tag),
        dns if CORE_DNS.contains(&dns) || KUBE_DNS.contains(&dns) => {
            (&config.dns.image_repository, &config.dns.image_tag)
        }
        // kubeadm's pause has a tag of its own; the others have the version that kubeadm's configuration records, which vendors give a suffix.
        "pause" => (&config.image_repository, &String::new()),
        _ => (
            &config.image_repository,
            &config.kubernetes_version.replace('+', "_"),
        ),
    };
    let own_repository = if repository.is_empty() {
        &config.image_repository
    } else {
        repository
    };
    let found = manifest.images.iter().find_map(|image| {
        image.names.iter().find_map(|name| {
            let (path, own_tag) = split_tag(name);
            let place = ["k8s.gcr.io/", "registry.k8s.io/"]
                .iter()
                .find_map(|host| path.strip_prefix(host))?;
            (place.rsplit('/').next() == Some(component)).then_some((image, place, own_tag))
        })
    });
    let Some((image, place, own_tag)) = found else {
        return if tag.is_empty() {
            Ok(None)
        } else {
            Err(format!("{own_repository}/{component}:{tag}"))
        };
    };
    // kubeadm puts CoreDNS one folder deeper, from 1.21 on, but only in the projects' own registries.
    let default = own_repository.is_empty()
        || own_repository == "k8s.gcr.io"
        || own_repository == "registry.k8s.io";
    let path = if default && repository.is_empty() {
        place
    } else {
        component
    };
    let host = if own_repository.is_empty() {
        split_host(&image.names[0])
    } else {
        own_repository
    };
    let name = format!(
        "{host}/{path}:{}",
        if tag.is_empty() { own_tag } else { tag }
    );
    if tag.is_empty() || tag == own_tag {
        return Ok(Some((image, name)));
    }
    // An override asks for another build: only an image that was packed under just that name will do.
    match manifest
        .images
        .iter()
        .find(|image| image.names.contains(&name))
    {
        Some(image) => Ok(Some((image, name))),
        None => Err(name),
    }
}

fn split_tag(name: &str) -> (&str, &str) {
    name.rsplit_once(':').unwrap_or((name, "latest"))
}

fn split_host(name: &str) -> &str {
    name.split_once('/').map_or(name, |(host, _)| host)
}

/// What the pod network asks of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// The DaemonSets that give nodes their CNI configuration, as `namespace/name`.
    pub given_by: Vec<String>,
    /// The images of what this node must run to be on the network (those and kube-proxy), with what needs them.
    pub images: Vec<MissingImage>,
    /// The images of other DaemonSets that will run here, which a join can do without.
    pub others: Vec<MissingImage>,
    /// Those of all of these that are pulled at every start, though they be here.
    pub always_pulled: Vec<MissingImage>,
}

impl PodNetwork {
    /// Reads it off the cluster's DaemonSets, for a master with these labels and taints.
    pub fn of(
        daemon_sets: &[DaemonSet],
        labels: &BTreeMap<String, String>,
        taints: &[&str],
    ) -> Self {
        let here = |set: &&DaemonSet| runs_on(&set.spec.template.spec, labels, taints);
        let by_its_folder =
            |set: &DaemonSet| mounts(set, |path| Path::new(path).starts_with(CNI_CONFIG));
        // Some (Weave Net is one) mount all of /etc, as others do who only read there: it counts where nobody says it more plainly.
        let plainly = daemon_sets.iter().filter(here).any(by_its_folder);
        let gives = |set: &DaemonSet| {
            by_its_folder(set)
                || (!plainly
                    && set.spec.template.spec.host_network
                    && mounts(set, |path| path.trim_end_matches('/') == "/etc"))
        };
        let mut network = Self::default();
        for set in daemon_sets {
            let pod = &set.spec.template.spec;
            if !runs_on(pod, labels, taints) {
                continue;
            }
            let name = format!("{}/{}", set.metadata.namespace, set.metadata.name);
            let gives_cni = gives(set);
            if gives_cni {
                network.given_by.push(name.clone());
            }
            let list = if gives_cni || name == "kube-system/kube-proxy" {
                &mut network.images
            } else {
                &mut network.others
            };
            for container in pod.init_containers.iter().chain(&pod.containers) {
                let image = MissingImage {
                    name: container.image.clone(),
                    needed_by: format!("DaemonSet {name}"),
                };
                if container.image_pull_policy == "Always" {
                    network.always_pulled.push(image.clone());
                }
                list.push(image);
            }
        }
        network
    }
}

/// Whether a DaemonSet's pod mounts such a path of its node.
fn mounts(set: &DaemonSet, is_meant: impl Fn(&str) -> bool) -> bool {
    let volumes = &set.spec.template.spec.volumes;
    volumes
        .iter()
        .filter_map(|volume| volume.host_path.as_ref())
        .any(|path| is_meant(&path.path))
}

/// Whether a DaemonSet's pod runs on a master with these labels and taints. What cannot be told from the labels counts as "runs": a refusal that names an image is better than a node
/// that never becomes ready.
fn runs_on(pod: &PodSpec, labels: &BTreeMap<String, String>, taints: &[&str]) -> bool {
    let selected = pod
        .node_selector
        .iter()
        .all(|(key, value)| labels.get(key).is_none_or(|own| own == value));
    let tolerated = taints
        .iter()
        .all(|taint| pod.tolerations.iter().any(|one| one.bears(taint)));
    let allowed = pod
        .affinity
        .node_affinity
        .required
        .as_ref()
        .is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| {
                term.match_expressions.iter().all(|rule| {
                    match (labels.get(&rule.key), rule.operator.as_str()) {
                        (Some(own), "In") => rule.values.contains(own),
                        (Some(own), "NotIn") => !rule.values.contains(own),
                        (Some(_), "DoesNotExist") => false,
                        _ => true,
                    }
                })
            })
        });
    selected && tolerated && allowed
}

/// The labels that a new master of this Kubernetes will have.
pub fn labels_of_master(
    node: &str,
    arch: bundle_spec::Arch,
    kubernetes: &Traits,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), "linux".to_owned());
        labels.insert(format!("{prefix}/arch"), arch.go().to_owned());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), node.to_owned());
    for label in kubernetes.master_labels {
        labels.insert((*label).to_owned(), String::new());
    }
    labels
}

/// How Docker lists a name: without Docker Hub's own host and folder, with a tag.
pub fn familiar(name: &str) -> String {
    let name = name
        .strip_prefix("docker.io/")
        .or_else(|| name.strip_prefix("index.docker.io/"))
        .unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let tagged = name
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':') || last.contains('@'));
    if tagged {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

/// How a runtime lists a name that pins a registry's digest, with or without a tag beside it; nothing of a name without a digest.
pub fn by_digest(name: &str) -> Option<String> {
    let (name, digest) = name.split_once('@')?;
    let tag = name.rsplit('/').next().and_then(|last| last.find(':'));
    let end = tag.map_or(name.len(), |at| {
        name.rfind('/').map_or(0, |slash| slash + 1) + at
    });
    Some(familiar(&format!("{}@{digest}", &name[..end])))
}

/// The full form of a name, as containerd has it: with Docker Hub's own host and folder, and a tag.
pub fn qualified(name: &str) -> String {
    let name = familiar(name);
    let host = name.split_once('/').map(|(host, _)| host);
    match host {
        None => format!("docker.io/library/{name}"),
        Some(host) if host.contains(['.', ':']) || host == "localhost" => name,
        Some(_) => format!("docker.io/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use bundle_spec::{Arch, KubeVersion};

    use super::super::kubeadm::{EtcdSection, LocalEtcd};
    use super::*;
    use crate::joining::fixtures::manifest;

    fn core(host: &str) -> Vec<String> {
        CORE.iter()
            .chain(CORE_DNS)
            .map(|component| format!("{host}/{component}:1"))
            .collect()
    }

    fn network_of(sets: &[DaemonSet], minor: u16) -> PodNetwork {
        let traits = Traits::of(KubeVersion::new(1, minor, 0));
        let labels = labels_of_master("b1", Arch::Amd64, &traits);
        PodNetwork::of(sets, &labels, traits.master_taints)
    }

    fn names(wanted: &[ImageWanted]) -> BTreeSet<String> {
        wanted
            .iter()
            .flat_map(|image| image.names.iter().cloned())
            .collect()
    }

    fn pot() -> Manifest {
        let names = core("k8s.gcr.io");
        manifest(
            &names
                .iter()
                .map(String::as_str)
                .chain(["flannel:1"])
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_default_repository_needs_no_other_names() {
        let config = ClusterConfiguration {
            image_repository: "k8s.gcr.io".to_owned(),
            ..Default::default()
        };
        let wanted = name_after_cluster(&pot(), &config, false, &[]).unwrap();
        assert_eq!(
            names(&wanted),
            core("k8s.gcr.io")
                .into_iter()
                .chain(["flannel:1".to_owned()])
                .collect()
        );
    }

    #[test]
    fn a_repository_of_its_own_gives_every_core_image_a_second_name() {
        let config = ClusterConfiguration {
            image_repository: "reg.example:5000/k8s".to_owned(),
            ..Default::default()
        };
        let wanted = names(&name_after_cluster(&pot(), &config, false, &[]).unwrap());
        for name in core("reg.example:5000/k8s")
            .iter()
            .chain(&core("k8s.gcr.io"))
        {
            assert!(wanted.contains(name), "{name}");
        }
        assert!(
            !wanted.contains("reg.example:5000/k8s/flannel:1"),
            "only kubeadm's own images move"
        );
    }

    #[test]
    fn an_etcd_tag_that_the_pot_lacks_is_named() {
        let mut config = ClusterConfiguration {
            image_repository: "k8s.gcr.io".to_owned(),
            ..Default::default()
        };
        config.etcd = EtcdSection {
            local: Some(LocalEtcd {
                image_tag: "9".to_owned(),
                ..Default::default()
            }),
            external: None,
        };
        let missing = name_after_cluster(&pot(), &config, false, &[]).unwrap_err();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].name, "k8s.gcr.io/etcd:9");
        assert!(
            name_after_cluster(&pot(), &config, true, &[]).is_ok(),
            "external etcd needs no image here"
        );
        let names = core("k8s.gcr.io");
        let with = manifest(
            &names
                .iter()
                .map(String::as_str)
                .chain(["k8s.gcr.io/etcd:9"])
                .collect::<Vec<_>>(),
        );
        assert!(
            name_after_cluster(&with, &config, false, &[]).is_ok(),
            "packed with --image under just that name"
        );
    }

    #[test]
    fn dns_is_named_as_kubeadm_pulls_it() {
        let config = |kind: &str, tag: &str| ClusterConfiguration {
            image_repository: "k8s.gcr.io".to_owned(),
            dns: crate::control_plane::kubeadm::Dns {
                kind: kind.to_owned(),
                image_tag: tag.to_owned(),
                ..Default::default()
            },
            ..Default::default()
        };
        assert!(name_after_cluster(&pot(), &config("CoreDNS", ""), false, &[]).is_ok());
        let lacks = |kind, tag| {
            let missing = name_after_cluster(&pot(), &config(kind, tag), false, &[]).unwrap_err();
            let names = missing.into_iter().map(|image| image.name);
            names.collect::<Vec<_>>()
        };
        assert_eq!(lacks("CoreDNS", "1.6.5"), ["k8s.gcr.io/coredns:1.6.5"]);
        assert_eq!(lacks("kube-dns", "").len(), KUBE_DNS.len());
        assert_eq!(
            lacks("kube-dns", "1.14.13")[0],
            "k8s.gcr.io/k8s-dns-kube-dns:1.14.13"
        );
    }

    #[test]
    fn coredns_moves_a_folder_down_only_in_the_default_registry() {
        let mut all = core("k8s.gcr.io");
        all[6] = "k8s.gcr.io/coredns/coredns:v1.8.0".to_owned();
        let pot = manifest(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let config = |repository: &str| ClusterConfiguration {
            image_repository: repository.to_owned(),
            ..Default::default()
        };
        assert!(
            names(&name_after_cluster(&pot, &config("registry.k8s.io"), false, &[]).unwrap())
                .contains("registry.k8s.io/coredns/coredns:v1.8.0")
        );
        assert!(
            names(&name_after_cluster(&pot, &config("own"), false, &[]).unwrap())
                .contains("own/coredns:v1.8.0")
        );
    }

    fn daemon_set(json: &str) -> DaemonSet {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_pod_network_is_what_writes_cni_configuration_on_this_node() {
        let sets = [
            daemon_set(
                r#"{"metadata":{"name":"flannel","namespace":"kube-system"},"spec":{"template":{"spec":{"tolerations":[{"operator":"Exists"}],"initContainers":[{"image":"cni:1"}],"containers":[{"image":"flannel:1"}],"volumes":[{"name":"c","hostPath":{"path":"/etc/cni/net.d"}}],"nodeSelector":{"kubernetes.io/arch":"amd64"}}}}}"#,
            ),
            daemon_set(
                r#"{"metadata":{"name":"flannel-arm","namespace":"kube-system"},"spec":{"template":{"spec":{"tolerations":[{"operator":"Exists"}],"containers":[{"image":"arm:1"}],"volumes":[{"name":"c","hostPath":{"path":"/etc/cni/net.d"}}],"nodeSelector":{"kubernetes.io/arch":"arm64"}}}}}"#,
            ),
            daemon_set(
                r#"{"metadata":{"name":"workers-only","namespace":"x"},"spec":{"template":{"spec":{"containers":[{"image":"worker:1"}]}}}}"#,
            ),
            daemon_set(
                r#"{"metadata":{"name":"logs","namespace":"x"},"spec":{"template":{"spec":{"tolerations":[{"key":"node-role.kubernetes.io/master","effect":"NoSchedule"}],"containers":[{"image":"logs:1","imagePullPolicy":"Always"}]}}}}"#,
            ),
        ];
        let of_minor = |minor| network_of(&sets, minor);
        let network = of_minor(14);
        assert_eq!(network.given_by, ["kube-system/flannel"]);
        let images = |list: &[MissingImage]| {
            list.iter()
                .map(|image| image.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(images(&network.images), ["cni:1", "flannel:1"]);
        assert_eq!(images(&network.others), ["logs:1"]);
        assert_eq!(images(&network.always_pulled), ["logs:1"]);
        assert!(
            of_minor(24).others.is_empty() && of_minor(34).others.is_empty(),
            "a taint that it does not bear"
        );
        assert_eq!(of_minor(34).given_by, ["kube-system/flannel"]);
    }

    #[test]
    fn who_mounts_all_of_etc_gives_the_network_where_nobody_says_it_more_plainly() {
        let set = |name: &str, path: &str, network: bool| {
            daemon_set(&format!(
                r#"{{"metadata":{{"name":"{name}","namespace":"x"}},"spec":{{"template":{{"spec":{{"hostNetwork":{network},"tolerations":[{{"operator":"Exists"}}],"containers":[{{"image":"{name}:1"}}],"volumes":[{{"name":"c","hostPath":{{"path":"{path}"}}}}]}}}}}}}}"#
            ))
        };
        let given = |sets: &[DaemonSet]| network_of(sets, 14).given_by;
        let (weave, reader) = (set("weave", "/etc/", true), set("reader", "/etc", false));
        let exporter = set("exporter", "/", true);
        assert_eq!(given(&[weave.clone(), reader, exporter]), ["x/weave"]);
        let calico = set("calico", "/etc/cni/net.d/", true);
        assert_eq!(given(&[weave, calico]), ["x/calico"]);
    }

    #[test]
    fn containerd_has_names_in_full() {
        for (name, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("calico/node:v3", "docker.io/calico/node:v3"),
            ("docker.io/calico/node:v3", "docker.io/calico/node:v3"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("reg:5000/a:1", "reg:5000/a:1"),
            ("localhost/a:1", "localhost/a:1"),
        ] {
            assert_eq!(qualified(name), full, "{name}");
        }
    }

    #[test]
    fn a_pinned_name_is_compared_without_its_tag() {
        for (name, listed) in [
            (
                "quay.io/cilium/cilium:v1@sha256:a",
                "quay.io/cilium/cilium@sha256:a",
            ),
            ("reg:5000/a@sha256:a", "reg:5000/a@sha256:a"),
            ("docker.io/calico/node:v3@sha256:a", "calico/node@sha256:a"),
            ("busybox:1@sha256:a", "busybox@sha256:a"),
        ] {
            assert_eq!(by_digest(name).as_deref(), Some(listed), "{name}");
        }
        assert_eq!(by_digest("reg:5000/a:1"), None);
    }

    #[test]
    fn names_are_compared_as_docker_lists_them() {
        for (name, listed) in [
            ("docker.io/library/busybox:1", "busybox:1"),
            ("docker.io/calico/node:v3", "calico/node:v3"),
            ("quay.io/coreos/flannel", "quay.io/coreos/flannel:latest"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"),
        ] {
            assert_eq!(familiar(name), listed);
        }
    }
}
