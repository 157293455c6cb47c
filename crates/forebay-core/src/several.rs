//! A Query of several statements, some of which are about prepared ones by name.
//!
//! Each name stands for what it means by then: a DEALLOCATE before it in the same text may have taken it away, a PREPARE
//! may have given it. A PREPARE in such a text is the server's own, under the client's name, and pins it.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;
use forebay_sql::lexer::{Backslash, Kind, Lexer, Token};
use forebay_sql::shape::{Shape, StatementShape, Verb};

use crate::frame::At;
use crate::renamed::{Moved, Places};
use crate::request::{Forwarding, Stop, not_ours};
use crate::session::IDLE;
use crate::session::expect::{Does, Ends, Expect, Naming};
use crate::statements::{Lookup, Presence, Statement};

/// What a name in the text means.
#[derive(Clone)]
enum Meaning {
    /// What the client has prepared, and forebay keeps account of.
    Known(Arc<Statement>),
    /// What the server has under the client's own name.
    Raw,
    /// Nothing.
    Nothing,
}

/// What becomes of the text.
#[derive(Default)]
struct Plan<'s> {
    /// What to put in the place of a name; empty: the name of what is then taken away.
    names: Vec<(Token, Vec<u8>)>,
    /// Names of the client for the statements that are named.
    said: Vec<&'s str>,
    executed: Vec<Arc<Statement>>,
    /// Names that are to be prepared, and are taken.
    refused: Vec<&'s str>,
    /// What each DEALLOCATE and DISCARD ALL takes away, in order.
    taken: Vec<Taken<'s>>,
}

enum Taken<'s> {
    /// The client's name for one. The server is made to take away another, as this may have other names.
    /// In a transaction that has failed nothing else can be made: then it is this.
    One(&'s str, Option<Arc<Statement>>),
    /// None that forebay keeps account of.
    Other,
    All,
}

