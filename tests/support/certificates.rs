//! A private authority, and certificates of servers that it made: real ones, new in every run.

use std::path::Path;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// An authority that nobody trusts by default.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// For how long a certificate is good.
#[derive(Clone, Copy)]
pub enum Validity {
    Good,
    Expired,
    NotYet,
}

impl Authority {
    pub fn new() -> Self {
        Self::named(&[])
    }

    /// One whose own certificate names these servers, as people make it who make but one.
    pub fn named(servers: &[&str]) -> Self {
        // Installed already where another test of this process was first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let names: Vec<String> = servers.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "kpot test authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes the certificate of the authority to `path`, for `--cacert`.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.pem()).unwrap();
    }

    /// What a server for `name` needs.
    pub fn server(&self, name: &str, validity: Validity) -> ServerConfig {
        let (certificate, key) = self.issue(name, validity);
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap()
    }

    /// What a server needs that shows the authority's own certificate.
    pub fn own_server(&self) -> ServerConfig {
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![self.0.der().clone()],
                PrivateKeyDer::Pkcs8(self.0.key().serialize_der().into()),
            )
            .unwrap()
    }

    /// The same as PEM, for a server that is another program: its certificate and its key.
    pub fn pems(&self, name: &str) -> (String, String) {
        let (certificate, key) = self.issue(name, Validity::Good);
        (certificate.pem(), key.serialize_pem())
    }

    fn issue(&self, name: &str, validity: Validity) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let (from, to) = match validity {
            Validity::Good => (2020, 2090),
            Validity::Expired => (2019, 2020),
            Validity::NotYet => (2089, 2090),
        };
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}
