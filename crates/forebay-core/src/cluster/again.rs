//! A request that a replica refuses is made again on the primary, and its client sees nothing but the answer of that.
//!
//! | what forebay itself has sent to a replica, as the first of a transaction, fails with | then |
//! |---|---|
//! | 25006: it writes, which no text and no catalogue has told | the primary has it, and has such texts from then on |
//! | 0A000, 55000: no standby does it | the primary has it |
//! | 40001: it was in the way of what is replayed | the primary has it |
//! | anything else | the client hears of it |
//!
//! That a text was refused is forgotten when the catalogue is read anew. A client that asked for a replica hears what that
//! says; so does one that has been told anything of the answer, and one whose request is longer than is kept.
//!
//! (PostgreSQL: PreventCommandIfReadOnly and PreventCommandDuringRecovery, "cannot use serializable mode in a hot
//! standby", "cannot acquire lock mode … while recovery is in progress", ProcessRecoveryConflictInterrupt.)

use forebay_pgwire::backend::{ErrorFields, tag as reply};
use forebay_pgwire::frame::{Frames, Head};
use forebay_pgwire::frontend::{BindHead, Parse, tag};
use forebay_spec::errors;

use super::consistency::WRITING;
use crate::event::{Field, Level};
use crate::io::Io;
use crate::moving::part::{Damaged, Part, Reader, Schema, Writer};
use crate::planted::{Bug, planted};
use crate::reply::{Next, Relaying};
use crate::session::IDLE;
use crate::session::batch::Batch;
use crate::session::client::{Client, ClientKey};
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
const HEADS: [u8; 6] = [
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
    /// Nothing of the answer has gone to the client.
    is_on: bool,
    /// What the client has sent.
    kept: Vec<u8>,
    /// What was answered, and held back.
    held: Vec<u8>,
    /// What was done to the client's names, and has been confirmed.
    done: Vec<Change>,
}

impl Again {
    fn begin(&mut self) {
        self.end();
        self.is_on = true;
    }

    #[inline(never)]
    fn end(&mut self) {
        self.is_on = false;
        if !planted(Bug::TrialGivenToNext) {
            self.kept.clear();
        }
        self.held.clear();
        self.done.clear();
    }

    /// Whether it goes along with its server, to another process: that is all that it has, and what was sent.
    pub(crate) fn may_move(&self) -> bool {
        self.held.is_empty() && self.done.is_empty()
    }
}

impl Part for Again {
    fn put(&self, out: &mut Writer) {
        let Again { is_on, kept, held: _, done: _ } = self;
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
    fn is_tried(&self) -> bool {
        self.again.as_ref().is_some_and(|again| again.is_on)
    }

    /// The client is told something: what it has sent stands, and its request is no longer made anywhere else.
    #[inline]
    pub(crate) fn end_trial(&mut self, client: &mut Client) {
        client.is_tried = false;
        self.forget_trial();
    }

    /// Whoever had it tried something: that is over.
    #[inline]
    pub(crate) fn forget_trial(&mut self) {
        if let Some(again) = &mut self.again {
            again.end();
        }
    }

    /// What was held back stands before what comes now.
    #[inline]
    pub(crate) fn give_held(&mut self, batch: &mut Batch) {
        if let Some(again) = &mut self.again {
            batch.owned().append(&mut again.held);
        }
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
        if !self.server.is_tried() || self.server.status != IDLE || !self.is_for_client() {
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
    /// A client is about to send to a server of replicas.
    pub(crate) fn begin_trial(&mut self, key: ClientKey, server: ServerKey) {
        let server = &mut self.servers[server];
        if self.clients[key].is_tried && !server.is_tried() {
            server.again.get_or_insert_default().begin();
        }
    }

    /// A client has sent this to a server of replicas.
    pub(crate) fn keep_of_trial(&mut self, client: ClientKey, server: ServerKey, sent: &[u8]) {
        let Some(again) = self.servers[server].again.as_mut().filter(|again| again.is_on) else { return };
        if again.kept.len() + sent.len() > KEPT_BYTES_MAX && again.held.is_empty() {
            // What comes behind must not be taken for the whole of it.
            self.clients[client].is_tried = false;
            return again.end();
        }
        again.kept.extend_from_slice(sent);
    }

    /// Whether what is in the batch need not go to the client before more is known: it says nothing but how the answer looks.
    #[cold]
    pub(crate) fn holds_back(&mut self, key: ServerKey, data: &[u8]) -> bool {
        let Some(again) = self.servers[key].again.as_mut().filter(|again| again.is_on) else { return false };
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
        let Some(again) = self.servers[key].again.as_mut() else { return };
        let (kept, done) = (std::mem::take(&mut again.kept), std::mem::take(&mut again.done));
        again.end();
        let Some(client_key) = self.take_back(key) else { return };
        let client = &mut self.clients[client_key];
        if let Some(names) = &mut client.statements {
            done.iter().rev().for_each(|change| names.restore(change));
        }
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

    /// The texts of a client's next request write, whatever is known of them.
    fn learn_refused(&mut self, key: ClientKey) {
        let client = &self.clients[key];
        let Some(home) = client.pool else { return };
        let mut texts: Vec<Vec<u8>> = Vec::new();
        for (head, body) in Frames::new(&client.carry, u32::MAX).map_while(Result::ok) {
            match head.tag {
                tag::QUERY => texts.push(body.strip_suffix(b"\0").unwrap_or(body).into()),
                tag::PARSE => texts.extend(Parse::decode(body).ok().map(|parse| parse.query.into())),
                tag::BIND => texts.extend(BindHead::decode(body).and_then(|bind| {
                    let names = client.statements.as_ref()?;
                    let Lookup::Known(statement) = names.find(bind.statement, 0) else { return None };
                    Some(statement.text().into())
                })),
                _ => {}
            }
            if matches!(head.tag, tag::QUERY | tag::SYNC) {
                break;
            }
        }
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