impl Forwarding<'_> {
    /// `None`: there is no name in the text that the server is to be given another for.
    pub(crate) fn several_query(
        &mut self,
        at: At<'_>,
        text: &[u8],
        shape: &Shape,
        backslash: Backslash,
    ) -> Result<Option<usize>, Stop> {
        let is_about = |s: &StatementShape| matches!(s.verb, Verb::Execute | Verb::Deallocate | Verb::Prepare);
        if shape.statements.len() < 2 || !shape.statements.iter().any(is_about) || !self.is_sharing() {
            return Ok(None);
        }
        self.named_in_several(at, text, shape, backslash)
    }

    #[cold]
    fn named_in_several(
        &mut self,
        at: At<'_>,
        text: &[u8],
        shape: &Shape,
        backslash: Backslash,
    ) -> Result<Option<usize>, Stop> {
        let Some(places) = places(text, shape, backslash) else { return Ok(None) };
        if self.server.status != IDLE && self.server.owes_ready() {
            // What is on its way may fail the transaction, and then nothing of this is done.
            return Err(Stop::Hold);
        }
        let mut plan = self.plan(&places)?;
        if plan.names.is_empty() {
            return Ok(None);
        }
        if !plan.taken.is_empty() {
            self.await_all()?;
        }
        for statement in &plan.executed {
            self.ensure_apart(statement)?;
        }
        plan.executed.iter().for_each(|statement| self.may_take_away(Some(statement)));
        plan.executed.iter().for_each(|statement| self.doubt_access_of(statement.shape()));
        let marked = plan.executed.iter().try_for_each(|statement| self.mark(statement.shape(), statement.text()));
        if let Err(report) = marked.and_then(|()| self.mark(shape, text)) {
            return self.refuse_query(at, *report).map(Some);
        }
        if let Some(rare) = &mut self.client.rare {
            rare.raw_names.retain(|raw| !plan.refused.contains(&&**raw));
        }
        let naming = self.take_in_turn(&mut plan);
        let (sent, moved) = replaced(text, &plan.names);
        write::query(self.batch.owned(), &sent);
        let places = Some(Box::new(Places::of_several(&plan.said, moved, &sent)));
        self.server.expect.push_back(Expect::Query { ends: Ends::Commit, refusal: None, naming, places });
        // What comes behind waits until it is known whether this was done.
        self.server.segment = self.server.segment.wrapping_add(1);
        self.unnamed_ends();
        self.drop_frame(at).map(Some)
    }

    fn plan<'s>(&mut self, places: &[(&'s StatementShape, Token)]) -> Result<Plan<'s>, Stop> {
        let mut plan = Plan::default();
        let mut since: Vec<(&str, Meaning)> = Vec::new();
        let mut all_are_gone = false;
        for &(statement, at) in places {
            let Some(name) = statement.name.as_deref() else {
                all_are_gone = true;
                since.clear();
                plan.taken.push(Taken::All);
                continue;
            };
            let meaning = match since.iter().rfind(|(n, _)| *n == name) {
                Some((_, meaning)) => meaning.clone(),
                None if all_are_gone => Meaning::Nothing,
                None => self.meaning(name)?,
            };
            match (statement.verb, meaning) {
                (verb, Meaning::Known(known)) => {
                    plan.said.push(name);
                    if verb == Verb::Deallocate {
                        since.push((name, Meaning::Nothing));
                        plan.names.push((at, Vec::new()));
                        let is_failed = self.server.status == TransactionStatus::Failed;
                        plan.taken.push(Taken::One(name, is_failed.then_some(known)));
                    } else {
                        plan.names.push((at, known.name().to_vec()));
                        plan.executed.push(known);
                        plan.refused.extend((verb == Verb::Prepare).then_some(name));
                    }
                }
                (verb, _) => {
                    if self.is_ours(name.as_bytes()) {
                        // What is ours under this name is not the client's.
                        plan.names.push((at, not_ours(name)));
                    }
                    if verb == Verb::Prepare {
                        since.push((name, Meaning::Raw));
                    } else if verb == Verb::Deallocate {
                        since.push((name, Meaning::Nothing));
                        plan.taken.push(Taken::Other);
                    }
                }
            }
        }
        Ok(plan)
    }

    /// What a name means before the text.
    fn meaning(&mut self, name: &str) -> Result<Meaning, Stop> {
        let names = self.client.statements.as_ref();
        match names.map_or(Lookup::Unknown, |names| names.find(name.as_bytes(), self.server.segment)) {
            Lookup::Unconfirmed => Err(Stop::Hold),
            // In a transaction that has failed nothing can be prepared for it.
            Lookup::Known(known) if self.server.status == TransactionStatus::Failed => {
                let is_there = self.presence(&known) == Presence::Present;
                Ok(if is_there { Meaning::Known(known) } else { Meaning::Nothing })
            }
            Lookup::Known(known) => Ok(Meaning::Known(known)),
            Lookup::Unknown if self.is_raw(name.as_bytes()) => Ok(Meaning::Raw),
            Lookup::Unknown => Ok(Meaning::Nothing),
        }
    }

    /// Notes what is taken away, and what the server is sent for it. Nothing may have to wait from here on.
    fn take_in_turn(&mut self, plan: &mut Plan<'_>) -> Option<Box<Naming>> {
        let mut namings = Vec::new();
        let mut to_fill = plan.names.iter_mut().map(|(_, name)| name).filter(|name| name.is_empty());
        let segment = self.server.segment;
        for one in &plan.taken {
            namings.push(match one {
                Taken::All => self.take_all(),
                Taken::Other => Box::new(Naming::of(Does::Takes, Vec::new(), Vec::new())),
                Taken::One(name, known) => {
                    let stand_in = known.clone().unwrap_or_else(|| self.stand_in_apart());
                    to_fill.by_ref().take(1).for_each(|place| *place = stand_in.name().to_vec());
                    let change = self.change(name.as_bytes(), None, segment);
                    self.server.statements.close_sent(&stand_in, segment);
                    Box::new(Naming::of(Does::Takes, vec![change], vec![stand_in]))
                }
            });
        }
        namings.into_iter().rev().fold(None, |next, mut naming| {
            naming.next = next;
            Some(naming)
        })
    }
}

