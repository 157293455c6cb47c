//! Queries and expressions: the functions, relations and types in them.
//!
//! The tree is gone through with a list of nodes to do, not by recursion: a chain of a thousand additions is a tree a
//! thousand levels deep, and the stack of a worker is small.

use std::collections::BTreeSet;

use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{A_Expr, FuncCall, RangeVar, TypeName, WithClause};
use pg_raw_parse::raw::{A_Expr_Kind, CoercionForm, JsonExprOp, SubLinkType};
use pg_raw_parse::walk::{Recurse, walk_manual};

use super::{last_part, names, setting};
use crate::shape::{Shape, StatementShape};
use crate::traces::Traces;

/// CTEs of one text; with more of them it may do anything. A name is looked for among all that are in scope.
const CTES_MAX: usize = 512;

/// Which CTEs a name may mean: the innermost of them.
type Scope = Option<usize>;

struct Cte<'t> {
    name: &'t str,
    outer: Scope,
}

/// What was found in the statements so far.
#[derive(Default)]
pub(super) struct Walk<'t> {
    /// Of the statement at hand.
    pub(super) traces: Traces,
    /// Of all statements: what they make for sure that outlasts the transaction.
    pub(super) pins: Traces,
    /// What is gone through is stored by the statement at hand, and not run by it.
    is_stored: bool,
    /// Settings that the statement at hand sets or resets.
    pub(super) settings: BTreeSet<Box<str>>,
    functions: BTreeSet<&'t str>,
    maybe_functions: BTreeSet<&'t str>,
    relations: BTreeSet<&'t str>,
    types: BTreeSet<&'t str>,
    ctes: Vec<Cte<'t>>,
    pending: Vec<(Node<'t>, Scope)>,
}

impl<'t> Walk<'t> {
    /// Goes through `node` and all that is in it.
    pub(super) fn node(&mut self, node: Node<'t>) {
        self.pending.push((node, None));
        while let Some((node, scope)) = self.pending.pop() {
            self.visit(node, scope);
        }
    }

    /// Goes through `node` and all that is in it, of which nothing is run before somebody uses what is made.
    pub(super) fn stored(&mut self, node: Node<'t>) {
        self.is_stored = true;
        self.node(node);
        self.is_stored = false;
    }

    /// Goes through all of a list.
    pub(super) fn list(&mut self, list: &'t NodeList) {
        self.node(Node::NodeList(list));
    }

    /// Notes a relation that is no CTE, whatever the CTEs are called.
    pub(super) fn relation(&mut self, relation: Option<&'t RangeVar>) {
        self.relations.extend(relation.and_then(RangeVar::relname));
    }

    /// Notes that a function or operator of that name is called.
    pub(super) fn function(&mut self, name: Option<&'t str>) {
        self.functions.extend(name);
    }

    /// Whether there is more in the text than is looked at.
    pub(super) fn is_too_much(&self) -> bool {
        self.ctes.len() > CTES_MAX
    }

    /// The shape of a text of these statements.
    pub(super) fn into_shape(self, statements: Vec<StatementShape>) -> Shape {
        let traces = statements.iter().fold(Traces::NONE, |all, statement| all | statement.traces);
        let boxed = |names: BTreeSet<&str>| names.into_iter().map(Box::from).collect();
        Shape {
            is_of_mode: statements.iter().any(|statement| statement.verb.is_of_mode()),
            statements: statements.into(),
            is_parsed: true,
            traces,
            pins: self.pins,
            functions: boxed(self.functions),
            maybe_functions: boxed(self.maybe_functions),
            relations: boxed(self.relations),
            types: boxed(self.types),
            ..Shape::default()
        }
    }

