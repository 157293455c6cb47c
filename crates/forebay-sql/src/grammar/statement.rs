//! Which statement it is, and what its kind leaves behind.

use pg_raw_parse::Node;
use pg_raw_parse::const_val::ConstValue;
use pg_raw_parse::list::CastNodeList;
use pg_raw_parse::nodes::{
    CopyStmt, DeclareCursorStmt, DefElem, SelectStmt, TransactionStmt, VacuumStmt, VariableSetStmt,
};
use pg_raw_parse::raw::{CURSOR_OPT_HOLD, DiscardMode, ObjectType, TransactionStmtKind};

use super::walk::Walk;
use super::{schema, setting};
use crate::shape::{Modes, StatementShape, Verb};
use crate::traces::Traces;

/// A verb, and the name that the statement is about.
type Read<'t> = (Verb, Option<&'t str>);

/// The shape of one statement; the names in it are left in `walk`.
pub(super) fn statement<'t>(node: Node<'t>, walk: &mut Walk<'t>) -> StatementShape {
    walk.traces = Traces::NONE;
    walk.settings.clear();
    let (verb, name) = read(node, walk);
    StatementShape {
        verb,
        traces: walk.traces,
        settings: std::mem::take(&mut walk.settings).into_iter().collect(),
        name: name.map(Box::from),
        modes: modes(node),
    }
}

/// What a statement says of the transaction that it begins, or sets.
fn modes(node: Node<'_>) -> Modes {
    let options = match node {
        Node::TransactionStmt(transaction) => transaction.options(),
        Node::VariableSetStmt(set) if set.name() == Some("TRANSACTION") => set.args(),
        Node::VariableSetStmt(set) if is_read_only_set(set) => {
            return Modes { read_only: Some(false), ..Modes::default() };
        }
        _ => return Modes::default(),
    };
    let mut modes = Modes::default();
    for option in options {
        let Node::DefElem(option) = option else { continue };
        match (option.defname(), setting::literal(option.arg())) {
            (Some("transaction_read_only"), Some(ConstValue::Integer(value))) => modes.read_only = Some(value != 0),
            (Some("transaction_isolation"), Some(ConstValue::String(level))) => {
                modes.is_serializable = level == "serializable";
            }
            _ => {}
        }
    }
    modes
}

/// Whether it sets or resets what READ ONLY sets, to whatever.
fn is_read_only_set(set: &VariableSetStmt) -> bool {
    set.name().is_some_and(|name| name.eq_ignore_ascii_case("transaction_read_only"))
}

fn read<'t>(node: Node<'t>, walk: &mut Walk<'t>) -> Read<'t> {
    if let Some(verb) = query(node, walk) {
        return (verb, None);
    }
    match node {
        Node::TransactionStmt(transaction) => (transaction_verb(transaction), None),
        Node::VariableSetStmt(set) => (setting::set(set, walk), None),
        Node::VariableShowStmt(_) => (Verb::Show, None),
        Node::ConstraintsSetStmt(_) => leave(walk, Traces::LOCAL_SETTING, Verb::SetLocal),
        Node::DiscardStmt(discard) => discarded(discard.target, walk),
        Node::LockStmt(lock) => {
            walk.list(lock.relations());
            (Verb::Lock, None)
        }
        Node::LoadStmt(_) => {
            walk.pins |= Traces::LIBRARY;
            leave(walk, Traces::LIBRARY, Verb::Load)
        }
        Node::DoStmt(_) => leave(walk, Traces::OPAQUE, Verb::Do),
        Node::CallStmt(call) => {
            if let Some(call) = call.funccall() {
                walk.node(Node::FuncCall(call));
            }
            leave(walk, Traces::OPAQUE, Verb::Call)
        }
        Node::RefreshMatViewStmt(refresh) => {
            walk.relation(refresh.relation());
            leave(walk, Traces::OPAQUE | Traces::WRITES, Verb::Maintenance)
        }
        // The functions of indexes are run.
        Node::ReindexStmt(_) | Node::ClusterStmt(_) => leave(walk, Traces::OPAQUE, Verb::Maintenance),
        Node::VacuumStmt(vacuum) => leave(walk, vacuumed(vacuum), Verb::Maintenance),
        Node::CheckPointStmt(_) => (Verb::Maintenance, None),
        _ => match named(node, walk).or_else(|| database(node, walk)) {
            Some(read) => read,
            None => (schema::statement(node, walk), None),
        },
    }
}

