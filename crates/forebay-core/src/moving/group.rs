//! What moves in one piece, as bytes: a client, a server, or a client together with its server.
//!
//! A session is taken apart field by field, without a rest, so that one with a new field does not compile before it is
//! said here what becomes of that.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_spec::Report;
use forebay_sql::shape::Shape;

use super::State;
use super::part::{self, Damaged, Part, Reader, Schema, Writer, part_struct};
use crate::auth::ServerSecret;
use crate::cluster::again::Again;
use crate::cluster::consistency::{Following, LastRead};
use crate::cluster::replay::{Replay, Replaying};
use crate::config::Usage;
use crate::ids::ConnId;
use crate::io::{Endpoint, Peer, TlsInfo};
use crate::listen::OnServer;
use crate::parameters::{Image, Images};
use crate::pool::PoolId;
use crate::pool::endpoints::Place;
use crate::renamed::Places;
use crate::session::Body;
use crate::session::client::{CancelSecret, Client, ClientState, Rare, Refusal};
use crate::session::expect::{Endings, Expect};
use crate::session::server::Server;
use crate::statements::{ClientStatements, Raw, Registry, ServerStatements, Statement};
use crate::time::Instant;
use crate::tracking::Left;
use crate::tracking::pin::{Causes, Pin};
use crate::worker::PoolName;

/// What moves in one piece.
pub(crate) struct Group {
    pub(super) about: About,
    pub(super) client: Option<Box<Client>>,
    pub(super) server: Option<Box<Server>>,
}

/// Where a group belongs.
pub(crate) struct About {
    /// The pool's database.
    pub(super) database: Arc<str>,
    /// The pool's user.
    pub(super) user: Arc<str>,
    /// What the pool has learnt to log in with.
    pub(super) secret: Option<ServerSecret>,
    /// The number of the schema's state.
    pub(super) epoch: u32,
}

impl About {
    /// The pool's name.
    pub(super) fn pool(&self) -> PoolName {
        (self.database.clone(), self.user.clone())
    }
}

part_struct!(About {
    database: Arc<str>,
    user: Arc<str>,
    secret: Option<ServerSecret>,
    epoch: u32,
});

/// An id that names nothing, until the connection has arrived.
const NOWHERE: ConnId = ConnId { slot: u32::MAX, generation: 0 };

impl Group {
    /// Writes a group out.
    pub(super) fn write(registry: &Registry, about: &About, client: Option<&Client>, server: Option<&Server>) -> State {
        part::write(registry, |out| {
            about.put(out);
            client.is_some().put(out);
            if let Some(client) = client {
                put_client(client, out);
            }
            server.is_some().put(out);
            if let Some(server) = server {
                put_server(server, out);
            }
        })
    }

    /// Reads what [`Group::write`] wrote.
    pub(super) fn read(
        bytes: &[u8],
        images: &mut Images,
        registry: &Registry,
        shape: impl FnMut(&Raw) -> Arc<Shape>,
    ) -> Result<Group, Damaged> {
        let empty = images.empty();
        let mut from = part::read(bytes, images, registry, shape)?;
        let about = About::get(&mut from)?;
        let nobody = about.user.clone();
        let client = if bool::get(&mut from)? {
            Some(Box::new(get_client(&mut from, new_client(&empty, nobody))?))
        } else {
            None
        };
        let server =
            if bool::get(&mut from)? { Some(Box::new(get_server(&mut from, new_server(&empty))?)) } else { None };
        let is_whole = from.rest.is_empty() && (client.is_some() || server.is_some());
        if is_whole { Ok(Group { about, client, server }) } else { Err(Damaged) }
    }

    /// How many connections it has: the client's first.
    pub(super) fn connections(&self) -> usize {
        usize::from(self.client.is_some()) + usize::from(self.server.is_some())
    }
}

/// Whether bytes can be read in, and how many connections they speak of.
pub fn examine(bytes: &[u8]) -> Result<usize, Damaged> {
    let shape = |_: &Raw| Arc::<Shape>::default();
    Group::read(bytes, &mut Images::default(), &Registry::default(), shape).map(|group| group.connections())
}

/// The hash of all that a group may consist of: who has another can't read it.
pub fn schema() -> u64 {
    let mut to = Schema::default();
    About::describe(&mut to);
    describe_client(&mut to);
    Rare::describe(&mut to);
    describe_server(&mut to);
    OnServer::describe(&mut to);
    to.hash()
}

/// A session of which most is carried, and the rest is as in a new one.
macro_rules! carried {
    ($type:ident, $put:ident, $get:ident, $describe:ident,
        carried { $($field:ident : $of:ty),* $(,)? } left { $($left:ident),* $(,)? }) => {
        fn $put(session: &$type, out: &mut Writer) {
            let $type { $($field,)* $($left: _,)* } = session;
            $( $field.put(out); )*
        }
        fn $get(from: &mut Reader<'_>, new: $type) -> Result<$type, Damaged> {
            Ok($type { $($field: <$of as Part>::get(from)?,)* ..new })
        }
        fn $describe(to: &mut Schema) {
            $( to.field(stringify!($field), stringify!($of)); <$of as Part>::describe(to); )*
        }
    };
}