    fn visit(&mut self, node: Node<'t>, scope: Scope) {
        match node {
            Node::None => {}
            Node::NodeList(list) => self.pending.extend(list.iter().map(|node| (node, scope))),
            Node::RangeVar(relation) => self.named(relation, scope),
            Node::SelectStmt(select) => {
                // SELECT INTO in a place where PostgreSQL refuses it is an error there.
                let scope = self.with(select.with_clause(), scope);
                self.children(node, scope);
            }
            Node::InsertStmt(insert) => self.write(node, insert.relation(), insert.with_clause(), scope),
            Node::UpdateStmt(update) => self.write(node, update.relation(), update.with_clause(), scope),
            Node::DeleteStmt(delete) => self.write(node, delete.relation(), delete.with_clause(), scope),
            Node::MergeStmt(merge) => self.write(node, merge.relation(), merge.with_clause(), scope),
            // Read with the statement that they belong to.
            Node::WithClause(_) | Node::IntoClause(_) => {}
            // FOR UPDATE and the like; the names that it lists are those of FROM.
            Node::LockingClause(_) => self.traces |= Traces::PRIMARY,
            Node::FuncCall(call) => {
                self.call(call);
                self.children(node, scope);
            }
            Node::TypeName(name) => {
                self.type_name(name);
                self.children(node, scope);
            }
            _ if self.visit_definition(node, scope) => {}
            _ => self.visit_expression(node, scope),
        }
    }

    /// Expressions, and the parts of a query but statements.
    fn visit_expression(&mut self, node: Node<'t>, scope: Scope) {
        match node {
            Node::A_Expr(expression) => self.operators(expression),
            Node::SubLink(link) => match last_part(link.oper_name()) {
                None if link.sub_link_type == SubLinkType::ANY_SUBLINK => self.function(Some("=")),
                operator => self.function(operator),
            },
            Node::CaseExpr(case) if !matches!(case.arg(), Node::None) => self.function(Some("=")),
            Node::JoinExpr(join) if join.is_natural || !join.using_clause().is_empty() => self.function(Some("=")),
            Node::SortBy(sort) => self.function(last_part(sort.use_op())),
            Node::ColumnRef(column) if column.fields().len() > 1 => {
                // `t.f` is f(t) if t has no such column.
                self.maybe_functions.extend(last_part(column.fields()));
            }
            Node::A_Indirection(indirection) => {
                self.maybe_functions.extend(indirection.indirection().iter().filter_map(Node::as_str));
            }
            Node::CommonTableExpr(cte) => {
                if let Some(cycle) = cte.cycle_clause() {
                    self.function(Some("="));
                    self.pending.push((cycle.cycle_mark_value(), scope));
                    self.pending.push((cycle.cycle_mark_default(), scope));
                }
            }
            Node::RangeTableSample(sample) => match last_part(sample.method()) {
                Some("bernoulli" | "system") => {}
                method => self.function(method),
            },
            Node::RangeTableFuncCol(column) => {
                self.pending.extend(column.type_name().map(|name| (Node::TypeName(name), scope)));
            }
            _ => self.maybe_functions.extend(newer_syntax(node)),
        }
        if is_walked(node) {
            self.children(node, scope);
        } else {
            self.traces |= Traces::OPAQUE;
        }
    }

    /// Parts of statements that define objects. False: it is none of them.
    fn visit_definition(&mut self, node: Node<'t>, scope: Scope) -> bool {
        match node {
            Node::ColumnDef(column) => {
                self.pending.push((Node::NodeList(column.constraints()), scope));
                self.children(node, scope);
            }
            Node::Constraint(constraint) => {
                self.relation(constraint.pktable());
                self.pending.push((constraint.raw_expr(), scope));
                self.pending.push((constraint.where_clause(), scope));
                for exclusion in constraint.exclusions() {
                    self.exclusion(exclusion, scope);
                }
            }
            Node::TableLikeClause(like) => self.relation(like.relation()),
            Node::PartitionCmd(partition) => {
                self.relation(partition.name());
                self.pending.extend(partition.bound().map(|bound| (Node::PartitionBoundSpec(bound), scope)));
            }
            Node::PartitionBoundSpec(bound) => {
                let lists = [bound.listdatums(), bound.lowerdatums(), bound.upperdatums()];
                self.pending.extend(lists.map(|list| (Node::NodeList(list), scope)));
            }
            Node::PartitionRangeDatum(datum) => self.pending.push((datum.value(), scope)),
            Node::PartitionSpec(spec) => {
                self.pending.extend(spec.part_params().iter().map(|part| (part.expr(), scope)));
            }
            Node::FunctionParameter(parameter) => {
                self.pending.extend(parameter.arg_type().map(|name| (Node::TypeName(name), scope)));
                self.pending.push((parameter.defexpr(), scope));
            }
            Node::StatsElem(element) => self.pending.push((element.expr(), scope)),
            Node::AlterTableCmd(command) => self.pending.push((command.def(), scope)),
            // Options, owners and the like: nothing in them is run.
            Node::DefElem(_) | Node::RoleSpec(_) | Node::ReplicaIdentityStmt(_) | Node::ATAlterConstraint(_) => {}
            _ => return false,
        }
        true
    }

