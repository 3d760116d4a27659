//! Which package a file belongs to.

use anyhow::Result;

use crate::host::HostView;
use crate::host::probe::Probe;

/// The package that owns `path`; nothing where none does or this machine has neither dpkg nor rpm.
pub fn owner(host: &HostView, path: &str) -> Result<Option<String>> {
    if host.program("dpkg-query").is_some() {
        // Exit status 1 is "no package owns it". The answer is "name: path", or "name:arch: path" where several architectures are installed.
        let answer = host.probe(&Probe::dpkg_owner(path))?;
        if answer.ok()
            && let Some((name, _)) = answer
                .text()
                .lines()
                .next()
                .unwrap_or_default()
                .rsplit_once(": ")
        {
            return Ok(Some(name.to_owned()));
        }
    }
    if host.program("rpm").is_some() {
        let answer = host.probe(&Probe::rpm_owner(path))?;
        if answer.ok() {
            return Ok(answer.text().lines().next().map(str::to_owned));
        }
    }
    Ok(None)
}
