//! The objects of the played cluster, and `kubectl` as this program calls it. What it is not known to ask for is not answered.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::files::{bad, good};
use crate::host::command::Output;

/// Kind, namespace and name.
type Key = (String, String, String);

/// The objects; see the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    objects: BTreeMap<Key, Value>,
    revision: u64,
}

fn key(kind: &str, namespace: &str, name: &str) -> Key {
    let kind = kind.trim_end_matches('s').to_lowercase();
    (kind, namespace.to_owned(), name.to_owned())
}

impl Objects {
    pub(super) fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&key(kind, namespace, name))
    }

    pub(super) fn get_mut(
        &mut self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Option<&mut Value> {
        self.objects.get_mut(&key(kind, namespace, name))
    }

    pub(super) fn names(&self, kind: &str) -> Vec<String> {
        let kinds = self.objects.keys().filter(|one| one.0 == kind);
        kinds.map(|one| one.2.clone()).collect()
    }

    /// Puts an object, new or in the place of its former self.
    pub(super) fn put(&mut self, kind: &str, mut object: Value) {
        self.revision += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.revision.to_string());
        let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
        let key = key(
            kind,
            &text(&metadata["namespace"]),
            &text(&metadata["name"]),
        );
        let (created, uid) = match self.objects.get(&key) {
            Some(old) => {
                let old = &old["metadata"];
                (old["creationTimestamp"].clone(), old["uid"].clone())
            }
            None => (
                json!(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
                json!(format!("uid-{}", self.revision)),
            ),
        };
        metadata["creationTimestamp"] = created;
        metadata["uid"] = uid;
        self.objects.insert(key, object);
    }

    pub(super) fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects.remove(&key(kind, namespace, name))
    }

    /// Deletes an object, or marks one that finalizers hold; who waits for that one waits in vain.
    fn mark(&mut self, kind: &str, name: &str, asked: &Asked<'_>) -> Output {
        match self.get_mut(kind, asked.namespace, name) {
            None if asked.absent_is_fine => return good(""),
            None => return bad("Error from server (NotFound)"),
            Some(object) if is_held(object) => {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                if asked.waits {
                    return bad("error: timed out waiting for the condition");
                }
            }
            Some(_) => drop(self.delete(kind, asked.namespace, name)),
        }
        good("deleted")
    }

    /// Cordons a node, and takes its pods away, but for those of DaemonSets.
    fn drain(&mut self, node: &str) -> Output {
        if let Some(node) = self.get_mut("node", "", node) {
            node["spec"]["unschedulable"] = json!(true);
        }
        self.objects.retain(|(kind, _, _), pod| {
            let stays = pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet";
            kind != "pod" || pod["spec"]["nodeName"] != node || stays
        });
        good("drained")
    }

    /// What `kubectl` with these arguments, the credentials left out, answers; nothing to what it does not know.
    pub(super) fn play(&mut self, args: &[&str], input: &[u8]) -> Option<Output> {
        let asked = Asked::of(args);
        Some(match asked.words.as_slice() {
            ["get", "--raw", path] => {
                let name = path
                    .strip_prefix("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/")?;
                let name = name.trim_end_matches("?resourceVersion=0");
                match self.get("lease", "kube-system", name) {
                    Some(lease) => good(lease.to_string()),
                    None => bad("Error from server (NotFound): leases not found"),
                }
            }
            ["get", kind, name] => match self.get(kind, asked.namespace, name) {
                Some(object) => good(object.to_string()),
                None if asked.absent_is_fine => good(""),
                None => bad("Error from server (NotFound)"),
            },
            ["get", kind] => good(self.list(kind, &asked).to_string()),
            ["create", "--validate=false", "-f", "-"] => reviewed(input)?,
            ["create", "-f", "-"] => self.write(input, true)?,
            ["replace", "-f", "-"] => self.write(input, false)?,
            ["delete", kind, names @ ..] => {
                let answers = names.iter().map(|name| self.mark(kind, name, &asked));
                let answers: Vec<Output> = answers.collect();
                answers.into_iter().max_by_key(|answer| answer.status)?
            }
            ["drain", node] => self.drain(node),
            ["patch", kind, name, "--type=merge", "--patch", patch] => {
                let patch: Value = serde_json::from_str(patch).ok()?;
                let object = self.get_mut(kind, asked.namespace, name)?;
                merge(object, &patch);
                if !object["metadata"]["deletionTimestamp"].is_null() && !is_held(object) {
                    self.delete(kind, asked.namespace, name);
                }
                good("patched")
            }
            _ => return None,
        })
    }

    fn list(&self, kind: &str, asked: &Asked<'_>) -> Value {
        let wanted = key(kind, asked.namespace, "");
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(one, _)| one.0 == wanted.0 && (asked.everywhere || one.1 == wanted.1))
            .map(|(_, object)| object)
            .filter(|object| {
                asked.selectors.iter().all(|(path, value)| {
                    let found = path.iter().fold(*object, |inner, field| &inner[*field]);
                    found == value
                })
            })
            .collect();
        json!({ "items": items })
    }

    fn write(&mut self, input: &[u8], new: bool) -> Option<Output> {
        let object: Value = serde_json::from_slice(input).ok()?;
        let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
        let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
        let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
        let old = self.get(&kind, &namespace, &name);
        let read = &metadata["resourceVersion"];
        let fits = match old {
            None => new,
            Some(old) => !new && *read == old["metadata"]["resourceVersion"],
        };
        if !fits {
            return Some(bad("Error from server (Conflict)"));
        }
        let kind = kind.to_lowercase();
        self.put(&kind, object);
        let written = self.get(&kind, &namespace, &name)?;
        Some(good(written.to_string()))
    }
}