    /// One element of EXCLUDE: what is compared, and the operator by which.
    fn exclusion(&mut self, pair: Node<'t>, scope: Scope) {
        let Some(pair) = pair.as_node_list() else { return };
        self.pending.extend(pair.first().map(|element| (element, scope)));
        self.function(pair.get(1).and_then(|operator| last_part(operator.as_node_list()?)));
    }

    /// Puts off what is directly in `node`.
    fn children(&mut self, node: Node<'t>, scope: Scope) {
        walk_manual::<()>(node, |child| {
            self.pending.push((child, scope));
            Recurse::no()
        });
    }

    /// INSERT, UPDATE, DELETE and MERGE; their target is never a CTE.
    fn write(&mut self, node: Node<'t>, target: Option<&'t RangeVar>, with: Option<&'t WithClause>, scope: Scope) {
        self.traces |= Traces::WRITES;
        self.relation(target);
        if target.and_then(RangeVar::relname) == Some("pg_settings") {
            // Its rule calls set_config.
            self.traces |= Traces::ANY_SETTING;
        }
        let scope = self.with(with, scope);
        self.children(node, scope);
    }

    /// Takes up the CTEs of a statement: the scope in which the statement stands then.
    fn with(&mut self, with: Option<&'t WithClause>, outer: Scope) -> Scope {
        let Some(with) = with else { return outer };
        let mut scope = outer;
        for cte in with.ctes() {
            if !with.recursive {
                self.pending.push((Node::CommonTableExpr(cte), scope));
            }
            // Beyond the limit nothing is looked up any more.
            if self.ctes.len() <= CTES_MAX {
                self.ctes.push(Cte { name: cte.ctename().unwrap_or_default(), outer: scope });
                scope = Some(self.ctes.len() - 1);
            }
        }
        if with.recursive {
            self.pending.extend(with.ctes().iter().map(|cte| (Node::CommonTableExpr(cte), scope)));
        }
        scope
    }

    /// A relation's name in a place where a CTE may stand.
    fn named(&mut self, relation: &'t RangeVar, scope: Scope) {
        if relation.schemaname().is_none() {
            let mut scope = scope;
            while let Some(at) = scope {
                if relation.relname() == Some(self.ctes[at].name) {
                    return;
                }
                scope = self.ctes[at].outer;
            }
        }
        self.relation(Some(relation));
    }

    fn call(&mut self, call: &'t FuncCall) {
        let Some(name) = last_part(call.funcname()) else { return };
        if call.funcformat == CoercionForm::COERCE_SQL_SYNTAX {
            // AT TIME ZONE, SUBSTRING … FROM and the like: always those of pg_catalog.
            return;
        }
        let traces = names::traces_of_function(name);
        if self.is_stored && traces.has(Traces::READS_SEQUENCE) {
            // Who uses the object asks, and of that the catalogue tells.
            return;
        }
        self.function(Some(name));
        self.traces |= traces;
        if !self.is_stored && !name.contains("unlock") {
            self.pins |= Traces::of_bits(traces.bits() & (Traces::LOCK | Traces::SEED).bits());
        }
        if name == "set_config" {
            let pins = self.pins;
            setting::set_config(call.args(), self);
            if self.is_stored {
                self.pins = pins;
            }
        }
    }

    fn operators(&mut self, expression: &'t A_Expr) {
        match expression.kind {
            A_Expr_Kind::AEXPR_BETWEEN
            | A_Expr_Kind::AEXPR_NOT_BETWEEN
            | A_Expr_Kind::AEXPR_BETWEEN_SYM
            | A_Expr_Kind::AEXPR_NOT_BETWEEN_SYM => self.functions.extend(["<", "<=", ">", ">="]),
            _ => self.function(last_part(expression.name())),
        }
    }

    fn type_name(&mut self, name: &'t TypeName) {
        if name.pct_type {
            // `relation.column%TYPE`
            let parts = name.names();
            let relation = parts.len().checked_sub(2).and_then(|at| parts.get(at)).and_then(|part| part.sval());
            self.relations.extend(relation);
        } else if let Some(name) = name.names().iter().next_back().and_then(|part| part.sval())
            && !names::is_builtin_type(name)
        {
            self.types.insert(name);
        }
    }
}

