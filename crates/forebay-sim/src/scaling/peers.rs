//! Clients that send one short request after the other, and the fake server's processes.

use std::collections::VecDeque;

use forebay_core::ids::ConnId;

use super::seat::Input;
use super::setup::{DATABASE, USER};
use super::world::{Event, Peer, World};
use crate::driver::Stage;
use crate::net::LinkId;
use crate::server::replies::parameter_status;
use crate::server::session::Session;
use crate::wire::{Body, Front, Opening, Splitter, Tag};

/// PostgreSQL's protocol, as clients ask for it.
const VERSION: i32 = 0x0003_0000;

/// A client.
#[derive(Default)]
pub(super) struct Client {
    link: Option<LinkId>,
    splitter: Splitter,
    is_greeted: bool,
    /// How many requests it has sent.
    sent: u32,
    has_row: bool,
    /// When its worker got what it sent last.
    pub(super) arrived_at: u64,
}

/// A process of the fake server.
pub(super) struct Process {
    link: LinkId,
    splitter: Splitter,
    session: Option<Session>,
    inbox: VecDeque<Front>,
    /// The request it works on, and since when.
    busy: Option<(Front, u64)>,
}

impl World<'_> {
    pub(super) fn connect_client(&mut self, client: usize) {
        let w = self.plan.worker_of(client);
        let link = self.link(Peer::Client(client), None);
        let conn = self.seats[w].io.open(Some(link));
        self.links[link.0].holder = Some((w, conn));
        self.clients[client].link = Some(link);
        let at = self.plan.begins_at(client);
        self.agenda.put(at, Event::Input(w, Input::Accepted(conn)));
        let params = vec![("user".to_owned(), USER.to_owned()), ("database".to_owned(), DATABASE.to_owned())];
        let opening = Opening::Startup { version: VERSION, params }.encode().encode();
        self.agenda.put(at + self.plan.link_ns, Event::Inward(link, opening));
    }

    /// A client sends a request.
    pub(super) fn request(&mut self, i: usize) {
        let client = &mut self.clients[i];
        let tag = Tag { client: i as u32, request: client.sent };
        client.sent += 1;
        client.has_row = false;
        let link = client.link.expect("a client that sends is connected");
        let bytes = Front::Query(format!("select '{tag}'")).encode().encode();
        self.agenda.put(self.now + self.plan.link_ns, Event::Inward(link, bytes));
    }

    pub(super) fn client_reads(&mut self, i: usize, bytes: &[u8]) {
        self.clients[i].splitter.push(bytes);
        while let Some(frame) = self.clients[i].splitter.take().expect("a worker sends sound lengths") {
            let client = &mut self.clients[i];
            match frame.kind {
                b'E' => panic!("client {i} is told: {}", frame.words()),
                b'D' => {
                    let tag = Tag { client: i as u32, request: client.sent - 1 };
                    assert_eq!(Tag::all_in(&frame.body), [tag], "client {i} got the answer of another request");
                    client.has_row = true;
                }
                b'Z' if !client.is_greeted => {
                    client.is_greeted = true;
                    self.request(i);
                }
                b'Z' => {
                    assert!(client.has_row, "client {i} got no row");
                    let answered = client.sent - 1;
                    self.tally.answered(self.now, i);
                    let pause = self.plan.think_after(i, answered);
                    self.agenda.put(self.now + pause, Event::Request(i));
                }
                _ => {}
            }
        }
    }

    /// A worker's connection to a server has come about.
    pub(super) fn connected(&mut self, w: usize, conn: ConnId) {
        let link = self.link(Peer::Process(self.processes.len()), Some((w, conn)));
        let Some(live) = self.seats[w].io.live(conn) else { return };
        (live.link, live.stage) = (Some(link), Stage::Open);
        self.seats[w].servers += 1;
        self.processes.push(Process {
            link,
            splitter: Splitter::at_startup(),
            session: None,
            inbox: VecDeque::new(),
            busy: None,
        });
        self.input(w, Input::Connected(conn));
    }

    pub(super) fn process_reads(&mut self, p: usize, link: LinkId, bytes: &[u8]) {
        self.processes[p].splitter.push(bytes);
        while let Some(frame) = self.processes[p].splitter.take().expect("a worker sends sound lengths") {
            if self.processes[p].session.is_some() {
                let message = Front::decode(&frame).expect("a worker sends sound messages");
                self.note_request(link, &message);
                self.processes[p].inbox.push_back(message);
            } else {
                match Opening::decode(&frame) {
                    Some(Opening::Startup { version, params }) => self.start_session(p, version, params),
                    other => panic!("a server got {other:?}"),
                }
            }
        }
        self.work(p);
    }

    /// A client's request has reached a server: it went out of its worker a link's length ago.
    fn note_request(&mut self, link: LinkId, message: &Front) {
        let Some(tag) = tag_of(message) else { return };
        let sent_at = self.now - self.plan.link_ns;
        let waited = sent_at - self.clients[tag.client as usize].arrived_at;
        self.tally.waited(sent_at, waited);
        if let Some((w, _)) = self.links[link.0].holder {
            self.tally.had_company(sent_at, self.seats[w].servers);
        }
        if std::mem::take(&mut self.links[link.0].is_lent) {
            self.tally.was_lent(sent_at);
        }
    }

    fn start_session(&mut self, p: usize, version: i32, params: Vec<(String, String)>) {
        let params: Vec<_> = params.into_iter().filter(|(name, _)| !name.starts_with("_pq_.")).collect();
        let session = Session::new(&params).expect("a worker sends known parameters");
        let mut bytes = Vec::new();
        if version > VERSION {
            bytes.extend(Body::default().int32(VERSION).int32(0).frame(b'v').encode());
        }
        bytes.extend(Body::default().int32(0).frame(b'R').encode());
        for (name, value) in session.settings.report() {
            bytes.extend(parameter_status(name, &value).encode());
        }
        bytes.extend(Body::default().int32(1000 + p as i32).int32(p as i32).frame(b'K').encode());
        bytes.extend(Body::default().byte(b'I').frame(b'Z').encode());
        let process = &mut self.processes[p];
        process.splitter.is_startup = false;
        process.session = Some(session);
        self.answer(p, bytes);
    }

    fn answer(&mut self, p: usize, bytes: Vec<u8>) {
        let link = self.processes[p].link;
        self.agenda.put(self.now + self.plan.link_ns, Event::Inward(link, bytes));
    }

    /// A client's request takes its time, what a worker asks by itself takes none.
    fn work(&mut self, p: usize) {
        while self.processes[p].busy.is_none() {
            let Some(message) = self.processes[p].inbox.pop_front() else { return };
            match tag_of(&message) {
                Some(tag) => {
                    let service = self.plan.service_of(tag.client as usize, tag.request);
                    self.processes[p].busy = Some((message, self.now));
                    self.agenda.put(self.now + service, Event::Served(p));
                }
                None => self.execute(p, &message),
            }
        }
    }

    pub(super) fn served(&mut self, p: usize) {
        if let Some((message, since)) = self.processes[p].busy.take() {
            self.tally.served(since, self.now);
            self.execute(p, &message);
        }
        self.work(p);
    }

    fn execute(&mut self, p: usize, message: &Front) {
        let Some(session) = &mut self.processes[p].session else { return };
        let bytes: Vec<u8> = session.execute(message, None).iter().flat_map(|reply| reply.encode()).collect();
        self.answer(p, bytes);
    }

    /// What is still being served at the end was served until then.
    pub(super) fn close_spans(&mut self) {
        for (_, since) in self.processes.iter().filter_map(|process| process.busy.as_ref()) {
            self.tally.served(*since, self.plan.until_ns);
        }
    }
}

fn tag_of(message: &Front) -> Option<Tag> {
    match message {
        Front::Query(text) => Tag::first_in(text.as_bytes()),
        _ => None,
    }
}
