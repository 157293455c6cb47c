//! A request that a replica refuses is made again on the primary, and its client sees nothing but the answer of that. So
//! it is where a request that only reads loses its server, on a replica or on the primary (`retry_reads`).
//!
//! | what forebay itself has sent to a replica, as the first of a transaction, fails with | then |
//! |---|---|
//! | 25006: it writes, which no text and no catalogue has told | the primary has it, and has such texts from then on |
//! | 0A000, 55000: no standby does it | the primary has it |
//! | 40001: it was in the way of what is replayed | the primary has it |
//! | anything else | the client hears of it |
//!
//! | the server of what only reads is lost | then |
//! |---|---|
//! | and was not lost by this request before | the primary has it, once there is one |
//! | a second time: it may be the cause | the client hears of it |
//!
//! That a text was refused is forgotten when the catalogue is read anew. A client that asked for a replica hears what that
//! says; so does one that has been told anything of the answer, and one whose request is longer than is kept.
//!
//! (PostgreSQL: PreventCommandIfReadOnly and PreventCommandDuringRecovery, "cannot use serializable mode in a hot
//! standby", "cannot acquire lock mode … while recovery is in progress", ProcessRecoveryConflictInterrupt.)

use forebay_pgwire::backend::{ErrorFields, tag as reply};
use forebay_pgwire::frame::{Frames, Head};
use forebay_pgwire::frontend::{BindHead, Parse, tag};
use forebay_spec::{Report, errors};
use forebay_sql::route::{Reason, route};

use super::consistency::{Reading, WRITING};
use super::replay::{Replay, is_beginning};
use crate::event::{Field, Level};
use crate::io::Io;
use crate::moving::part::{Damaged, Part, Reader, Schema, Writer};
use crate::planted::{Bug, planted};
use crate::reply::{Next, Relaying};
use crate::session::IDLE;
use crate::session::batch::Batch;
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::expect::Change;
use crate::session::server::{Server, ServerKey};
use crate::statements::Lookup;
use crate::worker::Worker;

/// A longer request is not kept.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// What is answered before the first row is held back up to here while the rest of it is on its way.
const HELD_BYTES_MAX: usize = 8 * 1024;

/// It writes.
const WRITES: &[u8] = b"25006";

/// What only a replica fails with, of what only reads.
const OF_REPLICAS: [&[u8]; 4] = [WRITES, b"0A000", b"55000", b"40001"];

/// What is answered before anything is run, or the first row has come.
pub(super) const HEADS: [u8; 6] = [
    reply::PARSE_COMPLETE,
    reply::BIND_COMPLETE,
    reply::CLOSE_COMPLETE,
    reply::PARAMETER_DESCRIPTION,
    reply::ROW_DESCRIPTION,
    reply::NO_DATA,
];

/// What of a client its server may be unable to do.
#[derive(Debug, Default)]
pub struct Again {
    /// Nothing of the answer has gone to the client, but for how its transaction begins.
    is_on: bool,
    /// What was sent in this lease only reads.
    pub(super) reads: bool,
    /// What was sent in this lease is not kept, or its answer has begun: none of it is made again.
    is_spent: bool,
    /// What the client has sent.
    pub(super) kept: Vec<u8>,
    /// What was answered, and held back.
    held: Vec<u8>,
    /// What was done to the client's names, has been confirmed, and was not told.
    pub(super) done: Vec<Change>,
    /// What the client was told, though this is on: tags of messages ([`super::replay`]).
    pub(super) told: Vec<u8>,
    /// How much was kept, and told, when last all was told that was sent.
    pub(super) mark: (usize, usize),
}

impl Again {
    fn begin(&mut self) {
        self.end();
        (self.is_on, self.reads) = (true, true);
    }

    #[inline(never)]
    fn end(&mut self) {
        self.is_on = false;
        if !planted(Bug::TrialGivenToNext) {
            self.kept.clear();
        }
        self.held.clear();
        self.done.clear();
        self.told.clear();
        self.mark = (0, 0);
    }

    /// Whether it goes along with its server, to another process: that is all that it has, and what was sent.
    pub(crate) fn may_move(&self) -> bool {
        self.held.is_empty() && self.done.is_empty()
    }
}

