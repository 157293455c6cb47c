//! What core asks for: each call notes it and returns.

use std::net::IpAddr;
use std::os::fd::IntoRawFd;
use std::time::Duration;

use forebay_core::command::{CommandId, Reply};
use forebay_core::event::Event;
use forebay_core::ids::{BufId, ConnId, QuestionId, WorkerId};
use forebay_core::io::{Close, ClosedBy, Endpoint, Io, Peer, Slice, Socket, TlsRole};
use forebay_core::moving::State;
use forebay_core::question::Question;
use forebay_core::time::Instant;
use forebay_core::worker::Message;

use super::backend::Backend;
use super::table::Flags;
use super::{Driver, Handover, Timer};
use crate::derive::Derivation;
use crate::hub::Mail;
use crate::socket;
use crate::succession::Parcel;
use crate::tls::session::LOST;

/// How long Python may take for a statement of the console.
pub(super) const CONSOLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the side thread may take; passwords wait in line there.
const DERIVE_TIMEOUT: Duration = Duration::from_secs(30);

impl<B: Backend> Io for Driver<B> {
    type Handover = Handover;

    #[inline]
    fn send(&mut self, id: ConnId, slices: &[Slice<'_>]) {
        let Some(conn) = self.table.open(id) else { return };
        if conn.is_any(Flags::BROKEN.and(Flags::REPORTED)) {
            return;
        }
        if conn.tls.is_some() {
            self.queue_plain(id.slot, slices);
            return;
        }
        for slice in slices {
            match *slice {
                Slice::Received { buf, start, end } if start < end => {
                    let buf = self.table.buffers.held_by_core(buf);
                    self.table.push_range(id.slot, buf, start, end);
                }
                Slice::Bytes(bytes) if !bytes.is_empty() => {
                    self.table.push_bytes(id.slot, bytes, bytes.len() as u32);
                }
                _ => {}
            }
        }
        self.table.mark_dirty(id.slot);
    }

    #[inline]
    fn release(&mut self, buf: BufId) {
        self.table.buffers.release(buf);
    }

    fn pause_read(&mut self, id: ConnId) {
        if let Some(conn) = self.table.open(id) {
            conn.clear(Flags::READING);
            let is_new = !conn.is(Flags::PAUSED);
            conn.set(Flags::PAUSED);
            self.table.paused += u32::from(is_new);
            self.back.read(&mut self.table, id.slot);
        }
    }

    fn resume_read(&mut self, id: ConnId) {
        if let Some(conn) = self.table.open(id) {
            conn.set(Flags::READING);
            let was_paused = conn.is(Flags::PAUSED);
            conn.clear(Flags::PAUSED);
            self.table.paused -= u32::from(was_paused);
            self.back.read(&mut self.table, id.slot);
        }
    }

    fn connect(&mut self, endpoint: &Endpoint) -> ConnId {
        self.begin_connect(endpoint)
    }

    fn remote_address(&mut self, id: ConnId) -> Option<IpAddr> {
        match crate::socket::peer(self.table.open(id)?.fd) {
            Ok(Peer::Tcp(address, _)) => Some(address),
            Ok(Peer::Unix(_)) | Err(_) => None,
        }
    }

    fn has_local_socket(&self, port: u16) -> bool {
        !crate::local_socket::sockets(port).is_empty()
    }

    fn is_overdue(&self, id: ConnId) -> bool {
        self.table.fd_of(id).is_some_and(crate::socket::is_overdue)
    }

    fn unacknowledged(&self, id: ConnId) -> usize {
        self.table.fd_of(id).map_or(0, crate::socket::unacknowledged)
    }

    fn is_last_resort(&self, id: ConnId) -> bool {
        self.table.fd_of(id).is_some_and(|fd| fd >= self.first_kept)
    }

    fn socket(&self, id: ConnId) -> Option<Socket> {
        let descriptor = self.table.fd_of(id)?;
        let local = socket::bound_address(descriptor).ok().flatten().map(|address| (address.ip(), address.port()));
        Some(Socket { descriptor, local })
    }

    fn start_tls(&mut self, id: ConnId, role: TlsRole, unread: &[u8]) {
        if self.table.open(id).is_some() {
            self.begin_tls(id, &role, unread);
        }
    }

    fn close(&mut self, id: ConnId, how: Close) {
        let Some(conn) = self.table.open(id) else { return };
        let has_unsent = conn.queued > 0 || conn.is(Flags::UNSEALED);
        let is_up = conn.connecting.is_none() && !conn.is_any(Flags::BROKEN.and(Flags::REPORTED));
        if how == Close::AfterSend && is_up {
            // A TLS close is one more thing to write.
            if self.queue_close_notify(id.slot) || has_unsent {
                self.begin_closing(id.slot);
                return;
            }
        }
        self.drop_conn(id.slot);
    }

    fn wake_at(&mut self, at: Instant) {
        self.alarm = Some(at);
    }

    fn ask(&mut self, id: QuestionId, question: Question) {
        let timeout = match &question {
            Question::SaltPassword { .. } => DERIVE_TIMEOUT,
            Question::Console { .. } => CONSOLE_TIMEOUT,
            Question::Suspect { .. } | Question::CallOff { .. } => Duration::ZERO,
            Question::Secret { .. } | Question::Verdict { .. } | Question::OsUser { .. } => {
                Duration::from_micros(self.hub.ask_timeout_us())
            }
        };
        if !question.is_news() {
            self.asked.insert(id);
        }
        if !timeout.is_zero() {
            self.set_timer(timeout, Timer::Question(id));
        }
        match question {
            Question::SaltPassword { password, salt, iterations, turn } => {
                self.hub.deriver.ask(Derivation { worker: self.id, id, password, salt, iterations, turn });
            }
            Question::OsUser { uid } => self.hub.os_users.ask(self.id, id, uid),
            other => self.hub.outbox.question(self.id, id, other),
        }
    }

    fn tell(&mut self, worker: WorkerId, message: Message<Handover>) {
        self.hub.post(worker, Mail::Told(self.id, message));
    }

    fn detach(&mut self, id: ConnId) {
        if self.table.open(id).is_some() {
            self.seal_conn(id.slot);
            self.table.conn(id.slot).set(Flags::DEPARTING);
            self.back.read(&mut self.table, id.slot);
            self.back.stop_writing(&mut self.table, id.slot);
            self.settle(id.slot);
        }
    }

    fn stay(&mut self, id: ConnId) {
        if let Some(conn) = self.table.open(id) {
            conn.clear(Flags::DEPARTING);
            if conn.queued > 0 {
                self.table.mark_dirty(id.slot);
            }
            self.settle(id.slot);
        }
    }

    fn hand_on(&mut self, number: u64, state: State, mut connections: Vec<Handover>) {
        connections.iter_mut().for_each(Handover::carry);
        self.hub.hand_on(Parcel { worker: self.id, number, state, connections });
    }

    fn adopt(&mut self, handover: Handover) -> ConnId {
        let id = self.table.insert(handover.fd.into_raw_fd());
        self.table.conn(id.slot).tls = handover.tls;
        self.back.attach(&mut self.table, id.slot);
        if !handover.unsent.is_empty() {
            self.table.push_bytes(id.slot, &handover.unsent, handover.unsent_plain);
            self.table.mark_dirty(id.slot);
        }
        if self.table.conn(id.slot).tls.as_ref().is_some_and(|session| session.is_lost()) {
            self.report_closed(id, ClosedBy::Error(format!("TLS: {LOST}").into()));
        }
        id
    }

    fn log(&mut self, event: Event) {
        if !self.hub.outbox.event(event) {
            self.hub.stats[usize::from(self.id.0)].events_dropped.add(1);
        }
    }

    fn reply(&mut self, id: CommandId, reply: Reply) {
        self.hub.outbox.reply(self.id, id, reply);
    }

    fn fill_random(&mut self, out: &mut [u8]) {
        self.random.fill(out);
    }
}
