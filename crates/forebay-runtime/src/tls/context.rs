//! Certificates and rules in force, loaded from files as a whole: at the start and at each reload.

use std::fmt;
use std::sync::Arc;

use forebay_core::config::{EngineConfig, ListenTls, ServerTls, TlsMode};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use super::certificate::end_point_hash;
use super::offers::provider;

/// What both sides say they speak (PostgreSQL 17 and newer; required with direct TLS).
pub(super) const ALPN: &[u8] = b"postgresql";

/// With so many settings towards servers, none of earlier configurations is kept.
const CONNECTING_MAX: usize = 256;

/// A TLS file that could not be used.
#[derive(Debug)]
pub struct TlsError {
    /// The setting, such as `listen.tls.certificate` or `server_tls[0].ca`.
    pub setting: String,
    /// The file.
    pub path: String,
    /// Why not: no secret in it.
    pub cause: String,
}

impl TlsError {
    fn new(table: &str, name: &str, path: &str, cause: String) -> TlsError {
        TlsError { setting: format!("{table}.{name}"), path: path.to_owned(), cause }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\": {}", self.setting, self.path, self.cause)
    }
}

impl std::error::Error for TlsError {}

/// Towards clients.
pub(crate) struct Accepting {
    pub(crate) config: Arc<ServerConfig>,
    /// Of our certificate.
    pub(crate) certificate_hash: Arc<[u8]>,
}

/// All of it; by default, no TLS at all.
#[derive(Default)]
pub(crate) struct Contexts {
    pub(crate) accepting: Option<Accepting>,
    /// By the settings. Those where TLS is disabled are not here; those of earlier configurations are at the end.
    pub(crate) connecting: Vec<(ServerTls, Arc<ClientConfig>)>,
}

impl Contexts {
    pub(crate) fn load(config: &EngineConfig) -> Result<Contexts, TlsError> {
        let listen = config.listen.tls.as_ref().filter(|tls| tls.mode != TlsMode::Disable);
        let accepting = listen.map(load_accepting).transpose()?;
        let connecting = config
            .server_tls
            .iter()
            .enumerate()
            .filter(|(_, tls)| tls.mode != TlsMode::Disable)
            .map(|(i, tls)| {
                let config = load_connecting(tls, &format!("server_tls[{i}]"))?;
                Ok((tls.clone(), Arc::new(config)))
            })
            .collect::<Result<_, _>>()?;
        Ok(Contexts { accepting, connecting })
    }

    /// What connections to servers with these settings are encrypted by.
    pub(crate) fn connecting(&self, tls: &ServerTls) -> Option<&Arc<ClientConfig>> {
        self.connecting.iter().find(|(other, _)| other == tls).map(|(_, config)| config)
    }

    /// Keeps what only an earlier configuration has: its servers in use are still sent cancels.
    pub(crate) fn keep(&mut self, before: &Contexts) {
        for (tls, config) in &before.connecting {
            if self.connecting.len() < CONNECTING_MAX && self.connecting(tls).is_none() {
                self.connecting.push((tls.clone(), config.clone()));
            }
        }
    }
}

fn load_accepting(tls: &ListenTls) -> Result<Accepting, TlsError> {
    let error = |name: &str, path: &str, cause: String| TlsError::new("listen.tls", name, path, cause);
    let (provider, versions) = provider(&tls.offers).map_err(|c| error("ciphers", "", c))?;
    let provider = &provider;
    let chain = read_certificates(&tls.certificate).map_err(|c| error("certificate", &tls.certificate, c))?;
    let key = read_key(&tls.key).map_err(|c| error("key", &tls.key, c))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|e| error("protocols", "", e.to_string()))?;
    let builder = match &tls.ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let roots = Arc::new(roots_from(&read_certificates(ca).map_err(|c| error("ca", ca, c))?));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
            let is_required = matches!(tls.mode, TlsMode::VerifyCa | TlsMode::VerifyFull);
            let verifier = if is_required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| error("ca", ca, e.to_string()))?)
        }
    };
    let certificate_hash = end_point_hash(&chain[0]);
    let mut config =
        builder.with_single_cert(chain, key).map_err(|e| error("key", &tls.key, format!("does not fit: {e}")))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // OpenSSL's clients put AES-256 first, whatever it costs.
    config.ignore_client_order = true;
    // Tickets that any worker can open; one is enough, as a client that resumes gets a new one.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()
        .map_err(|e| error("certificate", &tls.certificate, e.to_string()))?;
    config.send_tls13_tickets = 1;
    // Connections move to another process: see `carried`.
    config.enable_secret_extraction = true;
    Ok(Accepting { config: Arc::new(config), certificate_hash })
}

fn load_connecting(tls: &ServerTls, setting: &str) -> Result<ClientConfig, TlsError> {
    let error = |name: &str, path: &Option<String>, cause: String| {
        TlsError::new(setting, name, path.as_deref().unwrap_or_default(), cause)
    };
    let (provider, versions) = provider(&tls.offers).map_err(|c| error("ciphers", &None, c))?;
    let provider = &provider;
    let ca = match &tls.ca {
        None => None,
        Some(path) => Some(read_certificates(path).map_err(|c| error("ca", &tls.ca, c))?),
    };
    let verifier = verifier(tls.mode, ca, provider).map_err(|c| error("ca", &tls.ca, c))?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|e| error("protocols", &None, e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let chain = read_certificates(certificate).map_err(|c| error("certificate", &tls.certificate, c))?;
            let key = read_key(key).map_err(|c| error("key", &tls.key, c))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| error("key", &tls.key, e.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = true;
    Ok(config)
}

/// libpq's words: require and less take any certificate, but require with a CA is verify-ca.
fn verifier(
    mode: TlsMode,
    ca: Option<Vec<CertificateDer<'static>>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let demands = match mode {
        TlsMode::VerifyFull => Demands::ChainAndName,
        TlsMode::VerifyCa => Demands::Chain,
        TlsMode::Require if ca.is_some() => Demands::Chain,
        _ => return Ok(Arc::new(AnyCertificate(provider.clone()))),
    };
    let (roots, pinned) = match ca {
        Some(ca) => (roots_from(&ca), ca),
        None => (system_roots()?, Vec::new()),
    };
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| e.to_string())?;
    Ok(Arc::new(KnownAuthority { webpki, pinned, demands }))
}

fn read_certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| format!("cannot be read: {e}"))?;
    if chain.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(chain) }
}

fn read_key(path: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| format!("holds no private key: {e}"))
}

fn roots_from(certificates: &[CertificateDer<'static>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // A file may hold more than authorities; what is none can't verify anything.
    roots.add_parsable_certificates(certificates.iter().cloned());
    roots
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let roots = roots_from(&found.certs);
    if roots.is_empty() { Err("the system has no certificate authorities; name a file".to_owned()) } else { Ok(roots) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demands {
    Chain,
    ChainAndName,
}

/// A certificate signed by one of our authorities, or itself among them: as OpenSSL does, which many a test
/// server with one self-signed certificate relies on.
#[derive(Debug)]
struct KnownAuthority {
    webpki: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
    demands: Demands,
}

impl ServerCertVerifier for KnownAuthority {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.contains(certificate) {
            if self.demands == Demands::ChainAndName {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match self.webpki.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at after the chain.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.demands == Demands::Chain => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Encryption without knowing whom we talk to.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
