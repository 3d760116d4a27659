//! Whether the cluster lets a machine in that knows a token and nothing else. kubeadm sets up what that takes, and hardened clusters take it away again: a join would fail
//! only after everything before it was done, and in a rebirth that is the removal of a member.

use bundle_spec::KubeVersion;
use serde::Deserialize;
use serde_json::{Deserializer, Value, json};

use super::ClusterView;
use super::kubeadm::EDIT_RECORD;
use super::objects::Pod;
use crate::host::command::{Cmd, Output};
use crate::kubernetes::Traits;

/// The group that kubeadm's tokens are in, and the one that all tokens are in.
const GROUPS: [&str; 3] = [
    "system:bootstrappers:kubeadm:default-node-token",
    "system:bootstrappers",
    "system:authenticated",
];

/// Controllers without which a token leads nowhere, each by the names that it had and has, and whether it is off where nobody names it.
const CONTROLLERS: [(&[&str], bool); 3] = [
    (&["bootstrapsigner", "bootstrap-signer-controller"], true),
    (
        &[
            "csrapproving",
            "certificatesigningrequest-approving-controller",
        ],
        false,
    ),
    (
        &["csrsigning", "certificatesigningrequest-signing-controller"],
        false,
    ),
];

/// What keeps a machine with a token out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// What it is.
    pub cause: String,
    /// What takes it away.
    pub remedy: String,
}

/// Something that kubeadm allows at `kubeadm init`.
struct Right {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: &'static str,
    /// Each is asked for, and one of them is enough.
    names: Vec<String>,
    anonymous: bool,
    lacks: String,
    remedy: String,
}

impl Right {
    /// To read one of these ConfigMaps, of which the first is the likeliest. `subjects` are those to whom `role` is given, in the words of kubectl.
    fn reads(namespace: &'static str, maps: Vec<String>, role: &str, subjects: &str) -> Self {
        let map = &maps[0];
        Self {
            verb: "get",
            group: "",
            resource: "configmaps",
            subresource: "",
            namespace,
            anonymous: false,
            lacks: format!("who has a token may not read the ConfigMap {namespace}/{map}"),
            remedy: readable(namespace, role, map, subjects),
            names: maps,
        }
    }

    /// To ask for a certificate, or to have one of this kind approved. `binding` gives `role` to who has a token.
    fn certificate(kind: &'static str, lacks: &str, binding: &str, role: &str) -> Self {
        Self {
            verb: "create",
            group: "certificates.k8s.io",
            resource: "certificatesigningrequests",
            subresource: kind,
            namespace: "",
            names: vec![String::new()],
            anonymous: false,
            lacks: lacks.to_owned(),
            remedy: format!(
                "kubectl create clusterrolebinding {binding} --clusterrole={role} --group={}",
                GROUPS[0]
            ),
        }
    }
}

/// The commands that make a Role by which these ConfigMaps may be read, and give it to who has a token. What is there already is left as it is.
fn readable(namespace: &str, role: &str, map: &str, subjects: &str) -> String {
    let kubectl = format!("kubectl --namespace {namespace} create");
    format!(
        "{kubectl} role {role} --verb=get --resource=configmaps --resource-name={map}; {kubectl} rolebinding {role} --role={role} {subjects}"
    )
}

