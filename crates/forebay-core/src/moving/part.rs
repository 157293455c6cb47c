//! How a state is written out and read in: each type says field by field what it is made of.
//!
//! The two macros take a type apart and put it together exhaustively, so that a field or variant that is added and not
//! named here does not compile. What they also write down, the types' own description, is hashed ([`schema`]): two
//! versions whose hashes differ do not read each other.
//!
//! What is read came from another process: a length is never believed, and nothing but [`Damaged`] comes of bytes that
//! nobody wrote.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::State;
use crate::parameters::{Image, Images};
use crate::statements::{Raw, Registry, Statement};
use crate::time::Instant;

/// Room that is made for a state at first: most need no more.
const ROOM: usize = 2048;

/// The bytes are not what was written, or of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Where a state is written to.
#[derive(Default)]
pub(crate) struct Writer {
    pub(super) bytes: State,
    /// Statements that were named so far: each is written once.
    pub(super) statements: Vec<Arc<Statement>>,
    places: FxHashMap<usize, u32>,
}

impl Writer {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.extend(&[byte]);
    }

    /// Bytes as they are. No copy of a secret is left behind when room is made for them.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            let mut larger = State::new(Vec::with_capacity(needed.max(ROOM).next_power_of_two()));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// A statement's place in the list of those that are named.
    pub(crate) fn place(&mut self, statement: &Arc<Statement>) -> u32 {
        let address = statement.address();
        *self.places.entry(address).or_insert_with(|| {
            self.statements.push(statement.clone());
            self.statements.len() as u32 - 1
        })
    }

    pub(super) fn length(&mut self, length: usize) {
        u32::try_from(length).expect("what one connection holds is under 4 GiB").put(self);
    }
}

/// Where a state is read from.
pub(crate) struct Reader<'r> {
    pub(super) rest: &'r [u8],
    pub(super) images: &'r mut Images,
    pub(super) registry: &'r Registry,
    /// What the numbers of statements stand for.
    pub(super) statements: Vec<Arc<Statement>>,
}

impl<'r> Reader<'r> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'r [u8], Damaged> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn length(&mut self) -> Result<usize, Damaged> {
        u32::get(self).map(|length| length as usize)
    }
}

/// What types say of themselves.
#[derive(Default)]
pub(crate) struct Schema {
    known: BTreeSet<&'static str>,
    words: String,
}

impl Schema {
    /// Begins a type, unless it has been described.
    pub(crate) fn begins(&mut self, name: &'static str) -> bool {
        self.words.extend([name, "("]);
        self.known.insert(name)
    }

    pub(crate) fn field(&mut self, name: &'static str, of: &'static str) {
        self.words.extend([name, ":", of, ","]);
    }

    /// FNV-1a: the same on every machine and in every version.
    pub(super) fn hash(&self) -> u64 {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.words.bytes().filter(|byte| !byte.is_ascii_whitespace()).fold(0xcbf2_9ce4_8422_2325, step)
    }
}

/// A piece of a state.
pub(crate) trait Part: Sized {
    /// Writes it out.
    fn put(&self, out: &mut Writer);
    /// Reads it in.
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged>;
    /// Says what it is made of.
    fn describe(to: &mut Schema);
}

/// A struct that consists of parts.
macro_rules! part_struct {
    ($type:ty { $($field:ident : $of:ty),* $(,)? }) => {
        impl $crate::moving::part::Part for $type {
            fn put(&self, out: &mut $crate::moving::part::Writer) {
                let Self { $($field),* } = self;
                $( $crate::moving::part::Part::put($field, out); )*
            }
            fn get(
                from: &mut $crate::moving::part::Reader<'_>,
            ) -> Result<Self, $crate::moving::part::Damaged> {
                Ok(Self { $($field: <$of as $crate::moving::part::Part>::get(from)?),* })
            }
            fn describe(to: &mut $crate::moving::part::Schema) {
                if to.begins(stringify!($type)) {
                    $(
                        to.field(stringify!($field), stringify!($of));
                        <$of as $crate::moving::part::Part>::describe(to);
                    )*
                }
            }
        }
    };
}

