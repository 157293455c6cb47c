//! What one received buffer turns into for the other side: ranges of it, and bytes of our own between them.

use crate::ids::{BufId, ConnId};
use crate::io::{Io, Slice};

enum Piece {
    Received { start: u32, end: u32 },
    Owned { start: u32, end: u32 },
}

/// Pieces in order of sending. Reused from buffer to buffer.
#[derive(Default)]
pub struct Batch {
    pieces: Vec<Piece>,
    owned: Vec<u8>,
    owned_sent: usize,
    /// Several short pieces as one; kept for its allocation.
    joined: Vec<u8>,
}

impl Piece {
    fn len(&self) -> usize {
        let (Piece::Received { start, end } | Piece::Owned { start, end }) = *self;
        (end - start) as usize
    }

    fn of<'d>(&self, data: &'d [u8], owned: &'d [u8]) -> &'d [u8] {
        match *self {
            Piece::Received { start, end } => &data[start as usize..end as usize],
            Piece::Owned { start, end } => &owned[start as usize..end as usize],
        }
    }
}

/// Pieces that are this short together are copied and sent as one: to send a list of pieces costs more.
const JOINED_BYTES_MAX: usize = 512;

/// Slices handed to the driver in one call.
const SLICES_A_CALL: usize = 8;

impl Batch {
    /// Bytes `start..end` of the received data.
    #[inline]
    pub fn received(&mut self, start: usize, end: usize) {
        if start == end {
            return;
        }
        let (start, end) = (start as u32, end as u32);
        match self.pieces.last_mut() {
            Some(Piece::Received { end: last, .. }) if *last == start && self.owned.len() == self.owned_sent => {
                *last = end
            }
            _ => self.begin_received(start, end),
        }
    }

    #[inline(never)]
    fn begin_received(&mut self, start: u32, end: u32) {
        self.close_owned();
        self.pieces.push(Piece::Received { start, end });
    }

    /// A place to append bytes of our own.
    pub fn owned(&mut self) -> &mut Vec<u8> {
        &mut self.owned
    }

    fn close_owned(&mut self) {
        if self.owned.len() > self.owned_sent {
            self.pieces.push(Piece::Owned { start: self.owned_sent as u32, end: self.owned.len() as u32 });
            self.owned_sent = self.owned.len();
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.owned.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.owned.clear();
        self.owned_sent = 0;
    }

    /// How many bytes there are, what is still being appended left out.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// Moves all of it to the end of `out`. `data` are the received bytes.
    pub fn take(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.close_owned();
        self.pieces.iter().for_each(|piece| out.extend_from_slice(piece.of(data, &self.owned)));
        self.clear();
    }

    /// Sends all pieces to `conn` and is empty again. Returns the bytes sent. `data` are the received
    /// bytes, of `buf` or, where that is `None`, of a session's own memory, to be copied.
    pub fn send<I: Io>(&mut self, io: &mut I, conn: ConnId, buf: Option<BufId>, data: &[u8]) -> usize {
        self.close_owned();
        if let [piece] = &self.pieces[..] {
            // As with most.
            let bytes = piece.len();
            io.send(conn, &[self.slice(piece, buf, data)]);
            self.clear();
            return bytes;
        }
        let bytes = self.bytes();
        match &self.pieces[..] {
            [] => {}
            pieces if bytes <= JOINED_BYTES_MAX => {
                self.joined.clear();
                for piece in pieces {
                    self.joined.extend_from_slice(piece.of(data, &self.owned));
                }
                io.send(conn, &[Slice::Bytes(&self.joined)]);
            }
            pieces => {
                for pieces in pieces.chunks(SLICES_A_CALL) {
                    let mut slices = [Slice::Bytes(&[]); SLICES_A_CALL];
                    for (slice, piece) in slices.iter_mut().zip(pieces) {
                        *slice = self.slice(piece, buf, data);
                    }
                    io.send(conn, &slices[..pieces.len()]);
                }
            }
        }
        self.clear();
        bytes
    }

    fn slice<'s>(&'s self, piece: &Piece, buf: Option<BufId>, data: &'s [u8]) -> Slice<'s> {
        match (piece, buf) {
            (Piece::Received { start, end }, Some(buf)) => Slice::Received { buf, start: *start, end: *end },
            (Piece::Received { start, end }, None) => Slice::Bytes(&data[*start as usize..*end as usize]),
            (Piece::Owned { start, end }, _) => Slice::Bytes(&self.owned[*start as usize..*end as usize]),
        }
    }
}