/// The rights that `kubeadm join` of this version needs.
fn rights(version: KubeVersion) -> Vec<Right> {
    let tokens = format!("--group={}", GROUPS[0]);
    let both = format!("{tokens} --group=system:nodes");
    let kubelet_maps = Traits::kubelet_config_maps(version);
    let kubelet_role = format!("kubeadm:{}", kubelet_maps[0]);
    let one = |map: &str| vec![map.to_owned()];
    let mut rights = vec![
        Right {
            anonymous: true,
            lacks: "nobody may read the ConfigMap kube-public/cluster-info without credentials, by which a machine with a token knows the cluster".to_owned(),
            ..Right::reads(
                "kube-public",
                one("cluster-info"),
                "kubeadm:bootstrap-signer-clusterinfo",
                "--user=system:anonymous",
            )
        },
        Right::reads("kube-system", one("kubeadm-config"), "kubeadm:nodes-kubeadm-config", &both),
        Right::reads("kube-system", kubelet_maps, &kubelet_role, &both),
        Right::certificate(
            "",
            "who has a token may not ask for a kubelet's certificate",
            "kubeadm:kubelet-bootstrap",
            "system:node-bootstrapper",
        ),
        Right::certificate(
            "nodeclient",
            "the certificate that a new kubelet asks for by a token is not approved by itself",
            "kubeadm:node-autoapprove-bootstrap",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        ),
    ];
    if Traits::of(version).looks_for_node {
        rights.push(Right {
            verb: "get",
            group: "",
            resource: "nodes",
            subresource: "",
            namespace: "",
            names: vec![String::new()],
            anonymous: false,
            lacks: "who has a token may not look whether there is a Node of its name already".to_owned(),
            remedy: format!("kubectl create clusterrole kubeadm:get-nodes --verb=get --resource=nodes; kubectl create clusterrolebinding kubeadm:get-nodes --clusterrole=kubeadm:get-nodes {tokens}"),
        });
    }
    rights
}

/// Asks the API server about all rights at once. A review is answered and kept nowhere.
pub(super) fn question(view: &ClusterView, version: KubeVersion) -> Cmd {
    let rights = rights(version);
    let reviews = rights
        .iter()
        .flat_map(|right| right.names.iter().map(|name| review(right, name)));
    let reviews: Vec<Value> = reviews.collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": reviews });
    view.kubectl(["create", "--validate=false", "-f", "-", "-o", "json"])
        .stdin(list.to_string())
}

fn review(right: &Right, name: &str) -> Value {
    let (user, groups): (_, &[&str]) = if right.anonymous {
        ("system:anonymous", &["system:unauthenticated"])
    } else {
        ("system:bootstrap:kpotto", &GROUPS)
    };
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": groups,
            "resourceAttributes": {
                "verb": right.verb,
                "group": right.group,
                "resource": right.resource,
                "subresource": right.subresource,
                "namespace": right.namespace,
                "name": name,
            },
        },
    })
}

/// What the answer to [`question`] and the healthy master's own pods show to be in the way. A review that was not answered shows nothing: kubeadm will see.
pub(super) fn barriers(answer: &Output, own: &[&Pod], version: KubeVersion) -> Vec<Barrier> {
    let rights = rights(version);
    let asked = rights.iter().map(|right| right.names.len()).sum();
    let allowed = allowed(answer, asked);
    let mut left = allowed.as_slice();
    let mut found = Vec::new();
    for right in rights {
        let Some((these, others)) = left.split_at_checked(right.names.len()) else {
            break;
        };
        left = others;
        if !these.contains(&true) {
            found.push(Barrier {
                cause: right.lacks,
                remedy: right.remedy,
            });
        }
    }
    found.extend(flags(own, version));
    found
}

/// The answers, in the order of the questions; none where they are not as many as were asked.
fn allowed(answer: &Output, asked: usize) -> Vec<bool> {
    #[derive(Deserialize)]
    struct Review {
        status: Status,
    }
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        allowed: bool,
    }
    let mut reviews = Vec::new();
    // One document a review, or one list of them: kubectl has printed both.
    for document in Deserializer::from_slice(&answer.stdout).into_iter::<Value>() {
        let Ok(mut document) = document else {
            return Vec::new();
        };
        if !document.is_object() {
            return Vec::new();
        }
        match document["items"].take() {
            Value::Array(items) => reviews.extend(items),
            _ => reviews.push(document),
        }
    }
    let allowed: Vec<bool> = reviews
        .into_iter()
        .filter_map(|review| serde_json::from_value(review).ok())
        .map(|review: Review| review.status.allowed)
        .collect();
    if allowed.len() == asked {
        allowed
    } else {
        Vec::new()
    }
}

