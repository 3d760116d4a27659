//! Whose unit starts a service.

use anyhow::Result;

use super::MARK;
use crate::host::HostView;

/// Where an administrator's units lie, which systemd reads first.
pub(crate) const ADMINISTRATOR: &str = "/etc/systemd/system";

/// Where everybody else's lie, the first one first.
pub(crate) const PACKAGED: [&str; 3] = [
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The unit that starts the service `name`, where it is not ours: the first of the places that systemd reads.
pub(super) fn foreign(host: &HostView, name: &str) -> Result<Option<String>> {
    for folder in [ADMINISTRATOR].into_iter().chain(PACKAGED) {
        let path = format!("{folder}/{name}");
        if let Some(text) = host.read(&path)? {
            return Ok((!text.starts_with(MARK.as_bytes())).then_some(path));
        }
    }
    Ok(None)
}
