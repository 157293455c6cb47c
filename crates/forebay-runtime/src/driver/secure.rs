//! TLS on a connection: the driver decrypts before core sees a byte, and encrypts at the end of each input.

use std::panic::{AssertUnwindSafe, catch_unwind};

use forebay_core::ids::ConnId;
use forebay_core::io::{ClosedBy, Slice, TlsRole};

use super::backend::Backend;
use super::table::Flags;
use super::{Driver, Input};
use crate::inputs::Inputs;
use crate::tls::session::{Progress, Session};

impl<B: Backend> Driver<B> {
    /// See [`forebay_core::io::Io::start_tls`].
    pub(super) fn begin_tls(&mut self, id: ConnId, role: &TlsRole, unread: &[u8]) {
        let session = match Session::begin(&self.hub.tls(), role) {
            Ok(session) => session,
            Err(error) => return self.report_closed(id, ClosedBy::Error(format!("TLS: {error}").into())),
        };
        let conn = self.table.conn(id.slot);
        conn.tls = Some(Box::new(session));
        if *role != (TlsRole::Accept { direct: true }) {
            // What the peer sent before it could know of TLS is not from whom TLS will vouch for.
            conn.set(Flags::TLS_HELD);
            self.held.push(id);
        }
        let mut unread = unread.to_vec();
        match self.process_tls(id.slot, &mut unread) {
            Err(error) => self.report_closed(id, ClosedBy::Error(error.into())),
            Ok(progress) => {
                if let Some(info) = progress.ready {
                    self.pending.push_back(Input::TlsReady(id, info));
                }
                if !self.plain.is_empty() {
                    let len = self.plain.len() as u32;
                    let (buf, _) = self.table.buffers.copy_to_heap(&self.plain, len);
                    self.pending.push_back(Input::Received(id, buf, len));
                }
            }
        }
    }

    /// Runs ciphertext through a connection's session. Plaintext is in `self.plain` after it.
    fn process_tls(&mut self, slot: u32, incoming: &mut [u8]) -> Result<Progress, String> {
        self.plain.clear();
        self.wire.clear();
        let conn = self.table.conn(slot);
        let Some(session) = conn.tls.as_deref_mut() else { return Ok(Progress::default()) };
        let (plain, wire) = (&mut self.plain, &mut self.wire);
        // Foreign bytes in foreign code: what goes wrong there costs this connection.
        let result = catch_unwind(AssertUnwindSafe(|| session.read(incoming, plain, wire)));
        self.send_wire(slot);
        result.unwrap_or_else(|_| Err("TLS: a bug in its library".to_owned()))
    }

    /// Queues what a session wants to say for itself.
    fn send_wire(&mut self, slot: u32) {
        if !self.wire.is_empty() {
            self.table.push_bytes(slot, &self.wire, 0);
            self.table.mark_dirty(slot);
        }
    }

    /// Ciphertext came; core gets what is in it.
    pub(super) fn receive_tls<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, id: ConnId, buf: u32, len: u32) {
        // A copy, as the table is needed meanwhile for what goes out: little beside the decryption.
        let mut incoming = std::mem::take(&mut self.cipher);
        incoming.clear();
        incoming.extend_from_slice(&self.table.buffers.memory(buf)[..len as usize]);
        let result = self.process_tls(id.slot, &mut incoming);
        self.cipher = incoming;
        if result.as_ref().is_ok_and(|progress| progress.is_nothing()) && self.plain.is_empty() {
            // A connection that is being taken out still is: core hears of nothing.
            self.table.buffers.discard(buf);
            return;
        }
        self.table.conn(id.slot).clear(Flags::DEPARTING);
        let progress = match result {
            Ok(progress) => progress,
            Err(error) => {
                self.table.buffers.discard(buf);
                self.report_closed(id, ClosedBy::Error(error.into()));
                return;
            }
        };
        if let Some(info) = progress.ready {
            self.guard(inputs, Some(id), |inputs, io| inputs.tls_ready(io, id, info));
        }
        let plain_len = self.plain.len();
        if plain_len == 0 || !self.is_open(id) {
            self.table.buffers.discard(buf);
        } else if plain_len <= self.table.buffers.memory(buf).len() {
            self.table.buffers.memory(buf)[..plain_len].copy_from_slice(&self.plain);
            self.deliver(inputs, id, buf, plain_len as u32);
        } else {
            self.table.buffers.discard(buf);
            let (heap, _) = self.table.buffers.copy_to_heap(&self.plain, plain_len as u32);
            self.deliver(inputs, id, heap, plain_len as u32);
            self.table.buffers.drop_ref(heap);
        }
        if progress.is_closed && self.is_open(id) {
            self.tell_closed(inputs, id, ClosedBy::Peer);
        }
    }

    /// Keeps what core sends until the end of the input, so that it makes few records.
    #[inline(never)]
    pub(super) fn queue_plain(&mut self, slot: u32, slices: &[Slice<'_>]) {
        let conn = &mut self.table.conns[slot as usize];
        let Some(session) = conn.tls.as_deref_mut() else { return };
        for slice in slices {
            match *slice {
                Slice::Bytes(bytes) => session.queue(bytes),
                Slice::Received { buf, start, end } => {
                    let buf = self.table.buffers.held_by_core(buf);
                    let at = self.table.buffers.range(buf, start, end);
                    // SAFETY: core holds the buffer over this call, and `range` checked the bounds.
                    session.queue(unsafe { std::slice::from_raw_parts(at, (end - start) as usize) });
                }
            }
        }
        if !conn.is(Flags::UNSEALED) {
            conn.set(Flags::UNSEALED);
            self.unsealed.push(slot);
        }
    }

    /// Encrypts what inputs queued.
    pub(super) fn seal(&mut self) {
        while let Some(slot) = self.unsealed.pop() {
            self.seal_conn(slot);
        }
    }

    #[inline(never)]
    pub(super) fn seal_conn(&mut self, slot: u32) {
        let conn = self.table.conn(slot);
        if !conn.is(Flags::UNSEALED) || conn.is(Flags::DEAD) {
            return;
        }
        conn.clear(Flags::UNSEALED);
        let Some(mut session) = conn.tls.take() else { return };
        let table = &mut self.table;
        let result = session.seal(&mut self.wire, |record, plain| table.push_bytes(slot, record, plain));
        self.table.conn(slot).tls = Some(session);
        self.table.mark_dirty(slot);
        if let Err(error) = result {
            self.report_closed(self.table.id(slot), ClosedBy::Error(error.into()));
        }
    }

    /// Queues the close of TLS, behind all that core sent. False: there is no TLS.
    pub(super) fn queue_close_notify(&mut self, slot: u32) -> bool {
        self.seal_conn(slot);
        self.wire.clear();
        let Some(session) = self.table.conn(slot).tls.as_deref_mut() else { return false };
        // A session that can't say goodbye is closed without.
        let is_said = session.close(&mut self.wire).is_ok() && !self.wire.is_empty();
        self.send_wire(slot);
        is_said
    }

    /// What the end of the stream means: with TLS it must have been announced.
    pub(super) fn end_of_tls(&mut self, slot: u32) -> ClosedBy {
        match self.table.conn(slot).tls.as_deref() {
            Some(session) if !session.is_ready() => {
                ClosedBy::Error("connection closed during the TLS handshake".into())
            }
            Some(session) if !session.is_peer_closed() => {
                ClosedBy::Error("connection closed without the close of TLS".into())
            }
            _ => ClosedBy::Peer,
        }
    }
}
