//! From the rows of the query to a catalogue.

use rustc_hash::FxHashMap;

use crate::builtin;
use crate::traces::Traces;

use super::body::{self, Found, Language};
use super::closure::{Closure, Graph, Vertex};
use super::extensions;
use super::names::Names;
use super::{Catalogue, Entry, OWN_OID_MIN, Slot, Verdict};

/// Takes the rows of [`Catalogue::QUERY`], in any order.
#[derive(Default)]
pub struct Builder {
    functions: Vec<Function>,
    relations: Vec<Relation>,
    types: Vec<Type>,
    unlogged: Vec<u32>,
    operators: Vec<Operator>,
    edges: Vec<Edge>,
    own: Vec<Own>,
    /// Some row was not as expected: nothing can be said about anything.
    is_broken: bool,
}

struct Function {
    oid: u32,
    name: Box<str>,
    /// The language; `aggregate`, or `tree` if its edges tell all.
    language: Box<str>,
    extension: Option<Box<str>>,
    body: Option<Box<[u8]>>,
}

struct Relation {
    oid: u32,
    name: Box<str>,
    kind: u8,
    row_type: u32,
    array_type: u32,
}

struct Type {
    oid: u32,
    name: Box<str>,
    array_type: u32,
}

struct Operator {
    oid: u32,
    symbol: Box<str>,
    operands: [u32; 2],
}

/// An object as a row names it: a letter, and a number if there are more of its kind.
type Code = (u8, u32);

struct Edge {
    from: Code,
    to: Code,
    part: &'static str,
    /// How `from` uses a relation: r reads, w writes, b does as is done to itself.
    way: u8,
}

struct Own {
    of: Code,
    functions: Box<str>,
    part: &'static str,
}

impl Builder {
    /// Without any row.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Takes a row. One that is not the query's makes everything opaque.
    pub fn row(&mut self, columns: &[Option<&[u8]>]) {
        if self.take(columns).is_none() {
            self.is_broken = true;
        }
    }

    fn take(&mut self, columns: &[Option<&[u8]>]) -> Option<()> {
        let &[kind, a, b, c, d, e] = columns else { return None };
        match kind? {
            b"function" => self.functions.push(Function {
                oid: number(a)?,
                name: text(b)?.into(),
                language: text(c)?.into(),
                extension: d.and_then(|name| std::str::from_utf8(name).ok()).map(Into::into),
                body: e.map(Into::into),
            }),
            b"relation" => self.relations.push(Relation {
                oid: number(a)?,
                name: text(b)?.into(),
                kind: *c?.first()?,
                row_type: number(d)?,
                array_type: e.map_or(Some(0), |_| number(e))?,
            }),
            b"unlogged" => self.unlogged.push(number(a)?),
            b"type" => self.types.push(Type { oid: number(a)?, name: text(b)?.into(), array_type: number(d)? }),
            b"operator" => self.operators.push(Operator {
                oid: number(a)?,
                symbol: text(b)?.into(),
                operands: [number(c)?, number(d)?],
            }),
            b"edge" => {
                self.edges.push(Edge { from: code(a)?, to: code(b)?, part: part(text(c)?), way: *d?.first()? });
            }
            b"own" => self.own.push(Own { of: code(a)?, functions: text(b)?.into(), part: part(text(c)?) }),
            _ => return None,
        }
        Some(())
    }

    /// The catalogue of these rows.
    pub fn finish(self) -> Catalogue {
        let mut plan = Plan::default();
        plan.place(&self);
        let mut names = Names::default();
        plan.name(&self, &mut names);
        let mut settings = Vec::new();
        for function in &self.functions {
            plan.function(function, &names, &mut settings);
        }
        plan.edges(&self);
        if self.is_broken {
            plan.graph.leave(plan.anything, Traces::OPAQUE, || String::from("the catalogue could not be read"));
        }
        plan.catalogue(&names, settings)
    }
}

/// The graph while it is made.
struct Plan {
    graph: Graph,
    vertices: FxHashMap<Code, Vertex>,
    /// What any statement may run.
    anything: Vertex,
    /// What statements run that make, change or drop objects.
    schema: Vertex,
}

impl Default for Plan {
    fn default() -> Plan {
        let mut graph = Graph::default();
        let anything = graph.add("the database's", "casts and operator classes");
        let schema = graph.add("the database's", "event triggers");
        Plan { graph, vertices: FxHashMap::from_iter([((b'a', 0), anything), ((b'd', 0), schema)]), anything, schema }
    }
}

impl Plan {
    fn add(&mut self, code: Code, kind: &'static str, name: &str) -> Vertex {
        let vertex = self.graph.add(kind, name);
        self.vertices.insert(code, vertex);
        vertex
    }