impl Part for Again {
    fn put(&self, out: &mut Writer) {
        // Of a request that was moved nothing is made again but on a replica's word.
        let Again { is_on, reads: _, is_spent: _, kept, held: _, done: _, told: _, mark: _ } = self;
        is_on.put(out);
        kept.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (is_on, kept) = Part::get(from)?;
        Ok(Again { is_on, kept, ..Again::default() })
    }
    fn describe(to: &mut Schema) {
        to.field("again", "is_on kept");
    }
}

impl Server {
    /// What is sent to it may be made again.
    pub(super) fn is_tried(&self) -> bool {
        self.again.as_ref().is_some_and(|again| again.is_on)
    }

    /// The client is told something: what it has sent stands, and its request is no longer made anywhere else.
    #[inline]
    pub(crate) fn end_trial(&mut self, client: &mut Client) {
        client.is_tried = false;
        if let Some(again) = &mut self.again {
            again.end();
            again.is_spent = true;
        }
    }

    /// Whoever had it tried something: that is over.
    #[inline]
    pub(crate) fn forget_trial(&mut self) {
        if let Some(again) = &mut self.again {
            again.end();
            again.is_spent = false;
        }
    }

    /// What was held back stands before what comes now.
    #[inline]
    pub(crate) fn give_held(&mut self, batch: &mut Batch) {
        if let Some(again) = &mut self.again {
            batch.owned().append(&mut again.held);
        }
    }

    /// What is to be made again, and what of its answers was told. What it has done to the client's names is undone.
    fn take_tried(&mut self, client: &mut Client) -> (Vec<u8>, Vec<u8>) {
        let Some(again) = &mut self.again else { return Default::default() };
        let (kept, told) = (std::mem::take(&mut again.kept), std::mem::take(&mut again.told));
        self.undo_untold(client);
        (kept, told)
    }

    /// What was held back is never told: nor is what it has done to the client's names.
    pub(crate) fn undo_untold(&mut self, client: &mut Client) {
        let Some(again) = &mut self.again else { return };
        if let Some(names) = &mut client.statements {
            again.done.iter().rev().for_each(|change| names.restore(change));
        }
        again.end();
    }

    /// A change of a name is confirmed, by an answer of which the client may never hear.
    #[inline]
    pub(crate) fn note_done(&mut self, change: Change) {
        if let Some(again) = self.again.as_mut().filter(|again| again.is_on) {
            again.done.push(change);
        }
    }
}

impl Relaying<'_> {
    /// Whether the client's request is to be made on the primary instead of hearing of this error.
    #[cold]
    pub(crate) fn turns_away(&mut self, fields: ErrorFields<'_>) -> Option<Next> {
        let is_on_replica = self.client.as_ref().is_some_and(|client| client.is_tried);
        if !is_on_replica || !self.server.is_tried() || self.server.status != IDLE || !self.is_for_client() {
            return None;
        }
        let sqlstate = fields.sqlstate()?;
        if !OF_REPLICAS.contains(&sqlstate) || planted(Bug::RefusalOfReplicaTold) {
            return None;
        }
        // Whatever was answered before it, the client has not heard.
        self.batch.clear();
        Some(Next::TurnedAway { writes: sqlstate == WRITES })
    }
}

impl<I: Io> Worker<I> {
    /// A client is about to send what only reads.
    pub(crate) fn begin_trial(&mut self, key: ClientKey, server: ServerKey) {
        let (client, server) = (&self.clients[key], &mut self.servers[server]);
        // Not in the middle of a transaction: that is more than what is kept.
        if server.status == IDLE && (client.is_tried || client.reading == Reading::Alone || client.begins) {
            let again = server.again.get_or_insert_default();
            if !again.is_on && !again.is_spent {
                again.begin();
            }
        }
    }

    /// A client has sent this, where its database is split.
    pub(crate) fn keep_of_trial(&mut self, client: ClientKey, server: ServerKey, sent: &[u8]) {
        let server = &mut self.servers[server];
        let Some(again) = server.again.as_mut() else { return };
        let sender = &self.clients[client];
        again.reads &= Some(server.pool) != sender.pool || sender.reading != Reading::No || sender.begins;
        if !again.is_on {
            return;
        }
        if again.kept.len() + sent.len() > KEPT_BYTES_MAX && again.held.is_empty() {
            // What comes behind must not be taken for the whole of it.
            self.clients[client].is_tried = false;
            again.is_spent = true;
            return again.end();
        }
        again.kept.extend_from_slice(sent);
    }

