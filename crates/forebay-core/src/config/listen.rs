//! The part of the configuration that is about connections: where clients' come in, and as what; how they are kept, and
//! how hosts are found.

use std::sync::Arc;

use serde::Deserialize;

use super::{TlsMode, TlsOffers};

/// Where clients connect.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// IP addresses, `[]` removed.
    pub addresses: Vec<String>,
    /// TCP port, and the number in the Unix socket's name. 0: the system chooses (tests).
    pub port: u16,
    /// Folder of the Unix socket `.s.PGSQL.<port>`.
    pub unix: Option<String>,
    /// Its mode.
    pub unix_mode: u32,
    /// Its group, by number; `None`: that of the process.
    pub unix_group: Option<u32>,
    /// listen(2) backlog.
    pub backlog: u32,
    /// Other processes of the same user may listen on the same addresses.
    pub reuse_port: bool,
    /// Networks, as `address/length`, whose connections begin with a header of the PROXY protocol.
    pub proxy_from: Vec<Arc<str>>,
    /// TLS towards clients; `None`: SSLRequest is answered `N`.
    pub tls: Option<ListenTls>,
}

/// How TCP connections are kept, to clients and to servers. The runtime hands it to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpOptions {
    /// The system asks a silent peer whether it is there.
    pub keepalive: bool,
    /// Silence before the first question; 0: the system's.
    pub keepalive_idle: u64,
    /// Time between questions; 0: the system's.
    pub keepalive_interval: u64,
    /// Unanswered questions after which the peer is gone; 0: the system's.
    pub keepalive_count: u32,
    /// How long sent bytes may stay unacknowledged; 0: the system's.
    pub user_timeout: u64,
    /// Bytes of the system's buffers, each way; 0: the system's.
    pub socket_buffer: u32,
    /// A client is accepted once it has sent something.
    pub defer_accept: bool,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions {
            keepalive: true,
            keepalive_idle: 60_000_000,
            keepalive_interval: 10_000_000,
            keepalive_count: 6,
            // The kernel applies it to a peer with a closed window too, so that it must be longer than any reader may
            // pause: shorter values kill `psql | less`.
            user_timeout: 900_000_000,
            socket_buffer: 0,
            defer_accept: true,
        }
    }
}

/// TLS towards clients. The runtime loads the files.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenTls {
    /// PEM file with the chain.
    pub certificate: String,
    /// PEM file with the key.
    pub key: String,
    /// CA file for client certificates.
    pub ca: Option<String>,
    /// prefer, require, verify-ca, verify-full (client certificate required by the last two).
    pub mode: TlsMode,
    /// What is offered.
    #[serde(default)]
    pub offers: TlsOffers,
}

/// What becomes of what clients ask for at their login.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrivals {
    /// Startup parameters that are dropped, by names in lower case.
    pub ignored_parameters: Vec<Arc<str>>,
    /// A client's address is put behind its application_name.
    pub is_name_with_address: bool,
    /// A notice for each client that is logged in; empty: none.
    pub login_notice: Arc<str>,
}

/// How long the addresses of names hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsOptions {
    /// Age at which a name is looked up again.
    pub max_ttl: u64,
    /// How long a name that was not found is not looked up again.
    pub nxdomain_ttl: u64,
}

impl Default for DnsOptions {
    fn default() -> DnsOptions {
        DnsOptions { max_ttl: 15_000_000, nxdomain_ttl: 15_000_000 }
    }
}
