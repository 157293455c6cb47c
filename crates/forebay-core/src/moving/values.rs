//! What sessions consist of, field by field.

use std::net::IpAddr;
use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_spec::{Report, Severity, errors};
use forebay_sql::shape::Verb;
use forebay_sql::traces::Traces;

use super::part::{Damaged, Part, Reader, Schema, Writer, part_enum, part_struct};
use crate::auth::scram::ScramKeys;
use crate::auth::{Secret, SecretKey, ServerSecret};
use crate::config::{PoolMode, ServerTls, TlsMode, TlsOffers, Usage};
use crate::io::{Endpoint, Peer, TlsInfo};
use crate::pool::endpoints::Place;
use crate::renamed::Places;
use crate::session::Body;
use crate::session::client::{CancelSecret, ClientState, Extent, Refusal};
use crate::session::expect::{self, Change, Does, Endings, Ends, Expect, Naming, Own};
use crate::statements::Statement;
use crate::tracking::Left;
use crate::tracking::access::AccessMode;

part_enum!(TransactionStatus { 0 = Idle, 1 = InTransaction, 2 = Failed });
part_enum!(ClientState {
    0 = Startup,
    1 = Tls,
    2 = Secret,
    3 = Login,
    4 = Greeting,
    5 = Idle,
    6 = Waiting,
    7 = Active,
    8 = Console,
    9 = Leaving,
    10 = Moving,
    11 = Cancelling,
});
part_enum!(Endpoint {
    0 = Tcp { host: Arc<str>, port: u16 },
    1 = Unix(path: Arc<str>),
    2 = LocalSocket { host: Arc<str>, port: u16 },
});
part_enum!(TlsMode { 0 = Disable, 1 = Allow, 2 = Prefer, 3 = Require, 4 = VerifyCa, 5 = VerifyFull });
part_struct!(TlsOffers { versions: Vec<Arc<str>>, suites: Vec<Arc<str>>, groups: Vec<Arc<str>> });
part_struct!(ServerTls {
    mode: TlsMode,
    ca: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    offers: TlsOffers,
});
part_struct!(TlsInfo {
    certificate_hash: Arc<[u8]>,
    peer_name: Option<Arc<str>>,
    is_certified: bool,
    description: Arc<str>,
});
part_struct!(Place {
    name: Arc<str>,
    endpoint: Endpoint,
    dbname: Arc<str>,
    tls: Option<Arc<ServerTls>>,
    parameters: Arc<[(Arc<str>, Arc<str>)]>,
    connect_query: Arc<str>,
});
part_enum!(Severity { 0 = Error, 1 = Fatal, 2 = Notice });
part_enum!(PoolMode { 0 = Session, 1 = Transaction, 2 = Statement });
part_struct!(Usage { mode: PoolMode, is_sharing: bool, is_reset_by_query: bool, is_extended_only: bool });
part_enum!(Body { 0 = Forward, 1 = Drop });
part_enum!(Extent { 0 = NextRequest, 1 = AllKept });
part_struct!(Refusal { report: Report, extent: Extent });
part_enum!(CancelSecret { 0 = Short(key: [u8; 4]), 1 = Long(key: Box<[u8; 32]>) });
part_struct!(ScramKeys { iterations: u32, salt: Arc<[u8]>, client_key: SecretKey, server_key: SecretKey });
part_enum!(ServerSecret {
    0 = Plain { password: Secret, keys: Option<ScramKeys> },
    1 = Md5(digits: SecretKey),
    2 = Scram(keys: ScramKeys),
});
part_struct!(Left {
    fresh: Traces,
    dirt: Traces,
    custom: Vec<Arc<str>>,
    may_have_custom: bool,
    has_unknown_custom: bool,
    has_no_sequences: bool,
    kept: (bool, Option<u64>),
    is_on: bool,
    by: u64,
    by_pid: u32,
    named: Vec<Arc<str>>,
    has_set_unnamed: bool,
});

part_struct!(Change { name: Box<[u8]>, before: Option<Arc<Statement>>, segment: u32 });
part_enum!(Does { 0 = Makes, 1 = Takes, 2 = TakesAll });
part_enum!(expect::Refusal { 0 = Instead(report: Report), 1 = AsItIs });
part_enum!(Ends { 0 = Nothing, 1 = Itself, 2 = Block, 3 = Commit });
part_enum!(Own {
    0 = Prepare,
    1 = HandOver,
    2 = Skipped,
    3 = Check,
    4 = Rollback,
    5 = Reset,
    6 = Probe,
    7 = Sequence,
    8 = Clean,
    9 = Restore,
    10 = Stamp,
    11 = Catalogue,
    12 = Ensure,
    13 = Settings,
    14 = Listens,
    15 = Channels,
    16 = Unlisten,
    17 = Stay,
    18 = Hear,
    19 = Connect,
    20 = Anchor,
    21 = Outcome,
});
part_enum!(Expect {
    0 = Query {
        ends: Ends,
        refusal: Option<Box<expect::Refusal>>,
        naming: Option<Box<Naming>>,
        places: Option<Box<Places>>,
    },
    1 = Function,
    2 = Sync,
    3 = Parse { statement: Option<Arc<Statement>>, relay: bool, change: Option<Change> },
    4 = Close { evicted: Option<Arc<Statement>>, relay: bool },
    5 = Bind { name: u32 },
    6 = Describe { statement: Option<Arc<Statement>>, relay: bool, places: Option<Box<Places>> },
    7 = Execute { ends: Ends, naming: Option<Box<Naming>>, places: Option<Box<Places>> },
    8 = CopyEnd,
    9 = Answer { tag: u8, change: Change },
    10 = DuplicateParse { name: Box<[u8]> },
    11 = Outdated,
    12 = Refused(report: Box<Report>),
    13 = Own(own: Own),
});

