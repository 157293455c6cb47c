//! What is prepared on a server: [`ServerStatements`].
//!
//! A change that a message in flight will make is made at once and marked with the segment (the run of
//! messages up to a Sync) it belongs to; when the server skips that segment after an error, the change is
//! undone. A later segment never relies on an unconfirmed one: it waits.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Statement;
use super::fixed::There;
use crate::moving::part::part_struct;

/// A change that messages in flight will make, or not.
#[derive(Default)]
pub(super) struct Unanswered {
    pub(super) segment: u32,
    pub(super) changes: u32,
}

impl Unanswered {
    pub(super) fn add(&mut self, segment: u32) {
        self.segment = segment;
        self.changes += 1;
    }

    pub(super) fn answered(&mut self) {
        self.changes = self.changes.saturating_sub(1);
    }

    /// Whether `segment` must wait before it may rely on this.
    pub(super) fn holds(&self, segment: u32) -> bool {
        self.changes > 0 && self.segment != segment
    }
}

/// What is prepared on a server.
#[derive(Default)]
pub struct ServerStatements {
    named: FxHashMap<u64, ServerEntry>,
    /// What the unnamed statement is once all that was sent is done, where that is certain.
    unnamed: Option<Arc<Statement>>,
    /// The one that the server has said is there: it still is if what was sent behind it is skipped.
    unnamed_there: Option<Arc<Statement>>,
    /// Their results have other columns here than their clients know. Mostly none, so that it costs nothing to ask.
    outdated: Vec<Arc<Statement>>,
    /// Parsed here, in the segment of that number, with other settings than those that they were made with.
    misread: Vec<(Arc<Statement>, u32)>,
    /// There may be an unnamed statement, known or not: what was sent to drop it may have been skipped.
    may_have_unnamed: bool,
    pub(super) fixed: There,
    clock: u64,
}

/// An entry that is not `present` stands for a Close that is not answered yet.
struct ServerEntry {
    statement: Arc<Statement>,
    present: bool,
    unanswered: Unanswered,
    used: u64,
}

part_struct!(Unanswered { segment: u32, changes: u32 });
part_struct!(ServerEntry { statement: Arc<Statement>, present: bool, unanswered: Unanswered, used: u64 });
part_struct!(ServerStatements {
    named: FxHashMap<u64, ServerEntry>,
    unnamed: Option<Arc<Statement>>,
    unnamed_there: Option<Arc<Statement>>,
    outdated: Vec<Arc<Statement>>,
    misread: Vec<(Arc<Statement>, u32)>,
    may_have_unnamed: bool,
    fixed: There,
    clock: u64,
});

/// Whether a server has a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It must be parsed first.
    Absent,
    /// It is there, or will be if this segment gets that far.
    Present,
    /// An earlier segment, not yet answered, will or will not have made it.
    Unconfirmed,
}

impl ServerStatements {
    /// Whether `statement` is there for `segment`; marks it as used.
    pub fn find(&mut self, statement: &Arc<Statement>, segment: u32) -> Presence {
        if !statement.is_shared() {
            return if self.is_unnamed(statement) { Presence::Present } else { Presence::Absent };
        }
        self.clock += 1;
        match self.named.get_mut(&statement.id) {
            Some(e) if e.unanswered.holds(segment) => Presence::Unconfirmed,
            Some(e) if e.present => {
                e.used = self.clock;
                Presence::Present
            }
            _ => Presence::Absent,
        }
    }

    /// Whether one of this name is taken to be there, with nothing on its way that says otherwise.
    pub fn has(&self, name: &[u8]) -> bool {
        let is_settled = |e: &ServerEntry| e.present && e.unanswered.changes == 0;
        self.named.values().any(|e| is_settled(e) && e.statement.name() == name)
    }

    /// The statement to close before one more is parsed, when `max` are there.
    pub fn surplus(&self, max: u32) -> Option<Arc<Statement>> {
        if self.named.len() < max as usize || self.named.values().filter(|e| e.present).count() < max as usize {
            return None;
        }
        let settled = self.named.values().filter(|e| e.present && e.unanswered.changes == 0);
        settled.min_by_key(|e| e.used).map(|e| e.statement.clone())
    }

    fn change(&mut self, statement: &Arc<Statement>, present: bool, segment: u32) {
        self.clock += 1;
        let entry = self.named.entry(statement.id).or_insert_with(|| ServerEntry {
            statement: statement.clone(),
            present,
            unanswered: Unanswered::default(),
            used: 0,
        });
        entry.present = present;
        entry.used = self.clock;
        entry.unanswered.add(segment);
    }

