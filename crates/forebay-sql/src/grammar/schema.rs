//! Statements that make, change or drop objects.

use pg_raw_parse::Node;
use pg_raw_parse::nodes::{CreateFunctionStmt, CreateStmt, CreateTableAsStmt, IndexStmt, RangeVar, ViewStmt};
use pg_raw_parse::raw::{AlterTableType, OnCommitAction};

use super::walk::Walk;
use crate::shape::Verb;
use crate::traces::Traces;

/// What `relpersistence` is then.
const TEMPORARY: u8 = b't';

/// What making this relation leaves behind.
///
/// A name without a schema may be made in the temporary one, which search_path may begin with.
///
/// A temporary one pins, unless it is gone when the transaction is.
pub(super) fn traces_of_making(
    relation: Option<&RangeVar>,
    on_commit: OnCommitAction::Type,
    walk: &mut Walk<'_>,
) -> Traces {
    let Some(relation) = relation else { return Traces::SCHEMA | Traces::TEMP };
    let is_it = relation.relpersistence as u8 == TEMPORARY || relation.schemaname().is_some_and(is_temporary);
    if is_it && on_commit != OnCommitAction::ONCOMMIT_DROP {
        walk.pins |= Traces::TEMP;
    }
    if is_it { Traces::SCHEMA | Traces::TEMP } else { traces_in(relation.schemaname()) }
}

/// Whether it is the schema of temporary objects.
fn is_temporary(schema: &str) -> bool {
    schema.starts_with("pg_temp")
}

fn traces_in(schema: Option<&str>) -> Traces {
    match schema {
        Some(schema) if !is_temporary(schema) => Traces::SCHEMA,
        _ => Traces::SCHEMA | Traces::TEMP,
    }
}

/// What making an object of this qualified name leaves behind.
fn traces_of_naming<'t>(names: impl IntoIterator<Item = Node<'t>>, walk: &mut Walk<'_>) -> Traces {
    let names: Vec<_> = names.into_iter().filter_map(Node::as_str).collect();
    let schema = names.len().checked_sub(2).map(|at| names[at]);
    if schema.is_some_and(is_temporary) {
        walk.pins |= Traces::TEMP;
    }
    traces_in(schema)
}

/// Reads a statement of this kind, or of none that is known.
pub(super) fn statement<'t>(node: Node<'t>, walk: &mut Walk<'t>) -> Verb {
    match made(node, walk).or_else(|| changed(node, walk)) {
        Some(traces) => {
            walk.traces |= traces;
            Verb::Schema
        }
        None => {
            walk.traces |= Traces::OPAQUE;
            Verb::Other
        }
    }
}

