//! What a text does, for people.

use forebay_core::cluster::routing::role_asked;
use forebay_sql::catalogue::Catalogue;
use forebay_sql::grammar::TEXT_BYTES_MAX;
use forebay_sql::lexer::{Backslash, Kind, Lexer};
use forebay_sql::route::route;
use forebay_sql::shape::{Shape, StatementShape};
use forebay_sql::shorten::{self, LONG_BYTES_MAX};
use pyo3::prelude::*;
use serde_json::{Value, json};

/// The shape of a text as JSON; `python/forebay/_engine.pyi` says what is in it.
#[pyfunction]
pub(crate) fn classify(py: Python<'_>, text: &str) -> String {
    py.detach(|| {
        let mut described = described(&shorten::parse(text.as_bytes(), Backslash::Plain));
        described["asks_for"] = json!(role_asked(text.as_bytes()));
        described.to_string()
    })
}

fn described(shape: &Shape) -> Value {
    let (operators, functions): (Vec<_>, Vec<_>) = shape.functions.iter().partition(|name| is_operator(name));
    let foreign = shape.foreign_names();
    // Of a database nothing is known: its own objects may do anything.
    let reason = route(shape, Catalogue::builtin().judge(shape));
    json!({
        "is_parsed": shape.is_parsed,
        "route": { "to": if reason.allows_replica() { "replica" } else { "primary" }, "because": reason.text() },
        "bytes_max": { "text": LONG_BYTES_MAX, "shortened": TEXT_BYTES_MAX },
        "statements": shape.statements.iter().map(statement).collect::<Vec<_>>(),
        "functions": functions,
        "operators": operators,
        "maybe_functions": shape.maybe_functions,
        "relations": shape.relations,
        "types": shape.types,
        "needs_catalogue": {
            "functions": foreign.functions,
            "relations": foreign.relations,
            "types": foreign.types,
        },
    })
}

fn statement(statement: &StatementShape) -> Value {
    json!({
        "verb": statement.verb.name(),
        "name": statement.name,
        "traces": statement.traces.names().collect::<Vec<_>>(),
        "settings": statement.settings,
    })
}

fn is_operator(name: &str) -> bool {
    Lexer::new(name.as_bytes(), Backslash::Plain).next().is_some_and(|token| token.kind == Kind::Operator)
}