    fn answered(&mut self, statement: &Arc<Statement>, present: bool) {
        if let Some(entry) = self.named.get_mut(&statement.id) {
            entry.unanswered.answered();
            if entry.unanswered.changes > 0 {
                // A later change is on its way; what that one makes of it stands.
                return;
            }
            entry.present = present;
            if !present {
                self.named.remove(&statement.id);
            }
        }
    }

    /// A Parse is on its way in `segment`.
    pub fn parse_sent(&mut self, statement: &Arc<Statement>, segment: u32) {
        self.outdated.retain(|s| !s.is(statement));
        self.misread.retain(|(s, _)| !s.is(statement));
        if statement.is_shared() {
            self.change(statement, true, segment);
        } else {
            self.unnamed = Some(statement.clone());
            self.may_have_unnamed = true;
        }
    }

    /// A Close is on its way in `segment`.
    pub fn close_sent(&mut self, statement: &Arc<Statement>, segment: u32) {
        self.change(statement, false, segment);
    }

    /// Whether a segment before `segment` will, or will not, make something of one.
    pub fn is_unconfirmed(&self, segment: u32) -> bool {
        self.named.values().any(|entry| entry.unanswered.holds(segment))
    }

    /// What takes all named ones away is on its way in `segment`. Returns them.
    pub fn close_all_sent(&mut self, segment: u32) -> Vec<Arc<Statement>> {
        let there = self.named.values().filter(|entry| entry.present);
        let there: Vec<_> = there.map(|entry| entry.statement.clone()).collect();
        self.fixed = There::default();
        there.iter().for_each(|statement| self.close_sent(statement, segment));
        there
    }

    /// A Parse was answered by ParseComplete, or a Close was skipped: it is there.
    pub fn is_there(&mut self, statement: &Arc<Statement>) {
        if statement.is_shared() {
            self.answered(statement, true);
        } else {
            self.unnamed_there = Some(statement.clone());
        }
    }

    /// The result of `statement` has other columns here than its clients know.
    pub fn note_outdated(&mut self, statement: &Arc<Statement>) {
        let named = &self.named;
        self.outdated.retain(|s| named.contains_key(&s.id));
        self.outdated.push(statement.clone());
    }

    /// A Parse of `statement` is on its way in `segment`, with other settings in force than those that it was made with.
    pub fn note_misread(&mut self, statement: &Arc<Statement>, segment: u32) {
        if statement.is_shared() {
            let named = &self.named;
            self.misread.retain(|(s, _)| named.contains_key(&s.id));
            self.misread.push((statement.clone(), segment));
        }
    }

    /// Whether that was noted in another segment than `segment`: within one it would be read no better once more.
    #[inline]
    pub fn is_misread(&self, statement: &Arc<Statement>, segment: u32) -> bool {
        self.misread.iter().any(|(s, noted)| s.is(statement) && *noted != segment)
    }

    /// Whether [`Self::note_outdated`] was told of it.
    pub fn is_outdated(&self, statement: &Arc<Statement>) -> bool {
        self.outdated.iter().any(|s| s.is(statement))
    }

    fn is_unnamed(&self, statement: &Arc<Statement>) -> bool {
        self.unnamed.as_ref().is_some_and(|s| s.is(statement))
    }

    /// A Parse was skipped, or a Close was answered: it is not there. Before an unnamed one there may be another.
    pub fn is_gone(&mut self, statement: &Arc<Statement>) {
        if statement.is_shared() {
            self.answered(statement, false);
        } else {
            self.unnamed = self.unnamed_there.clone();
        }
    }

    /// Something is on its way that drops the unnamed statement: a Query, or a Close of it; or a Parse has failed, before
    /// which PostgreSQL drops it too.
    pub fn forget_unnamed(&mut self) {
        self.unnamed = None;
        self.unnamed_there = None;
    }

    /// A statement of our own has taken its place.
    pub fn unnamed_is_ours(&mut self) {
        self.forget_unnamed();
        self.may_have_unnamed = true;
    }

    /// The server has answered what drops the unnamed statement, and owes no answer to a Parse of another.
    pub fn unnamed_is_gone(&mut self) {
        self.forget_unnamed();
        self.may_have_unnamed = false;
    }

    /// The same, with the answer to a Parse of another still to come.
    pub fn unnamed_is_gone_for_now(&mut self) {
        self.unnamed_there = None;
    }

    /// Whether there may be an unnamed statement.
    pub fn may_have_unnamed(&self) -> bool {
        self.may_have_unnamed
    }

    /// All named ones are gone but those that were sent behind what took them away (DEALLOCATE ALL, DISCARD ALL).
    pub fn forget_named(&mut self) {
        self.named.retain(|_, entry| entry.unanswered.changes > 0);
        self.fixed = There::default();
    }

    /// All are gone: a Query of ours took them away.
    pub fn clear(&mut self) {
        self.named.clear();
        self.fixed = There::default();
        self.forget_unnamed();
    }

