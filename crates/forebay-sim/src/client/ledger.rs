//! What a client of a cluster does: it writes marks in a ledger, and reads which of its own are there.
//!
//! | step | by its text | does |
//! |---|---|---|
//! | `insert into marks values ('c1-r1')` | writes | leaves a mark |
//! | `select hidden('c1-r1')` | reads, by the catalogue | leaves one all the same, as a function that has changed since |
//! | `select 'c1-r1' as ledger` | reads | tells which marks of client 1 are there |
//! | `select 'c1-r1' as conflicts` | reads | fails with 40001 on a replica |
//! | `set transaction read only` | in a block | refuses marks from then on |

use crate::client::program::{Leave, Step};
use crate::rng::Rng;
use crate::server::language::HIDDEN;
use crate::wire::{Front, Tag};

/// What may occur in a client's program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) client: u32,
    pub(crate) steps: u64,
    /// It leaves marks.
    pub(crate) writes: bool,
    /// Transaction blocks may be used.
    pub(crate) has_blocks: bool,
    /// Some of its texts ask for a replica, or for the primary.
    pub(crate) asks: bool,
    /// It rests for so long between two steps at most, in microseconds.
    pub(crate) rest_max: u64,
}

/// The comments by which a text asks where it is to run.
pub(crate) const FOR_REPLICA: &str = "/* forebay: role=replica */ ";
const FOR_PRIMARY: &str = "/* forebay: role=primary */ ";

struct Writer<'a> {
    rng: &'a mut Rng,
    luck: Rng,
    habits: Habits,
    steps: Vec<Step>,
    request: u32,
}

/// Draws a program.
pub(crate) fn draw(rng: &mut Rng, habits: Habits) -> Vec<Step> {
    let luck = rng.aside(1);
    let mut writer = Writer { rng, luck, habits, steps: Vec::new(), request: 0 };
    for _ in 0..habits.steps {
        writer.act();
        let pause = writer.rng.below(habits.rest_max);
        writer.steps.push(Step::Think(pause));
    }
    writer.steps.push(Step::Leave { how: Leave::Terminate, cut: 0 });
    writer.steps
}

/// Most marks are left in blocks, and most COMMITs become such as are looked for: alone, and without a tag.
pub(crate) fn commit_alone(program: &mut Vec<Step>, luck: &mut Rng) {
    let send = |text: String, waits| {
        let messages = vec![Front::Query(text)];
        Step::Send { messages, tail: vec![], waits, cancel: None, needs_unnamed: false }
    };
    let mut is_in_block = false;
    for step in std::mem::take(program) {
        let text = match &step {
            Step::Send { messages, .. } => match &messages[..] {
                [Front::Query(text)] => text.clone(),
                _ => String::new(),
            },
            _ => String::new(),
        };
        is_in_block = text.starts_with("begin")
            || (is_in_block && !["commit", "rollback"].iter().any(|end| text.starts_with(end)));
        let mark = Tag::first_in(text.as_bytes()).filter(|_| text.starts_with("insert") && !is_in_block);
        if let Some(mark) = mark.filter(|_| !luck.one_in(4)) {
            program.extend([send(format!("begin /* {mark} */"), true), send(text, true)]);
            if luck.one_in(3) {
                program.push(Step::Think(luck.below(50_000)));
            }
            program.push(send(format!("commit /* {mark} */"), !luck.one_in(6)));
        } else {
            program.push(step);
        }
    }
    for (number, step) in program.iter_mut().enumerate() {
        if let Step::Send { messages, .. } = step
            && matches!(&messages[..], [Front::Query(text)] if text.starts_with("commit "))
        {
            commit_in_other_words(messages, number, luck);
        }
    }
}

/// Some are sent by the extended protocol, and a few stay what is not looked for.
fn commit_in_other_words(messages: &mut Vec<Front>, number: usize, luck: &mut Rng) {
    let extended = |name: &str| {
        let bind = Front::Bind { portal: String::new(), statement: name.into(), params: vec![] };
        let execute = Front::Execute { portal: String::new(), rows: 0 };
        vec![Front::Parse { name: name.into(), text: "commit".into(), oids: vec![] }, bind, execute, Front::Sync]
    };
    match luck.below(8) {
        0 => {}
        1 => *messages = vec![Front::Query("commit;".into())],
        2 => *messages = extended(""),
        3 => *messages = extended(&format!("end_{number}")),
        _ => *messages = vec![Front::Query("commit".into())],
    }
}