part_enum!(Verb {
    0 = Select,
    1 = Insert,
    2 = Update,
    3 = Delete,
    4 = Merge,
    5 = Copy,
    6 = Explain,
    7 = Begin,
    8 = Commit,
    9 = Rollback,
    10 = Savepoint,
    11 = Release,
    12 = RollbackTo,
    13 = PrepareTransaction,
    14 = FinishPrepared,
    15 = Set,
    16 = SetLocal,
    17 = Reset,
    18 = Show,
    19 = Discard,
    20 = DiscardAll,
    21 = Prepare,
    22 = Execute,
    23 = Deallocate,
    24 = Declare,
    25 = Fetch,
    26 = Close,
    27 = Listen,
    28 = Unlisten,
    29 = Notify,
    30 = Lock,
    31 = Load,
    32 = Do,
    33 = Call,
    34 = Schema,
    35 = Database,
    36 = Maintenance,
    37 = Other,
});

/// One behind the other: a text may have thousands, which are not read in, or let go of, as many calls deep.
impl Part for Naming {
    fn put(&self, out: &mut Writer) {
        out.length(self.all().count());
        for naming in self.all() {
            let Naming { what, changes, statements, next: _ } = naming;
            what.put(out);
            changes.put(out);
            statements.put(out);
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut all = Vec::new();
        for _ in 0..from.length()? {
            all.push(Naming::of(Part::get(from)?, Part::get(from)?, Part::get(from)?));
        }
        let join = |next: Option<Naming>, mut naming: Naming| {
            naming.next = next.map(Box::new);
            Some(naming)
        };
        all.into_iter().rev().fold(None, join).ok_or(Damaged)
    }
    fn describe(to: &mut Schema) {
        if to.begins("Naming") {
            to.field("all", "count (what changes statements)");
            Does::describe(to);
            Vec::<Change>::describe(to);
            Vec::<Arc<Statement>>::describe(to);
        }
    }
}

impl Part for Traces {
    fn put(&self, out: &mut Writer) {
        self.bits().put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        u32::get(from).map(Traces::of_bits)
    }
    fn describe(to: &mut Schema) {
        // In the order of their bits.
        Traces::of_bits(u32::MAX).names().for_each(|name| to.field("trace", name));
    }
}

impl Part for Peer {
    fn put(&self, out: &mut Writer) {
        match self {
            Peer::Tcp(address, port) => {
                out.byte(0);
                (*address, *port).put(out);
            }
            Peer::Unix(uid) => {
                out.byte(1);
                uid.put(out);
            }
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        match u8::get(from)? {
            0 => Part::get(from).map(|(address, port)| Peer::Tcp(address, port)),
            1 => Part::get(from).map(Peer::Unix),
            _ => Err(Damaged),
        }
    }
    fn describe(to: &mut Schema) {
        to.field("peer", "0 tcp address port, 1 unix uid");
        IpAddr::describe(to);
    }
}

impl Part for SecretKey {
    fn put(&self, out: &mut Writer) {
        out.extend(self.expose());
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        from.take(32)?.try_into().map(SecretKey::new).map_err(|_| Damaged)
    }
    fn describe(to: &mut Schema) {
        to.field("key", "32 bytes");
    }
}

impl Part for Secret {
    fn put(&self, out: &mut Writer) {
        out.length(self.expose().len());
        out.extend(self.expose().as_bytes());
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let length = from.length()?;
        std::str::from_utf8(from.take(length)?).map(Secret::new).map_err(|_| Damaged)
    }
    fn describe(to: &mut Schema) {
        to.field("secret", "length text");
    }
}

/// A report is known by its code; the row says the rest that is fixed.
impl Part for Report {
    fn put(&self, out: &mut Writer) {
        let Report { severity, code, sqlstate: _, message, detail, hint, pgbouncer } = self;
        severity.put(out);
        (*code).to_owned().put(out);
        message.put(out);
        ((detail.clone(), hint.clone()), pgbouncer.clone()).put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let severity = Part::get(from)?;
        let code = String::get(from)?;
        // One without a code is in PostgreSQL's own words: see `query::already_exists`.
        let row = errors::ALL.iter().find(|row| row.code == code).map(|row| (row.code, row.sqlstate));
        let (code, sqlstate) = row.or_else(|| code.is_empty().then_some(("", "42P05"))).ok_or(Damaged)?;
        let message = Part::get(from)?;
        let ((detail, hint), pgbouncer) = Part::get(from)?;
        Ok(Report { severity, code, sqlstate, message, detail, hint, pgbouncer })
    }
    fn describe(to: &mut Schema) {
        to.field("report", "severity code message detail hint pgbouncer");
    }
}

impl Part for Endings {
    fn put(&self, out: &mut Writer) {
        // A server that is asked about a COMMIT stays.
        let Endings { bound, portals, unshared, answered, access, anchor: _, asking: _ } = self;
        (*bound).put(out);
        (*portals).put(out);
        unshared.put(out);
        answered.put(out);
        access.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (bound, portals) = Part::get(from)?;
        let (unshared, answered) = Part::get(from)?;
        Ok(Endings { bound, portals, unshared, answered, access: Part::get(from)?, ..Endings::default() })
    }
    fn describe(to: &mut Schema) {
        to.field("endings", "bound portals unshared answered access");
        AccessMode::describe(to);
    }
}
