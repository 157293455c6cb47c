//! Workers in memory: what one hands on another gets, and what becomes of it is what clients and servers see.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

use super::Arrival;
use crate::command::{Command, CommandId, Reply};
use crate::config::{AuthMethod, EngineConfig, PoolMode, ServerTls, TlsMode};
use crate::fuzz_entry::memory::{BUFFER, Handed, HandedOn, MemoryIo, Stage, config};
use crate::ids::{ConnId, WorkerId};
use crate::io::{Peer, TlsInfo};
use crate::stats::WorkerStats;
use crate::tables::Tables;
use crate::time::Instant;
use crate::worker::{Message, Shared, Worker};

/// A process with one worker.
struct Process {
    worker: Worker<MemoryIo>,
    io: MemoryIo,
    shared: Arc<Shared>,
    now: u64,
}

impl Process {
    fn new(mode: PoolMode, change: impl FnOnce(&mut EngineConfig)) -> Process {
        let mut config = config(AuthMethod::Trust, mode, 4);
        change(&mut config);
        let tables = Arc::new(Tables::build(config, None, &mut |out| out.fill(7)).expect("the configuration is sound"));
        let shared = Arc::new(Shared::new(1));
        let mut io = MemoryIo::default();
        io.handed_on = Some(Vec::new());
        let mut worker = Worker::new(WorkerId(0), tables, shared.clone(), Arc::new(WorkerStats::default()));
        worker.tick(&mut io, Instant(1));
        Process { worker, io, shared, now: 1 }
    }

    fn client_connects(&mut self) -> ConnId {
        let conn = self.io.open_client();
        self.worker.accepted(&mut self.io, conn, Peer::Tcp([127, 0, 0, 1].into(), 9));
        conn
    }

    fn logs_in(&mut self, client: ConnId) {
        let mut hello = Vec::new();
        write::startup(&mut hello, (3, 0), [("user", "app"), ("database", "app")]);
        self.arrives(client, &hello);
    }

    /// A client that is greeted.
    fn client_comes(&mut self) -> ConnId {
        let client = self.client_connects();
        self.logs_in(client);
        if let Some(server) = self.opening() {
            self.let_in(server);
        }
        client
    }

    /// A client in a transaction, with a server.
    fn client_in_a_transaction(&mut self) {
        let client = self.client_comes();
        self.asks(client, "begin");
        if let Some(opened) = self.opening() {
            self.let_in(opened);
        }
        let asked = self.io.alive().find(|(_, c)| c.is_outgoing && c.sent.ends_with(b"begin\0"));
        let server = asked.expect("a server is asked").0;
        self.io.connection(server).sent.clear();
        self.answers(server, "BEGIN", TransactionStatus::InTransaction);
    }

    fn asks(&mut self, client: ConnId, text: &str) {
        let mut bytes = Vec::new();
        write::query(&mut bytes, text);
        self.arrives(client, &bytes);
    }

    /// The transaction of the only client with a server is over.
    fn commits(&mut self) {
        let (client, server) = self.pair();
        self.asks(client, "commit");
        self.answers(server, "COMMIT", TransactionStatus::Idle);
    }

    fn answers(&mut self, server: ConnId, tag: &str, status: TransactionStatus) {
        let mut bytes = Vec::new();
        write::command_complete(&mut bytes, tag);
        write::ready_for_query(&mut bytes, status);
        self.arrives(server, &bytes);
    }

    fn arrives(&mut self, conn: ConnId, bytes: &[u8]) {
        self.io.lend(bytes);
        self.worker.received(&mut self.io, conn, BUFFER, bytes);
        self.turn_ends();
        self.io.assert_released();
    }

    /// What was sent in this turn is written.
    fn turn_ends(&mut self) {
        self.worker.turn_end(&mut self.io);
        let written: Vec<_> = self.io.alive().filter(|(_, c)| c.unreported > 0).map(|(conn, _)| conn).collect();
        for conn in written {
            let count = std::mem::take(&mut self.io.connection(conn).unreported);
            self.worker.sent(&mut self.io, conn, count);
        }
        self.worker.turn_end(&mut self.io);
    }

    fn let_in(&mut self, server: ConnId) {
        self.io.connection(server).stage = Stage::Open;
        self.worker.connected(&mut self.io, server);
        self.turn_ends();
        if self.io.connection(server).sent.ends_with(&80_877_103_u32.to_be_bytes()) {
            self.arrives(server, b"S");
            self.io.connection(server).stage = Stage::Open;
            self.worker.tls_ready(&mut self.io, server, TlsInfo::default());
            self.turn_ends();
        }
        let mut bytes = Vec::new();
        write::authentication_ok(&mut bytes);
        write::backend_key_data(&mut bytes, 7, &[1, 2, 3, 4]);
        write::ready_for_query(&mut bytes, TransactionStatus::Idle);
        self.arrives(server, &bytes);
    }

