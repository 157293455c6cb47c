//! Golden traces: conversations as text in tests/traces/, played by a worker whose peers say what is written.
//!
//! A line is who, an arrow and a message as [`forebay_pgwire::text`] prints it. `c1 > …`: a client says; `s1 > …`: a
//! server says; `c1 < …`, `s1 < …`: what forebay says to them, in order for each. `s1 lets in` stands for the end of
//! a server's login, `c1 leaves` for a closed socket, `pool 2` at the head for the size of the pool, `session` for that
//! mode, `split` for a primary and a replica that has the reads, `commit_check` for that setting, `extended_only` for
//! `disable_pqexec`. What one says in a row arrives in one piece; an empty line lets forebay speak in between. Each trace is played whole, and again with
//! everything that is said cut in two at every byte. Servers are counted in the order in which forebay connects to
//! them; a connection for a CancelRequest is one of them.
//!
//! `TRACES=write cargo test -p forebay-core traces` writes what forebay says into the files, to be read before it is
//! committed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::text::{self, Side};
use forebay_pgwire::write;

use crate::cluster::progress::Replayed;
use crate::cluster::roles::{Found, Serves};
use crate::command::{Command, CommandId};
use crate::config::{AuthMethod, ClusterConfig, Consistency, PoolMode, Role};
use crate::fuzz_entry::memory::{BUFFER, MemoryIo, Stage, config};
use crate::ids::{ConnId, WorkerId};
use crate::io::{ClosedBy, Peer};
use crate::stats::WorkerStats;
use crate::tables::Tables;
use crate::time::Instant;
use crate::worker::{Shared, Worker};

/// A primary and a replica.
const ENDPOINTS: [&str; 2] = ["127.0.0.1:5432", "127.0.0.1:5433"];

/// A line of a trace that is not forebay's.
enum Line<'t> {
    Comment(&'t str),
    Pool(u32),
    Split,
    Session,
    CommitCheck,
    ExtendedOnly,
    /// Who, the bytes, and the line as written.
    Says(&'t str, Vec<u8>, &'t str),
    Leaves(&'t str, &'t str),
}

/// The lines that are not forebay's own.
fn read(trace: &str) -> Vec<Line<'_>> {
    trace.lines().filter_map(read_line).collect()
}

fn read_line(line: &str) -> Option<Line<'_>> {
    if line.is_empty() || line.starts_with('#') {
        return Some(Line::Comment(line));
    }
    match line {
        "split" => return Some(Line::Split),
        "session" => return Some(Line::Session),
        "commit_check" => return Some(Line::CommitCheck),
        "extended_only" => return Some(Line::ExtendedOnly),
        _ => {}
    }
    let (who, what) = line.split_once(' ').expect("a line is who and what");
    if who == "pool" {
        return Some(Line::Pool(what.parse().expect("the pool has a size")));
    }
    match what.split_once(' ') {
        Some(("<", _)) => None,
        Some((">", message)) => {
            let side = if who.starts_with('c') { "F" } else { "B" };
            let (_, bytes) = text::parse(&format!("{side} {message}")).unwrap_or_else(|e| panic!("{line}: {e}"));
            Some(Line::Says(who, bytes, line))
        }
        Some(("lets", "in")) => Some(Line::Says(who, let_in(), line)),
        None if what == "leaves" => Some(Line::Leaves(who, line)),
        _ => panic!("{line}: not understood"),
    }
}

