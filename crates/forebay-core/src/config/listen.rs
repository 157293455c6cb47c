//! The part of the configuration that is about connections: where clients' come in, and as what; how they are kept, and
//! how hosts are found.

use std::sync::Arc;
use std::time::Duration;

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
    /// A server that acknowledges nothing for so long is given up; 0: what the other times come to.
    pub server_dead_after: u64,
    /// Bytes of the system's buffers, each way; 0: the system's.
    pub socket_buffer: u32,
    /// A client is accepted once it has sent something.
    pub defer_accept: bool,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions {
            keepalive: true,
            keepalive_idle: 15_000_000,
            keepalive_interval: 5_000_000,
            keepalive_count: 3,
            // Where it is set, the kernel ends a peer with a closed window by it too, such as `psql | less`, and one that
            // does not answer by it alone, however few questions `keepalive_count` allows.
            user_timeout: 0,
            server_dead_after: 5_000_000,
            socket_buffer: 0,
            defer_accept: true,
        }
    }
}

impl TcpOptions {
    /// After how much silence a client that is asked whether it is there is taken for dead; `None`: that is the system's.
    pub fn client_dead_after(&self) -> Option<Duration> {
        let (idle, interval) =
            (Duration::from_micros(self.keepalive_idle), Duration::from_micros(self.keepalive_interval));
        let is_known = self.keepalive && !idle.is_zero() && !interval.is_zero() && self.keepalive_count > 0;
        is_known.then(|| idle + interval * self.keepalive_count)
    }

    /// The same for connections to servers: asked so often that one that is gone is known after `server_dead_after`.
    pub fn towards_servers(self) -> TcpOptions {
        const SECOND: u64 = 1_000_000;
        let seconds = self.server_dead_after.div_ceil(SECOND);
        if seconds == 0 || !self.keepalive {
            return self;
        }
        let interval = (seconds / 5).max(1);
        let count = ((seconds - 1) / interval).clamp(1, 3);
        TcpOptions {
            keepalive_idle: seconds.saturating_sub(interval * count).max(1) * SECOND,
            keepalive_interval: interval * SECOND,
            keepalive_count: count as u32,
            ..self
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

#[cfg(test)]
mod tests {
    use super::*;

    /// One second too few and a busy network kills what works; too many and clients wait for a server that is gone.
    #[test]
    fn a_server_that_is_silent_is_given_up_when_it_was_said() {
        for (seconds, most) in [(1, 2), (2, 2), (3, 3), (5, 5), (10, 10), (60, 60)] {
            let options = TcpOptions { server_dead_after: seconds * 1_000_000, ..TcpOptions::default() };
            let dead_after = options.towards_servers().client_dead_after().expect("it is known");
            assert!(dead_after.as_secs() <= most && dead_after.as_secs() >= seconds, "{seconds}: {dead_after:?}");
        }
        let never = TcpOptions { server_dead_after: 0, ..TcpOptions::default() };
        assert_eq!(never.towards_servers(), never);
    }
}