    /// A connection that the worker has begun.
    fn opening(&self) -> Option<ConnId> {
        self.io.alive().find(|(_, c)| c.stage == Stage::Connecting).map(|(conn, _)| conn)
    }

    fn order(&mut self, number: u64, command: Command) {
        self.worker.command(&mut self.io, CommandId(number), command);
        self.turn_ends();
    }

    fn told(&mut self, message: Message<Handed>) {
        self.worker.told(&mut self.io, WorkerId(0), message);
        self.turn_ends();
    }

    /// Time passes: connections that are to be taken out are, and what was handed on meanwhile is returned.
    fn moves(&mut self) -> Vec<HandedOn> {
        for _ in 0..20 {
            self.now += 3_000;
            self.worker.tick(&mut self.io, Instant(self.now));
            self.turn_ends();
            for conn in std::mem::take(&mut self.io.detaching) {
                self.io.end(conn);
                self.worker.detached(&mut self.io, conn, Handed);
                self.turn_ends();
            }
        }
        std::mem::take(self.io.handed_on.as_mut().expect("there is another process"))
    }

    fn gets(&mut self, group: HandedOn) {
        let HandedOn { state, connections, .. } = group;
        self.told(Message::Group(Box::new(Arrival { state, connections, counted: None, is_refused: false })));
    }

    /// A group comes back.
    fn is_refused(&mut self, group: HandedOn) {
        let HandedOn { number, state, connections } = group;
        let counted = Some(number);
        self.told(Message::Group(Box::new(Arrival { state, connections, counted, is_refused: true })));
    }

    fn is_done(&self, number: u64) -> bool {
        self.io.replies.iter().any(|(id, reply)| id.0 == number && matches!(reply, Reply::Done))
    }

    /// What was said on connections of clients that have been closed.
    fn last_words(&self) -> Vec<String> {
        self.io.last_words.iter().map(|(_, sent)| String::from_utf8_lossy(sent).into_owned()).collect()
    }

    fn permits(&self, user: &str) -> (u32, u32) {
        let pool = self.shared.pool(&"app".into(), &user.into());
        (pool.permits.used(), pool.of_database.used())
    }

    /// The first client that has a server, and that.
    fn pair(&self) -> (ConnId, ConnId) {
        let mut pairs = self.worker.clients.iter().filter_map(|(_, client)| Some((client.conn, client.server?)));
        let (client, server) = pairs.next().expect("there is one");
        (client, self.worker.servers[server].conn)
    }
}

/// A pool whose count is wrong refuses clients that there is room for, or lets in more than its server allows.
#[test]
fn servers_that_land_in_another_users_pool_are_counted_there_and_nowhere_else() {
    let mut old = Process::new(PoolMode::Transaction, |_| ());
    old.client_in_a_transaction();
    old.client_in_a_transaction();
    old.commits();
    let mut new = Process::new(PoolMode::Transaction, |config| {
        config.databases[0].forced_user = Some("ops".into());
    });
    new.shared.expect_servers(&"app".into(), &"app".into(), 2);
    assert_eq!(new.permits("app"), (2, 2));
    old.order(1, Command::HandOn);
    let groups = old.moves();
    assert_eq!(groups.len(), 3, "a client with its server, an idle one of each");
    groups.into_iter().for_each(|group| new.gets(group));
    assert_eq!(
        (new.permits("app"), new.permits("ops")),
        ((0, 1), (1, 1)),
        "the idle one is closed: nobody may have it"
    );
    new.commits();
    assert_eq!(
        (new.permits("app").0, new.permits("ops")),
        (0, (0, 0)),
        "and the other one when its transaction is over"
    );
}

/// It would wait for the server that only it needs, until its wait is over.
#[test]
fn a_login_gets_the_server_that_it_needs_while_others_move() {
    let mut old = Process::new(PoolMode::Transaction, |_| ());
    let client = old.client_connects();
    old.order(1, Command::HandOn);
    old.logs_in(client);
    let server = old.opening().expect("a server is opened for it");
    old.let_in(server);
    assert!(old.io.connection(client).sent.ends_with(b"I"), "it is greeted");
    assert_eq!(old.moves().len(), 2, "and then moves");
}