/// Statements that read or write data, alone or within another.
fn query<'t>(node: Node<'t>, walk: &mut Walk<'t>) -> Option<Verb> {
    let verb = match node {
        Node::SelectStmt(select) => return Some(selected(select, walk)),
        Node::InsertStmt(_) => Verb::Insert,
        Node::UpdateStmt(_) => Verb::Update,
        Node::DeleteStmt(_) => Verb::Delete,
        Node::MergeStmt(_) => Verb::Merge,
        Node::TruncateStmt(truncate) => {
            walk.list(truncate.relations());
            walk.traces |= Traces::WRITES;
            return Some(Verb::Delete);
        }
        Node::CopyStmt(copy) => {
            copied(copy, walk);
            return Some(Verb::Copy);
        }
        Node::ExplainStmt(explain) => {
            let pins = walk.pins;
            read(explain.query(), walk);
            if !explain.options().iter().any(|option| option.defname() == Some("analyze")) {
                // What it is about is not run.
                walk.pins = pins;
            }
            return Some(Verb::Explain);
        }
        _ => return None,
    };
    walk.node(node);
    Some(verb)
}

/// Statements that fail while anybody is connected to a database (PostgreSQL, dbcommands.c).
fn database<'t>(node: Node<'t>, walk: &mut Walk<'t>) -> Option<Read<'t>> {
    let option_of = |options: &'t CastNodeList<DefElem>, name| options.iter().find(|o| o.defname() == Some(name));
    let name = match node {
        Node::DropdbStmt(drop) => drop.dbname(),
        Node::RenameStmt(rename) if rename.rename_type == ObjectType::OBJECT_DATABASE => rename.subname(),
        Node::AlterDatabaseStmt(alter) if option_of(alter.options(), "tablespace").is_some() => alter.dbname(),
        Node::CreatedbStmt(create) => {
            let template = option_of(create.options(), "template").and_then(|option| option.arg().as_str());
            Some(template.unwrap_or("template1"))
        }
        _ => return None,
    };
    walk.traces |= Traces::SCHEMA;
    Some((Verb::Database, name))
}

/// Statements about something that has a name in its session.
fn named<'t>(node: Node<'t>, walk: &mut Walk<'t>) -> Option<Read<'t>> {
    let (verb, traces, name) = match node {
        Node::PrepareStmt(prepare) => {
            for name in prepare.argtypes() {
                walk.node(Node::TypeName(name));
            }
            read(prepare.query(), walk);
            walk.pins |= Traces::PREPARED;
            (Verb::Prepare, Traces::PREPARED, prepare.name())
        }
        Node::ExecuteStmt(execute) => {
            walk.list(execute.params());
            (Verb::Execute, Traces::OPAQUE, execute.name())
        }
        Node::DeallocateStmt(deallocate) => (Verb::Deallocate, Traces::PREPARED, deallocate.name()),
        Node::DeclareCursorStmt(declare) => (Verb::Declare, declared(declare, walk), declare.portalname()),
        Node::FetchStmt(fetch) => (Verb::Fetch, Traces::NONE, fetch.portalname()),
        Node::ClosePortalStmt(close) => (Verb::Close, Traces::CURSOR, close.portalname()),
        Node::ListenStmt(listen) => (Verb::Listen, Traces::LISTEN, listen.conditionname()),
        Node::UnlistenStmt(unlisten) => (Verb::Unlisten, Traces::LISTEN, unlisten.conditionname()),
        Node::NotifyStmt(notify) => (Verb::Notify, Traces::NOTIFY, notify.conditionname()),
        _ => return None,
    };
    walk.traces |= traces;
    Some((verb, name))
}

