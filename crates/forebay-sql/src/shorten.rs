//! Long texts made short: rows and list items that differ from the one before in their literals alone are left out, and
//! long literals emptied. The shape stays, for it knows neither literals nor how often something is named.
//!
//! `INSERT … VALUES` of thousands of rows is the common long text. Its grammar would take milliseconds; this takes one
//! pass of the lexer.

use crate::fingerprint::{Literals, after_mark, after_name, class, is_marked};
use crate::grammar;
use crate::lexer::{Backslash, Kind, Lexer, Token};
use crate::shape::Shape;

/// Longer texts may do anything.
pub const LONG_BYTES_MAX: usize = 1 << 20;

/// Longer literals are emptied.
const LITERAL_BYTES_KEPT: usize = 64;

/// A list whose items are compared, each with the one before.
struct List {
    /// Brackets that are open around its items.
    depth: u32,
    /// The item at hand, without its literals.
    item: Vec<u8>,
    /// The same of the last one that was kept.
    kept: Vec<u8>,
    /// Bytes written when that one had ended.
    kept_at: usize,
    has_kept: bool,
}

struct Shortening<'t, 'o> {
    text: &'t [u8],
    out: &'o mut Vec<u8>,
    /// The text is written up to here.
    copied: usize,
    depth: u32,
    list: Option<List>,
}

/// The shape of `text`, however long it is, without a cache.
pub fn parse(text: &[u8], backslash: Backslash) -> Shape {
    if text.len() <= grammar::TEXT_BYTES_MAX {
        return grammar::parse(text, backslash);
    }
    shortened(text, backslash).map_or_else(grammar::unknown, |left| grammar::parse(&left, backslash))
}

/// A text too long for the grammar, made short enough for it; `None`: it can't be.
pub(crate) fn shortened(text: &[u8], backslash: Backslash) -> Option<Vec<u8>> {
    let mut left = Vec::new();
    let is_read = text.len() <= LONG_BYTES_MAX && shorten(text, backslash, &mut left);
    (is_read && left.len() <= grammar::TEXT_BYTES_MAX).then_some(left)
}

/// Writes what is left of `text` to `out`, in place of what is there.
///
/// False: the text can't be read, as it is not UTF-8, holds a NUL or a token that PostgreSQL refuses.
pub fn shorten(text: &[u8], backslash: Backslash, out: &mut Vec<u8>) -> bool {
    out.clear();
    if std::str::from_utf8(text).is_err() || memchr::memchr(0, text).is_some() {
        return false;
    }
    let lexer = Lexer::new(text, backslash);
    let mut work = Shortening { text, out, copied: 0, depth: 0, list: None };
    let mut literals = Literals::Marked;
    // A list may begin behind the token before.
    let mut opens = Opens::Nothing;
    for token in lexer.clone() {
        if token.kind == Kind::Broken {
            return false;
        }
        let bytes = lexer.bytes(token);
        work.token(token, bytes, is_marked(literals), opens);
        opens = if token.kind == Kind::Word && work.list.is_none() { Opens::behind(bytes) } else { Opens::Nothing };
        if opens == Opens::Rows {
            work.begin(work.depth);
        }
        literals = match (token.kind, literals) {
            (Kind::Word | Kind::Name, _) => after_name(token, bytes, literals),
            (Kind::Mark, Literals::Named | Literals::Called { .. }) => after_mark(bytes, literals),
            (Kind::Text | Kind::Number, _) => literals,
            (_, Literals::Named) => Literals::Kept,
            _ => literals,
        };
    }
    work.end_item(text.len());
    let rest = work.copied;
    work.out.extend_from_slice(&text[rest..]);
    true
}

/// What a word is followed by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opens {
    Nothing,
    /// VALUES: rows.
    Rows,
    /// IN: a list in round brackets.
    Round,
    /// ARRAY: a list in square ones.
    Square,
}

impl Opens {
    fn behind(word: &[u8]) -> Opens {
        match word.len() {
            2 if word.eq_ignore_ascii_case(b"in") => Opens::Round,
            5 if word.eq_ignore_ascii_case(b"array") => Opens::Square,
            6 if word.eq_ignore_ascii_case(b"values") => Opens::Rows,
            _ => Opens::Nothing,
        }
    }
}

impl Shortening<'_, '_> {
    fn token(&mut self, token: Token, bytes: &[u8], is_marked: bool, opens: Opens) {
        match bytes {
            b"(" | b"[" if token.kind == Kind::Mark => {
                self.depth += 1;
                if (bytes, opens) == (b"(", Opens::Round) || (bytes, opens) == (b"[", Opens::Square) {
                    return self.begin(self.depth);
                }
            }
            b")" | b"]" if token.kind == Kind::Mark => {
                self.depth = self.depth.saturating_sub(1);
                if self.list.as_ref().is_some_and(|list| self.depth < list.depth) {
                    self.end_item(token.start);
                    self.list = None;
                }
            }
            b";" if token.kind == Kind::Mark && self.list.as_ref().is_some_and(|list| list.depth == self.depth) => {
                self.end_item(token.start);
                self.list = None;
            }
            b"," if token.kind == Kind::Mark && self.list.as_ref().is_some_and(|list| list.depth == self.depth) => {
                self.end_item(token.start);
                return;
            }
            _ => {}
        }
        let mark = match token.kind {
            Kind::Text | Kind::Number if is_marked => Some(class(token, bytes)),
            Kind::Parameter => Some(b'$'),
            _ => None,
        };
        if let Some(list) = &mut self.list {
            match mark {
                Some(mark) => list.item.push(mark),
                None => list.item.extend_from_slice(bytes),
            }
            // Two tokens are never one.
            list.item.push(b' ');
        }
        if token.kind == Kind::Text && is_marked && bytes.len() > LITERAL_BYTES_KEPT {
            self.empty_literal(token, bytes);
        }
    }

