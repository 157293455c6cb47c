//! The loop: wait, report what happened, let core end its turn, again.

use std::cmp::Reverse;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use forebay_core::command::Command;
use forebay_core::event::Level;
use forebay_core::ids::{ConnId, QuestionId};
use forebay_core::io::ClosedBy;
use forebay_core::question::Answer;

use super::backend::{Backend, Completion};
use super::output::CONSOLE_TIMEOUT;
use super::table::Flags;
use super::{BROKEN_TIMEOUT, Driver, Due, Input, TRIM_AFTER, TRIM_CONNS, Timer, memory};
use crate::hub::Mail;
use crate::inputs::Inputs;

/// Longest wait: /livez wants to see every worker move.
const TICK: Duration = Duration::from_secs(1);
/// A turn that takes longer held up every client of the worker.
const STALL: Duration = Duration::from_millis(100);
/// How long the kernel may take to give the last operations back when the engine stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

impl<B: Backend> Driver<B> {
    /// Runs until the engine stops.
    pub(crate) fn run<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N) {
        for (i, listener) in self.listeners.iter().enumerate().filter_map(|(i, l)| l.as_ref().map(|l| (i, l))) {
            self.back.accept(i as u16, listener.fd.as_raw_fd());
        }
        while !self.is_stopping {
            self.turn(inputs);
        }
        self.wind_up(inputs);
    }

    /// One turn of the loop.
    fn turn<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N) {
        self.seal();
        let timeout = self.timeout_after_turn();
        let held = std::mem::take(&mut self.held);
        if let Err(error) = self.back.wait(&mut self.table, timeout) {
            // Nothing that a caller can put right; the watchdog of /livez sees a worker that does not move.
            panic!("{} fails: {error}", B::NAME);
        }
        for id in held {
            // What came before the `S` went out was seen as an injection; from here on it is TLS.
            if let Some(conn) = self.table.same(id) {
                conn.clear(Flags::TLS_HELD);
            }
        }
        self.now = self.hub.clock.now();
        let stats = &self.hub.stats[usize::from(self.id.0)];
        stats.last_turn_us.set(self.now.0);
        stats.io_calls.set(self.back.calls());
        stats.copied_bytes.set(self.table.buffers.copied);
        if self.alarm.is_some_and(|at| at <= self.now) {
            self.alarm = None;
        }
        let now = self.now;
        self.guard(inputs, None, |inputs, io| inputs.tick(io, now));
        while let Some(completion) = self.back.next(&mut self.table) {
            self.on_completion(inputs, completion);
            if !self.unsealed.is_empty() {
                self.seal();
            }
        }
        if self.timers.peek().is_some_and(|Reverse(Due(at, ..))| *at <= self.now) {
            self.fire_timers(inputs);
        }
        // Only what is there by now: an input that gives rise to another must not hold up the turn.
        for _ in 0..self.pending.len() {
            if let Some(input) = self.pending.pop_front() {
                self.on_input(inputs, input);
            }
        }
        self.guard(inputs, None, |inputs, io| inputs.turn_end(io));
        self.watch_memory();
    }

    /// The allocator keeps what connections that have gone have freed, unless it is told.
    #[inline]
    fn watch_memory(&mut self) {
        let conns = self.table.len();
        self.most_conns = self.most_conns.max(conns);
        if self.most_conns - conns >= TRIM_CONNS && !self.is_trim_due {
            self.is_trim_due = true;
            self.set_timer(TRIM_AFTER, Timer::Trim);
        }
    }

    /// How long to wait; and says so if the turn that ends took too long.
    fn timeout_after_turn(&mut self) -> Duration {
        // The exact time is read once a turn, after the wait; this one lags by a tick of the scheduler at most.
        let now = self.hub.clock.about_now().max(self.now);
        let took = now.since(self.now);
        if took > STALL && self.has_turned {
            self.event(Level::Warn, "loop_stalled", vec![("took_ms", (took.as_millis() as u64).into())]);
        }
        self.has_turned = true;
        if !self.pending.is_empty() {
            return Duration::ZERO;
        }
        let mut until = now + TICK;
        if let Some(at) = self.alarm {
            until = until.min(at);
        }
        if let Some(Reverse(Due(at, ..))) = self.timers.peek() {
            until = until.min(*at);
        }
        until.since(now)
    }

    /// Inlined, as [`Backend::next`] is: the two completions that come all the time are then not put together first.
    #[inline(always)]
    fn on_completion<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, completion: Completion) {
        match completion {
            Completion::Received { slot, buf, len } => self.on_received(inputs, slot, buf, len),
            Completion::Sent { slot, plain } => self.on_sent(inputs, slot, plain),
            rarer => self.on_rarer_completion(inputs, rarer),
        }
    }

    #[inline(never)]
    fn on_rarer_completion<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, completion: Completion) {
        match completion {
            Completion::Received { .. } | Completion::Sent { .. } => unreachable!("handled above"),
            Completion::ReadEnded { slot, errno } => self.on_read_ended(inputs, slot, errno),
            Completion::Done { slot } => self.settle(slot),
            Completion::SendFailed { slot, errno } => self.on_send_failed(slot, errno),
            Completion::Connected { slot, errno } => {
                let id = self.table.id(slot);
                if self.connect_ended(slot, errno) {
                    self.guard(inputs, Some(id), |inputs, io| inputs.connected(io, id));
                }
            }
            Completion::Accepted { listener, fd } => self.on_accepted(inputs, listener, fd),
            Completion::AcceptFailed { listener, errno } => self.on_accept_failed(inputs, listener, errno),
            Completion::Gone { slot } => self.table.remove(slot),
            Completion::Woken => self.read_mail(inputs),
        }
    }

    #[inline]
    pub(super) fn is_open(&mut self, id: ConnId) -> bool {
        self.table.open(id).is_some_and(|c| !c.is(Flags::REPORTED))
    }

    fn on_sent<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, slot: u32, plain: usize) {
        let id = self.table.id(slot);
        if plain > 0 && self.is_open(id) {
            self.guard(inputs, Some(id), |inputs, io| inputs.sent(io, id, plain));
        }
        // Of what may have to be done next, only leaving hangs on what is still to be written.
        if self.table.same(id).is_some_and(|conn| conn.is_any(Flags::LEAVING)) {
            self.settle(slot);
        }
    }

    fn on_received<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, slot: u32, buf: u32, len: u32) {
        let conn = self.table.conn(slot);
        let id = ConnId { slot, generation: conn.generation };
        if conn.is_plain() {
            conn.clear(Flags::DEPARTING);
            self.deliver(inputs, id, buf, len);
        } else {
            self.on_received_otherwise(inputs, id, buf, len);
        }
        if self.table.same(id).is_some_and(|conn| !conn.is_reading_on()) {
            self.settle(slot);
        }
    }

    /// Bytes on a connection that has TLS, is about to have it, or is on its way out.
    #[inline(never)]
    fn on_received_otherwise<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, id: ConnId, buf: u32, len: u32) {
        if !self.is_open(id) {
            // What the peer still says is of no interest.
            self.table.buffers.discard(buf);
            return;
        }
        let conn = self.table.conn(id.slot);
        if conn.is(Flags::TLS_HELD) {
            self.table.buffers.discard(buf);
            self.hub.stats[usize::from(self.id.0)].tls_injections.add(1);
            self.report_closed(id, ClosedBy::Error("plain bytes followed the request for TLS".into()));
        } else {
            self.receive_tls(inputs, id, buf, len);
        }
    }

    /// Hands received bytes to core.
    pub(super) fn deliver<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, id: ConnId, buf: u32, len: u32) {
        // SAFETY: the reference that `lend` takes for the driver ends below, after the input.
        let (lent, data) = unsafe { self.table.buffers.lend(buf, len) };
        let is_well = self.guard(inputs, Some(id), |inputs, io| inputs.received(io, id, lent, data));
        if !is_well {
            // Whatever core meant to do with it is lost with the connection.
            self.table.buffers.release(lent);
        }
        self.table.buffers.drop_ref(buf);
    }

    fn on_read_ended<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, slot: u32, errno: Option<i32>) {
        let id = self.table.id(slot);
        let conn = self.table.conn(slot);
        conn.set(Flags::ENDED);
        conn.clear(Flags::DEPARTING);
        if conn.is(Flags::CLOSING) {
            if errno.is_some() {
                self.drop_conn(slot)
            } else {
                self.settle(slot)
            }
            return;
        }
        if !self.is_open(id) {
            return;
        }
        let by = match errno {
            Some(errno) => ClosedBy::Error(words(errno)),
            None => self.end_of_tls(slot),
        };
        self.tell_closed(inputs, id, by);
    }

    /// Core's last input for a connection; what is queued still goes out.
    pub(super) fn tell_closed<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, id: ConnId, by: ClosedBy) {
        let slot = id.slot;
        if by == ClosedBy::Peer {
            self.queue_close_notify(slot);
        }
        let conn = self.table.conn(slot);
        conn.clear(Flags::OPEN);
        let has_unsent = conn.queued > 0 || conn.is(Flags::UNSEALED);
        // With TLS there is an alert to be sent that says why.
        let is_worth_it = by == ClosedBy::Peer || conn.tls.is_some();
        if is_worth_it && has_unsent && conn.connecting.is_none() {
            self.begin_closing(slot);
        } else {
            self.drop_conn(slot);
        }
        self.guard(inputs, None, |inputs, io| inputs.closed(io, id, by));
    }

    fn on_send_failed(&mut self, slot: u32, errno: i32) {
        let id = self.table.id(slot);
        let conn = self.table.conn(slot);
        if conn.is(Flags::CLOSING) {
            self.drop_conn(slot);
            return;
        }
        conn.set(Flags::BROKEN);
        let is_reading = conn.wants_read() && !conn.is(Flags::ENDED);
        self.table.drop_pieces(slot, 0);
        if is_reading {
            // What the peer said before it went, such as why, is still to be read.
            self.set_timer(BROKEN_TIMEOUT, Timer::Broken(id));
        } else {
            self.report_closed(id, ClosedBy::Error(words(errno)));
        }
    }

    #[inline(never)]
    fn fire_timers<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N) {
        while let Some(Reverse(Due(at, ..))) = self.timers.peek() {
            if *at > self.now {
                break;
            }
            let Some(Reverse(Due(_, _, timer))) = self.timers.pop() else { break };
            match timer {
                Timer::Resolve(id) => self.resolve_timed_out(id),
                Timer::Address(id, tries) => self.address_timed_out(id, tries),
                Timer::Close(id) => {
                    if self.table.same(id).is_some_and(|c| c.is(Flags::CLOSING)) {
                        self.drop_conn(id.slot);
                    }
                }
                Timer::Broken(id) => self.report_closed(id, ClosedBy::Error("connection lost".into())),
                Timer::Question(id) => self.question_is_late(inputs, id),
                Timer::Trim => {
                    self.is_trim_due = false;
                    self.most_conns = self.table.len();
                    memory::trim();
                }
                Timer::Accept(listener) => self.accept_again(listener),
            }
        }
    }

    #[inline(never)]
    fn on_input<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, input: Input) {
        match input {
            Input::Received(id, buf, len) => {
                if self.is_open(id) {
                    self.deliver(inputs, id, buf, len);
                }
                // The copy was this input's own.
                self.table.buffers.drop_ref(buf);
            }
            Input::TlsReady(id, info) => {
                if self.is_open(id) {
                    self.guard(inputs, Some(id), |inputs, io| inputs.tls_ready(io, id, info));
                }
            }
            Input::Detached(id) => {
                if self.table.open(id).is_some_and(|c| c.is(Flags::DETACHING) && c.operations == 0) {
                    let handover = self.take_out(id.slot);
                    self.guard(inputs, None, |inputs, io| inputs.detached(io, id, handover));
                }
            }
            Input::Closed(id, by) => {
                if self.table.open(id).is_some() {
                    self.tell_closed(inputs, id, by);
                }
            }
        }
    }

    fn question_is_late<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, id: QuestionId) {
        match self.extended.remove(&id).filter(|until| *until > self.now) {
            Some(until) => self.set_timer(until - self.now, Timer::Question(id)),
            None => self.on_answer(inputs, id, Answer::Failed("no answer in time".into())),
        }
    }

    fn on_answer<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, id: QuestionId, answer: Answer) {
        if matches!(answer, Answer::ConsolePart(_)) {
            if self.asked.contains(&id) {
                self.guard(inputs, None, |inputs, io| inputs.answer(io, id, answer));
            }
            return;
        }
        self.extended.remove(&id);
        // A second answer, or one past its deadline, has nobody who waits for it.
        if self.asked.remove(&id) {
            self.guard(inputs, None, |inputs, io| inputs.answer(io, id, answer));
        }
    }

    fn read_mail<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N) {
        let mut mail = std::mem::take(&mut self.mail);
        self.hub.mailboxes[usize::from(self.id.0)].take(&mut mail);
        for item in mail.drain(..) {
            match item {
                Mail::Told(from, message) => {
                    self.guard(inputs, None, |inputs, io| inputs.told(io, from, message));
                }
                Mail::Client(handover, peer) => self.welcome(inputs, handover, peer),
                // Its channel has broken before this worker heard of it.
                Mail::Command(id, Command::HandOn) if self.hub.handing_is_over() => {
                    self.guard(inputs, None, |inputs, io| inputs.command(io, id, Command::Stay));
                }
                Mail::Command(id, command) => {
                    match command {
                        Command::Drain | Command::Cut => self.stop_accepting(|_| true),
                        // An operator who is on this host still gets in.
                        Command::Close => self.stop_accepting(|listener| listener.is_tcp),
                        Command::Reload(_) => self.tune_listeners(),
                        Command::HandOn => self.suspend_accepting(),
                        Command::LetGo => self.stop_accepting(|_| true),
                        Command::Stay => self.resume_accepting(),
                        _ => {}
                    }
                    self.guard(inputs, None, |inputs, io| inputs.command(io, id, command));
                }
                Mail::Answer(id, answer) => self.on_answer(inputs, id, answer),
                Mail::Patience(id) => {
                    if self.asked.contains(&id) {
                        self.extended.insert(id, self.now + CONSOLE_TIMEOUT);
                    }
                }
                Mail::Resolved(id, found) => self.resolved(id, found),
                Mail::Readdressed(host, addresses) => {
                    self.guard(inputs, None, |inputs, io| inputs.readdressed(io, &host, &addresses));
                }
                Mail::Stop => self.is_stopping = true,
            }
        }
        self.mail = mail;
    }

    /// Closes everything and gives the kernel the time to let go of our memory.
    fn wind_up<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N) {
        self.stop_accepting(|_| true);
        for id in std::mem::take(&mut self.asked) {
            let answer = Answer::Failed("the engine stops".into());
            self.guard(inputs, None, |inputs, io| inputs.answer(io, id, answer));
        }
        for slot in self.table.slots() {
            self.drop_conn(slot);
        }
        let deadline = self.hub.clock.now() + STOP_TIMEOUT;
        while self.table.len() > 0 && self.hub.clock.now() < deadline {
            if self.back.wait(&mut self.table, Duration::from_millis(10)).is_err() {
                return;
            }
            while let Some(completion) = self.back.next(&mut self.table) {
                self.on_completion(inputs, completion);
            }
        }
    }
}

/// The system's words for an error of a socket.
pub(super) fn words(errno: i32) -> Arc<str> {
    std::io::Error::from_raw_os_error(errno).to_string().into()
}