/// The answer to reviews of rights in a cluster as kubeadm makes it: all are granted.
fn reviewed(input: &[u8]) -> Option<Output> {
    let mut list: Value = serde_json::from_slice(input).ok()?;
    for review in list["items"].as_array_mut()? {
        if review["kind"] != "SubjectAccessReview" {
            return None;
        }
        review["status"] = json!({ "allowed": true });
    }
    Some(good(list.to_string()))
}

/// Whether finalizers hold an object.
fn is_held(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers.is_some_and(|finalizers| !finalizers.is_empty())
}

/// As `kubectl patch --type=merge` does.
fn merge(object: &mut Value, patch: &Value) {
    match patch.as_object() {
        None => *object = patch.clone(),
        Some(fields) => fields
            .iter()
            .for_each(|(name, field)| merge(&mut object[name.as_str()], field)),
    }
}

/// What `kubectl` was asked.
#[derive(Default)]
struct Asked<'t> {
    words: Vec<&'t str>,
    namespace: &'t str,
    everywhere: bool,
    absent_is_fine: bool,
    waits: bool,
    /// Where something must stand, and what.
    selectors: Vec<(Vec<&'t str>, &'t str)>,
}

impl<'t> Asked<'t> {
    fn of(args: &[&'t str]) -> Self {
        let mut asked = Self {
            waits: true,
            ..Self::default()
        };
        let mut args = args.iter().copied();
        while let Some(arg) = args.next() {
            match arg {
                "--request-timeout" | "-o" | "--server" => {
                    args.next();
                }
                "--namespace" => asked.namespace = args.next().unwrap_or_default(),
                "--all-namespaces" => asked.everywhere = true,
                "--ignore-not-found" => asked.absent_is_fine = true,
                "--wait=false" => asked.waits = false,
                "--grace-period=0"
                | "--force"
                | "--ignore-daemonsets"
                | "--delete-local-data"
                | "--delete-emptydir-data" => {}
                "--selector" => {
                    let (label, value) = args
                        .next()
                        .unwrap_or_default()
                        .split_once('=')
                        .unwrap_or_default();
                    asked
                        .selectors
                        .push((vec!["metadata", "labels", label], value));
                }
                "--field-selector" => {
                    let (path, value) = args
                        .next()
                        .unwrap_or_default()
                        .split_once('=')
                        .unwrap_or_default();
                    asked.selectors.push((path.split('.').collect(), value));
                }
                _ if arg.starts_with("--timeout=") => {}
                word => asked.words.push(word),
            }
        }
        asked
    }
}
