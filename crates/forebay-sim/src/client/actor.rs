//! A fake client at work: its program, its connection, and what it makes of each message.

use std::collections::VecDeque;

use forebay_core::auth::{LoginRules, Secret, ServerLogin, ServerSecret, ServerStep, salt_password};

use crate::client::mirror::{Mirror, Verdict};
use crate::client::program::{CancelPlan, Leave, Step};
use crate::net::LinkId;
use crate::rng::Rng;
use crate::wire::{Cursor, Frame, Front, Opening, Splitter};

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not connected; `program` says whether it will be.
    Away,
    /// Asked for TLS, which the simulated listener refuses.
    Asking,
    LoggingIn,
    Ready,
    /// Was told that its session is over.
    Dismissed,
    /// Ends its session by itself.
    Leaving,
    Done,
}

/// What the client wants the world to do.
#[derive(Debug)]
pub(crate) enum Act {
    Connect,
    Write(Vec<u8>),
    Cancel(CancelPlan),
    /// Come back after so many microseconds.
    Rest(u64),
    Leave(Leave),
    Finished,
}

/// What a message from the pooler was.
#[derive(Debug)]
pub(crate) enum Seen {
    Fine,
    /// To be written back.
    Answer(Vec<u8>),
    /// These effects were acknowledged.
    Acknowledged(Vec<String>),
    /// It has read what of its marks is there.
    Read {
        seen: Vec<String>,
        missing: Vec<String>,
        horizon: u64,
        is_asked: bool,
    },
    /// Somebody has notified.
    Notified {
        channel: String,
        payload: String,
    },
    Deviation {
        code: String,
        is_fatal: bool,
        is_ours: bool,
        words: String,
    },
    Wrong(String),
}

/// Who a client is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) id: u32,
    pub(crate) database: String,
    pub(crate) user: String,
    /// As whom the pooler logs in to the database for it.
    pub(crate) server_user: String,
    pub(crate) password: String,
    /// The password is wrong: it must not get in.
    pub(crate) is_impostor: bool,
    /// The protocol version it asks for.
    pub(crate) version: i32,
    pub(crate) asks_tls: bool,
    /// It keeps things in its session.
    pub(crate) is_owner: bool,
    pub(crate) params: Vec<(String, String)>,
}

impl Identity {
    /// What its private session begins with.
    fn session_params(&self) -> Vec<(String, String)> {
        let user = ("user".to_owned(), self.server_user.clone());
        self.params.iter().cloned().chain([user]).collect()
    }
}

/// A fake client.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) who: Identity,
    pub(crate) link: Option<LinkId>,
    pub(crate) stage: Stage,
    pub(crate) mirror: Mirror,
    /// It has sent what may end listening to something, and when.
    pub(crate) unlistens_from: Option<u64>,
    pub(crate) splitter: Splitter,
    /// Process id and key, as the pooler gave them.
    pub(crate) key: Option<(i32, Vec<u8>)>,
    login: Option<ServerLogin>,
    luck: Rng,
    program: VecDeque<Step>,
    tail: Vec<Front>,
    /// The last step waits for its replies.
    is_waiting: bool,
    /// Ends what was begun, if the server does not ask for COPY data.
    owes_sync: bool,
    /// Grows when statements may have been lost, so that names are not used again.
    epoch: u32,
    lost_unnamed: bool,
    /// A deviation is explained by a fault until then.
    pub(crate) hit_until: u64,
    pub(crate) refusals: u32,
    /// Since when a reply is due.
    pub(crate) due_since: Option<u64>,
    /// It reads nothing before that time.
    pub(crate) dozes_until: u64,
    /// It does nothing before that time.
    pub(crate) rests_until: u64,
}

impl Actor {
    pub(crate) fn new(who: Identity, program: Vec<Step>, luck: Rng) -> Result<Actor, String> {
        Ok(Actor {
            mirror: Mirror::new(&who.session_params())?,
            who,
            link: None,
            unlistens_from: None,
            stage: Stage::Away,
            splitter: Splitter::default(),
            key: None,
            login: None,
            luck,
            program: program.into(),
            tail: Vec::new(),
            is_waiting: false,
            owes_sync: false,
            epoch: 0,
            lost_unnamed: false,
            hit_until: 0,
            refusals: 0,
            due_since: None,
            dozes_until: 0,
            rests_until: 0,
        })
    }

    /// What it does next; empty while it waits for replies.
    pub(crate) fn proceed(&mut self) -> Vec<Act> {
        match self.stage {
            Stage::Away => self.come_back(),
            Stage::Ready => self.step(),
            _ => vec![],
        }
    }

