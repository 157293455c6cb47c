//! A worker whose clients, servers and clock do what bytes choose.

use std::sync::{Arc, OnceLock};

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

use super::choices::Choices;
use super::memory::{BUFFER, MemoryIo, Stage, config};
use crate::command::{Command, CommandId};
use crate::config::{AuthMethod, PoolMode};
use crate::ids::{ConnId, WorkerId};
use crate::io::{ClosedBy, Peer, TlsInfo};
use crate::question::{Answer, Question};
use crate::stats::WorkerStats;
use crate::tables::Tables;
use crate::time::Instant;
use crate::worker::{Shared, Worker};

const CLIENTS_MAX: usize = 6;
const STEPS_MAX: usize = 400;
/// Messages in one buffer.
const PIPELINE_MAX: usize = 6;
const STATUSES: [TransactionStatus; 3] =
    [TransactionStatus::Idle, TransactionStatus::InTransaction, TransactionStatus::Failed];
const NAMES: [&str; 4] = ["", "a", "b", "a_long_name_of_a_statement"];
const TEXTS: [&str; 6] = ["select 1", "begin", "commit", "copy t from stdin", "select $1::int", ""];

/// One worker lives through what the bytes choose: no panic, no rule of the border broken, whatever its peers send.
pub fn worker(data: &[u8]) {
    let mut choices = Choices(data);
    let mut play = Play::new(&mut choices);
    for _ in 0..STEPS_MAX {
        if choices.is_over() {
            break;
        }
        play.step(&mut choices);
        play.worker.turn_end(&mut play.io);
    }
    play.all_leave();
}

struct Play {
    worker: Worker<MemoryIo>,
    io: MemoryIo,
    now: Instant,
    commands: u64,
    tables: Arc<Tables>,
}

/// Tables by authentication method and pool mode: made once, for one costs a PBKDF2 for each user.
fn tables(method: usize, mode: usize) -> Arc<Tables> {
    static TABLES: [OnceLock<Arc<Tables>>; 12] = [const { OnceLock::new() }; 12];
    let methods = [AuthMethod::Trust, AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256];
    let modes = [PoolMode::Transaction, PoolMode::Session, PoolMode::Statement];
    let made = TABLES[method * modes.len() + mode].get_or_init(|| {
        let config = config(methods[method], modes[mode], 2);
        Arc::new(Tables::build(config, None, &mut |out| out.fill(7)).expect("the configuration is sound"))
    });
    made.clone()
}

impl Play {
    fn new(choices: &mut Choices<'_>) -> Play {
        // Trust half of the time: what follows the login is the larger part.
        let method = choices.below(8).saturating_sub(4);
        let tables = tables(method, choices.below(3));
        let shared = Arc::new(Shared::new(1));
        let stats = Arc::new(WorkerStats::default());
        let worker = Worker::new(WorkerId(0), tables.clone(), shared, stats);
        let mut play = Play { worker, io: MemoryIo::default(), now: Instant(1), commands: 0, tables };
        play.worker.tick(&mut play.io, play.now);
        if choices.byte() % 4 != 3 {
            play.begin_logged_in();
        }
        play
    }