    /// How many named ones there are.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use forebay_sql::lexer::Backslash;

    use super::*;
    use crate::session::expect::Change;
    use crate::statements::{ClientStatements, Content, Lookup, StatementCache};

    fn share(cache: &mut StatementCache, text: &str) -> Arc<Statement> {
        cache.share(Content {
            text: text.as_bytes(),
            types: &[],
            environment: &"".into(),
            epoch: 0,
            backslash: Backslash::Plain,
        })
    }

    fn cache() -> StatementCache {
        StatementCache::new(Arc::default(), 1 << 20)
    }

    /// A later pipeline that trusted an unanswered Parse would run into "does not exist".
    #[test]
    fn a_later_segment_does_not_rely_on_an_unconfirmed_one() {
        let mut cache = cache();
        let s = share(&mut cache, "select 3");
        let mut client = ClientStatements::default();
        client.change(b"a", Some(s.clone()), 1);
        assert!(matches!(client.find(b"a", 1), Lookup::Known(_)));
        assert!(matches!(client.find(b"a", 2), Lookup::Unconfirmed));
        client.undo(&Change { name: Box::from(*b"a"), before: None, segment: 1 });
        assert!(matches!(client.find(b"a", 2), Lookup::Unknown));
        let mut server = ServerStatements::default();
        server.parse_sent(&s, 1);
        assert_eq!(server.find(&s, 2), Presence::Unconfirmed);
        server.is_there(&s);
        assert_eq!(server.find(&s, 2), Presence::Present);
    }

    #[test]
    fn the_least_recently_used_statement_leaves_first() {
        let mut cache = cache();
        let mut server = ServerStatements::default();
        let [a, b] = ["select 4", "select 5"].map(|t| share(&mut cache, t));
        for s in [&a, &b] {
            server.parse_sent(s, 1);
            server.is_there(s);
        }
        assert_eq!(server.find(&a, 1), Presence::Present);
        assert!(server.surplus(3).is_none());
        assert!(Arc::ptr_eq(&server.surplus(2).expect("two are there"), &b));
    }

    /// A failed pipeline leaves the unnamed statement before it: in a transaction that has failed with it, it can't be parsed
    /// again, and PostgreSQL still describes it.
    #[test]
    fn the_unnamed_statement_outlives_a_parse_that_is_skipped() {
        let mut cache = cache();
        let mut once = |text: &str| {
            let (text, environment) = (text.as_bytes(), &"".into());
            cache.once(Content { text, types: &[], environment, epoch: 0, backslash: Backslash::Plain })
        };
        let [a, b] = [once("set none_such to 1"), once("select 9")];
        let mut server = ServerStatements::default();
        server.parse_sent(&a, 1);
        server.is_there(&a);
        server.parse_sent(&b, 1);
        server.is_gone(&b);
        assert_eq!(server.find(&a, 2), Presence::Present);
        server.parse_sent(&b, 2);
        server.unnamed_is_gone_for_now();
        server.is_gone(&b);
        assert_eq!(server.find(&a, 3), Presence::Absent, "a Query has dropped it");
    }

    /// A server that was told anew would refuse it for ever; one that forgot would hand out rows of other columns.
    #[test]
    fn a_statement_is_outdated_until_it_is_parsed_anew() {
        let mut cache = cache();
        let [a, b] = ["select 7", "select 8"].map(|t| share(&mut cache, t));
        let mut server = ServerStatements::default();
        for s in [&a, &b] {
            server.parse_sent(s, 1);
            server.is_there(s);
        }
        assert!(a.is_as_described(b"n".as_slice().into()), "the first word holds");
        assert!(a.is_as_described(b"n".as_slice().into()) && !a.is_as_described(b"m".as_slice().into()));
        server.note_outdated(&a);
        assert!(server.is_outdated(&a) && !server.is_outdated(&b));
        server.close_sent(&a, 1);
        server.parse_sent(&a, 1);
        assert!(!server.is_outdated(&a));
    }

    /// Parsed again behind a Close, it is there once both are answered: a Bind between the two answers that saw it gone
    /// would have it parsed a second time, and the server says that it already exists.
    #[test]
    fn the_answer_to_a_close_says_nothing_of_a_later_parse() {
        let mut cache = cache();
        let s = share(&mut cache, "select 6");
        let mut server = ServerStatements::default();
        server.parse_sent(&s, 1);
        server.is_there(&s);
        server.close_sent(&s, 2);
        server.parse_sent(&s, 2);
        server.is_gone(&s);
        assert_eq!(server.find(&s, 2), Presence::Present, "the Parse is on its way");
        server.is_there(&s);
        assert_eq!(server.find(&s, 3), Presence::Present);
    }
}
