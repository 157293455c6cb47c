//! Virtual time for many workers: one agenda, links that neither lose nor bunch, and what is measured on the way.

use std::sync::Arc;

use forebay_core::ids::{ConnId, WorkerId};
use forebay_core::tables::Tables;
use forebay_core::worker::{Message, Shared};

use super::Plan;
use super::agenda::Agenda;
use super::figures::{Figures, Tally};
use super::peers::{Client, Process};
use super::seat::{Input, Seat};
use super::setup;
use crate::driver::Handover;
use crate::net::LinkId;
use crate::rng::Rng;

/// What happens next.
pub(super) enum Event {
    /// Bytes reach a worker.
    Inward(LinkId, Vec<u8>),
    /// Bytes reach a client or a server.
    Outward(LinkId, Vec<u8>),
    /// A worker begins a turn.
    Turn(usize),
    /// A worker's alarm, if it is still the newest.
    Wake(usize, u64),
    /// Something else reaches a worker.
    Input(usize, Input),
    /// A connection of a worker has come about.
    Connected(usize, ConnId),
    /// A message of a worker reaches another one.
    Told(usize, WorkerId, Box<Message<Handover>>),
    /// A server is done with a client's request.
    Served(usize),
    /// A client sends its next request.
    Request(usize),
}

/// Who is at the other end.
#[derive(Clone, Copy)]
pub(super) enum Peer {
    Client(usize),
    Process(usize),
}

/// A connection of a worker.
pub(super) struct Link {
    pub(super) peer: Peer,
    /// The worker and its name for it; `None`: on its way to another worker, or closed.
    pub(super) holder: Option<(usize, ConnId)>,
    /// It came from another worker, and no request has gone over it since.
    pub(super) is_lent: bool,
}

/// The world of one plan.
pub(super) struct World<'p> {
    pub(super) plan: &'p Plan,
    pub(super) now: u64,
    pub(super) agenda: Agenda<Event>,
    pub(super) seats: Vec<Seat>,
    pub(super) links: Vec<Link>,
    pub(super) clients: Vec<Client>,
    pub(super) processes: Vec<Process>,
    pub(super) tally: Tally<'p>,
}

impl<'p> World<'p> {
    pub(super) fn new(plan: &'p Plan) -> World<'p> {
        let mut luck = Rng::new(plan.seed);
        let tables = Tables::build(setup::config(plan), None, &mut |out| luck.fill(out));
        let tables = Arc::new(tables.unwrap_or_else(|error| panic!("the configuration is not sound: {error:?}")));
        let shared = Arc::new(Shared::with_names_of(plan.workers as u16, luck.next()));
        let seats = (0..plan.workers).map(|w| Seat::new(w, plan.workers, &tables, &shared, luck.fork(w as u64)));
        let mut world = World {
            seats: seats.collect(),
            plan,
            now: 0,
            agenda: Agenda::new(),
            links: Vec::new(),
            clients: (0..plan.clients_in_all()).map(|_| Client::default()).collect(),
            processes: Vec::new(),
            tally: Tally::new(plan),
        };
        for client in 0..world.clients.len() {
            world.connect_client(client);
        }
        world
    }

    pub(super) fn run(mut self) -> Figures {
        while let Some((at, event)) = self.agenda.take() {
            if at >= self.plan.until_ns {
                break;
            }
            self.now = at;
            self.carry_out(event);
        }
        self.close_spans();
        self.tally.figures()
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Inward(link, bytes) => self.reaches_worker(link, bytes),
            Event::Outward(link, bytes) => match self.links[link.0].peer {
                Peer::Client(client) => self.client_reads(client, &bytes),
                Peer::Process(process) => self.process_reads(process, link, &bytes),
            },
            Event::Turn(w) => self.turn(w),
            Event::Wake(w, number) => self.wake(w, number),
            Event::Input(w, input) => self.input(w, input),
            Event::Connected(w, conn) => self.connected(w, conn),
            Event::Told(w, from, message) => self.input(w, Input::Told(from, message)),
            Event::Served(process) => self.served(process),
            Event::Request(client) => self.request(client),
        }
    }

    /// A new link between a peer and a worker's connection.
    pub(super) fn link(&mut self, peer: Peer, holder: Option<(usize, ConnId)>) -> LinkId {
        self.links.push(Link { peer, holder, is_lent: false });
        LinkId(self.links.len() - 1)
    }

    fn reaches_worker(&mut self, link: LinkId, bytes: Vec<u8>) {
        let Link { peer, holder, .. } = self.links[link.0];
        let Some((w, conn)) = holder else { return };
        if let Peer::Client(client) = peer {
            self.clients[client].arrived_at = self.now;
        }
        self.input(w, Input::Received(conn, bytes));
    }
}
