//! What a prepared statement is, for all workers: [`Prepared`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use forebay_sql::lexer::{Backslash, Kind, Lexer};
use forebay_sql::shape::{Shape, StatementShape, Verb};

use super::{Content, Statement};
use crate::renamed::Moved;
use crate::session::expect::Ends;

/// A statement's content, and the name it has on every server.
#[derive(Debug)]
pub struct Prepared {
    pub(super) key: StatementKey,
    /// `fb_<random>_<n>`, or empty for one that is sent unnamed because its text was seen only once.
    pub(super) name: Box<[u8]>,
    pub(super) id: u64,
    pub(super) ends: Ends,
    pub(super) ends_transaction: bool,
    pub(super) takes_away: bool,
    pub(super) shape: Arc<Shape>,
    /// The PREPARE that makes it, where a Query did.
    pub(super) query: Option<Box<[u8]>>,
    /// What its text names.
    pub(super) needs: Option<Box<Needs>>,
    pub(super) may_name_another: bool,
    /// Where a name was replaced in its text, or in its PREPARE.
    pub(super) moved: Moved,
    /// The columns of its result as its clients were first told of them.
    pub(super) columns: OnceLock<Box<[u8]>>,
    /// The types of its parameters as its clients were first told of them, in the form of [`Prepared::types`].
    pub(super) parameters: OnceLock<Box<[u8]>>,
    /// A client was told of other types, those of a temporary table or of a change that was undone.
    pub(super) is_told_otherwise: AtomicBool,
}

/// Another statement that a text names.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) statement: Arc<Statement>,
    /// Its client's name for that.
    pub(super) name: Box<[u8]>,
    /// The text as its client said it.
    pub(super) said: Box<[u8]>,
}

/// What makes two statements the same: never a bare hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StatementKey {
    pub(super) text: Arc<[u8]>,
    pub(super) types: Arc<[u8]>,
    pub(super) environment: Arc<str>,
    pub(super) epoch: u32,
    /// Databases may differ in what their sessions start with, and what a statement does is read once for all.
    pub(super) backslash: Backslash,
}

impl StatementKey {
    pub(super) fn bytes(&self) -> u64 {
        (self.text.len() + self.types.len()) as u64
    }
}

impl Prepared {
    pub(super) fn new(key: StatementKey, id: u64, name: Box<[u8]>, shape: Arc<Shape>) -> Prepared {
        // A text without a statement does nothing, and may do so in a failed transaction.
        let is_empty = shape.is_parsed && shape.statements.is_empty();
        let ends_transaction = is_empty || ends_transaction(&key.text);
        let ends = ends(&key.text).max(if shape.is_parsed { Ends::of(&shape) } else { Ends::Nothing });
        let takes_away = takes_all(&shape);
        let may_name = |verb| matches!(verb, Verb::Execute | Verb::Deallocate | Verb::Explain | Verb::Schema);
        let may_name_another = matches!(&*shape.statements, [s] if may_name(s.verb));
        Prepared {
            key,
            name,
            id,
            ends,
            ends_transaction,
            takes_away,
            shape,
            query: None,
            needs: None,
            may_name_another,
            moved: Moved::default(),
            columns: OnceLock::new(),
            parameters: OnceLock::new(),
            is_told_otherwise: AtomicBool::new(false),
        }
    }

