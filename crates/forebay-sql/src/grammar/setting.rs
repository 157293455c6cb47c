//! SET, RESET and set_config: which settings, and for how long.

use pg_raw_parse::const_val::ConstValue;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{A_Const, VariableSetStmt};
use pg_raw_parse::{Node, raw::VariableSetKind};

use super::walk::Walk;
use crate::shape::Verb;
use crate::traces::Traces;

/// How long a setting lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasting {
    Session,
    Transaction,
}

/// SET in every spelling, RESET among them.
pub(super) fn set<'t>(statement: &'t VariableSetStmt, walk: &mut Walk<'t>) -> Verb {
    let name = statement.name().unwrap_or_default();
    let lasting = if statement.is_local { Lasting::Transaction } else { Lasting::Session };
    match statement.kind {
        VariableSetKind::VAR_RESET_ALL => {
            walk.traces |= Traces::ANY_SETTING;
            Verb::Reset
        }
        VariableSetKind::VAR_SET_MULTI if name == "SESSION CHARACTERISTICS" => {
            characteristics(statement.args(), walk);
            Verb::Set
        }
        VariableSetKind::VAR_SET_MULTI => {
            walk.traces |= Traces::LOCAL_SETTING;
            Verb::SetLocal
        }
        kind => {
            let is_reset = matches!(kind, VariableSetKind::VAR_SET_DEFAULT | VariableSetKind::VAR_RESET);
            let pins = walk.pins;
            let verb = match note(name, lasting, walk) {
                Lasting::Transaction => Verb::SetLocal,
                Lasting::Session if is_reset => Verb::Reset,
                Lasting::Session => Verb::Set,
            };
            if verb == Verb::Reset {
                walk.pins = pins;
            }
            verb
        }
    }
}

/// SET SESSION CHARACTERISTICS AS TRANSACTION sets the defaults of what it names.
fn characteristics<'t>(modes: &'t NodeList, walk: &mut Walk<'t>) {
    for mode in modes {
        match mode {
            Node::DefElem(mode) if mode.defname().is_some_and(|name| name.starts_with("transaction_")) => {
                note(&format!("default_{}", mode.defname().unwrap_or_default()), Lasting::Session, walk);
            }
            _ => walk.traces |= Traces::ANY_SETTING,
        }
    }
}

/// A call of set_config(name, value, is_local).
pub(super) fn set_config<'t>(arguments: &'t NodeList, walk: &mut Walk<'t>) {
    let mut arguments = arguments.iter();
    let name = arguments.next().and_then(literal).and_then(|literal| match literal {
        ConstValue::String(name) => Some(name),
        _ => None,
    });
    let is_local = match arguments.nth(1).and_then(literal) {
        Some(ConstValue::Boolean(is_local)) => is_local,
        Some(ConstValue::String(is_local)) => matches!(is_local, "t" | "true"),
        _ => false,
    };
    match (name, is_local) {
        (Some(name), true) => drop(note(name, Lasting::Transaction, walk)),
        (Some(name), false) => drop(note(name, Lasting::Session, walk)),
        (None, true) => walk.traces |= Traces::LOCAL_SETTING,
        (None, false) => walk.traces |= Traces::ANY_SETTING,
    }
}

/// A constant, under any number of casts to text or bool.
pub(super) fn literal(mut node: Node<'_>) -> Option<ConstValue<'_>> {
    loop {
        match node {
            Node::A_Const(constant) => return value(constant),
            Node::TypeCast(cast) => {
                let to = cast.type_name()?;
                let is_same = to.array_bounds().is_empty() && to.typmods().is_empty();
                let name = to.names().iter().next_back().and_then(|name| name.sval());
                if !is_same || !matches!(name, Some("text" | "varchar" | "bool")) {
                    return None;
                }
                node = cast.arg();
            }
            _ => return None,
        }
    }
}

fn value(constant: &A_Const) -> Option<ConstValue<'_>> {
    constant.val()
}

/// Notes that a setting is set or reset, and for how long it really is.
fn note(name: &str, asked: Lasting, walk: &mut Walk<'_>) -> Lasting {
    // Names of settings are compared without regard to case, in quotes as well.
    let name = name.to_ascii_lowercase();
    let name = match name.as_str() {
        "sort_mem" => "work_mem",
        "vacuum_mem" => "maintenance_work_mem",
        name => name,
    };
    let lasting = match name {
        // Of this transaction however they are set.
        "transaction_isolation" | "transaction_read_only" | "transaction_deferrable" => Lasting::Transaction,
        _ => asked,
    };
    match (name, lasting) {
        // No setting to be read back: setting it seeds at once, and no transaction takes that back.
        ("seed", _) => {
            walk.traces |= Traces::SEED;
            walk.pins |= Traces::SEED;
        }
        (_, Lasting::Transaction) => walk.traces |= Traces::LOCAL_SETTING,
        ("session_authorization", Lasting::Session) => {
            walk.traces |= Traces::AUTHORIZATION | Traces::SETTING;
            walk.pins |= Traces::AUTHORIZATION;
            walk.settings.insert("role".into());
        }
        (name, Lasting::Session) => {
            walk.traces |= Traces::SETTING;
            walk.settings.insert(name.into());
        }
    }
    lasting
}
