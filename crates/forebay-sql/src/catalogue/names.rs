//! The objects of a database by name.

use rustc_hash::FxHashMap;

use super::closure::Vertex;

/// Objects of the database by their name without a schema.
#[derive(Default)]
pub(super) struct Names<'n> {
    entries: FxHashMap<&'n str, Named>,
}

/// The objects of one name.
#[derive(Default)]
pub(super) struct Named {
    /// Functions and operators.
    pub(super) functions: Vec<Vertex>,
    /// Relations: to read, and to write.
    pub(super) relations: Vec<(Vertex, Vertex)>,
    /// Types.
    pub(super) types: Vec<Vertex>,
}

impl<'n> Names<'n> {
    /// The entry of a name, made if there is none.
    pub(super) fn entry(&mut self, name: &'n str) -> &mut Named {
        self.entries.entry(name).or_default()
    }

    /// The entry of a name.
    pub(super) fn get(&self, name: &str) -> Option<&Named> {
        self.entries.get(name)
    }

    /// All entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'n str, &Named)> {
        self.entries.iter().map(|(name, named)| (*name, named))
    }
}