    /// Its text, without the final NUL.
    pub fn text(&self) -> &[u8] {
        &self.key.text
    }
    /// The type OIDs of its Parse message, four bytes each.
    pub fn types(&self) -> &[u8] {
        &self.key.types
    }
    /// The PREPARE that makes it on a server, if a client made it by one.
    pub fn query(&self) -> Option<&[u8]> {
        self.query.as_deref()
    }
    /// The statement that must be on a server before this one is of use there.
    pub fn needs(&self) -> Option<&Arc<Statement>> {
        self.needs.as_ref().map(|needs| &needs.statement)
    }
    /// What its client calls that one.
    pub(crate) fn needs_name(&self) -> &[u8] {
        self.needs.as_ref().map_or(b"", |needs| &needs.name)
    }
    /// Its text as its client said it.
    pub(crate) fn said(&self) -> &[u8] {
        self.needs.as_ref().map_or(self.text(), |needs| &needs.said)
    }
    /// Whether its text may be about another statement.
    pub(crate) fn may_name_another(&self) -> bool {
        self.may_name_another
    }
    /// What it was made of.
    pub fn content(&self) -> Content<'_> {
        let StatementKey { text, types, environment, epoch, backslash } = &self.key;
        Content { text, types, environment, epoch: *epoch, backslash: *backslash }
    }
    /// Its name on servers; empty: the unnamed statement.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
    /// Where a name was replaced in its text, or in the PREPARE that makes it.
    pub(crate) fn moved(&self) -> Moved {
        self.moved
    }
    /// The number of the schema's state in which its clients parsed it.
    pub fn epoch(&self) -> u32 {
        self.key.epoch
    }
    /// What was set where its clients made it, as [`crate::parameters::Image::environment`] has it.
    pub fn environment(&self) -> &Arc<str> {
        &self.key.environment
    }
    /// Whether clients know the columns of its result.
    pub fn is_described(&self) -> bool {
        self.columns.get().is_some()
    }
    /// Notes what a server says of its columns, in the form of `columns.rs`. Returns whether clients were told the same
    /// before, if anything.
    pub fn is_as_described(&self, columns: Box<[u8]>) -> bool {
        match self.columns.get() {
            Some(known) => *known == columns,
            None => self.columns.set(columns).is_ok(),
        }
    }
    /// Notes which types of its parameters a client is told, four bytes each.
    pub fn note_parameters(&self, types: &[u8]) {
        if **self.parameters.get_or_init(|| types.into()) != *types {
            self.is_told_otherwise.store(true, Ordering::Relaxed);
        }
    }
    /// The types to parse it with on a server that lacks it: those by which its clients write values, if they agree.
    pub fn types_told(&self) -> &[u8] {
        match self.parameters.get() {
            Some(told) if !self.is_told_otherwise.load(Ordering::Relaxed) => told,
            _ => self.types(),
        }
    }
    /// What it does.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
    /// Whether it has a name of its own.
    pub fn is_shared(&self) -> bool {
        self.id != 0
    }
    /// What it ends, or what the statement ends that it executes.
    pub fn ends(&self) -> Ends {
        std::iter::successors(self.needs(), |statement| statement.needs()).fold(self.ends, |ends, s| ends.max(s.ends))
    }
    /// Whether it may run in a transaction that has failed.
    pub fn ends_transaction(&self) -> bool {
        self.ends_transaction
    }
    /// Whether it takes prepared statements away, and it is known which: a DEALLOCATE or DISCARD ALL.
    pub fn takes_away(&self) -> bool {
        self.takes_away
    }
}

/// Whether a text takes all prepared statements away: DEALLOCATE ALL, DISCARD ALL.
pub(crate) fn takes_all(shape: &Shape) -> bool {
    let takes_all = |s: &StatementShape| s.verb == Verb::DiscardAll || (s.verb == Verb::Deallocate && s.name.is_none());
    shape.statements.iter().any(takes_all)
}

/// The words that a text begins with, behind spaces, comments and empty statements.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut lexer = Lexer::new(text, Backslash::Plain);
    let mut has_begun = false;
    std::iter::from_fn(move || {
        loop {
            let token = lexer.next()?;
            match token.kind {
                Kind::Word => {
                    has_begun = true;
                    return Some(lexer.bytes(token));
                }
                Kind::Mark if !has_begun && lexer.bytes(token) == b";" => {}
                _ => return None,
            }
        }
    })
}

pub(super) fn ends_transaction(text: &[u8]) -> bool {
    let is_rollback = |word: &[u8]| word.eq_ignore_ascii_case(b"rollback") || word.eq_ignore_ascii_case(b"abort");
    is_commit(text) || words(text).next().is_some_and(is_rollback)
}

