//! One whole `kubeadm join`, with a token and certificates made for it a moment before.
//!
//! kubeadm reads its configuration from standard input, so the token and the key never stand in a file, an argument or a variable. It prints to a file of ours and goes on
//! to its end if this program is killed: a join that stops between "member added" and "etcd started" could cost a small cluster its quorum.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::admission::{self, Admission};
use super::{Joining, REVOKED, Standing, UPLOADING, uploaded_by_us};
use crate::control_plane::Cluster;
use crate::control_plane::credentials::{self, Briefing, ca_hash};
use crate::host::Host;
use crate::host::command::{Cmd, Secret};
use crate::journal::Change;
use crate::kubernetes::{Certificates, DiscoveryTimeout, ExtraArgs};
use crate::preflight::kernel::SYSTEM_VERIFICATION;
use crate::rollback::footprint;
use crate::step::{Place, Reversal, State, Step, View, World};

/// The longest that `kubeadm join` may take; by hand it took 9 to 17 s on two cores, and kubeadm's own limits add up to some nine minutes.
const LIMIT: Duration = Duration::from_secs(600);

/// The step's name, by which the journal knows that a join came to its end.
pub const ID: &str = "kubeadm-join";

/// See the module.
pub struct KubeadmJoin {
    joining: Joining,
}

impl KubeadmJoin {
    /// A join of this machine.
    pub fn new(joining: Joining) -> Self {
        Self { joining }
    }

    /// kubeadm's configuration. JSON is YAML, so no YAML is written here.
    fn configuration(&self, token: &Secret, certificate_key: Option<&Secret>) -> Secret {
        let joining = &self.joining;
        let kubeadm = joining.traits().kubeadm;
        let kubelet_args = match (joining.node_ip(), kubeadm.extra_args) {
            (Some(address), ExtraArgs::Map) => json!({ "node-ip": address }),
            (Some(address), ExtraArgs::List) => json!([{ "name": "node-ip", "value": address }]),
            (None, ExtraArgs::Map) => json!({}),
            (None, ExtraArgs::List) => json!([]),
        };
        let mut control_plane = json!({
            "localAPIEndpoint": { "advertiseAddress": joining.address, "bindPort": joining.cluster.apiserver_port },
        });
        if let Some(key) = certificate_key {
            control_plane["certificateKey"] = json!(key.expose_str());
        }
        let mut config: Value = json!({
            "apiVersion": kubeadm.api,
            "kind": "JoinConfiguration",
            "caCertPath": format!("{}/ca.crt", joining.cluster.config.certificates_dir),
            "discovery": {
                "bootstrapToken": {
                    "token": token.expose_str(),
                    "apiServerEndpoint": joining.discovery,
                    "caCertHashes": [joining.cluster.ca_hash],
                },
                "tlsBootstrapToken": token.expose_str(),
            },
            "nodeRegistration": {
                "name": joining.node,
                "criSocket": joining.cri_socket(),
                "kubeletExtraArgs": kubelet_args,
            },
            "controlPlane": control_plane,
        });
        let place = match kubeadm.discovery_timeout {
            DiscoveryTimeout::InDiscovery => &mut config["discovery"]["timeout"],
            DiscoveryTimeout::InTimeouts => &mut config["timeouts"]["discovery"],
        };
        *place = json!("2m0s");
        Secret::new(config.to_string())
    }

    /// Puts the shared certificates in place, where kubeadm cannot do it without showing its key to everybody.
    fn place_certificates(&self, host: &Host<'_>, cluster: &Cluster, key: &Secret) -> Result<()> {
        let folder = &self.joining.cluster.config.certificates_dir;
        for (name, content) in credentials::fetch_certs(cluster.view(), key)? {
            host.write_secret(&self.place_of(&name), content.expose(), mode_of(&name))?;
        }
        let written = host
            .view()
            .read(&format!("{folder}/ca.crt"))?
            .unwrap_or_default();
        let hash = ca_hash(&written)?;
        ensure!(
            hash == self.joining.cluster.ca_hash,
            "the CA that came with the shared certificates ({hash}) is not the cluster's ({})",
            self.joining.cluster.ca_hash
        );
        Ok(())
    }

    /// External etcd's client files lie where the cluster's configuration says, the others in the folder of certificates.
    fn place_of(&self, name: &str) -> String {
        let config = &self.joining.cluster.config;
        match (&config.etcd.external, name) {
            (Some(external), "external-etcd-ca.crt") => external.ca_file.clone(),
            (Some(external), "external-etcd.crt") => external.cert_file.clone(),
            (Some(external), "external-etcd.key") => external.key_file.clone(),
            _ => format!("{}/{name}", config.certificates_dir),
        }
    }

