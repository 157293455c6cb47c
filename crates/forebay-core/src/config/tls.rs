//! The part of the configuration that is about encryption. The runtime loads the files and makes the offers.

use std::sync::Arc;

use serde::Deserialize;

/// libpq's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Never.
    Disable,
    /// Plain first; TLS if the peer insists.
    Allow,
    /// TLS if the peer can.
    Prefer,
    /// TLS, unverified.
    Require,
    /// TLS, certificate of a known authority.
    VerifyCa,
    /// TLS, and the name matches.
    VerifyFull,
}

/// What is offered to a peer, each list in the order of preference; an empty one is the library's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsOffers {
    /// `1.2`, `1.3`.
    pub versions: Vec<Arc<str>>,
    /// By IANA's names, those of 1.3 among them.
    pub suites: Vec<Arc<str>>,
    /// Groups of the key exchange, by IANA's names.
    pub groups: Vec<Arc<str>>,
}

/// TLS towards servers. The runtime loads the files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// How much of it.
    pub mode: TlsMode,
    /// CA file; `None`: the system's roots for verify-full, no check for less.
    pub ca: Option<String>,
    /// Our certificate.
    pub certificate: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// What is offered.
    #[serde(default)]
    pub offers: TlsOffers,
}

impl Default for ServerTls {
    /// None.
    fn default() -> ServerTls {
        let offers = TlsOffers::default();
        ServerTls { mode: TlsMode::Disable, ca: None, certificate: None, key: None, offers }
    }
}
