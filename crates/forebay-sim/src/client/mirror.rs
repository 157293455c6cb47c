//! The oracle of one client: a private session of the fake server, fed with what the client sends.
//!
//! Every reply that comes through the pooler must be the next one that the private session gives. Where a fault or a
//! cancel explains a different one, the private session is put into the state that the explanation implies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::client::ledger::FOR_REPLICA;
use crate::hearing::Listening;
use crate::server::replies::ROUTINE;
use crate::server::running::{HORIZON, SEES};
use crate::server::session::Session;
use crate::server::settings::Principal;
use crate::wire::{Cursor, Frame, Front, Tag};

/// What each server reports of itself.
const OF_SERVERS: [&str; 3] = ["in_hot_standby", "server_version", "session_authorization"];

/// What a reply means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As from a private server.
    Expected,
    /// A ReadyForQuery as expected, with effects acknowledged by it.
    Ready(Vec<String>),
    /// What of its own marks a client sees, and which it has been told are there and does not see; and the last record of
    /// anybody's that is there.
    Read { seen: Vec<String>, missing: Vec<String>, horizon: u64, is_asked: bool },
    /// An error that the private session did not give: the caller judges whether anything explains it.
    Deviation { code: String, is_fatal: bool, is_ours: bool, words: String },
    /// Impossible.
    Wrong(String),
}

/// A client's private session.
#[derive(Debug)]
pub(crate) struct Mirror {
    session: Session,
    /// As it was before `current`.
    before: Session,
    current: Option<Front>,
    /// Replies to `current` seen so far.
    matched: usize,
    pending: VecDeque<Front>,
    /// Tags of what was executed since the last ReadyForQuery.
    batch: Vec<Tag>,
    expected: VecDeque<Frame>,
    /// The parameters as reported to the client.
    pub(crate) view: BTreeMap<String, String>,
    /// After a loss the client believes what is reported next.
    is_in_doubt: bool,
    /// How many ReadyForQuery have come.
    pub(crate) readies: u64,
    /// The last of them said that a transaction is open.
    pub(crate) is_in_transaction: bool,
    /// Requests that are yet to be answered by the loss of a transaction that only reads.
    interrupted: u64,
    /// Marks that this session was told are there to stay.
    acknowledged: Vec<String>,
}

impl Mirror {
    pub(crate) fn new(params: &[(String, String)]) -> Result<Mirror, String> {
        let session = Session::new(params)?;
        Ok(Mirror {
            before: session.clone(),
            session,
            current: None,
            matched: 0,
            pending: VecDeque::new(),
            batch: Vec::new(),
            expected: VecDeque::new(),
            view: BTreeMap::new(),
            is_in_doubt: false,
            readies: 0,
            is_in_transaction: false,
            interrupted: 0,
            acknowledged: Vec::new(),
        })
    }

    /// The client sends `message`.
    pub(crate) fn sent(&mut self, message: Front) {
        self.pending.push_back(message);
    }

    /// Whether the client listens to a channel, so that it must hear what is committed now.
    pub(crate) fn listens(&self, channel: &str) -> Listening {
        let is_settled = self.expected.is_empty() && self.pending.is_empty() && !self.session.is_copying();
        match (self.session.hears(channel), self.session.listens(channel)) {
            _ if !is_settled || self.is_in_doubt => Listening::Unknown,
            (true, true) => Listening::Yes,
            // What the transaction has ended it will not hear, unless that is undone.
            (true, false) => Listening::Unknown,
            (false, _) => Listening::No,
        }
    }

    /// Whether the client listens to all that another session does, or did before its last request.
    pub(crate) fn hears_all(&self, other: &Session) -> bool {
        other.channels().all(|channel| self.session.hears(channel) || self.before.hears(channel))
    }

    /// Whether the client listens to anything, or did before its last request.
    pub(crate) fn is_listening(&self) -> bool {
        self.session.channels().next().is_some() || self.before.channels().next().is_some()
    }

    /// Who it may be on its server by now: before its last request, after it, and by what it has sent since. `None`: that
    /// can't be told.
    pub(crate) fn principals(&self) -> Option<BTreeSet<Principal>> {
        let mut seen = BTreeSet::from([self.before.settings.principal(), self.session.settings.principal()]);
        let mut session = self.session.clone();
        for message in &self.pending {
            session.execute(message, None);
            seen.insert(session.settings.principal());
        }
        (!self.is_in_doubt).then_some(seen)
    }

