//! What a client does, drawn from a grammar.

use crate::client::owner;
use crate::rng::Rng;
use crate::wire::{Front, Tag};

/// A cancel request that accompanies a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CancelPlan {
    /// After the step's first byte was sent.
    pub(crate) after_us: u64,
    /// With a key that nobody was given.
    pub(crate) is_forged: bool,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    Terminate,
    HalfClose,
    Reset,
}

/// One step of a program.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send {
        messages: Vec<Front>,
        /// Sent once the server asks for COPY data.
        tail: Vec<Front>,
        /// The next step follows only after the replies.
        waits: bool,
        cancel: Option<CancelPlan>,
        /// Binds an unnamed statement of an earlier step.
        needs_unnamed: bool,
    },
    Think(u64),
    /// Leaves; `cut`: after that many bytes of a further request.
    Leave {
        how: Leave,
        cut: usize,
    },
    Return,
}

/// What may occur in a program.
#[derive(Clone, Debug)]
pub(crate) struct Tastes {
    pub(crate) client: u32,
    pub(crate) steps: u64,
    /// Transaction blocks may be used.
    pub(crate) has_blocks: bool,
    /// Statements may outlive a transaction.
    pub(crate) has_named: bool,
    /// Uses SET; such a client uses no statement whose meaning depends on the settings at Parse.
    pub(crate) sets: bool,
    pub(crate) cancels: bool,
    pub(crate) leaves: bool,
    /// Rows and padding are kept below this.
    pub(crate) pad_max: u64,
    /// A kind of step that the clients of this run do more often than others, so that it meets itself.
    pub(crate) favourite: Option<u64>,
    /// What it does with its session.
    pub(crate) owning: Owning,
}

/// What a client does with its session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owning {
    /// It sets, makes and holds things there. Such a client waits for every reply, and uses no statement whose meaning
    /// depends on the settings at Parse.
    pub(crate) is_on: bool,
    /// What the owners of this run do more often than others, so that they meet in it.
    pub(crate) topic: u64,
    /// Functions and code that set where no text tells.
    pub(crate) has_unseen: bool,
    /// It seeds random numbers.
    pub(crate) has_seeds: bool,
    /// It resets settings.
    pub(crate) has_resets: bool,
}

/// Kinds of steps in [`Writer::act`].
pub(crate) const KINDS: u64 = 16;

/// What a client that owns things does beyond the others.
const OWNING_STEPS: u64 = 20;

/// Draws a program.
pub(crate) fn draw(rng: &mut Rng, tastes: &Tastes) -> Vec<Step> {
    let mut luck = rng.aside(1);
    let mut owning_luck = rng.aside(2);
    let mut writer = Writer { rng, tastes, steps: Vec::new(), request: 0 };
    let steps = if tastes.owning.is_on { tastes.steps + OWNING_STEPS } else { tastes.steps };
    while (writer.steps.len() as u64) < steps {
        if tastes.owning.is_on && !owning_luck.one_in(4) {
            owner::act(&mut writer, &mut owning_luck);
        } else {
            writer.act();
        }
        if writer.rng.one_in(3) {
            let most = *writer.rng.pick(&[200, 5_000, 100_000]);
            let pause = writer.rng.below(most);
            writer.steps.push(Step::Think(pause));
        }
    }
    let how = *writer.rng.pick(&[Leave::Terminate, Leave::Terminate, Leave::HalfClose, Leave::Reset]);
    writer.steps.push(Step::Leave { how, cut: 0 });
    let mut steps = writer.steps;
    if tastes.cancels {
        add_cancels(&mut luck, &mut steps);
    }
    steps
}

/// Cancels of requests that take next to no time: they reach the server as it answers, or has answered.
fn add_cancels(luck: &mut Rng, steps: &mut [Step]) {
    for step in steps {
        if let Step::Send { cancel: cancel @ None, .. } = step
            && luck.one_in(3)
        {
            let most = *luck.pick(&[300, 3_000, 10_000]);
            *cancel = Some(CancelPlan { after_us: luck.below(most), is_forged: luck.one_in(10) });
        }
    }
}

/// Writes a program, step by step.
pub(crate) struct Writer<'a> {
    rng: &'a mut Rng,
    pub(super) tastes: &'a Tastes,
    pub(super) steps: Vec<Step>,
    request: u32,
}

