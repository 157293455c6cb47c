//! A session leaves the library, is written out, and is read in.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::carried::{Carried, get_bytes, is_amid_message};
use super::session::{Action, PARTIAL_BYTES_MAX, Session, Side};

impl Session {
    /// Goes on without the library, so that it can be written out. What it still had to say is appended to `wire`.
    ///
    /// One in the middle of a handshake message is [lost](Session::is_lost): the library keeps the beginning of that.
    pub(crate) fn carry(&mut self, wire: &mut Vec<u8>) {
        if matches!(self.side, Side::Carried(_) | Side::Lost) {
            return;
        }
        // The second call takes out what the first one has queued.
        let is_settled = self.is_ready
            && !self.is_peer_closed
            && self.outgoing.is_empty()
            && !is_amid_message(&self.partial)
            && self.act(Action::Settle, wire).and_then(|()| self.act(Action::Nothing, wire)).is_ok();
        let carried = match std::mem::replace(&mut self.side, Side::Lost) {
            Side::Server(connection) if is_settled => Carried::from_server(*connection),
            Side::Client(connection) if is_settled => Carried::from_client(*connection),
            _ => None,
        };
        self.side = carried.map_or(Side::Lost, |carried| Side::Carried(Box::new(carried)));
    }

    /// Whether it can't go on.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.side, Side::Lost)
    }

    /// All of it, with its keys; nothing, of one that can't go on. Only after [`Session::carry`].
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let Side::Carried(carried) = &self.side else { return Zeroizing::default() };
        if carried.is_over() || self.is_peer_closed || !self.outgoing.is_empty() {
            return Zeroizing::default();
        }
        // Room for all at once: what grows is copied, and leaves keys behind.
        let mut out = Zeroizing::new(Vec::with_capacity(carried.room() + self.partial.len()));
        carried.put(&mut out);
        out.extend_from_slice(&(self.partial.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.partial);
        out
    }

    /// Reads what [`Session::to_bytes`] wrote. None: it is not that.
    pub(crate) fn from_bytes(mut bytes: &[u8]) -> Option<Session> {
        let (side, partial) = if bytes.is_empty() {
            (Side::Lost, Vec::new())
        } else {
            let carried = Carried::get(&mut bytes)?;
            let partial = get_bytes(&mut bytes, PARTIAL_BYTES_MAX)?.to_vec();
            (Side::Carried(Box::new(carried)), partial)
        };
        bytes.is_empty().then(|| Session {
            side,
            partial,
            outgoing: Vec::new(),
            own_hash: Arc::default(),
            is_alpn_required: false,
            is_ready: true,
            is_peer_closed: false,
        })
    }
}
