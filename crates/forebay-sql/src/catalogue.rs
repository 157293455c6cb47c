//! What a database's own objects may do: its functions, operators, relations and types, and all that runs with them.
//!
//! A catalogue is made from the rows of one query, is never changed afterwards, and answers for names without a schema:
//! the answer is the union over all objects of that name, since which one a name means is the session's search_path to
//! decide. Object by object it follows what PostgreSQL's own pg_depend tells (triggers, defaults, constraints, policies,
//! views, partitions, casts …); only the bodies of functions in SQL and PL/pgSQL are read as text. What is not known is
//! [`Traces::OPAQUE`].

mod body;
mod build;
mod closure;
mod extensions;
mod names;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

pub use build::Builder;

use crate::builtin;
use crate::shape::Shape;
use crate::traces::Traces;

/// What a database's own objects may do.
pub struct Catalogue {
    /// Of its own in this process, and not 0.
    id: u32,
    /// All names, one behind the other.
    names: Box<str>,
    /// By name.
    entries: Box<[Entry]>,
    verdicts: Box<[Verdict]>,
    /// About what any statement may run.
    anything: Slot,
    /// About what runs when objects are made, changed or dropped.
    schema: Slot,
    settings: Box<[Box<str>]>,
    reads_sequences: bool,
    /// Numbers of the types, arrays among them, that are clean.
    clean_types: Box<[u32]>,
}

/// The objects of one name.
struct Entry {
    start: u32,
    end: u32,
    slots: [Slot; 4],
}

/// A verdict's place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    /// There is no such object.
    const ABSENT: Slot = Slot(u32::MAX);
    /// The verdict that nothing is left behind.
    const CLEAN: Slot = Slot(0);
}

/// What objects of one name and kind leave behind.
#[derive(Default)]
struct Verdict {
    traces: Traces,
    /// For people; empty if nothing is left behind.
    why: Box<str>,
}

/// What a name is used as.
#[derive(Clone, Copy)]
enum Use {
    Function = 0,
    Read = 1,
    Write = 2,
    Type = 3,
}

/// Numbers of objects that are not PostgreSQL's own begin here. (FirstNormalObjectId)
const OWN_OID_MIN: u32 = 16384;

fn next_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // A catalogue a millisecond takes 49 days to come round; by then no shape remembers the first ones.
    NEXT.fetch_add(1, Ordering::Relaxed).max(1)
}

impl Catalogue {
    /// What any user may ask a server of PostgreSQL 12 to 18 for; its rows go to [`Builder::row`].
    ///
    /// It reads catalogues alone, so that it waits for no lock that a user's statement can hold for long, and names and
    /// operators in it do not depend on the session's search_path.
    pub const QUERY: &str = include_str!("generated/catalogue.sql");

    /// What any user may ask a server for whose one value changes whenever the rows of [`Catalogue::QUERY`] may have.
    pub const STAMP: &str = include_str!("generated/catalogue-stamp.sql");

    /// Nothing but PostgreSQL's own objects is known. Always the same one: after each change of a schema it holds.
    pub fn builtin() -> Arc<Catalogue> {
        static BUILTIN: LazyLock<Arc<Catalogue>> = LazyLock::new(|| Arc::new(Builder::new().finish()));
        BUILTIN.clone()
    }

    /// What a text leaves behind, the objects that it names counted in.
    ///
    /// The shape remembers the answer for the catalogue that was asked last.
    pub fn judge(&self, shape: &Shape) -> Traces {
        let judged = shape.judged.load(Ordering::Relaxed);
        if judged >> 32 == u64::from(self.id) {
            // The lower half holds the traces.
            return Traces::of_bits(judged as u32);
        }
        let mut traces = shape.traces;
        self.visit(shape, |_, _, one, _| traces |= one);
        shape.judged.store(u64::from(self.id) << 32 | u64::from(traces.bits()), Ordering::Relaxed);
        traces
    }

    /// Whether a text itself calls what somebody has made: functions, operators and types that are not PostgreSQL's own.
    /// What they do may have changed since the catalogue was read.
    pub fn calls_own(&self, shape: &Shape) -> bool {
        let foreign = shape.foreign_names();
        let mut names = shape.functions.iter().chain(&shape.maybe_functions);
        !foreign.functions.is_empty()
            || !foreign.types.is_empty()
            || names.any(|name| self.slot(name, Use::Function) != Slot::ABSENT)
    }