    /// Whether every reply to what was sent has come.
    pub(crate) fn is_settled(&mut self) -> bool {
        self.settle();
        self.expected.is_empty()
    }

    /// Whether COPY data is awaited.
    pub(crate) fn is_copying(&self) -> bool {
        self.expected.is_empty() && self.session.is_copying()
    }

    /// Tags of what the client waits for, for people.
    pub(crate) fn awaited(&self) -> String {
        let next = self.expected.front().map(Frame::show);
        format!("waits for {next:?} of {:?}, {} more messages sent", self.current, self.pending.len())
    }

    /// Tags of the requests under way.
    pub(crate) fn tags_under_way(&self) -> Vec<Tag> {
        let pending = self.pending.iter().flat_map(|message| self.tags_of(message));
        self.batch.iter().copied().chain(pending).collect()
    }

    /// How many ReadyForQuery are due for what has been sent.
    pub(crate) fn requests_under_way(&self) -> u64 {
        let is_end = |m: &&Front| matches!(m, Front::Sync | Front::Query(_) | Front::Function { .. });
        let is_one_due = self.expected.iter().any(|frame| frame.kind == b'Z');
        self.pending.iter().filter(is_end).count() as u64 + u64::from(is_one_due)
    }

    /// Tags in a message, that of the portal that it runs, and those of the statement that it binds: an earlier request
    /// may have made them.
    fn tags_of(&self, message: &Front) -> Vec<Tag> {
        let mut tags = Tag::all_in(&message.encode().body);
        match message {
            Front::Execute { .. } => tags.extend(self.session.stop_of(message).and_then(|(_, tag)| tag)),
            Front::Bind { statement, .. } => tags.extend(self.session.tags_of_statement(statement)),
            _ => {}
        }
        tags
    }

    /// Judges a message from the pooler.
    pub(crate) fn judge(&mut self, frame: &Frame) -> Verdict {
        self.settle();
        match frame.kind {
            b'S' => {
                let mut c = Cursor(&frame.body);
                if let (Some(name), Some(value)) = (c.text(), c.text()) {
                    self.view.insert(name, value);
                }
                Verdict::Expected
            }
            b'N' if frame.field(b'R').as_deref() != Some(ROUTINE) => Verdict::Expected,
            b'E' => self.judge_error(frame),
            _ => match self.expected.front() {
                Some(next) if next == frame => {
                    self.advance();
                    if frame.kind == b'Z' { self.ready() } else { Verdict::Expected }
                }
                Some(next) if is_ledger(next, frame) => {
                    self.advance();
                    self.read(frame)
                }
                next => {
                    let next = next.map_or_else(|| "nothing".to_owned(), Frame::show);
                    Verdict::Wrong(format!("came {}, due was {next} (request: {:?})", frame.show(), self.current))
                }
            },
        }
    }

    /// A fault explains the error that was just judged a deviation.
    pub(crate) fn lose(&mut self) {
        let message = self.current.clone().unwrap_or(Front::Sync);
        self.session = self.before.clone();
        self.expected = without_reports(self.session.lose(&message));
        self.is_in_doubt = true;
    }

    /// A cancel explains the error: the request under way stops.
    ///
    /// Returns false if it had nothing to stop.
    pub(crate) fn stop(&mut self) -> bool {
        let Some(message) = self.current.clone() else { return false };
        let Some((index, _)) = self.before.stop_of(&message) else { return false };
        self.session = self.before.clone();
        let mut replies = without_reports(self.session.execute(&message, Some((index, "57014"))));
        replies.drain(..self.matched.min(replies.len()));
        let is_error = replies.pop_front().is_some_and(|f| f.kind == b'E');
        self.expected = replies;
        self.matched += 1;
        is_error
    }

    /// The request under way fails where it is run, with nothing of it done, whatever was told of how its answer looks.
    ///
    /// Returns false if nothing was run.
    pub(crate) fn fail(&mut self) -> bool {
        let Some(message) = self.current.clone() else { return false };
        let Some((index, _)) = self.before.stop_of(&message) else { return false };
        self.session = self.before.clone();
        let mut replies = without_reports(self.session.execute(&message, Some((index, "57014"))));
        let error = replies.iter().position(|frame| frame.kind == b'E');
        self.expected = replies.split_off(error.map_or(replies.len(), |at| at + 1));
        error.is_some()
    }

