//! What the body of a function in SQL or PL/pgSQL may leave behind, from its tokens.
//!
//! No grammar: a word that begins a statement is known to be harmless, or is not; every name that stands before a
//! parenthesis is a function; every word that is the name of a relation or a type of the database is taken for it.
//! What is told is an upper bound.

use rustc_hash::FxHashMap;

use crate::builtin;
use crate::lexer::{Backslash, Kind, Lexer, Token};
use crate::traces::Traces;

use super::closure::Vertex;
use super::names::Names;

/// PostgreSQL cuts longer names, so that one may mean another.
const NAME_BYTES_MAX: usize = 63;

/// What a body is written in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Sql,
    PlPgSql,
}

/// What was found in a body.
#[derive(Default)]
pub(super) struct Found {
    /// What it leaves behind by itself.
    pub(super) traces: Traces,
    /// What made it so, in the order of the body.
    pub(super) why: Vec<String>,
    /// Objects that it uses.
    pub(super) uses: Vec<Vertex>,
    /// Names of settings with a dot in them.
    pub(super) settings: Vec<String>,
}

/// Reads a body.
pub(super) fn read(text: &[u8], language: Language, names: &Names<'_>) -> Found {
    let mut found = Found::default();
    Body::new(text, Backslash::Plain, language, names).read(&mut found);
    if memchr::memchr(b'\\', text).is_some() {
        // What a backslash means is decided by the session that runs it.
        Body::new(text, Backslash::Escape, language, names).read(&mut found);
    }
    found.uses.sort_unstable();
    found.uses.dedup();
    found
}

struct Body<'b> {
    lexer: Lexer<'b>,
    tokens: Vec<Token>,
    language: Language,
    names: &'b Names<'b>,
    /// By token: where the parenthesis that it opens is closed.
    closings: FxHashMap<usize, usize>,
    /// Whether some statement of it writes to relations.
    writes: bool,
}

impl<'b> Body<'b> {
    fn new(text: &'b [u8], backslash: Backslash, language: Language, names: &'b Names<'b>) -> Body<'b> {
        let lexer = Lexer::new(text, backslash);
        let tokens: Vec<Token> = lexer.clone().collect();
        let mut body = Body { lexer, tokens, language, names, closings: FxHashMap::default(), writes: false };
        let mut open = Vec::new();
        for at in 0..body.tokens.len() {
            if body.is_mark(at, b"(") {
                open.push(at);
            } else if body.is_mark(at, b")")
                && let Some(opening) = open.pop()
            {
                body.closings.insert(opening, at);
            }
        }
        body.writes = (0..body.tokens.len()).any(|at| body.is_writing_word(at));
        body
    }

    fn read(self, found: &mut Found) {
        if self.writes {
            found.leave(Traces::WRITES, || String::from("its body writes"));
        }
        let mut place = Place::default();
        let mut folded = String::with_capacity(NAME_BYTES_MAX);
        for at in 0..self.tokens.len() {
            match self.tokens[at].kind {
                Kind::Broken => found.leave(Traces::OPAQUE, || String::from("its body can't be read")),
                Kind::Operator => self.operator(at, found),
                Kind::Word | Kind::Name => {
                    if !self.fold(at, &mut folded) {
                        found.leave(Traces::OPAQUE, || String::from("its body holds a name that can't be read"));
                        continue;
                    }
                    if self.tokens[at].kind == Kind::Word {
                        self.word(at, &folded, &mut place, found);
                    }
                    self.name(at, &folded, found);
                }
                Kind::Mark if self.is_mark(at, b";") => place.expressions = 0,
                Kind::Text | Kind::Number | Kind::Parameter | Kind::Mark => {}
            }
        }
    }

    fn bytes(&self, at: usize) -> &'b [u8] {
        self.tokens.get(at).map_or(&[], |token| self.lexer.bytes(*token))
    }

