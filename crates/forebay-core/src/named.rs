//! Texts that are one statement about a prepared statement: [`Named`] finds the name.

use std::borrow::Cow;

use forebay_sql::lexer::{Backslash, Kind, Lexer, Token};
use forebay_sql::shape::{Shape, Verb};

use crate::renamed::Moved;

/// A text that is one statement about a prepared statement: where in it the name stands.
pub(crate) struct Named<'t> {
    pub(crate) verb: Verb,
    pub(crate) name: Cow<'t, str>,
    pub(crate) text: &'t [u8],
    at: Token,
    /// Of PREPARE: what is prepared.
    pub(crate) body: Option<&'t [u8]>,
}

impl<'t> Named<'t> {
    pub(crate) fn find(text: &'t [u8], shape: &'t Shape, backslash: Backslash) -> Option<Named<'t>> {
        let [statement] = &*shape.statements else { return None };
        let verb = statement.verb;
        if matches!(verb, Verb::Explain | Verb::Schema) {
            return Named::find_within(text, verb, backslash);
        }
        let name = Cow::from(statement.name.as_deref()?);
        if !matches!(verb, Verb::Prepare | Verb::Execute | Verb::Deallocate) {
            return None;
        }
        let mut tokens = Lexer::new(text, backslash);
        // Empty statements may stand before it.
        while tokens.next().map(|token| tokens.bytes(token))? == b";" {}
        let mut at = tokens.next()?;
        if verb == Verb::Deallocate
            && at.kind == Kind::Word
            && tokens.bytes(at).eq_ignore_ascii_case(b"prepare")
            && let Some(next) = tokens.clone().next().filter(|t| matches!(t.kind, Kind::Word | Kind::Name))
        {
            at = next;
        }
        if !matches!(at.kind, Kind::Word | Kind::Name) {
            return None;
        }
        let body = if verb == Verb::Prepare { Some(body(text, tokens)?) } else { None };
        Some(Named { verb, name, text, at, body })
    }

    /// EXPLAIN EXECUTE, CREATE TABLE … AS EXECUTE.
    fn find_within(text: &'t [u8], verb: Verb, backslash: Backslash) -> Option<Named<'t>> {
        let mut tokens = Lexer::new(text, backslash);
        let mut depth = 0;
        // Where EXECUTE stands, and nothing else does: behind EXPLAIN and its options, or behind the first AS.
        let mut may_execute = false;
        let mut is_behind_explain = verb == Verb::Explain;
        loop {
            let token = tokens.next()?;
            let bytes = tokens.bytes(token);
            let is_word = |word: &[u8]| token.kind == Kind::Word && bytes.eq_ignore_ascii_case(word);
            match bytes {
                b"(" => depth += 1,
                b")" => depth -= 1,
                _ if depth > 0 => {}
                _ if is_word(b"execute") && may_execute => break,
                _ if is_word(b"as") => (may_execute, is_behind_explain) = (true, false),
                _ if may_execute && !is_behind_explain => return None,
                b";" => {}
                _ if is_behind_explain => {
                    const OPTIONS: [&[u8]; 4] = [b"explain", b"analyze", b"analyse", b"verbose"];
                    may_execute = OPTIONS.iter().any(|option| is_word(option));
                    is_behind_explain = may_execute;
                    if !(may_execute || is_word(b"create")) {
                        return None;
                    }
                }
                _ => {}
            }
        }
        let at = tokens.next()?;
        let name = std::str::from_utf8(tokens.bytes(at)).ok()?;
        let name = match at.kind {
            Kind::Word => name.to_ascii_lowercase(),
            Kind::Name => name.trim_matches('"').replace("\"\"", "\""),
            _ => return None,
        };
        Some(Named { verb: Verb::Execute, name: name.into(), text, at, body: None })
    }

    /// What that does to places in the text.
    pub(crate) fn moved(&self, name: &[u8]) -> Moved {
        Moved::new(self.text, self.at.start, self.at.end, name)
    }

    /// The text with `name` in the place of the client's.
    pub(crate) fn with(&self, name: &[u8]) -> Vec<u8> {
        [&self.text[..self.at.start], name, &self.text[self.at.end..]].concat()
    }
}

/// What stands behind AS; `tokens` begin behind the name.
fn body<'t>(text: &'t [u8], mut tokens: Lexer<'t>) -> Option<&'t [u8]> {
    let mut depth = 0;
    loop {
        let token = tokens.next()?;
        match tokens.bytes(token) {
            b"(" => depth += 1,
            b")" => depth -= 1,
            word if depth == 0 && word.eq_ignore_ascii_case(b"as") => return text.get(token.end..),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(text: &str) -> Option<(Verb, String, String, Option<String>)> {
        let shape = forebay_sql::grammar::parse(text.as_bytes(), Backslash::Plain);
        let named = Named::find(text.as_bytes(), &shape, Backslash::Plain)?;
        let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((named.verb, named.name.to_string(), string(&named.with(b"fb_1")), named.body.map(string)))
    }

    /// A name put in the wrong place would run another statement.
    #[test]
    fn the_name_is_replaced_wherever_it_stands() {
        for (text, name, with, body) in [
            ("prepare p as select 1", "p", "prepare fb_1 as select 1", Some(" select 1")),
            (
                "/* x */ PREPARE \"P q\" (int, text) as select $1",
                "P q",
                "/* x */ PREPARE fb_1 (int, text) as select $1",
                Some(" select $1"),
            ),
            (
                "prepare p(numeric(3,1)) as insert into t values ($1);",
                "p",
                "prepare fb_1(numeric(3,1)) as insert into t values ($1);",
                Some(" insert into t values ($1);"),
            ),
            ("execute P(1, 'p')", "p", "execute fb_1(1, 'p')", None),
            ("deallocate prepare p", "p", "deallocate prepare fb_1", None),
            ("deallocate p;", "p", "deallocate fb_1;", None),
            ("; ;execute p", "p", "; ;execute fb_1", None),
            ("explain (costs off) execute \"P\"(1)", "P", "explain (costs off) execute fb_1(1)", None),
            ("explain analyze verbose execute p", "p", "explain analyze verbose execute fb_1", None),
            ("explain create table t as execute p", "p", "explain create table t as execute fb_1", None),
            ("create temp table t as execute p", "p", "create temp table t as execute fb_1", None),
            (
                "create table execute (execute) as execute p",
                "p",
                "create table execute (execute) as execute fb_1",
                None,
            ),
        ] {
            let (_, found, new, what) = renamed(text).expect(text);
            assert_eq!((found.as_str(), new.as_str(), what.as_deref()), (name, with, body), "{text}");
        }
        for text in [
            "deallocate all",
            "select 1",
            "execute p; execute q",
            "prepare transaction 'p'",
            "create table execute (p int)",
            "create table t (execute p)",
            "create view v as select 1 as execute",
            "create trigger t after insert on t execute function p()",
            "explain select 1 as execute from p",
            "explain insert into execute values (1)",
        ] {
            assert!(renamed(text).is_none(), "{text}");
        }
    }
}
