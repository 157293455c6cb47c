//! The network: pairs of byte streams with a window, delays, stalls, resets and half-closes.
//!
//! Bytes pass through three places: `queue` (written by the sender, not yet taken by its kernel), `wire` (under way)
//! and `arrived` (in the receiver's kernel, not yet read). The world moves them on at times that it draws.

use std::collections::VecDeque;

use forebay_core::ids::ConnId;

/// A link, for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) usize);

/// Who holds an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Client(usize),
    /// A process of a fake server.
    Process(usize),
    /// A client's cancel request, or another connection whose answer nobody reads but for its end.
    Canceller(usize),
    Worker(usize, ConnId),
    /// Between two workers.
    Transit,
    Gone,
}

/// How far the end of a stream got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fin {
    No,
    /// After all that is queued.
    Queued,
    /// Under way until that time.
    Wire(u64),
    Arrived,
    /// The receiver knows.
    Told,
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) queue: VecDeque<u8>,
    pub(crate) wire: VecDeque<(u64, Vec<u8>)>,
    pub(crate) arrived: VecDeque<u8>,
    pub(crate) fin: Fin,
    /// Bytes that may be under way or unread at once.
    window: usize,
    on_wire: usize,
    /// Nothing overtakes.
    last_arrival: u64,
    /// A pump event is on its way.
    pub(crate) is_pumping: bool,
}

impl Half {
    fn new(window: usize) -> Half {
        Half {
            queue: VecDeque::new(),
            wire: VecDeque::new(),
            arrived: VecDeque::new(),
            fin: Fin::No,
            window,
            on_wire: 0,
            last_arrival: 0,
            is_pumping: false,
        }
    }

    /// Whether not a byte is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.wire.is_empty() && self.arrived.is_empty()
    }

    pub(crate) fn room(&self) -> usize {
        self.window.saturating_sub(self.on_wire + self.arrived.len())
    }

    /// Puts up to `most` bytes on the wire, to arrive at `at` or later. Returns how many, and when they arrive.
    pub(crate) fn transmit(&mut self, most: usize, at: u64) -> (usize, u64) {
        let n = self.queue.len().min(self.room()).min(most);
        let at = at.max(self.last_arrival);
        if n > 0 {
            self.last_arrival = at;
            self.on_wire += n;
            self.wire.push_back((at, taken(&mut self.queue, n)));
        }
        if self.fin == Fin::Queued && self.queue.is_empty() {
            self.last_arrival = at;
            self.fin = Fin::Wire(at);
        }
        (n, at)
    }

    /// Takes in what has arrived by `now`.
    pub(crate) fn arrive(&mut self, now: u64) {
        while self.wire.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, bytes)) = self.wire.pop_front() else { break };
            self.on_wire -= bytes.len();
            self.arrived.extend(bytes);
        }
        if let Fin::Wire(at) = self.fin
            && at <= now
            && self.wire.is_empty()
        {
            self.fin = Fin::Arrived;
        }
    }

    /// Reads up to `most` bytes.
    pub(crate) fn read(&mut self, most: usize) -> Vec<u8> {
        let n = self.arrived.len().min(most);
        taken(&mut self.arrived, n)
    }
}

/// The first `n` bytes, which are there.
fn taken(bytes: &mut VecDeque<u8>, n: usize) -> Vec<u8> {
    let (front, back) = bytes.as_slices();
    let head = &front[..n.min(front.len())];
    let taken = [head, &back[..n - head.len()]].concat();
    bytes.drain(..n);
    taken
}

/// Two ends and the streams between them: `halves[0]` from `ends[0]` to `ends[1]`, `halves[1]` back.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [End; 2],
    pub(crate) halves: [Half; 2],
    /// Nothing moves before that time.
    pub(crate) stalled_until: u64,
    /// Both ends were told, or will be, that it broke.
    pub(crate) is_reset: bool,
    /// Drawn per link: how long a byte is under way at most, in microseconds.
    pub(crate) delay_max: u64,
    /// Drawn per link: how much one write or read takes at most.
    pub(crate) chunk_max: usize,
}

impl Link {
    pub(crate) fn new(ends: [End; 2], window: usize, delay_max: u64, chunk_max: usize) -> Link {
        let halves = [Half::new(window), Half::new(window)];
        Link { ends, halves, stalled_until: 0, is_reset: false, delay_max, chunk_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TCP neither reorders nor loses; a network that did would accuse the pooler wrongly.
    #[test]
    fn bytes_arrive_in_order_within_the_window() {
        let mut half = Half::new(4);
        half.queue.extend(b"abcdef");
        half.fin = Fin::Queued;
        assert_eq!(half.transmit(3, 50), (3, 50));
        assert_eq!(half.transmit(9, 20), (1, 50));
        half.arrive(49);
        assert_eq!(half.read(9), b"");
        half.arrive(50);
        assert_eq!(half.read(9), b"abcd");
        assert_eq!(half.transmit(9, 60), (2, 60));
        half.arrive(60);
        assert_eq!((half.read(9), half.fin), (b"ef".to_vec(), Fin::Arrived));
    }
}