    fn begin(&mut self, depth: u32) {
        let (item, kept) = (Vec::new(), Vec::new());
        self.list = Some(List { depth, item, kept, kept_at: 0, has_kept: false });
    }

    /// The item at hand ends here: it stays, or goes with the comma before it.
    fn end_item(&mut self, end: usize) {
        let Some(list) = &mut self.list else { return };
        if list.has_kept && list.item == list.kept {
            self.out.truncate(list.kept_at);
        } else {
            self.out.extend_from_slice(&self.text[self.copied..end]);
            list.kept_at = self.out.len();
            list.has_kept = true;
            std::mem::swap(&mut list.kept, &mut list.item);
        }
        list.item.clear();
        self.copied = end;
    }

    fn empty_literal(&mut self, token: Token, bytes: &[u8]) {
        // `U&'` has two letters before its quote, the other kinds one or none; `$…$` has none that matter.
        let prefix = memchr::memchr(b'\'', bytes).filter(|at| *at <= 2 && bytes[0] != b'$').unwrap_or(0);
        self.out.extend_from_slice(&self.text[self.copied..token.start]);
        self.out.extend_from_slice(&bytes[..prefix]);
        self.out.extend_from_slice(b"''");
        self.copied = token.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(text: &str) -> String {
        let mut out = Vec::new();
        assert!(shorten(text.as_bytes(), Backslash::Plain, &mut out), "{text}");
        String::from_utf8(out).expect("what is left of UTF-8 is UTF-8")
    }

    #[test]
    fn rows_that_differ_in_literals_alone_are_one() {
        for (text, left) in [
            (
                "insert into t values (1,'a'), (2, 'b'),(3,null),(4,'c')",
                "insert into t values (1,'a'),(3,null),(4,'c')",
            ),
            (
                "insert into t (a) values ($1),($2),\n($3) returning a",
                "insert into t (a) values ($1),\n($3) returning a",
            ),
            ("insert into t values (1, now()), (2, now()) ; select 1", "insert into t values (1, now()); select 1"),
            ("select * from t where a in (1, 2,3) and b in ($1,$2)", "select * from t where a in (1) and b in ($1)"),
            ("select array[1,2,3], f(1,2,3)", "select array[1], f(1,2,3)"),
            ("with v as (values (1),(2)) select * from v", "with v as (values (1)) select * from v"),
            ("values (f(1)),(g(2)),(g(3))", "values (f(1)),(g(2))"),
            (
                "values (set_config('a.b','1',false)),(set_config('c.d','1',false))",
                "values (set_config('a.b','1',false)),(set_config('c.d','1',false))",
            ),
        ] {
            assert_eq!(short(text), left);
        }
    }

    #[test]
    fn long_literals_are_emptied() {
        let long = "x".repeat(100);
        assert_eq!(short(&format!("select '{long}', E'{long}', 'short'")), "select '', E'', 'short'");
        assert_eq!(short(&format!("select $q${long}$q$ || U&'{long}'")), "select '' || U&''");
        let kept = format!("select set_config('{long}', '{long}', true)");
        assert_eq!(short(&kept), format!("select set_config('{long}', '', true)"));
    }

    /// An INSERT of an ORM that counted as able to do anything would cost a look at the whole session.
    #[test]
    fn a_long_insert_has_the_shape_of_its_rows() {
        let insert = |rows: usize| format!("insert into t values {}(0, '')", "(1, 'it''s'),".repeat(rows));
        let mut cache = crate::cache::ShapeCache::new(8);
        let short = format!("{:?}", cache.shape(insert(1).as_bytes(), Backslash::Plain));
        assert_eq!(format!("{:?}", cache.shape(insert(20_000).as_bytes(), Backslash::Plain)), short);
        let longer = insert(LONG_BYTES_MAX / 10);
        assert!(!cache.shape(longer.as_bytes(), Backslash::Plain).is_parsed);
    }

    #[test]
    fn what_can_not_be_read_is_not_shortened() {
        for text in [&b"select 'open"[..], b"select \xff", b"select \0 1"] {
            assert!(!shorten(text, Backslash::Plain, &mut Vec::new()));
        }
    }

    /// A shape that changed would let a statement pass that leaves something behind.
    #[test]
    fn the_shape_stays() {
        for text in [
            "insert into t values (1, nextval('s')), (2, nextval('s')), (3, pg_advisory_lock(4))",
            "insert into t select * from u where a in (1,2,3) on conflict (a) do update set b = lower(excluded.b), c = 3",
            "set work_mem = '1MB'; insert into t values (1),(2); create temp table x as values (1),(2),(3)",
            "select a in (select b from c where d in (1,2)), array[array[1,2],array[3,4]] from (values (1,2),(3,4)) v(a,b)",
            "insert into t values (row(1,2)), (row(3,4)), (array[1,2]::int[]), (array[3,4]::text[])",
            "select set_config('a.b', 'x', false) in ('a', 'b'), 'x' in (set_config('c.d', 'y', true), lower('z'))",
            "declare c cursor with hold for values (1),(2),(3)",
            "prepare p as insert into t values ($1,$2),($3,$4)",
        ] {
            let (whole, left) = (grammar::parse(text.as_bytes(), Backslash::Plain), short(text));
            assert!(whole.is_parsed, "{text}");
            let of_left = grammar::parse(left.as_bytes(), Backslash::Plain);
            assert_eq!(format!("{of_left:?}"), format!("{whole:?}"), "{text}\n{left}");
        }
    }
}
