//! Whose a runtime is that this machine has: the pot's, or somebody else's.

use anyhow::Result;
use bundle_spec::Manifest;

use super::{packages, units};
use crate::host::HostView;

/// What tells the pot's own daemon from another one of the same name.
pub(super) struct Daemon {
    /// The artifact of a pot that it comes in.
    pub artifact: &'static str,
    /// Its program in that artifact.
    pub program: &'static str,
    /// Where this program puts it.
    pub path: &'static str,
    /// The unit that starts it.
    pub unit: &'static str,
    /// Its configuration.
    pub config: &'static str,
}

/// A daemon that somebody else brought.
pub(super) struct Foreign {
    /// Where it is, and whose.
    pub whose: String,
    /// How to be rid of it, as an operator may type it.
    pub remove: String,
}

impl Daemon {
    /// Who else brought the daemon in `path`; nothing where it is the one of `manifest`, and nobody else starts it.
    pub fn foreign(
        &self,
        host: &HostView,
        path: &str,
        manifest: &Manifest,
    ) -> Result<Option<Foreign>> {
        let ours = manifest
            .artifact(self.artifact)
            .and_then(|artifact| artifact.files.iter().find(|file| file.name == self.program))
            .and_then(|file| manifest.blob(&file.blob))
            .map(|blob| blob.unpacked_digest);
        let same = path == self.path && ours.is_some() && host.digest(self.path)? == ours;
        let unit = if same {
            units::foreign(host, self.unit)?
        } else {
            None
        };
        let (whose, remove) = match unit {
            None if same => return Ok(None),
            Some(unit) => (
                format!("{path}, started by {unit}, which was not written by this program"),
                format!(
                    "if nothing needs it, stop it and move its unit and its configuration away (mv {unit} {} /root/), and run this again",
                    self.config
                ),
            ),
            None => match packages::owner(host, path)? {
                Some(package) => (
                    format!("{path} of package {package}"),
                    format!("remove it ({package}), and run this again"),
                ),
                None => (
                    format!("{path}, which no package owns"),
                    format!("move it away (mv {path} /root/), and run this again"),
                ),
            },
        };
        Ok(Some(Foreign { whose, remove }))
    }
}
