//! Runs a program on one side and keeps what every step was told.

use std::io;
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::event::{Event, Heard, NO_ANSWER, NOT_CONNECTED, NOT_GIVEN_BACK};
use crate::feature::Feature;
use crate::lane::{Lane, Side};
use crate::program::{Action, Cancel, Leave, Message, POOLS, Program, Startup, Step, UNIQUE};

/// How long forebay may take to pass a notification on; only one that is missing is waited for so long.
const HEARING_MAX: Duration = Duration::from_secs(5);

/// How long forebay may take to clean up behind a client that left.
const CLEANING_MAX: Duration = Duration::from_secs(6);

/// Stands with the tables' contents where servers were not cleaned.
pub(crate) const NOT_CLEANED: &str = "cleaning: what clients held was not given back in time";

/// Texts that leave something behind which only one server has.
const PINS: &[&str] = &[
    "temp ",
    "temporary",
    "pg_temp",
    "temp_inside",
    "advisory_lock",
    "lock_inside",
    "with hold",
    "nextval",
    "setval",
    "next_inside",
    "setseed",
    "prepare_inside",
    "listen_inside",
    "listen ",
    "on commit",
    "load '",
    "session authorization",
    "session_authorization",
];

/// Texts that leave what no DISCARD takes out of a session.
const LASTING: &[&str] = &["setseed", "load '"];

/// What one side told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// Answers to the logins of the clients that a program begins with.
    pub(crate) logins: Vec<Vec<Event>>,
    /// What each step was told.
    pub(crate) outcomes: Vec<Outcome>,
    /// What the tables hold at the end, one line for each.
    pub(crate) contents: Vec<String>,
}

/// What came of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// What its client was told.
    pub(crate) events: Vec<Event>,
    /// Clients other than the step's that held a server when it began.
    pub(crate) holders: usize,
    /// Advisory locks held when the step's client had left.
    pub(crate) locks: usize,
    /// Other clients in a transaction when the step began.
    pub(crate) transactions: usize,
    /// Whether its client held something when the step began.
    pub(crate) is_holding: bool,
    /// What its client had been told by others when the step ended, and no step had asked for yet.
    pub(crate) heard: usize,
}

impl Run {
    /// The smallest pool in which no step had to wait for another client, and at least `planned`.
    pub(crate) fn pool(&self, planned: usize) -> usize {
        let needed = self.outcomes.iter().map(|outcome| outcome.holders + 1).max().unwrap_or(1);
        let fits = |size: &usize| *size >= needed.max(planned);
        POOLS.into_iter().find(fits).unwrap_or(POOLS[POOLS.len() - 1])
    }
}

/// A program on a side, with what has come of it so far.
struct Player<'a> {
    lane: &'a mut Lane,
    side: Side,
    program: &'a Program,
    pool: usize,
    unique: &'a str,
    /// What the direct side was told, when this is the other one.
    direct: Option<&'a Run>,
    connections: Vec<Option<Connection>>,
    /// What each client asked for in its startup message.
    startups: Vec<Startup>,
    /// Whose random numbers are known: setseed() has been run.
    sown: Vec<bool>,
    pinned: Vec<bool>,
    /// Who did something that no DISCARD undoes.
    lasting: Vec<bool>,
    /// Processes that logins named, and whose they were.
    pids: Vec<(u32, usize)>,
    run: Run,
}

/// Runs a program on PostgreSQL itself.
pub(crate) fn run_direct(lane: &mut Lane, program: &Program, unique: &str) -> io::Result<Run> {
    play(lane, Side::Direct, program, 0, unique, None)
}

/// Runs a program through a pool of `pool` servers; `direct` says where to wait for what.
pub(crate) fn run_pooled(
    lane: &mut Lane,
    program: &Program,
    pool: usize,
    unique: &str,
    direct: &Run,
) -> io::Result<Run> {
    play(lane, Side::Pooled, program, pool, unique, Some(direct))
}

fn play(
    lane: &mut Lane,
    side: Side,
    program: &Program,
    pool: usize,
    unique: &str,
    direct: Option<&Run>,
) -> io::Result<Run> {
    let clients = program.steps.iter().map(|step| step.client + 1).max().unwrap_or(0).max(program.clients.len());
    let mut player = Player {
        lane,
        side,
        program,
        pool,
        unique,
        direct,
        connections: (0..clients).map(|_| None).collect(),
        startups: vec![Startup::new(); clients],
        sown: vec![false; clients],
        pinned: vec![false; clients],
        lasting: vec![false; clients],
        pids: Vec::new(),
        run: Run::default(),
    };
    player.log_in()?;
    for (at, step) in program.steps.iter().enumerate() {
        let outcome = player.step(at, step)?;
        player.run.outcomes.push(outcome);
    }
    player.end()
}

