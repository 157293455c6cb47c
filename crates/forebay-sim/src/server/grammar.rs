//! From the words of one statement to what it does.

use crate::server::language::{Discard, Expr, HIDDEN, Question, Statement, Token, Value, tokens};

/// What one statement of a text does; `None`: its words mean nothing here.
pub(super) fn statement(part: &[Token]) -> Option<Statement> {
    let mut rest = Rest(part);
    Some(match rest.word()?.as_str() {
        "begin" | "start" => Statement::Begin { is_read_only: rest.has("only") },
        "commit" | "end" => Statement::Commit,
        "abort" => Statement::Rollback,
        "rollback" if rest.eat("to") => Statement::RollbackTo(rest.word()?),
        "rollback" => Statement::Rollback,
        "savepoint" => Statement::Savepoint(rest.word()?),
        "release" => Statement::Release(rest.word()?),
        "select" => return select(&mut rest),
        "insert" => {
            let at = part.iter().position(|t| matches!(t, Token::Text(_) | Token::Param(_)))?;
            Statement::Insert(Rest(&part[at..]).value()?)
        }
        "set" => return set(&mut rest),
        "reset" => match rest.0 {
            [Token::Word(all)] if all == "all" => Statement::Reset(None),
            _ => Statement::Reset(Some(rest.name()?)),
        },
        "show" => Statement::Show(rest.name()?),
        "copy" => return copy(&mut rest),
        "create" => return create(&mut rest),
        "drop" => {
            rest.word()?;
            Statement::DropTable(rest.word()?)
        }
        "declare" => {
            let name = rest.word()?;
            Statement::Declare { name, content: rest.last_text()? }
        }
        "fetch" => {
            let Token::Word(name) = part.last()? else { return None };
            Statement::Fetch(name.clone())
        }
        "prepare" => return prepare(&mut rest),
        "execute" => {
            let name = rest.word()?;
            let texts = rest.0.iter().filter_map(|t| if let Token::Text(text) = t { Some(text.clone()) } else { None });
            Statement::Execute { name, values: texts.collect() }
        }
        "deallocate" => Statement::Deallocate(Some(rest.word()?).filter(|name| name != "all")),
        "discard" => Statement::Discard(match rest.word()?.as_str() {
            "all" => Discard::All,
            "temp" => Discard::Temp,
            "sequences" => Discard::Sequences,
            _ => Discard::Plans,
        }),
        "listen" => Statement::Listen(rest.word()?),
        "unlisten" => Statement::Unlisten(rest.word()),
        "notify" => Statement::Notify { channel: rest.word()?, payload: rest.last_text().unwrap_or_default() },
        "close" => Statement::CloseCursor(Some(rest.word()?).filter(|name| name != "all")),
        "do" => Statement::Do(settings_of_code(&rest.last_text()?)),
        "load" => Statement::Load(rest.last_text()?),
        _ => return None,
    })
}

fn select(rest: &mut Rest<'_>) -> Option<Statement> {
    match rest.0 {
        [Token::Text(_) | Token::Param(_), ..] => {}
        [Token::Word(number)] if number.parse::<u32>().is_ok() => {
            return Some(Statement::Select { value: Value::Literal(number.clone()), rows: 1, pad: 0 });
        }
        [Token::Word(content), _, Token::Word(name)] if content == "content" => {
            return Some(Statement::ReadTable(name.clone()));
        }
        [Token::Word(name), Token::Sign('('), value, Token::Sign(')')] if name == HIDDEN => {
            return match value {
                Token::Text(text) => Some(Statement::Hidden(Value::Literal(text.clone()))),
                _ => None,
            };
        }
        [Token::Word(name), ..] if name == "pg_listening_channels" => return Some(Statement::Channels),
        [Token::Word(name), Token::Sign(','), Token::Word(_), ..] if name == "name" => {
            return Some(Statement::SessionSettings);
        }
        parts => return columns(parts).map(Statement::Exprs),
    }
    let value = rest.value()?;
    let directive = if rest.eat("as") { rest.word()? } else { String::new() };
    let mut words = directive.split('_');
    let (mut rows, mut pad) = (1, 0);
    while let Some(word) = words.next() {
        match word {
            "frozen" => return Some(Statement::Frozen(value)),
            "notice" => return Some(Statement::Notice(value)),
            "ledger" => return Some(Statement::Ledger(value)),
            "conflicts" => return Some(Statement::Conflict(value)),
            "fails" => return Some(Statement::Fail { code: words.next()?.to_owned(), value }),
            "sleep" => return Some(Statement::Sleep { millis: words.next()?.parse().ok()?, value }),
            "rows" => rows = words.next()?.parse().ok()?,
            "pad" => pad = words.next()?.parse().ok()?,
            _ => {}
        }
    }
    Some(Statement::Select { value, rows, pad })
}

