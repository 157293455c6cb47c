//! Typed ids. Each names one thing in one place, so that an index can't be used for another.

/// A connection of one worker: its slot in the I/O driver, and the slot's generation, which tells a
/// late completion for an earlier connection from one for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Index into the driver's table; dense, reused.
    pub slot: u32,
    /// Grows by one at each reuse of the slot.
    pub generation: u32,
}

/// A received buffer that the driver lends to core until [`crate::io::Io::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufId(pub u32);

/// One thread of the engine, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// A question put to Python, or to the driver's side pool; unique in its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuestionId(pub u64);