    /// Whether what is in the batch need not go to the client before more is known: it says nothing but how the answer looks.
    #[cold]
    pub(crate) fn holds_back(&mut self, key: ServerKey, data: &[u8]) -> bool {
        let server = &mut self.servers[key];
        // Who has not sent the end of its request may wait for this.
        let is_whole = !server.is_segment_open;
        let Some(again) = server.again.as_mut().filter(|again| again.is_on && is_whole) else { return false };
        self.batch.take(data, &mut again.held);
        if again.held.len() <= HELD_BYTES_MAX && is_of_heads(&again.held) {
            return true;
        }
        self.servers[key].give_held(&mut self.batch);
        false
    }

    /// A replica does not do it: the primary does.
    #[cold]
    pub(crate) fn make_again(&mut self, io: &mut I, key: ServerKey, writes: bool) {
        let Some(client_key) = self.take_back(key) else { return };
        let client = &mut self.clients[client_key];
        let (kept, _) = self.servers[key].take_tried(client);
        (client.is_tried, client.served_by) = (false, None);
        client.written_at = WRITING;
        client.keep_again(kept);
        if writes {
            self.learn_refused(client_key);
        }
        let (id, home) = (self.clients[client_key].id, self.clients[client_key].pool);
        let label = self.pools[self.servers[key].pool.0 as usize].label();
        let fields = vec![
            ("client", Field::Number(id)),
            ("pool", label.into()),
            ("writes", if writes { "yes" } else { "no" }.into()),
        ];
        self.log(io, Level::Debug, "turned_to_primary", fields);
        // What it was asked has failed: there is nothing to cancel.
        self.servers[key].is_finishing = true;
        self.clean(io, key);
        let Some(home) = home else { return };
        let pool = &self.pools[home.0 as usize];
        if pool.is_removed {
            let report = errors::database_removed(pool.database.clone());
            return self.refuse_and_close(io, client_key, report);
        }
        self.enqueue(io, home, client_key);
    }

    /// Whether what a client has sent to a server that is lost only reads, whatever the functions in its text have become since
    /// the catalogue was read, and nothing was told of the answer.
    #[cold]
    pub(crate) fn only_reads(&mut self, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let Some(again) = server.again.as_ref().filter(|again| again.is_on && again.reads) else { return false };
        let client = server.client.and_then(|client| self.clients.get(client));
        let Some(client) = client.filter(|client| client.pin.is_none()) else { return false };
        let Some(home) = client.pool else { return false };
        let Some(texts) = texts_of(&again.kept, client, Of::All) else { return false };
        if !again.told.is_empty() && planted(Bug::CommitReplayed) {
            return true;
        }
        let catalogue = &self.pools[home.0 as usize].catalogue;
        !texts.is_empty()
            && texts.iter().all(|text| {
                let shape = self.cache.shape(text, client.seen.backslash_in(text));
                let reads = route(&shape, catalogue.judge(&shape)) == Reason::Reads;
                let is_sure = !catalogue.calls_own(&shape) || planted(Bug::UnsureReadMadeAgain);
                is_beginning(&shape) || reads && is_sure && !catalogue.was_refused(&shape)
            })
    }

    /// Whether what only reads is to be made again. Nobody wants the answer any more of what was cancelled.
    pub(crate) fn may_read_again(&self, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let client = server.client.and_then(|client| self.clients.get(client));
        let is_served =
            client.and_then(|client| client.pool).is_some_and(|home| !self.pools[home.0 as usize].is_removed);
        is_served && client.is_some_and(|client| client.retries) && server.late.is_none()
    }

