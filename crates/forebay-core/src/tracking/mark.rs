//! Notes what a forwarded statement may leave behind. On the path of every statement: most leave nothing.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::frontend::{Bind, FunctionCall};
use forebay_spec::{Report, errors};
use forebay_sql::catalogue::Catalogue;
use forebay_sql::custom;
use forebay_sql::lexer::Backslash;
use forebay_sql::shape::{Shape, Verb};
use forebay_sql::traces::Traces;

use super::knowledge::{self, Knowledge};
use crate::cluster::own_settings;
use crate::config::{Level, OnPin};
use crate::frame::At;
use crate::listen::before::removes_channels;
use crate::parameters::is_restorable;
use crate::planted::{Bug, planted};
use crate::request::Forwarding;
use crate::session::expect::Expect;

/// What is worth a note.
const NOTED: Traces = super::PINNING
    .with(Traces::SETTING)
    .with(Traces::ANY_SETTING)
    .with(Traces::LOCAL_SETTING)
    .with(Traces::SCHEMA)
    .with(Traces::READS_SEQUENCE)
    .with(Traces::NOTIFY);

/// What is gone with the transaction.
const NOT_LEFT: Traces = Traces::WRITES.with(Traces::NOTIFY).with(Traces::PRIMARY);

/// While any of these is fresh, a Parse may mean something else than it would for other clients.
const PRIVATE: Traces = Traces::SETTING
    .with(Traces::ANY_SETTING)
    .with(Traces::LOCAL_SETTING)
    .with(Traces::TEMP)
    .with(Traces::SCHEMA)
    .with(Traces::OPAQUE);

/// While any of these is fresh and not answered, the session may come to read texts otherwise.
pub(crate) const CHANGES_READING: Traces =
    Traces::SETTING.with(Traces::ANY_SETTING).with(Traces::LOCAL_SETTING).with(Traces::OPAQUE);

/// Names noted of a client; it may not be told that a name beyond them is taken.
const RAW_NAMES_MAX: usize = 1024;

/// Values of one call that are looked at for names of settings.
const CALL_VALUES_MAX: usize = 64;

/// How a pool judges statements.
#[derive(Clone, Copy)]
pub(crate) struct Judging<'a> {
    /// What the database's own objects do.
    pub(crate) catalogue: &'a Arc<Catalogue>,
    /// What is known of the database.
    pub(crate) knowledge: &'a Knowledge,
    /// How far isolation goes.
    pub(crate) level: Level,
    /// What becomes of statements that would pin.
    pub(crate) on_pin: OnPin,
}

impl Judging<'_> {
    pub(crate) fn traces(&self, shape: &Shape) -> Traces {
        match self.level {
            // What functions do unseen is not looked for.
            Level::Fast => shape.traces,
            Level::Safe | Level::Strict if planted(Bug::FunctionsUnseen) => shape.traces,
            Level::Safe | Level::Strict => self.catalogue.judge(shape),
        }
    }
}

