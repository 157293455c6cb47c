//! A client over a blocking socket: sends a step's messages in one write, and knows where the answer ends.
//!
//! What is owed is kept in a queue, one item for each message that earns an answer. It says when to stop reading also
//! where no ReadyForQuery comes: after a Flush, in the middle of a COPY, after an error that skips to a Sync.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_pgwire::backend::{BackendKeyData, NotificationResponse, tag};
use forebay_pgwire::frame::{Frames, HEAD_BYTES};
use forebay_pgwire::write;

use crate::encode::{Functions, Names, Owed, encode, is_lasting, sets_custom};
use crate::event::{Event, Heard, NO_ANSWER, NOT_CONNECTED};
use crate::program::Message;
use crate::stream::{Address, Stream};

/// The longest that anything may take to be answered.
const ANSWER_MAX: Duration = Duration::from_secs(12);

/// Longest message of a server; programs earn short ones.
const FRAME_BYTES_MAX: u32 = 16 << 20;

/// A session as its client sees it.
pub(crate) struct Connection {
    stream: Stream,
    address: Address,
    received: Vec<u8>,
    owed: VecDeque<Owed>,
    /// Ends of copies sent that no CopyInResponse has come for.
    copy_ends: usize,
    is_copying: bool,
    /// After an error that no Sync has followed yet: the server ignores what comes.
    is_skipping: bool,
    /// After messages of the extended protocol that no Sync has followed yet.
    is_in_batch: bool,
    is_open: bool,
    status: u8,
    pid: u32,
    key: Vec<u8>,
    heard: Vec<Heard>,
    /// What was sent since the transaction began.
    said: Vec<u8>,
    /// The answer to the login of a session that is used again.
    greeting: Option<Vec<Event>>,
    /// Whether a setting with a dot may have been set in it.
    has_custom: bool,
    /// Whether something may have been done in it that nothing undoes.
    has_lasting: bool,
    /// Oids of functions.
    functions: Arc<Functions>,
}

impl Connection {
    /// Connects and sends the startup packet; [`log_in`](Connection::log_in) reads the answer.
    pub(crate) fn open(
        address: &Address,
        user: &str,
        database: &str,
        startup: &[(String, String)],
    ) -> io::Result<Connection> {
        let mut stream = address.connect(ANSWER_MAX)?;
        let mut out = Vec::with_capacity(128);
        let own = [("user", user), ("database", database)];
        let given = startup.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        write::startup(&mut out, (3, 0), own.into_iter().chain(given));
        stream.write_all(&out)?;
        stream.flush()?;
        Ok(Connection {
            stream,
            address: address.clone(),
            received: Vec::new(),
            owed: VecDeque::from([Owed::Query]),
            copy_ends: 0,
            is_copying: false,
            is_skipping: false,
            is_in_batch: false,
            is_open: true,
            status: b'I',
            pid: 0,
            key: Vec::new(),
            heard: Vec::new(),
            said: Vec::new(),
            greeting: None,
            has_custom: false,
            has_lasting: false,
            functions: Arc::default(),
        })
    }

    /// Calls functions of these oids from here on.
    pub(crate) fn with_functions(mut self, functions: &Arc<Functions>) -> Connection {
        self.functions = functions.clone();
        self
    }

    /// Reads what the startup packet is answered: settings in order of their names, or the refusal.
    pub(crate) fn log_in(&mut self) -> Vec<Event> {
        if let Some(greeting) = &self.greeting {
            return greeting.clone();
        }
        let mut events = self.read_answer();
        events.retain(|event| !matches!(event, Event::Other(text) if text == "R" || text == "K"));
        events.sort_by_key(|event| !matches!(event, Event::Setting { .. }));
        let settings = events.iter().take_while(|event| matches!(event, Event::Setting { .. })).count();
        events[..settings].sort();
        self.greeting = Some(events.clone());
        events
    }

    /// Ends its transaction and brings the session back to its start. False: it must not be used again.
    pub(crate) fn renew(&mut self) -> bool {
        let is_answered = self.is_open && self.owed.is_empty() && !(self.is_copying || self.is_in_batch);
        if !is_answered || self.is_skipping || self.has_lasting || self.greeting.is_none() {
            return false;
        }
        let all = ["ROLLBACK", "RESET ROLE", "DISCARD ALL"];
        let words = if self.status == b'I' { &all[1..] } else { &all[..] };
        let messages: Vec<_> = words.iter().map(|sql| Message::Query((*sql).to_owned())).collect();
        let events = self.send(&messages, "");
        self.heard.clear();
        let done = events.iter().filter(|event| matches!(event, Event::Done(_))).count();
        self.is_open && done == words.len() && self.status == b'I'
    }

    /// Sends messages in one write and reads to the end of what they are answered.
    pub(crate) fn send(&mut self, messages: &[Message], unique: &str) -> Vec<Event> {
        if !self.is_open {
            return vec![Event::Other(NOT_CONNECTED.to_owned())];
        }
        self.copy_ends = 0;
        if self.status == b'I' && self.owed.is_empty() && !self.is_in_batch {
            self.said.clear();
        }
        let mut out = Vec::with_capacity(256);
        for message in messages {
            self.encode(&mut out, message, unique);
        }
        if self.write(&out).is_err() {
            // What the server said before it closed is still to be read.
            let mut events = self.read_answer();
            if self.is_open {
                self.is_open = false;
                events.push(Event::Closed);
            }
            return events;
        }
        self.read_answer()
    }