/// Statements of a text that are about prepared ones, with the token of the name; of those that take all away, that of ALL.
/// `None`: they could not be told apart.
fn places<'s>(text: &[u8], shape: &'s Shape, backslash: Backslash) -> Option<Vec<(&'s StatementShape, Token)>> {
    let is_about =
        |s: &&StatementShape| matches!(s.verb, Verb::Execute | Verb::Deallocate | Verb::Prepare | Verb::DiscardAll);
    let mut statements = shape.statements.iter().filter(is_about);
    let mut tokens = Lexer::new(text, backslash);
    let mut found = Vec::new();
    let (mut depth, mut is_start) = (0, true);
    while let Some(token) = tokens.next() {
        let bytes = tokens.bytes(token);
        let was_start = std::mem::take(&mut is_start);
        match (token.kind, bytes) {
            (Kind::Mark, b"(") => depth += 1,
            (Kind::Mark, b")") => depth -= 1,
            (Kind::Mark, b";") => is_start = depth == 0,
            (Kind::Word, word) if was_start => {
                let is = |verb: &[u8]| word.eq_ignore_ascii_case(verb);
                if is(b"execute") || is(b"prepare") || is(b"deallocate") || is(b"discard") {
                    let at = name_token(&mut tokens, is(b"deallocate"))?;
                    let next = tokens.bytes(at);
                    let is_all = next.eq_ignore_ascii_case(b"all") || !is(b"discard");
                    let is_transaction = is(b"prepare") && next.eq_ignore_ascii_case(b"transaction");
                    if is_all && !is_transaction {
                        found.push((statements.next()?, at));
                    }
                }
            }
            _ => {}
        }
    }
    statements.next().is_none().then_some(found)
}

/// The token behind the verb; of DEALLOCATE PREPARE, the one behind that.
fn name_token(tokens: &mut Lexer<'_>, may_say_prepare: bool) -> Option<Token> {
    let at = tokens.next()?;
    if may_say_prepare && at.kind == Kind::Word && tokens.bytes(at).eq_ignore_ascii_case(b"prepare") {
        let mut behind = tokens.clone();
        if let Some(next) = behind.next().filter(|t| matches!(t.kind, Kind::Word | Kind::Name)) {
            *tokens = behind;
            return Some(next);
        }
    }
    Some(at)
}

/// The text with names in the places of others, and what that moves.
fn replaced(text: &[u8], names: &[(Token, Vec<u8>)]) -> (Vec<u8>, Vec<Moved>) {
    let (mut out, mut moved) = (text.to_vec(), Vec::new());
    for (token, name) in names {
        let start = out.len() - (text.len() - token.start);
        let end = out.len() - (text.len() - token.end);
        moved.push(Moved::new(&out, start, end, name));
        out.splice(start..end, name.iter().copied());
    }
    (out, moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<Vec<String>> {
        let shape = forebay_sql::grammar::parse(text.as_bytes(), Backslash::Plain);
        let places = places(text.as_bytes(), &shape, Backslash::Plain)?;
        Some(places.iter().map(|(s, at)| format!("{:?} {}", s.verb, &text[at.start..at.end])).collect())
    }

    /// A name put in the wrong place would run another statement.
    #[test]
    fn each_statement_has_its_name() {
        let text = "begin; execute A(1, ';'); /* ; execute no */ deallocate prepare \"b c\"; deallocate all;
            prepare transaction 'p'; discard temp; prepare d (int) as select (1); execute d; discard all";
        let names = found(text).expect("they can be told apart");
        let all = ["Execute A", "Deallocate \"b c\"", "Deallocate all", "Prepare d", "Execute d", "DiscardAll all"];
        assert_eq!(names, all);
    }

    /// An error's place is where the client has it, however many names stand before it.
    #[test]
    fn names_are_replaced_one_after_the_other() {
        let text = "execute a; execute long_name; execute b";
        let tokens: Vec<Token> = Lexer::new(text.as_bytes(), Backslash::Plain).collect();
        let names: Vec<_> = [1, 4, 7].map(|at| (tokens[at], b"fb_12".to_vec())).into();
        let (sent, moved) = replaced(text.as_bytes(), &names);
        let sent = String::from_utf8(sent).expect("it is");
        assert_eq!(sent, "execute fb_12; execute fb_12; execute fb_12");
        let back = |place: u32| moved.iter().rev().fold(place, |place, moved| moved.back(place));
        assert_eq!(back(1), 1);
        let last = |text: &str| text.rfind("execute").expect("it is there") as u32 + 1;
        assert_eq!(back(last(&sent)), last(text));
    }
}