    /// A vertex for every object.
    fn place(&mut self, rows: &Builder) {
        for function in &rows.functions {
            self.add((b'f', function.oid), "function", &function.name);
        }
        for operator in &rows.operators {
            self.add((b'o', operator.oid), "operator", &operator.symbol);
        }
        for one in &rows.types {
            let vertex = self.add((b't', one.oid), "type", &one.name);
            self.vertices.insert((b't', one.array_type), vertex);
        }
        for relation in &rows.relations {
            let read = self.add((b'r', relation.oid), "relation", &relation.name);
            let write = self.add((b'w', relation.oid), "relation", &relation.name);
            self.graph.reach(write, read, "");
            // A value of the row type is checked as its columns' types check theirs.
            self.vertices.insert((b't', relation.row_type), read);
            self.vertices.insert((b't', relation.array_type), read);
            if relation.kind == b'f' {
                self.graph.leave(read, Traces::OPAQUE, || String::from("it is a foreign table"));
            }
            if relation.kind == b'p' {
                self.add((b'k', relation.oid), "the partition key of relation", &relation.name);
            }
        }
        for oid in &rows.unlogged {
            if let Some(read) = self.vertices.get(&(b'r', *oid)) {
                self.graph.leave(*read, Traces::PRIMARY, || String::from("it is unlogged, and empty on a standby"));
            }
        }
        self.vertices.remove(&(b't', 0));
    }

    /// The entries of all names.
    fn name<'b>(&mut self, rows: &'b Builder, names: &mut Names<'b>) {
        for function in &rows.functions {
            names.entry(&function.name).functions.push(self.vertices[&(b'f', function.oid)]);
        }
        for relation in &rows.relations {
            let ways = [b'r', b'w'].map(|letter| self.vertices[&(letter, relation.oid)]);
            let named = names.entry(&relation.name);
            named.types.push(ways[0]);
            if relation.kind != b'c' {
                named.relations.push((ways[0], ways[1]));
            }
        }
        for one in &rows.types {
            names.entry(&one.name).types.push(self.vertices[&(b't', one.oid)]);
        }
        for operator in &rows.operators {
            let vertex = self.vertices[&(b'o', operator.oid)];
            // With a symbol of PostgreSQL's own, one between values of types of the database is only met with these
            // types: a literal alone would be taken for PostgreSQL's.
            let is_of_types = operator.operands.iter().all(|oid| *oid == 0 || *oid >= OWN_OID_MIN);
            if is_of_types && builtin::is_operator(&operator.symbol) {
                for oid in operator.operands {
                    if let Some(&operand) = self.vertices.get(&(b't', oid)) {
                        self.graph.reach(operand, vertex, "operators");
                    }
                }
            } else {
                names.entry(&operator.symbol).functions.push(vertex);
            }
        }
    }

    /// What a function's language and body tell.
    fn function(&mut self, function: &Function, names: &Names<'_>, settings: &mut Vec<String>) {
        let vertex = self.vertices[&(b'f', function.oid)];
        let language = match &*function.language {
            "tree" | "aggregate" => return,
            "sql" => Language::Sql,
            "plpgsql" => Language::PlPgSql,
            language => {
                let traces = match (language, &function.extension) {
                    ("c" | "internal", Some(extension)) => extensions::judge(extension, &function.name),
                    _ => Traces::OPAQUE,
                };
                return self.graph.leave(vertex, traces, || format!("it is written in {language}"));
            }
        };
        let Some(text) = &function.body else {
            return self.graph.leave(vertex, Traces::OPAQUE, || String::from("its body is too long to be read"));
        };
        let Found { traces, why, uses, settings: named } = body::read(text, language, names);
        self.graph.leave(vertex, traces, || why.join(", "));
        for used in uses {
            self.graph.reach(vertex, used, "body");
        }
        settings.extend(named);
    }

    /// What the edges tell, and the functions of PostgreSQL's own that are named beside them.
    fn edges(&mut self, rows: &Builder) {
        for edge in &rows.edges {
            let (letter, from) = edge.from;
            match (edge.way, edge.to) {
                (b'b', (b'r', to)) => {
                    self.edge((b'r', from), (b'r', to), edge.part);
                    self.edge((b'w', from), (b'w', to), edge.part);
                }
                (b'w', (b'r', to)) => self.edge((letter, from), (b'w', to), edge.part),
                _ => self.edge(edge.from, edge.to, edge.part),
            }
        }
        for own in &rows.own {
            let Some(&vertex) = self.vertices.get(&own.of) else { continue };
            for name in own.functions.split(' ') {
                let traces = builtin::function(name).map_or(Traces::OPAQUE, |(traces, _)| traces);
                self.graph.leave(vertex, traces, || format!("its {} calls {name}", own.part));
            }
        }
    }

    fn edge(&mut self, from: Code, to: Code, part: &'static str) {
        // What nobody can name is not in the rows, such as another session's temporary tables.
        let Some(&from) = self.vertices.get(&from) else { return };
        match self.vertices.get(&to) {
            Some(&to) => self.graph.reach(from, to, part),
            None => self.graph.leave(from, Traces::OPAQUE, || format!("its {part} uses what is not known")),
        }
    }

    fn catalogue(self, names: &Names<'_>, mut settings: Vec<String>) -> Catalogue {
        let mut clean_types: Vec<u32> = Vec::new();
        let Plan { graph, vertices, anything, schema } = self;
        let closure = graph.close();
        let mut verdicts = vec![Verdict::default()];
        let mut made = FxHashMap::default();
        let mut verdict = |vertices: &[Vertex]| verdict(&closure, vertices, &mut verdicts, &mut made);
        let mut sorted: Vec<_> = names.entries().collect();
        sorted.sort_unstable_by_key(|(name, _)| *name);
        let mut arena = String::new();
        let mut entries = Vec::with_capacity(sorted.len());
        for (name, named) in sorted {
            let start = u32::try_from(arena.len()).expect("names are shorter than 4 GB");
            arena.push_str(name);
            let end = u32::try_from(arena.len()).expect("names are shorter than 4 GB");
            let (read, write): (Vec<_>, Vec<_>) = named.relations.iter().copied().unzip();
            let slots = [verdict(&named.functions), verdict(&read), verdict(&write), verdict(&named.types)];
            entries.push(Entry { start, end, slots });
        }
        let [anything, schema] = [anything, schema].map(|vertex| verdict(&[vertex]));
        for (&(letter, oid), &vertex) in &vertices {
            if letter == b't' && closure.traces(vertex).is_none() {
                clean_types.push(oid);
            }
        }
        clean_types.sort_unstable();
        settings.sort_unstable();
        settings.dedup();
        Catalogue {
            id: super::next_id(),
            names: arena.into(),
            entries: entries.into(),
            verdicts: verdicts.into(),
            anything,
            schema,
            settings: settings.into_iter().map(Into::into).collect(),
            reads_sequences: closure.all().has(Traces::READS_SEQUENCE),
            clean_types: clean_types.into(),
        }
    }
}