/// An enum whose variants have no fields, named fields, or one field without a name.
macro_rules! part_enum {
    ($type:ty { $($number:literal = $variant:ident
        $( { $($field:ident : $of:ty),* $(,)? } )? $( ( $one:ident : $of_one:ty ) )? ),* $(,)? }) => {
        impl $crate::moving::part::Part for $type {
            fn put(&self, out: &mut $crate::moving::part::Writer) {
                match self {
                    $( Self::$variant $( { $($field),* } )? $( ($one) )? => {
                        out.byte($number);
                        $( $( $crate::moving::part::Part::put($field, out); )* )?
                        $( $crate::moving::part::Part::put($one, out); )?
                    } )*
                }
            }
            fn get(
                from: &mut $crate::moving::part::Reader<'_>,
            ) -> Result<Self, $crate::moving::part::Damaged> {
                Ok(match <u8 as $crate::moving::part::Part>::get(from)? {
                    $( $number => Self::$variant
                        $( { $($field: <$of as $crate::moving::part::Part>::get(from)?),* } )?
                        $( (<$of_one as $crate::moving::part::Part>::get(from)?) )?, )*
                    _ => return Err($crate::moving::part::Damaged),
                })
            }
            fn describe(to: &mut $crate::moving::part::Schema) {
                if to.begins(stringify!($type)) {
                    $(
                        to.field(stringify!($number), stringify!($variant));
                        $( $(
                            to.field(stringify!($field), stringify!($of));
                            <$of as $crate::moving::part::Part>::describe(to);
                        )* )?
                        $(
                            to.field("0", stringify!($of_one));
                            <$of_one as $crate::moving::part::Part>::describe(to);
                        )?
                    )*
                }
            }
        }
    };
}

pub(crate) use {part_enum, part_struct};

macro_rules! part_integer {
    ($($type:ty),*) => { $(
        impl Part for $type {
            fn put(&self, out: &mut Writer) {
                out.extend(&self.to_le_bytes());
            }
            fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
                let bytes = from.take(size_of::<$type>())?;
                Ok(<$type>::from_le_bytes(bytes.try_into().map_err(|_| Damaged)?))
            }
            fn describe(_: &mut Schema) {}
        }
    )* };
}

part_integer!(u8, u16, u32, u64, i32);

impl Part for bool {
    fn put(&self, out: &mut Writer) {
        out.byte(u8::from(*self));
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        match u8::get(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged),
        }
    }
    fn describe(_: &mut Schema) {}
}

impl Part for usize {
    fn put(&self, out: &mut Writer) {
        (*self as u64).put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        usize::try_from(u64::get(from)?).map_err(|_| Damaged)
    }
    fn describe(_: &mut Schema) {}
}

impl Part for Instant {
    fn put(&self, out: &mut Writer) {
        self.0.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        u64::get(from).map(Instant)
    }
    fn describe(_: &mut Schema) {}
}

impl<T: Part> Part for Arc<T> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        T::get(from).map(Arc::new)
    }
    fn describe(to: &mut Schema) {
        T::describe(to);
    }
}

impl<T: Part> Part for Option<T> {
    fn put(&self, out: &mut Writer) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        if bool::get(from)? { T::get(from).map(Some) } else { Ok(None) }
    }
    fn describe(to: &mut Schema) {
        T::describe(to);
    }
}

impl<T: Part> Part for Box<T> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        T::get(from).map(Box::new)
    }
    fn describe(to: &mut Schema) {
        T::describe(to);
    }
}

fn put_all<'p, T: Part + 'p>(count: usize, parts: impl Iterator<Item = &'p T>, out: &mut Writer) {
    out.length(count);
    parts.for_each(|part| part.put(out));
}

macro_rules! part_list {
    ($($type:ty),*) => { $(
        impl<T: Part> Part for $type {
            fn put(&self, out: &mut Writer) {
                put_all(self.len(), self.iter(), out);
            }
            fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
                // Not collected at once: that would make room by a length that is only said.
                let mut parts = Vec::new();
                for _ in 0..from.length()? {
                    parts.push(T::get(from)?);
                }
                Ok(parts.into())
            }
            fn describe(to: &mut Schema) {
                T::describe(to);
            }
        }
    )* };
}

part_list!(Vec<T>, VecDeque<T>, Box<[T]>, Arc<[T]>);