carried!(Client, put_client, get_client, describe_client,
    carried {
        state: ClientState,
        body_left: u32,
        body: Body,
        is_paused: bool,
        is_held: bool,
        is_skipping: bool,
        failed_hand_overs: u8,
        unsent: usize,
        since: Instant,
        request_at: Instant,
        transaction_at: Instant,
        written_at: Instant,
        read: LastRead,
        following: Following,
        wanted: Rc<Image>,
        seen: Rc<Image>,
        pin: Option<Box<Pin>>,
        causes: Causes,
        is_tried: bool,
        replaying: Replaying,
        sequences_on: Option<u64>,
        baseline: Rc<Image>,
        carry: Vec<u8>,
        statements: Option<Box<ClientStatements>>,
        rare: Option<Box<Rare>>,
        refusal: Option<Box<Refusal>>,
        id: u64,
        peer: Peer,
        user: Arc<str>,
        database: Arc<str>,
        virtual_pid: u32,
        cancel: CancelSecret,
        is_uncounted: bool,
        is_in_census: bool,
        usage: Usage,
        connected_at: Instant,
        tls: Option<Box<TlsInfo>>,
    }
    left {
        conn, server, is_deferred, is_gone, is_split, retries, begins, reading, needs, pool, served_by, armed, arrival, listens, replication, login,
    }
);

carried!(Server, put_server, get_server, describe_server,
    carried {
        body_left: u32,
        body: Body,
        status: TransactionStatus,
        is_leased: bool,
        is_skipping: bool,
        is_copying: bool,
        is_segment_open: bool,
        is_paused: bool,
        is_close_needed: bool,
        usage: Option<Usage>,
        is_set_known: bool,
        is_report_due: bool,
        endings: Endings,
        bound_places: Option<Box<Places>>,
        bound_deallocates: Vec<(Box<[u8]>, Arc<Statement>)>,
        bound_undescribed: Option<Arc<Statement>>,
        segment: u32,
        unsent: usize,
        left: Left,
        listen: OnServer,
        since: Instant,
        expires_at: Instant,
        set: Rc<Image>,
        reported: Rc<Image>,
        expect: VecDeque<Expect>,
        carry: Vec<u8>,
        late: Option<Box<Report>>,
        again: Option<Box<Again>>,
        statements: ServerStatements,
        id: u64,
        place: Arc<Place>,
        is_connect_query_undone: bool,
        address: Option<IpAddr>,
        generation: u64,
        is_local: bool,
        defaults: Rc<Image>,
        remote_pid: u32,
        remote_key: Box<[u8]>,
        opened_at: Instant,
        tls: Option<Box<TlsInfo>>,
    }
    left {
        conn, client, pool, stats, state, is_used, clearing, is_being_reset, is_doomed, is_finishing, cancels, apart, restoring,
        reported_apart, is_set_apart, hand_over, own_error, asked_by, set_before, ensuring, probe, reading,
        cancel_at, at, measured, login,
    }
);

impl Part for Rare {
    fn put(&self, out: &mut Writer) {
        let Rare {
            raw_names,
            resetting: _,
            asked_who_holds_at: _,
            told_of_wait_since,
            is_cancel_sent: _,
            is_refused_to_move: _,
            replay,
            pending: _,
            console: _,
        } = self;
        raw_names.put(out);
        told_of_wait_since.put(out);
        replay.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let ((raw_names, told_of_wait_since), replay) = Part::get(from)?;
        Ok(Rare { raw_names, told_of_wait_since, replay, ..Rare::default() })
    }
    fn describe(to: &mut Schema) {
        to.field("rare", "raw_names told_of_wait_since replay");
        Replay::describe(to);
    }
}

impl Part for OnServer {
    fn put(&self, out: &mut Writer) {
        // Who notifies through it is noted anew, and nothing that is being asked is on its way.
        let OnServer { is_restored, is_refused, is_removing, notifies, is_notifier_known: _, awaits: _, channels: _ } =
            self;
        [*is_restored, *is_refused, *is_removing, *notifies].put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let [is_restored, is_refused, is_removing, notifies] = Part::get(from)?;
        Ok(OnServer { is_restored, is_refused, is_removing, notifies, ..OnServer::default() })
    }
    fn describe(to: &mut Schema) {
        to.field("listen", "is_restored is_refused is_removing notifies");
    }
}

fn new_client(empty: &Rc<Image>, nobody: Arc<str>) -> Client {
    Client { login: None, ..Client::new(NOWHERE, Peer::Unix(None), empty.clone(), nobody, Instant(0)) }
}

fn new_server(empty: &Rc<Image>) -> Server {
    let nothing: Arc<str> = "".into();
    let place = Place {
        name: nothing.clone(),
        endpoint: Endpoint::Unix(nothing.clone()),
        dbname: nothing.clone(),
        tls: None,
        parameters: [].into(),
        connect_query: nothing,
    };
    Server::new(NOWHERE, 0, (PoolId(u32::MAX), &Arc::default()), Arc::new(place), empty.clone(), Instant(0))
}