    fn is_word(&self, at: usize, words: &[&str]) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == Kind::Word)
            && words.iter().any(|word| self.bytes(at).eq_ignore_ascii_case(word.as_bytes()))
    }

    fn is_mark(&self, at: usize, mark: &[u8]) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == Kind::Mark) && self.bytes(at) == mark
    }

    /// Whether the token before it is one of these words.
    fn follows(&self, at: usize, words: &[&str]) -> bool {
        at > 0 && self.is_word(at - 1, words)
    }

    /// Writes the name at `at` as PostgreSQL folds it. False: it can't be told.
    fn fold(&self, at: usize, into: &mut String) -> bool {
        into.clear();
        let bytes = self.bytes(at);
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        if self.tokens[at].kind == Kind::Word {
            into.push_str(text);
            into.make_ascii_lowercase();
            // Encodings of one byte a letter fold letters that the others leave alone.
            if !into.is_ascii() && into.chars().any(char::is_uppercase) {
                return false;
            }
        } else if let Some(inside) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            into.push_str(&inside.replace("\"\"", "\""));
        } else {
            return false;
        }
        into.len() <= NAME_BYTES_MAX
    }

    fn is_writing_word(&self, at: usize) -> bool {
        self.is_word(at, &["insert", "merge", "delete", "truncate", "copy"])
            // `FOR UPDATE` and `FOR NO KEY UPDATE` lock rows.
            || self.is_word(at, &["update"]) && !self.follows(at, &["for", "key"])
    }

    fn operator(&self, at: usize, found: &mut Found) {
        let Ok(symbol) = std::str::from_utf8(self.bytes(at)) else { return };
        let named = self.names.get(symbol);
        if let Some(named) = named {
            found.uses.extend(&named.functions);
        }
        // `f(a => 1)`; `!=` is read as `<>`.
        if named.is_none() && !builtin::is_operator(symbol) && !matches!(symbol, "=>" | "!=") {
            found.leave(Traces::OPAQUE, || format!("its body uses operator {symbol}, which is not known"));
        }
    }

    /// A word where a keyword may be meant.
    fn word(&self, at: usize, word: &str, place: &mut Place, found: &mut Found) {
        let may_begin = self.may_begin_statement(at);
        // Behind THEN and ELSE of an expression stands a value. Since a column may be called `case`, commands are still
        // looked for there.
        let begins = may_begin && (place.expressions == 0 || self.is_command(at, word));
        match word {
            "declare" if begins || !place.has_begun => place.declares = self.language == Language::PlPgSql,
            "begin" => *place = Place { has_begun: true, ..Place::default() },
            "case" if !begins && !self.follows(at, &["end"]) => place.expressions += 1,
            "end" => place.expressions = place.expressions.saturating_sub(1),
            "update" | "share" if self.follows(at, &["for", "key"]) => {
                found.leave(Traces::PRIMARY, || String::from("its body locks rows"));
            }
            "execute" => {
                self.settings_in_texts(found);
                found.leave(Traces::OPAQUE, || String::from("its body runs SQL that it makes up"));
            }
            "explain" => found.leave(Traces::OPAQUE, || String::from("its body explains a statement")),
            "into" if self.language == Language::Sql && !self.follows(at, &["insert", "merge"]) => {
                found.leave(Traces::OPAQUE, || String::from("its body makes a table"));
            }
            _ => {}
        }
        if begins && !place.declares {
            self.statement(at, word, found);
        }
    }

    /// Whether a statement may begin there.
    fn may_begin_statement(&self, at: usize) -> bool {
        if at == 0 || self.is_mark(at - 1, b";") {
            return true;
        }
        if self.language == Language::Sql {
            return false;
        }
        let is_label_before = self.tokens[at - 1].kind == Kind::Operator && self.bytes(at - 1) == b">>";
        // `END LOOP label;`
        let is_label = at > 1 && self.is_word(at - 2, &["end"]) && self.is_mark(at + 1, b";");
        is_label_before || self.follows(at, &["begin", "then", "else"]) || self.follows(at, &["loop"]) && !is_label
    }

    /// Whether it begins a command rather than an expression.
    fn is_command(&self, at: usize, word: &str) -> bool {
        const COMMANDS: [&str; 33] = [
            "abort",
            "alter",
            "analyse",
            "analyze",
            "call",
            "checkpoint",
            "cluster",
            "comment",
            "commit",
            "copy",
            "create",
            "deallocate",
            "discard",
            "do",
            "drop",
            "grant",
            "import",
            "listen",
            "load",
            "notify",
            "prepare",
            "reassign",
            "refresh",
            "reindex",
            "release",
            "reset",
            "revoke",
            "rollback",
            "savepoint",
            "security",
            "set",
            "unlisten",
            "vacuum",
        ];
        const IN_EXPRESSIONS: [&str; 16] = [
            "and", "at", "between", "collate", "else", "end", "ilike", "in", "is", "isnull", "like", "not", "notnull",
            "or", "similar", "when",
        ];
        COMMANDS.binary_search(&word).is_ok()
            && self.tokens.get(at + 1).is_some_and(|next| match next.kind {
                Kind::Word => !self.is_word(at + 1, &IN_EXPRESSIONS),
                Kind::Mark => self.is_mark(at + 1, b";") || self.is_mark(at + 1, b"("),
                Kind::Name | Kind::Text | Kind::Broken => true,
                Kind::Number | Kind::Parameter | Kind::Operator => false,
            })
    }

    /// A statement that begins with `word`.
    fn statement(&self, at: usize, word: &str, found: &mut Found) {
        let traces = match word {
            "select" | "with" | "values" | "table" | "insert" | "update" | "delete" | "merge" | "truncate" | "show"
            | "return" => return,
            "lock" => Traces::PRIMARY,
            "set" if self.is_word(at + 1, &["local", "transaction", "constraints"]) => Traces::LOCAL_SETTING,
            "set" | "reset" if self.is_word(at + 1, &["session"]) => {
                self.setting_after(at, found);
                Traces::ANY_SETTING | Traces::AUTHORIZATION
            }
            "set" => {
                self.setting_after(at, found);
                Traces::ANY_SETTING
            }
            "reset" => Traces::ANY_SETTING,
            "listen" | "unlisten" => Traces::LISTEN,
            "notify" => Traces::NOTIFY,
            "load" => Traces::LIBRARY,
            _ if self.language == Language::PlPgSql && self.is_plpgsql(at, word) => return,
            _ => Traces::OPAQUE,
        };
        found.leave(traces, || format!("its body runs {}", word.to_ascii_uppercase()));
    }

    /// A statement of PL/pgSQL's own, which runs nothing but expressions and queries.
    fn is_plpgsql(&self, at: usize, word: &str) -> bool {
        const OWN: [&str; 26] = [
            "assert",
            "begin",
            "case",
            "close",
            "continue",
            "declare",
            "else",
            "elseif",
            "elsif",
            "end",
            "exception",
            "execute",
            "exit",
            "fetch",
            "for",
            "foreach",
            "get",
            "if",
            "loop",
            "move",
            "null",
            "open",
            "perform",
            "raise",
            "when",
            "while",
        ];
        // `MERGE … THEN DO NOTHING`.
        word == "do" && self.is_word(at + 1, &["nothing"])
            || OWN.contains(&word)
            || [":=", ".", "["].iter().any(|mark| self.is_mark(at + 1, mark.as_bytes()))
            || self.bytes(at + 1) == b"="
    }

    /// A name where an object may be meant.
    fn name(&self, at: usize, name: &str, found: &mut Found) {
        let named = self.names.get(name);
        let is_call = self.is_mark(at + 1, b"(");
        if let Some(named) = named {
            found.uses.extend(named.relations.iter().map(|(read, write)| if self.writes { *write } else { *read }));
            found.uses.extend(&named.types);
            // `row.f` is f(row) if the row has no such column.
            if is_call || at > 0 && self.is_mark(at - 1, b".") {
                found.uses.extend(&named.functions);
            }
        }
        if !is_call {
            return;
        }
        match builtin::function(name) {
            Some(_) if matches!(name, "set_config" | "current_setting") => self.setting_call(at, name, found),
            Some((traces, _)) => found.leave(traces, || format!("its body calls {name}")),
            None if named.is_some() || found.traces.has(Traces::OPAQUE) || self.is_no_call(at, name) => {}
            None => found.leave(Traces::OPAQUE, || format!("its body calls {name}, which is not known")),
        }
    }

    /// Whether an unknown name before a parenthesis can't be a call.
    fn is_no_call(&self, at: usize, name: &str) -> bool {
        // Keywords that may be names elsewhere, and PL/pgSQL's.
        const BEFORE_PARENTHESES: [&str; 33] = [
            "assert",
            "by",
            "conflict",
            "cursor",
            "elseif",
            "elsif",
            "escape",
            "execute",
            "exit",
            "filter",
            "if",
            "insert",
            "key",
            "loop",
            "materialized",
            "matched",
            "nothing",
            "of",
            "over",
            "perform",
            "raise",
            "recursive",
            "return",
            "returns",
            "set",
            "sets",
            "type",
            "update",
            "values",
            "varying",
            "while",
            "within",
            "without",
        ];
        builtin::is_keyword(name)
            || builtin::is_type(name)
            || BEFORE_PARENTHESES.binary_search(&name).is_ok()
            // An alias with columns, the name of a WITH query.
            || self.follows(at, &["as", "with", "recursive"])
            || at > 0 && self.is_mark(at - 1, b")")
            || self.is_query_of_with(at)
            || self.is_cursor(at)
    }

    /// `name (columns) AS (`.
    fn is_query_of_with(&self, at: usize) -> bool {
        let Some(&end) = self.closings.get(&(at + 1)) else { return false };
        self.is_word(end + 1, &["as"])
            && (self.is_mark(end + 2, b"(") || self.is_word(end + 2, &["not", "materialized"]))
    }

    /// A cursor with parameters, which its body declares.
    fn is_cursor(&self, at: usize) -> bool {
        let name = self.bytes(at);
        self.language == Language::PlPgSql
            && (0..at).any(|before| {
                self.bytes(before).eq_ignore_ascii_case(name) && self.is_word(before + 1, &["cursor", "no", "scroll"])
            })
    }

    /// `set_config(…)` or `current_setting(…)`.
    fn setting_call(&self, at: usize, name: &str, found: &mut Found) {
        if self.tokens.get(at + 2).is_some_and(|token| token.kind == Kind::Text) {
            found.set(self.bytes(at + 2));
        }
        if name == "set_config" {
            let is_local = self.closings.get(&(at + 1)).is_some_and(|&end| {
                // `name => true` may be any of its arguments.
                self.is_word(end - 1, &["true"]) && self.is_mark(end - 2, b",")
            });
            let traces = if is_local { Traces::LOCAL_SETTING } else { Traces::ANY_SETTING | Traces::LOCAL_SETTING };
            found.leave(traces, || String::from("its body calls set_config"));
        }
    }

    /// The name behind SET, if it has a dot.
    fn setting_after(&self, at: usize, found: &mut Found) {
        let first = if self.is_word(at + 1, &["session", "local"]) { at + 2 } else { at + 1 };
        let mut last = first;
        while self.is_mark(last + 1, b".") {
            last += 2;
        }
        let parts: Vec<u8> = (first..=last).flat_map(|part| self.bytes(part)).copied().collect();
        found.set(&parts);
    }

    /// Names of settings in strings that are run as SQL.
    fn settings_in_texts(&self, found: &mut Found) {
        for token in self.tokens.iter().filter(|token| token.kind == Kind::Text) {
            let text = String::from_utf8_lossy(inside(self.lexer.bytes(*token))).replace("''", "'");
            let within = Body::new(text.as_bytes(), Backslash::Plain, self.language, self.names);
            for at in 0..within.tokens.len() {
                if within.is_word(at, &["set"]) {
                    within.setting_after(at, found);
                } else if within.is_word(at, &["set_config", "current_setting"]) && within.is_mark(at + 1, b"(") {
                    found.set(within.bytes(at + 2));
                }
            }
        }
    }
}

