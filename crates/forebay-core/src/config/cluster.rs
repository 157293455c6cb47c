//! What a database has of the cluster that its endpoints are.

use serde::Deserialize;

/// What a database has of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Which endpoints serve its clients.
    pub role: Role,
    /// Reads of its clients go to the replicas.
    pub is_split: bool,
    /// What those reads see, unless their session says otherwise.
    pub read_consistency: Consistency,
    /// A read whose server is lost is made again, once.
    pub retries_reads: bool,
    /// How often within an hour its clients wait for a role that was lost. 0: no limit.
    pub holds_per_hour_max: u32,
}

/// What a session's reads see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// What a replica has replayed by then.
    Eventual,
    /// What the session has written as well.
    ReadYourWrites,
    /// What the session has written or read: nothing older than it has seen.
    Session,
    /// All: they go to the primary.
    Primary,
}

impl Consistency {
    /// Their names, in the order of the levels.
    pub const NAMES: [&str; 4] = ["eventual", "read_your_writes", "session", "primary"];
    const ALL: [Consistency; 4] =
        [Consistency::Eventual, Consistency::ReadYourWrites, Consistency::Session, Consistency::Primary];

    /// By its name, as PostgreSQL compares the values of a setting.
    pub fn of(name: &[u8]) -> Option<Consistency> {
        let at = Consistency::NAMES.iter().position(|word| name.eq_ignore_ascii_case(word.as_bytes()))?;
        Some(Consistency::ALL[at])
    }
}

/// Which endpoints of a cluster serve a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one that takes writes.
    Primary,
    /// Those that follow it.
    Replica,
    /// Both.
    Any,
}