/// Statements that make an object.
fn made<'t>(node: Node<'t>, walk: &mut Walk<'t>) -> Option<Traces> {
    Some(match node {
        Node::CreateStmt(create) => table(create, walk),
        Node::CreateTableAsStmt(create) => table_as(create, walk),
        Node::ViewStmt(create) => view(create, walk),
        Node::IndexStmt(create) => index(create, walk),
        Node::CreateSeqStmt(create) => traces_of_making(create.sequence(), OnCommitAction::ONCOMMIT_NOOP, walk),
        Node::CompositeTypeStmt(create) => {
            for column in create.coldeflist() {
                walk.node(Node::ColumnDef(column));
            }
            traces_of_making(create.typevar(), OnCommitAction::ONCOMMIT_NOOP, walk)
        }
        Node::CreateEnumStmt(create) => traces_of_naming(create.type_name().iter().map(Node::String), walk),
        Node::CreateRangeStmt(create) => traces_of_naming(create.type_name().iter().map(Node::String), walk),
        Node::DefineStmt(create) => traces_of_naming(create.defnames().iter().map(Node::String), walk),
        Node::CreateDomainStmt(create) => {
            walk.node(create.type_name().map_or(Node::None, Node::TypeName));
            for constraint in create.constraints() {
                walk.node(Node::Constraint(constraint));
            }
            traces_of_naming(create.domainname().iter().map(Node::String), walk)
        }
        Node::CreateFunctionStmt(create) => function(create, walk),
        Node::CreateSchemaStmt(create) => {
            for element in create.schema_elts() {
                statement(element, walk);
            }
            Traces::SCHEMA
        }
        Node::CreateTrigStmt(create) => {
            walk.relation(create.relation());
            walk.relation(create.constrrel());
            walk.node(create.when_clause());
            Traces::SCHEMA
        }
        Node::CreatePolicyStmt(create) => {
            walk.relation(create.table());
            walk.node(create.qual());
            walk.node(create.with_check());
            Traces::SCHEMA
        }
        // Not its relations: a FROM clause may hold more than the tables that the parser's library takes them for.
        Node::CreateStatsStmt(create) => {
            walk.list(create.exprs());
            traces_of_naming(create.defnames().iter().map(Node::String), walk)
        }
        // Their actions are statements of their own.
        Node::RuleStmt(create) => {
            walk.relation(create.relation());
            Traces::SCHEMA | Traces::OPAQUE
        }
        // A script is run.
        Node::CreateExtensionStmt(_) | Node::AlterExtensionStmt(_) => Traces::SCHEMA | Traces::LIBRARY | Traces::OPAQUE,
        Node::CreatePLangStmt(_) => Traces::SCHEMA | Traces::LIBRARY,
        _ => return None,
    })
}

fn table<'t>(create: &'t CreateStmt, walk: &mut Walk<'t>) -> Traces {
    // Its columns' defaults and its constraints are run with the first row; what bounds a partition, at once.
    walk.stored(Node::NodeList(create.table_elts()));
    walk.list(create.inh_relations());
    walk.node(create.of_typename().map_or(Node::None, Node::TypeName));
    walk.node(create.partspec().map_or(Node::None, Node::PartitionSpec));
    walk.node(create.partbound().map_or(Node::None, Node::PartitionBoundSpec));
    traces_of_making(create.relation(), create.oncommit, walk)
}

fn table_as<'t>(create: &'t CreateTableAsStmt, walk: &mut Walk<'t>) -> Traces {
    let source = match create.query() {
        Node::ExecuteStmt(execute) => {
            walk.list(execute.params());
            Traces::OPAQUE
        }
        query => {
            walk.node(query);
            Traces::WRITES
        }
    };
    let Some(into) = create.into() else { return source };
    source | traces_of_making(into.rel(), into.on_commit, walk)
}

fn view<'t>(create: &'t ViewStmt, walk: &mut Walk<'t>) -> Traces {
    walk.stored(create.query());
    traces_of_making(create.view(), OnCommitAction::ONCOMMIT_NOOP, walk)
}

fn index<'t>(create: &'t IndexStmt, walk: &mut Walk<'t>) -> Traces {
    walk.relation(create.relation());
    for element in create.index_params() {
        walk.node(Node::IndexElem(element));
    }
    walk.node(create.where_clause());
    Traces::SCHEMA
}

fn function<'t>(create: &'t CreateFunctionStmt, walk: &mut Walk<'t>) -> Traces {
    for parameter in create.parameters() {
        walk.node(Node::FunctionParameter(parameter));
    }
    walk.node(create.return_type().map_or(Node::None, Node::TypeName));
    let mut language = None;
    for option in create.options() {
        if option.defname() == Some("language") {
            language = option.arg().as_str();
        }
    }
    let validated = match language {
        // Without a language, the body is SQL that stands in the statement itself.
        None if matches!(create.sql_body(), Node::None) => Traces::OPAQUE,
        None => Traces::NONE,
        Some(language) if language.eq_ignore_ascii_case("sql") || language.eq_ignore_ascii_case("plpgsql") => {
            Traces::NONE
        }
        Some(language) if language.eq_ignore_ascii_case("internal") => Traces::NONE,
        Some(language) if language.eq_ignore_ascii_case("c") => Traces::LIBRARY,
        // Its validator may run some of the body.
        Some(_) => Traces::OPAQUE | Traces::LIBRARY,
    };
    validated | traces_of_naming(create.funcname(), walk)
}