/// The function that an older grammar reads where this one has syntax of its own.
fn newer_syntax(node: Node<'_>) -> Option<&'static str> {
    match node {
        Node::JsonParseExpr(_) => Some("json"),
        Node::JsonScalarExpr(_) => Some("json_scalar"),
        Node::JsonSerializeExpr(_) => Some("json_serialize"),
        Node::JsonObjectConstructor(_) => Some("json_object"),
        Node::JsonArrayConstructor(_) | Node::JsonArrayQueryConstructor(_) => Some("json_array"),
        Node::JsonObjectAgg(_) => Some("json_objectagg"),
        Node::JsonArrayAgg(_) => Some("json_arrayagg"),
        Node::JsonTable(_) => Some("json_table"),
        Node::MergeSupportFunc(_) => Some("merge_action"),
        Node::JsonFuncExpr(function) => match function.op {
            JsonExprOp::JSON_EXISTS_OP => Some("json_exists"),
            JsonExprOp::JSON_QUERY_OP => Some("json_query"),
            _ => Some("json_value"),
        },
        _ => None,
    }
}

/// Whether the grammar's own walker knows what is in `node`; it panics over others.
fn is_walked(node: Node<'_>) -> bool {
    is_leaf(node)
        || matches!(
            node,
            Node::A_Expr(_)
                | Node::A_ArrayExpr(_)
                | Node::A_Indices(_)
                | Node::A_Indirection(_)
                | Node::BoolExpr(_)
                | Node::BooleanTest(_)
                | Node::CaseExpr(_)
                | Node::CoalesceExpr(_)
                | Node::CollateClause(_)
                | Node::CommonTableExpr(_)
                | Node::GroupingFunc(_)
                | Node::GroupingSet(_)
                | Node::IndexElem(_)
                | Node::InferClause(_)
                | Node::JoinExpr(_)
                | Node::MergeWhenClause(_)
                | Node::MinMaxExpr(_)
                | Node::MultiAssignRef(_)
                | Node::NamedArgExpr(_)
                | Node::NullTest(_)
                | Node::OnConflictClause(_)
                | Node::RangeFunction(_)
                | Node::RangeSubselect(_)
                | Node::RangeTableFunc(_)
                | Node::RangeTableFuncCol(_)
                | Node::RangeTableSample(_)
                | Node::ResTarget(_)
                | Node::ReturningClause(_)
                | Node::RowExpr(_)
                | Node::SortBy(_)
                | Node::SubLink(_)
                | Node::TypeCast(_)
                | Node::WindowDef(_)
                | Node::XmlExpr(_)
                | Node::XmlSerialize(_)
        )
        || is_json(node)
}

fn is_leaf(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::A_Const(_)
            | Node::A_Star(_)
            | Node::Alias(_)
            | Node::BitString(_)
            | Node::Boolean(_)
            | Node::ColumnRef(_)
            | Node::CurrentOfExpr(_)
            | Node::Float(_)
            | Node::Integer(_)
            | Node::MergeSupportFunc(_)
            | Node::ParamRef(_)
            | Node::ReturningOption(_)
            | Node::SQLValueFunction(_)
            | Node::SetToDefault(_)
            | Node::String(_)
    )
}

fn is_json(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::JsonAggConstructor(_)
            | Node::JsonArgument(_)
            | Node::JsonArrayAgg(_)
            | Node::JsonArrayConstructor(_)
            | Node::JsonArrayQueryConstructor(_)
            | Node::JsonBehavior(_)
            | Node::JsonFormat(_)
            | Node::JsonFuncExpr(_)
            | Node::JsonIsPredicate(_)
            | Node::JsonKeyValue(_)
            | Node::JsonObjectAgg(_)
            | Node::JsonObjectConstructor(_)
            | Node::JsonOutput(_)
            | Node::JsonParseExpr(_)
            | Node::JsonReturning(_)
            | Node::JsonScalarExpr(_)
            | Node::JsonSerializeExpr(_)
            | Node::JsonTable(_)
            | Node::JsonTableColumn(_)
            | Node::JsonTablePathSpec(_)
            | Node::JsonValueExpr(_)
    )
}