    /// Whether the message under way describes a statement in a failed transaction.
    pub(crate) fn describes_after_error(&self) -> bool {
        matches!(self.current, Some(Front::Describe { kind: b'S', .. })) && self.before.status() == b'E'
    }

    /// The pooler refuses what the request under way would do to the session: it fails, and does nothing.
    pub(crate) fn refuse(&mut self) -> bool {
        let Some(message) = self.current.clone() else { return false };
        self.session = self.before.clone();
        let mut replies = without_reports(self.session.refuse(&message));
        let is_first = self.matched == 0 && replies.pop_front().is_some_and(|f| f.kind == b'E');
        self.expected = replies;
        self.matched += 1;
        is_first
    }

    /// What the session knew of the sequence that it asks for is lost with the server that it was on; others it may have
    /// set since, on this one. False: nothing asks for it.
    pub(crate) fn forget_sequences(&mut self) -> bool {
        let Some(message) = self.current.clone().filter(|_| self.asks_for_sequence()) else { return false };
        self.session = self.before.clone();
        if let Front::Query(text) = &message {
            self.session.forget_sequences_in(text);
        }
        let mut replies = without_reports(self.session.execute(&message, None));
        replies.drain(..self.matched.min(replies.len()));
        let is_error = replies.pop_front().is_some_and(|f| f.kind == b'E');
        self.expected = replies;
        self.matched += 1;
        is_error
    }

    /// Whether the request under way asks for what the session knows of a sequence.
    pub(crate) fn asks_for_sequence(&self) -> bool {
        matches!(&self.current, Some(Front::Query(text)) if text.contains("currval"))
    }

    /// Marks that stand or fall with the request under way.
    pub(crate) fn at_stake(&self) -> Vec<String> {
        if self.expected.is_empty() {
            return self.session.inserted.clone();
        }
        let own = [&self.before.inserted, &self.session.inserted, &self.session.committed];
        let mut marks: Vec<String> = own.into_iter().flatten().cloned().collect();
        if !matches!(self.current, Some(Front::Query(_) | Front::Sync) | None) {
            let batch = self.pending.iter().take_while(|message| **message != Front::Sync);
            marks.extend(batch.flat_map(|message| self.tags_of(message)).map(|tag| tag.to_string()));
        }
        marks
    }

    /// Whether the request under way ends a transaction, its own or that of its block; or one that was sent behind it. What
    /// stands behind a ROLLBACK is outside of its block.
    pub(crate) fn may_be_committing(&self) -> bool {
        let begins = |message: &Front, word| self.text_of(message).is_some_and(|text| text.starts_with(word));
        let mut is_outside = self.before.status() == b'I';
        let commits = |message: &Front| {
            let commits = is_outside || begins(message, "commit");
            is_outside |= begins(message, "rollback") && !begins(message, "rollback to");
            commits
        };
        self.current.iter().chain(&self.pending).any(commits) || self.before.status() == b'I'
    }

    /// It is told that a transaction was lost that could only read. Whether that is so: it said that it was READ ONLY, or
    /// `is_told` to be where nothing is written; and it has not written before.
    pub(crate) fn is_interrupted(&mut self, is_told: bool) -> bool {
        let reads = self.before.is_read_only || self.session.is_read_only || is_told;
        if self.before.status() == b'T' && reads && self.before.inserted.is_empty() {
            self.interrupted = self.requests_under_way();
        }
        self.interrupted > 0
    }

    /// The text that a message is about.
    fn text_of<'m>(&'m self, message: &'m Front) -> Option<&'m str> {
        match message {
            Front::Query(text) | Front::Parse { text, .. } => Some(text),
            Front::Bind { statement, .. } => self.session.text_of_statement(statement),
            Front::Execute { portal, .. } => {
                self.before.text_of_portal(portal).or_else(|| self.session.text_of_portal(portal))
            }
            _ => None,
        }
    }

    /// Whether the request under way asks for a replica.
    pub(crate) fn asks_for_replica(&self) -> bool {
        matches!(&self.current, Some(Front::Query(text)) if text.starts_with(FOR_REPLICA))
    }