impl Found {
    fn leave(&mut self, traces: Traces, why: impl FnOnce() -> String) {
        if !self.traces.has(traces) {
            self.traces |= traces;
            self.why.push(why());
        }
    }

    /// Keeps the name of a custom setting; other texts are left out.
    fn set(&mut self, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(inside(name)).map(|name| name.trim_matches('\'')) else { return };
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || b >= 0x80)
        };
        if name.len() <= NAME_BYTES_MAX && name.contains('.') && name.split('.').all(is_part) {
            self.settings.push(name.to_ascii_lowercase());
        }
    }
}

/// A text or a name without its quotes; what is escaped in it stays so.
fn inside(token: &[u8]) -> &[u8] {
    match token {
        [b'$', rest @ ..] => {
            let tag = rest.iter().position(|b| *b == b'$').map_or(0, |at| at + 2);
            token.get(tag..token.len().saturating_sub(tag)).unwrap_or_default()
        }
        _ => match memchr::memchr2(b'\'', b'"', token) {
            Some(open) => token.get(open + 1..token.len() - 1).unwrap_or_default(),
            None => token,
        },
    }
}

/// Where in a body a token stands.
#[derive(Default)]
struct Place {
    /// Behind the first BEGIN: options and declarations are over.
    has_begun: bool,
    /// Between DECLARE and BEGIN: names are declared there, and no statement runs.
    declares: bool,
    /// CASE expressions that are open: what follows their THEN and ELSE is no statement.
    expressions: usize,
}