/// What ends a server's login.
fn let_in() -> Vec<u8> {
    let mut out = Vec::new();
    write::authentication_ok(&mut out);
    for (name, value) in [("TimeZone", "UTC"), ("server_version", "18.0")] {
        write::parameter_status(&mut out, name, value);
    }
    write::backend_key_data(&mut out, 4711, &[1, 2, 3, 4]);
    write::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

/// A connection under its name in the trace.
struct Named {
    conn: ConnId,
    is_open: bool,
    /// The next thing said to it has no tag.
    is_first: bool,
}

struct Stagehand {
    worker: Worker<MemoryIo>,
    io: MemoryIo,
    named: BTreeMap<String, Named>,
    servers: usize,
    played: String,
    /// Where what is said is cut in two; `None`: nowhere.
    cut: Option<usize>,
}

/// Plays the lines and returns the trace with what forebay said.
fn play(lines: &[Line<'_>], cut: Option<usize>) -> String {
    let size = lines.iter().find_map(|line| if let Line::Pool(size) = line { Some(*size) } else { None });
    let is_session = lines.iter().any(|line| matches!(line, Line::Session));
    let mode = if is_session { PoolMode::Session } else { PoolMode::Transaction };
    let mut settings = config(AuthMethod::Trust, mode, size.unwrap_or(1));
    settings.databases[0].checks_commits = lines.iter().any(|line| matches!(line, Line::CommitCheck));
    settings.databases[0].pool.disable_pqexec = lines.iter().any(|line| matches!(line, Line::ExtendedOnly));
    let is_split = lines.iter().any(|line| matches!(line, Line::Split));
    if is_split {
        settings.databases[0].endpoints = ENDPOINTS.map(Arc::from).into();
        settings.databases[0].cluster = Some(ClusterConfig {
            role: Role::Primary,
            is_split,
            read_consistency: Consistency::Session,
            retries_reads: true,
            holds_per_hour_max: 30,
        });
    }
    let tables = Tables::build(settings, None, &mut |out| out.fill(7)).expect("the configuration is sound");
    let worker = Worker::new(WorkerId(0), Arc::new(tables), Arc::new(Shared::new(1)), Arc::new(WorkerStats::default()));
    let named = BTreeMap::new();
    let mut hand = Stagehand { worker, io: MemoryIo::default(), named, servers: 0, played: String::new(), cut };
    hand.worker.tick(&mut hand.io, Instant(1));
    if is_split {
        let found = ENDPOINTS.into_iter().zip([Serves::Writes, Serves::Reads]);
        let found: Vec<_> = found.map(|(name, serves)| Found { name: name.into(), serves }).collect();
        hand.worker.command(
            &mut hand.io,
            CommandId(1),
            Command::Roles("app".into(), found.into(), Replayed::default()),
        );
    }
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        at += 1;
        match line {
            Line::Comment(line) => hand.note(line),
            Line::Pool(size) => hand.note(&format!("pool {size}")),
            Line::Split => hand.note("split"),
            Line::Session => hand.note("session"),
            Line::CommitCheck => hand.note("commit_check"),
            Line::ExtendedOnly => hand.note("extended_only"),
            Line::Leaves(who, line) => {
                hand.note(line);
                hand.leaves(who);
                hand.settle();
            }
            Line::Says(who, bytes, line) => {
                hand.note(line);
                let mut said = bytes.clone();
                // What one says in a row is one piece.
                while let Some(Line::Says(next, more, line)) =
                    lines.get(at).filter(|l| matches!(l, Line::Says(w, ..) if w == who))
                {
                    assert_eq!(next, who);
                    hand.note(line);
                    said.extend_from_slice(more);
                    at += 1;
                }
                hand.says(who, &said);
                hand.settle();
            }
        }
    }
    hand.played
}

impl Stagehand {
    fn note(&mut self, line: &str) {
        writeln!(self.played, "{line}").expect("a string takes all");
    }

    fn says(&mut self, who: &str, bytes: &[u8]) {
        if who.starts_with('c') && !self.named.contains_key(who) {
            let conn = self.io.open_client();
            self.named.insert(who.to_owned(), Named { conn, is_open: true, is_first: false });
            self.worker.accepted(&mut self.io, conn, Peer::Tcp([127, 0, 0, 1].into(), 9));
        }
        let (first, second) = bytes.split_at(self.cut.unwrap_or(0).min(bytes.len()));
        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
            let conn = self.named.get(who).unwrap_or_else(|| panic!("{who} is not there")).conn;
            let is_open = self.io.alive().any(|(alive, c)| alive == conn && c.stage == Stage::Open);
            if is_open {
                self.io.lend(piece);
                self.worker.received(&mut self.io, conn, BUFFER, piece);
                self.io.assert_released();
                self.all_is_written();
                self.worker.turn_end(&mut self.io);
                self.worker.tick(&mut self.io, Instant(1));
            }
        }
    }

    fn leaves(&mut self, who: &str) {
        let named = self.named.get_mut(who).expect("who leaves was there");
        named.is_open = false;
        self.io.end(named.conn);
        self.worker.closed(&mut self.io, named.conn, ClosedBy::Peer);
    }

    fn all_is_written(&mut self) {
        let pending: Vec<_> = self.io.alive().map(|(conn, c)| (conn, c.unreported)).filter(|(_, n)| *n > 0).collect();
        for (conn, bytes) in pending {
            if self.io.alive().any(|(alive, _)| alive == conn) {
                self.io.connection(conn).unreported -= bytes;
                self.worker.sent(&mut self.io, conn, bytes);
            }
        }
    }

    /// Connects the servers that forebay asked for, and notes what it said to everyone.
    fn settle(&mut self) {
        loop {
            let asked = self.io.alive().find(|(_, c)| c.stage == Stage::Connecting).map(|(conn, _)| conn);
            let Some(conn) = asked else { break };
            self.servers += 1;
            self.named.insert(format!("s{}", self.servers), Named { conn, is_open: true, is_first: true });
            self.io.connection(conn).stage = Stage::Open;
            self.worker.connected(&mut self.io, conn);
            self.all_is_written();
        }
        let last_words = std::mem::take(&mut self.io.last_words);
        let mut said = Vec::new();
        for (who, named) in self.named.iter_mut().filter(|(_, named)| named.is_open) {
            let side = if who.starts_with('c') { Side::Backend } else { Side::Frontend };
            let mut bytes = Vec::new();
            if let Some((_, last)) = last_words.iter().find(|(conn, _)| *conn == named.conn) {
                bytes.extend_from_slice(last);
                named.is_open = false;
            } else {
                bytes.append(&mut self.io.connection(named.conn).sent);
            }
            said.extend(lines_of(named, side, &bytes).into_iter().map(|line| format!("{who} < {}", &line[2..])));
            if !named.is_open {
                said.push(format!("{who} < closed"));
            }
        }
        for line in said {
            self.note(&line);
        }
    }
}

