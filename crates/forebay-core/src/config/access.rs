//! The part of the configuration that is about who may log in how: rules by address, and maps of names.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::AuthMethod;
use crate::auth::{ITERATIONS_DEFAULT, ITERATIONS_MAX};

/// Who may log in how. Without rules, one method holds for all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// The first that fits a client decides; one that none fits is turned away. `None`: there are no rules.
    pub rules: Option<Vec<AccessRule>>,
    /// Which user of the system, or of a certificate, may log in as whom.
    pub maps: Vec<MapLine>,
    /// Without rules, the directory or service that is asked, as in a rule.
    pub service: u32,
    /// Iterations of verifiers derived from plain passwords; 0: as PostgreSQL.
    pub scram_iterations: u32,
}

impl Access {
    /// Iterations of verifiers that are derived here.
    pub fn iterations(&self) -> u32 {
        if self.scram_iterations == 0 { ITERATIONS_DEFAULT } else { self.scram_iterations.min(ITERATIONS_MAX) }
    }
}

/// A line of pg_hba.conf.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// Where it stands, for the log.
    pub place: Arc<str>,
    /// Which connections it is about.
    pub kind: ConnectionKind,
    /// Any of them.
    pub databases: Vec<NamePattern>,
    /// Any of them.
    pub users: Vec<NamePattern>,
    /// Address and mask; `None`: all.
    pub network: Option<(IpAddr, IpAddr)>,
    /// What is asked of the client.
    pub method: AuthMethod,
    /// The map that is looked at, for `cert` and `peer`.
    pub map: Option<Arc<str>>,
    /// What the client's certificate must be besides.
    pub certificate: CertificateDemand,
    /// The directory or service that is asked, for `ldap` and `pam`: the number that Python knows
    /// it by, which is never that of another.
    pub service: u32,
}

/// The first word of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionKind {
    /// Over a Unix socket.
    Local,
    /// Over TCP.
    Host,
    /// Over TCP, encrypted.
    HostSsl,
    /// Over TCP, not encrypted.
    HostNoSsl,
}

/// A name in a rule, or in a map.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamePattern {
    /// Every name; for a database, not physical replication.
    All,
    /// The database that is called as the user.
    SameUser,
    /// Physical replication, whatever database is named.
    Replication,
    /// This name.
    Name(Arc<str>),
    /// Names that hold a match of this regular expression.
    Regex(Arc<str>),
}

/// What `clientcert` asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateDemand {
    /// Nothing.
    #[default]
    None,
    /// A certificate of a known authority.
    VerifyCa,
    /// One whose common name is the user's.
    VerifyFull,
}

/// A line of pg_ident.conf.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapLine {
    /// The map it belongs to.
    pub map: Arc<str>,
    /// Who the system, or the certificate, says it is: a name or a regular expression.
    pub system: NamePattern,
    /// As whom it may log in. A name may hold `\1`, where `system` is a regular expression.
    pub user: NamePattern,
}

/// Where the secrets of one database's users are looked up.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretLookup {
    /// Python can tell the secrets of users that are not known beforehand.
    pub is_asked: bool,
    /// The database it asks, where that is another one.
    pub dbname: Option<Arc<str>>,
}