/// Offered again and again it would keep the restart from its end.
#[test]
fn a_client_that_is_refused_goes_on_and_is_let_go() {
    let mut old = Process::new(PoolMode::Transaction, |_| ());
    old.client_in_a_transaction();
    old.order(1, Command::HandOn);
    for group in old.moves() {
        old.is_refused(group);
    }
    assert!(old.moves().is_empty() && old.is_done(1), "it is not tried again, and holds up nobody");
    old.order(2, Command::LetGo);
    assert!(old.moves().is_empty());
    assert_eq!(old.worker.clients.len(), 1, "nobody is cut in a transaction");
    old.commits();
    assert!(old.moves().is_empty() && old.is_done(2));
    assert!(old.last_words().iter().any(|words| words.contains("57P01")), "{:?}", old.last_words());
}

/// The old process would stay for as long as such a client does.
#[test]
fn who_keeps_a_server_that_cannot_move_is_let_go_when_its_transaction_ends() {
    let mut old = Process::new(PoolMode::Session, |_| ());
    old.client_in_a_transaction();
    old.order(1, Command::HandOn);
    for group in old.moves() {
        old.is_refused(group);
    }
    assert!(old.moves().is_empty() && old.is_done(1));
    old.order(2, Command::LetGo);
    assert!(old.moves().is_empty() && !old.is_done(2));
    assert_eq!(old.worker.clients.len(), 1, "nobody is cut in a transaction");
    old.commits();
    assert!(old.moves().is_empty() && old.is_done(2));
    assert!(old.last_words().iter().any(|words| words.contains("57P01")), "{:?}", old.last_words());
}

/// It would be said of it that it can't, and its application be told that it is to go.
#[test]
fn who_is_about_to_move_is_waited_for_but_not_for_long() {
    for (waits, is_moved) in [(1, true), (9, false)] {
        let mut old = Process::new(PoolMode::Transaction, |_| ());
        old.client_in_a_transaction();
        let key = old.worker.servers.iter().next().expect("it has a server").0;
        // A cancel of it is under way.
        old.worker.servers[key].cancels = 1;
        old.order(1, Command::HandOn);
        for _ in 0..waits {
            assert!(!old.is_done(1));
            assert!(old.moves().is_empty());
        }
        old.worker.servers[key].cancels = 0;
        assert_eq!(old.is_done(1), !is_moved, "after {waits} times 60 ms");
        assert_eq!(old.moves().len(), 1, "it moves all the same");
        old.worker.group_arrived(&mut old.io, 1);
        old.moves();
        assert!(old.is_done(1));
    }
}

fn by_tls(config: &mut EngineConfig) {
    config.server_tls = vec![ServerTls { mode: TlsMode::Require, ..ServerTls::default() }];
    config.databases[0].tls = 0;
}

/// TLS moves as anything else; and where the configuration says something else of it, what was agreed on is not used on.
#[test]
fn a_server_with_tls_moves_and_stays_where_the_same_is_asked_for() {
    let plain: fn(&mut EngineConfig) = |_| ();
    for (asked, kept) in [(by_tls as fn(&mut EngineConfig), 1), (plain, 0)] {
        let mut old = Process::new(PoolMode::Transaction, by_tls);
        old.client_in_a_transaction();
        old.order(1, Command::HandOn);
        let mut new = Process::new(PoolMode::Transaction, asked);
        let groups = old.moves();
        assert_eq!(groups.len(), 1, "a client with its server");
        groups.into_iter().for_each(|group| new.gets(group));
        assert_eq!((new.worker.clients.len(), new.worker.servers.len()), (1, 1), "nobody is cut in a transaction");
        assert!(new.worker.servers.iter().all(|(_, server)| server.tls.is_some()));
        new.commits();
        assert_eq!((new.worker.clients.len(), new.worker.servers.len()), (1, kept));
    }
}

/// Each alarm looks at all clients, and sets the next one: more and more of them would leave no time for anything else.
#[test]
fn one_look_at_what_may_move_is_due_at_a_time() {
    let mut old = Process::new(PoolMode::Transaction, |_| ());
    old.order(1, Command::HandOn);
    old.moves();
    let before = old.worker.alarms.len();
    for _ in 0..50 {
        old.worker.arm_round(Instant(old.now + 10));
    }
    assert_eq!(old.worker.alarms.len(), before + 1, "the earliest is enough");
    old.moves();
    assert!(old.worker.alarms.len() <= before + 1, "{} of {before}", old.worker.alarms.len());
}