    /// In one write.
    fn write(&mut self, out: &[u8]) -> io::Result<()> {
        self.said.extend_from_slice(out);
        self.stream.write_all(out)?;
        self.stream.flush()
    }

    fn encode(&mut self, out: &mut Vec<u8>, message: &Message, unique: &str) {
        self.has_custom |= sets_custom(message);
        self.has_lasting |= is_lasting(message);
        let owed = encode(out, message, &Names { unique, functions: &self.functions });
        match message {
            Message::Sync => self.is_skipping = false,
            Message::CopyDone | Message::CopyFail(_) if !std::mem::take(&mut self.is_copying) => self.copy_ends += 1,
            _ => {}
        }
        if let Some(owed) = owed {
            self.is_in_batch = !matches!(owed, Owed::Query | Owed::Sync);
        }
        if !self.is_skipping {
            self.owed.extend(owed);
        }
    }

    /// Reads until nothing more is owed that could come.
    fn read_answer(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let since = Instant::now();
        while self.is_open && !self.owed.is_empty() && !self.is_copying {
            if !self.take_frames(&mut events) && !self.receive(&mut events, since) {
                break;
            }
        }
        events
    }

    /// Takes the frames that have been received; stops where the answer ends. Returns whether there was one.
    fn take_frames(&mut self, events: &mut Vec<Event>) -> bool {
        let received = std::mem::take(&mut self.received);
        let mut taken = 0;
        for frame in Frames::new(&received, FRAME_BYTES_MAX) {
            let Ok((head, body)) = frame else {
                events.push(Event::Other("impossible frame".to_owned()));
                self.is_open = false;
                break;
            };
            taken += body.len() + HEAD_BYTES;
            self.take(head.tag, body, events);
        }
        self.received = received;
        self.received.drain(..taken);
        taken > 0
    }

    fn take(&mut self, tag: u8, body: &[u8], events: &mut Vec<Event>) {
        match tag {
            tag::BACKEND_KEY_DATA => {
                if let Ok(data) = BackendKeyData::decode(body) {
                    (self.pid, self.key) = (data.pid, data.key.to_vec());
                }
            }
            tag::NOTIFICATION_RESPONSE => {
                if let Ok(told) = NotificationResponse::decode(body) {
                    let heard = Heard::new(told.pid, told.channel, told.payload);
                    // PostgreSQL tells a session of its own NOTIFY before ReadyForQuery; of others' at any time, and of
                    // those forebay may name the wrong sender, this one too.
                    if told.pid == self.pid && self.has_said(told.payload) {
                        events.push(heard.from("itself"));
                    } else {
                        self.heard.push(heard);
                    }
                }
                return;
            }
            tag::READY_FOR_QUERY => self.status = body.first().copied().unwrap_or(b'?'),
            _ => {}
        }
        self.settle(tag);
        events.push(Event::decode(tag, body));
    }

    /// Whether the payload stands in what was sent since the transaction began.
    fn has_said(&self, payload: &[u8]) -> bool {
        payload.is_empty() || self.said.windows(payload.len()).any(|part| part == payload)
    }

    /// Crosses off what `tag` answers.
    fn settle(&mut self, tag: u8) {
        let front = self.owed.front().copied();
        let is_answered = match tag {
            tag::PARSE_COMPLETE => front == Some(Owed::Parse),
            tag::BIND_COMPLETE => front == Some(Owed::Bind),
            tag::CLOSE_COMPLETE => front == Some(Owed::Close),
            tag::ROW_DESCRIPTION | tag::NO_DATA => front == Some(Owed::Describe),
            tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED => front == Some(Owed::Execute),
            tag::READY_FOR_QUERY => true,
            tag::COPY_IN_RESPONSE => {
                self.is_copying = self.copy_ends == 0;
                self.copy_ends = self.copy_ends.saturating_sub(1);
                if self.is_copying {
                    // Every Sync that was sent stands before the end of the data, where the server ignores it.
                    self.owed.retain(|owed| *owed != Owed::Sync);
                }
                false
            }
            tag::ERROR_RESPONSE => {
                self.is_copying = false;
                while self.owed.front().is_some_and(|owed| !matches!(owed, Owed::Query | Owed::Sync)) {
                    self.owed.pop_front();
                }
                self.is_skipping = self.owed.is_empty();
                false
            }
            _ => false,
        };
        if is_answered {
            self.owed.pop_front();
        }
    }