    /// The connection is there: the first bytes.
    pub(crate) fn open(&mut self) -> Vec<u8> {
        self.splitter = Splitter::default();
        self.key = None;
        self.login = None;
        self.is_waiting = false;
        self.owes_sync = false;
        self.tail.clear();
        self.stage = if self.who.asks_tls { Stage::Asking } else { Stage::LoggingIn };
        if self.who.asks_tls { Opening::Ssl.encode().encode() } else { self.startup() }
    }

    /// The connection ended. The program goes on with a new session, or is over.
    pub(crate) fn lost(&mut self) {
        self.link = None;
        self.due_since = None;
        if self.stage != Stage::Done {
            self.stage = Stage::Away;
            self.epoch += 1;
        }
    }

    /// It gives up.
    pub(crate) fn despair(&mut self) {
        self.program.clear();
        self.refusals = u32::MAX / 2;
    }

    /// A fault took the session in the middle of its program: after a pause it tries again.
    pub(crate) fn retry(&mut self) {
        self.refusals += 1;
        let is_patient = self.refusals < 40;
        if is_patient && !matches!(self.program.front(), Some(Step::Return | Step::Think(_))) {
            self.program.push_front(Step::Return);
            self.program.push_front(Step::Think(20_000));
        } else if !is_patient {
            self.program.clear();
        }
    }

    /// Judges a message.
    pub(crate) fn see(&mut self, frame: &Frame) -> Seen {
        if self.stage == Stage::Ready && frame.kind == b'A' {
            return see_notification(frame);
        }
        match self.stage {
            Stage::LoggingIn => self.see_login(frame),
            Stage::Dismissed | Stage::Leaving | Stage::Done => Seen::Fine,
            _ => match self.mirror.judge(frame) {
                Verdict::Expected => Seen::Fine,
                Verdict::Ready(marks) => {
                    self.refusals = 0;
                    Seen::Acknowledged(marks)
                }
                Verdict::Read { seen, missing, horizon, is_asked } => Seen::Read { seen, missing, horizon, is_asked },
                Verdict::Deviation { code, is_fatal, is_ours, words } => {
                    Seen::Deviation { code, is_fatal, is_ours, words }
                }
                Verdict::Wrong(words) => Seen::Wrong(words),
            },
        }
    }

    /// The one byte that answers a request for TLS.
    pub(crate) fn see_tls_answer(&mut self, byte: u8) -> Seen {
        if byte != b'N' {
            return Seen::Wrong(format!("SSLRequest was answered {byte:#x} where TLS is off"));
        }
        self.stage = Stage::LoggingIn;
        Seen::Answer(self.startup())
    }

    /// The server it was on is gone: names it gave may or may not exist. Who owns something begins a new session, since
    /// what is left of the old one is anybody's guess.
    pub(crate) fn suffered_loss(&mut self) {
        self.mirror.lose();
        self.epoch += 1;
        self.lost_unnamed = true;
        if self.who.is_owner && !matches!(self.program.front(), None | Some(Step::Leave { .. })) {
            self.program.push_front(Step::Return);
            self.program.push_front(Step::Leave { how: Leave::Terminate, cut: 0 });
        }
    }

    fn startup(&self) -> Vec<u8> {
        let mut params = vec![("user".to_owned(), self.who.user.clone())];
        params.push(("database".to_owned(), self.who.database.clone()));
        params.extend(self.who.params.iter().cloned());
        Opening::Startup { version: self.who.version, params }.encode().encode()
    }

    fn see_login(&mut self, frame: &Frame) -> Seen {
        let mut c = Cursor(&frame.body);
        match frame.kind {
            b'R' => self.prove(&frame.body),
            b'K' => {
                self.key = c.int32().map(|pid| (pid, c.0.to_vec()));
                Seen::Fine
            }
            b'v' if self.who.version > 0x0003_0000 => Seen::Fine,
            b'N' => Seen::Fine,
            b'S' => {
                self.mirror.judge(frame);
                Seen::Fine
            }
            b'E' => Seen::Deviation {
                code: frame.field(b'C').unwrap_or_default(),
                is_fatal: true,
                is_ours: true,
                words: frame.words(),
            },
            b'Z' => self.log_in_done(frame),
            _ => Seen::Wrong(format!("{} came during login", frame.show())),
        }
    }

    /// Answers an authentication request, with core's own other half: it is the message flow that is tested here.
    fn prove(&mut self, request: &[u8]) -> Seen {
        let mut luck = self.luck.clone();
        let (user, secret) = (self.who.user.clone(), Secret::new(&self.who.password));
        let login = self.login.get_or_insert_with(|| {
            let secret = ServerSecret::Plain { password: secret, keys: None };
            let rules = LoginRules { is_cleartext_allowed: true, is_binding_required: false };
            ServerLogin::new(&user, Some(secret), None, rules, &mut |out| luck.fill(out))
        });
        let mut step = login.message(request);
        if let ServerStep::AskSaltedPassword { password, salt, iterations } = &step {
            step = login.salted(&salt_password(password, salt, *iterations));
        }
        self.luck = luck;
        match step {
            ServerStep::Send(bytes) => Seen::Answer(bytes),
            ServerStep::Wait | ServerStep::Ok => Seen::Fine,
            ServerStep::AskSaltedPassword { .. } => Seen::Wrong("a salted password was asked for twice".into()),
            ServerStep::Failed(words) => Seen::Wrong(format!("authentication: {words}")),
        }
    }