/// What a text of one statement ends, by its first words.
pub fn ends(text: &[u8]) -> Ends {
    let is_to = |word: &[u8]| word.eq_ignore_ascii_case(b"to");
    if is_commit(text) {
        Ends::Commit
    } else if ends_transaction(text) && !words(text).skip(1).take(2).any(is_to) {
        Ends::Block
    } else if words(text).next().is_some_and(commits_itself) {
        Ends::Itself
    } else {
        Ends::Nothing
    }
}

/// Whether statements that begin so may commit a part of what they do, where they are in no block.
fn commits_itself(word: &[u8]) -> bool {
    let verbs = [
        "call", "do", "vacuum", "analyze", "analyse", "reindex", "cluster", "repack", "create", "alter", "drop",
        "refresh",
    ];
    verbs.iter().any(|verb| word.eq_ignore_ascii_case(verb.as_bytes()))
}

/// Whether a text begins with COMMIT, END or PREPARE TRANSACTION: were its answer lost, so is what became of the
/// transaction.
fn is_commit(text: &[u8]) -> bool {
    let mut words = words(text);
    let Some(first) = words.next() else { return false };
    first.eq_ignore_ascii_case(b"commit")
        || first.eq_ignore_ascii_case(b"end")
        || first.eq_ignore_ascii_case(b"prepare")
            && words.next().is_some_and(|second| second.eq_ignore_ascii_case(b"transaction"))
}

/// As [`ends`], of a text of which only the beginning is there: unless that tells, it may commit.
pub fn ends_cut(text: &[u8]) -> Ends {
    if words(text).nth(1).is_some() { ends(text) } else { Ends::Commit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_is_told_by_its_first_word() {
        assert!(is_commit(b"  commit") && is_commit(b"END;") && is_commit(b"COMMIT AND CHAIN"));
        assert!(
            !is_commit(b"commits") && !is_commit(b"select 'commit'") && !is_commit(b"commit_log") && !is_commit(b"")
        );
        assert!(is_commit(b"prepare  Transaction 'a'") && !is_commit(b"prepare transactions as select 1"));
    }

    /// Tracers put a comment before every statement; a COMMIT that was not seen as one would be reported as undone.
    #[test]
    fn comments_before_a_commit_do_not_hide_it() {
        for text in ["/* a /* b */ **/commit", "-- note\n commit", "--\r\x0bcommit", "/*x*/ -- y\n/**/ COMMIT"] {
            assert!(is_commit(text.as_bytes()), "{text}");
        }
        for text in ["/* commit", "/* /* */ commit", "-- commit", "/ commit", "/*/ commit"] {
            assert!(!is_commit(text.as_bytes()), "{text}");
        }
        assert!(ends_transaction(b"/* route */ Rollback to a") && !ends_transaction(b"rollbacks"));
        assert!(is_commit(b"prepare /* two */ transaction 'a'"));
    }

    #[test]
    fn a_rollback_ends_the_block_unless_it_is_to_a_savepoint() {
        for text in ["rollback", "ROLLBACK WORK", "abort;", "rollback and chain", "/* a */ abort transaction"] {
            assert_eq!(ends(text.as_bytes()), Ends::Block, "{text}");
        }
        for text in ["rollback to a", "ROLLBACK WORK TO SAVEPOINT a", "rollback transaction to a", "select 1", ""] {
            assert_eq!(ends(text.as_bytes()), Ends::Nothing, "{text}");
        }
        assert_eq!([ends(b"end"), ends(b"commit and chain"), ends(b"; /* a */ ;commit")], [Ends::Commit; 3]);
        assert_eq!([ends_cut(b"/* a long com"), ends_cut(b"com"), ends_cut(b"end of")], [Ends::Commit; 3]);
        assert_eq!([ends(b"call p()"), ends(b"DO $$begin end$$"), ends(b"vacuum t")], [Ends::Itself; 3]);
        assert_eq!([ends_cut(b"insert into t val"), ends_cut(b"select a, b")], [Ends::Nothing; 2]);
    }
}