impl Writer<'_> {
    fn act(&mut self) {
        match self.rng.below(12) {
            0..=2 if self.habits.writes => {
                let text = self.marking();
                self.query(text);
            }
            3 if self.habits.writes => self.extended("insert into marks values ($1)", ""),
            4 if self.habits.writes => self.extended("insert into marks values ($1)", "mark"),
            5..=6 if self.habits.has_blocks => self.block(),
            7 => self.extended("select $1 as ledger", ""),
            8 => self.extended("select $1 as ledger", "seen"),
            9 => {
                let millis = self.rng.between(1, 60);
                let text = format!("select '{}' as sleep_{millis}", self.tag());
                self.query(text);
            }
            10 => {
                let text = format!("select '{}' as conflicts", self.tag());
                self.query(text);
            }
            _ => self.look(),
        }
    }

    fn tag(&mut self) -> String {
        self.request += 1;
        Tag { client: self.habits.client, request: self.request }.to_string()
    }

    fn send(&mut self, messages: Vec<Front>) {
        let waits = !self.rng.one_in(6);
        self.steps.push(Step::Send { messages, tail: vec![], waits, cancel: None, needs_unnamed: false });
    }

    fn query(&mut self, text: String) {
        self.send(vec![Front::Query(text)]);
    }

    fn marking(&mut self) -> String {
        let tag = self.tag();
        if self.rng.one_in(3) {
            return format!("select {HIDDEN}('{tag}')");
        }
        format!("insert into marks values ('{tag}')")
    }

    /// Reads the ledger.
    fn look(&mut self) {
        let asked = if self.habits.asks { *self.rng.pick(&[FOR_REPLICA, FOR_PRIMARY, "", ""]) } else { "" };
        let text = format!("{asked}select '{}' as ledger", self.tag());
        self.query(text);
    }

    /// One statement with a parameter, named or not.
    fn extended(&mut self, text: &str, name: &str) {
        let tag = self.tag();
        let mut messages = Vec::new();
        let name = if name.is_empty() { String::new() } else { format!("{name}_{tag}") };
        messages.push(Front::Parse { name: name.clone(), text: text.into(), oids: vec![] });
        let params = vec![Some(tag.into_bytes())];
        messages.push(Front::Bind { portal: String::new(), statement: name.clone(), params });
        messages.push(Front::Execute { portal: String::new(), rows: 0 });
        messages.push(Front::Sync);
        self.send(messages);
        if !name.is_empty() && self.rng.one_in(2) {
            let params = vec![Some(self.tag().into_bytes())];
            let messages = vec![
                Front::Bind { portal: String::new(), statement: name, params },
                Front::Execute { portal: String::new(), rows: 0 },
                Front::Sync,
            ];
            self.send(messages);
        }
    }

    fn block(&mut self) {
        let tag = self.tag();
        let only_reads = !self.habits.writes || self.rng.one_in(3);
        let (is_set, is_reset, is_sealed) = (self.luck.one_in(3), self.luck.one_in(4), self.luck.one_in(3));
        self.query(format!("begin {}/* {tag} */", if only_reads && !is_set { "read only " } else { "" }));
        if only_reads && is_set || is_reset && !only_reads {
            self.set("only");
        }
        if is_reset && !only_reads {
            self.set("write");
        }
        let mut reads = only_reads;
        for _ in 0..self.rng.between(1, 3) {
            let looks = only_reads || self.rng.one_in(3);
            if reads || looks {
                let text = format!("select '{}' as ledger", self.tag());
                self.query(text);
            } else {
                let text = format!("insert into marks values ('{}')", self.tag());
                self.query(text);
            }
            if self.rng.one_in(3) {
                let pause = self.rng.below(self.habits.rest_max);
                self.steps.push(Step::Think(pause));
            }
            if is_sealed && !reads {
                // What was written before stays.
                self.set("only");
                reads = true;
            }
        }
        let tag = self.tag();
        let end = *self.rng.pick(&["commit", "commit", "commit", "rollback"]);
        self.query(format!("{end} /* {tag} */"));
    }

    fn set(&mut self, mode: &str) {
        let text = format!("set transaction read {mode} /* {} */", self.tag());
        let messages = vec![Front::Query(text)];
        self.steps.push(Step::Send { messages, tail: vec![], waits: true, cancel: None, needs_unnamed: false });
    }
}