    fn log_in_done(&mut self, frame: &Frame) -> Seen {
        self.stage = Stage::Ready;
        if self.who.is_impostor {
            return Seen::Wrong("it got in with a wrong password".into());
        }
        if frame.body != [b'I'] {
            return Seen::Wrong(format!("login ended with {}", frame.show()));
        }
        if self.key.is_none() {
            return Seen::Wrong("login ended without a cancel key".into());
        }
        let view = std::mem::take(&mut self.mirror.view);
        match Mirror::new(&self.who.session_params()) {
            Ok(mirror) => self.mirror = mirror,
            Err(name) => return Seen::Wrong(format!("unknown startup parameter {name}")),
        }
        self.mirror.view = view;
        // A Sync and its answer: the view is checked against what the client asked for.
        self.mirror.sent(Front::Sync);
        match self.mirror.judge(frame) {
            Verdict::Wrong(words) => Seen::Wrong(format!("after login: {words}")),
            _ => Seen::Fine,
        }
    }

    fn come_back(&mut self) -> Vec<Act> {
        match self.program.pop_front() {
            Some(Step::Think(pause)) => vec![Act::Rest(pause)],
            Some(Step::Return) => vec![Act::Connect],
            Some(_) => self.proceed(),
            None => {
                self.stage = Stage::Done;
                vec![Act::Finished]
            }
        }
    }

    fn step(&mut self) -> Vec<Act> {
        if self.is_waiting {
            let is_settled = self.mirror.is_settled();
            if !self.tail.is_empty() && self.mirror.is_copying() {
                let tail = std::mem::take(&mut self.tail);
                self.owes_sync = false;
                return vec![self.write(tail)];
            }
            if !is_settled {
                return vec![];
            }
            self.tail.clear();
            if std::mem::take(&mut self.owes_sync) {
                return vec![self.write(vec![Front::Sync])];
            }
            self.is_waiting = false;
        }
        match self.program.pop_front() {
            None => {
                self.stage = Stage::Done;
                vec![Act::Leave(Leave::Terminate), Act::Finished]
            }
            Some(Step::Think(pause)) => vec![Act::Rest(pause)],
            Some(Step::Return) => self.step(),
            Some(Step::Leave { how, cut }) => {
                let mut partial =
                    Front::Query("insert into marks values ('never sent whole')".into()).encode().encode();
                partial.truncate(cut.min(partial.len() - 1));
                self.stage = Stage::Leaving;
                let goodbye =
                    if how == Leave::Terminate && cut == 0 { Front::Terminate.encode().encode() } else { partial };
                vec![Act::Write(goodbye), Act::Leave(how)]
            }
            Some(Step::Send { needs_unnamed: true, .. }) if self.lost_unnamed => self.step(),
            Some(Step::Send { messages, tail, waits, cancel, .. }) => {
                self.is_waiting = waits || !tail.is_empty();
                self.owes_sync = !tail.is_empty() && messages.last() == Some(&Front::Flush);
                self.tail = tail;
                let mut acts = vec![self.write(messages)];
                acts.extend(cancel.map(Act::Cancel));
                acts
            }
        }
    }

    fn write(&mut self, messages: Vec<Front>) -> Act {
        let mut bytes = Vec::new();
        for mut message in messages {
            self.rename(&mut message);
            if matches!(&message, Front::Query(text) if text.contains("unlisten") || text.contains("discard all")) {
                self.unlistens_from = Some(0);
            }
            bytes.extend(message.encode().encode());
            self.mirror.sent(message);
        }
        Act::Write(bytes)
    }

    /// After a loss, names of before are not used again: whether they exist is anybody's guess.
    fn rename(&self, message: &mut Front) {
        let name = match message {
            Front::Parse { name, .. } => name,
            Front::Bind { statement, .. } => statement,
            Front::Describe { kind: b'S', name } | Front::Close { kind: b'S', name } => name,
            _ => return,
        };
        if self.epoch > 0 && !name.is_empty() {
            name.push_str(&format!(" {}", self.epoch));
        }
    }
}

fn see_notification(frame: &Frame) -> Seen {
    let mut c = Cursor(&frame.body);
    match (c.int32(), c.text(), c.text()) {
        (Some(_), Some(channel), Some(payload)) => Seen::Notified { channel, payload },
        _ => Seen::Wrong(format!("{} can't be read", frame.show())),
    }
}
