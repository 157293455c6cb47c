//! A statement is on its server before it is used there: parsed again, or prepared by the client's own PREPARE.
//!
//! | where | how |
//! |---|---|
//! | before a Query, or the first message of a pipeline | apart, with a ReadyForQuery of its own |
//! | within a pipeline | a Parse in it, whose answer the client does not see |
//!
//! What a text means is settled when it is parsed: `'02/03/2024'::date` by DateStyle, a table by search_path. So a
//! statement that was made with other settings than those in force is made again with the ones that it was made with, for
//! as long as that takes. Within a pipeline nothing can be set: such a statement is noted, and nobody is given it as it is.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::frontend::Target;
use forebay_pgwire::write;

use crate::parameters::for_transaction;
use crate::request::{Forwarding, Stop};
use crate::session::IDLE;
use crate::session::expect::{Expect, Own};
use crate::statements::{Presence, Statement};
use crate::tracking::mark::CHANGES_READING;

impl Forwarding<'_> {
    /// Sees that the server has `statement` when the next message reaches it.
    pub(crate) fn ensure(&mut self, statement: &Arc<Statement>) -> Result<(), Stop> {
        self.ensure_needed(statement)?;
        match self.presence(statement) {
            Presence::Present => return Ok(()),
            Presence::Unconfirmed => return Err(Stop::Hold),
            Presence::Absent => {}
        }
        let settings = self.settings_of(statement);
        let is_compared = self.may_be_outdated(statement);
        if self.server.hand_over.is_some() && (is_compared || !settings.is_empty()) {
            // A message that waits for an answer of its own is not kept for another server.
            return Err(Stop::Hold);
        }
        let is_made_otherwise = !settings.is_empty() || statement.query().is_some();
        if is_made_otherwise && !is_compared && !self.server.is_segment_open && statement.is_shared() {
            return self.ensure_apart(statement);
        }
        self.send_within(statement);
        if !settings.is_empty() {
            self.server.statements.note_misread(statement, self.server.segment);
        }
        if is_compared { Err(self.compare_columns(statement)) } else { Ok(()) }
    }

    /// Whether the server has `statement`, as it was made; one that it has read otherwise is closed.
    pub(crate) fn presence(&mut self, statement: &Arc<Statement>) -> Presence {
        let segment = self.server.segment;
        let found = self.server.statements.find(statement, segment);
        if found != Presence::Present || !self.server.statements.is_misread(statement, segment) {
            return found;
        }
        let is_owing = !self.server.is_segment_open && !self.server.expect.is_empty();
        if self.server.hand_over.is_some() || is_owing {
            // It is closed when the next message goes out, which has the Close answered; now that may have to wait.
            return Presence::Unconfirmed;
        }
        write::close(self.batch.owned(), Target::STATEMENT, statement.name());
        self.server.statements.close_sent(statement, segment);
        self.server.expect.push_back(Expect::Close { evicted: Some(statement.clone()), relay: false });
        Presence::Absent
    }

    /// A statement that is on the server when the next message reaches it, for one that is about the name alone: `statement`,
    /// or one that could be made whatever has become of that. `apart`: that message is a Query.
    pub(crate) fn present_or_stand_in(
        &mut self,
        statement: &Arc<Statement>,
        apart: bool,
    ) -> Result<Arc<Statement>, Stop> {
        match self.server.statements.find(statement, self.server.segment) {
            Presence::Present => Ok(statement.clone()),
            Presence::Unconfirmed => Err(Stop::Hold),
            Presence::Absent if self.server.hand_over.is_some() => Err(Stop::Hold),
            Presence::Absent => {
                if apart {
                    return Ok(self.stand_in_apart());
                }
                let stand_in = self.cache.stand_in();
                self.send_within(&stand_in);
                Ok(stand_in)
            }
        }
    }

    /// A statement that the next Query may take away, whatever else is done to it: nobody else's.
    pub(crate) fn stand_in_apart(&mut self) -> Arc<Statement> {
        let stand_in = self.cache.stand_in();
        self.make_room(&stand_in);
        self.send_apart(&stand_in);
        stand_in
    }

    /// Makes room for one statement more.
    pub(crate) fn make_room(&mut self, statement: &Arc<Statement>) {
        if !statement.is_shared() {
            return;
        }
        while let Some(evicted) = self.server.statements.surplus(self.server_statements_max) {
            write::close(self.batch.owned(), Target::STATEMENT, evicted.name());
            self.server.statements.close_sent(&evicted, self.server.segment);
            self.server.expect.push_back(Expect::Close { evicted: Some(evicted), relay: false });
        }
    }

    /// Sees that the server has what `statement` names when the next message reaches it.
    pub(crate) fn ensure_needed(&mut self, statement: &Statement) -> Result<(), Stop> {
        let Some(needs) = statement.needs() else { return Ok(()) };
        // Within a pipeline nothing can be sent that ends in a ReadyForQuery.
        if self.server.is_segment_open { self.ensure(needs) } else { self.ensure_apart(needs) }
    }

    /// Sees that the server has `statement` when the next Query, or pipeline, reaches it.
    pub(crate) fn ensure_apart(&mut self, statement: &Arc<Statement>) -> Result<(), Stop> {
        let is_owing = !self.server.expect.is_empty();
        match self.presence(statement) {
            Presence::Present => return Ok(()),
            Presence::Unconfirmed => return Err(Stop::Hold),
            // What is sent here ends what is skipped when a hand-over fails.
            Presence::Absent if self.server.hand_over.is_some() => return Err(Stop::Hold),
            Presence::Absent => {}
        }
        let settings = self.settings_of(statement);
        if !settings.is_empty() && is_owing {
            // Whether a transaction is under way is known when all is answered.
            return Err(Stop::Hold);
        }
        self.make_room(statement);
        let is_within = self.server.status != IDLE;
        if !settings.is_empty() {
            let begin = if is_within { "SAVEPOINT fb_settings;" } else { "BEGIN;" };
            self.send_setting(&format!("{begin}{}", settings.join(";")));
        }
        self.send_apart(statement);
        if !settings.is_empty() {
            // A PREPARE stays, whatever becomes of its transaction; so the client's goes on as it was.
            let end = if is_within { "ROLLBACK TO fb_settings;RELEASE fb_settings" } else { "ROLLBACK" };
            self.send_setting(end);
        }
        Ok(())
    }

    pub(crate) fn send_within(&mut self, statement: &Arc<Statement>) {
        self.make_room(statement);
        self.stats.server_parses.add(1);
        write::parse(self.batch.owned(), statement.name(), statement.text(), statement.types_told());
        self.server.statements.parse_sent(statement, self.server.segment);
        let statement = Some(statement.clone());
        self.server.expect.push_back(Expect::Parse { statement, relay: false, change: None });
    }

    fn send_apart(&mut self, statement: &Arc<Statement>) {
        self.stats.server_parses.add(1);
        self.server.ensuring.error = None;
        if let Some(query) = statement.query() {
            write::query(self.batch.owned(), query);
        } else {
            write::parse(self.batch.owned(), statement.name(), statement.text(), statement.types_told());
            write::sync(self.batch.owned());
            let statement = Some(statement.clone());
            self.server.expect.push_back(Expect::Parse { statement, relay: false, change: None });
        }
        self.server.ensuring.due.push_back(statement.clone());
        self.server.expect.push_back(Expect::Own(Own::Ensure));
        // A Query drops the unnamed statement.
        self.server.statements.forget_unnamed();
        self.server.statements.parse_sent(statement, self.server.segment);
    }

    fn send_setting(&mut self, sql: &str) {
        write::query(self.batch.owned(), sql);
        self.server.expect.push_back(Expect::Own(Own::Settings));
    }

    /// What sets, until the transaction ends, the settings that `statement` was made with; none where they are in force.
    fn settings_of(&self, statement: &Statement) -> Vec<String> {
        if self.server.status == TransactionStatus::Failed {
            // Nothing is made there.
            return Vec::new();
        }
        let left = &self.server.left;
        let fresh: &[Arc<str>] = if left.fresh.has_any(CHANGES_READING) { &left.named } else { &[] };
        let in_force = self.client.wanted.environment();
        if fresh.is_empty() && (Arc::ptr_eq(statement.environment(), in_force) || statement.environment() == in_force) {
            return Vec::new();
        }
        for_transaction(statement.environment(), &self.client.wanted, fresh, self.server.encoding())
    }
}