/// The verdict about objects that share a name.
fn verdict(
    closure: &Closure,
    vertices: &[Vertex],
    verdicts: &mut Vec<Verdict>,
    made: &mut FxHashMap<Vertex, Slot>,
) -> Slot {
    if vertices.is_empty() {
        return Slot::ABSENT;
    }
    let traces = vertices.iter().fold(Traces::NONE, |all, vertex| all | closure.traces(*vertex));
    if traces.is_none() {
        return Slot::CLEAN;
    }
    if let ([vertex], Some(slot)) = (vertices, made.get(&vertices[0])) {
        debug_assert_eq!(verdicts[slot.0 as usize].traces, closure.traces(*vertex));
        return *slot;
    }
    let mut why: Vec<String> = vertices.iter().flat_map(|vertex| closure.why(*vertex)).collect();
    why.dedup();
    let slot = Slot(u32::try_from(verdicts.len()).expect("objects have 32-bit numbers"));
    verdicts.push(Verdict { traces, why: why.join("; ").into() });
    if let [vertex] = vertices {
        made.insert(*vertex, slot);
    }
    slot
}

fn text(column: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(column?).ok()
}

fn number(column: Option<&[u8]>) -> Option<u32> {
    text(column)?.parse().ok()
}

fn code(column: Option<&[u8]>) -> Option<Code> {
    let (letter, number) = column?.split_first()?;
    match letter {
        b'a' | b'd' if number.is_empty() => Some((*letter, 0)),
        b'f' | b'k' | b'o' | b'r' | b't' | b'w' => Some((*letter, std::str::from_utf8(number).ok()?.parse().ok()?)),
        _ => None,
    }
}

/// The word of the query for a part of an object, kept without a copy.
fn part(word: &str) -> &'static str {
    const PARTS: [&str; 21] = [
        "access method",
        "body",
        "cast",
        "column or partition key",
        "constraint",
        "default",
        "event trigger",
        "foreign key",
        "function",
        "generated column",
        "identity column",
        "index",
        "operator class",
        "partition key",
        "partition or child",
        "row security policy",
        "rule",
        "text search or conversion",
        "trigger",
        "type",
        "view",
    ];
    PARTS.binary_search(&word).map_or("definition", |at| PARTS[at])
}
