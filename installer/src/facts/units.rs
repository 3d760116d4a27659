//! Whose unit starts a service.

use anyhow::Result;

use super::MARK;
use crate::host::HostView;

/// Where systemd reads units, the first one first.
const FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The unit that starts the service `name`, where it is not ours: the first of the places that systemd reads.
pub(super) fn foreign(host: &HostView, name: &str) -> Result<Option<String>> {
    for folder in FOLDERS {
        let path = format!("{folder}/{name}");
        if let Some(text) = host.read(&path)? {
            return Ok((!text.starts_with(MARK.as_bytes())).then_some(path));
        }
    }
    Ok(None)
}
