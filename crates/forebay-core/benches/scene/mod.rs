//! Clients, one server and the worker between them, in memory: the hot loop with nothing around it.

use std::sync::Arc;

use forebay_core::config::{AuthMethod, PoolMode};
use forebay_core::fuzz_entry::memory::{BUFFER, MemoryIo, Stage, config};
use forebay_core::ids::{ConnId, WorkerId};
use forebay_core::io::Peer;
use forebay_core::stats::WorkerStats;
use forebay_core::tables::Tables;
use forebay_core::time::Instant;
use forebay_core::worker::{Shared, Worker};
use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

/// pgbench -S, as libpq sends it.
const TEXT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 527331;";
const TEXT_WITH_PARAMETER: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;";
/// Microseconds between two transactions.
const STEP_US: u64 = 50;
const STATEMENT: &str = "s1";
/// An unnamed statement is shared when it is seen again.
const WARM_UP_TRANSACTIONS: usize = 4;

/// What a client does again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Query.
    Simple,
    /// Bind, Describe, Execute, Sync of a named statement.
    Prepared,
    /// Parse, Bind, Describe, Execute, Sync, unnamed.
    Extended,
    /// Query, of two clients in turn: each arrives while the other has the only server.
    Queued,
}

impl Kind {
    pub(crate) const ALL: [(&'static str, Kind); 4] = [
        ("simple", Kind::Simple),
        ("prepared", Kind::Prepared),
        ("extended", Kind::Extended),
        ("queued", Kind::Queued),
    ];
}

/// The worker and its peers.
pub(crate) struct Scene {
    worker: Worker<MemoryIo>,
    io: MemoryIo,
    now: Instant,
    client: ConnId,
    /// Another client, where two take turns.
    waiting: Option<ConnId>,
    server: Option<ConnId>,
    kind: Kind,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Scene {
    /// A client logged in, whose first transactions have run.
    pub(crate) fn new(kind: Kind) -> Scene {
        let config = config(AuthMethod::Trust, PoolMode::Transaction, 1);
        let tables = Tables::build(config, None, &mut |out| out.fill(7)).expect("the configuration is sound");
        let stats = Arc::new(WorkerStats::default());
        let worker = Worker::new(WorkerId(0), Arc::new(tables), Arc::new(Shared::new(1)), stats);
        let mut io = MemoryIo::default();
        let client = io.open_client();
        let mut scene = Scene {
            worker,
            io,
            now: Instant(1),
            client,
            waiting: None,
            server: None,
            kind,
            request: request(kind),
            reply: Vec::new(),
        };
        scene.worker.tick(&mut scene.io, scene.now);
        scene.worker.accepted(&mut scene.io, client, Peer::Tcp([127, 0, 0, 1].into(), 9));
        scene.log_in();
        scene.warm_up();
        if let Kind::Queued = kind {
            scene.second_client();
        }
        scene
    }

    /// A second client logs in, and the first one's request takes the server.
    fn second_client(&mut self) {
        let second = self.io.open_client();
        self.worker.accepted(&mut self.io, second, Peer::Tcp([127, 0, 0, 1].into(), 10));
        arrives(&mut self.worker, &mut self.io, second, &startup());
        assert!(written(&mut self.worker, &mut self.io, second) > 0, "the second client is greeted");
        arrives(&mut self.worker, &mut self.io, self.client, &self.request);
        assert!(written(&mut self.worker, &mut self.io, self.server.expect("it is open")) > 0, "it is sent on");
        self.waiting = Some(second);
    }

    /// One request and its reply, both relayed whole.
    #[inline(never)]
    pub(crate) fn transaction(&mut self) {
        self.now = Instant(self.now.0 + STEP_US);
        self.worker.tick(&mut self.io, self.now);
        let server = self.server.expect("the login opened it");
        arrives(&mut self.worker, &mut self.io, self.waiting.unwrap_or(self.client), &self.request);
        if self.waiting.is_none() {
            written(&mut self.worker, &mut self.io, server);
        }
        arrives(&mut self.worker, &mut self.io, server, &self.reply);
        let bytes = written(&mut self.worker, &mut self.io, self.client);
        if let Some(next) = &mut self.waiting {
            std::mem::swap(next, &mut self.client);
            written(&mut self.worker, &mut self.io, server);
        }
        self.worker.turn_end(&mut self.io);
        assert!(bytes >= self.reply.len(), "the client got the whole reply: {bytes} bytes");
    }

    fn log_in(&mut self) {
        let mut bytes = startup();
        arrives(&mut self.worker, &mut self.io, self.client, &bytes);
        let server = self.io.alive().find(|(_, c)| c.is_outgoing).map(|(conn, _)| conn);
        let server = server.expect("the greeting needs a server");
        self.server = Some(server);
        self.io.connection(server).stage = Stage::Open;
        self.worker.connected(&mut self.io, server);
        written(&mut self.worker, &mut self.io, server);
        bytes.clear();
        write::authentication_ok(&mut bytes);
        for (name, value) in [("server_version", "15.20"), ("client_encoding", "UTF8"), ("application_name", "")] {
            write::parameter_status(&mut bytes, name, value);
        }
        write::backend_key_data(&mut bytes, 4711, &[1, 2, 3, 4]);
        write::ready_for_query(&mut bytes, TransactionStatus::Idle);
        arrives(&mut self.worker, &mut self.io, server, &bytes);
        assert!(written(&mut self.worker, &mut self.io, self.client) > 0, "the client is greeted");
    }

    /// Runs the transaction until what the server is sent repeats itself: statements are parsed there, parameters set.
    fn warm_up(&mut self) {
        let server = self.server.expect("the login opened it");
        if let Kind::Prepared = self.kind {
            let mut bytes = Vec::new();
            write::parse(&mut bytes, STATEMENT, TEXT_WITH_PARAMETER, &[]);
            write::sync(&mut bytes);
            arrives(&mut self.worker, &mut self.io, self.client, &bytes);
            self.answer(server);
        }
        for _ in 0..WARM_UP_TRANSACTIONS {
            arrives(&mut self.worker, &mut self.io, self.client, &self.request);
            self.answer(server);
        }
    }

    /// Answers what the server is sent, our own queries among it, until it is sent no more. Keeps the last answer.
    fn answer(&mut self, server: ConnId) {
        loop {
            let sent = self.io.connection(server).sent.clone();
            if sent.is_empty() {
                break;
            }
            written(&mut self.worker, &mut self.io, server);
            self.reply = answer_to(&sent);
            arrives(&mut self.worker, &mut self.io, server, &self.reply);
        }
        let sent = self.io.connection(self.client).sent.clone();
        assert!(sent.ends_with(b"Z\0\0\0\x05I"), "the client has its whole reply: {}", sent.escape_ascii());
        written(&mut self.worker, &mut self.io, self.client);
    }
}

fn startup() -> Vec<u8> {
    let mut out = Vec::new();
    write::startup(&mut out, (3, 0), [("user", "app"), ("database", "app"), ("application_name", "pgbench")]);
    out
}

fn arrives(worker: &mut Worker<MemoryIo>, io: &mut MemoryIo, conn: ConnId, bytes: &[u8]) {
    io.lend(bytes);
    worker.received(io, conn, BUFFER, bytes);
}

/// All that was sent is written. Returns how much it was.
fn written(worker: &mut Worker<MemoryIo>, io: &mut MemoryIo, conn: ConnId) -> usize {
    let connection = io.connection(conn);
    let bytes = std::mem::take(&mut connection.unreported);
    connection.sent.clear();
    if bytes > 0 {
        worker.sent(io, conn, bytes);
    }
    bytes
}

/// A server's answer to a stream of whole messages.
fn answer_to(sent: &[u8]) -> Vec<u8> {
    let (mut out, mut left) = (Vec::new(), sent);
    // What the last Parse is of, if it gives no rows: the prefix of a hand-over.
    let mut order = None;
    while let [tag, a, b, c, d, ..] = *left {
        match tag {
            b'P' => {
                let text = left[5..].iter().position(|byte| *byte == 0).map_or(left, |end| &left[5 + end + 1..]);
                order = ["BEGIN", "SET", "COMMIT"].into_iter().find(|word| text.starts_with(word.as_bytes()));
                write::parse_complete(&mut out);
            }
            b'B' => write::bind_complete(&mut out),
            b'C' => write::close_complete(&mut out),
            b'D' => write::row_description(&mut out, &[("abalance", 23)]),
            b'Q' => {
                write::row_description(&mut out, &[("abalance", 23)]);
                row(&mut out);
            }
            b'E' => match order {
                Some(word) => write::command_complete(&mut out, word),
                None => row(&mut out),
            },
            b'S' => {}
            other => panic!("the server was sent {:?}", char::from(other)),
        }
        if matches!(tag, b'Q' | b'S') {
            write::ready_for_query(&mut out, TransactionStatus::Idle);
        }
        left = &left[1 + u32::from_be_bytes([a, b, c, d]) as usize..];
    }
    out
}

fn row(out: &mut Vec<u8>) {
    write::data_row(out, &[Some(b"0")]);
    write::command_complete(out, "SELECT 1");
}

fn request(kind: Kind) -> Vec<u8> {
    let mut out = Vec::new();
    let name = match kind {
        Kind::Simple | Kind::Queued => {
            write::query(&mut out, TEXT);
            return out;
        }
        Kind::Prepared => STATEMENT,
        Kind::Extended => {
            write::parse(&mut out, "", TEXT_WITH_PARAMETER, &[]);
            ""
        }
    };
    write::bind(&mut out, "", name, &[], &[Some(b"527331")], &[]);
    write::describe(&mut out, b'P', "");
    write::execute(&mut out, "", 0);
    write::sync(&mut out);
    out
}