    /// The shared certificates of a cluster whose kubeadm cannot upload them (1.13), file by file.
    fn copy_certificates(&self, host: &Host<'_>, cluster: &Cluster) -> Result<()> {
        let folder = &self.joining.cluster.config.certificates_dir;
        let stacked: &[&str] = if self.joining.cluster.etcd.is_some() {
            &["etcd/ca.crt", "etcd/ca.key"]
        } else {
            &[]
        };
        for name in credentials::SHARED.iter().chain(stacked) {
            let path = format!("{folder}/{name}");
            let content = cluster
                .view()
                .file(&path)?
                .with_context(|| format!("{} has no {path}", cluster.view().address()))?;
            host.write_secret(&path, Secret::new(content).expose(), mode_of(name))?;
        }
        Ok(())
    }
}

/// As kubeadm itself writes them: private keys for root alone.
fn mode_of(name: &str) -> u32 {
    if name.rsplit_once('.').is_some_and(|(_, kind)| kind == "key") {
        0o600
    } else {
        0o644
    }
}

impl Step for KubeadmJoin {
    fn id(&self) -> &'static str {
        ID
    }

    fn summary(&self) -> String {
        format!(
            "{} is a control-plane node at {}",
            self.joining.node, self.joining.address
        )
    }

    fn place(&self) -> Place {
        Place::Cluster
    }

    fn reversal(&self) -> Reversal {
        Reversal::Reset
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        Ok(match self.joining.standing(view)? {
            Standing::Whole => State::Satisfied,
            Standing::Nothing => State::Pending(format!(
                "kubeadm join, by way of {}",
                self.joining.discovery
            )),
            Standing::Partial(traces) => {
                State::Pending(format!("after what is half done: {}", traces.join(", ")))
            }
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let cluster = world.cluster.context("this workflow has no cluster")?;
        let joining = &self.joining;
        if let Standing::Partial(traces) = joining.standing(world.view())? {
            bail!(
                "something came in the way of the join: {}",
                traces.join(", ")
            );
        }
        // What a killed run left first: kubeadm would write over its Secret, and then nobody could tell any more whose it is.
        let uploaded = uploaded_by_us(&joining.state)?;
        let left = credentials::left_over(cluster.view(), &joining.node, uploaded)?;
        credentials::revoke(cluster, &left.ours)?;
        if uploaded.is_some() {
            world.host.note(Change::Cluster {
                what: REVOKED.to_owned(),
            })?;
        }
        let there = if left.ours.is_empty() {
            left.others_certs
        } else {
            cluster.view().uploaded_certs()?
        };
        if let Some(created) = there {
            bail!(
                "the Secret kubeadm-certs appeared at {created}: somebody else is joining a master right now. Wait for that join, then run this again"
            );
        }
        world.host.note(Change::Cluster {
            what: format!(
                "make a bootstrap token: {}",
                credentials::description(&joining.node)
            ),
        })?;
        let (traits, config_text) = (joining.traits(), joining.cluster.config_for_kubeadm());
        let briefing = Briefing {
            kubeadm: &traits.kubeadm,
            config_text: &config_text,
            node: &joining.cluster.healthy,
            cri_socket: &joining.cluster.cri_socket,
        };
        let certificates = traits.kubeadm.certificates;
        let upload = || {
            if certificates == Certificates::Copied {
                return Ok(None);
            }
            world.host.note(Change::Cluster {
                what: UPLOADING.to_owned(),
            })?;
            credentials::upload_certs(cluster, briefing).map(Some)
        };
        let node = joining.node.as_str();
        let made = cluster.view().both(
            || credentials::create_token(cluster, briefing, node),
            upload,
        );
        let (token, uploaded) = match made {
            (Err(token), Err(upload)) => {
                return Err(upload.context(format!("{token:#}; and")));
            }
            (token, uploaded) => (token?, uploaded?),
        };
        let key = match certificates {
            Certificates::Copied => {
                self.copy_certificates(world.host, cluster)?;
                None
            }
            Certificates::DecryptedHere => {
                let key = uploaded.context("the certificates were uploaded")?;
                self.place_certificates(world.host, cluster, &key)?;
                None
            }
            Certificates::KeyInConfig => uploaded,
        };
        let mut args = vec![
            "join".to_owned(),
            "--config".to_owned(),
            "/dev/stdin".to_owned(),
        ];
        if joining.ignored.is_some() {
            args.push(format!("--ignore-preflight-errors={SYSTEM_VERIFICATION}"));
        }
        let config = self.configuration(&token, key.as_ref());
        let cmd = Cmd::new("kubeadm", args)
            .stdin(config.expose())
            .timeout(LIMIT)
            .outlive(joining.kubeadm_log());
        let mut own_places = vec![joining.cluster.config.certificates_dir.as_str()];
        own_places.extend(joining.cluster.config.etcd.data_dir());
        footprint::announce(world.host, &footprint::MASTER, &own_places)?;
        footprint::announce_unit(world.host, "kubelet.service")?;
        let mut admission = Admission::since_now(&joining.node);
        let joined = world.host.run_watched(
            &cmd,
            Change::Join {
                node: joining.node.clone(),
                address: joining.address.clone(),
            },
            admission::PAUSE,
            &mut |host| admission.look(host),
        );
        joined.with_context(|| {
            format!(
                "kubeadm did not join this machine; its whole output is in {}",
                joining.kubeadm_log().display()
            )
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use bundle_spec::KubeVersion;

    use super::super::fixtures;
    use super::*;
    use crate::runtime::Runtime;

    fn configuration(minor: u16, key: Option<&Secret>) -> Value {
        let mut joining = fixtures::joining(Rc::new(fixtures::cluster()));
        joining.kubernetes = KubeVersion::new(1, minor, 0);
        if minor >= 24 {
            joining.runtime = Runtime::Containerd;
        }
        let config =
            KubeadmJoin::new(joining).configuration(&Secret::new("abcdef.0123456789abcdef"), key);
        serde_json::from_slice(config.expose()).unwrap()
    }

    #[test]
    fn a_node_is_where_the_other_nodes_are() {
        let node_ip = |advertised: &str, nodes: &[(&str, &str)]| {
            let mut cluster = fixtures::cluster();
            cluster.advertised = Some(advertised.parse().unwrap());
            let known = nodes
                .iter()
                .map(|(name, address)| fixtures::node(name, address));
            cluster.nodes.extend(known);
            let mut joining = fixtures::joining(Rc::new(cluster));
            joining.local = vec!["10.0.0.21".to_owned(), "192.168.1.21".to_owned()];
            joining.node_ip().map(str::to_owned)
        };
        assert_eq!(node_ip("10.0.0.11", &[]).as_deref(), Some("10.0.0.21"));
        // The API servers have a network of their own: the kubelet chooses, as under plain kubeadm.
        assert_eq!(node_ip("172.16.0.11", &[]), None);
        let own = [("b1", "192.168.1.21")];
        assert_eq!(
            node_ip("172.16.0.11", &own).as_deref(),
            Some("192.168.1.21")
        );
        assert_eq!(node_ip("172.16.0.11", &[("b1", "192.168.1.22")]), None);
    }

    #[test]
    fn the_configuration_is_of_the_api_that_the_version_reads() {
        let old = configuration(14, None);
        assert_eq!(old["apiVersion"], "kubeadm.k8s.io/v1beta1");
        assert_eq!(
            old["controlPlane"].get("certificateKey"),
            None,
            "1.14 has no such field"
        );
        assert_eq!(
            old["nodeRegistration"]["kubeletExtraArgs"]["node-ip"],
            "10.0.0.21"
        );
        let key = Secret::new("00");
        let newer = configuration(20, Some(&key));
        assert_eq!(newer["apiVersion"], "kubeadm.k8s.io/v1beta2");
        assert_eq!(newer["controlPlane"]["certificateKey"], "00");
        assert_eq!(newer["discovery"]["timeout"], "2m0s");
        assert_eq!(newer.get("timeouts"), None);
        let newest = configuration(34, Some(&key));
        assert_eq!(newest["apiVersion"], "kubeadm.k8s.io/v1beta4");
        assert_eq!(newest["timeouts"]["discovery"], "2m0s");
        assert_eq!(
            newest["discovery"].get("timeout"),
            None,
            "v1beta4 has no such field"
        );
        assert_eq!(
            newest["nodeRegistration"]["criSocket"],
            "unix:///run/containerd/containerd.sock"
        );
        assert_eq!(
            newest["nodeRegistration"]["kubeletExtraArgs"][0]["name"],
            "node-ip"
        );
        assert_eq!(
            newest["discovery"]["bootstrapToken"]["caCertHashes"][0],
            "sha256:aa"
        );
    }
}