    /// Two clients and a server that have their logins behind them, where trust lets them in.
    fn begin_logged_in(&mut self) {
        for _ in 0..2 {
            let conn = self.io.open_client();
            self.worker.accepted(&mut self.io, conn, Peer::Tcp([127, 0, 0, 1].into(), 9));
            let mut hello = Vec::new();
            write::startup(&mut hello, (3, 0), [("user", "app"), ("database", "app")]);
            self.arrives(conn, &hello);
        }
        let servers = self.io.alive().filter(|(_, c)| c.is_outgoing);
        for conn in servers.map(|(conn, _)| conn).collect::<Vec<_>>() {
            self.io.connection(conn).stage = Stage::Open;
            self.worker.connected(&mut self.io, conn);
            self.io.connection(conn).sent.clear();
            let mut bytes = Vec::new();
            let_in(&mut bytes);
            self.arrives(conn, &bytes);
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(16) {
            0 | 1 => self.client_comes(choices),
            2..=6 => self.client_speaks(choices),
            7..=11 => self.server_acts(choices),
            12 => self.all_is_written(choices),
            13 => self.time_passes(choices),
            14 => self.somebody_leaves(choices),
            _ => self.python_acts(choices),
        }
        self.io.assert_released();
    }

    fn chosen(&self, choices: &mut Choices<'_>, is_outgoing: bool) -> Option<(ConnId, Stage)> {
        let all: Vec<_> = self.io.alive().filter(|(_, c)| c.is_outgoing == is_outgoing).collect();
        all.get(choices.below(all.len())).map(|(conn, c)| (*conn, c.stage))
    }

    fn client_comes(&mut self, choices: &mut Choices<'_>) {
        if self.io.alive().filter(|(_, c)| !c.is_outgoing).count() >= CLIENTS_MAX {
            return;
        }
        let conn = self.io.open_client();
        let peer = if choices.byte() % 8 == 7 { Peer::Unix(None) } else { Peer::Tcp([127, 0, 0, 1].into(), 9) };
        self.worker.accepted(&mut self.io, conn, peer);
        if choices.byte() % 8 != 7 {
            let mut hello = Vec::new();
            let user = ["app", "app", "ops", "nobody"][choices.below(4)];
            let database = ["app", "app", "app", "forebay", "missing"][choices.below(5)];
            let zone = ["UTC", "Asia/Tokyo"][choices.below(2)];
            let parameters = [("user", user), ("database", database), ("TimeZone", zone)];
            write::startup(&mut hello, (3, [0, 2, 9][choices.below(3)]), parameters);
            self.arrives(conn, &hello);
        }
    }

    fn client_speaks(&mut self, choices: &mut Choices<'_>) {
        let Some((conn, stage)) = self.chosen(choices, false) else { return };
        if stage == Stage::Handshaking {
            return self.tls_ends(conn, choices);
        }
        let mut bytes = Vec::new();
        for _ in 0..=choices.below(PIPELINE_MAX) {
            client_message(&mut bytes, choices);
        }
        self.arrives_in_two(conn, &bytes, choices);
    }

    fn server_acts(&mut self, choices: &mut Choices<'_>) {
        let Some((conn, stage)) = self.chosen(choices, true) else { return };
        match stage {
            Stage::Connecting if choices.byte() % 8 == 7 => self.ends(conn),
            Stage::Connecting => {
                self.io.connection(conn).stage = Stage::Open;
                self.worker.connected(&mut self.io, conn);
            }
            Stage::Handshaking => self.tls_ends(conn, choices),
            Stage::Open | Stage::Closed => {
                let mut bytes = Vec::new();
                if choices.byte() % 4 == 3 {
                    for _ in 0..=choices.below(PIPELINE_MAX) {
                        server_message(&mut bytes, choices);
                    }
                } else {
                    let sent = std::mem::take(&mut self.io.connection(conn).sent);
                    fitting_answer(&mut bytes, &sent, choices);
                }
                self.arrives_in_two(conn, &bytes, choices);
            }
        }
    }

    fn tls_ends(&mut self, conn: ConnId, choices: &mut Choices<'_>) {
        if choices.byte() % 4 == 3 {
            return self.ends(conn);
        }
        self.io.connection(conn).stage = Stage::Open;
        self.worker.tls_ready(&mut self.io, conn, TlsInfo::default());
    }

    /// The bytes come, whole or cut in two.
    fn arrives_in_two(&mut self, conn: ConnId, bytes: &[u8], choices: &mut Choices<'_>) {
        let cut = choices.below(256).min(bytes.len());
        let parts = if cut.is_multiple_of(2) { (bytes, &bytes[..0]) } else { bytes.split_at(cut) };
        for part in [parts.0, parts.1] {
            let is_open = self.io.alive().any(|(alive, c)| alive == conn && c.stage == Stage::Open);
            if is_open && !part.is_empty() {
                self.arrives(conn, part);
            }
        }
    }

    fn arrives(&mut self, conn: ConnId, bytes: &[u8]) {
        self.io.lend(bytes);
        self.worker.received(&mut self.io, conn, BUFFER, bytes);
        self.io.assert_released();
    }

    fn all_is_written(&mut self, choices: &mut Choices<'_>) {
        let all: Vec<_> = self.io.alive().map(|(conn, _)| conn).collect();
        for conn in all {
            let Some((_, c)) = self.io.alive().find(|(alive, _)| *alive == conn) else { continue };
            let bytes = if choices.byte() % 8 == 7 { c.unreported / 2 } else { c.unreported };
            if bytes > 0 {
                let connection = self.io.connection(conn);
                connection.unreported -= bytes;
                if !connection.is_outgoing {
                    connection.sent.clear();
                }
                self.worker.sent(&mut self.io, conn, bytes);
            }
        }
    }

    fn time_passes(&mut self, choices: &mut Choices<'_>) {
        let us = [10, 1_000, 1_000_000, 20_000_000, 4_000_000_000][choices.below(5)];
        self.now = Instant(self.now.0 + us);
        self.worker.tick(&mut self.io, self.now);
    }

    fn somebody_leaves(&mut self, choices: &mut Choices<'_>) {
        let is_outgoing = choices.byte() % 2 == 1;
        if let Some((conn, _)) = self.chosen(choices, is_outgoing) {
            self.ends(conn);
        }
    }

    fn ends(&mut self, conn: ConnId) {
        self.io.end(conn);
        self.worker.closed(&mut self.io, conn, ClosedBy::Peer);
    }

    fn python_acts(&mut self, choices: &mut Choices<'_>) {
        if let Some((id, question)) = self.io.questions.pop() {
            let answer = match (question, choices.below(3)) {
                (_, 0) => Answer::Failed("nobody answered".into()),
                (Question::Secret { .. }, _) => Answer::Secret(None),
                (Question::SaltPassword { .. }, _) => Answer::SaltedPassword([choices.byte(); 32]),
                (Question::Verdict { .. }, _) => Answer::Verdict(false),
                (Question::OsUser { .. }, _) => Answer::OsUser(None),
                (Question::Suspect { .. } | Question::CallOff { .. }, _) => return,
                (Question::Console { .. }, _) => Answer::Console(Arc::from(&b"C\0\0\0\x09SHOW\0"[..])),
            };
            return self.worker.answer(&mut self.io, id, answer);
        }
        self.commands += 1;
        let app = Some(Arc::from("app"));
        let command = match choices.below(8) {
            0 => Command::Pause(app),
            1 | 2 => Command::Resume(app),
            3 => Command::Kill("app".into()),
            4 => Command::KillClient(u64::from(choices.byte())),
            5 => Command::Reconnect(app),
            6 => Command::Reload(self.tables.clone()),
            _ => Command::Snapshot,
        };
        self.worker.command(&mut self.io, CommandId(self.commands), command);
    }

    /// Everybody goes, clients first; what is owed to nobody must not stop the worker. Servers that are opened
    /// meanwhile stay: a pool would replace them for ever.
    fn all_leave(&mut self) {
        for is_outgoing in [false, true] {
            let ends = self.io.alive().filter(|(_, c)| c.is_outgoing == is_outgoing);
            for conn in ends.map(|(conn, _)| conn).collect::<Vec<_>>() {
                if self.io.alive().any(|(alive, _)| alive == conn) {
                    self.ends(conn);
                }
            }
        }
        self.now = Instant(self.now.0 + 60_000_000);
        self.worker.tick(&mut self.io, self.now);
    }
}

fn client_message(out: &mut Vec<u8>, choices: &mut Choices<'_>) {
    let name = NAMES[choices.below(NAMES.len())];
    match choices.below(18) {
        0 | 1 => write::query(out, TEXTS[choices.below(TEXTS.len())]),
        2 | 3 => write::parse(out, name, TEXTS[choices.below(TEXTS.len())], &[]),
        4 | 5 => write::bind(out, "", name, &[], &[], &[]),
        6 => write::describe(out, b"SP?"[choices.below(3)], name),
        7 => write::execute(out, "", 0),
        8 => write::close(out, b"SP"[choices.below(2)], name),
        9 | 10 => write::sync(out),
        11 => write::flush(out),
        12 => write::copy_data(out, choices.bytes(32)),
        13 => write::copy_done(out),
        14 => write::copy_fail(out, "no"),
        15 => write::password(out, choices.bytes(24)),
        16 => out.extend_from_slice(choices.bytes(48)),
        _ => [write::terminate, write::ssl_request][choices.below(2)](out),
    }
}

/// Ends a server's login.
fn let_in(out: &mut Vec<u8>) {
    write::authentication_ok(out);
    write::parameter_status(out, "TimeZone", "UTC");
    write::backend_key_data(out, 7, &[1, 2, 3, 4]);
    write::ready_for_query(out, TransactionStatus::Idle);
}

/// What a server could answer to the messages that it was sent; sometimes an error, or the start of a COPY.
fn fitting_answer(out: &mut Vec<u8>, sent: &[u8], choices: &mut Choices<'_>) {
    let mut left = sent;
    let mut is_skipping = false;
    while let [tag, a, b, c, d, ..] = *left {
        let bytes = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
        if tag == 0 || bytes > left.len() {
            // A startup packet has no tag.
            return let_in(out);
        }
        left = &left[bytes..];
        match (tag, choices.byte() % 8) {
            (b'S', _) => is_skipping = false,
            _ if is_skipping => continue,
            (b'P' | b'B' | b'E' | b'Q', 7) => {
                write::error(out, &write::Fields::error("42601", "no"));
                is_skipping = tag != b'Q';
            }
            (b'E' | b'Q', 6) => {
                write::copy_response(out, b"GH"[choices.below(2)], 0, &[0]);
                continue;
            }
            (b'E', 5) => write::portal_suspended(out),
            (b'E' | b'Q' | b'c' | b'f', _) => write::command_complete(out, "SELECT 1"),
            (b'P', _) => write::parse_complete(out),
            (b'B', _) => write::bind_complete(out),
            (b'C', _) => write::close_complete(out),
            (b'D', _) => write::no_data(out),
            _ => {}
        }
        if matches!(tag, b'S' | b'Q') {
            write::ready_for_query(out, STATUSES[choices.below(6).saturating_sub(3)]);
        }
    }
}

fn server_message(out: &mut Vec<u8>, choices: &mut Choices<'_>) {
    match choices.below(16) {
        0 | 1 => let_in(out),
        2 | 3 => write::ready_for_query(out, STATUSES[choices.below(3)]),
        4 => write::command_complete(out, "SELECT 1"),
        5 => write::data_row(out, &[Some(choices.bytes(40))]),
        6 => write::parse_complete(out),
        7 => write::bind_complete(out),
        8 => write::close_complete(out),
        9 => write::error(out, &write::Fields::error("42601", "no")),
        10 => write::error(out, &write::Fields::fatal("57P01", "gone")),
        11 => write::copy_response(out, b"GHW"[choices.below(3)], 0, &[0]),
        12 => write::parameter_status(out, "TimeZone", ["UTC", "Asia/Tokyo"][choices.below(2)]),
        13 => write::no_data(out),
        14 => [write::empty_query, write::portal_suspended, write::copy_done][choices.below(3)](out),
        _ => out.extend_from_slice(choices.bytes(48)),
    }
}