impl Player<'_> {
    /// All clients at once: a server takes milliseconds to greet one.
    fn log_in(&mut self) -> io::Result<()> {
        for (client, startup) in self.program.clients.iter().enumerate() {
            self.connections[client] = Some(self.lane.open(self.side, self.program, self.pool, startup)?);
            self.startups[client].clone_from(startup);
        }
        for client in 0..self.program.clients.len() {
            let events = self.greet(client);
            self.run.logins.push(events);
        }
        Ok(())
    }

    fn greet(&mut self, client: usize) -> Vec<Event> {
        let Some(connection) = &mut self.connections[client] else { return Vec::new() };
        let events = connection.log_in();
        self.pids.push((connection.pid(), client));
        events
    }

    fn step(&mut self, at: usize, step: &Step) -> io::Result<Outcome> {
        let known = self.direct.and_then(|run| run.outcomes.get(at));
        let mut outcome = self.before(step);
        match &step.action {
            Action::Send(messages) => {
                self.hear_before(step, known);
                outcome.events = self.send(step.client, messages);
            }
            Action::Connect(startup) => {
                if self.connections[step.client].as_ref().is_none_or(|connection| !connection.is_open()) {
                    let opened = self.lane.open(self.side, self.program, self.pool, startup)?;
                    self.connections[step.client] = Some(opened);
                    self.startups[step.client].clone_from(startup);
                    self.sown[step.client] = false;
                    outcome.events = self.greet(step.client);
                }
            }
            Action::Leave(how) => {
                self.leave(step.client, *how);
                self.wait_for_cleaning(&mut outcome, known)?;
            }
            Action::Cancel(when) => outcome.events = self.cancel(step.client, *when),
            Action::Listen => {
                let wanted = known.map_or(0, |known| told_count(&known.events));
                outcome.events = self.listen(step.client, wanted);
            }
            Action::Noise { messages, leave } => {
                let is_room = known.is_some_and(|known| known.holders < self.pool);
                if self.side == Side::Pooled && is_room {
                    outcome.events = self.make_noise(step.client, messages, *leave)?;
                }
            }
        }
        outcome.heard = self.connections[step.client].as_ref().map_or(0, Connection::heard_count);
        self.note_pins(step);
        self.hide_random(step, &mut outcome.events);
        let unique = self.unique;
        outcome.events = outcome.events.into_iter().map(|event| event.replaced(unique, UNIQUE)).collect();
        Ok(outcome)
    }

    /// Who holds what before a step.
    fn before(&self, step: &Step) -> Outcome {
        let mut outcome = Outcome::default();
        for client in 0..self.program.clients.len() {
            let is_begun = self.connections[client].as_ref().is_some_and(Connection::is_holding);
            if client == step.client {
                outcome.is_holding = is_begun || self.pinned[client];
            } else {
                outcome.holders += usize::from(is_begun || self.pinned[client]);
                outcome.transactions += usize::from(is_begun);
            }
        }
        outcome
    }

    fn send(&mut self, client: usize, messages: &[Message]) -> Vec<Event> {
        match &mut self.connections[client] {
            Some(connection) => connection.send(messages, self.unique),
            None => vec![Event::Other(NOT_CONNECTED.to_owned())],
        }
    }

    /// A client that stops listening is told no more of what is on its way, which with forebay is a moment longer. What
    /// PostgreSQL has told it by then is waited for.
    fn hear_before(&mut self, step: &Step, known: Option<&Outcome>) {
        let removes = step.mentions("unlisten") || step.mentions("discard all");
        if let (true, Some(known), Some(connection)) = (removes, known, &mut self.connections[step.client]) {
            connection.hear(known.heard, HEARING_MAX);
        }
    }

    fn leave(&mut self, client: usize, how: Leave) {
        if let Some(mut connection) = self.connections[client].take() {
            if self.side == Side::Direct && how == Leave::Terminate && connection.status() == b'I' {
                self.lane.take_back(connection, self.program, &self.startups[client]);
            } else {
                connection.close(how == Leave::Terminate);
            }
        }
    }

    /// A server is cleaned after its client has gone; the next step must not see it half done, as that is no defect.
    fn wait_for_cleaning(&mut self, outcome: &mut Outcome, known: Option<&Outcome>) -> io::Result<()> {
        let Some(known) = known else {
            if outcome.is_holding {
                outcome.locks = self.lane.held(Side::Direct)?.1;
            }
            return Ok(());
        };
        if known.is_holding && !self.is_cleaned(known.transactions, known.locks)? {
            outcome.events.push(Event::Other(NOT_GIVEN_BACK.to_owned()));
        }
        Ok(())
    }

    /// Waits until forebay's servers hold no more than that.
    fn is_cleaned(&mut self, transactions_max: usize, locks_max: usize) -> io::Result<bool> {
        let since = Instant::now();
        loop {
            let (transactions, locks) = self.lane.held(Side::Pooled)?;
            if transactions <= transactions_max && locks <= locks_max {
                return Ok(true);
            }
            if since.elapsed() > CLEANING_MAX {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn cancel(&mut self, client: usize, when: Cancel) -> Vec<Event> {
        let Some(connection) = &mut self.connections[client] else { return Vec::new() };
        match when {
            Cancel::Now => connection.cancel_running("SELECT pg_sleep(9)"),
            Cancel::Late => {
                let events = connection.send(&[Message::Query("SELECT 'not cancelled'".to_owned())], "");
                connection.request_cancel();
                events
            }
            // Within a transaction it would be a matter of time whether that fails.
            Cancel::Racing if connection.status() == b'I' => connection.cancel_racing(),
            Cancel::Racing => Vec::new(),
        }
    }

    /// An empty Query brings what is there already; what is on its way is waited for.
    fn listen(&mut self, client: usize, wanted: usize) -> Vec<Event> {
        let Some(connection) = &mut self.connections[client] else { return Vec::new() };
        let mut events = connection.send(&[Message::Query(String::new())], "");
        connection.hear(wanted, HEARING_MAX);
        for heard in connection.take_heard() {
            events.push(heard.from(&sender(&self.pids, &heard)));
        }
        events
    }

    fn make_noise(&mut self, client: usize, messages: &[Message], leave: Option<Leave>) -> io::Result<Vec<Event>> {
        if self.connections[client].as_ref().is_none_or(|connection| !connection.is_open()) {
            let mut opened = self.lane.open(self.side, self.program, self.pool, &Vec::new())?;
            opened.log_in();
            self.connections[client] = Some(opened);
        }
        let mut events = self.send(client, messages);
        // Of noise only this is of interest: that it comes to an end.
        events.retain(|event| matches!(event, Event::Other(text) if text == NO_ANSWER));
        if let Some(how) = leave {
            self.leave(client, how);
        }
        Ok(events)
    }

    /// Random numbers that no seed determines are no one's to compare.
    fn hide_random(&mut self, step: &Step, events: &mut [Event]) {
        let has_failed =
            events.iter().any(|event| matches!(event, Event::Report(report) if report.severity == "ERROR"));
        let is_sown = &mut self.sown[step.client];
        *is_sown |= step.mentions("setseed(") && !has_failed;
        if step.mentions("random()") && !*is_sown {
            for event in events.iter_mut().filter(|event| matches!(event, Event::Row(_))) {
                *event = Event::Row(vec![Some("any number".to_owned())]);
            }
        }
    }

    fn note_pins(&mut self, step: &Step) {
        let is_open = self.connections[step.client].as_ref().is_some_and(Connection::is_open);
        let is_idle = self.connections[step.client].as_ref().is_some_and(|connection| connection.status() == b'I');
        let is_discarded = is_idle && matches!(step.messages(), [Message::Query(sql)] if sql == "DISCARD ALL");
        let is_lasting = LASTING.iter().any(|word| step.mentions(word));
        self.lasting[step.client] = is_open && (self.lasting[step.client] || is_lasting);
        if !is_open || is_discarded {
            self.pinned[step.client] = self.lasting[step.client];
        } else if !step.is_noise() && (PINS.iter().any(|word| step.mentions(word)) || hides_prepare(step)) {
            self.pinned[step.client] = true;
        }
    }

    fn end(mut self) -> io::Result<Run> {
        // What a noisy session holds at its end is cleaned behind it as well.
        let mut is_to_be_cleaned = self.program.steps.iter().any(Step::is_noise);
        for client in 0..self.connections.len() {
            let Some(mut connection) = self.connections[client].take() else { continue };
            let is_holding = self.pinned[client] || connection.is_holding();
            is_to_be_cleaned |= is_holding;
            match self.side {
                Side::Direct => self.lane.take_back(connection, self.program, &self.startups[client]),
                // Only a session that holds something must be gone before the tables are put back.
                Side::Pooled if is_holding => connection.close(true),
                Side::Pooled => connection.say_goodbye(),
            }
        }
        let is_prepared = self.program.steps.iter().any(|step| step.mentions("prepare transaction"));
        let prepared = if is_prepared { self.lane.end_prepared(self.side)? } else { Vec::new() };
        let is_cleaned = self.side == Side::Direct || !is_to_be_cleaned || self.is_cleaned(0, 0)?;
        let contents = self.lane.contents(self.side)?;
        let has_made = self.program.steps.iter().any(|s| matches!(s.feature, Feature::Ddl | Feature::Replan));
        self.lane.restore(self.side, &contents, has_made)?;
        self.run.contents = contents.into_iter().map(|line| line.replace(self.unique, UNIQUE)).collect();
        self.run.contents.push(format!("prepared: {}", prepared.join(", ")).replace(self.unique, UNIQUE));
        if !is_cleaned {
            self.run.contents.push(NOT_CLEANED.to_owned());
        }
        Ok(self.run)
    }
}

/// Whether there is a PREPARE in it that is not a Query of its own, so that its name can't be replaced.
fn hides_prepare(step: &Step) -> bool {
    step.messages().iter().any(|message| match message {
        Message::Query(sql) => sql.contains("PREPARE ") && (!sql.starts_with("PREPARE ") || sql.contains("; ")),
        Message::Parse { sql, .. } => sql.starts_with("PREPARE "),
        _ => false,
    })
}

fn sender(pids: &[(u32, usize)], heard: &Heard) -> String {
    let found = pids.iter().rev().find(|(pid, _)| *pid == heard.pid);
    found.map_or_else(|| "an unknown process".to_owned(), |(_, client)| format!("client {client}"))
}

fn told_count(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Told(text) if !text.ends_with("from itself"))).count()
}
