//! A certificate authority that lives for one test run.
//!
//! The sandbox reaches the model server under the API's real name through the gateway, which judges the name in
//! the ClientHello; so the server must speak TLS under that name, and the agent must trust it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rcgen::{KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A name that no agent knows.
pub const NEUTRAL: &str = "model.example";

/// The names under which agents know their API, and those under which they do not.
const NAMES: [&str; 5] = ["api.anthropic.com", "api.openai.com", NEUTRAL, "localhost", "127.0.0.1"];

/// The authority and the server certificate it issued.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    config: Arc<ServerConfig>,
}

impl Authority {
    /// Makes an authority with fresh keys and issues the server's certificate.
    ///
    /// # Errors
    /// Key generation or signing failed.
    pub fn new() -> anyhow::Result<Self> {
        let issuer =
            CertifiedIssuer::self_signed(authority_parameters(), key()?).context("sign authority")?;
        let server_key = key()?;
        let names = NAMES.map(str::to_owned);
        let server = CertificateParams::new(names)?.signed_by(&server_key, &issuer).context("sign server")?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone(), issuer.der().clone()], private)
            .context("server certificate")?;
        Ok(Self { certificate: issuer.pem(), config: Arc::new(config) })
    }

    /// Writes the authority's certificate, for the variables by which agents learn whom to trust.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, &self.certificate).with_context(|| format!("write {}", path.display()))
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

fn key() -> anyhow::Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("generate key")
}

fn authority_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "skep tests: throw-away authority");
    parameters.distinguished_name = name;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    parameters
}
