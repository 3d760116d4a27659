//! How long a kubeconfig of this machine is good for: when its client certificate ends.

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::control_plane::credentials::{decode_base64, expiry};
use crate::host::HostView;

/// What a kubeconfig's user shows to get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificate {
    /// There is no such file.
    NoFile,
    /// A certificate that is valid until then.
    Ends(SystemTime),
    /// Something else: a token, or a program that gives one.
    Another,
}

/// The client certificate of the kubeconfig at `path`.
///
/// # Errors
/// It cannot be read, is no kubeconfig, or has a certificate that is none or is gone.
pub(crate) fn client_certificate(host: &HostView, path: &str) -> Result<ClientCertificate> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct KubeConfig {
        users: Vec<Named>,
        #[serde(default)]
        contexts: Vec<Context>,
        #[serde(default)]
        current_context: String,
    }
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        name: String,
        user: User,
    }
    #[derive(Deserialize)]
    struct Context {
        name: String,
        context: Whose,
    }
    #[derive(Deserialize)]
    struct Whose {
        #[serde(default)]
        user: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "kebab-case", default)]
    struct User {
        client_certificate_data: Option<String>,
        client_certificate: Option<String>,
    }
    let Some(text) = host.text(path)? else {
        return Ok(ClientCertificate::NoFile);
    };
    let config: KubeConfig =
        serde_saphyr::from_str(&text).context("it does not parse as a kubeconfig")?;
    let mut contexts = config.contexts.iter();
    let current = contexts.find(|one| one.name == config.current_context);
    let current = current.map(|one| one.context.user.as_str());
    let mut users = config.users.iter();
    let user = users
        .find(|user| current.is_none_or(|name| user.name == name))
        .context("it names no user")?;
    let user = &user.user;
    if let Some(data) = &user.client_certificate_data {
        return ends(&decode_base64(data)?).map(ClientCertificate::Ends);
    }
    let Some(file) = &user.client_certificate else {
        return Ok(ClientCertificate::Another);
    };
    let pem = host
        .read(file)?
        .with_context(|| format!("it names {file}, which is gone"))?;
    ends(&pem)
        .with_context(|| file.clone())
        .map(ClientCertificate::Ends)
}

/// When the first of the certificates in a file ends that may hold a key beside them.
///
/// # Errors
/// There is none, or one of them is damaged.
pub(crate) fn ends(pem: &[u8]) -> Result<SystemTime> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(pem);
    let blocks: Vec<&str> = text
        .split_inclusive(END)
        .filter_map(|part| Some(&part[part.find("-----BEGIN CERTIFICATE-----")?..]))
        .collect();
    ensure!(!blocks.is_empty(), "it holds no certificate");
    let mut first = None;
    for block in blocks {
        let end = expiry(block.as_bytes())?;
        first = Some(first.map_or(end, |first: SystemTime| first.min(end)));
    }
    first.context("it holds no certificate")
}