/// What the flags of the API server and of the controller manager leave out. A pod that is not seen says nothing.
fn flags(own: &[&Pod], version: KubeVersion) -> Vec<Barrier> {
    let mut found = Vec::new();
    let pod = |component: &str| own.iter().find(|pod| pod.component() == component);
    let mut lacks = |cause: String, manifest: &str| {
        found.push(Barrier {
            cause,
            remedy: format!(
                "Set it right in /etc/kubernetes/manifests/{manifest}.yaml on every master, and under extraArgs in kubeadm's own record: {EDIT_RECORD}"
            ),
        });
    };
    if let Some(pod) = pod("kube-apiserver") {
        if pod
            .spec
            .flag("anonymous-auth")
            .is_some_and(|value| !is_true(value))
        {
            lacks(
                "the API server lets nobody in without credentials (--anonymous-auth=false), and a machine with a token has none when it asks for cluster-info".to_owned(),
                "kube-apiserver",
            );
        }
        // One that is started by something else than its program shows no flags at all, and says nothing.
        if pod.spec.flag("etcd-servers").is_some()
            && !pod
                .spec
                .flag("enable-bootstrap-token-auth")
                .is_some_and(is_true)
        {
            lacks(
                format!(
                    "the API server of Kubernetes {version} takes no tokens of machines that join (--enable-bootstrap-token-auth is not true)"
                ),
                "kube-apiserver",
            );
        }
    }
    if let Some(pod) = pod("kube-controller-manager")
        && !pod.spec.flags().is_empty()
    {
        let list = pod.spec.flag("controllers").unwrap_or("*");
        let off: Vec<&str> = CONTROLLERS
            .iter()
            .filter(|(names, by_name_only)| !runs(list, names, *by_name_only))
            .map(|(names, _)| names[0])
            .collect();
        if !off.is_empty() {
            lacks(
                format!(
                    "the controller manager does not run what a machine with a token needs (--controllers={list}): {}",
                    off.join(", ")
                ),
                "kube-controller-manager",
            );
        }
    }
    found
}

/// Whether a switch is on.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