impl Forwarding<'_> {
    /// Notes what `text` of this shape, which is about to go to the server, may leave there; or says why it must not go.
    #[inline]
    pub(crate) fn mark(&mut self, shape: &Shape, text: &[u8]) -> Result<(), Box<Report>> {
        if !self.server.left.is_on {
            return Ok(());
        }
        for (bug, verb) in [(Bug::RollbackToUndoesAll, Verb::RollbackTo), (Bug::RollbackUndoesAll, Verb::Rollback)] {
            if planted(bug) && shape.statements.iter().any(|s| s.verb == verb) {
                self.server.left.fresh = Traces::NONE;
                self.server.left.named.clear();
                self.server.left.has_set_unnamed = false;
            }
        }
        if shape.is_of_mode {
            self.note_access(shape);
        } else {
            self.server.endings.access.run();
        }
        let traces = self.judging.traces(shape);
        if traces.has_any(Traces::WRITES | Traces::PRIMARY) {
            self.server.endings.access.doubt();
        }
        if traces.has_any(NOTED) && !self.is_sure_to_fail(shape) {
            self.mark_traces(shape, text, traces)
        } else {
            Ok(())
        }
    }

    /// Whether nothing of a text can run, since the transaction has failed and neither this nor what is on its way ends that.
    /// A seed or a library, of which no look tells, would else count as there.
    fn is_sure_to_fail(&self, shape: &Shape) -> bool {
        let may_run =
            |e: &Expect| matches!(e, Expect::Query { .. } | Expect::Function | Expect::Execute { .. } | Expect::Own(_));
        self.server.status == TransactionStatus::Failed
            && !self.server.expect.iter().any(may_run)
            && !shape.statements.iter().any(|s| s.verb == Verb::RollbackTo || s.verb.ends_transaction())
    }

    fn mark_traces(&mut self, shape: &Shape, text: &[u8], traces: Traces) -> Result<(), Box<Report>> {
        if traces.has(Traces::READS_SEQUENCE) && self.has_lost_sequences() {
            return Err(Box::new(errors::sequence_moved("currval or lastval")));
        }
        if let Some(report) = own_settings::refused(shape, text, self.backslash_in(text)) {
            return Err(Box::new(report));
        }
        if let Some(report) = self.channels_unknown(shape, traces) {
            return Err(report);
        }
        self.server.listen.is_removing |= removes_channels(shape, traces);
        if traces.has_any(Traces::NOTIFY | Traces::OPAQUE) {
            self.may_notify();
        }
        if self.judging.on_pin == OnPin::Refuse && !shape.pins.is_none() {
            let cause = super::pin::names(shape.pins).join(", ");
            return Err(Box::new(errors::pin_refused(cause)));
        }
        let left = &mut self.server.left;
        if traces.has_any(super::PINNING) {
            self.client.causes.note(shape, traces, !left.fresh.has_any(super::PINNING));
        }
        let had_sequences = left.fresh.has(Traces::SEQUENCE);
        left.fresh |= traces.without(NOT_LEFT);
        shape.settings().for_each(|name| left.name(name));
        if traces.has(Traces::ANY_SETTING) && !only_resets_all(shape) {
            left.set_unnamed();
        }
        if shape.traces.has(Traces::OPAQUE) {
            custom::setting_names(text).for_each(|name| left.name(&name));
        }
        if self.judging.level == Level::Strict {
            self.mark_custom(custom::setting_names(text), traces);
        }
        if shape.traces.has(Traces::SCHEMA) {
            self.note_clearing(shape);
            // A function that it makes may set them as soon as it is there.
            let names: Vec<_> = custom::setting_names(text).collect();
            self.judging.knowledge.note_custom(names.iter().map(|name| &**name));
        }
        // What stands behind an error in a pipeline is not done.
        if discards_sequences(shape) && !self.server.is_skipping {
            self.server.left.discard_sequences(had_sequences, self.client.sequences_on.take());
        }
        if traces.has(Traces::PREPARED) {
            let prepares = shape.statements.iter().filter(|s| s.verb == Verb::Prepare);
            let raw = &mut self.client.rare().raw_names;
            for name in prepares.filter_map(|s| s.name.as_ref()) {
                if raw.len() < RAW_NAMES_MAX && !raw.contains(name) {
                    raw.push(name.clone());
                }
            }
        }
        if traces.has_any(Traces::SETTING | Traces::ANY_SETTING | Traces::OPAQUE) {
            self.server.is_connect_query_undone = !self.server.place.connect_query.is_empty();
        }
        self.note_resets(shape);
        Ok(())
    }

    /// Notes, at `strict`, that custom settings may come to be, and has them asked for even if their values end with the
    /// transaction. `named`: those that the text names; code in the database may know others.
    fn mark_custom(&mut self, named: impl Iterator<Item = String>, traces: Traces) {
        let left = &mut self.server.left;
        let mut may_have_any = false;
        if traces.has(Traces::OPAQUE) {
            let known = self.judging.knowledge.custom().len();
            may_have_any = known > 0;
            left.has_unknown_custom |= known >= knowledge::CUSTOM_MAX;
        }
        for name in named {
            may_have_any = true;
            left.has_unknown_custom |= !is_restorable(&name);
            left.name(&name);
        }
        if may_have_any {
            left.may_have_custom = true;
            left.fresh |= Traces::SETTING;
        }
    }

    /// Notes which custom settings the values of a Bind may name: one of them may be the name that set_config is given.
    pub(crate) fn mark_values(&mut self, shape: &Shape, body: &[u8]) {
        let is_strict = self.judging.level == Level::Strict;
        let lasts = shape.traces.has(Traces::ANY_SETTING);
        if !self.server.left.is_on || !(lasts || is_strict && shape.traces.has(Traces::LOCAL_SETTING)) {
            return;
        }
        let Ok(bind) = Bind::decode(body) else { return };
        let names = bind.values.iter().flatten().filter(|value| custom::is_setting_name(value));
        let names = names.map(|value| String::from_utf8_lossy(value).to_ascii_lowercase());
        if is_strict {
            return self.mark_custom(names, Traces::NONE);
        }
        names.for_each(|name| self.server.left.name(&name));
    }

    /// Whether the client advanced a sequence on a server that has since served others.
    fn has_lost_sequences(&self) -> bool {
        // What is dirt while the client has the server is its own: anybody else's has been undone.
        let is_there = self.server.left.dirt.has(Traces::SEQUENCE);
        let is_here = is_there && self.client.sequences_on == Some(self.server.id);
        self.client.sequences_on.is_some() && !is_here && !self.server.left.fresh.has(Traces::SEQUENCE)
    }

    /// What goes to the server may notify: its own client hears of that before ReadyForQuery, and others by whose it is.
    fn may_notify(&mut self) {
        let listen = &mut self.server.listen;
        listen.notifies = true;
        if !std::mem::replace(&mut listen.is_notifier_known, true) {
            self.judging.knowledge.note_notifier(self.server.remote_pid, self.client.virtual_pid);
        }
    }

    /// Notes that what goes to the server can't be known: a function call, a text too long to be read. `bytes`: what
    /// there is of it by now.
    pub(crate) fn mark_unknown(&mut self, bytes: &[u8], is_whole: bool) {
        if !self.server.left.is_on {
            return;
        }
        self.server.endings.access.doubt();
        self.may_notify();
        if self.judging.level == Level::Fast {
            return;
        }
        let left = &mut self.server.left;
        self.client.causes.note_unknown(!left.fresh.has_any(super::PINNING));
        left.fresh |= Traces::OPAQUE;
        custom::setting_names(bytes).for_each(|name| left.name(&name));
        left.has_unknown_custom |= !is_whole;
        if self.judging.level == Level::Strict {
            self.mark_custom(custom::setting_names(bytes), Traces::OPAQUE);
        }
    }

    /// The same of a function that is called by its number: one of its values may be the name of a setting.
    #[cold]
    pub(crate) fn mark_function_call(&mut self, at: At<'_>) {
        self.mark_unknown(b"", at.is_whole());
        let Ok(call) = FunctionCall::decode(at.body()) else { return };
        let left = &mut self.server.left;
        let names = call.values.iter().flatten().filter(|value| custom::is_setting_name(value));
        for value in names.take(if left.is_on { CALL_VALUES_MAX } else { 0 }) {
            left.may_have_custom |= self.judging.level == Level::Strict;
            left.name(&String::from_utf8_lossy(value).to_ascii_lowercase());
        }
    }

    /// What a backslash means in a text that is about to go to the server. Until a server has said so itself, it is what
    /// the client was told last; while that may be changing, it can't be told.
    #[inline]
    pub(crate) fn backslash_in(&self, text: &[u8]) -> Backslash {
        let is_new = self.server.hand_over.is_some() || self.server.is_report_due;
        let told = if is_new { &self.client.seen } else { &self.server.reported };
        let may_change = !self.server.expect.is_empty() && self.server.left.fresh.has_any(CHANGES_READING);
        if may_change && text.iter().any(|b| *b == b'\\' || !b.is_ascii()) {
            return Backslash::Unknown;
        }
        told.backslash_in(text)
    }

    /// Whether a Parse at this point must not be shared with other clients.
    pub(crate) fn is_private(&self) -> bool {
        let of_pin = self.client.pin.as_ref().map_or(Traces::NONE, |pin| pin.reasons);
        (self.server.left.fresh | of_pin).has_any(PRIVATE)
    }
}

/// Whether the settings that `shape` does not name are reset by it, and set by nothing in it.
fn only_resets_all(shape: &Shape) -> bool {
    let mut any = shape.statements.iter().filter(|s| s.traces.has(Traces::ANY_SETTING));
    shape.functions.is_empty() && any.all(|s| matches!(s.verb, Verb::Reset | Verb::DiscardAll))
}

/// Whether nothing of sequences is known any more once `shape` has run.
fn discards_sequences(shape: &Shape) -> bool {
    let last = shape.statements.iter().rev().find(|s| s.traces.has(Traces::SEQUENCE));
    shape.functions.is_empty() && last.is_some_and(|s| matches!(s.verb, Verb::Discard | Verb::DiscardAll))
}
