//! Statements on their way to another process: what they are made of, and who they are there.
//!
//! A statement keeps its number and its name, for servers know it by that; so two clients that shared one share one
//! again, in whichever order they arrive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use forebay_sql::lexer::Backslash;
use forebay_sql::shape::Shape;

use super::prepared::{Needs, Prepared, StatementKey};
use super::{Registry, Statement};
use crate::moving::part::{Writer, part_enum, part_struct};
use crate::renamed::Moved;

/// A statement's content.
pub(crate) struct Raw {
    pub(crate) text: Arc<[u8]>,
    types: Arc<[u8]>,
    environment: Arc<str>,
    epoch: u32,
    pub(crate) backslash: Backslash,
    id: u64,
    name: Box<[u8]>,
    takes_away: bool,
    query: Option<Box<[u8]>>,
    needs: Option<RawNeeds>,
    moved: Moved,
    columns: Option<Box<[u8]>>,
    parameters: Option<Box<[u8]>>,
    is_told_otherwise: bool,
}

struct RawNeeds {
    /// Its place in the list that both are in.
    place: u32,
    name: Box<[u8]>,
    said: Box<[u8]>,
}

part_enum!(Backslash { 0 = Plain, 1 = Escape, 2 = Unknown });
part_struct!(RawNeeds { place: u32, name: Box<[u8]>, said: Box<[u8]> });
part_struct!(Raw {
    text: Arc<[u8]>,
    types: Arc<[u8]>,
    environment: Arc<str>,
    epoch: u32,
    backslash: Backslash,
    id: u64,
    name: Box<[u8]>,
    takes_away: bool,
    query: Option<Box<[u8]>>,
    needs: Option<RawNeeds>,
    moved: Moved,
    columns: Option<Box<[u8]>>,
    parameters: Option<Box<[u8]>>,
    is_told_otherwise: bool,
});

impl Raw {
    /// What `statement` is made of; another that it needs gets a place in `out`.
    pub(crate) fn of(statement: &Statement, out: &mut Writer) -> Raw {
        let StatementKey { text, types, environment, epoch, backslash } = statement.key.clone();
        let needs = statement.needs.as_ref().map(|needs| RawNeeds {
            place: out.place(&needs.statement),
            name: needs.name.clone(),
            said: needs.said.clone(),
        });
        Raw {
            text,
            types,
            environment,
            epoch,
            backslash,
            id: statement.id,
            name: statement.name.clone(),
            takes_away: statement.takes_away,
            query: statement.query.clone(),
            needs,
            moved: statement.moved,
            columns: statement.columns.get().cloned(),
            parameters: statement.parameters.get().cloned(),
            is_told_otherwise: statement.is_told_otherwise.load(Ordering::Relaxed),
        }
    }

    fn into_prepared(self, shape: Arc<Shape>, made: &[Option<Arc<Statement>>]) -> Prepared {
        let Raw { text, types, environment, epoch, backslash, .. } = self;
        let key = StatementKey { text, types, environment, epoch, backslash };
        let mut statement = Prepared::new(key, self.id, self.name, shape);
        statement.takes_away = self.takes_away;
        statement.query = self.query;
        statement.moved = self.moved;
        statement.needs = self.needs.and_then(|RawNeeds { place, name, said }| {
            let needed = made.get(place as usize)?.clone()?;
            Some(Box::new(Needs { statement: needed, name, said }))
        });
        statement.columns = self.columns.map_or_else(Default::default, Into::into);
        statement.parameters = self.parameters.map_or_else(Default::default, Into::into);
        statement.is_told_otherwise = AtomicBool::new(self.is_told_otherwise);
        statement
    }
}

impl Registry {
    /// Statements that are written out: should they come back, they are found again.
    pub(crate) fn note_leaving(&self, statements: &[Arc<Statement>]) {
        let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for statement in statements.iter().filter(|statement| statement.is_shared()) {
            table.by_id.insert(statement.id, Arc::downgrade(&statement.of));
        }
    }

    /// The statements of a list, in its order: those that are known, and others made of what is said of them. `None`: some
    /// need each other in a circle, or what is not there.
    pub(crate) fn adopt(
        &self,
        raw: Vec<Raw>,
        mut shape: impl FnMut(&Raw) -> Arc<Shape>,
    ) -> Option<Vec<Arc<Statement>>> {
        let mut made: Vec<Option<Arc<Statement>>> = vec![None; raw.len()];
        let mut left: Vec<(usize, Raw)> = raw.into_iter().enumerate().collect();
        while !left.is_empty() {
            let before = left.len();
            let (ready, waiting): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, raw)| {
                let needed = raw.needs.as_ref().map(|needs| made.get(needs.place as usize));
                needed.is_none_or(|needed| needed.is_some_and(Option::is_some))
            });
            for (place, raw) in ready {
                let shape = shape(&raw);
                let prepared = raw.into_prepared(shape, &made);
                made[place] = Some(Arc::new(Statement { of: self.known_or(prepared) }));
            }
            if waiting.len() == before {
                return None;
            }
            left = waiting;
        }
        made.into_iter().collect()
    }

    fn known_or(&self, statement: Prepared) -> Arc<Prepared> {
        if !statement.is_shared() {
            return Arc::new(statement);
        }
        let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let by_key = table.by_key.get(&statement.key).and_then(std::sync::Weak::upgrade);
        let by_id = || table.by_id.get(&statement.id).and_then(std::sync::Weak::upgrade);
        let is_it = |known: &Arc<Prepared>| known.id == statement.id && known.key == statement.key;
        if let Some(known) = by_key.clone().filter(is_it).or_else(|| by_id().filter(is_it)) {
            if let Some(columns) = statement.columns.get() {
                known.is_as_described(columns.clone());
            }
            if let Some(types) = statement.parameters.get() {
                known.note_parameters(types);
            }
            known.is_told_otherwise.fetch_or(statement.is_told_otherwise.load(Ordering::Relaxed), Ordering::Relaxed);
            return known;
        }
        let statement = Arc::new(statement);
        table.sweep_ids();
        table.by_id.insert(statement.id, Arc::downgrade(&statement));
        // One that a client prepared by a Query, or that names another, is that client's alone.
        if by_key.is_none() && statement.query.is_none() && statement.needs.is_none() {
            table.by_key.insert(statement.key.clone(), Arc::downgrade(&statement));
        }
        statement
    }
}
