//! What a driver reports to: core's worker, or a small consumer in the drivers' own tests.

use std::net::IpAddr;
use std::sync::Arc;

use forebay_core::command::{Command, CommandId};
use forebay_core::ids::{BufId, ConnId, QuestionId, WorkerId};
use forebay_core::io::{ClosedBy, Io, Peer, TlsInfo};
use forebay_core::question::Answer;
use forebay_core::time::Instant;
use forebay_core::worker::{Message, Worker};

/// The inputs of [`Worker`], in its words.
pub(crate) trait Inputs<I: Io> {
    fn tick(&mut self, io: &mut I, now: Instant);
    fn turn_end(&mut self, io: &mut I);
    fn accepted(&mut self, io: &mut I, conn: ConnId, peer: Peer);
    fn received(&mut self, io: &mut I, conn: ConnId, buf: BufId, data: &[u8]);
    fn sent(&mut self, io: &mut I, conn: ConnId, bytes: usize);
    fn connected(&mut self, io: &mut I, conn: ConnId);
    fn closed(&mut self, io: &mut I, conn: ConnId, by: ClosedBy);
    fn tls_ready(&mut self, io: &mut I, conn: ConnId, info: TlsInfo);
    fn detached(&mut self, io: &mut I, conn: ConnId, handover: I::Handover);
    fn answer(&mut self, io: &mut I, id: QuestionId, answer: Answer);
    fn told(&mut self, io: &mut I, from: WorkerId, message: Message<I::Handover>);
    fn command(&mut self, io: &mut I, id: CommandId, command: Command);
    fn readdressed(&mut self, _io: &mut I, _host: &Arc<str>, _addresses: &Arc<[IpAddr]>) {}
    fn short_of_files(&mut self, _io: &mut I) {}
}

impl<I: Io> Inputs<I> for Worker<I> {
    fn short_of_files(&mut self, io: &mut I) {
        Worker::short_of_files(self, io);
    }
    #[inline]
    fn tick(&mut self, io: &mut I, now: Instant) {
        Worker::tick(self, io, now);
    }
    #[inline]
    fn turn_end(&mut self, io: &mut I) {
        Worker::turn_end(self, io);
    }
    #[inline]
    fn accepted(&mut self, io: &mut I, conn: ConnId, peer: Peer) {
        Worker::accepted(self, io, conn, peer);
    }
    #[inline]
    fn received(&mut self, io: &mut I, conn: ConnId, buf: BufId, data: &[u8]) {
        Worker::received(self, io, conn, buf, data);
    }
    #[inline]
    fn sent(&mut self, io: &mut I, conn: ConnId, bytes: usize) {
        Worker::sent(self, io, conn, bytes);
    }
    #[inline]
    fn connected(&mut self, io: &mut I, conn: ConnId) {
        Worker::connected(self, io, conn);
    }
    #[inline]
    fn closed(&mut self, io: &mut I, conn: ConnId, by: ClosedBy) {
        Worker::closed(self, io, conn, by);
    }
    #[inline]
    fn tls_ready(&mut self, io: &mut I, conn: ConnId, info: TlsInfo) {
        Worker::tls_ready(self, io, conn, info);
    }
    #[inline]
    fn detached(&mut self, io: &mut I, conn: ConnId, handover: I::Handover) {
        Worker::detached(self, io, conn, handover);
    }
    #[inline]
    fn answer(&mut self, io: &mut I, id: QuestionId, answer: Answer) {
        Worker::answer(self, io, id, answer);
    }
    #[inline]
    fn readdressed(&mut self, io: &mut I, host: &Arc<str>, addresses: &Arc<[IpAddr]>) {
        Worker::readdressed(self, io, host, addresses);
    }
    #[inline]
    fn told(&mut self, io: &mut I, from: WorkerId, message: Message<I::Handover>) {
        Worker::told(self, io, from, message);
    }
    #[inline]
    fn command(&mut self, io: &mut I, id: CommandId, command: Command) {
        Worker::command(self, io, id, command);
    }
}