    fn read(&self, frame: &Frame) -> Verdict {
        let text = text_of_row(frame).unwrap_or_default();
        let (asker, numbers) = text.split_once(SEES).unwrap_or_default();
        let client = Tag::first_in(asker.as_bytes()).map_or(0, |tag| tag.client);
        let (numbers, horizon) = numbers.split_once(HORIZON).unwrap_or((numbers, "0"));
        // Rows go on with a number.
        let horizon = horizon.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let numbers = numbers.split(',').filter_map(|number| number.parse().ok());
        let seen: Vec<String> = numbers.map(|request| Tag { client, request }.to_string()).collect();
        // What no text tells of is a write to nobody, while a replica does not refuse it.
        let is_missing = |mark: &&String| !seen.contains(mark) && !self.session.hidden.contains(mark);
        let missing = self.acknowledged.iter().filter(is_missing).cloned().collect();
        Verdict::Read { seen, missing, horizon, is_asked: self.asks_for_replica() }
    }

    fn judge_error(&mut self, frame: &Frame) -> Verdict {
        let code = frame.field(b'C').unwrap_or_default();
        let severity = frame.field(b'V').or_else(|| frame.field(b'S')).unwrap_or_default();
        if let Some(next) = self.expected.front()
            && next.kind == b'E'
            && (next.field(b'C').as_ref() == Some(&code) || is_other_order(next, &code))
            && next.field(b'V').as_ref() == Some(&severity)
        {
            let (due, came) = (Tag::all_in(&next.body), Tag::all_in(&frame.body));
            if frame.field(b'R').as_deref() == Some(ROUTINE) && due != came {
                return Verdict::Wrong(format!("an error for {came:?} came, due was one for {due:?}"));
            }
            self.advance();
            return Verdict::Expected;
        }
        Verdict::Deviation {
            code,
            is_fatal: severity != "ERROR",
            is_ours: frame.field(b'R').as_deref() != Some(ROUTINE),
            words: frame.words(),
        }
    }

    fn advance(&mut self) {
        self.expected.pop_front();
        self.matched += 1;
    }

    fn ready(&mut self) -> Verdict {
        let is_idle = self.session.status() == b'I';
        if self.is_in_doubt && is_idle {
            self.is_in_doubt = false;
            for (name, value) in &self.view {
                let _ = self.session.settings.set(name, value, false);
            }
            self.session.settings.changes();
        }
        self.batch.clear();
        self.readies += 1;
        self.interrupted = self.interrupted.saturating_sub(1);
        self.is_in_transaction = !is_idle;
        let is_last = self.pending.is_empty() && self.expected.is_empty();
        if is_last && !self.is_in_doubt {
            for (name, due) in self.session.settings.report() {
                let seen = self.view.get(name).map_or("", String::as_str);
                if seen != due && !OF_SERVERS.contains(&name) {
                    return Verdict::Wrong(format!("parameter {name} is {due:?} for it, but {seen:?} was reported"));
                }
            }
        }
        let marks = std::mem::take(&mut self.session.committed);
        self.acknowledged.extend(marks.iter().cloned());
        Verdict::Ready(marks)
    }

    /// Feeds what was sent until a reply is due.
    fn settle(&mut self) {
        while self.expected.is_empty()
            && let Some(message) = self.pending.pop_front()
        {
            self.before = self.session.clone();
            let tags = self.tags_of(&message);
            self.batch.extend(tags);
            self.matched = 0;
            self.expected = without_reports(self.session.execute(&message, None));
            self.current = Some(message);
        }
    }
}

/// In a failed transaction a server that has to be told the statement first refuses that before it counts the
/// parameters of the Bind.
fn is_other_order(due: &Frame, came: &str) -> bool {
    came == "25P02" && due.field(b'C').as_deref() == Some("08P01")
}

/// The text of a row of one column.
fn text_of_row(frame: &Frame) -> Option<String> {
    let mut c = Cursor(&frame.body);
    let (columns, length) = (c.int16()?, c.int32()?);
    let text = c.bytes(usize::try_from(length).ok()?)?;
    (columns == 1).then(|| String::from_utf8_lossy(text).into_owned())
}

/// Whether it is what one who asks for its marks is told; a private server has none.
fn is_ledger(due: &Frame, came: &Frame) -> bool {
    let texts = (due.kind == b'D' && came.kind == b'D').then(|| text_of_row(due).zip(text_of_row(came))).flatten();
    texts.is_some_and(|(due, came)| due.ends_with(SEES) && came.starts_with(&due))
}

/// Parameter reports are judged by their outcome, not by their place.
fn without_reports(frames: Vec<Frame>) -> VecDeque<Frame> {
    frames.into_iter().filter(|f| f.kind != b'S').collect()
}
