//! Whether the cluster lets a machine in that knows a token and nothing else. kubeadm sets up what that takes, and hardened clusters take it away again: a join would fail
//! only after everything before it was done, and in a rebirth that is the removal of a member.

use bundle_spec::KubeVersion;
use serde::Deserialize;
use serde_json::{Deserializer, Value, json};

use super::ClusterView;
use super::kubeadm::EDIT_RECORD;
use super::objects::Pod;
use crate::host::command::{Cmd, Output};

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
    name: &'static str,
    anonymous: bool,
    lacks: &'static str,
    remedy: &'static str,
}

const RIGHTS: [Right; 4] = [
    Right {
        verb: "get",
        group: "",
        resource: "configmaps",
        subresource: "",
        namespace: "kube-public",
        name: "cluster-info",
        anonymous: true,
        lacks: "nobody may read the ConfigMap kube-public/cluster-info without credentials, by which a machine with a token knows the cluster",
        remedy: "kubectl --namespace kube-public create rolebinding kubeadm:bootstrap-signer-clusterinfo --role=kubeadm:bootstrap-signer-clusterinfo --user=system:anonymous",
    },
    Right {
        verb: "get",
        group: "",
        resource: "configmaps",
        subresource: "",
        namespace: "kube-system",
        name: "kubeadm-config",
        anonymous: false,
        lacks: "who has a token may not read the ConfigMap kube-system/kubeadm-config",
        remedy: "kubectl --namespace kube-system create rolebinding kubeadm:nodes-kubeadm-config --role=kubeadm:nodes-kubeadm-config --group=system:bootstrappers:kubeadm:default-node-token --group=system:nodes",
    },
    Right {
        verb: "create",
        group: "certificates.k8s.io",
        resource: "certificatesigningrequests",
        subresource: "",
        namespace: "",
        name: "",
        anonymous: false,
        lacks: "who has a token may not ask for a kubelet's certificate",
        remedy: "kubectl create clusterrolebinding kubeadm:kubelet-bootstrap --clusterrole=system:node-bootstrapper --group=system:bootstrappers:kubeadm:default-node-token",
    },
    Right {
        verb: "create",
        group: "certificates.k8s.io",
        resource: "certificatesigningrequests",
        subresource: "nodeclient",
        namespace: "",
        name: "",
        anonymous: false,
        lacks: "the certificate that a new kubelet asks for by a token is not approved by itself",
        remedy: "kubectl create clusterrolebinding kubeadm:node-autoapprove-bootstrap --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient --group=system:bootstrappers:kubeadm:default-node-token",
    },
];

/// Asks the API server about all rights at once. A review is answered and kept nowhere.
pub(super) fn question(view: &ClusterView) -> Cmd {
    let reviews: Vec<Value> = RIGHTS.iter().map(review).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": reviews });
    view.kubectl(["create", "--validate=false", "-f", "-", "-o", "json"])
        .stdin(list.to_string())
}

fn review(right: &Right) -> Value {
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
                "name": right.name,
            },
        },
    })
}

/// What the answer to [`question`] and the healthy master's own pods show to be in the way. A review that was not answered shows nothing: kubeadm will see.
pub(super) fn barriers(answer: &Output, own: &[&Pod], version: KubeVersion) -> Vec<Barrier> {
    let mut found: Vec<Barrier> = RIGHTS
        .iter()
        .zip(allowed(answer))
        .filter(|(_, allowed)| !allowed)
        .map(|(right, _)| Barrier {
            cause: right.lacks.to_owned(),
            remedy: right.remedy.to_owned(),
        })
        .collect();
    found.extend(flags(own, version));
    found
}

/// The answers, in the order of the questions; none where they are not as many.
fn allowed(answer: &Output) -> Vec<bool> {
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
    if allowed.len() == RIGHTS.len() {
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
        if !pod
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
    if let Some(pod) = pod("kube-controller-manager") {
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

    fn answer(allowed: [bool; 4]) -> Output {
        let reviews = allowed.map(
            |allowed| json!({ "kind": "SubjectAccessReview", "status": { "allowed": allowed } }),
        );
        let text: String = reviews.iter().map(Value::to_string).collect();
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
        let own: Vec<&Pod> = pods.iter().collect();
        let found = barriers(answer, &own, KubeVersion::new(1, 14, 0));
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
        assert_eq!(causes(&answer([true; 4]), &pods), "");
        let list = json!({ "kind": "List", "items": [
            { "status": { "allowed": true } }, { "status": { "allowed": true } },
            { "status": { "allowed": true } }, { "status": {} },
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
            "ask for a kubelet's certificate",
            "not approved",
        ]
        .into_iter()
        .enumerate()
        {
            let mut allowed = [true; 4];
            allowed[at] = false;
            let told = causes(&answer(allowed), &[]);
            assert!(told.contains(word) && told.lines().count() == 1, "{told}");
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
            ("kube-apiserver", &[][..], "takes no tokens"),
            (
                "kube-apiserver",
                &["--enable-bootstrap-token-auth=false"],
                "takes no tokens",
            ),
            (
                "kube-apiserver",
                &["--anonymous-auth=false", OPEN],
                "without credentials",
            ),
            ("kube-controller-manager", &[], "bootstrapsigner"),
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
                &["--enable-bootstrap-token-auth", "--anonymous-auth=true"],
            ),
        ] {
            assert_eq!(causes(&nothing, &[pod(component, flags)]), "");
        }
    }
}