/// Whether a controller runs by a list like `*,bootstrapsigner,-ttl`.
fn runs(list: &str, names: &[&str], by_name_only: bool) -> bool {
    let words: Vec<&str> = list.split(',').map(str::trim).collect();
    let denied = |name: &&str| words.contains(&format!("-{name}").as_str());
    let named = |name: &&str| words.contains(name);
    if names.iter().any(denied) {
        return false;
    }
    names.iter().any(named) || (!by_name_only && words.contains(&"*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(allowed: &[bool]) -> Output {
        let reviews = allowed.iter().map(
            |allowed| json!({ "kind": "SubjectAccessReview", "status": { "allowed": allowed } }),
        );
        let text: String = reviews.map(|review| review.to_string()).collect();
        Output {
            stdout: text.into_bytes(),
            ..Output::default()
        }
    }

    fn pod(component: &str, flags: &[&str]) -> Pod {
        let json = json!({
            "metadata": { "labels": { "component": component } },
            "spec": { "containers": [{ "command": ([&[component], flags].concat()) }] },
        });
        serde_json::from_value(json).unwrap()
    }

    fn causes(answer: &Output, pods: &[Pod]) -> String {
        causes_of(14, answer, pods)
    }

    fn causes_of(minor: u16, answer: &Output, pods: &[Pod]) -> String {
        let own: Vec<&Pod> = pods.iter().collect();
        let found = barriers(answer, &own, KubeVersion::new(1, minor, 0));
        let found: Vec<String> = found.into_iter().map(|one| one.cause).collect();
        found.join("\n")
    }

    const OPEN: &str = "--enable-bootstrap-token-auth=true";
    const CONTROLLER_MANAGER: &str = "--controllers=*,bootstrapsigner,tokencleaner";

    #[test]
    fn a_cluster_as_kubeadm_makes_it_bars_nobody() {
        let pods = [
            pod("kube-apiserver", &["--authorization-mode=Node,RBAC", OPEN]),
            pod("kube-controller-manager", &[CONTROLLER_MANAGER]),
            pod("kube-scheduler", &[]),
        ];
        assert_eq!(causes(&answer(&[true; 5]), &pods), "");
        let list = json!({ "kind": "List", "items": [
            { "status": { "allowed": true } }, { "status": { "allowed": true } },
            { "status": { "allowed": true } }, { "status": { "allowed": true } },
            { "status": {} },
        ] });
        let one_list = Output {
            stdout: list.to_string().into_bytes(),
            ..Output::default()
        };
        assert!(causes(&one_list, &pods).contains("approved"));
    }

    #[test]
    fn each_right_that_was_taken_away_is_told() {
        for (at, word) in [
            "cluster-info",
            "kubeadm-config",
            "kubelet-config-1.14",
            "ask for a kubelet's certificate",
            "not approved",
        ]
        .into_iter()
        .enumerate()
        {
            let mut allowed = [true; 5];
            allowed[at] = false;
            let told = causes(&answer(&allowed), &[]);
            assert!(told.contains(word) && told.lines().count() == 1, "{told}");
        }
        // From 1.18 on a Node is looked for; 1.23 and 1.24 may have the kubelets' configuration under either name.
        let mut allowed = [true; 7];
        allowed[6] = false;
        let told = causes_of(23, &answer(&allowed), &[]);
        assert!(told.contains("a Node of its name"), "{told}");
        for (either, both) in [
            ([true, false], ""),
            ([false, true], ""),
            ([false; 2], "kubelet-config-1.23"),
        ] {
            let allowed = [&[true; 2], &either[..], &[true; 3]].concat();
            let told = causes_of(23, &answer(&allowed), &[]);
            assert!(
                told.contains(both) && told.is_empty() == both.is_empty(),
                "{told}"
            );
        }
        for unknown in [&b""[..], b"error: no such thing", b"{}"] {
            let output = Output {
                stdout: unknown.to_vec(),
                ..Output::default()
            };
            assert_eq!(causes(&output, &[]), "", "what is not known bars nobody");
        }
    }

    #[test]
    fn flags_that_leave_out_what_a_token_needs_are_told() {
        let nothing = Output::default();
        for (component, flags, word) in [
            (
                "kube-apiserver",
                &["--etcd-servers=x"][..],
                "takes no tokens",
            ),
            (
                "kube-apiserver",
                &["--etcd-servers=x", "--enable-bootstrap-token-auth=false"],
                "takes no tokens",
            ),
            (
                "kube-apiserver",
                &["--anonymous-auth=false", OPEN],
                "without credentials",
            ),
            ("kube-controller-manager", &["--v=2"], "bootstrapsigner"),
            (
                "kube-controller-manager",
                &["--controllers=*,tokencleaner"],
                "bootstrapsigner",
            ),
            (
                "kube-controller-manager",
                &["--controllers=*,bootstrapsigner,-csrapproving"],
                "csrapproving",
            ),
            (
                "kube-controller-manager",
                &["--controllers=bootstrapsigner,csrapproving"],
                "csrsigning",
            ),
        ] {
            let told = causes(&nothing, &[pod(component, flags)]);
            assert!(told.contains(word) && told.lines().count() == 1, "{told}");
        }
        for (component, flags) in [
            (
                "kube-controller-manager",
                &["--controllers=*,bootstrap-signer-controller"][..],
            ),
            (
                "kube-controller-manager",
                &["--controllers", "*,bootstrapsigner", "--v=2"],
            ),
            (
                "kube-apiserver",
                &[
                    "--etcd-servers=x",
                    "--enable-bootstrap-token-auth",
                    "--anonymous-auth=true",
                ],
            ),
            // Started through a shell: nothing is seen.
            ("kube-apiserver", &[]),
            ("kube-controller-manager", &[]),
        ] {
            assert_eq!(causes(&nothing, &[pod(component, flags)]), "");
        }
    }
}