impl<T: Part, const N: usize> Part for [T; N] {
    fn put(&self, out: &mut Writer) {
        self.iter().for_each(|part| part.put(out));
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let parts = (0..N).map(|_| T::get(from)).collect::<Result<Vec<T>, Damaged>>()?;
        parts.try_into().map_err(|_| Damaged)
    }
    fn describe(to: &mut Schema) {
        T::describe(to);
    }
}

impl<A: Part, B: Part> Part for (A, B) {
    fn put(&self, out: &mut Writer) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok((A::get(from)?, B::get(from)?))
    }
    fn describe(to: &mut Schema) {
        A::describe(to);
        B::describe(to);
    }
}

impl<K: Part + Eq + Hash, V: Part> Part for FxHashMap<K, V> {
    fn put(&self, out: &mut Writer) {
        out.length(self.len());
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        (0..from.length()?).map(|_| <(K, V)>::get(from)).collect()
    }
    fn describe(to: &mut Schema) {
        K::describe(to);
        V::describe(to);
    }
}

macro_rules! part_text {
    ($($type:ty),*) => { $(
        impl Part for $type {
            fn put(&self, out: &mut Writer) {
                out.length(self.len());
                out.extend(self.as_bytes());
            }
            fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
                let length = from.length()?;
                Ok(std::str::from_utf8(from.take(length)?).map_err(|_| Damaged)?.into())
            }
            fn describe(_: &mut Schema) {}
        }
    )* };
}

part_text!(String, Box<str>, Arc<str>);

impl Part for Rc<Image> {
    fn put(&self, out: &mut Writer) {
        out.length(self.iter().count());
        for (name, value) in self.iter() {
            name.put(out);
            value.put(out);
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let count = from.length()?;
        let values: BTreeMap<_, _> = (0..count).map(|_| <(Arc<str>, Arc<str>)>::get(from)).collect::<Result<_, _>>()?;
        Ok(from.images.intern(&values))
    }
    fn describe(to: &mut Schema) {
        to.field("image", "count (name value)");
    }
}

impl Part for Arc<Statement> {
    fn put(&self, out: &mut Writer) {
        out.place(self).put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let number = from.length()?;
        from.statements.get(number).cloned().ok_or(Damaged)
    }
    fn describe(to: &mut Schema) {
        Raw::describe(to);
    }
}

impl Part for IpAddr {
    fn put(&self, out: &mut Writer) {
        match self {
            IpAddr::V4(address) => (4_u8, address.octets()).put(out),
            IpAddr::V6(address) => (6_u8, address.octets()).put(out),
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        match u8::get(from)? {
            4 => <[u8; 4]>::get(from).map(IpAddr::from),
            6 => <[u8; 16]>::get(from).map(IpAddr::from),
            _ => Err(Damaged),
        }
    }
    fn describe(to: &mut Schema) {
        to.field("address", "4 octets, 6 octets");
    }
}

/// A state whole: the statements that it names, then itself. `body` writes what comes behind them.
pub(super) fn write(registry: &Registry, body: impl FnOnce(&mut Writer)) -> State {
    let mut out = Writer::default();
    body(&mut out);
    let body = std::mem::take(&mut out.bytes);
    // A statement may name another, which is appended while they are written.
    let mut at = 0;
    while let Some(statement) = out.statements.get(at).cloned() {
        Raw::of(&statement, &mut out).put(&mut out);
        at += 1;
    }
    registry.note_leaving(&out.statements);
    let table = std::mem::take(&mut out.bytes);
    out.length(at);
    out.extend(&table);
    out.extend(&body);
    out.bytes
}

/// A reader at the beginning of what [`write`]'s caller wrote.
pub(super) fn read<'r>(
    bytes: &'r [u8],
    images: &'r mut Images,
    registry: &'r Registry,
    shape: impl FnMut(&Raw) -> Arc<forebay_sql::shape::Shape>,
) -> Result<Reader<'r>, Damaged> {
    let mut from = Reader { rest: bytes, images, registry, statements: Vec::new() };
    let raw = Vec::<Raw>::get(&mut from)?;
    from.statements = from.registry.adopt(raw, shape).ok_or(Damaged)?;
    Ok(from)
}
