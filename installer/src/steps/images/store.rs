//! What a container runtime has of images, and the commands that change it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use bundle_spec::Sha256;

use crate::control_plane::images::{familiar, qualified};
use crate::facts::{containerd, docker};
use crate::host::HostView;
use crate::host::command::Cmd;
use crate::host::cri;
use crate::host::probe::CONTAINERD_PATH;
use crate::journal::Change;
use crate::runtime::Runtime;

/// A gigabyte of images on a slow disk, many times over.
const LOAD_LIMIT: Duration = Duration::from_hours(1);

/// The images that a runtime has: IDs, each with its names as Docker lists them.
pub(super) type Present = BTreeMap<String, Vec<String>>;

/// The images that the runtime has; none where it does not answer yet: the step before starts it.
pub(super) fn present(host: &HostView, runtime: Runtime) -> Result<Present> {
    let mut images = Present::new();
    match runtime {
        Runtime::Docker => {
            for (id, name) in docker::images(host)?.unwrap_or_default() {
                images.entry(id).or_default().push(name);
            }
        }
        Runtime::Containerd => {
            for image in containerd::images(host)?.unwrap_or_default() {
                let names = image.repo_tags.iter().map(|name| familiar(name));
                images.entry(image.id).or_default().extend(names);
            }
        }
    }
    Ok(images)
}

/// The ID of the image that bears a name.
pub(super) fn holder<'p>(present: &'p Present, name: &str) -> Option<&'p str> {
    let listed = familiar(name);
    let mut images = present.iter();
    images
        .find(|(_, names)| names.contains(&listed))
        .map(|(id, _)| id.as_str())
}

/// Reads an archive of images from its standard input.
pub(super) fn load(runtime: Runtime) -> Cmd {
    match runtime {
        Runtime::Docker => Cmd::new("docker", ["load", "--quiet"]),
        Runtime::Containerd => ctr(&["images", "import", "-"]),
    }
    .timeout(LOAD_LIMIT)
}

/// Gives an image that is there one more name.
pub(super) fn name(runtime: Runtime, id: &Sha256, name: &str) -> Cmd {
    let id = id.to_string();
    match runtime {
        Runtime::Docker => Cmd::new("docker", ["tag", &id, name]),
        // The CRI keeps a name beside all others that is the ID itself.
        Runtime::Containerd => ctr(&["images", "tag", &id, &qualified(name)]),
    }
}

/// The command with which people take a name away.
pub(super) fn unname(runtime: Runtime, name: &str) -> String {
    match runtime {
        Runtime::Docker => format!("docker rmi {name}"),
        Runtime::Containerd => format!("ctr -n k8s.io images rm {}", qualified(name)),
    }
}

/// What the journal holds of a name.
pub(super) fn change(runtime: Runtime, name: &str, id: &Sha256) -> Change {
    let (name, id) = (name.to_owned(), id.to_string());
    match runtime {
        Runtime::Docker => Change::Image { name, id },
        Runtime::Containerd => Change::ContainerdImage { name, id },
    }
}

/// containerd's own client, in the namespace of the kubelet's images.
fn ctr(words: &[&str]) -> Cmd {
    Cmd::new("ctr", cri::ctr(CONTAINERD_PATH, words))
}
