//! Statements of forebay's own that it sends between two clients, over and over. A server is given them under names
//! when it first needs them: to bind one costs it about half of what parsing it costs (docs/adr/0013).

use forebay_pgwire::frontend::Target;
use forebay_pgwire::write;

use super::ServerStatements;
use crate::moving::part::{Damaged, Part, Reader, Schema, Writer};

/// One of them. Its place in this list is part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fixed {
    Begin,
    Commit,
    ResetAuthorization,
    ResetRole,
    ResetAll,
    CloseAll,
    UnlistenAll,
    DiscardSequences,
    DiscardTemp,
    DeallocateAll,
    UnlockAll,
    Reseed,
    UnlockAllAndReseed,
}

/// What their names begin with, where all of our names begin with `prefix`: no other statement's number begins with a zero.
pub(crate) fn names_begin(prefix: &str) -> String {
    format!("{prefix}0")
}

/// A parameter, where there is one; only numbers are put there.
const PARAMETER: &str = "$1";

impl Fixed {
    /// In the order of their numbers.
    const ALL: [Fixed; 13] = [
        Fixed::Begin,
        Fixed::Commit,
        Fixed::ResetAuthorization,
        Fixed::ResetRole,
        Fixed::ResetAll,
        Fixed::CloseAll,
        Fixed::UnlistenAll,
        Fixed::DiscardSequences,
        Fixed::DiscardTemp,
        Fixed::DeallocateAll,
        Fixed::UnlockAll,
        Fixed::Reseed,
        Fixed::UnlockAllAndReseed,
    ];

    pub(crate) fn text(self) -> &'static str {
        match self {
            // The last client's defaults hold for it: without the level, a standby would refuse what begins serializable.
            Fixed::Begin => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Fixed::Commit => "COMMIT",
            Fixed::ResetAuthorization => "SET SESSION AUTHORIZATION DEFAULT",
            Fixed::ResetRole => "RESET ROLE",
            Fixed::ResetAll => "RESET ALL",
            Fixed::CloseAll => "CLOSE ALL",
            Fixed::UnlistenAll => "UNLISTEN *",
            Fixed::DiscardSequences => "DISCARD SEQUENCES",
            Fixed::DiscardTemp => "DISCARD TEMP",
            Fixed::DeallocateAll => "DEALLOCATE ALL",
            Fixed::UnlockAll => "SELECT pg_catalog.pg_advisory_unlock_all()",
            Fixed::Reseed => "SELECT pg_catalog.setseed($1)",
            Fixed::UnlockAllAndReseed => "SELECT pg_catalog.pg_advisory_unlock_all(),pg_catalog.setseed($1)",
        }
    }

    fn takes_seed(self) -> bool {
        matches!(self, Fixed::Reseed | Fixed::UnlockAllAndReseed)
    }

    /// As a Query has it.
    pub(crate) fn with(self, seed: f64) -> String {
        self.text().replace(PARAMETER, &value(seed))
    }
}

fn value(seed: f64) -> String {
    format!("{seed:.9}")
}

/// Which of them a server has.
#[derive(Debug, Default)]
pub(super) struct There(u16);

impl Part for There {
    fn put(&self, out: &mut Writer) {
        self.0.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        u16::get(from).map(There)
    }
    fn describe(to: &mut Schema) {
        // A bit each, by its place in the list.
        Fixed::ALL.iter().for_each(|fixed| to.field("there", fixed.text()));
    }
}

impl There {
    /// Whether this one is there; from now on it is.
    fn add(&mut self, fixed: Fixed) -> bool {
        let bit = 1 << fixed as u16;
        let was_there = self.0 & bit != 0;
        self.0 |= bit;
        was_there
    }
}

/// Statements that are run one after the other, without a Sync, in the extended protocol.
pub(crate) struct Run<'s> {
    pub(crate) out: Vec<u8>,
    pub(crate) count: usize,
    /// The unnamed statement has been replaced.
    pub(crate) uses_unnamed: bool,
    /// Where fixed ones have names, and what these begin with.
    named: Option<(&'s mut ServerStatements, &'s [u8])>,
    name: Vec<u8>,
    seed: f64,
}

impl<'s> Run<'s> {
    /// `named`: the statements of a server that keeps them, and what names begin with. `seed`: what is seeded with.
    pub(crate) fn new(named: Option<(&'s mut ServerStatements, &'s [u8])>, seed: f64) -> Run<'s> {
        Run { out: Vec::new(), count: 0, uses_unnamed: false, named, name: Vec::new(), seed }
    }

    pub(crate) fn fixed(&mut self, fixed: Fixed) {
        self.name.clear();
        let is_there = self.named.as_mut().is_some_and(|(there, prefix)| {
            let number = fixed as u8;
            self.name.extend_from_slice(prefix);
            // See [`names_begin`].
            self.name.extend([b'0', b'0' + number / 10, b'0' + number % 10]);
            there.fixed.add(fixed)
        });
        if !is_there {
            self.parse(fixed.text());
        }
        let seed = fixed.takes_seed().then(|| value(self.seed));
        self.execute(seed.as_deref());
    }

    pub(crate) fn other(&mut self, sql: &str) {
        self.name.clear();
        self.parse(sql);
        self.execute(None);
    }

    fn parse(&mut self, sql: &str) {
        if self.name.is_empty() {
            self.uses_unnamed = true;
        } else {
            // What was to take it away may have failed.
            write::close(&mut self.out, Target::STATEMENT, &self.name);
        }
        write::parse(&mut self.out, &self.name, sql, &[]);
    }

    fn execute(&mut self, value: Option<&str>) {
        let value = value.map(|value| Some(value.as_bytes()));
        write::bind(&mut self.out, "", &self.name, &[], value.as_slice(), &[]);
        write::execute(&mut self.out, "", 0);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_pgwire::frame::Frames;

    fn tags(run: &Run<'_>) -> String {
        let frames = Frames::new(&run.out, u32::MAX);
        frames.map(|frame| char::from(frame.expect("a whole frame").0.tag)).collect()
    }

    #[test]
    fn a_server_is_given_each_once() {
        let mut there = ServerStatements::default();
        for expected in ["CPBECPBE", "BEBE"] {
            let mut run = Run::new(Some((&mut there, b"fb_x_")), 0.5);
            run.fixed(Fixed::Begin);
            run.fixed(Fixed::Reseed);
            assert_eq!((&*tags(&run), run.uses_unnamed), (expected, false));
        }
        there.forget_named();
        let mut run = Run::new(Some((&mut there, b"fb_x_")), 0.5);
        run.fixed(Fixed::Begin);
        run.other("SET a TO b");
        assert_eq!((&*tags(&run), run.uses_unnamed, run.count), ("CPBEPBE", true, 2));
    }

    #[test]
    fn what_is_not_shared_is_parsed_each_time() {
        let mut run = Run::new(None, 0.5);
        run.fixed(Fixed::Begin);
        run.fixed(Fixed::Commit);
        assert_eq!((&*tags(&run), run.uses_unnamed), ("PBEPBE", true));
    }
}