/// The expressions of a SELECT, cut at the commas outside of parentheses.
fn columns(parts: &[Token]) -> Option<Vec<Expr>> {
    let mut depth = 0;
    let columns = parts.split(|token| {
        match token {
            Token::Sign('(') => depth += 1,
            Token::Sign(')') => depth -= 1,
            _ => {}
        }
        depth == 0 && *token == Token::Sign(',')
    });
    columns.map(expr).collect()
}

fn expr(part: &[Token]) -> Option<Expr> {
    if let [Token::Sign('('), Token::Word(select), rest @ ..] = part
        && select == "select"
    {
        return expr(rest);
    }
    let (Token::Word(function), arguments) = part.split_first()? else { return None };
    let texts: Vec<String> =
        arguments.iter().filter_map(|t| if let Token::Text(text) = t { Some(text.clone()) } else { None }).collect();
    let has = |word: &str| arguments.iter().any(|t| matches!(t, Token::Word(w) if w == word));
    let text = |at: usize| texts.get(at).cloned();
    let number = || {
        let parts = arguments.iter().filter_map(|t| match t {
            Token::Word(word) => Some(word.clone()),
            Token::Sign(sign @ ('.' | '-')) => Some(sign.to_string()),
            Token::Param(number) => Some(format!("${number}")),
            _ => None,
        });
        parts.collect::<String>()
    };
    Some(match function.as_str() {
        "current_setting" => Expr::Setting { name: text(0)?, or_empty: false },
        "coalesce" => Expr::Setting { name: text(0)?, or_empty: true },
        "set_config" => {
            Expr::SetConfig { name: text(0)?, value: text(1)?, is_local: has("true"), is_kept: has("pg_settings") }
        }
        "set_unseen" => Expr::SetUnseen { name: text(0)?, value: text(1)? },
        "session_user" => Expr::IsOtherUser,
        "current_user" => Expr::CurrentUser,
        "pg_try_advisory_lock" => Expr::TryLock(number()),
        "pg_advisory_unlock" => Expr::Unlock(number()),
        "pg_advisory_unlock_all" => Expr::UnlockAll,
        "setseed" => Expr::SetSeed(number()),
        "random" => Expr::Random,
        "setval" => Expr::SetVal { name: text(0)?, value: number() },
        "lastval" => Expr::LastVal,
        "pg_notify" => Expr::Notify { channel: text(0)?, payload: text(1)? },
        "currval" => Expr::CurrVal(text(0)?),
        "exists" => Expr::Exists(if has("pg_depend") {
            Question::Temp
        } else if has("pg_locks") {
            Question::Lock
        } else if has("pg_listening_channels") {
            Question::Channel
        } else if has("pg_cursors") {
            Question::Cursor
        } else if has("pg_prepared_statements") {
            Question::Prepared
        } else {
            return None;
        }),
        _ => return None,
    })
}