fn leave<'t>(walk: &mut Walk<'t>, traces: Traces, verb: Verb) -> Read<'t> {
    walk.traces |= traces;
    (verb, None)
}

fn transaction_verb(transaction: &TransactionStmt) -> Verb {
    match transaction.kind {
        TransactionStmtKind::TRANS_STMT_BEGIN | TransactionStmtKind::TRANS_STMT_START => Verb::Begin,
        TransactionStmtKind::TRANS_STMT_COMMIT => Verb::Commit,
        TransactionStmtKind::TRANS_STMT_ROLLBACK => Verb::Rollback,
        TransactionStmtKind::TRANS_STMT_SAVEPOINT => Verb::Savepoint,
        TransactionStmtKind::TRANS_STMT_RELEASE => Verb::Release,
        TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => Verb::RollbackTo,
        TransactionStmtKind::TRANS_STMT_PREPARE => Verb::PrepareTransaction,
        _ => Verb::FinishPrepared,
    }
}

fn discarded<'t>(target: DiscardMode::Type, walk: &mut Walk<'t>) -> Read<'t> {
    const ALL: Traces = Traces::ANY_SETTING
        .with(Traces::AUTHORIZATION)
        .with(Traces::TEMP)
        .with(Traces::LOCK)
        .with(Traces::LISTEN)
        .with(Traces::CURSOR)
        .with(Traces::PREPARED)
        .with(Traces::SEQUENCE);
    match target {
        DiscardMode::DISCARD_PLANS => (Verb::Discard, None),
        DiscardMode::DISCARD_SEQUENCES => leave(walk, Traces::SEQUENCE, Verb::Discard),
        DiscardMode::DISCARD_TEMP => leave(walk, Traces::TEMP, Verb::Discard),
        _ => leave(walk, ALL, Verb::DiscardAll),
    }
}

fn selected<'t>(select: &'t SelectStmt, walk: &mut Walk<'t>) -> Verb {
    walk.node(Node::SelectStmt(select));
    // INTO stands in the first SELECT of a UNION.
    let mut first = select;
    while let Some(left) = first.larg() {
        first = left;
    }
    match first.into_clause() {
        Some(into) => {
            let made = schema::traces_of_making(into.rel(), into.on_commit, walk);
            walk.traces |= Traces::WRITES | made;
            Verb::Schema
        }
        None => Verb::Select,
    }
}

fn copied<'t>(copy: &'t CopyStmt, walk: &mut Walk<'t>) {
    walk.relation(copy.relation());
    walk.node(copy.where_clause());
    if copy.filename().is_some() {
        // A file or a program of the server's host.
        walk.traces |= Traces::PRIMARY;
    }
    if copy.is_from {
        walk.traces |= Traces::WRITES;
    } else if !matches!(copy.query(), Node::None) {
        read(copy.query(), walk);
    }
}

fn declared<'t>(declare: &'t DeclareCursorStmt, walk: &mut Walk<'t>) -> Traces {
    read(declare.query(), walk);
    let held = if declare.options as u32 & CURSOR_OPT_HOLD == 0 { Traces::NONE } else { Traces::CURSOR };
    walk.pins |= held;
    held
}

/// ANALYZE and a rewrite run the functions of indexes and of statistics.
fn vacuumed(vacuum: &VacuumStmt) -> Traces {
    let mut options = vacuum.options().iter();
    let runs_functions = options.any(|option| matches!(option.defname(), Some("analyze" | "full")));
    if runs_functions || !vacuum.is_vacuumcmd { Traces::OPAQUE } else { Traces::NONE }
}