const ZONES: [&str; 4] = ["UTC", "CET", "Asia/Tokyo", "America/Lima"];
const STYLES: [&str; 3] = ["ISO, MDY", "German, DMY", "SQL, DMY"];

impl Writer<'_> {
    fn act(&mut self) {
        let kind = match self.tastes.favourite {
            Some(favourite) if self.rng.one_in(2) => favourite,
            _ => self.rng.below(KINDS),
        };
        match kind {
            0..=1 => self.simple(),
            2..=3 => self.unnamed(),
            4..=5 if self.tastes.has_named => self.named(),
            6..=7 if self.tastes.has_blocks => self.block(),
            8 => self.pipeline(),
            9 => self.copy(),
            10 => self.settings(),
            11 => self.sleep(),
            12 => self.flush(),
            13 if self.tastes.has_blocks => self.portals(),
            14 if self.tastes.leaves => self.leave(),
            15 => self.odd(),
            _ => self.simple(),
        }
    }

    pub(super) fn tag(&mut self) -> String {
        self.request += 1;
        Tag { client: self.tastes.client, request: self.request }.to_string()
    }

    fn send(&mut self, messages: Vec<Front>) {
        // A pipelining client does not wait between its requests.
        let waits = !self.rng.one_in(5) || self.tastes.owning.is_on;
        self.steps.push(Step::Send { messages, tail: vec![], waits, cancel: None, needs_unnamed: false });
    }

    pub(super) fn query(&mut self, text: String) {
        self.send(vec![Front::Query(text)]);
    }

    /// A statement without parameters that returns by itself.
    fn statement(&mut self) -> String {
        if self.rng.one_in(4) {
            return format!("insert into marks values ('{}')", self.tag());
        }
        self.reading_statement()
    }

    /// One that leaves no mark.
    fn reading_statement(&mut self) -> String {
        let tag = self.tag();
        match self.rng.below(9) {
            0..=4 => {
                let (rows, pad) = (self.rng.below(4), self.rng.below(self.tastes.pad_max));
                format!("select '{tag}' as rows_{rows}_pad_{pad}")
            }
            5 => format!("select '{tag}' as notice"),
            6 => format!("select '{tag}' as fails_22012"),
            7 => format!("show {} /* {tag} */", self.rng.pick(&["TimeZone", "DateStyle", "application_name"])),
            _ => format!("copy (select '{tag}' as rows_{}) to stdout", self.rng.below(4)),
        }
    }

    fn simple(&mut self) {
        let mut text = self.statement();
        while self.rng.one_in(4) {
            text = format!("{text}; {}", self.statement());
        }
        self.query(text);
    }

    fn block(&mut self) {
        let tag = self.tag();
        self.query(format!("begin /* {tag} */"));
        for _ in 0..self.rng.below(4) {
            match self.rng.below(5) {
                0 => self.unnamed(),
                1 if self.tastes.has_named => self.named(),
                2 => self.settings(),
                3 => {
                    let pause = self.rng.below(20_000);
                    self.steps.push(Step::Think(pause));
                }
                _ => self.simple(),
            }
        }
        let tag = self.tag();
        let end = *self.rng.pick(&["commit", "commit", "rollback", "end"]);
        self.query(format!("{end} /* {tag} */"));
    }

    /// Text and parameters of a statement for the extended protocol.
    fn preparable(&mut self) -> (String, Vec<Option<Vec<u8>>>) {
        let tag = self.tag();
        let own = vec![Some(tag.clone().into_bytes())];
        match self.rng.below(10) {
            0..=3 => (format!("select $1 as rows_{}_shared", self.rng.below(3)), own),
            4 => ("insert into marks values ($1)".into(), own),
            5 if !self.tastes.sets && !self.tastes.owning.is_on => ("select $1 as frozen".into(), own),
            6 => ("select $1 as notice".into(), own),
            7 => ("select $1 as fails_22012".into(), own),
            // Run again, it would leave its mark twice: no insert.
            _ => (self.reading_statement(), vec![]),
        }
    }

    fn unnamed(&mut self) {
        let (text, params) = self.preparable();
        let mut messages = vec![
            Front::Parse { name: String::new(), text, oids: if self.rng.one_in(3) { vec![25] } else { vec![] } },
            Front::Bind { portal: String::new(), statement: String::new(), params: params.clone() },
        ];
        if self.rng.one_in(2) {
            messages.push(Front::Describe { kind: b'P', name: String::new() });
        }
        messages.push(Front::Execute { portal: String::new(), rows: 0 });
        messages.push(Front::Sync);
        self.send(messages);
        if self.rng.one_in(4) && self.tastes.has_named {
            let tag = self.tag();
            let params = if params.is_empty() { vec![] } else { vec![Some(tag.into_bytes())] };
            let messages = vec![
                Front::Bind { portal: String::new(), statement: String::new(), params },
                Front::Execute { portal: String::new(), rows: 0 },
                Front::Sync,
            ];
            self.steps.push(Step::Send { messages, tail: vec![], waits: true, cancel: None, needs_unnamed: true });
        }
    }

    /// Named statements with few names, so that they meet again: known, duplicate, closed and unknown.
    fn named(&mut self) {
        let name = (*self.rng.pick(&["s1", "s2", "s3", "a longer name, with 'signs'"])).to_owned();
        let (text, params) = self.preparable();
        let mut messages = Vec::new();
        if self.rng.one_in(3) {
            messages.push(Front::Close { kind: b'S', name: name.clone() });
        }
        if !self.rng.one_in(4) {
            messages.push(Front::Parse { name: name.clone(), text, oids: vec![] });
        }
        if self.rng.one_in(3) {
            messages.push(Front::Describe { kind: b'S', name: name.clone() });
        }
        if self.rng.one_in(4) {
            messages.push(Front::Sync);
        }
        for _ in 0..self.rng.between(0, 2) {
            let tag = self.tag();
            let params = if params.is_empty() { vec![] } else { vec![Some(tag.into_bytes())] };
            messages.push(Front::Bind { portal: String::new(), statement: name.clone(), params });
            if self.rng.one_in(3) {
                messages.push(Front::Describe { kind: b'P', name: String::new() });
            }
            messages.push(Front::Execute { portal: String::new(), rows: 0 });
        }
        messages.push(Front::Sync);
        self.send(messages);
    }

    fn pipeline(&mut self) {
        let mut messages = Vec::new();
        for _ in 0..self.rng.between(2, 5) {
            let (text, params) = self.preparable();
            messages.push(Front::Parse { name: String::new(), text, oids: vec![] });
            messages.push(Front::Bind { portal: String::new(), statement: String::new(), params });
            messages.push(Front::Execute { portal: String::new(), rows: 0 });
            match self.rng.below(6) {
                0..=2 => messages.push(Front::Sync),
                3 => messages.push(Front::Flush),
                4 => {
                    messages.push(Front::Sync);
                    messages.push(Front::Query(self.statement()));
                }
                _ => {}
            }
        }
        messages.push(Front::Sync);
        self.send(messages);
    }

    fn copy(&mut self) {
        let tag = self.tag();
        let is_extended = self.rng.one_in(3);
        let messages = if is_extended {
            let mut messages = vec![
                Front::Parse {
                    name: String::new(),
                    text: format!("copy marks from stdin with (null '{tag}')"),
                    oids: vec![],
                },
                Front::Bind { portal: String::new(), statement: String::new(), params: vec![] },
                Front::Execute { portal: String::new(), rows: 0 },
            ];
            // A Sync sent ahead falls into the copy, where it counts for nothing; Flush makes the server answer.
            messages.push(if self.rng.one_in(2) { Front::Sync } else { Front::Flush });
            messages
        } else {
            vec![Front::Query(format!("copy marks from stdin with (null '{tag}')"))]
        };
        let mut tail: Vec<Front> = (0..self.rng.below(5))
            .map(|i| {
                Front::CopyData(if self.rng.one_in(12) { "bad".into() } else { format!("{tag} {i}\n").into_bytes() })
            })
            .collect();
        tail.push(if self.rng.one_in(5) { Front::CopyFail(tag) } else { Front::CopyDone });
        if is_extended {
            tail.push(Front::Sync);
        }
        self.steps.push(Step::Send { messages, tail, waits: true, cancel: None, needs_unnamed: false });
    }

    fn settings(&mut self) {
        let tag = self.tag();
        let (name, value) = match self.rng.below(3) {
            0 => ("TimeZone", (*self.rng.pick(&ZONES)).to_owned()),
            1 => ("DateStyle", (*self.rng.pick(&STYLES)).to_owned()),
            _ => ("application_name", format!("own name of {}", self.tastes.client)),
        };
        if self.tastes.sets && self.rng.one_in(2) {
            let scope = if self.rng.one_in(4) { "local " } else { "" };
            self.query(format!("set {scope}{name} to '{value}' /* {tag} */"));
        } else {
            let name = *self.rng.pick(&[name, "search_path", "extra_float_digits"]);
            self.query(format!("show {name} /* {tag} */"));
        }
    }

    fn sleep(&mut self) {
        let tag = self.tag();
        let millis = self.rng.between(1, 30);
        let text = format!("select '{tag}' as sleep_{millis}");
        let messages = match self.rng.below(3) {
            0 => vec![Front::Query(text)],
            1 => vec![Front::Query(format!("select '{tag}'; {text}; insert into marks values ('{tag}')"))],
            _ => vec![
                Front::Parse { name: String::new(), text, oids: vec![] },
                Front::Bind { portal: String::new(), statement: String::new(), params: vec![] },
                Front::Execute { portal: String::new(), rows: 0 },
                Front::Sync,
            ],
        };
        let cancel = (self.tastes.cancels && !self.rng.one_in(3)).then(|| {
            // Around the end of the request is where a cancel is dangerous.
            let after_us =
                if self.rng.one_in(2) { self.rng.below(40_000) } else { millis * 1000 + self.rng.below(3_000) };
            CancelPlan { after_us, is_forged: self.rng.one_in(6) }
        });
        self.steps.push(Step::Send { messages, tail: vec![], waits: true, cancel, needs_unnamed: false });
    }

    /// Replies on demand, without a Sync between.
    fn flush(&mut self) {
        let (text, params) = self.preparable();
        let first = vec![
            Front::Parse { name: String::new(), text, oids: vec![] },
            Front::Describe { kind: b'S', name: String::new() },
            Front::Flush,
        ];
        let second = vec![
            Front::Bind { portal: String::new(), statement: String::new(), params },
            Front::Execute { portal: String::new(), rows: 0 },
            Front::Sync,
        ];
        self.steps.push(Step::Send { messages: first, tail: vec![], waits: true, cancel: None, needs_unnamed: false });
        self.send(second);
    }

    /// A portal read in portions, in a block, over several Syncs.
    fn portals(&mut self) {
        let tag = self.tag();
        self.query(format!("begin /* {tag} */"));
        let rows = self.rng.between(1, 6);
        let (text, portal) = (format!("select '{tag}' as rows_{rows}"), format!("p{}", self.rng.below(2)));
        self.send(vec![
            Front::Parse { name: String::new(), text, oids: vec![] },
            Front::Bind { portal: portal.clone(), statement: String::new(), params: vec![] },
            Front::Execute { portal: portal.clone(), rows: 2 },
            Front::Sync,
        ]);
        for _ in 0..self.rng.below(4) {
            let rows = self.rng.below(3) as i32;
            self.send(vec![Front::Execute { portal: portal.clone(), rows }, Front::Sync]);
        }
        if self.rng.one_in(2) {
            self.send(vec![Front::Close { kind: b'P', name: portal }, Front::Sync]);
        }
        self.query(format!("commit /* {tag} */"));
    }

    pub(super) fn leave(&mut self) {
        let how = *self.rng.pick(&[Leave::Terminate, Leave::HalfClose, Leave::Reset]);
        let cut = if self.rng.one_in(2) { self.rng.below(40) as usize } else { 0 };
        self.steps.push(Step::Leave { how, cut });
        let pause = self.rng.below(50_000);
        self.steps.push(Step::Think(pause));
        self.steps.push(Step::Return);
    }

    /// What drivers rarely do.
    fn odd(&mut self) {
        let tag = self.tag();
        match self.rng.below(8) {
            0 => self.query(String::new()),
            1 => self.send(vec![Front::Function { argument: tag.into_bytes() }]),
            2 => self.send(vec![Front::Sync, Front::Sync]),
            3 => self.query(format!("nonsense {tag}")),
            4 => self.send(vec![Front::Describe { kind: b'P', name: "nobody".into() }, Front::Sync]),
            5 => self.send(vec![
                Front::Parse { name: String::new(), text: format!("select '{tag}'; select '{tag}'"), oids: vec![] },
                Front::Sync,
            ]),
            6 => self.send(vec![Front::Flush, Front::Sync]),
            _ => self.send(vec![
                Front::Bind { portal: String::new(), statement: "nobody".into(), params: vec![] },
                Front::Execute { portal: String::new(), rows: 0 },
                Front::Sync,
            ]),
        }
    }
}