    /// The server of a client that only reads is lost: its request is made again, on the primary, or its transaction begins
    /// anew with the next one. `report`: what it is told of if that fails.
    #[cold]
    pub(crate) fn read_again(
        &mut self,
        io: &mut I,
        key: ServerKey,
        client_key: ClientKey,
        report: Report,
        is_asking: bool,
    ) {
        let pool = self.servers[key].pool;
        let client = &mut self.clients[client_key];
        let (sent, told) = self.servers[key].take_tried(client);
        if client.is_tried {
            client.goes_home();
        }
        // What it reads may be what ends servers.
        (client.retries, client.reading) = (false, Reading::Alone);
        let (id, home) = (client.id, client.pool.unwrap_or(pool));
        let is_asking = is_asking || !client.carry.is_empty();
        if told.is_empty() {
            client.keep_again(sent);
        } else {
            client.set_back(Replay { sent, told: told.into(), report });
            if is_asking {
                client.begin_replay();
            }
        }
        let fields = vec![("client", Field::Number(id)), ("pool", self.pools[pool.0 as usize].label().into())];
        self.log(io, Level::Debug, "read_again", fields);
        let client = &mut self.clients[client_key];
        if is_asking {
            client.enter(ClientState::Waiting, self.now);
            return self.enqueue(io, home, client_key);
        }
        client.served_by = None;
        client.enter(ClientState::Idle, self.now);
        self.arm_client(client_key);
        self.ready.push_back(client_key);
    }

    /// The texts of a client's next request write, whatever is known of them.
    fn learn_refused(&mut self, key: ClientKey) {
        let client = &self.clients[key];
        let Some(home) = client.pool else { return };
        let texts = texts_of(&client.carry, client, Of::First).unwrap_or_default();
        let pool = &self.pools[home.0 as usize];
        for text in texts {
            let shape = self.cache.shape(&text, client.seen.backslash_in(&text));
            // Of several texts it is one that uses what others have made.
            if shape.is_of_database() {
                pool.catalogue.note_refused(&shape);
                pool.knowledge.note_refused_text(&pool.catalogue, &text);
            }
        }
    }
}

/// Which of a client's requests are looked at.
#[derive(PartialEq, Eq)]
enum Of {
    /// The first, as far as it goes.
    First,
    /// All of them; None, if one is not whole or has more in it than texts.
    All,
}

/// The texts of a client's requests; None: not all of them are known.
fn texts_of(requests: &[u8], client: &Client, of: Of) -> Option<Vec<Vec<u8>>> {
    let (mut texts, mut parsed): (Vec<Vec<u8>>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    let mut bound: Vec<&[u8]> = Vec::new();
    let mut frames = Frames::new(requests, u32::MAX);
    for (head, body) in frames.by_ref().map_while(Result::ok) {
        match head.tag {
            tag::QUERY => texts.push(body.strip_suffix(b"\0").unwrap_or(body).into()),
            tag::PARSE => {
                let parse = Parse::decode(body).ok()?;
                parsed.push(parse.name);
                texts.push(parse.query.into());
            }
            tag::BIND => {
                let bind = BindHead::decode(body)?;
                bound.push(bind.portal);
                if !parsed.contains(&bind.statement) {
                    let Lookup::Known(statement) = client.statements.as_ref()?.find(bind.statement, 0) else {
                        return None;
                    };
                    texts.push(statement.text().into());
                }
            }
            tag::FUNCTION_CALL => return None,
            // What a portal runs that was bound before is not known.
            tag::EXECUTE if of == Of::All => {
                let portal = body.split(|byte| *byte == 0).next()?;
                bound.contains(&portal).then_some(())?;
            }
            tag::SYNC | tag::DESCRIBE | tag::CLOSE | tag::FLUSH => {}
            _ if of == Of::All => return None,
            _ => {}
        }
        if of == Of::First && matches!(head.tag, tag::QUERY | tag::SYNC) {
            break;
        }
    }
    (of == Of::First || frames.rest().is_empty()).then_some(texts)
}

/// Whether an answer, as far as it goes, tells nothing but how it looks.
fn is_of_heads(answer: &[u8]) -> bool {
    let mut rest = answer;
    while let Some(tag) = rest.first() {
        if !HEADS.contains(tag) {
            return false;
        }
        match forebay_pgwire::frame::head(rest, u32::MAX) {
            Ok(Some(Head { bytes, .. })) => rest = rest.get(bytes as usize..).unwrap_or_default(),
            _ => break,
        }
    }
    true
}
