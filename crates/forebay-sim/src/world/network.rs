//! The network's part of the world: bytes move on, ends hear of it.

use crate::net::{End, Fin, Link, LinkId};
use crate::world::workers::Input;
use crate::world::{Event, World};

impl World {
    /// A new link between two ends.
    pub(crate) fn link(&mut self, ends: [End; 2]) -> LinkId {
        let window = *self.rng.pick(&[64, 1000, 16_384, 65_536]);
        let delay_max = self.draw(self.scenario.delay_max) + 1;
        let chunk_max = 1 + self.draw(self.scenario.chunk_max as u64) as usize;
        self.links.push(Link::new(ends, window, delay_max, chunk_max));
        LinkId(self.links.len() - 1)
    }

    /// Queues bytes at `side` and sets the pump going.
    pub(crate) fn write(&mut self, link: LinkId, side: usize, bytes: &[u8]) {
        let half = &mut self.links[link.0].halves[side];
        if half.fin == Fin::No {
            half.queue.extend(bytes);
            self.start_pump(link, side);
        }
    }

    /// Ends the stream from `side` after what is queued.
    pub(crate) fn finish(&mut self, link: LinkId, side: usize) {
        let half = &mut self.links[link.0].halves[side];
        if half.fin == Fin::No {
            half.fin = Fin::Queued;
            self.start_pump(link, side);
        }
    }

    /// The holder of `side` is gone: its stream ends, and what comes for it is dropped.
    pub(crate) fn leave(&mut self, link: LinkId, side: usize, is_abrupt: bool) {
        if is_abrupt {
            self.links[link.0].halves[side].queue.clear();
        }
        self.links[link.0].ends[side] = End::Gone;
        self.links[link.0].halves[1 - side].arrived.clear();
        self.finish(link, side);
        self.start_pump(link, 1 - side);
    }

    /// The link breaks: both ends hear of an error, what was under way is lost.
    pub(crate) fn break_link(&mut self, link: LinkId) {
        let entry = &mut self.links[link.0];
        if entry.is_reset {
            return;
        }
        entry.is_reset = true;
        for half in &mut entry.halves {
            half.queue.clear();
            half.wire.clear();
            half.arrived.clear();
            half.fin = Fin::Told;
        }
        let ends = entry.ends;
        self.trace.say(self.now, || format!("link {} between {ends:?} breaks", link.0));
        for side in 0..2 {
            self.ended(link, side, true);
        }
    }

    fn start_pump(&mut self, link: LinkId, side: usize) {
        let half = &mut self.links[link.0].halves[side];
        if !half.is_pumping {
            half.is_pumping = true;
            let after = self.draw(60);
            self.schedule(after, Event::Pump(link, side));
        }
    }

    pub(crate) fn pump(&mut self, link: LinkId, side: usize) {
        let stalled_until = self.links[link.0].stalled_until;
        if stalled_until > self.now {
            return self.schedule(stalled_until - self.now, Event::Pump(link, side));
        }
        let entry = &self.links[link.0];
        if entry.ends[side] == End::Transit && !entry.halves[side].queue.is_empty() {
            // Who is to write it has it in no driver.
            return self.schedule(50, Event::Pump(link, side));
        }
        let (delay, most) = (self.links[link.0].delay_max, self.links[link.0].chunk_max as u64);
        let at = self.now + self.draw(delay);
        let most = 1 + self.draw(most) as usize;
        let entry = &mut self.links[link.0];
        let half = &mut entry.halves[side];
        half.is_pumping = false;
        if half.fin == Fin::Told || half.fin == Fin::Arrived {
            return;
        }
        let (n, at) = half.transmit(most, at);
        let (is_more, is_fin) = (!half.queue.is_empty() && half.room() > 0, matches!(half.fin, Fin::Wire(_)));
        let end = entry.ends[side];
        if n > 0 || is_fin {
            self.schedule(at - self.now, Event::Arrive(link, side));
        }
        if n > 0
            && let End::Worker(w, conn) = end
        {
            self.seats[w].io.written(conn, n);
            self.input(w, Input::Sent(conn));
        }
        if is_more {
            self.start_pump(link, side);
        }
    }

    pub(crate) fn arrive(&mut self, link: LinkId, side: usize) {
        let entry = &mut self.links[link.0];
        if entry.stalled_until > self.now {
            let after = entry.stalled_until - self.now;
            return self.schedule(after, Event::Arrive(link, side));
        }
        entry.halves[side].arrive(self.now);
        self.notify(link, side);
    }

    /// Tells the receiver of the half that starts at `side` that there is something to read.
    pub(crate) fn notify(&mut self, link: LinkId, side: usize) {
        let entry = &mut self.links[link.0];
        let half = &mut entry.halves[side];
        if half.arrived.is_empty() && half.fin != Fin::Arrived {
            return;
        }
        match entry.ends[1 - side] {
            End::Worker(w, conn) => self.input(w, Input::Readable(conn)),
            End::Client(i) => self.client_reads(i, link, side),
            End::Process(p) => {
                let bytes = self.consume(link, side);
                self.process_reads(p, &bytes);
                self.tell_end(link, side);
            }
            End::Canceller(_) | End::Gone => {
                self.consume(link, side);
                self.tell_end(link, side);
            }
            End::Transit => {}
        }
    }

    /// Reads all that has arrived, which lets the sender go on.
    pub(crate) fn consume(&mut self, link: LinkId, side: usize) -> Vec<u8> {
        let bytes = self.links[link.0].halves[side].read(usize::MAX);
        self.made_room(link, side);
        bytes
    }

    /// The receiver has read: the sender may go on.
    pub(crate) fn made_room(&mut self, link: LinkId, side: usize) {
        let half = &self.links[link.0].halves[side];
        if !half.queue.is_empty() || half.fin == Fin::Queued {
            self.start_pump(link, side);
        }
    }

    /// Tells the receiver once that the stream has ended.
    pub(crate) fn tell_end(&mut self, link: LinkId, side: usize) {
        let half = &mut self.links[link.0].halves[side];
        if half.fin == Fin::Arrived && half.arrived.is_empty() {
            half.fin = Fin::Told;
            self.ended(link, 1 - side, false);
        }
    }

    /// The holder of `side` learns that its peer is gone.
    fn ended(&mut self, link: LinkId, side: usize, is_broken: bool) {
        match self.links[link.0].ends[side] {
            End::Worker(w, conn) => self.input(w, Input::Ended(conn, is_broken)),
            End::Client(i) => self.client_lost(i, link, is_broken),
            End::Process(p) => self.end_process(p),
            End::Canceller(_) => self.leave(link, side, false),
            End::Transit | End::Gone => {}
        }
    }
}