    /// Receives more; `false` once there is no more to come.
    fn receive(&mut self, events: &mut Vec<Event>, since: Instant) -> bool {
        let mut chunk = [0_u8; 16 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => events.push(Event::Closed),
            Ok(count) if since.elapsed() < ANSWER_MAX => {
                self.received.extend_from_slice(&chunk[..count]);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Ok(_) | Err(_) if since.elapsed() >= ANSWER_MAX => events.push(Event::Other(NO_ANSWER.to_owned())),
            Ok(_) | Err(_) => events.push(Event::Closed),
        }
        self.is_open = false;
        false
    }

    /// Starts `sql`, asks for it to be cancelled until it is, and reads the answer.
    pub(crate) fn cancel_running(&mut self, sql: &str) -> Vec<Event> {
        // A server that is still being opened would have the request cancelled while it waits, with other words.
        self.send(&[Message::Query("SELECT 1".to_owned())], "");
        let mut out = Vec::new();
        write::query(&mut out, sql);
        if !self.is_open || self.write(&out).is_err() {
            return vec![Event::Other(NOT_CONNECTED.to_owned())];
        }
        self.owed.push_back(Owed::Query);
        let mut pause = Duration::from_millis(3);
        let mut peeked = [0; 1];
        // A request that comes before the statement began is ignored, as it should be; so it is made again.
        for _ in 0..10 {
            let _ = self.stream.socket().set_read_timeout(Some(pause));
            if self.stream.socket().peek(&mut peeked).is_ok() {
                break;
            }
            self.request_cancel();
            pause = (pause * 3).min(Duration::from_millis(300));
        }
        let _ = self.stream.socket().set_read_timeout(Some(ANSWER_MAX));
        let mut events = self.read_answer();
        // Whether the statement came so far as to describe its row is a matter of time.
        events.retain(|event| !matches!(event, Event::Columns(_)));
        events
    }

    /// Starts a short statement and asks for it to be cancelled about when it ends: it may be, or not. Only whether a
    /// transaction is open then is told.
    pub(crate) fn cancel_racing(&mut self) -> Vec<Event> {
        let mut out = Vec::new();
        write::query(&mut out, "SELECT pg_sleep(0.0004)");
        if !self.is_open || self.write(&out).is_err() {
            return vec![Event::Other(NOT_CONNECTED.to_owned())];
        }
        self.owed.push_back(Owed::Query);
        let asked = self.ask_for_cancel();
        let mut events = self.read_answer();
        events.retain(|event| matches!(event, Event::Ready(_) | Event::Closed));
        if let Some(asked) = asked {
            wait_for_end(asked);
        }
        events
    }

    /// Sends a cancel request and waits until its connection is closed.
    pub(crate) fn request_cancel(&self) {
        if let Some(asked) = self.ask_for_cancel() {
            wait_for_end(asked);
        }
    }

    /// Sends a cancel request.
    fn ask_for_cancel(&self) -> Option<Stream> {
        let mut out = Vec::new();
        write::cancel_request(&mut out, self.pid, &self.key);
        let mut stream = self.address.connect(ANSWER_MAX).ok()?;
        stream.write_all(&out).ok()?;
        stream.flush().ok()?;
        Some(stream)
    }

    /// Ends the connection and does not wait.
    pub(crate) fn say_goodbye(&mut self) {
        let mut out = Vec::new();
        write::terminate(&mut out);
        let _ = self.write(&out);
        self.stream.finish(true);
        self.is_open = false;
    }

    /// Ends the connection and waits until the other side has ended it as well.
    pub(crate) fn close(&mut self, is_polite: bool) {
        if !self.is_open {
            return;
        }
        self.is_open = false;
        if is_polite {
            let mut out = Vec::new();
            write::terminate(&mut out);
            let _ = self.write(&out);
        }
        self.stream.finish(is_polite);
        let mut rest = [0; 4096];
        while matches!(self.stream.read(&mut rest), Ok(count) if count > 0) {}
    }

    /// What it was told on its channels since it was last asked.
    pub(crate) fn take_heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    /// How much that is.
    pub(crate) fn heard_count(&self) -> usize {
        self.heard.len()
    }

    /// Waits until it was told `count` things, or for `longest`.
    pub(crate) fn hear(&mut self, count: usize, longest: Duration) {
        let since = Instant::now();
        let mut events = Vec::new();
        while self.is_open && self.heard.len() < count && since.elapsed() < longest {
            let _ = self.stream.socket().set_read_timeout(Some(Duration::from_millis(20)));
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => self.is_open = false,
                Ok(bytes) => self.received.extend_from_slice(&chunk[..bytes]),
                Err(_) => {}
            }
            self.take_frames(&mut events);
        }
        let _ = self.stream.socket().set_read_timeout(Some(ANSWER_MAX));
    }

    /// Whether a setting with a dot may have been set in it.
    pub(crate) fn has_custom(&self) -> bool {
        self.has_custom
    }

    /// What a ReadyForQuery said last.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }

    /// Whether it holds a server by what it has begun: a transaction, a copy, a batch without a Sync.
    pub(crate) fn is_holding(&self) -> bool {
        self.is_open && (self.status != b'I' || self.is_copying || !self.owed.is_empty() || self.is_in_batch)
    }

    /// Whether the session is alive.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The process that its login named.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

/// Waits until the other side has closed a connection.
fn wait_for_end(mut stream: Stream) {
    let _ = stream.read(&mut [0; 16]);
}
