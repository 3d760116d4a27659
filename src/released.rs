//! Whether a version was released at all: asked of the release server when something of it is not there.
//!
//! kpot's own data know minors and not their newest patches, which change monthly. So a version that was never released is noticed only when a server has nothing of it, and
//! then the marker of its minor names the newest one. It vouches for nothing, and nothing is built of another version than the one that was asked for.

use bundle_spec::KubeVersion;

use crate::fetch::marker::Marker;
use crate::fetch::{Client, FetchError};
use crate::progress::Progress;

/// What is to be said of `version`, where `error` says that a server has not got something with this version in its address.
pub fn doubt(
    version: KubeVersion,
    error: &anyhow::Error,
    client: &Client,
    progress: &Progress,
) -> Option<String> {
    let mut causes = error.chain();
    let missing = causes.find_map(|cause| cause.downcast_ref::<FetchError>()?.missing())?;
    if !missing.contains(&version.to_string()) {
        return None;
    }
    newest(version, client, progress).unwrap_or_else(|_| {
        Some(format!(
            "is {version} a release? --k8s 1.{} takes the latest of its patches",
            version.minor
        ))
    })
}

/// What is to be said of `version`, where it is later than the newest one.
///
/// # Errors
/// [`FetchError`] where the release server does not tell the newest one.
pub fn newest(
    version: KubeVersion,
    client: &Client,
    progress: &Progress,
) -> Result<Option<String>, FetchError> {
    let marker = Marker::StableOf(version.minor);
    let task = progress.task(&marker.to_string(), None);
    let newest = marker.resolve(client, &task)?;
    Ok((newest.version.patch < version.patch).then(|| {
        format!(
            "{version} was not released: the newest of 1.{} is {}, as {} says; --k8s {} takes that one",
            version.minor, newest.version, newest.from, newest.version
        )
    }))
}