fn lines_of(named: &mut Named, side: Side, bytes: &[u8]) -> Vec<String> {
    let mut rest = bytes;
    let mut lines = Vec::new();
    if named.is_first
        && let Some(length) = bytes.first_chunk::<4>()
    {
        let (first, more) = bytes.split_at(u32::from_be_bytes(*length) as usize);
        lines.push(text::print_first(first));
        named.is_first = false;
        rest = more;
    }
    lines.extend(text::print_all(side, rest));
    lines
}

fn traces() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/traces");
    let entries = std::fs::read_dir(folder).expect("the traces are there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a folder can be read").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "trace"));
    paths.sort();
    assert!(paths.len() >= 6, "only {} traces", paths.len());
    paths
}

/// What forebay says in its core cases is agreed on, word for word: whoever changes it must mean it.
#[test]
#[expect(clippy::disallowed_methods, reason = "whoever runs the test says whether to write")]
fn every_trace_plays_as_written() {
    for path in traces() {
        let written = std::fs::read_to_string(&path).expect("a trace can be read");
        let played = play(&read(&written), None);
        if std::env::var_os("TRACES").is_some_and(|value| value == "write") {
            std::fs::write(&path, played).expect("a trace can be written");
            continue;
        }
        assert_eq!(played, written, "{}", path.display());
    }
}

/// TCP cuts where it likes; a client or server must not be able to tell. When it hears something may hang on that: what forebay
/// answers itself travels with the server's answers where the Sync behind it has come by then.
#[test]
fn every_trace_plays_the_same_when_it_is_cut_at_any_byte() {
    for path in traces() {
        let written = std::fs::read_to_string(&path).expect("a trace can be read");
        let lines = read(&written);
        let whole = play(&lines, None);
        for cut in 1..longest(&lines) {
            assert_eq!(heard(&play(&lines, Some(cut))), heard(&whole), "{} cut at {cut}", path.display());
        }
    }
}

/// What each connection heard, in order.
fn heard(played: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut heard: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in played.lines().filter(|line| line.contains(" < ")) {
        heard.entry(line.split(' ').next().unwrap_or_default()).or_default().push(line);
    }
    heard
}

/// The most bytes that one says in a row.
fn longest(lines: &[Line<'_>]) -> usize {
    let (mut most, mut count, mut last) = (0, 0, "");
    for line in lines {
        if let Line::Says(who, bytes, _) = line {
            count = if *who == last { count + bytes.len() } else { bytes.len() };
            last = who;
            most = most.max(count);
        } else {
            last = "";
        }
    }
    most
}
