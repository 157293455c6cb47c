//! A frame's place in the data at hand: what is there of it, and whether that is all.

use forebay_pgwire::frame::{HEAD_BYTES, Head};

/// A frame's place in the data at hand.
#[derive(Clone, Copy)]
pub(crate) struct At<'d> {
    /// All bytes at hand.
    pub(crate) data: &'d [u8],
    /// Where the frame begins, and where it ends, or the data does.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Its head.
    pub(crate) head: Head,
}

impl<'d> At<'d> {
    /// The frame with this head.
    #[inline]
    pub(crate) fn new(data: &'d [u8], start: usize, head: Head) -> At<'d> {
        At { data, start, end: data.len().min(start + head.bytes as usize), head }
    }

    /// How many bytes are there of the frame.
    #[inline]
    pub(crate) fn there(self) -> usize {
        self.end - self.start
    }

    /// What is there of the frame.
    pub(crate) fn bytes(self) -> &'d [u8] {
        &self.data[self.start..self.end]
    }

    #[inline]
    pub(crate) fn is_whole(self) -> bool {
        self.there() == self.head.bytes as usize
    }

    #[inline]
    pub(crate) fn body(self) -> &'d [u8] {
        &self.data[self.start + HEAD_BYTES..self.end]
    }
}
