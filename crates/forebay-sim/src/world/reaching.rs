//! Connections from the workers to the servers: over TCP, or through whatever is at the socket beside the port.

use forebay_core::ids::ConnId;
use forebay_core::io::Endpoint;

use crate::driver::Stage;
use crate::net::End;
use crate::scenario::LocalSocket;
use crate::world::workers::Input;
use crate::world::{Event, World};

/// Who is at the other end of a connection to a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub(crate) server: usize,
    /// Another server that is in its place.
    pub(crate) is_stranger: bool,
}

impl Reached {
    /// Through a Unix socket.
    pub(crate) fn at_socket(&mut self, kind: LocalSocket) {
        match kind {
            LocalSocket::Nothing => self.server = usize::MAX,
            LocalSocket::Stranger => self.is_stranger = true,
            LocalSocket::Same | LocalSocket::Changing => {}
        }
    }
}

impl World {
    pub(crate) fn connect(&mut self, w: usize, conn: ConnId, endpoint: &Endpoint) {
        let (Endpoint::Tcp { host: text, .. } | Endpoint::LocalSocket { host: text, .. } | Endpoint::Unix(text)) =
            endpoint;
        let index = text.rsplit('.').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
        let mut reached = Reached { server: index, is_stranger: false };
        if let Endpoint::LocalSocket { .. } = endpoint {
            let kinds = [LocalSocket::Nothing, LocalSocket::Same, LocalSocket::Same, LocalSocket::Stranger];
            match self.scenario.targets.get(index).map(|target| target.local_socket) {
                Some(LocalSocket::Changing) => reached.at_socket(*self.signal_luck.pick(&kinds)),
                Some(kind) => reached.at_socket(kind),
                None => {}
            }
        }
        let after = self.draw(self.scenario.delay_max * 2 + 1);
        self.trace.note(b'o', w as u64, text.as_bytes());
        self.schedule(after, Event::Connected(w, conn, reached));
    }

    pub(crate) fn connected(&mut self, w: usize, conn: ConnId, reached: Reached) {
        if self.seats[w].io.live(conn).is_none() {
            return;
        }
        if self.is_cut_off(reached.server) {
            // Nobody answers; it is given up in time.
            return;
        }
        if self.servers.get(reached.server).is_none_or(|s| s.is_down) {
            return self.input(w, Input::Refused(conn));
        }
        let p = self.processes.len();
        let link = self.link([End::Worker(w, conn), End::Process(p)]);
        self.new_process(link, reached.server);
        self.processes[p].is_stranger = reached.is_stranger;
        if let Some(live) = self.seats[w].io.live(conn) {
            live.link = Some(link);
            live.stage = Stage::Open;
        }
        self.input(w, Input::Connected(conn));
    }
}