/// Statements that change or drop objects, and those that make ones of which nothing is run.
fn changed<'t>(node: Node<'t>, walk: &mut Walk<'t>) -> Option<Traces> {
    Some(match node {
        Node::AlterTableStmt(alter) => {
            walk.relation(alter.relation());
            for command in alter.cmds() {
                match command {
                    Node::AlterTableCmd(set) if set.subtype == AlterTableType::AT_ColumnDefault => walk.stored(command),
                    _ => walk.node(command),
                }
            }
            Traces::SCHEMA
        }
        Node::AlterDomainStmt(alter) => {
            walk.node(alter.def());
            Traces::SCHEMA
        }
        Node::AlterPolicyStmt(alter) => {
            walk.relation(alter.table());
            walk.node(alter.qual());
            walk.node(alter.with_check());
            Traces::SCHEMA
        }
        Node::RenameStmt(rename) => {
            walk.relation(rename.relation());
            Traces::SCHEMA
        }
        _ if is_drop(node) => Traces::SCHEMA | Traces::TEMP,
        _ if is_plain(node) => Traces::SCHEMA,
        _ => return None,
    })
}

fn is_drop(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::DropStmt(_)
            | Node::DropOwnedStmt(_)
            | Node::DropRoleStmt(_)
            | Node::DropTableSpaceStmt(_)
            | Node::DropUserMappingStmt(_)
            | Node::DropSubscriptionStmt(_)
    )
}

/// Statements of which nothing is run but PostgreSQL's own code.
fn is_plain(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::AlterCollationStmt(_)
            | Node::AlterDatabaseRefreshCollStmt(_)
            | Node::AlterDatabaseSetStmt(_)
            | Node::AlterDatabaseStmt(_)
            | Node::AlterDefaultPrivilegesStmt(_)
            | Node::AlterEnumStmt(_)
            | Node::AlterEventTrigStmt(_)
            | Node::AlterExtensionContentsStmt(_)
            | Node::AlterFdwStmt(_)
            | Node::AlterForeignServerStmt(_)
            | Node::AlterFunctionStmt(_)
            | Node::AlterObjectDependsStmt(_)
            | Node::AlterObjectSchemaStmt(_)
            | Node::AlterOpFamilyStmt(_)
            | Node::AlterOperatorStmt(_)
            | Node::AlterOwnerStmt(_)
            | Node::AlterPublicationStmt(_)
            | Node::AlterRoleSetStmt(_)
            | Node::AlterRoleStmt(_)
            | Node::AlterSeqStmt(_)
            | Node::AlterStatsStmt(_)
            | Node::AlterSubscriptionStmt(_)
            | Node::AlterSystemStmt(_)
            | Node::AlterTSConfigurationStmt(_)
            | Node::AlterTableMoveAllStmt(_)
            | Node::AlterTableSpaceOptionsStmt(_)
            | Node::AlterTypeStmt(_)
            | Node::AlterUserMappingStmt(_)
            | Node::CommentStmt(_)
            | Node::CreateAmStmt(_)
            | Node::CreateCastStmt(_)
            | Node::CreateConversionStmt(_)
            | Node::CreateEventTrigStmt(_)
            | Node::CreateFdwStmt(_)
            | Node::CreateForeignServerStmt(_)
            | Node::CreateOpClassStmt(_)
            | Node::CreateOpFamilyStmt(_)
            | Node::CreatePublicationStmt(_)
            | Node::CreateRoleStmt(_)
            | Node::CreateSubscriptionStmt(_)
            | Node::CreateTableSpaceStmt(_)
            | Node::CreateTransformStmt(_)
            | Node::CreateUserMappingStmt(_)
            | Node::GrantRoleStmt(_)
            | Node::GrantStmt(_)
            | Node::ReassignOwnedStmt(_)
    )
}