    /// A replica has refused a text, whatever the catalogue says: it writes. Known until the catalogue is another.
    pub fn note_refused(&self, shape: &Shape) {
        shape.refused.store(self.id, Ordering::Relaxed);
    }

    /// Whether a replica has refused it.
    pub fn was_refused(&self, shape: &Shape) -> bool {
        shape.refused.load(Ordering::Relaxed) == self.id
    }

    /// Of its own in this process, and not 0.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What makes a text leave anything behind but its own traces, for people.
    pub fn why(&self, shape: &Shape) -> Vec<String> {
        let mut told = Vec::new();
        self.visit(shape, |kind, name, traces, why| {
            if !traces.is_none() {
                told.push(format!("{kind} {name}: {why}"));
            }
        });
        told
    }

    /// What using a value of a type leaves behind, by the type's number: for parameters whose types a client declares.
    pub fn judge_type(&self, oid: u32) -> Traces {
        let is_clean = oid < OWN_OID_MIN || self.clean_types.binary_search(&oid).is_ok();
        if is_clean { Traces::NONE } else { Traces::OPAQUE }
    }

    /// Names with a dot of settings that bodies of functions set or ask for.
    pub fn settings_named(&self) -> &[Box<str>] {
        &self.settings
    }

    /// Whether any function, view, default or the like asks for currval or lastval.
    pub fn reads_sequences(&self) -> bool {
        self.reads_sequences
    }

    /// Tells kind, name, traces and reason of everything that the shape reaches.
    fn visit(&self, shape: &Shape, mut tell: impl FnMut(&str, &str, Traces, &str)) {
        let writes = Traces::WRITES | Traces::SCHEMA | Traces::OPAQUE;
        let is_write = shape.traces.has_any(writes);
        let (way, relation) = if is_write { (Use::Write, "write to relation") } else { (Use::Read, "relation") };
        for name in &shape.functions {
            // What set_config is given, the grammar has seen.
            let own = if &**name == "set_config" { Some((Traces::NONE, "")) } else { builtin::function(name) };
            self.tell("function", name, own, Use::Function, &mut tell);
        }
        for name in &shape.maybe_functions {
            self.tell("function", name, Some((Traces::NONE, "")), Use::Function, &mut tell);
        }
        for name in &shape.relations {
            self.tell(relation, name, builtin::relation(name, is_write), way, &mut tell);
        }
        for name in &shape.types {
            let own = builtin::is_type(name).then_some((Traces::NONE, ""));
            self.tell("type", name, own, Use::Type, &mut tell);
        }
        if !shape.statements.is_empty() {
            self.tell_all("any statement", self.anything, &mut tell);
        }
        if shape.traces.has_any(Traces::SCHEMA | Traces::TEMP | Traces::OPAQUE) {
            self.tell_all("statements that change objects", self.schema, &mut tell);
        }
    }

    /// Tells about PostgreSQL's own object of a name, and the database's.
    fn tell(
        &self,
        kind: &str,
        name: &str,
        own: Option<(Traces, &str)>,
        way: Use,
        tell: &mut impl FnMut(&str, &str, Traces, &str),
    ) {
        if let Some((traces, why)) = own {
            tell(kind, name, traces, why);
        }
        match self.slot(name, way) {
            Slot::ABSENT if own.is_none() => tell(kind, name, Traces::OPAQUE, "it is not known"),
            Slot::ABSENT => {}
            slot => {
                let verdict = &self.verdicts[slot.0 as usize];
                tell(kind, name, verdict.traces, &verdict.why);
            }
        }
    }

    fn tell_all(&self, what: &str, slot: Slot, tell: &mut impl FnMut(&str, &str, Traces, &str)) {
        let verdict = &self.verdicts[slot.0 as usize];
        tell(what, "of this database", verdict.traces, &verdict.why);
    }

    fn slot(&self, name: &str, way: Use) -> Slot {
        let found =
            self.entries.binary_search_by(|entry| self.names[entry.start as usize..entry.end as usize].cmp(name));
        found.map_or(Slot::ABSENT, |at| self.entries[at].slots[way as usize])
    }
}