fn set(rest: &mut Rest<'_>) -> Option<Statement> {
    if rest.eat("transaction") {
        return Some(Statement::SetMode { is_read_only: rest.has("only") });
    }
    let is_local = rest.eat("local");
    if rest.eat("session") && rest.eat("authorization") {
        let (token, _) = rest.0.split_first()?;
        let (Token::Word(user) | Token::Text(user)) = token else { return None };
        return Some(Statement::SetAuthorization(Some(user.clone()).filter(|user| user != "default")));
    }
    let name = rest.name()?;
    let is_assigned = rest.sign('=').is_some() || rest.eat("to");
    if name != "role" && !is_assigned {
        return None;
    }
    let mut values = Vec::new();
    for token in rest.0 {
        if let Token::Word(value) | Token::Text(value) = token {
            values.push(value.clone());
        }
    }
    if values == ["default"] {
        return Some(Statement::Reset(Some(name)));
    }
    Some(Statement::Set { name, value: values.join(", "), is_local })
}

/// `copy marks from stdin with (null 'tag')`, `copy (select 'tag' as rows_2) to stdout`.
fn copy(rest: &mut Rest<'_>) -> Option<Statement> {
    if rest.sign('(').is_some() {
        rest.word()?;
        let Statement::Select { value, rows, .. } = select(rest)? else { return None };
        return Some(Statement::CopyOut { value, rows });
    }
    rest.last_text().map(|tag| Statement::CopyIn(Value::Literal(tag)))
}

/// `create temp table t on commit drop as select 'content'`.
fn create(rest: &mut Rest<'_>) -> Option<Statement> {
    if !(rest.eat("temp") && rest.eat("table")) {
        return None;
    }
    let name = rest.word()?;
    let drops = rest.eat("on");
    Some(Statement::CreateTemp { name, content: rest.last_text()?, drops })
}

fn prepare(rest: &mut Rest<'_>) -> Option<Statement> {
    let name = rest.word()?;
    let at = rest.0.iter().position(|token| *token == Token::Word("as".into()))?;
    Some(Statement::Prepare { name, statement: Box::new(statement(&rest.0[at + 1..])?) })
}

/// What a block of code sets by set_config.
fn settings_of_code(code: &str) -> Vec<(String, String)> {
    let tokens = tokens(code);
    let calls = tokens.split(|t| *t == Token::Word("set_config".into())).skip(1);
    let texts = calls.map(|call| call.iter().filter_map(|t| if let Token::Text(text) = t { Some(text) } else { None }));
    texts.filter_map(|mut texts| Some((texts.next()?.clone(), texts.next()?.clone()))).collect()
}

struct Rest<'a>(&'a [Token]);

impl Rest<'_> {
    fn word(&mut self) -> Option<String> {
        let (Token::Word(word), tail) = self.0.split_first()? else { return None };
        self.0 = tail;
        Some(word.clone())
    }

    /// A name that may have a dot.
    fn name(&mut self) -> Option<String> {
        let mut name = self.word()?;
        while self.sign('.').is_some() {
            name = format!("{name}.{}", self.word()?);
        }
        Some(name)
    }

    /// Steps over a word, if it is next.
    fn eat(&mut self, word: &str) -> bool {
        let is_next = matches!(self.0.first(), Some(Token::Word(next)) if next == word);
        if is_next {
            self.0 = &self.0[1..];
        }
        is_next
    }

    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|token| matches!(token, Token::Word(other) if other == word))
    }

    fn last_text(&self) -> Option<String> {
        self.0.iter().rev().find_map(|t| if let Token::Text(text) = t { Some(text.clone()) } else { None })
    }

    fn value(&mut self) -> Option<Value> {
        let (token, tail) = self.0.split_first()?;
        let value = match token {
            Token::Text(text) => Value::Literal(text.clone()),
            Token::Param(n) => Value::Param(*n),
            _ => return None,
        };
        self.0 = tail;
        Some(value)
    }

    fn sign(&mut self, sign: char) -> Option<()> {
        let (token, tail) = self.0.split_first()?;
        (*token == Token::Sign(sign)).then(|| self.0 = tail)
    }
}
